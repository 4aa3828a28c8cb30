"""Dialects: how tools spell rules as text. Here are the table of dialects, and what each of them can do.

Code that prints or reads a rule calls :func:`dialect_of` or :func:`dialect_reading`, and names no dialect. Only the
backends, which write rules for one tool, import a dialect by its name. ``packetpath`` says what a rule does to a
packet.
"""

import enum
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Literal, NamedTuple, Protocol

from kpsim.addresses import Family
from kpsim.ipvs.servers import VirtualServer, VirtualServerKey
from kpsim.maps import Map
from kpsim.ruleset import Chance, Expression, Rule, RuleReference, Ruleset, Set, Statement, TableKey

#: what a parser does with a rule that is not modelled: it raises UnsupportedRule, or keeps its words as Unknown
OnUnknown = Literal["refuse", "keep"]


class Form(enum.Enum):
    """One of a dialect's two spellings of the same rule."""

    SENT = enum.auto()  #: as kube-proxy writes it for the tool
    LISTED = enum.auto()  #: as the tool prints what the kernel holds


class Dialect(Protocol):
    """One tool's language."""

    @property
    def name(self) -> str:
        """The name of the tool, as messages print it."""

    def manages(self, table: TableKey) -> bool:
        """Whether the tool manages this table."""

    def wrote(self, rule: Rule) -> bool:
        """Whether the rule was read from this language, or made for it."""

    def reads(self, text: str) -> bool:
        """Whether the text looks like rules in this language."""

    def families(self, text: str, *, file: str | None = None) -> tuple[Family, ...]:
        """The families whose rules the text holds; empty if the text does not tell. An InputError names ``file``."""

    def parse(
        self,
        text: str,
        family: Family | None = None,
        *,
        file: str | None = None,
        unknown: OnUnknown = "refuse",
        elsewhere: Collection[TableKey] = (),
        ipsets: Mapping[str, Set] | None = None,
    ) -> tuple[Ruleset, ...]:
        """The rules of a text, one ruleset for each family in it. Tables that stand ``elsewhere`` are passed over.

        With ``family`` the result is one ruleset. It has that family's part of the text or, if the text has no parts,
        the whole text read as that family's. Without ``family`` the text or the name of ``file`` must tell the family.
        ``ipsets`` are those that the machine had; None: they are not known, so look-ups in them are not modelled.
        InputError lists everything that is wrong, each with file and line. It is an UnsupportedRule if the only fault
        is that rules are not modelled.
        """

    def render(self, ruleset: Ruleset, form: Form) -> str:
        """All rules as one document."""

    def spell(self, reference: RuleReference, family: Family, form: Form) -> str:
        """A rule on one line, with the command that adds it to its chain. ``reference.rule`` must not be None."""

    def words(self, reference: RuleReference, family: Family, form: Form) -> str:
        """As :meth:`spell`, without the command and the chain; empty for a rule without words.

        If ``reference`` has an element, its words follow those of the rule.
        """

    def element(self, reference: RuleReference, family: Family) -> str:
        """The element of a map that said what the rule did, as the tool writes it; empty if there is none."""

    def tried(self, rule: Rule, family: Family) -> list[Expression | Statement]:
        """The parts of a rule in the order in which a trace looks for the false one.

        Statements are among them if they can end a rule: a map may lack the key, a set may be full.
        """

    def reason(self, rule: Rule, part: Expression | Statement, family: Family) -> "Reason":
        """Why a part of a rule was false."""

    def probability(self, rule: Rule, chance: Chance, family: Family) -> str:
        """The probability of a rule's draw as the rule writes it."""

    def does(self, rule: Rule, family: Family) -> str:
        """What a rule does, in a word or two."""


class Reason(NamedTuple):
    """Why an expression was false. ``elsewhere`` says that the rule is for another destination, protocol or port."""

    words: str
    elsewhere: bool


#: dialect → the module that has it as ``DIALECT``; the module is imported when it is first needed
_HOMES = {"iptables": "kpsim.dialects.iptables.dialect", "nft": "kpsim.dialects.nft.dialect"}


@cache
def _dialect(name: str) -> Dialect:
    found: Dialect = import_module(_HOMES[name]).DIALECT
    return found


def dialects() -> Iterator[Dialect]:
    """All dialects, in the order in which they are asked whether they read a text."""
    return map(_dialect, _HOMES)


def dialect_of(table: TableKey, rule: Rule | None = None) -> Dialect:
    """The dialect of the tool that wrote a rule, else of the tool that manages the table. LookupError if no tool does."""
    for dialect in dialects():
        if rule is not None and dialect.wrote(rule):
            return dialect
    for dialect in dialects():
        if dialect.manages(table):
            return dialect
    raise LookupError(f"no dialect for table {table}")


class Kind(enum.Enum):
    """What a tool's output says about a kernel."""

    RULES = "rules"
    IPSETS = "ipsets"
    SERVERS = "virtual servers"


def kind_of(text: str) -> Kind:
    """What the text of a tool says. A text that no tool writes is for the first dialect of rules, which says why."""
    from kpsim.dialects import ipset, ipvsadm

    if ipvsadm.reads(text):
        return Kind.SERVERS
    return Kind.IPSETS if ipset.reads(text) else Kind.RULES


def read_ipsets(text: str, *, file: str | None = None) -> Map[str, Set]:
    """The sets in the output of ipset, by name.

    A set of a type that is not modelled has no ``type``. InputError names every line that is wrong.
    """
    from kpsim.dialects.ipset import parse

    return parse(text, file=file)


def what_would_tell(words: str) -> str:
    """The command whose output would tell what words that are not modelled come to; empty if there is none."""
    return "ipset save" if words.startswith("-m set ") and " --match-set " in words else ""


def changed_sets(texts: Iterable[str]) -> frozenset[str]:
    """The ipsets that rules of these texts change: what packets find in them is not known from a dump."""
    from kpsim.dialects.iptables.sets import changed_by_rules

    return frozenset(name for text in texts for name in changed_by_rules(text))


def read_servers(text: str, *, file: str | None = None) -> Mapping[Family, Map[VirtualServerKey, VirtualServer]]:
    """The virtual servers in the output of ipvsadm, by family. InputError names every line that is wrong."""
    from kpsim.dialects.ipvsadm import parse

    return parse(text, file=file)


def saved_ipset(of: Set) -> list[str]:
    """The lines with which ``ipset save`` prints a set, in order of its entries. The set must be an ipset."""
    from kpsim.dialects.ipset import render

    return render({of.name: of}).splitlines()


def saved_server(family: Family, key: VirtualServerKey, made: VirtualServer) -> list[str]:
    """The lines with which ``ipvsadm -S -n`` prints a virtual server: itself, then its real servers, the oldest first."""
    from kpsim.dialects.ipvsadm import render

    return render(family, {key: made}).splitlines()


def dialect_reading(text: str) -> Dialect:
    """The dialect in which a text is written.

    If no dialect reads it, the first one, whose parser says what is wrong.
    """
    return next((dialect for dialect in dialects() if dialect.reads(text)), next(dialects()))
