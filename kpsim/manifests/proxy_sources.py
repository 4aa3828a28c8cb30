"""Finds kube-proxy's configuration wherever clusters keep it, by content and not by name.

Places: KubeProxyConfiguration documents, ConfigMaps with one under any name and key, the flags of DaemonSets, Pods,
systemd units and files of arguments, and kubeadm's ClusterConfiguration, whose podSubnet becomes clusterCIDR. Two that
disagree are an error, because one cluster has one of them.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, fields, replace
from functools import partial
from typing import Any

from kpsim.config import Mode, ProxyConfig, as_of_flags, config_from_json
from kpsim.inputs import Json
from kpsim.manifests.installers import Installed
from kpsim.manifests.kinds import KUBEADM_GROUP, Sorted
from kpsim.manifests.places import Finding, Path, Place, Source, problems_of, value_at
from kpsim.manifests.proxy_config import API_GROUP, API_VERSION, KIND, check_proxy_config
from kpsim.manifests.proxy_flags import FLAGS, PORT_FLAGS, PROGRAM, FlagsRead, image_runs_it, read_flags, unresolved
from kpsim.manifests.reading import Document
from kpsim.manifests.settings_text import HYPERKUBE_NAMES, Command, SettingsText, commands, environment
from kpsim.manifests.templates import HINT, template_in
from kpsim.manifests.validation import Complaint
from kpsim.manifests.yaml_reader import YamlRefused, find_lines, read_yaml
from kpsim.units import format_duration
from kpsim.valueclass import dataclass


@dataclass(frozen=True, slots=True)
class ProxySetting:
    """One place that says how kube-proxy is configured.

    ``words`` name the place. ``exact`` are typed settings that the document ``json`` cannot say. ``paths`` is False if
    the fields of ``json`` are not fields at ``place``, as those of flags are.
    """

    place: Place
    words: str
    json: Json
    exact: Mapping[str, int] = field(default_factory=dict)
    hostname: str = ""  #: ``--hostname-override``, which counts beside a file too (CFG-1.1)
    node: str = ""  #: the node of a Pod: its host name is no other node's
    plain: bool = False  #: a document of its own, in a file that was named
    paths: bool = True
    partial: bool = False  #: of an installer, which adds defaults of its own
    flags: FlagsRead | None = None  #: the command line, if ``json`` was made of one

    def under(self, mode: Mode | None) -> "ProxySetting":
        """The same as it is read in another mode: which section flags set depends on it (CFG-2.2)."""
        if mode is None or self.flags is None:
            return self
        json, least_ns = as_of_flags({**self.flags.named, "mode": str(mode)})
        exact = {} if least_ns is None else {"min_sync_period_ns": least_ns}
        return replace(self, json={**self.json, **json}, exact=exact)

    def typed(self, mode: Mode | None = None) -> ProxyConfig:
        return replace(config_from_json(self.json, mode=mode), **self.exact)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class BesideFile:
    """A command line that names a configuration file: what else it says is ignored, but for a few flags (CFG-1.1)."""

    place: Place
    words: str
    flags: FlagsRead

    @property
    def ignored(self) -> tuple[str, ...]:
        """The flags that set a field of the configuration, which the file alone says."""
        return tuple(name for name in dict.fromkeys(self.flags.given) if name in _IN_FILE)


@dataclass(slots=True)
class _Search:
    settings: list[ProxySetting] = field(default_factory=list)
    files: list[BesideFile] = field(default_factory=list)
    hostnames: list[tuple[Place, str, str]] = field(default_factory=list)  #: beside ``--config``: place, name, node
    findings: list[Finding] = field(default_factory=list)
    refused: list[Finding] = field(default_factory=list)  #: of ``findings``, what kube-proxy itself refuses
    notes: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)  #: of ``notes``, what other fields of the result say too


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """What was found: ``json`` as kube-proxy would read it, the same typed, and remarks. None: nothing was found.

    ``refused`` is the part of ``findings`` for which kube-proxy would end at its start. The others are about the files.
    ``chosen`` is where ``json`` stood; ``beside`` are command lines that name its file.
    """

    json: Json | None
    config: ProxyConfig | None
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]
    exact: Mapping[str, int] = field(default_factory=dict)
    refused: tuple[Finding, ...] = ()
    chosen: ProxySetting | None = None
    beside: tuple[BesideFile, ...] = ()
    told: tuple[str, ...] = ()  #: of ``notes``, what ``json``, ``chosen`` and ``beside`` say too


def find_proxy_settings(found: Sorted, mode: Mode | None) -> ProxySettings:
    """Find and check kube-proxy's configuration. ``mode`` overrides the mode that it names."""
    search = _Search()
    for document in found.configurations:
        search.settings += _of_document(document, search)
    for config_map in found.config_maps:
        inner = _documents_of(config_map, search)
        if not inner:
            found.skip(config_map, "ConfigMap")
        for each in inner:
            if _group(each.value) == KUBEADM_GROUP:
                found.cluster_configurations.append(each)
            else:
                search.settings.append(ProxySetting(each.place, _key_words(config_map, each), each.value))
    for item in found.templates:
        if not _from_pod_template(item.place, item.value, search):
            found.skip(item, str(item.value["kind"]))
    for pod in found.items:
        if pod.kind == "Pod":
            _from_pod(pod.place, pod.json.get("spec"), "Pod", pod.title, search)
    for document, installed in found.installers:
        _from_installer(document, installed, search)
    _from_texts(found.settings, search)
    return _decide(search, found, mode)


# ------------------------------------------------------------------------------------------------------------ documents


def _group(value: Any) -> str:
    return str(value.get("apiVersion") or "").rpartition("/")[0] if isinstance(value, Mapping) else ""


def _of_document(document: Document, search: _Search) -> Iterator[ProxySetting]:
    for fault in document.faults:
        if fault.twice:
            search.notes.append(f"kube-proxy's configuration: {fault.finding.message}; the last counts")
        else:
            search.findings.append(fault.finding)
    yield ProxySetting(document.place, KIND, document.value, plain=not document.folder)


_LIKELY = re.compile(rf"\b({KIND}|ClusterConfiguration)\b")


def _documents_of(config_map: Document, search: _Search) -> list[Document]:
    """Read the configurations that stand as texts in a ConfigMap, whatever its name and keys."""
    data = config_map.value.get("data")
    found: list[Document] = []
    for key, text in data.items() if isinstance(data, Mapping) else ():
        if isinstance(text, str) and _LIKELY.search(text):
            found += _documents_in(text, key, config_map, search)
    if found:
        search.findings += [fault.finding for fault in config_map.faults]
    return found


def _documents_in(text: str, key: str, config_map: Document, search: _Search) -> Iterator[Document]:
    source = Source(f"{config_map.place.source.name}: {key}", find_lines=partial(find_lines, text))
    here = config_map.place.at("data", key)
    try:
        inner = list(read_yaml(text))
    except YamlRefused as refusal:
        search.findings.append(Finding(here, refusal.message))
        return
    for number, document in enumerate(inner, 1):
        value = document.value
        if not isinstance(value, Mapping) or value.get("kind") not in (KIND, "ClusterConfiguration"):
            continue
        if _group(value) not in (API_GROUP, KUBEADM_GROUP):
            continue
        for fault in document.faults:
            if fault.twice:
                search.notes.append(f"kube-proxy's configuration: {fault.message}; the last counts")
            else:
                search.findings.append(Finding(here, fault.message))
        yield Document(Place(source, number), value)


def _name_of(value: Json) -> str:
    metadata = value.get("metadata")
    if not isinstance(metadata, Mapping):
        return "without a name"
    namespace = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{namespace}{metadata.get('name') or 'without a name'}"


def _key_words(config_map: Document, document: Document) -> str:
    key = (document.place.source.name or "").rpartition(": ")[2]
    return f"ConfigMap {_name_of(config_map.value)}, key {key}"


# ------------------------------------------------------------------------------------------------------------- commands


def _from_pod_template(place: Place, value: Json, search: _Search) -> bool:
    spec = value.get("spec") if value["kind"] != "PodTemplate" else value
    template = spec.get("template") if isinstance(spec, Mapping) else None
    inner = template.get("spec") if isinstance(template, Mapping) else None
    steps = ("template", "spec") if value["kind"] == "PodTemplate" else ("spec", "template", "spec")
    return _from_pod(place.at(*steps[:-1]), inner, str(value["kind"]), f"{value['kind']} {_name_of(value)}", search)


def _from_pod(place: Place, spec: Any, kind: str, words: str, search: _Search) -> bool:
    """Read the command of a Pod's containers. Returns whether one of them runs kube-proxy."""
    ran = False
    containers = spec.get("containers") if isinstance(spec, Mapping) else None
    for number, container in enumerate(containers if isinstance(containers, list) else ()):
        if not isinstance(container, Mapping):
            continue
        arguments = _arguments(container)
        if arguments is None:
            continue
        ran = True
        node = str(spec.get("nodeName") or "") if kind == "Pod" else ""
        where = place.at("spec", "containers", number, "command" if container.get("command") else "args")
        _take(read_flags(_filled(arguments, container)), where, words, node, search)
    return ran


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


_SHELL_ENDS = re.compile(r"^(\d?[<>]|&?>|[;|&]{1,2}$)")


def _arguments(container: Json) -> list[str] | None:
    """Return kube-proxy's arguments in a container's command, or None if it runs another program."""
    words = [*_texts(container.get("command")), *_texts(container.get("args"))]
    spread: list[str] = []
    for word in words:  # `sh -c "exec kube-proxy --flag >>/var/log/kube-proxy.log 2>&1"`
        if (PROGRAM in word or "hyperkube" in word) and any(blank in word.strip() for blank in " \n\t"):
            try:
                spread += shlex.split(word.replace("\\\n", " ").replace(";", " ; "))
            except ValueError:
                spread += word.split()
        else:
            spread.append(word)
    start = next((n for n, word in enumerate(spread) if _starts_it(word, spread[n - 1] if n else "")), None)
    if start is None:
        own_image = image_runs_it(str(container.get("image") or "")) and not container.get("command")
        return spread if own_image and spread and all(word.startswith("-") for word in spread) else None
    rest = spread[start + 1 :]
    end = next((n for n, word in enumerate(rest) if _SHELL_ENDS.match(word)), len(rest))
    return rest[:end]


_BEFORE = ("", "-c", "exec", "&&", ";", "||", "then", "do", "nice", "sudo")


def _starts_it(word: str, before: str) -> bool:
    """Return whether a word of a command starts kube-proxy, rather than being an argument of another program."""
    folder, _, name = word.rpartition("/")
    if before.rpartition("/")[2] == "hyperkube":
        return name in HYPERKUBE_NAMES
    return name == PROGRAM and (bool(folder) or before in _BEFORE)


_REFERENCE = re.compile(r"\$\((\w+)\)|\$\{(\w+)\}|\$(\w+)")


def _filled(words: Sequence[str], container: Json) -> list[str]:
    """Put in the values of the container's own variables. The node's own name as host name changes nothing."""
    known: dict[str, str] = {}
    own_name: set[str] = set()
    variables = container.get("env")
    for entry in variables if isinstance(variables, list) else ():
        if not isinstance(entry, Mapping):
            continue
        name, value, source = str(entry.get("name")), entry.get("value"), entry.get("valueFrom")
        if value is not None:
            known[name] = str(value)
        elif isinstance(source, Mapping) and _field_path(source) == "spec.nodeName":
            own_name.add(name)
    made = []
    for word in words:
        names = {next(filter(None, found.groups())) for found in _REFERENCE.finditer(word)}
        if word.startswith("--hostname-override") and names and names <= own_name:
            continue
        made.append(_REFERENCE.sub(lambda found: known.get(next(filter(None, found.groups())), found[0]), word))
    return made


def _field_path(source: Json) -> str:
    reference = source.get("fieldRef")
    return str(reference.get("fieldPath")) if isinstance(reference, Mapping) else ""


def _from_installer(document: Document, installed: Installed, search: _Search) -> None:
    """Read what an installer of clusters was told about kube-proxy: a part, because it adds defaults of its own."""
    place = document.place.at(*installed.path)
    title = problems_of([Finding(place, "")])[0]
    if installed.off:
        search.notes.append(
            f"{installed.words} ({title.file or 'text'}, line {title.line or 1}): by {installed.off} the cluster has no kube-proxy"
        )
        return
    for fault in document.faults:
        if fault.twice:
            search.notes.append(f"{installed.words}: {fault.finding.message}; the last counts")
        else:
            search.findings.append(fault.finding)
    search.notes.append(f"{installed.words}: its own defaults for kube-proxy are not read, only what is written in it")
    _take(read_flags(installed.flags), place, installed.words, "", search, installed.json)


def _from_texts(documents: Iterable[Document], search: _Search) -> None:
    """Read systemd units, with the variables of the environment files among the input."""
    listed = list(documents)
    variables: dict[str, str] = {}
    for document in listed:
        assert isinstance(document.value, SettingsText)
        variables |= environment(document.value.text)
    for document in listed:
        text, name = document.value.text, document.place.source.name or ""
        started = False
        for command in commands(text, variables, PROGRAM):
            started = True
            lines = partial(_same_line, command.line)
            where = Place(Source(name, find_lines=lines))
            read = read_flags(command.words[1:])
            _without_variables(read, command)
            _take(read, where, "the command", "", search)
        if not started and not environment(text):
            search.notes.append(f"{name} starts no {PROGRAM}: passed over")
    if variables and not search.settings and not search.files:
        for document in listed:
            _from_variables(document, search)
    if variables and not search.settings and not search.files:
        names = ", ".join(str(document.place.source.name) for document in listed)
        search.notes.append(f"{names}: variables for a unit that is not among the files")


_OF_PROXY = re.compile(r"(?:^|_)(?:KUBE_?)?PROXY(?:_|$)", re.IGNORECASE)


def _from_variables(document: Document, search: _Search) -> None:
    """Read variables such as ``KUBE_PROXY_ARGS`` of an environment file whose unit is not given."""
    words = [
        word
        for name, value in environment(document.value.text).items()
        if _OF_PROXY.search(name)
        for word in shlex.split(value)
    ]
    read = read_flags(words)
    if words and not read.complaints:
        place = Place(Source(document.place.source.name or "", find_lines=partial(_same_line, 1)))
        _take(read, place, "the variables, whose unit is not among the files,", "", search)


def _same_line(line: int, wanted: Iterable[tuple[int, Path]]) -> Mapping[tuple[int, Path], int]:
    return dict.fromkeys(wanted, line)


def _without_variables(read: FlagsRead, command: Command) -> None:
    """Take words such as ``$KUBE_PROXY_ARGS`` out of the complaints, and say that their values are missing."""
    missing = [word for word in command.words[1:] if re.fullmatch(r"\$\{?\w+\}?", word)]
    if not missing:
        return
    read.complaints = [text for text in read.complaints if not any(repr(word) in text for word in missing)]
    files = (
        f", which {', '.join(command.environment_files)} may hold: give that file too"
        if command.environment_files
        else ""
    )
    read.notes.append(f"the value of {', '.join(missing)} is not known{files}")


def _take(
    read: FlagsRead, place: Place, words: str, node: str, search: _Search, fields_beside: Json | None = None
) -> None:
    _forget_kubeconfig(read)
    if read.ends:
        title = problems_of([Finding(place, words)])[0]
        search.notes.append(f"{title}: with --{read.ends} kube-proxy ends without writing rules (CFG-1.3): passed over")
        return
    refused = [Finding(place, f"kube-proxy's flags: {text}") for text in read.complaints]
    search.findings += refused
    search.refused += refused
    for text in unresolved(read):
        search.findings.append(Finding(place, f"kube-proxy's flags: {text} has a variable whose value is not known"))
    title = problems_of([Finding(place, words)])[0]
    search.notes += [f"{title}: {note}" for note in read.notes]
    search.told += search.notes[len(search.notes) - len(read.removed) :] if read.removed else ()
    if read.config_file:
        beside = BesideFile(place, words, read)
        search.files.append(beside)
        if beside.ignored:
            ignored = ", ".join(f"--{name}" for name in beside.ignored)
            search.notes.append(f"{title}: with --config kube-proxy ignores {ignored} (CFG-1.1)")
            search.told.append(search.notes[-1])
        if read.hostname:
            search.hostnames.append((place, read.hostname, node))
        return
    json = {"apiVersion": API_VERSION, "kind": KIND, **(fields_beside or {}), **read.json}
    partial = fields_beside is not None
    said = words if partial else f"flags of {words}"
    search.settings.append(
        ProxySetting(place, said, json, read.exact, read.hostname, node, paths=False, partial=partial, flags=read)
    )


def _forget_kubeconfig(read: FlagsRead) -> None:
    """Forget a kubeconfig file whose name has a variable: where kube-proxy finds the API server decides no packet."""
    connection = read.json.get("clientConnection")
    if isinstance(connection, dict) and "$" in str(connection.get("kubeconfig")):
        del connection["kubeconfig"]


#: flags whose values stand in a configuration file, if there is one
_IN_FILE = frozenset(
    (*(name for name, flag in FLAGS.items() if flag.path and name != "hostname-override"), *PORT_FLAGS)
)


# ------------------------------------------------------------------------------------------------------------- decision

#: the mode of kube-proxy on Windows: clusters of both systems have a second configuration
_WINDOWS = "kernelspace"
#: typed settings that differ from node to node in one cluster
_OF_ONE_NODE = ("hostname_override",)
_WRITTEN = {
    "cluster_cidr": "clusterCIDR",
    "bridge_interface": "detectLocal.bridgeInterface",
    "interface_name_prefix": "detectLocal.interfaceNamePrefix",
}


def _decide(search: _Search, found: Sorted, mode: Mode | None) -> ProxySettings:
    notes, findings, refused = list(search.notes), list(search.findings), list(search.refused)
    right: list[ProxySetting] = []
    for setting in (each.under(mode) for each in search.settings):
        if setting.json.get("mode") == _WINDOWS and not setting.plain:
            notes.append(f"{_found_note(setting)}: for nodes with Windows, passed over")
            continue
        check = check_proxy_config(setting.json, mode=mode)
        complaints = [*check.complaints, *_templates(setting, check.complaints)]
        for path, message in complaints:
            where = setting.place.at(*path) if setting.paths else setting.place
            words = KIND if setting.paths else f"{setting.words}: {'.'.join(map(str, path))}"
            rendered = template_in(str(value_at(setting.json, path))) is None
            findings.append(Finding(where, f"{words}: {message}{'' if rendered else f' ({HINT})'}"))
            if rendered:
                refused.append(findings[-1])
        notes += check.notes
        search.told += check.notes
        if not complaints:
            right.append(setting)
    right.sort(key=lambda setting: setting.partial)  # what a cluster runs with counts before what it was asked for
    for other in right[1:]:
        findings += _disagreement(right[0], other, mode)
    notes += [_found_note(setting) for setting in right if not setting.plain]
    search.told += [_found_note(setting) for setting in right[:1]]
    if search.files and not search.settings:
        first = search.files[0]
        title = problems_of([Finding(first.place, first.words)])[0]
        notes.append(
            f"{title}: kube-proxy reads its configuration from {first.flags.config_file}, which is not among the files: give it too"
        )
    chosen = right[0] if right else None
    chosen = _with_pod_subnet(chosen, found.cluster_configurations, findings, notes)
    beside = tuple(search.files)
    if chosen is None:
        return ProxySettings(None, None, tuple(notes), tuple(findings), refused=tuple(refused), beside=beside)
    name = _hostname(right or [chosen], search)
    json = {**chosen.json, "hostnameOverride": name} if name else chosen.json
    config = None if findings else replace(chosen.typed(mode), hostname_override=name)
    return ProxySettings(
        json, config, tuple(notes), tuple(findings), chosen.exact, refused=tuple(refused), chosen=chosen, beside=beside,
        told=tuple(search.told),
    )  # fmt: skip


def _templates(setting: ProxySetting, complaints: Iterable[Complaint]) -> Iterator[Complaint]:
    """Yield the texts of a configuration that are templates and were not found wrong otherwise."""
    seen = {path for path, _ in complaints}

    def texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, Mapping):
            for name, item in value.items():
                yield from texts(item, (*path, name))
        elif isinstance(value, list):
            for number, item in enumerate(value):
                yield from texts(item, (*path, number))

    for path, text in texts(setting.json, ()):
        if path not in seen and template_in(text):
            yield path, f"got {text!r}"


def _found_note(setting: ProxySetting) -> str:
    place = problems_of([Finding(setting.place, "")])[0]
    return f"kube-proxy's configuration: {setting.words} ({place.file or 'text'}, line {place.line or 1})"


def _disagreement(first: ProxySetting, other: ProxySetting, mode: Mode | None) -> Iterator[Finding]:
    mine, theirs = first.typed(mode), other.typed(mode)
    names = [each.name for each in fields(ProxyConfig) if each.name not in _OF_ONE_NODE]
    if other.partial:
        unsaid = ProxySetting(other.place, "", {"apiVersion": API_VERSION, "kind": KIND}).typed(mode)
        names = [name for name in names if getattr(theirs, name) != getattr(unsaid, name)]
    differing = [name for name in names if getattr(mine, name) != getattr(theirs, name)]
    if differing:
        listed = "; ".join(
            f"{_written(name)} {_said(theirs, name)} here and {_said(mine, name)} there" for name in differing
        )
        yield Finding(
            other.place,
            f"two configurations of kube-proxy disagree: {other.words} and {first.words} ({listed}). Give one; the other is at",
            other=first.place,
        )


def _written(name: str) -> str:
    head, *rest = name.removesuffix("_ns").split("_")
    return _WRITTEN.get(name, head + "".join(map(str.capitalize, rest)))


def _said(config: ProxyConfig, name: str) -> str:
    value = getattr(config, name)
    if name.endswith("_ns"):
        return format_duration(value)
    return ", ".join(value) if isinstance(value, tuple) else str(value) or "(empty)"


def _hostname(settings: Sequence[ProxySetting], search: _Search) -> str:
    """Return the one name that all kube-proxies of the configuration take, or nothing if nodes have their own."""
    given = [(setting.hostname, setting.node) for setting in settings if setting.hostname]
    given += [(name, node) for _, name, node in search.hostnames]
    names = {name.strip().lower() for name, node in given if node != name}
    if names:
        return names.pop() if len(names) == 1 else ""
    if given:
        return ""
    written = {str(setting.json.get("hostnameOverride") or "").strip().lower() for setting in settings} - {""}
    return written.pop() if len(written) == 1 else ""


def _with_pod_subnet(
    chosen: ProxySetting | None, documents: Sequence[Document], findings: list[Finding], notes: list[str]
) -> ProxySetting | None:
    """Put in kubeadm's podSubnet, which it writes as clusterCIDR into kube-proxy's configuration."""
    for document in documents:
        networking = document.value.get("networking")
        subnet = networking.get("podSubnet") if isinstance(networking, Mapping) else None
        where = document.place.at("networking", "podSubnet")
        if not isinstance(subnet, str) or not subnet.strip():
            continue
        if chosen is None:
            json = {"apiVersion": API_VERSION, "kind": KIND, "clusterCIDR": subnet}
            complaints = check_proxy_config(json).complaints
            findings += [Finding(where, message) for _, message in complaints]
            if complaints:
                return None
            shown = problems_of([Finding(where, "")])[0]
            notes.append(
                f"no configuration of kube-proxy itself: clusterCIDR {subnet} is podSubnet of kubeadm's ClusterConfiguration "
                f"({shown.file or 'text'}, line {shown.line or 1}), the rest is kube-proxy's default"
            )
            chosen = ProxySetting(where, "podSubnet of kubeadm's ClusterConfiguration", json)
            continue
        own = str(chosen.json.get("clusterCIDR") or "")
        if not own and chosen.paths and _is_kubeadms_input(chosen):
            chosen = replace(chosen, json={**chosen.json, "clusterCIDR": subnet})
            notes.append(f"kubeadm puts podSubnet {subnet} into kube-proxy's configuration as clusterCIDR")
        elif _networks(own) != _networks(subnet):
            findings.append(
                Finding(
                    where,
                    f"podSubnet {subnet} of kubeadm's ClusterConfiguration and clusterCIDR {own or '(empty)'} of kube-proxy's "
                    f"configuration ({chosen.words}) disagree. Give one; the other is at",
                    other=chosen.place,
                )
            )
    return chosen


def _is_kubeadms_input(setting: ProxySetting) -> bool:
    """Return whether kubeadm itself reads both: documents, not what it has written into ConfigMaps."""
    return setting.words in (KIND, "podSubnet of kubeadm's ClusterConfiguration")


def _networks(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(",") if part.strip())
