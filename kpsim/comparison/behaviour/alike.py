"""Which Services are alike: exchanging all that is theirs changes nothing else, on either side.

If the constants of two components are exchanged everywhere (addresses of frontends and endpoints, node ports, chains),
and rules, routes and the world are then what they were, packets of one fare as the corresponding packets of the other.
So one component of a group is compared, and what is found is carried to the others (:mod:`~kpsim.comparison.behaviour.carrying`).

Two components may be exchanged if their rules have the same shape on every node of both sides, if the world says the
same of both, and if every other constant that is compared with anything leaves their constants together: no network,
no interval, no foreign rule and no route tells one from the other.
"""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.bulk import without_collector
from kpsim.cluster import ClusterState
from kpsim.comparison.behaviour.asking import Witness
from kpsim.comparison.behaviour.components import (
    Address,
    Component,
    components,
    frontends_of,
    name_of,
    parsed,
    service_of,
)
from kpsim.comparison.behaviour.routes import MARTIAN, WatchedRouting
from kpsim.comparison.behaviour.shapes import Incomparable, Literals, Own, RulesetShapes
from kpsim.comparison.behaviour.spaces import Partition, Values, only, unite
from kpsim.comparison.behaviour.world import kind_of_reaction
from kpsim.errors import InputError
from kpsim.exchange import Reaction
from kpsim.fabric import Place, Whose
from kpsim.objects import EndpointSlice, Service
from kpsim.packet import ICMP_PROTOCOLS
from kpsim.tracing.directory import Owner
from kpsim.tracing.probes import make_packet
from kpsim.tracing.site import Site
from kpsim.wire import DEFAULT_SPORT

_LOOPBACK = (127 << 24, (128 << 24) - 1)
_RELAY_SPORT = 50000  #: of what a load balancer sends


class Member(NamedTuple):
    """A component in its group. Constants at the same places of two members correspond."""

    component: Component
    addresses: tuple[Address, ...]
    ports: tuple[int, ...]
    #: in which order each ruleset, by side, node and family, names the endpoints: their places
    order: Mapping[tuple[int, str, Family], tuple[int, ...]]


@dataclass(frozen=True)
class Alike:
    """Groups of components that are alike, each of at least two, and the addresses that node ports are dialled at."""

    groups: tuple[tuple[Member, ...], ...]
    local: Mapping[Family, Values]

    def addresses(self, family: Family) -> Values:
        """All frontends of members."""
        dialled = (address for group in self.groups for each in group for address in each.component.dialled)
        return unite(only(value) for of, value in dialled if of is family)

    def node_ports(self, protocol: str) -> Values:
        """All node ports of members."""
        dialled = (port for group in self.groups for each in group for port in each.component.node_ports)
        return unite(only(port) for of, port in dialled if of == protocol)


NONE = Alike((), {})


def alike(sites: Sequence[Site], states: Sequence[ClusterState], families: Iterable[Family], now_ns: int) -> Alike:
    """The groups of alike components of two sides. No groups if a rule computes with addresses."""
    if not any(state.services for state in states):
        return NONE
    with without_collector():
        try:
            return _Grouping(sites, states, tuple(families), now_ns).groups()
        except (Incomparable, InputError):  # an InputError is met again where packets are followed
            return NONE


class _Grouping:
    def __init__(
        self, sites: Sequence[Site], states: Sequence[ClusterState], families: tuple[Family, ...], now_ns: int
    ) -> None:
        self._sites, self._states, self._families, self._now_ns = sites, states, families, now_ns
        self._literals = Literals()
        self._local: dict[Family, set[tuple[int, int]]] = {family: set() for family in Family}
        nodes_own = self._read_machines()
        self._components = components(states, nodes_own, {port for port, _ in self._literals.ports})
        self._places: list[dict[Address, set[int]]] = []
        for site in sites:
            ports: dict[Address, set[int]] = {}
            for address, port in site.ends.places():
                ports.setdefault(address, set()).add(port)
            self._places.append(ports)
        self._read_states(nodes_own)

    def groups(self) -> Alike:
        kinds = [self._kinds(each) for each in self._components]
        members = [
            (tuple(sorted(each.addresses, key=lambda address: (of[address], address))), each.ports)
            for each, of in zip(self._components, kinds, strict=True)
        ]
        own: dict[Address | int, tuple[int, int]] = {}
        for number, (addresses, ports) in enumerate(members):
            constants: tuple[Address | int, ...] = (*addresses, *ports)
            own |= {constant: (number, place) for place, constant in enumerate(constants)}
        shapes = dict(self._shapes(own))
        spoilt = {number for of in shapes.values() for number in of.spoilt}
        atoms = {family: _told_apart(found) for family, found in self._literals.addresses.items()}
        port_atoms = _told_apart(self._literals.ports)
        found: dict[Hashable, list[Member]] = {}
        for number, component in enumerate(self._components):
            addresses, ports = members[number]
            if number in spoilt or not (component.dialled or component.node_ports):
                continue
            key = (
                tuple([
                    (family, kinds[number][family, value], (family, value) in component.dialled, atoms[family].of(value))
                    for family, value in addresses
                ]),
                tuple([port_atoms.of(port) for port in ports]),
                tuple([self._services(side, component, own) for side in range(len(self._states))]),
                tuple([of.of(number) for of in shapes.values()]),
            )  # fmt: skip
            order = {of: tuple(dict.fromkeys(each.orders.get(number, ()))) for of, each in shapes.items()}
            found.setdefault(key, []).append(Member(component, addresses, ports, order))
        local = {family: tuple(sorted(intervals)) for family, intervals in self._local.items()}
        return Alike(tuple(tuple(group) for group in found.values() if len(group) > 1), local)

    def _shapes(self, own: Own) -> Iterator[tuple[tuple[int, str, Family], RulesetShapes]]:
        services = {name: number for number, each in enumerate(self._components) for name in each.services}
        for side, site in enumerate(self._sites):
            for node in site.node_names or ("node",):
                for family in self._families:
                    told = site.netns(node, family).programmed[family]
                    yield (side, node, family), RulesetShapes(told, services, own, self._literals)

    # --- what the world tells apart ---------------------------------------------------------------------------------

    def _read_machines(self) -> set[Address]:
        """Notes what machines and their routes tell apart. The addresses that nodes have."""
        nodes_own: set[Address] = set()
        addresses = self._literals.addresses
        self._literals.ports |= {(port, port) for port in (0, DEFAULT_SPORT, _RELAY_SPORT)}
        for site in self._sites:
            nodes_own |= set(site.directory.nodes)
            for network in (*site.directory.pod_networks, *site.ends.networks()):
                addresses[network.family].add((network.base, network.last))
            for node in site.node_names or ("node",):
                machine = site.machine(node)
                for interface in machine.routing.interfaces.values():
                    nodes_own |= {(each.family, each.value) for each in interface.addresses}
                for network in machine.pod_networks:
                    addresses[network.family].add((network.base, network.last))
                self._literals.ports |= {(each.port, each.port) for each in machine.sockets or ()}
                for family in self._families:
                    addresses[family].update(MARTIAN[family])
                    addresses[family].update(WatchedRouting(machine.routing, Witness()).constants(family))
                    servers = site.ends.servers_of(node, family)
                    self._literals.ports |= {(server.port, server.port) for server in servers}
        for family, value in nodes_own:
            addresses[family].add((value, value))
            if family is not Family.IPV4 or not _LOOPBACK[0] <= value <= _LOOPBACK[1]:
                self._local[family].add((value, value))
        self._local[Family.IPV4].add(_LOOPBACK)
        return nodes_own

    def _read_states(self, nodes_own: Collection[Address]) -> None:
        """Notes the ports that Services, endpoints and pods have, but for node ports of components."""
        own = {port for each in self._components for port in each.ports}
        ports = {port.port for state in self._states for service in state.services for port in service.ports}
        ports |= {
            port.node_port for state in self._states for service in state.services for port in service.ports
        } - own
        ports |= {service.health_check_node_port for state in self._states for service in state.services}
        ports |= {port for of in self._places for found in of.values() for port in found}
        ports |= {
            port.port for state in self._states for each in state.endpoint_slices for port in each.ports
            if port.port is not None
        }  # fmt: skip
        self._literals.ports |= {(port, port) for port in ports}

    def _kinds(self, component: Component) -> dict[Address, str]:
        """What is known of each address: what it is to its Services, which node's pod has it, and how it reacts."""
        roles: dict[Address, list[str]] = {address: [] for address in component.addresses}
        for services, _ in self._by_name:
            for number, name in enumerate(component.services):
                for text, what, _ in frontends_of(services[name]) if name in services else ():
                    if (address := parsed(text)) in roles:
                        roles[address].append(f"{number} {what}")
        return {
            address: repr((
                found,
                [site.directory.pods.get(address, Owner("", "-")).node for site in self._sites],
                [self._reactions(place, address) for place in range(len(self._sites))],
            ))
            for address, found in roles.items()
        }  # fmt: skip

    def _reactions(self, side: int, address: Address) -> list[Hashable]:
        site, (family, value) = self._sites[side], address
        ports = sorted({0, *self._places[side].get(address, ())})
        found: list[Hashable] = []
        for protocol in ("tcp", "udp", "sctp", "icmp"):
            packet = make_packet(protocol, "192.0.2.1" if family is Family.IPV4 else "2001:db8::1", 1, src="")
            packet.daddr = value
            for whose in (Whose.POD, Whose.OUTSIDE):
                for port in ports if packet.protocol not in ICMP_PROTOCOLS else (0,):
                    packet.dport = port
                    node = (site.node_names or ("node",))[0]
                    reaction = site.reaction(Place(whose, node, value), packet, node, self._now_ns)
                    found.append((port, _words(reaction, value)))
        return found

    # --- Services ---------------------------------------------------------------------------------------------------

    @cached_property
    def _by_name(self) -> list[tuple[dict[str, Service], dict[str, list[EndpointSlice]]]]:
        found: list[tuple[dict[str, Service], dict[str, list[EndpointSlice]]]] = []
        for state in self._states:
            slices: dict[str, list[EndpointSlice]] = {}
            for each in state.endpoint_slices:
                slices.setdefault(service_of(each), []).append(each)
            found.append(({name_of(service): service for service in state.services}, slices))
        return found

    def _services(self, side: int, component: Component, own: Own) -> Hashable:
        """What clients dial, and which endpoints serve it. Names count only where they are equal."""
        services, slices = self._by_name[side]
        names: dict[str, int] = {"": 0}

        def number(name: str | None) -> int:
            return names.setdefault(name or "", len(names))

        def place(text: str) -> Hashable:
            address = parsed(text)
            return own[address][1] if address in own else text  # type: ignore[index]

        def of(name: str) -> Hashable:
            service = services.get(name)
            endpoints = frozenset(
                (
                    tuple([(number(port.name), port.port, port.protocol) for port in each.ports]),
                    frozenset(tuple(map(place, endpoint.addresses)) for endpoint in each.endpoints),
                )
                for each in slices.get(name, ())
            )
            if service is None:
                return endpoints
            dialled = tuple([(place(text), what) for text, what, _ in frontends_of(service)])
            ports = tuple([
                (number(port.name), port.protocol, port.port, own.get(port.node_port, (0, port.node_port))[1])
                for port in service.ports
            ])  # fmt: skip
            return dialled, ports, endpoints

        return tuple([of(name) for name in component.services])


def _words(reaction: Reaction, value: int) -> Hashable:
    return kind_of_reaction(reaction, value), getattr(reaction, "assumed", False)


def _told_apart(intervals: Collection[tuple[int, int]]) -> Partition:
    """Classes of the numbers that are in the same of some intervals."""
    turns: dict[int, list[tuple[int, int]]] = {}
    for interval in intervals:
        turns.setdefault(interval[0], []).append(interval)
        turns.setdefault(interval[1] + 1, []).append(interval)
    inside: set[tuple[int, int]] = set()
    names: dict[int, frozenset[tuple[int, int]]] = {}
    for at in sorted(turns):
        inside.symmetric_difference_update(turns[at])
        names[at] = frozenset(inside)
    return Partition(names, lambda at: names.get(at, frozenset()))
