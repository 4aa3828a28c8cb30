"""Choices: the primitive for everything that is drawn, and helpers that build on it.

Choices come from a seed, or from a test library that shrinks failing examples. For shrinking, 0 must always be the
simplest alternative, so options are listed with the simplest first.
"""

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar

from kpsim import rng

T = TypeVar("T")


class Choices(Protocol):
    """A source of choices."""

    def below(self, limit: int) -> int:
        """An integer in [0, limit); 0 is the simplest. ``limit`` is at least 1."""


class SeededChoices:
    """Choices that are a function of a seed and a scope, such as ``("probes", "node-1")``."""

    def __init__(self, seed: int, *scope: Hashable) -> None:
        self._seed, self._scope, self._made = seed, scope, 0

    def below(self, limit: int) -> int:
        self._made += 1
        return rng.below(limit, self._seed, *self._scope, self._made)


def pick(choices: Choices, options: Sequence[T]) -> T:
    """One of the options. There must be at least one; if there is exactly one, no choice is made."""
    return options[choices.below(len(options))] if len(options) > 1 else options[0]


def weighted(choices: Choices, *options: tuple[int, T]) -> T:
    """One of the options, with probability in proportion to its weight. An option with weight 0 is never taken."""
    at = choices.below(sum(weight for weight, _ in options))
    for weight, option in options:
        if at < weight:
            return option
        at -= weight
    raise AssertionError("a choice outside its limit")


def chance(choices: Choices, percent: int) -> bool:
    """True with a probability of ``percent``; False is the simpler one."""
    return choices.below(100) >= 100 - percent


def several(choices: Choices, options: Sequence[T], most: int) -> list[T]:
    """At most ``most`` different options, in any order; none is the simplest."""
    left = list(options)
    return [left.pop(choices.below(len(left))) for _ in range(choices.below(min(most, len(left)) + 1))]
