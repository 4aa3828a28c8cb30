"""Builds Services, Pods, Nodes and slices for the EndpointSlice tests, in the address plan."""

from collections.abc import Iterable, Mapping
from typing import Any

from kpsim.endpointslices import Reconciliation, TopologyCache, reconcile
from kpsim.objects import EndpointSlice, Node, Pod, Service, node_from_json, pod_from_json, service_from_json

READY_SINCE = "2026-01-01T00:01:00Z"


def make_service(name: str = "web", **spec: Any) -> Service:
    """A ClusterIP Service ``shop/<name>`` for pods ``app=<name>``.

    ``annotations`` and ``labels`` go into the metadata.
    """
    metadata = {
        "namespace": "shop",
        "name": name,
        "uid": f"uid-{name}",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": spec.pop("labels", {}),
        "annotations": spec.pop("annotations", {}),
    } | spec.pop("metadata", {})
    base = {
        "type": "ClusterIP",
        "clusterIP": "172.30.0.10",
        "ipFamilies": ["IPv4"],
        "selector": {"app": name},
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
    }
    return service_from_json({"kind": "Service", "metadata": metadata, "spec": base | spec})


def make_pod(
    number: int,
    *,
    node: str = "node-1",
    ready: bool = True,
    terminating: bool = False,
    phase: str = "Running",
    ips: Iterable[str] | None = None,
    labels: Mapping[str, str] | None = None,
    since: str = READY_SINCE,
    **spec: Any,
) -> Pod:
    """A pod ``shop/web-<number>`` with address 10.180.<number / 256>.<number % 256>."""
    if ips is None:
        ips = [f"10.180.{number >> 8}.{number & 255}"]
    metadata: dict[str, Any] = {"namespace": "shop", "name": f"web-{number:03}", "uid": f"pod-{number}"}
    metadata["labels"] = {"app": "web"} if labels is None else labels
    if terminating:
        metadata["deletionTimestamp"] = "2026-01-01T00:05:00Z"
    condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": since}
    return pod_from_json(
        {
            "kind": "Pod",
            "metadata": metadata,
            "spec": {"nodeName": node, "containers": []} | spec,
            "status": {"phase": phase, "podIPs": [{"ip": ip} for ip in ips], "conditions": [condition]},
        }
    )


def make_node(
    name: str, zone: str | None = None, *, cpu: str | None = "4", ready: bool = True, labels: Iterable[str] = ()
) -> Node:
    metadata = {
        "name": name,
        "labels": dict.fromkeys(labels, "") | ({"topology.kubernetes.io/zone": zone} if zone else {}),
    }
    status = {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": str(ready)}]}
    return node_from_json({"kind": "Node", "metadata": metadata, "status": status})


def by_name(*nodes: Node) -> dict[str, Node]:
    return {node.metadata.name: node for node in nodes}


NODES = by_name(make_node("node-1", "a"), make_node("node-2", "b"), make_node("node-3", "c"))


def sync(
    service: Service,
    pods: Iterable[Pod],
    existing: Iterable[EndpointSlice] = (),
    *,
    nodes: Mapping[str, Node] = NODES,
    limit: int = 100,
    trigger_time_ns: int | None = None,
    topology: TopologyCache | None = None,
    seed: int = 0,
) -> Reconciliation:
    return reconcile(
        service,
        pods,
        nodes,
        existing,
        trigger_time_ns=trigger_time_ns,
        max_endpoints_per_slice=limit,
        topology=topology,
        seed=seed,
    )


def pods_in(item: EndpointSlice) -> list[str]:
    """Names of the pods behind a slice's endpoints, in order."""
    return [endpoint.target_ref.name for endpoint in item.endpoints if endpoint.target_ref]
