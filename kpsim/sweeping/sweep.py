"""Sweeps: the points of all dials, the seeds, the runs that are still to be made, and the search for a goal."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kpsim.effort import Effort, permit
from kpsim.errors import InputError, Problem
from kpsim.reports.expectations import Expectation, evaluate, parse_expectation, parse_expectations
from kpsim.reports.figures import Figures
from kpsim.reports.names import check_names
from kpsim.scenario import Scenario, parse_scenario, read_scenario
from kpsim.scenario.effort import effort_of
from kpsim.sweeping.dials import Dial, Setting, Value, read_dials, settings_of
from kpsim.sweeping.goal import Search, bisect
from kpsim.sweeping.identity import fingerprint, run_key
from kpsim.sweeping.keeping import Kept, default_directory
from kpsim.sweeping.outcome import Measured, Outcome
from kpsim.sweeping.result import SweepResult
from kpsim.sweeping.runs import Task
from kpsim.sweeping.workers import finished, processors

MOST_RUNS = 100_000
MOST_SEEDS = 10_000
_CHECKED = 200  #: values of one dial
_INLINE_S = 4.0  #: work that is not worth other processes, unless they are asked for

#: called with how many runs are there, and how many there will be
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Point:
    """One value of each dial, and the scenario with them."""

    values: Setting
    scenario: Scenario
    identity: str


@dataclass
class Runner:
    """Makes runs, or takes them from those kept, and tells how far it is."""

    kept: Kept
    jobs: int | None
    scheduler: str
    progress: Progress | None
    long: bool
    note: Callable[[str], None] | None
    expected: int = 0  #: runs that will be asked for in all, as far as known
    done: int = 0
    reused: int = 0
    _known: dict[str, Figures] = field(default_factory=dict)

    def know(self, found: Mapping[str, Figures]) -> None:
        """Take figures that are there already, by the keys of their runs."""
        self._known.update(found)

    def figures(self, points: Sequence[Point], seeds: Sequence[int]) -> list[list[Figures]]:
        """Return the figures of every point, one for each seed. InputError for work of hours, unless it was asked for."""
        keys = [[run_key(point.identity, seed) for seed in seeds] for point in points]
        missing: dict[str, Task] = {}
        for point, row in zip(points, keys, strict=True):
            for key, seed in zip(row, seeds, strict=True):
                if key in self._known or key in missing:
                    continue
                if (found := self.kept.get(key)) is None:
                    missing[key] = Task(key, point.scenario, seed)
                else:
                    self._known[key] = found
                    self.reused += 1
        self._tell(sum(map(len, keys)) - len(missing))
        self._make(list(missing.values()))
        return [[self._known[key] for key in row] for row in keys]

    def _make(self, tasks: Sequence[Task]) -> None:
        if not tasks:
            return
        seconds = sum(effort_of(task.scenario).seconds for task in tasks)
        jobs = self.jobs or (1 if seconds < _INLINE_S else processors())
        if not self.scheduler:
            permit(Effort(seconds / min(jobs, processors()), f"{len(tasks):,} runs"), long=self.long, note=self.note)
        for task, found in finished(tasks, jobs=jobs, scheduler=self.scheduler):
            self.kept.put(task.key, found)
            self._known[task.key] = found
            self._tell(1)

    def _tell(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.progress(self.done, max(self.done, self.expected))


def sweep(
    scenario: Path | str,
    *,
    vary: Mapping[str, Sequence[Any]] | Iterable[str] = (),
    seeds: int = 10,
    seed: int | None = None,
    mode: str | None = None,
    settings: Sequence[str] = (),
    goal: str = "",
    figures: Sequence[str] = (),
    jobs: int | None = None,
    scheduler: str = "",
    keep: Path | str | bool = True,
    progress: Progress | None = None,
    long: bool = False,
    walk_all: bool = False,
    note: Callable[[str], None] | None = None,
) -> SweepResult:
    """Run a scenario for every combination of values, each with the same seeds.

    ``vary`` has the values of each field by its path, or is a list of texts as ``--vary`` takes them. The seeds are ``seed``, or the
    scenario's own, and those that follow it. With ``goal``, a condition on a figure, the first dial's values are not all run: its
    least value for which the goal holds is searched. ``figures`` are reported beside the usual ones. ``jobs`` processes compute, by
    default as many as there are processors; with ``scheduler`` the workers of a Dask cluster do. ``keep`` is the directory of finished
    runs; True is one below the user's cache directory, False none. With ``walk_all`` every packet of short connections is walked.

    InputError names everything that is wrong with the scenario, a path or a value, before anything runs.
    """
    dials = read_dials(vary)
    numbers = _seeds(seeds)
    sought = parse_expectation(goal, Problem("", file="--goal")) if goal else None
    if sought is not None and (not dials or not dials[0].numeric):
        raise InputError("--goal is searched along the first --vary, which has to be numbers, durations or percentages")
    asked = [parse_expectation(f"{name} >= 0", Problem("", file="--figure")) for name in figures]
    if jobs is not None and jobs < 1:
        raise InputError(f"-j {jobs}: expected at least one process")
    runs = _runs(dials, seeds, searched=sought is not None)
    loader = _Loader(
        scenario, dials, settings, mode, seed, [*([sought] if sought else []), *asked], walk_all=walk_all
    )  # fmt: skip
    first = loader.check()
    all_seeds = [first.seed + number for number in numbers]
    first.with_seed(all_seeds[-1])  # an InputError if that is none
    directory = default_directory() if keep is True else None if keep is False else Path(keep)
    runner = Runner(Kept(directory), jobs, scheduler, progress, long, note, expected=runs)
    if sought is None:
        points = [loader.point(values) for values in settings_of(dials)]
        found = runner.figures(points, all_seeds)
        measured = [_measured(*pair) for pair in zip(points, found, strict=True)]
        searches: tuple[Search, ...] = ()
    else:
        measured, searches = _search(loader, dials, sought, runner, all_seeds)
    runner.kept.prune()
    if runner.reused and note is not None:
        note(f"{runner.reused:,} of {runner.done:,} runs were there already, in {directory}")
    return SweepResult(
        Outcome(
            first.name, first.spec.description, first.proxy.mode.value, dials, tuple(all_seeds), tuple(measured), sought, searches,
            tuple(figures),
        )
    )  # fmt: skip


def seeds_of(scenario: Scenario, seeds: int, known: Mapping[int, Figures] | None = None, **how: Any) -> SweepResult:
    """Run one scenario, as it is loaded, with its own seed and those that follow it.

    ``known`` are figures that are there already, by seed. ``how`` are options of :func:`sweep`.
    """
    numbers = [scenario.seed + number for number in _seeds(seeds)]
    scenario.with_seed(numbers[-1])
    keep = how.get("keep", True)
    directory = default_directory() if keep is True else None if keep is False else Path(keep)
    runner = Runner(
        Kept(directory), how.get("jobs"), "", how.get("progress"), how.get("long", False), how.get("note"), expected=seeds
    )  # fmt: skip
    point = Point((), scenario, fingerprint(scenario))
    runner.know({run_key(point.identity, seed): found for seed, found in (known or {}).items()})
    (found,) = runner.figures([point], numbers)
    runner.kept.prune()
    measured = (_measured(point, found),)
    return SweepResult(
        Outcome(scenario.name, scenario.spec.description, scenario.proxy.mode.value, (), tuple(numbers), measured)
    )


def _seeds(seeds: int) -> range:
    if not 1 <= seeds <= MOST_SEEDS:
        raise InputError(f"--seeds {seeds}: expected 1 to {MOST_SEEDS:,}")
    return range(seeds)


def _runs(dials: Sequence[Dial], seeds: int, *, searched: bool) -> int:
    """Return how many runs there will be, of a search about. InputError for more than anybody waits for."""
    points = 1
    for number, dial in enumerate(dials):
        count = len(dial.values)
        points *= min(count, count.bit_length() + 5) if searched and number == 0 else count
    if points * seeds > MOST_RUNS:
        raise InputError(f"{points:,} points × {seeds:,} seeds are {points * seeds:,} runs: at most {MOST_RUNS:,}")
    return points * seeds


class _Loader:
    """Loads the scenario of each point. Its text is read once."""

    def __init__(
        self, path: Path | str, dials: Sequence[Dial], settings: Sequence[str], mode: str | None, seed: int | None,
        named: Sequence[Expectation], *, walk_all: bool,
    ) -> None:  # fmt: skip
        self._text, self._file = read_scenario(path)
        self._dials, self._settings, self._mode, self._seed, self._named = dials, settings, mode, seed, named
        self._seen: dict[str, Setting] = {}
        self._walk_all = walk_all

    def check(self) -> Scenario:
        """Return the first point's scenario. InputError names every path and value that the scenario does not take, each once."""
        self._parse(())  # what is wrong without any dial
        problems: dict[str, Problem] = {}
        for dial in self._dials:
            # of a long range both ends stand for the values between
            for value in dial.values if len(dial.values) <= _CHECKED else (dial.values[0], dial.values[-1]):
                try:
                    self._parse((value,))
                except InputError as error:
                    told = f"--vary {dial.path}={value.text}"
                    for problem in error.problems:
                        of_value = problem.file == f"--set {value.setting}"
                        named = replace(problem, file=told) if of_value else problem
                        problems[str(named)] = named
        try:
            first = self._parse([dial.values[0] for dial in self._dials])
        except InputError:
            raise InputError(problems.values()) from None
        if problems and len(self._dials) == 1:
            raise InputError(problems.values())
        check_names(first, self._named)
        return first

    def point(self, values: Setting) -> Point:
        """Return a point. InputError if a run could not tell it from another."""
        scenario = self._parse(values)
        check_names(scenario, self._named)
        point = Point(values, scenario, fingerprint(scenario))
        twin = self._seen.setdefault(point.identity, values)
        if twin != values:
            raise InputError(
                f"{_named(self._dials, values)} and {_named(self._dials, twin)} are the same scenario: runs read nothing of what differs"
            )
        return point

    def _parse(self, values: Iterable[Value]) -> Scenario:
        scenario = parse_scenario(
            self._text, self._file, settings=[*self._settings, *(value.setting for value in values)]
        )
        scenario = replace(scenario, walk_all=self._walk_all)
        scenario = scenario if self._seed is None else scenario.with_seed(self._seed)
        return scenario if self._mode is None else scenario.with_mode(str(self._mode))


def _named(dials: Sequence[Dial], values: Setting) -> str:
    return " ".join(f"{dial.path}={value.text}" for dial, value in zip(dials, values, strict=True))


def _measured(point: Point, found: Sequence[Figures]) -> Measured:
    scenario = point.scenario
    expected = parse_expectations(scenario.expect, scenario.expect_places)
    held = tuple((each.text, tuple(evaluate(each, figures).holds for figures in found)) for each in expected)
    return Measured(point.values, tuple(found), held)


def _search(
    loader: _Loader, dials: Sequence[Dial], goal: Expectation, runner: Runner, seeds: Sequence[int]
) -> tuple[list[Measured], tuple[Search, ...]]:
    """Bisect along the first dial, for each combination of the others."""
    searches, measured = [], []
    values = sorted(dials[0].values, key=lambda value: value.number or 0.0)
    for others in settings_of(dials[1:]):
        tried: dict[int, Measured] = {}

        def holds(numbers: Sequence[int], others: Setting = others, tried: dict[int, Measured] = tried) -> list[bool]:
            points = [loader.point((values[number], *others)) for number in numbers]
            for number, point, found in zip(numbers, points, runner.figures(points, seeds), strict=True):
                tried[number] = _measured(point, found)
            return [all(evaluate(goal, found).holds for found in tried[number].figures) for number in numbers]

        searches.append(bisect(values, others, holds))
        measured += [tried[number] for number in sorted(tried)]
    return measured, tuple(searches)
