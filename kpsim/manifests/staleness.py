"""Remarks on EndpointSlices that the slice controller would write otherwise: after an edit of a Service, Pod or Node.

Slices are read as they are given, because kube-proxy reads those of the cluster. If a person has changed a Service in a
dump, they are those of before; a controller would have written others (CP-3.4, CP-3.8, CP-3.9).
"""

from collections.abc import Iterable, Iterator, Sequence

from kpsim.endpointslices import CONTROLLER_NAME, LABEL_MANAGED_BY, address_types, selects
from kpsim.endpointslices.endpoints import endpoint_of, pod_belongs
from kpsim.endpointslices.hints import auto_hints_wanted
from kpsim.objects import EndpointSlice, Node, Pod, Service, SliceEndpoint

_ADVICE = "leave these slices out, and they are derived from Pods"


def staleness_notes(objects: Sequence[object]) -> list[str]:
    """Return remarks on the given slices that the controller manages, by what would be otherwise."""
    pods = _PodIndex(obj for obj in objects if isinstance(obj, Pod))
    nodes = [obj for obj in objects if isinstance(obj, Node)]
    by_service: dict[tuple[str, str], list[EndpointSlice]] = {}
    for obj in objects:
        if isinstance(obj, EndpointSlice) and obj.metadata.labels.get(LABEL_MANAGED_BY) == CONTROLLER_NAME:
            by_service.setdefault((obj.metadata.namespace, obj.service_name), []).append(obj)
    found: dict[str, list[str]] = {}
    for service in (obj for obj in objects if isinstance(obj, Service)):
        slices = by_service.get((service.metadata.namespace, service.metadata.name))
        if not slices or not service.selector or service.type == "ExternalName":
            continue
        for reason in dict.fromkeys(_differences(service, slices, pods, nodes)):
            found.setdefault(reason, []).append(f"{service.metadata.namespace}/{service.metadata.name}")
    return [
        f"EndpointSlices are read as given, but the slice controller would write others: {reason} ({_ADVICE}): "
        + ", ".join(names[:10])
        + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        for reason, names in found.items()
    ]


class _PodIndex:
    """Pods by each of their labels, so that a Service is compared with few of them."""

    def __init__(self, pods: Iterable[Pod]) -> None:
        self._by_label: dict[tuple[str, str, str], list[Pod]] = {}
        self._namespaces: set[str] = set()
        for pod in pods:
            self._namespaces.add(pod.metadata.namespace)
            for pair in pod.metadata.labels.items():
                self._by_label.setdefault((pod.metadata.namespace, *pair), []).append(pod)

    def knows(self, service: Service) -> bool:
        """Return whether any Pod of the Service's namespace was given."""
        return service.metadata.namespace in self._namespaces

    def near(self, service: Service) -> Sequence[Pod]:
        """Return the Pods with one label of the selector, the rarest: all that are selected are among them."""
        found = (self._by_label.get((service.metadata.namespace, *pair), []) for pair in service.selector.items())
        return min(found, key=len)


def _differences(
    service: Service, slices: Sequence[EndpointSlice], pods: "_PodIndex", nodes: Sequence[Node]
) -> Iterator[str]:
    types = {item.address_type for item in slices}
    if wanted := [family for family in address_types(service) if family not in types]:
        yield f"there are none of {' and '.join(wanted)}, which the Service has"
    if types - set(address_types(service)):
        yield "there are some of a family that the Service does not have"
    yield from _port_differences(service, slices)
    endpoints = [endpoint for item in slices for endpoint in item.endpoints]
    yield from _hint_differences(service, endpoints, nodes)
    if service.publish_not_ready_addresses and any(endpoint.ready is False for endpoint in endpoints):
        yield "publishNotReadyAddresses makes every endpoint ready"
    if pods.knows(service) and not _made_of(service, pods.near(service), nodes, endpoints):
        yield "the Pods that were given make other endpoints"


def _port_differences(service: Service, slices: Iterable[EndpointSlice]) -> Iterator[str]:
    numbers = {
        (port.name, port.protocol): port.target_port if isinstance(port.target_port, int) else None
        for port in service.ports
    }
    for item in slices:
        for port in item.ports:
            key = (port.name or "", port.protocol)
            if key not in numbers:
                yield "they have a port that the Service does not have"
            elif numbers[key] not in (None, 0, port.port):
                yield "they have another port number than targetPort"
    shown = {(port.name or "", port.protocol) for item in slices for port in item.ports}
    if any(endpoint for item in slices for endpoint in item.endpoints) and any(
        number is not None and key not in shown for key, number in numbers.items()
    ):
        yield "they lack a port of the Service"


def _hint_differences(service: Service, endpoints: Iterable[SliceEndpoint], nodes: Sequence[Node]) -> Iterator[str]:
    if auto_hints_wanted(service):
        return  # mode Auto hints as all endpoints and CPUs together allow
    zones = {node.metadata.name: node.zone for node in nodes}
    for endpoint in endpoints:
        zone = zones.get(endpoint.node_name or "", endpoint.zone) or ""
        if endpoint.node_name in zones and zone != (endpoint.zone or ""):
            yield "they name other zones than the labels of the Nodes"
        if not endpoint.ready:
            continue  # an endpoint that is not ready keeps the hints that it had (CP-3.9)
        wanted_zones, wanted_nodes = _wanted_hints(service, endpoint)
        if (endpoint.zone_hints, endpoint.node_hints) != (wanted_zones, wanted_nodes):
            asked = service.traffic_distribution
            yield (
                f"trafficDistribution {asked} makes other hints"
                if asked
                else "without trafficDistribution there are no hints"
            )


def _wanted_hints(service: Service, endpoint: SliceEndpoint) -> tuple[frozenset[str], frozenset[str]]:
    none: frozenset[str] = frozenset()
    match service.traffic_distribution:
        case "PreferClose" | "PreferSameZone":
            return frozenset({endpoint.zone}) if endpoint.zone else none, none
        case "PreferSameNode":
            zone = frozenset({endpoint.zone}) if endpoint.zone else none
            return zone, frozenset({endpoint.node_name}) if endpoint.node_name else none
        case _:
            return none, none


def _made_of(service: Service, pods: Iterable[Pod], nodes: Sequence[Node], endpoints: Iterable[SliceEndpoint]) -> bool:
    """Return whether the Pods make these endpoints (CP-3.4). Without Nodes, every node that a Pod names is taken to exist."""
    known = {node.metadata.name for node in nodes}
    placed = [
        pod
        for pod in pods
        if selects(service, pod.metadata.labels)
        and pod_belongs(pod)
        and pod.node_name
        and (not known or pod.node_name in known)
    ]
    made = (endpoint_of(pod, None, service, address_type) for pod in placed for address_type in address_types(service))
    return sorted(_seen(each) for each in made if each.addresses) == sorted(map(_seen, endpoints))


def _seen(endpoint: SliceEndpoint) -> tuple[tuple[str, ...], str, bool, bool, bool]:
    """Return what kube-proxy reads of an endpoint besides zone and hints. Absent conditions have their meaning (O-6.3)."""
    ready = endpoint.ready is not False
    serving = ready if endpoint.serving is None else endpoint.serving
    return endpoint.addresses, endpoint.node_name or "", ready, serving, bool(endpoint.terminating)
