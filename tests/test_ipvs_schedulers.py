"""The schedulers of ip_vs against their definitions (IPVS-14), worked out by hand; no kernel at hand has ip_vs."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import product

import pytest
from packets import ip

from kpsim.addresses import Family
from kpsim.ipvs import hashing
from kpsim.ipvs.schedulers import SCHEDULERS, Candidate, Pick, Request, maglev, moved, pick
from kpsim.ipvs.servers import RealServer

V4 = Family.IPV4
REQUEST = Request(V4, (ip("203.0.113.9"), 40000), ip("172.30.0.10"))
A, B, C, D = (RealServer(ip(f"10.180.0.{number}"), 8080) for number in (1, 2, 3, 4))


def weighed(server, weight):
    return RealServer(server.address, server.port, weight)


def id_of(server):
    return server.address, server.port


def never(limit):
    raise AssertionError("nothing is drawn")


def decide(scheduler, candidates, *, request=REQUEST, cursor=None, draw=never) -> Pick:
    made = [each if isinstance(each, Candidate) else Candidate(each) for each in candidates]
    return pick(scheduler, made, request, cursor, draw)


def in_turn(scheduler, candidates, times, cursor=None):
    chosen = []
    for _ in range(times):
        found = decide(scheduler, candidates, cursor=cursor)
        cursor = found.cursor
        chosen.append(found.server)
    return chosen


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_without_a_server_nobody_gets_the_connection(scheduler):
    assert decide(scheduler, []).server is None
    assert decide(scheduler, [weighed(A, 0), weighed(B, 0)]).server is None
    assert decide(scheduler, [weighed(A, 0)], request=REQUEST._replace(known=False)).server is None


def test_all_schedulers_of_the_specification_are_there():
    assert list(SCHEDULERS) == [
        "rr",
        "wrr",
        "lc",
        "wlc",
        "sed",
        "nq",
        "lblc",
        "lblcr",
        "sh",
        "dh",
        "mh",
        "fo",
        "ovf",
        "twos",
    ]
    assert [name for name, kind in SCHEDULERS.items() if not kind.has_past] == ["sh", "dh", "mh", "fo"]


# --- in turn ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["rr", "wrr"])
def test_servers_take_turns_from_the_head_of_the_list(scheduler):
    assert in_turn(scheduler, [A, B, C], 7) == [A, B, C, A, B, C, A]
    assert in_turn(scheduler, [A, weighed(B, 0), C], 4) == [A, C, A, C]
    assert in_turn(scheduler, [weighed(A, 0), B], 3) == [B, B, B]


def test_rr_goes_on_behind_the_server_that_it_used_last():
    assert decide("rr", [A, B, C], cursor=id_of(B)) == Pick(C, id_of(C), "its turn")
    assert decide("rr", [A, B, C], cursor=None).why == "the first in the list"
    # a place whose server is not in the list is the head
    assert decide("rr", [A, B], cursor=id_of(C)).server == A
    # nobody can serve: the place stays
    assert decide("rr", [weighed(A, 0)], cursor=id_of(A)).cursor == id_of(A)


def test_wrr_interleaves_by_weight():
    # weights 4, 3, 2: at level 4 only A, at 3 A and B, at 2 and 1 all
    heavy = [weighed(A, 4), weighed(B, 3), weighed(C, 2)]
    names = {4: "A", 3: "B", 2: "C"}
    assert "".join(names[each.weight] for each in in_turn("wrr", heavy, 9)) == "AABABCABC"
    # of 6 and 3 the divisor is 3: levels 4 (6 - 2) and 1
    sixth = [weighed(A, 6), weighed(B, 3)]
    assert [each.weight for each in in_turn("wrr", sixth, 6)] == [6, 6, 3, 6, 6, 3]
    assert decide("wrr", sixth).cursor.least == 4


def test_rr_keeps_its_place_when_servers_come_and_go():
    place = id_of(B)
    assert moved("rr", place, [A, B, C], [D, A, B, C]) == id_of(B)
    assert moved("rr", place, [A, B, C], [A, C]) == id_of(A)  # to the server before the deleted one
    assert moved("rr", place, [A, B, C], [C]) is None  # all before it are gone, too: the head
    assert moved("rr", id_of(C), [A, B, C], [A]) == id_of(A)
    assert moved("rr", None, [A, B], [B]) is None
    assert moved("rr", place, [A, B, C], [A, weighed(B, 0), C]) == id_of(B)
    # added again: it was deleted before, and stands at the head of the list now
    assert moved("rr", place, [A, B, C], [B, A, C]) == id_of(A)
    assert moved("rr", id_of(A), [A, B, C], [C, A, B]) == id_of(A)
    assert moved("rr", id_of(A), [A, B, C], [A, D, B, C]) is None  # again behind a new one
    assert moved("rr", id_of(D), [A], [B]) == id_of(D)
    # also where the order does not show it
    assert moved("rr", id_of(A), [A, B], [replace(A, generation=1), B]) is None
    assert moved("rr", id_of(A), [A, B], [A, B]) == id_of(A)


def test_wrr_begins_at_the_head_when_servers_change():
    cursor = decide("wrr", [A, B, C], cursor=decide("wrr", [A, B, C]).cursor).cursor
    after = moved("wrr", cursor, [A, B, C], [D, A, B, C])
    assert decide("wrr", [D, A, B, C], cursor=after).server == D
    level = decide("wrr", [weighed(A, 4), B]).cursor  # wants weight 4
    assert decide("wrr", [weighed(A, 2), B], cursor=moved("wrr", level, [], [weighed(A, 2), B])).server.weight == 2
    assert moved("wrr", level, [], []) is None
    assert moved("wrr", None, [A], [B]) is None
    # levels of 6 and 3 are 4 and 1, so that of 4 becomes 4; of 5, the next below in steps of 3
    again = moved("wrr", level, [], [weighed(A, 9), weighed(B, 3)])
    assert again.least == 4 and again.last is None
    fifth = decide("wrr", [weighed(A, 5), B]).cursor
    assert moved("wrr", fifth, [], [weighed(A, 9), weighed(B, 3)]).least == 4
    assert moved("wrr", again, [], [weighed(A, 8), weighed(B, 2)]).least == 5
    # a level that fell with the weights does not rise with them
    fallen = moved("wrr", fifth, [], [weighed(A, 2), B])
    assert moved("wrr", fallen, [], [weighed(A, 9), B]).least == 2


def test_other_cursors_do_not_move():
    assert moved("lblc", id_of(A), [A], [B]) == id_of(A)


# --- by connections ---------------------------------------------------------------------------------------------------


def test_lc_counts_an_active_connection_as_257_inactive_ones():
    assert decide("lc", [Candidate(A, 1, 0), Candidate(B, 0, 256)]).server == B
    assert decide("lc", [Candidate(A, 1, 0), Candidate(B, 0, 257)]).server == A  # equal: the first in the list
    assert decide("lc", [Candidate(B, 0, 258), Candidate(A, 1, 0)]).server == A
    assert decide("lc", [Candidate(weighed(A, 0)), Candidate(B, 9, 9)]).server == B


def test_lc_ignores_weights_and_wlc_does_not():
    busy, idle = Candidate(weighed(A, 4), 3, 0), Candidate(B, 1, 0)
    assert decide("lc", [busy, idle]).server == idle.server
    assert decide("wlc", [busy, idle]).server == busy.server
    # 2 · 1 = 2 · 1: equal, so the first
    assert decide("wlc", [Candidate(weighed(A, 2), 2, 0), Candidate(B, 1, 0)]).server.address == A.address


def test_sed_looks_at_active_connections_alone():
    assert decide("sed", [Candidate(A, 1, 0), Candidate(B, 0, 999)]).server == B
    # (2 + 1) / 2 < (1 + 1) / 1
    assert decide("sed", [Candidate(B, 1, 0), Candidate(weighed(A, 2), 2, 0)]).server.address == A.address
    assert decide("sed", [Candidate(A, 1, 0), Candidate(B, 1, 0)]).server == A


def test_nq_takes_the_first_idle_server_and_else_acts_as_sed():
    fast, idle = Candidate(weighed(A, 9), 1, 0), Candidate(B, 0, 5)
    assert decide("nq", [fast, idle]).server == B
    assert decide("sed", [fast, idle]).server == fast.server
    assert decide("nq", [fast, Candidate(B, 1, 0)]).server == fast.server


def test_fo_and_ovf_take_the_heaviest():
    light, heavy, other = weighed(A, 1), weighed(B, 3), weighed(C, 3)
    assert decide("fo", [light, heavy, other]).server == heavy
    assert decide("fo", [Candidate(heavy, 99, 0), light]).server == heavy
    assert decide("ovf", [Candidate(heavy, 3, 0), light]).server == heavy
    assert decide("ovf", [Candidate(heavy, 4, 0), light]).server == light
    assert decide("ovf", [Candidate(A, 1, 0), Candidate(B)]).server == A
    refused = decide("ovf", [Candidate(A, 2, 0), Candidate(B, 2, 0)])
    assert refused.server is None and "more active" in refused.why


def test_twos_draws_two_and_takes_the_better_one():
    def drawing(*numbers):
        waiting = list(numbers)

        def draw(limit):
            assert limit == 4  # the sum of the weights and one
            return waiting.pop(0)

        return draw

    three = [Candidate(A, 5, 0), Candidate(B, 1, 0), Candidate(C, 1, 0)]
    assert decide("twos", three, draw=drawing(0, 1)).server == A  # 0 and 1 both hit the head
    assert decide("twos", three, draw=drawing(1, 2)).server == B
    assert decide("twos", three, draw=drawing(3, 2)).server == C  # equal: the first drawn
    shares = Counter()
    for numbers in product(range(4), repeat=2):
        # without connections the first drawn wins
        shares[decide("twos", [A, B, C], draw=drawing(*numbers)).server] += Fraction(1, 16)
    assert shares == {A: Fraction(2, 4), B: Fraction(1, 4), C: Fraction(1, 4)}
    # 2 · 1 active against 1 · 3: the heavier one is the better one
    heavy = [Candidate(weighed(A, 3), 2, 0), Candidate(B, 1, 0)]
    assert decide("twos", heavy, draw=lambda limit: {5: 4}[limit]).server == B
    order = iter((4, 3))
    assert decide("twos", heavy, draw=lambda limit: next(order)).server.address == A.address


# --- by destination ---------------------------------------------------------------------------------------------------


def test_lblc_keeps_a_destinations_server():
    first = decide("lblc", [Candidate(A, 1, 0), Candidate(B)])
    assert first.server == B and first.cursor == id_of(B)
    kept = decide("lblc", [Candidate(A), Candidate(B, 1, 9)], cursor=first.cursor)
    assert kept.server == B
    # overloaded: more active connections than weight, and another below half of its own
    assert decide("lblc", [Candidate(A), Candidate(B, 2, 0)], cursor=first.cursor).cursor == id_of(A)
    assert decide("lblc", [Candidate(A, 1, 0), Candidate(B, 2, 0)], cursor=first.cursor).server == B
    # 2 · 1 < 2 is false, 2 · 1 < 3 is true
    assert decide("lblc", [Candidate(weighed(A, 2), 1, 0), Candidate(B, 2, 0)], cursor=id_of(B)).server == B
    assert decide("lblc", [Candidate(weighed(A, 3), 1, 0), Candidate(B, 2, 0)], cursor=id_of(B)).server != B
    assert decide("lblc", [Candidate(A), Candidate(weighed(B, 0))], cursor=first.cursor).server == A
    assert decide("lblc", [weighed(B, 0)], cursor=first.cursor) == Pick(None, id_of(B), "no server has a weight")


def test_lblcr_keeps_a_group_that_grows_and_shrinks():
    day_ns = 24 * 3600 * 10**9
    first = decide("lblcr", [A, B])
    assert (first.server, first.cursor.servers) == (A, (id_of(A),))
    overloaded = [Candidate(A, 2, 0), Candidate(B)]
    grown = decide("lblcr", overloaded, cursor=first.cursor, request=REQUEST._replace(now_ns=5))
    assert (grown.server, grown.cursor) == (B, ((id_of(B), id_of(A)), 5))
    # the least loaded of the group, not of all
    assert decide("lblcr", [Candidate(A, 1, 0), Candidate(B, 1, 1), C], cursor=first.cursor).server == A
    assert decide("lblcr", [Candidate(A, 1, 1), Candidate(B, 1, 0), C], cursor=grown.cursor).server == B
    # a day without change: the most loaded one leaves, after the choice
    late = REQUEST._replace(now_ns=5 + day_ns)
    assert decide("lblcr", [A, Candidate(B, 1, 0)], cursor=grown.cursor, request=late).cursor == grown.cursor
    later = late._replace(now_ns=6 + day_ns)
    shrunk = decide("lblcr", [A, Candidate(B, 1, 0)], cursor=grown.cursor, request=later)
    assert (shrunk.server, shrunk.cursor) == (A, ((id_of(A),), 6 + day_ns))
    # a group of one stays
    assert decide("lblcr", [A, B], cursor=first.cursor, request=later).cursor == first.cursor
    # the best server of all is in the group already: the group stays as it is
    both = decide("lblcr", [Candidate(A, 3, 0), Candidate(B, 2, 0), Candidate(weighed(C, 0))], cursor=grown.cursor)
    assert both.cursor == grown.cursor and both.server == B
    # a server that was deleted does not count, and is there again when it is added again
    assert decide("lblcr", [A], cursor=grown.cursor).server == A
    gone = decide("lblcr", [weighed(A, 0)], cursor=grown.cursor)
    assert gone.server is None and gone.cursor == grown.cursor
    equal = decide("lblcr", [Candidate(A, 1, 0), Candidate(B, 1, 0)], cursor=grown.cursor, request=later)
    assert equal.cursor.servers == (id_of(A),)  # of equals the first of the group, the newest member, leaves


# --- by hash ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "bucket"),
    [("0.0.0.0", 0), ("0.0.0.1", 0x61), ("0.0.0.2", 0xC3), ("0.0.0.3", 0x25), ("10.180.0.1", None)],
)
def test_bucket_of_a_source(address, bucket):
    value = ip(address)
    expected = (value * 0x61C88647 % 2**32) // 2**24
    assert hashing.bucket(value) == expected and (bucket is None or bucket == expected)
    assert hashing.bucket(value, 250) == (expected + 250) % 256


def test_ipv6_is_folded():
    assert hashing.folded(Family.IPV6, ip("1:2:3:4:5:6:7:8")) == 0x10002 ^ 0x30004 ^ 0x50006 ^ 0x70008
    assert hashing.folded(V4, ip("1.2.3.4")) == 0x01020304


def test_sh_fills_its_buckets_in_the_order_of_the_list():
    def chosen(client, servers, **more):
        return decide("sh", servers, request=REQUEST._replace(client=(client, 7), **more)).server

    assert [chosen(client, [A, B, C]) for client in (0, 1, 2, 3)] == [A, B, A, B]  # 0, 97, 195 and 37, modulo 3
    heavy = [weighed(A, 2), B, C]  # A has two copies: of 0, 97 and 195 the rests are 0, 1 and 3
    assert [chosen(client, heavy).address for client in (0, 1, 2)] == [A.address, A.address, C.address]
    assert chosen(0, [A, B, C], by_port=True) == [A, B, C][hashing.bucket(7) % 3]
    # the bucket of a server of weight 0 is refused, though others could serve
    assert chosen(1, [A, weighed(B, 0), C]) is None
    # unless the flag is set: then the next bucket counts whose server can serve. 97 + 97 is 194, then 195
    assert chosen(1, [A, weighed(B, 0), C], falls_back=True) == [A, weighed(B, 0), C][(97 + 97) % 256 % 3]
    request = REQUEST._replace(client=(1, 7), falls_back=True)
    why = decide("sh", [A, weighed(B, 0), C], request=request).why
    assert why == "bucket 194 of 256: the server of bucket 97 has weight 0"
    assert chosen(1, [weighed(A, 0), weighed(B, 0)], falls_back=True) is None


def test_dh_hashes_the_destination_and_ignores_weights():
    def chosen(destination, servers):
        return decide("dh", servers, request=REQUEST._replace(destination=destination, falls_back=True)).server

    assert [chosen(address, [weighed(A, 5), B, C]) for address in (1, 2)] == [B, weighed(A, 5)]
    assert chosen(1, [A, weighed(B, 0), C]) is None


def test_siphash_is_that_of_another_program():
    """CPython hashes bytes with SipHash-1-3, too; with PYTHONHASHSEED=0 its key is 0."""
    assert sys.hash_info.algorithm == "siphash13"
    program = "print([hash(n.to_bytes(4, 'little')) & 0xffffffff for n in (0, 1, 0x0a0b0c0d, 0xffffffff)])"
    shown = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True
    ).stdout
    assert [hashing.mixed(value, 0) for value in (0, 1, 0x0A0B0C0D, 0xFFFFFFFF)] == eval(shown)
    assert hashing.mixed(1 << 32 | 5, 9) == hashing.mixed(5, 9) != hashing.mixed(5, 8)


def recomputed(ids):
    """Maglev's table as its definition says: each server in turn takes the first slot of its own order that is free."""
    orders = []
    for address, port in ids:
        start = hashing.mixed(address + port, 2654435761) % 4093
        step = hashing.mixed(address + port, 2654446892) % 4092 + 1
        orders.append(iter([(start + step * k) % 4093 for k in range(4093)]))
    table = {}
    while len(table) < 4093:
        for number, order in enumerate(orders):
            if len(table) < 4093:
                table[next(slot for slot in order if slot not in table)] = number
    return [table[slot] for slot in range(4093)]


def test_mh_is_maglev():
    ids = [id_of(each) for each in (A, B, C)]
    assert list(maglev(V4, tuple((each, 1) for each in ids))) == recomputed(ids)
    shares = Counter(maglev(V4, tuple((each, 1) for each in ids)))
    assert sorted(shares.values()) == [1364, 1364, 1365]
    # one server more moves few slots to others than itself
    four = maglev(V4, tuple((each, 1) for each in [*ids, id_of(D)]))
    stayed = sum(old == new for old, new in zip(recomputed(ids), four, strict=True) if new != 3)
    assert stayed > 0.9 * (4093 - 1023)


def test_mh_gives_turns_by_weight():
    ids = [(id_of(A), 2), (id_of(B), 1)]
    assert sorted(Counter(maglev(V4, tuple(ids))).values()) == [1364, 2729]
    assert maglev(V4, ((id_of(A), 4), (id_of(B), 2))) == maglev(V4, tuple(ids))
    # weights of 64 and more units are halved until they fit: 64 and 1 have 32 turns and one
    # 4093 slots are 124 rounds of 33 and one slot; with 63 turns and one they are 63 rounds of 64 and 61 slots
    assert Counter(maglev(V4, ((id_of(A), 64), (id_of(B), 1)))) == {0: 124 * 32 + 1, 1: 124}
    assert Counter(maglev(V4, ((id_of(A), 63), (id_of(B), 1)))) == {0: 63 * 63 + 61, 1: 63}


def test_mh_hashes_source_and_port_and_refuses_for_a_draining_server():
    servers = [A, B, C]
    table = recomputed([id_of(each) for each in servers])
    request = REQUEST._replace(by_port=True)
    slot = hashing.mixed(request.client[0] + 40000, 2654435761) % 4093
    found = decide("mh", servers, request=request)
    assert found.server == servers[table[slot]] and found.why == f"slot {slot} of 4093"
    draining = [weighed(each, 0) if each == found.server else each for each in servers]
    assert decide("mh", draining, request=request).server is None
    assert decide("mh", draining, request=request._replace(falls_back=True)).server.weight == 1
    plain = hashing.mixed(request.client[0], 2654435761) % 4093
    assert decide("mh", servers)[::2] == (servers[table[plain]], f"slot {plain} of 4093")


# --- without history --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [name for name, kind in SCHEDULERS.items() if kind.has_past])
def test_without_history_every_server_that_can_serve_has_the_same_chance(scheduler):
    unknown = REQUEST._replace(known=False)
    asked = []

    def draw(limit):
        asked.append(limit)
        return len(asked) - 1

    found = [decide(scheduler, [A, weighed(B, 0), C], request=unknown, draw=draw) for _ in range(2)]
    assert [each.server for each in found] == [A, C] and asked == [2, 2]
    assert decide(scheduler, [weighed(A, 0), C], request=unknown).server == C
    assert found[0].cursor == id_of(A) and "not known" in found[0].why


def test_without_history_a_scheduler_without_memory_decides_as_ever():
    assert decide("fo", [A, B], request=REQUEST._replace(known=False)).server == A


def draws_of(scheduler, servers, times, **changes):
    """The server of each draw, the limits that were drawn under, and the reasons."""
    limits = set()

    def drawing(number):
        def draw(limit):
            limits.add(limit)
            return number

        return draw

    request = REQUEST._replace(of_one=False, **changes)
    found = [decide(scheduler, servers, request=request, draw=drawing(number)) for number in range(times)]
    return [each.server for each in found], limits, {each.why for each in found}


@pytest.mark.parametrize("scheduler", ["sh", "mh"])
def test_one_client_of_many_hashes_anywhere(scheduler):
    """A draining server keeps its clients and refuses them (IPVS-14), unless the scheduler falls back."""
    drained = weighed(B, 0)
    assert draws_of(scheduler, [A, C], 2) == ([A, C], {2}, {"by the client's address"})
    assert draws_of(scheduler, [A, drained, C], 3) == ([A, None, C], {3}, {"by the client's address"})
    fallen, limits, _ = draws_of(scheduler, [A, drained, C], 2, falls_back=True)
    assert (fallen, limits) == ([A, C], {2})
    any_client = REQUEST._replace(of_one=False)
    assert decide(scheduler, [A], request=any_client).server == A  # nothing to draw
    nobody = decide(scheduler, [weighed(A, 0), drained], request=any_client)
    assert (nobody.server, nobody.why) == (None, "no server has a weight")


def test_only_a_scheduler_that_hashes_the_client_asks_which_client():
    assert decide("dh", [A, B], request=REQUEST._replace(of_one=False)) == decide("dh", [A, B])
    assert decide("fo", [A, B], request=REQUEST._replace(of_one=False)).server == A


# --- what decides between servers that are nearly equal ---------------------------------------------------------------


def test_sed_counts_the_connection_that_is_to_come():
    # (0 + 1) / 1 and (1 + 1) / 2: equal, so the first
    assert decide("sed", [Candidate(B, 0, 0), Candidate(weighed(A, 2), 1, 0)]).server == B


def test_twos_compares_loads_for_weights():
    # 257 · 3 against 514 · 2: the second drawn has less for its weight
    servers = [Candidate(weighed(A, 2), 1, 0), Candidate(weighed(B, 5), 2, 0)]
    numbers = iter((0, 7))
    assert decide("twos", servers, draw=lambda limit: next(numbers)).server.address == B.address
    # 514 · 1 is less than 3 · 257, though more than 3 + 257
    servers = [Candidate(weighed(A, 3), 2, 0), Candidate(B, 1, 0)]
    numbers = iter((0, 4))
    assert decide("twos", servers, draw=lambda limit: next(numbers)).server.address == A.address
    with pytest.raises(ValueError, match=r"^a draw beyond the sum of the weights by 1$"):
        decide("twos", servers, draw=lambda limit: limit)


def test_lblcr_loses_the_member_with_the_most_for_its_weight():
    group = decide("lblcr", [A, B], cursor=None).cursor._replace(servers=(id_of(A), id_of(B)), changed_ns=0)
    late = REQUEST._replace(now_ns=25 * 3600 * 10**9)
    # 514 for a weight of 3, 257 for a weight of 1
    loads = [Candidate(weighed(A, 3), 2, 0), Candidate(B, 1, 0)]
    assert decide("lblcr", loads, cursor=group, request=late).cursor.servers == (id_of(A),)
    # 514 for a weight of 1 is more than 771 for 3, and the first of the group here
    loads = [Candidate(A, 2, 0), Candidate(weighed(B, 3), 3, 0)]
    assert decide("lblcr", loads, cursor=group, request=late).cursor.servers == (id_of(B),)
    # nobody can leave where nobody can serve
    nobody = decide("lblcr", [weighed(A, 0), weighed(B, 0), C], cursor=group, request=late)
    assert nobody.cursor.servers == (id_of(C), id_of(A), id_of(B))


def test_mh_counts_weights_in_units_of_their_divisor():
    # 128 and 2 are 64 units and one: halved once, 32 turns and one
    assert Counter(maglev(V4, ((id_of(A), 128), (id_of(B), 2)))) == {0: 124 * 32 + 1, 1: 124}
    # 128 units and one: shifted twice, 32 turns and none, of which one is left
    assert Counter(maglev(V4, ((id_of(A), 128), (id_of(B), 1)))) == {0: 124 * 32 + 1, 1: 124}


@pytest.mark.parametrize(
    ("scheduler", "candidates", "words"),
    [
        ("lc", [A], "the fewest connections"),
        ("wlc", [A], "the fewest connections for its weight"),
        ("sed", [A], "the fewest active connections for its weight"),
        ("nq", [A], "the first without active connections"),
        ("fo", [A], "the highest weight"),
        ("lblc", [A], "the fewest connections for its weight: the destination's server from now on"),
        ("lblcr", [A], "the fewest connections for its weight: it joins the destination's servers"),
        ("wrr", [A], "its turn"),
        ("ovf", [Candidate(A, 2, 0)], "every server has more active connections than its weight"),
        ("lc", [weighed(A, 0)], "no server has a weight"),
        ("rr", [], "it has no server"),
        ("sh", [weighed(A, 0)], "the server of bucket 191 of 256 has weight 0"),
        ("dh", [A], "bucket 172 of 256"),
    ],
)
def test_why(scheduler, candidates, words):
    if scheduler in ("sh", "dh"):
        value = REQUEST.client[0] if scheduler == "sh" else REQUEST.destination
        words = words.replace("191", str(hashing.bucket(value))).replace("172", str(hashing.bucket(value)))
    assert decide(scheduler, candidates).why == words


def test_why_one_of_two_and_why_another_serves():
    assert decide("twos", [A, B], draw=lambda limit: 1).why == "the better of two that were drawn"
    number = hashing.bucket(REQUEST.client[0])
    # one of two buckets is A's; where A drains, the next bucket of B serves
    own = decide("sh", [A, B]).server
    drained = [weighed(each, 0) if each == own else each for each in (A, B)]
    found = decide("sh", drained, request=REQUEST._replace(falls_back=True))
    assert re.fullmatch(rf"bucket \d+ of 256: the server of bucket {number} has weight 0", found.why)


def test_why_a_destination_keeps_its_servers():
    assert decide("lblc", [A], cursor=id_of(A)).why == "the destination's server"
    group = decide("lblcr", [A]).cursor
    assert decide("lblcr", [A], cursor=group).why == "the fewest connections of the destination's servers"
    unknown = decide("rr", [A, B], request=REQUEST._replace(known=False), draw=lambda limit: 0)
    assert unknown.why == "earlier connections are not known, so it may be any server"
