"""Two first packets of one connection before either is confirmed, as on two processors (K-6.8, CT-6.7; all measured)."""

import pytest
from packets import CLIENT, CLUSTER_IP, NODE, OTHER_POD, POD, REMOTE_POD, node, packet, replied, run, service_rules, to

from kpsim.addresses import Family
from kpsim.conntrack import Clash
from kpsim.netfilter import Committed, Disposition, Netns, Walk, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.units import MILLISECOND_NS, SECOND_NS

JUST_BEFORE = SECOND_NS - MILLISECOND_NS


def clash(
    protocol: str,
    endpoints: tuple[str, str],
    *,
    source: str = CLIENT,
    other: str | None = None,
    random_fully: bool = True,
) -> tuple[Netns, list[Walk], list[Committed]]:
    """Walks both packets, each to its endpoint, and commits them in turn."""
    netns = node()
    walks = []
    for number, endpoint in enumerate(endpoints):
        netns.load_rules(service_rules((endpoint,), protocol=protocol, random_fully=random_fully))
        sent = packet(
            other if number and other else source, CLUSTER_IP, protocol=protocol, came_by="" if other else "cni0"
        )
        walks.append(walk(netns, sent, now_ns=0, chooser=SeededChooser(1, number)))
    return netns, walks, [netns.commit(each.effects, 0) for each in walks]


def test_udp_to_one_endpoint_shares_the_first_ones_connection():
    netns, (first, second), (one, two) = clash("udp", (POD, POD), source=OTHER_POD)
    assert (one, two) == (Committed(), Committed(clash=Clash.SAME_BINDING))
    assert (to(first), to(second)) == ((POD, 8080), (POD, 8080))
    assert len(netns.conntrack) == 1
    assert run(netns, replied(second), SECOND_NS).packet.source == CLUSTER_IP


@pytest.mark.parametrize("endpoints", [(POD, OTHER_POD), (POD, REMOTE_POD), (POD, POD)])
def test_udp_to_two_endpoints_or_ports_reaches_both_and_both_answers_are_translated(endpoints):
    netns, walks, (one, two) = clash("udp", endpoints)  # from outside: masqueraded, each to a port of its own
    assert (one.clash, two.clash) == (None, Clash.REPLIES_ONLY)
    assert [to(each)[0] for each in walks] == list(endpoints)
    assert len({each.packet.sport for each in walks}) == 2
    assert len(netns.conntrack) == 2
    for each in walks:
        answer = run(netns, replied(each), JUST_BEFORE, commit=False)
        assert (answer.packet.source, answer.packet.sport, *to(answer)) == (CLUSTER_IP, 80, CLIENT, 40000)


def test_the_later_connection_is_no_clients_and_lives_a_second():
    netns, (first, second), _ = clash("udp", (POD, OTHER_POD), source="10.180.0.7")
    assert run(netns, replied(second), JUST_BEFORE).packet.source == CLUSTER_IP  # and its timer is not re-armed
    assert to(run(netns, first.entry and packet("10.180.0.7", CLUSTER_IP, protocol="udp"), JUST_BEFORE)) == (POD, 8080)
    late = run(netns, replied(second), SECOND_NS)
    assert (late.packet.source, late.ct_state) == (OTHER_POD, "NEW")  # no rule translates it
    assert run(netns, replied(first), SECOND_NS).packet.source == CLUSTER_IP


def test_the_later_connection_of_a_masquerade_leaves_answers_to_the_node():
    netns, (_, second), _ = clash("udp", (POD, OTHER_POD))
    late = run(netns, replied(second), SECOND_NS)
    assert (late.disposition, late.ct_state, to(late)[0]) == (Disposition.DELIVERED, "NEW", "10.180.0.1")


def test_the_later_connection_is_never_assured_and_not_listed():
    netns, (_, second), _ = clash("udp", (POD, OTHER_POD))
    run(netns, replied(second), JUST_BEFORE)
    assert [entry.reply.saddr for entry in netns.conntrack.udp_entries(Family.IPV4)] == [packet("", POD).daddr]
    found = netns.conntrack.lookup(second.entry.reply, JUST_BEFORE) if second.entry else None
    assert found is not None
    assert (found.entry.assured, found.entry.seen_reply, found.entry.expires_ns) == (False, True, SECOND_NS)
    netns.collect(SECOND_NS)
    assert len(netns.conntrack) == 1


def test_a_connection_found_by_answers_alone_can_be_deleted():
    netns, (_, second), _ = clash("udp", (POD, OTHER_POD))
    assert second.entry is not None
    gone = netns.conntrack.delete(second.entry.original, second.entry.reply)
    assert gone is not None and gone.replies_only
    assert netns.conntrack.lookup(second.entry.reply, 0) is None
    assert netns.conntrack.lookup(second.entry.original, 0) is not None  # the first one's


@pytest.mark.parametrize("endpoints", [(POD, POD), (POD, OTHER_POD)])
@pytest.mark.parametrize("protocol", ["tcp", "sctp"])
def test_of_other_protocols_the_later_packet_is_lost(protocol, endpoints):
    netns, _, (one, two) = clash(protocol, endpoints)
    assert (one.clash, two.clash) == (None, Clash.LOST)
    assert [entry.reply.saddr for entry in netns.conntrack] == [packet("", POD).daddr]


def test_icmp_is_lost_too():
    netns = node(service_rules((POD,)))
    echo = Packet(Family.IPV4, "icmp", packet(CLIENT, NODE).saddr, packet("", POD).daddr, 77, icmp_type=8)
    walks = [walk(netns, echo, now_ns=0, chooser=SeededChooser(1, 0)) for _ in range(2)]
    assert [netns.commit(each.effects, 0).clash for each in walks] == [None, Clash.LOST]


def test_two_clients_that_got_one_port_cannot_both_have_its_answers():
    netns, walks, (one, two) = clash("udp", (POD, POD), other="203.0.113.10", random_fully=False)
    assert {each.packet.sport for each in walks} == {40000}
    assert (one.clash, two.clash) == (None, Clash.LOST)
    assert len(netns.conntrack) == 1
