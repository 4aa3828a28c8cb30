"""The accounting of a run log: what is counted, and by which rule.

Expected counts are made by hand from `runlogs.story`.
"""

import math
from dataclasses import replace

import pytest
from runlogs import API, WEB, connection, empty, health, lost, ms, programming, sticky, story

from kpsim.reports.affinity import affinity_breaks, affinity_by_client, affinity_by_service, affinity_total
from kpsim.reports.local_policy import (
    HealthView,
    bin_width_ns,
    local_bins,
    local_drop_windows,
    local_drops,
)
from kpsim.reports.overview import count_groups, nodes_of, tally, tally_by, tally_by_service_and_policy
from kpsim.reports.sync_lag import (
    Stage,
    ecdf,
    lag_ns,
    lag_quantiles,
    mean_stages_ns,
    quantiles,
    reported_ns,
    skew_ns,
    stage_ns,
    stage_quantiles,
    typical_changes,
)
from kpsim.simulation.runlog import Cause, Connection, Fate, Frontend, NodeHealth, Reason, RunLog


def log_of(connections: list[Connection], node_health: list[NodeHealth] | None = None) -> RunLog:
    return replace(empty(), connections=connections, node_health=node_health or [])


# ------------------------------------------------------------------------------------------------------------ overview


def test_tally_counts_ends_and_causes() -> None:
    total = tally(count_groups(story()))
    assert total.sent == 12
    assert [total.of(ended) for ended in Fate] == [7, 1, 3, 1, 0]
    assert total.ratio(Fate.DELIVERED) == 7 / 12
    assert total.causes() == [(Reason.NO_LOCAL_ENDPOINTS, 3), (Reason.ENDPOINT_GONE, 1), (Reason.NO_ENDPOINTS, 1)]
    assert total.causes(Fate.FAILED) == [(Reason.ENDPOINT_GONE, 1)]
    assert total.because(Reason.NO_LOCAL_ENDPOINTS) == 3


def test_tally_by_service_policy_and_node() -> None:
    groups = count_groups(story())
    parts = tally_by_service_and_policy(groups)
    assert {key: part.sent for key, part in parts.items()} == {(API, "Cluster"): 4, (WEB, "Local"): 8}
    assert {node: part.sent for node, part in tally_by(groups, "node").items()} == {"node-1": 8, "node-2": 4}
    assert {a: part.sent for a, part in tally_by(groups, "frontend").items()} == {"clusterIP": 4, "loadBalancer": 8}


def test_tally_of_nothing_is_undefined_rather_than_perfect() -> None:
    assert tally([]).sent == 0
    assert math.isnan(tally([]).ratio(Fate.DELIVERED))


def test_nodes_come_from_every_part_of_the_log() -> None:
    only_health = replace(empty(), node_health=[health(0, "node-9", in_rotation=True, check_passes=True, usable=1)])
    assert nodes_of(only_health) == ["node-9"]
    assert nodes_of(replace(empty(), programming=[programming(0, (1, 1, 1, 1), node="node-8")])) == ["node-8"]
    assert nodes_of(log_of([lost(1, Reason.NO_HEALTHY_NODE, node="")])) == []


# ------------------------------------------------------------------------------------------------------------ affinity


def test_affinity_counts_returns_and_breaks_by_client() -> None:
    first, second = affinity_by_client(story())
    assert (first.client, first.decisions, first.returns, first.stays, first.broken) == ("10.180.1.1", 3, 2, 1, 1)
    assert (first.distinct_endpoints, first.stay_ratio, first.breaks) == (2, 0.5, {"endpoint gone": 1})
    assert (second.client, second.decisions, second.returns) == ("10.180.1.2", 1, 0)
    assert math.isnan(second.stay_ratio)
    total = affinity_total([first, second])
    assert (total.clients, total.decisions, total.returns, total.stay_ratio) == (2, 4, 2, 0.5)
    assert [record.service for record in affinity_by_service([first, second])] == [API]


def test_a_break_names_the_former_endpoint() -> None:
    (broke,) = affinity_breaks(story())
    assert (broke.at_ns, broke.cause, broke.client) == (ms(6500), "endpoint gone", "10.180.1.1")
    assert (broke.former_endpoint, broke.endpoint) == ("10.180.1.7:9000", "10.180.2.7:9000")


def test_only_new_flows_to_affinity_services_are_decisions() -> None:
    followed = sticky(2, "10.180.1.1", "10.180.1.7:9000", new_flow=False, protocol="UDP")
    refused = sticky(3, "10.180.1.1", "", disposition=Fate.REJECTED, cause=Reason.NO_ENDPOINTS)
    plain = connection(4)
    log = log_of([sticky(1, "10.180.1.1", "10.180.1.7:9000"), followed, refused, plain])
    (client,) = affinity_by_client(log)
    assert (client.decisions, client.returns) == (1, 0)


def test_a_loss_is_no_break_and_the_break_behind_it_counts_once() -> None:
    """A client may try often while it finds no endpoint. The break is counted once, when it gets another endpoint."""
    losses = [sticky(at, "10.180.1.1", "", disposition=Fate.REJECTED, cause=Reason.NO_ENDPOINTS) for at in (2, 3, 4)]
    elsewhere = sticky(5, "10.180.1.1", "10.180.2.7:9000", "endpoint gone")
    log = log_of([sticky(1, "10.180.1.1", "10.180.1.7:9000"), *losses, elsewhere])
    (client,) = affinity_by_client(log)
    assert (client.decisions, client.returns, client.stays, client.distinct_endpoints) == (2, 1, 0, 2)
    assert [(b.former_endpoint, b.endpoint) for b in affinity_breaks(log)] == [("10.180.1.7:9000", "10.180.2.7:9000")]


# --------------------------------------------------------------------------------------------------------- local policy


def test_local_drops_see_what_the_load_balancer_believed() -> None:
    drops = local_drops(story())
    assert [(d.connection.at_ns, d.connection.node) for d in drops] == [
        (ms(2500), "node-2"),
        (ms(3000), "node-2"),
        (ms(4000), "node-2"),
    ]
    assert {d.view for d in drops} == {HealthView.NOT_NOTICED}


@pytest.mark.parametrize(
    ("attempt", "counts"),
    [
        (lost(1, Reason.NO_LOCAL_ENDPOINTS), True),
        (lost(1, Reason.NO_LOCAL_ENDPOINTS, Fate.REJECTED), True),
        # ipvs mode falls back to all endpoints, and the answer bypasses the node (IPVS-15)
        (lost(1, Reason.ASYMMETRIC_REPLY, Fate.FAILED, node="node-2", endpoint_node="node-1"), True),
        (lost(1, Reason.ASYMMETRIC_REPLY, Fate.FAILED, node="node-1", endpoint_node="node-1"), False),
        (lost(1, Reason.NODE_DOWN), True),
        (lost(1, Reason.NO_HEALTHY_NODE, node=""), True),
        (lost(1, Reason.SOURCE_RANGES), False),
        (lost(1, Reason.NO_ENDPOINTS, Fate.REJECTED), False),
        (lost(1, Reason.RATE_LIMITED), False),  # the same, and the client is not told
        (lost(1, Reason.TABLE_FULL), True),
        (lost(1, Reason.ENDPOINT_GONE, Fate.FAILED), False),
        (lost(1, Reason.NO_LOCAL_ENDPOINTS, traffic_policy="Cluster"), False),
        (lost(1, Reason.NO_LOCAL_ENDPOINTS, frontend=Frontend.CLUSTER_IP), False),  # internalTrafficPolicy
        (connection(1), False),
    ],
)
def test_what_counts_as_a_local_drop(attempt: Connection, counts: bool) -> None:
    assert bool(local_drops(log_of([attempt]))) is counts


@pytest.mark.parametrize(
    ("records", "view"),
    [
        ([], HealthView.NOT_WATCHED),
        ([health(2, "node-1", in_rotation=True, check_passes=True, usable=1)], HealthView.NOT_WATCHED),
        ([health(0, "node-1", in_rotation=True, check_passes=True, usable=0)], HealthView.CHECK_PASSES),
        ([health(0, "node-1", in_rotation=True, check_passes=False, usable=0)], HealthView.NOT_NOTICED),
        ([health(1, "node-1", in_rotation=False, check_passes=False, usable=0)], HealthView.OUT_OF_ROTATION),
    ],
)
def test_health_view(records: list[NodeHealth], view: HealthView) -> None:
    """A health change of the same instant comes before the packet; one of a later instant does not count."""
    (drop,) = local_drops(log_of([lost(1, Reason.NO_LOCAL_ENDPOINTS)], records))
    assert drop.view is view


def test_the_window_of_the_story() -> None:
    (window,) = local_drop_windows(story())
    assert (window.service, window.node, window.cause) == (WEB, "node-2", Reason.NO_LOCAL_ENDPOINTS)
    assert (window.start_ns, window.end_ns, window.dropped) == (ms(2500), ms(4000), 3)
    assert window.in_rotation is True
    assert (window.no_local_since_ns, window.check_failed_ns, window.left_rotation_ns) == (ms(2000), ms(2000), ms(5000))


def test_windows_end_at_a_delivery_a_change_of_state_and_another_cause() -> None:
    none = Reason.NO_LOCAL_ENDPOINTS
    attempts = [
        lost(10, none),
        lost(20, none),
        connection(30),
        lost(40, none),
        lost(60, none),  # out of rotation since 50
        lost(70, Reason.NODE_DOWN),
        lost(80, none, node="node-2"),
        lost(90, none),
    ]
    records = [
        health(0, "node-1", in_rotation=True, check_passes=False, usable=0),
        health(50, "node-1", in_rotation=False, check_passes=False, usable=0),
    ]
    windows = local_drop_windows(log_of(attempts, records))
    assert [(w.node, w.cause, w.start_ns, w.end_ns, w.dropped, w.in_rotation) for w in windows] == [
        ("node-1", none, ms(10), ms(20), 2, True),
        ("node-1", none, ms(40), ms(40), 1, True),
        ("node-1", none, ms(60), ms(90), 2, False),
        ("node-1", Reason.NODE_DOWN, ms(70), ms(70), 1, False),
        ("node-2", none, ms(80), ms(80), 1, None),
    ]


def test_a_window_does_not_borrow_a_later_departure() -> None:
    records = [
        health(0, "node-1", in_rotation=True, check_passes=True, usable=0),
        health(20, "node-1", in_rotation=True, check_passes=True, usable=1),
        health(30, "node-1", in_rotation=False, check_passes=False, usable=0),
    ]
    (window,) = local_drop_windows(log_of([lost(10, Reason.NO_LOCAL_ENDPOINTS)], records))
    assert (window.no_local_since_ns, window.check_failed_ns, window.left_rotation_ns) == (0, None, None)


def test_a_check_that_fails_within_the_window_is_told() -> None:
    records = [
        health(0, "node-1", in_rotation=True, check_passes=True, usable=0),
        health(20, "node-1", in_rotation=True, check_passes=False, usable=0),
    ]
    attempts = [lost(10, Reason.NO_LOCAL_ENDPOINTS), lost(30, Reason.NO_LOCAL_ENDPOINTS)]
    (window,) = local_drop_windows(log_of(attempts, records))
    assert (window.dropped, window.no_local_since_ns, window.check_failed_ns) == (2, 0, ms(20))


def test_bins_are_shares_of_the_watched_time() -> None:
    """Watched from 1 s on, in rotation until 1.5 s: half of what is known of the first two seconds."""
    records = [
        health(1000, "node-1", in_rotation=True, check_passes=True, usable=1),
        health(1500, "node-1", in_rotation=False, check_passes=True, usable=1),
    ]
    first = local_bins(log_of([connection(100)], records), ms(2000))[0]
    assert (first.in_rotation_ratio, first.usable_ratio) == (0.5, 1.0)


def test_bins_count_traffic_and_cover_rotation() -> None:
    bins = local_bins(story(), ms(2000))
    assert len(bins) == 10  # 5 bins of two nodes
    second = {b.start_ns // ms(1000): b for b in bins if b.node == "node-2"}
    received = {start: (b.received, b.delivered, b.dropped) for start, b in second.items()}
    assert received == {0: (1, 1, 0), 2: (2, 0, 2), 4: (1, 0, 1), 6: (0, 0, 0), 8: (0, 0, 0)}
    assert [second[start].in_rotation_ratio for start in (0, 2, 4, 6, 8)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert [second[start].usable_ratio for start in (0, 2, 4)] == [1.0, 0.0, 0.0]


def test_bins_of_an_unwatched_node_are_undefined_and_the_last_instant_has_a_bin() -> None:
    bins = local_bins(log_of([lost(10_000, Reason.NO_LOCAL_ENDPOINTS)]), ms(5000))
    assert [b.dropped for b in bins] == [0, 0, 1]
    assert all(math.isnan(b.in_rotation_ratio) for b in bins)


@pytest.mark.parametrize(("duration_ms", "width_ms"), [(0, 1), (120, 1), (121, 2), (10_000, 100), (36_000, 500)])
def test_bin_width_is_1_2_or_5_and_gives_at_most_120_bins(duration_ms: int, width_ms: int) -> None:
    assert bin_width_ns(ms(duration_ms)) == ms(width_ms)


# ------------------------------------------------------------------------------------------------------------- sync lag


def test_lag_and_its_legs() -> None:
    lag = lag_quantiles(story())  # 200, 400 and 1000 ms
    assert (lag.count, lag.p50_ns, lag.p90_ns, lag.p99_ns, lag.max_ns) == (3, ms(400), ms(1000), ms(1000), ms(1000))
    legs = stage_quantiles(story())
    assert [legs[stage].p50_ns for stage in Stage] == [0, ms(100), 0, 0, ms(20), ms(200), ms(80)]
    assert list(mean_stages_ns(story()).values()) == [0, ms(100), 0, 0, ms(50) / 3, ms(280), ms(410) / 3]
    assert mean_stages_ns(empty()) == {}


def test_a_change_that_a_controller_passed_on_has_seven_legs() -> None:
    cause = Cause(ms(1000), ms(1300), ms(1310), ms(1315), "Pod shop/web-1 @ 41")
    change = replace(programming(1000, (400, 20, 200, 80), reported_ms=900), cause=cause)
    assert [stage_ns(change, stage) for stage in Stage] == [ms(n) for n in (300, 10, 5, 85, 20, 200, 80)]
    assert (lag_ns(change), skew_ns(change)) == (ms(700), ms(200))
    assert skew_ns(programming(1000, (1, 1, 1, 1))) is None
    assert reported_ns(story()) == [ms(190), ms(390)]
    assert [(name, change.programmed_ns - change.trigger_ns) for name, change in typical_changes(story())] == [
        ("p50", ms(400)),
        ("p90", ms(1000)),
        ("p99", ms(1000)),
        ("max", ms(1000)),
    ]


def test_quantiles_are_nearest_rank() -> None:
    found = quantiles(range(100, 0, -1))
    assert (found.p50_ns, found.p90_ns, found.p99_ns, found.max_ns) == (50, 90, 99, 100)
    assert quantiles([7]).p50_ns == 7
    assert not any(map(found.is_maximum, ("p50", "p90", "p99", "max")))
    assert [name for name, _ in quantiles(range(99)).named() if quantiles(range(99)).is_maximum(name)] == ["p99"]
    assert [name for name, _ in quantiles([1, 2]).named() if quantiles([1, 2]).is_maximum(name)] == ["p90", "p99"]
    assert not quantiles([]).is_maximum("p99")
    assert quantiles([]).p99_ns is None


def test_ecdf_steps_once_a_value_and_keeps_its_end_when_thinned() -> None:
    assert ecdf([4, 1, 2, 1]) == [(1, 0.5), (2, 0.75), (4, 1.0)]
    assert ecdf([]) == []
    thinned = ecdf(range(1, 1001), limit=10)
    assert len(thinned) <= 11
    assert thinned[-1] == (1000, 1.0)
    assert all(share == duration / 1000 for duration, share in thinned)


def test_empty_log_reports_nothing() -> None:
    log = empty()
    assert (count_groups(log), affinity_by_client(log), affinity_breaks(log)) == ([], [], [])
    assert (local_drops(log), local_drop_windows(log), local_bins(log), typical_changes(log)) == ([], [], [], [])
    assert lag_quantiles(log).count == 0
