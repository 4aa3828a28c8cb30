"""What an expression means: the one place where a condition on a packet is written.

Counterpart: the ``xt_*`` match functions, and nf_tables' ``cmp``, ``range`` and ``lookup``. A field is read by one
function (``GETTERS``), and a comparison asks whether the value is among those of the rule. ``index`` is faster but
decides nothing: it only leaves out rules that these conditions would find false.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Protocol, assert_never, cast

from kpsim.addresses import Family
from kpsim.conntrack import Entry
from kpsim.flowstate import Direction
from kpsim.ipvs.connections import Connection
from kpsim.packet import ICMP_PROTOCOLS, PORT_PROTOCOLS, Packet
from kpsim.packetpath.elements import Atoms, Found, find, finder
from kpsim.packetpath.routing import AddressType, Decision, RouteKind
from kpsim.packetpath.sockets import Socket
from kpsim.ruleset import (
    ALL_BITS,
    TCP_FLAG_BITS,
    Atom,
    BridgePort,
    Chance,
    Compare,
    Counter,
    EitherPort,
    Expression,
    Field,
    Hashed,
    Intervals,
    Limit,
    LocalSocket,
    Lookup,
    Masked,
    NamePattern,
    Numgen,
    Quota,
    Recent,
    ReversePath,
    RoutingHeader,
    Set,
    SetReference,
    Source,
    Unknown,
    UpdateSet,
)


class Facts(Protocol):
    """What conditions may read about one packet at one hook."""

    packet: Packet
    ct_state: str
    ct_states: frozenset[str]
    entry: Entry | None
    direction: Direction
    unsure_mark: int
    socket: str | None
    bridged: frozenset[str] | None
    by_ipvs: bool
    served: Connection | None

    @property
    def frame(self) -> str: ...

    def address_type(self, address: int, interface: str = "") -> AddressType: ...
    def holds(self, words: str) -> bool: ...
    def listeners(self) -> Sequence[Socket] | None: ...
    def settle(self, field: Field, bit: int) -> int: ...
    def way_back(self, address: int) -> Decision | None: ...
    def chance(self, chance: Chance, key: Hashable) -> bool: ...
    def recent(self, match: Recent) -> bool: ...
    def limit(self, match: Limit, key: Hashable) -> bool: ...
    def quota(self, match: Quota, key: Hashable) -> bool: ...
    def count(self, counter: str) -> None: ...
    def named_set(self, reference: SetReference) -> Set: ...
    def has_member(self, reference: SetReference, key: Atoms) -> bool: ...
    def update(self, statement: UpdateSet, key: Atoms) -> bool: ...
    def number(self, source: Numgen | Hashed, values: Atoms, key: Hashable) -> int: ...


Condition = Callable[[Facts], bool]
Getter = Callable[[Facts], Any]  #: an Atom, a frozenset of names, or None if the packet lacks the field


#: expressions that change something or draw
EFFECTIVE = Recent | Limit | Quota | Chance | Counter | Unknown | BridgePort | LocalSocket


def has_effect(part: object) -> bool:
    """Whether an expression changes something or draws: a rule must not be skipped past one that does."""
    return isinstance(part, EFFECTIVE) or (isinstance(part, Lookup) and not all(map(_is_read, part.key)))


def _is_read(source: Source) -> bool:
    return isinstance(source, Field | Masked)


# --- fields -----------------------------------------------------------------------------------------------------------


def _sport(facts: Facts) -> int | None:
    packet = facts.packet
    return packet.sport if packet.protocol in PORT_PROTOCOLS else None


def _dport(facts: Facts) -> int | None:
    packet = facts.packet
    return packet.dport if packet.protocol in PORT_PROTOCOLS else None


def _sport_or_type(facts: Facts) -> int:
    return _port_or_type(facts.packet, facts.packet.sport)


def _dport_or_type(facts: Facts) -> int:
    return _port_or_type(facts.packet, facts.packet.dport)


#: protocols of which ipsets read the ports (measured: of DCCP they do not)
_PORTS_OF_SETS = PORT_PROTOCOLS - {"dccp"}


def _port_or_type(packet: Packet, port: int) -> int:
    """Counterpart: get_port of ip_set_getport.c"""
    if packet.protocol in ICMP_PROTOCOLS:
        return packet.icmp_type << 8 | packet.icmp_code
    return port if packet.protocol in _PORTS_OF_SETS else 0


def _sport_of_bitmap(facts: Facts) -> int | None:
    return facts.packet.sport if facts.packet.protocol in ("tcp", "udp") else None


def _dport_of_bitmap(facts: Facts) -> int | None:
    return facts.packet.dport if facts.packet.protocol in ("tcp", "udp") else None


def _icmp_type(facts: Facts) -> int | None:
    packet = facts.packet
    return packet.icmp_type if packet.protocol in ICMP_PROTOCOLS else None


def _icmp_code(facts: Facts) -> int | None:
    packet = facts.packet
    return packet.icmp_code if packet.protocol in ICMP_PROTOCOLS else None


def _tcp_flags(facts: Facts) -> int | None:
    packet = facts.packet
    return _flag_bits(packet.tcp_flags) if packet.protocol == "tcp" else None


def _flag_bits(flags: frozenset[str], known: dict[frozenset[str], int] = {}) -> int:  # noqa: B006 - the table is meant to stay
    bits = known.get(flags)
    if bits is None:
        bits = known[flags] = sum(TCP_FLAG_BITS[flag] for flag in flags)
    return bits


def _saddr_type(facts: Facts) -> AddressType:
    return facts.address_type(facts.packet.saddr)


def _daddr_type(facts: Facts) -> AddressType:
    return facts.address_type(facts.packet.daddr)


def _dscp(facts: Facts) -> int:
    return facts.packet.traffic_class >> 2


def _ecn(facts: Facts) -> int:
    return facts.packet.traffic_class & 3


def _nfproto(facts: Facts) -> str:
    return "ipv4" if facts.packet.family is Family.IPV4 else "ipv6"


def _ct_status(facts: Facts) -> frozenset[str] | None:
    """The bits of the connection's status that the model knows. A packet that creates its entry has it unconfirmed."""
    entry = facts.entry
    if entry is None:
        return None
    held = {"SNAT": entry.src_nat, "DNAT": entry.dst_nat, "SEEN_REPLY": entry.seen_reply, "ASSURED": entry.assured}
    return frozenset([name for name, true in held.items() if true])


def _direction(facts: Facts) -> str | None:
    return facts.direction.name if facts.entry is not None else None


def _ct_mark(facts: Facts) -> int | None:
    return facts.entry.mark if facts.entry is not None else None


def _ct_original_daddr(facts: Facts) -> int | None:
    return facts.entry.original.daddr if facts.entry is not None else None


def _ct_original_dport(facts: Facts) -> int | None:
    return facts.entry.original.dport if facts.entry is not None else None


def _type_at(address: str, interface: str) -> Getter:
    """The type of an address as a rule with ``--limit-iface-in`` or ``-out`` asks for it (K-20.4)."""
    where, device = attrgetter(f"packet.{address}"), attrgetter(f"packet.{interface}")
    return lambda facts: facts.address_type(where(facts), device(facts))


def _uid(facts: Facts) -> int | None:
    return facts.packet.uid if facts.socket == "process" else None


def _gid(facts: Facts) -> int | None:
    return facts.packet.gid if facts.socket == "process" else None


#: how each field is read; None where the packet lacks it
def _of_ipvs(read: Callable[[Connection], int | str]) -> Getter:
    """Reads the connection of a packet that ip_vs has sent to a real server, as long as its source was not translated."""

    def get(facts: Facts) -> int | str | None:
        found, packet = facts.served, facts.packet
        if not facts.by_ipvs or found is None:
            return None
        ends = (packet.saddr, packet.sport), (packet.daddr, packet.dport)
        return read(found) if ends == (found.key.client, found.server) else None

    return get


def _direction_by_ipvs(facts: Facts) -> str | None:
    return _direction(facts) if _virtual_port(facts) is not None else None


_virtual_port = _of_ipvs(lambda found: found.key.virtual[1])

GETTERS: Mapping[Field, Getter] = {
    Field.SADDR: attrgetter("packet.saddr"),
    Field.DADDR: attrgetter("packet.daddr"),
    Field.NFPROTO: _nfproto,
    Field.L4PROTO: attrgetter("packet.protocol"),
    Field.SPORT: _sport,
    Field.DPORT: _dport,
    Field.SPORT_OR_TYPE: _sport_or_type,
    Field.DPORT_OR_TYPE: _dport_or_type,
    Field.SPORT_OF_BITMAP: _sport_of_bitmap,
    Field.DPORT_OF_BITMAP: _dport_of_bitmap,
    Field.ICMP_TYPE: _icmp_type,
    Field.ICMP_CODE: _icmp_code,
    Field.TCP_FLAGS: _tcp_flags,
    Field.TTL: attrgetter("packet.ttl"),
    Field.TRAFFIC_CLASS: attrgetter("packet.traffic_class"),
    Field.DSCP: _dscp,
    Field.ECN: _ecn,
    Field.LENGTH: attrgetter("packet.length"),
    Field.MARK: attrgetter("packet.mark"),
    Field.IIFNAME: attrgetter("packet.in_interface"),
    Field.OIFNAME: attrgetter("packet.out_interface"),
    Field.SADDR_TYPE: _saddr_type,
    Field.DADDR_TYPE: _daddr_type,
    Field.SADDR_TYPE_IN: _type_at("saddr", "in_interface"),
    Field.SADDR_TYPE_OUT: _type_at("saddr", "out_interface"),
    Field.DADDR_TYPE_IN: _type_at("daddr", "in_interface"),
    Field.DADDR_TYPE_OUT: _type_at("daddr", "out_interface"),
    Field.FRAME: attrgetter("frame"),
    Field.SOCKET: attrgetter("socket"),
    Field.UID: _uid,
    Field.GID: _gid,
    Field.CT_STATE: attrgetter("ct_states"),
    Field.CT_STATUS: _ct_status,
    Field.CT_DIRECTION: _direction,
    Field.CT_MARK: _ct_mark,
    Field.CT_ORIGINAL_DADDR: _ct_original_daddr,
    Field.CT_ORIGINAL_DPORT: _ct_original_dport,
    Field.IPVS: lambda facts: "yes" if facts.by_ipvs else "no",
    Field.IPVS_PROTOCOL: _of_ipvs(lambda found: found.key.protocol),
    Field.IPVS_VADDR: _of_ipvs(lambda found: found.key.virtual[0]),
    Field.IPVS_VPORT: _virtual_port,
    Field.IPVS_DIRECTION: _direction_by_ipvs,
    Field.IPVS_METHOD: _of_ipvs(lambda found: "MASQ"),
}


# --- conditions -------------------------------------------------------------------------------------------------------


def condition(expression: Expression, key: Hashable) -> Condition:  # noqa: C901 - one case per kind of expression
    """``expression`` as a function of a packet's facts. ``key`` names the rule's draws, or the bucket of its limit."""
    match expression:
        case Compare():
            return _comparison(expression)
        case Lookup():
            return _lookup(expression, key)
        case EitherPort():
            return _either_port(expression)
        case ReversePath():
            return lambda facts: _way_back(facts, expression) != expression.invert
        case RoutingHeader():
            return lambda facts: False
        case Limit():
            return lambda facts: facts.limit(expression, key)
        case Quota():
            return lambda facts: facts.quota(expression, key)
        case Recent():
            return lambda facts: facts.recent(expression)
        case Chance():
            return lambda facts: facts.chance(expression, key)
        case Counter(counter):
            return _counting(counter)
        case BridgePort():
            return _bridge_port(expression)
        case LocalSocket(arguments):
            return _local_socket(arguments)
        case Unknown(words):
            return lambda facts: facts.holds(words)
        case _:
            assert_never(expression)


def _comparison(compare: Compare) -> Condition:
    get, negate, absent = GETTERS[compare.field], compare.negate, compare.absent
    if compare.field is Field.CT_STATE:
        states = cast("frozenset[str]", compare.among)
        return lambda facts: states.isdisjoint(facts.ct_states) == negate
    if compare.field in (Field.MARK, Field.CT_MARK):
        return _mark(compare)
    if compare.value is not None:
        return _equality(get, compare.value, compare.mask, negate, absent)
    if compare.field is Field.CT_STATUS:
        status = cast("frozenset[str]", compare.among)
        return lambda facts: absent if (found := get(facts)) is None else status.isdisjoint(found) == negate
    if compare.name is not None and not absent:
        name = compare.name
        return lambda facts: (value := get(facts)) is not None and (value == name) != negate
    among, mask = compare.among, compare.mask

    def holds(facts: Facts) -> bool:
        value = get(facts)
        if value is None:
            return absent
        return _is_among(value if mask is None else value & mask, among) != negate

    return holds


def _mark(compare: Compare) -> Condition:
    """A comparison of a mark. A bit that a rule may have changed that is not modelled is settled only if it decides."""
    field, negate, absent, among = compare.field, compare.negate, compare.absent, compare.among
    get, mask, value = GETTERS[field], ALL_BITS if compare.mask is None else compare.mask, compare.value

    def holds(facts: Facts) -> bool:
        found = get(facts)
        if found is None:
            return absent
        if unsure := unsure_bits(facts, field) & mask:
            found = _settled(facts, field, found, mask, unsure, value)
        if value is None:
            return _is_among(found & mask, among) != negate
        return bool((found & mask == value) != negate)

    return holds


def _settled(facts: Facts, field: Field, mark: int, mask: int, unsure: int, value: int | None) -> int:
    """A mark that differs from ``value`` under the mask if the true one does. It settles no more bits than that needs."""
    if value is not None and (mark ^ value) & mask & ~unsure:
        return mark
    while unsure:
        bit = unsure & -unsure
        mark = mark & ~bit | facts.settle(field, bit)
        if value is not None and (mark ^ value) & bit:
            return mark
        unsure ^= bit
    return mark


def unsure_bits(facts: Facts, field: Field) -> int:
    """The bits of a mark of which it is not known whether they are set."""
    if field is Field.MARK:
        return facts.unsure_mark
    return facts.entry.unsure_mark if facts.entry is not None else 0


def _equality(get: Getter, value: int, mask: int | None, negate: bool, absent: bool) -> Condition:
    """A comparison with one number, by far the most frequent condition."""
    if mask is not None:
        return lambda facts: absent if (found := get(facts)) is None else (found & mask == value) != negate
    if not negate and not absent:
        return lambda facts: get(facts) == value
    return lambda facts: absent if (found := get(facts)) is None else (found == value) != negate


def _is_among(value: Atom, among: Intervals | frozenset[str] | NamePattern) -> bool:
    if isinstance(among, tuple):
        number = cast("int", value)
        return any(low <= number <= high for low, high in among)
    if isinstance(among, NamePattern):
        return cast("str", value).startswith(among.prefix)
    return value in among


def _lookup(lookup: Lookup, key: Hashable) -> Condition:
    asked, negate, absent = key_of(lookup.key, key), lookup.negate, lookup.absent
    if isinstance(lookup.set, SetReference):
        named = lookup.set
        return lambda facts: absent if (at := asked(facts)) is None else facts.has_member(named, at) != negate
    among = finder(lookup.set)
    return lambda facts: absent if (at := asked(facts)) is None else (among(at) is not None) != negate


def updating(statement: UpdateSet, key: Hashable) -> Condition:
    """The change that a statement makes to a set, as a function. It is false if the rule ends there (K-9.2)."""
    asked = key_of(statement.key, key)
    return lambda facts: (at := asked(facts)) is not None and facts.update(statement, at)


def asking(sources: tuple[Source, ...], map_: Set | SetReference, key: Hashable) -> Callable[[Facts], Found | None]:
    """A look-up in a map, as a function that returns the element that a packet finds; None: there is none."""
    asked = key_of(sources, key)
    if isinstance(map_, SetReference):
        named = map_
        return lambda facts: None if (at := asked(facts)) is None else find(facts.named_set(named), at)
    among = finder(map_)
    return lambda facts: None if (at := asked(facts)) is None else among(at)


def key_of(sources: tuple[Source, ...], key: Hashable) -> Callable[[Facts], Atoms | None]:
    """A function that makes a key of a packet; None if the packet lacks a part, which ends a rule (NFT-9.3)."""
    getters = [_source(source, key) for source in sources]
    if len(getters) == 1:
        get = getters[0]
        return lambda facts: None if (value := get(facts)) is None else (value,)

    def made(facts: Facts) -> Atoms | None:
        values: list[Atom] = []
        for get in getters:
            value = get(facts)
            if value is None:
                return None
            values.append(value)
        return tuple(values)

    return made


def _source(source: Source, key: Hashable) -> Getter:
    match source:
        case Masked(field, mask, shift):
            get = _marked(field, mask) if field in (Field.MARK, Field.CT_MARK) else GETTERS[field]
            return lambda facts: None if (value := get(facts)) is None else (value & mask) >> shift
        case Numgen():
            return lambda facts: facts.number(source, (), key)
        case Hashed():
            fields = key_of(source.key, key)
            return lambda facts: None if (values := fields(facts)) is None else facts.number(source, values, key)
        case Field.MARK | Field.CT_MARK:
            return _marked(source, ALL_BITS)
        case Field.CT_STATE:
            return lambda facts: facts.ct_state or "INVALID"  # as nft_ct says of a packet without connection
        case _:
            return GETTERS[source]


def _marked(field: Field, mask: int) -> Getter:
    """A mark of which the bits under the mask are known."""
    get = GETTERS[field]

    def value(facts: Facts) -> int | None:
        found: int | None = get(facts)
        if found is not None and (unsure := unsure_bits(facts, field) & mask):
            found = _settled(facts, field, found, mask, unsure, None)
        return found

    return value


def _either_port(match: EitherPort) -> Condition:
    def holds(facts: Facts) -> bool:
        packet = facts.packet
        if packet.protocol not in PORT_PROTOCOLS:
            return False
        return (_is_among(packet.sport, match.among) or _is_among(packet.dport, match.among)) != match.negate

    return holds


def _way_back(facts: Facts, match: ReversePath) -> bool:
    """Whether the route back to the source satisfies rpfilter.

    Unlike the sysctl rp_filter, it treats every device alike. A source address of the node itself fails unless
    ``accept_local`` is set.
    """
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


def _counting(counter: str) -> Condition:
    def holds(facts: Facts) -> bool:
        facts.count(counter)
        return True

    return holds


def _bridge_port(match: BridgePort) -> Condition:
    """Whether a bridge handed the packet to netfilter, and by which port. The names of ports are not modelled (K-20.2)."""
    side, name, negate = match.side, match.name, match.negate
    shown = name.prefix + "+" if isinstance(name, NamePattern) else name
    words = f"the bridge port {shown}"

    def holds(facts: Facts) -> bool:
        sides = facts.bridged
        if sides is None:
            return negate
        if name is None:
            return (("in" if side == "in" else "out") in sides) != negate
        if side not in sides:
            return False
        return name == NamePattern("") or facts.holds(words)

    return holds


def _local_socket(arguments: str) -> Condition:
    """Whether a socket would receive the packet.

    No process of the model has a transparent socket, nor one at an address that is not the node's. Who listens there is
    known if the node's sockets are; which sockets belong to connections is not (K-20.3).
    """
    words = f"-m socket {arguments}".rstrip()
    transparent, anywhere = "--transparent" in arguments, "--nowildcard" in arguments

    def holds(facts: Facts) -> bool:
        packet = facts.packet
        if (
            transparent
            or packet.protocol not in ("tcp", "udp")
            or facts.address_type(packet.daddr) is not AddressType.LOCAL
        ):
            return False
        listeners = facts.listeners()
        if listeners is not None and _begins_flow(facts):
            return any(anywhere or socket.bound for socket in listeners)
        return facts.holds(words)

    return holds


def _begins_flow(facts: Facts) -> bool:
    """Whether no connection has the packet, so that no socket but one that waits can."""
    if facts.ct_state in ("", "UNTRACKED"):
        return facts.packet.protocol == "tcp" and facts.packet.tcp_flags & {"SYN", "ACK"} == {"SYN"}
    return facts.ct_state == "NEW"
