"""What a packet's way depends on: numbers that know which part of the packet they are, and the questions asked about them.

A watched packet carries its addresses and its port as numbers of classes of their own. They stay what they are through
copies, bindings, answers and errors, since all these pass numbers on and none computes with them. Whatever decides by
such a number asks a question first; the answers to all questions of a way are what the way depended on.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

from kpsim.comparison.behaviour.spaces import Name, Partition, Values
from kpsim.packetpath.chooser import ScriptedChooser


class Source(int):
    """The address that the client sends from."""


class Destination(int):
    """The address that the client dials."""


class Port(int):
    """The port that the client dials; 0 for a ping."""


class Endpoint(int):
    """The address that a rule of the first node translates the destination to."""


class EndpointPort(int):
    """The port that a rule of the first node translates the destination port to."""


#: the axes of packet space, by the class of their numbers
AXES: Mapping[type, int] = {Source: 0, Destination: 1, Port: 2, Endpoint: 3, EndpointPort: 4}
SOURCE, DESTINATION, PORT, ENDPOINT, ENDPOINT_PORT = range(5)
#: the axes that packets of a class differ in; an endpoint is one address and one port
WIDE = (SOURCE, DESTINATION, PORT)

Region = tuple[Values, Values, Values, Values, Values]  #: a box of packet space: a set of numbers for each axis


def axis_of(value: object) -> int | None:
    """The axis of a number; None for one that no packet brought along."""
    return AXES.get(type(value))


def narrowed(region: Region, axis: int, values: Values) -> Region:
    """The region with another set of numbers on one axis."""
    return (*region[:axis], values, *region[axis + 1 :])  # type: ignore[return-value]


class On(NamedTuple):
    """Which class of a partition is the number on an axis in?"""

    axis: int
    partition: Partition

    def split(self, region: Region) -> Iterable[tuple[Name, Region]]:
        parts = self.partition.split(region[self.axis])
        return [(name, narrowed(region, self.axis, values)) for name, values in parts.items()]


class Given(NamedTuple):
    """As :class:`On`, with a partition that depends on the endpoint of the region."""

    axis: int
    partition: Callable[[int, int], Partition]

    def split(self, region: Region) -> Iterable[tuple[Name, Region]]:
        return On(self.axis, self.partition(region[ENDPOINT][0][0], region[ENDPOINT_PORT][0][0])).split(region)


class Judged(NamedTuple):
    """What does a function say of a packet, given one number of each axis?

    It says the same of all packets of each part of the region that ``parts`` makes.
    """

    says: Callable[[tuple[int, ...]], Name]
    parts: Callable[[Region], Iterable[Region]] = lambda region: (region,)

    def split(self, region: Region) -> Iterable[tuple[Name, Region]]:
        return [
            (self.says(tuple([values[0][0] if values else 0 for values in part])), part) for part in self.parts(region)
        ]


class Drawn(NamedTuple):
    """Which way did a draw go? Every packet of the region may go each of them, with these probabilities."""

    weights: tuple[Fraction, ...]


Question = On | Given | Judged | Drawn
Event = tuple[Question, Name]  #: a question and its answer


class Witness:
    """Notes the questions that are asked about a packet on its way, each once."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._settled: set[Hashable] = set()  #: axes with one number left, and questions that were asked
        self._kept: tuple[int, set[Hashable]] = (0, set())

    def begin(self) -> None:
        """Forgets everything: another packet sets out."""
        self.events = []
        self._settled = set()
        self.mark()

    def mark(self) -> None:
        """From here on questions are asked that :meth:`back` forgets."""
        self._kept = len(self.events), set(self._settled)

    def back(self) -> None:
        """Forgets what was asked since the mark."""
        number, self._settled = self._kept
        del self.events[number:]

    def ask(self, value: object, partition: Partition) -> None:
        """Something decides by the class of a number."""
        axis = AXES.get(type(value))
        if axis is None or axis in self._settled:
            return
        key = axis, id(partition)
        if key in self._settled:
            return
        self._settled.add(key)
        name = partition.of(value)  # type: ignore[arg-type]
        self.events.append((On(axis, partition), name))
        if axis in WIDE and name in partition.single:
            self._settled.add(axis)

    def judged(self, question: Given | Judged, name: Name) -> None:
        """Something decides by more than one number."""
        self.events.append((question, name))

    def drawn(self, weights: tuple[Fraction, ...], branch: int) -> None:
        self.events.append((Drawn(weights), branch))


class WatchedChooser(ScriptedChooser):
    """Follows a script, and notes each draw as a question."""

    def __init__(self, witness: Witness, script: tuple[int, ...]) -> None:
        super().__init__(script, as_written=True)
        self._witness = witness

    def among(self, weights: tuple[Fraction, ...]) -> int:
        branch = super().among(weights)
        self._witness.drawn(weights, branch)
        return branch
