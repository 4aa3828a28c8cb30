"""What a match means: the one place where a condition on a packet is written.

Counterpart: the kernel's ``xt_*`` match functions. Whatever is faster (``index``) only leaves out rules that these would
find false. Knows the packet and what it may ask of its surroundings (:class:`Facts`); never verdicts or hooks.
"""

from collections.abc import Callable, Hashable
from typing import Protocol as Interface
from typing import assert_never

from kpsim.addresses import Family
from kpsim.conntrack import Entry
from kpsim.flowstate import Direction
from kpsim.packet import PORT_PROTOCOLS, Packet
from kpsim.packetpath.routing import AddressType, Decision, RouteKind
from kpsim.ruleset import (
    AddressRange,
    AddrType,
    Comment,
    ConnMark,
    CtDirection,
    CtOriginalDestination,
    CtOriginalPort,
    CtState,
    Destination,
    DestinationPort,
    IcmpType,
    InInterface,
    L4Module,
    Limit,
    MarkMatch,
    Match,
    MultiPort,
    NfAcct,
    OutInterface,
    Protocol,
    Recent,
    ReversePath,
    RoutingHeader,
    Source,
    SourcePort,
    Statistic,
    TcpFlags,
    TimeToLive,
    Unknown,
)


class Facts(Interface):
    """What conditions may ask, of one packet at one hook."""

    packet: Packet
    ct_states: frozenset[str]
    entry: Entry | None
    direction: Direction

    def address_type(self, address: int) -> AddressType: ...
    def way_back(self, address: int) -> Decision | None: ...
    def chance(self, statistic: Statistic, key: Hashable) -> bool: ...
    def recent(self, match: Recent) -> bool: ...
    def limit(self, match: Limit, key: Hashable) -> bool: ...
    def count(self, counter: str) -> None: ...


Condition = Callable[[Facts], bool]


class UnknownMatch(Exception):
    """A rule was reached of which nobody can say whether it matches (decision 9 of the design)."""


#: matches on the packet's headers and devices: the kernel compares them before any ``-m`` option, wherever they are written
HEADER = (Source, Destination, InInterface, OutInterface, Protocol)
#: matches that change something or draw: a rule must not be skipped past one of them
EFFECTIVE = (Recent, Limit, Statistic, NfAcct, Unknown)

_PROTOCOL_ALIASES = {"ipv6-icmp": "icmpv6", "icmp6": "icmpv6"}
_ANY_ICMP_TYPE = 255


def protocol_name(name: str) -> str:
    """A protocol by the name that packets use."""
    return _PROTOCOL_ALIASES.get(name, name)


def condition(match: Match, key: Hashable) -> Condition | None:  # noqa: C901 - one case per kind of match
    """``match`` as a function; None: always true. ``key`` names the rule's draws, or its bucket."""
    match match:
        case Comment():
            return None
        case Source(network, negate):
            base, mask = network.base, network.mask
            return lambda facts: (facts.packet.saddr & mask == base) != negate
        case Destination(network, negate):
            base, mask = network.base, network.mask
            return lambda facts: (facts.packet.daddr & mask == base) != negate
        case InInterface(name, negate):
            return _interface("in_interface", name, negate)
        case OutInterface(name, negate):
            return _interface("out_interface", name, negate)
        case Protocol(name, negate):
            return _protocol(protocol_name(name), negate)
        case L4Module(name):
            return _protocol(protocol_name(name), False)
        case SourcePort(low, high, negate):
            return lambda facts: (low <= facts.packet.sport <= high) != negate
        case DestinationPort(low, high, negate):
            if low == high and not negate:
                return lambda facts: facts.packet.dport == low
            return lambda facts: (low <= facts.packet.dport <= high) != negate
        case TcpFlags():
            return lambda facts: (facts.packet.tcp_flags & match.mask == match.value) != match.negate
        case MultiPort():
            return _multiport(match)
        case IcmpType():
            return _icmp_type(match)
        case CtState(states, negate):
            wanted = frozenset(states)
            return lambda facts: wanted.isdisjoint(facts.ct_states) == negate
        case CtOriginalDestination() | CtOriginalPort() | CtDirection():
            return _of_connection(match)
        case ConnMark(value, mask, negate):
            return lambda facts: facts.entry is not None and (facts.entry.mark & mask == value) != negate
        case MarkMatch(value, mask, negate):
            return lambda facts: (facts.packet.mark & mask == value) != negate
        case AddrType(side, types, negate):
            field, types_wanted = f"{side[0]}addr", frozenset(types.split(","))
            return lambda facts: (facts.address_type(getattr(facts.packet, field)) in types_wanted) != negate
        case AddressRange(side, low, high, negate):
            field = f"{side[0]}addr"
            return lambda facts: (low <= getattr(facts.packet, field) <= high) != negate
        case TimeToLive():
            return _time_to_live(match)
        case ReversePath():
            return lambda facts: _way_back(facts, match) != match.invert
        case RoutingHeader():
            return lambda facts: False
        case Limit():
            return lambda facts: facts.limit(match, key)
        case Recent():
            return lambda facts: facts.recent(match)
        case Statistic():
            return lambda facts: facts.chance(match, key)
        case NfAcct(counter):
            return _counting(counter)
        case Unknown(text):
            return _unknown(text)
        case _:
            assert_never(match)


def _interface(field: str, name: str, negate: bool) -> Condition:
    if name.endswith("+"):
        prefix = name[:-1]
        return lambda facts: getattr(facts.packet, field).startswith(prefix) != negate
    return lambda facts: (getattr(facts.packet, field) == name) != negate


def _protocol(name: str, negate: bool) -> Condition:
    if name == "all":
        return lambda facts: not negate
    return lambda facts: (facts.packet.protocol == name) != negate


def _multiport(match: MultiPort) -> Condition:
    def within(port: int) -> bool:
        return any(low <= port <= high for low, high in match.ranges)

    def holds(facts: Facts) -> bool:
        packet = facts.packet
        if packet.protocol not in PORT_PROTOCOLS:
            return False
        source = match.side in ("sports", "ports") and within(packet.sport)
        destination = match.side in ("dports", "ports") and within(packet.dport)
        return (source or destination) != match.negate

    return holds


def _icmp_type(match: IcmpType) -> Condition:
    protocol = "icmp" if match.module == "icmp" else "icmpv6"

    def holds(facts: Facts) -> bool:
        packet = facts.packet
        if packet.protocol != protocol:
            return False
        type_matches = packet.icmp_type == match.type or (protocol == "icmp" and match.type == _ANY_ICMP_TYPE)
        return (type_matches and match.code in (None, packet.icmp_code)) != match.negate

    return holds


def _of_connection(match: CtOriginalDestination | CtOriginalPort | CtDirection) -> Condition:
    """Of a packet without connection the kernel knows the state only: then what stands beside ``--ctstate`` is not asked."""

    def holds(facts: Facts) -> bool:
        entry = facts.entry
        if entry is None:
            return match.joined
        match match:
            case CtOriginalDestination(network, negate):
                return (entry.original.daddr in network) != negate
            case CtOriginalPort(low, high, negate):
                return (low <= entry.original.dport <= high) != negate
            case CtDirection(direction):
                return facts.direction.name == direction

    return holds


def _way_back(facts: Facts, match: ReversePath) -> bool:
    """Unlike the sysctl rp_filter it takes every device alike, and what is on the node itself for wrong unless told otherwise."""
    packet = facts.packet
    if packet.in_interface == "lo" or (packet.family is Family.IPV6 and not packet.saddr):
        return True
    back = facts.way_back(packet.saddr)
    if back is None:
        return False
    if back.kind is RouteKind.LOCAL and packet.family is Family.IPV6:
        return match.accept_local
    if back.kind is not RouteKind.UNICAST and not (back.kind is RouteKind.LOCAL and match.accept_local):
        return False
    return match.loose or back.interface == packet.in_interface


def _time_to_live(match: TimeToLive) -> Condition:
    value, negate = match.value, match.negate
    match match.option[-2:]:
        case "lt":
            return lambda facts: (facts.packet.ttl < value) != negate
        case "gt":
            return lambda facts: (facts.packet.ttl > value) != negate
        case _:
            return lambda facts: (facts.packet.ttl == value) != negate


def _counting(counter: str) -> Condition:
    def holds(facts: Facts) -> bool:
        facts.count(counter)
        return True

    return holds


def _unknown(text: str) -> Condition:
    def holds(facts: Facts) -> bool:
        raise UnknownMatch(text)

    return holds
