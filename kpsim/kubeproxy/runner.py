"""When kube-proxy synchronises: the bounded-frequency runner of CP-9 and I-13.1 as a state machine without a clock.

Counterpart: ``pkg/proxy/runner``. It never knows what a run does: the caller asks when the next run is due, begins it, and
reports how it ended. All times are integer nanoseconds on the caller's clock.

    (start) ──► WAIT ──request, or timer──► RUN ──finished──► COOL ──min interval over──► WAIT
                 ▲                           │                 │
                 └ a request made in RUN or COOL stays: it is due when COOL is over ┘

The timer counts from the start or from the end of the last run: the max interval after a success, min(retry, max) after a
failure. It goes on counting in COOL. No cooling precedes the first run.
"""

import enum
from dataclasses import dataclass, field


class RunnerState(enum.StrEnum):
    NEW = "new"
    WAIT = "wait"
    RUN = "run"
    COOL = "cool"


class Trigger(enum.StrEnum):
    """Why a run began."""

    REQUEST = "request"
    TIMER = "timer"  #: the periodic run, or the retry after a failure


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
    """One proxier's runner. Calls come in time order; one that the state does not allow is a ValueError."""

    min_interval_ns: int
    retry_interval_ns: int
    max_interval_ns: int
    _state: RunnerState = field(default=RunnerState.NEW, init=False)
    _requested_ns: int | None = field(default=None, init=False)  # one slot: further requests change nothing
    _timer_ns: int = field(default=0, init=False)
    _cool_until_ns: int = field(default=0, init=False)

    def start(self, now_ns: int) -> None:
        """Start the loop. A request made before is kept and due at once (CP-9.5)."""
        self._advance(_Step.START)
        self._timer_ns = now_ns + self.max_interval_ns
        self._cool_until_ns = now_ns

    def request(self, now_ns: int) -> None:
        """Ask for a run; merges with a request that no run has taken yet (I-13.1)."""
        if self._requested_ns is None:
            self._requested_ns = now_ns

    def state(self, now_ns: int) -> RunnerState:
        """The state at ``now_ns``: cooling ends by the passing of time alone."""
        if self._state is RunnerState.COOL and now_ns >= self._cool_until_ns:
            self._advance(_Step.COOLED)
        return self._state

    def next_run_ns(self) -> int | None:
        """When the next run starts if nothing else happens; None before ``start`` and during a run.

        max(request, last completion + min), or max(last completion + timer, last completion + min), the earlier (CP-9.3).
        """
        if self._state in (RunnerState.NEW, RunnerState.RUN):
            return None
        wanted_ns = self._timer_ns if self._requested_ns is None else min(self._requested_ns, self._timer_ns)
        return max(wanted_ns, self._cool_until_ns)

    def begin(self, now_ns: int) -> Trigger:
        """Begin the run that is due, and say why.

        Where request and timer are both due upstream's choice is arbitrary (CP-9.3); here the request is taken, so that no
        second, empty run follows. ValueError if no run is due.
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
        """The run has ended. A failure is retried after the retry interval unless a request comes first (CP-9.2)."""
        self._advance(_Step.FINISH)
        self._cool_until_ns = now_ns + self.min_interval_ns
        self._timer_ns = now_ns + (self.max_interval_ns if ok else min(self.retry_interval_ns, self.max_interval_ns))

    def _advance(self, step: _Step) -> None:
        try:
            self._state = _NEXT_STATE[self._state, step]
        except KeyError:
            raise ValueError(f"the runner cannot {step.name.lower()} in state {self._state}") from None
