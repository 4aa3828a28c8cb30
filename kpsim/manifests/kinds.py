"""Sorts documents by kind and API group. Lists are taken apart, and what is skipped is counted.

Counterpart: kubectl's builder and the API server's scheme. Of an object it reads only apiVersion, kind and items.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kpsim.manifests.admission import Item
from kpsim.manifests.places import Finding, Place
from kpsim.manifests.proxy_config import API_GROUP, KIND
from kpsim.manifests.reading import Document
from kpsim.manifests.remarks import counted
from kpsim.manifests.schema import shown, suggestion

#: kinds that are read, with the apiVersions that Kubernetes 1.36 serves
API_VERSIONS: Mapping[str, tuple[str, ...]] = {
    "Service": ("v1",),
    "Endpoints": ("v1",),
    "Node": ("v1",),
    "Pod": ("v1",),
    "EndpointSlice": ("discovery.k8s.io/v1",),
    "ServiceCIDR": ("networking.k8s.io/v1", "networking.k8s.io/v1beta1"),
}


@dataclass(slots=True)
class Sorted:
    """Objects by what is done with them."""

    items: list[Item] = field(default_factory=list)
    configurations: list[Document] = field(default_factory=list)  #: KubeProxyConfiguration documents
    config_maps: list[Document] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)  #: objects of other kinds, by kind
    findings: list[Finding] = field(default_factory=list)


def sort_documents(documents: Iterable[Document]) -> Sorted:
    """Take lists apart and sort the objects by kind."""
    found = Sorted()
    for document in documents:
        for obj in _objects(document, found):
            _sort(obj, found)
    return found


#: how deep lists may be nested
_MAX_NESTING = 4


def _objects(document: Document, found: Sorted, nesting: int = 0) -> Iterator[Document]:
    """Yield the objects of a document: itself, or the items of a list.

    What a list says about its items is filled in.
    """
    value, place = document.value, document.place
    if nesting > _MAX_NESTING:
        found.findings.append(Finding(place, f"more than {_MAX_NESTING} lists inside each other"))
        return
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _objects(Document(place.at(index), item), found, nesting + 1)
        return
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if not (isinstance(kind, str) and kind.endswith("List") and "items" in value):
        yield document
        return
    items = value["items"] or []
    if not isinstance(items, list):
        found.findings.append(Finding(place.at("items"), f"expected a list, got {shown(items)}"))
        return
    implied = {"apiVersion": value.get("apiVersion"), "kind": kind.removesuffix("List")} if kind != "List" else {}
    for index, item in enumerate(items):
        filled = {**implied, **item} if implied and isinstance(item, Mapping) else item
        yield from _objects(Document(place.at("items", index), filled), found, nesting + 1)


def _sort(document: Document, found: Sorted) -> None:
    value, place = document.value, document.place
    if not isinstance(value, Mapping):
        found.findings.append(Finding(place, f"expected a Kubernetes object, got {shown(value)}"))
        return
    kind, version = value.get("kind"), value.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        found.findings.append(Finding(place.at("kind"), "a Kubernetes object needs a kind, such as Service"))
        return
    if not isinstance(version, str) or not version:
        expected = f": {API_VERSIONS[kind][0]}" if kind in API_VERSIONS else ""
        found.findings.append(Finding(place.at("apiVersion"), f"kind {kind} needs an apiVersion{expected}"))
        return
    group = version.rpartition("/")[0]
    if kind == KIND and group == API_GROUP:
        found.configurations.append(document)
    elif kind == "ConfigMap" and version == "v1":
        found.config_maps.append(document)
    elif version in API_VERSIONS.get(kind, ()):
        found.items.append(Item(place, kind, dict(value) if not isinstance(value, dict) else value))
    else:
        _skip(place, kind, version, found)


def _skip(place: Place, kind: str, version: str, found: Sorted) -> None:
    """Count an object of another kind. If it looks like a mistyped kind that is read, add a finding instead."""
    group = version.rpartition("/")[0]
    somebody_elses = "." in group and not group.endswith(".k8s.io")  # for example Service of serving.knative.dev
    if kind in API_VERSIONS and not somebody_elses:
        expected = API_VERSIONS[kind][0]
        found.findings.append(
            Finding(place.at("apiVersion"), f"kind {kind} has apiVersion {expected}, got {version!r}")
        )
        return
    served = {served for versions in API_VERSIONS.values() for served in versions}
    near = [known for known in API_VERSIONS if abs(len(known) - len(kind)) <= 2]
    meant = suggestion(kind, near) if version in served and kind not in _NEAR_BUT_RIGHT else ""
    if meant:
        found.findings.append(Finding(place.at("kind"), f"there is no kind {kind}{meant}"))
        return
    found.skipped[f"{kind}.{group}" if somebody_elses else kind] += 1


_NEAR_BUT_RIGHT = frozenset(("Ingress",))


def skipped_notes(skipped: Counter[str]) -> list[str]:
    """Say in words what was skipped."""
    notes = []
    if skipped:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(skipped.items()))
        notes.append(f"skipped {counted(skipped.total(), 'object')} of kinds that decide no packets here: {kinds}")
    if skipped["NetworkPolicy"]:
        notes.append("network policies are not modelled: packets go as if there were none")
    return notes
