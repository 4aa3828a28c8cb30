"""iptables text: iptables-save output and iptables-restore documents ⇄ :class:`~kpsim.ruleset.Ruleset`.

Counterpart: iptables-restore and iptables-save 1.8.9 (I-4, I-17). Options and their spelling stand in ``iptables_options``, words
of one rule become a body in ``iptables_parse``. This module never knows what a rule does to a packet.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any, Literal

from kpsim.addresses import Family, Network
from kpsim.dialects.iptables_options import (
    EXTENSIONS,
    HEADER_ORDER,
    JOINING,
    OPTIONS,
    PORT_ORDER,
    VARIANT_FIELD,
    Extension,
    Option,
)
from kpsim.dialects.iptables_origin import owners_of_chains, recover_origin
from kpsim.dialects.iptables_parse import read_body, split_words
from kpsim.dialects.iptables_values import ADDRESS_TYPES, CT_STATES, Form, NotModelled, Style
from kpsim.errors import InputError, Problem, UnsupportedRule
from kpsim.maps import Map
from kpsim.ruleset import (
    BUILT_IN_CHAINS,
    PORT_UNREACHABLE,
    STATEMENTS,
    AddrType,
    Chain,
    CtOriginalDestination,
    CtState,
    Destination,
    DestinationPort,
    Goto,
    InInterface,
    Joining,
    Jump,
    L4Module,
    Match,
    OutInterface,
    Reject,
    Rule,
    Ruleset,
    SetMark,
    Source,
    SourcePort,
    Statement,
    Statistic,
    Table,
    Terminal,
    Unknown,
    Verdict,
    empty_table,
)

__all__ = ["Style", "parse", "parse_rule", "recover_origin", "render_rule", "render_ruleset", "stored"]

UnknownRules = Literal["refuse", "keep"]

#: order of tables in iptables-save 1.8.9 (nf_tables)
_TABLE_ORDER = ("mangle", "security", "raw", "filter", "nat")
_MAX_CHAIN_NAME = 28


# --- rendering ---------------------------------------------------------------------------------------------------------

_Writer = Callable[[Any, Form], str]


def _option_writer(option: Option) -> _Writer:
    name = option.names[0]
    opens_module = bool(option.modules) and option.element not in PORT_ORDER  # L4Module has opened it for port options
    module = f"-m {option.modules[0]} " if opens_module else ""
    plain, negated, value = f"{module}{name} ", f"{module}! {name} ", option.write
    assert value is not None
    known = {field.name for field in fields(option.element)}
    if "negate" not in known:
        write: _Writer = lambda part, form: plain + value(part, form)  # noqa: E731 - one of two
    else:
        write = lambda part, form: (negated if part.negate else plain) + value(part, form)  # noqa: E731
    if "joined" not in known:
        return write
    return lambda part, form: write(part, form).removeprefix(module if part.joined else "")


def _extension_writer(extension: Extension) -> _Writer:
    name, value = f"{extension.flag} {extension.name}", extension.write

    def write(part: Any, form: Form) -> str:
        options = value(part, form)
        return f"{name} {options}" if options else name

    return write


def _variant_writer(field: str, writers: dict[str, _Writer]) -> _Writer:
    return lambda part, form: writers[getattr(part, field)](part, form)


def _writers() -> dict[type, _Writer]:
    writers: dict[type, _Writer] = {
        L4Module: lambda part, _: f"-m {part.protocol}",
        Unknown: lambda part, _: str(part.text),
        Terminal: lambda part, _: f"-j {part.verdict.value}",
        Jump: lambda part, _: f"-j {part.chain}",
        Goto: lambda part, _: f"-g {part.chain}",
    }
    variants: dict[type, dict[str, _Writer]] = {}
    rows: list[tuple[type, str, _Writer]] = [
        (option.element, option.variant, _option_writer(option)) for option in OPTIONS if option.write
    ]
    rows += [(extension.element, extension.variant, _extension_writer(extension)) for extension in EXTENSIONS]
    for element, variant, writer in rows:
        if variant:
            variants.setdefault(element, {})[variant] = writer
        else:
            writers[element] = writer
    for element, by_variant in variants.items():
        writers[element] = _variant_writer(VARIANT_FIELD[element], by_variant)
    return writers


_WRITERS = _writers()
_FORMS = {(style, family): Form(style, family) for style in Style for family in Family}


def render_rule(chain: str, rule: Rule, style: Style, family: Family = Family.IPV4) -> str:
    """The line ``-A CHAIN …`` without newline.

    KUBE_PROXY writes the body in its own order; SAVE writes what iptables-save would print for it (I-17), for which REJECT and
    ``recent`` depend on the family.
    """
    form = _FORMS[style, family]
    body = rule.body if style is Style.KUBE_PROXY else stored(rule, family).body
    return " ".join([f"-A {chain}", *(_WRITERS[type(part)](part, form) for part in body)])


def render_ruleset(ruleset: Ruleset, style: Style, *, tables: Iterable[str] | None = None) -> str:
    """All chains and rules as one document: chain lines, then rules grouped by chain, built-in chains first (I-17).

    ``tables`` names the tables wanted, in order; None: all, in the order of iptables-save. KeyError if there is no such table.
    """
    names = [name for name in _TABLE_ORDER if name in ruleset.tables] if tables is None else tables
    lines: list[str] = []
    for name in names:
        chains = list(ruleset.tables[name].ordered())
        lines.append(f"*{name}")
        lines += [f":{chain.name} {chain.policy.value if chain.policy else '-'} [0:0]" for chain in chains]
        lines += [render_rule(chain.name, rule, style, ruleset.family) for chain in chains for rule in chain.rules]
        lines.append("COMMIT")
    return "\n".join([*lines, ""]) if lines else ""


# --- what the kernel keeps ---------------------------------------------------------------------------------------------


def stored(rule: Rule, family: Family) -> Rule:
    """The rule as iptables-save describes it once it is in the kernel (I-17): same meaning, one spelling.

    Header options come first, port options directly behind their module, and what is always true is gone.
    """
    header: list[Match | Statement] = []
    ports: list[Match | Statement] = []
    modules: list[list[Match | Statement]] = []  # each with the matches that stand in one -m
    target: list[Match | Statement] = []
    for part in rule.body:
        normal = _stored_part(part, family)
        if normal is None:
            continue
        kind = type(normal)
        if kind in HEADER_ORDER:
            header.append(normal)
        elif kind in PORT_ORDER:
            ports.append(normal)
        elif isinstance(normal, STATEMENTS):
            target.append(normal)
        elif isinstance(normal, Joining) and normal.joined and (opened := _last_of_its_module(normal, modules)):
            opened.append(normal)
        else:
            modules.append([normal])
    rest = [match for opened in modules for match in _in_saved_order(opened)]
    header.sort(key=lambda part: HEADER_ORDER[type(part)])
    if ports:
        ports.sort(key=lambda part: PORT_ORDER[type(part)])
        at = next((i + 1 for i, part in enumerate(rest) if isinstance(part, L4Module)), 0)
        rest[at:at] = ports
    return Rule((*header, *rest, *target), rule.origin)


def _joining(part: Match | Statement) -> tuple[str, int]:
    """Module and place in it of a match that may share its ``-m``; other matches share with nobody."""
    field = VARIANT_FIELD.get(type(part))
    return JOINING.get((type(part), getattr(part, field) if field else ""), ("", 0))


def _last_of_its_module(part: Joining, modules: list[list[Match | Statement]]) -> list[Match | Statement] | None:
    module = _joining(part)[0]
    return next((opened for opened in reversed(modules) if _joining(opened[0])[0] == module), None)


def _in_saved_order(opened: list[Match | Statement]) -> list[Match | Statement]:
    ordered = enumerate(sorted(opened, key=_joining))
    return [replace(part, joined=i > 0) if isinstance(part, Joining) else part for i, part in ordered]


def _stored_part(part: Match | Statement, family: Family) -> Match | Statement | None:
    """None: always true, the kernel keeps nothing."""
    match part:
        case Source(network, negate) | Destination(network, negate):
            if network.is_zero and not negate:
                return None
            return type(part)(Network(network.family, network.base, network.prefix), negate) if network.bare else part
        case InInterface("+", False) | OutInterface("+", False):
            return None
        case SourcePort(0, 0xFFFF, False) | DestinationPort(0, 0xFFFF, False):
            return None
        case CtState(states, _, module):
            return replace(part, states=tuple(state for state in CT_STATES[module] if state in states))
        case AddrType() if "," in part.type:
            types = part.type.split(",")
            return replace(part, type=",".join(name for name in ADDRESS_TYPES if name in types))
        case CtOriginalDestination(network, _):  # other than -d, one address is shown without /32
            shown = Network(network.family, network.base, network.prefix, bare=network.prefix == family.bits)
            return replace(part, network=shown)
        case Statistic(threshold, _):
            return Statistic(threshold, f"{threshold / (1 << 31):.11f}")
        case Reject(None):
            return Reject(PORT_UNREACHABLE[family])
        case SetMark():
            return replace(part, spelling="set-xmark")
        case _:
            return part


# --- parsing -----------------------------------------------------------------------------------------------------------


def parse_rule(
    line: str,
    family: Family,
    *,
    table: str = "",
    number: int = 1,
    file: str | None = None,
    line_number: int | None = None,
    unknown: UnknownRules = "refuse",
) -> tuple[str, Rule]:
    """Chain name and rule of one line ``[counters] -A CHAIN …``.

    ``table``, ``number`` (of the rule in its chain), ``file`` and ``line_number`` say where it stands; the table is also needed to
    recover the rule's origin. ``unknown="keep"`` keeps what is not modelled as ``Unknown`` matches.
    Raises InputError if malformed, UnsupportedRule if it is not modelled.
    """
    try:
        words = split_words(line.strip(" \t\r\n"))
        if words and words[0].startswith("["):
            del words[0]
        if len(words) < 2 or words[0] not in ("-A", "--append"):
            raise ValueError("not a rule: -A CHAIN expected")
        chain = words[1]
        body = read_body(words[2:], family, table=table, keep=unknown == "keep")
    except NotModelled as problem:
        raise UnsupportedRule(str(problem), table, words[1], number, line_number, file) from None
    except ValueError as problem:
        raise InputError(Problem(str(problem), file=file, line=line_number)) from None
    rule = Rule(body)
    return chain, Rule(body, recover_origin(table, chain, rule))


def parse(text: str, family: Family, *, file: str | None = None, unknown: UnknownRules = "refuse") -> Ruleset:
    """Rules of iptables-save output, or of a complete iptables-restore document (I-4).

    A table that is mentioned has all its built-in chains. Counters are ignored. With ``unknown="keep"`` what is not modelled is
    kept as ``Unknown`` matches.
    Raises InputError with all problems of the file, each with its line; if all of them are rules that are not modelled, the error
    is an UnsupportedRule.
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
    return Ruleset(family, Map(document.tables))


def _problems(errors: Iterable[InputError]) -> list[Problem]:
    return [problem for error in errors for problem in error.problems]


_Body = tuple[Match | Statement, ...]


class _OpenTable:
    """A table between ``*NAME`` and ``COMMIT``."""

    def __init__(self, name: str, line: int) -> None:
        self.name, self.line = name, line
        self.policies: dict[str, Verdict | None] = dict.fromkeys(BUILT_IN_CHAINS[name], Verdict.ACCEPT)
        self.bodies: dict[str, list[tuple[_Body, int]]] = {chain: [] for chain in self.policies}
        self.declared: set[str] = set()

    def rules_of(self, chain: str) -> list[tuple[_Body, int]]:
        if chain not in self.bodies:
            raise ValueError(f"chain {chain} is not declared in table {self.name}")
        return self.bodies[chain]


class _Document:
    """Reads a document line by line. A ValueError from ``read`` is a problem of that line; reading goes on behind it."""

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
            self.open = _OpenTable("filter", self.line)  # so that its lines are checked as well
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
        if chain in table.bodies:
            raise ValueError(f"chain {chain} exists already")
        if len(chain) > _MAX_CHAIN_NAME or chain[0] in "-!":
            raise ValueError(f"not a chain name (1 to {_MAX_CHAIN_NAME} characters): {chain}")
        table.policies[chain], table.bodies[chain] = None, []

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
                del table.bodies[chain], table.policies[chain]
            case _:
                raise ValueError(f"command not understood: {command}")

    def _rule(self, table: _OpenTable, chain: str, words: list[str], at: int) -> None:
        rules = table.rules_of(chain)
        try:
            body = read_body(words, self.family, table=table.name, keep=self.keep)
        except NotModelled as problem:
            self._refuse(str(problem), table, chain, at + 1, self.line)
            body = ()  # keeps the numbers of the rules behind it right
        rules.insert(at, (body, self.line))

    def _refuse(self, what: str, table: _OpenTable, chain: str, number: int, line: int) -> None:
        self.unsupported.append(UnsupportedRule(what, table.name, chain, number, line, self.file))

    def _commit(self, open_table: _OpenTable) -> None:
        self.open = None
        if open_table.name not in BUILT_IN_CHAINS:
            return
        bodies = open_table.bodies
        for chain, rules in bodies.items():
            for number, (body, line) in enumerate(rules, start=1):
                if body and isinstance(body[-1], Jump | Goto) and (target := body[-1].chain) not in bodies:
                    self.problems.append(
                        Problem(
                            f"chain {target} is not declared ({open_table.name}/{chain} rule {number})",
                            self.file,
                            line=line,
                        )
                    )
        parsed = {chain: tuple(Rule(body) for body, _ in rules) for chain, rules in bodies.items()}
        owners = owners_of_chains(parsed)
        chains = empty_table(open_table.name).chains.mutate()
        for chain, anonymous in parsed.items():
            known = tuple(Rule(rule.body, recover_origin(open_table.name, chain, rule, owners)) for rule in anonymous)
            chains[chain] = Chain(chain, known, open_table.policies[chain])
        self.tables[open_table.name] = Table(open_table.name, chains.finish())
