"""Source ports: the port that a sender's kernel gives to the sender's next connection.

Counterpart: the search for a free port in inet_hash_connect. A sender never has two connections from one port to one
destination, whichever traffic sources of the scenario they belong to.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field

FIRST_EPHEMERAL, EPHEMERAL = 32768, 28232  #: net.ipv4.ip_local_port_range


@dataclass(slots=True)
class _Range:
    """Ports of one sender towards one destination. They are given out in turn; those in use are left out."""

    given: int = 0
    in_use: set[int] = field(default_factory=set)

    def next(self) -> int | None:
        for _ in range(EPHEMERAL):
            port = FIRST_EPHEMERAL + self.given % EPHEMERAL
            self.given += 1
            if port not in self.in_use:
                return port
        return None


class SourcePorts:
    """The ports of all senders. A ``destination`` is any value that tells a sender's destinations apart."""

    def __init__(self) -> None:
        self._ranges: dict[tuple[str, Hashable], _Range] = {}
        self._sockets: dict[Hashable, int | None] = {}

    def fresh(self, sender: str, destination: Hashable) -> int | None:
        """Return the next port that no open connection uses, or None if there is none (EADDRNOTAVAIL)."""
        return self._range(sender, destination).next()

    def socket(self, sender: str, destination: Hashable, *name: Hashable) -> int | None:
        """Return the port of a socket that its sender keeps and reuses. It is chosen at the first use."""
        key = (sender, destination, name)
        if key not in self._sockets:
            port = self._sockets[key] = self.fresh(sender, destination)
            if port is not None:
                self.occupy(sender, destination, port)
        return self._sockets[key]

    def occupy(self, sender: str, destination: Hashable, port: int) -> None:
        """Mark the port as used by an open connection."""
        self._range(sender, destination).in_use.add(port)

    def release(self, sender: str, destination: Hashable, port: int) -> None:
        """Free the port: its connection is closed."""
        self._range(sender, destination).in_use.discard(port)

    def _range(self, sender: str, destination: Hashable) -> _Range:
        return self._ranges.setdefault((sender, destination), _Range())
