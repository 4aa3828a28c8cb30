"""Upgrades a cluster's nodes in a simulation: the function behind ``kpsim upgrade``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kpsim.config import Mode
from kpsim.drafting import Given
from kpsim.effort import Effort, permit
from kpsim.errors import InputError, Problem
from kpsim.explore import Cluster, load
from kpsim.scenario import Scenario
from kpsim.scenario.effort import effort_of
from kpsim.sweeping.sweep import MOST_SEEDS
from kpsim.sweeping.workers import Crew, processors
from kpsim.units import SECOND_NS
from kpsim.upgrading.losses import Observed
from kpsim.upgrading.preparing import prepare
from kpsim.upgrading.remedies import Surroundings, way_s
from kpsim.upgrading.result import UpgradeResult
from kpsim.upgrading.running import Course, followed, observe
from kpsim.upgrading.search import Unit, search, units_of
from kpsim.upgrading.subjects import Subject, Upgrade
from kpsim.upgrading.verdicts import Outcome, stuck_workloads, verdicts_of

#: called with the runs that are made and about how many there will be
Progress = Callable[[int, int], None]
_TELL_S = 10.0
_INLINE_S = 5.0  #: work that this process does by itself
_SEARCH = 3  #: by what the search for remedies multiplies the work, about
_RAISES = 3  #: how often a remedy that does not do with the others gets a greater value


def upgrade(
    cluster: Cluster | Sequence[Path | str] | Path | str,
    *,
    services: Sequence[str] = (),
    max_unavailable: int | str = 1,
    seeds: int = 5,
    settings: Sequence[str] = (),
    mode: Mode | str | None = None,
    balancer: Mapping[str, Any] | None = None,
    remedies: bool = True,
    jobs: int | None = None,
    progress: Progress | None = None,
    long: bool = False,
    note: Callable[[str], None] | None = None,
) -> UpgradeResult:
    """Upgrade all nodes of a cluster in a simulation, one after the other, and say which Services lose connections and what avoids it.

    ``cluster`` is a loaded cluster or the files to load. ``services`` (``namespace/name``) restrict it. ``max_unavailable`` nodes are worked on
    at once, a number or a percentage. ``settings`` (``path=value``) change the drafted scenario, and ``balancer`` is its ``loadBalancer``.
    ``jobs`` processes compute, by default as many as there are processors, or only this one if the work is small. ``note`` is told how long it takes. InputError for names that the
    cluster does not have, for settings that the scenario does not take, and without ``long`` for more work than an hour.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"-j {jobs}: expected at least one process")
    if not 1 <= seeds <= MOST_SEEDS:
        raise InputError(f"--seeds {seeds}: expected 1 to {MOST_SEEDS:,}")
    if not isinstance(cluster, Cluster):
        cluster = load(cluster)
    config = cluster.config if mode is None else _with_mode(cluster, str(mode)).config
    given = Given(cluster.state, config, cluster.document, cluster.controllers, cluster.name)
    plan = prepare(
        given, services=services, max_unavailable=max_unavailable, seeds=seeds, settings=settings, balancer=balancer
    )
    if note is not None:
        for words in plan.notes:
            note(words)
    scenario, course = followed(plan.content)
    alone_s = effort_of(scenario).seconds * seeds
    workers = jobs or (1 if alone_s < _INLINE_S else processors())
    _permit(scenario, seeds, remedies=remedies, jobs=workers, long=long, note=note)
    numbers = tuple(scenario.seed + number for number in range(seeds))
    scenario.with_seed(numbers[-1])  # an InputError if that is none
    with Crew(min(workers, seeds)) as crew:
        return _Lab(plan, scenario, course, numbers, crew, progress, remedies=remedies).result()


def _with_mode(cluster: Cluster, mode: str) -> Cluster:
    if mode not in tuple(Mode):
        raise InputError(f"there is no mode {mode!r}")
    return cluster.with_config(replace(cluster.config, mode=Mode(mode)))


def _permit(
    scenario: Scenario, seeds: int, *, remedies: bool, jobs: int, long: bool, note: Callable[[str], None] | None
) -> None:
    """Say how long it takes. InputError for more than an hour unless ``long``."""
    one = effort_of(scenario)
    more = ", and some for each remedy that is tried" if remedies else ""
    what = f"{seeds} runs of {scenario.duration_ns // SECOND_NS} s, each {one.what}{more}"
    whole = Effort(one.seconds * seeds * (_SEARCH if remedies else 1) / min(jobs, seeds), what)
    try:
        permit(whole, long=long)
    except InputError as error:
        advice = "--service NAMESPACE/NAME takes some Services only, --no-remedies tries none"
        raise InputError([*error.problems, Problem(advice)]) from None
    if whole.seconds > _TELL_S and note is not None:
        note(f"this takes {whole}")


class _Lab:
    """Makes the runs of one upgrade."""

    def __init__(
        self, plan: Upgrade, scenario: Scenario, course: Course, seeds: Sequence[int], crew: Crew, progress: Progress | None, *, remedies: bool
    ) -> None:  # fmt: skip
        self._plan, self._scenario, self._course = plan, scenario, course
        self._seeds, self._crew, self._progress, self._remedies = seeds, crew, progress, remedies
        self._done = 0
        self._expected = len(seeds) * (4 if remedies else 1)

    def result(self) -> UpgradeResult:
        plan, seeds = self._plan, self._seeds
        runs = list(self._observe(self._scenario, seeds))
        risky = [each for each in plan.subjects.values() if any(run.of(each.title) for run in runs)]
        min_sync_s = self._scenario.proxy.min_sync_period_ns / SECOND_NS
        units = units_of(risky, runs, way_s(min_sync_s)) if self._remedies else []
        around = Surroundings(
            len(plan.content["nodes"]["list"]), stuck_workloads(plan, self._course), self._scenario.spec.load_balancer,
            min_sync_s,
            {title: sum(counts.values()) for title, counts in self._course.endpoints.items()},
        )  # fmt: skip
        search(units, around, seeds, self._run)
        together = self._together(units)
        found = verdicts_of(plan, self._course, runs, units, way_s(min_sync_s), searched=self._remedies)
        return UpgradeResult(Outcome(plan, self._course, tuple(seeds), found, together))

    def _together(self, units: Sequence[Unit]) -> Mapping[str, int] | None:
        """Run with all remedies at once, and count what the Services at risk lose then. A remedy that does not do gets its next value."""
        if not any(unit.chosen for unit in units):
            return None
        subjects = [each for unit in units for each in unit.subjects]
        lost: dict[str, int] = {}
        for _ in range(_RAISES):
            chosen = [attempt for unit in units for attempt in unit.chosen.values()]
            settings = tuple(dict.fromkeys(setting for attempt in chosen for setting in attempt.settings))
            runs = list(self._run(settings, subjects, self._seeds))
            lost = {title: sum(run.of(title) for run in runs) for title in sorted(each.title for each in subjects)}
            raised = [unit.raise_value(title, runs) for unit in units for title in list(unit.chosen) if lost[title]]
            if not any(raised):
                break
        return lost

    def _run(self, settings: Sequence[str], subjects: Sequence[Subject], seeds: Sequence[int]) -> Iterator[Observed]:
        """Run with settings and the traffic of some Services."""
        sources = [name for each in subjects for name in each.sources]
        own = [each for each in settings if not each.startswith("traffic[") or each[8:].partition("]")[0] in sources]
        scenario, _ = followed(self._plan.with_traffic(sources), own)
        yield from self._observe(scenario, seeds)

    def _observe(self, scenario: Scenario, seeds: Sequence[int]) -> Iterator[Observed]:
        """Yield the runs in the order of the seeds, whichever ends first."""
        found: dict[int, Observed] = {}
        for number, run in self._crew.results(observe, [(scenario, seed) for seed in seeds]):
            found[number] = run
            self._done += 1
            if self._progress is not None:
                self._expected = max(self._expected, self._done + 1)
                self._progress(self._done, self._expected)
        yield from (found[number] for number in range(len(seeds)))
