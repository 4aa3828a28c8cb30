"""Encodes packets as bytes, from the IP header on, and decodes them.

Counterpart: the wire. ``kpsim.wire`` does the same for people, over Scapy. This module does it ten thousand times a
minute. A tag in the header tells which packet was sent.
"""

from functools import cache
from struct import Struct
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.packet import PORT_PROTOCOLS, Packet
from kpsim.protocols import PROTOCOL_NAMES, PROTOCOL_NUMBERS

#: the verification tag that INIT and INIT ACK ask for, and that every other SCTP packet carries, in both directions
VERIFICATION_TAG = 0x6B707369

_FLAG_BITS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32}
_FLAGS = tuple(frozenset(name for name, bit in _FLAG_BITS.items() if bits & bit) for bits in range(64))

#: types of ICMP errors, whose messages hold another packet. ICMPv6 errors have types below 128, of which four are assigned
_ERRORS = {"icmp": frozenset({3, 4, 5, 11, 12}), "icmpv6": frozenset({1, 2, 3, 4})}
_TOO_BIG = {("icmp", 3, 4), ("icmpv6", 2, 0)}
_MTU = 1400

_CHUNK_NUMBERS = {
    "DATA": 0, "INIT": 1, "INIT_ACK": 2, "SACK": 3, "HEARTBEAT": 4, "HEARTBEAT_ACK": 5, "ABORT": 6, "SHUTDOWN": 7,
    "SHUTDOWN_ACK": 8, "ERROR": 9, "COOKIE_ECHO": 10, "COOKIE_ACK": 11, "SHUTDOWN_COMPLETE": 14,
}  # fmt: skip
_CHUNK_NAMES = {number: name for name, number in _CHUNK_NUMBERS.items()}
#: the bytes of a chunk behind its type, flags and length; state cookie and heartbeat are parameters with four bytes of data
_CHUNK_BODIES = {
    "DATA": bytes(12) + b"\0", "INIT": bytes(16), "INIT_ACK": bytes(16) + b"\0\7\0\10kpsi", "SACK": bytes(12),
    "HEARTBEAT": b"\0\1\0\10kpsi", "HEARTBEAT_ACK": b"\0\1\0\10kpsi", "SHUTDOWN": bytes(4), "ERROR": b"\0\4\0\4",
    "COOKIE_ECHO": b"kpsi",
}  # fmt: skip
_WHOLE_MESSAGE = 3  # flags of a DATA chunk: first and last fragment
_STREAMS_AND_WINDOW = bytes.fromhex("0000faf0 0001 0001 00000000")  # the part of INIT and INIT ACK behind their tag

_IPV4, _IPV6 = Struct("!BBHHHBBHII"), Struct("!IHBB16s16s")
_TCP, _UDP, _SCTP, _ICMP = Struct("!HHIIBBHHH"), Struct("!HHHH"), Struct("!HHII"), Struct("!BBHHH")
_PORTS, _WORD, _LONG = Struct("!HH"), Struct("!H"), Struct("!I")
_CHUNK = Struct("!BBH")
_DONT_FRAGMENT, _OFFSET_BITS = 0x4000, 0x1FFF
_TAG_BITS = {Family.IPV4: 16, Family.IPV6: 20}
_ORDINARY = 60  #: the length of a packet that nobody gave a length; only UDP is made longer
TCP_WINDOW = 64240
#: an ICMP error holds at least these many bytes of the transport header
_LEAST_EMBEDDED = 8

_CHECKSUM_OFFSETS = {"tcp": 16, "udp": 6, "icmp": 2, "icmpv6": 2}
_LEAST_LENGTHS = {"tcp": 20, "udp": 8, "icmp": 8, "icmpv6": 8, "sctp": 16, "dccp": 12, "udplite": 8}


class Decoded(NamedTuple):
    """A packet from the wire. If it is an ICMP error, ``tag``, ``seq`` and ``ack`` belong to the packet that the
    error is about.
    """

    packet: Packet
    tag: int  #: IP identification, or flow label; packets that the node makes itself have arbitrary ones
    seq: int  #: TCP's sequence number, or ICMP's, which an answer repeats; 0 for other protocols
    ack: int  #: TCP's acknowledgement number; 0 for other protocols


# --- to bytes --------------------------------------------------------------------------------------------------------------


def encode(packet: Packet, *, tag: int, seq: int = 0, ack: int = 0, vtag: int = VERIFICATION_TAG) -> bytes:
    """The packet as bytes from its IP header on, with a few bytes of data if it carries data.

    ``tag`` becomes the IP identification (16 bits; Linux replaces 0 in packets that processes send) or the flow label
    (20 bits). An ICMP error carries it twice, also in the packet inside. For TCP, ``seq`` and ``ack`` are its
    numbers. For SCTP they are the verification tags of the sender and of the other end; 0 stands for ``vtag``.

    If the packet's ``checksum_ok`` is false, the checksum of its transport header is wrong. The checksums of the IP
    header and of a packet inside an ICMP error are always right. Checksums are computed for the source address as
    given, even for the 0 that Linux replaces.

    ValueError if the tag has too many bits, InputError for a protocol or chunk that cannot be encoded.
    """
    if tag >> _TAG_BITS[packet.family]:
        raise ValueError(f"tag {tag} has more than {_TAG_BITS[packet.family]} bits")
    return _written(packet, tag, seq, ack, vtag, checksum_ok=packet.checksum_ok)


def _written(packet: Packet, tag: int, seq: int, ack: int, vtag: int, *, checksum_ok: bool) -> bytes:
    protocol = packet.protocol
    match protocol:
        case "tcp":
            bits = _flag_bits(packet.tcp_flags)
            segment = bytearray(
                _TCP.pack(packet.sport, packet.dport, seq, ack, 5 << 4, bits, TCP_WINDOW, 0, 0)
            )  # fmt: skip
            if bits & _FLAG_BITS["PSH"]:
                segment.append(0)
        case "udp":
            more = max(0, packet.length - _header_size(packet) - 12) if packet.length > _ORDINARY else 0
            segment = bytearray(_UDP.pack(packet.sport, packet.dport, 12 + more, 0) + _LONG.pack(tag) + bytes(more))
        case "sctp":
            segment = _sctp(packet, seq or vtag, ack or vtag, checksum_ok=checksum_ok)
        case "icmp" | "icmpv6":
            segment = _icmp(packet, tag, seq, ack, vtag)
        case _ if protocol not in PORT_PROTOCOLS and (protocol in PROTOCOL_NUMBERS or protocol.isdecimal()):
            segment = bytearray(8)
        case _:
            raise InputError(f"protocol {protocol} has no form on the wire here")
    number = PROTOCOL_NUMBERS.get(protocol) or int(protocol)
    offset = _CHECKSUM_OFFSETS.get(protocol)
    if offset is not None:
        pseudo_header = 0 if protocol == "icmp" else packet.saddr + packet.daddr + number + len(segment)
        checksum = 0xFFFF - _sum(segment, pseudo_header)  # never 0, which in UDP means that there is no checksum
        if not checksum_ok:
            checksum = checksum % 0xFFFE + 1
        _WORD.pack_into(segment, offset, checksum)
    return _ip_header(packet, number, tag, len(segment)) + segment


def _header_size(packet: Packet) -> int:
    return _IPV4.size if packet.family is Family.IPV4 else _IPV6.size


def _ip_header(packet: Packet, number: int, tag: int, length: int) -> bytes:
    if packet.family is Family.IPV6:
        addresses = packet.saddr.to_bytes(16), packet.daddr.to_bytes(16)
        return _IPV6.pack(6 << 28 | packet.traffic_class << 20 | tag, length, number, packet.ttl, *addresses)
    fields = (
        0x45,
        packet.traffic_class,
        20 + length,
        tag,
        _DONT_FRAGMENT if packet.dont_fragment else 0,
        packet.ttl,
        number,
    )
    checksum = 0xFFFF - (_sum(_IPV4.pack(*fields, 0, packet.saddr, packet.daddr)) or 0xFFFF)
    return _IPV4.pack(*fields, checksum, packet.saddr, packet.daddr)


@cache
def _flag_bits(flags: frozenset[str]) -> int:
    return sum(_FLAG_BITS[flag] for flag in flags)


def _icmp(packet: Packet, tag: int, seq: int, ack: int, vtag: int) -> bytearray:
    kind = packet.protocol, packet.icmp_type, packet.icmp_code
    if packet.icmp_type not in _ERRORS[packet.protocol]:
        head = _ICMP.pack(packet.icmp_type, packet.icmp_code, 0, packet.sport, tag & 0xFFFF)
        return bytearray(head + _LONG.pack(tag))
    mtu = packet.mtu or _MTU if kind in _TOO_BIG else 0
    head = _ICMP.pack(packet.icmp_type, packet.icmp_code, 0, 0, mtu)
    if packet.related is None:
        return bytearray(head)
    return bytearray(head + _written(packet.related, tag, seq, ack, vtag, checksum_ok=True))


def _sctp(packet: Packet, own: int, other: int, *, checksum_ok: bool) -> bytearray:
    """``own`` is the tag that the sender asks for, ``other`` the tag that it must carry."""
    name = packet.sctp_chunk
    if name not in _CHUNK_NUMBERS:
        raise InputError(f"SCTP chunk {name} has no form on the wire here")
    body = _CHUNK_BODIES.get(name, b"")
    if name in ("INIT", "INIT_ACK"):
        body = _LONG.pack(own) + _STREAMS_AND_WINDOW + body[16:]
    segment = bytearray(_SCTP.pack(packet.sport, packet.dport, 0 if name == "INIT" else other, 0))
    segment += _CHUNK.pack(_CHUNK_NUMBERS[name], _WHOLE_MESSAGE if name == "DATA" else 0, 4 + len(body)) + body
    segment += bytes(-len(body) % 4)
    segment[8:12] = (_crc32c(segment) ^ (not checksum_ok)).to_bytes(4, "little")
    return segment


# --- from bytes ------------------------------------------------------------------------------------------------------------


def decode(data: bytes | memoryview, family: Family) -> Decoded | None:
    """The packet that begins with this IP header; None if it is not of this family, or ends within its transport
    header.

    Padding behind the packet is ignored. The packet's ``length`` comes from the IP header. Its protocol is a number
    in decimal if the number has no name here, if the packet is an IPv4 fragment other than the first, or if an IPv6
    extension header comes first (``44`` is a fragment). An SCTP chunk of unknown type reads as ``DATA``, because
    connection tracking treats it so. A checksum that Linux leaves for the network card to finish counts as right.
    ``related`` is the packet in an ICMP error: a TCP packet without flags if the flags were cut off, None if fewer
    than 8 bytes of its transport header are there.
    """
    return _read(memoryview(data), family, embedded=False)


def _read(data: memoryview, family: Family, *, embedded: bool) -> Decoded | None:
    size = len(data)
    if family is Family.IPV4:
        if size < _IPV4.size:
            return None
        first, traffic_class, length, tag, fragment, ttl, number, _, saddr, daddr = _IPV4.unpack_from(data)
        begin = (first & 0xF) * 4
        if first >> 4 != family or begin < _IPV4.size or begin > length:
            return None
        name = str(number) if fragment & _OFFSET_BITS else PROTOCOL_NAMES.get(number) or str(number)
    else:
        if size < _IPV6.size:
            return None
        first, length, number, ttl, source, destination = _IPV6.unpack_from(data)
        if first >> 28 != family:
            return None
        tag, begin, traffic_class = first & 0xFFFFF, _IPV6.size, first >> 20 & 0xFF
        length += begin
        saddr, daddr = int.from_bytes(source), int.from_bytes(destination)
        name = PROTOCOL_NAMES.get(number) or str(number)
    packet = Packet(family, name, saddr, daddr, ttl=ttl, length=length, traffic_class=traffic_class)
    segment = data[begin:length]
    if embedded:
        if len(segment) < _LEAST_EMBEDDED:
            return None
    elif length > size or len(segment) < _LEAST_LENGTHS.get(name, 0):
        return None
    else:
        packet.checksum_ok = _is_good(packet, number, segment)
    return _read_transport(packet, segment, tag, embedded=embedded)


def _read_transport(packet: Packet, segment: memoryview, tag: int, *, embedded: bool) -> Decoded:
    """Reads the transport header. ``segment`` holds at least 8 bytes of it."""
    seq = ack = 0
    match packet.protocol:
        case "tcp":
            packet.sport, packet.dport = _PORTS.unpack_from(segment)
            [seq] = _LONG.unpack_from(segment, 4)
            if len(segment) < _TCP.size:  # the ICMP error holds no more of it
                packet.tcp_flags = _FLAGS[0]
            else:
                [ack] = _LONG.unpack_from(segment, 8)
                packet.tcp_flags = _FLAGS[segment[13] & 0x3F]
                if len(segment) > (segment[12] >> 4) * 4:
                    packet.tcp_flags |= {"PSH"}
        case "udp" | "udplite" | "dccp":
            packet.sport, packet.dport = _PORTS.unpack_from(segment)
        case "sctp":
            packet.sport, packet.dport = _PORTS.unpack_from(segment)
            packet.sctp_chunk = _CHUNK_NAMES.get(segment[12], "DATA") if len(segment) > 12 else "DATA"
        case "icmp" | "icmpv6" as name:
            packet.icmp_type, packet.icmp_code, _, identifier, sequence = _ICMP.unpack_from(segment)
            if packet.icmp_type not in _ERRORS[name]:
                packet.sport, seq = identifier, sequence
            elif not embedded and (inner := _read(segment[8:], packet.family, embedded=True)):
                if (name, packet.icmp_type, packet.icmp_code) in _TOO_BIG:
                    packet.mtu = identifier << 16 | sequence if name == "icmpv6" else sequence
                packet.related = inner.packet
                return Decoded(packet, *inner[1:])
        case _:
            pass
    return Decoded(packet, tag, seq, ack)


def _is_good(packet: Packet, number: int, segment: memoryview) -> bool:
    """Whether the transport's checksum is right, or is the partial one that Linux leaves for the network card to
    finish.
    """
    offset = _CHECKSUM_OFFSETS.get(packet.protocol)
    if offset is None:
        return packet.protocol != "sctp" or _has_good_crc(segment)
    [written] = _WORD.unpack_from(segment, offset)
    if packet.protocol == "icmp":
        return _sum(segment) == 0
    if packet.protocol == "udp" and not written:
        return packet.family is Family.IPV4
    pseudo_header = packet.saddr + packet.daddr + number + len(segment)
    return _sum(segment, pseudo_header) == 0 or written % 0xFFFF == pseudo_header % 0xFFFF


def _has_good_crc(segment: memoryview) -> bool:
    written = int.from_bytes(segment[8:12], "little")
    return written == 0 or written == _crc32c(b"".join((segment[:8], b"\0\0\0\0", segment[12:])))


# --- checksums -------------------------------------------------------------------------------------------------------------


def _sum(data: bytes | bytearray | memoryview, more: int = 0) -> int:
    """The ones' complement sum of the 16-bit words, from 0 to 0xFFFE. Modulo 0xFFFF a number equals the sum of its
    words, as 2**16 is 1.
    """
    number = int.from_bytes(data)
    return ((number << 8 if len(data) & 1 else number) + more) % 0xFFFF


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()


def _crc32c(data: bytes | bytearray) -> int:
    """Castagnoli's CRC. SCTP's header holds it with the low byte first."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC32C[value & 0xFF ^ byte]
    return value ^ 0xFFFFFFFF
