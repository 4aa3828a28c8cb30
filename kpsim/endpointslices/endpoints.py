"""Makes the endpoint of a Pod in a Service's slices (CP-3.4, O-10). ``packing`` chooses the slice."""

from kpsim.addresses import Family, canonical_ip, parse_ip
from kpsim.objects import Node, Pod, Service, SliceEndpoint, SlicePort, TargetRef


def pod_belongs(pod: Pod) -> bool:
    """Return whether a selected pod is an endpoint at all. A terminating pod is one (CP-3.4.1)."""
    return pod.phase not in ("Succeeded", "Failed") and bool(pod.ips)


def endpoint_of(pod: Pod, node: Node | None, service: Service, address_type: str) -> SliceEndpoint:
    """Return the endpoint of a pod with all three conditions set (CP-3.4.2, CP-3.4.3).

    It has no addresses if the pod has none of the family.
    """
    terminating = pod.terminating
    named = pod.hostname and pod.subdomain == service.metadata.name and _same_namespace(pod, service)
    return SliceEndpoint(
        addresses=tuple(canonical_ip(ip) or ip for ip in pod.ips if _address_type(ip) == address_type),
        ready=service.publish_not_ready_addresses or (pod.ready and not terminating),
        serving=pod.ready,
        terminating=terminating,
        node_name=pod.node_name or None,
        zone=(node.zone or None) if node else None,
        hostname=pod.hostname if named else None,
        target_ref=TargetRef("Pod", pod.metadata.namespace, pod.metadata.name, pod.metadata.uid),
    )


def _same_namespace(pod: Pod, service: Service) -> bool:
    return pod.metadata.namespace == service.metadata.namespace


def _address_type(ip: str) -> str:
    """Take what is no address for IPv4, as the controller does. kube-proxy drops it later (O-6)."""
    found = parse_ip(ip)
    return found[0].label if found else Family.IPV4.label


def endpoint_ports(service: Service, pod: Pod) -> tuple[SlicePort, ...]:
    """Return the slice ports that the Service has on this pod.

    A named port that the pod lacks is left out (CP-3.4.4).
    """
    ports = []
    for port in service.ports:
        number = find_port(pod, port.target_port, port.protocol)
        if number is not None:
            ports.append(SlicePort(port.name, port.protocol, number, port.app_protocol))
    return tuple(ports)


def find_port(pod: Pod, target_port: int | str, protocol: str) -> int | None:
    """Return the container port that ``target_port`` means.

    A number is returned as it is. A name is found by the first match of name and protocol.
    """
    if isinstance(target_port, int):
        return target_port
    return next((p.port for p in pod.container_ports if p.name == target_port and p.protocol == protocol), None)
