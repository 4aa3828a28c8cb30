"""Numbers of packets on the wire, as two real ends choose them: TCP's sequence numbers and SCTP's verification tags.

Counterpart: the transport layers of a client and a server. The model's entry counts what each end has sent since
connection tracking saw the connection begin. This module turns these counts into numbers that Linux' connection
tracking accepts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kpsim.conntrack import Entry, FlowTuple, Found
from kpsim.flowstate import Direction, FlowState, Segment, TcpInput
from kpsim.flowstate.tcp import PLACES
from kpsim.lab.wires import Shot
from kpsim.netfilter import Walk
from kpsim.packet import Packet, Window

#: the first sequence number, or the tag, of each end of a connection
_BASES: Mapping[Direction, int] = {Direction.ORIGINAL: 1_000_000, Direction.REPLY: 5_000_000}
_TAGS = {Direction.ORIGINAL: 0xAAAA0001, Direction.REPLY: 0xBBBB0002}
_TAKING = frozenset({"SYN", "FIN", "PSH"})  #: a segment with one of these takes a sequence number


@dataclass
class _Numbered:
    """Facts of a connection that its entry does not hold."""

    bases: Mapping[Direction, int] = field(default_factory=lambda: _BASES)  #: the sequence number of each end's SYN
    awaited: dict[Direction, int] = field(
        default_factory=dict
    )  #: the number that each end acknowledged last: an RST of the other end with this number is exact (K-6.4)
    ended: int = 0  #: the sequence number behind the last segment that passed without effect


class Numbers:
    """The numbers of all connections of a node."""

    def __init__(self) -> None:
        self._numbered: dict[tuple[FlowTuple, int], _Numbered] = {}

    def shot(self, packet: Packet, found: Found | None) -> Shot:
        """The packet with its numbers. ``found`` is its connection; None if it begins one."""
        match packet.protocol:
            case "tcp":
                return self._segment(packet, found)
            case "sctp":
                direction = found.direction if found else Direction.ORIGINAL
                return Shot(packet, _TAGS[direction], _TAGS[direction.opposite])
            case _:
                return Shot(packet)

    def _segment(self, packet: Packet, found: Found | None) -> Shot:
        flags = packet.tcp_flags
        if found is None:
            number, acknowledged = _BASES[Direction.ORIGINAL], _BASES[Direction.REPLY]
            return Shot(packet, number, acknowledged + ("SYN" in flags) if "ACK" in flags else 0)
        entry, direction = found
        known = self._numbered.get(_identity(entry), _Numbered())
        side, other = entry.history.side(direction), entry.history.side(direction.opposite)
        number = known.bases[direction]
        if "SYN" not in flags:  # a SYN has the first number, whatever its window
            number += side.sent - len(flags & _TAKING) * packet.repeated
            number += PLACES[packet.window] if side.known else 0
        if "RST" in flags and packet.window is Window.EXACT and not packet.repeated and other.acknowledges:
            number = known.awaited.get(direction.opposite, number)
        return Shot(packet, number, _acknowledged(flags, found, known) if "ACK" in flags else 0)

    def note(self, shot: Shot, found: Found | None, walk: Walk) -> None:
        """Remembers the numbers of a segment that was sent. ``found`` is the connection as it was before the segment."""
        packet, created = shot.packet, walk.effects.created
        after = created or walk.effects.updated
        if packet.protocol != "tcp" or after is None or walk.ct_state == "INVALID":
            return
        if created is not None:
            self._numbered[_identity(created)] = _Numbered(self._bases_behind(found))
        direction = found.direction if found and not created else Direction.ORIGINAL
        known = self._numbered.setdefault(_identity(after), _Numbered())
        counted = found is None or created is not None or after.expires_ns != found.entry.expires_ns
        told = counted and packet.window not in (Window.BEFORE, Window.OUTSIDE)
        if "ACK" in packet.tcp_flags and told and after.history.side(direction).acknowledges:
            anew = "SYN" in packet.tcp_flags and after.state is FlowState.SYN_RECV
            first = found is None or created is not None or not found.entry.history.side(direction).acknowledges
            before = 0 if anew or first else known.awaited.get(direction, 0)
            known.awaited[direction] = max(before, shot.acknowledged)
        last = after.history.last
        if last is not None and last.direction is direction and after.history.let_through:
            known.ended = shot.sequence + len(packet.tcp_flags & _TAKING)

    def _bases_behind(self, found: Found | None) -> Mapping[Direction, int]:
        """First numbers for a connection that replaces ``found``. The client of the new one may be the server of the
        old.
        """
        if found is None:
            return _BASES
        bases = self._numbered.get(_identity(found.entry), _Numbered()).bases
        return {
            way: bases[found.direction if way is Direction.ORIGINAL else found.direction.opposite] for way in Direction
        }


def _acknowledged(flags: frozenset[str], found: Found, known: _Numbered) -> int:
    history, opposite = found.entry.history, found.direction.opposite
    answers_syn = history.last == Segment(opposite, TcpInput.SYN) and found.entry.state is not FlowState.SYN_SENT2
    if "SYN" in flags or ("RST" in flags and answers_syn):
        return known.bases[opposite] + 1
    if "RST" in flags and history.let_through and history.last == Segment(opposite, TcpInput.ACK):
        return known.ended
    return known.bases[opposite] + history.side(opposite).sent


def _identity(entry: Entry) -> tuple[FlowTuple, int]:
    """A key for a connection, which stays equal when its entry changes."""
    return entry.original, entry.created_ns
