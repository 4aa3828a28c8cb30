"""Replays of recordings, sync by sync: what kube-proxy would have programmed, as one JSON object per sync.

If the recording has SYNC lines, syncs run exactly there. If it has only watch events, with or without times, the runner
decides (CP-9). A sync then takes no time, and events of one instant are delivered before a sync at that instant. The
backend describes what its mode has programmed.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.backends import NONE_REFUSED, RULES_FAIL
from kpsim.backends.table import make_backend
from kpsim.cluster import ClusterState, Event, EventType, through_selector
from kpsim.config import resolve
from kpsim.effort import SYNC_ENDPOINT_S, SYNC_S, Effort
from kpsim.inputs import Json
from kpsim.ipvs.connections import Counters
from kpsim.ipvs.servers import RealServer, VirtualServerKey
from kpsim.kubeproxy.runner import Runner
from kpsim.kubeproxy.stale_flows import UdpFlow
from kpsim.objects import EndpointSlice
from kpsim.programmed import Programmed
from kpsim.proxier import Proxier, SyncResult
from kpsim.recording import FLOW_FIELDS, Recording, SyncStep, WatchStep
from kpsim.units import format_duration, parse_rfc3339_ns

#: when a replay's clock starts and its proxier is created, unless the events carry times
START_NS = parse_rfc3339_ns("2026-01-01T00:00:00Z")


@dataclass(frozen=True)
class SyncOutcome:
    """What the output says about one sync. ``programmed`` renders the mode's own part when it is called.

    ``says_full``: the mode distinguishes full and partial syncs.
    """

    number: int
    after_start_ns: int
    requested: bool
    result: SyncResult
    health_checks: list[Json]
    metrics: Mapping[str, int]
    programmed: Callable[[], Json]
    says_full: bool = True

    def to_json(self) -> dict[str, Any]:
        """The output line of this sync."""
        full = {"fullSync": self.result.full} if self.result.ran and self.says_full else {}
        return {
            "sync": self.number,
            "syncRequested": self.requested,
            "synced": self.result.ran,
            "success": self.result.success,
            **full,
            **self.programmed(),
            "healthChecks": self.health_checks,
            "conntrackDeleted": [dict(zip(FLOW_FIELDS, flow, strict=True)) for flow in self.result.conntrack_deleted],
            "metrics": dict(self.metrics),
        }

    def to_line(self) -> str:
        return json.dumps(self.to_json(), separators=(",", ":"), ensure_ascii=False)

    def to_text(self) -> str:
        """One line for people: when, what kind of sync, how many rules, which Services."""
        head = f"sync {self.number:>3}  at {format_duration(self.after_start_ns):>8}"
        if not self.result.ran:
            return f"{head}  none ran"
        done = self.result.transaction
        kind = "full" if self.result.full else "partial"
        state = "ok" if done.success else f"FAILED ({done.error})"
        counts = ", ".join(f"{count.table} {count.last} of {count.total}" for count in done.rule_counts)
        changed = ", ".join(map(str, self.result.services_changed)) or "nothing changed"
        deleted = f"; {len(self.result.conntrack_deleted)} stale UDP flows" if self.result.conntrack_deleted else ""
        return f"{head}  {kind:<7}  {state}  rules written: {counts}  [{changed}]{deleted}"


class RecordedConnections:
    """The connections of ip_vs that a recording tells of, by ``VIP:port/PROTOCOL/IP:port``: active ones (IPVS-6.1)."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._active: dict[str, int] = {}

    def __call__(self, key: VirtualServerKey, server: RealServer) -> Counters:
        return Counters(self._active.get(self._name(key, server), 0))

    def update(self, active: Mapping[str, int]) -> None:
        """Notes the counts of some real servers; those of others stay as they are."""
        self._active.update(active)

    def forget(self, before: Programmed, after: Programmed) -> None:
        """Forgets the connections to real servers that were deleted between two states (IPVS-13.2)."""
        if before.virtual_servers is after.virtual_servers or not self._active:
            return
        for key, virtual in before.virtual_servers.items():
            left = after.virtual_servers.get(key)
            kept = {(server.address, server.port, server.generation) for server in left.servers} if left else ()
            for server in virtual.servers:
                if (server.address, server.port, server.generation) not in kept:
                    self._active.pop(self._name(key, server), None)

    def _name(self, key: VirtualServerKey, server: RealServer) -> str:
        virtual = join_host_port(format_ip(self._family, key.address), key.port)
        real = join_host_port(format_ip(self._family, server.address), server.port)
        return f"{virtual}/{key.protocol.upper()}/{real}"


class Replay:
    """A recording being replayed.

    After the last outcome, ``proxier``, ``cluster`` and ``flows`` are the final state.
    """

    def __init__(self, recording: Recording, *, beside: Programmed | None = None) -> None:
        """``beside`` is what the node was told before kube-proxy started."""
        self.recording = recording
        times = [step.at_ns for step in recording.steps if isinstance(step, WatchStep) and step.at_ns is not None]
        self.start_ns = START_NS if recording.has_syncs or not times else times[0]
        self.now_ns = self.start_ns
        self.cluster = ClusterState()
        self.flows: dict[UdpFlow, int] = {}  #: the connections that the recording tells of, and when each appeared
        self._ipvs_connections = RecordedConnections(recording.family)
        self._ticked_ns = self.start_ns
        settings = resolve(recording.config, recording.host, recording.node, recording.family)
        self.proxier = Proxier(settings, make_backend(settings), created_ns=self.start_ns, held=beside)
        self.proxier.use_ipvs_connections(self._ipvs_connections)
        self._requested = False
        self._count = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What the recording holds that decides nothing, in words."""
        traits, mode = self.proxier.backend.traits, self.recording.config.mode
        unused = sorted(self.recording.host_fields & traits.unused_host_fields)
        return (
            *self.recording.notes,
            *(f"kube-proxy in {mode} mode has no use for host.{name}" for name in unused),
            *([f"kube-proxy starts with the event {traits.warning}"] if traits.warning else []),
        )

    def outcomes(self) -> Iterator[SyncOutcome]:
        """One outcome per sync, in order."""
        return self._scripted() if self.recording.has_syncs else self._timed()

    def _scripted(self) -> Iterator[SyncOutcome]:
        """One sync per SYNC line. The line's time passes before the events above it are delivered."""
        events: list[WatchStep] = []
        for step in self.recording.steps:
            if isinstance(step, WatchStep):
                events.append(step)
                continue
            self.now_ns += step.after_ns
            for event in events:
                self._deliver(event)
            events = []
            self._happen(step)
            yield self._sync(refuse=step.refuse, skip=step.skip)
        for event in events:
            self._deliver(event)

    def _timed(self) -> Iterator[SyncOutcome]:
        """Syncs when the runner wants them. Events with no later time than the first event are the initial list."""
        steps = [step for step in self.recording.steps if isinstance(step, WatchStep)]
        runner = self.proxier.make_runner()
        runner.start(self.start_ns)
        initial = 0
        while initial < len(steps) and (steps[initial].at_ns or self.start_ns) <= self.start_ns:
            self._deliver(steps[initial])
            initial += 1
        self._open_gate()
        yield self._sync()  # the start signals sync directly, not through the runner (I-13.7)
        for step in steps[initial:]:
            at_ns = max(step.at_ns or self.now_ns, self.now_ns)
            yield from self._run_until(runner, at_ns)
            self.now_ns = at_ns
            if self._deliver(step):
                runner.request(at_ns)
        yield from self._run_until(runner, None)

    def _run_until(self, runner: Runner, until_ns: int | None) -> Iterator[SyncOutcome]:
        """Does the runs that start before ``until_ns``; with None, runs as long as one is requested."""
        while (due_ns := runner.next_run_ns()) is not None:
            if due_ns >= until_ns if until_ns is not None else not self._requested:
                return
            self.now_ns = due_ns
            runner.begin(due_ns)
            outcome = self._sync()
            runner.finish(due_ns, self.proxier.reports_success(outcome.result))
            yield outcome

    def _deliver(self, step: WatchStep) -> bool:
        known = self.cluster.get(step.object.key)
        if step.type is EventType.DELETED:
            if known is None:
                return False
            self.cluster = self.cluster.remove(step.object.key)[1]
            event = Event(EventType.DELETED, known, None)  # watchers get the version that was last known
        else:
            event, self.cluster = self.cluster.put(step.object)
        seen = through_selector(event, self.recording.node_name)
        requested = seen is not None and self.proxier.on_event(seen, self.now_ns)
        self._requested |= requested
        return requested

    def _open_gate(self) -> None:
        self.proxier.services_synced()
        self.proxier.slices_synced()

    def _happen(self, step: SyncStep) -> None:
        """Applies what happened to the machine before this sync."""
        if step.conntrack_replace:
            self.flows.clear()
        for flow in step.conntrack:
            self.flows.setdefault(flow, self.now_ns)
        if step.interfaces is not None:
            self.proxier.use_interfaces(step.interfaces)
        if step.force_full:
            self.proxier.force_full_sync()
        if step.flushed and "iptablesFlushed" not in self.proxier.backend.traits.unused_host_fields:
            self.proxier.held = self.proxier.backend.flush(self.proxier.held)
        if step.ipvs_connections is not None:
            self._ipvs_connections.update(step.ipvs_connections)
        self._tick_if_due(now=step.graceful_tick)
        self._open_gate()

    def _tick_if_due(self, *, now: bool = False) -> None:
        """Does what the mode does by its own timer, if the time for it has come, or if it is to happen ``now``."""
        period_ns = self.proxier.backend.traits.tick_ns
        if period_ns is None or not (now or self.now_ns - self._ticked_ns >= period_ns):
            return
        self._ticked_ns = self.now_ns
        before = self.proxier.held
        self.proxier.tick(self.now_ns)
        self._ipvs_connections.forget(before, self.proxier.held)

    def _sync(self, *, refuse: bool = False, skip: bool = False) -> SyncOutcome:
        before = self.proxier.held
        if skip:
            result = self.proxier.no_sync()
        else:
            result = self.proxier.sync(
                self.now_ns, lambda: list(self.flows), refused=RULES_FAIL if refuse else NONE_REFUSED
            )
        self._ipvs_connections.forget(before, self.proxier.held)
        for flow in result.conntrack_deleted:
            self.flows.pop(flow, None)
        outcome = SyncOutcome(
            number=self._count,
            after_start_ns=self.now_ns - self.start_ns,
            requested=self._requested,
            result=result,
            health_checks=self._health_checks(),
            metrics=self.proxier.metrics.snapshot(),
            programmed=self.proxier.backend.describe(result.transaction, self.proxier.machine),
            says_full=self.proxier.backend.traits.partial_syncs,
        )
        self._count += 1
        self._requested = False
        return outcome

    def _health_checks(self) -> list[Json]:
        health, healthy = self.proxier.service_health, self.proxier.proxy_health.healthy(self.now_ns)
        found: list[Json] = []
        for server in health.servers:
            answer = health.answer(server.service, healthy)
            found.append(
                {
                    "service": str(server.service),
                    "port": server.port,
                    "localEndpoints": server.local_endpoints,
                    "status": answer.status,
                    "body": answer.body,
                }
            )
        return found


def effort_of(recording: Recording) -> Effort:
    """How long a recording would take to replay: its syncs, each with all endpoints."""
    watched = [step for step in recording.steps if isinstance(step, WatchStep)]
    endpoints = sum(len(step.object.endpoints) for step in watched if isinstance(step.object, EndpointSlice))
    if recording.has_syncs:
        syncs = len(recording.steps) - len(watched)
    else:
        times = [step.at_ns for step in watched if step.at_ns is not None]
        span_ns = max(times) - min(times) if times else 0
        period_ns = max(recording.config.sync_period_ns, 1)
        syncs = min(len(watched), span_ns // max(recording.config.min_sync_period_ns, 1) + 1) + span_ns // period_ns
    return Effort(syncs * (SYNC_S + endpoints * SYNC_ENDPOINT_S), f"{syncs:,} syncs with up to {endpoints:,} endpoints")
