"""The iptables backend: turns service plans into restore documents, full and partial, and applies them (spec 03).

Counterpart: pkg/proxy/iptables. A sync costs as much as changed: the rules of unchanged service ports are kept as
blocks, counts are updated by difference, and text is made when it is read. ``proxier`` decides when a sync runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

from kpsim.addresses import Family
from kpsim.backends import MachineView, RuleCount, Stage, SyncRequest, Traits, Transaction
from kpsim.backends.iptables import static_rules
from kpsim.backends.iptables.canary import CANARY
from kpsim.backends.iptables.document import kube_proxy_text, restore_document
from kpsim.backends.iptables.jumps import ensure_chain, ensure_jump
from kpsim.backends.iptables.service_rules import LOCALHOST_ACCEPTED_COUNTER, ServiceRules, write_service_rules
from kpsim.backends.iptables.static_rules import INVALID_DROPPED_COUNTER, StaticRules
from kpsim.backends.iptables.tables import (
    Blocks,
    RestoreDocument,
    RestoreFailed,
    Tables,
    service_chains,
    without_kube_proxy,
)
from kpsim.backends.iptables.work import calls_of
from kpsim.backends.leftovers import without_nftables
from kpsim.backends.work import Tool
from kpsim.config import ProxierSettings, ProxyConfig
from kpsim.dialects.iptables import Style, render_ruleset, table_key
from kpsim.inputs import Json
from kpsim.kubeproxy.metrics import MetricUpdate
from kpsim.kubeproxy.plan import ServicePlan
from kpsim.kubeproxy.trackers import ServiceKey, ServicePortName
from kpsim.maps import Map
from kpsim.programmed import Programmed
from kpsim.ruleset import Ruleset
from kpsim.units import HOUR_NS


def _full_after_ns(settings: ProxierSettings, endpoint_total: int) -> int | None:
    """After a full sync the next one is due in an hour; in a large cluster never (I-12.3 c, I-13.2)."""
    return None if _is_large(settings, endpoint_total) else HOUR_NS


def _longest_pause_ns(_: ProxyConfig) -> int:
    return HOUR_NS


def _is_large(settings: ProxierSettings, endpoint_total: int) -> bool:
    return endpoint_total > settings.large_cluster_endpoints


class _Counts:
    """Sums over the rules of all service ports, updated by difference (I-15)."""

    def __init__(self) -> None:
        self.filter = self.dispatch = self.chains = self.no_local_internal = self.no_local_external = 0

    def add(self, rules: ServiceRules, sign: int) -> None:
        self.filter += sign * len(rules.filter)
        self.dispatch += sign * len(rules.dispatch)
        self.chains += sign * rules.chain_rule_count
        self.no_local_internal += sign * rules.refusals[0]
        self.no_local_external += sign * rules.refusals[1]


class IptablesBackend:
    """What one family's kube-proxy process in iptables mode remembers about what it wrote."""

    traits: ClassVar[Traits] = Traits(
        partial_syncs=True,
        full_after_ns=_full_after_ns,
        longest_pause_ns=_longest_pause_ns,
        hastens_retry=True,
        canary=CANARY,
        locked=(frozenset((Stage.JUMPS, Stage.RULES)),),  # the first of them to wait in vain ends the sync (I-13.6)
        tools=(Tool.IPTABLES,),
        unused_host_fields=frozenset(("ipvsConns", "gracefulTick", "serviceCIDRs")),
        accounting=(
            ("iptables_ct_state_invalid_dropped_packets_total", INVALID_DROPPED_COUNTER),
            ("iptables_localhost_nodeports_accepted_packets_total", LOCALHOST_ACCEPTED_COUNTER),
        ),
    )

    def __init__(self, settings: ProxierSettings) -> None:
        self.settings = settings
        self.large_cluster = False  #: as decided in the last sync (I-12.3)
        self._blocks: Blocks = Map()
        self._names_of: dict[ServiceKey, tuple[ServicePortName, ...]] = {}
        self._counts = _Counts()
        self._in_use: set[str] = set()
        self._maybe_stale: set[str] = set()
        self._last_cleanup_ns: int | None = None
        self._static: tuple[tuple[int, ...], StaticRules] | None = None  #: for the addresses of the last sync

    def start(self, held: Programmed) -> Programmed:
        """Removes what nftables mode left behind (I-18), and creates the canary chains (I-14)."""
        return CANARY.plant(without_nftables(held))

    def tick(self, now_ns: int, machine: MachineView, held: Programmed) -> Programmed:
        """Does nothing: this mode has no timer of its own. It also ignores ``MachineView.ipvs_connections``."""
        return held

    def save(self, held: Programmed) -> str:
        return render_ruleset(held.ruleset, Style.SAVE)

    def flush(self, held: Programmed) -> Programmed:
        return replace(held, ruleset=without_kube_proxy(held.ruleset))

    def describe(self, transaction: Transaction, machine: MachineView) -> Callable[[], Mapping[str, Json]]:
        held, large_cluster = transaction.held, self.large_cluster

        def render() -> Mapping[str, Json]:
            return {
                self.settings.config.mode: {
                    "ensure": list(transaction.commands),
                    "restore": [document() for document in transaction.documents],
                    "save": kube_proxy_text(held.ruleset),
                    "largeClusterMode": large_cluster,
                }
            }

        return render

    def sync(self, request: SyncRequest, held: Programmed) -> Transaction:
        """Does steps 4 to 8 of I-13.4."""
        tables = Tables(held.ruleset)
        aborts = request.full and Stage.JUMPS in request.refused
        commands = _ensure_built_in_jumps(tables, held.family) if request.full and not aborts else ()
        self.large_cluster = _is_large(self.settings, request.endpoint_total)
        base = None if request.full else self._blocks
        written = self._update_blocks(request)
        if aborts:
            return self._aborted(request, held)
        stale = self._collect_stale(request, held.ruleset)
        static = self._static_rules(request.machine.interface_addresses)
        document = restore_document(self.settings.family, static, self._blocks, written, stale, base)
        error = self._restore(tables, document, request)
        if not error:
            self._maybe_stale.difference_update(stale)
        counts = self._rule_counts(static, written)
        saves = self._last_cleanup_ns == request.now_ns
        return Transaction(
            success=not error,
            held=replace(held, ruleset=tables.ruleset),
            error=error,
            commands=commands,
            documents=(lambda: document.text,),
            rule_counts=counts,
            metrics=self._metrics(counts, failed=bool(error), partial=not request.full),
            no_local_endpoints=(self._counts.no_local_internal, self._counts.no_local_external),
            calls=lambda: calls_of(document, counts, tables.ruleset, saves=saves, ensures=request.full),
        )

    def _aborted(self, request: SyncRequest, held: Programmed) -> Transaction:
        """A sync that ends because a chain or jump could not be ensured: it counts no failed restore (CP-13)."""
        static = self._static_rules(request.machine.interface_addresses)
        counts = (count._replace(last=0) for count in self._rule_counts(static, frozenset()))
        return Transaction(success=False, held=held, error="refused", rule_counts=tuple(counts))

    def _static_rules(self, interface_addresses: tuple[int, ...]) -> StaticRules:
        """The rules that belong to no Service. They change only with the machine's addresses (I-9.3)."""
        if self._static is None or self._static[0] != interface_addresses:
            self._static = interface_addresses, static_rules.static_rules(self.settings, interface_addresses)
        return self._static[1]

    def _restore(self, tables: Tables, document: RestoreDocument, request: SyncRequest) -> str:
        """Commits the document. Returns why its first bad table was refused; empty if all tables were committed."""
        if Stage.RULES in request.refused:
            return "refused"
        try:
            tables.restore(document)
        except RestoreFailed as failure:
            return str(failure)
        return ""

    def _rule_counts(self, static: StaticRules, written: frozenset[ServicePortName]) -> tuple[RuleCount, ...]:
        """Counts rules (I-15).

        Every sync writes all rules of the filter table, and the nat rules of shared chains. It writes the rules of a
        port's own nat chains only if the port's Service changed.
        """
        written_rules = sum(self._blocks[name].chain_rule_count for name in written if name in self._blocks)
        shared_nat = len(static.first_nat) + self._counts.dispatch + len(static.last_nat)
        filter_rules = len(static.first_filter) + self._counts.filter + len(static.last_filter)
        return (
            RuleCount("filter", filter_rules, filter_rules),
            RuleCount("nat", shared_nat + self._counts.chains, shared_nat + written_rules),
        )

    def _metrics(self, counts: tuple[RuleCount, ...], *, failed: bool, partial: bool) -> tuple[MetricUpdate, ...]:
        """The mode's metrics (I-15). Rule counts are set before the restore, so also if it fails."""
        family = {"ip_family": self.settings.family.label}
        updates = []
        for table, total, last in counts:
            labels = {"table": table, **family}
            updates.append(MetricUpdate("sync_proxy_rules_iptables_total", total, labels))
            updates.append(MetricUpdate("sync_proxy_rules_iptables_last", last, labels))
        if failed:
            updates.append(MetricUpdate("sync_proxy_rules_iptables_restore_failures_total", 1, family, adds=True))
            if partial:
                name = "sync_proxy_rules_iptables_partial_restore_failures_total"
                updates.append(MetricUpdate(name, 1, family, adds=True))
        return tuple(updates)

    def _update_blocks(self, request: SyncRequest) -> frozenset[ServicePortName]:
        """Rewrites the blocks of changed Services. Returns their service ports, including those that are gone."""
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

    def _collect_stale(self, request: SyncRequest, ruleset: Ruleset) -> tuple[str, ...]:
        """The service chains in the kernel that nothing uses, by name (I-13.5).

        In large clusters they are collected at most once per syncPeriod; in between, the result is empty.
        """
        if request.full:
            self._maybe_stale = service_chains(ruleset) - self._in_use
        if (
            self.large_cluster
            and self._last_cleanup_ns is not None
            and request.now_ns - self._last_cleanup_ns <= self.settings.config.sync_period_ns
        ):
            return ()
        if Stage.STALE in request.refused:
            return ()  # a failed listing is only logged
        self._last_cleanup_ns = request.now_ns
        nat = ruleset.tables.get(table_key(ruleset.family, "nat"))
        return tuple(sorted(name for name in self._maybe_stale if nat is not None and name in nat.chains))


def _ensure_built_in_jumps(tables: Tables, family: Family) -> tuple[str, ...]:
    """Creates kube-proxy's chains and the jumps to them if they are missing (I-3). Returns the commands that do so."""
    commands = []
    for jump in static_rules.BUILT_IN_JUMPS:
        commands += [ensure_chain(tables, jump.table, jump.chain), ensure_jump(tables, jump, family)]
    return tuple(commands)
