"""The EndpointSlice controller on the clock: workers, the client's limit, retries (CP-1.2, CP-3.2, CP-3.11)."""

from simulations import HEAD, MS, simulate

from kpsim.simulation.bucket import TokenBucket
from kpsim.simulation.runlog import RunLog
from kpsim.units import SECOND_NS

#: the slice write takes 17 ms, everything before it 7 + 13
DELETE = "events: [{at: 5s, scale: {workload: web, replicas: 1}}]\n"
SERVING = ("workloads[0].termination.preStop=20s", "duration=20s", "nodes={count: 2}")


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
