"""What a node's network is made of: lo, an uplink, a bridge for its pods, routes to the other nodes, kernel settings.

Counterpart: a machine with a plain routed pod network (kubenet), after its CNI plugin and kube-proxy have started.
``fabric`` connects the nodes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from types import MappingProxyType
from typing import NamedTuple

from kpsim.addresses import Family, Network, parse_network
from kpsim.config import HostInterface, LocalMode, ProxyConfig
from kpsim.errors import InputError, Problem
from kpsim.packet import Packet
from kpsim.packetpath.routing import Interface, InterfaceKind, OwnAddress, PolicyRule, Route, Routing
from kpsim.packetpath.sockets import Socket
from kpsim.sysctls import SETTINGS, Sysctls
from kpsim.units import SECOND_NS
from kpsim.valueclass import dataclass

UPLINK, _BRIDGE = "eth0", "cni0"
LOOPBACK = ("127.0.0.1/8", "::1/128")
_PREFIX = {Family.IPV4: 24, Family.IPV6: 64}  #: prefix length of a node's address that is given without one
MOST_CONNECTIONS = 1_048_576  #: kube-proxy scales the table with the cores, but not beyond this
#: settings that kube-proxy writes when it starts, each with the option and value that prevent it (CFG-4, CFG-6)
_WRITTEN_UNLESS = {
    "route_localnet": "iptables.localhostNodePorts is false",
    "tcp_be_liberal": "conntrack.tcpBeLiberal is false",
    "nf_conntrack_max": "conntrack.maxPerCore is 0",
    "nf_conntrack_buckets": "conntrack.maxPerCore is 0",
    "tcp_timeout_established_ns": "conntrack.tcpEstablishedTimeout is 0s",
    "tcp_timeout_close_wait_ns": "conntrack.tcpCloseWaitTimeout is 0s",
    "udp_timeout_ns": "conntrack.udpTimeout is 0s",
    "udp_timeout_stream_ns": "conntrack.udpStreamTimeout is 0s",
    "vs_conntrack": "the mode is another than ipvs",
    "vs_expire_nodest_conn": "the mode is another than ipvs",
    "vs_expire_quiescent_template": "the mode is another than ipvs",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """A node's network. Packets of its pods come in by ``pod_interface``, even if the route back leads elsewhere."""

    routing: Routing
    sysctls: Sysctls
    uplink: str
    pod_interface: str
    pod_networks: tuple[Network, ...] = ()
    sockets: tuple[Socket, ...] | None = None  #: of its processes; None: not known

    @property
    def links(self) -> tuple[str, ...]:
        """The names of the interfaces to other machines."""
        kind = InterfaceKind.LINK
        return tuple(each.name for each in self.routing.interfaces.values() if each.kind is kind)

    @property
    def host_interfaces(self) -> tuple[HostInterface, ...]:
        """The interfaces with their addresses, as kube-proxy finds them."""
        return tuple(
            HostInterface(each.name, tuple(map(str, each.addresses))) for each in self.routing.interfaces.values()
        )

    def listener(self, packet: Packet) -> Socket | None:
        """The socket that takes a packet which is delivered to the node; None: nothing listens, or it is not known."""
        return next((each for each in self.sockets or () if each.takes(packet)), None)


class Link(NamedTuple):
    """An interface of a node to other machines."""

    name: str
    addresses: tuple[str, ...]  #: with prefix lengths
    routes: tuple[str, ...] = ()  #: networks behind it, besides its own


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node, with what routes to it need."""

    addresses: tuple[OwnAddress, ...]
    pod_networks: tuple[Network, ...]
    pods: tuple[tuple[Family, int], ...] = ()  #: those outside its pod networks
    _routes: dict[str, tuple[Route, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def routes_by(self, uplink: str) -> tuple[Route, ...]:
        """The routes to the node's pods by this interface. All nodes with an uplink of this name share them."""
        if uplink not in self._routes:
            self._routes[uplink] = tuple(_routes_to(self, uplink))
        return self._routes[uplink]


def make_machine(
    node_ips: Iterable[str],
    pod_cidrs: Iterable[str] = (),
    *,
    interfaces: Sequence[HostInterface] | None = None,
    links: Sequence[Link] = (),
    pod_interface: str = "",
    pods: Iterable[tuple[Family, int]] = (),
    peers: Iterable[Peer] = (),
    sysctls: Sysctls | None = None,
) -> Machine:
    """A node with lo, an uplink and a bridge for its pods, and routes to its peers and the outside.

    ``links`` stand in place of eth0; the uplink is the one with the first node IP. ``interfaces`` are all real
    interfaces, if known. The uplink is then the interface with the first node IP, and the
    bridge is the interface with an address inside a pod network. If no interface has such an address, the pods are
    behind an interface without address, as routed pods are. Pod traffic comes in by ``pod_interface``, by default the
    bridge. InputError for a text that is not an address or network.
    """
    networks = tuple(map(pod_network, pod_cidrs))
    own = tuple(node_address(text) for text in node_ips)
    devices = _devices(interfaces, links or [Link(UPLINK, tuple(map(str, own)))], networks, pod_interface)
    uplink = _uplink(devices, own)
    bridges = [device for device in devices.values() if device.kind is InterfaceKind.BRIDGE]
    entrance = pod_interface or (bridges[0].name if bridges else _BRIDGE)
    routes = [Route(pod_network(text), link.name) for link in links for text in link.routes]
    local_pods = [Network(family, address, family.bits) for family, address in pods]
    for network in (*networks, *local_pods):
        if not any(network.base in a.network for b in bridges for a in b.of(network.family)):
            devices.setdefault(entrance, Interface(entrance, (), InterfaceKind.VETH))
            routes.append(Route(network, entrance))
    for peer in peers:
        routes += peer.routes_by(uplink)
    given = {route.network for route in routes}
    defaults = (Network(family, 0, 0) for family in Family)
    routes += [Route(network, uplink) for network in defaults if network not in given]
    return Machine(Routing(devices.values(), routes), sysctls or Sysctls(), uplink, entrance, networks)


def observed_machine(
    interfaces: Sequence[Interface],
    routes: Sequence[Route],
    rules: Sequence[PolicyRule] = (),
    *,
    node_ips: Iterable[str] = (),
    pod_networks: Iterable[Network] = (),
    pod_interface: str = "",
    sockets: Sequence[Socket] | None = None,
    sysctls: Sysctls | None = None,
) -> Machine:
    """A machine with exactly these interfaces, routes and policy rules.

    Its pods are behind interfaces with an address of a pod network, and behind those to which a pod network or a part
    of one is routed directly. The uplink has the first node IP, else the default route. InputError if a route leads to
    an interface that is not there, or if there is no interface.
    """
    networks = tuple(pod_networks)
    routed = {r.interface for r in routes if r.gateway is None and any(_within(r.network, n) for n in networks)}
    kinds = {}
    for each in interfaces:
        if each.kind is InterfaceKind.LINK and any(
            n.family is a.family and a.value in n for a in each.addresses for n in networks
        ):
            kinds[each.name] = InterfaceKind.BRIDGE
        elif each.kind is InterfaceKind.LINK and each.name in routed:
            kinds[each.name] = InterfaceKind.VETH
    devices = [replace(each, kind=kinds.get(each.name, each.kind)) for each in interfaces]
    own = [(address.family, address.value) for address in map(node_address, node_ips)]
    links = [each.name for each in devices if each.kind is InterfaceKind.LINK and each.up]
    carrying = [each.name for each in devices if any((a.family, a.value) in own[:1] for a in each.addresses)]
    leading = [r.interface for r in routes if not r.network.prefix and r.interface in links]
    uplink = next(iter([*carrying, *leading, *links]), "")
    if not uplink:
        raise InputError(Problem("no interface leads to other machines: is the output of `ip addr` there?"))
    entrance = pod_interface or next(iter(kinds), uplink)
    known = None if sockets is None else tuple(sockets)
    return Machine(Routing(devices, routes, rules), sysctls or Sysctls(), uplink, entrance, networks, known)


def _within(inner: Network, outer: Network) -> bool:
    return inner.family is outer.family and inner.prefix >= outer.prefix and inner.base in outer


def make_machines(
    nodes: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    *,
    links: Mapping[str, Sequence[Link]] = MappingProxyType({}),
    pods: Mapping[str, Sequence[tuple[Family, int]]] = MappingProxyType({}),
    pod_interface: str = "",
    sysctls: Sysctls | None = None,
) -> dict[str, Machine]:
    """Plain nodes that have routes to each other's pods. ``nodes`` maps a name to (node IPs, pod CIDRs).

    ``links`` are those of nodes that have more than eth0, ``pods`` those outside their node's pod CIDRs. Errors as
    :func:`make_machine`.
    """
    peers = {
        name: Peer(tuple(map(node_address, node_ips)), tuple(map(pod_network, pod_cidrs)), tuple(pods.get(name, ())))
        for name, (node_ips, pod_cidrs) in nodes.items()
    }
    return {
        name: make_machine(
            node_ips,
            pod_cidrs,
            links=links.get(name, ()),
            pods=pods.get(name, ()),
            peers=[peer for other, peer in peers.items() if other != name],
            sysctls=sysctls,
            pod_interface=pod_interface,
        )
        for name, (node_ips, pod_cidrs) in nodes.items()
    }


def without_hairpin(machine: Machine) -> Machine:
    """The node with hairpin off: its bridges send no packet back by the port that it came in by (K-2.6)."""
    interfaces = (replace(each, hairpin=False) for each in machine.routing.interfaces.values())
    return replace(machine, routing=Routing(interfaces, machine.routing.routes))


def node_address(text: str) -> OwnAddress:
    """Reads a node's address.

    Without a prefix length it is a /24 (IPv4) or /64 (IPv6). InputError if it is no address.
    """
    address = OwnAddress.parse(text)
    return address if "/" in text else address._replace(prefix=_PREFIX[address.family])


def pod_network(text: str) -> Network:
    """Reads a CIDR. InputError if the text is not one."""
    network = parse_network(text)
    if network is None:
        raise InputError(Problem(f"not a network: {text!r}"))
    return network


def _devices(
    given: Sequence[HostInterface] | None,
    links: Sequence[Link],
    networks: tuple[Network, ...],
    pod_interface: str,
) -> dict[str, Interface]:
    devices: dict[str, Interface] = {}
    if given is None:
        bridge = tuple(OwnAddress(network.family, network.base + 1, network.prefix) for network in networks)
        devices["lo"] = Interface("lo", tuple(map(OwnAddress.parse, LOOPBACK)), InterfaceKind.LOOPBACK)
        for link in links:
            devices[link.name] = Interface(link.name, tuple(map(OwnAddress.parse, link.addresses)))
        if bridge:
            name = pod_interface or _BRIDGE
            devices[name] = Interface(name, bridge, InterfaceKind.BRIDGE)
        return devices
    for interface in given:
        addresses = tuple(map(OwnAddress.parse, interface.addresses))
        kind = InterfaceKind.LINK
        if interface.name == "lo":
            kind = InterfaceKind.LOOPBACK
        elif any(a.value in n for a in addresses for n in networks if n.family is a.family):
            kind = InterfaceKind.BRIDGE
        devices[interface.name] = Interface(interface.name, addresses, kind)
    return devices


def _uplink(devices: dict[str, Interface], own: tuple[OwnAddress, ...]) -> str:
    """The name of the link that has the first node IP, else of the first link with neighbours, else of the first link.

    If there is no link, one is added to ``devices``.
    """
    links = [device for device in devices.values() if device.kind is InterfaceKind.LINK]
    wanted = {(address.family, address.value) for address in own[:1]}
    carrying = [link for link in links if any((a.family, a.value) in wanted for a in link.addresses)]
    with_neighbours = [link for link in links if any(a.prefix < a.family.bits for a in link.addresses)]
    if links:
        return (carrying or with_neighbours or links)[0].name
    devices[UPLINK] = Interface(UPLINK, own)
    return UPLINK


def _routes_to(peer: Peer, uplink: str) -> Iterable[Route]:
    for family in Family:
        via = next((address.value for address in peer.addresses if address.family is family), None)
        if via is not None:
            yield from (Route(network, uplink, via) for network in peer.pod_networks if network.family is family)
            hosts = (address for of, address in peer.pods if of is family)
            yield from (Route(Network(family, address, family.bits), uplink, via) for address in hosts)


def pod_interface_of(config: ProxyConfig) -> str:
    """The interface that pod traffic must come in by to be recognised as pod traffic (I-10); empty: any interface."""
    match config.detect_local_mode:
        case LocalMode.BRIDGE_INTERFACE:
            return config.bridge_interface
        case LocalMode.INTERFACE_NAME_PREFIX:
            return config.interface_name_prefix + "0"
        case LocalMode.CLUSTER_CIDR | LocalMode.NODE_CIDR:
            return ""


def outside_networks(pods: Iterable[tuple[Family, int]], networks: Sequence[Network]) -> tuple[tuple[Family, int], ...]:
    """The pods whose address lies in none of the networks."""
    return tuple((f, a) for f, a in pods if not any(n.family is f and a in n for n in networks))


def sysctls_of(
    config: ProxyConfig, *, route_localnet: bool, liberal: bool, ipvs: bool = False, cores: int = 4,
    before: Sysctls | None = None,
) -> Sysctls:  # fmt: skip
    """The kernel settings of a node after kube-proxy has started (I-1, CFG-4, CFG-6; with ``ipvs`` IPVS-2).

    Settings that kube-proxy does not write stay as ``before``. It raises the size of the hash if that is too small for
    the table.
    """
    before = before or Sysctls()
    scaled = config.conntrack_max_per_core * cores
    limit = max(scaled, config.conntrack_min) if scaled <= MOST_CONNECTIONS else MOST_CONNECTIONS
    return replace(
        before,
        route_localnet=before.route_localnet or route_localnet,
        tcp_be_liberal=before.tcp_be_liberal or liberal,
        nf_conntrack_max=limit if scaled > 0 else before.nf_conntrack_max,
        nf_conntrack_buckets=max(before.nf_conntrack_buckets, limit // 4 if scaled > 0 else 0),
        tcp_timeout_established_ns=_seconds(
            config.conntrack_tcp_established_timeout_ns, before.tcp_timeout_established_ns
        ),
        tcp_timeout_close_wait_ns=_seconds(
            config.conntrack_tcp_close_wait_timeout_ns, before.tcp_timeout_close_wait_ns
        ),
        udp_timeout_ns=_seconds(config.conntrack_udp_timeout_ns, before.udp_timeout_ns),
        udp_timeout_stream_ns=_seconds(config.conntrack_udp_stream_timeout_ns, before.udp_timeout_stream_ns),
        vs_conntrack=before.vs_conntrack or ipvs,
        vs_expire_nodest_conn=before.vs_expire_nodest_conn or ipvs,
        vs_expire_quiescent_template=before.vs_expire_quiescent_template or ipvs,
    )


def _seconds(configured_ns: int, before_ns: int) -> int:
    """A timeout after kube-proxy: what is configured, cut to whole seconds, which may be none at all (CFG-2.4); zero leaves it."""
    return configured_ns // SECOND_NS * SECOND_NS if configured_ns > 0 else before_ns


def overwritten(values: Mapping[str, int], after: Sysctls) -> Iterator[tuple[str, str]]:
    """Yields the given sysctls that kube-proxy overwrites when it starts, each with the option that prevents it.

    ``after`` is what :func:`sysctls_of` makes of them.
    """
    for name, value in values.items():
        setting = SETTINGS[name]
        now = setting.of(after)
        if now != value:
            yield name, f"kube-proxy writes {now} there when it starts, unless {_WRITTEN_UNLESS[setting.field]}"
