"""Loads clusters from manifests or a recording, with the rules and settings of nodes before kube-proxy started."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Unpack

from kpsim.addresses import Family
from kpsim.backends.table import notes_on, traits_of
from kpsim.cluster import ClusterState
from kpsim.config import Mode, config_from_json
from kpsim.dialects import OnUnknown
from kpsim.errors import InputError
from kpsim.explore.cluster import Cluster, RulesText, TraceOptions, replayed
from kpsim.explore.saved import read_machine
from kpsim.inputs import decoded, is_stream, read_bytes, shown_name
from kpsim.objects import service_cidr_from_json
from kpsim.programmed import Programmed
from kpsim.recording import Recording, load_recording, read_recording
from kpsim.replay import Replay
from kpsim.ruleset import Ruleset

if TYPE_CHECKING:
    from kpsim.tracing.traces import Trace

_NO_CONFIGURATION = (
    "no KubeProxyConfiguration among the manifests: kube-proxy's defaults hold, and without clusterCIDR it cannot tell pods' "
    "traffic from others'"
)


def load(
    paths: Sequence[Path | str] | Path | str = (),
    *,
    text: str | None = None,
    mode: Mode | str | None = None,
    beside: Iterable[Path | str | Programmed | Ruleset] = (),
    sysctls: Mapping[str, int] | None = None,
    unknown: OnUnknown = "refuse",
    assume_node: str | None = None,
    service_node_port_range: str = "",
    derive_slices: bool = False,
    edits: Sequence[str] = (),
) -> Cluster:
    """Loads manifests (files, directories, ``-``) or one recording. ``mode`` overrides the configured proxy mode.

    ``text`` is YAML or JSON in place of standard input, alone or in addition to files: ``load(text="kind: Service
    …")``. ``beside`` is what nodes were told before kube-proxy started, see :meth:`Cluster.with_rules_beside`: files
    of iptables-save, nft, ipset save or ipvsadm output, or ``NODE=FILE`` for one node. ``unknown="keep"`` keeps what is not
    modelled in them. ``sysctls`` are kernel settings, see
    :meth:`Cluster.with_sysctls`. ``assume_node`` makes a Node of this name; if there is no Node, also those that Pods
    and EndpointSlices name, and the empty text stands for the first of them. ``service_node_port_range`` is the API
    server's option, such as ``30000-32767``: without it any node port is taken. ``derive_slices`` writes EndpointSlices again as the slice
    controller would, where Services, Pods or Nodes were edited in the files; otherwise notes name them. ``edits`` are made when all is
    loaded, see :meth:`Cluster.with_edits`. InputError names file, line and field of
    everything that is wrong.
    """
    loaded = _load(paths, text, mode, _Assumptions(assume_node, _port_range(service_node_port_range), derive_slices))
    if edits:
        loaded = loaded.with_edits(*edits)
    loaded = _with_beside(loaded, beside, unknown)
    return loaded.with_sysctls(sysctls) if sysctls else loaded


class _Assumptions(NamedTuple):
    """What is said about a cluster beside its manifests."""

    node: str | None
    port_range: range | None
    derive_slices: bool


def _port_range(text: str) -> range | None:
    if not text:
        return None
    from kpsim.manifests.allocation import parse_port_range

    try:
        return parse_port_range(text)
    except ValueError as error:
        raise InputError(f"--service-node-port-range: {error}") from None


def _with_beside(cluster: Cluster, beside: Iterable[Path | str | Programmed | Ruleset], unknown: OnUnknown) -> Cluster:
    files: dict[str, list[Path | str]] = {}  # by node
    for each in beside:
        if isinstance(each, Programmed | Ruleset):
            cluster = cluster.with_rules_beside(each)
            continue
        node, equals, file = str(each).partition("=")
        if not equals or isinstance(each, Path) or "/" in node:
            files.setdefault("", []).append(each)
        else:
            files.setdefault(node, []).append(file)
    everywhere = files.get("", [])
    for node, own in files.items():
        told = read_machine(own, None, None, unknown=unknown, elsewhere=everywhere if node else ())
        cluster = cluster.with_rules_beside(*told, node=node)
    return cluster


def _load(
    paths: Sequence[Path | str] | Path | str, text: str | None, mode: Mode | str | None, assumed: _Assumptions
) -> Cluster:
    from kpsim.manifests import begins_recording, is_recording, load_manifests  # pydantic: only where files are read

    paths = [paths] if isinstance(paths, Path | str) else list(paths)
    wanted = None if mode is None else Mode(mode)
    if text is not None and "-" not in map(str, paths):
        paths.append("-")
    if not paths:
        raise InputError("nothing to load: give files, or text")
    if "" in paths:
        raise InputError("an empty path")
    if len(paths) == 1 and is_stream(paths[0]):
        content = read_bytes(paths[0], stdin=text)  # once, whatever it turns out to be
        if begins_recording(content):
            _refuse_assumptions(assumed)
            return from_recording(read_recording(content, shown_name(paths[0]), mode=wanted))
        paths, text = ["-"], decoded(content, shown_name(paths[0]))
    recorded = [path for path in paths if is_recording(path)]
    if recorded:
        if len(paths) > 1:
            raise InputError(f"{recorded[0]} is a recording: give it alone")
        _refuse_assumptions(assumed)
        return from_recording(load_recording(recorded[0], mode=wanted))
    loaded = load_manifests(
        paths,
        stdin=text,
        mode=wanted,
        assume_node=assumed.node,
        port_range=assumed.port_range,
        derive_slices=assumed.derive_slices,
    )
    state, config = loaded.cluster, loaded.config or config_from_json({}, mode=wanted)
    notes = (
        *loaded.notes,
        *_service_cidr_notes(state, config.mode),
        *notes_on(config.mode, state.services),
        *_warnings(config.mode),
    )
    if loaded.config is not None:
        notes = (*notes, *_identity_notes(state, config.hostname_override))
        return Cluster(
            state,
            config,
            notes=notes,
            document=loaded.proxy_config or {},
            controllers=loaded.controllers,
            name=_name_of(paths),
        )
    return Cluster(
        state, config, notes=(*notes, _NO_CONFIGURATION), controllers=loaded.controllers, name=_name_of(paths)
    )


def _name_of(paths: Sequence[Path | str]) -> str:
    """A name for the cluster, of the letters that names of objects have: that of the first file."""
    stem = next((Path(path).stem for path in paths if not is_stream(path)), "")
    return re.sub(r"[^a-z0-9.]+", "-", stem.lower()).strip("-.") or "cluster"


def _refuse_assumptions(assumed: _Assumptions) -> None:
    if assumed.node is not None or assumed.port_range is not None:
        raise InputError("a recording holds the Nodes and node ports of its cluster: nothing is assumed beside it")
    if assumed.derive_slices:
        raise InputError("a recording holds the EndpointSlices of its cluster: none are derived")


def _service_cidr_notes(state: ClusterState, mode: Mode) -> Iterator[str]:
    """Say what a mode that reads ServiceCIDR objects cannot do without one (NFT-5.9). Every real cluster has one."""
    traits = traits_of(mode)
    if traits.reads_service_cidrs and next(state.service_cidrs, None) is None:
        yield (
            f"there is no ServiceCIDR (kubectl get servicecidrs -o yaml gives it): packets to unallocated cluster IPs are not "
            f"dropped here, as kube-proxy in {mode} mode drops them"
        )


def _warnings(mode: Mode) -> Iterator[str]:
    """Say with which event a kube-proxy of this mode starts."""
    if warning := traits_of(mode).warning:
        yield f"kube-proxy starts with the event {warning}"


def _identity_notes(state: ClusterState, name: str) -> Iterator[str]:
    """Say what a name that all kube-proxies of a configuration share comes to (CFG-2.1)."""
    if name:
        known = "" if state.node(name) is not None else f". There is no Node {name}: it finds no addresses and no zone"
        yield (
            f"hostnameOverride: on whichever node it runs, kube-proxy takes itself for {name}, so the endpoints of {name} are the "
            f"local ones{known}"
        )


def from_recording(recording: Recording) -> Cluster:
    """The cluster after a recording's last sync."""
    return _replayed_cluster(recording, replayed(recording))


def _replayed_cluster(recording: Recording, replay: Replay) -> Cluster:
    """The cluster that a replay has come to.

    What the host says that kube-proxy knew of service networks before its first sync stood in a ServiceCIDR, in every
    mode, though the recording has no event of it. It is the one that every API server makes (NFT-1.10).
    """
    state = replay.cluster
    shown = {cidr for each in state.service_cidrs for cidr in each.cidrs}
    if known := [cidr for cidr in recording.host.service_cidrs if cidr not in shown]:
        made = service_cidr_from_json({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": known}})
        if state.get(made.key) is None:
            _, state = state.put(made)
    return Cluster(
        state, recording.config, recording.host, notes=replay.notes, replay=replay, document=recording.document
    )


def recording_after(path: Path | str, number: int) -> Cluster:
    """The cluster of a recording after the sync of this number, as ``kpsim replay`` counts them.

    InputError if there is no such sync, or if the file is no recording.
    """
    from kpsim.manifests import is_recording

    if not is_recording(path):
        raise InputError(f"{path} is no recording: only recordings have syncs")
    recording = load_recording(path)
    replay = Replay(recording)
    count = 0
    for count, _ in enumerate(replay.outcomes(), 1):
        if count == number + 1:
            return _replayed_cluster(recording, replay)
    raise InputError(f"{path} has {count} syncs, from 0 to {count - 1}: there is no sync {number}")


def _cluster(cluster: Cluster | Sequence[Path | str] | Path | str) -> Cluster:
    return cluster if isinstance(cluster, Cluster) else load(cluster)


def rules(
    cluster: Cluster | Sequence[Path | str] | Path | str, node: str, *, family: Family | str | None = None
) -> RulesText:
    """A node's rules, as :meth:`Cluster.rules`. ``cluster`` is a loaded cluster or the files to load.

    Without ``family`` the result has both families.
    """
    wanted = Family.from_label(family) if isinstance(family, str) else family
    return _cluster(cluster).rules(node, family=wanted)


def trace(
    cluster: Cluster | Sequence[Path | str] | Path | str, node: str, dst: str, **options: Unpack[TraceOptions]
) -> "Trace":
    """One packet's way, as :meth:`Cluster.trace` with its options.

    ``cluster`` is a loaded cluster or the files to load.
    """
    return _cluster(cluster).trace(node, dst, **options)
