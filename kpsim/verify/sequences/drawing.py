"""Draws random sequences of packets and changes at a node: the next packet, changes of endpoints, pauses.

Counterpart: the lives of connections while a cluster changes. There are few clients, source ports and endpoints, so
that flows meet: one client and port dial Services that share endpoints, and the endpoints themselves (K-2.3, K-2.4).
A flow is drawn as if its packets get through, whether they do or not.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from kpsim.addresses import Family, parse_ip
from kpsim.cluster import ClusterState
from kpsim.conntrack import FlowTuple
from kpsim.inputs import Json
from kpsim.objects import EndpointSlice
from kpsim.packet import ICMP_PROTOCOLS, Window
from kpsim.tracing.directory import Frontend
from kpsim.tracing.site import Sender, Site
from kpsim.units import HOUR_NS, MILLISECOND_NS, SECOND_NS
from kpsim.verify.drawing.changes import changed_configuration, changed_service
from kpsim.verify.drawing.choices import Choices, chance, pick, weighted
from kpsim.verify.drawing.surroundings import Client, Dialled, Kind, Surroundings
from kpsim.verify.sequences.steps import (
    ChangeEndpoints,
    ChangeService,
    ClientSegment,
    DeleteFlow,
    EndpointState,
    FirstPacket,
    Flush,
    MidStream,
    Opening,
    Restart,
    Retransmit,
    RouterError,
    SequenceStep,
    ServerError,
    ServerSegment,
    StrayError,
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
#: what packets say that begin no flow in the usual way, by protocol. No stack sends some of the flags (K-6.3)
_ODD_WORDS = {
    "tcp": (
        "ACK", "PSH ACK", "SYN ACK", "FIN ACK", "RST", "RST ACK", "FIN", "SYN FIN", "SYN RST", "", "PSH", "URG",
        "FIN PSH URG", "SYN URG", "ACK URG", "FIN ACK URG", "SYN FIN ACK", "SYN DAMAGED", "ACK DAMAGED", "SYN LAST-HOP",
    ),
    "udp": ("LAST-HOP", "DAMAGED"),
    "sctp": (
        "INIT_ACK", "COOKIE_ECHO", "COOKIE_ACK", "DATA", "SACK", "HEARTBEAT", "HEARTBEAT_ACK", "ABORT", "SHUTDOWN",
        "SHUTDOWN_ACK", "SHUTDOWN_COMPLETE", "ERROR", "INIT DAMAGED", "INIT LAST-HOP",
    ),
    "icmp": ("0/0", "14/0", "15/0", "17/0", "18/0", "8/0 DAMAGED", "8/0 LAST-HOP"),
    "icmpv6": ("129/0", "139/0", "140/0", "128/0 DAMAGED", "128/0 LAST-HOP"),
}  # fmt: skip
#: ICMP errors by type and code: no hop left, too big, unreachable in several ways, a bad header
_ERRORS = {
    Family.IPV4: ("11/0", "3/4", "3/1", "3/3", "3/13", "11/1", "12/0"),
    Family.IPV6: ("3/0", "2/0", "1/0", "1/1", "1/4", "3/1", "4/0"),
}
_CLOSE_NS = 300 * MILLISECOND_NS  #: how near to the end of an affinity it is tried
_VISITORS = 5  #: clients who come again before and after the end of an affinity
_RECENT_TALKS = 6
_MOST_FRONTENDS = 4
_SHORT_AFFINITY_S = 2
_OTHER_WINDOWS = [window for window in Window if window is not Window.EXACT]
_SOURCE_PORTS = (40000, 40000, 40000, 40001, 700, 300)  #: few ports, from each class that masquerading keeps (K-2.3)
_ECHO_REQUESTS = {Family.IPV4: ("icmp", 8 * 256), Family.IPV6: ("icmpv6", 128 * 256)}
_CROWDS = (4, 101, 110)  #: numbers of clients around the hundred sources that an affinity list holds (K-4.1)


#: which of a flow's packets a router tells about
_ABOUT: tuple[Literal["request", "answer"], ...] = ("request", "answer")
_LONG_NS = 100 * MILLISECOND_NS


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
    *, waits_ns: Sequence[int] = SHORT_WAITS_NS, patience: int = 100, configuration: Json | None = None, resets: bool = False,
) -> list[SequenceStep]:  # fmt: skip
    """At least ``length`` steps at a node, more if the last draw is several.

    ``state`` is the cluster that ``site`` belongs to, ``configuration`` its KubeProxyConfiguration: without one,
    kube-proxy is not restarted, and keeps its rules. ``resets``: TCP resets without a connection are drawn often.

    Waits are drawn from ``waits_ns``. ``patience`` is how many of them may last longer than a tenth of a second.
    """
    around = Surroundings.of(site, node, family, state.services)
    drawing = _Drawing(choices, around, state, configuration, patience, resets=resets)
    steps: list[SequenceStep] = []
    while len(steps) < length:
        steps += drawing.next_steps(waits_ns)
    return steps


class _Drawing:
    """The state of a sequence while it is drawn."""

    def __init__(
        self, choices: Choices, around: Surroundings, state: ClusterState, configuration: Json | None, patience: int,
        *, resets: bool,
    ) -> None:  # fmt: skip
        self._choices, self._around, self._state = choices, around, state
        self._configuration, self._patience, self._resets = configuration, patience, resets
        self._talks: dict[Opening, _Talk] = {}
        self._crowded = False
        #: Services by ``namespace/name``, as they were in the beginning
        self._services = {f"{s.metadata.namespace}/{s.metadata.name}": s.json for s in state.services if s.ports}
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
        self._datagrams = [f for f in self._served if f.protocol == "udp"]
        short = {
            f"{s.metadata.namespace}/{s.metadata.name}": seconds
            for s in state.services
            if s.session_affinity == "ClientIP"
            and 0 < (seconds := s.affinity_timeout_seconds or 0) <= _SHORT_AFFINITY_S
        }
        #: frontends whose affinities end soon, with the seconds
        self._fleeting = [(f, short[services[f]]) for f in self._sticky if services[f] in short and f in self._served]

    def next_steps(self, waits_ns: Sequence[int]) -> Iterable[SequenceStep]:  # noqa: C901 - one case per kind
        """The next steps, mostly one."""
        talks, choices = self._talks, self._choices
        changeable = 4 if self._changeable else 0
        match weighted(
            choices,
            (190 if talks else 0, "go on"), (13, "begin"), (changeable, "endpoints"), (4, "wait"),
            (3 if talks else 0, "anew"), (3 if talks else 0, "delete"), (8, "odd"),
            (2 if self._sticky and not self._crowded else 0, "crowd"), (8 if talks else 0, "router"), (6, "stray error"),
            (4 if self._services else 0, "service"), (3 if self._configuration is not None else 0, "restart"),
            (1 if self._configuration is not None else 0, "flush"),
            (8 if self._fleeting and self._patience > 1 else 0, "visits"), (10 if self._datagrams else 0, "stale"),
            (60 if self._resets else 0, "reset"), (4, "life"),
        ):  # fmt: skip
            case "go on":
                return [self._go_on()]
            case "begin":
                return self._begin()
            case "endpoints":
                return [self._change()]
            case "wait":
                return self._wait(waits_ns)
            case "anew":
                return self._first(self._recent().opening)
            case "delete":
                return [DeleteFlow(self._recent().number)]
            case "odd":
                return self._begin(says=None)
            case "router":
                about = pick(choices, _ABOUT)
                return [RouterError(self._recent().number, about, pick(choices, _ERRORS[self._around.family]))]
            case "stray error":
                return self._stray_error()
            case "service":
                return [self._change_service()]
            case "restart":
                return [self._restart()]
            case "flush":
                return [Flush()]
            case "visits":
                return self._visits()
            case "stale":
                return self._stale()
            case "life":
                return self._life()
            case "reset":
                return self._begin("tcp", says=pick(choices, ("RST", "RST ACK")))
            case _:
                return self._crowd()

    def _wait(self, waits_ns: Sequence[int]) -> list[SequenceStep]:
        """A wait. Behind a long one, each of the latest flows goes on: some of their timers have ended."""
        duration_ns = pick(self._choices, waits_ns)
        if duration_ns <= _LONG_NS:
            return [Wait(duration_ns)]
        if not self._patience:
            return [Wait(MILLISECOND_NS)]
        self._patience -= 1
        again = [self._go_on() for _ in range(min(_RECENT_TALKS, len(self._talks)))]
        return [Wait(duration_ns), *again]

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

    def _begin(self, protocol: str = "", *, says: str | None = "") -> list[SequenceStep]:
        """A flow, which begins with a first packet, or with one that ``says`` this; None: that says anything odd."""
        opening = self._draw_opening(protocol)
        if opening is None:
            return [Wait(MILLISECOND_NS)]
        if says == "":
            return self._first(opening)
        talk = self._talk(opening)
        said = pick(self._choices, _ODD_WORDS[opening.tuple.protocol]) if says is None else says
        return [MidStream(talk.number, opening, said)]

    def _stray_error(self) -> list[SequenceStep]:
        opening = self._draw_opening("")
        if opening is None or opening.tuple.protocol in ICMP_PROTOCOLS:
            return [Wait(MILLISECOND_NS)]
        number = self._talk(opening).number
        return [StrayError(number, opening, pick(self._choices, _ERRORS[self._around.family]))]

    def _first(self, opening: Opening) -> list[SequenceStep]:
        talk = self._talk(opening)
        return [FirstPacket(talk.number, opening)]

    def _life(self) -> list[SequenceStep]:
        """A flow from its first word to its last, with nothing in between. The rare lives come as often as the usual ones."""
        opening = self._draw_opening("")
        if opening is None:
            return [Wait(MILLISECOND_NS)]
        talk = self._talk(opening)
        lives = [life for _, life in _LIVES.get(opening.tuple.protocol, _ECHO)]
        words, talk.words = pick(self._choices, lives).split()[1:], []
        return [FirstPacket(talk.number, opening), *(talk.step(word) for word in words)]

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

    def _visits(self) -> list[SequenceStep]:
        """Clients come to a Service, come again shortly before their affinity ends, and shortly after it has ended."""
        frontend, seconds = pick(self._choices, self._fleeting)
        assert frontend.address is not None
        self._patience -= 2
        dialled = Dialled(frontend.address[1], frontend)
        clients = [Client(Sender.EXTERNAL, self._around.outsiders[0] + n) for n in range(_VISITORS)]
        clients = [c for c in clients if not self._around.site.directory.knows((self._around.family, c.source))]
        steps: list[SequenceStep] = []
        for turn, pause_ns in enumerate((0, seconds * SECOND_NS - _CLOSE_NS, seconds * SECOND_NS + _CLOSE_NS)):
            steps += [Wait(pause_ns)] if pause_ns else []
            for client in clients:
                opening = self._opening(client, dialled, _SOURCE_PORTS[0] + 10 + turn)
                steps += self._first(opening) if opening is not None else []
        return steps

    # --- changes -----------------------------------------------------------------------------------------------------

    def _stale(self) -> list[SequenceStep]:
        """Datagrams to all frontends of a Service, then a change of its endpoints, and the datagrams once more: kube-proxy
        ends the flows whose endpoint is gone (CT-2).
        """
        services, around = self._around.site.directory.services, self._around
        service = pick(self._choices, sorted({services[f] for f in self._datagrams}))
        clients = [Client(Sender.EXTERNAL, source) for source in around.outsiders]
        steps: list[SequenceStep] = []
        for frontend in [f for f in self._datagrams if services[f] == service][:_MOST_FRONTENDS]:
            dialled = around.dialled(frontend)[0]
            for client in clients:
                opening = self._opening(client, dialled, pick(self._choices, _SOURCE_PORTS))
                steps += self._first(opening) if opening is not None else []
        again = [Retransmit(step.flow) for step in steps if isinstance(step, FirstPacket)]
        return [*steps, self._halve(service), *again]

    def _addresses(self, service: str) -> list[str]:
        """The addresses of a Service's endpoints in the beginning."""
        slices = slices_of(self._state, service, self._around.family)
        return list(dict.fromkeys(endpoint.addresses[0] for each in slices for endpoint in each.endpoints))

    def _halve(self, service: str) -> ChangeEndpoints:
        """Every other endpoint of a Service goes, the others are ready."""
        addresses, first = self._addresses(service), self._choices.below(2)
        kept = addresses[first::2] or addresses
        return ChangeEndpoints(service, self._around.family, tuple((address, EndpointState.READY) for address in kept))

    def _change(self) -> ChangeEndpoints:
        """Changes a Service's endpoints: each stays, goes or terminates, or all go, or all are as in the beginning."""
        choices, family = self._choices, self._around.family
        service = pick(choices, self._changeable)
        addresses = self._addresses(service)
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

    def _change_service(self) -> ChangeService:
        name = pick(self._choices, sorted(self._services))
        changed = changed_service(self._choices, self._services[name])
        return ChangeService(name, "" if changed is None else json.dumps(changed, sort_keys=True))

    def _restart(self) -> Restart:
        assert self._configuration is not None
        return Restart(json.dumps(changed_configuration(self._choices, self._configuration), sort_keys=True))


def _ends(each: EndpointSlice, family: Family) -> Iterator[Frontend]:
    """The addresses and ports where a slice's endpoints listen."""
    for endpoint in each.endpoints:
        address = parse_ip(endpoint.addresses[0])
        for port in each.ports:
            if address is not None and port.port:
                yield Frontend((family, address[1]), port.port, port.protocol.lower())
