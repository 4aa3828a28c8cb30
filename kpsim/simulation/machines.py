"""The nodes' kernels in a run: they hold rules and pass packets; the module also says whether an application answers.

Counterpart: the machines and their network. ``fabric`` and ``netfilter`` decide what a node does to a packet. The
workloads say which pod runs where.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import assert_never

from kpsim.addresses import Family, format_ip, join_host_port, parse_ip
from kpsim.config import ProxyConfig
from kpsim.conntrack import COLLECTOR_ROUND_NS, FlowTuple, tuple_of
from kpsim.fabric import Hop, Journey, Place, Whose, answer_to, fabric_of, reply, send
from kpsim.kubeproxy.stale_flows import UdpFlow
from kpsim.netfilter import Cause, Disposition, Netns
from kpsim.nodes import Machine, make_machines, pod_interface_of, without_hairpin
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.memory import IcmpLimiter
from kpsim.programmed import Programmed
from kpsim.ruleset import Origin, Recent, Role
from kpsim.scenario.nodes import ClusterNode
from kpsim.scenario.settings import kernel_settings
from kpsim.simulation.pods import PodLife
from kpsim.simulation.runlog import Fate, Reason

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
    application: Hashable  #: the pod and its life: the application's successor does not know the connection


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of an attempt to connect: of the packet and, if there was one, of its answer.

    The fields have the meaning of those of ``runlog.Connection``.
    """

    disposition: Fate
    cause: Reason = Reason.NONE
    node: str = ""
    source_ip: str = ""
    endpoint: str = ""
    endpoint_node: str = ""
    seen_source_ip: str = ""
    new_flow: bool = True
    rule: str = ""
    flow: OpenFlow | None = None


class Machines:
    """All nodes' kernels, and the network between them. ``at_ip`` returns the pods that have an address now."""

    def __init__(
        self,
        nodes: Sequence[ClusterNode],
        config: ProxyConfig,
        seed: int,
        at_ip: Callable[[str], Sequence[PodLife]],
        *,
        limit_icmp: bool,
    ) -> None:
        self._seed = seed
        self._at_ip = at_ip
        self._limit_icmp = limit_icmp
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

    def has(self, node: str, origin: Origin) -> bool:
        """Return whether a rule of this origin is in force on the node, in either family."""
        return any(told.has(origin) for told in self.netns(node).programmed.values())

    def remembers(self, node: str, origin: Origin, source_ip: str) -> bool:
        """Return whether this source is on an affinity list that the node's rules of this origin keep."""
        source, netns = parse_ip(source_ip), self.netns(node)
        rules = [rule for told in netns.programmed.values() for rule in told.rules_of(origin)]
        lists = {part.name for rule in rules for part in rule.body if isinstance(part, Recent)}
        return source is not None and any(source in netns.memory.recent[name] for name in lists)

    # ----------------------------------------------------------------------------------------------------------- power

    def power_off(self, node: str) -> None:
        self._off.add(node)

    def power_on(self, node: str) -> None:
        """Boot the machine. It has no rules, no connections and no affinity lists."""
        self._off.discard(node)
        old = self._fabric.nodes[node]
        fresh = Netns(old.name, old.routing, old.sysctls)
        self._limit(fresh)
        self._fabric.nodes[node] = fresh

    # --------------------------------------------------------------------------------------------------------- packets

    def connect(self, packet: Packet, at_node: str, now_ns: int, key: Hashable, *, local: bool) -> Attempt:
        """Send a first packet, or another datagram of a flow, and the answer if an application gives one.

        ``key`` tells the connection from others: draws depend on it.
        """
        self._collect(now_ns)
        if at_node in self._off:
            return Attempt(Fate.DROPPED, Reason.NODE_DOWN, node=at_node)
        chooser = SeededChooser(self._seed, key)
        request = send(self._fabric, packet, at_node=at_node, now_ns=now_ns, chooser=chooser, local=local)
        outcome = _outcome(request)
        if (lost := self._lost_on_the_way(request)) is not None:
            return replace(outcome, disposition=Fate.FAILED, cause=Reason.NODE_DOWN, endpoint_node=lost)
        if outcome.disposition is not Fate.DELIVERED or request.end is None:
            return outcome
        application = self._application(request.end, request.packet)
        if application is None:
            self._refuse(request, now_ns, chooser)
            return replace(outcome, disposition=Fate.FAILED, cause=Reason.ENDPOINT_GONE)
        answer = reply(self._fabric, request, now_ns=now_ns, chooser=chooser)
        cause = self._judge(request, answer)
        if cause is not Reason.NONE:
            return replace(outcome, disposition=Fate.FAILED, cause=cause)
        sent = request.sent.copy()
        sent.in_interface = ""
        return replace(outcome, flow=OpenFlow(sent, at_node, local, answer.sent, request.end, application))

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
        self._segment(flow, _ACK, now_ns, from_client=True)

    def carry_on(self, flow: OpenFlow, now_ns: int) -> Reason:
        """Send another segment of an open connection and its acknowledgement.

        Returns why the connection no longer works, or NONE.
        """
        if flow.at_node in self._off:
            return Reason.NODE_DOWN
        journey = self._segment(flow, _DATA, now_ns, from_client=True)
        if self._lost_on_the_way(journey) is not None:
            return Reason.NODE_DOWN
        if journey.end != flow.server:
            return _refusal(journey)[1] if journey.end is None else Reason.OTHER
        if self._application(flow.server, journey.packet) != flow.application:
            self._refuse(journey, now_ns, SeededChooser(self._seed, ("reset", tuple_of(journey.packet))))
            return Reason.ENDPOINT_GONE
        self._segment(flow, _ACK, now_ns, from_client=False)
        return Reason.NONE

    def close(self, flow: OpenFlow, now_ns: int) -> None:
        """Close the connection: the client closes it and the server agrees. An entry in TIME_WAIT stays."""
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
        """Return the application that listens where the packet ended, as its pod and life, or None if there is none."""
        listening = (
            (pod.key, pod.life)
            for pod in self._at_ip(format_ip(packet.family, packet.daddr))
            if pod.answers and pod.node == end.node and _listens(pod, packet)
        )
        return next(listening, None)

    def _refuse(self, request: Journey, now_ns: int, chooser: SeededChooser) -> None:
        """Answer with a reset if the pod still exists.

        Its kernel sends the reset, and the nodes forget the connection (K-6.3).
        """
        end, packet = request.end, request.packet
        if end is None or packet.protocol != "tcp":
            return
        local = end.whose is Whose.PROCESS
        if not local and not any(pod.exists for pod in self._at_ip(format_ip(packet.family, packet.daddr))):
            return
        reset = answer_to(packet)
        reset.tcp_flags = _RST
        send(self._fabric, reset, at_node=end.node, now_ns=now_ns, chooser=chooser, local=local)

    def _judge(self, request: Journey, answer: Journey) -> Reason:
        """Return what is wrong with the answer that the client waits for, or NONE."""
        if self._lost_on_the_way(answer) is not None:
            return Reason.NODE_DOWN
        if answer.end != request.origin or answer.end is None:
            return Reason.ASYMMETRIC_REPLY
        if tuple_of(answer.packet) != tuple_of(request.sent).inverse():
            return Reason.ASYMMETRIC_REPLY
        return Reason.NONE


def _with_settings(machine: Machine, node: ClusterNode, config: ProxyConfig) -> Machine:
    machine = replace(machine, sysctls=kernel_settings(node, config))
    return machine if node.hairpin else without_hairpin(machine)


class NodeKernel:
    """One node's kernel as that node's kube-proxy sees it."""

    def __init__(self, machines: Machines, node: str) -> None:
        self._machines = machines
        self._node = node

    @property
    def tcp_be_liberal(self) -> bool:
        return self._machines.netns(self._node).sysctls.tcp_be_liberal

    def held(self, family: Family) -> Programmed | None:
        return self._machines.netns(self._node).programmed.get(family)

    def load(self, programmed: Programmed) -> None:
        netns = self._machines.netns(self._node)
        if netns.programmed.get(programmed.family) is not programmed:
            netns.load(programmed)

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


def listed_flow(original: FlowTuple, answer: FlowTuple) -> UdpFlow:
    """Return a connection as kube-proxy lists it. ``answer`` is the tuple of its replies."""
    return UdpFlow(
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
    """Return whether the pod listens on the packet's port. A pod that declares no port listens on any."""
    ports = pod.workload.ports
    return not ports or any(
        port.container_port == packet.dport and port.protocol.lower() == packet.protocol for port in ports
    )


# ------------------------------------------------------------------------------------------------------- reading a journey


def _outcome(request: Journey) -> Attempt:
    """Return the outcome as far as the request alone tells.

    DELIVERED: it reached a place where an application may answer.
    """
    deciding = _deciding_hop(request)
    number = request.hops.index(deciding)
    walk = deciding.walk
    before = request.hops[number - 1].walk.packet if number else request.sent
    family = request.sent.family
    disposition, cause = _refusal(request)
    translated = (request.packet.daddr, request.packet.dport) != (request.sent.daddr, request.sent.dport)
    end = request.end
    if disposition is Fate.DELIVERED and not translated:
        # no application listens on a node's own address, so its kernel refuses; no machine has any other address
        on_node = end is not None and end.whose is Whose.PROCESS
        disposition = Fate.REJECTED if on_node else Fate.DROPPED
        cause = Reason.NOT_CAPTURED
    reached = end is not None and translated
    return Attempt(
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
    """Return the hop whose rules translated the destination or refused the packet, or the first hop if none did."""
    for hop in journey.hops:
        entry = hop.walk.entry
        if hop.walk.rule is not None or hop.walk.dnat_rule is not None or (entry is not None and entry.dst_nat):
            return hop
    return journey.hops[0]


_REASONS = {
    Role.NO_ENDPOINTS: Reason.NO_ENDPOINTS,
    Role.NO_LOCAL_ENDPOINTS: Reason.NO_LOCAL_ENDPOINTS,
    Role.SOURCE_RANGE_DROP: Reason.SOURCE_RANGES,
}


#: stops that are not a rule's decision, or not a rule's alone
_KERNEL_REASONS: dict[Cause | None, Reason] = {
    Cause.ICMP_RATE: Reason.RATE_LIMITED, Cause.TABLE_FULL: Reason.TABLE_FULL, Cause.HAIRPIN: Reason.NO_HAIRPIN,
}  # fmt: skip


def _refusal(journey: Journey) -> tuple[Fate, Reason]:
    """Return the fate of a request and, if it ended badly, the reason."""
    walk = journey.hops[-1].walk
    cause = _KERNEL_REASONS.get(walk.cause, Reason.OTHER)
    if cause is Reason.OTHER and walk.rule is not None and walk.rule.rule is not None:
        cause = _REASONS.get(walk.rule.rule.origin.role, Reason.OTHER)
    match journey.disposition:
        case Disposition.DELIVERED:
            return Fate.DELIVERED, Reason.NONE
        case Disposition.FORWARDED:
            return Fate.DROPPED, Reason.NOT_CAPTURED
        case Disposition.REJECTED:
            return Fate.REJECTED, cause
        case Disposition.DROPPED | Disposition.STOLEN | Disposition.UNKNOWN:
            return Fate.DROPPED, cause
        case other:
            assert_never(other)
