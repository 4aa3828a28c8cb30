"""nft as the lab's tool: loads tables with ``nft -f`` and lists what the kernel holds.

Counterpart: the nftables package. Tables of other programs in the namespace stay as they are. Members that packets put
into a set stay for as long as the set does, as they do with kube-proxy (NFT-6.11).
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

from kpsim.dialects.nft import commands
from kpsim.dialects.nft.listing import listing
from kpsim.lab.calls import LabError
from kpsim.lab.namespace import Namespace
from kpsim.lab.packages import not_found
from kpsim.lab.tools import GUARD_COMMENT, Remembered, set_list
from kpsim.ruleset import Chain, Rule, Ruleset, Set, SetFlags, Statement, Table, TableKey
from kpsim.ruleset.tables import Base

_COMMAND = "nft"
_COUNTED = re.compile(r"\bcounter packets ([1-9]\d*) bytes \d+ ?")
_COMMA = re.compile(r",(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)")  #: outside quotes
_CHAIN = re.compile(r"\tchain (\S+) \{")

Tables = Mapping[TableKey, Table]


class NftTool:
    """Tables of a namespace that nft manages, see :class:`kpsim.lab.tools.Tool`."""

    name = _COMMAND

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._loaded: dict[TableKey, Table] = {}

    def manages(self, table: TableKey) -> bool:
        return True

    @property
    def is_in_use(self) -> bool:
        return bool(self._loaded)

    # --- rules -----------------------------------------------------------------------------------------------------------

    def load(self, ruleset: Ruleset) -> None:
        tables = {table.key: table for table in ruleset.in_order()}
        if lines := [*_prepared(self._loaded, tables)]:
            self._run(commands.text(lines) + listing(ruleset))
        self._loaded = tables

    def _run(self, text: str) -> None:
        if shutil.which(_COMMAND) is None:
            raise LabError(not_found(_COMMAND, "loads tables of nftables", "nftables"))
        self._namespace.run([_COMMAND, "-f", "-"], stdin=text)

    def printed(self, ruleset: Ruleset) -> str:
        return _without_members(listing(ruleset))

    def first_difference(self, expected: str, held: str) -> tuple[str, str] | None:
        """See :class:`kpsim.lab.tools.Tool`. The order of chains, sets and elements does not count."""
        pairs = zip_longest(_lines(expected), _lines(held), fillvalue="nothing more")
        return next(((ours, theirs) for ours, theirs in pairs if ours != theirs), None)

    def saved(self) -> str:
        """What nft lists, without counts, times and the members that packets put into sets."""
        listed = (self._namespace.run([_COMMAND, "-s", "list", "table", *_words(key)]) for key in _sorted(self._loaded))
        return "".join(_without_members(text) for text in listed)

    def without_guards(self, saved: str) -> str:
        return "".join(line for line in saved.splitlines(keepends=True) if GUARD_COMMENT not in line)

    def counted(self) -> Iterator[str]:
        """``kube-proxy/services ip daddr … vmap @service-ips (1)``: table, chain, rule and packets."""
        for key in _sorted(self._loaded):
            chain = ""
            for line in self.without_guards(
                self._namespace.run([_COMMAND, "list", "table", *_words(key)])
            ).splitlines():
                if begun := _CHAIN.match(line):
                    chain = begun[1]
                elif found := _COUNTED.search(line):
                    yield f"{key.name}/{chain} {_COUNTED.sub('', line).strip()} ({found[1]})"

    def reset_counters(self) -> None:
        """Makes every rule count from zero. kube-proxy's rules have no counters, so each gets one."""
        for key, table in self._loaded.items():
            if not any(name.startswith("__chain") for name in table.chains):  # those cannot be named
                rules = (_counting(key, chain.name, rule) for chain in table.ordered() for rule in chain.rules)
                self._run(commands.text([commands.flush_table(key), *rules]))

    # --- members of sets -------------------------------------------------------------------------------------------------

    def forget(self) -> None:
        found = self._dynamic()
        if found:
            lines = (commands.flush_set(key, each) for key, each in found)
            self._run(commands.text(lines))

    def lists(self) -> frozenset[str]:
        known = {(key.space.value, key.name) for key in self._loaded}
        return frozenset(
            set_list(each["table"], each["name"])
            for kind in ("sets", "maps")
            for each in self._objects("-t", "list", kind)
            if (each["family"], each["table"]) in known and "dynamic" in _flags(each)
        )

    def lists_in_rules(self) -> frozenset[str]:
        return self.lists()  # a set needs no rule

    def remembered(self, name: str) -> Remembered:
        for key, each in self._dynamic():
            if set_list(key.name, each.name) == name:
                [found] = self._objects("list", "map" if each.is_map else "set", *_words(key), each.name)
                return dict(_member(elem) for elem in found.get("elem", ()))
        return {}

    def _dynamic(self) -> list[tuple[TableKey, Set]]:
        return [
            (key, each)
            for key in _sorted(self._loaded)
            for each in self._loaded[key].sets.values()
            if SetFlags.DYNAMIC in each.flags
        ]

    def _objects(self, *arguments: str) -> list[dict[str, Any]]:
        printed = self._namespace.run([_COMMAND, "-j", *arguments])
        try:
            found = json.loads(printed)["nftables"]
            return [about for each in found for kind, about in each.items() if kind in ("set", "map")]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise LabError(f"{_COMMAND} printed what is no list of objects: nothing can be measured with it") from None


def _sorted(tables: Iterable[TableKey]) -> list[TableKey]:
    return sorted(tables, key=lambda key: (key.name, key.space.value))


def _words(key: TableKey) -> tuple[str, str]:
    return key.space.value, key.name


def _flags(about: Mapping[str, Any]) -> list[str]:
    flags = about.get("flags", [])
    return [flags] if isinstance(flags, str) else flags


def _member(elem: Any) -> tuple[str, float | None]:
    about = elem["elem"] if isinstance(elem, dict) and "elem" in elem else {"val": elem}
    key = about["val"]
    parts = key["concat"] if isinstance(key, dict) else [key]
    return " . ".join(map(str, parts)), about.get("expires")


# --- from one state to the next ----------------------------------------------------------------------------------------------


def _prepared(old: Tables, new: Tables) -> Iterator[str]:
    """The commands behind which a listing of the new tables makes the kernel hold them. What both have stays, apart from
    rules and elements.
    """
    yield from (commands.delete_table(key) for key in _sorted(old) if key not in new)
    yield from (commands.add_table(new[key]) for key in _sorted(new))
    for key in _sorted(new):
        if key in old:
            yield from _cleared(old[key], new[key])
    bases = [(key, chain) for key in _sorted(new) for chain in new[key].base_chains()]
    for key, chain in sorted(bases, key=lambda each: _registered(each[1].base)):
        yield commands.add_chain(key, chain)


def _registered(base: Base | None) -> int:
    return base.registered if base else 0


def _cleared(old: Table, new: Table) -> Iterator[str]:
    key = old.key
    yield commands.flush_table(key)
    for name in sorted(old.sets):
        if not _stays(old.sets[name], new.sets.get(name)):
            yield commands.flush_set(key, old.sets[name])
    for name in sorted(old.chains):
        if not _is_same(old.chains[name], new.chains.get(name)):
            yield commands.delete_chain(key, name)
    for name in sorted(old.sets):
        if not _stays(old.sets[name], new.sets.get(name)):
            yield commands.delete_set(key, old.sets[name])
        else:
            gone = (at for at in old.sets[name].elements if at not in new.sets[name].elements)
            yield from (commands.delete_element(key, old.sets[name], at) for at in gone)


def _stays(old: Set, new: Set | None) -> bool:
    """Whether this is one set, whose members stay. Other sets are made anew."""
    return (
        new is not None and SetFlags.DYNAMIC in old.flags and (old.generation, old.type) == (new.generation, new.type)
    )


def _is_same(old: Chain, new: Chain | None) -> bool:
    if new is None or (old.base, old.comment) != (new.base, new.comment):
        return False
    return old.base is None or new.base is None or old.base.registered == new.base.registered


def _counting(key: TableKey, chain: str, rule: Rule) -> str:
    """The command that adds a rule which counts the packets that it matches."""
    first = next((at for at, part in enumerate(rule.body) if isinstance(part, Statement)), len(rule.body))
    conditions = commands.add_rule(key, chain, Rule(rule.body[:first], spelling=rule.spelling))
    whole = commands.add_rule(key, chain, rule)
    return f"{conditions} counter {whole.removeprefix(conditions).lstrip()}"


def _without_members(listed: str) -> str:
    """A listing without the elements of sets that packets change."""
    kept: list[str] = []
    skipping = dynamic = False
    for line in listed.splitlines(keepends=True):
        if line.startswith("\tset ") or line.startswith("\tmap "):
            dynamic = False
        elif line.startswith("\t\tflags "):
            dynamic = "dynamic" in line
        elif line.startswith("\t\telements = ") and dynamic:
            skipping = True
        if not skipping:
            kept.append(line)
        elif line.rstrip().endswith("}"):
            skipping = False
    return "".join(kept)


def _lines(listed: str) -> list[str]:
    """The lines of a listing in an order of their own, each behind the names of what it stands in."""
    found: list[tuple[str, int, str]] = []
    table = block = ""
    elements: list[str] | None = None
    for number, line in enumerate(listed.splitlines()):
        words = line.strip()
        if elements is not None or words.startswith("elements = {"):
            elements = [*(elements or ()), *_COMMA.split(words.removeprefix("elements = {").removesuffix("}"))]
            if words.endswith("}"):
                found += [(f"{table} {block}", -1, each.strip()) for each in sorted(elements) if each.strip()]
                elements = None
        elif words in ("", "}"):
            pass
        elif not line.startswith("\t"):
            table = words.removesuffix(" {")
        elif not line.startswith("\t\t"):
            block = words.removesuffix(" {")
            found.append((f"{table} {block}", number, ""))
        else:
            found.append((f"{table} {block}", number, words))
    return [f"{place}: {words}" for place, _, words in sorted(found)]
