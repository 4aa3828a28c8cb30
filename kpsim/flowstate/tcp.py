"""TCP as connection tracking sees it (CT-4, K-6.1 … K-6.4). Counterpart: nf_conntrack_proto_tcp.

The states, and the segments that lead from one to the next (capitals: the client's; ACK stands for data too; what is
not drawn re-arms the timer or is INVALID)::

                             ┌◄────────── SYN, syn: a new flow, NAT is decided afresh (K-1.8) ◄──────────┐
                             ▼                                                                           │
    (no entry) ── SYN ──► SYN_SENT ── syn ──► SYN_SENT2                                                  │
        │                    │ syn-ack            │ SYN-ACK, syn-ack                                     │
        │                    ▼                    │                                                      │
        │                 SYN_RECV ◄──────────────┘                                                      │
        │                    │ ACK; ack too if both sent a SYN                                           │
        │ ACK, if tcp_loose  ▼                                                                           │
        └──────────────► ESTABLISHED                                                                     │
                             │ FIN, fin (from SYN_RECV too)                                              │
                             ▼                                                                           │
                          FIN_WAIT ── ACK, ack ──► CLOSE_WAIT                                            │
                             │ FIN, fin                │ FIN, fin                                        │
                             ▼                         │                                                 │
                          LAST_ACK ◄───────────────────┘                                                 │
                             │ ACK, ack                                                                  │
                             ▼                                                                           │
                          TIME_WAIT ─────────────────────────────────────────────────────────────────────┤
                                                                                                         │
    every state ─ RST, rst ─► CLOSE ─── only SYN, and only behind a FIN or the client's own RST ─────────┘
        └── before any answer: the entry is deleted

    ESTABLISHED … CLOSE ── syn-ack, right behind a SYN that was let through ──► SYN_RECV, with the old binding

A SYN to a connection that lives, and the answer to it, pass without effect, because only the receiver knows what they
mean. The state after each segment is a table. The rest of this module is what the table cannot hold: which earlier
segments count, windows, and timers.

Segments with :class:`~kpsim.packet.Numbers` are measured by ``windows``. For all others, sequence numbers are not those
of the wire. Then both ends are assumed to be honest: a segment begins where the last one ended and acknowledges all that
the other end has sent, unless its :class:`~kpsim.packet.Window` says otherwise.
"""

from functools import cache
from typing import NamedTuple

from kpsim.flowstate import windows
from kpsim.flowstate.flow import (
    Acknowledgement,
    Action,
    Cell,
    Direction,
    Flow,
    FlowState,
    History,
    Reading,
    Segment,
    Side,
    TcpInput,
    invalid,
    passing,
    transitions,
)
from kpsim.flowstate.windows import Fit, ResetFit
from kpsim.packet import Packet, Window
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

# Measured (K-6.1); the first column (no entry yet) is in `_begun`.  . INVALID   = ignored   ! begins a new flow
TCP = transitions("""
                   SS=SYN_SENT SR=SYN_RECV ES=ESTABLISHED FW=FIN_WAIT CW=CLOSE_WAIT LA=LAST_ACK TW=TIME_WAIT CL=CLOSE S2=SYN_SENT2
original SYN       SS          =           =              =           =             =           !            !        S2
original SYN-ACK   .           SR          .              .           .             .           .            .        SR
original ACK       .           ES          ES             CW          CW            TW          TW           CL       .
original FIN       .           FW          FW             LA          LA            LA          TW           CL       .
original RST       CL          CL          CL             CL          CL            CL          CL           CL       CL
reply    SYN       S2          .           .              .           .             .           !            .        S2
reply    SYN-ACK   SR          =           =              =           =             =           =            =        SR
reply    ACK       =           SR          ES             CW          CW            TW          TW           CL       =
reply    FIN       .           FW          FW             LA          LA            LA          TW           CL       .
reply    RST       CL          CL          CL             CL          CL            CL          CL           CL       CL
""")  # fmt: skip

# Flag combinations that no stack sends are INVALID before the table is asked. PSH does not count.
_VALID_FLAGS = {
    frozenset(flags.split())
    for flags in ("SYN", "SYN URG", "SYN ACK", "RST", "RST ACK", "FIN ACK", "FIN ACK URG", "ACK", "ACK URG")
}
_ENDINGS = (TcpInput.FIN, TcpInput.RST)
_OPENINGS = (TcpInput.SYN, TcpInput.SYN_ACK)
_OPENING_STATES = (FlowState.SYN_SENT, FlowState.SYN_RECV)
_FINISHING = frozenset(
    {FlowState.FIN_WAIT, FlowState.CLOSE_WAIT, FlowState.LAST_ACK, FlowState.TIME_WAIT, FlowState.CLOSE}
)
_SYN_SENT2_NS = 120 * SECOND_NS  #: no setting changes it (measured)
_SHORT_ENOUGH_NS = 120 * SECOND_NS  # a FIN or RST out of window does not shorten a timer that has less than this left
#: where a segment begins, counted from where its sender's last one ended
PLACES = {Window.EXACT: 0, Window.INSIDE: 1, Window.BEFORE: -100_000, Window.OUTSIDE: 1_000_000}
_INCOMPARABLE = Acknowledgement(Direction.ORIGINAL, -1, -1, -1)


def read_tcp(packet: Packet, flow: Flow | None, direction: Direction, now_ns: int, sysctls: Sysctls) -> Reading:
    """What a TCP packet does to its flow, see :func:`kpsim.flowstate.read`."""
    flags = _read_flags(packet.tcp_flags)
    if flags is None:
        return invalid(flow)
    if flow is None:
        return _begun(packet, flags, sysctls)
    segment = flags.segment(direction)
    state, history = _led_to(packet, flow, segment)
    if state is Cell.RESTART:
        return Reading(Action.RESTART)
    if state is Cell.IGNORED:
        return passing(flow, history)
    if state is Cell.INVALID:
        return invalid(flow)
    reset = _of_reset(packet, flow, segment) if segment.kind is TcpInput.RST else ResetFit.EXACT
    if reset is ResetFit.BEFORE:
        return invalid(flow)  # even with be_liberal (K-6.4)
    if reset is ResetFit.INEXACT:
        state = flow.state  # the receiver will challenge it, so the flow may live on (K-6.4)
    if _is_measured(packet, history):
        fit, history = _fit_by_numbers(packet, flags, direction, flow, history, reset, sysctls)
    else:
        fit, history = _fit(packet, flags, direction, flow.state, history, sysctls)
    if fit is Fit.OUTSIDE:
        flow = flow._replace(history=flow.history._replace(windows=history.windows))
        return _misfit(flow, segment, now_ns, sysctls)
    if fit in (Fit.EARLY, Fit.OLD):
        return passing(flow, history)
    return _counted(flow, segment, state, _followed(flow, segment, state, history), sysctls)


def _followed(flow: Flow, segment: Segment, state: FlowState, history: History) -> History:
    """The history after a segment that counts."""
    if state is FlowState.FIN_WAIT and flow.state is not state:
        history = history._replace(closing=True)
    if history.last is not segment or history.let_through:
        history = history._replace(last=segment, let_through=False)
    return history


class _Flags(NamedTuple):
    """What a segment's flags mean."""

    kind: TcpInput
    opens: bool
    acknowledges: bool
    size: int  #: sequence numbers that it takes
    original: Segment
    reply: Segment

    def segment(self, direction: Direction) -> Segment:
        return self.original if direction is Direction.ORIGINAL else self.reply


@cache
def _read_flags(flags: frozenset[str]) -> _Flags | None:
    """The meaning of a segment's flags; None if no stack sends such a segment (K-6.3)."""
    if flags - {"PSH"} not in _VALID_FLAGS:
        return None
    acknowledges = "ACK" in flags
    if "RST" in flags:
        kind = TcpInput.RST
    elif "SYN" in flags:
        kind = TcpInput.SYN_ACK if acknowledges else TcpInput.SYN
    else:
        kind = TcpInput.FIN if "FIN" in flags else TcpInput.ACK
    size = len(flags & {"SYN", "FIN", "PSH"})
    original, reply = (Segment(direction, kind) for direction in Direction)
    return _Flags(kind, kind in _OPENINGS, acknowledges, size, original, reply)


def _begun(packet: Packet, flags: _Flags, sysctls: Sysctls) -> Reading:
    """What the first segment of a flow does (K-6.3): a SYN, or with tcp_loose an ACK, begins an entry."""
    picked_up = flags.kind is TcpInput.ACK
    if not (picked_up and sysctls.tcp_loose) and flags.kind is not TcpInput.SYN:
        return invalid(None)
    end = flags.size
    history = History(
        flags.original,
        original=Side(end, end, known=True, limit=None if picked_up else end, liberal=picked_up), reply=Side(liberal=picked_up),
        windows=None if packet.numbers is None else windows.begun(packet.numbers, packet.tcp_flags),
    )  # fmt: skip
    state = FlowState.ESTABLISHED if picked_up else FlowState.SYN_SENT
    # no window counts yet, as if it were zero (measured)
    timeout_ns = min(tcp_timeout_ns(state, sysctls), sysctls.tcp_timeout_max_retrans_ns)
    if picked_up:
        timeout_ns = min(timeout_ns, sysctls.tcp_timeout_unacknowledged_ns)
    return Reading(Action.KEEP, state, timeout_ns, history=history)


# --- which state ------------------------------------------------------------------------------------------------------


def _led_to(packet: Packet, flow: Flow, segment: Segment) -> tuple[FlowState | Cell, History]:
    """The state after a segment, or the table's cell, and the history with which the segment is checked further.

    Mostly the table alone decides. In some states the earlier segments count too (K-1.8).
    """
    history, last = flow.history, flow.history.last
    cell = TCP[segment][flow.state]
    behind_syn = last is not None and last.kind is TcpInput.SYN and last.direction is not segment.direction
    if cell is Cell.RESTART and not history.closing and not _is_reset_of(last, segment.direction):
        cell = (
            Cell.IGNORED
        )  # a client that was reset, and sent no RST itself, keeps its endpoint until the entry is gone
    if cell is Cell.IGNORED:
        if segment.kind is TcpInput.SYN_ACK and behind_syn and _answers_last(packet, history):
            return FlowState.SYN_RECV, _anew(history, segment.direction)
        return cell, _let_through(packet, flow, segment)
    if cell is FlowState.TIME_WAIT and flow.state is FlowState.LAST_ACK and history.challenged and behind_syn:
        return Cell.IGNORED, history._replace(challenged=False)  # the ACK challenges the SYN, it acknowledges no FIN
    if cell is FlowState.SYN_SENT2:
        history = history._replace(simultaneous=True)
    elif cell is FlowState.SYN_RECV and segment == (Direction.REPLY, TcpInput.ACK) and history.simultaneous:
        cell = FlowState.ESTABLISHED
    return cell, history


def _is_reset_of(segment: Segment | None, direction: Direction) -> bool:
    return segment is not None and segment.kind is TcpInput.RST and segment.direction is direction


def _answers_last(packet: Packet, history: History) -> bool:
    """Whether a segment acknowledges exactly the last one, as far as the numbers are known."""
    if packet.numbers is None or history.windows is None:
        return True
    return windows.answers_last(history.windows, packet.numbers)


def _let_through(packet: Packet, flow: Flow, segment: Segment) -> History:
    """The history after a segment that was let through without effect and that its receiver may answer."""
    history = flow.history._replace(last=segment, let_through=True, acknowledgement=_INCOMPARABLE)
    if history.windows is not None and packet.numbers is not None:
        passed = windows.let_through(history.windows, packet.numbers, packet.tcp_flags, segment.direction)
        history = history._replace(windows=passed)
        if not packet.numbers.window:
            history = history._replace(acknowledgement=None)
    if segment == (Direction.ORIGINAL, TcpInput.SYN):
        return history._replace(simultaneous=False, challenged=flow.state is FlowState.LAST_ACK)
    return history


def _anew(history: History, direction: Direction) -> History:
    """The history when a server answered a SYN that was let through: both ends begin anew (K-1.8)."""
    known = history.windows
    return History(
        history.last, original=Side(1, 1, known=True, limit=1), reply=Side(liberal=history.reply.liberal),
        acknowledgement=history.acknowledgement, repeats=history.repeats,
        windows=None if known is None else windows.anew(known, direction),
    )  # fmt: skip


# --- windows (CT-4.4, K-6.4) ------------------------------------------------------------------------------------------


def _is_measured(packet: Packet, history: History) -> bool:
    """Whether the numbers of the wire are known of this segment and of all before it."""
    return packet.numbers is not None and history.windows is not None


def _of_reset(packet: Packet, flow: Flow, segment: Segment) -> ResetFit:
    """What the number of an RST says about it (K-6.4)."""
    established = flow.state is FlowState.ESTABLISHED and flow.assured
    follows_ack = flow.history.last == (segment.direction, TcpInput.ACK)
    if flow.state in _FINISHING or _is_behind_syn(flow):
        return ResetFit.EXACT
    if packet.numbers is not None and flow.history.windows is not None:
        return windows.of_reset(
            flow.history.windows, packet.numbers, segment.direction, established=established, behind_ack=follows_ack
        )
    if not flow.history.side(segment.direction.opposite).acknowledges:
        return ResetFit.EXACT
    if packet.window is Window.BEFORE:
        return ResetFit.BEFORE
    if packet.window is Window.EXACT or not established:
        return ResetFit.EXACT
    before, begin = flow.history.acknowledgement, flow.history.side(segment.direction).sent + PLACES[packet.window]
    exact = follows_ack and before is not None and before.end == begin
    return ResetFit.EXACT if exact else ResetFit.INEXACT


def _is_behind_syn(flow: Flow) -> bool:
    return flow.history.last is not None and flow.history.last.kind is TcpInput.SYN


class _Numbers(NamedTuple):
    """The numbers of a segment: begin and end as its sender counts, and how much of the other end's it acknowledges."""

    begin: int
    end: int
    acknowledged: int


def _fit(
    packet: Packet, flags: _Flags, direction: Direction, state: FlowState, history: History, sysctls: Sysctls
) -> tuple[Fit, History]:
    """How a segment fits the window of its sender, and the history afterwards."""
    kind, opens, acknowledges, size = flags[:4]
    segment = flags.segment(direction)
    if kind is TcpInput.RST and _any_reset_will_do(segment, state, history, acknowledges=acknowledges):
        return Fit.NOTICED, history
    side, other = history.original, history.reply
    if direction is Direction.REPLY:
        side, other = other, side
    window = packet.window if side.known and not opens else Window.EXACT
    begin = (0 if opens else side.sent - size * packet.repeated) + PLACES[window]
    end = begin + size
    sent = end if window is Window.EXACT and not packet.repeated else side.sent
    fresh = not side.known or (opens and end > side.noticed and state in _OPENING_STATES)
    if fresh and opens:
        side = Side(sent, end, known=True, limit=end, liberal=side.liberal)
        if kind is TcpInput.SYN and direction is Direction.REPLY:
            return Fit.NOTICED, history.with_sides(direction, side, other)
    elif fresh:
        side = side._replace(noticed=end, known=True)
    numbers = _Numbers(begin, end, other.sent if acknowledges else other.noticed)
    if fresh and numbers.acknowledged == other.noticed + 1:
        other = other._replace(noticed=numbers.acknowledged)  # the kernel takes it for the answer to a keepalive
    fit = _place(window, numbers, side, other, acknowledges=acknowledges, fresh=fresh)
    if fit is Fit.NOTICED:
        return fit, _noticed(history, segment, numbers, sent, side, other, acknowledges=acknowledges)
    if fit is Fit.EARLY:
        side = side._replace(noticed=end, unacknowledged=True)
    forgiven = side.liberal or sysctls.tcp_be_liberal
    if forgiven or fit is Fit.EARLY:
        history = history.with_sides(direction, side._replace(sent=sent), other)
    return Fit.COUNTED if forgiven else fit, history


def _fit_by_numbers(
    packet: Packet, flags: _Flags, direction: Direction, flow: Flow, history: History, reset: ResetFit, sysctls: Sysctls
) -> tuple[Fit, History]:
    """How a segment with numbers fits the window of its sender, and the history afterwards."""
    assert packet.numbers is not None and history.windows is not None
    segment, last = flags.segment(direction), history.last
    if segment.kind is TcpInput.RST:
        unasked = history.windows.end(direction.opposite).acknowledged is None or _is_behind_syn(flow)
        of_other = last is not None and last.direction is not direction
        to_syn = flow.seen_reply and _is_behind_syn(flow)
        to_ack = not flow.assured and last is not None and last.kind is TcpInput.ACK
        answers = (unasked or reset is ResetFit.INEXACT) and of_other and (to_syn or to_ack)
        answers = answers and _answers_last(packet, history)
        # a client that is asked about a connection which it has forgotten resets it by the number that it was told
        challenged = (
            flow.state is FlowState.SYN_SENT and history.let_through and last == (direction.opposite, TcpInput.ACK)
        )
        answers = answers or (challenged and packet.numbers.seq == history.windows.last.acknowledged)
        if flow.state in _FINISHING or answers:
            return Fit.NOTICED, history
    placed = windows.place(history.windows, packet.numbers, packet.tcp_flags, direction, flow.state)
    side, other = history.side(direction), history.side(direction.opposite)
    history = history._replace(windows=placed.windows)
    if placed.opened:
        side = side._replace(unacknowledged=False, acknowledges=False)
    if placed.further:
        side = side._replace(unacknowledged=True)
    if placed.fit is Fit.NOTICED:
        side = side._replace(known=True, limit=None, acknowledges=side.acknowledges or flags.acknowledges)
        other = other._replace(limit=None, unacknowledged=other.unacknowledged and not placed.settles)
        if segment.kind is TcpInput.ACK:
            said = Acknowledgement(direction, packet.numbers.seq, packet.numbers.size, packet.numbers.ack)
            latest = said if packet.numbers.window else None  # a window of zero
            history = history._replace(acknowledgement=latest, repeats=history.repeats + 1 if placed.again else 0)
    history = history.with_sides(direction, side, other)
    forgiven = placed.fit is not Fit.NOTICED and (side.liberal or sysctls.tcp_be_liberal)
    return (Fit.COUNTED if forgiven else placed.fit), history


def _place(window: Window, numbers: _Numbers, side: Side, other: Side, *, acknowledges: bool, fresh: bool) -> Fit:
    """Where a segment lies. ``fresh``: nothing was known about its sender before, so it cannot be out of window."""
    if window is Window.OUTSIDE and not fresh:
        return Fit.OUTSIDE
    if side.limit is not None and numbers.begin > side.limit:
        return Fit.EARLY if other.known else Fit.OUTSIDE
    if acknowledges and (numbers.acknowledged > other.noticed or not other.known):
        return Fit.OUTSIDE
    return Fit.OLD if window is Window.BEFORE and other.known and not fresh else Fit.NOTICED


def _noticed(
    history: History, segment: Segment, numbers: _Numbers, sent: int, side: Side, other: Side, *, acknowledges: bool
) -> History:
    """The history after a segment in the window, including how often the segment was sent again.

    Other segments of its sender may come in between.
    """
    begin, end, acknowledged = numbers
    further = end > side.noticed
    side = Side(
        sent, end if further else side.noticed, True, side.limit, side.acknowledges or acknowledges,
        side.unacknowledged or further, side.liberal,
    )  # fmt: skip
    if other.limit is not None or (other.unacknowledged and acknowledged == other.noticed):
        waits = other.unacknowledged and acknowledged != other.noticed
        other = Side(other.sent, other.noticed, other.known, None, other.acknowledges, waits, other.liberal)
    latest, repeats = history.acknowledgement, history.repeats
    if segment.kind is TcpInput.ACK:
        before, last = latest, history.last
        latest = Acknowledgement(segment.direction, begin, end, acknowledged)
        again = latest == before and last is not None and last.direction is segment.direction
        repeats = repeats + 1 if again else 0
    return history.noticing(segment, side, other, latest, repeats)


def _any_reset_will_do(segment: Segment, state: FlowState, history: History, *, acknowledges: bool) -> bool:
    """Whether an RST counts whatever its numbers: after a FIN or RST, or as the answer to a SYN or ACK."""
    if state in _FINISHING:
        return True
    last = history.last
    if last is None or last.direction is segment.direction:
        return False
    if history.let_through:
        return acknowledges and last.kind is not TcpInput.SYN_ACK
    opened_twice = state is FlowState.SYN_SENT2 and history.acknowledgement is None
    return opened_twice and last.kind is TcpInput.SYN and not acknowledges


def _misfit(flow: Flow, segment: Segment, now_ns: int, sysctls: Sysctls) -> Reading:
    """The reading of a segment out of window: INVALID.

    FINs or RSTs out of window from both ends mean that the connection is over, so they shorten a longer timer to 300 s
    (K-6.4).
    """
    if not flow.assured or segment.kind not in _ENDINGS:
        return invalid(flow)
    last, left_ns = flow.history.last, flow.expires_ns - now_ns
    if last is None or last.direction is segment.direction or last.kind not in _ENDINGS:
        return invalid(flow)._replace(history=flow.history._replace(last=segment, let_through=False))
    limit_ns = sysctls.tcp_timeout_unacknowledged_ns
    shortened = left_ns >= _SHORT_ENOUGH_NS and left_ns > limit_ns
    return invalid(flow)._replace(timeout_ns=limit_ns if shortened else None)


# --- timers (CT-4.1) --------------------------------------------------------------------------------------------------


def _counted(flow: Flow, segment: Segment, state: FlowState, history: History, sysctls: Sysctls) -> Reading:
    """The reading of a segment that changes the state: timer, ASSURED, or the end of the entry (CT-4.1, CT-4.3)."""
    usual_ns, assured = _timeout_ns(segment, state, history, sysctls), flow.assured
    timeout_ns: int | None = usual_ns
    if not flow.seen_reply:
        if segment.kind is TcpInput.RST:
            return Reading(Action.DESTROY, state)  # a refused connection leaves nothing
        if segment.kind is TcpInput.SYN and flow.state is FlowState.SYN_SENT:
            timeout_ns = None  # a client that only repeats its SYN does not keep the entry alive
        elif state is FlowState.ESTABLISHED:
            timeout_ns = min(usual_ns, sysctls.tcp_timeout_unacknowledged_ns)
    elif state is FlowState.ESTABLISHED and flow.state in (FlowState.SYN_RECV, FlowState.ESTABLISHED):
        assured = True
    return Reading(Action.KEEP, state, timeout_ns, assured, history)


def _timeout_ns(segment: Segment, state: FlowState, history: History, sysctls: Sysctls) -> int:
    usual_ns = tcp_timeout_ns(state, sysctls)
    if history.repeats >= sysctls.tcp_max_retrans and usual_ns > sysctls.tcp_timeout_max_retrans_ns:
        return sysctls.tcp_timeout_max_retrans_ns
    if segment.kind is TcpInput.RST:
        return sysctls.tcp_timeout_close_ns
    unacknowledged = history.original.unacknowledged or history.reply.unacknowledged
    if unacknowledged and usual_ns > sysctls.tcp_timeout_unacknowledged_ns:
        return sysctls.tcp_timeout_unacknowledged_ns
    if history.acknowledgement is None:
        return min(usual_ns, sysctls.tcp_timeout_max_retrans_ns)  # no window was noticed; it counts as a window of zero
    return usual_ns


def tcp_timeout_ns(state: FlowState, sysctls: Sysctls) -> int:
    """The timeout of a TCP state (CT-4.1). ValueError if it is not a TCP state."""
    match state:
        case FlowState.ESTABLISHED:  # first, since most segments come here
            return sysctls.tcp_timeout_established_ns
        case FlowState.SYN_SENT:
            return sysctls.tcp_timeout_syn_sent_ns
        case FlowState.SYN_SENT2:
            return _SYN_SENT2_NS
        case FlowState.SYN_RECV:
            return sysctls.tcp_timeout_syn_recv_ns
        case FlowState.FIN_WAIT:
            return sysctls.tcp_timeout_fin_wait_ns
        case FlowState.CLOSE_WAIT:
            return sysctls.tcp_timeout_close_wait_ns
        case FlowState.LAST_ACK:
            return sysctls.tcp_timeout_last_ack_ns
        case FlowState.TIME_WAIT:
            return sysctls.tcp_timeout_time_wait_ns
        case FlowState.CLOSE:
            return sysctls.tcp_timeout_close_ns
        case _:
            raise ValueError(f"not a TCP state: {state}")
