"""From Services and Pods to EndpointSlices: the decisions of the EndpointSlice controller (CP-3, O-10).

Counterpart: ``pkg/controller/endpointslice`` with ``k8s.io/endpointslice``. Pure functions: objects in, writes out. It never
knows kube-proxy, and neither queues nor retries anything.

Where upstream's order is arbitrary (Go maps), pods count by name, port sets by their first pod, and slices by name.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kpsim import rng
from kpsim.addresses import Family, canonical_ip, parse_ip
from kpsim.errors import InputError, Problem
from kpsim.objects import (
    ANNOTATION_TRIGGER_TIME,
    CLUSTER_IP_NONE,
    LABEL_HEADLESS,
    LABEL_SERVICE_NAME,
    EndpointSlice,
    Json,
    Node,
    Pod,
    Service,
    SliceEndpoint,
    SlicePort,
    TargetRef,
    endpoint_slice_from_json,
)
from kpsim.slice_drafts import LABEL_MANAGED_BY, Drafts, SliceDraft, copied_labels, owned, pack
from kpsim.slice_triggers import selects, service_trigger_time_ns
from kpsim.topology_hints import (
    ControllerEvent,
    TopologyCache,
    assign_auto_hints,
    auto_hints_wanted,
    distribute_traffic,
    remove_hints,
)
from kpsim.units import format_rfc3339

CONTROLLER_NAME = "endpointslice-controller.k8s.io"
MAX_ENDPOINTS_PER_SLICE = 100

_NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # what the API server draws generated names from
_NAME_SUFFIX_LENGTH = 5
_NAME_MAX_LENGTH = 63


class WriteVerb(enum.StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class SliceWrite(NamedTuple):
    """One API call of the controller. The slice is complete; for a deletion it is the one that goes."""

    verb: WriteVerb
    slice: EndpointSlice


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What one sync of one Service does.

    ``writes`` in the order of the calls (CP-3.6.2): families in the Service's order, in each creates, updates, deletes; then
    the slices of families that the Service has left. ``errors`` are pods that could not be placed: the writes happen anyway,
    then the sync fails and is retried. ``topology`` is the cache for the next sync.
    """

    writes: tuple[SliceWrite, ...]
    events: tuple[ControllerEvent, ...]
    errors: tuple[str, ...]
    topology: TopologyCache | None

    def _of(self, verb: WriteVerb) -> tuple[EndpointSlice, ...]:
        return tuple(write.slice for write in self.writes if write.verb is verb)

    @property
    def creates(self) -> tuple[EndpointSlice, ...]:
        return self._of(WriteVerb.CREATE)

    @property
    def updates(self) -> tuple[EndpointSlice, ...]:
        return self._of(WriteVerb.UPDATE)

    @property
    def deletes(self) -> tuple[EndpointSlice, ...]:
        return self._of(WriteVerb.DELETE)

    def apply(self, existing: Iterable[EndpointSlice]) -> tuple[EndpointSlice, ...]:
        """The slices after all writes, by name."""
        slices = {item.key: item for item in existing}
        for write in self.writes:
            if write.verb is WriteVerb.DELETE:
                slices.pop(write.slice.key, None)
            else:
                slices[write.slice.key] = write.slice
        return tuple(slices[key] for key in sorted(slices))


# ----------------------------------------------------------------------------------------------------- what is reconciled


def has_managed_slices(service: Service) -> bool:
    """Whether the controller makes slices for the Service: it has a selector and is no ExternalName (CP-3.3)."""
    return bool(service.selector) and service.type != "ExternalName"


def slices_of(service: Service, slices: Iterable[EndpointSlice]) -> list[EndpointSlice]:
    """The slices that the controller takes for the Service's: by labels, without those being deleted (CP-3.3)."""
    return [
        item
        for item in slices
        if item.metadata.namespace == service.metadata.namespace
        and item.service_name == service.metadata.name
        and item.metadata.labels.get(LABEL_MANAGED_BY) == CONTROLLER_NAME
        and not item.metadata.deletion_timestamp
    ]


def address_types(service: Service) -> tuple[str, ...]:
    """The families that get slices, in the Service's order (CP-3.4.5).

    Without ``ipFamilies`` (never so from an API server) the family of the cluster IP counts, or both.
    """
    if service.ip_families:
        return service.ip_families
    found = parse_ip(service.cluster_ip)
    return (found[0].label,) if found else (Family.IPV4.label, Family.IPV6.label)


# -------------------------------------------------------------------------------------------------------- pod to endpoint


def pod_belongs(pod: Pod) -> bool:
    """Whether a selected pod is an endpoint at all; terminating ones are (CP-3.4.1)."""
    return pod.phase not in ("Succeeded", "Failed") and bool(pod.ips)


def endpoint_of(pod: Pod, node: Node | None, service: Service, address_type: str) -> SliceEndpoint:
    """The endpoint of a pod, all three conditions set (CP-3.4.2, CP-3.4.3); without addresses if it has none of the family."""
    terminating = pod.terminating
    named = pod.hostname and pod.subdomain == service.metadata.name and _same_namespace(pod, service)
    return SliceEndpoint(
        addresses=tuple(canonical_ip(ip) or ip for ip in pod.ips if _address_type(ip) == address_type),
        ready=service.publish_not_ready_addresses or (pod.ready and not terminating),
        serving=pod.ready,
        terminating=terminating,
        node_name=pod.node_name or None,
        zone=(node.zone or None) if node else None,
        hostname=pod.hostname if named else None,
        target_ref=TargetRef("Pod", pod.metadata.namespace, pod.metadata.name, pod.metadata.uid),
    )


def _same_namespace(pod: Pod, service: Service) -> bool:
    return pod.metadata.namespace == service.metadata.namespace


def _address_type(ip: str) -> str:
    """Like the controller, take what is no address for IPv4; kube-proxy drops it later (O-6)."""
    found = parse_ip(ip)
    return found[0].label if found else Family.IPV4.label


def endpoint_ports(service: Service, pod: Pod) -> tuple[SlicePort, ...]:
    """The slice ports that the Service has on this pod; a named one the pod does not have is left out (CP-3.4.4)."""
    ports = []
    for port in service.ports:
        number = find_port(pod, port.target_port, port.protocol)
        if number is not None:
            ports.append(SlicePort(port.name, port.protocol, number, port.app_protocol))
    return tuple(ports)


def find_port(pod: Pod, target_port: int | str, protocol: str) -> int | None:
    """The container port that ``target_port`` means: a number as it is, a name by the first match of name and protocol."""
    if isinstance(target_port, int):
        return target_port
    return next((p.port for p in pod.container_ports if p.name == target_port and p.protocol == protocol), None)


def _is_placeholder(item: EndpointSlice, service: Service) -> bool:
    return (
        not item.endpoints and not item.ports and owned(item, service) and item.metadata.labels == slice_labels(service)
    )


# -------------------------------------------------------------------------------------------------------- slices as JSON


def slice_labels(service: Service) -> dict[str, str]:
    """The labels of the Service's slices (CP-3.10, O-10.6); what the Service says under reserved keys is dropped."""
    labels = copied_labels(service.metadata.labels)
    labels[LABEL_SERVICE_NAME] = service.metadata.name
    labels[LABEL_MANAGED_BY] = CONTROLLER_NAME
    if service.cluster_ip in ("", CLUSTER_IP_NONE):
        labels[LABEL_HEADLESS] = ""
    return labels


def _generated_name(service: Service, taken: set[str], seed: int) -> str:
    """``<service>-<5 characters>`` as the API server makes it from generateName; a taken one is drawn again."""
    prefix = f"{service.metadata.name}-"[: _NAME_MAX_LENGTH - _NAME_SUFFIX_LENGTH]
    attempt = 0
    while True:
        key = ("EndpointSlice", service.metadata.namespace, service.metadata.name, attempt)
        letters = (rng.below(len(_NAME_ALPHABET), seed, *key, place) for place in range(_NAME_SUFFIX_LENGTH))
        name = prefix + "".join(_NAME_ALPHABET[letter] for letter in letters)
        if name not in taken:
            taken.add(name)
            return name
        attempt += 1


def _new_metadata(service: Service, name: str) -> dict[str, Any]:
    meta = service.metadata
    owner = {
        "apiVersion": "v1",
        "kind": "Service",
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {"name": name, "generateName": f"{meta.name}-", "namespace": meta.namespace, "ownerReferences": [owner]}


def _render(
    draft: SliceDraft, metadata: Mapping[str, Any], service: Service, address_type: str, trigger_time_ns: int | None
) -> EndpointSlice:
    """The whole slice; the trigger-time annotation is set or, without a time, removed (CP-3.7.2)."""
    meta = {key: value for key, value in metadata.items() if key != "annotations"}
    annotations = dict(metadata.get("annotations") or {})
    annotations.pop(ANNOTATION_TRIGGER_TIME, None)
    if trigger_time_ns is not None:
        annotations[ANNOTATION_TRIGGER_TIME] = format_rfc3339(trigger_time_ns)
    if annotations:
        meta["annotations"] = annotations
    # The generation grows with every write that changes more than annotations (CP-3.6.3), and each write here does.
    meta["generation"] = (draft.existing.metadata.generation if draft.existing else 0) + 1
    return endpoint_slice_from_json(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**meta, "labels": slice_labels(service)},
            "addressType": address_type,
            "endpoints": [_endpoint_json(endpoint) for endpoint in draft.endpoints],
            "ports": [_port_json(port) for port in draft.ports],
        }
    )


def _endpoint_json(endpoint: SliceEndpoint) -> Json:
    conditions = {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating}
    target = endpoint.target_ref
    hints = {
        "forZones": [{"name": name} for name in sorted(endpoint.zone_hints)],
        "forNodes": [{"name": name} for name in sorted(endpoint.node_hints)],
    }
    fields: dict[str, Any] = {
        "addresses": list(endpoint.addresses),
        "conditions": _without_none(conditions),
        "hostname": endpoint.hostname,
        "targetRef": {key: value for key, value in target._asdict().items() if value} if target else None,
        "nodeName": endpoint.node_name,
        "zone": endpoint.zone,
        "hints": {key: value for key, value in hints.items() if value} or None,
    }
    return _without_none(fields)


def _port_json(port: SlicePort) -> Json:
    return _without_none(
        {"name": port.name, "protocol": port.protocol, "port": port.port, "appProtocol": port.app_protocol}
    )


def _without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


# ------------------------------------------------------------------------------------------------------------- reconcile


@dataclass(frozen=True, slots=True)
class _Sync:
    """The constants of one reconciliation."""

    service: Service
    pods: tuple[Pod, ...]
    nodes: Mapping[str, Node]
    trigger_time_ns: int | None
    limit: int
    seed: int
    taken_names: set[str]


def reconcile(
    service: Service,
    pods: Iterable[Pod],
    nodes: Mapping[str, Node],
    existing_slices: Iterable[EndpointSlice],
    *,
    trigger_time_ns: int | None,
    max_endpoints_per_slice: int = MAX_ENDPOINTS_PER_SLICE,
    topology: TopologyCache | None = None,
    seed: int = 0,
) -> Reconciliation:
    """What the controller writes for one Service, given the pods it selects and its slices (``slices_of``); nodes by name.

    ``topology`` None: mode Auto is not in use, no hints by CPU. Names of new slices are drawn with ``seed``, so that the
    same state gives the same names.
    """
    existing = sorted(existing_slices, key=lambda item: item.key)
    sync = _Sync(
        service,
        tuple(sorted((pod for pod in pods if pod_belongs(pod)), key=lambda pod: pod.key)),
        nodes,
        trigger_time_ns,
        max_endpoints_per_slice,
        seed,
        {item.metadata.name for item in existing},
    )
    writes: list[SliceWrite] = []
    events: list[ControllerEvent] = []
    errors: dict[str, None] = {}
    families = address_types(service)
    for family in families:
        wanted, family_errors = _wanted(sync, family)
        errors.update(dict.fromkeys(family_errors))
        own = [item for item in existing if item.address_type == family]
        drafts, doomed = pack(wanted, own, service, sync.limit)
        topology, family_events = _set_hints(drafts, service, family, topology)
        events += family_events
        writes += _finalize(sync, family, own, drafts, doomed)
    for item in existing:
        if item.address_type not in families:
            topology = topology.without(service.key, item.address_type) if topology else None
            writes.append(SliceWrite(WriteVerb.DELETE, item))
    return Reconciliation(tuple(writes), tuple(events), tuple(errors), topology)


def _wanted(sync: _Sync, address_type: str) -> tuple[list[tuple[tuple[SlicePort, ...], SliceEndpoint]], list[str]]:
    """Wanted endpoints with their ports; a pod on an unknown node is an error unless not-ready addresses are published.

    An error names the pod that was left out (CP-3.4.1).
    """
    wanted, errors = [], []
    for pod in sync.pods:
        node = sync.nodes.get(pod.node_name)
        endpoint = endpoint_of(pod, node, sync.service, address_type)
        if not endpoint.addresses:
            continue
        if node is None and not sync.service.publish_not_ready_addresses:
            meta = sync.service.metadata
            errors.append(
                f"skipping Pod {pod.metadata.name} for Service {meta.namespace}/{meta.name}: "
                f"Node {pod.node_name} Not Found"
            )
        else:
            wanted.append((endpoint_ports(sync.service, pod), endpoint))
    return wanted, errors


def _set_hints(
    drafts: Drafts, service: Service, address_type: str, topology: TopologyCache | None
) -> tuple[TopologyCache | None, tuple[ControllerEvent, ...]]:
    """Hints by the annotation or by ``trafficDistribution``, never both (CP-3.8.1)."""
    auto = auto_hints_wanted(service)
    if topology is not None and auto:
        return assign_auto_hints(drafts, service.key, address_type, topology)
    if auto:
        remove_hints(drafts)
    else:
        distribute_traffic(drafts, service.traffic_distribution)
    return (topology.without(service.key, address_type) if topology else None), ()


def _finalize(
    sync: _Sync, address_type: str, existing: Sequence[EndpointSlice], drafts: Drafts, doomed: list[EndpointSlice]
) -> Iterator[SliceWrite]:
    """The writes of one family, after placeholder and recycling (CP-3.5.1, CP-3.6)."""
    service = sync.service
    if len(doomed) == len(existing) and not drafts.create:
        if len(doomed) == 1 and _is_placeholder(doomed[0], service):
            doomed = []
        else:
            drafts.create.append(SliceDraft((), []))
    recycled, doomed = _recycle(drafts, doomed, service)
    if not service.metadata.deletion_timestamp:
        for draft in drafts.create:
            metadata = _new_metadata(service, _generated_name(service, sync.taken_names, sync.seed))
            yield SliceWrite(WriteVerb.CREATE, _render(draft, metadata, service, address_type, sync.trigger_time_ns))
    for draft in (*drafts.update, *recycled):
        assert draft.existing is not None
        metadata = draft.existing.json["metadata"]
        if draft in recycled:  # written without what the old content brought along
            metadata = {**metadata, "annotations": None, **_new_metadata(service, draft.existing.metadata.name)}
        yield SliceWrite(WriteVerb.UPDATE, _render(draft, metadata, service, address_type, sync.trigger_time_ns))
    for item in doomed:
        yield SliceWrite(WriteVerb.DELETE, item)


def _recycle(
    drafts: Drafts, doomed: Sequence[EndpointSlice], service: Service
) -> tuple[list[SliceDraft], list[EndpointSlice]]:
    """Write the last slice to create over an owned one to delete, while there are both (CP-3.6.1): it keeps the name."""
    recycled, gone = [], []
    for item in doomed:
        if drafts.create and owned(item, service):
            draft = drafts.create.pop()
            draft.existing = item
            recycled.append(draft)
        else:
            gone.append(item)
    return recycled, gone


# ---------------------------------------------------------------------------------------------------------------- derive


def derive_slices(
    services: Iterable[Service],
    pods: Iterable[Pod],
    nodes: Iterable[Node],
    *,
    max_endpoints_per_slice: int = MAX_ENDPOINTS_PER_SLICE,
    seed: int = 0,
) -> list[EndpointSlice]:
    """The slices that the controller makes for Services with selectors, starting from none; by namespace and name.

    InputError that names every selected pod whose Node is not among ``nodes``: the controller would wait for it.
    """
    by_label: dict[tuple[str, str, str], list[Pod]] = {}
    for pod in pods:
        for key, value in pod.metadata.labels.items():
            by_label.setdefault((pod.metadata.namespace, key, value), []).append(pod)
    known = {node.metadata.name: node for node in nodes}
    topology: TopologyCache | None = TopologyCache().with_nodes(known.values())
    slices: list[EndpointSlice] = []
    problems: list[Problem] = []
    for service in sorted(services, key=lambda item: item.key):
        if not has_managed_slices(service):
            continue
        label = min(service.selector.items())  # any of them narrows the search
        candidates = by_label.get((service.metadata.namespace, *label), ())
        selected = [pod for pod in candidates if selects(service, pod.metadata.labels)]
        problems += _misplaced(service, selected, known)
        result = reconcile(
            service,
            selected,
            known,
            (),
            trigger_time_ns=service_trigger_time_ns(service),
            max_endpoints_per_slice=max_endpoints_per_slice,
            topology=topology,
            seed=seed,
        )
        topology = result.topology
        slices += result.creates
    if problems:
        raise InputError(problems)
    return sorted(slices, key=lambda item: item.key)


def _misplaced(service: Service, pods: Iterable[Pod], nodes: Mapping[str, Node]) -> Iterator[Problem]:
    if service.publish_not_ready_addresses:
        return
    for pod in sorted(pods, key=lambda pod: pod.key):
        if pod_belongs(pod) and pod.node_name not in nodes:
            place = f"runs on node {pod.node_name}, which is not among the Nodes" if pod.node_name else "names no node"
            yield Problem(f"{pod.key}, selected by {service.key}, {place}", path=".spec.nodeName")
