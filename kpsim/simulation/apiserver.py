"""The API server on the clock: it takes writes and tells every watcher of each change.

Counterpart: kube-apiserver. It numbers the writes and hands them to the watchers in order.
"""

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

from kpsim.cluster import ClusterState, Event, EventType
from kpsim.objects import ApiObject, ObjectKey
from kpsim.simulation.apifaults import ApiFaults
from kpsim.simulation.runlog import Cause
from kpsim.simulation.watchcache import WatchCache


@dataclass(frozen=True, slots=True)
class Change:
    """One write: ``number`` is its resource version, ``trigger_ns`` when its cause happened.

    ``version`` counts the writes of this object alone, so that other objects do not change it.
    """

    number: int
    version: int
    event: Event
    trigger_ns: int
    written_ns: int
    cause: Cause  #: the write that this one answers, or itself

    @property
    def key(self) -> ObjectKey:
        return self.event.key

    def __str__(self) -> str:
        return f"{self.key} @ {self.number}"


Watcher = Callable[[Change], None]


class ApiServer:
    """Holds all objects and tells every watcher of every change, in order (CP-5.1)."""

    def __init__(self, faults: ApiFaults | None = None) -> None:
        self.faults = faults if faults is not None else ApiFaults()
        self.state = ClusterState()
        self.starts = 0  #: how often it has started again: what watches knew of it before is too old
        self.terminating: set[str] = set()  #: namespaces in which nothing new is stored
        self._number = 0
        self._written_ns = array("q")  #: of each write, in order
        self._history: dict[str, WatchCache] = {}  #: by kind
        self._versions: Counter[ObjectKey] = Counter()
        self._watchers: list[Watcher] = []

    @property
    def number(self) -> int:
        """Number of the last write."""
        return self._number

    def watch(self, watcher: Watcher) -> None:
        self._watchers.append(watcher)

    def restart(self) -> None:
        """Start again without history (CP-5.3)."""
        self.starts += 1
        self._history = {}

    def number_at(self, at_ns: int) -> int:
        """Return the number of the last write before or at a time."""
        return bisect_right(self._written_ns, at_ns)

    def has_since(self, kind: str, version: int) -> bool:
        """Return whether the history has every event of a kind after a version, so that a watch may begin there."""
        history = self._history.get(kind)
        return history is None or history.has_since(version)

    def put(
        self,
        obj: ApiObject,
        trigger_ns: int,
        now_ns: int,
        *,
        noticed_ns: int | None = None,
        cause: Cause | None = None,
    ) -> Change:
        """Create or replace an object. It gets the next resource version, so that every write differs (O-8.2).

        ``noticed_ns``: when the writer knew of what happened; None: at once. ``cause``: the write that this one answers.
        """
        self._number += 1
        json = {**obj.json, "metadata": {**obj.json.get("metadata", {}), "resourceVersion": str(self._number)}}
        event, self.state = self.state.put(replace(obj, json=json))  # no field is read from the resource version
        return self._tell(event, trigger_ns, now_ns, noticed_ns, cause)

    def remove(
        self,
        key: ObjectKey,
        trigger_ns: int,
        now_ns: int,
        *,
        noticed_ns: int | None = None,
        cause: Cause | None = None,
    ) -> Change | None:
        """Delete an object. Returns None if it does not exist."""
        event, self.state = self.state.remove(key)
        if event is None:
            return None
        self._number += 1
        return self._tell(event, trigger_ns, now_ns, noticed_ns, cause)

    def _tell(self, event: Event, trigger_ns: int, now_ns: int, noticed_ns: int | None, cause: Cause | None) -> Change:
        self._versions[event.key] += 1
        self._written_ns.append(now_ns)
        self._history.setdefault(event.key.kind, WatchCache()).add(self._number, now_ns)
        if cause is None:
            cause = Cause(trigger_ns, trigger_ns if noticed_ns is None else noticed_ns, now_ns, now_ns)
        change = Change(self._number, self._versions[event.key], event, cause.trigger_ns, now_ns, cause)
        for watcher in self._watchers:
            watcher(change)
        return change


def initial_events(state: ClusterState) -> list[Event]:
    """Return the first events of a watcher that starts now: every object added, by kind, namespace and name."""
    return [Event(EventType.ADDED, None, obj) for obj in state.in_order()]
