"""Pictures of sync lag: its distribution, the way of typical changes and of the mean one, and nodes over time."""

from typing import TYPE_CHECKING

from kpsim.reports.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MOST_LANES,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    WIDTH_INCHES,
    YELLOW,
    legend_below,
    stacked_axes,
    style,
    time_axis,
)
from kpsim.reports.local_policy import bin_width_ns
from kpsim.reports.sentences import duration
from kpsim.reports.sync_lag import (
    STAGE_MEANING,
    Stage,
    ecdf,
    lag_by_node,
    lag_ns,
    mean_stages_ns,
    reported_ns,
    stage_ns,
    typical_changes,
)
from kpsim.simulation.runlog import RunLog
from kpsim.units import MILLISECOND_NS, SECOND_NS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STAGE_COLOR = {
    Stage.NOTICE: GREY,
    Stage.STATUS: SKY,
    Stage.SEE: YELLOW,
    Stage.SLICE: PURPLE,
    Stage.DELIVER: ORANGE,
    Stage.WAIT: BLUE,
    Stage.SYNC: GREEN,
}
#: up to which lag a stretch has which colour. Blue is usual: the longest wait for a sync by default, and the sync itself
_LEVELS = (
    (100 * MILLISECOND_NS, "#d6ebf7"),
    (500 * MILLISECOND_NS, "#9fd0ee"),
    (SECOND_NS, SKY),
    (2 * SECOND_NS, BLUE),
    (5 * SECOND_NS, ORANGE),
    (10 * SECOND_NS, VERMILION),
    (None, "#7a1f00"),
)
_MOST_NODES = 4 * MOST_LANES


def plot_sync_lag(log: RunLog) -> "Figure | None":
    """Left: distribution of the true lag and of kube-proxy's own samples. Right: the legs of typical changes."""
    if not log.programming:
        return None
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    with style():
        figure = Figure(figsize=(WIDTH_INCHES, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        true_ns, own_ns = [lag_ns(p) for p in log.programming], reported_ns(log)
        for durations_ns, color, line, label in (
            (true_ns, BLUE, "-", f"true ({len(true_ns):,})"),
            (own_ns, ORANGE, "--", f"reported by kube-proxy ({len(own_ns):,})"),
        ):
            unended = len(log.unprogrammed) if durations_ns is true_ns else 0
            if steps := ecdf(durations_ns, unended=unended):
                xs = [steps[0][0] / SECOND_NS, *(ns / SECOND_NS for ns, _ in steps)]
                left.step(xs, [0.0, *(share for _, share in steps)], line, where="post", color=color, label=label)
        everything = [*true_ns, *own_ns]
        if min(everything) > 0 and max(everything) > 20 * min(everything):
            left.set_xscale("log")
            left.xaxis.set_major_formatter(lambda seconds, _position: f"{seconds:g}")
            left.xaxis.set_minor_formatter(NullFormatter())
        else:
            left.set_xlim(left=min(0, min(everything) / SECOND_NS))
        left.set(title="Share of changes whose rules are in force", xlabel="seconds after the trigger", ylim=(0, 1.02))
        left.grid()
        legend_below(left, 2)
        _draw_typical_changes(right, log)
    return figure


def plot_lag_stages(log: RunLog) -> "Figure | None":
    """A cascade of the mean durations of all stages; their sum is the mean lag."""
    means = mean_stages_ns(log)
    shown = [stage for stage in Stage if means.get(stage)]
    if not shown:
        return None
    with style():
        figure, (ax,) = stacked_axes([0.4 + 0.32 * (len(shown) + 1)])
        begin = 0.0
        for row, stage in enumerate(shown):
            width = means[stage] / SECOND_NS
            ax.barh(row, width, left=begin, height=0.6, color=STAGE_COLOR[stage])
            begin += width
            ax.annotate(f" {duration(round(means[stage]))}", (begin, row), va="center")
            ax.plot([begin, begin], [row + 0.3, row + 0.7], color=INK, linewidth=0.8)
        ax.barh(len(shown), begin, height=0.6, color=INK, alpha=0.6)
        ax.annotate(f" {duration(round(sum(means.values())))}", (begin, len(shown)), va="center")
        ax.set_yticks(range(len(shown) + 1), [*(STAGE_MEANING[stage] for stage in shown), "trigger → rules in force"])
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set(xlabel=f"seconds, mean of {len(log.programming):,} changes (counted per node)", xlim=(0, begin * 1.14))
        ax.grid(axis="x")
    return figure


def plot_lag_nodes(log: RunLog) -> "Figure | None":
    """Nodes over time: the longest lag of the changes that happened in each stretch, by colour.

    A change that had not reached the rules at the end counts with the time until then.
    """
    width_ns = bin_width_ns(log.duration_ns)
    longest: dict[tuple[str, int], int] = {}
    happened = [(p.node, p.trigger_ns, lag_ns(p)) for p in log.programming]
    happened += [(u.node, u.trigger_ns, log.duration_ns - u.trigger_ns) for u in log.unprogrammed]
    for node, at_ns, taken_ns in happened:
        key = node, at_ns // width_ns
        longest[key] = max(longest.get(key, 0), taken_ns)
    if not longest:
        return None
    by_lag = sorted(lag_by_node(log).items(), key=lambda item: (-(item[1].max_ns or 0), item[0]))
    nodes = sorted(name for name, _ in by_lag[:_MOST_NODES])
    row_of = {node: row for row, node in enumerate(nodes)}
    with style():
        figure, (ax,) = stacked_axes([0.5 + (0.3 if len(nodes) <= MOST_LANES else 0.09) * len(nodes)])
        below_ns = -1
        for limit_ns, color in _LEVELS:
            here = [key for key, ns in longest.items() if below_ns < ns and (limit_ns is None or ns <= limit_ns)]
            label = f"≤ {duration(limit_ns)}" if limit_ns is not None else f"> {duration(below_ns)}"
            for node in nodes:
                spans = [(n * width_ns / SECOND_NS, width_ns / SECOND_NS) for name, n in sorted(here) if name == node]
                if spans:
                    ax.broken_barh(spans, (row_of[node] - 0.42, 0.84), facecolors=color, label=label)
                    label = "_"  # only once in the legend
            below_ns = limit_ns or below_ns
        stride = max(1, -(-len(nodes) // MOST_LANES))
        ax.set_yticks(range(0, len(nodes), stride), nodes[::stride])
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(len(nodes) - 0.5, -0.5)
        more = len(by_lag) - len(nodes)
        ax.set_title(f"{more:,} faster nodes are not shown" if more else "")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=len(_LEVELS))
        time_axis(ax, log)
    return figure


def _draw_typical_changes(ax: "Axes", log: RunLog) -> None:
    typical = typical_changes(log)
    names = [name for name, _ in typical]
    left = [0.0] * len(typical)
    for stage in Stage:
        widths = [stage_ns(change, stage) / SECOND_NS for _, change in typical]
        if not any(widths):
            continue
        ax.barh(names, widths, left=left, height=0.6, color=STAGE_COLOR[stage], label=STAGE_MEANING[stage])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    for y, (_, change) in enumerate(typical):
        ax.annotate(f" {duration(lag_ns(change))}", (left[y], y), va="center")
    ax.invert_yaxis()
    ax.set(
        title="Where the time went: the change at each quantile", xlabel="seconds", xlim=(0, max([*left, 1e-9]) * 1.18)
    )
    ax.grid(axis="x")
    legend_below(ax, 2)
