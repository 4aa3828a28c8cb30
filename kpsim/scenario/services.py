"""The Kubernetes objects of a scenario, at the start and after its events, as an API server takes them.

Counterpart: kubectl against an API server. Events are tried out in their order when the scenario is loaded, so a patch
that an API server would refuse is an error of the file.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kpsim.cluster import ClusterState
from kpsim.endpoints import is_mirrored
from kpsim.endpointslices import CONTROLLER_NAME, LABEL_MANAGED_BY
from kpsim.errors import InputError, Problem
from kpsim.manifests import apply_patch, check_object, check_objects, patch_object
from kpsim.manifests.kinds import MAKERS_NOTE
from kpsim.manifests.places import Path, Place
from kpsim.manifests.validation import is_stored
from kpsim.objects import (
    ApiObject,
    Endpoints,
    EndpointSlice,
    Node,
    ObjectKey,
    Service,
    ServiceCIDR,
    node_from_json,
    object_from_json,
)
from kpsim.scenario.document import Document
from kpsim.scenario.endpoints import after_endpoints, endpoints_object_key, with_endpoints
from kpsim.scenario.event_schema import ScenarioEvent
from kpsim.scenario.nodes import CLUSTER_CIDRS, ClusterNode, cluster_families, cluster_nodes
from kpsim.scenario.others import other_services
from kpsim.scenario.schema import ScenarioSpec
from kpsim.scenario.service_names import qualified
from kpsim.scenario.taken import KINDS, Taken


@dataclass(slots=True)
class ScenarioObjects:
    """The objects of a scenario.

    ``created`` holds the Service of each createService event by the event's position, ``created_slices`` the slice of
    each createEndpointSlice event, ``created_endpoints`` the object of each createEndpoints event. ``proxy`` is the kube-proxy configuration among the manifests.
    """

    initial: tuple[ApiObject, ...] = ()
    created: dict[int, Service] = field(default_factory=dict)
    created_slices: dict[int, EndpointSlice] = field(default_factory=dict)
    created_endpoints: dict[int, Endpoints] = field(default_factory=dict)
    proxy: Mapping[str, Any] = field(default_factory=dict)
    exact: Mapping[str, int] = field(default_factory=dict)  #: what flags among the manifests say and no document can
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def services(self) -> dict[str, Service]:
        """Services at the start, by ``namespace/name``."""
        return {_name(obj): obj for obj in self.initial if isinstance(obj, Service)}

    @property
    def later_services(self) -> dict[str, Service]:
        """Services that events create, by ``namespace/name``."""
        return {_name(service): service for service in self.created.values()}


def _name(obj: ApiObject) -> str:
    return f"{obj.metadata.namespace}/{obj.metadata.name}"


def service_object_key(service: str) -> ObjectKey:
    """Return the key of a Service that is written with or without its namespace."""
    namespace, _, name = qualified(service).partition("/")
    return ObjectKey("Service", namespace, name)


def slice_object_key(name: str) -> ObjectKey:
    """Return the key of an EndpointSlice that is written with or without its namespace."""
    namespace, _, name = qualified(name).partition("/")
    return ObjectKey("EndpointSlice", namespace, name)


def read_objects(spec: ScenarioSpec, taken: Taken) -> ScenarioObjects:
    """Read manifests, inline objects and events of a scenario. ``problems`` holds all that is wrong with them.

    ``taken`` is the document, with what of its objects became nodes and workloads.
    """
    document = taken.document
    found = ScenarioObjects(problems=list(taken.problems), notes=list(taken.notes))
    state = _from_manifests(spec, taken, found)
    nodes = ClusterState.of(map(_family_hint, cluster_nodes(spec.nodes)[:1]))
    given = document.content.get("objects") or []
    try:
        there = _joined(state, nodes)
        checked = check_objects(given, place=document.place.at("objects"), existing=there, notes=found.notes)
    except InputError as error:
        found.problems += error.problems
        checked = []
    endpoints = [] if taken.loaded is None else list(taken.loaded.endpoints)
    for number, json in enumerate(checked):
        obj = object_from_json(json)
        if isinstance(obj, Endpoints):
            endpoints.append(obj)
            continue
        if isinstance(obj, (Service, EndpointSlice, ServiceCIDR)):
            _, state = state.put(obj)
        elif not (taken.active and json.get("kind") in KINDS):
            found.problems.append(document.problem(_refusal(json.get("kind")), ("objects", number, "kind")))
    state = _with_others(spec, state, document, found)
    for key in taken.slices:
        _, state = state.remove(key)
    for key in _managed(state):
        found.problems.append(document.problem(f"{key}: {_MANAGED}", _path_of(key, given)))
    state = with_endpoints(state, endpoints, found.notes)
    found.initial = (*state.services, *state.endpoint_slices, *state.endpoints, *state.service_cidrs)
    if not found.problems:
        _try_events(spec, _joined(state, nodes), document, found)
    return found


def _with_others(spec: ScenarioSpec, state: ClusterState, document: Document, found: ScenarioObjects) -> ClusterState:
    """Return the objects with those of ``otherServices``, whose names and cluster IPs have to be free."""
    if spec.other_services is None:
        return state
    taken_ips = {ip: service for service in state.services for ip in service.cluster_ips}
    others = list(other_services(spec.other_services, cluster_families(spec.nodes)[0]))
    for other in others:
        in_way = state.objects.get(other.key)
        if in_way is None and isinstance(other, Service):
            in_way = next((taken_ips[ip] for ip in other.cluster_ips if ip in taken_ips), None)
        if in_way is not None:
            words = f"{in_way.key} has the name or the cluster IP of one of these Services"
            found.problems.append(document.problem(words, ("otherServices",)))
            return state
    return ClusterState.of([*state.objects.values(), *others])


def _family_hint(node: ClusterNode) -> Node:
    """Return a Node object, from which the API server learns which families the cluster has."""
    return node_from_json(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name},
            "spec": {"podCIDRs": list(node.pod_cidrs)},
        }
    )


def _joined(state: ClusterState, nodes: ClusterState) -> ClusterState:
    return ClusterState.of([*state.objects.values(), *nodes.objects.values()])


def _refusal(kind: Any) -> str:
    return (
        f"{kind} is not for objects of a scenario: expected Service, EndpointSlice, Endpoints, ServiceCIDR, or what becomes nodes and workloads: "
        f"{', '.join(KINDS)}"
    )


def _from_manifests(spec: ScenarioSpec, taken: Taken, found: ScenarioObjects) -> ClusterState:
    """Take Services and hand-written EndpointSlices of the manifests. Other modelled kinds are refused by name, unless they were taken."""
    loaded = taken.loaded
    if loaded is None:
        return ClusterState()
    found.proxy = loaded.proxy_config or {}
    if not any("minSyncPeriod" in section for section in spec.proxy.values() if isinstance(section, dict)):
        found.exact = loaded.exact
    found.notes += [note for note in loaded.notes if not (taken.active and note.startswith(MAKERS_NOTE))]
    kept = []
    for key in sorted(loaded.cluster.objects):
        obj = loaded.cluster.objects[key]
        if isinstance(obj, EndpointSlice) and is_mirrored(obj) and not is_stored(obj.json) and loaded.endpoints:
            continue  # made from Endpoints while loading; the run's own controller makes it again
        if isinstance(obj, (Service, EndpointSlice, ServiceCIDR)):
            kept.append(obj)
        elif not (taken.active and key.kind in KINDS):
            found.problems.append(taken.document.problem(f"{key}: {_refusal(key.kind)}", ("manifests",)))
    return ClusterState.of(kept)


_MANAGED = (
    f"the label {LABEL_MANAGED_BY} says that the slice controller writes it. It makes the slices of Services with a selector "
    "from the pods of workloads, and no others: leave it out, or take the label away to keep it beside those"
)


def _managed(state: ClusterState) -> Iterable[ObjectKey]:
    """Yield the slices that the controller would rewrite or delete at once (CP-3.3). It leaves all others alone."""
    selecting = {(s.metadata.namespace, s.metadata.name) for s in state.services if s.selector}
    for item in state.endpoint_slices:
        theirs = (item.metadata.namespace, item.service_name) in selecting
        if theirs and item.metadata.labels.get(LABEL_MANAGED_BY) == CONTROLLER_NAME:
            yield item.key


def _path_of(key: ObjectKey, given: Sequence[Any]) -> tuple[str | int, ...]:
    """Return where the object stands in the scenario, or where its manifests are named."""
    for number, obj in enumerate(given):
        metadata = obj.get("metadata") or {}
        if (obj.get("kind"), metadata.get("namespace") or "default", metadata.get("name")) == key:
            return "objects", number
    return ("manifests",)


# --------------------------------------------------------------------------------------------------------------- events


def _try_events(spec: ScenarioSpec, state: ClusterState, document: Document, found: ScenarioObjects) -> None:
    """Apply the events to the Services, in order of time, and note what an API server would refuse."""
    gone: set[str] = set()  #: namespaces that were deleted
    for number, event in sorted(enumerate(spec.events), key=lambda pair: (pair[1].at_ns, pair[0])):
        try:
            state = _without_namespace(event, number, state, document, gone)
            state = _after(event, number, state, document, found)
        except InputError as error:
            found.problems += error.problems


def _without_namespace(
    event: ScenarioEvent, number: int, state: ClusterState, document: Document, gone: set[str]
) -> ClusterState:
    """Remove what goes with a namespace. InputError for an object that is created in one that terminates."""
    if event.delete_namespace is not None:
        gone.add(event.delete_namespace.namespace)
        for key in [key for key in state.objects if key.namespace in gone]:
            state = state.remove(key)[1]
    made = event.create_service or event.create_endpoint_slice or event.create_endpoints
    metadata = made.get("metadata") if made else None
    namespace = (metadata.get("namespace") or "default") if isinstance(metadata, dict) else ""
    if namespace in gone:
        words = f"the namespace {namespace} was deleted, so nothing is created in it"
        raise InputError(document.problem(words, ("events", number, event.kind_in_file)))
    return state


def _after(
    event: ScenarioEvent, number: int, state: ClusterState, document: Document, found: ScenarioObjects
) -> ClusterState:
    if event.create_service is not None:
        place = document.place.at("events", number, "createService")
        made = object_from_json(check_object(event.create_service, place=place, existing=state, notes=found.notes))
        if not isinstance(made, Service):
            raise InputError(document.problem("expected a Service", ("events", number, "createService", "kind")))
        if state.get(made.key) is not None:
            raise InputError(document.problem(f"there is a {made.key} already", ("events", number, "createService")))
        found.created[number] = made
        return state.put(made)[1]
    if event.create_endpoint_slice is not None or event.patch_endpoint_slice or event.delete_endpoint_slice:
        return _after_slice(event, number, state, document, found)
    if event.create_endpoints is not None or event.patch_endpoints or event.delete_endpoints:
        return after_endpoints(event, number, state, document, found.created_endpoints)
    change = event.patch_service or event.delete_service
    if change is None:
        return state
    old = state.get(service_object_key(change.service))
    if not isinstance(old, Service):
        known = {**found.services, **found.later_services}
        if qualified(change.service) not in known:
            return state  # reported with the other unknown names
        path = ("events", number, event.kind_in_file, "service")
        raise InputError(document.problem(f"there is no Service {qualified(change.service)} at that time", path))
    if event.patch_service is None:
        _, state = state.remove(endpoints_object_key(change.service))  # as the Endpoints controller does (CP-4.1)
        return state.remove(old.key)[1]
    place = document.place.at("events", number, "patchService", "patch")
    return state.put(patched(old, event.patch_service.patch, state, place))[1]


def _after_slice(
    event: ScenarioEvent, number: int, state: ClusterState, document: Document, found: ScenarioObjects
) -> ClusterState:
    path = ("events", number, event.kind_in_file)
    if event.create_endpoint_slice is not None:
        place = document.place.at(*path)
        made = object_from_json(check_object(event.create_endpoint_slice, place=place, existing=state))
        if not isinstance(made, EndpointSlice):
            raise InputError(document.problem("expected an EndpointSlice", (*path, "kind")))
        if state.get(made.key) is not None:
            raise InputError(document.problem(f"there is a {made.key} already", path))
        _refuse_managed(made, state, document, path)
        found.created_slices[number] = made
        return state.put(made)[1]
    change = event.patch_endpoint_slice or event.delete_endpoint_slice
    assert change is not None
    if change.endpoint_slice is None:
        assert event.delete_endpoint_slice is not None
        for item in slices_named(event.delete_endpoint_slice.service or "", state):
            state = state.remove(item.key)[1]
        return state
    old = state.get(slice_object_key(change.endpoint_slice))
    if not isinstance(old, EndpointSlice):
        words = f"there is no EndpointSlice {qualified(change.endpoint_slice)} at that time"
        raise InputError(document.problem(words, (*path, "endpointSlice")))
    _refuse_managed(old, state, document, path)
    if event.patch_endpoint_slice is None:
        return state.remove(old.key)[1]
    new = patched_slice(old, event.patch_endpoint_slice.patch, state, document.place.at(*path, "patch"))
    if new.service_name != old.service_name or new.address_type != old.address_type:
        words = "expected a patch that leaves the slice's Service and its addressType as they are"
        raise InputError(document.problem(words, (*path, "patch")))
    return state.put(new)[1]


def slices_named(service: str, state: ClusterState) -> list[EndpointSlice]:
    """Return all slices whose label names the Service, whoever writes them."""
    key = service_object_key(service)
    return [i for i in state.endpoint_slices if (i.metadata.namespace, i.service_name) == (key.namespace, key.name)]


def _refuse_managed(item: EndpointSlice, state: ClusterState, document: Document, path: Path) -> None:
    """Refuse a slice of a Service with selector: the EndpointSlice controller writes those."""
    service = state.get(ObjectKey("Service", item.metadata.namespace, item.service_name))
    if isinstance(service, Service) and service.selector:
        words = f"Service {_name(service)} has a selector: the EndpointSlice controller makes its slices from its pods"
        raise InputError(document.problem(words, path))


def patched_slice(
    item: EndpointSlice, patch: Mapping[str, Any], state: ClusterState, place: Place | None = None
) -> EndpointSlice:
    """Return the slice after a merge patch, as the API server stores it. InputError if it would refuse the patch."""
    obj = object_from_json(patch_object(item.json, patch, cluster=state, place=place))
    assert isinstance(obj, EndpointSlice)
    return obj


def patched(service: Service, patch: Mapping[str, Any], state: ClusterState, place: Place | None = None) -> Service:
    """Return the Service after a merge patch, as the API server stores it. InputError if it would refuse the patch."""
    obj = object_from_json(patch_object(service.json, patch, cluster=state, place=place))
    assert isinstance(obj, Service)
    return obj


def merged_proxy(spec: ScenarioSpec, base: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a whole KubeProxyConfiguration.

    The scenario's fragment overrides what manifests say, and that overrides the plan's pod addresses.
    """
    whole = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clusterCIDR": ",".join(CLUSTER_CIDRS[family] for family in cluster_families(spec.nodes)),
    }
    merged: Mapping[str, Any] = apply_patch(apply_patch(whole, base), spec.proxy)
    return merged
