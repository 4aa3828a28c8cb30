"""``kpsim diff`` and ``kpsim migrate`` with a recording: what the host of a recording says is part of the cluster."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_diff import run

HOST = {
    "interfaces": [
        {"name": "lo", "addresses": ["127.0.0.1/8"]},
        {"name": "eth0", "addresses": ["192.168.0.1/24"]},
        {"name": "cni0", "addresses": ["10.180.1.1/24"]},
    ],
    "randomFully": False,
    "serviceCIDRs": ["172.30.0.0/24"],
}
CONFIG = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
    "hostnameOverride": "node-1", "clusterCIDR": "10.180.0.0/16", "nodePortAddresses": ["primary"],
    "iptables": {"localhostNodePorts": False},
}  # fmt: skip
SERVICE = {
    "kind": "Service", "apiVersion": "v1", "metadata": {"name": "web", "namespace": "shop"},
    "spec": {
        "type": "ClusterIP", "clusterIP": "172.30.0.10", "clusterIPs": ["172.30.0.10"], "ipFamilies": ["IPv4"],
        "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
    },
}  # fmt: skip
SLICE = {
    "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4", "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    "endpoints": [{"addresses": ["10.180.1.5"], "nodeName": "node-1", "conditions": {"ready": True}}],
}  # fmt: skip
NODE = {
    "kind": "Node", "apiVersion": "v1", "metadata": {"name": "node-1"}, "spec": {"podCIDRs": ["10.180.1.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.1"}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines: list[dict[str, Any]] = [{"type": "CONFIG", "ipFamily": "IPv4", "object": CONFIG, "host": HOST}]
    lines += [{"type": "ADDED", "object": each} for each in (NODE, SERVICE, SLICE)]
    lines.append({"type": "SYNC"})
    path = tmp_path_factory.mktemp("recorded") / "one.recording.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def differences(recording: Path) -> list[dict[str, Any]]:
    code, out = run("diff", recording, "--mode", "iptables", "--mode", "nftables", "--format", "json")
    assert code == 1
    found: list[dict[str, Any]] = json.loads(out)["differences"]
    return found


def met_by(differences: list[dict[str, Any]], sender: str, dst: str) -> list[dict[str, Any]]:
    return [each for each in differences if each["packets"]["from"] == sender and dst in each["packets"]["dst"]]


def test_what_an_old_iptables_keeps_is_told_as_the_source_port(differences: list[dict[str, Any]]) -> None:
    """Without --random-fully (I-5) the port stays; nftables' masquerade is fully-random (NFT-5)."""
    met = [each for each in met_by(differences, "node", "172.30.0.10/32") if each["service"] == "shop/web:http"]
    assert met
    for each in met:
        assert each["why"].startswith("nftables always draws the source port")
        a, b = ([outcome["seen"]["sport"] for outcome in each[side]["outcomes"]] for side in "ab")
        assert None not in a
        assert b == [None]


def test_the_service_networks_of_the_host_are_the_clusters(differences: list[dict[str, Any]]) -> None:
    """NFT-12.6: an address of the network that no Service has is dropped, and nobody would have answered there."""
    met = met_by(differences, "pod", "172.30.0.128/25")
    assert {each["see"] for each in met} == {"NFT-12.6"}
    assert {tuple(each[side]["exchange"]) for each in met for side in "ab"} == {("request-lost",)}


def test_a_page_counts_the_services_of_the_cluster(recording: Path) -> None:
    code, page = run("migrate", recording, "--to", "nftables")
    assert code == 0
    assert "Services lose something: 0   Services behave differently: 1 of 1" in page
    assert "works (source port kept)" in page
    assert "works (source port drawn)" in page
