"""The UDP flows that a sync deletes: CT-2 and its test vector (CT-2.5)."""

from dataclasses import replace

import pytest
from proxiers import NODE, START_NS, endpoint, endpoint_slice, port, service, slice_port

from kpsim.addresses import Family
from kpsim.kubeproxy.service_maps import ServiceMaps
from kpsim.kubeproxy.stale_flows import CleanUp, UdpFlow, UdpFrontends
from kpsim.kubeproxy.trackers import EndpointsChangeTracker, ServiceChangeTracker

CLIENT = "10.240.9.9"
VIPS = ("172.30.1.1", "1.2.3.4", "192.168.99.100")
SERVING, NOT_SERVING, GONE = "10.240.0.4", "10.240.1.5", "10.240.2.6"


def flow(dst: str, dport: int, reply_src: str, reply_sport: int = 9090, protocol: str = "udp") -> UdpFlow:
    return UdpFlow(protocol, CLIENT, 40000, dst, dport, reply_src, reply_sport, CLIENT, 40000)


class Cluster:
    """One Service with a TCP, UDP and SCTP port, as in CT-2.5."""

    def __init__(self, *, serving: bool = True, external_ips: bool = True) -> None:
        self.maps = ServiceMaps(NODE)
        self.frontends = UdpFrontends(Family.IPV4)
        self.external_ips = external_ips
        self.services = ServiceChangeTracker(Family.IPV4)
        self.slices = EndpointsChangeTracker(Family.IPV4, START_NS)
        ports = [port(8000, p.lower(), p, 32000 if p != "TCP" else 0) for p in ("TCP", "UDP", "SCTP")]
        self.service = service("test/x", ports, cluster_ip=VIPS[0], ingress=[VIPS[1]], externalIPs=[VIPS[2]])
        self.services.update(None, self.service)
        endpoints = [endpoint(NOT_SERVING, None, "unready")]
        if serving:
            endpoints.append(endpoint(SERVING, "node-2", "serving-terminating"))  # wherever it is, ready or not
        slice_ports = [slice_port(9090, p.lower(), p) for p in ("TCP", "UDP", "SCTP")]
        self.slices.update(endpoint_slice("test/x", endpoints, slice_ports), removed=False)
        self.take_over()

    def take_over(self) -> None:
        changes, _ = self.maps.apply(self.services, self.slices)
        for change in changes.values():
            self.frontends.update((*change.previous, *change.current), self.maps, self.external_ips)

    def deleted(self, *flows: UdpFlow) -> list[UdpFlow]:
        return self.frontends.stale(flows, self.maps)


@pytest.mark.parametrize("dst", [*((vip, 8000) for vip in VIPS), ("192.168.0.2", 32000), ("198.51.100.77", 32000)])
@pytest.mark.parametrize("reply", [(NOT_SERVING, 9090), (GONE, 9090), (SERVING, 8080), None])
def test_flows_that_go(dst: tuple[str, int], reply: tuple[str, int] | None) -> None:  # None: never DNATed (CT-2.3.1)
    found = flow(*dst, *(reply or dst))
    assert Cluster().deleted(found) == [found]


@pytest.mark.parametrize(
    "kept",
    [
        *(flow(vip, 8000, GONE, protocol=protocol) for vip in VIPS for protocol in ("tcp", "sctp")),
        *(flow(vip, 3000, GONE) for vip in VIPS),
        *(flow(vip, 8000, SERVING) for vip in VIPS),
        flow("192.168.0.2", 32000, SERVING),
        flow("192.168.0.2", 8000, GONE),  # the port of another address
    ],
)
def test_flows_that_stay(kept: UdpFlow) -> None:
    assert Cluster().deleted(kept) == []


def test_without_any_serving_endpoint_nothing_goes() -> None:  # CT-2.2
    cluster = Cluster(serving=False)
    assert cluster.deleted(*(flow(vip, 8000, GONE) for vip in VIPS), flow("192.168.0.2", 32000, GONE)) == []


def test_external_ips_are_no_frontends_when_their_gate_is_off() -> None:  # O-5.6
    cluster = Cluster(external_ips=False)
    to_external, to_vip = flow(VIPS[2], 8000, GONE), flow(VIPS[1], 8000, GONE)
    assert cluster.deleted(to_external, to_vip) == [to_vip]


def test_entries_of_the_other_family_are_not_looked_at() -> None:  # O-12.4
    other = UdpFlow("udp", "fd00::9", 1, "2001:db8::2", 32000, "fd00::7", 9090, "fd00::9", 1)
    assert Cluster().deleted(other) == []


def test_frontends_follow_their_service() -> None:
    cluster = Cluster()
    moved = replace(cluster.service, cluster_ip="172.30.1.2", ports=cluster.service.ports[1:2])
    cluster.services.update(cluster.service, moved)
    cluster.take_over()
    old, new = flow(VIPS[0], 8000, GONE), flow("172.30.1.2", 8000, GONE)
    assert cluster.deleted(old, new) == [new]
    cluster.services.update(moved, None)
    cluster.take_over()
    assert cluster.deleted(old, new, flow("192.168.0.2", 32000, GONE)) == []


def test_an_address_may_be_there_several_times() -> None:
    cluster = Cluster()
    doubled = replace(cluster.service, external_ips=(VIPS[1], VIPS[1], VIPS[0]))  # also VIP and cluster IP
    cluster.services.update(cluster.service, doubled)
    cluster.take_over()
    gone = flow(VIPS[1], 8000, GONE)
    assert cluster.deleted(gone) == [gone]
    cluster.services.update(doubled, None)
    cluster.take_over()
    assert cluster.deleted(gone) == []


def test_ipv6_flows_are_compared_with_brackets() -> None:
    maps, frontends = ServiceMaps(NODE), UdpFrontends(Family.IPV6)
    services = ServiceChangeTracker(Family.IPV6)
    slices = EndpointsChangeTracker(Family.IPV6, START_NS)
    services.update(None, service("test/x", [port(53, "dns", "UDP")], cluster_ip="fd00:172::1"))
    ports = [slice_port(5353, "dns", "UDP")]
    slices.update(endpoint_slice("test/x", ["fd00:180::3"], ports, family="IPv6"), removed=False)
    changes, _ = maps.apply(services, slices)
    frontends.update((name for change in changes.values() for name in change.current), maps, True)
    kept, gone = (
        UdpFlow("udp", "fd00::9", 1, "fd00:172::1", 53, ip, 5353, "fd00::9", 1) for ip in ("fd00:180::3", "fd00:180::4")
    )
    assert frontends.stale([kept, gone], maps) == [gone]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (flow(VIPS[0], 8000, SERVING, protocol="tcp"), CleanUp.NOT_ITS_PROTOCOL),  # CT-2.1
        (flow(VIPS[0], 3000, GONE), CleanUp.NO_SERVICE),  # no frontend
        (flow(VIPS[0], 8000, SERVING), CleanUp.STILL_SERVES),  # CT-2.3.4
        (flow(VIPS[0], 8000, GONE), CleanUp.NOT_RUN),  # it would go
        (flow("198.51.100.77", 32000, GONE), CleanUp.NOT_RUN),  # a node port counts whatever the address (CT-2.3.2)
    ],
)
def test_why_a_flow_stays(found: UdpFlow, reason: CleanUp) -> None:
    cluster = Cluster()
    assert cluster.frontends.why_left(found, cluster.maps) is reason


def test_a_service_without_serving_endpoint_is_passed_over() -> None:
    cluster = Cluster(serving=False)
    assert cluster.frontends.why_left(flow(VIPS[0], 8000, GONE), cluster.maps) is CleanUp.NOT_SERVING  # CT-2.2
