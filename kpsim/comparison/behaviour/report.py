"""The differences of two sides as records: for which Service, which packets, what becomes of them, and why."""

import json
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from kpsim.addresses import Family
from kpsim.cluster import ClusterState
from kpsim.comparison.behaviour.alike import NONE, alike
from kpsim.comparison.behaviour.answers import Answers, Numbers
from kpsim.comparison.behaviour.boxes import Box, Difference
from kpsim.comparison.behaviour.circumstances import Circumstances, Why
from kpsim.comparison.behaviour.differences import Comparison, Progress, Side, compare
from kpsim.comparison.behaviour.fates import Fate
from kpsim.comparison.behaviour.frontends import Frontend, Frontends
from kpsim.comparison.behaviour.narrowing import Narrow, check_memory
from kpsim.comparison.behaviour.reasons import RULES, changed_fields, known_difference, place_of
from kpsim.comparison.behaviour.spaces import Values, networks
from kpsim.comparison.behaviour.unbound import UNBOUND
from kpsim.explore import Cluster
from kpsim.inputs import Json, JsonObject
from kpsim.objects import Service
from kpsim.packet import ICMP_PROTOCOLS
from kpsim.tracing.site import Sender


@dataclass(frozen=True)
class Subject:
    """One of the two that are compared, with what is known of it beside its machines."""

    side: Side
    name: str
    cluster: Cluster | None = None  #: None: only saved rules are known

    @property
    def state(self) -> ClusterState:
        return ClusterState() if self.cluster is None else self.cluster.state

    @classmethod
    def of(cls, cluster: Cluster, name: str = "") -> "Subject":
        """A cluster. Its nodes have no connections yet: first packets are compared."""
        return cls(Side(cluster.site_with(), cluster.families, cluster.now_ns), name or str(cluster), cluster)


class Record:
    """A difference as it is told. What it costs time to say is made when it is asked for."""

    __slots__ = ("_telling", "difference", "natural", "number", "numbers", "why")

    def __init__(
        self, telling: "_Telling", number: int, difference: Difference, numbers: Numbers, natural: bool, why: Why
    ) -> None:
        self._telling = telling
        self.number, self.difference = number, difference
        self.numbers = numbers  #: of the packet that is asked about
        self.natural = natural  #: a client of this kind may have a source of the box
        self.why = why

    @property
    def box(self) -> Box:
        return self.difference.box

    @property
    def frontend(self) -> Frontend | None:
        key = self.difference.key
        assert key is None or isinstance(key, Frontend)
        return key

    @property
    def service(self) -> str:
        """``namespace/name:port``; empty: of no Service."""
        return "" if self.frontend is None else self.frontend.name

    @property
    def fates(self) -> tuple[Fate, Fate]:
        return self.difference.fates

    @property
    def original(self) -> Difference:
        """The difference that was found: this one, or that of another component, from which this one was carried."""
        return self.difference if self.difference.like is None else self.difference.like[0]

    @property
    def answers(self) -> tuple[Json, Json]:
        """What the two sides answer to the probe."""
        return self._telling.answers.of(self.difference, self.numbers)

    @property
    def probe(self) -> JsonObject:
        return self._telling.answers.probe(self.number, self.box, self.numbers)

    def to_json(self) -> JsonObject:
        box = self.box
        pings = box.protocol in ICMP_PROTOCOLS
        return {
            "service": self.service,
            "packets": {
                "node": box.node, "from": str(box.sender),
                "src": [] if box.source == UNBOUND and box.sender is Sender.NODE else cidrs(box.family, box.source),
                "dst": cidrs(box.family, box.destination), "protocol": "ICMP" if pings else box.protocol.upper(),
                "dport": [] if pings else [list(interval) for interval in box.port],
            },
            "a": self.answers[0], "b": self.answers[1],
            "probe": json.dumps(self.probe, separators=(",", ":"), ensure_ascii=False),
            "why": self.why.words, "see": self.why.see,
        }  # fmt: skip


@lru_cache(maxsize=4096)
def cidrs(family: Family, values: Values) -> list[str]:
    """A set of addresses as CIDRs."""
    return [str(network) for network in networks(family, values)]


@dataclass(frozen=True)
class Report:
    """All differences of two subjects."""

    a: Subject
    b: Subject
    classes: int
    records: tuple[Record, ...]

    def without(self, allowed: frozenset[str]) -> "Report":
        """The differences that are not among the allowed reasons and Services."""
        kept = (record for record in self.records if not allowed & names_of(record))
        return replace(self, records=tuple(kept))

    def to_json(self) -> JsonObject:
        return {"classes": self.classes, "differences": [record.to_json() for record in self.records]}


def names_of(record: Record) -> frozenset[str]:
    """The names by which a difference is allowed: its reason's code, its Service, the Service's port."""
    return frozenset({record.why.code, record.service, record.service.partition(":")[0]} - {""})


def report(
    a: Subject, b: Subject, progress: Progress | None = None, *, services: Collection[str] = (), singly: bool = False,
    by_node: bool = False,
) -> Report:  # fmt: skip
    """What two subjects do differently to first packets. InputError if they have no node or family in common.

    ``services``: only packets for the Services with these names are compared. InputError, too, if there is no such
    Service, or if Services that share endpoints would take too much memory.

    ``singly``: each Service is compared by itself, also those that are alike. ``by_node``: at each node by itself, also at
    nodes that stand for each other. Both give the same records.
    """
    frontends = Frontends((a.state, b.state))
    families = tuple(family for family in a.side.families if family in b.side.families)
    sites, states = (a.side.site, b.side.site), (a.state, b.state)
    # where ip_vs serves, composed fates would divide the same packets into more boxes
    check_memory(states, len(a.side.site.node_names), services)
    together = NONE if singly else alike(sites, states, families, a.side.now_ns, served=False)
    narrow = Narrow.to(services, states, sites) if services else None
    if narrow is not None:
        together = narrow.of(together)
    found = compare(a.side, b.side, frontends.divide, progress, together, by_node=by_node, narrow=narrow)
    return Report(a, b, found.classes, tuple(_Telling(a, b, frontends).records(found)))


@dataclass
class _Telling:
    """Makes records of differences."""

    a: Subject
    b: Subject
    frontends: Frontends

    def __post_init__(self) -> None:
        self.answers = Answers((self.a.side, self.b.side))
        self._changes: dict[str, Why] = {}
        self._known: dict[Hashable, Why] = {}

    def records(self, found: Comparison) -> Iterator[Record]:
        for number, each in enumerate(found.differences, 1):
            numbers, natural = self.answers.typical_of(each.box)
            yield Record(self, number, each, numbers, natural, self._why(each))

    # --- why --------------------------------------------------------------------------------------------------------

    def _why(self, difference: Difference) -> Why:
        node, frontend = difference.box.node, difference.key
        assert frontend is None or isinstance(frontend, Frontend)
        a, b = self.a.cluster, self.b.cluster
        if a is None or b is None:
            return RULES
        modes = a.config_of(node).mode, b.config_of(node).mode
        if modes[0] is not modes[1]:
            # what is carried differs in constants, and in what Services say that their rules do not
            original = difference if difference.like is None else difference.like[0]
            service = None if frontend is None else self._services.get(frontend.service)
            policies = None if service is None else (service.external_traffic_policy, service.internal_traffic_policy)
            key = id(original), policies
            if key not in self._known:
                self._known[key] = known_difference(self._circumstances(difference, frontend), modes)
            return self._known[key]
        name = frontend.service if frontend is not None else ""
        if name not in self._changes:
            self._changes[name] = self._changed(name)
        return self._changes[name]

    def _circumstances(self, difference: Difference, frontend: Frontend | None) -> Circumstances:
        box = difference.box
        service = None if frontend is None else self._services.get(frontend.service)
        return Circumstances(
            difference,
            frontend,
            self.frontends.in_service_network(box),
            self.frontends.are_all(box.family, box.source),
            service,
        )

    @cached_property
    def _services(self) -> Mapping[str, Service]:
        states = self.b.state, self.a.state
        return {f"{each.metadata.namespace}/{each.metadata.name}": each for of in states for each in of.services}

    def _changed(self, service: str) -> Why:
        """What the two clusters have differently of a Service, else of anything."""
        if service and (why := self._changed_service(service)):
            return why
        for kind, code in (("KubeProxyConfiguration", "configuration"), ("Node", "node")):
            if changed := self._changed_objects(kind):
                return Why(code, changed)
        return RULES

    def _changed_service(self, name: str) -> Why | None:
        a, b = (_specs(subject.state).get(name) for subject in (self.a, self.b))
        if a is None or b is None:
            return Why("service", f"only {self.b.name if a is None else self.a.name} has the Service {name}")
        if changed := changed_fields(a, b):
            return Why("service", f"{name}: {'; '.join(changed)}", place_of(changed))
        before, after = (_endpoints(subject.state, name) for subject in (self.a, self.b))
        if before != after:
            gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
            other = sorted(each for each in set(before) & set(after) if before[each] != after[each])
            parts = [
                f"{what} {_some(found)}"
                for what, found in (("without", gone), ("with", new), ("changed", other))
                if found
            ]
            return Why("endpoints", f"endpoints of {name}: {', '.join(parts)}", "T-2")
        return None

    def _changed_objects(self, kind: str) -> str:
        if kind == "KubeProxyConfiguration":
            assert self.a.cluster is not None and self.b.cluster is not None
            a, b = self.a.cluster.config, self.b.cluster.config
            names = [name for name in type(a).__dataclass_fields__ if getattr(a, name) != getattr(b, name)]
            return f"configuration: {', '.join(names)}" if names else ""
        a_nodes, b_nodes = (
            {node.metadata.name: node.json for node in subject.state.nodes} for subject in (self.a, self.b)
        )
        changed = sorted(name for name in {**a_nodes, **b_nodes} if a_nodes.get(name) != b_nodes.get(name))
        return f"nodes that differ: {_some(changed)}" if changed else ""


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_FEW])
    return shown if len(names) <= _FEW else f"{shown} and {len(names) - _FEW} more"


_FEW = 4


def _specs(state: ClusterState) -> dict[str, Mapping[str, object]]:
    return {
        f"{s.metadata.namespace}/{s.metadata.name}": {**s.json.get("spec", {}), **_ingress(s.json)}
        for s in state.services
    }


def _ingress(service: Json) -> Mapping[str, object]:
    balancer = service.get("status", {}).get("loadBalancer", {})
    return {"loadBalancer": balancer} if balancer else {}


def _endpoints(state: ClusterState, name: str) -> dict[str, object]:
    """The endpoints of a Service by address, with all that decides about them."""
    found: dict[str, object] = {}
    for each in state.endpoint_slices:
        if f"{each.metadata.namespace}/{each.service_name}" == name:
            for endpoint in each.endpoints:
                found[",".join(endpoint.addresses)] = endpoint, each.ports
    return found
