"""Predicts what is seen of a packet outside netfilter: where it comes out, the error of the sender's system call, the
node's own answer.

Counterpart: the parts of Linux around netfilter's hooks, such as a closed port that answers and a system call that
fails.
"""

from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.lab.wires import Where
from kpsim.netfilter import Cause, Disposition, Netns, Walk, walk
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.packetpath.routing import AddressType, RouteKind
from kpsim.protocols import ICMP_PORT_UNREACHABLE

#: so many ICMP errors routing sends to one source at once, then one a second; a namespace cannot switch this limit off
ROUTING_ERRORS = 5


class Sight(NamedTuple):
    """A place where a packet is seen, and the packet in the words that are compared."""

    where: Where
    interface: str  #: empty if a process of the node gets the packet
    packet: str


def told(packet: Packet) -> str:
    """Everything about a packet that is compared, in words. Interfaces are compared elsewhere."""
    parts = [str(packet), f"ttl {packet.ttl}"]
    if packet.protocol == "tcp":
        parts.append("+".join(sorted(packet.tcp_flags)))
    elif packet.protocol == "sctp":
        parts.append(packet.sctp_chunk)
    elif packet.protocol in ICMP_PROTOCOLS:
        parts.append(f"{packet.icmp_type}/{packet.icmp_code}")
    if packet.related is not None:
        parts.append(f"about {packet.related}")
    return " ".join(parts)


def sights_of(netns: Netns, way: Walk) -> tuple[Sight, ...]:
    """The places where this way is seen: those of the packet, or of the answer to its rejection, or none."""
    match way.disposition:
        case Disposition.FORWARDED:
            return (_behind(netns, way.packet.out_interface, way.packet),)
        case Disposition.DELIVERED:
            return (Sight(Where.SOCKET, "", told(way.packet)),)
        case Disposition.REJECTED if way.answer is not None:
            return (_towards(netns, way.answer),)
        case _:
            return ()


def error_of(way: Walk) -> str:
    """The error of a raw socket's ``sendto``, empty if it succeeds. Netfilter's refusals are EPERM; errors of routing
    have other names.
    """
    if way.disposition not in (Disposition.REJECTED, Disposition.DROPPED) or way.packet.in_interface:
        return ""
    if way.rule is not None or way.cause in (Cause.POLICY, Cause.TUPLE_TAKEN, Cause.DEVICE_CHANGED, Cause.TABLE_FULL):
        return "EPERM"
    return way.local_error


def is_refused_by_routing(way: Walk) -> bool:
    """Whether routing answers the packet with an ICMP error of IPv4. These errors have a rate limit of their own
    (measured).
    """
    refused = way.cause in (Cause.NO_ROUTE, Cause.UNREACHABLE, Cause.PROHIBIT)
    return refused and way.answer is not None and way.answer.protocol == "icmp"


def answer_of_node(netns: Netns, delivered: Walk, now_ns: int) -> Walk | None:
    """The way of the node's answer to a packet at a closed port; None if the node does not answer."""
    packet = _refusal(delivered)
    to_all = netns.routing.address_type(delivered.packet.family, delivered.packet.daddr) is not AddressType.LOCAL
    if packet is None or to_all:  # a broadcast is not refused
        return None
    return walk(netns, packet, now_ns=now_ns, chooser=ScriptedChooser(), local=True, trace=False)


def is_answered_oddly(delivered: Walk) -> bool:
    """Whether Linux loses the node's answer.

    Measured: Linux sends a reset from another of its addresses to ::1 through the interface of that address. The packet
    that was delivered is compared, the reset is not.
    """
    packet = delivered.packet
    return packet.protocol == "tcp" and packet.family is Family.IPV6 and packet.saddr == 1 != packet.daddr


def _refusal(delivered: Walk) -> Packet | None:
    packet, family = delivered.packet, delivered.packet.family
    if not packet.checksum_ok:
        return None
    if packet.protocol == "tcp" and "RST" not in packet.tcp_flags:
        flags = frozenset({"RST"} if "ACK" in packet.tcp_flags else {"RST", "ACK"})
        reset = Packet(family, "tcp", packet.daddr, packet.saddr, packet.dport, packet.sport, flags)
        reset.uid = reset.gid = None  # the kernel's (K-20.1)
        return reset
    if packet.protocol == "udp":
        protocol, kind, code = ICMP_PORT_UNREACHABLE[family]
        about = packet.copy()
        return Packet(family, protocol, packet.daddr, packet.saddr, icmp_type=kind, icmp_code=code, related=about)
    return None


def _behind(netns: Netns, interface: str, packet: Packet) -> Sight:
    where = Where.POD if netns.routing.interfaces[interface].has_pods else Where.LINK
    return Sight(where, interface, told(packet))


def _towards(netns: Netns, answer: Packet) -> Sight:
    decision = netns.routing.lookup(answer.family, answer.daddr)
    if decision is None or decision.kind is not RouteKind.UNICAST:
        return Sight(Where.SOCKET, "", told(answer))
    return _behind(netns, decision.interface, answer)
