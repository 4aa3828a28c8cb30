"""What a chain may ask of one end of a packet's way: which addresses and ports it compares, and in which sets it looks.

Packets that differ only in their client's address and port take the same way through chains whose comparisons they
answer alike. A chain that counts, remembers, computes with ports, or translates to ranges has no such answer.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.packetpath.index import compiled
from kpsim.packetpath.routing import Routing
from kpsim.ruleset import (
    NO_FLAGS,
    Adjust,
    Assign,
    Chain,
    Chance,
    Compare,
    Counter,
    Dispatch,
    Dnat,
    Element,
    Expression,
    Field,
    Goto,
    Jump,
    Key,
    Log,
    Lookup,
    Mapped,
    Masked,
    Masquerade,
    NatFlags,
    Numgen,
    Redirect,
    Reject,
    RoutingHeader,
    Set,
    SetReference,
    Source,
    Statement,
    Terminal,
)

_EVERY_BIT = (1 << 128) - 1
_RANDOM = NatFlags.RANDOM | NatFlags.FULLY_RANDOM
_OF_SETS = frozenset({Field.SPORT_OR_TYPE, Field.DPORT_OR_TYPE, Field.SPORT_OF_BITMAP, Field.DPORT_OF_BITMAP})

Test = tuple[int, int, int]  #: whether an address, under a mask, lies between two numbers


class AskedSet(NamedTuple):
    """A set that is asked by its name. The elements of another version may answer otherwise."""

    name: str
    place: int  #: of the end's address in the key; −1: it has none
    addresses: tuple[int, ...]  #: the places of all addresses in the key
    key: tuple[Source, ...]  #: it may hold the end's port


@dataclass(frozen=True, slots=True)
class Asked:
    """What rules ask of an end. ``ports`` are compared for equality, of ``ranges`` only whether a port lies within."""

    addresses: frozenset[Test] = frozenset()
    ports: frozenset[int] = frozenset()
    ranges: frozenset[tuple[int, int]] = frozenset()
    sets: frozenset["AskedSet"] = frozenset()  #: of the table
    keeps: bool = False  #: a translated source may keep the port of an earlier connection (K-2.3)

    @classmethod
    def union(cls, every: Iterable["Asked"]) -> "Asked":
        """All that several rules or chains ask."""
        several = [each for each in every if each is not NOTHING]
        return cls(
            frozenset().union(*[each.addresses for each in several]), frozenset().union(*[each.ports for each in several]),
            frozenset().union(*[each.ranges for each in several]), frozenset().union(*[each.sets for each in several]),
            any(each.keeps for each in several),
        )  # fmt: skip


NOTHING = Asked()


class _Otherwise(Exception):
    """A part of a rule asks, remembers or does what this module does not know."""


def asked(chain: Chain, *, of_source: bool) -> Asked | None:
    """What the chain's own rules ask of a packet's source, else of its destination. None: it cannot be said."""
    known: dict[Hashable, Asked | None] = compiled(chain).known
    side = "source" if of_source else "destination"
    if side not in known:
        try:
            known[side] = Asked.union(_of_part(part, of_source) for rule in chain.rules for part in rule.body)
        except _Otherwise:
            known[side] = None
    return known[side]


def _of_part(part: Expression | Statement, of_source: bool) -> Asked:
    match part:
        case Compare():
            return _of_comparison(part, of_source)
        case Lookup(key, of):
            return _of_set(key, of, of_source)
        case Dispatch(key, of):
            return _of_set(key, of, of_source)
        case Chance() | Counter() | RoutingHeader() | Terminal() | Jump() | Goto() | Reject():
            return NOTHING
        case Log() | Adjust() | Assign():
            return NOTHING
        case Dnat(flags=flags, mapped=None, last_address=None, last_port=None) if flags == NO_FLAGS:
            return NOTHING
        case Dnat(flags=flags, mapped=Mapped(key, Set() as of), last_address=None, last_port=None) if flags == NO_FLAGS:
            if not all(map(_is_one_place, of.elements.values())):
                raise _Otherwise  # of a range the kernel takes what is free
            return _of_set(key, of, of_source)
        case Redirect(flags=flags, mapped=None, last_port=None) if flags == NO_FLAGS:
            return NOTHING
        case Masquerade(ports=None, flags=flags):
            return NOTHING if flags & _RANDOM else Asked(keeps=True)
        case _:
            raise _Otherwise


def _is_one_place(element: Element) -> bool:
    value = element.value
    return isinstance(value, tuple) and all(isinstance(part, int) for part in value)


def _of_comparison(compare: Compare, of_source: bool) -> Asked:
    address, port = (Field.SADDR, Field.SPORT) if of_source else (Field.DADDR, Field.DPORT)
    if compare.field in _OF_SETS:
        raise _Otherwise
    if compare.field not in (address, port):
        return NOTHING
    if not isinstance(compare.among, tuple):
        raise _Otherwise
    if compare.field is address:
        mask = _EVERY_BIT if compare.mask is None else compare.mask
        return Asked(addresses=frozenset((mask, low, high) for low, high in compare.among))
    if compare.mask is not None:
        raise _Otherwise
    return Asked(
        ports=frozenset(low for low, high in compare.among if low == high),
        ranges=frozenset((low, high) for low, high in compare.among if low != high),
    )


def _of_set(key: tuple[Source, ...], of: Set | SetReference, of_source: bool) -> Asked:
    address, port = (Field.SADDR, Field.SPORT) if of_source else (Field.DADDR, Field.DPORT)
    fields: list[Field] = []
    for source in key:
        match source:
            case Field():
                fields.append(source)
            case Masked(name):
                fields.append(name)
            case Numgen(random=True):
                pass
            case _:
                raise _Otherwise
    if not _OF_SETS.isdisjoint(fields):
        raise _Otherwise
    if fields.count(address) > 1 or Masked in map(type, key):
        raise _Otherwise
    place = key.index(address) if address in fields else -1
    if isinstance(of, SetReference):
        if of.of_namespace:
            raise _Otherwise
        addresses = tuple(at for at, name in enumerate(key) if name in (Field.SADDR, Field.DADDR))
        return Asked(sets=frozenset({AskedSet(of.name, place, addresses, key)}))
    if port in fields:
        raise _Otherwise
    tests = asked_by_elements(of, place)
    if tests is None:
        raise _Otherwise
    return Asked(addresses=tests)


def asked_by_elements(of: Set, place: int) -> frozenset[Test] | None:
    """What a look-up asks of an address that stands at this place of the key; None: the set has a memory of its own."""
    if of.remembers or of.ipset is not None:
        return None
    if place < 0:
        return frozenset()
    parts = {key[place] for key in of.elements}
    if not all(isinstance(part, int | tuple) for part in parts):
        return None
    ends = [part if isinstance(part, tuple) else (part, part) for part in parts if isinstance(part, int | tuple)]
    return frozenset((_EVERY_BIT, low, high) for low, high in ends)


def changed_keys(before: Set, after: Set) -> frozenset[Key] | None:
    """The keys of which two versions of a set know something else. None: they are different sets."""
    if replace(before, elements=after.elements) != after or before.generation != after.generation:
        return None
    old, new = before.elements, after.elements
    gone = {key for key in old if key not in new}
    return frozenset(
        gone.union(key for key, element in new.items() if (was := old.get(key)) is not element and was != element)
    )


@dataclass(slots=True)
class Likeness:
    """Which addresses answer alike all that was asked so far."""

    _tests: dict[Test, int] = field(default_factory=dict)
    _by_mask: dict[int, dict[int, int]] = field(default_factory=dict)  #: mask → value → number of the test
    _between: list[tuple[Test, int]] = field(default_factory=list)
    _groups: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)

    def ask(self, test: Test) -> None:
        """From now on tells addresses apart by this test, too."""
        if test in self._tests:
            return
        number = self._tests[test] = len(self._tests)
        mask, low, high = test
        if low == high:
            self._by_mask.setdefault(mask, {})[low] = number
        else:
            self._between.append((test, number))

    def ask_routing(self, family: Family, routing: Routing, seen: set[int]) -> None:
        """Tells addresses apart by all networks and addresses that a node knows: so its routes treat a group alike.

        ``seen`` are routes by identity that were asked already: those to other nodes' pods are shared by all nodes.
        """
        every = (1 << family.bits) - 1
        for interface in routing.interfaces.values():
            for own in interface.of(family):
                for test in ((every, own.value), (every, own.network.last), (own.network.mask, own.network.base)):
                    self.ask((*test, test[1]))
        for route in routing.routes:
            if route.network.family is family and id(route) not in seen:
                seen.add(id(route))
                self.ask((route.network.mask, route.network.base, route.network.base))

    def group(self, address: int) -> tuple[int, ...]:
        """The numbers of the tests that hold for an address: equal for addresses that are alike."""
        known = self._groups.get(address)
        if known is not None and known[0] == len(self._tests):
            return known[1]
        found = [values[at] for mask, values in self._by_mask.items() if (at := address & mask) in values]
        found += [number for (mask, low, high), number in self._between if low <= address & mask <= high]
        self._groups[address] = len(self._tests), tuple(found)
        return self._groups[address][1]
