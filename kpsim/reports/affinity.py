"""Session affinity: how often a client stayed with its endpoint, and each break with its cause.

A *decision* is a new flow to a service port with ClientIP affinity that was given an endpoint. Later packets of a flow
follow their conntrack entry and are no decisions. A flow that found no endpoint is lost and is no decision either. A
client's first decision is first contact; each later one either stays or breaks.
"""

import enum
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kpsim.simulation.runlog import Connection, RunLog


class BreakCause(enum.StrEnum):
    """Causes that are always counted, also at zero. A log may name others."""

    ENDPOINT_GONE = "endpoint gone"
    TIMEOUT = "timeout"
    LIST_FULL = "list full"
    HINTS = "zone hints"
    POLICY = "traffic policy"
    OTHER_NODE = "other node"
    OTHER_ADDRESS = "other address"


@dataclass(frozen=True, slots=True)
class AffinityBreak:
    """One decision that did not lead a client to its former endpoint."""

    at_ns: int
    service: str
    client: str
    node: str
    cause: str
    former_endpoint: str  #: the endpoint that this client was sent to last
    endpoint: str  #: the endpoint that it was sent to now


@dataclass(frozen=True, slots=True)
class Affinity:
    """The decisions of one client with one service port, or the sum of many such records."""

    service: str  #: empty: all service ports
    client: str  #: empty: all clients
    clients: int
    decisions: int
    distinct_endpoints: int  #: summed over the clients
    breaks: Mapping[str, int] = field(default_factory=dict)  #: by cause, sorted

    @property
    def returns(self) -> int:
        """Decisions after first contact."""
        return self.decisions - self.clients

    @property
    def broken(self) -> int:
        """Returns that broke."""
        return sum(self.breaks.values())

    @property
    def stays(self) -> int:
        """Returns that led to the former endpoint."""
        return self.returns - self.broken

    @property
    def stay_ratio(self) -> float:
        """Stays per return; NaN when no client came back."""
        return self.stays / self.returns if self.returns else math.nan


def decisions(log: RunLog) -> list[Connection]:
    """New flows to affinity services that were given an endpoint."""
    return [c for c in log.connections if c.session_affinity and c.new_flow and c.endpoint]


def affinity_breaks(log: RunLog) -> list[AffinityBreak]:
    """Every break in time order."""
    former: dict[tuple[str, str], str] = {}
    found = []
    for c in decisions(log):
        who = (c.service, c.client)
        if c.affinity_break:
            found.append(
                AffinityBreak(c.at_ns, c.service, c.client, c.node, c.affinity_break, former.get(who, ""), c.endpoint)
            )
        former[who] = c.endpoint
    return found


def affinity_by_client(log: RunLog) -> list[Affinity]:
    """One record for each service port and client, sorted by both."""
    made: dict[tuple[str, str], list[Connection]] = {}
    for c in decisions(log):
        made.setdefault((c.service, c.client), []).append(c)
    return [
        Affinity(
            service=service,
            client=client,
            clients=1,
            decisions=len(made[service, client]),
            distinct_endpoints=len({c.endpoint for c in made[service, client]} - {""}),
            breaks=_sorted_counts(Counter(c.affinity_break for c in made[service, client] if c.affinity_break)),
        )
        for service, client in sorted(made)
    ]


def affinity_by_service(clients: Iterable[Affinity]) -> list[Affinity]:
    """The clients' records added up by service port, sorted."""
    parts: dict[str, list[Affinity]] = {}
    for record in clients:
        parts.setdefault(record.service, []).append(record)
    return [affinity_total(parts[service], service) for service in sorted(parts)]


def affinity_total(records: Iterable[Affinity], service: str = "") -> Affinity:
    """Add up records into one."""
    records = list(records)
    breaks: Counter[str] = Counter()
    for record in records:
        breaks.update(record.breaks)
    return Affinity(
        service=service,
        client="",
        clients=sum(r.clients for r in records),
        decisions=sum(r.decisions for r in records),
        distinct_endpoints=sum(r.distinct_endpoints for r in records),
        breaks=_sorted_counts(breaks),
    )


def _sorted_counts(counts: Counter[str]) -> dict[str, int]:
    return {cause: counts[cause] for cause in sorted(counts)}
