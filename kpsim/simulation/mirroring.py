"""The EndpointSlice mirroring controller on the clock (CP-4.3): its queue, and its limited client.

Counterpart: kube-controller-manager's endpointslicemirroring controller. ``endpoints`` decides what to write.
"""

from kpsim.endpoints import is_mirrored, mirror, should_mirror
from kpsim.endpointslices import ExpectationTracker, SliceWrite, WriteVerb
from kpsim.objects import Endpoints, EndpointSlice, ObjectKey, Service
from kpsim.scenario.schema import ControllerSpec, Delays
from kpsim.simulation.apiserver import ApiServer, Change
from kpsim.simulation.backoff import Doubling
from kpsim.simulation.bucket import TokenBucket
from kpsim.simulation.clock import Clock
from kpsim.simulation.controllerwatch import ControllerWatch, WatchNames
from kpsim.simulation.informers import Informers
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog
from kpsim.simulation.slicewriter import SliceWriter
from kpsim.simulation.workqueue import WorkQueue
from kpsim.units import SECOND_NS

MIRRORING_CONTROLLER = "mirroring controller"  #: its name on the clock

_KINDS = ("Service", "Endpoints", "EndpointSlice")


class MirroringController:
    """Keeps slices for the Endpoints objects that people write. It leaves slices alone whose object it never knew."""

    def __init__(
        self, clock: Clock, api: ApiServer, limits: ControllerSpec, delays: Delays, seed: int, log: RunLog
    ) -> None:
        self._clock = clock
        self._api = api
        self._seed = seed
        self._log = log
        self._seen = Informers(api.state)
        self._known: set[ObjectKey] = set()  #: Services of which there is or was an Endpoints object
        self._own_writes = ExpectationTracker(is_mirrored)
        back_off = Doubling(SECOND_NS, 100 * SECOND_NS)
        self._queue = WorkQueue(clock, MIRRORING_CONTROLLER, limits.workers, back_off, self._process)
        client = TokenBucket(limits.qps, limits.burst)
        self._writer = SliceWriter(clock, api, self._queue, self._own_writes, client, delays.slice_write, seed)
        names = WatchNames(MIRRORING_CONTROLLER, "mirroring watch", MIRRORING_CONTROLLER)
        self._watch = ControllerWatch(clock, api, delays.controller_watch, seed, names, self._see, _KINDS)

    def start(self) -> None:
        """Mirror every object before the run, and see the slices."""
        self._seen = Informers(self._api.state)
        for endpoints in self._api.state.endpoints:
            key = _service_of(endpoints.key)
            self._known.add(key)
            for write in self._decide(key):
                if write.verb is WriteVerb.DELETE:
                    self._api.remove(write.slice.key, 0, 0)
                else:
                    self._api.put(write.slice, 0, 0)
        self._seen = Informers(self._api.state)
        for item in filter(is_mirrored, self._api.state.endpoint_slices):
            self._own_writes.wrote(item)
        self._api.watch(self._watch)

    def _see(self, change: Change) -> None:
        self._seen.apply(change.event)
        old, new = change.event.old, change.event.new
        keys: list[ObjectKey] = []
        match change.event.object:
            case Service():
                # an update counts if the selector comes or goes
                had, has = (bool(obj.selector) if isinstance(obj, Service) else None for obj in (old, new))
                keys = [change.key] if had is not has else []
            case Endpoints():
                keys = [_service_of(change.key)]
                versions = (obj for obj in (old, new) if isinstance(obj, Endpoints))
                if not any(map(should_mirror, versions)):
                    return
                self._known.add(keys[0])
            case EndpointSlice():
                before, after = (obj if isinstance(obj, EndpointSlice) else None for obj in (old, new))
                keys = self._own_writes.surprises(before, after)
            case _:
                pass
        for key in keys:
            self._queue.note(key, change)
            self._queue.add(key)

    def _process(self, key: ObjectKey) -> None:
        cause = self._queue.take_cause(key)
        if key not in self._known:
            self._queue.done(key, ok=True)
            return
        service, slices = self._seen.service(key), self._slices(key)
        mirrored = self._mirrored(key)
        if mirrored is None:
            self._own_writes.forget(key)
        elif service is not None and self._own_writes.is_stale(service, slices):
            words = "the mirroring controller has not seen its own last write"
            self._happening(HappeningKind.SLICE_SYNC_STALE, key, words)
            self._queue.done(key, ok=False)
            return
        self._writer.write(key, self._decide(key), cause, ok=True)

    def _slices(self, key: ObjectKey) -> list[EndpointSlice]:
        found = filter(is_mirrored, self._seen.slices_of(key))
        return [item for item in found if not item.metadata.deletion_timestamp]

    def _mirrored(self, key: ObjectKey) -> Endpoints | None:
        """Return the object if it is to be mirrored: its Service exists and has no selector."""
        endpoints = self._seen.endpoints(ObjectKey("Endpoints", key.namespace, key.name))
        service = self._seen.service(key)
        if endpoints is None or service is None or service.selector or not should_mirror(endpoints):
            return None
        return endpoints

    def _decide(self, key: ObjectKey) -> tuple[SliceWrite, ...]:
        endpoints, slices = self._mirrored(key), self._slices(key)
        if endpoints is None:
            return tuple(SliceWrite(WriteVerb.DELETE, item) for item in slices)
        result = mirror(endpoints, slices, seed=self._seed)
        for event in result.events:
            self._happening(HappeningKind(event.reason), key, event.message)
        return result.writes

    def _happening(self, kind: HappeningKind, key: ObjectKey, detail: str) -> None:
        self._log.happenings.append(Happening(self._clock.now_ns, kind, f"{key.namespace}/{key.name}", detail))


def _service_of(key: ObjectKey) -> ObjectKey:
    return ObjectKey("Service", key.namespace, key.name)
