"""The search over seeds that the fuzzers of rules share: how long, from where, and what is done with what is found."""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

from kpsim.verify.clock import Clock

_CLOCK = Clock()
_MOST_FOUND = 50


class Found(Protocol):
    """A disagreement. ``why`` begins with a line that says it; ``file`` names and writes the rules that show it."""

    @property
    def why(self) -> str: ...
    def file(self) -> tuple[str, str]: ...


class Tally(Protocol):
    """What was compared so far, which ``str`` says, and what disagreed."""

    @property
    def found(self) -> Sequence[Found]: ...


def options(subject: str, description: str) -> argparse.ArgumentParser:
    """The options that all these fuzzers have."""
    parser = argparse.ArgumentParser(prog=f"fuzz {subject}", description=description)
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="how long (10)")
    parser.add_argument("--seed", type=int, metavar="N", help="the first seed (the clock's)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for rules that disagree")
    return parser


@dataclass(frozen=True)
class Rounds:
    """How long to search, the first seed (None: the clock's), and the folder for what disagrees."""

    minutes: float
    seed: int | None
    out: Path | None

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Rounds":
        return cls(given.minutes, given.seed, given.out)

    def search(self, fuzz: Callable[[int], None], tally: Tally, where: str = "") -> int:
        """Calls ``fuzz`` with seed after seed, and prints and writes what it adds to the tally.

        Returns the exit code: 0 if nothing was found, 1 if something was.
        """
        first = self.seed if self.seed is not None else int(time.time())  # noqa: TID251 - each run is to draw new rules
        print(f"from seed {first} on, for {self.minutes:g} minutes{where}", flush=True)
        begun_s = _CLOCK.now_s()
        shown = 0
        try:
            for seed in count(first):
                if _CLOCK.now_s() - begun_s >= self.minutes * 60 or len(tally.found) >= _MOST_FOUND:
                    break
                fuzz(seed)
                for found in tally.found[shown:]:
                    print(f"seed {seed}: {found}", flush=True)
                    self._write(seed, found)
                shown = len(tally.found)
        except KeyboardInterrupt:
            print("stopped by hand")
        print(f"{(_CLOCK.now_s() - begun_s) / 60:.1f} minutes: {tally}")
        return 1 if tally.found else 0

    def _write(self, seed: int, found: Found) -> None:
        if self.out is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        name, text = found.file()
        (self.out / f"seed-{seed}-{name}").write_text(f"# {found.why.splitlines()[0]}\n{text}", encoding="utf-8")
