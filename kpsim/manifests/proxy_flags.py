"""kube-proxy's command line: every flag of 1.36 and the field of the configuration that it sets (CFG-1, CFG-2).

Counterpart: cmd/kube-proxy/app/options.go. A flag without a field is known and decides no packet.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kpsim.addresses import parse_ip
from kpsim.config import as_of_flags
from kpsim.inputs import JsonObject
from kpsim.manifests.places import Path
from kpsim.manifests.wording import suggestion
from kpsim.units import parse_duration_ns

PROGRAM = "kube-proxy"


class Flag(NamedTuple):
    """How a flag's value is read, and the field that it sets. Without a field it decides no packet."""

    read: Callable[[str], Any]
    path: Path = ()


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    """Read a value as Go's strconv.ParseBool does."""
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f"expected true or false, got {value!r}")


def _integer(value: str) -> int:
    try:
        number = int(value)
    except ValueError:
        raise ValueError(f"expected an integer, got {value!r}") from None
    if not -(2**31) <= number < 2**31:
        raise ValueError(f"expected an integer of 32 bits, got {value}")
    return number


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"expected a number, got {value!r}") from None


def _duration(value: str) -> str:
    try:
        parse_duration_ns(value)
    except ValueError:
        raise ValueError(f"expected a duration such as 30s or 1m30s, got {value!r}") from None
    return value


def _address(value: str) -> str:
    if parse_ip(value) is None:
        raise ValueError(f"expected an IP address, got {value!r}")
    return value


def _texts(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _gates(value: str) -> dict[str, bool]:
    found = {}
    for pair in _texts(value):
        name, equals, switch = pair.partition("=")
        if not equals:
            raise ValueError(f"expected NAME=true or NAME=false, got {pair!r}")
        found[name.strip()] = _flag(switch.strip())
    return found


_CONNTRACK = {
    "max-per-core": (_integer, "maxPerCore"),
    "min": (_integer, "min"),
    "tcp-timeout-established": (_duration, "tcpEstablishedTimeout"),
    "tcp-timeout-close-wait": (_duration, "tcpCloseWaitTimeout"),
    "tcp-be-liberal": (_flag, "tcpBeLiberal"),
    "udp-timeout": (_duration, "udpTimeout"),
    "udp-timeout-stream": (_duration, "udpStreamTimeout"),
}
_IPVS = {
    "sync-period": (_duration, "syncPeriod"),
    "min-sync-period": (_duration, "minSyncPeriod"),
    "scheduler": (_text, "scheduler"),
    "exclude-cidrs": (_texts, "excludeCIDRs"),
    "strict-arp": (_flag, "strictARP"),
    "tcp-timeout": (_duration, "tcpTimeout"),
    "tcpfin-timeout": (_duration, "tcpFinTimeout"),
    "udp-timeout": (_duration, "udpTimeout"),
}

FLAGS: Mapping[str, Flag] = {
    "proxy-mode": Flag(_text, ("mode",)),
    "hostname-override": Flag(_text, ("hostnameOverride",)),
    "bind-address": Flag(_address, ("bindAddress",)),
    "bind-address-hard-fail": Flag(_flag, ("bindAddressHardFail",)),
    "healthz-bind-address": Flag(_text, ("healthzBindAddress",)),
    "metrics-bind-address": Flag(_text, ("metricsBindAddress",)),
    "cluster-cidr": Flag(_text, ("clusterCIDR",)),
    "detect-local-mode": Flag(_text, ("detectLocalMode",)),
    "pod-bridge-interface": Flag(_text, ("detectLocal", "bridgeInterface")),
    "pod-interface-name-prefix": Flag(_text, ("detectLocal", "interfaceNamePrefix")),
    "nodeport-addresses": Flag(_texts, ("nodePortAddresses",)),
    "masquerade-all": Flag(_flag, ("iptables", "masqueradeAll")),
    "iptables-masquerade-bit": Flag(_integer, ("iptables", "masqueradeBit")),
    "iptables-localhost-nodeports": Flag(_flag, ("iptables", "localhostNodePorts")),
    "iptables-sync-period": Flag(_duration, ("iptables", "syncPeriod")),
    "iptables-min-sync-period": Flag(_duration, ("iptables", "minSyncPeriod")),
    **{f"ipvs-{name}": Flag(read, ("ipvs", inner)) for name, (read, inner) in _IPVS.items()},
    **{f"conntrack-{name}": Flag(read, ("conntrack", inner)) for name, (read, inner) in _CONNTRACK.items()},
    "config-sync-period": Flag(_duration, ("configSyncPeriod",)),
    "feature-gates": Flag(_gates, ("featureGates",)),
    "oom-score-adj": Flag(_integer, ("oomScoreAdj",)),
    "profiling": Flag(_flag, ("enableProfiling",)),
    "kubeconfig": Flag(_text, ("clientConnection", "kubeconfig")),
    "kube-api-content-type": Flag(_text, ("clientConnection", "contentType")),
    "kube-api-burst": Flag(_integer, ("clientConnection", "burst")),
    "kube-api-qps": Flag(_number, ("clientConnection", "qps")),
    "show-hidden-metrics-for-version": Flag(_text, ("showHiddenMetricsForVersion",)),
    # what decides no packet, and what is read by name in ``read_flags``
    "config": Flag(_text),
    "cleanup": Flag(_flag),
    "init-only": Flag(_flag),
    "write-config-to": Flag(_text),
    "healthz-port": Flag(_integer),
    "metrics-port": Flag(_integer),
    "master": Flag(_text),
    "version": Flag(_text),
    "help": Flag(_flag),
    "v": Flag(_text),
    "vmodule": Flag(_text),
    "log-flush-frequency": Flag(_duration),
    "logging-format": Flag(_text),
    "log-json-split-stream": Flag(_flag),
    "log-json-info-buffer-size": Flag(_text),
    "log-text-split-stream": Flag(_flag),
    "log-text-info-buffer-size": Flag(_text),
}

#: flags that set a part of a field: the port of an address
PORT_FLAGS: Mapping[str, Path] = {"healthz-port": ("healthzBindAddress",), "metrics-port": ("metricsBindAddress",)}

#: flags about logs, which count beside a configuration file too (CFG-1.1)
LOG_FLAGS = frozenset(
    ("v", "vmodule", "log-flush-frequency", "logging-format", *(name for name in FLAGS if name.startswith("log-")))
)

#: flags of earlier versions, with which 1.36 does not start
_SWITCHES_BEFORE = frozenset(
    (
        "cleanup-ipvs", "cleanup-iptables", "alsologtostderr", "logtostderr", "add-dir-header", "one-output",
        "skip-headers", "skip-log-headers",
    )
)  # fmt: skip
_REMOVED = _SWITCHES_BEFORE | frozenset(
    (
        "proxy-port-range", "udp-timeout", "resource-container", "log-dir", "log-file", "log-file-max-size",
        "log-backtrace-at", "stderrthreshold", "conntrack-max", "boot-id-file", "machine-id-file",
    )
)  # fmt: skip
_SHORT = {"-v": "--v", "-h": "--help"}


@dataclass(slots=True)
class FlagsRead:
    """A command line as a configuration: ``json`` is a KubeProxyConfiguration, not yet checked.

    ``config_file`` is the value of ``--config``, empty if there is none. ``hostname`` is ``--hostname-override``, which
    counts beside a file too. ``exact`` are typed settings that a file cannot say (CFG-2.2.2).
    """

    json: JsonObject = field(default_factory=dict)
    config_file: str = ""
    hostname: str = ""
    exact: dict[str, int] = field(default_factory=dict)
    named: JsonObject = field(
        default_factory=dict
    )  #: as ``json``, each value in the section that its flag is named after
    given: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)  #: by flag, as read; of a repeated flag the last
    removed: list[str] = field(default_factory=list)  #: flags of earlier versions, with which 1.36 does not start
    ends: str = ""  #: the flag with which kube-proxy ends without writing rules (CFG-1.3)
    notes: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


def read_flags(words: Sequence[str]) -> FlagsRead:
    """Read kube-proxy's arguments (without the program) as pflag does: ``--name=value``, ``--name value``, ``--name``."""
    read = FlagsRead()
    for name, text in _pairs(words, read):
        try:
            value = FLAGS[name].read(text)
        except ValueError as error:
            read.complaints.append(f"--{name}: {error}")
            continue
        read.given.append(name)
        read.values[name] = value
        if name == "config":
            read.config_file = value
        elif path := FLAGS[name].path:
            _put(read.json, path, value)
    read.hostname = read.json.pop("hostnameOverride", "")
    _finish(read)
    return read


def _pairs(words: Iterable[str], read: FlagsRead) -> Iterator[tuple[str, str]]:
    rest = iter(words)
    for word in rest:
        if word == "--":
            return
        if not word.startswith("-") or word == "-":
            read.complaints.append(f"unexpected word {word!r}: kube-proxy takes flags only")
            continue
        head, equals, value = word.partition("=")
        head = _SHORT.get(head, head)
        if len(head) > 2 and head.startswith("-v") and head[2:].isdigit():
            head, equals, value = "--v", "=", head[2:]
        name = head.lstrip("-").replace("_", "-")  # kube-proxy takes both
        if name in _REMOVED:
            read.removed.append(name)
            read.notes.append(f"kube-proxy 1.36 has no flag --{name}, and does not start with it: passed over")
            if not equals and name not in _SWITCHES_BEFORE:
                next(rest, "")
            continue
        if name not in FLAGS:
            read.complaints.append(f"kube-proxy has no flag --{name}{suggestion(name, sorted(FLAGS))}")
            continue
        if not equals:
            value = "true" if FLAGS[name].read is _flag or name == "version" else next(rest, "")
        yield name, value


def _put(obj: JsonObject, path: Path, value: Any) -> None:
    for step in path[:-1]:
        obj = obj.setdefault(str(step), {})
    last = str(path[-1])
    # lists and gates of repeated flags add up
    if isinstance(value, list):
        obj[last] = [*obj.get(last, ()), *value]
    elif isinstance(value, dict):
        obj[last] = {**obj.get(last, {}), **value}
    else:
        obj[last] = value


def _finish(read: FlagsRead) -> None:
    """Move what flags say to the section that the mode reads (CFG-2.2, CFG-2.3), and note what ends kube-proxy."""
    for name in ("cleanup", "init-only", "write-config-to"):
        if name in read.given:
            read.ends = name
    read.named = read.json
    read.json, least_ns = as_of_flags(read.json)
    if least_ns is not None:
        read.exact["min_sync_period_ns"] = least_ns


def unresolved(read: FlagsRead) -> list[str]:
    """Return the flags whose value is a variable that nobody has given, such as ``$(NODE_NAME)``."""
    found = []
    for name in dict.fromkeys(read.given):
        value: Any = read.hostname if name == "hostname-override" else read.json
        for step in FLAGS[name].path if name != "hostname-override" else ():
            value = value.get(step) if isinstance(value, Mapping) else None
        if "$" in str(value) and FLAGS[name].path:
            found.append(f"--{name}={value}")
    return found


_IMAGE = re.compile(rf"([\w.-]+-)?{PROGRAM}(-(amd64|arm64|arm|ppc64le|s390x))?")


def image_runs_it(image: str) -> bool:
    """Return whether a container image is kube-proxy's own, whose entry point is the program."""
    name = image.rpartition("/")[2].partition("@")[0].partition(":")[0]
    return _IMAGE.fullmatch(name) is not None
