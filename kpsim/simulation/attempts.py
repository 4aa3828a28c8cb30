"""Attempts to connect: what became of them, read from the exchange of packets that the nodes had."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import assert_never

from kpsim.addresses import format_ip, join_host_port
from kpsim.exchange import Exchange, Target, Verdict, was_admitted
from kpsim.fabric import Journey, Place, Whose
from kpsim.netfilter import Cause, Disposition, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.pins import Followed, deciding_hop, followed_entry
from kpsim.ruleset import Role
from kpsim.simulation.answering import RunWorld, pod_name
from kpsim.simulation.runlog import Fate, Pin, Reason


@dataclass(frozen=True, slots=True)
class OpenFlow:
    """A connection that works: what the client sends, what the server answers, and who the server is.

    ``outer`` is the client's own connection if a load balancer stands between.
    """

    request: Packet
    at_node: str
    local: bool
    answer: Packet
    server: Place
    application: Hashable  #: the pod and its life: the application's successor does not know the connection
    outer: "OpenFlow | None" = None
    over: bool = False  #: its packets up to the last have passed already (``flowcache``)


@dataclass(frozen=True, slots=True)
class Broken:
    """Why an open connection no longer works."""

    cause: Reason
    followed: Followed | None = None


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
    answered_by: str = ""
    flow: OpenFlow | None = None
    followed: Followed | None = None  #: None: the rules decided, or the packet met none
    pin: Pin | None = None
    silent: bool = False  #: the client got nothing at all, neither an answer nor a refusal
    relayed: tuple[str, Packet] | None = (
        None  #: what a load balancer between sent in place of the client, and to which node
    )


def read_exchange(judged: Exchange, world: RunWorld, now_ns: int) -> Attempt:
    """Return what became of an attempt, without its open flow."""
    silent = judged.told.packet is None and not judged.told.error
    if judged.relay is None and world.taken is not None:
        outcome = replace(_outcome(judged.request), silent=silent)
        return replace(outcome, disposition=Fate.DROPPED, cause=Reason.NO_HEALTHY_NODE)
    last = judged.last
    request = last.request
    outcome = replace(_outcome(request), silent=silent)
    if judged.relay is not None:
        outcome = replace(outcome, relayed=(request.hops[0].node, request.sent))
    if (off := lost_at(request, world)) is not None:
        return replace(outcome, disposition=Fate.FAILED, cause=Reason.NODE_DOWN, endpoint_node=off)
    if (off := lost_at(judged.request, world)) is not None:
        return replace(outcome, disposition=Fate.DROPPED, cause=Reason.NODE_DOWN, node=off)
    end = request.end
    listener = world.listener(end, Target.of(request.packet)) if end is not None else None
    if judged.verdict in (Verdict.WORKS, Verdict.MISDELIVERED) and listener is not None and end is not None:
        served = judged.verdict is Verdict.WORKS
        return replace(
            outcome,
            disposition=Fate.DELIVERED if served else Fate.MISDELIVERED,
            cause=Reason.NONE if served else Reason.MISDELIVERED,
            endpoint=str(Target.of(request.packet)),
            endpoint_node=end.node,
            seen_source_ip=format_ip(request.packet.family, request.packet.saddr),
            answered_by=pod_name(listener),
        )
    if outcome.cause is Reason.SOURCE_RANGES and _was_admitted(request, world, now_ns):
        return replace(outcome, cause=Reason.NO_LOCAL_ENDPOINTS)
    if outcome.disposition is Fate.REJECTED and last.verdict is Verdict.REQUEST_LOST and outcome.rule:
        return replace(outcome, disposition=Fate.DROPPED)  # the refusal did not reach the client
    outside = end is not None and end.whose is Whose.OUTSIDE and listener is not None
    if outcome.disposition is not Fate.DELIVERED and not outside:
        return outcome
    if listener is None:
        return replace(outcome, disposition=Fate.FAILED, cause=Reason.ENDPOINT_GONE)
    answers = [answer for answer in (last.answer, judged.answer) if answer is not None]
    off_later = any(lost_at(answer, world) is not None for answer in answers)
    return replace(outcome, disposition=Fate.FAILED, cause=Reason.NODE_DOWN if off_later else Reason.ASYMMETRIC_REPLY)


def lost_at(journey: Journey, world: RunWorld) -> str | None:
    """Return the first node of a way that is off, or None."""
    return next((hop.node for hop in journey.hops if world.is_down(hop.node)), None)


def _was_admitted(request: Journey, world: RunWorld, now_ns: int) -> bool:
    """Return whether the source ranges by whose rule the last node dropped the packet let it in (``was_admitted``)."""
    node = request.hops[-1].node
    first = len(request.hops) == 1
    packet = (request.sent if first else request.hops[-2].walk.packet).copy()
    if not first:
        packet.in_interface, packet.out_interface, packet.mark = "", "", 0
    local = first and request.origin == Place(Whose.PROCESS, node)
    netns = world.netns(node, packet.family)
    return was_admitted(walk(netns, packet, now_ns=now_ns, chooser=ScriptedChooser(), local=local, trace=True))


def _outcome(request: Journey) -> Attempt:
    """Return the outcome as far as the request alone tells.

    DELIVERED: it reached a place where an application may answer.
    """
    deciding = deciding_hop(request)
    number = request.hops.index(deciding)
    walk = deciding.walk
    before = request.hops[number - 1].walk.packet if number else request.sent
    family = request.sent.family
    disposition, cause = refusal(request)
    translated = (request.packet.daddr, request.packet.dport) != (request.sent.daddr, request.sent.dport)
    end = request.end
    if disposition is Fate.DELIVERED and not translated:
        # nobody is meant to listen on a node's own address, so its kernel refuses; no machine has any other address
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
        rule=str(walk.refused_by) if walk.refused_by is not None else "",
        followed=followed_entry(request),
    )


_REFUSING = {
    Role.NO_ENDPOINTS: Reason.NO_ENDPOINTS,
    Role.NO_LOCAL_ENDPOINTS: Reason.NO_LOCAL_ENDPOINTS,
    Role.SOURCE_RANGE_DROP: Reason.SOURCE_RANGES,
    # kube-proxy refuses what is for none of its Services but for one of their addresses (NFT-5.8, NFT-5.9)
    Role.UNDEFINED_PORT: Reason.NOT_CAPTURED,
    Role.UNALLOCATED_CLUSTER_IP: Reason.NOT_CAPTURED,
    Role.FOREIGN: Reason.FOREIGN_RULE,
}


#: stops that are not a rule's decision, or not a rule's alone
_KERNEL_REASONS: dict[Cause | None, Reason] = {
    Cause.ICMP_RATE: Reason.RATE_LIMITED, Cause.TABLE_FULL: Reason.TABLE_FULL, Cause.HAIRPIN: Reason.NO_HAIRPIN,
    Cause.REVERSE_PATH: Reason.REVERSE_PATH, Cause.SERVER_GONE: Reason.ENDPOINT_GONE,
    Cause.NOT_RESCHEDULED: Reason.ENDPOINT_GONE,
}  # fmt: skip


def refusal(journey: Journey) -> tuple[Fate, Reason]:
    """Return the fate of a request and, if it ended badly, the reason."""
    walk = journey.hops[-1].walk
    cause = _KERNEL_REASONS.get(walk.cause, Reason.OTHER)
    if walk.cause is Cause.NO_REAL_SERVER and walk.server is not None:
        # some schedulers refuse although others could serve: the client's server is draining (IPVS-14)
        cause = (
            Reason.SERVER_DRAINING if any(each.weight for each in walk.server.virtual.servers) else Reason.NO_ENDPOINTS
        )
    if cause is Reason.OTHER and walk.rule is not None:
        # no policy of a chain is kube-proxy's
        role = Role.FOREIGN if walk.rule.rule is None else walk.rule.origin.role
        cause = _REFUSING.get(role, Reason.OTHER)
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
