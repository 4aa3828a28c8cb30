"""One node's kube-proxy on the clock: informers, start gate, runner and syncs that take time (CP-7, CP-9, CP-12).

Counterpart: cmd/kube-proxy's process. ``proxier`` and ``runner`` decide what happens; this module decides when. It
reaches the kernel that it programs through an interface.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from kpsim import rng
from kpsim.addresses import Family
from kpsim.backends.table import make_backend
from kpsim.cluster import Event, through_selector
from kpsim.config import Host, ProxyConfig, resolve
from kpsim.kubeproxy.healthcheck import ProxyHealth
from kpsim.kubeproxy.metrics import Metrics, Series
from kpsim.kubeproxy.runner import Runner
from kpsim.kubeproxy.trackers import ServiceKey
from kpsim.objects import EndpointSlice, Node, Service
from kpsim.programmed import Programmed
from kpsim.proxier import Proxier, SyncResult
from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.quantities import Delay
from kpsim.scenario.schema import Delays, KubeProxySpec, RunnerKind
from kpsim.scenario.sync_costs import SyncCosts
from kpsim.simulation.apiserver import ApiServer, Change, initial_events
from kpsim.simulation.canary import CanaryWatch
from kpsim.simulation.clock import Clock, Rank, wall_ns
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.draining import drained
from kpsim.simulation.faults import NOTHING_MET, SyncFaults
from kpsim.simulation.localendpoints import LocalEndpoints, count_local
from kpsim.simulation.manifest import NO_SKEWS
from kpsim.simulation.nodekernel import Kernel
from kpsim.simulation.nodewatch import NodeWatch
from kpsim.simulation.programming import Delivery, programmed, service_and_trigger
from kpsim.simulation.replays import Replays
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog, Sync, Unprogrammed
from kpsim.simulation.synctimes import sync_ns

#: the least time between two readings of the clock in one process: a full sync notes its time before the runner sets
#: its timer, so at the hourly run always more than an hour has gone by (CP-9.1, CP-10.1)
_TICK_NS = 1


@dataclass(slots=True, eq=False)
class _FamilyProxy:
    """One family's proxier with its runner."""

    proxier: Proxier
    runner: Runner
    deliveries: list[Delivery] = field(default_factory=list)  #: changes since the last sync
    carried: list[Delivery] = field(default_factory=list)  #: those of a failed sync, or that a former process missed
    in_sync: list[Delivery] = field(default_factory=list)  #: changes that the sync under way has taken
    sync_start_ns: int | None = None  #: when that sync began
    requested_ns: int | None = None
    syncing: bool = False
    wake: int = 0  #: number of the last wake-up asked for; earlier ones mean nothing
    local: Mapping[ServiceKey, LocalEndpoints] = field(default_factory=dict)
    canary: CanaryWatch | None = None  #: None: the mode has none
    waiting: list[Callable[[], None]] = field(default_factory=list)  #: syncs that wait for the one under way

    @property
    def late(self) -> tuple[tuple[int | None, list[Delivery]], ...]:
        """Changes that are not in the rules, with the start of the sync that has them."""
        return ((None, self.carried), (None, self.deliveries), (self.sync_start_ns, self.in_sync))


@dataclass(slots=True, eq=False)
class _Syncing:
    """A sync that has started and not ended."""

    start_ns: int
    requested_ns: int | None
    result: SyncResult
    deliveries: list[Delivery]
    in_runner: bool


class KubeProxy:
    """The kube-proxy of one node. It can stop and start again."""

    def __init__(
        self,
        clock: Clock,
        api: ApiServer,
        node: ClusterNode,
        config: ProxyConfig,
        delays: Delays,
        kernel: Kernel,
        *,
        seed: int,
        log: RunLog,
        health_changed: Callable[[], None],
        families: tuple[Family, ...],
        spec: KubeProxySpec,
        costs: Mapping[str, SyncCosts],
        service_cidrs: tuple[str, ...] = (),
        skews: Mapping[str, int] = NO_SKEWS,
    ) -> None:
        self._clock, self._api = clock, api
        self._node = node
        self._config = config
        self._spec = spec
        self._kernel = kernel
        self._seed, self._log = seed, log
        self._health_changed = health_changed
        self._families, self._service_cidrs = families, service_cidrs
        self._sync_cost, self._costs = delays.sync_on(node.name), costs
        self.faults = SyncFaults()
        self.metrics = Metrics()  #: of the process that runs, or ran last
        self._skews = skews
        self.running = False
        self.process = 0  #: number of the process; what was planned for an earlier process does not happen
        self._started_ns = 0  #: when the process did
        self._long_up = False  #: it had started, and synchronised, before the run
        self._proxies: list[_FamilyProxy] = []
        self._health = ProxyHealth(2 * config.sync_period_ns)
        self._watching_health = False  #: a look at the health is planned for the time at which it may turn by itself
        #: what the rules in the kernel send Local traffic to; a new process finds them in force (CP-12.1)
        self._usable: dict[Family, Mapping[ServiceKey, LocalEndpoints]] = {}
        #: families some of whose rules another program has removed since the last full sync
        self._damaged: set[Family] = set()
        self._drawn: Counter[Hashable] = Counter()  #: draws for each subject, so that each has a number of its own
        self.watch = NodeWatch(
            clock, api, node.name, delays, spec.watch_duration, resync_ns=config.config_sync_period_ns, seed=seed, log=log,
            hand_over=self._hand_over, listed=self._take_lists,
        )  # fmt: skip

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def _skew_ns(self) -> int:
        """By how much the machine's clock is ahead of the masters'. Only comparisons with their stamps read it (CP-11.2)."""
        return self._skews.get(self.name, 0)

    # ----------------------------------------------------------------------------------------------------------- health

    def local_endpoints(self, service: ServiceKey) -> LocalEndpoints:
        """Return the endpoints of the first family, which is the one that load balancers probe.

        ``usable`` counts what the kernel's rules hold, whether or not a process runs that knows of it.
        """
        known = self._proxies[0].local.get(service, LocalEndpoints()) if self._proxies else LocalEndpoints()
        in_force = self._usable.get(self._families[0], {}).get(service, LocalEndpoints())
        return known if known.usable == in_force.usable else replace(known, usable=in_force.usable)

    def answers_health_check(self, service: ServiceKey, *, per_service: bool) -> bool:
        """Return whether the health check node port (else ``/healthz``) answers 200 now (CP-14, CP-15)."""
        if not self.running:
            return False
        now_ns = wall_ns(self._clock.now_ns)
        if not per_service:
            return self._health.healthz(now_ns).status == 200
        local = self.local_endpoints(service)
        return local.serves_health_check and local.ready > 0 and self._health.healthy(now_ns)

    def note_probe(self, *, passed: bool) -> None:
        """Count a probe of ``/healthz`` that was answered (CP-11.1)."""
        if self.running:
            self.metrics.add("proxy_healthz_total", code="200" if passed else "503")

    def scrape(self, counted: Mapping[str, tuple[int, int]], at_ns: int) -> Series | None:
        """Return what ``/metrics`` answers at a time, None if no process runs. ``counted`` are the kernel's named counters."""
        if not self.running:
            return None
        self._replays.count(at_ns)
        accounting = self._proxies[0].proxier.backend.traits.accounting
        read: Series = {(metric, ()): counted.get(name, (0, 0))[0] for metric, name in accounting}
        return {**self.metrics.series(), **read} if read else self.metrics.series()

    # ----------------------------------------------------------------------------------------------------- start and stop

    def start_synced(self) -> None:
        """Start before the run: kube-proxy has been up for long and has programmed all objects."""
        self._make()
        self._long_up = True
        self.watch.open_before_the_run()
        for proxy in self._proxies:
            look_ns = rng.below(
                self._config.sync_period_ns, self._seed, "canary", self.name, proxy.proxier.family.label
            )
            self._watch_canary(proxy, look_ns)
            proxy.runner = self._make_runner(proxy.proxier)  # its first run was long ago
            proxy.requested_ns = None
            proxy.proxier.start_loop(wall_ns(0))
            proxy.proxier.expose_histograms()
            proxy.runner.start(0)
            self._begin(proxy, in_runner=False, instantly=True)
            self._wake(proxy)

    def start(self) -> None:
        """Start the process now. It knows its Node at once; the initial lists arrive later (CP-12)."""
        self._make()
        self._kernel.proxy_started()
        now_ns = self._clock.now_ns
        if warning := self._proxies[0].proxier.backend.traits.warning:
            self._log.happenings.append(Happening(now_ns, HappeningKind.PROXY_WARNING, self.name, warning))
        for proxy in self._proxies:
            proxy.proxier.start_loop(wall_ns(now_ns))
            proxy.runner.start(now_ns)
            self._watch_canary(proxy, now_ns + self._config.sync_period_ns)
        node = self._api.state.node(self.name)
        if node is not None and not self.watch.refused:
            for event in initial_events(self._api.state):
                if event.key == node.key:
                    self._hand_over(event, ())
        self.watch.start()
        self._health_changed()

    def _make(self) -> None:
        """Make a new process. What the kernel holds stays in force until the first sync (CP-12.1)."""
        self.process += 1
        self._usable = {
            family: local for family, local in self._usable.items() if self._kernel.held(family) is not None
        }
        self.running = True
        self._started_ns, self._long_up = self._clock.now_ns, False
        node = self._api.state.node(self.name)
        host = Host(
            self._node.ips,
            self._kernel.interfaces,
            tcp_be_liberal=self._kernel.tcp_be_liberal,
            service_cidrs=self._service_cidrs,
        )
        self._health = ProxyHealth(2 * self._config.sync_period_ns)
        self.metrics = Metrics()
        self._proxies = []
        for family in self._families:
            settings = resolve(self._config, host, node, family)
            proxier = Proxier(
                settings,
                make_backend(settings),
                created_ns=wall_ns(self._clock.now_ns) + self._skew_ns,
                held=self._kernel.held(family),
                metrics=self.metrics,
                proxy_health=self._health,
            )
            self._proxies.append(_FamilyProxy(proxier, self._make_runner(proxier)))
            self._tick_later(self._proxies[-1])
        self._replays = Replays(self.watch.take_replays, self.metrics, [proxy.proxier for proxy in self._proxies])

    def _make_runner(self, proxier: Proxier) -> Runner:
        return proxier.make_runner(token_bucket=self._spec.runner is RunnerKind.TOKEN_BUCKET)

    def stop(self) -> None:
        """End the process. Its rules stay in the kernel."""
        self.watch.stop(d.change for proxy in self._proxies for _, late in proxy.late for d in late)
        self.process += 1
        self.running = False
        self._health_changed()

    def lose_power(self) -> None:
        """End the process with its machine, whose kernel forgets the rules."""
        self._usable = {}
        self.faults.locked_until_ns = 0
        self.stop()

    def tamper(self, family: Family, change: Callable[[Programmed], Programmed]) -> bool:
        """Let another program change what the node's kernel holds. Return whether that changed anything.

        kube-proxy is not told. What it finds in the kernel at its next sync is what it then holds. A sync under way has
        handed its rules to the kernel before, so the change applies to them, too.
        """
        held = self._kernel.held(family) or Programmed.nothing(family)
        changed = change(held)
        for proxy in self._proxies if self.running else ():
            if proxy.proxier.family is family:
                proxy.proxier.held = changed if proxy.proxier.held is held else change(proxy.proxier.held)
        if changed is held:
            return False
        self._kernel.load(changed)
        if any(origin.service and not changed.has(origin) for origin in held.origins):
            self._usable[family] = {}
            self._damaged.add(family)
            self._kernel.damaged(family, self._clock.now_ns)
            self._health_changed()
        self.disturb_canaries()
        return True

    def disturb_canaries(self) -> None:
        """Let canaries look whether their chains are there."""
        for proxy in self._proxies if self.running else ():
            if proxy.canary is not None:
                proxy.canary.disturbed()

    def unprogrammed(self) -> Iterator[Unprogrammed]:
        """Yield the changes that are written and not in this node's rules, for each family."""
        for number, family in enumerate(self._families):
            proxy = self._proxies[number] if number < len(self._proxies) and self.running else None
            waiting = self.watch.undelivered()
            found: dict[int, tuple[Change, int | None, int | None]]
            found = {c.number: (c, None, None) for c in waiting if self._concerns(c, family.label)}
            for start_ns, several in () if proxy is None else proxy.late:
                found.update((d.change.number, (d.change, d.at_ns, start_ns)) for d in several)
            for _, (change, *times_ns) in sorted(found.items()):
                where = str(change), str(service_and_trigger(change)[0]), self.name, family.label
                yield Unprogrammed(*where, change.trigger_ns, change.written_ns, *times_ns)

    def _take_lists(self, kinds: Sequence[str], missed: Sequence[Change]) -> None:
        """Take note that the first lists of these kinds have been handed over; ``missed`` changes were in them."""
        now_ns = self._clock.now_ns
        for proxy in self._proxies:
            family = proxy.proxier.family.label
            proxy.carried += [Delivery(change, now_ns) for change in missed if self._concerns(change, family)]
        poll_ns = self._spec.synced_poll_ns
        late_ns = (self._started_ns - now_ns) % poll_ns if poll_ns and not self._long_up else 0
        if not late_ns:
            self._open_gate(kinds)
            return
        process = self.process

        def look() -> None:
            if self.process == process:
                self._open_gate(kinds)

        self._clock.at(now_ns + late_ns, Rank.DELIVERY, f"node {self.name}", look)

    def _open_gate(self, kinds: Sequence[str]) -> None:
        """Have the proxiers know that lists are there. With the second of Services and slices they synchronise (CP-12)."""
        for proxy in self._proxies:
            if "Service" in kinds:
                proxy.proxier.services_synced()
            if "EndpointSlice" in kinds:
                proxy.proxier.slices_synced()
        opened = "Service" in kinds or "EndpointSlice" in kinds
        if opened and not self._long_up and self._proxies[0].proxier.initialised:
            self._sync_directly(self._proxies)

    def _concerns(self, change: Change, family: str) -> bool:
        """Return whether the change can alter rules of a family, judging by its object and by this node's selectors."""
        match change.event.object:
            case Service() as service:
                of_family = family in service.ip_families
            case EndpointSlice() as endpoint_slice:
                of_family = endpoint_slice.address_type == family
            case _:
                of_family = False
        return of_family and through_selector(change.event, self.name) is not None

    # -------------------------------------------------------------------------------------------------------- deliveries

    def _hand_over(self, event: Event, changes: Sequence[Change]) -> None:
        """Hand an event to the proxiers. It stands for these changes."""
        seen = through_selector(event, self.name)
        if seen is None:
            return
        now_ns = self._clock.now_ns
        self._replays.before(seen, now_ns)
        was_eligible = self._health.node_eligible
        for proxy in self._proxies:
            wanted = proxy.proxier.on_event(seen, wall_ns(now_ns))
            if not wanted:
                continue
            if not isinstance(seen.object, Node):
                proxy.deliveries += [Delivery(change, now_ns) for change in changes]
            if proxy.requested_ns is None:
                proxy.requested_ns = now_ns
            proxy.runner.request(now_ns)
            self._wake(proxy)
        self._watch_health()
        if self._health.node_eligible is not was_eligible:
            self._health_changed()

    def _watch_health(self) -> None:
        """Plan a look at the health for when the oldest unanswered request turns it, if none answers before (CP-14.1)."""
        turns_ns = self._health.turns_ns()
        if turns_ns is None or self._watching_health or turns_ns <= wall_ns(self._clock.now_ns):
            return  # nothing is asked for, the look is planned, or it has been taken
        self._watching_health = True

        def look() -> None:
            self._watching_health = False
            if not self.running:
                return
            if self._health.healthy(wall_ns(self._clock.now_ns)):
                self._watch_health()
            else:
                self._health_changed()

        self._clock.at(turns_ns - wall_ns(0), Rank.RULES_IN_FORCE, f"node {self.name}", look)

    # ------------------------------------------------------------------------------------------------------------- ticks

    def _tick_later(self, proxy: _FamilyProxy) -> None:
        """Plan what the mode does next by its own timer, if it has one (IPVS-6.2)."""
        period_ns = proxy.proxier.backend.traits.tick_ns
        if period_ns is None:
            return
        process = self.process

        def tick() -> None:
            if self.process == process:
                self._tick(proxy)
                self._tick_later(proxy)

        self._clock.at(self._clock.now_ns + period_ns, Rank.SYNC_START, f"node {self.name}", tick)

    def _tick(self, proxy: _FamilyProxy) -> None:
        """Do what the mode does by its own timer. What it changes while a sync runs comes into force with the sync."""
        before = proxy.proxier.held
        self._look_at_connections(proxy)
        proxy.proxier.tick(wall_ns(self._clock.now_ns))
        if proxy.proxier.held is not before and not proxy.syncing:
            self._load(proxy)

    def _load(self, proxy: _FamilyProxy) -> None:
        """Have the kernel hold what kube-proxy has told it by now. Draining real servers get a line in the log."""
        now_ns, family, held = self._clock.now_ns, proxy.proxier.family, proxy.proxier.held
        for kind, what in drained(self._kernel.held(family), held):
            self._log.happenings.append(Happening(now_ns, kind, self.name, what))
        self._kernel.load(held)

    def _look_at_connections(self, proxy: _FamilyProxy) -> None:
        counted = self._kernel.ipvs_connections(proxy.proxier.family, self._clock.now_ns)
        proxy.proxier.use_ipvs_connections(counted)

    # ------------------------------------------------------------------------------------------------------------- syncs

    def _wake(self, proxy: _FamilyProxy) -> None:
        """Schedule a wake-up for the time at which the runner's next run is due, as things stand now."""
        due_ns = proxy.runner.next_run_ns()
        if due_ns is None:
            return
        proxy.wake += 1
        process, number = self.process, proxy.wake

        def wake() -> None:
            # a sync that bypasses the runner holds the proxier's lock; the end of that sync wakes the runner again
            if self.process == process and proxy.wake == number and not proxy.syncing:
                self._begin(proxy, in_runner=True)

        self._clock.at(max(due_ns, self._clock.now_ns), Rank.SYNC_START, f"node {self.name}", wake)

    def _sync_directly(self, proxies: Sequence[_FamilyProxy]) -> None:
        """Do the first sync, which bypasses the runner, one family after the other (CP-12)."""
        if not proxies:
            return
        first, rest, process = proxies[0], proxies[1:], self.process

        def start() -> None:
            if self.process != process:
                return
            if first.syncing:
                self._sync_directly(rest)  # the runner was faster, and has already taken in the lists
            else:
                self._begin(first, in_runner=False, then=lambda: self._sync_directly(rest))

        self._clock.at(self._clock.now_ns, Rank.SYNC_START, f"node {self.name}", start)

    def _watch_canary(self, proxy: _FamilyProxy, first_look_ns: int) -> None:
        canary, process = proxy.proxier.backend.traits.canary, self.process
        if canary is None:
            return

        def plant() -> None:
            proxy.proxier.held = canary.plant(proxy.proxier.held)
            if not proxy.syncing:
                self._load(proxy)

        proxy.canary = CanaryWatch(
            self._clock,
            f"node {self.name}",
            canary,
            self.faults,
            first_look_ns=first_look_ns,
            period_ns=self._config.sync_period_ns,
            held=lambda: self._kernel.held(proxy.proxier.family) or Programmed.nothing(proxy.proxier.family),
            resync=lambda then: self._resync(proxy, then),
            plant=plant,
            alive=lambda: self.process == process,
        )

    def _resync(self, proxy: _FamilyProxy, then: Callable[[], None]) -> None:
        """Do a full sync that bypasses the runner, so that nothing retries it (CP-9.4, I-13.7)."""
        now_ns, family = self._clock.now_ns, proxy.proxier.family
        self._log.happenings.append(Happening(now_ns, HappeningKind.CANARY_MISSED, self.name, family.label))
        proxy.proxier.force_full_sync()
        if proxy.syncing:
            proxy.waiting.append(lambda: self._begin(proxy, in_runner=False, then=then))
        else:
            self._begin(proxy, in_runner=False, then=then)

    def _begin(
        self, proxy: _FamilyProxy, *, in_runner: bool, instantly: bool = False, then: Callable[[], None] | None = None
    ) -> None:
        now_ns = self._clock.now_ns
        if in_runner:
            proxy.runner.begin(now_ns)
        self._look_at_connections(proxy)
        met = NOTHING_MET
        if proxy.proxier.initialised:
            met = self.faults.meet(now_ns, proxy.proxier.backend.traits.locked)
        result = proxy.proxier.begin_sync(wall_ns(now_ns), refused=met.refused)
        if not result.ran:
            if in_runner:
                proxy.runner.finish(now_ns, ok=True)
                self._wake(proxy)
            if then is not None:
                then()
            return
        # a Service that changed in nothing that kube-proxy reads is no change (O-7.2)
        changed = [d for d in proxy.deliveries if service_and_trigger(d.change)[0] in result.services_changed]
        deliveries, proxy.carried, proxy.deliveries = [*proxy.carried, *changed], [], []
        requested_ns, proxy.requested_ns = proxy.requested_ns, None
        syncing = _Syncing(now_ns, requested_ns, result, deliveries, in_runner)
        if instantly:
            self._end(proxy, syncing, took_ns=None)
            return
        proxy.syncing, proxy.in_sync, proxy.sync_start_ns = True, deliveries, now_ns
        process = self.process

        def end() -> None:
            if self.process == process:
                proxy.syncing, proxy.in_sync = False, []
                self._end(proxy, syncing, took_ns=self._clock.now_ns - now_ns)
                self._wake(proxy)
                if then is not None:
                    then()
                if proxy.waiting:
                    proxy.waiting.pop(0)()

        self._clock.at(
            now_ns + met.wait_ns + self._cost_ns(proxy, result), Rank.RULES_IN_FORCE, f"node {self.name}", end
        )

    def _cost_ns(self, proxy: _FamilyProxy, result: SyncResult) -> int:
        base_ns = self._draw(self._sync_cost.base, "sync", proxy.proxier.family.label)
        return sync_ns(self._sync_cost, self._costs, base_ns, result.transaction)

    def _draw(self, delay: Delay, stage: str, *subject: Hashable) -> int:
        """Draw the delay of the next event of this stage and subject on this node, whichever process it meets."""
        if delay.constant_ns is not None:
            return delay.constant_ns
        self._drawn[stage, *subject] += 1
        return draw_ns(delay, self._seed, stage, self.name, *subject, self._drawn[stage, *subject])

    def _end(self, proxy: _FamilyProxy, syncing: _Syncing, *, took_ns: int | None) -> None:
        """End a sync: its rules come into force, or what a failed sync left of them."""
        now_ns, result, family = self._clock.now_ns, syncing.result, proxy.proxier.family
        self._load(proxy)
        if result.success:
            self._succeed(proxy, syncing, took_ns)
        else:
            proxy.proxier.end_sync(result, wall_ns(now_ns), took_ns=took_ns)
            proxy.carried = syncing.deliveries
            self._log.happenings.append(Happening(now_ns, HappeningKind.SYNC_FAILED, self.name, family.label))
        if syncing.in_runner:
            proxy.runner.finish(now_ns, ok=proxy.proxier.reports_success(result))
        elif not proxy.proxier.reports_success(result):
            proxy.runner.failed_beside(now_ns)
        totals = {count.table: count.total for count in result.transaction.rule_counts}
        self._log.syncs.append(
            Sync(
                node=self.name,
                family=family.label,
                start_ns=syncing.start_ns,
                end_ns=now_ns,
                full=result.full,
                success=result.success,
                requested_ns=syncing.requested_ns,
                services_changed=len(result.services_changed),
                rules_nat=totals.get("nat", 0),
                rules_filter=totals.get("filter", 0),
                rules=sum(totals.values()),
                rules_written=result.transaction.rules_written,
            )
        )
        self._health_changed()

    def _succeed(self, proxy: _FamilyProxy, syncing: _Syncing, took_ns: int | None) -> None:
        """Do what follows the loading of the rules: health, health check servers, and stale UDP flows (CP-10.1, O-12)."""
        now_ns, family = self._clock.now_ns, proxy.proxier.family
        self._kernel.synced(family, syncing.result, proxy.proxier.maps, now_ns)
        flows = partial(self._kernel.udp_flows, family, now_ns)
        loaded_ns = wall_ns(now_ns)
        result = proxy.proxier.end_sync(
            syncing.result, loaded_ns - _TICK_NS, flows, loaded_ns=loaded_ns + self._skew_ns, took_ns=took_ns
        )
        proxy.local = count_local(proxy.proxier, proxy.local, result)
        if result.full or family not in self._damaged:
            self._damaged.discard(family)
            self._usable[family] = proxy.local
        else:
            written = {service: proxy.local[service] for service in result.plans if service in proxy.local}
            self._usable[family] = {**self._usable.get(family, {}), **written}
        records = programmed(
            syncing.deliveries, syncing.result, self.name, family.label, start_ns=syncing.start_ns, now_ns=now_ns,
            clock_ns=loaded_ns + self._skew_ns,
        )  # fmt: skip
        self._log.programming.extend(records)
        deleted = self._kernel.delete_flows(family, result.conntrack_deleted, now_ns)
        if deleted:
            self._log.happenings.append(
                Happening(now_ns, HappeningKind.CONNTRACK_CLEAN_UP, self.name, f"{deleted} UDP entries deleted")
            )
