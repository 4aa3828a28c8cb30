"""The packets that answer REJECT and routing errors, and the errors that a local process sees (K-3, CT-9).

Counterpart: ipt_REJECT and icmp_send. ``memory.icmp_limiter`` says how many answers the kernel sends.
"""

from collections.abc import Mapping

from kpsim.addresses import Family
from kpsim.packet import Packet
from kpsim.ruleset import RejectWith

TCP_RESET = "tcp-reset"

#: ICMP type and code by iptables' names
ICMP_ERRORS = {
    "icmp-net-unreachable": (3, 0), "icmp-host-unreachable": (3, 1), "icmp-proto-unreachable": (3, 2),
    "icmp-port-unreachable": (3, 3), "icmp-net-prohibited": (3, 9), "icmp-host-prohibited": (3, 10),
    "icmp-admin-prohibited": (3, 13), "icmp-time-exceeded": (11, 0),
    "icmp-fragmentation-needed": (3, 4), "icmp6-packet-too-big": (2, 0),
    "icmp6-no-route": (1, 0), "icmp6-adm-prohibited": (1, 1), "icmp6-addr-unreachable": (1, 3),
    "icmp6-port-unreachable": (1, 4), "icmp6-policy-fail": (1, 5), "icmp6-reject-route": (1, 6),
    "icmp6-time-exceeded": (3, 0),
}  # fmt: skip

#: the answer's name in each family
_ANSWERS: Mapping[RejectWith, Mapping[Family, str]] = {
    RejectWith.NO_ROUTE: {Family.IPV4: "icmp-net-unreachable", Family.IPV6: "icmp6-no-route"},
    RejectWith.HOST_UNREACHABLE: {Family.IPV4: "icmp-host-unreachable", Family.IPV6: "icmp6-addr-unreachable"},
    RejectWith.PROTOCOL_UNREACHABLE: {Family.IPV4: "icmp-proto-unreachable"},
    RejectWith.PORT_UNREACHABLE: {Family.IPV4: "icmp-port-unreachable", Family.IPV6: "icmp6-port-unreachable"},
    RejectWith.NET_PROHIBITED: {Family.IPV4: "icmp-net-prohibited"},
    RejectWith.HOST_PROHIBITED: {Family.IPV4: "icmp-host-prohibited"},
    RejectWith.ADMIN_PROHIBITED: {Family.IPV4: "icmp-admin-prohibited", Family.IPV6: "icmp6-adm-prohibited"},
    RejectWith.POLICY_FAIL: {Family.IPV6: "icmp6-policy-fail"},
    RejectWith.REJECT_ROUTE: {Family.IPV6: "icmp6-reject-route"},
    RejectWith.TCP_RESET: {Family.IPV4: TCP_RESET, Family.IPV6: TCP_RESET},
}


def answer_name(family: Family, with_: RejectWith) -> str:
    """The name that iptables or ip6tables has for an answer. KeyError if the family has no such answer."""
    return _ANSWERS[with_][family]


_TOS_BITS, _INTERNET_CONTROL = 0x1E, 0xC0  #: what an ICMP error takes over of the packet's type of service, and sets
#: types that an ICMP error may be about: in IPv6 every informational one (measured with 139, RFC 4443 2.1)
_ICMP_REQUEST_TYPES = {"icmp": {0, 8, 13, 14, 15, 16, 17, 18}, "icmpv6": set(range(128, 256))}


def answer(packet: Packet, with_: str, node_address: int | None, *, by_rule: bool = True) -> Packet | None:
    """The packet that answers ``packet``, as the node makes it; None: no answer is allowed.

    ICMP errors come from the node's address, a reset comes from the destination. What connection tracking translates
    of the answer is not done here (K-3.1). An RST gets no reset, and an ICMP error gets no ICMP error. A rule answers no
    packet with a bad checksum; routing, which sends errors too, does not look at it (K-3.3).
    """
    if by_rule and not packet.checksum_ok:
        return None
    if with_ == TCP_RESET:
        if packet.protocol != "tcp" or "RST" in packet.tcp_flags:
            return None
        return Packet(
            packet.family, "tcp", packet.daddr, packet.saddr, packet.dport, packet.sport,
            frozenset({"RST"} if "ACK" in packet.tcp_flags else {"RST", "ACK"}),
        )  # fmt: skip
    if packet.related is not None or packet.icmp_type not in _ICMP_REQUEST_TYPES.get(
        packet.protocol, {packet.icmp_type}
    ):
        return None
    if node_address is None:
        return None
    about = packet.copy()
    about.in_interface, about.out_interface, about.mark = "", "", 0
    kind, code = ICMP_ERRORS[with_]
    protocol = "icmp" if packet.family is Family.IPV4 else "icmpv6"
    return Packet(
        packet.family, protocol, node_address, packet.saddr, icmp_type=kind, icmp_code=code, related=about,
        traffic_class=packet.traffic_class & _TOS_BITS | _INTERNET_CONTROL if packet.family is Family.IPV4 else 0,
    )  # fmt: skip


def error_of_reject(packet: Packet, *, in_output: bool) -> str:
    """The error of the local sender's system call: at once for a REJECT in OUTPUT (K-3.2), else with the answer."""
    if in_output and packet.protocol != "tcp":
        return "EPERM"
    return "ECONNREFUSED"


def error_of_drop(packet: Packet, *, in_output: bool) -> str:
    """The error of the local sender's system call; empty: none.

    A drop in OUTPUT fails a UDP send. TCP hangs, and drops after OUTPUT are silent (K-3.2, CT-9).
    """
    return "EPERM" if in_output and packet.protocol != "tcp" else ""
