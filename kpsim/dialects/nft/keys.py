"""Keys of sets and maps ⇄ trees: which fields are looked up, and the elements."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from kpsim.dialects.nft.context import Context, NotModelled
from kpsim.dialects.nft.datatypes import FIB_TYPE, INTERFACE, NUMBER, PROTOCOL, Tree, Type
from kpsim.dialects.nft.selectors import row_of
from kpsim.maps import Map
from kpsim.ruleset import (
    DataType,
    Element,
    Field,
    Hashed,
    Interval,
    Key,
    Masked,
    NamePattern,
    Numgen,
    Part,
    Set,
    SetReference,
    Source,
)
from kpsim.units import SECOND_NS

_NUMBERED_NAMES = (FIB_TYPE, PROTOCOL)  #: names here; numbers, with ranges, to nft


class KeySources(NamedTuple):
    """What a rule looks up, and the types of its values."""

    sources: tuple[Source, ...]
    types: tuple[Type, ...]


def read_key(tree: Tree, context: Context) -> KeySources:
    """The fields of a key, with the comparisons that they imply."""
    parts = tree["concat"] if isinstance(tree, dict) and "concat" in tree else [tree]
    read = [_source(part, context) for part in parts]
    return KeySources(tuple(source for source, _ in read), tuple(kind for _, kind in read))


def _source(tree: Tree, context: Context) -> tuple[Source, Type]:
    row = row_of(tree)
    if row is not None:
        context.imply_row(row)
        return row.field, row.type
    if not isinstance(tree, dict) or len(tree) != 1:
        raise ValueError(f"not a field: {tree}")
    ((name, about),) = tree.items()
    match name:
        case "numgen":
            if about["mode"] not in ("random", "inc") or not about["mod"]:
                raise ValueError("numgen needs a modulus")
            return Numgen(about["mod"], about.get("offset", 0), about["mode"] == "random"), NUMBER
        case "jhash":
            if not about["mod"]:
                raise ValueError("jhash needs a modulus")
            hashed = read_key(about["expr"], context).sources
            fields = tuple(each for each in hashed if isinstance(each, Field))
            if len(fields) != len(hashed):
                raise NotModelled("jhash of something else than fields")
            return Hashed(fields, about["mod"], about.get("offset", 0), about.get("seed") or None), NUMBER
        case "&" if isinstance(about[1], int | str):
            row = row_of(about[0])
            if row is None or not row.type.is_number:
                raise NotModelled(f"{selector_name(tree)} under a mask")
            context.imply_row(row)
            mask = row.type.read(about[1])
            assert isinstance(mask, int)
            return Masked(row.field, mask), row.type
        case ">>" if isinstance(about[0], dict) and "&" in about[0] and isinstance(about[1], int):
            inner, _ = _source(about[0], context)
            assert isinstance(inner, Masked)
            return Masked(inner.field, inner.mask, about[1]), NUMBER
        case _:
            raise NotModelled(selector_name(tree))


def selector_name(tree: Tree) -> str:
    """What nft calls a selector that the model does not read."""
    ((name, about),) = tree.items()
    if name in ("&", "|", "^", "<<", ">>", "concat"):
        inner = next((each for each in about if isinstance(each, dict)), None)
        return selector_name(inner) if inner is not None else name
    if name == "payload":
        if "base" in about:
            return f"@{about['base']},{about['offset']},{about['len']}"
        return f"{about['protocol']} {about['field']}"
    if name == "other":
        return f"{about['name']} {about['words']}"
    if name == "exthdr" and "field" in about:
        return f"{about['name']} {about['field']}"
    if isinstance(about, dict):
        words = [name, *(str(about[each]) for each in ("dir", "name", "field", "key") if each in about)]
        return " ".join(words)
    return str(name)


# --- elements ---------------------------------------------------------------------------------------------------------


class Listed(NamedTuple):
    """One element of a set, and when it expires if a packet put it there."""

    key: Key
    element: Element
    expires_ns: int | None
    limited: bool  #: it has a limit for itself, which a look-up would ask


def read_element(tree: Tree, types: Sequence[Type], value: Callable[[Tree], Any] | None) -> Listed:
    """One element. ``value`` reads what a map has for the key; None: a set. ValueError says what is wrong."""
    pair = isinstance(tree, list)
    if pair != (value is not None) or (pair and len(tree) != 2):
        raise ValueError(
            "a map's element is a key and a value" if value is not None else "a set's element has no value"
        )
    key = tree[0] if pair else tree
    about: dict[str, Tree] = {}
    if isinstance(key, dict) and "elem" in key:
        about = key["elem"]
        key = about["val"]
    timeout, expires = about.get("timeout"), about.get("expires")
    return Listed(
        read_parts(key, types),
        Element(
            value(tree[1]) if value is not None else None,
            about.get("comment", ""),
            None if timeout is None else int(timeout * SECOND_NS),
        ),
        None if expires is None else int(expires * SECOND_NS),
        is_limited(about),
    )


def is_limited(about: Mapping[str, Tree]) -> bool:
    """Whether an element has a limit for itself."""
    return not about.keys().isdisjoint(("limit", "quota", "ct count"))


def read_parts(tree: Tree, types: Sequence[Type]) -> Key:
    """The parts of a key, one for each type."""
    if tree == "*":
        return (NamePattern(""),) * len(types)
    parts = tree["concat"] if isinstance(tree, dict) and "concat" in tree else [tree]
    if len(parts) != len(types):
        raise ValueError(f"{len(parts)} parts where the key has {len(types)} fields")
    return tuple(read_part(part, kind) for part, kind in zip(parts, types, strict=True))


def read_part(tree: Tree, kind: Type) -> Part:
    """One part of a key: a value, a range, or names that begin alike."""
    if kind is INTERFACE and isinstance(tree, str) and tree.endswith("*") and tree != "*":
        return NamePattern(tree[:-1])
    if tree == "*":
        if not kind.is_number:
            return NamePattern("")
        return 0, (1 << kind.bits) - 1
    if isinstance(tree, dict) and len(tree) == 1:
        ((name, about),) = tree.items()
        if name in ("prefix", "range"):
            return read_interval(tree, kind)
        if name == "|":
            return _joined(about, kind)
        raise ValueError(f"not a value: {tree}")
    if isinstance(tree, list):
        if not kind.bits_of:
            raise ValueError("several values without braces are for flags")
        return _joined(tree, kind)
    if isinstance(tree, bool) or tree is None:
        raise ValueError(f"not a value: {tree}")
    return kind.read(tree)


def as_interval(part: Part) -> Interval:
    """A number as an interval. The values of the part's type are numbers."""
    if isinstance(part, tuple):
        return part
    assert isinstance(part, int)
    return part, part


def _joined(words: Sequence[Tree], kind: Type) -> Part:
    if not kind.is_number:
        raise NotModelled("several names as one value")
    value = 0
    for word in words:
        bit = kind.read(word)
        assert isinstance(bit, int)
        value |= bit
    return value


def read_interval(tree: Tree, kind: Type) -> Interval:
    """A prefix or a range. ValueError if it is upside down, or if the type has no order."""
    if kind in _NUMBERED_NAMES and "range" in tree:
        raise NotModelled(f"a range of {kind.name}")
    if not kind.is_number:
        raise ValueError(f"no range of {kind.name}: {tree}")
    ((name, about),) = tree.items()
    if name == "prefix":
        base, length = kind.read(about["addr"]), about["len"]
        assert isinstance(base, int)
        if not isinstance(length, int) or not 0 <= length <= kind.bits:
            raise ValueError(f"not a prefix length: {length}")
        if kind.data not in (DataType.IPV4_ADDRESS, DataType.IPV6_ADDRESS, DataType.MARK):
            raise ValueError(f"no prefix of {kind.name}")
        host = (1 << (kind.bits - length)) - 1
        return base & ~host, base | host
    low, high = (kind.read(each) for each in about)
    assert isinstance(low, int)
    assert isinstance(high, int)
    if low > high:
        raise ValueError(f"a range upside down: {about[0]}-{about[1]}")
    return low, high


def read_map(tree: Tree, types: Sequence[Type], value: Callable[[Tree], Any], context: Context) -> Set | SetReference:
    """The map that a rule names or writes in place."""
    if isinstance(tree, str):
        name = tree.removeprefix("@")
        if not context.set_of_types(name, types).is_map:
            raise ValueError(f"{name} is a set, not a map")
        return SetReference(name)
    return in_place(tree, types, value)


def in_place(tree: Tree, types: Sequence[Type], value: Callable[[Tree], Any] | None) -> Set:
    """A set or map that is written in the rule."""
    if not isinstance(tree, dict) or not isinstance(tree.get("set"), list):
        raise ValueError(f"not a set: {tree}")
    found: dict[Key, Element] = {}
    for each in tree["set"]:
        key, element, _, limited = read_element(each, types, value)
        if limited:
            raise NotModelled("a limit for each element of a set")
        if key in found and found[key] != element:
            raise ValueError("the same key twice in a map")
        found[key] = element
    if not found:
        raise ValueError("a set without elements")
    if value is not None and len(types) == 1:
        check_overlap(found)
    return Set(Map(found))


def check_overlap(elements: Iterable[Key]) -> None:
    """ValueError if two keys of one field overlap. nft merges them only in a list that a rule compares with."""
    ranges = sorted(
        part if isinstance(part, tuple) else (part, part) for (part,) in elements if isinstance(part, int | tuple)
    )
    for (low, high), (following, _) in pairwise(ranges):
        if following <= high:
            raise ValueError(f"conflicting intervals: {low} to {high} holds {following}")
