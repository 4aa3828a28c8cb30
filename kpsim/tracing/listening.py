"""Who listens where in a cluster, and which Service is dialled: what an exchange asks about the ends of a packet's way.

Counterpart: the sockets of pods and nodes, and what load balancers are configured to do. It is read from Services,
EndpointSlices, Pods and Nodes. Where these do not tell, an answer says that it is assumed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple, Protocol

from kpsim.addresses import Family, Network, format_ip, join_host_port, parse_ip, parse_network
from kpsim.cluster import ClusterState
from kpsim.exchange import Absent, Answers, Closed, Reaction, Relay, Target, Unsure
from kpsim.fabric import Place, Whose
from kpsim.objects import LABEL_EXCLUDE_BALANCERS, EndpointSlice, Node, Pod, Service, ServicePortSpec
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.ruleset import Compare, Field, Role, Ruleset
from kpsim.tracing.directory import Address, Directory, Frontend, endpoint_name

_TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"
_OVER = ("Succeeded", "Failed")  #: phases of pods whose network is gone
_FIRST_SOURCE_PORT = 50000  #: that a load balancer dials from


class Server(NamedTuple):
    """An HTTP server of kube-proxy itself (CP-14, CP-15). ``address`` None: it listens on every address of the node."""

    address: int | None
    port: int
    answers: Answers


class Dialled(NamedTuple):
    """A port of a Service, as it is dialled at one of its frontends."""

    service: Service
    port: ServicePortSpec
    what: str  #: the kind of address, for people
    proxied: bool = False  #: the address of a load balancer with ipMode Proxy: no rule of a node takes it

    @property
    def name(self) -> str:
        return f"{self.service.metadata.namespace}/{self.service.metadata.name}"


Servers = Callable[[str, Family], Sequence[Server]]


class Ends(Protocol):
    """The ends of packets' ways: how they react, and which Services are dialled."""

    def reaction(self, end: Place, packet: Packet) -> Reaction:
        """How the place reacts to a request that reached it."""

    def serves(self, dialled: Target, reached: Target, *, own: bool) -> bool | None:
        """Whether ``reached`` is an endpoint of the Service that has the frontend ``dialled``; None: no Service has it.

        ``own``: the address of ``dialled`` is one of the node that the packet is at, so it may be a node port's.
        """

    def places(self) -> Iterable[tuple[Address, int]]:
        """Addresses and ports at which an end may react in its own way."""

    def frontends(self) -> Iterable[Frontend]:
        """What clients of Services dial."""

    def networks(self) -> Iterable[Network]:
        """Networks whose addresses may react in their own way."""

    def servers_of(self, node: str, family: Family) -> Sequence[Server]:
        """The servers of a node's kube-proxy."""

    def in_rotation(self, service: Service, family: Family) -> Sequence[str]:
        """The nodes that a load balancer of a Service uses, sorted."""


class Anybody:
    """Nothing is known but the rules of one machine: everybody else answers."""

    def __init__(self, rules: Mapping[Family, Ruleset] = MappingProxyType({})) -> None:
        self._rules = rules

    def reaction(self, end: Place, packet: Packet) -> Reaction:
        if end.whose is not Whose.PROCESS:
            return Answers(assumed=True)
        if packet.protocol == "tcp" and packet.dport in self._health_checks.get(packet.family, ()):
            return Unsure(
                "kube-proxy answers there with 200 or 503, by its count of local endpoints, which rules do not tell"
            )
        return Closed("as far as is known")

    def serves(self, dialled: Target, reached: Target, *, own: bool) -> bool | None:
        return None

    def places(self) -> Iterable[tuple[Address, int]]:
        return ()

    def frontends(self) -> Iterable[Frontend]:
        return ()

    def networks(self) -> Iterable[Network]:
        return ()

    def servers_of(self, node: str, family: Family) -> Sequence[Server]:
        """Only their ports are known, and not what they answer."""
        return [Server(None, port, Answers(assumed=True)) for port in sorted(self._health_checks.get(family, ()))]

    def in_rotation(self, service: Service, family: Family) -> Sequence[str]:
        return ()

    @cached_property
    def _health_checks(self) -> dict[Family, frozenset[int]]:
        """The ports of health checks that kube-proxy's rules let in (CP-15.4)."""
        return {family: frozenset(_health_check_ports(ruleset)) for family, ruleset in self._rules.items()}


class Listening:
    """The ends of packets' ways in a cluster at one moment. ``servers`` are those of a node's kube-proxy."""

    def __init__(self, state: ClusterState, directory: Directory, servers: Servers) -> None:
        self._state = state
        self._directory = directory
        self.servers = servers
        self._endpoints: dict[tuple[str, str, str], frozenset[tuple[Address, int]]] = {}

    def reaction(self, end: Place, packet: Packet) -> Reaction:
        match end.whose:
            case Whose.PROCESS:
                return self._on_node(end.node, packet)
            case Whose.POD:
                return self._in_pod(packet)
            case Whose.OUTSIDE:
                return self._outside(packet)

    def frontends(self) -> Iterable[Frontend]:
        return self._frontends

    def places(self) -> Iterable[tuple[Address, int]]:
        yield from ((at.address, at.port) for at in self._frontends if at.address is not None)
        yield from (((at.family, at.address), at.port) for at in self._listeners)
        for address, pod in self._pods.items():
            yield from ((address, port.port) for port in pod.container_ports)
            yield address, 0

    def networks(self) -> Iterable[Network]:
        return self._service_networks

    def servers_of(self, node: str, family: Family) -> Sequence[Server]:
        return self.servers(node, family)

    # --- which Service --------------------------------------------------------------------------------------------

    def serves(self, dialled: Target, reached: Target, *, own: bool) -> bool | None:
        found = self._dialled(dialled, own=own)
        end = (reached.family, reached.address), reached.port
        return any(end in self._endpoints_of(each) for each in found) if found else None

    def _endpoints_of(self, dialled: Dialled) -> frozenset[tuple[Address, int]]:
        key = dialled.name, dialled.port.name, dialled.port.protocol
        if key not in self._endpoints:
            slices = self._slices.get(dialled.name, ())
            self._endpoints[key] = frozenset(_endpoints(slices, dialled.port.name, dialled.port.protocol))
        return self._endpoints[key]

    def _dialled(self, target: Target, *, own: bool) -> Sequence[Dialled]:
        """The Service ports that have this frontend: several may share an external IP or a load balancer's address.

        ``own``: the address is one of the node that the packet is at.
        """
        if target.protocol in ICMP_PROTOCOLS:
            return ()
        found = self._frontends.get(Frontend((target.family, target.address), target.port, target.protocol), ())
        return found or (self._frontends.get(Frontend(None, target.port, target.protocol), ()) if own else ())

    @cached_property
    def _frontends(self) -> dict[Frontend, list[Dialled]]:
        found: dict[Frontend, list[Dialled]] = {}
        for service in self._state.services:
            for port in service.ports:
                protocol = port.protocol.lower()
                for text, what, proxied in _addresses(service):
                    if (address := parse_ip(text)) is not None:
                        at = Frontend(address, port.port, protocol)
                        found.setdefault(at, []).append(Dialled(service, port, what, proxied))
                if port.node_port:
                    at = Frontend(None, port.node_port, protocol)
                    found.setdefault(at, []).append(Dialled(service, port, "node port"))
        return found

    @cached_property
    def _slices(self) -> dict[str, list[EndpointSlice]]:
        found: dict[str, list[EndpointSlice]] = {}
        for each in self._state.endpoint_slices:
            found.setdefault(f"{each.metadata.namespace}/{each.service_name}", []).append(each)
        return found

    @cached_property
    def _virtual(self) -> dict[Address, str]:
        """The addresses that only rules or load balancers know, each with what it is."""
        return {at.address: of[0].what for at, of in self._frontends.items() if at.address is not None}

    @cached_property
    def _balancers(self) -> frozenset[Address]:
        """The addresses that load balancers with ipMode Proxy have themselves."""
        return frozenset(
            at.address
            for at, of in self._frontends.items()
            if at.address is not None and any(each.proxied for each in of)
        )

    # --- who listens --------------------------------------------------------------------------------------------------

    def _on_node(self, node: str, packet: Packet) -> Reaction:
        """How a node's own sockets react: kube-proxy's servers, and endpoints and pods in the host's network."""
        if packet.protocol == "tcp":
            for server in self.servers(node, packet.family):
                if server.port == packet.dport and server.address in (None, packet.daddr):
                    return replace(server.answers, name=f"{server.answers.name} on {node}")
        target = Target.of(packet)
        name = self._listeners.get(target)
        return Closed("as far as is known") if name is None else Answers(f"{name} on {node}")

    def _in_pod(self, packet: Packet) -> Reaction:
        """How a pod reacts, or a machine outside the cluster that is an endpoint."""
        address, target = (packet.family, packet.daddr), Target.of(packet)
        name = str(self._directory.pods.get(address, ""))
        pod = self._pods.get(address)
        if pod is not None and pod.phase in _OVER:
            return Absent(f"pod {pod.metadata.namespace}/{pod.metadata.name} is over ({pod.phase})")
        if name and packet.protocol in ICMP_PROTOCOLS:
            return Answers(name)
        if pod is not None:
            if not pod.container_ports:
                return Answers(name, assumed=target not in self._listeners)
            declared = (port.port == packet.dport and port.protocol.lower() == packet.protocol for port in pod.container_ports)  # fmt: skip
            return Answers(name) if any(declared) else Closed(f"{name} declares no such port")
        if target in self._listeners:
            return Answers(name)
        if self._pods and address not in self._directory.pods:
            return Absent("no pod has this address")
        return Answers(assumed=True)

    def _outside(self, packet: Packet) -> Reaction:
        """How what is behind the gateway reacts: a load balancer, an endpoint outside the cluster, or any machine."""
        address, target = (packet.family, packet.daddr), Target.of(packet)
        dialled = next((each for each in self._dialled(target, own=False) if each.proxied), None)
        if dialled is not None:
            return self._balanced(dialled, packet)
        if address in self._balancers:  # a machine of its own, which only its listeners are known of
            if packet.protocol in ICMP_PROTOCOLS:
                return Answers(assumed=True)
            return Absent(f"the load balancer {format_ip(*address)} listens at no such port")
        if what := self._virtual.get(address):
            return Absent(f"no machine has {target}, {what}, and no rule takes it")
        if address in self._directory.pods or target in self._listeners:
            return self._in_pod(packet)
        if any(network.family is packet.family and packet.daddr in network for network in self._service_networks):
            return Absent(f"no Service has {target}, an address of the service network")
        return Answers(assumed=True)

    @cached_property
    def _service_networks(self) -> tuple[Network, ...]:
        parsed = (parse_network(text) for each in self._state.service_cidrs for text in each.cidrs)
        return tuple(network for network in parsed if network is not None)

    @cached_property
    def _pods(self) -> dict[Address, Pod]:
        """The pods with a network of their own, by address."""
        pods = [pod for pod in self._state.pods if not pod.host_network]
        return {address: pod for pod in pods for text in pod.ips if (address := parse_ip(text)) is not None}

    @cached_property
    def _listeners(self) -> dict[Target, str]:
        """Where endpoints are said to listen, and pods in the host's network, each with a name for people."""
        found = {
            Target(address[0], protocol, address[1], port): endpoint_name(each, endpoint)
            for slices in self._slices.values()
            for each in slices
            for protocol, port in ((p.protocol.lower(), p.port) for p in each.ports if p.port is not None)
            for endpoint in each.endpoints
            for address in _parsed(endpoint.addresses)
        }
        for pod in self._state.pods:
            if pod.host_network and pod.phase not in _OVER:
                found |= {
                    Target(
                        family, port.protocol.lower(), value, port.port
                    ): f"pod {pod.metadata.namespace}/{pod.metadata.name}"
                    for family, value in _parsed(pod.ips)
                    for port in pod.container_ports
                }
        return found

    # --- load balancers -----------------------------------------------------------------------------------------------

    def _balanced(self, dialled: Dialled, packet: Packet) -> Relay | Unsure:
        """The load balancer dials the node port of each node that passes its health check, from its own address."""
        address = join_host_port(packet.destination, packet.dport)
        name = f"the load balancer {address} of {dialled.name}"
        port = dialled.port.node_port
        if not port:
            return Unsure(f"{name}: the Service has no node port, and how else pods are reached is not modelled")
        dials = []
        for node in self._rotation(dialled.service, packet.family):
            to = next((value for family, value in _parsed(node.ips) if family is packet.family), None)
            if to is not None:
                dials.append((node.metadata.name, replace(
                    packet, saddr=packet.daddr, sport=_FIRST_SOURCE_PORT, daddr=to, dport=port, ttl=64, mark=0,
                    in_interface="", out_interface="",
                )))  # fmt: skip
        return Relay(name, tuple(dials))

    def in_rotation(self, service: Service, family: Family) -> Sequence[str]:
        return [node.metadata.name for node in self._rotation(service, family)]

    def _rotation(self, service: Service, family: Family) -> Iterator[Node]:
        """The nodes that a load balancer uses, sorted by name."""
        return (node for node in self._state.nodes if self._passes(node, service, family))

    def _passes(self, node: Node, service: Service, family: Family) -> bool:
        """Whether a load balancer uses a node: it is not excluded, and the health check passes (CP-14.3, CP-15.2)."""
        if (
            LABEL_EXCLUDE_BALANCERS in node.metadata.labels
            or node.metadata.deletion_timestamp
            or _TO_BE_DELETED in node.taint_keys
        ):
            return False
        if service.external_traffic_policy != "Local" or not service.health_check_node_port:
            return True
        name = f"{service.metadata.namespace}/{service.metadata.name}"
        return any(
            endpoint.node_name == node.metadata.name and endpoint.ready is not False
            for each in self._slices.get(name, ())
            if each.address_type == family.label
            for endpoint in each.endpoints
        )


def _health_check_ports(ruleset: Ruleset) -> Iterator[int]:
    for table in ruleset.tables.values():
        for chain in table.ordered():
            parts = (part for rule in chain.rules if rule.origin.role is Role.HEALTH_CHECK for part in rule.body)
            for part in parts:
                if isinstance(part, Compare) and part.field is Field.DPORT and part.value is not None:
                    yield part.value


def _parsed(texts: Iterable[str]) -> Iterator[Address]:
    return (parsed for parsed in map(parse_ip, texts) if parsed is not None)


def _addresses(service: Service) -> Iterator[tuple[str, str, bool]]:
    """The addresses of a Service, with what each is and whether a load balancer's is none of the nodes' business."""
    yield from ((text, "a cluster IP", False) for text in (service.cluster_ip, *service.cluster_ips))
    yield from ((text, "an external IP", False) for text in service.external_ips)
    yield from ((each.ip, "a load balancer's address", each.ip_mode == "Proxy") for each in service.ingress)


def _endpoints(slices: Iterable[EndpointSlice], name: str, protocol: str) -> Iterator[tuple[Address, int]]:
    """The addresses and ports of a Service port in its slices."""
    for each in slices:
        for port in each.ports:
            if port.port is not None and (port.name or "") == name and port.protocol == protocol:
                for endpoint in each.endpoints:
                    yield from ((address, port.port) for address in _parsed(endpoint.addresses))
