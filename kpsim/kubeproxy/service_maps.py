"""The accumulated maps of one family's kube-proxy, updated with each change (O-5.8, O-6.5, O-13).

Upstream recounts some values at every sync (endpoint total, health check ports, local endpoints). Here they are updated
by difference, so a sync costs only what changed.
"""

from collections.abc import Iterator

from kpsim.kubeproxy.trackers import (
    Endpoint,
    EndpointsChange,
    EndpointsChangeTracker,
    EndpointsCheckout,
    ServiceChange,
    ServiceChangeTracker,
    ServiceKey,
    ServicePort,
    ServicePortName,
    endpoints_on,
)
from kpsim.maps import Map


class ServiceMaps:
    """Service ports and endpoints as of the last checkout.

    ``node_name`` is the node whose local endpoints are counted.
    """

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self.ports: dict[ServicePortName, ServicePort] = {}
        self.endpoints: dict[ServicePortName, tuple[Endpoint, ...]] = {}
        self.ports_of: dict[ServiceKey, dict[ServicePortName, ServicePort]] = {}
        self.endpoint_total = 0  #: over all service ports, unused endpoints included (I-12.3)
        self.health_check_ports: Map[ServiceKey, int] = Map()  #: O-13.1
        self.local_ready_endpoints: Map[ServiceKey, int] = Map()  #: distinct IPs over all of a Service's keys (O-13.2)

    def apply(self, services: ServiceChangeTracker, slices: EndpointsChangeTracker) -> tuple[
        dict[ServiceKey, ServiceChange], EndpointsCheckout
    ]:  # fmt: skip
        """Takes over the pending changes, Services first, then slices (I-13.4). Returns them.

        The trackers then no longer have them, even if the sync fails.
        """
        service_changes = services.checkout()
        checkout = slices.checkout()
        touched = {**service_changes, **checkout.changes}
        self.endpoint_total -= sum(map(self._count, touched))
        for key, change in service_changes.items():
            self._apply_service(key, change)
        for key, endpoints in checkout.changes.items():
            self._apply_endpoints(key, endpoints)
        self.endpoint_total += sum(map(self._count, touched))
        return service_changes, checkout

    def _count(self, service: ServiceKey) -> int:
        return sum(len(self.endpoints.get(name, ())) for name in self.ports_of.get(service, ()))

    def _apply_service(self, key: ServiceKey, change: ServiceChange) -> None:
        for name in change.previous:
            if name not in change.current:
                self.ports.pop(name, None)
        self.ports.update(change.current)
        self.ports_of.pop(key, None)
        if change.current:
            self.ports_of[key] = dict(change.current)
        health = next((p.health_check_node_port for p in change.current.values() if p.health_check_node_port), 0)
        self.health_check_ports = _with(self.health_check_ports, key, health)

    def _apply_endpoints(self, key: ServiceKey, change: EndpointsChange) -> None:
        for name in change.previous:
            self.endpoints.pop(name, None)
        self.endpoints.update(change.current)
        on_node = (e for endpoints in change.current.values() for e in endpoints_on(self._node_name, endpoints))
        local = {endpoint.ip for endpoint in on_node if endpoint.ready}
        self.local_ready_endpoints = _with(self.local_ready_endpoints, key, len(local))

    def plans_input(self, service: ServiceKey) -> Iterator[tuple[ServicePortName, ServicePort, tuple[Endpoint, ...]]]:
        """The service ports of one Service with their endpoints."""
        for name, port in self.ports_of.get(service, {}).items():
            yield name, port, self.endpoints.get(name, ())


def _with(counts: Map[ServiceKey, int], key: ServiceKey, count: int) -> Map[ServiceKey, int]:
    """The mapping with this count. A count of 0 is left out. A mapping that stays equal stays the same object."""
    if counts.get(key, 0) == count:
        return counts
    return counts.set(key, count) if count else counts.delete(key)
