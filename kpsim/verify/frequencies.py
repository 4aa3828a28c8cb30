"""Whether Linux draws endpoints as often as the model says: a chi-square over repeats of one first packet.

Counterpart: none. Draws of a kernel are never compared one by one, only their frequencies (K-5).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import erfc, exp, lgamma, log, sqrt

#: chance of an alarm in a whole verification though everything is right
FALSE_ALARM = 1e-6
_LEAST_EXPECTED = 5  # draws of each endpoint; of fewer the statistic says nothing


@dataclass(frozen=True, slots=True)
class Frequencies:
    """How often each endpoint was drawn, and how often it should have been. ``question`` is the packet in words."""

    question: str
    drawn: Mapping[str, int]
    weights: Mapping[str, Fraction]

    @property
    def samples(self) -> int:
        return sum(self.drawn.values())

    @property
    def tells(self) -> bool:
        """Whether there is more than one endpoint, and enough draws of each."""
        return len(self.weights) > 1 and min(self.weights.values()) * self.samples >= _LEAST_EXPECTED

    @property
    def chi_square(self) -> float:
        expected = {end: float(weight * self.samples) for end, weight in self.weights.items()}
        return sum((self.drawn.get(end, 0) - mean) ** 2 / mean for end, mean in expected.items())

    @property
    def p_value(self) -> float:
        """The chance of a statistic at least this large, if draws are as they should be."""
        return chance_of_chi_square(self.chi_square, len(self.weights) - 1)

    def __str__(self) -> str:
        counts = ", ".join(f"{end} {self.drawn.get(end, 0)} ({w})" for end, w in sorted(self.weights.items()))
        return f"{self.question}: {counts}; chi² {self.chi_square:.1f}, p {self.p_value:.2g}"


def chance_of_chi_square(least: float, freedom: int) -> float:
    """The chance that a chi-square of so many degrees of freedom is at least ``least``, exactly.

    The upper incomplete gamma function of ``freedom / 2``, which for half of a whole number is a sum.
    """
    half = least / 2
    if half == 0:
        return 1.0
    powers = [freedom / 2 - 1 - n for n in range(freedom // 2)]
    rest = erfc(sqrt(half)) if freedom % 2 else 0.0
    return rest + sum(exp(power * log(half) - half - lgamma(power + 1)) for power in powers)
