"""Clusters of few nodes with several Services of the same kinds, whose endpoints are spread at random: what grouping is for."""

import json
from typing import Any

from kpsim.verify.drawing.choices import Choices, SeededChoices

NODES = ("node-1", "node-2", "node-3")
_CONFIG = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "clusterCIDR": "10.180.0.0/16,fd00:180::/48",
}  # fmt: skip


def mixed(seed: int, services: int = 6, *, dual: bool = False, endpoints: int = 5) -> str:
    """A manifest of ``services`` Services with fewer than ``endpoints`` endpoints each."""
    draws = SeededChoices(seed, "mixed")
    items = [_node(number + 1, dual) for number in range(len(NODES))]
    kinds = [_spec(draws) for _ in range(2)]
    for number in range(services):
        spec = json.loads(json.dumps(kinds[draws.below(2)]))
        items += _service(draws, number, spec, draws.below(endpoints), dual)
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [*items, _CONFIG]})


def _node(number: int, dual: bool) -> dict[str, Any]:
    addresses = [f"192.168.0.{number}", *([f"fd00:168::{number}"] if dual else [])]
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": f"node-{number}", "labels": {"topology.kubernetes.io/zone": f"zone-{number % 2}"}},
        "spec": {"podCIDRs": [f"10.180.{number}.0/24", *([f"fd00:180:0:{number}::/64"] if dual else [])]},
        "status": {"addresses": [{"type": "InternalIP", "address": each} for each in addresses]},
    }  # fmt: skip


def _spec(draws: Choices) -> dict[str, Any]:
    """What Services of one kind have in common."""
    kind = ("ClusterIP", "NodePort", "LoadBalancer")[draws.below(3)]
    ports = [
        {"name": f"p{number}", "port": 80 + number, "targetPort": 8080 + number} for number in range(1 + draws.below(2))
    ]
    spec: dict[str, Any] = {"type": kind, "ports": ports}
    if not draws.below(3):
        spec["sessionAffinity"] = "ClientIP"
    if not draws.below(4):
        spec["internalTrafficPolicy"] = "Local"
    if kind != "ClusterIP" and not draws.below(3):
        spec["externalTrafficPolicy"] = "Local"
    if kind == "LoadBalancer" and not draws.below(3):
        spec["loadBalancerSourceRanges"] = ["203.0.113.0/24"]
    return spec


def _service(draws: Choices, number: int, spec: dict[str, Any], count: int, dual: bool) -> list[dict[str, Any]]:
    name, metadata = f"svc-{number}", {"namespace": "shop", "name": f"svc-{number}"}
    ips = [f"172.30.0.{number + 1}", *([f"fd00:30::{number + 1}"] if dual else [])]
    for place, port in enumerate(spec["ports"]):
        if spec["type"] != "ClusterIP":
            port["nodePort"] = 30000 + 10 * number + place
    if spec["type"] == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local":
        spec["healthCheckNodePort"] = 31000 + number
    ingress = [{"ip": f"198.51.100.{number + 1}"}] if spec["type"] == "LoadBalancer" else []
    nodes = [draws.below(len(NODES)) + 1 for _ in range(count)]
    odd = draws.below(12)  # a few endpoints that are nobody's like: a node's own, one outside, one of two Services
    families = ("IPv4", "IPv6")[: len(ips)]
    found: list[dict[str, Any]] = [
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {**metadata, "uid": name},
            "spec": {**spec, "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": list(families), "ipFamilyPolicy": "PreferDualStack"},
            "status": {"loadBalancer": {"ingress": ingress}},
        }
    ]  # fmt: skip
    for family in families:
        places = [_address(family, number, place, node) for place, node in enumerate(nodes)]
        if places and odd < 3 and family == "IPv4":
            places[0] = (f"192.168.0.{nodes[0]}", "10.99.0.7", f"10.180.{nodes[0]}.250")[odd]
        found.append({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {
                "namespace": "shop", "name": f"{name}-{family.lower()}",
                "labels": {
                    "kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name, "uid": name}],
            },
            "ports": [{"name": each["name"], "port": each["targetPort"], "protocol": "TCP"} for each in spec["ports"]],
            "endpoints": [
                {
                    "addresses": [address], "conditions": {"ready": True, "serving": True, "terminating": False},
                    "nodeName": f"node-{node}", "zone": f"zone-{node % 2}",
                }
                for address, node in zip(places, nodes, strict=True)
            ],
        })  # fmt: skip
    return found


def _address(family: str, number: int, place: int, node: int) -> str:
    return (
        f"10.180.{node}.{10 + number * 12 + place}"
        if family == "IPv4"
        else f"fd00:180:0:{node}::{number + 1:x}{place:02x}"
    )
