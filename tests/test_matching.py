"""What each match means, one case a line (I-8, I-19, K-5)."""

from dataclasses import replace
from typing import get_args

import pytest
from packets import CLIENT, NODE, POD, flags, ip, net

from kpsim.addresses import Family, parse_ip
from kpsim.conntrack import Entry, FlowTuple
from kpsim.flowstate import Direction, FlowState
from kpsim.packet import Packet
from kpsim.packetpath.index import in_kernel_order
from kpsim.packetpath.matching import UnknownMatch, condition
from kpsim.packetpath.routing import AddressType, Decision, RouteKind
from kpsim.ruleset import (
    AddressRange,
    AddrType,
    Comment,
    ConnMark,
    CtDirection,
    CtOriginalDestination,
    CtOriginalPort,
    CtState,
    Destination,
    DestinationPort,
    IcmpType,
    InInterface,
    L4Module,
    Limit,
    MarkMatch,
    Match,
    MultiPort,
    NfAcct,
    OutInterface,
    Protocol,
    Recent,
    ReversePath,
    RoutingHeader,
    Source,
    SourcePort,
    Statistic,
    TcpFlags,
    TimeToLive,
    Unknown,
)

BLACK_HOLE = "198.51.100.9"


class Facts:
    """What the surroundings answer: the node's address is local, every draw is 1000, the source is remembered."""

    def __init__(self, packet: Packet, *states: str) -> None:
        self.packet = packet
        self.ct_states = frozenset(states)
        self.entry: Entry | None = CONNECTION if "DNAT" in states else None
        self.direction = Direction.ORIGINAL
        self.counted: list[str] = []

    def address_type(self, address: int) -> AddressType:
        return AddressType.LOCAL if (Family.IPV4, address) == parse_ip(NODE) else AddressType.UNICAST

    def way_back(self, address: int) -> Decision | None:
        """To the client by eth0, which carries the node's own address, too; one address is a black hole, and 0 is nowhere."""
        kind = {ip(NODE): RouteKind.LOCAL, ip(BLACK_HOLE): RouteKind.BLACKHOLE}.get(address, RouteKind.UNICAST)
        return Decision(kind, "eth0", address, None, None) if address else None

    def chance(self, statistic: Statistic, key: object) -> bool:
        return statistic.threshold > 1000

    def limit(self, match: Limit, key: object) -> bool:
        return match.burst > 1

    def recent(self, match: Recent) -> bool:
        return match.name == "KNOWN"

    def count(self, counter: str) -> None:
        self.counted.append(counter)


#: CLIENT:40000 → 172.30.0.1:8080, marked 0x21
CONNECTION = Entry(
    FlowTuple(Family.IPV4, "tcp", ip(CLIENT), 40000, ip("172.30.0.1"), 8080),
    FlowTuple(Family.IPV4, "tcp", ip(NODE), 80, ip(CLIENT), 40000),
    FlowState.SYN_SENT, False, False, 0, 1, mark=0x21,
)  # fmt: skip


def tcp(**more) -> Packet:
    """CLIENT:40000 → NODE:80 that came in by eth0, marked 0x4000."""
    fields = {"sport": 40000, "dport": 80, "mark": 0x4000, "in_interface": "eth0"} | more
    source, destination = parse_ip(CLIENT), parse_ip(NODE)
    assert source and destination
    return Packet(Family.IPV4, fields.pop("protocol", "tcp"), source[1], destination[1], **fields)


ECHO = {"protocol": "icmp", "icmp_type": 8}
CASES = [
    (Source(net("203.0.113.0/24")), {}, True), (Source(net("203.0.113.0/24"), negate=True), {}, False),
    (Source(net(POD)), {}, False), (Source(net("0.0.0.0/0")), {}, True),
    (Destination(net(NODE)), {}, True), (Destination(net("192.168.0.0/30")), {}, True), (Destination(net(POD)), {}, False),
    (Destination(net("127.0.0.0/8"), negate=True), {}, True),
    (InInterface("eth0"), {}, True), (InInterface("eth+"), {}, True), (InInterface("eth"), {}, False),
    (InInterface("cni0", negate=True), {}, True), (InInterface("eth0"), {"in_interface": ""}, False),
    (InInterface("eth0", negate=True), {"in_interface": ""}, True),  # made on this node: CFG-8.2
    (InInterface("eth+"), {"in_interface": "et0"}, False),
    (OutInterface("cni0"), {"out_interface": "cni0"}, True), (OutInterface("cni0"), {}, False),
    (Protocol("tcp"), {}, True), (Protocol("udp"), {}, False), (Protocol("udp", negate=True), {}, True),
    (Protocol("all"), {}, True), (Protocol("ipv6-icmp"), {"protocol": "icmpv6"}, True),
    (Protocol("icmp6"), {"protocol": "icmpv6"}, True),
    (L4Module("tcp"), {}, True), (L4Module("udp"), {}, False),
    (SourcePort(40000, 40000), {}, True), (SourcePort(1, 1024), {}, False),
    (DestinationPort(80, 80), {}, True), (DestinationPort(1, 79), {}, False), (DestinationPort(79, 81), {}, True),
    (DestinationPort(80, 80, negate=True), {}, False),
    (TcpFlags(flags("SYN ACK FIN RST"), flags("SYN")), {}, True),
    (TcpFlags(flags("SYN ACK FIN RST"), flags("SYN")), {"tcp_flags": flags("SYN ACK")}, False),
    (TcpFlags(flags("SYN ACK FIN RST"), flags("SYN"), negate=True), {"tcp_flags": flags("ACK")}, True),
    (MultiPort("dports", ((22, 22), (80, 81))), {}, True), (MultiPort("sports", ((80, 80),)), {}, False),
    (MultiPort("ports", ((40000, 40000),)), {}, True), (MultiPort("dports", ((80, 80),), negate=True), {}, False),
    (MultiPort("dports", ((80, 80),)), ECHO, False), (MultiPort("dports", ((80, 80),), negate=True), ECHO, False),
    (MultiPort("sports", ((40000, 40000),)), {}, True), (MultiPort("dports", ((40000, 40000),)), {}, False),
    (MultiPort("dports", ((22, 22),)), {}, False), (MultiPort("ports", ((80, 80),)), {}, True),
    (MultiPort("ports", ((81, 39999),)), {}, False), (MultiPort("ports", ((1, 79), (80, 80))), {}, True),
    (IcmpType("icmp", 8, None), ECHO, True), (IcmpType("icmp", 8, 1), ECHO, False), (IcmpType("icmp", 255, None), ECHO, True),
    (IcmpType("icmp", 0, None), ECHO, False), (IcmpType("icmp", 8, None), {}, False),
    (IcmpType("icmp", 8, None), {"icmp_type": 8}, False), (IcmpType("icmp", 8, None, negate=True), {}, False),
    (IcmpType("icmp6", 255, None), {"protocol": "icmpv6", "icmp_type": 128}, False),  # any type is of -m icmp only
    (IcmpType("icmp6", 128, 0), {"protocol": "icmpv6", "icmp_type": 128}, True),
    (CtState(("NEW",)), {}, True), (CtState(("RELATED", "ESTABLISHED")), {}, False), (CtState(("DNAT",)), {}, True),
    (CtState(("RELATED", "ESTABLISHED", "DNAT"), negate=True), {}, False),
    (MarkMatch(0x4000, 0x4000), {"mark": 0x4001}, True), (MarkMatch(0x4000), {"mark": 0x4001}, False),
    (MarkMatch(0x4000, 0x4000, negate=True), {"mark": 1}, True),
    (AddrType("dst", "LOCAL"), {}, True), (AddrType("src", "LOCAL"), {}, False), (AddrType("src", "LOCAL", negate=True), {}, True),
    (AddrType("dst", "BROADCAST,LOCAL"), {}, True), (AddrType("dst", "BROADCAST,UNICAST"), {}, False),
    (AddressRange("src", ip(CLIENT), ip(CLIENT)), {}, True), (AddressRange("src", ip(CLIENT) + 1, ip(CLIENT) + 9), {}, False),
    (AddressRange("dst", ip(NODE) - 1, ip(NODE)), {}, True), (AddressRange("dst", ip(NODE), ip(NODE), negate=True), {}, False),
    (CtOriginalDestination(net("172.30.0.0/16")), {}, True), (CtOriginalDestination(net(NODE)), {}, False),
    (CtOriginalDestination(net("172.30.0.0/16"), negate=True), {}, False),
    (CtOriginalPort(8000, 9000), {}, True), (CtOriginalPort(80, 80), {}, False), (CtOriginalPort(80, 80, negate=True), {}, True),
    (CtOriginalPort(8080, 9000), {}, True), (CtOriginalPort(80, 8080), {}, True),
    (CtDirection("ORIGINAL"), {}, True), (CtDirection("REPLY"), {}, False),
    (ConnMark(0x1, 0xF), {}, True), (ConnMark(0x1), {}, False), (ConnMark(0x1, negate=True), {}, True),
    (TimeToLive("ttl-eq", 64), {}, True), (TimeToLive("ttl-lt", 64), {}, False), (TimeToLive("hl-gt", 63), {}, True),
    (TimeToLive("hl-gt", 64), {}, False), (TimeToLive("ttl-lt", 65), {}, True), (TimeToLive("ttl-gt", 63, negate=True), {}, False),
    (TimeToLive("ttl-eq", 64, negate=True), {}, False),
    (ReversePath(), {}, True), (ReversePath(invert=True), {}, False), (ReversePath(), {"in_interface": "cni0"}, False),
    (ReversePath(loose=True), {"in_interface": "cni0"}, True), (ReversePath(invert=True), {"in_interface": "lo"}, False),
    (RoutingHeader("--rt-type 0"), {}, False), (RoutingHeader("! --rt-type 0"), {}, False),
    (Limit(1, "hour", 5), {}, True), (Limit(1, "hour", 1), {}, False),
    (Recent("KNOWN", "rcheck", 10), {}, True), (Recent("OTHER", "rcheck", 10), {}, False),
    (Statistic(1000, ""), {}, False), (Statistic(1001, ""), {}, True),
    (NfAcct("counter"), {}, True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("match", "changes", "expected"),
    CASES,
    ids=[f"{number}-{type(case[0]).__name__}" for number, case in enumerate(CASES)],
)
def test_match(match, changes, expected):
    holds = condition(match, "key")
    assert holds is not None
    assert holds(Facts(tcp(**changes), "NEW", "DNAT")) is expected


def test_every_kind_of_match_has_a_case():
    assert {type(match) for match, _, _ in CASES} | {Comment, Unknown} == set(get_args(Match))


def test_of_a_packet_without_connection_the_kernel_asks_the_state_only():
    """Measured: behind ``--ctstate`` in one -m nothing more is asked, alone it is false, negated or not."""
    facts = Facts(tcp(), "INVALID")
    for match in (CtOriginalDestination(net(NODE)), CtOriginalPort(1, 2), CtDirection("REPLY")):
        assert condition(match, "key")(facts) is False
        assert condition(replace(match, joined=True), "key")(facts) is True
    assert condition(CtOriginalPort(1, 2, negate=True), "key")(facts) is False
    assert condition(ConnMark(0, negate=True), "key")(facts) is False


def test_comments_are_no_condition():
    assert condition(Comment("x"), "key") is None


def test_counters_count():
    facts = Facts(tcp())
    holds = condition(NfAcct("localhost_nps_accepted_pkts"), "key")
    assert holds is not None and holds(facts)
    assert facts.counted == ["localhost_nps_accepted_pkts"]


def test_the_unknown_is_neither_true_nor_false():
    holds = condition(Unknown("-m hashlimit"), "key")
    assert holds is not None
    with pytest.raises(UnknownMatch, match="hashlimit"):
        holds(Facts(tcp()))


def test_headers_are_compared_before_options_and_the_unknown_last():
    unknown, recent, draw = Unknown("-m hashlimit"), Recent("A", "set"), Statistic(1, "")
    header = Protocol("tcp")
    assert in_kernel_order([unknown, recent, draw, header]) == [header, recent, draw, unknown]


@pytest.mark.parametrize(
    ("family", "source", "came_by", "options", "expected"),
    [
        # iptables-extensions(8), rpfilter: what is on the node itself fails, unless accept-local
        (Family.IPV4, NODE, "eth0", {}, False), (Family.IPV6, NODE, "eth0", {}, False),
        (Family.IPV4, NODE, "eth0", {"loose": True}, False), (Family.IPV6, NODE, "eth0", {"loose": True}, False),
        (Family.IPV4, NODE, "eth0", {"loose": True, "accept_local": True}, True),
        # … and then IPv4 asks for the interface that carries it, IPv6 for none (measured)
        (Family.IPV4, NODE, "eth0", {"accept_local": True}, True), (Family.IPV4, NODE, "cni0", {"accept_local": True}, False),
        (Family.IPV6, NODE, "eth0", {"accept_local": True}, True), (Family.IPV6, NODE, "cni0", {"accept_local": True}, True),
        (Family.IPV4, CLIENT, "cni0", {"accept_local": True}, False), (Family.IPV4, CLIENT, "eth0", {"accept_local": True}, True),
        (Family.IPV6, CLIENT, "eth0", {}, True), (Family.IPV6, CLIENT, "cni0", {}, False),
        (Family.IPV6, CLIENT, "cni0", {"loose": True}, True),
        # without a route nobody answers; the unspecified address of IPv6 is let pass (duplicate address detection)
        (Family.IPV4, "0.0.0.0", "eth0", {}, False), (Family.IPV4, "0.0.0.0", "eth0", {"loose": True}, False),
        (Family.IPV6, "::", "eth0", {}, True), (Family.IPV4, "0.0.0.0", "lo", {}, True), (Family.IPV4, NODE, "lo", {}, True),
        (Family.IPV4, BLACK_HOLE, "eth0", {"loose": True}, False),
        (Family.IPV4, BLACK_HOLE, "eth0", {"loose": True, "accept_local": True}, False),
    ],
)  # fmt: skip
def test_the_way_back(family, source, came_by, options, expected):
    packet = tcp(in_interface=came_by)
    packet.family, packet.saddr = family, ip(source)
    for invert in (False, True):
        holds = condition(ReversePath(**options, invert=invert), "key")
        assert holds is not None
        assert holds(Facts(packet)) is (expected is not invert)
