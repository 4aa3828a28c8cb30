"""The cost of loading and syncing. Each docstring states the bound that the design has to keep."""

from itertools import count
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.clusters import changed_slice, new_proxier, synced_proxier, write_list
from kpsim.cluster import Event, EventType
from kpsim.config import DEFAULT_MODE, Mode
from kpsim.manifests import load_manifests
from kpsim.proxier import SyncResult

_versions = count(2)


MODES = (Mode.IPTABLES, Mode.NFTABLES)


def _partial_sync(services: int, mode: Mode = DEFAULT_MODE) -> SyncResult:
    proxier = synced_proxier(services, mode)
    version = next(_versions)
    proxier.on_event(Event(EventType.MODIFIED, None, changed_slice(7, version)), version)
    return proxier.sync(version)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("services", [1_000, 10_000])
def test_partial_sync_after_one_changed_slice(benchmark: BenchmarkFixture, services: int, mode: Mode) -> None:
    """At most 5 ms at either size, because a partial sync costs what changed."""
    synced_proxier(services, mode)
    result = benchmark(_partial_sync, services, mode)
    assert result.success
    assert not result.full


def test_sync_after_one_changed_slice_in_ipvs_mode(benchmark: BenchmarkFixture) -> None:
    """At most 200 ms for 1,000 Services with 10,000 endpoints: every sync brings everything in line (IPVS-1.2)."""
    synced_proxier(1_000, Mode.IPVS)
    result = benchmark(_partial_sync, 1_000, Mode.IPVS)
    assert result.success
    assert result.full


def test_text_of_a_partial_sync(benchmark: BenchmarkFixture) -> None:
    """At most 150 ms at 5,000 Services."""
    synced_proxier(5_000)
    text = benchmark.pedantic(
        lambda document: document(),
        setup=lambda: ((_partial_sync(5_000).transaction.documents[0],), {}),
        rounds=20,
    )
    assert text.count("\n-A KUBE-SERVICES ") > 5_000


@pytest.mark.parametrize("mode", Mode)
def test_full_sync(benchmark: BenchmarkFixture, mode: Mode) -> None:
    """At most 3 s for 5,000 Services with 50,000 endpoints."""
    result = benchmark.pedantic(
        lambda proxier: proxier.sync(0), setup=lambda: ((new_proxier(5_000, mode),), {}), rounds=3, warmup_rounds=0
    )
    assert result.success


def test_load_from_json(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """At most 10 s, the full sync included, for 5,000 Services with 50,000 endpoints."""
    path = write_list(tmp_path / "cluster.json", 5_000)
    loaded = benchmark.pedantic(load_manifests, args=([path],), rounds=3, warmup_rounds=0)
    assert len(loaded.cluster.objects) == 10_000
