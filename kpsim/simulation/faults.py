"""The syncs that fail because the scenario says so.

Counterpart: a locked xtables, a ruleset that iptables-restore refuses.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class SyncFaults:
    """The failures planned for one node: a number of syncs, and a time until which every sync fails."""

    left: int = 0
    until_ns: int = 0

    def refuse(self, now_ns: int) -> bool:
        """Return whether the sync that starts now fails. It uses up one of the counted failures."""
        if now_ns < self.until_ns:
            return True
        if self.left > 0:
            self.left -= 1
            return True
        return False
