"""In nftables mode partial syncs lead where full syncs lead, and all that is kept by difference equals a recount (NFT-8)."""

import re
from collections.abc import Iterator

from histories import Step, Sync, happen, histories
from hypothesis import given, settings
from nftables_tables import nft_rig, sent, table
from proxiers import Rig

from kpsim.backends.nftables import NftablesBackend
from kpsim.backends.nftables.elements import CONTAINERS
from kpsim.config import Host
from kpsim.dialects import Form
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.proxier import SyncResult
from kpsim.ruleset import Element, Key, Table

EXAMPLES = settings(max_examples=12, deadline=None)
HOST = Host(node_ips=("192.168.0.2",), service_cidrs=("172.30.0.0/16",))


def fresh(rig: Rig) -> Rig:
    """A proxier that starts now, with the objects that the API server has."""
    started = nft_rig(host=HOST)
    started.apply(*rig.cluster.nodes, *rig.cluster.services, *rig.cluster.endpoint_slices)
    started.sync()
    return started


def synced(history: list[Step], *rigs: Rig) -> Iterator[tuple[SyncResult, ...]]:
    """The results of each sync of a history, which happens to all rigs."""
    for step in [*history, Sync(1, refuse=False)]:
        if not isinstance(step, Sync):
            for rig in rigs:
                happen(rig, step)
            continue
        yield tuple(rig.sync(step.after_s, refuse=step.refuse) for rig in rigs)


def without_comments(lines: list[str]) -> list[str]:
    """The lines without the comments of elements, which may be stale (NFT-8.6)."""
    return [re.sub(' comment "[^"]*" :', " :", line) if line.startswith("add element") else line for line in lines]


@EXAMPLES
@given(histories)
def test_partial_syncs_lead_where_full_ones_lead(history: list[Step]) -> None:
    rig, forced = nft_rig(host=HOST), nft_rig(host=HOST)
    for result, full in synced(history, rig, forced):
        forced.proxier.force_full_sync()  # the next one
        assert result.success is full.success
        assert result.transaction.no_local_endpoints == full.transaction.no_local_endpoints
        if result.success:
            assert table(rig) == table(forced)
            (counted,) = result.transaction.rule_counts
            assert counted.total == sum(line.startswith("add rule") for line in table(rig))
            assert counted.last == sum(line.startswith("add rule") for line in sent(result))
    rig.sync(2)
    rig.sync(2)
    assert without_comments(table(rig)) == without_comments(table(fresh(rig)))


@EXAMPLES
@given(histories)
def test_what_is_kept_equals_a_recount(history: list[Step]) -> None:
    rig = nft_rig(host=HOST)
    for (result,) in synced(history, rig):
        backend = rig.proxier.backend
        assert isinstance(backend, NftablesBackend)
        held = result.held.ruleset.tables.get(backend._key)
        if held is None:
            continue
        assert held.counted is not None
        assert dict(held.counted) == dict(Table(held.key, held.chains, held.sets).uses)
        if result.success:
            assert backend._memory._values == {name: values(held.sets[name].elements) for name in CONTAINERS}
            wanted: dict[tuple[str, Key], set[object]] = {}
            for objects in backend._ports.values():
                for container, key, element in objects.claims:
                    wanted.setdefault((container, key), set()).add(element.value)
            assert {place for place, found in wanted.items() if len(found) > 1} == backend._claims.contested
            assert set(wanted) == {(name, key) for name in CONTAINERS for key in held.sets[name].elements}


@EXAMPLES
@given(histories)
def test_what_is_held_is_read_again_from_its_text(history: list[Step]) -> None:
    rig = nft_rig(host=HOST)
    *_, (result,) = synced(history, rig)
    ruleset = result.held.ruleset
    for form in Form:
        assert DIALECT.parse(DIALECT.render(ruleset, form), ruleset.family) == (ruleset,)


def values(elements: object) -> dict[Key, object]:
    assert hasattr(elements, "items")
    found: dict[Key, object] = {}
    for key, element in elements.items():
        assert isinstance(element, Element)
        found[key] = element.value
    return found


@EXAMPLES
@given(histories)
def test_an_unchanged_resync_sends_only_what_two_services_take_from_each_other(history: list[Step]) -> None:
    rig = nft_rig(host=HOST)
    for _ in synced(history, rig):
        pass
    rig.sync(2)
    rig.sync(2)
    backend = rig.proxier.backend
    assert isinstance(backend, NftablesBackend)
    lines = sent(rig.sync(2))
    assert bool(lines) is bool(backend._claims.contested)
    assert all(line.startswith(("delete element", "add element")) for line in lines)
