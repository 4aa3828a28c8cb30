"""What REJECT and routing errors answer, what a local process is told, and how seldom the kernel answers (K-3, CT-9).

Counterpart: ipt_REJECT, icmp_send and its rate limit. Never knows rules or connections.
"""

from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.packet import Packet
from kpsim.units import MILLISECOND_NS, SECOND_NS

TCP_RESET = "tcp-reset"

#: ICMP type and code by iptables' names
ICMP_ERRORS = {
    "icmp-net-unreachable": (3, 0), "icmp-host-unreachable": (3, 1), "icmp-proto-unreachable": (3, 2),
    "icmp-port-unreachable": (3, 3), "icmp-net-prohibited": (3, 9), "icmp-host-prohibited": (3, 10),
    "icmp-admin-prohibited": (3, 13), "icmp-time-exceeded": (11, 0),
    "icmp6-no-route": (1, 0), "icmp6-adm-prohibited": (1, 1), "icmp6-addr-unreachable": (1, 3),
    "icmp6-port-unreachable": (1, 4), "icmp6-policy-fail": (1, 5), "icmp6-reject-route": (1, 6),
    "icmp6-time-exceeded": (3, 0),
}  # fmt: skip

_ICMP_REQUEST_TYPES = {"icmp": {0, 8, 13, 14, 15, 16, 17, 18}, "icmpv6": {128, 129}}


def answer(packet: Packet, with_: str, node_address: int | None) -> Packet | None:
    """The packet that tells the sender of ``packet`` (as it was before translation); None: no answer is allowed.

    ICMP errors come from the node's address, a reset from the original destination (K-3.1). Bad checksums, resets by a
    reset, and errors about errors get none (K-3.3).
    """
    if not packet.checksum_ok:
        return None
    if with_ == TCP_RESET:
        if packet.protocol != "tcp" or "RST" in packet.tcp_flags:
            return None
        return Packet(
            packet.family, "tcp", packet.daddr, packet.saddr, packet.dport, packet.sport,
            frozenset({"RST"} if "ACK" in packet.tcp_flags else {"RST", "ACK"}),
        )  # fmt: skip
    if packet.related is not None or packet.icmp_type not in _ICMP_REQUEST_TYPES.get(
        packet.protocol, {packet.icmp_type}
    ):
        return None
    if node_address is None:
        return None
    kind, code = ICMP_ERRORS[with_]
    protocol = "icmp" if packet.family is Family.IPV4 else "icmpv6"
    return Packet(
        packet.family, protocol, node_address, packet.saddr, icmp_type=kind, icmp_code=code, related=packet
    )  # fmt: skip


def error_of_reject(packet: Packet, *, in_output: bool) -> str:
    """What the local sender's system call says: from OUTPUT at once (K-3.2), else when the answer comes back."""
    if in_output and packet.protocol != "tcp":
        return "EPERM"
    return "ECONNREFUSED"


def error_of_drop(packet: Packet, *, in_output: bool) -> str:
    """A drop in OUTPUT fails a UDP send; TCP hangs, and later drops are silent (K-3.2, CT-9)."""
    return "EPERM" if in_output and packet.protocol != "tcp" else ""


_CLIENT_BURST = 6
_CLIENT_REFILL_NS = {Family.IPV4: SECOND_NS, Family.IPV6: 100 * MILLISECOND_NS}
_TOTAL_BURST = 50
_TOTAL_REFILL_NS = MILLISECOND_NS  #: one more
_TOTAL_PAUSE_NS = 20 * MILLISECOND_NS  #: from one refill to the next


class IcmpSpending(NamedTuple):
    """One error that was sent. ``client`` None: to a process of the node, which no limit of its own holds back."""

    family: Family
    client: int | None
    now_ns: int


class IcmpLimiter:
    """ICMP errors per client: 6 at once, then 1/s; overall 1000/s in bursts of 50 (K-3.4). The excess is not sent.

    IPv6 refills a client's bucket ten times a second (measured on 6.18; older kernels have 1/s as IPv4). Both families share
    the overall bucket, and that is refilled only when it is empty and 20 ms after the latest time (measured): what was left
    of the last burst and a new one can follow each other, up to a hundred errors. An error costs one; in Linux none to two.
    """

    def __init__(self) -> None:
        # A client's bucket is the time at which it will be full again (a virtual clock): integers, no drift.
        self._client_full_ns: dict[tuple[Family, int], int] = {}
        self._total = 0
        self._total_refilled_ns = -SECOND_NS

    def allows(self, spending: IcmpSpending) -> bool:
        family, client, now_ns = spending
        if self._total <= 0 and now_ns - self._total_refilled_ns < _TOTAL_PAUSE_NS:
            return False
        full_ns = self._client_full_ns.get((family, client), 0) if client is not None else 0
        return full_ns - now_ns <= (_CLIENT_BURST - 1) * _CLIENT_REFILL_NS[family]

    def commit(self, spending: IcmpSpending) -> None:
        family, client, now_ns = spending
        if client is not None:
            full_ns = max(self._client_full_ns.get((family, client), 0), now_ns)
            self._client_full_ns[family, client] = full_ns + _CLIENT_REFILL_NS[family]
        if self._total <= 0:
            self._total = min(_TOTAL_BURST, (now_ns - self._total_refilled_ns) // _TOTAL_REFILL_NS)
            self._total_refilled_ns = now_ns
        self._total -= 1
