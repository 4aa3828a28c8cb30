"""Connections and their translation in the walk (K-1, K-2, K-6, CT-3 … CT-7)."""

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
    dnat,
    established,
    flags,
    flow_entry,
    ip,
    net,
    node,
    packet,
    replied,
    rule,
    ruleset,
    run,
    service_rules,
    table,
    to,
)
from rule_parts import ct_state, of_protocol, to_net

from kpsim.addresses import Family, format_ip
from kpsim.conntrack import Ending
from kpsim.netfilter import Cause, Disposition, Hook, Netns, expand
from kpsim.packet import Packet
from kpsim.packetpath.routing import Interface, InterfaceKind, OwnAddress, Route, Routing
from kpsim.packetpath.steps import ChainEntered, HookEntered
from kpsim.ruleset import ACCEPT, DROP, Masquerade, NoTrack, Redirect, Reject, Snat
from kpsim.units import SECOND_NS

FORWARDED, DELIVERED, REJECTED, DROPPED = (
    Disposition.FORWARDED,
    Disposition.DELIVERED,
    Disposition.REJECTED,
    Disposition.DROPPED,
)


def test_only_the_first_packet_asks_nat():  # K-1.3
    netns = node(service_rules((POD,)))
    run(netns, packet(CLIENT, CLUSTER_IP))
    netns.load_rules(service_rules((REMOTE_POD,)))
    again = run(netns, packet(CLIENT, CLUSTER_IP))
    assert (to(again), again.ct_state, again.dnat_rule) == ((POD, 8080), "NEW", None)
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, sport=40001))) == (REMOTE_POD, 8080)


def test_translation_outlives_the_rules_but_not_the_table():  # K-1.5
    netns = node(service_rules((POD,)))
    established(netns, packet(CLIENT, CLUSTER_IP))
    data = packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK"))
    tracks = table("filter", FORWARD=(rule(ct_state("NEW"), ACCEPT),))
    netns.load_rules(ruleset(table("nat"), tracks))
    assert to(run(netns, data)) == (POD, 8080)
    netns.load_rules(ruleset(tracks))
    assert to(run(netns, data)) == (CLUSTER_IP, 80)
    assert len(netns.conntrack) == 1


def test_a_flow_begun_before_the_service_stays_untranslated():  # K-1.7, CT-3.6
    netns = node(service_rules(()))
    netns.load_rules(ruleset(table("nat"), table("filter", FORWARD=(rule(ct_state("NEW"), ACCEPT),))))
    run(netns, packet(CLIENT, CLUSTER_IP, protocol="udp"))
    netns.load_rules(service_rules((POD,), protocol="udp"))
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, protocol="udp"), 20 * SECOND_NS)) == (CLUSTER_IP, 80)
    after_timeout = 50 * SECOND_NS  # the packet at 20 s had re-armed the timer
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, protocol="udp"), after_timeout)) == (POD, 8080)


@pytest.mark.parametrize(("sequence", "anew"), [("", False), ("FIN", False), ("RST", True)])
def test_a_syn_on_a_finished_connection_asks_nat_anew(sequence, anew):  # K-1.8
    netns = node(service_rules((POD,)))
    sent = packet(CLIENT, CLUSTER_IP)
    established(netns, sent)
    if sequence:
        run(netns, replace(sent, tcp_flags=flags("RST" if sequence == "RST" else "FIN ACK")))
    netns.load_rules(service_rules((REMOTE_POD,)))
    assert to(run(netns, sent)) == ((REMOTE_POD if anew else POD), 8080)
    (entry,) = netns.conntrack
    assert entry.reply.saddr == ip(REMOTE_POD if anew else POD)


def test_a_refused_connection_leaves_nothing():  # CT-4.3
    netns = node(service_rules((POD,)))
    request = run(netns, packet(CLIENT, CLUSTER_IP))
    refusal = run(netns, replied(request, "RST ACK"))
    assert (refusal.disposition, refusal.packet.source) == (FORWARDED, CLUSTER_IP)
    assert [gone.ending for gone in refusal.effects.destroyed] == [Ending.RESET]
    assert len(netns.conntrack) == 0


@pytest.mark.parametrize("statement", [Reject(), DROP])
def test_a_first_packet_that_is_refused_leaves_no_entry(statement):  # K-1.4
    netns = node(service_rules((POD,)))
    filters = table("filter", FORWARD=(rule(statement),), INPUT=(rule(statement),))
    netns.load_rules(ruleset(service_rules((POD,)).table("nat"), filters))
    run(netns, packet(CLIENT, CLUSTER_IP))
    run(netns, packet(CLIENT, NODE, 443))
    assert len(netns.conntrack) == 0
    over_lo = run(netns, packet("", NODE, 443), local=True)
    assert over_lo.disposition in (REJECTED, DROPPED)
    assert len(netns.conntrack) == 1  # confirmed in POSTROUTING before


def test_over_lo_nat_is_not_visited_again():  # K-1.2
    outcome = run(node(service_rules((NODE,))), packet("", NODE, NODE_PORT), local=True)
    assert (outcome.disposition, to(outcome)) == (DELIVERED, (NODE, 8080))
    hooks = [step.hook for step in outcome.trace if isinstance(step, HookEntered)]
    order = list(dict.fromkeys(hooks))
    assert order == [Hook.OUTPUT, Hook.POSTROUTING, Hook.PREROUTING, Hook.INPUT]
    chains = [(str(step.table), step.chain) for step in outcome.trace if isinstance(step, ChainEntered)]
    assert ("nat", "OUTPUT") in chains and ("nat", "POSTROUTING") in chains
    assert ("nat", "PREROUTING") not in chains and ("nat", "INPUT") not in chains


def test_invalid_packets_are_not_translated_and_reach_the_nodes_input():  # K-6.5
    netns = node(service_rules((REMOTE_POD,)))
    request = established(netns, packet(CLIENT, CLUSTER_IP))
    stray = run(netns, replied(request, "FIN"))
    assert (stray.ct_state, stray.disposition, to(stray)[0]) == ("INVALID", DELIVERED, NODE)


def test_invalid_packets_in_forward_are_dropped_by_rule():
    outcome = run(node(service_rules()), packet(CLIENT, POD, tcp_flags=flags("SYN ACK")))
    assert (outcome.disposition, outcome.cause, str(outcome.rule)) == (
        DROPPED,
        Cause.RULE,
        "filter/KUBE-FORWARD rule 1",
    )


def test_notrack_means_no_nat():  # K-6.6
    netns = node(service_rules((POD,)))
    raw = table("raw", PREROUTING=(rule(NoTrack()),))
    netns.load_rules(ruleset(raw, *service_rules((POD,)).tables.values()))
    outcome = run(netns, packet(CLIENT, CLUSTER_IP))
    assert (to(outcome), outcome.ct_state, outcome.entry) == ((CLUSTER_IP, 80), "UNTRACKED", None)


def test_icmp_errors_are_related_and_translated_outside_and_inside():  # CT-5.3, K-3.1
    netns = node(service_rules((REMOTE_POD,), protocol="udp"))
    request = run(netns, packet(CLIENT, NODE, NODE_PORT, protocol="udp"))
    error = Packet(
        Family.IPV4, "icmp", ip(REMOTE_POD), ip(NODE), icmp_type=3, icmp_code=3, related=request.packet.copy()
    )  # fmt: skip
    outcome = run(netns, error)
    assert (outcome.ct_state, outcome.disposition) == ("RELATED", FORWARDED)
    assert (outcome.packet.source, outcome.packet.destination) == (NODE, CLIENT)
    inner = outcome.packet.related
    assert inner is not None
    assert (inner.source, inner.sport, inner.destination, inner.dport) == (CLIENT, 40000, NODE, NODE_PORT)
    stranger = replace(error, related=packet(POD, REMOTE_POD, protocol="udp"))
    assert run(netns, stranger).ct_state == "INVALID"


def test_a_masqueraded_flow_whose_output_device_changed_is_dropped_and_forgotten():  # K-1.6
    netns = node(service_rules((REMOTE_POD,)))
    sent = packet(CLIENT, CLUSTER_IP)
    established(netns, sent)
    devices = [*netns.routing.interfaces.values(), Interface("eth1", (OwnAddress.parse("192.168.7.1/24"),))]
    netns.routing = Routing(devices, [*netns.routing.routes, Route(net(REMOTE_POD), "eth1", ip("192.168.7.2"))])
    data = replace(sent, tcp_flags=flags("ACK"))
    outcome = run(netns, data)
    assert (outcome.disposition, outcome.cause) == (DROPPED, Cause.DEVICE_CHANGED)
    assert len(netns.conntrack) == 0
    assert run(netns, data).ct_state == "NEW"


def test_a_vanished_endpoint_is_still_the_destination_of_an_unmasqueraded_flow():  # K-1.6
    netns = node(service_rules((REMOTE_POD,)))
    established(netns, packet(POD, CLUSTER_IP))
    netns.load_rules(service_rules((OTHER_POD,)))
    netns.routing = Routing(
        netns.routing.interfaces.values(), [route for route in netns.routing.routes if not route.network.prefix]
    )
    outcome = run(netns, packet(POD, CLUSTER_IP, tcp_flags=flags("ACK")))
    assert (outcome.disposition, to(outcome)[0], outcome.packet.out_interface) == (FORWARDED, REMOTE_POD, "eth0")


def test_interface_down_ends_masquerades():  # K-1.9
    netns = node(service_rules((REMOTE_POD,)))
    run(netns, packet(CLIENT, CLUSTER_IP))
    run(netns, packet(POD, CLUSTER_IP))
    assert [gone.ending for gone in netns.interface_down("eth0")] == [Ending.INTERFACE_DOWN]
    assert len(netns.conntrack) == 1
    assert netns.routing.lookup(Family.IPV4, ip(REMOTE_POD)) is None


def two_addresses() -> Netns:
    """eth0 with two addresses, the second towards 192.168.7.0/24; what leaves by it is masqueraded, towards one host
    by SNAT.
    """
    own = tuple(map(OwnAddress.parse, ("192.168.0.1/24", "192.168.7.1/24")))
    bridge = Interface("cni0", (OwnAddress.parse("10.180.0.1/24"),), InterfaceKind.BRIDGE)
    netns = Netns("n1", Routing([Interface("eth0", own), bridge], [Route(net("0.0.0.0/0"), "eth0")]))
    plain = rule(to_net(net("192.168.0.77")), Snat(ip(NODE)))
    netns.load_rules(ruleset(table("nat", POSTROUTING=(plain, rule(Masquerade())))))
    return netns


@pytest.mark.parametrize(
    ("removed", "gone", "default_route"),  # K-1.9, measured
    [
        (["192.168.7.1/24"], ["192.168.7.9"], True), (["192.168.0.1/24"], ["192.168.0.9", "198.51.100.7"], True),
        (["10.180.0.1/24"], ["10.180.0.6"], True), (["192.168.7.2/24"], [], True),
        (["192.168.0.1/24", "192.168.7.1/24"], ["192.168.0.9", "198.51.100.7", "192.168.7.9"], False),
    ],
)  # fmt: skip
def test_an_address_takes_along_what_was_masqueraded_to_it(removed, gone, default_route):
    netns = two_addresses()
    for destination in ("192.168.0.9", "192.168.7.9", "198.51.100.7", "192.168.0.77", "10.180.0.6"):
        run(netns, packet(POD, destination, protocol="udp", came_by="cni0"))
    ended = []
    for text in removed:
        address = OwnAddress.parse(text)
        ended += netns.address_removed("cni0" if text.startswith("10.") else "eth0", address)
        assert not netns.routing.is_local(Family.IPV4, address.value)
    assert [format_ip(Family.IPV4, each.entry.original.daddr) for each in ended] == gone
    assert {each.ending for each in ended} <= {Ending.ADDRESS_GONE}
    assert len(netns.conntrack) == 5 - len(gone)
    # with its last IPv4 address an interface loses all its routes
    assert (netns.routing.lookup(Family.IPV4, ip("198.51.100.7")) is not None) == default_route


@pytest.mark.parametrize(
    ("sport", "low", "high"), [(80, 1, 511), (600, 600, 1023), (1024, 1024, 65535), (40000, 1024, 65535)]
)
def test_random_source_ports_stay_in_their_class(sport, low, high):  # K-2.3
    netns = node(service_rules((REMOTE_POD,)))
    ports = [run(netns, packet(CLIENT, CLUSTER_IP, sport=sport), flow=n, commit=False).packet.sport for n in range(300)]
    assert all(low <= number <= high for number in ports)
    assert min(ports) < low + (high - low) // 10 and max(ports) > high - (high - low) // 10
    assert sum(ports) / 300 == pytest.approx((low + high) / 2, rel=0.1)


@pytest.mark.parametrize("sport", [1, 511, 512, 599, 600, 1023, 1024, 65535])
def test_without_random_any_free_source_port_is_kept(sport):  # K-2.3, measured: also 512 to 599, which are never drawn
    netns = node(service_rules((REMOTE_POD,), random_fully=False))
    assert run(netns, packet(CLIENT, CLUSTER_IP, sport=sport)).packet.sport == sport


def test_a_given_range_of_ports_is_kept_to():  # K-2.3
    nat = table("nat", POSTROUTING=(rule(Snat(ip(NODE), (2000, 2001))),))
    assert run(node(ruleset(nat)), packet(CLIENT, REMOTE_POD)).packet.sport in (2000, 2001)
    assert run(node(ruleset(nat)), packet(CLIENT, REMOTE_POD, sport=2001)).packet.sport == 2001


def test_without_random_a_taken_source_port_is_changed():  # K-2.3
    netns = node(service_rules((REMOTE_POD,), random_fully=False))
    first = run(netns, packet(CLIENT, CLUSTER_IP))
    assert (first.packet.sport, first.source_port_drawn) == (40000, False)
    second = run(netns, packet("203.0.113.10", CLUSTER_IP))
    assert second.packet.source == NODE
    assert second.packet.sport != 40000 and second.packet.sport >= 1024
    assert second.source_port_drawn


def test_without_random_a_source_keeps_the_port_of_its_newest_flow():  # measured; it precedes the port's own number of K-2.3
    nat = table("nat", POSTROUTING=(rule(Masquerade()),))
    netns = node(ruleset(nat))
    run(netns, packet("203.0.113.10", REMOTE_POD))  # has 40000 towards this pod
    drawn = run(netns, packet(CLIENT, REMOTE_POD)).packet.sport
    assert drawn != 40000
    assert run(netns, packet(CLIENT, "10.180.1.8")).packet.sport == drawn  # 40000 would be free
    assert run(netns, packet("203.0.113.11", "10.180.1.8")).packet.sport == 40000  # another source
    assert run(netns, packet(CLIENT, "10.180.1.9", sport=41000)).packet.sport == 41000  # another port of it
    assert run(netns, packet(CLIENT, "10.180.1.9", protocol="udp")).packet.sport == 40000  # another protocol
    assert run(netns, packet(CLIENT, OTHER_POD)).packet.sport == 40000  # by another address: the bridge's
    assert run(netns, packet(CLIENT, "10.180.1.9")).packet.sport == drawn


def test_a_connection_that_begins_anew_does_not_keep_its_own_old_port():  # K-1.8, measured
    nat = table("nat", POSTROUTING=(rule(Masquerade()),))
    netns = node(ruleset(nat))
    run(netns, packet("203.0.113.10", REMOTE_POD))
    first = established(netns, packet(CLIENT, REMOTE_POD))
    run(netns, packet(CLIENT, REMOTE_POD, tcp_flags=flags("RST")))
    again = run(netns, packet(CLIENT, REMOTE_POD), flow=7)
    assert again.source_port_drawn and again.packet.sport != first.packet.sport


def test_exhausted_source_ports_drop_the_packet():  # K-2.3
    nat = table("nat", POSTROUTING=(rule(Snat(ip(NODE), (2000, 2001))),))
    netns = node(ruleset(nat))
    outcomes = [run(netns, packet(f"203.0.113.{host}", REMOTE_POD)) for host in (1, 2, 3)]
    assert [outcome.disposition for outcome in outcomes] == [FORWARDED, FORWARDED, DROPPED]
    assert {outcome.packet.sport for outcome in outcomes[:2]} == {2000, 2001}
    assert outcomes[2].cause is Cause.TUPLE_TAKEN
    assert len(netns.conntrack) == 2


@pytest.mark.parametrize(
    ("life", "displaced"),  # measured: S sa A, then from the client F FIN, R RST, from the server f FIN
    [("", False), ("SA A", False), ("SA A F", False), ("SA A F f", False), ("SA A F f A", True), ("SA A R", True)],
)
def test_a_connection_that_is_over_gives_up_its_source_port(life, displaced):  # K-2.3
    nat = table("nat", POSTROUTING=(rule(Snat(ip(NODE), (2000, 2000))),))
    netns = node(ruleset(nat))
    old = packet(CLIENT, REMOTE_POD)
    first = run(netns, old)
    for word in life.split():
        text = {"SA": "SYN ACK", "A": "ACK", "F": "FIN ACK", "f": "FIN ACK", "R": "RST ACK"}[word]
        run(netns, replied(first, text) if word in ("SA", "f") else replace(old, tcp_flags=flags(text)))
    (weight, outcome), *others = expand(netns, packet("203.0.113.10", REMOTE_POD), now_ns=0)
    assert (weight, others) == (1, [])  # whether sequence numbers allow it is drawn, and no outcome of its own
    if not displaced:
        assert (outcome.cause, outcome.effects.destroyed) == (Cause.TUPLE_TAKEN, ())
        return
    assert (outcome.disposition, outcome.packet.sport) == (FORWARDED, 2000)
    assert [gone.ending for gone in netns.commit(outcome.effects, 0).ended] == [Ending.PORT_NEEDED]
    assert [entry.original.saddr for entry in netns.conntrack] == [ip("203.0.113.10")]
    back = run(netns, replied(outcome))
    assert to(back) == ("203.0.113.10", 40000)


def test_every_other_connection_may_have_the_port_of_one_that_is_over():
    netns = node(ruleset(table("nat", POSTROUTING=(rule(Snat(ip(NODE), (2000, 2000))),))))
    established(netns, packet(CLIENT, REMOTE_POD))
    run(netns, packet(CLIENT, REMOTE_POD, tcp_flags=flags("RST")))
    tries = [run(netns, packet("203.0.113.10", REMOTE_POD), flow=n, commit=False).disposition for n in range(400)]
    assert tries.count(FORWARDED) == pytest.approx(200, abs=30)


def test_one_client_port_to_two_services_that_share_an_endpoint():  # K-2.4, CT-6.5
    other = rule(to_net(net("172.30.0.11")), of_protocol("tcp"), dnat(REMOTE_POD))
    one = rule(to_net(net(CLUSTER_IP)), of_protocol("tcp"), dnat(REMOTE_POD))
    netns = node(ruleset(table("nat", PREROUTING=(one, other))))
    assert run(netns, packet(POD, CLUSTER_IP)).packet.sport == 40000
    second = run(netns, packet(POD, "172.30.0.11"))
    assert (to(second), second.packet.source, second.masqueraded) == ((REMOTE_POD, 8080), POD, False)
    assert second.packet.sport != 40000
    direct = run(netns, packet(POD, REMOTE_POD, 8080))
    assert direct.packet.sport not in (40000, second.packet.sport)
    back = run(netns, replied(second))
    assert (back.packet.source, *to(back)) == ("172.30.0.11", POD, 40000)


def test_foreign_flows_can_be_put_into_the_table():
    netns = node(service_rules((POD,), protocol="udp"))
    stale = flow_entry(
        "udp", (CLIENT, 40000, CLUSTER_IP, 80), (REMOTE_POD, 9090, CLIENT, 40000), created_ns=0, expires_ns=SECOND_NS
    )  # fmt: skip
    netns.conntrack.insert(stale, 0)
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, protocol="udp"))) == (REMOTE_POD, 9090)


def test_icmp_echo_is_translated_by_address_alone():
    netns = node(ruleset(table("nat", PREROUTING=(rule(to_net(net(CLUSTER_IP)), dnat(POD)),))))
    request = run(netns, packet(CLIENT, CLUSTER_IP, 0, protocol="icmp", sport=77))
    assert (to(request), request.packet.sport) == ((POD, 0), 77)
    answer = run(netns, Packet(Family.IPV4, "icmp", ip(POD), ip(CLIENT), 77, icmp_type=0))
    assert (answer.ct_state, answer.packet.source) == ("ESTABLISHED", CLUSTER_IP)


def test_redirect_leads_to_the_machine_itself():
    redirect = rule(to_net(net(CLUSTER_IP)), Redirect(8081))
    netns = node(ruleset(table("nat", PREROUTING=(redirect,), OUTPUT=(redirect,))))
    assert to(run(netns, packet(CLIENT, CLUSTER_IP))) == (NODE, 8081)
    assert to(run(netns, packet(POD, CLUSTER_IP, came_by="cni0"))) == ("10.180.0.1", 8081)
    assert to(run(netns, packet("", CLUSTER_IP), local=True)) == ("127.0.0.1", 8081)


def test_a_masquerade_without_any_address_drops():  # CT-6.2
    routing = Routing([Interface("eth0"), Interface("tun0")], [Route(net("0.0.0.0/0"), "tun0")])
    netns = Netns("bare", routing)
    netns.load_rules(ruleset(table("nat", POSTROUTING=(rule(Masquerade()),))))
    outcome = run(netns, packet(CLIENT, POD, came_by="eth0"))
    assert (outcome.disposition, outcome.cause) == (DROPPED, Cause.NO_ADDRESS)


def test_ipv6_masquerades_too():
    netns = Netns(
        "n6", Routing([Interface("eth0", (OwnAddress.parse("2001:db8::1/64"),))], [Route(net("::/0"), "eth0")])
    )
    netns.load_rules(ruleset(table("nat", POSTROUTING=(rule(Masquerade()),)), family=Family.IPV6))
    assert run(netns, packet("2001:db8:9::9", "2001:db8:1::5")).packet.source == "2001:db8::1"
