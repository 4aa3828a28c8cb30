"""Services with what is theirs alone: the addresses and node ports that no other Service and no node has.

Services that share an address or a node port belong together: they are one component. Two components are candidates for
being alike (:mod:`~kpsim.comparison.behaviour.alike`).
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple

from kpsim.addresses import Family, parse_ip
from kpsim.cluster import ClusterState
from kpsim.objects import EndpointSlice, Service

Address = tuple[Family, int]


class Component(NamedTuple):
    """Services that share constants, and the constants that are theirs alone."""

    services: tuple[str, ...]  #: ``namespace/name``, sorted
    addresses: tuple[Address, ...]  #: which Services and endpoints have
    ports: tuple[int, ...]  #: node ports, those of health checks among them
    dialled: frozenset[Address]  #: those of the addresses that are frontends
    node_ports: frozenset[tuple[str, int]]  #: the ports, with the protocols (lower case) that they are dialled with


def frontends_of(service: Service) -> Iterator[tuple[str, str, str]]:
    """The addresses of a Service as texts, what each is, and the mode of a load balancer's."""
    yield from ((text, "cluster IP", "") for text in dict.fromkeys((service.cluster_ip, *service.cluster_ips)))
    yield from ((text, "external IP", "") for text in service.external_ips)
    yield from ((each.ip, "load balancer IP", each.ip_mode or "") for each in service.ingress)


def name_of(service: Service) -> str:
    return f"{service.metadata.namespace}/{service.metadata.name}"


def service_of(each: EndpointSlice) -> str:
    return f"{each.metadata.namespace}/{each.service_name}"


def parsed(text: str) -> Address | None:
    return parse_ip(text) if text else None


def components(
    states: Sequence[ClusterState], nodes_own: Collection[Address], taken_ports: Collection[int]
) -> list[Component]:
    """The components of the Services of some states together, sorted by name.

    ``nodes_own`` are addresses that belong to nodes, ``taken_ports`` ports that mean something by themselves: a constant
    among them belongs to no component. Services that a load balancer answers for are left out.
    """
    found = _Sharing(nodes_own, taken_ports)
    for state in states:
        for service in state.services:
            found.add_service(service)
        for each in state.endpoint_slices:
            for endpoint in each.endpoints:
                for text in endpoint.addresses:
                    found.have(service_of(each), parsed(text))
    return sorted(found.components())


class _Sharing:
    """Services and constants, joined where a Service has a constant: a forest whose trees are the components."""

    def __init__(self, nodes_own: Collection[Address], taken_ports: Collection[int]) -> None:
        self._nodes_own, self._taken_ports = nodes_own, taken_ports
        self._above: dict[Hashable, Hashable] = {}
        self._dialled: set[Address | None] = set()
        self._node_ports: set[tuple[str, int]] = set()
        self._left_out: set[str] = set()

    def _root(self, of: Hashable) -> Hashable:
        above = self._above
        while above.setdefault(of, of) != of:
            above[of] = above[above[of]]
            of = above[of]
        return of

    def have(self, name: str, constant: Address | int | None) -> None:
        """A Service has an address or a node port."""
        common = self._taken_ports if isinstance(constant, int) else self._nodes_own
        if constant is not None and constant not in common:
            self._above[self._root(name)] = self._root(constant)

    def add_service(self, service: Service) -> None:
        name = name_of(service)
        self._root(name)
        for text, _, mode in frontends_of(service):
            self.have(name, parsed(text))
            self._dialled.add(parsed(text))
            if mode == "Proxy":
                self._left_out.add(name)
        for port in service.ports:
            if port.node_port:
                self.have(name, port.node_port)
                self._node_ports.add((port.protocol.lower(), port.node_port))
        if service.health_check_node_port:
            self.have(name, service.health_check_node_port)
            self._node_ports.add(("tcp", service.health_check_node_port))

    def components(self) -> Iterator[Component]:
        members: dict[Hashable, list[Hashable]] = {}
        for each in self._above:
            members.setdefault(self._root(each), []).append(each)
        left_out = {self._root(name) for name in self._left_out}
        protocols: dict[int, list[str]] = {}
        for protocol, port in self._node_ports:
            protocols.setdefault(port, []).append(protocol)
        for root, parts in members.items():
            if root in left_out:
                continue
            addresses = sorted(part for part in parts if isinstance(part, tuple))
            ports = sorted(part for part in parts if isinstance(part, int))
            yield Component(
                tuple(sorted(part for part in parts if isinstance(part, str))), tuple(addresses), tuple(ports),
                frozenset(address for address in addresses if address in self._dialled),
                frozenset((protocol, port) for port in ports for protocol in protocols.get(port, ())),
            )  # fmt: skip


def kinds(states: Iterable[ClusterState]) -> int:
    """About how many kinds of Services there are: of one kind are those with the same settings, and endpoints on the same nodes."""
    found: set[Hashable] = set()
    for state in states:
        nodes: dict[str, Counter[str]] = {}
        for each in state.endpoint_slices:
            nodes.setdefault(service_of(each), Counter()).update(of.node_name or "" for of in each.endpoints)
        for service in state.services:
            of = (
                service.type,
                service.session_affinity,
                service.external_traffic_policy,
                service.internal_traffic_policy,
            )
            ports = tuple((port.protocol, port.port) for port in service.ports)
            ranges = service.load_balancer_source_ranges
            found.add((*of, ports, ranges, frozenset(nodes.get(name_of(service), Counter()).items())))
    return len(found)
