"""Whether an object plainly has the shape that its schema says. Most have, and then pydantic need not be imported.

The answer no means only that pydantic has to look: it has the last word, and says what is wrong and where.
"""

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Required, get_args, get_origin

Fits = Callable[[Any], bool]


class Bounds(NamedTuple):
    """The least and the most that a number or the length of a list may be; None: any."""

    least: int | None
    most: int | None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        names = ("min_length", "max_length") if get_origin(source) is list else ("ge", "le")
        return handler(source) | {name: value for name, value in zip(names, self, strict=True) if value is not None}

    def hold(self, number: int) -> bool:
        return (self.least is None or self.least <= number) and (self.most is None or number <= self.most)


@cache
def fits(hint: Any) -> Fits:
    """A function that says whether a value plainly fits a hint, in pydantic's strict mode."""
    if hint is Any:
        return lambda _: True
    if hint in (str, int, bool):
        return lambda value: type(value) is hint
    arguments = get_args(hint)
    match get_origin(hint):
        case None:
            return _object(hint)
        case _ if type(None) in arguments:
            [other] = [each for each in arguments if each is not type(None)]
            inner = fits(other)
            return lambda value: value is None or inner(value)
        case origin if origin is Required:
            return fits(arguments[0])
        case origin if origin is Annotated:
            inner, bounds, sized = fits(arguments[0]), arguments[1], get_origin(arguments[0]) is list
            return lambda value: inner(value) and bounds.hold(len(value) if sized else value)
        case origin if origin is Literal:
            return lambda value: type(value) is str and value in arguments
        case origin if origin is list:
            each = fits(arguments[0])
            return lambda value: type(value) is list and all(map(each, value))
        case origin if origin is dict:
            of_key, of_value = map(fits, arguments)
            return lambda value: type(value) is dict and all(map(of_key, value)) and all(map(of_value, value.values()))
    raise AssertionError(f"no schema has {hint}")


def _object(type_: Any) -> Fits:
    fields = {name: fits(hint) for name, hint in type_.__annotations__.items()}
    required: frozenset[str] = type_.__required_keys__

    def check(value: object) -> bool:
        if type(value) is not dict:
            return False
        for name, item in value.items():
            of_item = fields.get(name)
            if of_item is None or not of_item(item):
                return False
        return required <= value.keys()

    return check
