"""What a kube-proxy that starts in nftables mode removes of ipvs mode (IPVS-9.3)."""

from dataclasses import replace

from kpsim.addresses import Family
from kpsim.backends.ipvs import rules
from kpsim.backends.ipvs.ipsets import SETS
from kpsim.backends.ipvs.servers import DEVICE
from kpsim.dialects.iptables import table_key
from kpsim.maps import Map
from kpsim.programmed import Programmed
from kpsim.ruleset import Chain, Goto, Jump, Lookup, Ruleset, SetReference, Table


def without_ipvs(held: Programmed) -> Programmed:
    """What the kernel holds without virtual servers, kube-ipvs0, kube-proxy's chains and its ipsets.

    All virtual servers go, whoever made them. The ipsets of IPv6 stay, because kube-proxy looks for the names that they
    have in IPv4. What something else still uses cannot be deleted.
    """
    ruleset = held.ruleset
    for name in rules.CHAINS:
        key = table_key(held.family, name)
        if key in ruleset.tables:
            ruleset = replace(ruleset, tables=ruleset.tables.set(key, _cleaned(ruleset.tables[key])))
    ipsets = held.ipsets.mutate()
    used = _sets_in_use(ruleset)
    for declared in SETS if held.family is Family.IPV4 else ():
        if declared.name not in used:
            ipsets.pop(declared.name, None)
    others = {address: device for address, device in held.local_addresses.items() if device != DEVICE}
    return replace(held, ruleset=ruleset, ipsets=ipsets.finish(), virtual_servers=Map(), local_addresses=Map(others))


def _cleaned(table: Table) -> Table:
    """The table without the jumps to kube-proxy's chains, and without those chains that nothing else leads to."""
    chains = dict(table.chains)
    for jump in rules.BUILT_IN_JUMPS:
        source = chains.get(jump.source)
        if jump.table == table.name and source is not None and jump.rule in source.rules:
            left = list(source.rules)
            left.remove(jump.rule)  # iptables -D deletes the first
            chains[jump.source] = Chain(source.name, tuple(left), source.base, source.comment)
    own = [name for name in rules.CHAINS[table.name] if name in chains]
    chains.update({name: Chain(name) for name in own})
    led_to = {
        rule.target.chain for chain in chains.values() for rule in chain.rules if isinstance(rule.target, Jump | Goto)
    }
    kept = {name: chain for name, chain in chains.items() if name not in own or name in led_to}
    return replace(table, chains=Map(kept), counted=None)


def _sets_in_use(ruleset: Ruleset) -> set[str]:
    """The ipsets that rules look up. The kernel keeps them."""
    return {
        part.set.name
        for table in ruleset.tables.values()
        for chain in table.chains.values()
        for rule in chain.rules
        for part in rule.body
        if isinstance(part, Lookup) and isinstance(part.set, SetReference) and part.set.of_namespace
    }
