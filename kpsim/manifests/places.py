"""Where in the input a value stands, and findings that become Problems with line numbers.

Lines are looked up only when something is wrong: the text is then walked a second time. Nothing here knows Kubernetes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kpsim.errors import Problem

#: keys and indexes from the top of a document
Path = tuple[str | int, ...]

#: (document number, path) -> line, for the places asked for
LineFinder = Callable[[Iterable[tuple[int, Path]]], Mapping[tuple[int, Path], int]]

MAX_PROBLEMS = 500


def _no_lines(_wanted: Iterable[tuple[int, Path]]) -> Mapping[tuple[int, Path], int]:
    return {}


@dataclass(frozen=True, eq=False)
class Source:
    """A file, standard input, or the caller's own name for where values come from (None: nowhere in particular)."""

    name: str | None = None
    is_yaml: bool = False
    find_lines: LineFinder = field(default=_no_lines, repr=False)


@dataclass(frozen=True, slots=True)
class Place:
    """A value's place: source, document number from 1, path inside the document."""

    source: Source
    document: int = 1
    path: Path = ()

    def at(self, *steps: str | int) -> "Place":
        return Place(self.source, self.document, (*self.path, *steps))

    def __str__(self) -> str:
        return str(problems_of([Finding(self, "")])[0]) or "the objects given"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at a place."""

    place: Place
    message: str


def format_path(path: Path) -> str:
    """``.spec.ports[0].port``; keys that are no plain words in brackets and quotes."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.isascii() and step.replace("_", "").replace("-", "").isalnum():
            text += f".{step}"
        else:
            text += f"[{step!r}]"
    return text


def problems_of(findings: Sequence[Finding]) -> list[Problem]:
    """The findings as Problems in input order, each with its line where the source can tell."""
    sources: dict[int, Source] = {}
    for finding in findings:
        sources.setdefault(id(finding.place.source), finding.place.source)
    problems: list[Problem] = []
    for identity, source in sources.items():
        mine = [finding for finding in findings if id(finding.place.source) == identity]
        lines = source.find_lines({(finding.place.document, finding.place.path) for finding in mine})
        located = [
            Problem(
                finding.message,
                file=source.name,
                document=finding.place.document,
                line=lines.get((finding.place.document, finding.place.path)),
                path=format_path(finding.place.path) or None,
            )
            for finding in mine
        ]
        problems += sorted(dict.fromkeys(located), key=lambda p: (p.document or 0, p.line or 0))
    if len(problems) > MAX_PROBLEMS:
        return [*problems[:MAX_PROBLEMS], Problem(f"and {len(problems) - MAX_PROBLEMS} problems more")]
    return problems
