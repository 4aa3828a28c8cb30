"""The differences of two sides as records: for which Service, which packets, what becomes of them, and why."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.cluster import ClusterState
from kpsim.comparison.behaviour.alike import alike
from kpsim.comparison.behaviour.carrying import Swap
from kpsim.comparison.behaviour.circumstances import Circumstances, Why
from kpsim.comparison.behaviour.differences import Box, Comparison, Difference, Progress, Side, compare
from kpsim.comparison.behaviour.fates import Fate, Item, decided
from kpsim.comparison.behaviour.following import Start, first_packet, typical
from kpsim.comparison.behaviour.frontends import Frontend, Frontends
from kpsim.comparison.behaviour.reasons import RULES, changed_fields, known_difference, place_of
from kpsim.comparison.behaviour.spaces import Values, holds, networks
from kpsim.comparison.behaviour.unbound import UNBOUND
from kpsim.errors import InputError
from kpsim.explore import Cluster
from kpsim.inputs import Json, JsonObject
from kpsim.netfilter import walk
from kpsim.objects import Service
from kpsim.packet import ICMP_PROTOCOLS
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.tracing.probes import Answer, Probe, ProbeResult, answer, decided_by, probe_record, result_of
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


Numbers = tuple[int, int, int]  #: source, destination and port of a packet


class Record(NamedTuple):
    """A difference as it is told."""

    service: str  #: ``namespace/name:port``; empty: of no Service
    frontend: Frontend | None
    box: Box
    fates: tuple[Fate, Fate]
    answers: tuple[Json, Json]
    probe: JsonObject
    why: Why
    natural: bool  #: a client of this kind may have a source of the box
    numbers: Numbers  #: of the probe

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


def report(a: Subject, b: Subject, progress: Progress | None = None) -> Report:
    """What two subjects do differently to first packets. InputError if they have no node or family in common."""
    frontends = Frontends((a.state, b.state))
    families = tuple(family for family in a.side.families if family in b.side.families)
    together = alike((a.side.site, b.side.site), (a.state, b.state), families, a.side.now_ns)
    found = compare(a.side, b.side, frontends.divide, progress, together)
    return Report(a, b, found.classes, tuple(_Telling(a, b, frontends).records(found)))


@dataclass
class _Telling:
    """Makes records of differences."""

    a: Subject
    b: Subject
    frontends: Frontends

    def __post_init__(self) -> None:
        self._answers: dict[object, Json] = {}
        self._changes: dict[str, Why] = {}

    def records(self, found: Comparison) -> Iterator[Record]:
        made = {
            id(difference): self._record(number, difference)
            for number, difference in enumerate(found.differences, 1)
            if difference.like is None
        }
        for number, difference in enumerate(found.differences, 1):
            if difference.like is None:
                yield made[id(difference)]
            else:
                original, swap = difference.like
                yield self._carried(number, difference, made[id(original)], swap)

    def _carried(self, number: int, difference: Difference, like: Record, swap: Swap) -> Record:
        """The record of a difference that was carried from another Service."""
        frontend = difference.key
        assert frontend is None or isinstance(frontend, Frontend)
        numbers = (swap.address(like.numbers[0]), swap.address(like.numbers[1]), swap.port(like.numbers[2]))
        answers = (
            self._carried_answer(0, difference, like, numbers),
            self._carried_answer(1, difference, like, numbers),
        )
        return like._replace(
            service=frontend.name if frontend is not None else "", frontend=frontend, box=difference.box,
            fates=(difference.a, difference.b), answers=answers, numbers=numbers,
            probe=self._probe(number, difference.box, numbers), why=self._why(difference, frontend),
        )  # fmt: skip

    def _carried_answer(self, place: int, difference: Difference, like: Record, numbers: Numbers) -> Json:
        """The answer to the probe of a carried difference. It names rules of its own Service."""
        assert difference.like is not None
        box, swap, told = difference.box, difference.like[1], like.answers[place]
        fate, named = (difference.a, difference.b)[place], told
        own = any(self._is_own(way.leaf, swap) for way in difference.ways[place])
        if own or fate.result is ProbeResult.DELIVERED:
            key = place, box.node, box.family, swap.other.component, told["by"], told.get("masqueradeBy")
            if key not in self._answers:
                self._answers[key] = self._naming(place, box, numbers)
            named = self._answers[key]
        by = {name: named[name] for name in ("by", "masqueradeBy") if name in told}
        found = swap.answer(told, by, (place, box.node, box.family))
        return self._asked(place, box, numbers).to_json() if found is None else found

    def _naming(self, place: int, box: Box, numbers: Numbers) -> Json:
        """An answer that names the rules that decided; of a delivered packet only one outcome may be there."""
        subject, start = (self.a, self.b)[place], self._start((self.a, self.b)[place], box)
        packet = first_packet(box.family, start, *numbers)
        found = walk(
            subject.side.site.netns(box.node, box.family), packet, now_ns=subject.side.now_ns, chooser=ScriptedChooser(),
            local=start.local,
        )  # fmt: skip
        if result_of(found) is ProbeResult.DELIVERED:
            return {"by": decided_by(found, found.trace)}
        return self._asked(place, box, numbers).to_json()

    def _is_own(self, item: Item, swap: Swap) -> bool:
        """Whether the rule that decided was written for one Service."""
        return item.by is not None and item.by.origin.service.partition(":")[0] in swap.one.component.services

    def _probe(self, number: int, box: Box, numbers: Numbers) -> JsonObject:
        probe = probe_record(
            Probe(number, box.node, box.sender, first_packet(box.family, self._start(self.a, box), *numbers))
        )
        del probe["sport"]
        return probe

    def _record(self, number: int, difference: Difference) -> Record:
        box, frontend = difference.box, difference.key
        assert frontend is None or isinstance(frontend, Frontend)
        numbers, natural = self._typical(box)
        probe = self._probe(number, box, numbers)
        answers = (self._answer(0, self.a, difference, numbers), self._answer(1, self.b, difference, numbers))
        service = frontend.name if frontend is not None else ""
        why = self._why(difference, frontend)
        return Record(service, frontend, box, (difference.a, difference.b), answers, probe, why, natural, numbers)

    def _start(self, subject: Subject, box: Box) -> Start:
        machine = subject.side.site.machine(box.node)
        interface = {Sender.NODE: "", Sender.POD: machine.pod_interface}.get(box.sender, machine.uplink)
        return Start(box.node, box.protocol, interface)

    def _typical(self, box: Box) -> tuple[Numbers, bool]:
        """Numbers of a packet of the box, and whether a client of this kind may have its source.

        Of all sources one is taken that a probe without source would have, or a pod of the node.
        """
        destination, port = typical(box.destination), typical(box.port)
        if box.sender is Sender.NODE and box.source == UNBOUND:
            return (0, destination, port), True
        for source in self._natural_sources(box, destination, port):
            if holds(box.source, source) and (source != destination or box.sender is Sender.NODE):
                return (source, destination, port), True
        return (typical(box.source, other_than=destination), destination, port), False

    def _natural_sources(self, box: Box, destination: int, port: int) -> Iterator[int]:
        site = self.a.side.site
        if box.sender is Sender.NODE:
            sites = site, self.b.side.site
            chosen = {
                each.netns(box.node, box.family).routing.source_for(box.family, destination) or 0 for each in sites
            }
            yield from chosen if len(chosen) == 1 else ()
            return
        asked = replace(first_packet(box.family, self._start(self.a, box), 0, destination, port), sourced=False)
        try:
            yield site.begin(asked, box.node, box.sender).saddr
        except InputError:
            return
        if box.sender is Sender.POD:
            yield from site.directory.pods_on(box.node, box.family)

    def _answer(self, place: int, subject: Subject, difference: Difference, numbers: Numbers) -> Json:
        """The answer to the probe. If it says nothing of the packet's own numbers, equal fates share one."""
        box = difference.box
        fate: Fate = (difference.a, difference.b)[place]
        items = tuple(way.leaf for way in difference.ways[place])
        key = place, box.node, box.family, fate, tuple(map(decided, items))
        shared = difference.alike and fate.result is not ProbeResult.DELIVERED and fate.seen is None
        if not shared:
            return self._asked(place, box, numbers).to_json()
        if key not in self._answers:
            self._answers[key] = self._asked(place, box, numbers).to_json()
        return self._answers[key]

    def _asked(self, place: int, box: Box, numbers: Numbers) -> Answer:
        subject = (self.a, self.b)[place]
        start = self._start(subject, box)
        packet = first_packet(box.family, start, *numbers)
        return answer(subject.side.site, packet, box.node, local=start.local, now_ns=subject.side.now_ns)

    # --- why --------------------------------------------------------------------------------------------------------

    def _why(self, difference: Difference, frontend: Frontend | None) -> Why:
        node = difference.box.node
        a, b = self.a.cluster, self.b.cluster
        if a is None or b is None:
            return RULES
        modes = a.config_of(node).mode, b.config_of(node).mode
        if modes[0] is not modes[1]:
            return known_difference(self._circumstances(difference, frontend), modes)
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
