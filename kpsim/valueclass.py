"""Immutable values: the classes of ``dataclass(frozen=True, slots=True)``, made in a third of the time.

dataclasses compiles each method of each class. A short command imports two hundred such classes, and spent a quarter of its
time on that. Here only ``__init__`` is compiled: what compares, hashes and shows values is code that all classes share.
Modules that make many classes, and that short commands import, take ``dataclass`` from here.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError
from functools import partial
from inspect import get_annotations
from operator import attrgetter
from types import MemberDescriptorType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, get_origin

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(of=None, /, **options):
        """Do what ``dataclasses.dataclass`` does."""
        plain = of is not None or not _KNOWN.issuperset(options) or not (options.get("frozen") and options.get("slots"))
        if plain or None in (_FIELD, _FACTORY):
            return dataclasses.dataclass(of, **options)
        return partial(_made, eq=options.get("eq", True), init=options.get("init", True))


__all__ = ["dataclass"]

_KNOWN = frozenset({"frozen", "slots", "eq", "init"})
#: what ``fields`` and ``replace`` know fields by, and what stands in a signature for a default that is made; None: this
#: Python's dataclasses do it in another way, and make all classes themselves
_FIELD, _FACTORY = getattr(dataclasses, "_FIELD", None), getattr(dataclasses, "_HAS_DEFAULT_FACTORY", None)

Get = Callable[[Any], Any]


def _made(of: type, *, eq: bool, init: bool) -> type:
    """The class with slots, and with the methods that it does not have itself. Fields of base classes come first."""
    fields: dict[str, Field[Any]] = {}
    for base in of.__mro__[:0:-1]:
        fields |= getattr(base, "__dataclass_fields__", {})
    space = dict(of.__dict__)
    own = {name: type_ for name, type_ in get_annotations(of).items() if not _is_of_the_class(type_)}
    for name, type_ in own.items():
        fields[name] = _field(name, type_, space.pop(name, MISSING))
    inherited = {name for base in of.__mro__[1:-1] for name in getattr(base, "__slots__", ())}
    for name in ("__dict__", "__weakref__"):
        space.pop(name, None)
    space |= {
        "__slots__": tuple(name for name in own if name not in inherited),
        "__qualname__": of.__qualname__,
        "__dataclass_fields__": fields,
        "__dataclass_params__": SimpleNamespace(
            init=init, repr=True, eq=eq, order=False, unsafe_hash=False, frozen=True
        ),
        "__match_args__": tuple(name for name, each in fields.items() if each.init),
    }
    made = type(of)(of.__name__, of.__bases__, space)
    shown = [name for name, each in fields.items() if each.repr]
    methods = [_repr(shown), *_frozen(made, frozenset(fields)), *_state(tuple(fields))]
    if eq:
        methods.append(_eq(_getter([name for name, each in fields.items() if each.compare])))
        methods.append(
            _hash(_getter([n for n, each in fields.items() if (each.compare if each.hash is None else each.hash)]))
        )
    if init:
        methods.append(_init(made, fields))
    for method in methods:
        if space.get(method.__name__) is None:  # Python sets __hash__ to None beside an own __eq__
            method.__qualname__ = f"{of.__qualname__}.{method.__name__}"
            setattr(made, method.__name__, method)
    return made


def _is_of_the_class(type_: Any) -> bool:
    origin: Any = get_origin(type_)
    return origin is ClassVar


def _field(name: str, type_: Any, given: Any) -> Field[Any]:
    made: Any = given if isinstance(given, Field) else dataclasses.field(default=given)
    made.name, made.type, made.kw_only, made._field_type = name, type_, False, _FIELD
    return made  # type: ignore[no-any-return]


def _getter(names: list[str]) -> Get:
    """A function that returns the values of some attributes as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    if not names:
        return lambda self: ()
    one = attrgetter(names[0])
    return lambda self: (one(self),)


def _init(of: type, fields: dict[str, Field[Any]]) -> Any:
    """The method that sets the slots, past the method that refuses to set them."""
    space: dict[str, Any] = {"missing": _FACTORY}
    parameters, lines = [], []
    for number, (name, each) in enumerate(fields.items()):
        value = name
        if each.default_factory is not MISSING:
            space[f"make{number}"] = each.default_factory
            value = f"make{number}() if {name} is missing else {name}" if each.init else f"make{number}()"
        elif each.default is not MISSING:
            space[f"default{number}"] = each.default
            value = name if each.init else f"default{number}"
        elif not each.init:
            continue  # __post_init__ sets it
        if each.init:
            given = (
                f"=default{number}" if f"default{number}" in space else "=missing" if f"make{number}" in space else ""
            )
            parameters.append(f"{name}{given}")
        slot = getattr(of, name, None)
        space[f"set{number}"] = slot.__set__ if isinstance(slot, MemberDescriptorType) else partial(_set, name)
        lines.append(f"set{number}(self, {value})")
    if hasattr(of, "__post_init__"):
        lines.append("self.__post_init__()")
    exec(f"def __init__(self, {', '.join(parameters)}):\n " + "\n ".join(lines or ["pass"]), space)
    init = space["__init__"]
    init.__annotations__ = {name: each.type for name, each in fields.items() if each.init} | {"return": None}
    return init


def _set(name: str, self: Any, value: Any) -> None:
    object.__setattr__(self, name, value)


def _frozen(of: Any, names: frozenset[str]) -> tuple[Any, Any]:
    def __setattr__(self: Any, name: str, value: Any) -> None:
        if type(self) is of or name in names:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        super(of, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:
        if type(self) is of or name in names:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
        super(of, self).__delattr__(name)

    return __setattr__, __delattr__


def _repr(names: list[str]) -> Any:
    def __repr__(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join([f'{name}={getattr(self, name)!r}' for name in names])})"

    return __repr__


def _eq(get: Get) -> Any:
    def __eq__(self: Any, other: Any) -> Any:
        return get(self) == get(other) if other.__class__ is self.__class__ else NotImplemented

    return __eq__


def _hash(get: Get) -> Any:
    def __hash__(self: Any) -> int:
        return hash(get(self))

    return __hash__


def _state(names: tuple[str, ...]) -> tuple[Any, Any]:
    """What pickle and copy ask: such a class has no dictionary, and refuses to be changed."""

    def __getstate__(self: Any) -> list[Any]:
        return [getattr(self, name) for name in names]

    def __setstate__(self: Any, state: list[Any]) -> None:
        for name, value in zip(names, state, strict=True):
            object.__setattr__(self, name, value)

    return __getstate__, __setstate__
