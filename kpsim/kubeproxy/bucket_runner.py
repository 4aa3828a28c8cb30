"""When a kube-proxy up to 1.33 synchronises: the runner with a token bucket (CP-9.7, VER-1), as a state machine without a clock.

Counterpart: ``pkg/util/async``, which 1.34 replaced. It has the interface of ``runner.BoundedFrequencyRunner``. It
differs in three things:

* After a rest two runs may follow back to back. A bucket of two tokens gains one token each min interval, and each run
  takes one. A request that finds no token waits until the last completion + min, or until a later request finds one.
* A failed sync asks for a retry itself, whether or not the runner had started it. So an initial sync that fails is tried
  again, which the runner of 1.34 does not do (CP-9.4).
* The timer counts from the end of the last run; a retry that is due sooner moves it.
"""

from dataclasses import dataclass, field

from kpsim.kubeproxy.runner import RunnerState, Trigger

BURST = 2  #: runs that a full bucket allows at once


@dataclass(slots=True)
class TokenBucketRunner:
    """One proxier's runner. Calls must come in time order. ValueError for a call that the state does not allow.

    Upstream's choice is arbitrary if a request and a retry wait when a run ends. kpsim takes the retry first, so that a
    success of the requested run cancels it.
    """

    min_interval_ns: int
    retry_interval_ns: int
    max_interval_ns: int
    _state: RunnerState = field(default=RunnerState.NEW, init=False)
    _requested: bool = field(default=False, init=False)  # one slot, not looked at yet
    _due_ns: int | None = field(default=None, init=False)  # a request has found a token
    _timer_ns: int = field(default=0, init=False)
    _last_end_ns: int = field(default=0, init=False)
    _retry_ns: int | None = field(default=None, init=False)  # asked for and not looked at yet
    _level: int = field(default=0, init=False)  # of the bucket: a token is min_interval_ns parts, one part a nanosecond
    _level_ns: int = field(default=0, init=False)  # when it was so full

    def start(self, now_ns: int) -> None:
        """Start the loop with a full bucket. A request made before is kept and is due at once (CP-9.5)."""
        if self._state is not RunnerState.NEW:
            raise ValueError(f"the runner cannot start in state {self._state}")
        self._state = RunnerState.WAIT
        self._timer_ns = now_ns + self.max_interval_ns
        self._last_end_ns = now_ns
        self._level, self._level_ns = BURST * self.min_interval_ns, now_ns
        self._look(now_ns)

    def request(self, now_ns: int) -> None:
        """Request a run. During a run the request waits for its end, and merges with others that wait."""
        self._requested = True
        if self._state is RunnerState.WAIT:
            self._look(now_ns)

    def failed_beside(self, now_ns: int) -> None:
        """Note that a sync that the runner had not started has failed: it asks for a retry as any other does."""
        self._ask_for_retry(now_ns)
        if self._state is RunnerState.WAIT:
            self._look(now_ns)

    def state(self, now_ns: int) -> RunnerState:
        """The state at ``now_ns``. There is no COOL: tokens limit the runs."""
        return self._state

    def next_run_ns(self) -> int | None:
        """When the next run starts if nothing else happens; None before ``start`` and during a run."""
        if self._state is not RunnerState.WAIT:
            return None
        if self._due_ns is not None:
            return self._due_ns
        return max(self._timer_ns, self._token_ns())

    def begin(self, now_ns: int) -> Trigger:
        """Begin the run that is due, and return why it is. ValueError if no run is due."""
        due_ns = self.next_run_ns()
        if due_ns is None or now_ns < due_ns:
            raise ValueError(f"no run is due at {now_ns} ns (state {self._state}, next {due_ns})")
        trigger = Trigger.TIMER if self._due_ns is None else Trigger.REQUEST
        self._level = self._level_at(now_ns) - self.min_interval_ns
        self._level_ns = now_ns
        self._due_ns = None
        self._state = RunnerState.RUN
        return trigger

    def finish(self, now_ns: int, ok: bool) -> None:
        """End the run. A failure is retried after the retry interval, unless a run that succeeds comes before."""
        if self._state is not RunnerState.RUN:
            raise ValueError(f"the runner cannot finish in state {self._state}")
        self._state = RunnerState.WAIT
        self._last_end_ns = now_ns
        self._timer_ns = now_ns + self.max_interval_ns
        if not ok:
            self._ask_for_retry(now_ns)
        self._look(now_ns)

    def _ask_for_retry(self, now_ns: int) -> None:
        wanted_ns = now_ns + self.retry_interval_ns
        self._retry_ns = wanted_ns if self._retry_ns is None else min(self._retry_ns, wanted_ns)

    def _look(self, now_ns: int) -> None:
        """Take up what waits: a retry moves the timer, a request finds a token or moves the timer."""
        if self._retry_ns is not None:
            self._timer_ns, self._retry_ns = min(self._timer_ns, self._retry_ns), None
        if self._requested and self._due_ns is None:
            if self._level_at(now_ns) >= self.min_interval_ns:
                self._due_ns = now_ns
            else:
                self._timer_ns = min(self._timer_ns, self._last_end_ns + self.min_interval_ns)
        self._requested = False

    def _level_at(self, now_ns: int) -> int:
        return min(BURST * self.min_interval_ns, self._level + now_ns - self._level_ns)

    def _token_ns(self) -> int:
        """When the bucket has a token."""
        return self._level_ns + max(0, self.min_interval_ns - self._level)
