"""One run of a sweep, as its figures: what workers compute, and what is kept of it."""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kpsim.errors import KpsimError
from kpsim.reports.figures import AtLeast, Figures, figures
from kpsim.scenario import Scenario
from kpsim.simulation import run
from kpsim.sweeping.identity import program


@dataclass(frozen=True, slots=True)
class Task:
    """A run to be made. ``key`` is its identity by content."""

    key: str
    scenario: Scenario
    seed: int


class OtherProgram(KpsimError):
    """A worker has another kpsim, whose figures are not those of this one."""


def figures_of(scenario: Scenario, seed: int) -> Figures:
    """Run a scenario with a seed, and return its figures."""
    return figures(run(scenario, seed=seed))


def perform(scenario: Scenario, seed: int, expected: str) -> bytes:
    """Run as :func:`figures_of` does, in another process. OtherProgram if its kpsim is not the ``expected`` one."""
    if program() != expected:
        raise OtherProgram(f"a worker has kpsim {program()}, expected {expected}: install the same on all")
    return packed(figures_of(scenario, seed))


def packed(found: Figures) -> bytes:
    """Return figures as bytes to be kept. Undefined ones and lower bounds stay what they are."""
    return zlib.compress(json.dumps({name: _written(value) for name, value in found.items()}).encode(), 1)


def unpacked(content: bytes) -> Figures:
    """Read what :func:`packed` wrote. ValueError if it is damaged."""
    try:
        found = json.loads(zlib.decompress(content))
    except (zlib.error, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(found, Mapping):
        raise ValueError("no figures")
    return {name: _read(value) for name, value in found.items()}


def _written(value: int | float) -> Any:
    if isinstance(value, AtLeast):
        return [None if math.isnan(value) else float(value)]
    return None if math.isnan(value) else value


def _read(value: Any) -> int | float:
    match value:
        case None:
            return math.nan
        case [None]:
            return AtLeast(math.nan)
        case [bound]:
            return AtLeast(bound)
        case int() | float():
            return value
        case _:
            raise ValueError("no figure")
