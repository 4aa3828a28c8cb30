"""Rulesets as ``nft list ruleset`` prints them (NFT-10.4)."""

from collections.abc import Iterator

from kpsim.dialects.nft.datatypes import Style
from kpsim.dialects.nft.layout import DYNAMIC_SIZE, priority_words
from kpsim.dialects.nft.objects import chains_in_order, element_trees, flag_words, sets_in_order, type_words, types_of
from kpsim.dialects.nft.printing import statement_text, time_text, value_text
from kpsim.dialects.nft.spelling import texts
from kpsim.dialects.nft.writing import limit_tree, quota_tree
from kpsim.ruleset import Chain, Counter, Limit, Quota, Rule, Ruleset, Set, SetFlags, Space, Table
from kpsim.units import SECOND_NS

_LISTED = Style.LISTED
_TAB = "\t"


def listing(ruleset: Ruleset) -> str:
    """All tables of a ruleset."""
    return "".join(f"{line}\n" for table in ruleset.in_order() for line in table_lines(table))


def table_lines(table: Table) -> Iterator[str]:
    """The block of one table."""
    yield f"table {table.key.space.value} {table.name} {{"
    head = (["flags dormant"] if table.dormant else []) + _comment(table.comment)
    blocks = [[_TAB + line for line in block] for block in _blocks(table)]
    yield from (_TAB + line for line in head)
    if blocks and table.dormant:
        yield ""
    for number, block in enumerate(blocks):
        if number:
            yield ""
        yield from block
    yield "}"


def _blocks(table: Table) -> Iterator[list[str]]:
    for kind, name in sorted(table.objects):
        shared = table.objects[kind, name]
        yield [f"{kind} {name} {{", _TAB + _object_words(shared), "}"]
    for made in sets_in_order(table):
        yield _set_lines(made)
    for chain in chains_in_order(table):
        if not chain.name.startswith("__chain"):
            yield _chain_lines(chain, table)


def _object_words(shared: Counter | Limit | Quota) -> str:
    match shared:
        case Counter():
            return "packets 0 bytes 0"
        case Limit():
            return statement_text({"limit": limit_tree(shared)}, _LISTED).removeprefix("limit ")
        case Quota():
            return statement_text({"quota": quota_tree(shared)}, _LISTED).removeprefix("quota ")


def _comment(comment: str) -> list[str]:
    return [f'comment "{comment}"'] if comment else []


def _set_lines(made: Set) -> list[str]:
    assert made.type is not None
    size = DYNAMIC_SIZE if made.size is None and SetFlags.DYNAMIC in made.flags else made.size
    only_timed = made.flags == SetFlags.TIMEOUT and made.timeout_ns is not None  # the time says it
    about = [
        type_words(made.type),
        *([f"policy {made.policy}"] if made.policy else []),
        *([f"size {size}"] if size is not None else []),
        *([f"flags {','.join(flag_words(made.flags))}"] if made.flags and not only_timed else []),
        *(["auto-merge"] if made.auto_merge else []),
        *([f"timeout {time_text(made.timeout_ns / SECOND_NS)}"] if made.timeout_ns is not None else []),
        *([f"gc-interval {time_text(made.gc_ns / SECOND_NS)}"] if made.gc_ns is not None else []),
        *_comment(made.comment),
        *_elements(made),
    ]
    return [f"{'map' if made.is_map else 'set'} {made.name} {{", *(_TAB + line for line in about), "}"]


def _elements(made: Set) -> Iterator[str]:
    """A few elements on each line."""
    assert made.type is not None
    kinds, data = types_of(made.type)
    words = [value_text(tree, kinds, _LISTED, data if made.is_map else None) for tree in element_trees(made)]
    if not words:
        return
    a_line = kinds[0].a_line if len(kinds) == 1 else 1
    lines = [", ".join(words[at : at + a_line]) for at in range(0, len(words), a_line)]
    yield "elements = { " + ",\n\t\t\t     ".join(lines) + " }"


def _chain_lines(chain: Chain, table: Table) -> list[str]:
    lines = [f"chain {chain.name} {{", *(_TAB + line for line in _comment(chain.comment))]
    if (base := chain.base) is not None:
        place = f"type {base.type.value} hook {base.hook.lower()} priority {priority_words(base)}"
        lines.append(f"{_TAB}{place}; policy {base.policy.lower()};")
    lines += [_TAB + line for rule in chain.rules for line in rule_lines(rule, table)]
    return [*lines, "}"]


def rule_lines(rule: Rule, table: Table) -> list[str]:
    """A rule. It takes several lines if it has a chain without name."""
    words = [text for text, _ in texts(rule, table.key.space, _LISTED)]
    line = " ".join([*words, *_comment(rule.comment)])
    for verb in ("jump", "goto"):
        before, found, name = line.partition(f"{verb} __chain")
        if found and (not before or before.endswith(" ")) and (inner := table.chains.get(f"__chain{name}")) is not None:
            return [
                f"{before}{verb} {{",
                *(_TAB + each for rule in inner.rules for each in rule_lines(rule, table)),
                "}",
            ]
    return [line]


def rule_words(rule: Rule, space: Space, style: Style) -> str:
    """A rule on one line, without its chain."""
    return " ".join([*(text for text, _ in texts(rule, space, style)), *_comment(rule.comment)])
