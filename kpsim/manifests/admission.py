"""Does what the API server does with created objects: checks shape, sets defaults, validates, allocates.

Counterpart: the strategies of pkg/registry. All errors of all objects are reported at once. No files are read here.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field, replace
from typing import Any

from kpsim.errors import InputError
from kpsim.inputs import Json
from kpsim.manifests.allocation import Allocator, assign_families, service_ranges
from kpsim.manifests.defaults import DEFAULTS, default_metadata
from kpsim.manifests.places import Finding, Path, Place, path_before, value_at, without
from kpsim.manifests.schema import check_shapes, checked_texts
from kpsim.manifests.templates import HINT, may_hold_template, template_in
from kpsim.manifests.validation import COMPLAINTS, NAMESPACED, Complaint, is_stored, metadata_complaints
from kpsim.objects import ApiObject, Endpoints, object_from_json
from kpsim.valueclass import dataclass

#: kinds of which little is read; a server of another version may have stored more fields
LENIENT_KINDS = ("Pod", "Node")

#: more allocations than this are counted instead of listed
_LISTED = 20
#: an object with more errors of shape than this is not examined further
_EXAMINED = 100


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a kind that is read, and its place."""

    place: Place
    kind: str
    json: Json

    @property
    def title(self) -> str:
        """Kind and name: ``Service shop/web``."""
        metadata = self.json.get("metadata")
        if not isinstance(metadata, dict) or not metadata.get("name"):
            return self.kind
        namespace = f"{metadata.get('namespace') or 'default'}/" if self.kind in NAMESPACED else ""
        return f"{self.kind} {namespace}{metadata['name']}"

    def finding(self, path: tuple[str | int, ...], message: str) -> Finding:
        piece = template_in(str(value_at(self.json, path) or ""))
        if piece is not None and not isinstance(value_at(self.json, path), (dict, list)):
            message = f"{message} ({HINT})"
        return Finding(self.place.at(*path), f"{self.title}: {message}")


@dataclass(slots=True)
class Admission:
    """Objects as the API server would store them, in input order; what is wrong; and, in words, what was done.

    ``remarks`` are what a person should know even of objects that were written for kpsim.
    """

    items: list[Item] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def admit(items: Sequence[Item], existing: Iterable[Json] = (), *, port_range: range | None = None) -> Admission:
    """Create the objects in a cluster that holds the ``existing`` ones.

    Objects with errors are left out of ``items``. ``port_range`` is the API server's --service-node-port-range; if it is
    None, any node port is taken, with a note for those outside the default.
    """
    admission = Admission()
    admission.items = _without_duplicates(_examine(items, admission), admission)
    _allocate(admission, list(existing), port_range)
    return admission


# --------------------------------------------------------------------------------------------- shape, defaults, validity


def _examine(items: Sequence[Item], admission: Admission) -> list[Item]:
    """Return the objects that are valid by themselves, with defaults."""
    misshapen = _shape_findings(items, admission)
    examined: list[Item] = []
    defaulted: Counter[str] = Counter()
    for number, item in enumerate(items):
        if number in misshapen:
            admission.findings += _findings_beside(item, misshapen[number])
            continue
        json = DEFAULTS[item.kind](default_metadata(item.kind, item.json))
        complaints = [*metadata_complaints(item.kind, json), *COMPLAINTS[item.kind](json)]
        if not is_stored(json) and may_hold_template(item.json):
            seen = {path for path, _ in complaints}
            complaints += [found for found in template_complaints(item.kind, item.json) if found[0] not in seen]
        admission.findings += [item.finding(path, message) for path, message in complaints]
        if not complaints:
            defaulted[item.kind] += json is not item.json
            examined.append(replace(item, json=json))
    filled = ", ".join(f"{kind} {count}" for kind, count in sorted(defaulted.items()) if count)
    if filled:
        admission.notes.append(f"filled in the API server's defaults: {filled}")
    return examined


def template_complaints(kind: str, obj: Json) -> Iterator[Complaint]:
    """Yield the texts of an object that are templates, also where the schema takes any text.

    Annotations are left out: programs keep templates of their own there.
    """
    for path, text in checked_texts(kind, obj):
        if template_in(text) and path[:2] != ("metadata", "annotations"):
            yield path, f"got {text!r}"


def _shape_findings(items: Sequence[Item], admission: Admission) -> dict[int, list[Path]]:
    """Return the paths of values with a wrong shape, by index of the item."""
    misshapen: dict[int, list[Path]] = {}
    unknown: Counter[str] = Counter()
    for kind in sorted({item.kind for item in items}):
        chosen = [(number, item) for number, item in enumerate(items) if item.kind == kind]
        for index, path, message, unknown_field in check_shapes(kind, [item.json for _, item in chosen]):
            number, item = chosen[index]
            if unknown_field and kind in LENIENT_KINDS and is_stored(item.json):
                unknown[f"{kind} .{'.'.join(str(step) for step in path if isinstance(step, str))}"] += 1
                continue
            admission.findings.append(item.finding(path, message))
            misshapen.setdefault(number, []).append(path)
    if unknown:
        fields = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        admission.remarks.append(f"ignored fields that Kubernetes 1.36 does not have: {fields}")
    return misshapen


def _findings_beside(item: Item, misshapen: list[Path]) -> list[Finding]:
    """Return what else is wrong with an object of wrong shape, found in a copy without the misshapen values."""
    if len(misshapen) > _EXAMINED:
        return []
    json: Any = item.json
    for path in misshapen:
        if isinstance(path[-1] if path else 0, str):
            json = without(json, path)
    # list items that are wrong themselves, or that now lack a required field
    removed = {_item_path(path) for _, path, _, _ in check_shapes(item.kind, [json])}
    for path in sorted(removed, reverse=True):
        json = without(json, path)
    if () in removed or check_shapes(item.kind, [json]):
        return []  # without these values nothing more can be said
    json = DEFAULTS[item.kind](default_metadata(item.kind, json))
    complaints = [
        (path_before(path, removed), message)
        for path, message in (*metadata_complaints(item.kind, json), *COMPLAINTS[item.kind](json))
    ]
    left_out = [*misshapen, *removed]
    return [
        item.finding(path, message)
        for path, message in complaints
        if not any(gone[: len(path)] == path for gone in left_out)
    ]


def _item_path(path: Path) -> Path:
    """Return the path of the innermost list item around a value, or () if there is none."""
    return next((path[:end] for end in range(len(path), 0, -1) if isinstance(path[end - 1], int)), ())


def _without_duplicates(items: list[Item], admission: Admission) -> list[Item]:
    first: dict[tuple[str, str, str], Item] = {}
    for item in items:
        metadata = item.json["metadata"]
        holder = first.setdefault((item.kind, metadata.get("namespace") or "", metadata["name"]), item)
        if holder is not item:
            message = f"{item.title} stands twice: here and at"
            admission.findings.append(Finding(item.place, message, other=holder.place))
    return list(first.values())


# ---------------------------------------------------------------------------------------------------------- allocation


def _allocate(admission: Admission, existing: list[Json], port_range: range | None) -> None:
    """Assign families, then the explicit claims of all Services, then allocate in order of name.

    So the order of objects in files does not matter.
    """

    if not any(item.kind == "Service" for item in admission.items):
        return

    def of_kind(kind: str) -> list[Json]:
        return [
            *(obj for obj in existing if obj.get("kind") == kind),
            *(item.json for item in admission.items if item.kind == kind),
        ]

    allocator = Allocator(service_ranges(of_kind("Service"), of_kind("Node"), of_kind("ServiceCIDR")), port_range)
    for obj in existing:
        if obj.get("kind") == "Service":
            allocator.claim(obj)
    allocator.outside.clear()  # told when they were created
    services: dict[int, Item] = {}
    for number, item in enumerate(admission.items):
        if item.kind != "Service":
            continue
        json, complaints = assign_families(item.json, allocator.ranges)
        complaints += allocator.claim(json)
        admission.findings += [item.finding(path, message) for path, message in complaints]
        services[number] = replace(item, json=json)
    addresses: list[str] = []
    ports: list[str] = []
    for number, item in sorted(services.items(), key=lambda entry: _sort_key(entry[1].json)):
        made = allocator.allocate(item.json)
        admission.findings += [item.finding(path, message) for path, message in made.complaints]
        addresses += made.address_notes
        ports += made.port_notes
        admission.items[number] = replace(item, json=made.service)
    admission.notes += _listed(addresses, "cluster IPs") + _listed(ports, "node ports")
    if allocator.outside:
        allowed = allocator.ports
        hidden = len(allocator.outside) - _LISTED
        admission.remarks.append(
            f"node ports outside {allowed[0]}-{allowed[-1]}, which an API server gives only with another --service-node-port-range: "
            + ", ".join(sorted(allocator.outside)[:_LISTED])
            + (f" and {hidden:,} more" if hidden > 0 else "")
        )
    if addresses and not allocator.ranges.given:
        assumed = ", ".join(str(network) for networks in allocator.ranges.networks.values() for network in networks)
        admission.notes.append(f"there is no ServiceCIDR: cluster IPs are allocated from {assumed}")


def _sort_key(service: Json) -> tuple[str, str]:
    return service["metadata"]["namespace"], service["metadata"]["name"]


def _listed(notes: list[str], what: str) -> list[str]:
    return notes if len(notes) <= _LISTED else [*notes[:_LISTED], f"allocated {len(notes) - _LISTED} {what} more"]


# ------------------------------------------------------------------------------------------------------- typed objects


def typed_objects(admission: Admission) -> list[ApiObject]:
    """Return the typed objects of the kinds that decide packets, so no Endpoints. An object that cannot be read becomes a finding."""
    typed: list[ApiObject] = []
    for item in admission.items:
        try:
            obj = object_from_json(item.json)
        except InputError as error:
            admission.findings += [item.finding((), str(problem)) for problem in error.problems]
            continue
        if obj is not None and not isinstance(obj, Endpoints):
            typed.append(obj)
    return typed
