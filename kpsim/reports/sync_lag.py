"""Sync lag: the time from a change's trigger to each node's rules, by stage, beside what kube-proxy itself reports.

A change that had not reached the rules when the run ended took at least the time until then. It counts with that time;
a quantile that such changes may raise is a lower bound.

kube-proxy's own network-programming latency (O-8.6) has one sample for each trigger time that survives until a
successful sync. Removals and failed syncs lose theirs. So it sees fewer changes than there are, and the lost ones are
not the quick ones. A trigger time has whole seconds (CP-2.10), so a sample is up to a second too long; and if several
pods changed, it is the time of the oldest (CP-3.7).
"""

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kpsim.simulation.runlog import Programming, RunLog
from kpsim.units import SECOND_NS


class Stage(enum.StrEnum):
    """The legs of a change's way, in order. Their sum is the lag."""

    NOTICE = "notice"  #: trigger → its writer knows of it: kubelets probe and look at times (CP-2.5, CP-2.8)
    STATUS = "status"  #: → the API server has what the writer knows
    SEE = "see"  #: → the controller has seen that
    SLICE = "slice"  #: → the controller's answer is written: queues, retries and limited calls (CP-3.2, CP-3.6)
    DELIVER = "deliver"  #: → the node's informer handler has it
    WAIT = "wait"  #: → the sync loop starts
    SYNC = "sync"  #: → the node's rules are in force


STAGE_MEANING = {
    Stage.NOTICE: "trigger → noticed",
    Stage.STATUS: "noticed → API server",
    Stage.SEE: "API server → controller",
    Stage.SLICE: "controller → slice written",
    Stage.DELIVER: "API server → node",
    Stage.WAIT: "node → sync starts",
    Stage.SYNC: "sync starts → rules in force",
}


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Nearest-rank quantiles of durations: each is a sample that occurred. ``None`` if there are no samples."""

    count: int
    p50_ns: int | None
    p90_ns: int | None
    p99_ns: int | None
    max_ns: int | None
    at_least: frozenset[str] = frozenset()  #: names of those that are lower bounds

    def named(self) -> list[tuple[str, int | None]]:
        """Return ``p50``, ``p90``, ``p99``, ``max`` with their durations."""
        return [("p50", self.p50_ns), ("p90", self.p90_ns), ("p99", self.p99_ns), ("max", self.max_ns)]

    def is_maximum(self, name: str) -> bool:
        """Return whether a quantile is the longest sample by another name, as p99 is of fewer than 100 samples."""
        return name != "max" and self.count > 0 and nearest_rank(self.count, dict(PERCENTS)[name]) == self.count - 1


PERCENTS = (("p50", 50), ("p90", 90), ("p99", 99), ("max", 100))


def nearest_rank(count: int, percent: int) -> int:
    """Return the index of the smallest of ``count`` sorted samples that at least ``percent`` per cent do not exceed."""
    return max(1, -(-count * percent // 100)) - 1


def quantiles(durations_ns: Iterable[int], at_least_ns: Iterable[int] = ()) -> Quantiles:
    """Return the quantiles of durations, which may be in any order.

    ``at_least_ns`` are durations that had not ended. They may be as long as one likes.
    """
    ended = sorted(durations_ns)
    ordered = sorted([*ended, *at_least_ns])
    if not ordered:
        return Quantiles(0, None, None, None, None)
    ranks = {name: nearest_rank(len(ordered), percent) for name, percent in PERCENTS}
    open_ended = {name for name, rank in ranks.items() if rank >= len(ended) or ended[rank] != ordered[rank]}
    p50, p90, p99, longest = (ordered[rank] for rank in ranks.values())
    return Quantiles(len(ordered), p50, p90, p99, longest, frozenset(open_ended))


#: a lag beyond the longest wait for a sync by default (minSyncPeriod 1s, CFG-2) and what a sync may take beside
SLOW_NS = 2 * SECOND_NS


def is_slow(log: RunLog) -> bool:
    """Return whether the way of changes to the rules deserves a look: some took long or never arrived, or syncs failed."""
    slow = any(lag_ns(change) > SLOW_NS for change in log.programming)
    return slow or bool(log.unprogrammed) or not all(sync.success for sync in log.syncs)


def lag_ns(change: Programming) -> int:
    """Return the time from the trigger until the node's rules were in force."""
    return change.programmed_ns - change.trigger_ns


def stage_ns(change: Programming, stage: Stage) -> int:
    """Return the duration of one leg."""
    bounds_ns, number = moments_ns(change), _NUMBER[stage]
    return bounds_ns[number + 1] - bounds_ns[number]


_NUMBER = {stage: number for number, stage in enumerate(Stage)}


def moments_ns(change: Programming) -> tuple[int, ...]:
    """Return when a change happened and when each of its stages ended, in order. A stage that it does not have takes no time."""
    cause = change.cause
    first = (change.trigger_ns, change.written_ns, change.written_ns) if cause is None else cause[1:4]
    return (
        change.trigger_ns, *first, change.written_ns, change.delivered_ns, change.sync_start_ns, change.programmed_ns,
    )  # fmt: skip


def write_ns(change: Programming) -> int:
    """Return the time from the trigger until nodes could learn of the change: the first four legs together."""
    return change.written_ns - change.trigger_ns


def skew_ns(change: Programming) -> int | None:
    """Return by how much kube-proxy's own sample exceeds the true lag. None: it has no sample."""
    return None if change.reported_ns is None else change.reported_ns - lag_ns(change)


class Unreported(enum.StrEnum):
    """Why kube-proxy has no sample of a change (CP-11.2)."""

    NO_TRIGGER_TIME = "no trigger time"  #: Services, pods that end, and all that comes without a change of readiness
    #: its sync failed, a slice of the Service was deleted in the same batch, or the time is older than the process
    LOST = "lost"


def unreported(change: Programming) -> Unreported | None:
    """Return why kube-proxy has no sample of a change. None: it has one."""
    if change.reported_ns is not None:
        return None
    return Unreported.LOST if change.had_trigger_time else Unreported.NO_TRIGGER_TIME


def mean_stages_ns(log: RunLog) -> dict[Stage, float]:
    """Return the mean duration of each leg over all changes. Their sum is the mean lag. Empty without changes."""
    count = len(log.programming)
    total: dict[Stage, int] = dict.fromkeys(Stage, 0)
    for change in log.programming:
        bounds_ns = moments_ns(change)
        for number, stage in enumerate(Stage):
            total[stage] += bounds_ns[number + 1] - bounds_ns[number]
    return {stage: ns / count for stage, ns in total.items()} if count else {}


def lag_quantiles(log: RunLog) -> Quantiles:
    """Return the quantiles of the true lag over all changes, nodes and families."""
    return quantiles(map(lag_ns, log.programming), waiting_ns(log))


def waiting_ns(log: RunLog, node: str | None = None) -> list[int]:
    """Return how long changes had waited that had not reached the rules of a node (None: of any) at the end."""
    return [log.duration_ns - change.trigger_ns for change in log.unprogrammed if node in (None, change.node)]


def reported_ns(log: RunLog) -> list[int]:
    """Return kube-proxy's own samples."""
    return [change.reported_ns for change in log.programming if change.reported_ns is not None]


def stage_quantiles(log: RunLog) -> dict[Stage, Quantiles]:
    """Return the quantiles of each leg by itself. Quantiles of different legs do not add up to those of the lag."""
    return {stage: quantiles(stage_ns(change, stage) for change in log.programming) for stage in Stage}


def lag_by_node(log: RunLog) -> dict[str, Quantiles]:
    """Return the quantiles of the true lag of each node, sorted by name."""
    lags: dict[str, list[int]] = {}
    for change in log.programming:
        lags.setdefault(change.node, []).append(lag_ns(change))
    named = sorted({*lags, *(change.node for change in log.unprogrammed)})
    return {node: quantiles(lags.get(node, ()), waiting_ns(log, node)) for node in named}


class LagQuantiles(NamedTuple):
    """Quantiles of one duration at one node."""

    node: str  #: empty: all nodes together
    stage: str  #: ``lag``, ``reported``, ``write`` (the first four stages together) or a `Stage`
    quantiles: Quantiles


def all_quantiles(log: RunLog) -> list[LagQuantiles]:
    """Return the quantiles of lag, legs and kube-proxy's samples, for all nodes together and for each.

    The list is empty if no change had to be programmed.
    """
    if not log.programming and not log.unprogrammed:
        return []
    by_node: dict[str, list[Programming]] = {change.node: [] for change in log.unprogrammed}
    for change in log.programming:
        by_node.setdefault(change.node, []).append(change)
    found = []
    for node, part in [("", log.programming), *sorted(by_node.items())]:
        found.append(LagQuantiles(node, "lag", quantiles(map(lag_ns, part), waiting_ns(log, node or None))))
        found.append(LagQuantiles(node, "write", quantiles(map(write_ns, part))))
        found += [LagQuantiles(node, stage.value, quantiles(stage_ns(c, stage) for c in part)) for stage in Stage]
        reported = quantiles(c.reported_ns for c in part if c.reported_ns is not None)
        found.append(LagQuantiles(node, "reported", reported))
    return found


def typical_changes(log: RunLog) -> list[tuple[str, Programming]]:
    """Return the changes whose lags are p50, p90, p99 and max. The legs of one change do add up."""
    ordered = sorted(log.programming, key=lambda p: (lag_ns(p), p.trigger_ns, p.change, p.node, p.family))
    return [(name, ordered[nearest_rank(len(ordered), percent)]) for name, percent in PERCENTS] if ordered else []


def ecdf(durations_ns: Sequence[int], limit: int = 400, *, unended: int = 0) -> list[tuple[int, float]]:
    """Return the empirical distribution as steps (duration, share of samples not above it), about ``limit`` at most.

    ``unended`` more samples had not ended, so the last share is less than 1.
    """
    ordered = sorted(durations_ns)
    count = len(ordered)
    last_of_value = [i for i in range(count) if i + 1 == count or ordered[i + 1] != ordered[i]]
    stride = max(1, -(-len(last_of_value) // limit))
    kept = last_of_value[::stride]
    if last_of_value and kept[-1] != last_of_value[-1]:
        kept.append(last_of_value[-1])
    return [(ordered[i], (i + 1) / (count + unended)) for i in kept]
