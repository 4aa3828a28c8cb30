"""What a node refuses: REJECT and its answers, martians, localhost (K-3, K-7, PP-6, PP-7)."""

from collections import Counter

import pytest
from packets import (
    CLIENT,
    CLUSTER_IP,
    NODE,
    NODE_PORT,
    POD,
    REMOTE_POD,
    flags,
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
    to,
)
from rule_parts import ct_state, of_protocol, set_mark, to_net

from kpsim.addresses import Family
from kpsim.netfilter import Cause, Disposition, Netns
from kpsim.packet import Packet
from kpsim.packetpath.memory import IcmpLimiter
from kpsim.packetpath.routing import Interface, OwnAddress, Route, RouteKind, Routing
from kpsim.ruleset import DROP, Jump, Reject, RejectWith, Ruleset, SetTimeToLive, Unknown
from kpsim.sysctls import Sysctls
from kpsim.units import MILLISECOND_NS, SECOND_NS

FORWARDED, DELIVERED, REJECTED, DROPPED = (
    Disposition.FORWARDED,
    Disposition.DELIVERED,
    Disposition.REJECTED,
    Disposition.DROPPED,
)


# --- REJECT -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("destination", "dport", "answer_from"),
    [(CLUSTER_IP, 80, NODE), (NODE, NODE_PORT, NODE)],
)
def test_no_endpoints_rejects_from_the_nodes_address(destination, dport, answer_from):  # K-3.1, PP-6
    outcome = run(node(service_rules(())), packet(CLIENT, destination, dport))
    assert (outcome.disposition, outcome.with_) == (REJECTED, "icmp-port-unreachable")
    answer = outcome.answer
    assert answer is not None and answer.related is not None
    assert (answer.source, answer.destination, answer.icmp_type, answer.icmp_code) == (answer_from, CLIENT, 3, 3)
    assert (answer.related.destination, answer.related.dport) == (destination, dport)


def test_an_error_about_a_translated_packet_shows_the_service_address():  # K-3.1, measured: outside and inside
    nat = service_rules((REMOTE_POD,)).table("nat")
    netns = node(ruleset(nat, table("filter", FORWARD=(rule(Reject()),))))
    answer = run(netns, packet(CLIENT, CLUSTER_IP)).answer
    assert answer is not None and answer.related is not None
    assert (answer.source, answer.related.destination, answer.related.dport) == (CLUSTER_IP, CLUSTER_IP, 80)


def test_tcp_reset_comes_from_the_original_destination_and_never_answers_a_reset():  # K-3.1, K-3.3
    netns = node(ruleset(table("filter", FORWARD=(rule(Reject(RejectWith.TCP_RESET)),))))
    answer = run(netns, packet(CLIENT, POD)).answer
    assert answer is not None
    assert (answer.source, answer.sport, answer.dport, answer.tcp_flags) == (POD, 80, 40000, flags("RST ACK"))
    silent = run(netns, packet(CLIENT, POD, tcp_flags=flags("RST")))
    assert (silent.disposition, silent.cause, silent.answer) == (DROPPED, Cause.UNANSWERABLE, None)


def test_bad_checksums_and_errors_get_no_answer():  # K-3.3
    netns = node(ruleset(table("filter", FORWARD=(rule(Reject()),))))
    assert run(netns, packet(CLIENT, POD, checksum_ok=False)).cause is Cause.UNANSWERABLE
    error = Packet(Family.IPV4, "icmp", ip(CLIENT), ip(POD), icmp_type=3, related=packet(POD, CLIENT))
    assert run(netns, error).cause is Cause.UNANSWERABLE


@pytest.mark.parametrize(
    ("statement", "protocol", "in_output", "in_input"),  # K-3.2, CT-9
    [
        (Reject(), "udp", "EPERM", "ECONNREFUSED"), (Reject(), "tcp", "ECONNREFUSED", "ECONNREFUSED"),
        (DROP, "udp", "EPERM", ""), (DROP, "tcp", "", ""),
    ],
)  # fmt: skip
def test_what_a_local_process_is_told(statement, protocol, in_output, in_input):
    refused = rule(of_protocol(protocol), statement)  # the answer itself passes
    output = node(ruleset(table("filter", OUTPUT=(refused,))))
    assert run(output, packet("", CLUSTER_IP, protocol=protocol), local=True).local_error == in_output
    arriving = node(ruleset(table("filter", INPUT=(refused,))))
    assert run(arriving, packet("", NODE, protocol=protocol), local=True).local_error == in_input
    assert run(arriving, packet(CLIENT, NODE, protocol=protocol)).local_error == ""


def test_a_no_endpoint_address_leaks_from_the_node_itself():  # K-8.2, I-19.2
    external = rule(to_net(net("203.0.113.200")), of_protocol("tcp"), Reject())
    jump = rule(ct_state("NEW"), Jump("KUBE-EXTERNAL-SERVICES"))
    netns = node(ruleset(table("filter", FORWARD=(jump,), INPUT=(jump,), KUBE_EXTERNAL_SERVICES=(external,))))
    assert run(netns, packet(POD, "203.0.113.200")).disposition is REJECTED
    assert run(netns, packet("", "203.0.113.200"), local=True).disposition is FORWARDED


def limited_node(rules: Ruleset) -> Netns:
    netns = node(rules)
    netns.memory.icmp_limiter = IcmpLimiter()
    return netns


def test_icmp_errors_are_rate_limited():  # K-3.4
    netns = limited_node(service_rules(()))

    def refused(source: str, now_ns: int) -> bool:
        return run(netns, packet(source, CLUSTER_IP), now_ns).disposition is REJECTED

    assert [refused(CLIENT, 0) for _ in range(8)] == [True] * 6 + [False] * 2
    assert [refused(CLIENT, second * SECOND_NS) for second in (1, 1, 2)] == [True, False, True]
    assert refused("203.0.113.10", 2 * SECOND_NS)
    excess = run(netns, packet(CLIENT, CLUSTER_IP), 2 * SECOND_NS)
    assert (excess.disposition, excess.cause, excess.answer) == (DROPPED, Cause.ICMP_RATE, None)
    assert str(excess.rule) == "filter/KUBE-SERVICES rule 1"
    assert [refused(CLIENT, 60 * SECOND_NS) for _ in range(7)] == [True] * 6 + [False]  # never more than six at once


def test_a_walk_that_is_not_committed_costs_nothing():
    netns = limited_node(service_rules(()))
    assert all(run(netns, packet(CLIENT, CLUSTER_IP), commit=False).disposition is REJECTED for _ in range(10))


def test_resets_are_not_limited():  # K-3.4
    netns = limited_node(ruleset(table("filter", FORWARD=(rule(Reject(RejectWith.TCP_RESET)),))))
    assert all(run(netns, packet(CLIENT, POD)).disposition is REJECTED for _ in range(100))


def test_ipv6_answers_a_client_ten_times_a_second():  # measured on 6.18, where net.ipv6.icmp.ratelimit is 100 ms
    netns = Netns(
        "n6", Routing([Interface("eth0", (OwnAddress.parse("2001:db8::1/64"),))], [Route(net("::/0"), "eth0")])
    )
    netns.memory.icmp_limiter = IcmpLimiter()
    netns.load_rules(ruleset(table("filter", FORWARD=(rule(Reject()),)), family=Family.IPV6))
    times = [0] * 8 + [99 * MILLISECOND_NS, 100 * MILLISECOND_NS, 250 * MILLISECOND_NS, 250 * MILLISECOND_NS]
    answered = [run(netns, packet("2001:db8:9::9", "2001:db8:1::5"), at).disposition is REJECTED for at in times]
    assert answered == [True] * 6 + [False] * 2 + [False, True, True, False]


def refused_among(netns: Netns, clients: range, now_ms: int) -> int:
    outcomes = [run(netns, packet(f"203.0.113.{n}", CLUSTER_IP), now_ms * MILLISECOND_NS).disposition for n in clients]
    return outcomes.count(REJECTED)


def test_icmp_errors_are_limited_overall():  # K-3.4: burst 50, 1000/s; measured: refilled when empty, 20 ms apart
    netns = limited_node(service_rules(()))
    assert refused_among(netns, range(1, 61), 0) == 50
    assert refused_among(netns, range(61, 121), 19) == 0
    assert refused_among(netns, range(61, 121), 20) == 20
    assert refused_among(netns, range(121, 181), 45) == 25
    assert refused_among(netns, range(181, 250), 1045) == 50


def test_the_rest_of_a_burst_and_a_new_one_may_follow_each_other():  # measured: 99 of 178
    netns = limited_node(service_rules(()))
    assert refused_among(netns, range(1, 8), 0) == 7
    assert refused_among(netns, range(8, 200), 1600) == 43 + 50


@pytest.mark.parametrize(
    ("hook", "protocol", "answered", "errors"),
    [
        # measured: IPv4 counts what OUTPUT refuses overall, and what came over lo not at all; who sends hears EPERM anyway,
        # who connects waits for the answer
        ("OUTPUT", "udp", 50, {"EPERM": 70}), ("OUTPUT", "tcp", 50, {"ECONNREFUSED": 50, "": 20}),
        ("INPUT", "tcp", 70, {"ECONNREFUSED": 70}), ("INPUT", "udp", 70, {"ECONNREFUSED": 70}),
    ],
)  # fmt: skip
def test_processes_of_the_node_have_no_limit_of_their_own(hook, protocol, answered, errors):  # K-3.4
    netns = limited_node(ruleset(table("filter", {}, **{hook: (rule(of_protocol(protocol), Reject()),)})))
    target = NODE if hook == "INPUT" else POD
    outcomes = [run(netns, packet("", target, protocol=protocol), local=True) for _ in range(70)]
    assert [outcome.disposition for outcome in outcomes].count(REJECTED) == answered
    assert Counter(outcome.local_error for outcome in outcomes) == errors


@pytest.mark.parametrize(
    ("chains", "local", "disposition"),
    [
        ({"FORWARD": (rule(Reject()),)}, False, REJECTED),
        ({"FORWARD": (rule(Reject()),), "OUTPUT": (rule(DROP),)}, False, Disposition.DROPPED),
        ({"FORWARD": (rule(Reject()),), "OUTPUT": (rule(ct_state("RELATED"), DROP),)}, False, Disposition.DROPPED),
        ({"FORWARD": (rule(Reject()),), "OUTPUT": (rule(ct_state("INVALID"), DROP),)}, False, REJECTED),
        # a sender of the node is told by its system call, even if the ICMP error does not come through INPUT
        ({"OUTPUT": (rule(of_protocol("udp"), Reject()),), "INPUT": (rule(DROP),)}, True, REJECTED),
    ],
)  # fmt: skip
def test_an_answer_passes_the_rules_on_its_way_out(chains, local, disposition):  # K-3.2; as seen by verifications
    netns = node(ruleset(table("filter", {}, **chains)))
    sent = packet("" if local else CLIENT, POD, protocol="udp")
    outcome = run(netns, sent, local=local)
    assert outcome.disposition is disposition
    assert (outcome.answer is not None) == (disposition is REJECTED and not local)


def test_an_answer_that_the_node_does_not_let_in_reaches_no_process_of_it():  # K-3.2: no system call tells of INPUT
    netns = node(ruleset(table("filter", INPUT=(rule(of_protocol("udp"), Reject()), rule(DROP)))))
    outcome = run(netns, packet("", NODE, protocol="udp"), local=True)
    assert (outcome.disposition, outcome.cause, outcome.answer) == (Disposition.DROPPED, Cause.ANSWER_DROPPED, None)


def test_an_answer_changed_on_its_way_out_is_told_as_it_leaves():
    out = (rule(set_mark(7, 0xFF)), rule(SetTimeToLive("set", 9)))
    netns = node(ruleset(table("filter", FORWARD=(rule(Reject()),)), table("mangle", OUTPUT=out)))
    answer = run(netns, packet(CLIENT, POD, protocol="udp")).answer
    assert (answer.ttl, answer.mark, answer.in_interface, answer.out_interface) == (9, 0, "", "")


def test_whether_an_answer_gets_out_past_a_rule_that_is_not_modelled_is_not_known():
    netns = node(ruleset(table("filter", FORWARD=(rule(Reject()),), OUTPUT=(rule(Unknown("-m owner"), DROP),))))
    outcome = run(netns, packet(CLIENT, POD, protocol="udp"))
    assert (outcome.disposition, outcome.unknown) == (Disposition.UNKNOWN, "-m owner")


def test_ipv6_towards_the_node_itself_is_not_limited():  # measured
    netns = Netns(
        "n6", Routing([Interface("eth0", (OwnAddress.parse("2001:db8::1/64"),))], [Route(net("::/0"), "eth0")])
    )
    netns.memory.icmp_limiter = IcmpLimiter()
    netns.load_rules(ruleset(table("filter", OUTPUT=(rule(Reject()),)), family=Family.IPV6))
    assert all(run(netns, packet("", "2001:db8:1::5"), local=True).disposition is REJECTED for _ in range(100))


# --- martians and localhost -------------------------------------------------------------------------------------------


_STRICT, _LOOSE = Sysctls(rp_filter=1), Sysctls(rp_filter=2)
_LOCALNET, _ACCEPTING = Sysctls(route_localnet=True), Sysctls(accept_local=True)
_BOTH = Sysctls(route_localnet=True, accept_local=True)
_STRICT_LOCALNET = Sysctls(route_localnet=True, rp_filter=2)


@pytest.mark.parametrize(
    ("source", "settings", "cause"),
    [
        (CLIENT, Sysctls(), None), ("240.0.0.1", Sysctls(), None),
        ("0.0.0.7", Sysctls(), None), ("0.0.0.7", _STRICT, None), ("0.255.255.255", Sysctls(), None),
        ("0.0.0.0", _BOTH, Cause.MARTIAN_SOURCE), ("255.255.255.255", _BOTH, Cause.MARTIAN_SOURCE), ("224.0.0.5", _BOTH, Cause.MARTIAN_SOURCE),
        (NODE, Sysctls(), Cause.MARTIAN_SOURCE), ("10.180.0.1", _LOCALNET, Cause.MARTIAN_SOURCE), (NODE, _ACCEPTING, None),
        ("127.0.0.5", Sysctls(), Cause.MARTIAN_SOURCE), ("127.0.0.5", _ACCEPTING, Cause.MARTIAN_SOURCE),
        ("127.0.0.5", _LOCALNET, None), ("127.0.0.5", _BOTH, None), ("127.0.0.5", _STRICT_LOCALNET, Cause.MARTIAN_SOURCE),
        ("127.0.0.1", _LOCALNET, Cause.MARTIAN_SOURCE), ("127.0.0.1", _BOTH, None),
        ("192.168.0.255", Sysctls(), None), ("192.168.0.255", _LOOSE, Cause.MARTIAN_SOURCE), ("192.168.0.255", _STRICT, Cause.MARTIAN_SOURCE),
    ],
)  # fmt: skip
def test_sources_that_the_wire_may_bring(source, settings, cause):  # K-7.2, K-7.3
    assert run(node(ruleset(), sysctls=settings), packet(source, POD, came_by="eth0")).cause is cause


@pytest.mark.parametrize(("source", "settings"), [("127.0.0.5", _LOCALNET), ("192.168.0.255", Sysctls())])
def test_routes_of_type_local_make_linux_look_closer(source, settings):  # K-7.3
    netns = node(ruleset(), sysctls=settings)
    netns.routing = netns.routing.with_routes(Route(net("198.51.100.1/32"), "lo", kind=RouteKind.LOCAL))
    assert run(netns, packet(source, POD, came_by="eth0")).cause is Cause.MARTIAN_SOURCE
    assert run(netns, packet(CLIENT, "198.51.100.1", came_by="eth0")).disposition is Disposition.DELIVERED


@pytest.mark.parametrize(
    ("source", "destination", "disposition"),
    [
        ("0.0.0.0", "255.255.255.255", Disposition.DELIVERED), ("0.0.0.0", "0.0.0.0", Disposition.DELIVERED),
        ("127.0.0.5", "255.255.255.255", Disposition.DELIVERED), ("0.0.0.0", "192.168.0.255", DROPPED), (CLIENT, "0.0.0.0", DROPPED),
    ],
)  # fmt: skip
def test_who_may_speak_to_everybody(source, destination, disposition):  # K-7.7: a machine without address asks for one
    assert run(node(ruleset()), packet(source, destination, protocol="udp", came_by="eth0")).disposition is disposition


@pytest.mark.parametrize(
    ("group", "came_by", "heard"),
    [
        ("224.0.0.1", "eth0", True), ("224.0.0.1", "cni0", True), ("224.0.0.22", "eth0", False), ("239.1.2.3", "eth0", False),
        ("ff02::1", "eth0", True), ("ff02::2", "cni0", True), ("ff02::16", "eth0", False), ("ff05::1", "eth0", False),
        ("ff02::1:ff00:7", "eth0", True), ("ff02::1:ff00:7", "cni0", False), ("ff02::1:ff00:8", "eth0", False),
    ],
)  # fmt: skip
def test_which_groups_the_node_hears(group, came_by, heard):  # K-7.8
    netns = node_netns("n", ["192.168.0.1", "2001:db8::7"], ["10.180.0.0/24", "fd00:180::/64"])
    outcome = run(netns, packet("2001:db8:71::9" if ":" in group else CLIENT, group, protocol="udp", came_by=came_by))
    assert (outcome.disposition, outcome.cause) == (
        (Disposition.DELIVERED, None) if heard else (DROPPED, Cause.GROUP)
    )  # fmt: skip


def test_a_refused_packet_to_many_is_not_answered():  # K-3.3
    netns = node(ruleset(table("filter", INPUT=(rule(Reject()),))))
    for many in ("192.168.0.255", "224.0.0.1"):
        outcome = run(netns, packet(CLIENT, many, protocol="udp", came_by="eth0"))
        assert (outcome.disposition, outcome.cause, outcome.answer) == (DROPPED, Cause.UNANSWERABLE, None)


def test_accept_local():  # K-7.3
    netns = node(ruleset(), sysctls=Sysctls(accept_local=True))
    assert run(netns, packet(NODE, POD, came_by="eth0")).disposition is FORWARDED
    assert run(netns, packet("127.0.0.1", POD, came_by="eth0")).disposition is DROPPED


def test_dnat_comes_before_the_martian_check():  # K-7.2
    netns = node(service_rules((POD,)))
    assert to(run(netns, packet(CLIENT, "127.0.0.1", NODE_PORT, came_by="eth0"))) == (POD, 8080)
    other = run(netns, packet(CLIENT, "127.0.0.1", 22, came_by="eth0"))
    assert (other.disposition, other.cause) == (DROPPED, Cause.MARTIAN_DESTINATION)


def test_with_route_localnet_the_firewall_rule_keeps_outsiders_from_localhost():  # PP-7.4
    netns = node(service_rules((POD,)), sysctls=Sysctls(route_localnet=True))
    assert to(run(netns, packet(CLIENT, "127.0.0.1", NODE_PORT, came_by="eth0"))) == (POD, 8080)
    assert str(run(netns, packet(CLIENT, "127.0.0.1", 22, came_by="eth0")).rule) == "filter/KUBE-FIREWALL rule 1"


@pytest.mark.parametrize(
    ("endpoint", "route_localnet", "disposition", "error"),
    [(POD, True, FORWARDED, ""), (POD, False, DROPPED, "EINVAL"), (NODE, False, DELIVERED, "")],
)
def test_node_ports_on_localhost_need_route_localnet(endpoint, route_localnet, disposition, error):  # K-7.1
    netns = node(service_rules((endpoint,)), sysctls=Sysctls(route_localnet=route_localnet))
    outcome = run(netns, packet("127.0.0.1", "127.0.0.1", NODE_PORT), local=True)
    assert (outcome.disposition, outcome.local_error) == (disposition, error)


def test_the_answer_to_a_localhost_node_port_comes_back():
    netns = node(service_rules((POD,)), sysctls=Sysctls(route_localnet=True))
    request = run(netns, packet("127.0.0.1", "127.0.0.1", NODE_PORT), local=True)
    assert request.packet.source == "10.180.0.1"
    answer = run(netns, replied(request))
    assert (answer.disposition, answer.packet.source, *to(answer)) == (DELIVERED, "127.0.0.1", "127.0.0.1", 40000)


@pytest.mark.parametrize(
    ("rp_filter", "source", "came_by", "passes"),
    [
        (0, CLIENT, "cni0", True), (1, CLIENT, "cni0", False), (2, CLIENT, "cni0", True),
        (1, CLIENT, "eth0", True), (2, CLIENT, "tun0", False),  # loose without an address acts as strict
    ],
)  # fmt: skip
def test_reverse_path_filter(rp_filter, source, came_by, passes):  # K-7.3
    netns = node(ruleset(), sysctls=Sysctls(rp_filter=rp_filter))
    netns.routing = Routing([*netns.routing.interfaces.values(), Interface("tun0")], netns.routing.routes)
    outcome = run(netns, packet(source, REMOTE_POD, came_by=came_by))
    assert outcome.cause is (None if passes else Cause.REVERSE_PATH)


def test_ipv6_loopback_must_not_come_in_from_outside():  # K-7.1
    netns = Netns("n6", Routing([Interface("eth0", (OwnAddress.parse("2001:db8::1/64"),))]))
    assert run(netns, packet("::1", "2001:db8::1", came_by="eth0")).cause is Cause.MARTIAN_SOURCE
    assert run(netns, packet("2001:db8::9", "::1", came_by="eth0")).cause is Cause.MARTIAN_DESTINATION


def test_ttl():
    netns = node(ruleset())
    assert run(netns, packet(CLIENT, POD, ttl=2)).packet.ttl == 1
    expired = run(netns, packet(CLIENT, POD, ttl=1))
    assert (expired.disposition, expired.cause, expired.with_) == (REJECTED, Cause.TTL, "icmp-time-exceeded")
    assert run(netns, packet(CLIENT, NODE, ttl=1)).disposition is DELIVERED
