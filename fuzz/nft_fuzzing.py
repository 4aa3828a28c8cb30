"""Draws rules of nft, seed after seed, and looks for those that the model takes and nft or the kernel refuses, and for those
that the model reads otherwise than the kernel lists them.

What it finds is printed and, with ``--out``, written to files that nft takes.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import count
from pathlib import Path

from fuzz.nft_oracle import Disagreement, NftOracle, NftTally, Place, fuzz_place
from fuzz.nft_words import PLACES
from kpsim.lab.calls import LabError
from kpsim.verify.clock import Clock

_CLOCK = Clock()
_MOST_FOUND = 50


def missing() -> str | None:
    """What this machine lacks; None: nft can be asked."""
    if shutil.which("nft") is None:
        return "there is no nft"
    try:
        with closing(NftOracle()) as oracle:
            return oracle.complaint("add table ip t\n")
    except (LabError, OSError) as error:
        return f"no namespace can be made: {error}"


def fuzz(oracle: NftOracle, seed: int, tally: NftTally, count: int) -> None:
    """Compares ``count`` rules of each place, which all follow from one seed."""
    for place in PLACES:
        fuzz_place(oracle, Place(*place), seed, tally, count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if nothing was found, 1 if something was, 2 if this machine has no nft to ask."""
    parser = argparse.ArgumentParser(prog="fuzz nft", description="Random rules of nft in the model and in nft.")
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="how long (10)")
    parser.add_argument("--seed", type=int, metavar="N", help="the first seed (the clock's)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for rules that disagree")
    given = parser.parse_args(arguments)
    if (lacking := missing()) is not None:
        print(lacking, file=sys.stderr)
        return 2
    first = given.seed if given.seed is not None else int(time.time())  # noqa: TID251 - each run is to draw new rules
    print(f"from seed {first} on, for {given.minutes:g} minutes", flush=True)
    tally, shown = NftTally(), 0
    begun_s = _CLOCK.now_s()
    with closing(NftOracle()) as oracle:
        try:
            for seed in count(first):
                if _CLOCK.now_s() - begun_s >= given.minutes * 60 or len(tally.found) >= _MOST_FOUND:
                    break
                fuzz(oracle, seed, tally, 40)
                for found in tally.found[shown:]:
                    print(f"seed {seed}: {found}", flush=True)
                    _write(given.out, seed, found)
                shown = len(tally.found)
        except KeyboardInterrupt:
            print("stopped by hand")
    print(f"{(_CLOCK.now_s() - begun_s) / 60:.1f} minutes: {tally}")
    return 1 if tally.found else 0


def _write(folder: Path | None, seed: int, found: Disagreement) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    name = f"seed-{seed}-{'-'.join(found.place)}.nft"
    (folder / name).write_text(f"# {found.why.splitlines()[0]}\n{found.place.document([found.rule])}", encoding="utf-8")
