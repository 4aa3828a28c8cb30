"""Recordings: what one kube-proxy was told, event by event.

A recording is a file of JSON lines: a CONFIG, then watch events, with a SYNC line wherever a sync runs. Objects are
taken as the API server returned them: without defaulting, allocation, or validation beyond kube-proxy's own (O-4 to
O-6). What a SYNC line says about the machine is read for every mode; a mode ignores what it does not use
(``Backend.tick``).
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from kpsim.addresses import Family, canonical_ip
from kpsim.cluster import EventType
from kpsim.config import Host, HostInterface, Mode, ProxyConfig, config_from_json
from kpsim.errors import InputError, Problem
from kpsim.inputs import Json, decoded, json_line, read_bytes, shown_name
from kpsim.kubeproxy.stale_flows import UdpFlow
from kpsim.objects import ApiObject, Endpoints, JsonReader, Node, node_from_json, object_from_json
from kpsim.units import HOUR_NS, SECOND_NS, parse_rfc3339_ns
from kpsim.valueclass import dataclass


@dataclass(frozen=True, slots=True)
class SyncStep:
    """A SYNC line: what happened to the machine before the sync, and the faults of this sync."""

    after_ns: int
    conntrack: tuple[UdpFlow, ...] = ()
    conntrack_replace: bool = False
    interfaces: tuple[HostInterface, ...] | None = None
    force_full: bool = False
    flushed: bool = False
    refuse: bool = False
    skip: bool = False
    ipvs_connections: Mapping[str, int] | None = None  #: active ones, by ``VIP:port/PROTO/RSIP:port``; None: as before
    graceful_tick: bool = False  #: the termination loop of ipvs mode runs (IPVS-6.2)


@dataclass(frozen=True, slots=True)
class WatchStep:
    """An event line. ``at_ns`` is its time since 1970; None: the line has no time."""

    type: EventType
    object: ApiObject
    at_ns: int | None = None


@dataclass(frozen=True)
class Recording:
    """A recording that was read. ``node`` is the Node that kube-proxy reads when it starts, or None."""

    family: Family
    config: ProxyConfig
    host: Host
    node: Node | None
    steps: tuple[WatchStep | SyncStep, ...]
    file: str = field(default="", compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)  #: what was read and decides nothing, in words
    document: Json = field(default_factory=dict, compare=False)  #: the configuration as it was written
    host_fields: frozenset[str] = field(
        default=frozenset(), compare=False
    )  #: names of the ``host`` fields with a value

    @property
    def node_name(self) -> str:
        return self.config.hostname_override or (self.node.metadata.name if self.node else "")

    @property
    def has_syncs(self) -> bool:
        return any(isinstance(step, SyncStep) for step in self.steps)


def load_recording(path: Path | str, *, mode: Mode | None = None) -> Recording:
    """Reads a recording; ``-`` is standard input. InputError names file and line of everything that cannot be read."""
    return read_recording(read_bytes(path), shown_name(path), mode=mode)


def read_recording(content: bytes, file: str, *, mode: Mode | None = None) -> Recording:
    """The recording in the content of a file."""
    return parse_recording(decoded(content, file).split("\n"), file=file, mode=mode)


_EXPECTED = "a recording is JSON lines, one whole object a line, the first of them CONFIG"
_NO_CONFIG = (
    'a recording starts with a CONFIG line, which says whose kube-proxy it is, such as {"type":"CONFIG","ipFamily":"IPv4",'
    '"object":{"hostnameOverride":"NODE"}}: put one before the events'
)


def parse_recording(lines: Iterable[str], *, file: str = "", mode: Mode | None = None) -> Recording:
    """The recording in these lines. InputError lists all problems, each with its line."""
    problems: list[Problem] = []
    config: JsonReader | None = None
    config_line = first_line = 0
    steps: list[WatchStep | SyncStep] = []
    times, unused = _Times(), _Unused()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        first_line = first_line or number
        try:
            obj = JsonReader(json_line(line), "")
            if obj.text("type") != "CONFIG":
                steps += times.checked(_steps(obj, unused))
            elif number != first_line:
                raise InputError("CONFIG must be the first line, once")
            else:
                config, config_line = obj, number
                _refuse_others(obj, "type", "ipFamily", "object", "node", "host")
        except (InputError, ValueError) as error:
            problems += _located(error, file, number)
            if number == first_line and not isinstance(error, InputError):  # every other line would be as wrong
                raise InputError(replace(problems[0], message=f"{problems[0].message}; {_EXPECTED}")) from error
    if config is None:
        if not any(problem.line == first_line for problem in problems):  # else a problem of that line was told already
            problems.insert(0, Problem(_NO_CONFIG, file=file, line=first_line or 1))
        raise InputError(problems)
    try:
        recording = _recording(config, steps, file, mode, unused)
    except (InputError, ValueError) as error:
        raise InputError([*_located(error, file, config_line), *problems]) from error
    if problems:
        raise InputError(problems)
    return recording


def _located(error: Exception, file: str, line: int) -> list[Problem]:
    found = error.problems if isinstance(error, InputError) else [Problem(f"not readable: {error}")]
    return [Problem(problem.message, file=file, line=line, path=problem.path) for problem in found]


@dataclass(slots=True)
class _Unused:
    """Counts what was read and decides nothing, to say so once."""

    kinds: Counter[str] = field(default_factory=Counter)  #: objects that kube-proxy does not watch
    fields: Counter[str] = field(default_factory=Counter)  #: fields that Kubernetes 1.36 does not have, with their kind
    host_fields: set[str] = field(default_factory=set)  #: fields of ``host`` with a value, of all lines

    def notes(self, proxy: Iterable[str], steps: Iterable[WatchStep | SyncStep], family: Family) -> Iterator[str]:
        """Say what decides nothing. ``proxy`` are the remarks about the configuration."""
        yield from proxy
        if self.kinds:
            listed = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items()))
            yield f"kube-proxy watches no objects of these kinds: {listed}"
        if self.fields:
            listed = ", ".join(f"{name} ({count})" for name, count in sorted(self.fields.items()))
            yield f"ignored fields that Kubernetes 1.36 does not have: {listed}"
        all_steps = list(steps)
        syncs = [step for step in all_steps if isinstance(step, SyncStep)]
        if syncs and any(isinstance(step, WatchStep) and step.at_ns is not None for step in all_steps):
            yield "SYNC lines say when syncs run: the times of the events (at) have no effect"
        flows = [flow for step in syncs for flow in step.conntrack]
        if others := Counter(flow.protocol.upper() for flow in flows if flow.protocol != _CLEANED_UP):
            listed = ", ".join(f"{name} {count}" for name, count in sorted(others.items()))
            yield f"kube-proxy deletes stale flows of UDP only (CT-2): these stay, whatever changes: {listed}"
        strangers = sum((":" in flow.dst) is not (family is Family.IPV6) for flow in flows)
        if strangers:
            yield f"flows of the other family are not this proxier's, and stay: {strangers}"


def _steps(obj: JsonReader, unused: _Unused) -> Iterator[WatchStep | SyncStep]:
    """Yields the step of a line; nothing for a kind of object that kube-proxy does not watch."""
    kind = obj.text("type")
    if kind == "SYNC":
        _refuse_others(obj, "type", "afterSeconds", "host")
        yield _sync_step(obj, unused)
        return
    if kind not in list(EventType):
        raise InputError(Problem("expected CONFIG, ADDED, MODIFIED, DELETED or SYNC", path=".type"))
    _refuse_others(obj, "type", "object", "at")
    source = obj.typed("object", dict, "an object")
    if source is None or not JsonReader(source, ".object").text("kind"):
        raise InputError(Problem("expected a Kubernetes object with its kind", path=".object"))
    at = obj.optional_text("at")
    at_ns = None if at is None else parse_rfc3339_ns(at)
    try:
        typed = object_from_json(source)
    except InputError as error:
        raise InputError([Problem(p.message, path=f".object{p.path}") for p in error.problems]) from error
    if typed is None or isinstance(typed, Endpoints):  # not watched (O-1.5)
        unused.kinds[str(source["kind"])] += 1
        return
    _check_values(source, ".object", unused)
    yield WatchStep(EventType(kind), typed, at_ns)


def _check_values(obj: Json, path: str, unused: _Unused) -> None:
    """Check the values that are there as an API server would have. Absent fields and null are as kube-proxy finds them.

    InputError for a value that no API server returns, such as the protocol ``udp``.
    """
    from kpsim.manifests.places import format_path
    from kpsim.manifests.schema import check_shapes

    kind, problems = str(obj["kind"]), []
    for _, where, message, unknown in check_shapes(kind, [obj]):
        if unknown:
            unused.fields[f"{kind} .{'.'.join(step for step in where if isinstance(step, str))}"] += 1
        elif not _is_absent(obj, where):
            problems.append(Problem(message, path=f"{path}{format_path(where)}"))
    if problems:
        raise InputError(problems)


def _is_absent(obj: Any, path: Iterable[str | int]) -> bool:
    """Return whether there is nothing, or null, at a path. An empty list where entries are expected counts as nothing."""
    for step in path:
        try:
            obj = obj[step]
        except (KeyError, IndexError, TypeError):
            return True
    return obj is None or obj == []


def _refuse_others(obj: JsonReader, *known: str) -> None:
    """Raises InputError if the object has other fields than these: a mistyped field would count as absent."""
    if others := sorted(set(obj.obj) - set(known)):
        expected = f"there is no such field here; there is {', '.join(known)}"
        raise InputError([Problem(expected, path=f"{obj.path}.{name}") for name in others])


@dataclass(slots=True)
class _Times:
    """Checks the times of events: they must not go back, nor more than ten years ahead, or syncs would never end."""

    first_ns: int | None = None
    last_ns: int = 0

    def checked(self, steps: Iterable[WatchStep | SyncStep]) -> Iterator[WatchStep | SyncStep]:
        for step in steps:
            if isinstance(step, WatchStep) and step.at_ns is not None:
                if self.first_ns is None:
                    self.first_ns = self.last_ns = step.at_ns
                before_ns, self.last_ns = self.last_ns, step.at_ns
                if step.at_ns < before_ns:
                    raise InputError(Problem("earlier than the event before it: sort the events by time", path=".at"))
                if step.at_ns - self.first_ns > _LONGEST_NS:
                    raise InputError(Problem("more than ten years after the first event", path=".at"))
            yield step


CONFIG_HOST_FIELDS = frozenset(
    {
        "nodeIPs", "interfaces", "nfacct", "randomFully", "tcpBeLiberal", "serviceCIDRs", "largeClusterEndpoints",
        "detectLocal",
    }
)  # fmt: skip
SYNC_HOST_FIELDS = frozenset(
    {
        "conntrack", "conntrackReplace", "ipvsConns", "gracefulTick", "localAddrs", "forceFullSync", "iptablesFlushed",
        "failSync", "skip",
    }
)  # fmt: skip


def _host(obj: JsonReader, known: frozenset[str]) -> JsonReader:
    """The ``host`` of a line. InputError names the fields that are not modelled."""
    host = obj.child("host")
    unknown = sorted(set(host.obj) - known)
    if unknown:
        raise InputError([Problem("not modelled", path=f"{host.path}.{name}") for name in unknown])
    return host


def _sync_step(obj: JsonReader, unused: _Unused) -> SyncStep:
    host = _host(obj, SYNC_HOST_FIELDS)
    unused.host_fields |= {name for name, value in host.obj.items() if value not in (None, False)}
    if host.optional_flag("skip") and host.optional_flag("failSync"):
        raise InputError(Problem("no sync runs (skip), so none can fail", path=f"{host.path}.failSync"))
    return SyncStep(
        after_ns=_seconds_ns(obj, "afterSeconds"),
        conntrack=tuple(map(_flow, host.children("conntrack"))),
        conntrack_replace=bool(host.optional_flag("conntrackReplace")),
        interfaces=_interfaces(host, "localAddrs"),
        force_full=bool(host.optional_flag("forceFullSync")),
        flushed=bool(host.optional_flag("iptablesFlushed")),
        refuse=bool(host.optional_flag("failSync")),
        skip=bool(host.optional_flag("skip")),
        ipvs_connections=_connections(host, "ipvsConns"),
        graceful_tick=bool(host.optional_flag("gracefulTick")),
    )


def _connections(obj: JsonReader, name: str) -> Mapping[str, int] | None:
    counts = obj.typed(name, dict, "an object")
    if counts is None:
        return None
    reader = JsonReader(counts, f"{obj.path}.{name}")
    return {server: reader.integer(server) for server in counts}


#: the longest pause that a recording may have; after a longer one, dates would leave the calendar
_LONGEST_NS = 10 * 365 * 24 * HOUR_NS


def _seconds_ns(obj: JsonReader, name: str) -> int:
    value = obj.typed(name, (int, float), "a number") or 0
    if not math.isfinite(value) or not 0 <= value * SECOND_NS <= _LONGEST_NS:
        raise InputError(Problem("expected seconds from 0 to ten years", path=f"{obj.path}.{name}"))
    return round(value * SECOND_NS)


#: the protocol of flows that kube-proxy deletes (CT-2)
_CLEANED_UP = "udp"
#: the protocols of flows; only those of UDP are ever deleted
FLOW_PROTOCOLS = (_CLEANED_UP, "tcp", "sctp")
FLOW_FIELDS = ("proto", "src", "sport", "dst", "dport", "replySrc", "replySport", "replyDst", "replyDport")


def _flow(obj: JsonReader) -> UdpFlow:
    _refuse_others(obj, *FLOW_FIELDS)
    missing = [name for name in FLOW_FIELDS if obj.obj.get(name) is None]
    if missing:
        raise InputError(Problem(f"a flow needs {', '.join(missing)}", path=obj.path))
    protocol = obj.text("proto").lower()  # as the netlink library of kube-proxy names protocols
    if protocol not in FLOW_PROTOCOLS:
        names = " or ".join(FLOW_PROTOCOLS)
        raise InputError(Problem(f"expected {names}, got {obj.text('proto')!r}", path=f"{obj.path}.proto"))
    return UdpFlow(
        protocol,
        _address(obj, "src"),
        _port(obj, "sport"),
        _address(obj, "dst"),
        _port(obj, "dport"),
        _address(obj, "replySrc"),
        _port(obj, "replySport"),
        _address(obj, "replyDst"),
        _port(obj, "replyDport"),
    )


def _address(obj: JsonReader, name: str) -> str:
    canonical = canonical_ip(obj.text(name))
    if canonical is None:
        raise InputError(Problem("expected an IP address", path=f"{obj.path}.{name}"))
    return canonical


def _port(obj: JsonReader, name: str) -> int:
    port = obj.integer(name)
    if not 0 <= port <= 65535:
        raise InputError(Problem("expected a port from 0 to 65535", path=f"{obj.path}.{name}"))
    return port


def _interfaces(obj: JsonReader, name: str) -> tuple[HostInterface, ...] | None:
    """The interfaces in a field; None if the field is absent, which is not the same as an empty list."""
    if obj.obj.get(name) is None:
        return None
    found = []
    for item in obj.children(name):
        _refuse_others(item, "name", "addresses")
        found.append(HostInterface(item.text("name"), item.texts("addresses")))
    return tuple(found)


def _recording(
    config: JsonReader, steps: list[WatchStep | SyncStep], file: str, mode: Mode | None, unused: _Unused
) -> Recording:
    host = _host(config, CONFIG_HOST_FIELDS)
    unused.host_fields |= {name for name, value in host.obj.items() if value is not None}
    proxy, remarks = _proxy_config(config.child("object").obj, mode)
    node_json = config.optional_child("node")
    node = _own_node(node_json, proxy, unused) if node_json else _first_node(steps, proxy.hostname_override)
    detect_local = host.optional_text("detectLocal")
    if detect_local not in (None, "none"):
        raise InputError(Problem("expected none, or nothing", path=".host.detectLocal"))
    family = config.text("ipFamily") or Family.IPV4.label
    if family not in [known.label for known in Family]:
        raise InputError(Problem(f"expected IPv4 or IPv6, got {family!r}", path=".ipFamily"))
    threshold = host.optional_integer("largeClusterEndpoints")
    return Recording(
        family=Family.from_label(family),
        config=proxy,
        host=Host(
            node_ips=host.texts("nodeIPs"),
            interfaces=_interfaces(host, "interfaces"),
            nfacct=host.optional_flag("nfacct") is not False,
            random_fully=host.optional_flag("randomFully") is not False,
            tcp_be_liberal=bool(host.optional_flag("tcpBeLiberal")),
            service_cidrs=host.texts("serviceCIDRs"),
            large_cluster_endpoints=1000 if threshold is None else threshold,
            detect_local=detect_local is None,
        ),
        node=node,
        steps=tuple(steps),
        file=file,
        notes=tuple(unused.notes(remarks, steps, Family.from_label(family))),
        host_fields=frozenset(unused.host_fields),
        document=config.child("object").obj,
    )


def _own_node(reader: JsonReader, proxy: ProxyConfig, unused: _Unused) -> Node:
    """The Node that kube-proxy reads when it starts: the one that has its name (CFG-7.1)."""
    _check_values({"kind": "Node", **reader.obj}, reader.path, unused)
    node = node_from_json(reader.obj)
    name = proxy.hostname_override
    if name and node.metadata.name and node.metadata.name != name:
        message = (
            f"kube-proxy reads the Node with its own name, {name!r} (hostnameOverride), not {node.metadata.name!r}"
        )
        raise InputError(Problem(message, path=f"{reader.path}.metadata.name"))
    return node


def _proxy_config(obj: Json, mode: Mode | None) -> tuple[ProxyConfig, tuple[str, ...]]:
    """The configuration of a recording, and remarks. InputError for what kube-proxy would refuse when it starts."""
    from kpsim.manifests.places import format_path
    from kpsim.manifests.proxy_config import check_proxy_config

    check = check_proxy_config(obj)
    if check.complaints:
        raise InputError([Problem(text, path=f".object{format_path(path)}") for path, text in check.complaints])
    return config_from_json(obj, mode=mode), check.notes


def _first_node(steps: Iterable[WatchStep | SyncStep], name: str) -> Node | None:
    """The Node of this name in the first event that has it before the first SYNC; None if there is none."""
    for step in steps:
        if isinstance(step, SyncStep):
            return None
        if isinstance(step.object, Node) and step.object.metadata.name == name:
            return step.object
    return None
