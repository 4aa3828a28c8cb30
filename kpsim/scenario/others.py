"""Services that a scenario has besides its own: nobody calls them, but kube-proxy writes rules for them.

They make a cluster large. Their endpoints are the same addresses for all of them, which no node has.
"""

from collections.abc import Iterator

from kpsim.addresses import Family
from kpsim.inputs import JsonObject
from kpsim.objects import EndpointSlice, Service, endpoint_slice_from_json, service_from_json
from kpsim.scenario.schema import OtherServices

NAMESPACE = "others"
#: the networks of their cluster IPs, and of their endpoints: those that are for benchmarks (RFC 2544, RFC 5180)
_CLUSTER_IPS = {Family.IPV4: "172.31.{}.{}", Family.IPV6: "fd00:172:31::{:x}{:02x}"}
_ENDPOINTS = {Family.IPV4: "198.18.0.{}", Family.IPV6: "2001:2::{:x}"}


def other_services(others: OtherServices, family: Family) -> Iterator[Service | EndpointSlice]:
    """Yield each Service with its slice."""
    addresses = [_ENDPOINTS[family].format(number) for number in range(1, others.endpoints + 1)]
    for number in range(1, others.count + 1):
        yield service_from_json(_service(number, family))
        yield endpoint_slice_from_json(_slice(number, addresses, family))


def _service(number: int, family: Family) -> JsonObject:
    address = _CLUSTER_IPS[family].format(*divmod(number, 256))
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": f"other-{number}"},
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": [family.label], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "ports": [{"protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
    }  # fmt: skip


def _slice(number: int, addresses: list[str], family: Family) -> JsonObject:
    name = f"other-{number}"
    ready = {"ready": True, "serving": True, "terminating": False}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": NAMESPACE, "name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": family.label,
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": [each], "conditions": ready} for each in addresses],
    }
