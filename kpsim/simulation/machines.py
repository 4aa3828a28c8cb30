"""The nodes' kernels in a run: rules loaded into them, packets sent through them, and whether anybody is there to answer.

Counterpart: the machines and their network. What a node does to a packet is ``fabric``'s and ``netfilter``'s; who runs where is
asked of the workloads. It never knows Services or why a packet is sent.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from kpsim.addresses import Family, format_ip, join_host_port, parse_ip
from kpsim.config import ProxyConfig
from kpsim.conntrack import COLLECTOR_ROUND_NS, FlowTuple, tuple_of
from kpsim.fabric import Hop, Journey, Place, Whose, answer_to, fabric_of, reply, send
from kpsim.kubeproxy.stale_flows import Flow
from kpsim.netfilter import Cause as Why
from kpsim.netfilter import Disposition as Fate
from kpsim.netfilter import Netns
from kpsim.nodes import Machine, make_machines, pod_interface_of, without_hairpin
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.memory import IcmpLimiter
from kpsim.ruleset import Role, Ruleset
from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.settings import kernel_settings
from kpsim.simulation.pods import PodLife
from kpsim.simulation.runlog import Cause, Disposition

_ACK, _DATA = frozenset({"ACK"}), frozenset({"PSH", "ACK"})
_FIN, _RST = frozenset({"FIN", "ACK"}), frozenset({"RST", "ACK"})


@dataclass(frozen=True, slots=True)
class OpenFlow:
    """A connection that works: what the client sends, what the server answers, and who the server is."""

    request: Packet
    at_node: str
    local: bool
    answer: Packet
    server: Place
    application: Hashable  #: which one, of which pod: its successor knows nothing of the connection


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a packet and, if somebody answered, of the answer. Names as in ``runlog.Connection``."""

    disposition: Disposition
    cause: Cause = Cause.NONE
    node: str = ""
    source_ip: str = ""
    endpoint: str = ""
    endpoint_node: str = ""
    seen_source_ip: str = ""
    new_flow: bool = True
    rule: str = ""
    flow: OpenFlow | None = None


class Machines:
    """All nodes' kernels, and the network between them. ``at_ip`` says which pods have an address now."""

    def __init__(
        self,
        nodes: Sequence[ClusterNode],
        config: ProxyConfig,
        seed: int,
        at_ip: Callable[[str], Sequence[PodLife]],
        *,
        limit_icmp: bool,
    ) -> None:
        self._seed, self._at_ip, self._limit_icmp = seed, at_ip, limit_icmp
        ends = {node.name: (node.ips, node.pod_cidrs) for node in nodes}
        plain = make_machines(ends, pod_interface=pod_interface_of(config))
        self._machines = {node.name: _with_settings(plain[node.name], node, config) for node in nodes}
        self._fabric = fabric_of(self._machines)
        self._off: set[str] = set()
        self._next_collection_ns = COLLECTOR_ROUND_NS
        for netns in self._fabric.nodes.values():
            self._limit(netns)

    def _limit(self, netns: Netns) -> None:
        netns.memory.icmp_limiter = IcmpLimiter() if self._limit_icmp else None

    def machine(self, node: str) -> Machine:
        return self._machines[node]

    def netns(self, node: str) -> Netns:
        return self._fabric.nodes[node]

    def has_chain(self, node: str, chain: str) -> bool:
        """Whether the node's nat table, as it is in force, has this chain."""
        rulesets = self.netns(node).rulesets.values()
        return any(chain in ruleset.tables["nat"].chains for ruleset in rulesets if "nat" in ruleset.tables)

    def remembers(self, node: str, name: str, source_ip: str) -> bool:
        """Whether an affinity list of the node has this source."""
        source = parse_ip(source_ip)
        return source is not None and source in self.netns(node).memory.recent[name]

    # ----------------------------------------------------------------------------------------------------------- power

    def power_off(self, node: str) -> None:
        self._off.add(node)

    def power_on(self, node: str) -> None:
        """The machine boots: no rules, no connections, no affinity."""
        self._off.discard(node)
        old = self._fabric.nodes[node]
        fresh = Netns(old.name, old.routing, old.sysctls)
        self._limit(fresh)
        self._fabric.nodes[node] = fresh

    # --------------------------------------------------------------------------------------------------------- packets

    def connect(self, packet: Packet, at_node: str, now_ns: int, key: Hashable, *, local: bool) -> Outcome:
        """Send a first packet (or another datagram of a flow), and the answer if somebody is there to give one.

        ``key`` tells the connection from others: draws depend on it.
        """
        self._collect(now_ns)
        if at_node in self._off:
            return Outcome(Disposition.DROPPED, Cause.NODE_DOWN)
        chooser = SeededChooser(self._seed, key)
        request = send(self._fabric, packet, at_node=at_node, now_ns=now_ns, chooser=chooser, local=local)
        outcome = _outcome(request)
        if (lost := self._lost_on_the_way(request)) is not None:
            return replace(outcome, disposition=Disposition.FAILED, cause=Cause.NODE_DOWN, endpoint_node=lost)
        if outcome.disposition is not Disposition.DELIVERED or request.end is None:
            return outcome
        application = self._application(request.end, request.packet)
        if application is None:
            self._refuse(request, now_ns, chooser)
            return replace(outcome, disposition=Disposition.FAILED, cause=Cause.ENDPOINT_GONE)
        answer = reply(self._fabric, request, now_ns=now_ns, chooser=chooser)
        cause = self._judge(request, answer)
        if cause is not Cause.NONE:
            return replace(outcome, disposition=Disposition.FAILED, cause=cause)
        sent = request.sent.copy()
        sent.in_interface = ""
        return replace(outcome, flow=OpenFlow(sent, at_node, local, answer.sent, request.end, application))

    def _collect(self, now_ns: int) -> None:
        """Expired entries never match, and a full table thins out only now and then: the collectors' rounds (CT-3.9)."""
        if now_ns >= self._next_collection_ns:
            self._next_collection_ns = now_ns + COLLECTOR_ROUND_NS
            for netns in self._fabric.nodes.values():
                netns.collect(now_ns)

    def establish(self, flow: OpenFlow, now_ns: int) -> None:
        """The third packet of the handshake."""
        self._segment(flow, _ACK, now_ns, from_client=True)

    def carry_on(self, flow: OpenFlow, now_ns: int) -> Cause:
        """Another segment of an open connection and its acknowledgement; why it does not work any more, or NONE."""
        if flow.at_node in self._off:
            return Cause.NODE_DOWN
        journey = self._segment(flow, _DATA, now_ns, from_client=True)
        if self._lost_on_the_way(journey) is not None:
            return Cause.NODE_DOWN
        if journey.end != flow.server:
            return _refusal(journey)[1] if journey.end is None else Cause.OTHER
        if self._application(flow.server, journey.packet) != flow.application:
            self._refuse(journey, now_ns, SeededChooser(self._seed, ("reset", tuple_of(journey.packet))))
            return Cause.ENDPOINT_GONE
        self._segment(flow, _ACK, now_ns, from_client=False)
        return Cause.NONE

    def close(self, flow: OpenFlow, now_ns: int) -> None:
        """The client closes the connection and the server agrees: what stays is an entry in TIME_WAIT."""
        self._segment(flow, _FIN, now_ns, from_client=True)
        self._segment(flow, _FIN, now_ns, from_client=False)
        self._segment(flow, _ACK, now_ns, from_client=True)

    def _segment(self, flow: OpenFlow, flags: frozenset[str], now_ns: int, *, from_client: bool) -> Journey:
        packet = (flow.request if from_client else flow.answer).copy()
        packet.tcp_flags = flags
        packet.in_interface = ""
        at_node = flow.at_node if from_client else flow.server.node
        local = flow.local if from_client else flow.server.whose is Whose.PROCESS
        chooser = SeededChooser(self._seed, ("segment", tuple_of(packet)))
        return send(self._fabric, packet, at_node=at_node, now_ns=now_ns, chooser=chooser, local=local)

    def _lost_on_the_way(self, journey: Journey) -> str | None:
        return next((hop.node for hop in journey.hops if hop.node in self._off), None)

    def _application(self, end: Place, packet: Packet) -> Hashable:
        """The application that listens where the packet ended, by pod and life; None if there is none."""
        listening = (
            (pod.key, pod.life)
            for pod in self._at_ip(format_ip(packet.family, packet.daddr))
            if pod.answers and pod.node == end.node and _listens(pod, packet)
        )
        return next(listening, None)

    def _refuse(self, request: Journey, now_ns: int, chooser: SeededChooser) -> None:
        """Where the pod still exists its kernel resets the connection, and the nodes forget it (K-6.3)."""
        end, packet = request.end, request.packet
        if end is None or packet.protocol != "tcp":
            return
        local = end.whose is Whose.PROCESS
        if not local and not any(pod.exists for pod in self._at_ip(format_ip(packet.family, packet.daddr))):
            return
        reset = answer_to(packet)
        reset.tcp_flags = _RST
        send(self._fabric, reset, at_node=end.node, now_ns=now_ns, chooser=chooser, local=local)

    def _judge(self, request: Journey, answer: Journey) -> Cause:
        """Whether the answer is what the client waits for."""
        if self._lost_on_the_way(answer) is not None:
            return Cause.NODE_DOWN
        if answer.end != request.origin or answer.end is None:
            return Cause.ASYMMETRIC_REPLY
        if tuple_of(answer.packet) != tuple_of(request.sent).inverse():
            return Cause.ASYMMETRIC_REPLY
        return Cause.NONE


def _with_settings(machine: Machine, node: ClusterNode, config: ProxyConfig) -> Machine:
    machine = replace(machine, sysctls=kernel_settings(node, config))
    return machine if node.hairpin else without_hairpin(machine)


class NodeKernel:
    """One node's kernel as its kube-proxy sees it."""

    def __init__(self, machines: Machines, node: str) -> None:
        self._machines, self._node = machines, node

    @property
    def tcp_be_liberal(self) -> bool:
        return self._machines.netns(self._node).sysctls.tcp_be_liberal

    def load(self, family: Family, ruleset: Ruleset, now_ns: int) -> None:
        netns = self._machines.netns(self._node)
        if netns.rulesets.get(family) is not ruleset:
            netns.load(ruleset)

    def udp_flows(self, family: Family, now_ns: int) -> list[Flow]:
        table = self._machines.netns(self._node).conntrack
        table.expire(now_ns)
        return [listed_flow(entry.original, entry.reply) for entry in table.udp_entries(family)]

    def delete_flows(self, family: Family, flows: Iterable[Flow], now_ns: int) -> int:
        """Delete these entries; how many there were."""
        table = self._machines.netns(self._node).conntrack
        wanted = set(flows)
        found = [e for e in table.udp_entries(family) if listed_flow(e.original, e.reply) in wanted] if wanted else []
        for entry in found:
            table.delete(entry.original, entry.reply)
        return len(found)


def listed_flow(original: FlowTuple, answer: FlowTuple) -> Flow:
    """A connection as kube-proxy lists it; ``answer`` is the tuple of its replies."""
    return Flow(
        original.protocol,
        format_ip(original.family, original.saddr),
        original.sport,
        format_ip(original.family, original.daddr),
        original.dport,
        format_ip(answer.family, answer.saddr),
        answer.sport,
        format_ip(answer.family, answer.daddr),
        answer.dport,
    )


def _listens(pod: PodLife, packet: Packet) -> bool:
    """A pod that declares ports listens on those; one that declares none listens on any."""
    ports = pod.workload.ports
    return not ports or any(
        port.container_port == packet.dport and port.protocol.lower() == packet.protocol for port in ports
    )


# ------------------------------------------------------------------------------------------------------- reading a journey


def _outcome(request: Journey) -> Outcome:
    """What the request alone says; DELIVERED: it reached a place where somebody may answer."""
    deciding = _deciding_hop(request)
    number = request.hops.index(deciding)
    walk = deciding.walk
    before = request.hops[number - 1].walk.packet if number else request.sent
    family = request.sent.family
    disposition, cause = _refusal(request)
    translated = (request.packet.daddr, request.packet.dport) != (request.sent.daddr, request.sent.dport)
    end = request.end
    if disposition is Disposition.DELIVERED and not translated:
        # nobody listens on a node's own address: its kernel says so; behind other addresses there is nobody
        on_node = end is not None and end.whose is Whose.PROCESS
        disposition = Disposition.REJECTED if on_node else Disposition.DROPPED
        cause = Cause.NOT_CAPTURED
    reached = end is not None and translated
    return Outcome(
        disposition=disposition,
        cause=cause,
        node=deciding.node,
        source_ip=format_ip(family, before.saddr),
        endpoint=join_host_port(format_ip(family, request.packet.daddr), request.packet.dport) if translated else "",
        endpoint_node=end.node if end is not None and reached else "",
        seen_source_ip=format_ip(family, request.packet.saddr) if reached else "",
        new_flow=walk.effects.updated is None,
        rule=str(walk.rule) if walk.rule is not None else "",
    )


def _deciding_hop(journey: Journey) -> Hop:
    """The node whose rules decided: that translated the destination or refused the packet; else the first."""
    for hop in journey.hops:
        entry = hop.walk.entry
        if hop.walk.rule is not None or hop.walk.dnat_rule is not None or (entry is not None and entry.dst_nat):
            return hop
    return journey.hops[0]


_CAUSES = {
    Role.NO_ENDPOINTS: Cause.NO_ENDPOINTS,
    Role.NO_LOCAL_ENDPOINTS: Cause.NO_LOCAL_ENDPOINTS,
    Role.SOURCE_RANGE_DROP: Cause.SOURCE_RANGES,
}


#: what is not a rule's doing, or not alone
_KERNEL_CAUSES: dict[Why | None, Cause] = {
    Why.ICMP_RATE: Cause.RATE_LIMITED, Why.TABLE_FULL: Cause.TABLE_FULL, Why.HAIRPIN: Cause.NO_HAIRPIN,
}  # fmt: skip


def _refusal(journey: Journey) -> tuple[Disposition, Cause]:
    """The disposition of a request, and why if it ended badly."""
    walk = journey.hops[-1].walk
    cause = _KERNEL_CAUSES.get(walk.cause, Cause.OTHER)
    if cause is Cause.OTHER and walk.rule is not None and walk.rule.rule is not None:
        cause = _CAUSES.get(walk.rule.rule.origin.role, Cause.OTHER)
    match journey.disposition:
        case Fate.DELIVERED:
            return Disposition.DELIVERED, Cause.NONE
        case Fate.FORWARDED:
            return Disposition.DROPPED, Cause.NOT_CAPTURED
        case Fate.REJECTED:
            return Disposition.REJECTED, cause
        case Fate.DROPPED | Fate.STOLEN | Fate.UNKNOWN:
            return Disposition.DROPPED, cause
        case fate:
            assert_never(fate)
