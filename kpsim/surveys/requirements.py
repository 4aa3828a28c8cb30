"""What every row of a survey must satisfy, such as ``works == 1``: a check for pipelines."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kpsim.errors import InputError
from kpsim.surveys.rows import COLUMNS, Row

_FORM = re.compile(r"\s*(\w+)\s*(==|!=|>=|<=|>|<)\s*(.*?)\s*")
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_READ = {column.name: column for column in COLUMNS}
_FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Requirement:
    """A condition on a column. A missing value satisfies it: the column says nothing about that row."""

    text: str
    column: str
    compare: Callable[[Any, Any], bool]
    value: object

    def holds(self, row: Row) -> bool:
        found = _READ[self.column].read(row)
        return found is None or self.compare(found, self.value)


def parse_requirement(text: str) -> Requirement:
    """A requirement from ``COLUMN OPERATOR VALUE``. InputError that says what is wrong with it."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise InputError(f"{text!r} is no requirement: COLUMN OPERATOR VALUE is, such as works==1")
    name, sign, value = found.groups()
    if name not in _READ:
        raise InputError(f"{text!r}: there is no column {name!r}; there is {', '.join(_READ)}")
    return Requirement(text, name, _OPERATORS[sign], _value(text, _READ[name].dtype, sign, value))


def _value(text: str, dtype: str, sign: str, value: str) -> object:
    if dtype in ("bool", "boolean"):
        if value.lower() not in _FLAGS or sign not in ("==", "!="):
            raise InputError(f"{text!r}: the column is true or false, so == true or == false")
        return _FLAGS[value.lower()]
    if dtype == "str":
        return value.strip("'\"")
    try:
        number = float(value)
    except ValueError:
        raise InputError(f"{text!r}: {value!r} is no number") from None
    if number != number:
        raise InputError(f"{text!r}: {value!r} is no number")
    return number


def failing(rows: Sequence[Row], requirements: Sequence[Requirement]) -> list[tuple[Requirement, Row]]:
    """The rows that break a requirement. Those of nodes that a load balancer does not send to are left out."""
    return [
        (each, row) for row in rows if row.in_rotation is not False for each in requirements if not each.holds(row)
    ]  # fmt: skip
