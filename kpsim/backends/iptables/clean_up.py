"""What a kube-proxy that starts in nftables mode removes of iptables mode (I-18)."""

from dataclasses import replace

from kpsim.backends.iptables import names
from kpsim.backends.iptables.static_rules import BUILT_IN_JUMPS
from kpsim.dialects.iptables import table_key
from kpsim.maps import Map
from kpsim.programmed import Programmed
from kpsim.ruleset import Chain, Goto, Jump, Ruleset, Table

#: KUBE-FIREWALL stays, with its rule and the jumps to it
_JUMPS = tuple(jump for jump in BUILT_IN_JUMPS if jump.chain != names.FIREWALL)
#: table → its fixed chains that are deleted
_CHAINS = {
    "filter": (
        names.SERVICES,
        names.EXTERNAL_SERVICES,
        names.FORWARD,
        names.NODE_PORTS,
        names.PROXY_FIREWALL,
        names.CANARY,
    ),
    "nat": (names.SERVICES, names.NODE_PORTS, names.POSTROUTING, names.MARK_MASQ, names.CANARY),
    "mangle": (names.CANARY,),
}


def without_iptables(held: Programmed) -> Programmed:
    """What the kernel holds once the rules of iptables mode are gone."""
    tables = held.ruleset.tables
    for name in _CHAINS:
        key = table_key(held.family, name)
        if key in tables:
            tables = tables.set(key, _cleaned(tables[key]))
    return replace(held, ruleset=Ruleset(held.family, tables, held.ruleset.made))


def _cleaned(table: Table) -> Table:
    """The table without kube-proxy's jumps, and without its chains unless another rule leads to one of them."""
    chains = dict(table.chains)
    for jump in _JUMPS:
        source = chains.get(jump.source)
        if jump.table == table.name and source is not None and jump.rule in source.rules:
            rules = list(source.rules)
            rules.remove(jump.rule)  # iptables -D deletes the first
            chains[jump.source] = Chain(source.name, tuple(rules), source.base, source.comment)
    gone = {name for name in chains if _is_deleted(table.name, name)}
    kept = {name: chain for name, chain in chains.items() if name not in gone}
    if gone & {
        rule.target.chain for chain in kept.values() for rule in chain.rules if isinstance(rule.target, Jump | Goto)
    }:
        kept = chains  # the kernel refuses to delete a chain in use, and with it the whole document
    return Table(table.key, Map(kept), table.sets, table.comment)


def _is_deleted(table: str, chain: str) -> bool:
    return chain in _CHAINS[table] or (table == "nat" and chain.startswith(names.SERVICE_CHAIN_PREFIXES))
