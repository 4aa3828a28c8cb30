"""Packets as bytes: Scapy reads what the lab writes, the lab reads what Scapy writes, and the checksums are Scapy's."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import ip

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.lab.frames import VERIFICATION_TAG, Decoded, decode, encode
from kpsim.packet import Packet
from kpsim.wire import from_scapy, to_scapy

V4, V6 = Family
CLIENT, VIP, NODE = ip("203.0.113.7"), ip("172.30.0.10"), ip("192.168.0.2")
FLAGS = ("SYN", "ACK", "FIN", "RST", "PSH", "URG")
CHUNKS = (
    "INIT", "INIT_ACK", "COOKIE_ECHO", "COOKIE_ACK", "ABORT", "SHUTDOWN", "SHUTDOWN_ACK", "SHUTDOWN_COMPLETE",
    "HEARTBEAT", "HEARTBEAT_ACK", "DATA", "SACK", "ERROR",
)  # fmt: skip
ECHO = {V4: ("icmp", (8, 0)), V6: ("icmpv6", (128, 129))}
ERRORS = {V4: (3, 5, 11, 12), V6: (1, 2, 3, 4)}

PORTS = st.integers(0, 65535)
SEQUENCES = st.integers(0, 0xFFFF_FFFF)


@st.composite
def plain_packets(draw: st.DrawFn, family: Family, *, checksum_ok: bool | None = None) -> Packet:
    """No ICMP errors."""
    addresses = st.integers(1, (1 << family.bits) - 1)
    packet = Packet(family, "", draw(addresses), draw(addresses), ttl=draw(st.integers(1, 255)))
    packet.checksum_ok = draw(st.booleans()) if checksum_ok is None else checksum_ok
    echo, types = ECHO[family]
    packet.protocol = draw(st.sampled_from(("tcp", "udp", "sctp", echo)))
    packet.sport = draw(PORTS)
    if packet.protocol == echo:
        packet.icmp_type = draw(st.sampled_from(types))
    else:
        packet.dport = draw(PORTS)
    if packet.protocol == "tcp":
        packet.tcp_flags = frozenset(draw(st.sets(st.sampled_from(FLAGS))))
    if packet.protocol == "sctp":
        packet.sctp_chunk = draw(st.sampled_from(CHUNKS))
    return packet


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    family = draw(st.sampled_from(Family))
    packet = draw(plain_packets(family))
    if draw(st.booleans()):
        return packet
    error = draw(plain_packets(family))
    return Packet(
        family, ECHO[family][0], error.saddr, error.daddr, ttl=error.ttl, icmp_type=draw(st.sampled_from(ERRORS[family])),
        icmp_code=draw(st.integers(0, 5)), related=replace(packet, checksum_ok=True), checksum_ok=error.checksum_ok,
    )  # fmt: skip


def tags(family: Family) -> st.SearchStrategy[int]:
    return st.integers(0, 0xFFFF if family is V4 else 0xFFFFF)


def dissected(data: bytes, family: Family) -> Any:
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    return (IP if family is V4 else IPv6)(data)


def sized(packet: Packet, length: int) -> Packet:
    """As it is after the wire: with its length there, that of the packet in an ICMP error too."""
    header = 20 if packet.family is V4 else 40
    related = packet.related and sized(packet.related, length - header - 8)
    return replace(packet, length=length, related=related)


# --- out and in ------------------------------------------------------------------------------------------------------------


@given(st.data())
def test_a_packet_is_the_same_after_the_wire(data: st.DataObject) -> None:
    packet = data.draw(packets())
    tag, seq, ack = data.draw(tags(packet.family)), data.draw(SEQUENCES), data.draw(SEQUENCES)
    wire = encode(packet, tag=tag, seq=seq, ack=ack)
    got = decode(wire, packet.family)
    assert got is not None
    assert got.packet == sized(packet, len(wire))
    assert got.tag == tag
    inner = packet.related or packet
    if inner.protocol == "tcp":
        assert got[2:] == (seq, ack)
    else:
        assert got[2:] == (tag & 0xFFFF if inner.protocol.startswith("icmp") else 0, 0)


@given(st.data())
def test_scapy_reads_what_is_written(data: st.DataObject) -> None:
    packet = data.draw(packets())
    wire = encode(packet, tag=77)
    read = from_scapy(dissected(wire, packet.family))
    assert replace(read, checksum_ok=packet.checksum_ok, numbers=None) == sized(packet, len(wire))


@given(st.data())
def test_what_scapy_writes_is_read(data: st.DataObject) -> None:
    packet = data.draw(packets())
    wire = bytes(to_scapy(packet))
    got = decode(wire, packet.family)
    assert got is not None
    expected = replace(from_scapy(dissected(wire, packet.family)), numbers=None)  # the lab tells numbers beside packets
    if got.packet.related is not None and packet.family is V4:  # Scapy's errors end after 28 bytes
        expected.related.tcp_flags = got.packet.related.tcp_flags
        expected.related.sctp_chunk = got.packet.related.sctp_chunk
    assert got.packet == expected


def checksums(data: bytes, family: Family) -> list[int]:
    """Those of the IP header, if it has one, and of the transport."""
    layer = dissected(data, family)
    own = [layer.chksum] if family is V4 else []
    field = "cksum" if "cksum" in layer.payload.fields else "chksum"
    return [*own, getattr(layer.payload, field)]


def with_checksums_of_scapy(data: bytes, family: Family) -> bytes:
    layer = dissected(data, family)
    if family is V4:
        del layer.chksum
    if layer.payload.name == "SCTP":  # of what follows it, it counts nothing but plain bytes
        layer.payload.remove_payload()
        layer.payload.add_payload(data[(20 if family is V4 else 40) + 12 :])
        del layer.payload.chksum
    elif "cksum" in layer.payload.fields:
        del layer.payload.cksum
    else:
        del layer.payload.chksum
    return bytes(layer)


@given(st.data())
def test_checksums_are_those_of_scapy_unless_they_are_to_be_wrong(data: st.DataObject) -> None:
    packet = data.draw(packets())
    wire = encode(packet, tag=data.draw(tags(packet.family)), seq=data.draw(SEQUENCES))
    ours, right = checksums(wire, packet.family), checksums(with_checksums_of_scapy(wire, packet.family), packet.family)
    assert ours[:-1] == right[:-1]  # a packet with a wrong IP header would not get as far as netfilter
    folded = 0xFFFF_FFFF if packet.protocol == "sctp" else 0xFFFF  # 0 and 0xFFFF mean the same
    assert (ours[-1] % folded == right[-1] % folded) is packet.checksum_ok


@given(st.data())
def test_packets_inside_errors_have_right_checksums(data: st.DataObject) -> None:
    family = data.draw(st.sampled_from(Family))
    inner = data.draw(plain_packets(family, checksum_ok=False))
    outer = Packet(family, ECHO[family][0], inner.daddr, inner.saddr, icmp_type=ERRORS[family][0], related=inner)
    wire = encode(outer, tag=5)
    assert wire[(28 if family is V4 else 48) :] == encode(replace(inner, checksum_ok=True), tag=5)


@given(st.binary(max_size=120), st.sampled_from(Family), st.booleans())
def test_any_bytes_are_a_packet_or_none(noise: bytes, family: Family, begins_well: bool) -> None:
    data = bytes([family << 4 | 5]) + noise if begins_well else noise
    got = decode(data, family)
    assert got is None or got.packet.family is family


# --- tags ------------------------------------------------------------------------------------------------------------------

SYN = Packet(V4, "tcp", CLIENT, VIP, 40000, 80)
SYN6 = Packet(V6, "tcp", ip("2001:db8::7"), ip("fd00:172:30::a"), 40000, 80)


def decoded(data: bytes | memoryview, family: Family = V4) -> Decoded:
    got = decode(data, family)
    assert got is not None
    return got


def test_the_tag_is_the_identification_or_the_flow_label() -> None:
    layer = dissected(encode(SYN, tag=0xBEEF), V4)
    assert (layer.id, str(layer.flags)) == (0xBEEF, "DF")
    assert dissected(encode(SYN6, tag=0xABCDE), V6).fl == 0xABCDE


def test_datagrams_and_echoes_carry_the_tag_too() -> None:
    assert encode(Packet(V6, "udp", 1, 2, 3, 4), tag=0xABCDE).endswith(b"\x00\x0a\xbc\xde")
    assert dissected(encode(Packet(V4, "icmp", CLIENT, VIP, 9, icmp_type=8), tag=0xBEEF), V4).payload.seq == 0xBEEF


def test_a_tag_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bits"):
        encode(SYN, tag=0x10000)
    with pytest.raises(ValueError, match="20 bits"):
        encode(SYN6, tag=0x100000)


def test_sctp_begins_without_verification_tag_and_both_sides_ask_for_the_same() -> None:
    init = dissected(encode(replace(SYN, protocol="sctp"), tag=1), V4).payload
    assert (init.tag, init.payload.init_tag) == (0, VERIFICATION_TAG)
    answer = dissected(encode(replace(SYN, protocol="sctp", sctp_chunk="INIT_ACK"), tag=1, vtag=9), V4).payload
    assert (answer.tag, answer.payload.init_tag) == (9, 9)
    answer = dissected(encode(replace(SYN, protocol="sctp", sctp_chunk="INIT_ACK"), tag=1, seq=5, ack=7), V4).payload
    assert (answer.tag, answer.payload.init_tag) == (7, 5)  # each end its own


def test_what_has_no_form_is_refused_by_name() -> None:
    for packet in (replace(SYN, protocol="dccp"), replace(SYN, protocol="quic")):
        with pytest.raises(InputError, match=packet.protocol):
            encode(packet, tag=1)
    with pytest.raises(InputError, match="FORWARD_TSN"):
        encode(replace(SYN, protocol="sctp", sctp_chunk="FORWARD_TSN"), tag=1)


# --- what Linux emits --------------------------------------------------------------------------------------------------------


def test_padding_of_short_ethernet_frames_is_not_data() -> None:
    data = encode(SYN, tag=7)
    assert decoded(data + b"\xff" * 6) == decoded(data)
    assert decoded(memoryview(b"linklayeraddr." + data)[14:]) == decoded(data)


def test_options_are_no_ports_and_no_data() -> None:
    from scapy.layers.inet import IP, TCP, IPOption

    options = [IPOption(b"\x94\x04\x00\x00")]  # router alert
    segment = TCP(sport=40000, dport=80, flags="S", options=[("MSS", 1460), ("WScale", 7)])
    data = bytes(IP(src="203.0.113.7", dst="172.30.0.10", id=7, options=options) / segment)
    got = decoded(data)
    assert got.packet == replace(SYN, length=24 + 28)
    assert got.tag == 7


def test_an_error_may_hold_8_bytes_of_the_transport_only() -> None:
    for sent, header in ((SYN, 20), (SYN6, 40)):
        error = Packet(sent.family, ECHO[sent.family][0], NODE, CLIENT, icmp_type=ERRORS[sent.family][0], related=sent)
        whole = encode(error, tag=7, seq=99)
        short = bytearray(whole[: header + 8 + header + 8])
        at, length = (2, len(short)) if sent.family is V4 else (4, len(short) - header)
        short[at : at + 2] = length.to_bytes(2)
        got = decoded(bytes(short), sent.family)
        assert got[1:] == (7, 99, 0)
        assert got.packet.related == replace(sent, tcp_flags=frozenset(), length=header + 20)


def test_fragments_and_headers_in_between_have_a_protocol_by_number_and_no_ports() -> None:
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop

    ends = {"src": "203.0.113.7", "dst": "172.30.0.10"}
    ends6 = {"src": "2001:db8::7", "dst": "fd00:172:30::a"}
    for layer, family, protocol in (
        (IP(**ends, proto=6, frag=2) / bytes(40), V4, "6"),
        (IPv6(**ends6) / IPv6ExtHdrFragment(nh=6, offset=2) / bytes(40), V6, "44"),
        (IPv6(**ends6) / IPv6ExtHdrHopByHop(nh=6) / bytes(40), V6, "0"),
        (IP(**ends, proto=253) / bytes(40), V4, "253"),
        (IP(**ends, proto=253), V4, "253"),
        (IP(**ends, proto=47) / bytes(4), V4, "gre"),
    ):
        packet = decoded(bytes(layer), family).packet
        assert (packet.protocol, packet.sport, packet.dport, packet.checksum_ok) == (protocol, 0, 0, True)


def test_protocols_without_ports_are_written_by_name_and_number() -> None:
    for protocol in ("gre", "253"):
        packet = Packet(V4, protocol, CLIENT, VIP, length=28)
        assert decoded(encode(packet, tag=3)) == (packet, 3, 0, 0)


def test_what_is_cut_short_or_of_the_other_family_is_none() -> None:
    for packet in (
        SYN,
        SYN6,
        replace(SYN, protocol="sctp"),
        replace(SYN, protocol="udp"),
        replace(SYN, protocol="icmp"),
    ):
        data = encode(packet, tag=1)
        assert all(decode(data[:size], packet.family) is None for size in range(len(data)))
        assert decode(data, V6 if packet.family is V4 else V4) is None


def test_the_checksum_that_a_network_card_would_finish_is_good() -> None:
    for packet in (SYN, SYN6, replace(SYN, protocol="udp"), replace(SYN6, protocol="udp")):
        data = bytearray(encode(packet, tag=1))
        begin, offset = (20 if packet.family is V4 else 40), 16 if packet.protocol == "tcp" else 6
        words = data[(12 if packet.family is V4 else 8) : begin] + bytes((0, 6 if packet.protocol == "tcp" else 17))
        words += (len(data) - begin).to_bytes(2)
        total = sum(int.from_bytes(words[at : at + 2]) for at in range(0, len(words), 2))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        data[begin + offset : begin + offset + 2] = total.to_bytes(2)
        assert decoded(bytes(data), packet.family).packet.checksum_ok
        data[begin + offset + 1] ^= 1
        assert not decoded(bytes(data), packet.family).packet.checksum_ok


def test_udp_without_checksum_is_good_in_ipv4_only() -> None:
    for packet in (replace(SYN, protocol="udp"), replace(SYN6, protocol="udp")):
        data = bytearray(encode(packet, tag=1))
        begin = 20 if packet.family is V4 else 40
        data[begin + 6 : begin + 8] = b"\0\0"
        assert decoded(bytes(data), packet.family).packet.checksum_ok is (packet.family is V4)
