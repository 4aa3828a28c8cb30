"""The source port of a translated connection, and the cost of finding one (K-2.3, K-2.4, CT-6.3)."""

import pytest
from packets import (
    CLIENT,
    CLUSTER_IP,
    NODE,
    POD,
    REMOTE_POD,
    dnat,
    flow_entry,
    ip,
    net,
    node,
    packet,
    replied,
    rule,
    ruleset,
    run,
    table,
)
from rule_parts import ct_state, masquerade, nat_flags, to_net

from kpsim.addresses import Family
from kpsim.conntrack import Ending, FlowTuple
from kpsim.flowstate import FlowState
from kpsim.netfilter import Cause, Disposition, Netns, Walk, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.packetpath.nat import port_class
from kpsim.packetpath.routing import Interface, OwnAddress, Route, Routing
from kpsim.packetpath.steps import ConntrackChanged, Tracking
from kpsim.ruleset import Masquerade, Redirect, Rule, Snat
from kpsim.units import SECOND_NS

V4 = Family.IPV4
FORWARDED, DROPPED = Disposition.FORWARDED, Disposition.DROPPED


@pytest.mark.parametrize(
    ("protocol", "sport", "ports"),
    [
        ("tcp", 1, (1, 511)), ("udp", 511, (1, 511)), ("tcp", 512, (600, 1023)), ("tcp", 599, (600, 1023)),
        ("udp", 1023, (600, 1023)), ("tcp", 1024, (1024, 65535)), ("sctp", 65535, (1024, 65535)),
        ("icmp", 7, (0, 65535)), ("icmpv6", 60000, (0, 65535)),
    ],
)  # fmt: skip
def test_the_classes_of_ports(protocol, sport, ports):  # K-2.3
    assert port_class(FlowTuple(V4, protocol, 1, sport, 2, 80)) == ports


class Offsets(ScriptedChooser):
    """Gives these answers when a source port is searched for, and remembers what it was asked."""

    def __init__(self, *offsets: int) -> None:
        super().__init__()
        self.offsets = list(offsets)
        self.asked: list[tuple[int, object]] = []

    def port(self, limit: int, key: object) -> int:
        self.asked.append((limit, key))
        return self.offsets.pop(0)


def translating(target: Snat | Masquerade) -> Netns:
    return node(ruleset(table("nat", POSTROUTING=(rule(target),))))


def snat(low: int, high: int, **more: bool) -> Snat:
    return Snat(ip(NODE), (low, high), nat_flags(**more))


def take(netns: Netns, *ports: int, state: FlowState = FlowState.ESTABLISHED) -> None:
    """Other hosts' connections to the same server that left with these ports of the node."""
    for number in ports:
        entry = flow_entry(
            "tcp",
            ("10.180.9.9", number, REMOTE_POD, 80),
            (REMOTE_POD, 80, NODE, number),
            created_ns=0,
            expires_ns=9 * SECOND_NS,
        )
        netns.conntrack.insert(entry._replace(state=state), 0)


def sent(netns: Netns, chooser: ScriptedChooser, sport: int = 40000) -> Walk:
    return walk(netns, packet(CLIENT, REMOTE_POD, sport=sport), now_ns=0, chooser=chooser)


def test_ports_are_tried_one_after_the_other_from_a_drawn_one_round_the_class():
    """CT-6.3."""
    netns, chooser = translating(snat(5000, 5009)), Offsets(8)
    take(netns, 5008, 5009, 5000)
    outcome = sent(netns, chooser)
    assert (outcome.packet.sport, outcome.source_port_drawn) == (5001, True)
    assert chooser.asked == [(10, "source port")]


@pytest.mark.parametrize("sport", [5000, 5005, 5009])
def test_a_port_within_the_given_range_is_kept_if_it_is_free(sport):
    netns = translating(snat(5000, 5009))
    kept = sent(netns, Offsets(), sport)
    assert (kept.packet.sport, kept.source_port_drawn) == (sport, False)
    take(netns, sport)
    assert sent(netns, Offsets((sport + 1) % 10), sport).packet.sport == 5000 + (sport + 1) % 10


@pytest.mark.parametrize("flag", ["random", "random_fully"])
def test_random_ports_are_drawn_though_the_own_is_free(flag):
    assert sent(translating(snat(5000, 5009, **{flag: True})), Offsets(3), 5005).packet.sport == 5003
    assert sent(translating(masquerade(**{flag: True})), Offsets(7)).packet.sport == 1024 + 7


def test_one_port_is_a_range_of_one():
    assert sent(translating(masquerade(ports=(5000, 5000))), Offsets(0)).packet.sport == 5000
    assert sent(translating(Snat(ip(NODE), (5000, 5000))), Offsets(0)).packet.sport == 5000


def test_a_small_range_is_tried_whole_and_then_the_packet_is_lost():
    """K-2.3: exhaustion drops the packet; nothing is remembered of it."""
    netns, chooser = translating(snat(5000, 5099)), Offsets(50)
    take(netns, *range(5000, 5100))
    lost = sent(netns, chooser)
    assert (lost.disposition, lost.cause, lost.effects.created) == (DROPPED, Cause.TUPLE_TAKEN, None)
    assert len(chooser.asked) == 1


def test_a_large_range_is_tried_in_rounds_of_half_the_tries():
    """CT-6.3: 128, 64, 32, 16 from new places each; and 8, as measured. What is behind the tries of a round is not
    found.
    """
    taken = range(5000, 6000)
    keys = ["source port", *(("source port", n) for n in range(1, 5))]
    exhausted, none_left = Offsets(0, 0, 0, 0, 0), translating(snat(5000, 5999))
    take(none_left, *taken)
    assert sent(none_left, exhausted).cause is Cause.TUPLE_TAKEN
    assert exhausted.asked == [(1000, key) for key in keys]
    for rounds, (tries, offset) in enumerate(((128, 100), (64, 300), (32, 500), (16, 700), (8, 900))):
        for place, found in ((tries - 1, True), (tries, False)):  # the last of the round, and the one behind it
            netns = translating(snat(5000, 5999))
            take(netns, *(number for number in taken if number != 5000 + offset + place))
            chooser = Offsets(*[0] * rounds, offset, *[0] * (4 - rounds))
            outcome = sent(netns, chooser)
            assert (outcome.disposition is FORWARDED) is found
            assert len(chooser.asked) == (rounds + 1 if found else 5)
            if found:
                assert outcome.packet.sport == 5000 + offset + place


@pytest.mark.parametrize(("place", "given"), [(95, False), (96, True), (127, True)])
def test_only_the_last_tries_of_a_round_end_a_connection_that_is_over(place, given):
    """Measured: 32 of them."""
    netns = translating(snat(5000, 5127))
    take(netns, *(number for number in range(5000, 5128) if number != 5000 + place))
    take(netns, 5000 + place, state=FlowState.TIME_WAIT)
    found = {
        walked.packet.sport
        for walked in (sent(netns, Victims(0, n)) for n in range(2))
        if walked.disposition is FORWARDED
    }
    assert found == ({5000 + place} if given else set())


@pytest.mark.parametrize(
    ("original", "reply"),
    [
        ((NODE, 5000, REMOTE_POD, 80), (REMOTE_POD, 80, NODE, 5000)),  # the node's own, not translated
        ((REMOTE_POD, 80, NODE, 5000), (POD, 1, "10.180.9.9", 2)),  # one that came from there
    ],
)
def test_only_a_translated_connections_own_answers_give_way(original, reply):
    """Measured: the port must be one that translation gave."""
    netns = translating(snat(5000, 5000))
    over = flow_entry("tcp", original, reply, created_ns=0, expires_ns=9 * SECOND_NS)
    netns.conntrack.insert(over._replace(state=FlowState.TIME_WAIT), 0)
    lost = sent(netns, Victims(0, 0))
    assert (lost.cause, lost.effects.destroyed) == (Cause.TUPLE_TAKEN, ())


class Victims(Offsets):
    """Says of a connection that is over whether it keeps its port: the sequence numbers decide, one time in two."""

    def __init__(self, offset: int, victim: int) -> None:
        super().__init__(offset)
        self._victim = victim

    def victim(self, limit: int, key: object) -> int:
        return self._victim


def test_echoes_of_one_id_get_ids_of_their_own():
    """CT-3.1: the id is a kind of source port."""
    netns = translating(Masquerade())

    def ping(source: str) -> Walk:
        echo = Packet(V4, "icmp", ip(source), ip(REMOTE_POD), 7, icmp_type=8)
        outcome = walk(netns, echo, now_ns=0, chooser=Offsets(99))
        netns.commit(outcome.effects, 0)
        return outcome

    assert [ping(source).packet.sport for source in (POD, "10.180.0.6")] == [7, 99]


def test_protocols_without_ports_have_no_other_to_try():
    netns = translating(Masquerade())
    first, second = (Packet(V4, "gre", ip(source), ip(REMOTE_POD)) for source in (POD, "10.180.0.6"))
    assert run(netns, first).disposition is FORWARDED
    lost = run(netns, second)
    assert (lost.disposition, lost.cause, lost.source_port_drawn) == (DROPPED, Cause.TUPLE_TAKEN, False)


# --- addresses ---------------------------------------------------------------------------------------------------------


def prerouting(*rules: Rule) -> Netns:
    return node(ruleset(table("nat", PREROUTING=rules)))


def test_without_a_port_the_destination_port_stays():
    outcome = run(prerouting(rule(to_net(net(CLUSTER_IP)), dnat(REMOTE_POD, None))), packet(CLIENT, CLUSTER_IP, 81))
    assert (outcome.packet.destination, outcome.packet.dport) == (REMOTE_POD, 81)


def test_a_masquerade_borrows_in_the_subnet_of_the_gateway():
    """K-2.2: not of the destination."""
    netns = translating(Masquerade())
    uplink = Interface("eth0", (OwnAddress.parse("192.168.0.1/24"), OwnAddress.parse("192.168.5.1/24")))
    routing = netns.routing
    others = [each for each in routing.interfaces.values() if each.name != "eth0"]
    netns.routing = Routing([*others, uplink], [Route(net("0.0.0.0/0"), "eth0", ip("192.168.5.254"))])
    assert run(netns, packet(POD, "198.51.100.7")).packet.source == "192.168.5.1"
    assert run(netns, packet(POD, "192.168.0.77")).packet.source == NODE


@pytest.mark.parametrize(("family", "loopback"), [(V4, "127.0.0.1"), (Family.IPV6, "::1")])
def test_what_a_process_sends_is_redirected_to_loopback(family, loopback):
    """iptables-extensions(8), REDIRECT: locally generated packets are mapped to the loopback address."""
    from packets import node_netns

    netns = node_netns("n1", [NODE, "2001:db8::1"], ["10.180.0.0/24", "fd00:180::/64"])
    netns.load_rules(ruleset(table("nat", OUTPUT=(rule(Redirect(81)),)), family=family))
    elsewhere = "10.180.0.7" if family is V4 else "fd00:180::7"
    outcome = run(netns, packet("", elsewhere), local=True)
    assert (outcome.packet.destination, outcome.packet.dport) == (loopback, 81)


def test_a_redirect_of_what_came_by_an_unknown_device_is_a_drop():
    outcome = run(prerouting(rule(Redirect(81))), packet(CLIENT, NODE, came_by="gone0"))
    assert (outcome.disposition, outcome.cause) == (DROPPED, Cause.NO_ADDRESS)


def test_a_null_binding_changes_a_port_that_would_clash():
    """K-2.4: no SNAT rule at all."""
    netns = node(ruleset(table("nat", PREROUTING=(rule(to_net(net("172.30.0.0/24")), dnat(REMOTE_POD)),))))
    run(netns, packet(CLIENT, "172.30.0.1"))
    chooser = Offsets(5)
    clash = walk(netns, packet(CLIENT, "172.30.0.2"), now_ns=0, chooser=chooser)
    assert (clash.packet.sport, clash.packet.source, clash.source_port_drawn) == (1029, CLIENT, True)
    assert chooser.asked == [(64512, "source port")]


def test_without_nat_a_taken_tuple_drops():
    """K-6.8: of two first packets with one answer's tuple the later is lost, where no nat table may change its port."""
    tracked = table("filter", FORWARD=(rule(ct_state("NEW")),))
    netns = node(ruleset(tracked))
    taken = flow_entry(
        "tcp", ("10.180.9.9", 1, REMOTE_POD, 80), (REMOTE_POD, 80, CLIENT, 40000), created_ns=0, expires_ns=SECOND_NS
    )
    netns.conntrack.insert(taken, 0)
    outcome = run(netns, packet(CLIENT, REMOTE_POD))
    assert (outcome.disposition, outcome.cause) == (DROPPED, Cause.TUPLE_TAKEN)


# --- errors about translated packets -----------------------------------------------------------------------------------


def errors(about: Packet, reporter: str) -> Packet:
    """A router of the way says of a packet that it did not get through."""
    return Packet(V4, "icmp", ip(reporter), about.saddr, icmp_type=3, icmp_code=1, related=about)


def inner(outcome: Walk) -> tuple[str, int, str, int]:
    about = outcome.packet.related
    assert about is not None
    return about.source, about.sport, about.destination, about.dport


ROUTER = "203.0.113.254"


def test_an_error_hides_translated_destinations_and_keeps_other_senders():
    """K-3.1, CT-5.3: it comes from the service towards the client, from its reporter towards the endpoint."""
    netns = prerouting(rule(to_net(net(CLUSTER_IP)), dnat(REMOTE_POD)))
    first = run(netns, packet(CLIENT, CLUSTER_IP))
    to_client = run(netns, errors(first.packet, "10.180.1.1"))
    assert (to_client.packet.source, to_client.packet.destination) == (CLUSTER_IP, CLIENT)
    assert inner(to_client) == (CLIENT, 40000, CLUSTER_IP, 80)
    answer = run(netns, replied(first)).packet
    to_endpoint = run(netns, errors(answer, ROUTER))
    assert (to_endpoint.packet.source, to_endpoint.packet.destination) == (ROUTER, REMOTE_POD)
    assert inner(to_endpoint) == (REMOTE_POD, 8080, CLIENT, 40000)


def test_an_error_hides_translated_sources():
    netns = translating(Masquerade())
    first = run(netns, packet(POD, "198.51.100.7"))
    answer = run(netns, replied(first)).packet
    to_server = run(netns, errors(answer, "10.180.0.254"))
    assert (to_server.packet.source, to_server.packet.destination) == (NODE, "198.51.100.7")
    assert inner(to_server) == ("198.51.100.7", 80, NODE, 40000)
    to_pod = run(netns, errors(first.packet, ROUTER))
    assert (to_pod.packet.source, to_pod.packet.destination) == (ROUTER, POD)
    assert inner(to_pod) == (POD, 40000, "198.51.100.7", 80)


def test_an_error_about_an_echo_keeps_its_id():
    netns = translating(Masquerade())
    echo = Packet(V4, "icmp", ip(POD), ip("198.51.100.7"), 7, icmp_type=8)
    first = run(netns, echo)
    told = run(netns, errors(first.packet, ROUTER))
    assert told.packet.destination == POD
    assert inner(told) == (POD, 7, "198.51.100.7", 0)


def test_a_flow_that_leaves_by_another_device_is_forgotten_with_its_packet():
    """K-1.6: dropped, and its entry killed; the next packet is NEW."""
    netns = translating(Masquerade())
    run(netns, packet(CLIENT, "198.51.100.7", protocol="udp"))
    routing = netns.routing
    uplink = Interface("eth1", (OwnAddress.parse("192.168.9.1/24"),))
    netns.routing = Routing(
        [*routing.interfaces.values(), uplink], [*routing.routes, Route(net("198.51.100.7"), "eth1")]
    )
    lost = run(netns, packet(CLIENT, "198.51.100.7", protocol="udp"))
    assert (lost.disposition, lost.cause, lost.effects.updated) == (DROPPED, Cause.DEVICE_CHANGED, None)
    assert [gone.ending for gone in lost.effects.destroyed] == [Ending.DEVICE_CHANGED]
    assert [s.tracking for s in lost.trace if isinstance(s, ConntrackChanged)] == [Tracking.KNOWN, Tracking.DESTROYED]
    again = run(netns, packet(CLIENT, "198.51.100.7", protocol="udp"))
    assert (again.ct_state, again.packet.source, again.packet.out_interface) == ("NEW", "192.168.9.1", "eth1")
