"""Compares replays of recordings of a real kube-proxy 1.36.2 in nftables mode with what that kube-proxy programmed.

As ``test_golden``, for the other mode: every transaction and every table, line by line and in order.
"""

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kpsim.comparison.documents import run_differences
from kpsim.recording import load_recording
from kpsim.replay import Replay

FOLDER = Path(__file__).parent / "nftables"
NAMES = sorted(path.name.removesuffix(".recording.jsonl") for path in FOLDER.glob("*.recording.jsonl"))

Account = dict[str, Any]


def expected(name: str) -> list[Account]:
    return [json.loads(line) for line in (FOLDER / f"{name}.expected.jsonl").read_text().splitlines()]


@cache
def replayed(name: str) -> list[Account]:
    recording = load_recording(FOLDER / f"{name}.recording.jsonl")
    return [json.loads(outcome.to_line()) for outcome in Replay(recording).outcomes()]


def test_there_is_a_pair_of_every_kind() -> None:
    assert {name.split("-")[0] for name in NAMES} == {"small", "large", "faults", "special"}
    assert {load_recording(FOLDER / f"{name}.recording.jsonl").family.label for name in NAMES} == {"IPv4", "IPv6"}
    assert all((FOLDER / f"{name}.expected.jsonl").exists() for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_replay(name: str) -> None:
    assert run_differences(expected(name), replayed(name)) == []
    assert expected(name) == replayed(name)


# --------------------------------------------------------------------------------------------------- guards of the comparison


def lines(account: Account, part: str) -> list[str]:
    shown = account["nftables"]
    text: str = shown["ruleset"] if part == "ruleset" else shown["transactions"][-1]
    return text.split("\n")


def write(account: Account, part: str, changed: list[str]) -> None:
    if part == "ruleset":
        account["nftables"]["ruleset"] = "\n".join(changed)
    else:
        account["nftables"]["transactions"][-1] = "\n".join(changed)


def drop(found: list[str]) -> str:
    return f"missing: {found.pop(1)}"


def insert(found: list[str]) -> str:
    found.insert(1, "add chain ip kube-proxy extra")
    return "not expected: add chain ip kube-proxy extra"


def swap(found: list[str]) -> str:
    found[0], found[1] = found[1], found[0]
    return "the same lines in another order: expected as line 1 "


@pytest.mark.parametrize("part", ["transactions", "ruleset"])
@pytest.mark.parametrize("edit", [drop, insert, swap])
def test_a_difference_is_told_by_its_line(part: str, edit: Callable[[list[str]], str]) -> None:
    altered = copy.deepcopy(expected("faults-003"))
    account = altered[4]
    found = lines(account, part)
    statement = edit(found)
    write(account, part, found)
    where = "ruleset" if part == "ruleset" else "transactions 0"
    (told,) = run_differences(expected("faults-003"), altered)
    assert told.startswith(f"sync 4: {where}: {statement}")


def test_a_missing_transaction_is_told() -> None:
    altered = copy.deepcopy(expected("faults-003"))
    del altered[2]["nftables"]["transactions"][1]
    assert run_differences(expected("faults-003"), altered) == [
        "sync 2: nftables transactions 1: expected , got nothing"
    ]
