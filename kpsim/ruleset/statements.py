"""Statements: what a rule does to a packet. A statement that ends the chain is the last part of a rule's body."""

import enum

from kpsim.ruleset.expressions import Counter, Expression, Limit, Lookup, Quota, Recent, Source
from kpsim.ruleset.fields import Field
from kpsim.ruleset.sets import Interval, Set, SetReference
from kpsim.ruleset.verdicts import Goto, Jump, Terminal
from kpsim.valueclass import dataclass

ALL_BITS = 0xFFFFFFFF


class RejectWith(enum.Enum):
    """What the sender of a rejected packet is told; some answers exist in one family only."""

    NO_ROUTE = "no route"
    HOST_UNREACHABLE = "host unreachable"
    PROTOCOL_UNREACHABLE = "protocol unreachable"  #: IPv4
    PORT_UNREACHABLE = "port unreachable"
    NET_PROHIBITED = "net prohibited"  #: IPv4
    HOST_PROHIBITED = "host prohibited"  #: IPv4
    ADMIN_PROHIBITED = "administratively prohibited"
    POLICY_FAIL = "policy fail"  #: IPv6
    REJECT_ROUTE = "reject route"  #: IPv6
    TCP_RESET = "TCP reset"


@dataclass(frozen=True, slots=True)
class Reject:
    with_: RejectWith = RejectWith.PORT_UNREACHABLE


class NatFlags(enum.Flag):
    """How a translation picks an address and a port among those that it may use."""

    RANDOM = enum.auto()
    FULLY_RANDOM = enum.auto()
    PERSISTENT = enum.auto()
    NETMAP = enum.auto()  #: the host's bits of the address stay


NO_FLAGS = NatFlags(0)


@dataclass(frozen=True, slots=True)
class Mapped:
    """A new address, a new port or both, out of a map. If the map has no such key the rule ends, and the next one runs."""

    key: tuple[Source, ...]
    map: Set | SetReference
    address: bool = True
    port: bool = False


@dataclass(frozen=True, slots=True)
class Dnat:
    """Destination NAT to an address and a port. None keeps the packet's own. ``mapped`` says both instead.

    With ``last_address`` or ``last_port`` it is one of a range that begins there (K-24.3, K-24.4).
    """

    address: int | None
    port: int | None = None
    flags: NatFlags = NO_FLAGS
    mapped: Mapped | None = None
    last_address: int | None = None
    last_port: int | None = None


@dataclass(frozen=True, slots=True)
class Snat:
    """Source NAT to one address, or with ``last_address`` to one of a range (K-24.3); None keeps the packet's own.

    The new port lies within ``ports``; None: within the class of the old port (K-2.3). ``mapped`` says both instead.
    """

    address: int | None
    ports: Interval | None = None
    flags: NatFlags = NO_FLAGS
    mapped: Mapped | None = None
    last_address: int | None = None


@dataclass(frozen=True, slots=True)
class Masquerade:
    """Source NAT to the outgoing interface's address (K-2.2)."""

    ports: Interval | None = None
    flags: NatFlags = NO_FLAGS


@dataclass(frozen=True, slots=True)
class Redirect:
    """Destination NAT to the machine itself. ``port`` None keeps the packet's port. ``mapped`` says it instead.

    With ``last_port`` it is one of a range that begins with ``port`` (K-24.4).
    """

    port: int | None = None
    flags: NatFlags = NO_FLAGS
    mapped: Mapped | None = None
    last_port: int | None = None


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Does what a verdict map has under the key. If it has nothing the rule ends, and the next one runs."""

    key: tuple[Source, ...]
    map: Set | SetReference


class SetVerb(enum.Enum):
    """What a rule does to the key's element of a set."""

    ADD = "add"  #: an element that is there keeps its time
    UPDATE = "update"  #: an element that is there gets the whole time again
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class UpdateSet:
    """Puts the key into a dynamic set, or takes it out. A full set ends the rule, and the next one runs (K-9.2).

    ``timeout_ns`` None: the time that the set gives its elements. ``each`` are limits that each element has for itself;
    the rule goes on if they hold (K-24.7). ``meter``: the rule itself makes the set, with room for so many elements.
    """

    set: SetReference
    key: tuple[Source, ...]
    verb: SetVerb = SetVerb.ADD
    timeout_ns: int | None = None
    each: tuple[Limit | Quota, ...] = ()
    meter: int | None = None


@dataclass(frozen=True, slots=True)
class Assign:
    """``to`` := (``to`` & ``keep``) ^ (``source`` & ``take``) ^ ``flip``, in 32 bits.

    ``to`` and ``source`` are MARK or CT_MARK. A packet without connection has no CT_MARK; then nothing is changed.
    """

    to: Field
    keep: int
    flip: int = 0
    source: Field | None = None
    take: int = 0


@dataclass(frozen=True, slots=True)
class AssignFrom:
    """``to``, which is MARK or CT_MARK, := what a map has under the key. If it has nothing the rule ends.

    ``map`` None: the key is one number that is drawn or computed, and that number is the mark.
    """

    to: Field
    key: tuple[Source, ...]
    map: Set | SetReference | None = None


@dataclass(frozen=True, slots=True)
class SetTimeToLive:
    """Changes the time to live, and so how far the packet is forwarded. ``action`` is ``set``, ``inc`` or ``dec``."""

    action: str
    value: int


@dataclass(frozen=True, slots=True)
class SetTrafficClass:
    """The traffic class := (traffic class & ``keep``) ^ ``flip``, in 8 bits."""

    keep: int
    flip: int


@dataclass(frozen=True, slots=True)
class NoTrack:
    """Keeps the packet out of connection tracking."""


@dataclass(frozen=True, slots=True)
class Log:
    """Reports the packet to a log and changes nothing. ``target`` and ``arguments`` are the words of the rule."""

    arguments: str = ""
    target: str = "LOG"


@dataclass(frozen=True, slots=True)
class Adjust:
    """Changes something that no rule and no route of the model reads, so it decides no packet's fate.

    ``target`` is its name, such as ``TCPMSS``; ``arguments`` are the words of the rule.
    """

    target: str
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class MapNetwork:
    """Translates an address into another network and keeps its host part: NETMAP.

    In PREROUTING and OUTPUT that is the destination, in INPUT and POSTROUTING the source.
    """

    base: int
    mask: int


@dataclass(frozen=True, slots=True)
class Unmodelled:
    """A target that kpsim does not model, kept on request. It may decide anything, so a packet that meets it ends
    unknown. ``words`` are those of the rule.
    """

    words: str


Statement = (
    Terminal
    | Jump
    | Goto
    | Reject
    | Dnat
    | Snat
    | Masquerade
    | Redirect
    | Dispatch
    | UpdateSet
    | Assign
    | AssignFrom
    | SetTimeToLive
    | SetTrafficClass
    | NoTrack
    | Log
    | Adjust
    | MapNetwork
    | Unmodelled
)

Body = tuple[Expression | Statement, ...]


def target_of(body: Body) -> Statement | None:
    """The statement at the end of a body, or None."""
    last = body[-1] if body else None
    return last if isinstance(last, Statement) else None


def sources_of(part: Expression | Statement) -> tuple[Source, ...]:
    """What a part of a rule takes to look something up in a set or a map; empty if it looks nothing up."""
    match part:
        case Lookup(key) | Dispatch(key) | UpdateSet(_, key) | AssignFrom(_, key):
            return key
        case Dnat(mapped=Mapped(key)) | Snat(mapped=Mapped(key)) | Redirect(mapped=Mapped(key)):
            return key
        case _:
            return ()


def moves_nothing(body: Body) -> bool:
    """Whether it makes no difference to packets if this body matches.

    That is so if the rule only logs or adjusts, and no part of it remembers or counts the packet.
    """
    return isinstance(target_of(body), Log | Adjust) and not any(isinstance(part, Recent | Counter) for part in body)
