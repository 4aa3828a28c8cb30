"""Expressions: the conditions of a rule. Most compare a field with values or with a set; ten do something of their own.

If a packet lacks the field (an ICMP packet has no port, a packet without connection has no connection mark), the
comparison is false, even if it is negated; ``absent`` changes that. ``packetpath.matching`` says what an
expression means, and ``dialects`` how it is spelled.
"""

from collections.abc import Iterable

from kpsim.addresses import Network
from kpsim.ruleset.fields import Field, slot_setters
from kpsim.ruleset.sets import Interval, NamePattern, Set, SetReference
from kpsim.valueclass import dataclass

Intervals = tuple[Interval, ...]  #: sorted, and with a gap between any two


Values = Intervals | frozenset[str] | NamePattern


@dataclass(frozen=True, slots=True, init=False)
class Compare:
    """True if the field is among the values.

    Numbers are masked first: ``field & mask``. A field with several names is true if one of its names is among them.
    """

    field: Field
    among: Values
    negate: bool = False
    mask: int | None = None  #: None: all bits
    absent: bool = False  #: the result for a packet that lacks the field

    def __init__(
        self, field: Field, among: Values, negate: bool = False, mask: int | None = None, absent: bool = False
    ) -> None:
        # written by hand because it is called as often as that of Rule
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
class Masked:
    """Some bits of a field: ``field & mask``, shifted right by ``shift``."""

    field: Field
    mask: int
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Numgen:
    """A number in [offset, offset + modulus): drawn or, if not ``random``, the next one of a counter."""

    modulus: int
    offset: int = 0
    random: bool = True


@dataclass(frozen=True, slots=True)
class Hashed:
    """A number in [offset, offset + modulus) that is a function of some fields and of a seed.

    ``seed`` None: the kernel drew it when the rule was loaded, so the number is not known.
    """

    key: tuple[Field, ...]
    modulus: int
    offset: int = 0
    seed: int | None = None


Source = Field | Masked | Numgen | Hashed  #: what can be looked up


@dataclass(frozen=True, slots=True)
class Lookup:
    """True if the sources, taken together, are an element of the set."""

    key: tuple[Source, ...]
    set: Set | SetReference
    negate: bool = False
    absent: bool = False  #: the result for a packet that lacks one of the sources


@dataclass(frozen=True, slots=True)
class EitherPort:
    """True if the source port or the destination port is among the values."""

    among: Intervals
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Recent:
    """Looks the source address up in a named list, or changes the list (K-4).

    ``action`` is ``set``, ``rcheck``, ``update`` or ``remove``.
    """

    name: str
    action: str
    seconds: int | None = None
    reap: bool = False
    hitcount: int | None = None
    negate: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """True while the bucket has a token. ``count`` tokens a ``unit`` flow in, up to ``burst``. A packet costs one token.

    With ``bytes`` it costs as many as it has bytes, and the bucket has room for ``count`` and ``burst`` (K-24.5).

    With ``over`` it is true while the bucket has none. A limit with a name is one bucket for all rules of its table that
    name it, else each rule has its own.
    """

    count: int
    unit: str  #: ``sec``, ``min``, ``hour``, ``day``, ``week``
    burst: int = 5
    over: bool = False
    name: str = ""
    bytes: bool = False


@dataclass(frozen=True, slots=True)
class Quota:
    """True while the packets that met it have ``size`` bytes at most, ``used`` before the first included (K-24.6).

    With ``over`` it is true once they have more. A quota with a name is one for all rules of its table that name it.
    """

    size: int
    over: bool = False
    used: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Chance:
    """True if 31 random bits are below ``threshold``, a probability times 2³¹, rounded (K-5)."""

    threshold: int


@dataclass(frozen=True, slots=True)
class ReversePath:
    """True if an answer would leave by the interface that the packet came in by; if ``loose``, by any interface.

    With ``valid_mark`` the look-up takes the packet's mark into account. No route of the model depends on a mark.
    """

    loose: bool = False
    valid_mark: bool = False
    accept_local: bool = False
    invert: bool = False


@dataclass(frozen=True, slots=True)
class RoutingHeader:
    """True for IPv6 packets with a routing header as ``arguments`` describe it. No packet of the model has one."""

    arguments: str


@dataclass(frozen=True, slots=True)
class BridgePort:
    """True if the packet came in (``side`` ``in``) by a port of a bridge, or will leave (``out``) by one (K-20.2).

    With ``name``, only if the port has that name. A packet that no bridge handed to netfilter makes it ``negate``.
    """

    side: str
    name: str | NamePattern | None = None
    negate: bool = False


@dataclass(frozen=True, slots=True)
class LocalSocket:
    """True if this node has a socket that would receive the packet (K-20.3). ``arguments`` are the words of the rule."""

    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts the packet under a name. Always true."""

    name: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Words of a foreign rule that kpsim does not model. They are kept on request and are neither true nor false."""

    words: str


Special = (
    EitherPort
    | Recent
    | Limit
    | Quota
    | Chance
    | ReversePath
    | RoutingHeader
    | BridgePort
    | LocalSocket
    | Counter
    | Unknown
)
Expression = Compare | Lookup | Special


def among(ranges: Iterable[Interval]) -> Intervals:
    """The numbers of these ranges as sorted intervals with a gap between any two."""
    merged: list[Interval] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return tuple(merged)


def equal(field: Field, value: int, *, negate: bool = False, mask: int | None = None) -> Compare:
    """A comparison that is true if the field has this value. ``mask`` selects the bits that are compared."""
    return Compare(field, ((value, value),), negate, mask)


def named(field: Field, *names: str, negate: bool = False) -> Compare:
    """A comparison that is true if the field is one of these names."""
    return Compare(field, frozenset(names), negate)


def within(field: Field, network: Network, *, negate: bool = False) -> Compare:
    """A comparison that is true if the address lies in the network."""
    mask = None if network.prefix == network.family.bits else network.mask
    return Compare(field, ((network.base, network.base),), negate, mask)


def within_any(field: Field, networks: Iterable[Network], *, negate: bool = False) -> Compare:
    """A comparison that is true if the address lies in one of the networks, of which there is at least one.

    The value depends on the addresses alone: networks that touch or overlap are one.
    """
    several = tuple(networks)
    family = several[0].family
    ranges = among((network.base, network.last) for network in several)
    if len(ranges) == 1:
        low, high = ranges[0]
        size = high - low + 1
        if size & (size - 1) == 0 and low % size == 0:
            return within(field, Network(family, low, family.bits - size.bit_length() + 1), negate=negate)
    return Compare(field, ranges, negate)
