"""Which Service packets are for, by what they dial, and what of a Service two clusters have differently."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from kpsim.addresses import Family, parse_ip, parse_network
from kpsim.cluster import ClusterState
from kpsim.comparison.behaviour.boxes import Box
from kpsim.comparison.behaviour.spaces import Partition, Values, cuts_of, is_one, meet
from kpsim.objects import Service

_LOOPBACK = {Family.IPV4: (127 << 24, (128 << 24) - 1), Family.IPV6: (1, 1)}
#: addresses of a node that only the node itself reaches, and all others
LOOPBACK = {
    family: Partition(cuts_of([interval]), lambda each, interval=interval: interval[0] <= each <= interval[1])  # type: ignore[misc]
    for family, interval in _LOOPBACK.items()
}


class Frontend(NamedTuple):
    """An address or a node port of a Service."""

    service: str  #: ``namespace/name``
    port_name: str
    kind: str  #: for people: ``cluster IP``, ``external IP``, ``load balancer IP``, ``node port``,
    #: ``localhost node port``
    port: int | None  #: None: any port of the address that is none of the Service's

    @property
    def name(self) -> str:
        return f"{self.service}:{self.port_name}" if self.port_name else self.service


@dataclass(frozen=True)
class Frontends:
    """What clients dial in two clusters, together."""

    states: tuple[ClusterState, ...]

    @cached_property
    def _at(self) -> tuple[Mapping[tuple[Family, int, str, int], Frontend], Mapping[tuple[str, int], Frontend]]:
        addressed: dict[tuple[Family, int, str, int], Frontend] = {}
        node_ports: dict[tuple[str, int], Frontend] = {}
        for state in self.states:
            for service in state.services:
                name = f"{service.metadata.namespace}/{service.metadata.name}"
                for port in service.ports:
                    protocol = port.protocol.lower()
                    for family, address, kind in _addresses(service):
                        found = Frontend(name, port.name or "", kind, port.port)
                        addressed.setdefault((family, address, protocol, port.port), found)
                    if port.node_port:
                        node_ports.setdefault(
                            (protocol, port.node_port), Frontend(name, port.name or "", "node port", port.node_port)
                        )
        return addressed, node_ports

    @property
    def count(self) -> int:
        """How many there are: addresses with a port, and node ports."""
        return len(self._at[0]) + len(self._at[1])

    @property
    def names(self) -> frozenset[str]:
        """The names of all Services, and of their ports."""
        found = [*self._at[0].values(), *self._at[1].values()]
        return frozenset(name for each in found for name in (each.name, each.service))

    @cached_property
    def _by_address(self) -> dict[tuple[Family, int], Frontend]:
        """The Service of an address at any port; of several the first by name, without a port."""
        found: dict[tuple[Family, int], Frontend] = {}
        for (family, address, _, _), frontend in sorted(self._at[0].items(), key=lambda item: item[1].service):
            found.setdefault((family, address), frontend._replace(port_name="", port=None))
        return found

    @cached_property
    def _partitions(self) -> dict[Hashable, Partition]:
        found: dict[Hashable, Partition] = {}
        for family in Family:
            own = {address: front.service for (of, address), front in self._by_address.items() if of is family}
            cuts = cuts_of((address, address) for address in own)
            found[family] = Partition(cuts, lambda address, own=own: address if address in own else None)  # type: ignore[misc]
        for protocol in {protocol for protocol, _ in self._at[1]}:
            ports = {port for of, port in self._at[1] if of == protocol}
            cuts = cuts_of((port, port) for port in ports)
            found[protocol] = Partition(cuts, lambda port, ports=ports: port if port in ports else None)  # type: ignore[misc]
        return found

    def divide(self, box: Box) -> Iterator[tuple[Frontend | None, Box]]:
        """The parts of a box that are for one Service each, and the rest of it."""
        for name, addresses in self._partitions[box.family].split(box.destination).items():
            part = box._replace(destination=addresses)
            if name is None:
                if (frontend := self._of_node_port(part)) is None:
                    yield None, part
                    continue
                for loopback, own in LOOPBACK[box.family].split(addresses).items():
                    kind = "localhost node port" if loopback is True else frontend.kind
                    yield frontend._replace(kind=kind), part._replace(destination=own)
                continue
            at = box.family, addresses[0][0]
            exact = self._at[0].get((*at, box.protocol, box.port[0][0])) if is_one(box.port) else None
            yield exact or self._by_address[at], part

    def _of_node_port(self, box: Box) -> Frontend | None:
        return self._at[1].get((box.protocol, box.port[0][0])) if is_one(box.port) else None

    @cached_property
    def service_networks(self) -> dict[Family, Values]:
        """The networks from which cluster IPs are allocated."""
        found: dict[Family, list[tuple[int, int]]] = {family: [] for family in Family}
        for state in self.states:
            for each in state.service_cidrs:
                for network in map(parse_network, each.cidrs):
                    if network is not None:
                        found[network.family].append((network.base, network.last))
        return {family: tuple(sorted(intervals)) for family, intervals in found.items()}

    def are_all(self, family: Family, addresses: Values) -> bool:
        """Whether all of these addresses are addresses of Services."""
        return None not in self._partitions[family].split(addresses)

    def in_service_network(self, box: Box) -> bool:
        return any(meet(box.destination, (interval,)) for interval in self.service_networks[box.family])


def _addresses(service: Service) -> Iterable[tuple[Family, int, str]]:
    texts = [(text, "cluster IP") for text in (service.cluster_ip, *service.cluster_ips)]
    texts += [(text, "external IP") for text in service.external_ips]
    texts += [(each.ip, "load balancer IP") for each in service.ingress]
    for text, kind in texts:
        if text and (parsed := parse_ip(text)) is not None:
            yield (*parsed, kind)
