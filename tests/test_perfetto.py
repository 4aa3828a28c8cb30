"""Traces for Perfetto, checked against what the Trace Event Format and Perfetto's importer ask for.

Slices of a thread nest; an arrow is events of one id, name and category, from ``s`` over ``t`` to ``f`` with ``bp: e``, each inside a
slice of its thread; times are microseconds; names of processes and threads are metadata.
"""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from runlogs import empty, ms, story

from kpsim.cli import main
from kpsim.errors import InputError
from kpsim.reports import perfetto
from kpsim.reports.perfetto import perfetto_text
from kpsim.result import RunResult, run
from kpsim.simulation.scraping import TableSize

Event = dict[str, Any]


def read(text: str) -> list[Event]:
    document = json.loads(text)
    assert document["displayTimeUnit"] == "ms"
    events: list[Event] = document["traceEvents"]
    return events


def ns(microseconds: float) -> int:
    return round(microseconds * 1000)


def check(events: list[Event]) -> dict[int, list[Event]]:
    """Check what the format asks for. Return the arrows, each as the slices that it leads through."""
    assert [e["ts"] for e in events] == sorted(e["ts"] for e in events) and min(e["ts"] for e in events) >= 0
    named = Counter((e["name"], e["pid"], e["tid"]) for e in events if e["ph"] == "M")
    assert set(named.values()) == {1}
    threads: dict[tuple[int, int], list[Event]] = {}
    for event in events:
        assert event["ph"] in "MXstfiC" and isinstance(event["pid"], int)
        assert ("process_name", event["pid"], 0) in named
        if event["ph"] not in "MC":
            assert ("thread_name", event["pid"], event["tid"]) in named
        if event["ph"] == "X":
            assert ns(event["dur"]) >= 1
            threads.setdefault((event["pid"], event["tid"]), []).append(event)
    tids = [e["tid"] for e in events if e["name"] == "thread_name"]
    assert len(tids) == len(set(tids)) and not set(tids) & {e["pid"] for e in events}
    for slices in threads.values():
        for one, other in pairwise(slices):
            assert ns(one["ts"]) + ns(one["dur"]) <= ns(other["ts"])  # even more than to nest
    arrows: dict[int, list[Event]] = {}
    seen: dict[tuple[int, int], list[Event]] = {}
    parts: dict[int, list[Event]] = {}
    for event in events:
        if event["ph"] == "X":
            seen.setdefault((event["pid"], event["tid"]), []).append(event)
        if event["ph"] in "stf":
            last = seen[event["pid"], event["tid"]][-1]  # Perfetto takes the slice that was begun last
            assert ns(last["ts"]) <= ns(event["ts"]) < ns(last["ts"]) + ns(last["dur"])
            arrows.setdefault(event["id"], []).append(last)
            parts.setdefault(event["id"], []).append(event)
    for events_of_one in parts.values():
        assert "".join(e["ph"] for e in events_of_one) in ("sf", "stf", "sttf")
        assert len({(e["name"], e["cat"]) for e in events_of_one}) == 1
        assert events_of_one[-1]["bp"] == "e"
    return arrows


@pytest.fixture(scope="module")
def result() -> RunResult:
    settings = ["delays.preset=typical", "traffic[0].perSecond=30"]
    return run("local-rollout", settings=settings, count_entries=True)


def test_every_change_of_a_run_has_its_way_to_every_node(result: RunResult) -> None:
    events = read(result.perfetto())
    arrows = check(events)
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert list(names.values())[:4] == ["cluster", "kubelet node-1", "kubelet node-2", "kubelet node-3"]
    ways = [[names[s["pid"]] for s in slices] for slices in arrows.values()]
    for node in ("node-1", "node-2", "node-3"):
        programmed = [p for p in result.log.programming if p.node == node]
        assert ways.count(["API server", f"kube-proxy {node}", f"kube-proxy {node}"]) == len(programmed) > 0
    whole = [
        way
        for way in ways
        if way[0].startswith("kubelet") and way[1:] == ["API server", "slice controller", "API server"]
    ]
    assert whole
    for slices in arrows.values():
        if names[slices[-1]["pid"]].startswith("kube-proxy"):
            change, batch, sync = slices
            assert change["name"] in batch["args"]["changes"] and "sync" in sync["name"]


def test_a_slice_lasts_as_long_as_what_it_shows(result: RunResult) -> None:
    events = read(result.perfetto())
    shown = Counter((ns(e["ts"]), ns(e["dur"])) for e in events if e["ph"] == "X" and e["cat"].startswith("sync "))
    assert shown == Counter((s.start_ns, max(1, s.end_ns - s.start_ns)) for s in result.log.syncs)


def test_losses_are_instants_and_say_what_held_them_up(result: RunResult) -> None:
    events = read(result.perfetto())
    lost = [e for e in events if e["ph"] == "i" and e["cat"] == "loss"]
    assert len(lost) == result.figures["lost"] > 0
    for held in ("rotation", "wait"):
        assert sum(f"({held})" in e["name"] for e in lost) == result.figures[f"held_up.{held}"]


def test_counters_follow_queue_rotation_and_connection_table(result: RunResult) -> None:
    events = [e for e in read(result.perfetto()) if e["ph"] == "C"]
    names = Counter(e["name"] for e in events)
    assert {"pending changes", "connection entries", "node-2 in rotation", "node-2 check passes"} <= set(names)
    for pid in {e["pid"] for e in events if e["name"] == "pending changes"}:
        values = [e["args"]["value"] for e in events if e["pid"] == pid and e["name"] == "pending changes"]
        assert values[-1] == 0 and max(values) >= 1 and min(values) == 0
    assert max(e["args"]["value"] for e in events if e["name"] == "connection entries") > 50


def test_the_same_run_gives_the_same_bytes_counted_on_the_way_or_afterwards(result: RunResult) -> None:
    again = run("local-rollout", settings=["delays.preset=typical", "traffic[0].perSecond=30"])
    assert again.log == result.log and again.perfetto() == result.perfetto()


@pytest.mark.parametrize("mode", ["nftables", "ipvs"])
@pytest.mark.parametrize("name", ["stale-udp-no-cleanup", "node-down", "sync-lag-burst"])
def test_other_modes_failures_and_nodes_that_are_off_give_sound_traces(name: str, mode: str) -> None:
    check(read(run(name, mode=mode, settings=["duration=25s"]).perfetto()))


def test_a_log_made_by_hand_and_one_without_anything() -> None:
    arrows = check(read(perfetto_text(story(), [TableSize(0, "node-1", 3)])))
    assert arrows == {} or all(arrows.values())
    assert {e["ph"] for e in read(perfetto_text(empty()))} == {"M"}


def test_more_events_than_a_browser_opens_are_refused(result: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perfetto, "MOST_EVENTS", 10)
    with pytest.raises(InputError, match=r"--perfetto: the trace would have about [\d,]+ events, and 10 are the most"):
        result.perfetto()


def test_a_pod_that_is_reported_late_shows_when_its_kubelet_noticed(result: RunResult) -> None:
    reports = [e for e in read(result.perfetto()) if e["ph"] == "X" and e["cat"] == "reports"]
    noticed = {(w.cause.noticed_ns - w.cause.trigger_ns) / ms(1) for w in result.log.pod_writes if w.what == "ready"}
    assert noticed <= {e["args"]["noticed_after_ms"] for e in reports}


def test_files_of_one_run_need_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["kpsim", "run", "sync-lag-burst", "--metrics", "out", "--perfetto"]
    monkeypatch.setattr("sys.argv", [*words, str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "give each its own" in capsys.readouterr().err and not list(tmp_path.iterdir())
    monkeypatch.setattr("sys.argv", [*words, "trace.json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and sorted(path.name for path in tmp_path.iterdir()) == ["out", "trace.json"]
