"""An API server that is down, slow, busy, cut off from nodes, or that ends watches: CP-5, CP-6, CP-2.7, CP-2.9, CP-12.

A change of a Service takes 7 ms to be written, 19 ms to a node, and 23 ms in its sync (``simulations.DELAYS``).
"""

from collections import Counter

import pytest
from simulations import DELAYS, HEAD, INSIDE, MS, of, simulate

from fuzz.convergence import differences_of_run
from kpsim.errors import InputError
from kpsim.scenario import parse_scenario
from kpsim.simulation.apifaults import ApiFaults
from kpsim.simulation.engine import Run
from kpsim.simulation.runlog import Fate, Programming, RunLog
from kpsim.units import SECOND_NS

MODES = ("iptables", "nftables", "ipvs")
PATCH = "patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.%d]}}}"


def patches(*at_ms: int) -> str:
    return "".join(f"  - {{at: {at}ms, {PATCH % n}}}\n" for n, at in enumerate(at_ms, 1))


def events(*lines: str) -> str:
    return "events:\n" + "".join(line if line.endswith("\n") else f"  - {{{line}}}\n" for line in lines)


def told(log: RunLog, kind: str, subject: str = "") -> list[tuple[int, str]]:
    found = [h for h in log.happenings if h.kind == kind and h.subject == (subject or h.subject)]
    return [(h.at_ns // MS, h.detail) for h in found]


def delivered_ms(log: RunLog, node: str) -> list[int]:
    """When the node's kube-proxy heard of each change of the Service that its rules have, in the order of the changes."""
    return [p.delivered_ns // MS for p in of_service(log, node)]


def of_service(log: RunLog, node: str) -> list[Programming]:
    rows = [p for p in log.programming if p.node == node and p.change.startswith("Service ")]
    return sorted(rows, key=lambda p: p.written_ns)


def programmed_ms(log: RunLog, node: str) -> list[int]:
    return [p.programmed_ns // MS for p in of_service(log, node)]


# ------------------------------------------------------------------------------------------------------- watches that end


def test_a_watch_that_ends_begins_again_at_once_and_brings_what_was_on_its_way() -> None:
    late = DELAYS.replace("watchDelivery: 19ms", "watchDelivery: 2s")
    log = simulate(events(patches(5000), "at: 6s, closeWatches: {nodes: [node-1]}"), "duration=20s", delays=late)
    assert delivered_ms(log, "node-1") == [8000]  # 6 s + 2 s; without the end it would be 5007 + 2000
    assert delivered_ms(log, "node-2") == [7007]
    assert told(log, "listed anew") == []


def test_only_the_watches_of_the_kinds_that_are_named_end() -> None:
    late = DELAYS.replace("watchDelivery: 19ms", "watchDelivery: 2s")
    end = "at: 6s, closeWatches: {nodes: [node-1], kinds: [EndpointSlice, Node]}"
    log = simulate(events(patches(5000), end), "duration=20s", delays=late)
    assert delivered_ms(log, "node-1") == [7007]


def test_a_watch_that_is_too_old_lists_after_one_back_off() -> None:
    end = "at: 5010ms, closeWatches: {kinds: [Service], expired: true}"
    log = simulate(events(patches(5000), end), "duration=20s")
    assert {detail for _, detail in told(log, "watch too old")} == {"Service"}
    for node in ("node-1", "node-2"):
        ((listed_ms, words),) = told(log, "listed anew", node)
        assert words == "Service: 1 change"
        assert 5010 + 800 + 100 <= listed_ms < 5010 + 1600 + 100  # 0.8 s × U[1, 2), and the list takes 100 ms (CP-6.3)
        assert delivered_ms(log, node) == [listed_ms]


def test_a_watch_that_ended_within_a_second_without_an_event_is_an_error() -> None:
    twice = ("at: 5s, closeWatches: {kinds: [Service]}", "at: 5900ms, closeWatches: {kinds: [Service]}")
    log = simulate(events(*twice, patches(5950)), "duration=20s")
    for node in ("node-1", "node-2"):
        assert len(told(log, "listed anew", node)) == 1  # CP-6.2
    heard = simulate(events(twice[0], patches(5100), twice[1]), "duration=20s")
    assert told(heard, "listed anew") == []


def test_watches_that_end_by_themselves_delay_only_what_is_on_its_way() -> None:
    setting = "kubeProxy.watchDuration={uniform: {low: 2s, high: 4s}}"
    log = simulate(events(patches(*range(1000, 25_000, 1500))), setting, "duration=30s")
    plain = simulate(events(patches(*range(1000, 25_000, 1500))), "duration=30s")
    assert len(log.programming) == len(plain.programming) == 32
    assert told(log, "listed anew") == []
    lateness = [a - b for a, b in zip(delivered_ms(log, "node-1"), delivered_ms(plain, "node-1"), strict=True)]
    assert set(lateness) <= set(range(20))  # a watch that ended in these 19 ms sends once more


def test_the_order_of_one_kind_is_kept_when_a_watch_begins_again() -> None:
    scattered = DELAYS.replace("watchDelivery: 19ms", "watchDelivery: {uniform: {low: 0s, high: 900ms}}")
    steps = patches(*range(5000, 9000, 200))
    ends = [f"at: {at}ms, closeWatches: {{}}" for at in range(5100, 9000, 700)]
    log = simulate(events(*ends, steps), "duration=30s", delays=scattered)
    found = delivered_ms(log, "node-1")
    assert len(found) == 20 and found == sorted(found)


def test_a_slow_api_server_delays_writes_and_watches() -> None:
    log = simulate(events("at: 4s, apiServerSlow: {by: 700ms, for: 2s}", patches(5000, 9000)), "duration=20s")
    # a write that is sent at 5 s arrives at 5007 + 700, and is delivered 19 + 700 later, as it is written in the slow time
    assert delivered_ms(log, "node-1") == [5707 + 719, 9026]


# ---------------------------------------------------------------------------------------------------- the API server down


def test_no_rule_changes_while_the_api_server_is_down_and_commands_fail() -> None:
    log = simulate(events("at: 5s, apiServerDown: {for: 20s}", patches(10_000)) + INSIDE, "duration=80s")
    assert told(log, "event without effect") == [(10_000, "patchService: the API server is down")]
    assert log.programming == [] and len(of(log, Fate.DELIVERED)) == len(log.connections)
    assert (told(log, "API server down"), told(log, "API server up")) == ([(5000, "for 20s")], [(25_000, "")])


def test_informers_come_back_by_their_back_off_and_list_anew() -> None:
    log = simulate(events("at: 5s, apiServerDown: {for: 20s}"), "duration=120s")
    for node in ("node-1", "node-2"):
        for kind in ("Service", "EndpointSlice", "Node", "ServiceCIDR"):
            (old_ms,) = [at for at, detail in told(log, "watch too old", node) if detail == kind]
            (listed_ms,) = [at for at, detail in told(log, "listed anew", node) if detail == f"{kind}: 0 changes"]
            # refused tries sum up to (0.8 + 1.6 + … ) × U[1, 2): the first after 20 s is the 4th or 5th, then one more wait
            assert 25_000 <= old_ms < 25_000 + 25_600
            assert 6400 + 100 <= listed_ms - old_ms < 51_200 + 100
    ends = {at for at, _ in told(log, "listed anew")}
    assert len(ends) == 8  # every informer draws its own


def test_a_kubelet_tells_what_it_could_not_say_at_a_tick_after_the_outage() -> None:
    script = events("at: 5s, apiServerDown: {for: 20s}", "at: 8s, readiness: {workload: web, nodes: [node-2]}")
    log = simulate(script, "duration=150s")
    ((noticed_ms, _),) = told(log, "pod not ready")
    assert noticed_ms == 8100
    written = sorted({p.written_ns // MS for p in log.programming})
    assert written and written[0] >= 25_000
    # 10 s between ticks (CP-2.7); then the slice controller's informer comes back (CP-6.3)
    assert written[0] < 25_000 + 10_000 + 25_600 + 51_200


def test_what_is_outdated_by_the_time_the_api_server_is_back_is_not_told() -> None:
    script = events("at: 5s, apiServerDown: {for: 20s}", "at: 8s, readiness: {workload: web, nodes: [node-2], for: 5s}")
    log = simulate(script, "duration=150s")
    assert [at for at, _ in told(log, "pod not ready")] == [8100]
    assert [at for at, _ in told(log, "pod ready")] == [13_100]
    assert log.programming == []  # the API server never heard that it was not ready


@pytest.mark.parametrize("fault", ["apiServerDown: {for: 20s}", "cutOff: {nodes: [node-2], for: 20s}"])
def test_what_a_kubelet_tells_after_the_outage_overtakes_what_failed_in_it(fault: str) -> None:
    # not ready from 8.1 s on, ready again at 25.15 s: after the outage, and before the kubelet's tick
    script = events(f"at: 5s, {fault}", "at: 8s, readiness: {workload: web, nodes: [node-2], for: 17050ms}")
    log = simulate(script, "duration=150s")
    assert [at for at, _ in told(log, "pod ready")] == [25_150]
    assert ApiFaults(seed=1).ticks_of("node-2").after(8 * SECOND_NS, 25 * SECOND_NS) > 25_200 * MS
    assert log.programming == []  # the newest status is all that a kubelet sends (CP-2.7)


def test_what_a_kubelet_tells_after_the_outage_does_not_wait_for_its_tick() -> None:
    script = events(
        "at: 5s, cutOff: {nodes: [node-2], for: 20s}", "at: 8s, readiness: {workload: web, nodes: [node-2], for: 5s}",
        "at: 25050ms, readiness: {workload: web, nodes: [node-2]}",
    )  # fmt: skip
    log = simulate(script, "duration=60s")
    assert ApiFaults(seed=1).ticks_of("node-2").after(8 * SECOND_NS, 25 * SECOND_NS) > 25_200 * MS
    # probe 100, status 11, write 7, watch 13, slice 17 ms; watches that waited have been sent on at 25 s
    assert {p.written_ns // MS for p in log.programming} == {25_050 + 148}


def test_a_report_that_is_only_slow_is_told_though_a_newer_one_follows() -> None:
    script = events(
        "at: 5s, apiServerSlow: {by: 2s, for: 20s}", "at: 8s, readiness: {workload: web, nodes: [node-2], for: 1s}"
    )
    log = simulate(script, "duration=60s")
    # the status, the controller's watch and its write take 2 s longer each
    assert min(p.written_ns for p in log.programming) == (8000 + 148 + 3 * 2000) * MS


@pytest.mark.parametrize("mode", MODES)
def test_a_kube_proxy_that_starts_without_api_server_keeps_the_rules_that_it_finds(mode: str) -> None:
    script = events("at: 5s, apiServerDown: {for: 20s}", "at: 6s, restartProxy: {nodes: [node-1]}") + INSIDE
    log = simulate(script, "duration=60s", f"proxy.mode={mode}", "traffic[0].perSecond=2")
    assert len(of(log, Fate.DELIVERED)) == len(log.connections)
    first = next(s for s in log.syncs if s.node == "node-1" and s.end_ns > 0)
    # lists are asked for at 6 s, and refused until 25 s: 0.8 … 12.8 s, times 1 to 2, and the list takes 100 ms (CP-12.1)
    assert first.full and 25_100 * MS <= first.start_ns < (25_100 + 25_600) * MS


def test_a_node_that_dies_is_given_up_only_after_the_api_server_is_back() -> None:
    script = events("at: 5s, nodeDown: {nodes: [node-2]}", "at: 20s, apiServerDown: {for: 40s}")
    log = simulate(script, "duration=150s")
    assert told(log, "node lost") == [(110_000, "silent for 105s")]  # 60 s + 50 s: nobody counts before (CP-2.9)
    assert told(simulate(script, "events=[{at: 5s, nodeDown: {nodes: [node-2]}}]"), "node lost") == [
        (55_000, "silent for 50s")
    ]


def test_a_rollout_stands_still_and_ends_after_the_outage() -> None:
    script = events(
        "at: 5s, rollout: {workload: web, maxSurge: 1, maxUnavailable: 0}", "at: 5500ms, apiServerDown: {for: 30s}"
    )
    log = simulate(script, "duration=300s")
    created = [at for at, _ in told(log, "pod created")]
    # 30 s take at least five refused waits (0.8 … 6.4 s times 2 are 24 s), and the sixth is 25.6 s at least (CP-6.3)
    assert len(created) == 2 and created[0] == 5000 and created[1] >= 35_500 + 25_600
    assert len(told(log, "pod gone")) == 2


def first_sync_ms(*settings: str, script: str) -> int:
    """When the first sync of the kube-proxy of node-1 starts after it was started again at 5 s."""
    log = simulate(events("at: 5s, restartProxy: {nodes: [node-1]}", script), "duration=60s", *settings)
    return min(s.start_ns for s in log.syncs if s.node == "node-1" and s.start_ns >= 5 * SECOND_NS) // MS


def test_lists_that_are_on_their_way_are_lost_with_the_api_server() -> None:
    assert first_sync_ms(script="at: 5050ms, apiServerBusy: {for: 5s}") == 5100  # a busy one still answers them
    assert first_sync_ms(script="at: 5050ms, apiServerDown: {for: 5s}") >= 10_050 + 100


def test_a_kube_proxy_looks_every_100_ms_whether_its_first_lists_are_there() -> None:
    late = ("delays.initialList=130ms", "kubeProxy.syncedPoll=100ms")
    assert first_sync_ms(*late, script="at: 50s, closeWatches: {}") == 5200  # CP-6.7
    assert first_sync_ms(late[0], script="at: 50s, closeWatches: {}") == 5130


def test_a_first_sync_that_fails_is_tried_again_by_itself_only_up_to_1_33() -> None:
    script = events("at: 5s, restartProxy: {nodes: [node-1]}", "at: 5s, failSyncs: {nodes: [node-1], count: 1}")
    starts = {}
    for runner in ("tokenBucket", "boundedFrequency"):
        log = simulate(script, "duration=60s", f"kubeProxy.runner={runner}")
        starts[runner] = [s.start_ns // MS for s in log.syncs if s.node == "node-1" and s.start_ns > 0]
    # the list arrives at 5100, the sync takes 23 ms, and the retry comes syncPeriod (30 s) after it (CP-9.4, CP-9.7)
    assert starts == {"tokenBucket": [5100, 35_123], "boundedFrequency": [5100]}


# ------------------------------------------------------------------------------------------------------------ a busy one


def test_a_busy_api_server_refuses_new_watches_and_lists_but_not_open_ones() -> None:
    script = events(
        "at: 4s, apiServerBusy: {for: 10s}", "at: 5s, closeWatches: {nodes: [node-1]}", patches(6000)
    )  # fmt: skip
    log = simulate(script, "duration=60s")
    assert delivered_ms(log, "node-2") == [6026]
    ((resumed_ms, words),) = [each for each in told(log, "watch resumed", "node-1") if each[1].startswith("Service:")]
    assert words == "Service: 1 change" and 14_000 <= resumed_ms < 14_000 + 12_800
    assert delivered_ms(log, "node-1") == [resumed_ms + 19]
    assert told(log, "listed anew") == []  # 429 does not lose the version (CP-6.2)


# -------------------------------------------------------------------------------------------------------- nodes cut off


def test_a_short_cut_is_not_noticed_and_what_waited_arrives_when_it_ends() -> None:
    log = simulate(events("at: 5s, cutOff: {nodes: [node-1], for: 14s}", patches(6000, 8000)), "duration=60s")
    # a ping is sent at the latest 30 s after the last frame, and waited for 15 s: no cut below 15 s is noticed
    assert delivered_ms(log, "node-1") == [19_019, 19_019]
    assert programmed_ms(log, "node-1") == [19_042, 19_042]  # in one sync
    assert delivered_ms(log, "node-2") == [6026, 8026]
    assert told(log, "connection to API server lost") == []


def test_a_cut_is_noticed_45_s_after_the_last_frame() -> None:
    # the last frame before the cut is the event at 4026, or a ping of every 30 s after it
    log = simulate(events(patches(4000), "at: 10s, cutOff: {nodes: [node-1], for: 200s}"), "duration=100s")
    assert told(log, "connection to API server lost", "node-1") == [(4026 + 45_000, "no answer to a ping")]
    later = simulate(events(patches(4000), "at: 40s, cutOff: {nodes: [node-1], for: 200s}"), "duration=100s")
    assert told(later, "connection to API server lost", "node-1") == [(4026 + 75_000, "no answer to a ping")]


def test_a_node_that_reaches_the_api_server_while_it_dials_takes_up_its_watch() -> None:
    # noticed at 49026; SYNs at 0, 1, 3, 7 and 15 s: the cut ends at 53 s, so the one at 56026 is answered
    script = events(patches(4000, 20_000), "at: 10s, cutOff: {nodes: [node-1], for: 43s}")
    log = simulate(script, "duration=100s")
    assert delivered_ms(log, "node-1") == [4026, 56_026 + 19]
    assert told(log, "listed anew") == []
    assert "Service: 1 change" in [detail for at, detail in told(log, "watch resumed", "node-1") if at == 56_026]


def test_a_node_that_is_cut_off_for_longer_lists_anew() -> None:
    script = events(patches(4000, 20_000, 30_000), "at: 10s, cutOff: {nodes: [node-1], for: 100s}")
    log = simulate(script, "duration=250s")
    ((listed_ms, _),) = [each for each in told(log, "listed anew", "node-1") if each[1] == "Service: 2 changes"]
    assert delivered_ms(log, "node-1") == [4026, listed_ms, listed_ms]
    # a dial in vain takes 30 s, a plain list after it 30 s, and the next back-off is at most 3.2 s
    assert 110_000 <= listed_ms < 110_000 + 30_000 + 3200 + 100


def test_a_node_that_is_cut_off_serves_on_and_loses_its_endpoints_after_50_s() -> None:
    log = simulate(
        events("at: 10s, cutOff: {nodes: [node-2], for: 60s}") + INSIDE, "duration=100s", "traffic[0].perSecond=5"
    )
    assert len(of(log, Fate.DELIVERED)) == len(log.connections)
    assert told(log, "node lost") == [(60_000, "silent for 50s")]
    assert told(log, "pod not ready") == [(60_000, "node-2")]
    ((ready_ms, _),) = told(log, "pod ready")
    assert 70_000 <= ready_ms <= 80_000  # at a tick of its kubelet (CP-2.7)
    ends = Counter(c.endpoint for c in log.connections if 61_000 * MS <= c.at_ns < ready_ms * MS and c.node == "node-1")
    assert set(ends) == {"10.180.1.2:8080"}
    assert simulate(events("at: 10s, cutOff: {nodes: [node-2], for: 49s}"), "duration=100s").programming == []


def test_pods_of_a_node_that_is_cut_off_for_long_are_evicted_and_end_when_it_is_back() -> None:
    script = events("at: 1s, cutOff: {nodes: [node-2], for: 400s}")
    log = simulate(script, "duration=450s", "nodes.count=3")
    assert told(log, "pods evicted") == [(351_000, "1 pods, unreachable")]  # 1 + 50 + 300 s
    ((created_ms, where),) = told(log, "pod created")
    assert created_ms == 351_007 and where != "node-2"
    ((gone_ms, _),) = told(log, "pod gone")
    assert gone_ms >= 401_000  # its kubelet hears of the deletion when the cut ends


def test_nobody_is_evicted_if_all_nodes_or_most_of_a_zone_are_cut_off() -> None:
    all_cut = simulate(events("at: 1s, cutOff: {nodes: [node-1, node-2], for: 400s}"), "duration=420s")
    assert told(all_cut, "pods evicted") == []
    assert [detail for _, detail in told(all_cut, "pods not evicted")] == ["all nodes are lost"] * 2
    most = events("at: 1s, cutOff: {nodes: [node-1, node-2, node-3], for: 400s}")
    log = simulate(most, "duration=420s", "nodes.count=5", "workloads[0].replicas=5")
    assert {detail for _, detail in told(log, "pods not evicted")} == {"3 of 5 nodes of zone a are lost"}
    assert told(log, "pods evicted") == []


# --------------------------------------------------------------------------------------------- afterwards, and bad input

FAULTS = {
    "closed": "at: 6500ms, closeWatches: {}",
    "expired": "at: 6500ms, closeWatches: {expired: true}",
    "down": "at: 6500ms, apiServerDown: {for: 9s}",
    "busy": "at: 6500ms, apiServerBusy: {for: 9s}",
    "cut": "at: 6500ms, cutOff: {nodes: [node-1, node-2], for: 9s}",
    "cut long": "at: 6500ms, cutOff: {nodes: [node-1], for: 70s}",
    "slow": "at: 6500ms, apiServerSlow: {by: 2s, for: 9s}",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", FAULTS)
def test_in_the_end_every_kernel_holds_what_a_fresh_start_would_make(fault: str, mode: str) -> None:
    script = events(
        "at: 5s, rollout: {workload: web, maxSurge: 1, maxUnavailable: 0}", patches(6400, 7000), FAULTS[fault],
        "at: 7200ms, scale: {workload: web, replicas: 3}", "at: 8s, restartProxy: {nodes: [node-2]}",
        "at: 30s, deleteService: {service: other}",
    )  # fmt: skip
    other = """
  - apiVersion: v1
    kind: Service
    metadata: {name: other}
    spec: {clusterIP: 172.30.0.11, selector: {app: web}, ports: [{port: 80, targetPort: 8080, protocol: UDP}]}
"""
    scenario = parse_scenario(
        HEAD + other.lstrip("\n") + DELAYS + script, "t.yaml", settings=("duration=250s", f"proxy.mode={mode}")
    )
    run = Run(scenario, scenario.seed)
    log = run.run(None)
    assert log.unprogrammed == [] and log.programming
    assert differences_of_run(run, scenario) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("apiServerDown: {}", "for"),
        ("apiServerDown: {for: 0s}", "for"),
        ("apiServerDown: {for: 5s, nodes: [node-1]}", "nodes"),
        ("apiServerSlow: {for: 5s}", "by"),
        ("cutOff: {for: 5s}", "nodes"),
        ("cutOff: {nodes: [], for: 5s}", "nodes"),
        ("cutOff: {nodes: [node-9], for: 5s}", "node-9"),
        ("closeWatches: {kinds: [Pod]}", "kinds"),
        ("closeWatches: {nodes: [node-9]}", "node-9"),
    ],
)
def test_what_an_event_of_the_api_server_cannot_say_is_refused(line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate(events(f"at: 5s, {line}"))


def test_a_watch_that_is_not_there_cannot_be_ended() -> None:
    script = events("at: 5s, restartProxy: {nodes: [node-1], down: 10s}", "at: 6s, closeWatches: {nodes: [node-1]}")
    log = simulate(script, "duration=20s")
    assert told(log, "event without effect") == [(6000, "closeWatches: the node has no such watch open")]


def test_the_runner_of_1_33_answers_two_changes_of_a_burst_at_once_and_the_third_a_second_later() -> None:
    starts = {}
    for runner in ("tokenBucket", "boundedFrequency"):
        log = simulate(events(patches(5000, 5100, 5200)), "duration=20s", f"kubeProxy.runner={runner}")
        starts[runner] = [s.start_ns // MS for s in log.syncs if s.node == "node-1" and s.start_ns > 0]
    # delivered at 5026, 5126 and 5226; syncs take 23 ms (CP-9.2, CP-9.7)
    assert starts == {"tokenBucket": [5026, 5126, 6149], "boundedFrequency": [5026, 6049]}
