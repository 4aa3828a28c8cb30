"""What is known of a short connection that was walked: a record by which others of its class can go (``flowcache``).

A :class:`Recording` is taken while the connection is walked. It becomes a :class:`Record` if everything that decided on
the way is covered: see ``flowcache`` for what that is.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from kpsim.addresses import Family, format_ip
from kpsim.conntrack import Entry, FlowTuple
from kpsim.exchange import Exchange, Target, Verdict
from kpsim.fabric import Hop, Journey, Place, Whose
from kpsim.netfilter import Netns
from kpsim.packet import Packet
from kpsim.packetpath.asked import NOTHING, Asked, AskedSet, Test, asked, asked_by_elements
from kpsim.packetpath.chooser import Chooser
from kpsim.packetpath.index import CompiledChain, compiled
from kpsim.packetpath.memory import NOTHING_TOUCHED
from kpsim.packetpath.routing import Routing
from kpsim.programmed import Programmed
from kpsim.ruleset import Chain, Field, Masquerade, NatFlags, Set, TableKey
from kpsim.simulation.attempts import Attempt, OpenFlow
from kpsim.simulation.runlog import Fate
from kpsim.sysctls import Sysctls

_FIRST_PORT = 1024  #: below it Linux draws from other ranges (K-2.3)
_RANDOM = NatFlags.RANDOM | NatFlags.FULLY_RANDOM
_STATES = frozenset({"", "NEW", "ESTABLISHED"})
_SEGMENTS = 4  #: behind the exchange: the client's ACK, a FIN of each end, the last ACK


class NotCovered(Exception):
    """Something decided or was changed on the way that a record does not hold."""


class Kept(NamedTuple):
    """An entry that a connection leaves in a node's table. Ports are places: 0 is the client's, then those drawn."""

    entry: Entry
    from_client: bool  #: the original source is the client's address
    to_client: bool  #: answers go to the client's address
    sport: int
    reply_dport: int
    earliest_end_ns: int  #: after its beginning

    def of_another(self, client: int, ports: tuple[int, ...], now_ns: int) -> Entry:
        """The entry of another connection of the class."""
        old = self.entry
        family, protocol, saddr, _, daddr, dport = old.original
        original = FlowTuple(family, protocol, client if self.from_client else saddr, ports[self.sport], daddr, dport)
        family, protocol, saddr, sport, daddr, _ = old.reply
        reply = FlowTuple(family, protocol, saddr, sport, client if self.to_client else daddr, ports[self.reply_dport])
        lasts_ns = old.expires_ns - old.created_ns
        return Entry(original, reply, old.state, old.seen_reply, old.assured, now_ns, now_ns + lasts_ns, *old[7:])


class HeldSet(NamedTuple):
    """A set that was asked on the way, as it was."""

    table: TableKey
    of: Set
    asked: AskedSet


@dataclass(slots=True)
class PassedNode:
    """A node on the way, and what of it the way depends on."""

    netns: Netns
    family: Family
    told: Programmed | None
    routing: Routing
    sysctls: Sysctls
    arrangement: tuple[object, ...]
    chains: tuple[tuple[TableKey, Chain], ...]
    sets: list[HeldSet]
    keeps: bool  #: a rule may keep the port of an earlier connection from the same source
    kept: tuple[Kept, ...]


class PortDraw(NamedTuple):
    """A source port that a rule draws: one of ``size`` from ``low`` on."""

    size: int
    key: Hashable
    low: int


@dataclass(slots=True)
class Record:
    """What becomes of the connections of a class whose draws led here."""

    nodes: tuple[PassedNode, ...]
    names: frozenset[str]  #: of the nodes
    outside: bool  #: the client is one of many outside
    addresses: frozenset[int]  #: from and to which the packets went
    drawn: tuple[PortDraw, ...]
    fixed_ports: frozenset[int]  #: which rules compare, or the server uses: neither client nor draw has one of them
    ranges: tuple[tuple[int, int, tuple[bool, ...]], ...]  #: and whether each of the ports lay between
    end: Place
    target: Target  #: what the end listens at
    translations: tuple[tuple[Target, str], ...]  #: where the Service must have an endpoint, as these nodes know it
    attempt: Attempt
    decided_of_client: bool  #: the source that the deciding node saw is the client's address
    seen_of_client: bool  #: the source that the endpoint saw is it

    def ports(self, sport: int, chooser: Chooser) -> tuple[int, ...] | None:
        """The client's port and those that rules draw; None: one of them is not like that of the record."""
        ports = (sport, *[low + chooser.port(size, key) for size, key, low in self.drawn])
        if min(ports) < _FIRST_PORT or len({*ports}) < len(ports) or not self.fixed_ports.isdisjoint(ports):
            return None
        for low, high, before in self.ranges:
            if tuple([low <= port <= high for port in ports]) != before:
                return None
        return ports

    def attempt_of(self, client: str, answered_by: str) -> Attempt:
        """What becomes of another client's attempt."""
        old = self.attempt
        return replace(
            old,
            source_ip=client if self.decided_of_client else old.source_ip,
            seen_source_ip=client if self.seen_of_client else old.seen_source_ip,
            answered_by=answered_by,
        )


class Drawn(NamedTuple):
    """A draw that decides where packets go: the method of the chooser, its arguments, and what came out."""

    kind: str
    limit: int
    key: Hashable
    outcome: int


class Recording:
    """A short connection while it is walked. It answers the walks' draws, and notes the chains that packets meet.

    ``outside``: nothing but rules and routes can tell its client from others.
    """

    def __init__(self, packet: Packet, at_node: str, chooser: Chooser, *, local: bool, outside: bool) -> None:
        self.packet = packet
        self.at_node = at_node
        self.local = local
        self.outside = outside
        self.draws: list[Drawn] = []
        self.flow: OpenFlow | None = None  #: once it is set up
        self.to_server = True  #: the way of the packet that is being walked
        self.segments: list[Journey] = []
        self._judged: Exchange | None = None
        self._outcome: Attempt | None = None
        self._chooser = chooser
        self._ports: list[tuple[int, Hashable, int]] = []
        self._covered = True
        self._met: dict[str, tuple[Netns, dict[tuple[int, bool], Chain]]] = {}
        self._watched: list[Netns] = []

    # --- while it is walked: draws, as a Chooser answers them ---------------------------------------------------------

    def chance(self, threshold: int, key: Hashable) -> bool:
        outcome = self._chooser.chance(threshold, key)
        self.draws.append(Drawn("chance", threshold, key, outcome))
        return outcome

    def uniform(self, limit: int, key: Hashable) -> int:
        outcome = self._chooser.uniform(limit, key)
        self.draws.append(Drawn("uniform", limit, key, outcome))
        return outcome

    def port(self, limit: int, key: Hashable) -> int:
        outcome = self._chooser.port(limit, key)
        self._ports.append((limit, key, outcome))
        return outcome

    def victim(self, limit: int, key: Hashable) -> int:
        self._covered = False
        return self._chooser.victim(limit, key)

    # --- chains -------------------------------------------------------------------------------------------------------

    def watch(self, netns: Netns) -> None:
        """Note the chains that packets meet on a node, until :meth:`rest`."""
        if netns in self._watched:
            return
        self._watched.append(netns)
        met = self._met.setdefault(netns.name, (netns, {}))[1]

        def ready(chain: Chain) -> CompiledChain:
            met[id(chain), self.to_server] = chain
            return compiled(chain)

        netns.ready = ready

    def rest(self) -> None:
        """Stop watching."""
        for netns in self._watched:
            netns.ready = compiled
        self._watched.clear()

    def answers(self, chooser: Chooser) -> "Chooser":
        """The chooser for a later segment: one that draws anything is not covered."""
        return _Segment(self, chooser)

    def spoil(self) -> None:
        """Note that what happens is not covered."""
        self._covered = False

    def exchanged(self, judged: Exchange, outcome: Attempt) -> None:
        """Note what became of the first packet, and of its answer."""
        self._judged, self._outcome, self.flow = judged, outcome, outcome.flow

    # --- afterwards ---------------------------------------------------------------------------------------------------

    def record(self) -> tuple[Record, frozenset[Test]]:
        """The record, and what its rules ask of the client's address. NotCovered if there can be none."""
        judged, outcome = self._judged, self._outcome
        if not self._covered or judged is None or outcome is None or len(self.segments) != _SEGMENTS:
            raise NotCovered
        if judged.verdict is not Verdict.WORKS or judged.relay is not None or outcome.disposition is not Fate.DELIVERED:
            raise NotCovered
        request, answer, flow = judged.request, judged.answer, self.flow
        at_home = request.origin.whose is not Whose.POD or request.origin.node == self.at_node
        if request.end is not None and request.end.whose is Whose.OUTSIDE:
            raise NotCovered
        if not at_home or outcome.followed is not None or request.end is None or answer is None or flow is None:
            raise NotCovered
        versions, drawn = _followed([request, answer, *self.segments], self._ports)
        client, ports = request.sent.saddr, (self.packet.sport, *(low + at for (_, _, at), low in drawn))
        places = {port: place for place, port in enumerate(ports)}
        kept = {name: [self._kept(each, client, places) for each in found] for name, found in versions.items()}
        nodes, asks = [], []
        for name, (netns, met) in self._met.items():
            node, here = self._passed(netns, met, tuple(kept.pop(name, ())))
            nodes.append(node)
            asks.append(here)
        if kept:
            raise NotCovered
        every = Asked.union(asks)
        entries = [each.entry for node in nodes for each in node.kept]
        fixed = every.ports.union(*((entry.original.dport, entry.reply.sport) for entry in entries))
        ranges = [(low, high, tuple([low <= port <= high for port in ports])) for low, high in sorted(every.ranges)]
        text = format_ip(request.sent.family, client)
        record = Record(
            tuple(nodes), frozenset(self._met), self.outside, frozenset(_addresses([request, answer, *self.segments])), tuple(PortDraw(size, key, low) for (size, key, _), low in drawn), fixed,
            tuple(ranges), request.end, Target.of(request.packet), tuple(_translations(request)),
            replace(outcome, flow=replace(flow, over=True)),
            self.outside and outcome.source_ip == text, self.outside and outcome.seen_source_ip == text,
        )  # fmt: skip
        if record.ports(self.packet.sport, self._chooser) != ports:
            raise NotCovered
        return record, every.addresses

    def _kept(self, versions: list[Entry], client: int, places: Mapping[int, int]) -> Kept:
        last = versions[-1]
        original, reply = last[:2]
        sport, dport = places.get(original.sport), places.get(reply.dport)
        if sport is None or dport is None or original == reply or last.served_until_ns is not None:
            raise NotCovered
        earliest_ns = min(each.expires_ns for each in versions) - last.created_ns
        from_client, to_client = original.saddr == client, reply.daddr == client
        return Kept(last, self.outside and from_client, self.outside and to_client, sport, dport, earliest_ns)

    def _passed(
        self, netns: Netns, met: dict[tuple[int, bool], Chain], kept: tuple[Kept, ...]
    ) -> tuple[PassedNode, Asked]:
        """A node on the way, and what its chains ask of the client's end."""
        family, routing = self.packet.family, netns.routing
        told = netns.programmed.get(family)
        if routing.rules or routing.only_local(family) or (told is not None and told.virtual_servers):
            raise NotCovered
        tables = {} if told is None else dict(told.ruleset.tables.items())
        every, chains, sets = [NOTHING], dict[int, tuple[TableKey, Chain]](), list[HeldSet]()
        for (_, to_server), chain in met.items():
            at = next((key for key, table in tables.items() if table.chains.get(chain.name) is chain), None)
            found = asked(chain, of_source=to_server)
            if at is None or found is None:
                raise NotCovered
            chains[id(chain)] = at, chain
            every.append(found)
            for each in found.sets:
                if (Field.SPORT if to_server else Field.DPORT) in each.key:
                    raise NotCovered
                of = tables[at].sets.get(each.name)
                tests = None if of is None else asked_by_elements(of, each.place if self.outside else -1)
                if of is None or tests is None:
                    raise NotCovered
                sets.append(HeldSet(at, of, each))
                every.append(Asked(addresses=tests))
        asks = Asked.union(every)
        node = PassedNode(
            netns, family, told, routing, netns.sysctls, netns.arrangement[family], tuple(chains.values()), sets,
            asks.keeps, kept,
        )  # fmt: skip
        return node, asks


class _Segment:
    """The draws of a segment behind the exchange. Satisfies ``Chooser``."""

    def __init__(self, recording: Recording, chooser: Chooser) -> None:
        self._recording = recording
        self._chooser = chooser

    def chance(self, threshold: int, key: Hashable) -> bool:
        self._recording.spoil()
        return self._chooser.chance(threshold, key)

    def uniform(self, limit: int, key: Hashable) -> int:
        self._recording.spoil()
        return self._chooser.uniform(limit, key)

    def port(self, limit: int, key: Hashable) -> int:
        self._recording.spoil()
        return self._chooser.port(limit, key)

    def victim(self, limit: int, key: Hashable) -> int:
        self._recording.spoil()
        return self._chooser.victim(limit, key)


def _followed(
    journeys: list[Journey], ports: list[tuple[int, Hashable, int]]
) -> tuple[dict[str, list[list[Entry]]], list[tuple[tuple[int, Hashable, int], int]]]:
    """By node the versions of each entry, oldest first, and the drawn ports, each with the first that could be drawn."""
    versions: dict[tuple[str, FlowTuple], list[Entry]] = {}
    lows: list[int] = []
    for number, journey in enumerate(journeys):
        for hop in journey.hops:
            _check(hop)
            walk, effects = hop.walk, hop.walk.effects
            if effects.created is not None:
                if number:  # a node that had not seen the request
                    raise NotCovered
                versions[hop.node, effects.created.key] = [effects.created]
            if effects.updated is not None:
                if (hop.node, effects.updated.key) not in versions:
                    raise NotCovered
                versions[hop.node, effects.updated.key].append(effects.updated)
            if walk.source_ports is not None:
                lows.append(walk.source_ports[0])
    if len(lows) != len(ports):  # the kernel tried several, or drew one for another reason
        raise NotCovered
    by_node: dict[str, list[list[Entry]]] = {}
    for (node, _), found in versions.items():
        by_node.setdefault(node, []).append(found)
    return by_node, list(zip(ports, lows, strict=True))


def _check(hop: Hop) -> None:
    """NotCovered if a node did something to a packet that the next connection might find otherwise."""
    walk, effects = hop.walk, hop.walk.effects
    if effects.destroyed or effects.turned_away or effects.touched != NOTHING_TOUCHED:
        raise NotCovered
    if walk.unknown or walk.server is not None or walk.served is not None or walk.ct_state not in _STATES:
        raise NotCovered
    if walk.source_ports is not None:
        statement = None if walk.snat_rule is None or walk.snat_rule.rule is None else walk.snat_rule.rule.target
        if not isinstance(statement, Masquerade) or not statement.flags & _RANDOM:
            raise NotCovered  # another connection stood in the way


def _addresses(journeys: list[Journey]) -> Iterator[int]:
    for journey in journeys:
        for packet in (journey.sent, *(hop.walk.packet for hop in journey.hops)):
            yield from (packet.saddr, packet.daddr)


def _translations(request: Journey) -> Iterator[tuple[Target, str]]:
    """What nodes made of the destination, each time that it changed, and what it is in the end."""
    before = Target.of(request.sent)
    for hop in request.hops:
        after = Target.of(hop.walk.packet)
        if after != before:
            yield after, hop.node
        before = after
    yield before, request.hops[-1].node
