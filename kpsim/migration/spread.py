"""How evenly schedulers spread connections over endpoints if every node has its own, against a draw for each connection.

The schedulers are those of the model (IPVS-14). The question is the ideal case of a scheduler: connections of many
clients begin one after the other and stay open, so that it can see how many each endpoint has, as far as its node knows.
"""

from collections.abc import Hashable, Mapping
from itertools import count
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.ipvs.schedulers import Candidate, Request, pick
from kpsim.ipvs.servers import RealServer
from kpsim.rng import below

CONNECTIONS, CLIENTS = 1_000, 100
MOST_ENDPOINTS, MOST_NODES = 50, 50  #: larger Services and clusters are asked about as if they had so many
_FIRST_CLIENT, _FIRST_SERVER = 10 << 24 | 1 << 16, 10 << 24 | 2 << 16
_HASHES_PORT = frozenset({"mh"})  #: as kube-proxy sets it up (IPVS-4.4)


class Spread(NamedTuple):
    """The connections of the busiest endpoint. ``scheduled`` has them by scheduler, None where some were refused."""

    nodes: int
    endpoints: int
    scheduled: Mapping[str, int | None]
    drawn: int


def spread(schedulers: tuple[str, ...], nodes: int, endpoints: int) -> Spread:
    """What becomes of ``CONNECTIONS`` connections of ``CLIENTS`` clients, each from one of the nodes."""
    nodes, endpoints = min(nodes, MOST_NODES), min(endpoints, MOST_ENDPOINTS)
    drawn = [0] * endpoints
    for number in range(CONNECTIONS):
        drawn[below(endpoints, 0, "spread", "drawn", number)] += 1
    return Spread(nodes, endpoints, {name: _busiest(name, nodes, endpoints) for name in schedulers}, max(drawn))


def _busiest(scheduler: str, nodes: int, endpoints: int) -> int | None:
    servers = [RealServer(_FIRST_SERVER + number, 8080) for number in range(endpoints)]
    by_node = [dict.fromkeys(range(endpoints), 0) for _ in range(nodes)]
    cursors: list[Hashable] = [None] * nodes
    draws = count()
    for number in range(CONNECTIONS):
        client = below(CLIENTS, 0, "spread", "client", number)
        node = client % nodes  # a client is a pod, so its connections begin at one node
        active = by_node[node]
        found = pick(
            scheduler,
            [Candidate(server, active[place]) for place, server in enumerate(servers)],
            Request(
                Family.IPV4,
                (_FIRST_CLIENT + client, 32_768 + number),
                _FIRST_SERVER - 1,
                by_port=scheduler in _HASHES_PORT,
            ),
            cursors[node],
            lambda limit: below(limit, 0, "spread", scheduler, next(draws)),
        )
        if found.server is None:
            return None
        cursors[node] = found.cursor
        active[found.server.address - _FIRST_SERVER] += 1
    return max(sum(active[place] for active in by_node) for place in range(endpoints))
