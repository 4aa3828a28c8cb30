"""One sync of one Service: the controller's writes (CP-3.3 to CP-3.6). Also derives slices for a cluster that has none.

The functions are pure: objects in, writes out. The queue and its retries are in ``kpsim.simulation.controller``.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from kpsim.addresses import Family, parse_ip
from kpsim.endpointslices.endpoints import endpoint_of, endpoint_ports, pod_belongs
from kpsim.endpointslices.hints import (
    ControllerEvent,
    TopologyCache,
    assign_auto_hints,
    auto_hints_wanted,
    distribute_traffic,
    remove_hints,
)
from kpsim.endpointslices.packing import Drafts, SliceDraft, owned, pack
from kpsim.endpointslices.rendering import generated_name, is_managed, new_metadata, render, slice_labels
from kpsim.endpointslices.triggers import selects, service_trigger_time_ns
from kpsim.errors import InputError, Problem
from kpsim.objects import EndpointSlice, Node, Pod, Service, SliceEndpoint, SlicePort
from kpsim.valueclass import dataclass

MAX_ENDPOINTS_PER_SLICE = 100


class WriteVerb(enum.StrEnum):
    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"


class SliceWrite(NamedTuple):
    """One API call of the controller. The slice is complete; for a deletion it is the slice to delete."""

    verb: WriteVerb
    slice: EndpointSlice


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What one sync of one Service does.

    ``writes`` are in the order of the calls (CP-3.6.2): families in the Service's order, within each creates, updates,
    deletes; then the slices of families that the Service no longer has. ``errors`` name pods that could not be placed:
    the writes are still sent, then the sync fails and is retried. ``topology`` is the cache for the next sync.
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
        """Return the slices after all writes, sorted by name."""
        slices = {item.key: item for item in existing}
        for write in self.writes:
            if write.verb is WriteVerb.DELETE:
                slices.pop(write.slice.key, None)
            else:
                slices[write.slice.key] = write.slice
        return tuple(slices[key] for key in sorted(slices))


def has_managed_slices(service: Service) -> bool:
    """Return whether the controller makes slices for the Service: it has a selector and is no ExternalName (CP-3.3)."""
    return bool(service.selector) and service.type != "ExternalName"


def slices_of(service: Service, slices: Iterable[EndpointSlice]) -> list[EndpointSlice]:
    """Return the slices that count as the Service's: by labels, without those being deleted (CP-3.3)."""
    return [
        item
        for item in slices
        if item.metadata.namespace == service.metadata.namespace
        and item.service_name == service.metadata.name
        and is_managed(item)
        and not item.metadata.deletion_timestamp
    ]


def address_types(service: Service) -> tuple[str, ...]:
    """Return the families that get slices, in the Service's order (CP-3.4.5).

    If ``ipFamilies`` is missing (an API server always sets it), it is the family of the cluster IP, or both families.
    """
    if service.ip_families:
        return service.ip_families
    found = parse_ip(service.cluster_ip)
    return (found[0].label,) if found else (Family.IPV4.label, Family.IPV6.label)


@dataclass(frozen=True, slots=True)
class _Sync:
    """The inputs of one reconciliation, which do not change during it."""

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
    """Return what the controller writes for one Service, given the pods that it selects and its slices (``slices_of``).

    ``nodes`` are by name. ``topology`` None: mode Auto is not in use, so there are no hints by CPU. Names of new slices
    are drawn with ``seed``, so that the same state gives the same names.
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
    """Return the wanted endpoints with their ports, and errors.

    A pod on an unknown node is left out with an error that names it, unless not-ready addresses are published
    (CP-3.4.1).
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
    """Set hints by the annotation or by ``trafficDistribution``, never by both (CP-3.8.1)."""
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
    """Yield the writes of one family, after placeholder and recycling (CP-3.5.1, CP-3.6)."""
    service = sync.service
    if len(doomed) == len(existing) and not drafts.create:
        if len(doomed) == 1 and _is_placeholder(doomed[0], service):
            doomed = []
        else:
            drafts.create.append(SliceDraft((), []))
    recycled, doomed = _recycle(drafts, doomed, service)
    if not service.metadata.deletion_timestamp:
        for draft in drafts.create:
            metadata = new_metadata(service, generated_name(service.key, sync.taken_names, sync.seed))
            yield SliceWrite(WriteVerb.CREATE, render(draft, metadata, service, address_type, sync.trigger_time_ns))
    for draft in (*drafts.update, *recycled):
        assert draft.existing is not None
        metadata = draft.existing.json["metadata"]
        if draft in recycled:  # written without the old slice's metadata
            metadata = {**metadata, "annotations": None, **new_metadata(service, draft.existing.metadata.name)}
        yield SliceWrite(WriteVerb.UPDATE, render(draft, metadata, service, address_type, sync.trigger_time_ns))
    for item in doomed:
        yield SliceWrite(WriteVerb.DELETE, item)


def _recycle(
    drafts: Drafts, doomed: Sequence[EndpointSlice], service: Service
) -> tuple[list[SliceDraft], list[EndpointSlice]]:
    """Write the last slice to create over an owned slice to delete, as long as both exist (CP-3.6.1).

    It keeps the name.
    """
    recycled, gone = [], []
    for item in doomed:
        if drafts.create and owned(item, service):
            draft = drafts.create.pop()
            draft.existing = item
            recycled.append(draft)
        else:
            gone.append(item)
    return recycled, gone


def _is_placeholder(item: EndpointSlice, service: Service) -> bool:
    return (
        not item.endpoints and not item.ports and owned(item, service) and item.metadata.labels == slice_labels(service)
    )


def derive_slices(
    services: Iterable[Service],
    pods: Iterable[Pod],
    nodes: Iterable[Node],
    *,
    max_endpoints_per_slice: int = MAX_ENDPOINTS_PER_SLICE,
    seed: int = 0,
) -> list[EndpointSlice]:
    """Return the slices that the controller makes for Services with selectors, starting from none.

    They are sorted by namespace and name. InputError names every selected pod whose Node is not among ``nodes``: the
    controller would wait for that Node.
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
        label = min(service.selector.items())  # any one label narrows the search
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
