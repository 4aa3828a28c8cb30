"""Draws rulesets, seed after seed, and looks for those that the model takes and iptables-restore or the kernel refuses,
and for those that the model reads otherwise.

What it finds is printed and, with ``--out``, written to files that iptables-restore takes.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing

from fuzz.rounds import Rounds, options
from fuzz.ruleset_oracle import Oracle, RulesetTally, fuzz_document, fuzz_rules
from kpsim.addresses import Family
from kpsim.lab.requirements import obstacles
from kpsim.lab.tools.variants import Variant

_DOCUMENTS = 8  #: documents of a seed, beside its rules


def fuzz(oracles: Sequence[Oracle], seed: int, tally: RulesetTally) -> None:
    """Compares everything that follows from one seed, by every oracle."""
    for oracle in oracles:
        fuzz_rules(oracle, seed, tally)
        for number in range(_DOCUMENTS):
            fuzz_document(oracle, seed * _DOCUMENTS + number, tally)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 if nothing was found, 1 if something was, 2 if this machine has no iptables to ask."""
    parser = options("rulesets", "Random rulesets in the model and in iptables.")
    parser.add_argument(
        "--backend", type=Variant, choices=list(Variant), help="of iptables (those that this machine has)"
    )
    given = parser.parse_args(arguments)
    variants = [given.backend] if given.backend else list(Variant)
    missing = {each: obstacles(each) for each in variants}
    usable = [variant for variant, found in missing.items() if not found]
    if not usable:
        print("\n".join(str(each) for found in missing.values() for each in found), file=sys.stderr)
        return 2
    tally = RulesetTally()
    with ExitStack() as made:
        oracles = [made.enter_context(closing(Oracle(family, variant))) for family in Family for variant in usable]
        return Rounds.of(given).search(
            lambda seed: fuzz(oracles, seed, tally), tally, where=f", with {' and '.join(usable)}"
        )
