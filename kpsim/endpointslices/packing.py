"""Packs endpoints into EndpointSlices with few writes (CP-3.5): which slices to create, update, leave alone or delete.

Counterpart: the packing of ``k8s.io/endpointslice``'s reconciler.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from kpsim.objects import LABEL_HEADLESS, LABEL_SERVICE_NAME, EndpointSlice, Service, SliceEndpoint, SlicePort

LABEL_MANAGED_BY = "endpointslice.kubernetes.io/managed-by"

_RESERVED_LABELS = frozenset({LABEL_SERVICE_NAME, LABEL_MANAGED_BY, LABEL_HEADLESS})


@dataclass(slots=True, eq=False)
class SliceDraft:
    """A slice as the controller wants it, compared by identity. ``existing`` None: it is new.

    ``labels`` None: it is written with the Service's labels. A slice that only gains endpoints or hints keeps its own
    labels.
    """

    ports: tuple[SlicePort, ...]
    endpoints: list[SliceEndpoint]
    existing: EndpointSlice | None = None
    labels: Mapping[str, str] | None = None


@dataclass(slots=True)
class Drafts:
    """The slices of one Service and family, sorted by what must happen to them."""

    create: list[SliceDraft] = field(default_factory=list)
    update: list[SliceDraft] = field(default_factory=list)
    unchanged: list[SliceDraft] = field(default_factory=list)

    @property
    def all(self) -> list[SliceDraft]:
        return [*self.create, *self.update, *self.unchanged]

    def touch(self, draft: SliceDraft) -> None:
        """Move an unchanged slice to the updates."""
        self.unchanged = [other for other in self.unchanged if other is not draft]
        self.update.append(draft)


def owned(item: EndpointSlice, service: Service) -> bool:
    """Return whether the Service, by UID, owns the slice. An older Service of the same name does not own it."""
    return service.metadata.uid in item.owner_uids


def copied_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels that a slice takes over from its Service: all but the controller's own (CP-3.10)."""
    return {key: value for key, value in labels.items() if key not in _RESERVED_LABELS}


def pack(
    wanted: Iterable[tuple[tuple[SlicePort, ...], SliceEndpoint]],
    existing: Sequence[EndpointSlice],
    service: Service,
    limit: int,
) -> tuple[Drafts, list[EndpointSlice]]:
    """Return the drafts of the slices of one Service and family, and the slices to delete (CP-3.5.1).

    ``wanted`` are endpoints with their ports. Endpoints keep their slice where they can. Whole groups move into the
    fullest slice with room. Nothing is rebalanced: sparse slices stay. Port sets and endpoints are taken in the order
    given.
    """
    groups: dict[frozenset[SlicePort], _Group] = {}
    for ports, endpoint in wanted:
        groups.setdefault(frozenset(ports), _Group(ports)).endpoints[identity(endpoint)] = endpoint
    doomed = [item for item in existing if not owned(item, service)]
    by_ports: dict[frozenset[SlicePort], list[EndpointSlice]] = {}
    for item in existing:
        if owned(item, service):
            by_ports.setdefault(frozenset(item.ports), []).append(item)
    drafts = Drafts()
    for key, group in groups.items():
        doomed += _pack_group(drafts, group, by_ports.pop(key, []), service, limit)
    for unwanted in by_ports.values():
        doomed += unwanted
    return drafts, doomed


Identity = tuple[tuple[str, ...], str | None, tuple[str, str] | None]


def identity(endpoint: SliceEndpoint) -> Identity:
    """Return what an endpoint of a slice and a wanted one have in common if they are the same (CP-3.5.1)."""
    target = endpoint.target_ref
    return tuple(sorted(endpoint.addresses)), endpoint.hostname, (target.namespace, target.name) if target else None


def same_but_for_hints(old: SliceEndpoint, new: SliceEndpoint) -> bool:
    """Return whether a slice need not be written for a wanted endpoint that is in it."""
    return replace(old, addresses=new.addresses, zone_hints=new.zone_hints, node_hints=new.node_hints) == new


@dataclass(slots=True)
class _Group:
    """Wanted endpoints with the same ports."""

    ports: tuple[SlicePort, ...]
    endpoints: dict[Identity, SliceEndpoint] = field(default_factory=dict)


def _pack_group(
    drafts: Drafts, group: _Group, existing: Sequence[EndpointSlice], service: Service, limit: int
) -> list[EndpointSlice]:
    """Add the drafts of one port set, and return the slices that lost all their endpoints."""
    own, doomed, rest = Drafts(), [], dict(group.endpoints)
    for item in existing:
        found = [rest.pop(identity(endpoint), None) for endpoint in item.endpoints]
        kept = [endpoint for endpoint in found if endpoint is not None]
        same = len(kept) == len(item.endpoints) and all(map(same_but_for_hints, item.endpoints, kept))
        if same and not labels_differ(item, service):
            own.unchanged.append(SliceDraft(item.ports, list(item.endpoints), item, item.metadata.labels))
        elif same:
            own.update.append(SliceDraft(item.ports, list(item.endpoints), item))
        elif kept:
            own.update.append(SliceDraft(item.ports, kept, item))
        else:
            doomed.append(item)
    left = list(rest.values())
    for draft in sorted(own.update, key=lambda draft: -len(draft.endpoints)):
        left = _fill(draft, left, limit)
    while left:
        left = _fill(_slice_with_room(own, group.ports, len(left), limit), left, limit)
    drafts.create += own.create
    drafts.update += own.update
    drafts.unchanged += own.unchanged
    return doomed


def labels_differ(item: EndpointSlice, service: Service) -> bool:
    """Compare the copied labels only: a slice is not rewritten because one of the controller's own labels is wrong."""
    return copied_labels(item.metadata.labels) != copied_labels(service.metadata.labels)


def _fill(draft: SliceDraft, endpoints: list[SliceEndpoint], limit: int) -> list[SliceEndpoint]:
    """Move as many endpoints into the draft as fit, and return the others."""
    room = max(0, limit - len(draft.endpoints))
    draft.endpoints += endpoints[:room]
    return endpoints[room:]


def _slice_with_room(drafts: Drafts, ports: tuple[SlicePort, ...], number: int, limit: int) -> SliceDraft:
    """Return the unchanged slice that would be fullest with all endpoints, or a new slice if none has room for all."""
    fitting = [draft for draft in drafts.unchanged if number < limit and len(draft.endpoints) + number <= limit]
    if fitting:
        fullest = max(fitting, key=lambda draft: len(draft.endpoints))
        drafts.touch(fullest)
        return fullest
    new = SliceDraft(ports, [])
    drafts.create.append(new)
    return new
