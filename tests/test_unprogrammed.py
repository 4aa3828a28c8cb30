"""Changes that had not reached a node's rules when the run ended: they count, and their lag is at least the time until then."""

from dataclasses import replace

import pytest
from runlogs import empty, ms, programming
from simulations import MS, simulate

from kpsim.reports.expectations import evaluate, parse_expectation
from kpsim.reports.figures import figures
from kpsim.reports.frames import SYNC_LAG_QUANTILES, UNPROGRAMMED
from kpsim.reports.sentences import sync_lag_sentence, sync_lag_table
from kpsim.reports.sync_lag import ecdf, quantiles
from kpsim.simulation.runlog import RunLog, Unprogrammed
from kpsim.units import SECOND_NS

SCALE = "events:\n  - {at: 5s, scale: {workload: web, replicas: 1}}\n"


def test_a_node_whose_syncs_fail_is_slow_and_not_fast() -> None:
    log = simulate(SCALE + "  - {at: 4s, failSyncs: {nodes: [node-2], for: 1h}}\n", "duration=20s")
    assert {row.node for row in log.programming} == {"node-1"}
    assert {row.node for row in log.unprogrammed} == {"node-2"}
    assert len(log.unprogrammed) == len(log.programming)  # the same changes
    assert [row.change for row in log.unprogrammed] == [row.change for row in log.programming]
    found = figures(log)
    assert found["sync_lag.count"] == 2 * found["sync_lag.unprogrammed"]
    assert found["sync_lag.max_seconds"] == found["sync_lag.nodes.node-2.max_seconds"] == 15.0  # 5 s until 20 s
    assert found["sync_lag.nodes.node-1.max_seconds"] < 2


@pytest.mark.parametrize(
    "event", ["{at: 4s, restartProxy: {nodes: [node-2], down: 1h}}", "{at: 4s, failSyncs: {nodes: [node-2], count: 9}}"]
)
def test_a_kube_proxy_that_does_not_run_has_unprogrammed_changes_too(event: str) -> None:
    log = simulate(SCALE + f"  - {event}\n", "duration=20s")
    assert {row.node for row in log.unprogrammed} == {"node-2"}


def test_a_change_under_way_counts_and_one_for_a_machine_that_is_off_does_not() -> None:
    late = simulate(SCALE, "duration=5045ms")  # written 5.037 at the latest, and 19 ms from the nodes
    assert {row.node for row in late.unprogrammed} == {"node-1", "node-2"} and not late.programming
    off = simulate(SCALE + "  - {at: 4s, nodeDown: {nodes: [node-2]}}\n", "duration=20s")
    assert off.unprogrammed == []


def test_a_run_that_settles_has_none() -> None:
    assert simulate(SCALE, "duration=20s").unprogrammed == []


# ------------------------------------------------------------------------------------------------------------ quantiles


def test_a_quantile_is_a_bound_only_if_an_open_duration_may_raise_it() -> None:
    found = quantiles([100] * 99, [5])  # 100 samples: rank 50, 90 and 99 are 100 whatever becomes of the open one
    assert (found.count, found.p50_ns, found.p99_ns, found.max_ns) == (100, 100, 100, 100)
    assert found.at_least == {"max"}
    assert quantiles([], [7]).at_least == {"p50", "p90", "p99", "max"}
    assert quantiles([3, 1, 2]).at_least == frozenset()
    # sorted 1 2 9 9: the median is 2 if both open ones are longer than 9
    assert quantiles([1, 2], [9, 9]).at_least == {"p90", "p99", "max"}
    # sorted 1 1 5 6: the median is 1, but it is 6 if both open ones take longer
    assert quantiles([5, 6], [1, 1]).at_least == {"p50", "p90", "p99", "max"}


def test_shares_of_unended_durations_never_reach_one() -> None:
    assert ecdf([1, 2], unended=2) == [(1, 0.25), (2, 0.5)]


def broken() -> RunLog:
    """node-1 took 200 ms; node-2 has waited since 1 s, which is 9 s."""
    waiting = Unprogrammed("EndpointSlice shop/web-1 @ 2", "shop/web", "node-2", "IPv4", ms(1000), ms(1100))
    return replace(empty(), programming=[programming(1000, (50, 50, 50, 50))], unprogrammed=[waiting])


def test_words_and_frames_say_at_least() -> None:
    text = sync_lag_sentence(broken())
    assert text.startswith(
        "1 change reached the rules (counted per node), 1 had not when the run ended (at least 9 s for the oldest): "
        "p50 200 ms, max at least 9 s after their trigger"
    )
    assert sync_lag_table(broken()).rows[0] == ("trigger → rules in force", "2", "200 ms", "max", "max", "≥ 9 s")
    rows = SYNC_LAG_QUANTILES.frame(broken()).set_index(["node", "stage"])
    assert rows.loc[("", "lag"), "at_least"] == "p90 p99 max"
    assert rows.loc[("node-2", "lag"), "at_least"] == "p50 p90 p99 max"
    assert UNPROGRAMMED.frame(broken())["trigger_ns"].tolist() == [SECOND_NS]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("sync_lag.p99_seconds > 8s", True),
        ("sync_lag.p99_seconds >= 9", True),
        ("sync_lag.p99_seconds > 9", False),  # not known
        ("sync_lag.p99_seconds < 1h", False),  # it may take a day
        ("sync_lag.p99_seconds == 9", False),
        ("sync_lag.p99_seconds != 9", False),
        ("sync_lag.p99_seconds != 8", True),
        ("sync_lag.p99_seconds between 8 and 10", False),
        ("sync_lag.p50_seconds < 1", True),
        ("sync_lag.unprogrammed == 1", True),
    ],
)
def test_a_lower_bound_satisfies_what_every_larger_value_does(text: str, holds: bool) -> None:
    result = evaluate(parse_expectation(text), figures(broken()))
    assert result.holds is holds
    assert ("is at least 9)" in str(result)) is ("p99" in text)


def test_the_moment_of_a_failing_sync() -> None:
    """A sync fails if it starts within the time; one that is under way at the event still succeeds."""
    events = SCALE + "  - {at: 5060ms, failSyncs: {for: 1s}}\n"  # +7 +13 +17 +19: the first sync starts at 5.056 s
    log = simulate(events, "duration=20s")
    told = [h.detail for h in log.happenings if h.kind == "syncs fail"]
    assert told == ["those that start within 1s"] * 2
    for node in ("node-1", "node-2"):
        under_way = next(sync for sync in log.syncs if sync.node == node and sync.start_ns > 5 * SECOND_NS)
        assert (under_way.start_ns, under_way.success) == (5056 * MS, True)
