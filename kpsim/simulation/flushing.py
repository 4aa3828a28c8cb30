"""What a kernel still holds after somebody's command has removed rules (CP-13). All was measured with the real tools.

``iptables -F`` empties chains. ``iptables -X`` deletes the chains that people made; iptables-nft also deletes built-in
chains that have no rules and accept, so a table of it that is flushed so is gone. Its tools make it anew when they need it.
"""

from collections.abc import Callable, Collection
from dataclasses import replace

from kpsim.maps import Map
from kpsim.programmed import Programmed
from kpsim.ruleset import Chain, Ruleset, Set, Space, Table, TableKey, Verdict
from kpsim.scenario.fault_schema import IPTABLES_TABLES, FlushRules, FlushTool

Flush = Callable[[Programmed], Programmed]


def flush_of(event: FlushRules) -> Flush:
    """Return what the event's command makes of what a kernel holds for a family."""
    match event.tool:
        case FlushTool.IPTABLES:
            return lambda held: _by_iptables(held, event.tables or IPTABLES_TABLES, keep_chains=event.keep_chains)
        case FlushTool.NFT:
            return lambda held: _by_nft(held, event.tables, keep_chains=event.keep_chains)
        case FlushTool.IPVSADM:
            return lambda held: replace(held, virtual_servers=Map()) if held.virtual_servers else held
        case FlushTool.IPSET:
            return _by_ipset


def command_of(event: FlushRules) -> str:
    """Return the command in words."""
    tables = " ".join(event.tables) or "all tables"
    match event.tool:
        case FlushTool.IPTABLES:
            return f"iptables -F{'' if event.keep_chains else ', -X'}: {tables}"
        case FlushTool.NFT if not event.tables:
            return "nft flush ruleset"
        case FlushTool.NFT:
            return f"nft {'flush' if event.keep_chains else 'delete'} table {tables}"
        case FlushTool.IPVSADM:
            return "ipvsadm -C"
        case FlushTool.IPSET:
            return "ipset flush"


def _by_iptables(held: Programmed, names: Collection[str], *, keep_chains: bool) -> Programmed:
    tables = held.ruleset.tables
    space = Space.of(held.family)
    for key in (TableKey(space, name) for name in names):
        table = tables.get(key)
        if table is None:
            continue
        if keep_chains:
            tables = _with_emptied(tables, key)
        elif any(chain.base is not None and chain.base.policy is not Verdict.ACCEPT for chain in table.chains.values()):
            built_in = {name: chain for name, chain in _emptied(table).chains.items() if chain.base is not None}
            tables = tables.set(key, replace(table, chains=Map(built_in), counted=None))
        else:
            tables = tables.delete(key)
    return _with(held, tables)


def _by_nft(held: Programmed, names: Collection[str], *, keep_chains: bool) -> Programmed:
    """``flush ruleset`` if no table is named. Sets and their elements outlive ``flush table``."""
    tables = held.ruleset.tables
    if not names:
        return _with(held, Map()) if tables else held
    for key in [key for key in tables if key.name in names]:
        tables = _with_emptied(tables, key) if keep_chains else tables.delete(key)
    return _with(held, tables)


def _by_ipset(held: Programmed) -> Programmed:
    """The sets stay, without what was in them by anybody's hand."""
    made = held.ruleset.made + 1

    def empty(of: Set) -> Set:
        return replace(of, elements=Map(), members=(), generation=made)

    if not any(of.elements or of.remembers for of in held.ipsets.values()):
        return held
    flushed = Map({name: empty(of) for name, of in held.ipsets.items()})
    return replace(held, ruleset=replace(held.ruleset, made=made), ipsets=flushed)


def _with_emptied(tables: Map[TableKey, Table], key: TableKey) -> Map[TableKey, Table]:
    if not any(chain.rules for chain in tables[key].chains.values()):
        return tables
    return tables.set(key, _emptied(tables[key]))


def _emptied(table: Table) -> Table:
    chains = {name: Chain(name, (), chain.base, chain.comment) for name, chain in table.chains.items()}
    return replace(table, chains=Map(chains), counted=None)


def _with(held: Programmed, tables: Map[TableKey, Table]) -> Programmed:
    if tables is held.ruleset.tables:
        return held
    return replace(held, ruleset=Ruleset(held.family, tables, held.ruleset.made))
