"""Workloads on the clock: each has as many pods as wanted, replaced and rolled out as a Deployment does it.

Counterpart: the deployment controller and the scheduler. ``rollout`` and ``placement`` make the decisions.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import count, islice

from kpsim.addresses import Network, format_ip, parse_network
from kpsim.objects import ObjectKey
from kpsim.scenario.node_schema import PodIpAllocation
from kpsim.scenario.nodes import cluster_nodes
from kpsim.scenario.schema import ScenarioSpec, Workload
from kpsim.simulation.apiserver import ApiServer
from kpsim.simulation.clock import Clock
from kpsim.simulation.placement import Placer
from kpsim.simulation.pods import Kubelets, PodLife
from kpsim.simulation.rollout import Strategy, next_step
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog

_MOST_PODS = 1 << 16  #: addresses tried before a node counts as full


@dataclass(slots=True, eq=False)
class _Deployment:
    workload: Workload
    replicas: int
    placer: Placer
    max_surge: int | str = 0
    max_unavailable: int | str = 0
    revision: int = 1
    made: int = 0  #: pods ever created


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

    def __init__(self, clock: Clock, api: ApiServer, spec: ScenarioSpec, seed: int, log: RunLog) -> None:
        self._clock = clock
        self._log = log
        nodes = cluster_nodes(spec.nodes)
        self._node_ips = {node.name: node.ips for node in nodes}
        self._barred: dict[str, set[str]] = {}  #: why no new pod is placed on a node, by node
        how = spec.nodes.pod_ip_allocation
        self._pools = {
            n.name: [_Pool(cidr, how) for cidr in filter(None, map(parse_network, n.pod_cidrs))] for n in nodes
        }
        self._deployments = {w.name: _Deployment(w, w.replicas, Placer(w.placement, nodes)) for w in spec.workloads}
        self.kubelets = Kubelets(clock, api, spec.delays, seed, log, self._pod_changed)

    # --------------------------------------------------------------------------------------------------------- reading

    def answering(self, workload: str) -> Sequence[PodLife]:
        """Return the pods of a workload whose application runs, in the order of creation."""
        return self.kubelets.answering(workload)

    def at_ip(self, ip: str) -> list[PodLife]:
        """Return the pods that have this address now."""
        return self.kubelets.by_ip.get(ip, [])

    # ---------------------------------------------------------------------------------------------------------- acting

    def adopt_all(self) -> None:
        """Make every workload's pods. They have been ready since before the run."""
        for deployment in self._deployments.values():
            for _ in range(deployment.replicas):
                pod = self._new_pod(deployment)
                if pod is not None:
                    self.kubelets.adopt(pod)

    def roll_out(self, name: str, max_surge: int | str, max_unavailable: int | str) -> None:
        """Replace all pods by pods of a new revision."""
        deployment = self._deployments[name]
        deployment.revision += 1
        deployment.max_surge, deployment.max_unavailable = max_surge, max_unavailable
        self._reconcile(deployment)

    def scale(self, name: str, replicas: int) -> None:
        deployment = self._deployments[name]
        deployment.replicas = replicas
        self._reconcile(deployment)

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
        self.bar(node, "down")
        for pod in self.kubelets.on_node(node):
            self.kubelets.lose_power(pod)

    def node_lost(self, node: str, since_ns: int) -> None:
        """Declare the node's pods not ready, because the node has been silent too long (CP-2.9)."""
        for pod in self.kubelets.on_node(node):
            self.kubelets.declare_unready(pod, since_ns)

    def node_up(self, node: str) -> None:
        """Start the node's pods again."""
        for pod in self.kubelets.on_node(node):
            self.kubelets.power_on(pod)
        self.unbar(node, "down")

    def bar(self, node: str, why: str) -> None:
        """Place no new pod on the node, until :meth:`unbar` has been called for each reason."""
        self._barred.setdefault(node, set()).add(why)

    def unbar(self, node: str, why: str) -> None:
        """Take back one reason. Pods that found no node may find one now."""
        self._barred.get(node, set()).discard(why)
        for deployment in self._deployments.values():
            self._reconcile(deployment)

    def evict(self, node: str) -> int:
        """Delete all pods of the node that are not terminating yet. Returns how many there were."""
        pods = [pod for pod in self.kubelets.on_node(node) if not pod.terminating]
        for pod in pods:
            self.kubelets.delete(pod)
        return len(pods)

    def collect(self, node: str) -> int:
        """Delete the Pod objects of a Node that is gone, at once. Returns how many there were."""
        pods = list(self.kubelets.on_node(node))
        for pod in pods:
            self.kubelets.delete(pod, force=True)
        return len(pods)

    def _pod_changed(self, pod: PodLife) -> None:
        self._reconcile(self._deployments[pod.workload.name])

    def _reconcile(self, deployment: _Deployment) -> None:
        """Take the next step of the workload. It changes pods, and each change calls this method again."""
        workload = deployment.workload
        fleet = self.kubelets.fleet(workload.name)
        # percentages are of the number wanted now: a rollout goes on while its workload is scaled
        strategy = Strategy.of(deployment.max_surge, deployment.max_unavailable, deployment.replicas)
        step = next_step(fleet, deployment.replicas, deployment.revision, strategy)
        for victim in step.delete:
            self.kubelets.delete(self.kubelets.pods[ObjectKey("Pod", workload.namespace, victim)])
        for _ in range(step.create):
            pod = self._new_pod(deployment)
            if pod is not None:
                self.kubelets.create(pod)

    def _take(self, node: str) -> tuple[str, ...] | None:
        """Return an address of each family for a pod, or None if the node has no more."""
        taken = [pool.take(self.kubelets.by_ip) for pool in self._pools[node]]
        found = tuple(ip for ip in taken if ip is not None)
        return found if len(found) == len(taken) else None

    def _new_pod(self, deployment: _Deployment) -> PodLife | None:
        workload = deployment.workload
        taken = self.kubelets.fleet(workload.name).on_node
        unfit = {name for name, reasons in self._barred.items() if reasons}
        ips: tuple[str, ...] | None = None
        node: str | None = None
        while ips is None:
            node = deployment.placer.place(taken, unfit)
            if node is None:
                self._log.happenings.append(
                    Happening(
                        self._clock.now_ns, HappeningKind.POD_UNSCHEDULABLE, f"{workload.namespace}/{workload.name}"
                    )
                )
                return None
            ips = self._node_ips[node] if workload.host_network else self._take(node)
            unfit.add(node)
        assert node is not None
        deployment.made += 1
        name = f"{workload.name}-{deployment.made}"
        return PodLife(workload, name, node, ips, deployment.made, deployment.revision)
