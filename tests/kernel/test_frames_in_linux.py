"""Linux takes the bytes that the lab writes for the packets meant, and the lab reads what Linux makes of them.

A node with one wire sends each packet back: connection tracking drops what it finds invalid (K-6.6), a DNAT forwards
the rest, and the filter answers some. The expectations follow from the kernel's rules and are written by hand.
"""

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from packets import ip

from kpsim.addresses import Family, format_ip
from kpsim.lab.frames import Decoded, decode, encode
from kpsim.lab.namespace import Namespace
from kpsim.lab.tools.variants import Variant
from kpsim.packet import Packet

V4, V6 = Family
CLIENT = {V4: ip("203.0.113.7"), V6: ip("2001:db8::7")}
NODE = {V4: ip("192.168.0.2"), V6: ip("2001:db8:1::2")}
VIP = {V4: ip("172.30.0.10"), V6: ip("fd00:172:30::a")}
POD = {V4: ip("10.180.0.3"), V6: ip("fd00:10:180::3")}
ECHO = {V4: ("icmp", 8), V6: ("icmpv6", 128)}
_ETHERNET = {V4: 0x0800, V6: 0x86DD}
_SYSCTLS = {
    "net.ipv4.ip_forward": 1, "net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.default.send_redirects": 0,
    "net.ipv4.icmp_ratemask": 0, "net.ipv6.conf.all.forwarding": 1, "net.ipv6.icmp.ratelimit": 0,
}  # fmt: skip
_RULES = """*mangle
-A PREROUTING -m conntrack --ctstate INVALID -j DROP
COMMIT
*nat
-A PREROUTING -d {vip} -j DNAT --to-destination {pod}
-A OUTPUT -d {vip} -j DNAT --to-destination {pod}
COMMIT
*filter
-A FORWARD -p tcp --dport 81 -j REJECT --reject-with tcp-reset
-A FORWARD -p udp --dport 81 -j REJECT
COMMIT
"""


class TurningPoint:
    """The node, and the far end of its wire."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.node, self.world = Namespace(), Namespace()
        self.node.set_sysctls(_SYSCTLS)
        self.node.ip([f"link add wire type veth peer name far netns {self.world.path}", "link set wire up arp off"])
        length = 32 if family is V4 else 128
        nodad = "" if family is V4 else " nodad"
        self.world.set_sysctls({"net.ipv6.conf.far.disable_ipv6": 1})
        self.world.ip(["link set far up arp off"])
        self.node.ip([f"addr add {format_ip(family, NODE[family])}/{length} dev wire{nodad}"])
        self.node.ip(["route add default dev wire"], "-4" if family is V4 else "-6")
        vip, pod = (format_ip(family, which[family]) for which in (VIP, POD))
        self.node.run([Variant.NFT.tool(family, "restore")], stdin=_RULES.format(vip=vip, pod=pod))

        [link] = json.loads(self.node.run(["ip", "-json", "link", "show", "wire"]))
        self._header = bytes.fromhex(link["address"].replace(":", "")) + b"\2\0\0\0\0\1" + _ETHERNET[family].to_bytes(2)
        self._far = self.world.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERNET[family]))
        self._far.bind(("far", _ETHERNET[family]))
        self._far.setblocking(False)

    def send(self, packet: Packet, tag: int, seq: int = 0, ack: int = 0) -> Decoded | None:
        """What comes back, which is one packet or none."""
        self._far.send(self._header + encode(packet, tag=tag, seq=seq, ack=ack))
        return self._come_back()

    def _come_back(self) -> Decoded | None:
        back = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, address = self._far.recvfrom(4096)
                decoded = decode(frame[14:], self.family)
                own_account = self.family is V6 and frame[22:24] in (b"\xfe\x80", b"\0\0")  # what IPv6 tells the link
                if address[2] != socket.PACKET_OUTGOING and not own_account:
                    back.append(decoded)
        assert len(back) <= 1
        return back[0] if back else None

    def send_from_node(self, packet: Packet, tag: int) -> Decoded | None:
        """As above, for a packet that a process of the node sends."""
        kind = socket.AF_INET if self.family is V4 else socket.AF_INET6
        with self.node.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW) as process:
            process.sendto(encode(packet, tag=tag), (packet.destination, 0))
        return self._come_back()

    def close(self) -> None:
        self._far.close()
        self.node.close()
        self.world.close()


@pytest.fixture(params=Family, ids=lambda family: family.label)
def point(request: pytest.FixtureRequest, kernel: None) -> Iterator[TurningPoint]:
    made = TurningPoint(request.param)
    try:
        yield made
    finally:
        made.close()


def sent(point: TurningPoint, protocol: str, dport: int = 80, **more: object) -> Packet:
    """A packet from the client to the service address. ``icmp`` is an echo request of the family."""
    packet = Packet(point.family, protocol, CLIENT[point.family], VIP[point.family], 40000, dport, **more)  # type: ignore[arg-type]
    if protocol == "icmp":
        packet.protocol, packet.icmp_type = ECHO[point.family]
        packet.dport = 0
    return packet


def led_on(point: TurningPoint, packet: Packet) -> Packet:
    return replace(packet, daddr=POD[point.family], ttl=packet.ttl - 1)


@pytest.mark.kernel
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp", "icmp"])
def test_first_packets_are_led_on_unless_their_checksum_is_wrong(point: TurningPoint, protocol: str) -> None:
    packet = sent(point, protocol)
    assert point.send(replace(packet, checksum_ok=False), 7) is None
    came = point.send(packet, 0xBEEF)
    assert came is not None
    assert replace(came.packet, length=60) == led_on(point, packet)
    assert came.tag == 0xBEEF


@pytest.mark.kernel
def test_answers_find_their_way_back(point: TurningPoint) -> None:
    """SCTP by its verification tag, TCP by its numbers: with others connection tracking would find them invalid
    (CT-4.4).
    """
    for protocol, first, answer in (
        ("tcp", {"tcp_flags": frozenset({"SYN"})}, {"tcp_flags": frozenset({"SYN", "ACK"})}),
        ("sctp", {"sctp_chunk": "INIT"}, {"sctp_chunk": "INIT_ACK"}),
        ("sctp", {"sctp_chunk": "COOKIE_ECHO"}, {"sctp_chunk": "COOKIE_ACK"}),
        ("sctp", {"sctp_chunk": "DATA"}, {"sctp_chunk": "SACK"}),
        ("sctp", {"sctp_chunk": "SHUTDOWN"}, {"sctp_chunk": "SHUTDOWN_ACK"}),
    ):
        packet = sent(point, protocol, **first)
        there = point.send(packet, 1, seq=1000, ack=5000 * (protocol == "sctp"))
        assert there is not None, first
        back = replace(packet, saddr=POD[point.family], daddr=packet.saddr, sport=80, dport=40000, **answer)
        came = point.send(back, 2, seq=5000, ack=1000 + (protocol == "tcp"))
        assert came is not None, answer
        assert replace(came.packet, length=60) == replace(back, saddr=VIP[point.family], ttl=63)
        assert came[2:] == ((5000, 1001) if protocol == "tcp" else (0, 0))


@pytest.mark.kernel
def test_what_the_node_answers_itself_is_read(point: TurningPoint) -> None:
    family = point.family
    reset = point.send(sent(point, "tcp", 81), 3, seq=1000)
    assert reset is not None
    assert reset.packet.tcp_flags == {"RST", "ACK"}
    assert (reset.packet.saddr, reset.packet.sport) == (VIP[family], 81)
    assert reset.ack == 1001
    assert reset.packet.checksum_ok  # a card's to finish
    datagram = sent(point, "udp", 81)
    refusal = point.send(datagram, 0xABC)
    assert refusal is not None
    assert (refusal.packet.icmp_type, refusal.packet.icmp_code) == ((3, 3) if family is V4 else (1, 4))
    assert refusal.packet.saddr == VIP[family]  # of what was led on already the service speaks (K-3.1)
    assert refusal.packet.checksum_ok
    assert refusal.packet.related is not None
    assert replace(refusal.packet.related, length=60, ttl=64) == datagram
    assert refusal.tag == 0xABC
    refusal = point.send(replace(datagram, daddr=POD[family], sport=40001), 0xABD)
    assert refusal is not None
    assert refusal.packet.saddr == NODE[family]
    assert refusal.tag == 0xABD


@pytest.mark.kernel
def test_errors_about_a_connection_are_led_back(point: TurningPoint) -> None:
    """ICMP errors are related to the connection of the packet inside, whose addresses are translated back too (CT-5.3)."""
    family = point.family
    datagram = sent(point, "udp")
    there = point.send(datagram, 1)
    assert there is not None
    error = Packet(
        family, ECHO[family][0], POD[family], CLIENT[family], icmp_type=3 if family is V4 else 1, icmp_code=0
    )
    error.related = there.packet
    came = point.send(error, 0x123)
    assert came is not None
    assert came.packet.related is not None
    assert replace(came.packet.related, length=60) == replace(datagram, ttl=63)
    assert came.tag == 0x123
    error.related = replace(there.packet, sport=40001)  # about no connection
    assert point.send(error, 0x124) is None


@pytest.mark.kernel
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp", "icmp"])
def test_what_a_process_sends_keeps_its_tag(point: TurningPoint, protocol: str) -> None:
    packet = replace(sent(point, protocol), saddr=NODE[point.family])
    came = point.send_from_node(packet, 0xBEEF)
    assert came is not None
    assert replace(came.packet, length=60) == replace(packet, daddr=POD[point.family])
    assert came.tag == 0xBEEF


@pytest.mark.kernel
def test_sctp_may_begin_with_a_heartbeat_and_not_with_the_end(point: TurningPoint) -> None:
    """K-6.6, CT-5"""
    assert point.send(sent(point, "sctp", 81, sctp_chunk="HEARTBEAT"), 1) is not None
    for port, chunk in enumerate(("COOKIE_ACK", "SHUTDOWN_COMPLETE", "ABORT"), 90):
        assert point.send(sent(point, "sctp", port, sctp_chunk=chunk), 2) is None
