"""Scenarios drafted from clusters: nodes, their networks and zones, and where new pods may go."""

import pytest
from drafts import (
    NODES,
    PODS,
    WEB,
    Json,
    cluster,
    drafted,
    keeper,
    loaded,
    node,
    pod,
    rules_at_start,
    workloads,
)  # fmt: skip

import kpsim
from kpsim.config import Mode, ProxyConfig
from kpsim.errors import InputError
from kpsim.scenario import parse_scenario
from kpsim.verify.drawing.choices import SeededChoices
from kpsim.verify.drawing.clusters import draw_manifest


def test_nodes_have_zones_addresses_networks_and_whole_cpus() -> None:
    given = node("a.example.org", 7, zone="z1")
    given["status"]["allocatable"] = {"cpu": "3920m"}
    given["status"]["addresses"].insert(0, {"type": "ExternalIP", "address": "203.0.113.77"})
    draft = drafted(WEB, nodes=(given,))
    (found,) = draft.content["nodes"]["list"]
    # the first is the node IP (CFG-7.1)
    assert found == {
        "name": "a.example.org", "zone": "z1", "ips": ["192.168.10.7", "203.0.113.77"], "podCIDRs": ["10.244.7.0/24"], "cpu": 3,
    }  # fmt: skip
    assert any("ExternalIPs are addresses" in words and "a.example.org" in words for words in draft.guessed)


@pytest.mark.parametrize("seed", [1, 5, 13])
def test_drawn_clusters_keep_their_rules(seed: int) -> None:
    """Services without selector: families that no node shows, external addresses, IPv6 addresses that YAML may take for something else."""
    of = kpsim.load(text=draw_manifest(SeededChoices(seed)))
    draft = of.scenario()
    assert parse_scenario(draft.text, "a").spec == loaded(draft).spec
    assert all(ours == theirs for theirs, ours in rules_at_start(of, draft).values())


def test_without_service_cidr_nftables_mode_guesses_one() -> None:
    draft = cluster(WEB, *PODS).with_config(ProxyConfig(mode=Mode.NFTABLES)).scenario()
    assert any("the ServiceCIDR is the range around the cluster IPs" in words for words in draft.guessed)
    assert draft.content["proxy"]["mode"] == "nftables"


def test_a_node_without_pod_network_keeps_the_addresses_of_its_pods() -> None:
    """As clusters are whose pods have addresses of the nodes' own network."""
    bare = node("n1", 1)
    del bare["spec"]["podCIDR"], bare["spec"]["podCIDRs"]
    of = cluster(WEB, pod("web-x", "n1", "192.168.10.77"), nodes=(bare, node("n2", 2)))
    draft = of.scenario()
    assert workloads(draft)["web-x"]["pods"] == [{"name": "web-x", "node": "n1", "ips": ["192.168.10.77"]}]
    assert any("pod networks for Nodes without podCIDR" in words for words in draft.guessed)
    assert all(ours == theirs for theirs, ours in rules_at_start(of, draft).values())
    assert kpsim.run(draft, settings=["duration=1s"]).figures["delivered_ratio"] == 1


def test_what_two_nodes_or_pods_claim_goes_to_the_first() -> None:
    """A dump that was pasted together: its draft runs all the same."""
    twice = node("n2", 1)
    draft = drafted(
        WEB, pod("web-a", "n1", "10.244.1.5"), pod("web-b", "n2", "10.244.1.5"), nodes=(node("n1", 1), twice)
    )
    assert [(each.get("ips"), each["podCIDRs"]) for each in draft.content["nodes"]["list"]] == [
        (["192.168.10.1"], ["10.244.1.0/24"]), (None, ["10.180.1.0/24"]),
    ]  # fmt: skip
    assert [each.get("ips") for found in workloads(draft).values() for each in found["pods"]] == [["10.244.1.5"], None]
    assert "addresses that another Node has already: 192.168.10.1: n2" in draft.left_out
    assert "free addresses for pods whose address a node or another pod has: shop/web-b" in draft.guessed
    assert kpsim.run(draft, settings=["duration=1s"]).figures["delivered_ratio"] == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"strategy": {"rollingUpdate": {"maxSurge": "many"}}}, ".spec.strategy.rollingUpdate.maxSurge: expected a number or a percentage"),
        ({"minReadySeconds": -1}, ".spec.minReadySeconds: expected zero or more, got -1"),
        ({"pods": {"containers": [{"name": "c", "readinessProbe": {"periodSeconds": -5}}]}}, "periodSeconds: expected zero or more, got -5"),
        ({"pods": {"topologySpreadConstraints": [{"topologyKey": "x", "whenUnsatisfiable": "No"}]}}, "expected DoNotSchedule or ScheduleAnyway, got 'No'"),
    ],
)  # fmt: skip
def test_values_that_no_api_server_takes(spec: Json, words: str) -> None:
    with pytest.raises(InputError) as caught:
        drafted(WEB, keeper("Deployment", "web", **spec))
    assert words in str(caught.value)


def test_without_anything_that_names_a_node_there_are_three() -> None:
    draft = drafted(WEB, keeper("Deployment", "web"), nodes=())
    assert draft.content["nodes"]["list"] == [
        {"name": f"node-{n}", "podCIDRs": [f"10.180.{n}.0/24"]} for n in (1, 2, 3)
    ]
    assert any(
        "as none was given (kubectl get nodes -o yaml): node-1, node-2, node-3" in words for words in draft.guessed
    )


def test_without_nodes_those_that_pods_name_are_assumed() -> None:
    draft = drafted(WEB, *PODS, nodes=())
    assert [each["name"] for each in draft.content["nodes"]["list"]] == ["n1", "n2"]
    assert any("as none was given (kubectl get nodes -o yaml)" in words for words in draft.guessed)


def test_more_nodes_than_a_scenario_holds() -> None:
    many = tuple(node(f"n{n}", n % 256) | {"spec": {}, "status": {}} for n in range(1, 301))
    draft = drafted(WEB, pod("web-x", "n300", "10.1.2.3"), nodes=many)
    names = [each["name"] for each in draft.content["nodes"]["list"]]
    assert len(names) == 250
    assert "n300" in names
    assert any("50 Nodes without pods of the draft" in words for words in draft.left_out)
    pods = [pod(f"web-{n}", f"n{n}", f"10.1.{n // 250}.{n % 250 + 1}") for n in range(1, 301)]
    with pytest.raises(InputError, match=r"run on 300 nodes.*--service NAMESPACE/NAME"):
        drafted(WEB, *pods, nodes=many)


def test_new_pods_go_where_labels_taints_and_cordons_let_them() -> None:
    tainted = node("cp", 3, taints=[{"key": "dedicated", "value": "cp", "effect": "NoSchedule"}])
    cordoned = node("n4", 4, unschedulable=True)
    ssd = node("n5", 5)
    ssd["metadata"]["labels"]["disk"] = "ssd"
    nodes = (*NODES, tainted, cordoned, ssd)
    web = keeper("Deployment", "web")
    assert workloads(drafted(WEB, web, nodes=nodes))["web"]["placement"] == {"nodes": ["n1", "n2", "n5"]}
    tolerant = keeper("Deployment", "web", pods={"tolerations": [{"key": "dedicated", "operator": "Exists"}]})
    assert workloads(drafted(WEB, tolerant, nodes=nodes))["web"]["placement"] == {"nodes": ["cp", "n1", "n2", "n5"]}
    picky = keeper("Deployment", "web", pods={"nodeSelector": {"disk": "ssd"}})
    assert workloads(drafted(WEB, picky, nodes=nodes))["web"]["placement"] == {"nodes": ["n5"]}
    term = {"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["ssd"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    shy = keeper("Deployment", "web", pods={"affinity": {"nodeAffinity": required}})
    assert workloads(drafted(WEB, shy, nodes=nodes))["web"]["placement"] == {"nodes": ["n1", "n2"]}
