"""Draws sequences of faults, seed after seed, and asks whether each node's rules are right long after the last one (``fuzz.convergence``).

A sequence that leaves something is made as short as it can be, printed, and with ``--out`` written as a scenario.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

from fuzz.convergence import differences, duration_ms, large_clusters_from
from fuzz.fault_drawing import Json, draw_scenario, shorter
from fuzz.rounds import Rounds, options
from kpsim.config import Mode
from kpsim.verify.drawing.choices import SeededChoices

_LARGE_FROM = 2  #: endpoints, where clusters are to count as large

#: what is played: a name, the mode, and whether every cluster counts as large
KINDS = (*((mode.value, mode.value, False) for mode in Mode), ("large", Mode.IPTABLES.value, True))


@dataclass(frozen=True)
class Left:
    """A scenario of a mode after which something is not as it should be."""

    kind: str
    seed: int
    scenario: Json
    differences: tuple[str, ...]

    @property
    def why(self) -> str:
        return f"{self.kind}: {self.differences[0]}"

    def file(self) -> tuple[str, str]:
        return f"{self.kind}.yaml", json.dumps(self.scenario, indent=1)  # JSON is YAML

    def __str__(self) -> str:
        events = "\n".join(f"  {json.dumps(event)}" for event in self.scenario["events"])
        return f"{self.why}\n{events}"


@dataclass
class Plays:
    """What was played so far."""

    played: int = 0
    found: list[Left] = field(default_factory=list)

    def play(self, seed: int) -> None:
        """Play a seed's scenario in every mode."""
        for kind in KINDS:
            self.found += left(seed, *kind)
            self.played += 1

    def __str__(self) -> str:
        return f"{self.played:,} plays, {len(self.found)} did not converge"


def left(seed: int, kind: str, mode: str, large: bool) -> Iterator[Left]:
    """Play one scenario. Yield it, made short, if it leaves something."""
    lasts_ms = duration_ms(mode)
    scenario = draw_scenario(SeededChoices(seed, "faults"), duration_ms=lasts_ms)
    if large:  # nothing repairs everything by itself, so a restart has to (I-13.2)
        scenario["events"].append({"at": f"{lasts_ms - 60_000}ms", "restartProxy": {}})
    with large_clusters_from(_LARGE_FROM) if large else nullcontext():
        found = differences(scenario, mode)
        if not found:
            return
        number = 0
        while number < len(scenario["events"]) - large:
            less = shorter(scenario, number)
            if fewer := differences(less, mode):
                scenario, found = less, fewer
            else:
                number += 1
    yield Left(kind, seed, scenario, tuple(found))


def main(arguments: list[str]) -> int:
    """Search for as long as the options say. Return the exit code."""
    given = options("faults", __doc__ or "").parse_args(arguments)
    plays = Plays()
    return Rounds.of(given).search(plays.play, plays, f" in {', '.join(kind for kind, *_ in KINDS)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
