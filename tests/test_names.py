"""Services, pods and nodes by their names: ``kpsim trace CLUSTER SERVICE``, probes, Python and completion.

Expectations follow from the objects: who has which address (O-2), and which nodes a load balancer uses (CP-14.3, CP-15.2).
"""

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest

import kpsim
from kpsim.addresses import Family
from kpsim.cli.application import run_command
from kpsim.errors import InputError
from kpsim.tracing.names import Via, Way
from kpsim.tracing.site import Sender

_NODES = "".join(
    f"""
apiVersion: v1
kind: Node
metadata: {{name: node-{name}}}
spec: {{podCIDRs: [10.180.{number}.0/24, "fd00:10:180:{number}::/64"]}}
status: {{addresses: [{{type: InternalIP, address: 192.168.0.{number}}}, {{type: InternalIP, address: "2001:db8::{number}"}}]}}
---"""
    for number, name in enumerate("abc", 1)
)
CLUSTER = (
    _NODES
    + """
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: c, image: i, ports: [{containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.180.1.5, podIPs: [{ip: 10.180.1.5}, {ip: "fd00:10:180:1::5"}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: node-b, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.180.2.9, podIPs: [{ip: 10.180.2.9}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: shop}
spec: {nodeName: node-c, hostNetwork: true, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 192.168.0.3, podIPs: [{ip: 192.168.0.3}]}
---
apiVersion: v1
kind: Pod
metadata: {name: waiting, namespace: shop}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  selector: {app: web}
  clusterIPs: [172.30.0.10, "fd00:172:30::10"]
  clusterIP: 172.30.0.10
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: PreferDualStack
  externalTrafficPolicy: Local
  healthCheckNodePort: 31000
  externalIPs: [198.51.100.9]
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}, {name: dns, port: 53, protocol: UDP, nodePort: 30053}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.80}]}}
---
apiVersion: v1
kind: Service
metadata: {name: inside, namespace: shop}
spec: {clusterIP: 172.30.0.11, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: proxied, namespace: shop}
spec:
  type: LoadBalancer
  clusterIP: 172.30.0.12
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30090}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.90, ipMode: Proxy}]}}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {type: ExternalName, externalName: db.example.com}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}
"""
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("named") / "cluster.yaml"
    path.write_text(CLUSTER)
    return path


@pytest.fixture(scope="module")
def cluster(file: Path) -> kpsim.Cluster:
    return kpsim.load(file)


def ways(
    cluster: kpsim.Cluster, service: str, sender: str, via: str = "", node: str = "", family: Family = Family.IPV4
) -> list[Way]:
    return cluster.names.ways(service, cluster.names.placed(sender, node), via, (family,))


def dialled(found: list[Way]) -> list[tuple[str, str]]:
    return [(way.dialled, way.node) for way in found]


@pytest.mark.parametrize(
    ("service", "sender", "via", "expected"),
    [
        ("shop/web:http", "pod/shop/client", "", [("172.30.0.10:80", "node-b")]),
        ("shop/web:80", "node/node-c", "", [("172.30.0.10:80", "node-c")]),
        ("service/shop/web:dns", "pod/shop/client", "", [("172.30.0.10:53", "node-b")]),
        ("shop/web:http", "external", "", [("203.0.113.80:80", "node-a")]),  # node-a alone has a local endpoint
        ("shop/web:http", "external", "externalIP", [("198.51.100.9:80", f"node-{name}") for name in "abc"]),
        ("shop/web:http", "external", "nodePort", [(f"192.168.0.{n}:30080", f"node-{name}") for n, name in enumerate("abc", 1)]),
        # one client may dial any node's port; one of any node dials its own
        ("shop/web:http", "pod/shop/client", "nodePort", [(f"192.168.0.{n}:30080", "node-b") for n in (1, 2, 3)]),
        ("shop/web:http", "pod", "nodePort", [(f"192.168.0.{n}:30080", f"node-{name}") for n, name in enumerate("abc", 1)]),
        ("shop/inside", "pod/shop/client", "", [("172.30.0.11:80", "node-b")]),
        ("shop/inside", "external", "", [("172.30.0.11:80", f"node-{name}") for name in "abc"]),
        # ipMode Proxy: the load balancer itself dials node ports (O-2); who is inside dials its address
        ("shop/proxied", "external", "lb", [(f"192.168.0.{n}:30090", f"node-{name}") for n, name in enumerate("abc", 1)]),
        ("shop/proxied", "pod/shop/client", "loadBalancer", [("203.0.113.90:80", "node-b")]),
    ],
)  # fmt: skip
def test_ways_to_a_service(
    cluster: kpsim.Cluster, service: str, sender: str, via: str, expected: list[tuple[str, str]]
) -> None:
    assert dialled(ways(cluster, service, sender, via)) == expected


def test_a_way_begins_with_its_client(cluster: kpsim.Cluster) -> None:
    [way] = ways(cluster, "shop/web:dns", "pod/shop/client")
    assert (way.packet.source, way.packet.protocol, way.sender) == ("10.180.2.9", "udp", Sender.POD)
    [way] = ways(cluster, "shop/web:http", "pod/shop/web-0", family=Family.IPV6)
    assert (way.packet.source, way.dialled) == ("fd00:10:180:1::5", "[fd00:172:30::10]:80")
    assert ways(cluster, "shop/web:http", "pod/shop/client", family=Family.IPV6) == []  # it has no such address
    [host] = ways(cluster, "shop/web:http", "pod/shop/agent")
    assert (host.sender, host.node, host.packet.saddr) == (Sender.NODE, "node-c", 0)
    proxied = ways(cluster, "shop/proxied", "external", "lb")
    assert {way.packet.source for way in proxied} == {"203.0.113.90"}


def test_all_ways_are_those_of_every_kind(cluster: kpsim.Cluster) -> None:
    found = ways(cluster, "shop/web:http", "external", "all")
    assert list(dict.fromkeys(way.via for way in found)) == list(Via)
    assert dialled(found) == [
        each for via in Via for each in dialled(ways(cluster, "shop/web:http", "external", via.value))
    ]


@pytest.mark.parametrize(
    ("service", "sender", "via", "words"),
    [
        ("shop/wab:http", "external", "", "no Service 'shop/wab'; there is shop/web"),
        ("shop/web:htp", "external", "", "shop/web has no port 'htp'; there is http"),
        ("shop/web", "external", "", "several ports: say shop/web:http or shop/web:dns"),
        ("shop/inside", "external", "nodePort", "shop/inside has no node port; it has clusterIP"),
        ("shop/web:http", "pod/shop/clinet", "", "no pod 'shop/clinet'; there is shop/client"),
        ("data/web", "external", "", "no Service 'data/web'; there is shop/web"),  # the name, elsewhere
        (
            "shop/ingress",
            "external",
            "",
            "no Service 'shop/ingress'; there is shop/inside, shop/",
        ),  # others of its namespace
        (
            "shop/web:http",
            "pod/shop/zzzzzzzzzz",
            "",
            "there is shop/agent, shop/client, shop/waiting, shop/web-0; from pod is any pod of a node",
        ),
        ("shop/web:http", "pod/shop/waiting", "", "runs on no node yet"),
        ("shop/web:http", "node/node-x", "", "no node 'node-x'"),
        ("shop/web:http", "nobody", "", "from 'nobody' is none of pod, node, external, peer"),
        ("shop/web:http", "deployment/shop/web", "", "only pod/NAMESPACE/NAME and node/NAME name a client"),
    ],
)
def test_what_is_not_there_is_named(cluster: kpsim.Cluster, service: str, sender: str, via: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        ways(cluster, service, sender, via)
    assert words in str(refused.value)


def test_a_pod_that_only_slices_name_is_a_client() -> None:
    """A dump without Pods: targetRef names them."""
    text = (
        _NODES
        + """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 172.30.0.10, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.180.3.7], nodeName: node-c, targetRef: {kind: Pod, namespace: shop, name: web-x}}]
"""
    )
    loaded = kpsim.load(text=text)
    [way] = loaded.names.ways("shop/web", loaded.names.client("pod/shop/web-x"))
    assert (way.packet.source, way.node) == ("10.180.3.7", "node-c")


# --- the command ----------------------------------------------------------------------------------------------------------


class Done(NamedTuple):
    """What a command left."""

    exit_code: int
    stdout: str
    stderr: str


def trace(*arguments: object) -> Done:
    out, errors = io.StringIO(), io.StringIO()
    argv = ["kpsim", "trace", *map(str, arguments)]
    with redirect_stdout(out), redirect_stderr(errors), patch.object(sys, "argv", argv):
        code = run_command()
    return Done(code, out.getvalue(), errors.getvalue())


def test_one_way_is_a_trace(file: Path) -> None:
    done = trace(file, "shop/web:http", "--from", "pod/shop/client")
    assert done.exit_code == 0
    assert done.stdout.startswith("# shop/web:http by its cluster IP 172.30.0.10:80, from pod, at node-b\n")
    assert "the client gets: a SYN-ACK from 172.30.0.10:80, sent by pod shop/web-0 on node-a" in done.stdout
    by_address = trace(file, "--node", "node-b", "--from", "pod", "--src", "10.180.2.9", "--dst", "172.30.0.10:80")
    assert done.stdout.partition("\n")[2] == by_address.stdout


def test_several_ways_are_a_table_with_what_the_client_gets(file: Path) -> None:
    """externalTrafficPolicy Local: only node-a has an endpoint, so the node ports of the others drop (I-6)."""
    done = trace(file, "shop/web:http", "--via", "nodePort", "--family", "ipv4")
    rows = [line for line in done.stdout.splitlines() if "node port 192.168.0." in line]
    assert [("works" in row, "request-lost" in row) for row in rows] == [(True, False), (False, True), (False, True)]
    assert "10.180.1.5:8080 (pod shop/web-0 on node-a)" in rows[0]
    assert "kept 203.0.113.7" in rows[0]


def test_json_has_a_line_for_each_way(file: Path) -> None:
    done = trace(file, "shop/web:http", "--via", "all", "--family", "ipv4", "--format", "json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["asked"]["via"] for line in lines] == (
        ["loadBalancer"] + ["externalIP"] * 3 + ["nodePort"] * 3 + ["clusterIP"] * 3
    )
    assert lines[0]["asked"] == {
        "service": "shop/web:http", "via": "loadBalancer", "address": "203.0.113.80", "port": 80, "protocol": "TCP",
        "node": "node-a", "from": "external",
    }  # fmt: skip
    assert [line["exchange"]["verdict"] for line in lines[4:7]] == ["works", "request-lost", "request-lost"]


def test_of_a_service_that_is_reached_from_inside_only_a_pod_is_the_client(file: Path) -> None:
    done = trace(file, "shop/inside", "--node", "node-b", "--format", "json")
    assert json.loads(done.stdout)["asked"]["from"] == "pod"


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("shop/db", "DNS answers db.example.com"),
        ("shop/headless", "headless: DNS answers the addresses of its endpoints"),
    ],
)
def test_what_dns_answers_is_said(file: Path, service: str, words: str) -> None:
    done = trace(file, service)
    assert done.exit_code == 0
    assert words in done.stdout
    assert json.loads(trace(file, service, "--format", "json").stdout)["dns"] == done.stdout.strip()


def test_pods_and_nodes_are_destinations(file: Path) -> None:
    by_name = trace(file, "--from", "pod/shop/client", "--dst", "pod/shop/web-0:8080", "--minimal")
    by_address = trace(file, "--node", "node-b", "--from", "pod", "--src", "10.180.2.9", "--dst", "10.180.1.5:8080", "--minimal")  # fmt: skip
    assert by_name.stdout == by_address.stdout != ""
    port = trace(file, "--from", "node/node-b", "--dst", "node/node-a:30080", "--minimal")
    assert (
        port.stdout
        == trace(file, "--node", "node-b", "--from", "node", "--dst", "192.168.0.1:30080", "--minimal").stdout
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shop/web:http", "--dst", "1.2.3.4:80"], "give one of"),
        (
            ["shop/web:http", "--from", "pod/shop/client", "--node", "node-a"],
            "pod/shop/client is on node-b, not on node-a",
        ),
        (["shop/web:http", "--src", "1.2.3.4"], "--src goes with --dst"),
        (["--from", "pod/shop/client", "--src", "1.2.3.4", "--dst", "1.2.3.5:80"], "has its own address"),
        (["--from", "pod/shop/client", "--dst", "[fd00:172:30::10]:80"], "the pod has no IPv6 address"),
        (["shop/nothing"], "no Service 'shop/nothing'"),
        (["web"], "web: there is no such file, and a Service is named NAMESPACE/NAME or NAMESPACE/NAME:PORT"),
        (["--from", "pod"], "or after the files a Service, NAMESPACE/NAME:PORT"),
    ],
)
def test_bad_names_are_refused(file: Path, arguments: list[str], words: str) -> None:
    done = trace(file, *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr


def test_a_file_is_a_file_whatever_its_name(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "web").write_text(file.read_text())
    done = trace("shop/web", "--node", "node-b", "--dst", "172.30.0.10:80", "--minimal")
    assert done.exit_code == 0


# --- probes, completion ---------------------------------------------------------------------------------------------------


def probed(cluster: kpsim.Cluster, **record: object) -> dict[str, object]:
    return dict(cluster.names.probe({"id": 1, **record}, cluster.families))


def test_a_probe_has_addresses_in_place_of_names(cluster: kpsim.Cluster) -> None:
    asked = probed(cluster, **{"from": "pod/shop/client", "dst": "shop/web:dns"})
    assert asked == {
        "id": 1, "from": "pod", "node": "node-b", "src": "10.180.2.9", "dst": "172.30.0.10", "dport": 53, "protocol": "UDP",
    }  # fmt: skip
    asked = probed(cluster, dst="shop/web:http")
    assert (asked["from"], asked["node"], asked["dst"]) == ("external", "node-a", "203.0.113.80")
    asked = probed(cluster, **{"from": "node/node-b", "dst": "node/node-a:30080"})
    assert (asked["from"], asked["node"], asked["dst"], asked["dport"]) == ("node", "node-b", "192.168.0.1", 30080)
    plain = {"id": 1, "node": "node-a", "from": "pod", "dst": "10.0.0.1", "dport": 80}
    assert cluster.names.probe(plain) == plain


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            {"from": "pod", "dst": "shop/web:http"},
            "node is missing: packets to shop/web:http may meet node-a, node-b, node-c",
        ),
        (
            {"dst": "shop/web:http", "via": "tunnel"},
            "via 'tunnel' is none of loadBalancer, externalIP, nodePort, clusterIP",
        ),
        ({"dst": "shop/db"}, "DNS answers db.example.com"),
        ({"from": "pod/shop/client", "dst": "fd00::1", "dport": 1}, "the pod has no IPv6 address"),
    ],
)
def test_a_probe_that_asks_for_several_packets_is_refused(
    cluster: kpsim.Cluster, record: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError) as refused:
        probed(cluster, **record)
    assert words in str(refused.value)


def test_probes_of_a_file_may_have_names(file: Path, tmp_path: Path) -> None:
    probes = tmp_path / "probes.jsonl"
    probes.write_text(
        '{"id": 1, "from": "pod/shop/client", "dst": "shop/web:http"}\n{"id": 2, "dst": "shop/wbe:http"}\n'
    )
    refused = trace(file, "--probes", probes)
    assert f"{probes}:2: no Service 'shop/wbe'" in refused.stderr
    probes.write_text(probes.read_text().splitlines()[0])
    assert json.loads(trace(file, "--probes", probes).stdout)["outcomes"][0]["endpoint"] == "10.180.1.5:8080"


def test_python_asks_by_name(cluster: kpsim.Cluster) -> None:
    traced = cluster.traces("shop/web:http", sender="pod/shop/client", expand=True)
    assert [str(each.verdict) for each in traced] == ["works"]
    with pytest.raises(InputError, match="DNS answers"):
        cluster.traces("shop/db")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sho", ["shop/headless:80", "shop/inside:80", "shop/proxied:80", "shop/web:dns", "shop/web:http"]),
        ("--from pod/shop/w", ["pod/shop/waiting", "pod/shop/web-0"]),
        ("--from ex", ["external"]),
        ("--node node-", ["node-a", "node-b", "node-c"]),
        ("--dst node/", ["node/node-a", "node/node-b", "node/node-c"]),
    ],
)
def test_shells_offer_the_names_of_the_cluster(file: Path, words: str, expected: list[str]) -> None:
    line = f"kpsim trace {file} {words}"
    asked = {"_KPSIM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    out = io.StringIO()
    with redirect_stdout(out), patch.object(sys, "argv", ["kpsim"]), patch.dict(os.environ, asked):
        run_command()
    assert out.getvalue().split() == expected
