"""Clusters in: files to a ClusterState, completed as an API server and its controllers would (O-3, O-10, CP-4.3)."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from kpsim.config import Mode
from kpsim.errors import InputError
from kpsim.manifests import Loaded, load_manifests
from kpsim.objects import ObjectKey
from kpsim.units import SECOND_NS

FIXTURES = Path(__file__).parent / "manifests"


def load(*objects: dict[str, Any]) -> Loaded:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    return load_manifests(["-"], stdin=io.StringIO(text))


def service(name: str = "web", namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": [{"port": 80}], **spec},
    }


def endpoint_slice(**fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.180.0.5"]}],
        "ports": [{"port": 8080}],
        **fields,
    }


def only_service(loaded: Loaded) -> dict[str, Any]:
    (found,) = loaded.cluster.services
    return dict(found.json)


# ---------------------------------------------------------------------------------------------------- a whole cluster


def test_a_hand_written_cluster_is_completed() -> None:
    loaded = load_manifests([FIXTURES / "shop.yaml"])
    web = loaded.cluster.get(ObjectKey("Service", "shop", "web"))
    assert web is not None
    spec = web.json["spec"]
    assert (spec["type"], spec["internalTrafficPolicy"], spec["sessionAffinity"]) == ("ClusterIP", "Cluster", "None")
    assert spec["clusterIP"].startswith("172.30.")  # the given address lies outside the default range
    slices = {found.service_name: found for found in loaded.cluster.endpoint_slices}
    (endpoint,) = slices["web"].endpoints
    assert (endpoint.addresses, endpoint.node_name, endpoint.zone) == (("10.180.0.5",), "node-a", "zone-a")
    assert [port.port for port in slices["web"].ports] == [8080]
    # mirrored endpoints carry ready alone
    assert [(e.addresses[0], e.ready, e.serving) for e in slices["db"].endpoints] == [
        ("10.180.0.200", True, None),
        ("10.180.0.201", False, None),
    ]
    assert loaded.config is not None and loaded.proxy_config is not None
    assert (loaded.config.mode, loaded.config.sync_period_ns) == (Mode.NFTABLES, 10 * SECOND_NS)


def test_notes_say_what_was_done() -> None:
    notes = load_manifests([FIXTURES / "shop.yaml"]).notes
    for words in (
        "allocated cluster IP 172.30.",
        "there is no ServiceCIDR: cluster IPs are allocated from 172.30.0.0/16",
        "derived 1 EndpointSlice with 1 endpoint from Pods for shop/web",
        "mirrored Endpoints shop/db into 1 EndpointSlice",
        "no endpoint, because on no node: 1 Pod, shop/web-1",
        "objects that make or keep Pods, nor do its rules depend on them: Deployment 1",
        "unknown field .nodePortAdresses of its configuration (did you mean nodePortAddresses?)",
    ):
        assert sum(words in note for note in notes) == 1, words


def test_what_an_api_server_completed_passes_unchanged() -> None:
    stored = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7", "managedFields": []},
        "spec": {
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": True,
            "clusterIP": "172.30.0.7",
            "clusterIPs": ["172.30.0.7"],
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 20500,  # a cluster may have another range of node ports
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "nodePort": 20501, "port": 80, "protocol": "TCP", "targetPort": 8080}],
            "selector": {"app": "web"},
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}},
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9", "ipMode": "VIP"}]}},
    }
    made = endpoint_slice(ports=[{"name": "http", "port": 8080, "protocol": "TCP"}])
    loaded = load(stored, made)
    assert only_service(loaded) == stored
    assert [found.json for found in loaded.cluster.endpoint_slices] == [made]
    assert loaded.notes == ()


# ------------------------------------------------------------------------------------------------------------ defaults


def test_affinity_defaults_to_three_hours() -> None:  # O-3.1
    spec = only_service(load(service(sessionAffinity="ClientIP")))["spec"]
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    without = service(sessionAffinityConfig={"clientIP": {"timeoutSeconds": 5}})
    assert "sessionAffinityConfig" not in only_service(load(without))["spec"]


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        ({"type": "NodePort"}, "Cluster"),
        ({"type": "LoadBalancer"}, "Cluster"),
        ({"externalIPs": ["203.0.113.5"]}, "Cluster"),
        ({}, None),
        ({"type": "NodePort", "externalTrafficPolicy": "Local"}, "Local"),
    ],
)
def test_external_policy_is_set_where_the_service_is_accessible(spec: dict[str, Any], policy: str | None) -> None:
    assert only_service(load(service(**spec)))["spec"].get("externalTrafficPolicy") == policy


def test_target_port_and_protocol_of_ports() -> None:
    (port,) = only_service(load(service(ports=[{"port": 80, "targetPort": 0}])))["spec"]["ports"]
    assert port == {"port": 80, "targetPort": 80, "protocol": "TCP"}


def test_load_balancer_addresses_get_a_mode_and_go_with_the_type() -> None:  # O-3.1, O-3.8
    status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}, {"hostname": "lb"}]}}
    balancer = {**service(type="LoadBalancer"), "status": status}
    assert only_service(load(balancer))["status"]["loadBalancer"]["ingress"] == [
        {"ip": "203.0.113.9", "ipMode": "VIP"},
        {"hostname": "lb"},
    ]
    assert only_service(load({**service(), "status": status}))["status"] == {"loadBalancer": {}}


def test_slice_ports_get_an_empty_name_and_tcp() -> None:  # O-6.2
    (made,) = load(service(), endpoint_slice(ports=[{"port": 8080}, {"name": "x"}])).cluster.endpoint_slices
    assert [(port.name, port.protocol, port.port) for port in made.ports] == [("", "TCP", 8080), ("x", "TCP", None)]


def test_external_name_gets_nothing() -> None:
    spec = only_service(load(service(type="ExternalName", externalName="db.example", ports=[])))["spec"]
    assert not {"clusterIP", "clusterIPs", "ipFamilies", "internalTrafficPolicy"} & spec.keys()


# ------------------------------------------------------------------------------------------------------------- remarks


def test_remarks_on_what_kube_proxy_never_sees() -> None:
    labelled = service("mesh")
    labelled["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": ""}
    loose = endpoint_slice(metadata={"name": "loose", "namespace": "shop"})
    names = endpoint_slice(addressType="FQDN", endpoints=[{"addresses": ["db.example"]}])
    misnamed = endpoint_slice(
        metadata={"name": "x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        ports=[{"name": "http", "port": 80}],
    )
    notes = load(labelled, service(), loose, names, misnamed).notes
    assert any("service-proxy-name" in note and "shop/mesh" in note for note in notes)
    assert any("without the label kubernetes.io/service-name" in note and "shop/loose" in note for note in notes)
    assert any("address type FQDN: shop/web-1" in note for note in notes)
    assert any("no port of the name and protocol" in note and "shop/x" in note for note in notes)


def test_services_without_rules_are_named_with_what_serves_them() -> None:
    """O-1.1, O-4.2: DNS answers for them; kube-proxy has no part in it."""
    headless = service("db", clusterIP="None", clusterIPs=["None"])
    notes = load(headless, service("out", type="ExternalName", externalName="db.example", ports=[]), service()).notes
    assert any("never told of headless Services" in note and note.endswith(": shop/db") for note in notes)
    assert any("no rules for Services of type ExternalName" in note and note.endswith(": shop/out") for note in notes)


@pytest.mark.parametrize(
    ("ranges", "ingress", "open_family"),
    [
        (["203.0.113.0/24"], [{"ip": "198.51.100.10"}, {"ip": "2001:db8::10"}], "IPv6"),
        ([" 2001:db8::/32 "], [{"ip": "198.51.100.10"}, {"ip": "2001:db8::10"}], "IPv4"),
        (["203.0.113.0/24", "2001:db8::/32"], [{"ip": "198.51.100.10"}, {"ip": "2001:db8::10"}], ""),
        (["203.0.113.0/24"], [{"ip": "198.51.100.10"}], ""),
        (["203.0.113.0/24"], [{"ip": "198.51.100.10"}, {"ip": "2001:db8::10", "ipMode": "Proxy"}], ""),
        ([], [{"ip": "198.51.100.10"}, {"ip": "2001:db8::10"}], ""),
    ],
)
def test_source_ranges_of_one_family_leave_the_other_open(
    ranges: list[str], ingress: list[Any], open_family: str
) -> None:
    """O-5.4: ranges are read by family, and a family without any has no firewall."""
    dual = service(
        type="LoadBalancer", loadBalancerSourceRanges=ranges, clusterIPs=["172.30.0.10", "fd20::10"],
        clusterIP="172.30.0.10", ipFamilies=["IPv4", "IPv6"], ipFamilyPolicy="RequireDualStack",
    )  # fmt: skip
    dual["status"] = {"loadBalancer": {"ingress": ingress}}
    notes = [note for note in load(dual).notes if "let every client in" in note]
    assert [f"without {open_family}:" in note for note in notes] == ([True] if open_family else [])


def test_host_ports_are_named() -> None:
    container = {"name": "proxy", "ports": [{"containerPort": 80, "hostPort": 80}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "edge-0"}, "spec": {"containers": [container]}}
    assert any("host ports" in note and "default/edge-0" in note for note in load(pod).notes)


# ------------------------------------------------------------------------------------------- kinds, lists, duplicates


def test_lists_of_one_kind_imply_the_kind_of_their_items() -> None:
    bare = {key: value for key, value in service().items() if key not in ("apiVersion", "kind")}
    text = json.dumps({"apiVersion": "v1", "kind": "ServiceList", "items": [bare]})
    assert [found.metadata.name for found in load_manifests(["-"], stdin=text).cluster.services] == ["web"]


def test_other_kinds_are_counted_and_network_policies_named() -> None:
    knative = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "web"}}
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"}}
    notes = load(knative, policy, policy).notes
    assert (
        "skipped 3 objects of kinds that decide no packets here: NetworkPolicy 2, Service.serving.knative.dev 1"
        in notes
    )
    assert any("network policies are not modelled" in note for note in notes)


def test_one_object_in_two_files_names_both_places(tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n"
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "b.yaml").write_text(f"# a copy\n---\n{text}")
    with pytest.raises(InputError) as caught:
        load_manifests([tmp_path])
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(tmp_path / "b.yaml"), 3)
    assert problem.message == f"Service default/web stands twice: here and at {tmp_path / 'a.yaml'}:1"


def test_a_service_with_slices_of_its_own_derives_none() -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-0", "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"nodeName": "node-a"},
        "status": {"podIP": "10.180.0.9", "phase": "Running"},
    }
    with_slice = load(service(selector={"app": "web"}), endpoint_slice(), pod)
    assert [made.metadata.name for made in with_slice.cluster.endpoint_slices] == ["web-1"]
    derived = load(service(selector={"app": "web"}), pod)
    (made,) = derived.cluster.endpoint_slices
    assert [endpoint.addresses for endpoint in made.endpoints] == [("10.180.0.9",)]
    assert any("there are no Nodes" in note for note in derived.notes)


def test_the_order_of_the_objects_changes_no_allocation() -> None:
    services = [service(f"svc-{number}", type="NodePort") for number in range(40)]
    there, back = load(*services).cluster, load(*reversed(services)).cluster
    assert [found.json for found in there.services] == [found.json for found in back.services]


# ------------------------------------------------------------------------------------------------------------ Endpoints


def db_endpoints(**metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "db", "namespace": "shop", **metadata},
        "subsets": [{"addresses": [{"ip": "10.180.0.200"}], "ports": [{"port": 5432}]}],
    }


def db_slice(manager: str, **metadata: Any) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": "db"} | (
        {"endpointslice.kubernetes.io/managed-by": manager} if manager else {}
    )
    return endpoint_slice(
        metadata={"name": "db-x2k4p", "namespace": "shop", "labels": labels, **metadata},
        endpoints=[{"addresses": ["10.180.0.201"]}],
    )


DB = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "db", "namespace": "shop"},
    "spec": {"clusterIP": "172.30.0.44", "ports": [{"port": 5432}]},
}
MIRROR = "endpointslicemirroring-controller.k8s.io"


@pytest.mark.parametrize(
    ("service", "endpoints", "slices", "expected"),
    [
        (DB, db_endpoints(), [], ["10.180.0.200"]),
        # a dump of a cluster has the mirrored slices already
        (DB, db_endpoints(uid="u"), [db_slice(MIRROR, uid="s")], ["10.180.0.201"]),
        (DB, db_endpoints(), [db_slice(MIRROR)], ["10.180.0.201"]),
        (DB, db_endpoints(resourceVersion="7"), [db_slice("")], ["10.180.0.201"]),
        # written by hand: somebody's own slice does not keep the controller from mirroring
        (DB, db_endpoints(), [db_slice("")], ["10.180.0.200", "10.180.0.201"]),
        # of a Service with selector its controller writes them, and another the slices
        ({**DB, "spec": {**DB["spec"], "selector": {"app": "db"}}}, db_endpoints(uid="u"), [], []),
        (DB, db_endpoints(labels={"endpointslice.kubernetes.io/skip-mirror": "true"}), [], []),
        (DB, db_endpoints(annotations={"control-plane.alpha.kubernetes.io/leader": "{}"}), [], []),
    ],
)
def test_endpoints_are_mirrored_once_and_only_those_made_by_hand(  # CP-4.3
    service: dict[str, Any], endpoints: dict[str, Any], slices: list[dict[str, Any]], expected: list[str]
) -> None:
    loaded = load(service, endpoints, *slices)
    found = [e.addresses[0] for item in loaded.cluster.endpoint_slices for e in item.endpoints]
    assert sorted(found) == expected
    aside = any("nothing mirrors these: 1 left aside" in note for note in loaded.notes)
    assert aside is ("10.180.0.200" not in expected)


def test_what_is_not_mirrored_for_its_number_earns_a_note() -> None:  # CP-4.3
    addresses = [{"ip": f"10.180.{n >> 8}.{n & 255}"} for n in range(1, 1003)]
    loaded = load(DB, db_endpoints() | {"subsets": [{"addresses": addresses, "ports": [{"port": 5432}]}]})
    assert [len(item.endpoints) for item in loaded.cluster.endpoint_slices] == [1000]
    assert any(
        "Endpoints shop/db: A max of 1000 addresses" in note and "2 addresses were" in note for note in loaded.notes
    )
