"""Reads capture files: pcap and pcapng, and the link headers before each packet.

Counterpart: libpcap and Wireshark's file formats. A damaged file gives the packets before the damage, and says where it
is.
"""

import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kpsim.errors import InputError, Problem
from kpsim.packet import Packet
from kpsim.units import SECOND_NS
from kpsim.valueclass import dataclass
from kpsim.wire.headers import read_packet

_MOST = 256 * 1024  #: bytes of one record; libpcap takes no more either
_MAGIC = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}  # the unit of the fraction of a second, in nanoseconds
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED, _OLD = 0x0A0D0D0A, 1, 3, 6, 2
_ORDER = 0x1A2B3C4D
_RESOLUTION_OPTION, _OFFSET_OPTION = 9, 14
_NULL, _ETHERNET, _LOOP, _SLL, _SLL2 = 0, 1, 108, 113, 276
_RAW = (12, 14, 101, 228, 229)
_IP, _IP6, _TAGS = 0x0800, 0x86DD, (0x8100, 0x88A8, 0x9100)
_ETHERTYPES = {
    0x0806: "ARP", 0x8035: "RARP", 0x8863: "PPPoE discovery", 0x8864: "PPPoE", 0x8847: "MPLS", 0x888E: "EAPOL", 0x88CC: "LLDP",
    0x88E5: "MACsec", 0x8809: "LACP", 0x9000: "Ethernet loopback",
}  # fmt: skip
_LINKS = {105: "IEEE 802.11", 127: "IEEE 802.11", 9: "PPP", 50: "PPP", 51: "PPPoE", 195: "IEEE 802.15.4", 249: "USB"}


@dataclass(frozen=True, slots=True)
class Captured:
    """One packet of a capture, numbered from 1 as in Wireshark. ``refusal`` says why ``packet`` is None."""

    number: int
    time_ns: int  #: since 1970
    packet: Packet | None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Capture:
    """The packets of a file. ``damage`` says where the file breaks off or cannot be read on; empty: it is whole."""

    packets: tuple[Captured, ...]
    damage: str = ""


class _Record(NamedTuple):
    time_ns: int
    link: int
    data: bytes
    length: int  #: on the wire


class _Damage(Exception):
    """The file cannot be read on."""


def read_capture(path: Path | str) -> Capture:
    """All packets of a pcap or pcapng file. InputError if the file cannot be read or is no capture file."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise InputError(Problem("not a file that can be read twice: copy it first", file=str(path)))
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(Problem(error.strerror or "cannot be read", file=str(path))) from None
    records = _records(data)
    if records is None:
        raise InputError(Problem("not a capture file (pcap or pcapng)", file=str(path)))
    found: list[Captured] = []
    try:
        for number, record in enumerate(records, 1):
            found.append(_captured(number, record))
    except _Damage as damage:
        return Capture(tuple(found), str(damage))
    return Capture(tuple(found))


def _captured(number: int, record: _Record) -> Captured:
    try:
        return Captured(number, record.time_ns, _packet_of(record))
    except InputError as refusal:
        return Captured(number, record.time_ns, None, str(refusal))


def _packet_of(record: _Record) -> Packet:
    begin = _ip_begins(record.link, record.data)
    packet = read_packet(record.data[begin:], length=_length_of(record, begin))
    packet.sourced = True
    return packet


def _length_of(record: _Record, begin: int) -> int:
    return max(record.length, len(record.data)) - begin


# --- link headers -----------------------------------------------------------------------------------------------------


def _ip_begins(link: int, data: bytes) -> int:
    """Where the IP header begins. InputError names the protocol if there is none."""
    if link in _RAW:
        return 0
    if link in (_NULL, _LOOP):
        return 4
    at = {_ETHERNET: 12, _SLL: 14, _SLL2: 0}.get(link)
    if at is None:
        raise InputError(f"not modelled: {_LINKS.get(link, f'link type {link}')}")
    begin = {_ETHERNET: 14, _SLL: 16, _SLL2: 20}[link]
    kind = int.from_bytes(data[at : at + 2])
    while kind in _TAGS:
        kind, begin = int.from_bytes(data[begin + 2 : begin + 4]), begin + 4
    if len(data) < begin:
        raise InputError(f"the capture holds too little of it: {len(data)} bytes")
    if kind in (_IP, _IP6):
        return begin
    if kind < 0x600 and link == _ETHERNET:
        raise InputError("not modelled: an IEEE 802.3 frame (STP, CDP and the like)")
    raise InputError(f"not modelled: {_ETHERTYPES.get(kind, f'Ethernet type {kind:#06x}')}")


# --- files ------------------------------------------------------------------------------------------------------------


def _records(data: bytes) -> Iterator[_Record] | None:
    """The records of a capture; None if the file is of neither format."""
    if len(data) >= 12 and int.from_bytes(data[:4]) == _SECTION:
        return _pcapng(data)
    for order in "<>":
        unit_ns = _MAGIC.get(struct.unpack_from(f"{order}I", data)[0]) if len(data) >= 4 else None
        if unit_ns is not None and len(data) >= 24:
            return _pcap(data, order, unit_ns)
    return None


def _pcap(data: bytes, order: str, unit_ns: int) -> Iterator[_Record]:
    head = struct.Struct(f"{order}IIII")
    link = struct.unpack_from(f"{order}I", data, 20)[0] & 0xFFFF
    at = 24
    while at < len(data):
        if len(data) - at < head.size:
            raise _Damage(f"at byte {at}: the header of a packet has {head.size} bytes, {len(data) - at} are left")
        seconds, fraction, size, length = head.unpack_from(data, at)
        if fraction * unit_ns >= SECOND_NS:
            raise _Damage(f"at byte {at}: the time of a packet has {fraction} parts of a second")
        at += head.size
        yield _Record(seconds * SECOND_NS + fraction * unit_ns, link, _taken(data, at, size), length)
        at += size


def _taken(data: bytes, at: int, size: int) -> bytes:
    if size > _MOST:
        raise _Damage(f"at byte {at}: a packet of {size} bytes")
    if at + size > len(data):
        raise _Damage(f"at byte {at}: a packet of {size} bytes, {len(data) - at} are left")
    return data[at : at + size]


def _pcapng(data: bytes) -> Iterator[_Record]:
    order, at = "<", 0
    interfaces: list[tuple[int, int, int, int]] = []  # link type, parts of a second, offset in seconds, most bytes
    while at < len(data):
        if len(data) - at < 12:
            raise _Damage(f"at byte {at}: a block has at least 12 bytes, {len(data) - at} are left")
        if int.from_bytes(data[at : at + 4]) == _SECTION:
            order = _order_of(data, at)
            interfaces = []
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if size < 12 or size % 4 or at + size > len(data):
            raise _Damage(f"at byte {at}: a block of {size} bytes, {len(data) - at} are left")
        if struct.unpack_from(f"{order}I", data, at + size - 4)[0] != size:
            raise _Damage(f"at byte {at}: the two lengths of a block differ")
        body = data[at + 8 : at + size - 4]
        if kind == _INTERFACE and len(body) >= 8:
            interfaces.append(_interface(body, order))
        elif kind in (_ENHANCED, _OLD, _SIMPLE):
            yield _block(kind, body, order, interfaces, at)
        at += size


def _order_of(data: bytes, at: int) -> str:
    for order in "<>":
        if struct.unpack_from(f"{order}I", data, at + 8)[0] == _ORDER:
            return order
    raise _Damage(f"at byte {at}: a section of unknown byte order")


def _interface(body: bytes, order: str) -> tuple[int, int, int, int]:
    link, _, most = struct.unpack_from(f"{order}HHI", body)
    parts, offset_s, at = 1_000_000, 0, 8
    while at + 4 <= len(body):
        code, size = struct.unpack_from(f"{order}HH", body, at)
        value = body[at + 4 : at + 4 + size]
        if code == 0:
            break
        if code == _RESOLUTION_OPTION and len(value) == 1:
            exponent = value[0] & 0x7F
            parts = 2**exponent if value[0] & 0x80 else 10 ** min(exponent, 20)
        elif code == _OFFSET_OPTION and len(value) == 8:
            [offset_s] = struct.unpack(f"{order}q", value)
        at += 4 + size + -size % 4
    return link, parts, offset_s, most


def _block(kind: int, body: bytes, order: str, interfaces: list[tuple[int, int, int, int]], at: int) -> _Record:
    if kind == _SIMPLE:
        number, ticks, head = 0, 0, 4
        if len(body) < head:
            raise _Damage(f"at byte {at}: a packet block without a packet")
        [length] = struct.unpack_from(f"{order}I", body)
        size = length
    else:
        head = 20
        if len(body) < head:
            raise _Damage(f"at byte {at}: a packet block without a packet")
        number, high, low, size, length = struct.unpack_from(f"{order}{'I' if kind == _ENHANCED else 'Hxx'}IIII", body)
        ticks = high << 32 | low
    if number >= len(interfaces):
        raise _Damage(f"at byte {at}: a packet of interface {number}, which is not described")
    link, parts, offset_s, most = interfaces[number]
    if kind == _SIMPLE:
        size = min(size, most or size, len(body) - head)
    return _Record(offset_s * SECOND_NS + ticks * SECOND_NS // parts, link, _taken(body, head, size), length)
