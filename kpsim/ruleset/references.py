"""What the rules and elements of a table name: chains by their name, sets by their name behind an ``@``.

The kernel keeps a chain or a set as long as something names it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kpsim.ruleset.expressions import Lookup
from kpsim.ruleset.sets import Set, SetReference
from kpsim.ruleset.statements import Body, Dispatch, Dnat, Mapped, Redirect, Snat, UpdateSet
from kpsim.ruleset.verdicts import Goto, Jump


def set_name(name: str) -> str | None:
    """The name of a set without its ``@``; None for the name of a chain."""
    return name[1:] if name.startswith("@") else None


def names_in(body: Body) -> list[str]:
    """The chains and sets that a rule names, each as often as it names it."""
    found: list[str] = []
    for part in body:
        find = _FINDERS.get(type(part))
        if find is not None:
            found += find(part)
    return found


def names_in_set(of: Set) -> Iterator[str]:
    """The chains that a verdict map leads to, each as often as it does."""
    for element in of.elements.values():
        value = element.value
        if type(value) is Goto or type(value) is Jump:
            yield value.chain


def _of_set(of: Set | SetReference) -> Iterator[str]:
    if type(of) is SetReference:
        yield f"@{of.name}"
    else:
        assert isinstance(of, Set)
        yield from names_in_set(of)


def _of_jump(part: Jump | Goto) -> Iterator[str]:
    yield part.chain


def _of_map(part: Dispatch | Mapped) -> Iterator[str]:
    return _of_set(part.map)


def _of_lookup(part: Lookup | UpdateSet) -> Iterator[str]:
    return _of_set(part.set)


def _of_nat(part: Dnat | Snat | Redirect) -> Iterator[str]:
    return iter(()) if part.mapped is None else _of_map(part.mapped)


_FINDERS: Mapping[type, Callable[[Any], Iterator[str]]] = {
    Jump: _of_jump,
    Goto: _of_jump,
    Dispatch: _of_map,
    Lookup: _of_lookup,
    UpdateSet: _of_lookup,
    Dnat: _of_nat,
    Snat: _of_nat,
    Redirect: _of_nat,
}
