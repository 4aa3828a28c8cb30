"""What the API server sends to watchers of EndpointSlices and Endpoints: bytes of each write, and how many get it (CP-5.1).

It only observes. What lists carry, such as those of a kube-proxy that starts, is not counted.
"""

from collections.abc import Callable

from kpsim.apisizes import watch_bytes
from kpsim.cluster import Event, through_selector
from kpsim.endpoints import count_addresses
from kpsim.objects import Endpoints, EndpointSlice
from kpsim.scenario.schema import WatchersSpec
from kpsim.simulation.apiserver import Change
from kpsim.simulation.runlog import RunLog, WatchWrite

MANAGERS = 1  #: kube-controller-manager, whose controllers share one watch of each kind


class WatchTraffic:
    """Keeps the log's list of writes with their watchers. ``proxies`` says how many kube-proxies run now."""

    def __init__(self, spec: WatchersSpec, proxies: Callable[[], int], log: RunLog) -> None:
        self._spec = spec
        self._proxies = proxies
        self._log = log

    def on_change(self, change: Change) -> None:
        """Take in one write."""
        event, obj = change.event, change.event.object
        match obj:
            case EndpointSlice():
                proxies = self._watching(event)
                others = self._spec.endpoint_slices
                service, endpoints = obj.service_name, len(obj.endpoints)
            case Endpoints():
                proxies, others = 0, self._spec.endpoints  # kube-proxy does not watch them (O-1.5)
                service, endpoints = obj.metadata.name, count_addresses(obj.subsets)
            case _:
                return
        self._log.watched.append(
            WatchWrite(
                change.written_ns,
                change.key.kind,
                event.type.value,
                obj.metadata.name,
                f"{obj.metadata.namespace}/{service}",
                endpoints,
                watch_bytes(obj, event.type),
                proxies,
                MANAGERS + others,
            )
        )

    def _watching(self, event: Event) -> int:
        """Return how many kube-proxies get the event. Slices of headless Services go to none (O-1.2)."""
        if through_selector(event, "") is None:
            return 0
        return self._proxies() if self._spec.kube_proxies is None else self._spec.kube_proxies
