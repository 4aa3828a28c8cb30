"""What a node's routing asks of a packet's addresses."""

from collections.abc import Callable, Hashable, Iterable

from kpsim.addresses import Family
from kpsim.comparison.behaviour.asking import Witness, axis_of
from kpsim.comparison.behaviour.spaces import Name, Partition, cuts_of
from kpsim.packetpath.routing import NODE_ASKS, AddressType, Decision, Interface, InterfaceKind, Question, Routing

_EVERY_NODE = 0xFF02 << 112
#: where addresses of special meaning begin and end: 0.0.0.0, loopback, multicast, broadcast
SPECIAL = {
    Family.IPV4: (
        (0, 0), (127 << 24, (128 << 24) - 1), (224 << 24, (240 << 24) - 1), (224 << 24, (224 << 24) + 255),
        (0xE0000001, 0xE0000001), (0xFFFFFFFF, 0xFFFFFFFF),
    ),
    Family.IPV6: (
        (0, 0), (1, 1), (0xFF << 120, (1 << 128) - 1), (0xFE80 << 112, (0xFEC0 << 112) - 1),
        (0xFC << 120, (0xFE << 120) - 1), (_EVERY_NODE | 1, _EVERY_NODE | 1), (_EVERY_NODE | 2, _EVERY_NODE | 2),
    ),
}  # fmt: skip

#: those of them that the kernel itself tells apart, not by its tables (K-7)
MARTIAN = {
    Family.IPV4: (
        (0, 0), (127 << 24, (128 << 24) - 1), (224 << 24, (224 << 24) + 255), (0xFFFFFFFF, 0xFFFFFFFF),
    ),
    Family.IPV6: ((0, 0), (1, 1)),
}  # fmt: skip


class WatchedRouting(Routing):
    """A node's routing, which answers as the node's own does. The witness hears what each answer depends on."""

    def __init__(self, plain: Routing, witness: Witness) -> None:
        self.__dict__.update(plain.__dict__)
        self._plain = plain
        self._witness = witness
        self._partitions: dict[Hashable, Partition] = {}
        self._bridges = [each.name for each in self.interfaces.values() if each.kind is InterfaceKind.BRIDGE]

    def constants(self, family: Family) -> Iterable[tuple[int, int]]:
        """Every interval of addresses that the node's routing tells from others."""
        yield from SPECIAL[family]
        for interface in self.interfaces.values():
            for address in interface.of(family):
                yield address.value, address.value
                yield address.network.base, address.network.last
                if family is Family.IPV4:
                    yield address.network.last, address.network.last
                else:
                    group = 0xFF02 << 112 | 0x1_FF00_0000 | address.value & 0xFFFFFF
                    yield group, group
        yield from ((address, address) for address in self.only_local(family))
        for network in (route.network for route in self.routes):
            if network.family is family:
                yield network.base, network.last
        for rule in self.rules:
            for selected in (rule.source, rule.destination):
                if rule.family is family and selected is not None:
                    yield selected.base, selected.last

    def _ask(self, about: Hashable, family: Family, address: int, name: Callable[[int], Name]) -> None:
        if axis_of(address) is None:
            return
        key = about, family
        if key not in self._partitions:
            self._partitions[key] = Partition(cuts_of(self.constants(family)), name)
        self._witness.ask(address, self._partitions[key])

    def is_local(self, family: Family, address: int) -> bool:
        self._ask("local", family, address, lambda each: self._plain.is_local(family, each))
        return self._plain.is_local(family, address)

    def address_type(self, family: Family, address: int) -> AddressType:
        self._ask("type", family, address, lambda each: self._plain.address_type(family, each))
        return self._plain.address_type(family, address)

    def hears(self, family: Family, group: int, interface: str) -> bool:
        self._ask(("hears", interface), family, group, lambda each: self._plain.hears(family, each, interface))
        return self._plain.hears(family, group, interface)

    def interface_of(self, family: Family, address: int) -> Interface | None:
        def name(each: int) -> Name:
            found = self._plain.interface_of(family, each)
            return None if found is None else found.name

        self._ask("carrier", family, address, name)
        return self._plain.interface_of(family, address)

    def lookup(self, family: Family, address: int, asked: Question = NODE_ASKS) -> Decision | None:
        selects = [rule for rule in self.rules if rule.family is family]
        if not selects:
            self._ask(
                "route", family, address,
                lambda each: (told_of(self._plain.lookup(family, each), each), self._is_behind_bridge(family, each)),
            )  # fmt: skip
            return _to(address, self._plain.lookup(family, address))
        tables = [rule.table for rule in selects]

        def name(each: int) -> Name:
            chosen = tuple(rule.destination is None or each in rule.destination for rule in selects)
            # by the tables alone, as if each rule were the first to be asked
            return (
                chosen,
                self._is_behind_bridge(family, each),
                *(told_of(self._plain._in_table(family, table, each), each) for table in tables),
            )

        self._ask("routes", family, address, name)
        self._ask("local", family, address, lambda each: self._plain.is_local(family, each))
        self._ask(
            "rules", family, asked.source,
            lambda each: tuple(rule.source is not None and each in rule.source for rule in selects),
        )  # fmt: skip
        return _to(address, self._plain.lookup(family, address, asked))

    def _is_behind_bridge(self, family: Family, address: int) -> bool:
        """Whether an address lies in a bridge's subnet: others, to which a route leads there as well, are told from such."""
        return any(self._plain.is_neighbour(family, address, each) for each in self._bridges)

    def is_neighbour(self, family: Family, address: int, interface: str) -> bool:
        """Pods send to an address in their bridge's subnet past the node's routing (K-2.6)."""
        self._ask(
            ("neighbour", interface), family, address, lambda each: self._plain.is_neighbour(family, each, interface)
        )
        return self._plain.is_neighbour(family, address, interface)

    def in_main(self, family: Family, address: int) -> Decision | None:
        self._ask("main", family, address, lambda each: told_of(self._plain.in_main(family, each), each))
        return _to(address, self._plain.in_main(family, address))

    def lookup_strict(self, family: Family, address: int, interface: str) -> Decision | None:
        self._ask(
            ("strict", interface), family, address,
            lambda each: told_of(self._plain.lookup_strict(family, each, interface), each),
        )  # fmt: skip
        return _to(address, self._plain.lookup_strict(family, address, interface))

    def masquerade_address(self, family: Family, interface: str, next_hop: int, destination: int) -> int | None:
        if family is Family.IPV4:
            self._ask(
                ("masquerade", interface), family, next_hop,
                lambda each: self._plain.masquerade_address(family, interface, each, 0),
            )  # fmt: skip
        else:
            self._ask(
                ("masquerade", interface), family, destination,
                lambda each: self._plain.masquerade_address(family, interface, 0, each),
            )  # fmt: skip
        return self._plain.masquerade_address(family, interface, int(next_hop), int(destination))


def told_of(decision: Decision | None, address: int) -> Name:
    """What of a decision can matter: where a packet goes, not by which of several equal routes."""
    if decision is None:
        return None
    route = decision.route
    rest = None if route is None else (route.gateway, route.source, route.mtu, route.kind, route.metric)
    prefix = route.network.prefix == 0 if route is not None else False
    return decision.kind, decision.interface, rest, prefix


def _to(address: int, decision: Decision | None) -> Decision | None:
    """The decision as if it had been made for this number, not for an equal one that was asked about before."""
    if decision is None or decision.next_hop != address:
        return decision
    return decision._replace(next_hop=address)
