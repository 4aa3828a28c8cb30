"""Follows a request to its end, lets the end react, follows the answer back, and judges."""

from dataclasses import replace

from kpsim.addresses import Family, format_ip
from kpsim.conntrack import Entry, tuple_of
from kpsim.exchange.client import error_of, is_answer, refusal_of
from kpsim.exchange.verdicts import Exchange, Told, Verdict
from kpsim.exchange.worlds import Absent, Answers, Closed, Relay, Target, Unsure, World
from kpsim.fabric import Hop, Journey, Place, Whose, answer_to, send, send_from, tell
from kpsim.flowstate import ICMP_REQUESTS, Action, Direction, read
from kpsim.netfilter import Cause, Disposition, Effects
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.packetpath.chooser import Chooser

_RESET = frozenset({"RST", "ACK"})
_HTTP_OK = 200
#: ICMP types and codes of a kernel's refusal: of a closed port, of a protocol without any socket, of an absent neighbour
_CLOSED_PORT = {Family.IPV4: (3, 3), Family.IPV6: (1, 4)}
_NO_PROTOCOL = {Family.IPV4: (3, 2), Family.IPV6: (4, 1)}
_NO_NEIGHBOUR = {Family.IPV4: (3, 1), Family.IPV6: (1, 3)}
_ICMP = {Family.IPV4: "icmp", Family.IPV6: "icmpv6"}


def is_request(packet: Packet) -> bool:
    """Whether a packet is one that a client waits for an answer to: a SYN, a datagram, an INIT, an echo request."""
    match packet.protocol:
        case "tcp":
            return "SYN" in packet.tcp_flags and not packet.tcp_flags & {"ACK", "RST", "FIN"}
        case "sctp":
            return packet.sctp_chunk == "INIT"
        case "udp" | "udplite":
            return True
        case protocol:
            return packet.related is None and packet.icmp_type in ICMP_REQUESTS.get(protocol, {})


def exchange(
    world: World,
    packet: Packet,
    *,
    at_node: str,
    now_ns: int,
    chooser: Chooser,
    local: bool = False,
    trace: bool = False,
    trace_answer: bool = False,
) -> Exchange:
    """Sends a request that ``at_node`` meets first (``local``: makes) and judges what the client gets.

    The nodes of ``world`` remember the request and the answer; with :class:`WhatIf` nothing real changes. ``trace``
    collects the steps of the request, ``trace_answer`` those of what comes back. InputError for an unknown node.
    """
    followed = _Followed(world, now_ns, chooser, trace=trace, trace_answer=trace_answer)
    followed.remember_at_home(packet, at_node, local=local)
    request = send(world, packet, at_node=at_node, now_ns=now_ns, chooser=chooser, local=local, trace=trace)
    return followed.judge(request)


class _Followed:
    """One exchange that is being followed."""

    def __init__(self, world: World, now_ns: int, chooser: Chooser, *, trace: bool, trace_answer: bool) -> None:
        self._world = world
        self._trace, self._trace_answer = trace, trace_answer
        self._now_ns = now_ns
        self._chooser = chooser

    def remember_at_home(self, packet: Packet, at_node: str, *, local: bool) -> None:
        """Lets the client's own node know the connection, if the packet is looked at from another node on.

        Without this that node would take the answer for INVALID (K-6.3).
        """
        if local or not packet.saddr:
            return
        origin = self._world.origin(packet, at_node)
        home = None if origin.whose is Whose.OUTSIDE else self._world.entrance(origin, packet, at_node)
        if home is None or home.node == at_node:
            return
        netns, original = self._world.netns(home.node, packet.family), tuple_of(packet)
        if netns.conntrack.lookup(original, self._now_ns) is not None:
            return
        reading = read(packet, None, Direction.ORIGINAL, self._now_ns, netns.sysctls)
        if reading.action is Action.KEEP and reading.timeout_ns is not None:
            expires_ns = self._now_ns + reading.timeout_ns
            entry = Entry(
                original, original.inverse(), reading.state, False, False, self._now_ns, expires_ns, history=reading.history
            )  # fmt: skip
            netns.commit(Effects(created=entry), self._now_ns)

    # --- the request --------------------------------------------------------------------------------------------------

    def judge(self, request: Journey) -> Exchange:
        last = request.hops[-1]
        walk = last.walk
        if down := self._down(request):
            return Exchange(Verdict.REQUEST_LOST, request, down, cause="the node is down", nobody=True)
        match request.disposition:
            case Disposition.UNKNOWN | Disposition.STOLEN:
                return Exchange(Verdict.UNKNOWN, request, last.node, cause=walk.unknown)
            case Disposition.REJECTED:
                return self._rejected(request, last)
            case Disposition.DROPPED:
                verdict = Verdict.REFUSED if walk.local_error and len(request.hops) == 1 else Verdict.REQUEST_LOST
                error = walk.local_error if verdict is Verdict.REFUSED else ""
                return Exchange(verdict, request, last.node, Told(error=error), by=walk.rule, cause=_cause(walk.cause))
            case Disposition.DELIVERED | Disposition.FORWARDED:
                return self._arrived(request)

    def _rejected(self, request: Journey, last: Hop) -> Exchange:
        """A node refused the request. What it answers goes back over the nodes before it."""
        walk = last.walk
        by, cause = walk.rule, _cause(walk.cause)
        if walk.local_error:
            told = Told(walk.answer, walk.with_ or "", walk.local_error)
            return Exchange(Verdict.REFUSED, request, last.node, told, by=by, cause=cause)
        assert walk.answer is not None
        answer = tell(
            self._world, walk.answer, by_node=last.node, now_ns=self._now_ns, chooser=self._chooser,
            trace=self._trace_answer,
        )  # fmt: skip
        return self._refused(request, answer, Exchange(Verdict.REFUSED, request, last.node, by=by, cause=cause))

    def _refused(self, request: Journey, answer: Journey, judged: Exchange) -> Exchange:
        """``judged`` if the refusal reaches the client and fits its socket; else the client gets nothing."""
        with_ = refusal_of(request.sent, answer.packet)
        if answer.disposition is Disposition.UNKNOWN:
            return replace(self._lost(request, answer), verdict=Verdict.UNKNOWN)
        if with_ is None or not self._is_home(request, answer):
            lost = self._lost(request, answer)
            # a refusal on the way shows that the request got nowhere; one of its receiver, that it got there
            return replace(lost, verdict=Verdict.REQUEST_LOST) if request.end is None else lost
        told = Told(answer.packet, with_, error_of(request.sent, answer.packet))
        return replace(judged, answer=answer, told=told)

    # --- the end of its way -------------------------------------------------------------------------------------------

    def _arrived(self, request: Journey) -> Exchange:
        end, packet, node = request.end, request.packet, request.hops[-1].node
        assert end is not None
        if _is_to_itself(end, packet):
            return Exchange(Verdict.ANSWER_LOST, request, node, cause=_to_itself(packet))
        reaction = self._world.reaction(end, packet, node, self._now_ns)
        match reaction:
            case Closed() if packet.protocol in ICMP_PROTOCOLS:
                return self._answered(request, Answers())  # the kernel answers a ping, whatever listens
            case Answers():
                return self._answered(request, reaction)
            case Closed(reason):
                return self._closed(request, end, reason)
            case Absent(reason):
                return self._absent(request, end, reason)
            case Relay():
                return self._relayed(request, reaction)
            case Unsure(reason):
                return Exchange(Verdict.UNKNOWN, request, node, cause=reason)

    def _answered(self, request: Journey, listener: Answers) -> Exchange:
        assert request.end is not None
        answer = self._send_back(request, answer_to(request.packet))
        if not self._is_home(request, answer) or not is_answer(request.sent, answer.packet):
            return self._lost(request, answer)
        told = Told(answer.packet, http=listener.http)
        judged = Exchange(
            Verdict.WORKS, request, _translator(request).node, told, answer, who=listener.name, assumed=listener.assumed
        )  # fmt: skip
        if self._misdelivered(request):
            return replace(judged, verdict=Verdict.MISDELIVERED)
        if listener.http is not None and listener.http.status != _HTTP_OK:
            return replace(judged, verdict=Verdict.REFUSED)
        return judged

    def _closed(self, request: Journey, end: Place, reason: str) -> Exchange:
        """Nothing listens: the kernel there resets a TCP connection, and tells others by ICMP."""
        packet = request.packet
        if packet.protocol == "tcp":
            refusal = replace(answer_to(packet), tcp_flags=_RESET, uid=None, gid=None)  # the kernel's, of no socket
        else:
            kinds = _CLOSED_PORT if packet.protocol in ("udp", "udplite") else _NO_PROTOCOL
            refusal = _icmp_error(packet, packet.daddr, *kinds[packet.family])
        answer = self._send_back(request, refusal)
        cause = f"nothing listens at {packet.protocol} {Target.of(packet)}" + (f" ({reason})" if reason else "")
        node = end.node or request.hops[-1].node
        return self._refused(request, answer, Exchange(Verdict.REFUSED, request, node, cause=cause))

    def _absent(self, request: Journey, end: Place, reason: str) -> Exchange:
        """Nobody is there. On a link of its own the last node finds no neighbour, and says so after seconds (K-1.6)."""
        packet, node = request.packet, request.hops[-1].node
        lost = Exchange(Verdict.REQUEST_LOST, request, node, cause=reason, nobody=True)
        if end.whose is not Whose.POD:
            return lost
        source = self._world.netns(node, packet.family).routing.source_for(packet.family, packet.saddr)
        if source is None:
            return lost
        error = _icmp_error(packet, source, *_NO_NEIGHBOUR[packet.family])
        answer = self._send_from(Place(Whose.PROCESS, node), error, node)
        judged = self._refused(request, answer, replace(lost, verdict=Verdict.REFUSED))
        return judged if judged.verdict is Verdict.REFUSED else replace(lost, answer=answer)

    def _relayed(self, request: Journey, relay: Relay) -> Exchange:
        """A load balancer took the request. The client gets what the load balancer gets for its own (PP-11.10)."""
        node = request.hops[-1].node
        if not relay.dials:
            return Exchange(Verdict.REQUEST_LOST, request, node, cause=f"{relay.name} has no node to send it to")
        drawn = self._chooser.uniform(len(relay.dials), ("load balancer", relay.name)) if len(relay.dials) > 1 else 0
        at_node, packet = relay.dials[drawn]
        inner = exchange(
            self._world, packet, at_node=at_node, now_ns=self._now_ns, chooser=self._chooser, trace=self._trace
        )  # fmt: skip
        through = Exchange(
            inner.verdict, request, inner.node, by=inner.by, cause=inner.cause, who=inner.who, assumed=inner.assumed,
            relay=inner,
        )  # fmt: skip
        if inner.verdict not in (Verdict.WORKS, Verdict.MISDELIVERED):
            return replace(through, told=replace(inner.told, packet=None))
        answer = self._send_back(request, answer_to(request.packet))
        if not self._is_home(request, answer) or not is_answer(request.sent, answer.packet):
            return replace(self._lost(request, answer), relay=inner)
        return replace(through, answer=answer, told=Told(answer.packet, http=inner.told.http))

    # --- the answer ---------------------------------------------------------------------------------------------------

    def _send_back(self, request: Journey, packet: Packet) -> Journey:
        assert request.end is not None
        return self._send_from(request.end, packet, request.hops[-1].node)

    def _send_from(self, place: Place, packet: Packet, last_node: str) -> Journey:
        return send_from(
            self._world, place, packet, last_node=last_node, now_ns=self._now_ns, chooser=self._chooser,
            trace=self._trace_answer,
        )  # fmt: skip

    def _is_home(self, request: Journey, answer: Journey) -> bool:
        """Whether a packet came to the client's machine or pod."""
        if answer.end is None or self._down(answer):
            return False
        origin = request.origin
        if (
            origin.whose is not Whose.OUTSIDE
            and self._world.entrance(origin, request.sent, request.hops[0].node) is None
        ):
            origin = Place(Whose.OUTSIDE)  # of a node that is not known
        return answer.end == origin

    def _lost(self, request: Journey, answer: Journey) -> Exchange:
        """The judgement about an answer that does not reach the client, or that no socket of the client takes."""
        node = answer.hops[-1].node if answer.hops else request.hops[-1].node
        judged = Exchange(Verdict.ANSWER_LOST, request, node, answer=answer)
        if down := self._down(answer):
            return replace(judged, node=down, cause="the node is down")
        walk = answer.last
        if answer.end is None:
            if walk is None:
                return replace(judged, cause=_cause(Cause.NO_ROUTE))
            verdict = Verdict.UNKNOWN if answer.disposition is Disposition.UNKNOWN else Verdict.ANSWER_LOST
            return replace(judged, verdict=verdict, by=walk.rule, cause=walk.unknown or _cause(walk.cause))
        if not self._is_home(request, answer):
            return replace(judged, misfit=True, cause=f"it goes to {_whose(answer)} and not to it")
        return replace(
            judged, misfit=True,
            cause=f"it comes from {_source(answer.packet)}; the client waits for one from {Target.of(request.sent)}",
        )  # fmt: skip

    def _down(self, journey: Journey) -> str:
        """The first node of a way whose machine is off; empty: all are on."""
        return next((hop.node for hop in journey.hops if self._world.is_down(hop.node)), "")

    def _misdelivered(self, request: Journey) -> bool:
        """Whether some node translated a Service's destination to what is no endpoint of the Service."""
        before, serves = Target.of(request.sent), self._world.serves
        for hop in request.hops:
            after = Target.of(hop.walk.packet)
            if after != before and serves(before, after, hop.node) is False:
                return True
            before = after
        return serves(before, before, request.hops[-1].node) is False


def _cause(cause: Cause | None) -> str:
    """A kernel's reason in words; empty if a rule was the reason."""
    return "" if cause in (None, Cause.RULE, Cause.POLICY) else str(cause)


def _icmp_error(about: Packet, source: int, kind: int, code: int) -> Packet:
    return Packet(
        about.family, _ICMP[about.family], source, about.saddr, icmp_type=kind, icmp_code=code, related=about.copy()
    )  # fmt: skip


def _translator(request: Journey) -> Hop:
    """The last node that changed the destination, else the last node."""
    before, found = Target.of(request.sent), request.hops[-1]
    for hop in request.hops:
        after = Target.of(hop.walk.packet)
        if after != before:
            found = hop
        before = after
    return found


def _is_to_itself(end: Place, packet: Packet) -> bool:
    """Whether a pod gets a packet that carries the pod's own address as source: a hairpin without masquerade."""
    return end.whose is Whose.POD and packet.saddr == packet.daddr


def _to_itself(packet: Packet) -> str:
    own = format_ip(packet.family, packet.daddr)
    if packet.family is Family.IPV4:
        return f"the kernel of {own} drops a packet that comes in with its own address as source (K-7.3)"
    return f"{own} answers itself, so no node translates the answer"


def _whose(answer: Journey) -> str:
    assert answer.end is not None
    match answer.end.whose:
        case Whose.OUTSIDE:
            return "the outside"
        case Whose.PROCESS:
            return f"node {answer.end.node}"
        case Whose.POD:
            return f"the pod {format_ip(answer.packet.family, answer.packet.daddr)}"


def _source(packet: Packet) -> str:
    return str(Target(packet.family, packet.protocol, packet.saddr, packet.sport))
