"""What reports, estimates and --exact say of faults."""

from fractions import Fraction

import pytest
from simulations import HEAD, simulate

import kpsim
from kpsim.errors import InputError
from kpsim.reports.faultspells import fault_spells
from kpsim.reports.held_up import Held, count_held
from kpsim.reports.remedies import remedies
from kpsim.reports.timeline import timeline_of
from kpsim.scenario import parse_scenario
from kpsim.simulation.expected import expected_losses
from kpsim.simulation.runlog import API_SERVER, Fate, Reason, RunLog
from kpsim.units import SECOND_NS

TRAFFIC = "traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 10}]\n"
FLUSH = "{at: 10s, flushRules: {nodes: [node-1], tool: nft}}"
LOSS = "{at: 10s, losePackets: {nodes: [node-1], share: 0.5, for: 5s}}"
NFT = "proxy={mode: nftables}"


def played(*events: str, settings: tuple[str, ...] = ("duration=40s",)) -> RunLog:
    return simulate(f"events: [{', '.join(events)}]\n{TRAFFIC}", *settings)


def spells(log: RunLog, node: str = "node-1") -> list[tuple[int, int, str]]:
    return sorted((a // SECOND_NS, b // SECOND_NS, words) for a, b, words in fault_spells(log, node))


def test_the_timeline_has_a_band_for_what_is_broken() -> None:
    events = (
        LOSS,
        "{at: 5s, restartProxy: {nodes: [node-1], down: 3s}}",
        "{at: 20s, holdLock: {nodes: [node-1], for: 1h}}",
    )
    log = played(*events)
    assert spells(log) == [
        (5, 8, "kube-proxy away"),
        (10, 15, "packets get lost (a share of 0.5)"),
        (20, 40, "xtables lock held"),
    ]
    assert spells(log, "node-2") == []
    timeline = timeline_of(log)
    assert timeline is not None
    lanes = {lane.name: [mark.kind for mark in lane.marks].count("fault") for lane in timeline.lanes}
    assert lanes["node-1"] == 3 and "fault" in dict(timeline.legend)
    calm = timeline_of(played())
    assert calm is not None and "fault" not in dict(calm.legend)


def test_the_timeline_has_a_lane_for_an_api_server_that_fails() -> None:
    log = played(
        "{at: 5s, apiServerDown: {for: 10s}}",
        "{at: 20s, apiServerSlow: {by: 1s, for: 5s}}",
        "{at: 30s, cutOff: {nodes: [node-1], for: 1h}}",
    )
    assert spells(log, API_SERVER) == [(5, 15, "API server down"), (20, 25, "API server slow (by 1s)")]
    assert spells(log) == [(30, 40, "node cut off")]
    timeline = timeline_of(log)
    assert timeline is not None
    lanes = {lane.name: [mark.kind for mark in lane.marks].count("fault") for lane in timeline.lanes}
    assert (lanes[API_SERVER], lanes["node-1"], lanes["node-2"]) == (2, 1, 0)


def test_against_rules_that_were_removed_a_restart_helps() -> None:
    removed = played(FLUSH, settings=(NFT, "duration=60s"))
    (advice,) = remedies(removed)
    assert "restart kube-proxy there" in advice.words and "for up to 50 s" in advice.words and advice.lost == 500
    restarted = played(FLUSH, "{at: 12s, restartProxy: {nodes: [node-1]}}", settings=(NFT, "duration=60s"))
    assert sum(c.lost for c in restarted.connections) < 30  # its first sync writes all rules (CP-12, CP-13)


def test_against_an_outage_no_hook_is_long_enough() -> None:
    rollout = "{at: 10s, rollout: {workload: web}}"
    for lasts, words in (("3s", "by a preStop hook that sleeps"), ("90s", "have the API server back sooner")):
        down = f"{{at: 11140ms, apiServerDown: {{for: {lasts}}}}}"
        log = played(rollout, down, settings=("duration=300s", "workloads[0].termination.preStop=0s"))
        gone = [each for each in remedies(log) if each.cause == Reason.ENDPOINT_GONE.value]
        assert gone and words in gone[0].words, lasts


def test_rules_are_removed_until_a_full_sync_writes_them() -> None:
    change = "{at: 12s, patchService: {service: web, patch: {spec: {sessionAffinity: ClientIP}}}}"
    log = played(FLUSH, change, settings=(NFT, "duration=60s"))  # fails at 12 s, and is tried again in full 30 s later
    assert spells(log) == [(10, 42, "rules removed (nft flush ruleset)")]
    lost = [c for c in log.connections if c.disposition is not Fate.DELIVERED]
    assert count_held(log)["default/web"] == {Held.REMOVED: len(lost)}


def test_lost_packets_wait_for_no_news() -> None:
    held = count_held(played(LOSS))["default/web"]
    assert set(held) == {Held.NETWORK}


def test_a_trace_of_a_lost_packet_says_so() -> None:
    text = f"{HEAD}events: [{LOSS}]\n{TRAFFIC}"
    result = kpsim.run(parse_scenario(text, "t.yaml", settings=("duration=20s",)))
    lost = next(c for c in result.log.connections if c.disposition is not Fate.DELIVERED)
    assert "its packet or the answer got lost on a link of node-1" in str(result.trace("t", lost.number))


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (LOSS, ".events[0].losePackets: --exact: what links lose"),
        ("{at: 1s, fillConntrack: {}}", ".events[0].fillConntrack: --exact: a table that is full"),
        ("{at: 1s, setConntrackMax: {max: 1}}", ".events[0].setConntrackMax: --exact: a table that is full"),
    ],
)
def test_exact_losses_refuse_what_they_cannot_compute(event: str, why: str) -> None:
    with pytest.raises(InputError) as refused:
        expected_losses(parse_scenario(f"{HEAD}events: [{event}]\n{TRAFFIC}", "t.yaml", settings=("duration=20s",)))
    assert why in str(refused.value)


def test_exact_losses_know_of_flushed_rules() -> None:
    text = f"{HEAD}events: [{FLUSH}]\n{TRAFFIC}"
    found = expected_losses(parse_scenario(text, "t.yaml", settings=(NFT, "duration=15s")))
    assert found.lost == Fraction(50)


def test_a_run_keeps_only_so_many_connections_of_others() -> None:
    def filled(nodes: int) -> None:
        text = f"{HEAD}events: [{{at: 1s, fillConntrack: {{}}}}]\n"
        parse_scenario(text, "t.yaml", settings=("duration=3s", f"nodes={{count: {nodes}}}"))

    filled(15)
    with pytest.raises(InputError) as refused:
        filled(16)  # of 131,072 each
    assert "events[0].fillConntrack: 2,097,152 connections of others in all" in str(refused.value)
