"""The defaults that the API server fills in when an object is written (O-3.1, O-3.8). Each depends on one object alone.

Counterpart: pkg/apis/core/v1/defaults.go and its siblings. A function returns the object itself if nothing is missing,
so an object from an API server passes unchanged. No function changes its argument. ``allocation`` allocates addresses
and ports.
"""

from collections.abc import Callable, Mapping
from typing import Any

from kpsim.inputs import Json
from kpsim.manifests.validation import NAMESPACED, externally_accessible

DEFAULT_AFFINITY_SECONDS = 10800


def _with(obj: Json, **changes: Any) -> Json:
    """Return the object with these fields. None removes a field. If nothing changes, it is the same object."""
    if all(obj.get(key) == value for key, value in changes.items()):
        return obj
    return {key: value for key, value in {**obj, **changes}.items() if key not in changes or value is not None}


def default_metadata(kind: str, obj: Json) -> Json:
    """Set the namespace ``default``, as kubectl does."""
    if kind not in NAMESPACED or obj["metadata"].get("namespace"):
        return obj
    return {**obj, "metadata": {**obj["metadata"], "namespace": "default"}}


def default_service(obj: Json) -> Json:
    spec = _with(obj["spec"], type=obj["spec"].get("type") or "ClusterIP")
    kind = spec["type"]
    spec = _with(
        spec,
        sessionAffinity=spec.get("sessionAffinity") or "None",
        sessionAffinityConfig=_affinity_config(spec),
        clusterIPs=_cluster_ips(spec),
        internalTrafficPolicy=None if kind == "ExternalName" else spec.get("internalTrafficPolicy") or "Cluster",
    )
    if spec.get("ports"):
        spec = _with(spec, ports=[_service_port(port) for port in spec["ports"]])
    if externally_accessible(spec):
        spec = _with(spec, externalTrafficPolicy=spec.get("externalTrafficPolicy") or "Cluster")
    if kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is None:
        spec = _with(spec, allocateLoadBalancerNodePorts=True)
    return _service_status(obj if spec is obj["spec"] else {**obj, "spec": spec}, kind)


def _affinity_config(spec: Json) -> Json | None:
    if spec.get("sessionAffinity") != "ClientIP":
        return None
    config = spec.get("sessionAffinityConfig") or {}
    client = config.get("clientIP") or {}
    if client.get("timeoutSeconds") is not None:
        return config
    return {**config, "clientIP": {**client, "timeoutSeconds": DEFAULT_AFFINITY_SECONDS}}


def _cluster_ips(spec: Json) -> list[str] | None:
    ips: list[str] | None = spec.get("clusterIPs")
    return [spec["clusterIP"]] if spec.get("clusterIP") and not ips else ips


def _service_port(port: Json) -> Json:
    target = port.get("targetPort")
    unset = target is None or target == "" or (type(target) is int and target == 0)
    return _with(port, protocol=port.get("protocol") or "TCP", targetPort=port["port"] if unset else target)


def _service_status(obj: Json, kind: str) -> Json:
    """Set ``ipMode`` of load balancer addresses. A Service that is no load balancer loses the addresses (O-3.8)."""
    status = obj.get("status") or {}
    ingress = (status.get("loadBalancer") or {}).get("ingress")
    if not ingress:
        return obj
    if kind != "LoadBalancer":
        return {**obj, "status": {**status, "loadBalancer": {}}}
    filled = [_with(entry, ipMode=entry.get("ipMode") or "VIP") if entry.get("ip") else entry for entry in ingress]
    return obj if filled == ingress else {**obj, "status": {**status, "loadBalancer": {"ingress": filled}}}


def default_endpoint_slice(obj: Json) -> Json:
    """Set port name ``""`` and protocol TCP (O-6.2). A port without number stays without."""
    ports = obj.get("ports") or []
    filled = [_with(port, name=port.get("name") or "", protocol=port.get("protocol") or "TCP") for port in ports]
    return obj if filled == ports else {**obj, "ports": filled}


def default_endpoints(obj: Json) -> Json:
    subsets = obj.get("subsets") or []
    filled = [
        {**subset, "ports": [_with(port, protocol=port.get("protocol") or "TCP") for port in subset.get("ports") or []]}
        for subset in subsets
    ]
    return obj if filled == subsets else {**obj, "subsets": filled}


def default_node(obj: Json) -> Json:
    """Make ``podCIDR`` and ``podCIDRs[0]`` equal: they are one field in two versions of the API."""
    spec = obj.get("spec") or {}
    if spec.get("podCIDR") and not spec.get("podCIDRs"):
        return {**obj, "spec": {**spec, "podCIDRs": [spec["podCIDR"]]}}
    if spec.get("podCIDRs") and not spec.get("podCIDR"):
        return {**obj, "spec": {**spec, "podCIDR": spec["podCIDRs"][0]}}
    return obj


def default_pod(obj: Json) -> Json:
    """Set protocol TCP of container ports, and make ``podIP`` and ``podIPs[0]`` equal, which are one field."""
    spec, status = obj["spec"], obj.get("status") or {}
    for name in ("containers", "initContainers"):
        containers = spec.get(name) or []
        if any(not port.get("protocol") for container in containers for port in container.get("ports") or []):
            spec = {**spec, name: [_container(container) for container in containers]}
    if spec is not obj["spec"]:
        obj = {**obj, "spec": spec}
    if status.get("podIP") and not status.get("podIPs"):
        obj = {**obj, "status": {**status, "podIPs": [{"ip": status["podIP"]}]}}
    elif status.get("podIPs") and not status.get("podIP"):
        obj = {**obj, "status": {**status, "podIP": status["podIPs"][0]["ip"]}}
    return obj


def _container(container: Json) -> Json:
    ports = container.get("ports") or []
    return _with(container, ports=[_with(port, protocol=port.get("protocol") or "TCP") for port in ports] or None)


def _unchanged(obj: Json) -> Json:
    return obj


DEFAULTS: Mapping[str, Callable[[Json], Json]] = {
    "Service": default_service,
    "EndpointSlice": default_endpoint_slice,
    "Endpoints": default_endpoints,
    "Node": default_node,
    "Pod": default_pod,
    "ServiceCIDR": _unchanged,
}
