"""Finds a key among the elements of a set: exact keys by hash, intervals and beginnings of names by an index.

Counterpart: nft_set_hash, nft_set_rbtree, nft_set_pipapo. A set whose elements are all exact needs nothing but its own
map, so a changed element costs nothing here. Any other set gets an index at its first look-up, which the set's value
keeps: a changed set is another value.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from itertools import compress
from typing import cast

from kpsim.ruleset import Atom, Element, Interval, Key, NamePattern, Part, Set, is_for_the_rest

Atoms = tuple[Atom, ...]  #: what a packet has in the place of a key
Found = tuple[Key, Element]
Find = Callable[[Atoms], Found | None]


def finder(of: Set) -> Find:
    """A function that returns the element that a key belongs to, with the element's own key; None: there is none.

    If several elements of a concatenation fit, it is always the same one.
    """
    if of.compiled is None:
        object.__setattr__(of, "compiled", _with_rest(of))
    return cast("Find", of.compiled)


def find(of: Set, key: Atoms) -> Found | None:
    """The element of a set that a key belongs to, as :func:`finder` says."""
    return finder(of)(key)


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


def _fits(atom: Atom, part: Part) -> bool:
    if isinstance(part, tuple):
        return part[0] <= cast("int", atom) <= part[1]
    if isinstance(part, NamePattern):
        return cast("str", atom).startswith(part.prefix)
    return atom == part
