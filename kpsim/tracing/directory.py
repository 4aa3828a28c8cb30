"""Names for addresses: the pods, nodes and Services that have them.

Counterpart: what a person looks up with ``kubectl get pods,nodes,services -o wide``. Where a packet goes is decided by
rules and routes, not here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from kpsim.addresses import Family, Network, parse_ip
from kpsim.cluster import ClusterState
from kpsim.nodes import pod_network
from kpsim.objects import EndpointSlice, SliceEndpoint

Address = tuple[Family, int]


class Owner(NamedTuple):
    """A pod, or an endpoint about which nothing else is known. ``node`` is empty if it is unknown."""

    name: str
    node: str = ""

    def __str__(self) -> str:
        return f"{self.name} on {self.node}" if self.node else self.name


class Frontend(NamedTuple):
    """A destination that a client may dial. ``address`` None stands for a node port."""

    address: Address | None
    port: int
    protocol: str  #: lower case


@dataclass(frozen=True)
class Directory:
    """The addresses of a cluster at one moment."""

    pods: dict[Address, Owner] = field(default_factory=dict)
    nodes: dict[Address, str] = field(default_factory=dict)  #: address → node
    services: dict[Frontend, str] = field(default_factory=dict)  #: frontend → ``namespace/name``
    endpoints: dict[str, frozenset[Address]] = field(default_factory=dict)  #: of a Service by ``namespace/name``
    pod_networks: dict[Network, str] = field(default_factory=dict)  #: network → node

    @cached_property
    def _pods_by_node(self) -> dict[tuple[str, Family], list[tuple[Owner, int]]]:
        found: dict[tuple[str, Family], list[tuple[Owner, int]]] = {}
        for (family, value), owner in self.pods.items():
            found.setdefault((owner.node, family), []).append((owner, value))
        return {key: sorted(pods) for key, pods in found.items()}

    @cached_property
    def _service_addresses(self) -> frozenset[Address]:
        return frozenset(frontend.address for frontend in self.services if frontend.address is not None)

    @classmethod
    def of(cls, state: ClusterState) -> "Directory":
        nodes = {address: node.metadata.name for node in state.nodes for address in _parsed(node.ips)}
        networks = {pod_network(cidr): node.metadata.name for node in state.nodes for cidr in node.pod_cidrs}
        return cls(_pods(state, nodes), nodes, dict(_frontends(state)), _endpoints(state), networks)

    def name(self, address: Address) -> str:
        """The owner of an address, as ``pod shop/web-1 on node-2`` or ``node node-2``; empty if it is unknown."""
        if address in self.pods:
            return str(self.pods[address])
        node = self.nodes.get(address)
        return f"node {node}" if node else ""

    def node_of(self, address: Address) -> str:
        """The node that has the address or runs its pod; empty if it is unknown."""
        if node := self.nodes.get(address):
            return node
        owner = self.pods.get(address)
        return owner.node if owner else ""

    def node_of_pods(self, address: Address) -> str:
        """The node whose pod network has the address, whether a pod is known there or not; empty if there is none."""
        family, value = address
        for prefix in self._prefixes:
            if prefix <= family.bits and (node := self.pod_networks.get(Network.around(family, value, prefix))):
                return node
        return ""

    @cached_property
    def _prefixes(self) -> list[int]:
        """The prefix lengths of pod networks, longest first."""
        return sorted({network.prefix for network in self.pod_networks}, reverse=True)

    def pods_on(self, node: str, family: Family) -> Iterator[int]:
        """The addresses of a node's pods, sorted by the pods' names."""
        return iter(value for _, value in self._pods_by_node.get((node, family), ()))

    def endpoints_behind(self, address: Address, port: int, protocol: str) -> frozenset[Address]:
        """The endpoints of the Service that is dialled with this destination; empty if it is none."""
        for frontend in (Frontend(address, port, protocol), Frontend(None, port, protocol)):
            if service := self.services.get(frontend):
                return self.endpoints.get(service, frozenset())
        return frozenset()

    def knows(self, address: Address) -> bool:
        """Whether the cluster uses the address in any way."""
        return address in self.pods or address in self.nodes or self.is_of_service(address)

    def is_of_service(self, address: Address) -> bool:
        """Whether a Service has the address, so that clients dial it."""
        return address in self._service_addresses


def endpoint_name(of: EndpointSlice, endpoint: SliceEndpoint) -> str:
    """The pod that is an endpoint, or else the Service whose endpoint it is."""
    namespace, target = of.metadata.namespace, endpoint.target_ref
    if target is not None and target.kind == "Pod":
        return f"pod {target.namespace or namespace}/{target.name}"
    return f"endpoint of {namespace}/{of.service_name}"


def _parsed(texts: Iterable[str]) -> Iterator[Address]:
    return (parsed for parsed in map(parse_ip, texts) if parsed is not None)


def _pods(state: ClusterState, nodes: dict[Address, str]) -> dict[Address, Owner]:
    """The pods by address, from Pod objects, else from endpoints. An address that a node has belongs to the node."""
    found: dict[Address, Owner] = {}
    for pod in state.pods:
        if not pod.host_network:
            owner = Owner(f"pod {pod.metadata.namespace}/{pod.metadata.name}", pod.node_name)
            found.update((address, owner) for address in _parsed(pod.ips) if address not in nodes)
    for endpoint_slice in state.endpoint_slices:
        for endpoint in endpoint_slice.endpoints:
            name = endpoint_name(endpoint_slice, endpoint)
            for address in _parsed(endpoint.addresses):
                if address not in nodes:
                    found.setdefault(address, Owner(name, endpoint.node_name or ""))
    return found


def _frontends(state: ClusterState) -> Iterator[tuple[Frontend, str]]:
    for service in state.services:
        name = f"{service.metadata.namespace}/{service.metadata.name}"
        texts = [service.cluster_ip, *service.cluster_ips, *service.external_ips, *(i.ip for i in service.ingress)]
        addresses = list(_parsed(texts))
        for port in service.ports:
            protocol = port.protocol.lower()
            yield from ((Frontend(address, port.port, protocol), name) for address in addresses)
            if port.node_port:
                yield Frontend(None, port.node_port, protocol), name


def _endpoints(state: ClusterState) -> dict[str, frozenset[Address]]:
    found: dict[str, set[Address]] = {}
    for endpoint_slice in state.endpoint_slices:
        name = f"{endpoint_slice.metadata.namespace}/{endpoint_slice.service_name}"
        for endpoint in endpoint_slice.endpoints:
            found.setdefault(name, set()).update(_parsed(endpoint.addresses))
    return {name: frozenset(addresses) for name, addresses in found.items()}
