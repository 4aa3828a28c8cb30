"""What the model says will be seen of a packet outside netfilter: where it comes out, what a process is told, what the node answers.

Counterpart: the parts of Linux around its hooks that answer by themselves: a closed port, a failed system call. It compares nothing.
"""

from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.lab.wires import Where
from kpsim.netfilter import Cause, Disposition, Netns, Walk, walk
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.packetpath.routing import AddressType, RouteKind
from kpsim.protocols import ICMP_PORT_UNREACHABLE

#: so many packets of one source are told that there is no route, of more only one a second: for this limit no namespace has a switch
ROUTING_ERRORS = 5


class Sight(NamedTuple):
    """A packet, told in all that is compared, and where it is."""

    where: Where
    interface: str  #: empty at a process
    packet: str


def told(packet: Packet) -> str:
    """All of a packet that is compared. Interfaces are compared apart."""
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
    """What is seen of a packet that took this way."""
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
    """What a raw socket's ``sendto`` says: of all that happens before the packet is on its way, EPERM of netfilter's refusals."""
    if way.disposition not in (Disposition.REJECTED, Disposition.DROPPED) or way.packet.in_interface:
        return ""
    if way.rule is not None or way.cause in (Cause.POLICY, Cause.TUPLE_TAKEN, Cause.DEVICE_CHANGED, Cause.TABLE_FULL):
        return "EPERM"
    return way.local_error


def is_refused_by_routing(way: Walk) -> bool:
    """Whether routing itself refuses what came in, with an ICMP error of IPv4: those have a limit of their own (measured)."""
    refused = way.cause in (Cause.NO_ROUTE, Cause.UNREACHABLE, Cause.PROHIBIT)
    return refused and way.answer is not None and way.answer.protocol == "icmp"


def answer_of_node(netns: Netns, delivered: Walk, now_ns: int) -> Walk | None:
    """The way of the node's own answer to a packet at a port where nobody listens; None: it says nothing."""
    packet = _refusal(delivered)
    to_all = netns.routing.address_type(delivered.packet.family, delivered.packet.daddr) is not AddressType.LOCAL
    if packet is None or to_all:  # nobody refuses a broadcast
        return None
    return walk(netns, packet, now_ns=now_ns, chooser=ScriptedChooser(), local=True, trace=False)


def is_answered_oddly(delivered: Walk) -> bool:
    """Whether the node answers by the wrong door: a reset to ::1 from another address of the node is sent by that address's interface.

    Measured; what netfilter has to do with it ends with the packet that was delivered.
    """
    packet = delivered.packet
    return packet.protocol == "tcp" and packet.family is Family.IPV6 and packet.saddr == 1 != packet.daddr


def _refusal(delivered: Walk) -> Packet | None:
    packet, family = delivered.packet, delivered.packet.family
    if not packet.checksum_ok:
        return None
    if packet.protocol == "tcp" and "RST" not in packet.tcp_flags:
        flags = frozenset({"RST"} if "ACK" in packet.tcp_flags else {"RST", "ACK"})
        return Packet(family, "tcp", packet.daddr, packet.saddr, packet.dport, packet.sport, flags)
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
