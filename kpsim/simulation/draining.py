"""Real servers that drain: what a change of a node's virtual servers did to them.

Counterpart: kube-proxy's graceful termination as the kernel sees it. A server that drains has weight 0 (IPVS-6.1).
"""

from collections.abc import Iterator
from typing import NamedTuple

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.ipvs.servers import VirtualServerKey
from kpsim.programmed import Programmed
from kpsim.simulation.runlog import HappeningKind


class _Server(NamedTuple):
    """A real server of a virtual server."""

    of: VirtualServerKey
    address: int
    port: int

    def text(self, family: Family) -> str:
        address, virtual = format_ip(family, self.address), format_ip(family, self.of.address)
        where = f"{join_host_port(virtual, self.of.port)}/{self.of.protocol.upper()}"
        return f"{join_host_port(address, self.port)} of virtual server {where}"


def drained(before: Programmed | None, after: Programmed) -> Iterator[tuple[HappeningKind, str]]:
    """Yield what began to drain, then what drained and was deleted. A virtual server that is deleted drains nothing."""
    if before is None or before.virtual_servers is after.virtual_servers:
        return
    old, new = _weights(before), _weights(after)
    begun = (each for each, weight in new.items() if not weight and old.get(each, 1))
    ended = (
        each for each, weight in old.items() if not weight and each not in new and each.of in after.virtual_servers
    )
    yield from ((HappeningKind.SERVER_DRAINING, each.text(after.family)) for each in sorted(begun))
    yield from ((HappeningKind.SERVER_DELETED, each.text(after.family)) for each in sorted(ended))


def _weights(programmed: Programmed) -> dict[_Server, int]:
    return {
        _Server(key, server.address, server.port): server.weight
        for key, virtual in programmed.virtual_servers.items()
        for server in virtual.servers
    }
