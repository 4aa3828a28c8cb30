"""Pairs the connections of two runs, and groups those whose fate differs."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from kpsim.comparison.runs import Account, Ended, FigureDifference, Pair, RunComparison, Window
from kpsim.units import SECOND_NS

GAP_NS = 2 * SECOND_NS  #: losses that are further apart are in windows of their own


def compare_runs(a: Account, b: Account) -> RunComparison:
    """Compare two runs connection by connection."""
    pairs, only_a, only_b = _paired(a.connections, b.connections)
    both = [pair for pair in pairs if pair.a.lost and pair.b.lost]
    lost_a = [(pair.a, pair.b) for pair in pairs if pair.a.lost and not pair.b.lost]
    lost_b = [(pair.b, pair.a) for pair in pairs if pair.b.lost and not pair.a.lost]
    windows = sorted(
        [*_windows("a", lost_a), *_windows("b", lost_b)], key=lambda w: (w.first_ns, w.lost_in, w.traffic, w.node)
    )
    return RunComparison(
        a, b, len(pairs), only_a, only_b, len(both), sum(pair.a.cause != pair.b.cause for pair in both), tuple(windows),
        tuple(_figures(a, b)), tuple(_notes(a, b, pairs)),
    )  # fmt: skip


def _paired(first: Iterable[Ended], second: Iterable[Ended]) -> tuple[list[Pair], int, int]:
    """Pair connections of one source, client and instant. Several at one instant are paired in their order."""
    waiting: dict[tuple[str, int, str, int], Ended] = dict(_numbered(second))
    pairs, alone = [], 0
    for key, connection in _numbered(first):
        other = waiting.pop(key, None)
        if other is None:
            alone += 1
        else:
            pairs.append(Pair(connection, other))
    return pairs, alone, len(waiting)


def _numbered(connections: Iterable[Ended]) -> Iterator[tuple[tuple[str, int, str, int], Ended]]:
    seen: Counter[tuple[str, int, str]] = Counter()
    for each in connections:
        key = each.traffic, each.at_ns, each.client
        yield (*key, seen[key]), each
        seen[key] += 1


def _windows(side: str, moved: Sequence[tuple[Ended, Ended]]) -> Iterator[Window]:
    """Group connections that one run lost. ``moved`` holds each, and the same one in the other run."""
    groups: dict[tuple[str, str, str, str, str], list[tuple[Ended, Ended]]] = {}
    for lost, kept in moved:
        key = lost.traffic, lost.service, lost.node, lost.disposition, lost.cause
        groups.setdefault(key, []).append((lost, kept))
    for (traffic, service, node, disposition, cause), members in groups.items():
        members.sort(key=lambda each: each[0].at_ns)
        begin = 0
        for place in range(1, len(members) + 1):
            if place < len(members) and members[place][0].at_ns - members[place - 1][0].at_ns <= GAP_NS:
                continue
            part = members[begin:place]
            served = Counter(kept.endpoint_node or "no node" for _, kept in part)
            elsewhere = tuple(sorted(served.items(), key=lambda each: (-each[1], each[0])))
            first_ns, last_ns = part[0][0].at_ns, part[-1][0].at_ns
            yield Window(side, traffic, service, node, disposition, cause, first_ns, last_ns, len(part), elsewhere)
            begin = place


def _figures(a: Account, b: Account) -> Iterator[FigureDifference]:
    for name in dict.fromkeys([*a.figures, *b.figures]):
        mine, other = (_defined(each.figures.get(name)) for each in (a, b))
        if mine != other:
            yield FigureDifference(name, mine, other)


def _defined(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _notes(a: Account, b: Account, pairs: Sequence[Pair]) -> Iterator[str]:
    if a.seed != b.seed:
        yield f"the seeds differ ({a.seed} and {b.seed}), so other draws move connections, too"
    if a.connections and b.connections and not pairs:
        yield "no connection of one run has its like in the other: other sources, clients or rates"
