"""What moved between two runs: which connections were lost in one and not in the other, when, where and why.

Draws are keyed by what they are drawn for, so the n-th connection of a source has the same client and time in both runs of a scenario
and seed. Connections are paired by that, and a difference is the effect of what differs, not of other draws.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from kpsim.reports.figures import Figures
from kpsim.simulation.runlog import Connection, Fate


@dataclass(frozen=True, slots=True)
class Ended:
    """One connection and its end, as far as a comparison asks."""

    at_ns: int
    traffic: str
    client: str
    service: str
    node: str
    disposition: str
    cause: str
    endpoint_node: str

    @property
    def lost(self) -> bool:
        return self.disposition != Fate.DELIVERED


@dataclass(frozen=True, slots=True)
class Account:
    """A run to be compared. ``name`` is what the person called it, ``about`` says what was run."""

    name: str
    scenario: str
    seed: int
    mode: str
    connections: tuple[Ended, ...]
    figures: Figures

    @property
    def about(self) -> str:
        return f"{self.scenario}, mode {self.mode}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Pair:
    """The same connection in both runs."""

    a: Ended
    b: Ended


@dataclass(frozen=True, slots=True)
class Window:
    """Connections that one run lost and the other delivered, alike in source, node and cause, close to each other in time.

    ``elsewhere`` are the nodes whose endpoints served them in the other run, with their numbers, most first.
    """

    lost_in: str  #: ``a`` or ``b``
    traffic: str
    service: str
    node: str  #: of the run that lost them; empty: none
    disposition: str
    cause: str
    first_ns: int
    last_ns: int
    connections: int
    elsewhere: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class FigureDifference:
    """A figure that differs. None: the run has it not, or undefined."""

    name: str
    a: float | None
    b: float | None

    @property
    def difference(self) -> float | None:
        return None if self.a is None or self.b is None else self.b - self.a


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Two runs side by side."""

    a: Account
    b: Account
    pairs: int
    only_a: int  #: connections of A that B did not attempt
    only_b: int
    lost_in_both: int
    other_cause: int  #: of these, those with another cause
    windows: tuple[Window, ...]
    figures: tuple[FigureDifference, ...]
    notes: tuple[str, ...]

    def lost_only(self, side: str) -> int:
        """How many connections the run ``a`` or ``b`` alone lost."""
        return sum(window.connections for window in self.windows if window.lost_in == side)


def ended_of(connections: Iterable[Connection]) -> tuple[Ended, ...]:
    """Return the connections of a run log as a comparison reads them."""
    return tuple(
        Ended(c.at_ns, c.traffic, c.client, c.service, c.node, c.disposition.value, c.cause.value, c.endpoint_node)
        for c in connections
    )
