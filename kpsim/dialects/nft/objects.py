"""Tables, chains and sets of the model → trees, in the order in which nft lists them."""

from collections.abc import Iterator
from typing import Any

from kpsim.dialects.nft.datatypes import BY_DATA, Tree, Type
from kpsim.dialects.nft.set_types import from_words
from kpsim.dialects.nft.writing import element_tree
from kpsim.ruleset import PLAIN, Chain, DataType, Set, SetFlags, SetType, Table, UpdateSet, is_for_the_rest
from kpsim.units import SECOND_NS

_FLAG_WORDS = {
    SetFlags.CONSTANT: "constant",
    SetFlags.INTERVAL: "interval",
    SetFlags.DYNAMIC: "dynamic",
    SetFlags.TIMEOUT: "timeout",
}


def chains_in_order(table: Table) -> list[Chain]:
    """Base chains as they were registered, which decides between equal priorities (K-9.1), then the others by name."""
    return sorted(table.chains.values(), key=_chain_place)


def _chain_place(chain: Chain) -> tuple[int, int, str]:
    return (1, 0, chain.name) if chain.base is None else (0, chain.base.registered, chain.name)


def sets_in_order(table: Table) -> list[Set]:
    """Sets and maps as they were made, else by name; without those that rules make themselves."""
    parts = (part for chain in table.chains.values() for rule in chain.rules for part in rule.body)
    meters = {part.set.name for part in parts if isinstance(part, UpdateSet) and part.meter is not None}
    made = (each for each in table.sets.values() if each.name not in meters)
    return sorted(made, key=lambda each: (each.generation, each.name))


def flag_words(flags: SetFlags) -> list[str]:
    """The flags of a set."""
    return [word for flag, word in _FLAG_WORDS.items() if flag in flags]


def type_words(kind: SetType) -> str:
    """How a set's type is written, with ``type`` or ``typeof``."""
    if kind.words:
        return kind.words if kind.words.startswith("typeof ") else f"type {kind.words}"
    key = " . ".join(BY_DATA[each].name for each in kind.key)
    if kind.data is None:
        return f"type {key}"
    return f"type {key} : {' . '.join('verdict' if each is DataType.VERDICT else BY_DATA[each].name for each in kind.data)}"


def types_of(kind: SetType) -> tuple[list[Type], list[Type]]:
    """The types of a set's key and of its data; a verdict has none."""
    if kind.words:
        _, key, data = from_words(kind.words)
        return key, data
    return [BY_DATA[each] for each in kind.key], [BY_DATA[each] for each in kind.data or () if each in BY_DATA]


def element_trees(made: Set) -> Iterator[Tree]:
    """A set's elements in the order in which nft lists them, with those that packets put in.

    That is the order of their values; intervals of several fields stand as they were added.
    """
    assert made.type is not None
    kinds, data = types_of(made.type)
    as_added = len(kinds) > 1 and SetFlags.INTERVAL in made.flags
    for key in made.elements if as_added else sorted(made.elements, key=lambda each: _order(each, kinds)):
        yield element_tree(key, made.elements[key], kinds, data)
    for key, expires_ns in made.members:
        tree = element_tree(key, made.elements.get(key) or PLAIN, kinds, data)
        if expires_ns is not None:
            tree = {"elem": {"val": tree, "expires": expires_ns // SECOND_NS}}
        yield tree


def _order(key: Any, kinds: list[Type]) -> tuple[Any, ...]:
    if is_for_the_rest(key):
        return True, ()  # nft lists it last
    return False, tuple(_first(part, kind) for part, kind in zip(key, kinds, strict=True))


def _first(part: Any, kind: Type) -> Any:
    if isinstance(part, tuple):
        return part[0]
    return kind.order(part) if isinstance(part, int | str) else part.prefix
