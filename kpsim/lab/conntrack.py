"""The connection table of a network namespace, read and changed over netlink.

Counterpart: the tool ``conntrack``. Entries are asked for one by one: a dump would walk the table of the whole
machine (K-11).
"""

import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.conntrack import FlowTuple
from kpsim.lab.namespace import Namespace
from kpsim.lab.netlink import NESTED, Netlink, attribute, attributes
from kpsim.packet import ICMP_PROTOCOLS
from kpsim.protocols import PROTOCOL_NAMES, PROTOCOL_NUMBERS

_CONNTRACK = 1
_NEW, _GET, _DELETE = 0, 1, 2
_FAMILIES = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
#: for each protocol, the attribute that holds the state, and the names of the state's values
_STATES = {
    "tcp": (1, (
        "", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2",
    )),
    "sctp": (3, (
        "", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT", "SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT",
        "HEARTBEAT_SENT",
    )),
}  # fmt: skip
_SEEN_REPLY, _ASSURED, _CONFIRMED, _SRC_NAT, _DST_NAT = 2, 4, 8, 16, 32

# attributes of a message, then of a tuple, then of the tuple's two halves
_ORIGINAL, _REPLY, _STATUS, _PROTOCOL_PART, _TIMEOUT, _MARK = 1, 2, 3, 4, 7, 8
_ADDRESSES, _PROTOCOL = 1, 2
_SADDR = {Family.IPV4: 1, Family.IPV6: 3}
_ICMP = {"icmp": 4, "icmpv6": 7}  # the attribute of the id; those of type and code are the next two


class LinuxEntry(NamedTuple):
    """An entry of Linux' connection table."""

    original: FlowTuple
    reply: FlowTuple
    state: str
    seen_reply: bool
    assured: bool
    src_nat: bool
    dst_nat: bool
    mark: int
    seconds_left: int


class LinuxConntrack:
    """The connection table of one namespace. ``len`` is the number of entries. ``close`` it."""

    def __init__(self, namespace: Namespace) -> None:
        self._netlink = Netlink(namespace, _CONNTRACK)
        with namespace.entered():
            self._count = os.open("/proc/sys/net/netfilter/nf_conntrack_count", os.O_RDONLY)

    def close(self) -> None:
        self._netlink.close()
        os.close(self._count)

    def __len__(self) -> int:
        return int(os.pread(self._count, 16, 0))

    def get(self, flow: FlowTuple) -> LinuxEntry | None:
        """The entry that has this tuple in either direction; None if there is none."""
        data = self._netlink.ask(_GET, _asked(flow), family=_FAMILIES[flow.family])
        return None if data is None else _seen(data)

    def get_all(self, flows: Sequence[FlowTuple]) -> list[LinuxEntry | None]:
        """``get`` for each flow. All flows belong to one family, and are asked for together, which is faster."""
        if not flows:
            return []
        answers = self._netlink.ask_all(_GET, [_asked(flow) for flow in flows], family=_FAMILIES[flows[0].family])
        return [None if data is None else _seen(data) for data in answers]

    def add(self, original: FlowTuple, reply: FlowTuple, *, assured: bool = False, seconds: int = 300) -> None:
        """Makes the entry of a UDP flow without a packet, to fill a table. Refused if the entry exists or the table
        is full.
        """
        status = _CONFIRMED | (_SEEN_REPLY | _ASSURED if assured else 0)
        written = _asked(original) + attribute(_REPLY | NESTED, _written(reply))
        written += attribute(_STATUS, status.to_bytes(4)) + attribute(_TIMEOUT, seconds.to_bytes(4))
        self._netlink.ask(_NEW, written, family=_FAMILIES[original.family], creates=True)

    def set_timer(self, flow: FlowTuple, seconds: int) -> None:
        """Sets the timer of an existing entry. A test sees that a packet re-arms a timer only if the timer stood
        elsewhere before.
        """
        timeout = attribute(_TIMEOUT, seconds.to_bytes(4))
        self._netlink.ask(_NEW, _asked(flow) + timeout, family=_FAMILIES[flow.family])

    def delete(self, flow: FlowTuple) -> None:
        self._netlink.ask(_DELETE, _asked(flow), family=_FAMILIES[flow.family])

    def flush(self) -> None:
        self._netlink.ask(_DELETE)


def _asked(flow: FlowTuple) -> bytes:
    return attribute(_ORIGINAL | NESTED, _written(flow))


def _written(flow: FlowTuple) -> bytes:
    size, first = flow.family.bits // 8, _SADDR[flow.family]
    addresses = attribute(first, flow.saddr.to_bytes(size)) + attribute(first + 1, flow.daddr.to_bytes(size))
    protocol = attribute(1, bytes([PROTOCOL_NUMBERS[flow.protocol]]))
    if flow.protocol in ICMP_PROTOCOLS:
        first = _ICMP[flow.protocol]
        kind, code = divmod(flow.dport, 256)
        protocol += attribute(first, flow.sport.to_bytes(2))
        protocol += attribute(first + 1, bytes([kind])) + attribute(first + 2, bytes([code]))
    else:
        protocol += attribute(2, flow.sport.to_bytes(2)) + attribute(3, flow.dport.to_bytes(2))
    return attribute(_ADDRESSES | NESTED, addresses) + attribute(_PROTOCOL | NESTED, protocol)


def _read(data: bytes) -> FlowTuple:
    halves = attributes(data)
    addresses, protocol = attributes(halves[_ADDRESSES]), attributes(halves[_PROTOCOL])
    family = Family.IPV6 if _SADDR[Family.IPV6] in addresses else Family.IPV4
    saddr, daddr = (int.from_bytes(addresses[_SADDR[family] + side]) for side in (0, 1))
    name = PROTOCOL_NAMES[protocol[1][0]]
    if name in ICMP_PROTOCOLS:
        number, kind, code = (int.from_bytes(protocol[_ICMP[name] + field]) for field in range(3))
        return FlowTuple(family, name, saddr, number, daddr, kind * 256 + code)
    return FlowTuple(family, name, saddr, int.from_bytes(protocol[2]), daddr, int.from_bytes(protocol[3]))


def _seen(data: bytes) -> LinuxEntry:
    message = attributes(data)
    original = _read(message[_ORIGINAL])
    status = int.from_bytes(message[_STATUS])
    return LinuxEntry(
        original, _read(message[_REPLY]), _state(original.protocol, message.get(_PROTOCOL_PART, b"")),
        bool(status & _SEEN_REPLY), bool(status & _ASSURED), bool(status & _SRC_NAT), bool(status & _DST_NAT),
        int.from_bytes(message.get(_MARK, b"")), int.from_bytes(message[_TIMEOUT]),
    )  # fmt: skip


def _state(protocol: str, part: bytes) -> str:
    if protocol not in _STATES or not part:
        return ""
    nest, names = _STATES[protocol]
    return names[attributes(attributes(part)[nest])[1][0]]
