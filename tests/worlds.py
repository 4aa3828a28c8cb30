"""A world made of a fabric: pods and processes listen where a test says, and one Service may be dialled."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kpsim.addresses import Family, Network
from kpsim.exchange import Absent, Answers, Closed, Exchange, Reaction, Target, WhatIf, exchange
from kpsim.fabric import Arrival, Fabric, Place, Whose
from kpsim.netfilter import Netns
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser


@dataclass
class FabricWorld:
    """``closed`` and ``absent`` are destinations and addresses; all others listen.

    Outside the cluster only hosts in the networks ``outside`` exist. ``services`` maps what is dialled to endpoints,
    each as (address, port).
    """

    fabric: Fabric
    outside: Collection[Network] = ()
    closed: Collection[tuple[int, int]] = ()
    absent: Collection[int] = ()
    answers: Mapping[tuple[int, int], Reaction] = field(default_factory=dict)
    services: Mapping[tuple[int, int], Collection[tuple[int, int]]] = field(default_factory=dict)
    down: Collection[str] = ()

    def netns(self, node: str, family: Family) -> Netns:
        return self.fabric.netns(node, family)

    def origin(self, packet: Packet, node: str) -> Place:
        return self.fabric.origin(packet, node)

    def next_node(self, packet: Packet, next_hop: int, node: str) -> Arrival | None:
        return self.fabric.next_node(packet, next_hop, node)

    def entrance(self, place: Place, packet: Packet, node: str) -> Arrival | None:
        return self.fabric.entrance(place, packet, node)

    def reaction(self, end: Place, packet: Packet, node: str, now_ns: int) -> Reaction:
        target = packet.daddr, packet.dport
        if target in self.answers:
            return self.answers[target]
        if packet.daddr in self.absent:
            return Absent()
        if end.whose is Whose.OUTSIDE and not any(packet.daddr in network for network in self.outside):
            return Absent()
        return Closed() if target in self.closed else Answers()

    def serves(self, dialled: Target, reached: Target, node: str) -> bool | None:
        endpoints = self.services.get((dialled.address, dialled.port))
        return None if endpoints is None else (reached.address, reached.port) in endpoints

    def is_down(self, node: str) -> bool:
        return node in self.down


def ask(world: FabricWorld, sent: Packet, at_node: str, *, local: bool = False, flow: int = 0) -> Exchange:
    """The exchange as a question: the nodes of the world forget it."""
    return exchange(WhatIf(world), sent, at_node=at_node, now_ns=0, chooser=SeededChooser(1, flow), local=local)
