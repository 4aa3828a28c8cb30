"""One node's kube-proxy, in one family: watch events in, sync results out (CP-7, CP-10, I-13).

Counterpart: the frame that pkg/proxy's backends share. A proxier decides whether a sync is full, takes over the
changes, lets the backend write the rules, and does what follows a success. The backend's traits say how a mode differs.
The caller has the clock and decides when a sync runs.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

from kpsim.addresses import Family
from kpsim.backends import (
    NONE_REFUSED,
    Backend,
    IpvsConnections,
    MachineView,
    Plans,
    Refusals,
    SyncRequest,
    Transaction,
)
from kpsim.bulk import without_collector
from kpsim.cluster import Event
from kpsim.config import HostInterface, ProxierSettings, cidrs_of_family
from kpsim.kubeproxy.bucket_runner import TokenBucketRunner
from kpsim.kubeproxy.healthcheck import ProxyHealth, ServiceHealth, listen_addresses
from kpsim.kubeproxy.metrics import Metrics
from kpsim.kubeproxy.plan import ServicePlan, make_plan
from kpsim.kubeproxy.runner import BoundedFrequencyRunner, Runner
from kpsim.kubeproxy.service_maps import ServiceMaps
from kpsim.kubeproxy.stale_flows import CleanUp, UdpFlow, UdpFrontends
from kpsim.kubeproxy.trackers import (
    EndpointsChangeTracker,
    EndpointsCheckout,
    ServiceChange,
    ServiceChangeTracker,
    ServiceKey,
)
from kpsim.objects import LABEL_ZONE, ApiObject, Endpoints, EndpointSlice, Node, Pod, Service, ServiceCIDR
from kpsim.programmed import Programmed


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What one sync did.

    ``ran`` is False if the start gate was closed or no sync was tried; ``transaction`` then did nothing.
    """

    ran: bool
    transaction: Transaction
    full: bool = False
    services_changed: tuple[ServiceKey, ...] = ()
    #: the plans of all Services in a sync that was to be full, else of those that changed
    plans: Plans = field(default_factory=dict, repr=False)
    trigger_times_ns: tuple[tuple[ServiceKey, int], ...] = ()  #: one latency sample each, if the sync succeeded (O-8.6)
    clean_up: bool = False  #: the sync succeeded, and its changes ask for a look at the connection table (O-12)
    conntrack_deleted: tuple[UdpFlow, ...] = ()

    @property
    def success(self) -> bool:
        return self.ran and self.transaction.success

    @property
    def held(self) -> Programmed:
        """What the kernel holds afterwards."""
        return self.transaction.held


class Proxier:
    """State machine of one family's proxier. Times are nanoseconds since 1970.

    ``held`` is what the machine's kernel holds for the family. A sync changes it. If another program changes the
    kernel's rules, assign the new value.
    """

    def __init__(
        self,
        settings: ProxierSettings,
        backend: Backend,
        *,
        created_ns: int,
        held: Programmed | None = None,
        metrics: Metrics | None = None,
        proxy_health: ProxyHealth | None = None,
    ) -> None:
        """Starts the process. ``held`` is what it finds in the kernel; None: nothing (CP-12.1)."""
        self.settings = settings
        self.backend = backend
        self.held = backend.start(held or Programmed.nothing(settings.family))
        self.metrics = metrics if metrics is not None else Metrics()
        self.maps = ServiceMaps(settings.node_name)
        self.proxy_health = proxy_health or ProxyHealth(2 * settings.config.sync_period_ns)
        addresses = listen_addresses(settings.node_ports, settings.family, settings.interface_addresses)
        self.service_health = ServiceHealth(addresses)
        self._services = ServiceChangeTracker(settings.family)
        self._slices = EndpointsChangeTracker(settings.family, created_ns)
        self._udp_frontends = UdpFrontends(settings.family)
        self._service_cidrs: set[str] = set(settings.service_cidrs)
        self._machine = MachineView(settings.interface_addresses, settings.service_cidrs)
        self._topology: dict[str, str] = {}
        self._services_synced = False
        self._slices_synced = False
        self._need_full = True
        self._last_full_ns: int | None = None

    def make_runner(self, *, token_bucket: bool = False) -> Runner:
        """A runner for this proxier's syncs, with the configured periods and the mode's longest pause (CP-9.1).

        With ``token_bucket`` it is the runner of 1.33 and before (CP-9.7).
        """
        config = self.settings.config
        longest_ns = self.backend.traits.longest_pause_ns(config)
        kind = TokenBucketRunner if token_bucket else BoundedFrequencyRunner
        return kind(config.min_sync_period_ns, config.sync_period_ns, longest_ns)

    def reports_success(self, result: SyncResult) -> bool:
        """Whether the runner is told that a sync succeeded. ipvs mode never reports a failure (IPVS-1.6)."""
        return result.success or not self.backend.traits.hastens_retry

    @property
    def family(self) -> Family:
        return self.settings.family

    @property
    def machine(self) -> MachineView:
        """What the mode reads of the machine at its next sync."""
        return self._machine

    @property
    def zone(self) -> str:
        return self._topology.get(LABEL_ZONE, "")

    @property
    def initialised(self) -> bool:
        """Whether both initial lists were delivered, so that the start gate is open (O-1.8)."""
        return self._services_synced and self._slices_synced

    def services_synced(self) -> None:
        """Notes that all initial Services were delivered. The caller then attempts a sync directly (O-1.8)."""
        self._services_synced = True

    def slices_synced(self) -> None:
        """Notes that all initial EndpointSlices were delivered. The caller then attempts a sync directly (O-1.8)."""
        self._slices_synced = True

    def on_event(self, event: Event, now_ns: int) -> bool:
        """Takes a watch event that passed kube-proxy's selectors. Returns True if it requests a sync (CP-7.2)."""
        requested = self._handle(event)
        if requested:
            self.proxy_health.queued_update(self.family, now_ns)
            self._note_queued(now_ns)
        return requested

    def counts(self, obj: ApiObject) -> bool:
        """Whether the counters of changes count an event of this object (CP-11.1)."""
        return isinstance(obj, Service) or (isinstance(obj, EndpointSlice) and self._slices.accepts(obj))

    def start_loop(self, now_ns: int) -> None:
        """Notes that the sync loop has started (CP-12 step 9)."""
        self.proxy_health.updated(self.family, now_ns)
        self._note_queued(now_ns)

    def expose_histograms(self) -> None:
        """Lets the histograms appear that every process has that has run for long. They count from now on."""
        kinds = ("full_", "partial_", "") if self.backend.traits.partial_syncs else ("",)
        for name in (
            *(f"sync_{kind}proxy_rules_duration_seconds" for kind in kinds),
            "network_programming_duration_seconds",
        ):
            self.metrics.expose(name, ip_family=self.family.label)

    def _note_queued(self, now_ns: int) -> None:
        self.metrics.set("sync_proxy_rules_last_queued_timestamp_seconds", now_ns, ip_family=self.family.label)

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
            case ServiceCIDR():
                self._on_service_cidr(event)
                return False  # the next full sync will see the change (NFT-1.10)
            case Pod() | Endpoints():
                return False  # never read (O-1.5)

    def _on_node(self, node: Node) -> bool:
        """Takes a Node event; returns True if it requests a sync. Only the zone label counts (T-5).

        If the label changes, the next sync is full, even if the start gate is still closed.
        """
        self.proxy_health.node_changed(node)
        topology = {LABEL_ZONE: node.zone} if node.zone is not None else {}
        if topology == self._topology:
            return False
        self._topology = topology
        self._need_full = True
        return True

    def _on_service_cidr(self, event: Event) -> None:
        for known, keep in ((event.old, False), (event.new, True)):
            if isinstance(known, ServiceCIDR):
                update = self._service_cidrs.update if keep else self._service_cidrs.difference_update
                update(known.cidrs)
        self._machine = replace(self._machine, service_cidrs=cidrs_of_family(self._service_cidrs, self.family))

    def force_full_sync(self) -> None:
        """Makes the next sync full, as the canary does when it finds its chain gone (I-14)."""
        self._need_full = True

    def use_interfaces(self, interfaces: Iterable[HostInterface]) -> None:
        """Notes the machine's new addresses. Node port dispatch reads them at the next sync (I-9.3)."""
        self._machine = replace(self._machine, interface_addresses=self.settings.addresses_of(interfaces))

    def use_ipvs_connections(self, connections: IpvsConnections) -> None:
        """Notes how ip_vs's connections are asked for, by ``tick`` and by later syncs."""
        self._machine = replace(self._machine, ipvs_connections=connections)

    def tick(self, now_ns: int) -> None:
        """Does now what the mode does between syncs by its own timer (IPVS-6.2)."""
        self.held = self.backend.tick(now_ns, self._machine, self.held)

    def no_sync(self) -> SyncResult:
        """The result of a sync that does not run: the kernel's state is unchanged."""
        return SyncResult(ran=False, transaction=Transaction(success=False, held=self.held))

    def sync(
        self, now_ns: int, flows: Callable[[], Iterable[UdpFlow]] = tuple, *, refused: Refusals = NONE_REFUSED
    ) -> SyncResult:
        """Runs the sync loop once, in no time (I-13.4).

        ``flows`` lists the conntrack table; it is called only if the sync needs the table. The stages ``refused``
        fail. The caller deletes ``conntrack_deleted`` from its table.
        """
        return self.end_sync(self.begin_sync(now_ns, refused=refused), now_ns, flows)

    @property
    def why_left(self) -> Callable[[UdpFlow], CleanUp]:
        """Says why a clean-up of now would leave a connection; NOT_RUN: it would delete it (CT-2)."""
        return partial(self._udp_frontends.why_left, maps=self.maps)

    def begin_sync(self, now_ns: int, *, refused: Refusals = NONE_REFUSED) -> SyncResult:
        """Runs the sync loop up to the moment at which the rules are loaded, for a caller whose syncs take time.

        The caller hands the result to :meth:`end_sync` when that time is over.
        """
        if not self.initialised:
            return self.no_sync()
        with without_collector():
            return self._sync(now_ns, refused)

    def end_sync(
        self,
        result: SyncResult,
        now_ns: int,
        flows: Callable[[], Iterable[UdpFlow]] = tuple,
        *,
        loaded_ns: int | None = None,
        took_ns: int | None = 0,
    ) -> SyncResult:
        """Does what follows the loading of the rules, if they were loaded (CP-10.1 step 5).

        Health is updated now, not when the sync began (CP-14.1). ``loaded_ns`` is when the rules were loaded, None: now;
        ``took_ns`` is how long the sync took, None: nobody knows. Returns the result with the stale flows.
        """
        if result.ran:
            self._count(result, took_ns)
        if not result.success:
            return result
        if result.full:
            self._last_full_ns = now_ns
        with without_collector():
            deleted = self._after_success(now_ns, result, flows, now_ns if loaded_ns is None else loaded_ns)
        return replace(result, conntrack_deleted=tuple(deleted)) if deleted else result

    def _sync(self, now_ns: int, refused: Refusals) -> SyncResult:
        full = self._next_is_full(now_ns)
        service_changes, checkout = self._take_changes()
        changed = dict.fromkeys((*service_changes, *checkout.changes))
        plans = {key: self._plans(key) for key in (self._all_services(changed) if full else changed)}
        request = SyncRequest(full, now_ns, self.maps.endpoint_total, plans, self._machine, refused=refused)
        transaction = self.backend.sync(request, self.held)
        self.held = transaction.held
        full = full or transaction.became_full
        samples: tuple[tuple[ServiceKey, int], ...] = ()
        if transaction.success:
            samples = tuple((key, t) for key in checkout.trigger_times_ns for t in checkout.trigger_times_ns[key])
        # after a failure the changes stay in the maps, but samples and conntrack clean-up are lost (I-13.6)
        self._need_full = not transaction.success
        return SyncResult(
            ran=True,
            transaction=transaction,
            full=full,
            services_changed=tuple(changed),
            plans=plans,
            trigger_times_ns=samples,
            clean_up=transaction.success and any(change.touches_udp for change in checkout.changes.values()),
        )

    def _next_is_full(self, now_ns: int) -> bool:
        """Whether the next sync is full (CP-10.1 step 2).

        It is asked before the changes are taken over, because the endpoint total of the sync before counts (I-12.3 c).
        """
        traits = self.backend.traits
        if self._need_full or not traits.partial_syncs or self._last_full_ns is None:
            return True
        after_ns = traits.full_after_ns(self.settings, self.maps.endpoint_total)
        return after_ns is not None and now_ns - self._last_full_ns > after_ns

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

    def _plans(self, service: ServiceKey) -> tuple[ServicePlan, ...]:
        node_name, zone = self.settings.node_name, self.zone
        return tuple(
            [
                make_plan(name, port, endpoints, node_name, zone)
                for name, port, endpoints in self.maps.plans_input(service)
            ]
        )

    def _count(self, result: SyncResult, took_ns: int | None) -> None:
        """Updates the metrics of every sync past the gate: the mode's own, then those that all modes have (CP-11.1)."""
        family = self.family.label
        self.metrics.apply(result.transaction.metrics)
        if took_ns is None:
            return
        self.metrics.observe("sync_proxy_rules_duration_seconds", took_ns, ip_family=family)
        if self.backend.traits.partial_syncs:
            kind = "full" if result.full else "partial"
            self.metrics.observe(f"sync_{kind}_proxy_rules_duration_seconds", took_ns, ip_family=family)

    def _after_success(
        self, now_ns: int, result: SyncResult, flows: Callable[[], Iterable[UdpFlow]], loaded_ns: int
    ) -> list[UdpFlow]:
        """Does step 9 of I-13.4: metrics, health checks, stale flows. Returns the stale UDP flows."""
        family = self.family.label
        for _, trigger_ns in result.trigger_times_ns:
            self.metrics.observe("network_programming_duration_seconds", loaded_ns - trigger_ns, ip_family=family)
        counts = result.transaction.no_local_endpoints
        for policy, count in zip(("internal", "external"), counts, strict=True):
            self.metrics.set(
                "sync_proxy_rules_no_local_endpoints_total", count, traffic_policy=policy, ip_family=family
            )
        self.proxy_health.updated(self.family, now_ns)
        self.metrics.set("sync_proxy_rules_last_timestamp_seconds", loaded_ns, ip_family=family)
        self.service_health.sync_services(self.maps.health_check_ports)
        self.service_health.sync_endpoints(self.maps.local_ready_endpoints)
        if not result.clean_up:
            return []
        deleted = self._udp_frontends.stale(flows(), self.maps)
        self.metrics.observe("conntrack_reconciler_sync_duration_seconds", 0, ip_family=family)
        self.metrics.add("conntrack_reconciler_deleted_entries_total", len(deleted), ip_family=family)
        return deleted
