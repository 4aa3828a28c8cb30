"""Draws random sequences of packets and changes at a node: the next packet, changes of endpoints, pauses.

Counterpart: the lives of connections while a cluster changes. There are few clients, source ports and endpoints, so
that flows meet: one client and port dial Services that share endpoints, and the endpoints themselves (K-2.3, K-2.4).
A flow is drawn as if its packets get through, whether they do or not.
"""

from collections.abc import Iterable, Iterator, Sequence

from kpsim.addresses import Family, parse_ip
from kpsim.cluster import ClusterState
from kpsim.conntrack import FlowTuple
from kpsim.objects import EndpointSlice
from kpsim.packet import Window
from kpsim.tracing.directory import Frontend
from kpsim.tracing.site import Sender, Site
from kpsim.units import HOUR_NS, MILLISECOND_NS, SECOND_NS
from kpsim.verify.drawing.choices import Choices, chance, pick, weighted
from kpsim.verify.drawing.surroundings import Client, Dialled, Kind, Surroundings
from kpsim.verify.sequences.steps import (
    ChangeEndpoints,
    ClientSegment,
    DeleteFlow,
    EndpointState,
    FirstPacket,
    MidStream,
    Opening,
    Retransmit,
    SequenceStep,
    ServerError,
    ServerSegment,
    Wait,
    slices_of,
)

#: waits that outlast timers: a second of an affinity list, an unanswered datagram, a TIME_WAIT, an affinity, a connection of a day
LONG_WAITS_NS = (SECOND_NS, 31 * SECOND_NS, 121 * SECOND_NS, 601 * SECOND_NS, 3 * HOUR_NS + SECOND_NS, 25 * HOUR_NS)
#: waits that are short enough for real time
SHORT_WAITS_NS = (10 * MILLISECOND_NS, SECOND_NS)

# --- lives ---------------------------------------------------------------------------------------------------------------

#: the flags of each word of a life; the client says words in capitals, the server those in small letters
_TCP = {"S": "SYN", "A": "ACK", "P": "PSH ACK", "F": "FIN ACK", "R": "RST", "SA": "SYN ACK", "RA": "RST ACK"}
_ERROR, _AGAIN = "error", "AGAIN"

#: lives of flows with their weights, the most usual first (K-1.8, K-6); the first word is the first packet
_LIVES: dict[str, tuple[tuple[int, str], ...]] = {
    "tcp": (
        (6, "S sa A P a p A F a f A"), (3, "S sa A P a p A P a p A"), (2, "S sa A P a f A F a"), (2, "S AGAIN sa AGAIN A"),
        (1, "S ra S sa A"), (1, "S sa A R S sa A"), (1, "S sa A P ra S"), (1, "S sa A F f A S sa A"), (1, "S AGAIN AGAIN"),
        (1, "S error"), (1, "S sa A p p AGAIN A"), (1, "S sa R"),
    ),
    "udp": ((4, "D d D d D d"), (2, "D D D"), (2, "D error D error"), (1, "D d error D d")),
    "sctp": (
        (3, "INIT init_ack COOKIE_ECHO cookie_ack DATA sack data SACK SHUTDOWN shutdown_ack SHUTDOWN_COMPLETE"),
        (1, "INIT abort INIT init_ack"), (1, "INIT AGAIN init_ack COOKIE_ECHO ABORT"),
        (1, "INIT init_ack COOKIE_ECHO cookie_ack HEARTBEAT heartbeat_ack DATA"),
    ),
}  # fmt: skip
_ECHO: tuple[tuple[int, str], ...] = ((1, "E e E e"),)
_STRAY_WORDS = {
    "tcp": ["S", "SA", "A", "P", "F", "R", "RA", "s", "sa", "a", "p", "f", "r", "ra"],
    "udp": ["D", "d"],
    "sctp": ["INIT", "COOKIE_ECHO", "DATA", "ABORT", "init_ack", "data", "abort", "shutdown"],
}
_MID_STREAM = ("A", "P", "SA", "F", "R")
_OTHER_WINDOWS = [window for window in Window if window is not Window.EXACT]
_SOURCE_PORTS = (40000, 40000, 40000, 40001, 700, 300)  #: few ports, from each class that masquerading keeps (K-2.3)
_ECHO_REQUESTS = {Family.IPV4: ("icmp", 8 * 256), Family.IPV6: ("icmpv6", 128 * 256)}
_CROWDS = (4, 101, 110)  #: numbers of clients around the hundred sources that an affinity list holds (K-4.1)


class _Talk:
    """A flow, and the words of its life that are still to be said."""

    def __init__(self, number: int, opening: Opening, life: str) -> None:
        self.number, self.opening = number, opening
        self.words = life.split()[1:]

    def step(self, word: str, window: Window = Window.EXACT) -> SequenceStep:
        if word == _ERROR:
            return ServerError(self.number)
        if word == _AGAIN:
            return Retransmit(self.number)
        match self.opening.tuple.protocol:
            case "tcp":
                says = _TCP[word.upper()]
            case "sctp":
                says = word.upper()
            case _:
                says = ""
        return (ClientSegment if word.isupper() else ServerSegment)(self.number, says, window)


# --- drawing -------------------------------------------------------------------------------------------------------------


def draw_sequence(
    choices: Choices, site: Site, node: str, family: Family, length: int, state: ClusterState,
    *, waits_ns: Sequence[int] = SHORT_WAITS_NS,
) -> list[SequenceStep]:  # fmt: skip
    """At least ``length`` steps at a node, more if the last draw is a crowd. ``state`` is the cluster that ``site``
    belongs to.
    """
    drawing = _Drawing(choices, Surroundings.of(site, node, family, state.services), state)
    steps: list[SequenceStep] = []
    while len(steps) < length:
        steps += drawing.next_steps(waits_ns)
    return steps


class _Drawing:
    """The state of a sequence while it is drawn."""

    def __init__(self, choices: Choices, around: Surroundings, state: ClusterState) -> None:
        self._choices, self._around, self._state = choices, around, state
        self._talks: dict[Opening, _Talk] = {}
        self._crowded = False
        slices = [each for each in state.endpoint_slices if each.address_type == around.family.label]
        #: Services with endpoints, and the endpoints themselves
        self._changeable = sorted({f"{s.metadata.namespace}/{s.service_name}" for s in slices if s.endpoints})
        self._endpoints = sorted({end for each in slices for end in _ends(each, around.family)})
        sticky = {
            f"{s.metadata.namespace}/{s.metadata.name}" for s in state.services if s.session_affinity == "ClientIP"
        }
        services = around.site.directory.services
        #: frontends of Services with endpoints, and those of Services with affinity
        self._served = [f for f in around.frontends if services[f] in self._changeable]
        self._sticky = [f for f in around.frontends if f.address is not None and services[f] in sticky]

    def next_steps(self, waits_ns: Sequence[int]) -> Iterable[SequenceStep]:
        """The next steps, mostly one."""
        talks, choices = self._talks, self._choices
        match weighted(
            choices,
            (75 if talks else 0, "go on"), (13, "begin"), (4 if self._changeable else 0, "endpoints"), (4, "wait"),
            (3 if talks else 0, "anew"), (3 if talks else 0, "delete"), (3, "mid-stream"),
            (2 if self._sticky and not self._crowded else 0, "crowd"),
        ):  # fmt: skip
            case "go on":
                return [self._go_on()]
            case "begin":
                return self._begin()
            case "endpoints":
                return [self._change()]
            case "wait":
                return [Wait(pick(choices, waits_ns))]
            case "anew":
                talk = self._recent()
                return self._first(talk.opening)
            case "delete":
                return [DeleteFlow(self._recent().number)]
            case "mid-stream":
                return self._begin(mid_stream=True)
            case _:
                return self._crowd()

    def _recent(self) -> _Talk:
        """One of the six latest flows, most often the last."""
        latest = list(self._talks.values())[:-7:-1]
        return latest[min(weighted(self._choices, (6, 0), (3, 1), (2, 2), (1, 3), (1, 4), (1, 5)), len(latest) - 1)]

    def _go_on(self) -> SequenceStep:
        talk, choices = self._recent(), self._choices
        strays = _STRAY_WORDS.get(talk.opening.tuple.protocol, ["E", "e"])
        match weighted(choices, (80, "next"), (8, "stray"), (6, _AGAIN), (3, _ERROR), (3, "window")):
            case "next" if talk.words:
                return talk.step(talk.words.pop(0))
            case "next" | "stray":
                return talk.step(pick(choices, strays))
            case "window":
                return talk.step(pick(choices, strays), pick(choices, _OTHER_WINDOWS))
            case word:
                return talk.step(word)

    # --- beginnings --------------------------------------------------------------------------------------------------

    def _begin(self, *, mid_stream: bool = False) -> list[SequenceStep]:
        opening = self._draw_opening("tcp" if mid_stream else "")
        if opening is None:
            return [Wait(MILLISECOND_NS)]
        if not mid_stream:
            return self._first(opening)
        talk = self._talk(opening)
        return [MidStream(talk.number, opening, _TCP[pick(self._choices, _MID_STREAM)])]

    def _first(self, opening: Opening) -> list[SequenceStep]:
        talk = self._talk(opening)
        return [FirstPacket(talk.number, opening)]

    def _talk(self, opening: Opening) -> _Talk:
        """Begins a flow with a new life. A flow that has existed keeps its number."""
        number = self._talks[opening].number if opening in self._talks else len(self._talks)
        life = weighted(self._choices, *_LIVES.get(opening.tuple.protocol, _ECHO))
        self._talks.pop(opening, None)  # the latest stands last
        self._talks[opening] = _Talk(number, opening, life)
        return self._talks[opening]

    def _draw_opening(self, protocol: str) -> Opening | None:
        """Draws a client and a destination; None if there is no destination or the client has no source address."""
        choices, around = self._choices, self._around
        dialled = self._draw_destination(protocol)
        if dialled is None:
            return None
        last = next(reversed(self._talks), None)
        if last is not None and self._can_reach(last, dialled.address) and chance(choices, 30):
            # the client of the latest flow, from the same port, to another destination
            return self._opening(Client(last.sender, last.tuple.saddr), dialled, last.tuple.sport)
        by_kind = around.clients(dialled)
        by_kind = {kind: clients for kind, clients in by_kind.items() if kind is not Kind.IMPOSTOR}
        client = pick(choices, by_kind[pick(choices, list(by_kind))][:2])
        return self._opening(client, dialled, pick(choices, _SOURCE_PORTS))

    def _can_reach(self, opening: Opening, address: int) -> bool:
        """Whether the client of an opening can reach an address.

        A client that is bound to loopback reaches only the node.
        """
        own = self._around.own
        return opening.tuple.saddr != own[-1] or address in own

    def _opening(self, client: Client, dialled: Dialled, sport: int) -> Opening | None:
        family, (address, frontend) = self._around.family, dialled
        source = self._around.source_of(client, address)
        protocol, dport = frontend.protocol, frontend.port
        if protocol == "icmp":
            protocol, dport = _ECHO_REQUESTS[family]
        flow = FlowTuple(family, protocol, source, sport, address, dport)
        return Opening(client.sender, flow) if source else None

    def _draw_destination(self, protocol: str) -> Dialled | None:
        choices, around = self._choices, self._around
        served, frontends, ends = (
            [f for f in found if protocol in ("", f.protocol)]
            for found in (self._served, around.frontends, self._endpoints)
        )
        if not frontends and not ends:
            return None
        what, found = weighted(
            choices,
            (20 if served else 0, ("frontend", served)), (4 if frontends else 0, ("frontend", frontends)),
            (3 if ends else 0, ("endpoint", ends)), (1 if frontends and not protocol else 0, ("echo", frontends)),
        )  # fmt: skip
        if what == "endpoint":
            end = pick(choices, found)
            assert end.address is not None
            return Dialled(end.address[1], end)
        dialled = pick(choices, around.dialled(pick(choices, found)))
        return dialled if what == "frontend" else dialled._replace(frontend=dialled.frontend._replace(protocol="icmp"))

    def _crowd(self) -> list[SequenceStep]:
        """Many clients at once, in some cases more than an affinity list holds."""
        self._crowded = True
        frontend, count = pick(self._choices, self._sticky), pick(self._choices, _CROWDS)
        assert frontend.address is not None
        dialled = Dialled(frontend.address[1], frontend)
        first = self._around.outsiders[0]
        openings = (
            self._opening(Client(Sender.EXTERNAL, first + n), dialled, _SOURCE_PORTS[0])
            for n in range(count)
            if not self._around.site.directory.knows((self._around.family, first + n))
        )
        return [step for opening in openings if opening is not None for step in self._first(opening)]

    # --- changes -----------------------------------------------------------------------------------------------------

    def _change(self) -> ChangeEndpoints:
        """Changes a Service's endpoints: each stays, goes or terminates, or all go, or all are as in the beginning."""
        choices, family = self._choices, self._around.family
        service = pick(choices, self._changeable)
        addresses = dict.fromkeys(
            endpoint.addresses[0] for each in slices_of(self._state, service, family) for endpoint in each.endpoints
        )
        fate = weighted(choices, (3, "each"), (2, "none"), (2, "all"))
        states: list[tuple[str, EndpointState]] = []
        for address in addresses if fate != "none" else ():
            state = EndpointState.READY if fate == "all" else weighted(
                choices, (4, EndpointState.READY), (4, None), (2, EndpointState.SERVING), (1, EndpointState.TERMINATING),
                (1, EndpointState.UNREADY),
            )  # fmt: skip
            if state is not None:
                states.append((address, state))
        return ChangeEndpoints(service, family, tuple(states))


def _ends(each: EndpointSlice, family: Family) -> Iterator[Frontend]:
    """The addresses and ports where a slice's endpoints listen."""
    for endpoint in each.endpoints:
        address = parse_ip(endpoint.addresses[0])
        for port in each.ports:
            if address is not None and port.port:
                yield Frontend((family, address[1]), port.port, port.protocol.lower())
