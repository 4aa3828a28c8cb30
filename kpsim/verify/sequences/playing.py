"""Plays the steps of a sequence at a twin with its kube-proxy: packets, changes of endpoints, waits.

Counterpart: a node in use. After every step the model and Linux must agree on each connection and on the number of
connections, and after the last step on the affinity lists too. Real time passes. While a timer is about to run out a
step waits, since the clocks of the two differ by some milliseconds.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.backends.table import make_backend
from kpsim.cluster import Event, EventType, through_selector
from kpsim.config import config_from_json
from kpsim.conntrack import Entry, FlowTuple, Found, tuple_of
from kpsim.explore import Cluster
from kpsim.flowstate import ICMP_REQUESTS
from kpsim.inputs import Json
from kpsim.netfilter import Disposition, Walk, expand
from kpsim.objects import EndpointSlice, ObjectKey, service_from_json
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.pins import listed_flow
from kpsim.protocols import ICMP_PORT_UNREACHABLE
from kpsim.proxier import Proxier
from kpsim.replay import START_NS
from kpsim.tracing.site import Site
from kpsim.units import MILLISECOND_NS, SECOND_NS
from kpsim.verify.balanced import without_ipvs
from kpsim.verify.intent.judging import Unmeant
from kpsim.verify.intent.watching import Onlooker
from kpsim.verify.remembered import ends_of_members, members_of
from kpsim.verify.sequences.numbers import Numbers
from kpsim.verify.sequences.steps import (
    ChangeEndpoints,
    ChangeService,
    ClientSegment,
    DeleteFlow,
    FirstPacket,
    Flush,
    MidStream,
    Opening,
    PacketStep,
    Restart,
    Retransmit,
    RouterError,
    SequenceStep,
    ServerError,
    ServerSegment,
    StrayError,
    Wait,
    changed_slices,
    said,
)
from kpsim.verify.twin import Difference, Exchange, Twin, connection_differences

_MARGIN_NS = 60 * MILLISECOND_NS  #: nothing is sent so close to the end of a timer
_STREAM_AFTER_NS = 2 * SECOND_NS  #: a UDP flow with answers becomes a stream after this time (CT-5.1)
_TIMER_TOLERANCE_S = 1.3  #: Linux reports timers in whole seconds
#: routers outside the node
_ROUTERS = {Family.IPV4: 203 << 24 | 113 << 8 | 254, Family.IPV6: 0x20010DB8_00CB0071_00000000_000000FE}
_LONG_S = 60  #: shorter affinities may end within a sequence


class Played(NamedTuple):
    """A step that was played. ``exchange`` is None if it sent no packet."""

    step: SequenceStep
    exchange: Exchange | None = None
    differences: tuple[Difference | Unmeant, ...] = ()


class Talker(NamedTuple):
    """A flow's two ends: what the client sent, and what the other end has seen."""

    opening: Opening
    last: Packet | None = None  #: the client's latest packet
    seen: Packet | None = None  #: the latest packet as the other end saw it, with the interface that this end is behind
    answer: Packet | None = None  #: the latest answer as the client saw it, likewise


@dataclass(frozen=True, slots=True)
class Playing:
    """The steps that were played, up to the first disagreement. ``in_the_end``: affinity lists that differ after the
    last step.
    """

    played: tuple[Played, ...]
    in_the_end: tuple[Difference, ...] = ()

    @property
    def packets(self) -> int:
        return sum(each.exchange is not None for each in self.played)

    @property
    def differences(self) -> tuple[Difference | Unmeant, ...]:
        return (*chain.from_iterable(each.differences for each in self.played), *self.in_the_end)


class Player:
    """Plays sequences at one family of a node. The twin must be silent (see :class:`Twin`) and not be used by others
    meanwhile. ``onlooker`` knows what is due.
    """

    def __init__(self, twin: Twin, cluster: Cluster, node: str, onlooker: Onlooker | None = None) -> None:
        self._twin, self._cluster, self._node = twin, cluster, node
        self._clock = twin.clock
        self._site: Site = cluster.site
        self._state = cluster.state
        self._proxier = cluster.proxier(node, twin.family)
        self._onlooker = onlooker
        if onlooker is not None:
            onlooker.look(self._objects())
        self._begun_ns = self._clock.now_ns()
        self._numbers = Numbers()
        self._talkers: dict[int, Talker] = {}
        self._unmeant: list[Unmeant] = []  # of the present step, before its packet is sent
        self.rules_left_out = 0  #: rules that ask of ip_vs
        self._touched_ns: list[int] = []  # the times of changes in affinity lists
        timeouts_s = {service.affinity_timeout_seconds or _LONG_S for service in cluster.state.services}
        self._affinities_ns = sorted(seconds * SECOND_NS for seconds in timeouts_s if seconds < _LONG_S)

    def play(self, steps: Iterable[SequenceStep]) -> Playing:
        """Plays steps from empty tables on, up to the first disagreement. Canaries go first and last, and after every
        packet.

        LabError, or its kind BlindLab, if nothing could be measured.
        """
        twin = self._twin
        if (difference := self._load()) is not None:
            return Playing((), (difference,))  # Linux holds other rules
        twin.linux.add_pods(address for family, address in self._site.directory.pods if family is twin.family)
        twin.exchange([])
        twin.forget()
        played: list[Played] = []
        for step in steps:
            deadlines_ns = list(self._deadlines_ns())
            played.append(self.step(step))
            if self._is_too_late(deadlines_ns):
                twin.exchange([])
                return Playing(tuple(played[:-1]))  # whether a timer had run out cannot be told
            if played[-1].differences:
                return Playing(tuple(played))
        in_the_end = tuple(self._affinity_differences())
        twin.exchange([])
        return Playing(tuple(played), in_the_end)

    def step(self, step: SequenceStep) -> Played:
        """Plays one step. A step that is not possible, such as an answer to a packet that did not arrive, does nothing."""
        exchange, differences = None, list[Difference | Unmeant]()
        self._unmeant = []
        self._let_timers_run_out()
        match step:
            case ChangeEndpoints():
                differences += self._change(step.service, list(changed_slices(self._cluster.state, step)))
            case ChangeService(service, document):
                differences += self._change_service(service, document)
            case Restart(document):
                differences += self._restart(document)
            case Flush():
                differences += self._flush()
            case Wait(duration_ns):
                self._clock.wait(duration_ns)
            case _:
                exchange = self._packet(step)
        if exchange is not None:
            differences += exchange.differences or self._unmeant
            if self._onlooker is not None and not exchange.differences:
                differences += self._onlooker.saw(exchange.shot.packet, exchange.walk, self._clock.now_ns())
        self._let_timers_run_out()
        differences += self._memory_differences()
        return Played(step, exchange, tuple(dict.fromkeys(differences)))

    # --- packets ---------------------------------------------------------------------------------------------------------

    def _packet(self, step: PacketStep) -> Exchange | None:
        """Plays a step that sends a packet, or forgets one."""
        talker = self._talkers.get(step.flow)
        match step:
            case FirstPacket(flow, opening):
                return self._begin(flow, opening, opening.packet())
            case MidStream(flow, opening, says):
                return self._begin(flow, opening, opening.packet(says))
            case StrayError(flow, opening, says):
                self._talkers.setdefault(flow, Talker(opening))
                return self._send(self._site.begin(_stray_error(opening, says), self._node, opening.sender))
            case ClientSegment(flow, says, window) if talker:
                return self._client(flow, said(talker.opening.packet(), says, window))
            case Retransmit(flow) if talker and talker.last:
                return self._client(flow, replace(talker.last, repeated=True))
            case ServerSegment() | ServerError() if talker and talker.seen:
                return self._serve(step.flow, _answer(step, talker.seen))
            case RouterError(_, about, says) if talker:
                told = talker.seen if about == "request" else talker.answer
                if told is not None and told.out_interface not in ("", "lo"):
                    return self._send(_router_error(told, says))
            case DeleteFlow() if talker:
                if found := self._find(talker.opening.tuple):
                    self._delete(found.entry)
            case _:
                pass
        return None

    def _begin(self, flow: int, opening: Opening, packet: Packet) -> Exchange:
        self._talkers[flow] = Talker(opening)
        return self._client(flow, packet)

    def _client(self, flow: int, packet: Packet) -> Exchange:
        talker = self._talkers[flow]
        exchange = self._send(self._site.begin(packet, self._node, talker.opening.sender))
        arrived = exchange.walk.disposition in (Disposition.FORWARDED, Disposition.DELIVERED)
        seen = exchange.walk.packet if arrived else talker.seen
        self._talkers[flow] = Talker(talker.opening, packet, seen, talker.answer)
        return exchange

    def _serve(self, flow: int, packet: Packet) -> Exchange:
        exchange = self._send(packet)
        if exchange.walk.disposition in (Disposition.FORWARDED, Disposition.DELIVERED) and packet.related is None:
            self._talkers[flow] = self._talkers[flow]._replace(answer=exchange.walk.packet)
        return exchange

    def _send(self, packet: Packet) -> Exchange:
        found = None if packet.related else self._find(tuple_of(packet))
        shot = self._numbers.shot(packet, found)
        if self._onlooker is not None and found is None:
            now_ns = self._clock.now_ns()
            self._unmeant = self._onlooker.foresees(packet, lambda: self._ways(packet, now_ns), now_ns)
        exchange = self._twin.send(shot, canary=True)
        self._numbers.note(shot, found, exchange.walk)
        self._touched_ns += {touch.now_ns for touch in exchange.walk.effects.touched.recent}
        return exchange

    def _ways(self, packet: Packet, now_ns: int) -> Iterable[Walk]:
        """All ways that the model has for a packet."""
        return (way for _, way in expand(self._twin.model, packet, now_ns=now_ns, local=not packet.in_interface))

    def _find(self, flow: FlowTuple) -> Found | None:
        return self._twin.model.conntrack.lookup(flow, self._clock.now_ns())

    # --- changes ---------------------------------------------------------------------------------------------------------

    def _change(self, service: str, objects: Sequence[EndpointSlice]) -> list[Difference | Unmeant]:
        """Gives kube-proxy changed slices of a Service, lets it sync and delete stale UDP flows (O-12, CT-2). Returns
        differences in the rules, and in the flows that are due to go.
        """
        before = self._objects()
        for each in objects:
            event, self._state = self._state.put(each)
            self._tell(event)
        return self._sync(service, before)

    def _change_service(self, service: str, document: str) -> list[Difference | Unmeant]:
        before = self._objects()
        namespace, _, name = service.partition("/")
        if document:
            event, self._state = self._state.put(service_from_json(json.loads(document)))
            self._tell(event)
        else:
            gone, self._state = self._state.remove(ObjectKey("Service", namespace, name))
            if gone is not None:
                self._tell(gone)
        return self._sync("", before)

    def _restart(self, document: str) -> list[Difference | Unmeant]:
        """Starts another kube-proxy, which finds the rules of the one before."""
        before, cluster, held = self._objects(), self._cluster, self._proxier.held
        obj = json.loads(document)
        cluster = replace(cluster, config=config_from_json(obj))
        settings = cluster.settings(self._node, self._twin.family)
        self._proxier = Proxier(settings, make_backend(settings), created_ns=self._now_ns(), held=held)
        for key in sorted(self._state.objects):
            self._tell(Event(EventType.ADDED, None, self._state.objects[key]))
        self._proxier.services_synced()
        self._proxier.slices_synced()
        if self._onlooker is not None:
            self._onlooker.configured(obj)
        return self._sync(None, before)

    def _flush(self) -> list[Difference | Unmeant]:
        """Takes kube-proxy's rules away. From then on nothing is due: what kube-proxy forgot to do stays undone."""
        self._onlooker = None
        self._proxier.held = self._proxier.backend.flush(self._proxier.held)
        difference = self._load()
        return [difference] if difference is not None else []

    def _load(self) -> Difference | None:
        """Gives both sides what kube-proxy has told the kernel, as far as a kernel without ip_vs takes it."""
        loaded = without_ipvs(self._proxier.held)
        self.rules_left_out = loaded.rules
        return self._twin.load(loaded.told)

    def _tell(self, event: Event) -> None:
        seen = through_selector(event, self._node)
        if seen is not None:
            self._proxier.on_event(seen, self._now_ns())

    def _now_ns(self) -> int:
        """kube-proxy's time."""
        return START_NS + self._clock.now_ns() - self._begun_ns

    def _objects(self) -> list[Json]:
        return [self._state.objects[key].json for key in sorted(self._state.objects)]

    def _sync(self, service: str | None, before: Sequence[Json]) -> list[Difference | Unmeant]:
        """Lets kube-proxy sync. ``service``: whose slices changed; None: kube-proxy is new, so all are news to it."""
        table = self._twin.model.conntrack
        table.expire(self._clock.now_ns())
        entries = {listed_flow(entry.original, entry.reply): entry for entry in table.udp_entries(self._twin.family)}
        result = self._proxier.sync(self._now_ns(), lambda: entries)
        if not result.success:  # its rules were gone; the next sync is full
            result = self._proxier.sync(self._now_ns(), lambda: entries)
        difference = self._load()
        found: list[Difference | Unmeant] = [difference] if difference is not None else []
        if self._onlooker is not None:
            gone = [entries[flow] for flow in result.conntrack_deleted]
            found += self._onlooker.synced(service, before, self._objects(), list(entries.values()), gone)
        for flow in result.conntrack_deleted:
            self._delete(entries[flow])
        return found

    def _delete(self, entry: Entry) -> None:
        self._twin.model.conntrack.delete(entry.original, entry.reply)
        self._twin.linux.conntrack.delete(entry.key)

    def _let_timers_run_out(self) -> None:
        while True:
            now_ns = self._clock.now_ns()
            near_ns = [end for end in self._deadlines_ns() if now_ns - _MARGIN_NS < end < now_ns + _MARGIN_NS]
            if not near_ns:
                return
            self._clock.wait(max(near_ns) + _MARGIN_NS - now_ns)

    def _is_too_late(self, deadlines_ns: Iterable[int]) -> bool:
        """Whether this machine was so busy that a timer ran out while a packet was under way."""
        sent_ns, followed_ns = self._twin.latest_ns
        if followed_ns - sent_ns < _MARGIN_NS:
            return False
        return any(sent_ns - _MARGIN_NS < end < followed_ns + _MARGIN_NS for end in deadlines_ns)

    def _deadlines_ns(self) -> Iterator[int]:
        """The ends of all timers that decide what happens to a packet."""
        for entry in self._twin.model.conntrack:
            yield entry.expires_ns
            if entry.original.protocol == "udp":
                yield entry.created_ns + _STREAM_AFTER_NS
        for affinity_ns in self._affinities_ns:
            yield from (touched_ns + affinity_ns for touched_ns in self._touched_ns)
        yield from ends_of_members(self._twin.model, self._twin.family)

    # --- what is remembered ------------------------------------------------------------------------------------------------

    def _memory_differences(self) -> Iterator[Difference]:
        """Differences in connections and in their number."""
        table, linux = self._twin.model.conntrack, self._twin.linux.conntrack
        for gone in table.expire(self._clock.now_ns()):
            for flow in (gone.entry.original, gone.entry.reply):
                if table.lookup(flow, self._clock.now_ns()) is None and (real := linux.get(flow)) is not None:
                    yield Difference("connection", f"expired: {gone.entry}", str(real))
        for entry, real in zip(table, linux.get_all([entry.key for entry in table]), strict=True):
            tolerance_s = _TIMER_TOLERANCE_S + self._twin.slack_s
            yield from connection_differences(entry, real, self._clock.now_ns(), tolerance_s)
        if len(table) != len(linux):
            yield Difference("number of connections", str(len(table)), str(len(linux)))

    def _affinity_differences(self) -> Iterator[Difference]:
        """Differences in the affinity lists that rules use, and in their sources."""
        tool, model = self._twin.linux.tool, self._twin.model
        used, held = tool.lists_in_rules(), tool.lists()
        if used != held:
            yield Difference("affinity lists", _joined(used), _joined(held))
        now_ns = self._clock.now_ns()
        for name in sorted(used & held):
            known, real = members_of(model, self._twin.family, name, now_ns), tool.remembered(name)
            if known.keys() != real.keys():
                yield Difference(f"affinity list {name}", _joined(known), _joined(real))
                continue
            for member, left_s in real.items():
                own_s = known[member]
                if (
                    left_s is not None
                    and own_s is not None
                    and abs(left_s - own_s) > _TIMER_TOLERANCE_S + self._twin.slack_s
                ):
                    yield Difference(f"time of {member} in {name}", f"{own_s:.0f} s", f"{left_s:.0f} s")


def _answer(step: ServerSegment | ServerError, seen: Packet) -> Packet:
    """What the other end sends back for ``seen``, the packet that it saw last."""
    icmp = seen.protocol in ICMP_PROTOCOLS
    sport, dport = (seen.sport, seen.dport) if icmp else (seen.dport, seen.sport)
    kind = ICMP_REQUESTS[seen.protocol].get(seen.icmp_type, seen.icmp_type) if icmp else 0
    interface = seen.out_interface if seen.out_interface != "lo" else ""
    answer = Packet(
        seen.family, seen.protocol, seen.daddr, seen.saddr, sport, dport, icmp_type=kind, in_interface=interface
    )  # fmt: skip
    if isinstance(step, ServerSegment):
        return said(answer, step.says, step.window)
    protocol, kind, code = ICMP_PORT_UNREACHABLE[seen.family]
    about = replace(seen, in_interface="", out_interface="")
    return replace(answer, protocol=protocol, sport=0, dport=0, icmp_type=kind, icmp_code=code, related=about)


def _router_error(told: Packet, says: str) -> Packet:
    """An error of a router behind the interface by which a packet left, told to that packet's sender."""
    protocol = "icmp" if told.family is Family.IPV4 else "icmpv6"
    about = replace(told, in_interface="", out_interface="", mark=0)
    error = Packet(
        told.family, protocol, _ROUTERS[told.family], told.saddr, in_interface=told.out_interface, related=about
    )
    return said(error, says)


def _stray_error(opening: Opening, says: str) -> Packet:
    """An error about a packet that the opening's destination never sent."""
    sent = opening.packet()
    protocol = "icmp" if sent.family is Family.IPV4 else "icmpv6"
    about = replace(sent, saddr=sent.daddr, daddr=sent.saddr, sport=sent.dport, dport=sent.sport)
    return said(Packet(sent.family, protocol, sent.saddr, sent.daddr, related=about), says)


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(sorted(texts)) or "nothing"
