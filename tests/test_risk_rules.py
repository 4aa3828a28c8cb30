"""Each row of the table of advice: a scenario that loses something without what helps, and nothing with it. ``kpsim risk`` tells the two apart."""

import json
from typing import Any

import pytest
from drafts import Json, cluster, keeper, node, pod, service

from kpsim.risk import Assessment, assess
from kpsim.risk.rules import RULES, Cause
from kpsim.scenario import parse_scenario
from kpsim.simulation import run
from kpsim.simulation.runlog import Fate, HappeningKind, RunLog
from kpsim.units import SECOND_NS

NODES = (node("n1", 1, zone="a"), node("n2", 2, zone="a"), node("n3", 3, zone="b"))
PROBES = {"readinessProbe": {"periodSeconds": 1}}


def sleeping(seconds: int, grace: int = 30) -> Json:
    hook = {"lifecycle": {"preStop": {"sleep": {"seconds": seconds}}}} if seconds else {}
    container = {"name": "c", "ports": [{"containerPort": 8080}], **PROBES, **hook}
    return {"containers": [container], "terminationGracePeriodSeconds": grace}


def on(*nodes: str, kind: str = "Deployment", spec: Json | None = None) -> list[Json]:
    owner = ("ReplicaSet", "web-5d4f8c7b9") if kind == "Deployment" else (kind, "web")
    hash = {"pod-template-hash": "5d4f8c7b9"} if kind == "Deployment" else {}
    name = "web-5d4f8c7b9-2vqh{}" if kind == "Deployment" else "web-{}"
    letters = "bcdf" if kind == "Deployment" else "0123"
    return [
        pod(name.format(letters[i]), at, f"10.244.{at[1]}.{i + 5}", owner=owner, labels=hash, **(spec or sleeping(5)))
        for i, at in enumerate(nodes)
    ]


def judged(*objects: Json, nodes: tuple[Json, ...] = NODES, **options: Any) -> Assessment:
    of = cluster(*objects, nodes=nodes)
    return assess(of.state, of.config, of.controllers, **options)


def causes(found: Assessment) -> set[Cause]:
    return {finding.cause for each in found.verdicts for finding in each.findings}


def played(objects: list[Json], event: Json | None, traffic: Json, seconds: int = 20) -> RunLog:
    """The drafted scenario of the objects, with an event at 10 s and one source of traffic."""
    content = dict(cluster(*objects, nodes=NODES).scenario().content)
    content["workloads"] = [each for each in content["workloads"] if each["name"] != "clients"]
    content |= {"duration": f"{seconds}s", "events": [{"at": "10s", **event}] if event else []}
    content["traffic"] = [{"name": "t", "service": "shop/web", "perSecond": 30, "clients": 20, **traffic}]
    if traffic["from"] != "outside":
        content["traffic"][0].pop("clients")
    scenario = parse_scenario(json.dumps(content), "draft.json")
    return run(scenario, seed=1)


def lost(log: RunLog) -> int:
    return sum(each.disposition is not Fate.DELIVERED for each in log.connections)


def web(*, replicas: int, sleep: int = 5, grace: int = 30, **spec: Any) -> Json:
    return keeper("Deployment", "web", pods=sleeping(sleep, grace), replicas=replicas, **spec)


def apart(sleep: int = 5) -> Json:
    found = web(replicas=2, sleep=sleep)
    term = {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}
    found["spec"]["template"]["spec"]["affinity"] = {
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    }
    return found


CLUSTER_IP = {"clusterIP": "10.96.0.10"}
BALANCED = {
    **CLUSTER_IP, "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32001,
    "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}],
}  # fmt: skip
NODE_PORT = {**CLUSTER_IP, "type": "NodePort", "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}]}
FROM_NODES = {"from": "nodes", "via": "clusterIP"}
FROM_OUTSIDE = {"from": "outside", "via": "loadBalancer"}
DRAIN = {"drain": {"node": "n1"}}


def front(spec: Json, **more: Any) -> Json:
    found = service("web", **{**spec, **more})
    if found["spec"].get("type") == "LoadBalancer":
        found["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.10"}]}}
    return found


ROLLOUT_ALL = {"rollout": {"workload": "web", "maxSurge": 0, "maxUnavailable": "100%"}}
ROLLOUT_ONE = {"rollout": {"workload": "web", "maxSurge": 1, "maxUnavailable": 0}}
RECREATE = {"strategy": {"type": "Recreate"}}


def budget(least: int) -> Json:
    return {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": "web"}}},
    }  # fmt: skip


Side = tuple[list[Json], Json | None]
#: cause: the side that loses, the side that does not, traffic
PROOFS: dict[Cause, tuple[Side, Side, Json]] = {
    Cause.NO_ENDPOINT: (
        ([front(CLUSTER_IP), web(replicas=0)], None),
        ([front(CLUSTER_IP), web(replicas=2), *on("n1", "n2")], None),
        FROM_NODES,
    ),
    Cause.ALONE: (
        ([front(CLUSTER_IP), web(replicas=1, sleep=0), *on("n1", spec=sleeping(0))], DRAIN),
        ([front(CLUSTER_IP), apart(), *on("n1", "n3")], DRAIN),
        FROM_NODES,
    ),
    Cause.ENDS_AT_ONCE: (
        ([front(CLUSTER_IP), web(replicas=2, sleep=0), *on("n1", "n3", spec=sleeping(0))], DRAIN),
        ([front(CLUSTER_IP), web(replicas=2), *on("n1", "n3")], DRAIN),
        FROM_NODES,
    ),
    Cause.LOCAL_WINDOW: (
        ([front(BALANCED), web(replicas=2), *on("n1", "n3")], DRAIN),
        ([front(BALANCED), web(replicas=2, sleep=18), *on("n1", "n3", spec=sleeping(18))], DRAIN),
        FROM_OUTSIDE,
    ),
    Cause.LOCAL_NODE_PORT: (
        ([front(NODE_PORT, externalTrafficPolicy="Local"), web(replicas=2), *on("n1", "n3")], None),
        ([front(NODE_PORT), web(replicas=2), *on("n1", "n3")], None),
        {"from": "outside", "via": "nodePort"},
    ),
    Cause.LOCAL_INTERNAL: (
        ([front(CLUSTER_IP, internalTrafficPolicy="Local"), web(replicas=2), *on("n1", "n3")], None),
        ([front(CLUSTER_IP), web(replicas=2), *on("n1", "n3")], None),
        FROM_NODES,
    ),
    Cause.ROLLOUT: (
        ([front(CLUSTER_IP), web(replicas=2, sleep=0, **RECREATE), *on("n1", "n3", spec=sleeping(0))], ROLLOUT_ALL),
        ([front(CLUSTER_IP), web(replicas=2), *on("n1", "n3")], ROLLOUT_ONE),
        FROM_NODES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("cause", PROOFS)
def test_what_is_called_a_risk_loses_and_what_helps_does_not(cause: Cause) -> None:
    (risky, event), (helped, event_then), traffic = PROOFS[cause]
    assert cause in causes(judged(*risky))
    seconds = {None: 5, Cause.LOCAL_WINDOW: 34}.get(cause if event else None, 20)
    assert lost(played(risky, event, traffic, seconds)) > 0
    assert cause not in causes(judged(*helped))
    assert lost(played(helped, event_then, traffic, seconds)) == 0


def test_a_lost_zone_leaves_endpoints_only_if_another_has_some() -> None:
    """What is sent to the lost pods until they are noticed after 50 s (CP-2.9) is lost in both; then only where no zone is left."""
    traffic, gone = (
        {"from": "nodes", "nodes": ["n3"], "via": "clusterIP", "perSecond": 2},
        {"nodeDown": {"nodes": ["n1", "n2"]}},
    )
    one, two = ([front(CLUSTER_IP), web(replicas=2), *on(*nodes)] for nodes in (("n1", "n2"), ("n1", "n3")))
    assert Cause.ZONE in causes(judged(*one))
    assert Cause.ZONE not in causes(judged(*two))
    late = [
        sum(
            each.disposition is not Fate.DELIVERED
            for each in played(side, gone, traffic, 70).connections
            if each.at_ns > 65 * SECOND_NS
        )
        for side in (one, two)
    ]
    assert late[0] > 0 and late[1] == 0


def test_a_budget_that_allows_nothing_holds_a_drain_up() -> None:
    sides = [[front(CLUSTER_IP), web(replicas=2), budget(least), *on("n1", "n3")] for least in (2, 1)]
    assert [Cause.BUDGET in causes(judged(*side)) for side in sides] == [True, False]
    logs = [played(side, DRAIN, {**FROM_NODES, "perSecond": 1}) for side in sides]
    assert [any(each.kind is HappeningKind.DRAIN_DONE for each in log.happenings) for log in logs] == [False, True]


def test_every_row_of_the_table_is_proved_here() -> None:
    assert {*PROOFS, Cause.ZONE, Cause.BUDGET} == set(Cause) == set(RULES)
