"""Edits of a loaded cluster, and the EndpointSlices that the slice controller then writes (CP-3)."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import kpsim
from kpsim.cli import main
from kpsim.errors import InputError
from kpsim.explore import Cluster
from kpsim.objects import LABEL_HEADLESS, EndpointSlice, SliceEndpoint

Json = dict[str, Any]
ZONE = "topology.kubernetes.io/zone"
MANAGED = {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}


def node(name: str, zone: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {ZONE: zone}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "4"}},
    }


def service(name: str = "web", **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}"},
        "spec": {
            "clusterIP": "172.30.0.10" if name == "web" else "172.30.0.20",
            "selector": {"app": name},
            "ports": [{"name": "http", "port": 80, "targetPort": "web"}],
            **spec,
        },
    }


def endpoint(pod: str, address: str, on: str, zone: str, ready: bool = True, **fields: Any) -> Json:
    return {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": ready, "terminating": False},
        "nodeName": on,
        "zone": zone,
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": pod},
        **fields,
    }


def slice_of(*endpoints: Json, of: str = "web", **fields: Any) -> Json:
    owner = {"apiVersion": "v1", "kind": "Service", "name": of, "uid": f"uid-{of}"}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{of}-abcde",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": of, **MANAGED},
            "ownerReferences": [owner],
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": list(endpoints),
        **fields,
    }


def pod(name: str, address: str, on: str, app: str = "web") -> Json:
    ports = [{"name": "web", "containerPort": 8080}, {"name": "admin", "containerPort": 9090}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
        "spec": {"nodeName": on, "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }


NODES = (node("n1", "a"), node("n2.example.com", "b"))
ENDPOINTS = (endpoint("p1", "10.180.1.5", "n1", "a"), endpoint("p2", "10.180.2.5", "n2.example.com", "b"))
DUMP = (*NODES, service(), slice_of(*ENDPOINTS))
WITH_PODS = (*DUMP, pod("p1", "10.180.1.5", "n1"), pod("p2", "10.180.2.5", "n2.example.com"))


def load(*objects: Json, **options: Any) -> Cluster:
    return kpsim.load(text="\n---\n".join(map(json.dumps, objects)), **options)


def slices(cluster: Cluster, of: str = "web") -> list[EndpointSlice]:
    return [item for item in cluster.state.endpoint_slices if item.service_name == of]


def endpoints(cluster: Cluster, of: str = "web") -> dict[str, SliceEndpoint]:
    return {each.addresses[0]: each for item in slices(cluster, of) for each in item.endpoints}


def ports(cluster: Cluster) -> list[tuple[str | None, int | None]]:
    return [(port.name, port.port) for item in slices(cluster) for port in item.ports]


def told(cluster: Cluster, words: str) -> list[str]:
    return [note for note in cluster.notes if words in note]


AGAIN = "EndpointSlices of shop/web derived again, as the slice controller would write them: "

# ----------------------------------------------------------------------------------------------- without Pods: from slices


@pytest.mark.parametrize(
    ("distribution", "zones", "nodes"),
    [
        ("PreferSameZone", {"a"}, set()),
        ("PreferClose", {"a"}, set()),
        ("PreferSameNode", {"a"}, {"n1"}),
    ],
)
def test_traffic_distribution_makes_hints(distribution: str, zones: set[str], nodes: set[str]) -> None:
    """CP-3.9."""
    cluster = load(*DUMP).with_edits(f"service/shop/web.spec.trafficDistribution={distribution}")
    found = endpoints(cluster)["10.180.1.5"]
    assert (found.zone_hints, found.node_hints) == (zones, nodes)
    assert told(cluster, AGAIN) == [f"{AGAIN}trafficDistribution {distribution} makes other hints"]


def test_hints_decide_where_packets_go() -> None:
    edited = load(*DUMP).with_edits("service/shop/web.spec.trafficDistribution=PreferSameZone")
    assert {each.endpoint for each in edited.probe("n1", "172.30.0.10:80", sender="node").outcomes} == {
        "10.180.1.5:8080"
    }
    plain = load(*DUMP).probe("n1", "172.30.0.10:80", sender="node")
    assert {each.endpoint for each in plain.outcomes} == {"10.180.1.5:8080", "10.180.2.5:8080"}


def test_hints_go_with_traffic_distribution() -> None:
    """CP-3.9: unset, all hints are removed."""
    hinted = [endpoint("p1", "10.180.1.5", "n1", "a", hints={"forZones": [{"name": "a"}]})]
    cluster = load(*NODES, service(trafficDistribution="PreferClose"), slice_of(*hinted))
    edited = cluster.with_edits("service/shop/web.spec.trafficDistribution=null")
    assert endpoints(cluster)["10.180.1.5"].zone_hints and not endpoints(edited)["10.180.1.5"].zone_hints


def test_mode_auto_makes_hints_by_cpus() -> None:
    """CP-3.8.1: the annotation wins over trafficDistribution; CP-3.8.3: equal CPUs, so a half of the endpoints for each zone."""
    edits = "service/shop/web.metadata.annotations['service.kubernetes.io/topology-mode']=Auto"
    cluster = load(*DUMP).with_edits(edits, "service/shop/web.spec.trafficDistribution=PreferSameNode")
    found = endpoints(cluster)
    assert [(each.zone_hints, each.node_hints) for each in found.values()] == [({"a"}, set()), ({"b"}, set())]
    lonely = load(*NODES, service(), slice_of(ENDPOINTS[0])).with_edits(edits)
    assert not endpoints(lonely)["10.180.1.5"].zone_hints
    assert told(
        lonely, "the slice controller says of shop/web: Insufficient number of endpoints (1 endpoints, 2 zones)"
    )


def test_mode_auto_is_not_known_without_nodes() -> None:
    cluster = load(service(), slice_of(*ENDPOINTS)).with_edits(
        "service/shop/web.metadata.annotations['service.kubernetes.io/topology-mode']=Auto"
    )
    assert told(cluster, "it is not known which zones and CPUs the Nodes have (give the Pods and Nodes, too")


def test_not_ready_addresses_are_published() -> None:
    """CP-3.4.2: ready, whatever the Pod says; and back."""
    cluster = load(*NODES, service(), slice_of(ENDPOINTS[0], endpoint("p2", "10.180.2.5", "n1", "a", ready=False)))
    published = cluster.with_edits("service/shop/web.spec.publishNotReadyAddresses=true")
    assert [(each.ready, each.serving) for each in endpoints(published).values()] == [(True, True), (True, False)]
    back = published.with_edits("service/shop/web.spec.publishNotReadyAddresses=false")
    assert [(each.ready, each.serving) for each in endpoints(back).values()] == [(True, True), (False, False)]


def test_what_was_published_is_not_known_to_be_ready() -> None:
    """CP-3.4.2: a slice that shows ready alone does not show the Pod's readiness."""
    trimmed = {**ENDPOINTS[0], "conditions": {"ready": True}}
    cluster = load(*NODES, service(publishNotReadyAddresses=True), slice_of(trimmed))
    edited = cluster.with_edits("service/shop/web.spec.publishNotReadyAddresses=false")
    assert told(edited, "it is not known which of its Pods are ready")


def test_a_port_number_changes() -> None:
    """CP-3.4.4: a number is taken as it is. The slice keeps its name (CP-3.6.1)."""
    cluster = load(*DUMP).with_edits("service/shop/web.spec.ports[name=http].targetPort=9000")
    assert ports(cluster) == [("http", 9000)] and slices(cluster)[0].metadata.name == "web-abcde"
    assert told(cluster, AGAIN) == [f"{AGAIN}they have another port number than targetPort"]


def test_ports_come_go_and_are_renamed() -> None:
    added = load(*DUMP).with_edits("service/shop/web.spec.ports[1]={name: admin, port: 81, targetPort: 9001}")
    assert sorted(ports(added)) == [("admin", 9001), ("http", 8080)]
    assert ports(added.with_edits("service/shop/web.spec.ports[name=admin]=null")) == [("http", 8080)]
    assert ports(load(*DUMP).with_edits("service/shop/web.spec.ports[0].name=www")) == [("www", 8080)]


def test_a_named_port_needs_the_pods() -> None:
    """CP-3.4.4: a name is looked up in the Pod's containers."""
    edit = "service/shop/web.spec.ports[0].targetPort=admin"
    unknown = load(*DUMP).with_edits(edit)
    assert ports(unknown) == [("http", 8080)] and told(unknown, "it is not known which number the port admin has")
    assert ports(load(*WITH_PODS).with_edits(edit)) == [("http", 9090)]
    missing = load(*WITH_PODS).with_edits("service/shop/web.spec.ports[0].targetPort=nothing")
    assert ports(missing) == []  # left out


def test_a_selector_that_another_service_has() -> None:
    """The slices of that Service show which Pods it selects."""
    green = slice_of(endpoint("g1", "10.180.1.9", "n1", "a"), of="green")
    cluster = load(*DUMP, service("green"), green).with_edits("service/shop/web.spec.selector.app=green")
    assert set(endpoints(cluster)) == {"10.180.1.9"}
    assert told(cluster, AGAIN) == [f"{AGAIN}the Pods make other endpoints"]


def test_another_selector_needs_the_pods() -> None:
    edit = "service/shop/web.spec.selector={app: green}"
    unknown = load(*DUMP).with_edits(edit)
    assert set(endpoints(unknown)) == {"10.180.1.5", "10.180.2.5"}
    assert told(
        unknown, "it is not known which Pods its selector selects (give the Pods and Nodes, too: kubectl get pods,nodes"
    )
    assert set(endpoints(load(*WITH_PODS, pod("g1", "10.180.1.9", "n1", app="green")).with_edits(edit))) == {
        "10.180.1.9"
    }


def test_without_selector_the_slices_stay() -> None:
    """CP-3.3: the controller does nothing with such a Service."""
    cluster = load(*WITH_PODS).with_edits("service/shop/web.spec.selector=null")
    assert set(endpoints(cluster)) == {"10.180.1.5", "10.180.2.5"} and not told(cluster, "derived again")


def test_another_family_needs_addresses() -> None:
    """CP-3.4.5: each family has slices of its own, and a Pod without an address of the family is in none."""
    dual = service(
        clusterIPs=["172.30.0.10", "fd00::10"], ipFamilies=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack"
    )
    v6 = slice_of(endpoint("p1", "fd00:1::5", "n1", "a"), addressType="IPv6")
    v6["metadata"] = {**v6["metadata"], "name": "web-v6"}
    single = load(*NODES, dual, slice_of(*ENDPOINTS), v6).with_edits("service/shop/web.spec.ipFamilyPolicy=SingleStack")
    assert [item.address_type for item in slices(single)] == ["IPv4"]
    assert told(
        load(*NODES, dual, slice_of(*ENDPOINTS), derive_slices=True),
        "it is not known which IPv6 addresses its Pods have",
    )


# -------------------------------------------------------------------------------------------------------------- Nodes, Pods


def test_a_node_moves_to_another_zone() -> None:
    """CP-3.4.3. CP-3.1: a zone label makes the controller sync its topology, and no Service."""
    edit = f"node/n2.example.com.metadata.labels['{ZONE}']=c"
    for dump in (DUMP, WITH_PODS):
        cluster = load(*dump).with_edits(edit)
        assert [each.zone for each in endpoints(cluster).values()] == ["a", "c"]
        assert told(cluster, "the zone of n2.example.com reaches slices with the next change of their Services or Pods")
    hinted = load(*DUMP).with_edits("service/shop/web.spec.trafficDistribution=PreferClose").with_edits(edit)
    assert endpoints(hinted)["10.180.2.5"].zone_hints == {"c"}


def test_a_node_is_removed() -> None:
    """CP-3.4.1: a Pod on an unknown Node is left out, unless not-ready addresses are published."""
    for dump in (DUMP, WITH_PODS):
        assert set(endpoints(load(*dump).with_edits("node/n2.example.com=null"))) == {"10.180.1.5"}
    published = load(*NODES, service(publishNotReadyAddresses=True), slice_of(*ENDPOINTS)).with_edits("node/n1=null")
    assert set(endpoints(published)) == {"10.180.1.5", "10.180.2.5"}


def test_a_node_fails() -> None:
    """CP-2.9: the node lifecycle controller makes its Pods not ready."""
    for dump in (DUMP, WITH_PODS):
        cluster = load(*dump).with_edits("node/n1.status.conditions[type=Ready].status='False'")
        assert [(each.ready, each.serving) for each in endpoints(cluster).values()] == [(False, False), (True, True)]


def test_a_node_that_was_never_given_exists() -> None:
    cluster = load(NODES[0], service(), slice_of(*ENDPOINTS)).with_edits(
        "service/shop/web.spec.trafficDistribution=PreferClose"
    )
    assert [each.zone_hints for each in endpoints(cluster).values()] == [{"a"}, {"b"}]


def test_pods_change() -> None:
    """CP-3.4.1, CP-3.4.2."""
    cluster = load(*WITH_PODS)
    unready = cluster.with_edits("pod/shop/p1.status.conditions[type=Ready].status='False'")
    assert [(each.ready, each.serving) for each in endpoints(unready).values()] == [(False, False), (True, True)]
    assert set(endpoints(cluster.with_edits("pod/shop/p1.metadata.labels.app=other"))) == {"10.180.2.5"}
    assert set(endpoints(cluster.with_edits("pod/shop/p1=null"))) == {"10.180.2.5"}
    assert set(endpoints(cluster.with_edits("pod/shop/p1.status.phase=Failed"))) == {"10.180.2.5"}
    deleted = cluster.with_edits("pod/shop/p1.metadata.deletionTimestamp=2026-01-01T00:00:00Z")
    found = endpoints(deleted)["10.180.1.5"]
    assert (found.ready, found.serving, found.terminating) == (False, True, True)
    none = cluster.with_edits("pod/shop/p1=null", "pod/shop/p2=null")
    assert [(item.endpoints, item.ports) for item in slices(none)] == [((), ())]  # the placeholder (CP-3.5.1)


def test_only_services_that_an_edit_touches() -> None:
    """What else does not fit in a dump stays as it was given: kube-proxy reads it so."""
    odd = slice_of(endpoint("g1", "10.180.1.9", "n1", "x"), of="green")
    cluster = load(*DUMP, service("green"), odd).with_edits("service/shop/web.spec.trafficDistribution=PreferClose")
    assert endpoints(cluster, "green")["10.180.1.9"].zone == "x"
    same = load(*DUMP)
    edited = same.with_edits("service/shop/web.spec.externalIPs=[192.0.2.1]")
    assert slices(edited) == slices(same) and not told(edited, "derived again")


def test_slices_of_other_authors_stay() -> None:
    """CP-3.3: the controller's slices have its label."""
    own = slice_of(*ENDPOINTS)
    own["metadata"] = {**own["metadata"], "labels": {"kubernetes.io/service-name": "web"}}
    cluster = load(*NODES, service(selector=None), own).with_edits(
        "service/shop/web.spec.trafficDistribution=PreferClose"
    )
    assert not endpoints(cluster)["10.180.1.5"].zone_hints


def test_a_service_takes_its_slices_with_it() -> None:
    assert not slices(load(*DUMP).with_edits("service/shop/web=null"))


def test_an_edit_of_the_controllers_slice_does_not_last() -> None:
    """CP-3.1: it syncs the Service after a second."""
    cluster = load(*DUMP).with_edits("endpointslice/shop/web-abcde.endpoints[0]=null")
    assert set(endpoints(cluster)) == {"10.180.2.5"} and told(cluster, "which would undo the edit after a second")


# -------------------------------------------------------------------------------------------------------------------- files


def test_files_that_were_edited_by_hand() -> None:
    """A dump is read as it is: its slices may wait for the controller. On request they are written again."""
    dump = (*NODES, service(trafficDistribution="PreferClose"), slice_of(*ENDPOINTS))
    given, derived = load(*dump), load(*dump, derive_slices=True)
    assert not endpoints(given)["10.180.1.5"].zone_hints and endpoints(derived)["10.180.1.5"].zone_hints == {"a"}
    assert told(given, "makes other hints (--derive-slices writes them again): shop/web")
    assert told(derived, AGAIN) == [f"{AGAIN}trafficDistribution PreferClose makes other hints"]


def test_a_service_that_was_made_anew_headless() -> None:
    """O-10.6: the label of headless slices keeps kube-proxy from reading them; a cluster IP cannot be changed (O-3.3)."""
    headless = slice_of(*ENDPOINTS)
    headless["metadata"]["labels"] = {**headless["metadata"]["labels"], LABEL_HEADLESS: ""}
    cluster = load(*NODES, service(), headless, derive_slices=True)
    assert [LABEL_HEADLESS in item.metadata.labels for item in slices(cluster)] == [False]
    assert set(endpoints(cluster)) == {"10.180.1.5", "10.180.2.5"}


def test_a_fresh_dump_needs_nothing() -> None:
    for dump in (DUMP, WITH_PODS):
        assert slices(load(*dump, derive_slices=True)) == slices(load(*dump))
        assert not told(load(*dump), "slice controller")


# ------------------------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("service/shop/wob.spec.type=NodePort", "no Service 'shop/wob'; there is shop/web"),
        ("service/web.spec.type=NodePort", "no Service 'web'; there is shop/web"),
        ("deployment/shop/web.spec.replicas=2", "no kind 'deployment': expected KIND/NAMESPACE/NAME.path=value"),
        ("spec.type=NodePort", "expected KIND/NAMESPACE/NAME.path=value"),
        ("service/shop/web.spec.type", "expected path=value"),
        ("service/shop/web={}", "only null may be given to a whole object"),
        ("service/shop/web.spec.typ=NodePort", ".spec.typ"),
        ("service/shop/web.spec.clusterIP=172.30.0.11", "must equal clusterIPs[0]"),
        ("service/shop/web.spec.ports[5].port=1", ".spec.ports has 1 items: there is no [5]"),
        ("service/shop/web.spec.ports[name=x].port=1", ".spec.ports has 0 items with name x, expected one"),
        ("pod/shop/p1=null", "no Pod 'shop/p1': there is no Pod"),
        ("node/n1.metadata.name=n2", "another name is another object"),
    ],
)
def test_edits_that_are_refused(edit: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        load(*DUMP).with_edits(edit)
    assert words in str(refused.value) and f"--set {edit}" in str(refused.value)


def test_every_wrong_edit_is_named() -> None:
    with pytest.raises(InputError) as refused:
        load(*DUMP).with_edits("service/shop/a=null", "service/shop/b=null")
    assert len(refused.value.problems) == 2


def test_a_recording_is_not_edited() -> None:
    recording = "tests/golden/iptables/small-001.recording.jsonl"
    with pytest.raises(InputError, match="edits go with manifests"):
        kpsim.load(recording, edits=["service/prod/frontend-5=null"])
    with pytest.raises(InputError, match="none are derived"):
        kpsim.load(recording, derive_slices=True)


def test_the_command_line_edits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def kpsim_says(command: str, *arguments: str) -> str:
        edit = "service/shop/web.spec.ports[0].targetPort=9000"
        monkeypatch.setattr(sys, "argv", ["kpsim", command, *arguments, "--node", "n1", "--set", edit])
        with suppress(SystemExit):
            main()
        return "".join(capsys.readouterr())

    file = tmp_path / "dump.yaml"
    file.write_text("\n---\n".join(map(json.dumps, DUMP)))
    rules = kpsim_says("rules", str(file), "--family", "ipv4")
    assert "-j KUBE-SEP" in rules and "10.180.1.5:9000" in rules and AGAIN in rules
    asked = "--from", "node", "--dst", "172.30.0.10:80", "--expand", "--minimal"
    assert kpsim_says("trace", str(file), *asked).startswith("delivered 10.180.1.5:9000 1/2")
    assert "--set and --derive-slices go with a cluster" in kpsim_says("trace", "--rules", str(file), *asked)
