"""What is said about a value: what it costs, what it risks, or what one should know. Each with its section of the specification."""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kpsim.startup.situation import Situation


class Kind(enum.StrEnum):
    """How a remark is meant."""

    NOTE = "note"
    COSTS = "costs"
    RISK = "risk"


@dataclass(frozen=True, slots=True)
class Remark:
    kind: Kind
    words: str
    see: str = ""


Words = Callable[[Situation], str]
Remarks = Callable[[Situation], Iterator[Remark]]


def costs(words: str, see: str = "") -> Remark:
    return Remark(Kind.COSTS, words, see)


def risk(words: str, see: str = "") -> Remark:
    return Remark(Kind.RISK, words, see)


def note(words: str, see: str = "") -> Remark:
    return Remark(Kind.NOTE, words, see)


def nothing(_: Situation) -> Iterator[Remark]:
    """No remark."""
    yield from ()
