"""Reads YAML text into the values that kubectl would send, event by event, and finds the lines of values in the text.

Counterpart: sigs.k8s.io/yaml, which reads YAML 1.1 scalars but keeps times and 22:22 as strings. Reading events instead
of nodes is several times faster than PyYAML's constructor, shows duplicate keys, and allows limits on depth and
aliases.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from kpsim.manifests.ambiguous import AmbiguousNumber
from kpsim.manifests.places import Path

MAX_DEPTH = 200  #: how deep collections may be nested
MAX_ALIASED_VALUES = 100_000  #: how many values all aliases of one document may stand for

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class YamlRefused(Exception):
    """The text cannot be read as YAML any further: message and line (from 1, None if unknown)."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.message, self.line = message, line


class YamlFault(NamedTuple):
    """An error that does not end the reading. ``twice``: a key stands twice in one mapping; the later value counts."""

    line: int  #: from 1
    message: str
    path: Path  #: of the value, or of the mapping whose key is wrong
    twice: bool = False


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document of a stream: its value, and the errors that did not end the reading."""

    value: Any
    faults: tuple[YamlFault, ...] = ()


# ------------------------------------------------------------------------------------------------------------- scalars

_BOOLEANS = {
    spelling: value
    for value, words in ((True, "true yes on"), (False, "false no off"))
    for word in words.split()
    for spelling in (word, word.capitalize(), word.upper())
}
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)", re.ASCII)
_HEXADECIMAL = re.compile(r"[-+]?0x[0-9a-fA-F]+", re.ASCII)
_AMBIGUOUS = re.compile(r"[-+]?(0[oO][0-7_]+|0b[01_]+|[0-9][0-9_]+)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NO_NUMBER = frozenset(
    sign + word for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN")
)


def _resolve_plain(text: str) -> Any:
    """Return the value of a bare scalar.

    ValueError for infinities, NaN and endless integers, which JSON cannot hold.
    """
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        if len(text) > 400:
            raise ValueError(f"an integer of {len(text)} digits")
        return int(text)
    if _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    if _AMBIGUOUS.fullmatch(text):
        return AmbiguousNumber(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text in _NO_NUMBER:
        raise ValueError(f"{text} is no number of JSON")
    return text


_YAML = "tag:yaml.org,2002:"


def _resolve_tagged(event: ScalarEvent) -> Any:
    text = event.value
    match event.tag:
        case "tag:yaml.org,2002:str" | "!":
            return text
        case "tag:yaml.org,2002:null":
            return None
        case "tag:yaml.org,2002:int" | "tag:yaml.org,2002:float" | "tag:yaml.org,2002:bool":
            return _resolve_plain(text)
        case _:
            raise ValueError(_no_meaning(event.tag))


_COLLECTION_TAGS = (None, "!", f"{_YAML}map", f"{_YAML}seq")


def _no_meaning(tag: str | None) -> str:
    return f"the tag {str(tag).replace(_YAML, '!!')} has no meaning in a manifest"


# ------------------------------------------------------------------------------------------------------------- builder


class _Open:
    """A collection that is being read."""

    __slots__ = ("anchor", "before", "key", "merges", "value")

    def __init__(self, value: Any, anchor: str | None, before: int) -> None:
        self.value = value
        self.anchor = anchor
        self.before = before  # number of values read in the document before this collection
        self.key: str | None = None
        self.merges: list[Any] | None = None


_MERGE = "<<"


class _Document:
    """Builds the value of one document from its events."""

    def __init__(self) -> None:
        self.stack: list[_Open] = []
        self.value: Any = None
        self.faults: list[YamlFault] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.values = 0
        self.aliased = 0
        self.resolved: dict[str, Any] = {}

    def finished(self) -> YamlDocument:
        return YamlDocument(self.value, tuple(self.faults))

    def _fault(self, event: Event, message: str, *, twice: bool = False) -> None:
        path = (len(each.value) if type(each.value) is list else each.key for each in self.stack)
        self.faults.append(YamlFault(_line(event), message, tuple(step for step in path if step is not None), twice))

    def feed(self, event: Event) -> None:
        self.values += 1
        top = self.stack[-1] if self.stack else None
        key_expected = top is not None and top.key is None and type(top.value) is dict
        if isinstance(event, ScalarEvent):
            if key_expected:
                assert top is not None
                self._key(event, top)
                return
            value = self._scalar(event)
            if event.anchor is not None:
                self.anchors[event.anchor] = (value, 1)
            self._place(value)
        elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            if key_expected:
                raise YamlRefused("a key cannot be a collection (a template that was not rendered?)", _line(event))
            if len(self.stack) >= MAX_DEPTH:
                raise YamlRefused(f"nested deeper than {MAX_DEPTH} levels", _line(event))
            if event.tag not in _COLLECTION_TAGS:
                self._fault(event, _no_meaning(event.tag))
            opened: Any = {} if isinstance(event, MappingStartEvent) else []
            self.stack.append(_Open(opened, event.anchor, self.values))
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            self._close(event)
        elif isinstance(event, AliasEvent):
            if key_expected:
                raise YamlRefused("a key cannot be an alias", _line(event))
            self._alias(event)

    def _key(self, event: ScalarEvent, top: _Open) -> None:
        key = event.value
        if event.tag is None and event.implicit[0] and (key in _BOOLEANS or key in _NULLS):
            self._fault(event, f"YAML reads the bare key {key!r} as a boolean or null: put it in quotes")
        if key in top.value or (key == _MERGE and top.merges is not None):
            self._fault(event, f"the key {key!r} stands twice in one mapping", twice=True)
        top.key = key

    def _scalar(self, event: ScalarEvent) -> Any:
        text = event.value
        try:
            if event.tag is not None:
                return _resolve_tagged(event)
            if not event.implicit[0]:
                return text
            if text not in self.resolved:
                self.resolved[text] = _resolve_plain(text)
            return self.resolved[text]
        except ValueError as error:
            self._fault(event, str(error))
            return None

    def _place(self, value: Any) -> None:
        if not self.stack:
            self.value = value
            return
        top = self.stack[-1]
        if type(top.value) is list:
            top.value.append(value)
            return
        assert top.key is not None
        if top.key == _MERGE:
            top.merges = [*(top.merges or ()), *(value if isinstance(value, list) else (value,))]
        else:
            top.value[top.key] = value
        top.key = None

    def _close(self, event: Event) -> None:
        closed = self.stack.pop()
        value = closed.value
        if closed.merges is not None:
            # keys written out win over merged ones, earlier merged mappings over later ones
            for merged in closed.merges:
                if not isinstance(merged, dict):
                    self._fault(event, "the merge key << needs a mapping or a list of mappings")
                    continue
                value = {**merged, **value}
        if closed.anchor is not None:
            self.anchors[closed.anchor] = (value, self.values - closed.before)
        self._place(value)

    def _alias(self, event: AliasEvent) -> None:
        found = self.anchors.get(event.anchor or "")
        if found is None:
            raise YamlRefused(f"the alias *{event.anchor} refers to no finished anchor", _line(event))
        value, size = found
        # values behind aliases are counted as if they were written out: a few lines can otherwise mean billions of
        # values
        self.aliased += size
        self.values += size
        if self.aliased > MAX_ALIASED_VALUES:
            raise YamlRefused(f"aliases stand for more than {MAX_ALIASED_VALUES:,} values", _line(event))
        self._place(value)


def _line(event: Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


def _events(text: str) -> Iterator[Event]:
    """Yield the parser's events. YamlRefused where the parser gives up."""
    loader = None
    try:
        loader = _Loader(text)
        while True:
            event = loader.get_event()
            if type(event) is StreamEndEvent:
                return
            yield event
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        parts = [part for part in (error.context, error.problem) if part]
        line = mark.line + 1 if mark else None
        if line is not None and _begins_with_tab(text, line):
            parts.append("the line begins with a tab, and YAML is indented with blanks")
        raise YamlRefused("no YAML: " + ", ".join(parts), line) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        raise YamlRefused(f"no text: {error.reason}", line) from None
    finally:
        if loader is not None:
            loader.dispose()


def _begins_with_tab(text: str, line: int) -> bool:
    found = next(islice(text.split("\n"), line - 1, None), "")
    return "\t" in found[: len(found) - len(found.lstrip())]


def read_yaml(text: str) -> Iterator[YamlDocument]:
    """Yield the documents of a stream. Empty documents have the value None. YamlRefused where reading ends early."""
    document: _Document | None = None
    for event in _events(text):
        if type(event) is DocumentStartEvent:
            if document is not None:
                yield document.finished()
            document = _Document()
        elif document is not None:
            document.feed(event)
    if document is not None:
        yield document.finished()


# --------------------------------------------------------------------------------------------------------------- lines


@dataclass(slots=True)
class _Level:
    mapping: bool
    path: Path
    step: str | int | None = None
    count: int = field(default=0)

    def next_path(self) -> Path:
        if not self.mapping:
            self.step = self.count
            self.count += 1
        step = self.step
        assert step is not None
        return (*self.path, step)


def find_lines(text: str, wanted: Iterable[tuple[int, Path]]) -> Mapping[tuple[int, Path], int]:
    """Return the line of each (document, path). An entry of a mapping has the line of its key.

    A path that is not written in the text has the line of the nearest value around it.
    """
    targets = list(wanted)
    prefixes = {(number, path[:length]) for number, path in targets for length in range(len(path) + 1)}
    lines: dict[tuple[int, Path], int] = {}
    try:
        for place, line in _walk(text):
            if place in prefixes:
                lines.setdefault(place, line)
    except YamlRefused:
        pass  # the places before this point are known
    found = {}
    for number, path in targets:
        near = (lines.get((number, path[:length])) for length in range(len(path), -1, -1))
        nearest = next((line for line in near if line is not None), None)
        if nearest is not None:
            found[number, path] = nearest
    return found


def _walk(text: str) -> Iterator[tuple[tuple[int, Path], int]]:
    number, levels = 0, list[_Level]()
    for event in _events(text):
        kind = type(event)
        if kind is DocumentStartEvent:
            number += 1
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            levels.pop()
            if levels and levels[-1].mapping:
                levels[-1].step = None
        elif kind in (ScalarEvent, AliasEvent, MappingStartEvent, SequenceStartEvent):
            top = levels[-1] if levels else None
            if top is not None and top.mapping and top.step is None:
                top.step = event.value if isinstance(event, ScalarEvent) else "?"
                yield (number, (*top.path, top.step)), _line(event)
                if kind in (ScalarEvent, AliasEvent):
                    continue
            path = top.next_path() if top is not None else ()
            yield (number, path), _line(event)
            if kind in (MappingStartEvent, SequenceStartEvent):
                levels.append(_Level(kind is MappingStartEvent, path))
            elif top is not None and top.mapping:
                top.step = None
