"""Finds a key among the elements of a set: exact keys by hash, intervals and beginnings of names by an index.

Counterpart: nft_set_hash, nft_set_rbtree, nft_set_pipapo. A set whose elements are all exact needs nothing but its own
map, so a changed element costs nothing here. Any other set gets an index at its first look-up, which the set's value
keeps: a changed set is another value.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import compress
from typing import cast

from kpsim.ruleset import Atom, Element, Interval, Key, NamePattern, Part, Set, SetFlags, is_for_the_rest

Atoms = tuple[Atom, ...]  #: what a packet has in the place of a key
Found = tuple[Key, Element]
Find = Callable[[Atoms], Found | None]


def finder(of: Set) -> Find:
    """A function that returns the element that a key belongs to, with the element's own key; None: there is none.

    If several elements of a concatenation fit, it is always the same one.
    """
    if of.compiled is None:
        object.__setattr__(of, "compiled", _made(of))
    return cast("Find", of.compiled)


def find(of: Set, key: Atoms) -> Found | None:
    """The element of a set that a key belongs to, as :func:`finder` says."""
    return finder(of)(key)


def _made(of: Set) -> Find:
    if of.ipset is not None:
        return _Networks(of) if SetFlags.INTERVAL in of.flags else _exact(of)
    return _with_rest(of)


def _with_rest(of: Set) -> Find:
    """The look-up; the element for the rest decides where no other does. Counterpart: nft_set_catchall_lookup"""
    at: Key | None = (NamePattern(""),) * len(of.type.key) if of.type is not None else None
    if at is None:
        at = next(filter(is_for_the_rest, of.elements), None)
    if at is None or (element := of.elements.get(at)) is None:
        return _listed(of)
    rest, listed = (at, element), _listed(replace(of, elements=of.elements.delete(at)))
    return lambda key: listed(key) or rest


def _listed(of: Set) -> Find:
    exact = of.is_exact or not any(isinstance(part, tuple | NamePattern) for key in of.elements for part in key)
    return _exact(of) if exact else _ordered(of) or _grouped(of)


def _exact(of: Set) -> Find:
    elements = of.elements

    def found(key: Atoms) -> Found | None:
        element = elements.get(key)
        return None if element is None else (key, element)

    return found


def _ordered(of: Set) -> Find | None:
    """The look-up in a set of numbers and intervals of one field, by bisection; None for other sets.

    Such intervals never overlap: the kernel refuses them, and nft merges those that may be merged.
    """
    rows: list[tuple[Interval, Found]] = []
    for key, element in of.elements.items():
        part = key[0]
        if len(key) > 1 or not isinstance(part, int | tuple):
            return None
        rows.append((part if isinstance(part, tuple) else (part, part), (key, element)))
    rows.sort(key=lambda row: row[0])
    lows = [low for (low, _), _ in rows]

    def found(key: Atoms) -> Found | None:
        number = cast("int", key[0])
        at = bisect_right(lows, number) - 1
        return rows[at][1] if at >= 0 and number <= rows[at][0][1] else None

    return found


def _grouped(of: Set) -> Find:
    """The look-up in any other set: by the exact parts of the elements first, then one by one."""
    shapes: dict[tuple[bool, ...], dict[Atoms, list[Found]]] = {}
    for key, element in sorted(of.elements.items(), key=lambda found: repr(found[0])):
        shape = tuple([not isinstance(part, tuple | NamePattern) for part in key])
        exact = cast("Atoms", tuple(compress(key, shape)))
        shapes.setdefault(shape, {}).setdefault(exact, []).append((key, element))

    def found(key: Atoms) -> Found | None:
        for shape, groups in shapes.items():
            for each in groups.get(tuple(compress(key, shape)), ()):
                if all(map(_fits, key, each[0])):
                    return each
        return None

    return found


class _Networks:
    """The look-up in an ipset with networks. Counterpart: the tests of ip_set_hash_gen.h

    Narrower networks come before wider ones, those of the first part of a key before those of the next. With interfaces
    only the narrowest network counts, even if all its interfaces are others (measured).
    """

    def __init__(self, of: Set) -> None:
        self._by_interface = of.ipset is not None and of.ipset.kind == "hash:net,iface"
        shapes: dict[tuple[int, ...], dict[Atoms, list[Found]]] = {}
        for key, element in sorted(of.elements.items(), key=lambda found: repr(found[0])):
            shape = (_width(key[0]), 0) if self._by_interface else tuple(map(_width, key))
            base = tuple([part[0] if isinstance(part, tuple) else part for part in compress(key, shape)])
            shapes.setdefault(shape, {}).setdefault(cast("Atoms", base), []).append((key, element))
        self._shapes = sorted(shapes.items())

    def fitting(self, key: Atoms) -> Iterator[Found]:
        """The elements that a key belongs to, in the order in which the kernel tries them."""
        for shape, groups in self._shapes:
            at = tuple([_first(atom, width) for atom, width in zip(key, shape, strict=False) if width])
            here = groups.get(at, ())
            yield from (each for each in here if all(map(_fits, key, each[0])))
            if here and self._by_interface:
                return

    def __call__(self, key: Atoms) -> Found | None:
        """The first element that fits, unless it is an exception."""
        found = next(self.fitting(key), None)
        return None if found is None or found[1].nomatch else found


def fitting(of: Set, key: Atoms) -> Iterator[Found]:
    """The elements of a set that a key belongs to; the first that still lives decides."""
    look = finder(of)
    if isinstance(look, _Networks):
        yield from look.fitting(key)
    elif (found := look(key)) is not None:
        yield found


def _width(part: Part) -> int:
    """How many values a part of a key has; 0: names that begin alike."""
    if isinstance(part, NamePattern):
        return 0
    return part[1] - part[0] + 1 if isinstance(part, tuple) else 1


def _first(atom: Atom, width: int) -> Atom:
    """The first address of the network of that width that an address lies in."""
    return atom if width == 1 else cast("int", atom) & -width


def _fits(atom: Atom, part: Part) -> bool:
    if isinstance(part, tuple):
        return part[0] <= cast("int", atom) <= part[1]
    if isinstance(part, NamePattern):
        return cast("str", atom).startswith(part.prefix)
    return atom == part
