"""Types of sets and maps: which values their keys and data have."""

from collections.abc import Mapping
from typing import Any

from kpsim.dialects.nft import keys
from kpsim.dialects.nft.context import NotModelled
from kpsim.dialects.nft.datatypes import BY_DATA, NUMBER, TYPES, Tree, Type
from kpsim.dialects.nft.document_syntax import read_typeof, read_types
from kpsim.dialects.nft.selectors import row_of
from kpsim.dialects.nft.tokens import Cursor, tokens_of
from kpsim.ruleset import DataType, SetType


def listed(words: Any) -> list[str]:
    """One word or several as a list."""
    return [words] if isinstance(words, str) else list(words)


def set_type(about: Mapping[str, Any]) -> tuple[SetType, list[Type], list[Type]]:
    """The type of a set, the types of its key's fields and of its data."""
    if "typeof" in about:
        types = _types_of(about["typeof"])
    elif "type" in about:
        types = [_type(name) for name in listed(about["type"])]
    else:
        raise ValueError("a set needs a type")
    data: list[Type] = []
    model: tuple[DataType, ...] | None = None
    if "map typeof" in about:
        data = _types_of(about["map typeof"])
        model = tuple(each.data for each in data)
    elif "map" in about:
        names = [name for each in listed(about["map"]) for name in each.split(" . ")]
        if names == ["verdict"]:
            model = (DataType.VERDICT,)
        elif set(names) & {"counter", "limit", "quota", "synproxy", "secmark", "ct"}:
            raise NotModelled(f"a map to a {names[0]}")
        else:
            data = [_type(name) for name in names]
            model = tuple(each.data for each in data)
    plain = "typeof" not in about and all(BY_DATA.get(each.data) is each for each in (*types, *data))
    key = tuple(each.data for each in types)
    words = "" if plain else about.get("words") or _words(types, model, data)
    return SetType(key, model, words), types, data


def _words(types: list[Type], model: tuple[DataType, ...] | None, data: list[Type]) -> str:
    """The words of a type that came as JSON."""
    key = " . ".join(each.name for each in types)
    if model is None:
        return key
    return f"{key} : {' . '.join(each.name for each in data) or 'verdict'}"


def _type(name: str) -> Type:
    if name not in TYPES:
        raise NotModelled(f"the type {name}")
    return TYPES[name]


def from_words(words: str) -> tuple[SetType, list[Type], list[Type]]:
    """As :func:`set_type`, from the words of a type: ``ipv4_addr . inet_service : verdict``, ``typeof ip saddr``."""
    about: dict[str, Any] = {}
    cursor = Cursor(tokens_of(words), words)
    if cursor.accept("typeof"):
        read_typeof(cursor, about)
    else:
        read_types(cursor, about)
    return set_type(about)


def _types_of(tree: Tree) -> list[Type]:
    found = []
    for part in tree.get("concat", [tree]):
        row = row_of(part)
        if row is None and next(iter(part)) not in ("numgen", "jhash"):
            raise NotModelled(f"typeof {keys.selector_name(part)}")
        found.append(NUMBER if row is None else row.type)
    return found
