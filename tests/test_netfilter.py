"""The walk of a packet through one node: hooks, NAT, verdicts, martians (K-1 … K-7, PP-3 … PP-9)."""

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
    flags,
    ip,
    net,
    node,
    packet,
    port,
    probability,
    rule,
    ruleset,
    run,
    service_rules,
    table,
)

from kpsim.addresses import Family
from kpsim.chooser import ScriptedChooser, SeededChooser
from kpsim.conntrack import Ending, flow_entry
from kpsim.errors import InputError
from kpsim.flowstate import FlowState
from kpsim.netfilter import Cause, Disposition, End, Hook, HookEntry, Netns, expand, walk
from kpsim.packet import Packet
from kpsim.routing import Address, Interface, Route, RouteKind, Routing
from kpsim.rules import (
    ACCEPT,
    DROP,
    CtState,
    Destination,
    Dnat,
    Goto,
    InInterface,
    Jump,
    Log,
    MarkMatch,
    Masquerade,
    NfAcct,
    NoTrack,
    OutInterface,
    Protocol,
    Recent,
    Redirect,
    Reject,
    SetMark,
    Snat,
    Source,
    Terminal,
    Unknown,
    Verdict,
)
from kpsim.sysctls import Sysctls
from kpsim.trace import ChainEntered, Chosen, HookEntered, Routed, RuleMatched, format_trace
from kpsim.units import SECOND_NS

FORWARDED, DELIVERED, REJECTED, DROPPED = (
    Disposition.FORWARDED,
    Disposition.DELIVERED,
    Disposition.REJECTED,
    Disposition.DROPPED,
)
RETURN = Terminal(Verdict.RETURN)


def to(outcome) -> tuple[str, int]:
    return outcome.packet.destination, outcome.packet.dport


def replied(outcome, text: str = "SYN ACK", **more) -> Packet:
    """The answer to what a walk let out."""
    sent = outcome.packet
    return Packet(
        sent.family, sent.protocol, sent.daddr, sent.saddr, sent.dport, sent.sport, flags(text), **more
    )  # fmt: skip


def established(netns: Netns, sent: Packet, **options):
    """A completed handshake; returns the first packet's walk."""
    first = run(netns, sent, **options)
    run(netns, replied(first))
    run(netns, replace(sent, tcp_flags=flags("ACK")))
    return first


# --- hooks -----------------------------------------------------------------------------------------------------------------


def hook_names(netns: Netns, hook: Hook) -> list[str]:
    return [entry.name for entry in netns.entries(Family.IPV4, hook)]


def test_order_of_the_hooks():  # K-1.1
    netns = node(ruleset(*(table(name) for name in ("security", "filter", "nat", "mangle", "raw"))))
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
        (ruleset(table("filter", FORWARD=(rule(Jump("A")),), A=(rule(CtState(("NEW",)), ACCEPT),))), True),
        (ruleset(table("filter", LEFTOVER=(rule(CtState(("NEW",)), ACCEPT),))), False),
        (ruleset(table("nat")), True),
    ],
)
def test_connections_are_tracked_only_if_some_rule_needs_it(rules, tracks):  # K-1.5
    assert ("conntrack" in hook_names(node(rules), Hook.PREROUTING)) is tracks
    assert ("nat" in hook_names(node(rules), Hook.PREROUTING)) is ("nat" in rules.tables)


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


# --- a Service -------------------------------------------------------------------------------------------------------------


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
    netns.load(service_rules((POD, OTHER_POD, REMOTE_POD), affinity_seconds=60))
    for number in range(20):
        again = run(netns, packet(CLIENT, CLUSTER_IP, sport=1000 + number), number * SECOND_NS, flow=number)
        assert to(again) == first
    later = expand(netns, packet(CLIENT, CLUSTER_IP, sport=5), now_ns=100 * SECOND_NS)
    assert len(later) == 3
    netns.load(ruleset())
    netns.load(rules)
    assert len(expand(netns, packet(CLIENT, CLUSTER_IP, sport=5), now_ns=20 * SECOND_NS)) == 3


def test_a_walk_changes_nothing_until_it_is_committed():
    netns = node(service_rules(affinity_seconds=60))
    sent = packet(CLIENT, CLUSTER_IP)
    first, second = (walk(netns, sent, now_ns=0, chooser=SeededChooser(1, 7)) for _ in range(2))
    assert first == second
    assert len(netns.conntrack) == len(netns.recent) == 0
    assert sent == packet(CLIENT, CLUSTER_IP)
    netns.commit(first.effects, 0)
    assert len(netns.conntrack) == len(netns.recent) == 1


# --- connections and NAT -----------------------------------------------------------------------------------------------------


def test_only_the_first_packet_asks_nat():  # K-1.3
    netns = node(service_rules((POD,)))
    run(netns, packet(CLIENT, CLUSTER_IP))
    netns.load(service_rules((REMOTE_POD,)))
    again = run(netns, packet(CLIENT, CLUSTER_IP))
    assert (to(again), again.ct_state, again.dnat_rule) == ((POD, 8080), "NEW", None)
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, sport=40001))) == (REMOTE_POD, 8080)


def test_translation_outlives_the_rules_but_not_the_table():  # K-1.5
    netns = node(service_rules((POD,)))
    established(netns, packet(CLIENT, CLUSTER_IP))
    data = packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK"))
    netns.load(ruleset(table("nat")))
    assert to(run(netns, data)) == (POD, 8080)
    netns.load(ruleset(table("filter", FORWARD=(rule(CtState(("NEW",)), ACCEPT),))))
    assert to(run(netns, data)) == (CLUSTER_IP, 80)
    assert len(netns.conntrack) == 1


def test_a_flow_begun_before_the_service_stays_untranslated():  # K-1.7, CT-3.6
    netns = node(service_rules(()))
    netns.load(ruleset(table("nat")))
    run(netns, packet(CLIENT, CLUSTER_IP, protocol="udp"))
    netns.load(service_rules((POD,), protocol="udp"))
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
    netns.load(service_rules((REMOTE_POD,)))
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
    netns.load(ruleset(service_rules((POD,)).tables["nat"], filters))
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
    chains = [(step.table, step.chain) for step in outcome.trace if isinstance(step, ChainEntered)]
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
    netns.load(ruleset(raw, *service_rules((POD,)).tables.values()))
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
    devices = [*netns.routing.interfaces.values(), Interface("eth1", (Address.parse("192.168.7.1/24"),))]
    netns.routing = Routing(devices, [*netns.routing.routes, Route(net(REMOTE_POD), "eth1", ip("192.168.7.2"))])
    data = replace(sent, tcp_flags=flags("ACK"))
    outcome = run(netns, data)
    assert (outcome.disposition, outcome.cause) == (DROPPED, Cause.DEVICE_CHANGED)
    assert len(netns.conntrack) == 0
    assert run(netns, data).ct_state == "NEW"


def test_a_vanished_endpoint_is_still_the_destination_of_an_unmasqueraded_flow():  # K-1.6
    netns = node(service_rules((REMOTE_POD,)))
    established(netns, packet(POD, CLUSTER_IP))
    netns.load(service_rules((OTHER_POD,)))
    netns.routing = Routing(
        netns.routing.interfaces.values(), [route for route in netns.routing.routes if not route.network.prefix]
    )
    outcome = run(netns, packet(POD, CLUSTER_IP, tcp_flags=flags("ACK")))
    assert (outcome.disposition, to(outcome)[0], outcome.next_hop) == (FORWARDED, REMOTE_POD, ip("192.168.0.254"))


def test_interface_down_ends_masquerades():  # K-1.9
    netns = node(service_rules((REMOTE_POD,)))
    run(netns, packet(CLIENT, CLUSTER_IP))
    run(netns, packet(POD, CLUSTER_IP))
    assert [gone.ending for gone in netns.interface_down("eth0")] == [Ending.INTERFACE_DOWN]
    assert len(netns.conntrack) == 1


@pytest.mark.parametrize(
    ("sport", "low", "high"), [(80, 1, 511), (600, 600, 1023), (1024, 1024, 65535), (40000, 1024, 65535)]
)
def test_random_source_ports_stay_in_their_class(sport, low, high):  # K-2.3
    netns = node(service_rules((REMOTE_POD,)))
    ports = [run(netns, packet(CLIENT, CLUSTER_IP, sport=sport), flow=n, commit=False).packet.sport for n in range(300)]
    assert all(low <= number <= high for number in ports)
    assert min(ports) < low + (high - low) // 10 and max(ports) > high - (high - low) // 10
    assert sum(ports) / 300 == pytest.approx((low + high) / 2, rel=0.1)


def test_without_random_a_free_source_port_is_kept():  # K-2.3
    netns = node(service_rules((REMOTE_POD,), random_fully=False))
    first = run(netns, packet(CLIENT, CLUSTER_IP))
    assert (first.packet.sport, first.source_port_drawn) == (40000, False)
    second = run(netns, packet("203.0.113.10", CLUSTER_IP))
    assert second.packet.source == NODE
    assert second.packet.sport != 40000 and second.packet.sport >= 1024
    assert second.source_port_drawn


def test_exhausted_source_ports_drop_the_packet():  # K-2.3
    nat = table("nat", POSTROUTING=(rule(Snat(Family.IPV4, ip(NODE), 2000, 2001)),))
    netns = node(ruleset(nat))
    outcomes = [run(netns, packet(f"203.0.113.{host}", REMOTE_POD)) for host in (1, 2, 3)]
    assert [outcome.disposition for outcome in outcomes] == [FORWARDED, FORWARDED, DROPPED]
    assert {outcome.packet.sport for outcome in outcomes[:2]} == {2000, 2001}
    assert outcomes[2].cause is Cause.TUPLE_TAKEN
    assert len(netns.conntrack) == 2


def test_one_client_port_to_two_services_that_share_an_endpoint():  # K-2.4, CT-6.5
    other = rule(Destination(net("172.30.0.11")), Protocol("tcp"), dnat(REMOTE_POD))
    one = rule(Destination(net(CLUSTER_IP)), Protocol("tcp"), dnat(REMOTE_POD))
    netns = node(ruleset(table("nat", PREROUTING=(one, other))))
    assert run(netns, packet(POD, CLUSTER_IP)).packet.sport == 40000
    second = run(netns, packet(POD, "172.30.0.11"))
    assert (to(second), second.packet.source) == ((REMOTE_POD, 8080), POD)
    assert second.packet.sport != 40000
    direct = run(netns, packet(POD, REMOTE_POD, 8080))
    assert direct.packet.sport not in (40000, second.packet.sport)
    back = run(netns, replied(second))
    assert (back.packet.source, *to(back)) == ("172.30.0.11", POD, 40000)


def test_a_full_table_drops_new_connections():  # K-6.7
    netns = node(service_rules((POD,)), sysctls=Sysctls(nf_conntrack_max=1))
    established(netns, packet(CLIENT, CLUSTER_IP))
    refused = run(netns, packet(CLIENT, CLUSTER_IP, sport=1))
    assert (refused.disposition, refused.cause) == (DROPPED, Cause.TABLE_FULL)
    local = run(netns, packet("", CLUSTER_IP, protocol="udp"), local=True)
    assert (local.cause, local.local_error) == (Cause.TABLE_FULL, "EPERM")
    assert run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK"))).disposition is FORWARDED


def test_a_full_table_of_unassured_entries_makes_room():  # K-6.7
    netns = node(service_rules((POD,)), sysctls=Sysctls(nf_conntrack_max=1))
    run(netns, packet(CLIENT, CLUSTER_IP))
    second = run(netns, packet(CLIENT, CLUSTER_IP, sport=1))
    assert second.disposition is FORWARDED
    assert [gone.ending for gone in second.effects.destroyed] == [Ending.EARLY_DROP]
    assert len(netns.conntrack) == 1


def test_foreign_flows_can_be_put_into_the_table():
    netns = node(service_rules((POD,), protocol="udp"))
    stale = flow_entry(
        "UDP", (CLIENT, 40000, CLUSTER_IP, 80), (REMOTE_POD, 9090, CLIENT, 40000), created_ns=0, expires_ns=SECOND_NS
    )  # fmt: skip
    netns.conntrack.insert(stale, 0)
    assert to(run(netns, packet(CLIENT, CLUSTER_IP, protocol="udp"))) == (REMOTE_POD, 9090)


def test_icmp_echo_is_translated_by_address_alone():
    netns = node(ruleset(table("nat", PREROUTING=(rule(Destination(net(CLUSTER_IP)), dnat(POD)),))))
    request = run(netns, packet(CLIENT, CLUSTER_IP, 0, protocol="icmp", sport=77))
    assert (to(request), request.packet.sport) == ((POD, 0), 77)
    answer = run(netns, Packet(Family.IPV4, "icmp", ip(POD), ip(CLIENT), 77, icmp_type=0))
    assert (answer.ct_state, answer.packet.source) == ("ESTABLISHED", CLUSTER_IP)


def test_redirect_leads_to_the_machine_itself():
    redirect = rule(Destination(net(CLUSTER_IP)), Redirect(8081))
    netns = node(ruleset(table("nat", PREROUTING=(redirect,), OUTPUT=(redirect,))))
    assert to(run(netns, packet(CLIENT, CLUSTER_IP))) == (NODE, 8081)
    assert to(run(netns, packet(POD, CLUSTER_IP, came_by="cni0"))) == ("10.180.0.1", 8081)
    assert to(run(netns, packet("", CLUSTER_IP), local=True)) == ("127.0.0.1", 8081)


def test_a_masquerade_without_any_address_drops():  # CT-6.2
    routing = Routing([Interface("eth0"), Interface("tun0")], [Route(net("0.0.0.0/0"), "tun0")])
    netns = Netns("bare", routing)
    netns.load(ruleset(table("nat", POSTROUTING=(rule(Masquerade()),))))
    outcome = run(netns, packet(CLIENT, POD, came_by="eth0"))
    assert (outcome.disposition, outcome.cause) == (DROPPED, Cause.NO_ADDRESS)


def test_ipv6_masquerades_too():
    netns = Netns("n6", Routing([Interface("eth0", (Address.parse("2001:db8::1/64"),))], [Route(net("::/0"), "eth0")]))
    netns.load(ruleset(table("nat", POSTROUTING=(rule(Masquerade()),)), family=Family.IPV6))
    assert run(netns, packet("2001:db8:9::9", "2001:db8:1::5")).packet.source == "2001:db8::1"


# --- the way of local packets ------------------------------------------------------------------------------------------------


def test_output_sees_the_old_device_and_postrouting_the_new():  # K-2.1
    rules = service_rules((POD,))
    output = table("filter", OUTPUT=(rule(OutInterface("cni0"), DROP), rule(OutInterface("eth0"), NfAcct("seen"))))
    post = table("mangle", POSTROUTING=(rule(OutInterface("eth0"), DROP), rule(OutInterface("cni0"), NfAcct("left"))))
    netns = node(ruleset(rules.tables["nat"], output, post))
    outcome = run(netns, packet("", CLUSTER_IP, length=100), local=True)
    assert (outcome.disposition, outcome.packet.out_interface) == (FORWARDED, "cni0")
    assert netns.counters == {"seen": (1, 100), "left": (1, 100)}
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


# --- verdicts ------------------------------------------------------------------------------------------------------------------


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
    marks = (rule(SetMark(0x4000, 0x4000)), rule(Log()), rule(), rule(MarkMatch(0x4001), DROP))
    assert chain_outcome(*marks) is DROPPED
    assert chain_outcome(rule(SetMark(0x1, 0x0)), rule(MarkMatch(0), DROP)) is DROPPED  # xor clears the bit (I-5)


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
    assert outcome.effects.recent == ()
    assert run(netns, packet(CLIENT, NODE)).disposition is DELIVERED
    other_protocol = rule(Unknown("-m hashlimit"), Protocol("udp"), DROP)
    assert chain_outcome(other_protocol) is FORWARDED


def test_recent_set_stays_even_if_the_packet_is_dropped():  # K-4.2
    netns = node(ruleset(table("filter", FORWARD=(rule(Recent("A", "set")), rule(DROP)))))
    run(netns, packet(CLIENT, POD))
    assert (Family.IPV4, ip(CLIENT)) in netns.recent["A"]


def test_a_walk_sees_what_it_remembered_itself():
    rules = (rule(Recent("A", "set")), rule(Recent("A", "rcheck", 10), DROP))
    assert chain_outcome(*rules) is DROPPED


# --- REJECT --------------------------------------------------------------------------------------------------------------------


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
    nat = service_rules((REMOTE_POD,)).tables["nat"]
    netns = node(ruleset(nat, table("filter", FORWARD=(rule(Reject()),))))
    answer = run(netns, packet(CLIENT, CLUSTER_IP)).answer
    assert answer is not None and answer.related is not None
    assert (answer.source, answer.related.destination, answer.related.dport) == (CLUSTER_IP, CLUSTER_IP, 80)


def test_tcp_reset_comes_from_the_original_destination_and_never_answers_a_reset():  # K-3.1, K-3.3
    netns = node(ruleset(table("filter", FORWARD=(rule(Reject("tcp-reset")),))))
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
    output = node(ruleset(table("filter", OUTPUT=(rule(statement),))))
    assert run(output, packet("", CLUSTER_IP, protocol=protocol), local=True).local_error == in_output
    arriving = node(ruleset(table("filter", INPUT=(rule(statement),))))
    assert run(arriving, packet("", NODE, protocol=protocol), local=True).local_error == in_input
    assert run(arriving, packet(CLIENT, NODE, protocol=protocol)).local_error == ""


def test_a_no_endpoint_address_leaks_from_the_node_itself():  # K-8.2, I-19.2
    external = rule(Destination(net("203.0.113.200")), Protocol("tcp"), Reject())
    jump = rule(CtState(("NEW",)), Jump("KUBE-EXTERNAL-SERVICES"))
    netns = node(ruleset(table("filter", FORWARD=(jump,), INPUT=(jump,), KUBE_EXTERNAL_SERVICES=(external,))))
    assert run(netns, packet(POD, "203.0.113.200")).disposition is REJECTED
    assert run(netns, packet("", "203.0.113.200"), local=True).disposition is FORWARDED


def test_icmp_errors_are_rate_limited():  # K-3.4
    rules = service_rules(())
    netns = Netns("n1", node().routing, limit_icmp=True)
    netns.load(rules)

    def refused(source: str, now_ns: int, **options) -> bool:
        return run(netns, packet(source, CLUSTER_IP), now_ns, **options).disposition is REJECTED

    assert [refused(CLIENT, 0) for _ in range(8)] == [True] * 6 + [False] * 2
    assert [refused(CLIENT, second * SECOND_NS) for second in (1, 1, 2)] == [True, False, True]
    assert refused("203.0.113.10", 2 * SECOND_NS)
    assert all(refused("", 2 * SECOND_NS, local=True) for _ in range(10))
    excess = run(netns, packet(CLIENT, CLUSTER_IP), 2 * SECOND_NS)
    assert (excess.cause, excess.answer, str(excess.rule)) == (Cause.ICMP_RATE, None, "filter/KUBE-SERVICES rule 1")


def test_icmp_errors_are_limited_overall():  # K-3.4: burst 50, 1000/s
    netns = Netns("n1", node().routing, limit_icmp=True)
    netns.load(service_rules(()))
    outcomes = [run(netns, packet(f"203.0.113.{host}", CLUSTER_IP), 0).disposition for host in range(1, 61)]
    assert outcomes.count(REJECTED) == 50
    later = [
        run(netns, packet(f"203.0.113.{host}", CLUSTER_IP), SECOND_NS // 100).disposition for host in range(100, 160)
    ]
    assert later.count(REJECTED) == 10


# --- martians and localhost ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("127.0.0.5", Cause.MARTIAN_SOURCE), (NODE, Cause.MARTIAN_SOURCE), ("10.180.0.1", Cause.MARTIAN_SOURCE),
        ("0.0.0.7", Cause.MARTIAN_SOURCE), ("224.0.0.5", Cause.MARTIAN_SOURCE), ("192.168.0.255", Cause.MARTIAN_SOURCE),
        (CLIENT, None),
    ],
)  # fmt: skip
def test_martian_sources(source, cause):  # K-7.2, K-7.3
    assert run(node(ruleset()), packet(source, POD, came_by="eth0")).cause is cause


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
    netns = Netns("n6", Routing([Interface("eth0", (Address.parse("2001:db8::1/64"),))]))
    assert run(netns, packet("::1", "2001:db8::1", came_by="eth0")).cause is Cause.MARTIAN_SOURCE
    assert run(netns, packet("2001:db8::9", "::1", came_by="eth0")).cause is Cause.MARTIAN_DESTINATION


def test_ttl():
    netns = node(ruleset())
    assert run(netns, packet(CLIENT, POD, ttl=2)).packet.ttl == 1
    expired = run(netns, packet(CLIENT, POD, ttl=1))
    assert (expired.disposition, expired.cause, expired.with_) == (REJECTED, Cause.TTL, "icmp-time-exceeded")
    assert run(netns, packet(CLIENT, NODE, ttl=1)).disposition is DELIVERED


# --- the trace -----------------------------------------------------------------------------------------------------------------


def test_the_trace_tells_the_story():
    netns = node(service_rules((OTHER_POD,)))
    outcome = run(netns, packet(CLIENT, CLUSTER_IP))
    rules = [str(step.at) for step in outcome.trace if isinstance(step, RuleMatched)]
    assert rules == [
        "nat/PREROUTING rule 1", "nat/KUBE-SERVICES rule 1", "nat/KUBE-SVC rule 1", "nat/KUBE-MARK-MASQ rule 1",
        "nat/KUBE-SVC rule 2", "nat/KUBE-SEP-0 rule 2", "filter/FORWARD rule 1", "filter/KUBE-FORWARD rule 2",
        "nat/POSTROUTING rule 1", "nat/KUBE-POSTROUTING rule 2", "nat/KUBE-POSTROUTING rule 3",
    ]  # fmt: skip
    assert str(outcome.deciding_rule) == "nat/KUBE-SEP-0 rule 2"
    text = format_trace(outcome.trace)
    assert f"destination: {CLUSTER_IP}:80 → {OTHER_POD}:8080" in text
    assert "conntrack: connection confirmed" in text
    assert text.endswith("forwarded")


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
    forward = (rule(InInterface("eth0"), OutInterface("cni0"), *port("tcp", 80), DROP),)
    netns = node(ruleset(table("filter", FORWARD=forward)))
    assert run(netns, packet(CLIENT, POD)).disposition is DROPPED
    assert run(netns, packet(POD, CLIENT)).disposition is FORWARDED


def test_an_address_kept_by_dnat_gets_the_port_only():
    netns = node(ruleset(table("nat", PREROUTING=(rule(Protocol("tcp"), Dnat(Family.IPV4, None, 81)),))))
    assert to(run(netns, packet(CLIENT, POD))) == (POD, 81)


def test_sources_of_other_nodes_are_peers():
    netns = node(service_rules((POD,)))
    outcome = run(netns, packet(OTHER_NODE, NODE, NODE_PORT))
    assert (outcome.disposition, outcome.packet.source) == (FORWARDED, "10.180.0.1")
    assert outcome.packet.mark & MARK == 0  # cleared in POSTROUTING


def test_source_matching_is_before_masquerading():
    netns = node(ruleset(table("nat", POSTROUTING=(rule(Source(net(CLIENT)), Masquerade()),))))
    assert run(netns, packet(CLIENT, POD)).packet.source == "10.180.0.1"
    assert run(netns, packet(REMOTE_POD, POD)).packet.source == REMOTE_POD
