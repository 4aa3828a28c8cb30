"""The accumulated maps of one family's kube-proxy, kept up to date change by change (O-5.8, O-6.5, O-13).

What upstream recounts at every sync (endpoint total, health check ports, local endpoints) is maintained here instead, so that a
sync costs what changed. It never knows what is made of the maps.
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
)


class ServiceMaps:
    """Service ports and endpoints as of the last checkout."""

    def __init__(self) -> None:
        self.ports: dict[ServicePortName, ServicePort] = {}
        self.endpoints: dict[ServicePortName, tuple[Endpoint, ...]] = {}
        self.ports_of: dict[ServiceKey, dict[ServicePortName, ServicePort]] = {}
        self.endpoint_total = 0  #: over all service ports, unused endpoints included (I-12.3)
        self.health_check_ports: dict[ServiceKey, int] = {}  #: O-13.1
        self._endpoint_keys: dict[ServiceKey, tuple[ServicePortName, ...]] = {}

    def apply(self, services: ServiceChangeTracker, slices: EndpointsChangeTracker) -> tuple[
        dict[ServiceKey, ServiceChange], EndpointsCheckout
    ]:  # fmt: skip
        """Take over the pending changes: Services first, then slices (I-13.4). They are gone even if the sync fails."""
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
        self.health_check_ports.pop(key, None)
        if change.current:
            self.ports_of[key] = dict(change.current)
            health = next((p.health_check_node_port for p in change.current.values() if p.health_check_node_port), 0)
            if health:
                self.health_check_ports[key] = health

    def _apply_endpoints(self, key: ServiceKey, change: EndpointsChange) -> None:
        for name in change.previous:
            self.endpoints.pop(name, None)
        self.endpoints.update(change.current)
        if change.current:
            self._endpoint_keys[key] = tuple(change.current)
        else:
            self._endpoint_keys.pop(key, None)

    def plans_input(self, service: ServiceKey) -> Iterator[tuple[ServicePortName, ServicePort, tuple[Endpoint, ...]]]:
        """The service ports of one Service with their endpoints."""
        for name, port in self.ports_of.get(service, {}).items():
            yield name, port, self.endpoints.get(name, ())

    def local_ready_endpoints(self, service: ServiceKey) -> int:
        """Distinct IPs of local ready endpoints over all the Service's keys (O-13.2)."""
        keys = self._endpoint_keys.get(service, ())
        return len({e.ip for name in keys for e in self.endpoints[name] if e.local and e.ready})
