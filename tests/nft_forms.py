"""Reads the recorded statements of ``tests/dialects``, and puts statements into chains."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from kpsim.dialects.nft.dialect import DIALECT
from kpsim.ruleset import Adjust, Body, Compare, Field, Log, Rule, Space, TableKey

HERE = Path(__file__).parent / "dialects"
FILES = ("nft_forms.txt", "nft_more_forms.txt")  #: the second one has every word that the dialect knows
OBJECTS = (HERE / "nft_objects.txt").read_text()  #: sets, maps, a counter and a limit that statements name


class Place(NamedTuple):
    """A base chain in which a statement stands."""

    family: str
    type: str
    hook: str

    @property
    def space(self) -> Space:
        return Space(self.family)


class Form(NamedTuple):
    """A statement as it is sent, listed, and printed as JSON. ``number`` counts the statements of its place."""

    place: Place
    number: int
    sent: str
    listed: str
    trees: list[Any]

    def __str__(self) -> str:
        return f"{self.place.family} {self.sent}"


@cache
def recorded_forms() -> tuple[Form, ...]:
    """All recorded statements."""
    found: list[Form] = []
    place, parts = Place("", "", ""), dict[str, str]()
    for line in "\n".join((HERE / name).read_text() for name in FILES).splitlines():
        mark, _, words = line.partition(" ")
        if mark in ("S", "L", "J"):
            parts[mark] = words
            if mark == "J":
                number = sum(form.place == place for form in found)
                found.append(Form(place, number, parts["S"], parts["L"], json.loads(words)))
        elif line and mark != "#":
            place = Place(*line.split())
    return tuple(found)


def at(place: Place) -> list[Form]:
    """The statements of one place."""
    return [form for form in recorded_forms() if form.place == place]


def commands(place: Place, statements: Sequence[str]) -> str:
    """The commands that make a chain with these rules, and all that the rules may name."""
    family = place.family
    lines = [
        f"add table {family} t",
        f"add chain {family} t c2",
        f"add chain {family} t c {{ type {place.type} hook {place.hook} priority 0 ; }}",
        *(OBJECTS.splitlines() if family == "inet" else ()),
        *(f"add rule {family} t c {statement}" for statement in statements),
    ]
    return "\n".join(lines) + "\n"


def listing(place: Place, statements: Sequence[str]) -> str:
    """A listing of the same."""
    objects = "\n".join(_in_block(line) for line in OBJECTS.splitlines()) if place.family == "inet" else ""
    base = f"type {place.type} hook {place.hook} priority 0; policy accept;"
    rules = "\n".join(statements)
    return f"table {place.family} t {{\n{objects}\nchain c2 {{\n}}\nchain c {{\n{base}\n{rules}\n}}\n}}\n"


def _in_block(command: str) -> str:
    """``add set inet t NAME { … }`` as it stands in the block of its table."""
    _, kind, _, _, rest = command.split(" ", 4)
    return f"{kind} {rest}" if "{" in rest else f"{kind} {rest} {{ packets 0 bytes 0 }}"


def json_document(place: Place, rules: Sequence[list[Any]]) -> str:
    """A JSON document of the same."""
    of = {"family": place.family, "table": "t"}
    base = {"type": place.type, "hook": place.hook, "prio": 0, "policy": "accept"}
    entries: list[Any] = [{"table": {"family": place.family, "name": "t"}}]
    if place.family == "inet":
        entries += json.loads((HERE / "nft_objects.json").read_text())
    entries += [{"chain": of | {"name": "c2"}}, {"chain": of | {"name": "c"} | base}]
    entries += [{"rule": of | {"chain": "c", "expr": trees}} for trees in rules]
    return json.dumps({"nftables": entries})


@cache
def rules_in(text: str, family: str) -> tuple[Rule, ...]:
    """The rules of chain ``c`` in a text."""
    key = TableKey(Space(family), "t")
    return next(each for each in DIALECT.parse(text) if key in each.tables).tables[key].chains["c"].rules


def without_order(body: Body) -> tuple[Any, Any]:
    """A body whose comparisons of family and protocol stand apart: nft moves them when it lists a rule."""
    implied = [part for part in body if isinstance(part, Compare) and part.field in (Field.NFPROTO, Field.L4PROTO)]
    return frozenset(implied), tuple(part for part in body if part not in implied)


def without_words(body: Body) -> tuple[Any, Any]:
    """As :func:`without_order`, and without the words of logs and of fields that decide nothing: nft lists others."""
    implied, rest = without_order(body)
    return implied, tuple(
        Log() if isinstance(part, Log) else Adjust(part.target) if isinstance(part, Adjust) else part for part in rest
    )
