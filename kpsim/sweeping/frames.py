"""A sweep as data frames with declared columns. No column ever holds NaN: what is undefined is missing.

The columns of the dials are called like their paths and hold the values as they were written.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kpsim.reports.columns import Column
from kpsim.reports.figures import AtLeast
from kpsim.reports.frames import Table
from kpsim.sweeping.dials import Setting
from kpsim.sweeping.estimates import Interval, Spread, share_interval
from kpsim.sweeping.outcome import Held, Outcome

if TYPE_CHECKING:
    import pandas as pd

FRAME_NAMES = ("points", "runs", "conditions")


@dataclass(frozen=True, slots=True)
class _PointRow:
    number: int
    values: Setting
    figure: str
    spread: Spread
    bound: bool


@dataclass(frozen=True, slots=True)
class _RunRow:
    number: int
    values: Setting
    seed: int
    figure: str
    value: float
    bound: bool


@dataclass(frozen=True, slots=True)
class _ConditionRow:
    number: int
    values: Setting
    kind: str
    held: Held


def tables(found: Outcome) -> "tuple[Table[Any], ...]":
    """Return the declarations of the three frames."""
    return (
        Table("points", "how one figure varies over the seeds at one point a row", _none, (*_head(found), *_POINT)),
        Table("runs", "one figure of one run a row", _none, (*_head(found), *_RUN)),
        Table(
            "conditions",
            "in how many seeds one condition holds at one point a row",
            _none,
            (*_head(found), *_CONDITION),
        ),
    )


def frames(found: Outcome) -> "dict[str, pd.DataFrame]":
    """Return the frames by name."""
    rows: tuple[Callable[[Outcome], Iterator[Any]], ...] = (_points, _runs, _conditions)
    return {table.name: table.frame_of(list(of(found))) for table, of in zip(tables(found), rows, strict=True)}


def _none(_log: object) -> tuple[Any, ...]:
    return ()


def _head(found: Outcome) -> tuple[Column[Any], ...]:
    def value_of(place: int) -> Callable[[Any], str]:
        return lambda row: str(row.values[place].text)

    return (
        Column("point", "int64", "", "number of the point, from 0", lambda row: row.number),
        *(
            Column(dial.path, "str", dial.unit, "value of this field, as it was written", value_of(place))
            for place, dial in enumerate(found.dials)
        ),
    )


def _end(interval: Interval | None, end: str) -> float | None:
    return None if interval is None else float(getattr(interval, end))


_POINT: tuple[Column[Any], ...] = (
    Column("figure", "str", "", "name of the figure", lambda r: r.figure),
    Column("seeds", "int64", "", "seeds for which it is defined", lambda r: r.spread.count),
    Column("mean", "float64", "", "mean over these seeds", lambda r: r.spread.mean),
    Column("mean_low", "Float64", "", "lower end of Student's t interval of the mean, 95 %; missing if all seeds agree", lambda r: _end(r.spread.mean_interval, "low")),
    Column("mean_high", "Float64", "", "upper end of it", lambda r: _end(r.spread.mean_interval, "high")),
    Column("least", "float64", "", "least value", lambda r: r.spread.least),
    Column("median", "float64", "", "median", lambda r: r.spread.median),
    Column("most", "float64", "", "greatest value", lambda r: r.spread.most),
    Column("zero_seeds", "int64", "", "seeds for which it is zero", lambda r: r.spread.zeros),
    Column("zero_share", "float64", "", "their share", lambda r: r.spread.zeros / r.spread.count),
    Column("zero_share_low", "float64", "", "lower end of Wilson's interval of the share, 95 %", lambda r: share_interval(r.spread.zeros, r.spread.count).low),
    Column("zero_share_high", "float64", "", "upper end of it", lambda r: share_interval(r.spread.zeros, r.spread.count).high),
    Column("at_least", "bool", "", "values are lower bounds: changes had not reached the rules when a run ended", lambda r: r.bound),
)  # fmt: skip
_RUN: tuple[Column[Any], ...] = (
    Column("seed", "int64", "", "seed of the run", lambda r: r.seed),
    Column("figure", "str", "", "name of the figure; it has no row where it is undefined", lambda r: r.figure),
    Column("value", "float64", "", "its value", lambda r: r.value),
    Column("at_least", "bool", "", "the value is a lower bound", lambda r: r.bound),
)
_CONDITION: tuple[Column[Any], ...] = (
    Column("kind", "str", "", "expectation or goal", lambda r: r.kind),
    Column("condition", "str", "", "the condition as it was written", lambda r: r.held.text),
    Column("seeds", "int64", "", "seeds", lambda r: r.held.seeds),
    Column("holds", "int64", "", "seeds in which it holds", lambda r: r.held.holds),
    Column("share", "float64", "", "their share", lambda r: r.held.share),
    Column("share_low", "float64", "", "lower end of Wilson's interval of the share, 95 %", lambda r: r.held.interval.low),
    Column("share_high", "float64", "", "upper end of it", lambda r: r.held.interval.high),
)  # fmt: skip


def _points(found: Outcome) -> Iterator[_PointRow]:
    for number, point in enumerate(found.points):
        for figure in found.figures:
            spread = point.spread(figure)
            if spread is not None:
                yield _PointRow(number, point.values, figure, spread, point.is_bound(figure))


def _runs(found: Outcome) -> Iterator[_RunRow]:
    for number, point in enumerate(found.points):
        for seed, each in zip(found.seeds, point.figures, strict=True):
            for figure in found.figures:
                value = each.get(figure)
                if value is not None and value == value:  # NaN differs from itself
                    yield _RunRow(number, point.values, seed, figure, float(value), isinstance(value, AtLeast))


def _conditions(found: Outcome) -> Iterator[_ConditionRow]:
    for number, point in enumerate(found.points):
        for held in point.held():
            yield _ConditionRow(number, point.values, "expectation", held)
        if found.goal is not None:
            yield _ConditionRow(number, point.values, "goal", point.reaches(found.goal))
