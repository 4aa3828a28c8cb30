"""kube-proxy's health on the clock: what load balancers and reports see of it (CP-10.1, CP-12.1, CP-14.1, CP-15)."""

from itertools import groupby

from simulations import HEAD, simulate

from kpsim.simulation.runlog import RunLog
from kpsim.units import MILLISECOND_NS as MS
from kpsim.units import SECOND_NS

BALANCED = (
    HEAD.replace("type: NodePort", "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32080")
    + """\
  - apiVersion: v1
    kind: Service
    metadata: {name: other}
    spec: {clusterIP: 172.30.0.11, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
loadBalancer: {interval: 2s, unhealthyThreshold: 2, healthyThreshold: 2}
"""
)
PATCH = "patchService: {service: other, patch: {spec: {externalIPs: [198.51.100.%d]}}}"


def passes(log: RunLog, node: str = "node-1") -> list[tuple[int, bool]]:
    """Return when (ms) the node's health check began to pass or to fail."""
    rows = [row for row in log.node_health if row.node == node]
    return [(next(group).at_ns // MS, passing) for passing, group in groupby(rows, key=lambda row: row.check_passes)]


def rotation(log: RunLog, node: str = "node-1") -> list[tuple[int, bool]]:
    rows = [row for row in log.node_health if row.node == node]
    return [(next(group).at_ns // MS, inside) for inside, group in groupby(rows, key=lambda row: row.in_rotation)]


SLOW = "delays.onNodes=[{nodes: [node-1], sync: {base: 100s, perRule: 0s}}]"


def test_a_sync_of_a_hundred_seconds_fails_the_health_check_until_it_ends() -> None:  # CP-10.1 step 5, CP-14.1, CP-15.2
    log = simulate(f"events: [{{at: 10s, {PATCH % 1}}}]\n", SLOW, "duration=150s", head=BALANCED)
    # queued 10.000 +7 +19; unhealthy 2 × 30 s later; the sync ends 100 s after it began
    assert passes(log) == [(0, True), (70_026, False), (110_026, True)]
    (in_, out, back) = rotation(log)
    assert in_ == (0, True) and not out[1] and back[1]
    assert 72_026 <= out[0] <= 74_026  # the second failed probe, one every 2 s
    assert 112_026 <= back[0] <= 114_026
    assert passes(log, "node-2") == [(0, True)]


def test_an_end_of_a_sync_answers_also_what_was_asked_meanwhile() -> None:  # CP-14.1: Updated clears the oldest request
    log = simulate(
        f"events: [{{at: 10s, {PATCH % 1}}}, {{at: 20s, {PATCH % 2}}}]\n", SLOW, "duration=240s", head=BALANCED
    )
    # the second request, of 20.026, is pending from 111.026 in a sync of its own, but was cleared at 110.026: nothing is overdue
    assert passes(log) == [(0, True), (70_026, False), (110_026, True)]
    (second,) = [sync for sync in log.syncs if sync.node == "node-1" and sync.start_ns > 100 * SECOND_NS]
    assert second.end_ns == 211_026 * MS


def test_failing_syncs_turn_the_health_by_the_clock_alone() -> None:
    events = f"events: [{{at: 9s, failSyncs: {{nodes: [node-1], for: 100s}}}}, {{at: 10s, {PATCH % 1}}}]\n"
    log = simulate(events, "duration=150s", head=BALANCED)
    # retries end 23 ms after 40.049, 70.072, 100.095; that of 130.118 succeeds (CP-9.2)
    assert passes(log) == [(0, True), (70_026, False), (130_141, True)]


def test_rules_of_a_former_kube_proxy_stay_usable_while_the_new_one_knows_no_endpoint() -> None:  # CP-12.1
    events = "events: [{at: 10s, restartProxy: {nodes: [node-1], down: 10s}}]\n"
    log = simulate(events, "delays.sync={base: 1s, perRule: 0s}", head=BALANCED)
    rows = [row for row in log.node_health if row.node == "node-1"]
    assert {row.local_usable for row in rows} == {1}
    seen = dict.fromkeys((row.at_ns // MS, row.check_passes, row.local_endpoints) for row in rows)
    # stopped at 10 s; a new process at 20 s; its lists at 20.1 s, its first sync ends at 21.1 s
    truth = [(0, True, 1), (10_000, False, 1), (20_000, False, 0), (21_100, True, 1)]
    assert [row for row in seen if row in truth] == truth
    assert {row[1:] for row in seen} == {row[1:] for row in truth}


def test_rules_end_with_their_machine() -> None:
    events = "events: [{at: 10s, nodeDown: {nodes: [node-1]}}, {at: 20s, nodeUp: {nodes: [node-1]}}]\n"
    log = simulate(events, "duration=40s", head=BALANCED)
    # the pod answers at 21.000, +100 probe, and its endpoint is in the rules 90 ms later
    usable = [(row.at_ns // MS, row.local_usable) for row in log.node_health if row.node == "node-1"]
    assert [next(group)[0] for _, group in groupby(usable, key=lambda row: row[1])][:3] == [0, 10_000, 21_190]


def test_a_health_check_port_that_goes_is_recorded_at_that_time() -> None:
    patch = "patchService: {service: web, patch: {spec: {externalTrafficPolicy: Cluster, healthCheckNodePort: 0}}}"
    events = f"events: [{{at: 9s, scale: {{workload: web, replicas: 0}}}}, {{at: 20s, {patch}}}]\n"
    log = simulate(events, "duration=30s", head=BALANCED)
    # without endpoints the port answers 503; from 20.007 on the balancer probes /healthz, which passes
    assert passes(log)[-1] == (20_007, True)


def test_the_hourly_run_is_full() -> (
    None
):  # CP-9.1: the runner's timer starts after the time of the last full sync was noted
    for cost in ("0s", "23ms"):
        log = simulate("", "duration=7300s", f"delays.sync={{base: {cost}, perRule: 0s}}")
        mine = [(sync.start_ns // SECOND_NS, sync.full) for sync in log.syncs if sync.node == "node-1"]
        assert mine == [(0, True), (3600, True), (7200, True)]
