"""Answers that connection tracking cannot place, on a node with the rules that kube-proxy writes (K-6.5, CT-4.4;
measured).
"""

from dataclasses import replace

import pytest
from packets import (
    CLIENT,
    CLUSTER_IP,
    NODE,
    NODE_PORT,
    OTHER_POD,
    POD,
    REMOTE_POD,
    established,
    flags,
    node,
    packet,
    replied,
    run,
    to,
)
from proxiers import Rig, endpoint_slice, make_settings, port, service, slice_port

from kpsim.config import Host
from kpsim.netfilter import Disposition, Netns
from kpsim.packet import Packet, Window
from kpsim.sysctls import Sysctls


def kube_proxy_node(endpoint: str = REMOTE_POD, *, liberal: bool = False) -> Netns:
    """n1 with what its kube-proxy writes for a Service with cluster IP and node port."""
    kube_proxy = Rig(make_settings(host=Host(node_ips=(NODE,), tcp_be_liberal=liberal), cluster_cidr="10.180.0.0/16"))
    kube_proxy.apply(
        service("shop/web", [port(80, "http", "TCP", NODE_PORT)], cluster_ip=CLUSTER_IP, type="NodePort"),
        endpoint_slice("shop/web", [endpoint], [slice_port(8080)]),
    )
    kube_proxy.sync()
    return node(kube_proxy.proxier.held.ruleset, sysctls=Sysctls(tcp_be_liberal=liberal))


FROM_OUTSIDE = packet(CLIENT, NODE, NODE_PORT)
FROM_A_POD = packet(OTHER_POD, CLUSTER_IP, came_by="cni0")


def stray_answer(netns: Netns, request: Packet) -> Packet:
    """Data of the endpoint from far beyond its window."""
    return replied(established(netns, request), "PSH ACK", window=Window.OUTSIDE)


def test_a_masqueraded_flows_invalid_answer_ends_at_the_node_which_resets_the_endpoint() -> None:
    netns = kube_proxy_node()
    stray = stray_answer(netns, FROM_OUTSIDE)
    outcome = run(netns, stray)
    # it is addressed to the node, so the rule against INVALID in FORWARD never sees it
    assert (outcome.ct_state, outcome.disposition, to(outcome)) == (
        "INVALID",
        Disposition.DELIVERED,
        (NODE, stray.dport),
    )
    reset = Packet(stray.family, "tcp", stray.daddr, stray.saddr, stray.dport, stray.sport, flags("RST"))
    sent = run(netns, reset, local=True)
    assert (sent.ct_state, sent.disposition, to(sent)) == ("INVALID", Disposition.FORWARDED, (REMOTE_POD, 8080))
    assert (sent.packet.source, sent.packet.sport) == (NODE, stray.dport)
    [entry] = (
        netns.conntrack
    )  # the node's connection lives on: what the client sends goes to an endpoint that knows nothing of it
    assert entry.state == "ESTABLISHED"
    assert to(run(netns, replace(FROM_OUTSIDE, tcp_flags=flags("PSH ACK")))) == (REMOTE_POD, 8080)


@pytest.mark.parametrize("endpoint", [POD, REMOTE_POD])
def test_a_flow_that_is_not_masqueraded_is_kept_from_its_client_by_the_rule(endpoint: str) -> None:
    netns = kube_proxy_node(endpoint)
    outcome = run(netns, stray_answer(netns, FROM_A_POD))
    assert (outcome.ct_state, outcome.disposition) == ("INVALID", Disposition.DROPPED)
    assert outcome.rule is not None and (str(outcome.rule.table), outcome.rule.chain) == ("filter", "KUBE-FORWARD")


@pytest.mark.parametrize("request_", [FROM_OUTSIDE, FROM_A_POD])
def test_with_be_liberal_the_answer_reaches_the_client(request_: Packet) -> None:
    netns = kube_proxy_node(liberal=True)
    outcome = run(netns, stray_answer(netns, request_))
    assert (outcome.ct_state, outcome.disposition) == ("ESTABLISHED", Disposition.FORWARDED)
    assert (outcome.packet.source, outcome.packet.sport) == (request_.destination, request_.dport)
    assert to(outcome) == (request_.source, request_.sport)


def test_a_reset_that_is_invalid_never_reaches_the_client_of_a_masqueraded_flow() -> None:  # K-6.4
    netns = kube_proxy_node(liberal=True)
    stray = replace(stray_answer(netns, FROM_OUTSIDE), tcp_flags=flags("RST"), window=Window.BEFORE)
    outcome = run(netns, stray)
    assert (outcome.ct_state, outcome.disposition, to(outcome)[0]) == ("INVALID", Disposition.DELIVERED, NODE)
    [entry] = netns.conntrack
    assert entry.state == "ESTABLISHED"
