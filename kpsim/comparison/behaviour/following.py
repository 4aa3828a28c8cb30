"""Follows packets of one side of a comparison in two halves, and keeps what each half's way depended on.

The first half ends where destinations are translated. What comes after it depends on the endpoint and no longer on the
Service, so it is followed once for all Services: Services with alike endpoints cost only their first half.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.comparison.behaviour.asking import (
    AXES,
    DESTINATION,
    ENDPOINT,
    ENDPOINT_PORT,
    PORT,
    SOURCE,
    Destination,
    Drawn,
    Endpoint,
    EndpointPort,
    Event,
    Port,
    Region,
    Source,
    WatchedChooser,
    Witness,
    narrowed,
)
from kpsim.comparison.behaviour.cells import joined
from kpsim.comparison.behaviour.fates import Fate, Item, abstract, fate_of, item_of, passed_item, settled
from kpsim.comparison.behaviour.landscape import NO_NODES, landscape
from kpsim.comparison.behaviour.passing import HERE, Onward, Strangers, onward, remember
from kpsim.comparison.behaviour.routes import MARTIAN
from kpsim.comparison.behaviour.servers import watching
from kpsim.comparison.behaviour.spaces import Partition, Values, cuts_of, is_one, meet, only, without
from kpsim.comparison.behaviour.standing import Standing
from kpsim.comparison.behaviour.starts import After, Start
from kpsim.comparison.behaviour.tree import Narrow, Script, Tree, Way, classes
from kpsim.comparison.behaviour.world import WatchedWorld
from kpsim.exchange import NewFlow, exchange
from kpsim.netfilter import HookEntry, Walk, walk
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.packetpath.traversal import End, Traversal
from kpsim.ruleset import Hook
from kpsim.tracing.outcomes import explored
from kpsim.tracing.probes import make_packet
from kpsim.tracing.site import Site

#: priorities of the hook functions that begin and end the first half, and of those behind all rules
_FIRST, _BEHIND_NAT, _LAST = -(2**31), -99, 2**31 - 2
EVERYTHING: dict[Family, Values] = {family: ((0, (1 << family.bits) - 1),) for family in Family}
PORTS: Values = ((1, 65535),)
NO_PORT: Values = ((0, 0),)


class Cut(Exception):
    """A packet's destination is decided: the first half of its way ends."""

    def __init__(self, half: "Half") -> None:
        self.half = half


class Half(NamedTuple):
    """What decides about the second half of a way, endpoint and address aside."""

    state: Hashable
    endpoint: tuple[int, ...] = ()  #: address and port, if the destination was translated


class Part(NamedTuple):
    """What becomes of packets that the first node sends to an endpoint, or that it translates nowhere."""

    endpoint: tuple[int, ...]  #: address and port; empty: the destination was not translated
    weight: Fraction  #: with which probability packets come here
    ways: list[Way[Item]]  #: with their probabilities, given that. An endpoint's numbers are left open


class Followed:
    """One side of a comparison in one family. It is asked for the ways of regions, and follows packets where it must."""

    def __init__(self, site: Site, family: Family, now_ns: int, *, by_node: bool = False) -> None:
        """``by_node``: packets are followed at each node, also where nodes stand for each other."""
        self.site, self.family, self._now_ns = site, family, now_ns
        self.witness = Witness()
        land = NO_NODES if by_node else landscape(site, family, now_ns)
        self._standing = Standing(land, self._exactly) if land.groups else None
        self._world = WatchedWorld(
            site, family, self.witness, now_ns, self._entries, dict.fromkeys(land.keyed, land.services.frontends)
        )
        self._passes = bool(land.groups)  # no rule draws but those for Services
        self._first: dict[Start, Tree[Half]] = {}
        self._onward: dict[Hashable, Tree[Onward]] = {}
        self._arrivals: dict[Hashable, list[tuple[Region, list[Way[Item]]]]] = {}
        self._second: dict[Hashable, Tree[Item]] = {}
        self._martian = Partition(
            cuts_of(MARTIAN[family]), lambda each: tuple(a <= each <= b for a, b in MARTIAN[family])
        )
        low, high = MARTIAN[Family.IPV4][1]
        self._loopback = Partition((low, high + 1), lambda each: low <= each <= high)
        self._points: dict[int, Partition] = {}
        self._alone: dict[tuple[Start, int, int], Fate] = {}
        self._stage = 0  #: 0: before the first hook, 1: in the first half, 2: behind it
        self._is_echo = False  #: whether the packet is addressed to its own sender
        self._stops = False  #: whether the packet is followed only up to the cut
        self._met = set[str]()  #: the nodes that would know the packet's connection
        self.packets = 0  #: that were followed

    def ways(self, start: Start, region: Region) -> Iterator[tuple[Region, list[Way[Item]]]]:
        """Classes that together are the region, each with the ways that its packets may go."""
        yield from (self._exactly if self._standing is None else self._standing.ways)(start, region)

    def _exactly(self, start: Start, region: Region) -> Iterator[tuple[Region, list[Way[Item]]]]:
        """As :meth:`ways`, followed at the packets' own nodes."""
        for parts in self.parts(start, region):
            yield from classes([
                Way(
                    each.region, part.weight * each.weight,
                    settled(each.leaf, part.endpoint) if part.endpoint else each.leaf, (), each.narrow,
                )
                for part in parts
                for each in part.ways
            ])  # fmt: skip

    def parts(
        self, start: Start, region: Region, wanted: Callable[[tuple[int, ...]], bool] = lambda endpoint: True
    ) -> Iterator[list[Part]]:
        """What becomes of the packets of a region, by where the first node sends them.

        Packets of a group meet their first draw together, and each of them is in every part of the group that its
        numbers allow. To endpoints that are not ``wanted`` packets are not followed: their parts have no ways.
        """
        tree = self._first.setdefault(start, Tree())
        for group in tree.ways(region, partial(self._follow_first, start)):
            yield [
                Part(
                    way.leaf.endpoint, way.weight,
                    list(self._continued(start, way)) if wanted(way.leaf.endpoint) else [],
                )
                for way in group
            ]  # fmt: skip

    def _continued(self, start: Start, way: Way[Half]) -> Iterator[Way[Item]]:
        """What becomes of packets behind the first half of their way."""
        if not self._passes or start.after is not After.NOTHING or way.leaf.endpoint or way.leaf.state[0] == "ended":  # type: ignore[index]
            yield from self._here(start, way, way.region)
            return
        tree = self._onward.setdefault((start, way.leaf.state), Tree())

        def follow(region: Region, script: Script, narrow: Narrow) -> tuple[list[Event], Onward, bool]:
            return self._follow_on(start, region, (*way.script, *script), lambda each: narrow(way.narrow(each)))

        for group in tree.ways(way.region, follow):
            for each in group:
                if each.leaf.start is None:
                    yield from self._here(start, way, each.region)
                    continue
                for region, ways in self._arrived(each.leaf.start, each.region):
                    if not each.leaf.is_home and any(start.node in there.leaf.met for there in ways):
                        yield from self._here(start, way, region)
                    else:
                        yield from (there._replace(region=region) for there in ways)

    def _arrived(self, start: Start, region: Region) -> list[tuple[Region, list[Way[Item]]]]:
        """The ways of packets that another node passed on. Classes with the same ways are joined."""
        key = start, region
        if key not in self._arrivals:
            alike: dict[Hashable, tuple[list[Region], list[Way[Item]]]] = {}
            for number, (here, ways) in enumerate(self._exactly(start, region)):
                echoes = number if meet(here[SOURCE], here[DESTINATION]) else -1
                what = echoes, tuple([(way.weight, way.leaf) for way in ways])
                alike.setdefault(what, ([], ways))[0].append(here)
            self._arrivals[key] = [(each, ways) for regions, ways in alike.values() for each in joined(regions)]
        return self._arrivals[key]

    def _here(self, start: Start, way: Way[Half], region: Region) -> Iterator[Way[Item]]:
        """As :meth:`_continued`, of packets of a region, followed from their first node on."""
        state, endpoint = way.leaf
        tree = self._second.setdefault((start, state), Tree())
        if endpoint:
            region = narrowed(narrowed(region, ENDPOINT, only(endpoint[0])), ENDPOINT_PORT, only(endpoint[1]))

        def follow(region: Region, script: Script, narrow: Narrow) -> tuple[list[Event], Item, bool]:
            return self._follow_second(start, region, (*way.script, *script), lambda each: narrow(way.narrow(each)))

        for group in tree.ways(region, follow):
            for each in group:
                wide = narrowed(narrowed(each.region, ENDPOINT, ()), ENDPOINT_PORT, ())
                yield Way(wide, each.weight, each.leaf, (), each.narrow)

    def alone(self, start: Start, region: Region) -> Fate:
        """The fate of a packet of the region that is addressed to its own sender."""
        own, port = typical(meet(region[SOURCE], region[DESTINATION])), typical(region[PORT])
        key = start, own, port
        if key not in self._alone:
            self._alone[key] = fate_of(self.plain(start, own, own, port))
        return self._alone[key]

    def plain(self, start: Start, source: int, destination: int, port: int) -> list[Way[Item]]:
        """The ways of one packet, which stands for no other. ``source`` 0: of a process, the one that routing chooses."""
        packet = first_packet(self.family, start, source, destination, port)
        found = explored(self.site, packet, start.node, local=start.local, now_ns=self._now_ns, trace=False)
        region: Region = (only(source), only(destination), only(port), (), ())
        return [Way(region, weight, item_of(judged), (), lambda each: each) for weight, judged in found]

    # --- following one packet ---------------------------------------------------------------------------------------

    def _set_out(self, start: Start, region: Region, script: Script, narrow: Narrow) -> tuple[Packet, WatchedChooser]:
        """A packet of the region and its draws. The witness is ready to hear of it.

        A packet to its own sender stands for no other. If the region holds only that one, another on its way is taken.
        """
        if _is_echo(region):
            region = narrow((*everything(self.family, start), region[ENDPOINT], region[ENDPOINT_PORT]))
        self._is_echo = _is_echo(region)
        source, destination = pair(region)
        packet = first_packet(self.family, start, source, destination, typical(region[PORT]), watched=True)
        packet.ttl = start.ttl
        self.packets += 1
        self._met = set[str]()
        self.witness.begin()
        self._stage = 0
        if self.family is Family.IPV6:
            self._ask_martian(packet)  # the kernel looks at these addresses before any hook (K-7.5)
        elif start.local:
            self.witness.ask(packet.saddr, self._loopback)  # and at this one before OUTPUT (K-7.1)
        return packet, WatchedChooser(self.witness, script)

    def _ask_martian(self, packet: Packet) -> None:
        """The kernel handles addresses of special meaning in its own way (K-7)."""
        self.witness.ask(packet.saddr, self._martian)
        self.witness.ask(packet.daddr, self._martian)

    def _follow_first(
        self, start: Start, region: Region, script: Script, narrow: Narrow
    ) -> tuple[list[Event], Half, bool]:
        packet, chooser = self._set_out(start, region, script, narrow)
        self._stops = True
        netns = self._world.netns(start.node, self.family)
        if start.after is After.PASSED and self._world.is_home(packet, start.node):
            netns = netns.fork(connections=False, lists=False)
            remember(netns, packet, self._now_ns)
        try:
            step = walk(
                netns, packet, now_ns=self._now_ns, chooser=chooser,
                local=start.local, trace=False,
            )  # fmt: skip
        except Cut as cut:
            return self.witness.events, cut.half, not self._is_echo
        return self.witness.events, Half(("ended", _how_it_ended(step), tuple(script))), not self._is_echo

    def _follow_on(
        self, start: Start, region: Region, script: Script, narrow: Narrow
    ) -> tuple[list[Event], Onward, bool]:
        packet, chooser = self._set_out(start, region, script, narrow)
        self._stops = False
        step = walk(
            self._world.netns(start.node, self.family), packet, now_ns=self._now_ns, chooser=chooser,
            local=start.local, trace=False,
        )  # fmt: skip
        events = self.witness.events
        draws = [number for number, (question, _) in enumerate(events) if isinstance(question, Drawn)]
        if draws:  # each of its ways would have to be weighed here
            return events[: draws[0]], HERE, not self._is_echo
        return events, onward(self._world, start, packet, step, self._now_ns), not self._is_echo

    def _follow_second(
        self, start: Start, region: Region, script: Script, narrow: Narrow
    ) -> tuple[list[Event], Item, bool]:
        packet, chooser = self._set_out(start, region, script, narrow)
        self._stops = False
        world = (Strangers if start.after is After.STRANGE else NewFlow)(self._world, lists=False)
        if start.after is After.PASSED and self._world.is_home(packet, start.node):
            remember(world.netns(start.node, self.family), packet, self._now_ns)
        judged = exchange(
            world, packet, at_node=start.node, now_ns=self._now_ns, chooser=chooser, local=start.local,
        )  # fmt: skip
        item = item_of(judged) if start.after is After.NOTHING else passed_item(judged, frozenset(self._met))
        return self.witness.events, item, not self._is_echo

    # --- hook functions ---------------------------------------------------------------------------------------------

    def _entries(self, node: str) -> list[HookEntry]:
        hooks = (Hook.PREROUTING, Hook.OUTPUT)
        return [
            *(HookEntry(hook, _FIRST, "the first half begins", self._begins) for hook in hooks),
            *(HookEntry(hook, _BEHIND_NAT, "the destination is decided", self._decided) for hook in hooks),
            *(
                HookEntry(hook, _LAST, "the source is decided", self._source_decided)
                for hook in (Hook.INPUT, Hook.POSTROUTING)
            ),
            *watching(self.site.netns(node, self.family).programmed.get(self.family), self.witness),
        ]

    def _begins(self, traversal: Traversal) -> End | None:
        if self._stage == 0:
            self._stage = 1
            self.witness.mark()
        about = traversal.packet.related or traversal.packet
        if {type(about.saddr), type(about.daddr)} == {Source, Destination}:
            self._met.add(traversal.node.name)
        return None

    def _decided(self, traversal: Traversal) -> End | None:
        packet, entry = traversal.packet, traversal.entry
        if self._stage != 1:
            self._ask_martian(packet)
            if type(packet.daddr) is int:
                self._compare(packet.saddr, packet.daddr)
            return None
        self._stage = 2
        if traversal.world.answers:
            self._ask_martian(packet)
            return None  # a match that is not modelled was met: the packet is followed in several worlds to its end
        endpoint: tuple[int, ...] = ()
        if type(packet.daddr) is int and entry is not None and traversal.dnat_rule is not None:
            address, port = packet.daddr, packet.dport
            endpoint = int(address), int(port)
            self._compare(packet.saddr, address)
            self._compare(traversal.arrived.daddr, address)
            packet.daddr = Endpoint(address)
            if type(port) is int and packet.protocol not in ICMP_PROTOCOLS:
                packet.dport = EndpointPort(port)
            reply = entry.reply._replace(saddr=packet.daddr)
            if packet.protocol not in ICMP_PROTOCOLS:
                reply = reply._replace(sport=packet.dport)
            traversal.entry = entry._replace(reply=reply)
        if self._stops:
            raise Cut(Half(_state(traversal), endpoint))
        self.witness.back()
        self._ask_martian(packet)
        return None

    def _source_decided(self, traversal: Traversal) -> End | None:
        """A source may be translated to the address that it is."""
        if type(traversal.packet.saddr) is int and traversal.entry is not None:
            self._compare(traversal.entry.original.saddr, traversal.packet.saddr)
        return None

    def _compare(self, number: int, constant: int) -> None:
        """Asks whether an address is the one that the destination was translated to."""
        if type(number) not in AXES:
            return
        point = self._points.get(constant)
        if point is None:
            point = self._points[constant] = Partition(cuts_of([(constant, constant)]), lambda each: each == constant)
        self.witness.ask(number, point)


def _is_echo(region: Region) -> bool:
    """Whether the only packets of the region are to their own sender."""
    return is_one(region[SOURCE]) and region[SOURCE] == region[DESTINATION]


def everything(family: Family, start: Start) -> tuple[Values, Values, Values]:
    """All sources, destinations and ports of packets that set out like this."""
    sources = EVERYTHING[family]
    if start.local:
        sources = without(sources, 0)  # a process that binds no address sends from the one that routing chooses
    return sources, EVERYTHING[family], NO_PORT if start.protocol in ICMP_PROTOCOLS else PORTS


def typical(values: Values, *, other_than: int | None = None) -> int:
    """A number of a set that stands for all of them; of a network not the first, which names the network."""
    for low, high in values:
        for each in (low + 10, low + 1, low, high):
            if each <= high and each != other_than:
                return each
    return values[0][0]


def pair(region: Region) -> tuple[int, int]:
    """A source and a destination that are not the same, if the region has such."""
    first = typical(region[DESTINATION])
    source = typical(region[SOURCE], other_than=first)
    return source, typical(region[DESTINATION], other_than=source)


def first_packet(
    family: Family, start: Start, source: int, destination: int, port: int, *, watched: bool = False
) -> Packet:
    """The first packet of a client, as a probe asks for it."""
    made = _packet(family, start.protocol)
    numbers = (Source(source), Destination(destination), Port(port)) if watched else (source, destination, port)
    return replace(
        made, saddr=numbers[0], daddr=numbers[1], dport=numbers[2], in_interface=start.interface,
        sourced=bool(source) or not start.local,
    )  # fmt: skip


@cache
def _packet(family: Family, protocol: str) -> Packet:
    return make_packet("ICMP" if protocol in ICMP_PROTOCOLS else protocol, _ANY[family], 1, src=_ANY[family])


_ANY = {Family.IPV4: "192.0.2.1", Family.IPV6: "2001:db8::1"}


def _state(traversal: Traversal) -> Hashable:
    """All that decides what the rest of a packet's way depends on, addresses aside."""
    packet, entry, decision = traversal.packet, traversal.entry, traversal.decision
    saddr, daddr = packet.saddr, packet.daddr
    return (
        packet.mark, traversal.unsure_mark, packet.ttl, packet.in_interface, packet.out_interface, packet.sport,
        abstract((saddr, daddr, packet.dport)), saddr == daddr if type(daddr) is Endpoint else None,
        traversal.arrived.daddr == daddr, None if entry is None else abstract(entry), traversal.ct_state, traversal.ct_states,
        traversal.unconfirmed, traversal.destination_done, traversal.dnat_rule is None, traversal.bridged,
        None if decision is None else (decision.kind, decision.interface), abstract(traversal.asks_again),
        tuple(traversal.buckets.items()), tuple(traversal.destroyed), traversal.mtu,
    )  # fmt: skip


def _how_it_ended(step: Walk) -> Hashable:
    rule = None if step.rule is None else (step.rule.table, step.rule.chain, step.rule.number)
    return step.disposition, step.cause, step.with_, step.local_error, rule
