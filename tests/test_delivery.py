"""A packet's way between the hooks: routing's refusals, bridges, the source of errors (K-1, K-2, K-3, K-7)."""

from dataclasses import replace

import pytest
from packets import (
    CLIENT,
    CLUSTER_IP,
    NODE,
    OTHER_NODE,
    OTHER_POD,
    POD,
    REMOTE_POD,
    dnat,
    ip,
    net,
    node,
    node_netns,
    packet,
    replied,
    rule,
    ruleset,
    run,
    service_rules,
    table,
)
from rule_parts import ct_state, from_net, in_interface, of_protocol, out_interface, to_net

from kpsim.addresses import Family
from kpsim.netfilter import Cause, Disposition, End, Hook, HookEntry, Netns
from kpsim.packet import Packet
from kpsim.packetpath.routing import Interface, InterfaceKind, OwnAddress, Route, RouteKind, Routing
from kpsim.packetpath.steps import FieldChanged, FieldName, Routed
from kpsim.ruleset import ACCEPT, DROP, Counter, Masquerade, Reject
from kpsim.sysctls import Sysctls

V4, V6 = Family.IPV4, Family.IPV6
FORWARDED, DELIVERED, REJECTED, DROPPED = (
    Disposition.FORWARDED, Disposition.DELIVERED, Disposition.REJECTED, Disposition.DROPPED,
)  # fmt: skip
NODE6, POD6, CLIENT6 = "2001:db8::1", "fd00:180::5", "2001:db8:71::9"


def node6(*rulesets, sysctls: Sysctls | None = None) -> Netns:
    netns = node_netns("n1", [NODE6], ["fd00:180::/64"], sysctls=sysctls)
    for rules in rulesets:
        netns.load_rules(rules)
    return netns


def routed(netns: Netns, *routes: Route, without_default: bool = False) -> Netns:
    """The node with more routes, or without those that lead everywhere."""
    own = [r for r in netns.routing.routes if r.network.prefix or not without_default]
    netns.routing = Routing(netns.routing.interfaces.values(), [*own, *routes])
    return netns


def counted(outcome) -> list[str]:
    return [name for name, _ in outcome.effects.touched.counters]


# --- routing's objections ----------------------------------------------------------------------------------------------

NOWHERE, NOWHERE6 = "198.51.100.7", "2001:db8:51::7"
OBJECTIONS = [
    (None, Cause.NO_ROUTE, "icmp-net-unreachable", "icmp6-no-route", "ENETUNREACH"),
    (RouteKind.UNREACHABLE, Cause.UNREACHABLE, "icmp-host-unreachable", "icmp6-no-route", "EHOSTUNREACH"),
    (RouteKind.PROHIBIT, Cause.PROHIBIT, "icmp-admin-prohibited", "icmp6-adm-prohibited", "EACCES"),
]


@pytest.mark.parametrize(("kind", "cause", "answer4", "answer6", "error"), OBJECTIONS)
def test_what_routing_objects_to(kind, cause, answer4, answer6, error):
    """K-1.6: what a sender behind the node is answered; and of a process the system call fails, before any rule
    (K-2.1).
    """
    for made, client, nowhere, answer in ((node(), CLIENT, NOWHERE, answer4), (node6(), CLIENT6, NOWHERE6, answer6)):
        objections = () if kind is None else (Route(net(nowhere), kind=kind),)
        netns = routed(made, *objections, without_default=kind is None)
        if kind is None:  # the client is not behind the default route, either
            netns = routed(netns, Route(net(client), "eth0"))
        forwarded = run(netns, packet(client, nowhere))
        assert (forwarded.disposition, forwarded.cause, forwarded.with_) == (REJECTED, cause, answer)
        assert forwarded.answer is not None and forwarded.answer.destination == client
        assert (forwarded.local_error, forwarded.next_hop) == ("", None)
        sent = run(netns, packet("", nowhere), local=True)
        assert (sent.disposition, sent.cause, sent.local_error, sent.answer) == (REJECTED, cause, error, None)


def test_a_blackhole_is_silent():  # K-1.6
    netns = routed(node(), Route(net(NOWHERE), kind=RouteKind.BLACKHOLE))
    forwarded = run(netns, packet(CLIENT, NOWHERE))
    assert (forwarded.disposition, forwarded.cause, forwarded.answer) == (DROPPED, Cause.BLACKHOLE, None)
    assert run(netns, packet("", NOWHERE), local=True).local_error == "EINVAL"


@pytest.mark.parametrize(
    ("made", "client", "pod", "answer"),
    [(node, CLIENT, POD, "icmp-time-exceeded"), (node6, CLIENT6, POD6, "icmp6-time-exceeded")],
)
def test_the_last_hop_is_the_one_that_forwards(made, client, pod, answer):
    """A packet with a time to live of 1 is not forwarded (RFC 1812 5.3.1), with 2 it is; delivered it may be."""
    spent = run(made(), packet(client, pod, ttl=1))
    assert (spent.disposition, spent.cause, spent.with_) == (REJECTED, Cause.TTL, answer)
    left = run(made(), packet(client, pod, ttl=2))
    assert (left.disposition, left.packet.ttl) == (FORWARDED, 1)
    assert [s for s in left.trace if isinstance(s, FieldChanged)] == [FieldChanged(FieldName.TTL, 2, 1)]
    own = NODE if pod == POD else NODE6
    assert run(made(), packet(client, own, ttl=1)).disposition is DELIVERED


def test_the_way_is_told_in_the_trace():
    def ways(outcome) -> list[Routed]:
        return [step for step in outcome.trace if isinstance(step, Routed)]

    netns = routed(node(), without_default=True)
    assert ways(run(netns, packet("", NOWHERE), local=True)) == [Routed("none", "")]
    assert ways(run(node(), packet(CLIENT, NODE))) == [Routed("local", "lo")]
    assert ways(run(node(), packet(CLIENT, REMOTE_POD))) == [Routed("10.180.1.0/24 via 192.168.0.2 dev eth0", "eth0")]


def test_a_process_without_any_address_cannot_send():
    """K-2.1: the source address is chosen before any rule; without one the call fails."""
    netns = node6()
    tunnel = Interface("tun0")
    lonely = [replace(each, addresses=()) for each in netns.routing.interfaces.values()]
    netns.routing = Routing([*lonely, tunnel], [Route(net(NOWHERE6), "tun0")])
    outcome = run(netns, packet("", NOWHERE6), local=True)
    assert (outcome.disposition, outcome.cause, outcome.local_error) == (REJECTED, Cause.NO_ADDRESS, "EADDRNOTAVAIL")


def test_a_node_without_any_ipv4_address_sends_from_none_and_gets_no_answer():
    """K-2.2."""
    netns = node()
    lonely = [replace(each, addresses=()) for each in netns.routing.interfaces.values()]
    netns.routing = Routing([*lonely, Interface("tun0")], [Route(net("0.0.0.0/0"), "tun0")])
    sent = run(netns, packet("", NOWHERE), local=True)
    assert (sent.disposition, sent.packet.source, sent.packet.out_interface) == (FORWARDED, "0.0.0.0", "tun0")
    lost = run(netns, replied(sent, in_interface="tun0"))
    assert (lost.disposition, lost.cause) == (DROPPED, Cause.MARTIAN_DESTINATION)


@pytest.mark.parametrize(
    ("destination", "delivered"), [("192.168.0.255", True), ("255.255.255.255", True), ("0.1.2.3", False)]
)
def test_broadcasts_are_delivered(destination, delivered):
    """fib_trie: the local table has broadcast routes; nothing in 0/8 is a destination (RFC 1122 3.2.1.3)."""
    netns = routed(node(ruleset(table("filter", INPUT=(rule(Counter("input")),)))), without_default=True)
    outcome = run(netns, packet(CLIENT, destination, protocol="udp", came_by="eth0"))
    assert (outcome.disposition is DELIVERED, counted(outcome) == ["input"]) == (delivered, delivered)


def test_broadcasts_of_any_network_are_delivered_over_lo():
    """Also if the network's number is 1. Only 0/8 belongs to no host."""
    netns = node_netns("n1", ["1.0.0.1"], [])
    outcome = run(netns, packet("1.0.0.9", "1.0.0.255", protocol="udp", came_by="eth0"))
    assert outcome.disposition is DELIVERED
    assert [step for step in outcome.trace if isinstance(step, Routed)] == [Routed("local", "lo")]


# --- a process's packets -----------------------------------------------------------------------------------------------


def test_a_process_has_no_input_interface_and_is_answered_at_the_address_it_got():
    """CFG-8.2, K-2.1, K-3.2."""
    netns = node(
        ruleset(table("filter", OUTPUT=(rule(in_interface("eth0"), DROP), rule(of_protocol("tcp"), Reject()))))
    )
    outcome = run(netns, packet("", REMOTE_POD, came_by="eth0"), local=True)
    assert outcome.disposition is REJECTED
    assert outcome.answer is not None and outcome.answer.destination == NODE
    assert outcome.answer.related is not None and outcome.answer.related.source == NODE


def test_what_output_sends_another_way_may_not_find_one():
    """K-2.1: only after OUTPUT is the packet routed again; then it is a drop, and the call tells why."""
    nat = table("nat", OUTPUT=(rule(to_net(net(CLUSTER_IP)), dnat(NOWHERE)),))
    unreachable = routed(node(ruleset(nat)), Route(net(NOWHERE), kind=RouteKind.UNREACHABLE))
    lost = run(unreachable, packet("", CLUSTER_IP), local=True)
    assert (lost.disposition, lost.cause, lost.local_error) == (DROPPED, Cause.UNREACHABLE, "EHOSTUNREACH")
    loopback = table("nat", OUTPUT=(rule(to_net(net("127.0.0.1")), dnat(POD)),))
    martian = run(node(ruleset(loopback)), packet("127.0.0.1", "127.0.0.1"), local=True)
    assert (martian.disposition, martian.cause, martian.local_error) == (
        DROPPED,
        Cause.MARTIAN_SOURCE,
        "EINVAL",
    )  # K-7.1
    allowed = node(ruleset(loopback), sysctls=Sysctls(route_localnet=True))
    assert run(allowed, packet("127.0.0.1", "127.0.0.1"), local=True).disposition is FORWARDED


def test_a_process_bound_to_loopback_gets_nowhere_else():
    """K-7.1: EINVAL, before any rule; with route_localnet it leaves."""
    outcome = run(node(), packet("127.0.0.1", REMOTE_POD), local=True)
    assert (outcome.disposition, outcome.cause, outcome.local_error) == (DROPPED, Cause.MARTIAN_SOURCE, "EINVAL")
    assert (
        run(node(sysctls=Sysctls(route_localnet=True)), packet("127.0.0.1", REMOTE_POD), local=True).disposition
        is FORWARDED
    )


def test_127_is_no_martian_of_ipv6():
    """K-7.1 is about 127/8; ::7f00:1 is an address like any other."""
    netns = node6()
    own = netns.routing.interfaces["eth0"]
    odd = replace(own, addresses=(*own.addresses, OwnAddress.parse("::7f00:1/128")))
    netns.routing = Routing(
        [each if each is not own else odd for each in netns.routing.interfaces.values()], netns.routing.routes
    )
    assert run(netns, packet("::7f00:1", POD6), local=True).disposition is FORWARDED


def test_postrouting_may_drop_what_a_process_sends():
    netns = node(ruleset(table("mangle", POSTROUTING=(rule(DROP),))))
    assert run(netns, packet("", REMOTE_POD), local=True).disposition is DROPPED
    assert run(netns, packet("", NODE), local=True).disposition is DROPPED
    assert run(netns, packet(CLIENT, REMOTE_POD)).disposition is DROPPED
    assert run(netns, packet(CLIENT, NODE)).disposition is DELIVERED


def test_over_lo_a_packet_comes_in_by_lo_and_has_no_way_out():
    """K-1.2."""
    netns = node(
        ruleset(
            table("filter", INPUT=(rule(in_interface("lo"), Counter("by lo")),)),
            table("mangle", POSTROUTING=(rule(out_interface("lo"), Counter("out lo")),)),
        )
    )
    outcome = run(netns, packet("", NODE), local=True)
    assert counted(outcome) == ["out lo", "by lo"]
    assert (outcome.packet.in_interface, outcome.packet.out_interface) == ("lo", "")


def test_what_arrives_has_no_way_out_yet():
    netns = node(ruleset(table("mangle", PREROUTING=(rule(out_interface("eth9"), DROP),))))
    sent = packet(CLIENT, POD)
    sent.out_interface = "eth9"
    assert run(netns, sent).disposition is FORWARDED


# --- what a bridge switches (K-2.6) ------------------------------------------------------------------------------------

COUNTING = ruleset(
    table("mangle", PREROUTING=(rule(Counter("prerouting")),), FORWARD=(rule(Counter("forward")),)),
    table("nat", PREROUTING=(rule(to_net(net(CLUSTER_IP)), dnat(OTHER_POD)),)),
)


def bridged(*, called: bool, hairpin: bool = True, rules=COUNTING) -> Netns:
    """n1 with bridge-nf-call-iptables on or off."""
    netns = node(rules, sysctls=Sysctls(bridge_nf_call_iptables=called))
    devices = [
        replace(each, hairpin=hairpin) if each.kind is InterfaceKind.BRIDGE else each
        for each in netns.routing.interfaces.values()
    ]
    netns.routing = Routing(devices, netns.routing.routes)
    return netns


@pytest.mark.parametrize(
    ("called", "source", "destination", "ttl", "hooks"),
    [
        (True, POD, OTHER_POD, 64, ["prerouting", "forward"]),  # switched, and netfilter sees it
        (True, POD, CLUSTER_IP, 64, ["prerouting", "forward"]),  # DNAT within the bridge is bridged: TTL unchanged
        (True, POD, REMOTE_POD, 63, ["prerouting", "forward"]),
        (True, CLIENT, POD, 63, ["prerouting", "forward"]),
        (True, CLIENT, CLUSTER_IP, 63, ["prerouting", "forward"]),
        (False, POD, OTHER_POD, 64, []),  # switched, and netfilter does not see it
        (False, POD, CLUSTER_IP, 63, ["prerouting", "forward"]),  # sent to the node, which routes it back
        (False, POD, REMOTE_POD, 63, ["prerouting", "forward"]),
        (False, CLIENT, POD, 63, ["prerouting", "forward"]),
    ],
)
def test_a_bridge_switches_between_its_own(called, source, destination, ttl, hooks):
    outcome = run(bridged(called=called), packet(source, destination))
    assert (outcome.disposition, outcome.packet.ttl, counted(outcome)) == (FORWARDED, ttl, hooks)
    bridge = "cni0" if destination not in (REMOTE_POD,) else "eth0"
    assert outcome.packet.out_interface == bridge


@pytest.mark.parametrize(("came_by", "called"), [("eth0", True), ("eth0", False), ("cni0", True), ("cni0", False)])
def test_only_a_bridge_that_calls_netfilter_shows_martians_of_ipv6_to_rules(came_by, called):
    """K-7.5."""
    rules = ruleset(table("mangle", PREROUTING=(rule(Counter("prerouting")),)), family=V6)
    netns = node6(rules, sysctls=Sysctls(bridge_nf_call_iptables=not called, bridge_nf_call_ip6tables=called))
    shown = ["prerouting"] if came_by == "cni0" and called else []
    for source, destination, cause in (
        ("::1", CLIENT6, Cause.MARTIAN_SOURCE), ("ff02::1", CLIENT6, Cause.MARTIAN_SOURCE), (POD6, "::1", Cause.MARTIAN_DESTINATION),
    ):  # fmt: skip
        outcome = run(netns, packet(source, destination, came_by=came_by))
        assert (outcome.disposition, outcome.cause, counted(outcome)) == (DROPPED, cause, shown)
    assert counted(run(netns, packet(POD6, CLIENT6, came_by=came_by))) == ["prerouting"]


@pytest.mark.parametrize("called", [True, False])
def test_the_bridges_own_address_is_the_nodes(called):
    outcome = run(bridged(called=called), packet(POD, "10.180.0.1"))
    assert (outcome.disposition, counted(outcome)) == (DELIVERED, ["prerouting"])


@pytest.mark.parametrize(
    ("called", "hairpin", "cause"), [(True, False, Cause.HAIRPIN), (True, True, None), (False, False, None)]
)
def test_a_pod_reaches_itself_through_a_service_only_by_hairpin(called, hairpin, cause):
    """K-2.6: with netfilter called the packet is bridged, and hairpin off drops it; else the node routes it."""
    outcome = run(bridged(called=called, hairpin=hairpin), packet(OTHER_POD, CLUSTER_IP))
    assert (outcome.disposition, outcome.cause) == (DROPPED if cause else FORWARDED, cause)
    assert run(bridged(called=called, hairpin=hairpin), packet(POD, CLUSTER_IP)).disposition is FORWARDED


def test_a_bridge_leaves_other_ways_to_routing():
    """A destination of the bridge's subnet that a route leads elsewhere, or nowhere, is none of its neighbours."""
    for kind, disposition in ((RouteKind.UNICAST, FORWARDED), (RouteKind.PROHIBIT, REJECTED)):
        netns = routed(
            bridged(called=False), Route(net(OTHER_POD), "eth0" if kind is RouteKind.UNICAST else "", kind=kind)
        )
        outcome = run(netns, packet(POD, OTHER_POD))
        assert (outcome.disposition, counted(outcome)[:1]) == (disposition, ["prerouting"])


@pytest.mark.parametrize(("made", "disposition"), [(node, REJECTED), (node6, DROPPED)])
def test_what_a_bridge_finds_no_route_for(made, disposition):
    """Translated on the bridge to where no route leads: IPv4 is told, IPv6 is not (measured); without translation
    both are.
    """
    four = made is node
    pod, service, nowhere = (POD, CLUSTER_IP, NOWHERE) if four else (POD6, "fd00:172:30::10", NOWHERE6)
    nat = table("nat", PREROUTING=(rule(to_net(net(service)), dnat(nowhere)),))
    rules = ruleset(nat, family=V4 if four else V6)
    for called, expected in ((True, disposition), (False, REJECTED)):
        netns = routed(
            made(rules, sysctls=Sysctls(bridge_nf_call_iptables=called, bridge_nf_call_ip6tables=called)),
            Route(net(nowhere), kind=RouteKind.UNREACHABLE),
        )
        lost = run(netns, packet(pod, service))
        assert (lost.disposition, lost.cause) == (expected, Cause.UNREACHABLE)
        assert run(netns, packet(pod, nowhere)).disposition is REJECTED
    client = CLIENT if four else CLIENT6
    assert run(netns, packet(client, service, came_by="eth0")).disposition is REJECTED


@pytest.mark.parametrize(("family", "delivered"), [(V4, True), (V6, False)])
def test_what_loopback_dialled_is_answered_in_ipv4_only(family, delivered):
    """K-7.1: translated and masqueraded, a request from 127.0.0.1 gets its answer (route_localnet); one from ::1 loses it."""
    loopback, pod = ("127.0.0.1", POD) if family is V4 else ("::1", POD6)
    nat = table("nat", OUTPUT=(rule(to_net(net(loopback)), dnat(pod)),), POSTROUTING=(rule(Masquerade()),))
    made = node if family is V4 else node6
    netns = made(ruleset(nat, family=family), sysctls=Sysctls(route_localnet=True))
    first = run(netns, packet(loopback, loopback), local=True)
    assert (first.disposition, first.packet.destination) == (FORWARDED, pod)
    back = run(netns, replied(first, in_interface="cni0"))
    assert (back.disposition is DELIVERED) is delivered
    # by an interface that does lead everywhere it leaves again
    by_uplink = run(netns, replied(first, in_interface="eth0"))
    assert by_uplink.disposition is (DELIVERED if delivered else FORWARDED)


def test_a_pod_reaches_itself_through_the_bridge_alone_only_by_hairpin():
    """K-2.6, measured: a bridge sends nothing back by the port that it came by, whether or not it calls netfilter."""
    for hairpin, disposition in ((True, FORWARDED), (False, DROPPED)):
        to_itself = run(bridged(called=False, hairpin=hairpin), packet(POD, POD))
        assert (to_itself.disposition, counted(to_itself)) == (disposition, [])


def test_a_neighbour_by_any_address_of_the_bridge_is_one():
    """What goes to a second subnet of the bridge is switched, too; and where no route leads nothing is."""
    netns = bridged(called=False)
    bridge = netns.routing.interfaces["cni0"]
    wider = replace(bridge, addresses=(OwnAddress.parse("10.180.7.1/24"), *bridge.addresses))
    devices = [wider if each is bridge else each for each in netns.routing.interfaces.values()]
    netns.routing = Routing(devices, netns.routing.routes)
    for destination in (OTHER_POD, "10.180.7.9"):
        assert counted(run(netns, packet(POD, destination))) == []
    down = Routing([replace(each, up=each is not wider) for each in devices], [])
    netns.routing = down
    lost = run(netns, packet(POD, OTHER_POD, came_by="cni0"))
    assert (lost.disposition is FORWARDED, counted(lost)) == (False, ["prerouting"])


def test_a_pods_packet_to_elsewhere_through_a_bridge_is_routed_whatever_its_subnet_says():
    """K-2.6: a host route beats the bridge's subnet, with netfilter called as without."""
    netns = routed(bridged(called=True), Route(net(OTHER_POD), "eth0"))
    outcome = run(netns, packet(POD, OTHER_POD))
    assert (outcome.packet.out_interface, outcome.packet.ttl) == ("eth0", 63)


BEYOND = "10.99.0.9"  #: behind the bridge by a route of its own, and not of its subnet


@pytest.mark.parametrize("called", [True, False])
def test_what_is_behind_the_bridge_and_no_neighbour_is_routed(called):
    """K-2.6: the sender hands it to the node. Only what the bridge itself has translated does it switch there."""
    netns = routed(bridged(called=called), Route(net(BEYOND), "cni0"))
    outcome = run(netns, packet(POD, BEYOND))
    assert (counted(outcome), outcome.packet.ttl) == (["prerouting", "forward"], 63)
    nat = table("nat", PREROUTING=(rule(to_net(net(CLUSTER_IP)), dnat(BEYOND)),))
    translated = run(
        routed(bridged(called=called, rules=ruleset(nat)), Route(net(BEYOND), "cni0")), packet(POD, CLUSTER_IP)
    )
    assert (translated.packet.destination, translated.packet.ttl) == (BEYOND, 64 if called else 63)


def test_a_neighbour_that_a_route_forbids_is_asked_for():
    netns = routed(bridged(called=False), Route(net(OTHER_POD), "cni0", kind=RouteKind.PROHIBIT))
    outcome = run(netns, packet(POD, OTHER_POD))
    assert (outcome.disposition, counted(outcome)[:1]) == (REJECTED, ["prerouting"])


def test_a_bridge_asks_no_routing_where_it_only_switches():
    """Measured: rp_filter is of what is routed, also by the bridge after translation."""
    netns = bridged(called=True)
    netns.sysctls = replace(netns.sysctls, rp_filter=1)
    assert run(netns, packet(CLIENT, POD, came_by="cni0")).disposition is FORWARDED
    assert run(netns, packet(CLIENT, CLUSTER_IP, came_by="cni0")).cause is Cause.REVERSE_PATH


def test_loopback_itself_is_no_way_back_from_the_bridge():
    """K-7.1: only what was un-NATed to ::1 is looked for where it came in; what was sent there is a martian."""
    assert run(node6(), packet(POD6, "::1", came_by="cni0")).cause is Cause.MARTIAN_DESTINATION


@pytest.mark.parametrize(
    ("came_by", "preferred", "answers"),
    [
        ("eth0", False, NODE6),
        ("cni0", False, "fd00:180::1"),
        ("cni0", True, "2001:db8::77"),
        ("eth0", True, "2001:db8::77"),
    ],
)
def test_an_ipv6_error_comes_from_the_interface_that_the_packet_came_by(came_by, preferred, answers):
    """Measured; unless the route back names a source. IPv4 has it from the route back alone (K-3.1)."""
    refusing = table("filter", FORWARD=(rule(Reject()),))
    way = Route(net(CLIENT6), "eth0", source=ip("2001:db8::77") if preferred else None)
    six = routed(node6(ruleset(refusing, family=V6)), way)
    told = run(six, packet(CLIENT6, "2001:db8:9::9", came_by=came_by)).answer
    assert told is not None and told.source == answers
    four = run(node(ruleset(refusing)), packet(CLIENT, "198.51.100.9", came_by=came_by)).answer
    assert four is not None and four.source == NODE


def test_an_ipv6_error_to_where_no_route_leads_is_not_told():
    refusing = table("filter", FORWARD=(rule(Reject()),))
    for objection in ((), (Route(net(CLIENT6), kind=RouteKind.UNREACHABLE),)):
        netns = routed(node6(ruleset(refusing, family=V6)), *objection, without_default=not objection)
        netns = routed(netns, Route(net("2001:db8:9::9"), "eth0"))
        refused = run(netns, packet(CLIENT6, "2001:db8:9::9", came_by="eth0"))
        assert (refused.disposition, refused.answer) == (DROPPED, None)


def test_a_process_is_told_by_the_way_it_was_sent_by():
    """Of IPv6, too: what a process sends came by no interface."""
    netns = node6(ruleset(table("filter", OUTPUT=(rule(of_protocol("tcp"), Reject()),)), family=V6))
    told = run(netns, packet("", "2001:db8:9::9"), local=True).answer
    assert told is not None and (told.source, told.destination) == (NODE6, NODE6)


@pytest.mark.parametrize(
    ("rp_filter", "came_by", "cause"),
    [(1, "eth0", None), (1, "cni0", Cause.REVERSE_PATH), (2, "cni0", None), (2, "tun0", Cause.REVERSE_PATH)],
)
def test_the_nodes_own_address_leads_back_to_the_interface_that_has_it(rp_filter, came_by, cause):
    """Measured, with accept_local (K-7.3)."""
    netns = node(sysctls=Sysctls(rp_filter=rp_filter, accept_local=True))
    netns.routing = Routing([*netns.routing.interfaces.values(), Interface("tun0")], netns.routing.routes)
    assert run(netns, packet(NODE, REMOTE_POD, came_by=came_by)).cause is cause


# --- martians (K-7) ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "destination", "cause"),
    [
        ("::1", POD6, Cause.MARTIAN_SOURCE), ("ff02::1", POD6, Cause.MARTIAN_SOURCE), (CLIENT6, "::1", Cause.MARTIAN_DESTINATION),
        (CLIENT6, POD6, None),
    ],
)  # fmt: skip
def test_martians_of_ipv6(source, destination, cause):  # K-7.1, K-7.3
    assert run(node6(), packet(source, destination, came_by="eth0")).cause is cause


@pytest.mark.parametrize(
    ("rp_filter", "came_by", "back", "cause"),
    [
        (0, "cni0", "eth0", None),
        (1, "eth0", "eth0", None),
        (1, "cni0", "eth0", Cause.REVERSE_PATH),
        (2, "cni0", "eth0", None),
        (2, "tun0", "eth0", Cause.REVERSE_PATH),  # loose acts as strict on a device without address
        (2, "eth0", "blackhole", Cause.REVERSE_PATH),
        (1, "eth0", "nowhere", Cause.REVERSE_PATH),
        (2, "eth0", "nowhere", Cause.REVERSE_PATH),
        (2, "gone0", "eth0", Cause.REVERSE_PATH),  # an unknown device: the stricter check
    ],
)
def test_the_reverse_path_filter(rp_filter, came_by, back, cause):  # K-7.3
    netns = node(sysctls=Sysctls(rp_filter=rp_filter))
    routes = list(netns.routing.routes)
    if back == "blackhole":
        routes.append(Route(net(CLIENT), kind=RouteKind.BLACKHOLE))
    if back == "nowhere":
        routes = [route for route in routes if route.network.prefix]
    netns.routing = Routing([*netns.routing.interfaces.values(), Interface("tun0")], routes)
    assert run(netns, packet(CLIENT, REMOTE_POD if back != "nowhere" else NODE, came_by=came_by)).cause is cause


@pytest.mark.parametrize(
    ("source", "came_by"),
    [(CLIENT, "eth0"), (POD, "cni0"), (NODE, "eth0"), (REMOTE_POD, "eth0"), ("198.51.100.9", "eth0")],
)
def test_a_packet_comes_in_by_the_way_that_leads_back(source, came_by):
    """Of an address of the node itself: by the first way to anywhere outside; what routing refuses has none, too."""
    netns = routed(node(sysctls=Sysctls(accept_local=True)), Route(net("198.51.100.9"), kind=RouteKind.BLACKHOLE))
    routes = [Route(net("198.51.100.8"), kind=RouteKind.BLACKHOLE), *netns.routing.routes]
    netns.routing = Routing(netns.routing.interfaces.values(), routes)
    sent = packet(source, "203.0.113.77")
    assert run(netns, sent).packet.in_interface == came_by


def test_without_a_way_out_nobody_knows_where_a_packet_came_in():
    netns = node()
    netns.routing = Routing(netns.routing.interfaces.values(), [])
    assert run(netns, packet(CLIENT, NODE)).packet.in_interface == ""


# --- whose address an error carries (K-3.1) ----------------------------------------------------------------------------


def test_an_error_comes_from_the_address_that_was_asked_if_it_is_the_nodes():
    netns = node(ruleset(table("filter", INPUT=(rule(Reject()),), FORWARD=(rule(Reject()),))))
    for asked, answers in ((NODE, NODE), ("10.180.0.1", "10.180.0.1"), (REMOTE_POD, NODE)):
        answer = run(netns, packet(CLIENT, asked)).answer
        assert answer is not None and answer.source == answers
    to_a_pod = run(netns, packet(POD, REMOTE_POD)).answer
    assert to_a_pod is not None and to_a_pod.source == "10.180.0.1"


def test_time_runs_out_behind_a_service_and_the_service_tells():
    """K-3.1: also for TTL exceeded the error shows the service address."""
    netns = node(service_rules((REMOTE_POD,)))
    answer = run(netns, packet(CLIENT, CLUSTER_IP, ttl=1)).answer
    assert answer is not None and answer.related is not None
    assert (answer.source, answer.related.destination) == (CLUSTER_IP, CLUSTER_IP)


# --- hooks that send a packet on ---------------------------------------------------------------------------------------


def stealing(destination: str) -> Netns:
    """A hook in INPUT that takes packets to the node and sends them on, as ip_vs does."""

    def steal(traversal) -> End | None:
        if traversal.packet.daddr != ip(NODE):
            return None
        traversal.packet.daddr = ip(destination)
        return End(Disposition.STOLEN, resumes=True)

    netns = node(ruleset(table("filter", OUTPUT=(rule(Counter("output")),), FORWARD=(rule(Counter("forward")),))))
    netns.register(V4, HookEntry(Hook.INPUT, 98, "ip_vs", steal))
    return netns


def test_a_hook_may_send_a_packet_on_through_output():
    outcome = run(stealing(REMOTE_POD), packet(CLIENT, NODE))
    assert (outcome.disposition, counted(outcome)) == (FORWARDED, ["output"])
    assert (outcome.packet.destination, outcome.next_hop) == (REMOTE_POD, ip(OTHER_NODE))
    ways = [step.route for step in outcome.trace if isinstance(step, Routed)]
    assert ways == ["local", "10.180.1.0/24 via 192.168.0.2 dev eth0"]


def test_what_a_hook_sends_on_may_find_no_way():
    netns = routed(stealing(NOWHERE), Route(net(NOWHERE), kind=RouteKind.UNREACHABLE))
    outcome = run(netns, packet(CLIENT, NODE))
    assert (outcome.disposition, outcome.cause) == (REJECTED, Cause.UNREACHABLE)


# --- errors about errors -----------------------------------------------------------------------------------------------


def test_a_rejected_error_is_answered_by_nobody_and_a_tracked_one_passes():
    """K-3.3, CT-3.3: RELATED goes by the accept of known connections."""
    known = rule(ct_state("RELATED", "ESTABLISHED"), ACCEPT)
    netns = node(
        ruleset(
            table("filter", FORWARD=(known, rule(from_net(net(CLIENT)), of_protocol("tcp"), ACCEPT), rule(Reject())))
        )
    )
    assert run(netns, packet(CLIENT, POD)).disposition is FORWARDED
    about = packet(CLIENT, POD)
    error = Packet(V4, "icmp", ip(POD), ip(CLIENT), icmp_type=3, icmp_code=1, related=about)
    passed = run(netns, error)
    assert (passed.disposition, passed.ct_state) == (FORWARDED, "RELATED")
    stranger = Packet(V4, "icmp", ip(POD), ip(CLIENT), icmp_type=3, icmp_code=1, related=packet(CLIENT, OTHER_POD))
    refused = run(netns, stranger)
    assert (refused.ct_state, refused.cause, refused.answer) == ("INVALID", Cause.UNANSWERABLE, None)
