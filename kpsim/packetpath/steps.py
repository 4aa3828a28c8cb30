"""What happened to a packet, step by step, as typed values. ``describe`` and ``shown`` turn them into text.

Counterpart: iptables' TRACE target and ovn-trace's tree.
"""

import enum
from dataclasses import field
from typing import NamedTuple, assert_never

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.conntrack import Entry
from kpsim.flowstate import Direction
from kpsim.ipvs.connections import Connection
from kpsim.ipvs.servers import RealServer, ServerReference
from kpsim.packet import Packet
from kpsim.packetpath.elements import Atoms
from kpsim.ruleset import (
    Atom,
    Chance,
    DataType,
    Hashed,
    Hook,
    Numgen,
    Rule,
    RuleReference,
    SetType,
    SetVerb,
    Statement,
    TableKey,
)
from kpsim.valueclass import dataclass


class Moment(NamedTuple):
    """What rules may read of a packet at one point of its way.

    It is a copy, which the rest of the walk does not change.
    """

    packet: Packet
    ct_states: frozenset[str]
    entry: Entry | None
    direction: Direction  #: of the packet within the connection of ``entry``
    hook: Hook
    socket: str | None = None  #: whose socket the packet has
    bridged: frozenset[str] | None = None  #: the sides on which it passes a port of a bridge
    unsure_mark: int = 0  #: bits of its mark that are not known
    ct_state: str = ""  #: empty if nothing tracks connections
    frame: str = "host"  #: how the frame was addressed that it came in
    by_ipvs: bool = False  #: ip_vs has rewritten it
    served: Connection | None = None  #: of ip_vs, if it is a client's


@dataclass(frozen=True, slots=True)
class HookEntered:
    """The packet reached a hook entry: a table's chain, connection tracking or NAT."""

    hook: Hook
    name: str


@dataclass(frozen=True, slots=True)
class ChainEntered:
    table: TableKey
    chain: str


@dataclass(frozen=True, slots=True)
class ChainLeft:
    """The packet reached the end of a chain: no rule left the chain with a verdict or by ``goto``.

    ``moment`` is the packet with which the rules after the last match were compared.
    """

    table: TableKey
    chain: str
    moment: Moment = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class RuleMatched:
    """A rule's conditions were true. ``moment`` is the packet that they saw, before the statement had any effect."""

    at: RuleReference
    statement: Statement | None  #: None: a rule without target
    moment: Moment = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class MayMatch:
    """Whether a rule matched is not known, and only marks depend on it: ``unsure`` are the bits that it may have changed."""

    at: RuleReference
    words: str
    unsure: int


@dataclass(frozen=True, slots=True)
class Supposed:
    """A match that is not modelled was asked. ``true`` says what the trace supposes."""

    words: str
    true: bool


@dataclass(frozen=True, slots=True)
class Chosen:
    """A rule of a table made a random draw."""

    table: TableKey
    rule: Rule
    chance: Chance
    true: bool


@dataclass(frozen=True, slots=True)
class Drawn:
    """A rule of a table took a number of ``source.modulus``: by chance, by counting, or out of a hash."""

    table: TableKey
    rule: Rule
    source: Numgen | Hashed
    number: int


class FieldName(enum.StrEnum):
    """Parts of a packet that its way through the node may change."""

    SOURCE = "source"
    DESTINATION = "destination"
    MARK = "mark"
    TTL = "ttl"
    TRAFFIC_CLASS = "traffic class"
    CONNECTION_MARK = "connection mark"


#: what a part of a packet holds: address and port for SOURCE and DESTINATION (port 0: the protocol has no ports), else
#: a number
Value = int | tuple[int, int]


@dataclass(frozen=True, slots=True)
class FieldChanged:
    field: FieldName
    before: Value
    after: Value


class Tracking(enum.StrEnum):
    """What connection tracking did with a packet."""

    NEW = "new connection"
    KNOWN = "known connection"
    RELATED = "related to a known connection"
    INVALID = "invalid"
    UNTRACKED = "not tracked"
    BOUND = "translation decided"
    CONFIRMED = "connection confirmed"
    DESTROYED = "connection forgotten"


@dataclass(frozen=True, slots=True)
class ConntrackChanged:
    tracking: Tracking
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class Routed:
    """Routing decided. ``route`` is text: ``local``, a route, or ``none``."""

    route: str
    interface: str


@dataclass(frozen=True, slots=True)
class Counted:
    """An nfacct object counted the packet."""

    counter: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """A rule looked the packet's source up in a ``recent`` list, or changed the list."""

    list: str
    action: str
    true: bool


@dataclass(frozen=True, slots=True)
class SetAsked:
    """A rule looked a key up in a set that packets change, or whose elements expire."""

    set: str
    type: SetType | None = field(repr=False)
    key: Atoms
    found: bool


@dataclass(frozen=True, slots=True)
class SetTold:
    """A rule changed a set. ``kept`` False: the set was full, which ends the rule."""

    set: str
    type: SetType | None = field(repr=False)
    key: Atoms
    verb: SetVerb
    kept: bool


@dataclass(frozen=True, slots=True)
class Scheduled:
    """ip_vs looked for a real server for a new connection. ``why`` says in words how it chose."""

    at: ServerReference
    why: str


class Service(enum.StrEnum):
    """What ip_vs did with a packet of a connection that it has."""

    KNOWN = "known connection"
    ANSWER = "answer of a known connection"
    ENDED = "connection ended"


@dataclass(frozen=True, slots=True)
class Served:
    service: Service
    connection: Connection


@dataclass(frozen=True, slots=True)
class Ended:
    """The last step: the disposition and its cause as text."""

    disposition: str
    cause: str


Step = (
    HookEntered | ChainEntered | ChainLeft | RuleMatched | MayMatch | Supposed | Chosen | Drawn | FieldChanged | ConntrackChanged | Routed
    | Counted | Remembered | SetAsked | SetTold | Scheduled | Served | Ended
)  # fmt: skip


def shown(field: FieldName, value: Value, family: Family) -> str:
    """A value as text: ``IP:PORT``, or the IP if there is no port; marks in hexadecimal."""
    if isinstance(value, tuple):
        address, port = value
        host = format_ip(family, address)
        return join_host_port(host, port) if port else host
    return str(value) if field is FieldName.TTL else f"{value:#x}"


def shown_key(key: Atoms, of: SetType | None) -> str:
    """A key of a set of this type as text."""
    types: tuple[DataType | None, ...] = of.key if of is not None else (None,) * len(key)
    return " . ".join(map(_shown_part, key, types))


def _shown_part(part: Atom, of: DataType | None) -> str:
    family = _ADDRESSES.get(of) if of is not None else None
    return str(part) if family is None else format_ip(family, int(part))


def _server(family: Family, server: RealServer) -> str:
    return join_host_port(format_ip(family, server.address), server.port)


_ADDRESSES = {DataType.IPV4_ADDRESS: Family.IPV4, DataType.IPV6_ADDRESS: Family.IPV6}


def describe(step: Step, family: Family) -> str:  # noqa: C901 - one case per kind of step
    """A step of a packet of ``family`` as one line for people."""
    match step:
        case HookEntered(hook, name):
            return f"{hook}: {name}"
        case ChainEntered(table, chain):
            return f"{table}/{chain}"
        case ChainLeft(table, chain, _):
            return f"end of {table}/{chain}"
        case RuleMatched(at, statement, _):
            return f"{at} → {type(statement).__name__ if statement else 'go on'}"
        case Supposed(words, true):
            return f"not modelled, taken as {'true' if true else 'false'}: {words}"
        case MayMatch(at, words, unsure):
            return f"{at} may match: {words} is not modelled, so bits {unsure:#x} of a mark are not known"
        case Chosen(_, _, chance, true):
            return f"draw with probability {chance.threshold / (1 << 31):.10f}: {'yes' if true else 'no'}"
        case Drawn(_, _, source, number):
            made = "hashed" if isinstance(source, Hashed) else "drawn" if source.random else "counted"
            return f"{made}: {number}, one of {source.modulus}"
        case FieldChanged(field, before, after):
            return f"{field}: {shown(field, before, family)} → {shown(field, after, family)}"
        case ConntrackChanged(tracking, entry):
            return f"conntrack: {tracking}" + (f": {entry}" if entry else "")
        case Routed(route, interface):
            return f"route: {route}" + (f" ({interface})" if interface and interface not in route else "")
        case Counted(counter):
            return f"counted by {counter}"
        case Remembered(name, action, true):
            return f"recent {name} {action}: {'yes' if true else 'no'}"
        case SetAsked(name, of, key, found):
            return f"{shown_key(key, of)} in @{name}: {'yes' if found else 'no'}"
        case SetTold(name, of, key, verb, kept):
            return f"{verb.value} {shown_key(key, of)} in @{name}" + ("" if kept else ": the set is full")
        case Scheduled(at, why):
            chosen = "no real server" if at.server is None else _server(family, at.server)
            return f"ip_vs: {at}, {at.virtual.scheduler}: {chosen} ({why})"
        case Served(service, connection):
            return f"ip_vs: {service}: {connection}"
        case Ended(disposition, cause):
            return disposition + (f": {cause}" if cause else "")
        case _:
            assert_never(step)
