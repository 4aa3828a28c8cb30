"""The nodes of a cluster as machines that packets can be sent to, made when a packet first reaches them.

Counterpart: the machines of a cluster with a plain routed pod network: lo, an uplink, a bridge for the pods. What a node does to
a packet is ``netfilter``'s; this module never looks into rules.
"""

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from kpsim.addresses import Family, Network, format_ip, parse_network
from kpsim.config import Interface as HostInterface
from kpsim.config import LocalMode, ProxyConfig
from kpsim.errors import InputError
from kpsim.fabric import Hop, Journey, Place, Whose
from kpsim.netfilter import Disposition, Netns, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import Chooser
from kpsim.packetpath.routing import Address, Interface, Port, Route, Routing
from kpsim.packetpath.sysctls import Sysctls
from kpsim.ruleset import Ruleset
from kpsim.tracing.directory import Directory

_UPLINK, _BRIDGE = "eth0", "cni0"
_LOOPBACK = ("127.0.0.1/8", "::1/128")
_PREFIX = {Family.IPV4: 24, Family.IPV6: 64}  #: of a node's address that is given without one
#: where clients outside live: TEST-NET-3, and a part of the IPv6 documentation prefix
_OUTSIDE = {Family.IPV4: 203 << 24 | 113 << 8, Family.IPV6: 0x20010DB8_00CB0071 << 64}
_FIRST_CLIENT, _FIRST_POD = 7, 10
_MOST_HOPS = 16


class Sender(enum.StrEnum):
    """Where a packet comes from, as seen by the node that it meets first (PP-1.1)."""

    POD = "pod"  #: of that node
    NODE = "node"  #: a process in its host network
    EXTERNAL = "external"  #: a client outside the cluster
    PEER = "peer"  #: another node


@dataclass(frozen=True, slots=True)
class Machine:
    """A node's network. ``pod_interface`` is where its pods' packets come in, whatever leads back to them."""

    routing: Routing
    sysctls: Sysctls
    uplink: str
    pod_interface: str
    pod_networks: tuple[Network, ...] = ()


class Site:
    """Nodes by name. ``machine`` and ``rules`` are asked once for each node that a packet reaches, in each family."""

    def __init__(
        self,
        node_names: Sequence[str],
        directory: Directory,
        machine: Callable[[str], Machine],
        rules: Callable[[str, Family], Ruleset],
    ) -> None:
        self.node_names = tuple(node_names)
        self.directory = directory
        self._make_machine = machine
        self._rules = rules
        self._machines: dict[str, Machine] = {}
        self._namespaces: dict[str, Netns] = {}

    def check_node(self, name: str) -> None:
        """InputError with the names that come near unless there is such a node. A site without names takes any."""
        if not self.node_names or name in self.node_names:
            return
        near = get_close_matches(name, self.node_names, n=3) or list(self.node_names[:5])
        raise InputError(f"no node {name!r}; there is {', '.join(near)}")

    def machine(self, node: str) -> Machine:
        if node not in self._machines:
            self._machines[node] = self._make_machine(node)
        return self._machines[node]

    def netns(self, node: str, family: Family) -> Netns:
        """The node's namespace with its rules of the family loaded."""
        netns = self._namespaces.get(node)
        if netns is None:
            machine = self.machine(node)
            netns = self._namespaces[node] = Netns(node, machine.routing, machine.sysctls)
        if family not in netns.rulesets:
            netns.load(self._rules(node, family))
        return netns

    # --- where packets begin ---------------------------------------------------------------------------------------

    def begin(self, packet: Packet, node: str, sender: Sender) -> Packet:
        """The packet as ``node`` gets it first: with a source, if it has none, and with its input interface.

        The source is chosen by what is known: a pod of the node that is no endpoint of the dialled Service, else an address
        of its pod network; 203.0.113.7 for a client outside; the first other node. A process's is chosen by routing.
        InputError if there is nothing to choose from.
        """
        packet = packet.copy()
        machine = self.machine(node)
        match sender:
            case Sender.NODE:
                packet.in_interface = ""
            case Sender.POD:
                packet.in_interface = machine.pod_interface
                packet.saddr = packet.saddr or self._pod_of(node, machine, packet)
            case Sender.EXTERNAL:
                packet.in_interface = machine.uplink
                packet.saddr = packet.saddr or self._free(packet.family, _OUTSIDE[packet.family] + _FIRST_CLIENT)
            case Sender.PEER:
                packet.in_interface = machine.uplink
                packet.saddr = packet.saddr or self._peer_of(node, machine, packet.family)
        return packet

    def _pod_of(self, node: str, machine: Machine, packet: Packet) -> int:
        family, directory = packet.family, self.directory
        behind = directory.endpoints_behind((family, packet.daddr), packet.dport, packet.protocol)
        behind |= {(family, packet.daddr)}
        pods = list(directory.pods_on(node, family))
        for address in pods:
            if (family, address) not in behind:
                return address
        for network in machine.pod_networks:
            if network.family is family:
                return self._free(family, network.base + _FIRST_POD)
        if pods:
            return pods[0]  # only endpoints of the Service itself: a hairpin
        raise InputError(f"node {node} has no pods and no pod network of {family.label}: give the source address")

    def _peer_of(self, node: str, machine: Machine, family: Family) -> int:
        own = machine.routing.addresses(family)
        for (of, address), name in self.directory.nodes.items():
            if of is family and name != node and address not in own:
                return address
        for link in machine.routing.interfaces[machine.uplink].of(family):
            if link.prefix < family.bits - 1:  # an address of another machine on the same link
                return self._free(family, link.network.base + _FIRST_POD)
        raise InputError(f"there is no other node with an {family.label} address: give the source address")

    def _free(self, family: Family, first: int) -> int:
        """The first address from ``first`` on that the cluster does not use."""
        while self.directory.knows((family, first)):
            first += 1
        return first

    # --- the way of a packet ---------------------------------------------------------------------------------------

    def send(
        self,
        packet: Packet,
        node: str,
        *,
        now_ns: int,
        chooser: Chooser,
        local: bool = False,
        commit: bool = False,
        until_translated: bool = False,
    ) -> Journey:
        """Follows a packet that :meth:`begin` made, with steps, to where it ends. ``commit``: the nodes remember it.

        ``until_translated``: no further than the node that gave it its endpoint.
        """
        origin = Place(Whose.PROCESS, node) if local else self._place(packet.family, packet.saddr, node)
        sent, hops = packet.copy(), list[Hop]()
        while True:
            netns = self.netns(node, packet.family)
            step = walk(netns, packet, now_ns=now_ns, chooser=chooser, local=local)
            if commit:
                netns.commit(step.effects, now_ns)
            hops.append(Hop(node, step))
            if not sent.saddr:  # a process that did not bind (K-2.1)
                sent.saddr = netns.routing.source_for(packet.family, packet.daddr) or 0
            end, next_node = self._onward(node, step.packet, step.next_hop, step.disposition)
            enough = until_translated and step.dnat_rule is not None
            if enough or not next_node or len(hops) >= _MOST_HOPS:
                disposition = Disposition.DELIVERED if end and end.whose is Whose.POD else step.disposition
                return Journey(origin, sent, tuple(hops), disposition, end, step.packet)
            node, local = next_node, False
            packet = step.packet.copy()
            packet.in_interface, packet.out_interface, packet.mark = self.machine(node).uplink, "", 0

    def _onward(
        self, node: str, packet: Packet, next_hop: int | None, disposition: Disposition
    ) -> tuple[Place | None, str]:
        """Where a packet is now that left a node's netfilter, or the next node."""
        if disposition is Disposition.DELIVERED:
            return Place(Whose.PROCESS, node), ""
        if disposition is not Disposition.FORWARDED or next_hop is None:
            return None, ""
        interface = self.machine(node).routing.interfaces[packet.out_interface]
        if interface.kind is Port.BRIDGE:
            return Place(Whose.POD, node, packet.daddr), ""
        if interface.kind is not Port.LINK:
            return None, ""  # nothing is behind a dummy device
        family, directory = packet.family, self.directory
        other = directory.nodes.get((family, next_hop)) or directory.node_of((family, packet.daddr))
        if other and other != node and other in self.node_names:
            return None, other
        return Place(Whose.OUTSIDE), ""

    def _place(self, family: Family, address: int, node: str) -> Place:
        owner = self.directory.nodes.get((family, address))
        if owner:
            return Place(Whose.PROCESS, owner)
        if (family, address) in self.directory.pods:
            return Place(Whose.POD, self.directory.pods[family, address].node, address)
        if any(network.family is family and address in network for network in self.machine(node).pod_networks):
            return Place(Whose.POD, node, address)
        return Place(Whose.OUTSIDE)


# --- building machines -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node, as routes see it."""

    addresses: tuple[Address, ...]
    pod_networks: tuple[Network, ...]
    pods: tuple[tuple[Family, int], ...] = ()  #: outside its pod networks


def make_machine(
    node_ips: Iterable[str],
    pod_cidrs: Iterable[str] = (),
    *,
    interfaces: Sequence[HostInterface] | None = None,
    pod_interface: str = "",
    pods: Iterable[tuple[Family, int]] = (),
    peers: Iterable[Peer] = (),
    sysctls: Sysctls | None = None,
) -> Machine:
    """A node with lo, an uplink and a bridge for its pods, and routes to its peers and the outside.

    ``interfaces`` are the real ones, if known: the uplink is the one with the first node IP, the bridge the one inside a pod
    network. Without one inside, pods are behind an interface without address, as routed pods are. ``pod_interface`` is where pod
    traffic comes in, by default the bridge. InputError for what is no address.
    """
    networks = tuple(network for network in map(parse_network, pod_cidrs) if network is not None)
    own = tuple(node_address(text) for text in node_ips)
    devices = _devices(interfaces, own, networks, pod_interface)
    uplink = _uplink(devices, own)
    bridges = [device for device in devices.values() if device.kind is Port.BRIDGE]
    entrance = pod_interface or (bridges[0].name if bridges else _BRIDGE)
    routes: list[Route] = []
    local_pods = [Network(family, address, family.bits) for family, address in pods]
    for network in (*networks, *local_pods):
        if not any(network.base in a.network for b in bridges for a in b.of(network.family)):
            devices.setdefault(entrance, Interface(entrance, (), Port.BRIDGE))
            routes.append(Route(network, entrance))
    for peer in peers:
        routes += _routes_to(peer, uplink)
    routes += [Route(Network(family, 0, 0), uplink) for family in Family]
    return Machine(Routing(devices.values(), routes), sysctls or Sysctls(), uplink, entrance, networks)


def node_address(text: str) -> Address:
    """A node's address, /24 or /64 unless it says otherwise."""
    address = Address.parse(text)
    return address if "/" in text else address._replace(prefix=_PREFIX[address.family])


def _devices(
    given: Sequence[HostInterface] | None, own: tuple[Address, ...], networks: tuple[Network, ...], pod_interface: str
) -> dict[str, Interface]:
    devices: dict[str, Interface] = {}
    if given is None:
        bridge = tuple(Address(network.family, network.base + 1, network.prefix) for network in networks)
        devices["lo"] = Interface("lo", tuple(map(Address.parse, _LOOPBACK)), Port.LOOPBACK)
        devices[_UPLINK] = Interface(_UPLINK, own)
        if bridge:
            name = pod_interface or _BRIDGE
            devices[name] = Interface(name, bridge, Port.BRIDGE)
        return devices
    for interface in given:
        addresses = tuple(map(Address.parse, interface.addresses))
        kind = Port.LINK
        if interface.name == "lo":
            kind = Port.LOOPBACK
        elif any(a.value in n for a in addresses for n in networks if n.family is a.family):
            kind = Port.BRIDGE
        devices[interface.name] = Interface(interface.name, addresses, kind)
    return devices


def _uplink(devices: dict[str, Interface], own: tuple[Address, ...]) -> str:
    """The link that carries the first node IP, else the first with neighbours, else any; made up if there is none."""
    links = [device for device in devices.values() if device.kind is Port.LINK]
    wanted = {(address.family, address.value) for address in own[:1]}
    carrying = [link for link in links if any((a.family, a.value) in wanted for a in link.addresses)]
    with_neighbours = [link for link in links if any(a.prefix < a.family.bits for a in link.addresses)]
    if links:
        return (carrying or with_neighbours or links)[0].name
    devices[_UPLINK] = Interface(_UPLINK, own)
    return _UPLINK


def _routes_to(peer: Peer, uplink: str) -> Iterable[Route]:
    for family in Family:
        via = next((address.value for address in peer.addresses if address.family is family), None)
        if via is not None:
            yield from (Route(network, uplink, via) for network in peer.pod_networks if network.family is family)
            hosts = (address for of, address in peer.pods if of is family)
            yield from (Route(Network(family, address, family.bits), uplink, via) for address in hosts)


def pod_interface_of(config: ProxyConfig) -> str:
    """The interface that pod traffic must come in by to be recognised as such (I-10); empty: any will do."""
    match config.detect_local_mode:
        case LocalMode.BRIDGE_INTERFACE:
            return config.bridge_interface
        case LocalMode.INTERFACE_NAME_PREFIX:
            return config.interface_name_prefix + "0"
        case LocalMode.CLUSTER_CIDR | LocalMode.NODE_CIDR:
            return ""


def outside_networks(pods: Iterable[tuple[Family, int]], networks: Sequence[Network]) -> tuple[tuple[Family, int], ...]:
    """The pods that no pod network contains."""
    return tuple((f, a) for f, a in pods if not any(n.family is f and a in n for n in networks))


def show(address: tuple[Family, int], directory: Directory) -> str:
    """An address with who has it: ``10.180.1.7 (pod shop/web-1 on node-2)``."""
    name = directory.name(address)
    return format_ip(*address) + (f" ({name})" if name else "")


def sysctls_of(config: ProxyConfig, *, route_localnet: bool, liberal: bool) -> Sysctls:
    """A node's kernel settings as kube-proxy leaves them (I-1, CFG-4)."""
    kernel = Sysctls()
    return Sysctls(
        route_localnet=route_localnet,
        tcp_be_liberal=liberal,
        tcp_timeout_established_ns=config.conntrack_tcp_established_timeout_ns or kernel.tcp_timeout_established_ns,
        tcp_timeout_close_wait_ns=config.conntrack_tcp_close_wait_timeout_ns or kernel.tcp_timeout_close_wait_ns,
        udp_timeout_ns=config.conntrack_udp_timeout_ns or kernel.udp_timeout_ns,
        udp_timeout_stream_ns=config.conntrack_udp_stream_timeout_ns or kernel.udp_timeout_stream_ns,
    )
