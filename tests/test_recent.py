"""Affinity lists (K-4, CT-8.1)."""

import pytest

from kpsim.addresses import Family
from kpsim.packetpath.memory.recent import LIST_SIZE, RecentList, RecentLists, RecentTouch
from kpsim.rng import below
from kpsim.ruleset import Recent
from kpsim.units import SECOND_NS

SET = Recent("KUBE-SEP-A", "set")
RCHECK = Recent("KUBE-SEP-A", "rcheck", 60, reap=True)
UPDATE = Recent("KUBE-SEP-A", "update", 60)


def client(number: int) -> tuple[Family, int]:
    return Family.IPV4, number


def filled(*numbers: int) -> RecentList:
    entries = RecentList()
    for second, number in enumerate(numbers):
        entries.touch(SET, client(number), second * SECOND_NS)
    return entries


@pytest.mark.parametrize(("age_seconds", "remembered"), [(0, True), (59.9, True), (60, True), (60.1, False)])
def test_a_source_is_remembered_for_its_seconds(age_seconds, remembered):  # equality measured on a kernel
    assert filled(1).touch(RCHECK, client(1), int(age_seconds * SECOND_NS)) is remembered


def test_rcheck_of_an_unknown_source_is_false_and_remembers_nothing():
    entries = filled()
    assert not entries.touch(RCHECK, client(1), 0)
    assert len(entries) == 0


def test_the_least_recently_set_is_evicted_at_a_hundred_sources():
    entries = filled(*range(LIST_SIZE))
    assert LIST_SIZE == 100
    entries.touch(SET, client(0), 200 * SECOND_NS)  # set again: no longer the oldest
    entries.touch(SET, client(1000), 201 * SECOND_NS)
    assert len(entries) == 100
    assert client(0) in entries and client(1000) in entries
    assert client(1) not in entries


@pytest.mark.parametrize(("match", "survives"), [(SET, True), (UPDATE, True), (RCHECK, False)])
def test_set_and_update_refresh_the_order_and_rcheck_does_not(match, survives):
    entries = filled(*range(LIST_SIZE))
    assert entries.touch(match, client(0), 50 * SECOND_NS)
    entries.touch(SET, client(1000), 51 * SECOND_NS)
    assert (client(0) in entries) is survives


def test_rcheck_does_not_refresh_the_time_and_update_does():
    for match, then in ((RCHECK, False), (UPDATE, True)):
        entries = filled(1)
        entries.touch(match, client(1), 50 * SECOND_NS)
        assert entries.touch(RCHECK, client(1), 100 * SECOND_NS) is then


def test_reap_removes_one_the_oldest_and_only_if_the_source_is_listed():
    entries = filled(1, 2, 3)
    late = 1000 * SECOND_NS
    assert not entries.touch(RCHECK, client(9), late)
    assert list(entries) == [client(1), client(2), client(3)]
    entries.touch(RCHECK, client(3), late)
    assert list(entries) == [client(2), client(3)]
    entries.touch(Recent("KUBE-SEP-A", "rcheck", 60), client(3), late)  # without --reap
    assert list(entries) == [client(2), client(3)]


def test_reap_leaves_the_oldest_while_it_is_young():
    entries = filled(1, 2)
    entries.touch(RCHECK, client(2), 30 * SECOND_NS)
    assert list(entries) == [client(1), client(2)]


def test_remove_forgets_the_source():
    entries = filled(1)
    assert entries.touch(Recent("KUBE-SEP-A", "remove"), client(1), 0)
    assert not entries.touch(Recent("KUBE-SEP-A", "remove"), client(1), 0)


def test_hitcount_counts_stamps_within_the_seconds():
    entries = filled(1, 1, 1)  # at 0, 1 and 2 s
    twice_in_one_second = Recent("KUBE-SEP-A", "rcheck", 1, hitcount=2)
    assert entries.touch(twice_in_one_second, client(1), 2 * SECOND_NS)
    assert not entries.touch(twice_in_one_second, client(1), 3 * SECOND_NS)


def test_negation():
    entries = filled(1)
    not_seen = Recent("KUBE-SEP-A", "rcheck", 60, negate=True)
    assert not entries.touch(not_seen, client(1), 0)
    assert entries.touch(not_seen, client(2), 0)


def test_families_do_not_mix():
    assert (Family.IPV6, 1) not in filled(1)


def test_lists_live_as_long_as_some_rule_uses_them():  # K-4.2, CT-8.3
    lists = RecentLists()
    lists.commit(RecentTouch(SET, client(1), 0))
    lists.commit(RecentTouch(Recent("KUBE-SEP-B", "set"), client(2), 0))
    lists.retain(lambda: ["KUBE-SEP-A"])
    assert client(1) in lists["KUBE-SEP-A"]
    assert len(lists["KUBE-SEP-B"]) == 0


def test_nobody_is_asked_about_rules_while_nothing_is_remembered():
    def never() -> list[str]:
        raise AssertionError

    RecentLists().retain(never)


@pytest.mark.parametrize(("clients", "low", "high"), [(200, 180, 200), (250, 110, 165), (1000, 450, 550)])
def test_two_endpoints_remember_two_hundred_clients_and_not_more(clients, low, high):
    """K-4.1: measured on a second pass over the clients, the same endpoint for 199/200, 136/250, 501/1000 of them."""
    lists = {"A": RecentList(), "B": RecentList()}

    def serve(number: int, now_ns: int) -> str:
        for name, entries in lists.items():
            if entries.touch(Recent(name, "rcheck", 10_800, reap=True), client(number), now_ns):
                break
        else:
            name = "AB"[below(2, 1, now_ns, number)]
        lists[name].touch(Recent(name, "set"), client(number), now_ns)
        return name

    first = {number: serve(number, 0) for number in range(clients)}
    same = sum(serve(number, SECOND_NS) == first[number] for number in range(clients))
    assert low <= same <= high


def test_an_update_that_is_false_refreshes_nothing():
    """xt_recent: only what matched is stamped anew."""
    entries = filled(1, 2)
    assert not entries.touch(UPDATE, client(1), 100 * SECOND_NS)
    assert list(entries) == [client(1), client(2)]
    assert not entries.touch(RCHECK, client(1), 100 * SECOND_NS)


def test_without_seconds_every_stamp_counts_and_nothing_is_reaped():
    entries = filled(1, 2)
    late = 1_000_000 * SECOND_NS
    assert entries.touch(Recent("KUBE-SEP-A", "rcheck"), client(1), late)
    assert entries.touch(Recent("KUBE-SEP-A", "rcheck", reap=True), client(1), late)
    assert list(entries) == [client(1), client(2)]
    assert not entries.touch(Recent("KUBE-SEP-A", "rcheck", hitcount=2), client(1), late)


def test_what_is_as_old_as_the_seconds_is_not_reaped():
    """As it still counts, by the same measurement."""
    entries = filled(1, 2)
    entries.touch(RCHECK, client(2), 60 * SECOND_NS)
    assert list(entries) == [client(1), client(2)]
    entries.touch(RCHECK, client(2), 60 * SECOND_NS + 1)
    assert list(entries) == [client(2)]
