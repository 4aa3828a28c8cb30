"""kube-proxy's clean-up of stale UDP flows, from events on: when it looks (CT-1) and what it deletes (CT-2)."""

from dataclasses import replace
from typing import Any

import pytest
from proxiers import Rig, endpoint, endpoint_slice, port, service, slice_port

from kpsim.addresses import Family
from kpsim.kubeproxy.stale_flows import UdpFlow
from kpsim.objects import EndpointSlice, Service

CLIENT = "10.180.0.9"
DNS, LOG, WEB = "172.30.10.1", "172.30.10.2", "172.30.10.3"
ONE, TWO, GONE = "10.180.0.3", "10.180.1.4", "10.180.0.99"


def flow(dst: str, dport: int, reply_src: str, reply_sport: int = 5353, protocol: str = "udp") -> UdpFlow:
    return UdpFlow(protocol, CLIENT, 40000, dst, dport, reply_src, reply_sport, CLIENT, 40000)


def dns(**spec: Any) -> Service:
    return service("kube-system/dns", [port(53, "dns", "UDP"), port(53, "dns-tcp", "TCP")], cluster_ip=DNS, **spec)


def dns_slice(*endpoints: Any, version: int = 1) -> EndpointSlice:
    ports = [slice_port(5353, "dns", "UDP"), slice_port(5353, "dns-tcp", "TCP")]
    return endpoint_slice("kube-system/dns", endpoints, ports, version=version)


def log_collector() -> Service:
    return service("shop/log", [port(514, "syslog", "UDP", 30514)], cluster_ip=LOG, type="NodePort")


def log_slice(*endpoints: Any, version: int = 1) -> EndpointSlice:
    return endpoint_slice("shop/log", endpoints, [slice_port(5353, "syslog", "UDP")], version=version)


def rig(*flows: UdpFlow) -> Rig:
    """A DNS Service, a log collector with a node port, and a TCP Service; then flows begin."""
    made = Rig()
    made.apply(
        dns(), dns_slice(ONE, TWO), log_collector(), log_slice(ONE),
        service("shop/web", cluster_ip=WEB), endpoint_slice("shop/web", [ONE, TWO]),
    )  # fmt: skip
    made.sync()
    made.flows = list(flows)
    return made


# --- when it looks ----------------------------------------------------------------------------------------------------


STALE = flow(DNS, 53, GONE)


def test_the_first_sync_looks_if_any_service_has_udp_endpoints() -> None:  # CT-1.2
    made = Rig()
    made.flows = [STALE]
    made.apply(dns(), dns_slice(ONE))
    assert made.sync().conntrack_deleted == (STALE,)


def test_endpoints_of_a_tcp_service_make_nobody_look() -> None:  # CT-1.2
    made = rig(STALE)
    made.apply(endpoint_slice("shop/web", [ONE], version=2))
    assert made.sync().conntrack_deleted == ()


@pytest.mark.parametrize("change", [{"externalIPs": ["203.0.113.77"]}, {"internalTrafficPolicy": "Local"}, None])
def test_a_service_alone_makes_nobody_look(change: dict[str, Any] | None) -> None:  # CT-1.2
    made = rig(STALE, flow("203.0.113.77", 53, "203.0.113.77", 53))
    if change is None:
        made.delete(dns())
    else:
        made.apply(dns(**change))
    assert made.sync().conntrack_deleted == ()


def test_the_end_of_all_slices_makes_it_look() -> None:  # CT-1.3: the ports before count
    other = flow(LOG, 514, GONE)
    made = rig(other, STALE)
    made.delete(dns_slice(ONE, TWO))
    assert made.sync().conntrack_deleted == (other,)  # and the Service without endpoints keeps its flows (CT-2.2)


# --- what goes --------------------------------------------------------------------------------------------------------


def test_all_udp_services_are_looked_at_not_only_the_changed_one() -> None:  # CT-2.1
    stale = [flow(LOG, 514, GONE), flow(DNS, 53, GONE), flow("192.168.0.77", 30514, TWO)]
    made = rig(*stale, flow(LOG, 514, ONE), flow(DNS, 53, TWO))
    made.apply(log_slice(ONE, endpoint(GONE, state="unready"), version=2))
    assert list(made.sync().conntrack_deleted) == stale


@pytest.mark.parametrize("protocol", ["tcp", "sctp", "icmp"])
def test_other_protocols_are_never_touched(protocol: str) -> None:  # CT-2.1
    made = rig(flow(DNS, 53, GONE, protocol=protocol), flow("192.168.0.2", 30514, GONE, protocol=protocol))
    made.apply(dns_slice(ONE, version=2))
    assert made.sync().conntrack_deleted == ()


FRONTENDS = dns(externalIPs=["203.0.113.77"], ingress=["203.0.113.200", {"ip": "203.0.113.201", "ipMode": "Proxy"}])


@pytest.mark.parametrize(
    ("destination", "is_one"),  # CT-2.2; an ingress that is a proxy is no VIP
    [
        ((DNS, 53), True), (("203.0.113.77", 53), True), (("203.0.113.200", 53), True), (("203.0.113.201", 53), False),
        ((DNS, 54), False), ((LOG, 53), False), ((WEB, 80), False), (("192.168.0.2", 53), False),
    ],
)  # fmt: skip
def test_which_frontends_count(destination: tuple[str, int], is_one: bool) -> None:
    stale = flow(*destination, GONE)
    made = rig(stale)
    made.apply(FRONTENDS, dns_slice(ONE, version=2))
    assert made.sync().conntrack_deleted == ((stale,) if is_one else ())


@pytest.mark.parametrize("destination", ["192.168.0.2", "192.168.0.3", "127.0.0.1", "198.51.100.250", "10.180.0.77"])
def test_a_node_port_counts_at_any_address(destination: str) -> None:  # CT-2.3.2: even of flows that only pass through
    elsewhere = flow(destination, 30514, destination, 30514)
    made = rig(elsewhere, flow(destination, 30514, ONE), flow(destination, 30515, destination, 30515))
    made.apply(dns_slice(ONE, version=2))
    assert made.sync().conntrack_deleted == (elsewhere,)


def test_a_frontend_whose_port_is_anothers_node_port_has_to_satisfy_both() -> None:  # CT-2.3: F or the node port
    made = rig()
    odd = service("shop/odd", [port(30514, "odd", "UDP")], cluster_ip="172.30.10.4")
    made.apply(odd, endpoint_slice("shop/odd", [TWO], [slice_port(5353, "odd", "UDP")]))
    made.sync()
    to_its_own, to_the_other = flow("172.30.10.4", 30514, TWO), flow("172.30.10.4", 30514, ONE)
    made.flows = [to_its_own, to_the_other]
    made.apply(dns_slice(ONE, version=2))
    assert made.sync().conntrack_deleted == (to_its_own, to_the_other)


@pytest.mark.parametrize(
    ("state", "kept"),  # CT-2.2, CT-2.3.4: serving is all that counts, and unset is serving
    [("ready", True), ("serving-terminating", True), ("unset", True), ("terminating", False), ("unready", False)],
)
def test_serving_endpoints_keep_their_flows(state: str, kept: bool) -> None:
    found = flow(DNS, 53, TWO)
    made = rig(found)
    made.apply(dns_slice(ONE, endpoint(TWO, state=state), version=2))
    assert made.sync().conntrack_deleted == (() if kept else (found,))


@pytest.mark.parametrize("policy", [{"internalTrafficPolicy": "Local"}, {"trafficDistribution": "PreferSameNode"}, {}])
def test_policies_and_places_are_ignored(policy: dict[str, Any]) -> None:  # CT-2.2
    remote = flow(DNS, 53, TWO)
    made = rig(remote)
    made.apply(dns(**policy), dns_slice(ONE, endpoint(TWO, "node-2", nodes=["node-2"]), version=2))
    assert made.sync().conntrack_deleted == ()


def test_a_service_without_serving_endpoints_keeps_its_flows() -> None:  # CT-2.2
    kept = flow(LOG, 514, GONE), flow("192.168.0.2", 30514, GONE)
    made = rig(*kept, STALE)
    made.apply(log_slice(endpoint(ONE, state="unready"), version=2))
    assert made.sync().conntrack_deleted == (STALE,)


def test_a_flow_from_before_the_service_goes() -> None:  # CT-2.3.1: no rule translated it
    early = flow(DNS, 53, DNS, 53)
    made = rig(early)
    made.apply(dns_slice(ONE, version=2))
    assert made.sync().conntrack_deleted == (early,)


def test_an_endpoint_that_changed_its_port_loses_its_old_flows() -> None:  # CT-2.3.3
    old, new = flow(DNS, 53, ONE), flow(DNS, 53, ONE, 5454)
    made = rig(old, new)
    moved = dns_slice(ONE, version=2)
    made.apply(replace(moved, ports=(replace(moved.ports[0], port=5454), *moved.ports[1:])))
    assert made.sync().conntrack_deleted == (old,)


def test_a_masqueraded_flow_is_known_by_where_its_answers_come_from() -> None:  # CT-2.3
    kept = flow(DNS, 53, TWO)._replace(reply_dst="192.168.0.2", reply_dport=61000)
    made = rig(kept, kept._replace(reply_src=GONE))
    made.apply(dns_slice(TWO, version=2))
    assert made.sync().conntrack_deleted == (kept._replace(reply_src=GONE),)


@pytest.mark.parametrize("family", Family)
def test_each_family_cleans_up_its_own_flows(family: Family) -> None:  # CT-2.1
    made = Rig(family=family)
    both = {"ipFamilies": ["IPv4", "IPv6"], "clusterIPs": [DNS, "fd00:172:30::1"]}
    ports = [slice_port(5353, "dns", "UDP")]
    made.apply(
        dns(**both),
        endpoint_slice("kube-system/dns", [ONE], ports, name="dns-4"),
        endpoint_slice("kube-system/dns", ["fd00:180::3"], ports, name="dns-6", family="IPv6"),
    )
    six = UdpFlow("udp", "fd00:180::9", 40000, "fd00:172:30::1", 53, "fd00:180::63", 5353, "fd00:180::9", 40000)
    made.flows = [STALE, six, six._replace(reply_src="fd00:180::3")]
    assert made.sync().conntrack_deleted == ((STALE,) if family is Family.IPV4 else (six,))
