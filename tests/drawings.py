"""Drawn clusters by seed, and choices made by a script or by Hypothesis."""

from functools import cache

from hypothesis import strategies as st

from kpsim.addresses import Family, parse_ip
from kpsim.config import DEFAULT_MODE, Mode
from kpsim.explore import Cluster, load
from kpsim.verify.drawing.choices import SeededChoices
from kpsim.verify.drawing.clusters import draw_manifest


class Scripted:
    """Choices given beforehand, then 0. ``limits`` records the limits that were asked for."""

    def __init__(self, *script: int) -> None:
        self._script = list(script)
        self.limits: list[int] = []

    def below(self, limit: int) -> int:
        self.limits.append(limit)
        return self._script.pop(0) if self._script else 0


class Hypothetical:
    """Choices that Hypothesis makes and shrinks."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def below(self, limit: int) -> int:
        return self._data.draw(st.integers(0, limit - 1))


@cache
def manifest(seed: int, mode: Mode = DEFAULT_MODE) -> str:
    return draw_manifest(SeededChoices(seed, "cluster"), mode)


@cache
def cluster(seed: int, mode: Mode = DEFAULT_MODE) -> Cluster:
    return load(text=manifest(seed, mode))


def parsed(text: str) -> tuple[Family, int]:
    found = parse_ip(text)
    assert found is not None
    return found
