"""How many ICMP errors the kernel sends: its limit per client and its limit for the whole machine (K-3.4).

Counterpart: icmp_global_allow and inet_peer_xrlim_allow.
"""

from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.units import MILLISECOND_NS, SECOND_NS

_CLIENT_BURST = 6
_CLIENT_REFILL_NS = {Family.IPV4: SECOND_NS, Family.IPV6: 100 * MILLISECOND_NS}
_TOTAL_BURST = 50
_TOTAL_REFILL_NS = MILLISECOND_NS  #: one more
_TOTAL_PAUSE_NS = 20 * MILLISECOND_NS  #: from one refill to the next


class IcmpSpending(NamedTuple):
    """One error that was sent.

    ``client`` None: it went to a process of the node, for which there is no client's limit.
    """

    family: Family
    client: int | None
    now_ns: int


class IcmpLimiter:
    """The limits: 6 ICMP errors at once for each client, then 1/s; overall 1000/s in bursts of 50 (K-3.4).

    Errors beyond a limit are not sent. IPv6 refills a client's bucket ten times a second (measured on 6.18; older
    kernels have 1/s, as IPv4). Both families share the overall bucket. It is refilled only when it is empty, and at the
    earliest 20 ms after the last refill (measured). So the rest of one burst and a new burst can follow each other, up
    to a hundred errors. An error costs one from the overall bucket; Linux takes none to two.
    """

    def __init__(self) -> None:
        # A client's bucket is stored as the time at which it will be full again: integers, no drift.
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
