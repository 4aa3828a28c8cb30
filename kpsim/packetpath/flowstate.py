"""What a packet means to the flow it belongs to: the protocol state machines of connection tracking.

Counterpart: nf_conntrack_proto_{tcp,udp,icmp,sctp}. Pure tables (state, input) → state; never knows addresses, tuples or NAT.

TCP in its usual life (both directions drawn down the page)::

    SYN → SYN_SENT → SYN-ACK → SYN_RECV → ACK → ESTABLISHED → FIN → FIN_WAIT → ACK → CLOSE_WAIT
        → FIN → LAST_ACK → ACK → TIME_WAIT            RST from anywhere → CLOSE
"""

import enum
from collections.abc import Mapping
from typing import NamedTuple

from kpsim.packet import Packet, Window
from kpsim.packetpath.sysctls import Sysctls
from kpsim.units import SECOND_NS


class Direction(enum.Enum):
    """Of a packet within its flow; ORIGINAL is that of the packet that created the entry."""

    ORIGINAL = "original"
    REPLY = "reply"


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
    RST_ACK = "RST-ACK"


class Segment(NamedTuple):
    """A TCP segment as the next one's meaning may depend on it."""

    direction: Direction
    kind: TcpInput


class History(NamedTuple):
    """What TCP remembers of earlier segments beside its state; INVALID ones leave no trace."""

    last: Segment | None = None
    closing: bool = False  #: a FIN began to close the connection
    unacknowledged: frozenset[Direction] = frozenset()  #: who sent data that the other has not acknowledged
    mid_stream: bool = False  #: no handshake was seen, so that no window is known (K-6.3)


NO_HISTORY = History()


class Flow(NamedTuple):
    """What the machines remember of a flow."""

    state: FlowState
    seen_reply: bool
    assured: bool
    created_ns: int
    history: History = NO_HISTORY


class Action(enum.Enum):
    """What to do with the entry after a packet."""

    KEEP = "keep"
    INVALID = "invalid"  #: the packet belongs to no flow; the entry is untouched
    RESTART = "restart"  #: the entry is discarded and the packet begins a new flow: NAT is decided afresh (K-1.8)
    DESTROY = "destroy"  #: the packet passes and the entry goes (CT-4.3)


class Reading(NamedTuple):
    """``timeout_ns`` None: the timer is left as it is."""

    action: Action
    state: FlowState = FlowState.NONE
    timeout_ns: int | None = None
    assured: bool = False
    history: History = NO_HISTORY


INVALID = Reading(Action.INVALID)
RESTART = Reading(Action.RESTART)


class Cell(enum.Enum):
    """Entries of a transition table that are no state."""

    INVALID = "."
    IGNORED = "="  #: passes, changes nothing, re-arms nothing
    RESTART = "!"


_Transitions = Mapping[tuple[Direction, str], Mapping[FlowState, FlowState | Cell]]


def _transitions(text: str) -> _Transitions:
    """Reads a table whose head names the states, each with the abbreviation that its cells use."""
    head, *lines = (line.split() for line in text.strip().splitlines())
    columns = [FlowState(name.partition("=")[2]) for name in head]
    cells: dict[str, FlowState | Cell] = {cell.value: cell for cell in Cell}
    cells |= {name.partition("=")[0]: FlowState(name.partition("=")[2]) for name in head}
    return {
        (Direction(direction), kind): {column: cells[cell] for column, cell in zip(columns, row, strict=True)}
        for direction, kind, *row in lines
    }


# Measured (K-6.1); the first column (no entry yet) is in `_new_tcp`.  . INVALID   = ignored   ! begins a new flow
TCP = _transitions("""
                   SS=SYN_SENT SR=SYN_RECV ES=ESTABLISHED FW=FIN_WAIT CW=CLOSE_WAIT LA=LAST_ACK TW=TIME_WAIT CL=CLOSE S2=SYN_SENT2
original SYN       SS          =           =              =           =             =           !            !        S2
original SYN-ACK   .           SR          .              .           .             .           .            .        SR
original ACK       .           ES          ES             CW          CW            TW          TW           CL       .
original FIN       .           FW          FW             LA          LA            LA          TW           CL       .
original RST       CL          CL          CL             CL          CL            CL          CL           CL       CL
original RST-ACK   .           CL          CL             CL          CL            CL          CL           CL       CL
reply    SYN       S2          .           .              .           .             .           !            .        S2
reply    SYN-ACK   SR          =           =              =           =             =           =            =        SR
reply    ACK       =           SR          ES             CW          CW            TW          TW           CL       =
reply    FIN       .           FW          FW             LA          LA            LA          TW           CL       .
reply    RST       CL          CL          CL             CL          CL            CL          CL           CL       CL
reply    RST-ACK   CL          CL          CL             CL          CL            CL          CL           CL       CL
""")  # fmt: skip

# CT-5, K-6.6; a chunk that is not listed (DATA, SACK, …) changes nothing but re-arms the timer.
SCTP = _transitions("""
                           CW=COOKIE_WAIT CE=COOKIE_ECHOED ES=ESTABLISHED SS=SHUTDOWN_SENT SR=SHUTDOWN_RECD SA=SHUTDOWN_ACK_SENT CL=CLOSED HS=HEARTBEAT_SENT
original INIT              CW             CE               ES             SS               SR               SA                   CW        CW
original INIT_ACK          .              .                ES             SS               SR               SA                   .         .
original COOKIE_ECHO       CE             CE               ES             SS               SR               SA                   .         .
original COOKIE_ACK        .              .                ES             SS               SR               SA                   .         .
original ABORT             CL             CL               CL             CL               CL               CL                   CL        CL
original SHUTDOWN          CL             CL               SS             SS               SR               SA                   .         CL
original SHUTDOWN_ACK      CL             CL               SA             SA               SA               SA                   .         SA
original SHUTDOWN_COMPLETE .              .                .              .                .                CL                   CL        CL
original HEARTBEAT         CW             CE               ES             SS               SR               SA                   CL        HS
original HEARTBEAT_ACK     CW             CE               ES             SS               SR               SA                   CL        HS
reply    INIT              CW             CE               ES             SS               SR               SA                   .         .
reply    INIT_ACK          CW             CE               ES             SS               SR               SA                   .         .
reply    COOKIE_ECHO       CE             CE               ES             SS               SR               SA                   .         .
reply    COOKIE_ACK        CW             ES               ES             SS               SR               SA                   .         .
reply    ABORT             CL             CL               CL             CL               CL               CL                   CL        CL
reply    SHUTDOWN          CL             CL               SR             SS               SR               SA                   .         CL
reply    SHUTDOWN_ACK      CL             CL               SA             SA               SA               SA                   .         SA
reply    SHUTDOWN_COMPLETE .              .                .              .                .                CL                   CL        CL
reply    HEARTBEAT         CW             CE               ES             SS               SR               SA                   CL        HS
reply    HEARTBEAT_ACK     CW             CE               ES             SS               SR               SA                   CL        ES
""")  # fmt: skip

_FIXED_TIMEOUTS_NS: Mapping[FlowState, int] = {
    state: seconds * SECOND_NS
    for state, seconds in {
        FlowState.SYN_SENT: 120, FlowState.SYN_RECV: 60, FlowState.FIN_WAIT: 120, FlowState.LAST_ACK: 30,
        FlowState.TIME_WAIT: 120, FlowState.CLOSE: 10, FlowState.SYN_SENT2: 120,
    }.items()
}  # fmt: skip
_SCTP_TIMEOUTS_NS: Mapping[FlowState, int] = {
    state: seconds * SECOND_NS
    for state, seconds in {
        FlowState.CLOSED: 10, FlowState.COOKIE_WAIT: 3, FlowState.COOKIE_ECHOED: 3, FlowState.ESTABLISHED: 210,
        FlowState.SHUTDOWN_SENT: 3, FlowState.SHUTDOWN_RECD: 3, FlowState.SHUTDOWN_ACK_SENT: 3,
        FlowState.HEARTBEAT_SENT: 30,
    }.items()
}  # fmt: skip

# Flag combinations that no stack sends are INVALID before the machine is asked; PSH counts for nothing here.
_VALID_FLAGS = {
    frozenset(flags.split())
    for flags in ("SYN", "SYN URG", "SYN ACK", "RST", "RST ACK", "FIN ACK", "FIN ACK URG", "ACK", "ACK URG")
}
_ICMP_TIMEOUT_NS = 30 * SECOND_NS
_GENERIC_TIMEOUT_NS = 600 * SECOND_NS
_STREAM_AFTER_NS = 2 * SECOND_NS  # CT-5.1

#: type of an ICMP request → type of its answer
ICMP_REQUESTS: Mapping[str, Mapping[int, int]] = {"icmp": {8: 0, 13: 14, 15: 16, 17: 18}, "icmpv6": {128: 129}}


def read(packet: Packet, flow: Flow | None, direction: Direction, now_ns: int, sysctls: Sysctls) -> Reading:
    """What ``packet`` does to ``flow``, or, without one, whether it may begin a flow."""
    if not packet.checksum_ok:
        return INVALID  # K-6.6
    match packet.protocol:
        case "tcp":
            return _read_tcp(packet, flow, direction, sysctls)
        case "udp":
            return _read_udp(flow, now_ns, sysctls)
        case "sctp":
            return _read_sctp(packet, flow, direction)
        case "icmp" | "icmpv6":
            if flow is None and packet.icmp_type not in ICMP_REQUESTS[packet.protocol]:
                return INVALID  # an answer that nobody asked for
            return Reading(Action.KEEP, timeout_ns=_ICMP_TIMEOUT_NS)
        case _:
            return Reading(Action.KEEP, timeout_ns=_GENERIC_TIMEOUT_NS)


def _tcp_input(packet: Packet) -> TcpInput | None:
    flags = packet.tcp_flags - {"PSH"}
    if flags not in _VALID_FLAGS:
        return None
    if "RST" in flags:
        return TcpInput.RST_ACK if "ACK" in flags else TcpInput.RST
    if "SYN" in flags:
        return TcpInput.SYN_ACK if "ACK" in flags else TcpInput.SYN
    return TcpInput.FIN if "FIN" in flags else TcpInput.ACK


_SYN_ONLY = frozenset({"SYN"})
_RESETS = (TcpInput.RST, TcpInput.RST_ACK)
_FINISHING = frozenset(
    {FlowState.FIN_WAIT, FlowState.CLOSE_WAIT, FlowState.LAST_ACK, FlowState.TIME_WAIT, FlowState.CLOSE}
)


def _read_tcp(packet: Packet, flow: Flow | None, direction: Direction, sysctls: Sysctls) -> Reading:
    kind = TcpInput.SYN if packet.tcp_flags == _SYN_ONLY else _tcp_input(packet)
    if kind is None:
        return INVALID
    if flow is None:
        return _new_tcp(kind, sysctls)
    reset = kind in _RESETS
    if packet.window is Window.OUTSIDE and not _forgiven(flow, sysctls, reset=reset):
        return INVALID
    segment = Segment(direction, kind)
    match _cell(flow, segment):
        case Cell.INVALID:
            return INVALID
        case Cell.RESTART:
            return RESTART
        case Cell.IGNORED:
            return Reading(Action.KEEP, flow.state, None, flow.assured, flow.history._replace(last=segment))
        case state:
            pass
    counted = packet.window is not Window.OUTSIDE and (flow.seen_reply or direction is Direction.ORIGINAL)
    data = counted and "PSH" in packet.tcp_flags
    history = _remembered(flow.history, segment, state, data=data)
    if reset:
        if not flow.seen_reply:
            return Reading(Action.DESTROY, state)  # a refused connection leaves nothing
        if packet.window is Window.INSIDE and flow.state is FlowState.ESTABLISHED:
            # the receiver will challenge it: the flow may live on (K-6.4)
            timeout_ns = _FIXED_TIMEOUTS_NS[FlowState.CLOSE]
            return Reading(Action.KEEP, flow.state, timeout_ns, flow.assured, history)
    timeout_ns = tcp_timeout_ns(state, sysctls)
    if state is FlowState.ESTABLISHED and (history.unacknowledged or not flow.seen_reply):
        timeout_ns = min(timeout_ns, sysctls.tcp_timeout_unacknowledged_ns)
    completes = flow.state in (FlowState.SYN_RECV, FlowState.ESTABLISHED) and state is FlowState.ESTABLISHED
    return Reading(Action.KEEP, state, timeout_ns, flow.assured or (flow.seen_reply and completes), history)


def _forgiven(flow: Flow, sysctls: Sysctls, *, reset: bool) -> bool:
    """Whether a segment counts though it is out of window: an RST only behind a FIN or an RST (K-6.4, the rest measured)."""
    return flow.state in _FINISHING if reset else sysctls.tcp_be_liberal or flow.history.mid_stream


def _cell(flow: Flow, segment: Segment) -> FlowState | Cell:
    """What the table says, and where the earlier segments count too (measured)."""
    cell, before = TCP[segment][flow.state], flow.history.last
    if cell is Cell.RESTART and not flow.history.closing and not _is_reset_of(before, segment.direction):
        return Cell.IGNORED  # who was reset, and did not reset, keeps its binding until the entry is gone
    if before is None or before.kind is not TcpInput.SYN or before.direction is segment.direction:
        return cell
    if cell is Cell.IGNORED and segment.kind is TcpInput.SYN_ACK:
        return FlowState.SYN_RECV  # both ends begin anew, and so does the entry, with its old binding
    if flow.state is FlowState.LAST_ACK and segment == (Direction.REPLY, TcpInput.ACK):
        return Cell.IGNORED  # challenges the SYN, acknowledges no FIN
    return cell


def _is_reset_of(segment: Segment | None, direction: Direction) -> bool:
    return segment is not None and segment.kind in _RESETS and segment.direction is direction


def _remembered(before: History, segment: Segment, state: FlowState, *, data: bool) -> History:
    waiting = before.unacknowledged
    if segment.kind is not TcpInput.RST:  # acknowledges all that the other has sent
        waiting = waiting & {segment.direction}
    if data:
        waiting = waiting | {segment.direction}
    return History(segment, before.closing or state is FlowState.FIN_WAIT, waiting, before.mid_stream)


def _new_tcp(kind: TcpInput, sysctls: Sysctls) -> Reading:
    history = History(Segment(Direction.ORIGINAL, kind), mid_stream=kind is not TcpInput.SYN)
    if kind is TcpInput.SYN:
        timeout_ns = _FIXED_TIMEOUTS_NS[FlowState.SYN_SENT]
        return Reading(Action.KEEP, FlowState.SYN_SENT, timeout_ns, history=history)
    if kind is TcpInput.ACK and sysctls.tcp_loose:  # mid-stream pick-up (K-6.3)
        timeout_ns = min(sysctls.tcp_timeout_established_ns, sysctls.tcp_timeout_unacknowledged_ns)
        return Reading(Action.KEEP, FlowState.ESTABLISHED, timeout_ns, history=history)
    return INVALID


def tcp_timeout_ns(state: FlowState, sysctls: Sysctls) -> int:
    """Timer of a TCP state (CT-4.1); KeyError if it is none."""
    if state is FlowState.ESTABLISHED:
        return sysctls.tcp_timeout_established_ns
    if state is FlowState.CLOSE_WAIT:
        return sysctls.tcp_timeout_close_wait_ns
    return _FIXED_TIMEOUTS_NS[state]


def _read_udp(flow: Flow | None, now_ns: int, sysctls: Sysctls) -> Reading:
    if flow is not None and flow.seen_reply and now_ns - flow.created_ns >= _STREAM_AFTER_NS:
        return Reading(Action.KEEP, timeout_ns=sysctls.udp_timeout_stream_ns, assured=True)
    return Reading(Action.KEEP, timeout_ns=sysctls.udp_timeout_ns, assured=flow is not None and flow.assured)


def _read_sctp(packet: Packet, flow: Flow | None, direction: Direction) -> Reading:
    if flow is None:
        begins = {"INIT": FlowState.COOKIE_WAIT, "HEARTBEAT": FlowState.HEARTBEAT_SENT}.get(packet.sctp_chunk)
        return INVALID if begins is None else Reading(Action.KEEP, begins, _SCTP_TIMEOUTS_NS[begins])
    row = SCTP.get((direction, packet.sctp_chunk))
    cell = row[flow.state] if row else flow.state
    if isinstance(cell, Cell):
        return INVALID
    assured = flow.assured or (cell is FlowState.ESTABLISHED and direction is Direction.REPLY)
    return Reading(Action.KEEP, cell, _SCTP_TIMEOUTS_NS[cell], assured)
