"""Classes of kpsim.valueclass are those that dataclasses makes, in all that can be seen of them."""

import copy
import dataclasses
import inspect
import pickle
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, field
from importlib import import_module
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

import kpsim
from kpsim.valueclass import dataclass


@dataclass(frozen=True, slots=True)
class Base:
    """Fields with and without default."""

    kind: ClassVar[str] = "base"
    first: int
    second: tuple[int, ...] = ()

    @property
    def both(self) -> tuple[object, ...]:
        return self.first, self.second


@dataclass(frozen=True, slots=True)
class Derived(Base):
    second: tuple[int, ...] = (1,)
    third: list[str] = field(default_factory=list)
    hidden: int = field(default=3, repr=False)
    aside: int = field(default=4, compare=False)
    made: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "made", f"made of {self.first}")


@dataclass(frozen=True, slots=True, eq=False)
class ByIdentity:
    only: int


@dataclass(frozen=True, slots=True)
class One:
    only: int = 0


@dataclass(frozen=True, slots=True)
class Empty:
    pass


@dataclass(frozen=True, slots=True)
class OwnMethods:
    value: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnMethods) and self.value % 7 == other.value % 7

    def __hash__(self) -> int:
        return self.value % 7

    def __repr__(self) -> str:
        return "own"


def test_fields_of_a_derived_class() -> None:
    one = Derived(1, third=["x"])
    assert (one.first, one.second, one.third, one.hidden, one.aside, one.made) == (1, (1,), ["x"], 3, 4, "made of 1")
    assert repr(one) == "Derived(first=1, second=(1,), third=['x'], aside=4, made='made of 1')"
    assert one == Derived(1, (1,), ["x"], aside=5)
    assert one != Derived(1, (1,), ["x"], hidden=5)
    assert one != Base(1, (1,))
    assert Derived(1).third is not Derived(1).third
    assert [each.name for each in dataclasses.fields(one)] == ["first", "second", "third", "hidden", "aside", "made"]
    assert dataclasses.replace(one, first=2).made == "made of 2"
    assert (Derived.kind, one.both) == ("base", (1, (1,)))
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)
    with pytest.raises(TypeError, match="first"):
        Derived()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="fourth"):
        Derived(1, fourth=2)  # type: ignore[call-arg]


def test_nothing_changes_a_value() -> None:
    one: Any = Derived(1)
    for name in ("first", "third", "other"):
        with pytest.raises(FrozenInstanceError, match=f"cannot assign to field '{name}'"):
            setattr(one, name, 2)
        with pytest.raises(FrozenInstanceError, match=f"cannot delete field '{name}'"):
            delattr(one, name)
    assert not hasattr(one, "__dict__")


def test_what_a_class_says_itself_counts() -> None:
    assert OwnMethods(1) == OwnMethods(8)
    assert {OwnMethods(1), OwnMethods(8)} == {OwnMethods(1)}
    assert repr(OwnMethods(1)) == "own"
    assert ByIdentity(1) != ByIdentity(1)
    assert len({ByIdentity(1), ByIdentity(1)}) == 2
    assert (Empty() == Empty(), repr(Empty()), hash(One(1)) == hash((1,))) == (True, "Empty()", True)


@pytest.mark.parametrize("value", [Derived(1, third=["x"]), One(2), Empty(), Base(1)])
def test_values_are_copied_and_pickled(value: Any) -> None:
    for other in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert (other, type(other)) == (value, type(value))


def test_a_pattern_takes_a_value_apart() -> None:
    match Derived(1, (2,)):
        case Derived(first, (second,), hidden=hidden):
            assert (first, second, hidden) == (1, 2, 3)
        case _:
            raise AssertionError


# --- every class of kpsim ---------------------------------------------------------------------------------------------


def classes() -> Iterator[type]:
    for module in pkgutil.walk_packages(kpsim.__path__, "kpsim."):
        if module.name.endswith("__main__"):
            continue
        import_module(module.name)
    for name, of in sorted(sys.modules.items()):
        if name.startswith("kpsim"):
            for each in vars(of).values():
                if isinstance(each, type) and each.__module__ == name and _is_ours(each):
                    yield each


def _is_ours(of: type) -> bool:
    return isinstance(vars(of).get("__dataclass_params__"), SimpleNamespace)


def twin(of: Any) -> Any:
    """The class as dataclasses makes it."""
    space = {name: each for name, each in vars(of).items() if not _is_made(each)}
    for each in dataclasses.fields(of):
        space.pop(each.name, None)
    own = [each for each in dataclasses.fields(of) if each.name in inspect.get_annotations(of)]
    for each in own:
        again = field(
            default=each.default, default_factory=each.default_factory, init=each.init, repr=each.repr, hash=each.hash,
            compare=each.compare,
        )  # type: ignore[call-overload]  # fmt: skip
        space[each.name] = again
    for name in (
        "__slots__",
        "__match_args__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__dict__",
        "__weakref__",
    ):
        space.pop(name, None)
    params = of.__dataclass_params__
    bases = tuple(twin(each) if _is_ours(each) else each for each in of.__bases__)
    made = type(of)(of.__name__, bases, space)
    made.__qualname__ = of.__qualname__
    return dataclasses.dataclass(frozen=True, slots=True, eq=params.eq, init=params.init)(made)


def _is_made(method: object) -> bool:
    """Whether kpsim.valueclass made it."""
    code = getattr(method, "__code__", None)
    return code is not None and code.co_filename in (dataclass.__code__.co_filename, "<string>")  # type: ignore[attr-defined]


def test_every_class_is_the_one_that_dataclasses_makes() -> None:
    found = list(classes())
    assert len(found) > 120
    for of in found:
        other = twin(of)
        names = [each.name for each in dataclasses.fields(of)]
        assert names == [each.name for each in dataclasses.fields(other)], of
        assert str(inspect.signature(of)) == str(inspect.signature(other)), of
        assert (of.__match_args__, of.__slots__) == (other.__match_args__, other.__slots__), of
        assert (of.__eq__ is object.__eq__) == (other.__eq__ is object.__eq__), of
        missing = {name for name in set(dir(other)) ^ set(dir(of)) if name != "__slotnames__"}
        assert not missing, (of, missing)
        if hasattr(of, "__post_init__") or ("__init__" in vars(other) and other.__init__ is of.__init__):
            continue
        given = {each.name: f"a {each.name}" for each in dataclasses.fields(of) if each.init}
        mine, others = of(**given), other(**given)
        assert [getattr(mine, each) for each in given] == list(given.values())
        assert repr(mine) == repr(others)
        assert (hash(mine) == hash(others)) == of.__dataclass_params__.eq or of.__hash__ is not other.__hash__
        for each in dataclasses.fields(of):
            if each.init:
                changed = {**given, each.name: "another"}
                assert (of(**changed) == mine) == (other(**changed) == others), (of, each.name)
