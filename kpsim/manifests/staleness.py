"""EndpointSlices that the slice controller would write otherwise: after an edit of a Service, Pod or Node.

Slices of a dump are read as they are given, because kube-proxy reads those of the cluster. After an edit they are those of before, and
the controller writes others (CP-3.4, CP-3.8, CP-3.9): they are named, or on request derived again.
"""

from collections.abc import Iterable, Sequence

from kpsim.cluster import ClusterState
from kpsim.endpointslices.differences import differences
from kpsim.endpointslices.hints import auto_hints_wanted
from kpsim.endpointslices.resync import Resync, resync
from kpsim.objects import ApiObject, EndpointSlice, Service

_TO_GIVE = "give the Pods and Nodes, too: kubectl get pods,nodes -A -o yaml"


def staleness_notes(objects: Sequence[ApiObject]) -> list[str]:
    """Return remarks on the given slices that the controller manages, by what would be otherwise."""
    found: dict[str, list[Service]] = {}
    for each in resync(ClusterState.of(objects)):
        for reason in _reasons(each):
            found.setdefault(reason, []).append(each.service)
    return [
        f"EndpointSlices are read as given, but the slice controller would write others: {reason} "
        f"(--derive-slices writes them again): {_names(services)}"
        for reason, services in found.items()
    ]


def _reasons(each: Resync) -> list[str]:
    reasons = differences(each.service, each.given, each.written)
    if auto_hints_wanted(each.service) and _hinted(each.given) == _hinted(each.written):
        # in mode Auto the controller leaves hints as they are until a zone has too few (CP-3.8.5)
        reasons = [reason for reason in reasons if "hints" not in reason]
    return reasons


def _hinted(slices: Iterable[EndpointSlice]) -> bool:
    return any(endpoint.zone_hints for item in slices for endpoint in item.endpoints)


def derived_again(state: ClusterState, before: ClusterState | None = None) -> tuple[ClusterState, list[str]]:
    """Return the state with the slices that the controller writes, and in words which and why.

    ``before`` is the state before an edit; without it all slices of the controller are written again. What cannot be derived stays as it
    was given, and a note says what is missing.
    """
    written: dict[str, list[Service]] = {}
    missing: dict[str, list[Service]] = {}
    events: list[str] = []
    for each in resync(state, before):
        if each.missing:
            missing.setdefault(each.missing, []).append(each.service)
            continue
        events += [f"the slice controller says of {_names([each.service])}: {event}" for event in each.events]
        if reasons := differences(each.service, each.given, each.written):
            written.setdefault("; ".join(reasons), []).append(each.service)
            state = _replaced(state, each)
    notes = [
        f"EndpointSlices of {_names(services)} derived again, as the slice controller would write them: {reason}"
        for reason, services in written.items()
    ]
    notes += [
        f"EndpointSlices of {_names(services)} stay as given, though the slice controller may write others: it is not known {what} "
        f"({_TO_GIVE})"
        for what, services in missing.items()
    ]
    return state, notes + events


def _replaced(state: ClusterState, each: Resync) -> ClusterState:
    keys = {item.key for item in each.written}
    for item in each.given:
        if item.key not in keys:
            _, state = state.remove(item.key)
    for item in each.written:
        _, state = state.put(item)
    return state


def _names(services: Sequence[Service]) -> str:
    names = [f"{service.metadata.namespace}/{service.metadata.name}" for service in services]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
