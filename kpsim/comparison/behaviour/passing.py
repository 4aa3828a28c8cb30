"""Packets that a node passes on to another as they are: they fare as packets do that set out there.

What the first node adds is that it, too, knows their connection. That matters only if the answer comes back over it, and
then it knows what the source's own node would know.
"""

from typing import NamedTuple

from kpsim.comparison.behaviour.starts import After, Start
from kpsim.comparison.behaviour.world import WatchedWorld
from kpsim.conntrack import Entry, tuple_of
from kpsim.exchange import NewFlow
from kpsim.fabric import Arrival, Place, Whose
from kpsim.flowstate import Action, Direction, read
from kpsim.netfilter import Disposition, Effects, Netns, Walk
from kpsim.packet import Packet
from kpsim.packetpath.memory import NOTHING_TOUCHED
from kpsim.packetpath.routing import InterfaceKind

_NOBODY = Place(Whose.PROCESS)  #: the place of a sender that no answer finds


class Onward(NamedTuple):
    """Where a packet sets out again; None: it has to be followed from its first node on."""

    start: Start | None
    is_home: bool = False  #: whether the first node is that of the source


HERE = Onward(None)


class Strangers(NewFlow):
    """The world of packets whose sender is not where their source is."""

    def origin(self, packet: Packet, node: str) -> Place:
        return _NOBODY

    def entrance(self, place: Place, packet: Packet, node: str) -> Arrival | None:
        return Arrival(node, "") if place == _NOBODY else super().entrance(place, packet, node)


def onward(world: WatchedWorld, start: Start, packet: Packet, step: Walk, now_ns: int) -> Onward:
    """Where a packet goes on that a node has seen; HERE if the node changed it, or remembers more than its connection."""
    node, effects, out = start.node, step.effects, step.packet
    if step.disposition is not Disposition.FORWARDED or step.unknown or step.next_hop is None:
        return HERE
    if step.dnat_rule is not None or step.snat_rule is not None or step.server is not None or step.served is not None:
        return HERE
    netns = world.netns(node, packet.family)
    known = known_connection(netns, packet, now_ns)
    if known is None or effects != Effects(created=known, touched=NOTHING_TOUCHED):
        return HERE
    if netns.routing.interfaces[out.out_interface].kind is not InterfaceKind.LINK:
        return HERE
    arrival = world.next_node(out, step.next_hop, node)
    if arrival is None or arrival.node == node or not _is_as_it_was(packet, out):
        return HERE
    relation = world.relation(packet, node, arrival.node, local=start.local)
    if not relation:
        return HERE
    after = After.STRANGE if relation == "strange" else After.PASSED
    return Onward(Start(arrival.node, start.protocol, arrival.interface, after, out.ttl), relation == "home")


def _is_as_it_was(before: Packet, now: Packet) -> bool:
    """Whether a packet is what it was, but for what does not travel and for the hops that it has left."""
    copy = now.copy()
    copy.in_interface, copy.out_interface, copy.mark, copy.ttl = (
        before.in_interface, before.out_interface, before.mark, before.ttl,
    )  # fmt: skip
    same_axes = type(copy.saddr) is type(before.saddr) and type(copy.daddr) is type(before.daddr)
    return same_axes and copy == before


def known_connection(netns: Netns, packet: Packet, now_ns: int) -> Entry | None:
    """The connection that a node knows which passed the packet on; None: it would not remember it."""
    original = tuple_of(packet)
    reading = read(packet, None, Direction.ORIGINAL, now_ns, netns.sysctls)
    if reading.action is not Action.KEEP or reading.timeout_ns is None:
        return None
    expires_ns = now_ns + reading.timeout_ns
    return Entry(original, original.inverse(), reading.state, False, False, now_ns, expires_ns, history=reading.history)


def remember(netns: Netns, packet: Packet, now_ns: int) -> None:
    """Lets the node of a packet's source know its connection, if the packet comes back there."""
    known = known_connection(netns, packet, now_ns)
    if known is not None:
        netns.commit(Effects(created=known), now_ns)
