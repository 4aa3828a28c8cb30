"""Drains that wait for disruption budgets, reboots, rolling upgrades, shutdowns, and the nodes that load balancers have."""

import pytest
from simulations import HEAD, MS, simulate

from kpsim.errors import InputError
from kpsim.reports.drains import drain_lines
from kpsim.reports.nodestates import node_spells
from kpsim.reports.plots import plots
from kpsim.scenario import parse_scenario
from kpsim.scenario.workload_schema import DisruptionBudget
from kpsim.simulation.evictions import may_evict
from kpsim.simulation.runlog import Fate, RunLog

TRAFFIC = "traffic: [{name: t, from: nodes, service: web, perSecond: 10}]\n"
BALANCED = (
    HEAD.replace("type: NodePort", "type: LoadBalancer") + "loadBalancer: {interval: 2s, unhealthyThreshold: 2}\n"
)


def told(log: RunLog, kind: str) -> list[tuple[int, str]]:
    return [(h.at_ns // MS, h.subject) for h in log.happenings if h.kind == kind]


# --------------------------------------------------------------------------------------------------------------- budgets


@pytest.mark.parametrize(
    ("budget", "ready", "healthy", "allowed"),
    [
        ({"min_available": 2}, True, 2, False),
        ({"min_available": 2}, True, 3, True),
        ({"min_available": "50%"}, True, 4, False),  # of 7 replicas 4, rounded up
        ({"min_available": "50%"}, True, 5, True),
        ({"max_unavailable": 1}, True, 7, True),
        ({"max_unavailable": 1}, True, 6, False),
        ({"max_unavailable": "10%"}, True, 7, True),  # rounded up: one
        ({"max_unavailable": 0}, True, 7, False),
        # a pod that is not ready may go while the others keep the budget
        ({"min_available": 4}, False, 4, True),
        ({"min_available": 4}, False, 3, False),
        ({"min_available": 4, "unhealthy_pod_eviction_policy": "AlwaysAllow"}, False, 0, True),
        ({"min_available": 4, "unhealthy_pod_eviction_policy": "AlwaysAllow"}, True, 4, False),
    ],
)
def test_what_a_budget_allows(budget: dict[str, object], ready: bool, healthy: int, allowed: bool) -> None:
    assert may_evict(DisruptionBudget.model_validate(budget), ready=ready, healthy=healthy, replicas=7) is allowed


ON_ONE = ("workloads[0].placement.nodes=[node-2, node-1]", "workloads[0].placement.policy=packed")


def test_a_drain_tries_again_every_5_s_until_the_budget_allows_it() -> None:
    events = "events: [{at: 5s, drain: {node: node-2}}]\n"
    budget = "workloads[0].disruptionBudget={minAvailable: 1}"
    log = simulate(events + TRAFFIC, *ON_ONE, "duration=20s", "workloads[0].termination.preStop=2s", budget)
    # cordoned 5.007; the second pod waits until the first one's replacement is ready, 1.1 s and two writes later
    assert told(log, "pods evicted") == [(5007, "node-2"), (10_007, "node-2")]
    assert told(log, "eviction refused") == [(5007, "default/web-2")]
    assert told(log, "drain done") == [(13_007, "node-2")]  # kubectl looks once a second
    waited = "default/web-2 had to wait for a disruption budget."
    assert drain_lines(log) == [f"node-2 was drained from 5 s to 13.007 s; {waited}"]
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}


def test_without_a_budget_all_pods_go_at_once() -> None:
    events = "events: [{at: 5s, drain: {node: node-2}}]\n"
    log = simulate(events + TRAFFIC, *ON_ONE, "duration=10s", "workloads[0].termination.preStop=500ms")
    assert told(log, "pods evicted") == [(5007, "node-2")] and not told(log, "eviction refused")
    assert {c.disposition for c in log.connections} > {Fate.DELIVERED}


def test_a_budget_that_allows_nothing_holds_a_drain_up_until_its_timeout() -> None:
    budget = "workloads[0].disruptionBudget={maxUnavailable: 0}"
    log = simulate("events: [{at: 5s, drain: {node: node-2, timeout: 12s}}]\n", budget, "duration=40s")
    ((at, node, words),) = [(h.at_ns // MS, h.subject, h.detail) for h in log.happenings if h.kind == "drain gave up"]
    assert (at, node, words) == (17_007, "node-2", "1 pod is left")
    assert not told(log, "pod terminating")
    waited = "default/web-2 had to wait for a disruption budget."
    assert drain_lines(log) == [
        f"node-2 was drained from 5 s to 17.007 s; then the drain gave up: 1 pod is left; {waited}"
    ]
    log = simulate("events: [{at: 5s, drain: {node: node-2}}]\n", budget, "duration=10s")
    unfinished = "node-2 was drained from 5 s on, and not all of its pods were gone when the run ended"
    assert drain_lines(log) == [f"{unfinished}; {waited}"]


def test_a_taint_and_a_deletion_do_not_ask_the_budget() -> None:
    events = """
events:
  - {at: 5s, taintNode: {node: node-2, key: bad, effect: NoExecute}}
  - {at: 6s, deletePods: {workload: web, count: 1}}
"""
    log = simulate(events, "workloads[0].disruptionBudget={maxUnavailable: 0}", "duration=10s")
    assert len(told(log, "pod terminating")) == 2


# --------------------------------------------------------------------------------------------------------------- reboots


def test_a_node_reboots_with_its_pods() -> None:
    log = simulate("events: [{at: 5s, reboot: {node: node-2, takes: 20s}}]\n" + TRAFFIC, "duration=40s")
    assert told(log, "node down") == [(5000, "node-2")] and told(log, "node up") == [(25_000, "node-2")]
    # its pod answers a second after the boot, and is ready 100 ms later
    assert told(log, "pod ready") == [(26_100, "default/web-2")]
    lost = {c.cause for c in log.connections if c.disposition is not Fate.DELIVERED}
    assert "node down" in lost  # its endpoint is in the rules all the while


def test_a_reboot_that_another_event_ends_does_not_end_again() -> None:
    events = """
events:
  - {at: 5s, reboot: {node: node-2, takes: 20s}}
  - {at: 8s, nodeUp: {nodes: [node-2]}}
  - {at: 24s, nodeDown: {nodes: [node-2]}}
"""
    assert told(simulate(events, "duration=40s"), "node up") == [(8000, "node-2")]


UPGRADE = "events: [{at: 5s, rollingUpgrade: {takes: 10s}}]\n"


def test_nodes_are_upgraded_one_by_one() -> None:
    log = simulate(
        UPGRADE + TRAFFIC, "duration=60s", "nodes={count: 3, zones: [a]}", "workloads[0].termination.preStop=3s"
    )
    # cordon +7; the eviction is written +7, hook 3 s, gone +11+7: kubectl sees it at the fourth look
    assert told(log, "drain done")[0] == (9007, "node-1") and told(log, "node down")[0] == (9007, "node-1")
    assert told(log, "node up")[0] == (19_007, "node-1")
    assert told(log, "node upgraded")[0] == (19_021, "node-1")  # Ready +7, uncordoned +7
    assert [name for _, name in told(log, "node drained")] == ["node-1", "node-2", "node-3"]
    assert told(log, "node drained")[1][0] == 19_021
    assert told(log, "rolling upgrade done")
    assert drain_lines(log)[0].startswith("A rolling upgrade took 3 nodes from 5 s to ")
    assert [(s.node, s.state.value, s.from_ns // MS, s.until_ns // MS) for s in node_spells(log)][:3] == [
        ("node-1", "cordoned", 5000, 19_014), ("node-1", "draining", 5000, 9007), ("node-1", "off", 9007, 19_007),
    ]  # fmt: skip


@pytest.mark.parametrize(("most", "at_once"), [("2", 2), ("50%", 1), ("100%", 3)])
def test_so_many_nodes_at_once(most: str, at_once: int) -> None:
    events = UPGRADE.replace("takes: 10s", f"takes: 10s, maxUnavailable: {most}")
    log = simulate(events, "duration=12s", "nodes={count: 3}", "workloads[0].replicas=0")
    assert len(told(log, "node drained")) == at_once
    assert drain_lines(log) == ["A rolling upgrade took 0 nodes from 5 s on, and was not over when the run ended."]


def test_nodes_of_an_upgrade_wait_for_a_pause_and_may_be_chosen() -> None:
    events = UPGRADE.replace("takes: 10s", "takes: 1s, pause: 5s, nodes: [node-2, node-1]")
    log = simulate(events, "workloads[0].replicas=0", "duration=30s")
    assert told(log, "node drained") == [(5000, "node-2"), (11_021, "node-1")]


def test_a_node_goes_off_with_the_pods_that_its_drain_has_left() -> None:
    events = UPGRADE.replace("takes: 10s", "takes: 10s, drainTimeout: 6s, nodes: [node-2]")
    log = simulate(events, "workloads[0].disruptionBudget={maxUnavailable: 0}", "duration=40s")
    assert told(log, "node down") == [(11_007, "node-2")]
    assert told(log, "pod ready") == [(22_107, "default/web-2")]


def test_a_replaced_node_is_deleted_and_made_anew() -> None:
    """The pods that its drain has left start there again, as long as the garbage collector has not taken them."""
    events = UPGRADE.replace("takes: 10s", "takes: 10s, replace: true, drainTimeout: 1s, nodes: [node-2]")
    log = simulate(events, "workloads[0].disruptionBudget={maxUnavailable: 0}", "duration=40s")
    assert told(log, "node deleted") == [(6007, "node-2")] and told(log, "node added") == [(16_007, "node-2")]
    assert told(log, "node upgraded") == [(16_014, "node-2")]
    assert told(log, "pod ready") == [(17_107, "default/web-2")] and not told(log, "node up")
    ends = {s.state.value: s.until_ns // MS for s in node_spells(log)}
    assert ends == {"cordoned": 16_007, "draining": 6007, "off": 16_007, "no Node object": 16_007}


def test_nodes_that_are_down_or_gone_are_left_out() -> None:
    events = """
events:
  - {at: 1s, nodeDown: {nodes: [node-1]}}
  - {at: 1s, deleteNode: {node: node-2}}
  - {at: 5s, rollingUpgrade: {}}
"""
    log = simulate(events, "duration=10s")
    assert told(log, "event without effect") == [(5000, "node-1"), (5000, "node-2")] and told(
        log, "rolling upgrade done"
    )


# ------------------------------------------------------------------------------------------------------------- shutdowns


def test_a_machine_that_shuts_down_ends_its_pods_first() -> None:
    """They stay ready, and no slice says that they terminate, until they have ended (k/k #116965)."""
    events = "events: [{at: 5s, nodeDown: {nodes: [node-2], shutdownGrace: 30s}}]\n"
    often = TRAFFIC.replace("perSecond: 10", "perSecond: 100, start: 8500ms")
    log = simulate(events + often, "workloads[0].termination.preStop=4s", "duration=10s")
    assert told(log, "pod failed") == [(9000, "default/web-2")]
    assert not told(log, "pod not ready") and not told(log, "pod terminating")
    # off when the API server has the last pod as Failed; its replacement is made at once
    assert told(log, "node down") == [(9018, "node-2")]
    assert told(log, "pod created") == [(9018, "default/web-3")]
    to_it = {c.at_ns // MS for c in log.connections if c.endpoint == "10.180.2.2:8080"}
    assert max(to_it) > 8800  # it got connections to the end
    lost = [c.at_ns // MS for c in log.connections if c.disposition is not Fate.DELIVERED and c.node == "node-1"]
    assert lost and min(lost) >= 9000 and max(lost) <= 9090


def test_a_shutdown_takes_no_longer_than_its_grace() -> None:
    events = (
        "events: [{at: 5s, nodeDown: {nodes: [node-2], shutdownGrace: 2s}}, {at: 20s, nodeUp: {nodes: [node-2]}}]\n"
    )
    ending = "workloads[0].termination={preStop: 20s, afterSigterm: 5s}"
    log = simulate(events, ending, "duration=30s")
    assert told(log, "node down") == [(7000, "node-2")]
    assert told(log, "pod failed") == [(7000, "default/web-2")]  # killed then; nobody reports it any more
    assert not told(log, "pod created")
    assert told(log, "pod ready") == [(21_100, "default/web-2")]  # so it starts again with its machine


def test_a_stateful_set_gets_its_pod_back_after_a_shutdown() -> None:
    events = "events: [{at: 5s, nodeDown: {nodes: [node-2], shutdownGrace: 30s}}]\n"
    log = simulate(events, "workloads[0].kind=StatefulSet", "duration=30s")
    assert [name for _, name in told(log, "pod created")] == ["default/web-1"]


def test_the_states_of_nodes_are_a_picture() -> None:
    events = "events: [{at: 1s, cordon: {node: node-2}}, {at: 2s, nodeDown: {nodes: [node-1], shutdownGrace: 1s}}]\n"
    log = simulate(events, "duration=4s", "workloads[0].replicas=0")
    assert [(s.node, s.state.value, s.until_ns // MS) for s in node_spells(log)] == [
        ("node-1", "shutting down", 2000), ("node-1", "off", 4000), ("node-2", "cordoned", 4000),
    ]  # fmt: skip
    (plot,) = [plot for plot in plots(log) if plot.name == "nodes"]
    assert [text.get_text() for text in plot.figure.axes[0].get_yticklabels()] == ["node-1", "node-2"]
    assert not any(plot.name == "nodes" for plot in plots(simulate("", "duration=1s")))


# --------------------------------------------------------------------------------------------- the nodes of load balancers


def rotation(log: RunLog, node: str) -> list[tuple[int, bool]]:
    """Return when the node came into the rotation or left it."""
    rows = [(row.at_ns // MS, row.in_rotation) for row in log.node_health if row.node == node]
    return [row for n, row in enumerate(rows) if n == 0 or row[1] != rows[n - 1][1]]


@pytest.mark.parametrize(
    ("event", "back"),
    [
        ("deleteNode: {node: node-2}", "addNode: {node: node-2}"),
        (
            "labelNode: {node: node-2, labels: {node.kubernetes.io/exclude-from-external-load-balancers: ''}}",
            "labelNode: {node: node-2, labels: {node.kubernetes.io/exclude-from-external-load-balancers: null}}",
        ),
    ],
)
def test_nodes_leave_the_load_balancers_by_their_object(event: str, back: str) -> None:  # CP-14.3
    events = f"events: [{{at: 5s, {event}}}, {{at: 20s, {back}}}]\n"
    log = simulate(events, "loadBalancer.nodeUpdate=1s", "duration=30s", head=BALANCED)
    (_, out, again) = rotation(log, "node-2")
    assert out == (6007, False)  # written +7; its health check passes all the while
    assert again[1] and 21_007 + 2000 <= again[0] <= 21_007 + 4000  # two probes that pass, one every 2 s


def test_a_taint_takes_a_node_out_of_the_set_only_at_a_resync() -> None:  # CP-14.3
    local = BALANCED.replace("type: LoadBalancer", "type: LoadBalancer, externalTrafficPolicy: Local")
    events = "events: [{at: 1s, taintNode: {node: node-2, key: ToBeDeletedByClusterAutoscaler}}]\n"
    log = simulate(events, "duration=40s", "loadBalancer.nodeResync=30s", head=local)
    ((_, _), out) = rotation(log, "node-2")  # the health check node port does not mind the taint (CP-15.2)
    assert not out[1] and told(log, "load balancer nodes") == [(out[0], "default/web")]
    later = simulate(events, "duration=40s", "loadBalancer.nodeResync=50s", "seed=3", head=local)
    assert rotation(later, "node-2") != rotation(log, "node-2")


# ----------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "events: [{at: 1s, rollingUpgrade: {nodes: [node-9]}}]",
            "events[0].rollingUpgrade.nodes[0]: there is no node",
        ),
        ("events: [{at: 1s, reboot: {node: node-9}}]", "events[0].reboot.node: there is no node"),
        ("events: [{at: 1s, rollingUpgrade: {maxUnavailable: 0}}]", "events[0].rollingUpgrade.maxUnavailable"),
        (
            "events: [{at: 1s, drain: {node: node-1, timeout: 0s}}]",
            "events[0].drain.timeout",
        ),  # kubectl's 0 is for ever
    ],
)
def test_errors(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_scenario(HEAD + text + "\n", "test.yaml")
    assert words in str(caught.value)


def test_a_budget_has_one_of_two_fields() -> None:
    with pytest.raises(InputError, match="expected exactly one of minAvailable, maxUnavailable"):
        parse_scenario(HEAD, "test.yaml", settings=["workloads[0].disruptionBudget={}"])
