"""Plays random clusters, probes and sequences, seed after seed, and looks for anything that the model and Linux do
differently.

A disagreement is played again, made small and written to a file as a case. The output has one line for each seed.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

from fuzz.cases import Case, CaseResult, play, write_case
from fuzz.shrinking import shrunk
from kpsim.config import DEFAULT_MODE, Mode
from kpsim.errors import KpsimError
from kpsim.explore import Cluster, load
from kpsim.lab.calls import LabError
from kpsim.lab.requirements import obstacles
from kpsim.lab.tools.variants import Variant
from kpsim.units import MILLISECOND_NS
from kpsim.verify.clock import Clock
from kpsim.verify.drawing.choices import Choices, SeededChoices, chance, pick
from kpsim.verify.drawing.circumstances import SETTINGS
from kpsim.verify.drawing.clusters import draw_manifest
from kpsim.verify.drawing.probes import draw_probes
from kpsim.verify.sequences.drawing import draw_sequence
from kpsim.verify.subjects import Subject, check_verifiable, cluster_subjects

_CLOCK = Clock()
_PROBES, _STEPS, _SEQUENCES = 150, 70, 2  # probes and steps of a case, and sequences of a seed
_TRIES = 3  #: a disagreement that cannot be repeated so often is called passing: Linux draws endpoints and ports
_SHRINK_S = 90  #: seconds to make a case smaller
_DIGITS = re.compile(r"[0-9a-f:.]*[0-9][0-9a-f:.]*")  # numbers and addresses
#: a short wait, and one that outlasts the shortest timeouts and affinities and makes UDP flows streams (CT-5.1)
WAITS_NS = (10 * MILLISECOND_NS, 2100 * MILLISECOND_NS)


def draw_case(
    choices: Choices, cluster: Cluster, subject: Subject, manifest: str, steps: int,
    waits_ns: Sequence[int] = WAITS_NS,
) -> Case:  # fmt: skip
    """A random sequence at the subject's node, in half of all cases with random settings."""
    sysctls = pick(choices, SETTINGS) if chance(choices, 50) else {}
    random_fully = not chance(choices, 20)
    found = draw_sequence(
        choices, subject.site, subject.node, subject.family, steps, cluster.state, waits_ns=waits_ns
    )  # fmt: skip
    return Case(
        manifest, subject.node, subject.family, steps=tuple(found), sysctls=sysctls, random_fully=random_fully
    )  # fmt: skip


@dataclass
class FuzzTally:
    """Counts of what was done so far."""

    clusters: int = 0
    sequences: int = 0
    probes: int = 0
    packets: int = 0  #: packets of sequences, and answers to probes
    unmeasured: int = 0  #: cases that could not be measured
    passing: int = 0  #: disagreements that could not be repeated
    repeated: int = 0  #: disagreements that look like one that is a case already
    cases: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.clusters} clusters, {self.probes + self.packets} packets, {self.sequences} sequences"


def tried(case: Case, variant: Variant) -> CaseResult:
    """Plays a case. An exception in the model counts as a disagreement."""
    try:
        return play(case, variant)
    except KpsimError:
        raise
    except Exception as error:
        return CaseResult((f"{type(error).__name__}: {error}",), steps=len(case.steps))


class Suspect(NamedTuple):
    """A disagreement that was seen once and not yet played again."""

    case: Case
    variant: Variant
    finding: tuple[str, ...]


class Fuzzer:
    """Draws and plays cases, and writes those that disagree into ``folder``. ``say`` is called with each line of
    output.
    """

    def __init__(
        self, variants: Sequence[Variant], folder: Path, say: Callable[[str], None], mode: Mode = DEFAULT_MODE
    ) -> None:
        self.tally = FuzzTally()
        self._variants, self._folder, self._say, self._mode = tuple(variants), folder, say, mode
        self._known: set[str] = set()

    def seed(self, number: int) -> None:
        """Plays everything that follows from one seed: a cluster, probes at one of its nodes, and sequences there."""
        choices = SeededChoices(number, "fuzz")
        manifest = draw_manifest(SeededChoices(number, "cluster"), self._mode)
        cluster = load(text=manifest)
        subject = pick(choices, list(cluster_subjects(cluster)))
        variant = pick(choices, self._variants)
        name = f"seed {number}: {subject.name}, {variant}"
        drawn = SeededChoices(number, "probes")
        probes = draw_probes(drawn, subject.site, subject.node, subject.family, _PROBES, subject.services)
        sysctls = pick(drawn, SETTINGS) if chance(drawn, 50) else {}
        cases = [Case(manifest, subject.node, subject.family, tuple(probes), sysctls=sysctls)]
        for each in range(_SEQUENCES):
            cases.append(draw_case(SeededChoices(number, "sequence", each), cluster, subject, manifest, _STEPS))
        words = []
        for case in cases:
            try:
                if found := self._play(case, variant):
                    words.append(self._look_closer(number, found))
            except LabError as error:
                self.tally.unmeasured += 1
                words.append(f"nothing measured: {str(error).splitlines()[0]}")
        self.tally.clusters += 1
        self._say(f"{name}: {'; '.join(words) or 'agreed'} (so far {self.tally})")

    def _play(self, case: Case, variant: Variant) -> Suspect | None:
        result = tried(case, variant)
        if case.probes:
            self.tally.probes += len(case.probes)
            self.tally.packets += max(result.packets - len(case.probes), 0)
        else:
            self.tally.sequences += 1
            self.tally.packets += result.packets
            case = replace(case, steps=case.steps[: result.steps])
        return Suspect(case, variant, result.finding) if result.finding else None

    def _look_closer(self, number: int, found: Suspect) -> str:
        """Plays a suspect again, makes it small and writes it to a file. Returns the result in a few words."""

        def fails(case: Case) -> bool:
            try:
                return bool(tried(case, found.variant).finding)
            except LabError:
                return False

        self._say(f"seed {number}: {' | '.join(found.finding)}")
        if not any(fails(found.case) for _ in range(_TRIES)):
            self.tally.passing += 1
            return "not seen again"
        until_s = _CLOCK.now_s() + _SHRINK_S
        case = shrunk(found.case, fails, lambda: _CLOCK.now_s() < until_s)
        finding = tried(case, found.variant).finding or found.finding
        shape = _DIGITS.sub("", finding[-1])
        if shape in self._known:
            self.tally.repeated += 1
            return f"DISAGREED once more: {finding[-1]}"
        self._known.add(shape)
        file = self._write(number, case, found.variant, finding)
        return "\n  ".join([f"DISAGREED: {file}", *finding])

    def _write(self, number: int, case: Case, variant: Variant, finding: Sequence[str]) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"seed-{number}-{'probes' if case.probes else 'steps'}.yaml"
        write_case(replace(case, about="\n".join([f"{variant}:", *finding, ""])), file)
        self.tally.cases.append(file)
        return file


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if nothing was found, 1 if something was, 2 if this machine cannot be a lab."""
    parser = argparse.ArgumentParser(description="Random clusters, probes and sequences in the model and in Linux.")
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="how long (10)")
    parser.add_argument("--seed", type=int, metavar="N", help="the first seed (the clock's)")
    parser.add_argument(
        "--backend", type=Variant, choices=list(Variant), help="of iptables (those that this machine has)"
    )
    parser.add_argument("--mode", type=Mode, default=DEFAULT_MODE, metavar="MODE", help="of kube-proxy (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path("tests/kernel/cases"), metavar="FOLDER", help="for cases (%(default)s)"
    )
    given = parser.parse_args(arguments)
    check_verifiable(given.mode)
    missing = {each: obstacles(each) for each in ([given.backend] if given.backend else Variant)}
    variants = [variant for variant, found in missing.items() if not found]
    if not variants:
        print("\n".join(str(each) for found in missing.values() for each in found), file=sys.stderr)
        return 2
    begun_s = _CLOCK.now_s()
    first = given.seed if given.seed is not None else int(time.time())  # noqa: TID251 - each run is to draw new clusters
    print(
        f"from seed {first} on, for {given.minutes:g} minutes, mode {given.mode}, with {' and '.join(variants)}",
        flush=True,
    )
    fuzzer = Fuzzer(variants, given.out, partial(print, flush=True), given.mode)
    stopped = ""
    try:
        for number in count(first):
            if _CLOCK.now_s() - begun_s >= given.minutes * 60:
                break
            fuzzer.seed(number)
    except KeyboardInterrupt:
        stopped = ", stopped by hand"
    print(summary(fuzzer.tally, _CLOCK.now_s() - begun_s) + stopped)
    return 1 if fuzzer.tally.cases else 0


def summary(tally: FuzzTally, seconds: float) -> str:
    """The last line of output."""
    minutes = f"{seconds / 60:.1f} minutes: {tally}"
    notes = f", {tally.unmeasured} not measured" if tally.unmeasured else ""
    notes += f", {tally.passing} disagreements that were not seen again" if tally.passing else ""
    if not tally.cases:
        return f"{minutes}, without a disagreement{notes}"
    more = f" and {tally.repeated} like them" if tally.repeated else ""
    return f"{minutes}, {len(tally.cases)} disagreements{more}{notes}: {', '.join(map(str, tally.cases))}"
