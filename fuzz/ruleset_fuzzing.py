"""Draws rulesets, seed after seed, and looks for those that the model takes and iptables-restore or the kernel refuses,
and for those that the model reads otherwise.

What it finds is printed and, with ``--out``, written to files that iptables-restore takes.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

from fuzz.ruleset_oracle import Disagreement, Oracle, RulesetTally, fuzz_document, fuzz_rules
from kpsim.addresses import Family
from kpsim.lab.requirements import obstacles
from kpsim.lab.tools.variants import Variant
from kpsim.verify.clock import Clock

_CLOCK = Clock()
_DOCUMENTS = 8  #: documents of a seed, beside its rules
_MOST_FOUND = 50


def fuzz(oracles: Sequence[Oracle], seed: int, tally: RulesetTally) -> None:
    """Compares everything that follows from one seed, by every oracle."""
    for oracle in oracles:
        fuzz_rules(oracle, seed, tally)
        for number in range(_DOCUMENTS):
            fuzz_document(oracle, seed * _DOCUMENTS + number, tally)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if nothing was found, 1 if something was, 2 if this machine has no iptables to ask."""
    parser = argparse.ArgumentParser(prog="fuzz rulesets", description="Random rulesets in the model and in iptables.")
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="how long (10)")
    parser.add_argument("--seed", type=int, metavar="N", help="the first seed (the clock's)")
    parser.add_argument(
        "--backend", type=Variant, choices=list(Variant), help="of iptables (those that this machine has)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for rulesets that disagree")
    given = parser.parse_args(arguments)
    variants = [given.backend] if given.backend else list(Variant)
    missing = {each: obstacles(each) for each in variants}
    usable = [variant for variant, found in missing.items() if not found]
    if not usable:
        print("\n".join(str(each) for found in missing.values() for each in found), file=sys.stderr)
        return 2
    first = given.seed if given.seed is not None else int(time.time())  # noqa: TID251 - each run is to draw new rulesets
    print(f"from seed {first} on, for {given.minutes:g} minutes, with {' and '.join(usable)}", flush=True)
    tally, shown = RulesetTally(), 0
    begun_s = _CLOCK.now_s()
    with ExitStack() as made:
        oracles = [made.enter_context(closing(Oracle(family, variant))) for family in Family for variant in usable]
        try:
            for seed in count(first):
                if _CLOCK.now_s() - begun_s >= given.minutes * 60 or len(tally.found) >= _MOST_FOUND:
                    break
                fuzz(oracles, seed, tally)
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
    name = f"seed-{seed}-{found.variant}-ipv{found.family.value}.rules"
    (folder / name).write_text(f"# {found.why.splitlines()[0]}\n{found.text}", encoding="utf-8")
