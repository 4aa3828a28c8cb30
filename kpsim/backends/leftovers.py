"""What a starting kube-proxy removes of other proxy modes: rules that an earlier process left behind (I-18, NFT-8.14)."""

from kpsim.maps import Map
from kpsim.programmed import Programmed
from kpsim.ruleset import Chain, Goto, Jump, Ruleset, Space, Table, TableKey

NFTABLES_TABLE = "kube-proxy"

_JUMPS_TO = {
    "filter": frozenset(
        {"KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"}
    ),
    "nat": frozenset({"KUBE-SERVICES", "KUBE-POSTROUTING"}),
    "mangle": frozenset(),
}
_CANARY = "KUBE-PROXY-CANARY"
_DELETED = {
    "filter": _JUMPS_TO["filter"] | {_CANARY},
    "nat": frozenset({"KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", _CANARY}),
    "mangle": frozenset({_CANARY}),
}
_SERVICE_CHAINS = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-")


def without_nftables(held: Programmed) -> Programmed:
    """What the kernel holds once kube-proxy's table of the family is gone."""
    key = TableKey(Space.of(held.family), NFTABLES_TABLE)
    tables = held.ruleset.tables
    if key not in tables:
        return held
    return Programmed(held.family, Ruleset(held.family, tables.delete(key), held.ruleset.made))


def without_iptables(held: Programmed) -> Programmed:
    """What the kernel holds once the rules of iptables mode are gone.

    KUBE-FIREWALL stays, with its rule and the jumps to it (I-18).
    """
    tables = held.ruleset.tables
    for name in _DELETED:
        key = TableKey(Space.of(held.family), name)
        if key in tables:
            tables = tables.set(key, _cleaned(tables[key]))
    return Programmed(held.family, Ruleset(held.family, tables, held.ruleset.made))


def _cleaned(table: Table) -> Table:
    """The table without kube-proxy's jumps and chains. If another program's rule leads to one of the chains, all stay."""
    jumps, deleted = _JUMPS_TO[table.name], _DELETED[table.name]
    chains: dict[str, Chain] = {}
    for name, chain in table.chains.items():
        rules = tuple(
            rule for rule in chain.rules if not (isinstance(rule.target, Jump) and rule.target.chain in jumps)
        )
        chains[name] = chain if len(rules) == len(chain.rules) else Chain(name, rules, chain.base, chain.comment)
    gone = {name for name in chains if name in deleted or (table.name == "nat" and name.startswith(_SERVICE_CHAINS))}
    kept = {name: chain for name, chain in chains.items() if name not in gone}
    used = {
        rule.target.chain for chain in kept.values() for rule in chain.rules if isinstance(rule.target, Jump | Goto)
    }
    if used & gone:  # the kernel refuses to delete a chain in use, and with it the whole document (I-18)
        kept = {name: chain if name in kept else table.chains[name] for name, chain in chains.items()}
    return table if kept == dict(table.chains) else Table(table.key, Map(kept), table.sets, table.comment)
