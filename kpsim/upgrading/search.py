"""Searches the cheapest remedy of each Service at risk by trying: one change at a time, then two, with the seeds of the first runs.

Services that share workloads are one unit. All units try at once, each its own changes, in one scenario.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations

from kpsim.upgrading.losses import Kind, Observed
from kpsim.upgrading.remedies import ROWS, Change, Row, Surroundings, hooks_suffice, ladders
from kpsim.upgrading.subjects import Subject

MOST_PAIRS = 4  #: of a unit

Kinds = frozenset[tuple[str, Kind]]


@dataclass(frozen=True)
class Attempt:
    """Changes that are tried together."""

    row: str
    changes: tuple[Change, ...]

    def of(self, service: str) -> "Attempt":
        """Return what of it concerns a Service."""
        return Attempt(self.row, tuple(change for change in self.changes if change.concerns(service)))

    def with_(self, other: "Attempt") -> "Attempt":
        """Return both attempts as one."""
        return Attempt(f"{self.row} and {other.row}", (*self.changes, *other.changes))

    @property
    def settings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(setting for change in self.changes for setting in change.settings))

    @property
    def everywhere(self) -> tuple[str, ...]:
        """The settings that concern all Services."""
        return tuple(setting for change in self.changes if change.everywhere for setting in change.settings)

    @property
    def words(self) -> str:
        return ", together with ".join(dict.fromkeys(change.words for change in self.changes))


@dataclass(frozen=True)
class Left:
    """What an attempt left a Service: lost connections by seed, and by which ways why. Not all seeds are run if one loses."""

    lost: Mapping[int, int]
    kinds: Kinds
    by_luck: bool = False  #: pods end before all rules have dropped them, even if no client met that

    @property
    def nothing(self) -> bool:
        return not any(self.lost.values()) and not self.by_luck


@dataclass(frozen=True)
class Tried:
    """An attempt and what it left one Service."""

    attempt: Attempt
    left: Left
    together: bool = False  #: with all other remedies that were found


@dataclass
class Unit:
    """Services that share workloads, and how their search goes. ``lost`` and ``kinds`` are of the first runs, by Service and seed.

    A hook has to be at least ``hook_s`` long (CP-1.2).
    """

    subjects: Sequence[Subject]
    hook_s: float
    kinds: Mapping[str, Mapping[int, Kinds]]
    lost: Mapping[str, Mapping[int, int]]
    tried: dict[str, list[Tried]] = field(default_factory=dict)
    chosen: dict[str, Attempt] = field(default_factory=dict)
    greater: dict[str, list[Attempt]] = field(default_factory=dict)  #: of what is chosen, the greater values

    @property
    def open(self) -> list[Subject]:
        return [each for each in self.subjects if each.title not in self.chosen]

    @property
    def hard_seeds(self) -> list[int]:
        """A seed for each open Service in which it loses most."""
        return list(
            dict.fromkeys(max(self.lost[e.title], key=lambda s: (self.lost[e.title][s], -s)) for e in self.open)
        )

    def kinds_of(self, title: str, seeds: Iterable[int] | None = None) -> Kinds:
        """Why a Service lost connections at first, with some seeds or with any."""
        own = self.kinds[title]
        return frozenset().union(*(own[seed] for seed in (own if seeds is None else seeds)))

    def frontends(self, title: str) -> set[str]:
        return {frontend for frontend, _ in self.kinds_of(title)}

    def note(self, attempt: Attempt, found: Mapping[str, "Left"]) -> None:
        for each in self.open:
            self.tried.setdefault(each.title, []).append(Tried(attempt.of(each.title), found[each.title]))

    def raise_value(self, title: str, runs: Sequence[Observed]) -> bool:
        """Take the next greater value of what is chosen for a Service, which ``runs`` show not to do. Returns whether there is one."""
        left = Left({run.seed: run.of(title) for run in runs}, frozenset().union(*(run.kinds(title) for run in runs)))
        self.tried.setdefault(title, []).append(Tried(self.chosen[title].of(title), left, together=True))
        if not self.greater.get(title):
            del self.chosen[title]
            return False
        self.chosen[title] = self.greater[title].pop(0)
        return True


Answers = Mapping[str, Left]


def units_of(subjects: Sequence[Subject], runs: Sequence[Observed], hook_s: float) -> list[Unit]:
    """Return the Services at risk as units."""
    groups: list[list[Subject]] = []
    for subject in subjects:
        names = {each.name for each in subject.behinds}
        joined = [g for g in groups if any(each.name in names for other in g for each in other.behinds)]
        for group in joined:
            groups.remove(group)
        groups.append([*(each for group in joined for each in group), subject])
    found = []
    for group in groups:
        kinds = {each.title: {run.seed: run.kinds(each.title) for run in runs} for each in group}
        lost = {each.title: {run.seed: run.of(each.title) for run in runs} for each in group}
        found.append(Unit(group, hook_s, kinds, lost))
    return found


@dataclass(frozen=True)
class Found:
    """The best value of a remedy that does not do by itself, and by Service what it leaves."""

    attempt: Attempt
    left: Mapping[str, Kinds]


def searching(unit: Unit, around: Surroundings) -> Generator[Attempt, Answers, None]:
    """Yield what to try next, and take what it left. What is found is in the unit."""
    known: dict[str, Found] = {}
    for row in (each for each in ROWS if not each.of_clients):
        if (found := (yield from _alone(unit, row, around))) is not None:
            known[row.name] = found
    yield from _pairs(unit, known, around)
    for row in (each for each in ROWS if each.of_clients):
        yield from _alone(unit, row, around)


def _alone(unit: Unit, row: Row, around: Surroundings) -> Generator[Attempt, Answers, Found | None]:
    kinds = {each.title: unit.kinds_of(each.title) for each in unit.open}
    values = [Attempt(row.name, changes) for changes in ladders(row, unit.open, kinds, around)]
    return (yield from _least(unit, values)) if values else None


def _least(unit: Unit, values: Sequence[Attempt]) -> Generator[Attempt, Answers, Found | None]:
    """Find the least value that saves what the greatest does. Return it with what it leaves, unless that is nothing."""
    known: dict[int, Answers] = {}

    def ask(number: int) -> Generator[Attempt, Answers, Answers]:
        if number not in known:
            known[number] = yield values[number]
            unit.note(values[number], known[number])
        return known[number]

    top = len(values) - 1
    answers = yield from ask(0)
    high = 0
    if top and not all(answers[each.title].nothing for each in unit.open):
        found = yield from ask(top)
        saved = [each.title for each in unit.open if found[each.title].nothing]
        if not saved:
            return Found(values[top], {each.title: found[each.title].kinds for each in unit.open})
        # a Service that it does not save is no reason to look for another value
        low, high = 0, top
        while low < high:
            middle = (low + high) // 2
            answers = yield from ask(middle)
            if all(answers[title].nothing for title in saved):
                high = middle
            else:
                low = middle + 1
        answers = yield from ask(high)
    left = {each.title: answers[each.title].kinds for each in unit.open if not answers[each.title].nothing}
    for title in [each.title for each in unit.open]:
        if answers[title].nothing:
            unit.chosen[title] = values[high]
            unit.greater[title] = list(values[high + 1 :])
    return Found(values[high], left) if left else None


def _pairs(unit: Unit, known: Mapping[str, Found], around: Surroundings) -> Generator[Attempt, Answers, None]:
    """Try two remedies together, in the order of their costs, where one may avoid what the other leaves."""
    order = [row for row in ROWS if not row.of_clients]
    tried = 0
    for one, two in sorted(
        combinations(order, 2), key=lambda pair: (sum(map(order.index, pair)), order.index(pair[0]))
    ):
        if tried == MOST_PAIRS or not unit.open:
            return
        fitting = [
            each
            for each in unit.open
            if _completes(one, known.get(two.name), each) or _completes(two, known.get(one.name), each)
        ]
        kinds = {each.title: unit.kinds_of(each.title) | _left(known, (one, two), each) for each in unit.open}
        first, second = (
            [Attempt(row.name, changes) for changes in ladders(row, fitting, kinds, around, paired=True)]
            for row in (one, two)
        )
        if not first or not second:
            continue
        tried += 1
        if len(first) > len(second):
            first, second = second, first
        best = known.get(first[-1].row)
        fixed = first[-1] if best is None else best.attempt
        yield from _least(unit, [fixed.with_(value) for value in second])


def _completes(row: Row, found: Found | None, subject: Subject) -> bool:
    """Whether a remedy may avoid some of what another one, tried alone, left a Service."""
    return found is not None and any(kind in row.kinds | row.beside for _, kind in found.left.get(subject.title, ()))


def _left(known: Mapping[str, Found], rows: Sequence[Row], subject: Subject) -> Kinds:
    return frozenset().union(
        *(known[row.name].left.get(subject.title, frozenset()) for row in rows if row.name in known)
    )


#: runs a scenario with settings and some Services' traffic, for some seeds
Run = Callable[[Sequence[str], Sequence[Subject], Sequence[int]], Iterator[Observed]]


def search(units: Sequence[Unit], around: Surroundings, seeds: Sequence[int], run: Run) -> None:
    """Search for all units at once. What changes the upgrade itself is tried when no unit has anything else to try."""
    going: list[tuple[Unit, Generator[Attempt, Answers, None]]] = [(unit, searching(unit, around)) for unit in units]
    asked: dict[int, Attempt] = {}
    for number, (_, generator) in enumerate(going):
        if (attempt := next(generator, None)) is not None:
            asked[number] = attempt
    while asked:
        alike = () if any(not each.everywhere for each in asked.values()) else asked[min(asked)].everywhere
        batch = [number for number, each in asked.items() if each.everywhere == alike]
        found = _try([(going[number][0], asked[number]) for number in batch], seeds, run)
        for number, answers in zip(batch, found, strict=True):
            del asked[number]
            with suppress(StopIteration):
                asked[number] = going[number][1].send(answers)


def _try(batch: Sequence[tuple[Unit, Attempt]], seeds: Sequence[int], run: Run) -> list[dict[str, Left]]:
    """Run the attempts of several units in one scenario: first with the seeds that lose most, then the others where that lost nothing."""
    settings = [setting for _, attempt in batch for setting in attempt.settings]
    first = list(dict.fromkeys(seed for unit, _ in batch for seed in unit.hard_seeds))
    subjects = [each for unit, _ in batch for each in unit.open]
    runs = list(run(settings, subjects, first))
    passing = [each for each in subjects if not any(found.of(each.title) for found in runs)]
    rest = [seed for seed in seeds if seed not in first]
    more = list(run(settings, passing, rest)) if passing and rest else []
    whole = {each.title for each in passing}
    answers = []
    for unit, attempt in batch:
        own = {}
        for each in unit.open:
            seen = [*runs, *more] if each.title in whole else runs
            lost = {found.seed: found.of(each.title) for found in sorted(seen, key=lambda r: r.seed)}
            kinds = frozenset().union(*(found.kinds(each.title) for found in seen))
            by_luck = not hooks_suffice(each, attempt.changes, unit.hook_s)
            if by_luck:
                kinds |= {(front, Kind.ENDS_EARLY) for front in unit.frontends(each.title)}
            own[each.title] = Left(lost, kinds, by_luck)
        answers.append(own)
    return answers
