"""One sync of one Service's Endpoints object (CP-4.1, CP-4.2).

Counterpart: the endpoints controller. Its queue and retries are in ``kpsim.simulation.endpointscontroller``.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from kpsim.endpoints.subsets import count_addresses, repacked
from kpsim.endpointslices import address_types
from kpsim.endpointslices.endpoints import endpoint_of, endpoint_ports, pod_belongs
from kpsim.endpointslices.rendering import port_json
from kpsim.inputs import Json
from kpsim.objects import (
    ANNOTATION_TRIGGER_TIME,
    CLUSTER_IP_NONE,
    LABEL_HEADLESS,
    EndpointAddress,
    Endpoints,
    EndpointSubset,
    Metadata,
    Pod,
    Service,
)
from kpsim.units import format_rfc3339

MOST_ADDRESSES = 1000  #: of a truncated object
ANNOTATION_OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
LABEL_ENDPOINTS_MANAGED_BY = "endpoints.kubernetes.io/managed-by"
CONTROLLER_NAME = "endpoint-controller"


def reconcile_endpoints(
    service: Service,
    listed: Iterable[EndpointSubset],
    current: Endpoints | None,
    *,
    trigger_time_ns: int | None,
    truncated: bool = True,
) -> Endpoints | None:
    """Return the object that the controller writes for a Service with selector, or None if the current one can stay.

    ``listed`` is what :func:`subset_of` says of each pod that the Service selects. ``current`` is the object as the controller last saw it. An object that is over its
    capacity is written at every sync, as upstream compares it with all that it would hold. Without ``truncated`` it holds all
    addresses, as before Kubernetes 1.22.
    """
    wanted = repacked(listed)
    over = truncated and count_addresses(wanted) > MOST_ADDRESSES
    labels = dict(service.metadata.labels)
    labels[LABEL_ENDPOINTS_MANAGED_BY] = CONTROLLER_NAME
    if service.cluster_ip in ("", CLUSTER_IP_NONE):
        labels[LABEL_HEADLESS] = ""
    if current is not None and not over and _says(current, wanted, labels):
        return None
    annotations = dict(current.metadata.annotations) if current else {}
    annotations.pop(ANNOTATION_TRIGGER_TIME, None)
    annotations.pop(ANNOTATION_OVER_CAPACITY, None)
    if trigger_time_ns is not None:
        annotations[ANNOTATION_TRIGGER_TIME] = format_rfc3339(trigger_time_ns)
    if over:
        annotations[ANNOTATION_OVER_CAPACITY] = "truncated"
        wanted = tuple(_truncated(wanted))
    return _rendered(service, current, labels, annotations, wanted)


def _says(current: Endpoints, wanted: tuple[EndpointSubset, ...], labels: dict[str, str]) -> bool:
    """Return whether the object holds these addresses and labels, and does not say that it was truncated."""
    meta = current.metadata
    return (
        ANNOTATION_OVER_CAPACITY not in meta.annotations
        and dict(meta.labels) == labels
        and repacked(current.subsets) == wanted
    )


def subset_of(service: Service, pod: Pod) -> EndpointSubset | None:
    """Return a selected pod with its ports, or None if it is not listed.

    A terminating pod is left out unless not-ready addresses are published. Without any port a pod is listed only if the Service is
    headless and has no ports.
    """
    published = service.publish_not_ready_addresses
    if not pod_belongs(pod) or (pod.terminating and not published):
        return None
    endpoint = endpoint_of(pod, None, service, address_types(service)[0])
    ports = endpoint_ports(service, pod)
    if not endpoint.addresses or (not ports and (service.ports or service.cluster_ip != CLUSTER_IP_NONE)):
        return None
    address = EndpointAddress(endpoint.addresses[0], endpoint.hostname or "", endpoint.node_name, endpoint.target_ref)
    ready, not_ready = ((address,), ()) if published or pod.ready else ((), (address,))
    return EndpointSubset(ready, not_ready, ports)


def _truncated(subsets: Sequence[EndpointSubset]) -> Iterator[EndpointSubset]:
    """Yield the subsets with `MOST_ADDRESSES` addresses together. Ready addresses go before those that are not."""
    ready = sum(len(subset.addresses) for subset in subsets)
    cut_ready = ready > MOST_ADDRESSES
    total = ready if cut_ready else count_addresses(subsets) - ready
    allowed = room = MOST_ADDRESSES if cut_ready else MOST_ADDRESSES - ready
    for subset in subsets:
        group = subset.addresses if cut_ready else subset.not_ready
        share = min(room, math.ceil(len(group) / total * allowed))
        room -= share
        if cut_ready:
            yield replace(subset, addresses=group[:share], not_ready=())
        else:
            yield replace(subset, not_ready=group[:share])


def _rendered(
    service: Service,
    current: Endpoints | None,
    labels: dict[str, str],
    annotations: dict[str, str],
    subsets: tuple[EndpointSubset, ...],
) -> Endpoints:
    name = service.metadata
    metadata: dict[str, Any] = {
        **(current.json["metadata"] if current else {"name": name.name, "namespace": name.namespace}),
        "labels": labels,
        "annotations": annotations,
    }
    if not annotations:
        del metadata["annotations"]
    json = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": metadata,
        "subsets": [_subset_json(subset) for subset in subsets],
    }
    uid, created = (current.metadata.uid, current.metadata.creation_timestamp) if current else ("", "")
    return Endpoints(Metadata(name.namespace, name.name, labels, annotations, uid, created), json, subsets)


def _subset_json(subset: EndpointSubset) -> Json:
    fields = {
        "addresses": [_address_json(address) for address in subset.addresses],
        "notReadyAddresses": [_address_json(address) for address in subset.not_ready],
        "ports": [port_json(port) for port in subset.ports],
    }
    return {key: value for key, value in fields.items() if value}


@lru_cache(maxsize=1 << 16)  # an object of thousands of addresses is written for each of them that changes
def _address_json(address: EndpointAddress) -> Json:
    found: dict[str, Any] = {"ip": address.ip}
    if address.hostname:
        found["hostname"] = address.hostname
    if address.node_name is not None:
        found["nodeName"] = address.node_name
    if address.target_ref is not None:
        found["targetRef"] = {key: value for key, value in address.target_ref._asdict().items() if value}
    return found
