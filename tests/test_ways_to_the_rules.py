"""The way of a change from its cause to the rules, in runs whose delays are constants, so that each leg is known beforehand."""

import pytest
from runlogs import ms

from kpsim.reports import frames
from kpsim.reports.held_up import Held
from kpsim.reports.held_words import held_sentence
from kpsim.reports.sync_lag import Stage, stage_ns
from kpsim.result import run
from kpsim.scenario import parse_scenario
from kpsim.simulation.runlog import RunLog

CLUSTER = """
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: ways}
duration: 20s
nodes: {count: 2}
workloads:
  - {name: web, replicas: 1, ports: [{containerPort: 8080}], readiness: {probeDelay: 700ms}, startup: {delay: 10s}}
objects:
  - {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 172.30.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
delays:
  readinessToStatus: 10ms
  apiWrite: 5ms
  controllerWatch: 30ms
  controllerBatch: 200ms
  sliceWrite: 40ms
  watchDelivery: 50ms
  sync: {base: 100ms, perRule: 0s}
events:
  - {at: 5s, EVENT}
"""


def ran(event: str, *settings: str) -> RunLog:
    return run(parse_scenario(CLUSTER.replace("EVENT", event), "ways.yaml", settings=settings)).log


def test_a_crash_is_noticed_reported_seen_answered_delivered_and_synced() -> None:
    log = ran("crash: {workload: web, restarts: false}")
    assert {change.node for change in log.programming} == {"node-1", "node-2"}
    for change in log.programming:
        assert change.trigger_ns == ms(5000)
        assert [stage_ns(change, stage) for stage in Stage] == [ms(n) for n in (700, 15, 30, 240, 50, 0, 100)]
        assert change.cause is not None and change.cause.change.startswith("Pod default/web-1 @ ")


def test_what_a_user_writes_himself_has_neither_notice_nor_controller() -> None:
    log = ran("patchService: {service: web, patch: {spec: {sessionAffinity: ClientIP}}}")
    by_object = {change.change.split()[0]: change for change in log.programming}
    assert set(by_object) == {"Service"}
    assert [stage_ns(by_object["Service"], stage) for stage in Stage] == [ms(n) for n in (0, 5, 0, 0, 50, 0, 100)]


def test_what_kube_proxy_does_not_report_says_why() -> None:
    """A crash changes readiness, so its slice has a trigger time; a deletion has none, and a failed sync loses them (CP-10.2)."""
    crash = "crash: {workload: web, restarts: false}"
    for event, expected in (
        (crash, (2, 0, 0)),
        ("scale: {workload: web, replicas: 0}", (0, 2, 0)),
        ("patchService: {service: web, patch: {spec: {sessionAffinity: ClientIP}}}", (0, 2, 0)),
        (crash + "}\n  - {at: 4s, failSyncs: {nodes: [node-1], count: 1}", (1, 0, 1)),
    ):
        figures = run(parse_scenario(CLUSTER.replace("EVENT", event), "ways.yaml", settings=["duration=40s"])).figures
        names = ("reported_count", "unreported.no-trigger-time", "unreported.lost")
        assert tuple(figures[f"sync_lag.{name}"] for name in names) == expected, event
    log = ran(crash)
    assert frames.SYNC_LAG.frame(log)["unreported"].tolist() == ["", ""]


def test_a_deletion_is_written_by_its_client_and_the_exit_by_the_kubelet() -> None:
    """The deletion unlists the endpoint; the kubelet's look for ended containers (PLEG) is the notice of the exit."""
    log = ran("scale: {workload: web, replicas: 0}", "delays.pleg=400ms")
    legs = {change.change: [stage_ns(change, stage) // ms(1) for stage in Stage] for change in log.programming}
    deletion, exit_ = list(legs.values())
    assert deletion[:4] == [0, 5, 30, 240]
    assert exit_[:3] == [400, 15, 30]


def test_answers_and_writes_of_pods_are_logged() -> None:
    log = ran("crash: {workload: web}")
    assert [(s.pod, s.from_ns, s.until_ns) for s in log.answering] == [
        ("default/web-1", 0, ms(5000)),
        ("default/web-1", ms(15000), None),
    ]
    assert [(w.what, w.cause.trigger_ns, w.cause.stored_ns) for w in log.pod_writes][1:] == [
        ("not ready", ms(5000), ms(5715)),
        ("ready", ms(15700), ms(15715)),
    ]


# --------------------------------------------------------------------------------------------- what held up lost packets

TRAFFIC = "traffic: [{name: t, from: nodes, service: web, perSecond: 200}]"


def lost_by_stage(event: str, *settings: str, more: str = "") -> dict[str, int]:
    text = CLUSTER.replace("EVENT", event) + (more or TRAFFIC) + "\n"
    figures = run(parse_scenario(text, "ways.yaml", settings=settings)).figures
    found = {held.value: int(figures[f"held_up.{held.value}"]) for held in Held}
    assert sum(found.values()) == figures["lost"]
    assert found == {held.value: figures[f"services.default/web.held_up.{held.value}"] for held in Held}
    return {held: count for held, count in found.items() if count}


def test_each_stage_of_a_crash_loses_what_comes_in_its_time() -> None:
    """200 connections a second, and stages of 700, 15, 30, 240, 50 and 100 ms. After that there is no endpoint at all."""
    found = lost_by_stage("crash: {workload: web, restarts: false}")
    absent = 200 * 15 - (140 + 3 + 6 + 48 + 10 + 20)
    assert found == {"notice": 140, "status": 3, "see": 6, "slice": 48, "deliver": 10, "sync": 20, "absent": absent}


def test_a_new_pod_is_waited_for_from_the_moment_at_which_it_answers() -> None:
    """It answers 10 s after the crash. The probe sees that 700 ms later, and the rest of the way takes 435 ms."""
    found = lost_by_stage("crash: {workload: web}", "duration=30s")
    assert found["absent"] == 200 * 10 - 227
    assert found == {
        "notice": 280, "status": 6, "see": 12, "slice": 96, "deliver": 20, "sync": 40, "absent": 200 * 10 - 227,
    }  # fmt: skip


def test_syncs_that_wait_and_syncs_that_fail_hold_up_what_they_keep_waiting() -> None:
    found = lost_by_stage(
        "crash: {workload: web, restarts: false}", "proxy.iptables.minSyncPeriod=5s", "events[0].at=2s"
    )
    assert "wait" not in found  # the runner has been idle for long
    text = "crash: {workload: web, restarts: false}}\n  - {at: 4s, failSyncs: {nodes: [node-1, node-2], count: 1}"
    found = lost_by_stage(text, "duration=37s")
    assert (
        found["wait"] == 200 * 30 + 20
    )  # until the retry of the failed sync (CP-9.3), whose own 100 ms count as wait, too
    assert found["sync"] == 20


def test_a_run_that_ends_leaves_changes_on_their_way() -> None:
    """Whether the controller had seen a status that it answered after the end is not known: the slice was not written."""
    for until, stage in (
        (5600, "notice"),
        (5710, "status"),
        (5730, "slice"),
        (5900, "slice"),
        (6020, "deliver"),
        (6100, "sync"),
    ):
        found = lost_by_stage("crash: {workload: web, restarts: false}", f"duration={until}ms")
        assert list(found)[-1] == stage, until


BALANCED = CLUSTER.replace("clusterIP:", "type: LoadBalancer, clusterIP:").replace(
    "targetPort: 8080}]}",
    "targetPort: 8080, nodePort: 30080}]}, status: {loadBalancer: {ingress: [{ip: 198.51.100.20}]}}",
)
LOCAL = BALANCED.replace("type:", "externalTrafficPolicy: Local, healthCheckNodePort: 32080, type:")


@pytest.mark.parametrize("mode", ["iptables", "nftables", "ipvs"])
def test_a_load_balancer_that_has_not_noticed_holds_up(mode: str) -> None:
    """node-2 loses its only pod, and its rules know 425 ms later. Then the load balancer needs two failed checks."""
    more = "traffic: [{name: t, service: web, via: loadBalancer, perSecond: 200}]\nloadBalancer: {interval: 3s}\n"
    text = LOCAL.replace("EVENT", "scale: {workload: web, replicas: 1}").replace(
        "replicas: 1, ports", "replicas: 2, ports"
    )
    result = run(parse_scenario(text + more, "ways.yaml"), mode=mode)
    (gone,) = {spell.node for spell in result.log.endpoints if spell.until_ns is not None}
    left_ns = next(h.at_ns for h in result.log.node_health if h.node == gone and not h.in_rotation)
    sent = [c for c in result.log.connections if c.node == gone and ms(5425) <= c.at_ns < left_ns]
    assert result.figures["held_up.rotation"] == len(sent) > 200
    held = {held.value for held in Held if result.figures[f"held_up.{held.value}"]}
    assert held == {"see", "slice", "deliver", "sync", "rotation"}


def test_what_is_no_matter_of_time_says_what_it_is() -> None:
    event = "patchService: {service: web, patch: {spec: {loadBalancerSourceRanges: [192.0.2.0/24]}}}"
    more = "traffic: [{name: t, service: web, via: loadBalancer, perSecond: 20}]\n"
    figures = run(parse_scenario(BALANCED.replace("EVENT", event) + more, "ways.yaml")).figures
    assert figures["held_up.policy"] == figures["lost"] > 0
    assert "No loss was a matter of time: rules, policies, settings or a full table stood in the way" in held_sentence(
        run(parse_scenario(BALANCED.replace("EVENT", event) + more, "ways.yaml")).log
    )


def test_figures_of_what_held_up_serve_in_expectations() -> None:
    text = CLUSTER.replace("EVENT", "crash: {workload: web, restarts: false}") + TRAFFIC
    result = run(
        parse_scenario(
            text + "\nexpect: [held_up.notice == 140, held_up.wait == 0, services.default/web.held_up.slice < 48]\n",
            "ways.yaml",
        )
    )
    assert [each.holds for each in result.expectations] == [True, True, False]
