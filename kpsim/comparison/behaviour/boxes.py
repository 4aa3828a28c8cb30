"""Boxes of packets that fare differently, and what becomes of these packets on each side."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.comparison.behaviour.alike import Member
from kpsim.comparison.behaviour.asking import Region
from kpsim.comparison.behaviour.carrying import Swap
from kpsim.comparison.behaviour.cells import Cell, boxes_of
from kpsim.comparison.behaviour.fates import Fate, Item, deciding
from kpsim.comparison.behaviour.spaces import Values
from kpsim.comparison.behaviour.tree import Way
from kpsim.tracing.site import Sender


class Box(NamedTuple):
    """Packets that fare differently: at one node, of one kind of client and one protocol."""

    family: Family
    node: str
    sender: Sender
    protocol: str  #: lower case; ``icmp`` and ``icmpv6`` for pings
    source: Values
    destination: Values
    port: Values  #: 0 for pings


Divide = Callable[[Box], Iterable[tuple[Hashable, Box]]]  #: parts of a box, each with what it is for


class Difference:
    """A box, the fate of its packets on each side, and ways that lead to it on each side.

    ``key`` names the part of packet space that the box lies in, as :data:`Divide` does. ``alike``: the same rules, or
    causes, decide about all packets of the box. ``like`` is the difference of another Service that this one was carried
    from, whose ways it shows. ``member``: the component of which fates were composed.
    """

    __slots__ = ("_fates", "alike", "box", "key", "like", "member", "ways")

    def __init__(
        self, box: Box, fates: tuple[Fate, Fate] | None, key: Hashable,
        ways: tuple[tuple[Way[Item], ...], tuple[Way[Item], ...]], alike: bool = True,
        like: "tuple[Difference, Swap] | None" = None,
    ) -> None:  # fmt: skip
        self.box, self.key, self.ways, self.alike, self.like = box, key, ways, alike, like
        self._fates = fates
        self.member: Member | None = None

    @property
    def fates(self) -> tuple[Fate, Fate]:
        if self._fates is None:
            assert self.like is not None
            of, swap = self.like
            self._fates = swap.fate(of.fates[0]), swap.fate(of.fates[1])
        return self._fates

    @property
    def a(self) -> Fate:
        return self.fates[0]

    @property
    def b(self) -> Fate:
        return self.fates[1]

    def complete(self, member: Member, whole: Callable[[Fate], Fate]) -> None:
        """Replaces fates in which one endpoint of a component stands for others."""
        self.member, self._fates = member, (whole(self.a), whole(self.b))

    def carried(self, swap: Swap, divide: Divide) -> "Difference":
        """The difference that another component has, which is alike."""
        of = self.box
        box = of._replace(
            source=swap.addresses(of.source), destination=swap.addresses(of.destination), port=swap.ports(of.port)
        )
        [(key, _)] = divide(box)
        return Difference(box, None, key, self.ways, self.alike, (self, swap))


def differences(cells: Iterable[Cell], within: tuple[Family, str, Sender, str], divide: Divide) -> Iterator[Difference]:
    """Cells whose fates are equal, joined. ``within`` are the first fields of the boxes."""
    groups: dict[tuple[Hashable, Fate, Fate], list[tuple[Region, Cell]]] = {}
    for cell in cells:
        for key, box in divide(Box(*within, *cell.region[:3])):
            region: Region = (box.source, box.destination, box.port, (), ())
            groups.setdefault((key, cell.a, cell.b), []).append((region, cell))
    for (key, _, _), members in groups.items():
        cell = members[0][1]
        decided = {(deciding(each.a, each.ways_a), deciding(each.b, each.ways_b)) for _, each in members}
        ways = tuple(cell.ways_a), tuple(cell.ways_b)
        for region in boxes_of([region for region, _ in members]):
            yield Difference(Box(*within, *region[:3]), (cell.a, cell.b), key, ways, len(decided) == 1)


def rejoined(found: Iterable[Difference]) -> list[Difference]:
    """Differences of components and of the rest whose packets are for no Service: boxes with equal fates are joined."""
    groups: dict[Hashable, list[Difference]] = {}
    for each in found:
        groups.setdefault((each.box.sender, each.key, each.fates), []).append(each)
    made: list[Difference] = []
    for members in groups.values():
        regions: list[Region] = [(each.box.source, each.box.destination, each.box.port, (), ()) for each in members]
        boxes = boxes_of(regions)
        if len(members) == 1:
            made += members
            continue
        one = members[0]
        decided = {tuple(deciding(*side) for side in zip(each.fates, each.ways, strict=True)) for each in members}
        alike = len(decided) == 1 and all(each.alike for each in members)
        made += [Difference(Box(*one.box[:4], *region[:3]), one.fates, one.key, one.ways, alike) for region in boxes]
    return made
