"""Traffic sources on the clock: which client sends when, from which address and port, to which address of the Service.

Counterpart: clients. The load is open loop: a source sends at its rate whatever becomes of its packets.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from kpsim.addresses import Family, canonical_ip, parse_ip
from kpsim.exchange import Relay
from kpsim.objects import Service, ServicePortSpec
from kpsim.packet import Packet
from kpsim.scenario.clients import Clients
from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.schema import Arrivals, Origin, Traffic, Via
from kpsim.scenario.service_names import qualified
from kpsim.simulation.affinity import AffinityMemory, Break
from kpsim.simulation.attempts import Attempt, OpenFlow
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.delays import draw_ns, exponential
from kpsim.simulation.endpoints import Members
from kpsim.simulation.loadbalancer import LoadBalancer
from kpsim.simulation.machines import Machines
from kpsim.simulation.pins import Dial, Pins
from kpsim.simulation.podlife import PodLife
from kpsim.simulation.ports import SourcePorts
from kpsim.simulation.rulestimes import Dialled
from kpsim.simulation.runlog import Connection, Fate, Frontend, Reason, RunLog, Unsent
from kpsim.units import SECOND_NS

#: when Linux repeats a SYN that gets no answer, after the first (net.ipv4.tcp_syn_retries 6)
SYN_REPEATED_NS = tuple(seconds * SECOND_NS for seconds in (1, 3, 7, 15, 31, 63))
FIRST_NAT, NAT = 1024, 64512  #: source ports of a router that translates: the first, and how many

_FRONTENDS = {
    Via.CLUSTER_IP: Frontend.CLUSTER_IP,
    Via.NODE_PORT: Frontend.NODE_PORT,
    Via.EXTERNAL_IP: Frontend.EXTERNAL_IP,
    Via.LOAD_BALANCER: Frontend.LOAD_BALANCER,
}


def arrival_times_ns(traffic: Traffic, stop_ns: int, seed: int) -> Iterator[int]:
    """Yield the times at which the source sends, in order: evenly spaced, or memoryless with the same mean rate."""
    number, elapsed = 0, 0.0
    while True:
        match traffic.arrivals:
            case Arrivals.CONSTANT:
                after = number * SECOND_NS / traffic.per_second
            case Arrivals.POISSON:
                elapsed += exponential(seed, "arrival", traffic.name, number) / traffic.per_second
                after = elapsed * SECOND_NS
        if after >= stop_ns:  # it is infinite for the smallest rates
            return
        at_ns = traffic.start_ns + math.floor(after)
        if at_ns >= stop_ns:
            return
        yield at_ns
        number += 1


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


@dataclass(frozen=True, slots=True)
class _Dialled:
    """What clients of a Service dial. ``address`` empty: they dial a node's own address."""

    port: ServicePortSpec
    address: str
    number: int


@dataclass(frozen=True, slots=True)
class _Turn:
    """One connection of a source, from its first packet on."""

    number: int
    sender: TrafficSender
    dialled: _Dialled
    family: Family
    started_ns: int
    retries: int = 0  #: how often its SYN was repeated
    record: int | None = None  #: its place in the log


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


class TrafficSource:
    """One traffic source of the scenario. ``clients`` are those that it has outside."""

    def __init__(
        self, clock: Clock, traffic: Traffic, world: World, *, clients: Clients, stop_ns: int, seed: int, log: RunLog
    ) -> None:
        self._clock = clock
        self._traffic = traffic
        self._world = world
        self._seed = seed
        self._log = log
        self._clients = clients
        dialled = traffic.address if traffic.origin is Origin.OUTSIDE else None
        there = (node.name for node in world.nodes if dialled is None or node.link_with(dialled))
        if traffic.named is not None and traffic.origin is Origin.NODES:
            self._listed: Sequence[str] = (traffic.named,)
        else:
            self._listed = traffic.nodes or tuple(there)
        self._nodes = {node.name: node for node in world.nodes}
        self._times = arrival_times_ns(traffic, stop_ns, seed)
        self._stop_ns = stop_ns
        port = port_of(world.service(), traffic.port)
        self._destination = (qualified(traffic.service), traffic.via, port.port if port else traffic.port)
        self._dialled: dict[Family, _Dialled] = {}
        self._uses: dict[str, int] = {}  #: by client: how often it has sent
        self._number = 0
        self._unsent: dict[str, int] = {}  #: by reason: its place in the log

    @property
    def _subject(self) -> str:
        return f"traffic {self._traffic.name}"

    @property
    def _entries(self) -> Sequence[str]:
        """The nodes that clients dial or stand on, without those that have not joined yet."""
        absent = self._world.machines.absent
        return [name for name in self._listed if name not in absent] if absent else self._listed

    def start(self) -> None:
        self._plan_next()

    def _plan_next(self) -> None:
        at_ns = next(self._times, None)
        if at_ns is not None:
            self._clock.at(at_ns, Rank.PACKET, self._subject, self._arrive)

    def _arrive(self) -> None:
        number, self._number = self._number, self._number + 1
        service = self._world.service()
        family = dialled_family(self._traffic, service)
        sender = self._sender(number, family)
        if sender is not None:
            self._send(number, sender, service, family)
        self._plan_next()

    def _skip(self, why: str) -> None:
        """Note that a connection was not attempted."""
        now_ns, log = self._clock.now_ns, self._log.unsent
        place = self._unsent.setdefault(why, len(log))
        if place == len(log):
            log.append(Unsent(self._traffic.name, why, 0, now_ns, now_ns))
        log[place] = replace(log[place], connections=log[place].connections + 1, last_ns=now_ns)

    # ------------------------------------------------------------------------------------------------------------ sender

    def _sender(self, number: int, family: Family) -> TrafficSender | None:
        """Return the next sender in turn, or None if there is none, for example because no pod runs."""
        traffic = self._traffic
        if traffic.origin is not Origin.PODS and not self._entries:
            self._skip("none of its nodes has joined the cluster")
            return None
        match traffic.origin:
            case Origin.PODS:
                pods = self._pods()
                if not pods:
                    what = (
                        f"no pod of workload {traffic.workload}" if traffic.named is None else f"no pod {traffic.named}"
                    )
                    self._skip(f"{what} runs")
                    return None
                pod = pods[number % len(pods)]
                local = pod.workload.host_network
                sender = TrafficSender(pod.name, "" if local else of_family(pod.ips, family), 0, pod.node, local)
            case Origin.NODES:
                node = self._entries[number % len(self._entries)]
                sender = TrafficSender(node, "", 0, node, local=True)
            case Origin.OUTSIDE:
                client = number % traffic.clients
                address = self._clients.address(0 if traffic.nat else client, family)
                if traffic.nat:
                    inner = f"{traffic.name}-{client}"
                    return TrafficSender(inner, address, self._behind_nat(inner, client, number), None)
                sender = TrafficSender(address, address, 0, None, number=client)
        port = self._ephemeral(sender)
        if port is None:
            self._skip(f"{sender.client} has no free source port")
            return None
        return replace(sender, port=port)

    def _pods(self) -> Sequence[PodLife]:
        """Return the pods that send in turn, those that run."""
        traffic = self._traffic
        if traffic.named is None:
            return self._world.pods(traffic.workload or "")
        pod = self._world.pod(traffic.named)
        return (pod,) if pod is not None and pod.answers else ()

    def _ephemeral(self, sender: TrafficSender) -> int | None:
        sockets = self._traffic.source_ports
        if not sockets:
            return self._world.ports.fresh(_machine(sender), self._destination)
        name = self._traffic.name, sender.client, self._use(sender.client) % sockets
        return self._world.ports.socket(_machine(sender), self._destination, *name)

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

    # ------------------------------------------------------------------------------------------------------- destination

    def _target(
        self, dialled: "_Dialled", sender: TrafficSender, number: int, family: Family
    ) -> tuple[str, int, str] | None:
        """Return the destination address and port, and the node where the packet meets rules.

        None if no node takes the packet.
        """
        node = sender.node or self._entries[number % len(self._entries)]
        if self._traffic.via is Via.LOAD_BALANCER and sender.node is None:
            balancer = self._world.load_balancer
            # not chosen by the client's address, which depends on the sources listed before this one
            flow = self._traffic.name, sender.number, sender.port
            chosen = balancer.choose(*flow) if balancer is not None else None
            if chosen is None:
                return None
            node = chosen
        return dialled.address or self._node_address(node, number, family), dialled.number, node

    def _node_address(self, node: str, number: int, family: Family) -> str:
        """Return the address of a node that a sender dials which meets rules at ``node``: that one's, or another's."""
        others = self._traffic.nodes if self._traffic.origin is Origin.PODS else ()
        dialled = others[number % len(others)] if others else node
        return node_port_ip(self._traffic, self._nodes[dialled], family)

    def _entrance(self, node: str, address: str) -> str:
        """Return the link by which a client's packet comes in; empty: the one that leads back to the client."""
        if self._inside or len(self._nodes[node].links) == 1:
            return ""
        return self._traffic.interface or self._nodes[node].link_with(address)

    def _dial(self, service: Service, family: Family) -> "_Dialled | None":
        """Return what the clients of the Service should dial now.

        If it offers nothing, return what they dialled last.
        """
        port = port_of(service, self._traffic.port)
        ips, number = dialled_addresses(service, port, self._traffic.via, inside=self._inside)
        address = of_family(ips, family)
        if port is not None and number and (address or not ips):
            self._dialled[family] = _Dialled(port, address, number)
        return self._dialled.get(family)

    @property
    def _inside(self) -> bool:
        return self._traffic.origin is not Origin.OUTSIDE

    def _lacking(self, service: Service, family: Family) -> str:
        """Say what the Service lacks that its clients would dial."""
        name, port = qualified(self._traffic.service), port_of(service, self._traffic.port)
        if port is None:
            return f"Service {name} has no port {self._traffic.port}"
        match self._traffic.via:
            case Via.NODE_PORT:
                return f"Service {name} has no node port"
            case Via.LOAD_BALANCER:
                if not port.node_port and not _vips(service):
                    return f"Service {name} has no node port that its load balancer could dial"
                return f"Service {name} has no load balancer IP of family {family.label}"
            case Via.EXTERNAL_IP:
                return f"Service {name} has no external IP of family {family.label}"
            case Via.CLUSTER_IP:
                return f"Service {name} has no cluster IP of family {family.label}"

    def _relay(self, service: Service, port: ServicePortSpec, sender: TrafficSender, packet: Packet) -> Relay | None:
        """Return what the load balancer does with a packet that came out to it: it dials a node port (PP-11.10).

        None: the packet is for no load balancer.
        """
        proxies = (parse_ip(ingress.ip) for ingress in service.ingress if ingress.ip_mode == "Proxy")
        balancer = self._world.load_balancer
        if (packet.family, packet.daddr) not in proxies or packet.dport != port.port or balancer is None:
            return None
        name, node = f"the load balancer of {balancer.service}", None
        if self._world.members.service_exists:
            node = balancer.choose(self._traffic.name, sender.client, sender.port)
        if node is None:
            return Relay(name)
        address = parse_ip(self._nodes[node].ip(packet.family))
        own_port = self._world.ports.fresh(name, (node, port.node_port))
        if address is None or own_port is None:
            return Relay(name)
        dialled = Packet(packet.family, packet.protocol, packet.daddr, address[1], own_port, port.node_port)
        return Relay(name, ((node, dialled),))

    # ----------------------------------------------------------------------------------------------------------- sending

    def _send(self, number: int, sender: TrafficSender, service: Service, family: Family) -> None:
        dialled = self._dial(service, family)
        if dialled is None:
            self._skip(self._lacking(service, family))  # the Service never had such an address
            return
        self._attempt(_Turn(number, sender, dialled, family, self._clock.now_ns))

    def _attempt(self, turn: _Turn) -> None:
        """Send a connection's first packet, for the first time or again."""
        now_ns, sender, port = self._clock.now_ns, turn.sender, turn.dialled.port
        service = self._world.service()
        outcome, dial = self._connect(turn, service, now_ns)
        record = self._record(turn, service, outcome, self._break(sender, service, port, outcome))
        if port.protocol != "TCP":
            return
        if outcome.flow is not None and dial is not None:
            self._go_on(sender, outcome.flow, dial, record, turn.number)
        elif outcome.silent:
            self._plan_retry(replace(turn, record=record))

    def _connect(self, turn: _Turn, service: Service, now_ns: int) -> tuple[Attempt, Dial | None]:
        sender, port, family = turn.sender, turn.dialled.port, turn.family
        target = self._target(turn.dialled, sender, turn.number, family)
        if target is None:
            return Attempt(Fate.DROPPED, Reason.NO_HEALTHY_NODE, silent=True), None
        address, number_there, node = target
        destination = parse_ip(address)
        assert destination is not None
        source = parse_ip(sender.source)
        packet = Packet(
            family,
            port.protocol.lower(),
            source[1] if source else 0,
            destination[1],
            sender.port,
            number_there,
            in_interface=self._entrance(node, address),
        )
        name, internal = service_port_name(service, port), self._traffic.via is Via.CLUSTER_IP
        outcome = self._world.machines.connect(
            packet,
            node,
            now_ns,
            ("connection", self._traffic.name, turn.number, *([turn.retries] if turn.retries else [])),
            local=sender.local,
            serves=partial(self._world.members.serves, name, port.protocol),
            relay=partial(self._relay, service, port, sender) if self._inside and not internal else None,
        )
        what = Dialled.EXTERNAL_FROM_INSIDE if self._inside else Dialled.EXTERNAL
        dial = Dial(packet, node, sender.local, name, port.protocol, Dialled.CLUSTER_IP if internal else what)
        if outcome.relayed is not None:
            node, packet = outcome.relayed
            dial = replace(dial, packet=packet, at_node=node, local=False, dialled=Dialled.EXTERNAL)
        cause, pin = self._world.pins.explain(outcome, dial, now_ns)
        return replace(outcome, cause=cause, pin=pin), dial

    def _plan_retry(self, turn: _Turn) -> None:
        """Repeat an unanswered SYN as Linux does, unless the client has given up by then or is gone."""
        patience_ns = self._traffic.connect_timeout_ns
        if patience_ns is None or turn.retries == len(SYN_REPEATED_NS) or SYN_REPEATED_NS[turn.retries] >= patience_ns:
            return
        at_ns = turn.started_ns + SYN_REPEATED_NS[turn.retries]
        again = replace(turn, retries=turn.retries + 1)
        self._clock.at(at_ns, Rank.PACKET, self._subject, lambda: self._attempt(again) if self._lives(turn) else None)

    def _lives(self, turn: _Turn) -> bool:
        if self._traffic.origin is not Origin.PODS:
            return True
        return any(pod.name == turn.sender.client for pod in self._pods())

    def _go_on(self, sender: TrafficSender, flow: OpenFlow, dial: Dial, record: int, number: int) -> None:
        """Establish a connection. If it is not a long one, close it. ``record`` is its place in the log."""
        now_ns = self._clock.now_ns
        self._world.machines.establish(flow, now_ns)
        if self._traffic.long is None or self._log.connections[record].disposition is not Fate.DELIVERED:
            self._world.machines.close(flow, now_ns)
            return
        self._world.ports.occupy(_machine(sender), self._destination, sender.port)
        ends_ns = now_ns + draw_ns(self._traffic.long.lasts, self._seed, "lasts", self._traffic.name, number)
        self._log.connections[record] = replace(self._log.connections[record], closes_ns=ends_ns)
        self._plan_segment(sender, flow, dial, record, ends_ns)

    def _plan_segment(self, sender: TrafficSender, flow: OpenFlow, dial: Dial, record: int, ends_ns: int) -> None:
        assert self._traffic.long is not None
        at_ns = min(self._clock.now_ns + self._traffic.long.packet_every_ns, ends_ns)
        self._clock.at(at_ns, Rank.PACKET, self._subject, lambda: self._segment(sender, flow, dial, record, ends_ns))

    def _segment(self, sender: TrafficSender, flow: OpenFlow, dial: Dial, record: int, ends_ns: int) -> None:
        """Send one more packet of a long connection. If the connection breaks, its record says so."""
        broken = self._world.machines.carry_on(flow, self._clock.now_ns)
        if broken is not None or self._clock.now_ns >= ends_ns:
            self._world.ports.release(_machine(sender), self._destination, sender.port)
        if broken is not None:
            now_ns = self._clock.now_ns
            self._log.connections[record] = replace(
                self._log.connections[record],
                disposition=Fate.FAILED,
                cause=broken.cause,
                broken_ns=now_ns,
                pin=None if broken.followed is None else self._world.pins.judge(broken.followed, dial, now_ns),
            )
        elif self._clock.now_ns >= ends_ns:
            self._world.machines.close(flow, self._clock.now_ns)
        else:
            self._plan_segment(sender, flow, dial, record, ends_ns)

    # ---------------------------------------------------------------------------------------------------------- recording

    def _break(self, sender: TrafficSender, service: Service, port: ServicePortSpec, outcome: Attempt) -> Break:
        if service.session_affinity != "ClientIP" or not outcome.new_flow:
            return Break.NONE
        return self._world.affinity.judge(
            service_port_name(service, port),
            port.protocol,
            sender.client,
            service.affinity_timeout_seconds or 10800,
            outcome,
            self._clock.now_ns,
            # pods and nodes that dial an external address get the endpoints of the Cluster policy (PP-5)
            local_policy=self._policy(service) == "Local" and (not self._inside or self._traffic.via is Via.CLUSTER_IP),
        )

    def _policy(self, service: Service) -> str:
        """Return the traffic policy that applies to what the clients dial."""
        internal = self._traffic.via is Via.CLUSTER_IP
        return (service.internal_traffic_policy if internal else service.external_traffic_policy) or "Cluster"

    def _record(self, turn: _Turn, service: Service, outcome: Attempt, affinity_break: Break) -> int:
        """Log a connection, or what became of it when its SYN was repeated, and return its place in the log."""
        sender, port = turn.sender, turn.dialled.port
        place = len(self._log.connections) if turn.record is None else turn.record
        self._log.connections[place : place + 1] = [
            Connection(
                at_ns=turn.started_ns,
                traffic=self._traffic.name,
                client=sender.client,
                source_ip=outcome.source_ip or sender.source,
                source_port=sender.port,
                frontend=_FRONTENDS[self._traffic.via],
                service=service_port_name(service, port),
                protocol=port.protocol,
                traffic_policy=self._policy(service),
                node=outcome.node,
                disposition=outcome.disposition,
                cause=outcome.cause,
                endpoint=outcome.endpoint,
                endpoint_node=outcome.endpoint_node,
                seen_source_ip=outcome.seen_source_ip,
                new_flow=outcome.new_flow,
                rule=outcome.rule,
                session_affinity=service.session_affinity == "ClientIP",
                affinity_break=affinity_break.value,
                answered_by=outcome.answered_by,
                pin=outcome.pin,
                syn_retries=turn.retries,
            )
        ]
        return place


def _machine(sender: TrafficSender) -> str:
    """Return the machine whose kernel chooses the sender's ports: a node, a pod or a client outside."""
    return sender.node if sender.local and sender.node is not None else sender.client


def of_family(ips: Iterable[str], family: Family) -> str:
    """Return the first address of a family, or an empty string if there is none."""
    return next((ip for ip in ips if canonical_ip(ip, family) is not None), "")


def dialled_family(traffic: Traffic, service: Service) -> Family:
    """Return the family that the clients use: the one asked for, else the Service's first."""
    labels = (*filter(None, (traffic.ip_family,)), *service.ip_families, Family.IPV4.label)
    return Family.from_label(labels[0])


def node_port_ip(traffic: Traffic, node: ClusterNode, family: Family) -> str:
    """Return the address at which the clients dial a node's port; empty if there is none of this family."""
    if traffic.address is not None:
        return traffic.address
    return node.ip(family) if traffic.interface is None else node.ip_on(traffic.interface, family)


def dialled_addresses(
    service: Service, port: ServicePortSpec | None, via: Via, *, inside: bool = False
) -> tuple[Sequence[str], int]:
    """Return the Service's addresses of a kind and the port there.

    No addresses: the nodes' own are used. Port 0: there is nothing to dial. A load balancer of ipMode Proxy is dialled
    by clients ``inside``; for those outside it dials a node port.
    """
    if port is None:
        return (), 0
    match via:
        case Via.CLUSTER_IP:
            return service.cluster_ips or (service.cluster_ip,), port.port
        case Via.EXTERNAL_IP:
            return service.external_ips, port.port if service.external_ips else 0
        case Via.NODE_PORT:
            return (), port.node_port
        case Via.LOAD_BALANCER:
            vips = _vips(service)
            if vips:
                return vips, port.port
            if not inside:
                return (), port.node_port
            proxies = [ingress.ip for ingress in service.ingress if ingress.ip]
            return proxies, port.port if port.node_port and proxies else 0


def _vips(service: Service) -> list[str]:
    return [ingress.ip for ingress in service.ingress if ingress.ip and ingress.ip_mode in (None, "VIP")]


def port_of(service: Service, wanted: int | str | None) -> ServicePortSpec | None:
    """Return the Service port with this number or name, or None. Without a wish it is the first port."""
    return next((port for port in service.ports if wanted in (None, port.port, port.name)), None)


def service_port_name(service: Service, port: ServicePortSpec) -> str:
    """Return ``namespace/name:port``, without the colon if the port has no name."""
    name = f"{service.metadata.namespace}/{service.metadata.name}"
    return f"{name}:{port.name}" if port.name else name
