"""Why a rule did not match: the first of its expressions that was false.

A trace remembers the packet as it was at each step (:class:`~kpsim.packetpath.steps.Moment`). This module evaluates the
rule's expressions again on such a moment, with the conditions of ``matching``.
"""

from collections.abc import Hashable, Iterable

from kpsim.packet import Packet
from kpsim.packetpath.matching import condition
from kpsim.packetpath.routing import AddressType, Decision, Routing, type_at
from kpsim.packetpath.steps import Moment
from kpsim.ruleset import Chance, Expression, Field, Limit, Recent


class _Effective(Exception):
    """The condition draws or remembers, so it cannot be evaluated twice. The steps say how it came out."""


class _Facts:
    """What conditions may read about a packet at one moment."""

    def __init__(self, moment: Moment, routing: Routing) -> None:
        self.packet: Packet = moment.packet
        self.ct_states = moment.ct_states
        self.entry = moment.entry
        self.direction = moment.direction
        self.socket = moment.socket
        self.bridged = moment.bridged
        self.unsure_mark = moment.unsure_mark
        self._routing = routing

    def address_type(self, address: int, interface: str = "") -> AddressType:
        return type_at(self._routing, self.packet.family, address, interface)

    def holds(self, words: str) -> bool:
        raise _Effective

    def settle(self, field: Field, bit: int) -> int:
        raise _Effective

    def way_back(self, address: int) -> Decision | None:
        return self._routing.way_back(self.packet.family, address)

    def chance(self, chance: Chance, key: Hashable) -> bool:
        raise _Effective

    def recent(self, match: Recent) -> bool:
        raise _Effective

    def limit(self, match: Limit, key: Hashable) -> bool:
        raise _Effective

    def count(self, counter: str) -> None:
        """Does nothing: the walk has counted the packet already."""


def mismatch(expressions: Iterable[Expression], moment: Moment, routing: Routing) -> Expression | None:
    """The first of a rule's expressions that was false at a moment, or that cannot be evaluated again.

    None if every expression is true.
    """
    facts = _Facts(moment, routing)
    for expression in expressions:
        try:
            if not condition(expression, "")(facts):
                return expression
        except _Effective:
            return expression
    return None
