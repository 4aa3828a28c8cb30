"""Rules, chains, tables, rulesets: immutable values. Two versions of a value share what did not change.

A base chain says where netfilter calls it: type, hook and priority. The code that runs chains therefore needs no table
names.
"""

import enum
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import field, replace
from typing import Any, NamedTuple

from kpsim.addresses import Family
from kpsim.maps import Map
from kpsim.ruleset.expressions import Counter, Limit, Quota
from kpsim.ruleset.fields import slot_setters
from kpsim.ruleset.origin import FOREIGN, Origin
from kpsim.ruleset.references import names_in, names_in_set
from kpsim.ruleset.sets import Element, Key, Set
from kpsim.ruleset.statements import Body, Statement, target_of
from kpsim.ruleset.verdicts import Verdict
from kpsim.valueclass import dataclass


class Hook(enum.StrEnum):
    """The five places where netfilter sees a packet."""

    PREROUTING = "PREROUTING"
    INPUT = "INPUT"
    FORWARD = "FORWARD"
    OUTPUT = "OUTPUT"
    POSTROUTING = "POSTROUTING"


class ChainType(enum.Enum):
    """What a base chain may do. NAT chains see only the packet that begins a connection."""

    FILTER = "filter"
    NAT = "nat"
    ROUTE = "route"  #: a packet that the chain changes in OUTPUT is routed again


@dataclass(frozen=True, slots=True)
class Base:
    """Where netfilter calls a chain.

    If two chains have the same priority, the one registered later runs first (K-9.1).
    """

    type: ChainType
    hook: Hook
    priority: int
    policy: Verdict = Verdict.ACCEPT
    registered: int = field(default=0, compare=False)  #: when, among the chains of a kernel; 0: not known

    def __str__(self) -> str:
        return f"{self.type.value} hook {self.hook.lower()} priority {self.priority}"


@dataclass(frozen=True, slots=True, init=False)
class Rule:
    """One rule. The kernel evaluates ``body`` in order and stops at the first expression that is false.

    Equality ignores why the rule exists and how its dialect wrote it. ``spelling`` belongs to the dialect that read the
    rule; other dialects ignore it. Without a spelling, a dialect writes the rule in its canonical form.
    """

    body: Body
    comment: str = ""
    origin: Origin = field(default=FOREIGN, compare=False)
    spelling: Hashable = field(default=None, compare=False, repr=False)

    def __init__(self, body: Body, comment: str = "", origin: Origin = FOREIGN, spelling: Hashable = None) -> None:
        # a full sync makes some 100,000 rules, and the generated __init__ of a frozen class takes three times as long
        _set_body(self, body)
        _set_comment(self, comment)
        _set_origin(self, origin)
        _set_spelling(self, spelling)

    @property
    def target(self) -> Statement | None:
        """The statement at the end, or None."""
        return target_of(self.body)


_set_body, _set_comment, _set_origin, _set_spelling = slot_setters(Rule)


def interchangeable(rules: Sequence[Rule], others: Sequence[Rule]) -> bool:
    """Whether nobody can tell these rules from the others: they are equal, exist for the same reasons, and are written alike."""
    return len(rules) == len(others) and all(map(_interchangeable, rules, others))


def _interchangeable(rule: Rule, other: Rule) -> bool:
    if rule is other:
        return True
    return rule == other and rule.origin == other.origin and rule.spelling == other.spelling


class Chain:
    """A named list of rules: immutable. ``base`` is set for the chains that netfilter calls itself.

    ``compiled`` is a cache for the code that runs the chain (``packetpath.index``). It depends on the chain's value
    only and never goes stale, because a changed chain is another object.
    """

    def __init__(self, name: str, rules: tuple[Rule, ...] = (), base: Base | None = None, comment: str = "") -> None:
        self.name = name
        self.base = base
        self.comment = comment
        self._rules = rules
        self.compiled: Any = None

    @property
    def rules(self) -> tuple[Rule, ...]:
        return self._rules

    @property
    def policy(self) -> Verdict | None:
        """The verdict on a packet that no rule of a base chain decided. None for other chains."""
        return self.base.policy if self.base else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Chain):
            return NotImplemented
        return self is other or (self.name, self.base, self.comment, self.rules) == (
            other.name,
            other.base,
            other.comment,
            other.rules,
        )

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Chain({self.name!r}, base={self.base})"


class Space(enum.Enum):
    """Which packets the chains of a table see. The value is nft's word for it."""

    IP = "ip"
    IP6 = "ip6"
    INET = "inet"  #: both: such a table stands in the rulesets of both families

    @classmethod
    def of(cls, family: Family) -> "Space":
        """The space of one family alone."""
        return cls.IP if family is Family.IPV4 else cls.IP6


class TableKey(NamedTuple):
    """Names a table as the kernel does. Its text is the name alone; a dialect whose tool tells spaces apart writes
    the space.
    """

    space: Space
    name: str

    def __str__(self) -> str:
        return self.name


class ElementReference(NamedTuple):
    """An element of a map, and the map's name; a map that is written in a rule has none."""

    set: str
    key: Key
    element: Element


class RuleReference(NamedTuple):
    """A rule and its place. ``number`` counts from 1, as iptables does. ``rule`` None stands for the chain's policy.

    ``element`` is what a map said, if the rule's verdict or translation came out of a map. If another rule asked the
    map, and its element led to this rule, ``asked_by`` is that rule.
    """

    table: TableKey
    chain: str
    number: int
    rule: Rule | None
    element: ElementReference | None = None
    asked_by: Rule | None = None

    @property
    def origin(self) -> Origin:
        """Why the verdict exists: the element's origin if it has one, else the rule's."""
        if self.element is not None and self.element.element.origin != FOREIGN:
            return self.element.element.origin
        return FOREIGN if self.rule is None else self.rule.origin

    def __str__(self) -> str:
        if self.rule is None:
            return f"{self.table}/{self.chain} policy"
        comment = (self.element.element.comment if self.element is not None else "") or self.rule.comment
        return f"{self.table}/{self.chain} rule {self.number}" + (f" ({comment})" if comment else "")


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its chains, sets and other objects by name. The maps are persistent, so keeping an old version costs nothing.

    netfilter does not call the base chains of a ``dormant`` table. ``objects`` are what several rules may share: a counter,
    or a limit whose bucket they all take from.
    """

    key: TableKey
    chains: Map[str, Chain] = Map()
    sets: Map[str, Set] = Map()
    comment: str = ""
    dormant: bool = False
    objects: Map[tuple[str, str], Counter | Limit | Quota] = Map()
    counted: Map[str, int] | None = field(default=None, compare=False, repr=False)  #: ``uses``, once they are known

    @property
    def uses(self) -> Map[str, int]:
        """How often rules and elements name each chain and set, as :mod:`~kpsim.ruleset.references` names them."""
        if self.counted is None:
            counts: dict[str, int] = {}
            for name in self._named():
                counts[name] = counts.get(name, 0) + 1
            object.__setattr__(self, "counted", Map(counts))
        assert self.counted is not None
        return self.counted

    def _named(self) -> Iterator[str]:
        for chain in self.chains.values():
            for rule in chain.rules:
                yield from names_in(rule.body)
        for of in self.sets.values():
            yield from names_in_set(of)

    @property
    def name(self) -> str:
        return self.key.name

    def __getitem__(self, chain: str) -> Chain:
        return self.chains[chain]

    def ordered(self) -> Iterator[Chain]:
        """Base chains in the order of the hooks, then the others by name."""
        yield from self.base_chains()
        for name in sorted(self.chains):
            if self.chains[name].base is None:
                yield self.chains[name]

    def base_chains(self) -> list[Chain]:
        """The chains that netfilter calls, sorted by hook, then priority, then name."""
        found = [chain for chain in self.chains.values() if chain.base is not None]
        return sorted(found, key=_place)


_HOOK_ORDER = {hook: number for number, hook in enumerate(Hook)}


def _place(chain: Chain) -> tuple[int, int, str]:
    assert chain.base is not None
    return _HOOK_ORDER[chain.base.hook], chain.base.priority, chain.name


def _by_name(key: TableKey) -> tuple[str, str]:
    return key.name, key.space.value


@dataclass(frozen=True, slots=True)
class Ruleset:
    """All rules of one family on a node at one moment.

    ``made`` counts the base chains and sets that this kernel was told to make: the numbers of ``Base.registered`` and
    ``Set.generation``.
    """

    family: Family
    tables: Map[TableKey, Table] = Map()
    made: int = field(default=0, compare=False)

    @classmethod
    def of(cls, family: Family, *tables: Table) -> "Ruleset":
        """The ruleset that consists of these tables."""
        return cls(family, Map({table.key: table for table in tables}))

    def table(self, name: str) -> Table:
        """The table of this name that sees packets of this family alone. KeyError if there is none."""
        return self.tables[TableKey(Space.of(self.family), name)]

    def chain(self, table: str, chain: str) -> Chain:
        """The chain of a table. KeyError if there is no such table or chain."""
        return self.table(table).chains[chain]

    def without(self, tables: Collection[TableKey]) -> "Ruleset":
        """The ruleset without some tables."""
        kept = {key: table for key, table in self.tables.items() if key not in tables}
        return self if len(kept) == len(self.tables) else replace(self, tables=Map(kept))

    def in_order(self) -> list[Table]:
        """The tables, sorted by name, then by space."""
        return [self.tables[key] for key in sorted(self.tables, key=_by_name)]


def united(first: Ruleset, second: Ruleset) -> Ruleset:
    """The tables of two rulesets of one family. ValueError if both have the same table."""
    for key in second.tables:
        if key in first.tables:
            raise ValueError(f"table {key} of {second.family.label} twice")
    return Ruleset(first.family, first.tables.update(second.tables))
