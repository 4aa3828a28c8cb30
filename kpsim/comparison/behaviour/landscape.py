"""Which nodes of a side stand for each other: exchanging all that is theirs changes nothing for packets for no Service.

A node's *ground* is what is its alone: its addresses, its pods' networks. Addresses there have a label: what routing, the
world and rules say of them at each node, with this node and the asked node called by their places. If all nodes of a
group say the same of every label, and of all ground that is nobody's, the way of a packet for no Service depends on
labels, and on which of its nodes are the same.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.comparison.behaviour.asking import Witness
from kpsim.comparison.behaviour.noderules import NOTHING, ForServices, NodeRules, NotComparable, node_rules
from kpsim.comparison.behaviour.routes import SPECIAL, WatchedRouting, told_of
from kpsim.comparison.behaviour.spaces import Values, cuts_of, holds, lacking, meet, only, unite
from kpsim.comparison.behaviour.world import kind_of_reaction
from kpsim.fabric import Place, Whose
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.packetpath.routing import InterfaceKind, Routing
from kpsim.ruleset import TableKey
from kpsim.tracing.probes import make_packet
from kpsim.tracing.site import Site
from kpsim.wire import DEFAULT_SPORT

Label = int
_LOOPBACK: Values = ((127 << 24, (128 << 24) - 1),)
_RELAY_SPORT = 50000


@dataclass(frozen=True)
class Landscape:
    """The groups of nodes that stand for each other, with their ground."""

    groups: tuple[tuple[str, ...], ...] = ()
    ground: Mapping[str, Mapping[Label, Values]] = field(default_factory=dict)
    own: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  #: addresses at the same place correspond
    services: ForServices = NOTHING
    keyed: frozenset[str] = frozenset()  #: chains with rules for packets to frontends alone
    #: chains that are the same at all nodes of a group
    common: frozenset[tuple[TableKey, str]] = frozenset()


NO_NODES = Landscape()


def landscape(site: Site, family: Family, now_ns: int) -> Landscape:
    """The nodes of a side that stand for each other in one family."""
    if len(site.node_names) < 2:
        return NO_NODES
    try:
        return _Surveyed(site, family, now_ns).landscape()
    except NotComparable:
        return NO_NODES


class _Own(NamedTuple):
    """Stands for a constant of a node."""

    whose: str
    what: Hashable


class _Surveyed:
    def __init__(self, site: Site, family: Family, now_ns: int) -> None:
        self._site, self._family, self._now_ns = site, family, now_ns
        self._nodes = site.node_names
        self._machines = {name: site.machine(name) for name in self._nodes}
        self._routings: dict[str, Routing] = {name: site.netns(name, family).routing for name in self._nodes}
        if any(routing.rules for routing in self._routings.values()):
            raise NotComparable  # policy rules ask for more than an address
        self._packets = [make_packet(each, "::1" if family is Family.IPV6 else "127.0.0.1", 1, src="")
                         for each in ("tcp", "udp", "sctp", "icmp")]  # fmt: skip
        shared = [value for of in self._routings.values() for value in of.addresses(family)]
        self._constants: dict[str, dict[Hashable, Hashable]] = {}
        for name in self._nodes:
            own = [value for value in self._routings[name].addresses(family) if shared.count(value) == 1]
            self._constants[name] = {value: ("address", place) for place, value in enumerate(own)}
            networks = [each for each in self._machines[name].pod_networks if each.family is family]
            for place, each in enumerate(networks):
                self._constants[name].setdefault(each.base, ("network", place))
            self._constants[name][name] = "node"
        self._services = services = self._for_services()
        self._delivered, self._of_services = (
            unite([services.local, services.shared]),
            unite([services.node_ports, services.served]),
        )
        self._rules = {name: self._rules_of(name) for name in self._nodes}
        self._numbers: dict[Hashable, Label] = {}
        self._mentioned: dict[int, set[int]] = {}
        for (of, address), port in site.ends.places():
            if of is family:
                self._mentioned.setdefault(address, set()).add(port)

    def _rules_of(self, name: str) -> NodeRules:
        own = {value: what for value, what in self._constants[name].items() if isinstance(value, int)}
        return node_rules(self._site.netns(name, self._family).programmed[self._family], own, self._services)

    def _for_services(self) -> ForServices:
        family, ends = self._family, self._site.ends
        frontends = [each.address[1] for each in ends.frontends() if each.address and each.address[0] is family]
        ports = {each.port for each in ends.frontends() if each.address is None}
        servers = [sorted((each.port, str(each.address), str(each.answers.http)) for each in ends.servers_of(name, family))
                   for name in self._nodes]  # fmt: skip
        self._served = {port for of in servers for port, *_ in of}
        served = {port for of in servers for other in servers for port, *_ in set(of) ^ set(other)}
        if (ports | served) & {DEFAULT_SPORT, _RELAY_SPORT}:
            raise NotComparable
        local = [value for routing in self._routings.values() for value in routing.addresses(family)]
        local += [each[1] for each in self._site.directory.nodes if each[0] is family]
        loopback = _LOOPBACK if family is Family.IPV4 else only(1)
        everywhere = unite([loopback, *map(only, local)])
        shared = [interval for interval in SPECIAL[family] if interval[0] >> family.bits - 4 >= 0xE or not interval[1]]
        shared += [
            (address.network.last, address.network.last)
            for routing in self._routings.values()
            for each in routing.interfaces.values()
            for address in each.of(family)
        ]
        found = ForServices(
            unite(map(only, frontends)), everywhere, unite(map(only, ports)),
            lacking(unite((each,) for each in shared), everywhere), unite(map(only, served)),
        )  # fmt: skip
        if meet(found.frontends, found.local):
            raise NotComparable
        return found

    # --- what is asked about an address -----------------------------------------------------------------------------

    def _asked(self, name: str, address: int) -> Hashable:
        """All that routing, rules and the world at a node say of an address."""
        family, routing = self._family, self._routings[name]
        interfaces = list(routing.interfaces)
        decisions = [
            routing.lookup(family, address), routing.in_main(family, address),
            *(routing.lookup_strict(family, address, each) for each in interfaces),
        ]  # fmt: skip
        carrier = routing.interface_of(family, address)
        bridges = [each for each in routing.interfaces.values() if each.kind is InterfaceKind.BRIDGE]
        return (
            routing.is_local(family, address), routing.address_type(family, address),
            tuple(routing.hears(family, address, each) for each in interfaces), carrier and carrier.name,
            tuple(told_of(each, address) for each in decisions),
            any(address in each.network for bridge in bridges for each in bridge.of(family)),
            tuple(routing.masquerade_address(family, each, address, address) for each in interfaces),
            routing.source_for(family, address),
            tuple(
                (what, low <= address <= high) for what, (low, high) in self._rules[name].literals.items()
            ),
            self._placed(name, address),
        )  # fmt: skip

    def _placed(self, name: str, address: int) -> Hashable:
        """What the world at a node says of an address: whose it is, and where it is reached."""
        site, routing, packet = self._site, self._routings[name], self._packets[0]
        packet.saddr = packet.daddr = address
        origin = site.origin(packet, name)
        ways = []
        decisions = [
            routing.lookup(self._family, address),
            *(routing.lookup_strict(self._family, address, each) for each in routing.interfaces),
        ]
        for each in decisions:
            is_link = each is not None and each.interface in routing.interfaces
            if is_link and routing.interfaces[each.interface].kind is InterfaceKind.LINK:  # type: ignore[union-attr]
                ways.append((each.interface, site.next_node(packet, each.next_hop, name)))  # type: ignore[union-attr]
        outside = site.entrance(Place(Whose.OUTSIDE), packet, name)
        return origin.whose, origin.node, tuple(ways), outside, site.is_node(self._family, address)

    def _reacts(self, name: str, address: int) -> Hashable:
        """How an end with the address reacts: a pod or a process of the node, or a machine outside."""
        found: list[Hashable] = []
        mentioned = self._mentioned.get(address, set())
        for packet in self._packets:
            packet.daddr = address
            for whose in (Whose.POD, Whose.PROCESS, Whose.OUTSIDE):
                ports = mentioned
                if whose is Whose.PROCESS:
                    if not holds(self._delivered, address):
                        continue
                    ports = {each for each in mentioned | self._served if not holds(self._of_services, each)}
                end = Place(whose, name, address)
                packet.dport = 0
                usual = self._reaction(end, packet)
                found.append(usual)
                for port in sorted(ports) if packet.protocol not in ICMP_PROTOCOLS else ():
                    packet.dport = port
                    other = self._reaction(end, packet)
                    if other != usual:
                        found.append((port, other))
        return tuple(found)

    def _reaction(self, end: Place, packet: Packet) -> Hashable:
        return kind_of_reaction(self._site.reaction(end, packet, end.node, self._now_ns), packet.daddr)

    # --- groups -----------------------------------------------------------------------------------------------------

    def landscape(self) -> Landscape:
        groups = self._candidates()
        while True:
            ground, failed = self._labelled(groups)
            if not failed:
                break
            groups = [group for group in groups if group not in failed]
        if not groups:
            return NO_NODES
        return Landscape(
            tuple(groups), ground,
            {name: tuple(value for value in self._constants[name] if isinstance(value, int)) for name in ground},
            self._services, frozenset(chain for of in self._rules.values() for chain in of.keyed),
            frozenset(self._chains_in_common(groups)),
        )  # fmt: skip

    def _candidates(self) -> list[tuple[str, ...]]:
        """Nodes whose interfaces, settings and rules are equal."""
        found: list[tuple[object, list[str]]] = []
        for name in self._nodes:
            machine, routing = self._machines[name], self._routings[name]
            if machine.sockets is not None:
                continue
            own = self._constants[name]
            interfaces = [
                (each.name, each.kind, each.up, each.mtu, each.hairpin, [
                    (own.get(address.value, address.value), address.prefix) for address in each.of(self._family)
                ])
                for each in routing.interfaces.values()
            ]  # fmt: skip
            networks = [
                (own.get(each.base, each.base), each.prefix)
                for each in machine.pod_networks
                if each.family is self._family
            ]
            key = (
                machine.uplink, machine.pod_interface, machine.sysctls, routing.looks_closer, interfaces, networks,
                self._rules[name].said,
            )  # fmt: skip
            for known, names in found:
                if known == key:
                    names.append(name)
                    break
            else:
                found.append((key, [name]))
        return [tuple(names) for _, names in found if len(names) > 1]

    def _chains_in_common(self, groups: Sequence[tuple[str, ...]]) -> Iterator[tuple[TableKey, str]]:
        for at in {at for of in self._rules.values() for at in of.chains}:
            if all(
                at in self._rules[other].chains
                and self._rules[other].chains[at].rules == self._rules[group[0]].chains[at].rules
                for group in groups
                if at in self._rules[group[0]].chains
                for other in group
            ):
                yield at

    # --- labels -----------------------------------------------------------------------------------------------------

    def _labelled(
        self, groups: Sequence[tuple[str, ...]]
    ) -> tuple[dict[str, dict[Label, Values]], list[tuple[str, ...]]]:
        """The ground of the nodes of groups by labels, and the groups whose nodes do not stand for each other."""
        group_of = {name: group for group in groups for name in group}
        constants = {value for name in group_of for value in self._constants[name]}
        failed: list[tuple[str, ...]] = []
        found: dict[str, dict[Label, list[Values]]] = {name: {} for name in group_of}
        for stretch, address in self._stretches():
            owner = self._owner(address, group_of)
            label = self._label(address, owner, groups, constants, failed)
            labels: dict[Hashable, Label] = {}
            special = list[int]()
            for each in self._specials(stretch):
                nodes = self._telling(each, owner)
                says = self._world_says(each, owner, nodes)
                if says == self._world_says(address, owner, nodes):
                    continue
                special.append(each)
                if (nodes, says) not in labels:
                    labels[nodes, says] = self._label(each, owner, groups, constants, failed)
                if owner:
                    found[owner].setdefault(labels[nodes, says], []).append(only(each))
            if owner:
                rest = lacking((stretch,), unite(map(only, special)))
                found[owner].setdefault(label, []).append(rest)
        ground = {name: {label: unite(sets) for label, sets in of.items() if unite(sets)} for name, of in found.items()}
        return ground, failed

    def _telling(self, address: int, owner: str) -> tuple[str, ...]:
        """The nodes that tell what the world says of an address: of a pod that is where it should be, its own and another."""
        if owner and self._site.directory.node_of((self._family, address)) == owner:
            return owner, next(name for name in self._nodes if name != owner)
        return self._nodes

    def _world_says(self, address: int, owner: str, nodes: tuple[str, ...]) -> Hashable:
        placed = tuple([self._placed(name, address) for name in nodes])
        return placed, self._reacts(owner or self._nodes[0], address)

    def _label(
        self, address: int, owner: str, groups: Sequence[tuple[str, ...]], constants: Iterable[Hashable],
        failed: list[tuple[str, ...]],
    ) -> Label:  # fmt: skip
        """What all nodes say of an address. Groups whose nodes do not say the same are noted as ``failed``."""
        mine = {} if not owner else {value: _Own("owner", what) for value, what in self._constants[owner].items()}
        said: list[Hashable] = []
        alike = {name for group in groups for name in group}

        def of(name: str) -> Hashable:
            here = {value: _Own("asked", what) for value, what in self._constants[name].items()}
            return _renamed((self._asked(name, address), self._reacts(name, address)), {**here, **mine})

        for group in groups:
            others = {name: of(name) for name in group if name != owner}
            if len(set(others.values())) > 1 or any(_mentions(each, constants) for each in others.values()):
                failed.append(group)
            said.append(next(iter(others.values()), None))
        if owner:
            said.append(of(owner))
            if _mentions(said[-1], constants):
                failed.append(next(group for group in groups if owner in group))
        for name in self._nodes:
            if name not in alike:
                said.append((name, _renamed((self._asked(name, address), self._reacts(name, address)), mine)))
                if _mentions(said[-1], constants):
                    failed.extend(group for group in groups if group not in failed)
        key = tuple(said)
        return self._numbers.setdefault(key, len(self._numbers))

    def _owner(self, address: int, group_of: Mapping[str, object]) -> str:
        """The node whose ground an address is; empty: nobody's, or that of a node that stands alone."""
        at = self._family, address
        owners = {
            name
            for name in group_of
            if address in self._constants[name]
            or any(each.family is self._family and address in each for each in self._machines[name].pod_networks)
        }
        if (node := self._site.directory.node_of(at)) in group_of:
            owners.add(node)
        if self._family is Family.IPV6 and address >> 120 == 0xFF:
            hearing = {
                name
                for name in group_of
                if any(
                    self._routings[name].hears(self._family, address, each) for each in self._routings[name].interfaces
                )
            }
            owners |= hearing if len(hearing) == 1 else set()
        return owners.pop() if len(owners) == 1 else ""

    def _stretches(self) -> Iterator[tuple[tuple[int, int], int]]:
        """Stretches of addresses in which routes and rules tell none from another, each with a usual address."""
        family = self._family
        intervals = list(SPECIAL[family])
        for name in self._nodes:
            intervals += WatchedRouting(self._routings[name], Witness()).constants(family)
            intervals += [(each.base, each.last) for each in self._machines[name].pod_networks if each.family is family]
            intervals += self._rules[name].literals.values()
        directory = self._site.directory
        networks = [*directory.pod_networks, *self._site.ends.networks()]
        intervals += [(each.base, each.last) for each in networks if each.family is family]
        intervals += [(value, value) for of, value in directory.nodes if of is family]
        cuts = sorted({0, *cuts_of(intervals), 1 << family.bits})
        self._every = sorted(self._all_specials())
        for low, after in pairwise(cuts):
            if after <= 1 << family.bits:
                yield (low, after - 1), self._usual(low, after - 1)

    def _all_specials(self) -> set[int]:
        found = {value for family, value in self._site.directory.pods if family is self._family}
        return {each for each in found | set(self._mentioned) if not holds(self._services.frontends, each)}

    def _specials(self, stretch: tuple[int, int]) -> list[int]:
        low, high = stretch
        return self._every[bisect_left(self._every, low) : bisect_right(self._every, high)]

    def _usual(self, low: int, high: int) -> int:
        """An address of a stretch of which nothing is known, if there is one."""
        known = unite([unite(map(only, self._specials((low, high)))), self._services.frontends])
        free = lacking(((low, high),), known)
        return free[0][0] if free else low


def _renamed(value: Hashable, names: Mapping[Hashable, Hashable]) -> Hashable:
    """A value in which constants are replaced by their places."""
    if isinstance(value, tuple):
        return tuple([_renamed(each, names) for each in value])
    if isinstance(value, int | str) and not isinstance(value, bool) and value in names:
        return names[value]
    return value


def _mentions(value: Hashable, constants: Iterable[Hashable]) -> bool:
    """Whether a constant is left in a value."""
    if isinstance(value, tuple):
        return any(_mentions(each, constants) for each in value)
    return isinstance(value, int | str) and not isinstance(value, bool) and value in constants
