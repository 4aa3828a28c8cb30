"""Picks the losses whose traces a report keeps: first one of each kind at each node, then more of the commonest."""

from collections.abc import Sequence

from kpsim.simulation.runlog import Connection, RunLog

MOST_TRACES = 24


def chosen_losses(log: RunLog, most: int = MOST_TRACES) -> list[Connection]:
    """Return at most ``most`` lost connections in time order.

    Kinds are told apart by Service, disposition, cause, node, whether the connection was set up before, and whether an entry
    overrode the rules. The commonest kinds come first; their first losses, then their last, then those in the middle.
    """
    kinds: dict[tuple[object, ...], list[Connection]] = {}
    for c in log.connections:
        if c.lost:
            kind = c.service, c.disposition, c.cause, c.node, c.broken_ns is not None, c.pin is not None
            kinds.setdefault(kind, []).append(c)
    ranked = sorted(kinds.values(), key=lambda members: (-len(members), members[0].decisive_ns, members[0].name))
    picked: dict[str, Connection] = {}
    for place in (_first, _last, _middle):
        for members in ranked:
            c = place(members)
            if len(picked) < most:
                picked.setdefault(c.name, c)
    return sorted(picked.values(), key=lambda c: (c.decisive_ns, c.traffic, c.number))


def _first(members: Sequence[Connection]) -> Connection:
    return min(members, key=lambda c: (c.decisive_ns, c.traffic, c.number))


def _last(members: Sequence[Connection]) -> Connection:
    return max(members, key=lambda c: (c.decisive_ns, c.traffic, c.number))


def _middle(members: Sequence[Connection]) -> Connection:
    ordered = sorted(members, key=lambda c: (c.decisive_ns, c.traffic, c.number))
    return ordered[len(ordered) // 2]
