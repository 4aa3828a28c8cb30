"""Draws random probes at a node, most of them to frontends of Services; or makes a systematic list of probes that all
differ in kind.

Counterpart: the first packets of clients. Each probe of a list has its own source port, as long as there are ports
left. So no two probes share a tuple, before or after translation, and all can be sent into one connection table.
"""

import enum
from collections.abc import Iterable, Iterator

from kpsim.addresses import Family, format_ip
from kpsim.objects import Service
from kpsim.tracing.directory import Frontend
from kpsim.tracing.probes import Probe, make_packet
from kpsim.tracing.site import Site
from kpsim.verify.drawing.choices import Choices, pick, weighted
from kpsim.verify.drawing.surroundings import Client, Dialled, Kind, Surroundings

#: classes of source ports, which masquerading keeps (K-2.3); it may keep 512 to 599, and never draws them
PORT_CLASSES = (range(1024, 65536), range(600, 1024), range(512, 600), range(1, 512))
_PROTOCOLS = ("tcp", "udp", "sctp")
_ELSEWHERE = {Family.IPV4: 198 << 24 | 18 << 16 | 9, Family.IPV6: 0x20010DB8_FFFF0000_00000000_00000009}
_SSH = 22  #: a port of the node that belongs to no Service
_TARGET_PORT = 8080


class Aim(enum.StrEnum):
    """What a probe dials."""

    FRONTEND = "frontend"
    OTHER_PORT = "other port"  #: a port of a frontend's address that no Service offers
    OTHER_PROTOCOL = "other protocol"  #: another protocol at a frontend's port
    ECHO = "echo"  #: a ping of a frontend's address
    NOBODY = "unallocated"  #: an address near those of Services that is not in use
    POD = "pod"  #: a pod itself, past the Services
    NODE = "node"  #: a port of the node that belongs to no Service: a closed one, or one for health checks
    PEER = "peer"  #: a port of another node
    OUTSIDE = "outside"


#: kinds of clients, simplest first, with their weights
_KINDS = (
    (4, Kind.POD), (5, Kind.CLIENT), (3, Kind.PROCESS), (2, Kind.HAIRPIN), (2, Kind.BOUND_PROCESS), (2, Kind.PEER),
    (2, Kind.REMOTE_POD), (2, Kind.IMPOSTOR),
)  # fmt: skip


def _from_both_ends(ports: range) -> Iterator[int]:
    """The ports of a class: the first, the last, and so on inwards."""
    for number in range((len(ports) + 1) // 2):
        yield from dict.fromkeys((ports[number], ports[-1 - number]))


class _Ports:
    """Source ports for a list of probes: from both ends of a class, or of the next class if the class is used up."""

    def __init__(self) -> None:
        self._free = list(map(_from_both_ends, PORT_CLASSES))

    def take(self, number: int) -> int:
        for free in (*self._free[number:], *self._free[:number]):
            for port in free:
                return port
        self._free = list(map(_from_both_ends, PORT_CLASSES))  # after 65,535 probes from the beginning
        return self.take(number)


def draw_probes(
    choices: Choices, site: Site, node: str, family: Family, count: int, services: Iterable[Service] = ()
) -> list[Probe]:
    """``count`` random probes at a node, seven of ten to frontends. ``services`` adds source ranges and health check
    ports.
    """
    around = Surroundings.of(site, node, family, services)
    ports = _Ports()
    return [_draw(choices, around, ports, number) for number in range(1, count + 1)]


def every_probe(site: Site, node: str, family: Family, services: Iterable[Service] = ()) -> Iterator[Probe]:
    """Probes from all kinds of clients to all frontends and to what lies beside them, in the order of the Services."""
    around = Surroundings.of(site, node, family, services)
    ports = _Ports()
    asked = ((aim, *question) for aim in Aim for question in _questions(around, aim))
    for number, (aim, dialled, protocol, kind, client) in enumerate(asked, 1):
        yield _probe(around, f"{number} {aim} from {kind}", client, protocol, dialled, ports.take(0))


def _questions(around: Surroundings, aim: Aim) -> Iterator[tuple[Dialled, str, Kind, Client]]:
    for dialled, protocol in dict.fromkeys(_destinations(around, aim)):
        for kind, clients in around.clients(dialled).items():
            match kind:
                case Kind.HAIRPIN | Kind.CLIENT if aim is Aim.FRONTEND:
                    some = clients
                case Kind.BOUND_PROCESS if aim is Aim.FRONTEND:
                    some = clients[:2] + clients[2:][-1:]  # loopback is the last
                case Kind.POD | Kind.CLIENT | Kind.PROCESS:
                    some = clients[:1]
                case _:
                    some = clients[:1] if aim is Aim.FRONTEND else ()
            yield from ((dialled, protocol, kind, client) for client in some)


def _destinations(around: Surroundings, aim: Aim) -> Iterator[tuple[Dialled, str]]:
    """All destinations of an aim, each with a protocol."""
    family = around.family
    match aim:
        case Aim.FRONTEND | Aim.OTHER_PORT | Aim.OTHER_PROTOCOL | Aim.ECHO:
            for frontend in around.frontends:
                for dialled in around.dialled(frontend):
                    yield _beside(around, dialled, aim)
        case Aim.NOBODY:
            for address in around.service_addresses[-1:]:
                yield _plain(family, around.nobodys_service_address(address), 80), "tcp"
        case Aim.POD:
            yield from (
                (_plain(family, pod, _TARGET_PORT), "tcp") for pod in (*around.pods[:2], *around.remote_pods[:2])
            )
        case Aim.NODE:
            ports = (_SSH, *around.health_check_ports)
            yield from ((_plain(family, address, port), "tcp") for address in around.own for port in ports)
        case Aim.PEER:
            yield from ((_plain(family, address, _SSH), "tcp") for address in around.peers[:2])
        case Aim.OUTSIDE:
            yield _plain(family, _ELSEWHERE[family], 443), "tcp"


def _draw(choices: Choices, around: Surroundings, ports: _Ports, number: int) -> Probe:
    some, named = (1 if found else 0 for found in (around.frontends, around.service_addresses))
    aim = weighted(
        choices,
        (70 * some, Aim.FRONTEND), (6 * some, Aim.OTHER_PORT), (5 * some, Aim.OTHER_PROTOCOL), (6 * some, Aim.ECHO),
        (2 * named, Aim.NOBODY), (4 if around.pods or around.remote_pods else 0, Aim.POD), (4, Aim.NODE),
        (2 if around.peers else 0, Aim.PEER), (1, Aim.OUTSIDE),
    )  # fmt: skip
    dialled, protocol = _draw_destination(choices, around, aim)
    by_kind = around.clients(dialled)
    kind = weighted(choices, *((weight, kind) for weight, kind in _KINDS if kind in by_kind))
    client = pick(choices, by_kind[kind])
    sport = ports.take(weighted(choices, (12, 0), (2, 1), (1, 2), (2, 3)))
    return _probe(around, f"{number} {aim} from {kind}", client, protocol, dialled, sport)


def _draw_destination(choices: Choices, around: Surroundings, aim: Aim) -> tuple[Dialled, str]:
    """Draws a destination for an aim, and the protocol to dial it by."""
    match aim:
        case Aim.FRONTEND | Aim.OTHER_PORT | Aim.OTHER_PROTOCOL | Aim.ECHO:
            return _beside(around, pick(choices, around.dialled(pick(choices, around.frontends))), aim)
        case Aim.NOBODY:
            address, port = around.nobodys_service_address(pick(choices, around.service_addresses)), 80
        case Aim.POD:
            address, port = pick(choices, (*around.pods, *around.remote_pods)), _TARGET_PORT
        case Aim.NODE:
            address, port = pick(choices, around.own), pick(choices, (_SSH, *around.health_check_ports))
            if port != _SSH:
                return _plain(around.family, address, port), "tcp"
        case Aim.PEER:
            address, port = pick(choices, around.peers), _SSH
        case Aim.OUTSIDE:
            address, port = _ELSEWHERE[around.family], 443
    protocol = weighted(choices, (5, "tcp"), (3, "udp"), (1, "sctp"), (1, "icmp"))
    return _plain(around.family, address, port), protocol


def _plain(family: Family, address: int, port: int) -> Dialled:
    return Dialled(address, Frontend((family, address), port, "tcp"))


def _beside(around: Surroundings, dialled: Dialled, aim: Aim) -> tuple[Dialled, str]:
    """The destination that an aim means near a frontend's, or that one itself, and the protocol to dial it by."""
    address, frontend = dialled
    match aim:
        case Aim.OTHER_PORT:
            step = 1 if frontend.port & 1 else -1  # beside it, on either side
            port = frontend.port + step
            while around.is_offered(address, port, frontend.protocol):
                port += step
            return Dialled(address, frontend._replace(port=port)), frontend.protocol
        case Aim.OTHER_PROTOCOL:
            others = [p for p in _PROTOCOLS if not around.is_offered(address, frontend.port, p)]
            protocol = others[0] if others else frontend.protocol
            return Dialled(address, frontend._replace(protocol=protocol)), protocol
        case Aim.ECHO:
            return dialled, "icmp"
        case _:
            return dialled, frontend.protocol


def _probe(around: Surroundings, name: str, client: Client, protocol: str, dialled: Dialled, sport: int) -> Probe:
    source = format_ip(around.family, client.source) if client.source else ""
    to, port = format_ip(around.family, dialled.address), dialled.frontend.port
    return Probe(name, around.node, client.sender, make_packet(protocol, to, port, src=source, sport=sport))
