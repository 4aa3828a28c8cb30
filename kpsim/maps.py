"""A persistent mapping: a change makes a new map that shares the unchanged entries, and leaves the old map as it was.

A map has a large dictionary, which never changes, and above it two dictionaries of later changes: a small one and a
medium one. A change copies the small one. When the small one is full, it is merged into the medium one, and that in
turn into the large one. So a single change costs about the cube root of the size, and reading costs one to three
look-ups.

It is pure Python, because compiled persistent maps lag behind new versions of Python, and because dictionaries are
built and copied far faster than tries.
"""

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Final, Generic, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

_ABSENT: Final[Any] = object()
_GONE: Final[Any] = object()  #: stands in for the value of a key that a change deleted
_NOTHING: Final[dict[Any, Any]] = {}

_SMALL = 64  #: up to this size a map is one dictionary, copied at each change
_RECENT = 32  #: the small dictionary holds at most so many changes
_OLDER = 128  #: the medium one holds at most √(128 · size): copying it and copying the large one then cost the same


class Map(Mapping[K, V]):
    """A mapping that never changes. ``set``, ``delete``, ``update`` and ``mutate`` return the next one.

    It is equal to another Map with the same entries, and hashable if its values are. Its order depends on how it was
    made: code that shows entries must sort them.
    """

    __slots__ = ("_base", "_older", "_recent")

    _base: dict[K, V]
    _older: dict[K, Any]
    _recent: dict[K, Any] | None  #: None: the base is all there is

    def __init__(self, entries: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        self._base = dict(entries)
        self._older = _NOTHING
        self._recent = None

    def __getitem__(self, key: K) -> V:
        recent = self._recent
        if recent is not None:
            found = recent.get(key, _ABSENT)
            if found is _ABSENT:
                found = self._older.get(key, _ABSENT)
            if found is _GONE:
                raise KeyError(key)
            if found is not _ABSENT:
                return found  # type: ignore[no-any-return]
        return self._base[key]

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, /, default: V | D) -> V | D: ...
    def get(self, key: K, /, default: Any = None) -> Any:
        recent = self._recent
        if recent is not None:
            found = recent.get(key, _ABSENT)
            if found is _ABSENT:
                found = self._older.get(key, _ABSENT)
            if found is not _ABSENT:
                return default if found is _GONE else found
        return self._base.get(key, default)

    def __contains__(self, key: object) -> bool:
        recent: dict[Any, Any] | None = self._recent
        if recent is not None:
            if key in recent:
                return recent[key] is not _GONE
            older: dict[Any, Any] = self._older
            if key in older:
                return older[key] is not _GONE
        return key in self._base

    def set(self, key: K, value: V) -> "Map[K, V]":
        """The map with this entry."""
        return self._with({key: value})

    def delete(self, key: K) -> "Map[K, V]":
        """The map without this key. KeyError if it is not there."""
        if key not in self:
            raise KeyError(key)
        return self._with({key: _GONE})

    def update(self, entries: Mapping[K, V] | Iterable[tuple[K, V]]) -> "Map[K, V]":
        """The map with these entries."""
        return self._with(dict(entries))

    def mutate(self) -> "MapMutation[K, V]":
        """Collects many changes until ``finish``. Together they cost less than one by one."""
        return MapMutation(self)

    def _with(self, changes: dict[K, Any]) -> "Map[K, V]":
        """The map after these changes. It keeps the dictionary, so the caller must not change it."""
        recent, older, base = self._recent, self._older, self._base  # in this order, see _settle
        new: Map[K, V] = _new(Map)
        new._older = older
        if len(base) <= _SMALL:
            new._base = _settled(base, changes)
            new._recent = None
            return new
        new._base = base
        new._recent = recent = changes if recent is None else recent | changes
        if len(recent) > _RECENT:
            new._older = older = older | recent
            new._recent = _NOTHING
            if len(older) ** 2 > _OLDER * len(base):
                new._settle()
        return new

    def _settle(self) -> dict[K, V]:
        """Merges all changes into the base, and returns it.

        A thread that reads meanwhile sees the same entries, because the base is replaced before the changes are
        removed.
        """
        recent, older, base = self._recent, self._older, self._base
        if recent is not None:
            self._base = base = _settled(base, older | recent)
            self._recent = None
            self._older = _NOTHING
        return base

    def __len__(self) -> int:
        return len(self._settle())

    def __iter__(self) -> Iterator[K]:
        return iter(self._settle())

    def keys(self) -> KeysView[K]:
        return self._settle().keys()

    def values(self) -> ValuesView[V]:
        return self._settle().values()

    def items(self) -> ItemsView[K, V]:
        return self._settle().items()

    def __eq__(self, other: object) -> bool:
        return self._settle() == other._settle() if isinstance(other, Map) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self._settle().items()))

    def __repr__(self) -> str:
        return f"Map({self._settle()!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Map, (self._settle(),)


_new = object.__new__


def _settled(base: dict[K, V], changes: dict[K, Any]) -> dict[K, V]:
    merged = base | changes
    for key, value in changes.items():
        if value is _GONE:
            del merged[key]
    return merged


class MapMutation(Generic[K, V]):
    """Changes to a map that are still being collected; the map itself stays as it is."""

    def __init__(self, origin: Map[K, V]) -> None:
        self._origin = origin
        self._changes: dict[K, Any] = {}

    def __enter__(self) -> "MapMutation[K, V]":
        return self

    def __exit__(self, *_: object) -> None:
        """Does nothing: the changes take effect in the map that ``finish`` returns."""

    def __setitem__(self, key: K, value: V) -> None:
        self._changes[key] = value

    def pop(self, key: K, default: Any = _ABSENT) -> Any:
        """Removes an entry and returns its value, or the default if there is none. KeyError without a default."""
        found = self._changes.get(key, _ABSENT)
        if found is _ABSENT:
            found = self._origin.get(key, _GONE)
        if found is not _GONE:
            self._changes[key] = _GONE
            return found
        if default is _ABSENT:
            raise KeyError(key)
        return default

    def finish(self) -> Map[K, V]:
        """The map after all changes so far. Later changes do not affect it."""
        return self._origin._with(self._changes.copy())
