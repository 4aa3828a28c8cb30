"""Expressions: the conditions of a rule. Most compare a field with values; eight do something of their own.

A packet that lacks a field (a port of an ICMP packet, the mark of no connection) makes a comparison false, also a negated
one. What an expression means is ``packetpath.matching``'s, how it is spelled is the dialects'.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from kpsim.addresses import Network
from kpsim.ruleset.fields import Field, slot_setters
from kpsim.ruleset.sets import Set

Interval = tuple[int, int]  #: first and last value, both included
Intervals = tuple[Interval, ...]  #: sorted, and with a gap between any two


@dataclass(frozen=True, slots=True)
class NamePattern:
    """Names that begin with ``prefix``: ``cali*``. An empty prefix is any name, the empty one too."""

    prefix: str


Values = Intervals | frozenset[str] | NamePattern


@dataclass(frozen=True, slots=True, init=False)
class Compare:
    """True if the field is among the values: ``(field & mask)`` for numbers, one name in common for a field of several."""

    field: Field
    among: Values
    negate: bool = False
    mask: int | None = None  #: None: all bits
    absent: bool = False  #: what a packet makes of it that lacks the field

    def __init__(
        self, field: Field, among: Values, negate: bool = False, mask: int | None = None, absent: bool = False
    ) -> None:
        # see Rule: there are about as many
        _set_field(self, field)
        _set_among(self, among)
        _set_negate(self, negate)
        _set_mask(self, mask)
        _set_absent(self, absent)

    @property
    def value(self) -> int | None:
        """The one number that it compares with; None if there are several or it compares names."""
        among = self.among
        if isinstance(among, tuple) and len(among) == 1 and among[0][0] == among[0][1]:
            return among[0][0]
        return None

    @property
    def name(self) -> str | None:
        """The one name that it compares with; None if there are several or it compares numbers."""
        return next(iter(self.among)) if isinstance(self.among, frozenset) and len(self.among) == 1 else None


_set_field, _set_among, _set_negate, _set_mask, _set_absent = slot_setters(Compare)


@dataclass(frozen=True, slots=True)
class Lookup:
    """True if the fields, taken together, are an element of the set."""

    key: tuple[Field, ...]
    set: Set
    negate: bool = False


@dataclass(frozen=True, slots=True)
class EitherPort:
    """True if the source port or the destination port is among the values."""

    among: Intervals
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Recent:
    """Asks, or tells, a list of source addresses (K-4); ``action`` is ``set``, ``rcheck``, ``update`` or ``remove``."""

    name: str
    action: str
    seconds: int | None = None
    reap: bool = False
    hitcount: int | None = None
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """True while the rule's bucket has a token. ``count`` tokens a ``unit`` flow in, up to ``burst``."""

    count: int
    unit: str  #: ``sec``, ``min``, ``hour``, ``day``
    burst: int = 5


@dataclass(frozen=True, slots=True)
class Chance:
    """True if 31 random bits are below ``threshold``, a probability times 2³¹, rounded (K-5)."""

    threshold: int


@dataclass(frozen=True, slots=True)
class ReversePath:
    """True if an answer would leave by the interface that the packet came by, or, if ``loose``, by any.

    ``valid_mark`` makes the look-up regard the packet's mark. No route of the model depends on a mark.
    """

    loose: bool = False
    valid_mark: bool = False
    accept_local: bool = False
    invert: bool = False


@dataclass(frozen=True, slots=True)
class RoutingHeader:
    """True for IPv6 packets with a routing header that ``arguments`` describe. No packet of the model has one."""

    arguments: str


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts the packet under a name, and is true."""

    name: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Words of a foreign rule that are not modelled, kept on request: neither true nor false."""

    words: str


Special = EitherPort | Recent | Limit | Chance | ReversePath | RoutingHeader | Counter | Unknown
Expression = Compare | Lookup | Special


def among(ranges: Iterable[Interval]) -> Intervals:
    """The numbers of some ranges as sorted intervals with gaps between them."""
    merged: list[Interval] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return tuple(merged)


def equal(field: Field, value: int, *, negate: bool = False, mask: int | None = None) -> Compare:
    """The field, as far as the mask shows it, has this value."""
    return Compare(field, ((value, value),), negate, mask)


def named(field: Field, *names: str, negate: bool = False) -> Compare:
    """The field is one of these names."""
    return Compare(field, frozenset(names), negate)


def within(field: Field, network: Network, *, negate: bool = False) -> Compare:
    """The address lies in the network."""
    mask = None if network.prefix == network.family.bits else network.mask
    return Compare(field, ((network.base, network.base),), negate, mask)
