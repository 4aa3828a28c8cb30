"""A cluster of any size, and what kube-proxy hands over for it: in full, in full again, in part, and after deletions.

The documents are those of kpsim's own backends, whose text is that of the real kube-proxy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.backends import Document
from kpsim.backends.table import make_backend, traits_of
from kpsim.backends.work import Calls, Tool
from kpsim.bulk import without_collector
from kpsim.cluster import Event, EventType
from kpsim.config import Host, Mode, config_from_json, resolve
from kpsim.objects import EndpointSlice, Service, endpoint_slice_from_json, service_from_json
from kpsim.proxier import Proxier
from kpsim.units import SECOND_NS

_NODE_PORTS = 10  #: every so manieth Service has a node port


class Size(NamedTuple):
    """How many Services, and endpoints of each."""

    services: int
    endpoints: int

    def __str__(self) -> str:
        return f"{self.services}x{self.endpoints}"


class Written(NamedTuple):
    """What one sync handed over, and the calls that it is. The texts are made when they are asked for."""

    documents: tuple[Document, ...]
    calls: Calls


@dataclass(frozen=True, slots=True)
class Syncs:
    """The syncs of one kube-proxy with one cluster, in this order."""

    size: Size
    first: Written
    again: Written  #: in full, over the same
    partial: tuple[Written, ...]  #: one Service loses or gets an endpoint
    deletion: Written  #: a tenth of the Services is deleted


def mode_calling(tool: Tool) -> Mode:
    """Return the first mode whose syncs call a tool."""
    return next(mode for mode in Mode if tool in traits_of(mode).tools)


def service(number: int) -> Service:
    has_node_port = number % _NODE_PORTS == 0
    address = f"172.{30 + number // 65536}.{number // 256 % 256}.{number % 256}"
    port = {"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}
    return service_from_json({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": f"team-{number % 20}", "name": f"svc-{number}"},
        "spec": {
            "type": "NodePort" if has_node_port else "ClusterIP", "clusterIP": address, "clusterIPs": [address],
            "ipFamilies": ["IPv4"], "internalTrafficPolicy": "Cluster", "externalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "ports": [{**port, "nodePort": 30000 + number // _NODE_PORTS % 2768}] if has_node_port else [port],
        },
    })  # fmt: skip


def endpoint_slice(number: int, size: Size, endpoints: int) -> EndpointSlice:
    first = number * size.endpoints
    return endpoint_slice_from_json({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": f"team-{number % 20}", "name": f"svc-{number}-x", "labels": {"kubernetes.io/service-name": f"svc-{number}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [
            {
                "addresses": [f"10.{i // 65536 % 256}.{i // 256 % 256}.{i % 256}"],
                "conditions": {"ready": True, "serving": True, "terminating": False}, "nodeName": f"node-{i % 100}",
            }
            for i in range(first, first + endpoints)
        ],
    })  # fmt: skip


def new_proxier(size: Size, mode: Mode) -> Proxier:
    """Return a kube-proxy that was told everything and has not synced yet."""
    config = config_from_json({"clusterCIDR": "10.0.0.0/8", "hostnameOverride": "node-1"}, mode=mode)
    settings = resolve(config, Host(node_ips=("192.168.0.2",)), None, Family.IPV4)
    proxier = Proxier(settings, make_backend(settings), created_ns=0)
    with without_collector():
        for number in range(size.services):
            proxier.on_event(Event(EventType.ADDED, None, service(number)), 0)
            proxier.on_event(Event(EventType.ADDED, None, endpoint_slice(number, size, size.endpoints)), 0)
    proxier.services_synced()
    proxier.slices_synced()
    return proxier


def syncs(size: Size, mode: Mode, partial: int = 2) -> Syncs:
    """Return what a kube-proxy hands over for a cluster."""
    proxier = new_proxier(size, mode)
    times = iter(range(0, 1000 * SECOND_NS, 10 * SECOND_NS))
    first = _sync(proxier, next(times))
    proxier.force_full_sync()
    again = _sync(proxier, next(times))
    parts = []
    for number in range(partial):
        few = endpoint_slice(0, size, max(0, size.endpoints - 1))
        all_ = endpoint_slice(0, size, size.endpoints)
        old, new = (all_, few) if number % 2 == 0 else (few, all_)
        proxier.on_event(Event(EventType.MODIFIED, old, new), 0)
        parts.append(_sync(proxier, next(times)))
    for number in _deleted(size):
        proxier.on_event(Event(EventType.DELETED, service(number), None), 0)
        proxier.on_event(Event(EventType.DELETED, endpoint_slice(number, size, size.endpoints), None), 0)
    return Syncs(size, first, again, tuple(parts), _sync(proxier, next(times)))


def _deleted(size: Size) -> Sequence[int]:
    return range(1, size.services, 10)


def _sync(proxier: Proxier, now_ns: int) -> Written:
    transaction = proxier.sync(now_ns).transaction
    return Written(transaction.documents, transaction.calls())
