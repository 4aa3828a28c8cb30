"""The EndpointSlice controller on the clock: workers, the client's limit, retries (CP-1.2, CP-3.2, CP-3.11)."""

import pytest
from simulations import HEAD, MS, simulate

from kpsim.endpointslices import CONTROLLER_NAME, ExpectationTracker
from kpsim.objects import EndpointSlice, endpoint_slice_from_json, service_from_json
from kpsim.simulation.bucket import TokenBucket
from kpsim.simulation.runlog import RunLog
from kpsim.units import SECOND_NS

#: the slice write takes 17 ms, everything before it 7 + 13
DELETE = "events: [{at: 5s, scale: {workload: web, replicas: 1}}]\n"
SERVING = ("workloads[0].termination.preStop=20s", "duration=20s", "nodes={count: 2}")


def written(
    name: str,
    generation: int,
    *,
    service: str = "web",
    manager: str = CONTROLLER_NAME,
    annotations: dict[str, str] | None = None,
) -> EndpointSlice:
    labels = {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": manager}
    meta = {
        "namespace": "default",
        "name": name,
        "uid": name,
        "generation": generation,
        "labels": labels,
        "annotations": annotations or {},
    }
    return endpoint_slice_from_json({"metadata": meta, "addressType": "IPv4", "endpoints": [], "ports": []})


def services(number: int) -> str:
    return HEAD + "".join(
        f"  - {{apiVersion: v1, kind: Service, metadata: {{name: s{n:03}}}, spec: {{clusterIP: 172.30.1.{n}, "
        f"selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}}}\n"
        for n in range(1, number)
    )


def written_ms(log: RunLog) -> list[int]:
    """Return when the slices were written, each once."""
    return sorted(row.written_ns // MS for row in log.programming if row.node == "node-1")


def test_five_services_are_worked_on_at_once() -> None:  # CP-1.2 D6
    found = written_ms(simulate(DELETE, *SERVING, head=services(12)))
    assert found == [5037] * 5 + [5054] * 5 + [5071] * 2
    assert written_ms(simulate(DELETE, *SERVING, "controller.workers=12", head=services(12))) == [5037] * 12
    one = written_ms(simulate(DELETE, *SERVING, "controller.workers=1", head=services(3)))
    assert one == [5037, 5054, 5071]


def test_the_client_sends_thirty_calls_and_then_twenty_a_second() -> None:  # CP-1.2 D7
    found = written_ms(simulate(DELETE, *SERVING, head=services(60)))
    # thirty tokens last for six rounds of five, from 5.020 on; by the seventh, at 5.122, two more have come in
    assert found[:32] == [5037 + 17 * round_ for round_ in range(6) for _ in range(5)] + [5139, 5139]
    # from then on the n-th call waits until n − 30 tokens of 50 ms have come in since 5.020, and takes 17 ms
    assert found[32:] == [5020 + 50 * (n - 30) + 17 for n in range(33, 61)]
    fast = written_ms(simulate(DELETE, *SERVING, "controller={workers: 5, qps: 1000, burst: 30}", head=services(60)))
    assert fast == [5037 + 17 * round_ for round_ in range(12) for _ in range(5)]


def test_slices_that_somebody_deletes_are_made_anew_a_second_after_the_controller_sees_it() -> None:  # CP-3.1, CP-3.11
    log = simulate("events: [{at: 5s, deleteEndpointSlice: {service: web}}]\n", "duration=9s")
    changes = [(row.change, row.written_ns // MS) for row in log.programming if row.node == "node-1"]
    # deleted at 5.007, seen at 5.020, due a second later; the create takes 17 ms
    assert [at for _, at in changes] == [5007, 5020 + 1000 + 17]
    # a batch period that is longer counts in place of the second
    later = simulate(
        "events: [{at: 5s, deleteEndpointSlice: {service: web}}]\n", "duration=9s", "delays.controllerBatch=2s"
    )
    assert written_ms(later) == [5007, 5020 + 2000 + 17]


def test_an_update_of_a_slice_that_is_gone_fails_and_the_sync_is_tried_again() -> None:  # CP-3.6.2, CP-3.2
    # the third pod has an address at 6.000, so its endpoint is written at 6.048. It is ready at 6.100, which the controller sees
    # at 6.131: the update is due at 6.148
    events = (
        "events: [{at: 5s, scale: {workload: web, replicas: 3}}, {at: 6120ms, deleteEndpointSlice: {service: web}}]\n"
    )
    log = simulate(events, "duration=12s")
    writes = written_ms(log)
    # the slice is deleted at 6.127, so the update fails at 6.148 and is due again at 7.148. What the deletion asks for, which is seen
    # at 6.140, is due at 7.140: one key of the queue keeps the earlier time
    assert writes == [6048, 6127, 7140 + 17]
    assert [spell.until_ns for spell in log.endpoints].count(None) == 3


def test_slices_have_the_limit_of_the_controllers_flag() -> None:  # CP-3.5.1: max-endpoints-per-slice
    limited = simulate("", "duration=1s", "workloads[0].replicas=5", "controller.maxEndpointsPerSlice=2")
    assert len(limited.endpoints) == 5
    grown = simulate(
        "events: [{at: 1s, scale: {workload: web, replicas: 7}}]\n", "duration=9s", "workloads[0].replicas=4",
        "controller.maxEndpointsPerSlice=2",
    )  # fmt: skip
    # each of the two full slices stays as it is: what comes first makes a third slice, and the rest a fourth
    touched = {row.change.split(" @ ")[0] for row in grown.programming}
    assert len(touched) == 2


def test_every_service_is_synced_again_after_half_a_day_to_a_day() -> None:  # CP-3.1: resync U[12 h, 24 h)
    # a Node's new zone asks for no sync of Services without hints (CP-3.1), so their slices name the old one until the next sync
    label = 'events: [{at: 5s, labelNode: {node: node-1, labels: {"topology.kubernetes.io/zone": b}}}]\n'
    day = ("duration=25h", "proxy.iptables={syncPeriod: 1h, minSyncPeriod: 1h}")
    found = [written_ms(simulate(label, *day, seed=seed)) for seed in range(1, 5)]
    hours = [at / 3_600_000 for (at,) in found]  # one write each, though there may be two resyncs
    assert all(11 <= hour < 23 for hour in hours)  # the cluster has run for an hour before
    assert len(set(hours)) == 4
    assert written_ms(simulate("", *day)) == []  # a resync of what did not change writes nothing


@pytest.mark.parametrize(
    ("old", "new", "news"),
    [
        (None, written("a", 1), []),  # its own write
        (None, written("a", 2), ["web"]),  # somebody's later one
        (None, written("b", 1), ["web"]),  # a slice that it does not know
        (written("a", 1), written("a", 1, annotations={"x": "y"}), []),  # no new generation
        (written("a", 1), written("a", 1, service="shop"), ["shop", "web"]),  # moved to another Service
        (written("a", 1), written("a", 1, manager="me"), ["web"]),  # taken from the controller
        (written("a", 1, manager="me"), written("a", 1), ["web"]),  # given to it
        (written("a", 1, manager="me"), written("a", 9, manager="me"), []),  # another's business
        (written("a", 1), None, ["web"]),  # deleted by somebody
        (written("b", 1), None, []),  # it did not know it
    ],
)
def test_events_of_slices_that_the_controller_expects_and_others(
    old: EndpointSlice | None, new: EndpointSlice | None, news: list[str]
) -> None:  # CP-3.1, CP-3.11
    tracker = ExpectationTracker()
    tracker.wrote(written("a", 1))
    assert [key.name for key in tracker.surprises(old, new)] == news


def test_a_deletion_of_its_own_is_expected_once_and_a_forgotten_service_has_no_expectations() -> None:  # CP-3.11
    tracker, service = ExpectationTracker(), service_from_json({"metadata": {"namespace": "default", "name": "web"}})
    tracker.wrote(written("a", 1))
    tracker.deleted(written("a", 1))
    assert tracker.is_stale(service, [written("a", 1)])
    assert tracker.surprises(written("a", 1), None) == []
    assert [key.name for key in tracker.surprises(None, written("a", 1))] == ["web"]  # it is unknown now
    tracker.wrote(written("a", 2))
    assert tracker.is_stale(service, [])
    tracker.forget(service.key)
    assert not tracker.is_stale(service, [])


def test_a_bucket_starts_full_and_serves_in_order() -> None:
    bucket = TokenBucket(per_second=20, burst=3)
    assert [bucket.take(0) for _ in range(5)] == [0, 0, 0, 50 * MS, 100 * MS]
    # at 100 ms two tokens have paid the two that were owed: the next waits for its own
    assert bucket.take(100 * MS) == 50 * MS
    assert [bucket.take(10 * SECOND_NS) for _ in range(4)] == [0, 0, 0, 50 * MS]  # it never holds more than three


def test_a_bucket_counts_parts_of_a_nanosecond() -> None:
    bucket = TokenBucket(per_second=3, burst=1)
    assert [bucket.take(0) for _ in range(4)] == [0, 333_333_334, 666_666_667, SECOND_NS]


def test_retries_of_many_services_share_a_bucket() -> None:  # CP-3.2: 10 a second, burst 100, the larger delay counts
    # the pod exits at 5.007; the status of 5.025 is seen at 5.038, before the own write of 5.037 is seen at 5.050: all are stale
    fast = "controller={workers: 1000, qps: 100000, burst: 1000}"
    log = simulate(DELETE, "duration=20s", "nodes={count: 2}", fast, head=services(125))
    stale = sum(h.kind == "slice sync stale" for h in log.happenings)
    assert stale == 125
    retried = [at for at in written_ms(log) if at > 5500]
    # a hundred are retried after the 1 s of their own back-off, as are those that wait less in the bucket: 110; then ten a second
    first = 5038 + 1000 + 17
    assert [at for at in retried if at < 8000][:110] == [first] * 110
    assert retried[110:125] == [first + 100 * n for n in range(1, 16)]
