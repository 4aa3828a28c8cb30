"""The nftables backend: turns service plans into transactions of nft, full and partial, and applies them (spec 04).

Counterpart: pkg/proxy/nftables. A sync costs as much as changed: the objects of unchanged service ports are kept, only
differences of elements are written, and text is made when it is read. ``proxier`` decides when a sync runs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar

from kpsim.backends import Document, MachineView, RuleCount, Stage, SyncRequest, Traits, Transaction
from kpsim.backends.iptables.clean_up import without_iptables
from kpsim.backends.ipvs.clean_up import without_ipvs
from kpsim.backends.nftables import names
from kpsim.backends.nftables.document import document, dump
from kpsim.backends.nftables.elements import Claims, ElementMemory, Place
from kpsim.backends.nftables.fixed import FixedPart
from kpsim.backends.nftables.service_objects import Claim, PortObjects, write_port_objects
from kpsim.backends.nftables.stale import StaleObjects
from kpsim.backends.nftables.work import calls_of
from kpsim.backends.work import Tool
from kpsim.config import ProxierSettings, ProxyConfig
from kpsim.dialects import Form, dialect_of
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.inputs import Json
from kpsim.kubeproxy.metrics import MetricUpdate
from kpsim.kubeproxy.plan import ServicePlan
from kpsim.kubeproxy.trackers import ServiceKey, ServicePortName
from kpsim.programmed import Programmed
from kpsim.ruleset import Rule, Ruleset, Set, Table
from kpsim.ruleset.operations import Operation, Refused, apply
from kpsim.units import HOUR_NS


def _full_after_ns(_: ProxierSettings, endpoint_total: int) -> int:
    """After a full sync the next one is due in an hour, however large the cluster is (NFT-1.7)."""
    return HOUR_NS


def _longest_pause_ns(_: ProxyConfig) -> int:
    return HOUR_NS


class NftablesBackend:
    """What one family's kube-proxy process in nftables mode remembers about what it wrote."""

    traits: ClassVar[Traits] = Traits(
        partial_syncs=True,
        full_after_ns=_full_after_ns,
        longest_pause_ns=_longest_pause_ns,
        hastens_retry=True,
        reads_service_cidrs=True,
        tools=(Tool.NFT,),
        unused_host_fields=frozenset(
            ("ipvsConns", "gracefulTick", "iptablesFlushed", "nfacct", "randomFully", "largeClusterEndpoints")
        ),
    )

    def __init__(self, settings: ProxierSettings) -> None:
        self.settings = settings
        self._key = names.table_key(settings.family)
        self._fixed = FixedPart(settings)
        self._wrote_fixed = False
        self._ports: dict[ServicePortName, PortObjects] = {}
        self._names_of: dict[ServiceKey, tuple[ServicePortName, ...]] = {}
        self._claims = Claims()
        self._memory = ElementMemory(self._key, self._fixed.sets)
        self._stale = StaleObjects(self._key)
        self._left: Table | None = None  #: the table as the last sync left it
        self._rule_count = self._map_count = 0  #: of all service ports
        self._maps_left: int | None = None  #: maps in the rules that the last sync left; None: it failed
        self._refusals = [0, 0]

    def start(self, held: Programmed) -> Programmed:
        """Removes what iptables mode, then what ipvs mode left behind (NFT-8.14, IPVS-9.3).

        Its own table stays as it is until the first sync.
        """
        return without_ipvs(without_iptables(held))

    def tick(self, now_ns: int, machine: MachineView, held: Programmed) -> Programmed:
        """Does nothing: this mode has no timer of its own. It also ignores ``MachineView.ipvs_connections``."""
        return held

    def save(self, held: Programmed) -> str:
        tables = (table for table in held.ruleset.in_order() if dialect_of(table.key) is DIALECT)
        return DIALECT.render(Ruleset.of(held.family, *tables), Form.LISTED)

    def flush(self, held: Programmed) -> Programmed:
        tables = held.ruleset.tables
        kept = tables.delete(self._key) if self._key in tables else tables
        return replace(held, ruleset=Ruleset(held.family, kept, held.ruleset.made))

    def describe(self, transaction: Transaction, machine: MachineView) -> Callable[[], Mapping[str, Json]]:
        table = self._table(transaction.held)

        def render() -> Mapping[str, Json]:
            texts = [document() for document in transaction.documents]
            return {self.settings.config.mode: {"transactions": texts, "ruleset": dump(table)}}

        return render

    def sync(self, request: SyncRequest, held: Programmed) -> Transaction:
        """Does one sync (NFT-8.4): deletes what has long been stale, then brings the table in line."""
        before, maps_before = self._table(held), self._maps_left
        contested = set(self._claims.contested)
        changed, unclaimed = self._take(request)
        as_left = before is self._left
        kernel = _Kernel(held.ruleset, self._fixed.sets, refuses_all=Stage.RULES in request.refused)
        deletions = self._stale.deletions(request.now_ns)
        cleaned = not deletions or not kernel.refuses(deletions, fails=Stage.STALE in request.refused)
        full = request.full or not cleaned
        table = kernel.ruleset.tables.get(self._key)
        if full:
            operations = self._fixed_part(request.machine)
            self._memory.read_back(table)
            written, walked = frozenset(self._ports), sorted(self._ports)
            unclaimed = [place for place in self._memory.places() if place not in self._claims]
        else:
            operations = []
            written = changed
            rivals = self._claims.holders(contested | self._claims.contested)
            walked = sorted(rivals.union(name for name in changed if name in self._ports))
        for name in walked:
            operations += self._of_port(self._ports[name], write=name in written)
        operations += self._stale.retire(table, request.now_ns, known=as_left and not full)
        operations += self._memory.left_over(unclaimed)
        error = kernel.refuses(operations)
        if error:
            self._stale.forget()
        after = replace(held, ruleset=kernel.ruleset)
        left = self._left = self._table(after)
        self._maps_left = maps = None if error else self._map_count
        known = maps_before if as_left else None
        return Transaction(
            success=not error,
            held=after,
            error=error,
            documents=tuple(kernel.documents),
            rule_counts=(self._count_rules(operations),),
            metrics=self._metrics(cleaned=cleaned, success=not error),
            no_local_endpoints=(self._refusals[0], self._refusals[1]),
            became_full=full and not request.full,
            calls=lambda: calls_of((deletions, operations), (before, known), (left, maps), full=full),
        )

    def _table(self, held: Programmed) -> Table | None:
        return held.ruleset.tables.get(self._key)

    def _fixed_part(self, machine: MachineView) -> list[Operation]:
        """The fixed part of a full sync. The base chains are made anew only once, even if that fails (NFT-8.5)."""
        first, self._wrote_fixed = not self._wrote_fixed, True
        return self._fixed.operations(machine.interface_addresses, machine.service_cidrs, first=first)

    def _of_port(self, objects: PortObjects, *, write: bool) -> Iterator[Operation]:
        """The operations of one service port. Without ``write``, only its elements are compared with the memory."""
        for step in objects.opening:
            if isinstance(step, Claim):
                yield from self._memory.expect(step)
            elif write:
                yield step
        if write:
            yield from objects.filling

    def _take(self, request: SyncRequest) -> tuple[frozenset[ServicePortName], list[Place]]:
        """Takes over the plans of changed Services.

        Returns their service ports, including those that are gone, and the elements that no port wants any more.
        """
        touched: set[ServicePortName] = set()
        left: list[Place] = []
        for service, plans in request.changed.items():
            known = self._names_of.pop(service, ())
            touched.update(known, [plan.name for plan in plans])
            kept = {plan.name for plan in plans if plan.name in self._ports and self._ports[plan.name].plan == plan}
            for name in known:
                if name not in kept:
                    left += self._drop(name)
            for plan in plans:
                if plan.name not in kept:
                    self._adopt(plan)
            if plans:
                self._names_of[service] = tuple(plan.name for plan in plans)
        return frozenset(touched), [place for place in left if place not in self._claims]

    def _drop(self, name: ServicePortName) -> Iterator[Place]:
        objects = self._ports.pop(name)
        self._stale.leave(objects.chains, objects.affinity_sets)
        self._add_counts(objects, -1)
        return self._claims.remove(name, objects.claims)

    def _adopt(self, plan: ServicePlan) -> None:
        objects = write_port_objects(plan, self.settings)
        self._ports[plan.name] = objects
        self._stale.use(objects.chains, objects.affinity_sets)
        self._add_counts(objects, +1)
        self._claims.add(plan.name, objects.claims)

    def _add_counts(self, objects: PortObjects, sign: int) -> None:
        self._rule_count += sign * objects.rule_count
        self._map_count += sign * objects.map_count
        for number, refused in enumerate(objects.refusals):
            self._refusals[number] += sign * refused

    def _count_rules(self, operations: list[Operation]) -> RuleCount:
        last = sum(isinstance(operation.object, Rule) for operation in operations)
        return RuleCount(names.TABLE, self._fixed.rule_count + self._rule_count, last)

    def _metrics(self, *, cleaned: bool, success: bool) -> tuple[MetricUpdate, ...]:
        """The failure counters (NFT-8.12)."""
        family = {"ip_family": self.settings.family.label}
        failed = [what for what, worked in (("cleanup", cleaned), ("sync", success)) if not worked]
        return tuple(
            MetricUpdate(f"sync_proxy_rules_nftables_{what}_failures_total", 1, family, adds=True) for what in failed
        )


class _Kernel:
    """The kernel during one sync: it takes transactions or refuses them, and the sync keeps their texts."""

    def __init__(self, ruleset: Ruleset, declared: Mapping[str, Set], *, refuses_all: bool) -> None:
        self.ruleset = ruleset
        self.documents: list[Document] = []
        self._declared = declared
        self._refuses_all = refuses_all

    def refuses(self, operations: list[Operation], *, fails: bool = False) -> str:
        """Hands a transaction to the kernel. Returns why it refuses it; empty: it took it."""
        self.documents.append(lambda: document(operations, self._declared))
        if self._refuses_all or fails:
            return "refused"
        try:
            self.ruleset = apply(self.ruleset, operations)
        except Refused as refused:
            return str(refused)
        return ""
