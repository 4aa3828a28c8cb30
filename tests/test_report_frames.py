"""Frames: declared columns and dtypes, also when empty, and the values of the hand-made story."""

from typing import Any

import pandas as pd
import pytest
from runlogs import API, WEB, empty, ms, story

from kpsim.reports import frames
from kpsim.reports.frames import TABLES, Table
from kpsim.reports.local_policy import local_bins
from kpsim.reports.sync_lag import Stage


@pytest.mark.parametrize("log", [empty(), story()], ids=["empty", "story"])
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_columns_and_dtypes_are_as_declared(table: Table[Any], log: Any) -> None:
    frame = table.frame(log)
    assert [(name, str(dtype)) for name, dtype in frame.dtypes.items()] == [(c.name, c.dtype) for c in table.columns]
    nothing = log.scenario == "empty" or table is frames.UNPROGRAMMED  # in the story every change reached the rules
    assert (len(frame) == 0) is nothing


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_columns_say_what_they_mean(table: Table[Any]) -> None:
    assert table.meaning
    for column in table.columns:
        assert column.meaning
        assert (column.unit == "ns") is column.name.endswith("_ns")
        assert (column.unit == "s") is column.name.endswith("_seconds")


def test_connections() -> None:
    frame = frames.CONNECTIONS.frame(story())
    assert len(frame) == 12
    row = frame.iloc[3]
    assert (row["at_ns"], row["at_seconds"], row["node"]) == (ms(2500), 2.5, "node-2")
    assert (row["disposition"], row["cause"], row["endpoint"]) == ("dropped", "no local endpoints", "")
    assert frame.groupby("disposition").size().to_dict() == {"delivered": 7, "dropped": 3, "failed": 1, "rejected": 1}


def test_overview_counts_every_connection_once() -> None:
    frame = frames.OVERVIEW.frame(story())
    assert frame.groupby("service")["connections"].sum().to_dict() == {API: 4, WEB: 8}


def test_affinity() -> None:
    frame = frames.AFFINITY.frame(story())
    assert frame["stay_ratio"].tolist()[0] == 0.5
    assert pd.isna(frame["stay_ratio"].tolist()[1])
    assert frame["distinct_endpoints"].tolist() == [2, 1]
    breaks = frames.AFFINITY_BREAKS.frame(story())
    assert breaks[["cause", "former_endpoint", "endpoint"]].values.tolist() == [
        ["endpoint gone", "10.180.1.7:9000", "10.180.2.7:9000"]
    ]


def test_local_drops() -> None:
    frame = frames.LOCAL_DROPS.frame(story())
    assert frame["at_seconds"].tolist() == [2.5, 3.0, 4.0]
    assert frame["in_rotation"].tolist() == [True, True, True]
    assert frame["check_passes"].tolist() == [False, False, False]
    (window,) = frames.LOCAL_DROP_WINDOWS.frame(story()).to_dict("records")
    assert (window["start_seconds"], window["end_seconds"], window["dropped"]) == (2.5, 4.0, 3)
    assert (window["no_local_since_ns"], window["left_rotation_ns"]) == (ms(2000), ms(5000))
    bins = frames.LOCAL_BINS.frame_of(local_bins(story(), ms(2000)))
    assert bins.loc[bins["node"] == "node-2", "dropped"].tolist() == [0, 2, 1, 0, 0]


def test_sync_lag() -> None:
    frame = frames.SYNC_LAG.frame(story())
    assert frame["lag_seconds"].tolist() == [0.2, 0.4, 1.0]
    assert frame["wait_ns"].tolist() == [ms(40), ms(200), ms(600)]
    assert frame["reported_ns"].isna().tolist() == [False, False, True]
    legs = frame["write_ns"] + frame["deliver_ns"] + frame["wait_ns"] + frame["sync_ns"]
    assert (legs == frame["lag_ns"]).all()


def test_sync_lag_quantiles() -> None:
    """node-1 has two changes (200 ms and 1 s, the first of them reported), node-2 one."""
    frame = frames.SYNC_LAG_QUANTILES.frame(story()).set_index(["node", "stage"])
    assert frame.loc[("", "lag"), ["count", "p50_ns", "p99_ns"]].tolist() == [3, ms(400), ms(1000)]
    assert frame.loc[("node-1", "lag"), ["count", "p50_ns", "max_seconds"]].tolist() == [2, ms(200), 1.0]
    assert frame.loc[("node-1", "reported"), ["count", "p99_ns"]].tolist() == [1, ms(190)]
    assert frame.loc[("node-2", "sync"), "p50_ns"] == ms(80)
    assert frame.loc[("", "write"), "p50_ns"] == ms(100)
    assert len(frame) == 3 * (len(Stage) + 3)


def test_the_rest() -> None:
    assert frames.SYNCS.frame(story())["duration_seconds"].tolist() == [0.04, 0.02, 0.03]
    assert frames.NODE_HEALTH.frame(story())["local_usable"].tolist() == [1, 1, 0, 0]
    assert frames.HAPPENINGS.frame(story())["kind"].tolist() == ["node cordoned", "pod gone", "sync failed"]
