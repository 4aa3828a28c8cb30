"""Scapy as the outer format: packets keep their meaning both ways, and expressions execute nothing."""

import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kpsim.addresses import Family, parse_ip
from kpsim.errors import InputError
from kpsim.packet import Numbers, Packet
from kpsim.wire import DEFAULT_SPORT, from_scapy, parse_packet, read_capture, read_packet, to_scapy, write_pcap

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
    copy.numbers = None  # of packets without numbers, ends begin at 0 on the wire
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
    captured = read_capture(file).packets
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
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
    from scapy.utils import wrpcap

    macs = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
    ends = {"src": "203.0.113.7", "dst": "172.30.0.10"}
    frames = [
        Ether(**macs) / ARP(psrc="192.168.0.2", hwsrc=macs["src"], pdst="192.168.0.3"),
        Ether(**macs) / Dot1Q(vlan=5) / IP(**ends) / UDP(sport=1, dport=53),
        Ether(**macs) / IP(**ends, frag=100, proto=17) / b"rest of a datagram",
        Ether(**macs) / IP(**ends) / GRE(),
        Ether(**macs, type=0x88CC) / b"\x02\x07\x04\x02\0\0\0\0\x01",
        Ether(**macs) / IP(src="192.168.0.9", dst="224.0.0.22", proto=2, ttl=1) / bytes(8),
        Ether(**macs) / IP(**ends, proto=50) / bytes(24),
        Ether(**macs) / IP(**ends, proto=200) / bytes(4),
        Ether(**macs)
        / IPv6(src="fe80::1", dst="ff02::16", hlim=1, nh=0)
        / bytes((58, 0, 5, 2, 0, 0, 1, 0, 143, *bytes(27))),
    ]
    for frame in frames:
        frame.time = 1
    file = tmp_path / "mixed.pcap"
    wrpcap(str(file), frames)
    refused = [(c.number, c.refusal) for c in read_capture(file).packets if c.packet is None]
    assert refused == [(1, "not modelled: ARP"), (3, "not modelled: IP fragment"), (5, "not modelled: LLDP")]
    others = [c.packet for c in read_capture(file).packets if c.number in (4, 6, 7, 8, 9)]
    assert [p and p.protocol for p in others] == ["gre", "igmp", "esp", "200", "icmpv6"]
    assert (others[-1].icmp_type, others[-1].sport) == (143, 0)  # a multicast listener report
    tagged = read_capture(file).packets[1].packet
    assert tagged is not None
    assert (tagged.protocol, tagged.sport, tagged.dport) == ("udp", 1, 53)


def pcap_of(*frames: bytes, link: int = 101, lengths: tuple[int, ...] = ()) -> bytes:
    """A file of packets, a second apart. ``lengths`` are those on the wire."""
    records = b""
    for number, frame in enumerate(frames):
        length = lengths[number] if lengths else len(frame)
        records += struct.pack("<IIII", number, 0, len(frame), length) + frame
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link) + records


def pcapng_of(*frames: bytes, order: str = "<", resolution: int = 6, ticks: int = 1_000_000, link: int = 101) -> bytes:
    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        return struct.pack(f"{order}II", kind, 12 + len(body)) + body + struct.pack(f"{order}I", 12 + len(body))

    made = block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))
    made += block(1, struct.pack(f"{order}HHIHHBxxxHH", link, 0, 0, 9, 1, resolution, 0, 0))
    for number, frame in enumerate(frames, 1):
        at = ticks * number
        made += block(6, struct.pack(f"{order}IIIII", 0, at >> 32, at & 0xFFFFFFFF, len(frame), len(frame)) + frame)
    return made


DATAGRAM = (
    bytes.fromhex("4500001c000140004011") + bytes(2) + bytes((203, 0, 113, 7, 172, 30, 0, 10, 0, 1, 0, 53, 0, 8, 0, 0))
)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_capture_of_the_next_generation_keeps_times(tmp_path, order: str) -> None:
    file = tmp_path / "x.pcapng"
    file.write_bytes(pcapng_of(DATAGRAM, DATAGRAM, order=order, resolution=9, ticks=1_500_000_001))
    captured = read_capture(file)
    assert [c.time_ns for c in captured.packets] == [1_500_000_001, 3_000_000_002]
    assert [c.packet and c.packet.dport for c in captured.packets] == [53, 53]
    assert captured.damage == ""


@pytest.mark.parametrize(
    ("whole", "cut", "read", "words"),
    [
        (pcap_of(DATAGRAM, DATAGRAM, DATAGRAM), -1, 2, "at byte 128: a packet of 28 bytes, 27 are left"),
        (pcap_of(DATAGRAM, DATAGRAM), -28 - 4, 1, "at byte 68: the header of a packet has 16 bytes, 12 are left"),
        (pcap_of(DATAGRAM) + struct.pack("<IIII", 1, 0, 1 << 30, 60), None, 1, "a packet of 1073741824 bytes"),
        (
            pcap_of(DATAGRAM) + struct.pack("<IIII", 1, 1_000_000, 28, 28) + DATAGRAM,
            None,
            1,
            "1000000 parts of a second",
        ),
        (pcapng_of(DATAGRAM, DATAGRAM), -4, 1, "a block of 60 bytes, 56 are left"),
        (pcapng_of(DATAGRAM)[:-4] + bytes(4), None, 0, "the two lengths of a block differ"),
    ],
)
def test_a_damaged_capture_is_read_up_to_its_damage(
    tmp_path, whole: bytes, cut: int | None, read: int, words: str
) -> None:
    file = tmp_path / "broken.pcap"
    file.write_bytes(whole[:cut])
    captured = read_capture(file)
    assert (len(captured.packets), words in captured.damage) == (read, True), captured.damage


def test_a_packet_that_the_capture_cut_short_is_read_as_far_as_it_matters(tmp_path) -> None:
    long = DATAGRAM[:2] + (1028).to_bytes(2) + DATAGRAM[4:]
    file = tmp_path / "short.pcap"
    file.write_bytes(pcap_of(long, long[:22], long, lengths=(1028, 1028, 28)))
    whole, cut, wrong = read_capture(file).packets
    assert whole.packet is not None and (whole.packet.length, whole.packet.dport) == (1028, 53)
    assert cut.refusal == "the capture holds too little of it: 2 bytes of its udp header"
    assert (
        wrong.refusal
        == "Linux drops it before any rule: its total length is 1028, with a header of 20 bytes and 28 bytes in all"
    )


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ('IP(dst="172.30.0.10", version=5)/TCP(dport=80)', "the version in its IP header is 5"),
        ('IP(dst="172.30.0.10", ihl=4)/TCP(dport=80)', "the length of its IP header is 16"),
        ('IP(dst="172.30.0.10", len=19)/TCP(dport=80)', "its total length is 19"),
        ('IP(dst="172.30.0.10", len=41)/TCP(dport=80)', "its total length is 41"),
        ('IP(dst="172.30.0.10", chksum=1)/TCP(dport=80)', "the checksum of its IP header is wrong"),
        ('IPv6(dst="fd00::1", version=4)/TCP(dport=80)', "the length of its IP header is 0"),
        ('IPv6(dst="fd00::1", plen=21)/TCP(dport=80)', "its payload length is 21, and 20 bytes are there"),
        ('IP(dst="172.30.0.10")/TCP(dport=80, dataofs=4)', "the length of its TCP header is 16 of 20 bytes"),
        ('IP(dst="172.30.0.10")/TCP(dport=80, dataofs=6)', "the length of its TCP header is 24 of 20 bytes"),
        ('IP(dst="172.30.0.10")/UDP(dport=80, len=9)', "its UDP header says 9 bytes of 8"),
        ('IP(dst="172.30.0.10", len=30)/TCP(dport=80)', "no tcp header fits into its 10 bytes"),
    ],
)
def test_headers_that_linux_drops_are_refused(expression: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_packet(expression)
    assert words in str(refused.value)


def test_a_wrong_checksum_of_the_transport_is_kept() -> None:
    """K-6.6: connection tracking finds such a packet INVALID."""
    assert not parse_packet('IP(dst="172.30.0.10")/UDP(dport=80, chksum=1)').checksum_ok
    assert parse_packet('IP(dst="172.30.0.10")/UDP(dport=80, chksum=0)').checksum_ok  # it has none
    assert parse_packet('IP(dst="172.30.0.10")/UDP(dport=80)/Raw(load="x")').checksum_ok
    assert not parse_packet('IPv6(dst="fd00::1")/UDP(dport=80, chksum=0)').checksum_ok
    assert not parse_packet('IP(dst="172.30.0.10")/ICMP(chksum=7)').checksum_ok
    assert parse_packet('IPv6(dst="fd00::1")/ICMPv6EchoRequest(id=5)').checksum_ok


def test_a_segment_has_numbers_if_it_was_given_one() -> None:
    said = 'IP(dst="172.30.0.10")/TCP(dport=80, flags="{}", seq={}, window=500)/Raw(load="abc")'
    assert parse_packet(said.format("A", 7)).numbers == Numbers(7, 0, 3, 500)
    assert parse_packet('IP(dst="172.30.0.10")/TCP(dport=80)').numbers is None


def test_a_file_that_is_no_capture_is_refused(tmp_path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no packets in here, only words and words")
    with pytest.raises(InputError, match=r"notes\.txt"):
        read_capture(file)
    with pytest.raises(InputError, match=r"missing\.pcap"):
        read_capture(tmp_path / "missing.pcap")


@given(
    st.sampled_from(EXAMPLES),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    st.integers(0, 90),
    st.booleans(),
)
def test_broken_bytes_are_a_packet_or_refused(
    packet: Packet, changes: list[tuple[int, int]], end: int, strict: bool
) -> None:
    data = bytearray(bytes(to_scapy(packet)))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        read = read_packet(bytes(data[:end]), strict=strict)
    except InputError as refused:
        assert str(refused)
    else:
        assert read.family.value == data[0] >> 4


@given(
    st.sampled_from([pcap_of, pcapng_of]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=5),
    st.integers(0, 400),
)
def test_a_broken_capture_is_read_as_far_as_it_goes_or_refused(make, changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(make(*[DATAGRAM] * 3))
    for at, value in changes:
        data[at % len(data)] = value
    with TemporaryDirectory() as place:
        file = Path(place) / "x.pcap"
        file.write_bytes(data[:end])
        try:
            captured = read_capture(file)
        except InputError as refused:
            assert "not a capture file" in str(refused)
        else:
            assert [each.number for each in captured.packets] == list(range(1, len(captured.packets) + 1))
