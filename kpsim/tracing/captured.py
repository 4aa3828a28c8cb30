"""Traces the packets of a capture, each from the place of its real sender, in both directions.

Counterpart: a capture as tcpdump takes it beside a client or in the cluster. A capture at a client shows answers as the
client gets them, translated back. Their senders see another packet: the answer to the one that reached them.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from kpsim.conntrack import FlowTuple, tuple_of
from kpsim.fabric import Journey, Place, Whose, send_from
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.tracing.site import Sender, Site
from kpsim.tracing.standing import Standing
from kpsim.tracing.traces import Trace, trace_packet

_SENDERS = {Whose.POD: Sender.POD, Whose.PROCESS: Sender.NODE, Whose.OUTSIDE: Sender.EXTERNAL}


class _Way(NamedTuple):
    """Where the packets of one direction of a flow end, and how they look there."""

    end: Place
    last_node: str
    arrived: Packet


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where packets begin whose source belongs to no pod and to no node of the cluster."""

    node: str
    sender: Sender


class CaptureTracer:
    """Traces the packets of one capture in order. Nodes remember each of them.

    A packet whose source a pod or a node has begins there. The answer to an earlier packet of the capture begins where
    that one ended, as its receiver sends it. All others begin as ``beginning`` says. InputError if a packet has more
    than ``limit`` ways.
    """

    def __init__(
        self, site: Site, beginning: Beginning, *, seed: int = 0, expand: bool = False, limit: int | None = None
    ) -> None:
        site.check_node(beginning.node)
        self._site = site
        self._beginning = beginning
        self._seed = seed
        self._expand = expand
        self._limit = limit
        self._standing = Standing(site, limit=limit)
        self._ways: dict[FlowTuple, _Way] = {}  # by the tuple of the packet as captured

    def trace(self, number: int, packet: Packet, now_ns: int) -> Trace | None:
        """One packet's way; None if no node sees it. InputError if it cannot begin where it should."""
        asked = tuple_of(packet).inverse() if packet.related is None else tuple_of(packet.related)
        way = self._ways.get(asked)
        traced = self._first(number, packet, now_ns) if way is None else self._answer(number, packet, way, now_ns)
        if traced is not None and packet.related is None:
            self._remember(packet, traced.journey)
        return traced

    def _first(self, number: int, packet: Packet, now_ns: int) -> Trace:
        place = self._site.origin(packet, self._beginning.node) if packet.saddr else Place(Whose.OUTSIDE)
        node, sender = self._beginning.node, self._beginning.sender
        if place.whose is not Whose.OUTSIDE and (place.node in self._site.node_names or not self._site.node_names):
            node, sender = place.node, _SENDERS[place.whose]
        return trace_packet(
            self._site, packet, node=node, sender=sender, seed=self._seed, flow=number, expand=self._expand, commit=True,
            now_ns=now_ns, limit=self._limit, standing=self._standing,
        )  # fmt: skip

    def _answer(self, number: int, packet: Packet, way: _Way, now_ns: int) -> Trace | None:
        """The way of an answer, or of an ICMP error about an earlier packet."""
        arrived, sent = way.arrived, packet.copy()
        place = way.end
        if packet.related is not None:
            sent.related = replace(
                packet.related, saddr=arrived.saddr, daddr=arrived.daddr, sport=arrived.sport, dport=arrived.dport
            )
            if packet.saddr != packet.related.daddr:
                place = Place(Whose.OUTSIDE)  # a router on the way
            else:
                sent.saddr = arrived.daddr
        else:
            sent.saddr, sent.sport, sent.dport = arrived.daddr, arrived.dport, arrived.sport
            if packet.protocol in ICMP_PROTOCOLS:
                sent.sport, sent.dport = arrived.sport, 0
        sent.daddr = arrived.saddr
        journey = send_from(
            self._site, place, sent, last_node=way.last_node, now_ns=now_ns, chooser=SeededChooser(self._seed, number),
            trace=True,
        )  # fmt: skip
        if not journey.hops:
            return None
        return Trace(self._site, _SENDERS[place.whose], journey, now_ns)

    def _remember(self, packet: Packet, journey: Journey) -> None:
        """Keeps where a packet of this direction ends. A packet that gets nowhere does not change it."""
        if journey.end is not None and journey.hops:
            way = _Way(journey.end, journey.hops[-1].node, journey.packet)
            self._ways[tuple_of(packet)] = way
