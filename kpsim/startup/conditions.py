"""For what kube-proxy ends at its start, and what it warns of: a table of conditions (CFG-5, CFG-7.4, CFG-9)."""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kpsim.addresses import Family, parse_ip, parse_network
from kpsim.config import LocalMode
from kpsim.startup.general import GATES, GONE, healthz_address, metrics_address
from kpsim.startup.modes import facts_of, schedules_by_name
from kpsim.startup.situation import Situation
from kpsim.startup.virtual_servers import scheduler
from kpsim.sysctls import SETTINGS


class Severity(enum.StrEnum):
    """What a condition means. kube-proxy starts unless one is fatal."""

    FATAL = "fatal"
    INEFFECTIVE = "ineffective"  #: something that is asked for does not take effect
    WARNING = "warning"  #: kube-proxy logs it


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that holds, by its name."""

    severity: Severity
    name: str
    words: str
    see: str = ""
    where: str = ""
    step: int = 0  #: of a start, from 1, in which kube-proxy ends; 0: it does not


@dataclass(frozen=True, slots=True)
class _Row:
    severity: Severity
    name: str
    see: str
    judge: Callable[[Situation], Iterator[str]]
    step: int = 0


# --------------------------------------------------------------------------------------------------------------- fatal


def _removed_flags(s: Situation) -> Iterator[str]:
    for name in s.start.removed_flags:
        yield f"kube-proxy 1.36 has no flag --{name}"


def _gates(s: Situation) -> Iterator[str]:
    for name in s.value("featureGates") or {}:
        if name in GONE and name not in GATES:
            yield f"featureGates.{name}: 1.36 does not know this gate: {GONE[name]}"


def _no_metrics(s: Situation) -> Iterator[str]:
    if not metrics_address(s):
        yield "--metrics-port=0 leaves no metrics address, which is no valid configuration"


def _out_of_range(s: Situation) -> Iterator[str]:
    """Any setting that cannot be written ends kube-proxy (CFG-4.2)."""
    for setting in SETTINGS.values():
        value = setting.of(s.after)
        if value > setting.most and value != setting.of(s.before):
            yield f"{setting.name} = {value:,}: a kernel that counts in milliseconds takes {setting.most:,} at most, and the write fails"


def _kernel(s: Situation) -> Iterator[str]:
    least = facts_of(s).least_kernel
    if least is not None and s.kernel is not None and s.kernel < least:
        yield (
            f"{s.config.mode} mode needs Linux {least[0]}.{least[1]}, the node has {s.kernel_text}; KUBE_PROXY_NFTABLES_SKIP_KERNEL_VERSION_CHECK "
            "in its environment skips the check"
        )


def _scheduler(s: Situation) -> Iterator[str]:
    known = schedules_by_name(s)
    if known and scheduler(s) not in known:
        yield f"ipvs.scheduler: the kernel has no scheduler {scheduler(s)!r}, so the trial virtual server is refused; it has {', '.join(known)}"


def _primary_family(s: Situation) -> Iterator[str]:
    if s.primary not in s.families:
        yield f"the node's primary family is {s.primary.label}, which the machine does not support"


def _cluster_cidrs(s: Situation) -> Iterator[str]:
    """Fatal only with one family; with two the other one has no detector (CFG-8.1)."""
    if s.config.detect_local_mode is not LocalMode.CLUSTER_CIDR or len(s.families) > 1 or not s.config.cluster_cidr:
        return
    if s.families[0] not in _families_of(s.config.cluster_cidr.split(",")):
        yield f"clusterCIDR {s.config.cluster_cidr}: the machine has {s.families[0].label} only, and no CIDR is of it"


def _pod_cidrs(s: Situation) -> Iterator[str]:
    if s.config.detect_local_mode is not LocalMode.NODE_CIDR or s.node is None:
        return
    if not s.node.pod_cidrs:
        yield "detectLocalMode NodeCIDR: the Node has no podCIDRs; kube-proxy waits 5 minutes for them, and ends"
    elif len(s.families) == 1 and s.families[0] not in _families_of(s.node.pod_cidrs):
        yield f"detectLocalMode NodeCIDR: the machine has {s.families[0].label} only, and none of the Node's podCIDRs is of it"


def _families_of(texts: list[str] | tuple[str, ...]) -> set[Family]:
    return {network.family for text in texts if (network := parse_network(text.strip()))}


def _same_socket(s: Situation) -> Iterator[str]:
    """Two servers on one port of one address: the second cannot be bound."""
    (one, first), (other, second) = (
        address.rpartition(":")[::2] for address in (healthz_address(s), metrics_address(s))
    )
    wide = any((parsed := parse_ip(host.strip("[]"))) is not None and not parsed[1] for host in (one, other))
    if first and first == second and (one == other or wide):
        yield f"healthzBindAddress {one}:{first} and metricsBindAddress {other}:{second} are the same port"


def _hard_same_socket(s: Situation) -> Iterator[str]:
    if s.value("bindAddressHardFail"):
        yield from (
            f"{words}: the second is not bound, and bindAddressHardFail ends kube-proxy" for words in _same_socket(s)
        )


# ------------------------------------------------------------------------------------------------------------- warnings


def _soft_same_socket(s: Situation) -> Iterator[str]:
    if not s.value("bindAddressHardFail"):
        yield from (f"{words}: the second is tried again every 5 s, in vain" for words in _same_socket(s))


def _open_node_ports(s: Situation) -> Iterator[str]:
    if not s.config.node_port_addresses and not facts_of(s).primary_by_default:
        yield "nodePortAddresses is unset: node ports are accepted on all local IPs"


def _one_family(s: Situation) -> Iterator[str]:
    given = s.config.node_port_addresses
    found = _families_of(given)
    if given and given != ("primary",) and len(found) == 1 and len(s.families) > 1:
        yield f"nodePortAddresses restrict {next(iter(found)).label} only"


def _other_family(s: Situation) -> Iterator[str]:
    """CIDRs and addresses that are of no family of the machine."""
    if len(s.families) > 1:
        return
    only = s.families[0]
    if s.traits.schedules and s.config.ipvs_exclude_cidrs and only not in _families_of(s.config.ipvs_exclude_cidrs):
        yield f"ipvs.excludeCIDRs: none is of {only.label}"
    for name, address in (("healthzBindAddress", healthz_address(s)), ("metricsBindAddress", metrics_address(s))):
        parsed = parse_ip(address.rpartition(":")[0].strip("[]"))
        if parsed is not None and parsed[0] is not only and parsed[1]:
            yield f"{name} {address} is not of {only.label}"


def _event(s: Situation) -> Iterator[str]:
    if s.traits.warning:
        yield s.traits.warning


def _mode_unset(s: Situation) -> Iterator[str]:
    if not s.written("mode"):
        yield f"no mode is set, so it is {s.config.mode}"


def _no_node_ips(s: Situation) -> Iterator[str]:
    bound = parse_ip(s.config.bind_address)
    if s.node is not None and not s.node_ips and (bound is None or not bound[1]):
        yield "the Node has no IP: kube-proxy waits 30 s for one, and then takes 127.0.0.1 and ::1"


_F, _W = Severity.FATAL, Severity.WARNING
_ROWS = (
    _Row(_F, "unknown-flag", "CFG-1, VER-1", _removed_flags, 1),
    _Row(_F, "unknown-gate", "CFG-3", _gates, 1),
    _Row(_F, "no-metrics-address", "CFG-2.1", _no_metrics, 1),
    _Row(_F, "no-pod-cidr", "CP-12, CFG-7.4", _pod_cidrs, 3),
    _Row(_F, "kernel-setting-refused", "CFG-4.2", _out_of_range, 4),
    _Row(_F, "primary-family-unsupported", "CFG-7.3", _primary_family, 5),
    _Row(_F, "cluster-cidr-of-other-family", "CFG-7.4", _cluster_cidrs, 5),
    _Row(_F, "kernel-too-old", "CFG-6, CFG-9.3", _kernel, 5),
    _Row(_F, "unknown-scheduler", "CFG-9.2, IPVS-1.4", _scheduler, 5),
    _Row(_F, "address-in-use", "CP-14.3", _hard_same_socket, 7),
    _Row(_W, "address-in-use", "CP-14.3", _soft_same_socket),
    _Row(_W, "mode-unset", "CFG-9.1", _mode_unset),
    _Row(_W, "deprecated-mode", "CFG-9.2", _event),
    _Row(_W, "no-node-ip", "CFG-7.1", _no_node_ips),
    _Row(_W, "node-ports-everywhere", "CFG-7.4", _open_node_ports),
    _Row(_W, "node-ports-of-one-family", "CFG-7.4", _one_family),
    _Row(_W, "address-of-other-family", "CFG-7.4", _other_family),
)


def conditions(situation: Situation) -> Iterator[Condition]:
    """Yield what holds, in the order of the table: what is fatal first, as kube-proxy meets it."""
    for row in _ROWS:
        for words in row.judge(situation):
            yield Condition(row.severity, row.name, words, row.see, step=row.step)
