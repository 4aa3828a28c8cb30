"""What a run of an upgrade lost: how much, by which way, while which nodes were worked on, and why."""

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kpsim.simulation.runlog import Connection, Fate, Frontend, HappeningKind, Reason, RunLog
from kpsim.units import SECOND_NS

#: within so long after a machine has come back its kube-proxy has written its rules, and its pods have started
_STARTING_NS = 5 * SECOND_NS


class Kind(enum.StrEnum):
    """Why connections are lost in an upgrade."""

    NO_ENDPOINT = "no endpoint is ready"
    NO_LOCAL = "its load balancer still sends to a node without local endpoint"
    NO_LOCAL_DIALLED = "the dialled node has no local endpoint"
    NO_LOCAL_INTERNAL = "the client's node has no local endpoint"
    ENDS_EARLY = "pods end before all nodes' rules have dropped them"
    MACHINE_OFF = "its load balancer sends to the machine, which is off, or has just come back"
    ENDPOINT_OFF = "the rules have an endpoint on a machine that is off, or has just come back"
    NO_NODE = "its load balancer has no node in rotation"
    DIALLED_OFF = "clients dial the node itself, which is off or starts"
    SENDER_OFF = "the sender's own machine is off or starts"
    OTHER = "other"


#: the sections that say so
SOURCES: Mapping[Kind, str] = {
    Kind.NO_ENDPOINT: "T-2",
    Kind.NO_LOCAL: "PP-11.7, FIG-3",
    Kind.NO_LOCAL_DIALLED: "T-2, PP-11.7",
    Kind.NO_LOCAL_INTERNAL: "T-2, T-6.3",
    Kind.ENDS_EARLY: "CP-1.2, CP-2.8",
    Kind.MACHINE_OFF: "FIG-3, CP-14.3",
    Kind.ENDPOINT_OFF: "CP-2.9",
    Kind.NO_NODE: "FIG-3",
    Kind.DIALLED_OFF: "",
    Kind.SENDER_OFF: "",
    Kind.OTHER: "",
}


#: what no setting of a Service avoids, so that it is no risk
NOT_COUNTED = frozenset({Kind.DIALLED_OFF, Kind.SENDER_OFF})


class Way(NamedTuple):
    """How connections were lost: by which source of traffic, why, and while which nodes were worked on."""

    service: str  #: ``namespace/name``
    traffic: str
    frontend: str
    kind: Kind
    reason: str  #: of the run's records
    nodes: tuple[str, ...]  #: those that were worked on; empty: none was


@dataclass(slots=True)
class Lost:
    """How many, and when: after the first of the nodes was begun with."""

    count: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Observed:
    """One run. ``standing`` are losses that were there before the upgrade began, by source, node and reason."""

    seed: int
    sent: Mapping[str, int]  #: by Service
    lost: Mapping[Way, Lost]
    standing: Mapping[tuple[str, str, str, str], int]  #: service, traffic, node, reason
    finished: bool  #: whether all nodes were upgraded when the run ended

    def of(self, service: str) -> int:
        """How many connections of a Service the upgrade cost, without those that are not counted."""
        return sum(
            lost.count for way, lost in self.lost.items()
            if way.service == service and way.kind not in NOT_COUNTED
        )  # fmt: skip

    def kinds(self, service: str) -> frozenset[tuple[str, Kind]]:
        """By which frontend and why a Service lost connections."""
        return frozenset(
            (way.frontend, way.kind) for way in self.lost if way.service == service and way.kind not in NOT_COUNTED
        )


@dataclass(frozen=True, slots=True)
class _Work:
    """The time in which a node is worked on. ``off_ns`` is when its machine goes off; None: it does not."""

    node: str
    from_ns: int
    off_ns: int | None
    until_ns: int


def observed(log: RunLog, begins_ns: int) -> Observed:
    """Count what a run lost. ``begins_ns`` is when the upgrade begins."""
    works = list(_works(log))
    listed = _listed(log)
    sent: dict[str, int] = {}
    found: dict[Way, Lost] = {}
    standing: dict[tuple[str, str, str, str], int] = {}
    for c in log.connections:
        service = c.service.partition(":")[0]
        sent[service] = sent.get(service, 0) + 1
        if c.disposition is Fate.DELIVERED:
            continue
        at_ns = c.last_try_ns if c.broken_ns is None else c.broken_ns
        alike = service, c.traffic, c.node, c.cause.value
        if at_ns < begins_ns:
            standing[alike] = standing.get(alike, 0) + 1
        elif alike not in standing:
            _add(found, works, listed, c, service, at_ns)
    finished = any(each.kind is HappeningKind.ROLLING_UPGRADE_DONE for each in log.happenings)
    return Observed(log.seed, sent, found, standing, finished)


#: by Service port and endpoint: when slices listed it as ready, from and until
Listed = Mapping[tuple[str, str], Sequence[tuple[int, int]]]


def _listed(log: RunLog) -> Listed:
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for each in log.endpoints:
        until_ns = log.duration_ns if each.until_ns is None else each.until_ns
        found.setdefault((each.service, each.endpoint), []).append((each.from_ns, until_ns))
    return found


def _add(found: dict[Way, Lost], works: list[_Work], listed: Listed, c: Connection, service: str, at_ns: int) -> None:
    kind = _kind(c, works, at_ns)
    if kind is Kind.ENDPOINT_OFF and _ended_before(c, works, listed, at_ns):
        kind = Kind.ENDS_EARLY
    own = _blamed(kind, c, works, at_ns)
    nodes = tuple(work.node for work in own)
    way = Way(service, c.traffic, c.frontend.value, kind, c.cause.value, nodes)
    since_ns = at_ns - min((work.from_ns for work in own), default=at_ns)
    lost = found.get(way)
    if lost is None:
        found[way] = Lost(1, since_ns, since_ns)
    else:
        lost.count += 1
        lost.first_ns, lost.last_ns = min(lost.first_ns, since_ns), max(lost.last_ns, since_ns)


def _blamed(kind: Kind, c: Connection, works: list[_Work], at_ns: int) -> list[_Work]:
    """The nodes whose upgrade cost a connection: that of the machine which is off, else all that are worked on, else the last that was."""
    off = {
        Kind.ENDPOINT_OFF: c.endpoint_node,
        Kind.MACHINE_OFF: c.node,
        Kind.DIALLED_OFF: c.node,
        Kind.SENDER_OFF: c.node,
    }
    own = [work for work in works if work.node == off.get(kind) and _off(work, at_ns)]
    now = [work for work in works if work.from_ns <= at_ns <= work.until_ns]
    return own or now or [work for work in works if work.until_ns <= at_ns][-1:]


def _works(log: RunLog) -> Iterator[_Work]:
    """The spells of the upgrade, from a node's label or cordon until it is back."""
    begun: dict[str, int] = {}
    off: dict[str, int] = {}
    begins = HappeningKind.NODE_DRAINED, HappeningKind.NODE_LABELLED
    for each in log.happenings:
        if each.kind in begins and each.subject not in begun and "=None" not in each.detail:
            begun[each.subject] = each.at_ns
        elif each.kind is HappeningKind.NODE_DOWN:
            off[each.subject] = each.at_ns
        elif each.kind is HappeningKind.NODE_UPGRADED and each.subject in begun:
            yield _Work(each.subject, begun.pop(each.subject), off.pop(each.subject, None), each.at_ns)
    yield from (_Work(node, from_ns, off.get(node), log.duration_ns) for node, from_ns in begun.items())


_OUTSIDE = (Frontend.NODE_PORT, Frontend.EXTERNAL_IP)


def _kind(c: Connection, works: list[_Work], at_ns: int) -> Kind:
    # a machine that starts has no rules yet
    if c.cause in (Reason.NODE_DOWN, Reason.NOT_CAPTURED) and not c.endpoint and _has_been_off(works, c.node, at_ns):
        if c.frontend in _OUTSIDE:
            return Kind.DIALLED_OFF
        return Kind.SENDER_OFF if c.frontend is Frontend.CLUSTER_IP else Kind.MACHINE_OFF
    match c.cause:
        case Reason.NO_ENDPOINTS | Reason.RATE_LIMITED:
            return Kind.NO_ENDPOINT
        case Reason.NO_LOCAL_ENDPOINTS:
            return {Frontend.LOAD_BALANCER: Kind.NO_LOCAL, Frontend.CLUSTER_IP: Kind.NO_LOCAL_INTERNAL}.get(
                c.frontend, Kind.NO_LOCAL_DIALLED
            )
        case Reason.ENDPOINT_GONE:
            return Kind.ENDPOINT_OFF if _has_been_off(works, c.endpoint_node, at_ns) else Kind.ENDS_EARLY
        case Reason.NODE_DOWN:
            return Kind.ENDPOINT_OFF if c.endpoint else Kind.MACHINE_OFF
        case Reason.NO_HEALTHY_NODE:
            return Kind.NO_NODE
        case _:
            return Kind.OTHER


def _ended_before(c: Connection, works: list[_Work], listed: Listed, at_ns: int) -> bool:
    """Whether an endpoint was no longer ready when its machine went off, so that the rules only had not heard of it yet."""
    off_ns = max((work.off_ns or 0 for work in works if work.node == c.endpoint_node and _off(work, at_ns)), default=0)
    spells = listed.get((c.service, c.endpoint), ())
    return bool(spells) and not any(from_ns < off_ns < until_ns for from_ns, until_ns in spells)


def _has_been_off(works: list[_Work], node: str, at_ns: int) -> bool:
    """Whether a machine is off, or came back a moment ago."""
    return any(work.node == node and _off(work, at_ns) for work in works)


def _off(work: _Work, at_ns: int) -> bool:
    return work.off_ns is not None and work.off_ns <= at_ns <= work.until_ns + _STARTING_NS
