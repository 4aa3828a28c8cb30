"""What a node's rules say to packets for no Service, with the node's own addresses replaced by their places.

Nodes of which this is equal tell such packets apart by nothing but their own addresses, and by the intervals that both
name. What only packets to frontends of Services can match is left out: their destinations are frontends, or their ports
are node ports and their destinations local.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kpsim.addresses import Family
from kpsim.comparison.behaviour.elements import kind_of
from kpsim.comparison.behaviour.rules import unmasked
from kpsim.comparison.behaviour.spaces import Values, holds, lacking
from kpsim.errors import InputError
from kpsim.programmed import Programmed
from kpsim.ruleset import (
    Adjust,
    Assign,
    Chain,
    Chance,
    Compare,
    Counter,
    Dispatch,
    EitherPort,
    Element,
    Field,
    FieldType,
    Goto,
    Jump,
    Limit,
    Log,
    Lookup,
    Masked,
    Masquerade,
    NoTrack,
    Reject,
    ReversePath,
    RoutingHeader,
    Rule,
    Set,
    SetReference,
    SetTimeToLive,
    Table,
    TableKey,
    Terminal,
)

#: parts of rules that name no address, draw nothing, and remember nothing that a second packet of a connection could meet
_PLAIN = (
    Terminal, Reject, Assign, SetTimeToLive, NoTrack, Log, Adjust, ReversePath, RoutingHeader, Counter, Masquerade,
    EitherPort, Limit,
)  # fmt: skip
_ADDRESSES = frozenset({Field.SADDR, Field.DADDR})


class NotComparable(Exception):
    """A rule says something of addresses that is not compared here."""


@dataclass(frozen=True)
class ForServices:
    """The packets that are for Services."""

    frontends: Values  #: addresses that are dialled
    local: Values  #: addresses that some node takes for its own: node ports are dialled there
    node_ports: Values  #: of any protocol
    shared: Values  #: other addresses that a node may take packets to: of links and of groups
    served: Values  #: ports at which nodes answer in their own way, those of health checks above all


NOTHING = ForServices((), (), (), (), ())


@dataclass
class NodeRules:
    """What is left of a ruleset. Two nodes are alike if ``said`` is equal.

    ``literals`` are the intervals that it names, by what they are called where a node's own addresses have places.
    """

    said: list[Hashable] = field(default_factory=list)
    literals: dict[Hashable, tuple[int, int]] = field(default_factory=dict)
    keyed: set[str] = field(default_factory=set)  #: chains with rules for packets to frontends alone
    chains: dict[tuple[TableKey, str], Chain] = field(default_factory=dict)  #: that were read


def node_rules(told: Programmed, own: Mapping[int, Hashable], services: ForServices) -> NodeRules:
    """Reads the rules of a node. ``own`` are its own addresses with their places. NotComparable if it cannot be done."""
    if told.ipsets or told.virtual_servers or told.local_addresses:
        raise NotComparable
    reader = _Reader(told.ruleset.family, own, services)
    for table in told.ruleset.in_order():
        reader.read(table)
    return reader.found


class _Reader:
    def __init__(self, family: Family, own: Mapping[int, Hashable], services: ForServices) -> None:
        self._family, self._own, self._services = family, own, services
        self.found = NodeRules()

    def read(self, table: Table) -> None:
        """Reads the chains that packets may come to, from base chains on."""
        self._table = table
        waiting = [(chain.name, False) for chain in table.ordered() if chain.base is not None]
        known = set(waiting)
        self.found.said.append((table.key, table.dormant, tuple(table.objects.items())))
        while waiting:
            name, local = waiting.pop()
            chain = table.chains[name]
            self.found.chains[table.key, name] = chain
            bodies: list[Hashable] = []
            for rule in chain.rules:
                body = self._rule(name, rule, local)
                if body is None:
                    if any(isinstance(part, Chance | Limit) for part in rule.body):
                        raise NotComparable  # it draws, or takes a token, before it does not match
                    continue
                bodies.append(body[0])
                for to in body[1]:
                    if (to, body[2]) not in known:
                        known.add((to, body[2]))
                        waiting.append((to, body[2]))
            self.found.said.append((table.key, name, local, chain.base, tuple(bodies)))

    def _rule(self, chain: str, rule: Rule, local: bool) -> tuple[Hashable, list[str], bool] | None:
        """What a rule says, the chains that it leads to, and whether only packets to local addresses go on there.

        None: it can match only packets for Services, or such whose destination was translated.
        """
        here = local or any(self._demands_local(part) for part in rule.body)
        said: list[Hashable] = []
        leads: list[str] = []
        for part in rule.body:
            match part:
                case Compare():
                    found = None if self._is_for_services(chain, part, here) else self._compared(part)
                case Lookup(key, of, negate, absent):
                    kept = self._elements(chain, key, of, here)
                    found = (Lookup, key, kept, negate, absent) if kept or negate or absent else None
                case Dispatch(key, of):
                    kept = self._elements(chain, key, of, here)
                    found = (Dispatch, key, kept) if kept else None
                    leads += [value.chain for _, value in kept if isinstance(value, Jump | Goto)]
                case Jump(to) | Goto(to):
                    found = part
                    leads.append(to)
                case _:
                    if not isinstance(part, _PLAIN):
                        raise NotComparable
                    found = part
            if found is None:
                return None
            said.append(found)
        return tuple(said), leads, here

    # --- what only packets for Services match ----------------------------------------------------------------------

    def _demands_local(self, part: Any) -> bool:
        match part:
            case Compare(Field.DADDR_TYPE, among, False, _, False):
                return among == frozenset({"LOCAL"})
            case Lookup((Field.DADDR,), of, False, False):
                keys = self._set(of).elements
                return all(isinstance(key[0], int) and holds(self._services.local, key[0]) for key in keys)
            case _:
                return False

    def _is_for_services(self, chain: str, part: Compare, local: bool) -> bool:
        if part.negate or part.absent or part.mask is not None:
            return False
        if not isinstance(part.among, tuple):  # no rule that is left translates destinations
            return part.field is Field.CT_STATUS and part.among == frozenset({"DNAT"})
        if part.field is Field.DADDR and not lacking(part.among, self._services.frontends):
            self.found.keyed.add(chain)
            return True
        return local and part.field is Field.DPORT and not lacking(part.among, self._services.node_ports)

    def _elements(
        self, chain: str, key: tuple[Any, ...], of: Set | SetReference, local: bool
    ) -> frozenset[tuple[Hashable, Hashable]]:
        """The elements that packets for no Service may have."""
        declared = self._set(of)
        if declared.members or declared.remembers or declared.ipset is not None:
            raise NotComparable
        kept = set[tuple[Hashable, Hashable]]()
        for parts, element in declared.elements.items():
            if any(
                source is Field.DADDR and isinstance(part, int) and holds(self._services.frontends, part)
                for source, part in zip(key, parts, strict=True)
            ):
                self.found.keyed.add(chain)
            elif not local or not any(
                source is Field.DPORT and isinstance(part, int) and holds(self._services.node_ports, part)
                for source, part in zip(key, parts, strict=True)
            ):
                kept.add((tuple(map(self._datum, key, parts)), self._value(element)))
        return frozenset(kept)

    def _set(self, of: Set | SetReference) -> Set:
        found = of if isinstance(of, Set) else self._table.sets.get(of.name)
        if found is None:
            raise NotComparable
        return found

    # --- what others match ------------------------------------------------------------------------------------------

    def _value(self, element: Element) -> Hashable:
        if isinstance(element.value, tuple) or element.timeout_ns is not None or element.nomatch:
            raise NotComparable
        return element.value

    def _compared(self, part: Compare) -> Hashable:
        if part.field.type is not FieldType.ADDRESS:
            return part
        if part.field not in _ADDRESSES or not isinstance(part.among, tuple):
            raise NotComparable
        among = tuple([self._interval(each, part.mask) for each in part.among])
        return Compare, part.field, among, part.mask, part.negate, part.absent

    def _datum(self, source: Any, part: Any) -> Hashable:
        if kind_of(source) is not FieldType.ADDRESS:
            return part  # type: ignore[no-any-return]
        if (source.field if isinstance(source, Masked) else source) not in _ADDRESSES:
            raise NotComparable
        mask, shift = (source.mask, source.shift) if isinstance(source, Masked) else (None, 0)
        if not isinstance(part, int | tuple):
            raise NotComparable
        return self._interval(part if isinstance(part, tuple) else (part, part), mask, shift)

    def _interval(self, interval: tuple[int, int], mask: int | None, shift: int = 0) -> Hashable:
        """An interval of addresses, or the place of one of the node's own."""
        name: Hashable = interval
        if interval[0] == interval[1] and interval[0] in self._own:
            name = "own", self._own[interval[0]]
        try:
            pieces = unmasked(interval, mask, shift)
        except InputError:
            raise NotComparable from None
        self.found.literals.update(((name, mask, shift, place), piece) for place, piece in enumerate(pieces))
        return name
