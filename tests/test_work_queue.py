"""The rules of controllers' work queues (CP-3.2)."""

from collections.abc import Callable

import pytest

from kpsim.objects import ObjectKey
from kpsim.simulation.apifaults import CONTROLLERS, SLICES
from kpsim.simulation.backoff import Doubling
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.workqueue import WorkQueue
from kpsim.units import MILLISECOND_NS, SECOND_NS

MS = MILLISECOND_NS
A, B, C = (ObjectKey("Service", "shop", name) for name in "abc")


class Bench:
    """A queue whose workers take a while for each key. ``begun`` has the time in ms and the name of each beginning."""

    def __init__(
        self,
        *,
        workers: int = 1,
        takes_ms: int = 10,
        fails: Callable[[int], bool] = lambda attempt: False,
        back_off: Doubling = SLICES,
    ) -> None:
        self.clock = Clock(["queue"])
        self.begun: list[tuple[int, str]] = []
        self.takes_ns = takes_ms * MS
        self.fails = fails
        self.queue = WorkQueue(self.clock, "queue", workers, back_off, self._process)

    def _process(self, key: ObjectKey) -> None:
        self.begun.append((self.clock.now_ns // MS, key.name))
        ok = not self.fails(len(self.begun))
        self.clock.at(self.clock.now_ns + self.takes_ns, Rank.CONTROLLER, "queue", lambda: self.queue.done(key, ok=ok))

    def at(self, ms: int, key: ObjectKey, delay_ms: int = 0) -> None:
        self.clock.at(ms * MS, Rank.WORLD, "queue", lambda: self.queue.add(key, delay_ms * MS))

    def run(self, until_s: int = 60) -> list[tuple[int, str]]:
        self.clock.run(until_s * SECOND_NS)
        return self.begun


def test_a_key_that_waits_is_not_queued_twice() -> None:
    bench = Bench()
    for ms, key in ((0, A), (1, B), (2, B), (3, C), (4, B)):
        bench.at(ms, key)
    assert bench.run() == [(0, "a"), (10, "b"), (20, "c")]


def test_a_key_that_is_added_while_it_is_worked_on_comes_again_and_never_twice_at_once() -> None:
    bench = Bench(workers=3)
    for ms in (0, 2, 4, 6):
        bench.at(ms, A)
    assert bench.run() == [(0, "a"), (10, "a")]


def test_workers_take_keys_in_the_order_of_their_coming() -> None:
    bench = Bench(workers=2)
    for ms, key in ((0, A), (1, B), (2, C)):
        bench.at(ms, key)
    assert bench.run() == [(0, "a"), (1, "b"), (10, "c")]


def test_a_delayed_key_keeps_the_earlier_time() -> None:
    bench = Bench()
    bench.at(0, A, 100)
    bench.at(10, A, 500)
    bench.at(20, A, 50)
    assert bench.run() == [(70, "a")]


def test_a_key_that_is_added_at_once_does_not_lose_its_later_time() -> None:
    bench = Bench()
    bench.at(0, A, 100)
    bench.at(10, A)
    assert bench.run() == [(10, "a"), (100, "a")]  # one sync more than needed


@pytest.mark.parametrize(
    ("back_off", "waits_ms"),
    [
        (SLICES, [1000, 2000, 4000, 8000, 16_000]),
        (CONTROLLERS, [5, 10, 20, 40, 80]),  # the Endpoints controller and the queue of pods (CP-4.1)
        (Doubling(SECOND_NS, 5 * SECOND_NS), [1000, 2000, 4000, 5000, 5000]),
    ],
)
def test_a_key_that_fails_waits_twice_as_long_each_time(back_off: Doubling, waits_ms: list[int]) -> None:
    bench = Bench(fails=lambda attempt: attempt <= 5, back_off=back_off)
    bench.at(0, A)
    expected = [0]
    for wait in waits_ms:
        expected.append(expected[-1] + 10 + wait)
    assert [at for at, _ in bench.run()] == expected


def test_success_forgets_the_failures() -> None:
    bench = Bench(fails=lambda attempt: attempt in (1, 2, 4))
    bench.at(0, A)
    bench.at(10_000, A)
    # 0 fails, 1.01 fails, 3.02 succeeds; 10 fails, and waits a second again
    assert [at for at, _ in bench.run()] == [0, 1010, 3020, 10_000, 11_010]


def test_after_fifteen_retries_a_key_is_dropped_until_somebody_adds_it() -> None:
    bench = Bench(fails=lambda attempt: attempt <= 16, back_off=CONTROLLERS)
    bench.at(0, A)
    bench.at(400_000, A)
    found = [at for at, _ in bench.run(500)]
    assert len(found) == 17  # the first try and 15 retries, and the one that somebody asked for
    assert found[15] == 16 * 10 - 10 + 5 * (2**15 - 1)
    assert found[16] == 400_000


def test_a_failure_of_many_keys_at_once_is_spread_over_ten_a_second() -> None:
    keys = [ObjectKey("Service", "shop", f"{n:03}") for n in range(110)]
    bench = Bench(workers=200, fails=lambda attempt: attempt <= 110, back_off=CONTROLLERS)
    for key in keys:
        bench.at(0, key)
    retried = [at for at, _ in bench.run()][110:]
    # all fail at 10 ms: a hundred have tokens and wait their own 5 ms, the others a tenth of a second more each
    assert retried[:100] == [15] * 100
    assert retried[100:] == [10 + 100 * n for n in range(1, 11)]
