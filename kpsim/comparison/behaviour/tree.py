"""A decision tree that is grown by following packets: inner nodes are questions, leaves are what became of a packet.

A packet's way is a list of answered questions. All packets that give the same answers take the same way. So one packet
is followed for each leaf, and the leaves together hold all packets of the region that was asked for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from kpsim.comparison.behaviour.asking import ENDPOINT, SOURCE, Drawn, Event, Question, Region, narrowed
from kpsim.comparison.behaviour.spaces import Name, Values, refined
from kpsim.errors import InputError

T = TypeVar("T")
Script = tuple[int, ...]  #: the branch taken at each draw of a way
ONE = Fraction(1)
#: so many packets are followed; a comparison that needs more is given up
MOST_WAYS = 5_000_000


@dataclass(slots=True, eq=False)
class _Node(Generic[T]):
    """A question, with what follows each answer; or a leaf, which has no question."""

    question: Question | None
    leaf: T | None = None
    above: "tuple[_Node[T], Name] | None" = None  #: the question before this one, and how it was answered
    children: dict[Name, "_Node[T]"] = field(default_factory=dict)


class Way(NamedTuple, Generic[T]):
    """A leaf, the packets that may reach it, and with which probability each of them does."""

    region: Region
    weight: Fraction
    leaf: T
    script: Script
    narrow: "Narrow"


#: the part of a region whose packets give the same answers as those of a leaf, or of a question
Narrow = Callable[[Region], Region]
#: follows a packet of the region, given the branches of its first draws, and what all packets on this way have in common
#: returns the questions, the end, and whether the packet stands for others: one to its own sender does not
Follow = Callable[[Region, Script, Narrow], tuple[list[Event], T, bool]]


def _same(region: Region) -> Region:
    return region


class Tree(Generic[T]):
    """The questions about packets that set out alike."""

    def __init__(self) -> None:
        self._root: _Node[T] | None = None
        self.size = 0  #: leaves

    def ways(self, region: Region, follow: Follow[T]) -> list[list[Way[T]]]:
        """The ways of all packets of a region, grouped so that the packets of a group meet their first draw together."""
        groups: list[list[Way[T]]] = []
        if self._root is None:
            self._root, _ = self._grown(region, (), None, 0, follow)
        waiting: list[tuple[_Node[T], Region, Fraction, Script, int, list[Way[T]] | None]]
        waiting = [(self._root, region, ONE, (), 0, None)]
        while waiting:
            node, here, weight, script, depth, group = waiting.pop()
            question = node.question
            if question is None:
                if group is None:
                    group = []
                    groups.append(group)
                assert node.leaf is not None
                group.append(Way(here, weight, node.leaf, script, partial(_narrowed, node)))
                continue
            if isinstance(question, Drawn):
                if group is None:
                    group = []
                    groups.append(group)
                for branch in reversed(range(len(question.weights))):
                    if question.weights[branch]:
                        longer = (*script, branch)
                        child = self._child(node, branch, here, longer, depth + 1, follow)
                        waiting.append((child, here, weight * question.weights[branch], longer, depth + 1, group))
                continue
            for name, part in question.split(here):
                child = self._child(node, name, part, script, depth + 1, follow)
                waiting.append((child, part, weight, script, depth + 1, group))
        return groups

    def _child(
        self, node: _Node[T], name: Name, region: Region, script: Script, depth: int, follow: Follow[T]
    ) -> _Node[T]:
        child = node.children.get(name)
        if child is None:
            child, lasts = self._grown(region, script, (node, name), depth, follow)
            if lasts:
                node.children[name] = child
        return child

    def _grown(
        self, region: Region, script: Script, above: tuple[_Node[T], Name] | None, depth: int, follow: Follow[T]
    ) -> tuple[_Node[T], bool]:
        """The questions behind the first ``depth`` ones that a packet of the region meets, and its end.

        False with them: they are no other packet's.
        """
        narrow = _same if above is None else partial(_narrowed, _Node(None, above=above))
        events, leaf, lasts = follow(region, script, narrow)
        self.size += 1
        if self.size > MOST_WAYS:
            raise InputError(f"the rules tell more than {MOST_WAYS:,} kinds of packets apart")
        first = here = _Node(events[depth][0] if depth < len(events) else None, above=above)
        for number, (_, name) in enumerate(events[depth:], depth + 1):
            question = None if number == len(events) else events[number][0]
            below: _Node[T] = _Node(question, above=(here, name))
            here.children[name] = below
            here = below
        here.leaf = leaf
        return first, lasts


def _narrowed(node: _Node[T], region: Region) -> Region:
    """The packets of a region that come to a node of the tree."""
    answers = []
    while node.above is not None:
        node, name = node.above
        answers.append((node.question, name))
    for question, name in reversed(answers):
        if question is not None and not isinstance(question, Drawn):
            region = next((part for each, part in question.split(region) if each == name), region)
    return region


def classes(ways: list[Way[T]]) -> Iterator[tuple[Region, list[Way[T]]]]:
    """The packets of some ways, divided into regions whose packets may all go the same ways; with these ways."""
    yield from _divided(ways, SOURCE)


def _divided(ways: list[Way[T]], axis: int) -> Iterator[tuple[Region, list[Way[T]]]]:
    if len(ways) == 1 or axis == ENDPOINT:
        yield ways[0].region, ways
        return
    numbers: dict[Values, int] = {}
    sets = [numbers.setdefault(way.region[axis], len(numbers)) for way in ways]
    if len(numbers) == 1:
        yield from _divided(ways, axis + 1)
        return
    for inside, values in refined(list(numbers)).items():
        here = [
            way._replace(region=narrowed(way.region, axis, values))
            for way, number in zip(ways, sets, strict=True)
            if number in inside
        ]
        yield from _divided(here, axis + 1)
