"""Many nodes and the world around them: a packet from node to node, and its answer back through the same bindings.

Counterpart: the wires, bridges and routers of a cluster with a plain routed pod network (kubenet). The fabric knows
which machine or pod is behind an interface. ``netfilter.walk`` says what a node does to a packet.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import NamedTuple, Protocol

from kpsim.addresses import Family, Network
from kpsim.errors import InputError, Problem
from kpsim.flowstate import ICMP_REQUESTS
from kpsim.netfilter import Disposition, Netns, Walk, walk
from kpsim.nodes import Machine
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.packetpath.chooser import Chooser
from kpsim.packetpath.routing import InterfaceKind, RouteKind, Routing

_ROUTING = attrgetter("routing")
_SYN_ACK = frozenset({"SYN", "ACK"})
_SCTP_ANSWERS = {"INIT": "INIT_ACK", "COOKIE_ECHO": "COOKIE_ACK", "HEARTBEAT": "HEARTBEAT_ACK"}


class Whose(enum.StrEnum):
    """The kind of sender or receiver at an end of a packet's way."""

    POD = "pod"
    PROCESS = "process"  #: of a node, in its host network
    OUTSIDE = "outside"


class Place(NamedTuple):
    """Where a packet starts or ends. ``address`` distinguishes the pods of a node; it is 0 if it is not a pod."""

    whose: Whose
    node: str = ""
    address: int = 0


class Hop(NamedTuple):
    """A node that a packet passed, and what became of it there."""

    node: str
    walk: Walk


@dataclass(frozen=True, slots=True)
class Journey:
    """The way of one packet. ``disposition`` is DELIVERED at a pod or process, FORWARDED if it left to the outside."""

    origin: Place
    sent: Packet  #: as the sender sent it
    hops: tuple[Hop, ...]
    disposition: Disposition
    end: Place | None  #: None: it got nowhere
    packet: Packet  #: as the last node left it

    @property
    def last(self) -> Walk | None:
        """What the last node did; None: no node saw the packet."""
        return self.hops[-1].walk if self.hops else None


class Arrival(NamedTuple):
    """The next node of a packet, and the interface by which the packet comes in there."""

    node: str
    interface: str


class Wiring(Protocol):
    """The nodes and the places of addresses: all that :func:`send` needs besides the walks."""

    def netns(self, node: str, family: Family) -> Netns:
        """The node's namespace with its rules of the family. InputError if there is no such node."""

    def origin(self, packet: Packet, node: str) -> Place:
        """The place that has the packet's source address, as far as ``node`` can tell."""

    def next_node(self, packet: Packet, next_hop: int, node: str) -> Arrival | None:
        """The next node of a packet that left ``node`` by a link; None: the packet goes to the outside."""

    def entrance(self, place: Place, packet: Packet, node: str) -> Arrival | None:
        """The node that a packet from ``place`` meets first, and the interface there (empty: the node made the packet).

        None: no node sees the packet. ``node`` is the last node that the connection passed.
        """


class Layout:
    """Finds the place that has an address, with dictionaries made once from the nodes' routings.

    If several nodes have an address, the first of them counts, as if the nodes were searched in order.
    """

    def __init__(self, nodes: Mapping[str, Routing]) -> None:
        self._nodes = nodes
        self._order = {name: number for number, name in enumerate(nodes)}
        self._processes: dict[tuple[Family, int], str] = {}
        self._neighbours: dict[tuple[Family, int], Arrival] = {}
        #: family → prefix length → base of a network: the nodes with a route of this network to their pods
        self._pods: dict[Family, dict[int, dict[int, list[str]]]] = {family: {} for family in Family}
        for name, routing in nodes.items():
            self._add_own(name, routing)
            for network in dict.fromkeys(_pod_networks(routing)):
                by_base = self._pods[network.family].setdefault(network.prefix, {})
                by_base.setdefault(network.base, []).append(name)

    def _add_own(self, name: str, routing: Routing) -> None:
        for family in Family:
            for address in routing.addresses(family):
                interface = routing.interface_of(family, address)
                assert interface is not None
                if interface.kind is not InterfaceKind.LOOPBACK:
                    self._processes.setdefault((family, address), name)
                if interface.kind is InterfaceKind.LINK and interface.up:
                    self._neighbours.setdefault((family, address), Arrival(name, interface.name))

    def place_of(self, family: Family, address: int) -> Place:
        node = self._processes.get((family, address))
        if node is not None:
            return Place(Whose.PROCESS, node)
        candidates = [
            name
            for prefix, by_base in self._pods[family].items()
            for name in by_base.get(address & family.mask(prefix), ())
        ]
        for name in sorted(candidates, key=self._order.__getitem__):
            # the node may have a route with a longer prefix that leads the address elsewhere
            if _interface_of_pod(self._nodes[name], family, address) is not None:
                return Place(Whose.POD, name, address)
        return Place(Whose.OUTSIDE)

    def neighbour(self, family: Family, address: int) -> Arrival | None:
        return self._neighbours.get((family, address))


def _pod_networks(routing: Routing) -> Iterator[Network]:
    """Every network that a node may route to its own pods, from its routes and from its interfaces' addresses."""
    for interface in routing.interfaces.values():
        if interface.has_pods:
            yield from (address.network for address in interface.addresses)
    for route in routing.routes:
        if route.interface in routing.interfaces and routing.interfaces[route.interface].has_pods:
            yield route.network


class Fabric:
    """Nodes by name, joined by one link with a gateway to the outside that knows the nodes' addresses."""

    def __init__(self, nodes: Mapping[str, Netns]) -> None:
        self.nodes = dict(nodes)
        self._routings: list[Routing] = []
        self._found = Layout({})

    def netns(self, node: str, family: Family) -> Netns:
        if node not in self.nodes:
            raise InputError(Problem(f"no such node: {node!r} (there are {', '.join(sorted(self.nodes))})"))
        return self.nodes[node]

    def origin(self, packet: Packet, node: str) -> Place:
        return self.place_of(packet.family, packet.saddr)

    def next_node(self, packet: Packet, next_hop: int, node: str) -> Arrival | None:
        found = self.neighbour(packet.family, next_hop)
        if found is None and next_hop != packet.daddr:
            found = self.neighbour(packet.family, packet.daddr)
        return found

    def entrance(self, place: Place, packet: Packet, node: str) -> Arrival | None:
        match place.whose:
            case Whose.PROCESS:
                return Arrival(place.node, "")
            case Whose.POD:
                routing = self.nodes[place.node].routing
                return Arrival(place.node, _interface_of_pod(routing, packet.family, packet.saddr) or "")
            case Whose.OUTSIDE:
                found = self.neighbour(packet.family, packet.daddr)
                to = self.place_of(packet.family, packet.daddr)
                if found is None and to.whose is Whose.POD:
                    found = Arrival(to.node, _link(self.nodes[to.node]))
                return found

    def place_of(self, family: Family, address: int) -> Place:
        """The place that has an address. An address on several nodes (a VIP) belongs to the first of them."""
        return self.layout().place_of(family, address)

    def neighbour(self, family: Family, address: int) -> Arrival | None:
        """The node and the interface that answer for an address on the link; None: no node does."""
        return self.layout().neighbour(family, address)

    def layout(self) -> Layout:
        """Who has which address. The dictionaries are made anew if some node's ``routing`` was assigned since."""
        routings = list(map(_ROUTING, self.nodes.values()))
        if routings != self._routings:  # routings are compared by identity
            self._routings = routings
            self._found = Layout(dict(zip(self.nodes, routings, strict=True)))
        return self._found


def fabric_of(machines: Mapping[str, Machine]) -> Fabric:
    """The fabric of these machines. Their nodes have no rules yet."""
    return Fabric({name: Netns(name, machine.routing, machine.sysctls) for name, machine in machines.items()})


# --- the way of a packet ----------------------------------------------------------------------------------------------


def send(
    wiring: Wiring,
    packet: Packet,
    *,
    at_node: str,
    now_ns: int,
    chooser: Chooser,
    local: bool = False,
    trace: bool = False,
    commit: bool = True,
    until_translated: bool = False,
) -> Journey:
    """Follows a packet from node to node. InputError if there is no such node.

    ``at_node`` is the node whose process makes the packet (``local``), or the node where it comes in. If
    ``packet.in_interface`` is empty, it comes in from where its source is. With ``commit=False`` no node remembers the
    packet. With ``until_translated`` the way ends at the node that gave the packet its endpoint.
    """
    netns = wiring.netns(at_node, packet.family)
    origin = Place(Whose.PROCESS, at_node) if local else wiring.origin(packet, at_node)
    sent, hops, node = packet.copy(), list[Hop](), at_node
    while True:
        step = walk(netns, packet, now_ns=now_ns, chooser=chooser, local=local, trace=trace)
        if commit:
            netns.commit(step.effects, now_ns)
        hops.append(Hop(node, step))
        if local and not sent.saddr:  # the process bound no source address, so the kernel chose one (K-2.1)
            sent.saddr = netns.routing.source_for(packet.family, packet.daddr) or 0
        reached = _reached(wiring, node, netns, step)
        if until_translated and step.binds and isinstance(reached, Arrival):
            reached = step.disposition, None
        if not isinstance(reached, Arrival):
            return Journey(origin, sent, tuple(hops), *reached, step.packet)
        node, local = reached.node, False
        netns = wiring.netns(node, packet.family)
        packet = step.packet.copy()
        packet.in_interface, packet.out_interface, packet.mark = reached.interface, "", 0  # marks do not travel


def _reached(wiring: Wiring, node: str, netns: Netns, step: Walk) -> Arrival | tuple[Disposition, Place | None]:
    """The next node of a packet, or its disposition and the place where it ended."""
    if step.disposition is Disposition.DELIVERED:
        return step.disposition, Place(Whose.PROCESS, node)
    if step.disposition is not Disposition.FORWARDED:
        return step.disposition, None
    assert step.next_hop is not None
    return _behind(wiring, node, netns, step.packet, step.packet.out_interface, step.next_hop)


def _behind(
    wiring: Wiring, node: str, netns: Netns, packet: Packet, interface: str, next_hop: int
) -> Arrival | tuple[Disposition, Place | None]:
    """What a packet reaches that leaves a node by an interface towards ``next_hop``."""
    match netns.routing.interfaces[interface].kind:
        case InterfaceKind.BRIDGE | InterfaceKind.VETH:
            return Disposition.DELIVERED, Place(Whose.POD, node, next_hop)
        case InterfaceKind.LINK:
            return wiring.next_node(packet, next_hop, node) or (Disposition.FORWARDED, Place(Whose.OUTSIDE))
        case InterfaceKind.DUMMY | InterfaceKind.LOOPBACK:
            return Disposition.DROPPED, None  # there is no machine and no pod behind it


def send_from(
    wiring: Wiring,
    place: Place,
    packet: Packet,
    *,
    last_node: str,
    now_ns: int,
    chooser: Chooser,
    trace: bool = False,
) -> Journey:
    """Sends a packet from a place. ``last_node`` is the last node that the connection passed on the way to the place.

    If no node sees the packet, it reaches the outside as it is.
    """
    entrance = wiring.entrance(place, packet, last_node)
    if entrance is None:
        return Journey(place, packet, (), Disposition.FORWARDED, Place(Whose.OUTSIDE), packet)
    local = place.whose is Whose.PROCESS
    packet = packet.copy()
    packet.in_interface = entrance.interface
    return send(wiring, packet, at_node=entrance.node, now_ns=now_ns, chooser=chooser, local=local, trace=trace)


def reply(wiring: Wiring, journey: Journey, *, now_ns: int, chooser: Chooser, trace: bool = False) -> Journey:
    """Sends the answer to ``journey``'s packet from the place where the packet ended.

    InputError if it reached no place.
    """
    end = journey.end
    if end is None:
        raise InputError(Problem(f"nobody got the packet, so nobody answers: {journey.packet}"))
    return send_from(
        wiring, end, answer_to(journey.packet), last_node=_last_node(journey), now_ns=now_ns, chooser=chooser, trace=trace
    )  # fmt: skip


def _last_node(journey: Journey) -> str:
    return journey.hops[-1].node if journey.hops else ""


def tell(
    wiring: Wiring, packet: Packet, *, by_node: str, now_ns: int, chooser: Chooser, trace: bool = False
) -> Journey:
    """Takes a packet on that a node's kernel has sent already, such as the answer to a rejected one (K-3).

    The packet has passed the hooks of ``by_node``; the hops of the journey are the nodes after it.
    """
    netns = wiring.netns(by_node, packet.family)
    origin = Place(Whose.PROCESS, by_node)
    decision = netns.routing.lookup(packet.family, packet.daddr)
    if decision is None or decision.kind not in (RouteKind.LOCAL, RouteKind.UNICAST):
        return Journey(origin, packet, (), Disposition.DROPPED, None, packet)
    if decision.kind is RouteKind.LOCAL:
        return Journey(origin, packet, (), Disposition.DELIVERED, Place(Whose.PROCESS, by_node), packet)
    reached = _behind(wiring, by_node, netns, packet, decision.interface, decision.next_hop)
    if not isinstance(reached, Arrival):
        return Journey(origin, packet, (), *reached, packet)
    arriving = packet.copy()
    arriving.in_interface = reached.interface
    journey = send(wiring, arriving, at_node=reached.node, now_ns=now_ns, chooser=chooser, trace=trace)
    return replace(journey, origin=origin, sent=packet)


def answer_to(packet: Packet) -> Packet:
    """The packet that a server answers to a first packet: a SYN-ACK, an echo reply, a datagram."""
    sport, dport = packet.dport, packet.sport
    if packet.protocol in ICMP_PROTOCOLS:
        sport, dport = dport, sport
    return replace(
        packet,
        saddr=packet.daddr, daddr=packet.saddr, sport=sport, dport=dport, tcp_flags=_SYN_ACK,
        icmp_type=ICMP_REQUESTS.get(packet.protocol, {}).get(packet.icmp_type, packet.icmp_type), sctp_chunk=_SCTP_ANSWERS.get(packet.sctp_chunk, "DATA"),
        ttl=64, mark=0, in_interface="", out_interface="", related=None, uid=0, gid=0, numbers=None, sourced=False,
        repeated=False, traffic_class=packet.traffic_class if packet.protocol in ICMP_PROTOCOLS else 0,
    )  # fmt: skip


def _interface_of_pod(routing: Routing, family: Family, address: int) -> str | None:
    """The interface behind which a node has a pod with this address; None if the node routes the address elsewhere."""
    decision = routing.lookup(family, address)
    if decision is None or decision.route is None or decision.interface not in routing.interfaces:
        return None
    return decision.interface if routing.interfaces[decision.interface].has_pods else None


def _link(netns: Netns) -> str:
    links = (interface.name for interface in netns.routing.interfaces.values() if interface.kind is InterfaceKind.LINK)
    return next(links, "")
