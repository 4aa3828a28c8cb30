"""A twin: one family of a node in the model and in Linux. The same packets go through both, and everything that is
seen is compared.

Linux goes first, since it draws endpoints and ports. The model then must have an outcome that is the same: what comes
out where, how it looks, the error that the sender gets, and the connection with its timer.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from kpsim.addresses import Family, format_ip
from kpsim.conntrack import Entry, tuple_of
from kpsim.fabric import answer_to
from kpsim.lab.calls import LabError
from kpsim.lab.canaries import Canaries, guarded, tracking
from kpsim.lab.conntrack import LinuxEntry
from kpsim.lab.node import LabNode
from kpsim.lab.tools.variants import Variant
from kpsim.lab.wires import Heard, Shot, Sighting, Where
from kpsim.netfilter import Disposition, Netns, Walk
from kpsim.nodes import Machine
from kpsim.packet import Packet
from kpsim.packetpath.registration import HookEntry
from kpsim.packetpath.traversal import End, Traversal
from kpsim.programmed import Programmed
from kpsim.ruleset import Dnat, Hook, Mapped, Ruleset, SetReference
from kpsim.units import SECOND_NS
from kpsim.verify.clock import Clock
from kpsim.verify.following import every_walk, likely_walk
from kpsim.verify.prediction import (
    ROUTING_ERRORS,
    Sight,
    answer_of_node,
    error_of,
    is_answered_oddly,
    is_refused_by_routing,
    sights_of,
    told,
)
from kpsim.verify.remembered import written_by

#: a timer is read some time after it was set
TIMER_TOLERANCE_S = 3
_RAW = -300  #: the priority of the table that holds the guard


class Difference(NamedTuple):
    """One thing on which the model and Linux differ, and what each says."""

    what: str
    model: str
    linux: str

    def __str__(self) -> str:
        return f"{self.what}: the model says {self.model}, Linux says {self.linux}"


@dataclass(frozen=True, slots=True)
class Exchange:
    """A packet in the model and in Linux. ``walk`` is the model's: the way that Linux took, if the model has it."""

    shot: Shot
    walk: Walk
    heard: Heard
    differences: tuple[Difference, ...] = ()

    @property
    def arrival(self) -> Sighting | None:
        """The packet as it came out of the node; None if it did not, or if the model says otherwise."""
        if self.differences or self.walk.disposition is not Disposition.FORWARDED:
            return None
        return next((s for s in self.heard.sightings if s.where is not Where.SOCKET), None)

    def answer(self) -> Packet | None:
        """The answer of the pod or machine that got the packet; None if none got it."""
        if (arrival := self.arrival) is None:
            return None
        answer = answer_to(arrival.packet)
        answer.in_interface = arrival.name
        return answer


class Twin:
    """One family of a node in the model and in Linux. ``close`` it.

    ``silent``: the node refuses no TCP by itself. Then the caller can play processes that do not exist, for longer
    than one segment.
    """

    def __init__(
        self, machine: Machine, family: Family, variant: Variant = Variant.NFT, *, silent: bool = False
    ) -> None:
        self.machine, self.family, self.silent = machine, family, silent
        self.clock = Clock()
        self.linux = LabNode(machine, family, variant)
        try:
            self.canaries = Canaries(self.linux)
        except BaseException:
            self.linux.close()
            raise
        self._routing = machine.routing.with_routes(self.canaries.local_route)
        self.model = self._fresh()
        self._held = ""  # the rules as Linux saved them after loading
        self._begun_ns = self.clock.now_ns()  # when the latest batch was sent
        self.latest_ns = (0, 0)  #: when the latest batch was sent, and when the model followed it
        self.slack_s = 0.0  #: how far the two clocks of a timer may be apart, as this machine was busy
        self._refused: Counter[int] = Counter()  # numbers of packets that routing refused, by source

    def _fresh(self) -> Netns:
        model = Netns("node", self._routing, self.machine.sysctls)
        if self.silent:
            model.register(self.family, HookEntry(Hook.OUTPUT, _RAW, "guard", _resets_of_nobody))
        return model

    def close(self) -> None:
        self.linux.close()

    def load(self, told: Programmed | Ruleset) -> Difference | None:
        """Loads rules and ipsets into both, in Linux behind the guards.

        Returns the first line in which Linux holds something else.
        """
        tool, programmed = self.linux.tool, told if isinstance(told, Programmed) else Programmed.of(told)
        ruleset = programmed.ruleset
        self.model.load(replace(programmed, ruleset=tracking(ruleset)))
        loaded = guarded(ruleset, silent=self.silent)
        self.linux.load(loaded, programmed.ipsets)
        self.linux.be_local(programmed.local_addresses)
        self.linux.add_pods(_led_to(ruleset))  # also those that are gone by now, so that it can be seen who was chosen
        self.model.start_timers(self.family, self.clock.now_ns())
        self._held = tool.saved()
        expected, held = tool.without_guards(tool.printed(loaded)), tool.without_guards(self._held)
        if held == self._held:
            raise LabError("the rules that the lab loaded itself are not there: nothing can be measured")
        if found := self.linux.ipsets.first_difference():
            return Difference("ipsets", *found)
        found = tool.first_difference(expected, held)
        return Difference("rules", *found) if found else None

    def check_rules(self) -> None:
        """LabError unless Linux still holds all that was loaded. If not, what was measured since belongs to other
        rules.
        """
        if found := self.linux.tool.first_difference(self._held, self.linux.tool.saved()):
            loaded, now = found
            raise LabError(f"somebody changed the rules meanwhile: loaded was {loaded}, now there is {now}")

    def forget(self) -> None:
        """Makes both forget connections and affinities. Rules stay, and the model's buckets with them."""
        self.linux.forget()
        told, buckets = self.model.programmed.get(self.family), self.model.memory.buckets
        self.model = self._fresh()
        self.model.memory.buckets = buckets  # the rules that they belong to stay loaded
        if told is not None:
            self.model.load(told)

    # --- packets ---------------------------------------------------------------------------------------------------------

    def exchange(self, shots: Sequence[Shot]) -> list[Exchange]:
        """Sends a batch of packets through both, between two flocks of canaries. No two packets of a batch may begin
        the same flow.

        BlindLab if a canary is not seen as it must be.
        """
        before, behind = self.canaries.flock(), self.canaries.flock()
        sent = [*(c.shot for c in before), *map(self._bound, shots), *(c.shot for c in behind)]
        self.linux.add_pods(a for shot in shots for a in (shot.packet.saddr, shot.packet.daddr))
        self._begun_ns = self.clock.now_ns()
        heard, strays = self.linux.transmit(sent, wait_for_last=True)
        self.canaries.check(before, heard[: len(before)])
        self.canaries.check(behind, heard[-len(behind) :])
        found = self.follow(sent[len(before) : -len(behind)], heard[len(before) : -len(behind)])
        if strays and found:
            difference = Difference("packets that belong to none", "nothing", " and ".join(_shown(s) for s in strays))
            found[-1] = replace(found[-1], differences=(*found[-1].differences, difference))
        return found

    def send(self, shot: Shot, *, trace: bool = False, canary: bool = False) -> Exchange:
        """Sends one packet of a sequence through both. ``exchange`` must be called before and after a sequence.

        With ``canary`` a canary follows that leaves no connection. When it is seen, everything else has come out.
        """
        shot = self._bound(shot)
        self.linux.add_pods((shot.packet.saddr, shot.packet.daddr))
        behind = self.canaries.flock()[:1] if canary else []
        self._begun_ns = self.clock.now_ns()
        heard, strays = self.linux.transmit([shot, *(c.shot for c in behind)], wait_for_last=canary)
        self.canaries.check_seen(behind, heard[1:])
        heard = heard[:1]
        heard[0] = heard[0]._replace(sightings=(*heard[0].sightings, *strays))
        return self.follow([shot], heard, trace=trace)[0]

    def _bound(self, shot: Shot) -> Shot:
        """The shot with the source address that the node's kernel would choose, if it is a process's packet without
        one.
        """
        packet = shot.packet
        if packet.in_interface or packet.saddr:
            return shot
        bound = packet.copy()
        bound.saddr = self.model.routing.source_for(self.family, packet.daddr) or 0
        return shot._replace(packet=bound)

    # --- the model follows -------------------------------------------------------------------------------------------------

    def follow(self, shots: Sequence[Shot], heard: Sequence[Heard], *, trace: bool = False) -> list[Exchange]:
        """Sends a batch that went through Linux through the model, and compares."""
        now_ns = self.clock.now_ns()
        entries = self._entries([shot.packet for shot in shots])
        self.latest_ns = self._begun_ns, now_ns
        self.slack_s = max(self.slack_s, (self.clock.now_ns() - self._begun_ns) / SECOND_NS)
        found = [self._follow(*each, now_ns, trace=trace) for each in zip(shots, heard, entries, strict=True)]
        return [self._with_connection(each, entry, now_ns) for each, entry in zip(found, entries, strict=True)]

    def _entries(self, packets: Sequence[Packet]) -> list[LinuxEntry | None]:
        """Linux' connection for each packet; None for an ICMP error."""
        found = iter(self.linux.conntrack.get_all([tuple_of(packet) for packet in packets if packet.related is None]))
        return [None if packet.related else next(found) for packet in packets]

    def _follow(self, shot: Shot, heard: Heard, real: LinuxEntry | None, now_ns: int, *, trace: bool) -> Exchange:
        seen = sorted(Sight(s.where, s.name, told(s.packet)) for s in heard.sightings)
        way = self._walk_of(shot.packet, heard, seen, real, now_ns, trace=trace)
        if way.disposition is Disposition.UNKNOWN:
            return Exchange(shot, way, heard)  # the model claims nothing that Linux could contradict
        differences = []
        expected = list(sights_of(self.model, way))
        if is_refused_by_routing(way):
            self._refused[shot.packet.saddr] += 1
            if self._refused[shot.packet.saddr] > ROUTING_ERRORS and not seen:
                expected = []
        error = error_of(way) if not shot.packet.in_interface else ""
        self.model.commit(way.effects, now_ns)
        if self._is_answered(way) and is_answered_oddly(way):
            seen = [sight for sight in seen if sight in expected]
        elif self._is_answered(way) and (answer := answer_of_node(self.model, way, now_ns)):
            expected += sights_of(self.model, answer)
            self.model.commit(answer.effects, now_ns)
        if sorted(expected) != seen:
            differences.append(Difference("what is seen", _listed(expected), _listed(seen)))
        for sighting in heard.sightings:
            if sighting.address not in (None, sighting.packet.daddr):
                port = f"the port of {format_ip(self.family, sighting.address or 0)}"
                differences.append(Difference("where it is seen", f"the port of {sighting.packet.destination}", port))
        if error != heard.error:
            differences.append(Difference("what the sender is told", error or "nothing", heard.error or "nothing"))
        return Exchange(shot, way, heard, tuple(differences))

    def _is_answered(self, way: Walk) -> bool:
        """Whether the node itself may answer the packet."""
        return way.disposition is Disposition.DELIVERED and not (self.silent and way.packet.protocol == "tcp")

    def _walk_of(
        self, packet: Packet, heard: Heard, seen: Sequence[Sight], real: LinuxEntry | None, now_ns: int, *, trace: bool
    ) -> Walk:
        """The walk that Linux took. If the model has no such walk, the likeliest one."""
        endpoint, drawn = _turns(heard, real)
        likely = likely_walk(self.model, packet, endpoint, drawn, now_ns, trace=trace)
        if self._is_of(likely, seen) and _leads_to(likely, endpoint) and not _leaves_only_memory(likely):
            return likely
        every = [w for w in every_walk(self.model, packet, drawn, now_ns, trace=trace) if self._is_of(w, seen)]
        fitting = [w for w in every if _leads_to(w, endpoint)] or every
        return next(filter(self._is_remembered, fitting), fitting[0] if fitting else likely)

    def _is_remembered(self, way: Walk) -> bool:
        """Whether Linux' affinity lists hold what this way writes. For a packet that is dropped later, nothing else
        can be seen.
        """
        return all(member in self.linux.tool.remembered(name) for name, member in written_by(way, self.family))

    def _is_of(self, way: Walk, seen: Sequence[Sight]) -> bool:
        own = sights_of(self.model, way)
        return set(own) <= set(seen) if way.disposition is Disposition.DELIVERED else sorted(own) == seen

    def _with_connection(self, exchange: Exchange, real: LinuxEntry | None, now_ns: int) -> Exchange:
        packet = exchange.shot.packet
        odd = self._is_answered(exchange.walk) and is_answered_oddly(exchange.walk)
        if packet.related is not None or odd or exchange.walk.disposition is Disposition.UNKNOWN:
            return exchange
        found = self.model.conntrack.lookup(tuple_of(packet), now_ns)
        tolerance_s = TIMER_TOLERANCE_S + self.slack_s
        differences = connection_differences(found.entry if found else None, real, now_ns, tolerance_s)
        return replace(exchange, differences=(*exchange.differences, *differences)) if differences else exchange


def connection_differences(
    entry: Entry | None, real: LinuxEntry | None, now_ns: int, tolerance_s: float = TIMER_TOLERANCE_S
) -> list[Difference]:
    """How a connection differs in tuples, state, flags, mark and timer; timers may differ by ``tolerance_s`` seconds."""
    if entry is None or real is None:
        if entry is None and real is None:
            return []
        return [Difference("connection", str(entry or "none"), _entry_told(real) if real else "none")]
    known = LinuxEntry(
        entry.original, entry.reply, entry.state, entry.seen_reply, entry.assured, entry.src_nat, entry.dst_nat,
        entry.mark, real.seconds_left,
    )  # fmt: skip
    if known != real:
        return [Difference("connection", _entry_told(known), _entry_told(real))]
    left_s = (entry.expires_ns - now_ns) / SECOND_NS
    if abs(left_s - real.seconds_left) > tolerance_s:
        return [Difference(f"timer of {entry}", f"{left_s:.0f} s", f"{real.seconds_left} s")]
    return []


def _entry_told(seen: LinuxEntry) -> str:
    flags = {"SEEN_REPLY": seen.seen_reply, "ASSURED": seen.assured, "SRC_NAT": seen.src_nat, "DST_NAT": seen.dst_nat}
    words = "".join(f" [{name}]" for name, is_set in flags.items() if is_set)
    return f"{seen.state or '-'} {seen.original} ⇄ {seen.reply}{words}" + (f" mark {seen.mark:#x}" if seen.mark else "")


def _resets_of_nobody(traversal: Traversal) -> End | None:
    """Does what a silent node's guard does in Linux (:func:`~kpsim.lab.canaries.guarded`).

    It drops a reset that no process sends and that has no connection. So a rule's reset for a packet that is INVALID
    never gets to connection tracking.
    """
    packet = traversal.packet
    if packet.protocol == "tcp" and "RST" in packet.tcp_flags and traversal.socket is None and traversal.entry is None:
        return End(Disposition.DROPPED)
    return None


def _turns(heard: Heard, real: LinuxEntry | None) -> tuple[tuple[int, int] | None, int]:
    """What Linux drew: the endpoint's address and port (None if it is not seen), and the source port."""
    if real is not None:
        return (real.reply.saddr, real.reply.sport), real.reply.inverse().sport
    for sighting in heard.sightings:
        if sighting.packet.related is None:
            return (sighting.packet.daddr, sighting.packet.dport), sighting.packet.sport
    return None, 0


def _leads_to(way: Walk, endpoint: tuple[int, int] | None) -> bool:
    """Whether the connection that this way makes, if any, is to the endpoint that Linux drew, if that is known."""
    created = way.effects.created
    return endpoint is None or created is None or (created.reply.saddr, created.reply.sport) == endpoint


def _leaves_only_memory(way: Walk) -> bool:
    touched = way.effects.touched
    return bool(touched.recent or touched.sets) and way.disposition in (Disposition.DROPPED, Disposition.REJECTED)


def _listed(sights: Sequence[Sight]) -> str:
    return " and ".join(f"{packet} at {where} {name}".rstrip() for where, name, packet in sorted(sights)) or "nothing"


def _shown(sighting: Sighting) -> str:
    return f"{told(sighting.packet)} at {sighting.where} {sighting.name}".rstrip()


def _led_to(ruleset: Ruleset) -> Iterator[int]:
    """The addresses that rules translate destinations to."""
    for table in ruleset.in_order():
        for part in chain.from_iterable(rule.body for each in table.chains.values() for rule in each.rules):
            match part:
                case Dnat(address=int() as address):
                    yield address
                case Dnat(mapped=Mapped(map=of, address=True)):
                    elements = table.sets[of.name].elements if isinstance(of, SetReference) else of.elements
                    for each in elements.values():
                        if isinstance(each.value, tuple) and isinstance(each.value[0], int):
                            yield each.value[0]
                case _:
                    pass
