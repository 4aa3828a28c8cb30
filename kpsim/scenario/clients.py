"""The addresses of clients outside the cluster."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kpsim.addresses import Family, Network, format_ip, parse_network
from kpsim.scenario.traffic_schema import Origin, Traffic

_FIRST6 = 0x20010DB8 << 96 | 1


@dataclass(frozen=True, slots=True)
class Clients:
    """The outside clients of one traffic source. ``first`` is the number of the first among those of all sources."""

    first: int
    count: int  #: of addresses; 0: its clients are inside
    network: Network | None = None  #: None: the documentation networks

    def address(self, number: int, family: Family) -> str:
        """Return the address of a client by its number within the source."""
        if self.network is None:
            return client_address(self.first + number, family)
        return format_ip(self.network.family, self.network.base + 1 + self.first + number)

    @property
    def addresses(self) -> range:
        """Return all addresses as numbers. There must be a network."""
        assert self.network is not None
        first = self.network.base + 1 + self.first
        return range(first, first + self.count)


def client_address(number: int, family: Family = Family.IPV4) -> str:
    """Return the address of the outside client with this number.

    IPv4: 203.0.113.1 to .254, then the networks after it. IPv6: 2001:db8::1 and on.
    """
    if family is Family.IPV6:
        return format_ip(family, _FIRST6 + number)
    block, host = divmod(number, 254)
    return f"203.0.{113 + block}.{host + 1}"


def outside_clients(sources: Iterable[Traffic]) -> Iterator[Clients]:
    """Yield the clients of each source, whose addresses are distinct from those of all others.

    All clients behind a NAT share one address. Clients inside the cluster have none.
    """
    taken: Counter[str] = Counter()
    for traffic in sources:
        count = 0 if traffic.origin is not Origin.OUTSIDE else 1 if traffic.nat else traffic.clients
        network = traffic.client_network or ""
        yield Clients(taken[network], count, parse_network(network) if network else None)
        taken[network] += count
