"""Pictures of a run, as matplotlib figures. They read the accounting that the figures come from, not the frames."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from kpsim.reports.affinity import affinity_breaks
from kpsim.reports.canvas import (
    GREEN,
    GREY,
    INK,
    MOST_LANES,
    ORANGE,
    PURPLE,
    SERIES,
    SKY,
    VERMILION,
    YELLOW,
    Plot,
    grouped,
    load_matplotlib,
    most,
    stacked_axes,
    style,
    time_axis,
    time_edges,
    whole_numbers,
)
from kpsim.reports.held_plots import plot_held_up
from kpsim.reports.lag_plots import plot_lag_nodes, plot_lag_stages, plot_sync_lag
from kpsim.reports.local_policy import (
    HealthTimeline,
    bin_width_ns,
    health_timelines,
    in_rotation,
    local_bins,
    service_of,
    usable,
)
from kpsim.reports.nodestates import NodeState, node_spells
from kpsim.reports.sentences import duration, plural
from kpsim.simulation.runlog import Fate, RunLog
from kpsim.units import SECOND_NS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DISPOSITION_COLOR = {
    Fate.DELIVERED: SKY,
    Fate.REJECTED: ORANGE,
    Fate.DROPPED: VERMILION,
    Fate.FAILED: PURPLE,
    Fate.MISDELIVERED: YELLOW,
}
#: colour and height of its bar, which must not hide what lies behind it
NODE_STATE = {
    NodeState.CORDONED: (YELLOW, 0.75),
    NodeState.DELETED: (PURPLE, 0.75),
    NodeState.DRAINING: (ORANGE, 0.55),
    NodeState.SHUTTING_DOWN: (SKY, 0.55),
    NodeState.OFF: (INK, 0.35),
}
MOST_SERVICES = 6  # panels; all further services share the last one
MOST_KINDS = 8
MOST_ENDPOINTS = 12


def plots(log: RunLog) -> list[Plot]:
    """Return every picture that the log has something for, in the order of the report."""
    load_matplotlib()
    drawn = ((name, caption, draw(log)) for name, caption, draw in _PLOTS)
    return [Plot(name, caption, figure) for name, caption, figure in drawn if figure is not None]


def plot_dispositions(log: RunLog) -> "Figure | None":
    """Connections over time, stacked by disposition, one panel for each service port.

    Happenings stand below on the same axis.
    """
    if not log.connections:
        return None
    panels = grouped(Counter(c.service for c in log.connections), MOST_SERVICES, "other services")
    names = list(dict.fromkeys(panels.values()))
    kinds = grouped(Counter(h.kind for h in log.happenings), MOST_KINDS, "other")
    lanes = list(dict.fromkeys(kinds.values()))
    heights = [1.5] * len(names) + ([0.25 + 0.22 * len(lanes)] if lanes else [])
    width_ns = bin_width_ns(log.duration_ns)
    edges = time_edges(log, width_ns)
    shown = [
        ended
        for ended in Fate
        if ended is not Fate.MISDELIVERED or any(c.disposition is ended for c in log.connections)
    ]
    counts = {(name, ended): [0] * (len(edges) - 1) for name in names for ended in shown}
    for c in log.connections:
        counts[panels[c.service], c.disposition][min(c.at_ns // width_ns, len(edges) - 2)] += 1
    with style():
        figure, axes = stacked_axes(heights)
        for name, ax in zip(names, axes, strict=False):
            below = [0] * (len(edges) - 1)
            for ended in shown:
                top = [b + n for b, n in zip(below, counts[name, ended], strict=True)]
                ax.stairs(top, edges, baseline=below, fill=True, color=DISPOSITION_COLOR[ended], label=ended.value)
                below = top
            ax.set(title=name, ylim=(0, None))
            whole_numbers(ax.yaxis)
            ax.grid(axis="y")
        figure.supylabel(f"connections per {duration(width_ns)}", fontsize="medium")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
        if lanes:
            _draw_happenings(axes[-1], log, kinds, lanes)
        time_axis(axes[-1], log)
    return figure


def plot_local_drops(log: RunLog) -> "Figure | None":
    """A lane for each node and service port: received and dropped connections over bars of rotation and endpoints."""
    width_ns = bin_width_ns(log.duration_ns)
    bins = local_bins(log, width_ns)
    if not bins:
        return None
    dropped: Counter[tuple[str, str]] = Counter()
    for b in bins:
        dropped[b.service, b.node] += b.dropped
    lanes = sorted(sorted(dropped, key=lambda key: (-dropped[key], key))[:MOST_LANES])
    peak = max(b.received for b in bins) or 1
    edges = time_edges(log, width_ns)
    timelines = health_timelines(log)
    with style():
        figure, (ax,) = stacked_axes([0.5 + 0.62 * len(lanes)])
        for row, (service, node) in enumerate(lanes):
            base = len(lanes) - 1 - row
            here = [b for b in bins if (b.service, b.node) == (service, node)]
            for counts, color, label in (
                ([b.received for b in here], GREY, "received"),
                ([b.dropped for b in here], VERMILION, "lost"),
            ):
                tops = [base + 0.4 + 0.5 * n / peak for n in counts]
                ax.stairs(tops, edges, baseline=base + 0.4, fill=True, color=color, label=label if row == 0 else None)
            timeline = timelines.get((service_of(service), node), HealthTimeline())
            for height, holds, color, label in (
                (0.2, in_rotation, SKY, "load balancer sends here"),
                (0.02, usable, GREEN, "has a usable local endpoint"),
            ):
                spells = [(a / SECOND_NS, (b - a) / SECOND_NS) for a, b in timeline.spells(log.duration_ns, holds)]
                ax.broken_barh(spells, (base + height, 0.14), facecolors=color, label=label if row == 0 else None)
            ax.axhline(base + 0.96, color=INK, alpha=0.15, linewidth=0.8)
        labels = [f"{node or '(no node)'}\n{service}" for service, node in lanes]
        ax.set_yticks([len(lanes) - 1 - row + 0.45 for row in range(len(lanes))], labels)
        ax.tick_params(axis="y", length=0)
        more = len(dropped) - len(lanes)
        title = f"Full height: {plural(peak, 'connection')} per {duration(width_ns)}" + (
            f"; {more:,} more lanes" if more else ""
        )
        ax.set(title=title, ylim=(-0.05, len(lanes)))
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=4)
        time_axis(ax, log)
    return figure


def plot_affinity_breaks(log: RunLog) -> "Figure | None":
    """Breaks by cause, stacked by service port."""
    breaks = affinity_breaks(log)
    if not breaks:
        return None
    services = grouped(Counter(b.service for b in breaks), MOST_SERVICES, "other services")
    counts = Counter((b.cause, services[b.service]) for b in breaks)
    totals = Counter(b.cause for b in breaks)
    causes = sorted(totals, key=lambda cause: (totals[cause], cause))
    names = list(dict.fromkeys(services.values()))
    with style():
        figure, (ax,) = stacked_axes([0.3 + 0.36 * len(causes)])
        left = [0] * len(causes)
        for i, name in enumerate(names):
            widths = [counts[cause, name] for cause in causes]
            ax.barh(causes, widths, left=left, height=0.65, color=SERIES[i % len(SERIES)], label=name)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for y, total in enumerate(left):
            ax.annotate(f" {total:,}", (total, y), va="center")
        ax.set(xlabel="breaks", xlim=(0, max(left) * 1.08))
        whole_numbers(ax.xaxis)
        ax.grid(axis="x")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def plot_endpoint_shares(log: RunLog) -> "Figure | None":
    """Each endpoint's share of a service port's connections, coloured by node; a dashed line at equal shares."""
    delivered = [c for c in log.connections if c.established and c.endpoint]
    if not delivered:
        return None
    services = sorted(most(Counter(c.service for c in delivered), MOST_SERVICES))
    counts = {service: Counter(c.endpoint for c in delivered if c.service == service) for service in services}
    shown = {service: sorted(most(counts[service], MOST_ENDPOINTS)) for service in services}
    node_of = {c.endpoint: c.endpoint_node for c in delivered}
    nodes = sorted({node_of[e] for service in services for e in shown[service]})
    color = {node: SERIES[i % len(SERIES)] for i, node in enumerate(nodes)}
    from matplotlib.patches import Patch

    with style():
        figure, axes = stacked_axes([0.55 + 0.24 * len(shown[service]) for service in services], hide_inner_x=False)
        for service, ax in zip(services, axes, strict=True):
            total = sum(counts[service].values())
            shares = [100 * counts[service][e] / total for e in shown[service]]
            ax.barh(shown[service], shares, height=0.7, color=[color[node_of[e]] for e in shown[service]])
            ax.axvline(100 / len(counts[service]), color=INK, linestyle="--", linewidth=1)
            more = len(counts[service]) - len(shown[service])
            ax.set_title(f"{service}: {total:,} set up" + (f", {more:,} more endpoints" if more else ""))
            ax.invert_yaxis()
            ax.set_xlim(0, max(*shares, 100 / len(counts[service])) * 1.05)
            ax.grid(axis="x")
        axes[-1].set_xlabel("share of the connections that were set up, per cent (dashed: equal shares)")
        handles = [Patch(color=color[node], label=node or "no node") for node in nodes]
        figure.legend(handles=handles, loc="outside upper right", ncols=min(6, len(handles)))
    return figure


def plot_open_connections(log: RunLog) -> "Figure | None":
    """Long connections that were open over time, stacked by endpoint, one panel for each service port.

    A dashed line stands where slices no longer list the endpoint of that colour as ready.
    """
    long = [c for c in log.connections if c.open_until_ns is not None]
    if not long:
        return None
    services = sorted(most(Counter(c.service for c in long), MOST_SERVICES))
    width_ns = bin_width_ns(log.duration_ns)
    edges = time_edges(log, width_ns)
    with style():
        figure, axes = stacked_axes([1.6] * len(services))
        for service, ax in zip(services, axes, strict=True):
            here = [c for c in long if c.service == service]
            lanes = grouped(Counter(c.endpoint for c in here), len(SERIES), "other endpoints")
            below = [0.0] * (len(edges) - 1)
            for color, name in zip(SERIES, dict.fromkeys(lanes.values()), strict=False):
                spells = [(c.at_ns, c.open_until_ns or 0) for c in here if lanes[c.endpoint] == name]
                top = [low + n for low, n in zip(below, _mean_open(spells, width_ns, len(below)), strict=True)]
                ax.stairs(top, edges, baseline=below, fill=True, color=color, label=name)
                below = top
                left_ns = [s.until_ns for s in log.endpoints if (s.service, s.endpoint) == (service, name)]
                for at_ns in (each for each in left_ns if each is not None):
                    ax.axvline(at_ns / SECOND_NS, color=color, linestyle="--", linewidth=1)
            ax.set(title=service, ylim=(0, None))
            whole_numbers(ax.yaxis)
            ax.grid(axis="y")
            ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        figure.supylabel("open connections", fontsize="medium")
        time_axis(axes[-1], log)
    return figure


def plot_nodes(log: RunLog) -> "Figure | None":
    """A bar for each node that events concerned: when it was cordoned, drained, off, or had no Node object.

    Below are the connections that were lost.
    """
    spells = node_spells(log)
    if not spells:
        return None
    nodes = list(dict.fromkeys(spell.node for spell in spells))[:MOST_LANES]
    width_ns = bin_width_ns(log.duration_ns)
    lost = [c for c in log.connections if c.disposition is not Fate.DELIVERED]
    with style():
        figure, axes = stacked_axes([0.4 + 0.3 * len(nodes), *([1.2] if lost else [])])
        for state, (color, height) in NODE_STATE.items():
            for row, node in enumerate(nodes):
                bars = [(s.from_ns, s.until_ns - s.from_ns) for s in spells if (s.node, s.state) == (node, state)]
                spans = [(from_ns / SECOND_NS, length_ns / SECOND_NS) for from_ns, length_ns in bars]
                axes[0].broken_barh(spans, (row - height / 2, height), color=color, label=state.value)
        axes[0].set_yticks(range(len(nodes)), nodes)
        axes[0].set_ylim(len(nodes) - 0.5, -0.5)
        axes[0].tick_params(axis="y", length=0)
        axes[0].grid(axis="x")
        shown = {spell.state.value for spell in spells if spell.node in nodes}
        handles, labels = axes[0].get_legend_handles_labels()
        legend = {label: handle for handle, label in zip(handles, labels, strict=True) if label in shown}
        figure.legend(legend.values(), legend.keys(), loc="outside upper right", ncols=len(legend))
        if lost:
            edges = time_edges(log, width_ns)
            counts = [0] * (len(edges) - 1)
            for c in lost:
                counts[min((c.at_ns if c.broken_ns is None else c.broken_ns) // width_ns, len(counts) - 1)] += 1
            axes[1].stairs(counts, edges, fill=True, color=VERMILION)
            axes[1].set(title=f"connections lost per {duration(width_ns)}", ylim=(0, None))
            whole_numbers(axes[1].yaxis)
            axes[1].grid(axis="y")
        time_axis(axes[-1], log)
    return figure


def _mean_open(spells: list[tuple[int, int]], width_ns: int, bins: int) -> list[float]:
    """Return how many of the spells (from, until) are open in each bin, on average over the bin."""
    total_ns = [0] * bins
    for from_ns, until_ns in spells:
        for i in range(from_ns // width_ns, min(until_ns // width_ns + 1, bins)):
            total_ns[i] += max(0, min(until_ns, (i + 1) * width_ns) - max(from_ns, i * width_ns))
    return [ns / width_ns for ns in total_ns]


_PLOTS: tuple[tuple[str, str, "Callable[[RunLog], Figure | None]"], ...] = (
    ("dispositions", "What became of the connections over time.", plot_dispositions),
    (
        "local_drops",
        "What each node lost to externalTrafficPolicy: Local, over the load balancer's view of it and the truth.",
        plot_local_drops,
    ),
    ("held_up", "Lost connections over time, by what held up the news that they wanted.", plot_held_up),
    ("sync_lag", "How long changes took to reach the rules, and where the time went.", plot_sync_lag),
    ("sync_lag_stages", "The way of the mean change from its trigger to the rules, stage by stage.", plot_lag_stages),
    (
        "sync_lag_nodes",
        "How long changes took to reach each node, by the time of their trigger; the longest of each stretch.",
        plot_lag_nodes,
    ),
    ("affinity_breaks", "Why clients left their endpoint.", plot_affinity_breaks),
    ("endpoint_shares", "Share of a service's delivered connections by endpoint.", plot_endpoint_shares),
    (
        "open_connections",
        "Long connections that were open, by endpoint; dashed: slices no longer list it as ready.",
        plot_open_connections,
    ),
    ("nodes", "When nodes were cordoned, drained or off, over the connections that were lost.", plot_nodes),
)
PLOT_NAMES = tuple(name for name, _, _ in _PLOTS)


def _draw_happenings(ax: "Axes", log: RunLog, kinds: dict[str, str], lanes: list[str]) -> None:
    for row, lane in enumerate(lanes):
        times = sorted({h.at_ns for h in log.happenings if kinds[h.kind] == lane})
        ax.plot([t / SECOND_NS for t in times], [row] * len(times), "|", color=INK, markersize=7, markeredgewidth=1.2)
    ax.set_yticks(range(len(lanes)), lanes)
    ax.set_ylim(len(lanes) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
