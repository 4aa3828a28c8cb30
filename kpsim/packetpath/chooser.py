"""The kernel's random numbers: drawn from a seed, or taken from a script in order to explore every outcome.

Counterpart: get_random_u32 in xt_statistic and in NAT port selection, and the hash of the connection table. A draw is
keyed by why its rule exists, not by the rule's place. So an added Service does not change the draws of other flows.
"""

from collections.abc import Callable, Hashable, Iterator
from fractions import Fraction
from functools import lru_cache
from math import prod
from typing import Protocol, TypeVar

from kpsim import rng
from kpsim.rng import CHANCE_RANGE

T = TypeVar("T")

_PRINTED_DECIMALS = 10


class Chooser(Protocol):
    """Answers draws. ``key`` names the draw within one packet's walk and never repeats there."""

    def chance(self, threshold: int, key: Hashable) -> bool:
        """True with probability ``threshold`` / 2³¹."""

    def uniform(self, limit: int, key: Hashable) -> int:
        """An integer in [0, limit) that decides where the packet goes."""

    def port(self, limit: int, key: Hashable) -> int:
        """An integer in [0, limit) that only picks a source port."""

    def victim(self, limit: int, key: Hashable) -> int:
        """An integer in [0, limit) that only picks a connection to give way, in a full table or for its source port."""


class SeededChooser:
    """Draws that are a function of (seed, flow, key). ``flow`` tells connections apart, for example by number."""

    def __init__(self, seed: int, flow: Hashable) -> None:
        self._draws = rng.Draws(seed, flow)

    def chance(self, threshold: int, key: Hashable) -> bool:
        return self._draws.draw64(key) >> 33 < threshold  # 31 bits

    def uniform(self, limit: int, key: Hashable) -> int:
        return self._draws.draw64(key) * limit >> 64

    def port(self, limit: int, key: Hashable) -> int:
        return self._draws.draw64(key) * limit >> 64

    def victim(self, limit: int, key: Hashable) -> int:
        return self._draws.draw64(key) * limit >> 64


class ScriptedChooser:
    """Follows a script of decisions, then takes the first possible branch of each, and records the other branches.

    ``as_written``: a probability printed as 1/k to 10 decimals, as kube-proxy does (I-8.2), weighs exactly 1/k instead
    of the kernel's rounded threshold. ``port`` and ``victim`` are not explored: they always answer 0.
    """

    def __init__(self, script: tuple[int, ...] = (), *, as_written: bool = False) -> None:
        self._script = script
        self._as_written = as_written
        self.taken: list[int] = []
        self.weights: list[tuple[Fraction, ...]] = []  #: of the branches at each decision

    @property
    def weight(self) -> Fraction:
        """Probability of the decisions taken."""
        taken = [weights[branch] for branch, weights in zip(self.taken, self.weights, strict=True)]
        # one reduction at the end: a thousand endpoints make fractions of ten thousand digits
        return Fraction(prod(weight.numerator for weight in taken), prod(weight.denominator for weight in taken))

    def alternatives(self) -> list[tuple[int, ...]]:
        """Scripts for the branches not taken after the end of the given script.

        Branches with probability 0 are left out.
        """
        scripts = []
        for position in range(len(self._script), len(self.taken)):
            for branch in range(self.taken[position] + 1, len(self.weights[position])):
                if self.weights[position][branch]:
                    scripts.append((*self.taken[:position], branch))
        return scripts

    def chance(self, threshold: int, key: Hashable) -> bool:
        true = fraction_as_written(threshold) if self._as_written else None
        if true is None:
            true = Fraction(threshold, CHANCE_RANGE)
        return self._decide((true, 1 - true)) == 0

    def uniform(self, limit: int, key: Hashable) -> int:
        return self._decide((Fraction(1, limit),) * limit)

    def port(self, limit: int, key: Hashable) -> int:
        return 0

    def victim(self, limit: int, key: Hashable) -> int:
        return 0

    def _decide(self, weights: tuple[Fraction, ...]) -> int:
        position = len(self.taken)
        if position < len(self._script):
            branch = self._script[position]
        else:
            branch = next(index for index, weight in enumerate(weights) if weight)
        self.taken.append(branch)
        self.weights.append(weights)
        return branch


def explore(run: Callable[[ScriptedChooser], T], *, as_written: bool = False) -> Iterator[tuple[Fraction, T]]:
    """Calls ``run`` once for each combination of draws, and yields its probability and what ``run`` returned.

    The last draw changes first. The probabilities sum to 1. ``as_written`` as for :class:`ScriptedChooser`. ``run`` is
    called only when the next outcome is asked for.
    """
    scripts: list[tuple[int, ...]] = [()]
    while scripts:
        chooser = ScriptedChooser(scripts.pop(), as_written=as_written)
        outcome = run(chooser)
        yield chooser.weight, outcome
        scripts += chooser.alternatives()


@lru_cache(maxsize=1 << 12)
def fraction_as_written(threshold: int) -> Fraction | None:
    """1/k if this is the kernel's threshold for 1/k printed with 10 decimals (I-8.2, K-5); else None."""
    if not 0 < threshold <= CHANCE_RANGE:
        return None
    parts = round(Fraction(CHANCE_RANGE, threshold))
    printed = Fraction(round(Fraction(10**_PRINTED_DECIMALS, parts)), 10**_PRINTED_DECIMALS)
    return Fraction(1, parts) if round(printed * CHANCE_RANGE) == threshold else None
