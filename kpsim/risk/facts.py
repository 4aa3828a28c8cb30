"""What there is: each Service's endpoints, the nodes that they are on, what keeps their pods, and the budgets over them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from kpsim.cluster import ClusterState
from kpsim.drafting.controllers import Budget, Controllers
from kpsim.drafting.groups import Group, group_pods
from kpsim.drafting.part import Ledger
from kpsim.drafting.pods import FoundPod, Selectors, find_pods
from kpsim.drafting.podspecs import PodSpec
from kpsim.endpointslices import has_managed_slices
from kpsim.errors import InputError
from kpsim.manifests.admission import Item
from kpsim.objects import LABEL_HOSTNAME, LABEL_ZONE, EndpointSlice, Node, Service
from kpsim.risk.rules import DAEMON_SET, Helps, Remedy, helps_with
from kpsim.units import SECOND_NS


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """A ready endpoint. ``node`` is empty for an address that is on no node; ``group`` is None where no pod is known."""

    name: str
    node: str
    group: "Keeper | None"


@dataclass(slots=True, eq=False)
class Keeper:
    """The pods of one workload, and what decides how they go and come."""

    group: Group
    alone_on_node: bool  #: required podAntiAffinity over hosts or host ports keep them apart
    pods: Sequence[FoundPod] = ()

    @property
    def kind(self) -> str:
        return self.group.alike.owner[0]

    @property
    def stays(self) -> bool:
        """Whether drains leave its pods: those of a DaemonSet, and static ones."""
        return self.kind == DAEMON_SET or self.group.static

    @property
    def spec(self) -> PodSpec:
        return self.group.spec or PodSpec()

    @property
    def serves_s(self) -> float:
        """How long a pod that is deleted goes on serving, as far as its preStop hook tells: no longer than its grace period."""
        hook = self.spec.pre_stop
        slept_ns = hook.sleeps_ns if hook is not None else 0
        return min((slept_ns or 0) / SECOND_NS, self.spec.grace_s)

    @property
    def unknown_end(self) -> str:
        """In words, why ``serves_s`` is a guess; empty if it is none."""
        if self.group.spec is None:
            return "its pods' specification was not given: taken to end at once"
        hook = self.spec.pre_stop
        if hook is not None and hook.sleeps_ns is None:
            return f"how long its preStop hook ({hook.words}) runs is not known: taken for no time"
        return ""

    @property
    def starts_s(self) -> float:
        """How long a new pod takes until it is ready: the median of those that are there; else 1 s, initial delays, and a period of each probe (CP-2.1)."""
        took = [pod.start_s for pod in self.pods if pod.start_s is not None]
        if took:
            return median(took)
        probes = [self.spec.probes[kind] for kind in ("startup", "readiness") if kind in self.spec.probes]
        return 1.0 + sum(probe.initial_delay_s + probe.period_s for probe in probes)

    @property
    def starts_least_s(self) -> float:
        """How long a new pod takes until it is ready, at least: 1 s, or the initial delays of its probes."""
        probes = (self.spec.probes[kind] for kind in ("startup", "readiness") if kind in self.spec.probes)
        return max(1.0, sum(probe.initial_delay_s for probe in probes))

    @property
    def replicas(self) -> int:
        """As many as are wanted; of a DaemonSet, as there are."""
        controller = self.group.controller
        wanted = controller.replicas if controller is not None and self.group.siblings == 1 else None
        return len(self.pods) if wanted is None else wanted

    @property
    def surges(self) -> bool:
        """Whether its rollout makes new pods before it takes old ones away."""
        strategy = self.group.controller.strategy if self.group.controller is not None else None
        return strategy is not None and pods_of(strategy.max_surge, self.replicas, up=True) > 0

    def stuck(self, nodes: Sequence[Node]) -> str:
        """In words, why a rollout does not get on: new pods find no node as long as the old ones are there. Empty: it does."""
        if self.kind == DAEMON_SET and self.surges and self.holds_host_ports:
            return "maxSurge wants a second pod on a node whose host ports the first holds (kubernetes#106417)"
        if self.kind == "Deployment" and self.apart and self.takes_none_away and not self.takes(nodes):
            return "maxUnavailable is 0, and each node that may run its pods has one (podAntiAffinity or host ports)"
        return ""

    def rolls(self, nodes: Sequence[Node]) -> bool:
        """Whether a rollout ends its pods."""
        return self.group.controller is not None and not self.stuck(nodes)

    @property
    def apart(self) -> bool:
        """Whether its pods keep each other from nodes or zones."""
        return self.alone_on_node or bool(self.group.kept_apart_over)

    @property
    def takes_none_away(self) -> bool:
        """Whether its rollout waits for new pods before it takes an old one away (Deployment)."""
        strategy = self.group.controller.strategy if self.group.controller is not None else None
        return strategy is not None and self.surges and not pods_of(strategy.max_unavailable, self.replicas, up=False)

    @property
    def holds_host_ports(self) -> bool:
        """Whether two of its pods cannot be on one node."""
        return self.spec.holds_host_ports

    def surging(self) -> Helps:
        """The remedy that its rollout surges, unless host ports keep the new pod away."""
        return {} if self.holds_host_ports else helps_with(Remedy.SURGE)

    def takes(self, nodes: Sequence[Node]) -> list[str]:
        """The nodes that a replaced pod may run on, by labels, taints, host ports and required podAntiAffinity. Room for its requests is not asked."""
        if self.group.bare:
            return []  # nothing replaces it
        used = {pod.node for pod in self.pods} if self.alone_on_node else set()
        if LABEL_ZONE in self.group.kept_apart_over:
            own = {pod.node for pod in self.pods}
            zones = {n.zone for n in nodes if n.zone and n.metadata.name in own}
            used |= {n.metadata.name for n in nodes if n.zone in zones}
        return [n.metadata.name for n in nodes if n.metadata.name not in used and self.spec.may_run_on(n)]


@dataclass(frozen=True, slots=True)
class Counted:
    """A PodDisruptionBudget, how many disruptions it allows now, and how many ready pods it wants.

    ``settled``: all pods that are to be there are ready.
    """

    budget: Budget
    allowed: int
    wanted: int
    settled: bool

    @property
    def title(self) -> str:
        return f"{self.budget.namespace}/{self.budget.name}"

    def lets_go(self, ready: bool) -> bool:
        """Whether a pod may be evicted now. One that is not ready may if enough others are, or always by ``AlwaysAllow``."""
        enough = self.wanted > 0 and self.allowed >= 0
        return self.allowed > 0 or (not ready and (enough or self.budget.policy == "AlwaysAllow"))


@dataclass(frozen=True, slots=True)
class Facts:
    """A Service and its ready endpoints. ``unknown`` says why they cannot be known; ``unready`` counts those that are not ready.

    ``keepers`` are the workloads of ready endpoints, ``idle`` those that only have pods that are not ready.
    """

    service: Service
    endpoints: Sequence[Endpoint]
    keepers: Sequence[Keeper]
    unready: int = 0
    unknown: str = ""
    idle: Sequence[Keeper] = ()

    @property
    def title(self) -> str:
        return title_of(self.service)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that have a ready endpoint, sorted."""
        return tuple(sorted({each.node for each in self.endpoints if each.node}))


@dataclass(frozen=True)
class Found:
    """The cluster: its Nodes, each Service's facts, and the budgets over a workload's pods by its name."""

    nodes: Sequence[Node]
    facts: Sequence[Facts]
    budgets: Mapping[str, Sequence[Counted]] = field(default_factory=dict)

    @property
    def zones(self) -> Mapping[str, frozenset[str]]:
        """The names of the nodes by zone, of those that have one."""
        found: dict[str, set[str]] = {}
        for node in self.nodes:
            if node.zone:
                found.setdefault(node.zone, set()).add(node.metadata.name)
        return {zone: frozenset(found[zone]) for zone in sorted(found)}


def title_of(service: Service) -> str:
    return f"{service.metadata.namespace}/{service.metadata.name}"


def find_facts(state: ClusterState, items: Sequence[Item]) -> Found:
    """Find what there is. InputError if there is no Service or no Node, and for objects that cannot be read."""
    services, nodes = list(state.services), sorted(state.nodes, key=lambda n: n.metadata.name)
    if not services:
        raise InputError("there is no Service among the objects (kubectl get services -A -o yaml gives them)")
    if not nodes:
        raise InputError(
            "there is no Node among the objects, so none can be lost (kubectl get nodes -o yaml gives them)"
        )
    controllers, selectors = Controllers(items), Selectors(services)
    pods = find_pods(state, selectors, services, controllers, Ledger())
    keepers = [
        Keeper(group, _one_on_a_node(group), tuple(group.pods))
        for group in group_pods(pods, controllers, selectors, frozenset())
    ]
    by_pod = {(pod.namespace, pod.name): keeper for keeper in keepers for pod in keeper.pods}
    by_ip = {ip: (pod, keeper) for keeper in keepers for pod in keeper.pods for ip in pod.ips if not pod.host_network}
    selected: dict[str, list[FoundPod]] = {}
    for pod in pods.pods:
        for service in selectors.selecting(pod.namespace, dict(pod.labels)):
            selected.setdefault(title_of(service), []).append(pod)
    awaited: dict[str, list[Keeper]] = {}
    for keeper in keepers:
        if keeper.group.assumed and keeper.group.replicas:
            for service in keeper.group.selected_by(selectors):
                awaited.setdefault(title_of(service), []).append(keeper)
    slices: dict[tuple[str, str], list[EndpointSlice]] = {}
    for item in state.endpoint_slices:
        slices.setdefault((item.metadata.namespace, item.service_name), []).append(item)
    index = _Index(by_pod, by_ip, selected, awaited, slices)
    return Found(nodes, [index.facts(each) for each in services], _budgets(keepers))


@dataclass(frozen=True)
class _Index:
    by_pod: Mapping[tuple[str, str], Keeper]
    by_ip: Mapping[str, tuple[FoundPod, Keeper]]
    selected: Mapping[str, Sequence[FoundPod]]
    awaited: Mapping[str, Sequence[Keeper]]
    slices: Mapping[tuple[str, str], Sequence[EndpointSlice]]

    def facts(self, service: Service) -> Facts:
        title = title_of(service)
        own = self.slices.get((service.metadata.namespace, service.metadata.name), ())
        unready = 0
        if own:
            endpoints = list(self._of_slices(service, own))
            unready = len({e.addresses for s in own for e in s.endpoints if e.ready is False})
        else:
            pods = self.selected.get(title, ())
            open_to_all = service.publish_not_ready_addresses
            endpoints = [
                Endpoint(pod.name, pod.node, self.by_pod[pod.namespace, pod.name])
                for pod in pods
                if pod.ready or open_to_all
            ]
            unready = len(pods) - len(endpoints)
        keepers = list({id(e.group): e.group for e in endpoints if e.group is not None}.values())
        unknown = ""
        if not endpoints and (waiting := self.awaited.get(title)):
            unknown = (
                f"where the pods of {waiting[0].group.title} run is not among the objects (kubectl get pods -A -o yaml)"
            )
        elif not endpoints and not own and not has_managed_slices(service):
            unknown = "it has no selector, and none of its EndpointSlices is among the objects"
        every = {id(k): k for pod in self.selected.get(title, ()) for k in [self.by_pod[pod.namespace, pod.name]]}
        idle = [keeper for key, keeper in every.items() if key not in {id(k) for k in keepers}]
        return Facts(service, endpoints, keepers, unready, unknown, idle)

    def _of_slices(self, service: Service, own: Sequence[EndpointSlice]) -> Iterator[Endpoint]:
        """The ready endpoints of the Service's first family: a pod of two families is one endpoint."""
        kinds = [each.address_type for each in own if each.address_type != "FQDN"]
        family = next((each for each in service.ip_families if each in kinds), kinds[0] if kinds else "")
        seen: set[tuple[str, ...]] = set()
        for endpoint in (e for s in own if s.address_type == family for e in s.endpoints):
            if endpoint.ready is False or endpoint.addresses in seen:
                continue
            seen.add(endpoint.addresses)
            ref = endpoint.target_ref
            namespace = service.metadata.namespace
            keeper = self.by_pod.get((namespace, ref.name)) if ref is not None and ref.kind == "Pod" else None
            pod = next((self.by_ip[ip] for ip in endpoint.addresses if ip in self.by_ip), None)
            if keeper is None and pod is not None and pod[0].namespace == namespace:
                keeper = pod[1]
            node = endpoint.node_name or (pod[0].node if pod is not None else "")
            yield Endpoint(ref.name if ref is not None else endpoint.addresses[0], node, keeper)


def _one_on_a_node(group: Group) -> bool:
    return LABEL_HOSTNAME in group.kept_apart_over or (group.spec is not None and group.spec.holds_host_ports)


def _budgets(keepers: Sequence[Keeper]) -> dict[str, list[Counted]]:
    """How many disruptions each budget allows: ready pods beyond those that it wants (percentages are rounded up)."""
    over: dict[tuple[str, str], tuple[Budget, list[Keeper]]] = {}
    for keeper in keepers:
        for budget in keeper.group.budgets:
            over.setdefault((budget.namespace, budget.name), (budget, []))[1].append(keeper)
    found: dict[str, list[Counted]] = {}
    for budget, own in over.values():
        expected = sum(keeper.replicas for keeper in own)
        ready = sum(pod.ready for keeper in own for pod in keeper.pods)
        if budget.min_available is not None:
            wanted = pods_of(budget.min_available, expected, up=True)
        elif budget.max_unavailable is not None:
            wanted = max(expected - pods_of(budget.max_unavailable, expected, up=True), 0)
        else:
            wanted = expected
        counted = Counted(budget, ready - wanted, wanted, ready >= expected)
        for keeper in own:
            found.setdefault(keeper.group.name, []).append(counted)
    return found


def pods_of(share: int | str, expected: int, *, up: bool) -> int:
    """Return how many pods a number or a percentage is, rounded ``up`` or down."""
    if isinstance(share, int):
        return share
    return (int(share.removesuffix("%")) * expected + 99 * up) // 100
