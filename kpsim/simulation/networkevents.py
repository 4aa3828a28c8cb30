"""Carries out the events of a scenario that concern connection tables, the network and load balancers.

Counterpart: clients in numbers, people who write sysctls, accidents of the network, and overloaded controllers of load balancers.
"""

from kpsim.scenario.event_schema import ScenarioEvent
from kpsim.scenario.fault_schema import FillConntrack, LosePackets, SetConntrackMax, SlowLoadBalancer
from kpsim.scenario.service_names import qualified
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.clusternodes import Actors, ClusterNodes
from kpsim.simulation.runlog import FaultSpell, Happening, HappeningKind, RunLog
from kpsim.units import format_duration


class NetworkEvents:
    """Carries out the events of one scenario."""

    def __init__(self, clock: Clock, nodes: ClusterNodes, actors: Actors, log: RunLog) -> None:
        self._clock = clock
        self._nodes = nodes
        self._actors = actors
        self._log = log
        self._limits: dict[str, int] = {}  #: writes of each node's nf_conntrack_max by events

    def happen(self, event: ScenarioEvent) -> None:
        """Carry out an event now."""
        if event.set_conntrack_max is not None:
            for name in event.set_conntrack_max.nodes or self._nodes.names:
                self._set_limit(name, event.set_conntrack_max)
        if event.fill_conntrack is not None:
            for name in event.fill_conntrack.nodes or self._nodes.names:
                self._fill(name, event.fill_conntrack)
        if event.lose_packets is not None:
            self._lose_packets(event.lose_packets)
        if event.slow_load_balancer is not None:
            self._slow_down(event.slow_load_balancer)

    # ------------------------------------------------------------------------------------------------- connection tables

    def _set_limit(self, name: str, event: SetConntrackMax) -> None:
        kernels = self._actors.kernels
        if self._nodes.is_down(name):
            self._tell(HappeningKind.NO_EFFECT, name, "setConntrackMax: the node is down")
            return
        before = kernels.limit(name)
        self._write_limit(name, event.max)
        number, boot = self._limits[name], kernels.boots(name)

        def back() -> None:
            if self._limits[name] == number and kernels.boots(name) == boot and kernels.limit(name) == event.max:
                self._write_limit(name, before)

        if event.lasting_ns is not None:
            self._spell(HappeningKind.CONNTRACK_MAX, name, event.lasting_ns, f"{event.max:,}")
            self._clock.at(self._clock.now_ns + event.lasting_ns, Rank.WORLD, f"node {name}", back)

    def _write_limit(self, name: str, limit: int) -> None:
        self._limits[name] = self._limits.get(name, 0) + 1
        self._actors.kernels.set_limit(name, limit)
        self._tell(HappeningKind.CONNTRACK_MAX, name, f"{limit:,}")

    def _fill(self, name: str, event: FillConntrack) -> None:
        if self._nodes.is_down(name):
            self._tell(HappeningKind.NO_EFFECT, name, "fillConntrack: the node is down")
            return
        now_ns, kernels = self._clock.now_ns, self._actors.kernels
        if event.entries is None and not kernels.limit(name):
            self._tell(HappeningKind.NO_EFFECT, name, "fillConntrack: the table has no limit, so it cannot be full")
            return
        number = kernels.crowd(name, event.entries, now_ns, now_ns + event.lasting_ns, unreplied=event.unreplied)
        kind = HappeningKind.CONNTRACK_FILLED if number else HappeningKind.NO_EFFECT
        what = "unreplied entries" if event.unreplied else "established connections"
        room = f", of {event.entries:,}" if event.entries is not None and number < event.entries else ""
        words = f"{number:,} {what}{room}, for {format_duration(event.lasting_ns)}"
        self._tell(kind, name, words if number else "fillConntrack: the table is full already")
        if number:
            ends_ns = now_ns + event.lasting_ns
            self._clock.at(ends_ns, Rank.WORLD, f"node {name}", lambda: kernels.uncrowd(name, ends_ns))
            self._spell(kind, name, event.lasting_ns, what)

    # ----------------------------------------------------------------------------------------------------------- network

    def _lose_packets(self, event: LosePackets) -> None:
        peers = {"all": "", "outside": " with the outside", "nodes": " with other nodes"}[event.peers]
        for name in event.nodes:
            until_ns = self._clock.now_ns + event.lasting_ns
            self._actors.kernels.losses.begin(name, event.peers, event.share, until_ns)
            share = f"a share of {event.share:.4g}{peers}"
            self._tell(HappeningKind.PACKETS_LOST, name, f"{share}, for {format_duration(event.lasting_ns)}")
            self._spell(HappeningKind.PACKETS_LOST, name, event.lasting_ns, share)

    def _slow_down(self, event: SlowLoadBalancer) -> None:
        named = {qualified(name) for name in event.services}
        found = [each for each in self._actors.load_balancers if not named or str(each.service) in named]
        for balancer in found:
            until_ns = self._clock.now_ns + event.lasting_ns
            balancer.slow_down(event.probes_ns, event.programming_ns, until_ns)
            late = (("probes", event.probes_ns), ("programming", event.programming_ns))
            words = ", ".join(f"{what} {format_duration(ns)} late" for what, ns in late if ns)
            name = str(balancer.service)
            self._tell(HappeningKind.BALANCER_SLOW, name, f"{words}, for {format_duration(event.lasting_ns)}")
            self._spell(HappeningKind.BALANCER_SLOW, name, event.lasting_ns, words)
        missing = sorted(named.difference(str(each.service) for each in found)) or ([] if found else ["scenario"])
        for name in missing:
            self._tell(HappeningKind.NO_EFFECT, name, "slowLoadBalancer: there is no load balancer")

    def _spell(self, kind: HappeningKind, subject: str, lasting_ns: int, detail: str) -> None:
        now_ns = self._clock.now_ns
        self._log.faults.append(FaultSpell(kind, subject, now_ns, now_ns + lasting_ns, detail))

    def _tell(self, kind: HappeningKind, subject: str, detail: str = "") -> None:
        self._log.happenings.append(Happening(self._clock.now_ns, kind, subject, detail))
