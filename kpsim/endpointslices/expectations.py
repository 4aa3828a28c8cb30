"""What the controller expects to see of its own writes, so that it does not decide on an old cache (CP-3.11).

Counterpart: the EndpointSlice tracker of ``k8s.io/endpointslice``.
"""

from collections.abc import Iterable

from kpsim.objects import EndpointSlice, ObjectKey, Service

_TO_BE_DELETED = -1


class ExpectationTracker:
    """Remembers for each slice of each Service the generation that the controller last wrote, or that it deleted it."""

    def __init__(self) -> None:
        self._expected: dict[ObjectKey, dict[str, int]] = {}

    def wrote(self, item: EndpointSlice) -> None:
        """Note that the controller created or updated the slice. ``item`` is as the API server returned it."""
        self._expected.setdefault(_service_of(item), {})[_uid(item)] = item.metadata.generation

    def deleted(self, item: EndpointSlice) -> None:
        """Note that the controller deleted the slice and has not seen the event yet."""
        self._expected.setdefault(_service_of(item), {})[_uid(item)] = _TO_BE_DELETED

    def is_stale(self, service: Service, cached: Iterable[EndpointSlice]) -> bool:
        """Return whether the cache has not caught up. The sync must then fail and be retried.

        That is so if a cached slice is older than the one written or should be gone, or if a written one is not in the
        cache yet.
        """
        expected = self._expected.get(service.key, {})
        seen = {_uid(item): item.metadata.generation for item in cached}
        for uid, generation in expected.items():
            if generation == _TO_BE_DELETED:
                if uid in seen:
                    return True
            elif seen.get(uid, _TO_BE_DELETED) < generation:
                return True
        return False


def _service_of(item: EndpointSlice) -> ObjectKey:
    return ObjectKey("Service", item.metadata.namespace, item.service_name)


def _uid(item: EndpointSlice) -> str:
    return item.metadata.uid or item.metadata.name  # an API server always gives a UID
