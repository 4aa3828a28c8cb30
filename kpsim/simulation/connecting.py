"""Connects a client to what it dials: one first packet through the load balancer and the nodes, and its record in the log."""

from dataclasses import dataclass, replace
from functools import partial

from kpsim.addresses import Family, parse_ip
from kpsim.exchange import Relay
from kpsim.objects import Service, ServicePortSpec
from kpsim.packet import Packet
from kpsim.scenario.traffic_schema import Origin, Traffic, Via
from kpsim.simulation.affinity import Break
from kpsim.simulation.attempts import Attempt
from kpsim.simulation.clock import Clock
from kpsim.simulation.dialling import (
    dialled_addresses,
    is_inside,
    node_port_ip,
    of_family,
    policy_of,
    port_of,
    service_port_name,
)
from kpsim.simulation.pins import Dial
from kpsim.simulation.portprobe import own_address
from kpsim.simulation.rulestimes import Dialled
from kpsim.simulation.runlog import Connection, Fate, Frontend, Reason, RunLog
from kpsim.simulation.senders import Senders, TrafficSender, World

_FRONTENDS = {
    Via.CLUSTER_IP: Frontend.CLUSTER_IP,
    Via.NODE_PORT: Frontend.NODE_PORT,
    Via.EXTERNAL_IP: Frontend.EXTERNAL_IP,
    Via.LOAD_BALANCER: Frontend.LOAD_BALANCER,
}


@dataclass(frozen=True, slots=True)
class DialledPort:
    """What clients of a Service dial. ``address`` empty: they dial a node's own address."""

    port: ServicePortSpec
    address: str
    number: int


@dataclass(slots=True)
class Undertaking:
    """What a client wants once: a connection, or a request. It may take several tries, and is one record of the log."""

    number: int
    begun_ns: int
    tries: int = 1
    syn_retries: int = 0  #: of all tries
    record: int | None = None  #: its place in the log
    racing: int = 0  #: tries that are under way
    other_family: Family | None = None  #: which may still be tried in this round
    place: tuple[str, int] = ("", 0)  #: in a client's pool
    client: str = ""  #: who began it; a pod goes on with it itself
    done: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One try to connect, from its first packet on. ``sender`` has its port, ``base`` none yet."""

    undertaking: Undertaking
    base: TrafficSender
    sender: TrafficSender
    dialled: DialledPort
    family: Family
    started_ns: int
    retries: int = 0  #: how often its SYN was repeated

    @property
    def key(self) -> tuple[str | int, ...]:
        """What tells its draws from those of the undertaking's first packet; empty for that one."""
        again = ("try", self.undertaking.tries) if self.undertaking.tries > 1 else ()
        return (*again, *([self.retries] if self.retries else []))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a first packet. ``balanced`` is the flow by which a load balancer knows it; empty: none does."""

    attempt: Attempt
    dial: Dial | None = None
    balanced: tuple[str | int, ...] = ()


class Connector:
    """Connects the clients of one traffic source."""

    def __init__(self, clock: Clock, traffic: Traffic, world: World, senders: Senders, log: RunLog) -> None:
        self._clock = clock
        self._traffic = traffic
        self._world = world
        self._senders = senders
        self._log = log
        self._nodes = {node.name: node for node in world.nodes}
        self._inside = is_inside(traffic)
        self._short = traffic.long is None and traffic.keep_alive is None
        self._dialled: dict[Family, DialledPort] = {}

    @property
    def proxied(self) -> bool:
        """Whether a load balancer takes the clients' connections and opens its own."""
        balancer = self._world.load_balancer
        if self._inside or self._traffic.via is not Via.LOAD_BALANCER or balancer is None:
            return False
        return not balancer.settings.preserve_client_ip

    def dial(self, service: Service, family: Family) -> DialledPort | None:
        """Return what the clients of the Service should dial now.

        If it offers nothing, return what they dialled last.
        """
        port = port_of(service, self._traffic.port)
        ips, number = dialled_addresses(service, port, self._traffic.via, inside=self._inside, proxied=self.proxied)
        address = of_family(ips, family)
        if port is not None and number and (address or not ips):
            self._dialled[family] = DialledPort(port, address, number)
        return self._dialled.get(family)

    def _target(self, turn: Turn) -> tuple[str, str] | None:
        """Return the destination address, and the node where the packet meets rules. None if no node takes it."""
        sender, number = turn.sender, turn.undertaking.number
        entries = self._senders.entries
        node = sender.node or entries[number % len(entries)]
        if self._traffic.via is Via.LOAD_BALANCER and sender.node is None:
            balancer = self._world.load_balancer
            chosen = balancer.choose(*self._flow(sender)) if balancer is not None else None
            if chosen is None:
                return None
            node = chosen
        return turn.dialled.address or self._node_address(node, number, turn.family), node

    def _node_address(self, node: str, number: int, family: Family) -> str:
        """Return the address of a node that a sender dials which meets rules at ``node``: that one's, or another's."""
        others = self._traffic.nodes if self._traffic.origin is Origin.PODS else ()
        dialled = others[number % len(others)] if others else node
        return node_port_ip(self._traffic, self._nodes[dialled], family)

    def _flow(self, sender: TrafficSender) -> tuple[str | int, ...]:
        """Return how a load balancer knows a flow from outside.

        It is not the client's address, which depends on the sources listed before this one.
        """
        return self._traffic.name, sender.number, sender.port

    def _entrance(self, node: str, address: str) -> str:
        """Return the link by which a client's packet comes in; empty: the one that leads back to the client."""
        if self._inside or len(self._nodes[node].links) == 1:
            return ""
        return self._traffic.interface or self._nodes[node].link_with(address)

    def _source(self, turn: Turn, service: Service, node: str) -> tuple[str, int]:
        """Return the address and port that the node sees: the client's, or those of a load balancer that is a proxy."""
        balancer = self._world.load_balancer
        if not self.proxied or balancer is None:
            return turn.sender.source, turn.sender.port
        name = f"the load balancer of {balancer.service}"
        port = self._world.ports.fresh(name, (node, turn.dialled.number))
        return own_address(service, turn.family), port or 0

    def connect(self, turn: Turn, service: Service) -> Outcome:
        """Send a try's first packet, for the first time or again."""
        with self._world.machines.watched(self._traffic.name, turn.undertaking.number + 1):
            return self._connect(turn, service)

    def _connect(self, turn: Turn, service: Service) -> Outcome:
        now_ns, sender, port, family = self._clock.now_ns, turn.sender, turn.dialled.port, turn.family
        target = self._target(turn)
        if target is None:
            return Outcome(Attempt(Fate.DROPPED, Reason.NO_HEALTHY_NODE, silent=True))
        address, node = target
        destination = parse_ip(address)
        assert destination is not None
        source, source_port = self._source(turn, service, node)
        found = parse_ip(source)
        packet = Packet(
            family,
            port.protocol.lower(),
            found[1] if found else 0,
            destination[1],
            source_port,
            turn.dialled.number,
            in_interface=self._entrance(node, address),
        )
        name, internal = service_port_name(service, port), self._traffic.via is Via.CLUSTER_IP
        outcome = self._world.machines.connect(
            packet,
            node,
            now_ns,
            ("connection", self._traffic.name, turn.undertaking.number, *turn.key),
            local=sender.local,
            serves=partial(self._world.members.serves, name, port.protocol),
            relay=partial(self._relay, service, port, sender) if self._inside and not internal else None,
            short=self._short and port.protocol == "TCP",
        )
        what = Dialled.EXTERNAL_FROM_INSIDE if self._inside else Dialled.EXTERNAL
        dial = Dial(packet, node, sender.local, name, port.protocol, Dialled.CLUSTER_IP if internal else what)
        balanced: tuple[str | int, ...] = ()
        if self._traffic.via is Via.LOAD_BALANCER and sender.node is None:
            balanced = self._flow(sender)
        if outcome.relayed is not None:
            node, packet = outcome.relayed
            dial = replace(dial, packet=packet, at_node=node, local=False, dialled=Dialled.EXTERNAL)
            balanced = self._relayed_flow(sender)
        cause, pin = self._world.pins.explain(outcome, dial, now_ns)
        if cause is not outcome.cause or pin is not None:
            outcome = replace(outcome, cause=cause, pin=pin)
        return Outcome(outcome, dial, balanced)

    def _relayed_flow(self, sender: TrafficSender) -> tuple[str | int, ...]:
        return self._traffic.name, sender.client, sender.port

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
            node = balancer.choose(*self._relayed_flow(sender))
        if node is None:
            return Relay(name)
        address = parse_ip(self._nodes[node].ip(packet.family))
        own_port = self._world.ports.fresh(name, (node, port.node_port))
        if address is None or own_port is None:
            return Relay(name)
        dialled = Packet(packet.family, packet.protocol, packet.daddr, address[1], own_port, port.node_port)
        return Relay(name, ((node, dialled),))

    # --------------------------------------------------------------------------------------------------------- recording

    def _break(self, turn: Turn, service: Service, outcome: Attempt) -> Break:
        if service.session_affinity != "ClientIP" or not outcome.new_flow:
            return Break.NONE
        return self._world.affinity.judge(
            service_port_name(service, turn.dialled.port),
            turn.dialled.port.protocol,
            turn.sender.client,
            service.affinity_timeout_seconds or 10800,
            outcome,
            self._clock.now_ns,
            # pods and nodes that dial an external address get the endpoints of the Cluster policy (PP-5)
            local_policy=policy_of(self._traffic, service) == "Local"
            and (not self._inside or self._traffic.via is Via.CLUSTER_IP),
        )

    def record(self, turn: Turn, service: Service, outcome: Attempt) -> int:
        """Log an undertaking, or what became of it when it was tried again, and return its place in the log."""
        sender, port, undertaking = turn.sender, turn.dialled.port, turn.undertaking
        affinity_break = self._break(turn, service, outcome)
        log = self._log.connections
        place = len(log) if undertaking.record is None else undertaking.record
        late = self._clock.now_ns > undertaking.begun_ns
        log[place : place + 1] = [
            Connection(
                at_ns=undertaking.begun_ns,
                traffic=self._traffic.name,
                client=sender.client,
                source_ip=outcome.source_ip or sender.source,
                source_port=sender.port,
                frontend=_FRONTENDS[self._traffic.via],
                service=service_port_name(service, port),
                protocol=port.protocol,
                traffic_policy=policy_of(self._traffic, service),
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
                syn_retries=undertaking.syn_retries,
                decided_ns=self._clock.now_ns if late else None,
                tries=undertaking.tries,
                number=undertaking.number + 1,
            )
        ]
        undertaking.record = place
        return place
