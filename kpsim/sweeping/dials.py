"""The dials of a sweep: fields of a scenario, and the values that each is set to.

A dial is written ``PATH=VALUES``. The path is one that ``--set`` takes. The values stand between commas, each as YAML, or
are a range ``LOW..HIGH/STEP`` of numbers or durations.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from kpsim.errors import InputError, Problem
from kpsim.manifests.assignments import parse_assignment
from kpsim.units import SECOND_NS, format_duration, parse_duration_ns

MOST_DIALS = 6
MOST_VALUES = 10_000  #: of one dial; a sweep without goal runs them all, and is bounded by its runs

_RANGE = re.compile(r"\s*(?P<low>[^.,\s][^,\s]*?)\.\.(?P<high>[^,\s/]+)(?:/(?P<step>[^,\s/]+))?\s*")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%", re.ASCII)


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a dial: as people read it, as ``--set`` takes it, and as a number if it is one (durations in seconds)."""

    text: str
    setting: str
    number: float | None


@dataclass(frozen=True, slots=True)
class Dial:
    """A field, the name that tables have for it, and its values in the order given."""

    path: str
    label: str
    values: tuple[Value, ...]

    @property
    def numeric(self) -> bool:
        """Whether the values have an order: all are numbers, durations or percentages."""
        return all(value.number is not None for value in self.values) and len(self._units) <= 1

    @property
    def unit(self) -> str:
        """``s`` if the values are durations, ``%`` for percentages, else nothing."""
        return next(iter(self._units), "") if self.numeric else ""

    @property
    def _units(self) -> set[str]:
        return {_unit(value.text) for value in self.values if value.number != 0}


Setting = tuple[Value, ...]  #: one value of each dial


def read_dials(given: Iterable[str] | Mapping[str, Sequence[Any]]) -> tuple[Dial, ...]:
    """Read dials as ``--vary`` takes them, or values by path. InputError names every one that cannot be read."""
    written = [(f"{path}={_joined(values)}" if values else f"{path}=") for path, values in given.items()] if isinstance(given, Mapping) else list(given)  # fmt: skip
    dials: list[Dial] = []
    problems: list[Problem] = []
    for text in written:
        try:
            dials.append(_read(text))
        except ValueError as error:
            problems.append(Problem(str(error), file=f"--vary {text}"))
    paths = [dial.path for dial in dials]
    problems += [
        Problem("given twice", file=f"--vary {path}") for path in dict.fromkeys(paths) if paths.count(path) > 1
    ]
    if len(written) > MOST_DIALS:
        problems.append(Problem(f"{len(written)} dials: at most {MOST_DIALS} can be varied at once", file="--vary"))
    if problems:
        raise InputError(problems)
    return _labelled(dials)


def settings_of(dials: Sequence[Dial]) -> list[Setting]:
    """Return every combination of the dials' values. The last dial changes first."""
    return list(product(*(dial.values for dial in dials)))


def _joined(values: Sequence[Any]) -> str:
    return ",".join(json.dumps(value, ensure_ascii=False) for value in values)


def _read(text: str) -> Dial:
    path, values = _halves(text)
    parse_assignment(f"{path}=0")
    found = _RANGE.fullmatch(values)
    items = _range(found) if found else _items(values)
    read = tuple(Value(_shown(item), f"{path}={json.dumps(item, ensure_ascii=False)}", _number(item)) for item in items)
    texts = [value.text for value in read]
    if twice := next((each for each in texts if texts.count(each) > 1), None) if len(texts) <= 500 else None:
        raise ValueError(f"the value {twice} stands there twice")
    return Dial(path.removeprefix("."), path, read)


def _halves(text: str) -> tuple[str, str]:
    """Part the path from the values. An equals sign in brackets belongs to the path."""
    depth = 0
    for place, character in enumerate(text):
        depth += {"[": 1, "]": -1}.get(character, 0)
        if character == "=" and depth == 0:
            return text[:place], text[place + 1 :]
    raise ValueError("expected PATH=VALUE,VALUE,… or PATH=LOW..HIGH/STEP")


def _items(values: str) -> list[Any]:
    _, items = parse_assignment(f"values=[{values}]")
    if not isinstance(items, list) or not items:
        raise ValueError("expected values: PATH=VALUE,VALUE,… or PATH=LOW..HIGH/STEP")
    if len(items) > MOST_VALUES:
        raise ValueError(f"{len(items):,} values: expected at most {MOST_VALUES:,}")
    return items


def _range(found: re.Match[str]) -> list[Any]:
    low, high, step = found["low"], found["high"], found["step"]
    if step is None:
        raise ValueError(f"a range has a step: {low}..{high}/STEP")
    plain = all(_NUMBER.fullmatch(word) for word in (low, high, step))
    try:
        # thousand-millionths, so that steps such as 0.1 add up exactly
        first, last, by = (
            round(float(word) * SECOND_NS) if plain else parse_duration_ns(word) for word in (low, high, step)
        )
    except ValueError:
        raise ValueError(f"{low}..{high}/{step}: expected three numbers, or three durations such as 500ms") from None
    if by <= 0 or last < first:
        raise ValueError(f"{low}..{high}/{step}: expected a range that goes up, by a step above zero")
    count = (last - first) // by + 1
    if count > MOST_VALUES:
        raise ValueError(f"{low}..{high}/{step}: {count:,} values, expected at most {MOST_VALUES:,}")
    return [_decimal(each) if plain else format_duration(each) for each in range(first, last + 1, by)]


def _decimal(billionths: int) -> int | float:
    return billionths // SECOND_NS if billionths % SECOND_NS == 0 else billionths / SECOND_NS


def _shown(item: Any) -> str:
    return item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)


def _number(item: Any) -> float | None:
    if isinstance(item, bool):
        return None
    if isinstance(item, int | float):
        return float(item)
    if not isinstance(item, str):
        return None
    if percent := _PERCENT.fullmatch(item):
        return float(percent[1])
    try:
        return parse_duration_ns(item) / SECOND_NS
    except ValueError:
        return None


def _unit(text: str) -> str:
    return "%" if _PERCENT.fullmatch(text) else "" if _NUMBER.fullmatch(text) else "s"


def _labelled(dials: Sequence[Dial]) -> tuple[Dial, ...]:
    """Give each dial the last part of its path as label, or the whole path if two have the same."""
    last = [re.split(r"[.\]\[]", dial.path.rstrip("]"))[-1] for dial in dials]
    return tuple(
        Dial(dial.path, name if last.count(name) == 1 else dial.path, dial.values)
        for dial, name in zip(dials, last, strict=True)
    )
