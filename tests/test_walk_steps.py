"""The steps that a trace records of a packet's way, and the keys of its draws."""

from dataclasses import replace

import pytest
from packets import (
    CLIENT,
    CLUSTER_IP,
    NODE,
    POD,
    REMOTE_POD,
    dnat,
    flags,
    ip,
    net,
    node,
    packet,
    probability,
    replied,
    rule,
    ruleset,
    run,
    table,
)
from rule_parts import ct_state, marked, masquerade, set_connection_mark, set_mark, to_net

from kpsim import rng
from kpsim.addresses import Family
from kpsim.netfilter import Cause, Disposition, Walk, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.steps import (
    ChainLeft,
    Chosen,
    ConntrackChanged,
    Counted,
    Ended,
    FieldChanged,
    FieldName,
    Hook,
    HookEntered,
    Remembered,
    RuleMatched,
    Tracking,
    describe,
)
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    Chance,
    Counter,
    Jump,
    Limit,
    Masquerade,
    Origin,
    Recent,
    Reject,
    Role,
    Rule,
    SetTimeToLive,
)
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

TRACKED = ruleset(table("filter", FORWARD=(rule(ct_state("NEW"), ACCEPT),)))
TRANSLATING = ruleset(
    table(
        "nat",
        PREROUTING=(
            rule(to_net(net(CLUSTER_IP)), set_mark(1, 1)),
            rule(to_net(net(CLUSTER_IP)), dnat(REMOTE_POD)),
        ),
        POSTROUTING=(rule(marked(1, 1), Masquerade()),),
    )
)


def told(outcome: Walk, kind: type) -> list:
    return [step for step in outcome.trace if isinstance(step, kind)]


def tracking(outcome: Walk) -> list[Tracking]:
    return [step.tracking for step in told(outcome, ConntrackChanged)]


# --- what is told ------------------------------------------------------------------------------------------------------


def test_translations_and_marks_are_told_with_before_and_after():
    changes = told(run(node(TRANSLATING), packet(CLIENT, CLUSTER_IP)), FieldChanged)
    assert changes == [
        FieldChanged(FieldName.MARK, 0, 1),
        FieldChanged(FieldName.DESTINATION, (ip(CLUSTER_IP), 80), (ip(REMOTE_POD), 8080)),
        FieldChanged(FieldName.TTL, 64, 63),
        FieldChanged(FieldName.SOURCE, (ip(CLIENT), 40000), (ip(NODE), 40000)),
    ]


def test_a_step_holds_what_its_rule_was_compared_with():
    """The moment of a match comes before what the statement does, and the rest of the walk does not change it."""
    marking = rule(set_mark(1, 1))
    netns = node(ruleset(table("mangle", PREROUTING=(marking,), FORWARD=(marking,)), *TRANSLATING.tables.values()))
    outcome = run(netns, packet(CLIENT, CLUSTER_IP, came_by="eth0"))
    matched = [step for step in told(outcome, RuleMatched) if str(step.at.table) == "mangle"]
    first, later = (step.moment for step in matched)
    assert (first.hook, later.hook) == (Hook.PREROUTING, Hook.FORWARD)
    assert (first.packet.mark, later.packet.mark) == (0, 1)
    assert (first.packet.daddr, later.packet.daddr) == (ip(CLUSTER_IP), ip(REMOTE_POD))
    assert (first.packet.out_interface, later.packet.out_interface) == ("", "eth0")
    assert (first.ct_states, later.ct_states) == (frozenset({"NEW"}), frozenset({"NEW", "DNAT"}))
    ends = [
        step.moment for step in told(outcome, ChainLeft) if (str(step.table), step.chain) == ("mangle", "PREROUTING")
    ]
    assert [moment.packet.mark for moment in ends] == [1]


def test_nothing_is_told_of_what_stays():
    kept = ruleset(table("nat", PREROUTING=(rule(to_net(net(CLUSTER_IP)), dnat(REMOTE_POD)),)))
    changed = told(run(node(kept), packet(CLIENT, CLUSTER_IP)), FieldChanged)
    assert [step.field for step in changed] == [FieldName.DESTINATION, FieldName.TTL]
    same = ruleset(table("mangle", PREROUTING=(rule(set_mark(0, 0)),)), TRANSLATING.table("nat"))
    assert [step.field for step in told(run(node(same), packet(CLIENT, POD)), FieldChanged)] == [FieldName.TTL]


def test_an_address_without_port_is_told_alone():
    echo = Packet(Family.IPV4, "icmp", ip(CLIENT), ip(CLUSTER_IP), 7, icmp_type=8)
    changes = told(run(node(TRANSLATING), echo), FieldChanged)
    to_the_pod = FieldChanged(FieldName.DESTINATION, (ip(CLUSTER_IP), 0), (ip(REMOTE_POD), 0))
    assert to_the_pod in changes
    assert describe(to_the_pod, Family.IPV4) == f"destination: {CLUSTER_IP} → {REMOTE_POD}"


def test_the_mark_of_a_connection_and_the_time_to_live_are_told():
    rules = (rule(set_connection_mark("set", 5, 5)), rule(set_connection_mark("set", 5, 5)), rule(SetTimeToLive("set", 64)),
             rule(SetTimeToLive("dec", 4)))  # fmt: skip
    netns = node(ruleset(table("mangle", PREROUTING=rules), TRACKED.table("filter")))
    first = run(netns, packet(CLIENT, POD))
    assert told(first, FieldChanged) == [
        FieldChanged(FieldName.CONNECTION_MARK, 0, 5),  # the second time nothing changes
        FieldChanged(FieldName.TTL, 64, 60),
        FieldChanged(FieldName.TTL, 60, 59),
    ]
    assert (first.effects.updated, first.effects.created is not None) == (None, True)
    untold = run(netns, packet(CLIENT, POD, sport=41000), commit=False)
    quiet = walk(netns, packet(CLIENT, POD, sport=41000), now_ns=0, chooser=SeededChooser(1, 0), trace=False)
    assert (quiet.effects, quiet.packet, quiet.trace) == (untold.effects, untold.packet, ())


@pytest.mark.parametrize("hook", ["PREROUTING", "FORWARD", "POSTROUTING"])
def test_a_mark_that_a_later_packet_sets_is_remembered(hook):
    """CONNMARK on a known connection, wherever; and on the one that begins, also behind its confirmation (K-1.4)."""
    chains = {hook: (rule(ct_state("ESTABLISHED"), set_connection_mark("set", 7, 7)),)}
    netns = node(ruleset(table("mangle", **chains), TRACKED.table("filter")))
    first = run(netns, packet(CLIENT, POD))
    assert [entry.mark for entry in netns.conntrack] == [0]
    run(netns, replied(first))
    assert [entry.mark for entry in netns.conntrack] == [7]
    over_lo = node(ruleset(table("mangle", INPUT=(rule(set_connection_mark("set", 9, 9)),)), TRACKED.table("filter")))
    run(over_lo, packet("", NODE), local=True)
    assert [entry.mark for entry in over_lo.conntrack] == [9]


def test_a_connection_that_ends_with_its_packet_takes_its_mark_along():
    """CT-4.3: a refused connection leaves nothing, marked or not."""
    marking = rule(ct_state("ESTABLISHED"), set_connection_mark("set", 7, 7))
    netns = node(ruleset(table("mangle", FORWARD=(marking,)), TRACKED.table("filter")))
    refused = run(netns, replied(run(netns, packet(CLIENT, POD)), "RST ACK"))
    assert (refused.effects.updated, len(refused.effects.destroyed), len(netns.conntrack)) == (None, 1, 0)


def test_the_life_of_a_connection_is_told():
    """CT-3.4: looked up or begun, its translation decided at each nat hook, confirmed on the way out."""
    netns = node(TRANSLATING)
    first = run(netns, packet(CLIENT, CLUSTER_IP))
    assert tracking(first) == [Tracking.NEW, Tracking.BOUND, Tracking.BOUND, Tracking.CONFIRMED]
    assert tracking(run(netns, replied(first))) == [Tracking.KNOWN]
    assert tracking(run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK")))) == [Tracking.KNOWN]
    refused = node(TRACKED)
    begun = run(refused, packet(CLIENT, POD))
    assert tracking(run(refused, replied(begun, "RST ACK"))) == [Tracking.DESTROYED]  # CT-4.3
    assert tracking(run(node(TRACKED), packet(CLIENT, POD, tcp_flags=flags("FIN ACK")))) == [Tracking.INVALID]


def test_over_lo_a_connection_is_confirmed_once():
    """K-1.4: in POSTROUTING; INPUT has nothing left to do."""
    steps = tracking(run(node(TRANSLATING), packet("", NODE), local=True))
    assert steps == [Tracking.NEW, Tracking.BOUND, Tracking.BOUND, Tracking.CONFIRMED]


def test_errors_are_told_as_related_or_invalid():  # CT-5.3
    netns = node(TRACKED)
    run(netns, packet(CLIENT, POD))
    for about, expected in ((packet(CLIENT, POD), Tracking.RELATED), (packet(CLIENT, REMOTE_POD), Tracking.INVALID)):
        error = Packet(Family.IPV4, "icmp", ip(POD), ip(CLIENT), icmp_type=3, icmp_code=3, related=about)
        assert tracking(run(netns, error)) == [expected]


def test_what_makes_room_is_told():
    """CT-7.2: if the table has only as many buckets as early drop searches, it always finds an entry."""
    netns = node(TRACKED, sysctls=Sysctls(nf_conntrack_max=1, nf_conntrack_buckets=8))
    run(netns, packet(CLIENT, POD))
    for flow in range(5):
        outcome = run(netns, packet(CLIENT, POD, sport=41000), flow=flow, commit=False)
        assert tracking(outcome) == [Tracking.DESTROYED, Tracking.NEW, Tracking.CONFIRMED]


def test_lists_counters_draws_and_the_end_are_told():
    half = Chance(1 << 30)
    rules = (rule(Recent("L", "set"), Counter("n")), rule(Recent("L", "rcheck", 9), half))
    outcome = run(node(ruleset(table("filter", FORWARD=rules))), packet(CLIENT, POD))
    assert told(outcome, Remembered) == [Remembered("L", "set", True), Remembered("L", "rcheck", True)]
    assert told(outcome, Counted) == [Counted("n")]
    assert [(step.chance, step.rule) for step in told(outcome, Chosen)] == [(half, rules[1])]
    assert outcome.trace[-1] == Ended(Disposition.FORWARDED, "")
    lost = run(node(), packet("127.0.0.9", POD, came_by="eth0"))
    assert lost.trace[-1] == Ended(Disposition.DROPPED, "martian source")


def test_hooks_are_told_in_their_order():
    """K-1.1."""
    everywhere = [table(name) for name in ("raw", "mangle", "filter", "security")]
    netns = node(ruleset(*everywhere, table("nat", LEFTOVER=(rule(masquerade()),))))

    def ways(outcome: Walk) -> list[str]:
        return [f"{step.hook} {step.name}" for step in told(outcome, HookEntered)]

    assert ways(run(netns, packet(CLIENT, POD))) == [
        "PREROUTING raw", "PREROUTING conntrack", "PREROUTING mangle", "PREROUTING nat",
        "FORWARD mangle", "FORWARD filter", "FORWARD security",
        "POSTROUTING mangle", "POSTROUTING nat", "POSTROUTING confirm",
    ]  # fmt: skip
    assert ways(run(netns, packet("", POD), local=True)) == [
        "OUTPUT raw", "OUTPUT conntrack", "OUTPUT mangle", "OUTPUT nat", "OUTPUT filter", "OUTPUT security",
        "POSTROUTING mangle", "POSTROUTING nat", "POSTROUTING confirm",
    ]  # fmt: skip
    assert ways(run(netns, packet(CLIENT, NODE)))[4:] == [
        "INPUT mangle", "INPUT filter", "INPUT nat", "INPUT security", "INPUT confirm",
    ]  # fmt: skip


# --- recent lists within one walk --------------------------------------------------------------------------------------


def test_a_walk_sees_its_own_touches_and_commits_them_in_order():
    """K-4.2: --set stays; a later rule of the same packet finds it."""
    rules = (
        rule(Recent("L", "rcheck"), Counter("listed before")), rule(Recent("L", "set")), rule(Recent("M", "set")),
        rule(Recent("L", "rcheck"), Counter("listed after")), rule(Recent("M", "remove"), Counter("removed")),
        rule(Recent("M", "rcheck"), Counter("still listed")), rule(Recent("L", "rcheck", negate=True), Counter("not listed")),
    )  # fmt: skip
    netns = node(ruleset(table("filter", FORWARD=rules)))
    for sent in ("first", "second"):
        before = {name: len(netns.memory.recent[name]) for name in "LM"}
        tried = run(netns, packet(CLIENT, POD), commit=False)
        assert {name: len(netns.memory.recent[name]) for name in "LM"} == before  # a walk changes nothing
        again = run(netns, packet(CLIENT, POD))
        assert tried.effects == again.effects
        names = [name for name, _ in again.effects.touched.counters]
        assert names == [*(["listed before"] if sent == "second" else []), "listed after", "removed"]
        assert {name: len(netns.memory.recent[name]) for name in "LM"} == {"L": 1, "M": 0}
    other = run(netns, packet("203.0.113.77", POD))
    assert "listed before" not in [name for name, _ in other.effects.touched.counters]


@pytest.mark.parametrize("action", ["update", "remove", "rcheck"])
def test_a_walk_that_nobody_commits_leaves_lists_alone(action):
    """Decision 4 of the design."""
    rules = (rule(marked(0, 1), Recent("L", action, None if action == "remove" else 9, reap=action == "rcheck")),)
    netns = node(ruleset(table("filter", FORWARD=(rule(marked(1, 1), Recent("L", "set")), *rules))))
    for second, client in enumerate((CLIENT, "203.0.113.77")):
        run(netns, packet(client, POD, mark=1), second * SECOND_NS)
    before = list(netns.memory.recent["L"])
    run(netns, packet(CLIENT, POD), 8 * SECOND_NS, commit=False)
    run(netns, packet("203.0.113.77", POD), 10 * SECOND_NS, commit=False)
    assert list(netns.memory.recent["L"]) == before == [(Family.IPV4, ip(each)) for each in (CLIENT, "203.0.113.77")]


def test_a_rule_that_is_met_twice_spends_twice():
    """xt_limit spends a token whichever rule jumps there."""
    limited = (rule(Limit(1, "hour", 3), Counter("fits")),)
    netns = node(ruleset(table("filter", FORWARD=(rule(Jump("A")), rule(Jump("A"))), A=limited)))
    assert [len(run(netns, packet(CLIENT, POD)).effects.touched.counters) for _ in range(3)] == [2, 1, 0]


# --- what draws are keyed by -------------------------------------------------------------------------------------------


def forwarded_by(*rules: Rule, **chains: tuple[Rule, ...]) -> list[tuple[str, ...]]:
    """The counters of fifty flows."""
    netns = node(ruleset(table("filter", FORWARD=rules, **chains)))
    walks = [run(netns, packet(CLIENT, POD), flow=flow, commit=False) for flow in range(50)]
    return [tuple(name for name, _ in each.effects.touched.counters) for each in walks]


def yes(flow: int, key: object) -> bool:
    """What the kernel's random bits say of a half: a function of seed, flow and key alone (decision 5)."""
    return (rng.draw64(1, flow, key) >> 33) < 1 << 30


HALF = probability(0.5)


def test_a_foreign_rules_draw_is_keyed_by_its_chain_and_where_it_leads():
    found = forwarded_by(rule(HALF, Counter("here")), rule(HALF, Jump("A")), A=(rule(Counter("led")),))
    assert found == [
        (*(["here"] if yes(flow, ("FORWARD", "")) else []), *(["led"] if yes(flow, ("FORWARD", "A")) else []))
        for flow in range(50)
    ]


def test_equal_rules_draw_for_themselves_in_their_order():
    """K-5: draws are independent; the first of equals is keyed as if it were alone."""
    found = forwarded_by(*(rule(HALF, Counter(name)) for name in "abc"))
    key = ("FORWARD", "")
    keys = {"a": key, "b": (key, 1), "c": (key, 2)}
    assert found == [tuple(name for name in "abc" if yes(flow, keys[name])) for flow in range(50)]


def test_the_answer_to_a_rejected_packet_draws_for_itself():
    """K-5 and K-3.2: a rule that drops half of what it meets drops half of the packets, and half of the answers to the rest."""
    half = (rule(HALF, DROP),)
    netns = node(ruleset(table("filter", FORWARD=(rule(Jump("A")), rule(Reject())), OUTPUT=(rule(Jump("A")),), A=half)))
    found = [run(netns, packet(CLIENT, POD), flow=flow, commit=False) for flow in range(50)]
    first = ("A", "")
    dropped, silent = (Disposition.DROPPED, Cause.RULE), (Disposition.DROPPED, Cause.ANSWER_DROPPED)
    told = [
        dropped if yes(flow, first) else silent if yes(flow, (first, 1)) else (Disposition.REJECTED, Cause.RULE)
        for flow in range(50)
    ]
    assert [(outcome.disposition, outcome.cause) for outcome in found] == told
    assert len(set(told)) == 3


@pytest.mark.parametrize("number", [0, 7])
def test_kube_proxys_draw_is_keyed_by_why_the_rule_exists(number):
    """Not by where it stands: another Service before it leaves the draw alone."""
    origin = Origin(Role.BALANCE, "shop/web:http", "TCP", "10.180.0.5:8080")
    others = [rule(Counter(f"other {n}")) for n in range(number)]
    found = forwarded_by(*others, replace(rule(HALF, Counter("it")), origin=origin))
    key = ("load balancing", "shop/web:http", "TCP", "10.180.0.5:8080")
    assert [each[number:] == ("it",) for each in found] == [yes(flow, key) for flow in range(50)]


def test_a_static_rule_of_kube_proxys_is_keyed_by_its_place():
    found = forwarded_by(replace(rule(HALF, Counter("it")), origin=Origin(Role.JUMP)))
    assert [each == ("it",) for each in found] == [yes(flow, ("FORWARD", "")) for flow in range(50)]


# --- times -------------------------------------------------------------------------------------------------------------


def test_a_taken_tuple_is_free_when_its_flow_is_over():
    """K-1.7, K-2.4: another flow's source port changes only while the first one lives."""
    netns = node(ruleset(table("nat", PREROUTING=(rule(to_net(net("172.30.0.0/24")), dnat(REMOTE_POD)),))))
    run(netns, packet(CLIENT, "172.30.0.1", protocol="udp"))
    clash = run(netns, packet(CLIENT, "172.30.0.2", protocol="udp"), 29 * SECOND_NS, commit=False)
    later = run(netns, packet(CLIENT, "172.30.0.2", protocol="udp"), 30 * SECOND_NS, commit=False)
    assert (clash.packet.sport != 40000, later.packet.sport) == (True, 40000)
