"""Graceful termination: real servers that get no new connections and wait until the last one has ended (IPVS-6)."""

from dataclasses import replace

from kpsim.backends import IpvsConnections
from kpsim.ipvs.servers import RealServer, VirtualServer, VirtualServerKey
from kpsim.maps import Map

_Id = tuple[VirtualServerKey, int, int]


class DrainingServers:
    """The list of a process. A restart loses it (IPVS-6.5)."""

    def __init__(self) -> None:
        self._listed: dict[_Id, None] = {}

    def __contains__(self, server: tuple[VirtualServerKey, RealServer]) -> bool:
        return _id(*server) in self._listed

    def listed(self) -> list[tuple[VirtualServerKey, int, int]]:
        """Virtual server, address and port of each, longest listed first."""
        return list(self._listed)

    def add(self, key: VirtualServerKey, server: RealServer) -> None:
        self._listed[_id(key, server)] = None

    def remove(self, key: VirtualServerKey, server: RealServer) -> None:
        del self._listed[_id(key, server)]

    def pass_over(
        self, servers: Map[VirtualServerKey, VirtualServer], connections: IpvsConnections
    ) -> Map[VirtualServerKey, VirtualServer]:
        """One pass of the loop that runs every 60 s: deletes the servers whose last connection has ended (IPVS-6.2).

        A server that has vanished meanwhile leaves the list.
        """
        for key, address, port in self.listed():
            present = servers[key].servers if key in servers else ()
            found = [server for server in present if (server.address, server.port) == (address, port)]
            if any(not may_delete(key, server, connections) for server in found):
                continue
            if found:
                left = tuple(server for server in present if server not in found)
                servers = servers.set(key, replace(servers[key], servers=left))
            del self._listed[key, address, port]
        return servers


def may_delete(key: VirtualServerKey, server: RealServer, connections: IpvsConnections) -> bool:
    """Whether a server can be deleted at once: it has no connection, or the protocol is not TCP (IPVS-6.1)."""
    return key.protocol != "tcp" or sum(connections(key, server)) == 0


def _id(key: VirtualServerKey, server: RealServer) -> _Id:
    return key, server.address, server.port
