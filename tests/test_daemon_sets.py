"""DaemonSets on the clock, and pods on the host network, whose ports one pod of a node holds.

Counterpart of the figures: the API's documentation of RollingUpdateDaemonSet. A write takes 7 ms, and a status 11 ms more
before it is sent; pods answer a second after their start, and are ready 100 ms later.
"""

import pytest
from drafts import Json, drafted, keeper, loaded, pod, service, workloads
from simulations import HEAD, MS, simulate

import kpsim
from kpsim.errors import InputError
from kpsim.scenario import parse_scenario
from kpsim.simulation.daemonset import Daemon, next_daemon_step
from kpsim.simulation.runlog import Fate, RunLog

SET = HEAD.replace("    replicas: 2\n", "    kind: DaemonSet\n    termination: {preStop: 2s}\n")
HOST = "workloads[0].hostNetwork=true"


def told(log: RunLog, kind: str) -> list[tuple[int, str]]:
    """The times in ms, and the nodes of pods."""
    return [(h.at_ns // MS, h.detail) for h in log.happenings if h.kind == kind]


def rollout(**how: int | str) -> str:
    return f"events: [{{at: 5s, rollout: {{workload: web{''.join(f', {k}: {v}' for k, v in how.items())}}}}}]\n"


# ------------------------------------------------------------------------------------------------------------- next step


def pods(described: str) -> list[Daemon]:
    """``1r 2-+1x``: of nodes a, b, … the pods: revision, and available (r), not available (-) or terminating (x)."""
    found: list[Daemon] = []
    for node, here in zip("abcd", described.split(), strict=False):
        for text in here.split("+") if here != "." else ():
            name = f"{node}{text[0]}" if f"{node}{text[0]}" not in {pod.name for pod in found} else f"{node}{text}"
            found.append(Daemon(name, node, int(text[0]), len(found), text[1] == "r", text[1] == "x"))
    return found


@pytest.mark.parametrize(
    ("described", "how", "create", "delete"),
    [
        (". . .", {}, "a b c", ""),
        ("1r . 1x", {}, "b", ""),  # a pod that terminates holds its node
        ("1r . .", {"closed": "b"}, "c", ""),
        ("1r 1r 1r 1r", {}, "", ""),  # d is not to have one any more: it is left alone
        ("1r+1- 1r 1r", {}, "", "a1-"),  # one too many: the oldest stays
        # updates without surge
        ("1r 1r 1r", {"revision": 2}, "", "a1"),
        ("1r 1r 1r", {"revision": 2, "unavailable": 2}, "", "a1 b1"),
        ("1x 1r 1r", {"revision": 2}, "", ""),
        (". 1r 1r", {"revision": 2}, "a", ""),
        ("2- 1r 1r", {"revision": 2}, "", ""),
        ("2- 1r 1r", {"revision": 2, "unavailable": 2}, "", "b1"),
        ("2r 1r 1r", {"revision": 2}, "", "b1"),
        ("1r 1- 1r", {"revision": 2}, "", "b1"),  # what is broken goes first, and counts
        ("1- 1- 1r", {"revision": 2}, "", "a1 b1"),  # it goes whatever the limit
        # updates with surge
        ("1r 1r 1r", {"revision": 2, "surge": 1}, "a", ""),
        ("1r 1r 1r", {"revision": 2, "surge": 2}, "a b", ""),
        ("1r+2- 1r 1r", {"revision": 2, "surge": 1}, "", ""),
        ("1r+2r 1r 1r", {"revision": 2, "surge": 1}, "b", "a1"),
        ("1x+2r 1r 1r", {"revision": 2, "surge": 1}, "b", ""),
        ("1r+2- 1- 1r", {"revision": 2, "surge": 1}, "b", ""),  # no available pod is beside it: no surge
        ("1r+2- 1r .", {"revision": 2, "surge": 1}, "c", ""),
        ("1r 1r 1r", {"revision": 2, "surge": 1, "closed": "a"}, "b", ""),
        ("1r+2-+3- 1r 3r", {"revision": 3, "surge": 1}, "", "a2"),  # of old pods the oldest stays
        ("2r 2r 2r 1-", {"revision": 2, "surge": 1}, "", "d1"),  # d is not to have one any more
    ],
)  # fmt: skip
def test_the_next_step(described: str, how: dict[str, int | str], create: str, delete: str) -> None:
    given = {"revision": 1, "unavailable": 1, "surge": 0, "closed": "", **how}
    revision, closed = int(given.pop("revision")), str(given.pop("closed")).split()
    limits = {name: int(value) for name, value in given.items()}
    step = next_daemon_step(pods(described), "abc", revision, closed=closed, **limits)
    assert (" ".join(step.create), " ".join(step.delete)) == (create, delete)


# -------------------------------------------------------------------------------------------------------------- rollouts


@pytest.mark.parametrize("host", [(), (HOST,)])
def test_a_node_gets_its_new_pod_when_the_old_one_is_gone(host: tuple[str, ...]) -> None:
    log = simulate(rollout(), *host, head=SET)
    # asked at 5.000, written 7 ms later, over after preStop, and told 18 ms after that
    assert told(log, "pod terminating") == [
        (5007, "node-1"),
        (8150, "node-2"),
    ]  # the first is known to be ready at 8.143
    assert told(log, "pod created") == [(7025, "node-1"), (10_168, "node-2")]
    assert [at for at, _ in told(log, "pod ready")] == [8125, 11_268]


def test_with_surge_the_old_pod_goes_when_the_new_one_is_available() -> None:
    log = simulate(rollout(maxSurge=1), "workloads[0].minReady=5s", head=SET)
    # ready at 6.100, known at 6.118, and available 5 s later
    assert told(log, "pod created") == [(5000, "node-1"), (11_118, "node-2")]
    assert told(log, "pod terminating") == [(11_125, "node-1"), (17_243, "node-2")]


def test_percentages_are_of_the_nodes_and_rounded_up() -> None:
    log = simulate(rollout(maxUnavailable="51%"), head=SET)
    assert told(log, "pod terminating") == [(5007, "node-1"), (5007, "node-2")]


BALANCED = SET.replace("type: NodePort,", "type: LoadBalancer, externalTrafficPolicy: Local,")
CLIENTS = "traffic: [{name: t, from: outside, service: web, via: loadBalancer, perSecond: 8, start: 4s}]\n"
PROBING = "loadBalancer: {interval: 2s, unhealthyThreshold: 2, healthyThreshold: 1}\n"


def test_a_hook_gives_the_load_balancer_time_to_turn_away() -> None:  # T-2, PP-5.4
    lost = []
    for hook in (0, 2, 6):
        settings = (HOST, f"workloads[0].termination.preStop={hook}s", "duration=22s")
        log = simulate(rollout() + CLIENTS + PROBING, *settings, head=BALANCED)
        lost.append(sum(c.disposition is not Fate.DELIVERED for c in log.connections))
    assert lost[0] > lost[1] > lost[2] == 0


# ----------------------------------------------------------------------------------------------------------------- nodes


def test_a_drain_leaves_its_pods_and_a_cordoned_node_gets_one() -> None:
    events = "events: [{at: 5s, drain: {node: node-1}}, {at: 9s, deletePods: {workload: web, nodes: [node-1]}}]\n"
    log = simulate(events, head=SET)
    assert [at for at, _ in told(log, "drain done")] == [5007]
    assert told(log, "pod terminating") == [(9007, "node-1")] and told(log, "pod created") == [(11_025, "node-1")]


def test_a_new_node_gets_a_pod() -> None:
    log = simulate("events: [{at: 5s, addNode: {node: node-2}}]\n", head=SET)
    assert told(log, "pod created") == [(5007, "node-2")]


def test_pods_tolerate_a_silent_node_but_no_other_taint() -> None:
    down = "events: [{at: 5s, nodeDown: {nodes: [node-2]}}]\n"
    short = ("delays.nodeMonitorGrace=10s", "delays.unreachableToleration=10s")
    log = simulate(down, *short, head=SET)
    assert not told(log, "pod terminating") and [words for _, words in told(log, "pods evicted")] == [
        "0 pods, unreachable"
    ]
    taint = """
events:
  - {at: 5s, taintNode: {node: node-2, key: full, effect: NoExecute}}
  - {at: 20s, untaintNode: {node: node-2, key: full}}
"""
    log = simulate(taint, head=SET)
    assert told(log, "pod terminating") == [(5014, "node-2")] and told(log, "pod created") == [(20_007, "node-2")]


def test_a_pod_that_its_machine_s_shutdown_ended_comes_again() -> None:
    log = simulate(
        "events: [{at: 5s, nodeDown: {nodes: [node-2], shutdownGrace: 10s}}, {at: 20s, nodeUp: {nodes: [node-2]}}]\n",
        head=SET,
    )
    assert [node for _, node in told(log, "pod created")] == ["node-2"]
    assert told(log, "pod created")[0][0] >= 20_000


def test_the_scheduler_puts_a_pod_on_its_own_node() -> None:
    events = "events: [{at: 5s, deletePods: {workload: web, nodes: [node-2]}}]\n"
    log = simulate(events, "delays.scheduler=1s", head=SET)
    assert told(log, "pod scheduled") == [(8032, "node-2")]  # gone at 7.025, written at 7.032


def test_placement_says_which_nodes_have_one() -> None:
    zones = ("nodes.zones=[a, b]", "nodes.count=4", "workloads[0].placement={zones: [b]}")
    log = simulate(rollout(maxUnavailable="100%"), *zones, head=SET)
    assert [node for _, node in told(log, "pod created")] == ["node-2", "node-4"]


# ------------------------------------------------------------------------------------------------------------ host ports

DEPLOYMENT = HEAD.replace("    replicas: 2\n", "    replicas: 2\n    termination: {preStop: 2s}\n")


def test_a_new_pod_of_a_deployment_waits_for_the_host_s_ports() -> None:
    how = rollout(maxSurge=0, maxUnavailable=1)
    log = simulate(how, HOST, head=DEPLOYMENT)
    assert told(log, "pod terminating")[0] == (5007, "node-2") and told(log, "pod created")[0] == (7025, "node-2")
    assert told(log, "pod unschedulable")[0][1] == "host ports are taken on node-1, node-2"
    log = simulate(how, HOST, "delays.scheduler=1s", head=DEPLOYMENT)
    assert told(log, "pod scheduled")[0] == (8025, "node-2")


def test_a_rollout_that_needs_one_pod_more_than_there_are_nodes_stops() -> None:
    log = simulate(rollout(maxSurge=1, maxUnavailable=0), HOST, head=DEPLOYMENT)
    assert not told(log, "pod created") and not told(log, "pod terminating")
    log = simulate(rollout(maxSurge=1, maxUnavailable=0), HOST, "workloads[0].ports=[]", head=DEPLOYMENT)
    assert told(log, "pod created")  # without ports nothing is held


def test_a_host_port_is_held_without_the_host_network() -> None:
    log = simulate(rollout(maxSurge=1), "workloads[0].ports=[{containerPort: 8080, hostPort: 80}]", head=SET)
    assert not told(log, "pod created") and not told(log, "pod terminating")
    other = DEPLOYMENT.replace(
        "objects:\n", "  - {name: other, ports: [{containerPort: 90, hostPort: 8080}]}\nobjects:\n"
    )
    scaled = "events: [{at: 5s, scale: {workload: other, replicas: 2}}]\n"
    assert not told(simulate(scaled, HOST, "workloads[1].replicas=0", head=other), "pod created")


@pytest.mark.parametrize(
    ("port", "waits"), [("{containerPort: 8080}", True), ("{containerPort: 8080, protocol: UDP}", False)]
)
def test_pods_of_two_workloads_cannot_have_the_same_port(port: str, waits: bool) -> None:
    other = f"  - {{name: other, kind: DaemonSet, hostNetwork: true, ports: [{port}]}}\nobjects:\n"
    events = "events: [{at: 5s, scale: {workload: web, replicas: 0}}]\n"
    log = simulate(events, HOST, head=DEPLOYMENT.replace("objects:\n", other))
    assert sorted(told(log, "pod created")) == ([(7025, "node-1"), (7025, "node-2")] if waits else [])


# ---------------------------------------------------------------------------------------------------------------- drafts

WEB = service("web", clusterIP="10.96.0.10")
OWNED = [pod(f"web-{n}", f"n{n}", f"10.244.{n}.5", owner=("DaemonSet", "web")) for n in (1, 2)]


@pytest.mark.parametrize(
    ("strategy", "spec", "how"),
    [
        ({}, {}, {"maxUnavailable": 1}),
        ({"maxUnavailable": "30%"}, {}, {"maxUnavailable": "30%"}),
        ({"maxSurge": 1, "maxUnavailable": 0}, {}, {"maxSurge": 1}),
        ({"maxSurge": 1, "maxUnavailable": 0}, {"hostNetwork": True}, {"maxSurge": 1}),
    ],
)
def test_a_draft_has_a_daemon_set(strategy: Json, spec: Json, how: Json) -> None:
    kept = keeper("DaemonSet", "web", pods=spec, updateStrategy={"rollingUpdate": strategy})
    own = [{**each, "spec": {**each["spec"], **spec}} for each in OWNED]
    draft = drafted(WEB, kept, *own, rollout="shop/web")
    found = workloads(draft)["web"]
    assert found["kind"] == "DaemonSet" and "replicas" not in found and len(found["pods"]) == 2
    assert draft.content["events"][0]["rollout"] == {"workload": "web", **how}
    assert not loaded(draft).notes


@pytest.mark.parametrize(
    "spec",
    [
        {"hostNetwork": True},
        {"containers": [{"name": "c", "ports": [{"containerPort": 8080, "hostPort": 80}]}]},
    ],
)
def test_a_draft_of_a_daemon_set_that_surges_with_host_ports_says_that_it_does_not_get_on(spec: Json) -> None:
    kept = keeper("DaemonSet", "web", pods=spec, updateStrategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
    draft = drafted(WEB, kept, *[{**each, "spec": {**each["spec"], **spec}} for each in OWNED], rollout="shop/web")
    assert any("does not get on" in words and "shop/web" in words for words in draft.guessed)
    result = kpsim.run(draft, settings=["duration=20s"])
    assert result.figures["delivered_ratio"] == 1 and not told(result.log, "pod terminating")
    assert {words for _, words in told(result.log, "pod unschedulable")} == {"host ports are taken on n1"}


def test_a_draft_names_the_budget_of_a_daemon_set_that_no_drain_asks() -> None:
    budget = {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
    }  # fmt: skip
    draft = drafted(WEB, keeper("DaemonSet", "web"), *OWNED, budget)
    assert "PodDisruptionBudgets of DaemonSets, as no drain evicts their pods: shop/web" in draft.left_out


def test_a_draft_of_a_daemon_set_without_its_pods() -> None:
    draft = drafted(WEB, keeper("DaemonSet", "web"))
    assert workloads(draft)["web"]["kind"] == "DaemonSet" and "pods" not in workloads(draft)["web"]
    assert any("on each node that may have one" in words for words in draft.guessed)


def test_two_pods_on_one_node_are_drafted_like_a_deployment_s() -> None:
    second = pod("web-3", "n1", "10.244.1.6", owner=("DaemonSet", "web"))
    found = workloads(drafted(WEB, keeper("DaemonSet", "web"), *OWNED, second))["web"]
    assert "kind" not in found and found["replicas"] == 3


# ---------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["workloads[0].replicas=2"], "expected no replicas"),
        (["workloads[0].placement={policy: packed}"], "the placement of a DaemonSet has nodes and zones only"),
        (["workloads[0].placement={nodes: [node-1, node-1]}"], "expected no node twice in placement.nodes"),
        (["workloads[0].disruptionBudget={minAvailable: 1}"], "expected no disruptionBudget"),
        (["workloads[0].pods=[{name: a, node: node-1}, {name: b, node: node-1}]"], "expected no node twice in pods"),
        (["workloads[0].placement={nodes: [node-1]}", "workloads[0].pods=[{name: a, node: node-2}]"], "does not allow node-2"),
        (["nodes.zones=[a, b]", "workloads[0].placement={zones: [b]}", "workloads[0].pods=[{name: a, node: node-1}]"], "node-1 is in none of the zones b"),
        (["workloads[0].podManagementPolicy=Parallel"], "podManagementPolicy goes with kind: StatefulSet"),
        (["events=[{at: 1s, scale: {workload: web, replicas: 1}}]"], "web is a DaemonSet"),
        (["events=[{at: 1s, rollout: {workload: web, partition: 1}}]"], "partition goes with a StatefulSet, and web is a DaemonSet"),
        (["events=[{at: 1s, rollout: {workload: web, maxUnavailable: 0}}]"], "expected one of maxSurge and maxUnavailable above 0"),
        (["events=[{at: 1s, rollout: {workload: web, maxSurge: 1, maxUnavailable: 1}}]"], "expected one of maxSurge and maxUnavailable"),
        ([HOST, "workloads[0].ports=[{containerPort: 8080, hostPort: 80}]"], "with hostNetwork the hostPort of 8080 is the same port"),
    ],
)  # fmt: skip
def test_errors(settings: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_scenario(SET, "test.yaml", settings=settings)
    assert words in str(caught.value)
