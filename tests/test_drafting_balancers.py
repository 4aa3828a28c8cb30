"""Load balancers of a draft: what a Service's annotations, class, host name and its nodes' cloud tell."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from drafts import PODS, WEB, cluster, drafted, keeper, node, pod, service

import kpsim
from kpsim.cli.application import run_command

_AWS = "service.beta.kubernetes.io/aws-load-balancer-"
_ELB = {"hostname": "k8s-shop-l-0a1b2c3d4e.elb.eu-central-1.amazonaws.com"}
_CLASSIC = {"hostname": "a0b1c2d3-12345.eu-central-1.elb.amazonaws.com"}  # the region stands before elb
_IP = {"ip": "198.51.100.1"}


def balanced(
    name: str = "l", ingress: dict[str, str] = _IP, annotations: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    made = service(name, type="LoadBalancer", **spec)
    made["metadata"]["annotations"] = annotations or {}
    made["status"] = {"loadBalancer": {"ingress": [ingress]}}
    return made


def test_a_load_balancer_with_a_host_name_alone_is_dialled_and_dials_node_ports() -> None:
    """kube-proxy reads no host names (O-2); such a load balancer reaches nodes by the node port."""
    given = balanced(
        ingress=_ELB, externalTrafficPolicy="Local", ports=[{"port": 80, "targetPort": 8080, "nodePort": 30080}]
    )
    draft = drafted(given, *PODS)
    assert [each["via"] for each in draft.content["traffic"]] == ["clusterIP", "loadBalancer"]
    result = kpsim.run(draft, settings=["duration=1s"])
    assert result.figures["delivered_ratio"] == 1
    assert result.figures["frontends.loadBalancer.sent"] == 10


def test_a_load_balancer_without_node_ports_or_without_a_name_has_no_traffic() -> None:
    no_ports = balanced("n", _ELB, allocateLoadBalancerNodePorts=False)
    pending = service("p", type="LoadBalancer")
    draft = drafted(no_ports, pending, *PODS)
    assert {each["via"] for each in draft.content["traffic"]} == {"clusterIP"}


@pytest.mark.parametrize(
    ("given", "cloud", "preset"),
    [
        (balanced(ingress=_ELB, loadBalancerClass="service.k8s.aws/nlb"), "aws:///a/i-1", "aws-nlb-controller"),
        (balanced(annotations={f"{_AWS}type": "external"}), "", "aws-nlb-controller"),
        (balanced(annotations={f"{_AWS}type": "nlb"}), "aws:///a/i-1", "aws-nlb"),
        (balanced(ingress=_CLASSIC), "aws:///a/i-1", "aws-clb"),
        (balanced(annotations={"metallb.io/ip-allocated-from-pool": "default"}), "", "metallb-l2"),
        (balanced(annotations={"metallb.universe.tf/address-pool": "x"}), "gce://p/z/n", "metallb-l2"),
        (balanced(), "gce://project/zone/vm", "gcp"),
        (balanced(), "azure:///subscriptions/s", "azure"),
    ],
)
def test_what_tells_the_kind_of_a_load_balancer(given: dict[str, Any], cloud: str, preset: str) -> None:
    nodes = (node("n1", 1, providerID=cloud), node("n2", 2, providerID=cloud))
    draft = drafted(given, *PODS, nodes=nodes)
    assert draft.content["loadBalancer"] == {"preset": preset}
    assert f"load balancers are as preset {preset} says (" in "\n".join(draft.guessed)
    assert "TODO" in draft.content.beside["loadBalancer"]


@pytest.mark.parametrize(
    "others",
    [
        pytest.param((balanced("m", {"ip": "198.51.100.2"}),), id="one not known"),
        pytest.param((balanced("m", {"ip": "198.51.100.2"}, {f"{_AWS}type": "nlb"}),), id="another kind"),
    ],
)
def test_load_balancers_of_several_kinds_are_no_preset(others: tuple[dict[str, Any], ...]) -> None:
    draft = drafted(balanced(annotations={"metallb.io/address-pool": "x"}), *others, *PODS)
    assert draft.content["loadBalancer"] == {"interval": "5s", "unhealthyThreshold": 2, "healthyThreshold": 2}
    assert any("as there are several kinds: " in each and "metallb-l2" in each for each in draft.guessed)


def test_another_class_than_those_known_is_no_preset() -> None:
    """A class takes a Service from the cloud's own controller."""
    nodes = (node("n1", 1, providerID="gce://p/z/n"), node("n2", 2))
    draft = drafted(balanced(loadBalancerClass="example.com/lb"), *PODS, nodes=nodes)
    assert "preset" not in draft.content["loadBalancer"]


@pytest.mark.parametrize(
    ("annotations", "of_class"),
    [({f"{_AWS}nlb-target-type": "ip"}, "service.k8s.aws/nlb"), ({f"{_AWS}type": "nlb-ip"}, None), ({}, "eks.amazonaws.com/nlb")],
)  # fmt: skip
def test_a_load_balancer_that_dials_pods_is_left_out_and_said_so(
    annotations: dict[str, str], of_class: str | None
) -> None:
    """Target type ip: its packets meet no rule of kube-proxy."""
    given = balanced(ingress=_ELB, annotations=annotations, ports=[{"port": 80, "nodePort": 30080}])
    if of_class:
        given["spec"]["loadBalancerClass"] = of_class
    draft = drafted(given, *PODS)
    assert [each["via"] for each in draft.content["traffic"]] == ["clusterIP"]
    assert "traffic by load balancers that dial pods, past kube-proxy (target type ip): shop/l" in draft.left_out


def test_nodes_that_a_label_excludes_get_nothing_from_load_balancers() -> None:
    """A scenario's load balancer has the nodes that a trace has, from the first packet on (CP-14.3)."""
    control_plane = node("n3", 3)
    control_plane["metadata"]["labels"]["node.kubernetes.io/exclude-from-external-load-balancers"] = ""
    nodes = (node("n1", 1), node("n2", 2), control_plane)
    draft = drafted(balanced(), *PODS, nodes=nodes, rollout="shop/web")
    assert [next(iter(each.keys() - {"at"})) for each in draft.content["events"]] == ["labelNode", "rollout"]
    result = kpsim.run(drafted(balanced(), *PODS, nodes=nodes), settings=["duration=4s"])
    met = {each.node for each in result.log.connections if each.frontend == "loadBalancer"}
    assert met == {"n1", "n2"}
    assert "events" in draft.content and not drafted(WEB, *PODS, nodes=nodes).content["events"]


def test_a_rollout_behind_no_service_says_that_nobody_dials_it() -> None:
    draft = drafted(
        WEB,
        keeper("DaemonSet", "agent", app="agent"),
        pod("agent-x", "n1", "10.244.1.9", app="agent", owner=("DaemonSet", "agent")),
        *PODS,
        rollout="shop/agent",
    )
    assert "traffic, as no Service leads to what is rolled out: shop/agent" in draft.left_out


def test_risk_takes_load_balancers_for_the_kind_that_drafts_take_them_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cluster.json"
    given = balanced(annotations={f"{_AWS}type": "external"})
    items = [node("n1", 1), node("n2", 2), given, *PODS]
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    monkeypatch.setattr(sys, "argv", ["kpsim", "risk", str(file)])
    assert run_command() == 0
    shown = capsys.readouterr()
    assert (
        f"load balancers are taken for aws-nlb-controller ({_AWS}type: external); --load-balancer says another"
        in shown.err
    )
    assert "load balancers probe nodes every 10 s and believe 3 failures" in shown.out
    monkeypatch.setattr(sys, "argv", ["kpsim", "risk", str(file), "--probe-interval", "2s"])
    assert run_command() == 0
    assert "every 2 s and believe 2 failures" in capsys.readouterr().out


def test_an_upgrade_keeps_nodes_from_load_balancers() -> None:
    control_plane = node("n3", 3)
    control_plane["metadata"]["labels"]["node.kubernetes.io/exclude-from-external-load-balancers"] = ""
    of = cluster(balanced(), *PODS, nodes=(node("n1", 1), node("n2", 2), control_plane))
    found = kpsim.upgrade(of, seeds=1, remedies=False)
    assert "labelNode" in found.scenario
