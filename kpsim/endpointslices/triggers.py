"""What makes the EndpointSlice controller sync a Service, and since when the change has been waiting (CP-3.1, CP-3.7).

Counterpart: the event handlers and the trigger time tracker of ``k8s.io/endpointslice``.
"""

from collections.abc import Iterable, Mapping

from kpsim.errors import InputError, Problem
from kpsim.objects import ApiObject, ObjectKey, Pod, Service
from kpsim.units import parse_rfc3339_ns


def selects(service: Service, labels: Mapping[str, str]) -> bool:
    """Return whether the Service has a selector and the labels match it."""
    return bool(service.selector) and all(labels.get(key) == value for key, value in service.selector.items())


def pod_changed(old: Pod, new: Pod) -> bool:
    """Return whether an update may change the pod's endpoint (CP-3.1).

    Upstream compares deletion timestamps by pointer, so every update of a pod that is already terminating counts.
    """
    if old.terminating or new.terminating:
        return True
    return old.ready != new.ready or old.ips != new.ips


def labels_changed(old: Pod, new: Pod) -> bool:
    """Return whether an update may change which Services select the pod, or its host name (CP-3.1)."""
    return (
        dict(old.metadata.labels) != dict(new.metadata.labels)
        or old.hostname != new.hostname
        or old.subdomain != new.subdomain
    )


def services_for_pod_change(services: Iterable[Service], old: Pod | None, new: Pod | None) -> list[Service]:
    """Return the Services to sync after a pod event, sorted by name (CP-3.1.1).

    ``old`` None: added; ``new`` None: deleted.

    If labels changed: the Services that select either version if the pod itself changed, else those that select exactly
    one.
    """
    present = new or old
    if present is None:
        return []
    own = [service for service in services if service.metadata.namespace == present.metadata.namespace]
    if old is None or new is None:
        found = [service for service in own if selects(service, present.metadata.labels)]
    elif labels_changed(old, new):
        needed = (False, True, True) if pod_changed(old, new) else (False, True, False)
        found = [
            service
            for service in own
            if needed[selects(service, old.metadata.labels) + selects(service, new.metadata.labels)]
        ]
    elif pod_changed(old, new):
        found = [service for service in own if selects(service, new.metadata.labels)]
    else:
        found = []
    return sorted(found, key=lambda service: service.key)


def service_trigger_time_ns(service: Service) -> int | None:
    """Return the creation time of the Service, in nanoseconds since 1970 (CP-3.7.1).

    Later changes of a Service have no trigger time of their own.
    """
    return _instant_ns(service, service.metadata.creation_timestamp, ".metadata.creationTimestamp")


def pod_trigger_time_ns(pod: Pod) -> int | None:
    """Return the time of the last transition of the pod's Ready condition, in nanoseconds since 1970, or None."""
    return _instant_ns(pod, pod.ready_changed, ".status.conditions[Ready].lastTransitionTime")


def _instant_ns(obj: ApiObject, text: str, path: str) -> int | None:
    if not text:
        return None
    try:
        return parse_rfc3339_ns(text)
    except ValueError as error:
        raise InputError(Problem(f"{obj.key}: {error}", path=path)) from None


class TriggerTimeTracker:
    """Finds the time of the change that a sync of a Service answers: the oldest one since the last sync (CP-3.7.1)."""

    def __init__(self) -> None:
        self._pods_ns: dict[ObjectKey, dict[str, int]] = {}
        self._services_ns: dict[ObjectKey, int | None] = {}

    def compute(self, service: Service, pods: Iterable[Pod]) -> int | None:
        """Return the trigger time in nanoseconds since 1970, or None.

        What was seen is remembered, even if nothing is written.

        The first sync of a Service gives its creation time. InputError if a time stamp is malformed.
        """
        known, before_ns = service.key in self._services_ns, self._services_ns.get(service.key)
        pods_before_ns, pods_ns = self._pods_ns.get(service.key, {}), {}
        changed_ns = []
        for pod in pods:
            at_ns = pod_trigger_time_ns(pod)
            if at_ns is None:
                continue
            pods_ns[pod.metadata.name] = at_ns
            if (seen_ns := pods_before_ns.get(pod.metadata.name)) is None or at_ns > seen_ns:
                changed_ns.append(at_ns)
        service_ns = service_trigger_time_ns(service)
        if service_ns is not None and (before_ns is None or service_ns > before_ns):
            changed_ns.append(service_ns)
        self._pods_ns[service.key] = pods_ns
        self._services_ns[service.key] = service_ns
        return min(changed_ns, default=None) if known else service_ns

    def forget(self, service: ObjectKey) -> None:
        """Forget a Service that was deleted."""
        self._pods_ns.pop(service, None)
        self._services_ns.pop(service, None)
