"""Makes the EndpointSlices that a cluster's controllers would have written, if the manifests lack them (O-10, CP-4.3).

Counterpart: the endpointslice and endpointslicemirroring controllers. A Service that has slices is never changed.
"""

from collections.abc import Iterable, Sequence

from kpsim.addresses import Family, parse_ip
from kpsim.inputs import Json
from kpsim.manifests.remarks import counted
from kpsim.objects import (
    LABEL_SERVICE_NAME,
    ApiObject,
    EndpointSlice,
    Node,
    Pod,
    Service,
    endpoint_slice_from_json,
    node_from_json,
)

_LABEL_SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
_LABEL_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"


def derive_from_pods(objects: Sequence[ApiObject]) -> tuple[list[EndpointSlice], list[str]]:
    """Make slices from Pods for the Services with selector that have no slice.

    Returns them, and in words what was done.
    """
    pods = [obj for obj in objects if isinstance(obj, Pod)]
    if not pods:
        return [], []
    notes = _pod_notes(pods)
    sliced = {(obj.metadata.namespace, obj.service_name) for obj in objects if isinstance(obj, EndpointSlice)}
    services = [
        obj
        for obj in objects
        if isinstance(obj, Service)
        and obj.selector
        and obj.type != "ExternalName"
        and (obj.metadata.namespace, obj.metadata.name) not in sliced
    ]
    if not services:
        return [], notes
    from kpsim.endpointslices import derive_slices

    placed, nodes = _on_nodes(pods, [obj for obj in objects if isinstance(obj, Node)], notes)
    slices = list(derive_slices(services, placed, nodes))
    count = sum(len(made.endpoints) for made in slices)
    names = ", ".join(f"{service.metadata.namespace}/{service.metadata.name}" for service in services[:10])
    more = f" and {len(services) - 10} more" if len(services) > 10 else ""
    notes.append(
        f"derived {counted(len(slices), 'EndpointSlice')} with {counted(count, 'endpoint')} from Pods for {names}{more}"
    )
    return slices, notes


def _on_nodes(pods: Sequence[Pod], nodes: Sequence[Node], notes: list[str]) -> tuple[list[Pod], Sequence[Node]]:
    """Return the Pods whose Node is known, and the Nodes.

    The controller waits for a Node it does not know (CP-3.4.1).
    """
    placed = [pod for pod in pods if pod.node_name]
    if not nodes:
        names = sorted({pod.node_name for pod in placed})
        notes.append("there are no Nodes: every node that Pods name is taken to exist, its zone unknown")
        return placed, [node_from_json({"kind": "Node", "metadata": {"name": name}}) for name in names]
    known = {node.metadata.name for node in nodes}
    strays = sorted({pod.node_name for pod in placed} - known)
    if strays:
        notes.append(f"Pods on nodes that are not among the objects are no endpoints: {', '.join(strays[:10])}")
    return [pod for pod in placed if pod.node_name in known], nodes


def _pod_notes(pods: Iterable[Pod]) -> list[str]:
    notes = []
    for what, left_out in (
        ("on no node", [pod for pod in pods if not pod.node_name]),
        ("without an IP in their status", [pod for pod in pods if pod.node_name and not pod.ips]),
    ):
        if left_out:
            names = ", ".join(f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in left_out[:5])
            more = ", ..." if len(left_out) > 5 else ""
            notes.append(f"no endpoint, because {what}: {counted(len(left_out), 'Pod')}, {names}{more}")
    return notes


def mirror_endpoints(endpoints: Sequence[Json], objects: Sequence[ApiObject]) -> tuple[list[EndpointSlice], list[str]]:
    """Make slices from Endpoints of Services without selector (CP-4.3). The controllers rewrite all other Endpoints."""
    services = {(obj.metadata.namespace, obj.metadata.name): obj for obj in objects if isinstance(obj, Service)}
    sliced = {(obj.metadata.namespace, obj.service_name) for obj in objects if isinstance(obj, EndpointSlice)}
    mirrored: list[EndpointSlice] = []
    notes: list[str] = []
    unread = 0
    for obj in endpoints:
        metadata = obj["metadata"]
        name = (metadata["namespace"], metadata["name"])
        service = services.get(name)
        labels = metadata.get("labels") or {}
        if service is None or service.selector or name in sliced or labels.get(_LABEL_SKIP_MIRROR) == "true":
            unread += 1
            continue
        made = [
            _mirrored_slice(obj, subset, number, family)
            for number, subset in enumerate(obj.get("subsets") or [])
            for family in Family
        ]
        made = [found for found in made if found.endpoints]
        mirrored += made
        notes.append(f"mirrored Endpoints {'/'.join(name)} into {counted(len(made), 'EndpointSlice')}")
    if unread:
        notes.append(f"kube-proxy does not read Endpoints, and nothing mirrors these: {unread} left aside")
    return mirrored, notes


def _mirrored_slice(obj: Json, subset: Json, number: int, family: Family) -> EndpointSlice:
    metadata = obj["metadata"]
    endpoints = []
    for group, ready in (("addresses", True), ("notReadyAddresses", False)):
        for address in subset.get(group) or []:
            parsed = parse_ip(address["ip"])
            if parsed is None or parsed[0] is not family:
                continue
            # mirrored endpoints have the condition ready alone
            endpoint = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
            endpoints.append(endpoint | ({"nodeName": address["nodeName"]} if address.get("nodeName") else {}))
    return endpoint_slice_from_json(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": metadata["namespace"],
                "name": f"{metadata['name']}-mirrored-{number}-{family.label.lower()}",
                "labels": {
                    **(metadata.get("labels") or {}),
                    LABEL_SERVICE_NAME: metadata["name"],
                    _LABEL_MANAGED_BY: "endpointslicemirroring-controller.k8s.io",
                },
            },
            "addressType": family.label,
            "endpoints": endpoints,
            "ports": [
                {"name": port.get("name") or "", "protocol": port["protocol"], "port": port["port"]}
                for port in subset.get("ports") or []
            ],
        }
    )
