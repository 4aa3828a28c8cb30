"""Follows the packets of some connections of a run step by step, while all others run as they always do.

Tracing changes nothing: a traced packet takes the same way as one that is not, with the same draws.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kpsim.exchange import Exchange
from kpsim.fabric import Journey


@dataclass(frozen=True, slots=True)
class Sighting:
    """One packet of a connection. ``journey`` None: no node got it, as there was none to send it to, or it was off."""

    traffic: str
    number: int  #: of the connection, or of the request, among those of its source, from 1
    journey: Journey | None
    exchange: Exchange | None  #: None: the packet belongs to a connection that was open already


class Witness:
    """Watches for packets of the connections that ``wanted`` accepts, by source and number.

    ``tell`` is called with each packet when what became of it is known, at the packet's instant.
    """

    def __init__(self, wanted: Callable[[str, int], bool], tell: Callable[[Sighting], None]) -> None:
        self._wanted = wanted
        self._tell = tell
        self._seen: tuple[Journey | None, Exchange | None] = None, None
        self.watching = False  #: whether a packet that is sent now belongs to a wanted connection

    @contextmanager
    def packet_of(self, traffic: str, number: int) -> Iterator[None]:
        """A packet of this connection is sent inside the block."""
        self.watching, self._seen = self._wanted(traffic, number), (None, None)
        yield
        if self.watching:
            self._tell(Sighting(traffic, number, *self._seen))
        self.watching = False

    def saw(self, journey: Journey, exchange: Exchange | None = None) -> None:
        """Take the way of a packet. Of several in one block, such as those of a proxy's two connections, the last counts."""
        if self.watching:
            self._seen = journey, exchange
