"""The iptables backend: service plans to restore documents, full and partial, and what the kernel then holds (spec 03).

Counterpart: pkg/proxy/iptables. It costs what changed: rules of unchanged service ports are kept as blocks, counts are kept up
to date, text is made when somebody reads it. It never knows when a sync runs nor how packets meet the rules.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kpsim.backends import SyncRequest, Transaction
from kpsim.backends.iptables import names, static_rules
from kpsim.backends.iptables.document import restore_document
from kpsim.backends.iptables.service_rules import ServiceRules, write_service_rules
from kpsim.backends.iptables.tables import Blocks, RestoreFailed, Tables
from kpsim.config import ProxierSettings
from kpsim.dialects.iptables import Style, render_rule, render_ruleset
from kpsim.kubeproxy.plan import ServicePlan
from kpsim.kubeproxy.trackers import ServiceKey, ServicePortName
from kpsim.maps import Map
from kpsim.ruleset import Ruleset, Table


class _Counts:
    """Sums over all service ports' rules, kept up to date (I-15)."""

    def __init__(self) -> None:
        self.filter = self.dispatch = self.chains = self.no_local_internal = self.no_local_external = 0

    def add(self, rules: ServiceRules, sign: int) -> None:
        self.filter += sign * len(rules.filter)
        self.dispatch += sign * len(rules.dispatch)
        self.chains += sign * rules.chain_rule_count
        self.no_local_internal += sign * rules.refusals[0]
        self.no_local_external += sign * rules.refusals[1]


class IptablesBackend:
    """One family's iptables rules on one node."""

    def __init__(self, settings: ProxierSettings, tables: Tables | None = None) -> None:
        self.settings = settings
        self.tables = tables if tables is not None else Tables(settings.family)
        self.large_cluster = False  #: as decided in the last sync (I-12.3)
        self._interface_addresses = settings.interface_addresses
        self._blocks: Blocks = Map()
        self._names_of: dict[ServiceKey, tuple[ServicePortName, ...]] = {}
        self._counts = _Counts()
        self._in_use: set[str] = set()
        self._maybe_stale: set[str] = set()
        self._last_cleanup_ns: int | None = None

    @property
    def ruleset(self) -> Ruleset:
        return self.tables.ruleset

    @property
    def periodic_full_sync(self) -> bool:
        return not self.large_cluster

    def use_interface_addresses(self, addresses: Iterable[int]) -> None:
        self._interface_addresses = tuple(addresses)

    def save(self) -> str:
        return render_ruleset(self.ruleset, Style.SAVE)

    def flush(self) -> None:
        self.tables.flush_kube_proxy()

    def describe(self, transaction: Transaction) -> Callable[[], Mapping[str, Any]]:
        tables, large_cluster = self.ruleset.tables, self.large_cluster

        def render() -> Mapping[str, Any]:
            shown = {
                name: Table(name, tables[name].chains.delete(names.CANARY))
                if names.CANARY in tables[name].chains
                else tables[name]
                for name in ("filter", "nat")
            }
            save = render_ruleset(Ruleset(self.settings.family, Map(shown)), Style.KUBE_PROXY)
            return {
                "iptables": {
                    "ensure": list(transaction.commands),
                    "restore": [document() for document in transaction.documents],
                    "save": save,
                    "largeClusterMode": large_cluster,
                }
            }

        return render

    def create_canaries(self) -> None:
        """I-14; in this order."""
        for table in ("mangle", "nat", "filter"):
            self.tables.ensure_chain(table, names.CANARY)

    def sync(self, request: SyncRequest) -> Transaction:
        """I-13.4, steps 4 to 8."""
        commands = self._ensure_built_in_jumps() if request.full else ()
        self.large_cluster = request.endpoint_total > self.settings.large_cluster_endpoints
        base = None if request.full else self._blocks
        written = self._update_blocks(request)
        stale = self._collect_stale(request)
        static = static_rules.static_rules(self.settings, self._interface_addresses)
        document = restore_document(self.settings.family, static, self._blocks, written, stale, base)
        written_rules = sum(self._blocks[name].chain_rule_count for name in written if name in self._blocks)
        shared_nat = len(static.first_nat) + self._counts.dispatch + len(static.last_nat)
        filter_rules = len(static.first_filter) + self._counts.filter + len(static.last_filter)
        error = ""
        try:
            if request.refuse_document:
                raise RestoreFailed("refused")
            self.tables.restore(document)
            self._maybe_stale.difference_update(stale)
        except RestoreFailed as failure:
            error = str(failure)
        return Transaction(
            success=not error,
            commands=commands,
            documents=(lambda: document.text,),
            rules_total={"filter": filter_rules, "nat": shared_nat + self._counts.chains},
            rules_last={"filter": filter_rules, "nat": shared_nat + written_rules},
            restore_failed=bool(error),
            no_local_endpoints=(self._counts.no_local_internal, self._counts.no_local_external),
            error=error,
        )

    def _ensure_built_in_jumps(self) -> tuple[str, ...]:
        """I-3, as the commands that a person would type."""
        commands = []
        for jump in static_rules.BUILT_IN_JUMPS:
            existed = self.tables.ensure_chain(jump.table, jump.chain)
            commands.append(f"-t {jump.table} -N {jump.chain}" + (" # exists" if existed else ""))
            existed = self.tables.ensure_first(jump.table, jump.source, jump.rule)
            arguments = render_rule(jump.source, jump.rule, Style.KUBE_PROXY, self.settings.family).removeprefix("-A ")
            commands.append(f"-t {jump.table} -I {arguments}" + (" # exists" if existed else ""))
        return tuple(commands)

    def _update_blocks(self, request: SyncRequest) -> frozenset[ServicePortName]:
        """Rewrite the changed Services' blocks; returns their service ports, also those that are gone."""
        touched: set[ServicePortName] = set()
        with self._blocks.mutate() as blocks:
            for service, plans in request.changed.items():
                for name in self._names_of.pop(service, ()):
                    self._drop(blocks.pop(name))
                    touched.add(name)
                for plan in plans:
                    blocks[plan.name] = self._adopt(plan)
                    touched.add(plan.name)
                if plans:
                    self._names_of[service] = tuple(plan.name for plan in plans)
            self._blocks = blocks.finish()
        return frozenset(touched)

    def _drop(self, rules: ServiceRules) -> None:
        self._counts.add(rules, -1)
        chains = [chain.name for chain in rules.chains]
        self._in_use.difference_update(chains)
        self._maybe_stale.update(chains)

    def _adopt(self, plan: ServicePlan) -> ServiceRules:
        rules = write_service_rules(plan, self.settings, large_cluster=self.large_cluster)
        self._counts.add(rules, +1)
        chains = [chain.name for chain in rules.chains]
        self._in_use.update(chains)
        self._maybe_stale.difference_update(chains)
        return rules

    def _collect_stale(self, request: SyncRequest) -> tuple[str, ...]:
        """I-13.5: service chains in the kernel that nothing uses; in large clusters at most once per syncPeriod."""
        if request.full:
            self._maybe_stale = self.tables.service_chains - self._in_use
        if (
            self.large_cluster
            and self._last_cleanup_ns is not None
            and request.now_ns - self._last_cleanup_ns <= self.settings.config.sync_period_ns
        ):
            return ()
        self._last_cleanup_ns = request.now_ns
        return tuple(sorted(self._maybe_stale & self.tables.service_chains))
