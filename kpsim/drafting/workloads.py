"""Makes the workloads of a draft: pods that are kept by one object and are alike are one workload."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from kpsim.cluster import ClusterState
from kpsim.drafting.controllers import Controller, Controllers
from kpsim.drafting.part import TODO, Ledger, Part, listed
from kpsim.drafting.pods import FoundPod, FoundPods, Labels, Selectors
from kpsim.drafting.podspecs import DEFAULT_GRACE_S, PodSpec, seconds
from kpsim.objects import ContainerPort, Node
from kpsim.units import format_duration


class _Alike(NamedTuple):
    """What pods of one workload have in common."""

    namespace: str
    owner: tuple[str, str]
    labels: Labels
    ports: tuple[ContainerPort, ...]
    host_network: bool


@dataclass(slots=True)
class Group:
    """A workload in the making. ``name`` is unique in the scenario, whatever its namespace."""

    alike: _Alike
    pods: list[FoundPod] = field(default_factory=list)
    controller: Controller | None = None
    name: str = ""
    siblings: int = 1  #: groups of the same owner
    assumed: bool = False  #: its pods are not known, so they are as many as the controller wants

    @property
    def namespace(self) -> str:
        return self.alike.namespace

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.alike.owner[1]}"

    @property
    def replicas(self) -> int:
        if self.assumed and self.controller is not None:
            return 1 if self.controller.replicas is None else self.controller.replicas
        return len(self.pods)

    @property
    def spec(self) -> PodSpec | None:
        """Return the specification of its pods: the template's, else that of the first pod that was given."""
        if self.controller is not None:
            return self.controller.spec
        return next((pod.spec for pod in self.pods if pod.spec is not None), None)


def group_pods(
    found: FoundPods,
    controllers: Controllers,
    selectors: Selectors,
    keep: frozenset[tuple[str, str]],
) -> list[Group]:
    """Return the workloads, sorted by namespace and name.

    A controller without pods is a workload, too, if a Service selects its template.
    """
    groups: dict[_Alike, Group] = {}
    for pod in found.pods:
        owner = pod.owner
        if not owner[0]:
            owner = _controller_like(pod, controllers) or owner
        alike = _Alike(pod.namespace, owner, pod.labels, pod.ports, pod.host_network)
        group = groups.setdefault(alike, Group(alike))
        group.pods.append(pod)
        group.controller = group.controller or controllers.get(owner[0], pod.namespace, owner[1])
    present = {(alike.owner[0], alike.namespace, alike.owner[1]) for alike in groups}
    for controller in controllers.all:
        key = (controller.kind, controller.namespace, controller.name)
        if key in present or controller.kind == "Job":
            continue
        if selectors.selecting(controller.namespace, controller.labels) or key[1:] in keep:
            alike = _Alike(
                controller.namespace,
                (controller.kind, controller.name),
                selectors.relevant(controller.namespace, controller.labels),
                controller.spec.ports,
                controller.spec.host_network,
            )
            groups[alike] = Group(alike, [], controller, assumed=controller.namespace not in found.known)
    ordered = sorted(groups.values(), key=lambda g: (g.namespace, g.alike.owner[1], [p.name for p in g.pods[:1]]))
    _name(ordered)
    return ordered


def _controller_like(pod: FoundPod, controllers: Controllers) -> tuple[str, str] | None:
    """Return the controller whose name begins the pod's name and whose template has its labels; None: there is none."""
    named = [
        each
        for each in controllers.by_namespace.get(pod.namespace, ())
        if pod.name.startswith(f"{each.name}-") and set(pod.labels) <= set(each.labels.items())
    ]
    if not named:
        return None
    best = max(named, key=lambda each: len(each.name))
    return best.kind, best.name


def _name(groups: Sequence[Group]) -> None:
    """Give every group a name of its own: its owner's, with the namespace if two namespaces have it, or a number."""
    owners = Counter((group.namespace, group.alike.owner) for group in groups)
    spaces = Counter(name for name, _ in {(g.alike.owner[1], g.namespace) for g in groups})
    taken: set[str] = set()
    for group in groups:
        own = group.alike.owner[1]
        group.siblings = owners[group.namespace, group.alike.owner]
        if group.siblings > 1 and len(group.pods) == 1:  # members of a StatefulSet that have Services of their own
            own = group.pods[0].name
        base = own if spaces[own] <= 1 else f"{group.namespace}-{own}"
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        group.name = name


# -------------------------------------------------------------------------------------------------------------- writing


def workload_part(group: Group, state: ClusterState, selectors: Selectors, ledger: Ledger) -> Part:
    """Return the workload as a scenario has it, with a comment at each guess."""
    part = Part({"name": group.name})
    part.head = _head(group)
    part.put("namespace", group.namespace)
    part.put("labels", Part(dict(group.alike.labels) or {"kpsim.dev/role": group.name}, flow=True))
    _put_replicas(part, group, ledger)
    _put_placement(part, group, list(state.nodes), ledger)
    _put_ports(part, group, selectors, ledger)
    if group.alike.host_network:
        part.put("hostNetwork", True)
    _put_start(part, group, ledger)
    _put_end(part, group, ledger)
    if group.pods:
        part.put("pods", [_pod_part(pod, group) for pod in group.pods])
    _note_unmodelled(group, ledger)
    return part


def _head(group: Group) -> str:
    kind = group.alike.owner[0]
    if not kind:
        return f"pods of {group.title}; what keeps them was not given"
    words = f"{kind} {group.title}"
    if group.siblings > 1:
        words += f": its pods differ in labels or ports, so they are {group.siblings} workloads"
    elif group.controller is None:
        words += ", which was not given"
    if kind == "Job":
        words += "; a Job does not replace pods that end, a workload does"
    strategy = group.controller.strategy if group.controller is not None else None
    if strategy is not None:
        words += f"; {strategy.words}: maxSurge {strategy.max_surge}, maxUnavailable {strategy.max_unavailable}"
    return words


def _put_replicas(part: Part, group: Group, ledger: Ledger) -> None:
    beside = ""
    wanted = group.controller.replicas if group.controller is not None else None
    if group.assumed:
        if wanted is None:
            beside = "a DaemonSet has one on each node; its Pods were not given"
        else:
            ledger.guess(
                "all replicas run and are ready, as no Pods or EndpointSlices of theirs were given", group.title
            )
    elif wanted is not None and group.siblings == 1 and wanted != len(group.pods):
        beside = f"the {group.alike.owner[0]} wants {wanted}"
        ledger.leave_out(
            f"pods that {'are' if wanted > len(group.pods) else 'were'} wanted, but not there", group.title
        )
    part.put("replicas", group.replicas, beside=beside)


def _put_placement(part: Part, group: Group, nodes: list[Node], ledger: Ledger) -> None:
    """Say where later pods go: all nodes that selectors, affinity and taints allow."""
    spec, every = group.spec, [node.metadata.name for node in nodes]
    own = sorted({pod.node for pod in group.pods})
    if group.alike.owner[0] == "DaemonSet" and own:
        allowed, why = own, "one pod on each of these nodes"
        if own == sorted(every):
            return
    elif spec is not None:
        allowed = [node.metadata.name for node in nodes if spec.may_run_on(node)]
        why = "the nodes that taints, cordons, nodeSelector and affinity leave"
        if not allowed:
            allowed, why = own, "no node takes new pods by its labels and taints; these have some"
    else:
        allowed = [node.metadata.name for node in nodes if PodSpec().may_run_on(node)]
        why = "the nodes without taints and cordons"
        if group.pods:
            ledger.guess("later pods go to any node without taints", group.title)
    if allowed and allowed != every:
        part.put("placement", Part({"nodes": allowed}, flow=True), beside=why)


def _put_ports(part: Part, group: Group, selectors: Selectors, ledger: Ledger) -> None:
    """Give the ports that the pods declare, and those that Services lead to although no pod declares them."""
    ports = {(port.port, port.protocol): port.name for port in group.alike.ports}
    undeclared = {
        (port.target_port, port.protocol)
        for service in selectors.selecting(group.namespace, dict(group.alike.labels))
        for port in service.ports
        if isinstance(port.target_port, int) and port.target_port and (port.target_port, port.protocol) not in ports
    }
    declared = any(pod.spec is not None for pod in group.pods) or group.controller is not None
    beside = ""
    if undeclared and declared:
        numbers = listed(f"{number}/{protocol}" for number, protocol in sorted(undeclared))
        beside = f"no container declares {numbers}; taken to listen there"
        ledger.guess("pods listen on ports that Services lead to and no container declares", group.title)
    for key in sorted(undeclared):
        ports[key] = ""
    made = []
    for (number, protocol), name in ports.items():
        port = Part({"containerPort": number}, flow=True)
        if name:
            port["name"] = name
        if protocol != "TCP":
            port["protocol"] = protocol
        made.append(port)
    if made:
        part.put("ports", made, above=beside)


def _put_start(part: Part, group: Group, ledger: Ledger) -> None:
    spec = group.spec
    probe = spec.readiness if spec is not None else None
    took = [pod.start_s for pod in group.pods if pod.start_s is not None]
    period = probe.period_s if probe is not None else 0
    if took:
        # of the time until Ready, half a period on average is the wait for the probe
        delay_s = max(median(took) - period / 2, 0.1)
        words = f"its pods took {seconds(median(took))} from creation to Ready (median of {len(took)})"
    elif probe is not None and probe.initial_delay_s:
        delay_s, words = float(probe.initial_delay_s), "the probe's initialDelaySeconds"
    else:
        delay_s, words = 1.0, f"{TODO}: how long a new pod takes until its application answers"
        ledger.guess("new pods answer after 1 s", group.title)
    part.put("startup", Part({"delay": seconds(delay_s)}, flow=True), beside=words)
    if probe is not None:
        above_all = (probe.success_threshold - 1) * probe.period_s
        delay = Part({"low": seconds(above_all), "high": seconds(above_all + probe.period_s)}, flow=True)
        words = f"readinessProbe every {probe.period_s} s, at any point of its period"
        part.put("readiness", Part({"probeDelay": Part({"uniform": delay}, flow=True)}, flow=True), beside=words)
        if probe.failure_threshold != 1:
            ledger.leave_out(
                "failureThreshold of readiness probes: a scenario's pods are not ready after one delay, whichever way they change",
                group.title,
            )


def _put_end(part: Part, group: Group, ledger: Ledger) -> None:
    spec = group.spec
    ending = Part()
    if spec is None:
        ending.put("preStop", "0s", beside=f"{TODO}: preStop hook")
        ledger.guess("no preStop hook, and SIGTERM ends the application at once", group.title)
    elif spec.pre_stop is not None and spec.pre_stop.sleeps_ns is None:
        ending.put("preStop", "0s", beside=f"{TODO}: how long the preStop hook ({spec.pre_stop.words}) runs")
        ledger.guess("preStop hooks of unknown length take no time", group.title)
    elif spec.pre_stop is not None:
        words = "" if spec.pre_stop.exact else f"{spec.pre_stop.words}: only its sleep counts"
        ending.put("preStop", format_duration(spec.pre_stop.sleeps_ns or 0), beside=words)
    if spec is not None and spec.grace_s != DEFAULT_GRACE_S:
        ending.put("grace", seconds(spec.grace_s))
    ending.put("afterSigterm", "0s", beside=f"{TODO}: how long it goes on answering after SIGTERM")
    part.put("termination", ending)


def _pod_part(pod: FoundPod, group: Group) -> Part:
    part = Part({"name": pod.name, "node": pod.node}, flow=True)
    if not group.alike.host_network:
        part["ips"] = list(pod.ips)
    if not pod.ready:
        part["ready"] = False
    return part


def _note_unmodelled(group: Group, ledger: Ledger) -> None:
    for words in group.spec.unmodelled if group.spec is not None else ():
        ledger.leave_out(words, group.title)
    if group.controller is not None and group.controller.min_ready_s:
        ledger.leave_out("minReadySeconds", group.title)


def targeted(groups: Iterable[Group], selectors: Selectors) -> dict[str, list[str]]:
    """Return by Service (``namespace/name``) the names of the workloads that it selects."""
    found: dict[str, list[str]] = {}
    for group in groups:
        for service in selectors.selecting(group.namespace, dict(group.alike.labels)):
            found.setdefault(f"{service.metadata.namespace}/{service.metadata.name}", []).append(group.name)
    return found


def unready(groups: Iterable[Group]) -> Iterator[FoundPod]:
    """Yield the pods that are not ready at the start."""
    return (pod for group in groups for pod in group.pods if not pod.ready)
