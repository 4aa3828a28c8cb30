"""What a statement says once its map was asked: a verdict of a verdict map, a translation or a mark out of a map.

Counterpart: nft_lookup with a destination register, in front of nft_immediate's verdicts and nft_nat.
"""

from collections.abc import Callable, Hashable
from typing import cast

from kpsim.packetpath.matching import Facts, asking, key_of
from kpsim.ruleset import (
    Assign,
    AssignFrom,
    Dispatch,
    Dnat,
    ElementReference,
    Field,
    Goto,
    Interval,
    Jump,
    Mapped,
    Part,
    Redirect,
    Set,
    SetReference,
    Snat,
    Source,
    Statement,
    Terminal,
)

#: the statement to carry out, and the element that said so; None: the key itself said so
Resolved = tuple[Statement, ElementReference | None]
#: returns None if the map has no such key, which ends the rule
Resolve = Callable[[Facts], Resolved | None]


def resolver(statement: Statement, key: Hashable) -> Resolve | None:
    """A function that asks a statement's map; None for a statement without map. ``key`` names draws of the rule."""
    match statement:
        case Dispatch(sources, map_):
            said: Callable[[ElementReference], Statement] = _verdict
        case AssignFrom(to, sources, None):
            return _number(to, sources, key)
        case AssignFrom(to, sources, Set() | SetReference() as map_):
            said = lambda element: _mark(to, element)  # noqa: E731 - one function of three
        case (
            Dnat(mapped=Mapped(sources, map_))
            | Snat(mapped=Mapped(sources, map_))
            | Redirect(mapped=Mapped(sources, map_))
        ):
            translation = statement
            said = lambda element: _translation(translation, element)  # noqa: E731
        case _:
            return None
    ask = asking(sources, map_, key)

    def resolve(facts: Facts) -> Resolved | None:
        found = ask(facts)
        if found is None:
            return None
        element = ElementReference(map_.name, *found)
        return said(element), element

    return resolve


def _number(to: Field, sources: tuple[Source, ...], key: Hashable) -> Resolve:
    """The assignment of a number that a rule draws or computes."""
    asked = key_of(sources, key)

    def resolve(facts: Facts) -> Resolved | None:
        found = asked(facts)
        return None if found is None else (Assign(to, 0, cast("int", found[0])), None)

    return resolve


def _mark(to: Field, element: ElementReference) -> Statement:
    (mark,) = cast("tuple[int]", element.element.value)
    return Assign(to, 0, mark)


def _verdict(element: ElementReference) -> Statement:
    return cast("Terminal | Jump | Goto", element.element.value)


def _translation(statement: Dnat | Snat | Redirect, element: ElementReference) -> Statement:
    """The translation with the address and the port that a map said; what it did not say stays as the rule has it."""
    mapped = cast("Mapped", statement.mapped)
    values = list(cast("tuple[Part, ...]", element.element.value))
    ends = [value if isinstance(value, tuple) else (cast("int", value), cast("int", value)) for value in values]
    addresses = ends.pop(0) if mapped.address else None
    ports = ends.pop(0) if mapped.port else None
    if not isinstance(statement, Redirect) and addresses is None and statement.address is not None:
        addresses = statement.address, statement.last_address or statement.address
    if isinstance(statement, Snat):
        first, last = _ends(addresses)
        return Snat(first, ports or statement.ports, statement.flags, last_address=last)
    if ports is None and statement.port is not None:
        ports = statement.port, statement.last_port or statement.port
    port, last_port = _ends(ports)
    if isinstance(statement, Redirect):
        return Redirect(port, statement.flags, last_port=last_port)
    first, last = _ends(addresses)
    return Dnat(first, port, statement.flags, last_address=last, last_port=last_port)


def _ends(interval: Interval | None) -> tuple[int | None, int | None]:
    """The first number of a range, and the last one if it is another."""
    if interval is None:
        return None, None
    return interval[0], None if interval[0] == interval[1] else interval[1]
