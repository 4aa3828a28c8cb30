"""Who is at the ends of packets' ways in a run, what listens there, and whether it is an endpoint of the Service.

It is the world of ``kpsim.exchange``, made of the run's nodes and pods.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Protocol

from kpsim.addresses import Family, format_ip
from kpsim.exchange import Absent, Answers, Closed, Reaction, Relay, Target
from kpsim.fabric import Arrival, Fabric, Place, Whose
from kpsim.netfilter import Netns
from kpsim.packet import Packet
from kpsim.simulation.elsewhere import Elsewhere, ListedElsewhere
from kpsim.simulation.packetloss import OUTSIDE, PacketLoss
from kpsim.simulation.podlife import PodLife

#: who listens at a target: a pod, or an endpoint that is none
Listener = PodLife | Elsewhere
#: whether who listens at a target is an endpoint of the Service that was dialled; the name is the node's whose rules or
#: connection entry led there
Serves = Callable[[Listener, Target, str], bool]


class Watching(Protocol):
    """Notes which nodes packets pass, and on which way."""

    to_server: bool

    def watch(self, netns: Netns) -> None: ...


class RunWorld:
    """The run's machines. ``at_ip`` returns the pods that have an address now, ``off`` holds machines without power.

    ``version`` is another number after every change of the pods that answer and of their addresses. One client sends at a
    time; ``dial`` says what it dials.
    """

    def __init__(
        self,
        fabric: Fabric,
        at_ip: Callable[[str], Sequence[PodLife]],
        off: Collection[str],
        version: Callable[[], int],
        losses: PacketLoss,
        elsewhere: ListedElsewhere,
    ) -> None:
        self._fabric = fabric
        self._at_ip = at_ip
        self._off = off
        self._version = version
        self._losses = losses
        self._elsewhere = elsewhere
        self._heard = -1  #: the version of what is known to listen
        self._listening: dict[tuple[str, Target], PodLife | None] = {}
        self._serves: Serves | None = None
        self._relay: Callable[[Packet], Relay | None] | None = None
        self.taken: Relay | None = None  #: the load balancer that took the client's packet, if one did
        self.recording: Watching | None = None  #: of the connection whose packets pass now

    def dial(self, serves: Serves | None, relay: Callable[[Packet], Relay | None] | None) -> None:
        """Note what the next client dials: who serves there, and the load balancer outside that may take the packet."""
        self._serves, self._relay, self.taken = serves, relay, None

    # ----------------------------------------------------------------------------------------------------------- wiring

    def netns(self, node: str, family: Family) -> Netns:
        found = self._fabric.netns(node, family)
        if self.recording is not None:
            self.recording.watch(found)
        return found

    def origin(self, packet: Packet, node: str) -> Place:
        return self._fabric.origin(packet, node)

    def next_node(self, packet: Packet, next_hop: int, node: str) -> Arrival | None:
        found = self._fabric.next_node(packet, next_hop, node)
        self._losses.cross(node, OUTSIDE if found is None else found.node)
        return found

    def entrance(self, place: Place, packet: Packet, node: str) -> Arrival | None:
        found = self._fabric.entrance(place, packet, node)
        if found is not None and place.whose is Whose.OUTSIDE:
            self._losses.cross(OUTSIDE, found.node)
        return found

    # ------------------------------------------------------------------------------------------------------------- ends

    def reaction(self, end: Place, packet: Packet, node: str, now_ns: int) -> Reaction:
        """Return how the place reacts to a request."""
        if self.recording is not None:
            self.recording.to_server = False  # the answer follows
        if end.whose is Whose.OUTSIDE:
            self.taken = self._relay(packet) if self._relay is not None else None
            for at_node, _ in self.taken.dials if self.taken is not None else ():
                self._losses.cross(OUTSIDE, at_node)
            if self.taken is not None:
                return self.taken
        if self.listener(end, Target.of(packet)) is not None:
            return Answers()
        if end.whose is Whose.OUTSIDE:
            return Absent("no machine outside has this address")
        if end.whose is Whose.PROCESS or self.exists(packet):
            return Closed()
        return Absent("no pod has this address")

    def serves(self, dialled: Target, reached: Target, node: str) -> bool | None:
        """Return whether who listens at ``reached`` is an endpoint of the Service whose client sends. None: nobody."""
        end = self._fabric.place_of(reached.family, reached.address)
        found = self.listener(end, reached)
        return None if found is None or self._serves is None else self._serves(found, reached, node)

    def is_down(self, node: str) -> bool:
        return node in self._off

    def listener(self, end: Place, target: Target) -> Listener | None:
        """Return whose application listens at a target, or None if nobody's does."""
        if (version := self._version()) != self._heard:
            self._heard = version
            self._listening.clear()
        at = end.node, target
        if at not in self._listening:
            found = (
                pod
                for pod in self._at_ip(format_ip(target.family, target.address))
                if pod.answers and pod.node == end.node and _listens(pod, target)
            )
            self._listening[at] = next(found, None)
        return self._listening[at] or (None if end.whose is Whose.POD else self._elsewhere.at(target))

    def exists(self, packet: Packet) -> bool:
        """Return whether a pod with the packet's destination exists, so that its kernel refuses what nobody takes."""
        return any(pod.exists for pod in self._at_ip(format_ip(packet.family, packet.daddr)))


def application_of(listener: Listener) -> Hashable:
    """Return the application: its successor in the same pod does not know its connections."""
    return listener if isinstance(listener, Elsewhere) else (listener.key, listener.number, listener.life)


def pod_name(listener: Listener) -> str:
    """Return ``namespace/name`` of the pod that listens; empty: it is no pod."""
    return "" if isinstance(listener, Elsewhere) else f"{listener.workload.namespace}/{listener.name}"


def _listens(pod: PodLife, target: Target) -> bool:
    """Return whether the pod listens on a port. A pod that declares no port listens on any."""
    ports = pod.workload.ports
    return not ports or any(
        port.container_port == target.port and port.protocol.lower() == target.protocol for port in ports
    )
