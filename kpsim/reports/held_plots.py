"""A picture of lost connections over time, by what held up the news that they wanted."""

from typing import TYPE_CHECKING

from kpsim.reports.canvas import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    stacked_axes,
    style,
    time_axis,
    time_edges,
    whole_numbers,
)
from kpsim.reports.held_up import HELD_MEANING, Held, attributed
from kpsim.reports.local_policy import bin_width_ns
from kpsim.reports.sentences import duration
from kpsim.simulation.runlog import RunLog

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: stages have the colours that pictures of sync lag give them; what is not a matter of time is pale or dark
HELD_COLOR = {
    Held.NOTICE: GREY,
    Held.STATUS: SKY,
    Held.SEE: YELLOW,
    Held.SLICE: PURPLE,
    Held.DELIVER: ORANGE,
    Held.WAIT: BLUE,
    Held.SYNC: GREEN,
    Held.ROTATION: VERMILION,
    Held.STATE: "#7a1f00",
    Held.BROKEN: "#b08bd0",
    Held.ABSENT: "#d8dadd",
    Held.REMOVED: "#5c6f2b",
    Held.NETWORK: "#8a8fb5",
    Held.POLICY: INK,
}


def plot_held_up(log: RunLog) -> "Figure | None":
    """Lost connections in bins of time, stacked by what held up the news, the first stage lowest."""
    found = list(attributed(log))
    if not found:
        return None
    width_ns = bin_width_ns(log.duration_ns)
    edges = time_edges(log, width_ns)
    counts = {held: [0] * (len(edges) - 1) for held in Held}
    for c, held in found:
        counts[held][min(c.decisive_ns // width_ns, len(edges) - 2)] += 1
    with style():
        figure, (ax,) = stacked_axes([2.4])
        below = [0] * (len(edges) - 1)
        for held, here in counts.items():
            if any(here):
                top = [low + n for low, n in zip(below, here, strict=True)]
                label = f"{HELD_MEANING[held]} ({sum(here):,})"
                ax.stairs(top, edges, baseline=below, fill=True, color=HELD_COLOR[held], label=label)
                below = top
        ax.set(ylabel=f"lost per {duration(width_ns)}", ylim=(0, None))
        whole_numbers(ax.yaxis)
        ax.grid(axis="y")
        time_axis(ax, log)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure
