"""``kpsim risk``: verdicts on Services of every kind, from whatever a dump holds, and their formats."""

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from drafts import Json, cluster, keeper, node, pod, service

from kpsim.cli.application import run_command
from kpsim.cli.risk import _balancer
from kpsim.errors import InputError
from kpsim.risk import Assessment, Verdict, assess
from kpsim.risk.rules import Cause, Remedy
from kpsim.risk.writing import counts, junit, markdown, text
from kpsim.scenario.load_balancer_schema import LoadBalancerSpec

NODES = (node("n1", 1, zone="a"), node("n2", 2, zone="b"), node("n3", 3, zone="b"))
SLEEPS = {
    "containers": [
        {
            "name": "c", "ports": [{"containerPort": 8080}], "readinessProbe": {"periodSeconds": 1},
            "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        }
    ]
}  # fmt: skip
WEB = service("web", clusterIP="10.96.0.10")
LOCAL = {
    "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32001, "clusterIP": "10.96.0.10",
    "ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}],
}  # fmt: skip


def judged(*objects: Json, nodes: tuple[Json, ...] = NODES, **options: Any) -> Assessment:
    of = cluster(*objects, nodes=nodes)
    return assess(of.state, of.config, of.controllers, **options)


def one(*objects: Json, nodes: tuple[Json, ...] = NODES, **options: Any) -> Verdict:
    (found,) = judged(*objects, nodes=nodes, **options).verdicts
    return found


def pods(*at: str, kind: str = "StatefulSet", spec: Json = SLEEPS, ready: bool = True) -> list[Json]:
    return [
        pod(f"web-{i}", n, f"10.244.{n[1]}.{i + 5}", owner=(kind, "web"), ready=ready, **spec) for i, n in enumerate(at)
    ]


def kept(replicas: int, kind: str = "StatefulSet", spec: Json = SLEEPS, **more: Any) -> Json:
    counted = {} if kind == "DaemonSet" else {"replicas": replicas}
    return keeper(kind, "web", pods=spec, **counted, **more)


def budget(name: str = "web", **spec: Any) -> Json:
    return {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
    }  # fmt: skip


def causes(verdict: Verdict) -> list[Cause]:
    return [each.cause for each in verdict.findings]


def left(verdict: Verdict) -> dict[tuple[str, str], tuple[int, int]]:
    return {(each.event, each.subject): (each.during, each.after) for each in verdict.left}


def test_a_spread_service_whose_pods_leave_slowly_is_ok() -> None:
    found = one(WEB, kept(3), *pods("n1", "n2", "n3"))
    assert (found.risk, found.findings) == (False, ())
    assert left(found) == {
        ("drained", "n1"): (2, 3), ("drained", "n2"): (2, 3), ("drained", "n3"): (2, 3),
        ("node lost", "n1"): (2, 3), ("node lost", "n2"): (2, 3), ("node lost", "n3"): (2, 3),
        ("zone lost", "a"): (2, 3), ("zone lost", "b"): (1, 3),
    }  # fmt: skip


def test_pods_that_only_fit_one_node_do_not_come_back() -> None:
    chosen = {**SLEEPS, "nodeSelector": {"disk": "ssd"}}
    nodes = (node("n1", 1), node("n2", 2))
    nodes[0]["metadata"]["labels"]["disk"] = "ssd"
    found = one(WEB, kept(1, spec=chosen), *pods("n1", spec=chosen), nodes=nodes)
    assert left(found)["drained", "n1"] == (0, 0)
    (finding,) = [each for each in found.findings if each.cause is Cause.ALONE]
    assert finding.seconds is None


def test_a_drain_leaves_a_daemon_set_but_takes_other_pods() -> None:
    found = one(WEB, kept(3, "DaemonSet"), *pods("n1", "n2", "n3", kind="DaemonSet"))
    assert left(found)["drained", "n1"] == (3, 3)
    assert left(found)["node lost", "n1"] == (2, 2)


@pytest.mark.parametrize(
    ("spec", "ready", "blocks"),
    [
        ({"minAvailable": 2}, True, True),
        ({"minAvailable": 1}, True, False),
        ({"minAvailable": 1}, False, True),  # a pod is not ready: none may go
        ({"minAvailable": "51%"}, True, True),  # 1.02 of 2 is rounded up
        ({"minAvailable": "50%"}, True, False),
        ({"maxUnavailable": 0}, True, True),
        ({"maxUnavailable": "1%"}, True, False),
    ],
)
def test_budgets_count_ready_pods_and_round_up(spec: Json, ready: bool, blocks: bool) -> None:
    second = pod("web-1", "n2", "10.244.2.6", owner=("StatefulSet", "web"), ready=ready, **SLEEPS)
    found = one(WEB, kept(2), pods("n1")[0], second, budget(**spec))
    assert (Cause.BUDGET in causes(found)) is blocks


def test_two_budgets_over_one_pod_refuse_every_eviction() -> None:
    found = one(WEB, kept(2), *pods("n1", "n2"), budget(minAvailable=1), budget("other", minAvailable=1))
    assert causes(found) == [Cause.BUDGET]
    assert "shop/other and shop/web" in found.why or "shop/web and shop/other" in found.why


def test_the_window_is_that_of_the_load_balancer() -> None:
    """(N + 1) × period, and the sync that makes the health check fail (PP-11.7); minSyncPeriod is 1 s by default."""
    front = service("web", **LOCAL)
    lost = {}
    for balancer in (LoadBalancerSpec(), _balancer("aws-nlb", "", None), _balancer("", "1s", 1)):
        found = one(front, kept(3), *pods("n1", "n2", "n3"), balancer=balancer)
        lost[balancer.resolved(local=True).worst_window_ns] = [each.seconds for each in found.findings]
    assert lost == {15 * 10**9: [12.0], 30 * 10**9: [27.0], 2 * 10**9: []}


def test_a_hook_counts_only_within_the_grace_period() -> None:
    slow = json.loads(json.dumps(SLEEPS))
    slow["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] = 60
    slow["terminationGracePeriodSeconds"] = 10
    found = one(service("web", **LOCAL), kept(3, spec=slow), *pods("n1", "n2", "n3", spec=slow))
    assert [each.seconds for each in found.findings] == [7.0]
    assert any("outlasts the grace period of 10 s" in note for note in found.notes)


def test_all_in_one_zone_or_on_one_node() -> None:
    assert causes(one(WEB, kept(2), *pods("n2", "n3"))) == [Cause.ZONE]
    assert causes(one(WEB, kept(2), *pods("n2", "n2"))) == [Cause.ALONE]


def test_a_budget_lets_pods_of_one_node_go_one_by_one() -> None:
    found = one(WEB, kept(2), *pods("n2", "n2"), budget(minAvailable=1))
    assert left(found)["drained", "n2"] == (1, 2)
    assert [each.event for each in found.findings] == ["losing n2"]


def test_what_kube_proxy_does_not_serve_is_not_judged() -> None:
    name = service("web")
    name["spec"] = {"type": "ExternalName", "externalName": "db.example.org"}
    assert one(name).risk is None
    assert one(kept(2), WEB).risk is None  # where its pods run was not given
    other = service("web", clusterIP="10.96.0.10")
    other["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "cilium"}
    assert one(other, *pods("n1")).risk is None


def test_names_that_are_wrong_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean shop/web"):
        judged(WEB, services=["shop/wep"])
    with pytest.raises(InputError, match="there is no Node"):
        judged(WEB, nodes=())
    with pytest.raises(InputError, match="--probe-interval soon"):
        _balancer("", "soon", None)
    with pytest.raises(InputError, match="no such preset"):
        _balancer("aws", "", None)


def test_every_format_tells_the_same_verdicts() -> None:
    found = judged(WEB, kept(1), *pods("n1"), service("none", app="none", clusterIP="10.96.0.11"))
    assert [(each["service"], each["risk"]) for each in found.to_json()["services"]] == [
        ("shop/none", True),
        ("shop/web", True),
    ]
    assert counts(found) == "2 of 2 Services are at risk."
    cases = ElementTree.fromstring(junit(found).partition("\n")[2]).findall("testcase")
    assert [(each.get("name"), each.find("failure") is not None) for each in cases] == [
        ("shop/none", True),
        ("shop/web", True),
    ]
    for written in (text(found), markdown(found)):
        assert "AT RISK" in written and found.verdicts[1].findings[0].words.split(";")[0] in " ".join(written.split())


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--fail-on", "risk"), 1), (("--service", "shop/nobody"), 2)])
def test_exit_codes(options: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [*NODES, WEB, kept(1), *pods("n1")]}))
    monkeypatch.setattr(sys, "argv", ["kpsim", "risk", str(file), *options])
    assert run_command() == code


def test_a_new_pod_takes_a_period_of_its_probe_longer() -> None:
    """Its first probe is sent at once, before it answers, and the next a period later (CP-2.1): its preStop of 5 s does not cover that."""
    slow = json.loads(json.dumps(SLEEPS))
    slow["containers"][0]["readinessProbe"]["periodSeconds"] = 8
    kinds = [
        ("Deployment", 1 + 8 + 2 - 5),
        ("StatefulSet", 1 + 8 + 2),
    ]  # a StatefulSet's pod comes after the old one is gone
    for kind, seconds in kinds:
        found = one(WEB, kept(1, kind, slow), *pods("n1", kind=kind, spec=slow))
        assert [each.seconds for each in found.findings if each.event == "draining n1"] == [seconds]


@pytest.mark.parametrize(
    ("strategy", "nodes", "stuck"), [({}, 2, True), ({}, 3, False), ({"maxUnavailable": 1}, 2, False)]
)
def test_a_rollout_that_needs_a_node_more_than_there_are(strategy: Json, nodes: int, stuck: bool) -> None:
    """25 % of two pods is none that may be missing; the scheduler counts pods until they are gone."""
    held = json.loads(json.dumps(SLEEPS))
    held["containers"][0]["ports"][0]["hostPort"] = 8080
    web = kept(2, "Deployment", held, strategy={"rollingUpdate": strategy})
    found = one(WEB, web, *pods("n1", "n2", kind="Deployment", spec=held), nodes=NODES[:nodes])
    assert any("its rollout does not get on" in note for note in found.notes) is stuck


def test_a_stateful_set_whose_other_pods_are_not_ready_is_no_single_member() -> None:
    found = one(WEB, kept(2), pods("n1", "n2")[0], pods("n1", "n2", ready=False)[1])
    assert Remedy.OTHER_NODES in next(each for each in found.findings if each.cause is Cause.ALONE).helps


def test_a_drain_that_a_budget_never_lets_happen_takes_nothing() -> None:
    found = one(service("web", **LOCAL), kept(2), *pods("n1", "n2"), budget(minAvailable=2))
    assert left(found)["drained", "n1"] == (2, 2)
    assert [(each.cause, each.event) for each in found.findings] == [
        (Cause.LOCAL_WINDOW, "a rollout of shop/web"), (Cause.LOCAL_RETURN, "a rollout of shop/web"), (Cause.BUDGET, "draining n1, n2"),
    ]  # fmt: skip


def test_remedies_that_fit() -> None:
    """A percentage grows with the replicas, so more of them do not help."""
    helps = {}
    for spec in ({"minAvailable": 2}, {"minAvailable": "100%"}):
        (finding,) = one(WEB, kept(2), *pods("n1", "n2"), budget(**spec)).findings
        helps[str(spec["minAvailable"])] = list(finding.helps)
    assert helps == {"2": [Remedy.ALLOWING_BUDGET, Remedy.REPLICA], "100%": [Remedy.ALLOWING_BUDGET]}


def test_pods_that_no_object_keeps_do_not_come_back() -> None:
    found = one(WEB, *pods("n1", kind=""))
    assert left(found)["drained", "n1"] == (0, 0)
    (finding,) = found.findings
    assert (finding.event, finding.seconds) == ("draining n1", None) and "nothing makes its pods anew" in finding.words


def test_static_pods_stay_in_a_drain_and_end_with_their_machine() -> None:
    static = [pod(f"web-{n}", n, f"10.244.{n[1]}.5", owner=("Node", n), **SLEEPS) for n in ("n1", "n2")]
    found = one(WEB, *static)
    assert (left(found)["drained", "n1"], left(found)["node lost", "n1"]) == ((2, 2), (1, 1))
    (workload, _) = cluster(WEB, *static, nodes=NODES).scenario().content["workloads"]
    assert (workload["kind"], workload["placement"]) == ("DaemonSet", {"nodes": ["n1", "n2"]})


@pytest.mark.parametrize(("host_port", "events"), [({}, {"a rollout"}), ({"hostPort": 80}, set())])
def test_a_rollout_that_does_not_get_on_ends_no_pods(host_port: Json, events: set[str]) -> None:
    brief = {"containers": [{"name": "c", "ports": [{"containerPort": 8080, **host_port}]}]}
    surging = kept(0, "DaemonSet", brief, updateStrategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
    found = one(WEB, surging, *pods("n1", "n2", "n3", kind="DaemonSet", spec=brief))
    assert {each.event for each in found.findings} == events


@pytest.mark.parametrize("policy", ["", "AlwaysAllow"])
def test_a_budget_holds_a_pod_that_is_not_ready_although_none_need_be(policy: str) -> None:
    """No pod is ready and none need be: there is no disruption to allow, and IfHealthyBudget wants at least one."""
    spec = {"maxUnavailable": 1, **({"unhealthyPodEvictionPolicy": policy} if policy else {})}
    found = one(WEB, kept(1), *pods("n1", ready=False), budget(**spec))
    assert causes(found) == [Cause.NO_ENDPOINT, *([] if policy else [Cause.BUDGET])]
