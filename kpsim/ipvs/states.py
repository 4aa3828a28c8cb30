"""States of ip_vs connections, what packets do to them, and how long each lasts without a packet (IPVS-12).

Counterpart: ip_vs_proto_tcp, ip_vs_proto_udp and ip_vs_proto_sctp. The states are ip_vs' own: they differ from those of
connection tracking in names, transitions and timeouts. Nothing here has been compared with a running kernel.
"""

import enum
from collections.abc import Mapping
from typing import NamedTuple

from kpsim.packet import Packet
from kpsim.units import SECOND_NS

#: protocols that ip_vs balances
PROTOCOLS = ("tcp", "udp", "sctp")


class Side(enum.Enum):
    """Who sent a packet of a connection."""

    CLIENT = "client"
    SERVER = "server"


class State(enum.StrEnum):
    """A connection's state, by the names that ``ipvsadm -L -c`` prints."""

    NONE = "NONE"  #: made, and no packet has passed
    SYN_SENT = "SYN_SENT"
    SYN_RECV = "SYN_RECV"
    ESTABLISHED = "ESTABLISHED"  #: also of SCTP
    FIN_WAIT = "FIN_WAIT"
    CLOSE_WAIT = "CLOSE_WAIT"
    TIME_WAIT = "TIME_WAIT"
    CLOSE = "CLOSE"
    UDP = "UDP"
    INIT1 = "INIT1"
    INIT = "INIT"
    COOKIE_SENT = "C-SENT"
    COOKIE_REPLIED = "C-REPLIED"
    COOKIE_WAIT = "C-WAIT"
    COOKIE = "COOKIE"
    COOKIE_ECHOED = "C-ECHOED"
    SHUTDOWN_SENT = "S-SENT"
    SHUTDOWN_RECEIVED = "S-RECEIVED"
    SHUTDOWN_ACK_SENT = "S-ACK-SENT"
    REJECTED = "REJECTED"
    CLOSED = "CLOSED"


#: states whose connections count as ActiveConn; all others, every UDP flow among them, count as InActConn
ACTIVE = frozenset({State.SYN_SENT, State.SYN_RECV, State.ESTABLISHED})

#: a SYN that meets a connection in one of these states may begin a new one (IPVS-11.6)
OVER = frozenset({State.TIME_WAIT, State.CLOSE, State.CLOSED})


class Timeouts(NamedTuple):
    """The three timeouts that can be set (``ipvsadm --set``, IPVS-2.2), in seconds. The defaults are the kernel's."""

    tcp_s: int = 900
    tcp_fin_s: int = 120
    udp_s: int = 300


_SECONDS = {
    State.NONE: 2, State.SYN_SENT: 120, State.SYN_RECV: 60, State.CLOSE_WAIT: 60, State.TIME_WAIT: 120, State.CLOSE: 10,
    State.INIT1: 4, State.REJECTED: 4,
}  # fmt: skip
_SCTP_ESTABLISHED_S, _SCTP_ROUND_S = 900, 61


def timeout_ns(protocol: str, state: State, timeouts: Timeouts) -> int:
    """How long a connection in this state is kept after its last packet, in nanoseconds."""
    return SECOND_NS * _seconds(protocol, state, timeouts)


def _seconds(protocol: str, state: State, timeouts: Timeouts) -> int:
    if state is State.ESTABLISHED:
        return timeouts.tcp_s if protocol == "tcp" else _SCTP_ESTABLISHED_S
    if state is State.FIN_WAIT:
        return timeouts.tcp_fin_s
    if state is State.UDP:
        return timeouts.udp_s
    return _SECONDS.get(state, _SCTP_ROUND_S)


def begins(packet: Packet) -> bool:
    """Whether ip_vs makes a connection for a packet that has none (IPVS-11.1)."""
    match packet.protocol:
        case "tcp":
            return "SYN" in packet.tcp_flags and "RST" not in packet.tcp_flags
        case "sctp":
            return packet.sctp_chunk == "INIT"
        case _:
            return packet.protocol == "udp"


def begins_anew(packet: Packet) -> bool:
    """Whether a packet of a known connection asks for a new one (IPVS-11.6). A UDP packet never does."""
    return "SYN" in packet.tcp_flags if packet.protocol == "tcp" else packet.protocol == "sctp" and begins(packet)


def after(state: State, packet: Packet, side: Side) -> State:
    """The state of a connection when it has seen this packet."""
    if packet.protocol == "udp":
        return State.UDP
    if packet.protocol == "sctp":
        return _SCTP[side].get(packet.sctp_chunk, {}).get(state, state)
    # of several flags the kernel looks at the first of RST, SYN, FIN, ACK; a segment with none of them closes
    event = next((flag for flag in ("RST", "SYN", "FIN", "ACK") if flag in packet.tcp_flags), None)
    return State.CLOSE if event is None else _TCP[side][event].get(state, state)


_Moves = Mapping[str, Mapping[State, State]]  #: event → state before → state after; a state not named stays


def _each(states: str, to: State) -> dict[State, State]:
    return {State[name]: to for name in states.split()}


_TCP: Mapping[Side, _Moves] = {
    Side.CLIENT: {
        "SYN": _each("NONE SYN_RECV FIN_WAIT TIME_WAIT CLOSE CLOSE_WAIT", State.SYN_RECV)
        | {State.SYN_SENT: State.ESTABLISHED},
        "FIN": {State.ESTABLISHED: State.CLOSE_WAIT, State.NONE: State.CLOSE}
        | _each("SYN_RECV FIN_WAIT", State.TIME_WAIT),
        "ACK": _each("NONE SYN_RECV", State.ESTABLISHED),
        # a client that resets a handshake leaves the connection where it is
        "RST": _each("NONE ESTABLISHED SYN_SENT FIN_WAIT TIME_WAIT CLOSE_WAIT", State.CLOSE),
    },
    Side.SERVER: {
        "SYN": _each("NONE FIN_WAIT TIME_WAIT CLOSE CLOSE_WAIT", State.SYN_SENT),
        "FIN": {State.ESTABLISHED: State.FIN_WAIT} | _each("NONE SYN_RECV CLOSE_WAIT", State.TIME_WAIT),
        "ACK": _each("NONE SYN_RECV", State.ESTABLISHED),
        "RST": _each("NONE ESTABLISHED SYN_RECV FIN_WAIT CLOSE_WAIT", State.CLOSE),
    },
}

_OPENING = "INIT1 INIT COOKIE_SENT COOKIE_REPLIED"
_FROM_SERVER = "COOKIE_WAIT COOKIE COOKIE_ECHOED"
_CLOSING = "SHUTDOWN_SENT SHUTDOWN_RECEIVED SHUTDOWN_ACK_SENT"
_ALL = f"{_OPENING} {_FROM_SERVER} ESTABLISHED {_CLOSING} REJECTED CLOSED"

_SCTP: Mapping[Side, _Moves] = {
    Side.CLIENT: {
        "INIT": {State.NONE: State.INIT1} | _each("INIT1 REJECTED CLOSED", State.INIT),
        "INIT_ACK": _each("INIT1 INIT", State.COOKIE_WAIT) | {State.COOKIE_WAIT: State.COOKIE},
        "COOKIE_ECHO": {State.INIT1: State.INIT, State.COOKIE_SENT: State.COOKIE_REPLIED},
        "COOKIE_ACK": {State.COOKIE_ECHOED: State.ESTABLISHED},
        "SHUTDOWN": {State.ESTABLISHED: State.SHUTDOWN_RECEIVED},
        "SHUTDOWN_ACK": {State.INIT1: State.INIT} | _each("SHUTDOWN_SENT SHUTDOWN_ACK_SENT", State.CLOSED),
        "SHUTDOWN_COMPLETE": _each("INIT1 INIT SHUTDOWN_ACK_SENT", State.CLOSED),
        "ERROR": {State.COOKIE_ECHOED: State.CLOSED},
        "ABORT": _each(_ALL, State.CLOSED) | {State.COOKIE_WAIT: State.REJECTED},
    },
    Side.SERVER: {
        "INIT": _each(f"{_OPENING} {_FROM_SERVER} {_CLOSING} REJECTED CLOSED", State.COOKIE_WAIT),
        "INIT_ACK": _each("INIT1 INIT", State.COOKIE_SENT),
        "COOKIE_ECHO": _each(f"{_OPENING} COOKIE_WAIT COOKIE", State.COOKIE_ECHOED),
        "COOKIE_ACK": _each(f"{_OPENING} {_FROM_SERVER}", State.ESTABLISHED),
        "SHUTDOWN": _each(f"{_OPENING} {_FROM_SERVER} ESTABLISHED", State.SHUTDOWN_SENT),
        "SHUTDOWN_ACK": _each(f"{_OPENING} SHUTDOWN_SENT SHUTDOWN_RECEIVED", State.SHUTDOWN_ACK_SENT),
        "ERROR": _each(_OPENING, State.CLOSED),
        "ABORT": _each(_ALL, State.CLOSED) | {State.INIT1: State.REJECTED},
    },
}
