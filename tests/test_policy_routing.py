"""Policy rules, and packets that are too big for their route (K-7.9, K-7.10). Linux agrees: ``tests/kernel``."""

from dataclasses import replace

import pytest
from packets import CLIENT, NODE, ip, net, packet, rule, ruleset, run, set_mark, table, to
from rule_parts import of_protocol

from kpsim.addresses import Family
from kpsim.netfilter import Cause, Disposition, Netns
from kpsim.packetpath.routing import (
    Interface,
    InterfaceKind,
    OwnAddress,
    PolicyRule,
    Question,
    Route,
    RouteKind,
    Routing,
)
from kpsim.ruleset import Dnat, Reject
from kpsim.sysctls import Sysctls

V4, V6 = Family.IPV4, Family.IPV6
UPLINK, VLAN = ip("192.168.0.254"), ip("10.46.0.254")
FIRST, LAST = PolicyRule(V4, 0, 255), PolicyRule(V4, 32766, 254)


def routing(*rules: PolicyRule, routes: tuple[Route, ...] = (), mtu: int = 0) -> Routing:
    """Two uplinks; table 100 leads out by the second."""
    interfaces = [
        Interface("lo", (OwnAddress.parse("127.0.0.1/8"),), InterfaceKind.LOOPBACK),
        Interface("eth0", (OwnAddress.parse("192.168.0.1/24"),)),
        Interface("vlan17", (OwnAddress.parse("10.46.0.1/16"),), mtu=mtu),
    ]
    known = [Route(net("0.0.0.0/0"), "eth0", UPLINK), Route(net("0.0.0.0/0"), "vlan17", VLAN, table=100), *routes]
    return Routing(interfaces, known, [FIRST, *rules, LAST])


def way(known: Routing, destination: str = CLIENT, **asked: object) -> str:
    decision = known.lookup(V4, ip(destination), Question(**asked))  # type: ignore[arg-type]
    if decision is None:
        return "none"
    return decision.interface if decision.kind in (RouteKind.UNICAST, RouteKind.LOCAL) else str(decision.kind)


@pytest.mark.parametrize(
    ("mark", "mask", "marked", "leaves_by"),
    [
        (0x80, 0x80, 0x80, "vlan17"), (0x80, 0x80, 0x181, "vlan17"), (0x80, 0x80, 0x7F, "eth0"), (0x80, 0xFFFFFFFF, 0x81, "eth0"),
        (0x81, 0x80, 0x80, "vlan17"), (0, 0x80, 0x7F, "vlan17"), (0, 0x80, 0x80, "eth0"),
    ],
)  # fmt: skip
def test_a_mark_chooses_the_table(mark: int, mask: int, marked: int, leaves_by: str) -> None:
    """K-7.9: both marks are compared under the mask."""
    assert way(routing(PolicyRule(V4, 100, 100, mark=mark, mask=mask)), mark=marked) == leaves_by


def test_what_else_a_rule_selects_by() -> None:
    by_source = routing(PolicyRule(V4, 100, 100, source=net("10.46.0.0/16")))
    assert (way(by_source, source=ip("10.46.0.1")), way(by_source), way(by_source, source=ip(NODE))) == (
        "vlan17",
        "eth0",
        "eth0",
    )
    by_interface = routing(PolicyRule(V4, 100, 100, interface="vlan17"))
    assert (way(by_interface, interface="vlan17"), way(by_interface)) == ("vlan17", "eth0")
    itself = routing(PolicyRule(V4, 100, 100, interface="lo"))
    assert (way(itself), way(itself, interface="eth0")) == ("vlan17", "eth0")
    others = routing(PolicyRule(V4, 100, 100, destination=net("203.0.113.0/24"), invert=True))
    assert (way(others), way(others, "198.51.100.1")) == ("eth0", "vlan17")


def test_rules_are_asked_in_their_order_until_one_decides() -> None:
    refused = PolicyRule(V4, 50, kind=RouteKind.PROHIBIT, mark=1, mask=1)
    thrown = Route(net("203.0.113.0/24"), kind=RouteKind.THROW, table=100)
    known = routing(PolicyRule(V4, 100, 100), refused, routes=(thrown,))
    assert (way(known, mark=1), way(known), way(known, "198.51.100.1")) == ("prohibit", "eth0", "vlan17")
    assert way(known, NODE, mark=1) == "lo"  # the local table comes first
    assert way(routing(PolicyRule(V4, 100, 101))) == "eth0"  # an empty table
    assert way(Routing(known.interfaces.values(), known.routes, [PolicyRule(V4, 5, 99)]), NODE) == "none"


def test_a_suppressed_default_route_does_not_count_but_a_refusal_does() -> None:
    """As WireGuard asks the main table for everything but its default route."""
    known = routing(PolicyRule(V4, 10, 254, shortest=0), PolicyRule(V4, 20, 100))
    assert (way(known), way(known, "192.168.0.9")) == ("vlan17", "eth0")
    refusing = routing(
        PolicyRule(V4, 10, 101, shortest=0),
        PolicyRule(V4, 20, 100),
        routes=(Route(net("0.0.0.0/0"), kind=RouteKind.UNREACHABLE, table=101),),
    )
    assert way(refusing) == "unreachable"


def namespace(known: Routing, *tables, sysctls: Sysctls | None = None) -> Netns:
    made = Netns("n1", known, sysctls)
    made.load_rules(ruleset(*tables))
    return made


@pytest.mark.parametrize(("name", "leaves_by"), [("mangle", "vlan17"), ("filter", "eth0")])
def test_only_the_mangle_table_has_a_process_s_packet_routed_again(name: str, leaves_by: str) -> None:
    """K-2.1, K-7.9: a mark that another table sets in OUTPUT comes too late."""
    marking = table(name, OUTPUT=(rule(of_protocol("udp"), set_mark(0x80, 0x80)),))
    netns = namespace(routing(PolicyRule(V4, 100, 100, mark=0x80, mask=0x80)), marking)
    outcome = run(netns, packet("", CLIENT, protocol="udp"), local=True)
    assert (outcome.packet.out_interface, outcome.packet.source) == (leaves_by, NODE)


def test_a_packet_that_comes_in_is_routed_with_the_mark_of_prerouting() -> None:
    marking = table("mangle", PREROUTING=(rule(set_mark(0x80, 0x80)),), FORWARD=(rule(set_mark(0, 0x80)),))
    netns = namespace(routing(PolicyRule(V4, 100, 100, mark=0x80, mask=0x80)), marking)
    outcome = run(netns, packet("192.168.0.9", CLIENT, came_by="eth0"))
    assert (outcome.packet.out_interface, outcome.next_hop) == ("vlan17", VLAN)


@pytest.mark.parametrize(("valid_mark", "cause"), [(False, Cause.REVERSE_PATH), (True, None)])
def test_the_reverse_path_is_asked_for_with_the_mark_if_that_is_set(valid_mark: bool, cause: Cause | None) -> None:
    marking = table("mangle", PREROUTING=(rule(set_mark(0x80, 0x80)),))
    known = routing(PolicyRule(V4, 100, 100, mark=0x80, mask=0x80))
    netns = namespace(known, marking, sysctls=Sysctls(rp_filter=1, src_valid_mark=valid_mark))
    assert run(netns, packet(CLIENT, NODE, came_by="vlan17")).cause is cause


@pytest.mark.parametrize(("length", "fits"), [(1400, True), (1401, False)])
def test_a_packet_that_must_not_be_divided_fits_or_its_sender_is_told(length: int, fits: bool) -> None:
    """K-7.10: before FORWARD; the error names what fits."""
    netns = namespace(routing(mtu=1400), table("filter", FORWARD=(rule(Reject()),)))
    outcome = run(netns, packet("192.168.0.9", "10.46.0.9", protocol="udp", came_by="eth0", length=length))
    if fits:
        assert outcome.cause is Cause.RULE
        return
    answer = outcome.answer
    assert outcome.cause is Cause.TOO_BIG and answer is not None
    assert (answer.source, answer.icmp_type, answer.icmp_code, answer.mtu) == (NODE, 3, 4, 1400)
    divided = packet("192.168.0.9", "10.46.0.9", protocol="udp", came_by="eth0", length=length, dont_fragment=False)
    assert run(netns, divided).cause is Cause.RULE


def test_a_route_may_take_less_than_its_interface() -> None:
    known = routing(routes=(Route(net("10.47.0.0/16"), "vlan17", VLAN, mtu=1300),), mtu=1400)
    sent = packet("192.168.0.9", "10.47.0.9", protocol="udp", came_by="eth0", length=1301)
    outcome = run(namespace(known), sent)
    assert outcome.answer is not None and outcome.answer.mtu == 1300
    local = run(namespace(known), replace(sent, saddr=ip("10.46.0.1"), in_interface=""), local=True)
    assert (local.disposition, local.local_error) == (Disposition.REJECTED, "EMSGSIZE")
    assert local.answer is not None and (local.answer.source, local.answer.mtu) == ("10.46.0.1", 1300)


def test_a_process_is_refused_by_its_interface_at_once_and_told_behind_a_translation() -> None:
    translated = table("nat", OUTPUT=(rule(of_protocol("udp"), Dnat(ip("10.46.0.9"))),))
    directly = run(namespace(routing(mtu=1400)), packet("", "10.46.0.9", protocol="udp", length=1401), local=True)
    assert (directly.local_error, directly.answer) == ("EMSGSIZE", None)
    later = run(
        namespace(routing(mtu=1400), translated), packet("", "172.30.0.10", protocol="udp", length=1401), local=True
    )
    assert later.local_error == "EMSGSIZE" and later.answer is not None
    assert (later.answer.source, later.answer.mtu, to(later)[0]) == ("172.30.0.10", 1400, "10.46.0.9")
