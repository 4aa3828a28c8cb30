"""Addresses and routes of a node (K-1.6, K-2.1, K-2.2, K-7.4)."""

import pytest
from packets import CLIENT, NODE, OTHER_NODE, POD, REMOTE_POD, ip, net, node

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.packetpath.routing import Address, Interface, InterfaceKind, Route, RouteKind, Routing

V4, V6 = Family.IPV4, Family.IPV6


def interface(name: str, *addresses: str, kind: InterfaceKind = InterfaceKind.LINK) -> Interface:
    return Interface(name, tuple(map(Address.parse, addresses)), kind)


def routing(*extra: Route) -> Routing:
    return Routing(
        [
            interface("lo", "127.0.0.1/8", "::1/128", kind=InterfaceKind.LOOPBACK),
            interface("eth0", "192.168.0.1/24", "192.168.5.1/24", "2001:db8::1/64"),
            interface("cni0", "10.180.0.1/24", "fd00:180::1/64", kind=InterfaceKind.BRIDGE),
            interface("kube-ipvs0", "172.30.0.10/32", kind=InterfaceKind.DUMMY),
        ],
        [
            Route(net("0.0.0.0/0"), "eth0", ip("192.168.0.254")),
            Route(net("::/0"), "eth0", ip("2001:db8::ff")),
            Route(net("10.180.1.0/24"), "eth0", ip(OTHER_NODE)),
            *extra,
        ],
    )


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        (NODE, "LOCAL"), ("192.168.5.1", "LOCAL"), ("10.180.0.1", "LOCAL"), ("127.3.2.1", "LOCAL"), ("172.30.0.10", "LOCAL"),
        (POD, "UNICAST"), (CLIENT, "UNICAST"), ("192.168.0.255", "BROADCAST"), ("255.255.255.255", "BROADCAST"),
        ("0.0.0.0", "BROADCAST"), ("224.0.0.1", "MULTICAST"), ("10.9.0.1", "UNICAST"), ("10.8.0.1", "UNICAST"),
    ],
)  # fmt: skip
def test_address_types_follow_the_local_table_only(address, kind):  # K-7.4: behind blackhole and unreachable: UNICAST
    blocked = routing(
        Route(net("10.9.0.0/24"), kind=RouteKind.BLACKHOLE), Route(net("10.8.0.0/24"), kind=RouteKind.UNREACHABLE)
    )  # fmt: skip
    assert blocked.address_type(V4, ip(address)) == kind


@pytest.mark.parametrize(("address", "kind"), [("::1", "LOCAL"), ("fd00:180::1", "LOCAL"), ("ff02::1", "MULTICAST")])
def test_ipv6_address_types(address, kind):
    assert routing().address_type(V6, ip(address)) == kind


@pytest.mark.parametrize(
    ("destination", "kind", "interface_name", "next_hop"),
    [
        (POD, "unicast", "cni0", POD),
        (REMOTE_POD, "unicast", "eth0", OTHER_NODE),
        ("192.168.5.77", "unicast", "eth0", "192.168.5.77"),
        (CLIENT, "unicast", "eth0", "192.168.0.254"),
        (NODE, "local", "lo", NODE),
        ("127.0.0.1", "local", "lo", "127.0.0.1"),
    ],
)
def test_longest_prefix_first(destination, kind, interface_name, next_hop):
    decision = routing().lookup(V4, ip(destination))
    assert decision is not None
    assert (decision.kind, decision.interface, decision.next_hop) == (kind, interface_name, ip(next_hop))


def test_the_lower_metric_wins_among_equal_prefixes():
    worse = Route(net("10.7.0.0/16"), "eth0", ip("192.168.0.7"), metric=100)
    better = Route(net("10.7.0.0/16"), "cni0", metric=10)
    decision = routing(worse, better).lookup(V4, ip("10.7.0.1"))
    assert decision is not None and decision.interface == "cni0"


def test_without_a_route_there_is_no_decision():
    lonely = Routing([interface("eth0", "192.168.0.1/24")])
    assert lonely.lookup(V4, ip(CLIENT)) is None
    assert lonely.source_for(V4, ip(CLIENT)) is None


@pytest.mark.parametrize(
    ("destination", "source"),
    [
        (CLIENT, NODE), ("192.168.5.9", "192.168.5.1"), (POD, "10.180.0.1"), (REMOTE_POD, NODE), (NODE, NODE),
        ("127.0.0.1", "127.0.0.1"), ("172.30.0.99", NODE), ("172.30.0.10", "172.30.0.10"),
    ],
)  # fmt: skip
def test_source_of_a_local_process(destination, source):  # K-2.1
    assert routing().source_for(V4, ip(destination)) == ip(source)


def test_a_routes_preferred_source_is_for_processes_not_for_masquerading():  # K-2.2
    preferred = Route(net("10.7.0.0/16"), "eth0", ip("192.168.0.254"), source=ip("192.168.5.1"))
    node_routing = routing(preferred)
    assert node_routing.source_for(V4, ip("10.7.0.1")) == ip("192.168.5.1")
    assert node_routing.masquerade_address(V4, "eth0", ip("192.168.0.254"), ip("10.7.0.1")) == ip(NODE)


@pytest.mark.parametrize(
    ("next_hop", "address"), [("192.168.5.9", "192.168.5.1"), ("192.168.0.9", NODE), ("1.2.3.4", NODE)]
)
def test_masquerading_prefers_the_next_hops_subnet(next_hop, address):  # K-2.2
    assert routing().masquerade_address(V4, "eth0", ip(next_hop), ip(CLIENT)) == ip(address)


def test_a_device_without_address_borrows_from_lo_then_from_the_first_device():  # K-2.2
    tunnel, eth0 = interface("tun0"), interface("eth0", "192.168.0.1/24")
    lo = interface("lo", "127.0.0.1/8", kind=InterfaceKind.LOOPBACK)
    lo_global = interface("lo", "127.0.0.1/8", "10.0.0.9/32", kind=InterfaceKind.LOOPBACK)
    assert Routing([lo, eth0, tunnel]).masquerade_address(V4, "tun0", ip(POD), ip(POD)) == ip(NODE)
    assert Routing([eth0, tunnel, lo_global]).masquerade_address(V4, "tun0", ip(POD), ip(POD)) == ip("10.0.0.9")
    assert Routing([lo, tunnel]).masquerade_address(V4, "tun0", ip(POD), ip(POD)) is None


@pytest.mark.parametrize(
    ("uplink", "address"),  # measured with ip6tables MASQUERADE towards fd00:180::5
    [
        (("2001:db8:5::1/64",), "2001:db8:5::1"),
        (("2001:db8:5::1/64", "fd00:55::1/64"), "fd00:55::1"),
        ((), "fd00:99::1"),
    ],
)
def test_ipv6_masquerading_selects_by_destination(uplink, address):  # K-2.2
    machine = Routing(
        [
            interface("rc", "2001:db8:9::1/64"),
            interface("rs", "fe80::1/64", *uplink),
            interface("br0", "fd00:99::1/64", kind=InterfaceKind.BRIDGE),
        ]
    )
    assert machine.masquerade_address(V6, "rs", ip("fe80::2"), ip("fd00:180::5")) == ip(address)


def test_an_interface_that_is_down_loses_its_routes_and_keeps_its_ipv4_addresses_local():  # measured
    down = routing().without("cni0")
    decision = down.lookup(V4, ip(POD))
    assert decision is not None and decision.interface == "eth0"
    assert down.is_local(V4, ip("10.180.0.1"))
    assert not down.is_local(V6, ip("fd00:180::1"))


def test_an_address_that_is_removed_takes_its_network_along():
    changed = routing().without_address("eth0", Address.parse("192.168.5.1/24"))
    decision = changed.lookup(V4, ip("192.168.5.9"))
    assert decision is not None and decision.next_hop == ip("192.168.0.254")
    assert not changed.is_local(V4, ip("192.168.5.1")) and changed.is_local(V4, ip("192.168.0.1"))


def test_with_its_last_ipv4_address_an_interface_loses_its_ipv4_routes():  # measured
    changed = routing()
    for text in ("192.168.0.1/24", "192.168.5.1/24"):
        changed = changed.without_address("eth0", Address.parse(text))
    assert changed.lookup(V4, ip(CLIENT)) is None and changed.lookup(V4, ip(REMOTE_POD)) is None
    assert changed.lookup(V4, ip(POD)) is not None
    without_ipv6 = changed.without_address("eth0", Address.parse("2001:db8::1/64"))
    assert without_ipv6.lookup(V6, ip("2001:db8:9::9")) is not None  # IPv6 routes stay


def test_a_route_through_no_interface_is_refused():
    with pytest.raises(InputError, match="no such interface"):
        Routing([], [Route(net("0.0.0.0/0"), "eth0")])


def test_a_plain_node():
    made = node().routing
    assert made.is_local(V4, ip("10.180.0.1"))
    peer, outside = made.lookup(V4, ip(REMOTE_POD)), made.lookup(V4, ip(CLIENT))
    assert peer is not None and (peer.interface, peer.next_hop) == ("eth0", ip(OTHER_NODE))
    assert outside is not None and (outside.interface, outside.next_hop) == ("eth0", ip(CLIENT))
