"""Reads a packet from its bytes, from the IP header on, and refuses what Linux refuses before any rule.

Counterpart: ip_rcv and ipv6_rcv, and the header checks of connection tracking. ``lab.frames`` does the same for packets
of the lab, which it has encoded itself.
"""

import struct
from collections.abc import Mapping

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.packet import Numbers, Packet
from kpsim.protocols import PROTOCOL_NAMES

_IPV4, _IPV6 = struct.Struct("!BBHHHBBH4s4s"), struct.Struct("!IHBB16s16s")
_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32}
_MORE_FRAGMENTS, _OFFSET, _DONT_FRAGMENT = 0x2000, 0x1FFF, 0x4000
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION = 0, 43, 44, 60
_ICMP_ERRORS: Mapping[str, frozenset[int]] = {"icmp": frozenset({3, 4, 5, 11, 12}), "icmpv6": frozenset({1, 2, 3, 4})}
_WITH_ID: Mapping[str, frozenset[int]] = {
    "icmp": frozenset({0, 8, *range(13, 19)}), "icmpv6": frozenset({128, 129, 139, 140}),
}  # fmt: skip
_TOO_BIG = {("icmp", 3, 4), ("icmpv6", 2, 0)}
_LEAST = {"tcp": 20, "udp": 8, "udplite": 8, "sctp": 12, "dccp": 12, "icmp": 8, "icmpv6": 8}
_CHECKSUM_AT = {"tcp": 16, "udp": 6, "icmp": 2, "icmpv6": 2}
_CHUNKS = {
    0: "DATA", 1: "INIT", 2: "INIT_ACK", 3: "SACK", 4: "HEARTBEAT", 5: "HEARTBEAT_ACK", 6: "ABORT", 7: "SHUTDOWN",
    8: "SHUTDOWN_ACK", 9: "ERROR", 10: "COOKIE_ECHO", 11: "COOKIE_ACK", 14: "SHUTDOWN_COMPLETE",
}  # fmt: skip


def read_packet(data: bytes, *, length: int | None = None, strict: bool = False) -> Packet:
    """The packet that begins with an IP header. InputError names what Linux drops, and what is not modelled.

    ``length`` is that of the packet on the wire, if ``data`` does not hold all of it. A capture may hold packets whose
    checksums and lengths the network card was to write; they count as right unless ``strict``.
    """
    if not data:
        raise InputError("an empty packet")
    size = len(data) if length is None else length
    match data[0] >> 4:
        case 4:
            return _read4(data, size, strict=strict)
        case 6:
            return _read6(data, size, strict=strict)
        case version:
            raise _dropped(f"the version in its IP header is {version}")


def _dropped(why: str) -> InputError:
    return InputError(f"Linux drops it before any rule: {why}")


def _read4(data: bytes, size: int, *, strict: bool) -> Packet:
    if len(data) < _IPV4.size:
        raise _dropped(f"an IP header has {_IPV4.size} bytes, here are {len(data)}")
    first, traffic_class, total, _, fragment, ttl, number, _, source, destination = _IPV4.unpack_from(data)
    begin = (first & 15) * 4
    if begin < _IPV4.size or begin > len(data):
        raise _dropped(f"the length of its IP header is {begin}")
    if total == 0 and not strict:
        total = size  # the network card cuts it into packets
    if total < begin or total > size:
        raise _dropped(f"its total length is {total}, with a header of {begin} bytes and {size} bytes in all")
    if strict and _sum(data[:begin]) != 0:
        raise _dropped("the checksum of its IP header is wrong")
    if fragment & (_MORE_FRAGMENTS | _OFFSET):
        raise InputError("not modelled: IP fragment")
    packet = Packet(Family.IPV4, "", int.from_bytes(source), int.from_bytes(destination), ttl=ttl, length=total)
    packet.dont_fragment = bool(fragment & _DONT_FRAGMENT)
    packet.traffic_class = traffic_class
    pseudo = source + destination + struct.pack("!HH", number, total - begin)
    return _read_transport(packet, number, data[begin:total], total - begin, pseudo, strict=strict)


def _read6(data: bytes, size: int, *, strict: bool) -> Packet:
    if len(data) < _IPV6.size:
        raise _dropped(f"an IPv6 header has {_IPV6.size} bytes, here are {len(data)}")
    first, payload, number, hops, source, destination = _IPV6.unpack_from(data)
    if payload == 0 and not strict:
        payload = size - _IPV6.size
    if _IPV6.size + payload > size:
        raise _dropped(f"its payload length is {payload}, and {size - _IPV6.size} bytes are there")
    total = _IPV6.size + payload
    packet = Packet(Family.IPV6, "", int.from_bytes(source), int.from_bytes(destination), ttl=hops, length=total)
    packet.traffic_class = first >> 20 & 0xFF
    packet.dont_fragment = True  # no router divides a packet of IPv6
    number, begin = _behind_extensions(data[:total], number)
    pseudo = source + destination + struct.pack("!IHH", total - begin, 0, number)
    return _read_transport(packet, number, data[begin:total], total - begin, pseudo, strict=strict)


def _behind_extensions(data: bytes, number: int) -> tuple[int, int]:
    """The protocol behind the extension headers, and where it begins."""
    begin = _IPV6.size
    while number in (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _DESTINATION):
        if len(data) < begin + 8:
            raise _dropped("an extension header is cut short")
        if number == _FRAGMENT and int.from_bytes(data[begin + 2 : begin + 4]) & 0xFFF9:
            raise InputError("not modelled: IPv6 fragment")
        extent = 8 if number == _FRAGMENT else 8 + 8 * data[begin + 1]
        number, begin = data[begin], begin + extent
    if begin > len(data):
        raise _dropped("an extension header is cut short")
    return number, begin


def _read_transport(
    packet: Packet,
    number: int,
    segment: bytes,
    size: int,
    pseudo: bytes,
    *,
    strict: bool = False,
    embedded: bool = False,
) -> Packet:
    """Reads the transport header. ``size`` is that of the segment on the wire."""
    packet.protocol = name = PROTOCOL_NAMES.get(number, str(number))
    least = min(8, _LEAST.get(name, 0)) if embedded else _LEAST.get(name, 0)
    if len(segment) < least:
        if size >= least:
            raise InputError(f"the capture holds too little of it: {len(segment)} bytes of its {name} header")
        raise InputError(f"no {name} header fits into its {size} bytes")
    match name:
        case "tcp":
            _read_tcp(packet, segment, size, embedded=embedded)
        case "udp" | "udplite" | "dccp":
            packet.sport, packet.dport = struct.unpack_from("!HH", segment)
            if strict and name == "udp" and not 8 <= int.from_bytes(segment[4:6]) <= size:
                raise InputError(f"its UDP header says {int.from_bytes(segment[4:6])} bytes of {size}")
        case "sctp":
            packet.sport, packet.dport = struct.unpack_from("!HH", segment)
            packet.sctp_chunk = _CHUNKS.get(segment[12], "DATA") if len(segment) > 12 else "DATA"
        case "icmp" | "icmpv6":
            _read_icmp(packet, segment, embedded=embedded)
        case _:
            pass
    if strict:
        packet.checksum_ok = _is_right(packet, segment, pseudo)
    return packet


def _read_tcp(packet: Packet, segment: bytes, size: int, *, embedded: bool) -> None:
    packet.sport, packet.dport, seq = struct.unpack_from("!HHI", segment)
    if len(segment) < 20:
        packet.tcp_flags = frozenset()  # the ICMP error holds no more of it
        return
    ack, offset, bits, window = struct.unpack_from("!IBBH", segment, 8)
    begin = (offset >> 4) * 4
    if not embedded and not 20 <= begin <= size:
        raise InputError(f"the length of its TCP header is {begin} of {size} bytes")
    packet.tcp_flags = frozenset(name for name, bit in _FLAGS.items() if bits & bit)
    if size > begin:
        packet.tcp_flags |= {"PSH"}
    if embedded:
        return  # nobody follows its numbers
    scale, permitted, edges = _options(segment[20:begin])
    packet.numbers = Numbers(seq, ack, max(0, size - begin), window, scale, permitted, edges)


def _options(data: bytes) -> tuple[int | None, bool, tuple[int, ...]]:
    """Window scale, whether selective acknowledgements are permitted, and their right edges."""
    scale, permitted, edges, at = None, False, list[int](), 0
    while at < len(data) and data[at] != 0:
        if data[at] == 1:
            at += 1
            continue
        extent = data[at + 1] if at + 1 < len(data) else 0
        if extent < 2 or at + extent > len(data):
            break
        match data[at], extent:
            case 3, 3:
                scale = data[at + 2]
            case 4, 2:
                permitted = True
            case 5, _ if (extent - 2) % 8 == 0:
                edges += [int.from_bytes(data[e + 4 : e + 8]) for e in range(at + 2, at + extent, 8)]
            case _:
                pass
        at += extent
    return scale, permitted, tuple(edges)


def _read_icmp(packet: Packet, segment: bytes, *, embedded: bool) -> None:
    name = packet.protocol
    packet.icmp_type, packet.icmp_code = segment[0], segment[1]
    if packet.icmp_type in _WITH_ID[name]:
        packet.sport = int.from_bytes(segment[4:6])
    if packet.icmp_type in _ICMP_ERRORS[name] and not embedded:
        packet.related = _read_embedded(packet, segment[8:])
        if (name, packet.icmp_type, packet.icmp_code) in _TOO_BIG:
            packet.mtu = int.from_bytes(segment[6:8] if name == "icmp" else segment[4:8])


def _read_embedded(error: Packet, data: bytes) -> Packet | None:
    """The packet that an ICMP error is about; None if the error holds too little of it."""
    try:
        if error.family is Family.IPV4:
            if len(data) < _IPV4.size or data[0] >> 4 != 4:
                return None
            _, _, total, _, _, ttl, number, _, source, destination = _IPV4.unpack_from(data)
            begin = (data[0] & 15) * 4
        else:
            if len(data) < _IPV6.size or data[0] >> 4 != 6:
                return None
            _, total, number, ttl, source, destination = _IPV6.unpack_from(data)
            total += _IPV6.size
            number, begin = _behind_extensions(data, number)
        about = Packet(error.family, "", int.from_bytes(source), int.from_bytes(destination), ttl=ttl, length=total)
        return _read_transport(about, number, data[begin:], max(0, total - begin), b"", embedded=True)
    except InputError:
        return None


def _is_right(packet: Packet, segment: bytes, pseudo: bytes) -> bool:
    """Whether the transport's checksum is right. UDP over IPv4 may have none."""
    at = _CHECKSUM_AT.get(packet.protocol)
    if at is None:
        return True
    if packet.protocol == "udp" and segment[at : at + 2] == b"\0\0":
        return packet.family is Family.IPV4
    return _sum((b"" if packet.protocol == "icmp" else pseudo) + segment) == 0


def _sum(data: bytes) -> int:
    """The ones' complement sum of the 16-bit words; 0 if the data holds its own right checksum."""
    number = int.from_bytes(data) << (8 if len(data) & 1 else 0)
    return number % 0xFFFF
