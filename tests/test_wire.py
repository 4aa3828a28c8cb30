"""Scapy as the outer format: packets keep their meaning both ways, and expressions execute nothing."""

import pytest

from kpsim.addresses import Family, parse_ip
from kpsim.errors import InputError
from kpsim.packet import Packet
from kpsim.wire import DEFAULT_SPORT, from_scapy, parse_packet, read_pcap, to_scapy, write_pcap

START_NS = 1_767_225_600_000_000_000


def ip(text: str) -> int:
    parsed = parse_ip(text)
    assert parsed is not None
    return parsed[1]


CLIENT, VIP, NODE = ip("203.0.113.7"), ip("172.30.0.10"), ip("192.168.0.2")
CLIENT6, VIP6 = ip("2001:db8::7"), ip("fd00:172:30::10")


def packet4(protocol: str, **fields: object) -> Packet:
    return Packet(Family.IPV4, protocol, CLIENT, VIP, **fields)  # type: ignore[arg-type]


SYN = packet4("tcp", sport=40000, dport=80)
EXAMPLES = [
    SYN,
    packet4("tcp", sport=40000, dport=80, tcp_flags=frozenset({"ACK", "PSH"}), ttl=3),
    packet4("tcp", sport=40000, dport=80, tcp_flags=frozenset({"RST"})),
    packet4("udp", sport=5353, dport=53),
    packet4("sctp", sport=40000, dport=3868, sctp_chunk="COOKIE_ECHO"),
    packet4("icmp", icmp_type=8, sport=77),
    Packet(Family.IPV4, "icmp", NODE, CLIENT, icmp_type=3, icmp_code=3, related=SYN),
    Packet(Family.IPV6, "tcp", CLIENT6, VIP6, 40000, 80),
    Packet(Family.IPV6, "icmpv6", CLIENT6, VIP6, sport=77, icmp_type=128),
    Packet(
        Family.IPV6, "icmpv6", VIP6, CLIENT6, icmp_type=1, icmp_code=4,
        related=Packet(Family.IPV6, "udp", CLIENT6, VIP6, 40000, 53),
    ),
    Packet(
        Family.IPV6, "icmpv6", VIP6, CLIENT6, icmp_type=3,
        related=Packet(Family.IPV6, "icmpv6", CLIENT6, VIP6, sport=77, icmp_type=128),
    ),
]  # fmt: skip


def without_length(packet: Packet) -> Packet:
    copy = packet.copy()
    copy.length = 0
    if copy.related is not None:
        copy.related = without_length(copy.related)
        copy.related.tcp_flags = frozenset()  # an ICMP error need not hold them
    return copy


def over_the_wire(packet: Packet) -> Packet:
    layer = to_scapy(packet)
    return from_scapy(type(layer)(bytes(layer)))


@pytest.mark.parametrize("packet", EXAMPLES, ids=str)
def test_a_packet_is_the_same_after_the_wire(packet: Packet) -> None:
    assert without_length(over_the_wire(packet)) == without_length(packet)


def test_length_is_that_of_the_ip_header() -> None:
    assert over_the_wire(SYN).length == 20 + 20
    assert over_the_wire(EXAMPLES[7]).length == 40 + 20


@pytest.mark.parametrize("packet", EXAMPLES, ids=str)
def test_the_bytes_have_a_good_checksum(packet: Packet) -> None:
    layer = to_scapy(packet)
    again = type(layer)(bytes(layer))
    if packet.family is Family.IPV4:
        good = again.chksum
        del again.chksum
        assert type(layer)(bytes(again)).chksum == good
    transport = again.payload
    field = "cksum" if "cksum" in transport.fields else "chksum"
    good = getattr(transport, field)
    assert good
    if packet.protocol == "sctp":
        return  # Scapy computes it over a whole chunk only
    delattr(transport, field)
    assert getattr(type(layer)(bytes(again)).payload, field) == good


# --- expressions -----------------------------------------------------------------------------------------------------------


def test_an_expression_is_a_packet() -> None:
    packet = parse_packet('IP(src="203.0.113.7", dst="172.30.0.10", ttl=9)/TCP(sport=1234, dport=80, flags="SA")')
    assert (packet.source, packet.destination, packet.ttl) == ("203.0.113.7", "172.30.0.10", 9)
    assert (packet.protocol, packet.sport, packet.dport) == ("tcp", 1234, 80)
    assert packet.tcp_flags == {"SYN", "ACK"}


def test_what_an_expression_leaves_out_does_not_depend_on_this_machine() -> None:
    packet = parse_packet('IP(dst="172.30.0.10")/UDP(dport=53)/Raw(load="hello")')
    assert packet.saddr == 0
    assert packet.sport == DEFAULT_SPORT
    assert packet.length == 20 + 8 + 5


def test_expressions_of_ipv6_icmp_and_sctp() -> None:
    assert parse_packet('IPv6(dst="fd00::1")/ICMPv6EchoRequest(id=5)').icmp_type == 128
    assert parse_packet('IP(dst="172.30.0.10")/ICMP(id=5)').sport == 5
    assert parse_packet('IP(dst="172.30.0.10")/SCTP(dport=9)/SCTPChunkHeartbeatReq()').sctp_chunk == "HEARTBEAT"


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ('__import__("os").system("true")', '__import__("os").system("true")'),
        ('IP(dst="172.30.0.10")/eval("1")', "eval"),
        ('IP(dst="172.30.0.10")/TCP(dport=open("/etc/passwd"))', "TCP.dport"),
        ('IP(dst="172.30.0.10")/TCP(dport=(1,5))', "TCP.dport"),
        ('IP(dst=["172.30.0.10"])/TCP(dport=80)', "IP.dst"),
        ('IP(dst="172.30.0.0/24")/TCP(dport=80)', "172.30.0.0/24"),
        ('IP(dst="www.example.com")/TCP(dport=80)', "www.example.com"),
        ('IP(dst="fd00::1")/TCP(dport=80)', "IPv4"),
        ('IP("172.30.0.10")/TCP(dport=80)', "keyword"),
        ('IP(**{"dst": "172.30.0.10"})/TCP(dport=80)', "keyword"),
        ('IP(dst="172.30.0.10")*2', 'IP(dst="172.30.0.10")*2'),
        ('IP(dst="172.30.0.10")/TCP(dport=99999)', "does not fit"),
        ('IP(dst="172.30.0.10")/TCP(port=80)', "no field port"),
        ('IP(dst="172.30.0.10")/TCP()', "dport"),
        ("IP()/TCP(dport=80)", "dst"),
        ("TCP(dport=80)", "begins with IP"),
        ('Ether()/IP(dst="172.30.0.10")', "Ether"),
        ("IP(", "was never closed"),
        ("(" * 5000, "too many nested parentheses"),
        ("IP()" + "/IP()" * 5000, "nested too deep"),
        ("", "packet ''"),
        ('lambda: IP(dst="172.30.0.10")', "lambda"),
    ],
)
def test_everything_else_is_refused_by_name(expression: str, named: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_packet(expression)
    assert named in str(refused.value)
    assert len(str(refused.value).splitlines()[0]) == len(str(refused.value)) < 500


# --- captures --------------------------------------------------------------------------------------------------------------


def test_a_capture_keeps_packets_and_times(tmp_path) -> None:
    file = tmp_path / "hops.pcap"
    write_pcap(file, [(START_NS + number * 1000, packet) for number, packet in enumerate(EXAMPLES)])
    captured = read_pcap(file)
    assert [c.time_ns for c in captured] == [START_NS + number * 1000 for number in range(len(EXAMPLES))]
    assert [c.number for c in captured] == list(range(1, len(EXAMPLES) + 1))
    for was, found in zip(EXAMPLES, captured, strict=True):
        assert found.packet is not None
        assert without_length(found.packet) == without_length(was)


def test_captures_of_equal_packets_are_equal_bytes(tmp_path) -> None:
    for name in ("one", "two"):
        write_pcap(tmp_path / name, [(START_NS, packet) for packet in EXAMPLES])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_is_not_modelled_in_a_capture_is_named_and_the_rest_is_read(tmp_path) -> None:
    from scapy.layers.inet import IP, UDP
    from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
    from scapy.utils import wrpcap

    macs = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
    ends = {"src": "203.0.113.7", "dst": "172.30.0.10"}
    frames = [
        Ether(**macs) / ARP(psrc="192.168.0.2", hwsrc=macs["src"], pdst="192.168.0.3"),
        Ether(**macs) / Dot1Q(vlan=5) / IP(**ends) / UDP(sport=1, dport=53),
        Ether(**macs) / IP(**ends, frag=100, proto=17) / b"rest of a datagram",
        Ether(**macs) / IP(**ends) / GRE(),
    ]
    for frame in frames:
        frame.time = 1
    file = tmp_path / "mixed.pcap"
    wrpcap(str(file), frames)
    refused = [(c.number, c.refusal) for c in read_pcap(file) if c.packet is None]
    assert refused == [(1, "not modelled: ARP"), (3, "not modelled: IP fragment"), (4, "not modelled: GRE")]
    tagged = read_pcap(file)[1].packet
    assert tagged is not None
    assert (tagged.protocol, tagged.sport, tagged.dport) == ("udp", 1, 53)


def test_a_file_that_is_no_capture_is_refused(tmp_path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no packets in here, only words and words")
    with pytest.raises(InputError, match=r"notes\.txt"):
        read_pcap(file)
    with pytest.raises(InputError, match=r"missing\.pcap"):
        read_pcap(tmp_path / "missing.pcap")
