"""What is said of nft's rules to people: why a part was false, what a rule does, which element decided.

Values stand as nft lists them. What has several values is none of them, not one.
"""

import pytest

from kpsim.addresses import Family
from kpsim.dialects import Form, Reason
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.ruleset import (
    Chance,
    Dispatch,
    Element,
    ElementReference,
    Goto,
    Rule,
    RuleReference,
    Space,
    TableKey,
    UpdateSet,
)
from tests.nft_forms import Place, commands, rules_in

INPUT, NAT = Place("inet", "filter", "input"), Place("inet", "nat", "prerouting")
KEY = TableKey(Space.INET, "t")
V4 = Family.IPV4


def ruled(words: str, place: Place = INPUT) -> Rule:
    [rule] = rules_in(commands(place, [words]), place.family)
    return rule


REASONS = [
    ("ip saddr 10.0.0.1", 1, "source is not 10.0.0.1"), ("ip saddr != 10.0.0.1", 1, "source is 10.0.0.1"),
    ("ip saddr 10.0.0.0/8", 1, "source is not 10.0.0.0/8"), ("ip saddr & 255.0.0.255 == 10.0.0.1", 1, "source is not 10.0.0.1"),
    ("ip6 saddr { fd00::1, fd00::5-fd00::7 }", 1, "source is not fd00::1 or fd00::5-fd00::7"),
    ("tcp dport != { 80, 90-99 }", 1, "destination port is 80 or 90-99 (elsewhere)"), ("th sport 80", 0, "source port is not 80"),
    ("ip daddr 10.0.0.1", 1, "destination is not 10.0.0.1 (elsewhere)"), ("meta l4proto tcp", 0, "protocol is not tcp (elsewhere)"),
    ("meta nfproto ipv6", 0, "family is not ipv6 (elsewhere)"), ("ct state new,established", 0, "conntrack state is not established or new"),
    ("ct state ! new", 0, "conntrack state is new"), ("ct status dnat", 0, "conntrack status is not dnat"),
    ("tcp flags syn", 1, "TCP flags has none of syn"), ("tcp flags ! syn,ack", 1, "TCP flags has syn or ack"),
    ("tcp flags == syn", 1, "TCP flags is not syn"), ("tcp flags & (syn | ack) == syn", 1, "TCP flags is not syn"),
    ("tcp flags & (syn | ack) != syn", 1, "TCP flags is syn"),
    ("meta mark & 0x4000 == 0", 0, "mark & 0x00004000 is not 0x00000000"), ("ip saddr 0.0.0.0/8", 1, "source is not 0.0.0.0/8"),
    ("meta mark 5", 0, "mark is not 0x00000005"), ("meta mark and 0xff00 != 0x100", 0, "mark & 0x0000ff00 is 0x00000100"),
    ("ct mark & 0xff0000f == 0x1", 0, "connection mark & 0x0ff0000f is not 0x00000001"),
    ('iifname "eth*"', 0, "input interface is not eth*"), ('oif != "lo"', 0, "output interface is lo"),
    ("icmp type { echo-request, 200 }", 2, "ICMP type is not echo-request or 200"), ("ip dscp ef", 1, "DSCP is not ef"),
    ("fib daddr type { local, broadcast }", 0, "destination type is not local or broadcast"),
    ("ip saddr @s4", 1, "source is not in @s4"), ("ip saddr != @s4", 1, "source is in @s4"),
    ("ip saddr . tcp dport @conc", 2, "source and destination port are not in @conc"),
    ("ip saddr . tcp dport != { 10.0.0.1 . 80 }", 2, "source and destination port are in the list in the rule"),
    ("numgen random mod 3 1", 0, "number below 3 is not in the list in the rule"),
    ("jhash ip saddr mod 2 seed 5 1", 1, "hash below 2 is not in the list in the rule"),
    ("ip saddr & 255.0.0.0 . tcp sport . tcp dport { 10.0.0.0 . 1 . 2 }", 2,
     "source & 0xff000000, source port and destination port are not in the list in the rule"),
    ("tcp dport vmap { 80 : drop }", 1, "the list in the rule has nothing for this destination port"),
    ("ip saddr vmap @vm", 1, "@vm has nothing for this source"),
    ("meta mark set ip saddr map @marks", 1, "@marks has nothing for this source"),
    ("quota 1 kbytes", 0, "the quota of 1024 bytes is used up"), ("quota over 5 bytes", 0, "the quota of 5 bytes is not used up"),
    ("limit rate 5/minute", 0, "the limit of 5 a min and a burst of 5 is used up"),
    ("limit rate over 5/hour burst 7 packets", 0, "the limit of 5 a hour and a burst of 7 is not used up"),
    ("limit rate 1 kbytes/second", 0, "the limit of 1024 bytes a sec and a burst of 0 is used up"),
    ("limit rate over 5 bytes/day burst 7 bytes", 0, "the limit of 5 bytes a day and a burst of 7 is not used up"),
    ("fib saddr . iif oif exists", 0, "an answer would not leave by the interface that it came by"),
    ("fib saddr . iif oif missing", 0, "an answer would leave by the interface that it came by"),
    ("add @dyn { ip saddr }", 1, "@dyn is full, or source could not be put in"),
    ("add @dyn { ip saddr limit rate 5/second }", 1, "@dyn is full, or a limit of the element for source says no"),
    ("meta random & 0x7fffffff < 1073741824", 0, "Chance does not hold"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "at", "why"), REASONS, ids=[words for words, _, _ in REASONS])
def test_why_a_part_was_false(words: str, at: int, why: str) -> None:
    """Another destination, protocol or family is no news: most rules are for others."""
    rule = ruled(f"{words} counter")
    expected = Reason(why.removesuffix(" (elsewhere)"), elsewhere=why.endswith(" (elsewhere)"))
    family = Family.IPV6 if words.startswith("ip6") else V4
    assert DIALECT.reason(rule, rule.body[at], family) == expected


TRANSLATED = [
    ("dnat ip to tcp dport map { 80 : 10.0.0.1 }", "the list in the rule has nothing for this destination port"),
    ("dnat ip to ip saddr map @addrmap", "@addrmap has nothing for this source"),
    ("tcp dport 5 redirect to :tcp sport map { 80 : 81 }", "the list in the rule has nothing for this source port"),
]


@pytest.mark.parametrize(("words", "why"), TRANSLATED, ids=[words for words, _ in TRANSLATED])
def test_a_translation_may_lack_a_key(words: str, why: str) -> None:
    rule = ruled(words, NAT)
    assert DIALECT.reason(rule, rule.body[-1], V4) == Reason(why, elsewhere=False)
    assert rule.body[-1] in DIALECT.tried(rule, V4)


def test_what_is_not_modelled_is_said_by_its_words() -> None:
    [kept] = DIALECT.parse("table ip t {\n chain c {\n  ip id 5 accept\n }\n}\n", unknown="keep")
    [rule] = kept.tables[TableKey(Space.IP, "t")].chains["c"].rules
    why = Reason("ip id 5 is not modelled, and this packet does not depend on it", elsewhere=False)
    assert DIALECT.reason(rule, rule.body[0], V4) == why


def test_what_may_end_a_rule_is_tried() -> None:
    """Comparisons, and statements that ask a map or change a set. A mark that is set always holds."""
    rule = ruled(
        'ip saddr 10.0.0.1 log meta mark set 5 ct mark set ip saddr map @marks add @dyn { ip saddr } counter name "cnt" drop'
    )
    family, source, _, _, marks, update, counter, _ = rule.body
    assert DIALECT.tried(rule, V4) == [family, source, marks, update, counter]
    assert isinstance(update, UpdateSet)


DOES = [
    ("ip saddr 10.0.0.1 accept", "accept"), ("ip saddr 10.0.0.1 counter", "go on"), ("tcp dport vmap { 80 : drop }", "tcp dport"), ("ip saddr vmap @vm", "ip saddr vmap @vm"),
    ("tcp dport 80 log prefix \"x\" meta mark set ip saddr map { 10.0.0.1 : 5 }", 'log prefix "x" meta mark set ip saddr'),
    ("ip saddr . tcp dport @conc meta mark set 5 tcp sport 7 reject with tcp reset", "meta mark set 0x00000005 reject with tcp reset"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "does"), DOES, ids=[words for words, _ in DOES])
def test_what_a_rule_does(words: str, does: str) -> None:
    """Its statements, without the lists of maps."""
    [rule] = rules_in(commands(INPUT, [words]), "inet")
    assert DIALECT.does(Rule(rule.body), V4) == does


def said(words: str, *element: object, place: Place = INPUT, asked_by: Rule | None = None) -> str:
    """A rule with the element of a map that decided: its map, its key and its value."""
    name, key, value, comment = element
    of = ElementReference(name, key, Element(value, comment))  # type: ignore[arg-type]
    reference = RuleReference(KEY, "c", 1, ruled(words, place), of, asked_by)
    return DIALECT.words(reference, V4, Form.LISTED)


def test_the_element_that_decided_stands_behind_its_map() -> None:
    first, again = (0x01020304,), (80,)
    assert said("ip saddr vmap @vm", "vm", first, Goto("c2"), "") == "ip saddr vmap @vm { 1.2.3.4 : goto c2 }"
    assert (
        said("ip saddr vmap @vm", "vm", first, Goto("c2"), "why")
        == 'ip saddr vmap @vm { 1.2.3.4 comment "why" : goto c2 }'
    )
    assert said("meta mark set ip saddr map @marks accept", "marks", first, (5,), "") == (
        "meta mark set ip saddr map @marks accept @marks { 1.2.3.4 : 0x00000005 }"
    )
    translated = "dnat ip addr . port to tcp dport map @portmap"
    told = said(translated, "portmap", again, (0x0A000001, 8080), "", place=NAT)
    assert told == f"{translated} {{ 80 : 10.0.0.1 . 8080 }}"
    assert (
        said("tcp dport vmap { 80 : goto c2 }", "", again, Goto("c2"), "")
        == "tcp dport vmap { 80 : goto c2 } { 80 : goto c2 }"
    )
    assert said("ip saddr vmap @vm", "others", first, Goto("c2"), "") == "ip saddr vmap @vm"


def test_a_rule_behind_an_element_names_the_rule_that_asked() -> None:
    asked_by = ruled("ip saddr vmap @vm")
    told = said("reject", "vm", (0x01020304,), Goto("c2"), "", asked_by=asked_by)
    assert told == "reject, by @vm { 1.2.3.4 : goto c2 }"
    assert isinstance(asked_by.body[-1], Dispatch)


def test_a_command_stands_before_a_rule() -> None:
    reference = RuleReference(KEY, "c", 1, Rule(ruled("ip saddr 10.0.0.1 mark set 5").body))
    assert DIALECT.spell(reference, V4, Form.LISTED) == "add rule inet t c ip saddr 10.0.0.1 meta mark set 0x00000005"
    assert DIALECT.spell(reference, V4, Form.SENT) == "add rule inet t c ip saddr 10.0.0.1 mark set 0x00000005"


def test_odds_have_ten_places() -> None:
    assert DIALECT.probability(Rule(()), Chance(1 << 29), V4) == "0.2500000000"
