"""What the protocol machines share: a flow as they see it, what a packet does to it, and tables of transitions.

Counterpart: nf_conn as nf_conntrack_l4proto functions see it. The rules of each protocol are in ``tcp`` and ``sctp``.
"""

import enum
from collections.abc import Mapping
from typing import NamedTuple

from kpsim.packet import Numbers


class Direction(enum.StrEnum):
    """The direction of a packet within its flow. ORIGINAL is the direction of the packet that created the entry."""

    ORIGINAL = "original"
    REPLY = "reply"

    @property
    def opposite(self) -> "Direction":
        return Direction.REPLY if self is Direction.ORIGINAL else Direction.ORIGINAL


class FlowState(enum.StrEnum):
    """Protocol state of an entry, as ``conntrack -L`` prints it. NONE: the protocol has no states."""

    NONE = ""
    SYN_SENT = "SYN_SENT"
    SYN_RECV = "SYN_RECV"
    ESTABLISHED = "ESTABLISHED"
    FIN_WAIT = "FIN_WAIT"
    CLOSE_WAIT = "CLOSE_WAIT"
    LAST_ACK = "LAST_ACK"
    TIME_WAIT = "TIME_WAIT"
    CLOSE = "CLOSE"
    SYN_SENT2 = "SYN_SENT2"
    # SCTP; ESTABLISHED is shared with TCP
    CLOSED = "CLOSED"
    COOKIE_WAIT = "COOKIE_WAIT"
    COOKIE_ECHOED = "COOKIE_ECHOED"
    SHUTDOWN_SENT = "SHUTDOWN_SENT"
    SHUTDOWN_RECD = "SHUTDOWN_RECD"
    SHUTDOWN_ACK_SENT = "SHUTDOWN_ACK_SENT"
    HEARTBEAT_SENT = "HEARTBEAT_SENT"


class TcpInput(enum.StrEnum):
    """The kinds of segments that the TCP machine tells apart."""

    SYN = "SYN"
    SYN_ACK = "SYN-ACK"
    ACK = "ACK"
    FIN = "FIN"
    RST = "RST"


class Segment(NamedTuple):
    """What is remembered about a TCP segment because the meaning of the next segment may depend on it."""

    direction: Direction
    kind: TcpInput


class Side(NamedTuple):
    """One end of a TCP connection, as far as connection tracking has noticed it.

    Sequence numbers count from the SYN, or from where the flow was picked up. A segment of data counts one.
    """

    sent: int = 0  #: how much the end has really sent
    noticed: int = 0  #: the end of the furthest segment that was noticed
    known: bool = False  #: a segment was noticed
    #: the last place where a segment in the window may begin; None: the packet says whether it is in the window
    limit: int | None = None
    acknowledges: bool = False  #: it has sent an acknowledgement, by which RSTs of the other end are measured
    unacknowledged: bool = False  #: the other end has not acknowledged all that was noticed
    liberal: bool = False  #: picked up mid-stream: nothing it sends is out of window (K-6.3)


class Acknowledgement(NamedTuple):
    """What makes two segments without SYN, FIN or RST the same: direction, sequence, length and acknowledgement."""

    direction: Direction
    begin: int
    end: int
    number: int


class End(NamedTuple):
    """What is known of one end."""

    border: int = 0
    limit: int = 0
    window: int = 0  #: the largest that it announced; 0: nothing of it was seen
    acknowledged: int | None = None  #: the furthest that it acknowledged
    scale: int = 0  #: of the windows that it announces, in bits
    scales: bool = False  #: its SYN asked for window scaling
    sack: bool = False  #: its SYN permits selective acknowledgements


class Last(NamedTuple):
    """The numbers of a segment that the meaning of later ones depends on."""

    direction: Direction
    begin: int
    border: int
    acknowledged: int
    window: int


class Windows(NamedTuple):
    """Both ends of a connection, and its last segments."""

    original: End
    reply: End
    last: Last = Last(Direction.ORIGINAL, 0, 0, 0, 0)  #: the last ACK or data in the window, or segment let through
    opening: Numbers | None = None  #: of the last SYN of the client that was let through

    def end(self, direction: Direction) -> End:
        return self.original if direction is Direction.ORIGINAL else self.reply

    def with_ends(self, direction: Direction, sender: End, receiver: End) -> "Windows":
        if direction is Direction.ORIGINAL:
            return self._replace(original=sender, reply=receiver)
        return self._replace(original=receiver, reply=sender)


class Tag(enum.Enum):
    """What connection tracking knows about the verification tag that SCTP packets of one direction carry."""

    UNKNOWN = enum.auto()
    RIGHT = enum.auto()
    WRONG = enum.auto()
    REPLACEABLE = enum.auto()  #: wrong, but the next INIT-ACK that asks for another will be believed


class History(NamedTuple):
    """What is remembered besides the state: TCP remembers earlier segments, SCTP remembers tags."""

    last: Segment | None = None  #: the last segment that counted, or that was let through to be answered
    let_through: bool = False  #: the last segment was let through without effect
    closing: bool = False  #: a FIN began to close the connection
    simultaneous: bool = False  #: both ends sent a SYN
    challenged: bool = False  #: a SYN came in LAST_ACK; the answer to it acknowledges no FIN
    original: Side = Side()
    reply: Side = Side()
    acknowledgement: Acknowledgement | None = None  #: the last segment that is an ACK or data
    repeats: int = 0  #: how often it was sent again
    original_tag: Tag = Tag.UNKNOWN
    reply_tag: Tag = Tag.UNKNOWN
    windows: Windows | None = None  #: of TCP; None: a segment without numbers was seen

    def side(self, direction: Direction) -> Side:
        return self.original if direction is Direction.ORIGINAL else self.reply

    def with_sides(self, direction: Direction, side: Side, other: Side) -> "History":
        """The history with these sides. ``side`` sends in ``direction``, ``other`` is the opposite end."""
        if direction is Direction.ORIGINAL:
            return self._replace(original=side, reply=other)
        return self._replace(original=other, reply=side)

    def noticing(
        self, segment: Segment, side: Side, other: Side, acknowledgement: Acknowledgement | None, repeats: int
    ) -> "History":
        """The history after a segment that counted. ``side`` is the segment's sender.

        This is called for every segment; ``_replace`` would cost as much as all the rest of a reading.
        """
        original, reply = (side, other) if segment.direction is Direction.ORIGINAL else (other, side)
        return History(
            segment, False, self.closing, self.simultaneous, self.challenged, original, reply, acknowledgement, repeats,
            self.original_tag, self.reply_tag,
        )  # fmt: skip

    def tag(self, direction: Direction) -> Tag:
        return self.original_tag if direction is Direction.ORIGINAL else self.reply_tag

    def with_tag(self, direction: Direction, tag: Tag = Tag.RIGHT) -> "History":
        """The history with this knowledge about the tag of ``direction``."""
        if direction is Direction.ORIGINAL:
            return self._replace(original_tag=tag)
        return self._replace(reply_tag=tag)


NO_HISTORY = History()


class Flow(NamedTuple):
    """A flow, as the protocol machines see it."""

    state: FlowState
    seen_reply: bool
    assured: bool
    created_ns: int
    history: History = NO_HISTORY
    expires_ns: int = 0


class Action(enum.Enum):
    """What to do with the entry after a packet."""

    KEEP = "keep"
    INVALID = "invalid"  #: the packet belongs to no flow; only timer and history of the entry may change
    RESTART = "restart"  #: the entry is discarded and the packet begins a new flow: NAT is decided afresh (K-1.8)
    DESTROY = "destroy"  #: the packet passes and the entry goes (CT-4.3)


class Reading(NamedTuple):
    """What a packet does to its flow. ``state``, ``assured`` and ``history`` are those of the flow afterwards.

    ``timeout_ns`` None leaves the timer as it is.
    """

    action: Action
    state: FlowState = FlowState.NONE
    timeout_ns: int | None = None
    assured: bool = False
    history: History = NO_HISTORY


def invalid(flow: Flow | None) -> Reading:
    """The reading of a packet that is INVALID and changes nothing."""
    return Reading(Action.INVALID) if flow is None else passing(flow, flow.history)._replace(action=Action.INVALID)


def passing(flow: Flow, history: History) -> Reading:
    """The reading of a packet that passes and is remembered, but changes no state and re-arms no timer."""
    return Reading(Action.KEEP, flow.state, None, flow.assured, history)


class Cell(enum.Enum):
    """Cells of a transition table that are not a state."""

    INVALID = "."
    IGNORED = "="  #: passes, changes nothing, re-arms nothing
    RESTART = "!"


Transitions = Mapping[tuple[Direction, str], Mapping[FlowState, FlowState | Cell]]


def transitions(text: str) -> Transitions:
    """Reads a table whose head names the states, each with the abbreviation that its cells use."""
    head, *lines = (line.split() for line in text.strip().splitlines())
    columns = [FlowState(name.partition("=")[2]) for name in head]
    cells: dict[str, FlowState | Cell] = {cell.value: cell for cell in Cell}
    cells |= {name.partition("=")[0]: FlowState(name.partition("=")[2]) for name in head}
    return {
        (Direction(direction), kind): {column: cells[cell] for column, cell in zip(columns, row, strict=True)}
        for direction, kind, *row in lines
    }
