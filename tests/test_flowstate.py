"""Protocols without states, checksums, and ICMP errors, as connection tracking sees them (CT-5, K-6.2, K-6.6)."""

from dataclasses import replace

import pytest
from packets import CLIENT, NODE, POD, REMOTE_POD, ip, node, node_netns, packet, rule, ruleset, run, table
from rule_parts import ct_state

from kpsim.addresses import Family
from kpsim.config import ProxyConfig
from kpsim.flowstate import Action, Direction, Flow, FlowState, read
from kpsim.flowstate.flow import Cell, transitions
from kpsim.nodes import sysctls_of
from kpsim.packet import Packet, Window
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

SYSCTLS = Sysctls()
ORIGINAL, REPLY = Direction.ORIGINAL, Direction.REPLY


def between(protocol: str, **more) -> Packet:
    return Packet(Family.IPV4, protocol, ip(CLIENT), ip(POD), in_interface="eth0", **more)


def plain_flow(*, seen_reply: bool = False, assured: bool = False) -> Flow:
    return Flow(FlowState.NONE, seen_reply, assured, 0)


# --- UDP and unknown protocols ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen_reply", "age_s", "timeout_s", "assured"),
    [(False, 60, 30, False), (True, 1.99, 30, False), (True, 2, 120, True), (True, 60, 120, True)],
)
def test_udp_becomes_a_stream_two_seconds_after_its_start_and_a_reply(seen_reply, age_s, timeout_s, assured):  # K-6.2
    reading = read(between("udp"), plain_flow(seen_reply=seen_reply), ORIGINAL, int(age_s * SECOND_NS), SYSCTLS)
    assert (reading.timeout_ns, reading.assured) == (timeout_s * SECOND_NS, assured)


def test_a_late_first_answer_makes_no_stream_but_the_next_packet_does():  # measured
    now_ns, flow = 3 * SECOND_NS, plain_flow()
    answer = read(between("udp"), flow, REPLY, now_ns, SYSCTLS)
    assert (answer.timeout_ns, answer.assured) == (30 * SECOND_NS, False)
    then = read(between("udp"), flow._replace(seen_reply=True), ORIGINAL, now_ns, SYSCTLS)
    assert (then.timeout_ns, then.assured) == (120 * SECOND_NS, True)


def test_gre_becomes_a_stream_with_the_first_packet_behind_an_answer():  # measured
    seconds = [
        (reading.timeout_ns // SECOND_NS, reading.assured)
        for flow in (None, plain_flow(), plain_flow(seen_reply=True))
        for reading in [read(between("gre"), flow, ORIGINAL, 0, SYSCTLS)]
    ]
    assert seconds == [(30, False), (30, False), (180, True)]


@pytest.mark.parametrize("protocol", ["ospf", "dccp", "253"])
def test_any_other_protocol_is_tracked_for_ten_minutes(protocol):  # CT-5
    for flow in (None, plain_flow(seen_reply=True)):
        reading = read(between(protocol), flow, ORIGINAL, 0, SYSCTLS)
        assert (reading.action, reading.timeout_ns, reading.assured) == (Action.KEEP, 600 * SECOND_NS, False)


def test_udp_lite_from_outside_never_has_the_checksum_that_is_expected():  # measured
    assert read(between("udplite"), None, ORIGINAL, 0, SYSCTLS).action is Action.INVALID
    assert read(between("udplite"), None, ORIGINAL, 0, Sysctls(conntrack_checksum=False)).timeout_ns == 30 * SECOND_NS
    assert read(replace(between("udplite"), in_interface=""), None, ORIGINAL, 0, SYSCTLS).timeout_ns == 30 * SECOND_NS


def test_timers_are_sysctls():
    for protocol in ("icmp", "icmpv6", "gre", "generic", "udp"):
        sysctls = Sysctls(**{f"{protocol}_timeout_ns": 77 * SECOND_NS})
        kind = {"icmp": 8, "icmpv6": 128}.get(protocol, 0)
        sent = between("ospf" if protocol == "generic" else protocol, icmp_type=kind)
        assert read(sent, None, ORIGINAL, 0, sysctls).timeout_ns == 77 * SECOND_NS, protocol


def test_kube_proxy_sizes_the_table():  # CFG-4.1
    def sized(cores: int = 4, **more) -> tuple[int, int]:
        sysctls = sysctls_of(replace(ProxyConfig(), **more), route_localnet=False, liberal=False, cores=cores)
        return sysctls.nf_conntrack_max, sysctls.nf_conntrack_buckets

    assert [sized(cores)[0] for cores in (1, 4, 8, 16, 32, 64)] == [
        131_072,
        131_072,
        262_144,
        524_288,
        1_048_576,
        1_048_576,
    ]
    assert sized(conntrack_max_per_core=0) == (SYSCTLS.nf_conntrack_max, SYSCTLS.nf_conntrack_buckets)
    assert sized(64, conntrack_min=4_000_000) == (1_048_576, 262_144)  # the cap comes first
    assert sized(conntrack_min=4_000_000) == (4_000_000, 1_000_000)


def test_kube_proxy_sets_four_timers_and_leaves_the_others_to_the_kernel():  # CFG-4.2, CFG-4.3
    config = ProxyConfig()
    set_by_it = sysctls_of(config, route_localnet=False, liberal=False)
    assert set_by_it == replace(
        SYSCTLS, nf_conntrack_max=set_by_it.nf_conntrack_max,
        tcp_timeout_established_ns=86_400 * SECOND_NS, tcp_timeout_close_wait_ns=3600 * SECOND_NS,
    )  # fmt: skip
    hours = replace(config, conntrack_udp_timeout_ns=7 * SECOND_NS, conntrack_udp_stream_timeout_ns=8 * SECOND_NS)
    changed = sysctls_of(hours, route_localnet=False, liberal=True)
    assert (changed.udp_timeout_ns, changed.udp_timeout_stream_ns) == (7 * SECOND_NS, 8 * SECOND_NS)
    assert changed.tcp_be_liberal


# --- checksums (K-6.6) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp", "icmp"])
def test_bad_checksums_of_what_comes_in_are_invalid(protocol):
    damaged = between(protocol, icmp_type=8, checksum_ok=False)
    assert read(damaged, None, ORIGINAL, 0, SYSCTLS).action is Action.INVALID
    assert read(damaged, None, ORIGINAL, 0, Sysctls(conntrack_checksum=False)).action is Action.KEEP
    assert read(replace(damaged, in_interface=""), None, ORIGINAL, 0, SYSCTLS).action is Action.KEEP  # measured


def test_a_damaged_packet_leaves_the_flow_as_it_was():
    opened = read(between("tcp"), None, ORIGINAL, 0, SYSCTLS)
    flow = Flow(opened.state, False, False, 0, opened.history, 120 * SECOND_NS)
    reading = read(between("tcp", checksum_ok=False), flow, ORIGINAL, 0, SYSCTLS)
    assert reading.action is Action.INVALID
    assert (reading.state, reading.timeout_ns, reading.history) == (flow.state, None, flow.history)


# --- ICMP -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "requests"), [("icmp", {8, 13, 15, 17}), ("icmpv6", {128, 139})]
)  # measured, all 256 types of each
def test_only_requests_begin_an_icmp_flow(protocol, requests):
    begun = {
        kind
        for kind in range(256)
        if read(between(protocol, icmp_type=kind), None, ORIGINAL, 0, SYSCTLS).action is Action.KEEP
    }
    assert begun == requests


def test_icmp_answers_need_a_request():
    answer = read(between("icmp", icmp_type=0), plain_flow(), REPLY, 0, SYSCTLS)
    assert (answer.action, answer.timeout_ns) == (Action.KEEP, 30 * SECOND_NS)


TRACKED = table("filter", FORWARD=(rule(ct_state("INVALID")),))
STATES, STATES6 = ruleset(TRACKED), ruleset(TRACKED, family=Family.IPV6)
POD6, CLIENT6 = "fd00:180::5", "2001:db8::9"


def test_icmpv6_of_the_link_and_of_groups_is_not_tracked():  # measured, all 256 types
    netns = node_netns("n1", ["fd00:192::1"], ["fd00:180::/64"])
    netns.load_rules(STATES6)
    untracked = set()
    for kind in range(256):
        sent = packet(CLIENT6, POD6, 0, protocol="icmpv6", sport=0, came_by="eth0", icmp_type=kind)
        if run(netns, sent).ct_state == "UNTRACKED":
            untracked.add(kind)
            assert run(netns, replace(sent, checksum_ok=False)).ct_state == "INVALID"
    assert untracked == {130, 131, 132, 133, 134, 135, 136, 143, 151, 152}


def udp_flow(netns):
    """A request to a pod, with what would be said of it from inside."""
    request = packet(CLIENT, POD, 53, protocol="udp", came_by="eth0")
    run(netns, request)
    return request


def error(source: str, destination: str, about: Packet, came_by: str, **more) -> Packet:
    return packet(
        source,
        destination,
        0,
        protocol="icmp",
        sport=0,
        came_by=came_by,
        icmp_type=3,
        icmp_code=3,
        related=about,
        **more,
    )


@pytest.mark.parametrize(
    ("source", "destination", "ct_state"),  # measured
    [(POD, CLIENT, "RELATED"), (REMOTE_POD, CLIENT, "RELATED"), (POD, "203.0.113.77", "INVALID")],
)
def test_an_error_must_be_told_to_the_sender_of_what_it_is_about(source, destination, ct_state):
    netns = node(STATES)
    request = udp_flow(netns)
    assert run(netns, error(source, destination, request, "cni0")).ct_state == ct_state


def test_errors_about_answers_belong_to_the_flow_too():  # measured
    netns = node(STATES)
    udp_flow(netns)
    answer = packet(POD, CLIENT, 40000, protocol="udp", sport=53)
    assert run(netns, error(CLIENT, POD, answer, "eth0")).ct_state == "RELATED"
    assert run(netns, error(CLIENT, NODE, answer, "eth0")).ct_state == "INVALID"


def test_errors_change_no_timer_and_answer_for_nobody():  # measured
    netns = node(STATES)
    request = udp_flow(netns)
    [before] = netns.conntrack
    run(netns, error(POD, CLIENT, request, "cni0"), SECOND_NS)
    assert list(netns.conntrack) == [before]
    assert run(netns, request, 2 * SECOND_NS).ct_state == "NEW"


@pytest.mark.parametrize("what", ["unknown", "damaged", "about an error"])
def test_errors_that_cannot_be_placed_are_invalid(what):  # measured
    netns = node(STATES)
    request = udp_flow(netns)
    told = {
        "unknown": error(POD, CLIENT, replace(request, sport=1), "cni0"),
        "damaged": error(POD, CLIENT, request, "cni0", checksum_ok=False),
        "about an error": error(POD, CLIENT, error(CLIENT, POD, replace(request), "eth0"), "cni0"),
    }[what]
    assert run(netns, told).ct_state == "INVALID"


def test_an_invalid_ending_leaves_its_trace_in_the_table():  # measured: see tests of TCP
    netns = node(STATES)
    opening = packet(CLIENT, POD, came_by="eth0")
    for sender, flags in ((opening, "SYN"), (None, "SYN ACK"), (opening, "ACK")):
        sent = sender or packet(POD, CLIENT, 40000, sport=80, came_by="cni0")
        run(netns, replace(sent, tcp_flags=frozenset(flags.split())))
    ending = frozenset({"FIN", "ACK"})
    for sent in (opening, packet(POD, CLIENT, 40000, sport=80, came_by="cni0")):
        outside = replace(sent, tcp_flags=ending, window=Window.OUTSIDE)
        assert run(netns, outside, SECOND_NS).ct_state == "INVALID"
    [entry] = netns.conntrack
    assert (entry.state, entry.expires_ns) == ("ESTABLISHED", 301 * SECOND_NS)


# --- tables of transitions -------------------------------------------------------------------------------------------------


def test_a_table_names_its_states_in_its_head():
    """Each with the abbreviation that the cells use; a dot is a packet that is INVALID there."""
    table = """
                       CL=CLOSED  ES=ESTABLISHED
        original INIT  ES         .
        reply    ABORT CL         CL
    """
    assert transitions(table) == {
        (ORIGINAL, "INIT"): {FlowState.CLOSED: FlowState.ESTABLISHED, FlowState.ESTABLISHED: Cell.INVALID},
        (REPLY, "ABORT"): {FlowState.CLOSED: FlowState.CLOSED, FlowState.ESTABLISHED: FlowState.CLOSED},
    }
    with pytest.raises(ValueError, match="shorter"):
        transitions("CL=CLOSED ES=ESTABLISHED\nreply INIT CL")
