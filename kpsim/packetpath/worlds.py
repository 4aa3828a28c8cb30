"""Rules that are not modelled: a packet is followed in every world that they leave possible, and the worlds are compared.

Such a match is neither true nor false. A walk asks its :class:`World` whether it holds. If all worlds end alike, that is
the packet's end, whatever the match would have said. If two differ, the end is unknown. So unknown is never true, and a
match that decides nothing does no harm.
"""

from collections.abc import Callable, Hashable
from typing import TypeVar

from kpsim.packetpath.chooser import Chooser, SeveralWorlds

T = TypeVar("T")

#: more worlds are not followed: the end is then unknown
MOST_WORLDS = 512


class UnknownEnd(Exception):
    """A packet met a target that is not modelled, so its end is not known. The text names the target."""


class World:
    """Answers for what is not modelled: first those of the script, then no. It records what was asked."""

    __slots__ = ("_script", "answers", "words")

    def __init__(self, script: tuple[bool, ...] = ()) -> None:
        self._script = script
        self.answers: list[bool] = []
        self.words: list[str] = []  #: what was asked, in words

    def holds(self, words: str) -> bool:
        """Whether a match that is not modelled holds in this world."""
        at = len(self.answers)
        answer = self._script[at] if at < len(self._script) else False
        self.answers.append(answer)
        self.words.append(words)
        return answer

    def others(self) -> list[tuple[str, tuple[bool, ...]]]:
        """What was asked after the script, the last first, each with the script in which the answer is yes."""
        first = len(self._script)
        return [(self.words[at], (*self.answers[:at], True)) for at in reversed(range(first, len(self.answers)))]


class _OnlyWorld(World):
    """A world in which everything is modelled. A walk that asks it must be followed in several worlds instead."""

    def holds(self, words: str) -> bool:
        raise SeveralWorlds


ONLY_WORLD = _OnlyWorld()


class SameDraws:
    """Answers each draw of a walk once, so that all its worlds draw alike. Satisfies ``Chooser``."""

    __slots__ = ("_chooser", "_drawn")

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser
        self._drawn: dict[Hashable, int] = {}

    def chance(self, threshold: int, key: Hashable) -> bool:
        name = "chance", threshold, key
        if name not in self._drawn:
            self._drawn[name] = self._chooser.chance(threshold, key)
        return bool(self._drawn[name])

    def uniform(self, limit: int, key: Hashable) -> int:
        return self._once(self._chooser.uniform, "uniform", limit, key)

    def port(self, limit: int, key: Hashable) -> int:
        return self._once(self._chooser.port, "port", limit, key)

    def victim(self, limit: int, key: Hashable) -> int:
        return self._once(self._chooser.victim, "victim", limit, key)

    def _once(self, draw: Callable[[int, Hashable], int], kind: str, limit: int, key: Hashable) -> int:
        name = kind, limit, key
        if name not in self._drawn:
            self._drawn[name] = draw(limit, key)
        return self._drawn[name]


def settled(run: Callable[[World], T], merged: Callable[[T, T], T | None], unknown: Callable[[T, str], T]) -> T:
    """What ``run`` returns in every possible world.

    ``merged`` makes one result of two that agree, and returns None for two that differ. ``unknown`` makes the result of
    a packet whose end is not known, given the words of the match that decides it.
    """
    world = World()
    result = run(world)
    if not world.answers:
        return result
    waiting = world.others()[::-1]
    followed = 1
    while waiting:
        words, script = waiting.pop()
        if followed == MOST_WORLDS:
            return unknown(result, words)
        world = World(script)
        other = run(world)
        followed += 1
        both = merged(result, other)
        if both is None:
            return unknown(result, words)
        result = both
        waiting += world.others()[::-1]
    return result
