"""The model takes and refuses transactions of nft as Linux does, and the table is the same afterwards (NFT-8.6, 8.8)."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from nft_transactions import BEGINNING, CASES, KEY, begun, drawn, text
from shop import cluster_text

import kpsim
from kpsim.backends.nftables.document import dump
from kpsim.backends.nftables.names import table_key
from kpsim.lab.namespace import Namespace
from kpsim.recording import load_recording
from kpsim.replay import Replay
from kpsim.ruleset import Ruleset, TableKey
from kpsim.ruleset.operations import Operation, Refusal, Refused, apply
from kpsim.verify.drawing.choices import SeededChoices

GOLDEN = Path(__file__).parents[1] / "golden" / "nftables"
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


def shown_by(other: Namespace, ruleset: Ruleset, key: TableKey = KEY) -> dict[str, Any]:
    """What a kernel holds that was given the model's table."""
    assert other.complaint(["nft", "-f", "-"], "flush ruleset\n" + dump(ruleset.tables.get(key))) is None
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


TAKEN = {name: case.operations for name, case in CASES.items() if case.refusal is None}
REFUSED = {name: case for name, case in CASES.items() if case.refusal is not None}


@pytest.mark.parametrize("operations", TAKEN.values(), ids=TAKEN)
def test_what_linux_takes(namespace: Namespace, other: Namespace, operations: list[Operation]) -> None:
    before = begin(namespace)
    assert nft(namespace, operations) is None
    assert listed(namespace) == shown_by(other, apply(before, operations))


def test_what_linux_refuses(namespace: Namespace) -> None:
    begin(namespace)
    told = {name: nft(namespace, case.operations) or [] for name, case in REFUSED.items()}
    assert {name: case.refusal in told[name] for name, case in REFUSED.items()} == dict.fromkeys(REFUSED, True)


@pytest.mark.parametrize("name", ["small-003", "faults-003", "special-006", "special-012"])
def test_the_transactions_of_a_recording(namespace: Namespace, other: Namespace, name: str) -> None:
    """Linux takes what kube-proxy sends, and then holds what the model holds."""
    namespace.run(["nft", "flush", "ruleset"])
    replay = Replay(load_recording(GOLDEN / f"{name}.recording.jsonl"))
    for outcome in replay.outcomes():
        for document in outcome.result.transaction.documents if outcome.result.success else ():
            assert namespace.complaint(["nft", "-f", "-"], document()) is None
    assert outcome.number > 2
    held = replay.proxier.held
    assert listed(namespace) == shown_by(other, held.ruleset, table_key(held.family))


def test_the_rules_of_a_node_can_be_loaded(namespace: Namespace) -> None:
    text = str(kpsim.load(text=cluster_text(), mode="nftables").rules("node-1"))
    assert {"table ip kube-proxy {", "table ip6 kube-proxy {"} <= set(text.splitlines())
    assert namespace.complaint(["nft", "-c", "-f", "-"], text) is None


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
