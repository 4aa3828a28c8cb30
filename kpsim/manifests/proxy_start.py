"""Reads what a kube-proxy would start with: its configuration, where each value of it stands, and the Nodes among the input.

It differs from :mod:`kpsim.manifests.loading` in two ways. What kube-proxy itself refuses at its start is no error here
but an answer, and of a cluster's objects only Nodes are read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from kpsim.config import Mode, ProxyConfig
from kpsim.errors import InputError, Problem, printable
from kpsim.inputs import Json, Stdin
from kpsim.manifests.admission import admit, typed_objects
from kpsim.manifests.kinds import sort_documents
from kpsim.manifests.places import Finding, Path, Place, format_path, lines_of, problems_of, value_at
from kpsim.manifests.proxy_config import FIELDS, Fields
from kpsim.manifests.proxy_flags import FLAGS, LOG_FLAGS, PORT_FLAGS, FlagsRead, image_runs_it
from kpsim.manifests.proxy_sources import BesideFile, ProxySetting, find_proxy_settings
from kpsim.manifests.reading import Document, is_recording, read_paths
from kpsim.manifests.remarks import counted
from kpsim.objects import Node


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value stands. ``words`` such as ``kube-proxy.yaml:7`` or ``--cluster-cidr``; ``value`` as it is written."""

    words: str
    value: Any


@dataclass(frozen=True, slots=True)
class IgnoredFlag:
    """A flag beside a configuration file, which decides nothing (CFG-1.1)."""

    name: str
    value: Any
    path: Path
    where: str


@dataclass(frozen=True)
class ProxyStart:
    """A configuration as kube-proxy would read it, typed and as a document. None: kube-proxy refuses it.

    ``by_flags``: the process has no configuration file, so its values come from flags (CFG-1.2). ``flags`` are those that are given, in
    order, with their values.
    """

    config: ProxyConfig | None
    json: Json
    where: str  #: the place of the configuration, in words
    refusals: tuple[Problem, ...] = ()  #: for what kube-proxy ends before it touches its machine
    nodes: tuple[Node, ...] = ()
    notes: tuple[str, ...] = ()
    by_flags: bool = False
    flags: Mapping[str, Any] = field(default_factory=dict)
    log_flags: Mapping[str, Any] = field(
        default_factory=dict
    )  #: those about logs, which count beside a file too (CFG-1.1)
    removed_flags: tuple[str, ...] = ()
    ignored_flags: tuple[IgnoredFlag, ...] = ()
    unknown_fields: tuple[tuple[str, str], ...] = ()  #: path and place of fields that kube-proxy does not know
    origins: Mapping[Path, Origin] = field(default_factory=dict)  #: by path of the values that are written somewhere


def read_proxy_start(paths: Sequence[FilePath | str], *, stdin: Stdin = None, mode: Mode | None = None) -> ProxyStart:
    """Read the configuration among files, directories and ``-``, and the Nodes beside it. ``mode`` overrides its mode.

    InputError for what cannot be read, for several configurations that disagree, and if there is none.
    """
    for path in paths:
        if str(path) != "-" and is_recording(path):
            raise InputError(f"{path} is a recording: give the configuration itself")
    reading = read_paths(paths, stdin=stdin)
    found = sort_documents(reading.documents)
    settings = find_proxy_settings(found, mode)
    admission = admit([item for item in found.items if item.kind == "Node"])
    nodes = [each for each in typed_objects(admission) if isinstance(each, Node)]
    windows = [each for each in nodes if _is_windows(each)]
    nodes = [each for each in nodes if each not in windows]
    refused = set(map(id, settings.refused))
    others = [each for each in (*settings.findings, *found.findings) if id(each) not in refused]
    findings = [*reading.findings, *others, *admission.findings]
    if findings:
        raise InputError(problems_of(findings))
    refusals = tuple(problems_of(settings.refused))
    notes = tuple(printable(note) for note in (*reading.notes, *settings.notes) if note not in settings.told)
    if versions := sorted(set(_other_versions([*map(_value, found.templates), *(item.json for item in found.items)]))):
        notes = (*notes, f"the image of kube-proxy is {', '.join(versions)}: what is said here holds for {_RELEASE}")
    if windows:
        notes = (*notes, f"{counted(len(windows), 'Node')} with Windows: passed over")
    if settings.chosen is None or settings.json is None:
        if not refusals:
            raise InputError(_nothing_found(notes))
        return ProxyStart(None, {}, refusals[0].file or "the input", refusals, tuple(nodes), notes)
    chosen, json = settings.chosen, settings.json
    origins = {**_origins(chosen, json), **_host_name(chosen, settings.beside, json)}
    if mode is not None:
        json = {**json, "mode": str(mode)}
        origins["mode",] = Origin("--mode", str(mode))
    flags = {} if chosen.flags is None else chosen.flags.values
    read = list(_command_lines(chosen, settings.beside))
    removed = [name for each in read for name in each.removed]
    return ProxyStart(
        config=settings.config,
        json=json,
        where=_where(chosen),
        refusals=refusals,
        nodes=tuple(nodes),
        notes=notes,
        by_flags=chosen.flags is not None and not chosen.partial,
        flags=flags,
        log_flags={name: value for each in read for name, value in each.values.items() if name in LOG_FLAGS},
        removed_flags=tuple(dict.fromkeys(removed)),
        ignored_flags=tuple(_ignored(settings.beside)),
        unknown_fields=tuple(_unknown_fields(chosen)),
        origins=origins,
    )


_RELEASE = "1.36"
_TAG = re.compile(r":v?(\d{1,4}\.\d{1,4})[\w.-]*")


def _value(document: Document) -> Any:
    return document.value


def _other_versions(objects: Sequence[Any]) -> Iterator[str]:
    """Yield the releases of kube-proxy that DaemonSets and Pods run, but for the one that is modelled."""
    for value in objects:
        for path in (("spec", "template", "spec", "containers"), ("spec", "containers")):
            containers = value_at(value, path)
            for container in containers if isinstance(containers, list) else ():
                image = str(value_at(container, ("image",)) or "")
                tag = _TAG.search(image.rpartition("/")[2])
                if image_runs_it(image) and tag is not None and tag[1] != _RELEASE:
                    yield tag[0].lstrip(":")


def _is_windows(node: Node) -> bool:
    return bool(value_at(node.json, ("status", "nodeInfo", "operatingSystem")) == "windows")


def _nothing_found(notes: Sequence[str]) -> list[Problem]:
    expected = (
        "no configuration of kube-proxy among the input: give a KubeProxyConfiguration, the ConfigMap that holds one, the DaemonSet or "
        "systemd unit that starts kube-proxy, or a file of its flags"
    )
    return [Problem(expected), *map(Problem, notes)]


def _command_lines(chosen: ProxySetting, beside: Sequence[BesideFile]) -> Iterator[FlagsRead]:
    if chosen.flags is not None:
        yield chosen.flags
    yield from (each.flags for each in beside)


def _title(place: Place) -> str:
    problem = problems_of([Finding(place, "")])[0]
    return f"{problem.file or 'text'}:{problem.line or 1}"


def _where(setting: ProxySetting) -> str:
    return f"{setting.words} ({_title(setting.place)})"


def _origins(setting: ProxySetting, json: Json) -> dict[Path, Origin]:
    """Return where each written value stands: a line of the file, or a flag."""
    paths = list(_leaves(json, FIELDS))
    if setting.flags is not None:
        by_path = {}
        for name in setting.flags.given:
            for path in _paths_of_flag(name, paths):
                by_path[path] = name
        return {
            path: Origin(f"--{by_path[path]}" if path in by_path else _title(setting.place), value_at(json, path))
            for path in paths
            if path not in _HEAD
        }
    written = [path for path in paths if value_at(setting.json, path) is not None]
    lines = lines_of([setting.place.at(*path) for path in written])
    file = problems_of([Finding(setting.place, "")])[0].file or "text"
    if not setting.paths:  # podSubnet of kubeadm's ClusterConfiguration, which has one value
        lines = lines_of([setting.place] * len(written))
    return {
        path: Origin(f"{file}:{line}" if line else f"{file} {format_path(path)}", value_at(json, path))
        for path, line in zip(written, lines, strict=True)
        if path not in _HEAD
    }


_HEAD = (("apiVersion",), ("kind",))


def _paths_of_flag(name: str, paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the fields that a flag sets: its own, and that of another section in a mode without flags of its own (CFG-2.2)."""
    own = FLAGS[name].path
    for path in paths:
        if path == own or (len(own) == 2 and not name.startswith(f"{path[0]}-") and path[1:] == own[1:]):
            yield path


def _host_name(chosen: ProxySetting, beside: Sequence[BesideFile], json: Json) -> dict[Path, Origin]:
    """Return where the name comes from that a flag gives: it wins over the file (CFG-1.1)."""
    name = str(json.get("hostnameOverride") or "")
    given = [chosen.hostname, *(each.flags.hostname for each in beside)]
    if not name or name not in {each.strip().lower() for each in given if each}:
        return {}
    return {("hostnameOverride",): Origin("--hostname-override", name)}


def _ignored(beside: Sequence[BesideFile]) -> Iterator[IgnoredFlag]:
    for each in beside:
        for name in each.ignored:
            yield IgnoredFlag(
                name, each.flags.values.get(name), PORT_FLAGS.get(name, FLAGS[name].path), _title(each.place)
            )


def _leaves(value: Any, fields: Fields, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of the fields that a document has, of those that kube-proxy knows."""
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        known = fields.get(name)
        if isinstance(known, Mapping):
            yield from _leaves(inner, known, (*path, name))
        elif known is not None and inner is not None:
            yield (*path, name)


def _unknown_fields(setting: ProxySetting) -> Iterator[tuple[str, str]]:
    """Yield the fields that kube-proxy does not know and passes over (CFG-1.1)."""
    if not setting.paths:
        return
    paths = list(_strangers(setting.json, FIELDS))
    lines = lines_of([setting.place.at(*path) for path in paths])
    file = problems_of([Finding(setting.place, "")])[0].file or "text"
    for path, line in zip(paths, lines, strict=True):
        yield format_path(path).removeprefix("."), f"{file}:{line}" if line else file


def _strangers(value: Any, fields: Fields, path: Path = ()) -> Iterator[Path]:
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        known = fields.get(name)
        if known is None:
            yield (*path, name)
        elif isinstance(known, Mapping):
            yield from _strangers(inner, known, (*path, name))
