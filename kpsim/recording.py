"""Recordings: what one kube-proxy was told, event by event.

A recording is a file of JSON lines: a CONFIG, then watch events with SYNC lines where a sync runs. Objects are taken as the API
server returned them: no defaulting, no allocation, no validation beyond kube-proxy's own (O-4 to O-6).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kpsim.addresses import Family
from kpsim.cluster import EventType
from kpsim.config import Host, Interface, Mode, ProxyConfig, config_from_json
from kpsim.errors import InputError, Problem
from kpsim.objects import ApiObject, Node, node_from_json, object_from_json
from kpsim.stale_flows import Flow
from kpsim.units import SECOND_NS, parse_rfc3339_ns

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SyncStep:
    """A SYNC line: what happened to the machine before it, and the faults of this sync."""

    after_ns: int
    conntrack: tuple[Flow, ...] = ()
    conntrack_replace: bool = False
    interfaces: tuple[Interface, ...] | None = None
    force_full: bool = False
    flushed: bool = False
    refuse: bool = False
    skip: bool = False


@dataclass(frozen=True, slots=True)
class WatchStep:
    """An event line; ``at_ns`` since 1970 where it carries a time."""

    type: EventType
    object: ApiObject
    at_ns: int | None = None


@dataclass(frozen=True)
class Recording:
    """A recording, read. ``node`` is the Node that kube-proxy reads at its start, or None."""

    family: Family
    config: ProxyConfig
    host: Host
    node: Node | None
    steps: tuple[WatchStep | SyncStep, ...]
    file: str = field(default="", compare=False)

    @property
    def node_name(self) -> str:
        return self.config.hostname_override or (self.node.metadata.name if self.node else "")

    @property
    def has_syncs(self) -> bool:
        return any(isinstance(step, SyncStep) for step in self.steps)


def load_recording(path: Path | str, *, mode: Mode | None = None) -> Recording:
    """Read a recording. InputError names file and line of everything that cannot be read."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(f"cannot read: {error}", file=str(path))) from error
    return parse_recording(text.splitlines(), file=str(path), mode=mode)


def parse_recording(lines: Iterable[str], *, file: str = "", mode: Mode | None = None) -> Recording:
    """The recording in these lines; InputError with all problems, by line."""
    problems: list[Problem] = []
    config: Json | None = None
    steps: list[WatchStep | SyncStep] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            obj = json.loads(line)
            if not isinstance(obj, dict):
                raise InputError("expected a JSON object")
            if obj.get("type") == "CONFIG":
                if config is not None or steps:
                    raise InputError("CONFIG must be the first line, once")
                config = obj
            else:
                step = _step(obj)
                if step is not None:
                    steps.append(step)
        except (InputError, ValueError, RecursionError) as error:
            problems += _located(error, file, number)
    try:
        if config is None:
            raise InputError(Problem("a recording starts with a CONFIG line", file=file, line=1))
        recording = _recording(config, steps, file, mode)
    except (InputError, ValueError, TypeError) as error:
        problems += _located(error, file, 1)
    if problems:
        raise InputError(problems)
    return recording


def _located(error: Exception, file: str, line: int) -> list[Problem]:
    found = error.problems if isinstance(error, InputError) else [Problem(f"not readable: {error}")]
    return [Problem(problem.message, file=file, line=line, path=problem.path) for problem in found]


def _step(obj: Json) -> WatchStep | SyncStep | None:
    kind = obj.get("type")
    if kind == "SYNC":
        return _sync_step(obj)
    if kind not in list(EventType):
        raise InputError(Problem("expected CONFIG, ADDED, MODIFIED, DELETED or SYNC", path=".type"))
    source = obj.get("object")
    if not isinstance(source, dict):
        raise InputError(Problem("expected an object", path=".object"))
    typed = object_from_json(source)
    if typed is None:
        return None  # a kind that kube-proxy does not watch
    at = obj.get("at")
    return WatchStep(EventType(kind), typed, parse_rfc3339_ns(at) if at else None)


def _sync_step(obj: Json) -> SyncStep:
    host: Json = obj.get("host") or {}
    addresses = host.get("localAddrs")
    return SyncStep(
        after_ns=round(float(obj.get("afterSeconds") or 0) * SECOND_NS),
        conntrack=tuple(map(_flow, host.get("conntrack") or ())),
        conntrack_replace=bool(host.get("conntrackReplace")),
        interfaces=None if addresses is None else _interfaces(addresses),
        force_full=bool(host.get("forceFullSync")),
        flushed=bool(host.get("iptablesFlushed")),
        refuse=bool(host.get("failSync")),
        skip=bool(host.get("skip")),
    )


FLOW_FIELDS = ("proto", "src", "sport", "dst", "dport", "replySrc", "replySport", "replyDst", "replyDport")


def _flow(obj: Json) -> Flow:
    missing = [name for name in FLOW_FIELDS if name not in obj]
    if missing:
        raise InputError(Problem(f"a flow needs {', '.join(missing)}", path=".host.conntrack"))
    return Flow(*(obj[name] for name in FLOW_FIELDS))


def _interfaces(items: Iterable[Json]) -> tuple[Interface, ...]:
    return tuple(Interface(item.get("name") or "", tuple(item.get("addresses") or ())) for item in items)


def _recording(config: Json, steps: list[WatchStep | SyncStep], file: str, mode: Mode | None) -> Recording:
    host: Json = config.get("host") or {}
    interfaces = host.get("interfaces")
    proxy = config_from_json(config.get("object") or {}, mode=mode)
    node_json = config.get("node")
    node = node_from_json(node_json) if node_json else _first_node(steps, proxy.hostname_override)
    return Recording(
        family=Family.from_label(config.get("ipFamily") or "IPv4"),
        config=proxy,
        host=Host(
            node_ips=tuple(host.get("nodeIPs") or ()),
            interfaces=None if interfaces is None else _interfaces(interfaces),
            nfacct=host.get("nfacct") is not False,
            random_fully=host.get("randomFully") is not False,
            tcp_be_liberal=bool(host.get("tcpBeLiberal")),
            service_cidrs=tuple(host.get("serviceCIDRs") or ()),
            large_cluster_endpoints=host.get("largeClusterEndpoints") or 1000,
            detect_local=host.get("detectLocal") != "none",
        ),
        node=node,
        steps=tuple(steps),
        file=file,
    )


def _first_node(steps: Iterable[WatchStep | SyncStep], name: str) -> Node | None:
    """The first event before the first SYNC that carries the node of that name."""
    for step in steps:
        if isinstance(step, SyncStep):
            return None
        if isinstance(step.object, Node) and step.object.metadata.name == name:
            return step.object
    return None
