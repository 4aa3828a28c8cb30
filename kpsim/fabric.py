"""Many nodes and the world around them: a packet from node to node, and its answer back through the same bindings.

Counterpart: the wires, bridges and routers of a cluster with a plain routed pod network (kubenet). It knows who is behind an
interface; what a node does to a packet it never knows, that is ``netfilter.walk``'s.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from kpsim.addresses import Family, Network, format_ip, parse_ip, parse_network
from kpsim.conntrack import tuple_of
from kpsim.errors import InputError, Problem
from kpsim.netfilter import Disposition, Netns, Walk, walk
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.packetpath.chooser import Chooser
from kpsim.packetpath.flowstate import ICMP_REQUESTS
from kpsim.packetpath.routing import Address, Interface, Port, Route, Routing
from kpsim.packetpath.sysctls import Sysctls

_DEFAULT_PREFIX = {Family.IPV4: 24, Family.IPV6: 64}
_SYN_ACK = frozenset({"SYN", "ACK"})
_SCTP_ANSWERS = {"INIT": "INIT_ACK", "COOKIE_ECHO": "COOKIE_ACK", "HEARTBEAT": "HEARTBEAT_ACK"}


class Whose(enum.StrEnum):
    """Who is at the end of a packet's way."""

    POD = "pod"
    PROCESS = "process"  #: of a node, in its host network
    OUTSIDE = "outside"


class Place(NamedTuple):
    """Where a packet starts or ends. ``address`` distinguishes the pods of a node; it is 0 for the others."""

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


class Failure(enum.StrEnum):
    """Why a client's connection does not work."""

    NONE = ""
    REJECTED = "the request was rejected"
    DROPPED = "the request was dropped"
    UNKNOWN = "the request met a rule that is not modelled"
    NOBODY_THERE = "the request left to where nobody answers"
    ANSWER_LOST = "the answer was dropped on its way"
    ANSWER_ELSEWHERE = "the answer went to somebody else"
    ANSWER_FROM_WRONG_ADDRESS = "the answer reached the client from an address it does not talk to"  #: PP-5.5


@dataclass(frozen=True, slots=True)
class Exchange:
    """A first packet and its answer: does the client's connection work?"""

    request: Journey
    answer: Journey | None
    failure: Failure

    @property
    def works(self) -> bool:
        return self.failure is Failure.NONE


class Fabric:
    """Nodes by name, joined by one link with a gateway to the outside.

    ``absent``: pod addresses behind a bridge that nobody answers for: packets to them end in host unreachable (K-1.6).
    ``outside``: networks outside the cluster whose hosts answer; nobody else does. The gateway knows the nodes' addresses,
    and their pod networks if ``gateway_routes_pods``.
    """

    def __init__(
        self,
        nodes: Mapping[str, Netns],
        *,
        outside: Iterable[Network] = (),
        absent: Iterable[tuple[Family, int]] = (),
        gateway_routes_pods: bool = False,
    ) -> None:
        self.nodes = dict(nodes)
        self.outside = tuple(outside)
        self.absent = frozenset(absent)
        self.gateway_routes_pods = gateway_routes_pods

    def place_of(self, family: Family, address: int) -> Place:
        """Who has an address; an address on several nodes (a VIP) belongs to the first of them."""
        for name, netns in self.nodes.items():
            interface = netns.routing.interface_of(family, address)
            if interface is not None and interface.kind is not Port.LOOPBACK:
                return Place(Whose.PROCESS, name)
        for name, netns in self.nodes.items():
            if _bridge_towards(netns, family, address) is not None:
                return Place(Whose.POD, name, address)
        return Place(Whose.OUTSIDE)

    def neighbour(self, family: Family, address: int) -> tuple[str, str] | None:
        """The node, and its interface, that answers for an address on the link."""
        for name, netns in self.nodes.items():
            interface = netns.routing.interface_of(family, address)
            if interface is not None and interface.kind is Port.LINK and interface.up:
                return name, interface.name
        return None

    def beyond_gateway(self, family: Family, address: int) -> tuple[str, str] | None:
        """Where the gateway sends a packet for the cluster; None: to the outside."""
        if found := self.neighbour(family, address):
            return found
        place = self.place_of(family, address)
        if place.whose is Whose.POD and self.gateway_routes_pods:
            return place.node, _link(self.nodes[place.node])
        return None


def send(
    fabric: Fabric,
    packet: Packet,
    *,
    at_node: str,
    now_ns: int,
    chooser: Chooser,
    local: bool = False,
    trace: bool = False,
    commit: bool = True,
) -> Journey:
    """Follows a packet from node to node. ``commit=False`` asks only what would happen: no node remembers it.

    ``at_node`` is the node that makes it (``local``) or where it comes in; ``packet.in_interface`` empty: from where its
    source is. InputError if there is no such node.
    """
    if at_node not in fabric.nodes:
        raise InputError(Problem(f"no such node: {at_node!r} (there are {', '.join(sorted(fabric.nodes))})"))
    origin = Place(Whose.PROCESS, at_node) if local else fabric.place_of(packet.family, packet.saddr)
    sent, hops, node = packet.copy(), list[Hop](), at_node
    while True:
        netns = fabric.nodes[node]
        step = walk(netns, packet, now_ns=now_ns, chooser=chooser, local=local, trace=trace)
        if commit:
            netns.commit(step.effects, now_ns)
        hops.append(Hop(node, step))
        if local and not hops[1:] and not sent.saddr:
            sent.saddr = _chosen_source(netns, packet)
        if step.disposition is not Disposition.FORWARDED:
            end = Place(Whose.PROCESS, node) if step.disposition is Disposition.DELIVERED else None
            return Journey(origin, sent, tuple(hops), step.disposition, end, step.packet)
        onward = _onward(fabric, node, step)
        if not isinstance(onward, Arrival):
            return Journey(origin, sent, tuple(hops), *onward, step.packet)
        node, local = onward.node, False
        packet = step.packet.copy()
        packet.in_interface, packet.out_interface, packet.mark = onward.interface, "", 0  # marks do not travel


class Arrival(NamedTuple):
    """The next node of a packet and the interface it comes in by."""

    node: str
    interface: str


def _onward(fabric: Fabric, node: str, step: Walk) -> Arrival | tuple[Disposition, Place | None]:
    """Where a packet goes that left a node: to the next, or what has become of it."""
    packet, family = step.packet, step.packet.family
    interface = fabric.nodes[node].routing.interfaces[packet.out_interface]
    assert step.next_hop is not None
    if interface.kind is Port.BRIDGE:
        if (family, step.next_hop) in fabric.absent:
            return Disposition.REJECTED, None  # no ARP answer: host unreachable after some seconds (K-1.6)
        return Disposition.DELIVERED, Place(Whose.POD, node, step.next_hop)
    if interface.kind is not Port.LINK:
        return Disposition.DROPPED, None  # nothing is behind a dummy device
    found = fabric.neighbour(family, step.next_hop)
    if found is None and step.next_hop != packet.daddr:
        found = fabric.beyond_gateway(family, packet.daddr)
    if found is None:
        return Disposition.FORWARDED, Place(Whose.OUTSIDE)
    return Arrival(*found)


def _chosen_source(netns: Netns, packet: Packet) -> int:
    return packet.saddr or netns.routing.source_for(packet.family, packet.daddr) or 0


def reply(fabric: Fabric, journey: Journey, *, now_ns: int, chooser: Chooser, trace: bool = False) -> Journey:
    """Sends the answer of whoever got ``journey``'s packet. InputError if nobody did."""
    end = journey.end
    if end is None:
        raise InputError(Problem(f"nobody got the packet, so nobody answers: {journey.packet}"))
    packet = answer_to(journey.packet)
    if end.whose is Whose.OUTSIDE:
        found = fabric.neighbour(packet.family, packet.daddr)
        place = fabric.place_of(packet.family, packet.daddr)
        if found is None and place.whose is Whose.POD:
            found = place.node, _link(fabric.nodes[place.node])
        if found is None:
            return Journey(end, packet, (), Disposition.FORWARDED, Place(Whose.OUTSIDE), packet)
        at_node, packet.in_interface = found
        return send(fabric, packet, at_node=at_node, now_ns=now_ns, chooser=chooser, trace=trace)
    if end.whose is Whose.PROCESS:
        return send(fabric, packet, at_node=end.node, now_ns=now_ns, chooser=chooser, local=True, trace=trace)
    netns = fabric.nodes[end.node]
    bridge = _bridge_towards(netns, packet.family, packet.saddr)
    packet.in_interface = bridge or ""
    switched = bridge is not None and bridge == _bridge_towards(netns, packet.family, packet.daddr)
    past_netfilter = not netns.sysctls.bridge_nf_call_iptables
    if switched and past_netfilter and not netns.routing.is_local(packet.family, packet.daddr):
        # nothing un-NATs what the bridge switches by itself (K-2.6)
        return Journey(end, packet, (), Disposition.DELIVERED, Place(Whose.POD, end.node, packet.daddr), packet)
    return send(fabric, packet, at_node=end.node, now_ns=now_ns, chooser=chooser, trace=trace)


def exchange(
    fabric: Fabric,
    packet: Packet,
    *,
    at_node: str,
    now_ns: int,
    chooser: Chooser,
    local: bool = False,
    trace: bool = False,
) -> Exchange:
    """Sends a first packet and its answer, and tells whether the client gets what it waits for."""
    request = send(fabric, packet, at_node=at_node, now_ns=now_ns, chooser=chooser, local=local, trace=trace)
    failures = {
        Disposition.REJECTED: Failure.REJECTED, Disposition.DROPPED: Failure.DROPPED, Disposition.STOLEN: Failure.DROPPED,
        Disposition.UNKNOWN: Failure.UNKNOWN,
    }  # fmt: skip
    if request.disposition in failures:
        return Exchange(request, None, failures[request.disposition])
    if request.end == Place(Whose.OUTSIDE) and not any(
        network.family is packet.family and request.packet.daddr in network for network in fabric.outside
    ):
        return Exchange(request, None, Failure.NOBODY_THERE)
    answer = reply(fabric, request, now_ns=now_ns, chooser=chooser, trace=trace)
    return Exchange(request, answer, _judge(request, answer))


def _judge(request: Journey, answer: Journey) -> Failure:
    if answer.end is None:
        return Failure.ANSWER_LOST
    if answer.end != request.origin:
        return Failure.ANSWER_ELSEWHERE
    if tuple_of(answer.packet) != tuple_of(request.sent).inverse():
        return Failure.ANSWER_FROM_WRONG_ADDRESS
    return Failure.NONE


def answer_to(packet: Packet) -> Packet:
    """What a server answers to a first packet: SYN-ACK, echo reply, a datagram."""
    sport, dport = packet.dport, packet.sport
    if packet.protocol in ICMP_PROTOCOLS:
        sport, dport = dport, sport
    return replace(
        packet,
        saddr=packet.daddr, daddr=packet.saddr, sport=sport, dport=dport, tcp_flags=_SYN_ACK,
        icmp_type=ICMP_REQUESTS.get(packet.protocol, {}).get(packet.icmp_type, packet.icmp_type), sctp_chunk=_SCTP_ANSWERS.get(packet.sctp_chunk, "DATA"),
        ttl=64, mark=0, in_interface="", out_interface="", related=None,
    )  # fmt: skip


def _bridge_towards(netns: Netns, family: Family, address: int) -> str | None:
    """The bridge behind which the node has a pod with this address."""
    decision = netns.routing.lookup(family, address)
    if decision is None or decision.route is None or decision.interface not in netns.routing.interfaces:
        return None
    return decision.interface if netns.routing.interfaces[decision.interface].kind is Port.BRIDGE else None


def _link(netns: Netns) -> str:
    links = (interface.name for interface in netns.routing.interfaces.values() if interface.kind is Port.LINK)
    return next(links, "")


# --- building plain nodes --------------------------------------------------------------------------------------------------


def node_netns(
    name: str,
    node_ips: Sequence[str],
    pod_cidrs: Sequence[str],
    *,
    peers: Mapping[str, Sequence[str]] | None = None,
    interfaces: Iterable[Interface] = (),
    gateways: Sequence[str] | None = None,
    sysctls: Sysctls | None = None,
) -> Netns:
    """A plain kubenet-like node: lo, eth0 with ``node_ips``, cni0 with the first host of each pod network.

    ``node_ips`` are addresses, /24 and /64 unless they say otherwise. ``peers``: other nodes' address → pod networks behind
    it. ``gateways``: default routes, by default the last host of each node network. ``interfaces``: more of them.
    InputError for what is no address or network.
    """
    own = tuple(_node_address(text) for text in node_ips)
    pods = tuple(_network(text) for text in pod_cidrs)
    loopback = (Address.parse("127.0.0.1/8"), Address.parse("::1/128"))
    bridge = tuple(Address(network.family, network.base + 1, network.prefix) for network in pods)
    devices = [
        Interface("lo", loopback, Port.LOOPBACK),
        Interface("eth0", own),
        *([Interface("cni0", bridge, Port.BRIDGE)] if bridge else []),
        *interfaces,
    ]
    routes = []
    for peer, cidrs in (peers or {}).items():
        via = _node_address(peer)
        for network in map(_network, cidrs):
            if network.family is via.family:
                routes.append(Route(network, "eth0", via.value))
    hops = [_default_gateway(address) for address in own] if gateways is None else list(map(_node_address, gateways))
    for family in Family:
        via_default = next((hop.value for hop in hops if hop.family is family), None)
        if via_default is not None:
            routes.append(Route(Network(family, 0, 0), "eth0", via_default))
    return Netns(name, Routing(devices, routes), sysctls)


def build_fabric(
    nodes: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    *,
    sysctls: Sysctls | None = None,
    outside: Iterable[Network] = (),
) -> Fabric:
    """Plain nodes, name → (node IPs, pod CIDRs), that know each other's pod networks."""
    made = {}
    for name, (node_ips, pod_cidrs) in nodes.items():
        peers = {ip: cidrs for other, (ips, cidrs) in nodes.items() if other != name for ip in _first_of_families(ips)}
        made[name] = node_netns(name, node_ips, pod_cidrs, peers=peers, sysctls=sysctls)
    return Fabric(made, outside=outside)


def _first_of_families(node_ips: Sequence[str]) -> list[str]:
    first = {_node_address(text).family: text for text in reversed(node_ips)}
    return list(first.values())


def _node_address(text: str) -> Address:
    address = Address.parse(text)
    return address if "/" in text else address._replace(prefix=_DEFAULT_PREFIX[address.family])


def _network(text: str) -> Network:
    network = parse_network(text)
    if network is None:
        raise InputError(Problem(f"not a network: {text!r}"))
    return network


def _default_gateway(address: Address) -> Address:
    last = address.network.last
    if address.family is Family.IPV4 and address.prefix < 31:
        last -= 1  # the very last one is the broadcast address
    return address._replace(value=last if last != address.value else last - 1)


def packet_between(
    protocol: str, source: str, destination: str, *, sport: int = 0, dport: int = 0, in_interface: str = ""
) -> Packet:
    """A first packet from textual addresses; ``source`` empty: the kernel chooses. InputError if they are none."""
    to = parse_ip(destination)
    come = parse_ip(source) if source else None
    if to is None or (source and (come is None or come[0] is not to[0])):
        raise InputError(Problem(f"not two addresses of one family: {source!r}, {destination!r}"))
    kind = {"icmp": 8, "icmpv6": 128}.get(protocol, 0)
    return Packet(
        to[0], protocol, come[1] if come else 0, to[1], sport, dport, icmp_type=kind, in_interface=in_interface
    )


def describe(journey: Journey) -> str:
    """The way in a line: ``n1 → n2 → pod 10.180.1.7``."""
    parts = [hop.node for hop in journey.hops]
    if journey.end is None:
        parts.append(str(journey.disposition))
    elif journey.end.whose is Whose.POD:
        parts.append(f"pod {format_ip(journey.packet.family, journey.end.address)}")
    elif journey.end.whose is Whose.OUTSIDE:
        parts.append("outside")
    else:
        parts.append("process")
    return " → ".join(parts)
