"""Endpoints objects of a scenario: those that people write, at the start and by events (CP-4.3)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from kpsim.cluster import ClusterState
from kpsim.errors import InputError
from kpsim.manifests import check_object, patch_object
from kpsim.manifests.places import Path, Place
from kpsim.objects import Endpoints, ObjectKey, Service, endpoints_from_json
from kpsim.scenario.document import Document
from kpsim.scenario.event_schema import ScenarioEvent
from kpsim.scenario.schema import ScenarioSpec
from kpsim.scenario.service_names import qualified


def endpoints_object_key(name: str) -> ObjectKey:
    """Return the key of an Endpoints object that is written with or without its namespace."""
    namespace, _, name = qualified(name).partition("/")
    return ObjectKey("Endpoints", namespace, name)


def with_endpoints(state: ClusterState, given: Iterable[Endpoints], notes: list[str]) -> ClusterState:
    """Return the state with the objects that people wrote. Those of Services with a selector are their controller's: left aside."""
    aside = []
    for obj in given:
        if _selector_of(obj.key, state):
            aside.append(f"{obj.metadata.namespace}/{obj.metadata.name}")
        else:
            _, state = state.put(obj)
    if aside:
        notes.append(
            f"Endpoints of Services with a selector are left aside, as their controller writes them: {', '.join(sorted(aside)[:10])}"
            + (f" and {len(aside) - 10} more" if len(aside) > 10 else "")
        )
    return state


def _selector_of(key: ObjectKey, state: ClusterState) -> Mapping[str, str]:
    service = state.get(ObjectKey("Service", key.namespace, key.name))
    return service.selector if isinstance(service, Service) else {}


def after_endpoints(
    event: ScenarioEvent, number: int, state: ClusterState, document: Document, created: dict[int, Endpoints]
) -> ClusterState:
    """Return the state after an event about an Endpoints object. InputError if an API server would refuse it.

    A new object goes into ``created`` under the event's number.
    """
    path: Path = ("events", number, event.kind_in_file)
    if event.create_endpoints is not None:
        stored = check_object(event.create_endpoints, place=document.place.at(*path), existing=state)
        if stored.get("kind") != "Endpoints":
            raise InputError(document.problem("expected an Endpoints object", (*path, "kind")))
        made = endpoints_from_json(stored)
        if state.get(made.key) is not None:
            raise InputError(document.problem(f"there is a {made.key} already", path))
        _refuse_managed(made.key, state, document, path)
        created[number] = made
        return state.put(made)[1]
    change = event.patch_endpoints or event.delete_endpoints
    assert change is not None
    old = state.get(endpoints_object_key(change.endpoints))
    if not isinstance(old, Endpoints):
        _refuse_managed(endpoints_object_key(change.endpoints), state, document, (*path, "endpoints"))
        words = f"there is no Endpoints {qualified(change.endpoints)} at that time"
        raise InputError(document.problem(words, (*path, "endpoints")))
    _refuse_managed(old.key, state, document, (*path, "endpoints"))
    if event.patch_endpoints is None:
        return state.remove(old.key)[1]
    patch = event.patch_endpoints.patch
    return state.put(patched_endpoints(old, patch, state, document.place.at(*path, "patch")))[1]


def _refuse_managed(key: ObjectKey, state: ClusterState, document: Document, path: Path) -> None:
    if _selector_of(key, state):
        words = f"Service {key.namespace}/{key.name} has a selector: the Endpoints controller writes its Endpoints"
        raise InputError(document.problem(words, path))


def patched_endpoints(
    obj: Endpoints, patch: Mapping[str, Any], state: ClusterState, place: Place | None = None
) -> Endpoints:
    """Return the object after a merge patch, as the API server stores it. InputError if it would refuse the patch."""
    return endpoints_from_json(patch_object(obj.json, patch, cluster=state, place=place))


def stored_endpoints(obj: Endpoints, created: str) -> Endpoints:
    """Return the object with what the API server adds on creation: an identity and a time."""
    meta = obj.json.get("metadata", {})
    uid = f"endpoints-{obj.metadata.namespace}-{obj.metadata.name}"
    made = endpoints_from_json({**obj.json, "metadata": {"uid": uid, "creationTimestamp": created, **meta}})
    return replace(made, subsets=obj.subsets)


def idle_endpoints(spec: ScenarioSpec) -> list[str]:
    """Return remarks on settings of Endpoints that decide nothing."""
    given = spec.endpoints.model_fields_set - {"written"}
    if spec.endpoints.written or not given:
        return []
    names = {"truncated": "truncated", "batch_period_ns": "batchPeriod", "request_limit": "requestLimit"}
    fields = ", ".join(names[name] for name in sorted(given))
    return [
        f"endpoints: {fields} decides nothing without written: true, as no Endpoints are written for Services with a selector"
    ]
