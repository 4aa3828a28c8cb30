"""``kpsim check`` as a CI job uses it: verdicts, exit codes, reports. An update rewrites only what moved."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from kpsim.check import Verdict, check, find, junit_xml
from kpsim.errors import InputError

GOLDEN = Path(__file__).parent / "golden" / "iptables"
Lines = list[dict[str, Any]]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    for kind in ("recording", "expected"):
        shutil.copy(GOLDEN / f"small-001.{kind}.jsonl", tmp_path)
    return tmp_path / "small-001.recording.jsonl"


def expected_of(recording: Path) -> Path:
    return recording.with_name("small-001.expected.jsonl")


def change(recording: Path, edit: Callable[[Lines], object]) -> None:
    path = expected_of(recording)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    edit(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_keys_in_another_order_and_blank_lines_are_no_difference(recording: Path) -> None:
    path = expected_of(recording)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n\n".join(json.dumps(dict(reversed(line.items()))) for line in lines))
    before = path.read_bytes()
    assert check(recording, update=True).verdict is Verdict.HOLDS
    assert path.read_bytes() == before


def test_an_update_writes_what_then_holds(recording: Path) -> None:
    change(recording, lambda lines: lines[0].update(metrics={}))
    assert check(recording).verdict is Verdict.DIFFERS
    assert check(recording, update=True).verdict is Verdict.UPDATED
    assert check(recording).verdict is Verdict.HOLDS


def move_a_port(lines: Lines) -> None:
    programmed = lines[-1]["iptables"]
    rule = next(r for r in programmed["save"].splitlines() if r.startswith("-A KUBE-SEP-") and "-j DNAT" in r)
    programmed["save"] = programmed["save"].replace(rule, rule.rpartition(":")[0] + ":65000")


def test_what_becomes_of_packets_is_said_before_rules_and_numbers(recording: Path) -> None:
    change(recording, move_a_port)
    change(recording, lambda lines: lines[0].update(metrics={}))
    statements = check(recording).statements
    assert "first packet" in statements[0]
    assert ":65000" in statements[0]
    assert any("metrics" in statement for statement in statements)
    assert any("rule missing: -A KUBE-SEP-" in statement for statement in statements)


def drop_answers(lines: Lines) -> None:
    known = "--ctstate RELATED,ESTABLISHED -j "
    for line in lines:
        saved = line["iptables"]["save"]
        assert known + "ACCEPT" in saved
        line["iptables"]["save"] = saved.replace(known + "ACCEPT", known + "DROP")


def test_a_change_that_only_answers_notice_is_said(recording: Path) -> None:
    """The request takes the same way under both; what comes back meets KUBE-FORWARD's rule for known connections (I-11)."""
    change(recording, drop_answers)
    statements = [statement for statement in check(recording).statements if "first packet" in statement]
    assert statements
    for statement in statements[:-1]:
        expected, _, got = statement.partition(", got ")
        assert "answer-lost" in expected
        assert "[exchange works" in got
        assert expected.partition(" expected ")[2].partition(" [")[0] == got.partition(" [")[0]


@pytest.mark.parametrize("programmed", [5, None, [], {"save": 5}, {"save": "*nat\n-A PREROUTING -j"}])
def test_an_account_of_another_shape_differs(recording: Path, programmed: object) -> None:
    change(recording, lambda lines: lines[0].update(iptables=programmed))
    assert check(recording).verdict is Verdict.DIFFERS


@pytest.mark.parametrize("line", ["5", "[]", "null", "{", "[" * 100_000, '{"sync": NaN}', '{"sync": 0, "sync": 1}'])
def test_expected_output_that_cannot_be_read_is_named_with_its_line(recording: Path, line: str) -> None:
    path = expected_of(recording)
    path.write_text(path.read_text() + line + "\n")
    checked = check(recording, update=True)
    assert checked.verdict is Verdict.UNREADABLE
    assert checked.statements[0].startswith(f"{path}:5: ")
    assert path.read_text().endswith(line + "\n")


def test_a_report_is_xml_whatever_it_quotes(recording: Path) -> None:
    change(recording, lambda lines: lines[0].update({"a\x00": "\x1b"}))
    text = junit_xml([check(recording)])
    failure = ElementTree.fromstring(text.encode()).find("testcase/failure")
    assert failure is not None
    assert r"sync 0: a\x00" in (failure.text or "")


# ----------------------------------------------------------------------------------------------- what a directory holds

SCENARIO = """
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: idle}
duration: 1s
nodes: {count: 1}
"""


def verdicts(folder: Path) -> tuple[dict[str, Verdict], list[str]]:
    notes: list[str] = []
    found = find([folder], notes.append)
    return {Path(path).name: check(path).verdict for path in found}, notes


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.yaml", SCENARIO + "nodes: [\n"),
        ("other-version.yaml", SCENARIO.replace("kpsim.dev/v1alpha1", "kpsim/v1")),
        ("no-version.yml", SCENARIO.replace("apiVersion: kpsim.dev/v1alpha1", "")),
        ("utf-16.yaml", SCENARIO.replace("count", "cuont").encode("utf-16")),
        ("latin-1.yaml", SCENARIO.encode() + b"# \xe9\n"),
        ("quoted.json", '{"apiVersion": "kpsim.dev/v1alpha1", "kind": "Scenario"'),
        ("half.recording.jsonl", '{"type": "CONFIG"'),
    ],
)
def test_what_may_be_a_scenario_and_cannot_be_read_is_never_passed_over(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    (tmp_path / "good.yaml").write_text(SCENARIO)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert verdicts(tmp_path)[0] == {"good.yaml": Verdict.HOLDS, name: Verdict.UNREADABLE}


def test_scenarios_in_any_form_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '{"apiVersion": "kpsim.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "a"}, "duration": "1s", "nodes": {"count": 1}}'
    )
    (tmp_path / "b.YAML").write_bytes(SCENARIO.encode("utf-16"))
    assert verdicts(tmp_path)[0] == {"a.json": Verdict.HOLDS, "b.YAML": Verdict.HOLDS}


def test_what_is_passed_over_is_named(recording: Path) -> None:
    folder = recording.parent
    (folder / "values.yaml").write_text("replicas: 3\n")
    (folder / "lonely.expected.jsonl").write_text("")
    (folder / "events.jsonl").write_text("")
    os.mkfifo(folder / "pipe.yaml")
    (folder / "README.md").write_text("kpsim.dev/")
    found, notes = verdicts(folder)
    assert found == {recording.name: Verdict.HOLDS}
    assert sorted(notes) == [
        f"{folder}/pipe.yaml passed over: a pipe, no file",
        f"passed over, as neither a scenario nor a recording: {folder}/events.jsonl, {folder}/lonely.expected.jsonl, "
        f"{folder}/values.yaml",
    ]


def test_a_scenario_that_nobody_may_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal is made."""
    path = tmp_path / "secret.yaml"
    path.write_text(SCENARIO)

    def refuse(*_: object, **__: object) -> bytes:
        raise InputError("cannot be read: Permission denied")

    monkeypatch.setattr("kpsim.check.read_bytes", refuse)
    assert find([tmp_path]) == [path]
