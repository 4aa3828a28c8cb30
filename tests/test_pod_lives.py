"""Pods on the clock: what their kubelets tell the API server, and when (CP-2, CP-3.4.1, CP-3.7)."""

from typing import Any
from unittest.mock import patch

from simulations import HEAD, INSIDE, MS, ms, of, simulate

from kpsim.objects import Pod
from kpsim.scenario import parse_scenario
from kpsim.simulation.apiserver import ApiServer, Change
from kpsim.simulation.engine import Run
from kpsim.simulation.runlog import Fate, RunLog
from kpsim.units import SECOND_NS

NO_PROBE = "workloads[0].readiness.probeDelay=0s"


def changes(events: str, *settings: str, delays: str = "") -> list[Change]:
    """Return every write of a scenario after its start."""
    text = HEAD + (delays or "delays: {apiWrite: 7ms, readinessToStatus: 11ms}\n") + events
    scenario = parse_scenario(text, "test.yaml", settings=settings)
    run = Run(scenario, scenario.seed)
    seen: list[Change] = []
    tell = ApiServer._tell

    def told(api: ApiServer, *given: Any) -> Change:
        seen.append(change := tell(api, *given))
        return change

    with patch.object(ApiServer, "_tell", told):
        run.run(None)
    return [change for change in seen if change.written_ns > 0]


def statuses(events: str, pod: str, *settings: str, delays: str = "") -> list[tuple[int, bool, bool | None, bool]]:
    """Return each version of a pod: when (ms), has an address, Ready (None: no condition), terminating."""
    found = []
    for change in changes(events, *settings, delays=delays):
        obj = change.event.object
        if isinstance(obj, Pod) and obj.metadata.name == pod and change.event.new is not None:
            ready = obj.ready if obj.ready_changed else None
            found.append((change.written_ns // MS, bool(obj.ips), ready, obj.terminating))
    return found


def count(log: RunLog, kind: str) -> int:
    return sum(h.kind == kind for h in log.happenings)


# ------------------------------------------------------------------------------------------------------------- creation


SCALE = "events: [{at: 5s, scale: {workload: web, replicas: 3}}]\n"


def test_a_new_pod_has_no_address_and_no_ready_condition_until_its_kubelet_reports() -> None:  # CP-3.4.1
    # created 5.000 +7; it answers at 6.000 and is ready at once: one report, +11 +7
    assert statuses(SCALE, "web-3", NO_PROBE) == [(5007, False, None, False), (6018, True, True, False)]


def test_so_one_slice_write_and_one_sync_bring_a_pod_without_probe() -> None:
    log = simulate(SCALE, "duration=20s", NO_PROBE)
    (row,) = [row for row in log.programming if row.node == "node-1"]
    assert ms(row) == (6000, 6048, 6067, 6067, 6090)  # +11+7 status, +13 seen, +17 slice, +19 delivered, +23 synced
    assert row.reported_ns == 90 * MS  # from 6 s
    assert len([sync for sync in log.syncs if sync.node == "node-1"]) == 2


def test_a_pod_that_answers_before_its_probe_has_noticed_is_reported_not_ready_first() -> None:
    found = statuses(SCALE, "web-3")
    assert found == [(5007, False, None, False), (6018, True, False, False), (6118, True, True, False)]


def test_a_pod_may_have_its_address_long_before_it_answers() -> None:
    early = "workloads[0].startup={delay: 3s, address: 500ms}"
    found = statuses(SCALE, "web-3", early, NO_PROBE)
    assert found == [(5007, False, None, False), (5518, True, False, False), (8018, True, True, False)]
    # an address that would come after the answer comes with it
    late = statuses(SCALE, "web-3", "workloads[0].startup={delay: 1s, address: 2s}", NO_PROBE)
    assert late == [(5007, False, None, False), (6018, True, True, False)]


def test_a_status_is_not_written_before_the_object() -> None:
    slow = "delays: {apiWrite: {choice: {values: [1s, 2s]}}, readinessToStatus: 0s}\n"
    for seed in range(4):  # the creation may take 2 s, the report of 5.000 only one
        found = statuses(SCALE, "web-3", NO_PROBE, "workloads[0].startup.delay=0s", f"seed={seed}", delays=slow)
        assert [version[1:] for version in found] == [(False, None, False), (True, True, False)]


# --------------------------------------------------------------------------------------------------------------- crashes

CRASH = "events: [{at: 5s, crash: {workload: web, nodes: [node-2]}}]\n"


def test_a_crash_shorter_than_the_probe_still_makes_a_pod_not_ready() -> None:  # CP-2.2, CP-2.4
    # dead 5.000; its new container answers at 6.000 and begins as not ready; 3 s later its probe has passed
    found = statuses(CRASH, "web-2", "workloads[0].readiness.probeDelay=3s")
    assert found == [(6018, True, False, False), (9018, True, True, False)]


def test_a_crash_that_the_probe_notices_first_is_reported_then() -> None:
    found = statuses(CRASH, "web-2", "workloads[0].startup.delay=4s")
    assert found == [(5118, True, False, False), (9118, True, True, False)]


def test_a_container_that_never_starts_again_is_noticed_by_the_probe() -> None:
    found = statuses(CRASH.replace("]}}", "], restarts: false}}"), "web-2", "workloads[0].readiness.probeDelay=3s")
    assert found == [(8018, True, False, False)]


# ------------------------------------------------------------------------------------------------------------ termination


def test_a_pod_deleted_while_it_starts_becomes_ready_and_serves_while_it_terminates() -> None:  # CP-2.8
    events = """
events:
  - {at: 5s, scale: {workload: web, replicas: 3}}
  - {at: 6s, scale: {workload: web, replicas: 2}}
"""
    slow = ("workloads[0].startup.delay=3s", "workloads[0].termination.preStop=20s", NO_PROBE)
    found = statuses(events, "web-3", *slow)
    assert found == [(5007, False, None, False), (6007, False, None, True), (8018, True, True, True)]


def test_it_does_not_if_its_application_stops_with_the_hook() -> None:
    events = "events: [{at: 5s, scale: {workload: web, replicas: 3}}, {at: 6s, scale: {workload: web, replicas: 2}}]\n"
    quiet = "workloads[0].termination={preStop: 20s, servesDuringPreStop: false}"
    found = statuses(events, "web-3", "workloads[0].startup.delay=3s", quiet, NO_PROBE)
    assert [ready for _, _, ready, _ in found if ready] == []


def test_nor_once_it_has_gone_unready_after_sigterm() -> None:
    events = "events: [{at: 5s, scale: {workload: web, replicas: 3}}, {at: 6s, scale: {workload: web, replicas: 2}}]\n"
    ending = "workloads[0].termination={afterSigterm: 20s, unreadyAfterSigterm: 1s}"
    found = statuses(events, "web-3", "workloads[0].startup.delay=3s", ending, NO_PROBE)
    assert [ready for _, _, ready, _ in found if ready] == []


def test_a_deletion_does_not_wait_for_the_kubelets_reports() -> None:  # CP-2.7, CP-2.8
    events = "events: [{at: 5s, crash: {workload: web, count: 1}}, {at: 6s, scale: {workload: web, replicas: 0}}]\n"
    slow = ("workloads[0].startup.delay=10s", "workloads[0].termination.preStop=20s")
    found = statuses(events, "web-1", *slow, delays="delays: {readinessToStatus: 2s, apiWrite: 7ms}\n")
    # noticed 5.100, sent 7.100; the deletion of 6.000 is written at 6.007, before it
    assert found[:2] == [(6007, True, True, True), (7107, True, False, True)]


def test_nor_does_a_forced_deletion() -> None:
    events = """
events:
  - {at: 5s, crash: {workload: web, nodes: [node-2]}}
  - {at: 6s, deletePods: {workload: web, nodes: [node-2], force: true}}
"""
    quick = "workloads[0].startup.delay=500ms"
    found = changes(events, quick, delays="delays: {readinessToStatus: 2s, apiWrite: 7ms}\n")
    (gone,) = [change for change in found if change.key.name == "web-2" and change.event.new is None]
    assert gone.written_ns == 6007 * MS  # the crash, noticed at 5.100, would be written at 7.107


def test_a_deletion_carries_no_transition_that_the_kubelet_has_not_sent() -> None:  # CP-3.7
    events = "events: [{at: 5s, crash: {workload: web, count: 1}}, {at: 8s, scale: {workload: web, replicas: 0}}]\n"
    slow = ("workloads[0].startup.delay=10s", "workloads[0].readiness.probeDelay=3200ms",
            "workloads[0].termination.preStop=20s", "nodes.count=1", "duration=12s")  # fmt: skip
    log = simulate(events, *slow, delays="delays: {apiWrite: 1s, readinessToStatus: 10ms}\n")
    # deletion written 9.000; the crash is noticed at 8.200, sent 8.210, written 9.210 with the time 8 s
    samples = [(ms(row)[1], row.reported_ns) for row in log.programming]
    assert [written for written, sample in samples if sample is None] == [9015]
    (later,) = [(written, sample) for written, sample in samples if sample is not None]
    assert later[0] > 9210 and later[1] > 2 * SECOND_NS  # counted from 8 s, when the kubelet noticed


# ------------------------------------------------------------------------------------------------------------------ nodes


def test_a_kubelet_without_power_sends_nothing_more() -> None:
    events = """
events:
  - {at: 5s, crash: {workload: web, nodes: [node-2], restarts: false}}
  - {at: 6s, nodeDown: {nodes: [node-2]}}
"""
    slow = "delays: {readinessToStatus: 2s, apiWrite: 7ms}\n"
    assert statuses(events, "web-2", "duration=30s", delays=slow) == []  # noticed 5.100, would be sent at 7.100
    # what was on the wire arrives
    sent = statuses(events, "web-2", "duration=30s", delays="delays: {readinessToStatus: 10ms, apiWrite: 2s}\n")
    assert sent == [(7110, True, False, False)]


def test_a_crashed_pod_serves_nobody_until_it_is_back() -> None:
    log = simulate(CRASH + INSIDE, "duration=20s", "workloads[0].readiness.probeDelay=3s")
    failed = of(log, Fate.FAILED)
    assert failed and all(5 * SECOND_NS <= c.at_ns < 6 * SECOND_NS for c in failed)
    assert count(log, "pod not ready") == count(log, "pod ready") == 1
