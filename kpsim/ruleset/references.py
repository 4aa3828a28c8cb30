"""What the rules and elements of a table name: chains by their name, its sets by their name behind an ``@``.

ipsets belong to no table, so they are not among these names. The kernel keeps a chain or a set as long as something names it.
"""

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any

from kpsim.ruleset.expressions import Lookup
from kpsim.ruleset.sets import Element, Set, SetReference
from kpsim.ruleset.statements import AssignFrom, Body, Dispatch, Dnat, Redirect, Snat, UpdateSet
from kpsim.ruleset.verdicts import Goto, Jump


def names_in(body: Body) -> list[str]:
    """The chains and sets that a rule names, each as often as it names it."""
    found: list[str] = []
    for part in body:
        kind = type(part)
        if kind is Goto or kind is Jump:
            found.append(part.chain)  # type: ignore[union-attr]
        elif kind in _SET_OF:
            asked = _SET_OF[kind](part)
            if type(asked) is SetReference:
                found += [] if asked.of_namespace else [f"@{asked.name}"]
            elif asked is not None:
                found += names_in_set(asked)
    return found


def names_in_set(of: Set) -> Iterator[str]:
    """The chains that a verdict map leads to, each as often as it does."""
    for element in of.elements.values():
        value = element.value
        if type(value) is Goto or type(value) is Jump:
            yield value.chain


def elements_in(body: Body) -> Iterator[Element]:
    """The elements of the sets and maps that are written in a rule."""
    for part in body:
        asked = _SET_OF[type(part)](part) if type(part) in _SET_OF else None
        if isinstance(asked, Set):
            yield from asked.elements.values()


def _of_nat(part: Dnat | Snat | Redirect) -> Set | SetReference | None:
    return None if part.mapped is None else part.mapped.map


_SET_OF: Mapping[type, Callable[[Any], Any]] = {
    AssignFrom: attrgetter("map"),
    Dispatch: attrgetter("map"),
    Lookup: attrgetter("set"),
    UpdateSet: attrgetter("set"),
    Dnat: _of_nat,
    Snat: _of_nat,
    Redirect: _of_nat,
}
