"""The metrics of the EndpointSlice controller, under their Prometheus names (CP-3.12).

Counterpart: pkg/controller/endpointslice and k8s.io/endpointslice, metrics. What is not known here is left out: buckets of
``endpointslices_changed_per_sync``, and ``services_count_by_traffic_distribution``.
"""

from collections.abc import Iterable
from typing import NamedTuple

from kpsim.endpointslices.reconciler import WriteVerb
from kpsim.kubeproxy.metrics import Definition, Kind, Metrics
from kpsim.objects import EndpointSlice, ObjectKey

PREFIX = "endpoint_slice_controller_"
#: 2, 4, 8 … 32,768 endpoints
_ENDPOINTS = tuple(2 << k for k in range(15))
DEFINITIONS: tuple[Definition, ...] = (
    Definition("changes", Kind.COUNTER, "Writes of slices by operation"),
    Definition("desired_endpoint_slices", Kind.GAUGE, "Slices that would do, if all but the last of each kind were full"),
    Definition("endpoints_added_per_sync", Kind.HISTOGRAM, "Endpoints that a sync of a Service added", _ENDPOINTS),
    Definition("endpoints_desired", Kind.GAUGE, "Endpoints of all Services"),
    Definition("endpoints_removed_per_sync", Kind.HISTOGRAM, "Endpoints that a sync of a Service removed", _ENDPOINTS),
    Definition("num_endpoint_slices", Kind.GAUGE, "Slices of all Services"),
    Definition("syncs", Kind.COUNTER, "Syncs of Services by result"),
)  # fmt: skip
_GAUGES = ("desired_endpoint_slices", "endpoints_desired", "num_endpoint_slices")


class _Held(NamedTuple):
    """What one Service has after its last sync."""

    desired: int
    endpoints: int
    slices: int


class SliceMetrics:
    """Counts what the controller's process does from the start of the run on."""

    def __init__(self, limit: int) -> None:
        """``limit`` is the most endpoints that one slice may have."""
        self.metrics = Metrics(DEFINITIONS, _GAUGES)
        self._limit = limit
        self._held: dict[ObjectKey, _Held] = {}

    def decided(self, service: ObjectKey, before: Iterable[EndpointSlice], after: Iterable[EndpointSlice]) -> None:
        """Note what a sync found, and what it wants: slices of one Service."""
        was, wanted = _endpoints(before := list(before)), _endpoints(after := list(after))
        for family in sorted({item.address_type for item in (*before, *after)}):
            old, new = ({e for e in each if e[0] == family} for each in (was, wanted))
            self.metrics.observe("endpoints_added_per_sync", len(new - old))
            self.metrics.observe("endpoints_removed_per_sync", len(old - new))
        self.hold(service, after)

    def hold(self, service: ObjectKey, slices: Iterable[EndpointSlice]) -> None:
        """Note the slices that a Service has, or that it is gone, if there are none."""
        kinds: dict[tuple[object, ...], int] = {}
        number = 0
        for item in slices:
            number += 1
            kind = item.address_type, *sorted((port.name or "", port.port or 0, port.protocol) for port in item.ports)
            kinds[kind] = kinds.get(kind, 0) + len(item.endpoints)
        desired = sum(max(1, -(-count // self._limit)) for count in kinds.values())
        old = self._held.pop(service, _Held(0, 0, 0))
        if number:
            self._held[service] = _Held(desired, sum(kinds.values()), number)
        new = self._held.get(service, _Held(0, 0, 0))
        for name, one, other in zip(_GAUGES, old, new, strict=True):
            if one != other:
                self.metrics.add(name, other - one)

    def wrote(self, service: ObjectKey, verb: WriteVerb) -> None:
        """Note an API call that was answered. What a Service had that is gone is deleted by the garbage collector."""
        if service in self._held:
            self.metrics.add("changes", operation=verb.value)

    def synced(self, result: str) -> None:
        """Note the end of a sync: ``success``, ``stale`` or ``error``."""
        self.metrics.add("syncs", result=result)


def _endpoints(slices: Iterable[EndpointSlice]) -> set[tuple[object, ...]]:
    """The endpoints by what tells them apart (CP-3.5.1), each once for each set of ports."""
    return {
        (
            item.address_type, tuple(sorted(endpoint.addresses)), endpoint.hostname or "",
            None if endpoint.target_ref is None else (endpoint.target_ref.namespace, endpoint.target_ref.name),
            tuple(sorted((port.name or "", port.port or 0, port.protocol) for port in item.ports)),
        )
        for item in slices
        for endpoint in item.endpoints
    }  # fmt: skip
