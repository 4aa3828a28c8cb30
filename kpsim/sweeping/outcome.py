"""What a sweep found: the figures of every run, by point and seed, and what they say of figures and conditions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from kpsim.errors import InputError, Problem
from kpsim.reports.expectations import Expectation, evaluate
from kpsim.reports.figures import AtLeast, Figures, lookup
from kpsim.sweeping.dials import Dial, Setting
from kpsim.sweeping.estimates import Interval, Spread, share_interval, spread
from kpsim.sweeping.goal import Search

#: reported of every sweep. Causes follow if a run lost connections by them
_USUAL = (
    "sent", "delivered", "lost", "rejected", "dropped", "failed", "misdelivered", "broken", "sync_lag.p50_seconds",
    "sync_lag.max_seconds",
)  # fmt: skip
_OWN = ("lost", "delivered", "rejected", "dropped", "failed", "misdelivered")  #: of each service port


@dataclass(frozen=True, slots=True)
class Held:
    """In how many seeds a condition holds."""

    text: str
    holds: int
    seeds: int

    @property
    def everywhere(self) -> bool:
        return self.holds == self.seeds

    @property
    def share(self) -> float:
        return self.holds / self.seeds

    @property
    def interval(self) -> Interval:
        """Wilson's interval of the share over all seeds."""
        return share_interval(self.holds, self.seeds)


@dataclass(frozen=True)
class Measured:
    """One point: a value of each dial, the figures of each seed, and for each expectation in which seeds it holds."""

    values: Setting
    figures: tuple[Figures, ...]
    expectations: tuple[tuple[str, tuple[bool, ...]], ...] = ()

    def of(self, figure: str) -> list[int | float]:
        """Return a figure's values where it is defined, by seed. InputError if no seed has such a figure."""
        found, unknown = [], None
        for known in self.figures:
            try:
                found.append(lookup(known, figure, Problem("", file="--figure")))
            except InputError as error:  # pods and their addresses can differ from seed to seed
                unknown = error
        if not found and unknown is not None:
            raise unknown
        return [value for value in found if not math.isnan(value)]

    def spread(self, figure: str) -> Spread | None:
        """Return how a figure varies over the seeds; None if it is defined in none."""
        values = self.of(figure)
        return spread(values) if values else None

    def is_bound(self, figure: str) -> bool:
        """Return whether some of a figure's values are lower bounds, so that its mean is one, too."""
        return any(isinstance(value, AtLeast) for value in self.of(figure))

    def held(self) -> list[Held]:
        """Return in how many seeds each expectation of the scenario holds."""
        return [Held(text, sum(holds), len(holds)) for text, holds in self.expectations]

    def all_held(self) -> Held:
        """Return in how many seeds all expectations hold."""
        count = len(self.figures)
        kept = sum(all(holds[number] for _, holds in self.expectations) for number in range(count))
        return Held("all expectations", kept, count)

    def reaches(self, goal: Expectation) -> Held:
        """Return in how many seeds a condition holds."""
        return Held(goal.text, sum(evaluate(goal, found).holds for found in self.figures), len(self.figures))


@dataclass(frozen=True)
class Outcome:
    """A sweep's runs. ``points`` are in the order of the dials' values; of a search, those that were asked for."""

    scenario: str
    description: str
    mode: str
    dials: tuple[Dial, ...]
    seeds: tuple[int, ...]
    points: tuple[Measured, ...]
    goal: Expectation | None = None
    searches: tuple[Search, ...] = ()
    asked: tuple[str, ...] = ()  #: figures that the caller named

    @cached_property
    def figures(self) -> tuple[str, ...]:
        """The names of the figures that are reported."""
        found: Mapping[str, None] = dict.fromkeys(_USUAL)
        every = [each for point in self.points for each in point.figures]
        causes = dict.fromkeys(
            name for each in every for name, value in each.items() if name.startswith("causes.") and value
        )
        first = self.points[0].figures[0]
        scopes = [
            name.removesuffix(".sent") for name in first if name.startswith("services.") and name.endswith(".sent")
        ]
        own = dict.fromkeys(f"{scope}.{name}" for scope in scopes for name in _OWN if len(scopes) > 1)
        conditions = [self.goal.figure] if self.goal is not None else []
        return tuple({**found, **causes, **own, **dict.fromkeys(conditions), **dict.fromkeys(self.asked)})

    @property
    def headline(self) -> tuple[str, ...]:
        """The figures that have a picture and a column: what is lost, what the goal is about, and those asked for."""
        about = [self.goal.figure] if self.goal is not None else []
        return tuple(dict.fromkeys(["lost", *about, *self.asked]))

    @property
    def holds(self) -> bool:
        """Whether the goal is reached somewhere. Without goal: whether all expectations hold in all seeds at some point."""
        if self.goal is not None:
            return any(search.value is not None for search in self.searches)
        return any(point.all_held().everywhere for point in self.points)


def seeds_text(seeds: Sequence[int]) -> str:
    """``seed 1``, or ``20 seeds (1 to 20)``."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds):,} seeds ({seeds[0]} to {seeds[-1]})"
