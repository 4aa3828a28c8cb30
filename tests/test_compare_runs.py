"""Comparisons of runs: connections are paired by source, client and time; what moved is grouped; directories are read back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sweeps import PRE_STOP, SCENARIO, file_of

import kpsim
from kpsim.cli import main
from kpsim.comparison.runs import Account, Ended, FigureDifference, ended_of
from kpsim.comparison.runs.pairing import compare_runs
from kpsim.comparison.runs.reading import read_run
from kpsim.comparison.runs.words import comparison_json, comparison_lines
from kpsim.errors import InputError
from kpsim.units import MILLISECOND_NS, SECOND_NS


def ended(at_ms: int, disposition: str = "delivered", cause: str = "", **changes: str) -> Ended:
    there = Ended(at_ms * MILLISECOND_NS, "t", "c1", "default/web", "node-1", disposition, cause, "node-2")
    return replace(there, **changes)


def account(name: str, *connections: Ended, seed: int = 1, **figures: float) -> Account:
    return Account(name, "small", seed, "iptables", connections, figures)


LOST = {"disposition": "failed", "cause": "endpoint gone"}


def test_what_one_run_lost_is_grouped_by_cause_and_time() -> None:
    a = account("a", *(ended(at, **LOST) for at in (0, 1000, 3001)), ended(4000, "dropped", "no local endpoints"))
    b = account("b", ended(0, endpoint_node="node-3"), *(ended(at) for at in (1000, 3001, 4000)))
    found = compare_runs(a, b)
    assert [
        (w.lost_in, w.cause, w.first_ns // MILLISECOND_NS, w.last_ns // MILLISECOND_NS, w.connections)
        for w in found.windows
    ] == [
        ("a", "endpoint gone", 0, 1000, 2),
        ("a", "endpoint gone", 3001, 3001, 1),  # more than 2 s later
        ("a", "no local endpoints", 4000, 4000, 1),
    ]
    assert found.windows[0].elsewhere == (("node-2", 1), ("node-3", 1))
    assert (found.lost_only("a"), found.lost_only("b"), found.lost_in_both, found.pairs) == (4, 0, 0, 4)
    assert compare_runs(b, a).windows[0].lost_in == "b"


def test_connections_are_paired_by_source_client_and_time() -> None:
    a = account("a", ended(0), ended(0, **LOST), ended(5, client="c2"), ended(7, traffic="u", **LOST))
    b = account("b", ended(0), ended(0, "dropped", "no endpoints"), ended(5, client="c3"), ended(7, traffic="v"))
    found = compare_runs(a, b)
    assert (found.pairs, found.only_a, found.only_b) == (2, 2, 2)
    assert (found.lost_in_both, found.other_cause, found.windows) == (1, 1, ())
    assert "1 in both (1 of them for another cause); 2 were attempted only in A, 2 only in B." in "\n".join(
        comparison_lines(found)
    )


def test_figures_that_differ_stand_side_by_side() -> None:
    found = compare_runs(
        account("a", lost=3, sent=9, only=1, undefined=float("nan")),
        account("b", lost=1, sent=9, undefined=float("nan")),
    )
    assert found.figures == (FigureDifference("lost", 3, 1), FigureDifference("only", 1, None))
    assert [each.difference for each in found.figures] == [-2, None]
    assert json.dumps(comparison_json(found), allow_nan=False)


def test_other_seeds_and_other_traffic_are_said() -> None:
    found = compare_runs(account("a", ended(0)), account("b", ended(1), seed=2))
    assert [note.partition(",")[0] for note in found.notes] == [
        "the seeds differ (1 and 2)",
        "no connection of one run has its like in the other: other sources",
    ]


def test_a_directory_is_read_as_the_run_that_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpsim.reports.output.plots", lambda _log: [])  # pictures decide nothing
    result = kpsim.run(file_of(tmp_path))
    result.write(tmp_path / "out")
    read = read_run(tmp_path / "out")
    assert read.connections == ended_of(result.log.connections)
    here = Account("x", "small", 1, "iptables", ended_of(result.log.connections), result.figures)
    assert compare_runs(here, read).figures == ()
    (tmp_path / "out/frames/connections.parquet").write_bytes(b"no frame")
    with pytest.raises(InputError, match=r"connections.parquet: no frame of connections that kpsim run --out wrote"):
        read_run(tmp_path / "out")
    (tmp_path / "out/summary.json").write_text('{"scenario": 1}')
    with pytest.raises(InputError, match=r"summary.json: no summary that kpsim run --out wrote"):
        read_run(tmp_path / "out")


def test_draws_are_paired_whatever_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = SCENARIO.replace("delays: {", "delays: {watchDelivery: 500ms, ").replace("perSecond: 8", "perSecond: 20")
    path = file_of(tmp_path, slow)
    monkeypatch.setattr("sys.argv", ["kpsim", "compare", str(path), "--set", f"{PRE_STOP}=1s", "--format", "json"])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code  # B loses nothing that A delivers
    found = json.loads(capsys.readouterr().out)
    assert found["connections_in_both"] > 30 and found["a"]["attempted_only_here"] == 0
    assert found["a"]["lost_only_here"] > 0 == found["b"]["lost_only_here"]
    assert {window["cause"] for window in found["windows"]} == {"endpoint gone"}
    # after the event, until slower rules follow
    assert all(window["first_ns"] >= SECOND_NS // 2 for window in found["windows"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["small.yaml"], "give two runs, or one scenario and --set or two --mode"),
        (["small.yaml", "small.yaml", "--set", "a=1"], "it goes with one scenario"),
        ([".", "small.yaml", "--seed", "2"], "is a run that is over"),
        (["small.yaml", *(["--mode", "ipvs"] * 3)], "--mode is given once or twice"),
        (["."] * 2, "summary.json"),
    ],
)
def test_what_cannot_be_compared_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    file_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["kpsim", "compare", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2 and expected in capsys.readouterr().err
