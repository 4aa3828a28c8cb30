"""Makes the EndpointSlices that a cluster's controllers would have written, if the manifests lack them (O-10, CP-4.3).

Counterpart: the endpointslice and endpointslicemirroring controllers. A Service that has slices is never changed.
"""

from collections.abc import Iterable, Sequence

from kpsim.endpoints import is_mirrored, mirrored_slices, should_mirror
from kpsim.inputs import Json
from kpsim.manifests.remarks import counted
from kpsim.manifests.validation import is_stored
from kpsim.objects import (
    ApiObject,
    EndpointSlice,
    Node,
    Pod,
    Service,
    endpoints_from_json,
    node_from_json,
)


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
    """Make slices from Endpoints of Services without selector (CP-4.3). The controllers rewrite all other Endpoints.

    Slices that mirror an object already are kept. Where an object comes from an API server, any slices of its Service are the whole
    truth; beside one that was written by hand, others' slices stay.
    """
    mirrored: list[EndpointSlice] = []
    notes: list[str] = []
    kept = set(map(id, hand_made(endpoints, objects)))
    for obj in endpoints:
        if id(obj) not in kept:
            continue
        typed = endpoints_from_json(obj)
        name = f"{typed.metadata.namespace}/{typed.metadata.name}"
        made, events = mirrored_slices(typed)
        mirrored += made
        notes.append(f"mirrored Endpoints {name} into {counted(len(made), 'EndpointSlice')}")
        notes += [f"Endpoints {name}: {event.message}" for event in events]
    if unread := len(endpoints) - len(kept):
        notes.append(f"kube-proxy does not read Endpoints, and nothing mirrors these: {unread} left aside")
    return mirrored, notes


def hand_made(endpoints: Sequence[Json], objects: Sequence[ApiObject]) -> list[Json]:
    """Return the Endpoints that a controller would mirror now, as no slices do yet."""
    services = {(obj.metadata.namespace, obj.metadata.name): obj for obj in objects if isinstance(obj, Service)}
    slices: dict[tuple[str, str], list[EndpointSlice]] = {}
    for item in objects:
        if isinstance(item, EndpointSlice):
            slices.setdefault((item.metadata.namespace, item.service_name), []).append(item)
    found = []
    for obj in endpoints:
        typed = endpoints_from_json(obj)
        name = (typed.metadata.namespace, typed.metadata.name)
        service, own = services.get(name), slices.get(name, [])
        done = any(map(is_mirrored, own)) or (bool(own) and is_stored(obj))
        if service is not None and not service.selector and should_mirror(typed) and not done:
            found.append(obj)
    return found
