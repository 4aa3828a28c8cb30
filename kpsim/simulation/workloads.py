"""Workloads on the clock: each has as many pods as wanted, replaced and rolled out as its controller does it.

Counterpart: the deployment, StatefulSet and DaemonSet controllers and the scheduler. ``rollout``, ``statefulset``,
``daemonset`` and ``placement`` make the decisions.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice

from kpsim.addresses import Family, Network, format_ip, parse_ip, parse_network
from kpsim.nodes import outside_networks
from kpsim.objects import LABEL_HOSTNAME, LABEL_ZONE, ObjectKey
from kpsim.scenario.node_schema import PodIpAllocation
from kpsim.scenario.nodes import ClusterNode, cluster_nodes
from kpsim.scenario.schema import ScenarioSpec
from kpsim.scenario.workload_schema import Kind, PodManagement, StartPod, Workload
from kpsim.simulation.apiserver import ApiServer
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.daemonset import Daemon, next_daemon_step
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.manifest import NO_SKEWS
from kpsim.simulation.placement import Placer
from kpsim.simulation.podlife import PodLife
from kpsim.simulation.pods import Kubelets
from kpsim.simulation.rollout import Strategy, next_step, resolve_share
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog
from kpsim.simulation.statefulset import Replica, next_set_step

_MOST_PODS = 1 << 16  #: addresses tried before a node counts as full

#: why no new pod is placed on a node, but for taints and missing Nodes; a DaemonSet's pods tolerate these
CORDON, DOWN, SHUTDOWN = "cordon", "down", "shutting down"


@dataclass(slots=True, eq=False)
class _Deployment:
    workload: Workload
    replicas: int
    placer: Placer
    max_surge: int | str = 0
    max_unavailable: int | str = 0
    revision: int = 1
    made: int = 0  #: pods ever created
    partition: int = 0  #: of a StatefulSet: pods with a lower ordinal stay at ``stable``
    stable: int = 1  #: the revision before the last rollout
    recreate: bool = False  #: the last rollout deletes all old pods before it makes new ones
    gone: bool = False  #: its namespace terminates: nobody makes pods any more


class _Pool:
    """Addresses of one pod network, without the network's own, the bridge's and the last (broadcast)."""

    def __init__(self, network: Network, allocation: PodIpAllocation) -> None:
        self._network = network
        self._lowest_first = allocation is PodIpAllocation.LOWEST_FREE
        self._size = (1 << (network.family.bits - network.prefix)) - 3
        self._numbers = count()

    def take(self, taken: Container[str]) -> str | None:
        """Return the next address that no pod holds, or None if all are held."""
        numbers = count() if self._lowest_first else self._numbers
        for number in islice(numbers, min(self._size, _MOST_PODS)):
            ip = format_ip(self._network.family, self._network.base + 2 + number % self._size)
            if ip not in taken:
                return ip
        return None


class Workloads:
    """All workloads and their pods."""

    def __init__(
        self,
        clock: Clock,
        api: ApiServer,
        spec: ScenarioSpec,
        seed: int,
        log: RunLog,
        skews: Mapping[str, int] = NO_SKEWS,
    ) -> None:
        """``skews`` are those of the nodes' clocks."""
        self._clock = clock
        self._api = api
        self._seed = seed
        self._log = log
        self._delays = spec.delays
        self._waiting: list[PodLife] = []  #: pods that found no node
        self._ending: list[
            tuple[list[PodLife], Callable[[], None]]
        ] = []  #: shutdowns: pods, and what follows their end
        self._scheduled: Counter[ObjectKey] = Counter()
        self._acts: Counter[str] = Counter()  #: of each workload's controller, so that each has a number
        nodes = cluster_nodes(spec.nodes)
        self._node_ips = {node.name: node.ips for node in nodes}
        self._barred: dict[str, set[str]] = {}  #: why no new pod is placed on a node, by node
        how = spec.nodes.pod_ip_allocation
        self._pools = {
            n.name: [_Pool(cidr, how) for cidr in filter(None, map(parse_network, n.pod_cidrs))] for n in nodes
        }
        self._deployments = {w.name: _Deployment(w, w.replicas, Placer(w.placement, nodes)) for w in spec.workloads}
        self.kubelets = Kubelets(clock, api, spec.delays, seed, log, self._pod_changed, skews)

    # --------------------------------------------------------------------------------------------------------- reading

    def answering(self, workload: str) -> Sequence[PodLife]:
        """Return the pods of a workload whose application runs, in the order of creation."""
        return self.kubelets.answering(workload)

    def pod(self, name: str) -> PodLife | None:
        """Return the pod ``namespace/name``, or None if the API server does not know it."""
        namespace, _, pod = name.partition("/")
        return self.kubelets.pods.get(ObjectKey("Pod", namespace, pod))

    def replicas(self, workload: str) -> int:
        """Return how many pods the workload is to have."""
        return self._deployments[workload].replicas

    def at_ip(self, ip: str) -> list[PodLife]:
        """Return the pods that have this address now."""
        return self.kubelets.by_ip.get(ip, [])

    def version(self) -> int:
        """Return a number that is another after every change of which pods answer, and at which addresses."""
        return self.kubelets.version

    # ---------------------------------------------------------------------------------------------------------- acting

    def adopt_all(self) -> None:
        """Make every workload's pods. They have been ready since before the run, but for those that the file says are not.

        Pods whose addresses the file gives come first, so that no other pod gets them.
        """
        given = [(each, pod) for each in self._deployments.values() for pod in each.workload.pods]
        for deployment, start in sorted(given, key=lambda each: not each[1].ips):
            pod = self._given_pod(deployment, start)
            if pod is not None:
                self.kubelets.adopt(pod, ready=start.ready)
        for deployment in self._deployments.values():
            if deployment.workload.kind is Kind.DAEMON_SET:
                held = {pod.node for pod in deployment.workload.pods}
                for node in self._daemon_nodes(deployment):
                    made = self._new_pod(deployment, target=node) if node not in held else None
                    if made is not None:
                        self.kubelets.adopt(made)
                continue
            ordered = deployment.workload.kind is Kind.STATEFUL_SET
            given_ordinals = {deployment.workload.ordinal_of(pod.name) for pod in deployment.workload.pods}
            missing = [number for number in range(deployment.replicas) if number not in given_ordinals]
            for number in missing[: deployment.replicas - len(deployment.workload.pods)]:
                pod = self._new_pod(deployment, number if ordered else None)
                if pod is not None:
                    self.kubelets.adopt(pod)

    def roll_out(
        self,
        name: str,
        max_surge: int | str,
        max_unavailable: int | str,
        partition: int = 0,
        *,
        recreate: bool = False,
    ) -> None:
        """Replace all pods by pods of a new revision; of a StatefulSet those from the ordinal ``partition`` on.

        ``recreate`` deletes all old pods first, and waits until their objects are gone.
        """
        deployment = self._deployments[name]
        deployment.stable, deployment.revision = deployment.revision, deployment.revision + 1
        deployment.max_surge, deployment.max_unavailable = max_surge, max_unavailable
        deployment.partition = partition
        deployment.recreate = recreate
        self._act(deployment)

    def scale(self, name: str, replicas: int) -> None:
        deployment = self._deployments[name]
        deployment.replicas = replicas
        self._act(deployment)

    def is_gone(self, name: str) -> bool:
        """Return whether the workload went with its namespace."""
        return self._deployments[name].gone

    def remove_namespace(self, namespace: str) -> None:
        """Delete all workloads and pods of a namespace. Running pods get their grace."""
        for deployment in self._deployments.values():
            if deployment.workload.namespace == namespace:
                deployment.gone = True
                for pod in self.kubelets.of_workload(deployment.workload.name):
                    if not pod.terminating:
                        self.kubelets.delete(pod)

    def choose(self, name: str, number: int, nodes: Sequence[str], *, refusing: bool | None = None) -> list[PodLife]:
        """Return the first pods of a workload that run and are not terminating.

        ``nodes`` are the nodes to choose from; if there are none, pods of any node are chosen. With ``refusing`` only
        pods whose readiness probe fails by an event, or only those whose probe does not.
        """
        pods = [
            pod
            for pod in self.answering(name)
            if not pod.terminating
            and (not nodes or pod.node in nodes)
            and (refusing is None or pod.refuses is refusing)
        ]
        return pods[:number]

    def node_down(self, node: str) -> None:
        """Switch a node off: its pods answer no more, the API server is not told, and no new pod is placed there."""
        self.bar(node, DOWN)
        for pod in self.kubelets.on_node(node):
            self.kubelets.lose_power(pod)

    def node_lost(self, node: str, since_ns: int, *, kubelet_runs: bool = False) -> None:
        """Declare the node's pods not ready, because the node has been silent too long (CP-2.9).

        If its kubelet runs nevertheless, the kubelet keeps its own opinion.
        """
        for pod in self.kubelets.on_node(node):
            self.kubelets.declare_unready(pod, since_ns, kubelet_runs=kubelet_runs)

    def node_heard(self, node: str) -> None:
        """Let the node's kubelet say again what it thinks of its pods, where the API server has it otherwise (CP-2.7)."""
        for pod in self.kubelets.on_node(node):
            self.kubelets.reconcile(pod)

    def node_up(self, node: str) -> None:
        """Start the node's pods again."""
        for pod in self.kubelets.on_node(node):
            self.kubelets.power_on(pod)
        self.unbar(node, DOWN)

    def bar(self, node: str, why: str) -> None:
        """Place no new pod on the node, until :meth:`unbar` has been called for each reason."""
        self._barred.setdefault(node, set()).add(why)

    def unbar(self, node: str, why: str) -> None:
        """Take back one reason. Pods that found no node may find one now."""
        self._barred.get(node, set()).discard(why)
        waiting, self._waiting = self._waiting, []
        for pod in waiting:
            self._schedule(pod)
        for deployment in self._deployments.values():
            self._reconcile(deployment)

    def evict(self, node: str, *, unreachable: bool) -> int:
        """Delete all pods of the node that are not terminating yet. Returns how many there were.

        Pods of a DaemonSet tolerate that a node is ``unreachable``, and stay.
        """
        pods = [
            pod
            for pod in self.kubelets.on_node(node)
            if not pod.terminating and not (unreachable and pod.workload.kind is Kind.DAEMON_SET)
        ]
        for pod in pods:
            self.kubelets.delete(pod)
        return len(pods)

    def collect(self, node: str) -> int:
        """Delete the Pod objects of a Node that is gone, at once. Returns how many there were."""
        pods = list(self.kubelets.on_node(node))
        for pod in pods:
            self.kubelets.delete(pod, force=True)
        return len(pods)

    def shut_down(self, node: str, grace_ns: int, done: Callable[[], None]) -> None:
        """End the node's pods because the machine shuts down. ``done`` is called when all have ended."""
        pods = self.kubelets.on_node(node)
        self._ending.append((pods, done))
        for pod in pods:
            self.kubelets.shut_down(pod, grace_ns)
        self._look_at_ends()

    def _look_at_ends(self) -> None:
        known = self.kubelets.pods
        for entry in list(self._ending):
            pods, done = entry
            if all(pod.failed or known.get(pod.key) is not pod for pod in pods):
                self._ending.remove(entry)
                done()

    def _pod_changed(self, pod: PodLife) -> None:
        self._act(self._deployments[pod.workload.name])
        if pod.failed or pod.key not in self.kubelets.pods:
            self._make_room(pod.workload)
        if self._ending:
            self._look_at_ends()

    def _make_room(self, holder: Workload) -> None:
        """Let pods have a node, now that a pod of ``holder`` has gone: those that need its host ports, and siblings that it kept away."""
        held_ports, placement = bool(holder.host_ports), holder.placement
        if not (held_ports or placement.anti_affinity or placement.topology_spread):
            return
        waiting, self._waiting = self._waiting, []
        for pod in waiting:
            if pod.workload is holder or pod.workload.shares_host_ports(holder):
                self._schedule(pod)
            else:
                self._waiting.append(pod)
        if not held_ports:
            return
        for other in self._deployments.values():
            if other.workload is not holder and other.workload.shares_host_ports(holder):
                self._act(other)

    def _act(self, deployment: _Deployment) -> None:
        """Let the workload's controller act, at once or after its delay."""
        name = deployment.workload.name
        self._acts[name] += 1
        delay_ns = draw_ns(self._delays.workload_controller, self._seed, "workload controller", name, self._acts[name])
        at_ns = self._api.faults.seen_ns(self._clock.now_ns + delay_ns, "workload controllers")
        if at_ns > self._clock.now_ns:
            self._clock.at(at_ns, Rank.CONTROLLER, f"workload {name}", lambda: self._reconcile(deployment))
        else:
            self._reconcile(deployment)

    def _reconcile(self, deployment: _Deployment) -> None:
        """Take the next step of the workload. It changes pods, and each change calls this method again."""
        if deployment.gone:
            return
        if deployment.workload.kind is Kind.STATEFUL_SET:
            self._reconcile_set(deployment)
            return
        if deployment.workload.kind is Kind.DAEMON_SET:
            self._reconcile_daemons(deployment)
            return
        if deployment.recreate and self._end_old_pods(deployment):
            return
        workload = deployment.workload
        fleet = self.kubelets.fleet(workload.name)
        # percentages are of the number wanted now: a rollout goes on while its workload is scaled
        strategy = Strategy.of(deployment.max_surge, deployment.max_unavailable, deployment.replicas)
        step = next_step(fleet, deployment.replicas, deployment.revision, strategy)
        for victim in step.delete:
            self.kubelets.delete(self.kubelets.pods[ObjectKey("Pod", workload.namespace, victim)])
        for _ in range(step.create):
            self._create(deployment)

    def _end_old_pods(self, deployment: _Deployment) -> bool:
        """Delete the pods of older revisions. Returns whether some are still there, be they terminating."""
        pods = self.kubelets.of_workload(deployment.workload.name)
        old = [pod for pod in pods if pod.revision != deployment.revision and not pod.failed]
        for pod in old:
            if not pod.terminating:
                self.kubelets.delete(pod)
        return bool(old)

    def _reconcile_set(self, deployment: _Deployment) -> None:
        workload = deployment.workload
        pods = {pod.ordinal: pod for pod in self.kubelets.of_workload(workload.name) if pod.ordinal is not None}
        for pod in pods.values():
            if pod.failed and not pod.terminating:
                self.kubelets.delete(pod)  # its name is needed
        unavailable = deployment.max_unavailable
        step = next_set_step(
            {ordinal: self._replica(pod) for ordinal, pod in pods.items()},
            deployment.replicas,
            deployment.revision,
            ordered=workload.pod_management_policy is not PodManagement.PARALLEL,
            unavailable=max(1, resolve_share(unavailable, deployment.replicas, round_up=False)),
            partition=deployment.partition,
        )
        for victim in step.delete:
            self.kubelets.delete(self.kubelets.pods[ObjectKey("Pod", workload.namespace, victim)])
        for ordinal in step.create:
            self._create(deployment, ordinal)

    def _replica(self, pod: PodLife) -> Replica:
        waits = pod.available_ns is None or self._clock.now_ns < pod.available_ns
        gone = pod.terminating or pod.failed
        return Replica(pod.name, pod.revision, pod.told.ready and not waits, gone)

    def _reconcile_daemons(self, deployment: _Deployment) -> None:
        workload = deployment.workload
        for pod in self.kubelets.of_workload(workload.name):
            if pod.failed and not pod.terminating:
                self.kubelets.delete(pod)  # its node is needed
        # a node that is off, or that is cordoned, is to have its pod all the same: the controller adds the tolerations
        nodes = self._daemon_nodes(deployment, tolerated=(CORDON, DOWN, SHUTDOWN))
        step = next_daemon_step(
            map(self._daemon, self.kubelets.of_workload(workload.name)),
            nodes,
            deployment.revision,
            surge=resolve_share(deployment.max_surge, len(nodes), round_up=True),
            unavailable=resolve_share(deployment.max_unavailable, len(nodes), round_up=True),
            closed=set(nodes).difference(self._daemon_nodes(deployment)),
        )
        for victim in step.delete:
            self.kubelets.delete(self.kubelets.pods[ObjectKey("Pod", workload.namespace, victim)])
        for node in step.create:
            self._create(deployment, target=node)

    def _daemon(self, pod: PodLife) -> Daemon:
        waits = pod.available_ns is None or self._clock.now_ns < pod.available_ns
        available = pod.told.ready and not waits
        return Daemon(pod.name, pod.node or pod.target, pod.revision, pod.number, available, pod.terminating)

    def _daemon_nodes(self, deployment: _Deployment, tolerated: Container[str] = (CORDON,)) -> list[str]:
        """Return the nodes that a DaemonSet's placement allows, without those that are barred for another reason."""
        return [
            node for node in deployment.placer.allowed if all(why in tolerated for why in self._barred.get(node, ()))
        ]

    def _create(self, deployment: _Deployment, ordinal: int | None = None, target: str = "") -> None:
        """Create a pod. With a delay of the scheduler it has no node at first."""
        delay = self._delays.scheduler
        if delay.constant_ns == 0:
            made = self._new_pod(deployment, ordinal, target)
            if made is not None:
                self.kubelets.create(made)
            return
        pod = self._named(deployment, ordinal, "", (), target)
        self.kubelets.create(pod)
        self._schedule(pod)

    def _schedule(self, pod: PodLife) -> None:
        """Find a node for a pod after the scheduler's delay. If there is none, it waits until one is free again."""
        self._scheduled[pod.key] += 1
        drawn_ns = draw_ns(self._delays.scheduler, self._seed, "scheduler", *pod.key, self._scheduled[pod.key])

        def bind() -> None:
            if pod.terminating:
                return
            found = self._find_node(self._deployments[pod.workload.name], pod.target)
            if found is None:
                self._waiting.append(pod)
            else:
                self.kubelets.bind(pod, *found)

        at_ns = self._api.faults.seen_ns(max(self._clock.now_ns, pod.created_ns) + drawn_ns, "scheduler")
        self._clock.at(at_ns, Rank.CONTROLLER, f"workload {pod.workload.name}", bind)

    def _take(self, node: str) -> tuple[str, ...] | None:
        """Return an address of each family for a pod, or None if the node has no more."""
        taken = [pool.take(self.kubelets.by_ip) for pool in self._pools[node]]
        found = tuple(ip for ip in taken if ip is not None)
        return found if len(found) == len(taken) else None

    def _new_pod(self, deployment: _Deployment, ordinal: int | None = None, target: str = "") -> PodLife | None:
        """Return a new pod on a node, or None if there is no node for it."""
        found = self._find_node(deployment, target)
        return None if found is None else self._named(deployment, ordinal, *found, target)

    def _find_node(self, deployment: _Deployment, target: str = "") -> tuple[str, tuple[str, ...]] | None:
        """Return a node for one more pod, and the pod's addresses there. A pod of a DaemonSet fits on its ``target`` only."""
        workload = deployment.workload
        taken = self.kubelets.fleet(workload.name).on_node
        unfit = {name for name, reasons in self._barred.items() if reasons}
        if target:
            unfit = set(deployment.placer.allowed).difference({target} & set(self._daemon_nodes(deployment)))
        full = self._nodes_without_ports(workload)
        zones = None
        if workload.placement.topology_spread or workload.placement.anti_affinity:
            zones = {node.metadata.name: node.zone for node in self._api.state.nodes}
        repelled = self._repelling_nodes(workload, zones or {})
        unfit |= full | repelled
        while True:
            node = deployment.placer.place(taken, unfit, zones)
            if node is None:
                held = full.intersection([target] if target else deployment.placer.allowed)
                why = f"host ports are taken on {', '.join(sorted(held))}" if held else ""
                if repelled and not held:
                    why = f"podAntiAffinity keeps it from {', '.join(sorted(repelled))}"
                self._unschedulable(workload, why)
                return None
            ips = self._node_ips[node] if workload.host_network else self._take(node)
            if ips is not None:
                return node, ips
            unfit.add(node)

    def _nodes_without_ports(self, workload: Workload) -> set[str]:
        """Return the nodes where a pod holds a host port of the workload's, be it terminating."""
        if not workload.host_ports:
            return set()
        rivals = [d.workload.name for d in self._deployments.values() if d.workload.shares_host_ports(workload)]
        pods = (pod for name in rivals for pod in self.kubelets.of_workload(name))
        return {pod.node for pod in pods if pod.node and not pod.failed}

    def _repelling_nodes(self, workload: Workload, zones: Mapping[str, str | None]) -> set[str]:
        """Return the nodes that the workload's podAntiAffinity keeps new pods from, because a pod is there or in their zone."""
        keys = workload.placement.anti_affinity
        if not keys:
            return set()
        held = {pod.node for pod in self.kubelets.of_workload(workload.name) if pod.node and not pod.failed}
        found = set(held) if LABEL_HOSTNAME in keys else set()
        if LABEL_ZONE in keys:
            taken = {zones.get(node) for node in held} - {None}
            found |= {node for node, zone in zones.items() if zone in taken}
        return found

    def _named(
        self, deployment: _Deployment, ordinal: int | None, node: str, ips: tuple[str, ...], target: str = ""
    ) -> PodLife:
        """Make a pod. Pods of a Deployment or DaemonSet are numbered from 1, those of a StatefulSet have ordinals."""
        deployment.made += 1
        number, workload = deployment.made, deployment.workload
        name = f"{workload.name}-{number if ordinal is None else ordinal}"
        while ordinal is None and ObjectKey("Pod", workload.namespace, name) in self.kubelets.pods:
            deployment.made = number = number + 1  # the file gives a pod this name
            name = f"{workload.name}-{number}"
        old = ordinal is not None and ordinal < deployment.partition
        revision = deployment.stable if old else deployment.revision
        return PodLife(workload, name, node, ips, number, revision, ordinal, target)

    def _given_pod(self, deployment: _Deployment, start: StartPod) -> PodLife | None:
        """Make a pod that the file names. None if its node has no more addresses."""
        workload = deployment.workload
        ips: tuple[str, ...] | None = start.ips or self._node_ips[start.node]
        if not start.ips and not workload.host_network:
            ips = self._take(start.node)
        if ips is None:
            self._unschedulable(workload)
            return None
        deployment.made += 1
        ordinal = workload.ordinal_of(start.name)
        return PodLife(workload, start.name, start.node, ips, deployment.made, deployment.revision, ordinal)

    def _unschedulable(self, workload: Workload, why: str = "") -> None:
        subject = f"{workload.namespace}/{workload.name}"
        self._log.happenings.append(Happening(self._clock.now_ns, HappeningKind.POD_UNSCHEDULABLE, subject, why))


def stray_pods(workloads: Iterable[Workload], nodes: Iterable[ClusterNode]) -> dict[str, list[tuple[Family, int]]]:
    """Return by node the addresses of pods that the file puts outside the node's pod CIDRs."""
    networks = {node.name: [n for n in map(parse_network, node.pod_cidrs) if n is not None] for node in nodes}
    found: dict[str, list[tuple[Family, int]]] = {}
    for pod in (pod for workload in workloads for pod in workload.pods):
        own = [address for ip in pod.ips if (address := parse_ip(ip)) is not None]
        if strays := outside_networks(own, networks[pod.node]):
            found.setdefault(pod.node, []).extend(strays)
    return found
