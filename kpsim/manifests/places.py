"""Places of values in the input, and findings that become Problems with line numbers.

Lines are looked up only when something is wrong. The text is then walked a second time.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import field
from itertools import count, islice
from typing import Any

from kpsim.errors import Problem, printable
from kpsim.valueclass import dataclass

#: keys and indexes from the top of a document
Path = tuple[str | int, ...]

#: (document number, path) → line, for the places asked for
LineFinder = Callable[[Iterable[tuple[int, Path]]], Mapping[tuple[int, Path], int]]

MAX_PROBLEMS = 500
MAX_MESSAGE = 600  #: characters; a message may quote the input


def _no_lines(_wanted: Iterable[tuple[int, Path]]) -> Mapping[tuple[int, Path], int]:
    return {}


@dataclass(frozen=True, eq=False)
class Source:
    """Where values come from: a file, standard input, or a name that the caller gives (None: no name)."""

    name: str | None = None
    find_lines: LineFinder = field(default=_no_lines, repr=False)


@dataclass(frozen=True, slots=True)
class Place:
    """A value's place: source, document number from 1, path inside the document."""

    source: Source
    document: int = 1
    path: Path = ()

    def at(self, *steps: str | int) -> "Place":
        return Place(self.source, self.document, (*self.path, *steps))


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at a place. ``other`` is a second place, which the message ends with."""

    place: Place
    message: str
    other: Place | None = None


def format_path(path: Path) -> str:
    """Format a path as ``.spec.ports[0].port``. Keys that are no plain words stand in brackets and quotes."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.isascii() and step.replace("_", "").replace("-", "").isalnum():
            text += f".{step}"
        else:
            text += f"[{step!r}]"
    return text


def value_at(value: Any, path: Path) -> Any:
    """Return the value at a path inside a value, or None if there is none."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def without(value: Any, path: Path) -> Any:
    """Return a copy of the value without the field or list item at the path."""
    step, rest = path[0] if path else None, path[1:]
    if isinstance(value, dict) and step in value:
        if not rest:
            return {key: inner for key, inner in value.items() if key != step}
        return {**value, step: without(value[step], rest)}
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        kept = [without(value[step], rest)] if rest else []
        return [*value[:step], *kept, *value[step + 1 :]]
    return value


def path_before(path: Path, removed: Collection[Path]) -> Path:
    """Return the path that a value had before the list items at the paths ``removed`` were taken out."""
    original: Path = ()
    for step in path:
        if isinstance(step, int):
            gone = {taken[-1] for taken in removed if taken[:-1] == original}
            step = next(islice((index for index in count() if index not in gone), step, None))
        original = (*original, step)
    return original


def problems_of(findings: Sequence[Finding]) -> list[Problem]:
    """Turn findings into Problems, sorted by file, document and line. The line is given if the source can tell it."""
    lines = _lines_of([place for finding in findings for place in (finding.place, finding.other) if place is not None])
    by_file: dict[str | None, list[Problem]] = {}
    for finding in findings:
        message = finding.message
        if finding.other is not None:
            message += f" {_problem(finding.other, '', lines)}"
        problem = _problem(finding.place, message, lines)
        by_file.setdefault(problem.file, []).append(problem)
    problems = [
        problem
        for located in by_file.values()
        for problem in sorted(dict.fromkeys(located), key=lambda problem: (problem.document or 0, problem.line or 0))
    ]
    if len(problems) > MAX_PROBLEMS:
        return [*problems[:MAX_PROBLEMS], Problem(f"and {len(problems) - MAX_PROBLEMS} problems more")]
    return problems


def lines_of(places: Sequence[Place]) -> list[int | None]:
    """Return the line of each place, if its source can tell it. Each text is walked once."""
    lines = _lines_of(places)
    return [lines[id(place.source)].get((place.document, place.path)) for place in places]


_Lines = Mapping[int, Mapping[tuple[int, Path], int]]


def _lines_of(places: Sequence[Place]) -> _Lines:
    """Return the lines of all places, by identity of their source. Each text is walked once."""
    sources = {id(place.source): place.source for place in places}
    wanted: dict[int, set[tuple[int, Path]]] = {}
    for place in places:
        wanted.setdefault(id(place.source), set()).add((place.document, place.path))
    return {identity: source.find_lines(wanted[identity]) for identity, source in sources.items()}


def _problem(place: Place, message: str, lines: _Lines) -> Problem:
    return Problem(
        printable(message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]}..."),
        file=None if place.source.name is None else printable(place.source.name),
        document=place.document,
        line=lines[id(place.source)].get((place.document, place.path)),
        path=printable(format_path(place.path)) or None,
    )
