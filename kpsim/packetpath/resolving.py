"""What a statement says once its map was asked: a verdict of a verdict map, a translation with addresses from a map.

Counterpart: nft_lookup with a destination register, in front of nft_immediate's verdicts and nft_nat.
"""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import cast

from kpsim.packetpath.matching import Facts, asking
from kpsim.packetpath.worlds import UnknownEnd
from kpsim.ruleset import (
    Dispatch,
    Dnat,
    ElementReference,
    Goto,
    Interval,
    Jump,
    Mapped,
    Part,
    Redirect,
    SetReference,
    Snat,
    Statement,
    Terminal,
)

#: the statement to carry out, and the element that said so
Resolved = tuple[Statement, ElementReference]
#: returns None if the map has no such key, which ends the rule
Resolve = Callable[[Facts], Resolved | None]


def resolver(statement: Statement, key: Hashable) -> Resolve | None:
    """A function that asks a statement's map; None for a statement without map. ``key`` names draws of the rule."""
    match statement:
        case Dispatch(sources, map_):
            said: Callable[[ElementReference], Statement] = _verdict
        case (
            Dnat(mapped=Mapped(sources, map_))
            | Snat(mapped=Mapped(sources, map_))
            | Redirect(mapped=Mapped(sources, map_))
        ):
            translation = statement
            said = lambda element: _translation(translation, element)  # noqa: E731 - one function of two
        case _:
            return None
    ask = asking(sources, map_, key)
    name = map_.name if isinstance(map_, SetReference) else ""

    def resolve(facts: Facts) -> Resolved | None:
        found = ask(facts)
        if found is None:
            return None
        element = ElementReference(name, *found)
        return said(element), element

    return resolve


def _verdict(element: ElementReference) -> Statement:
    return cast("Terminal | Jump | Goto", element.element.value)


def _translation(statement: Dnat | Snat | Redirect, element: ElementReference) -> Statement:
    mapped = cast("Mapped", statement.mapped)
    values = list(cast("tuple[Part, ...]", element.element.value))
    address = _one(values.pop(0)) if mapped.address else None
    ports = values.pop(0) if mapped.port else None
    match statement:
        case Dnat():
            port = statement.port if ports is None else _one(ports)
            return replace(statement, address=statement.address if address is None else address, port=port, mapped=None)
        case Snat():
            between = (
                statement.ports
                if ports is None
                else cast("Interval", ports if isinstance(ports, tuple) else (ports, ports))
            )
            return replace(
                statement, address=statement.address if address is None else address, ports=between, mapped=None
            )
        case Redirect():
            return replace(statement, port=statement.port if ports is None else _one(ports), mapped=None)


def _one(part: Part) -> int:
    """The one number of a part. The kernel picks one of several in a way that is not modelled."""
    if isinstance(part, tuple):
        if part[0] != part[1]:
            raise UnknownEnd(f"a translation to one of {part[1] - part[0] + 1} numbers of a map")
        return part[0]
    return cast("int", part)
