"""Families, cluster IPs and node ports (O-3.3 to O-3.7), on create and on update."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from kpsim.cluster import ClusterState
from kpsim.errors import InputError
from kpsim.manifests import apply_patch, check_object, check_objects, patch_object, update_object
from kpsim.manifests.allocation import NODE_PORTS
from kpsim.objects import object_from_json


def service(name: str = "web", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"ports": [{"port": 80}], **spec},
    }


def cidr(*cidrs: str, name: str = "kubernetes") -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": name},
        "spec": {"cidrs": list(cidrs)},
    }


def specs(*objects: dict[str, Any]) -> list[dict[str, Any]]:
    return [obj["spec"] for obj in check_objects(objects) if obj["kind"] == "Service"]


def refusal(*objects: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        check_objects(objects)
    return "\n".join(map(str, caught.value.problems))


def cluster(*objects: dict[str, Any]) -> ClusterState:
    typed = [object_from_json(obj) for obj in objects]
    return ClusterState.of(obj for obj in typed if obj is not None)


# ---------------------------------------------------------------------------------------------------------- cluster IPs


def test_a_slash_24_is_allocated_from_its_upper_part_first() -> None:
    """O-3.4: of a /24, .1 to .16 are the static band and .17 to .254 the dynamic part; .0 and .255 are never given."""
    full = specs(cidr("172.30.0.0/24"), *(service(f"s{number:03}") for number in range(254)))
    last = [int(spec["clusterIP"].rpartition(".")[2]) for spec in full]
    assert sorted(last[:238]) == list(range(17, 255))
    assert sorted(last[238:]) == list(range(1, 17))


def test_a_range_that_is_used_up() -> None:
    few = [service(f"s{number}") for number in range(7)]
    assert "no free IPv4 cluster IP is left" in refusal(cidr("172.30.0.0/29"), *few)
    assert len(specs(cidr("172.30.0.0/29"), *few[:6])) == 6


def test_explicit_addresses_are_left_out_and_checked() -> None:
    taken = [service(f"taken-{number}", clusterIP=f"172.30.0.{number}") for number in range(1, 6)]
    (*_, spec) = specs(cidr("172.30.0.0/29"), *taken, service("last"))
    assert spec["clusterIP"] == "172.30.0.6"
    assert "belongs to Service shop/a" in refusal(
        service("a", clusterIP="172.30.0.7"), service("b", clusterIP="172.30.0.7")
    )
    assert "lies in no ServiceCIDR" in refusal(cidr("172.30.0.0/24"), service(clusterIP="172.31.0.1"))
    assert "network or broadcast" in refusal(cidr("172.30.0.0/24"), service(clusterIP="172.30.0.255"))
    assert "network or broadcast" in refusal(cidr("172.30.0.0/24"), service(clusterIP="172.30.0.0"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [([], "10.96.0.0/12"), (["172.30.4.1"], "172.30.0.0/16"), (["172.30.4.1", "10.96.0.1"], "10.96.0.0/12")],
)
def test_the_assumed_range(given: list[str], expected: str) -> None:
    stated = [service(f"given-{ip.replace('.', '-')}", clusterIP=ip) for ip in given]
    (*_, spec) = specs(*stated, service())
    assert ip_address(spec["clusterIP"]) in ip_network(expected)


def test_another_service_changes_no_allocation() -> None:
    alone = specs(service(type="NodePort"))[0]
    _, together = specs(service("other", type="NodePort"), service(type="NodePort"))
    assert together == alone


# ------------------------------------------------------------------------------------------------------------- families

V4, V6 = "172.30.0.0/16", "fd00:30::/112"


@pytest.mark.parametrize(
    ("ranges", "spec", "families"),
    [
        ((V4,), {}, ["IPv4"]),
        ((V6,), {}, ["IPv6"]),
        ((V6, V4), {}, ["IPv6"]),
        ((V4, V6), {"ipFamilyPolicy": "PreferDualStack"}, ["IPv4", "IPv6"]),
        ((V4,), {"ipFamilyPolicy": "PreferDualStack"}, ["IPv4"]),
        ((V4, V6), {"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}, ["IPv6", "IPv4"]),
        ((V4, V6), {"clusterIP": "fd00:30::5"}, ["IPv6"]),
        ((V4, V6), {"clusterIP": "fd00:30::5", "ipFamilyPolicy": "PreferDualStack"}, ["IPv6", "IPv4"]),
        ((V4,), {"clusterIP": "None"}, ["IPv4", "IPv6"]),  # headless without selector
        ((V4,), {"clusterIP": "None", "selector": {"app": "web"}}, ["IPv4"]),
    ],
)
def test_families(ranges: tuple[str, ...], spec: dict[str, Any], families: list[str]) -> None:
    (made,) = specs(cidr(*ranges), service(**spec))
    assert made["ipFamilies"] == families
    if spec.get("clusterIP") != "None":
        assert ["IPv6" if ":" in ip else "IPv4" for ip in made["clusterIPs"]] == families
        assert made["clusterIP"] == made["clusterIPs"][0]
    else:
        assert made["clusterIPs"] == ["None"]


@pytest.mark.parametrize(
    ("ranges", "spec", "words"),
    [
        ((V4,), {"ipFamilyPolicy": "RequireDualStack"}, "RequireDualStack in a cluster with IPv4"),
        ((V4,), {"ipFamilies": ["IPv6"]}, "no IPv6 service range"),
        ((V4, V6), {"ipFamilies": ["IPv4", "IPv6"]}, "two families need PreferDualStack"),
        ((V4, V6), {"ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}, "only once"),
    ],
)
def test_families_that_cannot_be(ranges: tuple[str, ...], spec: dict[str, Any], words: str) -> None:
    assert words in refusal(cidr(*ranges), service(**spec))


def test_families_of_a_cluster_without_service_cidr_show_in_its_objects() -> None:
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node-a"},
        "spec": {"podCIDRs": ["fd00:180::/64", "10.180.0.0/24"]},
    }
    first, second = specs(node, service("a"), service("b", ipFamilyPolicy="RequireDualStack"))
    assert (first["ipFamilies"], second["ipFamilies"]) == (["IPv6"], ["IPv6", "IPv4"])


# ----------------------------------------------------------------------------------------------------------- node ports


def test_the_static_band_of_node_ports_is_used_last() -> None:
    """O-3.5: 30000 to 30085 is the static band; automatic allocation starts above it."""
    many = [
        service(f"s{n}", type="NodePort", ports=[{"name": f"p{m}", "port": m} for m in range(1, 90)]) for n in range(31)
    ]
    ports = [port["nodePort"] for spec in specs(*many) for port in spec["ports"]]
    assert len(set(ports)) == len(ports) == 31 * 89
    in_dynamic_part = [port for port in ports if port >= 30086]
    assert len(in_dynamic_part) == 32768 - 30086  # all of it, before the band lends the rest


def test_ports_of_one_number_share_a_node_port_on_create() -> None:  # O-3.6
    dns = [
        {"name": "tcp", "port": 53},
        {"name": "udp", "port": 53, "protocol": "UDP"},
        {"name": "web", "port": 80, "nodePort": 30100},
        {"name": "quic", "port": 80, "protocol": "UDP"},
        {"name": "other", "port": 81},
    ]
    (spec,) = specs(service(type="NodePort", ports=dns))
    tcp, udp, web, quic, other = (port["nodePort"] for port in spec["ports"])
    assert tcp == udp and (web, quic) == (30100, 30100)
    assert len({tcp, web, other}) == 3


def test_load_balancers_get_node_ports_unless_they_say_no() -> None:
    yes, no = specs(
        service("a", type="LoadBalancer"), service("b", type="LoadBalancer", allocateLoadBalancerNodePorts=False)
    )
    assert yes["ports"][0]["nodePort"] in NODE_PORTS
    assert "nodePort" not in no["ports"][0]


def test_health_check_node_port() -> None:  # O-3.7
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    spec, given = specs(service("a", **local), service("b", healthCheckNodePort=30999, **local))
    assert spec["healthCheckNodePort"] in NODE_PORTS
    assert spec["healthCheckNodePort"] != spec["ports"][0]["nodePort"]
    assert given["healthCheckNodePort"] == 30999


def test_node_ports_are_held_by_number_alone() -> None:  # O-3.5
    a = service("a", type="NodePort", ports=[{"port": 53, "nodePort": 30053}])
    b = service("b", type="NodePort", ports=[{"port": 53, "protocol": "UDP", "nodePort": 30053}])
    assert "the node port 30053 belongs to Service shop/a, whatever the protocol" in refusal(a, b)
    health = service(
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=30053,
        ports=[{"port": 53, "nodePort": 30053}],
    )
    assert "belongs to Service shop/web" in refusal(health)


# -------------------------------------------------------------------------------------------------- objects and patches


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7386, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, result: Any) -> None:
    assert apply_patch(target, patch) == result


def test_objects_are_created_in_a_cluster() -> None:
    held = check_object(
        service("held", type="NodePort", clusterIP="172.30.0.7", ports=[{"port": 80, "nodePort": 30080}])
    )
    with pytest.raises(InputError, match=r"172\.30\.0\.7 belongs to Service shop/held"):
        check_object(service(clusterIP="172.30.0.7"), existing=cluster(held))
    fresh = check_object(service(), existing=cluster(held))
    assert fresh["spec"]["clusterIP"].startswith("172.30.")


def test_kinds_that_decide_no_packets_pass_as_they_are() -> None:
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}
    assert check_objects([deployment, service()])[0] == deployment


def test_a_patch_keeps_what_was_allocated() -> None:
    old = check_object(service(type="NodePort"))
    new = patch_object(old, {"spec": {"internalTrafficPolicy": "Local", "ports": [{"port": 81}]}})
    assert new["spec"]["clusterIP"] == old["spec"]["clusterIP"]
    assert new["spec"]["ports"] == [
        {"port": 81, "protocol": "TCP", "targetPort": 81, "nodePort": old["spec"]["ports"][0]["nodePort"]}
    ]
    assert new["spec"]["internalTrafficPolicy"] == "Local"


def test_on_update_each_new_port_gets_a_number_of_its_own() -> None:  # O-3.6
    old = check_object(service(type="NodePort", ports=[{"name": "tcp", "port": 53}]))
    ports = [{"name": "tcp", "port": 53}, {"name": "udp", "port": 53, "protocol": "UDP"}]
    new = patch_object(old, {"spec": {"ports": ports}})
    tcp, udp = (port["nodePort"] for port in new["spec"]["ports"])
    assert tcp == old["spec"]["ports"][0]["nodePort"] and tcp != udp


def test_turning_a_service_inward_drops_its_node_ports() -> None:
    old = check_object(service(type="LoadBalancer", externalTrafficPolicy="Local"))
    assert old["spec"]["healthCheckNodePort"]
    spec = patch_object(old, {"spec": {"type": "ClusterIP"}})["spec"]
    assert "nodePort" not in spec["ports"][0]
    assert not {"healthCheckNodePort", "externalTrafficPolicy", "allocateLoadBalancerNodePorts"} & spec.keys()
    assert spec["clusterIP"] == old["spec"]["clusterIP"]
    back = patch_object({**old, "spec": spec}, {"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}})
    assert back["spec"]["healthCheckNodePort"] in NODE_PORTS and back["spec"]["ports"][0]["nodePort"] in NODE_PORTS


def test_a_second_family_is_added_and_given_up() -> None:  # O-3.3
    ranges = cidr(V4, V6)
    old = check_objects([ranges, service()])[1]
    both = patch_object(old, {"spec": {"ipFamilyPolicy": "PreferDualStack"}}, cluster=cluster(ranges, old))
    assert both["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
    assert both["spec"]["clusterIPs"][0] == old["spec"]["clusterIP"] and ":" in both["spec"]["clusterIPs"][1]
    single = patch_object(both, {"spec": {"ipFamilyPolicy": "SingleStack"}}, cluster=cluster(ranges, both))
    assert (single["spec"]["ipFamilies"], single["spec"]["clusterIPs"]) == (["IPv4"], [old["spec"]["clusterIP"]])


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"spec": {"clusterIP": "172.30.0.99", "clusterIPs": ["172.30.0.99"]}}, "primary cluster IP cannot be changed"),
        ({"metadata": {"name": "other"}}, "another name is another object"),
        ({"spec": {"portz": []}}, "did you mean ports?"),
        ({"spec": {"ports": []}}, "only a headless or ExternalName Service may have no ports"),
        ({"spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}}, "belongs to Service shop/held"),
    ],
)
def test_updates_that_are_refused(patch: dict[str, Any], words: str) -> None:
    held = check_object(service("held", type="NodePort", ports=[{"port": 80, "nodePort": 30080}]))
    old = check_object(service(clusterIP="172.30.0.7"))
    with pytest.raises(InputError) as caught:
        patch_object(old, patch, cluster=cluster(held, old), file="rollout.yaml", path=("steps", 2))
    assert words in str(caught.value)
    assert str(caught.value).startswith("rollout.yaml: .steps[2].")


def test_the_address_type_of_a_slice_cannot_be_changed() -> None:
    made = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "shop"},
        "addressType": "IPv4",
        "endpoints": [],
    }
    with pytest.raises(InputError, match=r"addressType: .* cannot be changed"):
        update_object(made, {**made, "addressType": "IPv6"})
