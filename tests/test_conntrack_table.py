"""The connection table by itself: look-ups and changes, entry by entry (CT-3, CT-7, K-1)."""

from dataclasses import replace

import pytest
from packets import (
    CLIENT,
    NODE,
    POD,
    REMOTE_POD,
    dnat,
    flow_entry,
    ip,
    net,
    node,
    node_netns,
    packet,
    replied,
    rule,
    ruleset,
    run,
    table,
)
from rule_parts import ct_state, to_net

from kpsim.addresses import Family
from kpsim.conntrack import ConntrackTable, FlowTuple, tuple_of
from kpsim.dialects.iptables import BUILT_IN_CHAINS, table_key
from kpsim.fabric import answer_to
from kpsim.flowstate import Direction, FlowState, sctp_timeout_ns, tcp_timeout_ns
from kpsim.maps import Map
from kpsim.netfilter import Disposition
from kpsim.packet import Packet
from kpsim.packetpath.steps import ConntrackChanged, Tracking
from kpsim.ruleset import ACCEPT, DROP, Chain, Counter, Masquerade, Table
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

TRACKED = ruleset(table("filter", INPUT=(rule(ct_state("NEW"), ACCEPT),)))


def test_a_port_that_talks_to_itself_has_a_connection_like_any_other():
    """Its two tuples are one and the same (CT-3.1): it is made, found and forgotten all the same."""
    netns = node(TRACKED)
    sent = packet("192.168.0.1", "192.168.0.1", 40000)
    assert run(netns, sent, local=True).disposition is Disposition.DELIVERED
    assert netns.conntrack.lookup(tuple_of(sent), SECOND_NS) is not None
    (gone,) = netns.conntrack.expire(121 * SECOND_NS)  # CT-4.1: SYN_SENT
    assert gone.entry.original == gone.entry.reply == tuple_of(sent)
    assert netns.conntrack.lookup(tuple_of(sent), SECOND_NS) is None
    assert not len(netns.conntrack)


def test_a_timer_that_was_shortened_runs_out_at_its_new_time():
    """A connection that is reset lives ten seconds more, not five days (CT-4.1); so does one in the place of a
    deleted one.
    """
    netns = node(TRACKED)
    sent = packet("192.168.0.1", "192.168.0.1", 40000)
    run(netns, sent, local=True)
    known, [entry] = netns.conntrack, netns.conntrack
    known.update(entry._replace(expires_ns=1000 * SECOND_NS))
    known.update(entry._replace(expires_ns=10 * SECOND_NS))
    assert [gone.entry.expires_ns for gone in known.expire(10 * SECOND_NS)] == [10 * SECOND_NS]
    assert not len(known)
    assert known.insert(entry._replace(expires_ns=500 * SECOND_NS), 11 * SECOND_NS)
    assert known.delete(entry.original, entry.reply)
    assert known.insert(entry._replace(expires_ns=20 * SECOND_NS), 12 * SECOND_NS)
    assert [gone.entry.expires_ns for gone in known.expire(30 * SECOND_NS)] == [20 * SECOND_NS]
    assert not known.expire(2000 * SECOND_NS)


def test_expired_entries_make_room_once_each():
    """However often their timers were changed (CT-7.2)."""
    netns = node(TRACKED)
    run(netns, packet("192.168.0.1", "192.168.0.1", 40000), local=True)
    known, [entry] = netns.conntrack, netns.conntrack
    for seconds in (50, 20, 50, 20, 10):
        known.update(entry._replace(expires_ns=seconds * SECOND_NS))
    run(netns, packet("192.168.0.1", "192.168.0.1", 40001), local=True)
    full = replace(netns.sysctls, nf_conntrack_max=2)
    assert known.pressure(9 * SECOND_NS, full) is not None
    assert known.pressure(10 * SECOND_NS, full) is None
    assert known.pressure(10 * SECOND_NS, replace(full, nf_conntrack_max=1)).candidates == 1


def udp(
    sport: int = 40000, *, to: str = "172.30.0.10", reply: tuple[str, int, str, int] | None = None, until_s: int = 30
):
    answer = reply or (POD, 5353, CLIENT, sport)
    return flow_entry("udp", (CLIENT, sport, to, 53), answer, created_ns=0, expires_ns=until_s * SECOND_NS)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (udp(), "- udp 203.0.113.9:40000 → 172.30.0.10:53 ⇄ udp 10.180.0.5:5353 → 203.0.113.9:40000 [DST_NAT]"),
        (
            udp()._replace(state=FlowState.ESTABLISHED, seen_reply=True, assured=True),
            "ESTABLISHED udp 203.0.113.9:40000 → 172.30.0.10:53 ⇄ udp 10.180.0.5:5353 → 203.0.113.9:40000"
            " [SEEN_REPLY] [ASSURED] [DST_NAT]",
        ),
        (
            udp(reply=(POD, 53, NODE, 7)),
            "- udp 203.0.113.9:40000 → 172.30.0.10:53 ⇄ udp 10.180.0.5:53 → 192.168.0.1:7 [SRC_NAT] [DST_NAT]",
        ),
    ],
)
def test_a_connection_as_text(entry, text):
    """State, both directions and status bits but CONFIRMED, as ``conntrack -L`` shows them (CT-3.2)."""
    assert str(entry) == text


def test_tuples_as_text():
    echo = FlowTuple(Family.IPV4, "icmp", ip(CLIENT), 7, ip(POD), 8 * 256)
    assert str(echo) == "icmp 203.0.113.9 → 10.180.0.5 id 7 type 8"
    assert str(FlowTuple(Family.IPV6, "tcp", 1, 2, 3, 4)) == "tcp [::1]:2 → [::3]:4"


def test_an_icmp_tuple_holds_type_and_code():
    """CT-3.1; an answer's code is the request's."""
    sent = Packet(Family.IPV4, "icmp", ip(CLIENT), ip(POD), 7, icmp_type=13, icmp_code=2)
    assert tuple_of(sent).dport == 13 * 256 + 2
    assert tuple_of(sent).inverse().dport == 14 * 256 + 2


def test_a_port_alone_makes_a_destination_nat():
    """CT-3.3: DNAT tells whether the answer comes from another address or another port."""
    assert udp(reply=("172.30.0.10", 5353, CLIENT, 40000)).dst_nat
    assert not udp(reply=("172.30.0.10", 53, CLIENT, 40000)).dst_nat
    assert udp(reply=(POD, 53, CLIENT, 40001)).src_nat


def test_a_later_version_replaces_the_same_connection_only():
    known, entry = ConntrackTable(), udp()
    known.update(entry)
    assert not len(known)  # it left meanwhile: nothing comes back
    known.insert(entry, 0)
    known.update(entry._replace(reply=entry.reply._replace(sport=9), mark=1))
    assert known.lookup(entry.original, 0) == (entry, Direction.ORIGINAL)
    later = entry._replace(assured=True, expires_ns=entry.expires_ns + 1)
    known.update(later)
    assert known.lookup(entry.reply, entry.expires_ns) == (later, Direction.REPLY)


def test_the_port_of_the_newest_live_flow_at_an_address():
    """Measured: whatever the destination; not its own, not one that is over, not at another address."""
    known = ConntrackTable()
    assert known.mapped_source(udp().original, (ip(NODE), ip(NODE)), None, 0) is None
    known.insert(udp(to="172.30.0.1", reply=(POD, 1, NODE, 2001)), 0)
    known.insert(udp(to="172.30.0.2", reply=(POD, 2, NODE, 2002), until_s=10), 0)
    known.insert(udp(to="172.30.0.3", reply=(POD, 3, "192.168.5.1", 2003)), 0)
    known.insert(udp(41000, to="172.30.0.4", reply=(POD, 4, NODE, 2004)), 0)
    asked = udp(to="172.30.0.9").original
    assert known.mapped_source(asked, (ip(NODE), ip(NODE)), None, 10 * SECOND_NS - 1) == (ip(NODE), 2002)
    assert known.mapped_source(asked, (ip(NODE), ip(NODE)), None, 10 * SECOND_NS) == (ip(NODE), 2001)  # K-1.7
    assert known.mapped_source(asked, (ip("192.168.5.1"), ip("192.168.5.1")), None, 0) == (ip("192.168.5.1"), 2003)
    assert known.mapped_source(udp(to="172.30.0.2").original, (ip(NODE), ip(NODE)), None, 0) == (ip(NODE), 2001)


def test_a_table_is_full_at_its_limit_and_not_before():
    """CT-7.1: limit 2 gives exactly 2 entries; 0 is no limit."""
    known = ConntrackTable()
    for number in (1, 2):
        assert known.pressure(0, Sysctls(nf_conntrack_max=2)) is None
        known.insert(udp(number, reply=(POD, 53, CLIENT, number), until_s=9), 0)
    assert known.pressure(9 * SECOND_NS - 1, Sysctls(nf_conntrack_max=2)) is not None
    assert known.pressure(9 * SECOND_NS, Sysctls(nf_conntrack_max=2)) is None  # what has expired makes room
    assert known.pressure(0, Sysctls(nf_conntrack_max=0)) is None


def test_states_of_translation_hold_for_the_first_packet_too():
    """CT-3.3: SNAT and DNAT are tests of the entry, which has its binding from nat on."""
    seen = [rule(ct_state(state), Counter(state)) for state in ("SNAT", "DNAT", "NEW", "ESTABLISHED", "INVALID")]
    rules = ruleset(
        table(
            "nat",
            PREROUTING=(rule(to_net(net("172.30.0.10")), dnat(REMOTE_POD)),),
            POSTROUTING=(rule(Masquerade()),),
        ),
        table("filter", FORWARD=tuple(seen)),
        table("security", FORWARD=()),
    )
    mangle = table("mangle", PREROUTING=tuple(seen), POSTROUTING=())
    netns = node(ruleset(*rules.tables.values(), mangle))

    def counted(outcome) -> list[str]:
        return [name for name, _ in outcome.effects.touched.counters]

    first = run(netns, packet(CLIENT, "172.30.0.10"))
    assert counted(first) == ["NEW", "DNAT", "NEW"]
    assert counted(run(netns, replied(first))) == ["SNAT", "DNAT", "ESTABLISHED"] * 2
    plain = node(ruleset(table("filter", FORWARD=tuple(seen))))
    assert counted(run(plain, packet(CLIENT, POD))) == ["NEW"]
    # before conntrack has seen it a packet is INVALID to xt_conntrack
    early = node(ruleset(table("raw", PREROUTING=tuple(seen)), table("filter", FORWARD=(rule(ct_state("NEW")),))))
    assert counted(run(early, packet(CLIENT, POD))) == ["INVALID"]


def test_untranslated_and_untracked_packets_are_not_masqueraded():
    assert not run(node(TRACKED), packet(CLIENT, POD)).masqueraded
    untracked = run(node(), packet(CLIENT, POD))
    assert (untracked.masqueraded, untracked.entry, untracked.ct_state) == (False, None, "")


def test_a_table_may_lack_hooks():
    """nf_tables: a base chain exists only if a program made it."""
    lonely = Table(
        table_key(Family.IPV4, "mangle"),
        Map({"FORWARD": Chain("FORWARD", (rule(DROP),), BUILT_IN_CHAINS["mangle"]["FORWARD"])}),
    )
    netns = node(ruleset(lonely))
    assert run(netns, packet(CLIENT, POD)).disposition is Disposition.DROPPED
    assert run(netns, packet(CLIENT, NODE)).disposition is Disposition.DELIVERED


def test_neighbour_discovery_is_untracked_and_echo_is_not():
    """nf_conntrack_proto_icmpv6: router and neighbour messages are left alone; of IPv4 nothing is."""
    raw = ruleset(table("filter", INPUT=(rule(ct_state("NEW"), ACCEPT),)), family=Family.IPV6)
    six = node_netns("n1", ["2001:db8::1"], ["fd00:180::/64"])
    six.load_rules(raw)
    own, other = ip("2001:db8::1"), ip("2001:db8::9")
    for kind, state in ((133, "UNTRACKED"), (135, "UNTRACKED"), (136, "UNTRACKED"), (128, "NEW")):
        outcome = run(six, Packet(Family.IPV6, "icmpv6", other, own, 7, icmp_type=kind))
        assert outcome.ct_state == state
        kinds = [step.tracking for step in outcome.trace if isinstance(step, ConntrackChanged)]
        assert (Tracking.UNTRACKED in kinds) is (state == "UNTRACKED")
    four = run(node(TRACKED), Packet(Family.IPV4, "icmp", ip(CLIENT), ip(NODE), 7, icmp_type=135))
    assert four.ct_state == "INVALID"


@pytest.mark.parametrize(
    ("protocol", "request_type", "answer_type"),
    [("icmp", 8, 0), ("icmp", 13, 14), ("icmp", 15, 16), ("icmp", 17, 18), ("icmpv6", 128, 129), ("icmpv6", 139, 140)],
)
def test_which_icmp_messages_answer_which(protocol, request_type, answer_type):
    """RFC 792, 950, 4443, 4620: echo, timestamp, information, address mask, node information."""
    asked = FlowTuple(Family.IPV4, protocol, 1, 7, 2, request_type * 256)
    assert asked.inverse().dport == answer_type * 256
    assert asked.inverse().inverse() == asked
    assert answer_to(Packet(Family.IPV4, protocol, 1, 2, 7, icmp_type=request_type)).icmp_type == answer_type


@pytest.mark.parametrize("created_s", [0, 1000])
def test_a_udp_flow_is_a_stream_two_seconds_after_it_began(created_s):
    """CT-5.1, K-6.2: from its own beginning, whatever the time is."""
    netns = node(ruleset(table("filter", FORWARD=(rule(ct_state("NEW"), ACCEPT),))))
    began = created_s * SECOND_NS
    first = run(netns, packet(CLIENT, POD, 53, protocol="udp"), began)
    run(netns, replied(first), began + SECOND_NS)
    lives = []
    for after_ns in (2 * SECOND_NS - 1, 2 * SECOND_NS):
        run(netns, packet(CLIENT, POD, 53, protocol="udp"), began + after_ns)
        (entry,) = netns.conntrack
        lives.append((entry.assured, entry.expires_ns - began - after_ns))
    assert lives == [(False, 30 * SECOND_NS), (True, 120 * SECOND_NS)]


def test_states_of_another_protocol_have_no_timer():
    with pytest.raises(ValueError) as sctp:
        sctp_timeout_ns(FlowState.SYN_SENT, Sysctls())
    with pytest.raises(ValueError) as tcp:
        tcp_timeout_ns(FlowState.COOKIE_WAIT, Sysctls())
    assert (str(sctp.value), str(tcp.value)) == ("not an SCTP state: SYN_SENT", "not a TCP state: COOKIE_WAIT")


def test_what_expires_now_is_nobodys_victim():
    """K-1.7."""
    known = ConntrackTable()
    for number in (1, 2):
        known.insert(udp(number, reply=(POD, 53, CLIENT, number), until_s=number), 0)
    assert known.unassured(0, SECOND_NS - 1).original.sport == 1
    assert known.unassured(0, SECOND_NS).original.sport == 2
