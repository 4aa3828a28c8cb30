"""Jumps from built-in chains to kube-proxy's chains, and how a sync ensures that they exist (I-3, IPVS-8.3)."""

from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.backends.iptables.tables import Tables
from kpsim.dialects.iptables import Shape, Style, render_rule
from kpsim.ruleset import Expression, Field, Jump, Origin, Role, Rule, named


class BuiltInJump(NamedTuple):
    """A jump that kube-proxy inserts at position 1 of ``source`` if it is missing. ``chain`` is created before."""

    table: str
    source: str
    rule: Rule
    chain: str


def built_in_jump(table: str, source: str, chain: str, comment: str = "", *, new_only: bool = False) -> BuiltInJump:
    """The jump as kube-proxy writes it. ``new_only``: only packets of new connections follow it."""
    words = [*["--ctstate"] * new_only, *["--comment"] * bool(comment), "-j"]
    new: tuple[Expression, ...] = (named(Field.CT_STATE, "NEW"),) if new_only else ()
    return BuiltInJump(table, source, Shape(*words).rule(Origin(Role.JUMP), comment, *new, Jump(chain)), chain)


def ensure_chain(tables: Tables, table: str, chain: str) -> str:
    """Creates a chain if it is missing. Returns the command that does so."""
    return f"-t {table} -N {chain}" + (" # exists" if tables.ensure_chain(table, chain) else "")


def ensure_jump(tables: Tables, jump: BuiltInJump, family: Family) -> str:
    """Inserts a jump if it is missing; its chain exists. Returns the command that does so."""
    existed = tables.ensure_first(jump.table, jump.source, jump.rule)
    arguments = render_rule(jump.source, jump.rule, Style.KUBE_PROXY, family).removeprefix("-A ")
    return f"-t {jump.table} -I {arguments}" + (" # exists" if existed else "")
