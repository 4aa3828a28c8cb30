"""Draws rules of nft, seed after seed, and looks for those that the model takes and nft or the kernel refuses, and for those
that the model reads otherwise than the kernel lists them.

What it finds is printed and, with ``--out``, written to files that nft takes.
"""

import shutil
import sys
from collections.abc import Sequence
from contextlib import closing

from fuzz.nft_oracle import NftOracle, NftTally, Place, fuzz_place
from fuzz.nft_words import PLACES
from fuzz.rounds import Rounds, options
from kpsim.lab.calls import LabError

_RULES = 40  #: of a seed, in each place


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
    given = options("nft", "Random rules of nft in the model and in nft.").parse_args(arguments)
    if (lacking := missing()) is not None:
        print(lacking, file=sys.stderr)
        return 2
    tally = NftTally()
    with closing(NftOracle()) as oracle:
        return Rounds.of(given).search(lambda seed: fuzz(oracle, seed, tally, _RULES), tally)
