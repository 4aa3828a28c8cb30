"""Reads iptables-save output and complete iptables-restore documents into a ruleset (I-4, I-17)."""

from collections.abc import Iterable
from dataclasses import replace

from kpsim.addresses import Family
from kpsim.dialects import OnUnknown
from kpsim.dialects.iptables.layout import BUILT_IN_CHAINS, table_key
from kpsim.dialects.iptables.origin import owners_of_chains, recover_origin
from kpsim.dialects.iptables.rules import read_rule, split_words
from kpsim.dialects.iptables.values import NotModelled
from kpsim.errors import InputError, Problem, UnsupportedRule
from kpsim.maps import Map
from kpsim.ruleset import Base, Chain, Goto, Jump, Rule, Ruleset, Table, Verdict

_MAX_CHAIN_NAME = 28


def parse_rule(
    line: str,
    family: Family,
    *,
    table: str = "",
    number: int = 1,
    file: str | None = None,
    line_number: int | None = None,
    unknown: OnUnknown = "refuse",
) -> tuple[str, Rule]:
    """The chain name and the rule of one line ``[counters] -A CHAIN …``.

    ``table``, ``number`` (of the rule in its chain), ``file`` and ``line_number`` are the rule's place, for errors. The
    table is also needed to recover the rule's origin. ``unknown="keep"`` keeps words that are not modelled as
    ``Unknown`` expressions. InputError if the line is malformed, UnsupportedRule if the rule is not modelled.
    """
    try:
        words = split_words(line.strip(" \t\r\n"))
        if words and words[0].startswith("["):
            del words[0]
        if len(words) < 2 or words[0] not in ("-A", "--append"):
            raise ValueError("not a rule: -A CHAIN expected")
        chain = words[1]
        rule = read_rule(words[2:], family, table=table, keep=unknown == "keep")
    except NotModelled as problem:
        raise UnsupportedRule(str(problem), table, words[1], number, line_number, file) from None
    except ValueError as problem:
        raise InputError(Problem(str(problem), file=file, line=line_number)) from None
    return chain, replace(rule, origin=recover_origin(table, chain, rule, family))


def parse(text: str, family: Family, *, file: str | None = None, unknown: OnUnknown = "refuse") -> Ruleset:
    """The rules of iptables-save output, or of a complete iptables-restore document (I-4).

    A table that is mentioned has all its built-in chains. Counters are ignored. ``unknown="keep"`` keeps words that are
    not modelled as ``Unknown`` expressions. InputError lists all problems of the file, each with its line. If all of
    them are rules that are not modelled, the error is an UnsupportedRule.
    """
    document = _Document(family, file, keep=unknown == "keep")
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        document.line = number
        try:
            document.read(line.strip(" \t\r"))
        except ValueError as problem:
            document.problems.append(Problem(str(problem), file=file, line=number))
    document.end()
    if document.problems:
        raise InputError(sorted([*document.problems, *_problems(document.unsupported)], key=lambda p: p.line or 0))
    if document.unsupported:
        first, *others = document.unsupported
        raise UnsupportedRule(
            first.what, first.table, first.chain, first.number, first.problems[0].line, file, _problems(others)
        )
    return Ruleset.of(family, *document.tables.values())


def _problems(errors: Iterable[InputError]) -> list[Problem]:
    return [problem for error in errors for problem in error.problems]


class _OpenTable:
    """A table between ``*NAME`` and ``COMMIT``."""

    def __init__(self, name: str, line: int) -> None:
        self.name, self.line = name, line
        self.policies: dict[str, Verdict | None] = dict.fromkeys(BUILT_IN_CHAINS[name], Verdict.ACCEPT)
        self.rules: dict[str, list[tuple[Rule, int]]] = {chain: [] for chain in self.policies}  #: with their lines
        self.declared: set[str] = set()

    def base(self, chain: str) -> Base | None:
        """Where netfilter calls the chain, with the document's policy; None for a chain that is not built in."""
        policy = self.policies[chain]
        return None if policy is None else replace(BUILT_IN_CHAINS[self.name][chain], policy=policy)

    def rules_of(self, chain: str) -> list[tuple[Rule, int]]:
        if chain not in self.rules:
            raise ValueError(f"chain {chain} is not declared in table {self.name}")
        return self.rules[chain]


class _Document:
    """Reads a document line by line.

    A ValueError from ``read`` is a problem of that line; the next line can be read.
    """

    def __init__(self, family: Family, file: str | None, *, keep: bool) -> None:
        self.family, self.file, self.keep = family, file, keep
        self.line = 0
        self.tables: dict[str, Table] = {}
        self.open: _OpenTable | None = None
        self.problems: list[Problem] = []
        self.unsupported: list[UnsupportedRule] = []

    def read(self, line: str) -> None:
        if not line or line[0] == "#":
            return
        if line[0] == "*":
            self._begin(line[1:].strip())
            return
        if self.open is None:
            shown = line if len(line) <= 40 else line[:40] + "…"
            raise ValueError(f"outside a table (*TABLE … COMMIT): {shown}")
        if line[0] == ":":
            self._declare(line[1:].split())
        elif line == "COMMIT":
            self._commit(self.open)
        else:
            words = split_words(line)
            if words[0][0] == "[":
                del words[0]
            self._command(self.open, words)

    def end(self) -> None:
        if self.open is not None:
            self._uncommitted(self.open)

    def _uncommitted(self, table: _OpenTable) -> None:
        self.problems.append(Problem(f"table {table.name} has no COMMIT", file=self.file, line=table.line))
        self.open = None

    def _begin(self, name: str) -> None:
        if self.open is not None:
            self._uncommitted(self.open)
        if name not in BUILT_IN_CHAINS:
            self.open = _OpenTable("filter", self.line)  # read it like this one, so that its lines are checked too
            self.open.name = name
            raise ValueError(f"not an iptables table: {name}")
        self.open = _OpenTable(name, self.line)
        if name in self.tables:
            raise ValueError(f"table {name} appears twice")

    def _declare(self, words: list[str]) -> None:
        assert self.open is not None
        if len(words) not in (2, 3):
            raise ValueError("a chain line is :CHAIN POLICY [packets:bytes]")
        chain, policy = words[:2]
        if chain in self.open.declared:
            raise ValueError(f"chain {chain} is declared twice")
        self.open.declared.add(chain)
        built_in = chain in BUILT_IN_CHAINS.get(self.open.name, ())
        if not built_in:
            self._new_chain(self.open, chain)
        if policy != "-":
            self._set_policy(self.open, chain, policy)

    def _new_chain(self, table: _OpenTable, chain: str) -> None:
        if chain in table.rules:
            raise ValueError(f"chain {chain} exists already")
        if len(chain) > _MAX_CHAIN_NAME or chain[0] in "-!":
            raise ValueError(f"not a chain name (1 to {_MAX_CHAIN_NAME} characters): {chain}")
        table.policies[chain], table.rules[chain] = None, []

    def _set_policy(self, table: _OpenTable, chain: str, policy: str) -> None:
        if policy not in ("ACCEPT", "DROP"):
            raise ValueError(f"not a policy (ACCEPT, DROP): {policy}")
        if table.policies.get(chain) is None:
            raise ValueError(f"only built-in chains have a policy, not {chain}")
        table.policies[chain] = Verdict(policy)

    def _command(self, table: _OpenTable, words: list[str]) -> None:
        command, arguments = words[0], words[1:]
        match command, arguments:
            case "-A" | "--append", [chain, *rest]:
                rules = table.rules_of(chain)
                self._rule(table, chain, rest, at=len(rules))
            case "-I" | "--insert", [chain, position, *rest] if position.isdigit():
                if not 1 <= int(position) <= len(table.rules_of(chain)) + 1:
                    raise ValueError(f"chain {chain} has no position {position}")
                self._rule(table, chain, rest, at=int(position) - 1)
            case "-I" | "--insert", [chain, *rest]:
                self._rule(table, chain, rest, at=0)
            case "-N" | "--new-chain", [chain]:
                self._new_chain(table, chain)
            case "-P" | "--policy", [chain, policy]:
                self._set_policy(table, chain, policy)
            case "-F" | "--flush", [chain]:
                table.rules_of(chain).clear()
            case "-X" | "--delete-chain", [chain]:
                if table.rules_of(chain) or table.policies[chain] is not None:
                    raise ValueError(f"chain {chain} cannot be deleted: it is built in or has rules")
                del table.rules[chain], table.policies[chain]
            case _:
                raise ValueError(f"command not understood: {command}")

    def _rule(self, table: _OpenTable, chain: str, words: list[str], at: int) -> None:
        rules = table.rules_of(chain)
        try:
            rule = read_rule(words, self.family, table=table.name, keep=self.keep)
        except NotModelled as problem:
            self._refuse(str(problem), table, chain, at + 1, self.line)
            rule = Rule(())  # stands in for it, so that the rules after it keep their numbers
        rules.insert(at, (rule, self.line))

    def _refuse(self, what: str, table: _OpenTable, chain: str, number: int, line: int) -> None:
        self.unsupported.append(UnsupportedRule(what, table.name, chain, number, line, self.file))

    def _commit(self, open_table: _OpenTable) -> None:
        self.open = None
        if open_table.name not in BUILT_IN_CHAINS:
            return
        declared = open_table.rules
        for chain, rules in declared.items():
            for number, (rule, line) in enumerate(rules, start=1):
                if isinstance(rule.target, Jump | Goto) and (target := rule.target.chain) not in declared:
                    where = f"{open_table.name}/{chain} rule {number}"
                    self.problems.append(Problem(f"chain {target} is not declared ({where})", self.file, line=line))
        parsed = {chain: tuple(rule for rule, _ in rules) for chain, rules in declared.items()}
        owners = owners_of_chains(parsed, self.family)
        chains: dict[str, Chain] = {}
        for chain, anonymous in parsed.items():
            known = tuple(
                replace(rule, origin=recover_origin(open_table.name, chain, rule, self.family, owners))
                for rule in anonymous
            )
            chains[chain] = Chain(chain, known, open_table.base(chain))
        self.tables[open_table.name] = Table(table_key(self.family, open_table.name), Map(chains))
