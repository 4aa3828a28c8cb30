"""The EndpointSlice controller on the clock: its informers, its queue and workers, and its limited writes (CP-3).

Counterpart: kube-controller-manager's endpointslice controller. ``endpointslices`` decides what to write. This module
decides only when.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from kpsim.endpointslices import (
    ExpectationTracker,
    Reconciliation,
    SliceWrite,
    TopologyCache,
    TriggerTimeTracker,
    WriteVerb,
    has_managed_slices,
    reconcile,
    services_for_pod_change,
    slices_of,
)
from kpsim.objects import Node, ObjectKey, Pod, Service
from kpsim.scenario.schema import ControllerSpec, Delays
from kpsim.simulation.apiserver import ApiServer, Change
from kpsim.simulation.bucket import TokenBucket
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.informers import Informers
from kpsim.simulation.runlog import Cause, Happening, HappeningKind, RunLog
from kpsim.units import SECOND_NS

RETRY_NS = SECOND_NS  #: first back-off of the service queue, doubled each time (CP-3.2)
MAX_RETRY_NS = 1000 * SECOND_NS
MAX_RETRIES = 15
RETRIES_PER_SECOND, RETRY_BURST = 10, 100  #: of all Services together; the larger of both delays counts


@dataclass(slots=True)
class _Work:
    """The queue's record of one Service (CP-3.2)."""

    queued: bool = False
    delayed_ns: int | None = None  #: when a delayed entry becomes due
    processing: bool = False
    again: bool = False  #: added while being processed
    failures: int = 0
    causes: list[Cause] = field(default_factory=list)  #: those that no sync of the Service has taken up yet

    def take_cause(self, now_ns: int) -> Cause:
        """Return the oldest cause, and forget all. Without one the controller acts by itself, now."""
        oldest = min(self.causes, default=Cause(now_ns, now_ns, now_ns, now_ns))
        self.causes.clear()
        return oldest


class SliceController:
    """The work queue over all Services, and the workers that take from it (CP-3.2).

    Each worker works on one key, no key is worked on twice at once, and all calls go through one limited client
    (CP-1.2 D6, D7).
    """

    def __init__(
        self, clock: Clock, api: ApiServer, spec: ControllerSpec, delays: Delays, seed: int, log: RunLog
    ) -> None:
        self._clock = clock
        self._api = api
        self._delays = delays
        self._seed = seed
        self._log = log
        self._seen = Informers(api.state)
        self._topology = TopologyCache()
        self._triggers = TriggerTimeTracker()
        self._own_writes = ExpectationTracker()
        self._work: dict[ObjectKey, _Work] = {}
        self._waiting: deque[ObjectKey] = deque()
        self._idle = spec.workers
        self._client = TokenBucket(spec.qps, spec.burst)
        self._retries = TokenBucket(RETRIES_PER_SECOND, RETRY_BURST)
        self._written: Counter[ObjectKey] = Counter()  #: API calls for each slice, so that each has a number
        self._seen_ns: dict[str, int] = {}  #: by kind of object: when its last change is seen

    def start(self) -> None:
        """Write the slices of every Service before the run.

        The controller has seen its own writes when the run starts.
        """
        before = self._api.state
        self._seen = Informers(before)
        self._topology = self._topology.with_nodes(before.nodes)
        for service in before.services:
            if has_managed_slices(service):
                for write in self._decide(service).writes:
                    self._api.put(write.slice, 0, 0)
        self._seen = Informers(self._api.state)
        for item in self._api.state.endpoint_slices:
            self._own_writes.wrote(item)
        self._api.watch(self._on_change)

    # ------------------------------------------------------------------------------------------------------- informers

    def _on_change(self, change: Change) -> None:
        kind = change.key.kind
        delay = self._delays.controller_watch
        drawn_ns = draw_ns(delay, self._seed, "controller watch", change.key, change.version)
        at_ns = max(self._seen_ns.get(kind, 0), change.written_ns + drawn_ns)
        self._seen_ns[kind] = at_ns
        self._clock.at(at_ns, Rank.CONTROLLER, "controller", lambda: self._see(change))

    def _see(self, change: Change) -> None:
        self._seen.apply(change.event)
        match change.event.object:
            case Service() as service:
                self._note(service.key, change)
                self._add(service.key, 0)
            case Pod():
                old, new = (obj if isinstance(obj, Pod) else None for obj in (change.event.old, change.event.new))
                for service in services_for_pod_change(self._seen.services_selecting(old, new), old, new):
                    self._note(service.key, change)
                    self._add(service.key, self._delays.controller_batch_ns)
            case Node():
                self._see_node(change)
            case _:
                pass  # slices: the controller is the only writer of those that it manages, and expects what it wrote

    def _see_node(self, change: Change) -> None:
        old, new = (obj if isinstance(obj, Node) else None for obj in (change.event.old, change.event.new))
        if old is not None and new is not None and (old.ready, old.zone) == (new.ready, new.zone):
            return
        self._topology = self._topology.with_nodes(self._seen.nodes.values())
        for key in self._topology.overloaded():
            self._note(key, change)
            self._add(key, 0)

    # ----------------------------------------------------------------------------------------------------------- queue

    def _of(self, key: ObjectKey) -> _Work:
        return self._work.setdefault(key, _Work())

    def _note(self, key: ObjectKey, change: Change) -> None:
        seen = change.cause._replace(stored_ns=change.written_ns, seen_ns=self._clock.now_ns, change=str(change))
        self._of(key).causes.append(seen)

    def _add(self, key: ObjectKey, delay_ns: int) -> None:
        """Add a Service to the queue.

        A delayed entry keeps the earlier time; an immediate entry does not cancel a delayed one.
        """
        work, now_ns = self._of(key), self._clock.now_ns
        if delay_ns == 0:
            if work.processing:
                work.again = True
            elif not work.queued:
                work.queued = True
                self._waiting.append(key)
                self._clock.at(now_ns, Rank.CONTROLLER, "controller", self._take)
            return
        due_ns = now_ns + delay_ns
        if work.delayed_ns is not None and work.delayed_ns <= due_ns:
            return
        work.delayed_ns = due_ns

        def due() -> None:
            if work.delayed_ns == due_ns:
                work.delayed_ns = None
                self._add(key, 0)

        self._clock.at(due_ns, Rank.CONTROLLER, "controller", due)

    def _take(self) -> None:
        """Let idle workers take up what waits, in order."""
        while self._idle and self._waiting:
            self._idle -= 1
            self._process(self._waiting.popleft())

    def _process(self, key: ObjectKey) -> None:
        work = self._of(key)
        work.queued = False
        work.processing = True
        service = self._seen.service(key)
        if service is None:
            self._triggers.forget(key)
            self._collect_garbage(key, work)
        elif not has_managed_slices(service):
            work.causes.clear()
            self._done(key, ok=True)
        elif self._own_writes.is_stale(service, slices_of(service, self._seen.slices_of(key))):
            self._happening(
                HappeningKind.SLICE_SYNC_STALE, service.key, "the controller has not seen its own last write"
            )
            self._done(key, ok=False)
        else:
            result = self._decide(service)
            self._write(key, result.writes, work.take_cause(self._clock.now_ns), ok=not result.errors)

    def _decide(self, service: Service) -> Reconciliation:
        pods = self._seen.pods_of(service)
        result = reconcile(
            service,
            pods,
            self._seen.nodes,
            slices_of(service, self._seen.slices_of(service.key)),
            trigger_time_ns=self._triggers.compute(service, pods),
            topology=self._topology,
            seed=self._seed,
        )
        if result.topology is not None:
            self._topology = result.topology
        for event in result.events:
            self._happening(HappeningKind(event.reason), service.key, event.message)
        return result

    def _collect_garbage(self, key: ObjectKey, work: _Work) -> None:
        """Delete the slices of a Service that is gone, as the garbage collector does with owned objects."""
        owned = [SliceWrite(WriteVerb.DELETE, item) for item in self._seen.slices_of(key) if item.owner_uids]
        self._write(key, owned, work.take_cause(self._clock.now_ns), ok=True)

    def _write(self, key: ObjectKey, writes: Sequence[SliceWrite], cause: Cause, *, ok: bool) -> None:
        """Send one API call after the other (CP-3.6.2). The key stays in work until the last call has returned."""
        if not writes:
            self._clock.at(self._clock.now_ns, Rank.CONTROLLER, "controller", lambda: self._done(key, ok=ok))
            return
        first, rest = writes[0], writes[1:]
        now_ns = self._clock.now_ns
        self._written[first.slice.key] += 1
        key_of_call = ("slice write", first.slice.key, self._written[first.slice.key])
        at_ns = now_ns + self._client.take(now_ns) + draw_ns(self._delays.slice_write, self._seed, *key_of_call)

        def arrive() -> None:
            self._call(first, cause)
            self._clock.at(at_ns, Rank.CONTROLLER, "controller", lambda: self._write(key, rest, cause, ok=ok))

        self._clock.at(at_ns, Rank.API_WRITE, "controller", arrive)

    def _call(self, write: SliceWrite, cause: Cause) -> None:
        now_ns = self._clock.now_ns
        if write.verb is WriteVerb.DELETE:
            self._own_writes.deleted(write.slice)
            self._api.remove(write.slice.key, cause.trigger_ns, now_ns, cause=cause)
        else:
            self._own_writes.wrote(write.slice)
            self._api.put(write.slice, cause.trigger_ns, now_ns, cause=cause)

    def _done(self, key: ObjectKey, *, ok: bool) -> None:
        work = self._of(key)
        work.processing = False
        self._idle += 1
        if ok:
            work.failures = 0
        elif work.failures < MAX_RETRIES:
            shared_ns = self._retries.take(self._clock.now_ns)
            self._add(key, max(shared_ns, min(RETRY_NS << work.failures, MAX_RETRY_NS)))
            work.failures += 1
        else:
            work.failures = 0
        if work.again:
            work.again = False
            self._add(key, 0)
        if self._waiting:
            self._clock.at(self._clock.now_ns, Rank.CONTROLLER, "controller", self._take)

    def _happening(self, kind: HappeningKind, key: ObjectKey, detail: str) -> None:
        self._log.happenings.append(Happening(self._clock.now_ns, kind, f"{key.namespace}/{key.name}", detail))
