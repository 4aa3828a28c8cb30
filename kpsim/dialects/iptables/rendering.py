"""Writes a rule or a whole ruleset as iptables text: as kube-proxy writes it, or as iptables-save does."""

from collections.abc import Iterable

from kpsim.addresses import Family
from kpsim.dialects.iptables.layout import BUILT_IN_CHAINS
from kpsim.dialects.iptables.spelling import spelling_of, text_of
from kpsim.dialects.iptables.values import Form, Style
from kpsim.ruleset import Chain, Rule, Ruleset, Table

#: order of tables in iptables-save 1.8.9 (nf_tables)
_TABLE_ORDER = ("mangle", "security", "raw", "filter", "nat")
_FORMS = {(style, family): Form(style, family) for style in Style for family in Family}


def render_rule(chain: str, rule: Rule, style: Style, family: Family) -> str:
    """The line ``-A CHAIN …`` without newline.

    KUBE_PROXY keeps the order in which the options were written. SAVE writes what iptables-save would print (I-17).
    """
    form = _FORMS[style, family]
    text = text_of(rule, spelling_of(rule, family), form)
    return f"-A {chain} {text}" if text else f"-A {chain}"


def render_ruleset(ruleset: Ruleset, style: Style, *, tables: Iterable[str] | None = None) -> str:
    """All chains and rules as one document: chain lines, then rules grouped by chain, built-in chains first (I-17).

    ``tables`` names the tables to write, in order; with None, all are written in the order of iptables-save. KeyError
    if there is no such table.
    """
    held = {table.name for table in ruleset.tables.values()}
    names = [name for name in _TABLE_ORDER if name in held] if tables is None else tables
    lines: list[str] = []
    for name in names:
        chains = _ordered(ruleset.table(name))
        lines.append(f"*{name}")
        lines += [f":{chain.name} {chain.policy.value if chain.policy else '-'} [0:0]" for chain in chains]
        lines += [render_rule(chain.name, rule, style, ruleset.family) for chain in chains for rule in chain.rules]
        lines.append("COMMIT")
    return "\n".join([*lines, ""]) if lines else ""


def _ordered(table: Table) -> list[Chain]:
    """The built-in chains in iptables' order, then the other chains by name."""
    built_in = BUILT_IN_CHAINS.get(table.name, {})
    first = [table.chains[name] for name in built_in if name in table.chains]
    return first + [table.chains[name] for name in sorted(table.chains) if name not in built_in]
