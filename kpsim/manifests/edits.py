"""Edits of a cluster that was read: ``service/shop/web.spec.trafficDistribution=PreferSameZone``.

Counterpart: ``kubectl edit`` and ``kubectl delete``, and what the slice controller then writes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches

from kpsim.cluster import ClusterState
from kpsim.endpointslices import CONTROLLER_NAME, LABEL_MANAGED_BY
from kpsim.errors import InputError, Problem, printable
from kpsim.manifests.assignments import parse_assignment, put
from kpsim.manifests.changes import update_object
from kpsim.manifests.places import Place, Source
from kpsim.manifests.staleness import derived_again
from kpsim.objects import EndpointSlice, ObjectKey, Service, object_from_json

#: how kinds are written, as kubectl takes them
_KINDS: Mapping[str, str] = {
    alias: kind
    for kind, aliases in (
        ("Service", ("service", "services", "svc")),
        ("EndpointSlice", ("endpointslice", "endpointslices")),
        ("Node", ("node", "nodes", "no")),
        ("Pod", ("pod", "pods", "po")),
    )
    for alias in aliases
}
_FORM = "expected KIND/NAMESPACE/NAME.path=value, such as service/shop/web.spec.externalTrafficPolicy=Local, or node/NAME.path=value"


def edited(state: ClusterState, edits: Sequence[str]) -> tuple[ClusterState, list[str]]:
    """Return the state after edits of objects, one after another, and remarks in words.

    An edit is ``KIND/NAMESPACE/NAME.path=value`` with a value in YAML; null removes the field, the list item, or without a path the object.
    Objects are updated as an API server would (O-3). Slices that the controller would then write otherwise are written again, see
    :func:`kpsim.manifests.staleness.derived_again`. InputError names every edit that is wrong.
    """
    before, problems, notes = state, list[Problem](), list[str]()
    keys: dict[ObjectKey, None] = {}
    for edit in edits:
        try:
            key, rest = _addressed(state, edit)
            state = _edited(state, edit, key, rest)
            keys[key] = None
        except ValueError as error:
            problems.append(Problem(str(error), file=f"--set {edit}"))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    state, derived = derived_again(state, before)
    notes += [*_slice_notes(keys, state), *derived, *(_zone_notes(before, state) if derived else ())]
    return state, list(map(printable, notes))


def _edited(state: ClusterState, edit: str, key: ObjectKey, rest: str) -> ClusterState:
    """Return the state after an edit of an object; ``rest`` follows its name. ValueError or InputError if it cannot be made."""
    old = state.objects[key].json
    if rest.startswith("="):
        if rest != "=null":
            raise ValueError(f"{key}: only null may be given to a whole object, which deletes it; {_FORM}")
        return _deleted(state, key)
    path, value = parse_assignment(rest)
    new, _, _ = put(old, path, value, editing=True)
    stored = update_object(old, new, cluster=state, place=Place(Source(f"--set {edit}")))
    obj = object_from_json(stored)
    assert obj is not None
    return state.put(obj)[1]


def _deleted(state: ClusterState, key: ObjectKey) -> ClusterState:
    """Return the state without the object. The garbage collector deletes the slices of a Service (CP-3.10: it owns them)."""
    gone = state.objects[key]
    state = state.remove(key)[1]
    if isinstance(gone, Service):
        for item in list(state.endpoint_slices):
            if _written_by_controller(item) and (item.metadata.namespace, item.service_name) == (
                key.namespace,
                key.name,
            ):
                state = state.remove(item.key)[1]
    return state


def _addressed(state: ClusterState, edit: str) -> tuple[ObjectKey, str]:
    """Return the object that an edit is about, and what follows its name. ValueError if there is none."""
    word, slash, rest = edit.partition("/")
    kind = _KINDS.get(word.lower())
    if not slash or kind is None:
        raise ValueError(f"no kind {word!r}: {_FORM}" if slash else _FORM)
    names = {
        key.name if not key.namespace else f"{key.namespace}/{key.name}": key
        for key in state.objects
        if key.kind == kind
    }
    ends = [end for end, character in enumerate(rest) if character in ".[="]
    for end in reversed(ends):  # names of Nodes and Pods may hold dots
        if rest[:end] in names:
            return names[rest[:end]], rest[end:]
    asked = rest[: ends[0]] if ends else rest
    near = sorted(get_close_matches(asked, names, n=3)) or sorted(names)[:5]
    raise ValueError(f"no {kind} {asked!r}" + (f"; there is {', '.join(near)}" if near else f": there is no {kind}"))


def _written_by_controller(item: EndpointSlice) -> bool:
    return item.metadata.labels.get(LABEL_MANAGED_BY) == CONTROLLER_NAME


def _slice_notes(keys: Iterable[ObjectKey], state: ClusterState) -> Iterator[str]:
    """Say that an edit of a slice does not last, if the controller wrote the slice (CP-3.1)."""
    for key in keys:
        item = state.get(key)
        if isinstance(item, EndpointSlice) and _written_by_controller(item):
            yield f"{key} belongs to the slice controller, which would undo the edit after a second"


def _zone_notes(before: ClusterState, state: ClusterState) -> Iterator[str]:
    """Say when a Node's other zone reaches slices: the controller syncs no Service because of it (CP-3.1)."""
    zones = {node.metadata.name: node.zone for node in before.nodes}
    moved = [node.metadata.name for node in state.nodes if zones.get(node.metadata.name, node.zone) != node.zone]
    if moved:
        yield (
            f"the zone of {', '.join(moved[:10])} reaches slices with the next change of their Services or Pods, or with the slice controller's "
            "next full sync after 12 to 24 hours (CP-3.1)"
        )
