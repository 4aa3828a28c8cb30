"""Asks the machine's own nft about rules: whether it and the kernel take them, and what they list then."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from fuzz.nft_words import BY_FAMILY, GRAMMARS, OBJECTS
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.errors import InputError, UnsupportedRule
from kpsim.lab.calls import LabError
from kpsim.lab.namespace import Namespace
from kpsim.ruleset import Adjust, Body, Compare, Expression, Field, Log, Quota, Rule, Space, Statement, TableKey
from kpsim.verify.drawing.choices import Choices, SeededChoices, chance, pick

_SYMBOL = re.compile(r"<([a-z0-9]+!?)>")
_MERGED = re.compile(r"[<>].*[<>]")  #: nft 1.0 lists two neighbours of this kind as one range, also of different fields
#: nft 1.0.6 moves a comparison of a header to an earlier one of that header, also past a statement between them
_MOVED = re.compile(r"\b(tcp|udp|sctp|udplite|dccp|th|ip|ip6|icmp|icmpv6) (?!option)[a-z0-9]+\b.*\b\1 [a-z0-9]+\b")
#: comparisons that nft 1.0.6 does not list if it takes them for implied
_UNLISTED = re.compile(r"\b(?:meta )?(?:l4proto|nfproto|protocol)\b")
#: a word of nft as the name of a chain; and numbers that nft prints so
_RESERVED, _UNREADABLE = "expecting string or '$'", "[invalid type]"
_ODD = 6  #: percent of values that are odd
_BATCH = 60  #: rules of one seed
_WORDS = (
    "accept", "drop", "tcp", "dport", "ip", "saddr", "{", "}", ",", "!=", "80", "10.0.0.1", ".", "@s", "counter", "ct", "state", "new",
    "-", "/", ":", "vmap", "mark", "set", "or", "0x1", '"eth0"', "th", "meta", "l4proto", "comment", "map", "to", "dnat",
)  # fmt: skip


def draw_rule(choices: Choices, family: str) -> str:
    """The statements of a rule; about a third have a mistake."""
    words = _expanded(choices, GRAMMARS[family], "rule")
    for _ in range(1 + choices.below(2) if chance(choices, 35) else 0):
        words = _spoilt(choices, words)
    return words


def _expanded(choices: Choices, grammar: Any, symbol: str) -> str:
    alternatives = [each for each in grammar[symbol] if not each.endswith("!>") or chance(choices, _ODD)]
    text = pick(choices, alternatives or grammar[symbol])
    return _SYMBOL.sub(lambda found: _expanded(choices, grammar, found[1]), text)


def _spoilt(choices: Choices, words: str) -> str:
    """The words with one of them left out, doubled, moved or replaced."""
    parts = words.split(" ")
    at = choices.below(len(parts))
    match choices.below(4):
        case 0:
            del parts[at]
        case 1:
            parts.insert(at, parts[at])
        case 2:
            parts.insert(choices.below(len(parts)), parts.pop(at))
        case _:
            parts[at] = pick(choices, _WORDS)
    return " ".join(parts)


class Place(NamedTuple):
    """The chain in which rules stand."""

    family: str
    type: str
    hook: str

    def document(self, rules: Sequence[str]) -> str:
        """Commands that make the chain with these rules."""
        lines = [
            f"add table {self.family} t",
            OBJECTS.format(**BY_FAMILY[self.family]).rstrip("\n"),
            f"add chain {self.family} t c {{ type {self.type} hook {self.hook} priority 0 ; }}",
            *(f"add rule {self.family} t c {rule}" for rule in rules),
        ]
        return "\n".join(lines) + "\n"


def read(place: Place, text: str) -> tuple[Rule, ...] | InputError:
    """The rules that the model reads, or why it refuses the text."""
    key = TableKey(Space(place.family), "t")
    try:
        found = DIALECT.parse(text)
    except InputError as error:
        return error
    return next(each for each in found if key in each.tables).tables[key].chains["c"].rules


class Disagreement(NamedTuple):
    """A rule about which the model and nft differ."""

    place: Place
    rule: str
    why: str

    def __str__(self) -> str:
        return f"{' '.join(self.place)}: {self.rule}: {self.why}"

    def file(self) -> tuple[str, str]:
        """A file's name and the text for nft."""
        return f"{'-'.join(self.place)}.nft", self.place.document([self.rule])


@dataclass
class NftTally:
    """Counts of what was compared."""

    rules: int = 0
    accepted: int = 0  #: by the model
    not_modelled: int = 0
    stricter: dict[str, int] = field(default_factory=dict)  #: rules that nft takes and the model calls wrong
    found: list[Disagreement] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.rules} rules, {self.accepted} accepted by the model, {self.not_modelled} not modelled, {len(self.found)} disagreements, "
            f"{sum(self.stricter.values())} taken by nft alone"
        )


class NftOracle:
    """nft in a namespace of its own."""

    def __init__(self) -> None:
        self._namespace = Namespace()

    def close(self) -> None:
        self._namespace.close()

    def complaint(self, text: str) -> str | None:
        """None if nft loads the text into the kernel, else its complaint. What was loaded before is gone."""
        self._namespace.run(["nft", "flush", "ruleset"])
        try:
            self._namespace.run(["nft", "-f", "-"], stdin=text)
        except LabError as error:
            return str(error).partition(": ")[2].splitlines()[0]
        return None

    def listed(self, *options: str) -> str | None:
        """What the kernel holds. None if nft crashes, as it does over some rules that it took."""
        try:
            return self._namespace.run(["nft", *options, "list", "ruleset"])
        except LabError:
            return None


def without_order(body: Body) -> tuple[Any, Any]:
    """What a body compares and does. nft moves comparisons of family and protocol, and writes words of its own in logs.

    A listing without states does not say what was used of a quota.
    """
    implied = [part for part in body if isinstance(part, Compare) and part.field in (Field.NFPROTO, Field.L4PROTO)]
    return frozenset(implied), tuple(_without_words(part) for part in body if part not in implied)


def _without_words(part: Expression | Statement) -> Expression | Statement:
    match part:
        case Log():
            return Log()
        case Adjust(target):
            return Adjust(target)
        case Quota():
            return replace(part, used=0)
        case _:
            return part


def fuzz_place(
    oracle: NftOracle, place: Place, seed: int, tally: NftTally, count: int = _BATCH, *, stricter: bool = False
) -> None:
    """Draws rules for one chain, and compares those that the model accepts, all in one document.

    With ``stricter`` also those that the model calls wrong are tried: nft should refuse them too.
    """
    choices = SeededChoices(seed, "nft", *place)
    accepted: list[str] = []
    for _ in range(count):
        rule = draw_rule(choices, place.family)
        tally.rules += 1
        found = read(place, place.document([rule]))
        if not isinstance(found, InputError):
            accepted.append(rule)
        elif isinstance(found, UnsupportedRule):
            tally.not_modelled += 1
        elif stricter and oracle.complaint(place.document([rule])) is None:
            message = found.problems[0].message.partition(" (t/c")[0]
            tally.stricter[f"{' '.join(place)}: {rule}: {message}"] = 1
    tally.accepted += len(accepted)
    if _differs(oracle, place, accepted) is not None:
        for rule in accepted:
            if (why := _differs(oracle, place, [rule])) is not None:
                tally.found.append(Disagreement(place, rule, why))


def _differs(oracle: NftOracle, place: Place, rules: Sequence[str]) -> str | None:
    text, alone = place.document(rules), len(rules) == 1
    if (complaint := oracle.complaint(text)) is not None:
        mild = "Interface does not exist" in complaint or complaint.endswith(_RESERVED)
        return None if mild and alone else f"nft refuses it: {complaint}"
    ours = read(place, text)
    assert not isinstance(ours, InputError)
    for name, listed in (("listed", oracle.listed("-s")), ("json", oracle.listed("-j"))):
        if listed is None:
            if alone:
                continue
            return f"{name}: nft crashes"
        theirs = read(place, listed)
        if isinstance(theirs, InputError):
            bare = name == "json" and "conflicting protocols" in str(theirs)  # of a rule that contradicts itself
            odd = isinstance(theirs, UnsupportedRule) or _UNREADABLE in listed or bare
            odd = odd or self_refused(oracle, name, listed)
            if alone and (odd or _MERGED.search(rules[0])):
                continue
            return f"{name}: not read: {theirs}"
        for mine, held in zip(ours, theirs, strict=True):
            same = without_order(mine.body) == without_order(held.body)
            if not same and not (alone and _is_told_otherwise(rules[0], mine.body, held.body)):
                return f"{name}: read as {mine.body}, the kernel holds {held.body}"
    return None


def _is_told_otherwise(rule: str, mine: Body, held: Body) -> bool:
    """Whether nft 1.0.6 itself moves, merges or leaves out what differs."""
    if _MERGED.search(rule):
        return True
    (implied, rest), (told, others) = without_order(mine), without_order(held)
    left_out = told < implied and bool(_UNLISTED.search(rule))
    moved = bool(_MOVED.search(rule)) and sorted(map(str, rest)) == sorted(map(str, others))
    return (implied == told or left_out) and (rest == others or moved)


def self_refused(oracle: NftOracle, name: str, listed: str) -> bool:
    """Whether nft does not take what it has listed."""
    return name == "listed" and oracle.complaint(listed) is not None
