"""What a few seeds say of all seeds: means, shares, and how sure they are. All intervals are those of 95 %."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

#: 97.5 % quantiles of Student's t distribution with 1 to 30 degrees of freedom
_T = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314,
    2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends belong to it."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Spread:
    """How a figure varies over seeds.

    ``mean_interval`` is Student's t interval of the mean, not below 0 if no value is. None if all values are equal: then it would be a
    point, as if all other seeds were known.
    """

    count: int
    mean: float
    mean_interval: Interval | None
    least: float
    median: float
    most: float
    zeros: int  #: in how many seeds the figure is zero


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of a figure's values, one a seed. ValueError without any."""
    if not values:
        raise ValueError("no values")
    mean, count = fmean(values), len(values)
    interval = None
    if min(values) != max(values):
        half = t_quantile(count - 1) * stdev(values) / math.sqrt(count)
        low = mean - half
        interval = Interval(max(low, 0.0) if min(values) >= 0 else low, mean + half)  # counts are never negative
    zeros = sum(value == 0 for value in values)
    return Spread(count, mean, interval, min(values), float(median(values)), max(values), zeros)


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution; beyond 30 degrees by Cornish and Fisher's expansion."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = _Z
    first = (z**3 + z) / (4 * freedom)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return z + first + second


def share_interval(hits: int, count: int) -> Interval:
    """Return Wilson's interval of a share. It is no single point even if all seeds agree."""
    share, square = hits / count, _Z**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    return Interval(low, 1.0 if hits == count else min(1.0, centre + half))
