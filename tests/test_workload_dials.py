"""Workloads on the clock: probes, gates, minReadySeconds, StatefulSets, topology spread, and controllers that take time.

In these scenarios a write takes 7 ms, and a status 11 ms more before it is sent; pods answer a second after their start.
"""

from collections import Counter

import pytest
from simulations import HEAD, MS, simulate

from kpsim.errors import InputError
from kpsim.scenario import parse_scenario
from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.workload_schema import Placement, PlacementPolicy, TopologySpread
from kpsim.simulation.placement import Placer
from kpsim.simulation.runlog import RunLog
from kpsim.simulation.statefulset import Replica, next_set_step

SCALE = "events: [{at: 5s, scale: {workload: web, replicas: 3}}]\n"
SICK = "events: [{at: 5s, readiness: {workload: web, nodes: [node-2]}}]\n"
NO_DELAY = "workloads[0].readiness={}"


def told(log: RunLog, kind: str) -> list[tuple[int, str]]:
    return [(h.at_ns // MS, h.subject.removeprefix("default/")) for h in log.happenings if h.kind == kind]


def times(log: RunLog, kind: str) -> list[int]:
    return [at for at, _ in told(log, kind)]


# ---------------------------------------------------------------------------------------------------------------- probes


@pytest.mark.parametrize(
    ("probes", "ready_ms"),
    [
        # the container runs from 5.000 on, and answers at 6.000
        ("{readiness: {period: 2s}}", 7000),
        ("{readiness: {period: 2s, successThreshold: 2}}", 9000),
        ("{readiness: {period: 2s, initialDelay: 3s}}", 9000),  # those at 5 and 7 s are skipped (CP-2.2)
        ("{readiness: {}}", 15_000),
        # a startup probe that passes makes the kubelet send the other at once (CP-2.5)
        ("{startup: {period: 1s}, readiness: {}}", 6000),
        ("{startup: {period: 3s}, readiness: {}}", 8000),
        ("{startup: {period: 3s}}", 8000),
        ("{liveness: {}}", 6000),  # without the others a pod is ready as it answers
    ],
)
def test_a_new_pod_is_ready_when_its_probes_have_passed(probes: str, ready_ms: int) -> None:
    log = simulate(SCALE, NO_DELAY, f"workloads[0].probes={probes}", "duration=20s")
    assert told(log, "pod ready") == [(ready_ms, "web-3")]


def test_the_first_probe_waits_for_the_kubelet_to_see_the_container() -> None:
    probes = "workloads[0].probes={readiness: {period: 2s}}"
    assert times(simulate(SCALE, NO_DELAY, probes, "delays.pleg=300ms", "duration=20s"), "pod ready") == [7300]
    address = "workloads[0].startup={delay: 2500ms, address: 700ms}"
    assert times(simulate(SCALE, NO_DELAY, probes, address, "duration=20s"), "pod ready") == [7700]


def noticed(seed: int, probe: str, *, late: bool = False) -> int:
    """How long it takes until a pod is not ready whose probe fails from 5 s on, in ms."""
    events = SICK.replace("}}]", ", late: true}}]") if late else SICK
    log = simulate(events, NO_DELAY, f"workloads[0].probes={{readiness: {probe}}}", "duration=60s", seed=seed)
    return times(log, "pod not ready")[0] - 5000


def test_a_failing_pod_is_noticed_after_the_threshold() -> None:  # FIG-1
    found = [noticed(seed, "{}") for seed in range(4)]
    assert all(20_000 <= time <= 30_000 for time in found) and len(set(found)) > 1  # ticks fall anywhere
    assert noticed(1, "{failureThreshold: 1}") == found[1] - 20_000
    assert noticed(1, "{timeout: 2s}", late=True) == found[1] + 2000  # unanswered: known when the time-out is over


def test_a_probe_that_fails_now_and_then_changes_nothing() -> None:  # CP-2.4
    events = "events: [{at: 5s, readiness: {workload: web, nodes: [node-2], for: 15s}}]\n"
    log = simulate(events, NO_DELAY, "workloads[0].probes={readiness: {}}")
    assert not told(log, "pod not ready")  # two ticks at most


@pytest.mark.parametrize(("late", "more"), [(False, 0), (True, 1000)])
def test_a_container_whose_liveness_probe_fails_starts_again(late: bool, more: int) -> None:
    events = f"events: [{{at: 5s, liveness: {{workload: web, nodes: [node-2], late: {str(late).lower()}}}}}]\n"
    probes = "workloads[0].probes={liveness: {period: 2s, failureThreshold: 2}, readiness: {period: 1s}}"
    log = simulate(events, NO_DELAY, probes, "workloads[0].termination.preStop=500ms", "duration=30s")
    (killed,) = times(log, "container killed")
    assert 7000 + more <= killed <= 9000 + more
    assert times(log, "pod not ready") == [killed + 500]  # until the hook is over it answers
    assert times(log, "pod ready") == [killed + 500 + 1000]  # started at once, and a tick later it answers
    assert not told(log, "pod created")


def test_a_container_that_starts_too_slowly_is_started_again_ever_later() -> None:
    probes = "workloads[0].probes={startup: {period: 1s, failureThreshold: 2}}"
    log = simulate(SCALE, NO_DELAY, probes, "workloads[0].startup.delay=50s", "duration=60s")
    # runs 5 and 6 s, again from 6 s, then from 17 s, and from 38 s
    assert told(log, "container killed") == [(at, "web-3") for at in (6000, 7000, 18_000, 39_000)]


def test_after_a_boot_probes_begin_at_any_time() -> None:  # CP-2.1
    events = "events: [{at: 5s, reboot: {node: node-2, takes: 1s}}]\n"
    probes = "workloads[0].probes={readiness: {}}"
    found = [times(simulate(events, NO_DELAY, probes, "duration=30s", seed=n), "pod ready")[0] for n in range(4)]
    assert all(7000 <= time <= 17_000 for time in found) and len(set(found)) == 4


def test_readiness_gates_hold_a_new_pod_back_once() -> None:  # CP-2.6
    events = """
events:
  - {at: 5s, scale: {workload: web, replicas: 3}}
  - {at: 20s, crash: {workload: web, count: 3}}
"""
    log = simulate(events, "workloads[0].readiness={probeDelay: 100ms, gates: [2s, 4s]}", "duration=30s")
    # containers ready at 6.100; after the crash at 21.100, and the conditions are still there
    assert told(log, "pod ready") == [(10_100, "web-3"), *((21_100, f"web-{n}") for n in (1, 2, 3))]


def test_a_pod_that_is_not_ready_is_published_if_its_service_says_so() -> None:  # CP-3.4.2
    traffic = "traffic: [{name: t, from: nodes, service: web, perSecond: 10, start: 6s}]\n"
    for published in (False, True):
        spec = f"objects[0].spec.publishNotReadyAddresses={str(published).lower()}"
        log = simulate(SICK + traffic, spec, "duration=12s")
        assert len({c.endpoint for c in log.connections}) == 1 + published


# ----------------------------------------------------------------------------------------------------------- Deployments


def test_a_rollout_waits_until_pods_have_been_ready_for_long_enough() -> None:
    events = "events: [{at: 5s, rollout: {workload: web, maxSurge: 1, maxUnavailable: 0}}]\n"
    log = simulate(events, "workloads[0].minReady=5s", "duration=30s")
    # ready at 6.100, told at 6.118, available at 11.118
    assert times(log, "pod created")[:2] == [5000, 11_125] and times(log, "pod terminating")[0] == 11_125


def test_with_recreate_new_pods_wait_until_all_old_ones_are_gone() -> None:
    events = "events: [{at: 5s, rollout: {workload: web, recreate: true}}, {at: 20s, drain: {node: node-1}}]\n"
    log = simulate(events, "workloads[0].termination={preStop: 2s}", "nodes={count: 3}", "duration=25s")
    # both are deleted at 5.007, over after their hooks, and their objects are gone 18 ms after that
    assert times(log, "pod terminating") == [5007, 5007, 20_014]
    assert times(log, "pod created") == [7025, 7025, 20_014]  # after a drain a new pod comes at once, as ever


def test_a_budget_counts_ready_pods_not_available_ones() -> None:
    events = "events: [{at: 5s, drain: {node: node-1}}, {at: 20s, drain: {node: node-2}}]\n"
    budget = ("workloads[0].minReady=60s", "workloads[0].disruptionBudget={minAvailable: 1}", "nodes={count: 3}")
    log = simulate(events, *budget, "duration=25s")
    assert not told(log, "eviction refused") and len(told(log, "pod terminating")) == 2


# ---------------------------------------------------------------------------------------------------------- StatefulSets


def pods(described: str) -> dict[int, Replica]:
    """``1r 2- 1x``: by ordinal the revision, and whether the pod is available (r), not available (-) or going (x)."""
    found = {}
    for ordinal, text in enumerate(described.split()):
        if text != ".":
            found[ordinal] = Replica(f"p{ordinal}", int(text[0]), text[1] == "r", text[1] == "x")
    return found


@pytest.mark.parametrize(
    ("described", "replicas", "how", "create", "delete"),
    [
        ("", 3, {}, (0,), ()),
        ("1r", 3, {}, (1,), ()),
        ("1r 1-", 3, {}, (), ()),  # the next one waits
        ("1r . 1r", 3, {}, (1,), ()),
        ("1r 1x 1r", 3, {}, (), ()),  # its name is still taken
        ("1r 1r 1r", 1, {}, (), ("p2",)),
        ("1r 1r 1x", 1, {}, (), ()),
        ("1- 1r 1r", 1, {}, (), ()),  # nor does it shrink while a pod that stays is not ready
        ("1r 1r 1-", 1, {}, (), ("p2",)),
        ("", 3, {"ordered": False}, (0, 1, 2), ()),
        ("1- 1r 1r 1x", 1, {"ordered": False}, (), ("p2", "p1")),
        # updates
        ("1r 1r 1r", 3, {"revision": 2}, (), ("p2",)),
        ("1r 1r 2r", 3, {"revision": 2}, (), ("p1",)),
        ("1r 1r 2-", 3, {"revision": 2}, (), ()),
        ("1r 1- 1r", 3, {"revision": 2}, (), ()),  # what is broken is not updated: the known trap
        ("1r 1- 1r", 3, {"revision": 2, "ordered": False}, (), ("p2",)),
        ("1r 1r 1-", 3, {"revision": 2, "ordered": False}, (), ("p2",)),
        ("1r 1r 2-", 3, {"revision": 2, "ordered": False}, (), ()),
        ("1r 1r 1x", 3, {"revision": 2, "ordered": False}, (), ()),
        ("1r 1r", 3, {"revision": 2, "ordered": False}, (2,), ()),
        ("1r 1r 1r", 3, {"revision": 2, "unavailable": 2}, (), ("p2", "p1")),
        ("1r 1r 2- 2r", 4, {"revision": 2, "unavailable": 2, "ordered": False}, (), ("p1",)),
        ("1r 1r 1r", 3, {"revision": 2, "partition": 2}, (), ("p2",)),
        ("1r 1r 2r", 3, {"revision": 2, "partition": 2}, (), ()),
    ],
)  # fmt: skip
def test_the_next_step_of_a_stateful_set(
    described: str, replicas: int, how: dict[str, int], create: tuple[int, ...], delete: tuple[str, ...]
) -> None:
    given: dict[str, int] = {"revision": 1, "ordered": True, **how}
    revision, ordered = given.pop("revision"), bool(given.pop("ordered"))
    step = next_set_step(pods(described), replicas, revision, ordered=ordered, **given)
    assert (step.create, step.delete) == (create, delete)


SET = "workloads[0].kind=StatefulSet"


def test_pods_of_a_stateful_set_come_one_by_one() -> None:
    events = SCALE.replace("replicas: 3", "replicas: 4")
    log = simulate(events, SET, "duration=20s")
    assert told(log, "pod created") == [(5000, "web-2"), (6118, "web-3")]  # once the one before is known to be ready
    log = simulate(events, SET, "workloads[0].podManagementPolicy=Parallel", "duration=20s")
    assert told(log, "pod created") == [(5000, "web-2"), (5000, "web-3")]


def test_a_stateful_set_is_updated_from_the_highest_ordinal_on() -> None:
    events = "events: [{at: 5s, rollout: {workload: web}}]\n"
    log = simulate(events, SET, "workloads[0].replicas=3", "workloads[0].termination.preStop=2s", "duration=40s")
    # the deletion is written at 5.007; gone 2 s later, and told 18 ms after that
    assert told(log, "pod created")[0] == (7025, "web-2")
    assert [name for _, name in told(log, "pod created")] == ["web-2", "web-1", "web-0"]
    ready, terminating = times(log, "pod ready"), times(log, "pod terminating")
    assert terminating[1:] == [ready[0] + 25, ready[1] + 25]  # told after 18 ms, deleted 7 ms later


def test_an_update_keeps_what_lies_below_its_partition() -> None:
    events = """
events:
  - {at: 5s, rollout: {workload: web, partition: 1}}
  - {at: 15s, deletePods: {workload: web, count: 2}}
  - {at: 25s, rollout: {workload: web, maxUnavailable: 2}}
"""
    log = simulate(events, SET, "duration=40s")
    first = [name for at, name in told(log, "pod created") if at < 15_000]
    assert first == ["web-1"]
    assert [name for at, name in told(log, "pod created") if 15_000 < at < 25_000] == ["web-0", "web-1"]
    assert len([at for at, _ in told(log, "pod terminating") if at == 25_007]) == 2


def test_a_pod_of_a_lost_node_is_not_replaced_before_it_is_gone() -> None:
    events = "events: [{at: 5s, nodeDown: {nodes: [node-2]}}, {at: 100s, nodeUp: {nodes: [node-2]}}]\n"
    delays = ("delays.nodeMonitorGrace=10s", "delays.unreachableToleration=10s")
    log = simulate(events, SET, *delays, "duration=120s")
    assert times(log, "pods evicted") == [25_000]
    assert told(log, "pod created") == [(100_018, "web-1")]  # its kubelet confirms the end
    assert times(simulate(events, *delays, "duration=120s"), "pod created") == [25_007]  # a Deployment does not wait


# ------------------------------------------------------------------------------------------------------- topology spread


def placed(pods: int, *constraints: dict[str, object], policy: str = "packed", unfit: str = "") -> dict[str, int]:
    """Return how many pods get to each of a1, a2 and b1."""
    zones = {"a1": "a", "a2": "a", "b1": "b", "x": None}
    nodes = [ClusterNode(name, zone, 4, (), ()) for name, zone in zones.items()]
    spread = [TopologySpread.model_validate(each) for each in constraints]
    placement = Placement.model_construct(
        policy=PlacementPolicy(policy), zones=(), nodes=("a1", "a2", "b1"), topology_spread=spread
    )
    placer, taken = Placer(placement, nodes), Counter[str]()
    for _ in range(pods):
        node = placer.place(taken, unfit.split(), zones)
        if node is not None:
            taken[node] += 1
    return dict(taken)


ZONE, HOST = {"topology_key": "topology.kubernetes.io/zone"}, {"topology_key": "kubernetes.io/hostname"}
WISH = {"when_unsatisfiable": "ScheduleAnyway"}


@pytest.mark.parametrize(
    ("constraints", "unfit", "expected"),
    [
        ([], "", {"a1": 6}),
        ([ZONE], "", {"a1": 3, "b1": 3}),
        ([{**ZONE, "max_skew": 3}], "", {"a1": 4, "b1": 2}),  # 3, then one each time the other has one more
        ([HOST], "", {"a1": 2, "a2": 2, "b1": 2}),
        ([ZONE, HOST], "", {"a1": 2, "b1": 2, "a2": 1}),  # a third of b would be ahead of a2, a third of a of b
        ([ZONE], "b1", {"a1": 1}),  # b counts as a domain, though nothing can be placed there
        ([{**ZONE, **WISH}], "", {"a1": 3, "b1": 3}),
        ([{**ZONE, **WISH}], "b1", {"a1": 6}),
        ([{**HOST, **WISH}], "", {"a1": 2, "a2": 2, "b1": 2}),
    ],
)
def test_topology_spread(constraints: list[dict[str, object]], unfit: str, expected: dict[str, int]) -> None:
    assert placed(6, *constraints, unfit=unfit) == expected


def test_a_zone_label_makes_another_domain() -> None:
    events = """
events:
  - {at: 5s, labelNode: {node: node-2, labels: {topology.kubernetes.io/zone: b}}}
  - {at: 6s, scale: {workload: web, replicas: 6}}
"""
    spread = "workloads[0].placement={policy: packed, topologySpread: [{topologyKey: topology.kubernetes.io/zone}]}"
    log = simulate(events, spread, "duration=10s")
    nodes = [h.detail for h in log.happenings if h.kind == "pod created"]
    assert nodes == ["node-2", "node-2", "node-1", "node-2"]  # both of the first two are on node-1, in zone a


@pytest.mark.parametrize("scheduler", ["0s", "1s"])
def test_anti_affinity_keeps_a_workload_s_pods_apart(scheduler: str) -> None:
    """Also from one that terminates, until its object is gone."""
    how = "events: [{at: 5s, rollout: {workload: web, maxSurge: 1, maxUnavailable: 1}}]\n"
    apart = "workloads[0].placement.antiAffinity=[kubernetes.io/hostname]"
    ending = "workloads[0].termination={preStop: 2s}"
    log = simulate(how, apart, ending, f"delays.scheduler={scheduler}", "duration=30s")
    # asked at 5.000, written at 5.007, over at 7.007, and gone 18 ms after that
    assert times(log, "pod terminating")[0] == 5007
    kind, at = ("pod created", [7025]) if scheduler == "0s" else ("pod scheduled", [8025])
    assert times(log, kind)[:1] == at
    assert (
        next(h.detail for h in log.happenings if h.kind == "pod unschedulable")
        == "podAntiAffinity keeps it from node-1, node-2"
    )


def test_anti_affinity_over_zones() -> None:
    events = "events: [{at: 5s, scale: {workload: web, replicas: 3}}]\n"
    apart = "workloads[0].placement.antiAffinity=[topology.kubernetes.io/zone]"
    log = simulate(events, apart, "nodes={count: 4, zones: [a, b]}", "duration=10s")
    assert not times(log, "pod created") and times(log, "pod unschedulable") == [5000]
    log = simulate(events, apart, "nodes={count: 4, zones: [a, b, c]}", "duration=10s")
    assert [h.detail for h in log.happenings if h.kind == "pod created"] == ["node-3"]


# --------------------------------------------------------------------------------------------- controllers that take time


def test_a_workload_s_controller_takes_its_time() -> None:
    log = simulate(SCALE, "delays.workloadController=400ms", "duration=20s")
    assert times(log, "pod created") == [5400]
    log = simulate(
        "events: [{at: 5s, deletePods: {workload: web}}]\n", "delays.workloadController=400ms", "duration=20s"
    )
    assert times(log, "pod created") == [5407]


def test_a_pod_has_its_node_and_starts_after_the_scheduler() -> None:
    log = simulate(SCALE, "delays.scheduler=2s", "duration=20s")
    assert told(log, "pod created") == [(5000, "web-3")] and told(log, "pod scheduled") == [(7007, "web-3")]
    assert times(log, "pod ready") == [8107]


def test_the_scheduler_knows_what_has_become_of_the_nodes_meanwhile() -> None:
    events = "events: [{at: 5s, scale: {workload: web, replicas: 3}}, {at: 6s, cordon: {node: node-1}}]\n"
    log = simulate(events, "delays.scheduler=2s", "duration=20s")
    assert [h.detail for h in log.happenings if h.kind == "pod scheduled"] == ["node-2"]


def test_a_pod_that_finds_no_node_is_pending() -> None:
    events = """
events:
  - {at: 4s, cordon: {node: node-1}}
  - {at: 4s, cordon: {node: node-2}}
  - {at: 5s, scale: {workload: web, replicas: 4}}
  - {at: 10s, scale: {workload: web, replicas: 3}}
  - {at: 15s, uncordon: {node: node-1}}
"""
    log = simulate(events, "delays.scheduler=1s", "duration=20s")
    assert len(told(log, "pod unschedulable")) == 2
    # the pod that is not scheduled yet goes first, and at once; the other finds a node a second after the cordon is over
    assert told(log, "pod scheduled") == [(16_007, "web-3")] and not told(log, "pod terminating")


def test_a_kubelet_hears_of_a_deletion_later() -> None:
    events = "events: [{at: 5s, deletePods: {workload: web, nodes: [node-2]}}]\n"
    log = simulate(events, "delays.deletionToKubelet=600ms", "workloads[0].termination.preStop=1s", "duration=20s")
    assert times(log, "pod terminating") == [5007] and times(log, "pod gone") == [6607]


def test_the_end_of_a_container_is_noticed_later() -> None:
    events = "events: [{at: 5s, deletePods: {workload: web, nodes: [node-2]}}]\n"
    log = simulate(events, SET, "delays.pleg=500ms", "duration=20s")
    assert times(log, "pod gone") == [5007]
    assert told(log, "pod created") == [(5525, "web-1")]  # +500 noticed, +11+7 told: only then is the name free


def test_typical_delays_and_fields_beside_them() -> None:
    """The kubelet relists each second (CP-1.2 D2); kubernetes#56053 has 10, 13 and 27 ms of the scheduler as p50, p90, p99."""
    settings = ["delays.preset=typical", "delays.scheduler=2s", "delays.onNodes=[{nodes: [node-1], watchDelivery: 1s}]"]
    found = parse_scenario(HEAD, "test.yaml", settings=settings).spec.delays
    assert found.pleg.uniform is not None and found.pleg.uniform.high_ns == 1000 * MS
    assert (found.scheduler.constant_ns, found.deletion_to_kubelet.constant_ns) == (2000 * MS, 10 * MS)
    assert found.watch_delivery_to("node-1").constant_ns == 1000 * MS
    found = parse_scenario(HEAD, "test.yaml", settings=settings[:1]).spec.delays
    assert found.scheduler.choice is not None and found.scheduler.choice.values_ns == (10 * MS, 13 * MS, 27 * MS)
    assert parse_scenario(HEAD, "test.yaml").spec.delays.pleg.constant_ns == 0


# ----------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["workloads[0].probes={readiness: {}}"], "expected readiness.probeDelay or probes.readiness, not both"),
        ([NO_DELAY, "workloads[0].probes={readiness: {period: 500ms}}"], "workloads[0].probes.readiness.period"),
        ([NO_DELAY, "workloads[0].probes={readiness: {period: 1500ms}}"], "expected whole seconds"),
        ([NO_DELAY, "workloads[0].probes={liveness: {successThreshold: 2}}"], "expected successThreshold 1"),
        (["workloads[0].podManagementPolicy=Parallel"], "podManagementPolicy goes with kind: StatefulSet"),
        (["events=[{at: 1s, liveness: {workload: web}}]"], "workload web has no probes.liveness"),
        (["events=[{at: 1s, readiness: {workload: web, late: true}}]"], "workload web has no probes.readiness"),
        (["events=[{at: 1s, rollout: {workload: web, partition: 1}}]"], "web is a Deployment"),
        ([SET, "events=[{at: 1s, rollout: {workload: web, maxSurge: 1}}]"], "web is a StatefulSet"),
        ([SET, "events=[{at: 1s, rollout: {workload: web, recreate: true}}]"], "recreate goes with a Deployment, and web is a StatefulSet"),
        (["events=[{at: 1s, rollout: {workload: web, recreate: true, maxSurge: 0}}]"], "maxSurge and maxUnavailable go without it"),
        (["workloads[0].placement.topologySpread=[{topologyKey: rack}]"], "topologySpread[0].topologyKey"),
        (
            ["workloads[0].placement.topologySpread=[{topologyKey: kubernetes.io/hostname, maxSkew: 2, whenUnsatisfiable: ScheduleAnyway}]"],
            "maxSkew goes with DoNotSchedule",
        ),
    ],
)  # fmt: skip
def test_errors(settings: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_scenario(HEAD, "test.yaml", settings=settings)
    assert words in str(caught.value)


def test_a_timeout_that_no_probe_takes_is_named() -> None:
    probes = "workloads[0].probes={readiness: {timeout: 2s}}"
    (note,) = parse_scenario(HEAD, "test.yaml", settings=[NO_DELAY, probes]).notes
    assert "probes.readiness.timeout of workload web decides nothing" in note
