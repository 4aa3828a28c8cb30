"""Checks KubeProxyConfiguration v1alpha1: what kube-proxy refuses at its start, and what it only logs (CFG-1, CFG-2).

Counterpart: pkg/proxy/apis/config/{v1alpha1,validation}. kube-proxy decodes leniently: an unknown field is a remark,
not an error. A wrong type or value is an error.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kpsim.addresses import parse_cidr, parse_ip, parse_network
from kpsim.config import DEFAULT_MODE, LocalMode, Mode
from kpsim.inputs import Json
from kpsim.manifests.places import Path, format_path, value_at, without
from kpsim.manifests.validation import Complaint
from kpsim.manifests.wording import or_list, shown, suggestion
from kpsim.units import parse_duration_ns

API_GROUP = "kubeproxy.config.k8s.io"
API_VERSION = f"{API_GROUP}/v1alpha1"
KIND = "KubeProxyConfiguration"

HEALTHZ_PORT = 10256
METRICS_PORT = 10249


@dataclass(frozen=True, slots=True)
class ConfigCheck:
    """The errors of a configuration, and remarks about fields that kube-proxy ignores."""

    complaints: tuple[Complaint, ...]
    notes: tuple[str, ...]


# -------------------------------------------------------------------------------------------------------------- types

#: a check of one value; returns what was expected, or None if the value is right
Check = Callable[[Any], str | None]


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else "a string"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _integer(value: Any) -> str | None:
    return None if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31 else "an integer"


def _number(value: Any) -> str | None:
    return None if isinstance(value, (int, float)) and not isinstance(value, bool) else "a number"


def _duration(value: Any) -> str | None:
    expected = "a duration such as 30s or 1m30s"
    if not isinstance(value, str):
        return expected
    try:
        return None if abs(parse_duration_ns(value)) < 2**63 else expected
    except ValueError:
        return expected


def _texts(value: Any) -> str | None:
    return None if isinstance(value, list) and all(isinstance(item, str) for item in value) else "a list of strings"


def _flags(value: Any) -> str | None:
    right = isinstance(value, Mapping) and all(isinstance(item, bool) for item in value.values())
    return None if right else "an object of true or false"


def _anything(_value: Any) -> str | None:
    return None


Fields = Mapping[str, "Check | Fields"]

_PERIODS: Fields = {"syncPeriod": _duration, "minSyncPeriod": _duration}

FIELDS: Fields = {
    "apiVersion": _text,
    "kind": _text,
    "featureGates": _flags,
    "clientConnection": {
        "kubeconfig": _text,
        "acceptContentTypes": _text,
        "contentType": _text,
        "qps": _number,
        "burst": _integer,
    },
    "logging": {
        "format": _text,
        "flushFrequency": _anything,
        "verbosity": _integer,
        "vmodule": _anything,
        "options": _anything,
    },
    "hostnameOverride": _text,
    "bindAddress": _text,
    "healthzBindAddress": _text,
    "metricsBindAddress": _text,
    "bindAddressHardFail": _flag,
    "enableProfiling": _flag,
    "showHiddenMetricsForVersion": _text,
    "mode": _text,
    "iptables": {"masqueradeBit": _integer, "masqueradeAll": _flag, "localhostNodePorts": _flag, **_PERIODS},
    "ipvs": {
        **_PERIODS,
        "scheduler": _text,
        "excludeCIDRs": _texts,
        "strictARP": _flag,
        "tcpTimeout": _duration,
        "tcpFinTimeout": _duration,
        "udpTimeout": _duration,
    },
    "nftables": {"masqueradeBit": _integer, "masqueradeAll": _flag, **_PERIODS},
    "winkernel": _anything,
    "detectLocalMode": _text,
    "detectLocal": {"bridgeInterface": _text, "interfaceNamePrefix": _text},
    "clusterCIDR": _text,
    "nodePortAddresses": _texts,
    "oomScoreAdj": _integer,
    "conntrack": {
        "maxPerCore": _integer,
        "min": _integer,
        "tcpEstablishedTimeout": _duration,
        "tcpCloseWaitTimeout": _duration,
        "tcpBeLiberal": _flag,
        "udpTimeout": _duration,
        "udpStreamTimeout": _duration,
    },
    "configSyncPeriod": _duration,
    "portRange": _text,
    "windowsRunAsService": _flag,
}


def _check_types(obj: Json, fields: Fields, path: Path, notes: list[str]) -> Iterator[Complaint]:
    for name, value in obj.items():
        field = fields.get(name)
        here = (*path, name)
        if field is None:
            near = suggestion(name, sorted(fields))
            notes.append(f"kube-proxy ignores the unknown field {format_path(here)} of its configuration{near}")
        elif value is None:
            continue
        elif not isinstance(field, Mapping):
            expected = field(value)
            if expected is not None:
                yield here, f"expected {expected}, got {shown(value)}"
        elif isinstance(value, Mapping):
            yield from _check_types(value, field, here, notes)
        else:
            yield here, f"expected an object, got {shown(value)}"


# ------------------------------------------------------------------------------------------------------------ defaults


def with_defaults(obj: Json) -> Json:
    """Return the configuration as kube-proxy sees it after defaulting (CFG-2). Zero periods are unset (CFG-2.2.2)."""
    bind = obj.get("bindAddress") or "0.0.0.0"
    wide, loopback = ("[::]", "[::1]") if ":" in bind else ("0.0.0.0", "127.0.0.1")
    client, conntrack = obj.get("clientConnection") or {}, obj.get("conntrack") or {}
    return {
        **obj,
        "bindAddress": bind,
        "healthzBindAddress": _with_port(obj.get("healthzBindAddress") or f"{wide}:{HEALTHZ_PORT}", HEALTHZ_PORT),
        "metricsBindAddress": _with_port(obj.get("metricsBindAddress") or f"{loopback}:{METRICS_PORT}", METRICS_PORT),
        "configSyncPeriod": _period(obj.get("configSyncPeriod"), "15m"),
        "oomScoreAdj": _or(obj.get("oomScoreAdj"), -999),
        "clientConnection": {
            **client,
            "contentType": client.get("contentType") or "application/vnd.kubernetes.protobuf",
            "qps": client.get("qps") or 5,
            "burst": client.get("burst") or 10,
        },
        "iptables": {
            **_section(obj, "iptables", "1s"),
            "masqueradeBit": _or((obj.get("iptables") or {}).get("masqueradeBit"), 14),
            "localhostNodePorts": _or((obj.get("iptables") or {}).get("localhostNodePorts"), True),
        },
        "ipvs": _section(obj, "ipvs", "0s"),
        "nftables": {
            **_section(obj, "nftables", "1s"),
            "masqueradeBit": _or((obj.get("nftables") or {}).get("masqueradeBit"), 14),
        },
        "conntrack": {
            **conntrack,
            "maxPerCore": _or(conntrack.get("maxPerCore"), 32768),
            "min": _or(conntrack.get("min"), 131072),
            "tcpEstablishedTimeout": _or(conntrack.get("tcpEstablishedTimeout"), "24h"),
            "tcpCloseWaitTimeout": _or(conntrack.get("tcpCloseWaitTimeout"), "1h"),
        },
    }


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _period(value: Any, default: str) -> str:
    return default if value is None or parse_duration_ns(value) == 0 else str(value)


def _section(obj: Json, name: str, min_sync_period: str) -> dict[str, Any]:
    section = obj.get(name) or {}
    return {
        **section,
        "syncPeriod": _period(section.get("syncPeriod"), "30s"),
        "minSyncPeriod": _period(section.get("minSyncPeriod"), min_sync_period),
    }


def _with_port(address: str, port: int) -> str:
    """Add the default port to an address without port."""
    if parse_ip(address) is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


# ---------------------------------------------------------------------------------------------------------- validation


def value_complaints(obj: Json) -> Iterator[Complaint]:
    """Yield what kube-proxy refuses in a defaulted configuration whose types are right (CFG-2)."""
    mode = obj.get("mode") or DEFAULT_MODE
    if mode not in list(Mode):
        modes = [str(known) for known in Mode]
        yield ("mode",), f"expected {or_list(modes)}, got {mode!r}{suggestion(mode, modes)}"
        mode = DEFAULT_MODE
    if parse_ip(obj["bindAddress"]) is None:
        yield ("bindAddress",), f"expected an IP address, got {obj['bindAddress']!r}"
    for name in ("healthzBindAddress", "metricsBindAddress"):
        complaint = host_port_complaint(obj.get(name) or "")
        if complaint is not None and (obj.get(name) or name != "healthzBindAddress"):
            yield (name,), complaint
    yield from _period_complaints(obj, mode)
    yield from _range_complaints(obj, mode)
    yield from _detect_local_complaints(obj)
    yield from _cidr_list_complaints(obj.get("nodePortAddresses") or [], ("nodePortAddresses",), primary=True)
    for section, name in _MODE_CIDR_LISTS.get(mode, ()):
        yield from _cidr_list_complaints((obj.get(section) or {}).get(name) or [], (section, name))
    log_format = (obj.get("logging") or {}).get("format") or "text"
    if log_format not in ("text", "json"):
        yield ("logging", "format"), f"expected text or json, got {log_format!r}"
    for gate in _LOCKED_GATES:
        if (obj.get("featureGates") or {}).get(gate) is False:
            yield ("featureGates", gate), "this gate is locked on in 1.36"


_LOCKED_GATES = ("MultiCIDRServiceAllocator", "NFTablesProxyMode", "PreferSameTrafficDistribution")  # CFG-3


def host_port_complaint(text: str) -> str | None:
    """Return what is wrong with ``IP:port``, or None."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed):
        return f"expected IP:port, got {text!r}"
    host = host[1:-1] if bracketed else host
    if parse_ip(host) is None:
        return f"expected IP:port, and {host!r} is no IP address"
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        return f"expected IP:port with a port from 1 to 65535, got {port!r}"
    return None


def _period_complaints(obj: Json, mode: str) -> Iterator[Complaint]:
    # only the section that has the mode's name counts (CFG-2.2.1)
    section = obj[mode]
    sync_ns, least_ns = parse_duration_ns(section["syncPeriod"]), parse_duration_ns(section["minSyncPeriod"])
    if sync_ns <= 0:
        yield (mode, "syncPeriod"), f"must be greater than 0, got {section['syncPeriod']!r}"
    if least_ns < 0:
        yield (mode, "minSyncPeriod"), f"must be at least 0, got {section['minSyncPeriod']!r}"
    if sync_ns < least_ns:
        texts = section["syncPeriod"], section["minSyncPeriod"]
        yield (mode, "syncPeriod"), f"must be at least minSyncPeriod, {texts[1]}, got {texts[0]!r}"
    if parse_duration_ns(obj["configSyncPeriod"]) <= 0:
        yield ("configSyncPeriod",), f"must be greater than 0, got {obj['configSyncPeriod']!r}"


#: fields with a range: path, least, greatest value; the iptables bit is checked in every mode (CFG-2.3.1)
_RANGES: tuple[tuple[Path, int, int | None], ...] = (
    (("iptables", "masqueradeBit"), 0, 31),
    (("oomScoreAdj",), -1000, 1000),
    (("clientConnection", "burst"), 0, None),
    (("conntrack", "maxPerCore"), 0, None),
    (("conntrack", "min"), 0, None),
    (("conntrack", "tcpEstablishedTimeout"), 0, None),
    (("conntrack", "tcpCloseWaitTimeout"), 0, None),
    (("conntrack", "udpTimeout"), 0, None),
    (("conntrack", "udpStreamTimeout"), 0, None),
)
#: fields with a range that are checked in one mode only, by its name
_MODE_RANGES: Mapping[str, tuple[tuple[Path, int, int | None], ...]] = {
    "nftables": ((("nftables", "masqueradeBit"), 0, 31),),
    "ipvs": tuple((("ipvs", name), 0, None) for name in ("tcpTimeout", "tcpFinTimeout", "udpTimeout")),
}
#: fields with a list of CIDRs that are checked in one mode only, by its name
_MODE_CIDR_LISTS: Mapping[str, tuple[tuple[str, str], ...]] = {"ipvs": (("ipvs", "excludeCIDRs"),)}


def _range_complaints(obj: Json, mode: str) -> Iterator[Complaint]:
    for path, least, greatest in (*_RANGES, *_MODE_RANGES.get(mode, ())):
        value: Any = obj
        for step in path:
            value = (value or {}).get(step)
        if value is None:
            continue
        number = parse_duration_ns(value) if isinstance(value, str) else value
        if greatest is None and number < least:
            yield path, f"must be at least {least}, got {value!r}"
        elif greatest is not None and not least <= number <= greatest:
            yield path, f"must be within {least} and {greatest}, got {value!r}"


def _detect_local_complaints(obj: Json) -> Iterator[Complaint]:
    mode, detect = obj.get("detectLocalMode") or LocalMode.CLUSTER_CIDR, obj.get("detectLocal") or {}
    match mode:
        case LocalMode.CLUSTER_CIDR:
            text = obj.get("clusterCIDR") or ""
            if text:
                yield from _dual_stack_complaints(text)
        case LocalMode.NODE_CIDR:
            pass
        case LocalMode.BRIDGE_INTERFACE if not detect.get("bridgeInterface"):
            yield ("detectLocal", "bridgeInterface"), "must not be empty with detectLocalMode BridgeInterface"
        case LocalMode.INTERFACE_NAME_PREFIX if not detect.get("interfaceNamePrefix"):
            yield ("detectLocal", "interfaceNamePrefix"), "must not be empty with detectLocalMode InterfaceNamePrefix"
        case LocalMode.BRIDGE_INTERFACE | LocalMode.INTERFACE_NAME_PREFIX:
            pass
        case _:
            modes = [str(known) for known in LocalMode]
            yield ("detectLocalMode",), f"expected {or_list(modes)}, got {mode!r}{suggestion(str(mode), modes)}"


def _dual_stack_complaints(text: str) -> Iterator[Complaint]:
    parts = text.split(",")
    networks = [parse_network(part.strip()) for part in parts]
    for part, network in zip(parts, networks, strict=True):
        if network is None:
            yield ("clusterCIDR",), f"expected CIDRs such as 10.100.0.0/16 or fde4:8dba:82e1::/48, got {part!r}"
    families = [network.family for network in networks if network is not None]
    if len(parts) > 2 or len(families) != len(set(families)):
        yield ("clusterCIDR",), f"expected one CIDR, or one of each family, got {text!r}"


def _cidr_list_complaints(addresses: list[str], path: Path, *, primary: bool = False) -> Iterator[Complaint]:
    for index, text in enumerate(addresses):
        if primary and text == "primary":
            if len(addresses) > 1:
                yield (*path, index), "'primary' stands alone or not at all"
                return
        elif parse_cidr(text) is None:
            expected = "a CIDR or 'primary'" if primary and len(addresses) == 1 else "a CIDR"
            yield (*path, index), f"expected {expected}, got {text!r}"


def check_proxy_config(obj: Any, *, mode: Mode | None = None) -> ConfigCheck:
    """Return everything wrong with a configuration document, and remarks.

    A document without complaints can be given to config_from_json. ``mode`` overrides the document's mode, so another
    section is checked.
    """
    if not isinstance(obj, Mapping):
        return ConfigCheck((((), f"expected an object, got {shown(obj)}"),), ())
    notes: list[str] = []
    complaints = list(_check_types(obj, FIELDS, (), notes))
    for name, expected in (("apiVersion", API_VERSION), ("kind", KIND)):
        if obj.get(name) is not None and obj[name] != expected:
            complaints.append(((name,), f"expected {expected}, got {shown(obj[name])}"))
    rest: Any = obj  # without the values of wrong type, to find what else is wrong
    for path, _ in complaints:
        rest = without(rest, path)
    complaints += value_complaints(with_defaults(rest if mode is None else {**rest, "mode": str(mode)}))
    if not complaints:
        notes += _unread_notes(obj, str(mode or obj.get("mode") or DEFAULT_MODE))
    return ConfigCheck(tuple(complaints), tuple(notes))


#: fields of a section that another mode reads too, by that mode (CFG-2.3)
_READ_ELSEWHERE: Mapping[str, tuple[Path, ...]] = {
    "ipvs": (("iptables", "masqueradeBit"), ("iptables", "masqueradeAll")),
}
_DETECTION: Mapping[Path, LocalMode] = {
    ("clusterCIDR",): LocalMode.CLUSTER_CIDR,
    ("detectLocal", "bridgeInterface"): LocalMode.BRIDGE_INTERFACE,
    ("detectLocal", "interfaceNamePrefix"): LocalMode.INTERFACE_NAME_PREFIX,
}
#: fields that kube-proxy reads in a mode and that decide nothing in the model, with what they decide
_NOT_MODELLED: Mapping[str, tuple[tuple[Path, str], ...]] = {
    "ipvs": ((("ipvs", "strictARP"), "which nodes answer ARP for a Service's address is not modelled (IPVS-3.5)"),),
}
_NEVER_READ = ("winkernel", "windowsRunAsService", "portRange")
#: gates that decide about rules (CFG-3); the others are not modelled
_GATES = ("AllowServiceExternalIPs", *_LOCKED_GATES)


def _unread_notes(obj: Json, mode: str) -> Iterator[str]:
    """Yield what a valid configuration says and kube-proxy does not read, as the mode or another field excludes it."""
    unread: list[Path] = [
        (section, name)
        for section in _MODE_SECTIONS
        if section != mode
        for name, value in (obj.get(section) or {}).items()
        if _says_something(value) and (section, name) not in _READ_ELSEWHERE.get(mode, ())
    ]
    if unread:
        yield f"in {mode} mode kube-proxy does not read {_listed(unread)}"
    detection = obj.get("detectLocalMode") or LocalMode.CLUSTER_CIDR
    unread = [
        path for path, wanted in _DETECTION.items() if wanted != detection and _says_something(value_at(obj, path))
    ]
    if unread:
        yield f"with detectLocalMode {detection} kube-proxy does not read {_listed(unread)}"
    unread = [(name,) for name in _NEVER_READ if _says_something(obj.get(name))]
    if unread:
        yield f"kube-proxy on Linux does not read {_listed(unread)}"
    for path, what in _NOT_MODELLED.get(mode, ()):
        if _says_something(value_at(obj, path)):
            yield f"{'.'.join(map(str, path))} changes nothing here: {what}"
    if gates := sorted(set(obj.get("featureGates") or {}) - set(_GATES)):
        yield f"feature gates that are not modelled: {', '.join(gates)}"


_MODE_SECTIONS = ("iptables", "nftables", "ipvs")


def _says_something(value: Any) -> bool:
    """Return whether a value is more than absent: kubeadm writes out zero values of everything."""
    if isinstance(value, str):
        try:
            return bool(value) and parse_duration_ns(value) != 0
        except ValueError:
            return True
    if isinstance(value, Mapping):
        return any(map(_says_something, value.values()))
    return bool(value)


def _listed(paths: Iterable[Path]) -> str:
    return ", ".join(".".join(map(str, path)) for path in paths)
