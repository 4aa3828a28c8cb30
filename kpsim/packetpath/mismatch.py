"""Why a rule did not match: the first of its expressions that was false.

What an expression means is asked of ``matching``, at the moment that a trace remembers.
"""

from collections.abc import Hashable, Iterable

from kpsim.packet import Packet
from kpsim.packetpath.matching import UnknownMatch, condition
from kpsim.packetpath.routing import AddressType, Decision, Routing
from kpsim.packetpath.steps import Moment
from kpsim.ruleset import Chance, Expression, Limit, Recent


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


def mismatch(expressions: Iterable[Expression], moment: Moment, routing: Routing) -> Expression | None:
    """The first of a rule's expressions that was false at a moment; None if it cannot be told."""
    facts = _Facts(moment, routing)
    for expression in expressions:
        try:
            if not condition(expression, "")(facts):
                return expression
        except (_Effective, UnknownMatch):
            return expression
    return None
