"""Network address translation: decides a new connection's binding and applies it to every packet.

Counterpart: nf_nat_core and xt_MASQUERADE. A binding is decided once for each entry and is kept in the entry's reply
tuple (CT-3.5). The rules are not asked again for a known connection.
"""

from collections.abc import Callable

from kpsim.addresses import Family
from kpsim.conntrack import Destroyed, Ending, Entry, FlowTuple
from kpsim.flowstate import Direction, FlowState
from kpsim.flowstate.windows import is_before
from kpsim.packet import ICMP_PROTOCOLS, PORT_PROTOCOLS, Packet
from kpsim.packetpath.ranges import chosen
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
        address = _address(statement, entry, packet.daddr)
    if address is None:
        return End(Disposition.DROPPED, Cause.NO_ADDRESS, at)
    traversal.entry = entry._replace(reply=entry.reply._replace(saddr=address))
    if packet.protocol in ICMP_PROTOCOLS:
        _free_id(traversal, random=bool(statement.flags & _RANDOM))
    elif statement.port is not None:
        _bind_port(
            traversal, statement.port, statement.last_port or statement.port, random=bool(statement.flags & _RANDOM)
        )
    traversal.destination_done = True
    traversal.dnat_rule = at
    return None


def _address(statement: Dnat | Snat, entry: Entry, own: int) -> int:
    """The new address; ``own`` is the one that is replaced."""
    first, last = statement.address, statement.last_address
    if first is None:
        return own
    if last is None:
        return first
    if NatFlags.NETMAP in statement.flags:
        hosts = first ^ last
        return first & ~hosts | own & hosts
    return chosen(first, last, entry.reply.inverse(), persistent=NatFlags.PERSISTENT in statement.flags)


def _bind_port(traversal: Traversal, low: int, high: int, *, random: bool) -> None:
    """Gives the flow a destination port of a range (K-24.4)."""
    entry = traversal.entry
    assert entry is not None
    reply = entry.reply
    if low == high:
        traversal.entry = entry._replace(reply=reply._replace(sport=low))
        if random or reply.sport != low:
            # Linux searches a range of one port, and takes the port even if another connection keeps it (K-2.3)
            _gives_way(traversal, traversal.entry.reply)
        return
    if not random and low <= reply.sport <= high and not traversal.taken(reply):
        return
    first = traversal.chooser.uniform(high - low + 1, traversal.draw_key("destination port")) if random else 0
    found = _search(traversal, lambda port: reply._replace(sport=port), low, high, first)
    traversal.entry = entry._replace(reply=found)


def _free_id(traversal: Traversal, *, random: bool = False) -> None:
    """Gives a ping another id where destinations are translated, if its id is taken: the first free one (K-2.4)."""
    entry = traversal.entry
    assert entry is not None
    if not random and not traversal.taken(entry.reply):
        return
    answers = _search(traversal, _sources(entry.reply.inverse()), 0, 65535, first=None if random else 0)
    if random:
        traversal.ports_drawn = (0, 65535)
    traversal.entry = entry._replace(reply=answers, bound_id=answers.inverse().sport)


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
        own = entry.reply.daddr
        if statement.last_address is not None and not statement.flags & (_RANDOM | NatFlags.NETMAP):
            addresses = own if statement.address is None else statement.address, statement.last_address
            if _keeps_source(traversal, addresses, statement.ports):
                traversal.snat_rule = at
                return None
        address = _address(statement, entry, own)
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
    known = not isinstance(statement, Snat) or statement.last_address is None  # of a range that was tried above
    _bind_source(traversal, address, statement.ports, random=bool(statement.flags & _RANDOM), known=known)
    traversal.snat_rule = at
    return None


def _keeps_source(traversal: Traversal, addresses: tuple[int, int], ports: tuple[int, int] | None) -> bool:
    """Whether a flow that is translated to a range keeps its source, or has that of the newest flow of the same source
    (K-24.3). If so, it is bound.
    """
    entry = traversal.entry
    assert entry is not None
    forward = entry.reply.inverse()
    source: tuple[int, int] | None = forward.saddr, forward.sport
    if not (addresses[0] <= forward.saddr <= addresses[1] and (ports is None or ports[0] <= forward.sport <= ports[1])):
        source = traversal.node.conntrack.mapped_source(entry.original, addresses, ports, traversal.now_ns)
    if source is None:
        return False
    kept = forward._replace(saddr=source[0], sport=source[1])
    if traversal.taken(kept.inverse()):
        return False
    traversal.entry = entry._replace(reply=kept.inverse())
    traversal.source_done = True
    return True


def _bind_source(
    traversal: Traversal, address: int, ports: tuple[int, int] | None, *, random: bool, known: bool = True
) -> None:
    """Gives the flow ``address`` and a port that makes its reply tuple unique (K-2.3, CT-6.3).

    ``known``: the port of an earlier flow of the source is tried first.
    """
    entry = traversal.entry
    assert entry is not None
    traversal.source_done = True
    forward = entry.reply.inverse()._replace(saddr=address)
    low, high = ports or port_class(forward)
    for sport in () if random else _ports_to_keep(traversal, entry, forward) if known else (forward.sport,):
        kept = forward._replace(sport=sport)
        allowed = ports is None or low <= sport <= high  # 512 to 599 may be kept, and are never drawn (measured)
        if allowed and not traversal.taken(kept.inverse()):
            traversal.entry = entry._replace(reply=kept.inverse())
            return
    if forward.protocol in PORT_PROTOCOLS or forward.protocol in ICMP_PROTOCOLS:
        traversal.entry = entry._replace(reply=_search(traversal, _sources(forward), low, high))
        traversal.ports_drawn = low, high
        return
    traversal.entry = entry._replace(reply=forward.inverse())


def _ports_to_keep(traversal: Traversal, entry: Entry, forward: FlowTuple) -> tuple[int, ...]:
    """The source ports to try before another is searched for, in order (K-2.3).

    A translated source first tries the port that its newest flow has at the same address, then its own port.
    """
    if forward.saddr == entry.original.saddr:
        return (forward.sport,)
    here = forward.saddr, forward.saddr
    earlier = traversal.node.conntrack.mapped_source(entry.original, here, None, traversal.now_ns)
    return (forward.sport,) if earlier is None else (earlier[1], forward.sport)


def port_class(forward: FlowTuple) -> tuple[int, int]:
    """First and last of the ports that may replace a flow's source port (K-2.3). For ICMP any id may."""
    if forward.protocol in ICMP_PROTOCOLS:
        return 0, 65535
    if forward.sport < 512:
        return 1, 511
    return (600, 1023) if forward.sport < 1024 else (1024, 65535)


def _sources(forward: FlowTuple) -> Callable[[int], FlowTuple]:
    """The answers to a flow, by its source port."""
    return lambda port: forward._replace(sport=port).inverse()


def _search(
    traversal: Traversal, made: Callable[[int], FlowTuple], low: int, high: int, first: int | None = None
) -> FlowTuple:
    """The answers to a flow with a free port between ``low`` and ``high`` (CT-6.3). ``made`` gives them by the port.

    Tries consecutive ports from ``first``, or if that is None from a random one, then half as many from a random one,
    and so on. If no round finds one, ``traversal.exhausted`` is set and the packet will be dropped.
    """
    size = high - low + 1
    attempts = min(size, _FIRST_ATTEMPTS)
    while True:
        offset = traversal.chooser.port(size, traversal.draw_key("source port")) if first is None else first
        first = None
        for step in range(attempts):
            answers = made(low + (offset + step) % size)
            if not traversal.taken(answers) or (attempts - step <= _HARDER and _gives_way(traversal, answers)):
                return answers
        if attempts >= size or attempts <= _LAST_ATTEMPTS:
            traversal.exhausted = True  # the entry will not be inserted
            return answers
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
