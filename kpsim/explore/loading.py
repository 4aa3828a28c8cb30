"""Loads clusters from manifests or a recording, with the rules and settings of nodes before kube-proxy started."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from kpsim.addresses import Family
from kpsim.config import Mode, config_from_json
from kpsim.dialects import OnUnknown, dialect_reading
from kpsim.errors import InputError
from kpsim.explore.cluster import Cluster, RulesText, TraceOptions, replayed
from kpsim.inputs import decoded, is_stream, read_bytes, read_text, shown_name
from kpsim.recording import Recording, load_recording, read_recording
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
    beside: Iterable[Path | str | Ruleset] = (),
    sysctls: Mapping[str, int] | None = None,
    unknown: OnUnknown = "refuse",
) -> Cluster:
    """Loads manifests (files, directories, ``-``) or one recording. ``mode`` overrides the configured proxy mode.

    ``text`` is YAML or JSON in place of standard input, alone or in addition to files: ``load(text="kind: Service
    …")``. ``beside`` are rules that nodes had before kube-proxy started, see :meth:`Cluster.with_rules_beside`: files
    of iptables-save output, or ``NODE=FILE`` for one node. ``unknown="keep"`` keeps what is not modelled in them; packets
    whose end depends on it end unknown. ``sysctls`` are kernel settings, see
    :meth:`Cluster.with_sysctls`. InputError names file, line and field of everything that is wrong.
    """
    loaded = _load(paths, text, mode)
    for each in beside:
        loaded = _with_beside(loaded, each, unknown)
    return loaded.with_sysctls(sysctls) if sysctls else loaded


def _with_beside(cluster: Cluster, beside: Path | str | Ruleset, unknown: OnUnknown) -> Cluster:
    if isinstance(beside, Ruleset):
        return cluster.with_rules_beside(beside)
    node, equals, file = str(beside).partition("=")
    if not equals or isinstance(beside, Path) or "/" in node:
        return cluster.with_rules_beside(*_saved_rules(beside, unknown))
    return cluster.with_rules_beside(*_saved_rules(file, unknown), node=node)


def _saved_rules(file: Path | str, unknown: OnUnknown) -> tuple[Ruleset, ...]:
    """The rules of a file in any dialect, one ruleset for each family in it."""
    text = read_text(file)
    return dialect_reading(text).parse(text, file=shown_name(file), unknown=unknown)


def _load(paths: Sequence[Path | str] | Path | str, text: str | None, mode: Mode | str | None) -> Cluster:
    from kpsim.manifests import begins_recording, is_recording, load_manifests  # pydantic: only where files are read

    paths = [paths] if isinstance(paths, Path | str) else list(paths)
    wanted = None if mode is None else Mode(mode)
    if text is not None and "-" not in map(str, paths):
        paths.append("-")
    if not paths:
        raise InputError("nothing to load: give files, or text")
    if len(paths) == 1 and is_stream(paths[0]):
        content = read_bytes(paths[0], stdin=text)  # once, whatever it turns out to be
        if begins_recording(content):
            return from_recording(read_recording(content, shown_name(paths[0]), mode=wanted))
        paths, text = ["-"], decoded(content, shown_name(paths[0]))
    recorded = [path for path in paths if is_recording(path)]
    if recorded:
        if len(paths) > 1:
            raise InputError(f"{recorded[0]} is a recording: give it alone")
        return from_recording(load_recording(recorded[0], mode=wanted))
    loaded = load_manifests(paths, stdin=text, mode=wanted)
    if loaded.config is not None:
        return Cluster(loaded.cluster, loaded.config, notes=loaded.notes)
    return Cluster(loaded.cluster, config_from_json({}, mode=wanted), notes=(*loaded.notes, _NO_CONFIGURATION))


def from_recording(recording: Recording) -> Cluster:
    """The cluster after a recording's last sync."""
    replay = replayed(recording)
    return Cluster(replay.cluster, recording.config, recording.host, replay=replay)


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
