"""``kpsim trace`` as a person or a script meets it: output, exit codes, messages."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from shop import cluster_text

from kpsim.addresses import Family
from kpsim.cli import main
from kpsim.explore import load
from kpsim.wire import read_capture

CLUSTER_IP = ["--from", "pod", "--src", "10.180.0.77:40000", "--dst", "172.30.0.10:80"]


class Result(NamedTuple):
    code: int
    out: str
    errors: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["kpsim", "trace", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        try:
            main()
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("shop") / "cluster.yaml"
    file.write_text(cluster_text())
    return file


@pytest.fixture(scope="module")
def saved(shop: Path) -> Path:
    """node-1's rules as iptables-save prints them."""
    file = shop.parent / "node-1.rules"
    file.write_text(load(shop).rules("node-1", family=Family.IPV4))
    return file


# --- one packet ------------------------------------------------------------------------------------------------------------


def test_a_summary(run: Run, shop: Path) -> None:
    done = run(shop, "--node", "node-1", *CLUSTER_IP)
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "tcp 10.180.0.77:40000 → 172.30.0.10:80 from a pod of node-1"
    assert lines[-2].startswith("delivered to 10.180.")
    assert lines[-1].startswith("the client gets: a SYN-ACK from 172.30.0.10:80")


def test_the_depths_tell_more_and_more(run: Run, shop: Path) -> None:
    minimal, summary, detailed = (
        run(shop, "--node", "node-1", *CLUSTER_IP, f"--{depth}").out.splitlines()
        for depth in ("minimal", "summary", "detailed")
    )
    assert len(minimal) == 3
    other_words = {line for line in summary if "conntrack remembers" in line or line.endswith(": no")}
    assert set(summary) <= set(detailed) | other_words
    assert len(minimal) < len(summary) < len(detailed)


def test_json_is_one_object(run: Run, shop: Path) -> None:
    told = json.loads(run(shop, "--node", "node-1", *CLUSTER_IP, "--format", "json", "--expand").out)
    assert told["disposition"] == "delivered"
    assert [outcome["weight"] for outcome in told["outcomes"]] == ["1/3"] * 3


def test_an_answer_that_is_no_delivery_exits_with_zero_too(run: Run, shop: Path) -> None:
    done = run(shop, "--node", "node-1", "--from", "pod", "--dst", "172.30.0.14:80", "--minimal")
    assert (done.code, done.out.splitlines()[0]) == (0, "rejected icmp-port-unreachable")


def test_a_seed_gives_the_same_trace_in_another_process(run: Run, shop: Path) -> None:
    arguments = [str(shop), "--node", "node-1", *CLUSTER_IP, "--seed", "5", "--detailed"]
    here = run(*arguments).out
    for hash_seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[1])}
        there = subprocess.run(
            [sys.executable, "-m", "kpsim", "trace", *arguments],
            capture_output=True, check=True, encoding="utf-8", env=environment,
        )  # fmt: skip
        assert there.stdout == here


# --- packets of other kinds ------------------------------------------------------------------------------------------------


def test_a_scapy_expression(run: Run, shop: Path) -> None:
    packet = 'IP(src="10.180.0.77", dst="172.30.0.10")/TCP(sport=40000, dport=80)'
    by_options = run(shop, "--node", "node-1", *CLUSTER_IP).out
    assert run(shop, "--node", "node-1", "--from", "pod", "--packet", packet).out == by_options


def test_an_expression_that_is_none(run: Run, shop: Path) -> None:
    done = run(shop, "--node", "node-1", "--packet", 'IP(dst="172.30.0.10")/__import__("os").getcwd()')
    assert done.code == 2
    assert "__import__" in done.errors


def test_a_capture_of_every_hop(run: Run, shop: Path, tmp_path: Path) -> None:
    """What is sent, what node-1 sends on with its own address, what node-2 hands to the pod."""
    files = [tmp_path / "one.pcap", tmp_path / "two.pcap"]
    for file in files:
        done = run(shop, "--node", "node-1", "--src", "203.0.113.7:40000", "--dst", "192.0.2.15:80", "--pcap", file)
        assert done.code == 0
    packets = [captured.packet for captured in read_capture(files[0]).packets]
    ways = [(packet.source, packet.destination, packet.dport, packet.ttl) for packet in packets if packet]
    assert ways == [
        ("203.0.113.7", "192.0.2.15", 80, 64),
        ("192.168.0.1", "10.180.1.9", 8080, 63),
        ("192.168.0.1", "10.180.1.9", 8080, 62),
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_rejection_is_in_the_capture(run: Run, shop: Path, tmp_path: Path) -> None:
    """K-3.1."""
    file = tmp_path / "rejected.pcap"
    run(shop, "--node", "node-1", "--src", "203.0.113.7:40000", "--dst", "192.168.0.1:30084", "--pcap", file)
    sent, answer = (captured.packet for captured in read_capture(file).packets)
    assert answer is not None
    assert (answer.source, answer.destination, answer.icmp_type, answer.icmp_code) == (
        "192.168.0.1", "203.0.113.7", 3, 3,
    )  # fmt: skip
    assert answer.related is not None
    assert sent is not None
    assert answer.related.daddr == sent.daddr


def test_packets_of_a_capture_belong_together(run: Run, shop: Path, tmp_path: Path) -> None:
    """K-1.3: a retransmitted SYN keeps its endpoint, whatever is drawn; what is not modelled is named."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.l2 import ARP, Ether
    from scapy.utils import wrpcap

    macs = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
    syn = Ether(**macs) / IP(src="10.180.0.77", dst="172.30.0.10") / TCP(sport=40000, dport=80)
    frames = [syn, Ether(**macs) / ARP(psrc="10.180.0.77", hwsrc=macs["src"]), *[syn] * 5]
    for number, frame in enumerate(frames):
        frame.time = number
    file = tmp_path / "syns.pcap"
    wrpcap(str(file), frames)
    done = run(shop, "--node", "node-1", "--from", "pod", "--read-pcap", file, "--minimal")
    assert done.code == 0
    heads = [line for line in done.out.splitlines() if line.startswith("delivered")]
    assert len(heads) == 6
    assert len(set(heads)) == 1
    assert f"packet 2 of {file}: not modelled: ARP" in done.errors


def test_a_limit_of_ways_holds_for_several_packets_and_for_captures(run: Run, shop: Path, tmp_path: Path) -> None:
    """A Service with two endpoints has more ways than one."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.l2 import Ether
    from scapy.utils import wrpcap

    file = tmp_path / "syn.pcap"
    wrpcap(str(file), [Ether() / IP(src="10.180.0.77", dst="172.30.0.10") / TCP(sport=40000, dport=80)])
    packets = [part for port in (1, 2) for part in ("--packet", f'IP(dst="172.30.0.10")/TCP(sport={port},dport=80)')]
    for source in (packets, ["--read-pcap", file]):
        arguments = (shop, "--node", "node-1", "--from", "pod", "--expand", "--minimal", *source)
        assert run(*arguments).code == 0
        refused = run(*arguments, "--limit", 1)
        assert (refused.code, refused.out) == (2, "")
        assert "more than 1 ways" in refused.errors


def test_a_damaged_capture_needs_a_word(run: Run, shop: Path, tmp_path: Path) -> None:
    """It says how many packets were read and where the file breaks; ``--partial`` traces those."""
    whole, broken = tmp_path / "whole.pcap", tmp_path / "broken.pcap"
    assert run(shop, "--node", "node-1", *CLUSTER_IP, "--pcap", whole).code == 0
    count = len(read_capture(whole).packets)
    broken.write_bytes(whole.read_bytes()[:-3])
    arguments = (shop, "--node", "node-1", "--read-pcap", broken, "--format", "json")
    refused = run(*arguments)
    assert (refused.code, refused.out) == (2, "")
    assert f"{broken}: damaged behind packet {count - 1}, at byte" in refused.errors
    assert "--partial" in refused.errors
    partial = run(*arguments, "--partial")
    assert partial.code == 0
    assert len(partial.out.splitlines()) == count - 1
    assert f"damaged behind packet {count - 1}" in partial.errors


def test_a_source_that_was_given_is_never_replaced(run: Run, shop: Path) -> None:
    """K-7.3: 0.0.0.0 and :: are sources that routing refuses."""
    arguments, lost = (
        (shop, "--node", "node-1", "--minimal"),
        "dropped\nby kernel: martian source\nexchange request-lost\n",
    )
    assert run(*arguments, "--src", "0.0.0.0", "--dst", "192.168.0.1:30080").out == lost
    packet = 'IP(src="0.0.0.0", dst="192.168.0.1")/TCP(dport=30080)'
    assert run(*arguments, "--packet", packet).out == lost
    assert "delivered" in run(*arguments, "--packet", packet.replace('src="0.0.0.0", ', "")).out


# --- batches ---------------------------------------------------------------------------------------------------------------

PROBE = {"id": "p1", "node": "node-1", "from": "pod", "src": "10.180.0.77", "sport": 40000, "dst": "172.30.0.13",
         "dport": 80, "protocol": "TCP"}  # fmt: skip


def test_probes_from_a_file_and_from_standard_input(run: Run, shop: Path, tmp_path: Path) -> None:
    file = tmp_path / "probes.jsonl"
    file.write_text(json.dumps(PROBE) + "\n\n" + json.dumps(PROBE | {"id": "p2", "node": "node-2"}) + "\n")
    done = run(shop, "--probes", file, "--format", "json")
    assert done.code == 0
    first, second = map(json.loads, done.out.splitlines())
    assert (first["id"], first["disposition"]) == ("p1", "dropped")
    assert (second["id"], second["outcomes"][0]["endpoint"]) == ("p2", "10.180.1.8:8080")
    assert run(shop, "--probes", "-", "--format", "json", stdin=file.read_text()).out == done.out


def test_bad_probes_name_file_and_line(run: Run, shop: Path, tmp_path: Path) -> None:
    file = tmp_path / "probes.jsonl"
    file.write_text("\n".join(json.dumps(PROBE | change) for change in ({"dst": "x"}, {}, {"node": "node-9"})))
    done = run(shop, "--probes", file, "--format", "json")
    assert (done.code, done.out) == (2, "")
    assert f"{file}:1: dst 'x' is no IP address" in done.errors
    assert f"{file}:3: no node 'node-9'; there is " in done.errors


# --- saved rules -----------------------------------------------------------------------------------------------------------


def test_saved_rules_answer_as_the_cluster_does(run: Run, shop: Path, saved: Path) -> None:
    machine = ["--rules", saved, "--node-ip", "192.168.0.1", "--pod-cidr", "10.180.0.0/24"]
    for dst in ("172.30.0.10:80", "192.0.2.11:80", "192.0.2.15:80", "172.30.0.14:80", "192.168.0.1:30082"):
        packet = ["--from", "pod", "--src", "10.180.0.77:40000", "--dst", dst, "--expand", "--minimal"]
        by_rules, by_cluster = run(*machine, *packet), run(shop, "--node", "node-1", *packet)
        assert by_rules.code == 0
        assert by_rules.out.splitlines()[0] == by_cluster.out.splitlines()[0]


def test_probes_against_saved_rules_may_name_any_node(run: Run, saved: Path) -> None:
    line = json.dumps(PROBE | {"node": "whatever", "dst": "172.30.0.14"})
    done = run("--rules", saved, "--node-ip", "192.168.0.1", "--probes", "-", "--format", "json", stdin=line)
    assert json.loads(done.out)["disposition"] == "rejected"


def test_the_interface_of_pods_can_be_named(run: Run, tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -i veth+ -j DROP\nCOMMIT\n")
    packet = [
        "--from",
        "pod",
        "--dst",
        "192.0.2.1:80",
        "--minimal",
        "--node-ip",
        "192.168.0.1",
        "--pod-cidr",
        "10.180.0.0/24",
    ]
    assert run("--rules", rules, *packet).out.startswith("passed\n")
    assert run("--rules", rules, *packet, "--interface", "veth7").out.startswith("dropped\n")


UNKNOWN = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m hashlimit --hashlimit-name x -j DROP\nCOMMIT\n"


def test_rules_that_are_not_modelled_are_refused_by_name_or_kept_on_request(run: Run, tmp_path: Path) -> None:
    rules = tmp_path / "foreign.rules"
    rules.write_text(UNKNOWN)
    packet = ["--rules", rules, "--node-ip", "192.168.0.1", "--dst", "192.0.2.1:80", "--minimal"]
    refused = run(*packet)
    assert refused.code == 2
    assert f"{rules}:3" in refused.errors
    assert "hashlimit" in refused.errors
    assert "--allow-unknown keeps such rules" in refused.errors
    kept = run(*packet, "--allow-unknown")
    assert (kept.code, kept.out.splitlines()[0]) == (0, "unknown")


def test_rules_of_both_families_as_kpsim_prints_them(run: Run, shop: Path, tmp_path: Path) -> None:
    rules = tmp_path / "both.rules"
    rules.write_text(load(shop).rules("node-1"))
    packet = ["--rules", rules, "--node-ip", "192.168.0.1", "--minimal"]
    assert run(*packet, "--dst", "172.30.0.10:80").out.startswith("delivered 10.180.")
    assert run(*packet, "--dst", "[fd00:172:30::ffff]:80", "--node-ip", "2001:db8::1").out.startswith("passed\n")
    unsaid = run(*packet, "--packet", 'IP(dst="172.30.0.10")/TCP(dport=80)')
    assert unsaid.out.startswith("delivered 10.180.")  # the packet tells the family
    line = rules.read_text().splitlines().index("# IPv6") + 3
    broken = rules.read_text().splitlines()
    broken[line - 1] = "-A nothing"
    rules.write_text("\n".join(broken))
    assert f"{rules}:{line}: " in run(*packet, "--dst", "[fd00::1]:80").errors


def test_ipv6_rules_are_recognised(run: Run, tmp_path: Path) -> None:
    rules = tmp_path / "six.rules"
    rules.write_text("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -d fd00::1/128 -j REJECT\nCOMMIT\n")
    packet = ["--rules", rules, "--node-ip", "2001:db8::1", "--minimal"]
    assert run(*packet, "--dst", "[fd00::1]:80").out.startswith("rejected icmp6-port-unreachable\n")
    wrong = run(*packet, "--dst", "192.0.2.1:80")
    assert wrong.code == 2
    assert "IPv4 is not among the families here (IPv6)" in wrong.errors


def test_rules_of_nft_are_read_like_those_of_iptables(run: Run, tmp_path: Path) -> None:
    """Both are one rule model: the same packet meets the same fate."""
    rules = tmp_path / "nft.rules"
    base = "type filter hook forward priority filter; policy accept;"
    rules.write_text(
        f"table inet f {{\n chain fwd {{\n {base}\n ip daddr 192.0.2.1 tcp dport 80 counter reject\n }}\n}}\n"
    )
    packet = ["--rules", rules, "--node-ip", "192.168.0.1", "--dst", "192.0.2.1:80"]
    assert run(*packet, "--minimal").out.splitlines()[:2] == [
        "rejected icmp-port-unreachable",
        "by f/fwd ip daddr 192.0.2.1 tcp dport 80 counter reject",
    ]
    assert "add rule inet f fwd ip daddr 192.0.2.1 tcp dport 80 counter reject" in run(*packet).out
    missed = run(*packet[:-1], "192.0.2.1:81", "--detailed").out
    assert "rule 1: not kube-proxy's: no, destination port is not 80" in missed


# --- mistakes --------------------------------------------------------------------------------------------------------------

MISTAKES = [
    (["--node", "node-9", "--dst", "172.30.0.10:80"], "no node 'node-9'; there is "),
    (["--dst", "172.30.0.10:80"], "--node is missing; there is node-1, node-2, node-3"),
    (["--node", "node-1", "--dst", "172.30.0.10"], "a TCP packet needs a destination port"),
    (["--node", "node-1", "--dst", "172.30.0.300:80"], "'172.30.0.300' is no IP address"),
    (["--node", "node-1", "--dst", "172.30.0.10:0"], "is no port"),
    (["--node", "node-1", "--dst", "172.30.0.10:80", "--src", "fd00::1"], "src fd00::1 is IPv6, dst 172.30.0.10 is IPv4"),
    (["--node", "node-1", "--dst", "172.30.0.10:80", "--from", "moon"], "'moon' is none of pod, node, external, peer"),
    (["--node", "node-1", "--dst", "172.30.0.10:80", "--protocol", "GRE"], "'GRE' is none of TCP, UDP, SCTP, ICMP"),
    (["--node", "node-1"], "give one of --dst, --packet, --read-pcap, --probes"),
    (["--node", "node-1", "--dst", "1.2.3.4:80", "--probes", "-"], "not --dst and --probes"),
    (["--node", "node-1", "--dst", "172.30.0.10:80", "--minimal", "--detailed"], "exclude each other"),
    (["--node", "node-1", "--dst", "172.30.0.10:80", "--node-ip", "192.168.0.1"], "--node-ip goes with --rules only"),
    (["--node", "node-1", "--read-pcap", "nowhere.pcap"], "nowhere.pcap"),
    (["--node", "node-1", "--dst", "172.30.0.10:80", "--pcap", "/nowhere/x.pcap"], "/nowhere/x.pcap"),
    (["--probes", "nowhere.jsonl"], "nowhere.jsonl"),
    (["--rules", "x", "--dst", "172.30.0.10:80"], "not both"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_mistakes_are_told_and_exit_with_two(run: Run, shop: Path, arguments: list[str], words: str) -> None:
    done = run(shop, *arguments)
    assert done.code == 2
    assert words in done.errors
    assert "Traceback" not in done.errors


def test_neither_cluster_nor_rules(run: Run) -> None:
    done = run("--dst", "172.30.0.10:80")
    assert done.code == 2
    assert "--rules FILE" in done.errors


# --------------------------------------------------------------------------------------------- options without effect


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (
            ["--probes", "-", "--node", "node-1", "--from", "pod", "--seed", "3", "--expand", "--format", "json"],
            "note: --node, --from, --expand, --seed, --format without effect beside --probes: each probe says itself what is "
            "sent, and every answer is a JSON line with all outcomes",
        ),
        (
            ["--node", "node-1", "--packet", "IP(dst='172.30.0.10')/TCP(dport=80)", "--protocol", "UDP"],
            "note: --protocol without effect beside --packet: the expression says what is sent",
        ),
        (
            ["--node", "node-1", "--dst", "172.30.0.10:80", "--family", "ipv4"],
            "note: --family without effect beside a cluster: a cluster has both families, and addresses tell which is meant",
        ),
    ],
)
def test_an_option_without_effect_is_named(run: Run, shop: Path, arguments: list[str], note: str) -> None:
    assert note in run(shop, *arguments).errors.splitlines()


def test_a_default_is_no_option_that_was_given(run: Run, shop: Path) -> None:
    assert "without effect" not in run(shop, "--node", "node-1", "--dst", "172.30.0.10:80").errors


OWNERS = "*nat\n-A OUTPUT -p tcp -m owner --uid-owner 1337 -j RETURN\n-A OUTPUT -p tcp -j REDIRECT --to-ports 15001\nCOMMIT\n"


def test_the_user_who_sends_is_asked_for(run: Run, tmp_path: Path) -> None:
    """K-20.1: a mesh's proxy dials out as its own user; what comes in has no owner."""
    rules = tmp_path / "mesh.v4"
    rules.write_text(OWNERS)
    asked = ["--rules", rules, "--node-ip", "192.168.0.1/24", "--dst", "192.0.2.1:80", "--minimal"]
    local = [*asked, "--from", "node"]
    assert run(*local).out.startswith("delivered 127.0.0.1:15001")
    assert run(*local, "--uid", "1337").out.startswith("passed")
    assert run(*local, "--gid", "1337").out.startswith("delivered 127.0.0.1:15001")
    assert "uid goes with a sender on the node itself" in run(*asked, "--uid", "1337").errors
    assert "no number of a user or group" in run(*local, "--uid", "4294967295").errors
    probes = tmp_path / "probes.jsonl"
    probes.write_text(
        "".join(
            f'{{"id": {number}, "node": "node", "from": "node", "dst": "192.0.2.1", "dport": 80{more}}}\n'
            for number, more in enumerate(("", ', "uid": 1337', ', "uid": 0, "gid": 7'))
        )
    )
    answers = run("--rules", rules, "--node-ip", "192.168.0.1/24", "--probes", probes).out.splitlines()
    assert [json.loads(line)["disposition"] for line in answers] == ["delivered", "passed", "delivered"]
    assert "--uid and --gid go with one packet" in run("--rules", rules, "--probes", probes, "--uid", "1").errors


def test_several_files_of_rules_are_one_machine(run: Run, tmp_path: Path) -> None:
    files = {"a": "*nat\n-A PREROUTING -d 192.0.2.1/32 -p tcp -j DNAT --to-destination 192.0.2.9\nCOMMIT\n",
             "b": "# Generated by iptables-save v1.8.9\n*filter\n:FORWARD DROP [0:0]\nCOMMIT\n",
             "c": "# Generated by ip6tables-save v1.8.9\n*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"}  # fmt: skip
    options = []
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        options += ["--rules", tmp_path / name]
    more = ["--node-ip", "192.168.0.1/24", "--node-ip", "2001:db8::1/64", "--minimal"]
    assert run(*options, *more, "--dst", "192.0.2.1:80").out.splitlines()[:2] == ["dropped", "by filter/FORWARD policy"]
    assert run(*options, *more, "--dst", "[2001:db8:9::1]:80").out.startswith("dropped")
    twice = run(*options, "--rules", tmp_path / "b", *more, "--dst", "192.0.2.1:80")
    assert (twice.code, f"table filter of IPv4 is also in {tmp_path / 'b'}" in twice.errors) == (2, True)


def test_rules_beside_kube_proxys_may_be_unknown(run: Run, shop: Path, tmp_path: Path) -> None:
    beside = tmp_path / "beside.v4"
    beside.write_text("*filter\n-A FORWARD -p tcp --dport 9999 -m set --match-set s src -j DROP\nCOMMIT\n")
    packet = [shop, "--node", "node-1", "--minimal", "--beside", beside]
    assert "--allow-unknown keeps such rules" in run(*packet, "--dst", "172.30.0.10:80").errors
    packet.append("--allow-unknown")
    assert run(*packet, "--dst", "172.30.0.10:80").out.startswith("delivered")
    assert run(*packet, "--dst", "10.180.1.9:9999").out.startswith("unknown")
    assert (
        "goes with --rules or --beside"
        in run(shop, "--node", "node-1", "--allow-unknown", "--dst", "172.30.0.10:80").errors
    )


# --------------------------------------------------------------------------------------------------------- assumed nodes


@pytest.mark.parametrize("option", [["--assume-node"], ["--assume-node", "node-1"], ["--assume-node=node-1"]])
@pytest.mark.parametrize("first", [True, False])
def test_a_node_can_be_assumed_with_or_without_its_name(
    run: Run, tmp_path: Path, option: list[str], first: bool
) -> None:
    file = tmp_path / "bundle.yaml"
    file.write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.99, ports: [{port: 80}]}\n"
    )
    asked = ["--dst", "10.96.0.99:80", "--minimal"]
    result = run(*(*option, file) if first else (file, *option), *asked)
    assert (result.code, result.out.split()[0]) == (0, "rejected"), result.errors
    assert "note: assumed the Node node-1: address 192.168.0.1" in result.errors


def test_without_nodes_the_answer_is_what_to_add(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "bundle.yaml"
    file.write_text("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n")
    result = run(file, "--node", "n7", "--dst", "10.96.0.99:80")
    assert result.code == 2
    assert "kubectl get nodes -o yaml" in result.errors


def test_the_node_of_hostname_override_is_meant_if_none_is_named(run: Run, shop: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nhostnameOverride: node-2\n"
    )
    text = tmp_path / "cluster.yaml"
    kept = (each for each in shop.read_text().split("---\n") if "KubeProxyConfiguration" not in each)
    text.write_text("---\n".join(kept))
    result = run(text, file, "--dst", "172.30.0.10:80")
    assert result.code == 0, result.errors
    assert "\nnode-2: tcp" in result.out
