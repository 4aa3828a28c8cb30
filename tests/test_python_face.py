"""The Python interface (``import kpsim``), and the extras of the command line: completion, help, output to files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kpsim
from kpsim.errors import InputError

SHOP = """
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDR: 10.180.1.0/24}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 172.30.0.10
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.180.1.5], nodeName: node-1}
- {addresses: [10.180.1.6], nodeName: node-1}
"""
WITHOUT_ENDPOINTS = SHOP[: SHOP.index("endpoints:")] + "endpoints: []\n"
TINY = """
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: tiny}
description: <two> seconds
seed: 7
duration: 2s
nodes: {count: 1}
workloads:
- {name: web, namespace: shop, replicas: 1, ports: [{containerPort: 8080}]}
objects:
- apiVersion: v1
  kind: Service
  metadata: {name: web, namespace: shop}
  spec:
    type: NodePort
    clusterIP: 172.30.0.10
    selector: {app: web}
    ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]
traffic:
- {name: users, from: outside, service: shop/web, via: nodePort, perSecond: 10}
expect:
- sent > 0
"""


@pytest.fixture(scope="module")
def shop() -> kpsim.Cluster:
    return kpsim.load(text=SHOP)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    return file


def cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "kpsim", *arguments]
    return subprocess.run(program, capture_output=True, text=True, env={**os.environ, **environment})


def test_text_is_loaded_like_a_file(shop: kpsim.Cluster, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    assert shop.state == kpsim.load(file).state
    assert shop.node_names == ("node-1",)


def test_text_stands_beside_files(tmp_path: Path) -> None:
    node, rest = SHOP.split("---", 1)
    file = tmp_path / "node.yaml"
    file.write_text(node)
    assert kpsim.load(file, text=rest).state == kpsim.load(text=SHOP).state


def test_nothing_to_load() -> None:
    with pytest.raises(InputError, match="nothing to load"):
        kpsim.load()


def test_what_is_wrong_in_text_has_a_line() -> None:
    with pytest.raises(InputError, match=r"standard input.*podCIDR"):
        kpsim.load(text=SHOP.replace("10.180.1.0/24", "nonsense"))


def test_an_answer_in_a_line(shop: kpsim.Cluster) -> None:
    # K-2.3: the probabilities that kube-proxy writes make equal shares; no masquerade between pods (PP-1)
    answer = shop.probe("node-1", "172.30.0.10:80", sender="pod")
    assert str(answer) == "delivered 10.180.1.5:8080 1/2, 10.180.1.6:8080 1/2"
    empty = kpsim.load(text=WITHOUT_ENDPOINTS).probe("node-1", "172.30.0.10:80", sender="pod")
    assert str(empty) == "rejected icmp-port-unreachable"


def test_everything_shows_itself_in_a_notebook(shop: kpsim.Cluster) -> None:
    rules = shop.rules("node-1")
    assert rules._repr_html_().partition(">")[2].startswith("# IPv4\n*mangle\n")
    assert "-&gt; 10.180.1.5:8080" in rules._repr_html_()
    answer = shop.probe("node-1", "172.30.0.10:80", sender="pod")._repr_html_()
    assert "<td>1/2</td><td>10.180.1.6:8080</td><td>no</td>" in answer
    assert "cluster of 1 nodes in iptables mode: EndpointSlice 1, Node 1, Service 1" in shop._repr_html_()
    assert (
        shop.trace("node-1", "172.30.0.10:80", sender="pod")._repr_html_().partition(">")[2].startswith("tcp 10.180.1.")
    )


def test_everything_says_in_a_line_what_it_is(shop: kpsim.Cluster, tiny: Path) -> None:
    assert repr(shop) == "<cluster of 1 nodes in iptables mode: EndpointSlice 1, Node 1, Service 1>"
    traced = repr(shop.trace("node-1", "172.30.0.10:80", sender="pod"))
    assert re.fullmatch(r"<trace of tcp 10\.180\.1\.\d+:\d+ → 172\.30\.0\.10:80: delivered to [^\n]+>", traced)
    assert repr(kpsim.run(tiny)) == "<tiny: 2 s simulated, mode iptables, seed 7: All 20 connections were delivered.>"


def test_a_summary_is_text_even_where_rich_knows_better(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = kpsim.run(tiny).summary()
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert kpsim.run(tiny).summary() == expected
    assert expected.startswith("tiny: ")


def test_without_its_configuration_a_cluster_says_so(shop: kpsim.Cluster) -> None:
    assert any("no KubeProxyConfiguration" in note for note in shop.notes)
    configured = (
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.180.0.0/16\n---"
    )
    assert not any("no KubeProxyConfiguration" in note for note in kpsim.load(text=configured + SHOP).notes)


def test_a_depth_by_its_name(shop: kpsim.Cluster) -> None:
    traced = shop.trace("node-1", "172.30.0.10:80", sender="pod", expand=True)
    texts = [traced.text(depth) for depth in ("minimal", "summary", "detailed")]
    assert texts[0].splitlines()[0] == "delivered 10.180.1.5:8080 1/2, 10.180.1.6:8080 1/2"
    assert texts[1] == str(traced)
    assert sorted(texts, key=len) == texts


def test_a_run_and_its_reports(tiny: Path) -> None:
    result = kpsim.run(tiny)
    assert result.holds
    assert result.figures["sent"] == len(result.frames()["connections"]) == 20
    assert kpsim.frames(result).keys() == kpsim.frames(result.log).keys()
    assert result.plots["dispositions"]._repr_png_().startswith(b"\x89PNG")
    assert ">&lt;two&gt; seconds</p>" in result._repr_html_()


def test_a_summary_that_nobody_watches_is_plain(tiny: Path) -> None:
    narrow, wide = (cli("run", str(tiny), COLUMNS=columns) for columns in ("40", "200"))
    assert narrow.returncode == 0, narrow.stderr
    assert narrow.stdout == wide.stdout == kpsim.run(tiny).summary()
    assert narrow.stdout.splitlines()[:2] == ["tiny: 2 s simulated, mode iptables, seed 7", "<two> seconds"]
    assert [line for line in narrow.stdout.splitlines() if line != line.rstrip()] == []


def test_help_names_every_command_in_a_whole_sentence() -> None:
    commands = cli("--help", COLUMNS="80").stdout.partition("Commands:")[2].strip().splitlines()
    assert [line.split()[0] for line in commands] == [
        "calibrate",
        "check",
        "compare",
        "diff",
        "explain-config",
        "migrate",
        "replay",
        "risk",
        "rules",
        "run",
        "scenarios",
        "schema",
        "survey",
        "sweep",
        "trace",
        "upgrade",
        "verify",
        "scenario",
    ]
    assert all(line.endswith(".") and not line.endswith("...") for line in commands)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("scenario init {cluster} --service shop/db", ["shop/db", "shop/db-members", "shop/db-primary"]),
        ("run {cluster} --rollout kube-system/", ["kube-system/coredns", "kube-system/kube-dns"]),
    ],
)
def test_the_shell_completes_services_and_workloads(words: str, offered: list[str]) -> None:
    cluster = Path(__file__).parent.parent / "docs/scenario-init.yaml"
    line = f"kpsim {words.format(cluster=cluster)}"
    done = cli(_KPSIM_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(line.split()) - 1))
    assert done.stdout.split() == offered


@pytest.mark.parametrize("command", ["run", "check"])
def test_the_shell_completes_names_of_scenarios(command: str) -> None:
    done = cli(_KPSIM_COMPLETE="complete_bash", COMP_WORDS=f"kpsim {command} local-", COMP_CWORD="2")
    assert done.stdout.split() == ["local-rollout", "local-rollout-prestop"]


def test_manifests_are_no_recording(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    done = cli("replay", str(file))
    assert done.returncode == 2
    (told,) = done.stderr.splitlines()
    assert told.startswith(f"error: {file}:2: not readable")
    assert told.endswith("a recording is JSON lines, one whole object a line, the first of them CONFIG")
