"""Statements of nft in three forms: sent, listed, JSON (NFT-10). ``tests/dialects`` has them as nft 1.0.6 recorded them."""

from dataclasses import replace

import pytest

from kpsim.dialects.nft.datatypes import Style
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.dialects.nft.listing import rule_words
from kpsim.dialects.nft.writing import pieces
from kpsim.errors import UnsupportedRule
from kpsim.ruleset import Rule
from tests.nft_forms import (
    HERE,
    Form,
    Place,
    at,
    commands,
    json_document,
    listing,
    recorded_forms,
    rules_in,
    without_order,
)

FORMS = recorded_forms()
PLACES = sorted({form.place for form in FORMS})
REFUSED = [line.split("|") for line in (HERE / "nft_refused.txt").read_text().splitlines() if not line.startswith("#")]


def sent(form: Form) -> Rule:
    return rules_in(commands(form.place, [each.sent for each in at(form.place)]), form.place.family)[form.number]


def listed(form: Form) -> Rule:
    return rules_in(listing(form.place, [each.listed for each in at(form.place)]), form.place.family)[form.number]


def as_json(form: Form) -> Rule:
    return rules_in(json_document(form.place, [each.trees for each in at(form.place)]), form.place.family)[form.number]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_is_sent_and_what_is_listed_is_the_same_rule(form: Form) -> None:
    """NFT-10.4: the kernel holds one rule, however it was written."""
    assert without_order(sent(form).body) == without_order(listed(form).body)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_json_is_the_same_rule_as_the_listing(form: Form) -> None:
    """nft -j prints the same rules as nft."""
    assert as_json(form).body == listed(form).body


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_rule_that_was_read_is_written_as_it_stood(form: Form) -> None:
    """Also counters, and lists that the value has merged."""
    assert rule_words(listed(form), form.place.space, Style.LISTED) == form.listed
    assert rule_words(sent(form), form.place.space, Style.SENT) == form.sent


@pytest.mark.parametrize("style", Style, ids=lambda style: style.name)
@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_a_value_alone_is_written_so_that_it_is_read_again(place: Place, style: Style) -> None:
    """A rule that was made, or came from another tool, has no spelling of nft. It is written canonically."""
    bare = [replace(sent(form), spelling=None) for form in at(place)]
    again = rules_in(listing(place, [rule_words(rule, place.space, style) for rule in bare]), place.family)
    assert [without_order(rule.body) for rule in again] == [without_order(rule.body) for rule in bare]
    assert [rule.comment for rule in again] == [rule.comment for rule in bare]


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_a_value_is_written_as_json_that_is_read_again(place: Place) -> None:
    """The trees of a rule are JSON."""
    rules = [sent(form) for form in at(place)]
    again = rules_in(
        json_document(place, [[tree for tree, _ in pieces(rule, place.space)] for rule in rules]), place.family
    )
    assert [without_order(rule.body) for rule in again] == [without_order(rule.body) for rule in rules]


@pytest.mark.parametrize(("family", "chain", "statement", "what"), REFUSED, ids=[each[2] for each in REFUSED])
def test_what_is_not_modelled_is_refused_by_name(family: str, chain: str, statement: str, what: str) -> None:
    """Unknown is never true: a rule that may route or filter is not passed over."""
    text = commands(Place(family, *chain.split()), [statement])
    with pytest.raises(UnsupportedRule, match=r"not modelled") as refused:
        DIALECT.parse(text, file="f.nft")
    assert refused.value.what == what
    assert f"f.nft:{len(text.splitlines())}: not modelled: {what} (t/c rule 1)" in str(refused.value)
    DIALECT.parse(text, unknown="keep")
