"""Packets of processes that bind no address, where the two sides choose different sources for them.

Elsewhere such a packet is one of those that set out from the address that routing chooses on both sides. The choices
differ for addresses that only one side has: what a node sends to itself has its destination as its source (IPVS-3.5).
"""

from collections.abc import Iterator
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.comparison.behaviour.asking import PORT, Witness
from kpsim.comparison.behaviour.fates import Fate, Item, fate_of
from kpsim.comparison.behaviour.following import EVERYTHING, NO_PORT, PORTS, Followed, typical
from kpsim.comparison.behaviour.routes import WatchedRouting
from kpsim.comparison.behaviour.spaces import Name, Partition, Values, cuts_of, meet, only
from kpsim.comparison.behaviour.starts import Start
from kpsim.comparison.behaviour.tree import Way
from kpsim.packet import ICMP_PROTOCOLS

#: stands among the sources of a node's own packets for the one that routing chooses
UNBOUND: Values = only(0)


class Unbound(NamedTuple):
    """A class of such packets."""

    destination: Values
    port: Values
    a: Fate
    b: Fate
    ways_a: list[Way[Item]]
    ways_b: list[Way[Item]]


def unbound(a: Followed, b: Followed, start: Start) -> Iterator[Unbound]:
    """The classes of packets to destinations for which the sources differ."""
    ports = NO_PORT if start.protocol in ICMP_PROTOCOLS else PORTS
    for sources, destination in _choices(a, b, start.node):
        parts = [
            {region[PORT] for region, _ in side.ways(start, (only(source), destination, ports, (), ()))}
            for side, source in zip((a, b), sources, strict=True)
        ]
        for port in sorted({both for here in parts[0] for there in parts[1] if (both := meet(here, there))}):
            numbers = 0, typical(destination), typical(port)
            ways_a, ways_b = (side.plain(start, *numbers) for side in (a, b))
            yield Unbound(destination, port, fate_of(ways_a), fate_of(ways_b), ways_a, ways_b)


def _choices(a: Followed, b: Followed, node: str) -> Iterator[tuple[tuple[int, int], Values]]:
    """The destinations for which routing chooses different sources on the two sides, with the sources."""
    family: Family = a.family
    routings = [side.site.netns(node, family).routing for side in (a, b)]

    def name(destination: int) -> Name:
        here, there = (routing.source_for(family, destination) or 0 for routing in routings)
        return None if here == there else (here, there)

    cuts = [
        cut
        for routing in routings
        for cut in cuts_of(WatchedRouting(routing, Witness()).constants(family))
    ]  # fmt: skip
    for sources, destinations in Partition(cuts, name).split(EVERYTHING[family]).items():
        if sources is not None:
            yield sources, destinations  # type: ignore[misc]  # as named above
