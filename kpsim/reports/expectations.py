"""Conditions on a run's figures: ``dropped == 0``, ``sync_lag.p99_seconds < 2s``, ``delivered_ratio between 0.9 and
1``.

Grammar::

    condition = figure operator number | figure "between" number "and" number      (both ends included)
    operator  = "==" | "!=" | "<" | "<=" | ">" | ">="
    number    = decimal | decimal "%" for a figure ending in _ratio or share | Go duration (2s, 500ms) for one ending in _seconds

An undefined figure (NaN: a ratio of nothing) satisfies no condition. A lower bound satisfies a condition only if every
larger value does. The module gets figures by name, not the run log.
"""

import enum
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import assert_never

from kpsim.errors import InputError, Problem
from kpsim.reports.figures import AtLeast, Figures, lookup
from kpsim.units import SECOND_NS, parse_duration_ns


class Operator(enum.StrEnum):
    """The comparisons that a condition can make."""

    EQ = "=="
    NE = "!="
    LE = "<="
    GE = ">="
    LT = "<"
    GT = ">"
    BETWEEN = "between"


@dataclass(frozen=True, slots=True)
class Expectation:
    """A parsed condition; ``upper`` is the second number of *between*."""

    text: str
    figure: str
    operator: Operator
    number: int | float
    upper: int | float = math.inf
    place: Problem | None = None


@dataclass(frozen=True, slots=True)
class ExpectationResult:
    """A condition, the value of its figure in this run, and whether it holds."""

    text: str
    figure: str
    value: int | float  #: NaN: undefined in this run
    holds: bool

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'FAILED'}: {self.text} ({self.figure} is {format_figure(self.value)})"


_COMPARISON = re.compile(r"(?P<figure>[^=!<>]*?)\s*(?P<operator>==|!=|<=|>=|<|>)\s*(?P<number>[^=!<>]*)")
_BETWEEN = re.compile(r"(?P<figure>.*?)\s+between\s+(?P<number>\S+)\s+and\s+(?P<upper>\S+)")
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_GRAMMAR = (
    "expected `figure operator number` with one of == != < <= > >=, or `figure between a and b`, such as "
    "`dropped == 0` or `sync_lag.p99_seconds < 2s`"
)


def parse_expectation(text: str, place: Problem | None = None) -> Expectation:
    """Parse one condition. InputError at ``place`` says what was expected."""
    stripped = " ".join(text.split())
    found = _BETWEEN.fullmatch(stripped) or _COMPARISON.fullmatch(stripped)
    if not found or not found["figure"]:
        raise _refusal(f"not a condition: {text!r}; {_GRAMMAR}", place)
    figure = found["figure"]
    number = _number(found["number"], figure, text, place)
    parts = found.groupdict()
    if "upper" not in parts:
        return Expectation(stripped, figure, Operator(parts["operator"]), number, place=place)
    upper = _number(parts["upper"], figure, text, place)
    if upper < number:
        raise _refusal(f"in {text!r}: the first number must not exceed the second", place)
    return Expectation(stripped, figure, Operator.BETWEEN, number, upper, place)


def parse_expectations(texts: Iterable[str], places: Iterable[Problem] = ()) -> list[Expectation]:
    """Parse several conditions, each with its place, if places are given. One InputError holds every problem."""
    parsed: list[Expectation] = []
    problems: list[Problem] = []
    for text, place in zip(texts, chain(places, repeat(None))):  # noqa: B905 - the second has no end
        try:
            parsed.append(parse_expectation(text, place))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return parsed


def evaluate(expectation: Expectation, known: Figures) -> ExpectationResult:
    """Compare the figure with the condition. InputError if the run has no such figure."""
    value = lookup(known, expectation.figure, expectation.place or Problem("", path=f"in {expectation.text!r}"))
    return ExpectationResult(expectation.text, expectation.figure, value, _holds(expectation, value))


def evaluate_all(expectations: Iterable[Expectation], known: Figures) -> list[ExpectationResult]:
    """Evaluate all conditions. One InputError names every unknown figure."""
    results: list[ExpectationResult] = []
    problems: list[Problem] = []
    for expectation in expectations:
        try:
            results.append(evaluate(expectation, known))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return results


def failed(results: Sequence[ExpectationResult]) -> list[ExpectationResult]:
    """Return the conditions that do not hold."""
    return [result for result in results if not result.holds]


def format_figure(value: int | float) -> str:
    """Format a figure for people: integers whole, others with six significant digits."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, AtLeast):
        return f"at least {value:.6g}"
    return "undefined" if math.isnan(value) else f"{value:.6g}"


def _holds(expectation: Expectation, value: int | float) -> bool:
    if math.isnan(value):
        return False
    if isinstance(value, AtLeast) and expectation.operator not in (Operator.GE, Operator.GT):
        return expectation.operator is Operator.NE and value > expectation.number
    match expectation.operator:
        case Operator.EQ:
            return value == expectation.number
        case Operator.NE:
            return value != expectation.number
        case Operator.LE:
            return value <= expectation.number
        case Operator.GE:
            return value >= expectation.number
        case Operator.LT:
            return value < expectation.number
        case Operator.GT:
            return value > expectation.number
        case Operator.BETWEEN:
            return expectation.number <= value <= expectation.upper
        case _:
            assert_never(expectation.operator)


def _number(word: str, figure: str, text: str, place: Problem | None) -> int | float:
    expected = "a number"
    if figure.endswith(("_ratio", "share")):
        expected = "a number or a percentage such as 99.5%"
        if word.endswith("%") and _DECIMAL.fullmatch(word[:-1]):
            return float(word[:-1]) / 100
    if figure.endswith("_seconds"):
        expected = "a number of seconds or a duration such as 2s or 500ms"
        if not _DECIMAL.fullmatch(word):
            try:
                return parse_duration_ns(word) / SECOND_NS
            except ValueError:
                pass
    if not _DECIMAL.fullmatch(word):
        raise _refusal(f"in {text!r}: {word!r} is not {expected}", place)
    return int(word) if re.fullmatch(r"[+-]?\d+", word) else float(word)


def _refusal(message: str, place: Problem | None) -> InputError:
    place = place or Problem("")
    return InputError(Problem(message, place.file, place.document, place.line, place.path))
