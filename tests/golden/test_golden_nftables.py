"""Compares replays of recordings of a real kube-proxy 1.36.2 in nftables mode with what that kube-proxy programmed.

As ``test_golden``, for the other mode: every transaction and every table, line by line and in order.
"""

import copy
from collections.abc import Callable

import pytest
from golden.recorded import Account, Recorded

from kpsim.comparison.documents import run_differences

RECORDED = Recorded("nftables")
expected, replayed = RECORDED.expected, RECORDED.replayed


@pytest.mark.parametrize("name", RECORDED.names)
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
