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
from dataclasses import field, replace
from functools import partial
from pathlib import Path as FilePath
from typing import Any

from kpsim.errors import InputError
from kpsim.inputs import MAX_BYTES, Stdin, decoded, is_stream, kind_of_file, read_bytes, shown_name, walk_directory
from kpsim.manifests.other_outputs import what_else
from kpsim.manifests.places import Finding, Path, Place, Source
from kpsim.manifests.settings_text import SettingsText, is_settings_text
from kpsim.manifests.templates import HINT, RENDER, template_lines
from kpsim.manifests.yaml_reader import YamlFault, YamlRefused, find_lines, read_yaml
from kpsim.valueclass import dataclass

MAX_YAML_BYTES = 128 << 20
SUFFIXES = (".yaml", ".yml", ".json")
UNIT_SUFFIXES = (".service", ".conf", ".env")  #: in a directory read only if they speak of kube-proxy
_COMPRESSED = tuple(f"{suffix}{packed}" for suffix in SUFFIXES for packed in (".gz", ".xz", ".zst", ".bz2"))

#: in a JSON file larger than this, problems are located by path alone
_JSON_LINES_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong in the writing of a document, which can be read all the same."""

    path: Path  #: where in the document
    finding: Finding
    twice: bool = False  #: a key stands twice; the later value counts


@dataclass(frozen=True, slots=True)
class Document:
    """A value, its place, and what is wrong in its writing. ``folder`` is the directory in which its file was found.

    It is empty for a file that was named itself.
    """

    place: Place
    value: Any
    faults: tuple[Fault, ...] = ()
    folder: str = ""

    def inner(self, value: Any, *steps: str | int) -> "Document":
        """Return a value inside this one, with its share of the faults."""
        depth = len(self.place.path) + len(steps)
        path = (*self.place.path, *steps)
        own = tuple(fault for fault in self.faults if fault.path[:depth] == path)
        return Document(self.place.at(*steps), value, own, self.folder)


@dataclass(slots=True)
class Reading:
    """What was read: documents in order, what was wrong with files, and remarks."""

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
            _read(path, reading, stdin=stdin)
            continue
        for file, folder in _expand(FilePath(path), reading):
            real = os.path.realpath(file)
            if real not in seen:
                seen.add(real)
                _read(file, reading, folder)
    return reading


def _expand(path: FilePath, reading: Reading) -> Iterable[tuple[FilePath, str]]:
    """Return the file itself, or the manifests below a directory, sorted, each with the directory."""
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            return [(path, "")]
    except (OSError, ValueError) as error:
        reading.findings.append(Finding(Place(Source(str(path))), _os_message(error)))
        return []
    found: list[FilePath] = []
    refused: list[OSError] = []
    for folder, folders, names in walk_directory(path, refused.append):  # does not follow links to directories
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = FilePath(folder, name)
            if name.startswith(".") or not name.lower().endswith((*SUFFIXES, *UNIT_SUFFIXES, *_COMPRESSED)):
                continue
            if name.lower().endswith(_COMPRESSED):
                reading.notes.append(f"{file} passed over: compressed, decompress it first")
            elif is_stream(file):
                reading.notes.append(f"{file} passed over: {kind_of_file(file)}, no file")
            else:
                found.append(file)
    for refusal in refused:
        reading.findings.append(Finding(Place(Source(str(refusal.filename))), _os_message(refusal)))
    if not any(file.name.lower().endswith(SUFFIXES) for file in found) and not refused:
        expected = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
        reading.findings.append(Finding(Place(Source(str(path))), f"the directory holds no manifest ({expected})"))
    return [(file, str(path)) for file in sorted(found)]


def _os_message(error: OSError | ValueError) -> str:
    return f"cannot be read: {error.strerror if isinstance(error, OSError) and error.strerror else error}"


def _read(path: FilePath | str, reading: Reading, folder: str = "", *, stdin: Stdin = None) -> None:
    name = shown_name(path)
    try:
        content = read_bytes(path, stdin=stdin)
    except InputError as error:
        reading.findings += [Finding(Place(Source(name)), problem.message) for problem in error.problems]
        return
    if folder and not name.lower().endswith(SUFFIXES):
        if _PROXY in content:  # another program's unit is no manifest
            read_content(content, name, reading, folder)
        return
    before = len(reading.documents), len(reading.findings)
    read_content(content, name, reading, folder)
    if folder and len(reading.findings) > before[1] and not all(word in content for word in _WORDS):
        why = reading.findings[before[1]].message
        del reading.documents[before[0] :], reading.findings[before[1] :]
        reading.notes.append(f"{name} passed over: no manifest, as it names no apiVersion and kind ({why})")


_PROXY = b"kube-proxy"
#: no manifest is without these
_WORDS = (b"apiVersion", b"kind")


def read_content(content: bytes, name: str, reading: Reading, folder: str = "") -> None:
    """Add the documents of one file's content. ``folder`` is the directory in which the file was found, if it was."""
    try:
        text = decoded(content, name)
    except InputError as error:
        reading.findings += [Finding(_at_line(name, problem.line), problem.message) for problem in error.problems]
        return
    before = len(reading.documents), len(reading.findings)
    if (why := what_else(text)) is not None:
        reading.findings.append(Finding(_at_line(name, None), why))
        return
    if is_settings_text(text):
        reading.documents.append(Document(Place(Source(name)), SettingsText(text), folder=folder))
        return
    start = text.lstrip()[:1]
    if name.lower().endswith(".json") or start in ("{", "["):
        read = _read_json(text, name, reading, or_yaml=not name.lower().endswith(".json"))
    else:
        read = False
    if not read:
        _read_yaml(text, name, reading)
    reading.documents[before[0] :] = [replace(read, folder=folder) for read in reading.documents[before[0] :]]
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
            faults = tuple(_fault(fault, name, number) for fault in document.faults)
            if document.value is not None:
                reading.documents.append(Document(Place(source, number), document.value, faults))
            else:
                reading.findings += [fault.finding for fault in faults]
    except YamlRefused as refusal:
        reading.findings += _refused(refusal, text, name, number + 1)


def _fault(fault: YamlFault, name: str, number: int) -> Fault:
    return Fault(fault.path, Finding(_at_line(name, fault.line, number), fault.message), fault.twice)


def _refused(refusal: YamlRefused, text: str, name: str, number: int) -> list[Finding]:
    """Return why a text is no YAML: every line of a template that was not rendered, or what the parser says."""
    pieces = dict(template_lines(text))
    findings = [Finding(_at_line(name, line), f"{HINT[:-1]}: {piece}") for line, piece in pieces.items()]
    line = refusal.line
    if not findings:
        return [Finding(_at_line(name, line, number), refusal.message)]
    findings[0] = Finding(findings[0].place, f"{findings[0].message}; {RENDER}")
    if line is not None and not any(near in pieces for near in (line - 1, line, line + 1)):
        findings.insert(0, Finding(_at_line(name, line, number), refusal.message))
    return findings


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
        if or_yaml and (not values or text.startswith("---", position)):
            return False  # documents in braces, with lines between them that only YAML has
        reading.findings.append(Finding(_at_line(name, error.lineno), f"no JSON: {error.msg}"))
    except RecursionError:
        reading.findings.append(Finding(here, "no JSON that can be read: nested too deep"))
    except _NoJson as error:
        reading.findings.append(Finding(here, str(error)))
    except ValueError:  # Python refuses integers of more than 4,300 digits
        reading.findings.append(Finding(here, "an integer of thousands of digits"))
    twice = _duplicates_in_json(text, name, duplicates, len(values)) if duplicates else ()
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


def _duplicates_in_json(text: str, name: str, keys: list[str], values: int) -> tuple[Fault, ...]:
    if len(text) <= _JSON_LINES_BYTES and values == 1:  # JSON text is also YAML, and the YAML reader knows lines
        try:
            located = [fault for document in read_yaml(text) for fault in document.faults if fault.twice]
        except YamlRefused:
            located = []
        if located:
            return tuple(_fault(fault, name, 1) for fault in located)
    findings = (Finding(Place(Source(name)), f"the key {key!r} stands twice in one object") for key in keys)
    return tuple(Fault((), finding, twice=True) for finding in findings)


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
