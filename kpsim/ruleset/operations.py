"""What a transaction of nft does to a ruleset: add, flush and delete tables, chains, rules, sets and elements.

The kernel takes a transaction as a whole or not at all. What it refuses was measured (K-9.11): an element whose key
has another value already, a rule or an element that names something missing, the deletion of something in use. Two
things it refuses are not modelled, because no rule of kube-proxy can cause them: jumps in a circle and jumps nested too
deep.
"""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from kpsim.maps import Map
from kpsim.ruleset.references import names_in
from kpsim.ruleset.sets import PLAIN, Element, Key, Set
from kpsim.ruleset.tables import Chain, Rule, Ruleset, Table, TableKey, interchangeable
from kpsim.ruleset.verdicts import Goto, Jump, Verdict


class Verb(enum.Enum):
    ADD = "add"  #: makes an object; one that is there already stays, with its contents and its comment
    FLUSH = "flush"  #: empties a chain or a set; of a table, every chain
    DELETE = "delete"


class Entry(NamedTuple):
    """A key of a set, and what the set knows of it."""

    key: Key
    element: Element = PLAIN


class Operation(NamedTuple):
    """One line of a transaction. Of an object that is not added only the name counts, and of an entry the key.

    A chain or set is added without its rules or elements. ``at`` is the chain of a rule or the set of an entry.
    """

    verb: Verb
    table: TableKey
    object: Table | Chain | Set | Rule | Entry
    at: str = ""


class Refusal(enum.StrEnum):
    """Why the kernel refuses an operation, in the words in which nft says so."""

    ABSENT = "No such file or directory"
    PRESENT = "File exists"
    BUSY = "Device or resource busy"
    UNSUPPORTED = "Operation not supported"


class Refused(Exception):
    """The kernel refused a transaction because of one of its operations, and took nothing of it."""

    def __init__(self, refusal: Refusal, operation: Operation) -> None:
        verb, key, subject, at = operation
        kind = "element" if isinstance(subject, Entry) else type(subject).__name__.lower()
        name = subject.name if isinstance(subject, Chain | Set) else at
        super().__init__(f"{verb.value} {kind} {key.space.value} {f'{key} {name}'.rstrip()}: {refusal}")
        self.refusal = refusal
        self.operation = operation


def apply(ruleset: Ruleset, operations: Iterable[Operation]) -> Ruleset:
    """The ruleset after a transaction. Refused if the kernel does not take it.

    New base chains and sets get the next numbers of ``Ruleset.made``.
    """
    transaction = _Transaction(ruleset)
    for operation in operations:
        transaction.do(operation)
    return transaction.finish()


class _Transaction:
    """A ruleset while a transaction works on it."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._ruleset = ruleset
        self._made = ruleset.made
        self._drafts: dict[TableKey, _TableDraft | None] = {}

    def do(self, operation: Operation) -> None:
        verb, key, subject, at = operation
        if type(subject) is Table:
            self._do_table(operation)
            return
        draft = self._draft(key)
        if draft is None:
            raise Refused(Refusal.ABSENT, operation)
        try:
            if type(subject) is Rule:
                draft.add_rule(at, subject)
            elif type(subject) is Chain:
                self._do_chain(draft, verb, subject)
            elif type(subject) is Entry:
                if verb is Verb.ADD:
                    draft.set(at).add(subject)
                else:
                    draft.set(at).delete(subject.key)
            else:
                assert isinstance(subject, Set)
                self._do_set(draft, verb, subject)
        except _No as no:
            raise Refused(no.refusal, operation) from None

    def _draft(self, key: TableKey) -> "_TableDraft | None":
        try:
            return self._drafts[key]
        except KeyError:
            table = self._ruleset.tables.get(key)
            draft = self._drafts[key] = None if table is None else _TableDraft(table)
            return draft

    def _do_table(self, operation: Operation) -> None:
        table = operation.object
        assert isinstance(table, Table)
        draft = self._draft(table.key)
        if operation.verb is Verb.ADD:
            if draft is None:
                self._drafts[table.key] = _TableDraft(Table(table.key, comment=table.comment, dormant=table.dormant))
        elif draft is None:
            raise Refused(Refusal.ABSENT, operation)
        elif operation.verb is Verb.FLUSH:
            draft.flush()
        else:
            self._drafts[table.key] = None

    def _do_chain(self, draft: "_TableDraft", verb: Verb, chain: Chain) -> None:
        if verb is Verb.ADD:
            if draft.add_chain(chain, self._made + 1):
                self._made += 1
        elif verb is Verb.FLUSH:
            draft.flush_chain(draft.chain(chain.name))
        else:
            draft.delete_chain(chain.name)

    def _do_set(self, draft: "_TableDraft", verb: Verb, of: Set) -> None:
        if verb is Verb.ADD:
            if draft.add_set(of, self._made + 1):
                self._made += 1
        elif verb is Verb.FLUSH:
            draft.set(of.name).flush()
        else:
            draft.delete_set(of.name)

    def finish(self) -> Ruleset:
        tables = self._ruleset.tables
        with tables.mutate() as changing:
            for key, draft in self._drafts.items():
                if draft is None:
                    changing.pop(key, None)
                else:
                    changing[key] = draft.finish()
            tables = changing.finish()
        return Ruleset(self._ruleset.family, tables, self._made)


class _No(Exception):
    """The kernel refuses the operation at hand."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


class _ChainDraft:
    __slots__ = ("chain", "rules")

    def __init__(self, chain: Chain) -> None:
        self.chain = chain  #: as it was
        self.rules: list[Rule] | None = None  #: None: those of ``chain``

    def finish(self) -> Chain:
        """The chain now; the same object if it has the same rules, since what was compiled for it still holds."""
        chain, rules = self.chain, self.rules
        if rules is None or interchangeable(rules, chain.rules):
            return chain
        return Chain(chain.name, tuple(rules), chain.base, chain.comment)


class _TableDraft:
    """A table while a transaction works on it. Objects that the transaction does not touch stay in ``_table``."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._chains: dict[str, _ChainDraft | None] = {}  #: touched; None: deleted
        self._sets: dict[str, _SetDraft | None] = {}
        self.uses: dict[str, int] = {}  #: what was added to ``Table.uses``

    def chain(self, name: str) -> _ChainDraft:
        if name in self._chains:
            found = self._chains[name]
        else:
            chain = self._table.chains.get(name)
            found = self._chains[name] = None if chain is None else _ChainDraft(chain)
        if found is None:
            raise _No(Refusal.ABSENT)
        return found

    def has_chain(self, name: str) -> bool:
        if name in self._chains:
            return self._chains[name] is not None
        return name in self._table.chains

    def set(self, name: str) -> "_SetDraft":
        if name in self._sets:
            found = self._sets[name]
        else:
            of = self._table.sets.get(name)
            found = self._sets[name] = None if of is None else _SetDraft(of, self)
        if found is None:
            raise _No(Refusal.ABSENT)
        return found

    def has_set(self, name: str) -> bool:
        if name in self._sets:
            return self._sets[name] is not None
        return name in self._table.sets

    def use(self, names: Iterable[str], count: int) -> None:
        """Adds to the use counts of the chains and sets with these names (:mod:`~kpsim.ruleset.references`)."""
        uses = self.uses
        for name in names:
            uses[name] = uses.get(name, 0) + count

    def use_existing(self, names: Iterable[str]) -> None:
        """Counts one use of each name more. Refuses names of nothing."""
        uses = self.uses
        for name in names:
            if not (self.has_set(name[1:]) if name.startswith("@") else self.has_chain(name)):
                raise _No(Refusal.ABSENT)
            uses[name] = uses.get(name, 0) + 1

    def _is_used(self, name: str) -> bool:
        return self._table.uses.get(name, 0) + self.uses.get(name, 0) > 0

    def add_rule(self, at: str, rule: Rule) -> None:
        draft = self.chain(at)
        self.use_existing(names_in(rule.body))
        if draft.rules is None:
            draft.rules = list(draft.chain.rules)
        draft.rules.append(rule)

    def add_chain(self, wanted: Chain, number: int) -> bool:
        """Returns True if a base chain was made; ``number`` is then its number."""
        if not self.has_chain(wanted.name):
            base = None if wanted.base is None else replace(wanted.base, registered=number)
            self._chains[wanted.name] = _ChainDraft(Chain(wanted.name, (), base, wanted.comment))
            return base is not None
        if wanted.base is not None:
            self._renew_base(self.chain(wanted.name), wanted)
        return False

    def _renew_base(self, draft: _ChainDraft, wanted: Chain) -> None:
        """A base chain that is there may get another policy; ACCEPT counts as not said."""
        found, base = draft.chain.base, wanted.base
        assert base is not None
        if found is None or found.type is not base.type:
            raise _No(Refusal.PRESENT)
        if (found.hook, found.priority) != (base.hook, base.priority):
            raise _No(Refusal.UNSUPPORTED)
        if base.policy not in (found.policy, Verdict.ACCEPT):
            chain = draft.chain
            if draft.rules is None:
                draft.rules = list(chain.rules)
            draft.chain = Chain(chain.name, (), replace(found, policy=base.policy), chain.comment)

    def flush_chain(self, draft: _ChainDraft) -> None:
        for rule in draft.chain.rules if draft.rules is None else draft.rules:
            self.use(names_in(rule.body), -1)
        draft.rules = []

    def delete_chain(self, name: str) -> None:
        """A chain's own rules go with it. One that leads to the chain itself keeps it."""
        draft = self.chain(name)
        if self._is_used(name):
            raise _No(Refusal.BUSY)
        self.flush_chain(draft)
        self._chains[name] = None

    def add_set(self, wanted: Set, number: int) -> bool:
        """Returns True if a set was made; ``number`` is then its number."""
        if not self.has_set(wanted.name):
            self._sets[wanted.name] = _SetDraft(replace(wanted, elements=_NO_ELEMENTS, generation=number), self)
            return True
        draft = self.set(wanted.name)
        found = draft.of
        if (found.type, found.flags) != (wanted.type, wanted.flags):
            raise _No(Refusal.PRESENT)
        if found.timeout_ns != wanted.timeout_ns:
            draft.of = replace(found, timeout_ns=wanted.timeout_ns)
        return False

    def delete_set(self, name: str) -> None:
        self.set(name).flush()
        if self._is_used(f"@{name}"):
            raise _No(Refusal.BUSY)
        self._sets[name] = None

    def flush(self) -> None:
        for name in [*self._chains, *self._table.chains]:
            if self.has_chain(name):
                self.flush_chain(self.chain(name))

    def finish(self) -> Table:
        table = self._table
        with table.chains.mutate() as chains, table.sets.mutate() as sets:
            for name, chain in self._chains.items():
                if chain is None:
                    chains.pop(name, None)
                else:
                    chains[name] = chain.finish()
            for name, of in self._sets.items():
                if of is None:
                    sets.pop(name, None)
                else:
                    sets[name] = of.finish()
            return replace(table, chains=chains.finish(), sets=sets.finish(), counted=self._counted())

    def _counted(self) -> Map[str, int]:
        before = self._table.uses
        with before.mutate() as counts:
            for name, more in self.uses.items():
                count = before.get(name, 0) + more
                if count:
                    counts[name] = count
                else:
                    counts.pop(name, None)
            return counts.finish()


_NO_ELEMENTS: Map[Key, Element] = Map()


class _SetDraft:
    __slots__ = ("_changes", "_elements", "_table", "of")

    def __init__(self, of: Set, table: _TableDraft) -> None:
        self.of = of
        self._table = table
        self._elements = of.elements
        self._changes: dict[Key, Element | None] = {}  #: None: deleted

    def _get(self, key: Key) -> Element | None:
        if key in self._changes:
            return self._changes[key]
        return self._elements.get(key)

    def add(self, entry: Entry) -> None:
        """An element that is there keeps its comment; another value for its key is refused (NFT-8.6)."""
        key, element = entry
        leads_to = [*_chain_of(element)]
        self._table.use_existing(leads_to)
        found = self._get(key)
        if found is None:
            self._changes[key] = element
            return
        self._table.use(leads_to, -1)
        if found.value != element.value:
            raise _No(Refusal.PRESENT)

    def delete(self, key: Key) -> None:
        found = self._get(key)
        if found is None:
            raise _No(Refusal.ABSENT)
        self._table.use(_chain_of(found), -1)
        self._changes[key] = None

    def flush(self) -> None:
        for key, element in self._elements.items():
            if key not in self._changes:
                self._table.use(_chain_of(element), -1)
        for changed in self._changes.values():
            if changed is not None:
                self._table.use(_chain_of(changed), -1)
        self._elements = _NO_ELEMENTS
        self._changes = {}

    def finish(self) -> Set:
        elements = self._elements
        if self._changes:
            with elements.mutate() as changing:
                for key, element in self._changes.items():
                    if element is None:
                        changing.pop(key, None)
                    else:
                        changing[key] = element
                elements = changing.finish()
        return self.of if elements is self.of.elements else replace(self.of, elements=elements)


def _chain_of(element: Element) -> Iterator[str]:
    value = element.value
    if isinstance(value, Jump | Goto):
        yield value.chain
