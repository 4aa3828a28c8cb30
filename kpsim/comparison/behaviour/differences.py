"""Compares two sides class by class, and joins classes that differ alike into boxes.

Every packet is in one class of each side. Two fates are compared for each class that both sides see; of the classes
whose fates differ, neighbours with equal fates are joined. So boxes are disjoint, and a packet lies in one exactly if
its fate differs.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.comparison.behaviour.alike import NONE, Alike, Member
from kpsim.comparison.behaviour.asking import DESTINATION, PORT, SOURCE, WIDE, Region, narrowed
from kpsim.comparison.behaviour.carrying import Swap
from kpsim.comparison.behaviour.fates import Fate, Item, deciding, fate_of, is_orderless
from kpsim.comparison.behaviour.following import Followed, Start, everything
from kpsim.comparison.behaviour.spaces import Values, lacking, meet, only, unite, without
from kpsim.comparison.behaviour.tree import Way
from kpsim.comparison.behaviour.unbound import UNBOUND, unbound
from kpsim.errors import InputError
from kpsim.tracing.site import Sender, Site

_PROTOCOLS = ("tcp", "udp", "sctp")
#: so many addresses of pods are told apart for what they send to themselves
_MOST_ECHOES = 4096
_PING = {Family.IPV4: "icmp", Family.IPV6: "icmpv6"}

Progress = Callable[[int, int], None]  #: pieces of work done, and how many there are


@dataclass(frozen=True)
class Side:
    """What is compared: machines with rules, in some families, at a time."""

    site: Site
    families: tuple[Family, ...]
    now_ns: int


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


@dataclass(frozen=True, slots=True)
class Difference:
    """A box, the fate of its packets on each side, and one of the ways that lead to it on each side."""

    box: Box
    a: Fate
    b: Fate
    key: Hashable  #: of the part of packet space that the box lies in, as ``divide`` names it
    ways: tuple[tuple[Way[Item], ...], tuple[Way[Item], ...]]
    alike: bool = True  #: the same rules, or causes, decide about all packets of the box
    #: the difference of another Service that this one was carried from, whose ways it shows
    like: "tuple[Difference, Swap] | None" = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two sides do differently. ``classes`` is how many classes of packets were compared."""

    classes: int
    differences: tuple[Difference, ...]


def compare(a: Side, b: Side, divide: Divide, progress: Progress | None = None, together: Alike = NONE) -> Comparison:
    """Everything that the two sides do differently to first packets that meet nodes of both.

    ``divide`` cuts a box into those of several Services; boxes are joined only within one of its keys. Of each group of
    Services that are alike one is compared. InputError if the sides have no node or no family in common.
    """
    nodes = _in_common(a.site.node_names or ("node",), b.site.node_names or ("node",), "node")
    families = _in_common(a.families, b.families, "IP family")
    work = [
        (family, node, protocol)
        for family in families
        for node in nodes
        for protocol in (*_PROTOCOLS, _PING[family])
    ]  # fmt: skip
    classes, found = 0, list[Difference]()
    followed = {family: (Followed(a.site, family, a.now_ns), Followed(b.site, family, b.now_ns)) for family in families}
    swaps: dict[Hashable, Swap] = {}
    for done, (family, node, protocol) in enumerate(work):
        if progress is not None:
            progress(done, len(work))
        for senders, starts in _starts(a.site, b.site, node, protocol).items():
            at = _At(family, node, protocol, senders, followed[family], starts, divide, together, swaps)
            number, differences = at.compared()
            classes += number
            found += differences
            if Sender.NODE in senders:
                cells = [
                    _Cell((UNBOUND, each.destination, each.port, (), ()), *each[2:])
                    for each in unbound(*followed[family], starts[0])
                ]
                classes += len(cells)
                differing = [cell for cell in cells if cell.a != cell.b]
                found += _joined(differing, family, node, Sender.NODE, protocol, divide)
    if progress is not None:
        progress(len(work), len(work))
    return Comparison(classes, tuple(found))


def _in_common(a: Iterable, b: Iterable, what: str) -> list:  # type: ignore[type-arg]
    common = [each for each in a if each in set(b)]
    if not common:
        raise InputError(f"the two sides have no {what} in common")
    return common


def _starts(a: Site, b: Site, node: str, protocol: str) -> dict[tuple[Sender, ...], tuple[Start, Start]]:
    """The kinds of clients at a node, and how their packets set out on each side. Alike kinds are together."""
    machines = a.machine(node), b.machine(node)
    pod = tuple(Start(node, protocol, machine.pod_interface) for machine in machines)
    link = tuple(Start(node, protocol, machine.uplink) for machine in machines)
    own = tuple(Start(node, protocol) for _ in machines)
    kinds: dict[tuple[Start, ...], tuple[Sender, ...]] = {}
    for sender, starts in (
        (Sender.POD, pod), (Sender.NODE, own), (Sender.EXTERNAL, link), (Sender.PEER, link),
    ):  # fmt: skip
        kinds[starts] = (*kinds.get(starts, ()), sender)
    return {senders: (starts[0], starts[1]) for starts, senders in kinds.items()}


class _Cell(NamedTuple):
    """A class that both sides see."""

    region: Region
    a: Fate
    b: Fate
    ways_a: list[Way[Item]]
    ways_b: list[Way[Item]]


@dataclass(frozen=True, slots=True)
class _At:
    """The packets of one protocol that set out alike at one node."""

    family: Family
    node: str
    protocol: str
    senders: tuple[Sender, ...]
    followed: tuple[Followed, Followed]
    starts: tuple[Start, Start]
    divide: Divide
    together: Alike
    swaps: dict[Hashable, Swap]

    def compared(self) -> tuple[int, list[Difference]]:
        """How many classes there are, and the differences."""
        sources, destinations, ports = everything(self.family, self.starts[0])
        dialled, node_ports = self.together.addresses(self.family), self.together.node_ports(self.protocol)
        others = lacking(destinations, dialled)
        local = meet(self.together.local.get(self.family, ()), others) if node_ports else ()
        rest: list[Region] = [(sources, lacking(others, local), ports, (), ())]
        if local:
            rest.append((sources, local, lacking(ports, node_ports), (), ()))
        classes, found, _ = self._compared(rest)
        for group in self.together.groups:
            left = list(group)
            while left:
                one = left[0]
                number, own, orderless = self._compared(list(self._space_of(one, (sources, local, ports))))
                some = left if orderless else [each for each in left if each.order == one.order]
                left = [] if some is left else [each for each in left if each.order != one.order]
                classes += number * len(some)
                found += own
                found += [self._carried(each, one, other) for other in some[1:] for each in own]
        place = {sender: number for number, sender in enumerate(self.senders)}
        return classes, sorted(
            found,
            key=lambda each: (place[each.box.sender], each.box.destination, each.box.port, each.box.source),
        )

    def _space_of(self, member: Member, within: tuple[Values, Values, Values]) -> Iterator[Region]:
        """The packets that are for a component of Services."""
        sources, local, ports = within
        for family, value in sorted(member.component.dialled):
            if family is self.family:
                yield sources, only(value), ports, (), ()
        for protocol, port in sorted(member.component.node_ports):
            if protocol == self.protocol:
                yield sources, local, only(port), (), ()

    def _compared(self, regions: list[Region]) -> tuple[int, list[Difference], bool]:
        """How many classes there are, the differences, and whether all would be the same for another order of ways."""
        number, orderless, cells = 0, True, list[_Cell]()
        for region in regions:
            sides = []
            for followed, start in zip(self.followed, self.starts, strict=True):
                found = [_Class(part, fate_of(ways), ways) for part, ways in followed.ways(start, region)]
                number += len(found)
                orderless = orderless and all(is_orderless(each.ways) for each in found)
                sides.append(_merged(found))
            cells += _pairs(*sides)
        differing = [each for cell in cells for each in _without_echoes(cell, self.followed, *self.starts)]
        found_ = [
            each
            for sender in self.senders
            for each in _joined(differing, self.family, self.node, sender, self.protocol, self.divide)
        ]
        return number, found_, orderless

    def _carried(self, of: Difference, one: Member, other: Member) -> Difference:
        """The difference that a component has since another, which is like it, has one."""
        key = one.component, other.component, self.family
        swap = self.swaps.get(key)
        if swap is None:
            swap = self.swaps[key] = Swap(one, other, self.family)
        box = of.box._replace(
            source=swap.addresses(of.box.source), destination=swap.addresses(of.box.destination),
            port=swap.ports(of.box.port),
        )  # fmt: skip
        [(key_of_box, _)] = self.divide(box)
        return Difference(box, swap.fate(of.a), swap.fate(of.b), key_of_box, of.ways, of.alike, (of, swap))


class _Class(NamedTuple):
    """Packets that fare alike on one side."""

    region: Region
    fate: Fate
    ways: list[Way[Item]]


def _merged(classes: Iterable[_Class]) -> list[_Class]:
    """Fewer classes: those with equal fates are joined.

    A class with packets to their own sender stays alone, since these are asked about apart.
    """
    found: list[_Class] = []
    together: dict[Hashable, list[_Class]] = {}
    for each in classes:
        if meet(each.region[SOURCE], each.region[DESTINATION]):
            found.append(each)
        else:
            together.setdefault((each.fate, deciding(each.fate, each.ways)), []).append(each)
    for alike in together.values():
        found += [alike[0]._replace(region=region) for region in joined([each.region for each in alike])]
    return found


def _pairs(a: list[_Class], b: list[_Class]) -> Iterator[_Cell]:
    """The packets that fare differently on the two sides, whose classes these are."""
    for one in a:
        sources, destinations, ports, *_ = one.region
        for other in b:
            if one.fate == other.fate:
                continue
            port = meet(ports, other.region[PORT])
            source = meet(sources, other.region[SOURCE]) if port else ()
            destination = meet(destinations, other.region[DESTINATION]) if source else ()
            if destination:
                yield _Cell((source, destination, port, (), ()), one.fate, other.fate, one.ways, other.ways)


def _without_echoes(
    cell: _Cell, followed: tuple[Followed, Followed], start_a: Start, start_b: Start
) -> Iterator[_Cell]:
    """The class without packets to their own sender, if these fare alike on both sides.

    A pod that reaches itself gets no answer (K-7.3), whatever else of the class does.
    """
    both = meet(cell.region[SOURCE], cell.region[DESTINATION])
    if not both or followed[0].alone(start_a, cell.region) != followed[1].alone(start_b, cell.region):
        yield cell
        return
    own = [value for low, high in both for value in range(low, min(high, low + _MOST_ECHOES) + 1)]
    if len(own) > _MOST_ECHOES:
        yield cell
        return
    others = cell.region[DESTINATION]
    for value in own:
        others = without(others, value)
        rest = without(cell.region[SOURCE], value)
        if rest:
            yield cell._replace(region=(rest, only(value), *cell.region[2:]))
    if others:
        yield cell._replace(region=narrowed(cell.region, DESTINATION, others))


# --- boxes --------------------------------------------------------------------------------------------------------------


def _joined(
    cells: list[_Cell], family: Family, node: str, sender: Sender, protocol: str,
    divide: Divide,
) -> Iterator[Difference]:  # fmt: skip
    groups: dict[tuple[Hashable, Fate, Fate], list[tuple[Region, _Cell]]] = {}
    for cell in cells:
        whole = Box(family, node, sender, protocol, *cell.region[:3])
        for key, box in divide(whole):
            region: Region = (box.source, box.destination, box.port, (), ())
            groups.setdefault((key, cell.a, cell.b), []).append((region, cell))
    for (key, _, _), members in groups.items():
        cell = members[0][1]
        decided = {(deciding(each.a, each.ways_a), deciding(each.b, each.ways_b)) for _, each in members}
        alike = len(decided) == 1
        for region in joined([region for region, _ in members]):
            box = Box(family, node, sender, protocol, *region[:3])
            yield Difference(box, cell.a, cell.b, key, (tuple(cell.ways_a), tuple(cell.ways_b)), alike)


def joined(regions: list[Region]) -> list[Region]:
    """Fewer regions that hold the same packets: regions that differ on one axis only become one."""
    while True:
        before = len(regions)
        for axis in (SOURCE, PORT, DESTINATION):
            together: dict[Hashable, list[Region]] = {}
            for region in regions:
                together.setdefault(tuple(region[other] for other in WIDE if other != axis), []).append(region)
            regions = [
                narrowed(alike[0], axis, unite(region[axis] for region in alike)) if len(alike) > 1 else alike[0]
                for alike in together.values()
            ]
        if len(regions) == before:
            return sorted(regions, key=lambda region: (region[DESTINATION], region[PORT], region[SOURCE]))


def undivided(box: Box) -> Iterable[tuple[Hashable, Box]]:
    """All packets belong together."""
    return [((), box)]
