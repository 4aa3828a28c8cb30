"""The way of a packet between the hooks: routing, martians, forwarding, delivery, and the answers to what fails.

Counterpart: ip_rcv, ip_route_input, ip_forward, ip_local_out. Which functions sit at a hook it never knows: it is given one
function that passes the packet through a hook.
"""

from collections.abc import Callable

from kpsim.addresses import Family
from kpsim.packet import Packet
from kpsim.packetpath.memory import IcmpSpending
from kpsim.packetpath.reject import TCP_RESET, answer
from kpsim.packetpath.routing import LOOPBACK4, LOOPBACK6, AddressType, Decision, Interface, InterfaceKind, RouteKind
from kpsim.packetpath.steps import Routed
from kpsim.packetpath.traversal import Cause, Disposition, End, Traversal
from kpsim.ruleset import Hook

PassHook = Callable[[Traversal, Hook], End | None]

_DELIVERED = End(Disposition.DELIVERED)
_FORWARDED = End(Disposition.FORWARDED)

#: routing's refusals: answer to a forwarded packet of IPv4 and IPv6 (K-1.6), error of a local system call
_NO_ROUTE = (Cause.NO_ROUTE, {Family.IPV4: "icmp-net-unreachable", Family.IPV6: "icmp6-no-route"}, "ENETUNREACH")
_REFUSALS = {
    RouteKind.UNREACHABLE: (
        Cause.UNREACHABLE, {Family.IPV4: "icmp-host-unreachable", Family.IPV6: "icmp6-no-route"}, "EHOSTUNREACH",
    ),
    RouteKind.PROHIBIT: (
        Cause.PROHIBIT, {Family.IPV4: "icmp-admin-prohibited", Family.IPV6: "icmp6-adm-prohibited"}, "EACCES",
    ),
}  # fmt: skip
_TIME_EXCEEDED = {Family.IPV4: "icmp-time-exceeded", Family.IPV6: "icmp6-time-exceeded"}


def arrive(traversal: Traversal, pass_hook: PassHook) -> End:
    """A packet that comes in by an interface."""
    packet = traversal.packet
    packet.out_interface = ""
    if not packet.in_interface:
        packet.in_interface = _interface_towards(traversal, packet.saddr)
    if _switched_by_itself(traversal):
        assert traversal.decision is not None
        return _switched(traversal, traversal.decision) or _FORWARDED
    bridged = _bridge(traversal) is not None and _calls_netfilter(traversal)
    if not bridged and (
        end := _martian6(traversal)
    ):  # IPv6 sorts them out first, a bridge calls netfilter before IPv6 (measured)
        return end
    if end := pass_hook(traversal, Hook.PREROUTING):
        return _resumed(traversal, pass_hook, end)
    decision = _lookup_arriving(traversal)
    _routed(traversal, decision)
    if end := _objection(traversal, decision):
        return _unsaid(end) if traversal.family is Family.IPV6 and _is_readdressed_on_bridge(traversal) else end
    assert decision is not None
    if decision.kind is RouteKind.LOCAL:
        return _deliver(traversal, pass_hook)
    packet.out_interface = decision.interface
    if end := _switched(traversal, decision) if _is_switched(traversal, decision) else _spend_a_hop(traversal):
        return end
    if end := pass_hook(traversal, Hook.FORWARD) or pass_hook(traversal, Hook.POSTROUTING):
        return _resumed(traversal, pass_hook, end)
    return _FORWARDED


def _objection(traversal: Traversal, decision: Decision | None) -> End | None:
    """What routing has against a packet that comes in. Of where it goes, before whence it comes (measured)."""
    if _is_only_switched(traversal):
        return None  # a bridge asks no routing (measured)
    if traversal.family is Family.IPV6 and decision is not None and _is_switched(traversal, decision):
        return None  # and what it takes to a pod after translation, IPv6 never sees (measured)
    return _martian(traversal) or _refused(traversal, decision) or _bad_source(traversal)


def _lookup_arriving(traversal: Traversal) -> Decision | None:
    packet, routing = traversal.packet, traversal.node.routing
    if packet.daddr in LOOPBACK6 and packet.daddr != traversal.arrived.daddr and traversal.family is Family.IPV6:
        # un-NATed to ::1, which only the interface that the packet came in by may lead to: it leaves again (K-7.1, measured)
        return routing.lookup_strict(traversal.family, packet.daddr, packet.in_interface)
    if routing.address_type(traversal.family, packet.daddr) is AddressType.BROADCAST and packet.daddr >> 24:
        return Decision(RouteKind.LOCAL, "lo", packet.daddr, None, None)  # of a link: for everybody on it
    return routing.lookup(traversal.family, packet.daddr)


def _spend_a_hop(traversal: Traversal) -> End | None:
    packet = traversal.packet
    if packet.ttl <= 1:
        return End(Disposition.REJECTED, Cause.TTL, with_=_TIME_EXCEEDED[traversal.family])
    traversal.rewrite_ttl(packet.ttl - 1)
    return None


# --- what a bridge switches (K-2.6) ----------------------------------------------------------------------------------------


def _switched_by_itself(traversal: Traversal) -> bool:
    """Between neighbours on a bridge that does not call netfilter: no hook sees the packet, so nothing un-NATs it either."""
    packet, node = traversal.packet, traversal.node
    bridge = _bridge(traversal)
    if bridge is None or _calls_netfilter(traversal) or not _is_neighbour(bridge, packet):
        return False
    decision = node.routing.lookup(traversal.family, packet.daddr)
    if decision is None or decision.kind is not RouteKind.UNICAST or decision.interface != bridge.name:
        return False
    _routed(traversal, decision)
    packet.out_interface = bridge.name
    return True


def _is_switched(traversal: Traversal, decision: Decision) -> bool:
    """Whether the bridge itself takes the packet to a pod: to a neighbour, or anywhere behind it after translation."""
    bridge = _bridge(traversal)
    if bridge is None or decision.interface != bridge.name or not _calls_netfilter(traversal):
        return False
    return _is_readdressed_on_bridge(traversal) or _is_neighbour(bridge, traversal.packet)


def _is_only_switched(traversal: Traversal) -> bool:
    """Whether the bridge takes the packet to a neighbour as it came."""
    decision, untouched = traversal.decision, traversal.packet.daddr == traversal.arrived.daddr
    return untouched and decision is not None and _is_switched(traversal, decision)


def _is_readdressed_on_bridge(traversal: Traversal) -> bool:
    """Whether the bridge saw a destination be translated, and so routes the packet itself."""
    called = _bridge(traversal) is not None and _calls_netfilter(traversal)
    return called and traversal.packet.daddr != traversal.arrived.daddr


def _unsaid(end: End) -> End:
    """The bridge of IPv6 frees what it finds no route for, and tells nobody (measured)."""
    return End(Disposition.DROPPED, end.cause)


def _calls_netfilter(traversal: Traversal) -> bool:
    return traversal.node.sysctls.bridges_call_netfilter(traversal.family)


def _bridge(traversal: Traversal) -> Interface | None:
    """The bridge that the packet came in by."""
    interface = traversal.node.routing.interfaces.get(traversal.packet.in_interface)
    return interface if interface is not None and interface.kind is InterfaceKind.BRIDGE else None


def _is_neighbour(bridge: Interface, packet: Packet) -> bool:
    """Whether the sender, one of the bridge's subnet, sends to the destination without the node's help."""
    return any(packet.daddr in address.network for address in bridge.of(packet.family))


def _switched(traversal: Traversal, decision: Decision) -> End | None:
    """The time to live stays; without hairpin nothing leaves by the port that it came in by."""
    hairpin = traversal.node.routing.interfaces[decision.interface].hairpin
    if decision.next_hop == traversal.arrived.saddr and not hairpin:
        return End(Disposition.DROPPED, Cause.HAIRPIN)
    return None


def send(traversal: Traversal, pass_hook: PassHook) -> End:
    """A packet of a process of this node."""
    packet, routing = traversal.packet, traversal.node.routing
    packet.in_interface = ""
    decision = routing.lookup(traversal.family, packet.daddr)
    _routed(traversal, decision)
    if end := _refused(traversal, decision):  # connect fails before any rule (K-2.1)
        return end
    assert decision is not None
    if not packet.saddr:
        chosen = routing.source_for(traversal.family, packet.daddr)
        if chosen is None and traversal.family is Family.IPV6:
            return End(Disposition.REJECTED, Cause.NO_ADDRESS, local_error="EADDRNOTAVAIL")
        chosen = chosen or 0  # a node without any address of IPv4 sends from 0.0.0.0 (measured)
        traversal.arrived.saddr = chosen
        traversal.rewrite_source(chosen, packet.sport)
    if end := _loopback_leaves(traversal, decision):
        return end
    return _leave(traversal, pass_hook, decision)


def _leave(traversal: Traversal, pass_hook: PassHook, decision: Decision) -> End:
    packet, routing = traversal.packet, traversal.node.routing
    packet.out_interface = decision.interface
    before = packet.daddr, packet.mark
    if end := pass_hook(traversal, Hook.OUTPUT):
        return end
    if (packet.daddr, packet.mark) != before:
        # all of OUTPUT has seen the old output device; only now the packet is routed again (K-2.1)
        rerouted = routing.lookup(traversal.family, packet.daddr)
        _routed(traversal, rerouted)
        if end := _refused(traversal, rerouted) or (rerouted and _loopback_leaves(traversal, rerouted)):
            return End(Disposition.DROPPED, end.cause, local_error=end.local_error)
        assert rerouted is not None
        decision = rerouted
        packet.out_interface = decision.interface
    if end := pass_hook(traversal, Hook.POSTROUTING):
        return end
    if decision.kind is not RouteKind.LOCAL:
        return _FORWARDED
    packet.in_interface, packet.out_interface = decision.interface, ""
    return pass_hook(traversal, Hook.PREROUTING) or _deliver(traversal, pass_hook)


def _deliver(traversal: Traversal, pass_hook: PassHook) -> End:
    end = pass_hook(traversal, Hook.INPUT)
    return _DELIVERED if end is None else _resumed(traversal, pass_hook, end)


def _resumed(traversal: Traversal, pass_hook: PassHook, end: End) -> End:
    """A hook that took the packet may send it on, rewritten, as if the node had made it (ip_vs does)."""
    if not end.resumes:
        return end
    decision = traversal.node.routing.lookup(traversal.family, traversal.packet.daddr)
    _routed(traversal, decision)
    if refused := _refused(traversal, decision):
        return refused
    assert decision is not None
    return _leave(traversal, pass_hook, decision)


# --- routing's objections --------------------------------------------------------------------------------------------------


def _routed(traversal: Traversal, decision: Decision | None) -> None:
    traversal.decision = decision
    if traversal.steps is None:
        return
    if decision is None:
        traversal.steps.append(Routed("none", ""))
    else:
        traversal.steps.append(Routed(str(decision.route) if decision.route else "local", decision.interface))


def _refused(traversal: Traversal, decision: Decision | None) -> End | None:
    if decision is not None and decision.kind in (RouteKind.LOCAL, RouteKind.UNICAST):
        return None
    if decision is not None and decision.kind is RouteKind.BLACKHOLE:
        return End(Disposition.DROPPED, Cause.BLACKHOLE, local_error="EINVAL")
    cause, answers, error = _NO_ROUTE if decision is None else _REFUSALS[decision.kind]
    return End(Disposition.REJECTED, cause, with_=answers[traversal.family], local_error=error)


def _loopback_leaves(traversal: Traversal, decision: Decision) -> End | None:
    """A source in 127/8 may leave by another device than lo only with route_localnet (K-7.1)."""
    if (
        traversal.family is Family.IPV4
        and decision.kind is not RouteKind.LOCAL
        and traversal.packet.saddr in LOOPBACK4
        and not traversal.node.sysctls.route_localnet
    ):
        return End(Disposition.DROPPED, Cause.MARTIAN_SOURCE, local_error="EINVAL")
    return None


def _martian(traversal: Traversal) -> End | None:
    """Addresses that must not come in from outside; the destination is looked at behind DNAT (K-7.2)."""
    if traversal.family is Family.IPV6:
        return _martian6(traversal)
    source, destination = traversal.packet.saddr, traversal.packet.daddr
    confined = not traversal.node.sysctls.route_localnet
    kind = traversal.node.routing.address_type(traversal.family, source)
    if (confined and source in LOOPBACK4) or kind is AddressType.MULTICAST:
        return End(Disposition.DROPPED, Cause.MARTIAN_SOURCE)
    if destination == 0 or (confined and destination in LOOPBACK4):
        return End(Disposition.DROPPED, Cause.MARTIAN_DESTINATION)
    return None


def _martian6(traversal: Traversal) -> End | None:
    """The same of IPv6, which minds the destination that a packet came with, not what it was translated to."""
    if traversal.family is Family.IPV4:
        return None
    source = traversal.packet.saddr
    kind = traversal.node.routing.address_type(traversal.family, source)
    if source in LOOPBACK6 or kind is AddressType.MULTICAST:
        return End(Disposition.DROPPED, Cause.MARTIAN_SOURCE)
    martian = traversal.packet.daddr in LOOPBACK6 and traversal.packet.daddr == traversal.arrived.daddr
    return End(Disposition.DROPPED, Cause.MARTIAN_DESTINATION) if martian else None


def _bad_source(traversal: Traversal) -> End | None:
    """Sources that nobody out there can have, or that another way leads to (K-7.3). IPv6 does not mind."""
    if traversal.family is Family.IPV6:
        return None
    source, node = traversal.packet.saddr, traversal.node
    kind = node.routing.address_type(traversal.family, source)
    if kind is AddressType.BROADCAST or (kind is AddressType.LOCAL and not node.sysctls.accept_local):
        return End(Disposition.DROPPED, Cause.MARTIAN_SOURCE)
    if node.sysctls.rp_filter and not _way_back(traversal, source):
        return End(Disposition.DROPPED, Cause.REVERSE_PATH)
    return None


def _way_back(traversal: Traversal, source: int) -> bool:
    """rp_filter: strict wants the arrival interface, loose any; loose is strict on a device without address (K-7.3)."""
    node, name = traversal.node, traversal.packet.in_interface
    back = node.routing.way_back(traversal.family, source)
    if back is None or back.kind not in (RouteKind.UNICAST, RouteKind.LOCAL):
        return False
    interface = node.routing.interfaces.get(name)
    strict = node.sysctls.rp_filter == 1 or interface is None or not interface.of(traversal.family)
    return back.interface == name or not strict


def _interface_towards(traversal: Traversal, address: int) -> str:
    """The interface that leads to an address; for one of the node's own, the first that leads anywhere outside."""
    routing = traversal.node.routing
    decision = routing.lookup(traversal.family, address)
    if decision is not None and decision.kind is RouteKind.UNICAST:
        return decision.interface
    return next((route.interface for route in routing.routes if route.kind is RouteKind.UNICAST), "")


# --- answers ---------------------------------------------------------------------------------------------------------------


def answered(traversal: Traversal, end: End) -> tuple[End, Packet | None]:
    """A rejection with its answer; what may not or, being one too many, will not be answered looks like a drop (K-3)."""
    assert end.with_ is not None or end.local_error
    if end.with_ is None or (traversal.local and end.rule is None):
        return end, None  # the system call failed: no packet
    packet = answer(traversal.arrived, end.with_, _node_address(traversal))
    if packet is None:
        return End(Disposition.DROPPED, Cause.UNANSWERABLE, end.rule, local_error=end.local_error), None
    limiter = traversal.node.memory.icmp_limiter
    spending = None if end.with_ == TCP_RESET else _icmp_spending(traversal)
    if limiter is None or spending is None:
        return end, packet
    if not limiter.allows(spending):
        # the error of a send is of the drop behind it; only a connect waits for the answer that does not come
        error = end.local_error if traversal.packet.protocol != "tcp" else ""
        return End(Disposition.DROPPED, Cause.ICMP_RATE, end.rule, local_error=error), None
    traversal.icmp = spending
    return end, packet


def _icmp_spending(traversal: Traversal) -> IcmpSpending | None:
    """What an ICMP error takes of the kernel's budget; None: nothing (K-3.4, measured).

    Packets that came over lo are exempt, and so is IPv6 towards the node itself; what IPv4 rejects in OUTPUT, before it is on lo,
    counts overall but not against its sender.
    """
    if not traversal.local:
        return IcmpSpending(traversal.family, traversal.arrived.saddr, traversal.now_ns)
    if traversal.family is Family.IPV6 or traversal.packet.in_interface:
        return None
    return IcmpSpending(traversal.family, None, traversal.now_ns)


def _node_address(traversal: Traversal) -> int | None:
    """Whose address an ICMP error carries: the node's own, the one that was addressed if it is (K-3.1).

    IPv6 prefers those of the interface that the packet came in by, unless the route back names another (measured).

    A packet that was already DNATed has a binding, and the error is translated like an answer: it comes from the service
    address (K-3.1; measured for REJECT in FORWARD, TTL exceeded and unreachable routes).
    """
    routing, arrived, entry = traversal.node.routing, traversal.arrived, traversal.entry
    translated = entry is not None and entry.dst_nat and traversal.ct_state != "RELATED"
    if translated or routing.is_local(traversal.family, arrived.daddr):
        return arrived.daddr
    if traversal.family is Family.IPV6 and not traversal.local and not _is_only_switched(traversal):
        back = routing.lookup(traversal.family, arrived.saddr)
        if back is not None and back.kind is RouteKind.UNICAST and back.source is None:
            return routing.masquerade_address(traversal.family, arrived.in_interface, arrived.saddr, arrived.saddr)
    return routing.source_for(traversal.family, arrived.saddr)
