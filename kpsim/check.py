"""The checks of a CI job: scenarios must keep their expectations, and recordings must give their expected output.

``NAME.recording.jsonl`` is checked against ``NAME.expected.jsonl``. A difference is reported as rules, by Service, and
as first packets that end differently.
"""

import enum
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kpsim.comparison.documents import run_differences
from kpsim.effort import permit
from kpsim.errors import InputError, Problem, printable
from kpsim.inputs import decoded, is_stream, json_object, kind_of_file, read_bytes, read_text, walk_directory
from kpsim.outputs import write_file
from kpsim.recording import load_recording
from kpsim.replay import Replay, effort_of
from kpsim.scenarios import scenario_names

RECORDING_SUFFIX, EXPECTED_SUFFIX = ".recording.jsonl", ".expected.jsonl"


class Verdict(enum.StrEnum):
    """How one check ended."""

    HOLDS = "holds"
    DIFFERS = "differs"  #: an expectation failed, or the output changed
    UPDATED = "updated"  #: the output changed, and the expected output was rewritten
    UNREADABLE = "unreadable"  #: bad input


@dataclass(frozen=True)
class Checked:
    """One scenario or recording that was checked. ``statements`` say what does not hold, one line each."""

    name: str
    kind: str  #: ``scenario`` or ``recording``
    verdict: Verdict
    statements: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        return self.verdict in (Verdict.HOLDS, Verdict.UPDATED)


# --- what there is to check -------------------------------------------------------------------------------------------


def find(paths: Iterable[Path | str], note: Callable[[str], None] = lambda _: None) -> list[Path | str]:
    """The scenarios (files, or built-in names) and recordings among these paths. Directories are searched.

    ``note`` is called with what a directory holds besides. A file that may be a scenario and cannot be read is among the
    result, so that checking it says why. InputError for a path that does not exist, or a directory with nothing to check.
    """
    found: list[Path | str] = []
    problems: list[Problem] = []
    for path in paths:
        if str(path) in scenario_names() and not Path(path).exists():
            found.append(str(path))
        elif Path(path).is_dir():
            inside = _search(Path(path), problems, note)
            if not inside and not problems:
                problems.append(Problem("nothing to check: no scenario and no recording", file=str(path)))
            found.extend(inside)
        elif Path(path).exists():
            found.append(Path(path))
        else:
            problems.append(Problem("neither a file, a directory nor a built-in scenario", file=str(path)))
    if problems:
        raise InputError(problems)
    return found


class _Sort(enum.Enum):
    """What a file of a directory is for a check."""

    CHECKED = enum.auto()
    COMPANION = enum.auto()  #: the expected output of a recording beside it
    UNKNOWN = enum.auto()
    OTHER = enum.auto()  #: by its name neither a scenario nor a recording


_SCENARIO_SUFFIXES = (".yaml", ".yml", ".json")
_MOST_NAMED = 10


def _search(folder: Path, problems: list[Problem], note: Callable[[str], None]) -> list[Path]:
    """The files of a directory to check, sorted. ``problems`` gets the directories that cannot be read."""

    def refused(error: OSError) -> None:
        problems.append(Problem(f"cannot be read: {error.strerror or error}", file=str(error.filename)))

    found: list[Path] = []
    unknown: list[Path] = []
    for inside, folders, names in walk_directory(folder, refused):
        folders.sort()
        for file in (Path(inside, name) for name in names):
            if is_stream(file):
                if file.name.lower().endswith((*_SCENARIO_SUFFIXES, ".jsonl")):
                    note(f"{file} passed over: {kind_of_file(file)}, no file")
                continue
            match _sort_of(file):
                case _Sort.CHECKED:
                    found.append(file)
                case _Sort.UNKNOWN:
                    unknown.append(file)
                case _Sort.COMPANION | _Sort.OTHER:
                    pass
    if unknown:
        listed = ", ".join(map(str, sorted(unknown)[:_MOST_NAMED]))
        more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
        note(f"passed over, as neither a scenario nor a recording: {listed}{more}")
    return sorted(found)


def _sort_of(file: Path) -> _Sort:
    if file.name.endswith(RECORDING_SUFFIX):
        return _Sort.CHECKED
    if file.name.endswith(EXPECTED_SUFFIX):
        stem = file.name.removesuffix(EXPECTED_SUFFIX)
        recorded = (file.with_name(stem + suffix) for suffix in (RECORDING_SUFFIX, ".jsonl"))
        return _Sort.COMPANION if any(path.exists() for path in recorded) else _Sort.UNKNOWN
    if file.suffix == ".jsonl":
        return _Sort.UNKNOWN
    if not file.name.lower().endswith(_SCENARIO_SUFFIXES):
        return _Sort.OTHER
    return _Sort.CHECKED if _may_be_scenario(file) else _Sort.UNKNOWN


_SCENARIO = re.compile(r"""kpsim\.dev/|^\s*["']?kind["']?\s*:\s*["']?Scenario\b""", re.MULTILINE)


def _may_be_scenario(file: Path) -> bool:
    """Whether a file says that it is a scenario, or cannot be read, so that nobody knows."""
    try:
        content = read_bytes(file)
    except InputError:
        return True
    try:
        text = decoded(content, str(file))
    except InputError:
        text = content.decode("utf-8", "replace")
    return _SCENARIO.search(text) is not None


def check(path: Path | str, *, update: bool = False, long: bool = False) -> Checked:
    """Checks one scenario or recording. ``update`` rewrites a recording's expected output if it changed.

    What would take hours is UNREADABLE unless ``long``.
    """
    recording = str(path).endswith(".jsonl")
    kind = "recording" if recording else "scenario"
    try:
        return _check_recording(Path(path), update=update, long=long) if recording else _check_scenario(path, long=long)
    except InputError as error:
        return Checked(str(path), kind, Verdict.UNREADABLE, tuple(map(str, error.problems)))


def _check_scenario(path: Path | str, *, long: bool) -> Checked:
    from kpsim.result import run

    failed = tuple(str(result) for result in run(path, long=long).expectations if not result.holds)
    return Checked(str(path), "scenario", Verdict.DIFFERS if failed else Verdict.HOLDS, failed)


# --- recordings -------------------------------------------------------------------------------------------------------


def expected_path(recording: Path) -> Path:
    """The path of a recording's expected output."""
    stem = recording.name.removesuffix(RECORDING_SUFFIX).removesuffix(".jsonl")
    return recording.with_name(stem + EXPECTED_SUFFIX)


def _check_recording(path: Path, *, update: bool, long: bool) -> Checked:
    replay = Replay(load_recording(path))
    permit(effort_of(replay.recording), long=long)
    outcomes = [json.loads(outcome.to_line()) for outcome in replay.outcomes()]
    beside = expected_path(path)
    if not beside.exists():
        statements = [f"no expected output beside it: {beside.name} (--update writes it)"]
    else:
        expected = _read_expected(beside)
        statements = run_differences(expected, outcomes)
        if statements:
            from kpsim.comparison.packets import first_packet_differences

            statements = first_packet_differences(replay, expected, outcomes) + statements  # packets matter most
    if statements and update:
        write_file(beside, "".join(map(_line, outcomes)))
    moved = Verdict.UPDATED if update else Verdict.DIFFERS
    return Checked(str(path), "recording", moved if statements else Verdict.HOLDS, tuple(statements))


def _line(outcome: Mapping[str, Any]) -> str:
    return json.dumps(outcome, separators=(",", ":"), ensure_ascii=False) + "\n"


def _read_expected(path: Path) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    problems: list[Problem] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                found.append(json_object(line))
            except ValueError as error:
                problems.append(Problem(str(error), file=str(path), line=number))
    if problems:
        raise InputError(problems)
    return found


# --- reports ----------------------------------------------------------------------------------------------------------


def junit_xml(results: Sequence[Checked]) -> str:
    """The results as a JUnit report with one test case each. Characters that XML cannot hold are escaped."""
    from xml.etree import ElementTree

    failures = [result for result in results if not result.good]
    suite = ElementTree.Element("testsuite", name="kpsim check", tests=str(len(results)), failures=str(len(failures)))
    for result in results:
        case = ElementTree.SubElement(suite, "testcase", classname=f"kpsim.{result.kind}", name=printable(result.name))
        if not result.good:
            failure = ElementTree.SubElement(case, "failure", message=f"{len(result.statements)} differences")
            failure.text = "\n".join(map(printable, result.statements))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
