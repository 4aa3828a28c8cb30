"""What is no nft, or nft that makes no sense, is refused: what was expected, what stands there instead, on which line (NFT-10).

``nft_broken.jsonl`` has statements, and documents, which end in a line feed. nft takes none of them; ``tests/kernel`` asks it.
``nft_broken_trees.jsonl`` has statements as JSON. ``nft_refused_forms.txt`` has the listed and the JSON form of what is right
and not modelled.
"""

import json
import re
from typing import Any, NamedTuple

import pytest

from kpsim.dialects.nft.datatypes import Style
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.dialects.nft.listing import rule_words
from kpsim.errors import InputError, UnsupportedRule
from kpsim.ruleset import Rule, Space, TableKey, Unknown, Unmodelled
from tests.nft_forms import HERE, Place, commands, json_document, listing
from tests.test_dialect_nft_forms import REFUSED

INPUT = Place("inet", "filter", "input")
BROKEN = [json.loads(line) for line in (HERE / "nft_broken.jsonl").read_text().splitlines()]
TREES = [json.loads(line) for line in (HERE / "nft_broken_trees.jsonl").read_text().splitlines()]
LONG = f'"{"x" * 99_998}"'
#: what nft takes, and the model does not read
UNREAD = [
    (f"define a = {LONG}\nlist {'$a ' * 100}\n", "f:2: expected table, add or another command of nft, not 'list'"),
    (f"define a = {LONG}\nlist {'$a ' * 101}\n", "f:2: with its variables the file is too long"),
    (f'define a = "x{LONG[1:]}\n', "f:1: $a is longer than 100,000 characters"),
    ("ip saddr" + " & 1" * 31 + " == 1", "too many operations, not '&'"),
    ("add table ip t\nadd chain ip t c {\n accept\n}\n", "f:4: rules go into a chain by commands of their own, not the end of the line"),
    ("quota 17592186044416 mbytes", "not a quota: 18446744073709551616 bytes (t/c rule 1)"),
    ("limit rate 10 bytes/second burst 4096 mbytes", "not a burst: 4294967296 (t/c rule 1)"),
    ("(" * 31 + "ip saddr" + ")" * 31 + " 10.0.0.1", "nested too deeply, not 'ip'"),
    *((f"add table ip t\nadd map ip t m {{ type mark : {kind} ; }}\n", f"f:2: map m: not modelled: a map to a {kind}")
      for kind in ("counter", "limit", "quota", "synproxy", "secmark")),
    ("add table ip t\nadd map ip t m { typeof meta mark : counter ; }\n", "f:2: map m: not modelled: a map to a counter"),
    ("add table ip t\nadd set ip t s { typeof ct zone ; }\n", "f:2: set s: not modelled: typeof ct zone"),
    ("add table ip t\nadd set ip t s { type ct_zone ; }\n", "f:2: set s: not modelled: the type ct_zone"),
    ("list ruleset\n", "f:1: expected table, add or another command of nft, not 'list'"),
    ("add table ip t\nadd limit ip t l rate 5/second\ndelete limit ip t l\n", "f:3: delete limit is not read"),
    *((f"add table ip t\nadd set ip t s {{ type mark ; {word} ; }}\n", f"f:2: set s: not modelled: {word.split()[0]} for each element of a set")
      for word in ("limit rate 5/second", "quota 5 bytes", "ct count over 5")),
    ("ip saddr { 10.0.0.1 limit rate 5/second }", "not modelled: a limit for each element of a set (t/c rule 1)"),
    ("redefine x = 5\n", "f:1: redefine is not read; `nft list ruleset` prints the rules without variables"),
    ("undefine x\n", "f:1: undefine is not read; `nft list ruleset` prints the rules without variables"),
    ("add table ip t\nadd chain ip t c\nadd rule ip t c position 5 accept\n",
     "f:3: add rule by its place is not read; `nft list ruleset` prints the rules in order"),
    ("add table ip t\nadd counter ip t n\ndelete counter ip t n\n", "f:3: delete counter is not read"),
    ("add table ip t\nadd chain ip t c\nadd rule ip t c accept\nreplace rule ip t c handle 2 drop\n",
     "f:4: replace rule by its place is not read; `nft list ruleset` prints the rules in order"),
]  # fmt: skip


def whole(text: str) -> tuple[str, str]:
    """A whole document with this statement or these commands, and what stands before the complaint about it."""
    if text.endswith("\n"):
        return text, ""
    made = commands(INPUT, [text])
    return made, f"f:{len(made.splitlines())}: "


@pytest.mark.parametrize(("text", "message"), [*BROKEN, *UNREAD], ids=range(len(BROKEN) + len(UNREAD)))
def test_what_was_expected_is_said_with_what_stands_there(text: str, message: str) -> None:
    made, before = whole(text)
    with pytest.raises(InputError) as refused:
        DIALECT.parse(made, file="f")
    assert str(refused.value) in (message, before + message)


@pytest.mark.parametrize(("place", "tree", "message"), TREES, ids=range(len(TREES)))
def test_trees_that_make_no_sense_are_refused(place: str, tree: Any, message: str) -> None:
    with pytest.raises(InputError) as refused:
        DIALECT.parse(json_document(Place(*place.split()), [[tree]]), file="f")
    assert str(refused.value) == f"f: {message}"


T = {"family": "ip", "table": "t"}
CHAIN = {"chain": T | {"name": "c"}}
ENTRIES: list[tuple[Any, str]] = [
    (5, "an object with one member expected"),
    ({}, "an object with one member expected"),
    ({"table": {}, "chain": {}}, "an object with one member expected"),
    ({"chain": 5}, "chain: an object expected"),
    ({"add": 5}, "not what nft prints"),
    ({"table": {"name": "u"}}, "table: a family expected, not None"),
    ({"table": {"family": "ipx", "name": "u"}}, "table: a family expected, not 'ipx'"),
    ({"table": {"family": "ip"}}, "table: name is missing"),
    ({"table": {"family": "ip", "name": 5}}, "table: name is 5"),
    ({"table": {"family": "ip", "name": "u", "flags": "d\u0000"}}, "table u: its flags are not legible ('d\\x00'): give the output of nft list ruleset"),
    ({"table": {"family": "ip", "name": "u", "flags": ["dormant", "x"]}}, "table u: its flags are not legible ('x'): give the output of nft list ruleset"),
    ({"chain": {"family": "ip", "name": "d"}}, "chain: table is missing"),
    ({"flush": {"ruleset": {"family": "ipx"}}}, "ruleset: a family expected, not 'ipx'"), ({"flush": {"ruleset": 5}}, "not what nft prints"),
    ({"chain": {"family": "ip", "table": 5, "name": "d"}}, "chain: table is 5"),
    ({"chain": T}, "chain: name is missing"),
    ({"chain": T | {"name": "d", "hook": "input"}}, "chain: type is missing"),
    ({"chain": T | {"name": "d", "hook": "input", "type": "filter"}}, "chain: prio is missing"),
    ({"chain": T | {"name": "d", "hook": 5, "type": "filter", "prio": 0}}, "chain: hook is 5"),
    ({"chain": T | {"name": "d", "hook": "input", "type": "filter", "prio": "0"}}, "chain: prio is '0'"),
    ({"chain": T | {"name": "d", "hook": "input", "type": "filter", "prio": True}}, "chain: prio is True"),
    ({"chain": T | {"name": "d", "policy": []}}, "chain: policy is []"),
    ({"chain": T | {"name": "d", "comment": 5}}, "chain: comment is 5"),
    ({"rule": T | {"expr": []}}, "rule: chain is missing"),
    ({"rule": T | {"chain": "c"}}, "rule: expr is missing"),
    ({"rule": T | {"chain": "c", "expr": 5}}, "rule: expr is 5"),
    ({"rule": T | {"chain": 5, "expr": []}}, "rule: chain is 5"),
    ({"rule": T | {"chain": "c", "expr": ["frobnicate"]}}, "expected a statement, not 'frobnicate'"),
    ({"set": T | {"name": "s"}}, "set: type is missing"),
    ({"set": T | {"type": "mark"}}, "set: name is missing"),
    ({"set": T | {"name": "s", "type": 5}}, "set: type is 5"),
    ({"set": T | {"name": "s", "type": ["mark", 5]}}, "set: type is ['mark', 5]"),
    ({"set": T | {"name": "s", "type": "mark", "flags": [5]}}, "set: flags is [5]"),
    ({"set": T | {"name": "s", "type": "mark", "flags": 5}}, "set: flags is 5"),
    ({"set": T | {"name": "s", "type": "mark", "size": "5"}}, "set: size is '5'"),
    ({"set": T | {"name": "s", "type": "mark", "timeout": "5"}}, "set: timeout is '5'"),
    ({"set": T | {"name": "s", "type": "mark", "gc-interval": "5"}}, "set: gc-interval is '5'"),
    ({"set": T | {"name": "s", "type": "mark", "elem": 5}}, "set: elem is 5"),
    ({"set": T | {"name": "s", "type": "mark", "stmt": 5}}, "set: stmt is 5"),
    ({"set": T | {"name": "s", "type": {"unknown": 5}}}, "not what nft prints"),
    ({"map": T | {"name": "m", "type": "mark"}}, "map: map is missing"),
    ({"map": T | {"name": "m", "type": "mark", "map": 5}}, "map: map is 5"),
    ({"map": T | {"name": "m", "type": "mark", "map": [5]}}, "map: map is [5]"),
    ({"element": T | {"name": "s"}}, "element: elem is missing"),
    ({"counter": {"family": "ip", "table": "t"}}, "counter: name is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "message"), ENTRIES, ids=[str(entry) for entry, _ in ENTRIES])
def test_objects_of_json_that_nft_does_not_print_are_refused(entry: Any, message: str) -> None:
    """Each complaint says which object of the list it is about."""
    text = json.dumps({"nftables": [{"table": {"family": "ip", "name": "t"}}, CHAIN, entry]})
    with pytest.raises(InputError) as refused:
        DIALECT.parse(text, file="f")
    assert str(refused.value) == f"f: nftables[2]: {message}"


WRONG_OBJECTS: list[tuple[Any, str]] = [
    ({"rule": T | {"chain": "d", "expr": [{"accept": None}]}}, "there is no chain d in table t"),
    ({"rule": T | {"chain": "c", "expr": []}}, "a rule without statements (t/c rule 1)"),
    ({"chain": {"family": "ip6", "table": "t", "name": "d"}}, "there is no table ip6 t"),
    ({"set": T | {"name": "s", "type": "colour"}}, "set s: not modelled: the type colour"),
    ({"set": T | {"name": "s", "type": "mark", "stmt": [{"quota": {}}]}}, "set s: not modelled: quota for each element of a set"),
    ({"set": T | {"name": "s", "type": "mark", "elem": ["x"]}}, "set s: not a number: x"),
    ({"set": T | {"name": "s", "type": "mark", "elem": [{"elem": {}}]}}, "set s: not an element: {'elem': {}}"),
    ({"set": T | {"name": "s", "type": "mark", "flags": ["fast"]}}, "set s: not a flag of sets: fast"),
    ({"map": T | {"name": "m", "type": "mark", "map": "counter"}}, "map m: not modelled: a map to a counter"),
    ({"map": T | {"name": "m", "type": "mark", "map": "verdict", "elem": [[1, {"jump": {"target": "d"}}]]}}, "there is no chain d (map m)"),
    ({"map": T | {"name": "m", "type": "mark", "map": "verdict", "elem": [[1, 5]]}}, "map m: not a verdict: 5"),
    ({"set": T | {"name": "s", "type": {"typeof": {"meta": {"key": "cpu"}}}}}, "set s: not modelled: typeof meta cpu"),
    ({"limit": T | {"name": "l", "rate": 0, "per": "second"}}, "limit l: not a rate: 0/second"),
    ({"chain": T | {"name": "d", "hook": "input", "type": "filter", "prio": 0, "policy": "maybe"}}, "chain d: not a policy: maybe"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "message"), WRONG_OBJECTS, ids=[message for _, message in WRONG_OBJECTS])
def test_objects_of_json_that_are_wrong_are_named(entry: Any, message: str) -> None:
    text = json.dumps({"nftables": [{"table": {"family": "ip", "name": "t"}}, CHAIN, entry]})
    with pytest.raises(InputError) as refused:
        DIALECT.parse(text, file="f")
    assert str(refused.value) == f"f: {message}"


NOT_ITS_OUTPUT = "f: not the output of nft -j list ruleset: an object with the list `nftables` expected"
NO_OUTPUT = [
    ("{}", NOT_ITS_OUTPUT), ('{"nftables": 5}', NOT_ITS_OUTPUT), ('{"nftables": {}}', NOT_ITS_OUTPUT), ('{"nftables": NaN}', "f: not JSON: NaN is no JSON"),
    ("[]", "f:1: expected table, add or another command of nft, not '['"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), NO_OUTPUT, ids=[text for text, _ in NO_OUTPUT])
def test_json_that_is_not_nfts_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        DIALECT.parse(text, file="f")
    assert str(refused.value) == message


class NotModelled(NamedTuple):
    """A statement that is right and not modelled: what it is refused as, and its listed and its JSON form."""

    place: Place
    what: str
    sent: str
    listed: str
    trees: list[Any]


def not_modelled() -> list[NotModelled]:
    named = {statement: (Place(family, *chain.split()), what) for family, chain, statement, what in REFUSED}
    lines = [line[2:] for line in (HERE / "nft_refused_forms.txt").read_text().splitlines() if not line.startswith("#")]
    return [
        NotModelled(*named[sent], sent, listed, json.loads(trees))
        for sent, listed, trees in zip(lines[::3], lines[1::3], lines[2::3], strict=True)
        if sent in named
    ]


@pytest.mark.parametrize("case", not_modelled(), ids=lambda case: case.listed)
def test_what_is_not_modelled_is_refused_in_each_form_and_kept_on_request(case: NotModelled) -> None:
    """What is kept is listed as it stood."""
    for text in (listing(case.place, [case.listed]), json_document(case.place, [case.trees])):
        with pytest.raises(UnsupportedRule) as refused:
            DIALECT.parse(text)
        assert refused.value.what == case.what
    rule = kept(case, listing(case.place, [case.listed]))
    assert any(isinstance(part, Unknown | Unmodelled) for part in rule.body)
    assert rule_words(rule, case.place.space, Style.LISTED) == case.listed
    words = rule_words(kept(case, json_document(case.place, [case.trees])), case.place.space, Style.LISTED)
    assert words.replace('"', "") == case.listed.replace('"', "") or NUMBERS.match(words) or TREES_ALONE.search(words)


#: what JSON prints otherwise: numbers that nft lists in hexadecimal or as names, and what is left out
NUMBERS = re.compile(r"@(th,(160|32)|nh|ll),|socket mark|ct expiration|ipsec in|fib daddr type vmap|add @dyn")
#: of these the tree stands for the words
TREES_ALONE = re.compile(r'\{"(ct count|tproxy|synproxy)": ')


def kept(case: NotModelled, text: str) -> Rule:
    key = TableKey(Space(case.place.family), "t")
    found = DIALECT.parse(text, unknown="keep")
    [rule] = next(each for each in found if key in each.tables).tables[key].chains["c"].rules
    return rule


KEPT: list[tuple[str, Unknown | Unmodelled]] = [
    ("ip id 5", Unknown("ip id 5")), ("meta cpu vmap { 1 : accept }", Unknown("meta cpu vmap { 1 : accept }")),
    ("queue num 1", Unmodelled("queue num 1")), ("dup to 10.0.0.1", Unmodelled("dup to 10.0.0.1")),
    ("synproxy mss 1460", Unmodelled("synproxy mss 1460")), ("tcp dport set 80", Unmodelled("tcp dport set 80")),
    ('xt target "LOG"', Unmodelled('xt target "LOG"')), ("flow add @f", Unmodelled("flow add @f")), ("ct count over 5", Unknown("ct count over 5")),
    ("meter m { ip saddr ct count over 5 }", Unknown("meter m { ip saddr ct count over 5 }")),
    ("update @dyn { ip saddr ct count over 5 }", Unknown("update @dyn { ip saddr ct count over 5 }")),
]  # fmt: skip


@pytest.mark.parametrize(("words", "part"), KEPT, ids=[words for words, _ in KEPT])
def test_what_may_end_the_rule_is_kept_as_a_condition(words: str, part: Unknown | Unmodelled) -> None:
    """A condition may be false, so that the next rule counts too. A statement may do anything."""
    assert kept(NotModelled(INPUT, "", "", "", []), commands(INPUT, [f"{words} accept"])).body[0] == part


def lines_of(text: str, **options: object) -> list[str]:
    """What is wrong with a document, line by line."""
    with pytest.raises(InputError) as refused:
        DIALECT.parse(text, file="f", **options)  # type: ignore[arg-type]
    return [str(problem) for problem in refused.value.problems]


def test_all_that_is_wrong_is_told_in_order() -> None:
    """JSON has no lines. What stands in the wrong place is told once all rules are read: their numbers are not known before."""
    trees: list[list[Any]] = [[{"frobnicate": 1}], [{"accept": None}], [{"jump": {}}]]
    assert lines_of(json_document(INPUT, trees)) == [
        "f: not a verdict: {'jump': {}} (t/c rule 3)", "f: not modelled: frobnicate (t/c rule 1)",
    ]  # fmt: skip
    assert lines_of(commands(INPUT, ["ip id 5 drop", "masquerade"]))[1:] == []
    misplaced = lines_of(commands(INPUT, ["accept", "masquerade"]))
    assert [line.partition(": ")[2] for line in misplaced] == [
        "it translates, which only chains of type nat do, and c leads here (t/c rule 2)"
    ]
