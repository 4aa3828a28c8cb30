"""What iptables and iptables-restore do to a ruleset: -N, -I, and documents that are committed table by table.

Counterpart: pkg/util/iptables and the kernel. What the kernel holds depends on everything that was done to it: partial
documents, chains left behind, flushed tables, documents of which only some tables were committed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

from kpsim.backends.iptables import names
from kpsim.backends.iptables.later import LaterChain
from kpsim.backends.iptables.service_rules import Placed, ServiceRules
from kpsim.dialects.iptables import empty_table, table_key
from kpsim.kubeproxy.trackers import ServicePortName
from kpsim.maps import Map
from kpsim.ruleset import Chain, Goto, Jump, Rule, Ruleset, Table, interchangeable

#: the blocks of all service ports; the map is persistent, so a document keeps the version that it was made from
Blocks = Map[ServicePortName, ServiceRules]

#: the part of a port's block from which a shared chain takes its rules
Pick = Callable[[ServiceRules], tuple[Placed, ...]]


_LEADS_ON = (Jump, Goto)


class RestoreFailed(Exception):
    """iptables-restore refused a table. The tables committed before it stay (K-9.3)."""


class SharedChain(Chain):
    """A chain that every service port contributes to: KUBE-SERVICES, KUBE-NODEPORTS and the like.

    Every sync rewrites these chains in full. With 10,000 Services, that would be 20,000 rules to put together and to
    check for one changed Service. So the chain keeps the blocks that it is made from, and puts its rules together only
    when a packet, a text or a comparison first reads them.

    The kernel refuses a rule that jumps to a chain which does not exist. ``built_on`` are the blocks of the document
    before, and ``changed`` are the service ports that differ since. If the kernel holds a chain made from exactly
    ``built_on``, all other jumps were checked before, and only those of ``changed`` are checked now. If a table was
    flushed or another process wrote the chain, the kernel holds another chain object, and every jump is checked.
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
            rules += self._rules_of(self.blocks[key])
        return (*rules, *self.last)

    def takes_the_place_of(self, loaded: Chain) -> bool:
        """Whether the kernel's chain, made from the blocks before these, has the same rules.

        Only the changed ports are compared.
        """
        if not isinstance(loaded, SharedChain) or self.built_on is None or loaded.blocks is not self.built_on:
            return False
        before, after = loaded.blocks, self.blocks
        return interchangeable(loaded.last, self.last) and all(
            interchangeable(self._rules_of(before.get(key)), self._rules_of(after.get(key))) for key in self.changed
        )

    def _rules_of(self, block: ServiceRules | None) -> list[Rule]:
        return [] if block is None else [rule for chain, rule in self.pick(block) if chain == self.name]

    def targets_to_check(self, loaded: Chain | None) -> Iterable[Rule]:
        """The rules whose jumps must be checked. ``loaded`` is the chain that the kernel holds now."""
        if isinstance(loaded, SharedChain) and self.built_on is not None and loaded.blocks is self.built_on:
            keys: Iterable[ServicePortName] = (key for key in self.changed if key in self.blocks)
        else:
            keys = self.blocks
        for key in keys:
            yield from self._rules_of(self.blocks[key])
        yield from self.last


@dataclass(frozen=True)
class TableUpdate:
    """One table of a restore document: the chains that it flushes and refills, then the chains that it deletes."""

    name: str
    chains: tuple[Chain, ...]
    deleted: tuple[str, ...] = ()


@dataclass(frozen=True)
class RestoreDocument:
    """What one sync gives to iptables-restore. The text is made when it is first read."""

    tables: tuple[TableUpdate, ...]
    render: Callable[[], str] = field(repr=False, compare=False)

    @cached_property
    def text(self) -> str:
        return self.render()


class Tables:
    """A ruleset while iptables' tools work on it.

    ``ruleset`` is the current value; the value given at first stays as it was.

    A table that does not exist is created, with its built-in chains, when something is first put into it.
    """

    def __init__(self, ruleset: Ruleset) -> None:
        self._family = ruleset.family
        self._made = ruleset.made
        self._tables = ruleset.tables

    @property
    def ruleset(self) -> Ruleset:
        return Ruleset(self._family, self._tables, self._made)

    def _chains(self, table: str) -> Map[str, Chain]:
        found = self._tables.get(table_key(self._family, table))
        return (empty_table(self._family, table) if found is None else found).chains

    def _put(self, table: str, chains: Map[str, Chain]) -> None:
        key = table_key(self._family, table)
        self._tables = self._tables.set(key, Table(key, chains))

    def ensure_chain(self, table: str, chain: str) -> bool:
        """Does ``-N``: creates a chain. Returns True if it existed already."""
        chains = self._chains(table)
        if chain in chains:
            return True
        self._put(table, chains.set(chain, Chain(chain)))
        return False

    def ensure_first(self, table: str, chain: str, rule: Rule) -> bool:
        """Does ``-C``, and ``-I`` at position 1 if the rule is missing. Returns True if it existed already.

        KeyError if there is no such chain.
        """
        chains = self._chains(table)
        present = chains[chain]
        if rule in present.rules:
            return True
        self._put(table, chains.set(chain, Chain(chain, (rule, *present.rules), present.base)))
        return False

    def restore(self, document: RestoreDocument) -> None:
        """Does ``iptables-restore --noflush``: commits each table as a whole.

        RestoreFailed at the first bad table (K-9.3).
        """
        for update in document.tables:
            self._commit(update)

    def _commit(self, update: TableUpdate) -> None:
        chains = self._chains(update.name)
        written = {chain.name for chain in update.chains}
        for chain in update.chains:
            for target in chain.leads_to if isinstance(chain, LaterChain) else _leads_to(chain, chains):
                # most jumps lead to a chain of the same document, so the faster set is asked before the map
                if target not in written and target not in chains:
                    raise RestoreFailed(f"{update.name}/{chain.name}: jump to {target}, which does not exist")
        with chains.mutate() as changing:
            for chain in update.chains:
                loaded = chains.get(chain.name)
                changing[chain.name] = chain if loaded is None else _kept(loaded, chain)
            for name in update.deleted:
                changing.pop(name, None)
            self._put(update.name, changing.finish())


def _leads_to(chain: Chain, loaded: Map[str, Chain]) -> Iterable[str]:
    """The chains to which a chain leads and whose existence has to be checked. ``loaded`` are those of the kernel."""
    rules = chain.targets_to_check(loaded.get(chain.name)) if isinstance(chain, SharedChain) else chain.rules
    targets = (rule.body[-1] for rule in rules if rule.body)
    return (target.chain for target in targets if isinstance(target, _LEADS_ON))


def _kept(loaded: Chain, chain: Chain) -> Chain:
    """The chain that the kernel holds if the new one is no other, since what was compiled for it still holds."""
    if loaded is chain:
        return chain
    if isinstance(chain, SharedChain):
        if not chain.takes_the_place_of(loaded):
            return chain
        assert isinstance(loaded, SharedChain)
        loaded.blocks = chain.blocks  # the same rules follow from them; the next document is built on these
        return loaded
    alike = not isinstance(loaded, SharedChain) and (loaded.base, loaded.comment) == (chain.base, chain.comment)
    return loaded if alike and interchangeable(loaded.rules, chain.rules) else chain


def service_chains(ruleset: Ruleset) -> set[str]:
    """The names of all nat chains that garbage collection looks at (I-2.3)."""
    nat = ruleset.tables.get(table_key(ruleset.family, "nat"))
    return {name for name in (nat.chains if nat is not None else ()) if name.startswith(names.SERVICE_CHAIN_PREFIXES)}


def without_kube_proxy(ruleset: Ruleset) -> Ruleset:
    """The ruleset after another program has removed kube-proxy's chains and the jumps to them."""
    kept = {key: replace(table, chains=_kept_chains(table), counted=None) for key, table in ruleset.tables.items()}
    return replace(ruleset, tables=Map(kept))


def _kept_chains(table: Table) -> Map[str, Chain]:
    kept: dict[str, Chain] = {}
    for name, chain in table.chains.items():
        if not name.startswith("KUBE-"):
            rules = tuple(rule for rule in chain.rules if not _jumps_to_kube_proxy(rule))
            kept[name] = Chain(name, rules, chain.base, chain.comment)
    return Map(kept)


def _jumps_to_kube_proxy(rule: Rule) -> bool:
    target = rule.target if rule.body else None
    return isinstance(target, Jump | Goto) and target.chain.startswith("KUBE-")
