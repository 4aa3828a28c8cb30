"""A connection table that is full: early drop, silent refusals, and the collector that thins it out (CT-7, K-6.7)."""

from dataclasses import replace
from fractions import Fraction

import pytest
from packets import (
    CLIENT,
    CLUSTER_IP,
    POD,
    REMOTE_POD,
    established,
    flags,
    flow_entry,
    node,
    packet,
    run,
    service_rules,
)

from kpsim.config import ProxyConfig
from kpsim.conntrack import COLLECTOR_ROUND_NS, ConntrackTable, Ending, Entry
from kpsim.flowstate import FlowState
from kpsim.netfilter import Cause, Disposition, Netns, expand, walk
from kpsim.nodes import sysctls_of
from kpsim.packetpath.chooser import SeededChooser
from kpsim.rng import CHANCE_RANGE
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

FORWARDED, DROPPED = Disposition.FORWARDED, Disposition.DROPPED
ONE_BUCKET = 1  #: early drop searches everything


def full_node(limit: int, buckets: int = ONE_BUCKET, *, protocol: str = "tcp") -> Netns:
    sysctls = Sysctls(nf_conntrack_max=limit, nf_conntrack_buckets=buckets)
    return node(service_rules((POD,), protocol=protocol), sysctls=sysctls)


def entries(
    count: int, *, assured: bool = False, state: FlowState = FlowState.NONE, expires_s: int = 30
) -> list[Entry]:
    protocol = "tcp" if state else "udp"
    return [
        flow_entry(
            protocol, (CLIENT, port, POD, 53), (POD, 53, CLIENT, port), created_ns=0, expires_ns=expires_s * SECOND_NS
        )._replace(assured=assured, state=state)
        for port in range(1, count + 1)
    ]  # fmt: skip


def filled(*groups: list[Entry]) -> ConntrackTable:
    table = ConntrackTable()
    for number, entry in enumerate(entry for group in groups for entry in group):
        moved = entry.original._replace(dport=1000 + number), entry.reply._replace(sport=1000 + number)
        assert table.insert(entry._replace(original=moved[0], reply=moved[1]), 0)
    return table


# --- the odds of early drop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "buckets", "probability"),
    [
        # two tuples each, any of which may be in the eight buckets: 1 − (1 − 8/buckets)^(2·count)
        (1, 16, Fraction(3, 4)), (2, 16, Fraction(15, 16)), (1, 8, 1), (1, 4, 1),
        (100, 262_144, 0.00609), (2_000, 26_214, 0.70504), (2_000, 2_000, 0.9999999),
    ],
)  # fmt: skip
def test_early_drop_finds_a_victim_the_likelier_the_more_there_are(count, buckets, probability):  # CT-7.2
    table = filled(entries(count))
    pressure = table.pressure(0, Sysctls(nf_conntrack_max=count, nf_conntrack_buckets=buckets))
    assert pressure is not None and pressure.candidates == count
    assert pressure.threshold / CHANCE_RANGE == pytest.approx(float(probability), abs=1e-5)


def test_assured_entries_are_nobodys_victim():  # K-6.7, CT-7.3
    table = filled(entries(3, assured=True), entries(1))
    pressure = table.pressure(0, Sysctls(nf_conntrack_max=4, nf_conntrack_buckets=16))
    assert pressure is not None
    assert (pressure.candidates, Fraction(pressure.threshold, CHANCE_RANGE)) == (1, Fraction(3, 4))
    table.update(next(e for e in table if not e.assured)._replace(assured=True))
    assert table.pressure(0, Sysctls(nf_conntrack_max=4)) == (0, 0)


@pytest.mark.parametrize(
    ("limit", "now_s", "full"),
    [
        (3, 0, True),
        (4, 0, False),
        (0, 0, False),
        (3, 29, True),
        (3, 30, False),
    ],  # 0: no limit; expired ones do not count
)
def test_when_a_table_is_full(limit, now_s, full):
    table = filled(entries(1), entries(2, expires_s=60))
    assert (table.pressure(now_s * SECOND_NS, Sysctls(nf_conntrack_max=limit)) is not None) == full
    assert len(table) == 3


def test_expired_entries_are_no_victims_either():
    table = filled(entries(2), entries(3, expires_s=60), entries(1, assured=True))
    table.update(next(iter(table))._replace(expires_ns=90 * SECOND_NS))  # re-armed: its timer is behind
    at_40_s = 40 * SECOND_NS
    pressure = table.pressure(at_40_s, Sysctls(nf_conntrack_max=4))
    assert pressure is not None and pressure.candidates == 4  # the assured one and one other have expired
    live = {entry.original for entry in table if entry.expires_ns > at_40_s}
    assert {table.unassured(number, at_40_s).original for number in range(4)} == live


@pytest.mark.parametrize(
    (
        "per_core",
        "least",
        "limit",
        "buckets",
    ),  # CFG-4, on a node with 4 cores: the hash grows to a quarter of the limit
    [
        (32_768, 131_072, 131_072, 262_144),
        (262_144, 0, 1_048_576, 262_144),
        (1, 2_000_000, 2_000_000, 500_000),
        (0, 0, 262_144, 262_144),
    ],
)
def test_kube_proxy_sets_the_limit_and_sees_to_the_buckets(per_core, least, limit, buckets):
    config = ProxyConfig(conntrack_max_per_core=per_core, conntrack_min=least)
    sysctls = sysctls_of(config, route_localnet=False, liberal=False)
    assert (sysctls.nf_conntrack_max, sysctls.nf_conntrack_buckets) == (limit, buckets)


# --- a new flow in a full table ---------------------------------------------------------------------------------------


def test_a_full_table_of_assured_entries_drops_new_flows_silently():  # K-6.7
    netns = full_node(1)
    established(netns, packet(CLIENT, CLUSTER_IP))
    refused = run(netns, packet(CLIENT, CLUSTER_IP, sport=1))
    assert (refused.disposition, refused.cause, refused.answer) == (DROPPED, Cause.TABLE_FULL, None)
    assert run(netns, packet(CLIENT, CLUSTER_IP, tcp_flags=flags("ACK"))).disposition is FORWARDED
    assert netns.conntrack.turned_away == 1


@pytest.mark.parametrize(("protocol", "error"), [("udp", "EPERM"), ("tcp", "")])
def test_a_local_process_hears_of_a_full_table(protocol, error):  # K-6.7: as of any drop in OUTPUT
    netns = full_node(1)
    established(netns, packet(CLIENT, CLUSTER_IP))
    refused = run(netns, packet("", CLUSTER_IP, protocol=protocol), local=True)
    assert (refused.cause, refused.local_error) == (Cause.TABLE_FULL, error)


def test_an_unassured_entry_makes_room():  # K-6.7
    netns = full_node(1)
    first = run(netns, packet(CLIENT, CLUSTER_IP))
    second = run(netns, packet(CLIENT, CLUSTER_IP, sport=1))
    assert second.disposition is FORWARDED
    assert [(gone.entry, gone.ending) for gone in second.effects.destroyed] == [(first.entry, Ending.EARLY_DROP)]
    assert [entry.original.sport for entry in netns.conntrack] == [1]


def test_both_ends_of_early_drop_have_their_exact_weight():  # CT-7.2
    netns = full_node(2, buckets=16)
    established(netns, packet(CLIENT, CLUSTER_IP, sport=1))
    run(netns, packet(CLIENT, CLUSTER_IP, sport=2))
    outcomes = expand(netns, packet(CLIENT, CLUSTER_IP, sport=3), now_ns=0)
    assert [(weight, outcome.disposition, outcome.cause) for weight, outcome in outcomes] == [
        (Fraction(3, 4), FORWARDED, None),
        (Fraction(1, 4), DROPPED, Cause.TABLE_FULL),
    ]


def test_victims_are_drawn_and_no_outcome_of_their_own():
    netns = full_node(64)
    for sport in range(1, 65):
        run(netns, packet(CLIENT, CLUSTER_IP, sport=sport))
    sent = packet(CLIENT, CLUSTER_IP, sport=1000)
    assert len(expand(netns, sent, now_ns=0)) == 1
    walks = [walk(netns, sent, now_ns=0, chooser=SeededChooser(1, flow)) for flow in range(400)]
    victims = [walked.effects.destroyed[0].entry.original.sport for walked in walks]
    assert len(set(victims)) > 55 and sum(victims) / 400 == pytest.approx(32.5, rel=0.1)


def test_early_drop_happens_as_often_as_said():
    netns = full_node(2, buckets=16)
    established(netns, packet(CLIENT, CLUSTER_IP, sport=1))
    run(netns, packet(CLIENT, CLUSTER_IP, sport=2))
    sent = packet(CLIENT, CLUSTER_IP, sport=3)
    walks = [walk(netns, sent, now_ns=0, chooser=SeededChooser(1, flow), trace=False) for flow in range(1000)]
    assert sum(walked.disposition is FORWARDED for walked in walks) == pytest.approx(750, abs=42)  # three deviations


def test_what_will_be_invalid_needs_room_too():  # measured
    netns = full_node(1)
    established(netns, packet(CLIENT, CLUSTER_IP))
    stray = packet(CLIENT, POD, tcp_flags=flags("SYN ACK"))
    assert run(netns, stray).cause is Cause.TABLE_FULL
    roomy = full_node(1)
    run(roomy, packet(CLIENT, CLUSTER_IP))
    outcome = run(roomy, stray)
    assert (outcome.ct_state, outcome.cause) == ("INVALID", Cause.RULE)
    assert len(roomy.conntrack) == 0  # the other flow is gone for nothing


def test_a_connection_that_begins_anew_takes_its_own_place():  # K-1.8
    netns = full_node(1)
    sent = packet(CLIENT, CLUSTER_IP)
    established(netns, sent)
    run(netns, replace(sent, tcp_flags=flags("RST")))
    assert run(netns, sent).disposition is FORWARDED


def test_both_families_share_the_table():  # CT-7.1
    netns = full_node(1)
    entry = flow_entry(
        "udp", ("2001:db8::9", 1, "fd00::1", 2), ("fd00::1", 2, "2001:db8::9", 1), created_ns=0, expires_ns=1
    )
    netns.conntrack.insert(entry._replace(assured=True), 0)
    assert run(netns, packet(CLIENT, CLUSTER_IP)).cause is Cause.TABLE_FULL


# --- the collector ----------------------------------------------------------------------------------------------------


def test_the_collector_takes_what_has_expired():
    netns = full_node(10, protocol="udp")
    run(netns, packet(CLIENT, CLUSTER_IP, protocol="udp"))
    assert netns.collect(30 * SECOND_NS - 1) == ()
    assert [gone.ending for gone in netns.collect(30 * SECOND_NS)] == [Ending.EXPIRED]


CLOSING = [FlowState.FIN_WAIT, FlowState.CLOSE_WAIT, FlowState.LAST_ACK, FlowState.TIME_WAIT, FlowState.CLOSE]


@pytest.mark.parametrize("state", [*CLOSING, FlowState.ESTABLISHED])
def test_a_table_that_turned_a_flow_away_is_thinned_out(state):  # CT-7.4
    sysctls = Sysctls(nf_conntrack_max=100)
    table = filled(entries(98, assured=True, state=FlowState.ESTABLISHED), entries(2, assured=True, state=state))
    assert table.collect(0, sysctls) == ()  # measured: not without a refusal
    table.turned_away = 1
    gone = table.collect(0, sysctls)
    assert [each.entry.state for each in gone] == ([state] * 2 if state in CLOSING else [])
    assert {each.ending for each in gone} <= {Ending.CROWDED}
    table.insert(entries(1)[0], 0)
    assert table.collect(0, sysctls) == ()  # the refusal is forgotten


def test_the_collector_stops_at_95_per_cent_or_257_entries():  # CT-7.4; 257 measured
    table = filled(entries(100))
    table.turned_away = 1
    assert len(table.collect(0, Sysctls(nf_conntrack_max=100))) == 5
    large = filled(entries(6000))
    large.turned_away = 3
    assert len(large.collect(0, Sysctls(nf_conntrack_max=6000))) == 257
    assert COLLECTOR_ROUND_NS == 60 * SECOND_NS  # measured on an idle machine


def test_a_remote_flow_needs_room_like_any_other():
    netns = node(service_rules((REMOTE_POD,)), sysctls=Sysctls(nf_conntrack_max=1, nf_conntrack_buckets=ONE_BUCKET))
    established(netns, packet(POD, CLUSTER_IP))
    assert run(netns, packet(CLIENT, CLUSTER_IP)).cause is Cause.TABLE_FULL
