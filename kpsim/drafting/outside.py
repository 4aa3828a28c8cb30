"""Addresses for clients outside the cluster: within loadBalancerSourceRanges, and in use by no object of the cluster."""

from collections.abc import Iterator
from itertools import islice

from kpsim.addresses import Family, Network, format_ip, parse_ip, parse_network
from kpsim.cluster import ClusterState
from kpsim.objects import Service

CLIENTS = 20  #: of each source outside
_BITS = 5  #: of the networks that clients of a source get: 32 addresses
_TRIED = 1 << 14

#: the network of a scenario's clients by default, and the one that replaces it if an object of the cluster has an address there
_USUAL = {
    Family.IPV4: (203 << 24 | 113 << 8, 203 << 24 | 255 << 8 | 255),
    Family.IPV6: (0x20010DB8 << 96, 0x20010DB8 << 96 | 0xFFFF),
}
_INSTEAD = {Family.IPV4: "198.18.0.0/15", Family.IPV6: "2001:db8:ffff::/48"}


class Outside:
    """Gives out networks in which no object of the cluster has an address."""

    def __init__(self, state: ClusterState) -> None:
        self._networks = [n for node in state.nodes for n in map(parse_network, node.pod_cidrs) if n is not None]
        nodes = (ip for node in state.nodes for ip in node.ips)
        pods = (ip for pod in state.pods for ip in pod.ips)
        services = (ip for service in state.services for ip in _of_service(service))
        endpoints = (ip for item in state.endpoint_slices for e in item.endpoints for ip in e.addresses)
        found = (parse_ip(ip) for ips in (nodes, pods, services, endpoints) for ip in ips)
        self._taken = {address for address in found if address is not None}
        self._blocks = {(family, value >> _BITS) for family, value in self._taken}
        self._free: dict[Network, Iterator[Network]] = {}
        self._given: set[Network] = set()

    @property
    def usual_families(self) -> frozenset[Family]:
        """The families whose usual clients have addresses of their own."""
        return frozenset(
            family for family, (first, last) in _USUAL.items()
            if not any(of is family and first <= value <= last for of, value in self._taken)
        )  # fmt: skip

    def network(self, family: Family) -> Network | None:
        """Return a network for clients of one source, wherever it is."""
        instead = parse_network(_INSTEAD[family])
        assert instead is not None
        return self.within(instead)

    def within(self, network: Network) -> Network | None:
        """Return a network for clients of one source within another; None: there is none."""
        free = self._free.setdefault(network, self._free_in(network))
        made = next((each for each in free if each not in self._given), None)
        if made is not None:
            self._given.add(made)
        return made

    def _free_in(self, network: Network) -> Iterator[Network]:
        prefix = network.family.bits - _BITS
        if network.prefix > prefix:
            return
        for number in islice(range(1 << (prefix - network.prefix)), _TRIED):
            text = f"{format_ip(network.family, network.base + (number << _BITS))}/{prefix}"
            made = parse_network(text)
            if made is not None and (made.family, made.base >> _BITS) not in self._blocks and not self._has_pods(made):
                yield made

    def _has_pods(self, network: Network) -> bool:
        return any(o.family is network.family and (o.base in network or network.base in o) for o in self._networks)


def _of_service(service: Service) -> tuple[str, ...]:
    return (*service.cluster_ips, service.cluster_ip, *service.external_ips, *(entry.ip for entry in service.ingress))
