"""What iptables and iptables-restore make of a ruleset: -N, -I, and documents that are committed table by table.

What the kernel holds is the fold of everything that was done to it: partial documents, chains left behind, flushed tables,
documents committed by half. Counterpart: pkg/util/iptables and the kernel.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from kpsim.backends.iptables import names
from kpsim.backends.iptables.service_rules import Placed, ServiceRules
from kpsim.dialects.iptables import empty_table, table_key
from kpsim.kubeproxy.trackers import ServicePortName
from kpsim.maps import Map
from kpsim.ruleset import Chain, Goto, Jump, Rule, Ruleset, Table

#: pieces of all service ports, persistent: a document keeps the version it was made from
Blocks = Map[ServicePortName, ServiceRules]

#: which of a port's pieces a shared chain takes its rules from
Pick = Callable[[ServiceRules], tuple[Placed, ...]]


_LEADS_ON = (Jump, Goto)


class RestoreFailed(Exception):
    """iptables-restore refused a table; what was committed before it stays (K-9.3)."""


class SharedChain(Chain):
    """A chain that every service port contributes to: KUBE-SERVICES, KUBE-NODEPORTS and the like.

    Every sync rewrites these chains in full. With 10,000 Services that would be 20,000 rules to put together and to check, for
    one changed Service. So the chain holds the blocks that it is made from, and puts its rules together when they are first
    read: by a packet, a text or a comparison. ``built_on`` are the blocks of the document before, ``changed`` the keys that differ
    since. The kernel refuses a rule whose jump leads nowhere; a kernel whose chain was made from exactly ``built_on`` has looked at
    all other jumps already, so only those of ``changed`` are checked. Whether it has is asked of the chain that it holds. So a
    flushed table, or rules of another process, need no notice: the held chain is another one, and everything is checked.
    """

    def __init__(
        self,
        name: str,
        blocks: Blocks,
        last: tuple[Rule, ...],
        pick: Pick,
        base: Blocks | None,
        changed: frozenset[ServicePortName],
    ) -> None:
        super().__init__(name)
        self.blocks = blocks
        self.last = last
        self.pick = pick
        self.built_on = base
        self.changed = changed

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        rules: list[Rule] = []
        for key in sorted(self.blocks):
            rules += [rule for chain, rule in self.pick(self.blocks[key]) if chain == self.name]
        return (*rules, *self.last)

    def targets_to_check(self, loaded: Chain | None) -> Iterable[Rule]:
        """Rules whose jumps the kernel has to look at, given the chain it holds now."""
        if isinstance(loaded, SharedChain) and self.built_on is not None and loaded.blocks is self.built_on:
            keys: Iterable[ServicePortName] = (key for key in self.changed if key in self.blocks)
        else:
            keys = self.blocks
        for key in keys:
            yield from (rule for chain, rule in self.pick(self.blocks[key]) if chain == self.name)
        yield from self.last


@dataclass(frozen=True)
class TableUpdate:
    """One table of a restore document: chains flushed and refilled, then chains deleted."""

    name: str
    chains: tuple[Chain, ...]
    deleted: tuple[str, ...] = ()


@dataclass(frozen=True)
class RestoreDocument:
    """What one sync hands to iptables-restore; its text is made when it is asked for."""

    tables: tuple[TableUpdate, ...]
    render: Callable[[], str] = field(repr=False, compare=False)

    @cached_property
    def text(self) -> str:
        return self.render()


class Tables:
    """A ruleset while iptables' tools work on it. ``ruleset`` is what it is now; the value given at first stays as it was.

    Tables that do not exist yet appear, with their built-in chains, when something is first put into them.
    """

    def __init__(self, ruleset: Ruleset) -> None:
        self._family = ruleset.family
        self._tables = ruleset.tables

    @property
    def ruleset(self) -> Ruleset:
        return Ruleset(self._family, self._tables)

    def _chains(self, table: str) -> Map[str, Chain]:
        found = self._tables.get(table_key(self._family, table))
        return (empty_table(self._family, table) if found is None else found).chains

    def _put(self, table: str, chains: Map[str, Chain]) -> None:
        key = table_key(self._family, table)
        self._tables = self._tables.set(key, Table(key, chains))

    def ensure_chain(self, table: str, chain: str) -> bool:
        """``-N``: True if it was there already."""
        chains = self._chains(table)
        if chain in chains:
            return True
        self._put(table, chains.set(chain, Chain(chain)))
        return False

    def ensure_first(self, table: str, chain: str, rule: Rule) -> bool:
        """``-C``, and ``-I`` at position 1 if it is missing: True if it was there already. KeyError if there is no such chain."""
        chains = self._chains(table)
        present = chains[chain]
        if rule in present.rules:
            return True
        self._put(table, chains.set(chain, Chain(chain, (rule, *present.rules), present.base)))
        return False

    def restore(self, document: RestoreDocument) -> None:
        """``iptables-restore --noflush``: table by table, each all or nothing. RestoreFailed at the first bad table (K-9.3)."""
        for update in document.tables:
            self._commit(update)

    def _commit(self, update: TableUpdate) -> None:
        chains = self._chains(update.name)
        written = {chain.name for chain in update.chains}
        for chain in update.chains:
            rules = chain.targets_to_check(chains.get(chain.name)) if isinstance(chain, SharedChain) else chain.rules
            for rule in rules:
                target = rule.body[-1] if rule.body else None
                # most jumps lead to a chain of the same document, and a set is asked faster than a map
                if isinstance(target, _LEADS_ON) and target.chain not in written and target.chain not in chains:
                    raise RestoreFailed(f"{update.name}/{chain.name}: jump to {target.chain}, which does not exist")
        with chains.mutate() as changing:
            for chain in update.chains:
                changing[chain.name] = chain
            for name in update.deleted:
                changing.pop(name, None)
            self._put(update.name, changing.finish())


def service_chains(ruleset: Ruleset) -> set[str]:
    """Names of all chains of nat that garbage collection looks at (I-2.3)."""
    nat = ruleset.tables.get(table_key(ruleset.family, "nat"))
    return {name for name in (nat.chains if nat is not None else ()) if name.startswith(names.SERVICE_CHAIN_PREFIXES)}


def without_kube_proxy(ruleset: Ruleset) -> Ruleset:
    """The ruleset after another program has removed kube-proxy's chains, and with them the jumps to them."""
    kept = (Table(table.key, _kept_chains(table)) for table in ruleset.tables.values())
    return Ruleset.of(ruleset.family, *kept)


def _kept_chains(table: Table) -> Map[str, Chain]:
    kept: dict[str, Chain] = {}
    for name, chain in table.chains.items():
        if not name.startswith("KUBE-"):
            rules = tuple(rule for rule in chain.rules if not _jumps_to_kube_proxy(rule))
            kept[name] = Chain(name, rules, chain.base)
    return Map(kept)


def _jumps_to_kube_proxy(rule: Rule) -> bool:
    target = rule.target if rule.body else None
    return isinstance(target, Jump | Goto) and target.chain.startswith("KUBE-")
