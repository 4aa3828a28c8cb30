"""Values drawn from a scenario's delays: a pure function of the seed and of the key of what is delayed."""

import math
from collections.abc import Hashable
from itertools import count
from typing import assert_never

from kpsim import rng
from kpsim.scenario.quantities import Choice, Delay, Exponential, Normal, Uniform

_TRIES = 1000


def draw_ns(delay: Delay, seed: int, *key: Hashable) -> int:
    """Return the delay of the thing that ``key`` names, in nanoseconds. Equal keys give equal delays."""
    if delay.constant_ns is not None:
        return delay.constant_ns
    shape = delay.uniform or delay.exponential or delay.normal or delay.choice
    match shape:
        case Uniform(low_ns=low_ns, high_ns=high_ns):
            return low_ns + rng.below(high_ns - low_ns + 1, seed, "delay", key)
        case Exponential(mean_ns=mean_ns, max_ns=max_ns):
            drawn_ns = round(exponential(seed, "delay", key) * mean_ns)
            return drawn_ns if max_ns is None else min(drawn_ns, max_ns)
        case Normal():
            return _normal_ns(shape, seed, key)
        case Choice(values_ns=values_ns, weights=weights):
            return values_ns[_weighted(weights or (1.0,) * len(values_ns), rng.uniform(seed, "delay", key))]
        case None:
            raise AssertionError("a delay has exactly one shape")
        case _:
            assert_never(shape)


def exponential(seed: int, *key: Hashable) -> float:
    """Return an exponentially distributed number with mean 1."""
    return -math.log1p(-rng.uniform(seed, *key))


def _normal_ns(shape: Normal, seed: int, key: Hashable) -> int:
    """Draw by Box–Muller, again and again until the value lies in the allowed range."""
    for attempt in count():
        first, second = (rng.uniform(seed, "delay", key, attempt, part) for part in range(2))
        radius = math.sqrt(-2 * math.log1p(-first))
        drawn_ns = round(shape.mean_ns + shape.stddev_ns * radius * math.cos(2 * math.pi * second))
        if drawn_ns >= shape.low_ns and (shape.high_ns is None or drawn_ns <= shape.high_ns):
            return drawn_ns
        if attempt >= _TRIES:
            return shape.mean_ns  # the range is so narrow that no draw falls into it: use its mean
    raise AssertionError("unreachable")


def _weighted(weights: tuple[float, ...], share: float) -> int:
    left = share * sum(weights)
    for number, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return number
    return max(number for number, weight in enumerate(weights) if weight > 0)
