"""When syncs run: CP-9, I-13.1, CP-16.1, CP-16.2. The tests use milliseconds, the runner nanoseconds."""

from collections.abc import Callable, Iterable

import pytest

from kpsim.kubeproxy.bucket_runner import TokenBucketRunner
from kpsim.kubeproxy.runner import BoundedFrequencyRunner, RunnerState, Trigger
from kpsim.units import MILLISECOND_NS

S = 1000


def make_runner(min_ms: int = 1 * S, retry_ms: int = 5 * S, max_ms: int = 10 * S) -> BoundedFrequencyRunner:
    return BoundedFrequencyRunner(min_ms * MILLISECOND_NS, retry_ms * MILLISECOND_NS, max_ms * MILLISECOND_NS)


def play(
    runner: BoundedFrequencyRunner | TokenBucketRunner,
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


# ---------------------------------------------------------------------------------------------- the runner of 1.33 (CP-9.7)


def make_bucket(min_ms: int = 1 * S, retry_ms: int = 5 * S, max_ms: int = 10 * S) -> TokenBucketRunner:
    return TokenBucketRunner(min_ms * MILLISECOND_NS, retry_ms * MILLISECOND_NS, max_ms * MILLISECOND_NS)


def test_two_runs_follow_back_to_back_after_a_rest_and_the_third_waits_for_the_last_end_plus_min() -> None:
    # two tokens at 0; at 200 one fifth of a token has come back, which is no token
    assert play(make_bucket(), [0, 100, 200], until_ms=5 * S) == [0, 100, 1100]
    assert play(make_runner(), [0, 100, 200], until_ms=5 * S) == [0, 1000]


def test_a_request_during_a_run_is_answered_as_soon_as_that_ends() -> None:
    assert play(make_bucket(), [0, 20, 40], until_ms=5 * S, run_takes_ms=300) == [0, 300]


def test_a_request_that_comes_when_a_token_is_back_does_not_wait_for_the_last_end_plus_min() -> None:
    # runs at 0 and 900 leave 0.9 tokens; at 950 there is none, so the timer is set to 1900; at 1000 there is one
    assert play(make_bucket(), [0, 900, 950, 1000], until_ms=3 * S) == [0, 900, 1000]
    assert play(make_bucket(), [0, 900, 950], until_ms=3 * S) == [0, 900, 1900]


def test_a_steady_stream_gets_one_run_each_interval_once_the_burst_is_spent() -> None:
    starts = play(make_bucket(), range(0, 10_000, 100), until_ms=9_999)
    assert starts == [0, 100, *range(1000, 10_000, 1000)]  # a tenth of a token is left at 100, so one is whole at 1000


def test_a_failure_is_retried_after_the_retry_interval_and_a_success_cancels_the_retry() -> None:
    assert play(make_bucket(), [0], until_ms=12 * S, failing=frozenset({0})) == [0, 5 * S]
    assert play(make_bucket(), [0, 2 * S], until_ms=13 * S, failing=frozenset({0})) == [0, 2 * S, 12 * S]


@pytest.mark.parametrize(("make", "expected"), [(make_bucket, 6 * S), (make_runner, 10 * S)])
def test_a_failed_sync_beside_the_runner_asks_for_a_retry_only_up_to_1_33(
    make: Callable[[], BoundedFrequencyRunner | TokenBucketRunner], expected: int
) -> None:
    runner = make()
    runner.start(0)
    runner.failed_beside(1 * S * MILLISECOND_NS)
    assert runner.next_run_ns() == expected * MILLISECOND_NS  # CP-9.4: later, nothing follows before the max timer


def test_without_a_min_interval_every_request_of_1_33_runs_at_once() -> None:
    assert play(make_bucket(min_ms=0), [0, 1, 2, 3], until_ms=9 * S) == [0, 1, 2, 3]


def test_the_runner_of_1_33_refuses_calls_out_of_order() -> None:
    runner = make_bucket()
    with pytest.raises(ValueError, match="no run is due"):
        runner.begin(0)
    runner.start(0)
    with pytest.raises(ValueError, match="cannot start"):
        runner.start(0)
    with pytest.raises(ValueError, match="cannot finish"):
        runner.finish(0, ok=True)
    assert runner.next_run_ns() == 10 * S * MILLISECOND_NS
    runner.request(5)
    assert runner.begin(5) is Trigger.REQUEST
