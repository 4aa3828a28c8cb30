"""The canary: a chain without rules in each of three tables, which is gone once somebody deletes the tables' chains (I-14)."""

from dataclasses import replace

from kpsim.backends import Canary
from kpsim.backends.iptables import names
from kpsim.backends.iptables.tables import Tables
from kpsim.dialects.iptables import table_key
from kpsim.programmed import Programmed

_TABLES = ("mangle", "nat", "filter")


def _missing(held: Programmed) -> tuple[str, ...]:
    tables = held.ruleset.tables
    found = ((table, tables.get(table_key(held.family, table))) for table in _TABLES)
    return tuple(name for name, table in found if table is None or names.CANARY not in table.chains)


def _plant(held: Programmed) -> Programmed:
    tables = Tables(held.ruleset)
    for table in _TABLES:
        tables.ensure_chain(table, names.CANARY)
    return replace(held, ruleset=tables.ruleset)


CANARY = Canary(_TABLES, _missing, _plant)
