"""How long clients of the API server wait before they try again."""

from collections.abc import Callable
from dataclasses import dataclass

from kpsim.units import MILLISECOND_NS, SECOND_NS

_FIRST_NS, _LONGEST_NS = 800 * MILLISECOND_NS, 30 * SECOND_NS
_RESET_NS = 120 * SECOND_NS


class ReflectorBackOff:
    """The back-off of one informer: 0.8, 1.6 … 25.6, then 30 s, each times U[1, 2) (CP-6.3).

    It begins anew when more than 2 min have passed since it last did so, in the middle of an outage too.
    ``below`` draws a number in [0, limit).
    """

    def __init__(self, now_ns: int, below: Callable[[int], int]) -> None:
        self._begun_ns = now_ns
        self._next_ns = _FIRST_NS
        self._below = below

    def next_ns(self, now_ns: int) -> int:
        """Return how long the informer waits now."""
        if now_ns - self._begun_ns > _RESET_NS:
            self._begun_ns, self._next_ns = now_ns, _FIRST_NS
        base_ns, self._next_ns = self._next_ns, min(2 * self._next_ns, _LONGEST_NS)
        return base_ns + self._below(base_ns)


@dataclass(frozen=True, slots=True)
class Doubling:
    """Tries again after ``first_ns``, then after twice as long each time, and at most ``longest_ns`` (CP-3.2)."""

    first_ns: int
    longest_ns: int

    def after(self, refused_ns: int, until_ns: int) -> int:
        """Return when the first try at or after ``until_ns`` is, if one at ``refused_ns`` was refused and so are all before."""
        at_ns, wait_ns = refused_ns, self.first_ns
        while at_ns < until_ns and wait_ns < self.longest_ns:
            at_ns += wait_ns
            wait_ns = min(2 * wait_ns, self.longest_ns)
        return at_ns if at_ns >= until_ns else at_ns - (at_ns - until_ns) // wait_ns * wait_ns


@dataclass(frozen=True, slots=True)
class Ticks:
    """Tries again at the next tick of a clock that was set before the run (CP-2.7)."""

    period_ns: int
    phase_ns: int

    def after(self, refused_ns: int, until_ns: int) -> int:
        """Return the first tick after ``refused_ns`` that is not before ``until_ns``."""
        at_ns = max(refused_ns + 1, until_ns)
        return at_ns + (self.phase_ns - at_ns) % self.period_ns
