"""The hook functions of connection tracking: look up or create, translate, confirm.

Counterpart: nf_conntrack_in, nf_nat_inet_fn and nf_confirm. ``netfilter`` decides which chains may decide a binding.
"""

from collections.abc import Sequence

from kpsim.conntrack import Destroyed, Ending, Entry, Found, tuple_of
from kpsim.flowstate import Action, Direction, Reading, is_damaged, read
from kpsim.packet import Packet
from kpsim.packetpath import nat
from kpsim.packetpath.chains import run_base_chain
from kpsim.packetpath.reject import error_of_drop
from kpsim.packetpath.steps import Tracking
from kpsim.packetpath.traversal import Cause, Disposition, End, Traversal
from kpsim.ruleset import (
    OF_CONNECTION,
    Assign,
    AssignFrom,
    Chain,
    Compare,
    Dnat,
    Expression,
    Hashed,
    MapNetwork,
    Masked,
    Masquerade,
    Redirect,
    Snat,
    Source,
    Statement,
    Table,
    sources_of,
)

#: ICMPv6 that the kernel does not track: group membership, router and neighbour messages, but not redirects (measured)
_UNTRACKED_TYPES = frozenset({*range(130, 137), 143, 151, 152})


def look_up(traversal: Traversal) -> End | None:
    """Gives the packet its connection, or the one that it begins, and its ctstate (conntrack at priority −200).

    Returns the packet's end if the table is full, else None.
    """
    if traversal.ct_state:
        return None  # the packet came over lo, or NOTRACK took it: its state is known (K-1.2, K-6.6)
    packet, node = traversal.packet, traversal.node
    of_the_link = packet.protocol == "icmpv6" and packet.icmp_type in _UNTRACKED_TYPES
    if of_the_link and not is_damaged(packet, node.sysctls):
        traversal.set_state("UNTRACKED")
        traversal.tracked(Tracking.UNTRACKED)
        return None
    if packet.related is not None:
        _look_up_error(traversal, packet.related)
        return None
    found = node.conntrack.lookup(tuple_of(packet), traversal.now_ns)
    if found is None:
        return _begin(traversal, packet)
    entry, direction = found
    reading = read(packet, entry.flow, direction, traversal.now_ns, node.sysctls)
    if reading.action is Action.INVALID:
        _invalid(traversal)
        if reading.timeout_ns is not None:
            entry = entry._replace(expires_ns=traversal.now_ns + reading.timeout_ns)
        if (later := entry._replace(history=reading.history)) != found.entry:
            traversal.updated = later
        return None
    if reading.action is Action.RESTART:
        # a SYN on a finished connection: NAT is decided anew (K-1.8)
        traversal.destroyed.append(Destroyed(entry, Ending.RESET))
        return _begin(traversal, packet)
    _continue(traversal, found, reading)
    return None


def _begin(traversal: Traversal, packet: Packet) -> End | None:
    """Makes a new connection for a packet without one, or finds the packet INVALID."""
    node, now_ns = traversal.node, traversal.now_ns
    if not traversal.destroyed and (full := _make_room(traversal)):
        return full
    reading = read(packet, None, Direction.ORIGINAL, now_ns, node.sysctls)
    if reading.action is not Action.KEEP or reading.timeout_ns is None:
        _invalid(traversal)
        return None
    original = tuple_of(packet)
    expires_ns = now_ns + reading.timeout_ns
    traversal.entry = Entry(
        original, original.inverse(), reading.state, False, False, now_ns, expires_ns, history=reading.history
    )  # fmt: skip
    traversal.unconfirmed = True
    traversal.set_state("NEW")
    traversal.tracked(Tracking.NEW)
    return None


def _make_room(traversal: Traversal) -> End | None:
    """Makes room for a first packet in a full table by early drop, or returns the packet's end (CT-7.2, K-6.7).

    This comes before the packet is read, so a packet that will be INVALID needs room too (K-6.7). Early drop takes one
    entry here. Linux takes all unassured entries of the bucket that it found, 1.08 on average in a sparse table.
    """
    table, chooser = traversal.node.conntrack, traversal.chooser
    pressure = table.pressure(traversal.now_ns, traversal.node.sysctls)
    if pressure is None:
        return None
    if not pressure.candidates or not chooser.chance(pressure.threshold, traversal.draw_key("early drop")):
        traversal.turned_away = True
        error = error_of_drop(traversal.packet, in_output=True) if traversal.local else ""
        return End(Disposition.DROPPED, Cause.TABLE_FULL, local_error=error)
    number = chooser.victim(pressure.candidates, traversal.draw_key("victim of early drop"))
    traversal.displace(table.unassured(number, traversal.now_ns), Ending.EARLY_DROP)
    return None


def _continue(traversal: Traversal, found: Found, reading: Reading) -> None:
    """Gives the packet its known connection, and updates or destroys the entry as ``reading`` says."""
    entry, direction = found
    answer = direction is Direction.REPLY
    seen_reply = entry.seen_reply or answer
    traversal.entry = entry
    traversal.direction = direction
    traversal.set_state("ESTABLISHED" if seen_reply else "NEW")
    if reading.action is Action.DESTROY:
        traversal.destroyed.append(Destroyed(entry, Ending.RESET))
        traversal.tracked(Tracking.DESTROYED)
        return
    rearm_ns = None if entry.replies_only else reading.timeout_ns
    expires_ns = entry.expires_ns if rearm_ns is None else traversal.now_ns + rearm_ns
    traversal.entry = traversal.updated = entry._replace(
        state=reading.state, seen_reply=seen_reply, assured=reading.assured and not entry.replies_only,
        expires_ns=expires_ns, history=reading.history,
    )  # fmt: skip
    traversal.tracked(Tracking.KNOWN)


def _look_up_error(traversal: Traversal, about: Packet) -> None:
    """Relates an ICMP error to the connection of the packet inside it, in the opposite direction (CT-5.3).

    The error must be addressed to the sender of that packet, else it is INVALID (measured). The sender of the error
    does not matter.
    """
    node, packet = traversal.node, traversal.packet
    found = node.conntrack.lookup(tuple_of(about).inverse(), traversal.now_ns)
    if found is None or packet.daddr != about.saddr or is_damaged(packet, node.sysctls):
        _invalid(traversal)
        return
    traversal.entry, traversal.direction = found
    traversal.set_state("RELATED")
    traversal.tracked(Tracking.RELATED)


def _invalid(traversal: Traversal) -> None:
    """Marks the packet INVALID: it gets no connection and no NAT (K-6.5)."""
    traversal.set_state("INVALID")
    traversal.tracked(Tracking.INVALID)


def translate(traversal: Traversal, chains: Sequence[tuple[Table, Chain]]) -> End | None:
    """Translates the packet by its connection's binding. Returns the packet's end, or None if it goes on.

    ``chains`` are the nat chains of the hook in order. They run only for the packet that creates the entry (K-1.3).
    Later packets follow the binding.
    """
    if traversal.entry is None:
        return None
    if traversal.unconfirmed:
        end = _decide(traversal, chains)
        if end is not None:
            return end
    elif (end := nat.output_device_changed(traversal)) is not None:
        return end
    nat.translate(traversal)
    return None


def _decided(traversal: Traversal) -> bool:
    """Whether the binding that this hook is for has been decided."""
    if traversal.hook in nat.DESTINATION_HOOKS:
        return traversal.destination_done
    return traversal.source_done


def _decide(traversal: Traversal, chains: Sequence[tuple[Table, Chain]]) -> End | None:
    """Runs nat chains for a new connection until one translates (K-9.1). If none does, the null binding is made."""
    if _decided(traversal):
        return None
    for table, chain in chains:
        if end := run_base_chain(traversal, table, chain):
            return end
        if _decided(traversal):
            break
    else:
        nat.bind_nothing(traversal)
    traversal.set_state(traversal.ct_state)  # SNAT and DNAT are states too
    traversal.tracked(Tracking.BOUND)
    return None


def confirm(traversal: Traversal) -> End | None:
    """Inserts the new entry, now that the packet leaves or is delivered (CT-3.4).

    Over lo this happens already in POSTROUTING (K-1.4). Returns the packet's end if the reply tuple is taken, else
    None.
    """
    entry = traversal.entry
    if not traversal.unconfirmed or entry is None:
        return None
    if traversal.exhausted or traversal.taken(entry.reply):
        return End(Disposition.DROPPED, Cause.TUPLE_TAKEN)
    traversal.unconfirmed = False
    traversal.created = entry
    traversal.tracked(Tracking.CONFIRMED)
    return None


def needs_tracking(part: Expression | Statement) -> bool:
    """Whether the kernel tracks connections because of this part of a rule, wherever the rule stands (K-1.5)."""
    match part:
        case Compare(field):
            return field in OF_CONNECTION
        case Assign(to, source=source):
            return to in OF_CONNECTION or source in OF_CONNECTION
        case AssignFrom(to, key):
            return to in OF_CONNECTION or any(map(_reads_connection, key))
        case Dnat() | Snat() | Masquerade() | Redirect() | MapNetwork():
            return True
        case _:
            return any(_reads_connection(source) for source in sources_of(part))


def _reads_connection(source: Source) -> bool:
    match source:
        case Masked(field):
            return field in OF_CONNECTION
        case Hashed(fields):
            return not OF_CONNECTION.isdisjoint(fields)
        case _:
            return source in OF_CONNECTION
