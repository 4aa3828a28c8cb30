"""Lives of connections as words, one for each packet, and the protocol machines' steps through them (CT-3.3, K-1.8).

TCP: S SYN, A ACK, P data, F FIN, R RST, N no flags; SA and RA are SYN ACK and RST ACK. A suffix says: = sent again, ~
after a gap, < acknowledged long ago, > far outside the window. SCTP: the initials of its chunks, see ``CHUNKS``. The
client's words are in capitals.
"""

from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.flowstate import Action, Direction, Flow, Reading, read
from kpsim.packet import Packet, Window
from kpsim.sysctls import Sysctls

_FLAGS = {"S": "SYN", "A": "ACK", "P": "PSH ACK", "F": "FIN ACK", "R": "RST", "N": ""}
_WINDOWS = {"~": Window.INSIDE, "<": Window.BEFORE, ">": Window.OUTSIDE}
CHUNKS = {
    "I": "INIT", "IA": "INIT_ACK", "CE": "COOKIE_ECHO", "CA": "COOKIE_ACK", "D": "DATA", "SK": "SACK", "HB": "HEARTBEAT",
    "HA": "HEARTBEAT_ACK", "AB": "ABORT", "ER": "ERROR", "SD": "SHUTDOWN", "SA": "SHUTDOWN_ACK", "SC": "SHUTDOWN_COMPLETE",
}  # fmt: skip

#: lives that lead to each state of TCP; in them the client is the first to close or reset
TCP_PRELUDES = {
    "NONE": "", "SS": "S", "SR": "S sa", "ES": "S sa A", "FW": "S sa A F", "CW": "S sa A F a", "LA": "S sa A F a f",
    "TW": "S sa A F a f A", "CL": "S sa A R", "S2": "S s",
}  # fmt: skip

#: lives that lead to each state of SCTP, in all ways that make a difference
SCTP_PRELUDES = (
    "", "I", "I i", "I ia", "I ia CE", "I ia CE ca", "I ia CE ca SD", "I ia CE ca sd", "I ia CE ca SD sa", "I ia CE ca sd SA",
    "I ia CE ca SD sa SC", "I ia CE ca sd SA sc", "I ia CE ca AB", "I ia CE ca ab", "HB", "HB hb", "HB ha", "HB I", "HA", "HA ha",
    "SA", "SA hb", "SA I",
)  # fmt: skip


class Step(NamedTuple):
    """What the machines made of one packet."""

    ct_state: str
    flow: Flow | None  #: the entry after the packet
    reading: Reading


def direction_of(word: str) -> Direction:
    return Direction.ORIGINAL if word[0].isupper() else Direction.REPLY


def packet_of(word: str, protocol: str = "tcp") -> Packet:
    """A packet between ends that do not matter."""
    if protocol == "sctp":
        return Packet(Family.IPV4, "sctp", 1, 2, 3, 4, sctp_chunk=CHUNKS[word.upper()])
    letters = word.upper().rstrip("=~<>")
    flags = frozenset(" ".join(_FLAGS[letter] for letter in letters).split())
    window = _WINDOWS.get(word[-1], Window.EXACT)
    return Packet(Family.IPV4, "tcp", 1, 2, 3, 4, flags, window=window, repeated=word[-1] == "=")


def step(
    flow: Flow | None, packet: Packet, direction: Direction, sysctls: Sysctls | None = None, now_ns: int = 0
) -> Step:
    """Pass one packet to the machine of its protocol. The first packet of a flow always has direction ORIGINAL."""
    sysctls = sysctls or Sysctls()
    reading = read(packet, flow, direction if flow else Direction.ORIGINAL, now_ns, sysctls)
    if reading.action is Action.RESTART:
        flow, reading = None, read(packet, None, Direction.ORIGINAL, now_ns, sysctls)
    invalid = reading.action is Action.INVALID
    if flow is None:
        if invalid or reading.timeout_ns is None:
            return Step("INVALID", None, reading)
        begun = Flow(reading.state, False, False, now_ns, reading.history, now_ns + reading.timeout_ns)
        return Step("NEW", begun, reading)
    expires_ns = flow.expires_ns if reading.timeout_ns is None else now_ns + reading.timeout_ns
    if invalid:
        return Step("INVALID", flow._replace(history=reading.history, expires_ns=expires_ns), reading)
    seen_reply = flow.seen_reply or direction is Direction.REPLY
    after = Flow(reading.state, seen_reply, reading.assured, flow.created_ns, reading.history, expires_ns)
    ct_state = "ESTABLISHED" if seen_reply else "NEW"
    return Step(ct_state, None if reading.action is Action.DESTROY else after, reading)


def lead(life: str, protocol: str = "tcp", sysctls: Sysctls | None = None, *, flow: Flow | None = None) -> list[Step]:
    """Return every step of a life. No time passes, so each timer shows the value that it was set to."""
    steps = []
    for word in life.split():
        steps.append(step(flow, packet_of(word, protocol), direction_of(word), sysctls))
        flow = steps[-1].flow
    return steps


def flow_after(life: str, protocol: str = "tcp", sysctls: Sysctls | None = None) -> Flow | None:
    """Return the entry after a life; None if there is none or it is gone."""
    return lead(life, protocol, sysctls)[-1].flow if life else None
