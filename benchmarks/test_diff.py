"""How long it takes to say what two modes do differently in a cluster. The extra info tells classes, differences and memory."""

import json
import resource
from collections.abc import Iterable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kpsim.bulk import without_collector
from kpsim.comparison.behaviour.report import Report, Subject, report
from kpsim.explore import load
from kpsim.verify.drawing.choices import SeededChoices

_ENDPOINTS = 10


def _node(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{number}"},
        "spec": {"podCIDRs": [f"10.{180 + number}.0.0/16"]},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.0.{number}"}]},
    }  # fmt: skip


def _service(number: int) -> dict[str, Any]:
    """Every tenth has a node port."""
    port: dict[str, Any] = {"name": "http", "port": 80, "targetPort": 8080}
    if number % 10 == 0:
        port["nodePort"] = 30000 + number // 10
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": f"team-{number % 20}", "name": f"svc-{number}"},
        "spec": {
            "type": "NodePort" if number % 10 == 0 else "ClusterIP", "ipFamilies": ["IPv4"], "ports": [port],
            "clusterIP": f"172.30.{number // 250}.{number % 250 + 1}",
        },
    }  # fmt: skip


def _slice(number: int, pods: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """``pods``: of each endpoint its node, and which of the node's pods it is."""
    endpoints = []
    for node, place in pods:
        address = f"10.{180 + node}.{place // 250}.{place % 250 + 2}"
        endpoints.append({"addresses": [address], "conditions": {"ready": True}, "nodeName": f"node-{node}"})
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "namespace": f"team-{number % 20}", "name": f"svc-{number}-x",
            "labels": {"kubernetes.io/service-name": f"svc-{number}"},
        },
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    }  # fmt: skip


def _manifest(services: int, nodes: int, spread: str) -> str:
    """Endpoints are on the nodes in rotation, or at random: then hardly two Services have as many on each node."""
    items = [_node(number + 1) for number in range(nodes)]
    draws = SeededChoices(1, "endpoints")
    counts = dict.fromkeys(range(1, nodes + 1), 0)
    for number in range(services):
        pods = []
        for pod in range(number * _ENDPOINTS, (number + 1) * _ENDPOINTS):
            node = 1 + (draws.below(nodes) if spread == "random" else pod % nodes)
            pods.append((node, counts[node]))
            counts[node] += 1
        items += [_service(number), _slice(number, pods)]
    items.append({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "clusterCIDR": "10.128.0.0/9",
    })  # fmt: skip
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


@pytest.mark.parametrize(
    ("services", "nodes", "spread"),
    [
        (100, 1, "rotation"), (100, 3, "rotation"), (100, 3, "random"), (1000, 1, "rotation"), (1000, 3, "rotation"),
        (1000, 3, "random"),
    ],
)  # fmt: skip
def test_two_modes(benchmark: BenchmarkFixture, services: int, nodes: int, spread: str) -> None:
    """1,000 Services: at most 60 s of processor time."""
    text = _manifest(services, nodes, spread)

    def compared() -> Report:
        sides = (Subject.of(load(text=text, mode=mode)) for mode in ("iptables", "nftables"))
        with without_collector():
            return report(*sides)

    found = benchmark.pedantic(compared, rounds=1)
    assert len(found.records) > 15 * services * nodes
    benchmark.extra_info["classes"] = found.classes
    benchmark.extra_info["differences"] = len(found.records)
    benchmark.extra_info["MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
