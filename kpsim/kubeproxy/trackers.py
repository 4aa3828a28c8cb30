"""Service ports and endpoints as one family's kube-proxy derives them, and the two change trackers (spec 01).

Counterpart: pkg/proxy serviceport.go, endpointslicecache.go and the change trackers. A tracker collects changes until a
sync checks them out; ``proxier`` decides when that is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import NamedTuple

from kpsim.addresses import Family, Network, canonical_ip, join_host_port, parse_network
from kpsim.objects import ANNOTATION_TRIGGER_TIME, CLUSTER_IP_NONE, EndpointSlice, Service
from kpsim.units import parse_rfc3339_ns
from kpsim.valueclass import dataclass


class ServiceKey(NamedTuple):
    """Namespace and name of a Service."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ServicePortName(NamedTuple):
    """The key of a service port (O-5.2). Service ports are written in the order of their keys (I-12.2)."""

    namespace: str
    name: str
    port: str
    protocol: str

    @property
    def service(self) -> ServiceKey:
        return ServiceKey(self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}:{self.port}" if self.port else f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """What one family's kube-proxy knows about a service port (O-5.3). Addresses are canonical texts of the family.

    ``source_ranges`` None and empty are different values, although both mean "no restriction" (O-7.1).
    """

    cluster_ip: str
    port: int
    protocol: str
    node_port: int
    session_affinity: bool
    sticky_seconds: int
    external_policy_local: bool
    internal_policy_local: bool
    external_ips: tuple[str, ...]
    load_balancer_ips: tuple[str, ...]
    source_ranges: tuple[Network, ...] | None
    health_check_node_port: int

    @property
    def externally_accessible(self) -> bool:
        """Whether the port has an address besides the cluster IP (O-5.7). The API uses the word differently (O-3.1)."""
        return bool(self.node_port or self.load_balancer_ips or self.external_ips)

    @property
    def uses_cluster(self) -> bool:
        return not self.internal_policy_local or self.externally_accessible

    @property
    def uses_local(self) -> bool:
        return self.internal_policy_local or (self.external_policy_local and self.externally_accessible)


def _cluster_ip(service: Service, family: Family) -> str | None:
    """The Service's cluster IP of a family; None if it has none (O-5.1)."""
    if not service.ip_families:
        return canonical_ip(service.cluster_ip, family)
    for label, ip in zip(service.ip_families, service.cluster_ips, strict=False):
        if label == family.label:
            return canonical_ip(ip, family)
    return None


def _source_ranges(texts: Iterable[str], family: Family) -> tuple[Network, ...] | None:
    """The source ranges of one family (O-5.4).

    Ranges of the other family do not restrict this one. A range with prefix length 0 lifts the restriction.
    """
    networks = (parse_network(text.strip()) for text in texts)
    kept = tuple(network for network in networks if network is not None and network.family is family)
    if any(network.is_zero for network in kept):
        return ()
    return kept or None


def _of_family(texts: Iterable[str], family: Family) -> tuple[str, ...]:
    return tuple(ip for text in texts if (ip := canonical_ip(text, family)) is not None)


def service_ports(service: Service | None, family: Family) -> dict[ServicePortName, ServicePort]:
    """The service ports of a Service in one family; empty for a Service that kube-proxy ignores (O-4) and for None."""
    if service is None or service.cluster_ip in ("", CLUSTER_IP_NONE) or service.type == "ExternalName":
        return {}
    cluster_ip = _cluster_ip(service, family)
    if cluster_ip is None:
        return {}
    affinity = service.session_affinity == "ClientIP"
    external_local = service.externally_accessible and service.external_traffic_policy == "Local"
    external_ips = _of_family(service.external_ips, family)
    vips = (entry.ip for entry in service.ingress if entry.ip_mode in (None, "VIP"))
    load_balancer_ips = _of_family(vips, family)
    source_ranges = _source_ranges(service.load_balancer_source_ranges, family)
    health_port = service.health_check_node_port if service.type == "LoadBalancer" and external_local else 0
    meta = service.metadata
    return {
        ServicePortName(meta.namespace, meta.name, port.name, port.protocol): ServicePort(
            cluster_ip=cluster_ip,
            port=port.port,
            protocol=port.protocol,
            node_port=port.node_port,
            session_affinity=affinity,
            sticky_seconds=(service.affinity_timeout_seconds or 0) if affinity else 0,
            external_policy_local=external_local,
            internal_policy_local=service.internal_traffic_policy == "Local",
            external_ips=external_ips,
            load_balancer_ips=load_balancer_ips,
            source_ranges=source_ranges,
            health_check_node_port=health_port,
        )
        for port in service.ports
    }


ServicePorts = Mapping[ServicePortName, ServicePort]


class ServiceChange(NamedTuple):
    """One Service's ports as of the last sync and now."""

    previous: ServicePorts
    current: ServicePorts


class ServiceChangeTracker:
    """Services changed since the last checkout (O-7)."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._pending: dict[ServiceKey, ServiceChange] = {}

    def update(self, old: Service | None, new: Service | None) -> bool:
        """Notes an add (old None), an update or a delete (new None).

        Returns True if *any* Service has a pending change (O-7.3).
        """
        meta = (new or old).metadata  # type: ignore[union-attr]  # one of them is there
        key = ServiceKey(meta.namespace, meta.name)
        pending = self._pending.get(key)
        previous = pending.previous if pending else service_ports(old, self._family)
        current = service_ports(new, self._family)
        if previous == current:
            self._pending.pop(key, None)
        else:
            self._pending[key] = ServiceChange(previous, current)
        return bool(self._pending)

    @property
    def pending(self) -> int:
        """The number of Services with a pending change."""
        return len(self._pending)

    def checkout(self) -> dict[ServiceKey, ServiceChange]:
        """Returns the pending changes and forgets them, whether or not the sync will succeed (O-7.4)."""
        changes, self._pending = self._pending, {}
        return changes


class Endpoint(NamedTuple):
    """One endpoint of a service port (O-6.3), the same for every node. ``address`` is ``ip:port`` and identifies it."""

    address: str
    ip: str
    port: int
    node_name: str  #: the node on which it runs; empty: the slice names none
    ready: bool
    serving: bool
    terminating: bool
    zone_hints: frozenset[str] = frozenset()
    node_hints: frozenset[str] = frozenset()


Endpoints = dict[ServicePortName, tuple[Endpoint, ...]]


def endpoints_on(node_name: str, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """The endpoints that are local to a node, in the order given. A node without a name has none (O-6.3)."""
    return [endpoint for endpoint in endpoints if endpoint.node_name == node_name] if node_name else []


class _Host(NamedTuple):
    """An endpoint of a slice without a port: what is the same for all ports of the slice."""

    ip: str
    node_name: str
    ready: bool
    serving: bool
    terminating: bool
    zone_hints: frozenset[str]
    node_hints: frozenset[str]

    def at(self, port: int) -> Endpoint:
        """The endpoint with this port number."""
        return Endpoint(
            join_host_port(self.ip, port),
            self.ip,
            port,
            self.node_name,
            self.ready,
            self.serving,
            self.terminating,
            self.zone_hints,
            self.node_hints,
        )


def _hosts(endpoint_slice: EndpointSlice, family: Family) -> list[_Host]:
    """The slice's endpoints whose first address is of the family (O-6.3).

    A condition that is not set counts as the API says: ready and serving as true, terminating as false.
    """
    return [
        _Host(
            ip,
            source.node_name or "",
            ready=source.ready is not False,
            serving=source.serving is not False,
            terminating=source.terminating is True,
            zone_hints=source.zone_hints,
            node_hints=source.node_hints,
        )
        for source in endpoint_slice.endpoints
        if source.addresses and (ip := canonical_ip(source.addresses[0], family)) is not None
    ]


class _OfSlice(NamedTuple):
    """The endpoints of one slice: by port and address, and merged as if it were the Service's only slice."""

    found: dict[ServicePortName, dict[str, Endpoint]]
    merged: Endpoints


def _of_slice(service: ServiceKey, endpoint_slice: EndpointSlice, family: Family) -> _OfSlice:
    """The slice's endpoints of one family.

    They are kept with the slice, so all nodes' kube-proxies derive them once.
    """
    known: _OfSlice | None = endpoint_slice.derived.get((service, family))
    if known is not None:
        return known
    hosts = _hosts(endpoint_slice, family)
    by_port: dict[ServicePortName, dict[str, Endpoint]] = {}
    for port in endpoint_slice.ports:
        if port.name is None or not port.port:
            continue
        key = ServicePortName(service.namespace, service.name, port.name, port.protocol)
        _merge(by_port.setdefault(key, {}), (host.at(port.port) for host in hosts))
    made = _OfSlice(by_port, _sorted(by_port))
    endpoint_slice.derived[service, family] = made
    return made


def _merge(found: dict[str, Endpoint], more: Iterable[Endpoint]) -> None:
    """Adds endpoints to those found so far.

    If several have the same ``ip:port``, the last that is not terminating counts, else the first (O-6.4).
    """
    for endpoint in more:
        if endpoint.address not in found or not endpoint.terminating:
            found[endpoint.address] = endpoint


def _sorted(by_port: Mapping[ServicePortName, Mapping[str, Endpoint]]) -> Endpoints:
    """The endpoints of each port that has any, sorted by the text ``ip:port`` (O-6.5)."""
    return {key: tuple(found[address] for address in sorted(found)) for key, found in by_port.items() if found}


def merge_slices(service: ServiceKey, slices: Iterable[EndpointSlice], family: Family) -> Endpoints:
    """The endpoints of each port of a Service over all its slices (O-6.2 to O-6.5), sorted by the text ``ip:port``.

    Ports are matched by name and protocol. Slices are visited in the order given. If several endpoints have the same
    ``ip:port``, the last that is not terminating counts, else the first (O-6.4).
    """
    parts = [_of_slice(service, endpoint_slice, family) for endpoint_slice in slices]
    if len(parts) == 1:
        return parts[0].merged
    by_port: dict[ServicePortName, dict[str, Endpoint]] = {}
    for part in parts:
        for key, endpoints in part.found.items():
            _merge(by_port.setdefault(key, {}), endpoints.values())
    return _sorted(by_port)


@dataclass(frozen=True, slots=True)
class EndpointsChange:
    """One Service's endpoints as of the last sync and now."""

    previous: Endpoints
    current: Endpoints

    @property
    def touches_udp(self) -> bool:
        """Whether a UDP port is among the keys before or after. If so, the sync looks for stale flows (O-12.1)."""
        return any(key.protocol == "UDP" for key in (*self.previous, *self.current))


@dataclass(slots=True)
class _ServiceSlices:
    """The slices of a Service by name. ``applied`` is the state of the last sync.

    ``pending`` holds what changed since: a slice, and whether it was removed.
    """

    applied: dict[str, EndpointSlice] = field(default_factory=dict)
    pending: dict[str, tuple[EndpointSlice, bool]] = field(default_factory=dict)
    endpoints: Endpoints = field(default_factory=dict)


class EndpointsCheckout(NamedTuple):
    """What a sync takes over: changes and trigger times (nanoseconds since 1970) by Service."""

    changes: dict[ServiceKey, EndpointsChange]
    trigger_times_ns: dict[ServiceKey, list[int]]


class EndpointsChangeTracker:
    """EndpointSlices changed since the last checkout, for one family (O-8)."""

    def __init__(self, family: Family, created_ns: int) -> None:
        self._family = family
        self._created_ns = created_ns
        self._services: dict[ServiceKey, _ServiceSlices] = {}
        self._changed: dict[ServiceKey, None] = {}
        self._trigger_times_ns: dict[ServiceKey, list[int]] = {}
        self.pending = 0  #: changes since the last checkout, several per slice possible (O-9)

    def accepts(self, endpoint_slice: EndpointSlice) -> bool:
        """Whether the slice is of this family and names its Service (O-6.1)."""
        meta = endpoint_slice.metadata
        named = endpoint_slice.service_name and meta.namespace and meta.name
        return bool(named) and endpoint_slice.address_type == self._family.label

    def update(self, endpoint_slice: EndpointSlice, *, removed: bool) -> bool:
        """Notes a slice's new state, or its removal. Returns True if this event is a change (O-8.1).

        The slice must be one that :meth:`accepts` accepts.
        """
        meta = endpoint_slice.metadata
        key = ServiceKey(meta.namespace, endpoint_slice.service_name)
        slices = self._services.setdefault(key, _ServiceSlices())
        known = slices.pending.get(meta.name)
        if known is None and meta.name in slices.applied:
            known = (slices.applied[meta.name], False)
        if known == (endpoint_slice, removed) or (known is None and removed):
            return False
        slices.pending[meta.name] = (endpoint_slice, removed)
        self._changed[key] = None
        self.pending += 1
        self._note_trigger_time(key, endpoint_slice, removed)
        return True

    def _note_trigger_time(self, key: ServiceKey, endpoint_slice: EndpointSlice, removed: bool) -> None:
        """Notes the slice's trigger time.

        A removal forgets all trigger times of the Service, of other slices too (O-8.6).
        """
        if removed:
            self._trigger_times_ns.pop(key, None)
            return
        try:
            trigger_ns = parse_rfc3339_ns(endpoint_slice.metadata.annotations.get(ANNOTATION_TRIGGER_TIME, ""))
        except ValueError:
            return
        if trigger_ns > self._created_ns:
            self._trigger_times_ns.setdefault(key, []).append(trigger_ns)

    def checkout(self) -> EndpointsCheckout:
        """Applies the pending changes, returns and forgets them, whether or not the sync will succeed (O-8.4)."""
        changes = {}
        for key in self._changed:
            slices = self._services[key]
            for name, (endpoint_slice, removed) in slices.pending.items():
                if removed:
                    slices.applied.pop(name, None)
                else:
                    slices.applied[name] = endpoint_slice
            slices.pending.clear()
            in_order = (slices.applied[name] for name in sorted(slices.applied))
            current = merge_slices(key, in_order, self._family)
            changes[key] = EndpointsChange(slices.endpoints, current)
            slices.endpoints = current
            if not slices.applied:
                del self._services[key]
        checkout = EndpointsCheckout(changes, self._trigger_times_ns)
        self._changed, self._trigger_times_ns, self.pending = {}, {}, 0
        return checkout
