"""From items to rulesets: tables, chains, sets and rules, with all that is wrong in them."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from kpsim.addresses import Family
from kpsim.dialects.nft import frames, keys
from kpsim.dialects.nft.context import Context, NotModelled, Objects
from kpsim.dialects.nft.datatypes import Style, Tree, Type
from kpsim.dialects.nft.document_syntax import Item
from kpsim.dialects.nft.layout import DYNAMIC_SIZE, HOOKS, POLICIES, SPACES, priority_of
from kpsim.dialects.nft.reading import read_limit, read_quota, read_statement, verdict
from kpsim.dialects.nft.refusals import Refused, asked_limits, refused_base, refused_in, with_unknown_lookups
from kpsim.dialects.nft.set_types import listed, set_type
from kpsim.dialects.nft.spelling import spelled
from kpsim.dialects.nft.syntax import Statement
from kpsim.errors import InputError, Problem, UnsupportedRule
from kpsim.maps import Map
from kpsim.ruleset import (
    Atom,
    Base,
    Chain,
    ChainType,
    Counter,
    DataType,
    Element,
    Goto,
    Jump,
    Key,
    Limit,
    NamePattern,
    Quota,
    Rule,
    Ruleset,
    Set,
    SetFlags,
    Space,
    Table,
    TableKey,
    Unknown,
    Unmodelled,
    UpdateSet,
    is_for_the_rest,
)
from kpsim.units import SECOND_NS

_FLAGS = {
    "constant": SetFlags.CONSTANT,
    "interval": SetFlags.INTERVAL,
    "timeout": SetFlags.TIMEOUT,
    "dynamic": SetFlags.DYNAMIC,
}
_Shared = TypeVar("_Shared", Limit, Quota)
_OF_OBJECTS = ("add", "create", "flush", "delete", "destroy")
#: the commands for each kind of object that has some besides ``add`` and ``create``
_VERBS = {
    "ruleset": ("flush",), "table": _OF_OBJECTS, "chain": _OF_OBJECTS, "set": _OF_OBJECTS, "map": _OF_OBJECTS,
    "element": ("add", "create", "delete", "destroy"), "rule": ("add", "insert", "replace", "delete"),
}  # fmt: skip
#: trees of statements that decide where a packet goes, so that not even what follows is known if they are not modelled
_CONDITIONS = ("match", "ct count", "meter", "set", "vmap")


@dataclass(slots=True)
class _Rule:
    statements: list[Statement]
    line: int | None


@dataclass(slots=True)
class _Chain:
    about: dict[str, Any]
    line: int | None
    rules: list[_Rule] = field(default_factory=list)
    made: int = 0


@dataclass(slots=True)
class _Set:
    about: dict[str, Any]
    line: int | None
    elements: list[tuple[Tree, int | None]] = field(default_factory=list)
    made: int = 0
    limited: bool = False  #: elements have limits for themselves


@dataclass(slots=True)
class _Table:
    about: dict[str, Any]
    line: int | None
    chains: dict[str, _Chain] = field(default_factory=dict)
    sets: dict[str, _Set] = field(default_factory=dict)
    limits: dict[str, tuple[dict[str, Any], int | None]] = field(default_factory=dict)
    counters: dict[str, int | None] = field(default_factory=dict)
    quotas: dict[str, tuple[dict[str, Any], int | None]] = field(default_factory=dict)


class Builder:
    """Takes items one by one and makes rulesets of them."""

    def __init__(self, file: str | None, *, keep: bool, style: Style, elsewhere: Collection[TableKey] = ()) -> None:
        self.problems: list[Problem] = []
        self._unsupported: list[UnsupportedRule] = []
        self._file, self._keep, self._style, self._elsewhere = file, keep, style, elsewhere
        self._tables: dict[tuple[str, str], _Table] = {}
        self._made = 0

    # --- items --------------------------------------------------------------------------------------------------------

    def take(self, items: Iterable[Item]) -> None:
        """Carries out what the items say, in order."""
        for item in items:
            try:
                self._take(item)
            except ValueError as error:
                self._problem(str(error), item.line)

    def _take(self, item: Item) -> None:
        if item.verb not in _VERBS.get(item.kind, ("add", "create")):
            raise ValueError(f"{item.verb} {item.kind} is not read")
        verb = "delete" if item.verb == "destroy" else "add" if item.verb == "create" else item.verb
        if item.kind == "ruleset":
            family = item.about["family"]
            self._tables = {key: table for key, table in self._tables.items() if family not in ("", key[0])}
            return
        if item.kind == "table":
            self._take_table(verb, item)
            return
        table = self._table(item)
        if item.kind == "rule":
            self._take_rule(verb, table, item)
        elif item.kind == "element":
            self._take_elements(verb, table, item)
        elif item.kind == "chain":
            self._take_chain(verb, table, item)
        elif item.kind in ("set", "map"):
            self._take_set(verb, table, item)
        elif item.kind == "limit":
            _no_new(item, table.limits)
            table.limits.setdefault(item.about["name"], (item.about, item.line))
        elif item.kind == "quota":
            _no_new(item, table.quotas)
            table.quotas.setdefault(item.about["name"], (item.about, item.line))
        elif item.kind == "counter":
            _no_new(item, table.counters)
            table.counters[item.about["name"]] = item.line
        # the model does not have the other objects; a rule that names one is refused

    def _table(self, item: Item) -> _Table:
        key = item.about["family"], item.about["table"]
        if key not in self._tables:
            raise ValueError(f"there is no table {' '.join(key)}")
        return self._tables[key]

    def _take_table(self, verb: str, item: Item) -> None:
        key = item.about["family"], item.about["name"]
        if verb == "add":
            if item.verb == "create" and key in self._tables:
                raise ValueError(f"there is a table {' '.join(key)} already")
            made = self._tables.setdefault(key, _Table(item.about, item.line))
            made.about["flags"] = item.about.get("flags", ())  # a comment stays
        elif key not in self._tables and item.verb != "destroy":
            raise ValueError(f"there is no table {' '.join(key)}")
        elif verb == "delete":
            self._tables.pop(key, None)
        else:
            for chain in self._tables[key].chains.values():
                chain.rules.clear()

    def _chain(self, table: _Table, name: str) -> _Chain:
        if name not in table.chains:
            raise ValueError(f"there is no chain {name} in table {table.about['name']}")
        return table.chains[name]

    def _take_chain(self, verb: str, table: _Table, item: Item) -> None:
        name = item.about["name"]
        if verb == "add":
            if name not in table.chains:
                self._made += 1
                table.chains[name] = _Chain(item.about, item.line, made=self._made)
            else:
                _no_new(item, table.chains)
                _add_again(table.chains[name].about, item.about)
            return
        if item.verb == "destroy" and name not in table.chains:
            return
        chain = self._chain(table, name)
        if verb == "flush":
            chain.rules.clear()
        else:
            del table.chains[name]

    def _take_rule(self, verb: str, table: _Table, item: Item) -> None:
        chain = self._chain(table, item.about["chain"])
        if verb not in ("add", "insert") or {"handle", "position", "index"} & (item.about.keys() - {"handle"}):
            raise ValueError(f"{verb} rule by its place is not read; `nft list ruleset` prints the rules in order")
        rule = _Rule(self._opened(table, item.statements), item.line)
        if verb == "add":
            chain.rules.append(rule)
        else:
            chain.rules.insert(0, rule)

    def _opened(self, table: _Table, statements: list[Statement]) -> list[Statement]:
        """Statements with chains of their own put into the table under names that the kernel would give them."""
        opened = []
        for statement in statements:
            for verb in ("jump", "goto"):
                block = statement.tree.get(verb, {}) if isinstance(statement.tree, dict) else {}
                if isinstance(block, dict) and "block" in block:
                    number = sum(name.startswith("__chain") for name in table.chains)
                    name = f"__chain{number}"
                    self._made += 1
                    made = table.chains[name] = _Chain({"name": name}, statement.line, made=self._made)
                    made.rules = [_Rule(self._opened(table, inner), inner[0].line) for inner in block["block"] if inner]
                    statement = statement._replace(tree={verb: {"target": name}}, source=f"{verb} {name}")
            opened.append(statement)
        return opened

    def _take_set(self, verb: str, table: _Table, item: Item) -> None:
        name = item.about["name"]
        if verb == "add":
            if name not in table.sets:
                self._made += 1
                table.sets[name] = _Set(item.about | {"kind": item.kind}, item.line, made=self._made)
            else:
                _no_new(item, table.sets)
                _set_again(table.sets[name].about, item.about)
            table.sets[name].elements += [(each, item.line) for each in item.about.get("elem", ())]
            return
        if name not in table.sets and item.verb != "destroy":
            raise ValueError(f"there is no {item.kind} {name}")
        if verb == "flush":
            table.sets[name].elements.clear()
        else:
            table.sets.pop(name, None)

    def _take_elements(self, verb: str, table: _Table, item: Item) -> None:
        name = item.about["name"]
        if name not in table.sets:
            raise ValueError(f"there is no set or map {name}")
        elements = table.sets[name].elements
        for each in item.about["elem"]:
            if verb == "add":
                elements.append((each, item.line))
                continue
            bare = _key_of(each)
            held = [at for at, (known, _) in enumerate(elements) if _key_of(known) == bare]
            if not held and item.verb != "destroy":
                raise ValueError(f"there is no such element in {name}")
            for at in reversed(held):
                del elements[at]

    def refuse_owned(self, tables: Collection[tuple[str, str]]) -> None:
        """Refuses tables that iptables-nft manages: nft lists them in a translation that leaves words out."""
        for key in sorted(tables):  # pairs of words
            table = self._tables.get(key)
            if table is None or self._keep or TableKey(SPACES.get(key[0], Space.INET), key[1]) in self._elsewhere:
                continue
            save = "ip6tables-save" if key[0] == "ip6" else "iptables-save"
            self._problem(
                f"table {' '.join(key)} is managed by iptables-nft: give the output of {save} as well, or --allow-unknown",
                table.line,
            )

    # --- rulesets -----------------------------------------------------------------------------------------------------

    def rulesets(self) -> tuple[Ruleset, ...]:
        """A ruleset for each family that has a table. InputError lists all problems; UnsupportedRule if none is of input."""
        tables = [table for key, each in self._tables.items() for table in self._finished(key, each)]
        self._raise()
        found = []
        for family in Family:
            own = [table for table in tables if table.key.space in (Space.of(family), Space.INET)]
            if own:
                found.append(Ruleset(family, Map({table.key: table for table in own}), self._made))
        return tuple(found)

    def _raise(self) -> None:
        unsupported = [problem for error in self._unsupported for problem in error.problems]
        if self.problems:
            raise InputError(sorted([*self.problems, *unsupported], key=lambda problem: problem.line or 0))
        if self._unsupported:
            first, *others = self._unsupported
            rest = [problem for error in others for problem in error.problems]
            raise UnsupportedRule(
                first.what, first.table, first.chain, first.number, first.problems[0].line, self._file, rest
            )

    def _problem(self, message: str, line: int | None) -> None:
        self.problems.append(Problem(message, file=self._file, line=line))

    def _refuse(self, what: str, table: str, chain: str, number: int, line: int | None) -> None:
        self._unsupported.append(UnsupportedRule(what, table, chain, number, line, self._file))

    def _finished(self, key: tuple[str, str], table: _Table) -> Iterator[Table]:
        """The table, and one for its chains that see frames."""
        space = SPACES.get(key[0])
        if (seeing := self._of_frames(key, table)) is not None:
            yield seeing
        if space is not None and TableKey(space, key[1]) not in self._elsewhere:
            yield self._made_table(TableKey(space, key[1]), table)

    def _made_table(self, name: TableKey, table: _Table) -> Table:
        sets: dict[str, Set] = {}
        types: dict[str, Sequence[Type]] = {}
        unread: set[str] = set()
        for each in table.sets.values():
            try:
                sets[each.about["name"]], types[each.about["name"]] = self._finished_set(each)
            except NotModelled as error:
                unread.add(each.about["name"])
                if not self._keep:
                    self._problem(f"{each.about['kind']} {each.about['name']}: not modelled: {error.what}", each.line)
            except ValueError as error:
                self._problem(f"{each.about['kind']} {each.about['name']}: {error}", each.line)
        limits = self._shared("limit", table.limits, read_limit)
        counters = {counter: Counter(counter) for counter in table.counters}
        quotas = self._shared("quota", table.quotas, read_quota)
        objects = Objects(sets, types, frozenset(unread), limits, counters, quotas, meters=set())
        chains: dict[str, Chain] = {}
        for name_, chain in table.chains.items():
            rules = tuple(
                rule
                for number, written in enumerate(chain.rules, 1)
                if (rule := self._rule(written, objects, (name, name_, number))) is not None
            )
            chains[name_] = Chain(name_, rules, self._base(name, chain), chain.about.get("comment", ""))
        self._check_targets(name, table, chains, sets)
        self._take_limited(name, table, chains)
        sets = _dynamic(sets, chains.values())
        made = Table(
            name,
            Map(chains),
            Map(sets),
            table.about.get("comment", ""),
            "dormant" in listed(table.about.get("flags", ())),
            Map(
                {("limit", each): limit for each, limit in limits.items()}
                | {("counter", each): c for each, c in counters.items()}
                | {("quota", each): quota for each, quota in quotas.items()}
            ),
        )
        if not self.problems and not self._unsupported:
            for refused in refused_in(made):
                self._refused(refused, table)
        return made

    def _refused(self, refused: Refused, table: _Table) -> None:
        chain = table.chains[refused.chain]
        where = f"{table.about['name']}/{refused.chain}"
        if refused.number:
            self._problem(f"{refused.why} ({where} rule {refused.number})", chain.rules[refused.number - 1].line)
        else:
            self._problem(f"{refused.why} ({where})", chain.line)

    def _of_frames(self, key: tuple[str, str], table: _Table) -> Table | None:
        """A table of arp sees no IP packet. A chain of bridge or netdev may drop some, and so may one at ingress."""
        seeing = [
            chain
            for chain in table.chains.values()
            if "hook" in chain.about and (chain.rules or chain.about.get("policy") == "drop")
            if key[0] not in SPACES or chain.about["hook"] in frames.HOOKS
        ]
        if key[0] == "arp" or not seeing:
            return None
        if not self._keep:
            names = ", ".join(chain.about["name"] for chain in seeing)
            self._problem(
                f"table {' '.join(key)}: chains that see frames ({names}) are not modelled, and may drop IP packets; with --allow-unknown "
                "packets that pass them end unknown",
                table.line,
            )
        return frames.kept_table(*key, [chain.about for chain in seeing])

    def _shared(
        self, kind: str, declared: Mapping[str, tuple[dict[str, Any], int | None]], read: Callable[[Tree, str], _Shared]
    ) -> dict[str, _Shared]:
        """The limits or the quotas of a table."""
        found = {}
        for name, (about, line) in declared.items():
            try:
                found[name] = read(about, name)
            except (ValueError, KeyError, TypeError) as error:
                self._problem(
                    f"{kind} {name}: {error if type(error) is ValueError else f'not understood: {about}'}", line
                )
        return found

    def _base(self, table: TableKey, chain: _Chain) -> Base | None:
        about = chain.about
        if "hook" not in about:
            if "policy" in about:
                self._problem(f"chain {about['name']}: a policy is for a chain with a hook", chain.line)
            return None
        try:
            kind = ChainType(about["type"])
        except ValueError:
            self._problem(f"not a type of chain: {about['type']}", chain.line)
            return None
        hook = HOOKS.get(about["hook"])
        if (why := frames.refused(table.space, about)) is not None:
            self._problem(f"chain {about['name']}: {why}", chain.line)
        if about["hook"] in frames.HOOKS:
            return None
        if hook is None:
            self._problem(f"chain {about['name']}: hook {about['hook']} is not modelled", chain.line)
            return None
        try:
            policy = about.get("policy", "accept")
            if policy not in POLICIES:
                raise ValueError(f"not a policy: {policy}")
            base = Base(kind, hook, priority_of(about["prio"], hook), POLICIES[policy], chain.made)
            if (why := refused_base(base)) is not None:
                raise ValueError(why)
            return base
        except ValueError as error:
            self._problem(f"chain {about['name']}: {error}", chain.line)
            return None

    # --- rules --------------------------------------------------------------------------------------------------------

    def _rule(self, written: _Rule, objects: Objects, at: tuple[TableKey, str, int]) -> Rule | None:
        context = Context(at[0].space, objects, held=self._style is Style.LISTED)
        comment = ""
        pieces: list[tuple[Statement, int]] = []
        for statement in written.statements:
            if isinstance(statement.tree, dict) and "comment" in statement.tree:
                comment = statement.tree["comment"]
                continue
            first = len(context.body)
            if (
                context.ended and self._style is Style.LISTED
            ):  # nft takes none, other programs load some, and nft lists them
                pieces.append((statement, first))
                continue
            try:
                if context.ended:
                    raise ValueError("a statement behind one that ends the rule has no effect")
                read_statement(statement.tree, statement.source, context)
            except NotModelled as error:
                if not self._keep:
                    self._refuse(error.what, at[0].name, at[1], at[2], statement.line)
                    return None
                words = statement.source
                context.add(Unknown(words) if next(iter(statement.tree)) in _CONDITIONS else Unmodelled(words))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                message = str(error) if isinstance(error, ValueError) else f"not understood: {statement.source}"
                self._problem(f"{message} ({at[0].name}/{at[1]} rule {at[2]})", statement.line)
                return None
            pieces.append((statement, first))
        if not pieces:
            self._problem(f"a rule without statements ({at[0].name}/{at[1]} rule {at[2]})", written.line)
        rule = Rule(tuple(context.body), comment)
        return Rule(rule.body, comment, spelling=spelled(rule, at[0].space, self._style, pieces))

    def _take_limited(self, key: TableKey, table: _Table, chains: dict[str, Chain]) -> None:
        limited = {name for name, made in table.sets.items() if made.limited}
        for chain, number, name in asked_limits(tuple(chains.values()), limited):
            if self._keep:
                chains[chain] = with_unknown_lookups(chains[chain], number, name, key.space, self._style)
                continue
            line = table.chains[chain].rules[number - 1].line
            self._refuse(f"a look-up in {name}, whose elements have limits", key.name, chain, number, line)

    def _check_targets(
        self, key: TableKey, table: _Table, chains: Mapping[str, Chain], sets: Mapping[str, Set]
    ) -> None:
        for chain in chains.values():
            for number, rule in enumerate(chain.rules, 1):
                for part in rule.body:
                    if isinstance(part, Jump | Goto):
                        self._check_target(part.chain, chains, f"{key.name}/{chain.name} rule {number}", table)
        for each in sets.values():
            for element in each.elements.values():
                if isinstance(element.value, Jump | Goto):
                    self._check_target(element.value.chain, chains, f"map {each.name}", table)

    def _check_target(self, name: str, chains: Mapping[str, Chain], where: str, table: _Table) -> None:
        if name not in chains:
            self._problem(f"there is no chain {name} ({where})", table.line)
        elif chains[name].base is not None:
            self._problem(f"{name} is a base chain: no rule can jump to it ({where})", table.line)

    # --- sets ---------------------------------------------------------------------------------------------------------

    def _finished_set(self, made: _Set) -> tuple[Set, list[Type]]:
        about = made.about
        kind, types, data = set_type(about)
        if (kind.data is not None) != (about["kind"] == "map"):
            raise ValueError("a set has no values" if kind.data is not None else "a map has values")
        value: Any = None
        if kind.data == (DataType.VERDICT,):
            value = verdict
        elif kind.data is not None:
            value = partial(keys.read_parts, types=data)
        if about.get("stmt") and set(about["stmt"]) - {"counter", "last"}:
            raise NotModelled(f"{about['stmt'][0]} for each element of a set")
        elements: dict[Key, Element] = {}
        live: list[tuple[tuple[Atom, ...], int | None]] = []
        for tree, line in made.elements:
            try:
                key, element, expires, limited = keys.read_element(tree, types, value)
                made.limited |= limited
            except ValueError as error:
                self._problem(f"{about['kind']} {about['name']}: {error}", line)
                continue
            except (KeyError, TypeError, AttributeError, IndexError):
                self._problem(f"{about['kind']} {about['name']}: not an element: {tree}", line)
                continue
            if expires is not None and not any(isinstance(part, tuple | NamePattern) for part in key):
                live.append((key, expires))  # type: ignore[arg-type]
            elif key in elements and elements[key].value != element.value:
                self._problem(f"map {about['name']}: the same key twice with different values", line)
            else:
                elements[key] = element
        flags = _flags(about.get("flags", ())) | (SetFlags.TIMEOUT if "timeout" in about else SetFlags(0))
        _check_intervals(elements, flags, types, merged=bool(about.get("auto-merge")))
        finished = Set(
            Map(elements), about["name"], kind, flags, _time_ns(about.get("timeout")), _time_ns(about.get("gc-interval")),
            about.get("size"), about.get("comment", ""), bool(about.get("auto-merge")),
            about.get("policy", "").removeprefix("performance"), made.made, tuple(live),
        )  # fmt: skip
        return finished, types


def _no_new(item: Item, held: Collection[str]) -> None:
    """ValueError if an object is to be created that there is."""
    if item.verb == "create" and item.about["name"] in held:
        raise ValueError(f"there is a {item.kind} {item.about['name']} already")


def _add_again(held: dict[str, Any], asked: Mapping[str, Any]) -> None:
    """A chain that exists takes another policy, and nothing else. A comment stays."""
    if "hook" in asked and (held.get("hook") != asked["hook"] or _place(held) != _place(asked)):
        raise ValueError(f"chain {held['name']} exists with another type, hook or priority")
    if "policy" in asked:
        held["policy"] = asked["policy"]


def _place(about: Mapping[str, Any]) -> tuple[Any, ...]:
    hook = HOOKS.get(about["hook"])
    return about["type"], about["prio"] if hook is None else priority_of(about["prio"], hook), about.get("dev")


def _set_again(held: dict[str, Any], asked: Mapping[str, Any]) -> None:
    """A set that exists takes another size and other times. A comment stays."""
    for name in ("type", "typeof", "map", "map typeof", "flags"):
        if held.get(name) != asked.get(name):
            raise ValueError(f"{held['kind']} {held['name']} exists with another type or other flags")
    held.update({name: asked[name] for name in ("size", "timeout", "gc-interval") if name in asked})


def _check_intervals(elements: Mapping[Key, Element], flags: SetFlags, types: Sequence[Type], *, merged: bool) -> None:
    """ValueError for intervals in a set that does not say so, or that overlap."""
    if SetFlags.INTERVAL not in flags:
        if any(isinstance(part, tuple | NamePattern) for key in elements for part in key if not is_for_the_rest(key)):
            raise ValueError("intervals need the flag interval")
    elif len(types) == 1 and not merged:
        keys.check_overlap(elements)


def _dynamic(sets: dict[str, Set], chains: Iterable[Chain]) -> dict[str, Set]:
    """The sets; those that a rule puts members into have the flag that says so, which JSON leaves out.

    The size that the kernel gives such a set goes without saying.
    """
    for chain in chains:
        for rule in chain.rules:
            for part in rule.body:
                if isinstance(part, UpdateSet) and not (made := sets[part.set.name]).flags & SetFlags.DYNAMIC:
                    sets[made.name] = replace(made, flags=made.flags | SetFlags.DYNAMIC)
    return {
        name: replace(made, size=None) if SetFlags.DYNAMIC in made.flags and made.size == DYNAMIC_SIZE else made
        for name, made in sets.items()
    }


def _key_of(tree: Tree) -> Tree:
    """The key of an element as it was written."""
    key = tree[0] if isinstance(tree, list) else tree
    return key["elem"]["val"] if isinstance(key, dict) and "elem" in key else key


def _flags(words: Any) -> SetFlags:
    flags = SetFlags(0)
    for word in listed(words):
        if word not in _FLAGS:
            raise ValueError(f"not a flag of sets: {word}")
        flags |= _FLAGS[word]
    return flags


def _time_ns(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * SECOND_NS)
