"""How long a survey takes: of many Services as they are, and of few under every policy. The extra info tells rows and memory."""

import json
import resource
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kpsim.explore import Cluster, load
from kpsim.surveys import Survey, survey
from kpsim.surveys.settings import Setting

_NODES, _ENDPOINTS = 3, 10


def _node(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": f"node-{number}", "labels": {"topology.kubernetes.io/zone": f"zone-{number % 2}"}},
        "spec": {"podCIDR": f"10.{180 + number}.0.0/16"},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.0.{number}"}]},
    }  # fmt: skip


def _service(number: int, kind: str) -> dict[str, Any]:
    port: dict[str, Any] = {"name": "http", "port": 80, "targetPort": 8080}
    if kind != "ClusterIP":
        port["nodePort"] = 30000 + number
    ingress = [{"ip": f"198.51.{100 + number // 250}.{number % 250 + 1}"}] if kind == "LoadBalancer" else []
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": f"team-{number % 20}", "name": f"svc-{number}", "uid": f"uid-{number}"},
        "spec": {
            "type": kind, "ipFamilies": ["IPv4"], "ports": [port], "selector": {"app": f"svc-{number}"},
            "clusterIP": f"172.30.{number // 250}.{number % 250 + 1}",
        },
        "status": {"loadBalancer": {"ingress": ingress}},
    }  # fmt: skip


def _slice(number: int, count: int) -> dict[str, Any]:
    endpoints = []
    for pod in range(number * count, (number + 1) * count):
        node, place = pod % _NODES + 1, pod // _NODES
        endpoints.append({
            "addresses": [f"10.{180 + node}.{place // 250}.{place % 250 + 2}"], "conditions": {"ready": True},
            "nodeName": f"node-{node}", "zone": f"zone-{node % 2}",
            "targetRef": {"kind": "Pod", "namespace": f"team-{number % 20}", "name": f"pod-{pod}"},
        })  # fmt: skip
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "namespace": f"team-{number % 20}", "name": f"svc-{number}-x",
            "labels": {
                "kubernetes.io/service-name": f"svc-{number}",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": f"svc-{number}", "uid": f"uid-{number}"}],
        },
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    }  # fmt: skip


def _cluster(kinds: Iterator[str], endpoints: int, mode: str = "iptables") -> Cluster:
    items = [_node(number + 1) for number in range(_NODES)]
    for number, kind in enumerate(kinds):
        items += [_service(number, kind), _slice(number, endpoints)]
    items.append({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "clusterCIDR": "10.128.0.0/9",
    })  # fmt: skip
    return load(text=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}), mode=mode)


def _told(benchmark: BenchmarkFixture, found: Survey) -> None:
    benchmark.extra_info["rows"] = len(found.rows)
    benchmark.extra_info["MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
@pytest.mark.parametrize("kinds", ["every tenth a node port", "load balancers"])
def test_many_services(benchmark: BenchmarkFixture, kinds: str, mode: str) -> None:
    """1,000 Services with ten endpoints each on three nodes, as they are: at most 60 s."""
    several = ("NodePort" if number % 10 == 0 else "ClusterIP" for number in range(1000))
    cluster = _cluster(several if kinds != "load balancers" else iter(["LoadBalancer"] * 1000), _ENDPOINTS, mode)
    found = benchmark.pedantic(survey, (cluster,), rounds=1)
    assert {row.works for row in found.rows if row.client != "peer"} == {1}
    _told(benchmark, found)


def test_every_policy(benchmark: BenchmarkFixture) -> None:
    """Twelve Services with three endpoints each on three nodes, under every value of every setting: at most 5 s."""
    cluster = _cluster(iter(["ClusterIP", "NodePort", "LoadBalancer"] * 4), 3)
    found = benchmark.pedantic(survey, (cluster,), {"vary": list(Setting)}, rounds=1)
    assert len(found.rows) == 4 * 12 * 48 + 4 * 36 * 96 + 4 * 48 * 96
    _told(benchmark, found)
