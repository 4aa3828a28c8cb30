"""Look-ups in sets and maps, what a map makes a rule do, and where base chains stand (NFT-4 to NFT-6, K-9). What was
measured is also sent through Linux by ``kernel/test_nft_in_linux.py``.
"""

from dataclasses import replace
from fractions import Fraction

import pytest
from nft_tables import (
    NAT,
    SERVICE_KEY,
    base,
    dport,
    drawn,
    forwarding,
    map_of,
    named_map,
    names,
    nft_table,
    set_of,
    tcp,
    to_set,
    translating,
    with_tables,
)
from packets import CLIENT, CLUSTER_IP, NODE, POD, REMOTE_POD, ip, packet, rule, run, to
from rule_parts import ct_state, set_mark

from kpsim.addresses import Family
from kpsim.errors import InputError
from kpsim.maps import Map
from kpsim.netfilter import Disposition, expand
from kpsim.packetpath.elements import find
from kpsim.packetpath.steps import RuleMatched
from kpsim.ruleset import (
    ACCEPT,
    CONTINUE,
    DROP,
    FOREIGN,
    RETURN,
    Assign,
    Chain,
    Counter,
    Dispatch,
    Dnat,
    Element,
    Field,
    Goto,
    Hashed,
    Hook,
    Jump,
    Lookup,
    Mapped,
    Masked,
    NamePattern,
    NatFlags,
    Numgen,
    Origin,
    Redirect,
    Reject,
    Role,
    Rule,
    Ruleset,
    Set,
    SetFlags,
    Snat,
    Space,
    Verdict,
)

DROPPED, FORWARDED = Disposition.DROPPED, Disposition.FORWARDED
INTERVAL = SetFlags.INTERVAL
WEB = (ip(CLUSTER_IP), "tcp", 80)
ENDPOINTS = {(0,): (ip(POD), 8080), (1,): (ip(REMOTE_POD), 9090)}


def met(*rules: Rule, sets: tuple[Set, ...] = (), more: tuple[Chain, ...] = (), **sent: object) -> list[str]:
    """The counters of FORWARD that a TCP packet from CLIENT to POD meets."""
    return names(run(forwarding(*rules, sets=sets, more=more), packet(CLIENT, POD, **sent)))  # type: ignore[arg-type]


# --- keys of sets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "keys", "found"),
    [
        (set_of("", (80,), (443,)), [(80,), (81,)], [True, False]),
        (set_of("", (80,), ((1000, 2000),)), [(80,), (79,), (999,), (1000,), (1500,), (2000,), (2001,)], [1, 0, 0, 1, 1, 1, 0]),
        (set_of("s", ((0, 9),), ((20, 29),), flags=INTERVAL), [(0,), (9,), (10,), (19,), (20,), (30,)], [1, 1, 0, 0, 1, 0]),
        (set_of("", ("eth0",), (NamePattern("cali"),)), [("eth0",), ("eth01",), ("cali",), ("cali7",), ("ca",)], [1, 0, 1, 1, 0]),
        # concatenations: every part must fit the same element
        (set_of("", ("tcp", 80), ("udp", 53)), [("tcp", 80), ("tcp", 53)], [1, 0]),
        (set_of("", ("tcp", (1, 9)), ("udp", (5, 20))), [("tcp", 9), ("tcp", 10), ("udp", 10), ("udp", 4)], [1, 0, 1, 0]),
        (set_of("", ((0, 9), (5, 5)), ((20, 29), (6, 6))), [(9, 5), (9, 6), (20, 6), (20, 5)], [1, 0, 1, 0]),
        (set_of("", (1, (5, 6)), (1, (8, 9)), ((1, 2), 7)), [(1, 5), (1, 8), (1, 7), (2, 7), (2, 5)], [1, 1, 1, 1, 0]),
        (set_of(""), [(80,)], [False]),
        # what nft writes as *
        (set_of("", (80,), (NamePattern(""),)), [(80,), (81,)], [1, 1]),
        (set_of("s", ("tcp", 80), (NamePattern(""), NamePattern(""))), [("tcp", 80), ("udp", 53)], [1, 1]),
    ],
)  # fmt: skip
def test_a_key_is_found_among_exact_elements_intervals_and_beginnings_of_names(held, keys, found):
    """nft(8): sets, intervals, concatenations; ``eth*`` in a set of names."""
    assert [find(held, key) is not None for key in keys] == [bool(each) for each in found]


@pytest.mark.parametrize("listed", [(80,), ((80, 90),)])
@pytest.mark.parametrize("name", ["", "s"])
def test_the_element_for_the_rest_is_found_where_no_other_is(name, listed):
    """K: nft_set_catchall_lookup. Also intervals and names of the same set come first, however they are written."""
    rest = (NamePattern(""),)
    held = set_of(name, rest, listed, flags=INTERVAL)
    assert [find(held, key)[0] for key in [(80,), (79,)]] == [listed, rest]
    named = set_of(name, rest, ("eth0",), (NamePattern("cali"),), flags=INTERVAL)
    assert [find(named, key)[0] for key in [("eth0",), ("cali1",), ("lo",)]] == [
        ("eth0",),
        (NamePattern("cali"),),
        rest,
    ]


def test_an_element_is_told_with_its_own_key():
    held = Set(Map({((1000, 2000),): Element((7,)), (80,): Element((8,))}))
    assert find(held, (1999,)) == (((1000, 2000),), Element((7,)))


def test_the_order_in_which_elements_were_written_decides_nothing():
    keys = [((0, 9), 5), ((5, 20), 5), (7, (0, 9)), (NamePattern("a"), 1), (NamePattern("ab"), 1)]
    for held in ([*keys], [*reversed(keys)]):
        assert find(set_of("", *held), (7, 5)) == find(set_of("", *keys), (7, 5))
        assert find(set_of("", *held), ("abc", 1)) == find(set_of("", *keys), ("abc", 1))


def test_a_changed_set_is_looked_up_anew():
    held = set_of("s", ((0, 9),), flags=INTERVAL)
    assert find(held, (15,)) is None
    assert find(Set(held.elements.set(((10, 19),), Element()), "s", flags=INTERVAL), (15,)) is not None


def test_named_sets_of_a_table():
    """NFT-5.8: ``ip daddr @cluster-ips``. A set belongs to its table."""
    sets = (set_of("pods", (ip(POD),)),)
    listed = Lookup((Field.DADDR,), to_set("pods"))
    others = Lookup((Field.DADDR,), to_set("pods"), negate=True)
    assert met(rule(listed, Counter("in")), rule(others, Counter("out")), sets=sets) == ["in"]
    elsewhere = nft_table(base(Hook.FORWARD, rule(listed, Counter("in"))), sets=[set_of("pods")])
    of_another = nft_table(sets=sets, name="u")
    assert names(run(with_tables(elsewhere, of_another), packet(CLIENT, POD))) == []


def test_a_set_that_is_not_there_is_named():
    with pytest.raises(InputError, match="a rule of table t names set gone, which does not exist"):
        met(rule(Lookup((Field.DADDR,), to_set("gone"))))


def test_a_packet_that_lacks_a_part_of_the_key_ends_the_rule():
    """NFT-9.3: a ping has no ports; also a negated look-up is then false."""
    ports = set_of("ports", ("tcp", 80))
    asked = Lookup((Field.L4PROTO, Field.DPORT), to_set("ports"))
    rules = [rule(asked, Counter("in")), rule(Lookup(asked.key, asked.set, negate=True), Counter("out"))]
    assert met(*rules, sets=(ports,)) == ["in"]
    assert met(*rules, sets=(ports,), dport=81) == ["out"]
    assert met(*rules, sets=(ports,), protocol="icmp", sport=0, dport=0) == []
    assert met(rule(Dispatch(asked.key, map_of({("tcp", 80): DROP}))), rule(Counter("next")), protocol="icmp") == [
        "next"
    ]


@pytest.mark.parametrize(("source", "value"), [(Field.MARK, 0x1234), (Masked(Field.MARK, 0xFF00, 8), 0x12)])
def test_marks_and_bits_of_marks_are_keys(source, value):
    netns = with_tables(
        nft_table(
            base(Hook.PREROUTING, rule(Assign(Field.MARK, 0, 0x1234))),
            base(Hook.FORWARD, rule(Lookup((source,), Set.of((value,))), Counter("in"))),
        )
    )
    assert names(run(netns, packet(CLIENT, POD))) == ["in"]


def test_the_state_of_a_packet_is_one_name():
    """nft(8): ``ct state vmap { … }`` looks up one value, so DNAT is no part of it. Without connection: invalid."""
    states = map_of({("NEW",): Jump("new"), ("INVALID",): Jump("invalid")})
    more = (Chain("new", (rule(Counter("new")),)), Chain("invalid", (rule(Counter("invalid")),)))
    asks = rule(Dispatch((Field.CT_STATE,), states))
    assert met(asks, rule(ct_state("NEW")), more=more) == ["new"]
    translated = nft_table(
        base(Hook.PREROUTING, rule(dport(80), Dnat(ip(POD), 8080)), of=NAT, priority=-100),
        base(Hook.FORWARD, asks), *more,
    )  # fmt: skip
    assert names(run(with_tables(translated), packet(CLIENT, CLUSTER_IP))) == ["new"]
    in_raw = nft_table(base(Hook.PREROUTING, asks, priority=-300), *more)
    assert names(run(with_tables(in_raw), packet(CLIENT, POD))) == ["invalid"]


# --- verdict maps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "expected", "dropped"),
    [
        (ACCEPT, [], False),
        (DROP, [], True),
        (RETURN, [], False),
        (CONTINUE, ["rest", "next"], False),
        (Jump("A"), ["in A", "next"], False),
        (Goto("A"), ["in A"], False),
    ],
)
def test_an_element_of_a_verdict_map_decides(verdict, expected, dropped):
    """nft(8), verdict maps: an element is carried out as if it stood in the rule. ``continue`` goes on in the rule."""
    asks = rule(Dispatch(SERVICE_KEY, to_set("m")), Counter("rest"))
    netns = forwarding(
        asks,
        rule(Counter("next")),
        sets=(named_map("m", {WEB: verdict}),),
        more=(Chain("A", (rule(Counter("in A")),)),),
    )
    outcome = run(netns, packet(CLIENT, CLUSTER_IP))
    assert (names(outcome), outcome.disposition is DROPPED) == (expected, dropped)
    assert names(run(netns, packet(CLIENT, CLUSTER_IP, dport=81))) == ["next"]  # no such key: the next rule


def test_a_verdict_map_behind_another_statement():
    looks = rule(
        set_mark(1, 1), tcp(), Dispatch((Field.DPORT,), map_of({(80,): Jump("A"), (81,): DROP})), Counter("rest")
    )
    netns = forwarding(looks, rule(Counter("next")), more=(Chain("A", (rule(Counter("in A")),)),))
    outcomes = [run(netns, packet(CLIENT, POD, dport=number)) for number in (80, 81, 82)]
    assert [names(each) for each in outcomes] == [["in A", "next"], [], ["next"]]
    assert [each.packet.mark for each in outcomes] == [1, 1, 1]
    assert outcomes[1].rule is not None and outcomes[1].rule.element is not None
    assert outcomes[1].rule.element.key == (81,)


def test_the_element_that_decided_is_named_and_its_origin_counts():
    """The rule is every Service's, the element is one Service's."""
    origin = Origin(Role.NO_LOCAL_ENDPOINTS, "shop/web:http", "TCP")
    held = Set(Map({WEB: Element(DROP, "shop/web:http", origin=origin)}), "no-endpoint-services")
    outcome = run(forwarding(rule(Dispatch(SERVICE_KEY, to_set(held.name))), sets=(held,)), packet(CLIENT, CLUSTER_IP))
    at = outcome.rule
    assert at is not None and at.element is not None
    assert (at.chain, at.number, at.element.set, at.element.key, at.origin) == (
        "filter-forward", 1, "no-endpoint-services", WEB, origin,
    )  # fmt: skip
    assert at._replace(element=None).origin == FOREIGN
    matched = [step.at for step in outcome.trace if isinstance(step, RuleMatched)]
    assert matched == [at]


def test_a_refusal_that_serves_every_service_names_the_element_that_led_there():
    """NFT-5.4: all Services without endpoints share one chain with one reject."""
    origin = Origin(Role.NO_ENDPOINTS, "shop/web:http", "TCP")
    held = Set(Map({WEB: Element(Goto("reject"), origin=origin)}), "no-endpoint-services")
    looks = rule(Dispatch(SERVICE_KEY, to_set(held.name)))
    for service, expected in (("", origin), ("shop/other", Origin(Role.NO_ENDPOINTS, "shop/other"))):
        refuses = Rule((Reject(),), origin=Origin(Role.NO_ENDPOINTS, service))
        outcome = run(forwarding(looks, sets=(held,), more=(Chain("reject", (refuses,)),)), packet(CLIENT, CLUSTER_IP))
        assert outcome.rule is not None and (outcome.rule.chain, outcome.rule.origin) == ("reject", expected)
    foreign = Chain("reject", (rule(DROP),))
    outcome = run(forwarding(looks, sets=(held,), more=(foreign,)), packet(CLIENT, CLUSTER_IP))
    assert outcome.rule is not None and outcome.rule.origin == FOREIGN


def test_a_rule_whose_map_has_no_such_key_did_not_match():
    outcome = run(forwarding(rule(Dispatch(SERVICE_KEY, map_of({WEB: DROP})))), packet(CLIENT, POD))
    assert not [step for step in outcome.trace if isinstance(step, RuleMatched)]


# --- translations out of maps ------------------------------------------------------------------------------------------


def test_a_destination_out_of_a_map():
    """NFT-6.9: ``dnat ip addr . port to numgen random mod 2 map { 0 : … }``; each endpoint with equal odds (K-5)."""
    chosen = Mapped(drawn(2), map_of(ENDPOINTS), port=True)
    ways = expand(translating(Dnat(None, mapped=chosen)), packet(CLIENT, CLUSTER_IP), now_ns=0)
    assert [(weight, to(way)) for weight, way in ways] == [
        (Fraction(1, 2), (POD, 8080)), (Fraction(1, 2), (REMOTE_POD, 9090)),
    ]  # fmt: skip
    assert [way.dnat_rule.element.key for _, way in ways if way.dnat_rule and way.dnat_rule.element] == [(0,), (1,)]


def test_a_map_without_the_key_ends_the_rule():
    chosen = Mapped((Field.DPORT,), map_of({(81,): (ip(POD), 8080)}), port=True)
    netns = translating(Dnat(None, mapped=chosen))
    assert [to(run(netns, packet(CLIENT, CLUSTER_IP, dport=number)))[1] for number in (80, 81)] == [80, 8080]


@pytest.mark.parametrize(
    ("mapped", "values", "expected"),
    [
        (Mapped((Field.DPORT,), map_of({(80,): (ip(POD),)})), Dnat(None, 7070), (POD, 7070)),
        (Mapped((Field.DPORT,), map_of({(80,): (8080,)}), address=False, port=True), Dnat(ip(POD)), (POD, 8080)),
        (Mapped((Field.DPORT,), map_of({(80,): (8080,)}), address=False, port=True), Redirect(), (NODE, 8080)),
    ],
)
def test_a_map_may_say_the_address_alone_or_the_port_alone(mapped, values, expected):
    netns = translating(type(values)(**{**{f: getattr(values, f) for f in values.__slots__}, "mapped": mapped}))
    assert to(run(netns, packet(CLIENT, NODE))) == expected


def test_a_source_out_of_a_map():
    held = map_of({(ip(CLIENT),): (ip("192.168.0.51"), 7000)})
    netns = translating(Snat(None, mapped=Mapped((Field.SADDR,), held, port=True)), Hook.POSTROUTING)
    outcome = run(netns, packet(CLIENT, POD))
    assert (outcome.packet.source, outcome.packet.sport) == ("192.168.0.51", 7000)


@pytest.mark.parametrize(
    ("statement", "ports"),
    [(Snat(ip("192.168.0.51")), (7000, 7000)), (Snat(ip("192.168.0.51"), (9, 9)), (7000, 7000))],
)
def test_a_map_may_say_the_source_port_alone(statement, ports):
    held = map_of({(80,): (7000,)})
    chosen = Mapped((Field.DPORT,), held, address=False, port=True)
    outcome = run(translating(replace(statement, mapped=chosen), Hook.POSTROUTING), packet(CLIENT, POD))
    assert (outcome.packet.source, outcome.packet.sport) == ("192.168.0.51", ports[0])
    assert outcome.packet.sport == outcome.entry.reply.dport


def test_a_map_may_say_the_source_address_alone():
    chosen = Mapped((Field.DPORT,), map_of({(80,): (ip("192.168.0.51"),)}))
    outcome = run(translating(Snat(None, (7000, 7000), mapped=chosen), Hook.POSTROUTING), packet(CLIENT, POD))
    assert (outcome.packet.source, outcome.packet.sport) == ("192.168.0.51", 7000)


@pytest.mark.parametrize(
    ("value", "arrival"), [((ip(POD), (90, 95)), (POD, 90)), (((ip(POD), ip(POD)), (70, 85)), (POD, 80))]
)
def test_a_map_may_lead_to_a_range(value, arrival):
    """K-24.4: a port that lies in the range stays, else it is the first free one."""
    chosen = Mapped((Field.DPORT,), map_of({(80,): value}), port=True)
    assert to(run(translating(Dnat(None, mapped=chosen)), packet(CLIENT, NODE))) == arrival


def test_flags_hold_for_a_mapped_translation():
    chosen = Mapped((Field.DPORT,), map_of({(80,): (ip("192.168.0.51"),)}))
    random = Snat(None, flags=NatFlags.FULLY_RANDOM, mapped=chosen)
    assert run(translating(random, Hook.POSTROUTING), packet(CLIENT, POD)).source_port_drawn


def test_a_destination_port_alone_keeps_the_address():
    """nft(8): ``dnat to :8080``; a ping, which has no port, keeps its id."""
    netns = with_tables(nft_table(base(Hook.PREROUTING, rule(Dnat(None, 8080)), of=NAT, priority=-100)))
    assert to(run(netns, packet(CLIENT, POD))) == (POD, 8080)


def test_a_random_redirect_of_a_ping_draws_its_id():
    """K-2.4: a random destination translation takes any id."""
    netns = with_tables(nft_table(base(Hook.PREROUTING, rule(Redirect(flags=NatFlags.RANDOM)), of=NAT, priority=-100)))
    assert run(netns, packet(CLIENT, POD, protocol="icmp", icmp_type=8, sport=7, dport=0)).source_port_drawn


# --- where chains stand ------------------------------------------------------------------------------------------------


def test_a_dormant_table_is_not_called_but_tracks_connections():
    """K-1.5: a rule registers connection tracking whether its chain is called or not."""
    asleep = nft_table(base(Hook.FORWARD, rule(ct_state("NEW"), DROP)), dormant=True)
    outcome = run(with_tables(asleep), packet(CLIENT, POD))
    assert (outcome.disposition, outcome.ct_state) == (FORWARDED, "NEW")


def test_of_equal_priorities_the_chain_registered_later_runs_first():
    """K-9.1, measured within one table and between two."""
    first = base(Hook.FORWARD, rule(Counter("first")), name="a", registered=1)
    second = base(Hook.FORWARD, rule(Counter("second")), name="b", registered=2)
    assert names(run(with_tables(nft_table(first, second)), packet(CLIENT, POD))) == ["second", "first"]
    apart = with_tables(nft_table(second, name="t"), nft_table(first, name="u"))
    assert names(run(apart, packet(CLIENT, POD))) == ["second", "first"]


def test_a_chain_beside_connection_tracking_sees_the_connection():
    """K-9.8, measured with a table that is loaded at once."""
    chain = base(Hook.PREROUTING, rule(ct_state("NEW"), Counter("new")), priority=-200)
    assert names(run(with_tables(nft_table(chain)), packet(CLIENT, POD))) == ["new"]


def test_accept_ends_one_base_chain_and_drop_ends_the_packet():
    """K-9.1, NFT-9.4."""
    accepts = base(Hook.FORWARD, rule(ACCEPT), priority=-1, name="a")
    drops = base(Hook.FORWARD, rule(DROP), rule(Counter("never")), name="b")
    assert run(with_tables(nft_table(accepts, drops)), packet(CLIENT, POD)).disposition is DROPPED
    later = base(Hook.FORWARD, rule(Counter("never")), priority=1, name="c")
    assert names(run(with_tables(nft_table(drops, later)), packet(CLIENT, POD))) == []


@pytest.mark.parametrize("ends", [RETURN, Goto("A"), Jump("A"), CONTINUE])
def test_the_policy_applies_where_no_rule_decided(ends):
    """nft(8): a base chain's policy; a packet does not come back from ``goto``."""
    chain = base(Hook.FORWARD, rule(ends), policy=Verdict.DROP)
    outcome = run(with_tables(nft_table(chain, Chain("A", ()))), packet(CLIENT, POD))
    assert (outcome.disposition, str(outcome.rule)) == (DROPPED, "t/filter-forward policy")


def test_a_table_of_both_families_sees_both():
    both = nft_table(base(Hook.FORWARD, rule(DROP)), space=Space.INET)
    netns = with_tables(both)
    netns.load_rules(Ruleset.of(Family.IPV6, both))
    assert run(netns, packet(CLIENT, POD)).disposition is DROPPED
    assert run(netns, packet("2001:db8::9", "2001:db8::5", came_by="eth0")).disposition is DROPPED


@pytest.mark.parametrize("priority", [-150, -100, 50])
def test_nat_translates_at_its_own_priority_whatever_its_chains_say(priority):
    """K-9.7: ``type nat hook output priority …`` at −150, −101, −100, −50, 50 and 300."""
    sees = [
        base(Hook.PREROUTING, rule(tcp(), dport(port), Counter(f"{port} at {at}")), priority=at, name=f"{port}{at}")
        for at in (-101, -99)
        for port in (80, 8080)
    ]
    nat = base(Hook.PREROUTING, rule(tcp(), dport(80), Dnat(ip(POD), 8080)), of=NAT, priority=priority)
    assert names(run(with_tables(nft_table(*sees, nat)), packet(CLIENT, CLUSTER_IP))) == ["80 at -101", "8080 at -99"]


def test_one_nat_chain_makes_nat_stand_in_all_hooks():  # K-9.7
    netns = with_tables(nft_table(base(Hook.OUTPUT, of=NAT, priority=-50)))
    found = {hook: [(each.name, each.priority) for each in netns.entries(Family.IPV4, hook)] for hook in Hook}
    assert found == {
        Hook.PREROUTING: [("nat", -100)], Hook.INPUT: [("nat", 100)], Hook.FORWARD: [],
        Hook.OUTPUT: [("nat", -100)], Hook.POSTROUTING: [("nat", 100)],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "tracks"),
    [
        (Field.CT_MARK, True), (Masked(Field.CT_MARK, 1), True), (Hashed((Field.CT_MARK,), 2, seed=1), True),
        (Field.MARK, False), (Masked(Field.MARK, 1), False), (Hashed((Field.MARK,), 2, seed=1), False), (Numgen(2), False),
    ],
)  # fmt: skip
def test_whatever_a_key_reads_of_the_connection_needs_connection_tracking(source, tracks):  # K-1.5
    for part in (Lookup((source,), Set.of((1,))), Dispatch((source,), map_of({(1,): CONTINUE}))):
        assert (run(forwarding(rule(part)), packet(CLIENT, POD)).entry is not None) is tracks


def test_nat_chains_of_a_hook_are_asked_until_one_translates():
    """K-9.1: accept ends one chain, a translation ends nat for the hook."""

    def to_of(*chains: Chain) -> tuple[str, int]:
        return to(run(with_tables(nft_table(*chains)), packet(CLIENT, CLUSTER_IP)))

    def nat(name: str, priority: int, *body: object, registered: int = 0) -> Chain:
        return base(
            Hook.PREROUTING, rule(tcp(), *body), of=NAT, priority=priority, name=name, registered=registered  # type: ignore[arg-type]
        )  # fmt: skip

    one, other = Dnat(ip(POD), 1), Dnat(ip(POD), 2)
    assert to_of(nat("a", -110, ACCEPT), nat("b", -100, other)) == (POD, 2)
    assert to_of(nat("a", -110, one), nat("b", -100, other)) == (POD, 1)
    assert to_of(nat("a", -90, one), nat("b", -100, other)) == (POD, 2)
    assert to_of(nat("a", -100, one, registered=1), nat("b", -100, other, registered=2)) == (POD, 2)


def test_answers_are_translated_back_in_hooks_without_a_nat_chain():
    """K-9.7: one chain of type nat registers nat in all four hooks; kube-proxy has none in INPUT (NFT-3.2)."""
    netns = with_tables(nft_table(base(Hook.OUTPUT, rule(tcp(), Dnat(ip(REMOTE_POD), 8080)), of=NAT, priority=-100)))
    first = run(netns, packet(NODE, CLUSTER_IP), local=True)
    assert to(first) == (REMOTE_POD, 8080)
    answer = packet(REMOTE_POD, NODE, 40000, sport=8080, tcp_flags=frozenset({"SYN", "ACK"}), came_by="eth0")
    back = run(netns, answer)
    assert (back.disposition, back.packet.source, back.packet.sport) == (Disposition.DELIVERED, CLUSTER_IP, 80)


def test_a_nat_chain_is_not_asked_without_a_connection():
    """K-1.5: a chain of type nat with a drop, and no rule that needs connection tracking."""
    drops = base(Hook.PREROUTING, rule(DROP), of=NAT, priority=-100)
    assert run(with_tables(nft_table(drops)), packet(CLIENT, POD)).disposition is FORWARDED
    tracked = nft_table(drops, Chain("unused", (rule(ct_state("NEW")),)))
    assert run(with_tables(tracked), packet(CLIENT, POD)).disposition is DROPPED
