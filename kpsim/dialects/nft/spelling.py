"""What the text of a rule says beside its value, so that a rule is written again as it was read."""

from collections.abc import Iterable
from typing import NamedTuple


class Note(NamedTuple):
    """Words that stand at a part of a rule's body, in text that is sent."""

    at: int  #: the place of the part in the body
    words: str


Spelling = tuple[Note, ...]


def in_braces(at: int, words: Iterable[str], separator: str = " , ") -> Spelling:
    """The spelling of a rule whose part ``at`` compares with a list that is written in this order and with braces.

    The value has the same list sorted and merged, as the kernel holds it. kube-proxy separates source ranges with a
    comma between blanks, and service CIDRs with a comma alone (NFT-5.9, NFT-6.8).
    """
    return (Note(at, f"{{ {separator.join(words)} }}"),)
