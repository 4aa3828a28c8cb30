"""When kube-proxy synchronises: the bounded-frequency runner of CP-9 and I-13.1 as a state machine without a clock.

Counterpart: ``pkg/proxy/runner``. The runner does not run anything itself: the caller asks when the next run is due,
begins it, and reports how it ended. All times are integer nanoseconds on the caller's clock.

    (start) ──► WAIT ──request, or timer──► RUN ──finished──► COOL ──min interval over──► WAIT
                 ▲                           │                 │
                 └ a request made in RUN or COOL stays: it is due when COOL is over ┘

The timer counts from the start or from the end of the last run. It fires after the max interval; after a failure, after
min(retry, max). It goes on counting in COOL. There is no cooling before the first run.
"""

import enum
from dataclasses import dataclass, field
from typing import Protocol


class RunnerState(enum.StrEnum):
    NEW = "new"
    WAIT = "wait"
    RUN = "run"
    COOL = "cool"


class Trigger(enum.StrEnum):
    """Why a run began."""

    REQUEST = "request"
    TIMER = "timer"  #: the periodic run, or the retry after a failure


class Runner(Protocol):
    """What a kube-proxy asks of its runner, whichever release it is from."""

    def start(self, now_ns: int) -> None: ...

    def request(self, now_ns: int) -> None: ...

    def next_run_ns(self) -> int | None: ...

    def begin(self, now_ns: int) -> Trigger: ...

    def finish(self, now_ns: int, ok: bool) -> None: ...

    def failed_beside(self, now_ns: int) -> None: ...


class _Step(enum.Enum):
    START = enum.auto()
    BEGIN = enum.auto()
    FINISH = enum.auto()
    COOLED = enum.auto()


_NEXT_STATE = {
    (RunnerState.NEW, _Step.START): RunnerState.WAIT,
    (RunnerState.WAIT, _Step.BEGIN): RunnerState.RUN,
    (RunnerState.RUN, _Step.FINISH): RunnerState.COOL,
    (RunnerState.COOL, _Step.COOLED): RunnerState.WAIT,
}


@dataclass(slots=True)
class BoundedFrequencyRunner:
    """One proxier's runner. Calls must come in time order. ValueError for a call that the state does not allow."""

    min_interval_ns: int
    retry_interval_ns: int
    max_interval_ns: int
    _state: RunnerState = field(default=RunnerState.NEW, init=False)
    _requested_ns: int | None = field(default=None, init=False)  # one slot: further requests change nothing
    _timer_ns: int = field(default=0, init=False)
    _cool_until_ns: int = field(default=0, init=False)

    def start(self, now_ns: int) -> None:
        """Starts the loop. A request made before is kept and is due at once (CP-9.5)."""
        self._advance(_Step.START)
        self._timer_ns = now_ns + self.max_interval_ns
        self._cool_until_ns = now_ns

    def request(self, now_ns: int) -> None:
        """Requests a run. The request merges with one that no run has taken yet (I-13.1)."""
        if self._requested_ns is None:
            self._requested_ns = now_ns

    def state(self, now_ns: int) -> RunnerState:
        """The state at ``now_ns``. COOL ends when its time is over, without a call."""
        if self._state is RunnerState.COOL and now_ns >= self._cool_until_ns:
            self._advance(_Step.COOLED)
        return self._state

    def next_run_ns(self) -> int | None:
        """When the next run starts if nothing else happens; None before ``start`` and during a run.

        It is the earlier of max(request, last completion + min) and max(last completion + timer, last completion + min)
        (CP-9.3).
        """
        if self._state in (RunnerState.NEW, RunnerState.RUN):
            return None
        wanted_ns = self._timer_ns if self._requested_ns is None else min(self._requested_ns, self._timer_ns)
        return max(wanted_ns, self._cool_until_ns)

    def begin(self, now_ns: int) -> Trigger:
        """Begins the run that is due, and returns why it is. ValueError if no run is due.

        If a request and the timer are both due, upstream's choice is arbitrary (CP-9.3). kpsim takes the request, so
        that no second, empty run follows.
        """
        due_ns = self.next_run_ns()
        if due_ns is None or now_ns < due_ns:
            raise ValueError(f"no run is due at {now_ns} ns (state {self._state}, next {due_ns})")
        self.state(now_ns)
        self._advance(_Step.BEGIN)
        trigger = Trigger.TIMER if self._requested_ns is None else Trigger.REQUEST
        self._requested_ns = None
        return trigger

    def finish(self, now_ns: int, ok: bool) -> None:
        """Ends the run. A failure is retried after the retry interval unless a request comes first (CP-9.2)."""
        self._advance(_Step.FINISH)
        self._cool_until_ns = now_ns + self.min_interval_ns
        self._timer_ns = now_ns + (self.max_interval_ns if ok else min(self.retry_interval_ns, self.max_interval_ns))

    def failed_beside(self, now_ns: int) -> None:
        """Notes that a sync that the runner had not started has failed. Nothing follows: no retry is planned (CP-9.4)."""

    def _advance(self, step: _Step) -> None:
        try:
            self._state = _NEXT_STATE[self._state, step]
        except KeyError:
            raise ValueError(f"the runner cannot {step.name.lower()} in state {self._state}") from None
