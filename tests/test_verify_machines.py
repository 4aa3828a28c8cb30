"""What Linux did on machines of all kinds, replayed without a kernel: refusals, sources of errors (K-3.1, K-7)."""

import pytest
from packets import ip

from kpsim.addresses import Family, parse_network
from kpsim.dialects.iptables import parse
from kpsim.netfilter import Cause, Disposition, Netns, Walk, walk
from kpsim.packet import Packet
from kpsim.packetpath.chooser import ScriptedChooser
from kpsim.packetpath.routing import Interface, InterfaceKind, OwnAddress, Route, Routing
from kpsim.sysctls import Sysctls

V4, V6 = Family.IPV4, Family.IPV6
_REFUSING = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A FORWARD -p udp -j REJECT --reject-with icmp6-port-unreachable\nCOMMIT\n"


def node(family: Family, *, default: bool = True, hairpin: bool = True, **sysctls: bool | int) -> Netns:
    own = {V4: ("192.168.0.1/24", "10.180.0.1/24", "0.0.0.0/0"), V6: ("2001:db8:1::1/64", "fd00:180::1/64", "::/0")}[
        family
    ]
    anywhere = parse_network(own[2])
    assert anywhere is not None
    interfaces = [
        Interface("lo", (OwnAddress.parse("::1/128"),), InterfaceKind.LOOPBACK), Interface("eth0", (OwnAddress.parse(own[0]),)),
        Interface("cni0", (OwnAddress.parse(own[1]),), InterfaceKind.BRIDGE, hairpin=hairpin),
    ]  # fmt: skip
    return Netns("node", Routing(interfaces, [Route(anywhere, "eth0")] if default else []), Sysctls(**sysctls))  # type: ignore[arg-type]


def sent(netns: Netns, source: str, destination: str, by: str) -> Walk:
    family = V6 if ":" in source else V4
    packet = Packet(family, "udp", ip(source), ip(destination), 40000, 9, in_interface=by)
    return walk(netns, packet, now_ns=0, chooser=ScriptedChooser(), local=False, trace=False)


def test_that_there_is_no_route_is_said_before_the_source_is_looked_at() -> None:
    refused = sent(node(V4, default=False, rp_filter=1), "10.180.0.9", "198.51.100.1", "eth0")
    assert (refused.disposition, refused.cause) == (Disposition.REJECTED, Cause.NO_ROUTE)


def test_a_bridge_asks_no_routing_of_neighbours() -> None:
    strict = node(V4, rp_filter=1)
    assert sent(strict, "203.0.113.8", "10.180.0.5", "cni0").disposition is Disposition.FORWARDED
    assert sent(strict, "203.0.113.8", "198.51.100.1", "cni0").cause is Cause.REVERSE_PATH


@pytest.mark.parametrize(("by", "cause"), [("eth0", None), ("cni0", Cause.REVERSE_PATH)])
def test_an_own_address_leads_to_the_interface_that_carries_it(by: str, cause: Cause | None) -> None:
    strict = node(V4, rp_filter=1, accept_local=True)
    assert sent(strict, "192.168.0.1", "198.51.100.1", by).cause == cause


@pytest.mark.parametrize(
    ("source", "destination", "by", "carried"),
    [("fd00:180::9", "fd00:180::5", "eth0", "2001:db8:1::1"), ("2001:db8:9::8", "2001:db8:9::9", "cni0", "fd00:180::1"),
     ("2001:db8:9::8", "fd00:180::5", "cni0", "2001:db8:1::1")],
    ids=["of the uplink", "of the bridge", "only switched: by the way back"],
)  # fmt: skip
def test_an_error_of_ipv6_carries_an_address_of_the_interface_that_the_packet_came_in_by(
    source: str, destination: str, by: str, carried: str
) -> None:
    netns = node(V6)
    netns.load_rules(parse(_REFUSING, V6))
    answer = sent(netns, source, destination, by).answer
    assert answer is not None
    assert answer.saddr == ip(carried)


def test_whoever_masquerades_towards_itself_stays_itself() -> None:
    assert node(V6).routing.masquerade_address(V6, "lo", 1, 1) == 1


@pytest.mark.parametrize("hairpin", [True, False])
def test_what_a_bridge_switches_by_itself_needs_a_hairpin_to_go_back(hairpin: bool) -> None:
    silent = node(V4, hairpin=hairpin, bridge_nf_call_iptables=False)
    outcome = sent(silent, "10.180.0.5", "10.180.0.5", "cni0")
    assert outcome.cause == (None if hairpin else Cause.HAIRPIN)
