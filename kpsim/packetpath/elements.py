"""Finds a key among the elements of a set: exact keys by hash, intervals and beginnings of names by an index.

Counterpart: nft_set_hash, nft_set_rbtree, nft_set_pipapo. A set whose elements are all exact needs nothing but its own
map, so a changed element costs nothing here. Any other set gets an index at its first look-up, which the set's value
keeps: a changed set is another value.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import cast

from kpsim.ruleset import Atom, Element, Interval, Key, NamePattern, Part, Set

Atoms = tuple[Atom, ...]  #: what a packet has in the place of a key
Found = tuple[Key, Element]
Find = Callable[[Atoms], Found | None]


def finder(of: Set) -> Find:
    """A function that returns the element that a key belongs to, with the element's own key; None: there is none.

    If several elements of a concatenation fit, the first one counts, in the order of their keys.
    """
    elements = of.elements
    if of.is_exact:
        return _exact(of)
    if of.compiled is None:
        exact = not any(isinstance(part, tuple | NamePattern) for key in elements for part in key)
        find = _exact(of) if exact else _ordered(elements.items()) or _grouped(elements.items())
        object.__setattr__(of, "compiled", find)
    return cast("Find", of.compiled)


def find(of: Set, key: Atoms) -> Found | None:
    """The element of a set that a key belongs to, as :func:`finder` says."""
    if of.is_exact:
        element = of.elements.get(key)
        return None if element is None else (key, element)
    return finder(of)(key)


def _exact(of: Set) -> Find:
    elements = of.elements

    def found(key: Atoms) -> Found | None:
        element = elements.get(key)
        return None if element is None else (key, element)

    return found


def _ordered(elements: Iterable[Found]) -> Find | None:
    """The look-up in a set of numbers and intervals of one field, by bisection; None for other sets."""
    rows: list[tuple[int, int, Found]] = []
    for key, element in elements:
        ends = _ends(key[0]) if len(key) == 1 else None
        if ends is None:
            return None
        rows.append((*ends, (key, element)))
    rows.sort(key=lambda row: row[:2])
    lows = [low for low, _, _ in rows]

    def found(key: Atoms) -> Found | None:
        number = cast("int", key[0])
        at = bisect_right(lows, number) - 1
        if at < 0 or number > rows[at][1]:
            return None
        return rows[at][2]

    # intervals of one field never overlap: the kernel refuses them, and nft merges those that may be merged
    return found


def _grouped(elements: Iterable[Found]) -> Find:
    """The look-up in any other set: by the exact parts of the elements first, then one by one."""
    shapes: dict[tuple[bool, ...], dict[Atoms, list[Found]]] = {}
    for key, element in sorted(elements, key=lambda found: [_order(part) for part in found[0]]):
        shape = tuple([not isinstance(part, tuple | NamePattern) for part in key])
        exact = cast("Atoms", tuple([part for part, known in zip(key, shape, strict=True) if known]))
        shapes.setdefault(shape, {}).setdefault(exact, []).append((key, element))
    by_shape = list(shapes.items())

    def found(key: Atoms) -> Found | None:
        fitting: list[Found] = []
        for shape, groups in by_shape:
            exact = tuple([atom for atom, known in zip(key, shape, strict=True) if known])
            fitting += [found for found in groups.get(exact, ()) if _fits(key, found[0])][:1]
        return min(fitting, key=lambda found: [_order(part) for part in found[0]], default=None)

    return found


def _fits(key: Atoms, element: Key) -> bool:
    return all(map(_fits_part, key, element))


def _fits_part(atom: Atom, part: Part) -> bool:
    if isinstance(part, tuple):
        return part[0] <= cast("int", atom) <= part[1]
    if isinstance(part, NamePattern):
        return cast("str", atom).startswith(part.prefix)
    return atom == part


def _ends(part: Part) -> Interval | None:
    if isinstance(part, int):
        return part, part
    return part if isinstance(part, tuple) else None


def _order(part: Part) -> tuple[int, int, int, str]:
    """Numbers by their ends, then names, then beginnings of names, the longest first."""
    match part:
        case int():
            return 0, part, part, ""
        case (low, high):
            return 0, low, high, ""
        case NamePattern(prefix):
            return 2, -len(prefix), 0, prefix
        case str():
            return 1, 0, 0, part
        case _:
            raise TypeError(f"no part of an element: {part!r}")
