"""What comes of it that informers replay what they know every ``configSyncPeriod`` (CP-6.8).

A replayed object has not changed, so it asks for no sync. It counts as an event all the same (CP-11.1). Nothing is planned on
the clock for that: replays are counted before what is known changes, and before somebody reads the counters.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from kpsim.cluster import Event
from kpsim.kubeproxy.metrics import Metrics
from kpsim.objects import ApiObject
from kpsim.proxier import Proxier

_COUNTERS = {
    "Service": "sync_proxy_rules_service_changes_total",
    "EndpointSlice": "sync_proxy_rules_endpoint_changes_total",
}


class Replays:
    """Counts the replays of one process. ``take`` returns how often a kind was replayed since it was last asked."""

    def __init__(self, take: Callable[[str, int], int], metrics: Metrics, proxiers: Sequence[Proxier]) -> None:
        self._take = take
        self._metrics = metrics
        self._proxiers = proxiers
        self._known: Counter[str] = Counter()  #: by kind; an object counts once for each family that counts its events

    def count(self, at_ns: int) -> None:
        """Count what was replayed up to a time."""
        for kind, name in _COUNTERS.items():
            times = self._take(kind, at_ns)
            if times and self._known[kind]:
                self._metrics.add(name, times * self._known[kind])

    def before(self, event: Event, at_ns: int) -> None:
        """Count what was replayed before this event. From now on it is known."""
        kind = event.key.kind
        if kind in _COUNTERS:
            self.count(at_ns)
            self._known[kind] += self._counting(event.new) - self._counting(event.old)

    def _counting(self, obj: ApiObject | None) -> int:
        return 0 if obj is None else sum(proxier.counts(obj) for proxier in self._proxiers)
