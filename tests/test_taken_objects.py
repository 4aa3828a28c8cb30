"""Nodes, Pods and Deployments among a scenario's objects: they become its nodes and workloads, and nothing is ignored silently."""

import json
from pathlib import Path

import pytest
from drafts import EVERYTHING, NODES, Json, keeper, pod, service

import kpsim
from kpsim.errors import InputError
from kpsim.scenario import Scenario, parse_scenario
from kpsim.scenario.nodes import cluster_nodes

WEB = service("web", clusterIP="10.96.0.10")
PODS = (
    pod("web-a", "n1", "10.244.1.5", owner=("StatefulSet", "web")),
    pod("web-b", "n2", "10.244.2.5", owner=("StatefulSet", "web")),
)


def parsed(*objects: Json, **fields: object) -> Scenario:
    content = {
        "apiVersion": "kpsim.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "t"}, "duration": "2s", "objects": list(objects),
        **fields,
    }  # fmt: skip
    return parse_scenario(json.dumps(content), "t.json")


def refused(*objects: Json, **fields: object) -> str:
    with pytest.raises(InputError) as caught:
        parsed(*objects, **fields)
    return str(caught.value)


def test_nodes_and_pods_stand_for_nodes_and_workloads() -> None:
    scenario = parsed(
        WEB, *NODES, *PODS, traffic=[{"name": "t", "from": "nodes", "service": "shop/web", "perSecond": 10}]
    )
    assert [(node.name, node.ips) for node in cluster_nodes(scenario.spec.nodes)] == [
        ("n1", ("192.168.10.1",)), ("n2", ("192.168.10.2",)),
    ]  # fmt: skip
    assert [pod.ips for pod in scenario.spec.workload("web").pods] == [("10.244.1.5",), ("10.244.2.5",)]
    assert "2 nodes, and the workloads web" in scenario.notes[0]
    log = kpsim.run(scenario).log
    assert {c.endpoint for c in log.connections} == {"10.244.1.5:8080", "10.244.2.5:8080"}


def test_a_deployment_is_a_workload_beside_those_of_the_file() -> None:
    own = [{"name": "web", "namespace": "shop", "replicas": 1}]
    scenario = parsed(
        WEB, service("api", app="api"), keeper("Deployment", "web"), keeper("Deployment", "api", app="api", replicas=2),
        nodes={"count": 2}, workloads=own,
    )  # fmt: skip
    assert [(w.name, w.replicas) for w in scenario.spec.workloads] == [("web", 1), ("api", 2)]
    assert "left out: objects of workloads that the file has itself: shop/web" in scenario.notes


def test_a_whole_cluster_as_manifests(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_bytes(EVERYTHING.read_bytes())
    traffic = "traffic: [{name: t, from: nodes, service: shop/db-primary, perSecond: 5}]\n"
    head = (
        "apiVersion: kpsim.dev/v1alpha1\nkind: Scenario\nmetadata: {name: t}\nduration: 2s\nmanifests: [cluster.yaml]\n"
    )
    (tmp_path / "mine.yaml").write_text(head + traffic)
    result = kpsim.run(tmp_path / "mine.yaml")
    assert {c.answered_by for c in result.log.connections} == {"shop/db-0"}
    assert any("Pods that terminate" in note and "web-6b5f4d8c79-jt9gw" in note for note in result.scenario.notes)
    assert not any("does not read objects that make" in note for note in result.scenario.notes)


def test_slices_of_the_controller_are_written_anew() -> None:
    given = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"name": "", "port": 8080}],
        "metadata": {"name": "web-x", "namespace": "shop", "labels": {
            "kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
        "endpoints": [{"addresses": ["10.244.1.5"], "nodeName": "n1", "targetRef": {"kind": "Pod", "namespace": "shop", "name": "web-a"}}],
    }  # fmt: skip
    scenario = parsed(WEB, *NODES, given)
    assert [obj.key.kind for obj in scenario.objects] == ["Service"]
    assert [pod.name for pod in scenario.spec.workload("web-a").pods] == ["web-a"]
    assert "says that the slice controller writes it" in refused(WEB, given, nodes={"count": 1})


def test_nodes_that_are_said_twice() -> None:
    assert refused(WEB, *NODES, nodes={"count": 2}).endswith(
        "the nodes are among the objects, too: leave nodes out, or the Nodes"
    )


def test_what_is_wrong_with_an_object_has_its_place() -> None:
    wrong = pod("web-a", "n1", "10.244.1.555")
    assert ".objects[3].status.podIPs[0].ip: Pod shop/web-a: expected an IP address" in refused(WEB, *NODES, wrong)


def test_other_kinds_are_refused_by_name() -> None:
    other = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "p"}}
    assert (
        "PodTemplate is not for objects of a scenario: expected Service, EndpointSlice, Endpoints, ServiceCIDR, or what"
        in refused(WEB, *NODES, other)
    )
