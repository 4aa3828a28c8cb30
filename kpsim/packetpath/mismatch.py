"""Why a rule did not match: the first of its expressions that was false, or the map that had no such key.

A trace remembers the packet as it was at each step (:class:`~kpsim.packetpath.steps.Moment`). This module evaluates the
parts of the rule again on such a moment, with the conditions of ``matching``.
"""

from collections.abc import Hashable, Iterable, Mapping

from kpsim.packet import Packet
from kpsim.packetpath.elements import Atoms, find
from kpsim.packetpath.matching import condition
from kpsim.packetpath.resolving import resolver
from kpsim.packetpath.routing import AddressType, Decision, Routing, type_at
from kpsim.packetpath.steps import Moment
from kpsim.ruleset import (
    Chance,
    Expression,
    Field,
    Hashed,
    Limit,
    Numgen,
    Quota,
    Recent,
    Set,
    SetReference,
    Statement,
    UpdateSet,
)

Sets = Mapping[str, Set]


class _Effective(Exception):
    """The condition draws or remembers, so it cannot be evaluated twice. The steps say how it came out."""


class _Facts:
    """What conditions may read about a packet at one moment."""

    def __init__(self, moment: Moment, routing: Routing, sets: Sets, ipsets: Sets) -> None:
        self.packet: Packet = moment.packet
        self.ct_state = moment.ct_state
        self.ct_states = moment.ct_states
        self.entry = moment.entry
        self.direction = moment.direction
        self.socket = moment.socket
        self.bridged = moment.bridged
        self.frame = moment.frame
        self.unsure_mark = moment.unsure_mark
        self.by_ipvs, self.served = moment.by_ipvs, moment.served
        self._routing = routing
        self._sets = sets
        self._ipsets = ipsets

    def address_type(self, address: int, interface: str = "") -> AddressType:
        return type_at(self._routing, self.packet.family, address, interface)

    def holds(self, words: str) -> bool:
        raise _Effective

    def listeners(self) -> None:
        """Not known here: the steps say how a match of sockets came out."""

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

    def quota(self, match: Quota, key: Hashable) -> bool:
        raise _Effective

    def count(self, counter: str) -> None:
        """Does nothing: the walk has counted the packet already."""

    def named_set(self, reference: SetReference) -> Set:
        return (self._ipsets if reference.of_namespace else self._sets)[reference.name]

    def has_member(self, reference: SetReference, key: Atoms) -> bool:
        declared = self.named_set(reference)
        if declared.remembers:
            raise _Effective
        return find(declared, key) is not None

    def update(self, statement: UpdateSet, key: Atoms) -> bool:
        raise _Effective

    def number(self, source: Numgen | Hashed, values: Atoms, key: Hashable) -> int:
        raise _Effective


def mismatch(
    parts: Iterable[Expression | Statement], moment: Moment, routing: Routing, sets: Sets, ipsets: Sets
) -> Expression | Statement | None:
    """The first part of a rule that was false at a moment, or that cannot be evaluated again.

    A statement is false if its map has no such key, and cannot be evaluated again if it changes a set. ``sets`` are
    those of the rule's table, ``ipsets`` those of the family. None if every part is true.
    """
    facts = _Facts(moment, routing, sets, ipsets)
    for part in parts:
        try:
            if isinstance(part, UpdateSet):
                return part
            if isinstance(part, Statement):
                resolve = resolver(part, "")
                holds = resolve is None or resolve(facts) is not None
            else:
                holds = condition(part, "")(facts)
        except _Effective:
            return part
        if not holds:
            return part
    return None
