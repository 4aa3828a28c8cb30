"""Which functions netfilter calls at each hook because of what the kernel was told, and at which priority.

Counterpart: nf_register_net_hooks by tables, by NAT, by connection tracking (K-1, K-9.7) and by ip_vs (IPVS-10.1).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from kpsim.packetpath import delivery, ipvs_hooks, nat, tracking
from kpsim.packetpath.chains import run_base_chain
from kpsim.packetpath.traversal import End, Traversal
from kpsim.programmed import Programmed
from kpsim.ruleset import (
    Base,
    Chain,
    ChainType,
    Expression,
    Hook,
    Ruleset,
    Statement,
    Table,
    TableKey,
)

CONNTRACK, CONFIRM = -200, 2**31 - 1
_NAT_PRIORITIES = {Hook.PREROUTING: -100, Hook.INPUT: 100, Hook.OUTPUT: -100, Hook.POSTROUTING: 100}


class HookEntry(NamedTuple):
    """A function that netfilter calls for every packet of a hook.

    It returns the packet's end, or None if it goes on.
    """

    hook: Hook
    priority: int
    name: str
    run: Callable[[Traversal], End | None]


def named_chains(entry: HookEntry) -> tuple[tuple[Any, TableKey, str], ...]:
    """The base chains that an entry runs, each with how it runs them."""
    given = entry.run.keywords if isinstance(entry.run, partial) else {}
    chains = [(given["table"], given["chain"])] if "table" in given else given.get("chains", ())
    return tuple((entry.run.func, table.key, chain.name) for table, chain in chains)  # type: ignore[attr-defined]


def table_entries(ruleset: Ruleset, *, tracked: bool = False) -> list[HookEntry]:
    """The hook entries of a ruleset's base chains, the one registered first in front.

    Those of NAT and of connection tracking are among them if a rule needs them (K-1.5). ``tracked``: something else
    needs connection tracking.
    """
    entries: list[HookEntry] = []
    bases = _registered_bases(ruleset)
    translating = [(base, table, chain) for base, table, chain in bases if base.type is ChainType.NAT]
    for base, table, chain in bases:
        if base.type is not ChainType.NAT:
            reroutes = base.type is ChainType.ROUTE and base.hook is Hook.OUTPUT
            run = partial(delivery.run_route_chain if reroutes else run_base_chain, table=table, chain=chain)
            entries.append(HookEntry(base.hook, base.priority, table.name, run))
        elif chain is translating[0][2]:
            entries += _nat_entries(translating)
    if tracked or any(map(tracking.needs_tracking, _parts(ruleset))):
        # a transaction of nft registers its base chains before a rule of it registers connection tracking (K-9.8)
        entries += [HookEntry(hook, CONNTRACK, "conntrack", tracking.look_up) for hook in nat.DESTINATION_HOOKS]
        entries += [HookEntry(hook, CONFIRM, "confirm", tracking.confirm) for hook in (Hook.INPUT, Hook.POSTROUTING)]
    return entries


def _nat_entries(translating: list[tuple[Base, Table, Chain]]) -> Iterator[HookEntry]:
    """NAT in all four hooks, each with the chains that may decide there, in order."""
    newest_first = translating[::-1]
    ordered = sorted(newest_first, key=lambda each: each[0].priority)
    for hook, priority in _NAT_PRIORITIES.items():
        chains = tuple((table, chain) for base, table, chain in ordered if base.hook is hook)
        yield HookEntry(hook, priority, "nat", partial(tracking.translate, chains=chains))


def _registered_bases(ruleset: Ruleset) -> list[tuple[Base, Table, Chain]]:
    """The base chains that netfilter calls, in the order in which they were registered, as far as that is known."""
    found = [
        (chain.base, table, chain)
        for table in ruleset.in_order()
        if not table.dormant
        for chain in table.base_chains()
        if chain.base is not None
    ]
    return sorted(found, key=lambda each: each[0].registered)


def _parts(ruleset: Ruleset) -> Iterator[Expression | Statement]:
    """The parts of all rules, also of those that no packet reaches, and of tables that are dormant."""
    for table in ruleset.tables.values():
        for chain in table.chains.values():
            for rule in chain.rules:
                yield from rule.body


def ipvs_entries(told: Programmed) -> list[HookEntry]:
    """The hook entries of ip_vs: none without a virtual server."""
    servers, timeouts = told.virtual_servers, told.ipvs_timeouts
    if not servers:
        return []
    requests = partial(ipvs_hooks.request, servers=servers, timeouts=timeouts)
    answers = partial(ipvs_hooks.answer, timeouts=timeouts)
    placed = (
        (Hook.INPUT, 98, answers), (Hook.INPUT, 99, requests), (Hook.OUTPUT, -99, answers), (Hook.OUTPUT, -98, requests),
        (Hook.FORWARD, 99, ipvs_hooks.error_about_answer), (Hook.FORWARD, 100, answers),
    )  # fmt: skip
    return [HookEntry(hook, priority, "ip_vs", run) for hook, priority, run in placed]
