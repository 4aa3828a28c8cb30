"""Drawn sequences use all that the kernel remembers (K-1, K-2, K-4, K-6, O-12), as far as the model can play them."""

import json
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
from drawings import Hypothetical, Scripted, cluster, parsed
from hypothesis import given, settings
from hypothesis import strategies as st
from shop import cluster_text, endpoints, port, service

from kpsim.addresses import Family, format_ip
from kpsim.cluster import through_selector
from kpsim.conntrack import Entry, tuple_of
from kpsim.explore import Cluster, load
from kpsim.kubeproxy.stale_flows import UdpFlow
from kpsim.netfilter import Disposition, Netns, Walk, walk
from kpsim.objects import EndpointSlice, ObjectKey, service_from_json
from kpsim.packet import ICMP_PROTOCOLS, Packet, Window
from kpsim.packetpath.chooser import SeededChooser
from kpsim.replay import START_NS
from kpsim.tracing.site import Sender
from kpsim.units import SECOND_NS
from kpsim.verify.drawing.choices import SeededChoices
from kpsim.verify.drawing.clusters import draw_manifest
from kpsim.verify.sequences.drawing import LONG_WAITS_NS, SHORT_WAITS_NS, draw_sequence
from kpsim.verify.sequences.steps import (
    ChangeEndpoints,
    ChangeService,
    ClientSegment,
    DeleteFlow,
    EndpointState,
    FirstPacket,
    MidStream,
    Opening,
    Restart,
    Retransmit,
    RouterError,
    SequenceStep,
    ServerError,
    ServerSegment,
    StrayError,
    Wait,
    changed_slices,
    describe,
    said,
)

V4, V6 = Family.IPV4, Family.IPV6
_UNREACHABLE = {V4: ("icmp", 3, 3), V6: ("icmpv6", 1, 4)}


class Player:
    """Plays a sequence at a node of the model, and counts what happens."""

    def __init__(self, of: Cluster, node: str, family: Family) -> None:
        self.cluster, self.state, self.proxier = of, of.state, of.proxier(node, family)
        self.site, self.node, self.family = of.site, node, family
        machine = of.site.machine(node)
        self.netns = Netns(node, machine.routing, machine.sysctls)
        self.netns.load_rules(self.proxier.held.ruleset)
        self.now_ns, self.sent = START_NS, 0
        self.openings: dict[int, Opening] = {}
        self.last: dict[int, Packet] = {}
        self.seen: dict[int, Packet] = {}  #: as the endpoint saw the latest packet, with the interface it hangs behind
        self.gone: set[str] = set()  #: addresses that were endpoints of a Service
        self.met: Counter[str] = Counter()
        self.longest_list = 0  #: of session affinity

    def play(self, step: SequenceStep) -> None:  # noqa: C901 - one case per kind of step
        self.now_ns += SECOND_NS // 1000
        match step:
            case FirstPacket(flow, opening):
                self.openings[flow] = opening
                self._client(flow, opening.packet())
            case MidStream(flow, opening, says):
                self.openings[flow] = opening
                self._client(flow, opening.packet(says))
            case ClientSegment(flow, says, window):
                self._client(flow, said(self.openings[flow].packet(), says, window))
            case Retransmit(flow) if flow in self.last:
                self._client(flow, self.last[flow])
            case ServerSegment() | ServerError():
                if step.flow in self.seen:
                    self._server(step)
            case DeleteFlow(flow):
                if found := self.netns.conntrack.lookup(self.openings[flow].tuple, self.now_ns):
                    self._delete(found.entry, "deleted")
            case ChangeEndpoints():
                self._change(step)
            case StrayError(flow, opening, _):
                self.openings.setdefault(flow, opening)
            case RouterError(_, about, _):
                self.met[f"router about {about}"] += 1
            case ChangeService(service, document):
                self._change_service(service, document)
            case Wait(duration_ns):
                self.now_ns += duration_ns
                self.met["expired"] += len(self.netns.conntrack.expire(self.now_ns))

    def _server(self, step: ServerSegment | ServerError) -> None:
        answer = self._answer(step.flow)
        if isinstance(step, ServerSegment):
            answer = said(answer, step.says, step.window)
        else:
            protocol, kind, code = _UNREACHABLE[self.family]
            about = replace(self.seen[step.flow], in_interface="", out_interface="")
            answer = replace(answer, protocol=protocol, sport=0, dport=0, icmp_type=kind, icmp_code=code, related=about)
        self._send(answer)

    def _delete(self, entry: Entry, why: str) -> None:
        self.met[why] += self.netns.conntrack.delete(entry.original, entry.reply) is not None

    def _client(self, flow: int, packet: Packet) -> None:
        self.last[flow] = packet
        before = self.netns.conntrack.lookup(tuple_of(packet), self.now_ns)
        outcome = self._send(self.site.begin(packet, self.node, self.openings[flow].sender))
        if outcome.disposition in (Disposition.FORWARDED, Disposition.DELIVERED):
            self.seen[flow] = outcome.packet
        if outcome.ct_state == "NEW" and before is None and "SYN" not in packet.tcp_flags and packet.protocol == "tcp":
            self.met["picked up"] += outcome.effects.created is not None
        if before is not None and outcome.disposition is Disposition.FORWARDED and outcome.ct_state == "ESTABLISHED":
            self.met["survived"] += outcome.packet.destination in self.gone

    def _send(self, packet: Packet) -> Walk:
        self.sent += 1
        local = not packet.in_interface
        outcome = walk(self.netns, packet, now_ns=self.now_ns, chooser=SeededChooser(1, self.sent), local=local)
        self.netns.commit(outcome.effects, self.now_ns)
        self.met.update([str(outcome.disposition), str(outcome.ct_state)])
        lists = (len(self.netns.memory.recent[touch.match.name]) for touch in outcome.effects.touched.recent)
        self.longest_list = max(self.longest_list, *lists, 0)
        entry = outcome.effects.created or outcome.effects.updated
        if entry is not None:
            self.met[f"{entry.original.protocol} {entry.state}"] += 1
            if entry.reply.daddr == entry.original.saddr and entry.reply.dport != entry.original.sport:
                self.met["port changed, source kept"] += entry.original.protocol not in ICMP_PROTOCOLS
        return outcome

    def _answer(self, flow: int) -> Packet:
        seen = self.seen[flow]
        icmp = seen.protocol in ICMP_PROTOCOLS
        sport, dport = (seen.sport, seen.dport) if icmp else (seen.dport, seen.sport)
        kind = {8: 0, 128: 129}.get(seen.icmp_type, seen.icmp_type)
        interface = seen.out_interface if seen.out_interface != "lo" else ""
        return Packet(
            seen.family, seen.protocol, seen.daddr, seen.saddr, sport, dport, icmp_type=kind, in_interface=interface
        )  # fmt: skip

    def _change(self, step: ChangeEndpoints) -> None:
        for each in changed_slices(self.cluster.state, step):
            old = self.state.get(each.key)
            assert isinstance(old, EndpointSlice)
            left, stay = ({e.addresses[0] for e in s.endpoints} for s in (old, each))
            self.gone = (self.gone | left) - stay
            event, self.state = self.state.put(each)
            self.proxier.on_event(event, self.now_ns)
        self._sync()

    def _change_service(self, service: str, document: str) -> None:
        namespace, _, name = service.partition("/")
        event, self.state = (
            self.state.put(service_from_json(json.loads(document)))
            if document
            else self.state.remove(ObjectKey("Service", namespace, name))
        )
        seen = through_selector(event, self.node) if event is not None else None
        if seen is not None:
            self.proxier.on_event(seen, self.now_ns)
        self.met["Services changed"] += 1
        self._sync()

    def _sync(self) -> None:
        table = self.netns.conntrack
        table.expire(self.now_ns)
        entries = {_listed(entry): entry for entry in table.udp_entries(self.family)}
        result = self.proxier.sync(self.now_ns, lambda: entries)
        assert result.success
        self.netns.load_rules(self.proxier.held.ruleset)
        for flow in result.conntrack_deleted:
            self._delete(entries[flow], "stale")


def _listed(entry: Entry) -> UdpFlow:
    texts = (
        (format_ip(of.family, of.saddr), of.sport, format_ip(of.family, of.daddr), of.dport)
        for of in (entry.original, entry.reply)
    )
    return UdpFlow("udp", *next(texts), *next(texts))


@cache
def drawn(seed: int) -> tuple[Cluster, str, Family, list[SequenceStep]]:
    of = cluster(seed)
    node = of.node_names[seed % len(of.node_names)]
    families = sorted({parsed(ip)[0] for ip in next(iter(of.state.nodes)).ips})
    family, waits_ns = families[seed % len(families)], LONG_WAITS_NS if seed % 2 else SHORT_WAITS_NS
    steps = draw_sequence(SeededChoices(seed, "sequence"), of.site, node, family, 120, of.state, waits_ns=waits_ns)
    return of, node, family, steps


@cache
def played(seeds: int = 60) -> Counter[str]:
    """Everything that the model met."""
    met = Counter[str]()
    for seed in range(seeds):
        of, node, family, steps = drawn(seed)
        player = Player(of, node, family)
        for step in steps:
            player.play(step)
        met += player.met
        met["affinity list"] = max(met["affinity list"], player.longest_list)
    return met


#: what must be met, at least so often
MET = [
    ("forwarded", 500), ("delivered", 300), ("rejected", 100), ("dropped", 100),
    ("NEW", 500), ("ESTABLISHED", 500), ("RELATED", 20), ("INVALID", 100),
    *((f"tcp {state}", 20) for state in ("SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE")),
    ("tcp CLOSE_WAIT", 10), ("tcp LAST_ACK", 5), ("tcp TIME_WAIT", 5), ("tcp SYN_SENT2", 3),
    ("sctp COOKIE_WAIT", 10), ("sctp ESTABLISHED", 5), ("sctp CLOSED", 3), ("picked up", 20), ("deleted", 20), ("stale", 5),
    ("router about request", 20), ("Services changed", 50), ("port changed, source kept", 5), ("survived", 20), ("expired", 20), ("affinity list", 100),
]  # fmt: skip


@pytest.mark.parametrize(("what", "least"), MET)
def test_sequences_meet_all_that_a_kernel_remembers(what: str, least: int) -> None:
    assert played()[what] >= least


def test_every_step_is_drawn_and_told() -> None:
    steps = [step for seed in range(60) for step in drawn(seed)[-1]]
    kinds = Counter(type(step) for step in steps)
    assert set(kinds) == {
        FirstPacket, MidStream, ClientSegment, ServerSegment, ServerError, RouterError, StrayError, Retransmit, DeleteFlow,
        ChangeEndpoints, ChangeService, Wait,
    }  # fmt: skip
    assert min(kinds.values()) > 50
    assert {step.about for step in steps if isinstance(step, RouterError)} == {"request", "answer"}
    assert not all(step.document for step in steps if isinstance(step, ChangeService))
    windows = {step.window for step in steps if isinstance(step, ClientSegment | ServerSegment)}
    assert windows == set(Window)
    changes = [step for step in steps if isinstance(step, ChangeEndpoints)]
    assert {state for change in changes for _, state in change.endpoints} == set(EndpointState)
    assert any(not change.endpoints for change in changes)
    assert all("\n" not in describe(step) for step in steps)


def test_flows_are_numbered_as_they_appear_and_keep_their_number() -> None:
    for seed in range(60):
        begun: dict[int, Opening] = {}
        for step in drawn(seed)[-1]:
            match step:
                case FirstPacket(flow, opening) | MidStream(flow, opening, _) | StrayError(flow, opening, _):
                    assert flow <= len(begun)
                    assert begun.setdefault(flow, opening) == opening
                case ClientSegment() | ServerSegment() | ServerError() | RouterError() | Retransmit() | DeleteFlow():
                    assert step.flow in begun
                case _:
                    pass
        assert len(set(begun.values())) == len(begun)


def test_ports_of_clients_meet_and_are_of_every_class() -> None:  # K-2.3
    openings = {step.opening for seed in range(60) for step in drawn(seed)[-1] if isinstance(step, FirstPacket)}
    visits = {40010, 40011, 40012}  # of clients that come again to an affinity
    assert {opening.tuple.sport for opening in openings} - visits == {40000, 40001, 700, 300}
    assert set(Sender) == {opening.sender for opening in openings}
    assert 0 not in {opening.tuple.saddr for opening in openings}
    echoes = {opening.tuple[1::4] for opening in openings if opening.tuple.protocol.startswith("icmp")}
    assert echoes == {("icmp", 8 * 256), ("icmpv6", 128 * 256)}


def test_a_process_bound_to_loopback_dials_its_own_node() -> None:
    bound = 0
    for seed in range(90):
        of, node, family, steps = drawn(seed)
        loopback = 1 if family is V6 else 127 << 24 | 1
        flows = [step.opening.tuple for step in steps if isinstance(step, FirstPacket | MidStream)]
        destinations = [flow.daddr for flow in flows if flow.saddr == loopback]
        bound += len(destinations)
        assert all(of.site.machine(node).routing.is_local(family, address) for address in destinations)
    assert bound > 2


def test_changes_of_endpoints_keep_what_else_a_slice_says() -> None:
    state = load(text=cluster_text()).state
    change = ChangeEndpoints(
        "shop/web", V4, (("10.180.1.5", EndpointState.SERVING), ("10.180.2.5", EndpointState.READY))
    )
    [changed] = changed_slices(state, change)
    assert [(e.addresses[0], e.node_name, e.ready, e.serving, e.terminating) for e in changed.endpoints] == [
        ("10.180.1.5", "node-2", False, True, True),
        ("10.180.2.5", "node-3", True, True, False),
    ]
    [before] = (s for s in state.endpoint_slices if s.service_name == "web" and s.address_type == "IPv4")
    assert (changed.key, changed.ports) == (before.key, before.ports)


def test_what_clients_say() -> None:
    tcp = Opening(Sender.EXTERNAL, tuple_of(Packet(V4, "tcp", 1, 2, 3, 4)))
    assert tcp.packet().tcp_flags == {"SYN"}
    assert tcp.packet("PSH ACK", Window.OUTSIDE).tcp_flags == {"PSH", "ACK"}
    assert tcp.packet("PSH ACK", Window.OUTSIDE).window is Window.OUTSIDE
    sctp = Opening(Sender.POD, tuple_of(Packet(V4, "sctp", 1, 2, 3, 4)))
    assert (sctp.packet().sctp_chunk, sctp.packet("DATA").sctp_chunk) == ("INIT", "DATA")
    echo = Opening(Sender.POD, tuple_of(Packet(V6, "icmpv6", 1, 2, 9, icmp_type=128)))
    assert (echo.packet().icmp_type, echo.packet().sport, echo.packet().dport) == (128, 9, 0)


def test_the_simplest_sequence_is_a_connection_with_the_first_service() -> None:
    of = load(text=draw_manifest(Scripted()))
    told = [describe(step) for step in draw_sequence(Scripted(), of.site, "node-1", V4, 6, of.state)]
    assert told == [
        "flow 0 begins: tcp 10.180.1.9:40000 → 172.30.0.1:80 from pod", "flow 0 server: SYN ACK", "flow 0 client: ACK",
        "flow 0 client: PSH ACK", "flow 0 server: ACK", "flow 0 server: PSH ACK",
    ]  # fmt: skip


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_is_chosen_a_sequence_can_be_played(data: st.DataObject) -> None:
    of, node, family, _ = drawn(data.draw(st.integers(0, 20)))
    player = Player(of, node, family)
    for step in draw_sequence(Hypothetical(data), of.site, node, family, 8, of.state, waits_ns=LONG_WAITS_NS):
        player.play(step)


def test_restarts_are_drawn_where_the_configuration_is_known() -> None:
    of, node, family, _ = drawn(3)
    found = []
    for seed in range(80):
        steps = draw_sequence(
            SeededChoices(seed), of.site, node, family, 60, of.state, configuration={"kind": "KubeProxyConfiguration"}
        )
        found += [json.loads(step.document) for step in steps if isinstance(step, Restart)]
    assert len(found) > 5
    assert {key for each in found for key in each.get("iptables", ())} == {"masqueradeAll", "masqueradeBit"}


def test_clients_of_short_affinities_come_again_before_and_behind_the_end() -> None:
    """A Service with an affinity of two seconds: pauses of less and of more than it, each with the same clients."""
    spec = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 2}}, clusterIP: 172.30.0.77"
    text = cluster_text(
        [
            service("sticky", f"{spec}, {port(80)}"),
            endpoints("sticky", 8080, {"10.180.0.7": "node-1", "10.180.0.8": "node-1"}),
        ]
    )
    of, pauses = load(text=text), set()
    for seed in range(20):
        steps = draw_sequence(SeededChoices(seed), of.site, "node-1", V4, 80, of.state)
        for before, pause, after in zip(steps, steps[1:], steps[2:], strict=False):
            if isinstance(pause, Wait) and isinstance(before, FirstPacket) and isinstance(after, FirstPacket):
                pauses.add(pause.duration_ns)
    assert {pause for pause in pauses if pause > SECOND_NS} >= {17 * SECOND_NS // 10, 23 * SECOND_NS // 10}


def test_a_sequence_without_patience_waits_briefly() -> None:
    of, node, family, _ = drawn(5)
    steps = [
        s
        for seed in range(30)
        for s in draw_sequence(
            SeededChoices(seed), of.site, node, family, 60, of.state, waits_ns=LONG_WAITS_NS, patience=0
        )
    ]
    waits = [step.duration_ns for step in steps if isinstance(step, Wait)]
    assert waits
    assert max(waits) < SECOND_NS


def test_any_packet_may_be_damaged_or_have_no_hop_left() -> None:
    for protocol, word in (("tcp", "SYN"), ("udp", ""), ("sctp", "INIT"), ("icmp", "8/0")):
        packet = said(Packet(V4, protocol, 1, 2, 3, 4), f"{word} DAMAGED LAST-HOP")
        assert (packet.checksum_ok, packet.ttl) == (False, 1)
    assert said(Packet(V4, "icmp", 1, 2), "3/13").icmp_code == 13
    assert said(Packet(V4, "tcp", 1, 2), "").tcp_flags == frozenset()
