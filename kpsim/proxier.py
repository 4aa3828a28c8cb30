"""One node's kube-proxy, in one family: watch events in, sync results out (CP-7, CP-10, I-13).

Counterpart: the frame that pkg/proxy's backends share. It decides whether a sync is full, consumes the changes, lets the backend
write the rules and does what follows a success. It never knows a rule's text, a clock, or who asks for the sync.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kpsim.addresses import Family
from kpsim.backends import Backend, SyncRequest, Transaction
from kpsim.backends.iptables import IptablesBackend
from kpsim.backends.iptables.tables import Tables
from kpsim.bulk import without_collector
from kpsim.cluster import Event
from kpsim.config import HostInterface, Mode, ProxierSettings, interface_addresses, not_modelled
from kpsim.kubeproxy.healthcheck import ProxyHealth, ServiceHealth, listen_addresses
from kpsim.kubeproxy.metrics import Metrics
from kpsim.kubeproxy.plan import ServicePlan, make_plan
from kpsim.kubeproxy.service_maps import ServiceMaps
from kpsim.kubeproxy.stale_flows import Flow, UdpFrontends
from kpsim.kubeproxy.trackers import (
    EndpointsChangeTracker,
    EndpointsCheckout,
    ServiceChange,
    ServiceChangeTracker,
    ServiceKey,
)
from kpsim.objects import LABEL_ZONE, EndpointSlice, Node, Pod, Service, ServiceCIDR
from kpsim.ruleset import Ruleset
from kpsim.units import HOUR_NS


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What one sync did. ``ran`` False: the start gate was closed, and nothing else in here means anything."""

    ran: bool
    full: bool = False
    transaction: Transaction = field(default_factory=lambda: Transaction(success=False))
    services_changed: tuple[ServiceKey, ...] = ()
    trigger_times_ns: tuple[tuple[ServiceKey, int], ...] = ()  #: one latency sample each, if the sync succeeded (O-8.6)
    conntrack_deleted: tuple[Flow, ...] = ()
    ruleset: Ruleset | None = None  #: what the kernel holds afterwards

    @property
    def success(self) -> bool:
        return self.ran and self.transaction.success


def make_backend(
    settings: ProxierSettings, predecessor: Backend | None = None, *, beside: Ruleset | None = None
) -> Backend:
    """The backend of the configured mode; it finds what its predecessor left in the kernel (CP-12.1).

    Without a predecessor it finds ``beside``, the rules that other programs have. InputError for a mode that is not modelled.
    """
    match settings.config.mode:
        case Mode.IPTABLES:
            found = predecessor.tables if isinstance(predecessor, IptablesBackend) else None
            if found is None and beside is not None:
                found = Tables(settings.family)
                found.load(beside)
            backend = IptablesBackend(settings, found)
            backend.create_canaries()
            return backend
        case mode:
            raise not_modelled(mode)


class Proxier:
    """State machine of one family's proxier. Times are nanoseconds since 1970."""

    def __init__(
        self,
        settings: ProxierSettings,
        backend: Backend,
        *,
        created_ns: int,
        metrics: Metrics | None = None,
        proxy_health: ProxyHealth | None = None,
    ) -> None:
        self.settings = settings
        self.backend = backend
        self.metrics = metrics if metrics is not None else Metrics()
        self.maps = ServiceMaps(settings.node_name)
        self.proxy_health = proxy_health or ProxyHealth(2 * settings.config.sync_period_ns)
        addresses = listen_addresses(settings.node_ports, settings.family, settings.interface_addresses)
        self.service_health = ServiceHealth(addresses)
        self._services = ServiceChangeTracker(settings.family)
        self._slices = EndpointsChangeTracker(settings.family, created_ns)
        self._udp_frontends = UdpFrontends(settings.family)
        self._topology: dict[str, str] = {}
        self._services_synced = self._slices_synced = False
        self._need_full = True
        self._last_full_ns: int | None = None

    @property
    def family(self) -> Family:
        return self.settings.family

    @property
    def zone(self) -> str:
        return self._topology.get(LABEL_ZONE, "")

    @property
    def initialised(self) -> bool:
        """Both initial lists were delivered: the start gate is open (O-1.8)."""
        return self._services_synced and self._slices_synced

    def services_synced(self) -> None:
        """All initial Services were delivered. The caller then attempts a sync directly (O-1.8)."""
        self._services_synced = True

    def slices_synced(self) -> None:
        """All initial EndpointSlices were delivered. The caller then attempts a sync directly (O-1.8)."""
        self._slices_synced = True

    def on_event(self, event: Event, now_ns: int) -> bool:
        """Take a watch event that passed kube-proxy's selectors. True: a sync is requested (CP-7.2)."""
        requested = self._handle(event)
        if requested:
            self.proxy_health.queued_update(self.family, now_ns)
        return requested

    def _handle(self, event: Event) -> bool:
        match event.object:
            case Service():
                old, new = (obj if isinstance(obj, Service) else None for obj in (event.old, event.new))
                pending = self._services.update(old, new)
                self.metrics.add("sync_proxy_rules_service_changes_total")
                self.metrics.set("sync_proxy_rules_service_changes_pending", self._services.pending)
                return pending and self.initialised
            case EndpointSlice() as endpoint_slice:
                if not self._slices.accepts(endpoint_slice):
                    return False
                changed = self._slices.update(endpoint_slice, removed=event.new is None)
                self.metrics.add("sync_proxy_rules_endpoint_changes_total")
                if changed:
                    self.metrics.add("sync_proxy_rules_endpoint_changes_pending")
                return changed and self.initialised
            case Node() as node:
                return event.new is not None and self._on_node(node)
            case ServiceCIDR() | Pod():
                return False  # the former is for nftables only (O-1.4), the latter is never read (O-1.5)

    def _on_node(self, node: Node) -> bool:
        """T-5: only the zone label counts; its change makes the next sync full, even before the start gate opens."""
        self.proxy_health.node_changed(node)
        topology = {LABEL_ZONE: node.zone} if node.zone is not None else {}
        if topology == self._topology:
            return False
        self._topology = topology
        self._need_full = True
        return True

    def force_full_sync(self) -> None:
        """What the canary does when it finds its chain gone (I-14): the next sync is full."""
        self._need_full = True

    def use_interfaces(self, interfaces: Iterable[HostInterface]) -> None:
        """The machine's addresses changed; node port dispatch reads them at the next sync (I-9.3)."""
        self.backend.use_interface_addresses(interface_addresses(interfaces, self.family))

    def sync(self, now_ns: int, flows: Callable[[], Iterable[Flow]] = tuple, *, refuse: bool = False) -> SyncResult:
        """One run of the sync loop (I-13.4). ``flows`` lists the conntrack table if it is needed; ``refuse`` lets the
        backend's tool refuse the document. The caller deletes ``conntrack_deleted`` from its table."""
        if not self.initialised:
            return SyncResult(ran=False)
        with without_collector():
            return self._sync(now_ns, flows, refuse)

    def _sync(self, now_ns: int, flows: Callable[[], Iterable[Flow]], refuse: bool) -> SyncResult:
        overdue = self._last_full_ns is not None and now_ns - self._last_full_ns > HOUR_NS
        full = self._need_full or (overdue and self.backend.periodic_full_sync)
        service_changes, checkout = self._take_changes()
        changed = dict.fromkeys((*service_changes, *checkout.changes))
        request = SyncRequest(
            full=full,
            now_ns=now_ns,
            changed={key: self._plans(key) for key in (self._all_services(changed) if full else changed)},
            endpoint_total=self.maps.endpoint_total,
            refuse_document=refuse,
        )
        transaction = self.backend.sync(request)
        self._count(transaction, full)
        deleted: list[Flow] = []
        samples: tuple[tuple[ServiceKey, int], ...] = ()
        if transaction.success:
            self._need_full = False
            if full:
                self._last_full_ns = now_ns
            samples = tuple((key, t) for key in checkout.trigger_times_ns for t in checkout.trigger_times_ns[key])
            deleted = self._after_success(now_ns, transaction, checkout, len(samples), flows)
        else:
            self._need_full = True  # the changes are in the maps, but samples and conntrack clean-up are lost (I-13.6)
        return SyncResult(
            ran=True,
            full=full,
            transaction=transaction,
            services_changed=tuple(changed),
            trigger_times_ns=samples,
            conntrack_deleted=tuple(deleted),
            ruleset=self.backend.ruleset,
        )

    def stale_flows(self, flows: Iterable[Flow]) -> list[Flow]:
        """Of a connection table, what the last sync's clean-up deletes, for a caller whose syncs take time (O-12)."""
        return self._udp_frontends.stale(flows, self.maps)

    def _take_changes(self) -> tuple[dict[ServiceKey, ServiceChange], EndpointsCheckout]:
        service_changes, checkout = self.maps.apply(self._services, self._slices)
        self.metrics.set("sync_proxy_rules_service_changes_pending", 0)
        self.metrics.set("sync_proxy_rules_endpoint_changes_pending", 0)
        external_ips = self.settings.config.allow_service_external_ips
        for change in service_changes.values():
            self._udp_frontends.update((*change.previous, *change.current), self.maps, external_ips)
        return service_changes, checkout

    def _all_services(self, changed: Iterable[ServiceKey]) -> Iterable[ServiceKey]:
        return dict.fromkeys((*changed, *self.maps.ports_of))

    def _plans(self, service: ServiceKey) -> list[ServicePlan]:
        node_name, zone = self.settings.node_name, self.zone
        return [
            make_plan(name, port, endpoints, node_name, zone)
            for name, port, endpoints in self.maps.plans_input(service)
        ]

    def _count(self, transaction: Transaction, full: bool) -> None:
        """Metrics of every sync past the gate; rule counts are set before the restore, so also when it fails (I-15)."""
        family = self.family.label
        for table, count in transaction.rules_total.items():
            self.metrics.set("sync_proxy_rules_iptables_total", count, table=table, ip_family=family)
        for table, count in transaction.rules_last.items():
            self.metrics.set("sync_proxy_rules_iptables_last", count, table=table, ip_family=family)
        if transaction.restore_failed:
            self.metrics.add("sync_proxy_rules_iptables_restore_failures_total", ip_family=family)
        if not transaction.success and not full:
            self.metrics.add("sync_proxy_rules_iptables_partial_restore_failures_total", ip_family=family)
        self.metrics.add("sync_proxy_rules_duration_seconds_count", ip_family=family)
        kind = "full" if full else "partial"
        self.metrics.add(f"sync_{kind}_proxy_rules_duration_seconds_count", ip_family=family)

    def _after_success(
        self,
        now_ns: int,
        transaction: Transaction,
        checkout: EndpointsCheckout,
        samples: int,
        flows: Callable[[], Iterable[Flow]],
    ) -> list[Flow]:
        """I-13.4 step 9; returns the stale UDP flows."""
        family = self.family.label
        if samples:
            self.metrics.add("network_programming_duration_seconds_count", samples, ip_family=family)
        for policy, count in zip(("internal", "external"), transaction.no_local_endpoints, strict=True):
            self.metrics.set(
                "sync_proxy_rules_no_local_endpoints_total", count, traffic_policy=policy, ip_family=family
            )
        self.proxy_health.updated(self.family, now_ns)
        self.service_health.sync_services(self.maps.health_check_ports)
        self.service_health.sync_endpoints(self.maps.local_ready_endpoints)
        if not any(change.touches_udp for change in checkout.changes.values()):
            return []
        deleted = self._udp_frontends.stale(flows(), self.maps)
        self.metrics.add("conntrack_reconciler_sync_duration_seconds_count", ip_family=family)
        self.metrics.add("conntrack_reconciler_deleted_entries_total", len(deleted), ip_family=family)
        return deleted
