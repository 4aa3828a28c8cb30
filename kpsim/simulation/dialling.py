"""What clients of a Service dial: its addresses of a kind in a family, its ports, and the nodes' own addresses."""

from collections.abc import Iterable, Sequence

from kpsim.addresses import Family, canonical_ip
from kpsim.objects import Service, ServicePortSpec
from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.service_names import qualified
from kpsim.scenario.traffic_schema import Origin, Traffic, Via


def of_family(ips: Iterable[str], family: Family) -> str:
    """Return the first address of a family, or an empty string if there is none."""
    return next((ip for ip in ips if canonical_ip(ip, family) is not None), "")


def dialled_family(traffic: Traffic, service: Service) -> Family:
    """Return the family that the clients use: the one asked for, else the Service's first."""
    labels = (*filter(None, (traffic.ip_family,)), *service.ip_families, Family.IPV4.label)
    return Family.from_label(labels[0])


def node_port_ip(traffic: Traffic, node: ClusterNode, family: Family) -> str:
    """Return the address at which the clients dial a node's port; empty if there is none of this family."""
    if traffic.address is not None:
        return traffic.address
    return node.ip(family) if traffic.interface is None else node.ip_on(traffic.interface, family)


def dialled_addresses(
    service: Service, port: ServicePortSpec | None, via: Via, *, inside: bool = False, proxied: bool = False
) -> tuple[Sequence[str], int]:
    """Return the Service's addresses of a kind and the port there.

    No addresses: the nodes' own are used. Port 0: there is nothing to dial. A load balancer of ipMode Proxy is dialled
    by clients ``inside``; for those outside it dials a node port. So does every one that is a proxy (``proxied``).
    """
    if port is None:
        return (), 0
    match via:
        case Via.CLUSTER_IP:
            return service.cluster_ips or (service.cluster_ip,), port.port
        case Via.EXTERNAL_IP:
            return service.external_ips, port.port if service.external_ips else 0
        case Via.NODE_PORT:
            return (), port.node_port
        case Via.LOAD_BALANCER:
            vips = _vips(service)
            if not inside and proxied:
                return (), port.node_port
            if vips:
                return vips, port.port
            if not inside:
                return (), port.node_port
            proxies = [ingress.ip for ingress in service.ingress if ingress.ip]
            return proxies, port.port if port.node_port and proxies else 0


def _vips(service: Service) -> list[str]:
    return [ingress.ip for ingress in service.ingress if ingress.ip and ingress.ip_mode in (None, "VIP")]


def port_of(service: Service, wanted: int | str | None) -> ServicePortSpec | None:
    """Return the Service port with this number or name, or None. Without a wish it is the first port."""
    return next((port for port in service.ports if wanted in (None, port.port, port.name)), None)


def service_port_name(service: Service, port: ServicePortSpec) -> str:
    """Return ``namespace/name:port``, without the colon if the port has no name."""
    name = f"{service.metadata.namespace}/{service.metadata.name}"
    return f"{name}:{port.name}" if port.name else name


def lacking(traffic: Traffic, service: Service, family: Family, *, proxied: bool = False) -> str:
    """Say what the Service lacks that the clients would dial."""
    name, port = qualified(traffic.service), port_of(service, traffic.port)
    if port is None:
        return f"Service {name} has no port {traffic.port}"
    match traffic.via:
        case Via.NODE_PORT:
            return f"Service {name} has no node port"
        case Via.LOAD_BALANCER:
            if not port.node_port and (proxied or not _vips(service)):
                return f"Service {name} has no node port that its load balancer could dial"
            return f"Service {name} has no load balancer IP of family {family.label}"
        case Via.EXTERNAL_IP:
            return f"Service {name} has no external IP of family {family.label}"
        case Via.CLUSTER_IP:
            return f"Service {name} has no cluster IP of family {family.label}"


def policy_of(traffic: Traffic, service: Service) -> str:
    """Return the traffic policy that applies to what the clients dial."""
    internal = traffic.via is Via.CLUSTER_IP
    return (service.internal_traffic_policy if internal else service.external_traffic_policy) or "Cluster"


def is_inside(traffic: Traffic) -> bool:
    """Return whether the clients are pods or nodes."""
    return traffic.origin is not Origin.OUTSIDE
