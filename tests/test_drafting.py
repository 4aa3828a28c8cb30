"""Scenarios drafted from clusters: what of nodes, pods, workloads and Services they take, and what they say about the rest."""

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from drafts import (
    EVERYTHING,
    HASH,
    PODS,
    ROOT,
    SET,
    WEB,
    Json,
    cluster,
    drafted,
    endpoint,
    keeper,
    loaded,
    pod,
    rules_at_start,
    service,
    slices,
    workloads,
)  # fmt: skip
from ruamel.yaml import YAML

import kpsim
from kpsim.errors import InputError
from kpsim.scenario import parse_scenario

# ------------------------------------------------------------------------------------------------------------ the whole


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_the_rules_at_the_start_are_those_of_the_cluster(mode: str) -> None:
    """Both families, Services of every kind, one pod that is not ready and one that terminates."""
    of = kpsim.load(EVERYTHING, mode=mode)
    found = rules_at_start(of, of.scenario())
    assert len(found) == 6
    for theirs, ours in found.values():
        assert "10.96.30.4" in theirs or "fd00:10:96::3004" in theirs
        assert ours == theirs


def test_the_text_and_the_content_are_one_scenario() -> None:
    draft = kpsim.load(EVERYTHING).scenario()
    assert parse_scenario(draft.text, "a").spec == parse_scenario(json.dumps(draft.content), "b").spec
    assert draft.text == kpsim.load(EVERYTHING).scenario().text
    assert str(draft.todos) == str(draft.text.count("TODO") - 1)


def test_comments_survive_an_edit_by_a_program() -> None:
    draft = drafted(WEB, *PODS)
    editor = YAML()
    content = editor.load(draft.text)
    content["traffic"][0]["perSecond"] = 7
    written = StringIO()
    editor.indent(mapping=2, sequence=4, offset=2)
    editor.width = 150
    editor.dump(content, written)
    # a comment keeps its column
    assert re.sub(r"(?<=\S) +#", " #", written.getvalue()) == draft.text.replace("perSecond: 10 #", "perSecond: 7 #")


def test_a_draft_runs_and_its_clients_are_answered() -> None:
    result = kpsim.run(drafted(WEB, *PODS), settings=["duration=2s"])
    assert result.figures["sent"] == result.figures["delivered"] == 20


def test_a_recording_is_a_cluster_too() -> None:
    """Its slices show pods, and it may know of more service networks than one object holds."""
    of = kpsim.load(ROOT / "tests/golden/iptables/faults-002.recording.jsonl")
    draft = of.scenario()
    assert loaded(draft).objects
    assert [each["metadata"]["name"] for each in draft.content["objects"] if each["kind"] == "ServiceCIDR"][:2] == [
        "kubernetes",
        "kubernetes-2",
    ]


# ------------------------------------------------------------------------------------------------------------ workloads


def test_pods_of_a_deployment_are_one_workload_with_their_names_and_addresses() -> None:
    of_old_revision = pod("web-66c5d9f8b7-zz7mk", "n1", "10.244.1.6", owner=("ReplicaSet", "web-66c5d9f8b7"),
                          labels={"pod-template-hash": "66c5d9f8b7"})  # fmt: skip
    web = keeper("Deployment", "web", replicas=3, strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": "10%"}})
    draft = drafted(WEB, web, *PODS, of_old_revision, rollout="shop/web")
    found = workloads(draft)
    assert list(found) == ["web"]
    assert (found["web"]["labels"], found["web"]["replicas"]) == ({"app": "web"}, 3)  # not the labels of the revision
    assert [(p["name"], p["node"], p["ips"]) for p in found["web"]["pods"]] == [
        ("web-5d4f8c7b9-2vqhs", "n1", ["10.244.1.5"]),
        ("web-5d4f8c7b9-8nkl6", "n2", ["10.244.2.5"]),
        ("web-66c5d9f8b7-zz7mk", "n1", ["10.244.1.6"]),
    ]
    (event,) = draft.content["events"]
    assert event == {"at": "10s", "rollout": {"workload": "web", "maxSurge": 1, "maxUnavailable": "10%"}}


def test_workloads_of_one_name_in_two_namespaces() -> None:
    theirs = pod("web-5d4f8c7b9-9xk2z", "n1", "10.244.1.9", namespace="test", owner=SET, labels=HASH)
    found = workloads(drafted(WEB, service("web", namespace="test"), *PODS, theirs))
    assert {name: each["namespace"] for name, each in found.items()} == {"shop-web": "shop", "test-web": "test"}


def test_named_ports_that_differ_make_two_workloads() -> None:
    old = {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8000}]}]}
    new = {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 9000}]}]}
    named = service("web", ports=[{"port": 80, "targetPort": "http"}])
    of = cluster(
        named,
        pod("web-a", "n1", "10.244.1.5", owner=("StatefulSet", "web"), **old),
        pod("web-b", "n2", "10.244.2.5", owner=("StatefulSet", "web"), **new),
    )
    found = workloads(of.scenario())
    assert [each["ports"] for each in found.values()] == [
        [{"containerPort": 8000, "name": "http"}], [{"containerPort": 9000, "name": "http"}],
    ]  # fmt: skip
    assert all(ours == theirs for theirs, ours in rules_at_start(of, of.scenario()).values())


NAME_LABEL = "statefulset.kubernetes.io/pod-name"


def members(*names: str) -> list[Json]:
    return [
        pod(name, f"n{n}", f"10.244.{n}.7", owner=("StatefulSet", "db"), labels={NAME_LABEL: name})
        for n, name in enumerate(names, 1)
    ]


def test_a_stateful_set_with_services_for_single_members() -> None:
    first = service("db-first", **{"selector": {"app": "web", NAME_LABEL: "db-0"}})
    db = keeper("StatefulSet", "db", replicas=2, updateStrategy={"rollingUpdate": {"partition": 1}})
    of = cluster(WEB, first, *members("db-0", "db-1"), db)
    draft = of.scenario(rollout="shop/db")
    found = workloads(draft)["db"]
    assert (found["kind"], found["labels"], found["replicas"]) == ("StatefulSet", {"app": "web"}, 2)
    (event,) = draft.content["events"]
    assert event["rollout"] == {"workload": "db", "maxUnavailable": 1, "partition": 1}
    assert {each["service"] for each in draft.content["traffic"]} == {"shop/web", "shop/db-first"}
    assert all(ours == theirs for theirs, ours in rules_at_start(of, draft).values())


def test_members_of_a_stateful_set_that_a_scenario_cannot_count() -> None:
    """The ordinals begin at 3."""
    first = service("db-first", **{"selector": {"app": "web", NAME_LABEL: "db-3"}})
    draft = drafted(WEB, first, *members("db-3", "db-4"), rollout="shop/db")
    assert {name: (each.get("kind"), each["labels"]) for name, each in workloads(draft).items()} == {
        "db-3": (None, {"app": "web", NAME_LABEL: "db-3"}), "db-4": (None, {"app": "web", NAME_LABEL: "db-4"}),
    }  # fmt: skip
    assert any("2 workloads behind shop/db are rolled out at once" in words for words in draft.guessed)


def test_spread_budget_and_gates() -> None:
    spread = [
        {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"},
        {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"},
        {"topologyKey": "rack", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"},
    ]
    web = keeper(
        "Deployment", "web", pods={"topologySpreadConstraints": spread, "readinessGates": [{"conditionType": "lb"}]}
    )
    budget = {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"minAvailable": "50%", "selector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}},
    }  # fmt: skip
    other = budget | {
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "api"}}},
        "metadata": {"name": "api", "namespace": "shop"},
    }
    draft = drafted(WEB, web, budget, other)
    found = workloads(draft)["web"]
    assert found["placement"]["topologySpread"] == [
        {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 2},
        {"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"},
    ]
    assert found["disruptionBudget"] == {"minAvailable": "50%"}
    assert found["readiness"] == {"gates": ["0s"]}
    assert "TODO: when lb is set" in found.beside["readiness"]
    assert "topologySpreadConstraints over rack: shop/web" in draft.left_out
    assert loaded(draft).spec.workload("web").disruption_budget is not None


def repelling(key: str, **labels: str) -> Json:
    return {"topologyKey": key, "labelSelector": {"matchLabels": labels}}


def test_pods_that_repel_each_other() -> None:
    """Required anti-affinity to pods of the workload itself is placement; to others, over other keys, or preferred it is told."""
    required = [
        repelling("kubernetes.io/hostname", app="web"), repelling("rack", app="web"), repelling("kubernetes.io/hostname", app="db"),
        {**repelling("topology.kubernetes.io/zone", app="web"), "namespaces": ["other"]},
    ]  # fmt: skip
    preferred = [{"weight": 1, "podAffinityTerm": repelling("topology.kubernetes.io/zone", app="web")}]
    both = {
        "requiredDuringSchedulingIgnoredDuringExecution": required,
        "preferredDuringSchedulingIgnoredDuringExecution": preferred,
    }
    draft = drafted(WEB, keeper("Deployment", "web", pods={"affinity": {"podAntiAffinity": both}}), *PODS)
    assert workloads(draft)["web"]["placement"] == {"antiAffinity": ["kubernetes.io/hostname"]}
    assert loaded(draft).spec.workload("web").placement.anti_affinity
    told = [words.partition(":")[0] for words in draft.left_out if "nti" in words]
    assert told == [
        "podAntiAffinity over rack",
        "podAntiAffinity to pods of other workloads",
        "preferred podAntiAffinity",
    ]


def test_two_budgets_over_one_pod_let_nothing_go() -> None:
    budgets = [
        {
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
        }
        for name in ("a", "b")
    ]  # fmt: skip
    found = workloads(drafted(WEB, keeper("Deployment", "web"), *PODS, *budgets))["web"]
    assert found["disruptionBudget"] == {"maxUnavailable": 0}
    assert "shop/a, shop/b select the same pods" in found.beside["disruptionBudget"]


def test_a_recreated_deployment_is_rolled_out_so() -> None:
    draft = drafted(WEB, keeper("Deployment", "web", strategy={"type": "Recreate"}), *PODS, rollout="shop/web")
    assert [each["rollout"] for each in draft.content["events"]] == [{"workload": "web", "recreate": True}]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (pod("web-x", "n1", "10.244.1.5", status={"phase": "Succeeded"}), "Pods that have ended (Succeeded)"),
        (pod("web-x", "n1", "10.244.1.5", meta={"deletionTimestamp": "2026-05-04T09:00:00Z"}), "Pods that terminate"),
        (pod("web-x", "", "10.244.1.5"), "Pods that have no node or address yet"),
        (pod("web-x", "n9", "10.244.1.5"), "Pods on nodes that were not given"),
        (pod("other", "n1", "10.244.1.5", app="other"), "1 Pod that no Service of the draft selects"),
    ],
)
def test_a_pod_that_is_left_out_is_named(given: Json, words: str) -> None:
    draft = drafted(WEB, given)
    assert not any("pods" in each for each in workloads(draft).values())
    assert any(each.startswith(words) for each in draft.left_out)


def test_a_pod_that_is_not_ready_stays_so() -> None:
    of = cluster(WEB, PODS[0], pod("web-y", "n2", "10.244.2.6", owner=SET, labels=HASH, ready=False))
    draft = of.scenario()
    assert [each.get("ready", True) for each in workloads(draft)["web"]["pods"]] == [True, False]
    assert all(ours == theirs for theirs, ours in rules_at_start(of, draft).values())


def test_pods_on_the_host_network_have_their_node_s_address() -> None:
    found = workloads(drafted(WEB, pod("web-x", "n2", "192.168.10.2", hostNetwork=True)))
    assert (found["web-x"]["hostNetwork"], found["web-x"]["pods"]) == (True, [{"name": "web-x", "node": "n2"}])


def test_a_deployment_whose_pods_were_not_given_has_all_replicas() -> None:
    draft = drafted(WEB, keeper("Deployment", "web", replicas=5))
    assert workloads(draft)["web"]["replicas"] == 5
    assert any("all replicas run and are ready" in words and "shop/web" in words for words in draft.guessed)
    assert kpsim.run(draft, settings=["duration=1s"]).figures["delivered_ratio"] == 1


def test_a_deployment_without_replicas_stays_and_its_service_refuses() -> None:
    draft = drafted(WEB, keeper("Deployment", "web", replicas=0))
    assert workloads(draft)["web"]["replicas"] == 0
    assert draft.content["traffic"][0].head == "shop/web has no endpoint: its clients are refused"
    assert kpsim.run(draft, settings=["duration=1s"]).figures["delivered"] == 0


def test_what_slices_alone_show_becomes_pods() -> None:
    named = service("web", ports=[{"name": "http", "port": 80, "targetPort": "http"}])
    shown = slices(
        "web", endpoint("web-5d4f8c7b9-2vqhs", "n1", "10.244.1.5"), endpoint("web-5d4f8c7b9-8nkl6", "n2", "10.244.2.5"),
        endpoint("web-5d4f8c7b9-gone1", "n2", "10.244.2.6", ready=False, serving=True, terminating=True),
        ports=[{"name": "http", "port": 8080}],
    )  # fmt: skip
    of = cluster(named, shown, keeper("Deployment", "web", replicas=2, minReadySeconds=3))
    draft = of.scenario()
    found = workloads(draft)
    assert list(found) == ["web"]
    assert found["web"]["labels"] == {"app": "web"}
    assert found["web"]["ports"] == [{"containerPort": 8080, "name": "http"}]
    assert [p["name"] for p in found["web"]["pods"]] == ["web-5d4f8c7b9-2vqhs", "web-5d4f8c7b9-8nkl6"]
    assert not any(each["kind"] == "EndpointSlice" for each in draft.content["objects"])
    assert found["web"]["minReady"] == "3s"
    assert all(ours == theirs for theirs, ours in rules_at_start(of, draft).values())


def test_one_pod_behind_two_services_has_the_labels_of_both_selectors() -> None:
    both = [service("web"), service("admin", **{"selector": {"role": "admin"}})]
    shown = [slices(name, endpoint("web-0", "n1", "10.244.1.5")) for name in ("web", "admin")]
    assert [each["labels"] for each in workloads(drafted(*both, *shown)).values()] == [{"app": "web", "role": "admin"}]


def test_a_service_without_selector_keeps_its_slices_and_pods_answer_there() -> None:
    by_hand = service("outside", clusterIP="10.96.0.20")
    del by_hand["spec"]["selector"]
    mine = slices("outside", {"addresses": ["10.244.1.50"]}, {"addresses": ["192.168.10.2"]}, managed=False)
    of = cluster(by_hand, mine, pod("lone", "n1", "10.244.1.50", app="lone"))
    draft = of.scenario()
    assert [each["metadata"]["name"] for each in draft.content["objects"] if each["kind"] == "EndpointSlice"] == [
        "outside-abcde"
    ]
    assert all(ours == theirs for theirs, ours in rules_at_start(of, draft).values())
    assert kpsim.run(draft, settings=["duration=2s"]).figures["delivered_ratio"] == 1
    on_a_node = slices("outside", {"addresses": ["10.244.2.60"], "nodeName": "n2"}, managed=False)
    assert kpsim.run(drafted(by_hand, on_a_node), settings=["duration=1s"]).figures["delivered_ratio"] == 1
    elsewhere = slices("outside", {"addresses": ["203.0.113.9"]}, managed=False)
    result = kpsim.run(drafted(by_hand, elsewhere), settings=["duration=1s"])
    assert (
        result.figures["delivered_ratio"] == 1 and result.figures["sent"] > 0
    )  # outside the cluster, and taken to answer
    assert {c.endpoint for c in result.log.connections} == {"203.0.113.9:8080"}
    nobody = drafted(by_hand, slices("outside", managed=False))
    assert nobody.content["traffic"] == []


# ------------------------------------------------------------------------------------------------------------- the rest


def test_services_lose_what_the_api_server_fills_in() -> None:
    given = service(
        "web", clusterIP="10.96.0.10", clusterIPs=["10.96.0.10"], ipFamilies=["IPv4"], sessionAffinity="None"
    )
    given["metadata"] |= {"uid": "u", "resourceVersion": "7", "annotations": {"note": "long"}, "labels": {"team": "a"}}
    (found,) = drafted(given).content["objects"]
    assert found == {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.10", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }  # fmt: skip


def test_what_decides_about_slices_stays() -> None:
    given = service("web", trafficDistribution="PreferSameZone", publishNotReadyAddresses=True)
    given["metadata"]["annotations"] = {"service.kubernetes.io/topology-mode": "Auto"}
    (found,) = drafted(given).content["objects"]
    assert found["metadata"]["annotations"] == {"service.kubernetes.io/topology-mode": "Auto"}
    assert (found["spec"]["trafficDistribution"], found["spec"]["publishNotReadyAddresses"]) == ("PreferSameZone", True)


def test_kube_proxy_s_configuration_without_what_is_default_anyway() -> None:
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "nftables",
        "clusterCIDR": "10.244.0.0/16", "nftables": {"minSyncPeriod": "2s", "syncPeriod": "30s", "masqueradeBit": None},
        "clientConnection": {"qps": 5}, "metricsBindAddress": "", "conntrack": {"min": 131072},
    }  # fmt: skip
    draft = drafted(config, WEB)
    assert draft.content["proxy"] == {
        "mode": "nftables",
        "clusterCIDR": "10.244.0.0/16",
        "nftables": {"minSyncPeriod": "2s"},
    }


def test_without_configuration_there_is_no_cluster_cidr_and_a_mark() -> None:
    draft = drafted(WEB)
    assert draft.content["proxy"] == {"clusterCIDR": ""}
    assert loaded(draft).proxy.cluster_cidr == ""
    assert "kubectl -n kube-system get configmap kube-proxy -o yaml" in draft.content["proxy"].above["clusterCIDR"]


def test_every_way_to_a_service_has_its_traffic() -> None:
    names = {"ClusterIP": "c", "NodePort": "n", "LoadBalancer": "l"}
    kinds = [
        service(name, type=kind, externalIPs=["203.0.113.200"] if kind == "ClusterIP" else [])
        for kind, name in names.items()
    ]
    kinds[2]["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}
    none = [service("h", clusterIP="None"), service("e", type="ExternalName", externalName="example.com", ports=[])]
    draft = drafted(*kinds, *none, *PODS)
    assert [(each["service"], each["via"]) for each in draft.content["traffic"]] == [
        ("shop/c", "clusterIP"), ("shop/c", "externalIP"), ("shop/l", "clusterIP"), ("shop/l", "loadBalancer"),
        ("shop/n", "clusterIP"), ("shop/n", "nodePort"),
    ]  # fmt: skip
    assert kpsim.run(draft, settings=["duration=1s"]).figures["delivered_ratio"] == 1


def test_clients_are_within_the_ranges_that_a_load_balancer_lets_in() -> None:
    given = service("l", type="LoadBalancer", loadBalancerSourceRanges=["10.244.0.0/15"])
    given["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}}
    draft = drafted(given, *PODS)
    source = next(each for each in draft.content["traffic"] if each["via"] == "loadBalancer")
    assert source["clientNetwork"] == "10.244.0.0/27"  # the pods are in 10.244.1.0/24 and 10.244.2.0/24
    assert kpsim.run(draft, settings=["duration=1s"]).figures["delivered_ratio"] == 1


def test_clients_have_no_address_of_the_cluster() -> None:
    given = service("l", type="LoadBalancer")
    given["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.10"}]}}
    draft = drafted(given, *PODS)
    source = next(each for each in draft.content["traffic"] if each["via"] == "loadBalancer")
    assert source["clientNetwork"] == "198.18.0.0/27"
    assert kpsim.run(draft, settings=["duration=3s"]).figures["delivered_ratio"] == 1


def test_a_service_with_several_load_balancers_keeps_them_and_is_dialled_otherwise() -> None:
    given = service("l", type="LoadBalancer")
    given["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}, {"ip": "198.51.100.2"}]}}
    draft = drafted(given, *PODS)
    assert [each["via"] for each in draft.content["traffic"]] == ["clusterIP"]
    assert "traffic by load balancer, as the Service has several: shop/l" in draft.left_out
    (kept,) = [obj for obj in draft.content["objects"] if obj["kind"] == "Service"]
    assert len(kept["status"]["loadBalancer"]["ingress"]) == 2
    assert kpsim.run(draft, settings=["duration=1s"]).figures["delivered_ratio"] == 1


def test_many_load_balancers_that_let_in_one_network() -> None:
    """Every source has addresses of its own."""
    given = [service(f"l{n}", type="LoadBalancer", loadBalancerSourceRanges=["10.0.0.0/8"]) for n in range(300)]
    for n, each in enumerate(given):
        each["status"] = {"loadBalancer": {"ingress": [{"ip": f"198.51.{n // 250}.{n % 250 + 1}"}]}}
    networks = [each["clientNetwork"] for each in drafted(*given).content["traffic"] if each["via"] == "loadBalancer"]
    assert (len(set(networks)), networks[0], networks[-1]) == (300, "10.0.0.0/27", "10.0.37.96/27")


# -------------------------------------------------------------------------------------------------- lives of the pods


@pytest.mark.parametrize(
    ("hook", "pre_stop", "beside"),
    [
        ({"sleep": {"seconds": 8}}, "8s", ""),
        ({"exec": {"command": ["sleep", "10"]}}, "10s", ""),
        ({"exec": {"command": ["/bin/sh", "-c", "sleep 5 && sleep 2.5"]}}, "7.5s", "only its sleep counts"),
        ({"exec": {"command": ["bash", "-c", "nginx -s quit; sleep 1m"]}}, "1m", "only its sleep counts"),
        ({"exec": {"command": ["/wait-shutdown"]}}, "0s", "TODO: how long the preStop hook (command `/wait-shutdown`) runs"),
        ({"httpGet": {"path": "/stop", "port": 80}}, "0s", "TODO: how long the preStop hook (httpGet) runs"),
    ],
)  # fmt: skip
def test_pre_stop_hooks(hook: Json, pre_stop: str, beside: str) -> None:
    containers = [{"name": "c", "ports": [{"containerPort": 8080}], "lifecycle": {"preStop": hook}}]
    draft = drafted(
        WEB, keeper("Deployment", "web", pods={"containers": containers, "terminationGracePeriodSeconds": 45})
    )
    ending = workloads(draft)["web"]["termination"]
    assert (ending["preStop"], ending["grace"]) == (pre_stop, "45s")
    assert beside in ending.beside.get("preStop", "")


def test_how_long_pods_took_to_become_ready_is_how_long_they_take() -> None:
    def aged(name: str, ready_at: str) -> Json:
        condition = {"type": "Ready", "status": "True", "lastTransitionTime": f"2026-05-04T{ready_at}Z"}
        created = {"creationTimestamp": "2026-05-04T08:00:00Z"}
        return pod(
            name,
            "n1",
            f"10.244.1.{len(name)}",
            owner=SET,
            labels=HASH,
            meta=created,
            status={"conditions": [condition]},
        )

    probe = {"containers": [{"name": "c", "ports": [{"containerPort": 8080}], "readinessProbe": {"periodSeconds": 4}}]}
    given = [
        aged("web-a", "08:00:09"),
        aged("web-bc", "08:00:11"),
        aged("web-def", "08:00:12"),
        aged("web-late", "11:00:00"),
    ]
    found = workloads(drafted(WEB, keeper("Deployment", "web", pods=probe), *given))["web"]
    # half a period of the probe is part of the median of 11 s; the fourth was not ready in between
    assert found["startup"] == {"delay": "9s"}
    assert found["probes"] == {"readiness": {"period": "4s"}}


# -------------------------------------------------------------------------------------------------------- what is asked


def test_some_services_bring_only_their_workloads() -> None:
    other = [service("api", app="api"), pod("api-1", "n1", "10.244.1.8", app="api")]
    draft = drafted(WEB, *PODS, *other, services=("shop/api",))
    assert list(workloads(draft)) == ["api"]
    assert [each["metadata"]["name"] for each in draft.content["objects"]] == ["api"]


def test_a_rollout_sends_traffic_only_where_it_happens() -> None:
    other = [service("api", app="api"), pod("api-1", "n1", "10.244.1.8", app="api")]
    draft = drafted(WEB, *PODS, *other, rollout="shop/api")
    assert [each["service"] for each in draft.content["traffic"]] == ["shop/api"]
    assert [each["rollout"]["workload"] for each in draft.content["events"]] == ["api"]


def test_a_slow_rollout_has_time() -> None:
    slow = {"containers": [{"name": "c", "readinessProbe": {"periodSeconds": 20}}]}
    web = keeper(
        "Deployment", "web", pods=slow, replicas=10, strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    )
    draft = drafted(WEB, web, rollout="shop/web")
    result = kpsim.run(draft, settings=["traffic[0].perSecond=0.1"])
    assert loaded(draft).duration_ns > 200e9
    assert sum(h.kind == "pod gone" for h in result.log.happenings) == 10


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"services": ("shop/wep",)}, "--service shop/wep: there is no such Service; did you mean shop/web?"),
        ({"rollout": "shop/wep"}, "--rollout shop/wep: there is no such workload or Service; did you mean shop/web?"),
        (
            {"rollout": "shop/empty"},
            "--rollout shop/empty: none of the pods that were given has the labels that the Service selects by, app=none (kubectl get",
        ),
        ({"rollout": "shop/name"}, "--rollout shop/name: an ExternalName Service has no pods"),
        ({"rollout": "shop/plain"}, "--rollout shop/plain: this Service has no selector"),
    ],
)
def test_unknown_names(asked: Json, words: str) -> None:
    name = service("name", type="ExternalName", externalName="example.com", ports=[])
    plain = service("plain", selector=None)
    with pytest.raises(InputError) as caught:
        drafted(WEB, service("empty", app="none"), name, plain, *PODS, **asked)
    assert str(caught.value).startswith(words)


def test_the_scenario_of_the_documents_beside_a_dump(tmp_path: Path) -> None:
    (written,) = re.findall(
        r"^```yaml\n(apiVersion: kpsim.*?)^```$", EVERYTHING.with_suffix(".md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / EVERYTHING.name).write_bytes(EVERYTHING.read_bytes())
    (tmp_path / "mine.yaml").write_text(written)
    result = kpsim.run(tmp_path / "mine.yaml", settings=["duration=11s", "traffic[0].perSecond=5"])
    assert result.figures["delivered_ratio"] == 1


def test_what_is_no_cluster() -> None:
    with pytest.raises(InputError, match="there is no Service among the objects"):
        drafted(keeper("Deployment", "web"))
    with pytest.raises(InputError, match=r"a scenario, where a cluster's objects are expected: kpsim run runs it"):
        kpsim.load(text=drafted(WEB).text)


def test_a_deployment_that_cannot_be_read_is_an_error_with_its_place() -> None:
    wrong = keeper("Deployment", "web", replicas="three")
    with pytest.raises(InputError, match=r"Deployment web: \.spec\.replicas: expected an integer, got a string"):
        drafted(WEB, wrong)
