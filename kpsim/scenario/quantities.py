"""Durations, delays and rates as they are written in a scenario file.

A delay is a duration (``20ms``) or a distribution with exactly one of ``constant``, ``uniform``, ``exponential``,
``normal``, ``choice``. Values are drawn elsewhere (``simulation.delays``); here they are only read.
"""

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from kpsim.units import parse_duration_ns


def file_name(name: str) -> str:
    """Return the name of a field in the file: camelCase, without the unit, because durations carry their own."""
    return to_camel(name.removesuffix("_ns"))


class Part(BaseModel):
    """Base of every part of a scenario file: frozen, camelCase in the file, unknown fields refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=file_name,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
    )


def _duration(value: object) -> object:
    if isinstance(value, str):
        return parse_duration_ns(value)
    if value == 0 and not isinstance(value, bool):
        return 0
    raise ValueError("expected a duration with a unit (like 30s, 500ms, 1m30s)")


def _not_negative(value: int) -> int:
    if value < 0:
        raise ValueError("expected a duration of zero or more")
    return value


_DURATION_SCHEMA = {
    "type": ["string", "integer"],
    "pattern": r"^\+?(0|((\d+(\.\d*)?|\.\d+)(ns|us|µs|\u03bcs|ms|s|m|h))+)$",
    "minimum": 0,
    "maximum": 0,  # the only number without a unit
    "examples": ["1.5s"],
}

#: nanoseconds in Python, a Go duration in the file
DurationNs = Annotated[int, BeforeValidator(_duration), AfterValidator(_not_negative), WithJsonSchema(_DURATION_SCHEMA)]


_MOST_LISTED = 12  #: names in a message


def exactly_one(part: BaseModel, names: tuple[str, ...]) -> str:
    """Return the one field of ``names`` that is set. ValueError unless it is exactly one."""
    given = [name for name in names if getattr(part, name) is not None]
    if len(given) != 1:
        listed = ", ".join(file_name(name) for name in names[:_MOST_LISTED])
        if len(names) > _MOST_LISTED:
            listed += f" and {len(names) - _MOST_LISTED} others"
        found = " and ".join(file_name(name) for name in given) or "none of them"
        raise ValueError(f"expected exactly one of {listed}; got {found}")
    return given[0]


class Uniform(Part):
    """Equally likely between ``low`` and ``high``, both included."""

    low_ns: DurationNs
    high_ns: DurationNs

    @model_validator(mode="after")
    def _ordered(self) -> "Uniform":
        if self.high_ns < self.low_ns:
            raise ValueError("expected high to be at least low")
        return self


class Exponential(Part):
    """Memoryless with a mean; cut off at ``max`` if given."""

    mean_ns: DurationNs
    max_ns: DurationNs | None = None


class Normal(Part):
    """A normal distribution, truncated: values below ``low`` or above ``high`` are drawn again."""

    mean_ns: DurationNs
    stddev_ns: DurationNs
    low_ns: DurationNs = 0
    high_ns: DurationNs | None = None

    @model_validator(mode="after")
    def _reachable(self) -> "Normal":
        if self.mean_ns < self.low_ns or (self.high_ns is not None and self.mean_ns > self.high_ns):
            raise ValueError("expected the mean between low and high")
        return self


class Choice(Part):
    """One of several values; ``weights`` (default: equal) gives each its share."""

    # not strict: Delay's shorthand has already turned JSON into Python, and strict tuples refuse Python lists
    values_ns: Annotated[tuple[DurationNs, ...], Field(min_length=1, strict=False)]
    weights: Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], Field(strict=False)] | None = (
        None
    )

    @model_validator(mode="after")
    def _one_weight_each(self) -> "Choice":
        if self.weights is not None and (len(self.weights) != len(self.values_ns) or sum(self.weights) <= 0):
            raise ValueError("expected one weight for each value, their sum above zero")
        return self


class Delay(Part):
    """How long something takes: a duration, or a distribution (exactly one of the fields)."""

    constant_ns: DurationNs | None = None
    uniform: Uniform | None = None
    exponential: Exponential | None = None
    normal: Normal | None = None
    choice: Choice | None = None

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler.resolve_ref_schema(handler(core_schema))
        inner = dict(described)
        described.clear()
        described.update({"description": inner.pop("description"), "anyOf": [_DURATION_SCHEMA, inner]})
        return described

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"constant": value}

    @model_validator(mode="after")
    def _one(self) -> "Delay":
        exactly_one(self, ("constant_ns", "uniform", "exponential", "normal", "choice"))
        return self

    @classmethod
    def of(cls, duration_ns: int) -> "Delay":
        """Return the constant delay."""
        return cls.model_construct(constant_ns=duration_ns, uniform=None, exponential=None, normal=None, choice=None)
