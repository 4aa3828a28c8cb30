"""Carries out the events of a scenario that concern the API server.

Counterpart: accidents of the API server and of the network before it. ``apifaults`` knows from the start when they last;
here the parts that hold a connection are told at the moment.
"""

from kpsim.scenario.event_schema import ScenarioEvent
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.clusternodes import Actors, ClusterNodes
from kpsim.simulation.nodewatch import KINDS
from kpsim.simulation.runlog import API_SERVER, FaultSpell, Happening, HappeningKind, RunLog
from kpsim.units import format_duration


class ApiEvents:
    """Carries out the events of one scenario."""

    def __init__(self, clock: Clock, actors: Actors, nodes: ClusterNodes, log: RunLog) -> None:
        self._clock = clock
        self._actors = actors
        self._faults = actors.api.faults
        self._nodes = nodes
        self._log = log

    def happen(self, event: ScenarioEvent) -> None:
        """Carry out an event now."""
        if event.api_server_down is not None:
            self._go_down(event.api_server_down.lasting_ns)
        if event.api_server_slow is not None:
            slow = event.api_server_slow
            self._lasts(HappeningKind.API_SERVER_SLOW, slow.lasting_ns, f"by {format_duration(slow.by_ns)} ")
        if event.api_server_busy is not None:
            self._lasts(HappeningKind.API_SERVER_BUSY, event.api_server_busy.lasting_ns)
        for name in event.cut_off.nodes if event.cut_off is not None else ():
            self._cut_off(name)
        if event.close_watches is not None:
            close = event.close_watches
            kinds = close.kinds or KINDS
            for name in close.nodes or self._nodes.names:
                watch = self._actors.proxies[name].watch
                if watch.watches(kinds):
                    self._tell(HappeningKind.WATCH_CLOSED, name, ", ".join(kinds))
                    watch.close(kinds, expired=close.expired)
                else:
                    self._tell(HappeningKind.NO_EFFECT, name, "closeWatches: the node has no such watch open")

    def _go_down(self, lasting_ns: int) -> None:
        now_ns = self._clock.now_ns
        self._lasts(HappeningKind.API_SERVER_DOWN, lasting_ns)
        self._actors.api.restart()
        for proxy in self._actors.proxies.values():
            proxy.watch.server_gone()

        def back() -> None:
            if self._faults.down_until(self._clock.now_ns) is None:
                self._tell(HappeningKind.API_SERVER_UP, API_SERVER)

        self._clock.at(now_ns + lasting_ns, Rank.WORLD, "scenario", back)

    def _cut_off(self, name: str) -> None:
        """Cut a node off. One that is cut off already stays so for longer, as all who waited for it know."""
        now_ns = self._clock.now_ns
        until_ns = self._faults.cut_until(name, now_ns)
        if until_ns is None:
            return  # the run ends at once
        self._tell(HappeningKind.NODE_CUT_OFF, name, f"until {format_duration(until_ns)}")
        if self._faults.cut_until(name, now_ns - 1) is not None:
            return
        self._log.faults.append(FaultSpell(HappeningKind.NODE_CUT_OFF, name, now_ns, until_ns))
        self._actors.proxies[name].watch.cut_off(until_ns)
        self._nodes.cut_off(name, until_ns)
        self._clock.at(until_ns, Rank.WORLD, f"node {name}", lambda: self._tell(HappeningKind.NODE_REACHED, name))

    def _lasts(self, kind: HappeningKind, lasting_ns: int, words: str = "") -> None:
        now_ns = self._clock.now_ns
        self._tell(kind, API_SERVER, f"{words}for {format_duration(lasting_ns)}")
        self._log.faults.append(FaultSpell(kind, API_SERVER, now_ns, now_ns + lasting_ns, words.strip()))

    def _tell(self, kind: HappeningKind, subject: str, detail: str = "") -> None:
        self._log.happenings.append(Happening(self._clock.now_ns, kind, subject, detail))
