"""Counts of connections by service, policy, address, traffic source and node, with what became of them and why.

All reports count these groups of connections, so two reports cannot disagree.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from kpsim.pins import PinKind
from kpsim.simulation.runlog import Fate, Frontend, Reason, RunLog


class Group(NamedTuple):
    """Connections that are alike in everything that the reports distinguish."""

    service: str
    traffic_policy: str
    frontend: Frontend
    traffic: str
    node: str  #: empty: they met no node's rules
    disposition: Fate
    cause: Reason
    broken: bool  #: they were set up and broke later
    retried: bool  #: their SYN was repeated
    again: bool  #: the client tried again
    reused: bool  #: they are requests over open connections
    pin: str  #: how a connection entry overrode the rules; empty: none did
    connections: int


GroupField = Literal["service", "traffic_policy", "frontend", "traffic", "node"]


@dataclass(frozen=True, slots=True)
class Tally:
    """How many connections ended how, and why. Pairs stand in the order in which the enums declare them."""

    counts: Mapping[tuple[Fate, Reason], int]
    broken: int = 0  #: connections that were set up and broke later; they are among those that failed
    retried: int = 0  #: connections whose SYN was repeated
    retried_established: int = 0  #: those of them that were set up in the end
    again: int = 0  #: connections that the client tried again
    again_established: int = 0  #: those of them that were set up in the end
    reused: int = 0  #: requests over open connections
    reused_failed: int = 0  #: those of them that failed
    pins: Mapping[PinKind, int] = field(default_factory=dict)  #: connections that an entry lost against the rules

    @property
    def sent(self) -> int:
        """All connections."""
        return sum(self.counts.values())

    def of(self, disposition: Fate) -> int:
        """Return the number of connections with this disposition."""
        return sum(n for (ended, _), n in self.counts.items() if ended is disposition)

    @property
    def established(self) -> int:
        """Connections that were set up, also those that broke later."""
        return self.of(Fate.DELIVERED) + self.broken

    @property
    def broken_ratio(self) -> float:
        """Share of the established connections that broke, or NaN when none was established."""
        return self.broken / self.established if self.established else math.nan

    def ratio(self, disposition: Fate) -> float:
        """Return the share of connections with this disposition, or NaN when nothing was sent."""
        return self.of(disposition) / self.sent if self.sent else math.nan

    def because(self, cause: Reason) -> int:
        """Return the number of connections with this cause."""
        return sum(n for (_, why), n in self.counts.items() if why is cause)

    def causes(self, disposition: Fate | None = None) -> list[tuple[Reason, int]]:
        """Return the causes that occurred with their counts, most frequent first. NONE is left out."""
        totals: Counter[Reason] = Counter()
        for (ended, why), n in self.counts.items():
            if why is not Reason.NONE and disposition in (None, ended):
                totals[why] += n
        return sorted(totals.items(), key=lambda item: (-item[1], item[0].value))


def count_groups(log: RunLog) -> list[Group]:
    """Group the log's connections. The groups are sorted."""
    counts = Counter(
        (
            *(c.service, c.traffic_policy, c.frontend, c.traffic, c.node, c.disposition, c.cause),
            c.broken_ns is not None,
            c.syn_retries > 0,
            c.tries > 1,
            c.reused,
            "" if c.pin is None else c.pin.kind.value,
        )
        for c in log.connections
    )
    return sorted(Group(*key, connections) for key, connections in counts.items())


def tally(groups: Iterable[Group]) -> Tally:
    """Count the connections of all groups together."""
    totals: Counter[tuple[Fate, Reason]] = Counter()
    pins: Counter[PinKind] = Counter()
    broken = retried = established = again = again_established = reused = reused_failed = 0
    for group in groups:
        totals[group.disposition, group.cause] += group.connections
        set_up = group.connections if group.disposition is Fate.DELIVERED or group.broken else 0
        broken += group.connections if group.broken else 0
        if group.retried:
            retried += group.connections
            established += set_up
        if group.again:
            again += group.connections
            again_established += set_up
        if group.reused:
            reused += group.connections
            reused_failed += group.connections if group.disposition is Fate.FAILED else 0
        if group.pin:
            pins[PinKind(group.pin)] += group.connections
    counts = {pair: totals[pair] for ended in Fate for why in Reason if totals[pair := (ended, why)]}
    return Tally(counts, broken, retried, established, again, again_established, reused, reused_failed, pins)


def tally_by(groups: Iterable[Group], field: GroupField) -> dict[str, Tally]:
    """Return one tally for each value of ``field``, by name."""
    parts: dict[str, list[Group]] = {}
    for group in groups:
        parts.setdefault(str(getattr(group, field)), []).append(group)
    return {name: tally(parts[name]) for name in sorted(parts)}


def tally_by_service_and_policy(groups: Iterable[Group]) -> dict[tuple[str, str], Tally]:
    """Return one tally for each service port and traffic policy, sorted by both."""
    parts: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        parts.setdefault((group.service, group.traffic_policy), []).append(group)
    return {key: tally(parts[key]) for key in sorted(parts)}


def nodes_of(log: RunLog) -> list[str]:
    """Return every node that the log names, sorted."""
    named = set(log.nodes) | {c.node for c in log.connections} | {s.node for s in log.syncs}
    named |= {p.node for p in log.programming} | {h.node for h in log.node_health}
    return sorted(named - {""})
