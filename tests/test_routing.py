"""Addresses and routes of a node (K-1.6, K-2.1, K-2.2, K-7.4)."""

import pytest
from packets import CLIENT, NODE, OTHER_NODE, POD, REMOTE_POD, ip, net, node

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.maps import Map
from kpsim.packetpath.routing import AddressType, Interface, InterfaceKind, OwnAddress, Route, RouteKind, Routing

V4, V6 = Family.IPV4, Family.IPV6


def interface(name: str, *addresses: str, kind: InterfaceKind = InterfaceKind.LINK) -> Interface:
    return Interface(name, tuple(map(OwnAddress.parse, addresses)), kind)


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
    changed = routing().without_address("eth0", OwnAddress.parse("192.168.5.1/24"))
    decision = changed.lookup(V4, ip("192.168.5.9"))
    assert decision is not None and decision.next_hop == ip("192.168.0.254")
    assert not changed.is_local(V4, ip("192.168.5.1")) and changed.is_local(V4, ip("192.168.0.1"))


def test_with_its_last_ipv4_address_an_interface_loses_its_ipv4_routes():  # measured
    changed = routing()
    for text in ("192.168.0.1/24", "192.168.5.1/24"):
        changed = changed.without_address("eth0", OwnAddress.parse(text))
    assert changed.lookup(V4, ip(CLIENT)) is None and changed.lookup(V4, ip(REMOTE_POD)) is None
    assert changed.lookup(V4, ip(POD)) is not None
    without_ipv6 = changed.without_address("eth0", OwnAddress.parse("2001:db8::1/64"))
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


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("192.168.7.3", "BROADCAST"), ("192.168.8.1", "UNICAST"), ("192.168.9.9", "LOCAL"), ("192.168.9.10", "UNICAST"),
        ("0.1.2.3", "UNICAST"), ("0.0.0.0", "BROADCAST"), ("1.0.0.1", "UNICAST"), ("239.255.255.255", "MULTICAST"), ("240.0.0.1", "UNICAST"),
    ],
)  # fmt: skip
def test_networks_of_two_and_of_one_have_no_broadcast(address, kind):
    """RFC 3021: a /31 has two hosts; K-7.3: of 0/8 only 0.0.0.0 is special; K-7.4."""
    point = Routing([interface("eth0", "192.168.9.9/32", "192.168.7.1/30", "192.168.8.0/31")])
    assert point.address_type(V4, ip(address)) == kind
    beside = point.lookup(V4, ip("192.168.7.2"))  # a host address before others of the interface hides no network
    assert beside is not None and beside.interface == "eth0"


@pytest.mark.parametrize(
    ("address", "kind"),
    [("2001:db8::ffff:ffff:ffff:ffff", "UNICAST"), ("::5", "UNICAST"), ("::2", "UNICAST"), ("::7f00:5", "UNICAST"),
     ("::ffff:ffff", "UNICAST"), ("ff00::", "MULTICAST"), ("fe80::9", "UNICAST")],
)  # fmt: skip
def test_ipv6_knows_no_broadcast_and_one_loopback_address(address, kind):
    assert routing().address_type(V6, ip(address)) == kind


def test_over_lo_nobody_borrows_127():
    """K-2.2: 127.0.0.1 has host scope, also for a masquerade over lo; so does ::1."""
    assert routing().masquerade_address(V4, "lo", ip(NODE), ip(NODE)) == ip(NODE)
    bare = Routing([interface("lo", "127.0.0.1/8", "::1/128", kind=InterfaceKind.LOOPBACK), interface("tun0")])
    assert bare.masquerade_address(V4, "lo", ip(NODE), ip(NODE)) is None
    assert bare.masquerade_address(V6, "tun0", ip("2001:db8::2"), ip("2001:db8::2")) is None


@pytest.mark.parametrize("swapped", [False, True])
def test_ipv6_prefers_itself_then_the_longest_common_prefix(swapped):
    """K-2.2, RFC 6724 rules 1 and 8; whatever the order of the addresses."""
    own = ["2001:db8:1::1/48", "2001:db8:2::1/48"]
    machine = Routing([interface("eth0", *(reversed(own) if swapped else own)), interface("br0", "2001:db8:2:5::1/64")])
    for destination, source in (
        ("2001:db8:2::9", "2001:db8:2::1"),
        ("2001:db8:1::9", "2001:db8:1::1"),
        ("2001:db8:2:5::9", "2001:db8:2::1"),  # the outgoing interface's before others
        ("2001:db8:2:5::1", "2001:db8:2:5::1"),  # except the destination itself
    ):
        assert machine.masquerade_address(V6, "eth0", ip("fe80::2"), ip(destination)) == ip(source)


def test_routes_as_text():
    assert str(Route(net("10.180.9.0/24"), "eth0", ip(OTHER_NODE))) == "10.180.9.0/24 via 192.168.0.2 dev eth0"
    assert str(Route(net("10.180.9.0/24"), "eth0")) == "10.180.9.0/24 dev eth0"
    assert str(Route(net("10.180.9.0/24"), kind=RouteKind.BLACKHOLE)) == "blackhole 10.180.9.0/24"
    assert str(OwnAddress.parse("10.180.0.1/24")) == "10.180.0.1/24"


@pytest.mark.parametrize("text", ["10.180.0/24", "", "10.180.0.1/33", "eth0"])
def test_what_is_no_address_is_refused_by_name(text):
    with pytest.raises(InputError) as caught:
        OwnAddress.parse(text)
    assert str(caught.value) == f"not an address with prefix length: {text!r}"


def test_an_address_belongs_to_the_first_interface_that_has_it():
    twice = Routing([interface("eth0", "192.168.0.1/24"), interface("eth1", "192.168.0.1/24")])
    found = twice.interface_of(V4, ip(NODE))
    assert found is not None and found.name == "eth0"
    assert twice.interface_of(V4, ip(POD)) is None
    assert routing().addresses(V4) == tuple(map(ip, ("127.0.0.1", NODE, "192.168.5.1", "10.180.0.1", "172.30.0.10")))


def test_only_the_interfaces_own_routes_lead_strictly():
    """K-7.1: what is un-NATed to ::1 leaves only by the interface it came by."""
    strict = routing(Route(net("2001:db8:9::/48"), "cni0"), Route(net("2001:db8:8::/48"), kind=RouteKind.BLACKHOLE))
    by_default, by_bridge = (strict.lookup_strict(V6, ip("2001:db8:9::9"), name) for name in ("eth0", "cni0"))
    assert by_default is not None and (by_default.interface, by_default.next_hop) == ("eth0", ip("2001:db8::ff"))
    assert by_bridge is not None and (by_bridge.interface, by_bridge.next_hop) == ("cni0", ip("2001:db8:9::9"))
    assert strict.lookup_strict(V6, ip("2001:db8:8::9"), "cni0") is None


@pytest.mark.parametrize(
    ("family", "address", "kind"),
    [(V4, "127.200.0.1", "LOCAL"), (V4, "126.255.255.255", "UNICAST"), (V4, "128.0.0.1", "UNICAST"),
     (V4, "223.255.255.255", "UNICAST"), (V4, "224.0.0.0", "MULTICAST"), (V6, "ffff::1", "MULTICAST"), (V6, "feff::1", "UNICAST")],
)  # fmt: skip
def test_the_edges_of_loopback_and_multicast(family, address, kind):
    """RFC 1122 3.2.1.3, 5771, 4291: 127/8, 224/4, ff00::/8."""
    assert routing().address_type(family, ip(address)) == kind


@pytest.mark.parametrize(
    ("own", "destination", "source"),
    [
        (("febf::1", "2001:db8::1"), "2001:db9::9", "2001:db8::1"),  # fe80::/10 is link-local to its end
        (("febf::1", "2001:db8::1"), "e000::9", "2001:db8::1"),
        (("fec0::1", "8000::1"), "fec0::9", "fec0::1"),  # and not beyond
        (("fd00::1", "e000::1"), "2001:db8::9", "e000::1"),  # fc00::/7 is unique-local to its end: not for a global one
        (("fdff::1", "e000::1"), "fc00::9", "fdff::1"),
    ],
)
def test_kinds_of_ipv6_addresses(own, destination, source):
    """RFC 4291, 4193: addresses of the destination's kind come first (K-2.2)."""
    machine = Routing([interface("eth0", *(f"{text}/64" for text in own))])
    assert machine.masquerade_address(V6, "eth0", ip("fe80::2"), ip(destination)) == ip(source)


def test_an_ipv6_address_that_goes_takes_no_ipv4_routes_along():
    six_only = Routing([interface("tun0", "2001:db8::1/64")], [Route(net("0.0.0.0/0"), "tun0")])
    assert six_only.without_address("tun0", OwnAddress.parse("2001:db8::1/64")).lookup(V4, ip(CLIENT)) is not None


def test_a_route_through_no_interface_is_named():
    with pytest.raises(InputError) as caught:
        Routing([], [Route(net("0.0.0.0/0"), "eth0")])
    assert str(caught.value) == "route 0.0.0.0/0 dev eth0: no such interface"


def test_only_ways_that_lead_on_lead_strictly():
    blocked = Routing(
        [interface("eth0", "2001:db8::1/64")], [Route(net("2001:db8:8::/48"), "eth0", kind=RouteKind.PROHIBIT)]
    )
    assert blocked.lookup_strict(V6, ip("2001:db8:8::9"), "eth0") is None


def test_what_goes_to_loopback_itself_comes_from_there():
    """Measured: ::1 masquerades as itself; an own address that is none of loopback's, by the ordinary order."""
    machine = Routing([
        interface("lo", "::1/128", kind=InterfaceKind.LOOPBACK), interface("eth0", "2001:db8::1/64"),
        interface("br0", "2001:db8:5::1/64", "2001:db8:5::2/64"),
    ])  # fmt: skip
    assert machine.masquerade_address(V6, "lo", ip("::1"), ip("::1")) == ip("::1")
    assert machine.masquerade_address(V6, "eth0", ip("fe80::2"), ip("2001:db8:9::9")) == ip("2001:db8::1")


def test_what_goes_to_an_address_of_kube_ipvs0_is_masqueraded_as_that_address():  # K-2.2: measured, with a bridge in its place
    own = ip("fd00:172:30::2")
    with_own = routing().with_local({V6: Map({own: "kube-ipvs0"})})
    assert [each.masquerade_address(V6, "lo", own, own) for each in (routing(), with_own)] == [ip("fd00:180::1"), own]


@pytest.mark.parametrize(
    ("bound", "towards", "source"),
    [
        (("fd00:172:30::3", "fd00:172:30::4"), "fd00:180::67", "fd00:172:30::4"),  # as good as each other: the last one
        (("fd00:172:30::4", "fd00:180:0:7::1"), "fd00:180::67", "fd00:180:0:7::1"),  # the longest common prefix
        (("fd00:172:30::4",), "2001:db8:9::9", "2001:db8::2"),  # an address of the destination's kind comes first
    ],
)
def test_addresses_of_kube_ipvs0_are_sources_of_a_device_without_any(
    bound: tuple[str, ...], towards: str, source: str
) -> None:
    """Measured with ``ip -6 route get`` (Linux 6.18), with a bridge that is down in place of kube-ipvs0."""
    machine = Routing(
        [interface("eth0", "2001:db8::2/64"), interface("cni0", "fe80::1/64", kind=InterfaceKind.BRIDGE)],
        [Route(net("fd00:180::/64"), "cni0"), Route(net("2001:db8:9::/48"), "cni0")],
    ).with_local({V6: Map(dict.fromkeys(map(ip, bound), "kube-ipvs0"))})
    assert machine.source_for(V6, ip(towards)) == ip(source)


def test_an_address_becomes_local_with_a_device_that_only_makes_it_so() -> None:  # IPVS-3.5
    machine, own = routing(), ip("fd00:172:30::9")
    assert machine.address_type(V6, own) is AddressType.UNICAST
    assert machine.with_local({V6: Map({own: "kube-ipvs0"})}).address_type(V6, own) is AddressType.LOCAL
    assert machine.address_type(V6, own) is AddressType.UNICAST
