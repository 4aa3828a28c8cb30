"""State against rules: what connection entries lost although the rules in force said otherwise, by flow group and reason."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kpsim.kubeproxy.stale_flows import CleanUp
from kpsim.pins import PinKind
from kpsim.simulation.runlog import Connection, EndpointSpell, Fate, Pin, RunLog


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


@dataclass(frozen=True, slots=True)
class KeptFlows:
    """Flows of one service port that entries of one node go on leading to a former endpoint, which answers them."""

    service: str
    protocol: str
    node: str
    endpoint: str  #: ``ip:port``
    since_ns: int  #: since when the node's rules do not lead to it
    start_ns: int
    end_ns: int
    flows: int
    connections: int


def kept_flows(log: RunLog) -> list[KeptFlows]:
    """Return what former endpoints answer because of connection entries, by first answer, service, node and endpoint.

    Only sockets that are used again show it: every connection of theirs is recorded. Of a long connection the log has
    the beginning only.
    """
    spells: dict[str, list[EndpointSpell]] = {}
    for spell in log.endpoints:
        spells.setdefault(spell.service, []).append(spell)
    programmed: dict[tuple[str, str], list[int]] = {}
    for change in log.programming:
        programmed.setdefault((change.node, change.service), []).append(change.programmed_ns)
    groups: dict[tuple[str, str, str, int], list[Connection]] = {}
    for c in log.connections:
        if c.disposition is not Fate.DELIVERED or c.new_flow:
            continue
        until_ns = _former(spells.get(c.service, ()), c)
        times = programmed.get((c.node, c.service.partition(":")[0]), ())
        since_ns = min((at_ns for at_ns in times if until_ns is not None and at_ns >= until_ns), default=None)
        if since_ns is not None and c.at_ns >= since_ns:
            groups.setdefault((c.service, c.node, c.endpoint, since_ns), []).append(c)
    found = [
        KeptFlows(
            service, kept[0].protocol, node, endpoint, since_ns, kept[0].at_ns, kept[-1].at_ns,
            len({(c.client, c.source_ip, c.source_port) for c in kept}), len(kept),
        )
        for (service, node, endpoint, since_ns), kept in groups.items()
    ]  # fmt: skip
    return sorted(found, key=lambda each: (each.start_ns, each.service, each.node, each.endpoint))


def _former(spells: Sequence[EndpointSpell], c: Connection) -> int | None:
    """Since when no slice lists a connection's endpoint as ready; None: one does, or the rules may fall back to it (T-2).

    They fall back to terminating endpoints only if no other is ready; under the policy Local, none on the same node.
    """
    ready = [s for s in spells if s.from_ns <= c.at_ns and (s.until_ns is None or c.at_ns < s.until_ns)]
    others = [s for s in ready if c.traffic_policy != "Local" or s.node == c.node]
    if not others or any(s.endpoint == c.endpoint for s in ready):
        return None
    ends = (s.until_ns for s in spells if s.endpoint == c.endpoint and s.until_ns is not None)
    return max((until_ns for until_ns in ends if until_ns <= c.at_ns), default=None)


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
