"""The nodes' kernels in a run: they hold rules and pass packets.

Counterpart: the machines and their network. ``fabric`` and ``netfilter`` decide what a node does to a packet, and
``exchange`` judges whether a client gets an answer.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from fractions import Fraction
from functools import reduce
from types import MappingProxyType

from kpsim.addresses import Family, parse_ip
from kpsim.backends import IpvsConnections
from kpsim.config import HostInterface, ProxyConfig
from kpsim.conntrack import COLLECTOR_ROUND_NS, tuple_of
from kpsim.exchange import Exchange, NewFlow, Relay, Target, WhatIf, exchange
from kpsim.fabric import Journey, Whose, answer_to, fabric_of, send, send_from
from kpsim.ipvs.connections import Counters
from kpsim.ipvs.servers import RealServer, VirtualServerKey
from kpsim.kubeproxy.service_maps import ServiceMaps
from kpsim.kubeproxy.stale_flows import UdpFlow
from kpsim.netfilter import Netns
from kpsim.nodes import Machine, make_machines, pod_interface_of, without_hairpin
from kpsim.packet import Packet
from kpsim.packetpath.chooser import Chooser, ScriptedChooser, SeededChooser, explore
from kpsim.packetpath.memory import IcmpLimiter
from kpsim.pins import followed_entry, listed_flow
from kpsim.programmed import Programmed
from kpsim.proxier import SyncResult
from kpsim.ruleset import Origin
from kpsim.scenario.beside import RulesBeside
from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.settings import kernel_settings
from kpsim.simulation.answering import RunWorld, Serves, application_of
from kpsim.simulation.attempts import Attempt, Broken, OpenFlow, lost_at, read_exchange, refusal
from kpsim.simulation.crowding import crowd
from kpsim.simulation.elsewhere import ListedElsewhere
from kpsim.simulation.flowcache import FlowCache
from kpsim.simulation.flowrecords import Recording
from kpsim.simulation.packetloss import OUTSIDE, Lost, PacketLoss
from kpsim.simulation.podlife import PodLife
from kpsim.simulation.rulestimes import RulesTimes
from kpsim.simulation.runlog import Fate, Reason
from kpsim.simulation.witness import Witness

_ACK, _DATA = frozenset({"ACK"}), frozenset({"PSH", "ACK"})
_FIN, _RST = frozenset({"FIN", "ACK"}), frozenset({"RST", "ACK"})


class Machines:
    """All nodes' kernels, and the network between them. ``at_ip`` returns the pods that have an address now.

    ``version`` is that of the pods, as ``RunWorld`` has it. With ``walk_all`` every packet of short connections is walked. ``strays`` are, by node, addresses of pods outside its pod CIDRs.
    """

    def __init__(
        self,
        nodes: Sequence[ClusterNode],
        config: ProxyConfig,
        seed: int,
        at_ip: Callable[[str], Sequence[PodLife]],
        version: Callable[[], int],
        elsewhere: ListedElsewhere,
        *,
        limit_icmp: bool,
        walk_all: bool = False,
        beside: Sequence[RulesBeside] = (),
        strays: Mapping[str, Sequence[tuple[Family, int]]] = MappingProxyType({}),
    ) -> None:
        self._beside = beside
        self._seed = seed
        self._limit_icmp = limit_icmp
        self._proxy_sets_limit = config.conntrack_max_per_core > 0
        self._boots: Counter[str] = Counter()
        self._crowd = 0  #: connections of others that were put into tables so far
        ends = {node.name: (node.ips, node.pod_cidrs) for node in nodes}
        links = {node.name: node.links for node in nodes}
        plain = make_machines(ends, links=links, pods=strays, pod_interface=pod_interface_of(config))
        self._machines = {node.name: _with_settings(plain[node.name], node, config) for node in nodes}
        self._fabric = fabric_of(self._machines)
        self._off: set[str] = set()
        self.absent: set[str] = set()  #: nodes that have not joined the cluster yet; they are off, too
        self.losses = PacketLoss(seed)
        self._world = RunWorld(self._fabric, at_ip, self._off, version, self.losses, elsewhere)
        self.flow_cache = None if walk_all else FlowCache(self._fabric, self._world, self._off)
        self._recording: Recording | None = None  #: of the short connection that is being walked
        self._next_collection_ns = COLLECTOR_ROUND_NS
        self.witness: Witness | None = None  #: follows the packets of some connections step by step
        for name, netns in self._fabric.nodes.items():
            self._prepare(name, netns)

    def _prepare(self, node: str, netns: Netns) -> None:
        """Do what a boot does: set the kernel's limits, and load the rules that the node has beside kube-proxy's."""
        for family in Family:
            found = [rules for each in self._beside if (rules := each.of(node, family)) is not None]
            if found:
                netns.load(reduce(Programmed.joined, found, Programmed.nothing(family)))
        netns.memory.icmp_limiter = IcmpLimiter() if self._limit_icmp else None

    def machine(self, node: str) -> Machine:
        return self._machines[node]

    def netns(self, node: str) -> Netns:
        return self._fabric.nodes[node]

    def has(self, node: str, origin: Origin) -> bool:
        """Return whether a rule of this origin is in force on the node, in either family."""
        return any(told.has(origin) for told in self.netns(node).programmed.values())

    def remembers(self, node: str, origin: Origin, source_ip: str) -> bool:
        """Return whether the node's rules of this origin keep this source in an affinity list or set."""
        source = parse_ip(source_ip)
        return source is not None and self.netns(node).remembers(origin, *source)

    # ----------------------------------------------------------------------------------------------------------- power

    def is_off(self, node: str) -> bool:
        return node in self._off

    def power_off(self, node: str) -> None:
        self._off.add(node)

    def power_on(self, node: str) -> None:
        """Boot the machine. It has no rules, no connections and no affinity lists."""
        self._off.discard(node)
        self._boots[node] += 1
        old = self._fabric.nodes[node]
        machine = self._machines[node]
        fresh = Netns(old.name, machine.routing, machine.sysctls)
        self._prepare(node, fresh)
        self._fabric.nodes[node] = fresh

    # ------------------------------------------------------------------------------------------------ connection tables

    def boots(self, node: str) -> int:
        """Return how often the node has booted in the run."""
        return self._boots[node]

    def limit(self, node: str) -> int:
        """Return the node's nf_conntrack_max; 0: there is no limit."""
        return self._fabric.nodes[node].sysctls.nf_conntrack_max

    def set_limit(self, node: str, limit: int) -> None:
        """Write the node's nf_conntrack_max. What the table holds beyond it stays."""
        netns = self._fabric.nodes[node]
        netns.sysctls = replace(netns.sysctls, nf_conntrack_max=limit)
        netns.version = object()

    def proxy_started(self, node: str) -> None:
        """Have what a kube-proxy that starts writes: the limit of the connection table, unless it leaves that alone (CFG-4.1)."""
        own = self._machines[node].sysctls.nf_conntrack_max
        if self._proxy_sets_limit and self.limit(node) != own:
            self.set_limit(node, own)

    def crowd(self, node: str, entries: int | None, now_ns: int, ends_ns: int, *, unreplied: bool) -> int:
        """Put connections of others into the node's table, ``entries`` or as many as fit. Return how many."""
        netns = self._fabric.nodes[node]
        netns.collect(now_ns)
        limit = netns.sysctls.nf_conntrack_max
        room = max(0, limit - len(netns.conntrack)) if limit else entries or 0
        number = room if entries is None else min(entries, room)
        crowd(netns.conntrack, number, now_ns, ends_ns, first=self._crowd, unreplied=unreplied)
        self._crowd += number
        netns.version = object()
        return number

    def uncrowd(self, node: str, now_ns: int) -> None:
        """Remove what has expired from the node's table. It does not count any more, but would be looked at again and again."""
        netns = self._fabric.nodes[node]
        netns.conntrack.expire(now_ns)
        netns.version = object()

    # --------------------------------------------------------------------------------------------------------- packets

    def watched(self, traffic: str, number: int) -> AbstractContextManager[object]:
        """Let the witness, if there is one, know that a connection of a traffic source sends a packet inside the block."""
        return nullcontext() if self.witness is None else self.witness.packet_of(traffic, number)

    @property
    def _traced(self) -> bool:
        return self.witness is not None and self.witness.watching

    def connect(
        self,
        packet: Packet,
        at_node: str,
        now_ns: int,
        key: Hashable,
        *,
        local: bool,
        serves: Serves | None = None,
        relay: Callable[[Packet], Relay | None] | None = None,
        short: bool = False,
        repeats: bool = False,
    ) -> Attempt:
        """Send a first packet, or another datagram of a flow, and the answer if an application gives one.

        ``key`` tells the connection from others: draws depend on it. ``serves`` knows the Service that is dialled.
        ``relay`` is the load balancer outside that takes the packet if it leaves the nodes. ``short``: a TCP connection that
        its client establishes and closes at this very instant; its flow may be ``over`` already. ``repeats``: whoever sends
        sees to packets that links lose.
        """
        self._collect(now_ns)
        if at_node in self._off:
            return Attempt(Fate.DROPPED, Reason.NODE_DOWN, node=at_node, silent=True)
        self._world.dial(serves, relay)
        chooser, self._recording = SeededChooser(self._seed, key), None
        traced, lossy = self._traced, self.losses.active(now_ns) and not repeats
        if short and not lossy and self.flow_cache is not None and not traced:
            done = self.flow_cache.attempt(packet, at_node, now_ns, chooser, local=local)
            if done is not None:
                return done
            self._recording = self.flow_cache.recording(packet, at_node, chooser, local=local)
        try:
            with (
                self._recorded(to_server=True) as recording,
                self.losses.sending(now_ns, key) if lossy else nullcontext(),
            ):
                if lossy and not local and self._world.origin(packet, at_node).whose is Whose.OUTSIDE:
                    self.losses.cross(OUTSIDE, at_node)
                judged = exchange(
                    self._world, packet, at_node=at_node, now_ns=now_ns, chooser=recording or chooser, local=local,
                    trace=traced, trace_answer=traced,
                )  # fmt: skip
        except Lost as lost:
            return Attempt(Fate.DROPPED, Reason.PACKET_LOST, node=lost.node, silent=True)
        if self.witness is not None:
            self.witness.saw(judged.request, judged)
        outcome = read_exchange(judged, self._world, now_ns)
        if outcome.disposition not in (Fate.DELIVERED, Fate.MISDELIVERED):
            return outcome
        outer = None if judged.relay is None else self._flow(judged, at_node, local=local)
        inner = judged.last
        if outer is not None:
            at_node, local = inner.request.hops[0].node, False
        outcome = replace(outcome, flow=replace(self._flow(inner, at_node, local=local), outer=outer))
        if recording is not None:
            recording.exchanged(judged, outcome)
        return outcome

    @contextmanager
    def _recorded(self, *, to_server: bool) -> Iterator[Recording | None]:
        """Have packets watched that are sent inside the block, if their connection is being recorded."""
        recording = self._world.recording = self._recording
        if recording is None:
            yield None
            return
        recording.to_server = to_server
        try:
            yield recording
        finally:
            self._world.recording = None
            recording.rest()

    def outcomes(
        self,
        packet: Packet,
        at_node: str,
        now_ns: int,
        *,
        local: bool,
        serves: Serves | None = None,
        relay: Callable[[Packet], Relay | None] | None = None,
    ) -> list[tuple[Fraction, Attempt]]:
        """Return everything that may become of a first packet, each with its probability. Nothing remembers it.

        The arguments are those of :meth:`connect`.
        """
        if at_node in self._off:
            return [(Fraction(1), Attempt(Fate.DROPPED, Reason.NODE_DOWN, node=at_node, silent=True))]

        def once(chooser: ScriptedChooser) -> Attempt:
            self._world.dial(serves, relay)
            world = WhatIf(self._world)
            judged = exchange(world, packet.copy(), at_node=at_node, now_ns=now_ns, chooser=chooser, local=local)
            return read_exchange(judged, self._world, now_ns)

        return list(explore(once, as_written=True, merge=True))

    def _flow(self, judged: Exchange, at_node: str, *, local: bool) -> OpenFlow:
        request, answer = judged.request, judged.answer
        assert request.end is not None and answer is not None
        listener = self._world.listener(request.end, Target.of(request.packet))
        return OpenFlow(
            request.sent.copy(),
            at_node,
            local,
            answer.sent,
            request.end,
            application_of(listener) if listener else None,
        )

    def new_flow_way(self, packet: Packet, at_node: str, now_ns: int, *, local: bool) -> Journey:
        """Return the way of a new flow like ``packet``, whatever connections there are. Nothing remembers it."""
        chooser = SeededChooser(self._seed, ("what if", tuple_of(packet)))
        return send(
            NewFlow(self._world), packet.copy(), at_node=at_node, now_ns=now_ns, chooser=chooser, local=local,
            commit=False, until_translated=True,
        )  # fmt: skip

    def _collect(self, now_ns: int) -> None:
        """Remove expired entries in the collectors' rounds (CT-3.9).

        They never match, but a full table shrinks only by rounds.
        """
        if now_ns >= self._next_collection_ns:
            self._next_collection_ns = now_ns + COLLECTOR_ROUND_NS
            for netns in self._fabric.nodes.values():
                netns.collect(now_ns)

    def establish(self, flow: OpenFlow, now_ns: int) -> None:
        """Send the third packet of the handshake."""
        if flow.over:
            return
        for leg in _legs(flow):
            self._segment(leg, _ACK, now_ns, from_client=True)

    def carry_on(self, flow: OpenFlow, now_ns: int, *, moved: bool = False) -> Broken | None:
        """Send another segment of an open connection and its acknowledgement.

        Returns why the connection no longer works, or None. ``moved``: the segment goes to another node than those before.
        """
        if moved:
            return self._moved(flow, now_ns)
        if flow.outer is not None and (broken := self._carry_on(flow.outer, now_ns)) is not None:
            return replace(broken, followed=None)  # the client's way to the load balancer is nobody's rules
        return self._carry_on(flow, now_ns)

    def _carry_on(self, flow: OpenFlow, now_ns: int) -> Broken | None:
        if flow.at_node in self._off:
            return Broken(Reason.NODE_DOWN)
        journey = self._segment(flow, _DATA, now_ns, from_client=True, trace=self._traced)
        if self.witness is not None:
            self.witness.saw(journey)
        if lost_at(journey, self._world) is not None:
            return Broken(Reason.NODE_DOWN)
        followed = followed_entry(journey)
        if journey.end != flow.server:
            return Broken(_astray(journey), followed)
        listener = self._world.listener(flow.server, Target.of(journey.packet))
        if (application_of(listener) if listener else None) != flow.application:
            self._reset(journey, now_ns)
            return Broken(Reason.ENDPOINT_GONE, followed)
        self._segment(flow, _ACK, now_ns, from_client=False)
        return None

    def _moved(self, flow: OpenFlow, now_ns: int) -> Broken | None:
        """Send a segment of a connection to a node that has not seen it.

        The node takes it for a new flow (tcp_loose, K-6.3) and decides anew. The connection goes on only if the same server
        gets it from the same address and port.
        """
        if flow.at_node in self._off:
            return Broken(Reason.NODE_DOWN)
        journey = self._segment(flow, _DATA, now_ns, from_client=True, trace=self._traced)
        if self.witness is not None:
            self.witness.saw(journey)
        seen = journey.packet.saddr, journey.packet.sport
        if journey.end == flow.server and seen == (flow.answer.daddr, flow.answer.dport):
            return self._carry_on(flow, now_ns)
        if lost_at(journey, self._world) is None:
            self._reset(journey, now_ns)
        return Broken(Reason.REHASHED)

    def close(self, flow: OpenFlow, now_ns: int) -> None:
        """Close the connection: the client closes it and the server agrees. An entry in TIME_WAIT stays."""
        if flow.over:
            return
        for leg in _legs(flow):
            self._segment(leg, _FIN, now_ns, from_client=True)
            self._segment(leg, _FIN, now_ns, from_client=False)
            self._segment(leg, _ACK, now_ns, from_client=True)
        recording, self._recording = self._recording, None
        if recording is not None and recording.flow is flow and self.flow_cache is not None:
            self.flow_cache.keep(recording)

    def _segment(
        self, flow: OpenFlow, flags: frozenset[str], now_ns: int, *, from_client: bool, trace: bool = False
    ) -> Journey:
        packet = (flow.request if from_client else flow.answer).copy()
        packet.tcp_flags = flags
        if not from_client:
            packet.in_interface = ""
        chooser = SeededChooser(self._seed, ("segment", tuple_of(packet)))
        if self._recording is not None and self._recording.flow is flow:
            with self._recorded(to_server=from_client) as recording:
                assert recording is not None
                journey = self._passed(flow, packet, now_ns, recording.answers(chooser), from_client=from_client)
            recording.segments.append(journey)
            return journey
        return self._passed(flow, packet, now_ns, chooser, from_client=from_client, trace=trace)

    def _passed(
        self, flow: OpenFlow, packet: Packet, now_ns: int, chooser: Chooser, *, from_client: bool, trace: bool = False
    ) -> Journey:
        if not from_client and flow.server.whose is Whose.OUTSIDE:
            return send_from(self._world, flow.server, packet, last_node=flow.at_node, now_ns=now_ns, chooser=chooser)
        at_node = flow.at_node if from_client else flow.server.node
        local = flow.local if from_client else flow.server.whose is Whose.PROCESS
        return send(self._world, packet, at_node=at_node, now_ns=now_ns, chooser=chooser, local=local, trace=trace)

    def _reset(self, request: Journey, now_ns: int) -> None:
        """Answer with a reset if the pod still exists.

        Its kernel sends the reset, and the nodes forget the connection (K-6.3).
        """
        end, packet = request.end, request.packet
        if end is None or not (end.whose is Whose.PROCESS or self._world.exists(packet)):
            return
        reset = answer_to(packet)
        reset.tcp_flags = _RST
        chooser = SeededChooser(self._seed, ("reset", tuple_of(packet)))
        local = end.whose is Whose.PROCESS
        send(self._world, reset, at_node=end.node, now_ns=now_ns, chooser=chooser, local=local)


def _astray(journey: Journey) -> Reason:
    """Return why a segment of an open connection did not reach its server."""
    if journey.end is None:
        return refusal(journey)[1]
    dialled = (journey.sent.daddr, journey.sent.dport) == (journey.packet.daddr, journey.packet.dport)
    return Reason.FORGOTTEN if dialled and journey.end.whose is Whose.PROCESS else Reason.OTHER


def _legs(flow: OpenFlow) -> Iterator[OpenFlow]:
    """Yield the connections that a flow consists of, the client's own first."""
    if flow.outer is not None:
        yield flow.outer
    yield flow


def _with_settings(machine: Machine, node: ClusterNode, config: ProxyConfig) -> Machine:
    machine = replace(machine, sysctls=kernel_settings(node, config))
    return machine if node.hairpin else without_hairpin(machine)


class NodeKernel:
    """One node's kernel as that node's kube-proxy sees it."""

    def __init__(self, machines: Machines, node: str, times: RulesTimes) -> None:
        self._machines = machines
        self._node = node
        self._times = times

    @property
    def tcp_be_liberal(self) -> bool:
        return self._machines.netns(self._node).sysctls.tcp_be_liberal

    @property
    def interfaces(self) -> tuple[HostInterface, ...]:
        return self._machines.machine(self._node).host_interfaces

    def held(self, family: Family) -> Programmed | None:
        return self._machines.netns(self._node).programmed.get(family)

    def load(self, programmed: Programmed) -> None:
        netns = self._machines.netns(self._node)
        if netns.programmed.get(programmed.family) is not programmed:
            netns.load(programmed)

    def synced(self, family: Family, result: SyncResult, maps: ServiceMaps, now_ns: int) -> None:
        self._times.synced(self._node, family.label, result, maps, now_ns)

    def proxy_started(self) -> None:
        self._machines.proxy_started(self._node)

    def damaged(self, family: Family, now_ns: int) -> None:
        self._times.lost(self._node, now_ns, family.label)

    def ipvs_connections(self, family: Family, now_ns: int) -> IpvsConnections:
        def count(key: VirtualServerKey, server: RealServer) -> Counters:
            table = self._machines.netns(self._node).memory.ipvs
            return table.counters(family, key, (server.address, server.port), now_ns)

        return count

    def udp_flows(self, family: Family, now_ns: int) -> list[UdpFlow]:
        table = self._machines.netns(self._node).conntrack
        table.expire(now_ns)
        return [listed_flow(entry.original, entry.reply) for entry in table.udp_entries(family)]

    def delete_flows(self, family: Family, flows: Iterable[UdpFlow], now_ns: int) -> int:
        """Delete these entries and return how many existed."""
        table = self._machines.netns(self._node).conntrack
        wanted = set(flows)
        found = [e for e in table.udp_entries(family) if listed_flow(e.original, e.reply) in wanted] if wanted else []
        for entry in found:
            table.delete(entry.original, entry.reply)
        return len(found)
