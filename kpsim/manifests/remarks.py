"""Remarks on valid objects that may not do what their author expects: what kube-proxy never sees or reads (O-1, O-6).

Remarks change and refuse nothing.
"""

from collections.abc import Iterator, Sequence

from kpsim.addresses import Family, parse_ip, parse_network
from kpsim.objects import LABEL_SERVICE_PROXY_NAME, ApiObject, EndpointSlice, Pod, Service

_RANGES_ANNOTATION = "service.beta.kubernetes.io/load-balancer-source-ranges"
_LISTED = 10


def counted(number: int, noun: str) -> str:
    """``1 Pod``, ``2 Pods``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def remarks(objects: Sequence[ApiObject]) -> list[str]:
    """Return the remarks, each with the objects that it is about."""
    found: dict[str, list[str]] = {}
    services = {obj.key[1:]: obj for obj in objects if isinstance(obj, Service)}
    for obj in objects:
        name = f"{obj.metadata.namespace}/{obj.metadata.name}"
        match obj:
            case Service():
                reasons = _service_remarks(obj)
            case EndpointSlice():
                reasons = _slice_remarks(obj, services.get((obj.metadata.namespace, obj.service_name)))
            case Pod():
                reasons = _pod_remarks(obj)
            case _:
                continue
        for reason in reasons:
            found.setdefault(reason, []).append(name)
    return [f"{reason}: {_names(names)}" for reason, names in found.items()]


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"


def _service_remarks(service: Service) -> Iterator[str]:
    if LABEL_SERVICE_PROXY_NAME in service.metadata.labels:
        yield f"kube-proxy is never told of Services with the label {LABEL_SERVICE_PROXY_NAME} (O-1.1)"
    if _RANGES_ANNOTATION in service.metadata.annotations:
        yield f"kube-proxy does not read the annotation {_RANGES_ANNOTATION}, only spec.loadBalancerSourceRanges"
    if service.type == "LoadBalancer" and not any(entry.ip for entry in service.ingress):
        yield "load balancers without an address in status.loadBalancer.ingress"
        entries = (((service.json.get("status") or {}).get("loadBalancer") or {}).get("ingress")) or []
        if any(entry.get("hostname") for entry in entries):
            yield "kube-proxy does not read host names of load balancers, only addresses"
    if (service.json.get("spec") or {}).get("loadBalancerIP"):
        yield "kube-proxy does not read spec.loadBalancerIP, only addresses in status.loadBalancer.ingress"
    if service.type == "ExternalName":
        yield "kube-proxy makes no rules for Services of type ExternalName; their names resolve to other names (O-4.2)"
    elif service.cluster_ip == "None":
        yield "kube-proxy is never told of headless Services; their names resolve to pods (O-1.1)"
    for family in _unrestricted(service):
        yield f"loadBalancerSourceRanges without {family.label}: its load balancer addresses let every client in (O-5.4)"


def _unrestricted(service: Service) -> Iterator[Family]:
    """The families whose load balancer addresses no range restricts, although ranges of the other family are given."""
    ranges = {net.family for text in service.load_balancer_source_ranges if (net := parse_network(text.strip()))}
    if service.type != "LoadBalancer" or not ranges:
        return
    served = {parsed[0] for entry in service.ingress if (parsed := parse_ip(entry.ip)) and entry.ip_mode != "Proxy"}
    yield from (family for family in Family if family in served - ranges and family.label in service.ip_families)


def _pod_remarks(pod: Pod) -> Iterator[str]:
    spec = pod.json.get("spec") or {}
    containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    if any(port.get("hostPort") for container in containers for port in container.get("ports") or []):
        yield "host ports are the network plugin's, and not modelled"


def _slice_remarks(made: EndpointSlice, service: Service | None) -> Iterator[str]:
    if made.address_type == "FQDN":
        yield "kube-proxy ignores EndpointSlices of address type FQDN"
    if not made.service_name:
        yield "kube-proxy ignores EndpointSlices without the label kubernetes.io/service-name (O-6.1)"
    elif service is None:
        yield "EndpointSlices whose Service is not among the objects"
    elif made.endpoints and not service.ports:
        return
    elif made.endpoints:
        wanted = {(port.name, port.protocol) for port in service.ports}
        if not any((port.name, port.protocol) in wanted for port in made.ports):
            yield "EndpointSlices with no port of the name and protocol of a port of their Service (O-6.2)"
    if made.endpoints and any(port.port is None for port in made.ports):
        yield "kube-proxy skips ports without a number in EndpointSlices (O-6.2)"
