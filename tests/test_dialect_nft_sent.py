"""What kube-proxy sends to nft, written from values (NFT-10.1 to 10.3). The lines are those of NFT-5 and NFT-6."""

from dataclasses import replace

import pytest

from kpsim.addresses import Network, parse_ip, parse_network
from kpsim.dialects.nft import commands
from kpsim.dialects.nft.spelling import Spelling, in_braces
from kpsim.maps import Map
from kpsim.ruleset import (
    ALL_BITS,
    DROP,
    FOREIGN,
    Assign,
    Base,
    Body,
    Chain,
    ChainType,
    Compare,
    DataType,
    Dispatch,
    Dnat,
    Element,
    Field,
    Goto,
    Hook,
    Jump,
    Lookup,
    Mapped,
    Masquerade,
    NamePattern,
    NatFlags,
    Numgen,
    Reject,
    Rule,
    Set,
    SetFlags,
    SetReference,
    SetType,
    SetVerb,
    Space,
    Table,
    TableKey,
    UpdateSet,
    equal,
    named,
    within,
    within_any,
)

IPV4, IPV6 = TableKey(Space.IP, "kube-proxy"), TableKey(Space.IP6, "kube-proxy")
MARK = 0x4000
TO_MARK = Assign(Field.MARK, ALL_BITS ^ MARK, MARK)
FULLY_RANDOM = Masquerade(None, NatFlags.FULLY_RANDOM)


def address(text: str) -> int:
    parsed = parse_ip(text)
    assert parsed is not None
    return parsed[1]


def network(text: str) -> Network:
    found = parse_network(text)
    assert found is not None
    return found


def lookup(name: str, *fields: Field) -> Lookup:
    return Lookup(fields, SetReference(name))


def dispatch(name: str, *fields: Field) -> Dispatch:
    return Dispatch(fields, SetReference(name))


TCP = named(Field.L4PROTO, "tcp")
PORT = (Field.L4PROTO, Field.DPORT)
NOT_LOCALHOST = within(Field.DADDR, network("127.0.0.0/8"), negate=True)
RANGES = [network(each) for each in ("198.51.100.0/24", "192.168.0.0/16", "203.0.113.20/32")]
TWO = Set(Map([((0,), Element((address("10.244.1.5"), 8080))), ((1,), Element((address("10.244.2.7"), 8080)))]))
EITHER = Set(Map([((0,), Element(Goto("endpoint-a"))), ((1,), Element(Goto("endpoint-b")))]))

RULES = [
    ((named(Field.CT_STATE, "NEW"), Jump("firewall-check")), None, "ct state new jump firewall-check"),
    ((NOT_LOCALHOST, dispatch("no-endpoint-nodeports", *PORT)), None,
     "ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @no-endpoint-nodeports"),
    ((dispatch("service-ips", Field.DADDR, *PORT),), None, "ip daddr . meta l4proto . th dport vmap @service-ips"),
    ((Reject(),), None, "reject"),
    ((equal(Field.MARK, 0, negate=True, mask=MARK), Assign(Field.MARK, ALL_BITS, MARK), FULLY_RANDOM), None,
     "mark and 0x00004000 != 0 mark set mark xor 0x00004000 masquerade fully-random"),
    ((named(Field.CT_STATUS, "DNAT"), lookup("hairpin-connections", Field.SADDR, Field.DADDR, *PORT), FULLY_RANDOM), None,
     "ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random"),
    ((lookup("cluster-ips", Field.DADDR), Compare(Field.IIFNAME, NamePattern("cali"), negate=True), TO_MARK), None,
     "ip daddr @cluster-ips iifname != cali* mark set mark or 0x00004000"),
    ((within_any(Field.DADDR, [network("10.96.0.0/16")]), DROP), in_braces(0, ["10.96.0.0/16"], ","),
     "ip daddr { 10.96.0.0/16 } drop"),
    ((within_any(Field.SADDR, RANGES, negate=True), DROP),
     in_braces(0, ["198.51.100.0/24", "192.168.0.0/16", "203.0.113.20"]),
     "ip saddr != { 198.51.100.0/24 , 192.168.0.0/16 , 203.0.113.20 } drop"),
    ((named(Field.SADDR_TYPE, "LOCAL"), TO_MARK), None, "fib saddr type local mark set mark or 0x00004000"),
    ((TCP, Dnat(None, mapped=Mapped((Numgen(2),), TWO, address=True, port=True))), None,
     "meta l4proto tcp dnat ip addr . port to numgen random mod 2 map { 0 : 10.244.1.5 . 8080 , 1 : 10.244.2.7 . 8080 }"),
    ((Dispatch((Numgen(2),), EITHER),), None, "numgen random mod 2 vmap { 0 : goto endpoint-a , 1 : goto endpoint-b }"),
    ((UpdateSet(SetReference("affinity-a"), (Field.SADDR,), SetVerb.UPDATE),), None, "update @affinity-a { ip saddr }"),
    ((TCP, Dnat(address("10.244.1.5"), 8080)), None, "meta l4proto tcp dnat to 10.244.1.5:8080"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "spelling", "text"), RULES, ids=[text for _, _, text in RULES])
def test_a_rule_is_written_as_kube_proxy_writes_it(body: Body, spelling: Spelling | None, text: str) -> None:
    """NFT-5 and NFT-6 quote the rules."""
    rule = Rule(body, "why", FOREIGN, spelling)
    assert commands.add_rule(IPV4, "c", rule) == f'add rule ip kube-proxy c {text} comment "why"'


def test_an_ipv6_endpoint_stands_in_brackets_behind_to_and_without_in_a_map() -> None:
    """NFT-6.9 and NFT-6.10."""
    there = address("fd00:10:244::5")
    assert (
        commands.add_rule(IPV6, "c", Rule((Dnat(there, 8080),)))
        == "add rule ip6 kube-proxy c dnat to [fd00:10:244::5]:8080"
    )
    one = Mapped((Numgen(1),), Set(Map([((0,), Element((there, 53)))])), address=True, port=True)
    assert (
        commands.add_rule(IPV6, "c", Rule((Dnat(None, mapped=one),)))
        == "add rule ip6 kube-proxy c dnat ip6 addr . port to numgen random mod 1 map { 0 : fd00:10:244::5 . 53 }"
    )


def test_objects_are_written_with_their_properties_in_the_order_of_the_library() -> None:
    """NFT-10.1: type, flags, timeout, comment, each closed by a semicolon."""
    base = Base(ChainType.FILTER, Hook.OUTPUT, -110)
    kind = SetType((DataType.IPV4_ADDRESS, DataType.PROTOCOL, DataType.PORT), (DataType.VERDICT,))
    service = Set(name="service-ips", type=kind, comment="traffic")
    affinity = Set(
        name="affinity-a",
        type=SetType((DataType.IPV4_ADDRESS,)),
        flags=SetFlags.DYNAMIC | SetFlags.TIMEOUT,
        timeout_ns=10_800 * 10**9,
    )
    full = replace(affinity, name="s", flags=SetFlags.INTERVAL | SetFlags.TIMEOUT, gc_ns=3 * 10**9, size=5, policy="memory",
                   auto_merge=True, comment="why")  # fmt: skip
    key = (address("10.96.0.30"), "udp", 53)
    assert [
        commands.add_table(Table(IPV4, comment="rules for kube-proxy")),
        commands.flush_table(IPV4),
        commands.delete_table(IPV6),
        commands.add_chain(IPV4, Chain("filter-output-pre-dnat", (), base)),
        commands.add_chain(IPV4, Chain("reject-chain", (), None, "helper")),
        commands.flush_chain(IPV4, "services"),
        commands.delete_chain(IPV4, "services"),
        commands.add_set(IPV4, affinity),
        commands.add_set(IPV4, service),
        commands.add_set(IPV4, full),
        commands.flush_set(IPV4, service),
        commands.delete_set(IPV4, affinity),
        commands.add_element(IPV4, service, key, Element(Goto("reject-chain"), "shop/dns:dns")),
        commands.add_element(IPV4, affinity, (key[0],), Element()),
        commands.delete_element(IPV4, service, key),
    ] == [
        'add table ip kube-proxy { comment "rules for kube-proxy" ; }',
        "flush table ip kube-proxy",
        "delete table ip6 kube-proxy",
        "add chain ip kube-proxy filter-output-pre-dnat { type filter hook output priority -110 ; }",
        'add chain ip kube-proxy reject-chain { comment "helper" ; }',
        "flush chain ip kube-proxy services",
        "delete chain ip kube-proxy services",
        "add set ip kube-proxy affinity-a { type ipv4_addr ; flags dynamic,timeout ; timeout 10800s ; }",
        'add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; comment "traffic" ; }',
        "add set ip kube-proxy s { type ipv4_addr ; flags interval,timeout ; timeout 10800s ; gc-interval 3s ; size 5 ; policy memory ; auto-merge ; "
        'comment "why" ; }',
        "flush map ip kube-proxy service-ips",
        "delete set ip kube-proxy affinity-a",
        'add element ip kube-proxy service-ips { 10.96.0.30 . udp . 53 comment "shop/dns:dns" : goto reject-chain }',
        "add element ip kube-proxy affinity-a { 10.96.0.30 }",
        "delete element ip kube-proxy service-ips { 10.96.0.30 . udp . 53 }",
    ]  # fmt: skip


def test_networks_that_touch_are_one_value() -> None:
    """The kernel merges the ranges of a list in a rule (NFT-10.4)."""
    halves = [network("203.0.113.0/25"), network("203.0.113.128/25")]
    assert within_any(Field.SADDR, halves) == within(Field.SADDR, network("203.0.113.0/24"))
    assert within_any(Field.SADDR, [network("fd00::1/128")]) == equal(Field.SADDR, address("fd00::1"))
