"""TCP windows in numbers of the wire, for connections whose segments carry them (CT-4.4, K-6.4).

Counterpart: the window tracking of nf_conntrack_proto_tcp. ``tcp`` calls this module if a segment has
:class:`~kpsim.packet.Numbers` and so had every segment before it. For other segments ``tcp`` counts by itself and
assumes honest ends.

A number lies *behind* another if it follows within half of the 2³² numbers. An end's *border* is the number behind the
furthest byte that it sent. Its *limit* is the number behind the furthest byte that the other end has room for.
"""

import enum
from typing import NamedTuple

from kpsim.flowstate.flow import Direction, End, FlowState, Last, Windows
from kpsim.packet import Numbers

_NUMBERS, _HALF = 1 << 32, 1 << 31
_LEAST_ACK_WINDOW = 66_000  #: an acknowledgement may be so late, however small the windows are
_MOST_SCALE = 14
_OPENING_STATES = (FlowState.SYN_SENT, FlowState.SYN_RECV)


class Fit(enum.Enum):
    """How a segment fits what connection tracking has noticed of the connection."""

    NOTICED = enum.auto()  #: in the window
    COUNTED = enum.auto()  #: out of window, but forgiven: the state follows, the windows do not
    EARLY = enum.auto()  #: further ahead than any window that the receiver announced: passes, but changes no state
    OLD = enum.auto()  #: acknowledged long ago: passes without effect
    OUTSIDE = enum.auto()  #: out of window: INVALID


class ResetFit(enum.Enum):
    """What the number of an RST says."""

    EXACT = enum.auto()  #: it ends the connection, if it is in the window
    INEXACT = enum.auto()  #: its receiver will challenge it, so an established connection may live on
    BEFORE = enum.auto()  #: it lies before what its receiver acknowledged: INVALID


class Placed(NamedTuple):
    """How a segment fits, and what it changes."""

    fit: Fit
    windows: Windows
    further: bool = False  #: it holds bytes that its sender had not sent before
    settles: bool = False  #: it acknowledges all that the other end has sent
    again: bool = False  #: it is the same ACK or data as the last
    opened: bool = False  #: its sender begins anew, and all that was known of it is forgotten


def distance(behind: int, before: int) -> int:
    """How far the first number lies behind the second, modulo 2³²; negative if it lies before it."""
    return (behind - before + _HALF) % _NUMBERS - _HALF


def is_before(first: int, second: int) -> bool:
    """Whether the second number lies within the half of the numbers behind the first."""
    return distance(first, second) < 0


def border_of(numbers: Numbers, flags: frozenset[str]) -> int:
    """The number behind a segment: SYN and FIN count like a byte each."""
    return (numbers.seq + numbers.size + ("SYN" in flags) + ("FIN" in flags)) % _NUMBERS


def begun(numbers: Numbers, flags: frozenset[str]) -> Windows:
    """The windows behind a connection's first segment, which is a SYN or was picked up mid-stream."""
    border, window = border_of(numbers, flags), numbers.window or 1
    if "SYN" in flags:
        return Windows(_opened(numbers, border), End())
    limit = (border + window) % _NUMBERS
    # how windows are scaled was not seen: nothing is out of window, and selective acknowledgements may come
    known = Windows(End(border, limit, window, sack=True), End(sack=True))
    return place(known, numbers, flags, Direction.ORIGINAL, FlowState.ESTABLISHED).windows


def _opened(numbers: Numbers, border: int) -> End:
    """An end behind its SYN."""
    scale = 0 if numbers.scale is None else min(numbers.scale, _MOST_SCALE)
    return End(border, border, numbers.window or 1, None, scale, numbers.scale is not None, numbers.sack_permitted)


def anew(windows: Windows, direction: Direction) -> Windows:
    """The windows when the end of ``direction`` answers a SYN that was let through (K-1.8)."""
    if windows.opening is None:
        return windows
    opened = _opened(windows.opening, windows.last.border)
    return windows.with_ends(direction, End(), opened)


def let_through(windows: Windows, numbers: Numbers, flags: frozenset[str], direction: Direction) -> Windows:
    """The windows behind a segment that passes without effect, which its receiver may answer."""
    last = Last(direction, numbers.seq, border_of(numbers, flags), numbers.ack, numbers.window)
    opening = numbers if flags & {"SYN", "ACK"} == {"SYN"} and direction is Direction.ORIGINAL else windows.opening
    return windows._replace(last=last, opening=opening)


def answers_last(windows: Windows, numbers: Numbers) -> bool:
    """Whether a segment acknowledges exactly the last one that was let through or that was an ACK."""
    return windows.last.border == numbers.ack


def of_reset(
    windows: Windows, numbers: Numbers, direction: Direction, *, established: bool, behind_ack: bool
) -> ResetFit:
    """What the number of an RST says. ``behind_ack``: the last segment was an ACK or data of the same sender."""
    acknowledged = windows.end(direction.opposite).acknowledged
    if acknowledged is None or (numbers.seq == 0 and not established):
        return ResetFit.EXACT
    if is_before(numbers.seq, acknowledged):
        return ResetFit.BEFORE
    follows = behind_ack and numbers.seq == windows.last.border
    return ResetFit.EXACT if not established or numbers.seq == acknowledged or follows else ResetFit.INEXACT


def place(windows: Windows, numbers: Numbers, flags: frozenset[str], direction: Direction, state: FlowState) -> Placed:
    """How a segment fits the window of its sender, and the windows behind it."""
    border, opens = border_of(numbers, flags), "SYN" in flags
    selected = _selected(numbers, windows.end(direction.opposite))
    sender, receiver, opened = _introduced(windows, numbers, flags, direction, state, selected)
    known = Placed(Fit.NOTICED, windows.with_ends(direction, sender, receiver), opened=opened)
    if opened and direction is Direction.REPLY and "ACK" not in flags:
        return known
    begin, acknowledged = numbers.seq, numbers.ack
    if "ACK" not in flags or ("RST" in flags and acknowledged == 0):
        acknowledged = selected = receiver.border
    if "RST" in flags and begin == 0 and state is FlowState.SYN_SENT:
        begin = border = sender.border  # it answers a SYN
    fit = _fit(sender, receiver, begin, border, selected)
    if fit is Fit.EARLY:
        early = windows.with_ends(direction, sender._replace(border=border), receiver)
        return known._replace(fit=fit, windows=early, further=True)
    if fit is not Fit.NOTICED:
        return known._replace(fit=fit)
    further, settles = is_before(sender.border, border), acknowledged == receiver.border
    window = numbers.window << (0 if opens else sender.scale)
    sender, receiver = _noticed(sender, receiver, border, acknowledged, selected, window, acknowledges="ACK" in flags)
    fitting = windows.with_ends(direction, sender, receiver)
    if flags & {"SYN", "FIN", "RST"}:
        return Placed(fit, fitting, further, settles, opened=opened)
    last = Last(direction, begin, border, acknowledged, numbers.window)
    return Placed(fit, fitting._replace(last=last), further, settles, again=last == windows.last)


def _selected(numbers: Numbers, receiver: End) -> int:
    """The furthest number that a segment acknowledges, selectively too if its receiver permits it."""
    selected = numbers.ack
    for edge in numbers.sacked if receiver.sack else ():
        selected = edge if is_before(selected, edge) else selected
    return selected


def _introduced(
    windows: Windows, numbers: Numbers, flags: frozenset[str], direction: Direction, state: FlowState, selected: int
) -> tuple[End, End, bool]:
    """Sender and receiver, made known by this segment if they were not, and whether the sender begins anew."""
    sender, receiver = windows.end(direction), windows.end(direction.opposite)
    border = border_of(numbers, flags)
    if "SYN" not in flags:
        return (
            (sender, receiver, False) if sender.window else (*_met(numbers, border, selected, sender, receiver), False)
        )
    if sender.window and not (is_before(sender.border, border) and state in _OPENING_STATES):
        return sender, receiver, False
    sender = _opened(numbers, border)
    if direction is Direction.REPLY and not (sender.scales and receiver.scales):
        sender, receiver = sender._replace(scale=0), receiver._replace(scale=0)
    return sender, receiver, True


def _fit(sender: End, receiver: End, begin: int, border: int, selected: int) -> Fit:
    """Where the numbers of a segment lie."""
    if not is_before(begin, sender.limit + 1):
        # a little more than the receiver has room for passes
        beyond = (border - sender.limit + 1) % _NUMBERS
        return Fit.EARLY if beyond <= receiver.window and _is_timely(selected, sender, receiver) else Fit.OUTSIDE
    if not is_before(selected, receiver.border + 1):
        return Fit.OUTSIDE  # it acknowledges what was never sent
    if receiver.window and not is_before(sender.border - receiver.window - 1, border):
        return Fit.OLD
    return Fit.NOTICED if _is_timely(selected, sender, receiver) else Fit.OLD


def _met(numbers: Numbers, border: int, selected: int, sender: End, receiver: End) -> tuple[End, End]:
    """Both ends when the sender is first seen mid-stream."""
    window = (numbers.window << sender.scale) or 1
    sender = sender._replace(border=border, limit=(border + window) % _NUMBERS, window=window)
    if not receiver.window:
        receiver = receiver._replace(border=selected, limit=selected)
    elif distance(selected, receiver.border) == 1:
        receiver = receiver._replace(border=selected)  # it looks like the answer to a keepalive
    return sender, receiver


def _is_timely(selected: int, sender: End, receiver: End) -> bool:
    """Whether an acknowledgement is neither too late nor ahead of what was sent."""
    late = receiver.border - max(sender.window, _LEAST_ACK_WINDOW) - 1
    return is_before(selected, receiver.border + 1) and is_before(late, selected)


def _noticed(
    sender: End, receiver: End, border: int, acknowledged: int, selected: int, window: int, *, acknowledges: bool
) -> tuple[End, End]:
    """Both ends behind a segment in the window."""
    offered = window + (selected - acknowledged) % _NUMBERS
    further = is_before(sender.border, border)
    if receiver.window and is_before(sender.limit, border):
        receiver = receiver._replace(window=receiver.window + (border - sender.limit) % _NUMBERS)
    furthest = sender.acknowledged
    if acknowledges and (furthest is None or is_before(furthest, acknowledged)):
        furthest = acknowledged
    limit = (selected + window) % _NUMBERS
    if is_before(receiver.limit - 1, limit):
        receiver = receiver._replace(limit=limit if window else (limit + 1) % _NUMBERS)
    sender = sender._replace(
        border=border if further else sender.border, window=max(sender.window, offered), acknowledged=furthest
    )  # fmt: skip
    return sender, receiver
