"""Replays of recordings, sync by sync: what kube-proxy would have programmed, as one JSON object per sync."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kpsim.cluster import ClusterState, Event, EventType, through_selector
from kpsim.config import resolve
from kpsim.proxier import Proxier, SyncResult, make_backend
from kpsim.recording import FLOW_FIELDS, Recording, SyncStep, WatchStep
from kpsim.stale_flows import Flow
from kpsim.units import parse_rfc3339_ns

#: when a replay's clock starts and its proxier is created
START_NS = parse_rfc3339_ns("2026-01-01T00:00:00Z")

Json = Mapping[str, Any]


@dataclass(frozen=True)
class SyncOutcome:
    """What is to be said of one SYNC line. ``programmed`` renders the mode's own part when it is called."""

    number: int
    requested: bool
    result: SyncResult
    health_checks: list[Json]
    metrics: Mapping[str, int]
    programmed: Callable[[], Json]

    def to_json(self) -> dict[str, Any]:
        """The output line of this sync."""
        full = {"fullSync": self.result.full} if self.result.ran else {}
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


class Replay:
    """A recording being replayed, sync by sync; afterwards ``proxier`` and ``cluster`` are the final state."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.now_ns = START_NS
        self.cluster = ClusterState()
        self.flows: dict[Flow, None] = {}
        settings = resolve(recording.config, recording.host, recording.node, recording.family)
        self.proxier = Proxier(settings, make_backend(settings), created_ns=START_NS)
        self._requested = False

    def outcomes(self) -> Iterator[SyncOutcome]:
        """One outcome per SYNC line, in order; time passes before the events that lead up to a SYNC."""
        number = 0
        events: list[WatchStep] = []
        for step in self.recording.steps:
            if isinstance(step, WatchStep):
                events.append(step)
                continue
            self.now_ns += step.after_ns
            for event in events:
                self._deliver(event)
            events = []
            yield self._sync(number, step)
            number += 1
        for event in events:
            self._deliver(event)

    def _deliver(self, step: WatchStep) -> None:
        known = self.cluster.get(step.object.key)
        if step.type is EventType.DELETED:
            if known is None:
                return
            _, self.cluster = self.cluster.remove(step.object.key)
            event = Event(EventType.DELETED, step.object, None)
        else:
            event, self.cluster = self.cluster.put(step.object)
        seen = through_selector(event, self.recording.node_name)
        if seen is not None:
            self._requested |= self.proxier.on_event(seen, self.now_ns)

    def _sync(self, number: int, step: SyncStep) -> SyncOutcome:
        if step.conntrack_replace:
            self.flows.clear()
        self.flows.update(dict.fromkeys(step.conntrack))
        if step.interfaces is not None:
            self.proxier.use_interfaces(step.interfaces)
        if step.force_full:
            self.proxier.force_full_sync()
        if step.flushed:
            self.proxier.backend.flush()
        self.proxier.services_synced()
        self.proxier.slices_synced()
        requested, self._requested = self._requested, False
        result = SyncResult(ran=False)
        if not step.skip:
            result = self.proxier.sync(self.now_ns, lambda: list(self.flows), refuse=step.refuse)
        for flow in result.conntrack_deleted:
            self.flows.pop(flow, None)
        return SyncOutcome(
            number=number,
            requested=requested,
            result=result,
            health_checks=self._health_checks(),
            metrics=self.proxier.metrics.snapshot(),
            programmed=self.proxier.backend.describe(result.transaction),
        )

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
