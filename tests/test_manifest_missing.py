"""What a bundle lacks and a cluster adds: nodes, endpoints, the range of node ports; and slices that an edit made stale."""

import json
import textwrap
from typing import Any

import pytest

import kpsim
from kpsim.errors import InputError
from kpsim.explore import Cluster

Json = dict[str, Any]


def service(name: str = "web", **spec: Any) -> Json:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "172.30.0.10", "selector": {"app": name}, "ports": ports, **spec},
    }


def endpoint(address: str, node: str, **fields: Any) -> Json:
    conditions = {"ready": True, "serving": True, "terminating": False}
    return {"addresses": [address], "nodeName": node, "conditions": conditions, **fields}


def slice_of(*endpoints: Json, name: str = "web", port: int = 8080, **fields: Any) -> Json:
    labels = {
        "kubernetes.io/service-name": name,
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "namespace": "shop", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": port}],
        "endpoints": list(endpoints),
        **fields,
    }


def node(name: str, zone: str = "") -> Json:
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def pod(name: str, address: str, on: str, ready: bool = True) -> Json:
    status = "True" if ready else "False"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"nodeName": on, "containers": []},
        "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": status}]},
    }


def config(**fields: Any) -> Json:
    return {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", **fields}


def load(*objects: Json, **options: Any) -> Cluster:
    return kpsim.load(text=json.dumps(list(objects)), **options)


def notes_with(words: str, *objects: Json, **options: Any) -> list[str]:
    return [note for note in load(*objects, **options).notes if words in note]


# ---------------------------------------------------------------------------------------------------------------- nodes


def test_a_cluster_without_nodes_says_what_to_add() -> None:
    bare = load(service())
    for ask in (lambda: bare.rules("n1"), lambda: bare.trace("n1", "172.30.0.10:80")):
        with pytest.raises(InputError) as caught:
            ask()
        assert "kubectl get nodes -o yaml" in str(caught.value) and "--assume-node" in str(caught.value)
    example = textwrap.dedent(str(caught.value).partition("addresses:\n")[2])
    assert len(example.splitlines()) == 5
    added = kpsim.load(text=f"---\n{example}\n---\n{json.dumps(service())}\n")
    assert len(added.node_names) == 1


def test_names_alone_are_told() -> None:
    [note] = notes_with("there are no Nodes", service(), slice_of(endpoint("10.180.1.5", "n1")))
    assert "of n1 only the name is known" in note
    assert not notes_with("there are no Nodes", service(), node("n1"))


def test_an_assumed_node_has_an_address_and_the_network_of_its_pods() -> None:
    cluster = load(
        service(type="NodePort"), slice_of(endpoint("10.180.7.5", "n1"), endpoint("10.180.8.5", "n2")), assume_node="n1"
    )
    assert {(n.metadata.name, n.ips, n.pod_cidrs) for n in cluster.state.nodes} == {
        ("n1", ("192.168.0.1",), ("10.180.7.0/24",)),
        ("n2", ("192.168.0.2",), ("10.180.8.0/24",)),
    }
    assert "assumed the Node n1: address 192.168.0.1, pod network 10.180.7.0/24, no zone" in cluster.notes
    (port,) = next(iter(cluster.state.services)).ports
    answer = cluster.probe("n1", f"192.168.0.1:{port.node_port}")
    assert {outcome.endpoint for outcome in answer.outcomes} == {"10.180.7.5:8080", "10.180.8.5:8080"}


@pytest.mark.parametrize(("given", "made"), [("", "n1"), ("n0", "n0")])
def test_the_name_of_an_assumed_node(given: str, made: str) -> None:
    cluster = load(service(), slice_of(endpoint("10.180.7.5", "n1")), assume_node=given)
    assert made in cluster.node_names
    assert load(service(), assume_node=given).node_names == (made if given else "node-1",)


def test_an_assumed_node_takes_nobodys_addresses() -> None:
    """The cluster's pods are in the networks that assumed nodes would have."""
    far = slice_of(endpoint("192.168.0.1", "n1"), endpoint("10.180.1.5", "n2"), endpoint("10.180.1.6", "n1"))
    cluster = load(service(externalIPs=["172.31.0.1"]), far, config(clusterCIDR="10.180.0.0/20"), assume_node="n3")
    addresses = [ip for n in cluster.state.nodes for ip in n.ips]
    assert addresses == ["10.250.0.1", "10.250.0.2", "10.250.0.3"]
    (network,) = next(n for n in cluster.state.nodes if n.metadata.name == "n3").pod_cidrs
    assert network == "10.180.3.0/24"  # in clusterCIDR, and no pod's


def test_beside_real_nodes_only_the_named_one_is_assumed() -> None:
    cluster = load(node("n1"), service(), slice_of(endpoint("10.180.7.5", "n5")), assume_node="n9")
    assert cluster.node_names == ("n1", "n9")
    assert notes_with("nothing is assumed", node("n1"), service(), assume_node="n1")
    with pytest.raises(InputError, match="a node's name"):
        load(service(), assume_node="No Name")


# ------------------------------------------------------------------------------------------------------------ endpoints


def test_services_without_endpoints_are_told() -> None:
    [note] = notes_with("Services without endpoints", service("a"), service("b", clusterIP="172.30.0.11"), node("n1"))
    assert note.startswith(
        "Services without endpoints, as neither a Pod nor an EndpointSlice of theirs was given (kubectl get"
    )
    assert note.endswith(": shop/a, shop/b")
    assert not notes_with("Services without endpoints", service(), slice_of())
    assert notes_with(
        "Services whose selector no Pod that was given has: shop/db", service("db"), pod("p", "10.180.1.1", "n1")
    )


# ----------------------------------------------------------------------------------------------------------- node ports


def test_any_node_port_is_taken_unless_the_range_is_given() -> None:
    """kube-proxy does not check it; only an API server does (O-3.5)."""
    other = service(type="NodePort", ports=[{"port": 80, "nodePort": 23456}])
    assert notes_with("node ports outside 30000-32767", other, node("n1")) == [
        "node ports outside 30000-32767, which an API server gives only with another --service-node-port-range: shop/web 23456"
    ]
    assert not notes_with("node ports outside", other, node("n1"), service_node_port_range="20000-25000")
    with pytest.raises(InputError, match="expected a node port from 30000 to 32767, got 23456"):
        load(other, service_node_port_range="30000-32767")


def test_allocation_uses_the_range() -> None:
    cluster = load(service(type="NodePort"), service_node_port_range="500+3")
    (port,) = next(iter(cluster.state.services)).ports
    assert 500 <= port.node_port <= 503


@pytest.mark.parametrize("text", ["30000", "5-3", "0-10", "1-65536", "a-b", "30000:32767"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(InputError, match="--service-node-port-range: expected ports such as 30000-32767"):
        load(service(), service_node_port_range=text)


# ------------------------------------------------------------------------------------------------------- hostnameOverride


def test_kube_proxy_takes_the_name_that_it_is_given() -> None:
    """CFG-2.1: the name, trimmed and in lower case, decides which endpoints are local, on whichever machine."""
    objects = (
        node("n1"), node("n2"), service(internalTrafficPolicy="Local"),
        slice_of(endpoint("10.180.1.5", "n1"), endpoint("10.180.2.5", "n2")),
    )  # fmt: skip
    plain = load(*objects)
    named = load(*objects, config(hostnameOverride=" N2 "))
    assert "10.180.1.5" in plain.rules("n1") and "10.180.2.5:8080" not in plain.rules("n1").split("KUBE-SVL-")[-1]
    assert named.rules("n1") == named.rules("n2") == load(*objects, config()).rules("n2")
    assert any("kube-proxy takes itself for n2" in note for note in named.notes)
    assert any("There is no Node n7" in note for note in load(*objects, config(hostnameOverride="n7")).notes)


# --------------------------------------------------------------------------------------------------------------- staleness


STALE = "the slice controller would write others"
ZONED = (node("n1", "a"), node("n2", "b"))


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ((service(trafficDistribution="PreferSameZone"), slice_of(endpoint("10.180.1.5", "n1", zone="a"))), "makes other hints"),
        ((service(trafficDistribution="PreferSameNode"), slice_of(endpoint("10.180.1.5", "n1"))), "makes other hints"),
        ((service(), slice_of(endpoint("10.180.1.5", "n1", hints={"forZones": [{"name": "a"}]}))), "there are no hints"),
        ((service(), slice_of(endpoint("10.180.1.5", "n1", zone="c"))), "other zones than the labels of the Nodes"),
        ((service(), slice_of(endpoint("10.180.1.5", "n1"), port=9090)), "another port number than targetPort"),
        ((service(ports=[{"name": "web", "port": 80}]), slice_of(endpoint("10.180.1.5", "n1"))), "a port that the Service does not have"),
        (
            (
                service(publishNotReadyAddresses=True),
                slice_of({"addresses": ["10.180.1.5"], "nodeName": "n1", "conditions": {"ready": False}}),
            ),
            "publishNotReadyAddresses makes every endpoint ready",
        ),
        ((service(ipFamilies=["IPv6"], clusterIP="fd00:10:96::5"), slice_of(endpoint("10.180.1.5", "n1"))), "none of IPv6"),
        ((service(), slice_of(endpoint("10.180.1.5", "n1")), pod("p", "10.180.1.6", "n1")), "the Pods make other endpoints"),
        ((service(), slice_of(endpoint("10.180.1.5", "n1")), pod("p", "10.180.1.5", "n1", ready=False)), "the endpoints have other conditions"),
    ],
)  # fmt: skip
def test_slices_that_the_controller_would_write_otherwise(objects: tuple[Json, ...], reason: str) -> None:
    """CP-3.4, CP-3.8, CP-3.9: after an edit of the Service, its Pods or the Nodes."""
    assert any(
        reason in note for note in notes_with(STALE, *(objects if "labels of" not in reason else (*ZONED, *objects)))
    ), load(*objects).notes


@pytest.mark.parametrize(
    "objects",
    [
        (service(), slice_of(endpoint("10.180.1.5", "n1"))),
        (service(), slice_of(endpoint("10.180.1.5", "n1")), pod("p", "10.180.1.5", "n1")),
        (
            service(trafficDistribution="PreferClose"),
            *ZONED,
            slice_of(endpoint("10.180.1.5", "n1", zone="a", hints={"forZones": [{"name": "a"}]})),
        ),
        (
            service(selector=None, trafficDistribution="PreferClose"),
            slice_of(endpoint("10.180.1.5", "n1")),
        ),  # a person's own
    ],
)
def test_slices_as_the_controller_writes_them(objects: tuple[Json, ...]) -> None:
    assert not notes_with(STALE, *objects)
