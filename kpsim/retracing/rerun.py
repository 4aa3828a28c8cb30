"""Runs a scenario again, and keeps every step of chosen packets, or stops at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.bulk import collector_at_rest
from kpsim.exchange import Exchange
from kpsim.fabric import Journey, Whose
from kpsim.packet import Packet
from kpsim.programmed import Programmed
from kpsim.scenario import Scenario
from kpsim.simulation import Progress
from kpsim.simulation.clock import wall_ns
from kpsim.simulation.engine import Run
from kpsim.simulation.witness import Sighting, Witness
from kpsim.tracing.directory import Address, Directory, Owner
from kpsim.tracing.site import Sender, Site
from kpsim.tracing.traces import Trace

Name = tuple[str, int]  #: of a connection: its source, and its number there


@dataclass(frozen=True, slots=True)
class ProbeDue:
    """What a load balancer thinks of a node at a moment, and when it asks again."""

    service: str  #: ``namespace/name``
    node: str
    in_rotation: bool  #: it believes the node healthy
    contrary: int  #: so many answers in a row have contradicted that
    next_ns: int | None  #: when it sends the next probe; None: it sends none


@dataclass(frozen=True, slots=True)
class Replayed:
    """A packet of the run, sent again. ``trace`` None: no node got it."""

    at_ns: int
    trace: Trace | None
    probes: tuple[ProbeDue, ...]  #: of all load balancers, at that moment


class Rerun:
    """A run that is run again, to a moment and no further. It is used once."""

    def __init__(self, scenario: Scenario, wanted: Mapping[Name, int] | None = None) -> None:
        """``wanted`` are the connections whose packets are kept: of each the last one that is sent until the time given."""
        self.run = Run(scenario, scenario.seed)
        self._wanted = dict(wanted or {})
        self.found: dict[Name, Replayed] = {}
        if self._wanted:
            self.run.machines.witness = Witness(self._is_wanted, self._keep)

    def until(self, end_ns: int, progress: Progress | None = None) -> None:
        """Run everything that happens until this time, the time itself included."""
        shown = None if progress is None else _up_to(end_ns, progress)
        with collector_at_rest():
            for _ in self.run.steps(shown):
                if self.run.clock.next_ns > end_ns:
                    break

    def _is_wanted(self, traffic: str, number: int) -> bool:
        return self.run.clock.now_ns <= self._wanted.get((traffic, number), -1)

    def _keep(self, sighting: Sighting) -> None:
        now_ns = self.run.clock.now_ns
        name = sighting.traffic, sighting.number
        self.found[name] = Replayed(now_ns, self._traced(sighting, now_ns), probes_due(self.run))

    def _traced(self, sighting: Sighting, now_ns: int) -> Trace | None:
        journey = sighting.journey
        if journey is None:
            return None
        journeys = _journeys(journey, sighting.exchange)
        site = self._site(journeys)
        return Trace(site, _sender(journey), _come_in(journey), wall_ns(now_ns), sighting.exchange)

    def _site(self, journeys: list[Journey]) -> Site:
        """Make the nodes that were passed, with the rules in force on them at this moment."""
        machines = self.run.machines
        programmed: dict[tuple[str, Family], Programmed] = {}
        for journey in journeys:
            for hop in journey.hops:
                held = machines.netns(hop.node).programmed
                programmed.update({(hop.node, family): held[family] for family in held})

        def told(node: str, family: Family) -> Programmed:
            return programmed.get((node, family)) or Programmed.nothing(family)

        names = tuple(node.name for node in self.run.nodes)
        return Site(names, self._directory(journeys), machines.machine, told)

    def _directory(self, journeys: list[Journey]) -> Directory:
        """Name the addresses of the cluster as it is, and those of the packets whose pods are gone."""
        directory = Directory.of(self.run.api.state)
        pods = dict(directory.pods)
        for packet in _packets(journeys):
            for family, address, port in (
                (packet.family, packet.saddr, packet.sport),
                (packet.family, packet.daddr, packet.dport),
            ):
                owner = self._owner((family, address), port)
                if owner is not None and (family, address) not in directory.nodes:
                    pods[family, address] = owner
        return Directory(pods, directory.nodes, directory.services, directory.endpoints, directory.pod_networks)

    def _owner(self, address: Address, port: int) -> Owner | None:
        ip = format_ip(*address)
        for pod in self.run.workloads.at_ip(ip):
            return Owner(f"pod {pod.workload.namespace}/{pod.name}", pod.node)
        end = join_host_port(ip, port)
        former = [spell for spell in self.run.log.endpoints if spell.endpoint == end and spell.pod]
        return Owner(f"pod {former[-1].pod}, which is gone,", former[-1].node) if former else None


def probes_due(run: Run) -> tuple[ProbeDue, ...]:
    """Return what each load balancer thinks of each node, by Service, then in the order of the nodes."""
    return tuple(
        ProbeDue(
            str(balancer.service), node.name, belief.in_rotation, belief.contrary, balancer.next_probe_ns(node.name)
        )
        for _, balancer in sorted(run.balancers.items())
        for node in run.nodes
        if (belief := balancer.belief(node.name)) is not None
    )


def _up_to(end_ns: int, progress: Progress) -> Progress:
    return lambda now_ns, _whole_ns: progress(min(now_ns, end_ns), end_ns)


def _journeys(journey: Journey, exchange: Exchange | None) -> list[Journey]:
    """The ways of all packets that a trace shows."""
    found = [journey]
    while exchange is not None:
        found += [exchange.request, *([exchange.answer] if exchange.answer is not None else [])]
        exchange = exchange.relay
    return found


def _come_in(journey: Journey) -> Journey:
    """Return a way whose first packet says by which interface it came in, also where the run left that to the routes."""
    sent = journey.sent.copy()
    if journey.origin.whose is not Whose.PROCESS or journey.origin.node != journey.hops[0].node:
        sent.in_interface = journey.hops[0].walk.came_by
    return replace(journey, sent=sent)


def _packets(journeys: list[Journey]) -> Iterator[Packet]:
    for journey in journeys:
        yield journey.sent
        yield journey.packet
        for hop in journey.hops:
            yield hop.walk.packet


def _sender(journey: Journey) -> Sender:
    origin, first = journey.origin, journey.hops[0].node
    match origin.whose:
        case Whose.OUTSIDE:
            return Sender.EXTERNAL
        case _ if origin.node != first:
            return Sender.PEER
        case Whose.POD:
            return Sender.POD
        case Whose.PROCESS:
            return Sender.NODE
