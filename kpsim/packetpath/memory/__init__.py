"""What a node's kernel remembers about packets, except connections (those are in ``conntrack.ConntrackTable``).

A walk reads the memory and makes its own changes on copies. ``commit`` repeats them on the memory itself; nothing else
changes it.
"""

from collections.abc import Callable, Hashable, Iterable
from copy import deepcopy
from typing import NamedTuple

from kpsim.ipvs.connections import IpvsTable, Touch
from kpsim.packetpath.memory.dynamic_sets import DynamicSets, SetId, SetTouch
from kpsim.packetpath.memory.icmp_limiter import IcmpLimiter, IcmpSpending
from kpsim.packetpath.memory.limit import Bucket
from kpsim.packetpath.memory.recent import RecentLists, RecentTouch

__all__ = [
    "NOTHING_TOUCHED",
    "Bucket",
    "DynamicSets",
    "IcmpLimiter",
    "IcmpSpending",
    "Memory",
    "RecentLists",
    "RecentTouch",
    "SetId",
    "SetTouch",
    "Touched",
]


class Touched(NamedTuple):
    """What one packet leaves in the memory of its node."""

    recent: tuple[RecentTouch, ...] = ()
    counters: tuple[tuple[str, int], ...] = ()  #: counter object and the packet's length in bytes
    icmp: IcmpSpending | None = None
    buckets: tuple[tuple[Hashable, Bucket], ...] = ()  #: what rules with a limit have left
    sets: tuple[SetTouch, ...] = ()
    numbers: tuple[tuple[Hashable, int], ...] = ()  #: the last number of a counter, and those of an unknown hash
    #: buckets, numbers, lists with a source, and sets with a key, that a rule may have changed (``worlds``)
    unsure: frozenset[Hashable] = frozenset()
    ipvs: Touch | None = None  #: of ip_vs' connections


NOTHING_TOUCHED = Touched()


class Memory:
    """The memory of one network namespace: affinity lists, members of sets, buckets of limits, counters, the budget of
    ICMP errors.
    """

    def __init__(self) -> None:
        self.recent = RecentLists()
        self.buckets: dict[Hashable, Bucket] = {}  #: what rules with a limit have left
        self.sets = DynamicSets()
        #: rule → the last number of its counter; rule and values → the number that a hash with an unknown seed gave them
        self.numbers: dict[Hashable, int] = {}
        self.unsure: set[Hashable] = set()  #: it is not known what these hold: see ``Touched.unsure``
        self.counters: dict[str, tuple[int, int]] = {}  #: counter object → packets, bytes
        self.icmp_limiter: IcmpLimiter | None = None  #: None: every ICMP error is sent
        self.ipvs = IpvsTable()

    def copy(self) -> "Memory":
        """The same memory. What changes in one of the two does not change in the other."""
        other = Memory()
        other.recent = self.recent.copy()
        other.sets = self.sets.copy()
        other.buckets, other.counters, other.numbers = dict(self.buckets), dict(self.counters), dict(self.numbers)
        other.unsure = set(self.unsure)
        other.icmp_limiter = deepcopy(self.icmp_limiter)
        other.ipvs = self.ipvs.copy()
        return other

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing by which a rule could tell one moment from another."""
        return not (self.recent or self.sets or self.buckets or self.numbers or self.unsure or self.ipvs)

    def commit(self, touched: Touched, now_ns: int) -> None:
        """Applies what a packet has changed at this time."""
        if touched.ipvs is not None:
            self.ipvs.commit(touched.ipvs, now_ns)
        for touch in touched.recent:
            self.recent.commit(touch)
        for change in touched.sets:
            self.sets.commit(change)
        self.buckets.update(touched.buckets)
        self.numbers.update(touched.numbers)
        self.unsure |= touched.unsure
        for name, size in touched.counters:
            packets, total = self.counters.get(name, (0, 0))
            self.counters[name] = packets + 1, total + size
        if touched.icmp is not None and self.icmp_limiter is not None:
            self.icmp_limiter.commit(touched.icmp)

    def retain(self, recent_lists: Callable[[], Iterable[str]], generation: Callable[[SetId], int | None]) -> None:
        """Forgets what no rule and no set uses any longer (K-4.2).

        ``recent_lists`` is asked only if there is a list to forget, ``generation`` for each set that has members.
        """
        self.recent.retain(recent_lists)
        self.sets.retain(generation)
