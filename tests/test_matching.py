"""What each match means, one case a line (I-8, I-19, K-5)."""

from dataclasses import replace
from typing import get_args

import pytest
from packets import CLIENT, NODE, POD, flags, ip, net
from rule_parts import (
    address_range,
    address_type,
    connection_mark,
    ct_direction,
    ct_original_destination,
    ct_original_port,
    ct_state,
    destination_port,
    from_net,
    icmp_type,
    in_interface,
    marked,
    multiport,
    of_protocol,
    out_interface,
    source_port,
    tcp_flags,
    time_to_live,
    to_net,
)

from kpsim.addresses import Family, parse_ip
from kpsim.conntrack import Entry, FlowTuple
from kpsim.dialects.iptables import parse_rule
from kpsim.flowstate import Direction, FlowState
from kpsim.packet import Packet
from kpsim.packetpath.matching import GETTERS, condition
from kpsim.packetpath.routing import AddressType, Decision, RouteKind
from kpsim.packetpath.worlds import World
from kpsim.ruleset import (
    OF_CONNECTION,
    BridgePort,
    Chance,
    Compare,
    Counter,
    Expression,
    Field,
    Limit,
    LocalSocket,
    NamePattern,
    Quota,
    Recent,
    ReversePath,
    RoutingHeader,
    Unknown,
    equal,
    named,
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
        self.world = World()
        self.unsure_mark = 0
        self.socket: str | None = None
        self.bridged: frozenset[str] | None = None
        self.frame = "host"
        self.by_ipvs, self.served = False, None

    def holds(self, words: str) -> bool:
        return self.world.holds(words)

    def settle(self, field: Field, bit: int) -> int:
        raise AssertionError("every bit is known here")

    def address_type(self, address: int, interface: str = "") -> AddressType:
        return AddressType.LOCAL if (Family.IPV4, address) == parse_ip(NODE) else AddressType.UNICAST

    def way_back(self, address: int) -> Decision | None:
        """To the client by eth0, which carries the node's own address, too; one address is a black hole, and 0 is
        nowhere.
        """
        kind = {ip(NODE): RouteKind.LOCAL, ip(BLACK_HOLE): RouteKind.BLACKHOLE}.get(address, RouteKind.UNICAST)
        return Decision(kind, "eth0", address, None, None) if address else None

    def chance(self, chance: Chance, key: object) -> bool:
        return chance.threshold > 1000

    def limit(self, match: Limit, key: object) -> bool:
        return match.burst > 1

    def quota(self, match: Quota, key: object) -> bool:
        return (self.packet.length > match.size) == match.over

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
    (from_net(net("203.0.113.0/24")), {}, True), (from_net(net("203.0.113.0/24"), negate=True), {}, False),
    (from_net(net(POD)), {}, False), (from_net(net("0.0.0.0/0")), {}, True),
    (to_net(net(NODE)), {}, True), (to_net(net("192.168.0.0/30")), {}, True), (to_net(net(POD)), {}, False),
    (to_net(net("127.0.0.0/8"), negate=True), {}, True),
    (in_interface("eth0"), {}, True), (in_interface("eth+"), {}, True), (in_interface("eth"), {}, False),
    (in_interface("cni0", negate=True), {}, True), (in_interface("eth0"), {"in_interface": ""}, False),
    (in_interface("eth0", negate=True), {"in_interface": ""}, True),  # made on this node: CFG-8.2
    (in_interface("eth+"), {"in_interface": "et0"}, False),
    (out_interface("cni0"), {"out_interface": "cni0"}, True), (out_interface("cni0"), {}, False),
    (of_protocol("tcp"), {}, True), (of_protocol("udp"), {}, False), (of_protocol("udp", negate=True), {}, True),
    (of_protocol("icmpv6"), {"protocol": "icmpv6"}, True), (destination_port(80, 80), ECHO, False),
    (destination_port(80, 80, negate=True), ECHO, False), (source_port(0, 80, negate=True), ECHO, False),
    (source_port(40000, 40000), {}, True), (source_port(1, 1024), {}, False),
    (destination_port(80, 80), {}, True), (destination_port(1, 79), {}, False), (destination_port(79, 81), {}, True),
    (destination_port(80, 80, negate=True), {}, False),
    (tcp_flags(flags("SYN ACK FIN RST"), flags("SYN")), {}, True),
    (tcp_flags(flags("SYN ACK FIN RST"), flags("SYN")), {"tcp_flags": flags("SYN ACK")}, False),
    (tcp_flags(flags("SYN ACK FIN RST"), flags("SYN"), negate=True), {"tcp_flags": flags("ACK")}, True),
    (multiport("dports", ((22, 22), (80, 81))), {}, True), (multiport("sports", ((80, 80),)), {}, False),
    (multiport("ports", ((40000, 40000),)), {}, True), (multiport("dports", ((80, 80),), negate=True), {}, False),
    (multiport("dports", ((80, 80),)), ECHO, False), (multiport("dports", ((80, 80),), negate=True), ECHO, False),
    (multiport("sports", ((40000, 40000),)), {}, True), (multiport("dports", ((40000, 40000),)), {}, False),
    (multiport("dports", ((22, 22),)), {}, False), (multiport("ports", ((80, 80),)), {}, True),
    (multiport("ports", ((81, 39999),)), {}, False), (multiport("ports", ((1, 79), (80, 80))), {}, True),
    (icmp_type(8, None), ECHO, True), (icmp_type(8, 1), ECHO, False), (Compare(Field.ICMP_TYPE, ((0, 255),)), ECHO, True),
    (icmp_type(0, None), ECHO, False), (icmp_type(8, None), {}, False),
    (icmp_type(8, None), {"icmp_type": 8}, False), (icmp_type(8, 1, negate=True), ECHO, True), (icmp_type(8, 0, negate=True), {}, False),
    (equal(Field.ICMP_CODE, 0), ECHO, True), (equal(Field.ICMP_CODE, 0), {}, False), (icmp_type(8, None, negate=True), {}, False),
    (icmp_type(255, None), {"protocol": "icmpv6", "icmp_type": 128}, False),
    (icmp_type(128, 0), {"protocol": "icmpv6", "icmp_type": 128}, True),
    (ct_state("NEW"), {}, True), (ct_state("RELATED", "ESTABLISHED"), {}, False), (ct_state("DNAT"), {}, True),
    (ct_state("RELATED", "ESTABLISHED", "DNAT", negate=True), {}, False),
    (marked(0x4000, 0x4000), {"mark": 0x4001}, True), (marked(0x4000), {"mark": 0x4001}, False),
    (marked(0x4000, 0x4000, negate=True), {"mark": 1}, True),
    (address_type("dst", "LOCAL"), {}, True), (address_type("src", "LOCAL"), {}, False), (address_type("src", "LOCAL", negate=True), {}, True),
    (address_type("dst", "BROADCAST", "LOCAL"), {}, True), (address_type("dst", "BROADCAST", "UNICAST"), {}, False),
    (address_range("src", ip(CLIENT), ip(CLIENT)), {}, True), (address_range("src", ip(CLIENT) + 1, ip(CLIENT) + 9), {}, False),
    (address_range("dst", ip(NODE) - 1, ip(NODE)), {}, True), (address_range("dst", ip(NODE), ip(NODE), negate=True), {}, False),
    (ct_original_destination(net("172.30.0.0/16")), {}, True), (ct_original_destination(net(NODE)), {}, False),
    (ct_original_destination(net("172.30.0.0/16"), negate=True), {}, False),
    (ct_original_port(8000, 9000), {}, True), (ct_original_port(80, 80), {}, False), (ct_original_port(80, 80, negate=True), {}, True),
    (ct_original_port(8080, 9000), {}, True), (ct_original_port(80, 8080), {}, True),
    (ct_direction("ORIGINAL"), {}, True), (ct_direction("REPLY"), {}, False),
    (connection_mark(0x1, 0xF), {}, True), (connection_mark(0x1), {}, False), (connection_mark(0x1, negate=True), {}, True),
    (time_to_live("eq", 64), {}, True), (time_to_live("lt", 64), {}, False), (time_to_live("gt", 63), {}, True),
    (time_to_live("gt", 64), {}, False), (time_to_live("lt", 65), {}, True), (time_to_live("gt", 63, negate=True), {}, False),
    (time_to_live("eq", 64, negate=True), {}, False),
    (ReversePath(), {}, True), (ReversePath(invert=True), {}, False), (ReversePath(), {"in_interface": "cni0"}, False),
    (ReversePath(loose=True), {"in_interface": "cni0"}, True), (ReversePath(invert=True), {"in_interface": "lo"}, False),
    (RoutingHeader("--rt-type 0"), {}, False), (RoutingHeader("! --rt-type 0"), {}, False),
    (Quota(59), {}, False), (Quota(59, over=True), {}, True), (Quota(60), {}, True),
    (Limit(1, "hour", 5), {}, True), (Limit(1, "hour", 1), {}, False),
    (Recent("KNOWN", "rcheck", 10), {}, True), (Recent("OTHER", "rcheck", 10), {}, False),
    (Chance(1000), {}, False), (Chance(1001), {}, True),
    (Counter("counter"), {}, True),
    (named(Field.NFPROTO, "ipv4"), {}, True), (named(Field.NFPROTO, "ipv6"), {}, False),
    # nft's ct status: true if the connection has one of the bits
    (named(Field.CT_STATUS, "DNAT"), {}, True), (named(Field.CT_STATUS, "DNAT", negate=True), {}, False),
    (named(Field.CT_STATUS, "SNAT", "SEEN_REPLY"), {}, False), (named(Field.CT_STATUS, "SNAT", negate=True), {}, True),
    # K-20.1: a packet without socket makes a negated option true
    (equal(Field.LENGTH, 60), {}, True), (Compare(Field.LENGTH, ((61, 65535),)), {}, False),
    (equal(Field.UID, 0), {}, False), (Compare(Field.UID, ((7, 7),), negate=True, absent=True), {}, True),
    (equal(Field.GID, 0), {}, False), (Compare(Field.GID, ((7, 7),), negate=True, absent=True), {}, True),
    (equal(Field.DSCP, 46), {"traffic_class": 0xB9}, True), (equal(Field.ECN, 1), {"traffic_class": 0xB9}, True),
    (equal(Field.TRAFFIC_CLASS, 0xB8), {"traffic_class": 0xB9}, False), (equal(Field.TRAFFIC_CLASS, 0xB8, mask=0xFC), {"traffic_class": 0xB9}, True),
    (named(Field.FRAME, "host"), {}, True), (named(Field.FRAME, "broadcast"), {}, False),
    (named(Field.SOCKET, "process"), {}, False),
    # K-20.2: no bridge handed the packet to netfilter
    (BridgePort("in"), {}, False), (BridgePort("in", negate=True), {}, True), (BridgePort("out", "veth1"), {}, False),
    (BridgePort("in", NamePattern("veth"), negate=True), {}, True), (BridgePort("bridged"), {}, False),
    # K-20.3: no process has a transparent socket, or one at an address of another machine
    (LocalSocket("--transparent"), {}, False), (LocalSocket(), {"protocol": "sctp"}, False),
    (named(Field.SADDR_TYPE_IN, "UNICAST"), {}, True), (named(Field.SADDR_TYPE_OUT, "LOCAL"), {}, False),
    (named(Field.DADDR_TYPE_IN, "LOCAL"), {}, True), (named(Field.DADDR_TYPE_OUT, "UNICAST"), {}, False),
    # several names, several numbers, beginnings of names, any name
    (named(Field.L4PROTO, "tcp", "udp"), {}, True), (named(Field.L4PROTO, "udp", "sctp"), {}, False),
    (named(Field.IIFNAME, "eth0", "eth1", negate=True), {}, False),
    (Compare(Field.MARK, ((1, 2), (0x4000, 0x4000))), {}, True), (Compare(Field.MARK, ((1, 2), (4, 9))), {}, False),
    (Compare(Field.MARK, ((1, 2), (4, 9)), mask=0xF), {"mark": 0x4005}, True), (Compare(Field.MARK, (), negate=True), {}, True),
    (Compare(Field.IIFNAME, NamePattern("")), {"in_interface": ""}, True), (Compare(Field.TTL, ()), {}, False),
    # ports as ipsets read them (K-21.1)
    (equal(Field.SPORT_OR_TYPE, 40000), {}, True), (equal(Field.DPORT_OR_TYPE, 80), {}, True),
    (equal(Field.SPORT_OR_TYPE, 0x800), ECHO, True), (equal(Field.DPORT_OR_TYPE, 0x803), {**ECHO, "icmp_code": 3}, True),
    (equal(Field.DPORT_OR_TYPE, 0), {"protocol": "gre"}, True), (equal(Field.DPORT_OR_TYPE, 0), {"protocol": "dccp"}, True),
    (equal(Field.SPORT_OF_BITMAP, 40000), {}, True), (equal(Field.DPORT_OF_BITMAP, 80), {"protocol": "udp"}, True),
    (equal(Field.DPORT_OF_BITMAP, 80), {"protocol": "sctp"}, False), (equal(Field.SPORT_OF_BITMAP, 40000), ECHO, False),
    # ip_vs has not seen the packet: tests of ip_vs' hooks have the other cases
    (named(Field.IPVS, "no"), {}, True), (named(Field.IPVS, "yes"), {}, False), (named(Field.IPVS, "no", negate=True), {}, False),
    (equal(Field.IPVS_VADDR, 1, negate=True), {}, False), (equal(Field.IPVS_VPORT, 1, negate=True), {}, False),
    (named(Field.IPVS_PROTOCOL, "udp", negate=True), {}, False), (named(Field.IPVS_METHOD, "GATE", negate=True), {}, False),
    (named(Field.IPVS_DIRECTION, "REPLY", negate=True), {}, False),
    # the packet lacks the field
    (equal(Field.TCP_FLAGS, 2, mask=2), ECHO, False), (equal(Field.TCP_FLAGS, 2, mask=2, negate=True), ECHO, False),
    (replace(source_port(1, 2), absent=True), ECHO, True), (replace(destination_port(1, 1), absent=True), ECHO, True),
    (multiport("ports", ((80, 80),)), ECHO, False), (multiport("ports", ((1, 2),), negate=True), ECHO, False),
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


def test_every_kind_of_expression_and_every_field_has_a_case():
    kinds = {type(match) for match, _, _ in CASES}
    assert kinds | {Unknown} == set(get_args(Expression))
    fields = {match.field for match, _, _ in CASES if isinstance(match, Compare)}
    assert fields == set(Field) == set(GETTERS)


def options(words: str) -> tuple:
    return parse_rule(f"-A C {words}", Family.IPV4)[1].body


def test_of_a_packet_without_connection_the_kernel_asks_the_state_only():
    """CT-3.10: beside ``--ctstate`` in one -m nothing more is asked; alone an option is false, negated or not."""
    facts = Facts(tcp(), "INVALID")
    for option in ("--ctorigdst 172.30.0.1", "--ctorigdstport 1:2", "--ctdir REPLY"):
        for words, expected in (
            (f"-m conntrack {option}", False),
            (f"-m conntrack --ctstate INVALID {option}", True),
            (f"-m conntrack {option} --ctstate INVALID", True),
            (f"-m conntrack --ctstate INVALID -m conntrack {option}", False),
        ):
            assert all(condition(part, "key")(facts) for part in options(words)) is expected, words
    assert condition(ct_original_port(1, 2, negate=True), "key")(facts) is False
    assert condition(connection_mark(0, negate=True), "key")(facts) is False
    lacking = [field for field in Field if GETTERS[field](facts) is None]
    others = {Field.ICMP_TYPE, Field.ICMP_CODE, Field.SOCKET, Field.UID, Field.GID}
    of_ipvs = {field for field in Field if field.name.startswith("IPVS_")}
    assert set(lacking) - others - of_ipvs == OF_CONNECTION - {Field.CT_STATE}
    assert of_ipvs < set(lacking)


def test_comments_are_no_condition():
    assert options("-m comment --comment x") == ()


def test_counters_count():
    facts = Facts(tcp())
    holds = condition(Counter("localhost_nps_accepted_pkts"), "key")
    assert holds is not None and holds(facts)
    assert facts.counted == ["localhost_nps_accepted_pkts"]


def test_the_unknown_is_neither_true_nor_false():
    holds = condition(Unknown("-m hashlimit"), "key")
    facts = Facts(tcp())
    for answer in (False, True):
        facts.world = World((answer,))
        assert holds(facts) is answer
        assert facts.world.words == ["-m hashlimit"]


def test_headers_are_compared_before_options():
    words = "-m hashlimit --x 1 -m recent --name A --set -m statistic --mode random --probability 0.5 -p tcp"
    rule = parse_rule(f"-A C {words}", Family.IPV4, unknown="keep")[1]
    assert rule.body == (of_protocol("tcp"), Unknown("-m hashlimit --x 1"), Recent("A", "set"), Chance(1 << 30))


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
        # without a route there is no way back; IPv6's unspecified address passes (duplicate address detection)
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
