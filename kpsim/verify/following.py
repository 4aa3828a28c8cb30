"""The model's walk of a packet that takes the turns that Linux took: Linux draws endpoints and ports, the model follows.

Counterpart: none. What Linux did must be an outcome that the model has; a turn that the model does not have is not taken.
"""

from collections.abc import Hashable, Iterator

from kpsim.addresses import format_ip, join_host_port
from kpsim.netfilter import Netns, Walk, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import ScriptedChooser

#: the lowest port of a class by the number of ports in it (K-2.3); any id for ICMP
_LOWEST_PORT = {511: 1, 424: 600, 64512: 1024, 65536: 0}
_MOST_OUTCOMES = 2000


class _Follower(ScriptedChooser):
    """Draws the source port that Linux drew."""

    def __init__(self, script: tuple[int, ...], drawn: int) -> None:
        super().__init__(script)
        self._drawn = drawn

    def port(self, limit: int, key: Hashable) -> int:
        return (self._drawn - _LOWEST_PORT.get(limit, 0)) % limit


class _Steered(_Follower):
    """Draws the endpoint that Linux drew, too: draws are keyed by why their rule exists, and so by the endpoint."""

    def __init__(self, endpoint: str, drawn: int) -> None:
        super().__init__((), drawn)
        self._endpoint = endpoint

    def chance(self, threshold: int, key: Hashable) -> bool:
        endpoint = key[-1] if isinstance(key, tuple) else ""
        return bool(threshold) and endpoint == self._endpoint


def likely_walk(
    netns: Netns, packet: Packet, endpoint: tuple[int, int] | None, drawn: int, now_ns: int, *, trace: bool = False
) -> Walk:
    """The walk that leads to ``endpoint`` if one does; ``drawn`` is the source port that Linux chose."""
    end = "" if endpoint is None else join_host_port(format_ip(packet.family, endpoint[0]), endpoint[1])
    return walk(netns, packet, now_ns=now_ns, chooser=_Steered(end, drawn), local=not packet.in_interface, trace=trace)


def every_walk(netns: Netns, packet: Packet, drawn: int, now_ns: int, *, trace: bool = False) -> Iterator[Walk]:
    """All outcomes, up to a few thousand."""
    scripts: list[tuple[int, ...]] = [()]
    for _ in range(_MOST_OUTCOMES):
        if not scripts:
            return
        chooser = _Follower(scripts.pop(), drawn)
        yield walk(netns, packet, now_ns=now_ns, chooser=chooser, local=not packet.in_interface, trace=trace)
        scripts += chooser.alternatives()
