"""The walk of a packet through one node: hooks, a Service, verdicts, local packets, the trace (K-1, K-2, K-5, K-9,
PP-3, PP-4).
"""

from dataclasses import replace
from fractions import Fraction

import pytest
from packets import (
    CLIENT,
    CLUSTER_IP,
    MARK,
    NODE,
    NODE_PORT,
    OTHER_NODE,
    OTHER_POD,
    POD,
    REMOTE_POD,
    dnat,
    established,
    ip,
    net,
    node,
    packet,
    port,
    probability,
    replied,
    rule,
    ruleset,
    run,
    service_rules,
    table,
    to,
)
from rule_parts import (
    connection_mark,
    ct_state,
    from_net,
    in_interface,
    marked,
    masquerade,
    of_protocol,
    out_interface,
    set_connection_mark,
    set_mark,
)

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.flowstate import FlowState
from kpsim.netfilter import Cause, Disposition, End, Hook, HookEntry, Netns, expand, walk
from kpsim.packetpath.chooser import ScriptedChooser, SeededChooser
from kpsim.packetpath.routing import Route, RouteKind, Routing
from kpsim.packetpath.steps import Chosen, HookEntered, Routed, RuleMatched, describe
from kpsim.ruleset import ACCEPT, DROP, Counter, Dnat, Goto, Jump, Log, Masquerade, Recent, Terminal, Unknown, Verdict
from kpsim.units import SECOND_NS

FORWARDED, DELIVERED, REJECTED, DROPPED = (
    Disposition.FORWARDED,
    Disposition.DELIVERED,
    Disposition.REJECTED,
    Disposition.DROPPED,
)
RETURN = Terminal(Verdict.RETURN)


# --- hooks ------------------------------------------------------------------------------------------------------------


def hook_names(netns: Netns, hook: Hook) -> list[str]:
    return [entry.name for entry in netns.entries(Family.IPV4, hook)]


def test_order_of_the_hooks():  # K-1.1
    translates = table("nat", POSTROUTING=(rule(masquerade()),))
    netns = node(ruleset(*(table(name) for name in ("security", "filter", "mangle", "raw")), translates))
    assert {hook: hook_names(netns, hook) for hook in Hook} == {
        Hook.PREROUTING: ["raw", "conntrack", "mangle", "nat"],
        Hook.INPUT: ["mangle", "filter", "nat", "security", "confirm"],
        Hook.FORWARD: ["mangle", "filter", "security"],
        Hook.OUTPUT: ["raw", "conntrack", "mangle", "nat", "filter", "security"],
        Hook.POSTROUTING: ["mangle", "nat", "confirm"],
    }


@pytest.mark.parametrize(
    ("rules", "tracks"),
    [
        (ruleset(), False),
        (ruleset(table("filter", FORWARD=(rule(ACCEPT),))), False),
        (ruleset(table("filter", FORWARD=(rule(Jump("A")),), A=(rule(ct_state("NEW"), ACCEPT),))), True),
        # also a rule that no packet reaches, and no chain of type nat without such a rule
        (ruleset(table("filter", LEFTOVER=(rule(ct_state("NEW"), ACCEPT),))), True),
        (ruleset(table("nat")), False),
        (ruleset(table("nat", OUTPUT=(rule(ACCEPT),))), False),
        (ruleset(table("nat", LEFTOVER=(rule(dnat(POD)),))), True),
        # to read or write the connection's mark needs a connection, the packet's mark needs none
        (ruleset(table("mangle", PREROUTING=(rule(set_mark(1, 1)),))), False),
        (ruleset(table("mangle", PREROUTING=(rule(set_connection_mark("set", 1, 1)),))), True),
        (ruleset(table("mangle", PREROUTING=(rule(set_connection_mark("save", 1, 1)),))), True),
        (ruleset(table("mangle", PREROUTING=(rule(set_connection_mark("restore", 1, 1)),))), True),
        (ruleset(table("mangle", PREROUTING=(rule(marked(1, 1), ACCEPT),))), False),
        (ruleset(table("mangle", PREROUTING=(rule(connection_mark(1, 1), ACCEPT),))), True),
    ],
)
def test_connections_are_tracked_only_if_some_rule_needs_it(rules, tracks):  # K-1.5
    assert ("conntrack" in hook_names(node(rules), Hook.PREROUTING)) is tracks
    assert ("nat" in hook_names(node(rules), Hook.PREROUTING)) is ("nat" in {key.name for key in rules.tables})


def test_of_equal_priorities_the_later_registered_runs_first():  # K-9.1
    netns = node(ruleset(table("filter")))
    netns.register(Family.IPV4, HookEntry(Hook.FORWARD, 0, "later", lambda traversal: None))
    assert hook_names(netns, Hook.FORWARD) == ["later", "filter"]


def test_a_hook_function_may_drop_take_over_or_send_on():
    for end, disposition in (
        (End(DROPPED, Cause.RULE), DROPPED),
        (End(Disposition.STOLEN), Disposition.STOLEN),
        (End(Disposition.STOLEN, resumes=True), FORWARDED),
    ):
        netns = node(service_rules())

        def take(traversal, end=end):
            traversal.packet.daddr = ip(POD)
            return end

        netns.register(Family.IPV4, HookEntry(Hook.INPUT, 99, "ip_vs", take))
        outcome = run(netns, packet(CLIENT, NODE, 443))
        assert outcome.disposition is disposition
        entered = [step.hook for step in outcome.trace if isinstance(step, HookEntered)]
        assert (Hook.OUTPUT in entered and Hook.POSTROUTING in entered) is (disposition is FORWARDED)


# --- a Service --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "destination", "dport", "masqueraded"),
    [
        (POD, CLUSTER_IP, 80, False),  # PP-3.2
        (CLIENT, CLUSTER_IP, 80, True),
        (CLIENT, NODE, NODE_PORT, True),  # PP-4
        (POD, NODE, NODE_PORT, True),
        ("10.180.1.8", CLUSTER_IP, 80, False),
    ],
)
def test_the_client_address_is_kept_or_masqueraded(source, destination, dport, masqueraded):
    outcomes = expand(node(service_rules((OTHER_POD, REMOTE_POD))), packet(source, destination, dport), now_ns=0)
    assert {to(outcome) for _, outcome in outcomes} == {(OTHER_POD, 8080), (REMOTE_POD, 8080)}
    for _, outcome in outcomes:
        assert outcome.disposition is FORWARDED
        assert outcome.masqueraded is masqueraded
        toward = {OTHER_POD: "10.180.0.1", REMOTE_POD: NODE}[outcome.packet.destination]
        assert outcome.packet.source == (toward if masqueraded else source)
        assert outcome.source_port_drawn is masqueraded


@pytest.mark.parametrize(("source", "masqueraded"), [(CLIENT, True), (POD, False)])
def test_later_packets_are_masqueraded_as_the_first_was(source, masqueraded):  # K-1.3: without a rule of their own
    netns = node(service_rules((REMOTE_POD,)))
    established(netns, packet(source, CLUSTER_IP))
    later = run(netns, packet(source, CLUSTER_IP, tcp_flags=frozenset({"ACK"})))
    assert (later.snat_rule, later.masqueraded) == (None, masqueraded)
    assert later.packet.source == (NODE if masqueraded else source)


@pytest.mark.parametrize(("endpoint", "source"), [(OTHER_POD, "10.180.0.1"), (REMOTE_POD, NODE)])
def test_a_process_of_the_node_is_masqueraded_toward_the_endpoint(endpoint, source):  # PP-3.3
    outcome = run(node(service_rules((endpoint,))), packet("", CLUSTER_IP), local=True)
    assert (outcome.disposition, outcome.packet.source, to(outcome)) == (FORWARDED, source, (endpoint, 8080))


def test_hairpin_is_masqueraded():  # PP-1.6
    outcome = run(node(service_rules((POD,))), packet(POD, CLUSTER_IP))
    assert (outcome.packet.source, to(outcome)) == ("10.180.0.1", (POD, 8080))


def test_an_endpoint_on_the_node_itself_sees_the_client():  # K-2.5: no POSTROUTING
    outcome = run(node(service_rules((NODE,))), packet(CLIENT, CLUSTER_IP))
    assert (outcome.disposition, outcome.packet.source, to(outcome)) == (DELIVERED, CLIENT, (NODE, 8080))


def test_what_no_service_owns_passes_unchanged():
    for destination, disposition in ((REMOTE_POD, FORWARDED), (NODE, DELIVERED), (CLUSTER_IP, FORWARDED)):
        outcome = run(node(service_rules()), packet(CLIENT, destination, 81))
        assert (outcome.disposition, to(outcome), outcome.packet.source) == (disposition, (destination, 81), CLIENT)


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_answers_are_translated_back(protocol):
    netns = node(service_rules((REMOTE_POD,), protocol=protocol))
    request = run(netns, packet(CLIENT, NODE, NODE_PORT, protocol=protocol))
    answer = run(netns, replied(request, sctp_chunk="INIT_ACK"))
    assert (answer.disposition, answer.ct_state) == (FORWARDED, "ESTABLISHED")
    assert (answer.packet.source, answer.packet.sport) == (NODE, NODE_PORT)
    assert (*to(answer),) == (CLIENT, 40000)


def test_answers_to_the_node_itself_are_delivered_to_the_process():
    netns = node(service_rules((REMOTE_POD,)))
    request = run(netns, packet("", CLUSTER_IP), local=True)
    answer = run(netns, replied(request))
    assert answer.disposition is DELIVERED
    assert (answer.packet.source, answer.packet.sport, *to(answer)) == (CLUSTER_IP, 80, NODE, 40000)


def test_the_weights_are_exact():
    netns = node(service_rules((POD, OTHER_POD, REMOTE_POD)))
    sent = packet(CLIENT, CLUSTER_IP)
    written = expand(netns, sent, now_ns=0, as_written=True)
    assert [weight for weight, _ in written] == [Fraction(1, 3)] * 3
    exact = expand(netns, sent, now_ns=0)
    third = Fraction(round(0.3333333333 * 2**31), 2**31)  # K-5
    assert [weight for weight, _ in exact] == [third, (1 - third) / 2, (1 - third) / 2]
    assert [to(outcome)[0] for _, outcome in exact] == [POD, OTHER_POD, REMOTE_POD]


def test_draws_follow_the_weights():
    netns = node(service_rules((POD, OTHER_POD, REMOTE_POD)))
    hits = [to(run(netns, packet(CLIENT, CLUSTER_IP), flow=flow, commit=False))[0] for flow in range(3000)]
    for endpoint in (POD, OTHER_POD, REMOTE_POD):
        assert 900 < hits.count(endpoint) < 1100


def test_equal_rules_draw_independently():  # K-5
    half = rule(probability(0.5), Terminal(Verdict.DROP))
    netns = node(ruleset(table("filter", FORWARD=(half, half))))
    survived = sum(run(netns, packet(CLIENT, POD), flow=flow).disposition is FORWARDED for flow in range(2000))
    assert 430 < survived < 570  # a quarter; perfectly correlated draws would give a half


def test_a_zero_or_certain_probability_is_no_choice():
    netns = node(ruleset(table("filter", FORWARD=(rule(probability(0), DROP), rule(probability(1), ACCEPT)))))
    assert [(weight, o.disposition) for weight, o in expand(netns, packet(CLIENT, POD), now_ns=0)] == [(1, FORWARDED)]


def test_affinity_lasts_for_its_seconds_and_survives_a_reload():  # K-4, PP-9
    rules = service_rules((POD, OTHER_POD, REMOTE_POD), affinity_seconds=60)
    netns = node(rules)
    first = to(run(netns, packet(CLIENT, CLUSTER_IP), flow=1))
    netns.load_rules(service_rules((POD, OTHER_POD, REMOTE_POD), affinity_seconds=60))
    for number in range(20):
        again = run(netns, packet(CLIENT, CLUSTER_IP, sport=1000 + number), number * SECOND_NS, flow=number)
        assert to(again) == first
    later = expand(netns, packet(CLIENT, CLUSTER_IP, sport=5), now_ns=100 * SECOND_NS)
    assert len(later) == 3
    netns.load_rules(ruleset())
    netns.load_rules(rules)
    assert len(expand(netns, packet(CLIENT, CLUSTER_IP, sport=5), now_ns=20 * SECOND_NS)) == 3


def test_a_walk_changes_nothing_until_it_is_committed():
    netns = node(service_rules(affinity_seconds=60))
    sent = packet(CLIENT, CLUSTER_IP)
    first, second = (walk(netns, sent, now_ns=0, chooser=SeededChooser(1, 7)) for _ in range(2))
    assert first == second
    assert len(netns.conntrack) == len(netns.memory.recent) == 0
    assert sent == packet(CLIENT, CLUSTER_IP)
    netns.commit(first.effects, 0)
    assert len(netns.conntrack) == len(netns.memory.recent) == 1


# --- the way of local packets -----------------------------------------------------------------------------------------


def test_output_sees_the_old_device_and_postrouting_the_new():  # K-2.1
    rules = service_rules((POD,))
    output = table("filter", OUTPUT=(rule(out_interface("cni0"), DROP), rule(out_interface("eth0"), Counter("seen"))))
    post = table(
        "mangle", POSTROUTING=(rule(out_interface("eth0"), DROP), rule(out_interface("cni0"), Counter("left")))
    )
    netns = node(ruleset(rules.table("nat"), output, post))
    outcome = run(netns, packet("", CLUSTER_IP, length=100), local=True)
    assert (outcome.disposition, outcome.packet.out_interface) == (FORWARDED, "cni0")
    assert netns.memory.counters == {"seen": (1, 100), "left": (1, 100)}
    assert [step.interface for step in outcome.trace if isinstance(step, Routed)] == ["eth0", "cni0"]


def test_without_a_route_connect_fails_before_any_rule():  # K-2.1, PP-2.2
    netns = node(service_rules((POD,)))
    netns.routing = Routing(netns.routing.interfaces.values())
    outcome = run(netns, packet("", CLUSTER_IP), local=True)
    assert (outcome.disposition, outcome.cause, outcome.local_error) == (REJECTED, Cause.NO_ROUTE, "ENETUNREACH")
    assert not any(isinstance(step, HookEntered) for step in outcome.trace)
    assert run(netns, packet(CLIENT, CLUSTER_IP, came_by="eth0")).disposition is FORWARDED  # DNATed before routing


@pytest.mark.parametrize(
    ("kind", "disposition", "with_", "error"),  # K-1.6
    [
        (RouteKind.UNREACHABLE, REJECTED, "icmp-host-unreachable", "EHOSTUNREACH"),
        (RouteKind.PROHIBIT, REJECTED, "icmp-admin-prohibited", "EACCES"),
        (RouteKind.BLACKHOLE, DROPPED, None, "EINVAL"),
    ],
)
def test_routes_that_refuse(kind, disposition, with_, error):
    netns = node(ruleset())
    netns.routing = Routing(
        netns.routing.interfaces.values(), [*netns.routing.routes, Route(net("10.9.0.0/16"), kind=kind)]
    )
    forwarded = run(netns, packet(CLIENT, "10.9.0.1"))
    assert (forwarded.disposition, forwarded.with_) == (disposition, with_)
    assert run(netns, packet("", "10.9.0.1"), local=True).local_error == error


# --- verdicts ---------------------------------------------------------------------------------------------------------


def chain_outcome(*rules, **chains) -> Disposition:
    return run(node(ruleset(table("filter", FORWARD=rules, **chains))), packet(CLIENT, POD, mark=1)).disposition


def test_return_and_the_end_of_a_chain_go_back_to_the_caller():
    assert chain_outcome(rule(Jump("A")), rule(DROP), A=(rule(RETURN), rule(ACCEPT))) is DROPPED
    assert chain_outcome(rule(Jump("A")), rule(DROP), A=()) is DROPPED
    assert chain_outcome(rule(RETURN), rule(DROP)) is FORWARDED  # in a base chain: its policy


def test_goto_does_not_come_back():
    assert chain_outcome(rule(Jump("A")), rule(DROP), A=(rule(Goto("B")), rule(ACCEPT)), B=()) is DROPPED
    assert chain_outcome(rule(Goto("A")), rule(DROP), A=()) is FORWARDED


def test_rules_without_target_log_and_mark_go_on():
    marks = (rule(set_mark(0x4000, 0x4000)), rule(Log()), rule(), rule(marked(0x4001), DROP))
    assert chain_outcome(*marks) is DROPPED
    assert chain_outcome(rule(set_mark(0x1, 0x0)), rule(marked(0), DROP)) is DROPPED  # xor clears the bit (I-5)


def test_policy_drop_names_itself():
    netns = node(ruleset(table("filter", policy={"FORWARD": Verdict.DROP})))
    outcome = run(netns, packet(CLIENT, POD))
    assert (outcome.disposition, outcome.cause, str(outcome.rule)) == (DROPPED, Cause.POLICY, "filter/FORWARD policy")


def test_an_accept_is_not_final_across_tables_and_a_drop_is():  # K-9.1
    netns = node(ruleset(table("mangle", FORWARD=(rule(ACCEPT),)), table("filter", FORWARD=(rule(DROP),))))
    assert run(netns, packet(CLIENT, POD)).disposition is DROPPED


def test_a_missing_chain_and_a_loop_are_refused_by_name():
    with pytest.raises(InputError, match="filter/FORWARD jumps to NOWHERE"):
        chain_outcome(rule(Jump("NOWHERE")))
    with pytest.raises(InputError, match="loop"):
        chain_outcome(rule(Jump("A")), A=(rule(Jump("A")),))


def test_an_unknown_rule_ends_without_an_answer_only_if_it_is_reached():
    unknown = rule(Unknown("-m hashlimit --hashlimit-upto 1/sec"), DROP)
    netns = node(ruleset(table("filter", FORWARD=(rule(Recent("A", "set")), unknown))))
    outcome = run(netns, packet(CLIENT, POD))
    assert (outcome.disposition, outcome.unknown) == (Disposition.UNKNOWN, "-m hashlimit --hashlimit-upto 1/sec")
    assert outcome.effects.touched.recent == ()
    assert run(netns, packet(CLIENT, NODE)).disposition is DELIVERED
    other_protocol = rule(of_protocol("udp"), Unknown("-m hashlimit"), DROP)
    assert chain_outcome(other_protocol) is FORWARDED


def test_an_unknown_condition_of_a_rule_that_only_logs_does_not_matter():
    only_logs = rule(Unknown("-m limit --limit 3/min"), Log())
    outcome = run(node(ruleset(table("filter", FORWARD=(only_logs, rule(DROP))))), packet(CLIENT, POD))
    assert (outcome.disposition, outcome.rule.number) == (Disposition.DROPPED, 2)
    counts_too = rule(Unknown("-m limit --limit 3/min"), Counter("x"), Log())
    outcome = run(node(ruleset(table("filter", FORWARD=(counts_too,)))), packet(CLIENT, POD))
    assert outcome.disposition is FORWARDED


def test_recent_set_stays_even_if_the_packet_is_dropped():  # K-4.2
    netns = node(ruleset(table("filter", FORWARD=(rule(Recent("A", "set")), rule(DROP)))))
    run(netns, packet(CLIENT, POD))
    assert (Family.IPV4, ip(CLIENT)) in netns.memory.recent["A"]


def test_a_walk_sees_what_it_remembered_itself():
    rules = (rule(Recent("A", "set")), rule(Recent("A", "rcheck", 10), DROP))
    assert chain_outcome(*rules) is DROPPED


# --- the trace --------------------------------------------------------------------------------------------------------


def test_the_trace_tells_the_story():
    netns = node(service_rules((OTHER_POD,)))
    outcome = run(netns, packet(CLIENT, CLUSTER_IP))
    rules = [str(step.at) for step in outcome.trace if isinstance(step, RuleMatched)]
    assert rules == [
        "nat/PREROUTING rule 1", "nat/KUBE-SERVICES rule 1", "nat/KUBE-SVC rule 1", "nat/KUBE-MARK-MASQ rule 1",
        "nat/KUBE-SVC rule 2", "nat/KUBE-SEP-0 rule 2", "filter/FORWARD rule 1", "filter/KUBE-FORWARD rule 2",
        "nat/POSTROUTING rule 1", "nat/KUBE-POSTROUTING rule 2", "nat/KUBE-POSTROUTING rule 3",
    ]  # fmt: skip
    assert str(outcome.dnat_rule) == "nat/KUBE-SEP-0 rule 2"
    told = [describe(step, Family.IPV4) for step in outcome.trace]
    assert f"destination: {CLUSTER_IP}:80 → {OTHER_POD}:8080" in told
    assert any(line.startswith("conntrack: connection confirmed") for line in told)
    assert told[-1] == "forwarded"


def test_without_a_trace_the_outcome_is_the_same():
    netns = node(service_rules((POD, OTHER_POD, REMOTE_POD)))
    sent = packet(CLIENT, CLUSTER_IP)
    traced = walk(netns, sent, now_ns=0, chooser=SeededChooser(1, 3))
    bare = walk(netns, sent, now_ns=0, chooser=SeededChooser(1, 3), trace=False)
    assert bare.trace == ()
    assert replace(traced, trace=()) == bare
    assert any(isinstance(step, Chosen) for step in traced.trace)


def test_scripted_choices_cover_uniform_draws():
    seen, scripts = [], [()]
    while scripts:
        chooser = ScriptedChooser(scripts.pop())
        seen.append((chooser.uniform(3, "a"), chooser.weight))
        scripts += chooser.alternatives()
    assert sorted(seen) == [(0, Fraction(1, 3)), (1, Fraction(1, 3)), (2, Fraction(1, 3))]


def test_protocol_state_of_the_entry():
    netns = node(service_rules((POD,)))
    established(netns, packet(CLIENT, CLUSTER_IP))
    (entry,) = netns.conntrack
    assert (entry.state, entry.seen_reply, entry.assured) == (FlowState.ESTABLISHED, True, True)


def test_interfaces_are_seen_by_rules():
    forward = (rule(in_interface("eth0"), out_interface("cni0"), *port("tcp", 80), DROP),)
    netns = node(ruleset(table("filter", FORWARD=forward)))
    assert run(netns, packet(CLIENT, POD)).disposition is DROPPED
    assert run(netns, packet(POD, CLIENT)).disposition is FORWARDED


def test_an_address_kept_by_dnat_gets_the_port_only():
    netns = node(ruleset(table("nat", PREROUTING=(rule(of_protocol("tcp"), Dnat(None, 81)),))))
    assert to(run(netns, packet(CLIENT, POD))) == (POD, 81)


def test_sources_of_other_nodes_are_peers():
    netns = node(service_rules((POD,)))
    outcome = run(netns, packet(OTHER_NODE, NODE, NODE_PORT))
    assert (outcome.disposition, outcome.packet.source) == (FORWARDED, "10.180.0.1")
    assert outcome.packet.mark & MARK == 0  # cleared in POSTROUTING


def test_source_matching_is_before_masquerading():
    netns = node(ruleset(table("nat", POSTROUTING=(rule(from_net(net(CLIENT)), Masquerade()),))))
    assert run(netns, packet(CLIENT, POD)).packet.source == "10.180.0.1"
    assert run(netns, packet(REMOTE_POD, POD)).packet.source == REMOTE_POD
