"""State against rules: what connection entries lost although the rules in force said otherwise, by flow group and reason."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from kpsim.simulation.runlog import CleanUp, Connection, Fate, Pin, PinKind, RunLog


@dataclass(frozen=True, slots=True)
class PinnedFlows:
    """Flows of one service port that entries of one node held to one place, against the same state of the rules."""

    service: str
    node: str
    kind: PinKind
    leads_to: str  #: ``ip:port``
    since_ns: int | None  #: since when the rules say otherwise
    clean_up: CleanUp
    start_ns: int  #: the first loss
    end_ns: int  #: the last loss
    flows: int
    first_entry_ns: int  #: when the oldest of the entries was made
    last_entry_ns: int  #: when the newest was
    ends: Mapping[Fate, int]  #: connections by disposition

    @property
    def connections(self) -> int:
        return sum(self.ends.values())


def pinned_flows(log: RunLog) -> list[PinnedFlows]:
    """Return all groups, sorted by first loss, service, node and place."""
    groups: dict[tuple[object, ...], list[tuple[Connection, Pin]]] = {}
    for c in log.connections:
        if c.pin is not None:
            key = (c.service, c.pin.node, c.pin.kind, c.pin.leads_to, c.pin.since_ns, c.pin.clean_up)
            groups.setdefault(key, []).append((c, c.pin))
    found = [_group(members) for members in groups.values()]
    return sorted(found, key=lambda g: (g.start_ns, g.service, g.node, g.leads_to, g.kind, g.clean_up))


def _group(members: list[tuple[Connection, Pin]]) -> PinnedFlows:
    first, pin = members[0]
    times = [c.at_ns if c.broken_ns is None else c.broken_ns for c, _ in members]
    entries = [each.entry_ns for _, each in members]
    ends = Counter(c.disposition for c, _ in members)
    return PinnedFlows(
        service=first.service,
        node=pin.node,
        kind=pin.kind,
        leads_to=pin.leads_to,
        since_ns=pin.since_ns,
        clean_up=pin.clean_up,
        start_ns=min(times),
        end_ns=max(times),
        flows=len({(c.client, c.source_ip, c.source_port) for c, _ in members}),
        first_entry_ns=min(entries),
        last_entry_ns=max(entries),
        ends={ended: ends[ended] for ended in Fate if ends[ended]},
    )
