"""Compares replays of recordings of a real kube-proxy 1.36.2 with what that kube-proxy programmed.

Each pair in ``iptables/`` is a recording and, line by line, the outcome of its syncs: random clusters, small and large,
failed syncs, flushed tables, changed addresses, idle hours. The second half shows that the comparison finds what it
must find.
"""

import copy
from collections.abc import Callable
from itertools import pairwise

import pytest
from golden.recorded import Account, Recorded

from kpsim.comparison.documents import SHARED_CHAINS, run_differences

RECORDED = Recorded("iptables")
expected, replayed = RECORDED.expected, RECORDED.replayed


@pytest.mark.parametrize("mode", ["iptables", "ipvs", "nftables"])
def test_there_is_a_pair_of_every_kind(mode: str) -> None:
    recorded = Recorded(mode)
    assert {name.split("-")[0] for name in recorded.names} == {"small", "large", "faults", "special"}
    assert {recorded.recording(name).family.label for name in recorded.names} == {"IPv4", "IPv6"}
    assert all((recorded.folder / f"{name}.expected.jsonl").exists() for name in recorded.names)


@pytest.mark.parametrize("name", RECORDED.names)
def test_replay(name: str) -> None:
    assert run_differences(expected(name), replayed(name)) == []


# --------------------------------------------------------------------------------------------------- guards of the comparison

GUARDED = "special-014"

#: changes one sync's account in place; False if there is nothing to change in it
Change = Callable[[Account], bool]


def _edit(account: Account, part: str, edit: Callable[[list[str]], bool]) -> bool:
    """Edit the lines of a document; the last document of ``restore``, or ``save``."""
    iptables = account["iptables"]
    if part == "restore" and not iptables["restore"]:
        return False
    lines = (iptables["restore"][-1] if part == "restore" else iptables["save"]).split("\n")
    if not edit(lines):
        return False
    if part == "restore":
        iptables["restore"][-1] = "\n".join(lines)
    else:
        iptables["save"] = "\n".join(lines)
    return True


def _first(lines: list[str], start: str) -> int | None:
    return next((n for n, line in enumerate(lines) if line.startswith(start)), None)


def drop(start: str, part: str = "restore") -> Change:
    def edit(lines: list[str]) -> bool:
        at = _first(lines, start)
        if at is not None:
            del lines[at]
        return at is not None

    return lambda account: _edit(account, part, edit)


def replace(start: str, old: str, new: str, part: str = "restore") -> Change:
    def edit(lines: list[str]) -> bool:
        at = next((n for n, line in enumerate(lines) if line.startswith(start) and old in line), None)
        if at is not None:
            lines[at] = lines[at].replace(old, new)
        return at is not None

    return lambda account: _edit(account, part, edit)


def swap_rules(start: str, part: str = "restore") -> Change:
    """Swap two rules of one chain that follow each other."""

    def edit(lines: list[str]) -> bool:
        for n, (one, other) in enumerate(pairwise(lines)):
            if one.startswith(start) and other.split(" ")[:2] == one.split(" ")[:2] and one != other:
                lines[n], lines[n + 1] = other, one
                return True
        return False

    return lambda account: _edit(account, part, edit)


def swap_in_order(field: str) -> Change:
    def change(account: Account) -> bool:
        items = account["iptables"][field]
        if len(items) > 1:
            items[0], items[1] = items[1], items[0]
        return len(items) > 1

    return change


def count_up(name: str) -> Change:
    def change(account: Account) -> bool:
        found = next((key for key in account["metrics"] if name in key), None)
        if found is not None:
            account["metrics"][found] += 1
        return found is not None

    return change


def lose(field: str) -> Change:
    return lambda account: bool(account[field]) and account[field].pop() is not None


def lose_metric(account: Account) -> bool:
    return account["metrics"].popitem() is not None


def flip(field: str) -> Change:
    def change(account: Account) -> bool:
        account[field] = not account[field]
        return True

    return change


DIFFERENT: dict[str, Change] = {
    "a rule of KUBE-SERVICES is missing": drop("-A KUBE-SERVICES"),
    "a balancing rule is missing": drop("-A KUBE-SVC-"),
    "a rule of the kernel's state is missing": drop("-A KUBE-SEP-", "save"),
    "a jump from a built-in chain is missing": drop("-A INPUT", "save"),
    "a chain line is missing": drop(":KUBE-SVC-"),
    "a chain of the kernel's state is missing": drop(":KUBE-SEP-", "save"),
    "a deletion is missing": drop("-X "),
    "another probability": replace("-A KUBE-SVC-", "--probability 0.5", "--probability 0.6"),
    "another target": replace("-A KUBE-SERVICES", "-j KUBE-SVC-", "-j KUBE-SVL-"),
    "another verdict": replace("-A KUBE-FORWARD", "-j ACCEPT", "-j DROP"),
    "other odds order": swap_rules("-A KUBE-SVC-"),
    "other order in an external chain": swap_rules("-A KUBE-EXT-"),
    "other order of static rules": swap_rules("-A KUBE-POSTROUTING"),
    "other order of jumps": swap_rules("-A FORWARD", "save"),
    "other order of single commands": swap_in_order("ensure"),
    "a rule count": count_up("iptables_total"),
    "a histogram's count": count_up("duration_seconds_count"),
    "a metric is missing": lose_metric,
    "a health check is missing": lose("healthChecks"),
    "a deleted flow is missing": lose("conntrackDeleted"),
    "full or partial": flip("fullSync"),
    "requested or not": flip("syncRequested"),
    "succeeded or not": flip("success"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_difference_is_seen_in_its_sync(what: str) -> None:
    changed = 0
    for name in (GUARDED, "special-001", "faults-003"):
        wanted = expected(name)
        for number, account in enumerate(wanted):
            altered = [*wanted]
            altered[number] = copy.deepcopy(account)
            if DIFFERENT[what](altered[number]):
                changed += 1
                found = run_differences(altered, replayed(name))
                assert found, f"{name} sync {number}"
                assert all(statement.startswith(f"sync {number}: ") for statement in found)
    assert changed


def test_a_missing_sync_is_seen() -> None:
    assert run_differences(expected(GUARDED)[:-1], replayed(GUARDED)) == ["expected 8 syncs, got 9"]


def reversed_services(document: str) -> str:
    """The document with chain lines, deletions and each shared chain's services in reverse order, and blank lines."""
    lines = document.split("\n")
    arbitrary = (":", "-X ", *(f"-A {chain} " for chain in SHARED_CHAINS))
    for start in arbitrary:
        places = [n for n, line in enumerate(lines) if line.startswith(start)]
        blocks: list[list[str]] = []
        for line in (lines[n] for n in places):
            key = line.split('"')[1].split(" ")[0] if '"' in line else line.split("--comment ")[-1].split(" ")[0]
            if blocks and start.startswith("-A") and blocks[-1][0] == key:
                blocks[-1].append(line)
            else:
                blocks.append([key, line])
        turned = [line for block in reversed(blocks) for line in block[1:]]
        for place, line in zip(places, turned, strict=True):
            lines[place] = line
    return "\n\n".join(lines)


def test_an_arbitrary_order_is_no_difference() -> None:
    turned = expected(GUARDED)
    for account in turned:
        iptables = account["iptables"]
        iptables["restore"] = [
            "*nat".join(reversed_services(table) for table in document.split("*nat"))
            for document in iptables["restore"]
        ]
        account["healthChecks"].reverse()
        account["conntrackDeleted"].reverse()
    assert turned[0]["iptables"]["restore"] != expected(GUARDED)[0]["iptables"]["restore"]
    assert run_differences(turned, replayed(GUARDED)) == []
