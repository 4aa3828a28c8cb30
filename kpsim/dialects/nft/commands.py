"""The commands that kube-proxy gives to ``nft -f``, and the lines in which its library dumps a table (NFT-10.1 to 10.3)."""

from collections.abc import Iterable, Iterator, Sequence

from kpsim.addresses import Family
from kpsim.dialects.nft.datatypes import BY_DATA, TYPES, Style, Type
from kpsim.dialects.nft.printing import statement_text, value_text
from kpsim.dialects.nft.spelling import Note
from kpsim.dialects.nft.writing import element_tree, pieces
from kpsim.ruleset import Base, Chain, Element, Key, Rule, Set, SetFlags, SetType, Space, Table, TableKey

_SENT = Style.SENT
_FLAG_WORDS = {
    SetFlags.CONSTANT: "constant",
    SetFlags.INTERVAL: "interval",
    SetFlags.DYNAMIC: "dynamic",
    SetFlags.TIMEOUT: "timeout",
}
_SECOND_NS = 1_000_000_000


def add_table(table: Table) -> str:
    """Makes the table, if there is none."""
    return f"add table {_named(table.key)}{_properties(_comment(table.comment))}"


def flush_table(key: TableKey) -> str:
    """Deletes all rules of the table."""
    return f"flush table {_named(key)}"


def delete_table(key: TableKey) -> str:
    """Deletes the table and all that is in it."""
    return f"delete table {_named(key)}"


def add_chain(key: TableKey, chain: Chain) -> str:
    """Makes the chain, if there is none. It does not add the chain's rules."""
    base = [] if chain.base is None else [_base(chain.base)]
    return f"add chain {_named(key)} {chain.name}{_properties([*base, *_comment(chain.comment)])}"


def flush_chain(key: TableKey, chain: str) -> str:
    """Deletes all rules of the chain."""
    return f"flush chain {_named(key)} {chain}"


def delete_chain(key: TableKey, chain: str) -> str:
    """Deletes the chain, which must be empty and not in use."""
    return f"delete chain {_named(key)} {chain}"


def add_rule(key: TableKey, chain: str, rule: Rule) -> str:
    """Adds the rule at the end of the chain."""
    return " ".join([f"add rule {_named(key)} {chain}", *rule_words(rule, _family(key))])


def rule_words(rule: Rule, family: Family) -> Iterator[str]:
    """A rule's statements, and its comment."""
    notes = {note.at: note.words for note in rule.spelling} if isinstance(rule.spelling, tuple) else {}
    for tree, at in pieces(rule, family):
        yield statement_text(tree, _SENT, notes.get(at))
    if rule.comment:
        yield f'comment "{rule.comment}"'


def add_set(key: TableKey, made: Set) -> str:
    """Makes the set or map, if there is none. It does not add the elements."""
    assert made.type is not None
    properties = [
        f"type {_type_words(made.type)}",
        *([f"flags {flag_words(made.flags)}"] if made.flags else []),
        *([f"timeout {_seconds(made.timeout_ns)}"] if made.timeout_ns is not None else []),
        *([f"gc-interval {_seconds(made.gc_ns)}"] if made.gc_ns is not None else []),
        *([f"size {made.size}"] if made.size is not None else []),
        *([f"policy {made.policy}"] if made.policy else []),
        *(["auto-merge"] if made.auto_merge else []),
        *_comment(made.comment),
    ]
    return f"add {_kind(made)} {_named(key)} {made.name}{_properties(properties)}"


def flush_set(key: TableKey, made: Set) -> str:
    """Deletes all elements of the set or map."""
    return f"flush {_kind(made)} {_named(key)} {made.name}"


def delete_set(key: TableKey, made: Set) -> str:
    """Deletes the set or map, which must not be in use."""
    return f"delete {_kind(made)} {_named(key)} {made.name}"


def add_element(key: TableKey, to: Set, at: Key, element: Element) -> str:
    """Adds an element to the set or map."""
    return f"add element {_named(key)} {to.name} {{ {_element(to, at, element)} }}"


def delete_element(key: TableKey, of: Set, at: Key) -> str:
    """Deletes the element with this key."""
    return f"delete element {_named(key)} {of.name} {{ {_element(of, at, None)} }}"


def dump(table: Table) -> list[str]:
    """The whole table, one line for each object, as the library's fake prints it (NFT-10.3)."""
    key = table.key
    chains = [table.chains[name] for name in sorted(table.chains)]
    sets = [table.sets[name] for name in sorted(table.sets)]
    in_order = [each for each in sets if not each.is_map] + [each for each in sets if each.is_map]
    lines = [add_table(table)]
    lines += [add_chain(key, chain) for chain in chains]
    lines += [add_set(key, each) for each in in_order]
    lines += [add_rule(key, chain.name, rule) for chain in chains for rule in chain.rules]
    for each in in_order:
        lines += [add_element(key, each, at, element) for at, element in each.elements.items()]
    return lines


# --- parts ------------------------------------------------------------------------------------------------------------


def _named(key: TableKey) -> str:
    return f"{key.space.value} {key.name}"


def _family(key: TableKey) -> Family:
    return Family.IPV6 if key.space is Space.IP6 else Family.IPV4


def _properties(properties: Sequence[str]) -> str:
    return f" {{ {' '.join(f'{each} ;' for each in properties)} }}" if properties else ""


def _comment(comment: str) -> Sequence[str]:
    return [f'comment "{comment}"'] if comment else []


def _base(base: Base) -> str:
    return f"type {base.type.value} hook {base.hook.lower()} priority {base.priority}"


def _kind(made: Set) -> str:
    return "map" if made.is_map else "set"


def _seconds(time_ns: int) -> str:
    return f"{time_ns // _SECOND_NS}s"


def flag_words(flags: SetFlags) -> str:
    """The flags of a set, separated by commas."""
    return ",".join(word for flag, word in _FLAG_WORDS.items() if flag in flags)


def _type_words(kind: SetType) -> str:
    if kind.words:
        return kind.words
    key = " . ".join(BY_DATA[each].name for each in kind.key)
    if kind.data is None:
        return key
    return f"{key} : {' . '.join('verdict' if each not in BY_DATA else BY_DATA[each].name for each in kind.data)}"


def key_types(kind: SetType) -> list[Type]:
    """The types of a key's fields."""
    named = kind.words.partition(":")[0].split(" . ") if kind.words else ()
    return [TYPES[name.strip()] for name in named] or [BY_DATA[each] for each in kind.key]


def _data_types(kind: SetType) -> list[Type]:
    return [BY_DATA[each] for each in kind.data or () if each in BY_DATA]


def _element(of: Set, at: Key, element: Element | None) -> str:
    assert of.type is not None
    kinds, data = key_types(of.type), _data_types(of.type)
    tree = element_tree(at, element or Element(), kinds, data, bare=element is None)
    return value_text(tree, kinds, _SENT, data if of.is_map else None)


__all__ = [
    "Note", "add_chain", "add_element", "add_rule", "add_set", "add_table", "delete_chain", "delete_element", "delete_set",
    "delete_table", "dump", "flush_chain", "flush_set", "flush_table",
]  # fmt: skip


def text(lines: Iterable[str]) -> str:
    """Lines as one document."""
    return "".join(f"{line}\n" for line in lines)
