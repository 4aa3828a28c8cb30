"""Running chains: what a target does, and which rule comes next (iptables(8), iptables-extensions(8), K-1)."""

import pytest
from packets import (
    CLIENT,
    NODE,
    OTHER_NODE,
    POD,
    REMOTE_POD,
    dnat,
    ip,
    net,
    node,
    packet,
    probability,
    rule,
    ruleset,
    run,
    table,
)
from rule_parts import (
    connection_mark,
    ct_state,
    from_net,
    marked,
    set_connection_mark,
    set_mark,
    time_to_live,
    to_net,
)

from kpsim.errors import InputError
from kpsim.netfilter import Cause, Disposition, Netns, Walk
from kpsim.packetpath.routing import Interface, Routing
from kpsim.packetpath.steps import ChainEntered, ChainLeft, FieldChanged, FieldName, RuleMatched, Tracking
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    RETURN,
    Assign,
    AssignFrom,
    Compare,
    Counter,
    Field,
    Goto,
    Jump,
    Limit,
    Log,
    Lookup,
    NoTrack,
    Numgen,
    Redirect,
    Reject,
    ReversePath,
    Rule,
    Set,
    SetTimeToLive,
    Snat,
    Table,
    Unknown,
    Verdict,
)
from kpsim.units import SECOND_NS

FORWARDED, DROPPED, REJECTED = Disposition.FORWARDED, Disposition.DROPPED, Disposition.REJECTED


def forwarding(*rules: Rule, policy: Verdict = Verdict.ACCEPT, **chains: tuple[Rule, ...]) -> Netns:
    """A node that forwards through these rules of the filter table."""
    return node(ruleset(table("filter", {"FORWARD": policy}, FORWARD=rules, **chains)))


def forward(netns: Netns, **more: object) -> Walk:
    return run(netns, packet(CLIENT, POD, **more))


def counted(outcome: Walk) -> list[str]:
    return [name for name, _ in outcome.effects.touched.counters]


# --- where the packet goes on ------------------------------------------------------------------------------------------


def test_a_policy_stands_behind_the_last_rule():
    """TRACE numbers it so: ``filter:FORWARD:policy:3`` behind two rules (iptables-extensions(8))."""
    outcome = forward(forwarding(rule(Log()), rule(from_net(net(POD)), ACCEPT), policy=Verdict.DROP))
    assert (outcome.disposition, outcome.cause) == (DROPPED, Cause.POLICY)
    assert outcome.rule is not None
    assert (outcome.rule.number, outcome.rule.rule, str(outcome.rule)) == (3, None, "filter/FORWARD policy")


def test_a_policy_is_not_asked_of_what_was_accepted():
    assert forward(forwarding(rule(ACCEPT), policy=Verdict.DROP)).disposition is FORWARDED
    assert forward(forwarding(rule(Jump("A")), policy=Verdict.DROP, A=(rule(ACCEPT),))).disposition is FORWARDED
    assert forward(forwarding(rule(RETURN), rule(ACCEPT), policy=Verdict.DROP)).cause is Cause.POLICY


def test_the_end_of_a_chain_leads_back_behind_the_jump():
    outcome = forward(
        forwarding(
            rule(Jump("A")),
            rule(Counter("behind the jump"), DROP),
            A=(rule(Counter("in A")), rule(RETURN), rule(Counter("behind RETURN"))),
        )
    )
    assert counted(outcome) == ["in A", "behind the jump"]


def test_the_end_of_a_chain_that_one_went_to_leads_back_behind_the_last_jump():
    """iptables(8): after --goto, RETURN continues in the chain that called us via --jump."""
    outcome = forward(
        forwarding(
            rule(Jump("A")),
            rule(Counter("behind the jump")),
            A=(rule(Goto("B")), rule(Counter("behind the goto"))),
            B=(rule(Counter("in B")),),
        )
    )
    assert counted(outcome) == ["in B", "behind the jump"]
    base = forward(
        forwarding(rule(Goto("B")), rule(Counter("behind the goto")), policy=Verdict.DROP, B=(rule(Counter("in B")),))
    )
    assert (counted(base), base.cause) == (["in B"], Cause.POLICY)


def test_a_trace_tells_chains_that_were_entered_and_left():
    steps = forward(forwarding(rule(Jump("A")), A=(rule(Log()),))).trace
    told = [(type(step), str(step.table), step.chain) for step in steps if isinstance(step, ChainEntered | ChainLeft)]
    assert told == [
        (ChainEntered, "filter", "FORWARD"), (ChainEntered, "filter", "A"), (ChainLeft, "filter", "A"), (ChainLeft, "filter", "FORWARD"),
    ]  # fmt: skip


def test_chains_may_nest():
    """The kernel has room for as many jumps as there are chains (iptables(8) names no limit)."""
    chains = {f"C{n}": (rule(Jump(f"C{n + 1}")),) for n in range(99)}
    assert forward(forwarding(rule(Jump("C0")), **chains, C99=(rule(DROP),))).disposition is DROPPED
    behind = {name: (rule(Log(), *rules[0].body),) for name, rules in chains.items()}
    assert forward(forwarding(rule(Jump("C0")), **behind, C99=(rule(DROP),))).disposition is DROPPED
    goes = {name: (rule(Goto(rules[0].target.chain)),) for name, rules in chains.items()}
    assert forward(forwarding(rule(Jump("C0")), **goes, C99=(rule(DROP),))).disposition is DROPPED


@pytest.mark.parametrize("leads", [Jump, Goto])
def test_a_loop_is_refused_by_name(leads):
    """The kernel refuses it when the rules are loaded."""
    with pytest.raises(InputError) as caught:
        forward(forwarding(rule(Jump("A")), A=(rule(leads("B")),), B=(rule(leads("A")),)))
    assert str(caught.value) in (
        "filter/A: jumps nest too deeply, probably in a loop",
        "filter/B: jumps nest too deeply, probably in a loop",
    )


@pytest.mark.parametrize("leads", [Jump, Goto])
def test_a_chain_that_is_not_there_is_named(leads):
    with pytest.raises(InputError) as caught:
        forward(forwarding(rule(leads("GONE"))))
    assert str(caught.value) == "filter/FORWARD jumps to GONE, which does not exist"


# --- rules of several statements (nft) ---------------------------------------------------------------------------------


def test_a_body_is_evaluated_from_left_to_right_and_ends_at_the_first_match_that_fails():
    """Decision 1 of the design; an iptables rule is the special case of one statement at the end."""
    sets = rule(set_mark(1, 1), marked(1, 1), Counter("marked"), set_mark(2, 2), marked(4, 4), Counter("never"), DROP)
    outcome = forward(forwarding(sets, rule(Counter("next"))))
    assert (outcome.disposition, outcome.packet.mark, counted(outcome)) == (FORWARDED, 3, ["marked", "next"])
    drops = forward(forwarding(rule(set_mark(1, 1), marked(1, 1), DROP), rule(Counter("next"))))
    assert (drops.disposition, counted(drops)) == (DROPPED, [])
    bare = forward(forwarding(rule(Log(), Counter("behind")), rule(Counter("next"))))
    assert counted(bare) == ["behind", "next"]
    # what leaves the chain leaves the rest of the rule, too
    early = forward(forwarding(rule(RETURN, Counter("never"), DROP), rule(Counter("next"))))
    assert (early.disposition, counted(early)) == (FORWARDED, [])


def test_a_jump_may_stand_behind_another_statement():
    """nft_do_chain: a packet that returns goes on with the next rule."""
    back = forward(
        forwarding(rule(Log(), Jump("A"), Counter("rest")), rule(Counter("next")), A=(rule(Counter("in A")),))
    )
    assert counted(back) == ["in A", "next"]
    gone = forward(forwarding(rule(Log(), Jump("A"), Counter("rest")), A=(rule(ACCEPT),)))
    assert (gone.disposition, counted(gone)) == (FORWARDED, [])
    went = forward(
        forwarding(rule(Log(), Goto("A"), Counter("rest")), rule(Counter("next")), A=(rule(Counter("in A")),))
    )
    assert counted(went) == ["in A"]
    with pytest.raises(InputError, match="too deeply"):
        forward(forwarding(rule(Log(), Jump("A")), A=(rule(Log(), Jump("A")),)))
    with pytest.raises(InputError, match="too deeply"):
        forward(forwarding(rule(Log(), Goto("A")), A=(rule(Log(), Goto("A")),)))


# --- NAT ---------------------------------------------------------------------------------------------------------------


def test_the_first_translation_ends_nat_for_the_hook():
    """K-9.1: a chain that gives a NAT verdict is the last, and so are the rules that called it."""
    snat = (Snat(ip("192.168.0.51")), Snat(ip("192.168.0.52")))
    nat = table(
        "nat",
        PREROUTING=(rule(Jump("D")), rule(dnat("10.180.1.99"))),
        POSTROUTING=(rule(Jump("S")), rule(snat[1])),
        D=(rule(dnat(REMOTE_POD)),),
        S=(rule(snat[0]),),
    )
    outcome = run(node(ruleset(nat)), packet(CLIENT, "172.30.0.10"))
    assert (outcome.packet.destination, outcome.packet.source) == (REMOTE_POD, "192.168.0.51")
    assert outcome.dnat_rule is not None and str(outcome.dnat_rule) == "nat/D rule 1"
    assert outcome.snat_rule is not None and str(outcome.snat_rule) == "nat/S rule 1"


def test_a_redirect_without_an_address_to_go_to_is_a_drop():
    """xt_REDIRECT: an interface without address has none to give."""
    netns = node(ruleset(table("nat", PREROUTING=(rule(Redirect(81)),))))
    routing = netns.routing
    netns.routing = Routing([*routing.interfaces.values(), Interface("tun0")], routing.routes)
    outcome = run(netns, packet(CLIENT, "203.0.113.77", came_by="tun0"))
    assert (outcome.disposition, outcome.cause) == (DROPPED, Cause.NO_ADDRESS)
    assert run(netns, packet(CLIENT, "203.0.113.77", came_by="eth0")).packet.destination == NODE


# --- changes to the packet and its connection --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "action", "value", "after"),
    [
        (64, "set", 9, 9),
        (64, "inc", 3, 67),
        (64, "dec", 3, 61),
        (250, "inc", 10, 255),
        (5, "dec", 9, 0),
        (5, "set", 0, 0),
    ],
)
def test_the_time_to_live_is_set_raised_and_lowered_within_its_byte(before, action, value, after):
    mangle = table(
        "mangle", PREROUTING=(rule(SetTimeToLive(action, value)), rule(time_to_live("eq", after), Counter("t")))
    )
    outcome = run(node(ruleset(mangle)), packet(CLIENT, POD, ttl=before))
    assert counted(outcome) == ["t"]
    # the next hop gets one less, or nothing (K-1.6)
    assert (outcome.disposition, outcome.packet.ttl) == ((FORWARDED, after - 1) if after > 1 else (REJECTED, after))
    changes = [step for step in outcome.trace if isinstance(step, FieldChanged) and step.field is FieldName.TTL]
    assert changes[0] == FieldChanged(FieldName.TTL, before, after)


def test_the_mark_of_a_connection_outlives_the_packet():
    """CONNMARK (iptables-extensions(8)): set, saved from the packet's mark, and restored to a later packet's."""
    mangle = table(
        "mangle",
        PREROUTING=(
            rule(ct_state("NEW"), set_connection_mark("set", 0x10, 0xFF)),
            rule(ct_state("NEW"), set_connection_mark("save", 0x0F, 0x0F)),
            rule(connection_mark(0x13), Counter("marked")),
            rule(ct_state("ESTABLISHED"), set_connection_mark("restore", 0xF0, 0x10)),
        ),
    )
    netns = node(ruleset(mangle))
    first = run(netns, packet(CLIENT, POD, mark=0xA3))
    assert (counted(first), first.packet.mark) == (["marked"], 0xA3)
    (entry,) = netns.conntrack
    assert entry.mark == 0x13
    back = run(netns, packet(POD, CLIENT, 40000, sport=80, tcp_flags=frozenset({"SYN", "ACK"}), mark=0x25))
    # (mark AND NOT 0xf0) XOR (connection's mark AND 0x10)
    assert (counted(back), back.packet.mark) == (["marked"], 0x15)


@pytest.mark.parametrize(
    ("statement", "packet_mark", "connection_mark"),
    [  # the connection's mark is 0x6, the packet's 0x5; bits that are not cleared are flipped, not set (--set-xmark)
        (set_connection_mark("set", 0x3, 0x1), 0x5, 0x5), (set_connection_mark("set", 0x9, 0xFFFFFFFF), 0x5, 0x9),
        (set_connection_mark("set", 0x0, 0x0), 0x5, 0x6), (set_connection_mark("set", 0x0, 0x2), 0x5, 0x4),
        (set_connection_mark("save", 0xF, 0x0), 0x5, 0x3), (set_connection_mark("save", 0x4, 0xF), 0x5, 0x4),
        (set_connection_mark("save", 0x0, 0x2), 0x5, 0x4), (set_connection_mark("restore", 0x0, 0xF), 0x3, 0x6),
        (set_connection_mark("restore", 0xF, 0x2), 0x2, 0x6), (set_connection_mark("restore", 0x1, 0x0), 0x4, 0x6),
    ],
)  # fmt: skip
def test_the_arithmetic_of_marks(statement, packet_mark, connection_mark):
    mangle = table("mangle", PREROUTING=(rule(set_connection_mark("set", 0x6, 0xFFFFFFFF)), rule(statement)))
    netns = node(ruleset(mangle, table("filter", FORWARD=(rule(ct_state("NEW"), ACCEPT),))))
    assert run(netns, packet(CLIENT, POD, mark=0x5)).packet.mark == packet_mark
    (entry,) = netns.conntrack
    assert entry.mark == connection_mark


def test_what_has_no_connection_has_no_mark_to_restore():
    mangle = table(
        "mangle", PREROUTING=(rule(set_connection_mark("restore", 0xFF, 0xFF)), rule(ct_state("NEW"), ACCEPT))
    )
    raw = table("raw", PREROUTING=(rule(NoTrack()),))
    assert run(node(ruleset(mangle, raw)), packet(CLIENT, POD, mark=7)).packet.mark == 7


@pytest.mark.parametrize(
    ("statement", "ends"),
    [
        (set_connection_mark("restore", 0xFF, 0xFF), True), (Assign(Field.CT_MARK, 0xF, 1), True), (Assign(Field.CT_MARK, 0, 5), False),
        (set_connection_mark("save", 0xFFFFFFFF, 0xFFFFFFFF), False), (AssignFrom(Field.MARK, (Field.CT_MARK,), Set.of((0,))), True),
        (AssignFrom(Field.CT_MARK, (Numgen(1),)), False), (Assign(Field.MARK, 0xF, 1), False),
    ],
)  # fmt: skip
def test_a_rule_ends_that_reads_the_mark_of_no_connection(statement, ends):
    """K-9.12: what stands before it is done, and the next rule runs."""
    chain = (rule(NoTrack(), Counter("before"), statement, Counter("behind"), Log()), rule(Counter("next")))
    netns = node(ruleset(table("raw", PREROUTING=chain), table("filter", FORWARD=(rule(ct_state("NEW"), ACCEPT),))))
    assert counted(run(netns, packet(CLIENT, POD))) == ["before", *([] if ends else ["behind"]), "next"]


def test_notrack_comes_too_late_for_a_packet_that_has_a_connection():
    """K-1.2: over lo the packet comes by raw once more, with its connection (xt_CT leaves it alone)."""
    raw = table("raw", PREROUTING=(rule(NoTrack()), rule(Counter("behind"))))
    tracked = table("filter", INPUT=(rule(ct_state("NEW"), Counter("new"), ACCEPT),))
    netns = node(ruleset(raw, tracked))
    outcome = run(netns, packet("", NODE), local=True)
    assert (outcome.ct_state, counted(outcome), len(netns.conntrack)) == ("NEW", ["behind", "new"], 1)
    arriving = run(netns, packet(CLIENT, NODE))
    assert (arriving.ct_state, counted(arriving), len(netns.conntrack)) == ("UNTRACKED", ["behind"], 1)
    assert any(getattr(step, "tracking", None) is Tracking.UNTRACKED for step in arriving.trace)


def test_a_limit_of_one_table_is_not_anothers():
    """xt_limit: each rule has a bucket of its own."""

    def limited(name: str) -> Table:
        return table(name, FORWARD=(rule(Limit(1, "hour", 1), Counter(name)),))

    netns = node(ruleset(limited("filter"), limited("mangle"), limited("security")))
    assert counted(run(netns, packet(CLIENT, POD))) == ["mangle", "filter", "security"]
    assert counted(run(netns, packet(CLIENT, POD))) == []


def test_two_limits_in_one_chain_have_a_bucket_each():
    limited = [rule(Limit(1, "hour", 1), Counter(name)) for name in ("first", "second")]
    netns = forwarding(*limited)
    assert counted(forward(netns)) == ["first", "second"]
    assert counted(forward(netns)) == []


def test_a_drop_and_a_reject_are_told_with_their_rule():
    for target, disposition in ((DROP, DROPPED), (Reject(), REJECTED)):
        netns = forwarding(rule(to_net(net(OTHER_NODE)), ACCEPT), rule(Jump("A")), A=(rule(Log()), rule(target)))
        outcome = forward(netns)
        assert (outcome.disposition, str(outcome.rule)) == (disposition, "filter/A rule 2")


def test_a_draw_belongs_to_its_rule_and_chain():
    """Equal rules draw apart (K-5): with halves, each combination comes in a quarter of the flows."""
    half = [rule(probability(0.5), Counter(name)) for name in ("first", "second")]
    netns = forwarding(rule(Jump("A")), rule(Jump("B")), A=(half[0],), B=(half[1],))
    found = [tuple(counted(run(netns, packet(CLIENT, POD), flow=flow, commit=False))) for flow in range(400)]
    for combination in ((), ("first",), ("second",), ("first", "second")):
        assert 60 < found.count(combination) < 140


@pytest.mark.parametrize(
    ("options", "by_its_own", "by_another"),
    [({}, 0, 0), ({"accept_local": True}, 1, 0), ({"loose": True}, 0, 0), ({"loose": True, "accept_local": True}, 1, 1),
     ({"invert": True}, 1, 1), ({"accept_local": True, "invert": True}, 0, 1)],
)  # fmt: skip
def test_the_way_back_to_the_nodes_own_address(options, by_its_own, by_another):
    """-m rpfilter of a packet with a source of the node itself: it must come by the interface that has it (measured)."""
    netns = node(ruleset(table("raw", PREROUTING=(rule(ReversePath(**options), Counter("yes")),))))
    found = [len(counted(run(netns, packet(NODE, POD, came_by=name)))) for name in ("eth0", "cni0")]
    assert found == [by_its_own, by_another]


def test_a_rule_that_only_logs_is_told_and_one_whose_words_nobody_knows_is_not():
    """Whether the second rule would have logged is unknown. It moves no packet; decision 9 is about rules that do."""
    steps = forward(forwarding(rule(Log()), rule(Unknown("-m quota --quota 9"), Log()))).trace
    assert [step.at.number for step in steps if isinstance(step, RuleMatched)] == [1]


@pytest.mark.parametrize(("unit", "seconds"), [("sec", 1), ("min", 60), ("hour", 3600), ("day", 86400)])
def test_a_token_flows_in_after_its_unit(unit, seconds):
    """xt_limit, nft_limit; K-12.1: credit is time."""
    netns = forwarding(rule(Limit(1, unit, 1), Counter("fits")))
    whole = seconds * SECOND_NS
    times = (0, 0, whole - 1, whole, 2 * whole - 1, 2 * whole)  # a refused packet at the same instant brings nothing
    found = [counted(run(netns, packet(CLIENT, POD), at_ns)) for at_ns in times]
    assert found == [["fits"], [], [], ["fits"], [], ["fits"]]


def test_a_look_up_of_the_connection_tracks_connections_too():
    """K-1.5: whatever a rule reads of the connection makes the kernel track connections."""
    marks = rule(Lookup((Field.CT_MARK, Field.L4PROTO), Set.of((1, "tcp"))), ACCEPT)
    types = rule(Lookup((Field.ICMP_TYPE, Field.ICMP_CODE), Set.of((3, 1))), ACCEPT)
    assert [forward(forwarding(each)).entry is not None for each in (marks, types)] == [True, False]


def test_the_index_leaves_out_no_rule_for_a_field_that_the_packet_lacks():
    lacking = rule(Compare(Field.DPORT, ((80, 80),), absent=True), Counter("absent"))
    netns = forwarding(*[lacking] * 5)
    assert counted(forward(netns, protocol="icmp", icmp_type=8, sport=0)) == ["absent"] * 5
