"""A container's probes on the clock: when the kubelet asks, and when it believes the answers (CP-2.1 to CP-2.5).

Counterpart: the workers of the kubelet's prober, one for each probe of a container.
"""

from collections.abc import Callable
from typing import NamedTuple

from kpsim.scenario.workload_schema import Probe
from kpsim.simulation.clock import Clock


class Answer(NamedTuple):
    """What a probe finds. ``late``: nothing comes back, so the failure is known when the time-out is over."""

    passes: bool
    late: bool = False


class Worker:
    """Asks at every tick of its period. Its belief turns after as many equal results in a row as the threshold says.

    ``ask`` returns what the probe finds now, or None if it is skipped (CP-2.2). ``told`` is called when the belief turns.
    ``plan`` schedules an action for as long as the container lives.
    """

    def __init__(
        self,
        clock: Clock,
        probe: Probe,
        belief: bool | None,
        *,
        ask: Callable[[], Answer | None],
        told: Callable[[bool], None],
        plan: Callable[[int, Callable[[], None]], None],
    ) -> None:
        self._clock = clock
        self._probe = probe
        self.belief = belief
        self._ask = ask
        self._told = told
        self._plan = plan
        self._last: bool | None = None
        self._run = 0  #: equal results in a row
        self._anchor_ns = 0  #: a tick of its period
        self._began_ns = 0  #: when the last probe began
        self._turn = 0  #: number of the next probe; one that was planned before a poke does not happen
        self._busy = False
        self._poked = False

    def start(self, after_ns: int = 0) -> None:
        """Begin to ask. The first probe is sent after ``after_ns``, and its time is a tick."""
        self._anchor_ns = self._clock.now_ns + after_ns
        self._go_on(self._anchor_ns)

    def poke(self) -> None:
        """Ask at once, or as soon as the probe under way is over. The ticks are counted from then on (CP-2.5)."""
        if self._busy:
            self._poked = True
        else:
            self._turn += 1
            self._anchor_ns = self._clock.now_ns
            self._send()

    def _go_on(self, at_ns: int) -> None:
        self._turn += 1
        turn = self._turn
        self._plan(at_ns, lambda: self._send() if self._turn == turn else None)

    def _send(self) -> None:
        self._began_ns, self._busy = self._clock.now_ns, True
        answer = self._ask()
        if answer is not None and answer.late and not answer.passes:
            self._plan(self._began_ns + self._probe.timeout_ns, lambda: self._take(False))
        else:
            self._take(None if answer is None else answer.passes)

    def _take(self, passes: bool | None) -> None:
        """Take a result. None: the probe was skipped."""
        if passes is not None:
            self._run = self._run + 1 if passes is self._last else 1
            self._last = passes
            threshold = self._probe.success_threshold if passes else self._probe.failure_threshold
            if self._run >= threshold and passes is not self.belief:
                self.belief = passes
                self._told(passes)
        now_ns, period_ns = self._clock.now_ns, self._probe.period_ns
        self._busy = False
        if self._poked:
            self._poked = False
            self._anchor_ns = now_ns
            self._go_on(now_ns)
            return
        ticks = (now_ns - self._anchor_ns) // period_ns
        missed = ticks > (self._began_ns - self._anchor_ns) // period_ns  # a tick came while the probe was under way
        self._go_on(now_ns if missed else self._anchor_ns + (ticks + 1) * period_ns)
