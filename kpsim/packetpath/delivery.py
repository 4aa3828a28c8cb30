"""The way of a packet between the hooks: routing, martians, forwarding, delivery, and the answers to what fails.

Counterpart: ip_rcv, ip_route_input, ip_forward, ip_local_out. A packet enters by :func:`arrive` (from an interface) or
by :func:`send` (from a process of the node). What runs at a hook is not written here but in ``netfilter``, which gives
these functions a ``pass_hook`` that passes the packet through one hook.
"""

from collections.abc import Callable
from dataclasses import replace

from kpsim.addresses import Family, Network
from kpsim.packet import Packet
from kpsim.packetpath.chains import run_base_chain
from kpsim.packetpath.memory import IcmpSpending
from kpsim.packetpath.reject import TCP_RESET, answer
from kpsim.packetpath.routing import (
    LOOPBACK4,
    LOOPBACK6,
    AddressType,
    Decision,
    Interface,
    InterfaceKind,
    Question,
    RouteKind,
)
from kpsim.packetpath.steps import Routed
from kpsim.packetpath.traversal import Cause, Disposition, End, Traversal
from kpsim.ruleset import Chain, Hook, Table

PassHook = Callable[[Traversal, Hook], End | None]

_DELIVERED = End(Disposition.DELIVERED)
_FORWARDED = End(Disposition.FORWARDED)

#: how routing refuses: the cause, the answer to a forwarded packet by family (K-1.6), the error of a local system call
_NO_ROUTE = (Cause.NO_ROUTE, {Family.IPV4: "icmp-net-unreachable", Family.IPV6: "icmp6-no-route"}, "ENETUNREACH")
_REFUSALS = {
    RouteKind.UNREACHABLE: (
        Cause.UNREACHABLE, {Family.IPV4: "icmp-host-unreachable", Family.IPV6: "icmp6-no-route"}, "EHOSTUNREACH",
    ),
    RouteKind.PROHIBIT: (
        Cause.PROHIBIT, {Family.IPV4: "icmp-admin-prohibited", Family.IPV6: "icmp6-adm-prohibited"}, "EACCES",
    ),
}  # fmt: skip
_TOO_BIG = {Family.IPV4: "icmp-fragmentation-needed", Family.IPV6: "icmp6-packet-too-big"}
_LEAST_MTU6 = 1280  #: every link of IPv6 takes so much
_EVERYBODY = 0xFFFFFFFF
_LINK_GROUPS = Network(Family.IPV4, 0xE0000000, 24)  #: multicast that stays on its link
_TIME_EXCEEDED = {Family.IPV4: "icmp-time-exceeded", Family.IPV6: "icmp6-time-exceeded"}


def arrive(traversal: Traversal, pass_hook: PassHook) -> End:
    """Takes a packet that comes in by an interface to its end on this node."""
    packet = traversal.packet
    packet.out_interface = ""
    if not packet.in_interface:
        # the caller named no interface: the packet comes by the one that an answer would leave by
        packet.in_interface = traversal.arrived.in_interface = _interface_towards(traversal, packet.saddr)
    if _switched_by_itself(traversal):
        # the packet never enters the node's IP stack, so no rule of any hook applies to it (K-2.6)
        assert traversal.decision is not None
        return _switched(traversal, traversal.decision) or _FORWARDED
    # IPv6 drops martians before netfilter; but a bridge that calls netfilter does so before IPv6 sees the packet
    # (K-7.5)
    bridged = _bridge(traversal) is not None and _calls_netfilter(traversal)
    traversal.bridged = frozenset(("in",)) if bridged else None
    if not bridged and (end := _martian6(traversal)):
        return end
    if end := pass_hook(traversal, Hook.PREROUTING):
        return _resumed(traversal, pass_hook, end)
    # routing comes after PREROUTING, so it looks for the destination that DNAT has written
    decision = _lookup_arriving(traversal)
    _routed(traversal, decision)
    if end := _objection(traversal, decision):
        # an IPv6 bridge drops in silence what it has translated and cannot route; IPv4 tells the sender (K-2.6)
        return _unsaid(end) if traversal.family is Family.IPV6 and _is_readdressed_on_bridge(traversal) else end
    assert decision is not None
    if decision.kind is RouteKind.LOCAL:
        # the packet never passes POSTROUTING, so a DNAT to the node itself is not masqueraded (K-2.5)
        return _deliver(traversal, pass_hook)
    packet.out_interface = decision.interface
    # a router spends a hop before FORWARD and minds the length, a bridge does neither (K-2.6)
    switched = _is_switched(traversal, decision)
    if bridged and switched:
        traversal.bridged = frozenset(("in", "out"))
    if end := _switched(traversal, decision) if switched else _too_far(traversal) or _too_big(traversal, decision):
        return end
    if not switched:
        traversal.rewrite_ttl(packet.ttl - 1)
    return _forward(traversal, pass_hook, decision, switched=switched)


def _forward(traversal: Traversal, pass_hook: PassHook, decision: Decision, *, switched: bool) -> End:
    """Passes a packet for another machine through FORWARD and POSTROUTING."""
    if end := pass_hook(traversal, Hook.FORWARD):
        return _resumed(traversal, pass_hook, end)
    if traversal.asks_again is not None and not switched:
        # ip_vs changed the source in FORWARD: the packet is routed as one that this node made (IPVS-10.4)
        rerouted = _rerouted(traversal, traversal.asks_again)
        if isinstance(rerouted, End):
            return rerouted
        decision = rerouted
    if end := pass_hook(traversal, Hook.POSTROUTING):
        return _resumed(traversal, pass_hook, end)
    return _FORWARDED if switched else _left(traversal, decision)


def _objection(traversal: Traversal, decision: Decision | None) -> End | None:
    """The reason why routing does not accept a packet that comes in; None: it accepts it.

    The kernel checks addresses that are martian in any case, then the route, then the source (K-7.6).
    """
    if _is_only_switched(traversal):
        return None  # the bridge asks no routing (K-2.6)
    if traversal.family is Family.IPV6 and decision is not None and _is_switched(traversal, decision):
        return None  # the bridge takes the translated packet to a pod, and IPv6 never checks it (K-7.5)
    return _martian(traversal) or _not_joined(traversal) or _refused(traversal, decision) or _bad_source(traversal)


def _not_joined(traversal: Traversal) -> End | None:
    """Drops a packet for a group that the node has not joined at its interface (K-7.8). Returns None if it goes on."""
    packet, routing = traversal.packet, traversal.node.routing
    if routing.address_type(traversal.family, packet.daddr) is not AddressType.MULTICAST:
        return None
    if routing.hears(traversal.family, packet.daddr, packet.in_interface):
        return None
    return End(Disposition.DROPPED, Cause.GROUP)


def _lookup_arriving(traversal: Traversal) -> Decision | None:
    """The route of a packet that came in by an interface; None: there is none."""
    packet, routing = traversal.packet, traversal.node.routing
    if packet.daddr in LOOPBACK6 and packet.daddr != traversal.arrived.daddr and traversal.family is Family.IPV6:
        # un-NATed to ::1: only routes of the arrival interface count, so the packet leaves there again or is lost
        # (K-7.1)
        return routing.lookup_strict(traversal.family, packet.daddr, packet.in_interface)
    if routing.address_type(traversal.family, packet.daddr) is AddressType.BROADCAST and (
        packet.daddr or not packet.saddr
    ):
        return Decision(RouteKind.LOCAL, "lo", packet.daddr, None, None)  # a link's broadcast is delivered too (K-7.7)
    if routing.address_type(traversal.family, packet.daddr) is AddressType.MULTICAST:
        # whether the node has joined the group is asked among the objections
        return Decision(RouteKind.LOCAL, "lo", packet.daddr, None, None)
    bridge = _bridge(traversal)
    if bridge is not None and packet.daddr == traversal.arrived.daddr and _is_neighbour(traversal, bridge):
        return routing.in_main(traversal.family, packet.daddr)  # the sender asked for the neighbour, not for the node
    return routing.lookup(traversal.family, packet.daddr, _question(traversal))


def _question(traversal: Traversal) -> Question:
    """What policy rules may ask about the packet as it is now."""
    packet = traversal.packet
    traversal.settle_mark(traversal.node.routing.asked_marks(traversal.family))
    return Question(packet.saddr, packet.mark, packet.in_interface or "lo")


def _too_far(traversal: Traversal) -> End | None:
    """Rejects a packet without hops left (ip_forward). Returns None if it goes on."""
    if traversal.packet.ttl <= 1:
        return End(Disposition.REJECTED, Cause.TTL, with_=_TIME_EXCEEDED[traversal.family])
    return None


def _too_big(traversal: Traversal, decision: Decision) -> End | None:
    """Rejects a packet that is forwarded and too big for the way on. Returns None if it goes on (K-7.10).

    IPv6 asks here for the interface alone, and the route later.
    """
    routing = traversal.node.routing
    if traversal.family is Family.IPV4:
        return _exceeds(traversal, routing.route_mtu(decision))
    mtu = routing.device_mtu(decision)
    return _exceeds(traversal, max(mtu, _LEAST_MTU6) if mtu else 0)


def _left(traversal: Traversal, decision: Decision) -> End:
    """The end of a packet behind all hooks: its route may take less than its interface (K-7.10).

    A DNAT in OUTPUT may have led to another route. The node then tells itself.
    """
    end = _exceeds(traversal, traversal.node.routing.route_mtu(decision))
    return _FORWARDED if end is None else replace(end, tells=True)


def _exceeds(traversal: Traversal, mtu: int) -> End | None:
    packet = traversal.packet
    if not mtu or packet.length <= mtu or not packet.dont_fragment:
        return None
    traversal.mtu = mtu
    return End(Disposition.REJECTED, Cause.TOO_BIG, with_=_TOO_BIG[traversal.family], local_error="EMSGSIZE")


# --- what a bridge switches (K-2.6) -----------------------------------------------------------------------------------


def _switched_by_itself(traversal: Traversal) -> bool:
    """Whether the bridge switches the packet between two neighbours without calling netfilter.

    No hook sees such a packet. So the answer to a translated packet is not un-NATed if it is switched like this
    (K-2.6).
    """
    packet, node = traversal.packet, traversal.node
    bridge = _bridge(traversal)
    if bridge is None or _calls_netfilter(traversal) or not _is_neighbour(traversal, bridge):
        return False
    decision = node.routing.in_main(traversal.family, packet.daddr)  # a bridge asks no policy rules
    if decision is None or decision.kind is not RouteKind.UNICAST or decision.interface != bridge.name:
        return False
    _routed(traversal, decision)
    packet.out_interface = bridge.name
    return True


def _is_switched(traversal: Traversal, decision: Decision) -> bool:
    """Whether a bridge that calls netfilter takes the packet to a pod by itself.

    It does so for a neighbour, and for any destination behind the bridge if the packet was translated (K-2.6).
    """
    bridge = _bridge(traversal)
    if bridge is None or decision.interface != bridge.name or not _calls_netfilter(traversal):
        return False
    return _is_readdressed_on_bridge(traversal) or _is_neighbour(traversal, bridge)


def _is_only_switched(traversal: Traversal) -> bool:
    """Whether the bridge takes the packet to a neighbour without a change of its destination."""
    decision, untouched = traversal.decision, traversal.packet.daddr == traversal.arrived.daddr
    return untouched and decision is not None and _is_switched(traversal, decision)


def _is_readdressed_on_bridge(traversal: Traversal) -> bool:
    """Whether the destination was translated on a bridge that calls netfilter.

    The bridge then routes the packet itself.
    """
    called = _bridge(traversal) is not None and _calls_netfilter(traversal)
    return called and traversal.packet.daddr != traversal.arrived.daddr


def _unsaid(end: End) -> End:
    """The same end as a silent drop: an IPv6 bridge does not tell the sender that it has no route (K-2.6)."""
    return End(Disposition.DROPPED, end.cause)


def _calls_netfilter(traversal: Traversal) -> bool:
    return traversal.node.sysctls.bridges_call_netfilter(traversal.family)


def _bridge(traversal: Traversal) -> Interface | None:
    """The bridge that the packet came in by; None: it came by another kind of interface."""
    return _bridge_of(traversal, traversal.packet)


def _bridge_of(traversal: Traversal, packet: Packet) -> Interface | None:
    interface = traversal.node.routing.interfaces.get(packet.in_interface)
    return interface if interface is not None and interface.kind is InterfaceKind.BRIDGE else None


def _is_neighbour(traversal: Traversal, bridge: Interface) -> bool:
    """Whether the destination lies in the bridge's subnet, so that a pod there sends to it directly."""
    return traversal.node.routing.is_neighbour(traversal.family, traversal.packet.daddr, bridge.name)


def _switched(traversal: Traversal, decision: Decision) -> End | None:
    """Drops a packet that would leave by the bridge port that it came in by, unless hairpin is on (K-2.6).

    Returns None if the packet goes on. The time to live stays as it is.
    """
    hairpin = traversal.node.routing.interfaces[decision.interface].hairpin
    if decision.next_hop == traversal.arrived.saddr and not hairpin:
        return End(Disposition.DROPPED, Cause.HAIRPIN)
    return None


def send(traversal: Traversal, pass_hook: PassHook) -> End:
    """Takes a packet that a process of this node sends to its end on this node."""
    packet, routing = traversal.packet, traversal.node.routing
    packet.in_interface = ""
    decision = routing.lookup(traversal.family, packet.daddr, _question(traversal))
    _routed(traversal, decision)
    if end := _refused(traversal, decision):
        # the system call fails before any rule runs, also for a service address that DNAT would have changed (K-2.1)
        return end
    assert decision is not None
    if not packet.saddr:
        # the source is chosen before DNAT, so by the route to the service address, not to the endpoint (K-2.1)
        chosen = routing.source_for(traversal.family, packet.daddr, _question(traversal))
        if chosen is None and traversal.family is Family.IPV6:
            return End(Disposition.REJECTED, Cause.NO_ADDRESS, local_error="EADDRNOTAVAIL")
        chosen = chosen or 0  # a node without any IPv4 address sends from 0.0.0.0 (K-2.2)
        traversal.arrived.saddr = chosen
        traversal.rewrite_source(chosen, packet.sport)
    too_big = _exceeds(traversal, routing.device_mtu(decision))
    if end := _loopback_leaves(traversal, decision) or too_big:
        return end
    return _leave(traversal, pass_hook, decision)


def _leave(traversal: Traversal, pass_hook: PassHook, decision: Decision) -> End:
    """Passes a packet that this node made through OUTPUT and POSTROUTING, and back over lo if it is for the node."""
    packet = traversal.packet
    packet.out_interface = decision.interface
    if end := pass_hook(traversal, Hook.OUTPUT):
        return _resumed(traversal, pass_hook, end)
    if traversal.asks_again is not None:
        # all of OUTPUT has seen the old output device; the packet is routed again only now, for POSTROUTING (K-2.1)
        rerouted = _rerouted(traversal, traversal.asks_again)
        if isinstance(rerouted, End):
            return rerouted
        decision = rerouted
    if end := pass_hook(traversal, Hook.POSTROUTING):
        return end
    if decision.kind is not RouteKind.LOCAL:
        return _left(traversal, decision)
    # lo hands the packet back to the node: PREROUTING and INPUT see it too, but nat is not asked again (K-1.2)
    packet.in_interface, packet.out_interface = decision.interface, ""
    return pass_hook(traversal, Hook.PREROUTING) or _deliver(traversal, pass_hook)


def _rerouted(traversal: Traversal, asked: Question) -> Decision | End:
    """Routes a packet again that a hook has changed. Returns where it goes now, or its end."""
    packet = traversal.packet
    rerouted = traversal.node.routing.lookup(traversal.family, packet.daddr, asked)
    _routed(traversal, rerouted)
    if end := _refused(traversal, rerouted) or (rerouted and _loopback_leaves(traversal, rerouted)):
        # the sender's system call fails, but unlike a refusal before OUTPUT this counts as a drop
        return End(Disposition.DROPPED, end.cause, local_error=end.local_error)
    assert rerouted is not None
    packet.out_interface = rerouted.interface
    return rerouted


def run_route_chain(traversal: Traversal, table: Table, chain: Chain) -> End | None:
    """Runs a chain of type route in OUTPUT. A packet that it changes is routed again (K-2.1)."""
    before = _routed_by(traversal)
    end = run_base_chain(traversal, table, chain)
    if end is None and _routed_by(traversal) != before:
        traversal.reroute()
    return end


def _routed_by(traversal: Traversal) -> tuple[int, ...]:
    """What of a packet makes the kernel route it again if it changes; a bit of its mark that may have changed counts."""
    packet = traversal.packet
    hops = packet.ttl if traversal.family is Family.IPV6 else 0
    return packet.saddr, packet.daddr, packet.mark, traversal.unsure_mark, hops


def _deliver(traversal: Traversal, pass_hook: PassHook) -> End:
    """Passes a packet for the node itself through INPUT."""
    end = pass_hook(traversal, Hook.INPUT)
    return _DELIVERED if end is None else _resumed(traversal, pass_hook, end)


def _resumed(traversal: Traversal, pass_hook: PassHook, end: End) -> End:
    """Goes on with a packet that a hook ended. Unless ``end.resumes``, that end is final.

    A hook may take a packet, rewrite it, and send it on as if the node had made it, as ip_vs does. The packet is then
    routed anew and leaves through OUTPUT and POSTROUTING.
    """
    if not end.resumes:
        return end
    decision = traversal.node.routing.lookup(traversal.family, traversal.packet.daddr)
    traversal.packet.in_interface, traversal.asks_again = "", None
    _routed(traversal, decision)
    if refused := _refused(traversal, decision):
        return refused
    assert decision is not None
    return _leave(traversal, pass_hook, decision)


# --- routing's objections ---------------------------------------------------------------------------------------------


def _routed(traversal: Traversal, decision: Decision | None) -> None:
    """Keeps what routing decided, and adds it to the steps of a traced packet."""
    traversal.decision = decision
    if traversal.steps is None:
        return
    if decision is None:
        traversal.steps.append(Routed("none", ""))
    else:
        traversal.steps.append(Routed(str(decision.route) if decision.route else "local", decision.interface))


def _refused(traversal: Traversal, decision: Decision | None) -> End | None:
    """The end of a packet without a usable route (K-1.6); None: the route can be used. Only a blackhole is silent."""
    if decision is not None and decision.kind in (RouteKind.LOCAL, RouteKind.UNICAST):
        return None
    if decision is not None and decision.kind is RouteKind.BLACKHOLE:
        return End(Disposition.DROPPED, Cause.BLACKHOLE, local_error="EINVAL")
    cause, answers, error = _NO_ROUTE if decision is None else _REFUSALS[decision.kind]
    return End(Disposition.REJECTED, cause, with_=answers[traversal.family], local_error=error)


def _loopback_leaves(traversal: Traversal, decision: Decision) -> End | None:
    """Drops a packet from 127/8 that would leave by a device other than lo, unless route_localnet is set (K-7.1).

    Returns None if the packet goes on.
    """
    if (
        traversal.family is Family.IPV4
        and decision.kind is not RouteKind.LOCAL
        and traversal.packet.saddr in LOOPBACK4
        and not traversal.node.sysctls.route_localnet
    ):
        return End(Disposition.DROPPED, Cause.MARTIAN_SOURCE, local_error="EINVAL")
    return None


def _martian(traversal: Traversal) -> End | None:
    """Drops a packet with addresses that must not come in from outside (K-7.2). Returns None if it goes on.

    The destination checked is that after DNAT, so a packet to 127.0.0.1 passes if a rule translates it.
    """
    if traversal.family is Family.IPV6:
        return _martian6(traversal)
    source, destination = traversal.packet.saddr, traversal.packet.daddr
    confined = not traversal.node.sysctls.route_localnet
    kind = traversal.node.routing.address_type(traversal.family, source)
    if kind is AddressType.MULTICAST or source == _EVERYBODY:
        return End(Disposition.DROPPED, Cause.MARTIAN_SOURCE)
    if destination == _EVERYBODY or not source | destination or (not source and destination in _LINK_GROUPS):
        return None  # a machine without address may ask everybody for one (K-7.7)
    if not source or (confined and source in LOOPBACK4):
        return End(Disposition.DROPPED, Cause.MARTIAN_SOURCE)
    if destination == 0 or (confined and destination in LOOPBACK4):
        return End(Disposition.DROPPED, Cause.MARTIAN_DESTINATION)
    return None


def _martian6(traversal: Traversal) -> End | None:
    """The IPv6 check. Unlike IPv4's it uses the destination before DNAT (K-7.5)."""
    if traversal.family is Family.IPV4:
        return None
    source = traversal.packet.saddr
    kind = traversal.node.routing.address_type(traversal.family, source)
    if source in LOOPBACK6 or kind is AddressType.MULTICAST:
        return End(Disposition.DROPPED, Cause.MARTIAN_SOURCE)
    martian = traversal.packet.daddr in LOOPBACK6 and traversal.packet.daddr == traversal.arrived.daddr
    return End(Disposition.DROPPED, Cause.MARTIAN_DESTINATION) if martian else None


def _bad_source(traversal: Traversal) -> End | None:
    """Drops a packet whose source no outside sender may have, or to which another interface leads (K-7.3).

    Returns None if the packet goes on. IPv6 has none of these checks.
    """
    if traversal.family is Family.IPV6:
        return None
    source, sysctls, routing = traversal.packet.saddr, traversal.node.sysctls, traversal.node.routing
    if not source:
        return None
    kind = routing.address_type(traversal.family, source)
    own = routing.interface_of(traversal.family, source) is not None
    if own and not sysctls.accept_local:
        return End(Disposition.DROPPED, Cause.MARTIAN_SOURCE)
    if not sysctls.rp_filter and (sysctls.accept_local or not routing.looks_closer):
        return None  # nothing makes the kernel look the source up in its routes
    if kind is AddressType.BROADCAST or (kind is AddressType.LOCAL and not sysctls.accept_local):
        return End(Disposition.DROPPED, Cause.MARTIAN_SOURCE)
    if sysctls.rp_filter and not _way_back(traversal, source):
        return End(Disposition.DROPPED, Cause.REVERSE_PATH)
    return None


def _way_back(traversal: Traversal, source: int) -> bool:
    """Whether a route leads back to the source as rp_filter demands it (K-7.3).

    Strict mode wants a route by the arrival interface, loose mode any route. On a device without address, loose mode
    acts as strict mode.
    """
    node, name = traversal.node, traversal.packet.in_interface
    # the mark counts only with src_valid_mark, and the packet is asked about as if it went out where it will (K-7.9)
    if node.sysctls.src_valid_mark:
        traversal.settle_mark(node.routing.asked_marks(traversal.family))
    mark = traversal.packet.mark if node.sysctls.src_valid_mark else 0
    decision = traversal.decision
    out = decision.interface if decision is not None and decision.kind is RouteKind.UNICAST else "lo"
    back = node.routing.way_back(traversal.family, source, Question(traversal.packet.daddr, mark, out))
    if back is None or back.kind not in (RouteKind.UNICAST, RouteKind.LOCAL):
        return False
    interface = node.routing.interfaces.get(name)
    strict = node.sysctls.rp_filter == 1 or interface is None or not interface.of(traversal.family)
    return back.interface == name or not strict


def _interface_towards(traversal: Traversal, address: int) -> str:
    """The interface that leads to an address; for an address of the node itself, the interface of its first route."""
    routing = traversal.node.routing
    decision = routing.lookup(traversal.family, address)
    if decision is not None and decision.kind is RouteKind.UNICAST:
        return decision.interface
    return next((route.interface for route in routing.routes if route.kind is RouteKind.UNICAST), "")


# --- answers ----------------------------------------------------------------------------------------------------------


def answered(traversal: Traversal, end: End) -> tuple[End, Packet | None]:
    """A rejection and the packet that answers it; None: there is no answer.

    If an answer is not allowed (K-3.3) or exceeds the rate limit (K-3.4), the sender sees a drop, and the end says so.
    """
    assert end.with_ is not None or end.local_error
    if end.with_ is None or (traversal.local and end.rule is None and not end.tells):
        return end, None  # routing refused a local packet: the system call fails, and no packet is sent
    to = traversal.node.routing.address_type(traversal.family, traversal.packet.daddr)
    packet = None
    if to not in (AddressType.BROADCAST, AddressType.MULTICAST):  # nobody is told about a packet to many (K-3.3)
        packet = answer(traversal.packet, end.with_, _node_address(traversal), by_rule=end.rule is not None)
    if packet is None:
        return End(Disposition.DROPPED, Cause.UNANSWERABLE, end.rule, local_error=end.local_error), None
    packet.mtu = traversal.mtu
    limiter = traversal.node.memory.icmp_limiter
    spending = None if end.with_ == TCP_RESET else _icmp_spending(traversal)
    if limiter is None or spending is None:
        return end, packet
    if not limiter.allows(spending):
        # a send has failed because its packet was dropped; only a TCP connect waits for the answer that does not come
        error = end.local_error if traversal.packet.protocol != "tcp" else ""
        return End(Disposition.DROPPED, Cause.ICMP_RATE, end.rule, local_error=error), None
    traversal.icmp = spending
    return end, packet


def _icmp_spending(traversal: Traversal) -> IcmpSpending | None:
    """What an ICMP error takes of the kernel's budget; None: nothing (K-3.4).

    Errors about packets that came over lo are exempt, and so are IPv6 errors to the node itself. An error about a
    packet that IPv4 rejects in OUTPUT, before it reaches lo, counts towards the overall limit but not towards its
    sender's.
    """
    if not traversal.local:
        return IcmpSpending(traversal.family, traversal.arrived.saddr, traversal.now_ns)
    if traversal.family is Family.IPV6 or traversal.packet.in_interface:
        return None
    return IcmpSpending(traversal.family, None, traversal.now_ns)


def _node_address(traversal: Traversal) -> int | None:
    """The source address of an ICMP error that this node sends (K-3.1); None: the node has none.

    If the packet is for the node, the error comes from the address that it is for. Else IPv4 uses the source address
    that the route back to the sender chooses. IPv6 uses an address of the interface that the packet came in by, unless
    the route back names a source.

    The error is then translated as an answer of the packet's connection is. So an error about a packet that was already
    DNATed leaves from the service address.
    """
    routing, packet = traversal.node.routing, traversal.packet
    if routing.is_local(traversal.family, packet.daddr):
        return packet.daddr
    if traversal.family is Family.IPV6 and not traversal.local and not _is_only_switched(traversal):
        back = routing.lookup(traversal.family, packet.saddr)
        if back is not None and back.kind is RouteKind.UNICAST and back.source is None:
            return routing.masquerade_address(
                traversal.family, traversal.arrived.in_interface, packet.saddr, packet.saddr
            )  # fmt: skip
    return routing.source_for(traversal.family, packet.saddr)


def is_reset_past_the_hooks(traversal: Traversal, end: End) -> bool:
    """Whether a reset leaves straight by the bridge port that the rejected packet came in by (K-3.1).

    No hook sees it, so it comes from the endpoint if the packet was DNATed.
    """
    return (
        end.with_ == TCP_RESET and _bridge_of(traversal, traversal.arrived) is not None and _calls_netfilter(traversal)
    )
