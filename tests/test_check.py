"""``kpsim check`` as a CI job uses it: verdicts, exit codes, reports. An update rewrites only what moved."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from kpsim.check import Verdict, check, junit_xml

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
