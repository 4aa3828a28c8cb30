"""Known differences between iptables and nftables mode (NFT-12)."""

from kpsim.comparison.behaviour.circumstances import (
    Reason,
    Why,
    hairpins,
    host_policy,
    only_exchanges_differ,
    only_source_ports_differ,
    pings,
)
from kpsim.tracing.probes import ProbeResult

REASONS = (
    Reason(
        Why("localhost-node-port", "nftables has no localhost node ports", "NFT-12.4"),
        lambda at: at.is_frontend("localhost node port"),
    ),
    Reason(
        Why("route-localnet", "only iptables mode lets addresses of 127.0.0.0/8 through (route_localnet)", "K-7.1"),
        lambda at: at.is_loopback(at.difference.box.source) or at.is_loopback(at.difference.box.destination),
    ),
    Reason(
        Why("host-firewall", "only iptables accepts Services' packets that the host's own policy drops", "NFT-12.2"),
        host_policy,
    ),
    Reason(
        Why("node-port-address", "nftables serves node ports at the primary addresses of a node, iptables at all", "NFT-12.1"),
        lambda at: at.is_frontend("node port") and ProbeResult.PASSED in at.results,
    ),
    Reason(
        Why("ping", "nftables rejects pings of a cluster IP, which nobody answers in iptables mode", "NFT-12.7"),
        lambda at: pings(at) and at.is_frontend("cluster IP"),
    ),
    Reason(
        Why("undefined-port", "nftables rejects ports of a cluster IP that its Service does not have", "NFT-12.5"),
        lambda at: at.frontend is not None and at.frontend.port is None and at.is_frontend("cluster IP"),
    ),
    Reason(
        Why("unallocated-address", "nftables drops packets to cluster IPs that no Service has", "NFT-12.6"),
        lambda at: at.frontend is None and at.in_service_network and ProbeResult.DROPPED in at.results,
    ),
    Reason(
        Why("source-ranges", "nftables checks source ranges before it translates, iptables after it", "NFT-12.11"),
        lambda at: at.is_frontend("load balancer IP") and not pings(at) and ProbeResult.DROPPED in at.results,
    ),
    Reason(
        Why("source-port", "nftables always draws the source port of what it masquerades, iptables if it has --random-fully", "I-5"),
        only_source_ports_differ,
    ),
    Reason(
        Why("hairpin", "nftables masquerades what an endpoint sends to itself only on the endpoint's own node", "NFT-6.5"),
        hairpins,
    ),
    Reason(
        Why("invalid", "only iptables drops packets that connection tracking finds invalid", "NFT-12.3"),
        only_exchanges_differ,
    ),
)  # fmt: skip
