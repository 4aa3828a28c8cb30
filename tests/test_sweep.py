"""Sweeps: which points are run, what is kept, what is said of figures over seeds, and the search for a goal."""

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from quantile_tables import T_TABLE, WILSON
from sweeps import PRE_STOP, RATE, SCENARIO, Faked, file_of

import kpsim
from kpsim.cli import main
from kpsim.errors import InputError
from kpsim.reports.figures import Figures
from kpsim.scenario import Scenario, load_scenario, parse_scenario
from kpsim.sweeping.dials import read_dials
from kpsim.sweeping.estimates import share_interval, spread, t_quantile
from kpsim.sweeping.identity import fingerprint
from kpsim.sweeping.runs import packed, unpacked
from kpsim.sweeping.sentences import over_seeds_lines
from kpsim.sweeping.sweep import sweep


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Faked:
    return Faked(monkeypatch, tmp_path)


# --------------------------------------------------------------------------------------------------------------- dials


@pytest.mark.parametrize(
    ("text", "values", "numbers"),
    [
        ("a.b=0s,200ms,1m", ["0s", "200ms", "1m"], [0, 0.2, 60]),
        ("a[x].b=1,2.5", ["1", "2.5"], [1, 2.5]),
        ("a[name=x].b=25%,50%", ["25%", "50%"], [25, 50]),
        ("a=0s..1s/400ms", ["0s", "400ms", "800ms"], [0, 0.4, 0.8]),
        ("a=0..0.3/0.1", ["0", "0.1", "0.2", "0.3"], [0, 0.1, 0.2, 0.3]),
        ("a={uniform: {low: 0s, high: 1s}},2s", ['{"uniform": {"low": "0s", "high": "1s"}}', "2s"], [None, 2]),
        ("a=Local,Cluster", ["Local", "Cluster"], [None, None]),
    ],
)
def test_values_are_lists_of_yaml_or_ranges(text: str, values: list[str], numbers: list[float | None]) -> None:
    (dial,) = read_dials([text])
    assert [value.text for value in dial.values] == values
    assert [value.number for value in dial.values] == numbers
    assert dial.numeric == (None not in numbers)


def test_values_of_different_kinds_have_no_order() -> None:
    assert not read_dials(["a=1,2s"])[0].numeric
    assert read_dials(["a=0,2s"])[0].unit == "s"


def test_dials_are_labelled_by_the_end_of_their_paths_unless_two_have_the_same() -> None:
    assert [dial.label for dial in read_dials(["a.b=1", "c[d].e=1"])] == ["b", "e"]
    assert [dial.label for dial in read_dials(["a.b=1", "c.b=1"])] == ["a.b", "c.b"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a"], "--vary a: expected PATH=VALUE"),
        (["a="], "expected values"),
        (["a=1..5"], "a range has a step: 1..5/STEP"),
        (["a=5..1/1"], "expected a range that goes up"),
        (["a=0s..5/1"], "expected three numbers, or three durations"),
        (["a=0..1/0.00001"], "100,001 values, expected at most 10,000"),
        (["a=1s,1s"], "the value 1s stands there twice"),
        (["a=1", "a=2"], "--vary a: given twice"),
        (["a..b=1"], "not a path"),
        ([f"a{number}=1" for number in range(7)], "7 dials: at most 6"),
    ],
)
def test_dials_that_cannot_be_read_are_refused(texts: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=".*".join(expected.split("*"))) as refused:
        read_dials(texts)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (
            {"vary": ["workloads[wob].termination.preStop=0s,1s"]},
            "--vary workloads[wob].termination.preStop=0s: .workloads is a list: expected a position from 0 or an item's name, got 'wob'; did you mean 'web'?",
        ),
        ({"vary": ["traffic[t].perSecnd=1,2"]}, "unknown field 'perSecnd'; did you mean 'perSecond'?"),
        ({"vary": [f"{PRE_STOP}=0s,soon"]}, "preStop=soon: .workloads[0].termination.preStop.constant: not a duration"),
        ({"vary": [f"{PRE_STOP}=0s,1s"], "goal": "losst == 0"}, "unknown figure 'losst'; did you mean lost"),
        ({"vary": ["nodes.zones=[a],[b]"], "goal": "lost == 0"}, "has to be numbers, durations or percentages"),
        ({"goal": "lost == 0"}, "--goal is searched along the first --vary"),
        ({"figures": ["nothing"]}, "unknown figure 'nothing'"),
        ({"vary": [f"{RATE}=1..400/1"], "seeds": 300}, "400 points × 300 seeds are 120,000 runs: at most 100,000"),
        ({"seeds": 0}, "--seeds 0: expected 1 to 10,000"),
        ({"jobs": 0}, "-j 0: expected at least one process"),
        ({"vary": [f"{RATE}=1,1.0"]}, f"{RATE}=1.0 and {RATE}=1 are the same scenario"),
        ({"vary": ["description=a,b"]}, "runs read nothing of what differs"),
        ({"seed": 2**63 - 1}, "expected a number of 64 bits"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(faked: Faked, how: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as refused:
        faked.sweep(**how)
    assert expected in str(refused.value)
    assert faked.made == []


def test_work_of_hours_is_refused_unless_it_is_asked_for(faked: Faked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpsim.effort.MOST_S", 0.0)
    with pytest.raises(InputError, match=r"2 runs; --long runs it all the same"):
        faked.sweep()
    assert faked.sweep(long=True).points


# ---------------------------------------------------------------------------------------------------------------- runs


def test_every_combination_runs_with_the_same_seeds(faked: Faked) -> None:
    found = faked.sweep(vary={PRE_STOP: ["0s", "2s"], RATE: [5, 7]}, seed=4)
    assert faked.made == [(p, r, s) for p in (0, 2) for r in (5, 7) for s in (4, 5)]
    assert found.outcome.seeds == (4, 5)


def test_finished_runs_are_taken_from_where_they_are_kept(faked: Faked, tmp_path: Path) -> None:
    def broken(pre_stop: float, rate: float, seed: int) -> float:
        if len(faked.made) == 3:
            raise KeyboardInterrupt
        return pre_stop

    kept, notes = tmp_path / "kept", []
    with pytest.raises(KeyboardInterrupt):
        faked.sweep(broken, vary=[f"{PRE_STOP}=1s,2s"], keep=kept)
    assert len(list(kept.iterdir())) == 2
    again = faked.sweep(lambda pre_stop, *_: pre_stop, vary=[f"{PRE_STOP}=1s,2s"], keep=kept, note=notes.append)
    assert len(faked.made) == 3 + 2
    assert notes == [f"2 of 4 runs were there already, in {kept}"]
    whole = faked.sweep(vary=[f"{PRE_STOP}=1s,2s"])
    for name, frame in whole.frames().items():
        assert frame.to_csv() == again.frames()[name].to_csv()
    assert whole.to_json() == again.to_json()


def test_another_goal_and_other_expectations_need_no_other_runs(faked: Faked, tmp_path: Path) -> None:
    faked.sweep(keep=tmp_path / "kept")
    made = len(faked.made)
    faked.sweep(keep=tmp_path / "kept", settings=["expect=[lost > 3]", "description=again"])
    assert len(faked.made) == made
    faked.sweep(keep=tmp_path / "kept", settings=["traffic[t].arrivals=constant"])
    assert len(faked.made) == made + 2


def test_a_damaged_file_counts_as_missing(faked: Faked, tmp_path: Path) -> None:
    faked.sweep(keep=tmp_path / "kept")
    for file, content in zip(sorted((tmp_path / "kept").iterdir()), (b"", packed({})[:-3]), strict=True):
        file.write_bytes(content)
    faked.sweep(keep=tmp_path / "kept")
    assert len(faked.made) == 4


def test_the_runs_used_longest_ago_go_when_there_are_very_many(
    faked: Faked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kpsim.sweeping.keeping.MOST_KEPT", 3)
    faked.sweep(keep=tmp_path / "kept", seeds=5)
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_figures_survive_being_kept(tmp_path: Path) -> None:
    found = kpsim.run(file_of(tmp_path)).figures
    read = unpacked(packed(found))
    assert list(read) == list(found)
    for name, value in found.items():
        assert type(read[name]) is type(value)
        assert read[name] == value or (math.isnan(value) and math.isnan(read[name]))


def test_a_fingerprint_covers_what_a_run_reads(tmp_path: Path) -> None:
    def of(*settings: str) -> str:
        return fingerprint(parse_scenario(SCENARIO, "small.yaml", settings=settings))

    assert of() == of("seed=9") == of("expect=[]") == of("proxy={}") == of(f"{PRE_STOP}=0ms")
    changed = [
        f"{PRE_STOP}=1s",
        "objects[web].spec.sessionAffinity=ClientIP",
        "proxy.mode=ipvs",
        "duration=3s",
        "events=[]",
    ]
    assert len({of(), *map(of, changed)}) == 1 + len(changed)
    assert fingerprint(load_scenario("local-rollout").with_mode("ipvs")) != fingerprint(load_scenario("local-rollout"))


def test_rules_beside_go_to_other_processes_as_their_text(tmp_path: Path) -> None:
    rules = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -p tcp -m tcp --dport 8080 -j DROP\nCOMMIT\n"
    (tmp_path / "beside.txt").write_text(f"# Generated by iptables-save v1.8.9\n{rules}")
    path = file_of(tmp_path, f"{SCENARIO}beside: [{{file: beside.txt, nodes: [node-1]}}]\n")
    scenario = load_scenario(path)
    sent = pickle.loads(pickle.dumps(scenario))
    assert fingerprint(sent) == fingerprint(scenario) != fingerprint(load_scenario(file_of(tmp_path)))
    (here,), (there,) = scenario.beside, sent.beside
    assert (here.nodes, list(here.rules)) == (there.nodes, list(there.rules))
    assert [str(table) for table in here.rules.values()] == [str(table) for table in there.rules.values()]


def test_processes_give_what_one_process_gives(tmp_path: Path) -> None:
    path = file_of(tmp_path)
    how: dict[str, Any] = {"vary": [f"{PRE_STOP}=0s,300ms"], "seeds": 2}
    alone = sweep(path, jobs=1, keep=tmp_path / "a", **how)
    several = sweep(path, jobs=2, keep=tmp_path / "b", **how)
    for name, frame in alone.frames().items():
        assert frame.to_csv() == several.frames()[name].to_csv()
    assert {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()} == {
        file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()
    }
    point = alone.points[1]
    assert [found["sent"] for found in point.figures] == [
        kpsim.run(path, seed=seed, settings=[f"{PRE_STOP}=300ms"]).figures["sent"] for seed in (1, 2)
    ]


# ----------------------------------------------------------------------------------------------------------- estimates


@pytest.mark.parametrize(("freedom", "quantile"), T_TABLE)
def test_student_s_quantiles(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=2e-4)


@pytest.mark.parametrize(("hits", "count", "low", "high"), WILSON)
def test_wilson_s_interval(hits: int, count: int, low: float, high: float) -> None:
    found = share_interval(hits, count)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))


def test_the_spread_of_a_figure() -> None:
    found = spread([1, 2, 3, 4, 0])
    assert (found.mean, found.least, found.median, found.most, found.zeros) == (2, 0, 2, 4, 1)
    assert found.mean_interval is not None
    # 2 ± 2.7764 · 1.5811 / √5
    assert (found.mean_interval.low, found.mean_interval.high) == (
        pytest.approx(0.0368, abs=1e-3),
        pytest.approx(3.9632, abs=1e-3),
    )
    assert spread([3, 3, 3]).mean_interval is None
    assert spread([0, 0, 0, 1]).mean_interval.low == 0.0  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------------------- answers


def test_the_least_value_that_loses_nothing_is_said_for_each_value_of_the_others(faked: Faked) -> None:
    found = faked.sweep(
        lambda pre_stop, rate, seed: max(0.0, rate - pre_stop - (seed == 2)),
        vary={PRE_STOP: ["6s", "0s", "3s"], RATE: [3, 6, 9]},
    )
    assert found.answers == [
        "Least that loses nothing in 2 of 2 seeds: preStop 3s at perSecond 3, 6s at perSecond 6.",
        "No preStop from 0s to 6s loses nothing in 2 of 2 seeds at perSecond 9; fewest at 6s: 2.5 on average.",
        "2 of 2 seeds mean that at least 34.2 % of all seeds do so (95 %, Wilson).",
    ]
    assert found.holds  # lost <= 1 in both seeds at preStop 3s, among others


def test_a_dial_that_changes_no_figure_is_said(faked: Faked) -> None:
    """Losses depend on preStop and the seed alone."""
    found = faked.sweep(lambda p, r, s: max(0.0, s - p), vary={PRE_STOP: ["0s", "2s"], RATE: [5, 7]})
    assert found.answers[-1] == f"{RATE} makes no difference here: every figure is the same at each of its values."
    assert not any(PRE_STOP in line for line in found.answers)
    both = faked.sweep(lambda p, r, s: max(0.0, r - p), vary={PRE_STOP: ["0s", "2s"], RATE: [5, 7]})
    assert not any("no difference" in line for line in both.answers)


def test_a_larger_value_that_loses_again_is_said(faked: Faked) -> None:
    found = faked.sweep(lambda pre_stop, *_: 0.0 if pre_stop == 1 else 4.0, vary=[f"{PRE_STOP}=0s,1s,2s"])
    assert found.answers[1] == "Not monotone: 1s loses nothing in 2 of 2 seeds, but 2s loses 4 on average."


def test_without_dials_the_spread_over_seeds_is_the_answer(faked: Faked) -> None:
    found = faked.sweep(lambda _p, _r, seed: seed - 1.0, seeds=3)
    assert found.answers == [
        "Connections lost 0 to 2 over 3 seeds: median 1, mean 1 (95 %: 0 to 3.48); nothing in 1 of 3 seeds."
    ]
    alone = faked.sweep(lambda *_: 7.0, seeds=1)
    assert alone.answers == ["Connections lost 7 with one seed, which does not say how far other seeds are from it."]


def test_values_without_order_are_listed(faked: Faked) -> None:
    found = faked.sweep(lambda *_: 0.0, vary={"traffic[t].arrivals": ["constant", "poisson"]})
    assert found.answers[0] == "loses nothing in 2 of 2 seeds: arrivals constant; arrivals poisson."


def test_frames_have_declared_columns_and_no_nan(faked: Faked, tmp_path: Path) -> None:
    found = faked.sweep(vary={PRE_STOP: ["0s", "3s"]}, goal="")
    frames = found.frames()
    assert list(frames) == ["points", "runs", "conditions"]
    points = frames["points"]
    assert list(points.columns[:3]) == ["point", PRE_STOP, "figure"]
    lost = points[points["figure"] == "lost"]
    assert lost["mean"].tolist() == [3, 0] and lost["zero_seeds"].tolist() == [0, 2]
    assert "sync_lag.p50_seconds" not in set(points["figure"])  # undefined in every seed
    assert points[points["figure"] == "sync_lag.max_seconds"]["at_least"].all()
    for frame in frames.values():
        assert "nan" not in frame.to_csv(index=False).lower()
        assert not any(isinstance(value, float) and math.isnan(value) for column in frame for value in frame[column])
    assert frames["conditions"]["share"].tolist() == [0, 1]
    files = {str(file.relative_to(tmp_path / "out")) for file in found.write(tmp_path / "out")}
    assert files == {
        "report.html", "summary.json", "frames/columns.csv", "plots/sweep_lost.png",
        *(f"frames/{name}.{kind}" for name in frames for kind in ("csv", "parquet")),
    }  # fmt: skip
    assert "NaN" not in (tmp_path / "out/summary.json").read_text()
    described = (tmp_path / "out/frames/columns.csv").read_text()
    assert all(f"{name},{column}," in described for name, frame in frames.items() for column in frame.columns)


@pytest.mark.parametrize("vary", [{}, {PRE_STOP: ["0s", "1s"], RATE: [5, 6]}], ids=["seeds", "two dials"])
def test_each_kind_of_sweep_has_its_picture(faked: Faked, vary: dict[str, list[Any]]) -> None:
    found = faked.sweep(vary=vary, seeds=1, figures=["sync_lag.p50_seconds"])
    assert list(found.plots) == ["sweep_lost"]  # what is undefined has none
    shown = found._repr_html_()
    assert shown.count("<svg") == 1 and found.summary().splitlines()[0] in shown


# --------------------------------------------------------------------------------------------------------------- goals


def test_a_goal_is_bisected(faked: Faked) -> None:
    found = faked.sweep(
        lambda pre_stop, *_: float(pre_stop < 61.5), vary=[f"{PRE_STOP}=0s..100s/500ms"], goal="lost == 0"
    )
    assert found.answers[0] == "Least preStop for which lost == 0 holds in 2 of 2 seeds: 61.5s (not 61s)."
    assert len(found.points) <= 2 + 8 + 4  # of 201


def test_a_goal_is_searched_for_each_value_of_the_other_dials(faked: Faked) -> None:
    found = faked.sweep(
        lambda pre_stop, rate, _: max(0.0, rate - pre_stop),
        vary={PRE_STOP: ["0s", "2s", "4s", "8s"], RATE: [4, 99]},
        goal="lost == 0",
    )
    assert found.answers[:2] == [
        "Least preStop for which lost == 0 holds in 2 of 2 seeds at perSecond 4: 4s (not 2s).",
        "lost == 0 holds in 2 of 2 seeds at neither end from 0s to 8s at perSecond 99.",
    ]
    assert [search["value"] for search in found.to_json()["searches"]] == ["4s", None]


@pytest.mark.parametrize(
    ("losses", "value", "against", "holds"),
    [
        (lambda p, *_: float(p > 9.5), "9s", None, True),  # small values reach it
        (lambda *_: 0.0, "0s", None, True),
        (lambda *_: 1.0, None, None, False),
        (lambda p, *_: float(p < 3 or 8 <= p <= 20), None, ["3s", "9s"], False),
        (lambda p, *_: float(5 < p < 15), None, ["0s", "10s"], False),
        (lambda p, *_: float(not 5 < p < 15), None, ["10s", "30s"], False),
    ],
)
def test_ends_and_dials_that_are_not_monotone(
    faked: Faked, losses: Any, value: str | None, against: list[str] | None, holds: bool
) -> None:
    found = faked.sweep(losses, vary=[f"{PRE_STOP}=0s..30s/1s"], goal="lost == 0")
    (search,) = found.to_json()["searches"]
    assert (search["value"], found.holds) == (value, holds)
    if against is None:
        assert search["not_monotone"] is None
    else:
        good, bad = search["not_monotone"]
        assert (losses(float(good[:-1])), losses(float(bad[:-1]))) == (0, 1)
        assert "not monotone" in found.answers[0]


def test_a_goal_has_to_hold_in_every_seed(faked: Faked) -> None:
    found = faked.sweep(lambda p, _r, seed: float(p < seed), vary=[f"{PRE_STOP}=0s..9s/1s"], goal="lost == 0", seeds=5)
    assert found.to_json()["searches"][0]["value"] == "5s"
    assert json.dumps(found.to_json())


# ------------------------------------------------------------------------------------------------------ seeds of one run


def test_a_run_says_how_far_its_losses_vary_over_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file_of(tmp_path)
    made: list[int] = []

    def figures(scenario: Scenario, seed: int) -> Figures:
        made.append(seed)
        return {**kpsim.run(path).figures, "lost": seed}

    monkeypatch.setattr("kpsim.sweeping.workers.figures_of", figures)
    result = kpsim.run(path)
    several = result.seeds(3, keep=False)
    assert made == [2, 3]  # the seed of the run itself is there
    lost = result.figures["lost"]
    assert [found["lost"] for found in several.points[0].figures] == [lost, 2, 3]
    lines = over_seeds_lines(several.outcome)
    assert lines[0].startswith(f"Connections lost {lost} to 3 over 3 seeds: median 2, mean ")
    assert lines[1:] == [f"lost <= 1 holds in {int(lost <= 1)} of 3 seeds."]
    assert not several.holds
    monkeypatch.setattr("sys.argv", ["kpsim", "run", str(path), "--seeds", "2", "--figure", "lost"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1  # lost <= 1 fails with seed 2
    assert capsys.readouterr().out.startswith("lost ")
