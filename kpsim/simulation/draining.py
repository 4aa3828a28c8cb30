"""Real servers that drain: what a change of a node's virtual servers did to them.

Counterpart: kube-proxy's graceful termination as the kernel sees it. A server that drains has weight 0 (IPVS-6.1).
"""

from collections.abc import Iterator
from typing import NamedTuple

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.ipvs.servers import RealServer, VirtualServerKey
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
    """Yield what began to drain, what was deleted and added again while it drained (IPVS-6.4), and what was deleted.

    A virtual server that is deleted drains nothing.
    """
    if before is None or before.virtual_servers is after.virtual_servers:
        return
    old, new = _servers(before), _servers(after)
    listed = {each for each, server in old.items() if not server.weight}
    begun = (each for each, server in new.items() if not server.weight and each not in listed)
    ended = (each for each in listed if each not in new and each.of in after.virtual_servers)
    yield from ((HappeningKind.SERVER_DRAINING, each.text(after.family)) for each in sorted(begun))
    back = (each for each in listed if each in new and new[each].generation != old[each].generation)
    yield from ((HappeningKind.SERVER_BACK, each.text(after.family)) for each in sorted(back))
    yield from ((HappeningKind.SERVER_DELETED, each.text(after.family)) for each in sorted(ended))


def _servers(programmed: Programmed) -> dict[_Server, RealServer]:
    return {
        _Server(key, server.address, server.port): server
        for key, virtual in programmed.virtual_servers.items()
        for server in virtual.servers
    }
