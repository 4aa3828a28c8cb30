"""A change on its way to the rules, kube-proxy's life, and dual-stack nodes, on the clock."""

import gc
import subprocess
import sys

import pytest
from simulations import HEAD, INSIDE, MS, ms, of, simulate

from kpsim.scenario import parse_scenario
from kpsim.simulation import run
from kpsim.simulation.runlog import Fate, Reason
from kpsim.units import SECOND_NS


def test_a_new_pod_on_its_way_to_the_rules_stage_by_stage() -> None:
    log = simulate("events: [{at: 5s, scale: {workload: web, replicas: 3}}]\n", "duration=20s")
    first, second = [row for row in log.programming if row.node == "node-1"]
    # 5.000 created without address, so no endpoint yet (CP-3.4.1); 6.000 it answers, and its kubelet reports the address:
    # +11+7 written, +13 seen by the controller, +17 slice, +19 delivered; idle, so the sync starts at once (CP-9)
    assert ms(first) == (6000, 6048, 6067, 6067, 6090)
    # 6.000 +100 probe: trigger; +11+7 written, +13 seen, +17 slice, +19 delivered; but the sync before ended at 6.090
    assert ms(second) == (6100, 6148, 6167, 7090, 7113)
    # kube-proxy's own sample counts from whole seconds (CP-2.10, CP-3.7.3): 6.090 − 6; the second transition lies in the same
    # second as the first, so the controller takes it for none (CP-3.7.1)
    assert (first.reported_ns, second.reported_ns) == (90 * MS, None)
    assert second.service == "default/web" and second.change.startswith("EndpointSlice default/web-")


def test_the_end_of_a_pod_has_no_latency_sample() -> None:
    log = simulate("events: [{at: 5s, scale: {workload: web, replicas: 1}}]\n", "duration=20s")
    rows = [row for row in log.programming if row.node == "node-1"]
    assert len(rows) == 2  # terminating, then gone
    assert all(row.reported_ns is None for row in rows)  # CP-3.7.3


def test_the_second_change_of_a_burst_waits_for_min_sync_period() -> None:
    log = simulate("events: [{at: 5s, scale: {workload: web, replicas: 1}}]\n", "duration=20s")
    first, second = [row for row in log.programming if row.node == "node-1"]
    # deletion 5.007 written; seen 5.020, slice 5.037, delivered 5.056, synced until 5.079
    assert ms(first) == (5000, 5037, 5056, 5056, 5079)
    # the pod exits at 5.007; gone from the API at 5.007+11+7 = 5.025, seen 5.038 while the controller does not yet know its own
    # write of 5.037 (seen 5.050): stale, retried 1 s later (CP-3.11, CP-3.2): 6.038, +17 slice, +19 delivered; idle since 6.079
    assert ms(second) == (5007, 6055, 6074, 6079, 6102)


def test_min_sync_period_is_counted_from_the_end_of_the_last_sync() -> None:
    events = """
events:
  - {at: 5s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.1]}}}}
  - {at: 5.1s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.2]}}}}
  - {at: 5.2s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.3]}}}}
"""
    log = simulate(events, "duration=20s", "proxy={iptables: {minSyncPeriod: 3s}}")
    starts = [sync.start_ns // MS for sync in log.syncs if sync.node == "node-1"]
    assert starts == [0, 5026, 5049 + 3000]  # 5.000 + 7 written + 19 delivered; its end + 3 s (CP-9.3)
    assert [row.sync_start_ns // MS for row in log.programming if row.node == "node-1"] == [5026, 8049, 8049]
    assert all(row.reported_ns is None for row in log.programming)  # spec changes have no trigger (CP-3.7.1)


def test_a_service_change_that_kube_proxy_does_not_read_is_no_change() -> None:
    log = simulate(
        "events: [{at: 5s, patchService: {service: web, patch: {spec: {publishNotReadyAddresses: false}}}}]\n"
    )
    assert log.programming == []  # O-7.2
    assert len(log.syncs) == 2  # the initial ones


def test_a_failed_sync_is_retried_after_the_sync_period_and_loses_its_samples() -> None:
    events = """
events:
  - {at: 4s, failSyncs: {nodes: [node-1], count: 2}}
  - {at: 5s, scale: {workload: web, replicas: 3}}
"""
    log = simulate(events)
    mine = [(sync.start_ns // MS, sync.success, sync.full) for sync in log.syncs if sync.node == "node-1"]
    # both changes of the scale-up meet a failing sync; the retry comes 30 s after the second has ended, and is full (CP-13)
    assert mine == [(0, True, True), (6067, False, False), (7090, False, True), (7113 + 30_000, True, True)]
    rows = [row for row in log.programming if row.node == "node-1"]
    assert [ms(row)[3] for row in rows] == [37_113, 37_113]
    assert [row.reported_ns for row in rows] == [None, None]  # CP-10.2
    assert [h.at_ns // MS for h in log.happenings if h.kind == "sync failed"] == [6090, 7113]
    # the other node is not concerned
    assert [row.programmed_ns // MS for row in log.programming if row.node == "node-2"] == [6090, 7113]


def test_failures_for_a_time_end_with_it() -> None:
    events = """
events:
  - {at: 4s, failSyncs: {for: 3s}}
  - {at: 5s, scale: {workload: web, replicas: 3}}
"""
    log = simulate(events)
    assert [sync.success for sync in log.syncs if sync.node == "node-1"] == [True, False, True]


def test_informers_keep_the_order_of_one_kind() -> None:
    events = "events: [{at: 5s, rollout: {workload: web, maxSurge: 2, maxUnavailable: 0}}]\n"
    log = simulate(events, "delays.watchDelivery={uniform: {low: 0s, high: 900ms}}", "workloads[0].replicas=6")
    for node in ("node-1", "node-2"):
        rows = sorted(
            (row for row in log.programming if row.node == node), key=lambda row: int(row.change.rpartition(" ")[2])
        )
        assert len(rows) > 6
        assert [row.delivered_ns for row in rows] == sorted(row.delivered_ns for row in rows)


def test_a_slow_node_is_late_and_the_others_are_not() -> None:
    events = "events: [{at: 5s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.1]}}}}]\n"
    log = simulate(events, "delays.onNodes=[{nodes: [node-2], watchDelivery: 2s, sync: {base: 1s, perRule: 0s}}]")
    assert [(row.node, *ms(row)[2:]) for row in log.programming] == [
        ("node-1", 5026, 5026, 5049),
        ("node-2", 7007, 7007, 8007),
    ]


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_syncs_cost_what_they_write(mode: str) -> None:
    events = "events: [{at: 5s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.1]}}}}]\n"
    log = simulate(events, "delays.sync={base: 10ms, perRule: 1ms, perHeldRule: 1us}", f"proxy.mode={mode}")
    (change,) = [sync for sync in log.syncs if sync.node == "node-1" and sync.start_ns]
    assert change.end_ns - change.start_ns == 10 * MS + change.rules_written * MS + change.rules * MS // 1000
    in_tables = change.rules_nat + change.rules_filter
    if in_tables:  # one Service: every rule is written (I-12)
        assert change.rules_written == change.rules == in_tables
    else:  # NFT-8.7: the two rules of its external chain and the one of its service chain, of many more
        assert change.rules_written == 3 < change.rules


# ------------------------------------------------------------------------------------------------- kube-proxy and nodes


def test_a_restarted_kube_proxy_leaves_its_rules_and_syncs_when_the_lists_are_there() -> None:
    events = "events: [{at: 5s, restartProxy: {nodes: [node-1], down: 2s}}]\n"
    log = simulate(events + INSIDE, "duration=20s")
    assert of(log, Fate.DELIVERED) == log.connections  # CP-12.1
    mine = [(sync.start_ns // MS, sync.full) for sync in log.syncs if sync.node == "node-1"]
    assert mine == [(0, True), (7100, True)]  # the start gate opens with the lists (O-1.8)


def test_changes_while_kube_proxy_is_down_arrive_with_its_first_sync() -> None:
    events = """
events:
  - {at: 5s, restartProxy: {nodes: [node-1], down: 4s}}
  - {at: 6s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.1]}}}}
"""
    log = simulate(events, "duration=20s")
    (row,) = [row for row in log.programming if row.node == "node-1"]
    assert ms(row) == (6000, 6007, 9100, 9100, 9123)


def test_an_event_right_after_the_initial_sync_waits_for_the_runners_first_empty_run() -> None:
    events = """
events:
  - {at: 5s, restartProxy: {nodes: [node-1]}}
  - {at: 5.3s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.1]}}}}
"""
    log = simulate(events, "duration=20s")
    # the Node's zone label asks for a sync at 5.000, before the gate is open: that run does nothing but starts the cooling of one
    # second (CP-7.2, CP-9.5); the initial sync at 5.100 is direct; the change delivered at 5.326 waits until 6.000
    assert [sync.start_ns // MS for sync in log.syncs if sync.node == "node-1"] == [0, 5100, 6000]


def test_a_node_without_power_keeps_its_endpoints_for_the_grace_period() -> None:
    events = "events: [{at: 10s, nodeDown: {nodes: [node-2]}}]\n"
    traffic = "traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 40}]\n"
    log = simulate(events + traffic, "duration=80s")
    lost = [c for c in log.connections if c.cause is Reason.NODE_DOWN]
    assert {c.endpoint_node for c in lost} == {"node-2"} and {c.disposition for c in lost} == {Fate.FAILED}
    # 60.000 declared, +7 written, +13 seen, +17 slice, +19 delivered, +23 synced (CP-2.9)
    assert lost[0].at_ns >= 10 * SECOND_NS and lost[-1].at_ns < 60_079 * MS
    assert [c for c in log.connections if c.at_ns >= 60_079 * MS and c.endpoint_node != "node-1"] == []
    assert len(lost) == pytest.approx(50 * 40 / 2, rel=0.1)  # one of two endpoints


def test_a_node_comes_back_without_rules_and_learns_them_anew() -> None:
    events = "events: [{at: 10s, nodeDown: {nodes: [node-2]}}, {at: 20s, nodeUp: {nodes: [node-2]}}]\n"
    traffic = "traffic: [{name: t, from: nodes, nodes: [node-2], service: web, perSecond: 20}]\n"
    log = simulate(events + traffic, "duration=40s")
    during = [c for c in log.connections if 10 * SECOND_NS <= c.at_ns < 20 * SECOND_NS]
    assert {(c.disposition, c.cause, c.node) for c in during} == {(Fate.DROPPED, Reason.NODE_DOWN, "node-2")}
    # 20.000 + 100 lists + 23 sync: until then nothing is captured
    bare = [c for c in log.connections if 20 * SECOND_NS <= c.at_ns < 20_123 * MS]
    assert bare and {c.cause for c in bare} == {Reason.NOT_CAPTURED}
    after = [c for c in log.connections if c.at_ns >= 23 * SECOND_NS]
    assert {c.disposition for c in after} == {Fate.DELIVERED}
    assert {c.endpoint_node for c in after} == {"node-1", "node-2"}


def test_a_crashed_application_is_missed_until_the_rules_know_and_then_comes_back() -> None:
    events = "events: [{at: 5s, crash: {workload: web, nodes: [node-2]}}]\n"
    log = simulate(events + INSIDE, "duration=20s")
    gone = of(log, Fate.FAILED)
    assert {c.cause for c in gone} == {Reason.ENDPOINT_GONE} and {c.endpoint_node for c in gone} == {"node-2"}
    # 5.000 dead, +100 noticed, +11+7 written, +13 seen, +17 slice, +19 delivered, +23 synced: 5.190
    assert all(5 * SECOND_NS <= c.at_ns < 5190 * MS for c in gone)
    assert {c.endpoint_node for c in log.connections if c.at_ns > 8 * SECOND_NS} == {"node-1", "node-2"}


def test_force_deletion_ends_the_application_at_once() -> None:
    events = "events: [{at: 5s, deletePods: {workload: web, nodes: [node-2], force: true}}]\n"
    log = simulate(events + INSIDE, "duration=20s", "workloads[0].termination={preStop: 10s}")
    assert [h.at_ns // MS for h in log.happenings if h.kind == "pod gone"] == [5007]
    assert {c.cause for c in of(log, Fate.FAILED)} == {Reason.ENDPOINT_GONE}


# ---------------------------------------------------------------------------------------------------------- dual stack

DUAL = (
    "nodes={count: 2, ipFamilies: [IPv4, IPv6]}",
    "objects[0].spec={type: NodePort, clusterIP: 172.30.0.10, ipFamilyPolicy: RequireDualStack, selector: {app: web}, "
    "ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}",
    "duration=15s",
)


def test_a_dual_stack_node_runs_two_kube_proxies() -> None:
    events = "events: [{at: 5s, scale: {workload: web, replicas: 3}}]\n"
    traffic = """
traffic:
  - {name: four, from: pods, workload: web, service: web, perSecond: 20}
  - {name: six, from: pods, workload: web, service: web, ipFamily: IPv6, perSecond: 20}
  - {name: outside6, service: web, via: nodePort, nodes: [node-1], ipFamily: IPv6, perSecond: 20}
"""
    log = simulate(events + traffic, *DUAL)
    assert of(log, Fate.DELIVERED) == log.connections
    endpoints = {
        name: {c.endpoint for c in log.connections if c.traffic == name and c.at_ns > 8 * SECOND_NS}
        for name in ("four", "six", "outside6")
    }
    assert endpoints["four"] == {"10.180.1.2:8080", "10.180.2.2:8080", "10.180.1.3:8080"}
    assert endpoints["six"] == {"[fd00:10:180:1::2]:8080", "[fd00:10:180:2::2]:8080", "[fd00:10:180:1::3]:8080"}
    assert endpoints["outside6"] == endpoints["six"]
    # each family has its own slices (CP-3.4.5), proxier and runner: the change is programmed once in each
    rows = [(row.family, row.node) for row in log.programming]
    assert rows.count(("IPv4", "node-1")) == rows.count(("IPv6", "node-1")) == 2
    assert {(sync.node, sync.family) for sync in log.syncs if sync.start_ns == 0} == {
        (node, family) for node in ("node-1", "node-2") for family in ("IPv4", "IPv6")
    }


def test_a_failed_sync_of_one_family_does_not_hold_up_the_other() -> None:
    events = """
events:
  - {at: 4s, failSyncs: {nodes: [node-1], count: 1}}
  - {at: 5s, scale: {workload: web, replicas: 3}}
"""
    log = simulate(events, *DUAL)
    failed = [sync.family for sync in log.syncs if not sync.success]
    assert failed == ["IPv4"]  # the IPv4 slice is written first (CP-3.6.2)


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_left_as_it_was(on: bool) -> None:
    seen: list[bool] = []
    scenario = parse_scenario(HEAD, "test.yaml")
    try:
        gc.enable() if on else gc.disable()
        run(scenario, progress=lambda _now_ns, _end_ns: seen.append(gc.isenabled()))
        assert (gc.isenabled(), set(seen)) == (on, {False})
    finally:
        gc.enable()


def test_run_stays_a_function_and_the_log_is_light() -> None:
    program = """
import sys
import kpsim.simulation.runlog
assert not {"simpy", "pydantic"} & set(sys.modules)
from kpsim.scenario import load_scenario
import kpsim.simulation
log = kpsim.simulation.run(load_scenario("sync-lag-burst"))
assert kpsim.simulation.run(load_scenario("sync-lag-burst")) == log
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_another_service_leaves_the_draws_of_the_others_alone() -> None:
    other = "  - {apiVersion: v1, kind: Service, metadata: {name: api}, spec: {clusterIP: 172.30.0.11, selector: {app: web}, " \
        "ports: [{port: 80, targetPort: 8080}]}}\n"  # fmt: skip
    traffic = "traffic: [{name: t, from: nodes, service: web, perSecond: 40}]\n"
    alone, together = (simulate(traffic, "duration=5s", head=head) for head in (HEAD, HEAD + other))
    assert [c.endpoint for c in together.connections] == [c.endpoint for c in alone.connections]
    assert len({c.endpoint for c in alone.connections}) == 2


def test_the_first_syncs_after_a_start_go_family_by_family() -> None:
    events = """
events:
  - {at: 5s, restartProxy: {nodes: [node-1], down: 1s}}
  - {at: 5.5s, scale: {workload: web, replicas: 1}}
"""
    log = simulate(events, *DUAL)
    mine = [
        (sync.family, sync.start_ns // MS)
        for sync in log.syncs
        if sync.node == "node-1" and 0 < sync.start_ns < 6200 * MS
    ]
    assert mine == [("IPv4", 6100), ("IPv6", 6123)]  # lists after 100 ms; a sync takes 23 ms (CP-12)
    # each family programs what it missed of its own slices
    rows = [
        (row.family, ms(row)[3]) for row in log.programming if row.node == "node-1" and row.programmed_ns < 6200 * MS
    ]
    assert set(rows) == {("IPv4", 6100), ("IPv6", 6123)}


def test_a_change_whose_sync_dies_with_its_process_is_programmed_by_the_next_one() -> None:
    events = """
events:
  - {at: 5s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.1]}}}}
  - {at: 5.030s, restartProxy: {nodes: [node-1]}}
"""
    log = simulate(events, "duration=10s")  # delivered 5.026, synced until 5.049, but killed at 5.030
    (row,) = [row for row in log.programming if row.node == "node-1"]
    assert ms(row) == (5000, 5007, 5130, 5130, 5153)
