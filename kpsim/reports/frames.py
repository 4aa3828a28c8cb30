"""The run log and its reports as pandas frames: declared columns, the same names and dtypes when a frame is empty.

Times are integers in nanoseconds since the start of the run (``_ns``); beside each stands the same time in seconds as a
float. The figures come from the accounting modules; this module computes none.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

from kpsim.reports.affinity import Affinity, AffinityBreak, affinity_breaks, affinity_by_client
from kpsim.reports.balancing import BlackHole, black_holes
from kpsim.reports.columns import Column, Record, frame_of
from kpsim.reports.held_up import HeldUp, held_up
from kpsim.reports.local_policy import (
    LocalBin,
    LocalDrop,
    LocalDropWindow,
    local_bins,
    local_drop_windows,
    local_drops,
)
from kpsim.reports.overview import Group, count_groups
from kpsim.reports.pinned import PinnedFlows, pinned_flows
from kpsim.reports.sync_lag import LagQuantiles, Stage, all_quantiles, lag_ns, skew_ns, stage_ns, unreported, write_ns
from kpsim.reports.watch_traffic import WatchTotal, watch_totals
from kpsim.simulation.runlog import (
    Connection,
    Happening,
    NodeHealth,
    Pin,
    Programming,
    RunLog,
    Sync,
    Unprogrammed,
    WatchWrite,
)
from kpsim.units import SECOND_NS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Table(Generic[Record]):
    """A declared frame: one row for each record."""

    name: str
    meaning: str
    records: Callable[[RunLog], Sequence[Record]]
    columns: tuple[Column[Record], ...]

    def frame(self, log: RunLog) -> "pd.DataFrame":
        """Return the log's records under the declared columns."""
        return self.frame_of(self.records(log))

    def frame_of(self, records: Iterable[Record]) -> "pd.DataFrame":
        """Return these records under the declared columns."""
        return frame_of(self.columns, records)


_DISPOSITIONS = "delivered, rejected, dropped, failed or misdelivered"


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / SECOND_NS


def _times(
    name: str, meaning: str, read: Callable[[Record], int | None], dtype: str = "int64"
) -> tuple[Column[Record], Column[Record]]:
    return (
        Column(f"{name}_ns", dtype, "ns", meaning, read),
        Column(f"{name}_seconds", "float64", "s", meaning, lambda record: _seconds(read(record))),
    )


def _pinned(read: Callable[[Pin], Any], missing: Any) -> Callable[[Connection], Any]:
    return lambda c: missing if c.pin is None else read(c.pin)


def _first_write(change: Programming) -> str:
    return "" if change.cause is None else change.cause.change


def _bounds(row: LagQuantiles) -> str:
    return " ".join(name for name, _ in row.quantiles.named() if name in row.quantiles.at_least)


def _watched(read: Callable[[NodeHealth], int | bool]) -> Callable[[LocalDrop], int | bool | None]:
    return lambda drop: None if drop.health is None else read(drop.health)


CONNECTIONS: Table[Connection] = Table(
    "connections",
    "one connection attempt or UDP datagram a row, in time order",
    lambda log: log.connections,
    (
        *_times("at", "when it was sent", lambda c: c.at_ns),
        Column("traffic", "str", "", "traffic source of the scenario", lambda c: c.traffic),
        Column("client", "str", "", "the client's address before any translation", lambda c: c.client),
        Column("source_ip", "str", "", "source address at the node that decided", lambda c: c.source_ip),
        Column("source_port", "int64", "", "source port", lambda c: c.source_port),
        Column("frontend", "str", "", "clusterIP, nodePort, externalIP or loadBalancer", lambda c: c.frontend.value),
        Column("service", "str", "", "namespace/name:port", lambda c: c.service),
        Column("protocol", "str", "", "TCP, UDP or SCTP", lambda c: c.protocol),
        Column(
            "traffic_policy", "str", "", "Cluster or Local, as it applied to the address", lambda c: c.traffic_policy
        ),
        Column("node", "str", "", "whose rules decided, or which was off; empty: none", lambda c: c.node),
        Column("disposition", "str", "", _DISPOSITIONS, lambda c: c.disposition.value),
        Column("cause", "str", "", "why it did not end well; empty: it did", lambda c: c.cause.value),
        Column("endpoint", "str", "", "ip:port it was sent to; empty: none", lambda c: c.endpoint),
        Column("endpoint_node", "str", "", "the endpoint's node", lambda c: c.endpoint_node),
        Column("seen_source_ip", "str", "", "source address as the endpoint saw it", lambda c: c.seen_source_ip),
        Column("answered_by", "str", "", "the pod that answered; empty: none", lambda c: c.answered_by),
        Column("new_flow", "bool", "", "false: it followed a conntrack entry", lambda c: c.new_flow),
        Column("rule", "str", "", "rule that rejected or dropped it", lambda c: c.rule),
        Column("session_affinity", "bool", "", "the service port has ClientIP affinity", lambda c: c.session_affinity),
        Column(
            "affinity_break",
            "str",
            "",
            "why the client left its endpoint; empty: it did not",
            lambda c: c.affinity_break,
        ),
        *_times(
            "broken_at", "when it broke after it had been set up; missing: it did not", lambda c: c.broken_ns, "Int64"
        ),
        *_times("closes_at", "when it was to be closed; missing: no long one", lambda c: c.closes_ns, "Int64"),
        Column(
            "pin", "str", "", "how an entry overrode the rules; empty: none did", _pinned(lambda p: p.kind.value, "")
        ),
        Column("syn_retries", "int64", "", "how often its SYN was repeated", lambda c: c.syn_retries),
        Column("tries", "int64", "", "how often the client tried", lambda c: c.tries),
        Column("reused", "bool", "", "a request over a connection that was open already", lambda c: c.reused),
        Column("number", "int64", "", "which of its source's: kpsim run --trace SOURCE#NUMBER", lambda c: c.number),
        *_times(
            "connect_time",
            "until it was set up; missing: it was not, or was open",
            lambda c: c.connect_time_ns,
            "Int64",
        ),
        *_times("pin_entry", "when that entry was made; missing: none", _pinned(lambda p: p.entry_ns, None), "Int64"),
        *_times("pin_since", "since when the rules say otherwise", _pinned(lambda p: p.since_ns, None), "Int64"),
        Column("clean_up", "str", "", "why the clean-up left it", _pinned(lambda p: p.clean_up.value, "")),
    ),
)

OVERVIEW: Table[Group] = Table(
    "overview",
    "connections alike in all these columns, counted",
    count_groups,
    (
        Column("service", "str", "", "namespace/name:port", lambda g: g.service),
        Column("traffic_policy", "str", "", "Cluster or Local", lambda g: g.traffic_policy),
        Column("frontend", "str", "", "address that the client used", lambda g: g.frontend.value),
        Column("traffic", "str", "", "traffic source of the scenario", lambda g: g.traffic),
        Column("node", "str", "", "whose rules decided; empty: none", lambda g: g.node),
        Column("disposition", "str", "", _DISPOSITIONS, lambda g: g.disposition.value),
        Column("cause", "str", "", "why it did not end well; empty: it did", lambda g: g.cause.value),
        Column("broken", "bool", "", "they were set up and broke later", lambda g: g.broken),
        Column("retried", "bool", "", "their SYN was repeated", lambda g: g.retried),
        Column("again", "bool", "", "the client tried again", lambda g: g.again),
        Column("reused", "bool", "", "requests over open connections", lambda g: g.reused),
        Column("pin", "str", "", "how an entry overrode the rules; empty: none did", lambda g: g.pin),
        Column("connections", "int64", "connections", "how many", lambda g: g.connections),
    ),
)

AFFINITY: Table[Affinity] = Table(
    "affinity",
    "one client of one service port with ClientIP affinity a row",
    affinity_by_client,
    (
        Column("service", "str", "", "namespace/name:port", lambda a: a.service),
        Column("client", "str", "", "the client's address before any translation", lambda a: a.client),
        Column("decisions", "int64", "connections", "new flows", lambda a: a.decisions),
        Column("distinct_endpoints", "int64", "endpoints", "endpoints it was sent to", lambda a: a.distinct_endpoints),
        Column("returns", "int64", "connections", "decisions after first contact", lambda a: a.returns),
        Column("stays", "int64", "connections", "returns to the former endpoint", lambda a: a.stays),
        Column("breaks", "int64", "connections", "returns that led elsewhere", lambda a: a.broken),
        Column("stay_ratio", "float64", "", "stays per return; missing: it never came back", lambda a: a.stay_ratio),
    ),
)

AFFINITY_BREAKS: Table[AffinityBreak] = Table(
    "affinity_breaks",
    "one client leaving its endpoint a row, in time order",
    affinity_breaks,
    (
        *_times("at", "when", lambda b: b.at_ns),
        Column("service", "str", "", "namespace/name:port", lambda b: b.service),
        Column("client", "str", "", "the client's address before any translation", lambda b: b.client),
        Column("node", "str", "", "whose rules decided", lambda b: b.node),
        Column(
            "cause",
            "str",
            "",
            "endpoint gone, zone hints, traffic policy, timeout, list full, other node, other address",
            lambda b: b.cause,
        ),
        Column("former_endpoint", "str", "", "where it was sent before", lambda b: b.former_endpoint),
        Column("endpoint", "str", "", "where it was sent now; empty: nowhere", lambda b: b.endpoint),
    ),
)

PINNED: Table[PinnedFlows] = Table(
    "pinned_flows",
    "flows that one node's entries held to one place against the rules, one state of the rules a row",
    pinned_flows,
    (
        Column("service", "str", "", "namespace/name:port", lambda p: p.service),
        Column("node", "str", "", "whose connection table", lambda p: p.node),
        Column("kind", "str", "", "how the entries differ from the rules", lambda p: p.kind.value),
        Column("leads_to", "str", "", "ip:port that the entries send to", lambda p: p.leads_to),
        Column("flows", "int64", "flows", "how many", lambda p: p.flows),
        Column("connections", "int64", "connections", "lost ones", lambda p: p.connections),
        *_times("start", "first loss", lambda p: p.start_ns),
        *_times("end", "last loss", lambda p: p.end_ns),
        *_times("first_entry", "when the oldest entry was made", lambda p: p.first_entry_ns),
        *_times("last_entry", "when the newest entry was made", lambda p: p.last_entry_ns),
        *_times("since", "since when the rules say otherwise; missing: unknown", lambda p: p.since_ns, "Int64"),
        Column("clean_up", "str", "", "why kube-proxy's clean-up left the entries", lambda p: p.clean_up.value),
    ),
)

LOAD_BALANCERS: Table[BlackHole] = Table(
    "load_balancers",
    "one load balancer a row, and how long it sent to a node whose check failed",
    black_holes,
    (
        Column("service", "str", "", "namespace/name", lambda h: h.balancer.service),
        Column("preset", "str", "", "its preset; empty: none", lambda h: h.balancer.preset),
        *_times("interval", "between checks of a node", lambda h: h.balancer.interval_ns),
        Column("unhealthy_threshold", "int64", "checks", "failures needed", lambda h: h.balancer.unhealthy_threshold),
        *_times("worst_window", "(threshold + 1) × interval", lambda h: h.balancer.worst_window_ns),
        *_times("longest_window", "longest time in rotation with a failing check", lambda h: h.length_ns),
        Column("node", "str", "", "at which node; empty: at none", lambda h: h.node),
        *_times("start", "since when", lambda h: h.since_ns, "Int64"),
    ),
)

LOCAL_DROPS: Table[LocalDrop] = Table(
    "local_drops",
    "one connection lost to externalTrafficPolicy Local a row, with the node's health at that instant",
    local_drops,
    (
        *_times("at", "when its last packet was sent", lambda d: d.connection.last_try_ns),
        Column("service", "str", "", "namespace/name:port", lambda d: d.connection.service),
        Column("node", "str", "", "where; empty: before any node", lambda d: d.connection.node),
        Column("client", "str", "", "the client's address", lambda d: d.connection.client),
        Column("frontend", "str", "", "address that the client used", lambda d: d.connection.frontend.value),
        Column("disposition", "str", "", "dropped or rejected", lambda d: d.connection.disposition.value),
        Column("cause", "str", "", "why", lambda d: d.connection.cause.value),
        Column("health_view", "str", "", "how the load balancer stood to the node", lambda d: d.view.value),
        Column("in_rotation", "boolean", "", "the load balancer sends to the node; missing: not watched", _watched(lambda h: h.in_rotation)),
        Column("check_passes", "boolean", "", "the health check would answer 200", _watched(lambda h: h.check_passes)),
        Column("local_endpoints", "Int64", "endpoints", "local ready endpoints known to kube-proxy", _watched(lambda h: h.local_endpoints)),
        Column("local_usable", "Int64", "endpoints", "local endpoints in the node's rules", _watched(lambda h: h.local_usable)),
    ),
)  # fmt: skip

LOCAL_DROP_WINDOWS: Table[LocalDropWindow] = Table(
    "local_drop_windows",
    "one run of local drops at one node a row: no delivery and no change of the node's state in between",
    local_drop_windows,
    (
        Column("service", "str", "", "namespace/name:port", lambda w: w.service),
        Column("node", "str", "", "where; empty: before any node", lambda w: w.node),
        Column("disposition", "str", "", "dropped or rejected", lambda w: w.disposition.value),
        Column("cause", "str", "", "why", lambda w: w.cause.value),
        *_times("start", "first drop", lambda w: w.start_ns),
        *_times("end", "last drop", lambda w: w.end_ns),
        Column("dropped", "int64", "connections", "how many", lambda w: w.dropped),
        Column("in_rotation", "boolean", "", "the load balancer sent to the node; missing: not watched", lambda w: w.in_rotation),
        *_times("no_local_since", "when the node's rules lost the last local endpoint", lambda w: w.no_local_since_ns, "Int64"),
        *_times("check_failed", "when the health check began to fail", lambda w: w.check_failed_ns, "Int64"),
        *_times("left_rotation", "when the load balancer stopped sending to the node", lambda w: w.left_rotation_ns, "Int64"),
    ),
)  # fmt: skip

LOCAL_BINS: Table[LocalBin] = Table(
    "local_drop_bins",
    "external Local traffic of one service port on one node in one stretch of time a row",
    local_bins,
    (
        *_times("start", "start of the stretch", lambda b: b.start_ns),
        *_times("end", "end of the stretch", lambda b: b.end_ns),
        Column("service", "str", "", "namespace/name:port", lambda b: b.service),
        Column("node", "str", "", "where; empty: before any node", lambda b: b.node),
        Column("received", "int64", "connections", "external connections", lambda b: b.received),
        Column("delivered", "int64", "connections", "delivered ones", lambda b: b.delivered),
        Column("dropped", "int64", "connections", "local drops", lambda b: b.dropped),
        Column("in_rotation_ratio", "float64", "", "share of the time in rotation; missing: not watched", lambda b: b.in_rotation_ratio),
        Column("usable_ratio", "float64", "", "share of the time with a usable local endpoint; missing: not watched", lambda b: b.usable_ratio),
    ),
)  # fmt: skip

HELD_UP: Table[HeldUp] = Table(
    "held_up",
    "lost connections alike in service port, node, cause and what held up the news a row, most first",
    held_up,
    (
        Column("service", "str", "", "namespace/name:port", lambda h: h.service),
        Column("node", "str", "", "where; empty: before any node", lambda h: h.node),
        Column("held_up", "str", "", "the stage, or what else: see the figures held_up", lambda h: h.held.value),
        Column("of_time", "bool", "", "it would have gone well a little earlier or later", lambda h: h.held.of_time),
        Column("cause", "str", "", "why it was lost", lambda h: h.cause.value),
        Column("connections", "int64", "connections", "how many", lambda h: h.connections),
        *_times("start", "when the first sent its deciding packet", lambda h: h.start_ns),
        *_times("end", "when the last did", lambda h: h.end_ns),
    ),
)

SYNC_LAG: Table[Programming] = Table(
    "sync_lag",
    "one change reaching one node's rules a row",
    lambda log: log.programming,
    (
        Column("change", "str", "", "object and change number", lambda p: p.change),
        Column("service", "str", "", "namespace/name", lambda p: p.service),
        Column("node", "str", "", "whose rules", lambda p: p.node),
        Column("family", "str", "", "IP family of the rules", lambda p: p.family),
        *_times("trigger", "when the cause happened", lambda p: p.trigger_ns),
        *_times("write", "duration: trigger until the API server had it", write_ns),
        *_times("notice", "of that: until its first writer knew of it", lambda p: stage_ns(p, Stage.NOTICE)),
        *_times("status", "of that: until the API server had the first write", lambda p: stage_ns(p, Stage.STATUS)),
        *_times("see", "of that: until the controller saw it", lambda p: stage_ns(p, Stage.SEE)),
        *_times("slice", "of that: until the controller's answer was written", lambda p: stage_ns(p, Stage.SLICE)),
        *_times("deliver", "duration: until the node's informer handler had it", lambda p: stage_ns(p, Stage.DELIVER)),
        *_times("wait", "duration: until the sync started", lambda p: stage_ns(p, Stage.WAIT)),
        *_times("sync", "duration: until the rules were in force", lambda p: stage_ns(p, Stage.SYNC)),
        *_times("lag", "duration: all of these together", lag_ns),
        *_times(
            "reported", "duration as kube-proxy reports it; missing: it does not", lambda p: p.reported_ns, "Int64"
        ),
        *_times("skew", "by how much that exceeds the lag; missing: not reported", skew_ns, "Int64"),
        Column(
            "unreported",
            "str",
            "",
            "why it does not: no trigger time, or lost; empty: it does",
            lambda p: unreported(p) or "",
        ),
        Column("cause", "str", "", "the first write; empty: the change itself", _first_write),
    ),
)

UNPROGRAMMED: Table[Unprogrammed] = Table(
    "unprogrammed",
    "one change that had not reached one node's rules when the run ended a row",
    lambda log: log.unprogrammed,
    (
        Column("change", "str", "", "object and change number", lambda u: u.change),
        Column("service", "str", "", "namespace/name", lambda u: u.service),
        Column("node", "str", "", "whose rules", lambda u: u.node),
        Column("family", "str", "", "IP family of the rules", lambda u: u.family),
        *_times("trigger", "when the cause happened", lambda u: u.trigger_ns),
        *_times("written", "when the API server stored it", lambda u: u.written_ns),
    ),
)

SYNC_LAG_QUANTILES: Table[LagQuantiles] = Table(
    "sync_lag_quantiles",
    "nearest-rank quantiles of one duration at one node a row",
    all_quantiles,
    (
        Column("node", "str", "", "empty: all nodes together", lambda q: q.node),
        Column(
            "stage",
            "str",
            "",
            "lag, reported, a stage, or write: notice, status, see and slice together",
            lambda q: q.stage,
        ),
        Column("count", "int64", "changes", "samples", lambda q: q.quantiles.count),
        *_times("p50", "median", lambda q: q.quantiles.p50_ns, "Int64"),
        *_times("p90", "90 % of the samples do not exceed it", lambda q: q.quantiles.p90_ns, "Int64"),
        *_times("p99", "99 % of the samples do not exceed it", lambda q: q.quantiles.p99_ns, "Int64"),
        *_times("max", "longest", lambda q: q.quantiles.max_ns, "Int64"),
        Column("at_least", "str", "", "which of them are lower bounds, joined by spaces", _bounds),
    ),
)

SYNCS: Table[Sync] = Table(
    "syncs",
    "one run of one node's sync loop a row, in time order",
    lambda log: log.syncs,
    (
        Column("node", "str", "", "whose", lambda s: s.node),
        Column("family", "str", "", "IP family", lambda s: s.family),
        *_times("start", "when it started", lambda s: s.start_ns),
        *_times("end", "when it ended", lambda s: s.end_ns),
        *_times("duration", "how long it took", lambda s: s.end_ns - s.start_ns),
        *_times("requested", "first request that it answers; missing: none", lambda s: s.requested_ns, "Int64"),
        Column("full", "bool", "", "full sync; false: partial", lambda s: s.full),
        Column("success", "bool", "", "the rules were loaded", lambda s: s.success),
        Column("services_changed", "int64", "services", "services with changes", lambda s: s.services_changed),
        Column("rules_nat", "int64", "rules", "rules in nat", lambda s: s.rules_nat),
        Column("rules_filter", "int64", "rules", "rules in filter", lambda s: s.rules_filter),
        Column("rules", "int64", "rules", "rules of kube-proxy in all tables", lambda s: s.rules),
        Column("rules_written", "int64", "rules", "rules that it wrote", lambda s: s.rules_written),
    ),
)

NODE_HEALTH: Table[NodeHealth] = Table(
    "node_health",
    "what a load balancer believes of a node, and what is true, one change a row",
    lambda log: log.node_health,
    (
        *_times("at", "from when on", lambda h: h.at_ns),
        Column("service", "str", "", "namespace/name", lambda h: h.service),
        Column("node", "str", "", "which", lambda h: h.node),
        Column("in_rotation", "bool", "", "the load balancer sends new connections to it", lambda h: h.in_rotation),
        Column("check_passes", "bool", "", "the health check node port would answer 200", lambda h: h.check_passes),
        Column("local_endpoints", "int64", "endpoints", "local ready endpoints known to kube-proxy", lambda h: h.local_endpoints),
        Column("local_usable", "int64", "endpoints", "local endpoints in the node's rules", lambda h: h.local_usable),
    ),
)  # fmt: skip

HAPPENINGS: Table[Happening] = Table(
    "happenings",
    "one event a row, in time order",
    lambda log: log.happenings,
    (
        *_times("at", "when", lambda h: h.at_ns),
        Column("kind", "str", "", "such as rollout, pod gone, sync failed", lambda h: h.kind.value),
        Column("subject", "str", "", "what it happened to", lambda h: h.subject),
        Column("detail", "str", "", "more", lambda h: h.detail),
    ),
)

WATCH_TRAFFIC: Table[WatchTotal] = Table(
    "watch_traffic",
    "what the API server sent to watchers of one kind of endpoint objects of a Service, one of each a row",
    watch_totals,
    (
        Column("service", "str", "", "namespace/name", lambda t: t.service),
        Column("kind", "str", "", "EndpointSlice or Endpoints", lambda t: t.kind),
        Column("writes", "int64", "writes", "how many", lambda t: t.writes),
        Column("most_endpoints", "int64", "endpoints", "in one object", lambda t: t.most_endpoints),
        Column("largest_bytes", "int64", "B", "the largest watch event", lambda t: t.largest_bytes),
        Column("object_bytes", "int64", "B", "of all writes, each once", lambda t: t.object_bytes),
        Column("events", "int64", "events", "each write once for each watcher", lambda t: t.events),
        Column("sent_bytes", "int64", "B", "what all watchers got", lambda t: t.sent_bytes),
    ),
)

WATCH_WRITES: Table[WatchWrite] = Table(
    "watch_writes",
    "one write of an EndpointSlice or an Endpoints object a row, in time order",
    lambda log: log.watched,
    (
        *_times("at", "when it was stored", lambda w: w.at_ns),
        Column("kind", "str", "", "EndpointSlice or Endpoints", lambda w: w.kind),
        Column("event", "str", "", "ADDED, MODIFIED or DELETED", lambda w: w.event),
        Column("name", "str", "", "of the object", lambda w: w.name),
        Column("service", "str", "", "namespace/name", lambda w: w.service),
        Column("endpoints", "int64", "endpoints", "that the object lists", lambda w: w.endpoints),
        Column("bytes", "int64", "B", "of one watch event", lambda w: w.bytes),
        Column("proxies", "int64", "watchers", "kube-proxies that got it", lambda w: w.proxies),
        Column("others", "int64", "watchers", "others that got it, kube-controller-manager among them", lambda w: w.others),
        Column("sent_bytes", "int64", "B", "what all of them got", lambda w: w.sent_bytes),
    ),
)  # fmt: skip

TABLES: tuple[Table[Any], ...] = (
    OVERVIEW,
    CONNECTIONS,
    AFFINITY,
    AFFINITY_BREAKS,
    PINNED,
    LOAD_BALANCERS,
    LOCAL_DROPS,
    LOCAL_DROP_WINDOWS,
    LOCAL_BINS,
    HELD_UP,
    SYNC_LAG,
    UNPROGRAMMED,
    SYNC_LAG_QUANTILES,
    SYNCS,
    NODE_HEALTH,
    HAPPENINGS,
    WATCH_TRAFFIC,
    WATCH_WRITES,
)
