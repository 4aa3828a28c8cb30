"""What a sync in iptables mode has the iptables tools do (I-13.3, I-13.4, I-13.5)."""

from collections.abc import Iterator, Sequence

from kpsim.backends import RuleCount
from kpsim.backends.iptables.static_rules import BUILT_IN_JUMPS
from kpsim.backends.iptables.tables import RestoreDocument
from kpsim.backends.work import Act, Call, Calls, Tool
from kpsim.dialects.iptables import table_key
from kpsim.ruleset import Ruleset


def calls_of(
    document: RestoreDocument, counts: Sequence[RuleCount], held: Ruleset, *, saves: bool, ensures: bool
) -> Calls:
    """Return the calls of one sync: iptables for chains and jumps, iptables-save of nat, iptables-restore.

    ``counts`` are kube-proxy's rules by table, ``held`` what the kernel holds afterwards. ``saves``: the sync looks for stale
    chains. ``ensures``: it makes sure of the jumps from the built-in chains.
    """
    return tuple(_calls(document, counts, held, saves=saves, ensures=ensures))


def _calls(
    document: RestoreDocument, counts: Sequence[RuleCount], held: Ruleset, *, saves: bool, ensures: bool
) -> Iterator[Call]:
    objects = {count.table: count.total + chains_in(held, count.table) for count in counts}
    if ensures:
        yield Call(Tool.IPTABLES, Act.CHECK, times=2 * len(BUILT_IN_JUMPS), held=objects["nat"])
    if saves:
        yield Call(Tool.IPTABLES, Act.READ, held=objects["nat"])
    yield restored(document, counts, held)


def restored(document: RestoreDocument, counts: Sequence[RuleCount], held: Ruleset) -> Call:
    """Return the call of iptables-restore."""
    refilled = sum(len(table.chains) for table in document.tables)
    lines = refilled + sum(2 * len(table.deleted) for table in document.tables)
    present = sum(chains_in(held, count.table) for count in counts)
    return Call(
        Tool.IPTABLES,
        Act.WRITE,
        written=lines + sum(count.last for count in counts),
        held=present + sum(count.total for count in counts),
        pairs=refilled * present,
    )


def chains_in(held: Ruleset, table: str) -> int:
    """Return how many chains a table has."""
    found = held.tables.get(table_key(held.family, table))
    return 0 if found is None else len(found.chains)
