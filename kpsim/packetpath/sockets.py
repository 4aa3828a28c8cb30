"""Sockets of a node's processes that wait for packets."""

from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.packet import Packet


class Socket(NamedTuple):
    """A socket that waits for packets, as ``ss -lntu`` lists it."""

    protocol: str  #: ``tcp``, ``udp``, …
    port: int
    address: tuple[Family, int] | None = None  #: None: any address of both families; 0: any of its family
    interface: str = ""  #: that it is bound to; empty: any
    program: str = ""  #: its name, if the listing had it

    def takes(self, packet: Packet) -> bool:
        if (packet.protocol, packet.dport) != (self.protocol, self.port):
            return False
        if self.interface and packet.in_interface not in ("", self.interface):
            return False
        return self.address is None or self.address in ((packet.family, packet.daddr), (packet.family, 0))

    @property
    def bound(self) -> bool:
        """Whether it takes packets to one address only."""
        return self.address is not None and self.address[1] != 0
