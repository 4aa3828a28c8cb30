"""One family's xtables state as kube-proxy's tools change it: iptables -N/-I, iptables-restore --noflush, iptables-save.

What the kernel holds is the fold of everything that was done to it: partial documents, chains left behind, flushed tables,
documents committed by half. Counterpart: pkg/util/iptables and the kernel. It never knows why a rule is written.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

from kpsim.addresses import Family
from kpsim.backends.iptables import names
from kpsim.backends.iptables.service_rules import Placed, ServiceRules
from kpsim.dialects.iptables import empty_table
from kpsim.kubeproxy.trackers import ServicePortName
from kpsim.maps import Map
from kpsim.ruleset import Chain, Goto, Jump, Rule, Ruleset, Table

#: pieces of all service ports, persistent: a document keeps the version it was made from
Blocks = Map[ServicePortName, ServiceRules]


#: which of a port's pieces a shared chain takes its rules from
Pick = Callable[[ServiceRules], tuple[Placed, ...]]


class RestoreFailed(Exception):
    """iptables-restore refused a table; what was committed before it stays (K-9.3)."""


class SharedChain(Chain):
    """A chain that every service port contributes to, assembled when somebody reads it.

    ``built_on`` and ``changed``: the blocks of the document before, and the keys that differ since; a kernel that holds exactly
    ``built_on`` has checked all other jumps already.
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
        self.blocks, self.last, self.pick = blocks, last, pick
        self.built_on, self.changed = base, changed

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
    """The tables mangle, nat and filter of one family on one node."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._tables = Map({name: empty_table(name) for name in ("mangle", "nat", "filter")})
        self.service_chains: set[str] = set()  #: names in nat that garbage collection looks at (I-2.3)

    @property
    def ruleset(self) -> Ruleset:
        """The state now; a value that later changes leave alone."""
        return Ruleset(self.family, self._tables)

    def load(self, ruleset: Ruleset) -> None:
        """Take over a state that somebody else left, such as a former kube-proxy's (CP-12.1)."""
        self._tables = self._tables.update(ruleset.tables)
        self.service_chains = {
            name for name in self._tables["nat"].chains if name.startswith(names.SERVICE_CHAIN_PREFIXES)
        }

    def _put(self, table: str, chains: Map[str, Chain]) -> None:
        self._tables = self._tables.set(table, Table(table, chains))

    def has_chain(self, table: str, chain: str) -> bool:
        return chain in self._tables[table].chains

    def ensure_chain(self, table: str, chain: str) -> bool:
        """``-N``: True if it was there already."""
        chains = self._tables[table].chains
        if chain in chains:
            return True
        self._put(table, chains.set(chain, Chain(chain)))
        return False

    def ensure_first(self, table: str, chain: str, rule: Rule) -> bool:
        """``-C``, and ``-I`` at position 1 if it is missing: True if it was there already."""
        chains = self._tables[table].chains
        present = chains[chain]
        if rule in present.rules:
            return True
        self._put(table, chains.set(chain, Chain(chain, (rule, *present.rules), present.base)))
        return False

    def delete_chain(self, table: str, chain: str) -> None:
        """Flush and delete, whether it exists or not."""
        chains = self._tables[table].chains
        if chain in chains:
            self._put(table, chains.delete(chain))
        if table == "nat":
            self.service_chains.discard(chain)

    def restore(self, document: RestoreDocument) -> None:
        """``iptables-restore --noflush``: table by table, each all or nothing. RestoreFailed at the first bad table."""
        for update in document.tables:
            self._commit(update)

    def _commit(self, update: TableUpdate) -> None:
        chains = self._tables[update.name].chains
        written = {chain.name for chain in update.chains}
        for chain in update.chains:
            rules = chain.targets_to_check(chains.get(chain.name)) if isinstance(chain, SharedChain) else chain.rules
            for rule in rules:
                target = rule.target
                if isinstance(target, Jump | Goto) and target.chain not in chains and target.chain not in written:
                    raise RestoreFailed(f"{update.name}/{chain.name}: jump to {target.chain}, which does not exist")
        with chains.mutate() as changing:
            for chain in update.chains:
                changing[chain.name] = chain
            for name in update.deleted:
                changing.pop(name, None)
            self._put(update.name, changing.finish())
        if update.name == "nat":
            self.service_chains.update(name for name in written if name.startswith(names.SERVICE_CHAIN_PREFIXES))
            self.service_chains.difference_update(update.deleted)

    def flush_kube_proxy(self) -> None:
        """Somebody removed all of kube-proxy's chains, and with them the jumps to them."""
        for table in self._tables:
            kept: dict[str, Chain] = {}
            for name, chain in self._tables[table].chains.items():
                if not name.startswith("KUBE-"):
                    rules = tuple(rule for rule in chain.rules if not _jumps_to_kube_proxy(rule))
                    kept[name] = Chain(name, rules, chain.base)
            self._put(table, Map(kept))
        self.service_chains = set()


def _jumps_to_kube_proxy(rule: Rule) -> bool:
    target = rule.target if rule.body else None
    return isinstance(target, Jump | Goto) and target.chain.startswith("KUBE-")
