"""Pictures of a sweep: a curve over one dial, a heat map over two, and the runs themselves where there is no dial."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kpsim.reports.canvas import BLUE, GREY, INK, VERMILION, WIDTH_INCHES, Plot, style, whole_numbers
from kpsim.sweeping.dials import Dial, Setting, Value
from kpsim.sweeping.outcome import Measured, Outcome
from kpsim.sweeping.sentences import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 12  #: one for each combination of the third and further dials
_MOST_CELLS_TOLD = 150


def plots(found: Outcome) -> list[Plot]:
    """Return a picture for each headline figure that is defined somewhere."""
    drawn = []
    for name in found.headline:
        if any(point.spread(name) is not None for point in found.points):
            drawn.append(Plot(f"sweep_{_file_name(name)}", _caption(found, name), _draw(found, name)))
    return drawn


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)


def _caption(found: Outcome, name: str) -> str:
    seeds = len(found.seeds)
    if not found.dials:
        return f"{name}, each of {seeds} seeds a dot"
    what = f"mean of {name} over {seeds} seeds" if seeds > 1 else f"{name} with seed {found.seeds[0]}"
    kind = (
        "with its 95 % interval; dots are single runs"
        if len(found.dials) == 1
        else "in each cell; below it, in how many seeds it is 0"
    )
    return f"{what} {kind}"


def _draw(found: Outcome, name: str) -> "Figure":
    from matplotlib.figure import Figure

    panels: dict[Setting, list[Measured]] = {}
    for point in found.points:
        panels.setdefault(point.values[2:], []).append(point)
    shown = list(panels.items())[:MOST_PANELS]
    columns = min(len(shown), 2)
    rows = -(-len(shown) // columns)
    height = 3.4 if len(found.dials) < 2 else 0.9 + 0.5 * max(3, len(found.dials[1].values))
    with style():
        figure = Figure(figsize=(WIDTH_INCHES, min(height, 8) * rows + 0.4), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax in axes[len(shown) :]:
            ax.set_visible(False)
        greatest = max((spread.mean for point in found.points if (spread := point.spread(name))), default=0.0)
        for ax, (others, points) in zip(axes, shown, strict=False):
            match len(found.dials):
                case 0:
                    _dots(ax, found, points[0], name)
                case 1:
                    _curve(ax, found.dials[0], points, name)
                case _:
                    _heat_map(ax, found.dials, points, name, greatest)
            title = ", ".join(f"{d.label} {v.text}" for d, v in zip(found.dials[2:], others, strict=True))
            ax.set_title(title or name)
        if len(panels) > len(shown):
            figure.supxlabel(f"{len(panels) - len(shown)} more panels are in the frames", fontsize="medium")
    return figure


def _dots(ax: "Axes", found: Outcome, point: Measured, name: str) -> None:
    values = point.of(name)
    ax.plot(range(len(values)), sorted(values), "o", color=BLUE, markersize=4)
    ax.set(
        xlabel=f"seeds {found.seeds[0]} to {found.seeds[-1]}, in the order of {name}",
        ylabel=name,
        ylim=(min(0, *values, 0), None),
    )
    whole_numbers(ax.xaxis)
    ax.grid(axis="y")


def _curve(ax: "Axes", dial: Dial, points: Sequence[Measured], name: str) -> None:
    ordered = sorted(points, key=lambda point: point.values[0].number or 0.0) if dial.numeric else list(points)
    measured = [(point, spread) for point in ordered if (spread := point.spread(name)) is not None]
    places = [_place(dial, point.values[0], number) for number, (point, _) in enumerate(measured)]
    for place, (point, _) in zip(places, measured, strict=True):
        values = point.of(name)
        ax.plot([place] * len(values), values, "o", color=GREY, markersize=2.5, alpha=0.6)
    means = [spread.mean for _, spread in measured]
    below = [spread.mean - (i.low if (i := spread.mean_interval) else spread.mean) for _, spread in measured]
    above = [(i.high if (i := spread.mean_interval) else spread.mean) - spread.mean for _, spread in measured]
    ax.errorbar(places, means, yerr=[below, above], fmt="o-" if dial.numeric else "o", color=VERMILION, capsize=3)
    if not dial.numeric:
        ax.set_xticks(places, [point.values[0].text for point, _ in measured])
    ax.set(xlabel=dial.path + (f" [{dial.unit}]" if dial.unit else ""), ylabel=name, ylim=(0, None))
    ax.grid(axis="y")


def _place(dial: Dial, value: Value, number: int) -> float:
    return value.number if dial.numeric and value.number is not None else float(number)


def _heat_map(ax: "Axes", dials: Sequence[Dial], points: Sequence[Measured], name: str, greatest: float) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    across, up = (_ordered(dial, points, place) for place, dial in enumerate(dials[:2]))
    grid = [[float("nan")] * len(across) for _ in up]
    told = len(across) * len(up) <= _MOST_CELLS_TOLD
    for point in points:
        spread = point.spread(name)
        if spread is None:
            continue
        column, row = across.index(point.values[0].text), up.index(point.values[1].text)
        grid[row][column] = spread.mean
        if told:
            dark = spread.mean > 0.85 * greatest
            text = f"{amount(round(spread.mean, 1))}\n{spread.zeros}/{spread.count}"
            ax.text(column, row, text, ha="center", va="center", fontsize=7.5, color="white" if dark else INK)
    colours = LinearSegmentedColormap.from_list("lost", ["#FFFFFF", "#F6C9A8", VERMILION])
    ax.imshow(grid, origin="lower", aspect="auto", cmap=colours, vmin=0, vmax=greatest or 1)
    ax.set_xticks(range(len(across)), across)
    ax.set_yticks(range(len(up)), up)
    ax.set(xlabel=dials[0].path, ylabel=dials[1].path)


def _ordered(dial: Dial, points: Sequence[Measured], place: int) -> list[str]:
    """Return the dial's values that occur, ascending if they are numbers."""
    seen = {point.values[place] for point in points}
    values = [value for value in dial.values if value in seen]
    if dial.numeric:
        values.sort(key=lambda value: value.number or 0.0)
    return [value.text for value in values]
