"""The Endpoints controller on the clock (CP-4.1): its queue, its limited client, and what etcd refuses.

Counterpart: kube-controller-manager's endpoints controller. ``endpoints`` decides what to write. kube-proxy reads none of it; who does,
such as old ingress controllers, is counted as a watcher.
"""

from collections import Counter

from kpsim.apisizes import request_bytes
from kpsim.endpoints import reconcile_endpoints, subset_of
from kpsim.endpointslices import TriggerTimeTracker, has_managed_slices, services_for_pod_change
from kpsim.inputs import Json
from kpsim.objects import Endpoints, EndpointSubset, ObjectKey, Pod, Service
from kpsim.scenario.schema import ControllerSpec, Delays, EndpointsSpec
from kpsim.simulation.apifaults import CONTROLLERS
from kpsim.simulation.apiserver import ApiServer, Change
from kpsim.simulation.bucket import TokenBucket
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.controllerwatch import ControllerWatch, WatchNames
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.informers import Informers
from kpsim.simulation.runlog import Cause, Happening, HappeningKind, RunLog
from kpsim.simulation.workqueue import WorkQueue

ENDPOINTS_CONTROLLER = "endpoints controller"  #: its name on the clock

_KINDS = ("Service", "Pod", "Endpoints")
_Listed = tuple[Service, Pod, EndpointSubset | None]


class EndpointsController:
    """Writes an Endpoints object for each Service with selector, if asked to, and deletes those of Services that go."""

    def __init__(
        self,
        clock: Clock,
        api: ApiServer,
        spec: EndpointsSpec,
        limits: ControllerSpec,
        delays: Delays,
        seed: int,
        log: RunLog,
    ) -> None:
        self._clock = clock
        self._api = api
        self._spec = spec
        self._delays = delays
        self._seed = seed
        self._log = log
        self._seen = Informers(api.state)
        self._triggers = TriggerTimeTracker()
        self._queue = WorkQueue(clock, ENDPOINTS_CONTROLLER, limits.workers, CONTROLLERS, self._process)
        self._client = TokenBucket(limits.qps, limits.burst)
        self._calls: Counter[ObjectKey] = Counter()
        self._versions: dict[ObjectKey, int] = {}  #: by Service: resource version of the last own write
        self._listed: dict[ObjectKey, dict[ObjectKey, _Listed]] = {}  #: by Service and pod: what was made of the two
        names = WatchNames(ENDPOINTS_CONTROLLER, "endpoints watch", ENDPOINTS_CONTROLLER)
        self._watch = ControllerWatch(clock, api, delays.controller_watch, seed, names, self._see, _KINDS)

    def start(self) -> None:
        """Write the objects of every Service before the run, and see them."""
        self._seen = Informers(self._api.state)
        for service in self._api.state.services:
            made = self._wanted(service, None, self._trigger_ns(service))
            if made is not None and not self._refused(made):
                self._versions[service.key] = self._api.put(made, 0, 0).number
        self._seen = Informers(self._api.state)
        self._api.watch(self._watch)

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
                    self._queue.add(service.key, self._spec.batch_period_ns)
            case Endpoints() if change.event.new is None:  # it looks at deletions alone
                key = _service_of(change.key)
                self._queue.note(key, change)
                self._queue.add(key)
            case _:
                pass

    # ----------------------------------------------------------------------------------------------------------- syncs

    def _process(self, key: ObjectKey) -> None:
        service = self._seen.service(key)
        cause = self._queue.take_cause(key)
        if service is None:
            self._triggers.forget(key)
            self._listed.pop(key, None)
            self._send(key, None, cause)
            return
        trigger_ns = self._trigger_ns(
            service
        )  # remembered also if the cache is old: the write that follows then has none
        current = self._seen.endpoints(_endpoints_of(key))
        if current is not None and _version(current.json) < self._versions.get(key, 0):
            words = "the controller has not seen its own last write"
            self._happening(HappeningKind.ENDPOINTS_SYNC_STALE, key, words)
            self._queue.done(key, ok=False)
            return
        made = self._wanted(service, current, trigger_ns)
        if made is None:
            self._clock.at(
                self._clock.now_ns, Rank.CONTROLLER, ENDPOINTS_CONTROLLER, lambda: self._queue.done(key, ok=True)
            )
        else:
            self._send(key, made, cause)

    def _writes(self, service: Service) -> bool:
        return self._spec.written and has_managed_slices(service)

    def _trigger_ns(self, service: Service) -> int | None:
        return self._triggers.compute(service, self._seen.pods_of(service)) if self._writes(service) else None

    def _wanted(self, service: Service, current: Endpoints | None, trigger_ns: int | None) -> Endpoints | None:
        if not self._writes(service):
            return None
        pods = self._seen.pods_of(service)
        before = self._listed.get(service.key, {})
        listed: dict[ObjectKey, _Listed] = {}
        for pod in pods:
            known = before.get(pod.key)
            same = known is not None and known[0] is service and known[1] is pod
            listed[pod.key] = known if known is not None and same else (service, pod, subset_of(service, pod))
        self._listed[service.key] = listed
        return reconcile_endpoints(
            service,
            [subset for _, _, subset in listed.values() if subset is not None],
            current,
            trigger_time_ns=trigger_ns,
            truncated=self._spec.truncated,
        )

    def _send(self, key: ObjectKey, made: Endpoints | None, cause: Cause) -> None:
        """Send the object, or without one delete what is there."""
        now_ns = self._clock.now_ns
        self._calls[key] += 1
        drawn_ns = draw_ns(self._delays.slice_write, self._seed, "endpoints write", key, self._calls[key])
        at_ns = self._api.faults.stored_ns(now_ns + self._client.take(now_ns) + drawn_ns, CONTROLLERS)

        def arrive() -> None:
            ok = True
            if made is None:
                self._versions.pop(key, None)
                self._api.remove(_endpoints_of(key), cause.trigger_ns, at_ns, cause=cause)
            else:
                ok = self._put(key, made, cause)
            self._clock.at(at_ns, Rank.CONTROLLER, ENDPOINTS_CONTROLLER, lambda: self._queue.done(key, ok=ok))

        self._clock.at(at_ns, Rank.API_WRITE, ENDPOINTS_CONTROLLER, arrive)

    def _put(self, key: ObjectKey, made: Endpoints, cause: Cause) -> bool:
        """Store the object unless it is as it was, or somebody changed it since, or etcd refuses it. Return whether the call succeeds."""
        held = self._api.state.get(made.key)
        if (_version(held.json) if held is not None else 0) != _version(made.json):
            return False  # a conflict: it was made of another version
        if held is not None and _content(held.json) == _content(made.json):
            return True
        if held is None and key.namespace in self._api.terminating:
            return True  # it is refused, and dropped
        if self._refused(made):
            return False
        self._versions[key] = self._api.put(made, cause.trigger_ns, self._clock.now_ns, cause=cause).number
        return True

    def _refused(self, made: Endpoints) -> bool:
        size = request_bytes(made)
        if size <= self._spec.request_limit:
            return False
        words = f"etcd refuses a request of {size:,} B, more than {self._spec.request_limit:,} B"
        self._happening(HappeningKind.ENDPOINTS_REFUSED, made.key, words)
        return True

    def _happening(self, kind: HappeningKind, key: ObjectKey, detail: str) -> None:
        self._log.happenings.append(Happening(self._clock.now_ns, kind, f"{key.namespace}/{key.name}", detail))


def _service_of(key: ObjectKey) -> ObjectKey:
    return ObjectKey("Service", key.namespace, key.name)


def _endpoints_of(key: ObjectKey) -> ObjectKey:
    return ObjectKey("Endpoints", key.namespace, key.name)


def _version(json: Json) -> int:
    return int(json["metadata"].get("resourceVersion") or 0)


def _content(json: Json) -> object:
    return {key: value for key, value in json["metadata"].items() if key != "resourceVersion"}, json["subsets"]
