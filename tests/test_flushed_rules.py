"""Somebody flushes rules: who notices when, in each mode (CP-13, I-14, NFT-8.7, IPVS-1.2)."""

import pytest
from simulations import HEAD, MS, simulate

from kpsim.errors import InputError
from kpsim.scenario import parse_scenario
from kpsim.simulation.runlog import Fate, Reason, RunLog
from kpsim.units import SECOND_NS

NFT, IPVS = "proxy={mode: nftables}", "proxy={mode: ipvs}"
TRAFFIC = "traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 10}]\n"
#: kube-proxy of node-1 starts at 5 s, so its canary is looked for at 35 s, 65 s, 95 s …
AGAIN = "{at: 5s, restartProxy: {nodes: [node-1]}}"
#: one write of one object
CHANGE = "{at: %ds, patchService: {service: web, patch: {spec: {sessionAffinity: ClientIP}}}}"


def played(*events: str, settings: tuple[str, ...] = ("duration=120s",), text: str = TRAFFIC) -> RunLog:
    return simulate(f"events: [{', '.join(events)}]\n{text}", *settings)


def flush(second: float, **fields: object) -> str:
    inner = ", ".join(f"{name}: {value}" for name, value in {"nodes": "[node-1]", **fields}.items())
    return f"{{at: {second}s, flushRules: {{{inner}}}}}"


def told(log: RunLog, kind: str) -> list[tuple[int, str]]:
    return [(h.at_ns // MS, h.detail) for h in log.happenings if h.kind == kind and h.subject == "node-1"]


def syncs(log: RunLog, after_s: float) -> list[tuple[int, bool, bool]]:
    """Beginning in ms, whether full, whether it succeeded."""
    found = (s for s in log.syncs if s.node == "node-1" and s.start_ns >= after_s * SECOND_NS)
    return [(s.start_ns // MS, s.full, s.success) for s in found]


def lost_ms(log: RunLog) -> tuple[int, int] | None:
    """When the first and the last connection was lost."""
    times = [c.at_ns // MS for c in log.connections if c.disposition is not Fate.DELIVERED]
    return (times[0], times[-1]) if times else None


# ---------------------------------------------------------------------------------------------------------- iptables mode


@pytest.mark.parametrize("tool", ["iptables", "nft"])
def test_the_canary_notices_that_all_chains_are_gone(tool: str) -> None:  # I-14
    log = played(AGAIN, flush(40, tool=tool))
    assert told(log, "canary not found") == [(65_000, "IPv4")]
    assert syncs(log, 40) == [(65_000, True, True)]  # at once, as the other canaries are gone, too
    assert lost_ms(log) == (40_000, 65_000)
    assert {c.cause for c in log.connections} == {Reason.NONE, Reason.NOT_CAPTURED}


def test_the_canary_is_planted_again_and_looked_for_a_period_later() -> None:  # I-14
    log = played(AGAIN, flush(40, tool="iptables"), flush(70, tool="iptables"))
    # the sync of 65 s takes 23 ms; what follows begins anew with it
    assert syncs(log, 40) == [(65_000, True, True), (95_023, True, True)]


def test_flushing_rules_without_deleting_chains_is_not_noticed() -> None:  # I-14
    log = played(AGAIN, flush(40, tool="iptables", keepChains="true"))
    assert syncs(log, 40) == [] and told(log, "canary not found") == []
    assert lost_ms(log) == (40_000, 119_900)


def test_a_partial_sync_does_not_repair_what_was_flushed() -> None:  # I-13.3: jumps are ensured in full syncs only
    log = played(AGAIN, flush(40, tool="iptables", keepChains="true"), CHANGE % 50)
    assert [(full, ok) for _, full, ok in syncs(log, 40)] == [(False, True)]
    assert lost_ms(log) == (40_000, 119_900)


@pytest.mark.parametrize("table", ["nat", "filter"])
def test_a_table_without_the_canary_that_is_asked_is_not_noticed(table: str) -> None:  # I-14
    assert syncs(played(AGAIN, flush(40, tool="iptables", tables=f"[{table}]")), 40) == []


def test_while_other_canaries_stand_it_waits_five_seconds() -> None:  # I-14
    log = played(AGAIN, flush(40, tool="iptables", tables="[mangle]"))
    assert syncs(log, 40) == [(70_000, True, True)]
    both = played(AGAIN, flush(40, tool="iptables", tables="[mangle]"), flush(66.05, tool="iptables"))
    assert syncs(both, 40) == [(66_100, True, True)]  # looked for every 100 ms


def test_a_partial_sync_into_flushed_tables_fails_before_the_canary_looks() -> None:  # I-13.6
    log = played(AGAIN, "{at: 36s, createService: " + OTHER + "}", flush(50, tool="iptables"), CHANGE % 52)
    # web's own chains are written, but those of the other Service are only jumped to
    assert [(full, ok) for _, full, ok in syncs(log, 50)][:2] == [(False, False), (True, True)]
    assert syncs(log, 50)[1][0] == 65_000


OTHER = (
    "{apiVersion: v1, kind: Service, metadata: {name: other}, spec: {clusterIP: 172.30.0.30, selector: {app: web}, "
    "ports: [{port: 80, targetPort: 8080}]}}"
)


def test_nothing_retries_the_sync_of_the_canary() -> None:  # CP-9.4
    fails = "{at: 60s, failSyncs: {nodes: [node-1], count: 1}}"
    log = played(AGAIN, flush(40, tool="iptables"), fails, settings=("duration=70m",), text="")
    # the runner's hour began with the process, and its sync is full because the last one failed
    assert syncs(log, 40) == [(65_000, True, False), (3_605_000, True, True)]


def test_the_canary_of_a_process_that_has_ended_looks_for_nothing() -> None:
    log = played(AGAIN, "{at: 39s, restartProxy: {nodes: [node-1], down: 60s}}", flush(40, tool="iptables"))
    assert told(log, "canary not found") == []
    assert syncs(log, 40) == [(99_100, True, True)]  # the first sync of the next process


def test_both_families_have_a_canary_of_their_own() -> None:
    head = HEAD.replace("nodes: {count: 2, ", "nodes: {count: 2, ipFamilies: [IPv4, IPv6], ")
    log = simulate(f"events: [{AGAIN}, {flush(40, tool='iptables')}]\n", "duration=120s", head=head)
    assert sorted(told(log, "canary not found")) == [(65_000, "IPv4"), (65_000, "IPv6")]


# ---------------------------------------------------------------------------------------------------------- nftables mode


def test_nobody_notices_a_flush_in_a_quiet_cluster_for_an_hour() -> None:  # NFT-8.7, CP-9.1
    log = played(flush(40, tool="nft"), settings=(NFT, "duration=3610s"), text=TRAFFIC.replace("10}", "1}"))
    assert syncs(log, 1) == [(3_600_000, True, True)]
    assert lost_ms(log) == (40_000, 3_600_000)


def test_after_a_start_the_first_timed_sync_comes_too_early_to_be_full() -> None:  # CP-9.2, CP-9.4, CP-10.1
    log = played(AGAIN, flush(40, tool="nft"), settings=(NFT, "duration=7300s"), text="")
    # the runner's hour began at 5 s, the first full sync ended at 5.123 s: at 3605 s less than an hour has gone by
    assert syncs(log, 40) == [(3_605_000, False, True), (7_205_023, True, True)]


@pytest.mark.parametrize("fields", [{}, {"tables": "[kube-proxy]"}])
def test_a_sync_with_something_to_write_fails_and_the_next_repairs(fields: dict[str, str]) -> None:  # NFT-8.7
    log = played(AGAIN, flush(40, tool="nft", **fields), CHANGE % 50, settings=(NFT, "duration=120s"))
    (start_ms, full, ok), second = syncs(log, 40)
    assert (full, ok) == (False, False)
    assert second == (start_ms + 23 + 30_000, True, True)
    assert lost_ms(log) == (40_000, second[0] // 100 * 100)


def test_the_deletion_of_stale_chains_notices_it_in_the_same_sync() -> None:  # NFT-8.4, CP-13
    spec = "{type: ClusterIP, ports: [{port: 80, targetPort: 8080}]}"  # the chain of external addresses is left, empty
    inward = "{at: 30s, patchService: {service: web, patch: {spec: " + spec + "}}}"
    log = played(inward, flush(40, tool="nft"), CHANGE % 50, settings=(NFT, "duration=60s"))
    (sync,) = (s for s in log.syncs if s.node == "node-1" and s.start_ns > 50 * SECOND_NS)
    assert (sync.full, sync.success) == (True, True)


def test_rules_that_iptables_flushes_are_none_of_nftables_mode() -> None:
    log = played(flush(40, tool="iptables"), settings=(NFT, "duration=60s"))
    assert lost_ms(log) is None
    assert told(log, "event without effect") == [(40_000, "flushRules: iptables -F, -X: all tables: nothing to remove")]


# -------------------------------------------------------------------------------------------------------------- ipvs mode


@pytest.mark.parametrize("fields", [{"tool": "ipvsadm"}, {"tool": "nft"}])
def test_the_next_timed_sync_of_ipvs_mode_repairs(fields: dict[str, str]) -> None:  # IPVS-1.2
    log = played(AGAIN, flush(40, **fields), settings=(IPVS, "duration=120s"))
    # the runner's 30 s began at 5 s
    assert syncs(log, 34) == [(35_000, True, True), (65_023, True, True), (95_046, True, True)]
    assert lost_ms(log) is not None and lost_ms(log)[1] < 65_100  # type: ignore[index]


def test_ipsets_are_filled_again() -> None:
    scenario = parse_scenario(
        HEAD + f"events: [{flush(40, tool='ipset')}]\n", "t.yaml", settings=(IPVS, "duration=41s")
    )
    assert members(scenario, "duration=41s") == 0 < members(scenario, "duration=70s")


def members(scenario: object, duration: str) -> int:
    from kpsim.addresses import Family
    from kpsim.simulation.engine import Run

    text = HEAD + f"events: [{flush(40, tool='ipset')}]\n"
    run = Run(parse_scenario(text, "t.yaml", settings=(IPVS, duration)), 1)
    run.run(None)
    held = run.machines.netns("node-1").programmed[Family.IPV4]
    return len(held.ipsets["KUBE-CLUSTER-IP"].elements)


# --------------------------------------------------------------------------------------------------------------- all modes


@pytest.mark.parametrize("mode", ["proxy={mode: iptables}", NFT])
def test_a_sync_under_way_does_not_bring_flushed_rules_back(mode: str) -> None:
    slow = "delays.sync={base: 500ms, perRule: 0s}"
    quiet = played(CHANGE % 10, settings=(mode, slow, "duration=20s"))
    (sync,) = (s for s in quiet.syncs if s.node == "node-1" and s.start_ns > 0)
    middle_s = (sync.start_ns + sync.end_ns) / 2 / SECOND_NS
    log = played(CHANGE % 10, flush(middle_s, tool="nft"), settings=(mode, slow, "duration=12500ms"))
    (same,) = (s for s in log.syncs if s.node == "node-1" and s.start_ns > 0)
    assert same.success and same.end_ns == sync.end_ns
    assert lost_ms(log)[1] == 12_400  # type: ignore[index]


def test_what_a_flush_removed_counts_as_no_usable_endpoint() -> None:
    head = HEAD.replace(
        "type: NodePort", "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32000"
    )
    log = simulate(f"events: [{AGAIN}, {flush(40, tool='iptables')}]\n", "duration=70s", head=head)
    states = [(h.at_ns // MS, h.local_endpoints, h.local_usable) for h in log.node_health if h.node == "node-1"]
    assert states[-2:] == [(40_000, 1, 0), (65_023, 1, 1)]  # the health check goes on answering 200: it asks no kernel


def test_a_node_that_is_off_has_nothing_to_flush() -> None:
    log = played("{at: 5s, nodeDown: {nodes: [node-1]}}", flush(6, tool="iptables"), settings=("duration=10s",))
    assert told(log, "event without effect") == [(6000, "flushRules: the node is down")]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("{tool: ipset, tables: [x]}", "flushRules: ipset knows no tables and chains: tables and keepChains go with iptables and nft"),
        ("{tool: nft, keepChains: true}", "flushRules: nft flush ruleset keeps no chain: keepChains goes with tables"),
        ("{tool: iptables, tables: [ant]}", "flushRules: iptables has no table 'ant'; it has raw, mangle, nat, filter, security"),
        ("{tool: ebtables}", "flushRules.tool"),
        ("{tables: [nat]}", "flushRules.tool"),
        ("{tool: nft, nodes: [node-9]}", "flushRules.nodes[0]: there is no node 'node-9'"),
    ],
)  # fmt: skip
def test_impossible_flushes_are_refused(event: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_scenario(f"{HEAD}events: [{{at: 1s, flushRules: {event}}}]\n", "t.yaml")
    assert f"events[0].{message}" in str(refused.value)
