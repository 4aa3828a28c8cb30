"""A chain with draws in it, run all ways at once.

The ways through a chain are followed rule by rule. Two ways that reach the same rule in the same state go on as one,
with the sum of their probabilities, and the first of them stands for both. So rules whose draws change nothing cost
what they would cost without draws, however many combinations there are. To the walk around it, a chain is one decision
between the states in which it ends.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from kpsim.packetpath.chooser import Forked, ScriptedChooser, Ways
from kpsim.packetpath.index import CompiledRule
from kpsim.packetpath.steps import ChainEntered, ChainLeft
from kpsim.packetpath.traversal import End, Snapshot, Traversal
from kpsim.packetpath.worlds import UnknownEnd
from kpsim.ruleset import Chain, Table, Verdict

#: the square of as many binary digits, as a power of two, costs as much as a way
_DIGITS_OF_A_WAY = 26

ChainEnd = Verdict | End | None
RunChain = Callable[[Traversal, Table, Chain], ChainEnd]
RunRules = Callable[[Traversal, Table, Chain, Sequence[CompiledRule]], tuple[bool, ChainEnd]]
#: how a way through a chain ended, or that a rule on it is not modelled
Result = ChainEnd | UnknownEnd


class Way(NamedTuple):
    """One end of a chain: the probability of all ways that lead to it, how the chain ended, and the state after it."""

    weight: Fraction
    result: Result
    after: Snapshot


@dataclass(slots=True, eq=False)
class _Place:
    """A rule that ways reach in one state, or the end of the chain (``result`` is then set)."""

    position: int
    before: Snapshot
    result: Result = None
    ends: bool = False
    found_by: int = 0  #: the step of the search that found it
    met: bool = False  #: whether the search has gone on from here
    weight: Fraction = Fraction(0)
    onward: "list[tuple[Fraction, _Place]]" = field(default_factory=list)


def run(traversal: Traversal, table: Table, chain: Chain, run_chain: RunChain, run_rules: RunRules) -> ChainEnd:
    """Runs a chain of a walk that is explored. If draws lead to several ends, the walk's chooser decides for one."""
    chooser = traversal.chooser
    assert isinstance(chooser, ScriptedChooser) and chooser.ways is not None
    ways, since = chooser.ways, len(traversal.steps or ())
    if not traversal.node.ready(chain).forks:
        return run_chain(traversal, table, chain)
    if id(chain) not in ways.forked:
        before = traversal.snapshot(since)
        traversal.chooser = ways.unforked
        try:
            return run_chain(traversal, table, chain)
        except Forked:
            ways.forked[id(chain)] = chain
            traversal.restore(before, since)
        finally:
            traversal.chooser = chooser
    version = traversal.node.version
    key = (table.key, id(chain), id(version), traversal.steps is None, traversal.state())
    if key not in ways.known:
        # the chain and the version are kept with what is known of them, so that nothing else takes their identity
        ways.known[key] = version, _ways_through(traversal, table, chain, run_rules, ways, since)
    found: list[Way] = ways.known[key][1]
    way = found[chooser.among(tuple([each.weight for each in found]))] if len(found) > 1 else found[0]
    traversal.restore(way.after, since)
    if isinstance(way.result, UnknownEnd):
        raise way.result
    return way.result


def _ways_through(
    traversal: Traversal, table: Table, chain: Chain, run_rules: RunRules, ways: Ways, since: int
) -> list[Way]:
    """Every end of the chain, in the order in which ways that take the first branch of each draw first reach them."""
    chooser = traversal.chooser
    if traversal.steps is not None:
        traversal.steps.append(ChainEntered(table.key, chain.name))
    ready = traversal.node.ready(chain)
    rules = ready.candidates(traversal.packet) if traversal.indexed else ready.rules
    follower = _Follower(traversal, table, chain, rules, run_rules, ways, since)
    start = follower.place(0, False, None)
    waiting, ends = [start], list[_Place]()
    while waiting:
        here = waiting.pop()
        if here.met:
            continue
        here.met = True
        if here.ends:
            ends.append(here)
            continue
        ways.follow(f"{table.name}/{chain.name}")
        here.onward = follower.onward(here)
        waiting += [each for _, each in reversed(here.onward)]
    traversal.chooser = chooser
    start.weight = Fraction(1)
    for here in sorted(follower.places(), key=lambda each: each.position):  # every way leads to a later rule
        for weight, there in here.onward:
            # to add long fractions takes as long as many ways: chains that enter each other double the digits
            if there.weight:
                digits = here.weight.denominator.bit_length() + weight.denominator.bit_length()
                ways.follow(f"{table.name}/{chain.name}", digits * digits >> _DIGITS_OF_A_WAY)
            there.weight += here.weight * weight
    return [Way(end.weight, end.result, end.before) for end in ends]


@dataclass(slots=True)
class _Follower:
    """Follows ways through the rules of one chain, from the draws of one rule to those of the next."""

    traversal: Traversal
    table: Table
    chain: Chain
    rules: Sequence[CompiledRule]
    run_rules: RunRules
    ways: Ways
    since: int
    _step: int = 0
    _places: dict[Hashable, _Place] = field(default_factory=dict)

    def places(self) -> list[_Place]:
        return list(self._places.values())

    def place(self, position: int, ends: bool, result: Result) -> _Place:
        """The place where the walk is now: a new one, unless a way has been there in the same state.

        A way that gets there now comes before one that was found in an earlier step and is still waiting, so it stands
        for the place from now on.
        """
        key = (position if not ends else -1, ends, _told(result), self.traversal.state())
        found = self._places.get(key)
        if found is None:
            found = _Place(position, self.traversal.snapshot(self.since), result, ends, self._step)
            self._places[key] = found
        elif not found.met and found.found_by < self._step:
            found.before, found.result, found.found_by = self.traversal.snapshot(self.since), result, self._step
        return found

    def onward(self, here: _Place) -> list[tuple[Fraction, _Place]]:
        """The next places from here, each with the probability of going there; several may be the same place."""
        traversal, rules = self.traversal, self.rules
        self._step += 1
        traversal.restore(here.before, self.since)
        traversal.chooser = self.ways.unforked
        forking = here.position
        try:
            for forking in range(here.position, len(rules)):
                left, result = self._run(rules[forking : forking + 1])
                if left:
                    return [(Fraction(1), self.place(forking + 1, True, result))]
        except Forked:
            pass
        except UnknownEnd as unknown:
            return [(Fraction(1), self.place(forking + 1, True, unknown))]
        else:
            if traversal.steps is not None:
                traversal.steps.append(ChainLeft(self.table.key, self.chain.name, traversal.moment()))
            return [(Fraction(1), self.place(len(rules), True, None))]
        return self._each_way(here, forking)

    def _each_way(self, here: _Place, forking: int) -> list[tuple[Fraction, _Place]]:
        """Every outcome of the rule at ``forking``, the first that draws. The rules before it draw nothing."""
        traversal = self.traversal
        traversal.restore(here.before, self.since)
        self._run(self.rules[here.position : forking])
        before = traversal.snapshot(self.since)
        found: list[tuple[Fraction, _Place]] = []
        scripts: list[tuple[int, ...]] = [()]
        while scripts:
            chooser = ScriptedChooser(scripts.pop(), as_written=self.ways.as_written, ways=self.ways)
            traversal.restore(before, self.since)
            traversal.chooser = chooser
            try:
                left, result = self._run(self.rules[forking : forking + 1])
                there = self.place(forking + 1, left, result)
            except UnknownEnd as unknown:
                there = self.place(forking + 1, True, unknown)
            found.append((chooser.weight, there))
            scripts += chooser.alternatives()
        return found

    def _run(self, rules: Sequence[CompiledRule]) -> tuple[bool, ChainEnd]:
        return self.run_rules(self.traversal, self.table, self.chain, rules)


def _told(result: Result) -> Hashable:
    """What tells one end of a chain from another."""
    match result:
        case End(disposition, cause, rule, with_, local_error, tells):  # no rule steals a packet
            at = None if rule is None else (rule.table, rule.chain, rule.number)
            return disposition, cause, at, with_, local_error, tells
        case UnknownEnd():
            return "unknown", str(result)
        case _:
            return result
