"""Packets through ip_vs on one node (IPVS-10, IPVS-11, IPVS-13), held against the specification.

No kernel that tests run on has ip_vs, so none of this has been compared with a kernel.
"""

from dataclasses import replace

import pytest
from ipvs_nodes import BY_KUBE_PROXY, TCP, connection_of, from_node, ipvs_node, made, told, virtual
from packets import (
    CLIENT,
    CLUSTER_IP,
    NODE,
    OTHER_NODE,
    OTHER_POD,
    POD,
    REMOTE_POD,
    dnat,
    established,
    flags,
    ip,
    packet,
    replied,
    rule,
    ruleset,
    run,
    table,
    to,
)
from rule_parts import ct_state, from_net, in_interface, of_protocol

from kpsim.addresses import Family, Network
from kpsim.ipvs.servers import RealServer, ServerReference, VirtualServerKey
from kpsim.ipvs.states import State
from kpsim.maps import Map
from kpsim.netfilter import Cause, Disposition, Hook
from kpsim.packet import Packet
from kpsim.packetpath.routing import PolicyRule, Route, RouteKind, Routing
from kpsim.packetpath.steps import HookEntered, Scheduled, Served, Service, describe
from kpsim.ruleset import ACCEPT, DROP, Compare, Field, Verdict

FORWARDED, DELIVERED, REJECTED, DROPPED = (
    Disposition.FORWARDED,
    Disposition.DELIVERED,
    Disposition.REJECTED,
    Disposition.DROPPED,
)
KEY = VirtualServerKey(ip(CLUSTER_IP), 80, "tcp")


def hooks(outcome):
    return list(dict.fromkeys(step.hook for step in outcome.trace if isinstance(step, HookEntered)))


def names(netns, hook):
    return [(entry.priority, entry.name) for entry in netns.entries(Family.IPV4, hook)]


# --- where it stands --------------------------------------------------------------------------------------------------


def test_the_hooks_of_ip_vs():  # IPVS-10.1
    netns = made([POD])
    own = {hook: [priority for priority, name in names(netns, hook) if name == "ip_vs"] for hook in Hook}
    assert own == {
        Hook.PREROUTING: [], Hook.INPUT: [98, 99], Hook.FORWARD: [99, 100], Hook.OUTPUT: [-99, -98], Hook.POSTROUTING: [],
    }  # fmt: skip
    assert [name for _, name in names(netns, Hook.OUTPUT)] == ["conntrack", "nat", "ip_vs", "ip_vs", "filter"]
    netns.load(told({}))
    assert not any(name == "ip_vs" for hook in Hook for _, name in names(netns, hook))


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_pods_request_goes_to_another_pod_through_input_and_output():  # IPVS-10.2
    outcome = run(made([OTHER_POD]), packet(POD, CLUSTER_IP))
    assert hooks(outcome) == [Hook.PREROUTING, Hook.INPUT, Hook.OUTPUT, Hook.POSTROUTING]
    assert outcome.disposition is FORWARDED and to(outcome) == (OTHER_POD, 8080)
    assert (outcome.packet.source, outcome.packet.sport, outcome.packet.out_interface) == (POD, 40000, "cni0")
    assert outcome.packet.ttl == 63 and not outcome.masqueraded
    assert outcome.server == ServerReference(
        Family.IPV4, KEY, virtual([OTHER_POD]), RealServer(ip(OTHER_POD), 8080)
    ) and outcome.redirected  # fmt: skip
    assert next(step for step in outcome.trace if isinstance(step, Scheduled)).at == outcome.server


def test_connection_tracking_has_the_servers_answers_without_a_dnat_status():  # IPVS-10.6
    netns = made([REMOTE_POD])
    effects = run(netns, packet(CLIENT, CLUSTER_IP)).effects
    entry = effects.created
    assert effects.updated is None
    assert str(entry.original) == "tcp 203.0.113.9:40000 → 172.30.0.10:80"
    assert str(entry.reply) == "tcp 10.180.1.7:8080 → 192.168.0.1:40000"
    assert entry.src_nat and not entry.dst_nat
    assert "DNAT" not in str(entry)


def test_input_sees_the_virtual_server_and_output_the_real_one():  # IPVS-10.2
    seen = {}
    netns = made([REMOTE_POD])
    for hook in (Hook.INPUT, Hook.OUTPUT, Hook.POSTROUTING):

        def look(traversal, hook=hook):
            seen[hook] = traversal.packet.destination, traversal.packet.in_interface, set(traversal.ct_states)

        netns.register(Family.IPV4, netns.entries(Family.IPV4, Hook.INPUT)[0]._replace(hook=hook, priority=5, run=look))
    run(netns, packet(CLIENT, CLUSTER_IP))
    assert seen == {
        Hook.INPUT: (CLUSTER_IP, "eth0", {"NEW"}),
        Hook.OUTPUT: (REMOTE_POD, "", {"NEW"}),
        Hook.POSTROUTING: (REMOTE_POD, "", {"NEW"}),
    }


def test_the_hosts_input_policy_applies_to_service_traffic():  # PP-10.2
    rules = ruleset(table("filter", {"INPUT": Verdict.DROP}))
    outcome = run(made([POD], rules=rules), packet(OTHER_POD, CLUSTER_IP))
    assert (outcome.disposition, outcome.rule.chain) == (DROPPED, "INPUT")
    rules = ruleset(table("filter", {"FORWARD": Verdict.DROP}))
    assert run(made([POD], rules=rules), packet(OTHER_POD, CLUSTER_IP)).disposition is FORWARDED


def test_rules_of_output_may_stop_a_request_behind_ip_vs():
    from_pods = from_net(Network(Family.IPV4, ip("10.180.0.0"), 16))
    rules = ruleset(table("filter", OUTPUT=(rule(from_pods, DROP),)))
    outcome = run(made([POD], rules=rules), packet(OTHER_POD, CLUSTER_IP))
    assert (outcome.disposition, outcome.rule.chain) == (DROPPED, "OUTPUT")


def test_known_connections_keep_their_server():  # IPVS-11.1
    netns = made([POD, REMOTE_POD])
    first = established(netns, packet(CLIENT, CLUSTER_IP))
    again = run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK")))
    assert to(first) == to(again) == (POD, 8080)
    assert (again.packet.source, again.server, again.redirected) == (first.packet.source, None, True)
    served = [step for step in again.trace if isinstance(step, Served)]
    assert [step.service for step in served] == [Service.KNOWN]
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, sport=40001))) == (REMOTE_POD, 8080)


def test_a_node_speaks_to_a_cluster_ip_from_that_address():  # IPVS-3.5, IPVS-10.3
    netns = made([REMOTE_POD])
    outcome = run(netns, from_node(), local=True)
    assert hooks(outcome) == [Hook.OUTPUT, Hook.POSTROUTING]
    assert str(outcome.entry.original) == f"tcp {CLUSTER_IP}:40000 → {CLUSTER_IP}:80"
    assert (outcome.packet.source, to(outcome), outcome.packet.ttl) == (NODE, (REMOTE_POD, 8080), 63)
    back = run(netns, replied(outcome))
    assert back.disposition is DELIVERED and str(back.packet) == f"tcp {CLUSTER_IP}:80 → {CLUSTER_IP}:40000"
    assert hooks(back) == [Hook.PREROUTING, Hook.INPUT]


def test_what_does_not_begin_a_connection_goes_to_the_host():  # IPVS-11.1
    netns = made([POD])
    for text in ("ACK", "SYN RST", "FIN ACK"):
        outcome = run(netns, packet(OTHER_POD, CLUSTER_IP, tcp_flags=flags(text)))
        assert (outcome.disposition, to(outcome), outcome.redirected) == (DELIVERED, (CLUSTER_IP, 80), False)
    assert not netns.memory.ipvs
    assert to(run(netns, packet(OTHER_POD, CLUSTER_IP, sport=20))) == (CLUSTER_IP, 80)  # IPVS-11.2
    assert to(run(netns, packet(OTHER_POD, CLUSTER_IP, protocol="udp"))) == (CLUSTER_IP, 80)  # no such virtual server
    ping = packet(OTHER_POD, CLUSTER_IP, 0, protocol="icmp", icmp_type=8)
    assert run(netns, ping).disposition is DELIVERED


@pytest.mark.parametrize(("protocol", "more"), [("udp", {}), ("sctp", {"sctp_chunk": "INIT"})])
def test_other_protocols(protocol, more):
    netns = made([REMOTE_POD], protocol=protocol)
    outcome = run(netns, packet(CLIENT, CLUSTER_IP, protocol=protocol, **more))
    assert to(outcome) == (REMOTE_POD, 8080)
    answer = replied(outcome, sctp_chunk="INIT_ACK")
    assert str(run(netns, answer).packet) == f"{protocol} {CLUSTER_IP}:80 → {CLIENT}:40000"
    if protocol == "sctp":
        other = run(netns, packet(CLIENT, CLUSTER_IP, protocol="sctp", sport=9, sctp_chunk="DATA"))
        assert to(other) == (CLUSTER_IP, 80)


def narrow(netns):
    """Gives the uplink an MTU of 1400 bytes."""
    uplink = replace(netns.routing.interfaces["eth0"], mtu=1400)
    routing = Routing({**netns.routing.interfaces, "eth0": uplink}.values(), netns.routing.routes)
    netns.routing = routing.with_local({family: netns.routing.only_local(family) for family in Family})


def test_a_hop_is_spent_and_a_length_minded():
    netns = made([REMOTE_POD])
    late = run(netns, packet(CLIENT, CLUSTER_IP, ttl=1))
    assert (late.disposition, late.cause, late.with_) == (REJECTED, Cause.TTL, "icmp-time-exceeded")
    assert late.answer.related.destination == CLUSTER_IP
    local = run(netns, from_node(ttl=1), local=True)
    assert local.answer is not None and local.local_error == "EHOSTUNREACH"
    narrow(netns)
    big = run(netns, packet(CLIENT, CLUSTER_IP, sport=2, length=1401))
    assert (big.disposition, big.cause, big.answer.mtu) == (REJECTED, Cause.TOO_BIG, 1400)
    assert big.answer.related.destination == CLUSTER_IP  # ip_vs says so before it rewrites the packet
    assert run(netns, packet(CLIENT, CLUSTER_IP, sport=3, length=1400)).disposition is FORWARDED
    assert run(netns, packet(CLIENT, CLUSTER_IP, sport=4, length=1401, dont_fragment=False)).disposition is FORWARDED
    assert run(netns, packet(CLIENT, CLUSTER_IP, sport=5, ttl=2)).disposition is FORWARDED


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (RouteKind.UNREACHABLE, Cause.UNREACHABLE),
        (RouteKind.PROHIBIT, Cause.PROHIBIT),
        (RouteKind.BLACKHOLE, Cause.BLACKHOLE),
        (None, Cause.NO_ROUTE),
    ],
)
def test_a_server_that_no_route_leads_to(kind, cause):
    netns = made(["198.51.100.7"])
    routes = [route for route in netns.routing.routes if route.network.prefix]
    if kind is not None:
        routes.append(Route(Network(Family.IPV4, ip("198.51.100.0"), 24), kind=kind))
    routing = Routing(netns.routing.interfaces.values(), routes)
    netns.routing = routing.with_local({Family.IPV4: Map({ip(CLUSTER_IP): "kube-ipvs0"})})
    outcome = run(netns, packet(POD, CLUSTER_IP))
    assert (outcome.disposition, outcome.cause, outcome.with_) == (REJECTED, cause, "icmp-host-unreachable")
    assert outcome.answer.source == CLUSTER_IP and outcome.answer.related.destination == CLUSTER_IP
    local = run(netns, from_node(), local=True)
    assert local.local_error == "EHOSTUNREACH" and local.answer is not None


def test_a_process_of_the_node_is_told_that_its_packet_is_too_long():  # IPVS-10.7
    netns = made([REMOTE_POD])
    narrow(netns)
    outcome = run(netns, from_node(length=1401), local=True)
    assert outcome.local_error == "EMSGSIZE" and outcome.answer is not None


def test_an_error_that_is_too_long_is_not_refused_by_ip_vs():  # IPVS-10.9
    netns = made([REMOTE_POD])
    narrow(netns)
    asked = run(netns, packet(CLIENT, CLUSTER_IP))
    told_ = error(CLIENT, CLUSTER_IP, run(netns, replied(asked)).packet)
    told_.length = 1401
    assert hooks(run(netns, told_))[-1] is Hook.POSTROUTING


def test_a_server_that_is_a_virtual_server_itself_gets_the_request():  # IPVS-10.2: ip_vs passes over what it sent on
    servers = {TCP: virtual([REMOTE_POD]), (REMOTE_POD, 8080, "tcp"): virtual([POD])}
    netns = ipvs_node(told(servers))
    assert to(run(netns, packet(CLIENT, CLUSTER_IP))) == (REMOTE_POD, 8080) and len(netns.memory.ipvs) == 1


def test_what_comes_from_a_loopback_address_cannot_leave():
    netns = made([REMOTE_POD])
    outcome = run(netns, packet("127.0.0.1", CLUSTER_IP), local=True)
    assert (outcome.disposition, outcome.cause) == (REJECTED, Cause.MARTIAN_SOURCE)
    assert (outcome.with_, outcome.local_error) == ("icmp-host-unreachable", "EHOSTUNREACH")


def test_addresses_of_kube_ipvs0_are_the_nodes_own():  # IPVS-3.5
    netns = made([REMOTE_POD])
    martian = run(netns, packet(CLUSTER_IP, POD, came_by="eth0"))
    assert (martian.disposition, martian.cause) == (DROPPED, Cause.MARTIAN_SOURCE)
    assert netns.routing.interface_of(Family.IPV4, ip(CLUSTER_IP)).name == "kube-ipvs0"
    down = netns.routing.without("cni0").with_routes()
    assert down.is_local(Family.IPV4, ip(CLUSTER_IP)) and not down.is_local(Family.IPV6, ip(CLUSTER_IP))
    netns.load(told({TCP: virtual([POD])}, local=()))
    assert not netns.routing.is_local(Family.IPV4, ip(CLUSTER_IP))
    assert run(netns, packet(OTHER_POD, CLUSTER_IP)).packet.out_interface == "eth0"


# --- servers on the node itself ---------------------------------------------------------------------------------------


def test_a_request_for_a_server_on_this_node_goes_on_at_its_hook():  # IPVS-10.5
    netns = made([NODE])
    outcome = run(netns, packet(CLIENT, CLUSTER_IP))
    assert hooks(outcome) == [Hook.PREROUTING, Hook.INPUT] and outcome.disposition is DELIVERED
    assert (to(outcome), outcome.packet.source, outcome.packet.ttl) == ((NODE, 8080), CLIENT, 64)
    assert str(outcome.effects.created.reply) == f"tcp {NODE}:8080 → {CLIENT}:40000"
    back = run(netns, replied(outcome), local=True)
    assert back.disposition is FORWARDED and str(back.packet) == f"tcp {CLUSTER_IP}:80 → {CLIENT}:40000"
    assert hooks(back) == [Hook.OUTPUT, Hook.POSTROUTING]


def test_a_node_that_is_its_own_server():
    netns = made([NODE], rules=ruleset(table("nat"), table("filter", INPUT=(rule(ct_state("NEW"), ACCEPT),))))
    outcome = run(netns, from_node(), local=True)
    assert outcome.disposition is DELIVERED and str(outcome.packet) == f"tcp {CLUSTER_IP}:40000 → {NODE}:8080"
    assert hooks(outcome) == [Hook.OUTPUT, Hook.POSTROUTING, Hook.PREROUTING, Hook.INPUT]
    back = run(netns, replied(outcome), local=True)
    assert back.disposition is DELIVERED and str(back.packet) == f"tcp {CLUSTER_IP}:80 → {CLUSTER_IP}:40000"


def test_a_server_on_a_loopback_address_is_for_the_node_alone():
    netns = made(["127.0.0.1"])
    outcome = run(netns, packet(CLIENT, CLUSTER_IP))
    assert (outcome.disposition, outcome.cause) == (DROPPED, Cause.MARTIAN_DESTINATION)
    assert run(netns, from_node(), local=True).disposition is DELIVERED


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_is_translated_in_forward():  # IPVS-10.4
    netns = made([REMOTE_POD])
    outcome = run(netns, packet(CLIENT, CLUSTER_IP))
    back = run(netns, replied(outcome))
    assert hooks(back) == [Hook.PREROUTING, Hook.FORWARD, Hook.POSTROUTING]
    assert str(back.packet) == f"tcp {CLUSTER_IP}:80 → {CLIENT}:40000" and back.ct_state == "ESTABLISHED"
    assert [step.service for step in back.trace if isinstance(step, Served)] == [Service.ANSWER]
    assert not back.served and back.redirected
    # a packet of the server that answers nothing is left alone
    other = run(netns, packet(REMOTE_POD, CLIENT, 40001, sport=8080, tcp_flags=flags("ACK")))
    assert other.packet.source == REMOTE_POD


def test_an_answer_is_routed_as_if_this_node_had_made_it():  # IPVS-10.4
    netns = made([REMOTE_POD])
    rules = [
        PolicyRule(Family.IPV4, 0, table=255),
        PolicyRule(Family.IPV4, 10, table=7, source=Network(Family.IPV4, ip(CLUSTER_IP), 32)),
        PolicyRule(Family.IPV4, 32766),
    ]
    elsewhere = Route(Network(Family.IPV4, 0, 0), "eth0", ip("192.168.0.77"), table=7)
    routing = Routing(netns.routing.interfaces.values(), (*netns.routing.routes, elsewhere), rules)
    netns.routing = routing.with_local({Family.IPV4: Map({ip(CLUSTER_IP): "kube-ipvs0"})})
    outcome = run(netns, packet(CLIENT, CLUSTER_IP))
    assert run(netns, replied(outcome)).next_hop == ip("192.168.0.77")
    blackhole = replace(elsewhere, kind=RouteKind.BLACKHOLE)
    routing = Routing(netns.routing.interfaces.values(), (*netns.routing.routes[:-1], blackhole), rules)
    netns.routing = routing.with_local({Family.IPV4: Map({ip(CLUSTER_IP): "kube-ipvs0"})})
    lost = run(netns, replied(outcome))
    assert (lost.disposition, lost.cause) == (DROPPED, Cause.BLACKHOLE)


def test_an_answer_to_a_neighbour_on_a_bridge_that_calls_netfilter_is_translated():
    netns = made([OTHER_POD])
    outcome = run(netns, packet(POD, CLUSTER_IP))
    back = run(netns, replied(outcome))
    assert str(back.packet) == f"tcp {CLUSTER_IP}:80 → {POD}:40000" and back.packet.ttl == 64
    netns.sysctls = replace(BY_KUBE_PROXY, bridge_nf_call_iptables=False)
    assert run(netns, replied(outcome)).packet.source == OTHER_POD  # IPVS never sees it


# --- nobody serves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("servers", [[], [(POD, 0)]])
def test_without_a_usable_server_the_client_is_refused(servers):  # IPVS-11.5
    netns = made(servers)
    outcome = run(netns, packet(CLIENT, CLUSTER_IP))
    assert (outcome.disposition, outcome.cause, outcome.with_) == (
        REJECTED,
        Cause.NO_REAL_SERVER,
        "icmp-port-unreachable",
    )
    assert (outcome.answer.source, outcome.answer.destination) == (CLUSTER_IP, CLIENT)
    assert outcome.answer.related.destination == CLUSTER_IP and outcome.server.server is None
    assert not netns.memory.ipvs and len(netns.conntrack) == 0
    assert outcome.rule is None and str(outcome.server) == "virtual server 172.30.0.10:80/TCP"
    local = run(netns, from_node(), local=True)
    assert (local.disposition, local.local_error) == (REJECTED, "ECONNREFUSED") and local.answer is not None
    assert any("no real server" in describe(step, Family.IPV4) for step in outcome.trace)


def test_a_local_udp_sender_is_refused_at_once():
    netns = made([], protocol="udp")
    assert run(netns, from_node(protocol="udp"), local=True).local_error == "EPERM"


# --- tracking ---------------------------------------------------------------------------------------------------------


def test_without_vs_conntrack_packets_are_no_longer_tracked():  # IPVS-10.6
    netns = made([POD], sysctls=replace(BY_KUBE_PROXY, vs_conntrack=False))
    outcome = run(netns, packet(CLIENT, CLUSTER_IP))
    assert (to(outcome), outcome.packet.source) == ((POD, 8080), CLIENT)  # nothing masquerades it
    assert outcome.ct_state == "UNTRACKED" and len(netns.conntrack) == 0 and outcome.redirected
    back = run(netns, replied(outcome))
    assert (back.packet.source, back.ct_state) == (CLUSTER_IP, "UNTRACKED")
    assert outcome.entry is back.entry is None
    netns.load(told({TCP: virtual([REMOTE_POD])}))
    assert not connection_of(netns, CLIENT)


def test_a_destination_that_a_rule_has_translated_before():
    """The entry has its DNAT status then, so later packets go to the real server past ip_vs."""
    rules = ruleset(table("nat", PREROUTING=(rule(of_protocol("tcp"), in_interface("eth0"), dnat(CLUSTER_IP, 80)),)))
    netns = made([POD], rules=rules)
    outcome = established(netns, packet(CLIENT, NODE, 443))
    assert to(outcome) == (POD, 8080) and outcome.entry.dst_nat
    later = run(netns, packet(CLIENT, NODE, 443, tcp_flags=flags("ACK")))
    assert to(later) == (POD, 8080) and Hook.FORWARD in hooks(later)


def test_a_reset_of_a_new_connection_leaves_no_trace_of_destination_nat():
    netns = made([REMOTE_POD])
    first = run(netns, packet(CLIENT, CLUSTER_IP))
    back = run(netns, replied(first, "RST ACK"))
    assert back.packet.source == CLUSTER_IP and back.effects.destroyed
    assert connection_of(netns, CLIENT).state is State.CLOSE


# --- ICMP errors ------------------------------------------------------------------------------------------------------


def error(sender, to_address, about: Packet, code=3) -> Packet:
    return packet(sender, to_address, 0, protocol="icmp", sport=0, icmp_type=3, icmp_code=code, related=about.copy())


def test_an_error_about_a_request_comes_from_the_virtual_server():
    netns = made([REMOTE_POD], protocol="udp")
    outcome = run(netns, packet(CLIENT, CLUSTER_IP, protocol="udp"))
    told_ = run(netns, error(OTHER_NODE, NODE, outcome.packet))
    assert told_.disposition is FORWARDED and told_.ct_state == "RELATED"
    assert (told_.packet.source, told_.packet.sport, told_.packet.destination) == (CLUSTER_IP, 0, CLIENT)
    assert [step.service for step in told_.trace if isinstance(step, Served)] == [Service.ANSWER]
    assert str(told_.packet.related) == f"udp {CLIENT}:40000 → {CLUSTER_IP}:80"
    before = netns.memory.ipvs.copy()
    assert [*before] == [*netns.memory.ipvs]  # it restarts no timer


def test_an_error_about_a_request_of_the_node():
    netns = made([REMOTE_POD], protocol="udp")
    outcome = run(netns, from_node(protocol="udp"), local=True)
    told_ = run(netns, error(REMOTE_POD, NODE, outcome.packet))
    assert (told_.disposition, told_.packet.source) == (DELIVERED, CLUSTER_IP)
    assert str(told_.packet.related) == f"udp {CLUSTER_IP}:40000 → {CLUSTER_IP}:80"


def test_an_error_about_an_answer_goes_to_the_real_server():
    netns = made([REMOTE_POD], protocol="udp")
    outcome = run(netns, packet(CLIENT, CLUSTER_IP, protocol="udp"))
    answer = run(netns, replied(outcome)).packet
    told_ = run(netns, error(CLIENT, CLUSTER_IP, answer))
    assert told_.disposition is FORWARDED and hooks(told_)[1:3] == [Hook.INPUT, Hook.OUTPUT]
    assert (told_.packet.destination, told_.packet.ttl) == (REMOTE_POD, 63)
    spent = error(CLIENT, CLUSTER_IP, answer)
    spent.ttl = 1
    assert run(netns, spent).cause is Cause.UNANSWERABLE  # no error is sent about an error
    assert str(told_.packet.related) == f"udp {REMOTE_POD}:8080 → {NODE}:40000"
    assert [step.service for step in told_.trace if isinstance(step, Served)] == [Service.KNOWN]
    assert seen_in_output(netns, error(CLIENT, CLUSTER_IP, answer), Compare(Field.IPVS, frozenset({"yes"})))


def test_an_error_about_an_answer_of_a_server_on_this_node():
    netns = made([NODE], protocol="udp")
    outcome = run(netns, packet(CLIENT, CLUSTER_IP, protocol="udp"))
    answer = run(netns, replied(outcome), local=True).packet
    told_ = run(netns, error(CLIENT, CLUSTER_IP, answer))
    assert told_.disposition is DELIVERED and str(told_.packet.related) == f"udp {NODE}:8080 → {CLIENT}:40000"
    assert (hooks(told_), told_.packet.ttl) == ([Hook.PREROUTING, Hook.INPUT], 64)


def test_an_error_about_nothing_that_ip_vs_knows():
    netns = made([REMOTE_POD])
    unknown = packet(CLUSTER_IP, CLIENT, 5, sport=6)
    assert run(netns, error(CLIENT, CLUSTER_IP, unknown)).disposition is DELIVERED
    assert run(netns, error(CLIENT, POD, packet(POD, CLIENT, 5))).packet.source == CLIENT


# --- IPv6 -------------------------------------------------------------------------------------------------------------


def test_ipv6():
    from packets import node_netns

    netns = node_netns("n1", ["fd00::1"], ["fd00:1::/64"], peers={"fd00::2": ["fd00:2::/64"]}, sysctls=BY_KUBE_PROXY)
    rules = ruleset(table("nat"), table("filter"), family=Family.IPV6)
    real = replace(virtual([], netmask=128), servers=(RealServer(ip("fd00:2::7"), 8080),))
    netns.load(told({("fd00:10::1", 80, "tcp"): real}, rules, local=["fd00:10::1"]))
    outcome = run(netns, packet("fd00:1::5", "fd00:10::1"))
    assert (to(outcome), outcome.packet.ttl) == (("fd00:2::7", 8080), 63)
    assert run(netns, packet("fd00:1::5", "fd00:10::1", sport=3, ttl=1)).with_ == "icmp6-time-exceeded"
    narrow(netns)
    assert run(netns, packet("fd00:1::5", "fd00:10::1", sport=3, length=1401)).with_ == "icmp6-packet-too-big"
    assert str(run(netns, replied(outcome)).packet) == "tcp [fd00:10::1]:80 → [fd00:1::5]:40000"
    netns.load(told({("fd00:10::1", 80, "tcp"): replace(real, servers=())}, rules, local=["fd00:10::1"]))
    assert run(netns, packet("fd00:1::5", "fd00:10::1")).with_ == "icmp6-port-unreachable"
    far = replace(real, servers=(RealServer(ip("fd00:2::7"), 8080),))
    netns.load(told({("fd00:10::1", 80, "tcp"): far}, rules, local=["fd00:10::1"]))
    netns.routing = Routing(netns.routing.interfaces.values()).with_local(
        {Family.IPV6: Map({ip("fd00:10::1"): "kube-ipvs0"})}
    )
    assert run(netns, packet("fd00:1::5", "fd00:10::1", sport=2)).with_ == "icmp6-addr-unreachable"
    assert str(outcome.server) == "virtual server [fd00:10::1]:80/TCP"
    mine = replace(real, servers=(RealServer(1, 8080),))
    netns.load(told({("fd00:10::1", 80, "tcp"): mine}, rules, local=["fd00:10::1"]))
    assert run(netns, packet("fd00:1::5", "fd00:10::1", sport=4)).cause is Cause.MARTIAN_DESTINATION


# --- -m ipvs ----------------------------------------------------------------------------------------------------------


def seen_in_output(netns, sent, *conditions, local=False):
    """Whether a rule of OUTPUT with these conditions drops the packet."""
    netns.load(
        replace(netns.programmed[Family.IPV4], ruleset=ruleset(table("filter", OUTPUT=(rule(*conditions, DROP),))))
    )
    return run(netns, sent, local=local, commit=False).disposition is DROPPED


def test_what_rules_ask_of_a_request_that_ip_vs_has_sent_on():  # IPVS-10.3: KUBE-IPVS-OUT-FILTER
    netns = made([REMOTE_POD])
    address, port = Compare(Field.IPVS_VADDR, ((ip(CLUSTER_IP),) * 2,)), Compare(Field.IPVS_VPORT, ((80, 80),))
    protocol = Compare(Field.IPVS_PROTOCOL, frozenset({"tcp"}))
    assert seen_in_output(netns, from_node(), address, port, protocol, local=True)
    assert seen_in_output(netns, packet(POD, CLUSTER_IP), address, port, protocol)
    assert not seen_in_output(netns, packet(POD, CLUSTER_IP), Compare(Field.IPVS_VPORT, ((81, 81),)))
    assert seen_in_output(netns, packet(POD, CLUSTER_IP), Compare(Field.IPVS_VPORT, ((81, 81),), negate=True))
    assert not seen_in_output(netns, packet(POD, CLUSTER_IP), replace(protocol, negate=True))
    assert seen_in_output(netns, packet(POD, CLUSTER_IP), Compare(Field.IPVS_METHOD, frozenset({"MASQ"})))
    assert seen_in_output(netns, packet(POD, CLUSTER_IP), Compare(Field.IPVS_DIRECTION, frozenset({"ORIGINAL"})))
    assert seen_in_output(netns, packet(POD, CLUSTER_IP), Compare(Field.IPVS, frozenset({"yes"})))


def test_other_packets_have_nothing_of_ip_vs():
    netns = made([NODE])
    known = Compare(Field.IPVS_VPORT, ((81, 81),), negate=True)
    other = packet("0.0.0.0", CLIENT)
    assert not seen_in_output(netns, other, known, local=True)
    assert seen_in_output(netns, other, Compare(Field.IPVS, frozenset({"no"})), local=True)
    assert not seen_in_output(netns, other, Compare(Field.IPVS_DIRECTION, frozenset({"ORIGINAL"})), local=True)
    first = run(netns, packet(CLIENT, CLUSTER_IP))
    answer = replied(first)
    assert seen_in_output(netns, answer, Compare(Field.IPVS, frozenset({"yes"})), local=True)
    assert not seen_in_output(netns, answer, known, local=True)  # an answer, whose source is the virtual server's
