"""Why rules did not match: the first condition that was false, as the kernel compares them.

Counterpart: none; iptables' TRACE shows only what matched. It asks ``matching`` what a condition means and never decides itself.
"""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, takewhile

from kpsim.addresses import Family
from kpsim.dialects.iptables.words import Reason, reason
from kpsim.packet import Packet
from kpsim.packetpath.matching import UnknownMatch, condition
from kpsim.packetpath.routing import AddressType, Decision, Routing
from kpsim.ruleset import Chain, Chance, Expression, Limit, Recent, Rule, Statement
from kpsim.tracing.explain.tree import Moment


@dataclass(frozen=True, slots=True)
class Unmatched:
    """A rule that was tried in vain. ``reason`` None: no reason is known."""

    number: int
    rule: Rule
    reason: Reason | None

    @property
    def elsewhere(self) -> bool:
        """Whether the rule is for another destination, protocol or port."""
        return self.reason is not None and self.reason.elsewhere


@dataclass(frozen=True, slots=True)
class Skipped:
    """Consecutive rules for other destinations, protocols or ports, too many to tell one by one."""

    first: int
    last: int


_MANY = 3


class _Effective(Exception):
    """A condition that draws or remembers: what it said is in the steps."""


class _Facts:
    """What conditions may ask, at one moment."""

    def __init__(self, moment: Moment, routing: Routing) -> None:
        self.packet: Packet = moment.packet
        self.ct_states = moment.ct_states
        self.entry = moment.entry
        self.direction = moment.direction
        self._routing = routing

    def address_type(self, address: int) -> AddressType:
        return self._routing.address_type(self.packet.family, address)

    def way_back(self, address: int) -> Decision | None:
        return self._routing.way_back(self.packet.family, address)

    def chance(self, chance: Chance, key: Hashable) -> bool:
        raise _Effective

    def recent(self, match: Recent) -> bool:
        raise _Effective

    def limit(self, match: Limit, key: Hashable) -> bool:
        raise _Effective

    def count(self, counter: str) -> None:
        """Counting has happened already."""


def why_not(rule: Rule, moment: Moment, routing: Routing) -> Expression | None:
    """The expression at which the kernel gave the rule up; None if it cannot be told."""
    facts = _Facts(moment, routing)
    for part in takewhile(lambda part: not isinstance(part, Statement), rule.body):
        assert not isinstance(part, Statement)
        try:
            if not condition(part, "")(facts):
                return part
        except (_Effective, UnknownMatch):
            return part
    return None


def unmatched(
    chain: Chain, first: int, last: int, moment: Moment, routing: Routing, besides: Iterable[int] = ()
) -> Iterator[Unmatched | Skipped]:
    """The rules of a chain from number ``first`` to ``last`` with the reasons, runs of other destinations as one."""
    left_out = set(besides)
    family = moment.packet.family
    found = [
        _unmatched(number, chain.rules[number - 1], moment, routing, family)
        for number in range(first, last + 1)
        if number not in left_out
    ]
    for elsewhere, group in groupby(found, key=lambda rule: rule.elsewhere):
        rules = list(group)
        if elsewhere and len(rules) >= _MANY:
            yield Skipped(rules[0].number, rules[-1].number)
        else:
            yield from rules


def _unmatched(number: int, rule: Rule, moment: Moment, routing: Routing, family: Family) -> Unmatched:
    part = why_not(rule, moment, routing)
    return Unmatched(number, rule, None if part is None else reason(rule, part, family))
