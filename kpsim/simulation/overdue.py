"""Finds nodes that may become unhealthy without an event, because no sync has succeeded for a while (CP-14).

kube-proxy is unhealthy once an update has waited for the health timeout. No event marks that moment, so nothing could
tell a load balancer. A node stays healthy if, in every family, its last successful sync began less than the timeout
ago: that sync answered all updates before it.
"""

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from itertools import product

from kpsim.simulation.runlog import RunLog

_Loop = tuple[str, str]  # node, family: each has a sync loop of its own


class OverdueNodes:
    """Finds the nodes without a recent successful sync. It reads each sync in the log once."""

    def __init__(self, log: RunLog, nodes: Iterable[str], families: Iterable[str], timeout_ns: int) -> None:
        self._log = log
        self._timeout_ns = timeout_ns
        self._read = 0  #: number of syncs of the log that have been read
        self._began_ns: dict[_Loop, int] = dict.fromkeys(product(nodes, families), -timeout_ns)
        self._by_age = [(began_ns, loop) for loop, began_ns in self._began_ns.items()]  #: heap; superseded entries stay
        heapify(self._by_age)
        self._overdue: set[_Loop] = set()

    def at(self, now_ns: int) -> set[str]:
        """Return every node with a sync loop that began no successful sync within the timeout before now.

        ``now_ns`` must not go back from call to call.
        """
        for sync in self._log.syncs[self._read :]:
            if sync.success:
                loop = (sync.node, sync.family)
                self._began_ns[loop] = sync.start_ns
                self._overdue.discard(loop)
                heappush(self._by_age, (sync.start_ns, loop))
        self._read = len(self._log.syncs)
        while self._by_age and self._by_age[0][0] <= now_ns - self._timeout_ns:
            began_ns, loop = heappop(self._by_age)
            if self._began_ns[loop] == began_ns:
                self._overdue.add(loop)
        return {node for node, _ in self._overdue}
