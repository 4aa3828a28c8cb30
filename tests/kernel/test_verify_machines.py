"""Machines of all kinds: Linux does what the model says of addresses, routes, settings (K-1.6, K-2.1, K-2.2, K-7).

Every sender sends to every destination, over rules that translate and masquerade, and every receiver answers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Any

import pytest
from labs import number_of

from kpsim.addresses import Family, Network, parse_network
from kpsim.dialects.iptables import parse
from kpsim.lab.tools.variants import Variant
from kpsim.lab.wires import Shot
from kpsim.nodes import Machine
from kpsim.packet import Packet
from kpsim.packetpath.routing import Interface, InterfaceKind, OwnAddress, Route, RouteKind, Routing
from kpsim.sysctls import Sysctls
from kpsim.verify.twin import Exchange, Twin

pytestmark = pytest.mark.kernel

V4, V6 = Family.IPV4, Family.IPV6
_LO = ("127.0.0.1/8", "::1/128")
_ETH0 = ("192.168.0.1/24", "2001:db8:1::1/64")
_CNI0 = ("10.180.0.1/24", "fd00:180::1/64")


def interface(name: str, *addresses: str, kind: InterfaceKind = InterfaceKind.LINK, up: bool = True) -> Interface:
    return Interface(name, tuple(map(OwnAddress.parse, addresses)), kind, up)


def network(text: str) -> Network:
    found = parse_network(text)
    assert found is not None
    return found


def route(to: str, device: str = "", via: str = "", *, kind: RouteKind = RouteKind.UNICAST, metric: int = 0, src: str = "") -> Route:  # fmt: skip
    return Route(network(to), device, number_of(via) if via else None, kind, metric, number_of(src) if src else None)


LO = interface("lo", *_LO, kind=InterfaceKind.LOOPBACK)
ETH0, CNI0 = interface("eth0", *_ETH0), interface("cni0", *_CNI0, kind=InterfaceKind.BRIDGE)
DEFAULTS = (route("0.0.0.0/0", "eth0"), route("::/0", "eth0"))


@dataclass(frozen=True)
class Kind:
    """A machine, and whom one dials there besides the usual: addresses of both families."""

    name: str
    interfaces: tuple[Interface, ...] = (LO, ETH0, CNI0)
    routes: tuple[Route, ...] = DEFAULTS
    sysctls: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    also: tuple[str, ...] = ()
    senders: tuple[tuple[str, str], ...] = ()  #: more sources, each with where it comes in
    uplink: str = "eth0"
    pods: str = "cni0"

    def machine(self) -> Machine:
        return Machine(
            Routing(self.interfaces, self.routes), Sysctls(**self.sysctls), self.uplink, self.pods,
            (network("10.180.0.0/24"), network("fd00:180::/64")),
        )  # fmt: skip


_SPOOFED = (("192.168.0.1", "eth0"), ("2001:db8:1::1", "eth0"), ("10.180.0.9", "eth0"), ("fd00:180::9", "eth0"), ("203.0.113.8", "cni0"), ("2001:db8:cb00:71::8", "cni0"))  # fmt: skip
_VETH = (route("10.180.0.0/24", "cali0"), route("fd00:180::/64", "cali0"))
_ETH1 = ("192.168.7.1/24", "2001:db8:7::1/64")
_TO_ETH1 = ("192.168.7.1", "192.168.7.9", "2001:db8:7::1", "2001:db8:7::9")
KINDS = [
    Kind("plain", senders=_SPOOFED),
    Kind("secondary addresses", (LO, interface("eth0", *_ETH0, "192.168.0.11/24", "10.9.0.1/16", "2001:db8:1::11/64"), CNI0),
         also=("192.168.0.11", "10.9.0.1", "10.9.0.2", "2001:db8:1::11"), senders=(("10.9.0.2", "eth0"),)),
    Kind("unique local and global", (LO, interface("eth0", "192.168.0.1/24", "2001:db8:1::1/64", "fd00:1::1/64"),
                                     interface("cni0", "10.180.0.1/24", "fd00:180::1/64", "2001:db8:180::1/64", kind=InterfaceKind.BRIDGE)),
         also=("fd00:1::1", "fd00:1::7", "2001:db8:180::7", "fd00:9::9")),
    Kind("no address on the uplink", (LO, interface("eth0"), CNI0)),
    Kind("an address on lo only", (interface("lo", *_LO, "10.0.0.1/32", "fd00:10::1/128", kind=InterfaceKind.LOOPBACK), interface("eth0"),
                                  interface("cni0", kind=InterfaceKind.BRIDGE)), (*DEFAULTS, route("10.180.0.0/24", "cni0"), route("fd00:180::/64", "cni0")),
         also=("10.0.0.1", "fd00:10::1")),
    Kind("pods routed one by one", (LO, ETH0, interface("cali0", kind=InterfaceKind.VETH)), (*DEFAULTS, *_VETH), pods="cali0"),
    Kind("a dummy with service addresses", (LO, ETH0, CNI0, interface("kube-ipvs0", "172.30.0.77/32", "fd00:172:30::77/128", kind=InterfaceKind.DUMMY)),
         also=("172.30.0.77", "fd00:172:30::77")),
    Kind("routes that refuse", routes=(
        *DEFAULTS, *(route(to, kind=kind) for kind, tos in (
            (RouteKind.BLACKHOLE, ("198.51.100.0/27", "fd00:b1::/64")), (RouteKind.UNREACHABLE, ("198.51.100.32/27", "fd00:b2::/64")),
            (RouteKind.PROHIBIT, ("198.51.100.64/27", "fd00:b3::/64"))) for to in tos)),
         also=("198.51.100.1", "198.51.100.33", "198.51.100.65", "fd00:b1::1", "fd00:b2::1", "fd00:b3::1"), senders=(("198.51.100.1", "eth0"), ("fd00:b2::1", "eth0"))),
    Kind("no default route", routes=(route("203.0.113.0/28", "eth0", "192.168.0.254"), route("2001:db8:cb00:71::/124", "eth0", "2001:db8:1::fe")),
         also=("203.0.113.200", "2001:db8:cb00:72::1"), senders=(("203.0.113.200", "eth0"), ("2001:db8:cb00:72::1", "eth0"))),
    Kind("strict reverse path", sysctls={"rp_filter": 1}, senders=_SPOOFED),
    Kind("loose reverse path", routes=(route("203.0.113.0/24", "eth0"), route("2001:db8:cb00:71::/64", "eth0")), sysctls={"rp_filter": 2},
         senders=(*_SPOOFED, ("198.51.100.1", "eth0"))),
    Kind("loose, without addresses", (LO, interface("eth0"), CNI0), sysctls={"rp_filter": 2}, senders=_SPOOFED),
    Kind("own addresses may come in", sysctls={"accept_local": True}, senders=_SPOOFED),
    Kind("own addresses, strict", sysctls={"accept_local": True, "rp_filter": 1}, senders=_SPOOFED),
    Kind("loopback may be routed", sysctls={"route_localnet": True}, also=("127.0.0.2", "::1"), senders=(("127.0.0.1", "eth0"),)),
    Kind("loopback may not be routed", also=("127.0.0.2", "::1"), senders=(("127.0.0.1", "eth0"),)),
    Kind("another link", (LO, ETH0, interface("eth1", *_ETH1), CNI0), also=_TO_ETH1, senders=(("192.168.7.9", "eth1"), ("2001:db8:7::9", "eth1"), ("203.0.113.8", "eth1"))),
    Kind("another link, strict", (LO, ETH0, interface("eth1", *_ETH1), CNI0), also=_TO_ETH1, sysctls={"rp_filter": 1},
         senders=(("192.168.7.9", "eth1"), ("203.0.113.8", "eth1"), ("192.168.7.9", "eth0"))),
    Kind("a link that is down", (LO, ETH0, interface("eth1", _ETH1[0], up=False), CNI0), also=_TO_ETH1),
    Kind("a preferred source", (LO, interface("eth0", *_ETH0, "192.168.0.11/24", "2001:db8:1::11/64"), CNI0),
         (route("0.0.0.0/0", "eth0", "192.168.0.254", src="192.168.0.11"), route("::/0", "eth0", "2001:db8:1::fe", src="2001:db8:1::11"))),
    Kind("metrics", (LO, ETH0, interface("eth1", *_ETH1), CNI0), (
        *DEFAULTS, route("198.51.100.0/24", "eth1", metric=200), route("198.51.100.0/24", "eth0", metric=300),
        route("fd00:5::/64", "eth1", metric=200), route("fd00:5::/64", "eth0", metric=300)), also=("198.51.100.1", "fd00:5::1")),
]  # fmt: skip

_USUAL = {
    V4: ("192.168.0.1", "10.180.0.1", "10.180.0.5", "10.180.0.6", "10.180.1.5", "172.30.0.10", "203.0.113.9"),
    V6: ("2001:db8:1::1", "fd00:180::1", "fd00:180::5", "fd00:180::6", "fd00:180:0:1::5", "fd00:172:30::10", "2001:db8:cb00:71::9"),
}  # fmt: skip
_CLIENT, _PEER, _POD = (
    {V4: "203.0.113.7", V6: "2001:db8:cb00:71::7"}, {V4: "192.168.0.2", V6: "2001:db8:1::2"}, {V4: "10.180.0.5", V6: "fd00:180::5"}
)  # fmt: skip
_RULES = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A FORWARD -p udp -m udp --dport 9999 -j REJECT --reject-with {unreachable}
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d {service} -p tcp -m tcp --dport 80 -j DNAT --to-destination {endpoint}:8080
-A OUTPUT -d {service} -p tcp -m tcp --dport 80 -j DNAT --to-destination {endpoint}:8080
-A POSTROUTING -p tcp -m tcp --dport 8080 -j MASQUERADE
-A POSTROUTING -p udp -m udp --dport 7 -j MASQUERADE
COMMIT
"""
_TOLD = {
    V4: {"service": "172.30.0.10/32", "endpoint": "10.180.0.5", "unreachable": "icmp-port-unreachable"},
    V6: {"service": "fd00:172:30::10/128", "endpoint": "[fd00:180::5]", "unreachable": "icmp6-port-unreachable"},
}
_DIALLED = (("tcp", 80), ("tcp", 8080), ("udp", 7), ("udp", 9999))


def of_family(family: Family, texts: tuple[str, ...]) -> list[str]:
    return [text for text in texts if (":" in text) is (family is V6)]


def shots(kind: Kind, family: Family) -> Iterator[Shot]:
    """Packets from every sender to every destination, each with a port of its own."""
    senders = [(_CLIENT[family], kind.uplink), (_PEER[family], kind.uplink), (_POD[family], kind.pods), ("", "")]
    senders += [(source, by) for source, by in kind.senders if of_family(family, (source,))]
    destinations = [*_USUAL[family], *of_family(family, kind.also)]
    pairs = product(senders, destinations, _DIALLED)
    for number, ((source, by), destination, (protocol, port)) in enumerate(pairs):
        saddr = number_of(source) if source else 0
        yield Shot(Packet(family, protocol, saddr, number_of(destination), 20000 + number, port, in_interface=by))


def disagreements(exchanges: list[Exchange]) -> list[str]:
    return [f"{e.shot.packet} in by {e.shot.packet.in_interface}: {d}" for e in exchanges for d in e.differences]


@pytest.mark.parametrize("family", Family, ids=lambda family: family.label)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_model_and_linux_agree(kind: Kind, family: Family) -> None:
    variant = Variant.NFT if KINDS.index(kind) % 2 else Variant.LEGACY
    twin = Twin(kind.machine(), family, variant)
    try:
        assert twin.load(parse(_RULES.format(**_TOLD[family]), family)) is None
        exchanges = twin.exchange(list(shots(kind, family)))
        assert disagreements(exchanges) == []
        answers = [Shot(answer) for each in exchanges if (answer := each.answer())]
        assert len(answers) > 10
        assert disagreements(twin.exchange(answers)) == []
    finally:
        twin.close()
