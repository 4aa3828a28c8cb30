"""Objects given as JSON instead of files: checked and completed on create, patched and completed on update.

Counterpart: the API server's POST and PATCH (JSON merge patch, RFC 7386), with the update rules of O-3.3 and O-3.6. The
functions return new objects and never change the cluster.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kpsim.cluster import ClusterState
from kpsim.errors import InputError
from kpsim.inputs import Json
from kpsim.manifests.admission import LENIENT_KINDS, Item, admit
from kpsim.manifests.allocation import Allocator, assign_families, name_of, service_ranges
from kpsim.manifests.defaults import DEFAULTS, default_metadata
from kpsim.manifests.kinds import API_VERSIONS, sort_documents
from kpsim.manifests.places import Path, Place, Source, problems_of
from kpsim.manifests.reading import Document
from kpsim.manifests.schema import check_shapes
from kpsim.manifests.validation import COMPLAINTS, Complaint, externally_accessible, is_stored, metadata_complaints


def check_objects(
    objects: Sequence[Json],
    *,
    file: str | None = None,
    path: Path = (),
    place: Place | None = None,
    existing: ClusterState | None = None,
    notes: list[str] | None = None,
) -> list[dict[str, Any]]:
    """Return the objects as an API server would store them: validated, defaulted, allocated (O-3).

    ``place`` (or ``file`` and ``path``) is where the list stands, for errors. ``existing`` is the cluster that they are
    created in, whose addresses and node ports are taken. Objects of kinds that decide no packets are returned
    unchanged. ``notes`` gets remarks on them, in words. InputError with every problem.
    """
    place = place or Place(Source(file), 1, path)
    found = sort_documents(Document(place.at(index), obj) for index, obj in enumerate(objects))
    held = [obj.json for obj in existing.objects.values()] if existing is not None else []
    admission = admit(found.items, held)
    findings = [*found.findings, *admission.findings]
    if findings:
        raise InputError(problems_of(findings))
    if notes is not None:
        notes += admission.remarks
    stored = {item.place.path: item.json for item in admission.items}
    return [dict(stored.get(place.at(index).path, obj)) for index, obj in enumerate(objects)]


def check_object(
    obj: Json,
    *,
    file: str | None = None,
    path: Path = (),
    place: Place | None = None,
    existing: ClusterState | None = None,
    notes: list[str] | None = None,
) -> dict[str, Any]:
    """Check one object as :func:`check_objects` does. ``place`` is the place of the object itself."""
    place = place or Place(Source(file), 1, path)
    found = sort_documents([Document(place, obj)])
    held = [held.json for held in existing.objects.values()] if existing is not None else []
    admission = admit(found.items, held)
    findings = [*found.findings, *admission.findings]
    if findings:
        raise InputError(problems_of(findings))
    if notes is not None:
        notes += admission.remarks
    return dict(admission.items[0].json if admission.items else obj)


# --------------------------------------------------------------------------------------------------------------- patches


def apply_patch(obj: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7386): null removes, objects merge, all else replaces.

    Neither argument is changed.
    """
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(obj) if isinstance(obj, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = apply_patch(merged.get(key), value)
    return merged


def update_object(
    old: Json,
    new: Json,
    *,
    cluster: ClusterState | None = None,
    file: str | None = None,
    path: Path = (),
    place: Place | None = None,
) -> dict[str, Any]:
    """Return ``new`` as the API server would store it in place of ``old``.

    What the update leaves open comes from ``old``.

    ``cluster`` holds the other Services, with their addresses and node ports. InputError with every problem.
    """
    place = place or Place(Source(file), 1, path)
    kind = str(old.get("kind"))
    item = Item(place, kind, dict(new))
    if kind not in API_VERSIONS:
        return dict(new)

    def refuse(complaints: Sequence[Complaint]) -> None:
        if complaints:
            raise InputError(problems_of([item.finding(where, message) for where, message in complaints]))

    lenient = kind in LENIENT_KINDS and is_stored(new)
    shapes = check_shapes(kind, [dict(new)])
    refuse([(where, message) for _, where, message, unknown in shapes if not (unknown and lenient)])
    old = default_metadata(kind, old)
    new = default_metadata(kind, new)
    refuse(list(_identity_complaints(old, new)))
    if kind == "Service":
        new = _carried_over(old, new)
    new = DEFAULTS[kind](new)
    refuse([*metadata_complaints(kind, new), *COMPLAINTS[kind](new)])
    if kind == "Service":
        new, complaints = _reallocated(old, new, cluster or ClusterState())
        refuse(complaints)
    return dict(new)


def patch_object(
    old: Json,
    patch: Json,
    *,
    cluster: ClusterState | None = None,
    file: str | None = None,
    path: Path = (),
    place: Place | None = None,
) -> dict[str, Any]:
    """Apply a patch as :func:`apply_patch` does, then update as :func:`update_object` does."""
    return update_object(old, apply_patch(old, patch), cluster=cluster, file=file, path=path, place=place)


_IMMUTABLE: Mapping[str, tuple[str, ...]] = {"EndpointSlice": ("addressType",)}


def _identity_complaints(old: Json, new: Json) -> Iterator[Complaint]:
    for name in ("kind", "apiVersion", *_IMMUTABLE.get(str(old.get("kind")), ())):
        if old.get(name) != new.get(name):
            yield (name,), f"cannot be changed (from {old.get(name)!r} to {new.get(name)!r})"
    for name in ("name", "namespace"):
        if (old["metadata"].get(name) or "") != (new["metadata"].get(name) or ""):
            yield ("metadata", name), "cannot be changed: another name is another object"


def _kind_of(spec: Json) -> str:
    return str(spec.get("type") or "ClusterIP")


def _carried_over(old: Json, new: Json) -> Json:
    """Return the new Service with what the update left out, taken from the old one (O-3.3, O-3.6).

    Fields that the new type excludes are removed if the update did not touch them.
    """
    before, spec = old["spec"], dict(new["spec"])
    kind = _kind_of(spec)
    for name in _fields_to_drop(spec, kind):
        if spec.get(name) == before.get(name):
            spec.pop(name, None)
    if kind in ("ClusterIP", "ExternalName") and spec.get("ports"):
        given = {port.get("nodePort") for port in before.get("ports") or []}
        spec["ports"] = [_without_node_port(port, given) for port in spec["ports"]]
    if kind != "ExternalName" and _kind_of(before) != "ExternalName":
        for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if not spec.get(name) and before.get(name):
                spec[name] = before[name]
        spec = _first_family_only(before, spec)
    if kind in ("NodePort", "LoadBalancer"):
        spec["ports"] = _refilled(before.get("ports") or [], spec.get("ports") or [])
    if kind == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local" and before.get("healthCheckNodePort"):
        spec.setdefault("healthCheckNodePort", before["healthCheckNodePort"])
    return {**new, "spec": spec}


def _fields_to_drop(spec: Json, kind: str) -> Iterator[str]:
    if kind == "ExternalName":
        yield from ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")
    if kind != "LoadBalancer":
        yield from ("allocateLoadBalancerNodePorts", "loadBalancerClass")
    if kind != "LoadBalancer" or spec.get("externalTrafficPolicy") != "Local":
        yield "healthCheckNodePort"
    if not externally_accessible({**spec, "type": kind}):
        yield "externalTrafficPolicy"


def _without_node_port(port: Json, given: set[Any]) -> Json:
    return {key: value for key, value in port.items() if key != "nodePort" or value not in given}


def _first_family_only(before: Json, spec: dict[str, Any]) -> dict[str, Any]:
    """Drop the second family when an update switches to SingleStack, unless the update sets the families itself."""
    if spec.get("ipFamilyPolicy") != "SingleStack" or before.get("ipFamilyPolicy") == "SingleStack":
        return spec
    unchanged = {
        name: spec[name][:1]
        for name in ("clusterIPs", "ipFamilies")
        if spec.get(name) and spec[name] == before.get(name)
    }
    return {**spec, **unchanged}


def _refilled(before: Sequence[Json], ports: Sequence[Json]) -> list[Json]:
    """Fill in missing node ports from the old port of the same name, unless another port now has the number."""
    stated = {port.get("nodePort") for port in ports}
    by_name = {port.get("name") or "": port.get("nodePort") for port in before}
    filled: list[Json] = []
    for port in ports:
        number = by_name.get(port.get("name") or "")
        lacks = not port.get("nodePort") and number and number not in stated
        filled.append({**port, "nodePort": number} if lacks else port)
    return filled


def _claims(service: Json) -> tuple[Any, ...]:
    spec = service["spec"]
    numbers = [port.get("nodePort") for port in spec.get("ports") or []]
    return (
        spec.get("clusterIPs"),
        spec.get("ipFamilies"),
        spec.get("ipFamilyPolicy"),
        numbers,
        spec.get("healthCheckNodePort"),
        _kind_of(spec),
    )


def _reallocated(old: Json, new: Json, cluster: ClusterState) -> tuple[Json, list[Complaint]]:
    before, after = old["spec"], new["spec"]
    if _kind_of(before) != "ExternalName" and _kind_of(after) != "ExternalName":
        for name, what in (("clusterIPs", "cluster IP"), ("ipFamilies", "family")):
            first, now = (before.get(name) or [None])[0], (after.get(name) or [None])[0]
            if first and now != first:
                return new, [(("spec", name, 0), f"the primary {what} cannot be changed (from {first!r} to {now!r})")]
    local = after.get("externalTrafficPolicy") == "Local"
    if (
        local
        and before.get("externalTrafficPolicy") == "Local"
        and _kind_of(before) == _kind_of(after) == "LoadBalancer"
    ):
        ports = before.get("healthCheckNodePort"), after.get("healthCheckNodePort")
        if ports[0] and ports[0] != ports[1]:
            return new, [(("spec", "healthCheckNodePort"), f"cannot be changed (from {ports[0]} to {ports[1]})")]
    if _claims(old) == _claims(new) and (
        _kind_of(after) != "LoadBalancer" or not local or after.get("healthCheckNodePort")
    ):
        return new, []
    others = [obj.json for obj in cluster.services if name_of(obj.json) != name_of(new)]
    nodes, cidrs = [obj.json for obj in cluster.nodes], [obj.json for obj in cluster.service_cidrs]
    allocator = Allocator(service_ranges([*others, old], nodes, cidrs))
    for other in others:
        allocator.claim(other)
    new, complaints = assign_families(new, allocator.ranges, update=True)
    complaints += allocator.claim(new)
    if complaints:
        return new, complaints
    made = allocator.allocate(new, update=True)
    return made.service, made.complaints
