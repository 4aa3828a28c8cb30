"""Fits a price list to measurements: least squares of relative errors, and no price below zero."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from kpsim.backends.work import Call


@dataclass(frozen=True, slots=True)
class Sample:
    """Calls of one kind and how long they took."""

    call: Call
    ns: int

    @property
    def features(self) -> tuple[int, int, int, int]:
        """What the time may depend on."""
        return self.call.times, self.call.written, self.call.held, self.call.pairs


@dataclass(frozen=True, slots=True)
class Fit:
    """Prices in nanoseconds, as ``scenario.sync_costs.CallCost`` has them, and how far they are from the samples."""

    base_ns: float
    per_written_ns: float
    per_held_ns: float
    per_pair_ns: float
    errors: tuple[float, ...]  #: of each sample, as a share of what was measured

    @property
    def median_error(self) -> float:
        return median(self.errors)

    @property
    def worst_error(self) -> float:
        return max(self.errors)

    def ns(self, call: Call) -> float:
        """Return what the prices say of calls."""
        return (
            self.base_ns * call.times
            + self.per_written_ns * call.written
            + self.per_held_ns * call.held
            + self.per_pair_ns * call.pairs
        )


def fitted(samples: Sequence[Sample]) -> Fit:
    """Return the prices that are nearest to the samples. ValueError without samples or for one that took no time.

    Each sample counts by its relative error, so that a partial sync of 10 ms and a full one of 10 s count alike. With four
    prices the constrained optimum is the best of the sixteen fits that leave some of them out.
    """
    import numpy as np

    if not samples or any(sample.ns <= 0 for sample in samples):
        raise ValueError("expected samples, each of which took time")
    measured = np.array([sample.ns for sample in samples], dtype=float)
    rows = np.array([sample.features for sample in samples], dtype=float) / measured[:, None]
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)
    best, least = np.zeros(4), float(len(samples))
    for chosen in itertools.chain.from_iterable(itertools.combinations(range(4), n) for n in range(1, 5)):
        columns = list(chosen)
        found, *_ = np.linalg.lstsq(rows[:, columns] / scale[columns], np.ones(len(samples)), rcond=None)
        prices = np.zeros(4)
        prices[columns] = found / scale[columns]
        off = float(((rows @ prices - 1) ** 2).sum())
        if (found >= 0).all() and off < least - 1e-12:
            best, least = prices, off
    errors = np.abs(rows @ best - 1)
    base, written, held, pairs = map(float, best)
    return Fit(base, written, held, pairs, tuple(map(float, errors)))
