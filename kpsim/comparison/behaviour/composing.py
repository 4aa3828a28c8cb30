"""Composes what becomes of packets of one component from what becomes of packets to each kind of endpoint.

A packet to a Service draws one of its endpoints, each with the same probability. What follows the draw depends on the
endpoint drawn, and not on which others there are. So it is followed for one endpoint of each kind, of any component
among akin ones, and carried to the others by an exchange. Packets that an endpoint sends to its own Service may fare in
their own way: those of one endpoint of each kind stand for those of the others.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.comparison.behaviour.alike import Member
from kpsim.comparison.behaviour.asking import SOURCE, Region, narrowed
from kpsim.comparison.behaviour.carrying import Swap
from kpsim.comparison.behaviour.cells import Cell, Class, merged
from kpsim.comparison.behaviour.fates import Fate, Item, Seen, fate_of, is_orderless, settled
from kpsim.comparison.behaviour.following import Followed, Part
from kpsim.comparison.behaviour.spaces import Values, holds, is_one, lacking, unite
from kpsim.comparison.behaviour.starts import Start
from kpsim.comparison.behaviour.tree import Way, classes

SpaceOf = Callable[[Member], Iterable[Region]]  #: the packets that are for a component


class NotComposed(Exception):
    """What becomes of packets does not follow from kinds of endpoints: they are followed one by one."""


class _Of(NamedTuple):
    """An endpoint of a component, and what becomes of packets that are translated to it, by port."""

    member: Member
    address: int
    ways: dict[int, list[Way[Item]]]


class _Share(NamedTuple):
    """What some endpoints have in common that are drawn."""

    endpoint: tuple[int, ...]  #: one of them, which stands for the others
    number: int  #: how many there are
    item: Item


class Endpoints:
    """The endpoints of a component in one family, by kind."""

    def __init__(self, member: Member, family: Family) -> None:
        self.member = member
        self.of: dict[int, list[int]] = {}
        self.places: dict[int, list[int]] = {}
        for place, ((of, value), kind) in enumerate(zip(member.addresses, member.kinds, strict=True)):
            if kind >= 0 and of is family:
                self.of.setdefault(kind, []).append(value)
                self.places.setdefault(kind, []).append(place)
        self.kinds = {value: kind for kind, values in self.of.items() for value in values}
        #: all endpoints but the first of each kind
        self.others: Values = tuple(sorted((value, value) for values in self.of.values() for value in values[1:]))
        #: the second of each kind stands for all but the first
        self._for_others = {values[1]: values[1:] for values in self.of.values() if len(values) > 1}
        self._whole: dict[Fate, Fate] = {}

    def is_alike(self, fate: Fate, kind: int) -> bool:
        """Whether a fate is the same for all endpoints of a kind: it does not tell the first from the others."""
        values = self.of[kind]
        if len(values) == 1:
            return True
        one, other, count = values[0], values[1], len(values) - 1
        of_one, of_other = set(), set()
        for seen, hidden, weight in fate.outcomes:
            if seen is not None and one in (seen.source, seen.destination):
                if other in (seen.source, seen.destination):
                    return False
                of_one.add((_put(seen, one, other), hidden, weight * count))
            elif seen is not None and other in (seen.source, seen.destination):
                of_other.add((seen, hidden, weight))
        seen = fate.seen
        return of_one == of_other and (seen is None or not {one, other} & {seen.source, seen.destination})

    def whole(self, fate: Fate) -> Fate:
        """The fate with an outcome for each endpoint in place of those that stand for several."""
        if fate not in self._whole:
            outcomes: dict[tuple[Seen | None, bool], Fraction] = {}
            for seen, hidden, weight in fate.outcomes:
                stands = None if seen is None else next(
                    (each for each in (seen.source, seen.destination) if each in self._for_others), None
                )  # fmt: skip
                each_of = (None,) if stands is None else self._for_others[stands]
                for value in each_of:
                    told = seen if seen is None or value is None else _put(seen, stands, value)
                    outcomes[told, hidden] = outcomes.get((told, hidden), Fraction(0)) + weight / len(each_of)
            found = frozenset((*key, weight) for key, weight in outcomes.items())
            self._whole[fate] = fate._replace(outcomes=found)
        return self._whole[fate]


def _put(seen: Seen, one: object, other: object) -> Seen:
    """What is seen with an address in place of another."""
    source, destination = (other if each == one else each for each in (seen.source, seen.destination))
    return seen._replace(source=source, destination=destination)


class Composer:
    """One side's packets of akin components that set out alike."""

    def __init__(self, followed: Followed, start: Start, space_of: SpaceOf) -> None:
        self._followed, self._start, self._space_of = followed, start, space_of
        self._of: dict[Hashable, _Of] = {}
        self.first: Member | None = None
        #: classes of the first component's packets whose fate does not depend on endpoints
        self.fixed: list[Class] = []
        self.number = 0  #: of these classes before they were merged

    @property
    def draws(self) -> bool:
        """Whether some packets draw an endpoint."""
        return any(of.ways for of in self._of.values())

    def learn(self, member: Member) -> None:
        """Follows the packets of a component as far as its kinds of endpoints are not known. NotComposed if these do not tell."""
        known = {key for key in self._of if isinstance(key, int)}
        wanted = {kind for kind in Endpoints(member, self._followed.family).of if kind not in known}
        if self.first is not None and not (wanted and self.draws):
            return
        fixed = self._follow(member)
        if self.first is None:
            self.first, self.number = member, len(fixed)
            if not all(is_orderless(each.ways) for each in fixed):
                raise NotComposed
            self.fixed = merged(fixed)
        for kind in wanted:  # one that no packet draws here
            self._of.setdefault(kind, _Of(member, 0, {}))

    def _follow(self, member: Member) -> list[Class]:
        """Follows packets to one endpoint of each kind that is not known yet, and of the first component all others."""
        known = set(self._of)

        def is_wanted(endpoint: tuple[int, ...]) -> bool:
            if not endpoint:
                return self.first is None
            key = self._key(member, endpoint[0])
            return key not in known and self._of.setdefault(key, _Of(member, endpoint[0], {})).address == endpoint[0]

        fixed: list[Class] = []
        for region in self._space_of(member):
            for parts in self._followed.parts(self._start, region, is_wanted):
                if not _are_drawn(parts):
                    ways = [
                        Way(each.region, part.weight * each.weight, each.leaf, (), each.narrow)
                        for part in parts
                        for each in part.ways
                    ]
                    fixed += [Class(region, fate_of(of), of) for region, of in (classes(ways) if ways else ())]
                    continue
                for part in parts:
                    if part.ways:
                        of_port = self._of[self._key(member, part.endpoint[0])].ways
                        of_port.setdefault(part.endpoint[1], []).extend(part.ways)
        return fixed

    def _key(self, member: Member, address: int) -> Hashable:
        """The kind of an endpoint; of one that is not to be exchanged with others its place, or its address."""
        at = self._followed.family, address
        if at not in member.addresses:
            return "address", address
        place = member.addresses.index(at)
        return member.kinds[place] if member.kinds[place] >= 0 else ("place", place)

    def fixed_of(self, member: Member) -> list[Class]:
        """As ``fixed``, of another component."""
        if member is self.first:
            return self.fixed
        assert self.first is not None
        swap = Swap(self.first.without_endpoints, member.without_endpoints, self._followed.family)
        return [Class(_swapped(each.region, swap), swap.fate(each.fate), each.ways) for each in self.fixed]

    def drawn_of(self, endpoints: Endpoints) -> list[Class]:
        """The classes of a component's packets that draw an endpoint.

        Sources are without those that others stand for; so are the endpoints that fates name.
        """
        shares: list[Way[_Share]] = []
        for key, of in self._of.items():
            if isinstance(key, int):
                values = endpoints.of.get(key, [])
                for value, count in zip(values, (1, len(values) - 1), strict=False):
                    shares += self._shares(endpoints, of, value, count)
            else:
                shares += self._shares(endpoints, of, None, 1)
        found = []
        for region, ways in classes(shares):
            odds: dict[tuple[int, ...], Fraction] = {}
            for way in ways:
                odds[way.leaf.endpoint] = odds.get(way.leaf.endpoint, Fraction(0)) + way.weight
            if any(each != 1 for each in odds.values()):
                raise NotComposed
            total = sum({way.leaf.endpoint: way.leaf.number for way in ways}.values())
            whole = [Way(region, way.weight * way.leaf.number / total, way.leaf.item, (), way.narrow) for way in ways]
            if not is_orderless(whole):
                raise NotComposed
            found.append(Class(region, fate_of(whole), whole))
        return found

    def _shares(self, endpoints: Endpoints, of: _Of, address: int | None, count: int) -> Iterator[Way[_Share]]:
        """The ways of packets to an endpoint of the kind of another; None: to the same as of the other's component."""
        family = self._followed.family
        here, there = of.member.without_endpoints, endpoints.member.without_endpoints
        if address is not None and address != of.address:
            here = here._replace(addresses=(*here.addresses, (family, of.address)))
            there = there._replace(addresses=(*there.addresses, (family, address)))
        swap = Swap(here, there, family)
        for port, ways in of.ways.items():
            endpoint = swap.address(of.address), port
            for way in ways:
                region = _swapped(way.region, swap)
                source = lacking(region[SOURCE], endpoints.others)
                if source:
                    item = way.leaf._replace(seen=swap.seen(way.leaf.seen))  # before the endpoint's numbers are put in
                    share = _Share(endpoint, count, settled(item, endpoint))
                    yield Way(narrowed(region, SOURCE, source), way.weight, share, (), way.narrow)


def _are_drawn(parts: list[Part]) -> bool:
    """Whether packets draw one of several endpoints, or have one. NotComposed if it is not a draw among equals."""
    endpoints = {part.endpoint for part in parts}
    if endpoints == {()}:
        return False
    odds = Fraction(1, len(endpoints))
    if () in endpoints or len({address for address, _ in endpoints}) < len(endpoints):
        raise NotComposed
    if any(part.weight != odds for part in parts):
        raise NotComposed
    return True


def _swapped(region: Region, swap: Swap) -> Region:
    source, destination, port, *_ = region
    return swap.addresses(source), swap.addresses(destination), swap.ports(port), (), ()


class Parted(NamedTuple):
    """Cells of a component, by what they stand for."""

    alike: list[Cell]  #: their packets are all there are
    of_one: dict[int, list[Cell]]  #: by kind: what the first endpoint of the kind sends stands for what the others send


def parted(cells: Iterable[Cell], endpoints: Endpoints) -> Parted:
    """Cells from sources of which the first endpoint of each kind stands for all of its kind."""
    found = Parted([], {})
    for cell in cells:
        source, more = cell.region[SOURCE], list[Values]()
        for kind, values in endpoints.of.items():
            if len(values) == 1 or not holds(source, values[0]):
                continue
            if endpoints.is_alike(cell.a, kind) and endpoints.is_alike(cell.b, kind):
                more.append(tuple([(value, value) for value in values[1:]]))
            elif is_one(source):
                found.of_one.setdefault(kind, []).append(cell)
                break
            else:
                raise NotComposed
        else:
            region = narrowed(cell.region, SOURCE, unite([source, *more])) if more else cell.region
            found.alike.append(cell._replace(region=region))
    return found
