"""What is known of leaving ipvs mode, whichever mode comes after it (IPVS-9.3, IPVS-17, MODE-2).

What first packets show comes from the comparison of behaviour, not from here.
"""

from collections.abc import Mapping

from kpsim.migration.concerns import services_with_affinity, unless_rules_are_known, whole_cluster
from kpsim.migration.facts import Question, Remark, Situation
from kpsim.migration.spread import CLIENTS, CONNECTIONS, spread

_DEFAULT_SCHEDULER = "rr"
_COMPARED = ("rr", "lc", "sh", "mh")


def scheduler_of(situation: Situation) -> str:
    """The scheduler of today's virtual servers."""
    return situation.cluster.config.ipvs_scheduler or _DEFAULT_SCHEDULER


def _largest(situation: Situation) -> int:
    """How many endpoints the Service with the most has."""
    by_service: dict[tuple[str, str], int] = {}
    for each in situation.cluster.state.endpoint_slices:
        of = each.metadata.namespace, each.service_name
        by_service[of] = max(by_service.get(of, 0), len(each.endpoints))
    return max(by_service.values(), default=0)


def _spread_words(situation: Situation) -> str:
    """What the schedulers gain in a cluster of this size, in numbers."""
    endpoints = _largest(situation)
    if endpoints < 2:
        return " No Service here has more than one endpoint, so there is nothing to spread."
    own = scheduler_of(situation)
    names = tuple(dict.fromkeys((own, *_COMPARED)))
    found = spread(names, len(situation.cluster.node_names), endpoints)
    told = ", ".join(
        f"{'some are refused' if busiest is None else busiest} under {name}"
        for name, busiest in found.scheduled.items()
    )
    nodes, noun = found.nodes, "node" if found.nodes == 1 else "nodes"
    return (
        f" Of {CONNECTIONS:,} long connections of {CLIENTS} clients at {nodes} {noun} to {found.endpoints} endpoints, "
        f"{CONNECTIONS // found.endpoints:,} each if they were spread evenly, the busiest endpoint has {told}; and "
        f"{found.drawn} if each is drawn, as then."
    )


def _with_strict_arp(situation: Situation) -> tuple[str, ...] | None:
    return () if situation.cluster.config.ipvs_strict_arp else None


def _with_announced_addresses(situation: Situation) -> tuple[str, ...] | None:
    """The Services with external or load balancer addresses, if nothing keeps nodes from answering ARP for them."""
    if situation.cluster.config.ipvs_strict_arp:
        return None
    names = [
        f"{each.metadata.namespace}/{each.metadata.name}"
        for each in situation.cluster.state.services
        if each.external_ips or each.ingress
    ]
    return tuple(names) or None


def _with_excluded(situation: Situation) -> tuple[str, ...] | None:
    return () if situation.cluster.config.ipvs_exclude_cidrs else None


def connections_end(how: str, see: str) -> Remark:
    """What becomes of connections when ip_vs forgets them. ``how`` says when that is."""
    return Remark(
        "Open connections to Services end when a node leaves ip_vs",
        f"{how} ip_vs then forgets its connections, and connection tracking forgets them with it. The next packet of a TCP "
        "connection is one in the middle of nowhere: it is refused, or reaches an endpoint that does not know it, and the client "
        "sees a reset. That is another matter than a change between iptables and nftables mode, where connections go on. Drain a "
        "node before it changes, or let clients reconnect.",
        see,
        whole_cluster,
        stops=True,
    )


REMARKS = (
    Remark(
        "The scheduler is gone",
        "Then each new connection draws its endpoint, all with the same chance. Every node schedules for itself today and knows "
        "only the connections that it made, so a scheduler gains the less the more nodes there are.",
        "IPVS-14, MODE-2",
        whole_cluster,
        more=_spread_words,
    ),
    Remark(
        "Session affinity starts anew, and means something else",
        "ip_vs remembers a client for each address and port, and for each node: the cluster IP and the load balancer address may "
        "lead it to two endpoints. It keeps the client as long as one of its connections is open, whatever the timeout. Then there "
        "is one memory for each port of a Service and node, and its timeout counts from the client's last new connection. What "
        "is remembered today is lost, so every client is balanced anew once.",
        "IPVS-11.4, MODE-2",
        services_with_affinity,
    ),
    Remark(
        "Endpoints that go are no longer drained by kube-proxy",
        "Today an endpoint that leaves keeps its TCP connections with weight 0 until they have ended, and 2 to 3 minutes longer; "
        "one that comes back in the meantime, or a kube-proxy that restarts, may cut them. Under sh and mh its clients are refused "
        "meanwhile. Then it leaves the rules at once, and connections that exist go on by connection tracking for as long as the "
        "endpoint answers. UDP is moved to another endpoint in all modes.",
        "IPVS-6, IPVS-14, IPVS-17",
        whole_cluster,
    ),
    Remark(
        "Idle connections live longer",
        "ip_vs forgets an idle TCP connection after 15 minutes, unless ipvs.tcpTimeout says otherwise, and its next packet is "
        "refused. Then connection tracking counts alone: 24 hours. The table of connections grows with clients that leave theirs "
        "open; `nf_conntrack_count` against `nf_conntrack_max` says how near the limit is.",
        "IPVS-12.3, IPVS-17",
        whole_cluster,
    ),
    Remark(
        "The host's INPUT no longer sees packets to Services",
        "Today they pass INPUT, where a policy of DROP breaks them, and then OUTPUT. Then they are forwarded and pass FORWARD. No "
        "rules of the nodes were given, so this page cannot tell whether a firewall opens the one and closes the other: give "
        "`iptables-save` and `nft list ruleset` of a node with --beside. Rules that somebody wrote in INPUT to keep pods from a "
        "Service have no effect then.",
        "IPVS-10.2, IPVS-15, MODE-2",
        unless_rules_are_known,
    ),
    Remark(
        "Addresses of Services are no longer the node's own",
        "Today kube-ipvs0 has them all. What reads that device ends with it: an announcement of its addresses, a script that looks "
        "for a Service there, a process that binds such an address. A process of the node sends from the node's own address then.",
        "IPVS-3.5",
        whole_cluster,
    ),
    Remark(
        "Nodes no longer answer ARP for these addresses",
        "Without strictARP every node answers ARP for external and load balancer addresses on any interface. Whoever reaches them "
        "that way alone, without MetalLB, a route or a load balancer, no longer does.",
        "IPVS-3.5, MODE-2",
        _with_announced_addresses,
    ),
    Remark(
        "strictARP is no longer needed",
        "MetalLB asks for strictARP because kube-ipvs0 has the addresses that it announces. In the other modes no device has them, "
        "and MetalLB needs neither ipvs mode nor strictARP. `net.ipv4.conf.all.arp_ignore` 1 and `arp_announce` 2 stay until "
        "somebody resets them or the node boots; they do no harm to Services.",
        "IPVS-2, MODE-2",
        _with_strict_arp,
    ),
    Remark(
        "Virtual servers of other programs go, excludeCIDRs or not",
        "The clean-up flushes all virtual servers of the machine. A load balancer that keeps its own in ip_vs, such as one before the "
        "API server, has to write them again, or has to be elsewhere by then.",
        "IPVS-9.3",
        _with_excluded,
        stops=True,
    ),
    Remark(
        "What stays behind",
        "The module ip_vs, the sysctls that ipvs mode wrote (`net.ipv4.vs.conntrack` and the two that end connections), and the "
        "ipsets of IPv6, whose names begin with KUBE-6-, stay until the node boots. Where `modprobe ip_vs` fails, the clean-up "
        "does not happen at all, and kube-ipvs0 and the rules stay, too.",
        "IPVS-2, IPVS-9.3",
        whole_cluster,
    ),
    Remark(
        "Rules that somebody flushes stay away longer",
        "ipvs mode writes everything anew at least every 30 seconds. The other modes look once an hour, or, in iptables mode, "
        "notice within syncPeriod that their rules are gone.",
        "IPVS-1.2, IPVS-17",
        whole_cluster,
    ),
)

QUESTIONS = (
    Question(
        "ipvsadm -Ln",
        "Virtual servers with addresses that no Service has: another program's. Connections in ActiveConn: they end with the change.",
        "IPVS-4.6, IPVS-9.3",
    ),
    Question(
        "lsmod | grep ip_vs; modprobe -va ip_vs",
        "If the second fails, the clean-up is left out, and kube-ipvs0 stays.",
        "IPVS-9.3",
    ),
    Question(
        "sysctl net.ipv4.conf.all.arp_ignore net.ipv4.conf.all.arp_announce",
        "1 and 2 are from strictARP. They stay until the node boots.",
        "IPVS-2",
    ),
    Question(
        "grep -rl kube-ipvs0 /etc",
        "Who reads the device: announcements, monitoring, firewalls.",
        "IPVS-3.5",
    ),
)

_TIMEOUT = ("the timers of connection tracking take its place: section conntrack.", "IPVS-2.2")
DROPPED: Mapping[str, tuple[str, str]] = {
    "scheduler": ("every endpoint has the same chance.", "IPVS-14"),
    "excludeCIDRs": ("no other mode touches virtual servers; the clean-up flushes them all.", "IPVS-9.3"),
    "strictARP": ("no device has the addresses of Services.", "MODE-2"),
    "tcpTimeout": _TIMEOUT,
    "tcpFinTimeout": _TIMEOUT,
    "udpTimeout": _TIMEOUT,
}
FIRST_STEPS = (
    "Answer the questions about the nodes, and mend what this page says.",
    "Try one node, or one pool: clusters whose nodes run different modes are supported. Drain the node: its connections to Services "
    "end.",
)
