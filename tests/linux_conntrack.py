"""The connection table of a network namespace, asked over netlink: entry by entry, since a dump walks the whole machine's (K-11)."""

import os
import socket
import struct
from typing import NamedTuple

from linux_lab import inside

from kpsim.addresses import Family
from kpsim.conntrack import FlowTuple
from kpsim.packet import ICMP_PROTOCOLS

_NETLINK_NETFILTER, _CONNTRACK = 12, 1
_NEW, _GET, _DELETE = 0, 1, 2
_REQUEST, _ACKNOWLEDGE, _CREATE = 1, 4, 0x600
_ERROR_MESSAGE, _NOT_FOUND = 2, -2
_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58}
_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_STATES = (
    "", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
)  # fmt: skip
_SEEN_REPLY, _ASSURED, _CONFIRMED, _SRC_NAT, _DST_NAT = 2, 4, 8, 16, 32

# attributes of a message, of a tuple, of its two halves
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL_STATE, _TIMEOUT = 1, 2, 3, 4, 7
_ADDRESSES, _PROTOCOL = 1, 2
_NESTED = 0x8000
_SADDR = {Family.IPV4: 1, Family.IPV6: 3}
_ICMP = {"icmp": 4, "icmpv6": 7}  # the id; type and code follow it


class Seen(NamedTuple):
    """An entry of Linux."""

    original: FlowTuple
    reply: FlowTuple
    state: str
    seen_reply: bool
    assured: bool
    src_nat: bool
    dst_nat: bool
    seconds_left: int


class LinuxConntrack:
    """The table of one namespace. ``close`` it."""

    def __init__(self, namespace: str) -> None:
        with inside(namespace):
            self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            self._count = os.open("/proc/sys/net/netfilter/nf_conntrack_count", os.O_RDONLY)
        self._netlink.settimeout(5)

    def close(self) -> None:
        self._netlink.close()
        os.close(self._count)

    def __len__(self) -> int:
        return int(os.pread(self._count, 16, 0))

    def get(self, flow: FlowTuple) -> Seen | None:
        """The entry with this original tuple."""
        data = self._ask(_GET, _FAMILIES[flow.family], _attribute(_ORIGINAL | _NESTED, _written(flow)))
        return None if data is None else _seen(data)

    def add(self, original: FlowTuple, reply: FlowTuple, *, assured: bool = False, seconds: int = 300) -> None:
        """A UDP flow that nobody sent."""
        status = _CONFIRMED | (_SEEN_REPLY | _ASSURED if assured else 0)
        tuples = _attribute(_ORIGINAL | _NESTED, _written(original)) + _attribute(_REPLY | _NESTED, _written(reply))
        numbers = _attribute(_STATUS, status.to_bytes(4)) + _attribute(_TIMEOUT, seconds.to_bytes(4))
        self._ask(_NEW, _FAMILIES[original.family], tuples + numbers, _CREATE)

    def delete(self, flow: FlowTuple) -> None:
        self._ask(_DELETE, _FAMILIES[flow.family], _attribute(_ORIGINAL | _NESTED, _written(flow)))

    def flush(self) -> None:
        self._ask(_DELETE, socket.AF_UNSPEC, b"")

    def _ask(self, verb: int, family: int, attributes: bytes, flags: int = 0) -> bytes | None:
        """What Linux answers before its acknowledgement; None: nothing there."""
        body = struct.pack("=BBH", family, 0, 0) + attributes
        kind = _CONNTRACK << 8 | verb
        header = struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST | _ACKNOWLEDGE, 1, 0)
        self._netlink.send(header + body)
        answer = None
        while True:
            data = self._netlink.recv(1 << 16)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind == _ERROR_MESSAGE:
                    [error] = struct.unpack_from("=i", data, 16)
                    assert error in (0, _NOT_FOUND), os.strerror(-error)
                    return answer
                answer, data = data[20:length], data[length + 3 & ~3 :]


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF], data = data[4:length], data[length + 3 & ~3 :]
    return found


def _written(flow: FlowTuple) -> bytes:
    size, first = flow.family.bits // 8, _SADDR[flow.family]
    addresses = _attribute(first, flow.saddr.to_bytes(size)) + _attribute(first + 1, flow.daddr.to_bytes(size))
    protocol = _attribute(1, bytes([_PROTOCOLS[flow.protocol]]))
    if flow.protocol in ICMP_PROTOCOLS:
        first = _ICMP[flow.protocol]
        kind, code = divmod(flow.dport, 256)
        protocol += _attribute(first, flow.sport.to_bytes(2))
        protocol += _attribute(first + 1, bytes([kind])) + _attribute(first + 2, bytes([code]))
    else:
        protocol += _attribute(2, flow.sport.to_bytes(2)) + _attribute(3, flow.dport.to_bytes(2))
    return _attribute(_ADDRESSES | _NESTED, addresses) + _attribute(_PROTOCOL | _NESTED, protocol)


def _read(data: bytes) -> FlowTuple:
    halves = _attributes(data)
    addresses, protocol = _attributes(halves[_ADDRESSES]), _attributes(halves[_PROTOCOL])
    family = Family.IPV6 if _SADDR[Family.IPV6] in addresses else Family.IPV4
    saddr, daddr = (int.from_bytes(addresses[_SADDR[family] + side]) for side in (0, 1))
    name = _NAMES[protocol[1][0]]
    if name in ICMP_PROTOCOLS:
        number, kind, code = (int.from_bytes(protocol[_ICMP[name] + field]) for field in range(3))
        return FlowTuple(family, name, saddr, number, daddr, kind * 256 + code)
    return FlowTuple(family, name, saddr, int.from_bytes(protocol[2]), daddr, int.from_bytes(protocol[3]))


def _seen(data: bytes) -> Seen:
    message = _attributes(data)
    status = int.from_bytes(message[_STATUS])
    of_tcp = _attributes(message.get(_PROTOCOL_STATE, b"")).get(1)
    state = _STATES[_attributes(of_tcp)[1][0]] if of_tcp else ""
    bits = [bool(status & bit) for bit in (_SEEN_REPLY, _ASSURED, _SRC_NAT, _DST_NAT)]
    return Seen(
        _read(message[_ORIGINAL]), _read(message[_REPLY]), state, *bits, int.from_bytes(message[_TIMEOUT])
    )  # fmt: skip
