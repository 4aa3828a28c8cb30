"""Brings virtual servers, and the addresses of kube-ipvs0, in line with what service ports want (IPVS-3 to IPVS-5)."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from kpsim.addresses import Network
from kpsim.backends import IpvsConnections
from kpsim.backends.ipvs.frontends import Frontend
from kpsim.backends.ipvs.graceful import DrainingServers, may_delete
from kpsim.ipvs.servers import RealServer, VirtualServer, VirtualServerKey
from kpsim.programmed import Programmed

DEVICE = "kube-ipvs0"

Servers = tuple[RealServer, ...]


def device_addresses(held: Programmed) -> list[int]:
    """The addresses that kube-ipvs0 has, in ascending order."""
    return sorted(address for address, device in held.local_addresses.items() if device == DEVICE)


class Balancing:
    """How one sync changes the real servers of a virtual server."""

    def __init__(self, draining: DrainingServers, connections: IpvsConnections, *, first: bool) -> None:
        """``first``: the process syncs for the first time, so it resets the weights that it finds (IPVS-5.4)."""
        self._draining = draining
        self._connections = connections
        self._first = first

    def serve(self, held: Programmed, frontends: Sequence[Frontend]) -> Programmed:
        """Makes the virtual servers and binds their addresses, one frontend after the other.

        Two frontends with one address, port and protocol overwrite each other's real servers (IPVS-5.3).
        """
        changing = held.virtual_servers.mutate()
        made: dict[VirtualServerKey, VirtualServer] = {}
        for key, wanted in [(frontend.key, frontend.server) for frontend in frontends]:
            known = made.get(key) or held.virtual_servers.get(key)
            servers = self._in_line(key, () if known is None else known.servers, wanted.servers)
            made[key] = replace(wanted, servers=servers)
            if made[key] != known:
                changing[key] = made[key]
        bound = {frontend.key.address: DEVICE for frontend in frontends if frontend.bound}
        return replace(held, virtual_servers=changing.finish(), local_addresses=held.local_addresses.update(bound))

    def _in_line(self, key: VirtualServerKey, present: Servers, wanted: Servers) -> Servers:
        """The real servers of a virtual server after the sync, newest first (IPVS-5.4, IPVS-5.5)."""
        places = {(server.address, server.port) for server in wanted}
        known = {(server.address, server.port): server for server in present}
        kept = dict(known)
        added: list[RealServer] = []
        for server in wanted:
            place = server.address, server.port
            found = known.get(place)
            if found is None:
                added.append(server)
            elif (key, found) in self._draining:
                # deleted and added again, so the kernel has it as another server (IPVS-6.4)
                self._draining.remove(key, found)
                del kept[place]
                added.append(replace(server, generation=found.generation + 1))
            elif self._first:
                kept[place] = replace(found, weight=1)
        for place, server in known.items():
            if place not in places and (key, server) not in self._draining:
                if may_delete(key, server, self._connections):
                    del kept[place]
                else:
                    kept[place] = replace(server, weight=0)
                    self._draining.add(key, server)
        return *reversed(added), *kept.values()


def without_unwanted_addresses(held: Programmed, frontends: Sequence[Frontend]) -> Programmed:
    """What the kernel holds once kube-ipvs0 has no address that nobody wants, whoever added it (IPVS-3.4)."""
    wanted = {frontend.key.address for frontend in frontends if frontend.bound}
    addresses = held.local_addresses.mutate()
    for address in device_addresses(held):
        if address not in wanted:
            addresses.pop(address)
    return replace(held, local_addresses=addresses.finish())


def without_unwanted_servers(
    held: Programmed, frontends: Sequence[Frontend], excluded: Collection[Network]
) -> Programmed:
    """What the kernel holds once the virtual servers that nobody wants are gone, whoever made them (IPVS-4.6).

    ``excluded`` are the networks of ``excludeCIDRs``. Virtual servers in them stay.
    """
    wanted = {frontend.key for frontend in frontends}
    servers = held.virtual_servers.mutate()
    for key in held.virtual_servers:
        if key not in wanted and not any(key.address in network for network in excluded):
            servers.pop(key)
    return replace(held, virtual_servers=servers.finish())
