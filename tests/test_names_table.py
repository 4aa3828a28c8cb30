"""The table of ``kpsim trace CLUSTER SERVICE`` on clusters with many nodes, and load balancers that have only a host name.

Who has endpoints is written in the cluster: of a Service with externalTrafficPolicy Local the other nodes drop (I-6).
"""

import json
from pathlib import Path

import pytest
from drafts import Json, node, pod, service
from test_names import Done, trace

_NODES = [node(f"n{number}", number) for number in range(1, 8)]
_POD = pod("web-0", "n1", "10.244.1.5")
_PORTS = [{"port": 80, "targetPort": 8080, "nodePort": 30080}]


def asked(tmp_path: Path, objects: list[Json], *arguments: str) -> Done:
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [*_NODES, _POD, *objects]}))
    return trace(file, *arguments)


def test_nodes_that_say_the_same_share_a_row(tmp_path: Path) -> None:
    """Six nodes drop, the one with the endpoint does not."""
    made = service("web", type="NodePort", clusterIP="10.96.0.9", externalTrafficPolicy="Local", ports=_PORTS)
    done = asked(tmp_path, [made], "shop/web", "--from", "external")
    assert done.stdout.startswith("shop/web:80, dialled in 7 ways\n")
    rows = [line for line in done.stdout.splitlines() if " external " in line]
    assert len(rows) == 2
    assert "node port 192.168.10.1:30080" in rows[0] and "works" in rows[0]
    assert "node port 30080 of the node" in rows[1] and "request-lost" in rows[1]
    assert "and 2 more" in done.stdout  # n2 to n5 are named
    assert "Nodes that say the same share a row" in done.stdout


def test_an_ipv4_service_has_no_node_port_at_ipv6_addresses(tmp_path: Path) -> None:
    """Node ports have the families of the cluster IPs (O-4.3)."""
    dual = node("n9", 9)
    dual["status"]["addresses"].append({"type": "InternalIP", "address": "2001:db8::9"})
    made = service("web", type="NodePort", clusterIP="10.96.0.9", ports=_PORTS)
    done = asked(tmp_path, [dual, made], "shop/web", "--via", "nodePort", "--node", "n9", "--format", "json")
    assert [json.loads(line)["asked"]["address"] for line in done.stdout.splitlines()] == ["192.168.10.9"]


@pytest.mark.parametrize("ingress", [{"ip": "198.51.100.1"}, {"hostname": "lb.example.com"}])
def test_nodes_that_a_load_balancer_passes_over_are_named(tmp_path: Path, ingress: Json) -> None:
    """Behind a host name kube-proxy knows no address (O-2): the load balancer dials node ports, of the same nodes."""
    made = service(
        "web", type="LoadBalancer", clusterIP="10.96.0.9", externalTrafficPolicy="Local", healthCheckNodePort=32000, ports=_PORTS,
    )  # fmt: skip
    made["status"] = {"loadBalancer": {"ingress": [ingress]}}
    other = pod("web-1", "n3", "10.244.3.5")
    done = asked(tmp_path, [made, other], "shop/web")
    rows = [line for line in done.stdout.splitlines() if "load balancer" in line and "│" in line]
    assert ["n1" in row for row in rows] == [True, False]
    assert all("works" in row for row in rows)
    assert "Its load balancer sends nothing to n2, n4, n5, n6 and 1 more: the health check fails there" in done.stdout
    of_pods = asked(tmp_path, [made, other], "shop/web", "--from", "pod", "--via", "lb", "--node", "n2")
    assert of_pods.exit_code == (0 if "ip" in ingress else 2)  # names are not resolved


def test_a_narrow_terminal_gets_paragraphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = service("web", type="NodePort", clusterIP="10.96.0.9", externalTrafficPolicy="Local", ports=_PORTS)
    monkeypatch.setattr("kpsim.cli.printing.WIDTH", 80)
    done = asked(tmp_path, [made], "shop/web", "--from", "external")
    assert (
        "node port 192.168.10.1:30080 from external at n1: works\n    10.244.1.5:8080 (pod shop/web-0 on n1)\n"
        in done.stdout
    )
    assert (
        "node port 30080 of the node from external at n2, n3, n4, n5 and 2 more: request-lost\n    nobody"
        in done.stdout
    )
