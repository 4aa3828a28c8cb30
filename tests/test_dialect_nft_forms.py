"""Statements of nft in three forms: sent, listed, JSON (NFT-10). ``tests/dialects`` has them as nft 1.0.6 recorded them."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from kpsim.dialects.nft.datatypes import Style
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.dialects.nft.listing import rule_words
from kpsim.dialects.nft.writing import pieces
from kpsim.errors import UnsupportedRule
from kpsim.ruleset import Rule
from tests.nft_forms import (
    HERE,
    Place,
    at,
    commands,
    json_document,
    listing,
    recorded_forms,
    rules_in,
    without_order,
    without_words,
)

PLACES = sorted({form.place for form in recorded_forms()})
REFUSED = [line.split("|") for line in (HERE / "nft_refused.txt").read_text().splitlines() if not line.startswith("#")]
#: listed so by nft, and in no form the statement that the value alone is written as: the same in fewer or in other words
OTHERWISE = (
    "ip6 nexthdr ipv6-icmp accept", "reject with icmp port-unreachable", "reject with icmpv6 port-unreachable",
    "ip protocol tcp reject with tcp reset", "reject with tcp reset", "tcp flags { syn | ack, syn } accept", "tcp flags != 0x3 drop",
    "tcp flags == 0x3 drop", "tcp flags { fin | ack, fin, rst } accept", "tcp flags vmap { syn | ack : drop, syn : accept }", "tcp flags vmap { syn : accept, syn | ack : drop }",
    "tcp flags 0x0 drop", "tcp flags != 0x12 accept", "meta mark & 0x000000ff == { 0x00000001, 0x00000002 } accept",
    "meta mark & 0x000000ff 0x00000001-0x00000002 accept", "meta mark & 0x000000ff 0x00000001-0x00000005 accept",
    "meta mark & 0x000000ff > 0x00000005 accept", "meta mark & 0x000000ff 0x00000006-0xffffffff accept",
)  # fmt: skip
everywhere = pytest.mark.parametrize("place", PLACES, ids=" ".join)


def sent(place: Place) -> tuple[Rule, ...]:
    return rules_in(commands(place, [each.sent for each in at(place)]), place.family)


def listed(place: Place) -> tuple[Rule, ...]:
    return rules_in(listing(place, [each.listed for each in at(place)]), place.family)


def as_json(place: Place) -> tuple[Rule, ...]:
    return rules_in(json_document(place, [each.trees for each in at(place)]), place.family)


def by_form(place: Place, values: Iterable[Any]) -> list[tuple[str, Any]]:
    return [(form.sent, value) for form, value in zip(at(place), values, strict=True)]


@everywhere
def test_what_is_sent_and_what_is_listed_is_the_same_rule(place: Place) -> None:
    """NFT-10.4: the kernel holds one rule, however it was written."""
    first, second = ([without_words(rule.body) for rule in rules] for rules in (sent(place), listed(place)))
    assert by_form(place, first) == by_form(place, second)


@everywhere
def test_json_is_the_same_rule_as_the_listing(place: Place) -> None:
    """nft -j prints the same rules as nft."""
    first, second = ([rule.body for rule in rules] for rules in (as_json(place), listed(place)))
    assert by_form(place, first) == by_form(place, second)


@everywhere
def test_a_rule_that_came_as_json_is_listed_as_nft_lists_it(place: Place) -> None:
    """But for numbers that nft lists in hexadecimal, and a range under a mask."""
    odd = re.compile(r"update .* counter }|tcp flags (!= |== )?0x|meta mark & \S+ \S+-|ip dscp 0x")
    told = [rule_words(rule, place.space, Style.LISTED) for rule in as_json(place)]
    for form, words in zip(at(place), told, strict=True):
        if not odd.match(form.listed):
            assert words == form.listed.partition(' comment "')[0] or 'comment "c"' in words


@everywhere
def test_a_rule_that_was_read_is_written_as_it_stood(place: Place) -> None:
    """Also counters, and lists that the value has merged."""
    for rules, style in ((listed(place), Style.LISTED), (sent(place), Style.SENT)):
        words = [rule_words(rule, place.space, style) for rule in rules]
        assert words == [form.listed if style is Style.LISTED else form.sent for form in at(place)]


@everywhere
def test_a_value_alone_is_written_as_nft_lists_it(place: Place) -> None:
    """Where nft lists the same value in several ways, as one of those."""
    taken = {form.listed for form in at(place)}
    for form, rule in zip(at(place), listed(place), strict=True):
        assert rule_words(replace(rule, spelling=None), place.space, Style.LISTED) in taken or form.listed in OTHERWISE


@everywhere
def test_a_value_is_written_as_the_json_that_nft_prints(place: Place) -> None:
    """nft has a flag beside the prefix of a translation, which says the same."""
    taken = [[_without_netmap(tree) for tree in form.trees] for form in at(place)]
    for form, rule in zip(at(place), listed(place), strict=True):
        assert [tree for tree, _ in pieces(rule, place.space)] in taken or form.listed in OTHERWISE


def _without_netmap(tree: Any) -> Any:
    ((name, about),) = tree.items()
    if isinstance(about, dict) and about.get("flags") == "netmap":
        return {name: {member: value for member, value in about.items() if member != "flags"}}
    return tree


@pytest.mark.parametrize("style", Style, ids=lambda style: style.name)
@everywhere
def test_a_value_alone_is_written_so_that_it_is_read_again(place: Place, style: Style) -> None:
    """A rule that was made, or came from another tool, has no spelling of nft. It is written canonically."""
    bare = [replace(rule, spelling=None) for rule in sent(place)]
    again = rules_in(listing(place, [rule_words(rule, place.space, style) for rule in bare]), place.family)
    assert [without_order(rule.body) for rule in again] == [without_order(rule.body) for rule in bare]
    assert [rule.comment for rule in again] == [rule.comment for rule in bare]


@everywhere
def test_a_value_is_written_as_json_that_is_read_again(place: Place) -> None:
    """The trees of a rule are JSON."""
    rules = sent(place)
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
