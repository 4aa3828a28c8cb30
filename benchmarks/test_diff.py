"""How long it takes to say what two modes do differently in a cluster. The extra info tells classes, differences and memory."""

import json
import resource
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kpsim.bulk import without_collector
from kpsim.comparison.behaviour.report import Report, Subject, report
from kpsim.explore import load

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


def _slice(number: int, nodes: int) -> dict[str, Any]:
    endpoints = []
    for pod in range(number * _ENDPOINTS, (number + 1) * _ENDPOINTS):
        node, place = pod % nodes + 1, pod // nodes
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


def _manifest(services: int, nodes: int) -> str:
    items = [_node(number + 1) for number in range(nodes)]
    for number in range(services):
        items += [_service(number), _slice(number, nodes)]
    items.append({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "clusterCIDR": "10.128.0.0/9",
    })  # fmt: skip
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


@pytest.mark.parametrize(("services", "nodes"), [(100, 1), (100, 3), (1000, 1), (1000, 3)])
def test_two_modes(benchmark: BenchmarkFixture, services: int, nodes: int) -> None:
    """1,000 Services at one node: at most 60 s of processor time."""
    text = _manifest(services, nodes)

    def compared() -> Report:
        sides = (Subject.of(load(text=text, mode=mode)) for mode in ("iptables", "nftables"))
        with without_collector():
            return report(*sides)

    found = benchmark.pedantic(compared, rounds=1)
    assert len(found.records) > 15 * services * nodes
    benchmark.extra_info["classes"] = found.classes
    benchmark.extra_info["differences"] = len(found.records)
    benchmark.extra_info["MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
