"""One family's canary on the clock: how kube-proxy in iptables mode notices that its chains are gone (I-14).

Every syncPeriod it looks a chain up in one table. If the look-up fails, because the chain is gone or because the tool waited for
the xtables lock in vain, it looks for up to 5 s whether the chains of the other tables are gone, too. Then it has all rules
written anew, and creates the chains again.
"""

from collections.abc import Callable, Sequence

from kpsim.backends import Canary
from kpsim.programmed import Programmed
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.faults import LOCK_WAIT_NS, SyncFaults
from kpsim.units import MILLISECOND_NS, SECOND_NS

POLL_NS = 100 * MILLISECOND_NS
PATIENCE_NS = 5 * SECOND_NS


class CanaryWatch:
    """The looks of one process. No look is planned as long as it could only find that all is well.

    ``held`` returns what the kernel holds. ``resync`` writes all rules anew outside the runner, and calls back when that is
    over. ``plant`` creates the chains. ``alive`` says whether the process still runs.
    """

    def __init__(
        self,
        clock: Clock,
        subject: str,
        canary: Canary,
        faults: SyncFaults,
        *,
        first_look_ns: int,
        period_ns: int,
        held: Callable[[], Programmed],
        resync: Callable[[Callable[[], None]], None],
        plant: Callable[[], None],
        alive: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._subject = subject
        self._canary = canary
        self._faults = faults
        self._look_ns = first_look_ns  #: the time of a look; the others are whole periods apart from it
        self._period_ns = period_ns
        self._held = held
        self._resync = resync
        self._plant = plant
        self._alive = alive
        self._watching = False  #: a look is planned, or what follows from one is under way
        if faults.locked_until_ns > clock.now_ns:
            self.disturbed()

    def disturbed(self) -> None:
        """Take note that something may have happened to the chains, or to the tools that look for them."""
        if not self._watching:
            self._watching = True
            late_ns = max(0, self._clock.now_ns - self._look_ns)
            self._look_ns += -(-late_ns // self._period_ns) * self._period_ns
            self._plan(self._look_ns, self._look)

    def _plan(self, at_ns: int, action: Callable[[], None]) -> None:
        self._clock.at(at_ns, Rank.SYNC_START, self._subject, lambda: action() if self._alive() else None)

    def _look(self) -> None:
        now_ns = self._clock.now_ns
        has_lock_ns = self._faults.locked_at(now_ns)
        if has_lock_ns is None:
            self._wait_for_others(now_ns + LOCK_WAIT_NS)
        elif has_lock_ns > now_ns:
            self._plan(has_lock_ns, self._look)
        elif self._canary.tables[0] in self._canary.missing(self._held()):
            self._wait_for_others(now_ns)
        else:
            self._rest(self._look_ns + self._period_ns)

    def _rest(self, look_ns: int) -> None:
        """Wait for the next look, which is planned only if the lock will be held then."""
        self._look_ns = look_ns
        self._watching = self._faults.locked_until_ns > look_ns
        if self._watching:
            self._plan(look_ns, self._look)

    def _wait_for_others(self, from_ns: int) -> None:
        self._plan(from_ns, lambda: self._poll(self._canary.tables[1:], from_ns + PATIENCE_NS))

    def _poll(self, tables: Sequence[str], until_ns: int) -> None:
        """Look the chain up in the remaining tables. One that is there means another poll a little later."""
        now_ns = self._clock.now_ns
        if not tables:
            self._resync(self._settle)
            return
        has_lock_ns = self._faults.locked_at(now_ns)
        if has_lock_ns is None:
            self._plan(now_ns + LOCK_WAIT_NS, lambda: self._poll(tables[1:], until_ns))
        elif has_lock_ns > now_ns:
            self._plan(has_lock_ns, lambda: self._poll(tables, until_ns))
        elif tables[0] in self._canary.missing(self._held()):
            self._poll(tables[1:], until_ns)
        elif now_ns >= until_ns:
            self._resync(self._settle)
        else:
            self._plan(min(now_ns + POLL_NS, until_ns), lambda: self._poll(self._canary.tables[1:], until_ns))

    def _settle(self) -> None:
        """Create the chains, now or as soon as the tools can."""
        now_ns = self._clock.now_ns
        has_lock_ns = self._faults.locked_at(now_ns)
        if has_lock_ns == now_ns:
            self._plant()
            self._rest(now_ns + self._period_ns)
        else:
            self._plan(has_lock_ns or now_ns + self._period_ns, self._settle)
