"""What the controller expects to see of its own writes, so that it does not decide on an old cache (CP-3.11).

Counterpart: the EndpointSlice tracker of ``k8s.io/endpointslice``.
"""

from collections.abc import Callable, Iterable

from kpsim.endpointslices.rendering import is_managed
from kpsim.objects import EndpointSlice, ObjectKey, Service

_TO_BE_DELETED = -1


class ExpectationTracker:
    """Remembers for each slice of each Service the generation that the controller last wrote, or that it deleted it.

    ``mine`` says which slices are the controller's.
    """

    def __init__(self, mine: Callable[[EndpointSlice], bool] = is_managed) -> None:
        self._mine = mine
        self._expected: dict[ObjectKey, dict[str, int]] = {}

    def wrote(self, item: EndpointSlice) -> None:
        """Note that the controller created or updated the slice. ``item`` is as the API server returned it."""
        self._expected.setdefault(_service_of(item), {})[_uid(item)] = item.metadata.generation

    def deleted(self, item: EndpointSlice) -> None:
        """Note that the controller deleted the slice and has not seen the event yet."""
        self._expected.setdefault(_service_of(item), {})[_uid(item)] = _TO_BE_DELETED

    def forget(self, service: ObjectKey) -> None:
        """Forget a Service that was deleted."""
        self._expected.pop(service, None)

    def surprises(self, old: EndpointSlice | None, new: EndpointSlice | None) -> list[ObjectKey]:
        """Return the Services to sync since somebody else changed a slice (CP-3.1). ``old`` None: it was added; ``new`` None: deleted.

        The controller's own writes are expected: a slice that is known in this generation, or whose deletion was noted. An expected
        deletion that was seen is forgotten.
        """
        if old is not None and new is None:
            return [_service_of(old)] if self._mine(old) and not self._saw_deletion(old) else []
        if new is None:
            return []
        if old is not None and old.service_name != new.service_name:
            return [_service_of(new), _service_of(old)]
        changed_hands = old is not None and self._mine(old) != self._mine(new)
        return [_service_of(new)] if changed_hands or (self._mine(new) and self._is_news(new)) else []

    def _is_news(self, item: EndpointSlice) -> bool:
        """Return whether the controller does not know the slice, or not in this generation."""
        known = self._expected.get(_service_of(item), {}).get(_uid(item))
        return known is None or item.metadata.generation > known

    def _saw_deletion(self, item: EndpointSlice) -> bool:
        """Forget a slice that is gone, and return whether the controller expected that or never knew the slice."""
        known = self._expected.get(_service_of(item), {}).pop(_uid(item), None)
        return known is None or known == _TO_BE_DELETED

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
