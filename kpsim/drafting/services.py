"""Makes the objects of a draft: Services, EndpointSlices that no controller writes, ServiceCIDRs. What the API server fills in is left out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kpsim.addresses import Family
from kpsim.cluster import ClusterState
from kpsim.drafting.part import Ledger, Part, listed
from kpsim.endpointslices import has_managed_slices, slices_of
from kpsim.inputs import Json
from kpsim.objects import (
    LABEL_HEADLESS,
    LABEL_SERVICE_NAME,
    LABEL_SERVICE_PROXY_NAME,
    EndpointSlice,
    Service,
    ServiceCIDR,
)

#: the labels and annotations of a Service that decide where packets go (O-1.1, CP-3.8)
_LABELS = (LABEL_SERVICE_PROXY_NAME,)
_ANNOTATIONS = ("service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints")

#: values that the API server fills in
_DEFAULTS: Mapping[str, Any] = {
    "sessionAffinity": "None",
    "internalTrafficPolicy": "Cluster",
    "externalTrafficPolicy": "Cluster",
    "allocateLoadBalancerNodePorts": True,
    "publishNotReadyAddresses": False,
    "healthCheckNodePort": 0,
    "type": "ClusterIP",
    "ipFamilyPolicy": "SingleStack",
}
_AFFINITY = {"clientIP": {"timeoutSeconds": 10800}}


def service_part(service: Service, families: Sequence[Family]) -> Part:
    """Return the Service without what the API server fills in, nor metadata that decides nothing."""
    spec = service.json.get("spec") or {}
    kept = Part({key: value for key, value in spec.items() if not _is_default(key, value, spec, families)})
    if "ports" in kept:
        kept["ports"] = [_port(port) for port in kept["ports"] or []]
    for key in ("selector", "sessionAffinityConfig"):
        if isinstance(kept.get(key), Mapping):
            kept[key] = Part(dict(kept[key]), flow=True)
    part = Part({"apiVersion": "v1", "kind": "Service"})
    part["metadata"] = _metadata(service)
    part["spec"] = kept
    if ingress := _ingress(service):
        part["status"] = Part({"loadBalancer": Part({"ingress": ingress})})
    return part


def _is_default(key: str, value: Any, spec: Json, families: Sequence[Family]) -> bool:
    if value is None or value in ("", [], {}):
        return True
    if key == "clusterIPs":
        return bool(value == [spec.get("clusterIP")])
    if key == "ipFamilies":
        single = spec.get("ipFamilyPolicy") in (None, "SingleStack")
        return single and value == [families[0].label] if families else False
    if key == "sessionAffinityConfig":
        return spec.get("sessionAffinity") in (None, "", "None") or bool(value == _AFFINITY)
    return key in _DEFAULTS and value == _DEFAULTS[key]


def _port(port: Json) -> Part:
    part = Part(flow=True)
    for key in ("name", "port", "protocol", "targetPort", "nodePort", "appProtocol"):
        value = port.get(key)
        if value in (None, "", 0) or (key, value) in (("protocol", "TCP"), ("targetPort", port.get("port"))):
            continue
        part[key] = value
    return part


def _metadata(obj: Service | EndpointSlice, labels: Iterable[str] = _LABELS) -> Part:
    part = Part({"name": obj.metadata.name, "namespace": obj.metadata.namespace}, flow=True)
    for field, given, deciding in (
        ("labels", obj.metadata.labels, labels),
        ("annotations", obj.metadata.annotations, _ANNOTATIONS),
    ):
        kept = {key: given[key] for key in deciding if key in given}
        if kept:
            part[field] = Part(kept, flow=True)
    return part


def _ingress(service: Service) -> list[Part]:
    status = (service.json.get("status") or {}).get("loadBalancer") or {}
    made = []
    for entry in status.get("ingress") or []:
        kept = {key: entry[key] for key in ("ip", "hostname", "ipMode") if entry.get(key)}
        if kept.get("ipMode") == "VIP":
            del kept["ipMode"]
        made.append(Part(kept, flow=True))
    return made


def hand_written(
    state: ClusterState, services: Sequence[Service], shown: frozenset[tuple[str, str]], ledger: Ledger
) -> Iterator[EndpointSlice]:
    """Yield the slices that the scenario's slice controller does not write, sorted by name.

    ``shown`` are slices whose endpoints became pods.
    """
    by_name = {(service.metadata.namespace, service.metadata.name): service for service in services}
    known = {(service.metadata.namespace, service.metadata.name) for service in state.services}
    orphans = []
    for item in state.endpoint_slices:
        service = by_name.get((item.metadata.namespace, item.service_name))
        if (item.metadata.namespace, item.metadata.name) in shown:
            continue
        if service is None and (item.metadata.namespace, item.service_name) in known:
            continue  # of a Service that was not asked for
        if service is None:
            orphans.append(f"{item.metadata.namespace}/{item.metadata.name}")
        elif item.address_type == "FQDN":
            ledger.leave_out("EndpointSlices of FQDNs, which kube-proxy does not read (O-6)", item.metadata.name)
        elif not has_managed_slices(service) or not slices_of(service, [item]):
            yield item
    if orphans:
        ledger.leave_out(f"EndpointSlices of no Service that was given: {listed(orphans)}")


def slice_part(item: EndpointSlice) -> Part:
    """Return an EndpointSlice without metadata that decides nothing."""
    part = Part({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"})
    part["metadata"] = _metadata(item, (LABEL_SERVICE_NAME, LABEL_HEADLESS))
    part["addressType"] = item.address_type
    part["ports"] = [Part(dict(port), flow=True) for port in item.json.get("ports") or []]
    part["endpoints"] = [
        Part({key: value for key, value in endpoint.items() if key in _OF_ENDPOINT and value}, flow=True)
        for endpoint in item.json.get("endpoints") or []
    ]
    return part


_OF_ENDPOINT = ("addresses", "conditions", "hints", "nodeName", "zone")


def cidr_parts(cidr: ServiceCIDR) -> Iterator[Part]:
    """Yield a ServiceCIDR, whose ranges nftables mode knows (NFT-5.9). Recordings may have more than one object can hold: they become several."""
    families = [":" in text for text in cidr.cidrs]
    fits = len(set(families)) == len(families)
    for number, own in enumerate([cidr.cidrs] if fits else [(each,) for each in cidr.cidrs]):
        part = Part({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR"})
        part["metadata"] = Part(
            {"name": f"{cidr.metadata.name}-{number + 1}" if number else cidr.metadata.name}, flow=True
        )
        part["spec"] = Part({"cidrs": list(own)}, flow=True)
        yield part
