"""What packets put into sets of nftables, how long it stays, and what a full set does (NFT-6.10, NFT-6.11, K-9.2).

K-9.5 and K-9.6 say what was measured; ``kernel/test_nft_in_linux.py`` measures it again.
"""

import pytest
from nft_tables import ADDRESSES, NAT, base, dport, drawn, dynamic, map_of, nft_table, tcp, to_set, with_tables
from packets import CLIENT, CLUSTER_IP, POD, REMOTE_POD, ip, node, packet, rule, run, to

from kpsim.addresses import Family
from kpsim.netfilter import Netns, Walk, expand, walk
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.memory import DynamicSets, SetId
from kpsim.packetpath.memory.dynamic_sets import Member
from kpsim.packetpath.steps import SetAsked, SetTold
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    Chain,
    Counter,
    Dispatch,
    Dnat,
    Field,
    Goto,
    Hook,
    Lookup,
    Numgen,
    Origin,
    Recent,
    Reject,
    Role,
    Rule,
    Ruleset,
    Set,
    SetFlags,
    SetVerb,
    Space,
    TableKey,
    Unknown,
    UpdateSet,
)
from kpsim.units import SECOND_NS

MILLISECOND_NS = SECOND_NS // 1000
ADD, UPDATE, DELETE = SetVerb.ADD, SetVerb.UPDATE, SetVerb.DELETE
KEY = (Field.SADDR,)


def changing(verb: SetVerb = UPDATE, timeout_ns: int | None = None) -> UpdateSet:
    return UpdateSet(to_set(), KEY, verb, timeout_ns)


def asking(held: Set, *rules: Rule) -> Netns:
    """A node that counts "known" for sources in the set, before it runs the rules."""
    known = rule(Lookup(KEY, to_set()), Counter("known"))
    return with_tables(nft_table(base(Hook.FORWARD, known, *rules), sets=[held]))


def names(outcome: Walk) -> list[str]:
    return [name for name, _ in outcome.effects.touched.counters]


def sent(netns: Netns, number: int, at_s: float = 0, **options: bool) -> list[str]:
    """What a client meets."""
    return names(run(netns, packet(f"203.0.113.{number}", POD), round(at_s * SECOND_NS), **options))


OK, FULL = rule(changing(), Counter("ok")), rule(Counter("next"))


# --- members and their time --------------------------------------------------------------------------------------------


def test_a_member_is_found_until_its_time_is_over():
    netns = asking(dynamic(timeout_ns=10 * SECOND_NS), rule(changing(ADD)))
    assert [sent(netns, 9, at_s) for at_s in (0, 9.999, 10, 15)] == [[], ["known"], [], ["known"]]
    assert sent(netns, 8, 15) == []


def test_a_member_without_time_stays():
    netns = asking(dynamic(), rule(changing(ADD)))
    assert [sent(netns, 9, at_s) for at_s in (0, 10**6)] == [[], ["known"]]


@pytest.mark.parametrize(("verb", "renewed"), [(ADD, False), (UPDATE, True)])
def test_update_gives_a_member_the_whole_time_again_and_add_does_not(verb, renewed):  # K-9.2
    netns = asking(dynamic(timeout_ns=10 * SECOND_NS), rule(changing(verb)))
    for at_s in (0, 8):
        sent(netns, 9, at_s)
    assert (sent(netns, 9, 12) == ["known"]) is renewed


def test_a_rule_may_give_its_own_time():
    """``update @s { ip saddr timeout 2s }``; a later update without time gives the set's."""
    own = asking(dynamic(timeout_ns=10 * SECOND_NS), rule(changing(UPDATE, 2 * SECOND_NS)))
    assert [sent(own, 9, at_s) for at_s in (0, 1.9, 4)] == [[], ["known"], []]
    kept = asking(dynamic(timeout_ns=10 * SECOND_NS), rule(changing(ADD, 2 * SECOND_NS)), rule(changing(UPDATE)))
    assert [sent(kept, 9, at_s) for at_s in (0, 9)] == [[], ["known"]]


def test_a_look_up_of_the_same_packet_finds_what_it_put_there():
    netns = with_tables(
        nft_table(base(Hook.FORWARD, rule(changing()), rule(Lookup(KEY, to_set()), Counter("now"))), sets=[dynamic()])
    )
    assert sent(netns, 9, commit=False) == ["now"]
    assert len(netns.memory.sets) == 0  # a walk changes nothing


def test_a_member_is_taken_out():
    """A key that is not there is no reason to end the rule."""
    netns = asking(dynamic("s", (ip("203.0.113.7"),)), rule(changing(DELETE), Counter("ok")))
    assert [sent(netns, 9), sent(netns, 7), sent(netns, 7)] == [["ok"], ["known", "ok"], ["ok"]]


def test_elements_that_a_tool_wrote_are_found_too():
    netns = asking(dynamic("s", (ip("203.0.113.7"),)), rule(changing(ADD)))
    assert [sent(netns, 7), sent(netns, 8), sent(netns, 8)] == [["known"], [], ["known"]]


def test_a_member_may_be_put_there_by_hand():
    """A listing of a machine has the members that its packets put there."""
    netns = asking(dynamic(timeout_ns=10 * SECOND_NS))
    at = SetId(TableKey(Space.IP, "t"), "s")
    netns.memory.sets.put(at, 0, (ip("203.0.113.9"),), Member(3 * SECOND_NS))
    assert [sent(netns, 9, at_s) for at_s in (0, 2.9, 3)] == [["known"], ["known"], []]


def test_an_update_without_any_time_keeps_that_of_the_member():
    """nft_dynset: there is nothing to renew."""
    untimed = Set(name="s", type=ADDRESSES, flags=SetFlags.DYNAMIC | SetFlags.TIMEOUT)
    netns = asking(untimed, rule(changing(ADD, 2 * SECOND_NS)), rule(changing(UPDATE)))
    assert [sent(netns, 9, at_s) for at_s in (0, 1, 2.5)] == [[], ["known"], []]


# --- full sets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [ADD, UPDATE])
def test_a_full_set_ends_the_rule_and_the_next_one_runs(verb):  # K-9.2
    netns = with_tables(
        nft_table(base(Hook.FORWARD, rule(changing(verb), Counter("ok"), ACCEPT), FULL), sets=[dynamic(size=3)])
    )
    assert [sent(netns, number) for number in range(1, 6)] == [["ok"]] * 3 + [["next"]] * 2
    assert [sent(netns, number) for number in (1, 5)] == [["ok"], ["next"]]  # a member is no newcomer


def test_a_set_without_size_holds_65535():  # K-9.2, NFT-6.11
    netns = with_tables(nft_table(base(Hook.FORWARD, OK), sets=[dynamic()]))
    at = SetId(TableKey(Space.IP, "t"), "s")
    for number in range(65534):
        netns.memory.sets.put(at, 0, (number,), Member())
    assert [sent(netns, number) for number in (1, 2)] == [["ok"], []]


def test_elements_of_a_tool_take_up_room():
    held = dynamic("s", (ip("203.0.113.7"),), (ip("203.0.113.8"),), size=3)
    netns = with_tables(nft_table(base(Hook.FORWARD, OK), sets=[held]))
    assert [sent(netns, number) for number in (1, 2, 7)] == [["ok"], [], ["ok"]]


def test_what_was_taken_out_leaves_room():
    held = dynamic("s", (ip("203.0.113.7"),), size=2)
    out = rule(Lookup((Field.DPORT,), Set.of((9,))), changing(DELETE), ACCEPT)
    netns = with_tables(nft_table(base(Hook.FORWARD, out, OK), sets=[held]))
    assert [sent(netns, number) for number in (1, 2)] == [["ok"], []]
    for number in (1, 7):
        run(netns, packet(f"203.0.113.{number}", POD, 9))
    assert [sent(netns, number) for number in (2, 3, 4)] == [["ok"], ["ok"], []]


def test_a_member_that_is_an_element_too_takes_up_room_once():
    held = dynamic("s", (ip("203.0.113.7"),), timeout_ns=100 * SECOND_NS, size=2)
    netns = with_tables(nft_table(base(Hook.FORWARD, OK), sets=[held]))
    assert [sent(netns, number) for number in (7, 1, 2)] == [["ok"], ["ok"], []]


def test_a_member_that_was_taken_out_leaves_its_own_room_only():
    held = dynamic("s", (ip("203.0.113.7"),), size=2)
    out = rule(Lookup((Field.DPORT,), Set.of((9,))), changing(DELETE), ACCEPT)
    netns = with_tables(nft_table(base(Hook.FORWARD, out, OK), sets=[held]))
    sent(netns, 1)
    run(netns, packet("203.0.113.1", POD, 9))
    assert [sent(netns, number) for number in (2, 3)] == [["ok"], []]


def test_to_take_out_what_is_not_there_changes_nothing():
    netns = asking(dynamic(), rule(changing(DELETE)))
    assert run(netns, packet("203.0.113.9", POD)).effects.touched.sets == ()


@pytest.mark.parametrize(("gc_ns", "fits_at_s"), [(None, 1), (4 * SECOND_NS, 4)])
def test_an_expired_member_takes_up_room_until_the_collector_comes(gc_ns, fits_at_s):
    """K-9.6: it is not found, and it does not fit again itself either."""
    held = dynamic(timeout_ns=200 * MILLISECOND_NS, size=2, gc_ns=gc_ns)
    netns = asking(held, OK)
    assert [sent(netns, number, 0.1) for number in (1, 2)] == [["ok"], ["ok"]]
    assert [sent(netns, number, fits_at_s - 0.01) for number in (3, 1)] == [[], []]
    assert [sent(netns, number, fits_at_s) for number in (3, 1, 2)] == [["ok"], ["ok"], []]


def test_a_member_that_expires_when_the_collector_comes_is_taken():
    netns = asking(dynamic(timeout_ns=900 * MILLISECOND_NS, size=1), OK)
    assert [sent(netns, number, at_s) for number, at_s in ((1, 0.1), (2, 0.9), (2, 1))] == [["ok"], [], ["ok"]]


def test_members_that_the_collector_took_do_not_pile_up():
    """An element of a tool that a packet took out stays out."""
    held = dynamic("s", (ip("203.0.113.7"),), timeout_ns=SECOND_NS)
    out = rule(Lookup((Field.DPORT,), Set.of((9,))), changing(DELETE), ACCEPT)
    netns = asking(held, out, OK)
    run(netns, packet("203.0.113.7", POD, 9))
    for number in range(5000):
        run(netns, packet("203.0.113.1", POD, saddr=number), number * 100 * MILLISECOND_NS)
    members = netns.memory.sets.members(SetId(TableKey(Space.IP, "t"), "s"), 0)
    assert len(members) < 2500
    assert (4999,) in members
    assert sent(netns, 7, 500, commit=False) == ["ok"]  # not known


# --- which set it is ----------------------------------------------------------------------------------------------------


def loaded(netns: Netns, *sets: Set, rules: tuple[Rule, ...] = (OK,)) -> None:
    known = rule(Lookup(KEY, to_set()), Counter("known"))
    netns.load_rules(Ruleset.of(Family.IPV4, nft_table(base(Hook.FORWARD, known, *rules), sets=sets)))


def test_members_outlive_the_rules_but_not_the_set():
    """NFT-6.11: members survive syncs and restarts. A set that was deleted and made again is empty."""
    netns = asking(dynamic(), OK)
    sent(netns, 9)
    loaded(netns, dynamic(), rules=())
    assert sent(netns, 9) == ["known"]
    loaded(netns, dynamic(generation=1))
    assert sent(netns, 9) == ["ok"]
    assert sent(netns, 9) == ["known", "ok"]
    loaded(netns, dynamic("s", generation=1), dynamic("other"), rules=())
    netns.load_rules(Ruleset.of(Family.IPV4, nft_table(sets=[dynamic("other")])))
    assert len(netns.memory.sets) == 0


def test_a_changed_timeout_holds_for_members_to_come():
    """NFT-6.11."""
    netns = asking(dynamic(timeout_ns=10 * SECOND_NS), rule(changing(ADD)))
    sent(netns, 8)
    loaded(netns, dynamic(timeout_ns=2 * SECOND_NS), rules=(rule(changing(ADD)),))
    sent(netns, 9)
    assert [sent(netns, number, 5) for number in (8, 9)] == [["known"], []]


def test_sets_of_one_name_are_apart_in_tables_and_together_in_a_table_of_both_families():
    in_t, in_u = (nft_table(base(Hook.FORWARD, OK), sets=[dynamic(size=1)], name=name) for name in "tu")
    netns = with_tables(in_t, in_u)
    assert [sent(netns, number) for number in (1, 2)] == [["ok", "ok"], []]
    ports = UpdateSet(to_set(), (Field.DPORT,), ADD)
    both = nft_table(base(Hook.FORWARD, rule(ports, Counter("ok"))), sets=[dynamic(size=1)], space=Space.INET)
    netns = with_tables(both)
    netns.load_rules(Ruleset.of(Family.IPV6, both))
    assert sent(netns, 1) == ["ok"]
    six = packet("2001:db8::9", "2001:db8::5", 81, came_by="eth0")
    assert names(run(netns, six)) == []


def test_members_of_another_generation_are_none():
    at, sets = SetId(TableKey(Space.IP, "t"), "s"), DynamicSets()
    sets.put(at, 1, (7,), Member())
    assert (sets.members(at, 1), sets.members(at, 2)) == ({(7,): Member()}, {})
    sets.put(at, 2, (8,), Member())
    assert (sets.members(at, 1), sets.members(at, 2)) == ({}, {(8,): Member()})


def test_a_fork_has_its_own_members():
    netns = asking(dynamic(), OK)
    sent(netns, 9)
    fork = netns.fork()
    sent(fork, 8)
    assert [sent(each, 9) for each in (netns, fork)] == [["known", "ok"]] * 2
    assert [sent(each, 8, commit=False) for each in (netns, fork)] == [["ok"], ["known", "ok"]]
    assert sent(netns.fork(lists=False), 9) == ["ok"]


# --- what else a walk does with members --------------------------------------------------------------------------------


def test_a_dropped_or_rejected_packet_leaves_its_member():
    """K-4.2 of ``recent``, and so it is here: what the packet did before its end is done."""
    for end in (DROP, Reject()):
        netns = asking(dynamic(), rule(changing()), rule(end))
        assert [sent(netns, 9), sent(netns, 9)] == [[], ["known"]]


def test_a_change_that_depends_on_an_unknown_match_is_not_known_later():
    netns = asking(dynamic(), rule(Unknown("-m magic"), changing()))
    assert sent(netns, 9) == []
    outcome = walk(netns, packet("203.0.113.9", POD), now_ns=0, chooser=SeededChooser(1, 0))
    assert names(outcome) == []
    drops = asking(dynamic(), rule(Unknown("-m magic"), changing()), rule(Lookup(KEY, to_set()), DROP))
    first = run(drops, packet("203.0.113.9", POD))
    assert first.unknown == "-m magic"
    counted = with_tables(
        nft_table(
            base(Hook.PREROUTING, rule(Lookup(KEY, to_set()), DROP)),
            base(Hook.FORWARD, rule(Unknown("-m magic"), changing())),
            sets=[dynamic()],
        )
    )
    run(counted, packet("203.0.113.9", POD))
    assert run(counted, packet("203.0.113.9", POD)).unknown == "@s, which an earlier packet may have changed"
    assert run(counted, packet("203.0.113.8", POD)).unknown == ""
    spared = with_tables(
        nft_table(
            base(Hook.PREROUTING, rule(Lookup(KEY, to_set()), DROP)),
            base(Hook.FORWARD, rule(Unknown("-m magic"), ACCEPT), rule(changing())),
            sets=[dynamic()],
        )
    )
    assert [run(spared, packet("203.0.113.9", POD)).unknown != "" for _ in range(2)] == [False, True]


def test_a_counter_that_an_unknown_match_may_have_moved_is_not_known_later():
    even = Lookup((Numgen(2, 0, random=False),), Set.of((0,)))
    perhaps = rule(dport(80), Unknown("-m magic"), Goto("A"))
    chain = base(Hook.FORWARD, perhaps, rule(dport(81), Goto("A")))
    netns = with_tables(nft_table(chain, Chain("A", (rule(even, Counter("even")),))))
    assert [run(netns, packet(CLIENT, POD, port)).unknown for port in (80, 81)] == [
        "", "a number that an earlier packet may have changed",
    ]  # fmt: skip


def test_a_trace_tells_what_a_set_was_asked_and_told():
    netns = with_tables(nft_table(base(Hook.FORWARD, rule(Lookup(KEY, to_set())), OK), sets=[dynamic(size=1)]))
    address = (ip("203.0.113.1"),)
    steps = [
        [step for step in run(netns, packet(f"203.0.113.{number}", POD)).trace if isinstance(step, SetAsked | SetTold)]
        for number in (1, 1, 2)
    ]
    asked, told = steps[0]
    assert asked == SetAsked("s", dynamic().type, address, found=False)
    assert told == SetTold("s", dynamic().type, address, UPDATE, kept=True)
    assert next(step for step in steps[1] if isinstance(step, SetAsked)).found
    assert [step.kept for step in steps[2] if isinstance(step, SetTold)] == [False]


# --- session affinity as kube-proxy writes it (NFT-6.10) ---------------------------------------------------------------


def affine(size: int | None = None) -> Netns:
    """One Service with two endpoints and session affinity for 100 s."""
    ends = {"a": POD, "b": REMOTE_POD}
    known = [rule(Lookup(KEY, to_set(f"affinity-{name}")), Goto(f"endpoint-{name}")) for name in ends]
    draws = rule(Dispatch(drawn(2), map_of({(0,): Goto("endpoint-a"), (1,): Goto("endpoint-b")})))
    endpoints = [
        Chain(f"endpoint-{name}", (rule(UpdateSet(to_set(f"affinity-{name}"), KEY, UPDATE)), rule(tcp(), Dnat(ip(end), 8080))))
        for name, end in ends.items()
    ]  # fmt: skip
    sets = [dynamic(f"affinity-{name}", timeout_ns=100 * SECOND_NS, size=size) for name in ends]
    return with_tables(nft_table(base(Hook.PREROUTING, *known, draws, of=NAT, priority=-100), *endpoints, sets=sets))


def test_a_client_stays_with_its_endpoint_and_each_new_connection_renews_its_time():  # NFT-6.11
    netns = affine()
    first = to(run(netns, packet(CLIENT, CLUSTER_IP)))
    for number in range(1, 8):
        asked = packet(CLIENT, CLUSTER_IP, sport=50000 + number)
        assert to(run(netns, asked, 99 * number * SECOND_NS, flow=number)) == first
    late = [w for w, _ in expand(netns, packet(CLIENT, CLUSTER_IP, sport=60000), now_ns=800 * SECOND_NS)]
    assert len(late) == 2  # forgotten: any endpoint again
    known = [w for w, _ in expand(netns, packet(CLIENT, CLUSTER_IP, sport=60000), now_ns=750 * SECOND_NS)]
    assert len(known) == 1


def test_a_node_says_which_clients_the_rules_of_an_endpoint_remember():
    """The key of affinity is the source as the node sees it (PP-9.1); a set of ports remembers no source."""
    origins = [Origin(Role.ENDPOINT, "shop/web:http", "TCP", end) for end in ("a", "b", "c")]
    netns = node()
    body = UpdateSet(to_set(), KEY), UpdateSet(to_set("ports"), (Field.DPORT,)), Recent("KUBE-SEP-C", "set")
    rules = [Rule((tcp(), part), origin=origin) for part, origin in zip(body, origins, strict=True)]
    table = nft_table(base(Hook.FORWARD, *rules), sets=[dynamic(), dynamic("ports")])
    others = (nft_table(name="a"), nft_table(name="z", sets=[dynamic()]))
    netns.load_rules(Ruleset.of(Family.IPV4, table, *others))
    run(netns, packet(CLIENT, POD, ip(CLIENT)))
    assert [netns.remembers(origin, Family.IPV4, ip(CLIENT)) for origin in origins] == [True, False, True]
    assert not netns.remembers(origins[0], Family.IPV6, ip(CLIENT))
    assert not netns.remembers(origins[0], Family.IPV4, ip(POD))


def test_a_full_affinity_set_translates_without_remembering():  # NFT-6.11
    netns = affine(size=1)
    clients = [f"203.0.113.{number}" for number in range(1, 20)]
    for flow, client in enumerate(clients):
        assert run(netns, packet(client, CLUSTER_IP), flow=flow).dnat_rule is not None
    ways = [len(expand(netns, packet(client, CLUSTER_IP, sport=50000), now_ns=0)) for client in clients]
    assert sorted(ways) == [1] * 2 + [2] * 17  # one client for each endpoint
