"""What all pictures of runs share: colours, style, axes, and a figure with its name and caption.

Figures are made without pyplot, so that no global state changes and no display is needed. Colours are those of Okabe and Ito, which
colour-blind people can distinguish. All lines and letters are drawn in `INK`, so that an SVG can take the page's own text colour
instead.
"""

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpsim.simulation.runlog import RunLog
from kpsim.units import MILLISECOND_NS, SECOND_NS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure

INK = "#24292f"
BLUE, SKY, GREEN, ORANGE, VERMILION, PURPLE, YELLOW = (
    "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#F0E442",
)  # fmt: skip
GREY = "#9AA0A6"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW)

WIDTH_INCHES = 9.0
MOST_LANES = 16


_STYLE: Any = {  # keys of matplotlib.rcParams
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "text.parse_math": False,  # a name with two dollar signs is no formula
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "kpsim",
    "svg.fonttype": "none",  # text that can be read, found and selected
    "path.simplify": True,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture, the name of its file, and the sentence that says what it shows."""

    name: str
    caption: str
    figure: "Figure"

    def png(self) -> bytes:
        """Return a PNG on white with 150 dots an inch, without the name of the program that wrote it."""
        return self._saved(format="png", dpi=150, facecolor="white", metadata={"Software": None})

    def _repr_png_(self) -> bytes:
        return self._saved(format="png", dpi=100, facecolor="white", metadata={"Software": None})

    def svg(self) -> str:
        """Return an SVG without background, date and creator."""
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        drawn = self._saved(format="svg", transparent=True, metadata=metadata).decode()
        # text is text, so machines without this font take one that is about as wide
        return drawn.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")

    def _saved(self, **how: Any) -> bytes:
        out = BytesIO()
        with style():
            self.figure.savefig(out, **how)
        return out.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """Draw with matplotlib's own defaults and :data:`_STYLE`, whatever the user's matplotlibrc says."""
    mpl = load_matplotlib()
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def load_matplotlib() -> Any:
    """Import matplotlib without a matplotlibrc and a backend of the user, which may be broken or not installed."""
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a home that cannot be written
    before = {name: os.environ.pop(name, None) for name in ("MPLBACKEND", "MATPLOTLIBRC")}
    os.environ["MATPLOTLIBRC"] = os.devnull
    try:
        with elsewhere():
            import matplotlib as mpl
    finally:
        del os.environ["MATPLOTLIBRC"]
        os.environ.update({name: value for name, value in before.items() if value is not None})
    return mpl


@contextmanager
def elsewhere() -> Iterator[None]:
    """Leave the current directory for a while: matplotlib reads a matplotlibrc there before any other."""
    try:
        here = os.open(".", os.O_RDONLY)
    except OSError:  # it was removed, or may not be read
        yield
        return
    try:
        os.chdir(Path(__file__).parent)
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def stacked_axes(heights: list[float], *, hide_inner_x: bool = True) -> "tuple[Figure, list[Axes]]":
    """Make a figure with several axes one above the other.

    ``heights`` are in inches. By default all share one x axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + 0.8), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=hide_inner_x, squeeze=False, height_ratios=heights)
    return figure, [row[0] for row in axes]


def time_edges(log: RunLog, width_ns: int) -> list[float]:
    latest_ns = max([log.duration_ns, *(c.at_ns + 1 for c in log.connections)])
    return [i * width_ns / SECOND_NS for i in range(-(-latest_ns // width_ns) + 1)]


def time_axis(ax: "Axes", log: RunLog) -> None:
    ax.set_xlim(0, max(log.duration_ns, MILLISECOND_NS) / SECOND_NS)
    ax.set_xlabel("seconds since the start of the run")


def whole_numbers(axis: "XAxis | YAxis") -> None:
    """Put ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=4, integer=True))


def legend_below(ax: "Axes", columns: int) -> None:
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns)


def most(counts: Counter[str], most: int) -> list[str]:
    return sorted(counts, key=lambda name: (-counts[name], name))[:most]


def grouped(counts: Counter[str], limit: int, rest: str) -> dict[str, str]:
    """Return the panel of each name: the ``limit`` most frequent ones have their own, all others share ``rest``."""
    own = sorted(most(counts, limit if len(counts) <= limit else limit - 1))
    return {name: name for name in own} | dict.fromkeys(sorted(set(counts) - set(own)), rest)
