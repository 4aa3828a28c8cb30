"""Rolling upgrades of nodes: each is cordoned, drained, off for a while, and back, some at once.

Counterpart: what managed clusters and operators do for a new kubelet or kernel. ``clusternodes`` takes each step.
"""

from collections import deque

from kpsim.objects import LABEL_EXCLUDE_BALANCERS
from kpsim.scenario.event_schema import RollingUpgrade
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.clusternodes import ABSENT, ClusterNodes
from kpsim.simulation.rollout import resolve_share
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog


class Upgrade:
    """One rolling upgrade. A node that has no Node object, or is down, is left out when its turn comes."""

    def __init__(self, clock: Clock, spec: RollingUpgrade, nodes: ClusterNodes, log: RunLog) -> None:
        self._clock = clock
        self._spec = spec
        self._nodes = nodes
        self._log = log
        self._waiting = deque(spec.nodes or nodes.names)
        share = resolve_share(spec.max_unavailable, len(self._waiting), round_up=False)
        self._room = max(1, share)
        self._working = 0

    def start(self) -> None:
        self._tell(HappeningKind.ROLLING_UPGRADE, "nodes", f"{len(self._waiting)}, {self._room} at once")
        self._next()

    def _next(self) -> None:
        """Begin with nodes while there is room."""
        while self._waiting and self._working < self._room:
            name = self._waiting.popleft()
            if self._nodes.is_down(name) or not self._nodes.exists(name):
                why = "the node is down" if self._nodes.exists(name) else ABSENT
                self._tell(HappeningKind.NO_EFFECT, name, f"rollingUpgrade: {why}")
                continue
            self._working += 1
            self._begin(name)
        if not self._waiting and not self._working:
            self._tell(HappeningKind.ROLLING_UPGRADE_DONE, "nodes")

    def _begin(self, name: str) -> None:
        stays_cordoned = self._nodes.is_cordoned(name)  # another event has cordoned it
        leaves_ns = self._spec.leave_load_balancers_ns
        labelled = leaves_ns is not None and not self._nodes.has_label(name, LABEL_EXCLUDE_BALANCERS)

        def drain() -> None:
            self._nodes.drain(name, self._spec.drain_timeout_ns, drained)

        def drained() -> None:
            self._nodes.reboot(name, self._spec.takes, back, replace=self._spec.replace)

        def back() -> None:
            if labelled and not self._spec.replace:
                self._nodes.label(name, {LABEL_EXCLUDE_BALANCERS: None})
            if stays_cordoned or self._spec.replace:
                self._end(name)
            else:
                self._nodes.uncordon(name, lambda: self._end(name))

        if leaves_ns is None:
            drain()
            return
        if labelled:
            self._nodes.label(name, {LABEL_EXCLUDE_BALANCERS: "true"})
        self._clock.at(self._clock.now_ns + leaves_ns, Rank.WORLD, f"node {name}", drain)

    def _end(self, name: str) -> None:
        self._tell(HappeningKind.NODE_UPGRADED, name)

        def go_on() -> None:
            self._working -= 1
            self._next()

        self._clock.at(self._clock.now_ns + self._spec.pause_ns, Rank.WORLD, f"node {name}", go_on)

    def _tell(self, kind: HappeningKind, subject: str, detail: str = "") -> None:
        self._log.happenings.append(Happening(self._clock.now_ns, kind, subject, detail))
