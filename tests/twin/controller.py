"""The endpointslice-controller: from pods to slices."""

from collections.abc import Callable
from typing import Any

from twin.clock import NEVER, SEE, STORE, Clock, S, ns
from twin.pods import Pod, PodStore, Seen

#: ready, serving, terminating by pod; a StatefulSet's pods have the names of their predecessors
Endpoints = dict[Pod, tuple[bool, bool, bool]]


class Bucket:
    """A token bucket, as exact fractions of a second's worth (CP-3.2: the client's limit, and that of retries)."""

    def __init__(self, rate: int, size: int) -> None:
        self.rate, self.size, self.debt, self.at = rate, size * S, 0, 0

    def wait(self, now: int) -> int:
        """Take a token; return how long to wait for it."""
        self.debt = max(self.debt - (now - self.at) * self.rate, 0) + S
        self.at = now
        short = self.debt - self.size
        return -(-short // self.rate) if short > 0 else 0


class Item:
    """A Service in the controller's queue, and what the controller knows of it."""

    def __init__(self) -> None:
        self.queued = self.active = self.dirty = False
        self.due: int | None = None
        self.failures = 0
        self.written = self.seen = 1  # generations of its slice: as written, as in the cache
        self.endpoints: Endpoints = {}
        self.remembered: dict[str, int] = {}


class EndpointSliceController:
    """Turns pods into one slice for each Service: handlers (CP-3.1), queue (CP-3.2), sync (CP-3.3, CP-3.4), writes (CP-3.6).

    ``slices`` is what the API server has, by Service. ``stored`` are told of each slice that is written.
    """

    def __init__(self, clock: Clock, document: dict[str, Any], store: PodStore) -> None:
        self._clock = clock
        self.services = {obj["metadata"]["name"]: obj["spec"] for obj in document["objects"]}
        self.slices: dict[str, Endpoints] = {}
        self.writes: list[tuple[int, str, tuple[tuple[str, bool, bool, bool], ...], int | None]] = []
        self.stored: list[Callable[[str, Endpoints], None]] = []
        self._items = {name: Item() for name in self.services}
        self._queue: list[str] = []
        self._free = int(document["controller"]["workers"])
        self._client = Bucket(document["controller"]["qps"], document["controller"]["burst"])
        self._retries = Bucket(10, 100)
        self._cache: dict[str, tuple[Pod, Seen]] = {}
        self._store = store
        self._batch = ns(document["delays"]["controllerBatch"])
        store.seen.append(self._see)

    def settle(self) -> None:
        """Begin as after an hour without changes: every pod is in the cache, every slice is written."""
        self._cache = {pod.name: (pod, pod.api) for pod in self._store.pods if pod.api is not None}
        for service, item in self._items.items():
            item.endpoints = self.slices[service] = self._desired(service)
            item.remembered = self._times(service)

    def _selected(self, service: str) -> dict[str, Seen]:
        return {name: seen for name, (pod, seen) in self._cache.items() if self._selects(service, pod)}

    def _selects(self, service: str, pod: Pod) -> bool:
        return bool(self.services[service]["selector"] == {"app": pod.workload["name"]})

    def _desired(self, service: str) -> Endpoints:
        """CP-3.4: every selected pod with an address."""
        return {
            self._cache[name][0]: (seen.status.ready and not seen.terminating, seen.status.ready, seen.terminating)
            for name, seen in sorted(self._selected(service).items())
            if seen.status.address
        }

    def _times(self, service: str) -> dict[str, int]:
        """CP-3.7.1: the trigger times of the pods that are present."""
        return {
            name: seen.status.second for name, seen in self._selected(service).items() if seen.status.second is not None
        }

    # --- handlers and queue

    def _see(self, pod: Pod, old: Seen | None, new: Seen | None) -> None:
        """CP-3.1.1: a pod update matters if the address, Ready or termination changed."""
        if new is None:
            self._cache.pop(pod.name, None)
        else:
            self._cache[pod.name] = (pod, new)
        changed = (
            old is None
            or new is None
            or old.terminating
            or new.terminating
            or (old.status.address, old.status.ready) != (new.status.address, new.status.ready)
        )
        if changed:
            for service in sorted(self.services):
                if self._selects(service, pod):
                    self._add_after(service, self._batch)

    def _add_after(self, service: str, delay: int) -> None:
        """CP-3.2: the earlier ready time of a delayed key stays."""
        if not delay:
            self.add(service)
            return
        item, due = self._items[service], self._clock.now + delay
        if item.due is not None and item.due <= due:
            return
        item.due = due

        def ripe() -> None:
            if item.due == due:
                item.due = None
                self.add(service)

        self._clock.at(due, SEE, ripe)

    def add(self, service: str) -> None:
        """Queue the Service, once. One that a worker has is queued again when the worker is done (CP-3.2)."""
        item = self._items[service]
        if item.active:
            item.dirty = True
        elif not item.queued:
            item.queued = True
            self._queue.append(service)
            self._clock.after(0, SEE, self._work)

    def _work(self) -> None:
        while self._free and self._queue:
            service = self._queue.pop(0)
            item = self._items[service]
            item.queued, item.active = False, True
            self._free -= 1
            if item.seen < item.written:  # CP-3.11
                shared = self._retries.wait(self._clock.now)
                self._done(service)
                self._add_after(service, max(shared, min(S << item.failures, 1000 * S)))
                item.failures += 1
                continue
            self._sync(service, item)

    def _done(self, service: str) -> None:
        item = self._items[service]
        item.active = False
        self._free += 1
        if item.dirty:
            item.dirty = False
            self.add(service)
        self._clock.after(0, SEE, self._work)

    # --- sync

    def _sync(self, service: str, item: Item) -> None:
        """CP-3.3: the memory of trigger times changes even if nothing is written."""
        times = self._times(service)
        fresh = [second for name, second in times.items() if second > item.remembered.get(name, -NEVER)]
        item.remembered = times
        trigger = min(fresh, default=None)
        wanted = self._desired(service)
        if wanted == item.endpoints:
            item.failures = 0
            self._clock.after(0, SEE, lambda: self._done(service))
            return

        def write() -> None:
            item.written += 1
            generation = item.written
            item.endpoints = self.slices[service] = wanted
            rows = tuple((pod.name, *conditions) for pod, conditions in wanted.items())
            self.writes.append((self._clock.now, service, rows, trigger))
            watch = self._clock.delays["controllerWatch"]
            self._clock.after(watch, SEE, lambda: setattr(item, "seen", generation))
            for tell in self.stored:
                tell(service, wanted)
            item.failures = 0
            self._clock.after(0, SEE, lambda: self._done(service))

        self._clock.after(self._client.wait(self._clock.now) + self._clock.delays["sliceWrite"], STORE, write)
