"""Why a rule did not match: the first expression that was false, in the order in which the kernel evaluates them.

What an expression means is asked of ``matching``, at the moment that a trace remembers.
"""

from collections.abc import Hashable
from itertools import takewhile

from kpsim.packet import Packet
from kpsim.packetpath.matching import UnknownMatch, condition
from kpsim.packetpath.routing import AddressType, Decision, Routing
from kpsim.packetpath.steps import Moment
from kpsim.ruleset import Chance, Expression, Limit, Recent, Rule, Statement


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


def mismatch(rule: Rule, moment: Moment, routing: Routing) -> Expression | None:
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
