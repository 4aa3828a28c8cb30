"""What a survey shows and writes: grids, pages, files, exit codes. The numbers are in test_survey.py."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO, StringIO
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from shop import EMPTY, LOCAL, WEB, cluster_text, endpoints, port, service

import kpsim
from kpsim.cli import main
from kpsim.cli.survey import complete_setting
from kpsim.errors import InputError
from kpsim.surveys import Survey, failing, parse_requirement
from kpsim.surveys.grids import ANY, Tone
from kpsim.surveys.settings import Setting


@pytest.fixture(scope="module")
def local() -> Survey:
    """Endpoints on node-1 and node-2, externalTrafficPolicy Local (shop)."""
    return kpsim.survey(kpsim.load(text=cluster_text(LOCAL)), name="shop.yaml")


@pytest.fixture(scope="module")
def varied() -> Survey:
    return kpsim.survey(kpsim.load(text=cluster_text(LOCAL)), vary="externalTrafficPolicy,internalTrafficPolicy,mode")


# ------------------------------------------------------------------------------------------------------------------ grids


def test_a_grid_has_a_line_for_each_frontend_and_client(local: Survey) -> None:
    (grid,) = local.grids
    assert (grid.services, grid.about, grid.settings) == (("shop/local:p",), "TCP, IPv4", ())
    assert grid.nodes == ("node-1", "node-2", "node-3")
    cells = {(line.dialled.words, line.client): line.cells for line in grid.lines}
    assert [(cell.tone, cell.works, cell.rest) for cell in cells["node port 30081 of the node", "external"] if cell] == [
        (Tone.GOOD, "works", "kept 1 ep"), (Tone.GOOD, "works", "kept 1 ep"), (Tone.BAD, "lost", ""),
    ]  # fmt: skip
    assert [cell.works for cell in cells["load balancer 192.0.2.11:80", "external"] if cell] == [
        "works",
        "works",
        "not sent here",
    ]
    assert [cell.works for cell in cells["node port 30081 of another node", "node"] if cell] == [
        "1 of 2",
        "1 of 2",
        "works",
    ]
    assert grid.broken
    assert any("shop/local:p has no local endpoints), on node-3" in reason for reason in grid.reasons)


def test_a_setting_counts_only_where_it_makes_a_difference(varied: Survey) -> None:
    """PP-3.1: clients of a cluster IP do not meet externalTrafficPolicy; PP-4: the others do not meet internalTrafficPolicy."""
    (grid,) = varied.grids
    place = {setting: number for number, setting in enumerate(grid.settings)}
    lines = [line for line in grid.lines if line.client == "pod"]
    assert lines
    for line in lines:
        inside = line.dialled.words.startswith("cluster IP")
        assert (line.values[place[Setting.EXTERNAL]] == ANY) == inside
        assert (line.values[place[Setting.INTERNAL]] == ANY) == (not inside)
    # PP-10.1: only ipvs mode falls back to all endpoints where a policy Local finds none
    modes = {line.values[place[Setting.MODE]] for line in lines if line.values[place[Setting.INTERNAL]] == "Local"}
    assert modes == {"iptables, nftables", "ipvs"}


def test_services_that_fare_alike_share_a_grid() -> None:
    objects = [
        part
        for number in (20, 21, 22)
        for part in (
            service(f"svc-{number}", f"clusterIP: 172.30.0.{number}, {port(80)}"),
            endpoints(f"svc-{number}", 8080, {f"10.180.0.{number}": "node-1"}),
        )
    ]
    survey = kpsim.survey(kpsim.load(text=cluster_text([*objects, *EMPTY])))
    assert [grid.services for grid in survey.grids] == [
        ("shop/empty:p",), ("shop/svc-20:p", "shop/svc-21:p", "shop/svc-22:p"),
    ]  # fmt: skip
    alike = survey.grids[1]
    assert not alike.broken
    assert {line.dialled.words for line in alike.lines} == {"cluster IP"}


def test_nodes_that_fare_alike_share_a_column() -> None:
    (grid,) = kpsim.survey(kpsim.load(text=cluster_text(WEB)), clients=["external"], frontends=["clusterIP"]).grids
    assert grid.nodes == ("node-1, node-2, node-3",)
    assert [cell and cell.rest for line in grid.lines for cell in line.cells] == ["masq 3 ep"]


# ---------------------------------------------------------------------------------------------------------- text and HTML


def test_text_says_what_the_grid_says(local: Survey) -> None:
    lines = str(local).splitlines()
    assert lines[0] == "Survey of shop.yaml"
    assert [line for line in lines if line != line.rstrip()] == []
    (outside,) = (line for line in lines if "node port 30081 of the node" in line and "│" in line)
    assert "works kept 2 ep" in outside
    assert max(map(len, lines)) <= 160
    assert repr(local).startswith("<Survey of shop.yaml: 1 Services, ")


class _Page(HTMLParser):
    """The tags of a page, and what its cells say."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[tuple[str, str]] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open = dict(attrs).get("class") or "" if tag == "td" else self._open

    def handle_data(self, data: str) -> None:
        if self._open:
            self.cells.append((self._open, data))

    def handle_endtag(self, tag: str) -> None:
        self._open = "" if tag == "td" else self._open


def test_the_page_needs_nothing_else(varied: Survey) -> None:
    page = _Page(varied.to_html())
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert ("good", "works") in page.cells and ("bad", "lost") in page.cells and ("idle", "not sent here") in page.cells
    assert 'name="viewport"' in varied.to_html() and "prefers-color-scheme:dark" in varied.to_html()
    assert varied._repr_html_() in varied.to_html()
    assert "<small>internal<wbr>TrafficPolicy</small> Local" in varied.to_html()


def test_names_cannot_become_markup(local: Survey) -> None:
    page = replace(local, name="<script>alert(1)</script>", notes=("<b>bold</b>",)).to_html()
    assert "<script>" not in page and "<b>bold" not in page
    assert "&lt;script&gt;" in page and "&lt;b&gt;bold" in page


# ------------------------------------------------------------------------------------------------------------------ files


def test_files_hold_the_frame(local: Survey) -> None:
    csv = pd.read_csv(StringIO(local.to_csv()))
    parquet = pd.read_parquet(BytesIO(local.to_parquet()))
    assert list(csv.columns) == list(parquet.columns) == list(local.frame.columns)
    assert csv.works.tolist() == parquet.works.tolist() == local.frame.works.tolist()
    assert str(parquet.source_kept.dtype) == "boolean"


def test_json_has_exact_odds() -> None:
    survey = kpsim.survey(
        kpsim.load(text=cluster_text(WEB)), clients=["pod"], frontends=["clusterIP"], nodes=["node-1"]
    )
    record = json.loads(json.dumps(survey.to_json()))
    (row,) = record["rows"]
    assert (row["works"], row["largest_share"], row["other_node"], row["source_kept"]) == ("1", "1/3", "2/3", True)
    assert [(each["endpoint"], each["node"], each["odds"]) for each in row["endpoints"]] == [
        ("10.180.0.5:8080", "node-1", "1/3"), ("10.180.1.5:8080", "node-2", "1/3"), ("10.180.2.5:8080", "node-3", "1/3"),
    ]  # fmt: skip
    assert {each["share"] for each in record["load"]} == {"1/3"}


# ----------------------------------------------------------------------------------------------------------- requirements


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("works", "COLUMN OPERATOR VALUE"),
        ("workz==1", "there is no column 'workz'"),
        ("works==all", "'all' is no number"),
        ("works==nan", "'nan' is no number"),
        ("source_kept>1", "the column is true or false"),
        ("source_kept==maybe", "the column is true or false"),
    ],
)
def test_a_requirement_that_is_none(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_requirement(text)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("works == 1", {"node-3"}),
        ("works>0.5", {"node-3"}),
        ("source_kept==true", set()),  # node-3 has no receiver, so nothing is said about it
        ("reached!=1", {"node-1", "node-2"}),
        ("verdict==works", {"node-3"}),
        ("node<'node-2'", {"node-2", "node-3"}),
    ],
)
def test_rows_that_break_a_requirement(local: Survey, text: str, nodes: set[str]) -> None:
    rows = [row for row in local.rows if (row.frontend, row.client) == ("nodePort", "external")]
    assert {row.node for _, row in failing(rows, [parse_requirement(text)])} == nodes


def test_nodes_that_a_load_balancer_leaves_out_break_nothing(local: Survey) -> None:
    rows = [row for row in local.rows if (row.frontend, row.client) == ("loadBalancer", "external")]
    assert {row.works for row in rows} == {0, 1}
    assert failing(rows, [parse_requirement("works==1")]) == []


# ---------------------------------------------------------------------------------------------------------------- command


class Said(NamedTuple):
    code: int
    out: str
    errors: str


Runner = Callable[..., Said]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    (tmp_path / "shop.yaml").write_text(cluster_text(LOCAL))
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["kpsim", "survey", "shop.yaml", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return Said(int(left.value.code or 0), *capsys.readouterr())

    return command


_FEW = ("--client", "external", "--frontend", "nodePort")


@pytest.mark.parametrize(("require", "code"), [("works<=1", 0), ("works==1", 1), ("nothing==1", 2)])
def test_exit_codes(run: Runner, require: str, code: int) -> None:
    said = run(*_FEW, "--require", require)
    assert said.code == code
    shown = "works==1 fails: node port 192.168.0.3:30081 of shop/local:p from external at node-3: request-lost"
    assert (shown in said.errors) == (code == 1)


@pytest.mark.parametrize(
    ("name", "starts"), [("a.html", b"<!doctype html>"), ("a.csv", b"service,"), ("a.json", b"{"), ("a.parquet", b"PAR1"), ("a", b"Survey of")]
)  # fmt: skip
def test_the_name_of_a_file_says_what_it_holds(run: Runner, name: str, starts: bytes) -> None:
    said = run(*_FEW, "--out", name)
    assert (said.code, said.out) == (0, "")
    assert Path(name).read_bytes().startswith(starts)
    assert f"3 rows written to {name}" in said.errors


def test_the_shell_completes_a_list_of_settings() -> None:
    assert complete_setting("externalTrafficPolicy,m") == ["externalTrafficPolicy,mode"]
    assert complete_setting("mode,session") == ["mode,sessionAffinity"]
    assert "mode,mode" not in complete_setting("mode,")


def test_parquet_goes_to_a_file(run: Runner) -> None:
    said = run("--format", "parquet")
    assert said.code == 2
    assert "--format parquet goes with --out FILE" in said.errors


def test_the_same_on_standard_output_and_in_python(run: Runner, local: Survey) -> None:
    assert run().out == str(local)
    assert run("--format", "csv").out == local.to_csv()
