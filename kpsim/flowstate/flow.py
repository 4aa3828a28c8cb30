"""What the protocol machines share: a flow as they know it, what a packet does to it, and tables of transitions.

Counterpart: nf_conn as nf_conntrack_l4proto functions see it. It never knows a protocol's rules.
"""

import enum
from collections.abc import Mapping
from typing import NamedTuple


class Direction(enum.StrEnum):
    """Of a packet within its flow; ORIGINAL is that of the packet that created the entry."""

    ORIGINAL = "original"
    REPLY = "reply"

    @property
    def opposite(self) -> "Direction":
        return Direction.REPLY if self is Direction.ORIGINAL else Direction.ORIGINAL


class FlowState(enum.StrEnum):
    """Protocol state of an entry as ``conntrack -L`` prints it; NONE for protocols without one."""

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
    """A TCP segment as the next one's meaning may depend on it."""

    direction: Direction
    kind: TcpInput


class Side(NamedTuple):
    """One end of a TCP connection, and what connection tracking has noticed of it.

    Sequence numbers count from the SYN, or from where the flow was picked up, and a segment of data counts one.
    """

    sent: int = 0  #: what the end, being honest, has sent
    noticed: int = 0  #: the end of the furthest segment that was noticed
    known: bool = False  #: a segment was noticed
    limit: int | None = (
        None  #: where segments must begin that are in the window; None: the packet says whether they are
    )
    acknowledges: bool = False  #: so that RSTs of the other end can be measured by it
    unacknowledged: bool = False  #: the other end has not acknowledged all that was noticed
    liberal: bool = False  #: picked up mid-stream: nothing it sends is out of window (K-6.3)


class Acknowledgement(NamedTuple):
    """A segment without SYN, FIN or RST by what makes it the same as another: both numbers of it, and its length."""

    direction: Direction
    begin: int
    end: int
    number: int


class Tag(enum.Enum):
    """What is known of the verification tag that SCTP packets of one direction carry."""

    UNKNOWN = enum.auto()
    RIGHT = enum.auto()
    WRONG = enum.auto()
    REPLACEABLE = enum.auto()  #: wrong, but the next INIT-ACK that asks for another will be believed


class History(NamedTuple):
    """What TCP remembers of earlier segments beside its state, and SCTP of tags."""

    last: Segment | None = None  #: that counted, or was let through to be answered
    let_through: bool = False  #: the last one was, without effect
    closing: bool = False  #: a FIN began to close the connection
    simultaneous: bool = False  #: both ends sent a SYN
    challenged: bool = False  #: a SYN came in LAST_ACK, whose answer acknowledges no FIN
    original: Side = Side()
    reply: Side = Side()
    acknowledgement: Acknowledgement | None = None  #: the last one, of any kind of ACK or data
    repeats: int = 0  #: how often it was sent again
    original_tag: Tag = Tag.UNKNOWN
    reply_tag: Tag = Tag.UNKNOWN

    def side(self, direction: Direction) -> Side:
        return self.original if direction is Direction.ORIGINAL else self.reply

    def with_sides(self, direction: Direction, side: Side, other: Side) -> "History":
        """``side`` is that of ``direction``."""
        if direction is Direction.ORIGINAL:
            return self._replace(original=side, reply=other)
        return self._replace(original=other, reply=side)

    def noticing(
        self, segment: Segment, side: Side, other: Side, acknowledgement: Acknowledgement | None, repeats: int
    ) -> "History":
        """After a segment that counted. ``side`` is its sender's. Every segment comes by here: ``_replace`` would cost as much
        as all the rest."""
        original, reply = (side, other) if segment.direction is Direction.ORIGINAL else (other, side)
        return History(
            segment, False, self.closing, self.simultaneous, self.challenged, original, reply, acknowledgement, repeats,
            self.original_tag, self.reply_tag,
        )  # fmt: skip

    def tag(self, direction: Direction) -> Tag:
        return self.original_tag if direction is Direction.ORIGINAL else self.reply_tag

    def with_tag(self, direction: Direction, tag: Tag = Tag.RIGHT) -> "History":
        """So much is known of the tag of ``direction`` now."""
        if direction is Direction.ORIGINAL:
            return self._replace(original_tag=tag)
        return self._replace(reply_tag=tag)


NO_HISTORY = History()


class Flow(NamedTuple):
    """What the machines know of a flow."""

    state: FlowState
    seen_reply: bool
    assured: bool
    created_ns: int
    history: History = NO_HISTORY
    expires_ns: int = 0


class Action(enum.Enum):
    """What to do with the entry after a packet."""

    KEEP = "keep"
    INVALID = "invalid"  #: the packet belongs to no flow; of the entry only timer and history may change
    RESTART = "restart"  #: the entry is discarded and the packet begins a new flow: NAT is decided afresh (K-1.8)
    DESTROY = "destroy"  #: the packet passes and the entry goes (CT-4.3)


class Reading(NamedTuple):
    """``timeout_ns`` None: the timer is left as it is. ``state``, ``assured`` and ``history`` are those of the flow afterwards."""

    action: Action
    state: FlowState = FlowState.NONE
    timeout_ns: int | None = None
    assured: bool = False
    history: History = NO_HISTORY


def invalid(flow: Flow | None) -> Reading:
    """INVALID, and nothing else."""
    return Reading(Action.INVALID) if flow is None else passing(flow, flow.history)._replace(action=Action.INVALID)


def passing(flow: Flow, history: History) -> Reading:
    """The packet passes and is remembered, but changes nothing and re-arms nothing."""
    return Reading(Action.KEEP, flow.state, None, flow.assured, history)


class Cell(enum.Enum):
    """Entries of a transition table that are no state."""

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
