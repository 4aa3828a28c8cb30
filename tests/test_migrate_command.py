"""``kpsim migrate`` from the command line: exit codes, forms, what iptables and nftables mode do to a small cluster."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
from shop import port, service

import kpsim
from kpsim.cli.application import run_command
from kpsim.migration.report import MigrationReport, migrate

NODE = """\
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDR: 10.180.1.0/24}
status:
  addresses: [{type: InternalIP, address: 192.168.0.1}, {type: ExternalIP, address: 203.0.113.1}]
  nodeInfo: {kernelVersion: 6.12.1, kubeletVersion: v1.36.2}
"""
CONFIG = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.180.0.0/16\n"
CIDR = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [172.30.0.0/16]}\n"
WEB = (
    service("web", f"type: NodePort, clusterIP: 172.30.0.10, {port(80, 30080)}"),
    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
    "metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\n"
    "addressType: IPv4\nports: [{name: p, port: 8080}]\nendpoints: [{addresses: [10.180.1.5], nodeName: node-1}]\n",
)
INSIDE = service("web", f"clusterIP: 172.30.0.10, {port(80)}")


def run(*arguments: object) -> tuple[int, str, str]:
    """The exit code of ``kpsim migrate``, and what it prints."""
    out, errors = io.StringIO(), io.StringIO()
    words = ["kpsim", "migrate", *map(str, arguments)]
    with patch.object(sys, "argv", words), redirect_stdout(out), redirect_stderr(errors):
        code = run_command()
    return code, out.getvalue(), errors.getvalue()


@pytest.fixture(scope="module")
def report() -> MigrationReport:
    return migrate(kpsim.load(text="---\n".join((CONFIG, NODE, CIDR, *WEB))), "nftables")


def test_what_packets_meet_in_nftables_mode(report: MigrationReport) -> None:
    """The differences of MODE-1 that this cluster has, each with its effect and whether the configuration prevents it."""
    found = {
        (row["service"], target, group["see"]): (
            row["effect"],
            row["today"],
            row["then"],
            row["preventedByConfiguration"],
        )
        for group in report.to_json()["differences"]
        for row in group["rows"]
        for target in row["dst"]
        if any(each["protocol"] == "TCP" and each["dport"] != [[22, 22]] for each in row["packets"])
    }
    refused = ("stops working", "works", "refused")
    assert found["shop/web:p", "203.0.113.1/32", "NFT-12.1"] == (*refused, True)  # a second address
    loopback = [key for key in found if key[1].startswith("127.")]
    assert loopback and all(found[key] == (*refused, False) for key in loopback)  # never on localhost
    assert {key[2] for key in loopback} == {"NFT-12.4"}
    assert found["shop/web", "172.30.0.10/32", "NFT-12.5"] == ("ends in another way", "no answer", "refused", False)
    unallocated = [found[key] for key in found if key[2] == "NFT-12.6"]
    assert unallocated and {each[0] for each in unallocated} == {"ends in another way"}
    assert not any(key[1] == "192.168.0.1/32" for key in found)  # the primary address goes on working


def test_a_report_shows_itself(report: MigrationReport) -> None:
    assert report.breaks
    assert repr(report) == "<migration from iptables to nftables, breaks=True>"
    assert str(report) == report.text()
    assert report._repr_html_() in report.html()
    assert report.markdown().startswith("# From iptables to nftables\n")


def test_the_exit_code_says_whether_something_stops_working(tmp_path: Path) -> None:
    cluster, page = tmp_path / "cluster.yaml", tmp_path / "page.json"
    cluster.write_text("---\n".join((CONFIG, NODE, INSIDE)))
    assert run(cluster, "--to", "nftables", "--out", page)[:2] == (0, "")
    assert json.loads(page.read_text())["breaks"] is False
    cluster.write_text("---\n".join((CONFIG, NODE.replace("6.12.1", "5.4.0"), INSIDE)))
    code, text, _ = run(cluster, "--to", "nftables", "--format", "markdown")
    assert (code, "kube-proxy would not start on 1 node: node-1." in text) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "iptables"], "the cluster is in iptables mode already"),
        (["--to", "userspace"], "Invalid value for '--to'"),
        (["--to", "nftables", "--out", "missing/page.md"], "cannot write"),
        ([], "Missing option '--to'"),
    ],
)
def test_bad_input_ends_with_two(tmp_path: Path, arguments: list[str], words: str) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("---\n".join((CONFIG, NODE, INSIDE)))
    code, out, errors = run(cluster, *arguments)
    assert (code, out) == (2, "")
    assert words in errors


FIREWALL = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A FORWARD -s 10.180.0.0/16 -j ACCEPT\nCOMMIT\n"


def test_a_firewall_then_drops_the_answers_that_kube_proxy_let_through(tmp_path: Path) -> None:
    """NFT-9.4: KUBE-FORWARD accepts what belongs to known connections, of all pods, whoever they talk to."""
    rules = tmp_path / "node.rules"
    rules.write_text(FIREWALL)
    found = migrate(kpsim.load(text="---\n".join((CONFIG, NODE, INSIDE)), beside=[rules]), "nftables").to_json()
    [group] = [group for group in found["differences"] if group["see"] == "NFT-12.2"]
    answers = [row for row in group["rows"] if row["service"] == "" and row["from"][0]["sender"] == "pod"]
    assert {(row["effect"], row["today"], row["then"]) for row in answers} == {
        ("stops working", "works", "the answer is lost")
    }
    assert [each["what"] for each in found["programs"]] == ["policy DROP of filter/FORWARD"]
