"""Words of a command line become values without a schema.

typer builds a schema of pydantic for every option of a command, also for those that nobody gave. That takes longer than
all else that a short command does. A word that is plainly a value of its option's type is read here; anything else goes
to typer, which has the words for what is wrong with it.
"""

import enum
from typing import Any, Literal, get_args, get_origin

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

Parameter = TyperArgument | TyperOption

_LONGEST = 9  #: digits of a number that is read here


def _prepared(params: list[Any]) -> list[Any]:
    """The parameters, which read their words here first. A typer that makes its readers in another way keeps them."""
    for each in params:
        if isinstance(each, Parameter) and getattr(each, "_runtime_param", _Words) is None:
            each._runtime_param = _Words()  # type: ignore[assignment]
    return params


class Command(TyperCommand):
    """A command whose words are read without a schema where that is possible."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _prepared(super().get_params(ctx))


class Group(TyperGroup):
    """Commands with options that stand before a command's name."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _prepared(super().get_params(ctx))


class _Unclear(Exception):
    """A word may be no value of its type."""


class _Words:
    """Reads the words of a parameter. Satisfies ``typer._coercion.RuntimeParam``."""

    def coerce(self, value: Any, param: Parameter, ctx: Any) -> Any:
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        annotation: Any = param.type_descriptor.annotation
        info = param.type_descriptor.parameter_info
        try:
            if get_origin(annotation) is not list:
                return _read(value, annotation, info)
            if not several or isinstance(value, str):
                raise _Unclear
            [kind] = get_args(annotation)
            return [_read(each, kind, info) for each in value]
        except (_Unclear, ValueError):
            param._runtime_param = None
            return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def _read(value: Any, annotation: Any, info: Any) -> Any:
    """The value of one word, or a default. _Unclear or ValueError if it may be none."""
    if info.parser is not None:
        return info.parser(value)
    if get_origin(annotation) is Literal:
        return _among(value, {each: each for each in get_args(annotation)})
    if not isinstance(annotation, type):
        raise _Unclear
    if issubclass(annotation, enum.Enum):
        return value if isinstance(value, annotation) else _among(value, {each.value: each for each in annotation})
    if annotation is str and isinstance(value, str) and value.isascii():
        return value
    if (
        annotation is int
        and isinstance(value, str)
        and value.isascii()
        and value.isdecimal()
        and len(value) <= _LONGEST
    ):
        value = int(value)
    inside = annotation is int and type(value) is int and not info.clamp
    if inside and (info.min is None or value >= info.min) and (info.max is None or value <= info.max):
        return value
    raise _Unclear


def _among(value: object, values: dict[Any, Any]) -> Any:
    if not isinstance(value, str) or value not in values:
        raise _Unclear
    return values[value]
