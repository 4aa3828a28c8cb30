"""EndpointSlices that mirror a hand-made Endpoints object of a Service without selector (CP-4.3).

Counterpart: the EndpointSlice mirroring controller. Its queue is in ``kpsim.simulation.mirroring``.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field

from kpsim.addresses import parse_ip
from kpsim.endpoints.subsets import repacked
from kpsim.endpointslices import LABEL_MANAGED_BY, ControllerEvent, Severity, SliceWrite, WriteVerb
from kpsim.endpointslices.packing import Identity, identity, same_but_for_hints
from kpsim.endpointslices.rendering import endpoint_json, generated_name, new_metadata, port_json
from kpsim.objects import (
    ANNOTATION_TRIGGER_TIME,
    LABEL_SERVICE_NAME,
    EndpointAddress,
    Endpoints,
    EndpointSlice,
    SliceEndpoint,
    SlicePort,
    endpoint_slice_from_json,
)
from kpsim.valueclass import dataclass

MIRROR_NAME = "endpointslicemirroring-controller.k8s.io"
MOST_MIRRORED = 1000  #: addresses of one subset (mirroring-max-endpoints-per-subset)
LABEL_SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
ANNOTATION_LEADER = "control-plane.alpha.kubernetes.io/leader"  #: leader election kept its lock in Endpoints
_ANNOTATION_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

_Group = tuple[frozenset[SlicePort], str]  #: ports and address type: each has one slice


@dataclass(frozen=True, slots=True)
class Mirroring:
    """What one sync of one Endpoints object does: creates, updates, deletes, in this order, and Events on the object."""

    writes: tuple[SliceWrite, ...] = ()
    events: tuple[ControllerEvent, ...] = ()


@dataclass(slots=True)
class _Wanted:
    """The endpoints of one slice, by identity, and its ports in their order."""

    ports: tuple[SlicePort, ...]
    endpoints: dict[Identity, SliceEndpoint] = field(default_factory=dict)


@dataclass(slots=True)
class _Drafts:
    create: list[tuple[_Group, _Wanted]] = field(default_factory=list)
    update: list[tuple[EndpointSlice, _Group, _Wanted]] = field(default_factory=list)
    delete: list[EndpointSlice] = field(default_factory=list)


def should_mirror(endpoints: Endpoints) -> bool:
    """Return whether the object itself lets the controller mirror it. Its Service must not have a selector, besides."""
    meta = endpoints.metadata
    return meta.labels.get(LABEL_SKIP_MIRROR) != "true" and ANNOTATION_LEADER not in meta.annotations


def is_mirrored(item: EndpointSlice) -> bool:
    """Return whether the slice says that the mirroring controller writes it."""
    return item.metadata.labels.get(LABEL_MANAGED_BY) == MIRROR_NAME


def mirrored_slices(endpoints: Endpoints) -> tuple[tuple[EndpointSlice, ...], tuple[ControllerEvent, ...]]:
    """Return the slices of an object that has none yet, and the Events."""
    made = mirror(endpoints, ())
    return tuple(write.slice for write in made.writes), made.events


def mirror(endpoints: Endpoints, existing: Iterable[EndpointSlice], *, seed: int = 0) -> Mirroring:
    """Return what the controller writes for one object, given its mirrored slices. Names of new slices are drawn with ``seed``."""
    ordered = sorted(existing, key=lambda item: item.key)
    by_group: dict[_Group, list[EndpointSlice]] = {}
    for item in ordered:
        by_group.setdefault((frozenset(item.ports), item.address_type), []).append(item)
    wanted, events = _wanted(endpoints)
    drafts = _Drafts()
    for group, each in wanted.items():
        _draft(drafts, endpoints, group, each, by_group.pop(group, []))
    for unwanted in by_group.values():
        drafts.delete += unwanted
    _recycle(drafts, endpoints)
    taken = {item.metadata.name for item in ordered}
    return Mirroring(tuple(_writes(drafts, endpoints, taken, seed)), events)


def _wanted(endpoints: Endpoints) -> tuple[dict[_Group, _Wanted], tuple[ControllerEvent, ...]]:
    """Return the endpoints by slice. Ready addresses go first; what is over the limit of a subset is skipped."""
    found: dict[_Group, _Wanted] = {}
    invalid = skipped = 0
    for subset in repacked(endpoints.subsets):
        room = MOST_MIRRORED
        for group, ready in ((subset.addresses, True), (subset.not_ready, False)):
            for number, address in enumerate(group):
                if not room:
                    skipped += len(group) - number
                    break
                parsed = parse_ip(address.ip)
                if parsed is None:
                    invalid += 1
                    continue
                key = frozenset(subset.ports), parsed[0].label
                endpoint = _endpoint(address, ready=ready)
                found.setdefault(key, _Wanted(subset.ports)).endpoints[identity(endpoint)] = endpoint
                room -= 1
    return found, tuple(_events(invalid, skipped))


def _events(invalid: int, skipped: int) -> Iterator[ControllerEvent]:
    if invalid:
        words = f"Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices"
        yield ControllerEvent(Severity.WARNING, "InvalidIPAddress", words)
    if skipped:
        words = (
            f"A max of {MOST_MIRRORED} addresses can be mirrored to EndpointSlices per Endpoints subset. "
            f"{skipped + invalid} addresses were skipped"
        )
        yield ControllerEvent(Severity.WARNING, "TooManyAddressesToMirror", words)


def _endpoint(address: EndpointAddress, *, ready: bool) -> SliceEndpoint:
    """Return the endpoint of an address. It has the condition ready alone."""
    return SliceEndpoint(
        (address.ip,),
        ready=ready,
        node_name=address.node_name,
        hostname=address.hostname or None,
        target_ref=address.target_ref,
    )


def _draft(
    drafts: _Drafts, endpoints: Endpoints, group: _Group, wanted: _Wanted, existing: Sequence[EndpointSlice]
) -> None:
    """Keep the first slice of the group if it is right, else write it anew. Further ones are deleted."""
    if not existing:
        drafts.create.append((group, wanted))
        return
    first, rest = existing[0], existing[1:]
    drafts.delete += rest
    held = {identity(endpoint): endpoint for endpoint in first.endpoints}
    same = held.keys() == wanted.endpoints.keys() and all(
        same_but_for_hints(held[key], endpoint) for key, endpoint in wanted.endpoints.items()
    )
    labels = {k: v for k, v in first.metadata.labels.items() if k not in (LABEL_SERVICE_NAME, LABEL_MANAGED_BY)}
    own = {k: v for k, v in endpoints.metadata.labels.items() if k not in (LABEL_SERVICE_NAME, LABEL_MANAGED_BY)}
    if not (same and labels == own and dict(first.metadata.annotations) == _annotations(endpoints)):
        drafts.update.append((first, group, wanted))


def _recycle(drafts: _Drafts, endpoints: Endpoints) -> None:
    """Write the last slice to create over one to delete of the same family, as long as both exist. It keeps the name."""
    kept = []
    for item in drafts.delete:
        if drafts.create and drafts.create[-1][0][1] == item.address_type and _owned(item, endpoints):
            group, wanted = drafts.create.pop()
            drafts.update.append((item, group, wanted))
        else:
            kept.append(item)
    drafts.delete = kept


def _owned(item: EndpointSlice, endpoints: Endpoints) -> bool:
    owners = item.json["metadata"].get("ownerReferences") or ()
    return any(owner.get("kind") == "Endpoints" and owner.get("uid") == endpoints.metadata.uid for owner in owners)


def _writes(drafts: _Drafts, endpoints: Endpoints, taken: set[str], seed: int) -> Iterator[SliceWrite]:
    if not endpoints.metadata.deletion_timestamp:
        for group, wanted in drafts.create:
            name = generated_name(endpoints.key, taken, seed)
            yield SliceWrite(WriteVerb.CREATE, _rendered(endpoints, name, 1, group, wanted))
    for item, group, wanted in drafts.update:
        generation = item.metadata.generation + 1
        made = _rendered(endpoints, item.metadata.name, generation, group, wanted)
        yield SliceWrite(WriteVerb.UPDATE, made)
    for item in drafts.delete:
        yield SliceWrite(WriteVerb.DELETE, item)


def _annotations(endpoints: Endpoints) -> Mapping[str, str]:
    """Return the annotations that slices take over. Without a trigger time they yield no latency samples."""
    left_out = (ANNOTATION_TRIGGER_TIME, _ANNOTATION_APPLIED)
    return {key: value for key, value in endpoints.metadata.annotations.items() if key not in left_out}


def _rendered(endpoints: Endpoints, name: str, generation: int, group: _Group, wanted: _Wanted) -> EndpointSlice:
    metadata = {**new_metadata(endpoints, name), "generation": generation}
    if annotations := _annotations(endpoints):
        metadata["annotations"] = dict(annotations)
    labels = {**endpoints.metadata.labels, LABEL_SERVICE_NAME: endpoints.metadata.name, LABEL_MANAGED_BY: MIRROR_NAME}
    return endpoint_slice_from_json(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": labels},
            "addressType": group[1],
            "endpoints": [endpoint_json(endpoint) for endpoint in wanted.endpoints.values()],
            "ports": [port_json(port) for port in wanted.ports],
        }
    )
