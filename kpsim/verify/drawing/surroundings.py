"""What can be dialled at a node, and who dials it: the node as its clients see it, in one family.

Counterpart: the pods, processes, neighbours and outside clients around a node. It works for any site, drawn or not. What becomes of
a packet it never knows.
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
_FURTHER_CLIENT = 123  #: this far from the first client outside, in the same network
_QUIET_POD = 9  #: a pod's number in its network, from where on one is looked for that is no endpoint
_NARROWEST = {Family.IPV4: 8, Family.IPV6: 16}  #: prefix of a source range that says something about clients


class Kind(enum.StrEnum):
    """Who a client is (PP-1.1)."""

    POD = "pod"  #: of the node, and no endpoint of what it dials
    HAIRPIN = "hairpin"  #: an endpoint of what it dials, wherever it is
    PROCESS = "process"  #: of the node, with the source that routing chooses
    BOUND_PROCESS = "bound process"  #: of the node, bound to one of its addresses
    CLIENT = "client"  #: outside
    PEER = "peer"  #: another node
    REMOTE_POD = "remote pod"  #: its packets come unmasqueraded
    IMPOSTOR = "impostor"  #: outside, with a source that is the dialled address or one of the node's own


class Client(NamedTuple):
    """Where a packet comes from; ``source`` 0: routing chooses it."""

    sender: Sender
    source: int


class Dialled(NamedTuple):
    """A destination, and the frontend it belongs to."""

    address: int
    frontend: Frontend


@dataclass(frozen=True)
class Surroundings:
    """Of a node in one family. ``services`` tell more than addresses do: whom source ranges let in, health check ports."""

    site: Site
    node: str
    family: Family
    services: tuple[Service, ...] = ()

    @classmethod
    def of(cls, site: Site, node: str, family: Family, services: Iterable[Service] = ()) -> "Surroundings":
        """InputError if there is no such node."""
        site.check_node(node)
        return cls(site, node, family, tuple(services))

    # --- what is dialled ---------------------------------------------------------------------------------------------

    @cached_property
    def frontends(self) -> tuple[Frontend, ...]:
        """Those with an address of the family, and node ports, in the order of the Services."""
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
        """All destinations of a frontend: of a node port every address of this node, and one of another."""
        if frontend.address is not None:
            return (Dialled(frontend.address[1], frontend),)
        return tuple(Dialled(address, frontend) for address in (*self.own, *self.peers[:1]))

    def is_offered(self, address: int, port: int, protocol: str) -> bool:
        """Whether a Service has this frontend, or may have it as a node port."""
        services = self.site.directory.services
        return (
            Frontend((self.family, address), port, protocol) in services or Frontend(None, port, protocol) in services
        )

    def nobodys_service_address(self, near: int) -> int:
        """An address beside a Service's that none has."""
        return self._unused(near + 100)

    @cached_property
    def health_check_ports(self) -> tuple[int, ...]:
        return tuple(service.health_check_node_port for service in self.services if service.health_check_node_port)

    # --- who dials ---------------------------------------------------------------------------------------------------

    def clients(self, dialled: Dialled) -> Mapping[Kind, tuple[Client, ...]]:
        """Everybody who may dial it, by kind; kinds that nobody is of are left out."""
        address, frontend = dialled
        behind = self.site.directory.endpoints_behind((self.family, address), frontend.port, frontend.protocol)
        known = self.site.directory.pods
        hairpins = {a for f, a in behind if f is self.family} | (
            {address} if (self.family, address) in known else set()
        )
        edges = self._at_the_edges.get(self.site.directory.services.get(frontend, ""), ())
        # a process bound to loopback reaches no further than the node
        bound = self.own if address in self.own else self.own[:-1]
        quiet = (*self._quiet_pods, *(pod for pod in self.pods if pod not in hairpins))
        found = {
            Kind.POD: _clients(Sender.POD, quiet),
            Kind.HAIRPIN: tuple(sorted((self._client_at(a) for a in hairpins), key=_local_first)),
            Kind.PROCESS: _clients(Sender.NODE, (0,)),
            Kind.BOUND_PROCESS: _clients(Sender.NODE, bound),
            Kind.IMPOSTOR: _clients(Sender.EXTERNAL, dict.fromkeys((address, *self.own))),
            Kind.CLIENT: _clients(Sender.EXTERNAL, dict.fromkeys((*self.outsiders, *edges))),
            **self._other_nodes,
        }
        return {kind: clients for kind, clients in found.items() if clients}

    def _client_at(self, address: int) -> Client:
        """Whoever has the address of a pod, a node or somebody outside."""
        here = self.site.directory.node_of((self.family, address))
        if address in self.own:
            return Client(Sender.NODE, address)
        if here == self.node:
            return Client(Sender.POD, address)
        return Client(Sender.PEER if here else Sender.EXTERNAL, address)

    @cached_property
    def _other_nodes(self) -> Mapping[Kind, tuple[Client, ...]]:
        """Whatever is dialled."""
        return {
            Kind.PEER: _clients(Sender.PEER, self.peers),
            Kind.REMOTE_POD: _clients(Sender.PEER, self.remote_pods),
        }

    @cached_property
    def pods(self) -> tuple[int, ...]:
        return tuple(self.site.directory.pods_on(self.node, self.family))

    @cached_property
    def remote_pods(self) -> tuple[int, ...]:
        """Pods of other nodes, known or not."""
        owners = self.site.directory.pods.items()
        return tuple(a for (family, a), owner in owners if family is self.family and owner.node not in ("", self.node))

    @cached_property
    def _quiet_pods(self) -> tuple[int, ...]:
        """A pod that is no endpoint, if the node has a pod network."""
        networks = [n for n in self.site.machine(self.node).pod_networks if n.family is self.family]
        found = (self._unused(network.base + _QUIET_POD) for network in networks[:1])
        return tuple(address for address, network in zip(found, networks, strict=False) if address in network)

    @cached_property
    def outsiders(self) -> tuple[int, ...]:
        """Two clients outside, of one network."""
        asked = Packet(self.family, "tcp", 0, 0)
        first = self.site.begin(asked, self.node, Sender.EXTERNAL).saddr
        return first, self._unused(first + _FURTHER_CLIENT)

    @cached_property
    def _at_the_edges(self) -> Mapping[str, tuple[int, ...]]:
        """Clients by the Service whose source ranges they are inside or beyond, one each."""
        found = {}
        for service in self.services:
            networks = map(parse_network, map(str.strip, service.load_balancer_source_ranges))
            edges = dict.fromkeys(chain.from_iterable(_edges(n) for n in networks if n and n.family is self.family))
            name = f"{service.metadata.namespace}/{service.metadata.name}"
            found[name] = tuple(address for address in edges if self._is_outside(address))
        return found

    def _is_outside(self, address: int) -> bool:
        """Nobody of the cluster has it or may get it."""
        machine = self.site.machine(self.node)
        return not (
            machine.routing.is_local(self.family, address)
            or self.site.directory.knows((self.family, address))
            or any(network.family is self.family and address in network for network in machine.pod_networks)
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
    """An address inside a source range and one beyond; none if it is too wide to tell anybody apart."""
    if network.prefix >= _NARROWEST[network.family]:
        yield network.base if network.base == network.last else min(network.base + 7, network.last)
        yield network.last + 8
