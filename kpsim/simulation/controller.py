"""The EndpointSlice controller on the clock: its informers, its queue and workers, and its limited writes (CP-3).

Counterpart: kube-controller-manager's endpointslice controller. ``endpointslices`` decides what to write. This module
decides only when.
"""

from kpsim import rng
from kpsim.endpointslices import (
    ExpectationTracker,
    Reconciliation,
    SliceWrite,
    TopologyCache,
    TriggerTimeTracker,
    WriteVerb,
    has_managed_slices,
    is_managed,
    reconcile,
    services_for_pod_change,
    slices_of,
)
from kpsim.endpointslices.metrics import SliceMetrics
from kpsim.objects import EndpointSlice, Node, ObjectKey, Pod, Service
from kpsim.scenario.schema import ControllerSpec, Delays
from kpsim.simulation.apifaults import SLICES
from kpsim.simulation.apiserver import ApiServer, Change
from kpsim.simulation.bucket import TokenBucket
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.controllerwatch import ControllerWatch, WatchNames
from kpsim.simulation.informers import Informers
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog
from kpsim.simulation.slicewriter import SliceWriter
from kpsim.simulation.workqueue import WorkQueue
from kpsim.units import HOUR_NS, SECOND_NS

#: how long a slice event that the controller did not expect waits at least (CP-3.1)
SLICE_EVENT_NS = SECOND_NS
#: bounds of the period of the informers' resyncs (CP-3.1)
RESYNC_NS = (12 * HOUR_NS, 24 * HOUR_NS)


class SliceController:
    """The work queue over all Services, and the workers that take from it (CP-3.2).

    Each worker works on one key, no key is worked on twice at once, and all calls go through one limited client
    (CP-1.2 D6, D7).

    Upstream's queues of pods and of topology have no part of their own here: their work takes no time and cannot fail, so it is done at
    the instant at which the event is seen. Pods are not de-duplicated there, so each update asks for its Services anew (CP-3.1.1).
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
        self._limit = spec.max_endpoints_per_slice
        self._queue = WorkQueue(clock, "controller", spec.workers, SLICES, self._process)
        client = TokenBucket(spec.qps, spec.burst)
        self.metrics = SliceMetrics(self._limit)
        self._writer = SliceWriter(
            clock, api, self._queue, self._own_writes, client, delays.slice_write, seed, metrics=self.metrics
        )
        names = WatchNames("controller", "controller watch", "EndpointSlice controller")
        self._watch = ControllerWatch(clock, api, delays.controller_watch, seed, names, self._see)

    def start(self) -> None:
        """Write the slices of every Service before the run.

        The controller has seen its own writes when the run starts.
        """
        before = self._api.state
        self._seen = Informers(before)
        self._topology = self._topology.with_nodes(before.nodes)
        for service in before.services:
            if has_managed_slices(service):
                decided = self._decide(service)
                self.metrics.hold(service.key, decided.apply(slices_of(service, self._seen.slices_of(service.key))))
                for write in decided.writes:
                    self._api.put(write.slice, 0, 0)
        self._seen = Informers(self._api.state)
        for item in self._api.state.endpoint_slices:
            if is_managed(item):
                self._own_writes.wrote(item)
        self._api.watch(self._watch)
        period_ns = RESYNC_NS[0] + rng.below(RESYNC_NS[1] - RESYNC_NS[0], self._seed, "controller resync")
        # the cluster has run for an hour, so one hour of the period is over
        self._clock.at(period_ns - HOUR_NS, Rank.CONTROLLER, "controller", lambda: self._resync(period_ns))

    def _resync(self, period_ns: int) -> None:
        """Queue every Service, as its informer hands it over once more (CP-3.1). Pods with an old resourceVersion count as unchanged."""
        for key in self._seen.service_keys:
            self._queue.add(key)
        self._clock.at(self._clock.now_ns + period_ns, Rank.CONTROLLER, "controller", lambda: self._resync(period_ns))

    # ------------------------------------------------------------------------------------------------------- informers

    def _see(self, change: Change) -> None:
        self._seen.apply(change.event)
        match change.event.object:
            case Service() as service:
                self._queue.note(service.key, change)
                self._queue.add(service.key)
            case Pod():
                old, new = (obj if isinstance(obj, Pod) else None for obj in (change.event.old, change.event.new))
                for service in services_for_pod_change(self._seen.services_selecting(old, new), old, new):
                    self._queue.note(service.key, change)
                    self._queue.add(service.key, self._delays.controller_batch_ns)
            case Node():
                self._see_node(change)
            case EndpointSlice():
                self._see_slice(change)
            case _:
                pass  # the controller watches no other kind

    def _see_slice(self, change: Change) -> None:
        """Queue the Services of a slice that is not as the controller wrote it (CP-3.1, CP-3.11)."""
        old, new = (obj if isinstance(obj, EndpointSlice) else None for obj in (change.event.old, change.event.new))
        for key in self._own_writes.surprises(old, new):
            self._queue.note(key, change)
            self._queue.add(key, max(SLICE_EVENT_NS, self._delays.controller_batch_ns))

    def _see_node(self, change: Change) -> None:
        old, new = (obj if isinstance(obj, Node) else None for obj in (change.event.old, change.event.new))
        if old is not None and new is not None and (old.ready, old.zone) == (new.ready, new.zone):
            return
        self._topology = self._topology.with_nodes(self._seen.nodes.values())
        for key in self._topology.overloaded():
            self._queue.note(key, change)
            self._queue.add(key)

    # ----------------------------------------------------------------------------------------------------------- syncs

    def _process(self, key: ObjectKey) -> None:
        service = self._seen.service(key)
        if service is None:
            self._triggers.forget(key)
            self._own_writes.forget(key)
            self.metrics.hold(key, ())
            self._collect_garbage(key)
        elif not has_managed_slices(service):
            self._queue.take_cause(key)
            self._queue.done(key, ok=True)
        elif self._own_writes.is_stale(service, slices_of(service, self._seen.slices_of(key))):
            self._happening(
                HappeningKind.SLICE_SYNC_STALE, service.key, "the controller has not seen its own last write"
            )
            self.metrics.synced("stale")
            self._queue.done(key, ok=False)
        else:
            result = self._decide(service)
            existing = slices_of(service, self._seen.slices_of(key))
            self.metrics.decided(key, existing, result.apply(existing))
            self._writer.write(key, result.writes, self._queue.take_cause(key), ok=not result.errors)

    def _decide(self, service: Service) -> Reconciliation:
        pods = self._seen.pods_of(service)
        result = reconcile(
            service,
            pods,
            self._seen.nodes,
            slices_of(service, self._seen.slices_of(service.key)),
            trigger_time_ns=self._triggers.compute(service, pods),
            max_endpoints_per_slice=self._limit,
            topology=self._topology,
            seed=self._seed,
        )
        if result.topology is not None:
            self._topology = result.topology
        for event in result.events:
            self._happening(HappeningKind(event.reason), service.key, event.message)
        return result

    def _collect_garbage(self, key: ObjectKey) -> None:
        """Delete the slices of a Service that is gone, as the garbage collector does with owned objects."""
        owned = [SliceWrite(WriteVerb.DELETE, item) for item in self._seen.slices_of(key) if item.owner_uids]
        self._writer.write(key, owned, self._queue.take_cause(key), ok=True)

    def _happening(self, kind: HappeningKind, key: ObjectKey, detail: str) -> None:
        self._log.happenings.append(Happening(self._clock.now_ns, kind, f"{key.namespace}/{key.name}", detail))
