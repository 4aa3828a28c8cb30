"""The commands that kube-proxy gives to ``nft -f``, and the lines in which its library dumps a table (NFT-10.1 to 10.3)."""

from collections.abc import Iterable, Sequence

from kpsim.dialects.nft.datatypes import Style
from kpsim.dialects.nft.objects import flag_words, type_words, types_of
from kpsim.dialects.nft.printing import value_text
from kpsim.dialects.nft.spelling import texts
from kpsim.dialects.nft.writing import element_tree
from kpsim.ruleset import Base, Chain, Element, Key, Rule, Set, Table, TableKey
from kpsim.units import SECOND_NS

_SENT = Style.SENT


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
    words = [text for text, _ in texts(rule, key.space, _SENT)]
    return " ".join([f"add rule {_named(key)} {chain}", *words, *_comment(rule.comment)])


def add_set(key: TableKey, made: Set) -> str:
    """Makes the set or map, if there is none. It does not add the elements."""
    assert made.type is not None
    properties = [
        type_words(made.type),
        *([f"flags {','.join(flag_words(made.flags))}"] if made.flags else []),
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


def _properties(properties: Sequence[str]) -> str:
    return f" {{ {' '.join(f'{each} ;' for each in properties)} }}" if properties else ""


def _comment(comment: str) -> Sequence[str]:
    return [f'comment "{comment}"'] if comment else []


def _base(base: Base) -> str:
    return f"type {base.type.value} hook {base.hook.lower()} priority {base.priority}"


def _kind(made: Set) -> str:
    return "map" if made.is_map else "set"


def _seconds(time_ns: int) -> str:
    return f"{time_ns // SECOND_NS}s"


def _element(of: Set, at: Key, element: Element | None) -> str:
    assert of.type is not None
    kinds, data = types_of(of.type)
    tree = element_tree(at, element, kinds, data)
    return value_text(tree, kinds, _SENT, data if of.is_map else None)


def text(lines: Iterable[str]) -> str:
    """Lines as one document."""
    return "".join(f"{line}\n" for line in lines)
