"""The text of a transaction, and of a table, as replay outputs show them (NFT-10)."""

from collections.abc import Iterable, Mapping
from itertools import groupby

from kpsim.dialects.nft import commands
from kpsim.ruleset import Chain, Rule, Set, Table
from kpsim.ruleset.operations import Entry, Operation, Verb


def line(operation: Operation, declared: Mapping[str, Set]) -> str:
    """One operation as kube-proxy sends it. ``declared`` has the sets and maps to whose elements it may belong."""
    verb, key, subject, at = operation
    match subject, verb:
        case Rule(), _:
            return commands.add_rule(key, at, subject)
        case Entry(), Verb.ADD:
            return commands.add_element(key, declared[at], subject.key, subject.element)
        case Entry(), _:
            return commands.delete_element(key, declared[at], subject.key)
        case Chain(), Verb.ADD:
            return commands.add_chain(key, subject)
        case Chain(name=name), Verb.FLUSH:
            return commands.flush_chain(key, name)
        case Chain(name=name), _:
            return commands.delete_chain(key, name)
        case Set(), Verb.ADD:
            return commands.add_set(key, subject)
        case Set(), Verb.FLUSH:
            return commands.flush_set(key, subject)
        case Set(), _:
            return commands.delete_set(key, subject)
        case Table(), Verb.ADD:
            return commands.add_table(subject)
        case Table(), Verb.FLUSH:
            return commands.flush_table(key)
        case _:
            return commands.delete_table(key)


def document(operations: Iterable[Operation], declared: Mapping[str, Set]) -> str:
    """A transaction as kube-proxy gives it to nft."""
    return "".join([f"{line(each, declared)}\n" for each in operations])


def dump(table: Table | None) -> str:
    """A whole table as ``add`` lines, the elements of each set sorted by text (NFT-10.3); empty if there is no table."""
    lines: list[str] = []
    for container, found in groupby(() if table is None else commands.dump(table), key=_container):
        group = list(found)
        lines += sorted(group) if container else group
    return "".join(f"{each}\n" for each in lines)


def _container(text: str) -> str:
    """The set or map to which a line adds an element; empty for other lines."""
    return text.partition(" { ")[0] if text.startswith("add element ") else ""
