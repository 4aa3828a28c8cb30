"""The story of a run in sentences and small tables of text, shared by the summary and the HTML page.

Everything here is plain text: fonts, colours and markup are added by the summary and the page.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kpsim.kubeproxy.stale_flows import CleanUp
from kpsim.pins import PinKind
from kpsim.reports.affinity import Affinity, affinity_by_client, affinity_by_service, affinity_total
from kpsim.reports.balancing import black_holes, connect_times
from kpsim.reports.local_policy import HealthView, LocalDropWindow, local_drops
from kpsim.reports.losses import Concentration
from kpsim.reports.overview import Tally, count_groups, tally, tally_by_service_and_policy
from kpsim.reports.pinned import KeptFlows, PinnedFlows, pinned_flows
from kpsim.reports.shares import Imbalance
from kpsim.reports.sync_lag import (
    STAGE_MEANING,
    Quantiles,
    lag_by_node,
    lag_quantiles,
    quantiles,
    reported_ns,
    stage_quantiles,
    waiting_ns,
)
from kpsim.simulation.runlog import Connection, Fate, Frontend, HappeningKind, Reason, RunLog
from kpsim.units import MICROSECOND_NS, MILLISECOND_NS, SECOND_NS


@dataclass(frozen=True, slots=True)
class TextTable:
    """Rows of text under headings. ``numeric`` columns are aligned right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()

    def without_last(self) -> "TextTable":
        """Return the table without its last column, which holds long reasons."""
        return TextTable(self.headings[:-1], tuple(row[:-1] for row in self.rows), self.numeric)


def instant(at_ns: int) -> str:
    """Format a time in the run, to the millisecond: ``12.3 s``."""
    return f"{at_ns / SECOND_NS:.3f}".rstrip("0").rstrip(".") + " s"


def duration(ns: int | None) -> str:
    """Format a duration with three significant digits: ``1.23 s``, ``45 ms``; a dash for None."""
    if ns is None:
        return "–"
    for unit, unit_ns in (("s", SECOND_NS), ("ms", MILLISECOND_NS), ("µs", MICROSECOND_NS)):
        if abs(ns) >= unit_ns:
            value = ns / unit_ns
            return (f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}") + f" {unit}"
    return f"{ns} ns" if ns else "0 s"


def percent(ratio: float) -> str:
    """Format a ratio: ``99.2 %``; 100 and 0 only if they are exact; a dash for undefined."""
    if math.isnan(ratio):
        return "–"
    text = f"{100 * ratio:.1f}"
    if text == "100.0":
        return "100 %" if ratio == 1 else "> 99.9 %"
    if text == "0.0":
        return "0 %" if ratio == 0 else "< 0.1 %"
    return f"{text} %"


def plural(count: int, noun: str) -> str:
    """``1 change``, ``2 changes``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def reasons(causes: Iterable[tuple[Reason, int]]) -> str:
    """``no endpoints 12, endpoint gone 3``."""
    return ", ".join(f"{cause.value} {count:,}" for cause, count in causes)


def title_line(log: RunLog) -> str:
    """Say what was run: scenario, duration, mode and seed."""
    return f"{log.scenario}: {instant(log.duration_ns)} simulated, mode {log.mode}, seed {log.seed}"


def traffic_sentence(log: RunLog) -> str:
    """Say what was sent and what became of it."""
    total = tally(count_groups(log))
    if not total.sent:
        return "No connection was attempted."
    delivered = total.of(Fate.DELIVERED)
    late = f"; {total.retried_established:,} with a repeated SYN" if total.retried_established else ""
    if delivered == total.sent:
        return (
            f"All {plural(total.sent, 'connection')} were delivered{late}."
            if delivered > 1
            else f"1 connection was delivered{late}."
        )
    were = "was" if total.sent == 1 else "were"
    text = f"{delivered:,} of {plural(total.sent, 'connection')} {were} delivered ({percent(total.ratio(Fate.DELIVERED))}{late})"
    return "; ".join([text, *_losses(total)]) + "."


def why_line(log: RunLog, most: int = 3) -> str:
    """Name one lost connection of each kind, the commonest first, as ``kpsim run --trace`` takes it. Empty if none was lost."""
    kinds: dict[tuple[Fate, Reason], list[Connection]] = {}
    for c in log.connections:
        if c.lost:
            kinds.setdefault((c.disposition, c.cause), []).append(c)
    ranked = sorted(kinds.values(), key=lambda members: -len(members))[:most]
    shown = (f"--trace {c.name} ({c.cause.value or c.disposition.value})" for c, *_ in ranked)
    return f"Why? Run it again with {' or '.join(shown)}." if ranked else ""


def loss_lines(log: RunLog) -> list[str]:
    """Say, for each service port and policy that lost connections, how many, how, and why, most first.

    There are no lines if there is one service port and policy only.
    """
    parts = _worst_first(log)
    if len(parts) < 2:  # the sentence about all traffic says the same
        return []
    lines = ((service, policy, _losses(part)) for service, policy, part in parts)
    return [f"{service} ({policy}): {'; '.join(losses)}" for service, policy, losses in lines if losses]


def _worst_first(log: RunLog) -> list[tuple[str, str, Tally]]:
    parts = tally_by_service_and_policy(count_groups(log))
    rows = [(service, policy, part) for (service, policy), part in parts.items()]
    return sorted(rows, key=lambda row: (row[2].of(Fate.DELIVERED) - row[2].sent, row[0], row[1]))


def _losses(part: Tally) -> list[str]:
    losses = []
    for ended in (Fate.REJECTED, Fate.DROPPED, Fate.FAILED, Fate.MISDELIVERED):
        if count := part.of(ended):
            causes = part.causes(ended)
            why = causes[0][0].value if len(causes) == 1 and causes[0][1] == count else reasons(causes)
            if why == ended.value:
                why = "somebody answered who is no endpoint of the Service"
            if ended is Fate.FAILED and part.broken:
                why += f"; {part.broken:,} of them set up before"
            losses.append(f"{count:,} {ended.value}" + (f" ({why})" if why else ""))
    return losses


def traffic_table(log: RunLog) -> TextTable:
    """Counts by service port and policy, with reasons. Those that lost most come first.

    Misdelivered connections have a column if there are any.
    """

    total = tally(count_groups(log))
    ends = [ended for ended in Fate if ended is not Fate.MISDELIVERED or total.of(ended)]

    def row(service: str, policy: str, part: Tally) -> tuple[str, ...]:
        delivered, *losses = (f"{part.of(ended):,}" for ended in ends)
        share = percent(part.ratio(Fate.DELIVERED))
        return (service, policy, f"{part.sent:,}", delivered, share, *losses, reasons(part.causes()))

    parts = _worst_first(log)
    rows = [row(service, policy, part) for service, policy, part in parts]
    if len(rows) > 1:
        rows.insert(0, row("all", "", total))
    delivered, *losses = (ended.value for ended in ends)
    headings = ("service", "policy", "sent", delivered, "in %", *losses, "why not")
    return TextTable(headings, tuple(rows), frozenset(range(2, len(headings) - 1)))


_DIALLED = {
    Frontend.CLUSTER_IP: "the cluster IP", Frontend.NODE_PORT: "node ports", Frontend.EXTERNAL_IP: "the external IP",
    Frontend.LOAD_BALANCER: "the load balancer",
}  # fmt: skip


def where_line(group: Concentration) -> str:
    """Say whose the losses are and where they are, if one part of the sources or nodes has all of them."""
    why = f" ({group.cause.value})" if group.cause is not Reason.NONE else ""
    parts = [f"{group.service}: {group.lost:,} {group.disposition.value}{why}"]
    if group.traffic:
        dialled = listed([_DIALLED[each] for each in group.frontends])
        parts.append(f"all of traffic {listed(group.traffic)}, which dials {dialled}")
    if group.nodes:
        parts.append(f"all at {listed(group.nodes)}")
    if group.most:
        node, count = group.most
        parts.append(f"{count:,} of them at {node}")
    if group.endpoint_nodes and group.endpoint_nodes != group.nodes:
        parts.append(f"all sent to endpoints on {listed(group.endpoint_nodes)}")
    return f"{', '.join([*parts, _span(group.first_ns, group.last_ns)])}."


def kept_line(group: KeptFlows) -> str:
    """Say what a former endpoint goes on answering, and why."""
    what = "an entry leads the flow there" if group.flows == 1 else f"entries lead {group.flows:,} flows there"
    why = "" if group.protocol == "UDP" else "; the clean-up never touches entries of this protocol (CT-2.1)"
    return (
        f"{group.node}, {group.service}, {_span(group.start_ns, group.end_ns)}: {group.connections:,} delivered to"
        f" {group.endpoint}, a former endpoint: not in the rules since {instant(group.since_ns)}; {what} (CT-5.2){why}."
    )


def _span(first_ns: int, last_ns: int) -> str:
    return f"at {instant(first_ns)}" if first_ns == last_ns else f"from {instant(first_ns)} to {instant(last_ns)}"


def unsent_lines(log: RunLog) -> list[str]:
    """Say what traffic sources did not attempt, and why."""
    lines = []
    for u in log.unsent:
        when = (
            f"at {instant(u.first_ns)}" if u.connections == 1 else f"from {instant(u.first_ns)} to {instant(u.last_ns)}"
        )
        lines.append(f"traffic {u.traffic}: {plural(u.connections, 'connection')} not attempted {when}: {u.why}.")
    silent = set(log.traffic) - {c.traffic for c in log.connections} - {u.traffic for u in log.unsent}
    return [*lines, *(f"traffic {name}: no connection was due before the end." for name in sorted(silent))]


def misdelivered_lines(log: RunLog) -> list[str]:
    """Say who answered the connections that were misdelivered, most first."""
    taken: dict[tuple[str, str, str], list[int]] = {}
    for c in log.connections:
        if c.disposition is Fate.MISDELIVERED:
            taken.setdefault((c.service, c.answered_by, c.endpoint), []).append(c.at_ns)
    lines = []
    for (service, pod, endpoint), times in sorted(taken.items(), key=lambda item: (-len(item[1]), item[0])):
        when = f"at {instant(times[0])}" if len(times) == 1 else f"from {instant(times[0])} to {instant(times[-1])}"
        count = plural(len(times), "connection")
        lines.append(
            f"{service}, {when}: {count} answered by {pod} at {endpoint}, which is no endpoint of the Service."
        )
    return lines


def note_lines(log: RunLog) -> list[str]:
    """Say what traffic sources did not attempt, and which events found nothing to do, or less than they ask for."""
    idle = [h for h in log.happenings if h.kind is HappeningKind.NO_EFFECT]
    idle_lines = (f"{instant(h.at_ns)}, {h.subject}: {h.detail}." for h in idle)
    return [*unsent_lines(log), *idle_lines, *_back_lines(log), *_outside_lines(log)]


def _outside_lines(log: RunLog) -> Iterator[str]:
    """Say which endpoints are no pods of the scenario, and are taken to answer."""
    reached = Counter(c.endpoint for c in log.connections if c.disposition is Fate.DELIVERED and not c.answered_by)
    if reached:
        shown = ", ".join(sorted(reached)[:3]) + (f" and {len(reached) - 3} more" if len(reached) > 3 else "")
        yield (
            f"{plural(reached.total(), 'connection')} reached {shown}: no pod of the scenario, and taken to answer "
            "throughout."
        )


def _back_lines(log: RunLog) -> Iterator[str]:
    """Say that real servers came back while they drained, as the kernel alone decides what becomes of their connections."""
    back = [h for h in log.happenings if h.kind is HappeningKind.SERVER_BACK]
    if back:
        yield (
            f"{plural(len(back), 'real server')} came back while draining, the first at {instant(back[0].at_ns)} at {back[0].subject}. "
            "Whether connections survive that is a race in the kernel (IPVS-13.4); here they do."
        )


def pinned_sentence(log: RunLog) -> str:
    """Say how many connections were lost by state against rules. Empty if none was."""
    lost = sum(group.connections for group in pinned_flows(log))
    return (
        f"{plural(lost, 'connection')} lost by connection entries that overrode the rules in force (state against rules)."
        if lost
        else ""
    )


def pinned_line(group: PinnedFlows) -> str:
    """Say which entries lost connections, what the rules say, and why the entries stayed."""
    span = (
        f"at {instant(group.start_ns)}"
        if group.start_ns == group.end_ns
        else f"from {instant(group.start_ns)} to {instant(group.end_ns)}"
    )
    ends = ", ".join(f"{count:,} {ended.value}" for ended, count in group.ends.items())
    one = group.flows == 1 or group.first_entry_ns == group.last_entry_ns
    made = f"from {instant(group.first_entry_ns)}" + ("" if one else f" to {instant(group.last_entry_ns)}")
    entries = f"an entry {made}" if group.flows == 1 else f"entries {made}"
    flows = "the flow" if group.flows == 1 else f"{group.flows:,} flows"
    send, keep = ("sends", "keeps") if group.flows == 1 else ("send", "keep")
    since = "" if group.since_ns is None else f" since {instant(group.since_ns)}"
    match group.kind:
        case PinKind.REFUSED:
            what = f"{entries} still {send} {flows} to {group.leads_to}; the rules refuse{since}"
        case PinKind.FORMER_ENDPOINT:
            what = f"{entries} still {send} {flows} to {group.leads_to}, a former endpoint: not in the rules{since}"
        case PinKind.SERVICE_GONE:
            what = f"{entries} still {send} {flows} to {group.leads_to}; the rules do not know the Service{since}"
        case PinKind.OLDER:
            in_force = "" if group.since_ns is None else f", in force since {instant(group.since_ns)}"
            what = f"{entries} {keep} {flows} untranslated: older than the Service's rules{in_force} (CT-3.5)"
    clean_up = "" if group.clean_up is CleanUp.STILL_SERVES and group.kind is PinKind.OLDER else f"; {group.clean_up}"
    return f"{group.node}, {group.service}, {span}: {ends}; {what}{clean_up}."


def pinned_table(groups: Sequence[PinnedFlows]) -> TextTable:
    """State against rules as rows."""
    rows = tuple(
        (
            g.node,
            g.service,
            g.kind.value,
            g.leads_to,
            f"{g.flows:,}",
            f"{g.connections:,}",
            instant(g.first_entry_ns),
            "–" if g.since_ns is None else instant(g.since_ns),
            instant(g.end_ns),
            g.clean_up.value,
        )
        for g in groups
    )
    headings = (
        "node", "service", "how", "leads to", "flows", "lost", "first entry", "rules say otherwise since", "last loss",
        "why it stayed",
    )  # fmt: skip
    return TextTable(headings, rows, frozenset(range(4, 9)))


def share_sentence(imbalance: Imbalance) -> str:
    """Say which endpoints get more than others at the end of the run."""
    most, least = imbalance.shares[0], imbalance.shares[-1]
    whole = imbalance.shares if len(imbalance.shares) <= 3 else (most, least)
    told = listed([f"{endpoint} ({node}) {percent(share)}" for endpoint, node, share in whole])
    text = (
        f"{imbalance.service}: since {instant(imbalance.since_ns)} its {len(imbalance.shares)} endpoints get unequal shares"
        f" of the connections: {told}; equal shares would be {percent(imbalance.equal)}."
    )
    if imbalance.clients:
        text += (
            f" Session affinity keeps {plural(imbalance.clients, 'client')} with their endpoint: nothing evens it out"
            " while they come back within the timeout."
        )
    elif imbalance.followed:
        text += " Connection entries keep most of them where they were: sockets that are used again are no new flows (CT-5.2)."
    return text


def local_sentence(log: RunLog) -> str:
    """Say what externalTrafficPolicy Local lost, and what the load balancer believed."""
    drops = local_drops(log)
    if not drops:
        return "No connection was lost to externalTrafficPolicy: Local."
    nodes = sorted({d.connection.node or "the load balancer" for d in drops})
    text = f"{plural(len(drops), 'connection')} lost to externalTrafficPolicy: Local at {listed(nodes)}"
    views = Counter(drop.view for drop in drops)
    watched = [view for view in HealthView if views[view] and view is not HealthView.NOT_WATCHED]
    if not watched:
        return f"{text}."
    if views[watched[0]] == len(drops):
        return f"{text}, while the node was {watched[0].value}."
    return f"{text}: {', '.join(f'{views[view]:,} while the node was {view.value}' for view in watched)}."


def window_sentence(window: LocalDropWindow) -> str:
    """Describe one window of local drops and how it came about."""
    node = window.node or "the load balancer"
    span = (
        f"at {instant(window.start_ns)}"
        if window.start_ns == window.end_ns
        else f"from {instant(window.start_ns)} to {instant(window.end_ns)}"
    )
    text = f"{node} received traffic for {window.service} {span}"
    without = window.cause in (Reason.NO_LOCAL_ENDPOINTS, Reason.ASYMMETRIC_REPLY)
    if without:
        text += " while it had no local endpoint"
    text += f": {window.dropped:,} {window.disposition.value}"
    if window.cause not in (Reason.NO_LOCAL_ENDPOINTS, Reason.NONE):
        text += f" ({window.cause.value})"
    steps = []
    if window.no_local_since_ns is not None and without:
        steps.append(f"no local endpoint since {instant(window.no_local_since_ns)}")
    if window.in_rotation:
        failed = window.check_failed_ns
        steps.append(
            "health check still passing" if failed is None else f"health check failing since {instant(failed)}"
        )
        left = window.left_rotation_ns
        steps.append("not taken out of rotation" if left is None else f"out of rotation at {instant(left)}")
    elif window.in_rotation is False:
        steps.append("already out of rotation")
    return f"{text} ({', '.join(steps)})." if steps else f"{text}."


def black_hole_lines(log: RunLog) -> list[str]:
    """Say, for each load balancer that sent to a node whose check failed, how long it did and how long it might have."""
    return [
        f"{b.service}: its load balancer{f' ({b.preset})' if b.preset else ''} may send to a node that cannot serve for up to"
        f" {duration(b.worst_window_ns)}, ({b.unhealthy_threshold} + 1) × {duration(b.interval_ns)} (FIG-3). The longest time was"
        f" {duration(hole.length_ns)}, at {hole.node} from {instant(hole.start_ns)} to {instant(hole.end_ns)}."
        for hole in black_holes(log)
        if hole.node
        for b in (hole.balancer,)
    ]


def client_lines(log: RunLog) -> list[str]:
    """Say how long clients took to connect if any had to wait, how many tried again, and what open connections carried."""
    total, times = tally(count_groups(log)), connect_times(log.connections)
    lines = []
    if times.max_ns:
        lines.append(f"Connecting took {_quantile_text(times)} (the network itself takes no time).")
    if total.again:
        lines.append(
            f"{plural(total.again, 'connection')} tried again after a failure; {total.again_established:,} set up in the end."
        )
    if total.reused:
        lines.append(
            f"{plural(total.reused, 'request')} went over connections that were open already; {total.reused_failed:,} failed."
        )
    return lines


def windows_table(windows: Sequence[LocalDropWindow]) -> TextTable:
    """Windows of local drops as rows."""

    def at(ns: int | None) -> str:
        return "–" if ns is None else instant(ns)

    rows = tuple(
        (
            w.node or "(load balancer)",
            w.service,
            instant(w.start_ns),
            instant(w.end_ns),
            f"{w.dropped:,}",
            f"{w.disposition.value}: {w.cause.value}",
            at(w.no_local_since_ns),
            at(w.check_failed_ns),
            "–" if w.in_rotation is None else ("already out" if not w.in_rotation else at(w.left_rotation_ns)),
        )
        for w in windows
    )
    headings = (
        "node", "service", "first drop", "last drop", "lost", "how and why", "no local endpoint since",
        "check failing since", "out of rotation",
    )  # fmt: skip
    return TextTable(headings, rows, frozenset({2, 3, 4, 6, 7, 8}))


def sync_lag_sentence(log: RunLog, *, reported: bool = True) -> str:
    """Say how long changes took to reach the rules, and, if ``reported``, what kube-proxy reports about it."""
    lag = lag_quantiles(log)
    if not lag.count:
        return "No change had to reach a node's rules."
    late = len(log.unprogrammed)
    text = f"{plural(lag.count - late, 'change')} reached the rules (counted per node)"
    if late:
        text += f", {late:,} had not when the run ended (at least {duration(max(waiting_ns(log)))} for the oldest)"
    text += f": {_quantile_text(lag)} after their trigger"
    if not reported:
        return f"{text}."
    samples = quantiles(reported_ns(log))
    if not samples.count:
        return f"{text}; kube-proxy reported none of them."
    # the annotation holds whole seconds, so a sample may be up to 1 s longer than the true lag (CP-2.10, CP-3.7.3)
    return (
        f"{text}; kube-proxy itself reported {samples.count:,} of them: {_quantile_text(samples)}"
        " (trigger times are cut to whole seconds)."
    )


def sync_lag_table(log: RunLog) -> TextTable:
    """Quantiles of the lag, of the legs that took any time, and of kube-proxy's own samples."""
    rows = [("trigger → rules in force", lag_quantiles(log))]
    rows += [(STAGE_MEANING[stage], part) for stage, part in stage_quantiles(log).items() if part.max_ns]
    rows.append(("reported by kube-proxy", quantiles(reported_ns(log))))
    return TextTable(
        ("duration", "count", "p50", "p90", "p99", "max"),
        tuple((name, f"{part.count:,}", *_quantile_cells(part)) for name, part in rows),
        frozenset(range(1, 6)),
    )


def node_lag_table(log: RunLog) -> TextTable:
    """The lag of each node, slowest first."""
    by_node = sorted(lag_by_node(log).items(), key=lambda item: (-(item[1].p99_ns or 0), item[0]))
    return TextTable(
        ("node, slowest first", "count", "p50", "p90", "p99", "max"),
        tuple((node, f"{part.count:,}", *_quantile_cells(part)) for node, part in by_node),
        frozenset(range(1, 6)),
    )


def syncs_sentence(log: RunLog) -> str:
    """Say how often the sync loops ran."""
    full, failures = sum(s.full for s in log.syncs), sum(not s.success for s in log.syncs)
    text = f"{plural(len(log.syncs), 'sync')}: {full:,} full, {len(log.syncs) - full:,} partial"
    return text + (f", {failures:,} failed." if failures else ".")


def affinity_sentence(log: RunLog) -> str:
    """Say how often clients stayed with their endpoint. Empty if no service has affinity."""
    clients = affinity_by_client(log)
    if not clients:
        return ""
    total = affinity_total(clients)
    if not total.returns:
        return f"{plural(total.clients, 'client')} of services with ClientIP affinity; none came back."
    text = (
        f"{plural(total.clients, 'client')} of services with ClientIP affinity came back {plural(total.returns, 'time')} and "
        f"stayed with their endpoint in {percent(total.stay_ratio)}"
    )
    return text + (f"; {plural(total.broken, 'break')}: {_break_text(total)}." if total.broken else ".")


def affinity_table(log: RunLog) -> TextTable:
    """Affinity by service port."""
    records = affinity_by_service(affinity_by_client(log))
    rows = tuple(
        (
            r.service,
            *(f"{n:,}" for n in (r.clients, r.decisions, r.returns, r.stays)),
            percent(r.stay_ratio),
            f"{r.distinct_endpoints / r.clients:.2f}",
            _break_text(r),
        )
        for r in records
    )
    headings = ("service", "clients", "decisions", "returns", "stays", "stay %", "endpoints/client", "breaks")
    return TextTable(headings, rows, frozenset(range(1, 7)))


def break_lines(log: RunLog) -> list[str]:
    """Say, for each service port whose clients left their endpoints, how many did and why.

    None if there is one port only.
    """
    records = affinity_by_service(affinity_by_client(log))
    broken = [record for record in records if record.broken]
    return [f"{r.service}: {plural(r.broken, 'break')} ({_break_text(r)})" for r in broken] if len(records) > 1 else []


def happenings_table(log: RunLog) -> TextTable:
    """What happened, in time order."""
    rows = tuple((instant(h.at_ns), h.kind, h.subject, h.detail) for h in log.happenings)
    return TextTable(("time", "kind", "subject", "detail"), rows, frozenset({0}))


def listed(names: Sequence[str], most: int = 4) -> str:
    """Join names: ``a, b and c``; long lists end in ``and n more``."""
    shown = list(names[:most]) + ([f"{len(names) - most} more"] if len(names) > most else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _break_text(record: Affinity) -> str:
    ordered = sorted(record.breaks.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{cause} {count:,}" for cause, count in ordered)


def _quantile_text(part: Quantiles) -> str:
    """The quantiles; one that is the longest sample by another name is left out."""
    told = [(name, ns) for name, ns in part.named() if not part.is_maximum(name)]
    return ", ".join(f"{name} {'at least ' if name in part.at_least else ''}{duration(ns)}" for name, ns in told)


def _quantile_cells(part: Quantiles) -> tuple[str, ...]:
    """The quantiles; ``max`` stands where a quantile is the longest sample by another name."""
    return tuple(
        "max" if part.is_maximum(name) else f"{'≥ ' if name in part.at_least else ''}{duration(ns)}"
        for name, ns in part.named()
    )
