"""Which syncs fail because the scenario says so.

Counterpart: a locked xtables, a bad ruleset. It never knows what a sync would have done.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class SyncFaults:
    """Failures in store for one node: a number of syncs, and a time until which every one fails."""

    left: int = 0
    until_ns: int = 0

    def refuse(self, now_ns: int) -> bool:
        """Whether the sync that starts now fails; uses up one of the counted failures."""
        if now_ns < self.until_ns:
            return True
        if self.left > 0:
            self.left -= 1
            return True
        return False
