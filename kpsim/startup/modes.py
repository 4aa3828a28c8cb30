"""How the proxy modes differ at a start: the one place in this package that names them.

A new mode is a row of ``_FACTS``.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from kpsim.config import DEFAULT_MODE, Mode, ProxyConfig
from kpsim.startup.remarks import Remark, costs, note, nothing, risk
from kpsim.startup.situation import Situation, Version
from kpsim.units import format_duration


@dataclass(frozen=True, slots=True)
class Written:
    """A kernel setting that kube-proxy writes and the model does not have. ``asked`` says whether, ``why`` what for."""

    name: str
    value: int
    why: str
    asked: Callable[[Situation], bool]


def _always(_: Situation) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class ModeFacts:
    """What a mode does at a start, and what it makes of settings that all modes read."""

    removes: tuple[str, ...]  #: of other modes (CFG-5)
    leaves: str
    checks: tuple[str, ...]  #: what must be there, or kube-proxy ends
    least_kernel: Version | None
    writes: tuple[Written, ...]
    prepares: tuple[str, ...]  #: what making the proxiers does besides
    keeps_watch: Callable[[Situation], str]  #: what it notices of rules that others remove
    when_idle: Callable[[ProxyConfig], str]  #: what it does without events
    node_ports_by_default: str
    primary_by_default: bool  #: whether these are the node's primary addresses, as with nodePortAddresses: [primary]
    without_detector: str
    short_circuits: bool  #: whether local detection decides about the Local policy too (PP-5.1)
    invalid: str  #: what becomes of packets that connection tracking calls INVALID
    remarks: Callable[[Situation], Iterator[Remark]] = nothing  #: on the mode itself
    stale_chains: str = ""  #: what syncPeriod does besides


_CLIENTS = (
    "A pod then sees the real address of whoever dials a cluster IP. What comes from outside the cluster and is routed to a cluster IP gets its "
    "answers past this node's translation wherever the way back leads elsewhere, and fails"
)
_AS_OUTSIDE = "With externalTrafficPolicy Local, pods of this node count as outside clients: they get endpoints of this node only, and a drop if it has none"


def _ipvs_remarks(situation: Situation) -> Iterator[Remark]:
    yield risk(
        "ipvs mode is deprecated: kube-proxy logs an error and emits the Warning event IPVSDeprecation. 1.40 has it off by default, 1.43 removes "
        "it. kpsim migrate says what leaving it changes",
        "IPVS-1.5, VER-3",
    )
    yield costs(
        "every sync goes through all Services, endpoints, ipsets and addresses, there is no partial sync; tens of seconds with many Services",
        "IPVS-1.2, VER-1",
    )


def _iptables_remarks(situation: Situation) -> Iterator[Remark]:
    yield note(
        "the first packet of a connection passes a rule for each Service until one matches, and a sync writes the dispatch to all of them",
        "MODE-1",
    )


def _nftables_remarks(situation: Situation) -> Iterator[Remark]:
    yield note(
        "rules of a host firewall hit Service traffic: no accept of kube-proxy's counts outside its own table, health check node ports included",
        "MODE-1",
    )


_FACTS: Mapping[Mode, ModeFacts] = {
    Mode.IPTABLES: ModeFacts(
        removes=("the nftables tables ip kube-proxy and ip6 kube-proxy, with all that is in them",),
        leaves="What ipvs mode wrote stays: virtual servers, kube-ipvs0, its chains and ipsets. kube-proxy --cleanup removes them.",
        checks=("the nat tables of iptables and ip6tables must answer; one that does not leaves its family out",),
        least_kernel=None,
        writes=(),
        prepares=(
            "reads nf_conntrack_tcp_be_liberal once: if it is not 0, KUBE-FORWARD gets no rule that drops INVALID packets",
            "creates the chain KUBE-PROXY-CANARY in mangle, nat and filter of each family",
        ),
        keeps_watch=lambda s: (
            f"looks for the canary chain in mangle every {format_duration(s.config.sync_period_ns)} (syncPeriod); if it is gone, a full sync follows "
            "within 5 s. Chains that are emptied, or deleted in nat and filter alone, are not noticed"
        ),
        when_idle=lambda _: "nothing for an hour, then a full sync; never by time with more than 1000 endpoints",
        node_ports_by_default="all addresses of the node, those of later interfaces included",
        primary_by_default=False,
        without_detector=f"no rule masquerades what comes from outside to cluster IPs. {_CLIENTS}. {_AS_OUTSIDE}",
        short_circuits=True,
        invalid="a rule in KUBE-FORWARD drops them, unless tcpBeLiberal or the machine's own setting was on at the start",
        remarks=_iptables_remarks,
        stale_chains="the least time between two removals of stale chains, with more than 1000 endpoints",
    ),
    Mode.NFTABLES: ModeFacts(
        removes=(
            "of iptables mode, in both families: the jumps from built-in chains; in nat KUBE-SERVICES, KUBE-NODEPORTS, KUBE-POSTROUTING, "
            "KUBE-MARK-MASQ and all KUBE-SVC-, SVL-, EXT-, FW- and SEP- chains; in filter KUBE-SERVICES, KUBE-EXTERNAL-SERVICES, KUBE-FORWARD, "
            "KUBE-NODEPORTS, KUBE-PROXY-FIREWALL; the canaries in mangle, nat and filter",
            "of ipvs mode: all virtual servers of ip_vs, whoever made them; kube-ipvs0 and its addresses; its chains; its IPv4 ipsets",
        ),
        leaves="KUBE-FIREWALL with its rule and the jumps to it stays, and so do the KUBE-6- ipsets (I-18, IPVS-9.3).",
        checks=("nft must be 1.0.1 or later, the kernel 5.13 or later",),
        least_kernel=(5, 13),
        writes=(),
        prepares=("makes no kernel setting of its own",),
        keeps_watch=lambda _: (
            "has no canary: after `nft flush ruleset` Services stay away until a change makes a transaction fail, or the full sync, up to an hour"
        ),
        when_idle=lambda _: "nothing for an hour, then a full sync",
        node_ports_by_default="the node's primary addresses only",
        primary_by_default=True,
        without_detector=f"no rule masquerades what comes from outside to cluster IPs. {_CLIENTS}. {_AS_OUTSIDE}",
        short_circuits=True,
        invalid="no rule drops them; before Linux 6.1 an answer out of window leaves untranslated, and its client resets the connection",
        remarks=_nftables_remarks,
    ),
    Mode.IPVS: ModeFacts(
        removes=("the nftables tables ip kube-proxy and ip6 kube-proxy, with all that is in them",),
        leaves="What iptables mode wrote stays: its chains and the jumps to them. kube-proxy --cleanup removes them.",
        checks=(
            "ipset must be 6.0 or later",
            "a trial virtual server 198.51.100.0:20000/TCP with the scheduler must be accepted, unless one with that scheduler is there",
        ),
        least_kernel=None,
        writes=(
            Written("net.ipv4.ip_forward", 1, "packets go on to real servers", _always),
            Written(
                "net.ipv4.vs.conn_reuse_mode", 0, "before Linux 5.9 only: a SYN from a port in use goes to the same server",
                lambda s: s.kernel is not None and (4, 1) <= s.kernel < (5, 9),
            ),
            Written(
                "net.ipv4.conf.all.arp_ignore", 1, "strictARP: no answer for an address of another interface",
                lambda s: s.config.ipvs_strict_arp,
            ),
            Written(
                "net.ipv4.conf.all.arp_announce", 2, "strictARP: ARP requests carry the best local address",
                lambda s: s.config.ipvs_strict_arp,
            ),
        ),
        prepares=(
            "creates the dummy interface kube-ipvs0, at each sync if it is missing: it carries every cluster IP, and external and load balancer IPs that "
            "no other interface has",
            "begins to look every minute at real servers that drain: one goes when its last connection has, 2–3 minutes after its end (IPVS-6)",
        ),
        keeps_watch=lambda s: (
            f"has no canary: the sync every {format_duration(s.config.sync_period_ns)} (syncPeriod) writes everything again"
        ),
        when_idle=lambda c: f"a sync of everything every {format_duration(c.sync_period_ns)}",
        node_ports_by_default="all addresses of the node but loopback and kube-ipvs0, looked up at each sync",
        primary_by_default=False,
        without_detector=(
            "only what the node sends from one of its service addresses is masqueraded. A pod sees everybody else's real address. What "
            "comes from outside the cluster and is routed to a cluster IP fails wherever the way back leads past this node"
        ),
        short_circuits=False,
        invalid="no rule drops them",
        remarks=_ipvs_remarks,
    ),
}  # fmt: skip


def facts_of(situation: Situation) -> ModeFacts:
    """What is known of the mode of a situation."""
    return _FACTS[situation.config.mode]


def is_default(mode: Mode) -> bool:
    """Whether a configuration without mode means this one (CFG-9.1)."""
    return mode is DEFAULT_MODE


#: modes that read a field of another one's section (CFG-2.3)
_READ_BESIDE: Mapping[str, frozenset[Mode]] = {
    "iptables.masqueradeBit": frozenset((Mode.IPVS,)),
    "iptables.masqueradeAll": frozenset((Mode.IPVS,)),
}
SECTIONS = tuple(map(str, Mode))


def reads(mode: Mode, path: str) -> bool:
    """Whether a mode reads a field. Fields of no mode's section are read by all."""
    section = path.partition(".")[0]
    return section not in SECTIONS or section == str(mode) or mode in _READ_BESIDE.get(path, ())


def schedules_by_name(situation: Situation) -> tuple[str, ...]:
    """The schedulers that a kernel with ip_vs has, if the mode uses one; nothing otherwise."""
    if not situation.traits.schedules:
        return ()
    from kpsim.ipvs.schedulers import SCHEDULERS

    return tuple(SCHEDULERS)
