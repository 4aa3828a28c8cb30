"""Compares two sides class by class, and joins classes that differ alike into boxes.

Every packet is in one class of each side. Two fates are compared for each class that both sides see; of the classes
whose fates differ, neighbours with equal fates are joined. So boxes are disjoint, and a packet lies in one exactly if
its fate differs.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.comparison.behaviour.asking import DESTINATION, PORT, SOURCE, WIDE, Region, narrowed
from kpsim.comparison.behaviour.fates import Fate, Item, fate_of
from kpsim.comparison.behaviour.following import Followed, Start, everything
from kpsim.comparison.behaviour.spaces import Values, meet, only, unite, without
from kpsim.comparison.behaviour.tree import Way
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


@dataclass(frozen=True, slots=True)
class Difference:
    """A box, the fate of its packets on each side, and one of the ways that lead to it on each side."""

    box: Box
    a: Fate
    b: Fate
    key: Hashable  #: of the part of packet space that the box lies in, as ``divide`` names it
    ways: tuple[tuple[Way[Item], ...], tuple[Way[Item], ...]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two sides do differently. ``classes`` is how many classes of packets were compared."""

    classes: int
    differences: tuple[Difference, ...]


def compare(
    a: Side, b: Side, divide: Callable[[Box], Iterable[tuple[Hashable, Box]]], progress: Progress | None = None
) -> Comparison:
    """Everything that the two sides do differently to first packets that meet nodes of both.

    ``divide`` cuts a box into those of several Services; boxes are joined only within one of its keys. InputError if
    the sides have no node or no family in common.
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
    for done, (family, node, protocol) in enumerate(work):
        if progress is not None:
            progress(done, len(work))
        for senders, starts in _starts(a.site, b.site, node, protocol).items():
            cells = list(_cells(followed[family], *starts, family))
            classes += len(cells)
            differing = [
                each for cell in cells if cell.a != cell.b for each in _without_echoes(cell, followed[family], *starts)
            ]
            for sender in senders:
                found += _joined(differing, family, node, sender, protocol, divide)
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


def _cells(followed: tuple[Followed, Followed], start_a: Start, start_b: Start, family: Family) -> Iterator[_Cell]:
    region: Region = (*everything(family, start_a), (), ())
    for part, ways_a in followed[0].ways(start_a, region):
        fate_a = fate_of(ways_a)
        for smaller, ways_b in followed[1].ways(start_b, part):
            yield _Cell(smaller, fate_a, fate_of(ways_b), ways_a, ways_b)


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
    divide: Callable[[Box], Iterable[tuple[Hashable, Box]]],
) -> Iterator[Difference]:  # fmt: skip
    groups: dict[tuple[Hashable, Fate, Fate], list[tuple[Region, _Cell]]] = {}
    for cell in cells:
        whole = Box(family, node, sender, protocol, *cell.region[:3])
        for key, box in divide(whole):
            region: Region = (box.source, box.destination, box.port, (), ())
            groups.setdefault((key, cell.a, cell.b), []).append((region, cell))
    for (key, _, _), members in groups.items():
        cell = members[0][1]
        for region in joined([region for region, _ in members]):
            box = Box(family, node, sender, protocol, *region[:3])
            yield Difference(box, cell.a, cell.b, key, (tuple(cell.ways_a), tuple(cell.ways_b)))


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
