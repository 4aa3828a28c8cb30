"""Loads a cluster from paths: reads, sorts, admits, derives. It also finds kube-proxy's configuration in the input.

Counterpart: ``kubectl apply`` to an empty cluster, and its controllers' first pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kpsim.bulk import without_collector
from kpsim.cluster import ClusterState
from kpsim.config import Mode, ProxyConfig
from kpsim.errors import InputError, printable
from kpsim.inputs import Json, Stdin
from kpsim.manifests.admission import Item, admit, typed_objects
from kpsim.manifests.assumed import assume_nodes, missing_notes
from kpsim.manifests.derived import derive_from_pods, mirror_endpoints
from kpsim.manifests.kinds import makers_of_pods, skipped_notes, sort_documents
from kpsim.manifests.places import problems_of
from kpsim.manifests.proxy_sources import find_proxy_settings
from kpsim.manifests.reading import read_paths
from kpsim.manifests.remarks import remarks
from kpsim.manifests.staleness import derived_again, staleness_notes
from kpsim.objects import Endpoints, endpoints_from_json


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
    exact: Mapping[str, int] = field(default_factory=dict)  #: settings of flags that no document can say (CFG-2.2.2)
    controllers: tuple[Item, ...] = ()  #: Deployments and other objects that make Pods, as written
    endpoints: tuple[
        Endpoints, ...
    ] = ()  #: the older objects; what they decide stands in EndpointSlices of the cluster


def load_manifests(
    paths: Sequence[Path | str],
    *,
    stdin: Stdin = None,
    mode: Mode | None = None,
    assume_node: str | None = None,
    port_range: range | None = None,
    derive_slices: bool = False,
) -> Loaded:
    """Load YAML and JSON manifests: files, directories (recursively) and ``-`` for ``stdin``.

    ``mode`` overrides the mode of the configuration among them. ``derive_slices`` writes slices again as the slice controller would (CP-3),
    where Services, Pods or Nodes were edited; otherwise notes name them. ``assume_node`` makes a Node of this name, see
    :func:`kpsim.manifests.assumed.assume_nodes`. ``port_range`` is the API server's --service-node-port-range.

    Objects are defaulted and completed as an API server would (O-3); Services without EndpointSlices get them from Pods
    (O-10) or Endpoints (CP-4.3). InputError with every problem of all files.
    """
    with without_collector():
        return _load(paths, stdin, mode, assume_node, port_range, derive_slices)


def _load(
    paths: Sequence[Path | str],
    stdin: Stdin,
    mode: Mode | None,
    assume_node: str | None,
    port_range: range | None,
    derive_slices: bool,
) -> Loaded:
    reading = read_paths(paths, stdin=stdin)
    found = sort_documents(reading.documents)
    settings = find_proxy_settings(found, mode)
    findings = [*reading.findings, *found.findings, *settings.findings]
    notes = [*reading.notes, *settings.notes]
    admission = admit(found.items, port_range=port_range)
    objects = typed_objects(admission)
    findings += admission.findings
    if findings:
        raise InputError(problems_of(findings))

    endpoints = [item.json for item in admission.items if item.kind == "Endpoints"]
    mirrored, mirror_notes = mirror_endpoints(endpoints, objects)
    objects += mirrored
    if derive_slices:
        state, stale_notes = derived_again(ClusterState.of(objects))
        objects = list(state.in_order())
    else:
        stale_notes = staleness_notes(objects)
    derived, pod_notes = derive_from_pods(objects)
    objects += derived
    notes += [
        *admission.notes,
        *admission.remarks,
        *mirror_notes,
        *pod_notes,
        *stale_notes,
        *remarks(objects),
        *skipped_notes(found),
    ]
    if assume_node is not None:
        cidr = settings.config.cluster_cidr if settings.config is not None else ""
        assumed = assume_nodes(assume_node, ClusterState.of(objects), cidr)
        objects += assumed.nodes
        notes += assumed.notes
    notes += missing_notes(objects)
    if not objects and settings.json is None:
        notes.append("there is no object that decides packets")
    return Loaded(
        cluster=ClusterState.of(objects),
        proxy_config=settings.json,
        config=settings.config,
        notes=tuple(map(printable, notes)),
        exact=settings.exact,
        controllers=tuple(makers_of_pods(found)),
        endpoints=tuple(map(endpoints_from_json, endpoints)),
    )
