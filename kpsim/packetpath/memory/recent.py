"""The lists of xt_recent: kube-proxy's ClientIP affinity in iptables mode (K-4, CT-8).

Counterpart: xt_recent. A list holds source addresses that were seen lately. It exists as long as some rule names it.
kube-proxy uses one list for each endpoint chain, but nothing here knows endpoints or Services.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.ruleset import Recent
from kpsim.units import SECOND_NS

Source = tuple[Family, int]  #: a list may hold sources of both families

LIST_SIZE = 100  #: ip_list_tot, the module's default: sources per list
_STAMPS = 256  # more than any hitcount that the module accepts


class RecentTouch(NamedTuple):
    """One evaluation of a ``recent`` match that may have changed its list."""

    match: Recent
    source: Source
    now_ns: int


class RecentList:
    """Sources from the least to the most recently set, each with its time stamps."""

    def __init__(self, stamps: Iterable[tuple[Source, tuple[int, ...]]] = ()) -> None:
        self._stamps: dict[Source, tuple[int, ...]] = dict(stamps)

    def __contains__(self, source: Source) -> bool:
        return source in self._stamps

    def __len__(self) -> int:
        return len(self._stamps)

    def __iter__(self) -> Iterator[Source]:
        return iter(self._stamps)

    def copy(self) -> "RecentList":
        return RecentList(self._stamps.items())

    def touch(self, match: Recent, source: Source, now_ns: int) -> bool:
        """Applies a match to the list and returns whether the match is true, ``negate`` included (K-4, CT-8.1)."""
        stamps = self._stamps.get(source)
        if stamps is None:
            if match.action != "set":
                return match.negate
            if len(self._stamps) >= LIST_SIZE:
                self._forget_oldest()
            self._stamps[source] = (now_ns,)
            return not match.negate
        if match.action == "set":
            self._refresh(source, now_ns)
            return not match.negate
        if match.action == "remove":
            del self._stamps[source]
            return not match.negate
        true = (_hits(match, stamps, now_ns) >= (match.hitcount or 1)) != match.negate
        if match.reap and match.seconds:
            # --reap removes one source at most, the oldest, and only if the source asked about is listed (K-4.2)
            oldest = next(iter(self._stamps))
            if self._stamps[oldest][-1] < now_ns - match.seconds * SECOND_NS:
                del self._stamps[oldest]
        if match.action == "update" and true:
            self._refresh(source, now_ns)
        return true

    def _refresh(self, source: Source, now_ns: int) -> None:
        self._stamps[source] = (*self._stamps.pop(source, ()), now_ns)[-_STAMPS:]

    def _forget_oldest(self) -> None:
        del self._stamps[next(iter(self._stamps))]


def _hits(match: Recent, stamps: tuple[int, ...], now_ns: int) -> int:
    """The number of stamps within ``--seconds``. A stamp exactly that old still counts (CT-8.1)."""
    if not match.seconds:
        return len(stamps)
    since_ns = now_ns - match.seconds * SECOND_NS
    return sum(stamp >= since_ns for stamp in stamps)


class RecentLists:
    """The lists of a network namespace by name."""

    def __init__(self) -> None:
        self._lists: dict[str, RecentList] = {}

    def __len__(self) -> int:
        return len(self._lists)

    def __getitem__(self, name: str) -> RecentList:
        """The list of this name; an empty one if nothing was ever set. The caller must not change it."""
        return self._lists.get(name) or RecentList()

    def copy(self) -> "RecentLists":
        other = RecentLists()
        other._lists = {name: entries.copy() for name, entries in self._lists.items()}
        return other

    def commit(self, touch: RecentTouch) -> None:
        """Repeats on the list itself what a walk did on its copy."""
        self._lists.setdefault(touch.match.name, RecentList()).touch(touch.match, touch.source, touch.now_ns)

    def retain(self, used: Callable[[], Iterable[str]]) -> None:
        """Forgets the lists that no rule uses any longer. ``used`` is asked only if there is something to forget."""
        if self._lists:
            names = set(used())
            self._lists = {name: entries for name, entries in self._lists.items() if name in names}
