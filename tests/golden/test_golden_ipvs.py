"""Compares replays of recordings of a real kube-proxy 1.36.2 in ipvs mode with what that kube-proxy programmed.

As ``test_golden``, for the third mode: virtual servers, ipsets, addresses, draining servers and iptables rules. ip_vs
itself was a stand-in when they were recorded, so they say nothing of packets.
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

FOLDER = Path(__file__).parent / "ipvs"
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


def drop_server(shown: Account) -> None:
    shown["virtualServers"].pop()


def change_weight(shown: Account) -> None:
    next(each for each in shown["virtualServers"] if each["realServers"])["realServers"][0]["weight"] += 1


def drop_entry(shown: Account) -> None:
    next(each for each in shown["ipsets"] if each["entries"])["entries"].pop()


def drop_address(shown: Account) -> None:
    shown["boundAddresses"].pop()


def drain(shown: Account) -> None:
    shown["gracefulTerminating"].append("10.0.0.1:80/TCP/10.0.0.2:80")


def drop_rule(shown: Account) -> None:
    shown["iptables"]["save"] = shown["iptables"]["save"].replace("-A KUBE-SOURCE-RANGES-FIREWALL -j DROP\n", "")


@pytest.mark.parametrize("edit", [drop_server, change_weight, drop_entry, drop_address, drain, drop_rule])
def test_a_difference_is_told(edit: Callable[[Account], None]) -> None:
    altered = copy.deepcopy(expected("special-011"))
    edit(altered[4]["ipvs"])
    told = run_differences(altered, replayed("special-011"))
    assert told and all(statement.startswith("sync 4: ") for statement in told)
