"""Traces through rules of nft: the element that decided, its set, the numbers that were drawn, and the nearest misses."""

import json

import pytest
from shop import CONFIG, EVERYTHING, cluster_text, endpoints, port, service

from kpsim.addresses import Family
from kpsim.dialects import dialect_reading
from kpsim.explore import Cluster, load
from kpsim.explore.site import rules_site
from kpsim.tracing.explain import Depth
from kpsim.tracing.probes import make_packet
from kpsim.tracing.site import Sender
from kpsim.tracing.traces import Trace, trace_packet

STICKY = (
    service("sticky", f"clusterIP: 172.30.0.20, sessionAffinity: ClientIP, {port(80)}"),
    endpoints("sticky", 8080, {"10.180.0.7": "node-1", "10.180.1.7": "node-2"}),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    file = tmp_path_factory.mktemp("shop") / "cluster.yaml"
    file.write_text(cluster_text((*EVERYTHING, *STICKY), config=CONFIG.replace("iptables", "nftables")))
    return load(file)


def body(trace: Trace, depth: Depth = Depth.SUMMARY) -> list[str]:
    return [line.strip() for line in trace.text(depth).splitlines() if line.strip()]


def assert_told(lines: list[str], *wanted: str) -> None:
    """AssertionError unless all these lines are there, in this order."""
    rest = iter(lines)
    assert [line for line in wanted if line not in rest] == []


def test_a_service_is_found_by_its_element_and_an_endpoint_by_its_number(cluster: Cluster) -> None:
    """NFT-5.6, 6.5, 6.9."""
    lines = body(cluster.trace("node-1", "172.30.0.10:80", sender="pod", src="10.180.0.77:40000"))
    ends = ["10.180.0.5", "10.180.1.5", "10.180.2.5"]
    number = next(number for number in range(3) if f"drawn: {number}, one of 3" in lines)
    end = ends[number]
    assert_told(
        lines,
        "rule 2: cluster IP of shop/web:p",
        "add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips",
        "@service-ips { 172.30.0.10 . tcp . 80 : goto service-CAZEGXAM-shop/web/tcp/p }",
        "kube-proxy/service-CAZEGXAM-shop/web/tcp/p",
        f"rule 1: endpoint of shop/web:p, {end}:8080",
        f"{{ {number} : {end} . 8080 }}",
        f"drawn: {number}, one of 3",
        f"destination: 172.30.0.10:80 → {end}:8080",
    )


def test_affinity_sets_are_asked_and_told(cluster: Cluster) -> None:
    """NFT-6.10."""
    lines = body(cluster.trace("node-1", "172.30.0.20:80", sender="pod", src="10.180.0.77:40000"))
    asked = [line for line in lines if line.startswith("10.180.0.77 in @affinity-")]
    told = [line for line in lines if line.startswith("update 10.180.0.77 in @affinity-")]
    assert len(asked) == 2 and all(line.endswith(": no") for line in asked)
    assert len(told) == 1 and told[0].removeprefix("update ") in [line.removesuffix(": no") for line in asked]


def test_refusals_name_the_service_whose_element_led_there(cluster: Cluster) -> None:
    """NFT-5.2 to 5.4, 6.4, 6.8."""
    refused = body(cluster.trace("node-1", "172.30.0.14:80", sender="pod", src="10.180.0.77:40000"))
    assert refused[-2] == (
        "rejected with icmp-port-unreachable by kube-proxy/reject-chain rule 1 on node-1 (no endpoints of shop/empty:p)"
    )
    dropped = body(cluster.trace("node-1", "192.168.0.1:30082", sender="external", src="203.0.113.7:40000"))
    assert "(no local endpoints of shop/remote:p)" in dropped[-2]
    outside = body(cluster.trace("node-1", "192.0.2.15:80", sender="external", src="203.0.113.200:40000"))
    assert outside[-2].startswith("dropped by kube-proxy/firewall-") and "of shop/guarded:p)" in outside[-2]


def test_the_nearest_misses_name_the_map_or_set(cluster: Cluster) -> None:
    lines = body(cluster.trace("node-1", "172.30.0.10:81", sender="pod", src="10.180.0.77:40000"), Depth.DETAILED)
    assert_told(
        lines,
        "rule 1: source range: no, @firewall-ips has nothing for this destination, protocol and destination port",
        "rule 1: masquerade for the cluster IP: no, source is 10.180.0.0/16",
        "rule 2: service dispatch: no, @service-ips has nothing for this destination, protocol and destination port",
        "rule 3: node port dispatch: no, destination is not in @nodeport-ips",
        "rule 1: undefined port of a cluster IP",
    )


def minimal(cluster: Cluster, dst: str) -> str:
    lines = cluster.trace("node-1", dst, sender="external", src="203.0.113.7:40000").text(Depth.MINIMAL).splitlines()
    return lines[1].removeprefix("by ")


def test_what_decided_is_the_rule_and_its_element(cluster: Cluster) -> None:
    services = "kube-proxy/services ip daddr . meta l4proto . th dport vmap @service-ips"
    assert minimal(cluster, "192.0.2.10:80") == (
        f"{services} {{ 192.0.2.10 . tcp . 80 : goto external-CAZEGXAM-shop/web/tcp/p }}"
    )
    assert minimal(cluster, "172.30.0.14:80") == (
        'kube-proxy/reject-chain reject, by @no-endpoint-services { 172.30.0.14 . tcp . 80 comment "shop/empty:p" : '
        "goto reject-chain }"
    )
    assert minimal(cluster, "172.30.0.10:81").startswith("kube-proxy/cluster-ips-check ip daddr @cluster-ips reject")


def test_json_has_the_element_the_number_and_the_sets(cluster: Cluster) -> None:
    trace = cluster.trace("node-1", "172.30.0.20:80", sender="pod", src="10.180.0.77:40000")
    steps = json.loads(json.dumps(trace.to_json()))["hops"][0]["steps"]
    matched = [step for step in steps if step["step"] == "RuleMatched" and "element" in step]
    assert [step["origin"]["role"] for step in matched] == ["cluster IP", "load balancing"]
    assert matched[0]["element"].startswith("@service-ips { 172.30.0.20 . tcp . 80 : goto service-")
    (drawn,) = [step for step in steps if step["step"] == "Drawn"]
    assert drawn["of"] == 2 and matched[1]["element"].startswith(f"{{ {drawn['number']} : goto endpoint-")
    asked = [step for step in steps if step["step"] == "SetAsked"]
    assert [(step["key"], step["found"]) for step in asked] == [("10.180.0.77", False)] * 2
    (told,) = [step for step in steps if step["step"] == "SetTold"]
    assert (told["does"], told["kept"], told["key"]) == ("update", True, "10.180.0.77")


FOREIGN = """
table inet f {
    set seen { type ipv4_addr; flags dynamic; size 1; elements = { 198.51.100.1 } }
    map verdicts { type inet_service : verdict; elements = { 22 : accept } }
    chain forward {
        type filter hook forward priority 0; policy drop;
        tcp dport vmap @verdicts
        ct state vmap { established : accept, related : accept }
        add @seen { ip saddr } accept
    }
}
"""


def test_a_full_set_and_a_missing_key_are_reasons() -> None:
    (rules,) = dialect_reading(FOREIGN).parse(FOREIGN, Family.IPV4)
    site = rules_site(rules, node_ips=["192.168.0.1"], pod_cidrs=["10.180.0.0/24"])
    trace = trace_packet(site, make_packet("TCP", "192.0.2.1", 80), node="n", sender=Sender.EXTERNAL)
    lines = body(trace, Depth.DETAILED)
    assert "rule 1: not kube-proxy's: no, @verdicts has nothing for this destination port" in lines
    assert any(line.startswith("rule 2: not kube-proxy's: no, ") and "conntrack state" in line for line in lines)
    assert any(line.startswith("rule 3: not kube-proxy's: no, ") and "seen" in line for line in lines)
    assert lines[-1 if lines[-1].startswith("dropped") else -2].startswith("dropped by f/forward policy")


def test_a_table_tells_whose_its_rules_are() -> None:
    text = FOREIGN.replace("table inet f {", "table inet firewalld {").replace("add @seen { ip saddr } accept", "drop")
    (rules,) = dialect_reading(text).parse(text, Family.IPV4)
    site = rules_site(rules, node_ips=["192.168.0.1"], pod_cidrs=["10.180.0.0/24"])
    lines = body(trace_packet(site, make_packet("TCP", "192.0.2.1", 80), node="n", sender=Sender.EXTERNAL))
    assert "rule 3: not kube-proxy's but firewalld's" in lines


def test_chains_that_did_nothing_are_left_out_of_the_summary(cluster: Cluster) -> None:
    lines = body(cluster.trace("node-1", "203.0.113.50:443", sender="pod", src="10.180.0.77:40000"))
    assert not [line for line in lines if line.startswith("kube-proxy/")]
