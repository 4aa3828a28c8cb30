"""The kernel settings of a node that decide what becomes of a packet. Counterpart: /proc/sys/net.

kube-proxy changes some of them at start (route_localnet, the conntrack ones). Knows nothing of who reads them.
"""

from dataclasses import dataclass

from kpsim.units import SECOND_NS


@dataclass(frozen=True, slots=True)
class Sysctls:
    """Defaults are the kernel's own (K-6.2, CT-4.1, CT-5), not kube-proxy's."""

    route_localnet: bool = False  #: 127/8 may be routed (K-7.1)
    accept_local: bool = False  #: a source that is one of the node's own addresses may arrive from outside (K-7.3)
    rp_filter: int = 0  #: max(all, device): 0 off, 1 strict, 2 loose (K-7.3)
    bridge_nf_call_iptables: bool = True  #: packets that a bridge switches pass netfilter too (K-2.6)
    tcp_be_liberal: bool = False
    tcp_loose: bool = True
    nf_conntrack_max: int = 262_144  #: 0: no limit
    nf_conntrack_buckets: int = 262_144  #: of the table's hash: decide how early drop fares (CT-7.2)
    tcp_timeout_established_ns: int = 432_000 * SECOND_NS
    tcp_timeout_close_wait_ns: int = 60 * SECOND_NS
    tcp_timeout_unacknowledged_ns: int = 300 * SECOND_NS
    udp_timeout_ns: int = 30 * SECOND_NS
    udp_timeout_stream_ns: int = 120 * SECOND_NS
