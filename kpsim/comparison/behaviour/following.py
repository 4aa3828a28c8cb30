"""Follows packets of one side of a comparison in two halves, and keeps what each half's way depended on.

The first half ends where destinations are translated. What comes after it depends on the endpoint and no longer on the
Service, so it is followed once for all Services: Services with alike endpoints cost only their first half.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
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
from kpsim.comparison.behaviour.fates import Fate, Item, abstract, fate_of, item_of, settled
from kpsim.comparison.behaviour.routes import MARTIAN
from kpsim.comparison.behaviour.servers import watching
from kpsim.comparison.behaviour.spaces import Partition, Values, cuts_of, is_one, meet, only, without
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


class Start(NamedTuple):
    """Where packets set out: the node that they meet first, whose process makes them or by which interface they come in."""

    node: str
    protocol: str  #: lower case; ``icmpv6`` for IPv6
    interface: str = ""  #: empty: a process of the node makes them

    @property
    def local(self) -> bool:
        return not self.interface


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

    def __init__(self, site: Site, family: Family, now_ns: int) -> None:
        self.site, self.family, self._now_ns = site, family, now_ns
        self.witness = Witness()
        self._world = WatchedWorld(site, family, self.witness, now_ns, self._entries)
        self._first: dict[Start, Tree[Half]] = {}
        self._second: dict[Hashable, Tree[Item]] = {}
        self._martian = Partition(
            cuts_of(MARTIAN[family]), lambda each: tuple(a <= each <= b for a, b in MARTIAN[family])
        )
        low, high = MARTIAN[Family.IPV4][1]
        self._loopback = Partition((low, high + 1), lambda each: low <= each <= high)
        self._points: dict[int, Partition] = {}
        self._alone: dict[tuple[Start, int, int], Fate] = {}
        self._start = Start("", "")
        self._stage = 0  #: 0: before the first hook, 1: in the first half, 2: behind it
        self._is_echo = False  #: whether the packet is addressed to its own sender
        self._stops = False  #: whether the packet is followed only up to the cut
        self.packets = 0  #: that were followed

    def ways(self, start: Start, region: Region) -> Iterator[tuple[Region, list[Way[Item]]]]:
        """Classes that together are the region, each with the ways that its packets may go."""
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
        self._start = start
        tree = self._first.setdefault(start, Tree())
        for group in tree.ways(region, self._follow_first):
            yield [
                Part(
                    way.leaf.endpoint, way.weight,
                    list(self._continued(start, way)) if wanted(way.leaf.endpoint) else [],
                )
                for way in group
            ]  # fmt: skip

    def _continued(self, start: Start, way: Way[Half]) -> Iterator[Way[Item]]:
        state, endpoint = way.leaf
        tree = self._second.setdefault((start, state), Tree())
        region = way.region
        if endpoint:
            region = narrowed(narrowed(region, ENDPOINT, only(endpoint[0])), ENDPOINT_PORT, only(endpoint[1]))

        def follow(region: Region, script: Script, narrow: Narrow) -> tuple[list[Event], Item, bool]:
            return self._follow_second(region, (*way.script, *script), lambda each: narrow(way.narrow(each)))

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

    def _set_out(self, region: Region, script: Script, narrow: Narrow) -> tuple[Packet, WatchedChooser]:
        """A packet of the region and its draws. The witness is ready to hear of it.

        A packet to its own sender stands for no other. If the region holds only that one, another on its way is taken.
        """
        if _is_echo(region):
            region = narrow((*everything(self.family, self._start), region[ENDPOINT], region[ENDPOINT_PORT]))
        self._is_echo = _is_echo(region)
        source, destination = pair(region)
        packet = first_packet(self.family, self._start, source, destination, typical(region[PORT]), watched=True)
        self.packets += 1
        self.witness.begin()
        self._stage = 0
        if self.family is Family.IPV6:
            self._ask_martian(packet)  # the kernel looks at these addresses before any hook (K-7.5)
        elif self._start.local:
            self.witness.ask(packet.saddr, self._loopback)  # and at this one before OUTPUT (K-7.1)
        return packet, WatchedChooser(self.witness, script)

    def _ask_martian(self, packet: Packet) -> None:
        """The kernel handles addresses of special meaning in its own way (K-7)."""
        self.witness.ask(packet.saddr, self._martian)
        self.witness.ask(packet.daddr, self._martian)

    def _follow_first(self, region: Region, script: Script, narrow: Narrow) -> tuple[list[Event], Half, bool]:
        packet, chooser = self._set_out(region, script, narrow)
        self._stops = True
        try:
            step = walk(
                self._world.netns(self._start.node, self.family), packet, now_ns=self._now_ns, chooser=chooser,
                local=self._start.local, trace=False,
            )  # fmt: skip
        except Cut as cut:
            return self.witness.events, cut.half, not self._is_echo
        return self.witness.events, Half(("ended", _how_it_ended(step), tuple(script))), not self._is_echo

    def _follow_second(self, region: Region, script: Script, narrow: Narrow) -> tuple[list[Event], Item, bool]:
        packet, chooser = self._set_out(region, script, narrow)
        self._stops = False
        judged = exchange(
            NewFlow(self._world, lists=False), packet, at_node=self._start.node, now_ns=self._now_ns, chooser=chooser,
            local=self._start.local,
        )  # fmt: skip
        return self.witness.events, item_of(judged), not self._is_echo

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
