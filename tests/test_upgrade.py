"""``kpsim upgrade``: which Services lose connections in a node upgrade, in which drain, by which way, and why."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from drafts import Json, node, pod, service, slices
from upgrades import BALANCED, CLUSTER_IP, LOCAL, NODES, upgraded, verdict, web

import kpsim
from kpsim.cli import main
from kpsim.errors import InputError
from kpsim.scenario import parse_scenario
from kpsim.simulation import run
from kpsim.simulation.runlog import Fate
from kpsim.upgrading.losses import Kind

ONLY_IN = "traffic=[{name: t, from: nodes, nodes: [n3], service: shop/web, perSecond: 10}]"
#: densely while the first pods go
DENSELY = "traffic=[{name: t, from: nodes, nodes: [n3], service: shop/web, perSecond: 60, start: 9s, stop: 17s}]"
ONLY_LB = "traffic=[{name: t, service: shop/web, via: loadBalancer, perSecond: 10, clients: 10}]"


def kinds(found: kpsim.UpgradeResult) -> set[tuple[tuple[str, ...], str, Kind]]:
    return {(each.nodes, each.frontend, each.kind) for each in verdict(found).losses}


def test_pods_without_a_hook_end_before_all_rules_have_dropped_them() -> None:
    """CP-2.8: SIGTERM comes at once; CP-1.2: the rules follow later. Both drains lose, and nothing else does."""
    found = upgraded(web("n1", "n2"), DENSELY, remedies=False)
    own = verdict(found)
    assert own.risk is True and kinds(found) == {((n,), "clusterIP", Kind.ENDS_EARLY) for n in ("n1", "n2")}
    assert own.about == "ClusterIP, 2 endpoints on 2 of 3 nodes"
    assert all(0 <= each.from_s <= each.until_s < 3 for each in own.losses)  # minSyncPeriod 1 s and the way of a change
    assert own.remedy is None and not own.tried


def test_a_run_of_the_scenario_that_is_written_has_the_same_losses() -> None:
    found = upgraded(web("n1", "n2"), DENSELY, remedies=False, seeds=2)
    scenario = parse_scenario(found.scenario, "written.yaml")
    logs = [run(scenario, seed=seed) for seed in (1, 2)]
    assert (
        tuple(sum(c.disposition is not Fate.DELIVERED for c in log.connections) for log in logs) == verdict(found).lost
    )
    assert verdict(found).sent == sum(len(log.connections) for log in logs)
    assert any(verdict(found).lost)


def test_pods_that_serve_until_they_are_dropped_lose_nothing() -> None:
    own = verdict(upgraded(web("n1", "n2", sleep=5), ONLY_IN))
    assert (own.risk, own.lost, own.tried) == (False, (0,), ())
    assert own.outcome.startswith("nothing lost in 1 of 1 seeds, of ")


def test_a_load_balancer_sends_to_a_machine_that_is_off_until_its_probes_have_failed() -> None:
    """FIG-3: of a Service with policy Cluster nothing but the machine's silence tells the load balancer, for up to 3 × 5 s."""
    found = upgraded(web("n1", "n2", sleep=5, **BALANCED), ONLY_LB, nodes=["n3"], takes=20, remedies=False)
    (loss,) = verdict(found).losses
    assert (loss.nodes, loss.frontend, loss.kind) == (("n3",), "loadBalancer", Kind.MACHINE_OFF)
    assert 4 <= loss.until_s - loss.from_s <= 15


def test_a_local_service_loses_at_the_node_that_has_no_endpoint_any_more() -> None:
    """PP-11.7: the load balancer believes two failures at 5 s each. The hook of 2 s ends long before."""
    found = upgraded(web("n1", "n2", sleep=2, **LOCAL), ONLY_LB, nodes=["n1"], takes=1, remedies=False)
    assert {kind for _, _, kind in kinds(found)} & {Kind.NO_LOCAL, Kind.MACHINE_OFF}
    assert verdict(found).about.startswith("LoadBalancer, externalTrafficPolicy Local, 2 endpoints")


def test_a_daemon_set_stays_in_the_rules_for_50_s_after_its_machine_went_off() -> None:
    """CP-2.9: a drain leaves the pod, and the node is silent for 50 s before its pods are not ready."""
    found = upgraded(web("n1", "n2", kind="DaemonSet"), ONLY_IN, nodes=["n1"], takes=60, remedies=False)
    (loss,) = verdict(found).losses
    assert (loss.nodes, loss.kind) == (("n1",), Kind.ENDPOINT_OFF)
    assert 48 < loss.until_s - loss.from_s < 52


def test_clients_that_dial_a_node_that_is_off_are_no_risk_of_the_service_and_are_told() -> None:
    front = {**CLUSTER_IP, "type": "NodePort", "ports": BALANCED["ports"]}
    sent = "traffic=[{name: t, service: shop/web, via: nodePort, nodes: [n3], perSecond: 10}]"
    own = verdict(upgraded(web("n1", "n2", sleep=5, **front), sent, nodes=["n3"], takes=3))
    assert own.risk is False and own.notes[0].startswith(
        "not counted: clients outside that dial a node's own address (node port)"
    )


def test_what_is_lost_without_an_upgrade_is_told_and_not_counted() -> None:
    front = {**CLUSTER_IP, "type": "NodePort", "externalTrafficPolicy": "Local", "ports": BALANCED["ports"]}
    sent = "traffic=[{name: t, service: shop/web, via: nodePort, nodes: [n3], perSecond: 5}]"
    own = verdict(upgraded(web("n1", "n2", sleep=5, **front), sent, nodes=["n1"]))
    assert (own.risk, own.lost) == (False, (0,))
    assert own.notes == ("not counted: clients outside lose already without an upgrade at n3 (no local endpoints)",)


def budget(name: str, **spec: int) -> Json:
    return {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name, "namespace": "shop"},
        "spec": {**spec, "selector": {"matchLabels": {"app": "web"}}},
    }  # fmt: skip


@pytest.mark.parametrize(
    "budgets", [[budget("a", minAvailable=2)], [budget("a", minAvailable=1), budget("b", minAvailable=1)]]
)
def test_a_drain_that_a_budget_holds_up_for_good_is_named(budgets: list[Json]) -> None:
    """The eviction API refuses what a budget does not allow, and every eviction that two budgets are about."""
    own = verdict(upgraded([*web("n1", "n2", sleep=5), *budgets], ONLY_IN, nodes=["n1"], remedies=False))
    assert own.stuck == ("n1",) and own.risk is True
    assert own.why.startswith("draining n1 does not end: its budget allows no eviction")


def test_a_budget_that_only_slows_a_drain_down_is_not_blamed() -> None:
    """Another Service's pods never go; those of shop/web go one by one, 5 s apart."""
    text = json.dumps(web("n1", "n2", sleep=5)).replace("web", "api").replace("10.96.0.10", "10.96.0.30")
    other = json.loads(text.replace("10.244.1.5", "10.244.1.15").replace("10.244.2.6", "10.244.2.16"))
    never = json.loads(json.dumps(budget("never", minAvailable=2)).replace('"app": "web"', '"app": "api"'))
    slow = budget("slow", minAvailable=1)
    found = upgraded([*web("n1", "n1", sleep=5), slow, *other, never], ONLY_IN, nodes=["n1"], remedies=False)
    assert found.outcome.course.stuck == {"n1": ("shop/api-5d4f8c7b9-2vqhb",)}
    assert verdict(found).stuck == ()


def test_every_service_has_a_verdict_or_a_reason() -> None:
    others = [
        service("named", type="ExternalName", externalName="a.example.com", selector=None, ports=None),
        service("members", clusterIP="None"),
        service("empty", app="nobody", clusterIP="10.96.0.20"),
        {**service("mesh", clusterIP="10.96.0.21"), "metadata": {"name": "mesh", "namespace": "shop", "labels": {"service.kubernetes.io/service-proxy-name": "m"}}},
    ]  # fmt: skip
    found = upgraded([*web("n1", "n2", sleep=5), *others], ONLY_IN, nodes=["n1"])
    assert [(each.service, each.risk) for each in found.verdicts] == [
        ("shop/web", False), ("shop/empty", None), ("shop/members", None), ("shop/mesh", None), ("shop/named", None),
    ]  # fmt: skip
    why = {each["service"]: each["why"] for each in found.to_json()["services"]}
    assert ["DNS record" in why["shop/named"], "headless" in why["shop/members"], "no endpoint" in why["shop/empty"], "another proxy" in why["shop/mesh"]] == [True] * 4  # fmt: skip


TAINT = {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}


def test_control_planes_are_upgraded_if_they_take_pods() -> None:
    plane = node("cp", 4, **TAINT)
    plane["metadata"]["labels"] = {"node-role.kubernetes.io/control-plane": ""}
    spared, taken = (
        kpsim.upgrade(
            kpsim.load(text=json.dumps({"apiVersion": "v1", "kind": "List", "items": [*NODES, plane, *objects]})),
            seeds=1,
            settings=["events[0].rollingUpgrade.takes=1s", ONLY_IN],
            jobs=1,
            remedies=False,
        )
        for objects in (
            web("n1", "n2", sleep=5),
            [*web("n1", "n2", sleep=5), pod("dns", "cp", "10.244.4.9", app="dns")],
        )
    )
    assert spared.to_json()["nodes"] == ["n1", "n2", "n3"] and spared.to_json()["spared"] == ["cp"]
    assert taken.to_json()["nodes"] == ["cp", "n1", "n2", "n3"] and taken.to_json()["spared"] == []


def test_a_process_of_a_node_is_not_evicted() -> None:
    """The API server's Service has a hand-written slice that leads to a node: it is gone while the machine is off, not before."""
    api = service("api", selector=None, clusterIP="10.96.0.1", ports=[{"port": 443, "targetPort": 6443}])
    ends = slices(
        "api",
        {"addresses": ["192.168.10.1"], "conditions": {"ready": True}},
        managed=False,
        ports=[{"name": "", "port": 6443}],
    )
    sent = "traffic=[{name: t, from: nodes, nodes: [n3], service: shop/api, perSecond: 10}]"
    own = verdict(upgraded([api, ends], sent, nodes=["n1"], takes=5), "shop/api")
    (loss,) = own.losses
    assert loss.kind is Kind.ENDPOINT_OFF and own.about == "ClusterIP, 1 endpoint on 1 of 3 nodes"
    assert 4.5 < loss.until_s - loss.from_s < 7


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["duration=10s"], "duration cannot be set"),
        (["events=[]"], "events[0] is the rolling upgrade"),
        (["workloads[web].termination.preStop=soon"], "--set workloads[web].termination.preStop=soon"),
        (["events[0].rollingUpgrade.nodes=[n9]"], "there is no node"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: list[str], words: str) -> None:
    with pytest.raises(InputError) as refused:
        upgraded(web("n1", "n2"), *settings)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("options", "code"),
    [((), 0), (("--fail-on", "risk"), 1), (("--service", "shop/nobody"), 2), (("--max-unavailable", "0"), 2), (("--load-balancer", "elb"), 2), (("--seeds", "0"), 2)],
)  # fmt: skip
def test_the_command_ends_with(
    options: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cluster.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [*NODES, *web("n1", "n2")]}))
    quick = ["--set", "events[0].rollingUpgrade={nodes: [n1], takes: 1s, maxUnavailable: 1}", "--set", DENSELY]
    monkeypatch.setattr(sys, "argv", ["kpsim", "upgrade", str(file), "--seeds", "1", "--no-remedies", *quick, *options])
    with pytest.raises(SystemExit) as left:
        main()
    assert int(left.value.code or 0) == code


def test_the_ways_to_write_it_agree() -> None:
    from kpsim.upgrading.writing import junit, markdown

    found = upgraded(web("n1", "n2"), DENSELY, nodes=["n1"], remedies=False)
    shown = found.to_json()["services"][0]
    assert (shown["service"], shown["risk"], shown["lost_by_seed"]) == ("shop/web", True, list(verdict(found).lost))
    suite = ElementTree.fromstring(junit(found.outcome))
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert "| shop/web | AT RISK |" in markdown(found.outcome) and "AT RISK        shop/web" in found.text()
    assert found.frame.iloc[0]["why"] == Kind.ENDS_EARLY.value and found.frame["lost"].sum() == sum(verdict(found).lost)
    assert "shop/web" in found._repr_html_() and repr(found).startswith("<An upgrade of")
