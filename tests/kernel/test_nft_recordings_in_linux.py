"""The recordings of nft in ``tests/dialects`` are what the machine's nft says (NFT-10). Another version is asked for the meaning only."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from typing import Any

import pytest

from fuzz.nft_oracle import NftOracle
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.lab.calls import call
from tests.nft_documents import COMMANDS, Document, documents, in_some_order
from tests.nft_forms import Place, at, commands, listing, recorded_forms, rules_in, without_words
from tests.nft_recording import asked
from tests.test_dialect_nft_broken import BROKEN, not_modelled, whole
from tests.test_dialect_nft_forms import REFUSED

pytestmark = pytest.mark.kernel

RECORDED_WITH = "v1.0.6"
NOT_MODELLED = not_modelled()
PLACES = sorted({form.place for form in recorded_forms()})


@pytest.fixture
def oracle(kernel: None) -> Iterator[NftOracle]:
    with closing(NftOracle()) as made:
        yield made


@cache
def is_the_version() -> bool:
    return RECORDED_WITH in call(["nft", "--version"])


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_statements_are_listed_as_recorded(oracle: NftOracle, place: Place) -> None:
    forms = at(place)
    answers = asked(oracle, place, [form.sent for form in forms])
    if is_the_version():
        recorded = [(form.sent, _in_order(form.listed), _in_order(json.dumps(form.trees))) for form in forms]
        told = [
            (form.sent, _in_order(each), _in_order(json.dumps(trees)))
            for form, (each, trees) in zip(forms, answers, strict=True)
        ]
        assert told == recorded
    else:
        mine = rules_in(listing(place, [form.listed for form in forms]), place.family)
        theirs = rules_in(listing(place, [each for each, _ in answers]), place.family)
        assert [without_words(rule.body) for rule in mine] == [without_words(rule.body) for rule in theirs]


def _in_order(text: str) -> list[str]:
    """A text without the order of elements: sets without intervals have none."""
    return sorted(each.strip() for each in re.split(r", |[{}\[\]]", text))


@pytest.mark.parametrize("place", sorted({case.place for case in NOT_MODELLED}), ids=" ".join)
def test_what_is_refused_by_name_is_taken_by_nft_and_listed_as_recorded(oracle: NftOracle, place: Place) -> None:
    """Else there would be another reason to refuse it."""
    statements = [statement for *there, statement, _ in REFUSED if place == (there[0], *there[1].split())]
    assert oracle.complaint(commands(place, statements)) is None
    cases = [case for case in NOT_MODELLED if case.place == place]
    if is_the_version():
        answers = asked(oracle, place, [case.sent for case in cases])
        assert [(listed, trees) for listed, trees in answers] == [(case.listed, case.trees) for case in cases]


def test_what_is_broken_is_refused_by_nft(oracle: NftOracle) -> None:
    """A quarter of it, since each takes a call of nft."""
    taken = [text for text, _ in BROKEN[::4] if oracle.complaint(whole(text)[0]) is None]
    assert taken == []


@pytest.mark.parametrize("document", documents(), ids=lambda document: document.name)
def test_documents_are_listed_as_recorded(oracle: NftOracle, document: Document) -> None:
    assert oracle.complaint(document.sent) is None
    told = oracle.listed()
    assert told is not None
    if is_the_version():
        assert in_some_order(told) == in_some_order(document.listed)
        assert _objects(oracle.listed("-j")) == _objects(document.printed) or document.name == "dormant"
    else:
        assert DIALECT.parse(told) == DIALECT.parse(document.listed)


def _objects(printed: str | None) -> list[Any]:
    """The objects of a JSON document but for handles and the order of elements."""
    found = []
    for entry in json.loads(str(printed))["nftables"]:
        ((kind, about),) = entry.items()
        plain = {name: value for name, value in about.items() if name != "handle"}
        if "elem" in plain:
            plain["elem"] = sorted(map(json.dumps, plain["elem"]))
        found.append((kind, plain))
    return found


@pytest.mark.parametrize(("text", "message"), COMMANDS, ids=[text.splitlines()[-1] for text, _ in COMMANDS])
def test_commands_that_are_refused_are_refused_by_nft(oracle: NftOracle, text: str, message: str) -> None:
    first, _, last = text.rstrip("\n").rpartition("\n")
    assert oracle.complaint(first) is None
    assert oracle.complaint(text) is not None, last
