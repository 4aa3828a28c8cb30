"""What a packet means to the flow it belongs to: the protocol state machines of connection tracking.

Counterpart: nf_conntrack_proto_{tcp,udp,icmp,sctp,…}. These are pure functions of a packet and of what is remembered
about its flow. Addresses, tuples and NAT are in ``conntrack`` and ``packetpath.nat``. ``tcp`` and ``sctp`` are machines
of their own; this module calls the right one, and handles the protocols without states itself.
"""

from collections.abc import Mapping

from kpsim.flowstate.flow import (
    NO_HISTORY,
    Acknowledgement,
    Action,
    Direction,
    Flow,
    FlowState,
    History,
    Reading,
    Segment,
    Side,
    Tag,
    TcpInput,
    invalid,
)
from kpsim.flowstate.sctp import read_sctp, sctp_timeout_ns
from kpsim.flowstate.tcp import read_tcp, tcp_timeout_ns
from kpsim.packet import Packet, Window
from kpsim.sysctls import Sysctls
from kpsim.units import SECOND_NS

__all__ = [
    "ICMP_REQUESTS", "NO_HISTORY", "Acknowledgement", "Action", "Direction", "Flow", "FlowState", "History", "Reading",
    "Segment", "Side", "Tag", "TcpInput", "is_damaged", "read", "sctp_timeout_ns", "tcp_timeout_ns",
    "unseen",
]  # fmt: skip

#: states of TCP behind a FIN
_CLOSING = frozenset({FlowState.FIN_WAIT, FlowState.CLOSE_WAIT, FlowState.LAST_ACK, FlowState.TIME_WAIT})
_STREAM_AFTER_NS = 2 * SECOND_NS  # CT-5.1

#: type of an ICMP request → type of its answer
ICMP_REQUESTS: Mapping[str, Mapping[int, int]] = {
    "icmp": {8: 0, 13: 14, 15: 16, 17: 18},
    "icmpv6": {128: 129, 139: 140},
}


def read(packet: Packet, flow: Flow | None, direction: Direction, now_ns: int, sysctls: Sysctls) -> Reading:
    """What ``packet`` does to ``flow``. With ``flow`` None: whether the packet may begin a flow."""
    if is_damaged(packet, sysctls):
        return invalid(flow)
    match packet.protocol:
        case "tcp":
            return _read_tcp(packet, flow, direction, now_ns, sysctls)
        case "sctp":
            return read_sctp(packet, flow, direction, sysctls)
        case "udp":
            return _read_udp(flow, now_ns, sysctls)
        case "udplite":
            if packet.in_interface and sysctls.conntrack_checksum:
                return invalid(flow)  # the kernel checks its checksum as one of UDP, and it is never right (K-6.6)
            return _read_udp(flow, now_ns, sysctls)
        case "icmp":
            return _read_icmp(packet, flow, sysctls.icmp_timeout_ns)
        case "icmpv6":
            return _read_icmp(packet, flow, sysctls.icmpv6_timeout_ns)
        case "gre":
            return _read_gre(flow, sysctls)
        case _:
            return _kept(flow, sysctls.generic_timeout_ns)


#: readings of segments without numbers by all that they depend on; what is named by identity is kept beside the reading
_readings: dict[tuple[object, ...], tuple[Reading, History | None, Sysctls]] = {}
_MOST_READINGS = 4096


def _read_tcp(packet: Packet, flow: Flow | None, direction: Direction, now_ns: int, sysctls: Sysctls) -> Reading:
    """What a TCP packet does to its flow. Most connections are alike, so most segments have been read before."""
    if packet.numbers is not None or packet.repeated or packet.window is not Window.EXACT:
        return read_tcp(packet, flow, direction, now_ns, sysctls)
    history = None if flow is None else flow.history
    of_flow = (None, False, False) if flow is None else (flow.state, flow.seen_reply, flow.assured)
    key = (packet.tcp_flags, direction, of_flow, id(history), id(sysctls))
    known = _readings.get(key)
    if known is not None:
        return known[0]
    reading = read_tcp(packet, flow, direction, now_ns, sysctls)
    if reading.action is not Action.INVALID:  # the timer of a flow may decide what becomes of a segment out of window
        if len(_readings) >= _MOST_READINGS:
            _readings.clear()
        _readings[key] = reading, history, sysctls
    return reading


def unseen(state: FlowState) -> History:
    """The history of a flow whose packets nobody saw, but whose state is known: nothing that it sends is out of window."""
    liberal = Side(liberal=True)
    return History(
        closing=state in _CLOSING, original=liberal, reply=liberal, original_tag=Tag.RIGHT, reply_tag=Tag.RIGHT
    )


def is_damaged(packet: Packet, sysctls: Sysctls) -> bool:
    """Whether a wrong checksum makes the packet INVALID.

    Checksums of packets made on this node are not checked (K-6.6).
    """
    return not packet.checksum_ok and packet.in_interface != "" and sysctls.conntrack_checksum


def _kept(flow: Flow | None, timeout_ns: int) -> Reading:
    return Reading(Action.KEEP, timeout_ns=timeout_ns, assured=flow is not None and flow.assured)


def _read_udp(flow: Flow | None, now_ns: int, sysctls: Sysctls) -> Reading:
    if flow is not None and flow.seen_reply and now_ns - flow.created_ns >= _STREAM_AFTER_NS:
        return Reading(Action.KEEP, timeout_ns=sysctls.udp_timeout_stream_ns, assured=True)
    return _kept(flow, sysctls.udp_timeout_ns)


def _read_gre(flow: Flow | None, sysctls: Sysctls) -> Reading:
    """GRE: a stream begins with the first packet after an answer (K-6.2)."""
    if flow is not None and flow.seen_reply:
        return Reading(Action.KEEP, timeout_ns=sysctls.gre_timeout_stream_ns, assured=True)
    return _kept(flow, sysctls.gre_timeout_ns)


def _read_icmp(packet: Packet, flow: Flow | None, timeout_ns: int) -> Reading:
    if flow is None and packet.icmp_type not in ICMP_REQUESTS[packet.protocol]:
        return invalid(None)  # an answer without a request, or a type that begins no flow (CT-5.3)
    return _kept(flow, timeout_ns)
