"""The model takes and refuses transactions of nft as Linux does, and the table is the same afterwards (NFT-8.6, 8.8)."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from nft_transactions import BEGINNING, CASES, KEY, Case, begun, drawn, text

from kpsim.backends.nftables.document import dump
from kpsim.lab.namespace import Namespace
from kpsim.ruleset import Ruleset
from kpsim.ruleset.operations import Operation, Refusal, Refused, apply
from kpsim.verify.drawing.choices import SeededChoices

SEQUENCES = 2
LENGTH = 20


@pytest.fixture(scope="module")
def namespace(kernel: None) -> Iterator[Namespace]:
    """The namespace whose kernel is asked. Each test begins by flushing it."""
    with closing(Namespace()) as made:
        yield made


@pytest.fixture(scope="module")
def other(kernel: None) -> Iterator[Namespace]:
    """A second namespace, into which the model's table is loaded."""
    with closing(Namespace()) as made:
        yield made


def nft(namespace: Namespace, operations: list[Operation]) -> list[Refusal] | None:
    """Why the kernel refuses operations of a transaction; None: it took it. nft tells of all of them."""
    complaint = namespace.complaint(["nft", "-f", "-"], text(operations))
    return None if complaint is None else [refusal for refusal in Refusal if refusal in complaint]


def listed(namespace: Namespace) -> dict[str, Any]:
    """What the kernel holds: sets with sorted elements, and the rules of each chain in order."""
    found: dict[str, Any] = {}
    for item in json.loads(namespace.run(["nft", "-j", "list", "ruleset"]))["nftables"]:
        ((kind, about),) = item.items()
        about.pop("handle", None)
        if kind == "rule":
            found.setdefault(f"rules of {about['chain']}", []).append(about["expr"])
        elif kind != "metainfo":
            if "elem" in about:
                about["elem"].sort(key=str)
            found[f"{kind} {about['name']}"] = about
    return found


def shown_by(other: Namespace, ruleset: Ruleset) -> dict[str, Any]:
    """What a kernel holds that was given the model's table."""
    assert other.complaint(["nft", "-f", "-"], "flush ruleset\n" + dump(ruleset.tables.get(KEY))) is None
    return listed(other)


def begin(namespace: Namespace) -> Ruleset:
    assert namespace.complaint(["nft", "-f", "-"], "flush ruleset\n" + text(BEGINNING)) is None
    return begun()


def both(namespace: Namespace, ruleset: Ruleset, operations: list[Operation]) -> tuple[Ruleset, Refusal | None]:
    """The model's ruleset after a transaction that Linux was given too, and why the model refuses it.

    Both take it, or both refuse it.
    """
    refusals = nft(namespace, operations)
    try:
        after = apply(ruleset, operations)
    except Refused as refused:
        assert refusals, text(operations)
        return ruleset, refused.refusal
    assert refusals is None, text(operations)
    return after, None


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_case(namespace: Namespace, other: Namespace, case: Case) -> None:
    before = begin(namespace)
    refusals = nft(namespace, case.operations)
    if case.refusal is not None:
        assert refusals is not None and case.refusal in refusals
        return
    assert refusals is None
    assert listed(namespace) == shown_by(other, apply(before, case.operations))


def test_drawn_transactions(namespace: Namespace, other: Namespace) -> None:
    choices = SeededChoices(7, "transactions")
    taken = 0
    for _ in range(SEQUENCES):
        ruleset = begin(namespace)
        for _ in range(LENGTH):
            ruleset, refusal = both(namespace, ruleset, drawn(choices))
            taken += refusal is None
        assert listed(namespace) == shown_by(other, ruleset)
    assert SEQUENCES * LENGTH // 5 < taken < SEQUENCES * LENGTH * 3 // 4
