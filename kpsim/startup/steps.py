"""What a start does to its machine, in the order in which kube-proxy does it (CP-12; CFG-4, CFG-5, CFG-6)."""

from collections.abc import Iterator
from dataclasses import dataclass

from kpsim.addresses import format_ip
from kpsim.kubeproxy.healthcheck import listen_addresses
from kpsim.startup.general import healthz_address, metrics_address
from kpsim.startup.modes import facts_of
from kpsim.startup.situation import Situation
from kpsim.startup.tracking import arithmetic
from kpsim.sysctls import SETTINGS, Setting
from kpsim.units import format_duration


@dataclass(frozen=True, slots=True)
class Change:
    """A kernel setting that kube-proxy writes, or finds as it wants it. ``old`` None: not known here."""

    name: str
    old: int | None
    new: int
    how: str  #: why this value

    @property
    def changes(self) -> bool:
        return self.old != self.new


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a start."""

    title: str
    see: str
    lines: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()


#: the settings that kube-proxy writes for connection tracking, in its order, each with the field of the configuration (CFG-4)
_TRACKING = {
    "net.netfilter.nf_conntrack_max": "conntrack_max_per_core",
    "net.netfilter.nf_conntrack_buckets": "conntrack_max_per_core",
    "net.netfilter.nf_conntrack_tcp_timeout_established": "conntrack_tcp_established_timeout_ns",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait": "conntrack_tcp_close_wait_timeout_ns",
    "net.netfilter.nf_conntrack_tcp_be_liberal": "conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_udp_timeout": "conntrack_udp_timeout_ns",
    "net.netfilter.nf_conntrack_udp_timeout_stream": "conntrack_udp_stream_timeout_ns",
}


def steps(situation: Situation) -> tuple[Step, ...]:
    """The steps of a start, up to the first rules, and what goes on afterwards."""
    return tuple(_steps(situation))


def _steps(s: Situation) -> Iterator[Step]:
    facts = facts_of(s)
    source = "flags" if s.start.by_flags else "the file"
    watched = "" if s.start.by_flags else "; the file is watched, and kube-proxy ends when it is written or renamed"
    yield Step("read and check the configuration", "CFG-1", (f"{source}, and defaults for the rest{watched}",))
    yield Step("remove what other modes left", "CFG-5", (*facts.removes, facts.leaves, "errors are passed over"))
    yield Step("find its Node", "CP-12", tuple(_node_lines(s)))
    changes = tuple(_changes(s))
    tracking = tuple(change for change in changes if change.name in _TRACKING)
    yield Step("kernel settings of connection tracking", "CFG-4", tuple(_table_lines(s)), tracking)
    yield Step("check the machine", "CFG-7.3, CFG-9", (_families(s), *facts.checks))
    own = tuple(change for change in changes if change.name not in _TRACKING)
    yield Step(f"make a proxier for each family in {s.config.mode} mode", "CFG-6, CP-12", facts.prepares, own)
    yield Step("listen", "CP-12, CP-14, CP-15", tuple(_listeners(s)))
    yield Step("watch the API server", "CP-7.1", tuple(_informers(s)))
    least = format_duration(s.config.min_sync_period_ns)
    yield Step(
        "write rules", "CP-12, CP-9, CP-13",
        (
            "once all Services and EndpointSlices have been listed: a full sync of each family, one after the other. Rules of an earlier kube-proxy hold until then",
            f"after that each change is written, at least {least} after the last sync ended; without changes: {facts.when_idle(s.config)}",
            facts.keeps_watch(s),
        ),
    )  # fmt: skip


def _node_lines(s: Situation) -> Iterator[str]:
    own = s.config.hostname_override or "its machine's host name"
    yield f"takes itself for {own}; asks for its Node, and waits up to 30 s for an IP in it"
    if s.node is None:
        yield "no such Node among the input: its addresses are not known here"
    else:
        ips = ", ".join(dict.fromkeys(format_ip(family, settings.node_ip) for family, settings in s.settings.items()))
        yield f"node IPs: {ips}; pod CIDRs: {', '.join(s.node.pod_cidrs) or 'none'}; primary family: {s.primary.label}"


def _table_lines(s: Situation) -> Iterator[str]:
    yield (
        f"cores: {s.cores:,} ({s.cores_from})"
        if s.config.conntrack_max_per_core
        else "maxPerCore is 0: the table keeps its size"
    )
    if not s.given.sysctls:
        yield "before: as Linux has it on a large machine; --sysctl gives this machine's values"


def _families(s: Situation) -> str:
    names = " and ".join(family.label for family in s.families)
    return f"families: {names}" + (
        "; a family whose tools or kernel part do not answer is left out" if len(s.families) > 1 else ""
    )


def _changes(s: Situation) -> Iterator[Change]:
    """The settings that kube-proxy writes: those of the model by comparison, then those that it does not have."""
    for name, field in _TRACKING.items():
        setting = SETTINGS[name]
        if getattr(s.config, field) and not (name.endswith("buckets") and setting.of(s.before) == setting.of(s.after)):
            yield _change(s, setting, _how(s, name))
    for name, setting in SETTINGS.items():
        if name not in _TRACKING and setting.of(s.before) != setting.of(s.after):
            yield _change(s, setting, _OTHERS.get(setting.field, ""))
    for written in facts_of(s).writes:
        if written.asked(s):
            known = SETTINGS.get(written.name)
            yield Change(written.name, known.of(s.before) if known is not None else None, written.value, written.why)


_OTHERS = {
    "route_localnet": "node ports on 127.0.0.1 (iptables.localhostNodePorts)",
    "vs_conntrack": "connections of ip_vs are tracked, so rules and masquerading see them",
    "vs_expire_nodest_conn": "connections end with their real server",
    "vs_expire_quiescent_template": "a draining server loses its persistent clients",
}


def _change(s: Situation, setting: Setting, how: str) -> Change:
    return Change(setting.name, setting.of(s.before), setting.of(s.after), how)


def _how(s: Situation, name: str) -> str:
    if name.endswith("_max"):
        return arithmetic(s)
    if name.endswith("buckets"):
        return f"{s.after.nf_conntrack_max:,} / 4"
    return "seconds" if "timeout" in name else "conntrack.tcpBeLiberal"


def _listeners(s: Situation) -> Iterator[str]:
    yield f"oom_score_adj {s.value('oomScoreAdj')}; the event Starting on its Node"
    late = format_duration(2 * s.config.sync_period_ns)
    address = healthz_address(s)
    yield (
        f"/healthz and /livez on {address}: 503 after {late} without a sync that was due"
        if address
        else "/healthz nowhere (--healthz-port=0)"
    )
    yield f"/metrics on {metrics_address(s) or 'no address'}"
    on = [
        f"{family.label} {', '.join(found) if (found := listen_addresses(settings.node_ports, family, settings.interface_addresses)) else 'nowhere'}"
        for family, settings in s.settings.items()
    ]
    yield f"health check node ports, one for each Service of type LoadBalancer with externalTrafficPolicy Local: {'; '.join(on)}"


def _informers(s: Situation) -> Iterator[str]:
    use = "drops packets to unallocated cluster IPs by" if s.traits.reads_service_cidrs else "makes no use of"
    yield f"its own Node, Services that have a cluster IP, EndpointSlices of such Services, and ServiceCIDRs; {s.config.mode} mode {use} the last"
    yield f"everything is replayed from memory every {format_duration(s.config.config_sync_period_ns)}"
