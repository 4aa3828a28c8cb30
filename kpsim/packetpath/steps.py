"""What happened to a packet, step by step, as typed values; text is made last.

Counterpart: iptables' TRACE target and ovn-trace's tree. Knows the steps, never how they come about.
"""

import enum
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from kpsim.conntrack import Entry
from kpsim.ruleset import (
    Chance,
    Hook,
    Rule,
    Statement,
)


class RuleReference(NamedTuple):
    """A rule and where it stands; ``number`` counts from 1 as iptables does. ``rule`` None: the chain's policy."""

    table: str
    chain: str
    number: int
    rule: Rule | None

    def __str__(self) -> str:
        if self.rule is None:
            return f"{self.table}/{self.chain} policy"
        comment = f" ({self.rule.comment})" if self.rule.comment else ""
        return f"{self.table}/{self.chain} rule {self.number}{comment}"


@dataclass(frozen=True, slots=True)
class HookEntered:
    """A hook entry is asked: a table's chain, connection tracking, NAT."""

    hook: Hook
    name: str


@dataclass(frozen=True, slots=True)
class ChainEntered:
    table: str
    chain: str


@dataclass(frozen=True, slots=True)
class ChainLeft:
    """The end of a chain, or RETURN."""

    table: str
    chain: str


@dataclass(frozen=True, slots=True)
class RuleMatched:
    at: RuleReference
    statement: Statement | None  #: None: a rule without target


@dataclass(frozen=True, slots=True)
class Chosen:
    """A random draw of a rule."""

    chance: Chance
    rule: Rule
    true: bool


class FieldName(enum.StrEnum):
    """Parts of a packet that its way through the node may change."""

    SOURCE = "source"
    DESTINATION = "destination"
    MARK = "mark"
    TTL = "ttl"
    CONNECTION_MARK = "connection mark"


@dataclass(frozen=True, slots=True)
class FieldChanged:
    field: FieldName
    before: str
    after: str


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


def describe(step: Step) -> str:
    """One line for a person."""
    match step:
        case HookEntered(hook, name):
            return f"{hook}: {name}"
        case ChainEntered(table, chain):
            return f"{table}/{chain}"
        case ChainLeft(table, chain):
            return f"end of {table}/{chain}"
        case RuleMatched(at, statement):
            return f"{at} → {type(statement).__name__ if statement else 'go on'}"
        case Chosen(chance, _, true):
            return f"draw with probability {chance.threshold / (1 << 31):.10f}: {'yes' if true else 'no'}"
        case FieldChanged(field, before, after):
            return f"{field}: {before} → {after}"
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
