"""Packets across nodes and their answers (PP-5.5, PP-11, K-1.6, K-2.6)."""

import pytest
from exchanges import Exchange, Failure, describe, exchange
from packets import (
    CLIENT,
    CLUSTER_IP,
    NODE,
    NODE_PORT,
    OTHER_NODE,
    OTHER_POD,
    POD,
    REMOTE_POD,
    build_fabric,
    ip,
    net,
    node_netns,
    packet,
    packet_between,
    rule,
    ruleset,
    service_rules,
    table,
)
from rule_parts import marked, set_mark, to_net

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.fabric import Fabric, Place, Whose, answer_to, reply, send
from kpsim.netfilter import Disposition
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.ruleset import DROP, Counter, Dnat, Masquerade, Unknown
from kpsim.sysctls import Sysctls

THIRD_NODE, THIRD_POD = "192.168.0.3", "10.180.2.4"
CLIENTS = net("203.0.113.0/24")


def cluster(*endpoints: str, sysctls: Sysctls | None = None) -> Fabric:
    """Nodes n1, n2, n3 with pods in 10.180.0–2.0/24, all with the same Service."""
    nodes = {f"n{i + 1}": ([f"192.168.0.{i + 1}"], [f"10.180.{i}.0/24"]) for i in range(3)}
    fabric = build_fabric(nodes, sysctls=sysctls)
    for netns in fabric.nodes.values():
        netns.load_rules(service_rules(endpoints))
    return fabric


def talk(fabric: Fabric, sent: Packet, at_node: str, **options) -> Exchange:
    return exchange(fabric, sent, at_node=at_node, now_ns=0, chooser=SeededChooser(1, 0), outside=[CLIENTS], **options)


@pytest.mark.parametrize(
    ("number", "source", "destination", "at_node", "endpoint", "way", "seen_as", "answer_way"),
    [  # PP-11; H as source: the kernel chooses
        ("11.1", POD, CLUSTER_IP, "n1", OTHER_POD, f"n1 → pod {OTHER_POD}", POD, f"n1 → pod {POD}"),
        ("11.2", POD, CLUSTER_IP, "n1", REMOTE_POD, f"n1 → n2 → pod {REMOTE_POD}", POD, f"n2 → n1 → pod {POD}"),
        ("11.3", "", CLUSTER_IP, "n1", REMOTE_POD, f"n1 → n2 → pod {REMOTE_POD}", NODE, "n2 → n1 → process"),
        ("11.4", CLIENT, NODE, "n1", OTHER_POD, f"n1 → pod {OTHER_POD}", "10.180.0.1", "n1 → outside"),
        ("11.5", CLIENT, NODE, "n1", REMOTE_POD, f"n1 → n2 → pod {REMOTE_POD}", NODE, "n2 → n1 → outside"),
        (
            "11.11",
            POD,
            OTHER_NODE,
            "n1",
            REMOTE_POD,
            f"n1 → n2 → pod {REMOTE_POD}",
            "10.180.1.1",
            f"n2 → n1 → pod {POD}",
        ),
    ],
)
def test_composite_paths(number, source, destination, at_node, endpoint, way, seen_as, answer_way):
    dport = 80 if destination == CLUSTER_IP else NODE_PORT
    result = talk(cluster(endpoint), packet(source, destination, dport), at_node, local=not source)
    assert result.works, result.failure
    assert describe(result.request) == way
    assert result.request.packet.source == seen_as
    assert result.answer is not None and describe(result.answer) == answer_way
    assert (result.answer.packet.source, result.answer.packet.sport) == (destination, dport)


def test_an_unmasqueraded_detour_makes_the_answer_bypass_the_translation():  # PP-5.5
    fabric = cluster(THIRD_POD)
    keep_source = table("nat", PREROUTING=(rule(to_net(net(OTHER_NODE)), Dnat(ip(THIRD_POD), 8080)),))
    for name, netns in fabric.nodes.items():
        netns.load_rules(ruleset(keep_source) if name == "n2" else ruleset())
    result = talk(fabric, packet(POD, OTHER_NODE, NODE_PORT), "n1")
    assert describe(result.request) == f"n1 → n2 → n3 → pod {THIRD_POD}"
    assert result.failure is Failure.ANSWER_FROM_WRONG_ADDRESS
    assert result.answer is not None and describe(result.answer) == f"n3 → n1 → pod {POD}"
    assert result.answer.packet.source == THIRD_POD


def test_a_node_that_drops_invalid_packets_swallows_such_an_answer():  # PP-5.5 with I-11
    fabric = cluster(THIRD_POD)
    keep_source = table("nat", PREROUTING=(rule(to_net(net(OTHER_NODE)), Dnat(ip(THIRD_POD), 8080)),))
    fabric.nodes["n2"].load_rules(ruleset(keep_source))
    assert talk(fabric, packet(POD, OTHER_NODE, NODE_PORT), "n1").failure is Failure.ANSWER_LOST


@pytest.mark.parametrize(("bridge_nf", "failure"), [(True, Failure.NONE), (False, Failure.ANSWER_FROM_WRONG_ADDRESS)])
def test_answers_between_pods_of_one_bridge_need_bridge_nf(bridge_nf, failure):  # K-2.6
    fabric = cluster(OTHER_POD, sysctls=Sysctls(bridge_nf_call_iptables=bridge_nf))
    assert talk(fabric, packet(POD, CLUSTER_IP), "n1").failure is failure
    assert talk(fabric, packet("", CLUSTER_IP), "n1", local=True).works  # the answer is for the node: no matter


@pytest.mark.parametrize("bridge_nf", [True, False])
def test_hairpin_works_regardless(bridge_nf):  # K-2.6
    assert talk(cluster(POD, sysctls=Sysctls(bridge_nf_call_iptables=bridge_nf)), packet(POD, CLUSTER_IP), "n1").works


@pytest.mark.parametrize("endpoint", [NODE, OTHER_NODE])
@pytest.mark.parametrize(("source", "local"), [(POD, False), ("", True), (CLIENT, False)])
def test_host_network_endpoints_answer(endpoint, source, local):
    destination, dport = (NODE, NODE_PORT) if source == CLIENT else (CLUSTER_IP, 80)
    result = talk(cluster(endpoint), packet(source, destination, dport), "n1", local=local)
    assert result.works, result.failure
    assert result.request.end == Place(Whose.PROCESS, {NODE: "n1", OTHER_NODE: "n2"}[endpoint])


def test_no_endpoints_is_refused_at_the_first_node():
    result = talk(cluster(), packet(POD, CLUSTER_IP), "n1")
    assert (result.failure, result.answer, result.request.end) == (Failure.REJECTED, None, None)
    assert describe(result.request) == "n1 → rejected"


def test_what_leaves_the_cluster_is_answered_only_by_known_networks():
    assert talk(cluster(POD), packet(POD, "172.30.0.99"), "n1").failure is Failure.NOBODY_THERE
    outside = talk(cluster(POD), packet(POD, CLIENT), "n1")
    assert (outside.failure, outside.request.disposition) == (Failure.NONE, Disposition.FORWARDED)
    assert outside.request.end == Place(Whose.OUTSIDE)


def test_marks_do_not_travel_between_nodes():
    fabric = cluster()
    fabric.nodes["n1"].load_rules(ruleset(table("mangle", POSTROUTING=(rule(set_mark(0x4000, 0x4000)),))))
    fabric.nodes["n2"].load_rules(
        ruleset(table("mangle", PREROUTING=(rule(marked(0x4000, 0x4000), Counter("marked")),)))
    )
    journey = send(fabric, packet(POD, REMOTE_POD), at_node="n1", now_ns=0, chooser=SeededChooser(1, 0))
    assert len(journey.hops) == 2
    assert fabric.nodes["n2"].memory.counters == {}


def test_a_routing_loop_ends_with_the_time_to_live():
    nodes = {
        "n1": node_netns("n1", [NODE], [], peers={OTHER_NODE: ["10.9.0.0/16"]}),
        "n2": node_netns("n2", [OTHER_NODE], [], peers={NODE: ["10.9.0.0/16"]}),
    }
    journey = send(Fabric(nodes), packet(CLIENT, "10.9.0.1"), at_node="n1", now_ns=0, chooser=SeededChooser(1, 0))
    assert journey.disposition is Disposition.REJECTED
    assert len(journey.hops) == 64


def test_pings_are_answered():
    fabric = cluster()
    result = talk(fabric, packet(POD, REMOTE_POD, 0, protocol="icmp", sport=7), "n1")
    assert result.works, result.failure
    assert result.answer is not None and result.answer.packet.icmp_type == 0
    assert answer_to(packet_between("icmpv6", "fd00::1", "fd00::2")).icmp_type == 129


def test_unknown_rules_give_no_answer():
    fabric = cluster(POD)
    fabric.nodes["n1"].load_rules(ruleset(table("filter", FORWARD=(rule(Unknown("-m hashlimit"), DROP),))))
    assert talk(fabric, packet(CLIENT, POD), "n1").failure is Failure.UNKNOWN


def test_the_gateway_knows_nodes_but_not_their_pods():
    fabric = Fabric(
        {"near": node_netns("near", [NODE], []), "far": node_netns("far", ["192.168.9.1"], ["10.180.9.0/24"])}
    )
    options = {"at_node": "near", "now_ns": 0, "chooser": SeededChooser(1, 0), "local": True}
    assert send(fabric, packet("", "10.180.9.5"), **options).end == Place(Whose.OUTSIDE)
    assert send(fabric, packet("", "192.168.9.1"), **options).end == Place(Whose.PROCESS, "far")


def test_cni_masquerading_of_pods_to_the_outside_comes_back():
    fabric = cluster()
    masquerade = rule(to_net(net("10.180.0.0/16"), negate=True), Masquerade())
    fabric.nodes["n1"].load_rules(ruleset(table("nat", POSTROUTING=(masquerade,))))
    result = talk(fabric, packet(POD, CLIENT), "n1")
    assert result.request.packet.source == NODE
    assert result.works, result.failure


def test_ipv6_nodes():
    fabric = build_fabric({"a": (["2001:db8::1"], ["fd00:1::/64"]), "b": (["2001:db8::2"], ["fd00:2::/64"])})
    sent = packet_between("tcp", "fd00:1::5", "fd00:2::5", sport=40000, dport=80)
    result = talk(fabric, sent, "a")
    assert result.works, result.failure
    assert describe(result.request) == "a → b → pod fd00:2::5"


def test_a_packet_that_is_not_committed_leaves_nothing():
    fabric = cluster(REMOTE_POD)
    options = {"at_node": "n1", "now_ns": 0, "chooser": SeededChooser(1, 0)}
    asked = send(fabric, packet(POD, CLUSTER_IP), commit=False, **options)
    assert [len(netns.conntrack) for netns in fabric.nodes.values()] == [0, 0, 0]
    assert send(fabric, packet(POD, CLUSTER_IP), **options) == asked
    assert [len(netns.conntrack) for netns in fabric.nodes.values()] == [1, 1, 0]


def test_whose_address():
    fabric = cluster()
    assert fabric.place_of(Family.IPV4, ip(OTHER_NODE)) == Place(Whose.PROCESS, "n2")
    assert fabric.place_of(Family.IPV4, ip(REMOTE_POD)) == Place(Whose.POD, "n2", ip(REMOTE_POD))
    assert fabric.place_of(Family.IPV4, ip(CLIENT)) == Place(Whose.OUTSIDE)


def test_bad_input_is_refused_by_name():
    with pytest.raises(InputError, match="no such node: 'n9'"):
        talk(cluster(), packet(POD, REMOTE_POD), "n9")
    with pytest.raises(InputError, match="not a network"):
        node_netns("n", [NODE], ["10.180.0.0"])
    dropped = send(cluster(), packet(POD, CLUSTER_IP), at_node="n1", now_ns=0, chooser=SeededChooser(1, 0))
    with pytest.raises(InputError, match="nobody answers"):
        reply(cluster(), dropped, now_ns=0, chooser=SeededChooser(1, 0))
