"""Loads a cluster from paths: reads, sorts, admits, derives. It also finds kube-proxy's configuration in the input.

Counterpart: ``kubectl apply`` to an empty cluster, and its controllers' first pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kpsim.bulk import without_collector
from kpsim.cluster import ClusterState
from kpsim.config import Mode, ProxyConfig, config_from_json
from kpsim.errors import InputError, printable
from kpsim.inputs import Json, Stdin
from kpsim.manifests.admission import admit, typed_objects
from kpsim.manifests.derived import derive_from_pods, mirror_endpoints
from kpsim.manifests.kinds import Sorted, skipped_notes, sort_documents
from kpsim.manifests.places import Finding, Place, Source, problems_of
from kpsim.manifests.proxy_config import check_proxy_config
from kpsim.manifests.reading import Document, read_paths
from kpsim.manifests.remarks import remarks
from kpsim.manifests.yaml_reader import YamlRefused, find_lines, read_yaml


@dataclass(frozen=True, slots=True)
class Loaded:
    """A cluster read from manifests.

    ``proxy_config`` is the KubeProxyConfiguration as written and ``config`` the same, typed and defaulted; both None
    if there was none. ``notes`` say what was defaulted, allocated, derived and skipped.
    """

    cluster: ClusterState
    proxy_config: Json | None = None
    config: ProxyConfig | None = None
    notes: tuple[str, ...] = ()


def load_manifests(paths: Sequence[Path | str], *, stdin: Stdin = None, mode: Mode | None = None) -> Loaded:
    """Load YAML and JSON manifests: files, directories (recursively) and ``-`` for ``stdin``.

    ``mode`` overrides the mode of the configuration among them.

    Objects are defaulted and completed as an API server would (O-3); Services without EndpointSlices get them from Pods
    (O-10) or Endpoints (CP-4.3). InputError with every problem of all files.
    """
    with without_collector():
        return _load(paths, stdin, mode)


def _load(paths: Sequence[Path | str], stdin: Stdin, mode: Mode | None) -> Loaded:
    reading = read_paths(paths, stdin=stdin)
    found = sort_documents(reading.documents)
    # a key that stands twice: kube-proxy only logs it in its configuration, kubectl refuses it in an object
    logged = {id(finding) for document in found.configurations for finding in document.duplicate_keys}
    findings = [finding for finding in [*reading.findings, *found.findings] if id(finding) not in logged]
    notes = list(reading.notes)

    configuration = _configuration(found, mode, findings, notes)
    admission = admit(found.items)
    objects = typed_objects(admission)
    findings += admission.findings
    if findings:
        raise InputError(problems_of(findings))

    endpoints = [item.json for item in admission.items if item.kind == "Endpoints"]
    mirrored, mirror_notes = mirror_endpoints(endpoints, objects)
    objects += mirrored
    derived, pod_notes = derive_from_pods(objects)
    objects += derived
    notes += [*admission.notes, *mirror_notes, *pod_notes, *remarks(objects), *skipped_notes(found.skipped)]
    if not objects and configuration is None:
        notes.append("there is no object that decides packets")
    return Loaded(
        cluster=ClusterState.of(objects),
        proxy_config=configuration,
        config=None if configuration is None else config_from_json(configuration, mode=mode),
        notes=tuple(map(printable, notes)),
    )


# --------------------------------------------------------------------------------------------------------- configuration


def _configuration(found: Sorted, mode: Mode | None, findings: list[Finding], notes: list[str]) -> Json | None:
    """Return the one KubeProxyConfiguration, checked, or None. It may stand in kubeadm's ConfigMap."""
    documents = list(found.configurations)
    for config_map in found.config_maps:
        if _is_kube_proxys(config_map.value):
            documents += _from_config_map(config_map, findings)
        else:
            found.skipped["ConfigMap"] += 1
    for document in documents[1:]:
        findings.append(
            Finding(document.place, "a second KubeProxyConfiguration; the first is at", other=documents[0].place)
        )
    for document in documents:
        check = check_proxy_config(document.value, mode=mode)
        findings += [
            Finding(document.place.at(*path), f"KubeProxyConfiguration: {message}")
            for path, message in check.complaints
        ]
        notes += check.notes
        notes += [
            f"kube-proxy's configuration: {finding.message}; the last counts" for finding in document.duplicate_keys
        ]
    return documents[0].value if documents else None


def _is_kube_proxys(value: Json) -> bool:
    metadata = value.get("metadata")
    named = isinstance(metadata, Mapping) and metadata.get("name") == "kube-proxy"
    return named and metadata.get("namespace") == "kube-system"  # type: ignore[union-attr]


def _from_config_map(document: Document, findings: list[Finding]) -> list[Document]:
    """Read kubeadm's layout: the configuration is a text in ``data["config.conf"]``, with lines of its own."""
    data = document.value.get("data")
    text = data.get("config.conf") if isinstance(data, Mapping) else None
    here = document.place.at("data", "config.conf")
    if not isinstance(text, str):
        findings.append(Finding(here, "the ConfigMap kube-system/kube-proxy holds no KubeProxyConfiguration here"))
        return []
    source = Source(f"{document.place.source.name}: config.conf", find_lines=partial(find_lines, text))
    try:
        inner = list(read_yaml(text))
    except YamlRefused as refusal:
        findings.append(Finding(here, refusal.message))
        return []
    for found in inner:
        serious = [entry for entry in found.findings if entry not in found.duplicate_keys]
        findings += [Finding(here, message) for _, message in serious]
    return [
        Document(
            Place(source, number), found.value, tuple(Finding(here, message) for _, message in found.duplicate_keys)
        )
        for number, found in enumerate(inner, 1)
        if found.value is not None
    ]
