"""Draws what a node has beside kube-proxy: kernel settings, rules of other programs, an older iptables.

Counterpart: machines as administrators, firewalls and network plugins leave them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from kpsim.addresses import Family, parse_network
from kpsim.errors import InputError
from kpsim.nodes import Machine
from kpsim.packetpath.routing import Route, RouteKind, Routing
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS
from kpsim.verify.drawing.choices import Choices, chance, several, weighted
from kpsim.verify.drawing.foreign import Foreign, draw_foreign
from kpsim.verify.drawing.plan import Block

#: settings of a node, the simplest first, by the names of Sysctls' fields. Some timeouts end within a sequence
SETTINGS: tuple[Mapping[str, int], ...] = (
    {},
    {"tcp_loose": 0}, {"tcp_be_liberal": 1}, {"rp_filter": 1}, {"rp_filter": 2}, {"accept_local": 1},
    {"bridge_nf_call_iptables": 0, "bridge_nf_call_ip6tables": 0}, {"route_localnet": 0},
    {"udp_timeout": 1, "tcp_timeout_time_wait": 1, "tcp_timeout_close": 1, "icmp_timeout": 1, "icmpv6_timeout": 1},
    {"udp_timeout": 1, "udp_timeout_stream": 2, "tcp_timeout_syn_sent": 1, "tcp_timeout_syn_recv": 1},
    {"tcp_timeout_established": 2, "tcp_timeout_fin_wait": 1, "tcp_timeout_unacknowledged": 1, "sctp_timeout_closed": 1},
    {"tcp_max_retrans": 1, "tcp_timeout_max_retrans": 50, "conntrack_checksum": 0},
)  # fmt: skip
_MOST_SETTINGS = 3  #: rows of these at one node


@dataclass(frozen=True)
class Circumstances:
    """What a node has beside kube-proxy."""

    sysctls: Mapping[str, int] = field(
        default_factory=dict
    )  #: by the names of Sysctls' fields; times without ``_ns``, in seconds
    foreign: Foreign = field(default_factory=Foreign)
    random_fully: bool = True  #: whether iptables knows --random-fully
    routes: str = ""  #: what the node's routes have of their own, a key of ``ROUTES``; empty: nothing


def draw_circumstances(choices: Choices) -> Circumstances:
    """Circumstances: in half of all cases the usual ones."""
    if not chance(choices, 50):
        return Circumstances()
    sysctls: dict[str, int] = {}
    for setting in several(choices, SETTINGS[1:], _MOST_SETTINGS) if chance(choices, 50) else ():
        sysctls |= setting
    foreign = draw_foreign(choices) if chance(choices, 70) else Foreign()
    routes = (
        weighted(choices, (2, _NO_DEFAULT), (4, _PREFERRED), *((1, name) for name in ROUTES))
        if chance(choices, 40)
        else ""
    )
    return Circumstances(sysctls, foreign, random_fully=not chance(choices, 20), routes=routes)


#: routes that refuse, by name: their kind, the block of addresses and its first number
ROUTES: Mapping[str, tuple[RouteKind, Block, int]] = {
    "some clients are unreachable": (RouteKind.UNREACHABLE, Block.CLIENT, 113),
    "some clients are prohibited": (RouteKind.PROHIBIT, Block.CLIENT, 113),
    "some clients are in a black hole": (RouteKind.BLACKHOLE, Block.CLIENT, 113),
    "Services are in a black hole": (RouteKind.BLACKHOLE, Block.CLUSTER_IP, 0),
    "load balancers are unreachable": (RouteKind.UNREACHABLE, Block.LOAD_BALANCER, 2),
}
_LOOPBACK = {Family.IPV4: 127 << 24 | 1, Family.IPV6: 1}
_NO_DEFAULT, _PREFERRED = "no default route", "routes prefer a source of another interface"


def placed(machine: Machine, circumstances: Circumstances) -> Machine:
    """The machine in these circumstances. InputError for an unknown setting."""
    machine = with_sysctls(machine, circumstances.sysctls)
    name, routing = circumstances.routes, machine.routing
    if not name:
        return machine
    if name == _NO_DEFAULT:
        routes = tuple(route for route in routing.routes if route.network.prefix)
    elif name == _PREFERRED:
        routes = tuple(_preferring(routing, route) for route in routing.routes)
    else:
        kind, block, first = ROUTES[name]
        networks = (parse_network(block.network(family, first, longer=2)) for family in Family)
        refused = tuple(Route(network, kind=kind) for network in networks if network is not None)
        routes = (*refused, *routing.routes)
    return replace(machine, routing=Routing(routing.interfaces.values(), routes))


def _preferring(routing: Routing, route: Route) -> Route:
    """The route with a preferred source that no masquerade over its interface uses, if the node has one (K-2.1, K-2.2)."""
    family, interface = route.network.family, routing.interfaces.get(route.interface)
    if route.kind is not RouteKind.UNICAST or interface is None:
        return route
    loopback = routing.interface_of(family, _LOOPBACK[family])
    own = {address.value for each in (interface, loopback) if each is not None for address in each.of(family)}
    others = [address for address in routing.addresses(family) if address not in own]
    return replace(route, source=others[0]) if others else route


def with_sysctls(machine: Machine, sysctls: Mapping[str, int]) -> Machine:
    """The machine with these settings, see ``Circumstances.sysctls``. InputError for an unknown one."""
    known = {each.name: each.default for each in fields(Sysctls)}
    values: dict[str, Any] = {}
    for name, value in sysctls.items():
        if f"{name}_ns" in known:
            values[f"{name}_ns"] = value * SECOND_NS
        elif name in known:
            values[name] = bool(value) if isinstance(known[name], bool) else value
        else:
            raise InputError(f"no setting {name!r}")
    return replace(machine, sysctls=replace(machine.sysctls, **values))


def described(circumstances: Circumstances, family: Family) -> str:
    """The circumstances of one family in a few lines; empty if they are the usual ones."""
    lines = [f"{name}={value}" for name, value in circumstances.sysctls.items()]
    lines += [] if circumstances.random_fully else ["an iptables without --random-fully"]
    lines += [circumstances.routes] if circumstances.routes else []
    return "\n".join([*lines, circumstances.foreign.text(family)]).strip()
