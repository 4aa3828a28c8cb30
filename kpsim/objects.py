"""The Kubernetes API objects that decide where packets go: frozen values read from their JSON.

Counterpart: core/v1 and discovery.k8s.io/v1. Reading is as lenient as Go's decoder: unknown fields are ignored, absent
fields are zero, and only a value of the wrong type is refused. Defaulting and validation (O-3) are in ``manifests``.
What kube-proxy derives from an object is in ``kubeproxy.trackers``.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import Any, NamedTuple

from kpsim.errors import InputError, Problem
from kpsim.inputs import Json
from kpsim.valueclass import dataclass

LABEL_SERVICE_NAME = "kubernetes.io/service-name"
LABEL_SERVICE_PROXY_NAME = "service.kubernetes.io/service-proxy-name"
LABEL_HEADLESS = "service.kubernetes.io/headless"
LABEL_POD_NAME = "statefulset.kubernetes.io/pod-name"
LABEL_POD_INDEX = "apps.kubernetes.io/pod-index"
LABEL_HOSTNAME = "kubernetes.io/hostname"
LABEL_ZONE = "topology.kubernetes.io/zone"
LABEL_EXCLUDE_BALANCERS = "node.kubernetes.io/exclude-from-external-load-balancers"
ANNOTATION_TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"

CLUSTER_IP_NONE = "None"


class ObjectKey(NamedTuple):
    """The identity of an object: kind, namespace (empty if the kind has none), name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class JsonReader:
    """Typed access to a JSON object.

    A null counts as absent. A wrong type is an InputError that names the JSON path.
    """

    __slots__ = ("obj", "path")

    def __init__(self, obj: Any, path: str) -> None:
        if not isinstance(obj, Mapping):
            raise InputError(Problem(f"expected an object, got {_kind_of(obj)}", path=path or None))
        self.obj: Json = obj
        self.path = path

    def typed(self, key: str, types: type | tuple[type, ...], expected: str) -> Any:
        value = self.obj.get(key)
        if value is None:
            return None
        if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
            raise InputError(Problem(f"expected {expected}, got {_kind_of(value)}", path=f"{self.path}.{key}"))
        return value

    def text(self, key: str) -> str:
        return self.typed(key, str, "a string") or ""

    def optional_text(self, key: str) -> str | None:
        value: str | None = self.typed(key, str, "a string")
        return value

    def integer(self, key: str, bits: int = 32) -> int:
        return self.optional_integer(key, bits) or 0

    def optional_integer(self, key: str, bits: int = 32) -> int | None:
        value: int | None = self.typed(key, int, "an integer")
        if value is not None and not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            raise InputError(Problem(f"expected an integer of {bits} bits", path=f"{self.path}.{key}"))
        return value

    def optional_flag(self, key: str) -> bool | None:
        value: bool | None = self.typed(key, bool, "true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        items = self.typed(key, list, "a list of strings") or ()
        for number, item in enumerate(items):
            if not isinstance(item, str):
                raise InputError(
                    Problem(f"expected a string, got {_kind_of(item)}", path=f"{self.path}.{key}[{number}]")
                )
        return tuple(items)

    def labels(self, key: str) -> Mapping[str, str]:
        items = self.typed(key, Mapping, "an object of strings") or {}
        for name, item in items.items():
            if not isinstance(item, str):
                raise InputError(Problem(f"expected a string, got {_kind_of(item)}", path=f"{self.path}.{key}.{name}"))
        return items

    def child(self, key: str) -> "JsonReader":
        value = self.obj.get(key)
        return JsonReader({} if value is None else value, f"{self.path}.{key}")

    def optional_child(self, key: str) -> "JsonReader | None":
        return None if self.obj.get(key) is None else self.child(key)

    def children(self, key: str) -> "Iterator[JsonReader]":
        for number, item in enumerate(self.typed(key, list, "a list") or ()):
            yield JsonReader(item, f"{self.path}.{key}[{number}]")


def _kind_of(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "an integer",
        float: "a number",
    }
    return "null" if value is None else names.get(type(value), type(value).__name__)


@dataclass(frozen=True, slots=True)
class Metadata:
    """The metadata that all objects have."""

    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)
    annotations: Mapping[str, str] = field(default_factory=dict, compare=False)
    uid: str = field(default="", compare=False)
    creation_timestamp: str = field(default="", compare=False)  #: RFC 3339, empty if absent
    deletion_timestamp: str = field(default="", compare=False)  #: set: the object is being deleted
    generation: int = field(default=0, compare=False)


def _metadata(obj: JsonReader) -> Metadata:
    meta = obj.child("metadata")
    return Metadata(
        meta.text("namespace"),
        meta.text("name"),
        meta.labels("labels"),
        meta.labels("annotations"),
        meta.text("uid"),
        meta.text("creationTimestamp"),
        meta.text("deletionTimestamp"),
        meta.integer("generation", bits=64),
    )


@dataclass(frozen=True, slots=True)
class ServicePortSpec:
    name: str
    protocol: str  #: ``TCP``, ``UDP``, ``SCTP``
    port: int
    node_port: int = 0  #: 0: none
    target_port: int | str = 0
    app_protocol: str | None = None


@dataclass(frozen=True, slots=True)
class Ingress:
    """One entry of ``status.loadBalancer.ingress``; ``ip_mode`` None means VIP."""

    ip: str
    ip_mode: str | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """The fields of a Service that matter to packets (O-2) and to the EndpointSlice controller.

    ``json`` is the whole object as it was read, here and in the other kinds. It is never changed.
    """

    metadata: Metadata
    json: Json = field(repr=False)
    type: str = ""
    cluster_ip: str = ""
    cluster_ips: tuple[str, ...] = ()
    ip_families: tuple[str, ...] = ()
    ports: tuple[ServicePortSpec, ...] = ()
    external_ips: tuple[str, ...] = ()
    session_affinity: str = ""
    affinity_timeout_seconds: int | None = None
    external_traffic_policy: str = ""
    internal_traffic_policy: str | None = None
    health_check_node_port: int = 0
    load_balancer_source_ranges: tuple[str, ...] = ()
    ingress: tuple[Ingress, ...] = ()
    selector: Mapping[str, str] = field(default_factory=dict)
    publish_not_ready_addresses: bool = False
    traffic_distribution: str | None = None

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("Service", self.metadata.namespace, self.metadata.name)

    @property
    def has_several_load_balancers(self) -> bool:
        """Whether its status lists addresses of more than one: two of a family, or some of each ipMode."""
        given = [ingress for ingress in self.ingress if ingress.ip]
        families = {":" in ingress.ip for ingress in given}
        return len(families) != len(given) or len({ingress.ip_mode == "Proxy" for ingress in given}) > 1

    @property
    def externally_accessible(self) -> bool:
        """Whether the Service is externally accessible in the API's sense (O-3.1).

        That depends on its type and ``externalIPs``, not on what was allocated.
        """
        return self.type in ("LoadBalancer", "NodePort") or (self.type == "ClusterIP" and bool(self.external_ips))


def service_from_json(obj: Json) -> Service:
    """InputError if a field has the wrong type."""
    reader = JsonReader(obj, "")
    spec = reader.child("spec")
    client_ip = spec.child("sessionAffinityConfig").child("clientIP")
    return Service(
        metadata=_metadata(reader),
        json=obj,
        type=spec.text("type"),
        cluster_ip=spec.text("clusterIP"),
        cluster_ips=spec.texts("clusterIPs"),
        ip_families=spec.texts("ipFamilies"),
        ports=tuple(
            ServicePortSpec(
                port.text("name"),
                port.text("protocol") or "TCP",
                port.integer("port"),
                port.integer("nodePort"),
                port.typed("targetPort", (int, str), "a number or a name") or 0,
                port.optional_text("appProtocol"),
            )
            for port in spec.children("ports")
        ),
        external_ips=spec.texts("externalIPs"),
        session_affinity=spec.text("sessionAffinity"),
        affinity_timeout_seconds=client_ip.optional_integer("timeoutSeconds"),
        external_traffic_policy=spec.text("externalTrafficPolicy"),
        internal_traffic_policy=spec.optional_text("internalTrafficPolicy"),
        health_check_node_port=spec.integer("healthCheckNodePort"),
        load_balancer_source_ranges=spec.texts("loadBalancerSourceRanges"),
        ingress=tuple(
            Ingress(entry.text("ip"), entry.optional_text("ipMode"))
            for entry in reader.child("status").child("loadBalancer").children("ingress")
        ),
        selector=spec.labels("selector"),
        publish_not_ready_addresses=bool(spec.optional_flag("publishNotReadyAddresses")),
        traffic_distribution=spec.optional_text("trafficDistribution"),
    )


@dataclass(frozen=True, slots=True)
class SlicePort:
    """A port of a slice. If ``name`` or ``port`` is None (absent), kube-proxy skips the port (O-6.2)."""

    name: str | None
    protocol: str
    port: int | None
    app_protocol: str | None = None


class TargetRef(NamedTuple):
    """A reference to the object behind an endpoint, with the fields of the reference that matter."""

    kind: str
    namespace: str
    name: str
    uid: str = ""


@dataclass(frozen=True, slots=True)
class SliceEndpoint:
    """An endpoint of a slice. A condition that is None is absent (O-6.3)."""

    addresses: tuple[str, ...]
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None
    node_name: str | None = None
    zone: str | None = None
    zone_hints: frozenset[str] = frozenset()
    node_hints: frozenset[str] = frozenset()
    hostname: str | None = None
    target_ref: TargetRef | None = None


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """An EndpointSlice. Two are equal if the whole objects are, metadata included (O-8.2).

    ``derived`` is a cache. ``kubeproxy.trackers`` keeps in it what it derives from the slice, so that the kube-proxies
    of all nodes derive it once. It is not part of the value, and a copy starts with an empty cache.
    """

    metadata: Metadata = field(compare=False)
    json: Json = field(repr=False)
    address_type: str = field(compare=False)
    ports: tuple[SlicePort, ...] = field(compare=False)
    endpoints: tuple[SliceEndpoint, ...] = field(compare=False)
    owner_uids: tuple[str, ...] = field(default=(), compare=False)  #: UIDs of the Services that own it
    derived: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("EndpointSlice", self.metadata.namespace, self.metadata.name)

    @property
    def service_name(self) -> str:
        """The name of the Service that the slice belongs to, from its label; empty if it has no such label."""
        return self.metadata.labels.get(LABEL_SERVICE_NAME, "")


def endpoint_slice_from_json(obj: Json) -> EndpointSlice:
    """InputError if a field has the wrong type."""
    reader = JsonReader(obj, "")
    return EndpointSlice(
        metadata=_metadata(reader),
        json=obj,
        address_type=reader.text("addressType"),
        ports=tuple(
            SlicePort(
                port.optional_text("name"),
                port.text("protocol") or "TCP",
                port.optional_integer("port"),
                port.optional_text("appProtocol"),
            )
            for port in reader.children("ports")
        ),
        endpoints=tuple(map(_slice_endpoint, reader.children("endpoints"))),
        owner_uids=tuple(
            owner.text("uid")
            for owner in reader.child("metadata").children("ownerReferences")
            if owner.text("kind") == "Service" and owner.text("apiVersion") == "v1"
        ),
    )


def _slice_endpoint(endpoint: JsonReader) -> SliceEndpoint:
    conditions = endpoint.child("conditions")
    hints = endpoint.optional_child("hints")
    return SliceEndpoint(
        addresses=endpoint.texts("addresses"),
        ready=conditions.optional_flag("ready"),
        serving=conditions.optional_flag("serving"),
        terminating=conditions.optional_flag("terminating"),
        node_name=endpoint.optional_text("nodeName"),
        zone=endpoint.optional_text("zone"),
        zone_hints=frozenset(h.text("name") for h in hints.children("forZones")) if hints else frozenset(),
        node_hints=frozenset(h.text("name") for h in hints.children("forNodes")) if hints else frozenset(),
        hostname=endpoint.optional_text("hostname"),
        target_ref=_target_ref(endpoint.optional_child("targetRef")),
    )


@dataclass(frozen=True, slots=True)
class EndpointAddress:
    """One address of an Endpoints object."""

    ip: str
    hostname: str = ""
    node_name: str | None = None
    target_ref: TargetRef | None = None


@dataclass(frozen=True, slots=True)
class EndpointSubset:
    """Addresses that have all of the ports. Ports always have a number here, and a name that may be empty."""

    addresses: tuple[EndpointAddress, ...]
    not_ready: tuple[EndpointAddress, ...]
    ports: tuple[SlicePort, ...]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The older object with all endpoints of a Service, of one name with it. kube-proxy never reads it (CP-4.1)."""

    metadata: Metadata
    json: Json = field(repr=False)
    subsets: tuple[EndpointSubset, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("Endpoints", self.metadata.namespace, self.metadata.name)


def endpoints_from_json(obj: Json) -> Endpoints:
    """InputError if a field has the wrong type."""
    reader = JsonReader(obj, "")
    return Endpoints(_metadata(reader), obj, tuple(map(_subset, reader.children("subsets"))))


def _subset(subset: JsonReader) -> EndpointSubset:
    addresses, not_ready = (
        tuple(
            EndpointAddress(
                address.text("ip"),
                address.text("hostname"),
                address.optional_text("nodeName"),
                _target_ref(address.optional_child("targetRef")),
            )
            for address in subset.children(group)
        )
        for group in ("addresses", "notReadyAddresses")
    )
    ports = tuple(
        SlicePort(
            port.text("name"), port.text("protocol") or "TCP", port.integer("port"), port.optional_text("appProtocol")
        )
        for port in subset.children("ports")
    )
    return EndpointSubset(addresses, not_ready, ports)


def _target_ref(target: JsonReader | None) -> TargetRef | None:
    if target is None:
        return None
    return TargetRef(target.text("kind"), target.text("namespace"), target.text("name"), target.text("uid"))


@dataclass(frozen=True, slots=True)
class Node:
    """The fields of a Node that kube-proxy (O-11) and the EndpointSlice controller (T-6.4) read.

    ``addresses`` are (type, address) in list order.
    """

    metadata: Metadata
    json: Json = field(repr=False)
    addresses: tuple[tuple[str, str], ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    taint_keys: tuple[str, ...] = ()
    ready: bool = False
    allocatable_cpu: str = ""  #: a Kubernetes quantity, empty if absent

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("Node", "", self.metadata.name)

    @property
    def ips(self) -> tuple[str, ...]:
        """All InternalIPs, then all ExternalIPs, in the order of the list, as written."""
        internal = [address for kind, address in self.addresses if kind == "InternalIP"]
        return (*internal, *(address for kind, address in self.addresses if kind == "ExternalIP"))

    @property
    def zone(self) -> str | None:
        """The value of the zone label, or None if there is none."""
        return self.metadata.labels.get(LABEL_ZONE)


def node_from_json(obj: Json) -> Node:
    """InputError if a field has the wrong type."""
    reader = JsonReader(obj, "")
    spec, status = reader.child("spec"), reader.child("status")
    addresses = status.children("addresses")
    ready = _ready_condition(status)
    cpu = status.child("allocatable").typed("cpu", (str, int, float), "a quantity")
    return Node(
        metadata=_metadata(reader),
        json=obj,
        addresses=tuple((address.text("type"), address.text("address")) for address in addresses),
        pod_cidrs=spec.texts("podCIDRs"),
        taint_keys=tuple(taint.text("key") for taint in spec.children("taints")),
        ready=ready is not None and ready.text("status") == "True",
        allocatable_cpu="" if cpu is None else str(cpu),
    )


def _ready_condition(status: JsonReader) -> JsonReader | None:
    return next((c for c in status.children("conditions") if c.text("type") == "Ready"), None)


class ContainerPort(NamedTuple):
    name: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Pod:
    """The fields of a Pod that the EndpointSlice controller and the packet path read (O-10)."""

    metadata: Metadata
    json: Json = field(repr=False)
    node_name: str = ""
    ips: tuple[str, ...] = ()
    phase: str = ""
    ready: bool = False
    terminating: bool = False
    host_network: bool = False
    hostname: str = ""
    subdomain: str = ""
    ready_changed: str = ""  #: lastTransitionTime of the Ready condition, RFC 3339, empty if absent
    container_ports: tuple[ContainerPort, ...] = ()  #: of containers, then of restartable init containers

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("Pod", self.metadata.namespace, self.metadata.name)


def pod_from_json(obj: Json) -> Pod:
    """InputError if a field has the wrong type."""
    reader = JsonReader(obj, "")
    spec, status = reader.child("spec"), reader.child("status")
    ips = tuple(entry.text("ip") for entry in status.children("podIPs")) or (status.text("podIP"),)
    ready = _ready_condition(status)
    containers = [
        *spec.children("containers"),
        *(container for container in spec.children("initContainers") if container.text("restartPolicy") == "Always"),
    ]
    return Pod(
        metadata=_metadata(reader),
        json=obj,
        node_name=spec.text("nodeName"),
        ips=tuple(ip for ip in ips if ip),
        phase=status.text("phase"),
        ready=ready is not None and ready.text("status") == "True",
        terminating=bool(reader.child("metadata").optional_text("deletionTimestamp")),
        host_network=bool(spec.optional_flag("hostNetwork")),
        hostname=spec.text("hostname"),
        subdomain=spec.text("subdomain"),
        ready_changed=ready.text("lastTransitionTime") if ready else "",
        container_ports=tuple(
            ContainerPort(port.text("name"), port.text("protocol") or "TCP", port.integer("containerPort"))
            for container in containers
            for port in container.children("ports")
        ),
    )


@dataclass(frozen=True, slots=True)
class ServiceCIDR:
    metadata: Metadata
    json: Json = field(repr=False)
    cidrs: tuple[str, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("ServiceCIDR", "", self.metadata.name)


def service_cidr_from_json(obj: Json) -> ServiceCIDR:
    """InputError if a field has the wrong type."""
    reader = JsonReader(obj, "")
    return ServiceCIDR(_metadata(reader), obj, reader.child("spec").texts("cidrs"))


ApiObject = Service | EndpointSlice | Endpoints | Node | Pod | ServiceCIDR

_READERS: Mapping[str, Callable[[Json], ApiObject]] = {
    "Service": service_from_json,
    "EndpointSlice": endpoint_slice_from_json,
    "Endpoints": endpoints_from_json,
    "Node": node_from_json,
    "Pod": pod_from_json,
    "ServiceCIDR": service_cidr_from_json,
}


def object_from_json(obj: Json) -> ApiObject | None:
    """The typed object, or None for a kind that decides no packet. InputError if a field has the wrong type."""
    reader = _READERS.get(str(obj.get("kind")))
    return reader(obj) if reader else None
