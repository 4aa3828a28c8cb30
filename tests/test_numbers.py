"""The numbers that rules draw, count or hash (NFT-6, K-5, K-9). What was measured is also sent through Linux by
``kernel/test_nft_in_linux.py``.
"""

from collections import Counter as Tally
from dataclasses import replace
from fractions import Fraction

import pytest
from nft_tables import (
    NAT,
    base,
    dport,
    drawn,
    forwarding,
    map_of,
    names,
    nft_table,
    tcp,
    translating,
    with_tables,
)
from packets import CLIENT, CLUSTER_IP, POD, REMOTE_POD, ip, packet, rule, run, to

from kpsim.addresses import Family
from kpsim.netfilter import Disposition, expand, walk
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.hashing import hashed, lookup3
from kpsim.packetpath.steps import Drawn
from kpsim.ruleset import (
    DROP,
    Chain,
    Counter,
    Dispatch,
    Dnat,
    Field,
    Goto,
    Hashed,
    Hook,
    Lookup,
    Mapped,
    Numgen,
    Origin,
    Role,
    Rule,
    Set,
)

DROPPED, FORWARDED = Disposition.DROPPED, Disposition.FORWARDED
ENDPOINTS = {(0,): (ip(POD), 8080), (1,): (ip(REMOTE_POD), 9090)}


def test_draws_are_uniform_and_merge_where_they_lead_to_the_same():
    verdicts = map_of({(0,): Goto("A"), (1,): Goto("A"), (2,): Goto("B")})
    more = (Chain("A", (rule(Dnat(ip(POD), 80)),)), Chain("B", (rule(Dnat(ip(REMOTE_POD), 80)),)))
    netns = with_tables(nft_table(base(Hook.PREROUTING, rule(tcp(), Dispatch(drawn(3), verdicts)), of=NAT), *more))
    ways = expand(netns, packet(CLIENT, CLUSTER_IP), now_ns=0)
    assert [(weight, to(way)[0]) for weight, way in ways] == [(Fraction(2, 3), POD), (Fraction(1, 3), REMOTE_POD)]
    apart = expand(netns, packet(CLIENT, CLUSTER_IP), now_ns=0, merge=False)
    assert [weight for weight, _ in apart] == [Fraction(1, 3)] * 3
    seeded = Tally(
        to(walk(netns, packet(CLIENT, CLUSTER_IP), now_ns=0, chooser=SeededChooser(1, flow)))[0] for flow in range(300)
    )
    assert 150 < seeded[POD] < 250


def test_a_number_without_element_ends_the_rule_and_has_its_odds():
    netns = forwarding(rule(Dispatch(drawn(4), map_of({(0,): DROP})), Counter("rest")), rule(Counter("next")))
    ways = expand(netns, packet(CLIENT, POD), now_ns=0)
    assert [(weight, way.disposition, names(way)) for weight, way in ways] == [
        (Fraction(1, 4), DROPPED, []), (Fraction(3, 4), FORWARDED, ["next"]),
    ]  # fmt: skip


def test_one_of_one_is_not_drawn():
    """NFT-6.9: a Service with one endpoint has ``mod 1`` too."""
    netns = translating(Dnat(None, mapped=Mapped(drawn(1), map_of({(0,): (ip(POD), 8080)}), port=True)))
    ways = expand(netns, packet(CLIENT, CLUSTER_IP), now_ns=0, trace=True)
    assert [weight for weight, _ in ways] == [1]
    assert not [step for step in ways[0][1].trace if isinstance(step, Drawn)]


def test_an_offset_is_added():
    ways = expand(forwarding(rule(Lookup(drawn(2, 10), Set.of((11,))), DROP)), packet(CLIENT, POD), now_ns=0)
    assert [(weight, way.disposition) for weight, way in ways] == [
        (Fraction(1, 2), FORWARDED), (Fraction(1, 2), DROPPED),
    ]  # fmt: skip


def test_a_draw_is_keyed_by_why_the_rule_exists():
    """An added Service leaves the draws of other flows alone."""
    origin = Origin(Role.BALANCE, "shop/web:http", "TCP")
    chosen = Rule((tcp(), Dnat(None, mapped=Mapped(drawn(2), map_of(ENDPOINTS), port=True))), origin=origin)
    alone = with_tables(nft_table(base(Hook.PREROUTING, chosen, of=NAT)))
    other = rule(Lookup(drawn(7), Set.of((9,))), DROP)
    beside = with_tables(nft_table(base(Hook.PREROUTING, other, chosen, of=NAT)))
    for flow in range(20):
        chooser = SeededChooser(1, flow)
        assert to(walk(alone, packet(CLIENT, CLUSTER_IP), now_ns=0, chooser=chooser)) == to(
            walk(beside, packet(CLIENT, CLUSTER_IP), now_ns=0, chooser=chooser)
        )


def counts_of(source: Numgen | Hashed, flows: int, **sent: object) -> list[int]:
    """The numbers that a rule makes of packets one after another, each of which is committed."""
    netns = forwarding(rule(Lookup((source,), Set.of((99,)))))
    found = []
    for flow in range(flows):
        outcome = run(netns, packet(CLIENT, POD, sport=40000 + flow, **sent), flow=flow)  # type: ignore[arg-type]
        found += [step.number for step in outcome.trace if isinstance(step, Drawn)]
    return found


def test_a_counter_counts_from_the_offset_round():
    """K-9.9: ``numgen inc mod 3 offset 10`` gives 10, 11, 12, 10, …"""
    assert counts_of(Numgen(3, 10, random=False), 5) == [10, 11, 12, 10, 11]


def test_a_counter_moves_only_when_the_packet_is_committed():
    netns = forwarding(rule(Lookup((Numgen(3, 0, random=False),), Set.of((0,))), DROP))
    assert [run(netns, packet(CLIENT, POD), commit=False).disposition for _ in range(2)] == [DROPPED, DROPPED]
    assert [run(netns, packet(CLIENT, POD)).disposition for _ in range(4)] == [DROPPED, FORWARDED, FORWARDED, DROPPED]


def test_every_packet_that_reaches_a_counter_is_counted_whatever_else_the_rule_asks():
    """The index leaves out rules for other ports only if nothing before the port counts."""
    counted = [rule(Lookup((Numgen(2, 0, random=False),), Set.of((0,))), dport(n), DROP) for n in range(1, 9)]
    netns = forwarding(*counted)
    for _ in range(2):
        run(netns, packet(CLIENT, POD, dport=9999))
    assert len(netns.memory.numbers) == len(counted)


@pytest.mark.parametrize(
    ("data", "scaled"),
    [
        (b"\x7f\0\0\1", 13006),
        (b"\x7f\0\0\1" * 2, 22286),
        (b"\x07\xd0", 38837),
        (b"\x7f\0\0\1\x9c\x40\0\0\x7f\0\0\1\x07\xd0\0\0", 29114),
        (b"\x7f\0\0\1\x11\0\0\0", 88184),
        (bytes(15) + b"\1\x9c\x40\0\0\x11\0\0\0", 55846),
        ((bytes(15) + b"\1") * 2, 88479),
        ((bytes(15) + b"\1") * 2 + b"\x07\xd0\0\0", 9901),
    ],
)
def test_jhash_is_lookup3(data, scaled):
    """K-9.9: ``jhash ip saddr . udp sport … mod 100000 seed 0x1234`` of packets 127.0.0.1:40000 → 127.0.0.1:2000, and of IPv6."""
    assert lookup3(data, 0x1234) * 100000 >> 32 == scaled


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ((Field.SADDR,), 13006),
        ((Field.SADDR, Field.DADDR), 22286),
        ((Field.DPORT,), 38837),
        ((Field.SADDR, Field.SPORT, Field.DADDR, Field.DPORT), 29114),
        ((Field.SADDR, Field.L4PROTO), 88184),
        ((Field.SADDR, Field.L4PROTO, Field.DPORT), 61188),
        ((Field.SADDR, Field.MARK), 25112),
    ],
)
def test_a_hash_with_a_seed_is_computed(fields, number):
    """K-9.9, as above."""
    hashing = Lookup((Hashed(fields, 100000, 5, 0x1234),), Set.of((0,)))
    netns = with_tables(nft_table(base(Hook.OUTPUT, rule(hashing))))
    outcome = run(netns, packet("127.0.0.1", "127.0.0.1", 2000, protocol="udp"), local=True)
    assert [step.number for step in outcome.trace if isinstance(step, Drawn)] == [number + 5]


def test_a_hash_of_ipv6_addresses():
    """K-9.9, as above: of packets ::1 → ::1."""
    hashing = Hashed((Field.SADDR, Field.DADDR, Field.DPORT), 100000, seed=0x1234)
    assert hashed(hashing, (1, 1, 2000), Family.IPV6) == 9901
    assert hashed(replace(hashing, key=(Field.SADDR,)), (1,), Family.IPV6) == 67439


def test_a_hash_with_an_unknown_seed_gives_equal_packets_equal_numbers():
    """nft(8): without ``seed`` the kernel draws one when the rule is loaded."""
    hashing = Hashed((Field.SADDR,), 1000)
    assert len(set(counts_of(hashing, 6))) == 1
    assert len(set(counts_of(Hashed((Field.SADDR, Field.SPORT), 1000), 6))) > 3
    ways = expand(
        forwarding(rule(Lookup((hashing,), Set.of(*[(n,) for n in range(250)])), DROP)), packet(CLIENT, POD), now_ns=0
    )
    assert sum(weight for weight, way in ways if way.disposition is DROPPED) == Fraction(1, 4)


def test_a_hash_of_what_has_no_known_bytes_ends_unknown():
    outcome = run(
        forwarding(rule(Lookup((Hashed((Field.IIFNAME,), 2, 0, 1),), Set.of((0,))), DROP)), packet(CLIENT, POD)
    )
    assert (outcome.disposition, outcome.unknown) == (Disposition.UNKNOWN, "jhash of the input interface")
