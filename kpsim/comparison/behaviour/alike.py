"""Which Services are alike: exchanging all that is theirs changes nothing else, on either side.

If the constants of two components are exchanged everywhere (addresses of frontends and endpoints, node ports, chains),
and rules, routes and the world are then what they were, packets of one fare as the corresponding packets of the other.
So one component of a group is compared, and what is found is carried to the others (:mod:`~kpsim.comparison.behaviour.carrying`).

Two components may be exchanged if their rules have the same shape on every node of both sides, if the world says the
same of both, and if every other constant that is compared with anything leaves their constants together: no network,
no interval, no foreign rule and no route tells one from the other.

Two endpoints of a component may be exchanged in the same way: they are of one kind. Components whose rules are alike but
for their endpoints are akin. Each endpoint is drawn with the same probability as the others, so what becomes of packets
of one follows from what becomes of packets to an endpoint of each kind (:mod:`~kpsim.comparison.behaviour.composing`).
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
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
from kpsim.comparison.behaviour.holes import Incomparable, Literals, Own
from kpsim.comparison.behaviour.routes import MARTIAN, WatchedRouting
from kpsim.comparison.behaviour.shapes import RulesetShapes
from kpsim.comparison.behaviour.spaces import Partition, Values, only, unite
from kpsim.comparison.behaviour.world import kind_of_reaction
from kpsim.errors import InputError
from kpsim.exchange import Reaction
from kpsim.fabric import Place, Whose
from kpsim.objects import EndpointSlice, Service
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.tracing.directory import Owner
from kpsim.tracing.listening import Server
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
    #: in which order each ruleset, by side, node and family, names the endpoints: their places. None: not in one
    order: Mapping[tuple[int, str, Family], tuple[int, ...] | None]
    #: of each address the kind of endpoint that it is; −1: it is more than an endpoint, or not to be exchanged with others
    kinds: tuple[int, ...] = ()

    def exchanged(self, one: int, other: int) -> "Member":
        """The component with two endpoints of one kind at each other's place."""
        if one == other:
            return self
        places = {one: other, other: one}
        return self._replace(
            addresses=tuple([self.addresses[places.get(place, place)] for place in range(len(self.addresses))]),
            order={
                at: None if order is None else tuple([places.get(place, place) for place in order])
                for at, order in self.order.items()
            },
        )

    def has_order_of(self, other: "Member") -> bool:
        """Whether rules name the endpoints of both in the same order."""
        return self is other or (self.order == other.order and None not in self.order.values())

    @property
    def without_endpoints(self) -> "Member":
        """Only what akin components have in common."""
        return self._replace(
            addresses=tuple([each for each, kind in zip(self.addresses, self.kinds, strict=True) if kind < 0]),
            order={}, kinds=(),
        )  # fmt: skip


class Kin(NamedTuple):
    """Groups of components that are alike. The components of different groups differ in their endpoints alone."""

    groups: tuple[tuple[Member, ...], ...]
    composed: bool  #: what becomes of their packets follows from what becomes of packets to each kind of endpoint


@dataclass(frozen=True)
class Alike:
    """Groups of components that are alike, and the addresses that node ports are dialled at."""

    kin: tuple[Kin, ...]
    local: Mapping[Family, Values]

    @property
    def groups(self) -> tuple[tuple[Member, ...], ...]:
        return tuple(group for kin in self.kin for group in kin.groups)

    def addresses(self, family: Family) -> Values:
        """All frontends of members."""
        dialled = (address for group in self.groups for each in group for address in each.component.dialled)
        return unite(only(value) for of, value in dialled if of is family)

    def node_ports(self, protocol: str) -> Values:
        """All node ports of members."""
        dialled = (port for group in self.groups for each in group for port in each.component.node_ports)
        return unite(only(port) for of, port in dialled if of == protocol)


NONE = Alike((), {})


def alike(
    sites: Sequence[Site],
    states: Sequence[ClusterState],
    families: Iterable[Family],
    now_ns: int,
    *,
    served: bool = True,
) -> Alike:
    """The groups of alike components of all sides together. No groups if a rule computes with addresses.

    ``served`` False: no groups either if ip_vs serves on a node.
    """
    if not any(state.services for state in states):
        return NONE
    with without_collector():
        try:
            return _Grouping(sites, states, tuple(families), now_ns, served=served).groups()
        except (Incomparable, InputError):  # an InputError is met again where packets are followed
            return NONE


class _Grouping:
    def __init__(
        self, sites: Sequence[Site], states: Sequence[ClusterState], families: tuple[Family, ...], now_ns: int,
        *, served: bool,
    ) -> None:  # fmt: skip
        self._served = served
        self._sites, self._states, self._families, self._now_ns = sites, states, families, now_ns
        self._literals = Literals()
        self._local: dict[Family, set[tuple[int, int]]] = {family: set() for family in Family}
        #: what answers at the port of a Service's health check: on which nodes, and how
        self._checks: dict[int, list[Hashable]] = {}
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
            (tuple(sorted(each.addresses, key=lambda at: (at not in each.dialled, of[at], at))), each.ports)
            for each, of in zip(self._components, kinds, strict=True)
        ]
        own: dict[Address | int, tuple[int, int]] = {}
        for number, (addresses, ports) in enumerate(members):
            own |= {address: (number, place) for place, address in enumerate(addresses)}
            own |= {port: (number, -1 - place) for place, port in enumerate(ports)}  # however many addresses there are
        shapes = dict(self._shapes(own, [
            range(len(each.dialled), len(addresses))
            for each, (addresses, _) in zip(self._components, members, strict=True)
        ]))  # fmt: skip
        spoilt = {number for of in shapes.values() for number in of.spoilt}
        rigid = {number for of in shapes.values() for number in of.rigid}
        atoms = {family: _told_apart(found) for family, found in self._literals.addresses.items()}
        port_atoms = _told_apart(self._literals.ports)
        found: dict[Hashable, dict[Hashable, list[Member]]] = {}
        numbers: dict[Hashable, int] = {}
        for number, component in enumerate(self._components):
            addresses, ports = members[number]
            if number in spoilt or not (component.dialled or component.node_ports):
                continue
            of_address = [
                (family, kinds[number][family, value], atoms[family].of(value)) for family, value in addresses
            ]
            fixed = len(addresses) if number in rigid else len(component.dialled)
            services = [self._services(side, component, own, fixed) for side in range(len(self._states))]
            key = (
                len(component.dialled), tuple(of_address[:fixed]), number in rigid,
                tuple([(port_atoms.of(port), tuple(self._checks.get(port, ()))) for port in ports]),
                tuple([of for of, _ in services]),
                tuple([of.of(number, without_endpoints=number not in rigid) for of in shapes.values()]),
            )  # fmt: skip
            said = [of.of_endpoints(number) for of in shapes.values()]
            of_endpoints = [
                numbers.setdefault(
                    (
                        of_address[place], tuple([of.get(addresses[place]) for _, of in services]),
                        tuple([of.get(place) for of in said]),
                    ),
                    len(numbers),
                )
                for place in range(fixed, len(addresses))
            ]  # fmt: skip
            places = [
                *range(fixed),
                *sorted(range(fixed, len(addresses)), key=lambda at: (of_endpoints[at - fixed], at)),
            ]
            now = {place: at for at, place in enumerate(places)}
            kinds_now = (*[-1] * fixed, *sorted(of_endpoints))
            orders = {of: each.order(number) for of, each in shapes.items()}
            order = {of: None if each is None else tuple([now[place] for place in each]) for of, each in orders.items()}
            member = Member(component, tuple([addresses[place] for place in places]), ports, order, kinds_now)
            found.setdefault(key, {}).setdefault(kinds_now, []).append(member)
        kin = [
            Kin(tuple(map(tuple, of.values())), any(kind >= 0 for group in of for kind in group))  # type: ignore[attr-defined]
            for of in found.values()
        ]
        local = {family: tuple(sorted(intervals)) for family, intervals in self._local.items()}
        return Alike(tuple(each for each in kin if each.composed or len(each.groups[0]) > 1), local)

    def _shapes(
        self, own: Own, endpoints: Sequence[Collection[int]]
    ) -> Iterator[tuple[tuple[int, str, Family], RulesetShapes]]:
        services = {name: number for number, each in enumerate(self._components) for name in each.services}
        for side, site in enumerate(self._sites):
            for node in site.node_names or ("node",):
                for family in self._families:
                    told = site.netns(node, family).programmed[family]
                    if not self._served and (told.ipsets or told.virtual_servers or told.local_addresses):
                        raise Incomparable
                    yield (side, node, family), RulesetShapes(told, services, own, self._literals, endpoints)

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
                    self._read_servers(node, family, site.ends.servers_of(node, family))
        for family, value in nodes_own:
            addresses[family].add((value, value))
            if family is not Family.IPV4 or not _LOOPBACK[0] <= value <= _LOOPBACK[1]:
                self._local[family].add((value, value))
        self._local[Family.IPV4].add(_LOOPBACK)
        return nodes_own

    def _read_servers(self, node: str, family: Family, servers: Sequence[Server]) -> None:
        """Notes who listens on a node: the health check of one Service, or a process that belongs to no Service."""
        checked = {service.health_check_node_port for state in self._states for service in state.services}
        found = Counter(server.port for server in servers)
        for server in servers:
            if server.port in checked and found[server.port] == 1:
                status = None if server.answers.http is None else server.answers.http.status
                self._checks.setdefault(server.port, []).append((node, family, server.address, status))
            else:
                self._literals.ports.add((server.port, server.port))

    def _read_states(self, nodes_own: Collection[Address]) -> None:
        """Notes the ports that Services, endpoints and pods have, but for node ports of components."""
        own = {port for each in self._components for port in each.ports}
        ports = {port.port for state in self._states for service in state.services for port in service.ports}
        ports |= {
            port.node_port for state in self._states for service in state.services for port in service.ports
        } - own
        ports |= {service.health_check_node_port for state in self._states for service in state.services} - own
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
        node = (site.node_names or ("node",))[0]
        ports = sorted({0, *self._places[side].get(address, ())})
        found: list[Hashable] = []
        for packet in self._packets(family):
            packet.daddr = value
            for whose in (Whose.POD, Whose.OUTSIDE):
                end = Place(whose, node, value)
                for port in ports if packet.protocol not in ICMP_PROTOCOLS else (0,):
                    packet.dport = port
                    found.append((port, _words(site.reaction(end, packet, node, self._now_ns), value)))
        return found

    @cache  # noqa: B019
    def _packets(self, family: Family) -> list[Packet]:
        """A packet of each protocol, whose destination is put in."""
        source = "192.0.2.1" if family is Family.IPV4 else "2001:db8::1"
        return [make_packet(protocol, source, 1, src="") for protocol in ("tcp", "udp", "sctp", "icmp")]

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

    def _services(
        self, side: int, component: Component, own: Own, fixed: int
    ) -> tuple[Hashable, Mapping[Address, Hashable]]:
        """What clients dial, and which endpoints serve it. Names count only where they are equal.

        Endpoints of places from ``fixed`` on stand apart: of each which Services it serves, and at which ports.
        """
        services, slices = self._by_name[side]
        names: dict[str, int] = {"": 0}
        serving: dict[Address, set[Hashable]] = {}

        def number(name: str | None) -> int:
            return names.setdefault(name or "", len(names))

        def place(text: str) -> Hashable:
            address = parsed(text)
            return own[address][1] if address in own else text  # type: ignore[index]

        def of_slice(service: int, each: EndpointSlice) -> Hashable:
            ports = tuple([(number(port.name), port.port, port.protocol) for port in each.ports])
            common: set[Hashable] = set()
            for endpoint in each.endpoints:
                for at, text in enumerate(endpoint.addresses):
                    address = parsed(text)
                    if address in own and own[address][1] >= fixed:  # type: ignore[index]
                        serving.setdefault(address, set()).add((service, ports, at))  # type: ignore[arg-type]
                    else:
                        common.add((place(text), at))
            return ports, frozenset(common)

        def of(service_number: int, name: str) -> Hashable:
            service = services.get(name)
            endpoints = frozenset([of_slice(service_number, each) for each in slices.get(name, ())])
            if service is None:
                return endpoints
            dialled = tuple([(place(text), what) for text, what, _ in frontends_of(service)])
            ports = tuple([
                (number(port.name), port.protocol, port.port, own.get(port.node_port, (0, port.node_port))[1])
                for port in service.ports
            ])  # fmt: skip
            check = own.get(service.health_check_node_port, (0, service.health_check_node_port))[1]
            return dialled, ports, check, endpoints

        found = tuple([of(*each) for each in enumerate(component.services)])
        return found, {address: frozenset(of) for address, of in serving.items()}


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
