"""The load balancers: probes of every node, and who is in the rotation."""

from collections import Counter
from functools import partial
from typing import Any, NamedTuple

from kpsim import rng
from twin.clock import PROBE, SEE, Clock, S, ns
from twin.nodes import Nodes
from twin.proxies import Proxies

#: seconds between two times at which the service controller makes the set of nodes anew
RESYNC = 100 * S


class Balancer(NamedTuple):
    """One Service's load balancer, with the nodes of its rotation and the probes in a row that say otherwise."""

    service: str
    per_service: bool  #: probes the Service's health check (CP-15) instead of /healthz (CP-14)
    rotation: dict[str, bool]
    contrary: Counter[str]


class LoadBalancers:
    """All load balancers. Each probes /healthz (CP-14.3) or, under eTP Local, the health check node port (CP-15.2).

    ``turns`` has time, Service, node, and whether the node is in the rotation now.
    """

    def __init__(self, clock: Clock, document: dict[str, Any], nodes: Nodes, proxies: Proxies) -> None:
        self._clock, self._nodes, self._proxies = clock, nodes, proxies
        self._settings, self._seed = document["loadBalancer"], document["seed"]
        self._specs = {obj["metadata"]["name"]: obj["spec"] for obj in document["objects"]}
        self.turns: list[tuple[int, str, str, bool]] = []
        self._all: list[Balancer] = []
        self._members = set(nodes.names)  #: the set of nodes that the service controller made last (CP-14.3)

    def settle(self) -> None:
        """Begin with a rotation of the nodes that pass, and plan the first probe of each."""
        interval = ns(self._settings["interval"])
        for service, spec in self._specs.items():
            if spec.get("type") != "LoadBalancer":
                continue
            self._all.append(balancer := Balancer(service, spec.get("externalTrafficPolicy") == "Local", {}, Counter()))
            for node in self._nodes.names:
                balancer.rotation[node] = self._passes(balancer, node)
                first = rng.below(interval, self._seed, "first probe", f"default/{service}", node)
                self._clock.at(first, PROBE, partial(self._probe, balancer, node))
        self._clock.at(rng.below(RESYNC, self._seed, "node resync"), SEE, self._resync)

    def _resync(self) -> None:
        """CP-14.3: only now does a taint take a node out of the set. A node that comes back has to pass its probes."""
        members = {node for node in self._nodes.names if self._nodes.eligible(node)}
        for balancer in self._all:
            for node in sorted(members ^ self._members):
                if balancer.rotation[node] and node not in members:
                    self.turns.append((self._clock.now, balancer.service, node, False))
                if node in members:
                    balancer.rotation[node], balancer.contrary[node] = False, 0
        self._members = members
        self._clock.after(RESYNC, SEE, self._resync)

    def _passes(self, balancer: Balancer, node: str) -> bool:
        """CP-14.1: healthy without a request older than twice the retry interval; CP-14.2; CP-15.2."""
        process = self._proxies.processes[node]
        if not process.alive or self._nodes.down_at[node] is not None:
            return False
        healthy = process.pending is None or self._clock.now - process.pending < 2 * process.limits.retry
        if not balancer.per_service:
            return healthy and process.eligible
        return healthy and process.local is not None and process.local[balancer.service] > 0

    def _probe(self, balancer: Balancer, node: str) -> None:
        inside = balancer.rotation[node]
        if self._passes(balancer, node) == inside:
            balancer.contrary[node] = 0
        else:
            balancer.contrary[node] += 1
            if balancer.contrary[node] >= self._settings["unhealthyThreshold" if inside else "healthyThreshold"]:
                balancer.rotation[node] = not inside
                balancer.contrary[node] = 0
                if node in self._members:
                    self.turns.append((self._clock.now, balancer.service, node, not inside))
        self._clock.after(ns(self._settings["interval"]), PROBE, partial(self._probe, balancer, node))
