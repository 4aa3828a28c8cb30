"""Builds Services, EndpointSlices and a proxier with a clock, for tests of the control plane.

Address plan: pods 10.180.0.0/16, cluster IPs 172.30.0.0/16, nodes 192.168.0.0/24, clients 203.0.113.0/24.
"""

from collections.abc import Iterable
from typing import Any

from kpsim.addresses import Family
from kpsim.backends import NONE_REFUSED, RULES_FAIL, Refusals
from kpsim.backends.table import make_backend
from kpsim.cluster import ClusterState, Event, through_selector
from kpsim.config import Host, Mode, ProxierSettings, ProxyConfig, resolve
from kpsim.kubeproxy.stale_flows import UdpFlow
from kpsim.kubeproxy.trackers import ServicePortName
from kpsim.objects import (
    ApiObject,
    EndpointSlice,
    Node,
    Service,
    endpoint_slice_from_json,
    node_from_json,
    service_from_json,
)
from kpsim.proxier import Proxier, SyncResult
from kpsim.units import SECOND_NS, parse_rfc3339_ns

NODE = "node-1"
NODE_IP = "192.168.0.2"
CLUSTER_CIDR = "10.180.0.0/16,fd00:180::/48"
START_NS = parse_rfc3339_ns("2026-01-01T00:00:00Z")

Json = dict[str, Any]


def port(number: int = 80, name: str = "http", protocol: str = "TCP", node_port: int = 0) -> Json:
    """A port of a Service. It has a node port only if ``node_port`` is given."""
    return {"name": name, "protocol": protocol, "port": number} | ({"nodePort": node_port} if node_port else {})


def slice_port(number: int | None = 8080, name: str | None = "http", protocol: str = "TCP") -> Json:
    return {"name": name, "protocol": protocol, "port": number}


def service(
    key: str = "shop/web",
    ports: Iterable[Json] = (port(),),
    *,
    cluster_ip: str = "172.30.10.1",
    ingress: Iterable[Json | str] = (),
    labels: Json | None = None,
    **spec: Any,
) -> Service:
    """A Service as the API server returns it. ``ingress`` are its load balancer's addresses."""
    namespace, name = key.split("/")
    entries = [{"ip": entry} if isinstance(entry, str) else entry for entry in ingress]
    return service_from_json(
        {
            "kind": "Service",
            "metadata": {"namespace": namespace, "name": name, "labels": labels or {}},
            "spec": {"type": "ClusterIP", "clusterIP": cluster_ip, "sessionAffinity": "None"}
            | {"ports": list(ports)}
            | spec,
            "status": {"loadBalancer": {"ingress": entries}},
        }
    )


_STATES: dict[str, Json] = {
    "ready": {"ready": True, "serving": True, "terminating": False},
    "serving-terminating": {"ready": False, "serving": True, "terminating": True},
    "terminating": {"ready": False, "serving": False, "terminating": True},
    "unready": {"ready": False, "serving": False, "terminating": False},
    "unset": {},
}


def endpoint(
    ip: str, node: str | None = NODE, state: str = "ready", zones: Iterable[str] = (), nodes: Iterable[str] = ()
) -> Json:
    """An endpoint of a slice. ``zones`` and ``nodes`` are its hints."""
    hints: Json = {}
    if zones := tuple(zones):
        hints["forZones"] = [{"name": name} for name in zones]
    if nodes := tuple(nodes):
        hints["forNodes"] = [{"name": name} for name in nodes]
    where = {"nodeName": node} if node else {}
    return {"addresses": [ip], "conditions": _STATES[state]} | where | ({"hints": hints} if hints else {})


def endpoint_slice(
    key: str = "shop/web",
    endpoints: Iterable[Json | str] = ("10.180.0.3",),
    ports: Iterable[Json] = (slice_port(),),
    *,
    name: str = "",
    family: str = "IPv4",
    version: int = 1,
    labels: Json | None = None,
    annotations: Json | None = None,
) -> EndpointSlice:
    """A slice of the Service ``key``, named after it unless ``name`` is given. ``version`` is its resourceVersion."""
    namespace, service_name = key.split("/")
    return endpoint_slice_from_json(
        {
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": namespace,
                "name": name or f"{service_name}-1",
                "resourceVersion": str(version),
                "labels": {"kubernetes.io/service-name": service_name} if labels is None else labels,
                "annotations": annotations or {},
            },
            "addressType": family,
            "ports": list(ports),
            "endpoints": [endpoint(item) if isinstance(item, str) else item for item in endpoints],
        }
    )


def node(zone: str | None = None, **spec: Any) -> Node:
    """The proxier's own Node."""
    labels = {} if zone is None else {"topology.kubernetes.io/zone": zone}
    return node_from_json({"kind": "Node", "metadata": {"name": NODE, "labels": labels}, "spec": spec})


def make_settings(family: Family = Family.IPV4, host: Host | None = None, **config: Any) -> ProxierSettings:
    """Settings of a proxier on NODE. ``config`` are fields of ProxyConfig."""
    fields: Json = {"mode": Mode.IPTABLES, "hostname_override": NODE, "cluster_cidr": CLUSTER_CIDR, **config}
    return resolve(ProxyConfig(**fields), host or Host(node_ips=(NODE_IP, "2001:db8::2")), None, family)


class Rig:
    """One proxier, the API server that it watches, and a clock."""

    def __init__(self, settings: ProxierSettings | None = None, *, synced: bool = True, **config: Any) -> None:
        self.settings = settings or make_settings(**config)
        self.proxier = Proxier(self.settings, make_backend(self.settings), created_ns=START_NS)
        self.cluster = ClusterState()
        self.now_ns = START_NS
        self.flows: list[UdpFlow] = []
        if synced:
            self.proxier.services_synced()
            self.proxier.slices_synced()

    def apply(self, *objects: ApiObject) -> bool:
        """Create or update objects. Returns whether a handler asked for a sync after the last of them."""
        requested = False
        for obj in objects:
            event, self.cluster = self.cluster.put(obj)
            requested = self._deliver(event)
        return requested

    def delete(self, *objects: ApiObject) -> bool:
        requested = False
        for obj in objects:
            event, self.cluster = self.cluster.remove(obj.key)
            assert event is not None, f"there is no {obj.key}"
            requested = self._deliver(event)
        return requested

    def _deliver(self, event: Event) -> bool:
        seen = through_selector(event, self.settings.node_name)
        return seen is not None and self.proxier.on_event(seen, self.now_ns)

    def sync(self, after_s: float = 1, *, refuse: bool = False, refused: Refusals = NONE_REFUSED) -> SyncResult:
        self.now_ns += round(after_s * SECOND_NS)
        result = self.proxier.sync(self.now_ns, lambda: list(self.flows), refused=RULES_FAIL if refuse else refused)
        self.flows = [flow for flow in self.flows if flow not in result.conntrack_deleted]
        return result

    def metric(self, name: str, **labels: str) -> int | None:
        """The value of a metric by its name without prefix, or None if it does not exist."""
        inner = ",".join(f'{label}="{labels[label]}"' for label in sorted(labels))
        return self.proxier.metrics.snapshot().get(f"kubeproxy_{name}" + (f"{{{inner}}}" if inner else ""))

    def rules(self, table: str, chain: str) -> list[str]:
        """The rules that the kernel holds in a chain, as kube-proxy writes them, without ``-A CHAIN``."""
        start = f"-A {chain} "
        lines = self.tables_text().split(f"*{table}\n")[1].split("COMMIT")[0].split("\n")
        return [line.removeprefix(start) for line in lines if line.startswith(start)]

    def chains(self, table: str = "nat") -> set[str]:
        """The chains that the kernel holds in a table."""
        return set(self.proxier.held.ruleset.table(table).chains)

    def tables_text(self) -> str:
        save: str = self.proxier.backend.describe(self.proxier.no_sync().transaction, self.proxier.machine)()[
            "iptables"
        ]["save"]
        return save

    def flush(self) -> None:
        """Remove all of kube-proxy's rules, as another program may do."""
        self.proxier.held = self.proxier.backend.flush(self.proxier.held)

    @property
    def periodic_full_sync(self) -> bool:
        """Whether a full sync is due some time after the last sync (I-12.3 c)."""
        traits = self.proxier.backend.traits
        return traits.full_after_ns(self.settings, self.proxier.maps.endpoint_total) is not None

    def endpoints(self, name: str = "http", key: str = "shop/web", protocol: str = "TCP") -> list[str]:
        """The addresses of a service port's endpoints as of the last sync."""
        namespace, service_name = key.split("/")
        found = self.proxier.maps.endpoints.get(ServicePortName(namespace, service_name, name, protocol), ())
        return [item.address for item in found]


def rules_total(result: SyncResult) -> dict[str, int]:
    """The number of rules owned after a sync, by table."""
    return {count.table: count.total for count in result.transaction.rule_counts}


def rules_last(result: SyncResult) -> dict[str, int]:
    """The number of rules that a sync wrote, by table."""
    return {count.table: count.last for count in result.transaction.rule_counts}


def document(result: SyncResult) -> str:
    """The only document of a sync."""
    (render,) = result.transaction.documents
    return render()
