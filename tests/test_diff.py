"""``kpsim diff``: which packets fare differently, told exactly.

The clusters are small, since a comparison follows a packet of every class. That a packet is in a box exactly if its answers differ is
asked of random clusters in ``tests/properties/test_boxes.py``.
"""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import kpsim
from kpsim.cli.application import run_command
from kpsim.comparison.behaviour.report import Subject, report

CLUSTER = """
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDRs: [10.180.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: NodePort
  clusterIP: 172.30.0.10
  ipFamilies: [IPv4]
  ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.180.1.5], nodeName: node-1}]
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clusterCIDR: 10.180.0.0/16
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("diff") / "cluster.yaml"
    path.write_text(CLUSTER)
    return path


def run(command: str, *arguments: object) -> tuple[int, str]:
    """The exit code of a command and what it printed; of an error the message."""
    out, errors = io.StringIO(), io.StringIO()
    argv = ["kpsim", command, *map(str, arguments)]
    with redirect_stdout(out), redirect_stderr(errors), patch.object(sys, "argv", argv):
        code = run_command()
    return code, errors.getvalue() if code == 2 else out.getvalue()


def diff(*arguments: object) -> tuple[int, str]:
    return run("diff", *arguments)


@pytest.fixture(scope="module")
def of_modes(cluster: Path) -> dict[str, Any]:
    """The two modes compared, as JSON."""
    code, out = diff(cluster, "--mode", "iptables", "--mode", "nftables", "--format", "json")
    assert code == 1
    found: dict[str, Any] = json.loads(out)
    return found


def boxes(found: dict[str, Any], **wanted: object) -> list[dict[str, Any]]:
    return [
        each for each in found["differences"] if all(each["packets"][name] == value for name, value in wanted.items())
    ]


def test_localhost_node_ports_end_with_iptables_mode(of_modes: dict[str, Any]) -> None:
    # NFT-12.4
    here = [
        each
        for each in boxes(of_modes, **{"from": "node", "dport": [[30080, 30080]], "protocol": "TCP"})
        if each["packets"]["dst"] == ["127.0.0.0/8"] and "127.0.0.0/8" in each["packets"]["src"]
    ]
    assert {(each["a"]["exchange"]["works"], each["b"]["exchange"]["refused"]) for each in here} == {("1", "1")}
    assert {(each["service"], each["see"]) for each in here} == {("shop/web:http", "NFT-12.4")}


def test_an_undefined_port_of_a_cluster_ip_is_rejected_in_one_mode(of_modes: dict[str, Any]) -> None:
    # NFT-12.5: every port but that of the Service
    [box] = [
        each
        for each in boxes(of_modes, **{"from": "pod", "dst": ["172.30.0.10/32"], "protocol": "TCP"})
        if each["b"]["exchange"] == {"refused": "1"}
    ]
    assert box["packets"]["dport"] == [[1, 79], [81, 65535]]
    assert (box["a"]["disposition"], box["b"]["disposition"], box["b"]["with"]) == (
        "passed", "rejected", "icmp-port-unreachable",
    )  # fmt: skip
    assert (box["service"], box["see"]) == ("shop/web", "NFT-12.5")


def test_the_probe_of_a_difference_is_a_probe_and_shows_it(
    of_modes: dict[str, Any], cluster: Path, tmp_path: Path
) -> None:
    lines = [each["probe"] for each in of_modes["differences"]]
    probes = tmp_path / "probes.jsonl"
    probes.write_text("\n".join(lines))
    for mode, side in (("iptables", "a"), ("nftables", "b")):
        _, told = run("trace", cluster, "--mode", mode, "--probes", probes)
        answers = [json.loads(line) for line in told.splitlines()]
        assert [{name: value for name, value in each.items() if name != "id"} for each in answers] == [
            each[side] for each in of_modes["differences"]
        ]


def test_an_edit_is_compared_and_explained_by_the_field(cluster: Path) -> None:
    # with Local there is no masquerade for what comes from outside (T-7)
    code, out = diff(
        cluster, "--set", "service/shop/web.spec.externalTrafficPolicy=Local", "--mode", "iptables", "--format", "json"
    )
    found = json.loads(out)
    assert code == 1
    assert {(each["service"], each["see"]) for each in found["differences"]} == {("shop/web:http", "T-7")}
    assert all("externalTrafficPolicy" in each["why"] for each in found["differences"])


def test_nothing_differs_from_itself(cluster: Path) -> None:
    code, out = diff(cluster, cluster)
    assert code == 0
    assert out.splitlines()[-1].endswith("no difference.")


def test_what_is_allowed_is_no_difference(cluster: Path) -> None:
    edit = "service/shop/web.spec.internalTrafficPolicy=Local"
    assert diff(cluster, "--set", edit, "--mode", "iptables", "--allow", "shop/web")[0] == 0


def test_a_difference_is_allowed_by_its_service_its_port_or_its_reason() -> None:
    before = kpsim.load(text=CLUSTER)
    found = report(Subject.of(before), Subject.of(before.with_edits("service/shop/web.spec.ports[0].port=81")))
    for allowed, left in (("shop/web", False), ("shop/web:http", False), ("service", False), ("mode", True)):
        assert bool(found.without(frozenset({allowed})).records) is left


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to compare"),
        (["--mode", "iptables", "--mode", "nftables", "--mode", "ipvs"], "at most two modes"),
        (["--mode", "node-9=nftables"], "no node 'node-9'"),
        (["--mode", "fast"], "--mode fast"),
        (["--syncs", "0,1"], "no recording"),
        (["--set", "service/shop/web.spec.type=NodePort", "--allow", "shop/blog"], "--allow shop/blog"),
        (["--node-ip", "192.168.0.1", "--mode", "iptables"], "go with saved rules"),
    ],
)
def test_bad_input_is_named(cluster: Path, arguments: list[str], words: str) -> None:
    code, out = diff(cluster, *arguments)
    assert code == 2
    assert words in out


RECORDING = "tests/golden/iptables/small-001.recording.jsonl"


def test_rules_of_two_moments_differ_chain_by_chain() -> None:
    code, out = diff(RECORDING, "--syncs", "0,3", "--rules", "--format", "json")
    found = json.loads(out)
    assert code == 1
    assert all(each["a"] != each["b"] for each in found)
    assert {each["chain"].partition("-")[0] for each in found} == {"nat/KUBE"}
    assert diff(RECORDING, "--syncs", "1,1", "--rules") == (0, "")


def test_sets_and_virtual_servers_of_ipvs_mode_differ_as_recorded() -> None:
    """What differs between two syncs of a real kube-proxy, as its recording says. It counts for the recorded node."""
    name = "tests/golden/ipvs/small-000"
    shown = [json.loads(line)["ipvs"] for line in Path(f"{name}.expected.jsonl").read_text().splitlines()]

    def told(sync: int) -> dict[str, object]:
        servers = {
            f"virtual server -{each['protocol'][0].lower()} {each['address']}:{each['port']}": each["realServers"]
            for each in shown[sync]["virtualServers"]
        }
        sets = {f"ipset {each['name']}": each["entries"] for each in shown[sync]["ipsets"]}
        return {**servers, **sets, "addresses of kube-ipvs0": shown[sync]["boundAddresses"]}

    code, out = diff(f"{name}.recording.jsonl", "--syncs", "0,3", "--rules", "--format", "json")
    found = {each["chain"] for each in json.loads(out) if each["node"] == "node-2" and "/" not in each["chain"]}
    before, after = told(0), told(3)
    assert code == 1
    assert found == {name for name in {**before, **after} if before.get(name) != after.get(name)}
    assert {name.partition(" ")[0] for name in found} == {"ipset", "virtual", "addresses"}


DUMP = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT {source} -p tcp -m tcp --dport 22 -j {target}
COMMIT
"""


def test_saved_rules_are_compared_by_what_they_do(tmp_path: Path) -> None:
    one, two = tmp_path / "one.rules", tmp_path / "two.rules"
    one.write_text(DUMP.format(source="", target="DROP"))
    two.write_text(DUMP.format(source="-s 10.0.0.0/8", target="DROP"))
    code, out = diff(one, two, "--node-ip", "192.168.0.1", "--format", "json")
    found = json.loads(out)
    assert code == 1
    assert {tuple(map(tuple, each["packets"]["dport"])) for each in found["differences"]} == {((22, 22),)}
    assert all("10.0.0.0/8" not in each["packets"]["src"] for each in found["differences"])
    assert {each["packets"]["protocol"] for each in found["differences"]} == {"TCP"}
