"""Settings of the process itself: its name, sockets, API client, gates, logs (CFG-2.1, CFG-3)."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from kpsim.addresses import parse_ip
from kpsim.startup.modes import facts_of, is_default
from kpsim.startup.remarks import Remark, costs, note, risk
from kpsim.startup.setting import Setting, constant
from kpsim.startup.situation import Situation
from kpsim.units import format_duration, parse_duration_ns


def _mode_does(s: Situation) -> str:
    chosen = "the default on Linux, which kube-proxy logs; " if not s.written("mode") else ""
    return f"{chosen}{'default until 1.40; ' if is_default(s.config.mode) and not chosen else ''}without events: {facts_of(s).when_idle(s.config)}"


def _mode_remarks(s: Situation) -> Iterator[Remark]:
    if not s.written("mode"):
        yield note(
            "1.37 warns if no mode is set; from 1.40 on nftables is the default, so name the mode that you mean",
            "VER-1",
        )
    yield from facts_of(s).remarks(s)


def _bind_does(s: Situation) -> str:
    bound = parse_ip(s.config.bind_address) if s.config.bind_address else None
    if bound is None or bound[1] == 0:
        return "no socket uses it; the node's IPs come from its Node object"
    return f"is taken for the node's {bound[0].label} address, whatever the Node object says; {bound[0].label} is the primary family. No socket uses it"


def _bind_remarks(s: Situation) -> Iterator[Remark]:
    bound = parse_ip(s.config.bind_address) if s.config.bind_address else None
    if bound is not None and bound[1] and s.node_ips and s.config.bind_address not in s.node_ips:
        yield risk(
            "it is none of the node's own addresses: `primary` and source ranges then mean an address that is not there",
            "CFG-7.1",
        )


def _port_of(s: Situation, path: str, flag: str) -> str:
    """An address with its port. Without a file the deprecated flag for the port counts, and zero turns the server off (CFG-2.1)."""
    port = s.start.flags.get(flag) if s.start.by_flags else None
    found = str(s.value(path))
    if port is None:
        return found
    if port == 0:
        return ""
    raw = str(s.written(path) or "")
    if raw and parse_ip(raw) is None:
        return found  # it has a port of its own
    return f"{found.rpartition(':')[0]}:{port}"


def healthz_address(s: Situation) -> str:
    """Where /healthz and /livez are served; empty: nowhere."""
    return _port_of(s, "healthzBindAddress", "healthz-port")


def metrics_address(s: Situation) -> str:
    """Where metrics are served."""
    return _port_of(s, "metricsBindAddress", "metrics-port")


def _healthz_does(s: Situation) -> str:
    if not healthz_address(s):
        return "no server: nobody can ask /healthz and /livez"
    late = format_duration(2 * s.config.sync_period_ns)
    return (
        f"/healthz and /livez answer there: 503 while a change has waited {late} (2 × syncPeriod) or longer; /healthz also while the Node is being "
        "deleted or has the taint ToBeDeletedByClusterAutoscaler"
    )


def _healthz_remarks(s: Situation) -> Iterator[Remark]:
    address = healthz_address(s)
    if not address:
        yield risk("load balancers that probe port 10256 take the node for dead", "CP-14.3")
    elif _host(address) in ("127.0.0.1", "[::1]"):
        yield risk(
            "load balancers and other machines cannot reach it: externalTrafficPolicy Cluster probes fail", "CP-14.3"
        )
    yield from _other_address(s, address)


def _host(address: str) -> str:
    return address.rpartition(":")[0]


def _other_address(s: Situation, address: str) -> Iterator[Remark]:
    """Warn about an address that is not known to be the node's: one file serves all nodes."""
    parsed = parse_ip(_host(address).strip("[]"))
    if parsed is None or not parsed[1] or _host(address) in ("127.0.0.1", "[::1]") or not s.node_ips:
        return
    if parsed not in [parse_ip(text) for text in s.node_ips]:
        then = (
            "kube-proxy ends"
            if s.value("bindAddressHardFail")
            else "it is tried again every 5 s, and nobody listens until then"
        )
        yield risk(
            f"the Node object does not have this address: if the machine lacks it, binding fails, and {then}", "CP-14.2"
        )


def _metrics_remarks(s: Situation) -> Iterator[Remark]:
    address = metrics_address(s)
    if address and parse_ip(_host(address).strip("[]")) not in (None, parse_ip("127.0.0.1"), parse_ip("::1")):
        yield risk(
            "metrics are served in the clear and without authentication to whoever reaches the address", "CFG-2.1"
        )
    yield from _other_address(s, address)


def _hard_fail_does(s: Situation) -> str:
    if s.value("bindAddressHardFail"):
        return "if the health or metrics address cannot be bound, kube-proxy ends"
    return "if the health or metrics address cannot be bound, that is tried again every 5 s"


def _name_does(s: Situation) -> str:
    name = s.config.hostname_override
    if not s.written("hostnameOverride"):
        return "the node's name is the machine's host name, in lower case; it must be the name of its Node"
    known = (
        ""
        if not s.start.nodes or s.node is not None
        else ", of which there is no Node: it finds no addresses and no zone"
    )
    return f"kube-proxy takes itself for {name}{known}. Endpoints of that node are the local ones"


def _name_remarks(s: Situation) -> Iterator[Remark]:
    origin = s.origin("hostnameOverride")
    if (
        s.written("hostnameOverride")
        and origin is not None
        and not origin.words.startswith("--")
        and len(s.start.nodes) > 1
    ):
        yield risk(
            "in a file that all nodes read, every kube-proxy takes itself for the same node: local endpoints and policies are wrong on the others",
            "CFG-2.1",
        )


def _client_does(s: Situation) -> str:
    return (
        f"{s.value('clientConnection.qps'):g} requests a second, {s.value('clientConnection.burst')} at once, to the API server. Watches deliver "
        "changes whatever these are; few requests are made besides"
    )


def _resync_does(s: Situation) -> str:
    period = format_duration(s.config.config_sync_period_ns)
    return f"every {period} each cached object is handed over once more; what did not change asks for no sync and costs no API traffic"


def _resync_remarks(s: Situation) -> Iterator[Remark]:
    if s.config.config_sync_period_ns < parse_duration_ns("1m"):
        period = format_duration(s.config.config_sync_period_ns)
        yield costs(
            f"every Service and slice is compared every {period}, and counts in the …_changes_total metrics",
            "CP-6.8, CP-11.1",
        )


def _oom_remarks(s: Situation) -> Iterator[Remark]:
    if s.value("oomScoreAdj") > -900:
        yield risk(
            "when memory is short the kernel may kill kube-proxy before workloads; rules stay, but changes are not written",
            "CFG-2.1",
        )


class Gate(NamedTuple):
    """A feature gate of 1.36: what it decides here. ``locked``: it cannot be set to another value."""

    default: bool
    words: str
    locked: bool = False


_ELSEWHERE = "decides nothing in kube-proxy"
#: gates of 1.36 with something to do with kube-proxy (CFG-3)
GATES: Mapping[str, Gate] = {
    "AllowServiceExternalIPs": Gate(True, "whether spec.externalIPs get rules"),
    "PreferSameTrafficDistribution": Gate(True, "whether hints of nodes count", locked=True),
    "MultiCIDRServiceAllocator": Gate(True, "whether ServiceCIDRs are watched", locked=True),
    "NFTablesProxyMode": Gate(True, "whether nftables mode exists", locked=True),
    "ComponentStatusz": Gate(True, "whether /statusz is served"),
    "ComponentFlagz": Gate(True, "whether /flagz is served"),
    "NativeHistograms": Gate(False, "another format of histograms in the metrics"),
    "StrictIPCIDRValidation": Gate(True, f"{_ELSEWHERE}: the API server validates"),
    "RelaxedServiceNameValidation": Gate(True, f"{_ELSEWHERE}: the API server validates"),
    "WinDSR": Gate(True, "for Windows", locked=True),
    "WinOverlay": Gate(True, "for Windows", locked=True),
}
#: gates that 1.36 does not have: those that went, and those that come later (CFG-3, 11)
GONE: Mapping[str, str] = {
    "TopologyAwareHints": "its behaviour is unconditional",
    "ServiceTrafficDistribution": "its behaviour is unconditional",
    "KubeProxyDrainingTerminatingNodes": "its behaviour is unconditional",
    "MinimizeIPTablesRestore": "its behaviour is unconditional, the gate went with 1.30",
    "ProxyTerminatingEndpoints": "its behaviour is unconditional",
    "KubeProxyIPVS": "it comes with 1.37",
    "NFTablesNetlink": "it comes with 1.37",
    "KubeProxyNFTablesLocalhostNodePorts": "it comes with 1.37",
}


def _gates(s: Situation) -> Mapping[str, Any]:
    return s.value("featureGates") or {}


def _gates_does(s: Situation) -> str:
    if not _gates(s):
        return "every gate has its default"
    return "; ".join(_gate_words(name, on) for name, on in sorted(_gates(s).items()))


def _gate_words(name: str, on: bool) -> str:
    gate = GATES.get(name)
    if gate is not None:
        return f"{name} {'on' if on else 'off'}{' (its default)' if on is gate.default else ''}: {gate.words}"
    if name in GONE:
        return f"{name}: 1.36 does not have this gate ({GONE[name]})"
    near = get_close_matches(name, GATES, n=1, cutoff=0.85)
    return f"{name}: not known here; a gate that 1.36 lacks ends kube-proxy" + (
        f"; is {near[0]} meant?" if near else ""
    )


def _gates_ask(s: Situation) -> bool:
    return any(name not in GATES or on is not GATES[name].default for name, on in _gates(s).items())


def _gates_remarks(s: Situation) -> Iterator[Remark]:
    if _gates(s).get("AllowServiceExternalIPs") is False:
        yield risk(
            "packets to an external IP pass this node as if there were no Service; such a Service still counts as externally accessible",
            "CFG-3",
        )
    for name in sorted(set(_gates(s)) - set(GATES) - set(GONE)):
        yield risk(f"{name} is not known here: check that 1.36 has it, else kube-proxy ends at its start", "CFG-3")


def _profiling_remarks(s: Situation) -> Iterator[Remark]:
    if s.value("enableProfiling"):
        yield costs("whoever reaches the metrics address can take profiles, which cost processor time", "CFG-2.1")


_LOGS = "how much is logged, and how; it decides no packet"
#: fields that a flag sets beside a file too, with that flag (CFG-1.1)
_LOG_FLAGS = {
    "format": "logging-format",
    "flushFrequency": "log-flush-frequency",
    "verbosity": "v",
    "vmodule": "vmodule",
}


def _log_row(name: str) -> Setting:
    path = f"logging.{name}"

    def in_force(s: Situation) -> Any:
        return s.start.log_flags.get(_LOG_FLAGS.get(name, ""), s.value(path))

    def does(s: Situation) -> str:
        flag = _LOG_FLAGS.get(name, "")
        return f"{_LOGS}; --{flag} says so, also beside a file" if flag in s.start.log_flags else _LOGS

    return Setting(path, does, "CFG-1.1", in_force=in_force)


_WINDOWS = constant("kube-proxy on Linux does not read it")


def _content_does(s: Situation) -> str:
    return f"answers of the API server are encoded as {s.value('clientConnection.contentType')}"


def _content_remarks(s: Situation) -> Iterator[Remark]:
    if "json" in str(s.value("clientConnection.contentType")):
        yield costs("JSON is larger than protobuf and takes longer to decode, at each start and relist", "CFG-2.1")


ROWS = (
    Setting("mode", _mode_does, "CFG-9, CP-9.1", _mode_remarks, in_force=lambda s: str(s.config.mode), asks=lambda s: not is_default(s.config.mode)),
    Setting("bindAddress", _bind_does, "CFG-7.1", _bind_remarks),
    Setting("healthzBindAddress", _healthz_does, "CP-14", _healthz_remarks, in_force=healthz_address),
    Setting(
        "metricsBindAddress", constant("metrics are served there, /statusz and /flagz too"), "CFG-2.1", _metrics_remarks, in_force=metrics_address
    ),
    Setting("bindAddressHardFail", _hard_fail_does, "CFG-2.1"),
    Setting("hostnameOverride", _name_does, "CFG-2.1", _name_remarks),
    Setting("clientConnection.kubeconfig", constant("where the API server is and who kube-proxy is there; empty: the Pod's service account"), "CFG-2.1"),
    Setting("clientConnection.qps", _client_does, "CFG-2.1"),
    Setting("clientConnection.burst", _client_does, "CFG-2.1"),
    Setting("clientConnection.contentType", _content_does, "CFG-2.1", _content_remarks),
    Setting("clientConnection.acceptContentTypes", constant("what the client accepts as answers"), "CFG-2.1"),
    Setting("configSyncPeriod", _resync_does, "CP-6.8", _resync_remarks),
    Setting("oomScoreAdj", constant("how soon the kernel kills kube-proxy when memory is short: -1000 never, 1000 first"), "CFG-2.1", _oom_remarks),
    Setting("enableProfiling", constant("serves Go profiles at the metrics address, if true"), "CFG-2.1", _profiling_remarks),
    Setting("showHiddenMetricsForVersion", constant("shows metrics that the named earlier release hid; it decides no packet"), "CFG-2.1"),
    Setting("featureGates", _gates_does, "CFG-3", _gates_remarks, asks=_gates_ask),
    *map(_log_row, ("format", "flushFrequency", "verbosity", "vmodule", "options")),
    Setting("portRange", constant("nothing"), "CFG-2.1", unread=constant("kube-proxy reads it nowhere")),
    Setting("winkernel", constant("nothing on Linux"), "CFG-2.1", unread=_WINDOWS),
    Setting("windowsRunAsService", constant("nothing on Linux"), "CFG-2.1", unread=_WINDOWS),
)  # fmt: skip
