"""The tables that iptables has, and where netfilter calls their built-in chains (K-1.1)."""

from collections.abc import Mapping

from kpsim.addresses import Family
from kpsim.maps import Map
from kpsim.ruleset import Base, Chain, ChainType, Hook, Space, Table, TableKey

#: the nat chains translate the destination before routing and the source after it
_NAT_PRIORITIES = {Hook.PREROUTING: -100, Hook.INPUT: 100, Hook.OUTPUT: -100, Hook.POSTROUTING: 100}


def _bases(kind: ChainType, priorities: Mapping[Hook, int]) -> dict[str, Base]:
    return {hook.value: Base(kind, hook, priority) for hook, priority in priorities.items()}


#: the built-in chains of each table, in the order in which iptables-save lists them. iptables-nft registers security
#: after nat (K-1.1).
BUILT_IN_CHAINS: Mapping[str, Mapping[str, Base]] = {
    "raw": _bases(ChainType.FILTER, dict.fromkeys((Hook.PREROUTING, Hook.OUTPUT), -300)),
    "mangle": {
        hook.value: Base(ChainType.ROUTE if hook is Hook.OUTPUT else ChainType.FILTER, hook, -150) for hook in Hook
    },
    "nat": _bases(ChainType.NAT, _NAT_PRIORITIES),
    "filter": _bases(ChainType.FILTER, dict.fromkeys((Hook.INPUT, Hook.FORWARD, Hook.OUTPUT), 0)),
    "security": _bases(ChainType.FILTER, dict.fromkeys((Hook.INPUT, Hook.FORWARD, Hook.OUTPUT), 150)),
}
#: the names of all built-in chains
BUILT_IN_NAMES = frozenset(name for chains in BUILT_IN_CHAINS.values() for name in chains)


def table_key(family: Family, name: str) -> TableKey:
    """The key of a table of iptables or ip6tables."""
    return TableKey(Space.of(family), name)


def empty_table(family: Family, name: str) -> Table:
    """A table as the kernel has it before any rule is written: built-in chains without rules, policy ACCEPT."""
    return Table(
        table_key(family, name), Map({chain: Chain(chain, base=base) for chain, base in BUILT_IN_CHAINS[name].items()})
    )
