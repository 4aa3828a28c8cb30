"""Links of nodes that lose packets. A draw belongs to a packet's connection and to the link that it crosses.

Counterpart: bad cables, full queues of switches, partitions. A packet that is lost between two nodes is known to the first alone.
"""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from kpsim import rng
from kpsim.units import SECOND_NS

Peers = Literal["all", "outside", "nodes"]

OUTSIDE = ""  #: in place of a node

#: when Linux repeats a SYN that gets no answer, after the first (net.ipv4.tcp_syn_retries 6)
SYN_REPEATED_NS = tuple(seconds * SECOND_NS for seconds in (1, 3, 7, 15, 31, 63))


class Lost(Exception):
    """The packet on its way got lost on a link of ``node``."""

    def __init__(self, node: str) -> None:
        super().__init__(node)
        self.node = node


@dataclass(frozen=True, slots=True)
class _Loss:
    peers: Peers
    share: float
    until_ns: int


class PacketLoss:
    """The losses of all nodes' links. Packets get lost inside :meth:`sending` only: others are repeated until they arrive."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._losses: dict[str, list[_Loss]] = {}
        self._until_ns = 0
        self._now_ns = 0
        self._key: tuple[Hashable, ...] | None = None  #: of the connection whose packets may get lost now
        self._crossed = 0  #: links that its packets have crossed

    def begin(self, node: str, peers: Peers, share: float, until_ns: int) -> None:
        """Let a node's link lose packets until a time. Losses of several events come on top of each other."""
        self._losses.setdefault(node, []).append(_Loss(peers, share, until_ns))
        self._until_ns = max(self._until_ns, until_ns)

    def active(self, now_ns: int) -> bool:
        """Return whether any link loses packets now."""
        return now_ns < self._until_ns

    @contextmanager
    def sending(self, now_ns: int, *key: Hashable) -> Iterator[None]:
        """Let the packets of a connection get lost inside the block. ``key`` tells its draws from others."""
        self._key, self._now_ns, self._crossed = key, now_ns, 0
        try:
            yield
        finally:
            self._key = None

    def cross(self, source: str, destination: str) -> None:
        """Take a packet over a link. Lost if it does not arrive."""
        if self._key is None:
            return
        self._crossed += 1
        node = self._loser(source, destination, self._now_ns, *self._key, self._crossed)
        if node is not None:
            raise Lost(node)

    def loses_exchange(self, node: str, now_ns: int, *key: Hashable) -> bool:
        """Return whether a request from outside to a node or its answer gets lost."""
        ways = ((OUTSIDE, node, "request"), (node, OUTSIDE, "answer")) if self.active(now_ns) else ()
        return any(self._loser(a, b, now_ns, *key, what) is not None for a, b, what in ways)

    def _loser(self, source: str, destination: str, now_ns: int, *key: Hashable) -> str | None:
        """Return the node whose link loses the packet. None: it arrives."""
        kind = "nodes" if source and destination else "outside"
        lost = (
            node
            for node in (source, destination)
            for number, loss in enumerate(self._losses.get(node, ()))
            if now_ns < loss.until_ns and loss.peers in ("all", kind)
            if rng.uniform(self._seed, "packet loss", *key, node, number) < loss.share
        )
        return next(lost, None)
