"""The document of a scenario file: its values, the place of each, and the changes that the command line makes.

Counterpart: Helm's ``--set``. The module handles values and paths; ``schema`` says what the fields mean.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kpsim.errors import InputError, Problem
from kpsim.manifests.assignments import parse_assignment, put
from kpsim.manifests.places import Finding, Path, Place, Source, format_path, problems_of
from kpsim.manifests.reading import Document as Read
from kpsim.manifests.reading import Reading, read_content

OWN_KINDS = ("Scenario", "SyncCosts")  #: what kpsim's own files are


@dataclass(frozen=True)
class Document:
    """One document: plain values, its place, and for each path that the command line set, by which setting."""

    content: Any
    place: Place
    set_by: Mapping[Path, Source] = field(default_factory=dict)

    def finding(self, message: str, path: Path = ()) -> Finding:
        """Return a finding at ``path``. It is placed in the file, or at the setting that put the value there."""
        setters = [set_path for set_path in self.set_by if path[: len(set_path)] == set_path]
        if not setters:
            return Finding(self.place.at(*path), message)
        return Finding(Place(self.set_by[max(setters, key=len)], 1, path), message)

    def problem(self, message: str, path: Path = ()) -> Problem:
        return problems_of([self.finding(message, path)])[0]

    def attributed(self, problem: Problem) -> Problem:
        """Return a problem that other code placed in the file.

        If a setting put the value there, the place is the setting.
        """
        if problem.file != self.place.source.name or problem.path is None:
            return problem
        below = {format_path(set_path): source for set_path, source in self.set_by.items()}
        setters = [text for text in below if re.match(re.escape(text) + r"([.\[]|$)", problem.path)]
        return replace(problem, file=below[max(setters, key=len)].name, line=None) if setters else problem


def read_document(text: str, file: str) -> Document:
    """Read the text. InputError unless it is exactly one document, and that an object."""
    reading = Reading()
    read_content(text.encode("utf-8", "surrogatepass"), file, reading)
    if findings := [*reading.findings, *(fault.finding for read in reading.documents for fault in read.faults)]:
        raise InputError(problems_of(findings))
    if _is_cluster(reading.documents):
        raise InputError(Problem(instead_of_cluster([file]), file=file))
    if len(reading.documents) != 1:
        raise InputError(Problem(f"expected one document, a Scenario; got {len(reading.documents)}", file=file))
    read = reading.documents[0]
    if not isinstance(read.value, dict):
        raise InputError(Problem("expected an object, a Scenario", file=file))
    return Document(read.value, read.place)


def _is_cluster(documents: Sequence[Read]) -> bool:
    """Return whether the documents are Kubernetes objects, none of them a Scenario."""
    values = [read.value for read in documents]
    objects = [
        v for v in values if isinstance(v, list) or (isinstance(v, Mapping) and v.get("kind") and v.get("apiVersion"))
    ]
    return bool(objects) and not any(isinstance(v, Mapping) and v.get("kind") in OWN_KINDS for v in values)


def instead_of_cluster(files: Sequence[str]) -> str:
    """Return what to do with a cluster where a scenario is expected."""
    given = " ".join(map(shlex.quote, files))
    return (
        f"a cluster's objects, where a scenario is expected: `kpsim scenario init {given} > mine.yaml` drafts a scenario of them, and "
        f"`kpsim run {given} --rollout NAMESPACE/NAME` rolls one of their workloads out"
    )


def override(document: Document, settings: Sequence[str]) -> Document:
    """Return the document with the value of each ``path=value`` put in. Values are YAML.

    Fields that the document leaves out may be set; list items must exist. InputError names every setting that cannot be
    put in.
    """
    content, set_by = document.content, dict(document.set_by)
    problems = []
    for setting in settings:
        source = Source(f"--set {setting}")
        try:
            steps, value = parse_assignment(setting)
            content, path, made = put(content, steps, value)
            set_by = {other: by for other, by in set_by.items() if other[: len(path)] != path}
            set_by |= {made: source, path: source}
        except ValueError as error:
            problems.append(Problem(str(error), file=source.name))
    if problems:
        raise InputError(problems)
    return Document(content, document.place, set_by)
