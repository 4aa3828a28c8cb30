"""What stands in shapes of rules for the constants of a component: their places, and holes for what is said of one endpoint."""

from collections.abc import Hashable, Mapping
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.comparison.behaviour.components import Address

Shape = Hashable
Own = Mapping[Address | int, tuple[int, int]]  #: constant → number of its component, and its place there


class Incomparable(Exception):
    """A rule computes with addresses, so exchanging constants may change what it does."""


class Literals:
    """Numbers that rules, routes and the world tell from others, whosoever they are."""

    def __init__(self) -> None:
        self.addresses: dict[Family, set[tuple[int, int]]] = {family: set() for family in Family}
        self.ports: set[tuple[int, int]] = set()


class Place(NamedTuple):
    """Stands for a component's own constant."""

    number: int


class Hole(NamedTuple):
    """Stands for the one endpoint that something is said of, or for its memory of clients."""

    what: str = "endpoint"


HOLE, MEMORY = Hole(), Hole("memory")
Said = tuple[
    int | None, Shape
]  #: the place of the endpoint that something is said of, if it is of one, and what is said


class Alone:
    """What has been named while the shape of something is made that may be said of one endpoint alone."""

    def __init__(self) -> None:
        self.endpoints: set[int] = set()
        self.memories: set[str] = set()

    @property
    def place(self) -> int | None:
        """The place of the only endpoint; None: there is none, or there are several."""
        return next(iter(self.endpoints)) if len(self.endpoints) == 1 and len(self.memories) <= 1 else None

    @property
    def is_of_several(self) -> bool:
        return len(self.endpoints) > 1 or len(self.memories) > 1 or (bool(self.memories) and not self.endpoints)
