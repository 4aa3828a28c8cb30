"""Says in words how two accounts of the same syncs differ: by sync, table, chain and Service.

Two iptables documents count as equal if their canonical forms are equal (I-19.4). The order of the service ports is
arbitrary; the rules of one service port are in a fixed order. A transaction of nft is equal to another if its lines
are. Neither of the two accounts counts as the right one.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from kpsim.config import Mode
from kpsim.inputs import Json

#: chains that all service ports write to; in any other chain the order of rules matters
SHARED_CHAINS = frozenset({"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL"})

#: the keys of the parts that proxy modes describe
_MODES = frozenset(map(str, Mode))

_LAST_RULE = "must be the last rule"
_COMMENT = re.compile(r'--comment (?:"([^"]*)"|(\S+))')
_PROTOCOL = re.compile(r" -p (\S+)")
_LONGEST_SHOWN = 240


@dataclass
class TableText:
    """One table of a restore document or of iptables-save, in canonical form."""

    chains: set[str] = field(default_factory=set)  #: chain lines
    deleted: set[str] = field(default_factory=set)  #: ``-X`` lines
    rules: dict[str, list[str]] = field(default_factory=dict)  #: ``-A`` lines by chain
    others: list[str] = field(default_factory=list)  #: all other lines


def canonical_tables(text: str) -> dict[str, TableText]:
    """The tables of a document in canonical form, in the document's order. Blank lines and COMMIT are ignored."""
    tables: dict[str, TableText] = {}
    name = ""
    for line in filter(None, map(str.strip, text.split("\n"))):
        if line.startswith("*"):
            name = line[1:]
        table = tables.setdefault(name, TableText())
        if line in ("COMMIT", f"*{name}"):
            continue
        if line.startswith(":"):
            table.chains.add(line)
        elif line.startswith("-X "):
            table.deleted.add(line)
        elif line.startswith("-A "):
            table.rules.setdefault(line.split(" ")[1], []).append(line)
        else:
            table.others.append(line)
    for table in tables.values():
        for chain in SHARED_CHAINS & table.rules.keys():
            table.rules[chain].sort(key=_order_in_shared_chain)
    return tables


def _order_in_shared_chain(rule: str) -> tuple[object, ...]:
    """The sorting key of a rule: its service port.

    The rules that must be last are sorted by text, because their order is arbitrary too (I-9.3).
    """
    if _LAST_RULE in rule:
        return (True, rule)
    protocol = _PROTOCOL.search(rule)
    return (False, service_port_of(rule), protocol[1] if protocol else "")


def service_port_of(rule: str) -> str:
    """The service port that a rule's comment names, as ``namespace/name:port``; empty if it names none."""
    comment = _COMMENT.search(rule)
    for word in (comment[1] or comment[2] or "").split(" ") if comment else ():
        if "/" in word:
            return word
    return ""


def document_differences(expected: str, actual: str) -> Iterator[str]:
    """Yields the differences between two restore documents, or between two outputs of iptables-save."""
    wanted, found = canonical_tables(expected), canonical_tables(actual)
    if list(wanted) != list(found):
        yield f"expected the tables {' '.join(wanted) or 'none'}, got {' '.join(found) or 'none'}"
    for name in sorted(wanted.keys() & found.keys()):
        for statement in _table_differences(wanted[name], found[name]):
            yield f"{name}{statement}"


def _table_differences(wanted: TableText, found: TableText) -> Iterator[str]:
    for what, before, after in (
        ("chain", wanted.chains, found.chains),
        ("deletion", wanted.deleted, found.deleted),
        ("line", set(wanted.others), set(found.others)),
    ):
        yield from (f": {what} missing: {line}" for line in sorted(before - after))
        yield from (f": {what} not expected: {line}" for line in sorted(after - before))
    for chain in sorted(wanted.rules.keys() | found.rules.keys()):
        for statement in _rule_differences(wanted.rules.get(chain, []), found.rules.get(chain, [])):
            yield f"/{chain}{statement}"


def _rule_differences(wanted: list[str], found: list[str]) -> Iterator[str]:
    if wanted == found:
        return
    missing, surplus = Counter(wanted) - Counter(found), Counter(found) - Counter(wanted)
    for what, rules in (("missing", missing), ("not expected", surplus)):
        for rule in rules.elements():
            service = service_port_of(rule)
            yield f"{', ' if service else ''}{service}: rule {what}: {rule}"
    if not missing and not surplus:
        at, (first, second) = next(
            (n, pair) for n, pair in enumerate(zip(wanted, found, strict=True)) if len({*pair}) > 1
        )
        yield f": the same rules in another order: expected as rule {at + 1} {first}, got {second}"


def outcome_differences(expected: Json, actual: Json) -> list[str]:
    """The differences between two accounts of one sync."""
    return list(_differences((), expected, actual))


def run_differences(expected: Sequence[Json], actual: Sequence[Json]) -> list[str]:
    """The differences between two accounts of the same syncs, sync by sync."""
    statements = []
    for number, (wanted, found) in enumerate(zip_longest(expected, actual)):
        if wanted is None or found is None:
            statements.append(f"expected {len(expected)} syncs, got {len(actual)}")
            break
        statements += [f"sync {number}: {statement}" for statement in outcome_differences(wanted, found)]
    return statements


_ABSENT = object()


def _differences(path: tuple[str, ...], wanted: Any, found: Any) -> Iterator[str]:
    match path:
        case (*mode, "save") | (*mode, "restore", _) if _are_documents(mode, wanted, found):
            for statement in document_differences(wanted, found):
                yield f"{' '.join(path[len(mode) :])}: {statement}"
        case (*mode, "transactions", _) | (*mode, "ruleset") if _are_documents(mode, wanted, found):
            for statement in _line_differences(wanted, found):
                yield f"{' '.join(path[len(mode) :])}: {statement}"
        case ("healthChecks",) if _are_objects(wanted) and _are_objects(found):
            yield from _differences((*path, ""), _by_service(wanted), _by_service(found))
        case ("conntrackDeleted",) if isinstance(wanted, list) and isinstance(found, list):
            yield from _set_differences("conntrackDeleted", wanted, found)
        case _ if isinstance(wanted, Mapping) and isinstance(found, Mapping):
            for key in sorted(wanted.keys() | found.keys()):
                yield from _differences((*path, key), wanted.get(key, _ABSENT), found.get(key, _ABSENT))
        case _ if isinstance(wanted, list) and isinstance(found, list):
            for number, (one, other) in enumerate(zip_longest(wanted, found, fillvalue=_ABSENT)):
                yield from _differences((*path, str(number)), one, other)
        case _ if wanted != found or isinstance(wanted, bool) is not isinstance(found, bool):
            yield f"{' '.join(filter(None, path))}: expected {_shown(wanted)}, got {_shown(found)}"


def _line_differences(wanted: str, found: str) -> Iterator[str]:
    """Yields the differences between two transactions of nft, or two tables in its words. Every line's place matters."""
    before, after = ([line for line in text.split("\n") if line.strip()] for text in (wanted, found))
    missing, surplus = Counter(before) - Counter(after), Counter(after) - Counter(before)
    yield from (f"missing: {_shown(line)}" for line in missing.elements())
    yield from (f"not expected: {_shown(line)}" for line in surplus.elements())
    if before != after and not missing and not surplus:
        at, (first, second) = next(
            (n, pair) for n, pair in enumerate(zip(before, after, strict=True)) if len({*pair}) > 1
        )
        yield f"the same lines in another order: expected as line {at + 1} {_shown(first)}, got {_shown(second)}"


def _are_documents(mode: list[str], wanted: Any, found: Any) -> bool:
    """Whether two values are documents: texts in the part that a proxy mode describes."""
    return len(mode) == 1 and mode[0] in _MODES and isinstance(wanted, str) and isinstance(found, str)


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _by_service(answers: list[Json]) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for answer in answers:
        found.setdefault(str(answer.get("service")), []).append(answer)
    return found


def _set_differences(place: str, wanted: list[Any], found: list[Any]) -> Iterator[str]:
    before, after = (Counter(json.dumps(item, sort_keys=True) for item in items) for items in (wanted, found))
    yield from (f"{place}: missing: {item}" for item in sorted((before - after).elements()))
    yield from (f"{place}: not expected: {item}" for item in sorted((after - before).elements()))


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
