"""The Kubernetes objects that a run makes: Nodes and Pods as the API server holds them.

Counterpart: the objects that kubelets write.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from kpsim.addresses import Network, host_network, parse_network
from kpsim.inputs import JsonObject
from kpsim.manifests.allocation import service_ranges
from kpsim.objects import (
    LABEL_HOSTNAME,
    LABEL_ZONE,
    Node,
    Pod,
    Service,
    ServiceCIDR,
    node_from_json,
    pod_from_json,
    service_from_json,
)
from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.workload_schema import Workload
from kpsim.simulation.clock import START_NS, wall_ns
from kpsim.units import HOUR_NS, SECOND_NS, format_rfc3339

#: creation time of the objects that exist when a run starts
CREATED = format_rfc3339(START_NS - HOUR_NS)


#: clocks that all agree
NO_SKEWS: Mapping[str, int] = MappingProxyType({})


def timestamp(now_ns: int) -> str:
    """Return a time of the run as the API's text: whole seconds, the fraction is cut off (CP-2.10)."""
    return format_rfc3339(wall_ns(now_ns) // SECOND_NS * SECOND_NS)


def stored_service(service: Service, created: str) -> Service:
    """Return the Service with what the API server adds on creation: an identity and a time."""
    meta = service.json.get("metadata", {})
    uid = f"service-{service.metadata.namespace}-{service.metadata.name}"
    return service_from_json({**service.json, "metadata": {"uid": uid, "creationTimestamp": created, **meta}})


def service_cidrs(
    services: Sequence[Service], nodes: Sequence[ClusterNode], given: Sequence[ServiceCIDR] = ()
) -> tuple[str, ...]:
    """Return the CIDRs of the ServiceCIDR ``kubernetes``, which every API server makes (NFT-1.10), or of those given.

    If the scenario gives none, they are the ranges around its cluster IPs, but for a range that holds pods or nodes.
    """
    if given:
        return tuple(dict.fromkeys(cidr for each in given for cidr in each.cidrs))
    shown = [{"spec": {"podCIDRs": list(node.pod_cidrs)}} for node in nodes]
    ranges = service_ranges([service.json for service in services], shown, ())
    taken = [parse_network(text) for node in nodes for text in node.pod_cidrs]
    taken += [host_network(text) for node in nodes for text in (*node.ips, *node.more_ips)]
    return tuple(
        str(network)
        for networks in ranges.networks.values()
        for network in networks
        if not any(each is not None and _overlap(each, network) for each in taken)
    )


def _overlap(one: Network, other: Network) -> bool:
    return one.family is other.family and (one.base in other or other.base in one)


def node_object(
    node: ClusterNode,
    *,
    ready: bool,
    taints: Mapping[str, str] | None = None,
    unschedulable: bool = False,
    labels: Mapping[str, str | None] | None = None,
    created: str = CREATED,
) -> Node:
    """Return the Node as its kubelet, the node lifecycle controller and people last wrote it.

    ``taints`` holds effects by key, ``labels`` what was labelled since; None: the label was removed.
    """
    marks: JsonObject = {}
    if taints:
        marks["taints"] = [{"key": key, "effect": effect} for key, effect in taints.items()]
    if unschedulable:
        marks["unschedulable"] = True
    wanted = {LABEL_HOSTNAME: node.name, LABEL_ZONE: node.zone, **(labels or {})}
    kept = {key: value for key, value in wanted.items() if value is not None}
    return node_from_json(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name, "labels": kept, "creationTimestamp": created},
            "spec": {"podCIDR": node.pod_cidrs[0], "podCIDRs": list(node.pod_cidrs), **marks},
            "status": {
                "addresses": [{"type": "InternalIP", "address": ip} for ip in (*node.ips, *node.more_ips)],
                "allocatable": {"cpu": str(node.cpu)},
                "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
            },
        }
    )


def pod_object(
    workload: Workload,
    *,
    name: str,
    node: str,
    ips: Sequence[str],
    ready: bool,
    ready_changed: str,
    deleted: str | None,
    failed: bool = False,
) -> Pod:
    """Return the Pod. ``ready_changed`` and ``deleted`` are the API's texts of those times.

    Without ``ips`` the pod is pending. Without ``ready_changed`` it has no Ready condition yet.
    """
    status: JsonObject = {"phase": "Failed" if failed else "Running" if ips else "Pending"}
    if ips:
        status |= {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
    if ready_changed:
        condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": ready_changed}
        status["conditions"] = [condition]
    deletion = {} if deleted is None else {"deletionTimestamp": deleted}
    ports = [
        {"containerPort": port.container_port, "name": port.name, "protocol": port.protocol} for port in workload.ports
    ]
    return pod_from_json(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": workload.namespace,
                "name": name,
                "uid": f"pod-{workload.namespace}-{name}",
                "labels": workload.labels_of(name),
                **deletion,
            },
            "spec": {
                **({"nodeName": node} if node else {}),
                "hostNetwork": workload.host_network,
                "containers": [{"name": "app", "ports": ports}],
            },
            "status": status,
        }
    )
