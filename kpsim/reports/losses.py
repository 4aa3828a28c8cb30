"""Where losses are: the traffic sources and nodes that have all of them, when chance does not explain that.

Losses to externalTrafficPolicy Local are left out, since ``local_policy`` tells of each node's.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kpsim.reports.local_policy import local_drops
from kpsim.simulation.runlog import Connection, Fate, Frontend, Reason, RunLog

_CHANCE = 0.01  #: losses that are as likely by chance are not told
_NEARLY_ALL = 0.8
_DEVIATIONS = 4  #: standard deviations that chance alone does not explain


@dataclass(frozen=True, slots=True)
class Concentration:
    """Losses of one service port that end alike, and who has all of them. Empty tuples: nobody in particular."""

    service: str
    disposition: Fate
    cause: Reason
    lost: int
    first_ns: int  #: when the first was lost; of those that were set up, when it broke
    last_ns: int
    traffic: tuple[str, ...]  #: the sources whose connections they are, if others of the service lost none so
    frontends: tuple[Frontend, ...]  #: what these sources dial
    nodes: tuple[str, ...]  #: the nodes whose rules they met, if others of the service lost none so
    most: tuple[str, int] | None  #: the node that has nearly all of them, and how many
    endpoint_nodes: tuple[str, ...]  #: the nodes of the endpoints that they were sent to, if others lost none so


def concentrations(log: RunLog) -> list[Concentration]:
    """Return the losses that one part of the sources or nodes has alone, most first."""
    told = {id(drop.connection) for drop in local_drops(log)}
    by_service: dict[str, list[Connection]] = {}
    for c in log.connections:
        by_service.setdefault(c.service, []).append(c)
    found = []
    for service, all_of_it in by_service.items():
        losses: dict[tuple[Fate, Reason], list[Connection]] = {}
        for c in all_of_it:
            if c.disposition is not Fate.DELIVERED and id(c) not in told:
                losses.setdefault((c.disposition, c.cause), []).append(c)
        for (disposition, cause), lost in losses.items():
            traffic = _alone(all_of_it, lost, lambda c: c.traffic)
            same = [c for c in all_of_it if not traffic or c.traffic in traffic]
            nodes = _alone(same, lost, lambda c: c.node)
            endpoint_nodes = _alone([c for c in same if c.endpoint_node], lost, lambda c: c.endpoint_node)
            most = None if nodes else _most(same, lost)
            if traffic or nodes or most or endpoint_nodes:
                times = [c.at_ns if c.broken_ns is None else c.broken_ns for c in lost]
                found.append(
                    Concentration(
                        service, disposition, cause, len(lost), min(times), max(times), traffic,
                        tuple(sorted({c.frontend for c in lost})) if traffic else (), nodes, most,
                        endpoint_nodes,
                    )
                )  # fmt: skip
    return sorted(found, key=lambda each: (-each.lost, each.service, each.disposition, each.cause))


def _alone(
    all_of_it: Sequence[Connection], lost: Sequence[Connection], of: Callable[[Connection], str]
) -> tuple[str, ...]:
    """The values that all lost connections have, if others exist and would have had some of so many by chance."""
    values = {of(c) for c in lost}
    counts = Counter(map(of, all_of_it))
    if "" in values or not counts:
        return ()
    share = sum(counts[value] for value in values) / counts.total()
    if share == 1 or share ** len(lost) > _CHANCE:
        return ()
    return tuple(sorted(values))


def _most(all_of_it: Sequence[Connection], lost: Sequence[Connection]) -> tuple[str, int] | None:
    """The node with nearly all of the losses, if chance does not explain that."""
    node, count = Counter(c.node for c in lost).most_common(1)[0]
    share = sum(c.node == node for c in all_of_it) / len(all_of_it)
    expected = share * len(lost)
    if (
        not node
        or share == 1
        or count < _NEARLY_ALL * len(lost)
        or count < expected + _DEVIATIONS * math.sqrt(expected * (1 - share))
    ):
        return None
    return node, count
