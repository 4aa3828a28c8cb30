"""What people see: the summary, the page, and the files, which are the same bytes in every process."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from runlogs import connection, empty, lost, story

from kpsim.errors import InputError
from kpsim.reports.expectations import ExpectationResult, evaluate_all, parse_expectations
from kpsim.reports.figures import figures
from kpsim.reports.local_policy import local_drop_windows
from kpsim.reports.output import write_output
from kpsim.reports.page import html_fragment, html_page
from kpsim.reports.plots import PLOT_NAMES, plots
from kpsim.reports.sentences import duration, instant, local_sentence, percent, window_sentence
from kpsim.reports.summary import summary_json, summary_text
from kpsim.simulation.runlog import Fate, Reason, RunLog

CONDITIONS = ("dropped == 0", "sync_lag.p99_seconds < 2s")


def results_of(log: RunLog) -> list[ExpectationResult]:
    return evaluate_all(parse_expectations(CONDITIONS), figures(log))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The story's output by two processes that hash strings differently."""
    program = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "from test_report_output import results_of, story, write_output\n"
        "write_output(story(), results_of(story()), Path(sys.argv[1]))"
    )
    here = Path(__file__).parent
    directories = tuple(tmp_path_factory.mktemp("out") / "reports" for _ in range(2))
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, str(directory), str(here), str(here.parent)],
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for directory, seed in zip(directories, ("1", "2"), strict=True)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    return directories[0], directories[1]


def files_of(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


# -------------------------------------------------------------------------------------------------------------- files


def test_output_is_byte_identical_in_another_process(written: tuple[Path, Path]) -> None:
    first, second = map(files_of, written)
    assert list(first) == list(second)
    assert [name for name in first if first[name] != second[name]] == []


def test_output_files(written: tuple[Path, Path]) -> None:
    names = set(files_of(written[0]))
    assert {"report.html", "summary.json", "frames/columns.csv"} <= names
    assert {name for name in names if name.startswith("plots/")} == {f"plots/{name}.png" for name in PLOT_NAMES}
    frame = pd.read_parquet(written[0] / "frames" / "sync_lag.parquet")
    assert frame["lag_seconds"].tolist() == [0.2, 0.4, 1.0]
    assert frame["reported_ns"].dtype == "Int64"
    csv = pd.read_csv(written[0] / "frames" / "connections.csv", keep_default_na=False)
    assert csv["cause"].tolist().count("no local endpoints") == 3
    summary = json.loads((written[0] / "summary.json").read_text())
    assert summary["figures"]["dropped"] == 3
    assert summary["holds"] is False


def test_the_page_needs_nothing_else(written: tuple[Path, Path]) -> None:
    page = (written[0] / "report.html").read_text()
    assert set(re.findall(r"https?://[^\"'< ]+", page)) == {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }
    assert not re.search(r"<link|@import|src=|url\((?!#)|import\(|fetch\(|XMLHttp", page)
    assert page.count("<script") == page.count("</script>") == 2  # the page's own, and its data
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 0
    of_plots = {
        "endpoint_shares", "open_connections", "affinity_breaks", "sync_lag", "sync_lag_stages", "sync_lag_nodes", "held_up",
    }  # fmt: skip
    assert page.count("<figure>") == len(of_plots)
    assert "<text " in page and "share of the connections that were set up" in page  # text is text
    assert "prefers-color-scheme:dark" in page
    assert set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', page)) <= set(ids)


def test_output_keeps_foreign_files_and_removes_only_its_own_stale_plots(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "plots" / "other.png").write_text("mine")
    (tmp_path / "plots" / "dispositions.png").write_text("of an earlier run")
    (tmp_path / "report.html").write_text("of an earlier run")
    files = write_output(empty(), [], tmp_path)
    assert (tmp_path / "notes.txt").read_text() == (tmp_path / "plots" / "other.png").read_text() == "mine"
    assert not (tmp_path / "plots" / "dispositions.png").exists()
    assert "No connection was attempted." in (tmp_path / "report.html").read_text()
    assert all(path.is_file() for path in files)


def test_output_onto_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="out: cannot write: File exists"):
        write_output(empty(), [], tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


# --------------------------------------------------------------------------------------------------------------- page


def test_names_are_escaped() -> None:
    log = replace(
        empty(), scenario="<b>&", connections=[lost(1, Reason.OTHER, service="a<i>/b:c", traffic_policy="$x$")]
    )
    page = html_page(log, [], drawn=[])
    assert "<title>&lt;b&gt;&amp; – kpsim report</title>" in page
    assert "a&lt;i&gt;/b:c" in page
    assert "<b>&" not in page
    assert "<i>" not in page


def test_fragment_has_headline_and_expectations() -> None:
    fragment = html_fragment(story(), results_of(story()), drawn=[])
    assert "<b>58.3 %</b>delivered" in fragment
    assert '<p class="failed">1 of 2 expectations failed.</p>' in fragment
    assert '<tr class="failed"><td>failed</td><td>dropped == 0</td><td class=number>3</td></tr>' in fragment
    assert "<html" not in fragment and "<script>" not in fragment
    assert '<details class="part" open><summary><h2>State against rules</h2>' in fragment
    assert "still sends the flow to 10.180.1.7:9000, a former endpoint" in fragment


def test_misdelivered_connections_have_a_column_and_a_headline_only_if_there_are_any() -> None:
    taken = [connection(1, disposition=Fate.MISDELIVERED, cause=Reason.MISDELIVERED, answered_by="shop/other-1")]
    log = replace(empty(), connections=taken)
    assert "1 misdelivered (somebody answered who is no endpoint of the Service)." in summary_text(log)
    assert re.search(r"failed +misdelivered$", summary_text(log), re.MULTILINE)
    assert "<b>1</b>misdelivered" in html_fragment(log, drawn=[])
    line = "shop/web:http, at 0.001 s: 1 connection answered by shop/other-1 at 10.180.1.5:8080, which is no endpoint"
    assert line in summary_text(log) and line in html_fragment(log, drawn=[])
    shown = re.sub(r"(?s)<style>.*?</style>", "", html_fragment(story(), drawn=[]))
    assert "misdelivered" not in shown + summary_text(story())
    (plot,) = [plot for plot in plots(log) if plot.name == "dispositions"]
    assert len(plot.figure.legends[0].get_texts()) == len(plots(story())[0].figure.legends[0].get_texts()) + 1


def test_an_empty_log_has_no_plots_and_no_empty_sections() -> None:
    assert plots(empty()) == []
    assert re.findall("<h2>(.*?)</h2>", html_fragment(empty())) == ["Connections"]


def test_plots_set_no_global_state() -> None:
    import matplotlib as mpl

    before, pyplot_before = mpl.rcParams.copy(), "matplotlib.pyplot" in sys.modules
    plot, _ = plots(replace(empty(), connections=[lost(1, Reason.OTHER, traffic_policy="Cluster")]))
    assert plot.png().startswith(b"\x89PNG")
    assert mpl.rcParams.copy() == before
    assert ("matplotlib.pyplot" in sys.modules) is pyplot_before


def test_dollar_signs_in_names_are_not_formulas() -> None:
    name = "shop/$a_b$:http"
    plot, _ = plots(replace(empty(), connections=[lost(1, Reason.OTHER, traffic_policy="Cluster", service=name)]))
    assert "Oblique" not in plot.svg()  # formulas are set in italics


# ------------------------------------------------------------------------------------------------------------ summary


def test_summary_tells_the_story() -> None:
    text = summary_text(story(), results_of(story()), width=200)
    assert (
        "7 of 12 connections were delivered (58.3 %); 1 rejected (no endpoints); 3 dropped (no local endpoints); "
        "1 failed (endpoint gone; 1 of them set up before)."
    ) in text
    assert (
        "1 connection lost by connection entries that overrode the rules in force (state against rules).\n  node-1, "
        "shop/api:grpc, at 9.5 s: 1 failed; an entry from 7 s still sends the flow to 10.180.1.7:9000, a former endpoint: "
        "not in the rules since 7.5 s; the clean-up never touches entries of this protocol (CT-2.1).\n"
    ) in text.replace("\n  ", " ").replace(". node-1,", ".\n  node-1,")
    assert re.search(r"^shop/web:http +Local +8 +4 +50\.0 % +1 +3 +0$", text, re.MULTILINE)
    assert re.search(r"^all +12 +7 +58\.3 % +1 +3 +1$", text, re.MULTILINE)
    assert (
        "node-2 received traffic for shop/web:http from 2.5 s to 4 s while it had no local endpoint: 3 dropped "
        "(no local endpoint since 2 s, health check failing since 2 s, out of rotation at 5 s)."
    ) in text
    assert "stayed with their endpoint in 50.0 %; 1 break: endpoint gone 1." in text
    assert "3 changes reached the rules (counted per node): p50 400 ms, max 1 s" in text
    reported = "kube-proxy itself reported 2 of them: p50 190 ms, max 390 ms (trigger times"
    assert reported in " ".join(text.split())
    assert "3 syncs: 1 full, 2 partial, 1 failed." in text
    assert "1 of 2 expectations failed:\n  dropped == 0    (dropped is 3)\n" in text
    assert "\x1b" not in text


def test_long_summaries_name_the_worst_and_count_the_rest() -> None:
    """Fifty services drop one connection each; the last of them two."""
    services = [f"shop/svc-{number:02}:http" for number in range(50)] + ["shop/svc-49:http"]
    drops = [
        lost(at, Reason.NODE_DOWN, service=service, traffic_policy="Cluster") for at, service in enumerate(services)
    ]
    lines = summary_text(replace(empty(), connections=drops)).splitlines()
    first = next(number for number, line in enumerate(lines) if line.split()[:2] == ["all", "51"])
    assert lines[first + 1].split()[:3] == ["shop/svc-49:http", "Cluster", "2"]
    assert [line for line in lines if "more" in line] == ["  … and 38 more", "… and 11 more"]


def test_summary_fits_the_width() -> None:
    assert max(map(len, summary_text(story(), results_of(story()), width=80).splitlines())) <= 80


def test_summary_of_an_empty_log() -> None:
    assert summary_text(empty()) == "empty: 10 s simulated, mode iptables, seed 1\n\nNo connection was attempted.\n"


def test_summary_json_has_the_same_keys_in_the_same_order() -> None:
    full, bare = summary_json(story(), results_of(story())), summary_json(empty())
    assert list(full) == list(bare)
    assert full["expectations"] == [
        {"text": "dropped == 0", "figure": "dropped", "value": 3, "holds": False},
        {"text": "sync_lag.p99_seconds < 2s", "figure": "sync_lag.p99_seconds", "value": 1.0, "holds": True},
    ]
    assert bare["figures"]["delivered_ratio"] is None
    assert bare["holds"] is True
    json.dumps(full, allow_nan=False)


# ---------------------------------------------------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(1.0, "100 %"), (0.0, "0 %"), (0.5, "50.0 %"), (0.99999, "> 99.9 %"), (0.00001, "< 0.1 %"), (float("nan"), "–")],
)
def test_percent_never_rounds_a_loss_away(ratio: float, text: str) -> None:
    assert percent(ratio) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [(None, "–"), (0, "0 s"), (999, "999 ns"), (1_500, "1.5 µs"), (45_000_000, "45 ms"), (1_234_000_000, "1.23 s"), (150 * 10**9, "150 s")],
)  # fmt: skip
def test_duration(ns: int | None, text: str) -> None:
    assert duration(ns) == text


def test_instant() -> None:
    assert [instant(ns) for ns in (0, 12_300_000_000, 100 * 10**9)] == ["0 s", "12.3 s", "100 s"]


def test_window_sentences_say_only_what_is_known() -> None:
    refused = lost(1500, Reason.NO_LOCAL_ENDPOINTS, Fate.REJECTED)
    nowhere = lost(2000, Reason.NO_HEALTHY_NODE, node="")
    log = replace(empty(), connections=[refused, nowhere])
    assert [window_sentence(window) for window in local_drop_windows(log)] == [
        "node-1 received traffic for shop/web:http at 1.5 s while it had no local endpoint: 1 rejected.",
        "the load balancer received traffic for shop/web:http at 2 s: 1 dropped (no healthy node).",
    ]
    assert local_sentence(log) == "2 connections lost to externalTrafficPolicy: Local at node-1 and the load balancer."
