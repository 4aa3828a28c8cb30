"""Turns files, directories and standard input into documents: YAML or JSON values with their places.

Counterpart: kubectl's resource builder (``-f``, ``-R``). It bounds how much it reads. ``kinds`` says what the values
are.
"""

import codecs
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import Any

from kpsim.errors import InputError
from kpsim.inputs import MAX_BYTES, Stdin, decoded, is_stream, read_bytes, shown_name
from kpsim.manifests.places import Finding, Path, Place, Source
from kpsim.manifests.yaml_reader import YamlRefused, find_lines, read_yaml

MAX_YAML_BYTES = 128 << 20
SUFFIXES = (".yaml", ".yml", ".json")

#: in a JSON file larger than this, problems are located by path alone
_JSON_LINES_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """A value and its place. ``duplicate_keys`` are the findings about keys that stand twice in it."""

    place: Place
    value: Any
    duplicate_keys: tuple[Finding, ...] = ()


@dataclass(slots=True)
class Reading:
    """What was read: documents in order, what was wrong, and remarks."""

    documents: list[Document] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_paths(paths: Sequence[FilePath | str], *, stdin: Stdin = None) -> Reading:
    """Read every file, directory (recursively, without hidden entries) or ``-``. A file named twice is read once.

    ``stdin`` is read for ``-``. None means the process's standard input.
    """
    reading = Reading()
    seen: set[str] = set()
    for path in paths:
        if str(path) == "-":
            _read(path, reading, stdin)
            continue
        for file in _expand(FilePath(path), reading):
            real = os.path.realpath(file)
            if real not in seen:
                seen.add(real)
                _read(file, reading)
    return reading


def _expand(path: FilePath, reading: Reading) -> Iterable[FilePath]:
    """Return the file itself, or the manifests below a directory, sorted."""
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return [path]
    except (OSError, ValueError) as error:
        reading.findings.append(Finding(Place(Source(str(path))), _os_message(error)))
        return []
    found: list[FilePath] = []
    refused: list[OSError] = []
    for folder, folders, names in os.walk(path, onerror=refused.append):  # does not follow links to directories
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [FilePath(folder, name) for name in names if name.endswith(SUFFIXES) and not name.startswith(".")]
    for refusal in refused:
        reading.findings.append(Finding(Place(Source(str(refusal.filename))), _os_message(refusal)))
    if not found and not refused:
        expected = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        reading.findings.append(Finding(Place(Source(str(path))), f"the directory holds no manifest ({expected})"))
    return sorted(found)


def _os_message(error: OSError | ValueError) -> str:
    return f"cannot be read: {error.strerror if isinstance(error, OSError) and error.strerror else error}"


def _read(path: FilePath | str, reading: Reading, stdin: Stdin = None) -> None:
    try:
        content = read_bytes(path, stdin=stdin)
    except InputError as error:
        reading.findings += [Finding(Place(Source(shown_name(path))), problem.message) for problem in error.problems]
    else:
        read_content(content, shown_name(path), reading)


def read_content(content: bytes, name: str, reading: Reading) -> None:
    """Add the documents of one file's content."""
    try:
        text = decoded(content, name)
    except InputError as error:
        reading.findings += [Finding(_at_line(name, problem.line), problem.message) for problem in error.problems]
        return
    before = len(reading.documents), len(reading.findings)
    start = text.lstrip()[:1]
    if name.endswith(".json") or start in ("{", "["):
        read = _read_json(text, name, reading, or_yaml=not name.endswith(".json"))
    else:
        read = False
    if not read:
        _read_yaml(text, name, reading)
    if (len(reading.documents), len(reading.findings)) == before:
        reading.notes.append(f"{name} holds no document")


def _at_line(name: str, line: int | None, document: int = 1) -> Place:
    """Return a place whose line is known already."""

    def lines(wanted: Iterable[tuple[int, Path]]) -> Mapping[tuple[int, Path], int]:
        return {} if line is None else dict.fromkeys(wanted, line)

    return Place(Source(name, find_lines=lines), document)


def _read_yaml(text: str, name: str, reading: Reading) -> None:
    if len(text) > MAX_YAML_BYTES:
        message = f"larger than {MAX_YAML_BYTES >> 20} MiB, the limit for YAML; JSON may have {MAX_BYTES >> 20} MiB"
        reading.findings.append(Finding(Place(Source(name)), message))
        return
    source = Source(name, find_lines=partial(find_lines, text))
    number = 0
    try:
        for number, document in enumerate(read_yaml(text), 1):
            found = {entry: Finding(_at_line(name, entry[0], number), entry[1]) for entry in document.findings}
            reading.findings += found.values()
            if document.value is not None:
                twice = tuple(found[entry] for entry in document.duplicate_keys)
                reading.documents.append(Document(Place(source, number), document.value, twice))
    except YamlRefused as refusal:
        reading.findings.append(Finding(_at_line(name, refusal.line, number + 1), refusal.message))


class _NoJson(ValueError):
    pass


def _refuse_constant(text: str) -> Any:
    raise _NoJson(f"{text} is no number of JSON")


_BLANK = re.compile(r"[\s\ufeff]*")


def _read_json(text: str, name: str, reading: Reading, *, or_yaml: bool) -> bool:
    """Add the values of a JSON text, one or several in a row. Returns False if it is no JSON but may be YAML."""
    duplicates: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(items)
        if len(made) != len(items):
            duplicates.extend(key for key, count in Counter(key for key, _ in items).items() if count > 1)
        return made

    values: list[Any] = []
    decoder = json.JSONDecoder(object_pairs_hook=pairs, parse_constant=_refuse_constant)
    position, here = _end_of_blank(text, 0), Place(Source(name))
    try:
        while position < len(text):
            value, position = decoder.raw_decode(text, position)
            position = _end_of_blank(text, position)
            values.append(value)
    except json.JSONDecodeError as error:
        if or_yaml and not values:
            return False
        reading.findings.append(Finding(_at_line(name, error.lineno), f"no JSON: {error.msg}"))
    except RecursionError:
        reading.findings.append(Finding(here, "no JSON that can be read: nested too deep"))
    except _NoJson as error:
        reading.findings.append(Finding(here, str(error)))
    except ValueError:  # Python refuses integers of more than 4,300 digits
        reading.findings.append(Finding(here, "an integer of thousands of digits"))
    twice = _duplicates_in_json(text, name, duplicates) if duplicates else ()
    reading.findings += twice
    cheap = len(values) == 1 and len(text) <= _JSON_LINES_BYTES
    source = Source(name, find_lines=partial(find_lines, text)) if cheap else Source(name)
    reading.documents += [
        Document(Place(source, number), value, twice if number == 1 else ()) for number, value in enumerate(values, 1)
    ]
    return True


def _end_of_blank(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    assert found is not None
    return found.end()


def _duplicates_in_json(text: str, name: str, keys: list[str]) -> tuple[Finding, ...]:
    if len(text) <= _JSON_LINES_BYTES:  # JSON text is also YAML, and the YAML reader knows lines
        try:
            located = [finding for document in read_yaml(text) for finding in document.duplicate_keys]
        except YamlRefused:
            located = []
        if located:
            return tuple(Finding(_at_line(name, line), message) for line, message in located)
    return tuple(Finding(Place(Source(name)), f"the key {key!r} stands twice in one object") for key in keys)


_WATCH_EVENTS = frozenset(("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR", "CONFIG"))


_BEGINNING_BYTES = 1 << 20


def is_recording(path: FilePath | str) -> bool:
    """Return whether the file looks like a recording (:func:`begins_recording`).

    False for a stream, which reading would use up, and for a file that cannot be read.
    """
    if is_stream(path):
        return False
    try:
        with FilePath(path).open("rb") as file:
            return begins_recording(file.read(_BEGINNING_BYTES))
    except (OSError, ValueError):
        return False


def begins_recording(content: bytes) -> bool:
    """Return whether the bytes begin as JSON lines do whose first object is a CONFIG or a watch event."""
    line = content[:_BEGINNING_BYTES].lstrip(codecs.BOM_UTF8 + b" \t\r\n").split(b"\n", 1)[0]
    if not line.startswith(b"{"):
        return False
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        # the object is longer than what was read
        return re.match(rb'\{\s*"type"\s*:\s*"(%s)"' % "|".join(sorted(_WATCH_EVENTS)).encode(), line) is not None
    return isinstance(first, dict) and first.get("type") in _WATCH_EVENTS
