"""Sets and maps: a rule looks up a packet's fields, and a map gives a value back.

A set is a value: its elements are those that a tool wrote. What packets put into a set is memory
(``packetpath.memory``), not part of it.
"""

import enum
from dataclasses import field
from functools import cached_property
from typing import Any

from kpsim.addresses import Family
from kpsim.maps import Map
from kpsim.ruleset.origin import FOREIGN, Origin
from kpsim.ruleset.verdicts import Goto, Jump, Terminal
from kpsim.valueclass import dataclass

Interval = tuple[int, int]  #: first and last value, both included
Atom = int | str  #: addresses, ports, types and marks are integers, the rest are names


@dataclass(frozen=True, slots=True)
class NamePattern:
    """Names that begin with ``prefix``, as in ``cali*``.

    An empty prefix stands for any name, the empty name included.
    """

    prefix: str


Part = Atom | Interval | NamePattern  #: what an element says of one field
Key = tuple[Part, ...]  #: one part for each field of a key


def is_for_the_rest(key: Key) -> bool:
    """Whether an element is for all keys that no other element has: nft's ``*``. All its parts are any name."""
    return all(isinstance(part, NamePattern) and not part.prefix for part in key)


class DataType(enum.Enum):
    """What one field of a key, or of a map's value, is. The value is its name in texts for people."""

    IPV4_ADDRESS = "IPv4 address"
    IPV6_ADDRESS = "IPv6 address"
    PROTOCOL = "protocol"
    PORT = "port"
    INTERFACE = "interface"
    MARK = "mark"
    NUMBER = "number"
    NAME = "name"  #: one of a fixed list of words, such as conntrack states and address types
    VERDICT = "verdict"


@dataclass(frozen=True, slots=True)
class SetType:
    """The types of a key's fields and of a map's values."""

    key: tuple[DataType, ...]
    data: tuple[DataType, ...] | None = None  #: None: a set; ``(VERDICT,)``: a verdict map
    words: str = field(default="", compare=False)  #: how the tool names them, if that says more


class SetFlags(enum.Flag):
    """What elements a set may have, and who may add them."""

    CONSTANT = enum.auto()  #: no element is added or deleted after the set was made
    INTERVAL = enum.auto()  #: elements may be intervals
    TIMEOUT = enum.auto()  #: elements may expire
    DYNAMIC = enum.auto()  #: rules add elements


NO_SET_FLAGS = SetFlags(0)


@dataclass(frozen=True, slots=True)
class Element:
    """What a set knows of one key. ``value`` is a map's: a verdict, or one atom for each field of the data."""

    value: Terminal | Jump | Goto | tuple[Part, ...] | None = None
    comment: str = ""
    timeout_ns: int | None = None
    origin: Origin = field(default=FOREIGN, compare=False)
    nomatch: bool = False  #: of an ipset with networks: an exception from a wider network


PLAIN = Element()  #: of a set without values


@dataclass(frozen=True, slots=True)
class Ipset:
    """What an ipset has beyond other sets: what ``ipset create`` says of it."""

    kind: str  #: its type, such as ``hash:ip,port``
    family: Family | None = None  #: None: sets of this type have none
    hash_size: int | None = None
    bucket_size: int | None = None
    bounds: Interval | None = None  #: of a bitmap: the first and the last value
    mask: int | None = None  #: the bits of addresses that count; None: all
    mark_mask: int | None = None
    counters: bool = False  #: elements count packets
    comments: bool = False  #: elements may have a comment
    skbinfo: bool = False  #: elements may say a mark, a priority and a queue, which no match reads
    forceadd: bool = False  #: an element that is added to a full set takes the place of another


@dataclass(frozen=True)
class Set:
    """A set or a map: immutable. One that is written in a rule has no name; its elements keep the order of the rule.

    ``generation`` tells a set from one of the same name that was deleted: what packets put into that one is gone.
    """

    elements: Map[Key, Element] = Map()
    name: str = ""
    type: SetType | None = None  #: None: written in a rule, so it follows from the key
    flags: SetFlags = NO_SET_FLAGS
    timeout_ns: int | None = None
    gc_ns: int | None = None
    size: int | None = None
    comment: str = ""
    auto_merge: bool = False
    policy: str = ""
    generation: int = field(default=0, compare=False)
    #: what packets had put in when a tool listed the set, and the nanoseconds until each expires; None: never
    members: tuple[tuple[tuple[Atom, ...], int | None], ...] = field(default=(), compare=False)
    ipset: Ipset | None = None  #: None: a set of nftables
    #: a cache for the code that looks keys up (``packetpath.elements``); it depends on the elements only
    compiled: Any = field(default=None, init=False, compare=False, repr=False)

    @classmethod
    def of(cls, *keys: Key) -> "Set":
        """A set without name that has these keys."""
        return cls(Map(dict.fromkeys(keys, PLAIN)))

    @cached_property
    def remembers(self) -> bool:
        """Whether packets, or time, change what the set holds."""
        return bool(self.flags & (SetFlags.DYNAMIC | SetFlags.TIMEOUT))

    @cached_property
    def is_exact(self) -> bool:
        """Whether it has no intervals for certain, because a named set would have to say so."""
        return bool(self.name) and not self.flags & SetFlags.INTERVAL

    @property
    def is_map(self) -> bool:
        """Whether elements have values. An unnamed set without elements is no map."""
        if self.type is not None:
            return self.type.data is not None
        return any(element.value is not None for element in self.elements.values())


@dataclass(frozen=True, slots=True)
class SetReference:
    """Names a set: of the table that the rule stands in or, with ``of_namespace``, an ipset, which any table may name."""

    name: str
    of_namespace: bool = False
