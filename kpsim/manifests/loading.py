"""Loads a cluster from paths: reads, sorts, admits, derives. It also finds kube-proxy's configuration in the input.

Counterpart: ``kubectl apply`` to an empty cluster, and its controllers' first pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kpsim.bulk import without_collector
from kpsim.cluster import ClusterState
from kpsim.config import Mode, ProxyConfig
from kpsim.errors import InputError
from kpsim.inputs import Json, Stdin
from kpsim.manifests.admission import admit, typed_objects
from kpsim.manifests.derived import derive_from_pods, mirror_endpoints
from kpsim.manifests.kinds import skipped_notes, sort_documents
from kpsim.manifests.places import printable, problems_of
from kpsim.manifests.proxy_sources import find_proxy_settings
from kpsim.manifests.reading import read_paths
from kpsim.manifests.remarks import remarks


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
    settings = find_proxy_settings(found, mode)
    findings = [*reading.findings, *found.findings, *settings.findings]
    notes = [*reading.notes, *settings.notes]
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
    notes += [*admission.notes, *mirror_notes, *pod_notes, *remarks(objects), *skipped_notes(found)]
    if not objects and settings.json is None:
        notes.append("there is no object that decides packets")
    return Loaded(
        cluster=ClusterState.of(objects),
        proxy_config=settings.json,
        config=settings.config,
        notes=tuple(map(printable, notes)),
    )
