"""The result of a sweep: the Python interface of ``kpsim sweep``."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpsim.sweeping.estimates import Interval
from kpsim.sweeping.outcome import Held, Measured, Outcome

if TYPE_CHECKING:
    from pandas import DataFrame

    from kpsim.reports.canvas import Plot

__all__ = ["Measured", "SweepResult"]


@dataclass(frozen=True, repr=False)
class SweepResult:
    """What a sweep found. A notebook shows it as a page."""

    outcome: Outcome

    @property
    def points(self) -> tuple[Measured, ...]:
        """The points that were run: values of the dials, and the figures of each seed."""
        return self.outcome.points

    @property
    def holds(self) -> bool:
        """Whether the goal is reached somewhere; without goal, whether at some point all expectations hold in all seeds."""
        return self.outcome.holds

    @property
    def answers(self) -> list[str]:
        """What the sweep says, as sentences."""
        from kpsim.sweeping.sentences import answer_lines

        return answer_lines(self.outcome)

    def figure(self, name: str) -> dict[str, Any] | None:
        """How a figure varies over the seeds at the first point, as plain values; None if it is defined in no seed."""
        return _spread(self.points[0], name) if self.points[0].of(name) else None

    def frames(self) -> "dict[str, DataFrame]":
        """The frames ``points``, ``runs`` and ``conditions``, with declared columns."""
        from kpsim.sweeping.frames import frames

        return frames(self.outcome)

    @cached_property
    def plots(self) -> "dict[str, Plot]":
        """A picture for each headline figure, by name. A notebook shows each as an image."""
        from kpsim.sweeping.plots import plots

        return {plot.name: plot for plot in plots(self.outcome)}

    def summary(self, width: int = 120) -> str:
        """Return the summary as ``kpsim sweep`` prints it."""
        from kpsim.sweeping.pages import summary_text

        return summary_text(self.outcome, width)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as ``kpsim sweep --format json`` prints it. Undefined figures are left out."""
        found = self.outcome
        return {
            "scenario": found.scenario,
            "description": found.description,
            "mode": found.mode,
            "seeds": list(found.seeds),
            "holds": self.holds,
            "answers": self.answers,
            "dials": [{"path": d.path, "values": [value.text for value in d.values]} for d in found.dials],
            "searches": [
                {
                    "at": {d.path: value.text for d, value in zip(found.dials[1:], search.others, strict=True)},
                    "value": None if search.value is None else search.value.text,
                    "falling": search.falling,
                    "not_monotone": None if search.against is None else [value.text for value in search.against],
                }
                for search in found.searches
            ],
            "points": [self._point(point) for point in found.points],
        }

    def _point(self, point: Measured) -> dict[str, Any]:
        found = self.outcome
        goal = {} if found.goal is None else {"goal": _held(point.reaches(found.goal))}
        return {
            "at": {d.path: value.text for d, value in zip(found.dials, point.values, strict=True)},
            "figures": {name: _spread(point, name) for name in found.figures if point.of(name)},
            "expectations": [_held(each) for each in point.held()],
            **goal,
        }

    def write(self, directory: Path | str) -> list[Path]:
        """Write the page, the frames and the pictures into a directory, and return the files."""
        from kpsim.sweeping.pages import write_output

        content = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        return write_output(self.outcome, content, list(self.plots.values()), Path(directory))

    def __repr__(self) -> str:
        from kpsim.sweeping.sentences import title_line

        return f"<{title_line(self.outcome)}>"

    def _repr_html_(self) -> str:
        from kpsim.sweeping.pages import html_fragment

        return html_fragment(self.outcome, list(self.plots.values()))


def _interval(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _held(held: Held) -> dict[str, Any]:
    return {
        "condition": held.text, "holds": held.holds, "seeds": held.seeds, "share": held.share,
        "share_interval": _interval(held.interval),
    }  # fmt: skip


def _spread(point: Measured, name: str) -> dict[str, Any]:
    spread = point.spread(name)
    assert spread is not None
    return {
        "seeds": spread.count, "mean": spread.mean, "mean_interval": _interval(spread.mean_interval), "least": spread.least,
        "median": spread.median, "most": spread.most, "zero_seeds": spread.zeros, "at_least": point.is_bound(name),
    }  # fmt: skip
