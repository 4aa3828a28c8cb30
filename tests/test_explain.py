"""Explanations: the tree follows the steps, every rule is shown as kube-proxy writes it, and reasons are true."""

import re
from pathlib import Path

import pytest
from shop import cluster_text

from kpsim.addresses import Family
from kpsim.dialects.iptables import parse
from kpsim.explore import Cluster, load
from kpsim.explore.site import rules_site
from kpsim.netfilter import walk
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.steps import RuleMatched
from kpsim.tracing.explain import Depth
from kpsim.tracing.explain.tree import ChainBlock, HookBlock, build_tree, matched_rules
from kpsim.tracing.probes import make_packet
from kpsim.tracing.site import Sender
from kpsim.tracing.traces import Trace, trace_packet

CLIENT = "203.0.113.7:40000"
WEB_SERVICE = "172.30.0.10:80"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    file = tmp_path_factory.mktemp("shop") / "cluster.yaml"
    file.write_text(cluster_text())
    return load(file)


def traced(rules: str, *, dst: str = "192.0.2.1", dport: int = 80, sender: Sender = Sender.EXTERNAL) -> Trace:
    ruleset = parse(rules, Family.IPV4)
    site = rules_site(ruleset, node_ips=["192.168.0.1"], pod_cidrs=["10.180.0.0/24"])
    return trace_packet(site, make_packet("TCP", dst, dport), node="n", sender=sender)


def body(trace: Trace, depth: Depth = Depth.SUMMARY) -> list[str]:
    """Lines without indentation."""
    return [line.strip() for line in trace.text(depth).splitlines() if line.strip()]


# --- the way ---------------------------------------------------------------------------------------------------------------


def test_the_summary_tells_the_way_of_a_node_port(cluster: Cluster) -> None:
    """PP-11.5; rules as I-7 has them."""
    lines = body(cluster.trace("node-1", "192.168.0.1:30082", sender="pod", src="10.180.0.77:40000"))
    wanted = [
        "tcp 10.180.0.77:40000 → 192.168.0.1:30082 from a pod of node-1",
        "node-1: tcp 10.180.0.77:40000 → 192.168.0.1:30082, in by cni0",
        "PREROUTING",
        "conntrack: new connection",
        "nat/PREROUTING",
        '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        "nat/KUBE-SERVICES",
        '-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in '
        'this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS',
        "node port of shop/remote:p",
        "pod traffic to an external address of shop/remote:p",
        "endpoint of shop/remote:p, 10.180.1.7:8080",
        "destination: 192.168.0.1:30082 → 10.180.1.7:8080",
        "routing: 10.180.1.0/24 via 192.168.0.2 dev eth0",
        "leaves by eth0: tcp 10.180.0.77:40000 → 10.180.1.7:8080",
        "node-2: tcp 10.180.0.77:40000 → 10.180.1.7:8080, in by eth0",
        "routing: 10.180.1.0/24 dev cni0",
        "leaves by cni0: tcp 10.180.0.77:40000 → 10.180.1.7:8080",
        "delivered to 10.180.1.7:8080 (pod shop/remote-0 on node-2) as 10.180.0.77, source kept",
    ]
    position = 0
    for line in wanted:
        found = [n for n, text in enumerate(lines) if n >= position and (text == line or text.endswith(f": {line}"))]
        assert found, line
        position = found[0]


def test_marks_and_masquerades_are_shown_where_they_happen(cluster: Cluster) -> None:
    """I-6: the mark is set before the DNAT and taken off in POSTROUTING."""
    trace = cluster.trace("node-1", "192.0.2.15:80", src=CLIENT)
    lines = body(trace)
    assert lines.index("mark: 0x0 → 0x4000") < lines.index("destination: 192.0.2.15:80 → 10.180.1.9:8080")
    assert lines.index("destination: 192.0.2.15:80 → 10.180.1.9:8080") < lines.index("mark: 0x4000 → 0x0")
    assert any(re.fullmatch(r"source: 203\.0\.113\.7:40000 → 192\.168\.0\.1:\d+", line) for line in lines)
    assert trace.words == (
        "delivered to 10.180.1.9:8080 (pod shop/guarded-0 on node-2) as 203.0.113.7 → masqueraded as 192.168.0.1, "
        "source port drawn at random"
    )


def test_what_led_nowhere_is_left_out_of_the_summary_only(cluster: Cluster) -> None:
    trace = cluster.trace("node-1", WEB_SERVICE, sender="pod")
    assert "KUBE-PROXY-FIREWALL" not in trace.text()
    assert "KUBE-PROXY-FIREWALL" in trace.text(Depth.DETAILED)


def test_a_process_gets_its_source_from_routing(cluster: Cluster) -> None:
    """K-2.1."""
    lines = body(cluster.trace("node-1", WEB_SERVICE, sender="node"))
    assert lines[1].endswith(", made here")
    assert "source chosen by routing: 192.168.0.1:40000" in lines


@pytest.mark.parametrize(
    ("sender", "dst", "words"),
    [
        ("pod", "172.30.0.14:80", "rejected with icmp-port-unreachable by filter/KUBE-SERVICES rule "),
        ("node", "172.30.0.14:80", "(no endpoints of shop/empty:p); the sender's system call fails with ECONNREFUSED"),
        ("pod", "172.30.0.13:80", "on node-1 (no local endpoints of shop/inner:p)"),
        ("pod", "192.0.2.15:80", "on node-1 (source ranges: the rest of shop/guarded:p)"),
        (
            "external",
            "192.168.0.1:22",
            "passed: kube-proxy leaves it alone; delivered to node-1 itself at 192.168.0.1:22",
        ),
        ("pod", "10.180.1.5:8080", "delivered to 10.180.1.5:8080 (pod shop/web-1 on node-2)"),
        ("pod", "203.0.113.50:443", "passed: kube-proxy leaves it alone; it left node-1 by eth0 towards 203.0.113.50"),
        ("pod", "192.168.0.2:22", "delivered to node-2 itself at 192.168.0.2:22"),
    ],
)
def test_the_line_before_the_last_says_what_became_of_it(cluster: Cluster, sender: str, dst: str, words: str) -> None:
    trace = cluster.trace("node-1", dst, sender=sender)
    assert words in trace.words
    assert trace.text().splitlines()[-2] == trace.words
    assert trace.text().splitlines()[-1].startswith("the client gets: ")


def test_a_rejection_shows_its_answer(cluster: Cluster) -> None:
    """K-3.1: it comes from the node's own address."""
    trace = cluster.trace("node-1", "192.168.0.1:30084", src=CLIENT)
    assert "answer: icmp-port-unreachable from 192.168.0.1 to 203.0.113.7" in body(trace)


def test_every_outcome_over_all_nodes_on_the_way(cluster: Cluster) -> None:
    """PP-11.11: the other node draws."""
    trace = cluster.trace("node-1", "192.168.0.2:30080", sender="pod", src="10.180.0.77:40000", expand=True)
    lines = body(trace)
    assert lines[lines.index("every outcome:") + 1 :][:3] == [
        "1/3  10.180.0.5:8080  masqueraded as 192.168.0.2",
        "1/3  10.180.1.5:8080  masqueraded as 10.180.1.1",
        "1/3  10.180.2.5:8080  masqueraded as 192.168.0.2",
    ]


# --- minimal ---------------------------------------------------------------------------------------------------------------


def minimal(cluster: Cluster, dst: str, **options: object) -> list[str]:
    return cluster.trace("node-1", dst, **options).text(Depth.MINIMAL).splitlines()  # type: ignore[arg-type]


def test_minimal_is_two_lines_or_three(cluster: Cluster) -> None:
    head, by, exchange = minimal(cluster, "192.0.2.15:80")
    assert head == "delivered 10.180.1.9:8080 masqueraded"
    assert by.startswith('by nat/KUBE-SERVICES -m comment --comment "shop/guarded:p loadbalancer IP" ')
    assert exchange == "exchange works"
    head, by, exchange = minimal(cluster, "192.168.0.1:30084")
    assert head == "rejected icmp-port-unreachable"
    assert by.startswith("by filter/KUBE-EXTERNAL-SERVICES ")
    assert exchange == "exchange refused"
    assert minimal(cluster, "172.30.0.13:80")[::2] == ["dropped", "exchange request-lost"]
    assert minimal(cluster, "192.168.0.1:22") == ["passed", "exchange refused"]


def test_minimal_with_every_outcome(cluster: Cluster) -> None:
    assert minimal(cluster, "192.0.2.11:80", sender="pod", src="10.180.0.77:40000", expand=True)[0] == (
        "delivered 10.180.0.6:8080 1/2, 10.180.1.6:8080 1/2"
    )


def test_the_seed_decides_what_is_drawn_and_nothing_else(cluster: Cluster) -> None:
    drawn = {minimal(cluster, WEB_SERVICE, sender="pod", seed=seed)[0] for seed in range(20)}
    assert drawn == {f"delivered {ip}:8080" for ip in ("10.180.0.5", "10.180.1.5", "10.180.2.5")}
    assert minimal(cluster, WEB_SERVICE, sender="pod", seed=3) == minimal(cluster, WEB_SERVICE, sender="pod", seed=3)


# --- chains ----------------------------------------------------------------------------------------------------------------

JUMPS = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:A - [0:0]
:B - [0:0]
:C - [0:0]
-A FORWARD -j A
-A FORWARD -j C
-A A -g B
-A A -j MARK --set-xmark 0x1/0x1
-A B -j MARK --set-xmark 0x2/0x2
-A C -p udp -j ACCEPT
-A C -p tcp -m tcp --dport 80 -j RETURN
-A C -j ACCEPT
COMMIT
"""


def test_goto_does_not_come_back_and_return_does() -> None:
    trace = traced(JUMPS)
    items = build_tree(trace.journey.hops[0].walk)
    [forward] = [i for i in items if isinstance(i, HookBlock) and i.hook == "FORWARD" and i.name == "filter"]
    [chain] = [i for i in forward.items if isinstance(i, ChainBlock)]
    first, second = chain.rules
    assert first.chain is not None
    assert second.chain is not None
    [goto] = first.chain.rules
    assert goto.chain is not None
    assert [rule.step.at.number for rule in goto.chain.rules] == [1]
    assert (goto.chain.at_end, first.chain.at_end) == (True, False)
    assert [rule.step.at.number for rule in second.chain.rules] == [2]
    assert (second.chain.at_end, chain.at_end) == (False, True)
    assert trace.words == "dropped by filter/FORWARD policy on n (not kube-proxy's)"  # it sets none


def test_reasons_are_the_first_condition_that_was_false() -> None:
    lines = body(traced(JUMPS), Depth.DETAILED)
    assert "rule 1: not kube-proxy's: no, protocol is not udp" in lines
    assert not any(line.startswith("rule 3:") for line in lines)  # never tried, RETURN stands before it


REASONS = [
    ("-d 192.0.2.9/32", "destination is not 192.0.2.9/32"),
    ("! -d 192.0.2.0/24", "destination is 192.0.2.0/24"),
    ("-s 10.0.0.0/8", "source is not 10.0.0.0/8"),
    ("-i cni0", "input interface is not cni0"),
    ("-o cni+", "output interface is not cni+"),
    ("-p tcp -m tcp --dport 443", "destination port is not 443"),
    ("-p tcp -m tcp --sport 1:1023", "source port is not 1 to 1023"),
    ("-m addrtype --dst-type LOCAL", "destination type is not LOCAL"),
    ("-m conntrack --ctstate RELATED,ESTABLISHED", "conntrack state is not RELATED or ESTABLISHED"),
    ("-m conntrack ! --ctstate NEW", "conntrack state is NEW"),
    ("-m mark --mark 0x4000/0x4000", "mark is not 0x4000/0x4000"),
    ("-m recent --name L --rcheck --seconds 9", "the list L says no"),
    ("-m statistic --mode random --probability 0.0000000005", "not drawn (probability 0.0000000005)"),
]


@pytest.mark.parametrize(("condition", "words"), REASONS)
def test_reasons_in_words(condition: str, words: str) -> None:
    rules = f"*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD {condition} -j DROP\nCOMMIT\n"
    assert f"rule 1: not kube-proxy's: no, {words}" in body(traced(rules), Depth.DETAILED)


def test_a_mark_set_on_the_way_counts_for_the_rules_behind_it() -> None:
    rules = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j MARK --set-xmark 0x1/0xffffffff\n-A FORWARD -m mark --mark 0x2 -j DROP\n"
    rules += "-A FORWARD -m mark ! --mark 0x1 -j DROP\nCOMMIT\n"
    lines = body(traced(rules), Depth.DETAILED)
    assert "rule 2: not kube-proxy's: no, mark is not 0x2/0xffffffff" in lines
    assert "rule 3: not kube-proxy's: no, mark is 0x1/0xffffffff" in lines


def test_a_reset_that_ends_its_connection_is_not_taken_for_invalid() -> None:
    """CT-4.3: the kernel forgets the connection before any rule sees the packet, and still calls it NEW or ESTABLISHED."""
    rules = (
        "*filter\n:FORWARD ACCEPT [0:0]\n"
        "-A FORWARD -m conntrack --ctstate INVALID -j DROP\n-A FORWARD -m conntrack --ctdir REPLY -j DROP\nCOMMIT\n"
    )
    site = rules_site(parse(rules, Family.IPV4), node_ips=["192.168.0.1"])
    packet = make_packet("TCP", "192.0.2.1", 80)
    trace_packet(site, packet, node="n", sender=Sender.EXTERNAL, commit=True)
    packet.tcp_flags = frozenset({"RST"})
    lines = body(trace_packet(site, packet, node="n", sender=Sender.EXTERNAL), Depth.DETAILED)
    assert "rule 1: not kube-proxy's: no, conntrack state is not INVALID" in lines
    assert "rule 2: not kube-proxy's: no, direction is not REPLY" in lines


def test_runs_of_other_destinations_are_told_as_one() -> None:
    others = "".join(f"-A FORWARD -d 192.0.2.{n}/32 -p tcp -m tcp --dport 80 -j DROP\n" for n in range(10, 60))
    rules = f"*filter\n:FORWARD ACCEPT [0:0]\n{others}-A FORWARD -i nowhere -j DROP\nCOMMIT\n"
    lines = body(traced(rules), Depth.DETAILED)
    assert "rules 1 to 50: for other destinations" in lines
    assert "rule 51: not kube-proxy's: no, input interface is not nowhere" in lines


def test_a_rule_that_is_not_modelled_ends_the_trace_as_unknown() -> None:
    rules = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -m hashlimit --hashlimit-name x -j DROP\nCOMMIT\n"
    ruleset = parse(rules, Family.IPV4, unknown="keep")
    site = rules_site(ruleset, node_ips=["192.168.0.1"])
    trace = trace_packet(site, make_packet("TCP", "192.0.2.1", 80), node="n", sender=Sender.EXTERNAL)
    assert trace.text(Depth.MINIMAL).splitlines()[0] == "unknown"
    assert "hashlimit" in trace.words


# --- agreement with the steps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", ["pod", "node", "external", "peer"])
@pytest.mark.parametrize(
    "dst", [WEB_SERVICE, "192.0.2.11:80", "192.168.0.1:30082", "172.30.0.14:80", "192.168.0.2:30080"]
)
def test_the_tree_holds_every_rule_that_matched_in_order(cluster: Cluster, sender: str, dst: str) -> None:
    journey = cluster.trace("node-1", dst, sender=sender).journey
    for hop in journey.hops:
        steps = [step for step in hop.walk.trace if isinstance(step, RuleMatched)]
        assert [rule.step for rule in matched_rules(build_tree(hop.walk))] == steps


@pytest.mark.parametrize("sender", list(Sender))
@pytest.mark.parametrize("dst", ["172.30.0.10", "192.0.2.15", "192.168.0.1"])
def test_no_reason_is_given_against_the_plain_walk(cluster: Cluster, sender: Sender, dst: str) -> None:
    """Every unmatched rule that the detailed text explains is unmatched when nothing is indexed, too."""
    packet = make_packet("TCP", dst, 30080 if dst == "192.168.0.1" else 80)
    begun = cluster.site.begin(packet, "node-1", sender)
    netns = cluster.site.netns("node-1", Family.IPV4)
    plain = walk(
        netns, begun, now_ns=0, chooser=SeededChooser(0, 0), local=sender is Sender.NODE, indexed=False
    )  # fmt: skip
    text = trace_packet(cluster.site, packet, node="node-1", sender=sender, now_ns=0).text(Depth.DETAILED)
    assert "a condition did not hold" not in text  # every reason is known
    first_hop = text.split("\n\n")[1]
    shown = re.findall(r"rule (\d+): (?!.*: no, )", first_hop)
    assert shown == [str(s.at.number) for s in plain.trace if isinstance(s, RuleMatched)]


def test_json_has_every_step(cluster: Cluster) -> None:
    trace = cluster.trace("node-1", "192.0.2.15:80", src=CLIENT)
    record = trace.to_json()
    for hop, told in zip(trace.journey.hops, record["hops"], strict=True):
        assert [step["step"] for step in told["steps"]] == [type(step).__name__ for step in hop.walk.trace]
    assert (record["disposition"], record["from"], record["node"]) == ("delivered", "external", "node-1")
    rule = next(
        step for step in record["hops"][0]["steps"] if step["step"] == "RuleMatched" and step["origin"]["service"]
    )
    assert rule["origin"] == {
        "role": "load balancer IP", "service": "shop/guarded:p", "protocol": "TCP", "endpoint": None,
    }  # fmt: skip
    assert rule["rule"].startswith('-A KUBE-SERVICES -m comment --comment "shop/guarded:p loadbalancer IP" ')
    assert record["end"] == {"whose": "pod", "node": "node-2", "name": "pod shop/guarded-0 on node-2"}
    assert "outcomes" not in record


def test_a_notebook_shows_the_text(cluster: Cluster) -> None:
    html = cluster.trace("node-1", WEB_SERVICE, sender="pod")._repr_html_()
    assert html.partition(">")[2].startswith("tcp ")
    assert "-&gt;" in html


def test_tracing_leaves_no_connections_behind(cluster: Cluster) -> None:
    cluster.trace("node-1", WEB_SERVICE, sender="pod")
    assert len(cluster.site.netns("node-1", Family.IPV4).conntrack) == 0


def test_a_file_with_nat_comments_explains_kube_proxys_rules(tmp_path: Path, cluster: Cluster) -> None:
    """Why a rule exists is found in a saved ruleset too."""
    site = rules_site(
        parse(cluster.rules("node-1", family=Family.IPV4), Family.IPV4),
        node_ips=["192.168.0.1"], pod_cidrs=["10.180.0.0/24"],
    )  # fmt: skip
    trace = trace_packet(site, make_packet("TCP", "192.0.2.15", 80), node="n", sender=Sender.EXTERNAL)
    assert any(line.endswith(": load balancer IP of shop/guarded:p") for line in body(trace))
