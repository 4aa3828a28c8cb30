"""Virtual servers and their real servers: what ip_vs was told of each address and port (IPVS-4, IPVS-5).

Connections, counters and what a scheduler remembers are not in here: packets cause them.
"""

import enum
from collections.abc import Mapping
from dataclasses import field
from typing import NamedTuple

from kpsim.addresses import Family, format_ip, join_host_port
from kpsim.ruleset.origin import FOREIGN, Origin
from kpsim.valueclass import dataclass


class VirtualServerKey(NamedTuple):
    """What a packet must be sent to. ip_vs has at most one virtual server for it."""

    address: int
    port: int
    protocol: str  #: ``tcp``, ``udp`` or ``sctp``, as packets have it


class VirtualServerFlags(enum.Flag):
    """How a virtual server differs from an ordinary one. The values are the kernel's (IPVS-4.4)."""

    PERSISTENT = 0x1  #: a client keeps its real server for ``timeout_s``
    ONE_PACKET = 0x4  #: each UDP packet is a connection of its own
    SCHEDULER_1 = 0x8  #: of ``sh`` and ``mh``: another real server serves if the hashed one cannot
    SCHEDULER_2 = 0x10  #: of ``sh`` and ``mh``: the source port is hashed too
    SCHEDULER_3 = 0x20  #: of no scheduler in the kernel


#: protocol and port of virtual servers that the kernel treats in a way that is not modelled, and what it does (IPVS-11.2)
UNMODELLED: Mapping[tuple[str, int], str] = {
    ("tcp", 21): (
        "ip_vs takes connections to port 20 and to ports from 1024 of this address for FTP's data, which is not modelled "
        "(IPVS-11.2)"
    )
}

NO_VIRTUAL_SERVER_FLAGS = VirtualServerFlags(0)


@dataclass(frozen=True, slots=True)
class RealServer:
    """An endpoint of a virtual server. The forwarding method is masquerading (NAT), the only one that is modelled."""

    address: int
    port: int
    weight: int = 1  #: 0: it gets no new connection, and keeps those that it has (IPVS-13.1)
    #: tells it from one with this address and port that was deleted in the same sync (IPVS-13.4)
    generation: int = field(default=0, compare=False)
    origin: Origin = field(default=FOREIGN, compare=False)


@dataclass(frozen=True, slots=True)
class VirtualServer:
    """How the connections to one address, port and protocol are spread over real servers."""

    scheduler: str  #: by its name in the kernel, such as ``rr``
    netmask: int  #: prefix length: persistence takes the sources that agree in it for one client; kube-proxy: 32, 128
    flags: VirtualServerFlags = NO_VIRTUAL_SERVER_FLAGS
    timeout_s: int = 0  #: of persistence; 0 without it
    servers: tuple[RealServer, ...] = ()  #: newest first, as the kernel keeps them and schedulers see them (IPVS-11.7)
    origin: Origin = field(default=FOREIGN, compare=False)


class ServerReference(NamedTuple):
    """A virtual server, and the real server that it chose; None: it had none to choose."""

    family: Family
    key: VirtualServerKey
    virtual: VirtualServer
    server: RealServer | None = None

    @property
    def origin(self) -> Origin:
        """Why the virtual server exists."""
        return self.virtual.origin

    def __str__(self) -> str:
        address, port, protocol = self.key
        return f"virtual server {join_host_port(format_ip(self.family, address), port)}/{protocol.upper()}"
