"""What an exchange asks the world: the nodes, who is at the end of a packet's way, and how it reacts."""

from typing import NamedTuple, Protocol

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.fabric import Arrival, Place, Wiring
from kpsim.netfilter import Netns
from kpsim.packet import Packet
from kpsim.valueclass import dataclass


class Target(NamedTuple):
    """A destination: what a client dials, or what a rule translates it to. ``port`` is 0 for ICMP."""

    family: Family
    protocol: str  #: lower case
    address: int
    port: int

    @classmethod
    def of(cls, packet: Packet) -> "Target":
        return cls(packet.family, packet.protocol, packet.daddr, packet.dport)

    def __str__(self) -> str:
        address = format_ip(self.family, self.address)
        return join_host_port(address, self.port) if self.port else address


# --- how the end of the way reacts ------------------------------------------------------------------------------------


class Http(NamedTuple):
    """What an HTTP server answers."""

    status: int
    body: str


@dataclass(frozen=True, slots=True)
class Answers:
    """Something listens and answers. ``name`` says what it is, for people; empty: an application like any other."""

    name: str = ""
    http: Http | None = None  #: None: not HTTP, or kpsim does not know what it says
    assumed: bool = False  #: whether something listens is not known


@dataclass(frozen=True, slots=True)
class Closed:
    """The machine or pod is there, but nothing listens: its kernel refuses. It answers a ping."""

    reason: str = ""  #: how that is known, for people


@dataclass(frozen=True, slots=True)
class Absent:
    """Nobody has the address. ``reason`` says so for people."""

    reason: str = "nobody has this address"


@dataclass(frozen=True, slots=True)
class Relay:
    """A load balancer takes the connection and opens one of its own. It chooses among ``dials`` with equal odds.

    Each of them is a node and the packet that the load balancer sends there. None: it has no node to send to.
    """

    name: str
    dials: tuple[tuple[str, Packet], ...] = ()


@dataclass(frozen=True, slots=True)
class Unsure:
    """How the end reacts is not known. ``reason`` says why, for people."""

    reason: str


Reaction = Answers | Closed | Absent | Relay | Unsure


class World(Wiring, Protocol):
    """The nodes, what is at the places between which packets go, and the Services that clients dial."""

    def reaction(self, end: Place, packet: Packet, node: str, now_ns: int) -> Reaction:
        """How the place reacts to a request that reached it. ``node`` is the last node that the request passed."""

    def serves(self, dialled: Target, reached: Target, node: str) -> bool | None:
        """Whether ``reached`` is an endpoint of the Service that is dialled at ``dialled``; None: it is no Service's.

        ``node`` is the node that translated the destination.
        """

    def is_down(self, node: str) -> bool:
        """Whether the node's machine is off, so that packets to it are lost."""


class WhatIf:
    """The same world, whose nodes forget what packets did to them. Each node is copied when a packet reaches it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._forks: dict[str, Netns] = {}

    def netns(self, node: str, family: Family) -> Netns:
        real = self._world.netns(node, family)
        fork = self._forks.get(node)
        if fork is None or family not in fork.programmed:
            fork = self._forks[node] = self._forked(real)
        return fork

    def _forked(self, real: Netns) -> Netns:
        return real.fork()

    def origin(self, packet: Packet, node: str) -> Place:
        return self._world.origin(packet, node)

    def next_node(self, packet: Packet, next_hop: int, node: str) -> Arrival | None:
        return self._world.next_node(packet, next_hop, node)

    def entrance(self, place: Place, packet: Packet, node: str) -> Arrival | None:
        return self._world.entrance(place, packet, node)

    def reaction(self, end: Place, packet: Packet, node: str, now_ns: int) -> Reaction:
        return self._world.reaction(end, packet, node, now_ns)

    def serves(self, dialled: Target, reached: Target, node: str) -> bool | None:
        return self._world.serves(dialled, reached, node)

    def is_down(self, node: str) -> bool:
        return self._world.is_down(node)


class NewFlow(WhatIf):
    """The same world as a new flow finds it: its nodes know no connection, so their rules decide (CT-3.5).

    Without ``lists`` they do not know its client either, so session affinity begins.
    """

    def __init__(self, world: World, *, lists: bool = True) -> None:
        super().__init__(world)
        self._lists = lists

    def _forked(self, real: Netns) -> Netns:
        return real.fork(connections=False, lists=self._lists)
