"""The walk that the model takes when it draws what Linux drew: endpoints and source ports are Linux' choice, the
model follows.

It takes only turns that the model has: if the model cannot do what Linux did, the result is a walk that differs from
Linux.
"""

from collections.abc import Hashable, Iterator
from itertools import islice

from kpsim.addresses import format_ip, join_host_port
from kpsim.netfilter import Netns, Walk, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import Chooser, ScriptedChooser, explore

#: the lowest port of a class by the number of ports in it (K-2.3); ICMP ids are one class of 65,536
_LOWEST_PORT = {511: 1, 424: 600, 64512: 1024, 65536: 0}
_MOST_OUTCOMES = 2000


class _Follower:
    """A chooser that draws the source port that Linux drew, and asks another chooser for everything else."""

    def __init__(self, others: Chooser, drawn: int) -> None:
        self._others, self._drawn = others, drawn

    def chance(self, threshold: int, key: Hashable) -> bool:
        return self._others.chance(threshold, key)

    def uniform(self, limit: int, key: Hashable) -> int:
        return self._others.uniform(limit, key)

    def port(self, limit: int, key: Hashable) -> int:
        return (self._drawn - _LOWEST_PORT.get(limit, 0)) % limit

    def victim(self, limit: int, key: Hashable) -> int:
        return self._others.victim(limit, key)


class _Steered(_Follower):
    """Also draws the endpoint that Linux drew. The key of a draw says why its rule exists, and ends with the rule's
    endpoint.
    """

    def __init__(self, endpoint: str, drawn: int) -> None:
        super().__init__(ScriptedChooser(), drawn)
        self._endpoint = endpoint

    def chance(self, threshold: int, key: Hashable) -> bool:
        endpoint = key[-1] if isinstance(key, tuple) else ""
        return bool(threshold) and endpoint == self._endpoint


def likely_walk(
    netns: Netns, packet: Packet, endpoint: tuple[int, int] | None, drawn: int, now_ns: int, *, trace: bool = False
) -> Walk:
    """The walk to ``endpoint``, an address and a port, if the rules lead there. ``drawn`` is the source port that
    Linux chose.
    """
    end = "" if endpoint is None else join_host_port(format_ip(packet.family, endpoint[0]), endpoint[1])
    return walk(netns, packet, now_ns=now_ns, chooser=_Steered(end, drawn), local=not packet.in_interface, trace=trace)


def every_walk(netns: Netns, packet: Packet, drawn: int, now_ns: int, *, trace: bool = False) -> Iterator[Walk]:
    """All walks that the packet may take, whatever endpoint is drawn; at most 2,000. ``drawn`` as for
    :func:`likely_walk`.
    """

    def once(chooser: Chooser) -> Walk:
        return walk(
            netns, packet, now_ns=now_ns, chooser=_Follower(chooser, drawn), local=not packet.in_interface, trace=trace
        )

    return (found for _, found in islice(explore(once), _MOST_OUTCOMES))
