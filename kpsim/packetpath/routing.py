"""Interfaces, addresses and routes of one node: where a packet goes and whose address it carries.

Counterpart: fib_trie, fib_rules and addrconf. Without policy rules only the tables ``local`` and ``main`` are asked.
:class:`Routing` is a value: to change a node, give it a new one. ``fabric`` knows which machines are behind an
interface.
"""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from kpsim.addresses import Family, Network, format_ip, parse_cidr, parse_ip
from kpsim.errors import InputError, Problem
from kpsim.maps import Map
from kpsim.valueclass import dataclass

LOOPBACK4 = Network(Family.IPV4, 127 << 24, 8)
LOOPBACK6 = Network(Family.IPV6, 1, 128)
_MULTICAST = {Family.IPV4: Network(Family.IPV4, 0xE0 << 24, 4), Family.IPV6: Network(Family.IPV6, 0xFF << 120, 8)}
_LIMITED_BROADCAST = 0xFFFFFFFF
_LINK_LOCAL6 = Network(Family.IPV6, 0xFE80 << 112, 10)
_UNIQUE_LOCAL6 = Network(Family.IPV6, 0xFC << 120, 7)
_ALL_HOSTS = 0xE0000001  # 224.0.0.1
_ALL_NODES_AND_ROUTERS = frozenset({0xFF02 << 112 | 1, 0xFF02 << 112 | 2})
_SOLICITED = 0xFF02 << 112 | 0x1_FF00_0000  # ff02::1:ff00:0/104
_CACHE_SIZE = 1 << 16
_NO_ADDRESSES: Map[int, str] = Map()


class AddressType(enum.StrEnum):
    """The type of an address as the local table alone gives it (K-7.4), in the spelling of ``--dst-type``."""

    LOCAL = "LOCAL"
    BROADCAST = "BROADCAST"
    MULTICAST = "MULTICAST"
    UNICAST = "UNICAST"


class InterfaceKind(enum.StrEnum):
    """What an interface is."""

    LOOPBACK = "loopback"
    LINK = "link"  #: other machines are behind it
    BRIDGE = "bridge"  #: this node's pods are behind it, one port each
    VETH = "veth"  #: this node's pods are behind it, routed one by one
    DUMMY = "dummy"  #: nothing is behind it (kube-ipvs0)


class OwnAddress(NamedTuple):
    """An interface's address. The first of a subnet is its primary one."""

    family: Family
    value: int
    prefix: int

    @property
    def network(self) -> Network:
        return Network.around(self.family, self.value, self.prefix)

    def __str__(self) -> str:
        return f"{format_ip(self.family, self.value)}/{self.prefix}"

    @classmethod
    def parse(cls, text: str) -> "OwnAddress":
        """Reads ``192.168.0.1/24``. Without a prefix length it is a host address. InputError for anything else."""
        if parsed := parse_cidr(text):
            return cls(parsed[0].family, parsed[1], parsed[0].prefix)
        if host := parse_ip(text):
            return cls(host[0], host[1], host[0].bits)
        raise InputError(Problem(f"not an address with prefix length: {text!r}"))


@dataclass(frozen=True, slots=True)
class Interface:
    """A network device of the node."""

    name: str
    addresses: tuple[OwnAddress, ...] = ()
    kind: InterfaceKind = InterfaceKind.LINK
    up: bool = True
    hairpin: bool = True  #: of a bridge: a packet may leave by the port that it came in by (K-2.6)
    mtu: int = 0  #: bytes of the largest packet that it takes; 0: any

    @property
    def has_pods(self) -> bool:
        """Whether this node's pods are behind it."""
        return self.kind in (InterfaceKind.BRIDGE, InterfaceKind.VETH)

    def of(self, family: Family) -> tuple[OwnAddress, ...]:
        return tuple(address for address in self.addresses if address.family is family)


class RouteKind(enum.StrEnum):
    """What a route does with packets. LOCAL routes follow from addresses; others may be given too."""

    UNICAST = "unicast"
    LOCAL = "local"
    BLACKHOLE = "blackhole"
    UNREACHABLE = "unreachable"
    PROHIBIT = "prohibit"
    THROW = "throw"  #: this table has no route: the next policy rule is asked


LOCAL_TABLE, MAIN_TABLE, DEFAULT_TABLE = 255, 254, 253


@dataclass(frozen=True, slots=True)
class Route:
    """A route.

    Connected routes are made from addresses. With ``gateway`` None the destination itself is on the link.
    """

    network: Network
    interface: str = ""
    gateway: int | None = None
    kind: RouteKind = RouteKind.UNICAST
    metric: int = 0
    source: int | None = None  #: preferred source address
    table: int = MAIN_TABLE
    mtu: int = 0  #: bytes of the largest packet; 0: that of the interface

    def __str__(self) -> str:
        table = "" if self.table == MAIN_TABLE else f" table {self.table}"
        if self.kind is not RouteKind.UNICAST:
            return f"{self.kind} {self.network}{table}"
        via = "" if self.gateway is None else f" via {format_ip(self.network.family, self.gateway)}"
        return f"{self.network}{via} dev {self.interface}{table}"


class Question(NamedTuple):
    """What routing is asked about besides the destination. Only policy rules look at it."""

    source: int = 0  #: 0: not chosen yet
    mark: int = 0
    interface: str = "lo"  #: by which the packet came in; ``lo``: the node itself asks


NODE_ASKS = Question()


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """A rule of ``ip rule``: for which packets a table is asked, or what becomes of them.

    ``kind`` UNICAST asks ``table``; BLACKHOLE, UNREACHABLE and PROHIBIT refuse. A network or a name that is None or
    empty selects every packet.
    """

    family: Family
    priority: int
    table: int = MAIN_TABLE
    kind: RouteKind = RouteKind.UNICAST
    source: Network | None = None
    destination: Network | None = None
    interface: str = ""
    mark: int = 0
    mask: int = 0  #: 0: any mark
    invert: bool = False
    shortest: int = -1  #: a route whose prefix is not longer does not count (``suppress_prefixlength``)

    def selects(self, address: int, asked: Question) -> bool:
        """Whether the rule holds for a packet to this destination."""
        holds = (
            (self.source is None or asked.source in self.source)
            and (self.destination is None or address in self.destination)
            and self.interface in ("", asked.interface)
            and asked.mark & self.mask == self.mark & self.mask
        )
        return holds != self.invert


class Decision(NamedTuple):
    """What routing decided for one destination. ``next_hop`` is the address that the packet is sent to on the link."""

    kind: RouteKind
    interface: str
    next_hop: int
    source: int | None  #: the route's preferred source
    route: Route | None  #: None for local destinations


class Routing:
    """A node's addresses, routes and policy rules, immutable.

    Rules are asked by priority, and in a table the longest prefix wins, then the lowest metric. A family without
    ``rules`` has those that Linux begins with: tables ``local``, ``main`` and ``default``.
    """

    def __init__(
        self, interfaces: Iterable[Interface], routes: Iterable[Route] = (), rules: Iterable[PolicyRule] = ()
    ) -> None:
        self.rules = tuple(sorted(rules, key=lambda rule: rule.priority))  # of equal priorities the first given wins
        self._policy = {family: [rule for rule in self.rules if rule.family is family] for family in Family}
        self.interfaces = {interface.name: interface for interface in interfaces}
        self.routes = tuple(routes)
        for route in self.routes:
            if route.kind is RouteKind.UNICAST and route.interface not in self.interfaces:
                raise InputError(Problem(f"route {route}: no such interface"))
        self._local: dict[tuple[Family, int], str] = {}
        self._extra: Mapping[Family, Map[int, str]] = {}
        self._local_networks = tuple(route.network for route in self.routes if route.kind is RouteKind.LOCAL)
        self._broadcast: set[int] = {_LIMITED_BROADCAST}
        self._by_prefix: dict[tuple[Family, int], dict[int, dict[int, list[Route]]]] = {
            (family, MAIN_TABLE): {} for family in Family
        }
        self._decisions: dict[tuple[Family, int], Decision | None] = {}
        self._masquerades: dict[tuple[Family, str, int, int], int | None] = {}
        self._types4: dict[int, AddressType] = {}
        self._types6: dict[int, AddressType] = {}
        for interface in self.interfaces.values():
            self._add_addresses(interface)
        for route in self.routes:
            if route.kind is RouteKind.LOCAL:
                continue  # asked before all other routes, as those that follow from addresses
            if route.kind is not RouteKind.UNICAST or self.interfaces[route.interface].up:
                self._add_route(route)
        for by_base in self._by_prefix.values():
            for alternatives in (routes for bases in by_base.values() for routes in bases.values()):
                alternatives.sort(key=lambda route: route.metric)  # stable: of equal metrics the first one given wins
        self._prefixes = {
            table: [(table[0].mask(p), bases) for p, bases in sorted(by_prefix.items(), reverse=True)]
            for table, by_prefix in self._by_prefix.items()
        }

    def with_local(self, addresses: Mapping[Family, Map[int, str]]) -> "Routing":
        """The same node when these are all addresses of devices that only make them local, as ``kube-ipvs0`` does.

        ``addresses`` gives each one's device. No route follows from them. What the node sends there has the address
        itself as its source, and what comes in from outside with such a source is a martian (IPVS-3.5, K-7.3).
        """
        other: Routing = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._extra = {family: extra for family, extra in addresses.items() if extra}
        other._decisions, other._masquerades, other._types4, other._types6 = {}, {}, {}, {}
        return other

    def only_local(self, family: Family) -> Map[int, str]:
        """The addresses of devices that only make them local, each with its device."""
        return self._extra.get(family, Map())

    def with_routes(self, *routes: Route) -> "Routing":
        """The same node with more routes."""
        return Routing(self.interfaces.values(), (*self.routes, *routes), self.rules).with_local(self._extra)

    def without(self, name: str) -> "Routing":
        """The same node with this interface down. KeyError if there is no such interface.

        The interface loses its routes and its IPv6 addresses; its IPv4 addresses stay local (K-1.9).
        """
        kept = self.interfaces[name].of(Family.IPV4)
        changed = self.interfaces | {name: replace(self.interfaces[name], addresses=kept, up=False)}
        return Routing(changed.values(), self.routes, self.rules).with_local(self._extra)

    def without_address(self, name: str, address: OwnAddress) -> "Routing":
        """The same node when an interface has lost an address. KeyError if there is no such interface.

        With its last IPv4 address an interface loses all its IPv4 routes (K-1.9).
        """
        kept = tuple(other for other in self.interfaces[name].addresses if other != address)
        changed = self.interfaces | {name: replace(self.interfaces[name], addresses=kept)}
        disabled = address.family is Family.IPV4 and not changed[name].of(Family.IPV4)
        routes = (r for r in self.routes if not (disabled and r.interface == name and r.network.family is Family.IPV4))
        return Routing(changed.values(), routes, self.rules).with_local(self._extra)

    def _add_addresses(self, interface: Interface) -> None:
        for address in interface.addresses:
            self._local.setdefault((address.family, address.value), interface.name)
            if not interface.up or interface.kind is InterfaceKind.LOOPBACK or address.prefix == address.family.bits:
                continue
            self._add_route(Route(address.network, interface.name))
            if address.family is Family.IPV4 and address.prefix < 31:
                self._broadcast.add(address.network.last)

    def _add_route(self, route: Route) -> None:
        table = self._by_prefix.setdefault((route.network.family, route.table), {})
        by_base = table.setdefault(route.network.prefix, {})
        by_base.setdefault(route.network.base, []).append(route)

    # --- what kind of address --------------------------------------------------------------------------------------

    def is_local(self, family: Family, address: int) -> bool:
        """Whether the node has this address, on any interface, up or down."""
        if (family, address) in self._local or address in self._extra.get(family, ()):
            return True
        if self._local_networks and any(n.family is family and address in n for n in self._local_networks):
            return True
        return address in LOOPBACK4 if family is Family.IPV4 else address == 1

    def asked_marks(self, family: Family) -> int:
        """The bits of a packet's mark that policy rules ask for."""
        bits = 0
        for rule in self._policy[family]:
            bits |= rule.mask
        return bits

    @property
    def looks_closer(self) -> bool:
        """Whether Linux checks sources of IPv4 more closely (K-7.3).

        It does so if somebody added routes of type local, or policy rules.
        """
        return bool(self._local_networks) or bool(self._policy[Family.IPV4])

    def address_type(self, family: Family, address: int) -> AddressType:
        """The type by the local table. An address behind a blackhole or unreachable route is UNICAST (K-7.4)."""
        known = self._types4 if family is Family.IPV4 else self._types6
        found = known.get(address)
        if found is None:
            if len(known) >= _CACHE_SIZE:
                known.clear()
            found = known[address] = self._type_of(family, address)
        return found

    def _type_of(self, family: Family, address: int) -> AddressType:
        if self.is_local(family, address):
            return AddressType.LOCAL
        if address in _MULTICAST[family]:
            return AddressType.MULTICAST
        if family is Family.IPV4 and (address in self._broadcast or not address):
            return AddressType.BROADCAST  # of 0/8 only 0.0.0.0 (K-7.3)
        return AddressType.UNICAST

    def hears(self, family: Family, group: int, interface: str) -> bool:
        """Whether the kernel itself has joined a multicast group at an interface (K-7.8).

        IPv4: all hosts. IPv6: all nodes, all routers, and the groups by which neighbours look for the interface's
        addresses.
        """
        if family is Family.IPV4:
            return group == _ALL_HOSTS
        if group in _ALL_NODES_AND_ROUTERS:
            return True
        own = self.interfaces[interface].of(family) if interface in self.interfaces else ()
        return any(group == _SOLICITED | address.value & 0xFFFFFF for address in own)

    def addresses(self, family: Family) -> tuple[int, ...]:
        """All of the node's addresses, interface by interface."""
        return tuple(a.value for interface in self.interfaces.values() for a in interface.of(family))

    def interface_of(self, family: Family, address: int) -> Interface | None:
        """The interface that has this address; None: no interface has it."""
        name = self._local.get((family, address))
        if name is not None:
            return self.interfaces[name]
        extra = self._extra.get(family, _NO_ADDRESSES).get(address)
        return (
            None if extra is None else self.interfaces.get(extra, Interface(extra, kind=InterfaceKind.DUMMY, up=False))
        )

    def is_neighbour(self, family: Family, address: int, interface: str) -> bool:
        """Whether an address lies in a subnet of an interface, so that those behind it send there directly."""
        return any(address in each.network for each in self.interfaces[interface].of(family))

    # --- where to ----------------------------------------------------------------------------------------------------

    def lookup(self, family: Family, address: int, asked: Question = NODE_ASKS) -> Decision | None:
        """Where a packet to this address goes; None: there is no route."""
        if self._policy[family]:
            return self._by_policy(family, address, asked)
        key = (family, address)
        if key in self._decisions:
            return self._decisions[key]
        decision = self.in_main(family, address)
        if len(self._decisions) >= _CACHE_SIZE:
            self._decisions.clear()
        self._decisions[key] = decision
        return decision

    def in_main(self, family: Family, address: int) -> Decision | None:
        """As :meth:`lookup`, but without policy rules: what the tables ``local`` and ``main`` say."""
        return self._at_home(family, address) or self._in_table(family, MAIN_TABLE, address)

    def _at_home(self, family: Family, address: int) -> Decision | None:
        return Decision(RouteKind.LOCAL, "lo", address, None, None) if self.is_local(family, address) else None

    def _in_table(self, family: Family, table: int, address: int) -> Decision | None:
        for mask, bases in self._prefixes.get((family, table), ()):
            if routes := bases.get(address & mask):
                route = routes[0]
                next_hop = address if route.gateway is None else route.gateway
                return Decision(route.kind, route.interface, next_hop, route.source, route)
        return None

    def _by_policy(self, family: Family, address: int, asked: Question) -> Decision | None:
        """Asks the policy rules by priority. The first that refuses, or whose table has a route, decides."""
        for rule in self._policy[family]:
            if not rule.selects(address, asked):
                continue
            if rule.kind is not RouteKind.UNICAST:
                return Decision(rule.kind, "", address, None, None)
            local = rule.table == LOCAL_TABLE
            found = self._at_home(family, address) if local else self._in_table(family, rule.table, address)
            if found is None or found.kind is RouteKind.THROW:
                continue
            refuses = found.kind is not RouteKind.UNICAST  # such a route always counts
            if not refuses and found.route is not None and found.route.network.prefix <= rule.shortest:
                continue
            return found
        return None

    def lookup_strict(self, family: Family, address: int, interface: str) -> Decision | None:
        """As :meth:`lookup`, but only among the unicast routes of one interface, in the table ``main``."""
        for mask, bases in self._prefixes[family, MAIN_TABLE]:
            for route in bases.get(address & mask, ()):
                if route.interface == interface and route.kind is RouteKind.UNICAST:
                    next_hop = address if route.gateway is None else route.gateway
                    return Decision(route.kind, interface, next_hop, route.source, route)
        return None

    def way_back(self, family: Family, address: int, asked: Question = NODE_ASKS) -> Decision | None:
        """As :meth:`lookup`, for a source. A source of the node itself leads to the interface that has it (K-7.3)."""
        back = self.lookup(family, address, asked)
        carrier = self.interface_of(family, address)
        return back if back is None or carrier is None else back._replace(interface=carrier.name)

    def device_mtu(self, decision: Decision) -> int:
        """The length of the largest packet that the output interface takes; 0: any."""
        interface = self.interfaces.get(decision.interface)
        return interface.mtu if interface is not None else 0

    def route_mtu(self, decision: Decision) -> int:
        """The length of the largest packet that a route takes, or else its interface; 0: any."""
        return (decision.route.mtu if decision.route is not None else 0) or self.device_mtu(decision)

    # --- whose address -----------------------------------------------------------------------------------------------

    def source_for(self, family: Family, destination: int, asked: Question = NODE_ASKS) -> int | None:
        """The source address of a local process that bound none (K-2.1); None if there is no route or no address."""
        decision = self.lookup(family, destination, asked)
        if decision is None:
            return None
        if decision.kind is RouteKind.LOCAL:
            return destination  # what the node sends to itself has the same source and destination, also for 127.0.0.1
        if decision.kind is not RouteKind.UNICAST:
            return None
        if decision.source is not None:
            return decision.source
        return self.masquerade_address(family, decision.interface, decision.next_hop, destination)

    def masquerade_address(self, family: Family, interface: str, next_hop: int, destination: int) -> int | None:
        """The source address that a masquerade over an interface uses (K-2.2); None: there is none.

        A route's preferred source is ignored.
        """
        key = (family, interface, next_hop, destination if family is Family.IPV6 else 0)
        if key not in self._masquerades:
            if len(self._masquerades) >= _CACHE_SIZE:
                self._masquerades.clear()
            select = self._select6 if family is Family.IPV6 else self._select4
            self._masquerades[key] = select(interface, destination if family is Family.IPV6 else next_hop)
        return self._masquerades[key]

    def _select4(self, interface: str, next_hop: int) -> int | None:
        # 127.0.0.1 has scope host: it is never chosen as a source here, not even by a masquerade over lo
        own = [a for a in self.interfaces[interface].of(Family.IPV4) if a.value not in LOOPBACK4]
        for address in own:
            if next_hop in address.network:
                return address.value
        if own:
            return own[0].value
        # a device without address: a global-scope address of lo, else the first device's
        loopback_first = sorted(self.interfaces.values(), key=lambda other: other.kind is not InterfaceKind.LOOPBACK)
        others = (a.value for other in loopback_first for a in other.of(Family.IPV4) if a.value not in LOOPBACK4)
        return next(others, None)

    def _select6(self, interface: str, destination: int) -> int | None:
        """The IPv6 source address for a destination (K-2.2; the order was measured with ip6tables MASQUERADE).

        Addresses of the outgoing interface come first, then addresses of the destination's kind (global or unique
        local), then the longest common prefix. So a unique-local endpoint gets a bridge's unique-local address when the
        outgoing interface has only a link-local one.

        Addresses of kube-ipvs0 count too, although the device is down. Of those that fit equally well Linux takes the
        one that was added last (measured). kube-proxy's order within a sync is arbitrary: here the highest is the last.
        """
        loopback = destination in LOOPBACK6 and self.is_local(Family.IPV6, destination)
        only_local = self.only_local(Family.IPV6)
        if loopback or destination in only_local:
            return destination  # what goes to ::1 comes from ::1 (K-2.2), and so with addresses of kube-ipvs0
        candidates = [
            (a.value, other.name)
            for other in self.interfaces.values()
            for a in other.of(Family.IPV6)
            if a.value not in LOOPBACK6 and (a.value in _LINK_LOCAL6) == (destination in _LINK_LOCAL6)
        ]
        if destination not in _LINK_LOCAL6 and all(name != interface for _, name in candidates):
            candidates += sorted(only_local.items(), reverse=True)
        best = max(
            candidates,
            key=lambda candidate: (
                candidate[0] == destination,
                candidate[1] == interface,
                (candidate[0] in _UNIQUE_LOCAL6) == (destination in _UNIQUE_LOCAL6),
                _common_prefix(candidate[0], destination),
            ),
            default=None,
        )
        return None if best is None else best[0]


def _common_prefix(first: int, second: int) -> int:
    return 128 - (first ^ second).bit_length()


def type_at(routing: Routing, family: Family, address: int, interface: str = "") -> AddressType:
    """The type of an address. With ``interface``, an address that is not its own is UNICAST to it (K-20.4)."""
    found = routing.address_type(family, address)
    if not interface or found not in (AddressType.LOCAL, AddressType.BROADCAST):
        return found
    own = routing.interfaces.get(interface)
    addresses = own.of(family) if own is not None else ()
    if found is AddressType.LOCAL:
        loopback = interface == "lo" and address in (LOOPBACK4 if family is Family.IPV4 else LOOPBACK6)
        return found if loopback or any(address == each.value for each in addresses) else AddressType.UNICAST
    last = 1 << family.bits
    ends = {end for each in addresses for end in (each.network.base, each.network.base | (last - 1) >> each.prefix)}
    return found if address == _LIMITED_BROADCAST or address >> 24 == 0 or address in ends else AddressType.UNICAST
