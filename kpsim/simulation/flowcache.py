"""Short connections that go as others went: what the nodes keep of them is written at once, without a walk.

Counterpart: a flow cache, such as Open vSwitch's megaflows. The kernel has none, so what is written must be exactly what
walks would have left. A short TCP connection is six packets at one instant. What becomes of it follows from its class
(where its first packet comes in, and what it dials), from draws, and from what the nodes hold. The first of a class is
walked and *recorded*: every draw, every chain that a packet met, and the entries that stay. The next one draws the same
draws, which are functions of their keys, and they lead to a record or to none. A record counts if all that it depends on
is as it was:

- the nodes' routes, settings and hook entries, and the very chains and sets that packets met;
- no entry has one of the new connection's tuples, the tables have room, and all machines on the way are on;
- the client's address and the ports answer alike everything that those chains ask (``packetpath.asked``);
- a pod listens at the end, and it is an endpoint of the Service that is dialled.

Clients outside share a class if no node and no chain met can tell their addresses apart. Source ports are never part of a
class; a drawn port is taken only from a rule that translates to random ports, never from a kernel that made way for
another connection. What is remembered by other means than connection tracking (affinity, limits, counters, ip_vs) is walked.
"""

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field

from kpsim.addresses import Family, format_ip
from kpsim.fabric import Fabric, Layout, Whose
from kpsim.packet import Packet
from kpsim.packetpath.asked import Likeness, changed_keys
from kpsim.packetpath.chooser import Chooser
from kpsim.programmed import Programmed
from kpsim.ruleset import Key, Set
from kpsim.simulation.answering import RunWorld, pod_name
from kpsim.simulation.attempts import Attempt
from kpsim.simulation.flowrecords import Drawn, HeldSet, NotCovered, PassedNode, Record, Recording

_MOST_RECORDS, _MOST_CHANGES = 20_000, 200
_TRIALS = 3  #: recordings of a class that come to nothing until the rules of its first node change


@dataclass(slots=True)
class _Draw:
    """A draw of a class, and where its outcomes lead."""

    kind: str
    limit: int
    key: Hashable
    ways: dict[Hashable, "_Draw | Record"] = field(default_factory=dict)

    def outcome(self, chooser: Chooser) -> int:
        return chooser.chance(self.limit, self.key) if self.kind == "chance" else chooser.uniform(self.limit, self.key)


class FlowCache:
    """The records of one run. ``off`` are the machines without power; ``world`` says what the client at hand dials."""

    def __init__(self, fabric: Fabric, world: RunWorld, off: Collection[str]) -> None:
        self._fabric = fabric
        self._world = world
        self._off = off
        self._layout: Layout | None = None
        self._known: dict[Hashable, _Draw | Record] = {}
        self._likeness: dict[Family, Likeness] = {}
        self._outside: dict[tuple[Family, int], bool] = {}
        self._records = 0
        #: by class: how many recordings came to nothing, the last with these rules of the first node
        self._uncovered: dict[Hashable, tuple[Programmed | None, int]] = {}
        #: changes of sets by the identity of both versions, which are kept beside
        self._changes: dict[tuple[int, int], tuple[Set, Set, frozenset[Key] | None]] = {}
        self.written = self.walked = 0  #: connections

    def attempt(self, packet: Packet, at_node: str, now_ns: int, chooser: Chooser, *, local: bool) -> Attempt | None:
        """Do all that a short connection does, up to its end, and return what became of it. None: it must be walked."""
        if not self._may_cover(packet.family, at_node):
            self.walked += 1
            return None
        if self._fabric.layout() is not self._layout:
            self._forget()
        known = self._known.get(self._class(packet, at_node, local=local))
        while isinstance(known, _Draw):
            known = known.ways.get(known.outcome(chooser))
        done = None if known is None else self._done(known, packet, now_ns, chooser)
        if done is None:
            self.walked += 1
        else:
            self.written += 1
        return done

    def _may_cover(self, family: Family, at_node: str) -> bool:
        """Whether there can be records. ip_vs' schedulers remember, and its addresses come and go with Services."""
        told = self._fabric.nodes[at_node].programmed.get(family)
        return told is None or not told.virtual_servers

    def _forget(self) -> None:
        """Forget everything, because some node has other routes or addresses now."""
        self._layout = self._fabric.layout()
        self._outside.clear()
        self._known.clear()
        self._uncovered.clear()
        self._records = 0
        self._likeness = {family: Likeness() for family in Family}
        for family, likeness in self._likeness.items():
            seen: set[int] = set()
            for netns in self._fabric.nodes.values():
                likeness.ask_routing(family, netns.routing, seen)

    def _class(self, packet: Packet, at_node: str, *, local: bool) -> Hashable:
        family, source = packet.family, packet.saddr
        like: Hashable = source
        if not local and self._is_outside(family, source):
            like = self._likeness[family].group(source)
        return family, packet.protocol, at_node, local, packet.in_interface, like, packet.daddr, packet.dport

    def _is_outside(self, family: Family, address: int) -> bool:
        known = self._outside.get((family, address))
        if known is None:
            layout = self._fabric.layout()
            outside = layout.place_of(family, address).whose is Whose.OUTSIDE
            known = self._outside[family, address] = outside and layout.neighbour(family, address) is None
        return known

    def _done(self, record: Record, packet: Packet, now_ns: int, chooser: Chooser) -> Attempt | None:
        ports = record.ports(packet.sport, chooser)
        if ports is None or not record.names.isdisjoint(self._off):
            return None
        client, made = packet.saddr, []
        for node in record.nodes:
            table = node.netns.conntrack
            if not self._is_as_it_was(node, record) or not table.has_room(len(node.kept), node.sysctls):
                return None
            for kept in node.kept:
                entry = kept.of_another(client, ports, now_ns)
                if not table.is_free(entry, of_source=node.keeps):
                    return None
                made.append((node.netns, entry, now_ns + kept.earliest_end_ns))
        listener = self._world.listener(record.end, record.target)
        if listener is None:
            return None
        if any(self._world.serves(target, target, node) is False for target, node in record.translations):
            return None
        for netns, entry, earliest_end_ns in made:
            netns.admit(entry, earliest_end_ns)
        return record.attempt_of(format_ip(packet.family, client), pod_name(listener))

    def _is_as_it_was(self, node: PassedNode, record: Record) -> bool:
        """Whether packets that met these chains and sets would meet the very same ones now, or get the same answers."""
        netns = node.netns
        if self._fabric.nodes.get(netns.name) is not netns:
            return False
        if netns.routing is not node.routing or netns.sysctls is not node.sysctls:
            return False
        told = netns.programmed.get(node.family)
        if told is node.told:
            return True
        if told is None or netns.arrangement[node.family] != node.arrangement:
            return False
        tables = told.ruleset.tables
        for key, chain in node.chains:
            if key not in tables or tables[key].chains.get(chain.name) is not chain:
                return False
        for place, held in enumerate(node.sets):
            now = tables[held.table].sets.get(held.asked.name) if held.table in tables else None
            if now is not held.of:
                if now is None or self._may_matter(held, now, record):
                    return False
                node.sets[place] = held._replace(of=now)
        node.told = told
        return True

    def _may_matter(self, held: HeldSet, now: Set, record: Record) -> bool:
        """Whether a set may answer otherwise than it did. An element whose address no packet had does not matter."""
        changes = self._changes.get((id(held.of), id(now)))
        if changes is None:
            if len(self._changes) >= _MOST_CHANGES:
                self._changes.clear()
            changes = self._changes[id(held.of), id(now)] = held.of, now, changed_keys(held.of, now)
        keys, places = changes[2], held.asked.addresses
        if keys is None:
            return True
        return any(all(self._may_be_of(record, key[place]) for place in places) for key in keys)

    def _may_be_of(self, record: Record, address: object) -> bool:
        if not isinstance(address, int) or address in record.addresses:
            return True
        return record.outside and self._is_outside(record.target.family, address)

    # --- recording ----------------------------------------------------------------------------------------------------

    def recording(self, packet: Packet, at_node: str, chooser: Chooser, *, local: bool) -> Recording | None:
        """Begin to record the connection that this packet begins. None: no other can go by it."""
        if not self._may_cover(packet.family, at_node):
            return None
        told, number = self._uncovered.get(self._class(packet, at_node, local=local), (None, 0))
        if number >= _TRIALS and told is self._fabric.nodes[at_node].programmed.get(packet.family):
            return None
        outside = not local and self._is_outside(packet.family, packet.saddr)
        return Recording(packet, at_node, chooser, local=local, outside=outside)

    def keep(self, recording: Recording) -> None:
        """Keep what was recorded, if other connections can go by it."""
        packet, local, at_node = recording.packet, recording.local, recording.at_node
        try:
            record, tests = recording.record()
        except NotCovered:
            of_class = self._class(packet, at_node, local=local)
            number = self._uncovered.get(of_class, (None, 0))[1]
            self._uncovered[of_class] = self._fabric.nodes[at_node].programmed.get(packet.family), number + 1
            return
        if not record.names.isdisjoint(self._off) or self._fabric.layout() is not self._layout:
            return
        if self._records >= _MOST_RECORDS:
            self._known.clear()
            self._records = 0
        self._records += 1
        if recording.outside:
            for test in sorted(tests):
                self._likeness[packet.family].ask(test)
        self._insert(self._class(packet, at_node, local=local), recording.draws, record)

    def _insert(self, of_class: Hashable, draws: list[Drawn], record: Record) -> None:
        """Put a record behind its draws. What former rules drew at the same place is forgotten."""
        ways, place = self._known, of_class
        for kind, limit, key, outcome in draws:
            at = ways.get(place)
            if not isinstance(at, _Draw) or (at.kind, at.limit, at.key) != (kind, limit, key):
                at = ways[place] = _Draw(kind, limit, key)
            ways, place = at.ways, outcome
        ways[place] = record
