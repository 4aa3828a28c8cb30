"""The surroundings of a node in one family: the destinations that can be dialled there, and the clients that can dial
them.

Counterpart: the pods, processes, neighbours and outside clients around a node. It works for any site, drawn or not.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import NamedTuple

from kpsim.addresses import Family, Network, parse_network
from kpsim.objects import Service
from kpsim.packet import Packet
from kpsim.tracing.directory import Frontend
from kpsim.tracing.site import Sender, Site

_LOOPBACK = {Family.IPV4: 127 << 24 | 1, Family.IPV6: 1}
_FURTHER_CLIENT = 123  #: how far the second client outside is from the first, in the same network
#: from these numbers on, a pod network is searched for an address that is no endpoint: 15 is the last of a /28
_QUIET_PODS = (9, 15, 16)
#: clients at the ends of what other programs' rules name (``drawing.foreign``)
_FURTHER_EDGES = (100, 101, 127, 128)
_NARROWEST = {Family.IPV4: 8, Family.IPV6: 16}  #: a source range with a shorter prefix says nothing about clients


class Kind(enum.StrEnum):
    """Kinds of clients (PP-1.1)."""

    POD = "pod"  #: a pod of the node that is no endpoint of what it dials
    HAIRPIN = "hairpin"  #: an endpoint of what it dials, on any node
    PROCESS = "process"  #: a process of the node, with the source that routing chooses
    BOUND_PROCESS = "bound process"  #: a process of the node that is bound to one of its addresses
    CLIENT = "client"  #: a client outside the cluster
    PEER = "peer"  #: another node
    REMOTE_POD = "remote pod"  #: a pod of another node; its packets are not masqueraded
    IMPOSTOR = "impostor"  #: outside, but its source is the dialled address or one of the node's own


class Client(NamedTuple):
    """A sender and its source address. Routing chooses the source if it is 0."""

    sender: Sender
    source: int


class Dialled(NamedTuple):
    """A destination address, and the frontend that it belongs to."""

    address: int
    frontend: Frontend


@dataclass(frozen=True)
class Surroundings:
    """The surroundings of a node in one family. ``services`` adds source ranges and health check ports."""

    site: Site
    node: str
    family: Family
    services: tuple[Service, ...] = ()

    @classmethod
    def of(cls, site: Site, node: str, family: Family, services: Iterable[Service] = ()) -> "Surroundings":
        """The surroundings of a node. InputError if the node does not exist."""
        site.check_node(node)
        return cls(site, node, family, tuple(services))

    # --- what is dialled ---------------------------------------------------------------------------------------------

    @cached_property
    def frontends(self) -> tuple[Frontend, ...]:
        """Node ports, and frontends with an address of the family, in the order of the Services."""
        return tuple(f for f in self.site.directory.services if f.address is None or f.address[0] is self.family)

    @cached_property
    def service_addresses(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(f.address[1] for f in self.frontends if f.address is not None))

    @cached_property
    def own(self) -> tuple[int, ...]:
        """The node's addresses: uplink and pods' side first, loopback last."""
        addresses = self.site.machine(self.node).routing.addresses(self.family)
        loopback = _LOOPBACK[self.family]
        return (*(address for address in addresses if address != loopback), loopback)

    @cached_property
    def peers(self) -> tuple[int, ...]:
        """Addresses of the other nodes."""
        nodes = self.site.directory.nodes
        return tuple(a for (family, a), name in nodes.items() if family is self.family and name != self.node)

    def dialled(self, frontend: Frontend) -> tuple[Dialled, ...]:
        """All destinations of a frontend. For a node port these are all addresses of this node, and one of another
        node.
        """
        if frontend.address is not None:
            return (Dialled(frontend.address[1], frontend),)
        return tuple(Dialled(address, frontend) for address in (*self.own, *self.peers[:1]))

    def is_offered(self, address: int, port: int, protocol: str) -> bool:
        """Whether a Service has this frontend, or has the port as a node port."""
        services = self.site.directory.services
        return (
            Frontend((self.family, address), port, protocol) in services or Frontend(None, port, protocol) in services
        )

    def nobodys_service_address(self, near: int) -> int:
        """An address near a Service's that is not in use."""
        return self._unused(near + 100)

    @cached_property
    def health_check_ports(self) -> tuple[int, ...]:
        return tuple(service.health_check_node_port for service in self.services if service.health_check_node_port)

    # --- who dials ---------------------------------------------------------------------------------------------------

    def clients(self, dialled: Dialled) -> Mapping[Kind, tuple[Client, ...]]:
        """All clients that may dial a destination, by kind. A kind without clients is left out."""
        address, frontend = dialled
        behind = self.site.directory.endpoints_behind((self.family, address), frontend.port, frontend.protocol)
        known = self.site.directory.pods
        hairpins = {a for f, a in behind if f is self.family} | (
            {address} if (self.family, address) in known else set()
        )
        edges = self._at_the_edges.get(self.site.directory.services.get(frontend, ""), ())
        # a process that is bound to loopback can reach the node only
        bound = self.own if address in self.own else self.own[:-1]
        quiet = (*self._quiet_pods, *(pod for pod in self.pods if pod not in hairpins))
        found = {
            Kind.POD: _clients(Sender.POD, quiet),
            Kind.HAIRPIN: tuple(sorted((self._client_at(a) for a in hairpins), key=_local_first)),
            Kind.PROCESS: _clients(Sender.NODE, (0,)),
            Kind.BOUND_PROCESS: _clients(Sender.NODE, bound),
            Kind.IMPOSTOR: _clients(Sender.EXTERNAL, dict.fromkeys((address, *self.own))),
            Kind.CLIENT: _clients(Sender.EXTERNAL, dict.fromkeys((*self.outsiders, *(edges or self._further)))),
            **self._other_nodes,
        }
        return {kind: clients for kind, clients in found.items() if clients}

    def _client_at(self, address: int) -> Client:
        """The client that has an address: a process, a pod, a peer or a machine outside."""
        here = self.site.directory.node_of((self.family, address))
        if address in self.own:
            return Client(Sender.NODE, address)
        if here == self.node:
            return Client(Sender.POD, address)
        return Client(Sender.PEER if here else Sender.EXTERNAL, address)

    @cached_property
    def _other_nodes(self) -> Mapping[Kind, tuple[Client, ...]]:
        """Clients on other nodes; they are the same for all destinations."""
        return {
            Kind.PEER: _clients(Sender.PEER, self.peers),
            Kind.REMOTE_POD: _clients(Sender.PEER, self.remote_pods),
        }

    @cached_property
    def pods(self) -> tuple[int, ...]:
        return tuple(self.site.directory.pods_on(self.node, self.family))

    @cached_property
    def remote_pods(self) -> tuple[int, ...]:
        """Pods of other nodes, also of nodes without a Node object."""
        owners = self.site.directory.pods.items()
        return tuple(a for (family, a), owner in owners if family is self.family and owner.node not in ("", self.node))

    @cached_property
    def _quiet_pods(self) -> tuple[int, ...]:
        """Pod addresses of the node that are no endpoints, among them the two at the end of a short range of pods; none
        if the node has no pod network.
        """
        networks = [n for n in self.site.machine(self.node).pod_networks if n.family is self.family]
        found = [(self._unused(network.base + number), network) for network in networks[:1] for number in _QUIET_PODS]
        return tuple(dict.fromkeys(address for address, network in found if address in network))

    @cached_property
    def outsiders(self) -> tuple[int, ...]:
        """Two clients outside the cluster, in one network."""
        asked = Packet(self.family, "tcp", 0, 0)
        first = self.site.begin(asked, self.node, Sender.EXTERNAL).saddr
        return first, self._unused(first + _FURTHER_CLIENT)

    @cached_property
    def _further(self) -> tuple[int, ...]:
        """More clients outside, in the network of the first."""
        base = self.outsiders[0] & self.family.mask(24 if self.family is Family.IPV4 else 64)
        return tuple(a for a in (base + number for number in _FURTHER_EDGES) if self._is_outside(a))

    @cached_property
    def _at_the_edges(self) -> Mapping[str, tuple[int, ...]]:
        """For each Service, clients at both ends of each of its source ranges, inside and outside."""
        found = {}
        for service in self.services:
            networks = map(parse_network, map(str.strip, service.load_balancer_source_ranges))
            edges = dict.fromkeys(chain.from_iterable(_edges(n) for n in networks if n and n.family is self.family))
            name = f"{service.metadata.namespace}/{service.metadata.name}"
            found[name] = tuple(address for address in edges if self._is_outside(address))
        return found

    def _is_outside(self, address: int) -> bool:
        """Whether an address neither belongs to the cluster nor can be given to a pod. The first address of a link's
        network is a router's own (in IPv6, that of every router on the link).
        """
        machine = self.site.machine(self.node)
        links = (a.network for each in machine.routing.interfaces.values() for a in each.of(self.family))
        return not (
            machine.routing.is_local(self.family, address)
            or self.site.directory.knows((self.family, address))
            or any(network.family is self.family and address in network for network in machine.pod_networks)
            or any(address == network.base for network in links)
        )

    def _unused(self, first: int) -> int:
        while self.site.directory.knows((self.family, first)):
            first += 1
        return first

    def source_of(self, client: Client, destination: int) -> int:
        """The source address that a packet of the client will have; 0 if routing finds none."""
        return client.source or self.site.machine(self.node).routing.source_for(self.family, destination) or 0


def _local_first(client: Client) -> tuple[bool, int]:
    return client.sender is not Sender.POD, client.source


def _clients(sender: Sender, sources: Iterable[int]) -> tuple[Client, ...]:
    return tuple(Client(sender, source) for source in sources)


def _edges(network: Network) -> Iterator[int]:
    """The first and the last address of a source range, and those beside it; none if the range is so wide that it says
    nothing.
    """
    if network.prefix >= _NARROWEST[network.family]:
        yield from dict.fromkeys((network.base, network.last, network.last + 1, network.base - 1))
