"""Sorts documents by kind and API group. Lists are taken apart, and what is skipped is counted.

Counterpart: kubectl's builder and the API server's scheme. Of an object it reads only apiVersion, kind and items.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kpsim.manifests.admission import Item
from kpsim.manifests.installers import Installed, installer_settings
from kpsim.manifests.places import Finding, problems_of
from kpsim.manifests.proxy_config import API_GROUP, KIND
from kpsim.manifests.reading import Document
from kpsim.manifests.remarks import counted
from kpsim.manifests.settings_text import SettingsText
from kpsim.manifests.templates import HINT, RENDER, template_in
from kpsim.manifests.validation import Complaint
from kpsim.manifests.wording import shown, suggestion

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
    cluster_configurations: list[Document] = field(default_factory=list)  #: kubeadm's ClusterConfiguration documents
    config_maps: list[Document] = field(default_factory=list)
    templates: list[Document] = field(default_factory=list)  #: DaemonSets and other objects that make Pods
    installers: list[tuple[Document, Installed]] = field(
        default_factory=list
    )  #: what installers of clusters were given
    settings: list[Document] = field(default_factory=list)  #: systemd units and files of environment variables
    skipped: Counter[str] = field(default_factory=Counter)  #: objects of other kinds, by kind
    findings: list[Finding] = field(default_factory=list)
    overlooked: list[Finding] = field(default_factory=list)  #: what is wrong in the writing of objects that are skipped
    passed_over: list[Finding] = field(default_factory=list)  #: documents of directories that are no Kubernetes objects

    def take(self, document: Document) -> None:
        """Add what is wrong in the writing of an object that is read."""
        self.findings += [fault.finding for fault in document.faults]

    def skip(self, document: Document, kind: str) -> None:
        """Count an object that decides nothing. What is wrong in its writing is only a remark."""
        self.skipped[kind] += 1
        self.overlooked += [fault.finding for fault in document.faults]


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
            yield from _objects(document.inner(item, index), found, nesting + 1)
        return
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if not (isinstance(kind, str) and kind.endswith("List") and "items" in value):
        yield document
        return
    items = value["items"] or []
    if not isinstance(items, list):
        found.findings.append(Finding(place.at("items"), f"expected a list, got {shown(items)}"))
        return
    depth = len(place.path)
    found.findings += [fault.finding for fault in document.faults if len(fault.path) < depth + 2]  # of the list itself
    implied = {"apiVersion": value.get("apiVersion"), "kind": kind.removesuffix("List")} if kind != "List" else {}
    for index, item in enumerate(items):
        filled = {**implied, **item} if implied and isinstance(item, Mapping) else item
        yield from _objects(document.inner(filled, "items", index), found, nesting + 1)


def _is_no_object(value: Any) -> bool:
    """Return whether a value of a directory's file is no Kubernetes object: a file of another tool, such as Helm's values."""
    if not isinstance(value, Mapping):
        return True
    kind, version = value.get("kind"), value.get("apiVersion")
    if not kind and not version:
        return True
    return not (kind and version) and "metadata" not in value and kind not in (*API_VERSIONS, KIND)


#: what a file is that people often have beside manifests, by its name
_OTHER_FILES = {
    "kustomization.yaml": "`kubectl kustomize` makes manifests of it, which may differ from those beside it",
    "kustomization.yml": "`kubectl kustomize` makes manifests of it, which may differ from those beside it",
    "Chart.yaml": "`helm template` makes manifests of a chart",
    "values.yaml": "`helm template` makes manifests with it",
}


def _passed_over(document: Document) -> Finding:
    name = (document.place.source.name or "").rpartition("/")[2]
    words = f"; {_OTHER_FILES[name]}" if name in _OTHER_FILES else ""
    return Finding(document.place, f"passed over: no Kubernetes object, which has apiVersion and kind{words}")


def _sort(document: Document, found: Sorted) -> None:
    value, place = document.value, document.place
    if isinstance(value, SettingsText):
        found.settings.append(document)
        return
    if (installed := installer_settings(value)) is not None:
        found.installers.append((document, installed))
        return
    if document.folder and _is_no_object(value):
        found.passed_over.append(_passed_over(document))
        return
    problem = _no_object(value)
    if problem is not None:
        found.take(document)
        found.findings.append(Finding(place.at(*problem[0]), problem[1]))
        return
    kind, version = value["kind"], value["apiVersion"]
    group = version.rpartition("/")[0]
    if kind == KIND and group == API_GROUP:
        found.configurations.append(document)
    elif kind == "ClusterConfiguration" and group == KUBEADM_GROUP:
        found.cluster_configurations.append(document)
    elif kind == "ConfigMap" and version == "v1":
        found.config_maps.append(document)
    elif kind == "Scenario" and group == "kpsim.dev" and not document.folder:
        found.findings.append(Finding(place, "a scenario, where a cluster's objects are expected: kpsim run runs it"))
    elif kind in _MAKES_PODS:
        found.templates.append(document)
    elif version in API_VERSIONS.get(kind, ()):
        found.take(document)
        found.items.append(Item(place, kind, dict(value) if not isinstance(value, dict) else value))
    else:
        _skip(document, kind, version, found)


def _no_object(value: Any) -> Complaint | None:
    """Return why a value is no Kubernetes object that can be told by its kind, or None."""
    if not isinstance(value, Mapping):
        return (), f"expected a Kubernetes object, got {shown(value)}"
    kind, version = value.get("kind"), value.get("apiVersion")
    if not isinstance(kind, str) or not kind:
        cut = "; kubectl writes the kind of a list last, so the file may be cut off" if "items" in value else ""
        return ("kind",), f"a Kubernetes object needs a kind, such as Service{cut}"
    if not isinstance(version, str) or not version:
        expected = f": {API_VERSIONS[kind][0]}" if kind in API_VERSIONS else ""
        return ("apiVersion",), f"kind {kind} needs an apiVersion{expected}"
    for name, text in (("kind", kind), ("apiVersion", version)):
        if piece := template_in(text):
            return (name,), f"{piece}: {HINT} {RENDER}"
    return None


KUBEADM_GROUP = "kubeadm.k8s.io"
#: objects that make or keep Pods
MAKERS_OF_PODS = (
    "DaemonSet", "Deployment", "Job", "PodDisruptionBudget", "ReplicaSet", "ReplicationController", "StatefulSet",
)  # fmt: skip
_MAKES_PODS = (*MAKERS_OF_PODS, "PodTemplate")


def _skip(document: Document, kind: str, version: str, found: Sorted) -> None:
    """Count an object of another kind. If it looks like a mistyped kind that is read, add a finding instead."""
    group, place = version.rpartition("/")[0], document.place
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
    found.skip(document, f"{kind}.{group}" if somebody_elses else kind)


_NEAR_BUT_RIGHT = frozenset(("Ingress",))


#: how the note about objects that make and keep Pods begins
MAKERS_NOTE = "kube-proxy does not read objects that make or keep Pods, nor do its rules depend on them"


def makers_of_pods(found: Sorted) -> Iterator[Item]:
    """Yield the Deployments and other objects that make or keep Pods, as they were written. kube-proxy does not read them."""
    for document in found.templates:
        value = document.value
        named = isinstance(value.get("metadata"), Mapping) and value["metadata"].get("name")
        if value["kind"] in MAKERS_OF_PODS and named:
            yield Item(document.place, value["kind"], value)


def skipped_notes(found: Sorted) -> list[str]:
    """Say in words what was skipped."""
    makers = {kind: found.skipped[kind] for kind in _MAKES_PODS}
    skipped = found.skipped - Counter(makers)
    notes = [str(problem) for problem in problems_of(found.passed_over)]
    notes += [f"{problem}, in an object that is skipped" for problem in problems_of(found.overlooked)]
    if skipped:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(skipped.items()))
        notes.append(f"skipped {counted(skipped.total(), 'object')} of kinds that decide no packets here: {kinds}")
    if any(makers.values()):
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(makers.items()) if count)
        notes.append(f"{MAKERS_NOTE}: {kinds}")
    if skipped["NetworkPolicy"]:
        notes.append("network policies are not modelled: packets go as if there were none")
    return notes
