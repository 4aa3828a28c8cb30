"""A row of the table of settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kpsim.manifests.places import value_at
from kpsim.manifests.proxy_config import FIELDS, with_defaults
from kpsim.startup.remarks import Remarks, Words, nothing
from kpsim.startup.situation import Situation
from kpsim.units import format_duration, parse_duration_ns


def _nobody(_: Situation) -> str:
    return ""


def shown(value: Any, zero: str = '""') -> str:
    """A value of the configuration as text: durations in their shortest form, lists with commas; nothing as ``zero``."""
    match value:
        case None | "":
            return zero
        case bool():
            return str(value).lower()
        case list() | tuple():
            return ", ".join(map(str, value)) or "[]"
        case dict():
            return ", ".join(f"{name}={shown(inner)}" for name, inner in sorted(value.items())) or "{}"
        case str() if zero == "0s":
            return _duration(value)
        case _:
            return str(value)


def _duration(text: str) -> str:
    try:
        return format_duration(parse_duration_ns(text))
    except ValueError:
        return text


#: by what a field of the configuration is expected to be: what it is if nothing is written
_ZEROS = {
    "true or false": "false",
    "a list of strings": "[]",
    "an object of true or false": "{}",
    "an integer": "0",
    "a number": "0",
}


def zero_of(path: str) -> str:
    """What a field is, as text, if nothing is written and it has no default."""
    check: Any = FIELDS
    for step in path.split("."):
        check = check[step]
    expected = str(check(object()))
    return "0s" if expected.startswith("a duration") else _ZEROS.get(expected, '""')


def differs(s: Situation, path: str) -> bool:
    """Whether a field has another value than in an empty configuration of the mode."""
    default = value_at(with_defaults({"mode": str(s.config.mode)}), tuple(path.split(".")))
    return bool(_plain(s.value(path)) != _plain(default))


def _plain(value: Any) -> Any:
    """A value for comparison: a duration as a number; nothing, zero, false and empty values alike, as kubeadm writes them all."""
    if isinstance(value, str) and value:
        try:
            return ("duration", parse_duration_ns(value)) if parse_duration_ns(value) else None
        except ValueError:
            return value
    if isinstance(value, Mapping):
        return {name: plain for name, each in value.items() if (plain := _plain(each)) is not None} or None
    return value or None


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of the configuration and what is said of its value, each a function of the situation.

    ``unread`` says why kube-proxy does not read it here, ``moot`` why a value that it reads decides nothing; both are empty if
    that is not so. ``in_force`` is the value that counts, where it is not the one after defaulting.
    """

    path: str
    does: Words
    see: str
    remarks: Remarks = nothing
    in_force: Callable[[Situation], Any] | None = None
    unread: Words = _nobody
    moot: Words = _nobody
    asks: Callable[[Situation], bool] | None = (
        None  #: whether the value differs from the default, if that is no comparison
    )

    def value(self, situation: Situation) -> Any:
        return situation.value(self.path) if self.in_force is None else self.in_force(situation)


def constant(text: str) -> Words:
    """Words that are the same in every situation."""

    def words(_: Situation) -> str:
        return text

    return words
