"""What happened to a packet, step by step, as typed values; ``describe`` and ``shown`` make text of them.

Counterpart: iptables' TRACE target and ovn-trace's tree.
"""

import enum
from dataclasses import dataclass, field
from typing import NamedTuple, assert_never

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.conntrack import Entry
from kpsim.flowstate import Direction
from kpsim.packet import Packet
from kpsim.ruleset import (
    Chance,
    Hook,
    Rule,
    RuleReference,
    Statement,
    TableKey,
)


class Moment(NamedTuple):
    """What rules may read of a packet at one point of its way: a copy, which the rest of the walk does not change."""

    packet: Packet
    ct_states: frozenset[str]
    entry: Entry | None
    direction: Direction  #: of the packet within the connection of ``entry``
    hook: Hook


@dataclass(frozen=True, slots=True)
class HookEntered:
    """A hook entry is asked: a table's chain, connection tracking, NAT."""

    hook: Hook
    name: str


@dataclass(frozen=True, slots=True)
class ChainEntered:
    table: TableKey
    chain: str


@dataclass(frozen=True, slots=True)
class ChainLeft:
    """The end of a chain was reached: no rule of it ended it, neither with a verdict nor by ``goto``.

    ``moment``: what the rules behind the last one that matched were compared with.
    """

    table: TableKey
    chain: str
    moment: Moment = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class RuleMatched:
    """A rule's conditions were true. ``moment``: what they were compared with, before the statement had any effect."""

    at: RuleReference
    statement: Statement | None  #: None: a rule without target
    moment: Moment = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A random draw of a rule in a table."""

    table: TableKey
    rule: Rule
    chance: Chance
    true: bool


class FieldName(enum.StrEnum):
    """Parts of a packet that its way through the node may change."""

    SOURCE = "source"
    DESTINATION = "destination"
    MARK = "mark"
    TTL = "ttl"
    CONNECTION_MARK = "connection mark"


#: what a part of a packet holds: address and port of SOURCE and DESTINATION (port 0: the protocol has none), else a number
Value = int | tuple[int, int]


@dataclass(frozen=True, slots=True)
class FieldChanged:
    field: FieldName
    before: Value
    after: Value


class Tracking(enum.StrEnum):
    """What connection tracking made of a packet."""

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
    """``route`` as text: local, a route, or why there is none."""

    route: str
    interface: str


@dataclass(frozen=True, slots=True)
class Counted:
    """An nfacct object counted the packet."""

    counter: str


@dataclass(frozen=True, slots=True)
class Remembered:
    """A ``recent`` list was asked about, or told of, the packet's source."""

    list: str
    action: str
    true: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The last step: the disposition and its cause as text."""

    disposition: str
    cause: str


Step = (
    HookEntered | ChainEntered | ChainLeft | RuleMatched | Chosen | FieldChanged | ConntrackChanged | Routed | Counted
    | Remembered | Ended
)  # fmt: skip


def shown(field: FieldName, value: Value, family: Family) -> str:
    """A value as text: ``IP:PORT`` or, without a port, the IP; marks in hexadecimal."""
    if isinstance(value, tuple):
        address, port = value
        host = format_ip(family, address)
        return join_host_port(host, port) if port else host
    return str(value) if field is FieldName.TTL else f"{value:#x}"


def describe(step: Step, family: Family) -> str:
    """A step of a packet of ``family`` in one line for a person."""
    match step:
        case HookEntered(hook, name):
            return f"{hook}: {name}"
        case ChainEntered(table, chain):
            return f"{table}/{chain}"
        case ChainLeft(table, chain, _):
            return f"end of {table}/{chain}"
        case RuleMatched(at, statement, _):
            return f"{at} → {type(statement).__name__ if statement else 'go on'}"
        case Chosen(_, _, chance, true):
            return f"draw with probability {chance.threshold / (1 << 31):.10f}: {'yes' if true else 'no'}"
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
        case Ended(disposition, cause):
            return disposition + (f": {cause}" if cause else "")
        case _:
            assert_never(step)
