"""Settings of ipvs mode: scheduler, timeouts of ip_vs, ARP, what is left alone (CFG-2.3, IPVS-1 to 6)."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from kpsim.addresses import parse_network
from kpsim.backends.table import make_backend
from kpsim.ipvs.states import Timeouts
from kpsim.programmed import Programmed
from kpsim.startup.modes import schedules_by_name
from kpsim.startup.periods import not_of_the_mode
from kpsim.startup.remarks import Remark, Remarks, Words, costs, note, nothing, risk
from kpsim.startup.setting import Setting
from kpsim.startup.situation import Situation
from kpsim.units import SECOND_NS, format_duration

_CHOICE = {
    "rr": "servers in turn",
    "wrr": "servers in turn; kube-proxy's weights are only 1 and 0",
    "lc": "the server with the fewest connections",
    "wlc": "the server with the fewest connections; kube-proxy's weights are only 1 and 0",
    "sh": "by the client's address: always the same server, also without session affinity",
    "dh": "by the Service's address: one server has all of it",
    "mh": "by the client's address and port, and few clients move when servers change",
    "sed": "the server with the shortest expected delay",
    "nq": "an idle server, else the one with the shortest expected delay",
    "lblc": "by the Service's address, another if that server is overloaded",
    "lblcr": "by the Service's address among some servers",
    "fo": "the newest server, for all connections",
    "ovf": "the newest server while it has at most one active connection, then the next",
    "twos": "the less loaded of two that it draws",
}


def scheduler(s: Situation) -> str:
    """The scheduler's name in the kernel."""
    return s.config.ipvs_scheduler or "rr"


def _scheduler_does(s: Situation) -> str:
    return f"each virtual server of this node chooses {_CHOICE.get(scheduler(s), 'by ' + scheduler(s))}"


def _scheduler_remarks(s: Situation) -> Iterator[Remark]:
    name = scheduler(s)
    if name not in schedules_by_name(s):
        return
    yield note("no node knows of another's choices or connections", "MODE-2")
    if name in ("sh", "mh"):
        yield risk("a server that drains still gets its clients' new connections, and refuses them", "IPVS-14")
    if name == "ovf":
        yield risk("once every server has two active connections, new ones are refused", "IPVS-14")
    if name == "mh":
        yield note("the port is hashed too, so a client does not stay with a server", "IPVS-14, IPVS-4.4")
    if name in ("dh", "fo", "lblc", "lblcr"):
        yield risk("the endpoints of a Service do not share its load", "IPVS-14")


def timeouts(s: Situation) -> Timeouts:
    """The timeouts of ip_vs once kube-proxy has started, as the model has them (IPVS-2.2)."""
    family = s.families[0]
    settings = s.settings[family]
    known = replace(settings, config=replace(settings.config, ipvs_scheduler=""))  # whatever scheduler is asked for
    found = make_backend(known).start(Programmed.nothing(family))
    return found.ipvs_timeouts


def _timeout_does(attribute: str, field: str, what: str, s: Situation) -> str:
    kept_s = getattr(timeouts(s), attribute)
    left = "0: as the kernel has it; " if not getattr(s.config, field) else ""
    return f"{left}ip_vs forgets {what} after {kept_s:,} s"


def _tcp_remarks(s: Situation) -> Iterator[Remark]:
    kept_ns, tracked_ns = timeouts(s).tcp_s * SECOND_NS, s.after.tcp_timeout_established_ns
    if kept_ns < tracked_ns:
        yield risk(
            f"connection tracking remembers it for {format_duration(tracked_ns)}, but ip_vs decides: the next packet of a connection that was idle longer is reset. "
            "Keepalives must come sooner", "IPVS-12.3",
        )  # fmt: skip


def _fin_remarks(s: Situation) -> Iterator[Remark]:
    yield costs(
        f"a server that drains waits for its closed connections too, {timeouts(s).tcp_fin_s:,} s each", "IPVS-6.3"
    )


def _exclude_does(s: Situation) -> str:
    if not s.config.ipvs_exclude_cidrs:
        return (
            "kube-proxy deletes every virtual server of the machine that is not its own, whoever made it, at each sync"
        )
    return f"virtual servers in {', '.join(s.config.ipvs_exclude_cidrs)} are left alone, whoever made them"


def _exclude_remarks(s: Situation) -> Iterator[Remark]:
    given = [network for text in s.config.ipvs_exclude_cidrs if (network := parse_network(text))]
    without = [family.label for family in s.families if all(network.family is not family for network in given)]
    if given and without:
        yield note(f"none of {without[0]}: all foreign virtual servers of that family go", "CFG-7.4")


def _arp_does(s: Situation) -> str:
    if s.config.ipvs_strict_arp:
        return "arp_ignore becomes 1 and arp_announce 2 for all interfaces: no node answers ARP for an address that only kube-ipvs0 has"
    return "arp_ignore and arp_announce stay: every node answers ARP for external and load balancer IPs, which kube-ipvs0 has"


def _arp_remarks(s: Situation) -> Iterator[Remark]:
    if s.config.ipvs_strict_arp:
        yield note("it holds for the machine's other addresses too; the model has no ARP", "IPVS-3.5")
    else:
        yield risk("who announces load balancer IPs by ARP itself (MetalLB, kube-vip) needs true", "MODE-2, IPVS-3.5")


def _row(name: str, does: Words, see: str, remarks: Remarks = nothing) -> Setting:
    return Setting(f"ipvs.{name}", does, see, remarks, unread=not_of_the_mode(f"ipvs.{name}"))


ROWS = (
    _row("scheduler", _scheduler_does, "IPVS-14", _scheduler_remarks),
    _row("excludeCIDRs", _exclude_does, "IPVS-4.6", _exclude_remarks),
    _row("strictARP", _arp_does, "CFG-6, IPVS-3.5", _arp_remarks),
    _row("tcpTimeout", partial(_timeout_does, "tcp_s", "ipvs_tcp_timeout_ns", "an idle TCP connection"), "IPVS-2.2", _tcp_remarks),
    _row("tcpFinTimeout", partial(_timeout_does, "tcp_fin_s", "ipvs_tcp_fin_timeout_ns", "a TCP connection that its server closed first"), "IPVS-2.2", _fin_remarks),
    _row("udpTimeout", partial(_timeout_does, "udp_s", "ipvs_udp_timeout_ns", "a UDP flow"), "IPVS-2.2"),
)  # fmt: skip
