"""The kernel's random numbers: drawn from a seed, or taken from a script in order to explore every outcome.

Counterpart: get_random_u32 in xt_statistic and in NAT port selection, and the hash of the connection table. A draw is
keyed by why its rule exists, not by the rule's place. So an added Service does not change the draws of other flows.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from fractions import Fraction
from functools import lru_cache
from math import prod
from typing import Any, Protocol, TypeVar

from kpsim import rng
from kpsim.errors import InputError
from kpsim.rng import CHANCE_RANGE

T = TypeVar("T")

_PRINTED_DECIMALS = 10


class Chooser(Protocol):
    """Answers draws. ``key`` names the draw within one packet's walk and never repeats there."""

    def chance(self, threshold: int, key: Hashable) -> bool:
        """True with probability ``threshold`` / 2³¹."""

    def uniform(self, limit: int, key: Hashable) -> int:
        """An integer in [0, limit) that decides where the packet goes."""

    def port(self, limit: int, key: Hashable) -> int:
        """An integer in [0, limit) that only picks a source port."""

    def victim(self, limit: int, key: Hashable) -> int:
        """An integer in [0, limit) that only picks a connection to give way, in a full table or for its source port."""


class SeededChooser:
    """Draws that are a function of (seed, flow, key). ``flow`` tells connections apart, for example by number."""

    def __init__(self, seed: int, flow: Hashable) -> None:
        self._draws = rng.Draws(seed, flow)

    def chance(self, threshold: int, key: Hashable) -> bool:
        return self._draws.draw64(key) >> 33 < threshold  # 31 bits

    def uniform(self, limit: int, key: Hashable) -> int:
        return self._draws.draw64(key) * limit >> 64

    def port(self, limit: int, key: Hashable) -> int:
        return self._draws.draw64(key) * limit >> 64

    def victim(self, limit: int, key: Hashable) -> int:
        return self._draws.draw64(key) * limit >> 64


class ScriptedChooser:
    """Follows a script of decisions, then takes the first possible branch of each, and records the other branches.

    ``as_written``: a probability printed as 1/k to 10 decimals, as kube-proxy does (I-8.2), weighs exactly 1/k instead
    of the kernel's rounded threshold. ``port`` and ``victim`` are not explored: they always answer 0.
    """

    def __init__(
        self, script: tuple[int, ...] = (), *, as_written: bool = False, ways: "Ways | None" = None, brief: bool = False
    ) -> None:
        self._script = script
        self.ways = ways  #: of the exploration that this walk is part of
        self._brief = brief  #: gives up a walk with very many draws
        self._as_written = as_written
        self.taken: list[int] = []
        self.weights: list[tuple[Fraction, ...]] = []  #: of the branches at each decision

    def restart(self) -> None:
        """Begins again, so that another walk follows the same script."""
        self.taken.clear()
        self.weights.clear()

    @property
    def weight(self) -> Fraction:
        """Probability of the decisions taken."""
        taken = [weights[branch] for branch, weights in zip(self.taken, self.weights, strict=True)]
        if len(taken) == 1:
            return taken[0]
        # one reduction at the end: a thousand endpoints make fractions of ten thousand digits
        return Fraction(prod(weight.numerator for weight in taken), prod(weight.denominator for weight in taken))

    def alternatives(self) -> list[tuple[int, ...]]:
        """Scripts for the branches not taken after the end of the given script, the next one last.

        Branches with probability 0 are left out.
        """
        scripts = []
        for position in range(len(self._script), len(self.taken)):
            for branch in range(len(self.weights[position]) - 1, self.taken[position], -1):
                if self.weights[position][branch]:
                    scripts.append((*self.taken[:position], branch))
        return scripts

    def chance(self, threshold: int, key: Hashable) -> bool:
        return self.among(branches(threshold, self._as_written)) == 0

    def uniform(self, limit: int, key: Hashable) -> int:
        return self.among((Fraction(1, limit),) * limit)

    def port(self, limit: int, key: Hashable) -> int:
        return 0

    def victim(self, limit: int, key: Hashable) -> int:
        return 0

    def among(self, weights: tuple[Fraction, ...]) -> int:
        """The branch taken of several, each with its probability."""
        position = len(self.taken)
        if self._brief and position == _FEW_DRAWS:
            raise TooManyWays(f"more than {_FEW_DRAWS:,} draws on one way through the rules")
        if position < len(self._script):
            branch = self._script[position]
        else:
            branch = next(index for index, weight in enumerate(weights) if weight)
        self.taken.append(branch)
        self.weights.append(weights)
        return branch


class Forked(Exception):
    """A walk reached a draw that more than one way leads on from."""


class _Unforked(ScriptedChooser):
    """Ends a walk at its first draw."""

    def among(self, weights: tuple[Fraction, ...]) -> int:
        raise Forked


class SeveralWorlds(Exception):
    """A walk met a match that is not modelled, so ways through the rules cannot be told apart by their state alone."""


class TooManyWays(InputError):
    """A packet has more ways through the rules than anybody waits for."""


#: a Service with n endpoints needs n - 1 at most
_FEW_DRAWS = 1000
#: how many ways of a packet are followed unless the caller asks for more. A Service with n endpoints needs 2 n
MOST_WAYS = 30_000


class Ways:
    """What an exploration has learnt so far about chains with draws (``chains``), and how many ways it has followed."""

    def __init__(self, limit: int = MOST_WAYS, *, as_written: bool = False) -> None:
        self.limit, self.as_written = limit, as_written
        self.known: dict[Hashable, Any] = {}  #: chain and state → where the chain leads
        self.forked: dict[int, object] = {}  #: chains with draws, by identity
        self.unforked = _Unforked(as_written=as_written, ways=self)
        self._followed: Counter[str] = Counter()
        self._total = 0

    def follow(self, where: str, ways: int = 1) -> None:
        """Counts a way, or work that takes as long as some. TooManyWays, which names the chains that fork most, if that is one too many."""
        self._followed[where] += ways
        self._total += ways
        if self._total > self.limit:
            most = ", ".join(name for name, _ in self._followed.most_common(5) if name) or "the rules"
            raise TooManyWays(f"more than {self.limit:,} ways through {most}: draws there lead to ever new states")


def explore(
    run: Callable[[ScriptedChooser], T],
    *,
    as_written: bool = False,
    limit: int | None = None,
    merge: bool = False,
    brief: bool = False,
) -> Iterator[tuple[Fraction, T]]:
    """Calls ``run`` once for each combination of draws, and yields its probability and what ``run`` returned.

    The last draw changes first. The probabilities sum to 1. ``as_written`` as for :class:`ScriptedChooser`. ``run``
    must change nothing that a later call reads. It is called only when the next outcome is asked for.

    With ``merge``, draws inside one base chain that end in the same state count as one outcome, which the first of them
    stands for. All outcomes are then found before the first is yielded. If a rule that is not modelled is met, draws
    are not merged. TooManyWays after ``limit`` ways, and with ``brief`` also if one way has very many draws.
    """
    most = MOST_WAYS if limit is None else limit
    if merge:
        try:
            yield from list(_each(run, Ways(most, as_written=as_written), merge=True))
        except SeveralWorlds:
            pass
        else:
            return
    yield from _each(run, Ways(most, as_written=as_written), merge=False, brief=brief)


def _each(
    run: Callable[[ScriptedChooser], T], ways: Ways, *, merge: bool, brief: bool = False
) -> Iterator[tuple[Fraction, T]]:
    scripts: list[tuple[int, ...]] = [()]
    while scripts:
        ways.follow("")
        chooser = ScriptedChooser(scripts.pop(), as_written=ways.as_written, ways=ways if merge else None, brief=brief)
        outcome = run(chooser)
        yield chooser.weight, outcome
        scripts += chooser.alternatives()


@lru_cache(maxsize=1 << 12)
def branches(threshold: int, as_written: bool) -> tuple[Fraction, Fraction]:
    """The probabilities of yes and no."""
    true = fraction_as_written(threshold) if as_written else None
    if true is None:
        true = Fraction(threshold, CHANCE_RANGE)
    return true, 1 - true


@lru_cache(maxsize=1 << 12)
def fraction_as_written(threshold: int) -> Fraction | None:
    """1/k if this is the kernel's threshold for 1/k printed with 10 decimals (I-8.2, K-5); else None."""
    if not 0 < threshold <= CHANCE_RANGE:
        return None
    parts = round(Fraction(CHANCE_RANGE, threshold))
    printed = Fraction(round(Fraction(10**_PRINTED_DECIMALS, parts)), 10**_PRINTED_DECIMALS)
    return Fraction(1, parts) if round(printed * CHANCE_RANGE) == threshold else None
