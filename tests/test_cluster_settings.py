"""Kernel settings of a plain cluster's nodes, on the command line and in Python."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from shop import cluster_text

from kpsim.addresses import Family
from kpsim.cli import main
from kpsim.errors import InputError
from kpsim.explore import load
from kpsim.verify.subjects import load_subjects

RP_FILTER = "net.ipv4.conf.all.rp_filter"
LIBERAL = "net.netfilter.nf_conntrack_tcp_be_liberal"
Run = Callable[[list[str]], tuple[int, str]]
RECORDING = Path(__file__).parent / "golden" / "iptables" / "small-001.recording.jsonl"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code and output of a command, what it complains of included."""

    def run(arguments: list[str]) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["kpsim", *arguments])
        code = 0
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_a_strict_reverse_path_filter_takes_no_pod_s_packets_from_the_uplink() -> None:  # K-7.3
    for rp_filter, delivered in ((0, True), (1, False)):
        cluster = load(text=cluster_text(), sysctls={RP_FILTER: rp_filter})
        trace = cluster.trace("node-1", "172.30.0.10:80", src="10.180.0.77:40000", sender="external")
        assert ("delivered" in trace.words) is delivered, trace.words


def test_a_liberal_node_gets_no_rule_against_invalid_packets() -> None:  # CFG-6
    cluster = load(text=cluster_text())
    assert "INVALID" in cluster.rules("node-1", family=Family.IPV4)
    assert "INVALID" not in cluster.with_sysctls({LIBERAL: 1}).rules("node-1", family=Family.IPV4)


def test_machines_to_verify_have_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(cluster_text())
    for subject in load_subjects([file], sysctls={RP_FILTER: 2}):
        sysctls = subject.site.machine(subject.node).sysctls
        assert (sysctls.rp_filter, sysctls.route_localnet, sysctls.nf_conntrack_max) == (2, True, 131_072)
    with pytest.raises(InputError, match=r"a scenario has its own, nodes\.sysctls"):
        load_subjects(["local-rollout"], sysctls={RP_FILTER: 2})


def test_what_kube_proxy_overwrites_is_refused() -> None:  # CFG-4
    with pytest.raises(InputError) as caught:
        load(text=cluster_text(), sysctls={"net.netfilter.nf_conntrack_max": 10, "net.ipv4.conf.all.route_localnet": 0})
    assert [str(problem) for problem in caught.value.problems] == [
        "net.netfilter.nf_conntrack_max: kube-proxy writes 131072 there when it starts, unless conntrack.maxPerCore is 0",
        "net.ipv4.conf.all.route_localnet: kube-proxy writes 1 there when it starts, unless iptables.localhostNodePorts is false",
    ]


def test_a_recording_says_itself_what_its_rules_depend_on() -> None:
    cluster = load(RECORDING, sysctls={RP_FILTER: 1})
    assert cluster.site.machine(cluster.node_names[0]).sysctls.rp_filter == 1
    with pytest.raises(InputError, match="a recording says itself what it was"):
        load(RECORDING, sysctls={LIBERAL: 1})


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (f"{RP_FILTER}", f"'{RP_FILTER}': expected NAME=VALUE, the value a whole number"),
        (f"{RP_FILTER}=strict", f"'{RP_FILTER}=strict': expected NAME=VALUE, the value a whole number"),
        ("net.ipv4.conf.eth0.rp_filter=1", f"did you mean '{RP_FILTER}'?"),
        (f"{RP_FILTER}=9", f"{RP_FILTER}: expected a number from 0 to 2, got 9"),
    ],
)
def test_the_command_line_refuses_what_is_no_setting(run: Run, tmp_path: Path, setting: str, words: str) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(cluster_text())
    code, output = run(["trace", str(file), "--node", "node-1", "--dst", "172.30.0.10:80", "--sysctl", setting])
    assert code == 2
    assert words in output


@pytest.mark.parametrize("given", ["cluster", "rules"])
def test_a_trace_goes_by_the_settings(run: Run, tmp_path: Path, given: str) -> None:
    cluster, rules = tmp_path / "cluster.yaml", tmp_path / "node-1.rules"
    cluster.write_text(cluster_text())
    rules.write_text(load(cluster).rules("node-1", family=Family.IPV4))
    source = {
        "cluster": [str(cluster), "--node", "node-1"],
        "rules": ["--rules", str(rules), "--node-ip", "192.168.0.1", "--pod-cidr", "10.180.0.0/24"],
    }[given]
    packet = ["--from", "external", "--src", "10.180.0.77:40000", "--dst", "172.30.0.10:80", "--minimal"]
    plain = run(["trace", *source, *packet])
    strict = run(["trace", *source, *packet, "--sysctl", f"{RP_FILTER}=1"])
    assert (plain[0], strict[0]) == (0, 0)
    assert "dropped" not in plain[1] and "dropped" in strict[1]
