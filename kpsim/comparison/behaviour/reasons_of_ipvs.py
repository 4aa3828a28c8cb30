"""Known differences between ipvs mode and the two others (IPVS-15, IPVS-17, MODE-2)."""

from collections.abc import Iterable

from kpsim.comparison.behaviour.circumstances import (
    Circumstances,
    Reason,
    Why,
    hairpins,
    host_policy,
    only_exchanges_differ,
    only_source_ports_differ,
    pings,
)
from kpsim.comparison.behaviour.fates import endpoints
from kpsim.comparison.behaviour.spaces import meet
from kpsim.comparison.behaviour.unbound import UNBOUND
from kpsim.exchange import Verdict
from kpsim.tracing.probes import ProbeResult
from kpsim.tracing.site import Sender

_ADDRESSES = ("cluster IP", "external IP", "load balancer IP")
_EXTERNAL = ("external IP", "load balancer IP", "node port")


def _is_address(at: Circumstances) -> bool:
    return at.is_frontend(*_ADDRESSES)


def _other_port(at: Circumstances) -> bool:
    """Whether an address of a Service is dialled at a port that the Service does not have."""
    return _is_address(at) and at.frontend is not None and at.frontend.port is None and not pings(at)


def _is_local(at: Circumstances) -> bool:
    """Whether the policy of the Service for what is dialled is Local."""
    if at.service is None:
        return False
    outside = at.is_frontend(*_EXTERNAL)
    policy = at.service.external_traffic_policy if outside else at.service.internal_traffic_policy
    return policy == "Local"


def _bound_by_routing(at: Circumstances) -> bool:
    return at.difference.box.sender is Sender.NODE and at.difference.box.source == UNBOUND


def _falls_back(at: Circumstances) -> bool:
    """Whether ip_vs sends to remote endpoints what the other mode drops."""
    ipvs, other = at.fates
    return _is_local(at) and ipvs.result is ProbeResult.DELIVERED and other.result is ProbeResult.DROPPED


def _other_endpoints(at: Circumstances) -> bool:
    ipvs, other = map(endpoints, at.fates)
    return bool(ipvs and other) and ipvs.keys() != other.keys()


def _other_odds(at: Circumstances) -> bool:
    ipvs, other = map(endpoints, at.fates)
    return bool(ipvs and other) and ipvs != other


def _other_listeners(at: Circumstances) -> bool:
    """Whether a process of the node takes the packet on one side only."""
    both = {verdict for fate in at.fates for verdict, _ in fate.exchange}
    results_alike = at.results == {ProbeResult.PASSED}
    return at.frontend is None and results_alike and both == {Verdict.WORKS, Verdict.REFUSED} and not pings(at)


def _sends_to_itself(at: Circumstances) -> bool:
    """Whether packets are addressed to their own sender, past all Services."""
    box = at.difference.box
    return at.frontend is None and bool(meet(box.source, box.destination))


def _only_masquerade_differs(at: Circumstances) -> bool:
    ipvs, other = at.fates
    return ipvs.result is other.result is ProbeResult.DELIVERED and endpoints(ipvs) == endpoints(other)


def _reasons(other: str, own: Iterable[Reason]) -> tuple[Reason, ...]:
    """The rows against another mode. ``own`` are those of that mode alone."""
    return (
        *own,
        Reason(
            Why(
                "health-check-node-port",
                "in ipvs mode the health check node ports of Services answer at every Service's address",
                "IPVS-8.4",
            ),
            lambda at: _other_port(at) and at.fates[0].result is ProbeResult.PASSED,
        ),
        Reason(
            Why("hairpin", "ipvs mode masquerades what an endpoint sends to its own address and port, past all Services, too", "IPVS-8.4"),
            _sends_to_itself,
        ),
        Reason(
            Why("source-port", "ipvs mode keeps the source port of what an endpoint sends to itself", "IPVS-8.4"),
            lambda at: only_source_ports_differ(at) and hairpins(at),
        ),
        Reason(
            Why("source-port", "the modes do not draw source ports in the same cases", "IPVS-8.4"),
            only_source_ports_differ,
        ),
        Reason(
            Why(
                "node-source",
                "in ipvs mode a process of the node sends to a Service's address from that address",
                "IPVS-3.5",
            ),
            lambda at: _bound_by_routing(at) and at.fates[0].result is at.fates[1].result and not _other_odds(at),
        ),
        Reason(
            Why(
                "service-source",
                "in ipvs mode Services' addresses are the node's own: what comes in from one of them is no client's",
                "IPVS-3.5",
            ),
            lambda at: at.from_services,
        ),
        Reason(
            Why(
                "host-firewall",
                f"ipvs mode takes packets of Services through INPUT and OUTPUT of the host's firewall, {other} mode through "
                "FORWARD",
                "IPVS-10.2",
            ),
            host_policy,
        ),
        Reason(
            Why(
                "node-port-address",
                f"ipvs mode serves node ports at the addresses that kube-proxy knows of the node, {other} mode at all that it has",
                "IPVS-4.2",
            ),
            lambda at: at.is_frontend("node port") and at.fates[0].result is ProbeResult.PASSED,
        ),
        Reason(
            Why("ping", "ipvs mode rejects pings of every address of a Service", "IPVS-15"),
            lambda at: pings(at) and _is_address(at),
        ),
        Reason(
            Why("undefined-port", "ipvs mode rejects ports of an address of a Service that the Service does not have", "IPVS-15"),
            _other_port,
        ),
        Reason(
            Why("source-ranges", "ipvs mode checks source ranges where packets come to the node itself: INPUT and OUTPUT", "IPVS-8.4"),
            lambda at: at.is_frontend("load balancer IP") and at.service is not None
            and bool(at.service.load_balancer_source_ranges) and ProbeResult.DROPPED in at.results,
        ),
        Reason(
            Why("local-fallback", f"where the policy Local finds no endpoint, ipvs mode takes all endpoints, and {other} mode drops", "IPVS-5.1"),
            _falls_back,
        ),
        Reason(
            Why(
                "short-circuit",
                f"with externalTrafficPolicy Local, pods and the node get the same endpoints as others in ipvs mode, and all "
                f"endpoints in {other} mode",
                "IPVS-5.2",
            ),
            lambda at: _is_local(at) and at.is_frontend(*_EXTERNAL) and (_other_endpoints(at) or at.difference.box.sender is not Sender.EXTERNAL)
            and at.fates[1].result is ProbeResult.DELIVERED,
        ),
        Reason(
            Why("no-endpoints", f"without a usable endpoint ip_vs refuses, also where {other} mode drops", "IPVS-11.5"),
            lambda at: at.fates[0].result is ProbeResult.REJECTED
            and at.fates[1].result in (ProbeResult.REJECTED, ProbeResult.DROPPED),
        ),
        Reason(
            Why("scheduler", "the scheduler of ip_vs does not give every endpoint the same chance", "IPVS-14"),
            lambda at: _other_odds(at) or len(at.fates[0].exchange) > 1,  # some clients are refused (IPVS-14)
        ),
        Reason(
            Why("masquerade", "ipvs mode decides by sets of addresses and ports what it masquerades", "IPVS-8.7"),
            _only_masquerade_differs,
        ),
    )  # fmt: skip


AGAINST_IPTABLES = _reasons("iptables", (
    Reason(
        Why("localhost-node-port", "ipvs mode has no localhost node ports", "IPVS-15"),
        lambda at: at.is_frontend("localhost node port"),
    ),
    Reason(
        Why("route-localnet", "only iptables mode lets addresses of 127.0.0.0/8 through (route_localnet)", "K-7.1"),
        lambda at: at.is_loopback(at.difference.box.source) or at.is_loopback(at.difference.box.destination),
    ),
    Reason(
        Why("invalid", "only iptables mode drops packets that connection tracking finds invalid", "IPVS-8.4"),
        lambda at: at.frontend is None and only_exchanges_differ(at),
    ),
))  # fmt: skip
AGAINST_NFTABLES = _reasons("nftables", (
    Reason(
        Why("node-port-address", "nftables mode serves node ports at the primary addresses of a node, ipvs mode at all but loopback", "IPVS-17"),
        lambda at: at.is_frontend("node port") and at.fates[1].result is ProbeResult.PASSED,
    ),
    Reason(
        Why("health-check-node-port", "health check node ports listen at the addresses that node ports are served at", "CP-15"),
        _other_listeners,
    ),
    Reason(
        Why("unallocated-address", "nftables mode drops packets to cluster IPs that no Service has", "NFT-12.6"),
        lambda at: at.frontend is None and at.in_service_network and ProbeResult.DROPPED in at.results,
    ),
))  # fmt: skip
