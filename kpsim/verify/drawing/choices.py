"""Choices: the one primitive that everything drawn here rests on, and what is made of it.

Counterpart: none. A seed or a test library that shrinks may stand behind it: 0 is always the simplest alternative, so options are
listed simplest first. It never knows what is chosen between.
"""

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar

from kpsim import rng

T = TypeVar("T")


class Choices(Protocol):
    """Where choices come from."""

    def below(self, limit: int) -> int:
        """An integer in [0, limit); 0 is the simplest. ``limit`` is at least 1."""


class SeededChoices:
    """Choices that follow from a seed and the place they are for, such as ``("probes", "node-1")``."""

    def __init__(self, seed: int, *scope: Hashable) -> None:
        self._seed, self._scope, self._made = seed, scope, 0

    def below(self, limit: int) -> int:
        self._made += 1
        return rng.below(limit, self._seed, *self._scope, self._made)


def pick(choices: Choices, options: Sequence[T]) -> T:
    """One of the options. There must be one; no choice is made where there is no other."""
    return options[choices.below(len(options))] if len(options) > 1 else options[0]


def weighted(choices: Choices, *options: tuple[int, T]) -> T:
    """One of the options, each as likely as its weight; those of weight 0 never."""
    at = choices.below(sum(weight for weight, _ in options))
    for weight, option in options:
        if at < weight:
            return option
        at -= weight
    raise AssertionError("a choice outside its limit")


def chance(choices: Choices, percent: int) -> bool:
    """True in so many of a hundred cases; False is the simpler one."""
    return choices.below(100) >= 100 - percent


def several(choices: Choices, options: Sequence[T], most: int) -> list[T]:
    """At most so many different ones of the options, in any order; none is the simplest."""
    left = list(options)
    return [left.pop(choices.below(len(left))) for _ in range(choices.below(min(most, len(left)) + 1))]
