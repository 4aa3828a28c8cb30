"""Clusters of any size for the benchmarks: Services with ten endpoints each, every tenth with a node port."""

import json
from functools import cache
from pathlib import Path

from kpsim.addresses import Family
from kpsim.backends.table import make_backend
from kpsim.cluster import Event, EventType
from kpsim.config import DEFAULT_MODE, Host, Mode, config_from_json, resolve
from kpsim.objects import EndpointSlice, endpoint_slice_from_json, service_from_json
from kpsim.proxier import Proxier

ENDPOINTS = 10
_ENVELOPE = {"uid": "00000000-0000-4000-8000-000000000000", "resourceVersion": "1"}


def cluster_ip(number: int) -> str:
    return f"172.{30 + number // 65536}.{number // 256 % 256}.{number % 256}"


def service(number: int) -> dict[str, object]:
    has_node_port = number % 10 == 0
    port = {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}
    ip = cluster_ip(number)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": f"team-{number % 20}", "name": f"svc-{number}", **_ENVELOPE},
        "spec": {
            "type": "NodePort" if has_node_port else "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            **({"externalTrafficPolicy": "Cluster"} if has_node_port else {}),
            "sessionAffinity": "None",
            "ports": [{**port, "nodePort": 30000 + number // 10}] if has_node_port else [port],
            "selector": {"app": f"svc-{number}"},
        },
        "status": {"loadBalancer": {}},
    }


def endpoint_slice(number: int, endpoints: int = ENDPOINTS, version: int = 1) -> dict[str, object]:
    first = number * ENDPOINTS
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": f"team-{number % 20}",
            "name": f"svc-{number}-x",
            **_ENVELOPE,
            "resourceVersion": str(version),
            "labels": {"kubernetes.io/service-name": f"svc-{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [
            {
                "addresses": [f"10.{i // 65536}.{i // 256 % 256}.{i % 256}"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": f"node-{i % 100}",
            }
            for i in range(first, first + endpoints)
        ],
    }


def write_list(path: Path, services: int) -> Path:
    """A file such as ``kubectl get services,endpointslices -A -o json`` prints."""
    items = [*map(service, range(services)), *map(endpoint_slice, range(services))]
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}), encoding="utf-8")
    return path


def new_proxier(services: int, mode: Mode = DEFAULT_MODE) -> Proxier:
    """A proxier that was told everything and has not synced yet."""
    config = config_from_json({"clusterCIDR": "10.0.0.0/8", "hostnameOverride": "node-1"}, mode=mode)
    settings = resolve(config, Host(node_ips=("192.168.0.2",)), None, Family.IPV4)
    proxier = Proxier(settings, make_backend(settings), created_ns=0)
    for number in range(services):
        proxier.on_event(Event(EventType.ADDED, None, service_from_json(service(number))), 0)
        proxier.on_event(Event(EventType.ADDED, None, endpoint_slice_from_json(endpoint_slice(number))), 0)
    proxier.services_synced()
    proxier.slices_synced()
    return proxier


@cache
def synced_proxier(services: int, mode: Mode = DEFAULT_MODE) -> Proxier:
    """A proxier after its first sync; shared by the benchmarks of one run."""
    proxier = new_proxier(services, mode)
    assert proxier.sync(0).success
    return proxier


def changed_slice(number: int, version: int) -> EndpointSlice:
    """The slice with one endpoint less or more, in turn."""
    return endpoint_slice_from_json(endpoint_slice(number, ENDPOINTS - version % 2, version))
