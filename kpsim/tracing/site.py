"""The nodes of a cluster as machines that packets can be sent to, made when a packet first reaches them.

Counterpart: the machines of a cluster and their addresses. ``netfilter`` says what a node does to a packet, and
``fabric`` how the packet gets from node to node.
"""

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches

from kpsim.addresses import Family, format_ip
from kpsim.conntrack import Entry, FlowTuple, tuple_of
from kpsim.errors import InputError
from kpsim.exchange import Answers, Closed, Reaction, Target
from kpsim.fabric import Arrival, Place, Whose
from kpsim.ipvs.connections import IpvsTable
from kpsim.kubeproxy.stale_flows import CleanUp, UdpFlow
from kpsim.netfilter import Netns
from kpsim.nodes import Machine
from kpsim.packet import Packet
from kpsim.packetpath.routing import InterfaceKind
from kpsim.programmed import Programmed
from kpsim.tracing.directory import Directory
from kpsim.tracing.listening import Anybody, Ends

#: where clients outside live: TEST-NET-3, and a part of the IPv6 documentation prefix
_OUTSIDE = {Family.IPV4: 203 << 24 | 113 << 8, Family.IPV6: 0x20010DB8_00CB0071 << 64}
_FIRST_CLIENT, _FIRST_POD = 7, 10
_LAST_PORT = 65_535


class Sender(enum.StrEnum):
    """Where a packet comes from, as seen by the node that it meets first (PP-1.1)."""

    POD = "pod"  #: of that node
    NODE = "node"  #: a process in its host network
    EXTERNAL = "external"  #: a client outside the cluster
    PEER = "peer"  #: another node


class Site:
    """Nodes by name. For each node that a packet reaches, ``machine`` is called once, and ``told``, what its
    kernel was told, once per family.

    ``ends`` are those of packets' ways; None: nothing is known about them. ``why_left`` says why the kube-proxy of a
    node and family left a connection; None: nothing is known about kube-proxy. ``listed_ns`` is when the rules were
    listed, if they were: members of sets expire from then on.
    """

    def __init__(
        self,
        node_names: Sequence[str],
        directory: Directory,
        machine: Callable[[str], Machine],
        told: Callable[[str, Family], Programmed],
        ends: Ends | None = None,
        why_left: Callable[[str, Family, UdpFlow], CleanUp | None] | None = None,
        listed_ns: int = 0,
    ) -> None:
        self.node_names = tuple(node_names)
        self.directory = directory
        self.ends = ends or Anybody()
        self._make_machine = machine
        self._told = told
        self.why_left = why_left or _why_left
        self._listed_ns = listed_ns
        self._machines: dict[str, Machine] = {}
        self._namespaces: dict[str, Netns] = {}
        self._connections: dict[str, dict[tuple[FlowTuple, FlowTuple], Entry]] = {}  # by node and tuples
        self._observed: dict[tuple[Family, int], tuple[str, str]] = {}  # address of a placed machine → node, interface

    def check_node(self, name: str) -> None:
        """Raises InputError with similar names if there is no such node. A site without names accepts any name."""
        if not self.node_names or name in self.node_names:
            return
        near = get_close_matches(name, self.node_names, n=3) or list(self.node_names[:5])
        raise InputError(f"no node {name!r}; there is {', '.join(near)}")

    def machine(self, node: str) -> Machine:
        if node not in self._machines:
            self._machines[node] = self._make_machine(node)
        return self._machines[node]

    def place(self, node: str, machine: Machine) -> None:
        """Makes this the machine of a node. It must come before the first packet reaches the node."""
        self._machines[node] = machine
        for interface in machine.routing.interfaces.values():
            for address in interface.addresses if interface.kind is InterfaceKind.LINK else ():
                self._observed[address.family, address.value] = node, interface.name

    def let_in(self, node: str, interface: str) -> None:
        """Lets what comes to the node from outside come in by this interface. InputError if there is none."""
        known = self.machine(node).routing.interfaces
        if interface not in known:
            raise InputError(f"{node} has no interface {interface!r}; it has {', '.join(known)}")
        self._machines[node] = replace(self.machine(node), uplink=interface)

    def remember(self, node: str, connections: Iterable[Entry]) -> None:
        """Gives a node these connections. It must come before the first packet reaches the node.

        Of two with a tuple in common the first counts.
        """
        known = self._connections.setdefault(node, {})
        for entry in connections:
            known.setdefault(entry[:2], entry)

    def remembered(self, node: str, entry: Entry) -> bool:
        """Whether the node had this connection before the first packet. Its rules then need not have made it."""
        return entry[:2] in self._connections.get(node, ())

    def netns(self, node: str, family: Family) -> Netns:
        """The node's namespace with its connections, and its rules of the family loaded."""
        netns = self._namespaces.get(node)
        if netns is None:
            machine = self.machine(node)
            netns = self._namespaces[node] = Netns(node, machine.routing, machine.sysctls)
            netns.memory.ipvs = IpvsTable(known=False)  # nobody saw the packets of the past
            netns.sockets = machine.sockets
            for entry in self._connections.get(node, {}).values():
                netns.conntrack.insert(entry, entry.created_ns)
        if family not in netns.rulesets:
            netns.load(self._told(node, family))
            netns.recall(family, self._listed_ns)
        return netns

    # --- where packets begin ---------------------------------------------------------------------------------------

    def begin(self, packet: Packet, node: str, sender: Sender) -> Packet:
        """The packet as ``node`` gets it first: with its input interface and, if it had no source, with a chosen one.

        For a pod it is a pod of the node that is not an endpoint of the dialled Service, else an address of the node's
        pod network. For a client outside it is 203.0.113.7 (or the next free address), for a peer the first other
        node that the packet is not for.
        For a process of the node, routing chooses it later. InputError if there is nothing to choose from.
        """
        packet = packet.copy()
        machine, chosen = self.machine(node), not packet.saddr and not packet.sourced
        match sender:
            case Sender.NODE:
                packet.in_interface = ""
            case Sender.POD:
                packet.in_interface = machine.pod_interface
                packet.saddr = self._pod_of(node, machine, packet) if chosen else packet.saddr
            case Sender.EXTERNAL:
                packet.in_interface = machine.uplink
                packet.saddr = (
                    self._free(packet.family, _OUTSIDE[packet.family] + _FIRST_CLIENT) if chosen else packet.saddr
                )
            case Sender.PEER:
                packet.in_interface = machine.uplink
                packet.saddr = self._peer_of(node, machine, packet) if chosen else packet.saddr
        return packet

    def use_free_port(self, packet: Packet, node: str, now_ns: int) -> None:
        """Gives a first packet, from :meth:`begin`, another source port if a connection of the node has its own."""
        netns, asked = self.netns(node, packet.family), tuple_of(packet)
        if not packet.saddr:
            asked = asked._replace(saddr=netns.routing.source_for(packet.family, packet.daddr) or 0)
        ports = (*range(packet.sport, _LAST_PORT + 1), *range(1, packet.sport)) if len(netns.conntrack) else ()
        for port in ports:
            if netns.conntrack.lookup(asked._replace(sport=port), now_ns) is None:
                packet.sport = port
                return

    def _pod_of(self, node: str, machine: Machine, packet: Packet) -> int:
        family, directory = packet.family, self.directory
        behind = directory.endpoints_behind((family, packet.daddr), packet.dport, packet.protocol)
        behind |= {(family, packet.daddr)}
        for address in directory.pods_on(node, family):
            if (family, address) not in behind:
                return address
        for network in machine.pod_networks:
            if network.family is family:
                return self._free(family, network.base + _FIRST_POD)
        for address in directory.pods_on(node, family):
            return address  # only endpoints of the Service itself: a hairpin
        raise InputError(f"node {node} has no pods and no pod network of {family.label}: give the source address")

    def _peer_of(self, node: str, machine: Machine, packet: Packet) -> int:
        family = packet.family
        own = machine.routing.addresses(family)
        dialled = self.directory.node_of((family, packet.daddr))  # a node does not ask another the way to itself
        for (of, address), name in self.directory.nodes.items():
            if of is family and name not in (node, dialled) and address not in own:
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

    # --- what the fabric asks ----------------------------------------------------------------------------------------

    def origin(self, packet: Packet, node: str) -> Place:
        """The place of the packet's source: a node, a pod, or a pod network, of ``node`` before all; else the outside."""
        address = packet.family, packet.saddr
        if owner := self.directory.nodes.get(address) or self._observed.get(address, ("",))[0]:
            return Place(Whose.PROCESS, owner)
        if pod := self.directory.pods.get(address):
            return Place(Whose.POD, pod.node, packet.saddr)
        networks = self.machine(node).pod_networks
        if any(network.family is packet.family and packet.saddr in network for network in networks):
            return Place(Whose.POD, node, packet.saddr)
        if owner := self.directory.node_of_pods(address):
            return Place(Whose.POD, owner, packet.saddr)
        return Place(Whose.OUTSIDE)

    def is_node(self, family: Family, address: int) -> bool:
        """Whether the cluster knows the address as a node's, so that nothing else says to which node it leads."""
        return (family, address) in self.directory.nodes and not self._observed

    def next_node(self, packet: Packet, next_hop: int, node: str) -> Arrival | None:
        """The node with the next hop's address, else the node that has the destination or runs its pod."""
        family, directory = packet.family, self.directory
        for address in (next_hop, packet.daddr):
            found = self._observed.get((family, address))
            if found is not None and found[0] != node:
                return Arrival(*found)
        other = directory.nodes.get((family, next_hop)) or directory.node_of((family, packet.daddr))
        if other and other != node and other in self.node_names:
            return Arrival(other, self.machine(other).uplink)
        return None

    def entrance(self, place: Place, packet: Packet, node: str) -> Arrival | None:
        """The node of a pod or process. What comes from outside meets the node that has or serves the destination.

        A site without names has one machine. All that comes to it or to its pods from outside comes to this machine.
        """
        if place.whose is Whose.OUTSIDE:
            name = self._home_of(packet, node) if self.node_names else node
        else:
            name = place.node if place.node in self.node_names or not self.node_names else ""
        if not name:
            return None
        machine = self.machine(name)
        match place.whose:
            case Whose.OUTSIDE:
                _, interface = self._observed.get((packet.family, packet.daddr), (name, machine.uplink))
                return Arrival(name, interface)
            case Whose.POD:
                return Arrival(name, machine.pod_interface)
            case Whose.PROCESS:
                return Arrival(name, "")

    def _home_of(self, packet: Packet, node: str) -> str:
        """The node that has the packet's destination or runs its pod; empty: it is outside.

        An address about which nothing is known may be a pod's of a node that a packet has reached, ``node`` before all.
        """
        family, address = packet.family, packet.daddr
        found = self.directory.node_of((family, address)) or self.directory.node_of_pods((family, address))
        if found in self.node_names:
            return found
        for name in dict.fromkeys((node, *self._machines)):
            machine = self.machine(name)
            if machine.routing.interface_of(family, address) or any(
                network.family is family and address in network for network in machine.pod_networks
            ):
                return name
        return ""

    # --- what an exchange asks ----------------------------------------------------------------------------------------

    def reaction(self, end: Place, packet: Packet, node: str, now_ns: int) -> Reaction:
        """How the end of a packet's way reacts."""
        reaction = self.ends.reaction(end, packet)
        machine = self.machine(end.node) if end.whose is Whose.PROCESS else None
        if machine is None or machine.sockets is None:
            return reaction
        listener = machine.listener(packet)
        if listener is None:
            return Closed("no socket is bound there")
        return Answers(listener.program) if isinstance(reaction, Closed) else reaction

    def serves(self, dialled: Target, reached: Target, node: str) -> bool | None:
        own = self.machine(node).routing.is_local(dialled.family, dialled.address)
        return self.ends.serves(dialled, reached, own=own)

    def is_down(self, node: str) -> bool:
        return False


def _why_left(node: str, family: Family, flow: UdpFlow) -> CleanUp | None:
    """What is known about a clean-up without knowing kube-proxy."""
    return None if flow.protocol == "udp" else CleanUp.NOT_ITS_PROTOCOL


def show(address: tuple[Family, int], directory: Directory) -> str:
    """An address with the name of its owner: ``10.180.1.7 (pod shop/web-1 on node-2)``."""
    name = directory.name(address)
    return format_ip(*address) + (f" ({name})" if name else "")
