"""A persistent map against dictionaries: each version holds what it should, however many versions came after it."""

import pickle
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpsim.maps import Map

# From one dictionary only (up to 64 entries) to maps whose changes reach the medium dictionary and the large one.
SIZES = st.sampled_from([0, 3, 63, 64, 65, 100, 1_000])
KEYS = st.integers(-20, 150)
CHANGES = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers(0, 9))), max_size=80)


def changed(old: Map[int, int], wanted: dict[int, int], changes: Iterable[tuple[int, int | None]]) -> Map[int, int]:
    """As one mutation; the dictionary follows. None takes a key away."""
    with old.mutate() as changing:
        for key, value in changes:
            if value is not None:
                changing[key] = wanted[key] = value
            else:
                assert changing.pop(key, None) == wanted.pop(key, None)
        return changing.finish()


def alike(found: Map[int, int], wanted: dict[int, int]) -> None:
    for key in range(-21, 152):
        assert found.get(key) == wanted.get(key)
        assert found.get(key, "none") == wanted.get(key, "none")
        assert (key in found) == (key in wanted)
        if key in wanted:
            assert found[key] == wanted[key]
        else:
            with pytest.raises(KeyError):
                found[key]


@settings(deadline=None, max_examples=60)
@given(size=SIZES, steps=st.lists(CHANGES, max_size=8))
def test_every_version_stays_what_it_was(size: int, steps: list[list[tuple[int, int | None]]]) -> None:
    wanted = {key: -key for key in range(size)}
    versions = [(Map(wanted), dict(wanted))]
    for number, changes in enumerate(steps):
        current = versions[-1][0]
        if number % 2:
            current = changed(current, wanted, changes)
        else:
            for key, value in changes:
                if value is not None:
                    wanted[key] = value
                    current = current.set(key, value)
                elif wanted.pop(key, None) is not None:
                    current = current.delete(key)
        versions.append((current, dict(wanted)))
    for found, held in versions:
        alike(found, held)  # before anything goes through all entries, and after
        assert sorted(found) == sorted(found.keys()) == sorted(held)
        assert dict(found.items()) == held
        assert sorted(found.values()) == sorted(held.values())
        assert len(found) == len(held)
        alike(found, held)


@settings(deadline=None, max_examples=40)
@given(size=SIZES, changes=CHANGES)
def test_equal_however_it_came_about(size: int, changes: list[tuple[int, int | None]]) -> None:
    wanted = {key: -key for key in range(size)}
    found = changed(Map(wanted), wanted, changes)
    same = Map(reversed(wanted.items()))
    assert found == same
    assert hash(found) == hash(same)
    assert pickle.loads(pickle.dumps(found)) == same
    assert Map(found) == same
    assert found.set(-500, 1) != same
    assert found.set(-500, 1).delete(-500) == same


@settings(deadline=None, max_examples=40)
@given(size=SIZES, changes=CHANGES)
def test_many_at_once(size: int, changes: list[tuple[int, int | None]]) -> None:
    wanted = {key: -key for key in range(size)}
    entries = {key: value for key, value in changes if value is not None}
    assert Map(wanted).update(entries) == Map(wanted).update(Map(entries)) == Map(wanted | entries)
    assert Map(wanted).update(entries.items()) == Map(wanted | entries)


@pytest.mark.parametrize("size", [2, 200])
def test_what_is_not_there_cannot_be_taken(size: int) -> None:
    entries = Map((key, key) for key in range(size))
    without = entries.delete(1)
    for call in (lambda: entries.delete(-1), lambda: without.delete(1), lambda: without[1]):
        with pytest.raises(KeyError):
            call()
    changing = without.mutate()
    with pytest.raises(KeyError):
        changing.pop(1)
    changing[1] = 7
    assert changing.pop(1) == 7
    assert changing.pop(1, 5) == 5
    assert changing.finish() == without


def test_a_finished_mutation_is_not_changed_by_what_follows() -> None:
    changing = Map((key, key) for key in range(100)).mutate()
    changing[0] = 7
    first = changing.finish()
    changing[0] = 8
    assert first[0] == 7
    assert changing.finish()[0] == 8


@pytest.mark.parametrize("size", [2, 200])
def test_entries_can_be_changed_while_they_are_gone_through(size: int) -> None:
    current = before = Map((key, key) for key in range(size)).set(0, 5)
    for key in current:
        current = current.delete(key)
    assert not current
    assert len(before) == size


def test_it_equals_no_dictionary_and_cannot_be_assigned_to() -> None:
    entries = Map({1: 2})
    assert entries != {1: 2}
    assert repr(entries) == "Map({1: 2})"
    with pytest.raises(TypeError):
        entries[1] = 3  # type: ignore[index]
