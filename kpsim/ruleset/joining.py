"""What a kernel holds after a tool has loaded rules without flushing those that are there.

Counterpart: ``iptables-restore --noflush`` and ``nft -f``: tables that exist get the chains, and base chains that exist
get the rules behind their own.
"""

from dataclasses import replace

from kpsim.maps import Map
from kpsim.ruleset.sets import Set
from kpsim.ruleset.tables import Chain, Ruleset, Table


def joined(held: Ruleset, loaded: Ruleset) -> Ruleset:
    """Return the rules of both. Base chains of ``loaded`` are registered after those that are there.

    A base chain that exists takes the policy that is loaded. ValueError if both have a chain of a name that is no base
    chain, or a set or another object.
    """
    tables = held.tables
    for table in loaded.in_order():
        later = replace(table, chains=_later(table.chains, held.made), counted=None)
        there = held.tables.get(table.key)
        tables = tables.set(table.key, later if there is None else _joined(there, later))
    return Ruleset(held.family, tables, held.made + loaded.made)


def _later(chains: Map[str, Chain], made: int) -> Map[str, Chain]:
    """The chains as a kernel registers them that has made so many before."""
    return Map(
        {
            name: chain
            if chain.base is None
            else Chain(name, chain.rules, replace(chain.base, registered=chain.base.registered + made), chain.comment)
            for name, chain in chains.items()
        }
    )


def _joined(held: Table, loaded: Table) -> Table:
    chains: dict[str, Chain] = {}
    for name, chain in loaded.chains.items():
        there = held.chains.get(name)
        if there is None:
            chains[name] = chain
        elif there.base is None or chain.base is None:
            raise ValueError(f"table {held.key}: there is a chain {name} already")
        else:
            base = replace(there.base, policy=chain.base.policy)
            chains[name] = Chain(name, (*there.rules, *chain.rules), base, there.comment)
    sets: dict[str, Set] = dict(loaded.sets.items())
    if twice := sorted({*sets} & {*held.sets}) + sorted(name for _, name in {*loaded.objects} & {*held.objects}):
        raise ValueError(f"table {held.key}: there is a set or object {twice[0]} already")
    return replace(
        held,
        chains=held.chains.update(chains),
        sets=held.sets.update(sets),
        objects=held.objects.update(dict(loaded.objects.items())),
        counted=None,
    )
