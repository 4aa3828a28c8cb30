"""Network address translation: decides a new connection's binding and applies it to every packet.

Counterpart: nf_nat_core and xt_MASQUERADE. A binding is decided once for each entry and is kept in the entry's reply
tuple (CT-3.5). The rules are not asked again for a known connection.
"""

from kpsim.addresses import Family
from kpsim.conntrack import Destroyed, Ending, Entry, FlowTuple
from kpsim.flowstate import Direction, FlowState
from kpsim.flowstate.windows import is_before
from kpsim.packet import ICMP_PROTOCOLS, PORT_PROTOCOLS, Packet
from kpsim.packetpath.steps import Tracking
from kpsim.packetpath.traversal import Cause, Disposition, End, Traversal
from kpsim.ruleset import Dnat, Hook, Masquerade, NatFlags, Redirect, RuleReference, Snat

#: hooks where the destination is translated; at the others it is the source
DESTINATION_HOOKS = (Hook.PREROUTING, Hook.OUTPUT)

_LOCALHOST = {Family.IPV4: 0x7F000001, Family.IPV6: 1}
_FIRST_ATTEMPTS, _LAST_ATTEMPTS = 128, 8  # CT-6.3; the 8 is measured
_HARDER = 32  #: tries at the end of a round that may end a connection
_RANDOM = NatFlags.RANDOM | NatFlags.FULLY_RANDOM
_OVER = (FlowState.TIME_WAIT, FlowState.CLOSE, FlowState.SYN_SENT2)


def destination(traversal: Traversal, statement: Dnat | Redirect, at: RuleReference) -> End | None:
    """Binds the new connection's destination: answers will come from there (CT-6.1).

    Returns the packet's end if there is no address to redirect to, else None. A known connection keeps its binding.
    """
    entry = traversal.entry
    if entry is None or not traversal.unconfirmed:
        return None
    packet = traversal.packet
    if isinstance(statement, Redirect):
        address = _own_address(traversal)
    else:
        address = packet.daddr if statement.address is None else statement.address
    if address is None:
        return End(Disposition.DROPPED, Cause.NO_ADDRESS, at)
    sport = entry.reply.sport if statement.port is None or packet.protocol in ICMP_PROTOCOLS else statement.port
    traversal.entry = entry._replace(reply=entry.reply._replace(saddr=address, sport=sport))
    random = bool(statement.flags & _RANDOM)
    if packet.protocol in ICMP_PROTOCOLS:
        _free_id(traversal, random=random)
    elif statement.port is not None and (random or sport != entry.reply.sport):
        # Linux searches a range of one port, and takes the port even if another connection keeps it (K-2.3)
        _gives_way(traversal, traversal.entry.reply)
    traversal.destination_done = True
    traversal.dnat_rule = at
    return None


def _free_id(traversal: Traversal, *, random: bool = False) -> None:
    """Gives a ping another id where destinations are translated, if its id is taken: the first free one (K-2.4)."""
    entry = traversal.entry
    assert entry is not None
    if not random and not traversal.taken(entry.reply):
        return
    forward = _search(traversal, entry.reply.inverse(), 0, 65535, first=None if random else 0)
    if random:
        traversal.ports_drawn = (0, 65535)
    traversal.entry = entry._replace(reply=forward.inverse(), bound_id=forward.sport)


def _own_address(traversal: Traversal) -> int | None:
    """The address that REDIRECT uses: the first of the arrival interface; loopback for packets that the node made."""
    if traversal.hook is Hook.OUTPUT:
        return _LOCALHOST[traversal.family]
    interface = traversal.node.routing.interfaces.get(traversal.packet.in_interface)
    own = interface.of(traversal.family) if interface else ()
    return own[0].value if own else None


def source(traversal: Traversal, statement: Snat | Masquerade, at: RuleReference) -> End | None:
    """Binds the new connection's source: answers will go there.

    Returns the packet's end if there is no address to masquerade with, else None. A known connection keeps its binding.
    """
    entry = traversal.entry
    if entry is None or not traversal.unconfirmed:
        return None
    if isinstance(statement, Snat):
        address = traversal.packet.saddr if statement.address is None else statement.address
    else:
        # the outgoing interface's address; the route's preferred source is ignored (K-2.2)
        decision, packet = traversal.decision, traversal.packet
        next_hop = packet.daddr if decision is None else decision.next_hop
        borrowed = traversal.node.routing.masquerade_address(
            traversal.family, packet.out_interface, next_hop, packet.daddr
        )  # fmt: skip
        if borrowed is None:
            return End(Disposition.DROPPED, Cause.NO_ADDRESS, at)
        address = borrowed
        traversal.entry = entry._replace(masquerade_device=packet.out_interface)
    _bind_source(traversal, address, statement.ports, random=bool(statement.flags & _RANDOM))
    traversal.snat_rule = at
    return None


def _bind_source(traversal: Traversal, address: int, ports: tuple[int, int] | None, *, random: bool) -> None:
    """Gives the flow ``address`` and a port that makes its reply tuple unique (K-2.3, CT-6.3)."""
    entry = traversal.entry
    assert entry is not None
    traversal.source_done = True
    forward = entry.reply.inverse()._replace(saddr=address)
    low, high = ports or port_class(forward)
    for sport in () if random else _ports_to_keep(traversal, entry, forward):
        kept = forward._replace(sport=sport)
        allowed = ports is None or low <= sport <= high  # 512 to 599 may be kept, and are never drawn (measured)
        if allowed and not traversal.taken(kept.inverse()):
            traversal.entry = entry._replace(reply=kept.inverse())
            return
    if forward.protocol in PORT_PROTOCOLS or forward.protocol in ICMP_PROTOCOLS:
        forward = _search(traversal, forward, low, high)
        traversal.ports_drawn = low, high
    traversal.entry = entry._replace(reply=forward.inverse())


def _ports_to_keep(traversal: Traversal, entry: Entry, forward: FlowTuple) -> tuple[int, ...]:
    """The source ports to try before another is searched for, in order (K-2.3).

    A translated source first tries the port that its newest flow has at the same address, then its own port.
    """
    if forward.saddr == entry.original.saddr:
        return (forward.sport,)
    earlier = traversal.node.conntrack.mapped_port(entry.original, forward.saddr, traversal.now_ns)
    return (forward.sport,) if earlier is None else (earlier, forward.sport)


def port_class(forward: FlowTuple) -> tuple[int, int]:
    """First and last of the ports that may replace a flow's source port (K-2.3). For ICMP any id may."""
    if forward.protocol in ICMP_PROTOCOLS:
        return 0, 65535
    if forward.sport < 512:
        return 1, 511
    return (600, 1023) if forward.sport < 1024 else (1024, 65535)


def _search(traversal: Traversal, forward: FlowTuple, low: int, high: int, first: int | None = None) -> FlowTuple:
    """The flow with a free source port between ``low`` and ``high`` (CT-6.3).

    Tries consecutive ports from ``first``, or if that is None from a random one, then half as many from a random one,
    and so on. If no round finds one, ``traversal.exhausted`` is set and the packet will be dropped.
    """
    size = high - low + 1
    attempts = min(size, _FIRST_ATTEMPTS)
    while True:
        offset = traversal.chooser.port(size, traversal.draw_key("source port")) if first is None else first
        first = None
        for step in range(attempts):
            candidate = forward._replace(sport=low + (offset + step) % size)
            answers = candidate.inverse()
            if not traversal.taken(answers) or (attempts - step <= _HARDER and _gives_way(traversal, answers)):
                return candidate
        if attempts >= size or attempts <= _LAST_ATTEMPTS:
            traversal.exhausted = True  # the entry will not be inserted
            return candidate
        attempts //= 2


def _gives_way(traversal: Traversal, answers: FlowTuple) -> bool:
    """Whether a translated TCP connection that is over gives up its port (K-2.3). If so, its entry is destroyed.

    Only the last tries of a round ask for this. Linux takes the port if the new SYN's sequence number lies behind all
    that the old connection's client sent. If one of the two is not known, the numbers of two connections are taken for
    unrelated, so the port is taken one time in two.
    """
    found = traversal.node.conntrack.lookup(answers, traversal.now_ns)
    if found is None or found.direction is not Direction.REPLY or not found.entry.src_nat:
        return False
    new = traversal.entry
    if found.entry.state not in _OVER or new is None or new.state is not FlowState.SYN_SENT:
        return False
    old_windows, new_windows = found.entry.history.windows, new.history.windows
    if old_windows is not None and new_windows is not None:
        ahead = is_before(old_windows.original.border, new_windows.original.border)
    else:
        ahead = not traversal.chooser.victim(2, traversal.draw_key("source port of another"))
    if ahead:
        traversal.displace(found.entry, Ending.PORT_NEEDED)
    return ahead


def bind_nothing(traversal: Traversal) -> None:
    """Makes the null binding at a hook where no rule translated.

    It still changes a source port that clashes (K-2.4).
    """
    entry = traversal.entry
    assert entry is not None
    if traversal.hook in DESTINATION_HOOKS:
        if traversal.packet.protocol in ICMP_PROTOCOLS:
            _free_id(traversal)
        traversal.destination_done = True
        return
    traversal.source_done = True
    if traversal.taken(entry.reply):
        _bind_source(traversal, entry.reply.daddr, None, random=False)


def output_device_changed(traversal: Traversal) -> End | None:
    """Drops a packet of a masqueraded flow that is now routed to another device, and destroys its entry (K-1.6).

    The packet would leave with an address of the old device. Returns None if the packet goes on.
    """
    entry = traversal.entry
    if (
        entry is None
        or traversal.hook is not Hook.POSTROUTING
        or entry.masquerade_device in ("", traversal.packet.out_interface)
        or traversal.direction is not Direction.ORIGINAL
    ):
        return None
    traversal.destroyed.append(Destroyed(entry, Ending.DEVICE_CHANGED))
    traversal.updated = None
    traversal.tracked(Tracking.DESTROYED)
    return End(Disposition.DROPPED, Cause.DEVICE_CHANGED)


def translate(traversal: Traversal) -> None:
    """Rewrites the packet's destination or source, whichever this hook is for, as the entry's binding says."""
    entry, packet = traversal.entry, traversal.packet
    assert entry is not None
    at_destination = traversal.hook in DESTINATION_HOOKS
    if not entry.is_bound(traversal.direction, destination=at_destination):
        return
    target = entry.translated(traversal.direction)
    if packet.related is not None:
        packet.related = _translated_back(packet.related, target, at_destination=at_destination)
    has_id = packet.protocol in ICMP_PROTOCOLS
    if at_destination:
        if traversal.hook is Hook.OUTPUT and packet.daddr != target.daddr:
            traversal.reroute()
        traversal.rewrite_destination(target.daddr, packet.dport if has_id else target.dport)
        if has_id and packet.related is None:
            traversal.rewrite_source(packet.saddr, target.sport)
    elif has_id and packet.related is not None:
        traversal.rewrite_source(target.saddr, packet.sport)
    else:
        traversal.rewrite_source(target.saddr, target.sport)


def _translated_back(about: Packet, target: FlowTuple, *, at_destination: bool) -> Packet:
    """The packet inside an ICMP error, translated as the error is, but the other way round (CT-5.3, K-3.1).

    The id of a ping becomes the one that the receiver of the error knows.
    """
    about = about.copy()
    has_id = about.protocol in ICMP_PROTOCOLS
    if at_destination:
        about.saddr, about.sport = target.daddr, target.sport if has_id else target.dport
    else:
        about.daddr = target.saddr
        if has_id:
            about.sport = target.sport
        else:
            about.dport = target.sport
    return about
