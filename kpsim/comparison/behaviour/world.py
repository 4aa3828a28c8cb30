"""What the world around the nodes asks of a packet: whose its addresses are, who listens at its port, which Service it is for."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import cached_property, partial

from kpsim.addresses import Family
from kpsim.comparison.behaviour.asking import AXES, Judged, Region, Witness, axis_of, narrowed
from kpsim.comparison.behaviour.routes import SPECIAL, WatchedRouting
from kpsim.comparison.behaviour.rules import WatchedChains
from kpsim.comparison.behaviour.spaces import Name, Partition, Values, cuts_of
from kpsim.exchange import Reaction, Relay, Target
from kpsim.fabric import Arrival, Place, Whose
from kpsim.ipvs.connections import IpvsTable
from kpsim.netfilter import HookEntry, Netns
from kpsim.packet import PORT_PROTOCOLS, Packet
from kpsim.tracing.site import Site


class WatchedWorld:
    """The nodes and ends of a site, in one family, as an exchange asks for them. The witness hears what answers depend on.

    ``entries`` makes the hook functions that each node gets besides its own, given the node's name. ``keyed`` are chains
    that ask whether packets are for some addresses, also where no node's rules name them.
    """

    def __init__(
        self, site: Site, family: Family, witness: Witness, now_ns: int, entries: Callable[[str], list[HookEntry]],
        keyed: Mapping[str, Values],
    ) -> None:  # fmt: skip
        self.site, self.family, self.witness, self.now_ns = site, family, witness, now_ns
        self._entries = entries
        self._chains = WatchedChains(witness, keyed)
        self._namespaces: dict[str, Netns] = {}
        self._partitions: dict[Hashable, Partition] = {}
        self._serving: dict[Hashable, Judged] = {}
        self._listened: dict[tuple[str, str], frozenset[int]] = {}

    # --- nodes and places -------------------------------------------------------------------------------------------

    def netns(self, node: str, family: Family) -> Netns:
        found = self._namespaces.get(node)
        if found is None:
            found = self._namespaces[node] = self.site.netns(node, family).fork(connections=False, lists=False)
            found.routing = WatchedRouting(found.routing, self.witness)
            found.ready = self._chains.ready
            found.memory.ipvs = IpvsTable(known=False, of_one=False)
            for entry in self._entries(node):
                found.register(family, entry)
        return found

    def origin(self, packet: Packet, node: str) -> Place:
        asked = packet.copy()

        def name(each: int) -> Name:
            asked.saddr = each
            place = self.site.origin(asked, node)
            return place.whose, place.node

        self._ask(("origin", node), packet.saddr, name)
        return self.site.origin(packet, node)

    def next_node(self, packet: Packet, next_hop: int, node: str) -> Arrival | None:
        asked = packet.copy()

        def name(each: int) -> Name:
            asked.daddr = each
            return self.site.next_node(asked, each if axis_of(next_hop) is not None else next_hop, node)

        if axis_of(next_hop) is not None:
            self._ask(("next", node), next_hop, name)
        elif not self.site.is_node(self.family, next_hop):
            self._ask(("next", node, next_hop), packet.daddr, name)
        return self.site.next_node(packet, next_hop, node)

    def entrance(self, place: Place, packet: Packet, node: str) -> Arrival | None:
        if place.whose is Whose.OUTSIDE:
            asked = packet.copy()

            def name(each: int) -> Name:
                asked.daddr = each
                return self.site.entrance(place, asked, node)

            self._ask(("entrance", node), packet.daddr, name)
        return self.site.entrance(place, packet, node)

    def is_down(self, node: str) -> bool:
        return self.site.is_down(node)

    def is_home(self, packet: Packet, node: str) -> bool:
        """Whether a packet's source is a pod's or a process's of the node."""
        asked = packet.copy()

        def name(each: int) -> bool:
            asked.saddr = each
            return self._home(self.site.origin(asked, node), asked, node) == node

        self._ask(("home", node), packet.saddr, name)
        return name(int(packet.saddr))

    def relation(self, packet: Packet, node: str, to: str, *, local: bool) -> str:
        """What ``node``, which passes a packet on ``to`` another, is to its source.

        ``home``: the source's own node, ``other``: another, ``strange``: its process made the packet with an address that is
        not the node's; empty: the two nodes do not agree whose the source is.
        """
        asked = packet.copy()

        def name(each: int) -> str:
            asked.saddr = each
            here = Place(Whose.PROCESS, node) if local else self.site.origin(asked, node)
            if here != self.site.origin(asked, to):
                return "strange" if local else ""
            return "home" if self._home(here, asked, node) == node else "other"

        self._ask(("relation", node, to, local), packet.saddr, name)
        return name(int(packet.saddr))

    def _home(self, place: Place, packet: Packet, node: str) -> str:
        arrival = None if place.whose is Whose.OUTSIDE else self.site.entrance(place, packet, node)
        return "" if arrival is None else arrival.node

    def _ask(self, about: Hashable, address: int, name: Callable[[int], Name]) -> None:
        if axis_of(address) is None:
            return
        if about not in self._partitions:
            self._partitions[about] = Partition(self._cuts, name)
        self.witness.ask(address, self._partitions[about])

    @cached_property
    def _cuts(self) -> frozenset[int]:
        """Every address and network that the site tells from others."""
        directory = self.site.directory
        found = set(cuts_of(SPECIAL[self.family]))
        known = [*directory.pods, *directory.nodes, *(address for address, _ in self.site.ends.places())]
        found.update(cuts_of((value, value) for family, value in known if family is self.family))
        for node in self.site.node_names or ("node",):
            machine = self.site.machine(node)
            found.update(cuts_of(WatchedRouting(machine.routing, self.witness).constants(self.family)))
            networks = (network for network in machine.pod_networks if network.family is self.family)
            found.update(cuts_of((network.base, network.last) for network in networks))
        found.update(
            cuts_of((each.base, each.last) for each in self.site.ends.networks() if each.family is self.family)
        )
        return frozenset(found)

    # --- ends -------------------------------------------------------------------------------------------------------

    def reaction(self, end: Place, packet: Packet, node: str, now_ns: int) -> Reaction:
        on_node = end.whose is Whose.PROCESS
        everywhere = self._listened_at(end.node) if on_node else frozenset()
        bound = self._bound(end.node) if on_node else frozenset()
        asked = packet.copy()

        def of(address: int, port: int) -> Name:
            asked.daddr, asked.dport = address, port
            return kind_of_reaction(self.site.reaction(end._replace(address=address), asked, node, now_ns), address)

        def ports_at(address: int) -> set[int]:
            """The ports at which the address may react in its own way; all where something listens, if it is special."""
            own = self._mentioned.get(address, set())
            return own | everywhere if address in bound else own

        def at_address(address: int) -> Name:
            usual = of(address, 0)
            others = ((port, of(address, port)) for port in sorted(ports_at(address)))
            return usual, tuple([each for each in others if each[1] != usual])

        about = "reaction", end.whose, end.node if on_node else "", packet.protocol
        self._ask(about, packet.daddr, at_address)
        if packet.protocol in PORT_PROTOCOLS and axis_of(packet.dport) is not None:
            address = int(packet.daddr)
            key = (*about, at_address(address))
            if key not in self._partitions:
                here = ports_at(address) | everywhere
                self._partitions[key] = Partition(
                    cuts_of((each, each) for each in here), lambda port: of(address, port)
                )
            self.witness.ask(packet.dport, self._partitions[key])
        return self.site.reaction(end, packet, node, now_ns)

    def _listened_at(self, node: str) -> frozenset[int]:
        """The ports at which a node's processes listen, at some or at all of its addresses."""
        about = "listened", node
        if about not in self._listened:
            servers = {server.port for server in self.site.ends.servers_of(node, self.family)}
            sockets = {socket.port for socket in self.site.machine(node).sockets or ()}
            self._listened[about] = frozenset(servers | sockets)
        return self._listened[about]

    def _bound(self, node: str) -> frozenset[int]:
        """The addresses that a node's processes are bound to. At all others they listen alike."""
        about = "bound", node
        if about not in self._listened:
            servers = {server.address for server in self.site.ends.servers_of(node, self.family)}
            sockets = {socket.address[1] for socket in self.site.machine(node).sockets or () if socket.address}
            self._listened[about] = frozenset(each for each in servers | sockets if each is not None)
        return self._listened[about]

    @cached_property
    def _mentioned(self) -> dict[int, set[int]]:
        found: dict[int, set[int]] = {}
        for (family, address), port in self.site.ends.places():
            if family is self.family:
                found.setdefault(address, set()).add(port)
        return found

    @cached_property
    def _dialled(self) -> dict[str, dict[int, set[int]]]:
        """By protocol, the ports that are dialled at an address; −1 stands for the addresses of nodes."""
        found: dict[str, dict[int, set[int]]] = {}
        for frontend in self.site.ends.frontends():
            known = found.setdefault(frontend.protocol, {-1: set()})
            if frontend.address is None:
                known[-1].add(frontend.port)
            elif frontend.address[0] is self.family:
                known.setdefault(frontend.address[1], set()).add(frontend.port)
        return found

    def serves(self, dialled: Target, reached: Target, node: str) -> bool | None:
        self.netns(node, self.family).routing.is_local(dialled.family, dialled.address)  # node ports are the node's own
        found = self.site.serves(dialled, reached, node)
        parts = (dialled.address, dialled.port, reached.address, reached.port)
        if any(axis_of(part) is not None for part in parts):
            key = (
                dialled.protocol,
                tuple([axis_of(part) if axis_of(part) is not None else (part,) for part in parts]),
                node,
            )
            if key not in self._serving:
                self._serving[key] = Judged(self._judge(dialled, reached, node), partial(self._dialled_apart, dialled))
            self.witness.judged(self._serving[key], found)
        return found

    def _dialled_apart(self, dialled: Target, region: Region) -> Iterator[Region]:
        """The parts of a region that dial one frontend each, or none."""
        known = self._dialled.get(dialled.protocol, _NONE_DIALLED)
        address, port = axis_of(dialled.address), axis_of(dialled.port)
        regions = [region]
        if address is not None:
            parts = self._frontends(dialled.protocol).split(region[address]).values()
            regions = [narrowed(region, address, values) for values in parts]
        for each in regions:
            if port is None:
                yield each
                continue
            here = int(dialled.address) if address is None else each[address][0][0]
            at = self._ports_dialled(dialled.protocol, here if here in known else -1)
            yield from (narrowed(each, port, values) for values in at.split(each[port]).values())

    def _frontends(self, protocol: str) -> Partition:
        """A class for each address that is dialled with the protocol."""
        about = "frontends", protocol
        if about not in self._partitions:
            self._partitions[about] = _members({each for each in self._dialled.get(protocol, ()) if each >= 0})
        return self._partitions[about]

    def _ports_dialled(self, protocol: str, address: int) -> Partition:
        """A class for each port that is dialled at the address, or at a node's."""
        about = "dialled", protocol, address
        if about not in self._partitions:
            known = self._dialled.get(protocol, _NONE_DIALLED)
            self._partitions[about] = _members(known[address] | known[-1])
        return self._partitions[about]

    def _judge(self, dialled: Target, reached: Target, node: str) -> Callable[[tuple[int, ...]], Name]:
        def value(part: int, numbers: tuple[int, ...]) -> int:
            axis = AXES.get(type(part))
            return int(part) if axis is None else numbers[axis]

        def says(numbers: tuple[int, ...]) -> Name:
            at = dialled._replace(address=value(dialled.address, numbers), port=value(dialled.port, numbers))
            to = reached._replace(address=value(reached.address, numbers), port=value(reached.port, numbers))
            return self.site.serves(at, to, node)

        return says


_NONE_DIALLED: Mapping[int, set[int]] = {-1: set()}


def _members(numbers: set[int]) -> Partition:
    """A class for each of the numbers, and one for all others."""
    return Partition(cuts_of((each, each) for each in numbers), lambda each: each if each in numbers else None)


def kind_of_reaction(reaction: Reaction, address: int) -> Name:
    """What of a reaction decides about an exchange."""
    relayed = address if isinstance(reaction, Relay) else None
    return type(reaction), getattr(reaction, "http", None), relayed
