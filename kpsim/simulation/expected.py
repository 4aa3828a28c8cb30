"""Expected losses, computed and not drawn: rate times probability, summed over the stretches of time in which nothing changes.

A connection's end depends on the rules of all nodes, on which pods and machines live, on the load balancer's rotation, and on draws.
Between two changes all but the draws stay as they are. There one connection of each kind is followed through every outcome of its
draws, each with its exact probability. The expected number of such connections is the source's rate times the length of the stretch,
shared evenly among its clients, nodes and pods, which send in turn. ``constant`` and ``poisson`` arrivals have the same expectation,
up to the phase of the first connection in each stretch.

When changes happen may depend on the seed itself: on delays that are drawn, and on when load balancers first probe. The expectation
is the one for that course of the cluster.

It holds only where no connection remembers another. What else decides is refused by name: :class:`NotExpected`.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from math import lcm
from typing import Any, cast

from kpsim.errors import InputError, Problem
from kpsim.objects import Service
from kpsim.packet import Packet
from kpsim.scenario import Scenario
from kpsim.scenario.clients import Clients, outside_clients
from kpsim.scenario.load_balancer_schema import LoadBalancerSpec
from kpsim.scenario.service_names import qualified
from kpsim.scenario.traffic_schema import Origin, Traffic, Via
from kpsim.simulation import Progress
from kpsim.simulation.attempts import Attempt
from kpsim.simulation.clock import Clock
from kpsim.simulation.connecting import Connector, Turn, Undertaking
from kpsim.simulation.dialling import dialled_family, policy_of, service_port_name
from kpsim.simulation.engine import Run
from kpsim.simulation.machines import Machines
from kpsim.simulation.ports import EPHEMERAL, SourcePorts
from kpsim.simulation.runlog import Fate, Reason, RunLog
from kpsim.simulation.senders import NAT, Senders, TrafficSender, World
from kpsim.units import SECOND_NS

_MOST_TURNS = 10_000  #: connections after which senders, nodes and clients come around again
_PORT = 40_000  #: which of its free ports a client takes decides nothing


class NotExpected(InputError):
    """Something beside rates and odds decides what becomes of connections, so their losses cannot be computed."""


@dataclass(frozen=True, slots=True)
class ExpectedPart:
    """Connections of one source that end alike in one stretch of time. ``connections`` is their expected number."""

    traffic: str
    service: str  #: ``namespace/name:port``
    traffic_policy: str
    node: str
    disposition: Fate
    cause: Reason
    from_ns: int
    until_ns: int
    connections: Fraction


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected ends of all connections, with one seed's course of the cluster. Parts are in time order."""

    scenario: str
    description: str
    seed: int
    mode: str
    duration_ns: int
    parts: tuple[ExpectedPart, ...]
    notes: tuple[str, ...] = ()

    @property
    def sent(self) -> Fraction:
        return sum((part.connections for part in self.parts), Fraction(0))

    @property
    def lost(self) -> Fraction:
        """Those that are not delivered."""
        return self.sent - self.of(Fate.DELIVERED)

    def of(self, disposition: Fate) -> Fraction:
        """The expected number of connections that end so."""
        return sum((part.connections for part in self.parts if part.disposition is disposition), Fraction(0))


def expected_losses(scenario: Scenario, *, progress: Progress | None = None) -> Expected:
    """Compute what is to be expected of a scenario. NotExpected names everything that stands against it."""
    problems = list(_against(scenario))
    if problems:
        raise NotExpected(problems)
    course = _Course(scenario, scenario.seed)
    course.follow(progress)
    spec = scenario.spec
    return Expected(
        scenario.name, spec.description, scenario.seed, scenario.proxy.mode.value, scenario.duration_ns, tuple(_merged(course.parts)),
        tuple(course.notes),
    )  # fmt: skip


def _against(scenario: Scenario) -> Iterator[Problem]:
    """Yield what the scenario file itself says against computing."""
    for number, traffic in enumerate(scenario.spec.traffic):
        where = f".traffic[{number}]"
        for asked, field, why in (
            (traffic.long is not None, "long", "connections that last meet the changes of their time"),
            (traffic.connect_timeout_ns is not None, "connectTimeout", "a repeated SYN has two moments"),
            (traffic.retries is not None, "retries", "a client that tries again has several moments"),
            (traffic.keep_alive is not None, "keepAlive", "requests go over connections of earlier ones"),
            (traffic.happy_eyeballs is not None, "happyEyeballs", "a second family has another moment"),
            (traffic.source_ports > 0, "sourcePorts", "sockets that are used again find the entries of earlier ones"),
        ):
            if asked:
                yield Problem(f"--exact: {why}", file=scenario.source, path=f"{where}.{field}")
        if _connections(traffic, scenario.duration_ns) > _ports(traffic):
            yield Problem(
                "--exact: its source ports come around, so connections may find the entries of earlier ones", file=scenario.source, path=where
            )  # fmt: skip
    for number, event in enumerate(scenario.spec.events):
        for fault, why in (
            (event.lose_packets, "what links lose is drawn packet by packet"),
            (event.fill_conntrack, "a table that is full remembers what was in it"),
            (event.set_conntrack_max, "a table that is full remembers what was in it"),
        ):
            if fault is not None:
                where = f".events[{number}].{event.kind_in_file}"
                yield Problem(f"--exact: {why}", file=scenario.source, path=where)
    if scenario.beside or scenario.loaded:
        yield Problem("--exact: rules beside kube-proxy's may count packets and remember clients", file=scenario.source)


def _connections(traffic: Traffic, duration_ns: int) -> float:
    stop_ns = duration_ns if traffic.stop_ns is None else min(traffic.stop_ns, duration_ns)
    return traffic.per_second * max(0, stop_ns - traffic.start_ns) / SECOND_NS


def _ports(traffic: Traffic) -> int:
    """How many connections a source makes at least before a port comes around."""
    if traffic.origin is Origin.OUTSIDE and traffic.nat:
        return NAT
    return EPHEMERAL * (traffic.clients if traffic.origin is Origin.OUTSIDE else 1)


class _Course(Run):
    """A run without traffic. Between its actions it asks what would become of connections."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        super().__init__(scenario, seed)
        self.parts: list[ExpectedPart] = []
        self.notes: dict[str, None] = {}
        self._sources: list[_Odds] = []
        self._state: tuple[Any, ...] | None = None
        self._asked: list[list[tuple[Fraction, _End]]] = []

    def follow(self, progress: Progress | None) -> None:
        """Run to the end."""
        for now_ns in self.steps(progress):
            until_ns = int(min(self.clock.next_ns, self.spec.duration_ns))
            if until_ns > now_ns:
                self._stretch(now_ns, until_ns)

    def _start_traffic(self) -> None:
        self._sources = [
            _Odds(self.clock, traffic, self._world_of(traffic, SourcePorts()), clients, self.log)
            for traffic, clients in zip(self.spec.traffic, outside_clients(self.spec.traffic), strict=True)
        ]

    def _stretch(self, from_ns: int, until_ns: int) -> None:
        """Add what is expected of a stretch of time in which nothing changes."""
        state = self._what_decides()
        if state != self._state:
            self._state = state
            self._check_kernels()
            self._asked = [source.ends(from_ns) for source in self._sources]
        for traffic, ends in zip(self.spec.traffic, self._asked, strict=True):
            stop_ns = until_ns if traffic.stop_ns is None else min(traffic.stop_ns, until_ns)
            length_ns = stop_ns - max(from_ns, traffic.start_ns)
            if length_ns > 0:
                sent = Fraction(traffic.per_second) * length_ns / SECOND_NS
                self.parts += (
                    end.part(traffic.name, max(from_ns, traffic.start_ns), stop_ns, sent * share) for share, end in ends
                )
                if any(end.cause is Reason.NO_ENDPOINTS for _, end in ends) and self.spec.icmp_rate_limit:
                    self.notes["refusals that Linux's rate limit would hold back count as rejected"] = None

    def _what_decides(self) -> tuple[Any, ...]:
        """Everything that a connection's end depends on, beside its draws."""
        kernels = tuple(
            (
                name,
                *self.machines.netns(name).programmed.values(),
                self.machines.is_off(name),
                name in self.machines.absent,
            )
            for name in self.proxies
        )
        pods = tuple((key, pod.answers, pod.exists) for key, pod in self.workloads.kubelets.pods.items())
        rotations = tuple(tuple(balancer.rotation) for balancer in self.balancers.values())
        return _Same(kernels), self.api.number, pods, rotations

    def _check_kernels(self) -> None:
        for name in self.proxies:
            if any(told.virtual_servers for told in self.machines.netns(name).programmed.values()):
                raise NotExpected("--exact: the schedulers of virtual servers remember what they chose before (ip_vs)")
        most = sum(_connections(traffic, self.spec.duration_ns) for traffic in self.spec.traffic)
        for name in self.proxies:
            room = self.machines.netns(name).sysctls.nf_conntrack_max
            if 0 < room <= most:
                raise NotExpected(
                    f"--exact: {name} has room for {room:,} connections, so entries of earlier ones may decide"
                )


class _Same:
    """Equal to another one if both hold the very same objects. Comparing all rules would take longer than asking anew."""

    def __init__(self, kernels: tuple[tuple[Any, ...], ...]) -> None:
        self._kernels = kernels

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same) or len(self._kernels) != len(other._kernels):
            return False
        return all(
            len(mine) == len(theirs) and all(a is b for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in zip(self._kernels, other._kernels, strict=True)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, order=True)
class _End:
    """How a connection ends, as reports tell connections apart."""

    service: str
    traffic_policy: str
    node: str
    disposition: Fate
    cause: Reason

    def part(self, traffic: str, from_ns: int, until_ns: int, connections: Fraction) -> ExpectedPart:
        """Return so many connections that end so."""
        return ExpectedPart(
            traffic,
            self.service,
            self.traffic_policy,
            self.node,
            self.disposition,
            self.cause,
            from_ns,
            until_ns,
            connections,
        )


class _Chosen:
    """A load balancer that chooses one node."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.service = real.service
        self.node: str | None = None

    @property
    def settings(self) -> LoadBalancerSpec:
        return cast(LoadBalancerSpec, self._real.settings)

    def choose(self, *_flow: Hashable) -> str | None:
        return self.node


class _Asking:
    """The machines as a source sees them that only says what it would send: ``sent`` is the packet, its node, and how it is sent."""

    def __init__(self, real: Machines) -> None:
        self._real = real
        self.sent: list[tuple[Packet, str, dict[str, Any]]] = []

    @property
    def absent(self) -> set[str]:
        return self._real.absent

    def watched(self, _traffic: str, _number: int) -> AbstractContextManager[object]:
        return nullcontext()

    def connect(self, packet: Packet, at_node: str, _now_ns: int, _key: Hashable, **how: Any) -> Attempt:
        how.pop("short")  # what its client does afterwards changes nothing about its end
        self.sent.append((packet, at_node, how))
        return Attempt(Fate.DROPPED)


class _AnyPort(Senders):
    """Senders whose kernels give every connection the same free port."""

    def with_port(self, sender: TrafficSender, number: int, *, again: bool = False) -> TrafficSender | str:
        return super().with_port(sender, number, again=again) if self._traffic.nat else replace(sender, port=_PORT)


class _Odds:
    """A source that says how its connections would end now, in place of sending them."""

    def __init__(self, clock: Clock, traffic: Traffic, world: World, clients: Clients, log: RunLog) -> None:
        self._clock = clock
        self._traffic = traffic
        self._real, self._balancer = world.machines, world.load_balancer
        self._asking = _Asking(world.machines)
        stand_in = replace(world, machines=cast(Machines, self._asking))
        self._chosen = None if world.load_balancer is None else _Chosen(world.load_balancer)
        self._world = replace(stand_in, load_balancer=cast(Any, self._chosen))
        self._senders = _AnyPort(traffic, self._world, clients)
        self._connector = Connector(clock, traffic, self._world, self._senders, log)

    def ends(self, now_ns: int) -> list[tuple[Fraction, _End]]:
        """Return how connections end, each with its share. The shares sum to less than 1 if some are not attempted."""
        service = self._world.service()
        if service.session_affinity == "ClientIP":
            raise NotExpected(
                f"--exact: session affinity of {qualified(self._traffic.service)} leads clients where they were before"
            )
        turns = self._turns(service)
        nodes = self._balancer.rotation if self._balancer is not None and self._traffic.via is Via.LOAD_BALANCER else []
        found: dict[_End, Fraction] = {}
        known: dict[Hashable, list[tuple[Fraction, Attempt]]] = {}
        family = dialled_family(self._traffic, service)
        for number in range(turns):
            base = self._senders.sender(number, family)
            sender = base if isinstance(base, str) else self._senders.with_port(base, number)
            if isinstance(base, str) or isinstance(sender, str):
                continue
            dialled = self._connector.dial(service, family)
            if dialled is None:
                continue
            turn = Turn(Undertaking(number, now_ns), base, sender, dialled, family, now_ns)
            choices: Sequence[str | None] = nodes or [None]
            for node in choices:
                if self._chosen is not None:
                    self._chosen.node = node
                name = service_port_name(service, dialled.port)
                for odds, outcome in self._outcomes(turn, service, now_ns, known):
                    end = _End(
                        name, policy_of(self._traffic, service), outcome.node, outcome.disposition, outcome.cause
                    )
                    found[end] = found.get(end, Fraction(0)) + odds / len(choices) / turns
        return sorted((share, end) for end, share in found.items())

    def _turns(self, service: Service) -> int:
        """Return after how many connections the same sender meets the same node again."""
        traffic = self._traffic
        counts = [self._senders.kinds, len(traffic.nodes)]
        if traffic.origin is Origin.OUTSIDE and not traffic.nat and service.load_balancer_source_ranges:
            counts.append(traffic.clients)  # elsewhere nothing asks which client it is
        turns = lcm(*(count or 1 for count in counts))
        if turns > _MOST_TURNS:
            raise NotExpected(
                f"--exact: traffic {traffic.name} has {turns:,} kinds of connections, at most {_MOST_TURNS:,} are followed"
            )
        return turns

    def _outcomes(
        self, turn: Turn, service: Service, now_ns: int, known: dict[Hashable, list[tuple[Fraction, Attempt]]]
    ) -> list[tuple[Fraction, Attempt]]:
        self._asking.sent.clear()
        unheard = self._connector.connect(turn, service).attempt
        if not self._asking.sent:  # there is nobody to send to
            return [(Fraction(1), unheard)]
        ((packet, node, how),) = self._asking.sent
        chosen = self._chosen.node if self._chosen is not None else None
        what = (packet.saddr, packet.daddr, packet.dport, packet.in_interface, node, how["local"], chosen)
        if what not in known:
            known[what] = self._real.outcomes(packet, node, now_ns, **how)
        return known[what]


def _merged(parts: Sequence[ExpectedPart]) -> list[ExpectedPart]:
    """Join parts that follow each other and differ in nothing else."""
    merged: list[ExpectedPart] = []
    last: dict[Hashable, int] = {}
    for part in parts:
        alike = part.traffic, part.service, part.traffic_policy, part.node, part.disposition, part.cause
        place = last.get(alike)
        if place is not None and merged[place].until_ns == part.from_ns:
            before = merged[place]
            merged[place] = replace(before, until_ns=part.until_ns, connections=before.connections + part.connections)
        else:
            last[alike] = len(merged)
            merged.append(part)
    return sorted(merged, key=lambda part: (part.from_ns, part.traffic))
