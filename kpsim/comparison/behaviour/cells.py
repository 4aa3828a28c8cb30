"""Classes of one side, and classes that both sides see: which packets fare differently."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import NamedTuple

from kpsim.comparison.behaviour.asking import DESTINATION, PORT, SOURCE, WIDE, Region, narrowed
from kpsim.comparison.behaviour.fates import Fate, Item, deciding
from kpsim.comparison.behaviour.spaces import Values, meet, only, refined, unite, without
from kpsim.comparison.behaviour.tree import Way

#: so many addresses of pods are told apart for what they send to themselves
_MOST_ECHOES = 4096


class Class(NamedTuple):
    """Packets that fare alike on one side."""

    region: Region
    fate: Fate
    ways: list[Way[Item]]


class Cell(NamedTuple):
    """Packets that fare alike on each side, and not alike on both."""

    region: Region
    a: Fate
    b: Fate
    ways_a: list[Way[Item]]
    ways_b: list[Way[Item]]


def merged(classes: Iterable[Class]) -> list[Class]:
    """Fewer classes: those with equal fates are joined.

    A class with packets to their own sender stays alone, since these are asked about apart.
    """
    found: list[Class] = []
    together: dict[Hashable, list[Class]] = {}
    for each in classes:
        if meet(each.region[SOURCE], each.region[DESTINATION]):
            found.append(each)
        else:
            together.setdefault((each.fate, deciding(each.fate, each.ways)), []).append(each)
    for alike in together.values():
        found += [alike[0]._replace(region=region) for region in joined([each.region for each in alike])]
    return found


def pairs(a: Iterable[Class], b: list[Class]) -> Iterator[Cell]:
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
                yield Cell((source, destination, port, (), ()), one.fate, other.fate, one.ways, other.ways)


def without_echoes(cell: Cell, fare_alike: Callable[[Region], bool]) -> Iterator[Cell]:
    """The class without packets to their own sender, if these ``fare_alike`` on both sides.

    A pod that reaches itself gets no answer (K-7.3), whatever else of the class does.
    """
    both = meet(cell.region[SOURCE], cell.region[DESTINATION])
    if not both or not fare_alike(cell.region):
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


def joined(regions: list[Region]) -> list[Region]:
    """Fewer regions that hold the same packets: regions that differ on one axis only become one."""
    while len(regions) > 1:
        before = len(regions)
        for axis in (SOURCE, PORT, DESTINATION):
            together: dict[Hashable, list[Region]] = {}
            for region in regions:
                together.setdefault(tuple([region[other] for other in WIDE if other != axis]), []).append(region)
            regions = [
                narrowed(alike[0], axis, unite(region[axis] for region in alike)) if len(alike) > 1 else alike[0]
                for alike in together.values()
            ]
        if len(regions) == before:
            break
    return regions


def boxes_of(regions: list[Region]) -> list[Region]:
    """The packets of some regions as boxes, which depend on these packets alone, however the regions divide them.

    All packets to a destination that have their port and source from the same sets are together.
    """
    if len(regions) == 1:
        return regions
    whole: dict[frozenset[tuple[Values, Values]], list[Values]] = {}
    for places, destinations in refined([region[DESTINATION] for region in regions]).items():
        here = [regions[place] for place in sorted(places)]
        sources: dict[Values, list[Values]] = {}
        for inside, ports in refined([region[PORT] for region in here]).items():
            sources.setdefault(unite([here[place][SOURCE] for place in inside]), []).append(ports)
        shape = frozenset((source, unite(ports)) for source, ports in sources.items())
        whole.setdefault(shape, []).append(destinations)
    found: list[Region] = [
        (source, unite(destinations), ports, (), ()) for shape, destinations in whole.items() for source, ports in shape
    ]
    return sorted(found, key=lambda region: (region[DESTINATION], region[PORT], region[SOURCE]))
