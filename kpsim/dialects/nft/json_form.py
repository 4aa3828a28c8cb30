"""Rulesets as ``nft -j list ruleset`` prints them ⇄ items. The shape is that of libnftables-json(5)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kpsim.dialects.nft.datatypes import Style, Tree, Type
from kpsim.dialects.nft.document_syntax import FAMILIES, Item
from kpsim.dialects.nft.objects import chains_in_order, element_trees, flag_words, sets_in_order, types_of
from kpsim.dialects.nft.printing import statement_text
from kpsim.dialects.nft.syntax import Statement, statements
from kpsim.dialects.nft.tokens import Cursor, SyntaxProblem, tokens_of
from kpsim.dialects.nft.writing import limit_tree, pieces
from kpsim.errors import InputError, Problem
from kpsim.inputs import json_line
from kpsim.ruleset import Chain, Counter, DataType, Quota, Rule, Ruleset, Set, SetFlags, Table
from kpsim.units import SECOND_NS

_PLAIN = ("metainfo",)
_TABLE_FLAGS = ("dormant", "owner", "persist")


def json_items(text: str, file: str | None) -> list[Item]:
    """All that a JSON document says. InputError if it is not JSON, or not nft's."""
    try:
        document = json_line(text)
    except ValueError as error:
        raise InputError(Problem(str(error), file=file)) from None
    entries = document.get("nftables")  # the text begins with a brace
    if not isinstance(entries, list):
        raise InputError(
            Problem("not the output of nft -j list ruleset: an object with the list `nftables` expected", file=file)
        )
    found: list[Item] = []
    problems: list[Problem] = []
    for number, entry in enumerate(entries):
        path = f"nftables[{number}]"
        try:
            if (item := _item(entry)) is not None:
                found.append(item)
        except SyntaxProblem as error:
            problems.append(Problem(error.message, file=file, path=path))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = str(error) if type(error) is ValueError else "not what nft prints"
            problems.append(Problem(message, file=file, path=path))
    if problems:
        raise InputError(problems)
    return found


def _item(entry: Any) -> Item | None:
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ValueError("an object with one member expected")
    ((kind, about),) = entry.items()
    verb = "add"
    if kind in ("add", "create", "insert", "delete", "flush"):
        verb = kind
        ((kind, about),) = about.items()
    if kind in _PLAIN:
        return None
    if kind == "ruleset":
        about = {"family": ""} | (about or {})
    if not isinstance(about, dict):
        raise ValueError(f"{kind}: an object expected")
    about = dict(about)
    _check(kind, about)
    if kind == "rule":
        return Item(verb, kind, about, None, _statements(about))
    if kind in ("set", "map"):
        _sort_out_set(about)
    return Item(verb, kind, about, None)


#: members that an object must have; all others need a table and a name
_NEEDED: Mapping[str, Sequence[str]] = {"table": ("name",), "rule": ("table", "chain", "expr"), "ruleset": (), "set": ("table", "name", "type"),
                                        "map": ("table", "name", "type", "map"), "element": ("table", "name", "elem")}  # fmt: skip
_HOOKED = ("type", "prio")  #: what a chain with a hook must have
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "name": str, "table": str, "chain": str, "comment": str, "hook": str, "policy": str, "type": (str, list, dict), "map": (str, list, dict),
    "prio": int, "expr": list, "elem": list, "flags": (str, list), "size": int, "timeout": (int, float), "gc-interval": (int, float),
    "stmt": list,
}  # fmt: skip


def _check(kind: str, about: Mapping[str, Any]) -> None:
    """ValueError for what no version of nft prints."""
    if about.get("family") not in (*FAMILIES, *([""] if kind == "ruleset" else [])):
        raise ValueError(f"{kind}: a family expected, not {about.get('family')!r}")
    needed = _NEEDED.get(kind, ("table", "name"))
    for name in (*needed, *(_HOOKED if kind == "chain" and "hook" in about else ())):
        if name not in about:
            raise ValueError(f"{kind}: {name} is missing")
    for name, expected in _TYPES.items():
        if name in about and (not isinstance(about[name], expected) or isinstance(about[name], bool)):
            raise ValueError(f"{kind}: {name} is {about[name]!r}")
    for name in ("type", "flags", "map"):
        if isinstance(about.get(name), list) and not all(isinstance(each, str) for each in about[name]):
            raise ValueError(f"{kind}: {name} is {about[name]!r}")
    if kind == "table":
        _check_flags(about)


def _check_flags(about: Mapping[str, Any]) -> None:
    flags = about.get("flags", [])
    for flag in [flags] if isinstance(flags, str) else flags:
        if flag not in _TABLE_FLAGS:
            # nft 1.0.6 prints what happens to stand in memory
            raise ValueError(
                f"table {about['name']}: its flags are not legible ({flag!r}): give the output of nft list ruleset"
            )


def _sort_out_set(about: dict[str, Any]) -> None:
    """Types as the text has them."""
    for name in ("type", "map"):
        kind = about.get(name)
        if isinstance(kind, dict):
            tree = kind["typeof"]
            about["typeof" if name == "type" else "map typeof"] = {"concat": tree} if isinstance(tree, list) else tree
    if "stmt" in about:
        about["stmt"] = [next(iter(each)) for each in about["stmt"]]


def _statements(about: Mapping[str, Any]) -> list[Statement]:
    found: list[Statement] = []
    for tree in about["expr"]:
        if isinstance(tree, str):  # nft 1.0 prints text where it has no JSON
            found += statements(Cursor(tokens_of(tree), tree))
            continue
        try:
            source = statement_text(tree, Style.LISTED)
            if source == "reject" and about["family"] == "inet" and tree["reject"]["type"] != "icmpx":
                source = f"reject with {tree['reject']['type']} port-unreachable"  # of one family
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            source = json.dumps(tree)
        found.append(Statement(tree, source, None))
    if "comment" in about:
        found.append(Statement({"comment": about["comment"]}, "", None))
    return found


# --- out --------------------------------------------------------------------------------------------------------------


def json_text(ruleset: Ruleset) -> str:
    """All tables of a ruleset as one JSON document."""
    entries = [entry for table in ruleset.in_order() for entry in _entries(table)]
    return json.dumps({"nftables": [{"metainfo": {"json_schema_version": 1}}, *entries]}) + "\n"


def _entries(table: Table) -> Iterator[Tree]:
    family, name = table.key.space.value, table.name
    of = {"family": family, "table": name}
    yield {
        "table": {"family": family, "name": name}
        | _said(comment=table.comment, flags="dormant" if table.dormant else "")
    }
    for kind, each in sorted(table.objects):
        shared = table.objects[kind, each]
        match shared:
            case Counter():
                known: Tree = {"packets": 0, "bytes": 0}
            case Quota(size, over, used):
                known = {"bytes": size, "used": used, "inv": over}
            case _:
                known = limit_tree(shared)
                if not shared.burst:  # nft says so in rules only
                    del known["burst"], known["burst_unit"]
        yield {kind: of | {"name": each} | known}
    chains = chains_in_order(table)
    yield from ({"chain": _chain(chain, of)} for chain in chains)
    yield from ({"map" if made.is_map else "set": _set(made, of)} for made in sets_in_order(table))
    for chain in chains:
        yield from ({"rule": _rule(rule, chain, of, table)} for rule in chain.rules)


def _said(**values: Any) -> dict[str, Any]:
    return {name.replace("_", "-"): value for name, value in values.items() if value}


def _chain(chain: Chain, of: Mapping[str, Tree]) -> Tree:
    about = {**of, "name": chain.name} | _said(comment=chain.comment)
    if (base := chain.base) is not None:
        about |= {
            "type": base.type.value,
            "hook": base.hook.lower(),
            "prio": base.priority,
            "policy": base.policy.lower(),
        }
    return about


def _set(made: Set, of: Mapping[str, Tree]) -> Tree:
    """A set. nft 1.0 neither prints the flag ``dynamic`` nor takes it."""
    assert made.type is not None
    kinds, data = types_of(made.type)
    about = {**of, "name": made.name, "type": _names(kinds)}
    if made.type.data is not None:
        about["map"] = "verdict" if made.type.data == (DataType.VERDICT,) else _names(data)
    about |= _said(
        comment=made.comment, policy=made.policy, size=made.size, flags=flag_words(made.flags & ~SetFlags.DYNAMIC), auto_merge=made.auto_merge,
        timeout=_seconds(made.timeout_ns), gc_interval=_seconds(made.gc_ns), elem=list(element_trees(made)),
    )  # fmt: skip
    return about


def _names(kinds: Sequence[Type]) -> Tree:
    return kinds[0].name if len(kinds) == 1 else [kind.name for kind in kinds]


def _seconds(time_ns: int | None) -> int | None:
    return None if time_ns is None else time_ns // SECOND_NS


def _rule(rule: Rule, chain: Chain, of: Mapping[str, Tree], table: Table) -> Tree:
    trees = [tree for tree, _ in pieces(rule, table.key.space)]
    return {**of, "chain": chain.name} | _said(comment=rule.comment) | {"expr": trees}
