"""The search for the least value of a dial for which a goal holds.

It assumes that the goal, once it holds, holds for all larger values too (or, if it holds at the low end alone, for all smaller
ones). It asks for both ends first, and afterwards for values on both sides of what it found, so that a dial that is not monotone
is likely to be noticed. What it did not ask for, it cannot know.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kpsim.sweeping.dials import Setting, Value

_CHECKS = 2  #: values asked for on each side of the turn, beside those of the bisection


@dataclass(frozen=True, slots=True)
class Search:
    """What was found for one combination of the other dials' values.

    ``value`` is the least for which the goal holds, the greatest if ``falling``. None: it holds at neither end, or ``against`` says that
    the dial is not monotone: pairs of values, of which the goal holds at the first and not at the second, although it should.
    """

    others: Setting
    low: Value
    high: Value
    value: Value | None
    everywhere: bool = False  #: it holds at both ends
    falling: bool = False  #: small values reach the goal, large ones do not
    next_failing: Value | None = None  #: the neighbour for which the goal does not hold
    against: tuple[Value, Value] | None = None


def bisect(values: Sequence[Value], others: Setting, holds: Callable[[Sequence[int]], Sequence[bool]]) -> Search:
    """Search along values in ascending order. ``holds`` says of positions whether the goal holds there."""
    known: dict[int, bool] = {}

    def ask(positions: Sequence[int]) -> None:
        fresh = [position for position in dict.fromkeys(positions) if position not in known]
        if fresh:
            known.update(zip(fresh, holds(fresh), strict=True))

    last = len(values) - 1
    ask([0, last])
    if known[0] == known[last]:
        # nothing turns if the dial is monotone: a few values between say whether it is
        ask(_between(0, last))
        odd = next((position for position in sorted(known) if known[position] != known[0]), None)
        against = None if odd is None else (values[0], values[odd]) if known[0] else (values[odd], values[last])
        value = values[0] if known[0] and odd is None else None
        return Search(others, values[0], values[last], value, everywhere=value is not None, against=against)
    falling = known[0]
    low, high = 0, last
    while high - low > 1:
        middle = (low + high) // 2
        ask([middle])
        if known[middle] == known[0]:
            low = middle
        else:
            high = middle
    ask([*_between(0, low), *_between(high, last)])
    wrong = next((p for p in sorted(known) if known[p] != (known[0] if p <= low else known[last])), None)
    turn, neighbour = (low, high) if falling else (high, low)
    against = None
    if wrong is not None:
        against = (values[turn], values[wrong]) if not known[wrong] else (values[wrong], values[neighbour])
    return Search(
        others, values[0], values[last], None if against else values[turn], falling=falling, next_failing=values[neighbour], against=against
    )  # fmt: skip


def _between(low: int, high: int) -> list[int]:
    """Return positions spread evenly between two others."""
    return sorted({low + (high - low) * part // (_CHECKS + 1) for part in range(1, _CHECKS + 1)} - {low, high})
