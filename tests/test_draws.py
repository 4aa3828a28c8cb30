"""A draw belongs to what it is drawn for, never to the instant or to the draws before it."""

import pytest
from simulations import HEAD, simulate

from kpsim.simulation.runlog import RunLog

EVENTS = """
events: [{at: 10s, rollout: {workload: web}}, {at: 40s, rollout: {workload: web}}]
"""
DRAWN = """
delays:
  readinessToStatus: {uniform: {low: 5ms, high: 50ms}}
  apiWrite: {uniform: {low: 1ms, high: 9ms}}
  controllerWatch: {exponential: {mean: 5ms}}
  sliceWrite: {exponential: {mean: 10ms}}
  watchDelivery: 10ms
  sync: {base: {exponential: {mean: 300ms}}, perRule: 0s}
"""


def durations(log: RunLog) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for sync in log.syncs:
        found.setdefault(sync.node, []).append(sync.end_ns - sync.start_ns)
    return found


def written(log: RunLog) -> list[int]:
    return [row.written_ns for row in log.programming if row.node == "node-1"]


def test_a_nanosecond_more_on_the_way_redraws_nothing() -> None:
    one = simulate(EVENTS, delays=DRAWN)
    other = simulate(EVENTS, "delays.watchDelivery=10000001ns", delays=DRAWN)
    assert durations(one) == durations(other)
    assert written(one) == written(other)
    last = max(row.programmed_ns for row in one.programming)
    assert 0 < max(row.programmed_ns for row in other.programming) - last < 10


def test_an_earlier_event_redraws_nothing() -> None:
    one = simulate(EVENTS, delays=DRAWN)
    other = simulate(EVENTS.replace("at: 10s", "at: 9999ms"), delays=DRAWN)
    first = [row for row in one.programming if row.programmed_ns < 30_000_000_000]
    moved = [row for row in other.programming if row.programmed_ns < 30_000_000_000]
    assert [row.written_ns - 1_000_000 for row in first] == [row.written_ns for row in moved]
    assert [row.programmed_ns - 1_000_000 for row in first] == [row.programmed_ns for row in moved]


@pytest.mark.parametrize("extra", ["readinessToStatus", "sliceWrite"])
def test_draws_of_one_stage_do_not_move_those_of_another(extra: str) -> None:
    one = simulate(EVENTS, delays=DRAWN)
    other = simulate(EVENTS, f"delays.{extra}={{uniform: {{low: 3ms, high: 4ms}}}}", delays=DRAWN)
    drawn = [durations(log)["node-1"] for log in (one, other)]
    number = min(map(len, drawn))  # one run may put two changes into one sync
    assert number > 5 and drawn[0][:number] == drawn[1][:number]


def test_writes_of_another_service_redraw_nothing() -> None:
    other = "  - {apiVersion: v1, kind: Service, metadata: {name: api}, spec: {clusterIP: 172.30.0.11, selector: {app: none}, " \
        "ports: [{port: 80, targetPort: 8080}]}}\n"  # fmt: skip
    drawn = DRAWN.replace("watchDelivery: 10ms", "watchDelivery: {exponential: {mean: 10ms}}").replace("300ms", "0s")
    events = "events: [{at: 10s, rollout: {workload: web}}%s]\n"
    patch = ", {at: 1s, patchService: {service: api, patch: {spec: {externalIPs: [198.51.100.7]}}}}"
    one = simulate(events % "", head=HEAD + other, delays=drawn)
    two = simulate(events % patch, head=HEAD + other, delays=drawn)
    rows = [(row.node, row.written_ns, row.delivered_ns) for row in two.programming if row.service == "default/web"]
    assert [(row.node, row.written_ns, row.delivered_ns) for row in one.programming] == rows
