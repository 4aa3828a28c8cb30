"""What to change so that fewer connections are lost: each cause of losses with what helps, in numbers of this run.

``kpsim.risk.rules`` gives the same advice for a cluster before anything is lost. Here the losses are known, so a remedy says
how much is needed: how long pods have to answer follows from the load balancer's probes and from the longest sync lag.
"""

import math
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from kpsim.reports.faultspells import without_rules
from kpsim.reports.held_up import Held, attributed
from kpsim.reports.local_policy import service_of
from kpsim.reports.sentences import duration
from kpsim.reports.simulated import Simulated
from kpsim.reports.sync_lag import lag_ns
from kpsim.simulation.runlog import Connection, Frontend, HappeningKind, Reason, RunLog
from kpsim.units import SECOND_NS

MOST_REMEDIES = 6


@dataclass(frozen=True, slots=True)
class Remedy:
    """What helps against losses of one kind."""

    lost: int
    service: str
    cause: str
    words: str
    source: str  #: sections of the specification
    settings: str = ""  #: the ``--set`` options with which a run tries it; empty: no field does it alone


Losses = Sequence[Connection]
_Row = Callable[[RunLog, str, Losses, "Simulated | None"], Remedy | None]


def remedies(log: RunLog, told: Simulated | None = None) -> list[Remedy]:
    """Return what to change, for each Service and cause of losses, most losses first.

    Losses that are what the Service's author asks for, such as those to source ranges, have no remedy.
    """
    groups: dict[tuple[str, Reason, bool], list[Connection]] = {}
    for c in log.connections:
        if c.lost:
            groups.setdefault((service_of(c.service), c.cause, c.broken_ns is not None), []).append(c)
    found = []
    for (service, cause, broken), lost in groups.items():
        row = _broken(cause) if broken else _ROWS.get(cause)
        remedy = None if row is None else row(log, service, lost, told)
        if remedy is not None:
            found.append(remedy)
    return sorted(_merged(found), key=lambda each: (-each.lost, each.service, each.cause))[:MOST_REMEDIES]


def _merged(found: Sequence[Remedy]) -> list[Remedy]:
    """Tell the same remedy of one Service once, for all the causes that it helps against."""
    groups: dict[tuple[str, str], list[Remedy]] = {}
    for each in sorted(found, key=lambda each: -each.lost):
        groups.setdefault((each.service, each.words), []).append(each)
    return [
        replace(members[0], lost=sum(each.lost for each in members), cause=", ".join(each.cause for each in members))
        for members in groups.values()
    ]


def try_line(command: str, remedy: Remedy) -> str:
    """Return the command that runs the scenario again with the remedy; empty: none does."""
    return f"{command} {remedy.settings}" if command and remedy.settings else ""


# ---------------------------------------------------------------------------------------------------------------- rows


def _no_local_endpoint(log: RunLog, service: str, lost: Losses, told: Simulated | None) -> Remedy:
    inside = any(c.frontend is Frontend.CLUSTER_IP for c in lost)
    if inside:
        return Remedy(
            len(lost), service, Reason.NO_LOCAL_ENDPOINTS.value,
            "set internalTrafficPolicy: Cluster (trafficDistribution: PreferSameNode still prefers the own node), or run a pod on"
            " every node that has clients (a DaemonSet)",
            "T-2, T-6.3", _policy(told, service, "internalTrafficPolicy"),
        )  # fmt: skip
    cluster = "externalTrafficPolicy: Cluster also helps; pods then see nodes' addresses in place of the clients'"
    balancer = next((b for b in log.balancers if b.service == service), None)
    if balancer is None or not any(c.frontend is Frontend.LOAD_BALANCER for c in lost):
        return Remedy(
            len(lost), service, Reason.NO_LOCAL_ENDPOINTS.value,
            f"dial only nodes that have an endpoint: nothing tells clients of node ports. {cluster}", "T-2, PP-11.7",
            _policy(told, service, "externalTrafficPolicy"),
        )  # fmt: skip
    if not _ended_pods(log):
        return Remedy(
            len(lost), service, Reason.NO_LOCAL_ENDPOINTS.value,
            f"take a node without endpoint out of rotation sooner: its load balancer needs up to"
            f" {duration(balancer.worst_window_ns)}. {cluster}", "PP-11.7, FIG-3", _policy(told, service, "externalTrafficPolicy"),
        )  # fmt: skip
    seconds = _seconds_up(balancer.worst_window_ns + _longest_lag_ns(log, service))
    return Remedy(
        len(lost), service, Reason.NO_LOCAL_ENDPOINTS.value,
        f"let pods answer for {seconds} s after their deletion, by a preStop hook that sleeps, with a grace period beyond it: the"
        f" load balancer sends to their node for up to {duration(balancer.worst_window_ns)} more (FIG-3), and a change took up to"
        f" {duration(_longest_lag_ns(log, service))} to reach the rules. {cluster}",
        "PP-11.7, FIG-3, T-2.2", _pre_stop(told, service, seconds),
    )  # fmt: skip


def _endpoint_gone(log: RunLog, service: str, lost: Losses, told: Simulated | None) -> Remedy:
    pinned = [c for c in lost if c.pin is not None]
    if 2 * len(pinned) > len(lost):
        return Remedy(
            len(lost), service, f"{Reason.ENDPOINT_GONE.value}, by connection entries",
            "keep at least one endpoint serving, as kube-proxy deletes the UDP entries of Services that have one only, or let clients"
            " open a fresh socket when nothing answers",
            "CT-2.1, CT-2.2, CT-3.5",
        )  # fmt: skip
    failed = sum(not sync.success for sync in log.syncs)
    if failed:
        return Remedy(
            len(lost), service, Reason.ENDPOINT_GONE.value,
            f"find out why syncs fail: {failed} did, and a node whose sync fails keeps its old rules until one succeeds",
            "CP-9, CP-10.2",
        )  # fmt: skip
    if not _deleted(log, lost):
        return Remedy(
            len(lost), service, Reason.ENDPOINT_GONE.value,
            "the pods were not deleted but crashed, or their node went: no hook runs then. Let clients try again for longer than a change"
            f" takes to reach the rules, here up to {duration(_longest_lag_ns(log, service))}",
            "CP-1.2, CP-2.8",
        )  # fmt: skip
    outside = [c for c in lost if c.traffic_policy == "Local" and c.frontend is not Frontend.CLUSTER_IP]
    if 2 * len(outside) > len(lost):
        # a node goes on sending to its last endpoint while that terminates and serves (T-2.2): so its end counts, too
        return replace(_no_local_endpoint(log, service, lost, told), cause=Reason.ENDPOINT_GONE.value)
    seconds = _seconds_up(_longest_lag_ns(log, service))
    if seconds > _LONGEST_HOOK_S and _api_was_away(log) and _mostly(log, lost, _WRITTEN_LATE):
        return Remedy(
            len(lost), service, Reason.ENDPOINT_GONE.value,
            "have the API server back sooner, or run several: while it is away no rule changes, and informers and controllers come back later"
            f" than it does. Nodes sent to pods that had ended for up to {duration(_longest_lag_ns(log, service))}: longer than a preStop"
            " hook can reasonably last, so let clients try again elsewhere",
            "CP-3.2, CP-6.3",
        )  # fmt: skip
    return Remedy(
        len(lost), service, Reason.ENDPOINT_GONE.value,
        f"let pods answer for at least {seconds} s after their deletion, by a preStop hook that sleeps: a change took up to"
        f" {duration(_longest_lag_ns(log, service))} to reach the rules, and until then nodes send to pods that have ended",
        "CP-1.2, CP-2.8, T-2.3", _pre_stop(told, service, seconds),
    )  # fmt: skip


def _not_captured(log: RunLog, service: str, lost: Losses, _told: Simulated | None) -> Remedy | None:
    """Rules that were removed; what no rule ever captured is a matter of what was dialled."""
    if not any(h.kind is HappeningKind.RULES_FLUSHED for h in log.happenings) or not _mostly(log, lost, {Held.REMOVED}):
        return None
    nodes = {c.node for c in lost}
    gone_ns = max((end - begin for node in nodes for begin, end, _ in without_rules(log, node)), default=0)
    return Remedy(
        len(lost), service, f"{Reason.NOT_CAPTURED.value}, as rules were removed",
        "find what removes rules on these nodes (firewall services and boot scripts flush them), and restart kube-proxy there when it"
        f" happens: its first sync writes all of them. Here they were gone for up to {duration(gone_ns)}, since kube-proxy looks after"
        " its chains in iptables mode alone, and elsewhere writes them with its next full sync",
        "CP-13",
    )  # fmt: skip


def _fixed(cause: Reason, words: str, source: str) -> _Row:
    def row(_log: RunLog, service: str, lost: Losses, _told: Simulated | None) -> Remedy:
        return Remedy(len(lost), service, cause.value, words, source)

    return row


_ROWS: dict[Reason, _Row] = {
    Reason.NO_LOCAL_ENDPOINTS: _no_local_endpoint,
    Reason.ASYMMETRIC_REPLY: _fixed(
        Reason.ASYMMETRIC_REPLY,
        "keep an endpoint on every node that gets traffic, or set externalTrafficPolicy: Cluster: ipvs mode sends what it has no local"
        " endpoint for to other nodes, whose answer comes from another address",
        "IPVS-5.1, IPVS-15",
    ),
    Reason.ENDPOINT_GONE: _endpoint_gone,
    Reason.NOT_CAPTURED: _not_captured,
    Reason.NO_ENDPOINTS: _fixed(
        Reason.NO_ENDPOINTS,
        "keep an endpoint ready at all times: more replicas on several nodes, maxUnavailable 0 with maxSurge 1, a PodDisruptionBudget"
        " with minAvailable 1; or clients that try again for longer than it takes",
        "T-2, T-2.3",
    ),
    Reason.NODE_DOWN: _fixed(
        Reason.NODE_DOWN,
        "nothing tells clients at once that a machine is off: let load balancers probe more often, let clients try again elsewhere, and"
        " spread replicas over nodes and zones; endpoints of a lost node stay until the node monitor's grace period is over",
        "CP-2.9, CP-2.9.1",
    ),
    Reason.NO_HEALTHY_NODE: _fixed(
        Reason.NO_HEALTHY_NODE,
        "keep a node in rotation: endpoints on more nodes, a surge in place of unavailable pods, or a load balancer that fails open",
        "PP-11.7, FIG-3",
    ),
    Reason.MISDELIVERED: _fixed(
        Reason.MISDELIVERED,
        "give addresses of pods out again later, and let pods answer until all rules have changed",
        "CT-3.5, CP-2.8",
    ),
    Reason.OLDER_THAN_SERVICE: _fixed(
        Reason.OLDER_THAN_SERVICE,
        "let clients open a fresh socket: an entry that is older than the Service's rules is never translated",
        "CT-3.5",
    ),
    Reason.TABLE_FULL: _fixed(
        Reason.TABLE_FULL, "raise nf_conntrack_max (conntrack.maxPerCore), or shorten the timeouts", "CT-7.2, CFG-4"
    ),
    Reason.PACKET_LOST: _fixed(
        Reason.PACKET_LOST,
        "let clients wait long enough for repeated SYNs (1 s, 3 s, 7 s), and let those that send datagrams ask again",
        "CT-9",
    ),
    Reason.NO_HAIRPIN: _fixed(
        Reason.NO_HAIRPIN, "set the hairpin mode of the pods' bridge ports (kubelet's or the plugin's hairpinMode)", "K-2.6"
    ),
    Reason.REVERSE_PATH: _fixed(
        Reason.REVERSE_PATH, "set rp_filter 2 (loose), or routes that lead back by the interface that packets come in by", "K-7.3"
    ),
    Reason.SERVER_DRAINING: _fixed(
        Reason.SERVER_DRAINING, "use a scheduler of ip_vs that turns to other servers, such as rr or lc, not sh or mh", "IPVS-14"
    ),
    Reason.FOREIGN_RULE: _fixed(
        Reason.FOREIGN_RULE, "change the rule of the other program that stopped the packets; a trace below names it", "I-3"
    ),
}  # fmt: skip

_BROKEN: dict[Reason, _Row] = {
    Reason.ENDPOINT_GONE: _fixed(
        Reason.ENDPOINT_GONE,
        "let pods live until their connections have ended (preStop and grace period), or let clients reconnect in time: no mode of"
        " kube-proxy keeps a pod alive for its connections",
        "CP-2.8, IPVS-13.1",
    ),
    Reason.FORGOTTEN: _fixed(
        Reason.FORGOTTEN,
        "let clients send keep-alives, or raise ipvs.tcpTimeout (--ipvs-tcp-timeout): ip_vs forgets idle connections after it",
        "IPVS-12.3",
    ),
    Reason.CUT: _fixed(
        Reason.CUT,
        "let the load balancer keep connections to nodes that are unhealthy or leave, with a deregistration delay beyond their length",
        "CP-14.3",
    ),
    Reason.REHASHED: _fixed(
        Reason.REHASHED,
        "put a load balancer in front that knows connections: routers distribute every packet anew when the set of nodes changes",
        "K-6.3",
    ),
    Reason.NODE_DOWN: _fixed(
        Reason.NODE_DOWN,
        "drain a node before it is switched off, and let clients reconnect: connections through a machine end with it",
        "CP-2.9",
    ),
}


def _broken(cause: Reason) -> _Row | None:
    return _BROKEN.get(cause)


# ------------------------------------------------------------------------------------------------------------- numbers


def _ended_pods(log: RunLog) -> bool:
    return any(h.kind is HappeningKind.POD_TERMINATING for h in log.happenings)


def _deleted(log: RunLog, lost: Losses) -> bool:
    """Return whether most of the lost connections led to pods that had been deleted, so that a preStop hook would have run."""
    deleted = {h.subject for h in log.happenings if h.kind is HappeningKind.POD_TERMINATING}
    ends = {spell.endpoint for spell in log.endpoints if spell.pod in deleted}
    return 2 * sum(c.endpoint in ends for c in lost) >= len(lost)


#: stages that wait for the API server
_WRITTEN_LATE = frozenset({Held.STATUS, Held.SEE, Held.SLICE, Held.DELIVER})
_API_AWAY = frozenset({HappeningKind.API_SERVER_DOWN, HappeningKind.API_SERVER_BUSY, HappeningKind.NODE_CUT_OFF})


def _api_was_away(log: RunLog) -> bool:
    return any(fault.kind in _API_AWAY for fault in log.faults)


def _mostly(log: RunLog, lost: Losses, held: Collection[Held]) -> bool:
    """Return whether one of these held up the news for most of the lost connections."""
    wanted = set(map(id, lost))
    found = sum(by in held for c, by in attributed(log) if id(c) in wanted)
    return 2 * found > len(lost)


def _longest_lag_ns(log: RunLog, service: str) -> int:
    return max((lag_ns(p) for p in log.programming if p.service == service), default=SECOND_NS)


def _seconds_up(ns: int) -> int:
    return max(1, math.ceil(ns / SECOND_NS))


def _pre_stop(told: Simulated | None, service: str, seconds: int) -> str:
    workload = None if told is None else told.workloads.get(service)
    if workload is None:
        return ""
    settings = [f"workloads[{workload}].termination.preStop={seconds}s"]
    if seconds >= _GRACE_S:
        settings.append(f"workloads[{workload}].termination.grace={seconds + _GRACE_S}s")
    return " ".join(f"--set {shlex.quote(each)}" for each in settings)


_LONGEST_HOOK_S = 60  #: longer than this no pod is kept waiting for its end
_GRACE_S = 30  #: the default grace period, in which the hook has to end


def _policy(told: Simulated | None, service: str, field: str) -> str:
    if told is None or service not in told.inline:
        return ""
    return f"--set {shlex.quote(f'objects[{service}].spec.{field}=Cluster')}"
