"""The kube-proxies: watches, the runner of syncs, failures and restarts."""

from collections.abc import Callable
from typing import Any, NamedTuple

from twin.clock import DELIVER, END, START, WORLD, Clock, S, ns
from twin.controller import Endpoints
from twin.nodes import Nodes


class Limits(NamedTuple):
    """The intervals of the runner, in nanoseconds (CP-9.1)."""

    shortest: int
    retry: int
    longest: int


class Process:
    """One kube-proxy process, from its start to its end. The runner's state is that of CP-9.2."""

    def __init__(self, now: int, limits: Limits) -> None:
        self.limits = limits
        self.alive = True
        self.listed = False
        self.slices: dict[str, Endpoints] = {}  # as delivered
        self.local: dict[str, int] | None = None  # ready local endpoints in force; None before the first success
        self.pending: int | None = None  # oldest request that no success has answered (CP-14.1)
        self.eligible = True
        self.need_full = True
        # the runner
        self.request = False
        self.timer = now + limits.longest
        self.cool = now
        self.running = self.direct = False
        self.plan = 0


class Proxies:
    """The kube-proxy of every node: watch (CP-7), runner (CP-9), syncs (CP-10), start (CP-12) and failures (CP-13).

    ``slices`` is what the API server has; a process that starts lists it. ``syncs`` has node, start, end, full and success.
    """

    def __init__(self, clock: Clock, document: dict[str, Any], nodes: Nodes, slices: dict[str, Endpoints]) -> None:
        self._clock, self._nodes, self._slices = clock, nodes, slices
        self.processes: dict[str, Process] = {}
        self.syncs: list[tuple[str, int, int, bool, bool]] = []
        settings = document["proxy"]["iptables"]
        self._limits = Limits(ns(settings["minSyncPeriod"]), ns(settings["syncPeriod"]), 3600 * S)
        self._cost = dict.fromkeys(nodes.names, ns(document["delays"]["sync"]["base"]))
        for own in document["delays"].get("onNodes", ()):
            for name in own["nodes"]:
                self._cost[name] = ns(own["sync"]["base"])
        self._back: dict[str, int] = {}
        self._fail_until = dict.fromkeys(nodes.names, 0)
        self._fail_left = dict.fromkeys(nodes.names, 0)
        nodes.changed.append(self._node_changed)

    def settle(self) -> None:
        """Begin as after an hour without changes: every process has programmed every slice."""
        for node in self._nodes.names:
            process = self.processes[node] = Process(0, self._limits)
            process.listed, process.need_full = True, False
            process.slices = dict(self._slices)
            process.local = self._local(node, process.slices)
            self.syncs.append((node, 0, 0, True, True))

    # --- what a process hears

    def _tell(self, node: str, change: Callable[[Process], None], *, wants_sync: bool = False) -> None:
        """Deliver a change to the node's process if it watches now; a list taken later contains it (CP-6.2)."""
        process = self.processes.get(node)
        if process is None or not process.alive or not process.listed:
            return

        def deliver() -> None:
            if process.alive:
                change(process)
                if wants_sync:
                    self._ask(node, process)

        self._clock.after(self._clock.delays["watchDelivery"], DELIVER, deliver)

    def slice_stored(self, service: str, endpoints: Endpoints) -> None:
        for node in self._nodes.names:
            self._tell(node, lambda process: process.slices.__setitem__(service, endpoints), wants_sync=True)

    def service_stored(self) -> None:
        for node in self._nodes.names:
            self._tell(node, lambda process: None, wants_sync=True)

    def _node_changed(self, node: str) -> None:
        """CP-14.2: a process watches its own Node. The version at this moment is what arrives."""
        eligible = self._nodes.eligible(node)
        self._tell(node, lambda process: setattr(process, "eligible", eligible))

    # --- the runner

    def _ask(self, node: str, process: Process) -> None:
        """CP-7.3: Sync()."""
        if process.pending is None:
            process.pending = self._clock.now
        process.request = True
        self._arm(node, process)

    def _arm(self, node: str, process: Process) -> None:
        """CP-9.3: plan the next start."""
        if process.running:
            return
        process.plan += 1
        now = self._clock.now
        plan, due = process.plan, max(now if process.request else process.timer, process.cool, now)

        def due_now() -> None:
            # a sync outside the runner holds the lock; its end arms again
            if process.alive and process.plan == plan and not process.running and not process.direct:
                process.request, process.running = False, True
                self._sync(node, process, in_runner=True)

        self._clock.at(due, START, due_now)

    def _sync(self, node: str, process: Process, in_runner: bool) -> None:
        """CP-10.1, CP-10.2: a failed sync leaves the rules in force, and the next one is full."""
        if not process.listed:  # the gate is closed: nothing happens, but it cools (CP-9.5)
            self._rest(node, process, ok=True)
            return
        start, full, slices = self._clock.now, process.need_full, dict(process.slices)
        fails = self._clock.now < self._fail_until[node]
        if not fails and self._fail_left[node]:
            self._fail_left[node] -= 1
            fails = True
        process.need_full = fails

        def finish() -> None:
            if not process.alive:
                return
            self.syncs.append((node, start, self._clock.now, full, not fails))
            if not fails:
                process.pending = None
                process.local = self._local(node, slices)
            if in_runner:
                self._rest(node, process, ok=not fails)
            else:  # CP-9.4: nobody retries it
                process.direct = False
                self._arm(node, process)

        self._clock.after(self._cost[node], END, finish)

    def _rest(self, node: str, process: Process, ok: bool) -> None:
        process.running = False
        process.cool = self._clock.now + process.limits.shortest
        process.timer = self._clock.now + (process.limits.longest if ok else process.limits.retry)
        self._arm(node, process)

    def _local(self, node: str, slices: dict[str, Endpoints]) -> dict[str, int]:
        """CP-15.2: the ready endpoints of each Service on the node."""
        return {
            service: sum(ready for pod, (ready, _, _) in endpoints.items() if pod.node == node)
            for service, endpoints in slices.items()
        }

    # --- start, end, failures

    def stop(self, node: str) -> None:
        self.processes[node].alive = False

    def start(self, node: str) -> None:
        """CP-12: the lists come first, then a sync outside the runner. A zone of the own Node asks for a sync before."""
        process = self.processes[node] = Process(self._clock.now, self._limits)
        process.eligible = self._nodes.eligible(node)
        if self._nodes.zones[node]:
            self._ask(node, process)

        def lists() -> None:
            if process.alive:
                process.listed = True
                process.slices = dict(self._slices)
                process.eligible = self._nodes.eligible(node)
                self._clock.after(0, START, first)

        def first() -> None:
            if process.alive and not process.running:
                process.direct = True
                self._sync(node, process, in_runner=False)

        self._clock.after(self._clock.delays["initialList"], DELIVER, lists)

    def restart(self, node: str, down: int) -> None:
        """Stop the process; another starts after ``down``. The later of two restarts decides when."""
        if self._nodes.down_at[node] is not None:
            return
        back = self._clock.now + down
        if self.processes[node].alive:
            self.stop(node)
        else:
            back = max(back, self._back[node])
        self._back[node] = back

        def begin() -> None:
            if self._back[node] == back and self._nodes.down_at[node] is None and not self.processes[node].alive:
                self.start(node)

        self._clock.at(back, WORLD, begin)

    def fail_for(self, node: str, time: int) -> None:
        """Every sync that begins within ``time`` fails (CP-13)."""
        self._fail_until[node] = max(self._fail_until[node], self._clock.now + time)

    def fail_next(self, node: str, count: int) -> None:
        """The next ``count`` syncs fail (CP-13)."""
        self._fail_left[node] += count
