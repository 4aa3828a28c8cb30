"""The clock that joins the parts of the model: plans, and the order of plans that fall on one instant."""

import heapq
from collections.abc import Callable
from typing import Any

S = 1_000_000_000
NEVER = 1 << 62

#: what falls on one instant happens in this order: causes first, observers last (the stages of CP-1.1)
WORLD, STORE, SEE, DELIVER, END, START, PROBE = range(7)

Action = Callable[[], None]


def ns(text: Any) -> int:
    """Nanoseconds of ``17ns``, the only spelling that drawn scenarios use."""
    return int(str(text).removesuffix("ns"))


class Clock:
    """Holds every plan of a scenario and plays them in order. Times are nanoseconds from the start of the scenario.

    A plan is (time, phase, order, number, action): the number tells apart what one part plans for one instant. The delays of
    the scenario (CP-1.2) stand here, as every part needs some of them.
    """

    def __init__(self, document: dict[str, Any]) -> None:
        self.now = 0
        self.end = ns(document["duration"])
        self.delays = {key: ns(value) for key, value in document["delays"].items() if isinstance(value, str)}
        self._plans: list[tuple[int, int, int, int, Action]] = []
        self._count = 0

    def at(self, time: int, phase: int, action: Action, order: int = 0) -> None:
        """Plan for a time. The lower ``order`` comes first within one instant and phase."""
        self._count += 1
        heapq.heappush(self._plans, (time, phase, order, self._count, action))

    def after(self, delay: int, phase: int, action: Action, order: int = 0) -> None:
        self.at(self.now + delay, phase, action, order)

    def run(self) -> None:
        """Play all plans that lie before the end of the scenario."""
        while self._plans and self._plans[0][0] < self.end:
            self.now, _, _, _, action = heapq.heappop(self._plans)
            action()
