"""How far back the API server's history of one kind of object goes (CP-5.3).

Counterpart: the ring of events of the API server's watch cache. A watch that begins below it is answered 410 Expired.
"""

from collections import deque

from kpsim.units import SECOND_NS

_LEAST, _MOST = 100, 102_400
_FRESH_NS = 75 * SECOND_NS


class WatchCache:
    """The numbers and times of the events that are kept."""

    def __init__(self) -> None:
        self._room = _LEAST
        self._kept: deque[tuple[int, int]] = deque()
        self._dropped = False

    def add(self, number: int, now_ns: int) -> None:
        """Keep an event. It takes the place of the oldest if the ring is full and does not grow."""
        if len(self._kept) >= self._room:
            if now_ns - self._kept[0][1] < _FRESH_NS:
                self._room = min(2 * self._room, _MOST)
            elif now_ns - self._kept[-(self._room // 4)][1] > _FRESH_NS:
                self._room = max(self._room // 2, _LEAST)
        while len(self._kept) >= self._room:
            self._kept.popleft()
            self._dropped = True
        self._kept.append((number, now_ns))

    def has_since(self, version: int) -> bool:
        """Return whether every event after a version is kept."""
        return not self._dropped or version >= self._kept[0][0] - 1
