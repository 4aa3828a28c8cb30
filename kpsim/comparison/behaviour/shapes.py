"""The shape of a Service's rules: what is left of them once the Service's own constants are replaced by their places.

Services whose rules have equal shapes are told apart by nothing but these constants. A rule belongs to the component
of Services that it was written for (:class:`~kpsim.ruleset.Origin`); all other rules are common, and each constant in a
rule that is not the component's own is noted: it may tell two components apart.

What is said of one endpoint alone (the chain that translates to it, its element of a set, its memory of clients) is kept
apart, with a hole where the endpoint's address stands. Endpoints of which the same is said may be exchanged.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import count
from typing import Any, cast

from kpsim.comparison.behaviour.components import Address
from kpsim.comparison.behaviour.elements import constant_of, kind_of, kind_of_data, users_of_memory
from kpsim.comparison.behaviour.holes import HOLE, MEMORY, Alone, Incomparable, Literals, Own, Place, Said, Shape
from kpsim.comparison.behaviour.rules import unmasked
from kpsim.comparison.behaviour.shapes_of_ipvs import computes_with_addresses, draws_among_equals, in_order
from kpsim.ipvs.servers import RealServer, VirtualServer, VirtualServerKey
from kpsim.packetpath.chooser import fraction_as_written
from kpsim.programmed import Programmed
from kpsim.ruleset import (
    Adjust,
    Assign,
    Body,
    BridgePort,
    Chain,
    Chance,
    Compare,
    Dispatch,
    Dnat,
    EitherPort,
    Element,
    Field,
    FieldType,
    Goto,
    Hashed,
    Jump,
    Limit,
    LocalSocket,
    Log,
    Lookup,
    Mapped,
    Masked,
    Masquerade,
    NoTrack,
    Numgen,
    Recent,
    Redirect,
    Reject,
    ReversePath,
    RoutingHeader,
    Rule,
    Set,
    SetReference,
    SetTimeToLive,
    Snat,
    Table,
    Terminal,
    Unknown,
    Unmodelled,
    UpdateSet,
)
from kpsim.ruleset import Counter as Count

#: parts of rules that name no address, no port, no chain and no memory
_WITHOUT_CONSTANTS = (
    Terminal, Reject, Assign, SetTimeToLive, NoTrack, Log, Adjust, Chance, Limit, ReversePath, RoutingHeader, BridgePort,
    LocalSocket, Count, Unknown, Unmodelled,
)  # fmt: skip


class RulesetShapes:
    """The shapes of all components' rules in one ruleset, by the number of the component.

    ``endpoints`` are the places of each component's addresses that are nothing but endpoints.
    """

    def __init__(
        self, told: Programmed, services: Mapping[str, int], own: Own, literals: Literals,
        endpoints: Sequence[Collection[int]] = (),
    ) -> None:  # fmt: skip
        ruleset = told.ruleset
        self._ipsets = told.ipsets
        self._family, self._services, self._own, self._literals = ruleset.family, services, own, literals
        self.spoilt: set[int] = set()  #: components whose chains others' rules lead to
        self.rigid: set[int] = (
            set()
        )  #: components with an endpoint that is named otherwise than by what is said of it alone
        #: for each component what is said of endpoints: by draw and by run of memories
        self.said: dict[int, list[list[Said]]] = {}
        self._endpoints = endpoints
        self._of_elements: dict[int, list[Said]] = {}
        self._one: Alone | None = None
        self._places: dict[str, int] = {}
        self._remembered: dict[str, str] = {}
        self._found: dict[int, list[Shape]] = {}
        self._elements: dict[int, list[Shape]] = {}
        self._orders: dict[int, list[int]] = {}  # in which rules name a component's addresses as endpoints
        self._draws: dict[int, list[list[int]]] = {}
        for table in ruleset.in_order():
            self._read(table)
        self._read_beside_tables(told)

    def of(self, component: int, *, without_endpoints: bool) -> Shape:
        """The shape of a component's rules, whole or without what is said of one endpoint alone."""
        said: list[Shape] = [
            frozenset(Counter(each for each in of if each[0] is None or not without_endpoints).items())
            for of in self.said.get(component, ())
        ]
        if not without_endpoints:
            said.append(frozenset(self._of_elements.get(component, ())))
        return tuple(self._found.get(component, ())), frozenset(self._elements.get(component, ())), tuple(said)

    def of_endpoints(self, component: int) -> dict[int, Shape]:
        """What is said of each endpoint alone, by its place."""
        elements: dict[int, set[Shape]] = {}
        for place, shape in self._of_elements.get(component, ()):
            elements.setdefault(cast("int", place), set()).add(shape)
        found: dict[int, list[Shape]] = {place: [frozenset(shapes)] for place, shapes in elements.items()}
        for number, of in enumerate(self.said.get(component, ())):
            for place, shape in of:
                if place is not None:
                    found.setdefault(place, []).append((number, shape))
        return {place: tuple(shapes) for place, shapes in found.items()}

    def order(self, component: int) -> tuple[int, ...] | None:
        """The order in which rules name a component's endpoints, by their places; None: different rules, different orders."""
        draws = sorted(self._draws.get(component, ()), key=len, reverse=True)
        found = [*dict.fromkeys(place for draw in draws for place in draw)] or self._orders.get(component, [])
        ranks = {place: rank for rank, place in enumerate(found)}
        in_order = all(draw == sorted(draw, key=ranks.__getitem__) for draw in draws)
        return tuple(dict.fromkeys(found)) if in_order else None

    # --- whose a rule is --------------------------------------------------------------------------------------------

    def _owner(self, rule: Rule) -> int | None:
        service = rule.origin.service
        return self._services.get(service.partition(":")[0]) if service else None

    def _read(self, table: Table) -> None:
        self._table = table
        self._owners: dict[str, int] = {}
        self._contents: dict[str, Shape] = {}
        self._places = {}
        self._remembered = {}
        self._numbers: dict[int, tuple[Iterator[int], dict[str, int]]] = {}
        for chain in table.chains.values():
            owners = {self._owner(rule) for rule in chain.rules}
            if chain.base is None and len(owners) == 1 and (owner := owners.pop()) is not None:
                self._owners[chain.name] = owner
        while common := self._led_to_by_others():  # chains for all Services that only one of them has rules in
            for name in common:
                del self._owners[name]
        self._users = users_of_memory(table, self._owners, self._owner)
        for chain in table.ordered():
            if chain.name not in self._owners:
                self._read_shared(chain)
        for chain in table.ordered():  # chains that nothing leads to: their constants count all the same
            if chain.name in self._owners:
                self._content(self._owners[chain.name], chain.name)
        for name, of in table.sets.items():
            self._read_set(table.key, name, of)

    def _read_beside_tables(self, told: Programmed) -> None:
        """Reads ipsets, virtual servers and addresses that are only local."""
        for name, of in told.ipsets.items():
            if of.ipset is None or of.ipset.family in (None, self._family):
                if computes_with_addresses(of):
                    raise Incomparable
                self._read_set("ipset", name, of)
        for address, device in told.local_addresses.items():
            owner = self._owner_of([(self._family, address)])
            shape = "local", self._address(owner, address), device
            if owner is not None:
                self._elements.setdefault(owner, []).append(shape)
        places = {constant: place for constant, (_, place) in self._own.items()}
        for key, virtual in in_order(told.virtual_servers, self._family, places):
            self._read_virtual_server(key, virtual)

    def _read_virtual_server(self, key: VirtualServerKey, virtual: VirtualServer) -> None:
        owner = self._owner_of([(self._family, key.address), key.port])
        at = self._address(owner, key.address), self._port(owner, key.port), key.protocol
        servers, among_equals = (
            [self._real_server(owner, each) for each in virtual.servers],
            draws_among_equals(virtual),
        )
        if owner is None:
            return
        shape = "virtual server", at, replace(virtual, servers=()), self._site(owner, "drawn", servers)
        self._elements.setdefault(owner, []).append(shape)
        if not among_equals:
            self.rigid.add(owner)

    def _real_server(self, owner: int | None, server: RealServer) -> Said:
        """What is said of the one endpoint that a real server is."""
        self._one = one = Alone() if owner is not None else None
        shape = self._address(owner, server.address), self._port(owner, server.port), server.weight
        self._one = None
        return None if one is None else one.place, shape

    def _owner_of(self, constants: Iterable[Address | int]) -> int | None:
        """The component that has the constants that are some component's; None: none has, or several do."""
        owners = {self._own[each][0] for each in constants if each in self._own}
        return owners.pop() if len(owners) == 1 else None

    def _led_to_by_others(self) -> set[str]:
        """Chains of one component that others' rules lead to."""
        found: set[str] = set()
        for chain in self._table.chains.values():
            for rule in chain.rules:
                owner = self._owners.get(chain.name, self._owner(rule))
                verdicts = [part for part in rule.body if isinstance(part, Jump | Goto)]
                found |= {each.chain for each in verdicts if self._owners.get(each.chain, owner) != owner}
        return found

    def _site(self, owner: int, what: str, said: list[Said]) -> Shape:
        """Stands for what is said of a component's endpoints, each alone, in one place of its rules."""
        places = [place for place, _ in said if place is not None]
        if len(set(places)) < len(places):
            self.rigid.add(owner)  # an endpoint that is drawn more often than others
        if what == "drawn":
            self._draws.setdefault(owner, []).append(places)
        sites = self.said.setdefault(owner, [])
        sites.append(said)
        return what, len(sites) - 1

    def _read_shared(self, chain: Chain) -> None:
        """The rules of a chain that is for several components.

        The order of rules of different components does not matter where all of them name a constant of their own on
        the same axis. ``stretch`` numbers the parts of the chain in which that is so.
        """
        stretch, before = 0, ""
        for rule in chain.rules:
            owner = self._owner(rule)
            axis = "" if owner is None else self._axis(rule, owner)
            if axis != before:
                stretch, before = stretch + 1, axis
            if owner is None or not axis:
                stretch += 1
                self._body(None, rule.body)
            else:
                shape = self._table.key, chain.name, stretch, self._body(owner, rule.body)
                self._found.setdefault(owner, []).append(shape)

    def _axis(self, rule: Rule, owner: int) -> str:
        """The axis on which a rule demands one of its component's own constants; empty: none."""
        for wanted in (Field.DADDR, Field.DPORT):
            for part in rule.body:
                if not isinstance(part, Compare) or part.field is not wanted or part.negate or part.absent:
                    continue
                if isinstance(self._compared(owner, part), Place):
                    return wanted.name
        return ""

    # --- chains and rules -------------------------------------------------------------------------------------------

    def _content(self, owner: int, name: str) -> Shape:
        """The shape of a component's own chain."""
        if name not in self._contents:
            if self._one is not None:  # a chain that leads to others is not about one endpoint
                self._one.endpoints |= {-1, -2}
            before, self._one = self._one, Alone() if self._translates(name) else None
            self._contents[name] = None  # no chain leads to itself
            self._contents[name] = self._of_chain(owner, name)
            if (one := self._one) is not None:
                self._one = None
                if one.place is not None:
                    self._places[name] = one.place
                    self._remembered[name] = next(iter(one.memories), "")
                elif one.is_of_several:
                    self._contents[name] = self._of_chain(owner, name)
            self._one = before
        return self._contents[name]

    def _of_chain(self, owner: int, name: str) -> Shape:
        bodies = [rule.body for rule in self._table.chains[name].rules]
        shapes: list[Shape] = []
        while bodies:
            if drawn := self._drawn(owner, bodies):
                shapes.append(self._site(owner, "drawn", drawn))
                break
            if recalled := self._recalled(owner, bodies):
                shapes.append(self._site(owner, "recalled", recalled))
                del bodies[: len(recalled)]
                continue
            shapes.append(self._body(owner, bodies.pop(0)))
        return tuple(shapes)

    def _drawn(self, owner: int, bodies: list[Body]) -> list[Said]:
        """The chains of which the rest of a chain draws one, each with the same probability; empty if it does not.

        They are alike in their order: each ends by translating the destination.
        """
        chains = []
        for place, body in enumerate(bodies):
            match body:
                case (Chance(threshold), Jump(chain)) if fraction_as_written(threshold) == Fraction(
                    1, len(bodies) - place
                ) and place + 1 < len(bodies):
                    chains.append(chain)
                case (Jump(chain),) if place + 1 == len(bodies):
                    chains.append(chain)
                case _:
                    return []
        if not all(self._owners.get(chain) == owner and self._translates(chain) for chain in chains):
            return []
        return [self._alone(owner, chain) for chain in chains]

    def _alone(self, owner: int, chain: str) -> Said:
        """What is said of the one endpoint that a chain translates to."""
        content = self._content(owner, chain)
        return self._places.get(chain), content

    def _recalled(self, owner: int, bodies: list[Body]) -> list[Said]:
        """The rules at the beginning of some that lead clients back to the endpoint that remembers them.

        No endpoint remembers the client of a first packet, so the order of these rules does not matter.
        """
        found: list[Said] = []
        for body in bodies:
            match body:
                case (Recent(name, "rcheck", negate=False) as recent, (Jump(chain) | Goto(chain)) as verdict):
                    memory, how = f"recent {name}", cast("Shape", replace(recent, name=""))
                case (Lookup(key, SetReference(memory), False, absent), (Jump(chain) | Goto(chain)) as verdict):
                    of = self._table.sets.get(memory)
                    if of is None or of.elements or of.members:
                        break
                    how = key, of.type, of.flags, of.timeout_ns, of.size, absent
                case _:
                    break
            if self._owners.get(chain) != owner or not self._translates(chain):
                break
            place, _ = self._alone(owner, chain)
            if place is None or self._remembered[chain] != memory:
                break
            found.append((place, (how, type(verdict).__name__)))
        return found

    def _translates(self, chain: str) -> bool:
        rules = self._table.chains[chain].rules
        last = rules[-1].body if rules else ()
        if not last or not isinstance(last[-1], Dnat) or last[-1].mapped is not None:
            return False
        return all(
            (isinstance(part, Compare) and part.field is Field.L4PROTO)
            or (isinstance(part, Recent) and part.action == "set" and not part.negate)
            for part in last[:-1]
        )

    def _leads(self, owner: int | None, verdict: Any) -> Shape:
        """The shape of a verdict."""
        if not isinstance(verdict, Jump | Goto) or verdict.chain not in self._owners:
            return cast("Shape", verdict)
        of = self._owners[verdict.chain]
        if of != owner:
            self.spoilt |= {of} if owner is None else {of, owner}
            return verdict
        content = self._content(of, verdict.chain)
        if verdict.chain in self._places:
            self.rigid.add(of)
            return type(verdict).__name__, content, self._places[verdict.chain]
        return type(verdict).__name__, content

    def _body(self, owner: int | None, body: Body) -> Shape:
        return tuple([self._part(owner, part) for part in body])

    def _part(self, owner: int | None, part: Any) -> Shape:
        match part:
            case Compare():
                return Compare, part.field, self._compared(owner, part), part.mask, part.negate, part.absent
            case Jump() | Goto():
                return self._leads(owner, part)
            case Dnat() | Snat() | Redirect() | Masquerade():
                return self._translation(owner, part)
            case Dispatch(key, of):
                drawn = self._uniform(owner, part)
                return (Dispatch, self._looked_up(owner, key, of)) if drawn is None else drawn
            case Lookup(key, of, negate, absent):
                return Lookup, self._looked_up(owner, key, of), negate, absent
            case UpdateSet(reference, key, verb, timeout):
                return UpdateSet, self._looked_up(owner, key, reference), verb, timeout
            case EitherPort(among, negate):
                self._literals.ports.update(among)
                return EitherPort, among, negate
            case Recent(name):
                return replace(part, name=""), self._memory(owner, f"recent {name}")
            case _ if isinstance(part, _WITHOUT_CONSTANTS):
                return cast("Shape", part)
            case _:
                raise Incomparable

    def _translation(self, owner: int | None, part: Dnat | Snat | Redirect | Masquerade) -> Shape:
        if isinstance(part, Snat | Masquerade) and part.ports is not None:
            self._note(False, part.ports)
        if getattr(part, "last_address", None) is not None or getattr(part, "last_port", None) is not None:
            raise Incomparable
        match part:
            case Dnat(mapped=None):
                if owner is not None and part.address is not None:
                    self._note_order(owner, part.address)
                return Dnat, self._address(owner, part.address), self._port(owner, part.port), part.flags
            case Snat(mapped=None):
                return Snat, self._address(owner, part.address), part.ports, part.flags
            case Redirect(mapped=None):
                return Redirect, self._port(owner, part.port), part.flags
            case Masquerade():
                return part
            case _:
                assert part.mapped is not None
                return type(part), self._mapped(owner, part.mapped), part.flags

    def _mapped(self, owner: int | None, mapped: Mapped) -> Shape:
        """The shape of a map that says what to translate to. Of equally probable values the order does not matter."""
        data = tuple(
            kind for kind, used in ((FieldType.ADDRESS, mapped.address), (FieldType.PORT, mapped.port)) if used
        )
        if isinstance(mapped.map, SetReference):
            return self._looked_up(owner, mapped.key, mapped.map), data
        match mapped.key:
            case (Numgen(modulus, 0, True),) if set(mapped.map.elements) == {(number,) for number in range(modulus)}:
                values = [self._value_alone(owner, mapped.map.elements[number,], data) for number in range(modulus)]
                if owner is None:
                    return "drawn", frozenset(Counter(values).items())
                return self._site(owner, "drawn", values), data
        return self._looked_up(owner, mapped.key, mapped.map, data), data

    def _value_alone(self, owner: int | None, element: Element, data: Sequence[FieldType | None]) -> Said:
        """What is said of the one endpoint that a map leads to."""
        if self._one is not None:  # several translations in what is said of one endpoint
            self._one.endpoints |= {-1, -2}
        before, one = self._one, Alone()
        self._one = one
        found = self._value(owner, element, data)
        self._one = None
        if one.is_of_several:
            found = self._value(owner, element, data)
        self._one = before
        return one.place, found

    def _uniform(self, owner: int | None, part: Dispatch) -> Shape | None:
        """A map that leads to chains of the component with equal probabilities; None: it is something else."""
        match part:
            case Dispatch((Numgen(modulus, 0, True),), Set() as of) if owner is not None:
                verdicts = [element.value for element in of.elements.values()]
                chains = [each.chain for each in verdicts if isinstance(each, Goto)]
                if set(of.elements) != {(number,) for number in range(modulus)} or len(chains) < len(verdicts):
                    return None
                if all(self._owners.get(chain) == owner and self._translates(chain) for chain in chains):
                    return self._site(owner, "drawn", [self._alone(owner, chain) for chain in chains])
        return None

    # --- numbers ----------------------------------------------------------------------------------------------------

    def _compared(self, owner: int | None, part: Compare) -> Shape:
        kind = part.field.type
        if kind not in (FieldType.ADDRESS, FieldType.PORT) or not isinstance(part.among, tuple):
            return part.among
        if part.mask is None and part.value is not None:
            return self._address(owner, part.value) if kind is FieldType.ADDRESS else self._port(owner, part.value)
        for interval in part.among:
            self._note(kind is FieldType.ADDRESS, interval, part.mask)
        return part.among

    def _note(self, address: bool, interval: tuple[int, int], mask: int | None = None, shift: int = 0) -> None:
        found = unmasked(interval, mask, shift)
        (self._literals.addresses[self._family] if address else self._literals.ports).update(found)

    def _address(self, owner: int | None, value: int | None) -> Shape:
        if value is None:
            return None
        component, place = self._own.get((self._family, value), (None, 0))
        if component is not None and component == owner:
            if place in self._endpoints[component]:
                if self._one is not None:
                    self._one.endpoints.add(place)
                    return HOLE
                self.rigid.add(component)
            return Place(place)
        self._note(True, (value, value))
        return value

    def _port(self, owner: int | None, value: int | None) -> Shape:
        if value is None:
            return None
        component, place = self._own.get(value, (None, 0))
        if component is not None and component == owner:
            return Place(place)
        self._note(False, (value, value))
        return value

    def _note_order(self, owner: int, address: int) -> None:
        component, place = self._own.get((self._family, address), (None, 0))
        if component == owner:
            self._orders.setdefault(owner, []).append(place)

    def _memory(self, owner: int | None, name: str) -> Shape:
        """A name of a set or a list; one that is a component's own is numbered."""
        if owner is None or self._users.get(name) != {owner}:
            return name
        if self._one is not None:
            self._one.memories.add(name)
            return MEMORY
        numbers, known = self._numbers.setdefault(owner, (count(), {}))
        if name not in known:
            known[name] = next(numbers)
        return f"own {known[name]}"

    # --- sets -------------------------------------------------------------------------------------------------------

    def _looked_up(
        self,
        owner: int | None,
        key: tuple[Any, ...],
        of: Set | SetReference,
        data: tuple[FieldType | None, ...] | None = None,
    ) -> Shape:
        if any(isinstance(source, Hashed) for source in key):
            raise Incomparable  # which number an address has says nothing of another
        if isinstance(of, SetReference):
            found = self._table.sets.get(of.name) or self._ipsets.get(of.name)
            if found is None:
                raise Incomparable
            name = self._memory(owner, of.name)
            if name == of.name or found.elements or found.members:
                return key, of
            return key, name, found.type, found.flags, found.timeout_ns, found.size
        kinds = [kind_of(source) for source in key]
        shifts = [(source.mask, source.shift) if isinstance(source, Masked) else (None, 0) for source in key]
        elements = [
            (
                tuple([self._datum(owner, *each) for each in zip(kinds, parts, shifts, strict=True)]),
                self._value(owner, element, data),
            )
            for parts, element in of.elements.items()
        ]
        return key, frozenset(elements)

    def _datum(self, owner: int | None, kind: FieldType | None, part: Any, shape: tuple[int | None, int]) -> Shape:
        if kind is None or not isinstance(part, int | tuple):
            return cast("Shape", part)
        if isinstance(part, int) and shape == (None, 0):
            return self._address(owner, part) if kind is FieldType.ADDRESS else self._port(owner, part)
        self._note(kind is FieldType.ADDRESS, part if isinstance(part, tuple) else (part, part), *shape)
        return part

    def _value(self, owner: int | None, element: Element, data: Sequence[FieldType | None] | None) -> Shape:
        """The shape of what a map says. ``data`` is of what kind each part is; None: it has verdicts or says nothing."""
        if not isinstance(element.value, tuple):
            return self._leads(owner, element.value), element.timeout_ns
        if data is None or len(data) != len(element.value):
            raise Incomparable
        for kind, part in zip(data, element.value, strict=True):
            if owner is not None and kind is FieldType.ADDRESS and isinstance(part, int):
                self._note_order(owner, part)
        parts = [self._datum(owner, kind, part, (None, 0)) for kind, part in zip(data, element.value, strict=True)]
        return tuple(parts), element.timeout_ns

    def _read_set(self, where: Shape, name: str, of: Set) -> None:
        """Each element that names constants of one component belongs to it."""
        if of.type is None and (of.elements or of.members):
            raise Incomparable
        kinds = [] if of.type is None else [kind_of_data(each) for each in of.type.key]
        none = (None, 0)
        for key, element in of.elements.items():
            constants = [constant_of(self._family, *each) for each in zip(kinds, key, strict=True)]
            owner = self._owner_of(each for each in constants if each is not None)
            data = None if of.type is None or of.type.data is None else [kind_of_data(each) for each in of.type.data]

            def shape(of: int | None = owner, key: Any = key, element: Element = element, data: Any = data) -> Shape:
                parts = tuple([self._datum(of, kind, part, none) for kind, part in zip(kinds, key, strict=True)])
                return where, name, parts, self._value(of, element, data)

            if owner is None:
                shape()
                continue
            self._one = one = Alone() if self._names_endpoint(owner, kinds, key) else None
            found = shape()
            self._one = None
            if one is not None and one.place is not None:
                self._of_elements.setdefault(owner, []).append((one.place, found))
            else:
                self._elements.setdefault(owner, []).append(found if one is None else shape())
        for member, _ in of.members:
            for kind, part in zip(kinds, member, strict=True):
                self._datum(None, kind, part, none)

    def _names_endpoint(self, owner: int, kinds: Sequence[FieldType | None], key: tuple[Any, ...]) -> bool:
        """Whether a key has an address that is nothing but an endpoint."""
        constants = (constant_of(self._family, kind, part) for kind, part in zip(kinds, key, strict=True))
        found = (self._own[each] for each in constants if each is not None and each in self._own)
        return any(component == owner and place in self._endpoints[owner] for component, place in found)
