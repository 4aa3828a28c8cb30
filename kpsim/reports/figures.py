"""The figures of a run under dotted names. Expectations compare them, and `summary.json` holds them.

`SCHEME` is the whole vocabulary. Every figure of the nodes, sources and service ports that the scenario names exists in
every run, at zero or NaN (*undefined*: a ratio of nothing, a quantile of no samples). The log may add service ports
that patches made.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from typing import NamedTuple, assert_never

from kpsim.errors import InputError, Problem
from kpsim.pins import PinKind
from kpsim.reports.affinity import Affinity, BreakCause, affinity_by_client, affinity_by_service, affinity_total
from kpsim.reports.balancing import black_holes, connect_times
from kpsim.reports.held_up import HELD_MEANING, Held, count_held
from kpsim.reports.local_policy import NOT_OF_THE_POLICY, local_drops
from kpsim.reports.overview import GroupField, Tally, count_groups, nodes_of, tally, tally_by
from kpsim.reports.shares import address_of, pod_figure, shares_of
from kpsim.reports.sync_lag import (
    Quantiles,
    Unreported,
    lag_by_node,
    lag_quantiles,
    quantiles,
    reported_ns,
    skew_ns,
    stage_quantiles,
    unreported,
    write_ns,
)
from kpsim.reports.watch_traffic import refused_writes, watch_sums
from kpsim.simulation.runlog import Connection, Fate, Frontend, HappeningKind, Reason, RunLog
from kpsim.units import SECOND_NS

Figures = Mapping[str, int | float]


def slug(text: str) -> str:
    """Turn a cause or kind into a part of a name: ``no local endpoints`` → ``no-local-endpoints``."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


class AtLeast(float):
    """A figure that is a lower bound: no condition holds that a larger value would break."""


class FigureKind(NamedTuple):
    """Names of one shape. ``<part>`` stands for a name."""

    shape: str
    meaning: str


#: The last part of a name that counts connections.
COUNTS = (
    FigureKind("sent", "connections attempted"),
    FigureKind("lost", "connections that were not delivered, whatever became of them"),
    *(FigureKind(d.value, f"connections {d.value}") for d in Fate),
    *(FigureKind(f"{d.value}_ratio", f"{d.value} per sent; undefined when nothing was sent") for d in Fate),
    FigureKind("established", "connections that were set up: delivered ones, and those that broke later"),
    FigureKind("broken", "connections that were set up and broke later; each of them is among the failed"),
    FigureKind("retried", "connections whose SYN was repeated (traffic with connectTimeout)"),
    FigureKind("retried_established", "those of them that were set up in the end, some seconds late"),
    FigureKind("tried_again", "connections that the client tried again (traffic with retries)"),
    FigureKind("tried_again_established", "those of them that were set up in the end"),
    FigureKind("reused", "requests over a connection that was open already (traffic with keepAlive)"),
    FigureKind("reused_failed", "those of them that failed"),
    FigureKind("broken_ratio", "broken per established; undefined when none was established"),
    FigureKind("causes.<cause>", "connections with this cause, such as causes.no-local-endpoints"),
    *(
        FigureKind(f"causes.{slug(kind.value)}", f"of these, also: {meaning}")
        for kind, meaning in (
            (PinKind.REFUSED, "lost by a connection entry that led to an endpoint while the rules refused"),
            (PinKind.FORMER_ENDPOINT, "lost by an entry that led to what was no endpoint of the rules any more"),
            (PinKind.SERVICE_GONE, "lost by an entry while the rules no longer knew the Service"),
        )
    ),
)
#: the groups that connections are counted by: the first part of the name, and the field that the second part names
SCOPES: tuple[tuple[str, GroupField], ...] = (
    ("services", "service"),
    ("traffic", "traffic"),
    ("nodes", "node"),
    ("policies", "traffic_policy"),
    ("frontends", "frontend"),
)
_QUANTILES = ("p50", "p90", "p99", "max")

SCHEME: tuple[FigureKind, ...] = (
    *COUNTS,
    FigureKind("services.<service>.<count>", "the same for one service port, such as services.shop/web:http.dropped"),
    FigureKind("traffic.<source>.<count>", "the same for one traffic source of the scenario"),
    FigureKind("nodes.<node>.<count>", "the same for one node"),
    FigureKind("policies.<policy>.<count>", "the same for the traffic policy Cluster or Local"),
    FigureKind("frontends.<address>.<count>", "the same for clusterIP, nodePort, externalIP or loadBalancer"),
    *(
        FigureKind(f"{scope}{shape}", f"{meaning}{of}")
        for scope, of in (
            ("", ""),
            ("services.<service>.", ", of one service port"),
            ("traffic.<source>.", ", of one source"),
        )
        for shape, meaning in (
            (
                'endpoints."<endpoint>".established',
                "connections that an endpoint (ip, ip:port, or pod/namespace/name) answered",
            ),
            ('endpoints."<endpoint>".share', "its share of all that endpoints answered"),
            ("endpoints.largest_share", "the largest share that an endpoint has; undefined when nobody answered"),
            ("connect_time.<quantile>_seconds", "how long clients took to be connected: p50, p90, p99, max"),
            ("zones.cross_share", "share of them that left their zone; undefined without zones"),
            ('zones."<zone>".share', "share that the endpoints of a zone answered"),
            ('zones."<zone>".cross_share', "share of a zone's own connections that left it"),
        )
    ),
    *(
        FigureKind(f"{scope}held_up.{held.value}", f"connections lost because {HELD_MEANING[held]}{of}")
        for scope, of in (("", ""), ("services.<service>.", ", of one service port"))
        for held in Held
    ),
    FigureKind("affinity.clients", "clients of services with ClientIP affinity, per service port"),
    FigureKind("affinity.decisions", "new flows of those clients"),
    FigureKind("affinity.returns", "decisions after first contact"),
    FigureKind("affinity.stay_ratio", "share of the returns that led to the former endpoint"),
    FigureKind("affinity.breaks", "returns that led elsewhere"),
    FigureKind("affinity.breaks.<cause>", "those with this cause, such as affinity.breaks.list-full"),
    FigureKind("affinity.<service>.<figure>", "each of these for one service port: affinity.shop/web:http.stay_ratio"),
    FigureKind(
        "load_balancers.worst_window_seconds",
        "how long a load balancer may send to a node that cannot serve: (unhealthyThreshold + 1) × interval",
    ),
    FigureKind("load_balancers.longest_window_seconds", "how long one did; undefined without load balancers"),
    FigureKind("local_drops.total", "connections that externalTrafficPolicy Local lost"),
    FigureKind("local_drops.<node>", "those that one node lost (a node called total or causes is not shown)"),
    FigureKind("local_drops.causes.<cause>", "those with this cause"),
    FigureKind("sync_lag.count", "changes times nodes times families"),
    FigureKind(
        "sync_lag.unprogrammed", "those that had not reached the rules when the run ended, on nodes that were on"
    ),
    FigureKind("sync_lag.<quantile>_seconds", "trigger until rules in force: p50, p90, p99, max"),
    FigureKind(
        "sync_lag.stages.<stage>.<quantile>_seconds",
        "one leg of it: notice, status, see, slice (together: write), deliver, wait, sync",
    ),
    FigureKind("sync_lag.nodes.<node>.<quantile>_seconds", "the lag of one node"),
    FigureKind("sync_lag.reported_count", "samples of kube-proxy's own network-programming latency"),
    FigureKind("sync_lag.reported_<quantile>_seconds", "their quantiles"),
    FigureKind("sync_lag.unreported.no-trigger-time", "changes without a sample, because they say no trigger time"),
    FigureKind("sync_lag.unreported.lost", "changes whose sample was lost: their sync failed, or a slice was deleted"),
    FigureKind("sync_lag.reported_skew_<quantile>_seconds", "by how much they exceed the true lag"),
    FigureKind("syncs.count", "runs of the sync loops"),
    FigureKind("syncs.full", "full ones"),
    FigureKind("syncs.partial", "partial ones"),
    FigureKind("syncs.failed", "failed ones"),
    FigureKind("syncs.<quantile>_seconds", "how long a sync took"),
    *(
        FigureKind(f"watch_traffic.{part}.{name}", meaning)
        for part in ("slices", "endpoints")
        for name, meaning in (
            (
                "writes",
                "EndpointSlices that were written" if part == "slices" else "Endpoints objects that were written",
            ),
            ("largest_bytes", "the largest watch event of one"),
            ("object_bytes", "watch events of all of them, each once"),
            ("sent_bytes", "what all who watch them got together"),
        )
    ),
    FigureKind("watch_traffic.endpoints.refused", "writes of Endpoints that etcd refused for their size"),
    FigureKind("happenings.<kind>", "events of this kind, such as happenings.sync-failed"),
)


def figures(log: RunLog) -> dict[str, int | float]:
    """Return all figures of a run, in the order of `SCHEME`. Durations are in seconds."""
    groups = count_groups(log)
    found = dict(_counts("", tally(groups)))
    for scope, field in SCOPES:
        tallies = tally_by(groups, field)
        for name in _names(log, field, tallies):
            found.update(_counts(f"{scope}.{name}.", tallies.get(name, Tally({}))))
    found.update(_held_figures(log))
    found.update(_share_figures(log))
    found.update(_affinity_figures(log))
    found.update(_balancer_figures(log))
    found.update(_local_drop_figures(log))
    found.update(_sync_figures(log))
    for part, total in zip(("slices", "endpoints"), watch_sums(log), strict=True):
        found[f"watch_traffic.{part}.writes"] = total.writes
        found[f"watch_traffic.{part}.largest_bytes"] = total.largest_bytes
        found[f"watch_traffic.{part}.object_bytes"] = total.object_bytes
        found[f"watch_traffic.{part}.sent_bytes"] = total.sent_bytes
    found["watch_traffic.endpoints.refused"] = refused_writes(log)
    happened = Counter(h.kind for h in log.happenings)
    found.update((f"happenings.{slug(kind)}", happened[kind]) for kind in HappeningKind)
    return found


def _names(log: RunLog, field: GroupField, seen: Iterable[str]) -> list[str]:
    """Return the names that connections are counted by: those in the scenario, and others that the log holds."""
    match field:
        case "node":
            return nodes_of(log)
        case "service":
            return sorted({*log.services, *seen})
        case "traffic":
            return sorted({*log.traffic, *seen})
        case "traffic_policy":
            return ["Cluster", "Local"]
        case "frontend":
            return sorted(Frontend)
        case _:
            assert_never(field)


def _counts(prefix: str, part: Tally) -> Iterator[tuple[str, int | float]]:
    yield f"{prefix}sent", part.sent
    yield f"{prefix}lost", part.sent - part.of(Fate.DELIVERED)
    for disposition in Fate:
        yield f"{prefix}{disposition.value}", part.of(disposition)
    for disposition in Fate:
        yield f"{prefix}{disposition.value}_ratio", part.ratio(disposition)
    yield f"{prefix}established", part.established
    yield f"{prefix}broken", part.broken
    yield f"{prefix}broken_ratio", part.broken_ratio
    yield f"{prefix}retried", part.retried
    yield f"{prefix}retried_established", part.retried_established
    yield f"{prefix}tried_again", part.again
    yield f"{prefix}tried_again_established", part.again_established
    yield f"{prefix}reused", part.reused
    yield f"{prefix}reused_failed", part.reused_failed
    for cause in Reason:
        if cause is not Reason.NONE:
            yield f"{prefix}causes.{slug(cause.value)}", part.because(cause)
    for kind in PinKind:
        if kind is not PinKind.OLDER:  # that is a cause by itself
            yield f"{prefix}causes.{slug(kind.value)}", part.pins.get(kind, 0)


def _held_figures(log: RunLog) -> Iterator[tuple[str, int]]:
    by_service = count_held(log)
    for held in Held:
        yield f"held_up.{held.value}", sum(counts[held] for counts in by_service.values())
    for service in sorted({*log.services, *by_service}):
        for held in Held:
            yield f"services.{service}.held_up.{held.value}", by_service.get(service, Counter())[held]


def _share_figures(log: RunLog) -> Iterator[tuple[str, float]]:
    listed: dict[str, set[str]] = {}  #: by service port: its endpoints, also those that nobody was sent to
    for spell in log.endpoints:
        names = listed.setdefault(spell.service, set())
        names.update((spell.endpoint, address_of(spell.endpoint), *([pod_figure(spell.pod)] if spell.pod else [])))
    by_service: dict[str, list[Connection]] = {name: [] for name in log.services}
    by_source: dict[str, list[Connection]] = {name: [] for name in log.traffic}
    for c in log.connections:
        by_service.setdefault(c.service, []).append(c)
        by_source.setdefault(c.traffic, []).append(c)
    yield from _shares("", log.connections, listed.values(), log.zones)
    for service in sorted(by_service):
        yield from _shares(f"services.{service}.", by_service[service], [listed.get(service, set())], log.zones)
    for source in sorted(by_source):
        dialled = {c.service for c in by_source[source]}
        endpoints = [listed.get(service, set()) for service in dialled]
        yield from _shares(f"traffic.{source}.", by_source[source], endpoints, log.zones)


def _shares(
    prefix: str, connections: Sequence[Connection], listed: Iterable[Iterable[str]], zones: Mapping[str, str]
) -> Iterator[tuple[str, float]]:
    shares = shares_of(connections, zones)
    for name in sorted({*shares.by_endpoint, *chain.from_iterable(listed)}):
        yield f'{prefix}endpoints."{name}".established', shares.established(name)
        yield f'{prefix}endpoints."{name}".share', shares.of_endpoint(name)
    yield f"{prefix}endpoints.largest_share", shares.largest
    yield from _quantile_figures(f"{prefix}connect_time.", connect_times(connections))
    yield f"{prefix}zones.cross_share", shares.cross_share
    for zone in sorted(set(zones.values())):
        yield f'{prefix}zones."{zone}".share', shares.of_zone(zone)
        yield f'{prefix}zones."{zone}".cross_share', shares.cross_share_from(zone)


def _affinity_figures(log: RunLog) -> Iterator[tuple[str, int | float]]:
    clients = affinity_by_client(log)
    yield from _affinity_record("affinity.", affinity_total(clients))
    by_service = {record.service: record for record in affinity_by_service(clients)}
    for service in sorted({*log.services, *by_service}):
        yield from _affinity_record(f"affinity.{service}.", by_service.get(service) or affinity_total([], service))


def _affinity_record(prefix: str, record: Affinity) -> Iterator[tuple[str, int | float]]:
    yield f"{prefix}clients", record.clients
    yield f"{prefix}decisions", record.decisions
    yield f"{prefix}returns", record.returns
    yield f"{prefix}stay_ratio", record.stay_ratio
    yield f"{prefix}breaks", record.broken
    known = [cause.value for cause in BreakCause]
    for cause in [*known, *(cause for cause in record.breaks if cause not in known)]:
        yield f"{prefix}breaks.{slug(cause)}", record.breaks.get(cause, 0)


def _balancer_figures(log: RunLog) -> Iterator[tuple[str, float]]:
    holes = black_holes(log)
    worst = max((hole.balancer.worst_window_ns / SECOND_NS for hole in holes), default=math.nan)
    yield "load_balancers.worst_window_seconds", worst
    yield "load_balancers.longest_window_seconds", max((h.length_ns / SECOND_NS for h in holes), default=math.nan)


def _local_drop_figures(log: RunLog) -> dict[str, int | float]:
    drops = [drop.connection for drop in local_drops(log)]
    by_node = dict.fromkeys(nodes_of(log), 0)
    for c in drops:
        if c.node:
            by_node[c.node] += 1
    found: dict[str, int | float] = {"local_drops.total": len(drops)}
    found.update((f"local_drops.{node}", count) for node, count in by_node.items() if node not in ("total", "causes"))
    for cause in Reason:
        if cause not in (Reason.NONE, *NOT_OF_THE_POLICY):
            found[f"local_drops.causes.{slug(cause.value)}"] = sum(c.cause is cause for c in drops)
    return found


def _sync_figures(log: RunLog) -> Iterator[tuple[str, int | float]]:
    yield "sync_lag.count", len(log.programming) + len(log.unprogrammed)
    yield "sync_lag.unprogrammed", len(log.unprogrammed)
    yield from _quantile_figures("sync_lag.", lag_quantiles(log))
    yield from _quantile_figures("sync_lag.stages.write.", quantiles(map(write_ns, log.programming)))
    for stage, part in stage_quantiles(log).items():
        yield from _quantile_figures(f"sync_lag.stages.{stage.value}.", part)
    by_node = lag_by_node(log)
    for node in nodes_of(log):
        yield from _quantile_figures(f"sync_lag.nodes.{node}.", by_node.get(node) or quantiles(()))
    reported = reported_ns(log)
    yield "sync_lag.reported_count", len(reported)
    yield from _quantile_figures("sync_lag.reported_", quantiles(reported))
    without = Counter(map(unreported, log.programming))
    for why in Unreported:
        yield f"sync_lag.unreported.{slug(why.value)}", without[why]
    skews = [skew for skew in map(skew_ns, log.programming) if skew is not None]
    yield from _quantile_figures("sync_lag.reported_skew_", quantiles(skews))
    yield "syncs.count", len(log.syncs)
    yield "syncs.full", sum(s.full for s in log.syncs)
    yield "syncs.partial", sum(not s.full for s in log.syncs)
    yield "syncs.failed", sum(not s.success for s in log.syncs)
    yield from _quantile_figures("syncs.", quantiles(s.end_ns - s.start_ns for s in log.syncs))


def _quantile_figures(prefix: str, part: Quantiles) -> Iterator[tuple[str, float]]:
    for name, duration_ns in part.named():
        seconds = math.nan if duration_ns is None else duration_ns / SECOND_NS
        yield f"{prefix}{name}_seconds", AtLeast(seconds) if name in part.at_least else seconds


def lookup(known: Figures, name: str, place: Problem | None = None) -> int | float:
    """Return the figure called ``name``. If the run has none, InputError at ``place`` suggests near names."""
    try:
        return known[name]
    except KeyError:
        pass
    bare = name.replace('"', "")
    meant = next((full for full in known if full.replace('"', "") == bare), None)  # quotes only help the reader
    if meant is not None:
        return known[meant]
    near = near_names(known, name)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; figures are such as sent, dropped, delivered_ratio"
    message = f"unknown figure {name!r}{hint}"
    place = place or Problem("")
    raise InputError(Problem(message, place.file, place.document, place.line, place.path))


def near_names(known: Iterable[str], name: str) -> list[str]:
    """Return up to three names that may have been meant: those that only lack their scope, or else similar ones."""
    folded: dict[str, str] = {}
    for full in known:
        folded.setdefault(full.lower(), full)
    unscoped = [full for full in folded if full.endswith(f".{name.lower()}")]
    near = sorted(unscoped, key=lambda full: (full.count("."), full))[:3]
    return [folded[full] for full in near or get_close_matches(name.lower(), list(folded), n=3)]
