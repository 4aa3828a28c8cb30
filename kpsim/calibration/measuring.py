"""Plays the syncs of clusters of several sizes through this machine's tools, within a bounded time.

Each step is repeated in new namespaces; the shortest repetition counts, without the time that it waited for a processor.
"""

import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from kpsim.backends.work import Act, Tool
from kpsim.calibration.clusters import Size, Syncs, mode_calling, syncs
from kpsim.calibration.fitting import Fit, Sample, fitted
from kpsim.calibration.subjects import Step, Subject, obstacle, subjects, versions
from kpsim.lab.calls import LabError
from kpsim.lab.namespace import Namespace
from kpsim.lab.timing import NO_TIME, Timing, timed
from kpsim.units import SECOND_NS

#: told what is measured now, and the share of the time that is over
Progress = Callable[[str, float], None]

_LEAST_REPETITIONS, _MOST_REPETITIONS = 2, 5
_LEAST_LIMIT_S = 10.0  #: after which a command is ended, however little time there is
#: by which powers of the objects a cluster's time is taken to grow at least and at most, to see whether it still has room
_SLOWEST, _FASTEST = 1.0, 2.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One step in one cluster: how long it took at the shortest."""

    step: str
    size: Size
    sample: Sample
    timing: Timing
    repetitions: int


@dataclass(slots=True)
class ToolResult:
    """What was measured of a tool."""

    subject: Subject
    version: str
    measured: list[Measured] = field(default_factory=list)
    failed: dict[Size, str] = field(default_factory=dict)  #: why a cluster could not be measured

    def fits(self) -> Iterator[tuple[Act, Fit]]:
        """Yield the prices of each kind of calls that was measured."""
        for act in Act:
            if samples := [each.sample for each in self.measured if each.sample.call.act is act]:
                yield act, fitted(samples)


@dataclass(slots=True)
class Calibration:
    """What a calibration found, and where."""

    kernel: str
    cpu: str
    processors: int
    results: list[ToolResult] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)
    sizes: list[Size] = field(default_factory=list)
    left_out: list[Size] = field(default_factory=list)  #: for want of time
    seconds: float = 0.0


def measure(sizes: Sequence[Size], seconds: float, progress: Progress = lambda *_: None) -> Calibration:
    """Measure all tools that this machine has. LabError if it has none.

    ``sizes`` are measured from the smallest; one that would not end within ``seconds`` is left out, the first never.
    """
    begun = time.perf_counter()

    def spent() -> float:
        return time.perf_counter() - begun

    found = Calibration(platform.release(), _cpu(), os.cpu_count() or 1)
    for subject in subjects():
        if why := obstacle(subject):
            found.not_measured[subject.key] = why
        else:
            found.results.append(ToolResult(subject, versions(subject)))
    if not found.results:
        raise LabError(_reasons(found))
    took: list[_Took] = []
    for size in sorted(sizes, key=_objects):
        if took and spent() + _expected(took, _objects(size)) > seconds:
            found.left_out.append(size)
            continue
        room = seconds / len(sizes) / len(found.results)
        told = partial(_tell, progress, spent, seconds)
        own, wall = _measure_size(size, found.results, told, room, max(_LEAST_LIMIT_S, seconds))
        found.sizes.append(size)
        took.append(_Took(_objects(size), own, wall))
    found.seconds = spent()
    for result in [each for each in found.results if not each.measured]:
        found.results.remove(result)
        found.not_measured[result.subject.key] = next(iter(result.failed.values()), "nothing took time")
    if not found.results:
        raise LabError(_reasons(found))
    return found


def _reasons(found: Calibration) -> str:
    return "; ".join(f"{tool}: {why}" for tool, why in found.not_measured.items())


def _tell(progress: Progress, spent: Callable[[], float], seconds: float, what: str) -> None:
    progress(what, min(1.0, spent() / seconds))


class _Took(NamedTuple):
    """What one repetition of all steps in a cluster took, in seconds."""

    objects: int
    own: float  #: of the machine without other work
    wall: float


def _expected(took: Sequence[_Took], objects: int) -> float:
    """Return the seconds that the least repetitions in a cluster will take, if it grows as it did last, or a little more."""
    last, power = took[-1], _SLOWEST
    if len(took) > 1 and last.objects > took[-2].objects:
        grown = math.log(last.own / took[-2].own) / math.log(last.objects / took[-2].objects)
        power = min(_FASTEST, max(_SLOWEST, grown + 0.2))
    return _LEAST_REPETITIONS * last.wall * float((objects / last.objects) ** power)


def _objects(size: Size) -> int:
    return size.services * (2 + size.endpoints)


def _measure_size(
    size: Size, results: Sequence[ToolResult], told: Callable[[str], None], room: float, limit_s: float
) -> tuple[float, float]:
    """Measure all tools, each for ``room`` seconds if it has not enough earlier.

    Return the seconds of one repetition: those of the steps, and those that went by.
    """
    made: dict[Tool, Syncs] = {}
    own = wall = 0.0
    for result in results:
        subject = result.subject
        told(f"{subject.key}, {size.services:,} Services of {size.endpoints} endpoints")
        begun = time.perf_counter()
        if subject.tool not in made:
            made[subject.tool] = syncs(size, mode_calling(subject.tool))
        wall += (time.perf_counter() - begun) / _LEAST_REPETITIONS
        begun = time.perf_counter()
        try:
            measured, repetitions = _repeated(subject, made[subject.tool], room, limit_s)
        except LabError as error:
            result.failed[size] = str(error)
            continue
        wall += (time.perf_counter() - begun) / repetitions
        own += sum(each.sample.ns for each in measured) / SECOND_NS
        result.measured += measured
    return own or wall, wall


def _repeated(subject: Subject, prepared: Syncs, room: float, limit_s: float) -> tuple[list[Measured], int]:
    """Return the shortest times, and how often everything was done."""
    steps = list(subject.steps(prepared))
    best: list[Timing | None] = [None] * len(steps)
    begun = time.perf_counter()
    repetitions, over = 0, 0.0
    while repetitions < _MOST_REPETITIONS and (
        (repetitions < _LEAST_REPETITIONS and over < 2 * room) or over * (repetitions + 1) / repetitions < room
    ):
        for number, timing in enumerate(_played(subject, steps, limit_s)):
            known = best[number]
            if known is None or timing.own_ns < known.own_ns:
                best[number] = timing
        repetitions += 1
        over = time.perf_counter() - begun
    found = [
        Measured(step.name, prepared.size, Sample(step.call, timing.own_ns), timing, repetitions)
        for step, timing in zip(steps, best, strict=True)
        if step.call is not None and timing is not None and timing.own_ns > 0
    ]
    return found, repetitions


def _played(subject: Subject, steps: Sequence[Step], limit_s: float) -> Iterator[Timing]:
    """Play all steps in a new namespace and yield the time of each."""
    namespace = Namespace()
    try:
        subject.prepare(namespace)
        for step in steps:
            calls = (timed(namespace, each.words, each.stdin, limit_s=limit_s) for each in step.commands)
            yield sum(calls, NO_TIME)
    finally:
        namespace.close()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model", "Processor")))
    return next(names, platform.machine())
