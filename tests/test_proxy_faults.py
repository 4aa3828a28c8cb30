"""The xtables lock, failing stages, kube-proxies that exit, machines that boot, and clocks that are wrong (CP-13, CP-12.1, CFG-4)."""

import pytest
from simulations import HEAD, MS, simulate

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.scenario import parse_scenario
from kpsim.simulation.crashloop import BackOff
from kpsim.simulation.engine import Run
from kpsim.simulation.runlog import Fate, RunLog
from kpsim.units import MINUTE_NS, SECOND_NS

NFT, IPVS = "proxy={mode: nftables}", "proxy={mode: ipvs}"
CHANGE = "{at: 10s, patchService: {service: web, patch: {spec: {sessionAffinity: ClientIP}}}}"
TRAFFIC = "traffic: [{name: t, from: nodes, service: web, perSecond: 10}]\n"


def played(*events: str, settings: tuple[str, ...] = ("duration=120s",), text: str = "", head: str = HEAD) -> RunLog:
    return simulate(f"events: [{', '.join(events)}]\n{text}", *settings, head=head)


def told(log: RunLog, kind: str) -> list[tuple[int, str]]:
    return [(h.at_ns // MS, h.detail) for h in log.happenings if h.kind == kind and h.subject == "node-1"]


def syncs(log: RunLog, node: str = "node-1") -> list[tuple[int, int, bool, bool]]:
    """Beginning and end in ms, whether full, whether it succeeded; without the one before the run."""
    found = (s for s in log.syncs if s.node == node and s.end_ns > 0)
    return [(s.start_ns // MS, s.end_ns // MS, s.full, s.success) for s in found]


# --------------------------------------------------------------------------------------------------------------- the lock


def held(at_s: float, lasts: str) -> str:
    return f"{{at: {at_s}s, holdLock: {{nodes: [node-1], for: {lasts}}}}}"


#: the change of 10 s is written at 10.007 s and delivered at 10.026 s
SEEN = 10_026


def test_a_sync_waits_for_the_lock() -> None:  # I-4.4: -w 5
    log = played(held(9, "4s"), CHANGE)
    assert syncs(log) == [(SEEN, 13_000 + 23, False, True)]
    assert syncs(log, "node-2") == [(SEEN, SEEN + 23, False, True)]


def test_after_five_seconds_it_fails_and_is_tried_again_in_full() -> None:  # CP-13, CP-9.2
    log = played(held(9, "7s"), CHANGE)
    first, second = syncs(log)
    assert first == (SEEN, SEEN + 5023, False, False)
    assert second == (first[1] + 30_000, first[1] + 30_023, True, True)


def test_the_first_command_of_a_full_sync_waits_in_vain_and_ends_it() -> None:  # I-13.6
    log = played("{at: 5s, restartProxy: {nodes: [node-1]}}", held(4, "1h"), settings=("duration=20s",))
    assert syncs(log) == [(5100, 10_123, True, False)]


def test_ipvs_mode_waits_twice_and_goes_on_without_jumps() -> None:  # IPVS-9: the failure of a chain is only logged
    log = played(held(9, "12s"), CHANGE, settings=(IPVS, "duration=30s"))
    assert syncs(log)[0] == (SEEN, SEEN + 10_023, True, False)
    shorter = played(held(9, "9s"), CHANGE, settings=(IPVS, "duration=30s"))  # the restore still gets the lock
    assert syncs(shorter)[0] == (SEEN, 18_023, True, True)


def test_nft_waits_for_nobody() -> None:
    log = played(held(9, "1h"), CHANGE, settings=(NFT, "duration=60s"))
    assert syncs(log) == [(SEEN, SEEN + 23, False, True)]
    assert told(log, "event without effect") == [(9000, "holdLock: nothing in this mode waits for it")]


def test_ipvs_mode_has_no_stale_chains_to_fail() -> None:
    log = played(NO_LISTS % "5s", settings=(IPVS, "duration=12s"))
    assert told(log, "event without effect") == [(9000, "failSyncs: this mode looks for no stale chains")]


def test_the_canary_takes_a_wait_in_vain_for_its_absence() -> None:  # I-14
    # a process that starts at 5 s looks at 35 s: it waits in vain until 40 s, for the other tables until 45 s and 50 s
    log = played("{at: 5s, restartProxy: {nodes: [node-1]}}", held(30, "25s"))
    assert told(log, "canary not found") == [(50_000, "IPv4")]
    assert syncs(log)[1:] == [(50_000, 55_023, True, True)]


def test_a_canary_that_gets_the_lock_in_time_is_there() -> None:  # I-14
    assert told(played("{at: 5s, restartProxy: {nodes: [node-1]}}", held(30, "9s")), "canary not found") == []


def test_a_lock_ends_with_its_machine() -> None:
    events = held(5, "1h"), "{at: 6s, reboot: {node: node-1, takes: 1s}}"
    assert all(ok for *_, ok in syncs(played(*events, settings=("duration=20s",))))


# ------------------------------------------------------------------------------------------------------- failing stages

INWARD = (
    "{at: 10s, patchService: {service: web, patch: {spec: {type: ClusterIP, ports: [{port: 80, targetPort: 8080}]}}}}"
)
AGAIN = "{at: 20s, patchService: {service: web, patch: {spec: {sessionAffinity: ClientIP}}}}"
NO_LISTS = "{at: 9s, failSyncs: {nodes: [node-1], part: staleChains, for: %s}}"


def chains(mode: str, *events: str, duration: str) -> set[str]:
    """The chains of external addresses of web on node-1 at the end."""
    text = f"{HEAD}events: [{', '.join(events)}]\n"
    run = Run(parse_scenario(text, "t.yaml", settings=(mode, f"duration={duration}")), 1)
    run.run(None)
    tables = run.machines.netns("node-1").programmed[Family.IPV4].ruleset.in_order()
    return {name for table in tables for name in table.chains if name.startswith(("KUBE-EXT-", "external-"))}


def test_a_list_that_fails_leaves_stale_chains_until_the_next_sync() -> None:  # I-13.5
    mode = "proxy={mode: iptables}"
    assert chains(mode, INWARD, duration="15s") == set()
    assert len(chains(mode, NO_LISTS % "5s", INWARD, duration="19s")) == 1
    assert chains(mode, NO_LISTS % "5s", INWARD, AGAIN, duration="30s") == set()


def test_a_deletion_that_fails_makes_the_sync_full() -> None:  # CP-13, NFT-8.4
    log = played(NO_LISTS % "20s", INWARD, AGAIN, settings=(NFT, "duration=40s"))
    assert [(full, ok) for _, _, full, ok in syncs(log)] == [(False, True), (True, True)]
    calm = played(INWARD, AGAIN, settings=(NFT, "duration=40s"))
    assert [(full, ok) for _, _, full, ok in syncs(calm)] == [(False, True), (False, True)]


# ---------------------------------------------------------------------------------------------------------------- exits


def test_a_kube_proxy_that_crashes_is_started_ever_later() -> None:  # CP-13; the kubelet's back-off
    log = played("{at: 10s, crashProxy: {nodes: [node-1], count: 4, runs: 500ms}}", text=TRAFFIC)
    assert [at for at, _ in told(log, "kube-proxy exited")] == [10_000, 10_500, 21_000, 41_500]
    assert [at for at, _ in told(log, "kube-proxy started")] == [10_000, 20_500, 41_000, 81_500]
    assert [start for start, *_ in syncs(log)] == [10_100, 20_600, 41_100, 81_600]
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}  # its rules stay in force (CP-12.1)


def test_a_crash_before_the_first_sync_keeps_changes_waiting() -> None:
    log = played("{at: 9s, crashProxy: {nodes: [node-1], count: 3, runs: 50ms}}", CHANGE, settings=("duration=60s",))
    assert [start for start, *_ in syncs(log)] == [39_200]  # 9, 9.05 + 10, 19.1 + 20, then the lists of 100 ms


def test_the_back_off_grows_to_five_minutes_and_is_forgotten_after_ten() -> None:
    back_off, at_ns, waits = BackOff(), 0, []
    for _ in range(9):
        restart_ns = back_off.restart_ns(at_ns)
        waits.append((restart_ns - at_ns) // SECOND_NS)
        at_ns = restart_ns + SECOND_NS
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300]
    assert back_off.restart_ns(restart_ns + 10 * MINUTE_NS) == restart_ns + 15 * MINUTE_NS
    restart_ns += 15 * MINUTE_NS
    assert back_off.restart_ns(restart_ns + 10 * MINUTE_NS + 1) == restart_ns + 10 * MINUTE_NS + 1


def test_a_written_configuration_ends_the_process() -> None:  # CFG-1.4
    log = played("{at: 10s, writeProxyConfig: {nodes: [node-1]}}", "{at: 15s, writeProxyConfig: {nodes: [node-1]}}")
    assert told(log, "kube-proxy exited") == [
        (10_000, "its configuration was written; started again at once"),
        (15_000, "its configuration was written; started again after 10s"),
    ]
    assert [start for start, *_ in syncs(log)] == [10_100, 25_100]


@pytest.mark.parametrize(
    "other", ["{at: 8s, nodeDown: {nodes: [node-1]}}", "{at: 8s, restartProxy: {nodes: [node-1], down: 9s}}"]
)
def test_a_kube_proxy_that_does_not_run_cannot_crash(other: str) -> None:
    log = played(other, "{at: 10s, crashProxy: {nodes: [node-1]}}", settings=("duration=16s",))
    assert len(told(log, "event without effect")) == 1


def test_who_starts_a_crashing_kube_proxy_by_hand_ends_the_loop() -> None:
    crash = "{at: 10s, crashProxy: {nodes: [node-1], count: 5, runs: 20s}}"
    log = played(crash, "{at: 15s, restartProxy: {nodes: [node-1]}}")
    assert [at for at, _ in told(log, "kube-proxy exited")] == [10_000]


# ---------------------------------------------------------------------------------------------------------------- boots


@pytest.mark.parametrize("mode", ["proxy={mode: iptables}", NFT, IPVS])
def test_a_machine_that_boots_has_no_rules_no_connections_and_no_service_addresses(mode: str) -> None:
    events = "events: [{at: 5s, reboot: {node: node-1, takes: 1s}}]\n"
    settings = (mode, "duration=6050ms", "traffic[0].stop=5s")
    run = Run(parse_scenario(HEAD + events + TRAFFIC, "t.yaml", settings=settings), 1)
    before = len(run.machines.netns("node-1").routing.addresses(Family.IPV4))
    run.run(None)
    netns = run.machines.netns("node-1")
    assert netns.programmed == {} and len(netns.conntrack) == 0
    assert len(netns.routing.addresses(Family.IPV4)) == before  # nor those of kube-ipvs0
    assert len(run.machines.netns("node-2").conntrack) > 0


def test_kube_proxy_starts_from_nothing_after_a_boot() -> None:  # CP-12
    log = played("{at: 5s, reboot: {node: node-1, takes: 1s}}", settings=("duration=20s",), text=TRAFFIC)
    first = syncs(log)[0]  # its pods start again with it, which is another change
    assert first[2:] == (True, True)
    lost = [c.at_ns // MS for c in log.connections if c.node == "node-1" and c.disposition is not Fate.DELIVERED]
    assert max(lost) < first[1] <= max(lost) + 200


# --------------------------------------------------------------------------------------------------------------- clocks

SCALE = "{at: 10s, scale: {workload: web, replicas: 3}}"


def reported(log: RunLog, node: str) -> list[int | None]:
    return [p.reported_ns for p in log.programming if p.node == node and p.reported_ns is not None]


def test_a_clock_that_is_ahead_lengthens_what_its_kube_proxy_measures() -> None:  # CP-11.2
    skewed = played("{at: 1s, clockSkew: {nodes: [node-2], ahead: 3s}}", SCALE, settings=("duration=30s",))
    calm = played(SCALE, settings=("duration=30s",))
    assert reported(calm, "node-2") != [] != reported(skewed, "node-2")
    # the new pod is node-1's, whose kubelet stamps its readiness; node-2 compares with its own clock
    assert reported(skewed, "node-2") == [ns + 3 * SECOND_NS for ns in reported(calm, "node-2") if ns is not None]
    assert reported(skewed, "node-1") == reported(calm, "node-1")
    assert [p.programmed_ns for p in skewed.programming] == [p.programmed_ns for p in calm.programming]


def test_a_kubelet_stamps_by_its_own_clock() -> None:  # CP-2.6, CP-3.7
    skewed = played("{at: 1s, clockSkew: {nodes: [node-1], behind: 4s}}", SCALE, settings=("duration=30s",))
    calm = played(SCALE, settings=("duration=30s",))
    assert reported(skewed, "node-2") == [ns + 4 * SECOND_NS for ns in reported(calm, "node-2") if ns is not None]
    assert reported(skewed, "node-1") == reported(calm, "node-1")  # both its stamps and its reading are late


def test_samples_may_be_negative_and_a_trigger_before_the_process_gives_none() -> None:  # CP-11.2
    behind = played("{at: 1s, clockSkew: {nodes: [node-2], behind: 5s}}", SCALE, settings=("duration=30s",))
    assert [ns for ns in reported(behind, "node-2") if ns is not None and ns < 0] != []
    # a kube-proxy that starts by a clock that is a minute ahead takes every trigger of the next minute for older than itself
    restart = "{at: 2s, restartProxy: {nodes: [node-2]}}"
    ahead = played("{at: 1s, clockSkew: {nodes: [node-2], ahead: 1m}}", restart, SCALE, settings=("duration=30s",))
    assert reported(ahead, "node-2") == []


def test_a_clock_is_set_right_again() -> None:
    log = played("{at: 1s, clockSkew: {nodes: [node-1], behind: 4s, for: 5s}}", SCALE, settings=("duration=30s",))
    assert told(log, "clock skew") == [(1000, "4s behind"), (6000, "right again")]
    assert reported(log, "node-2") == reported(played(SCALE, settings=("duration=30s",)), "node-2")
    twice = (
        "{at: 1s, clockSkew: {nodes: [node-1], behind: 4s, for: 5s}}",
        "{at: 3s, clockSkew: {nodes: [node-1], ahead: 1s}}",
    )
    assert [at for at, _ in told(played(*twice), "clock skew")] == [1000, 3000]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ("clockSkew: {ahead: 1s, behind: 1s}", "clockSkew: expected exactly one of ahead, behind"),
        ("clockSkew: {ahead: 10000h}", "clockSkew.ahead: expected at most 8784h, a year"),
        ("clockSkew: {}", "clockSkew: expected exactly one of ahead, behind"),
        ("holdLock: {}", "holdLock.for"),
        ("holdLock: {for: 0s}", "holdLock.for"),
        ("crashProxy: {count: 0}", "crashProxy.count"),
        ("crashProxy: {nodes: [nod-1]}", "crashProxy.nodes[0]: there is no node 'nod-1'"),
        ("failSyncs: {part: all, count: 1}", "failSyncs.part"),
        ("writeProxyConfig: {node: node-1}", "writeProxyConfig.node"),
    ],
)
def test_impossible_faults_are_refused(event: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_scenario(f"{HEAD}events: [{{at: 1s, {event}}}]\n", "t.yaml")
    assert f"events[0].{message}" in str(refused.value)
