"""What rules ask of a packet: chains made ready to run as always, whose conditions note what they compare.

``packetpath.matching`` alone decides whether a rule matches. Here stands only where the values of a comparison lie.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NoReturn

from kpsim.comparison.behaviour.asking import ENDPOINT, SOURCE, Given, Judged, Witness, axis_of
from kpsim.comparison.behaviour.spaces import Name, Partition, Values, cuts_of, holds
from kpsim.errors import InputError
from kpsim.packet import Packet
from kpsim.packetpath.index import CompiledChain, CompiledRule, Run
from kpsim.packetpath.matching import GETTERS, Condition, Facts, Getter, condition
from kpsim.packetpath.resolving import Resolve, Resolved
from kpsim.ruleset import (
    AssignFrom,
    Chain,
    Compare,
    Dispatch,
    Dnat,
    EitherPort,
    Expression,
    Field,
    Lookup,
    Masked,
    NamePattern,
    Redirect,
    Set,
    SetFlags,
    SetReference,
    Snat,
    Statement,
    is_for_the_rest,
)

_CARRIED = frozenset({
    Field.SADDR, Field.DADDR, Field.SPORT, Field.DPORT, Field.CT_ORIGINAL_DADDR, Field.CT_ORIGINAL_DPORT,
    Field.SPORT_OR_TYPE, Field.DPORT_OR_TYPE, Field.SPORT_OF_BITMAP, Field.DPORT_OF_BITMAP,
})  # fmt: skip
_MOST_PIECES = 4096
Ask = Callable[[Facts], None]
Interval = tuple[int, int]


class WatchedChains:
    """Makes the chains of one family ready to run, so that a witness hears what their rules ask.

    Whoever comes to a chain that is ``keyed`` is asked whether it goes back to one of the chain's addresses.
    """

    def __init__(self, witness: Witness, keyed: Mapping[str, Values] = MappingProxyType({})) -> None:
        self._witness = witness
        self._keyed = keyed
        self._ready: dict[int, tuple[Chain, CompiledChain]] = {}
        self._partitions: dict[Hashable, Partition] = {}
        self._indexes: dict[int, tuple[object, _Index]] = {}

    def ready(self, chain: Chain) -> CompiledChain:
        found = self._ready.get(id(chain))
        if found is None:
            found = self._ready[id(chain)] = chain, _WatchedChain(chain, self)
        return found[1]

    def keyed(self, chain: str) -> Partition | None:
        """The addresses that rules of the chain are for, at some node; None: they are for no addresses."""
        of = self._keyed.get(chain)
        if of is None:
            return None
        key = "keyed", id(of)
        if key not in self._partitions:
            self._partitions[key] = Partition(cuts_of(of), lambda value: holds(of, value))
        return self._partitions[key]

    # --- conditions -------------------------------------------------------------------------------------------------

    def condition(self, expression: Expression, key: Hashable) -> Condition:
        """As :func:`kpsim.packetpath.matching.condition`, and the witness hears what the condition compares."""
        plain, ask = condition(expression, key), self._asks(expression)
        if ask is None:
            return plain

        def holds(facts: Facts) -> bool:
            ask(facts)
            return plain(facts)

        return holds

    def _asks(self, expression: Expression) -> Ask | None:
        match expression:
            case Compare(field=field) if field in _CARRIED:
                return self._compared(GETTERS[field], expression)
            case EitherPort(among):
                partition = self.within(among)
                witness = self._witness

                def either(facts: Facts) -> None:
                    witness.ask(facts.packet.sport, partition)
                    witness.ask(facts.packet.dport, partition)

                return either
            case Lookup(key, elements):
                return self.looked_up(key, elements, merely=True)
            case _:
                return None

    def _compared(self, get: Getter, compare: Compare) -> Ask:
        witness, partition = self._witness, self.within(compare.among, compare.mask)

        def ask(facts: Facts) -> None:
            witness.ask(get(facts), partition)

        return ask

    def within(self, among: Any, mask: int | None = None, shift: int = 0) -> Partition:
        """The numbers that are among some intervals under a mask, and the others."""
        key = among, mask, shift
        if key not in self._partitions:
            intervals = [piece for each in among for piece in unmasked(each, mask, shift)]
            self._partitions[key] = Partition(
                cuts_of(intervals), lambda value: any(low <= value <= high for low, high in intervals)
            )
        return self._partitions[key]

    def resolving(self, statement: Statement | None, plain: Resolve | None) -> Resolve | None:
        """As ``plain``, which asks a statement's map, and the witness hears what the map is asked."""
        match statement:
            case Dispatch(key, elements) | AssignFrom(_, key, Set() | SetReference() as elements):
                ask = self.looked_up(key, elements)
            case Dnat() | Snat() | Redirect() if statement.mapped is not None:
                ask = self.looked_up(statement.mapped.key, statement.mapped.map)
            case Dnat() | Snat() | Redirect():
                return plain if _goes_to_one(statement) else _refuse
            case _:
                return plain
        if plain is None or ask is None:
            return plain

        def resolve(facts: Facts) -> Resolved | None:
            ask(facts)
            found = plain(facts)
            return found if found is None or _goes_to_one(found[0]) else _refuse(facts)

        return resolve

    # --- look-ups ---------------------------------------------------------------------------------------------------

    def looked_up(self, sources: Sequence[Any], elements: Set | SetReference, *, merely: bool = False) -> Ask | None:
        """What a look-up asks; None: nothing that the packet brought along. ``merely``: only whether there is an element."""
        fields = [source.field if isinstance(source, Masked) else source for source in sources]
        if _CARRIED.isdisjoint(field for field in fields if isinstance(field, Field)):
            return None
        getters = [GETTERS[field] if isinstance(field, Field) else None for field in fields]
        shapes = [(source.mask, source.shift) if isinstance(source, Masked) else (None, 0) for source in sources]

        def ask(facts: Facts) -> None:
            values = [None if get is None else get(facts) for get in getters]
            if any(value is None and get is not None for value, get in zip(values, getters, strict=True)):
                return
            found = elements if isinstance(elements, Set) else facts.named_set(elements)
            exceptions = found.ipset is not None and SetFlags.INTERVAL in found.flags  # which network has it matters
            self._index(found, shapes).ask(self._witness, values, merely=merely and not exceptions)

        return ask

    def _index(self, of: Set, shapes: Sequence[tuple[int | None, int]]) -> "_Index":
        # the set is kept beside its index, so that nothing else takes its identity
        found = self._indexes.get(id(of.elements))
        if found is None:
            if any(map(is_for_the_rest, of.elements)):
                raise InputError("a set with an element * for all other keys cannot be compared")
            keys = [
                tuple(_intervals(part, *shape) for part, shape in zip(key, shapes, strict=True)) for key in of.elements
            ]
            found = self._indexes[id(of.elements)] = of.elements, _Index(keys)
        return found[1]


def _goes_to_one(statement: Statement) -> bool:
    """Whether a translation does not choose among addresses or ports by what the packet is."""
    match statement:
        case Dnat(last_address=None, last_port=None) | Snat(last_address=None) | Redirect(last_port=None):
            return True
        case Dnat() | Snat() | Redirect():
            return False
        case _:
            return True


def _refuse(facts: Facts) -> NoReturn:
    raise InputError("a translation to a range of addresses or ports cannot be compared")


def unmasked(interval: Interval, mask: int | None, shift: int = 0) -> list[Interval]:
    """The numbers that lie in an interval once they are masked and shifted, as intervals."""
    low, high = interval[0] << shift, ((interval[1] + 1) << shift) - 1
    if mask is None:
        return [(low, high)]
    if not mask:
        return [(0, (1 << 128) - 1)] if low <= 0 else []
    block = mask & -mask
    ones = mask // block
    if not ones & (ones + 1):  # a netmask: blocks of numbers
        first, last = -(-low // block) * block, high // block * block
        return [(first, last + block - 1)] if first <= last else []
    if low != high or low & ~mask:
        raise InputError(f"a comparison of an interval under the mask {mask:#x} cannot be compared")
    free = [1 << bit for bit in range(mask.bit_length()) if not mask >> bit & 1 and 1 << bit >= block]
    if 1 << len(free) > _MOST_PIECES:
        raise InputError(f"the mask {mask:#x} selects too many stretches of addresses")
    bases = [low]
    for bit in free:
        bases += [base | bit for base in bases]
    return [(base, base + block - 1) for base in sorted(bases)]


def _intervals(part: Any, mask: int | None, shift: int) -> Any:
    """What an element says of one field: intervals of numbers, or a name or names."""
    if isinstance(part, str | NamePattern):
        return part
    return tuple(unmasked(part if isinstance(part, tuple) else (part, part), mask, shift))


def _has(part: Any, value: Any) -> bool:
    if isinstance(part, NamePattern):
        return isinstance(value, str) and value.startswith(part.prefix)
    return isinstance(value, int) and any(low <= value <= high for low, high in part)


class _Index:
    """The keys of a set, as questions: one field after the other, each only for the keys that are left."""

    def __init__(self, keys: Sequence[tuple[Any, ...]]) -> None:
        self._keys = keys
        self._columns: dict[int, tuple[dict[Any, list[int]], list[tuple[Any, int]]]] = {}
        self._partitions: dict[Hashable, Partition] = {}
        self._restricted: dict[Hashable, tuple[int, ...]] = {}

    def ask(self, witness: Witness, values: Sequence[Any], *, merely: bool) -> None:
        axes = [axis_of(value) for value in values]
        wide = [at for at, axis in enumerate(axes) if axis is not None and axis < ENDPOINT]
        fixed = [at for at, axis in enumerate(axes) if axis is None and values[at] is not None]
        of_endpoint = [at for at, axis in enumerate(axes) if axis is not None and axis >= ENDPOINT]
        left = self._among(tuple([(at, values[at]) for at in fixed]))
        if of_endpoint:
            self._ask_given(witness, values, axes, tuple(fixed), of_endpoint, wide)
            return
        path: tuple[Any, ...] = tuple([(at, values[at]) for at in fixed])
        for at in wide:
            if not left:
                return
            partition = self._partition(path, at, left, merely=merely and at == wide[-1])
            witness.ask(values[at], partition)
            name = partition.of(values[at])
            path = (*path, (at, name))
            left = self._narrowed(path, left, at, int(values[at]))

    def _ask_given(
        self, witness: Witness, values: Sequence[Any], axes: Sequence[int | None], fixed: tuple[int, ...],
        of_endpoint: Sequence[int], wide: Sequence[int],
    ) -> None:  # fmt: skip
        const = tuple([(at, values[at]) for at in fixed])

        def left(numbers: Sequence[int]) -> tuple[int, ...]:
            given = tuple([(at, numbers[axes[at] or 0]) for at in of_endpoint])
            return self._among((*const, *given))

        def of(endpoint: int, port: int) -> tuple[int, ...]:
            return left((0, 0, 0, endpoint, port))

        here = [0, 0, 0, 0, 0]
        for at in of_endpoint:
            here[axes[at] or 0] = int(values[at])
        if not wide:
            question = Judged(left)
            witness.judged(question, left(here))
            return
        for at in wide:

            def partition(endpoint: int, port: int, at: int = at) -> Partition:
                found = of(endpoint, port)
                return self._partition(("given", found), at, found, merely=True)

            axis = axes[at]
            assert axis is not None
            witness.judged(Given(axis, partition), partition(here[3], here[4]).of(int(values[at])))

    def _among(self, given: tuple[tuple[int, Any], ...]) -> tuple[int, ...]:
        """The numbers of the keys that have these values."""
        if given not in self._restricted:
            left: list[int] | None = None
            for at, value in given:
                found = self._with(at, value)
                left = found if left is None else sorted(set(left).intersection(found))
            self._restricted[given] = tuple(range(len(self._keys)) if left is None else left)
        return self._restricted[given]

    def _with(self, at: int, value: Any) -> list[int]:
        """The numbers of the keys that have this value in a field."""
        if at not in self._columns:
            exact: dict[Any, list[int]] = {}
            others: list[tuple[Any, int]] = []
            for number, key in enumerate(self._keys):
                part = key[at]
                if isinstance(part, str):
                    exact.setdefault(part, []).append(number)
                elif isinstance(part, tuple) and len(part) == 1 and part[0][0] == part[0][1]:
                    exact.setdefault(part[0][0], []).append(number)
                else:
                    others.append((part, number))
            self._columns[at] = exact, others
        exact, others = self._columns[at]
        return sorted([*exact.get(value, ()), *(number for part, number in others if _has(part, value))])

    def _partition(self, path: Hashable, at: int, left: tuple[int, ...], *, merely: bool = False) -> Partition:
        """The classes of a field's values: which of the keys that are left have them, or merely whether any has."""
        key = path, at, merely
        if key not in self._partitions:
            exact: dict[int, list[int]] = {}
            ranges: list[tuple[int, int, int]] = []
            for number in left:
                for low, high in self._keys[number][at]:
                    if low == high:
                        exact.setdefault(low, []).append(number)
                    else:
                        ranges.append((low, high, number))

            def name(value: int) -> Name:
                inside = exact.get(value, []) + [number for low, high, number in ranges if low <= value <= high]
                return bool(inside) if merely else tuple(inside)

            cuts = [*cuts_of((each, each) for each in exact), *cuts_of((low, high) for low, high, _ in ranges)]
            self._partitions[key] = Partition(cuts, name)
        return self._partitions[key]

    def _narrowed(self, path: Hashable, left: tuple[int, ...], at: int, value: int) -> tuple[int, ...]:
        if path not in self._restricted:
            self._restricted[path] = tuple(
                number for number in left if any(low <= value <= high for low, high in self._keys[number][at])
            )
        return self._restricted[path]


# --- chains -------------------------------------------------------------------------------------------------------------


class _WatchedChain(CompiledChain):
    """A chain whose rules tell a witness what they ask, also those that are left out because they cannot match."""

    __slots__ = ("_asked", "_chains", "_keyed", "_known_ports")

    def __init__(self, chain: Chain, chains: WatchedChains) -> None:
        self._chains = chains
        self._keyed = chains.keyed(chain.name)
        self._asked: dict[Hashable, Partition] = {}
        self._known_ports: dict[Hashable, dict[tuple[int, str], frozenset[int]]] = {}
        super().__init__(chain, chains.condition)

    def _finished(self, rule: CompiledRule) -> CompiledRule:
        resolve = self._chains.resolving(rule.statement, rule.resolve)
        then = tuple(each._replace(resolve=self._chains.resolving(each.statement, each.resolve)) for each in rule.then)
        return rule if resolve is rule.resolve and then == rule.then else replace(rule, resolve=resolve, then=then)

    def candidates(self, packet: Packet) -> Sequence[CompiledRule]:
        if self._keyed is not None and axis_of(packet.daddr) == SOURCE:
            self._chains._witness.ask(packet.daddr, self._keyed)
        for number, block in enumerate(self._blocks):
            if isinstance(block, Run):
                for shape, by_key in block.by_shape.items():
                    self._ask_shape(packet, (number, shape), shape.mask, shape.protocol, shape.port, by_key)
        return super().candidates(packet)

    def _ask_shape(
        self, packet: Packet, where: Hashable, mask: int, protocol: bool, port: bool,
        by_key: Mapping[tuple[int, str, int], object],
    ) -> None:  # fmt: skip
        """Asks what the look-up of one shape of rules depends on: first the address, then the port."""
        witness = self._chains._witness
        wanted = packet.protocol if protocol else ""
        address = int(packet.daddr) & mask
        if mask and axis_of(packet.daddr) is not None:
            key: Hashable = (where, "address", wanted)
            if key not in self._asked:
                bases = {base for base, name, _ in by_key if name == wanted}
                intervals = [piece for base in sorted(bases) for piece in unmasked((base, base), mask)]
                self._asked[key] = Partition(
                    cuts_of(intervals), lambda value: value & mask if value & mask in bases else None
                )
            witness.ask(packet.daddr, self._asked[key])
        if port and axis_of(packet.dport) is not None:
            key = (where, "port", wanted, address)
            if key not in self._asked:
                ports = self._ports(where, by_key).get((address, wanted), frozenset())
                self._asked[key] = Partition(
                    cuts_of((each, each) for each in ports), lambda value: value if value in ports else None
                )
            witness.ask(packet.dport, self._asked[key])

    def _ports(self, where: Hashable, by_key: Iterable[tuple[int, str, int]]) -> dict[tuple[int, str], frozenset[int]]:
        if where not in self._known_ports:
            gathered: dict[tuple[int, str], set[int]] = {}
            for address, protocol, port in by_key:
                gathered.setdefault((address, protocol), set()).add(port)
            self._known_ports[where] = {each: frozenset(ports) for each, ports in gathered.items()}
        return self._known_ports[where]
