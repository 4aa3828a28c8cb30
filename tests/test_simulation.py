"""The run on the clock: order of an instant, delays, workloads, the way of a change, kube-proxy's life, packets, determinism."""

import gc
import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from itertools import count, pairwise

import pytest

from kpsim.scenario import parse_scenario
from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.quantities import Choice, Delay, Exponential, Normal, Uniform
from kpsim.scenario.schema import Arrivals, LoadBalancerSpec, Placement, PlacementPolicy, Traffic
from kpsim.simulation import run
from kpsim.simulation.affinity import AffinityMemory, Break
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.delays import draw_ns
from kpsim.simulation.loadbalancer import Belief
from kpsim.simulation.machines import Outcome
from kpsim.simulation.placement import place
from kpsim.simulation.ports import SourcePorts
from kpsim.simulation.rollout import PodStatus, Step, Strategy, next_step
from kpsim.simulation.runlog import Cause, Connection, Disposition, Programming, RunLog
from kpsim.simulation.traffic import arrival_times_ns, client_address
from kpsim.units import MILLISECOND_NS, SECOND_NS

MS = MILLISECOND_NS


# --------------------------------------------------------------------------------------------------------------- clock


def test_one_instant_has_a_declared_order() -> None:
    clock, done = Clock(["first", "second"]), list[str]()
    clock.at(5, Rank.PACKET, "first", lambda: done.append("packet"))
    clock.at(5, Rank.API_WRITE, "second", lambda: done.append("write of second"))
    clock.at(5, Rank.API_WRITE, "first", lambda: done.append("write of first"))
    clock.at(5, Rank.API_WRITE, "first", lambda: done.append("its next write"))
    clock.at(5, Rank.WORLD, "second", lambda: done.append("world"))
    clock.at(4, Rank.PACKET, "second", lambda: done.append("earlier"))
    clock.run(6)
    assert done == ["earlier", "world", "write of first", "its next write", "write of second", "packet"]


def test_what_an_action_asks_for_at_its_own_instant_still_happens_by_rank() -> None:
    clock, done = Clock(["x"]), list[str]()

    def sync() -> None:
        done.append("sync")
        clock.at(clock.now_ns, Rank.RULES_IN_FORCE, "x", lambda: done.append("rules"))

    clock.at(3, Rank.PACKET, "x", lambda: done.append("packet"))
    clock.at(3, Rank.SYNC_START, "x", sync)
    clock.run(4)
    assert done == ["sync", "rules", "packet"]


def test_the_clock_ends_before_the_last_instant_and_refuses_the_past() -> None:
    clock, done, told = Clock(["x"]), list[int](), list[tuple[int, int]]()
    for at_ns in (0, 9, 10):
        clock.at(at_ns, Rank.WORLD, "x", lambda: done.append(clock.now_ns))
    clock.run(10, lambda now_ns, total_ns: told.append((now_ns, total_ns)))
    assert done == [0, 9]
    assert told[-1] == (10, 10)
    with pytest.raises(ValueError, match="has gone by"):
        clock.at(1, Rank.WORLD, "x", lambda: None)
    with pytest.raises(KeyError):
        clock.at(11, Rank.WORLD, "nobody declared", lambda: None)


# -------------------------------------------------------------------------------------------------------------- delays


def test_a_delay_is_a_function_of_its_key() -> None:
    delay = Delay(uniform=Uniform(low_ns="0ns", high_ns="1s"))
    first = [draw_ns(delay, 1, "write", number) for number in range(5)]
    assert [draw_ns(delay, 1, "write", number) for number in reversed(range(5))] == first[::-1]
    assert len(set(first)) == 5
    assert draw_ns(delay, 2, "write", 0) != first[0]


@pytest.mark.parametrize(
    ("delay", "mean", "low", "high"),
    [
        (Delay.of(7), 7, 7, 7),
        (Delay(uniform=Uniform(low_ns="100ns", high_ns="200ns")), 150, 100, 200),
        (Delay(exponential=Exponential(mean_ns="1000ns")), 1000, 0, 10**6),
        (Delay(exponential=Exponential(mean_ns="1000ns", max_ns="500ns")), 393, 0, 500),  # 1000 (1 − e^−½)
        (Delay(normal=Normal(mean_ns="1000ns", stddev_ns="100ns")), 1000, 0, 2000),
        (
            Delay(normal=Normal(mean_ns="100ns", stddev_ns="50ns", low_ns="100ns")),
            140,
            100,
            400,
        ),  # half normal: 100 + 50 √(2/π)
        (Delay(choice=Choice(values_ns=("10ns", "20ns"), weights=(1.0, 3.0))), 17.5, 10, 20),
    ],
)
def test_delays_follow_their_distribution(delay: Delay, mean: float, low: int, high: int) -> None:
    drawn = [draw_ns(delay, 3, "mean", number) for number in range(4000)]
    assert min(drawn) >= low and max(drawn) <= high
    assert sum(drawn) / len(drawn) == pytest.approx(mean, rel=0.06)


def traffic_of(**fields: object) -> Traffic:
    return Traffic.model_validate({"name": "t", "service": "web", "per_second": 10.0, **fields})


def test_constant_arrivals_are_evenly_spaced_from_start_to_stop() -> None:
    times = list(arrival_times_ns(traffic_of(per_second=3.0, start_ns="1s"), 2 * SECOND_NS, 1))
    assert times == [SECOND_NS, SECOND_NS + 333_333_333, SECOND_NS + 666_666_666]


def test_poisson_arrivals_have_the_rate_and_the_spread() -> None:
    times = list(arrival_times_ns(traffic_of(per_second=1000.0, arrivals=Arrivals.POISSON), 4 * SECOND_NS, 1))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(MS, rel=0.06)
    # the standard deviation of an exponential is its mean
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.08)


def test_clients_have_addresses_of_the_plan() -> None:
    assert [client_address(number) for number in (0, 253, 254)] == ["203.0.113.1", "203.0.113.254", "203.0.114.1"]


# ----------------------------------------------------------------------------------------------------------- workloads


def pods(*described: str) -> list[PodStatus]:
    """``2r@n1``: revision 2, ready, on n1; ``u`` for not ready."""
    return [
        PodStatus(f"p{number}", text[3:], int(text[0]), text[1] == "r", number) for number, text in enumerate(described)
    ]


@pytest.mark.parametrize(
    ("now", "surge", "unavailable", "expected"),
    [
        # 3 wanted, one may come on top: create one, delete nothing while it is not ready
        (["1r@a", "1r@b", "1r@c"], 1, 0, Step(create=1)),
        (["1r@a", "1r@b", "1r@c", "2u@a"], 1, 0, Step()),
        # it is ready: one old pod may go, the one that shares its node; its successor comes when it is gone
        (["1r@a", "1r@b", "1r@c", "2r@a"], 1, 0, Step(delete=("p0",))),
        (["1r@b", "1r@c", "2r@a"], 1, 0, Step(create=1)),
        # no surge, one may be missing: delete first
        (["1r@a", "1r@b", "1r@c"], 0, 1, Step(delete=("p2",))),
        (["1r@a", "1r@b"], 0, 1, Step(create=1)),
        # an old pod that is not ready goes first, and does not count against the minimum
        (["1u@a", "1r@b", "1r@c", "1r@d", "2u@a"], 1, 0, Step(delete=("p0",))),
        # done
        (["2r@a", "2r@b", "2r@c"], 1, 0, Step()),
    ],
)
def test_rolling_update_steps(now: list[str], surge: int, unavailable: int, expected: Step) -> None:
    assert next_step(pods(*now), 3, 2, Strategy(surge, unavailable)) == expected


def test_scaling_down_takes_pods_that_are_not_ready_then_those_on_full_nodes_then_the_newest() -> None:
    now = pods("1r@a", "1r@a", "1r@b", "1u@c", "1r@b")
    assert next_step(now, 1, 1, Strategy(0, 0)).delete == ("p3", "p4", "p2", "p1")


def test_shares_round_as_a_deployment_does() -> None:
    assert Strategy.of("25%", "25%", 3) == Strategy(1, 0)  # surge up, unavailable down
    assert Strategy.of(0, "25%", 3) == Strategy(0, 1)  # both zero would never move


@pytest.mark.parametrize(("surge", "unavailable"), [(1, 0), (0, 1), (2, 1), (5, 0), (0, 5)])
def test_a_rollout_keeps_its_bounds_and_ends(surge: int, unavailable: int) -> None:
    now = pods("1r@a", "1r@b", "1r@c", "1r@a", "1r@b")
    numbers = count(len(now))
    for _ in range(100):
        step = next_step(now, 5, 2, Strategy(surge, unavailable))
        now = [pod for pod in now if pod.name not in step.delete]
        now += [PodStatus(f"p{n}", "abc"[n % 3], 2, False, n) for n in (next(numbers) for _ in range(step.create))]
        assert len(now) <= 5 + surge
        assert sum(pod.ready for pod in now) >= 5 - unavailable
        unready = next((pod for pod in now if not pod.ready), None)
        if unready is not None:  # one at a time becomes ready
            now[now.index(unready)] = PodStatus(unready.name, unready.node, unready.revision, True, unready.number)
        elif step == Step():
            break
    assert [pod.revision for pod in now] == [2] * 5


NODES = [ClusterNode(name, zone, 4, (), ()) for name, zone in (("n1", "a"), ("n2", "b"), ("n3", "b"))]


def placed(placement: Placement, number: int, down: frozenset[str] = frozenset()) -> list[str | None]:
    taken: list[str] = []
    for _ in range(number):
        taken.append(place(placement, NODES, taken, down) or "nowhere")
    return list(taken)


def test_placement() -> None:
    assert placed(Placement(), 4) == ["n1", "n2", "n3", "n1"]
    assert placed(Placement(policy=PlacementPolicy.PACKED), 3) == ["n1", "n1", "n1"]
    assert placed(Placement(zones=("b",)), 3) == ["n2", "n3", "n2"]
    assert sorted(placed(Placement(nodes=("n3", "n1", "n3", "n3")), 4)) == ["n1", "n3", "n3", "n3"]
    assert placed(Placement(), 3, frozenset({"n1"})) == ["n2", "n3", "n2"]
    assert placed(Placement(zones=("c",)), 1) == ["nowhere"]


def test_a_load_balancer_turns_after_as_many_contrary_answers_as_its_threshold() -> None:
    spec = LoadBalancerSpec(unhealthy_threshold=2, healthy_threshold=3)
    belief, seen = Belief(True), list[bool]()
    for passed in (False, True, False, False, True, True, False, True, True, True):
        belief = belief.after(passed, spec)
        seen.append(belief.in_rotation)
    assert seen == [True, True, True, False, False, False, False, False, False, True]


# ------------------------------------------------------------------------------------------------------------ affinity


@dataclass
class _FakeMachines:
    chains: bool = True
    listed: bool = True
    asked: list[str] = field(default_factory=list)

    def has_chain(self, node: str, chain: str) -> bool:
        self.asked.append(chain)
        return self.chains

    def remembers(self, node: str, name: str, source_ip: str) -> bool:
        return self.listed


def contact(node: str = "n1", source: str = "203.0.113.1", endpoint: str = "10.180.1.2:80") -> Outcome:
    return Outcome(Disposition.DELIVERED, node=node, source_ip=source, endpoint=endpoint)


@pytest.mark.parametrize(
    ("second", "after_s", "chains", "listed", "expected"),
    [
        (contact(), 1, True, True, Break.NONE),
        (contact(endpoint="10.180.2.2:80"), 1, False, False, Break.ENDPOINT_GONE),
        (contact(endpoint="10.180.2.2:80", node="n2"), 1, True, True, Break.OTHER_NODE),
        (contact(endpoint="10.180.2.2:80", source="203.0.113.9"), 1, True, True, Break.OTHER_ADDRESS),
        (contact(endpoint="10.180.2.2:80"), 10, True, True, Break.TIMEOUT),  # an entry must be younger (CT-8.1)
        (contact(endpoint="10.180.2.2:80"), 9, True, False, Break.LIST_FULL),
        (contact(endpoint=""), 1, False, False, Break.ENDPOINT_GONE),
    ],
)
def test_why_affinity_broke(second: Outcome, after_s: int, chains: bool, listed: bool, expected: Break) -> None:
    machines = _FakeMachines(chains, listed)
    memory = AffinityMemory(machines)  # type: ignore[arg-type]
    assert memory.judge("shop/web:http", "TCP", "c", 10, contact(), 0) is Break.NONE
    assert memory.judge("shop/web:http", "TCP", "other", 10, second, 0) is Break.NONE  # first contact of another
    assert memory.judge("shop/web:http", "TCP", "c", 10, second, after_s * SECOND_NS) is expected


# ------------------------------------------------------------------------------------------------------------ whole runs

#: every stage with a delay of its own, so that a sum tells where it came from
DELAYS = """
delays:
  readinessToStatus: 11ms
  apiWrite: 7ms
  controllerWatch: 13ms
  sliceWrite: 17ms
  watchDelivery: 19ms
  initialList: 100ms
  sync: {base: 23ms, perRule: 0s}
"""

HEAD = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: test}
duration: 60s
nodes: {count: 2, zones: [a]}
workloads:
  - name: web
    replicas: 2
    ports: [{containerPort: 8080}]
    startup: {delay: 1s}
    readiness: {probeDelay: 100ms}
objects:
  - apiVersion: v1
    kind: Service
    metadata: {name: web}
    spec: {type: NodePort, clusterIP: 172.30.0.10, selector: {app: web},
           ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
"""


def simulate(text: str, *settings: str, delays: str = DELAYS, head: str = HEAD, seed: int = 1) -> RunLog:
    return run(parse_scenario(head + delays + text, "test.yaml", settings=settings), seed=seed)


def ms(row: Programming) -> tuple[int, int, int, int, int]:
    times = (row.trigger_ns, row.written_ns, row.delivered_ns, row.sync_start_ns, row.programmed_ns)
    return tuple(time // MS for time in times)  # type: ignore[return-value]


def test_a_new_pod_on_its_way_to_the_rules_stage_by_stage() -> None:
    log = simulate("events: [{at: 5s, scale: {workload: web, replicas: 3}}]\n", "duration=20s")
    first, second = [row for row in log.programming if row.node == "node-1"]
    # 5.000 created, +7 written, +13 seen by the controller, +17 slice, +19 delivered; idle, so the sync starts at once (CP-9)
    assert ms(first) == (5000, 5037, 5056, 5056, 5079)
    # 6.000 answers, +100 probe: trigger; +11+7 written, +13 seen, +17 slice, +19 delivered; cooled down since 6.079
    assert ms(second) == (6100, 6148, 6167, 6167, 6190)
    # kube-proxy's own sample counts from whole seconds (CP-2.10, CP-3.7.3): 6.190 − 6
    assert second.reported_ns == 190 * MS
    assert second.service == "default/web" and second.change.startswith("EndpointSlice default/web-")


def test_the_end_of_a_pod_has_no_latency_sample() -> None:
    log = simulate("events: [{at: 5s, scale: {workload: web, replicas: 1}}]\n", "duration=20s")
    rows = [row for row in log.programming if row.node == "node-1"]
    assert len(rows) == 2  # terminating, then gone
    assert all(row.reported_ns is None for row in rows)  # CP-3.7.3


def test_the_second_change_of_a_burst_waits_for_min_sync_period() -> None:
    log = simulate("events: [{at: 5s, scale: {workload: web, replicas: 1}}]\n", "duration=20s")
    first, second = [row for row in log.programming if row.node == "node-1"]
    # deletion 5.007 written; seen 5.020, slice 5.037, delivered 5.056, synced until 5.079
    assert ms(first) == (5000, 5037, 5056, 5056, 5079)
    # the pod exits at 5.007; gone from the API at 5.007+11+7 = 5.025, seen 5.038 while the controller does not yet know its own
    # write of 5.037 (seen 5.050): stale, retried 1 s later (CP-3.11, CP-3.2): 6.038, +17 slice, +19 delivered; idle since 6.079
    assert ms(second) == (5007, 6055, 6074, 6079, 6102)


def test_min_sync_period_is_counted_from_the_end_of_the_last_sync() -> None:
    events = """
events:
  - {at: 5s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.1]}}}}
  - {at: 5.1s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.2]}}}}
  - {at: 5.2s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.3]}}}}
"""
    log = simulate(events, "duration=20s", "proxy={iptables: {minSyncPeriod: 3s}}")
    starts = [sync.start_ns // MS for sync in log.syncs if sync.node == "node-1"]
    assert starts == [0, 5026, 5049 + 3000]  # 5.000 + 7 written + 19 delivered; its end + 3 s (CP-9.3)
    assert [row.sync_start_ns // MS for row in log.programming if row.node == "node-1"] == [5026, 8049, 8049]
    assert all(row.reported_ns is None for row in log.programming)  # spec changes have no trigger (CP-3.7.1)


def test_a_service_change_that_kube_proxy_does_not_read_is_no_change() -> None:
    log = simulate(
        "events: [{at: 5s, patchService: {service: web, patch: {spec: {publishNotReadyAddresses: false}}}}]\n"
    )
    assert log.programming == []  # O-7.2
    assert len(log.syncs) == 2  # the initial ones


def test_a_failed_sync_is_retried_after_the_sync_period_and_loses_its_samples() -> None:
    events = """
events:
  - {at: 4s, failSyncs: {nodes: [node-1], count: 2}}
  - {at: 5s, scale: {workload: web, replicas: 3}}
"""
    log = simulate(events)
    mine = [(sync.start_ns // MS, sync.success, sync.full) for sync in log.syncs if sync.node == "node-1"]
    # both changes of the scale-up meet a failing sync; the retry comes 30 s after the second has ended, and is full (CP-13)
    assert mine == [(0, True, True), (5056, False, False), (6167, False, True), (6190 + 30_000, True, True)]
    rows = [row for row in log.programming if row.node == "node-1"]
    assert [ms(row)[3] for row in rows] == [36_190, 36_190]
    assert [row.reported_ns for row in rows] == [None, None]  # CP-10.2
    assert [h.at_ns // MS for h in log.happenings if h.kind == "sync failed"] == [5079, 6190]
    # the other node is not concerned
    assert [row.programmed_ns // MS for row in log.programming if row.node == "node-2"] == [5079, 6190]


def test_failures_for_a_time_end_with_it() -> None:
    events = """
events:
  - {at: 4s, failSyncs: {for: 2s}}
  - {at: 5s, scale: {workload: web, replicas: 3}}
"""
    log = simulate(events)
    assert [sync.success for sync in log.syncs if sync.node == "node-1"] == [True, False, True]


def test_informers_keep_the_order_of_one_kind() -> None:
    events = "events: [{at: 5s, rollout: {workload: web, maxSurge: 2, maxUnavailable: 0}}]\n"
    log = simulate(events, "delays.watchDelivery={uniform: {low: 0s, high: 900ms}}", "workloads[0].replicas=6")
    for node in ("node-1", "node-2"):
        rows = sorted(
            (row for row in log.programming if row.node == node), key=lambda row: int(row.change.rpartition(" ")[2])
        )
        assert len(rows) > 6
        assert [row.delivered_ns for row in rows] == sorted(row.delivered_ns for row in rows)


def test_a_slow_node_is_late_and_the_others_are_not() -> None:
    events = "events: [{at: 5s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.1]}}}}]\n"
    log = simulate(events, "delays.onNodes=[{nodes: [node-2], watchDelivery: 2s, sync: {base: 1s, perRule: 0s}}]")
    assert [(row.node, *ms(row)[2:]) for row in log.programming] == [
        ("node-1", 5026, 5026, 5049),
        ("node-2", 7007, 7007, 8007),
    ]


def test_syncs_cost_what_they_write() -> None:
    events = "events: [{at: 5s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.1]}}}}]\n"
    log = simulate(events, "delays.sync={base: 10ms, perRule: 1ms}")
    (change,) = [sync for sync in log.syncs if sync.node == "node-1" and sync.start_ns]
    # one Service: every rule is written
    assert change.end_ns - change.start_ns == 10 * MS + (change.rules_nat + change.rules_filter) * MS


# ------------------------------------------------------------------------------------------------- kube-proxy and nodes

INSIDE = "traffic: [{name: t, from: nodes, service: web, perSecond: 20}]\n"


def of(log: RunLog, disposition: Disposition) -> list[Connection]:
    return [c for c in log.connections if c.disposition is disposition]


def test_a_restarted_kube_proxy_leaves_its_rules_and_syncs_when_the_lists_are_there() -> None:
    events = "events: [{at: 5s, restartProxy: {nodes: [node-1], down: 2s}}]\n"
    log = simulate(events + INSIDE, "duration=20s")
    assert of(log, Disposition.DELIVERED) == log.connections  # CP-12.1
    mine = [(sync.start_ns // MS, sync.full) for sync in log.syncs if sync.node == "node-1"]
    assert mine == [(0, True), (7100, True)]  # the start gate opens with the lists (O-1.8)


def test_changes_while_kube_proxy_is_down_arrive_with_its_first_sync() -> None:
    events = """
events:
  - {at: 5s, restartProxy: {nodes: [node-1], down: 4s}}
  - {at: 6s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.1]}}}}
"""
    log = simulate(events, "duration=20s")
    (row,) = [row for row in log.programming if row.node == "node-1"]
    assert ms(row) == (6000, 6007, 9100, 9100, 9123)


def test_an_event_right_after_the_initial_sync_waits_for_the_runners_first_empty_run() -> None:
    events = """
events:
  - {at: 5s, restartProxy: {nodes: [node-1]}}
  - {at: 5.3s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.1]}}}}
"""
    log = simulate(events, "duration=20s")
    # the Node's zone label asks for a sync at 5.000, before the gate is open: that run does nothing but starts the cooling of one
    # second (CP-7.2, CP-9.5); the initial sync at 5.100 is direct; the change delivered at 5.326 waits until 6.000
    assert [sync.start_ns // MS for sync in log.syncs if sync.node == "node-1"] == [0, 5100, 6000]


def test_a_node_without_power_keeps_its_endpoints_for_the_grace_period() -> None:
    events = "events: [{at: 10s, nodeDown: {nodes: [node-2]}}]\n"
    traffic = "traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 40}]\n"
    log = simulate(events + traffic, "duration=80s")
    lost = [c for c in log.connections if c.cause is Cause.NODE_DOWN]
    assert {c.endpoint_node for c in lost} == {"node-2"} and {c.disposition for c in lost} == {Disposition.FAILED}
    # 60.000 declared, +7 written, +13 seen, +17 slice, +19 delivered, +23 synced (CP-2.9)
    assert lost[0].at_ns >= 10 * SECOND_NS and lost[-1].at_ns < 60_079 * MS
    assert [c for c in log.connections if c.at_ns >= 60_079 * MS and c.endpoint_node != "node-1"] == []
    assert len(lost) == pytest.approx(50 * 40 / 2, rel=0.1)  # one of two endpoints


def test_a_node_comes_back_without_rules_and_learns_them_anew() -> None:
    events = "events: [{at: 10s, nodeDown: {nodes: [node-2]}}, {at: 20s, nodeUp: {nodes: [node-2]}}]\n"
    traffic = "traffic: [{name: t, from: nodes, nodes: [node-2], service: web, perSecond: 20}]\n"
    log = simulate(events + traffic, "duration=40s")
    during = [c for c in log.connections if 10 * SECOND_NS <= c.at_ns < 20 * SECOND_NS]
    assert {(c.disposition, c.cause, c.node) for c in during} == {(Disposition.DROPPED, Cause.NODE_DOWN, "")}
    # 20.000 + 100 lists + 23 sync: until then nothing is captured
    bare = [c for c in log.connections if 20 * SECOND_NS <= c.at_ns < 20_123 * MS]
    assert bare and {c.cause for c in bare} == {Cause.NOT_CAPTURED}
    after = [c for c in log.connections if c.at_ns >= 23 * SECOND_NS]
    assert {c.disposition for c in after} == {Disposition.DELIVERED}
    assert {c.endpoint_node for c in after} == {"node-1", "node-2"}


def test_a_crashed_application_is_missed_until_the_rules_know_and_then_comes_back() -> None:
    events = "events: [{at: 5s, crash: {workload: web, nodes: [node-2]}}]\n"
    log = simulate(events + INSIDE, "duration=20s")
    gone = of(log, Disposition.FAILED)
    assert {c.cause for c in gone} == {Cause.ENDPOINT_GONE} and {c.endpoint_node for c in gone} == {"node-2"}
    # 5.000 dead, +100 noticed, +11+7 written, +13 seen, +17 slice, +19 delivered, +23 synced: 5.190
    assert all(5 * SECOND_NS <= c.at_ns < 5190 * MS for c in gone)
    assert {c.endpoint_node for c in log.connections if c.at_ns > 8 * SECOND_NS} == {"node-1", "node-2"}


def test_force_deletion_ends_the_application_at_once() -> None:
    events = "events: [{at: 5s, deletePods: {workload: web, nodes: [node-2], force: true}}]\n"
    log = simulate(events + INSIDE, "duration=20s", "workloads[0].termination={preStop: 10s}")
    assert [h.at_ns // MS for h in log.happenings if h.kind == "pod gone"] == [5007]
    assert {c.cause for c in of(log, Disposition.FAILED)} == {Cause.ENDPOINT_GONE}


# ------------------------------------------------------------------------------------------------------------- packets


def test_a_packet_at_the_instant_of_new_rules_meets_them() -> None:
    events = """
events: [{at: 5s, patchService: {service: web, patch: {spec: {ports: [{port: 81, targetPort: 8080, nodePort: 30080}]}}}}]
traffic: [{name: t, from: nodes, nodes: [node-1], service: web, perSecond: 1}]
"""
    zero = "delays: {apiWrite: 0s, watchDelivery: 0s, sync: {base: 0s, perRule: 0s}}\n"
    log = simulate(events, "duration=7s", delays=zero)
    assert {c.disposition for c in log.connections} == {Disposition.DELIVERED}
    assert len(log.connections) == 7


def test_an_established_connection_outlives_its_endpoint_in_the_rules_and_ends_with_the_pod() -> None:
    events = """
events: [{at: 5s, scale: {workload: web, replicas: 1}}]
traffic:
  - {name: t, from: nodes, nodes: [node-1], service: web, perSecond: 10, stop: 2s, long: {lasts: 30s, packetEvery: 1s}}
"""
    log = simulate(events, "duration=40s", "workloads[0].termination={preStop: 10s}")
    opened = [c for c in log.connections if c.new_flow]
    broken = [c for c in log.connections if not c.new_flow]
    assert {c.disposition for c in opened} == {Disposition.DELIVERED}
    # web-2 leaves the rules at about 5.1 s and exits at 15.007 s: its connections break then and not before (CT-2.6)
    gone = [c for c in opened if c.endpoint_node == "node-2"]
    assert 0 < len(gone) < len(opened)
    assert sorted(c.source_port for c in broken) == sorted(c.source_port for c in gone)
    assert {(c.disposition, c.cause) for c in broken} == {(Disposition.FAILED, Cause.ENDPOINT_GONE)}
    assert all(15_007 * MS <= c.at_ns < 16_007 * MS for c in broken)


def test_an_open_connection_does_not_outlive_its_application_even_if_another_one_answers() -> None:
    """The new container's kernel knows no such socket and resets the connection (CT-2.6)."""
    text = """
events: [{at: 5s, crash: {workload: web, count: 2}}]
traffic:
  - {name: t, from: nodes, nodes: [node-1], service: web, perSecond: 10, stop: 1s, long: {lasts: 30s, packetEvery: 4s}}
"""
    log = simulate(text, "duration=20s")  # both answer again at 6 s, two seconds before the next packet of the first
    broken = [c for c in log.connections if not c.new_flow]
    assert {(c.disposition, c.cause) for c in broken} == {(Disposition.FAILED, Cause.ENDPOINT_GONE)}
    assert sorted(c.at_ns // MS for c in broken) == [8000 + 100 * number for number in range(10)]


@pytest.mark.parametrize(
    ("via", "patch", "expected"),
    [
        # an unlisted port of a cluster IP leaks (K-8.2); on the node's own address its kernel answers
        ("clusterIP", "{ports: [{name: alt, port: 81, targetPort: 8080}]}", (Disposition.DROPPED, Cause.NOT_CAPTURED)),
        (
            "nodePort",
            "{type: ClusterIP, ports: [{name: http, port: 80, targetPort: 8080}]}",
            (Disposition.REJECTED, Cause.NOT_CAPTURED),
        ),
        ("externalIP", "{externalIPs: null}", (Disposition.DROPPED, Cause.NOT_CAPTURED)),
    ],
)
def test_clients_go_on_dialling_what_a_service_has_lost(via: str, patch: str, expected: object) -> None:
    text = f"""
events: [{{at: 2s, patchService: {{service: web, patch: {{spec: {patch}}}}}}}]
traffic: [{{name: t, service: web, port: http, via: {via}, nodes: [node-1], perSecond: 10}}]
"""
    settings = ("objects[0].spec.ports[0].name=http", "objects[0].spec.externalIPs=[198.51.100.9]", "duration=4s")
    log = simulate(text, *settings)
    assert len(log.connections) == 40
    # 2.007 written, +19 delivered, +23 in force
    assert {c.disposition for c in log.connections if c.at_ns < 2049 * MS} == {Disposition.DELIVERED}
    late = [c for c in log.connections if c.at_ns >= 2049 * MS]
    assert {(c.disposition, c.cause) for c in late} == {expected} and {c.node for c in late} == {"node-1"}


def test_what_nobody_listens_on_is_refused_by_the_node_itself() -> None:
    # after the Service is deleted and its rules are gone, the node port is a closed port of the node (PP-7.2)
    events = "events: [{at: 2s, deleteService: {service: web}}]\n"
    traffic = "traffic: [{name: t, service: web, via: nodePort, nodes: [node-1], perSecond: 10}]\n"
    log = simulate(events + traffic, "duration=6s")
    late = [c for c in log.connections if c.at_ns > 3 * SECOND_NS]
    assert {(c.disposition, c.cause, c.endpoint) for c in late} == {(Disposition.REJECTED, Cause.NOT_CAPTURED, "")}


def test_no_endpoints_are_rejected_as_often_as_linux_answers() -> None:
    traffic = "traffic: [{name: t, service: web, via: nodePort, nodes: [node-1], perSecond: 10}]\n"
    log = simulate(traffic, "duration=10s", "workloads[0].replicas=0")
    assert {c.cause for c in log.connections} == {Cause.NO_ENDPOINTS}
    # 6 answers at once, then one a second (K-3.4); the rest is silence
    assert len(of(log, Disposition.REJECTED)) == 6 + 9
    assert len(of(log, Disposition.DROPPED)) == 100 - 15
    unlimited = simulate(traffic, "duration=10s", "workloads[0].replicas=0", "icmpRateLimit=false")
    assert len(of(unlimited, Disposition.REJECTED)) == 100


def test_source_addresses_as_the_endpoint_sees_them() -> None:
    traffic = """
traffic:
  - {name: outside, service: web, via: nodePort, nodes: [node-1], perSecond: 20}
  - {name: pods, from: pods, workload: web, service: web, perSecond: 20}
"""
    log = simulate(traffic, "duration=5s")
    seen = {(c.traffic, c.endpoint_node, c.seen_source_ip) for c in log.connections if c.client != "web-2"}
    assert seen == {
        ("outside", "node-1", "10.180.1.1"),  # masqueraded to the bridge toward a local pod (PP-11.4)
        ("outside", "node-2", "192.168.0.1"),  # and to the uplink toward a remote one (PP-11.5)
        ("pods", "node-1", "10.180.1.1"),  # hairpin: the pod reaches itself (PP-1.6)
        ("pods", "node-2", "10.180.1.2"),  # kept (PP-3.2)
    }


# --------------------------------------------------------------------------------------------------------- determinism

RANDOM = """
events:
  - {at: 3s, rollout: {workload: web}}
  - {at: 4s, failSyncs: {nodes: [node-2], count: 1}}
traffic:
  - {name: t, service: web, via: nodePort, perSecond: 40, arrivals: poisson, clients: 5}
  - {name: u, from: pods, workload: web, service: web, perSecond: 10}
"""


def digest(log: RunLog) -> str:
    return hashlib.sha256(repr(log).encode()).hexdigest()


def test_equal_seeds_give_equal_logs_and_others_do_not() -> None:
    settings = ("duration=8s", "delays.watchDelivery={uniform: {low: 1ms, high: 50ms}}")
    first, again, other = (simulate(RANDOM, *settings, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.connections != other.connections
    assert (other.seed, other.duration_ns, other.mode) == (2, 8 * SECOND_NS, "iptables")


def test_another_process_with_other_hash_seeds_gives_the_same_log() -> None:
    program = (
        "import hashlib, sys; from kpsim.scenario import load_scenario; from kpsim.simulation import run;"
        "print(hashlib.sha256(repr(run(load_scenario(sys.argv[1], settings=sys.argv[2:]))).encode()).hexdigest())"
    )
    arguments = ["local-rollout", "duration=16s", "traffic[0].perSecond=20", "traffic[0].arrivals=poisson"]
    digests = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", program, *arguments]
        digests.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(digests) == 1


def test_another_traffic_source_leaves_the_others_alone() -> None:
    extra = "  - {name: v, from: nodes, service: web, perSecond: 15}\n"
    alone, together = simulate(RANDOM, "duration=6s"), simulate(RANDOM + extra, "duration=6s")
    assert [c for c in together.connections if c.traffic != "v"] == alone.connections


@pytest.mark.parametrize("kind", ["", ", sourcePorts: 3", ", long: {lasts: 4s}"])
def test_two_sources_of_one_sender_use_different_ports(kind: str) -> None:
    """A kernel has no two sockets with the same tuple, and each flow is its own: nat is consulted for it (K-1.3)."""
    protocol = "TCP" if "long" in kind else "UDP"
    ports = (
        f"objects[0].spec.ports=[{{port: 80, targetPort: 8080, protocol: {protocol}}}]",
        f"workloads[0].ports=[{{containerPort: 8080, protocol: {protocol}}}]",
        "duration=6s",
    )
    one = f"  - {{name: one, from: nodes, service: web, perSecond: 20{kind}}}\n"
    two = f"  - {{name: two, from: nodes, service: web, port: 80, perSecond: 20, start: 1s{kind}}}\n"
    alone, together = simulate(f"traffic:\n{one}", *ports), simulate(f"traffic:\n{one}{two}", *ports)
    used = [{(c.client, c.source_port) for c in together.connections if c.traffic == name} for name in ("one", "two")]
    assert used[0].isdisjoint(used[1]) and all(used)
    assert {c.disposition for c in together.connections} == {Disposition.DELIVERED}
    flows = sum(c.new_flow for c in together.connections if c.traffic == "two")
    assert flows == (2 * 3 if "sourcePorts" in kind else 100)
    first = [replace(c, source_port=0) for c in together.connections if c.traffic == "one"]
    assert first == [replace(c, source_port=0) for c in alone.connections]


def test_ports_in_use_are_left_out() -> None:
    ports = SourcePorts()
    assert [ports.fresh("a", "x") for _ in range(2)] == [32768, 32769]
    assert ports.fresh("b", "x") == ports.fresh("a", "y") == 32768  # other senders and destinations do not matter
    assert [ports.socket("a", "x", "s", 0), ports.socket("a", "x", "s", 1), ports.socket("a", "x", "s", 0)] == [
        32770,
        32771,
        32770,
    ]
    ports.occupy("a", "x", 32768)
    for _ in range(28232 - 4):
        ports.fresh("a", "x")
    assert ports.fresh("a", "x") == 32769  # all round, but not the open one
    ports.release("a", "x", 32768)
    assert 32768 in [ports.fresh("a", "x") for _ in range(28232)]


def test_a_source_before_another_does_not_change_where_the_load_balancer_sends_it() -> None:
    before = "traffic: [{name: s, service: web, via: loadBalancer, perSecond: 10, clients: 7}, {name: t,"
    alone, together = (
        simulate(BALANCED, *WITH_VIP),
        simulate(BALANCED.replace("traffic: [{name: t,", before), *WITH_VIP),
    )
    told = [[(c.at_ns, c.node, c.endpoint) for c in log.connections if c.traffic == "t"] for log in (alone, together)]
    assert told[0] == told[1] and len({node for _, node, _ in told[0]}) == 2


# ------------------------------------------------------------------------------------------------- endings and Services


def test_readiness_that_fails_on_sigterm_takes_the_endpoint_out_of_service() -> None:
    # preStop 2 s, then 5 s more of service, but not ready 1 s after SIGTERM: the endpoint is terminating and not serving (CP-2.8)
    events = "events: [{at: 5s, scale: {workload: web, replicas: 0}}]\n"
    ending = "workloads[0].termination={preStop: 2s, afterSigterm: 5s, unreadyAfterSigterm: 1s}"
    log = simulate(events + INSIDE, "duration=20s", ending)
    assert [h.at_ns // MS for h in log.happenings if h.kind == "pod not ready"] == [8007, 8007]
    assert [h.at_ns // MS for h in log.happenings if h.kind == "pod gone"] == [12_007, 12_007]
    # 8.007 +11+7 written, +13 seen, +17 slice, +19 delivered, +23 synced: all endpoints are out of the rules (T-4 row 11)
    # although the applications answer; before that the terminating ones are all there is (T-2)
    assert {c.disposition for c in log.connections if c.at_ns < 8097 * MS} == {Disposition.DELIVERED}
    assert {c.cause for c in log.connections if c.at_ns >= 8097 * MS} == {Cause.NO_ENDPOINTS}


def test_an_application_that_stops_with_the_hook_is_missed_at_once() -> None:
    events = "events: [{at: 5s, scale: {workload: web, replicas: 1}}]\n"
    ending = "workloads[0].termination={preStop: 5s, servesDuringPreStop: false}"
    log = simulate(events + INSIDE, "duration=20s", ending)
    gone = of(log, Disposition.FAILED)
    # from the deletion in the API, 5.007, to the rules of 5.079
    assert {c.cause for c in gone} == {Cause.ENDPOINT_GONE}
    assert all(5007 * MS <= c.at_ns < 5079 * MS for c in gone)


def test_the_grace_period_ends_a_hook_that_is_too_long() -> None:
    events = "events: [{at: 5s, scale: {workload: web, replicas: 1}}]\n"
    log = simulate(events, "duration=20s", "workloads[0].termination={preStop: 1m, grace: 3s}")
    assert [h.at_ns // MS for h in log.happenings if h.kind == "pod gone"] == [8007]


def test_a_service_that_is_deleted_and_made_anew() -> None:
    events = """
events:
  - {at: 3s, deleteService: {service: web}}
  - at: 6s
    createService:
      apiVersion: v1
      kind: Service
      metadata: {name: web}
      spec: {clusterIP: 172.30.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"""
    log = simulate(events + INSIDE, "duration=12s")
    # 3.007 gone, +19 delivered, +23 synced: then nothing captures the cluster IP (PP-2)
    without = [c for c in log.connections if 3049 * MS <= c.at_ns < 6 * SECOND_NS]
    assert {(c.disposition, c.cause) for c in without} == {(Disposition.DROPPED, Cause.NOT_CAPTURED)}
    # the new one has no slices at first, and is rejected; its slices follow: 6.007, +13 seen, +17, +19; the next sync may only
    # start a second after the one for the Service has ended, 6.026 + 23
    by_ms = [(c.at_ns // MS, c.cause) for c in log.connections if c.at_ns >= 6 * SECOND_NS]
    assert {cause for at, cause in by_ms if at < 6049} == {Cause.NOT_CAPTURED}
    assert {cause for at, cause in by_ms if 6049 <= at < 7072} == {Cause.NO_ENDPOINTS}
    assert {cause for at, cause in by_ms if at >= 7072} == {Cause.NONE}
    # its first slices carry the time of its creation (CP-3.7.1)
    samples = [row.reported_ns for row in log.programming if row.node == "node-1" and row.reported_ns is not None]
    assert samples == [1072 * MS]


def test_host_network_pods_share_their_nodes_address() -> None:
    log = simulate(INSIDE, "duration=3s", "workloads[0].hostNetwork=true")
    assert {c.endpoint for c in log.connections} == {"192.168.0.1:8080", "192.168.0.2:8080"}
    assert {c.disposition for c in log.connections} == {Disposition.DELIVERED}


def test_what_a_pod_does_not_listen_on_is_refused_by_it() -> None:
    log = simulate(INSIDE, "duration=3s", "workloads[0].ports=[{containerPort: 9090}]")
    assert {(c.disposition, c.cause) for c in log.connections} == {(Disposition.FAILED, Cause.ENDPOINT_GONE)}


BALANCED = """
loadBalancer: {interval: 1s, unhealthyThreshold: 2, healthyThreshold: 3}
traffic: [{name: t, service: web, via: loadBalancer, perSecond: 50, clients: 20}]
"""
WITH_VIP = (
    "objects[0].spec.type=LoadBalancer",
    "objects[0].status={loadBalancer: {ingress: [{ip: 198.51.100.10}]}}",
    "duration=20s",
)


def test_a_load_balancer_leaves_a_node_whose_kube_proxy_is_down() -> None:
    events = "events: [{at: 5s, restartProxy: {nodes: [node-2], down: 6s}}]\n"
    log = simulate(events + BALANCED, *WITH_VIP)
    assert of(log, Disposition.DELIVERED) == log.connections  # the rules outlive the process
    rotation = [(r.at_ns, r.in_rotation) for r in log.node_health if r.node == "node-2"]
    left_ns = next(at for at, believed in rotation if not believed)
    back_ns = next(at for at, believed in rotation if believed and at > left_ns)
    # /healthz is silent from 5 s and answers again at 11 s (CP-14): the 2nd bad probe, the 3rd good one
    assert 6 * SECOND_NS < left_ns <= 7 * SECOND_NS and 13 * SECOND_NS < back_ns <= 14 * SECOND_NS
    assert not [c for c in log.connections if c.node == "node-2" and left_ns <= c.at_ns < back_ns]


def test_without_a_node_in_rotation_nothing_gets_in() -> None:
    events = "events: [{at: 5s, restartProxy: {down: 10s}}]\n"
    log = simulate(events + BALANCED, *WITH_VIP)
    late = [c for c in log.connections if 7 * SECOND_NS < c.at_ns < 15 * SECOND_NS]
    assert {(c.disposition, c.cause, c.node) for c in late} == {(Disposition.DROPPED, Cause.NO_HEALTHY_NODE, "")}


def test_a_load_balancer_of_a_service_that_is_not_there_probes_a_port_that_nobody_opens() -> None:
    """It goes by the Service as it was, or will be: the health check node port is closed with the sync (CP-15.3)."""
    local = ("objects[0].spec.externalTrafficPolicy=Local",)
    deleted = simulate("events: [{at: 5s, deleteService: {service: web}}]\n" + BALANCED, *WITH_VIP, *local)
    late = [c for c in deleted.connections if c.at_ns > 8 * SECOND_NS]
    assert {(c.disposition, c.cause, c.node) for c in late} == {(Disposition.DROPPED, Cause.NO_HEALTHY_NODE, "")}
    made = (
        "events=[{at: 0s, deleteService: {service: web}}, {at: 5s, createService: {apiVersion: v1, kind: Service, metadata: "
        "{name: web}, spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80, "
        "targetPort: 8080}]}}}]",
    )
    log = simulate(BALANCED, *WITH_VIP, *local, *made)
    # programmed a little after 5 s, and in rotation with the third good probe
    assert {c.cause for c in log.connections if 3 * SECOND_NS < c.at_ns < 7 * SECOND_NS} == {Cause.NO_HEALTHY_NODE}
    assert {c.disposition for c in log.connections if c.at_ns > 10 * SECOND_NS} == {Disposition.DELIVERED}


def test_clients_outside_keep_their_address_under_the_local_policy_only() -> None:
    cluster = simulate(BALANCED, *WITH_VIP)
    assert not any(
        c.seen_source_ip.startswith("203.0.113.") for c in cluster.connections
    )  # PP-4: masqueraded for everybody
    local = simulate(BALANCED, *WITH_VIP, "objects[0].spec.externalTrafficPolicy=Local")
    assert all(c.seen_source_ip == c.source_ip == c.client for c in local.connections)  # PP-5
    assert {c.traffic_policy for c in local.connections} == {"Local"}
    assert all(c.node == c.endpoint_node for c in local.connections)


def test_session_affinity_times_out() -> None:
    affinity = "objects[0].spec={type: NodePort, clusterIP: 172.30.0.10, selector: {app: web}, sessionAffinity: ClientIP, " \
        "sessionAffinityConfig: {clientIP: {timeoutSeconds: 4}}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}"  # fmt: skip
    traffic = "traffic: [{name: t, service: web, via: nodePort, nodes: [node-1], perSecond: %s, clients: 20}]\n"
    # every client comes back after 2 s: within the timeout, refreshed each time (CT-8)
    stays = simulate(traffic % 10, affinity, "duration=20s")
    assert {c.affinity_break for c in stays.connections} == {""}
    # every client comes back after 5 s: forgotten each time; half of them by chance get the other endpoint
    breaks = simulate(traffic % 4, affinity, "duration=60s")
    causes = {c.affinity_break for c in breaks.connections}
    assert causes == {"", "timeout"}
    broken = sum(c.affinity_break != "" for c in breaks.connections)
    assert 80 <= broken <= 140  # of 220 returns; standard deviation 7.4


# ---------------------------------------------------------------------------------------------------------- dual stack

DUAL = (
    "nodes={count: 2, ipFamilies: [IPv4, IPv6]}",
    "objects[0].spec={type: NodePort, clusterIP: 172.30.0.10, ipFamilyPolicy: RequireDualStack, selector: {app: web}, "
    "ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}",
    "duration=15s",
)


def test_a_dual_stack_node_runs_two_kube_proxies() -> None:
    events = "events: [{at: 5s, scale: {workload: web, replicas: 3}}]\n"
    traffic = """
traffic:
  - {name: four, from: pods, workload: web, service: web, perSecond: 20}
  - {name: six, from: pods, workload: web, service: web, ipFamily: IPv6, perSecond: 20}
  - {name: outside6, service: web, via: nodePort, nodes: [node-1], ipFamily: IPv6, perSecond: 20}
"""
    log = simulate(events + traffic, *DUAL)
    assert of(log, Disposition.DELIVERED) == log.connections
    endpoints = {
        name: {c.endpoint for c in log.connections if c.traffic == name and c.at_ns > 8 * SECOND_NS}
        for name in ("four", "six", "outside6")
    }
    assert endpoints["four"] == {"10.180.1.2:8080", "10.180.2.2:8080", "10.180.1.3:8080"}
    assert endpoints["six"] == {"[fd00:10:180:1::2]:8080", "[fd00:10:180:2::2]:8080", "[fd00:10:180:1::3]:8080"}
    assert endpoints["outside6"] == endpoints["six"]
    # each family has its own slices (CP-3.4.5), proxier and runner: the change is programmed once in each
    rows = [(row.family, row.node) for row in log.programming]
    assert rows.count(("IPv4", "node-1")) == rows.count(("IPv6", "node-1")) == 2
    assert {(sync.node, sync.family) for sync in log.syncs if sync.start_ns == 0} == {
        (node, family) for node in ("node-1", "node-2") for family in ("IPv4", "IPv6")
    }


def test_a_failed_sync_of_one_family_does_not_hold_up_the_other() -> None:
    events = """
events:
  - {at: 4s, failSyncs: {nodes: [node-1], count: 1}}
  - {at: 5s, scale: {workload: web, replicas: 3}}
"""
    log = simulate(events, *DUAL)
    failed = [sync.family for sync in log.syncs if not sync.success]
    assert failed == ["IPv4"]  # the IPv4 slice is written first (CP-3.6.2)


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_is_left_as_it_was(on: bool) -> None:
    seen: list[bool] = []
    scenario = parse_scenario(HEAD, "test.yaml")
    try:
        gc.enable() if on else gc.disable()
        run(scenario, progress=lambda _now_ns, _end_ns: seen.append(gc.isenabled()))
        assert (gc.isenabled(), set(seen)) == (on, {False})
    finally:
        gc.enable()


def test_run_stays_a_function_and_the_log_is_light() -> None:
    program = """
import sys
import kpsim.simulation.runlog
assert not {"simpy", "pydantic"} & set(sys.modules)
from kpsim.scenario import load_scenario
import kpsim.simulation
log = kpsim.simulation.run(load_scenario("sync-lag-burst"))
assert kpsim.simulation.run(load_scenario("sync-lag-burst")) == log
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_another_service_leaves_the_draws_of_the_others_alone() -> None:
    other = "  - {apiVersion: v1, kind: Service, metadata: {name: api}, spec: {clusterIP: 172.30.0.11, selector: {app: web}, " \
        "ports: [{port: 80, targetPort: 8080}]}}\n"  # fmt: skip
    traffic = "traffic: [{name: t, from: nodes, service: web, perSecond: 40}]\n"
    alone, together = (simulate(traffic, "duration=5s", head=head) for head in (HEAD, HEAD + other))
    assert [c.endpoint for c in together.connections] == [c.endpoint for c in alone.connections]
    assert len({c.endpoint for c in alone.connections}) == 2


def test_a_node_that_leaves_the_rotation_moves_only_its_own_flows() -> None:
    events = "events: [{at: 5s, restartProxy: {nodes: [node-2], down: 15s}}]\n"
    balanced = BALANCED.replace("clients: 20", "clients: 20, sourcePorts: 1")
    log = simulate(events + balanced, *WITH_VIP, "nodes.count=4", "workloads[0].replicas=4")
    before = {c.client: c.node for c in log.connections if c.at_ns < 5 * SECOND_NS}
    after = {c.client: c.node for c in log.connections if c.at_ns > 8 * SECOND_NS}
    moved = {client for client in before if before[client] != after[client]}
    assert moved == {client for client in before if before[client] == "node-2"} != set()


def test_the_first_syncs_after_a_start_go_family_by_family() -> None:
    events = """
events:
  - {at: 5s, restartProxy: {nodes: [node-1], down: 1s}}
  - {at: 5.5s, scale: {workload: web, replicas: 1}}
"""
    log = simulate(events, *DUAL)
    mine = [
        (sync.family, sync.start_ns // MS)
        for sync in log.syncs
        if sync.node == "node-1" and 0 < sync.start_ns < 6200 * MS
    ]
    assert mine == [("IPv4", 6100), ("IPv6", 6123)]  # lists after 100 ms; a sync takes 23 ms (CP-12)
    # each family programs what it missed of its own slices
    rows = [
        (row.family, ms(row)[3]) for row in log.programming if row.node == "node-1" and row.programmed_ns < 6200 * MS
    ]
    assert set(rows) == {("IPv4", 6100), ("IPv6", 6123)}


def test_a_change_whose_sync_dies_with_its_process_is_programmed_by_the_next_one() -> None:
    events = """
events:
  - {at: 5s, patchService: {service: web, patch: {spec: {externalIPs: [198.51.100.1]}}}}
  - {at: 5.030s, restartProxy: {nodes: [node-1]}}
"""
    log = simulate(events, "duration=10s")  # delivered 5.026, synced until 5.049, but killed at 5.030
    (row,) = [row for row in log.programming if row.node == "node-1"]
    assert ms(row) == (5000, 5007, 5130, 5130, 5153)
