"""Judges whether Linux draws as the model says: endpoints, by a chi-square test over repeats of one first packet, and
source ports, by the ends of their range over a whole run.

The draws of a kernel cannot be compared one by one, only their frequencies (K-5).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import erfc, exp, lgamma, log, sqrt

#: the chance of a false alarm in a whole verification
FALSE_ALARM = 1e-6
_LEAST_EXPECTED = 5  # expected draws of each endpoint; with fewer the statistic says nothing


@dataclass(frozen=True, slots=True)
class Frequencies:
    """How often each endpoint was drawn, and the probability that the model gives it. ``question`` is the packet in
    words.
    """

    question: str
    drawn: Mapping[str, int]
    weights: Mapping[str, Fraction]

    @property
    def samples(self) -> int:
        return sum(self.drawn.values())

    @property
    def tells(self) -> bool:
        """Whether there are several endpoints, and enough draws to judge each."""
        return len(self.weights) > 1 and min(self.weights.values()) * self.samples >= _LEAST_EXPECTED

    @property
    def chi_square(self) -> float:
        expected = {end: float(weight * self.samples) for end, weight in self.weights.items()}
        return sum((self.drawn.get(end, 0) - mean) ** 2 / mean for end, mean in expected.items())

    @property
    def p_value(self) -> float:
        """The chance of a statistic at least as large as this one if Linux draws as the model says."""
        return chance_of_chi_square(self.chi_square, len(self.weights) - 1)

    def __str__(self) -> str:
        counts = ", ".join(f"{end} {self.drawn.get(end, 0)} ({w})" for end, w in sorted(self.weights.items()))
        return f"{self.question}: {counts}; chi² {self.chi_square:.1f}, p {self.p_value:.2g}"


@dataclass(frozen=True, slots=True)
class Spread:
    """Source ports that Linux drew where the model draws from ``low`` to ``high``: how many, the lowest, the highest.

    A model with too wide a range can follow each single draw. Only the ends that Linux never draws show it (K-2.3).
    """

    low: int
    high: int
    samples: int
    lowest: int
    highest: int

    @classmethod
    def of(cls, low: int, high: int, drawn: Iterable[int]) -> "Spread":
        """The spread of these ports, at least one."""
        found = list(drawn)
        return cls(low, high, len(found), min(found), max(found))

    def __add__(self, other: "Spread") -> "Spread":
        """Both together. They must have the same range."""
        return Spread(
            self.low, self.high, self.samples + other.samples,
            min(self.lowest, other.lowest), max(self.highest, other.highest),
        )  # fmt: skip

    @property
    def p_value(self) -> float:
        """The chance that an end of the range stays at least as empty if Linux draws every port alike."""
        size = self.high - self.low + 1
        empty = max(self.lowest - self.low, self.high - self.highest)
        return min(1.0, 2 * (1 - empty / size) ** self.samples)

    def __str__(self) -> str:
        told = f"{self.samples} source ports from {self.low} to {self.high}"
        return f"{told}: the lowest is {self.lowest}, the highest {self.highest}; p {self.p_value:.2g}"


def chance_of_chi_square(least: float, freedom: int) -> float:
    """The exact chance that a chi-square with ``freedom`` degrees of freedom is at least ``least``.

    It is the regularized upper incomplete gamma function at ``freedom / 2``, which is a finite sum because
    ``freedom`` is whole.
    """
    half = least / 2
    if half == 0:
        return 1.0
    powers = [freedom / 2 - 1 - n for n in range(freedom // 2)]
    rest = erfc(sqrt(half)) if freedom % 2 else 0.0
    return rest + sum(exp(power * log(half) - half - lgamma(power + 1)) for power in powers)
