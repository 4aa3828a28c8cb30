"""Who answers: each endpoint's and each zone's share of the connections that were set up.

A share of nothing is undefined (NaN). Zones are those of the nodes. A connection crosses zones if the node where it met
the rules and the endpoint's node are in different zones. Connections of nodes without zone have no part in that.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kpsim.simulation.runlog import Connection, Fate, RunLog


@dataclass(frozen=True, slots=True)
class Shares:
    """Connections that were set up, by who answered and by the zones between which they went."""

    #: ``ip:port`` → connections; also ``ip`` → those to all ports of the address, ``pod/namespace/name`` → those of a pod
    by_endpoint: Mapping[str, int]
    total: int
    most: int  #: connections to the endpoint (``ip:port``) that has most
    by_zones: Mapping[tuple[str, str], int]  #: zone of the node, zone of the endpoint's node → connections

    def of_endpoint(self, endpoint: str) -> float:
        """Return the share of an endpoint (``ip:port``), of all endpoints at an address, or of a pod."""
        return _ratio(self.established(endpoint), self.total)

    @property
    def largest(self) -> float:
        """The largest share of an endpoint (``ip:port``)."""
        return _ratio(self.most, self.total)

    def established(self, endpoint: str) -> int:
        """Return the number of connections to an endpoint (``ip:port``), to an address, or to a pod."""
        return self.by_endpoint.get(endpoint, 0)

    def of_zone(self, zone: str) -> float:
        """Return the share that endpoints of a zone answered."""
        return _ratio(sum(n for (_, there), n in self.by_zones.items() if there == zone), self.between_zones)

    @property
    def between_zones(self) -> int:
        """Connections of which both zones are known."""
        return sum(self.by_zones.values())

    @property
    def cross_share(self) -> float:
        """Share of the connections that crossed zones."""
        return _ratio(sum(n for (here, there), n in self.by_zones.items() if here != there), self.between_zones)

    def cross_share_from(self, zone: str) -> float:
        """Share of a zone's own connections that left it."""
        mine = {there: n for (here, there), n in self.by_zones.items() if here == zone}
        return _ratio(sum(n for there, n in mine.items() if there != zone), sum(mine.values()))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def address_of(endpoint: str) -> str:
    """Return the address of ``ip:port``, without the brackets of IPv6."""
    return endpoint.rpartition(":")[0].strip("[]")


def pod_figure(name: str) -> str:
    """Return how figures name a pod that is called ``namespace/name``, as ``kpsim trace`` does."""
    return f"pod/{name}"


def shares_of(connections: Iterable[Connection], zones: Mapping[str, str]) -> Shares:
    """Count the connections that were set up. ``zones`` are those of the nodes by name."""
    by_endpoint: Counter[str] = Counter()
    by_address: Counter[str] = Counter()
    by_pod: Counter[str] = Counter()
    by_zones: Counter[tuple[str, str]] = Counter()
    total = 0
    for c in connections:
        if not c.established or not c.endpoint or c.disposition is Fate.MISDELIVERED:
            continue
        total += 1
        by_endpoint[c.endpoint] += 1
        by_address[address_of(c.endpoint)] += 1
        if c.answered_by:
            by_pod[pod_figure(c.answered_by)] += 1
        if c.node in zones and c.endpoint_node in zones:
            by_zones[zones[c.node], zones[c.endpoint_node]] += 1
    return Shares(by_endpoint | by_address | by_pod, total, max(by_endpoint.values(), default=0), by_zones)


@dataclass(frozen=True, slots=True)
class Imbalance:
    """Endpoints of one service port that got unequal shares since its rules changed for the last time."""

    service: str
    since_ns: int
    shares: tuple[tuple[str, str, float], ...]  #: endpoint, its node, its share; most first
    clients: int  #: of Services with ClientIP affinity: how many there were; else 0
    followed: bool  #: most of the connections are packets of flows that connection entries hold to their endpoint

    @property
    def equal(self) -> float:
        return 1 / len(self.shares)


UNEQUAL = 1.1  #: an endpoint has so many times its equal share if shares count as unequal
_DEVIATIONS = 4  #: standard deviations that chance alone does not explain, if every connection is drawn anew
FEWEST = 50  #: connections that say something about shares


def imbalances(log: RunLog) -> list[Imbalance]:
    """Return the service ports whose endpoints get unequal shares of Cluster traffic at the end of the run, by name.

    Traffic of the Local policy is left out: each node shares it out among its own endpoints.
    """
    found = []
    for service in sorted({spell.service for spell in log.endpoints}):
        spells = [spell for spell in log.endpoints if spell.service == service]
        namespaced = service.partition(":")[0]
        changed = [p.programmed_ns for p in log.programming if p.service == namespaced]
        changed += [at_ns for s in spells for at_ns in (s.from_ns, s.until_ns) if at_ns is not None]
        since_ns = max(changed, default=0)
        connections = [
            c
            for c in log.connections
            if c.service == service and c.at_ns >= since_ns and c.traffic_policy == "Cluster" and c.established
        ]
        families = {":" in address_of(c.endpoint) for c in connections}
        if len(connections) < FEWEST or len(families) != 1:
            continue
        (ipv6,) = families
        current = {s.endpoint: s.node for s in spells if s.until_ns is None and (":" in address_of(s.endpoint)) is ipv6}
        counts = Counter(c.endpoint for c in connections)
        if len(current) < 2 or not set(counts) <= set(current):
            continue
        ordered = sorted(current, key=lambda endpoint: (-counts[endpoint], endpoint))
        sticky = {c.client for c in connections if c.session_affinity}
        here = tuple((endpoint, current[endpoint], counts[endpoint] / len(connections)) for endpoint in ordered)
        equal = 1 / len(here)
        chance = 0 if sticky else _DEVIATIONS * math.sqrt(equal * (1 - equal) / len(connections))
        if here[0][2] >= max(UNEQUAL * equal, equal + chance):
            followed = 2 * sum(not c.new_flow for c in connections) > len(connections)
            found.append(Imbalance(service, since_ns, here, len(sticky), followed))
    return found
