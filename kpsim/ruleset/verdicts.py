"""Verdicts: how a rule, or an element of a verdict map, decides where a packet goes on."""

import enum

from kpsim.valueclass import dataclass


class Verdict(enum.StrEnum):
    """What a chain decides. ACCEPT means "go on to the next hook entry". RETURN in a base chain applies its policy.

    CONTINUE, which elements of verdict maps use, means "go on to the next rule".
    """

    ACCEPT = "ACCEPT"
    DROP = "DROP"
    RETURN = "RETURN"
    CONTINUE = "CONTINUE"


@dataclass(frozen=True, slots=True)
class Terminal:
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Jump:
    chain: str


@dataclass(frozen=True, slots=True)
class Goto:
    """A jump from which the packet does not come back to this chain."""

    chain: str


ACCEPT = Terminal(Verdict.ACCEPT)
DROP = Terminal(Verdict.DROP)
RETURN = Terminal(Verdict.RETURN)
CONTINUE = Terminal(Verdict.CONTINUE)
