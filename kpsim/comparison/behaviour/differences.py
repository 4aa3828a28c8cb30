"""Compares two sides class by class, and joins classes that differ alike into boxes.

Every packet is in one class of each side. Two fates are compared for each class that both sides see; of the classes
whose fates differ, neighbours with equal fates are joined. So boxes are disjoint, and a packet lies in one exactly if
its fate differs.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass

from kpsim.addresses import Family
from kpsim.comparison.behaviour.alike import NONE, Alike, Kin, Member
from kpsim.comparison.behaviour.asking import Region
from kpsim.comparison.behaviour.boxes import Box, Difference, Divide, differences, rejoined
from kpsim.comparison.behaviour.carrying import Swap
from kpsim.comparison.behaviour.cells import Cell, Class, merged, pairs, without_echoes
from kpsim.comparison.behaviour.composing import Composer, Endpoints, NotComposed, SpaceOf, parted
from kpsim.comparison.behaviour.fates import Fate, fate_of, is_orderless
from kpsim.comparison.behaviour.following import Followed, everything
from kpsim.comparison.behaviour.narrowing import Narrow
from kpsim.comparison.behaviour.spaces import lacking, meet, only
from kpsim.comparison.behaviour.starts import Start
from kpsim.comparison.behaviour.unbound import UNBOUND, unbound
from kpsim.errors import InputError
from kpsim.tracing.site import Sender, Site

_PROTOCOLS = ("tcp", "udp", "sctp")
_PING = {Family.IPV4: "icmp", Family.IPV6: "icmpv6"}

Progress = Callable[[int, int], None]  #: pieces of work done, and how many there are


@dataclass(frozen=True)
class Side:
    """What is compared: machines with rules, in some families, at a time."""

    site: Site
    families: tuple[Family, ...]
    now_ns: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two sides do differently. ``classes`` is how many classes of packets were compared."""

    classes: int
    differences: tuple[Difference, ...]


def compare(
    a: Side, b: Side, divide: Divide, progress: Progress | None = None, together: Alike = NONE, *, by_node: bool = False,
    narrow: Narrow | None = None,
) -> Comparison:  # fmt: skip
    """Everything that the two sides do differently to first packets that meet nodes of both.

    ``divide`` cuts a box into those of several Services; boxes are joined only within one of its keys. Of each group of
    Services that are alike one is compared. Of nodes that stand for each other some are, unless ``by_node``.
    ``narrow``: only packets for some Services are compared. InputError if the sides have no node or no family in common.
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
    followed = {
        family: (
            Followed(a.site, family, a.now_ns, by_node=by_node), Followed(b.site, family, b.now_ns, by_node=by_node),
        )
        for family in families
    }  # fmt: skip
    swaps: dict[Hashable, Swap] = {}
    for done, (family, node, protocol) in enumerate(work):
        if progress is not None:
            progress(done, len(work))
        for senders, starts in _starts(a.site, b.site, node, protocol).items():
            at = _At(family, node, protocol, senders, followed[family], starts, divide, together, swaps, narrow)
            number, of_start = at.compared()
            classes += number
            found += of_start
            if Sender.NODE in senders:
                cells = [
                    Cell(region, *each[2:])
                    for each in unbound(*followed[family], starts[0])
                    for region in at.narrowed([(UNBOUND, each.destination, each.port, (), ())])
                ]
                classes += len(cells)
                differing = [cell for cell in cells if cell.a != cell.b]
                found += differences(differing, (family, node, Sender.NODE, protocol), divide)
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
    narrow: Narrow | None

    def compared(self) -> tuple[int, list[Difference]]:
        """How many classes there are, and the differences."""
        sources, destinations, ports = everything(self.family, self.starts[0])
        dialled, node_ports = self.together.addresses(self.family), self.together.node_ports(self.protocol)
        others = lacking(destinations, dialled)
        local = meet(self.together.local.get(self.family, ()), others) if node_ports else ()
        rest: list[Region] = [(sources, lacking(others, local), ports, (), ())]
        if local:
            rest.append((sources, local, lacking(ports, node_ports), (), ()))
        classes, found, _ = self._compared(self.narrowed(rest))

        def space_of(member: Member) -> Iterable[Region]:
            """The packets that are for a component of Services."""
            return self.narrowed(whole_of(member))

        def whole_of(member: Member) -> Iterator[Region]:
            for family, value in sorted(member.component.dialled):
                if family is self.family:
                    yield sources, only(value), ports, (), ()
            for protocol, port in sorted(member.component.node_ports):
                if protocol == self.protocol:
                    yield sources, local, only(port), (), ()

        of_members: list[Difference] = []
        for kin in self.together.kin:
            try:
                number, of_kin = self._of_kin(kin, space_of) if kin.composed else self._of_groups(kin, space_of)
            except NotComposed:
                number, of_kin = self._of_groups(kin, space_of)
            classes += number
            of_members += of_kin
        if any(each.key is None for each in of_members):  # health checks' ports
            free = rejoined(each for each in (*found, *of_members) if each.key is None)
            found = [*(each for each in (*found, *of_members) if each.key is not None), *free]
        else:
            found += of_members
        place = {sender: number for number, sender in enumerate(self.senders)}
        return classes, sorted(
            found,
            key=lambda each: (place[each.box.sender], each.box.destination, each.box.port, each.box.source),
        )

    def narrowed(self, regions: Iterable[Region]) -> list[Region]:
        """The parts of regions that are compared."""
        if self.narrow is None:
            return list(regions)
        return [part for each in regions for part in self.narrow.parts(self.family, self.protocol, each)]

    # --- components that are alike ----------------------------------------------------------------------------------

    def _of_groups(self, kin: Kin, space_of: SpaceOf) -> tuple[int, list[Difference]]:
        """Compares one component of each group, and carries what is found to the others."""
        classes, found = 0, list[Difference]()
        for group in kin.groups:
            left = list(group)
            while left:
                one = left[0]
                number, own, orderless = self._compared(list(space_of(one)))
                some = left if orderless else [each for each in left if each.has_order_of(one)]
                left = [] if some is left else [each for each in left if not each.has_order_of(one)]
                classes += number * len(some)
                found += own
                found += [self._carried(each, one, other) for other in some[1:] for each in own]
        return classes, found

    def _of_kin(self, kin: Kin, space_of: SpaceOf) -> tuple[int, list[Difference]]:
        """Composes what becomes of packets of each group. NotComposed if it cannot be done."""
        sides = [
            Composer(followed, start, space_of) for followed, start in zip(self.followed, self.starts, strict=True)
        ]
        for group in kin.groups:
            for side in sides:
                side.learn(group[0])
        first = kin.groups[0][0]
        common = self._differences(self._cells(sides[0].fixed, sides[1].fixed))
        of_fixed = {each.fates for each in common}
        classes = sum(side.number for side in sides) * sum(map(len, kin.groups))
        found: list[Difference] = []
        drawn = any(side.draws for side in sides)
        for group in kin.groups:
            for member in group:
                if member is first:
                    found += common
                else:
                    one, other = first.without_endpoints, member.without_endpoints
                    found += [self._carried(each, one, other) for each in common]
            if drawn:
                number, of_group = self._composed(group, sides, of_fixed)
                classes += number * len(group)
                found += of_group
        return classes, found

    def _composed(
        self, group: tuple[Member, ...], sides: list[Composer], of_fixed: Collection[tuple[Fate, Fate]]
    ) -> tuple[int, list[Difference]]:
        """The differences of packets that draw an endpoint on a side, for all components of a group."""
        one = group[0]
        endpoints = Endpoints(one, self.family)
        drawn = [side.drawn_of(endpoints) for side in sides]
        fixed = [side.fixed_of(one) for side in sides]
        a, b = map(merged, drawn)
        cells = self._cells(a, [*b, *fixed[1]]) + self._cells(fixed[0], b)
        whole = parted(cells, endpoints)
        if any((cell.a, cell.b) in of_fixed for cell in whole.alike):
            raise NotComposed  # boxes would be joined with those of packets that draw nothing
        number = sum(map(len, drawn))
        found: list[Difference] = []
        for kind, of_kind in ((-1, whole.alike), *whole.of_one.items()):
            own = self._differences(of_kind)
            for each in own:
                each.complete(one, endpoints.whole)
            found += own
            first = 0 if kind < 0 else endpoints.places[kind][0]
            for member in group:
                places = [first] if kind < 0 else endpoints.places[kind]
                for place in places:
                    if member is not one or place != first:
                        found += [self._carried(each, one, member, (first, place)) for each in own]
        return number, found

    def _carried(self, of: Difference, one: Member, other: Member, places: tuple[int, int] = (0, 0)) -> Difference:
        """The difference that a component has since another, which is like it, has one.

        The endpoints at two places of the other are exchanged.
        """
        key = one.component, len(one.addresses), other.component, self.family, places
        swap = self.swaps.get(key)
        if swap is None:
            swap = self.swaps[key] = Swap(one, other.exchanged(*places), self.family)
        return of.carried(swap, self.divide)

    # --- classes and differences ------------------------------------------------------------------------------------

    def _compared(self, regions: list[Region]) -> tuple[int, list[Difference], bool]:
        """How many classes there are, the differences, and whether all would be the same for another order of ways."""
        number, orderless, cells = 0, True, list[Cell]()
        for region in regions:
            sides = []
            for followed, start in zip(self.followed, self.starts, strict=True):
                found = [Class(part, fate_of(ways), ways) for part, ways in followed.ways(start, region)]
                number += len(found)
                orderless = orderless and all(is_orderless(each.ways) for each in found)
                sides.append(merged(found))
            cells += self._cells(*sides)
        return number, self._differences(cells), orderless

    def _cells(self, a: list[Class], b: list[Class]) -> list[Cell]:
        return [each for cell in pairs(a, b) for each in without_echoes(cell, self._echoes_fare_alike)]

    def _echoes_fare_alike(self, region: Region) -> bool:
        one, other = (each.alone(start, region) for each, start in zip(self.followed, self.starts, strict=True))
        return one == other

    def _differences(self, cells: list[Cell]) -> list[Difference]:
        return [
            each
            for sender in self.senders
            for each in differences(cells, (self.family, self.node, sender, self.protocol), self.divide)
        ]


def undivided(box: Box) -> Iterable[tuple[Hashable, Box]]:
    """All packets belong together."""
    return [((), box)]
