"""When syncs run: CP-9, I-13.1, CP-16.1, CP-16.2. The tests use milliseconds, the runner nanoseconds."""

from collections.abc import Iterable

import pytest

from kpsim.kubeproxy.runner import BoundedFrequencyRunner, RunnerState, Trigger
from kpsim.units import MILLISECOND_NS

S = 1000


def make_runner(min_ms: int = 1 * S, retry_ms: int = 5 * S, max_ms: int = 10 * S) -> BoundedFrequencyRunner:
    return BoundedFrequencyRunner(min_ms * MILLISECOND_NS, retry_ms * MILLISECOND_NS, max_ms * MILLISECOND_NS)


def play(
    runner: BoundedFrequencyRunner,
    requests_ms: Iterable[int],
    until_ms: int,
    run_takes_ms: int = 0,
    failing: frozenset[int] = frozenset(),
) -> list[int]:
    """Starts of the runs until ``until_ms``. ``failing`` are indexes of runs that fail. Requests come before a due run."""
    requests = sorted(requests_ms)
    starts: list[int] = []
    finish_ms: int | None = None
    runner.start(0)
    while True:
        due_ns = runner.next_run_ns()
        due_ms = None if due_ns is None else due_ns // MILLISECOND_NS
        now_ms = min(t for t in (requests[0] if requests else None, due_ms, finish_ms) if t is not None)
        if now_ms > until_ms:
            return starts
        if requests and requests[0] == now_ms:
            runner.request(requests.pop(0) * MILLISECOND_NS)
        elif finish_ms == now_ms:
            runner.finish(now_ms * MILLISECOND_NS, ok=len(starts) - 1 not in failing)
            finish_ms = None
        else:
            runner.begin(now_ms * MILLISECOND_NS)
            starts.append(now_ms)
            finish_ms = now_ms + run_takes_ms


def test_first_request_runs_at_once_and_a_burst_is_answered_by_one_more_run() -> None:
    assert play(make_runner(), [0, 500, 999], until_ms=2 * S) == [0, 1 * S]  # CP-9.6


def test_idle_runner_runs_again_after_the_max_interval() -> None:
    assert play(make_runner(), [0, 500], until_ms=22 * S) == [0, 1 * S, 11 * S, 21 * S]  # CP-9.6


def test_max_interval_counts_from_the_start_of_the_loop() -> None:
    assert play(make_runner(), [], until_ms=15 * S) == [10 * S]  # CP-9.2


def test_failed_run_is_retried_after_the_retry_interval_not_after_the_min_interval() -> None:
    assert play(make_runner(), [0], until_ms=6 * S, failing=frozenset({0})) == [0, 5 * S]  # CP-9.6


def test_successful_requested_run_cancels_the_retry() -> None:
    starts = play(make_runner(), [0, 2 * S], until_ms=13 * S, failing=frozenset({0}))
    assert starts == [0, 2 * S, 12 * S]  # CP-9.6: nothing at 5 s


def test_retry_interval_below_the_min_interval_waits_for_it() -> None:
    runner = make_runner(min_ms=3 * S, retry_ms=1 * S)
    assert play(runner, [0], until_ms=4 * S, failing=frozenset({0})) == [0, 3 * S]  # CP-9.6


def test_retry_interval_is_bounded_by_the_max_interval() -> None:
    runner = make_runner(retry_ms=60 * S, max_ms=10 * S)
    assert play(runner, [0], until_ms=12 * S, failing=frozenset({0})) == [0, 10 * S]  # CP-9.2


def test_requests_during_a_run_and_while_cooling_share_one_run_after_the_min_interval() -> None:
    runner = make_runner(retry_ms=30 * S, max_ms=3600 * S)
    assert play(runner, [0, 20, 500, 1050], until_ms=60 * S, run_takes_ms=100) == [0, 1100]  # CP-16.1


def test_after_a_failure_without_further_requests_only_the_retry_follows() -> None:
    runner = make_runner(retry_ms=30 * S, max_ms=3600 * S)
    starts = play(runner, [0], until_ms=60 * S, run_takes_ms=100, failing=frozenset({0}))
    assert starts == [0, 30_100]  # CP-16.2


def test_request_before_the_loop_started_is_kept() -> None:
    runner = make_runner()
    runner.request(0)
    assert runner.next_run_ns() is None
    runner.start(2 * S * MILLISECOND_NS)
    assert runner.next_run_ns() == 2 * S * MILLISECOND_NS  # CP-9.5


def test_request_and_timer_due_together_cost_one_run() -> None:
    runner = make_runner()
    runner.start(0)
    runner.request(10 * S * MILLISECOND_NS)
    assert runner.begin(10 * S * MILLISECOND_NS) is Trigger.REQUEST
    runner.finish(10 * S * MILLISECOND_NS, ok=True)
    assert runner.next_run_ns() == 20 * S * MILLISECOND_NS  # CP-9.3: of the arbitrary order, the cheaper one


def test_periodic_run_says_that_the_timer_began_it() -> None:
    runner = make_runner()
    runner.start(0)
    assert runner.begin(10 * S * MILLISECOND_NS) is Trigger.TIMER


def test_states_follow_the_table() -> None:
    runner = make_runner()
    assert runner.state(0) is RunnerState.NEW
    runner.start(0)
    assert runner.state(0) is RunnerState.WAIT
    runner.request(0)
    runner.begin(0)
    assert runner.state(5 * MILLISECOND_NS) is RunnerState.RUN
    assert runner.next_run_ns() is None
    runner.finish(100 * MILLISECOND_NS, ok=True)
    assert runner.state(1099 * MILLISECOND_NS) is RunnerState.COOL
    assert runner.state(1100 * MILLISECOND_NS) is RunnerState.WAIT


def test_a_run_that_is_not_due_is_refused() -> None:
    runner = make_runner()
    with pytest.raises(ValueError, match="no run is due"):
        runner.begin(0)
    runner.start(0)
    with pytest.raises(ValueError, match="no run is due"):
        runner.begin(9_999 * MILLISECOND_NS)
    with pytest.raises(ValueError, match="cannot finish in state wait"):
        runner.finish(0, ok=True)
    with pytest.raises(ValueError, match="cannot start in state wait"):
        runner.start(0)
