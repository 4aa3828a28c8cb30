"""Endpoints that are no pods: machines outside the cluster, and processes of nodes, that an EndpointSlice lists.

A scenario says nothing about such machines. Each is taken to listen, as traces take it, from the first slice that lists
it on to the end of the run. Slices written by hand or mirrored from Endpoints list them (CP-4.3).
"""

from typing import NamedTuple

from kpsim.addresses import parse_ip
from kpsim.exchange import Target
from kpsim.objects import EndpointSlice
from kpsim.simulation.apiserver import Change


class Elsewhere(NamedTuple):
    """The application at an endpoint that is no pod."""

    target: Target


class ListedElsewhere:
    """All targets that a slice has listed without naming a pod. A watcher of the API server."""

    def __init__(self) -> None:
        self._targets: set[Target] = set()

    def on_change(self, change: Change) -> None:
        """Take in one write."""
        new = change.event.new
        if not isinstance(new, EndpointSlice):
            return
        for endpoint in new.endpoints:
            if endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod":
                continue
            for parsed in filter(None, map(parse_ip, endpoint.addresses)):
                for port in new.ports:
                    if port.port is not None:
                        self._targets.add(Target(parsed[0], port.protocol.lower(), parsed[1], port.port))

    def at(self, target: Target) -> Elsewhere | None:
        return Elsewhere(target) if target in self._targets else None
