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
    conntrack_checksum: bool = True  #: packets that come in with a wrong checksum are INVALID
    tcp_max_retrans: int = 3  #: repeats of a segment that shorten the timer to ``tcp_timeout_max_retrans_ns`` (CT-4.1)
    tcp_timeout_syn_sent_ns: int = 120 * SECOND_NS
    tcp_timeout_syn_recv_ns: int = 60 * SECOND_NS
    tcp_timeout_established_ns: int = 432_000 * SECOND_NS
    tcp_timeout_fin_wait_ns: int = 120 * SECOND_NS
    tcp_timeout_close_wait_ns: int = 60 * SECOND_NS
    tcp_timeout_last_ack_ns: int = 30 * SECOND_NS
    tcp_timeout_time_wait_ns: int = 120 * SECOND_NS
    tcp_timeout_close_ns: int = 10 * SECOND_NS
    tcp_timeout_unacknowledged_ns: int = 300 * SECOND_NS
    tcp_timeout_max_retrans_ns: int = 300 * SECOND_NS
    udp_timeout_ns: int = 30 * SECOND_NS
    udp_timeout_stream_ns: int = 120 * SECOND_NS
    icmp_timeout_ns: int = 30 * SECOND_NS
    icmpv6_timeout_ns: int = 30 * SECOND_NS
    gre_timeout_ns: int = 30 * SECOND_NS
    gre_timeout_stream_ns: int = 180 * SECOND_NS
    generic_timeout_ns: int = 600 * SECOND_NS
    sctp_timeout_closed_ns: int = 10 * SECOND_NS
    sctp_timeout_cookie_wait_ns: int = 3 * SECOND_NS
    sctp_timeout_cookie_echoed_ns: int = 3 * SECOND_NS
    sctp_timeout_established_ns: int = 210 * SECOND_NS
    sctp_timeout_shutdown_sent_ns: int = 3 * SECOND_NS
    sctp_timeout_shutdown_recd_ns: int = 3 * SECOND_NS
    sctp_timeout_shutdown_ack_sent_ns: int = 3 * SECOND_NS
    sctp_timeout_heartbeat_sent_ns: int = 30 * SECOND_NS
