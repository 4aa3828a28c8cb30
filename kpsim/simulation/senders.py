"""Who sends a connection's packets: a pod, a node or a client outside, from which address and port.

Counterpart: clients and their kernels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kpsim.addresses import Family
from kpsim.objects import Service
from kpsim.scenario.clients import Clients
from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.service_names import qualified
from kpsim.scenario.traffic_schema import Origin, Traffic
from kpsim.simulation.affinity import AffinityMemory
from kpsim.simulation.dialling import of_family, port_of
from kpsim.simulation.endpoints import Members
from kpsim.simulation.loadbalancer import LoadBalancer
from kpsim.simulation.machines import Machines
from kpsim.simulation.pins import Pins
from kpsim.simulation.podlife import PodLife
from kpsim.simulation.ports import SourcePorts

FIRST_NAT, NAT = 1024, 64512  #: source ports of a router that translates: the first, and how many


@dataclass(frozen=True)
class World:
    """The parts of the simulation that a traffic source uses."""

    machines: Machines
    service: Callable[[], Service]
    pods: Callable[[str], Sequence[PodLife]]  #: of a workload, those that run
    pod: Callable[[str], PodLife | None]  #: by ``namespace/name``
    nodes: Sequence[ClusterNode]
    load_balancer: LoadBalancer | None
    affinity: AffinityMemory
    pins: Pins
    members: Members
    ports: SourcePorts


@dataclass(frozen=True, slots=True)
class TrafficSender:
    """The sender of a packet.

    ``node`` None: any node may get it. ``source`` empty: the node's kernel chooses the address.
    """

    client: str
    source: str
    port: int
    node: str | None
    local: bool = False
    number: int = 0  #: number of the client among the source's outside clients

    @property
    def machine(self) -> str:
        """The machine whose kernel chooses the sender's ports: a node, a pod or a client outside."""
        return self.node if self.local and self.node is not None else self.client


class Senders:
    """The senders of one traffic source, in turn. ``clients`` are those that it has outside."""

    def __init__(self, traffic: Traffic, world: World, clients: Clients) -> None:
        self._traffic = traffic
        self._world = world
        self._clients = clients
        dialled = traffic.address if traffic.origin is Origin.OUTSIDE else None
        there = (node.name for node in world.nodes if dialled is None or node.link_with(dialled))
        if traffic.named is not None and traffic.origin is Origin.NODES:
            self._listed: Sequence[str] = (traffic.named,)
        else:
            self._listed = traffic.nodes or tuple(there)
        port = port_of(world.service(), traffic.port)
        self._destination = (qualified(traffic.service), traffic.via, port.port if port else traffic.port)
        self._uses: dict[str, int] = {}  #: by client: how often it has sent
        self._again = 0  #: ports that a router gave to further tries, from its last one down

    @property
    def entries(self) -> Sequence[str]:
        """The nodes that clients dial or stand on, without those that have not joined yet."""
        absent = self._world.machines.absent
        return [name for name in self._listed if name not in absent] if absent else self._listed

    @property
    def kinds(self) -> int:
        """After how many connections the senders come around: pods, or nodes that are dialled or send."""
        return len(self._pods()) if self._traffic.origin is Origin.PODS else len(self.entries)

    def sender(self, number: int, family: Family, pod: str = "") -> TrafficSender | str:
        """Return the next sender in turn, still without a port. If there is none, for example because no pod runs, say why.

        ``pod`` asks for the pod that has begun already.
        """
        traffic = self._traffic
        if traffic.origin is not Origin.PODS and not self.entries:
            return "none of its nodes has joined the cluster"
        match traffic.origin:
            case Origin.PODS:
                pods = [each for each in self._pods() if pod in ("", each.name)]
                if not pods:
                    named = (
                        f"no pod of workload {traffic.workload}" if traffic.named is None else f"no pod {traffic.named}"
                    )
                    return f"{named} runs"
                chosen = pods[number % len(pods)]
                local = chosen.workload.host_network
                return TrafficSender(chosen.name, "" if local else of_family(chosen.ips, family), 0, chosen.node, local)
            case Origin.NODES:
                node = self.entries[number % len(self.entries)]
                return TrafficSender(node, "", 0, node, local=True)
            case Origin.OUTSIDE:
                client = number % traffic.clients
                address = self._clients.address(0 if traffic.nat else client, family)
                if traffic.nat:
                    return TrafficSender(f"{traffic.name}-{client}", address, 0, None, number=client)
                return TrafficSender(address, address, 0, None, number=client)

    def _pods(self) -> Sequence[PodLife]:
        """Return the pods that send in turn, those that run."""
        if self._traffic.named is None:
            return self._world.pods(self._traffic.workload or "")
        pod = self._world.pod(self._traffic.named)
        return (pod,) if pod is not None and pod.answers else ()

    def with_port(self, sender: TrafficSender, number: int, *, again: bool = False) -> TrafficSender | str:
        """Return the sender with a source port, another one if it tries ``again``. If it has no free one, say so."""
        if self._traffic.nat and again:
            self._again += 1
            return replace(sender, number=0, port=FIRST_NAT + NAT - 1 - self._again % NAT)
        if self._traffic.nat:
            return replace(sender, number=0, port=self._behind_nat(sender.client, sender.number, number))
        sockets = self._traffic.source_ports
        if not sockets:
            port = self._world.ports.fresh(sender.machine, self._destination)
        else:
            name = self._traffic.name, sender.client, self._use(sender.client) % sockets
            port = self._world.ports.socket(sender.machine, self._destination, *name)
        return f"{sender.client} has no free source port" if port is None else replace(sender, port=port)

    def _use(self, client: str) -> int:
        """Count one more use by the client and return how often it has sent before."""
        number = self._uses.get(client, 0)
        self._uses[client] = number + 1
        return number

    def _behind_nat(self, inner: str, client: int, number: int) -> int:
        """Return the port that the router gives to a connection. Each inner client's ports get distinct ones."""
        ports = self._traffic.source_ports
        if not ports:
            return FIRST_NAT + number % NAT
        return FIRST_NAT + client * ports + self._use(inner) % ports

    def lives(self, sender: TrafficSender) -> bool:
        """Return whether the sender is still there: a pod may be gone."""
        if self._traffic.origin is not Origin.PODS:
            return True
        return any(pod.name == sender.client for pod in self._pods())

    def occupy(self, sender: TrafficSender) -> None:
        """Mark the sender's port as used by an open connection."""
        self._world.ports.occupy(sender.machine, self._destination, sender.port)

    def release(self, sender: TrafficSender) -> None:
        """Free the sender's port: its connection is closed."""
        self._world.ports.release(sender.machine, self._destination, sender.port)
