"""Sets of numbers as sorted intervals, and partitions of all numbers of an axis into named classes."""

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Sequence

from kpsim.addresses import Family, Network

Values = tuple[tuple[int, int], ...]  #: sorted closed intervals that do not overlap
Name = Hashable  #: of a class
_TOP = (1 << 128) - 1


def only(value: int) -> Values:
    """The set of one number."""
    return ((value, value),)


def is_one(values: Values) -> bool:
    """Whether the set has exactly one number."""
    return len(values) == 1 and values[0][0] == values[0][1]


def holds(values: Values, value: int) -> bool:
    """Whether the number is in the set."""
    at = bisect_right(values, (value, float("inf"))) - 1
    return at >= 0 and value <= values[at][1]


def meet(a: Values, b: Values) -> Values:
    """The numbers that are in both sets."""
    if a is b:
        return a
    if len(a) == 1 and a[0][0] == a[0][1]:
        return a if holds(b, a[0][0]) else ()
    if len(b) == 1 and b[0][0] == b[0][1]:
        return b if holds(a, b[0][0]) else ()
    found, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        low, high = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if low <= high:
            found.append((low, high))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def without(values: Values, gone: int) -> Values:
    """The set without one number."""
    at = bisect_right(values, (gone, float("inf"))) - 1
    if at < 0 or gone > values[at][1]:
        return values
    low, high = values[at]
    parts = [(low, gone - 1)] if low < gone else []
    parts += [(gone + 1, high)] if gone < high else []
    return (*values[:at], *parts, *values[at + 1 :])


def lacking(values: Values, gone: Values) -> Values:
    """The numbers of a set that are not in another."""
    found: list[tuple[int, int]] = []
    at = 0
    for low, high in values:
        while at < len(gone) and gone[at][1] < low:
            at += 1
        here = at
        while here < len(gone) and gone[here][0] <= high:
            if low < gone[here][0]:
                found.append((low, gone[here][0] - 1))
            low = gone[here][1] + 1
            here += 1
        if low <= high:
            found.append((low, high))
    return tuple(found)


def unite(sets: Iterable[Values]) -> Values:
    """The numbers that are in any of the sets."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(interval for values in sets for interval in values):
        if found and low <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(high, found[-1][1])
        else:
            found.append((low, high))
    return tuple(found)


def refined(sets: Sequence[Values]) -> dict[frozenset[int], Values]:
    """The numbers that are in the same of several sets, by the places of these sets."""
    turns: dict[int, list[tuple[int, bool]]] = {}
    for place, values in enumerate(sets):
        for low, high in values:
            turns.setdefault(low, []).append((place, True))
            turns.setdefault(high + 1, []).append((place, False))
    found: dict[frozenset[int], list[tuple[int, int]]] = {}
    inside: set[int] = set()
    before = 0
    for at in sorted(turns):
        if inside:
            found.setdefault(frozenset(inside), []).append((before, at - 1))
        for place, enters in turns[at]:
            (inside.add if enters else inside.discard)(place)
        before = at
    return {places: tuple(parts) for places, parts in found.items()}


def networks(family: Family, values: Values) -> list[Network]:
    """The fewest networks that hold exactly these addresses."""
    found = []
    for low, high in values:
        while low <= high:
            size = (low & -low).bit_length() - 1 if low else family.bits
            while low + (1 << size) - 1 > high:
                size -= 1
            found.append(Network(family, low, family.bits - size))
            low += 1 << size
    return found


class Partition:
    """Divides the numbers from 0 on into classes. Between two of the ``cuts`` all numbers are alike.

    A cut is the first number of a stretch; ``name`` gives the class of a stretch, asked with its first number.
    """

    __slots__ = ("_ends", "_names", "_starts", "single")

    def __init__(self, cuts: Iterable[int], name: Callable[[int], Name]) -> None:
        starts, names = [0], [name(0)]
        for cut in sorted(set(cuts)):
            if 0 < cut <= _TOP:
                here = name(cut)
                if here != names[-1]:
                    starts.append(cut)
                    names.append(here)
        ends = [start - 1 for start in starts[1:]] + [_TOP]
        several: dict[Name, bool] = {}
        for start, end, each in zip(starts, ends, names, strict=True):
            several[each] = each in several or start != end
        self._starts, self._ends, self._names = starts, ends, names
        #: names of classes that have only one number
        self.single = frozenset(each for each, many in several.items() if not many)

    def of(self, value: int) -> Name:
        """The name of the class that the number is in."""
        return self._names[bisect_right(self._starts, value) - 1]

    def split(self, values: Values) -> dict[Name, Values]:
        """The parts of a set that lie in each class; classes without any are left out."""
        if len(values) == 1 and values[0][0] == values[0][1]:
            return {self.of(values[0][0]): values}
        found: dict[Name, list[tuple[int, int]]] = {}
        ends, names = self._ends, self._names
        for low, high in values:
            at = bisect_right(self._starts, low) - 1
            while True:
                end = ends[at]
                found.setdefault(names[at], []).append((low, min(high, end)))
                if high <= end:
                    break
                low = end + 1
                at += 1
        return {each: tuple(parts) for each, parts in found.items()}


def cuts_of(intervals: Iterable[tuple[int, int]]) -> Iterable[int]:
    """Where a partition that tells these intervals from the rest has to cut."""
    for low, high in intervals:
        yield low
        yield high + 1
