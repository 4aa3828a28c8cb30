"""The origins of the rules in a saved dump (I-3, I-5, I-7, I-8), read from the worked examples I-20 and I-21."""

import re
from pathlib import Path

from kpsim.addresses import Family
from kpsim.dialects.iptables import parse
from kpsim.ruleset import Origin, Role

FIXTURES = Path(__file__).parent / "dialects"
V4 = Family.IPV4


def document(name: str) -> str:
    return (FIXTURES / f"{name}.txt").read_text()


def origins(name: str, table: str, chain: str) -> list[Origin]:
    return [rule.origin for rule in parse(document(name), V4).chain(table, chain).rules]


def test_origins_of_a_saved_dump() -> None:
    """I-20.6 and I-20.7, the protocol of balancing rules taken from the dispatch rule that leads to them."""
    web, svc = "shop/web:http", "KUBE-SVC-67NZLRHBNDSAWJRO"
    assert origins("cluster_ip_save", "nat", svc) == [
        Origin(Role.MASQUERADE_CLUSTER_IP, web, "TCP"),
        Origin(Role.BALANCE, web, "TCP", "10.180.0.12:8080"),
        Origin(Role.BALANCE, web, "TCP", "10.180.0.3:8080"),
        Origin(Role.BALANCE, web, "TCP", "10.180.1.7:8080"),
    ]
    assert origins("cluster_ip_save", "nat", "KUBE-SEP-JQD5QAB7X3L27L5I") == [
        Origin(Role.HAIRPIN, web, "TCP", "10.180.0.3:8080"),
        Origin(Role.ENDPOINT, web, "TCP", "10.180.0.3:8080"),
    ]
    assert origins("cluster_ip_save", "nat", "KUBE-EXT-67NZLRHBNDSAWJRO") == [
        Origin(Role.MASQUERADE_EXTERNAL, web, "TCP"),
        Origin(Role.EXTERNAL_POLICY, web, "TCP"),
    ]
    assert origins("cluster_ip_save", "nat", "KUBE-NODEPORTS") == [Origin(Role.NODE_PORT, web, "TCP")] * 2
    assert [origin.role for origin in origins("cluster_ip_save", "nat", "KUBE-SERVICES")] == [
        Role.CLUSTER_IP, Role.CLUSTER_IP, Role.CLUSTER_IP, Role.NODE_PORTS,
    ]  # fmt: skip
    assert [origin.role for origin in origins("cluster_ip_save", "filter", "KUBE-FORWARD")] == [
        Role.INVALID_DROP, Role.FORWARD_ACCEPT, Role.FORWARD_CONNTRACK,
    ]  # fmt: skip
    assert origins("cluster_ip_save", "filter", "KUBE-SERVICES") == [Origin(Role.NO_ENDPOINTS, "shop/empty", "TCP")]
    assert origins("cluster_ip_save", "filter", "KUBE-FIREWALL") == [Origin(Role.LOCALNET_FIREWALL)]
    assert set(origins("cluster_ip_save", "filter", "INPUT")) == {Origin(Role.JUMP)}


def test_origins_of_a_load_balancer() -> None:
    """I-21.4."""
    edge = "prod/edge:https"
    assert [origin.role for origin in origins("load_balancer_save", "nat", "KUBE-EXT-DP2MXYD5GNOSPYYK")] == [
        Role.SHORT_CIRCUIT_POD, Role.MASQUERADE_EXTERNAL, Role.SHORT_CIRCUIT_LOCAL, Role.EXTERNAL_POLICY,
    ]  # fmt: skip
    assert origins("load_balancer_save", "nat", "KUBE-FW-DP2MXYD5GNOSPYYK") == [
        *[Origin(Role.SOURCE_RANGE, edge, "TCP")] * 3,
        Origin(Role.SOURCE_RANGE_DROP, edge, "TCP"),
    ]
    assert origins("load_balancer_save", "nat", "KUBE-SVL-DP2MXYD5GNOSPYYK") == [
        Origin(Role.AFFINITY, edge, "TCP", "10.180.0.21:8443"),
        Origin(Role.BALANCE, edge, "TCP", "10.180.0.21:8443"),
    ]


def test_origins_without_comments() -> None:
    """I-12.3: in large-cluster mode the balancing and endpoint rules have none; the jumps still tell whose they are."""
    text = re.sub(r' -m comment --comment "(shop/web:http|\S+ -> \S+)"', "", document("cluster_ip_save"))
    assert " -> " not in text
    with_comments, without = parse(document("cluster_ip_save"), V4), parse(text, V4)
    for chain in ("KUBE-SVC-67NZLRHBNDSAWJRO", "KUBE-SEP-JQD5QAB7X3L27L5I"):
        before, after = with_comments.chain("nat", chain).rules, without.chain("nat", chain).rules
        assert [rule.origin for rule in after] == [rule.origin for rule in before]


def test_other_peoples_rules_are_foreign() -> None:
    ruleset = parse(document("foreign_save"), V4)
    assert {rule.origin for table in ruleset.tables.values() for chain in table.ordered() for rule in chain.rules} == {
        Origin(Role.FOREIGN)
    }
