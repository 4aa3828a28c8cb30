"""SCTP as connection tracking sees it (CT-5, K-6.6; measured). Counterpart: nf_conntrack_proto_sctp.

An association in its usual life (capitals: chunks from the client)::

    INIT → CLOSED → init-ack → COOKIE_WAIT → COOKIE-ECHO → COOKIE_ECHOED → cookie-ack → ESTABLISHED
         → SHUTDOWN → SHUTDOWN_SENT → shutdown-ack → SHUTDOWN_ACK_SENT → SHUTDOWN-COMPLETE → CLOSED
         (→ shutdown → SHUTDOWN_RECD → SHUTDOWN-ACK → SHUTDOWN_ACK_SENT …)        ABORT from anywhere → CLOSED
    HEARTBEAT → HEARTBEAT_SENT → heartbeat-ack → ESTABLISHED: another path of an association that is known elsewhere

Both ends are assumed to be honest: each has one verification tag, and every packet carries the right one. Connection
tracking learns tags from INIT, INIT-ACK and heartbeats. So it takes a tag for wrong only where it could not learn it.
"""

from kpsim.flowstate.flow import (
    Action,
    Cell,
    Direction,
    Flow,
    FlowState,
    History,
    Reading,
    Tag,
    invalid,
    passing,
    transitions,
)
from kpsim.packet import Packet
from kpsim.sysctls import Sysctls

# Measured on Linux 6.18.  . INVALID; a chunk that is not listed (DATA, SACK) changes nothing but re-arms the timer.
SCTP = transitions("""
                           CL=CLOSED CW=COOKIE_WAIT CE=COOKIE_ECHOED ES=ESTABLISHED SS=SHUTDOWN_SENT SR=SHUTDOWN_RECD SA=SHUTDOWN_ACK_SENT HS=HEARTBEAT_SENT
original INIT              CL        CW             CE               ES             CL               CL               SA                   CW
original INIT_ACK          CL        CW             CE               ES             SS               SR               SA                   CL
original COOKIE_ECHO       CL        CE             CE               ES             SS               SR               SA                   CL
original COOKIE_ACK        CL        CW             ES               ES             SS               SR               SA                   CL
original ABORT             CL        CL             CL               CL             CL               CL               CL                   CL
original SHUTDOWN          CL        CW             CE               SS             SS               SR               SA                   CL
original SHUTDOWN_ACK      CL        CW             CE               ES             SA               SA               SA                   SA
original SHUTDOWN_COMPLETE CL        CW             CE               ES             SS               SR               CL                   CL
original HEARTBEAT         CL        CW             CE               ES             SS               SR               SA                   HS
original HEARTBEAT_ACK     CL        CW             CE               ES             SS               SR               SA                   HS
original ERROR             CL        CW             CE               ES             SS               SR               SA                   CL
reply    INIT              CL        CW             CE               ES             SS               SR               SA                   .
reply    INIT_ACK          CW        CW             CE               ES             SS               SR               SA                   .
reply    COOKIE_ECHO       CL        CE             CE               ES             SS               SR               SA                   .
reply    COOKIE_ACK        CL        CW             ES               ES             SS               SR               SA                   .
reply    ABORT             CL        CL             CL               CL             CL               CL               CL                   .
reply    SHUTDOWN          CL        CW             CE               SR             SS               SR               SA                   .
reply    SHUTDOWN_ACK      CL        CW             CE               ES             SA               SA               SA                   .
reply    SHUTDOWN_COMPLETE CL        CW             CE               ES             SS               SR               CL                   .
reply    HEARTBEAT         CL        CW             CE               ES             SS               SR               SA                   HS
reply    HEARTBEAT_ACK     CL        CW             CE               ES             SS               SR               SA                   ES
reply    ERROR             CL        CW             CL               ES             SS               SR               SA                   .
""")  # fmt: skip

#: chunk with which an association may begin, as connection tracking sees it → state, and the tags that are known then
_BEGINNINGS = {
    "INIT": (FlowState.CLOSED, History(reply_tag=Tag.RIGHT)),
    "HEARTBEAT": (FlowState.HEARTBEAT_SENT, History(original_tag=Tag.RIGHT)),
    "HEARTBEAT_ACK": (FlowState.CLOSED, History(original_tag=Tag.RIGHT)),
    # belongs to an association whose entry is gone; the kernel expects its tag in answers too, but honest answers carry
    # another
    "SHUTDOWN_ACK": (FlowState.SHUTDOWN_ACK_SENT, History(reply_tag=Tag.WRONG)),
}
_UNCHECKED = frozenset({"INIT", "SHUTDOWN_ACK"})
_HEARTBEATS = frozenset({"HEARTBEAT", "HEARTBEAT_ACK"})


def read_sctp(packet: Packet, flow: Flow | None, direction: Direction, sysctls: Sysctls) -> Reading:
    """What an SCTP packet does to its flow, see :func:`kpsim.flowstate.read`."""
    chunk = packet.sctp_chunk
    if flow is None:
        if chunk not in _BEGINNINGS:
            return invalid(None)
        state, history = _BEGINNINGS[chunk]
        return Reading(Action.KEEP, state, sctp_timeout_ns(state, sysctls), history=history)
    tag = flow.history.tag(direction)
    if chunk == "HEARTBEAT" and tag in (Tag.WRONG, Tag.REPLACEABLE):
        return passing(flow, flow.history)  # the tag of its answer will be believed
    if tag is not Tag.RIGHT and chunk not in _UNCHECKED and not (chunk in _HEARTBEATS and tag is Tag.UNKNOWN):
        return invalid(flow)
    if chunk == "INIT_ACK" and flow.history.tag(direction.opposite) is Tag.WRONG:
        return invalid(flow)  # it names another tag than the one that the entry has
    row = SCTP.get((direction, chunk))
    cell = row[flow.state] if row else flow.state
    if isinstance(cell, Cell):
        return invalid(flow)
    history = flow.history
    if chunk in _HEARTBEATS:
        history = history.with_tag(direction)
    elif chunk in ("INIT", "INIT_ACK"):
        if chunk == "INIT" and tag is Tag.WRONG and history.tag(direction.opposite) is not Tag.RIGHT:
            history = history.with_tag(direction, Tag.REPLACEABLE)  # not if it only repeats what is known (measured)
        history = history.with_tag(direction.opposite)  # it names the tag that answers must carry
    repeats_itself = chunk == "INIT" and flow.state is cell is FlowState.CLOSED
    timeout_ns = None if repeats_itself else sctp_timeout_ns(cell, sysctls)
    assured = flow.assured or (cell is FlowState.ESTABLISHED and flow.state is not cell)
    return Reading(Action.KEEP, cell, timeout_ns, assured, history)


def sctp_timeout_ns(state: FlowState, sysctls: Sysctls) -> int:
    """The timeout of an SCTP state (CT-5). ValueError if it is not an SCTP state."""
    match state:
        case FlowState.CLOSED:
            return sysctls.sctp_timeout_closed_ns
        case FlowState.COOKIE_WAIT:
            return sysctls.sctp_timeout_cookie_wait_ns
        case FlowState.COOKIE_ECHOED:
            return sysctls.sctp_timeout_cookie_echoed_ns
        case FlowState.ESTABLISHED:
            return sysctls.sctp_timeout_established_ns
        case FlowState.SHUTDOWN_SENT:
            return sysctls.sctp_timeout_shutdown_sent_ns
        case FlowState.SHUTDOWN_RECD:
            return sysctls.sctp_timeout_shutdown_recd_ns
        case FlowState.SHUTDOWN_ACK_SENT:
            return sysctls.sctp_timeout_shutdown_ack_sent_ns
        case FlowState.HEARTBEAT_SENT:
            return sysctls.sctp_timeout_heartbeat_sent_ns
        case _:
            raise ValueError(f"not an SCTP state: {state}")
