"""What fails in a node's syncs because the scenario says so.

Counterpart: a ruleset that a tool refuses, a list that it cannot print, an xtables lock that another program holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kpsim.backends import NONE_REFUSED, Refusals, Stage
from kpsim.units import SECOND_NS

LOCK_WAIT_NS = 5 * SECOND_NS  #: ``-w 5`` (I-3.2, I-4.4)


@dataclass(slots=True)
class Failing:
    """The failures planned for one stage: a number of syncs, and a time until which every sync fails in it."""

    left: int = 0
    until_ns: int = 0

    def strikes(self, now_ns: int) -> bool:
        """Return whether the sync that starts now fails. It uses up one of the counted failures."""
        if now_ns < self.until_ns:
            return True
        if self.left > 0:
            self.left -= 1
            return True
        return False


class Met(NamedTuple):
    """What a sync meets: how long its tools wait for the lock, and what fails in it."""

    wait_ns: int
    refused: Refusals


NOTHING_MET = Met(0, NONE_REFUSED)


@dataclass(slots=True)
class SyncFaults:
    """The failures planned for one node."""

    rules: Failing = field(default_factory=Failing)
    stale: Failing = field(default_factory=Failing)
    locked_until_ns: int = 0  #: when the xtables lock is free again

    def meet(self, now_ns: int, locked: Sequence[Refusals]) -> Met:
        """Return what the sync that starts now meets. ``locked`` are its calls that wait for the lock (``Traits.locked``)."""
        refused = NONE_REFUSED
        if self.rules.strikes(now_ns):
            refused |= {Stage.RULES}
        if self.stale.strikes(now_ns):
            refused |= {Stage.STALE}
        begun_ns = now_ns
        for stages in locked:
            done_ns = self.locked_at(now_ns)
            if done_ns is None:
                refused, now_ns = refused | stages, now_ns + LOCK_WAIT_NS
            else:
                now_ns = done_ns
        return Met(now_ns - begun_ns, refused)

    def locked_at(self, now_ns: int) -> int | None:
        """Return when a tool that asks for the lock now has it. None: it waits in vain."""
        if self.locked_until_ns - now_ns > LOCK_WAIT_NS:
            return None
        return max(now_ns, self.locked_until_ns)
