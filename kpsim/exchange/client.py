"""What a client's kernel makes of a packet that comes back: the answer, a refusal, or nothing that it waits for.

Counterpart: the socket look-up of TCP, UDP and ICMP, and the tables that turn an ICMP error into an errno.
"""

from kpsim.addresses import Family
from kpsim.conntrack import tuple_of
from kpsim.packet import ICMP_PROTOCOLS, Packet
from kpsim.packetpath.reject import ICMP_ERRORS, TCP_RESET

#: by ICMP type and code: the errno, and whether a connected UDP socket reports it without IP_RECVERR
_ERRORS4 = {
    (3, 0): ("ENETUNREACH", False), (3, 1): ("EHOSTUNREACH", False), (3, 2): ("ENOPROTOOPT", True),
    (3, 3): ("ECONNREFUSED", True), (3, 9): ("ENETUNREACH", True), (3, 10): ("EHOSTUNREACH", True),
    (3, 13): ("EHOSTUNREACH", True), (11, 0): ("EHOSTUNREACH", False),
}  # fmt: skip
_ERRORS6 = {
    (1, 0): ("ENETUNREACH", False), (1, 1): ("EACCES", True), (1, 3): ("EHOSTUNREACH", False),
    (1, 4): ("ECONNREFUSED", True), (1, 5): ("EACCES", True), (1, 6): ("EACCES", True),
    (3, 0): ("EHOSTUNREACH", False), (4, 1): ("EPROTO", True),
}  # fmt: skip
#: errors by which a path says how long packets may be: TCP sends shorter segments
_TOO_BIG = {(Family.IPV4, 3, 4), (Family.IPV6, 2, 0)}
_NAMES = {
    family: {number: name for name, number in ICMP_ERRORS.items() if name.startswith("icmp6") is (family is Family.IPV6)}
    for family in Family
}  # fmt: skip


def is_answer(sent: Packet, came: Packet) -> bool:
    """Whether a packet that reached the client's machine belongs to the socket that sent the request."""
    return came.related is None and tuple_of(came) == tuple_of(sent).inverse()


def refusal_of(sent: Packet, came: Packet) -> str | None:
    """The name of the refusal that a packet is to the sender of the request; None: it is none."""
    if came.protocol == "tcp":
        return TCP_RESET if "RST" in came.tcp_flags and is_answer(sent, came) else None
    about = came.related
    if came.protocol not in ICMP_PROTOCOLS or about is None or tuple_of(about) != tuple_of(sent):
        return None
    return _NAMES[came.family].get((came.icmp_type, came.icmp_code), f"{came.protocol} type {came.icmp_type} code {came.icmp_code}")  # fmt: skip


def error_of(sent: Packet, came: Packet) -> str:
    """The error of the client's system call for a refusal; empty: its socket ignores it."""
    if sent.protocol in ICMP_PROTOCOLS:
        return ""
    if came.protocol == "tcp":
        return "ECONNREFUSED"
    if (came.family, came.icmp_type, came.icmp_code) in _TOO_BIG:
        return "EMSGSIZE" if sent.protocol == "udp" else ""
    table = _ERRORS4 if came.family is Family.IPV4 else _ERRORS6
    error, hard = table.get((came.icmp_type, came.icmp_code), ("", False))
    return error if hard or sent.protocol != "udp" else ""
