"""The iptables dialect against what the real tools printed (I-17, I-20, I-21), and its refusals."""

import math
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpsim.addresses import Family, Network, host_network
from kpsim.dialects.iptables import Style, parse, parse_rule, render_rule, render_ruleset, stored
from kpsim.dialects.iptables_parse import split_words
from kpsim.errors import InputError, UnsupportedRule
from kpsim.rules import (
    ACCEPT,
    DROP,
    RETURN,
    AddrType,
    Comment,
    CtState,
    Destination,
    DestinationPort,
    Dnat,
    Goto,
    IcmpType,
    InInterface,
    Jump,
    L4Module,
    Log,
    MarkMatch,
    Masquerade,
    Match,
    MultiPort,
    NfAcct,
    NoTrack,
    Origin,
    OutInterface,
    Protocol,
    Recent,
    Redirect,
    Reject,
    Role,
    Rule,
    SetMark,
    Snat,
    Source,
    SourcePort,
    Statement,
    Statistic,
    TcpFlags,
    Unknown,
    Verdict,
)

FIXTURES = Path(__file__).parent / "dialects"
V4, V6 = Family.IPV4, Family.IPV6
Part = Match | Statement


class Recorded(NamedTuple):
    """A rule as given to the real tool, and as it printed it."""

    family: Family
    table: str
    given: str
    saved: str


def recorded(name: str) -> list[Recorded]:
    rows = []
    for family in Family:
        table = given = ""
        for line in (FIXTURES / f"iptables_{name}_ipv{family.value}.txt").read_text().splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith("-A"):
                given = line
            elif line.startswith("> "):
                rows.append(Recorded(family, table, given, line[2:]))
    return rows


KUBE_PROXY_RULES = recorded("kube_proxy")
FORMS = recorded("forms")
RECORDED = KUBE_PROXY_RULES + FORMS


def of(row: Recorded, line: str) -> tuple[str, Rule]:
    return parse_rule(line, row.family, table=row.table)


def differences(rows: list[Recorded], attempt: Callable[[Recorded], tuple[object, object]]) -> Iterator[str]:
    for row in rows:
        got, wanted = attempt(row)
        if got != wanted:
            yield f"{row.given}\n  got:    {got}\n  wanted: {wanted}"


# --- one rule ----------------------------------------------------------------------------------------------------------


def test_save_style_is_what_iptables_save_printed() -> None:
    """I-17: every recorded form, given in kube-proxy's words or others', is rendered as the real tool showed it."""

    def attempt(row: Recorded) -> tuple[object, object]:
        chain, rule = of(row, row.given)
        return render_rule(chain, rule, Style.SAVE, row.family), row.saved

    assert list(differences(RECORDED, attempt)) == []


def test_saved_text_round_trips() -> None:
    def attempt(row: Recorded) -> tuple[object, object]:
        chain, rule = of(row, row.saved)
        return render_rule(chain, rule, Style.SAVE, row.family), row.saved

    assert list(differences(RECORDED, attempt)) == []


def test_saved_text_is_the_stored_form_of_the_given_rule() -> None:
    """What is read from a dump equals what is computed from kube-proxy's text, field by field."""

    def attempt(row: Recorded) -> tuple[object, object]:
        return of(row, row.saved)[1], stored(of(row, row.given)[1], row.family)

    assert list(differences(RECORDED, attempt)) == []


def test_kube_proxy_text_round_trips() -> None:
    """I-4, I-5, I-7, I-8, I-9, I-11: lines that kube-proxy 1.36.2 wrote, one of each shape."""

    def attempt(row: Recorded) -> tuple[object, object]:
        chain, rule = of(row, row.given)
        return render_rule(chain, rule, Style.KUBE_PROXY, row.family), row.given

    assert list(differences(KUBE_PROXY_RULES, attempt)) == []


def test_every_kube_proxy_rule_says_why_it_exists() -> None:
    assert [row.given for row in KUBE_PROXY_RULES if of(row, row.given)[1].origin.role is Role.FOREIGN] == []


def test_recordings_use_every_part_of_the_model() -> None:
    """Every kind of match and statement was compared with the real tools, but Unknown, which is ours."""
    kinds = {type(part) for row in RECORDED for part in of(row, row.given)[1].body}
    assert kinds == {*get_args(Match), *get_args(Statement)} - {Unknown}


@pytest.mark.parametrize(
    ("line", "body"),
    [
        (
            "-A C -m tcp -p tcp -d 172.30.0.1 --dport 80 ! -s 10.180.0.0/16 -j KUBE-MARK-MASQ",
            (
                L4Module("tcp"), Protocol("tcp"), Destination(host_network("172.30.0.1")), DestinationPort(80, 80),
                Source(Network(V4, 10 << 24 | 180 << 16, 16), negate=True), Jump("KUBE-MARK-MASQ"),
            ),
        ),
        ("-A C -p tcp --sport 1024: -g T", (Protocol("tcp"), L4Module("tcp"), SourcePort(1024, 65535), Goto("T"))),
        ("-A C -p ipv6-icmp -j DROP", (Protocol("icmpv6"), DROP)),
        ("-A C -p icmp --icmp-type 3/4", (Protocol("icmp"), IcmpType("icmp", 3, 4))),
        ("-A C -m mark ! --mark 0x4000/0x4000 -j RETURN", (MarkMatch(0x4000, 0x4000, negate=True), RETURN)),
        ("-A C -j MARK --or-mark 0x4000", (SetMark(0x4000, 0x4000, "or-mark"),)),
        ("-A C -j MARK --xor-mark 0x4000", (SetMark(0x4000, 0, "xor-mark"),)),
        ("-A C -j MARK --and-mark 0xffffbfff", (SetMark(0, 0x4000, "and-mark"),)),
        ("-A C -j MARK --set-mark 0x3/0x1", (SetMark(3, 3, "set-mark"),)),
        ("-A C -j MARK --set-xmark 0x3/0x1", (SetMark(3, 1),)),
        # K-5: round(p * 2^31)
        ("-A C -m statistic --mode random --probability 0.3333333333", (Statistic(715827883, "0.3333333333"),)),
        ("-A C -m statistic --mode random --probability 0.5", (Statistic(1 << 30, "0.5"),)),
        ("-A C -m recent --name L --rcheck --seconds 9 --reap", (Recent("L", "rcheck", 9, reap=True),)),
        ("-A C -j DNAT --to-destination :8080", (Dnat(V4, None, 8080),)),
        ("-A C -j SNAT --to-source 192.168.0.1:5-9", (Snat(V4, 192 << 24 | 168 << 16 | 1, 5, 9),)),
        ("-A C -j ACCEPT -m comment --comment late", (Comment("late"), ACCEPT)),
        ("[7:420] -A C -j ACCEPT -c 7 420", (ACCEPT,)),
        ("-A C -s 10.180.0.0/255.255.0.0", (Source(Network(V4, 10 << 24 | 180 << 16, 16)),)),
    ],
)  # fmt: skip
def test_meaning_of_words(line: str, body: tuple[Part, ...]) -> None:
    assert parse_rule(line, V4) == ("C", Rule(body))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('a "b c" d', ["a", "b c", "d"]),
        (r'"say \"hi\" it\'s \\"', ['say "hi" it\'s \\']),
        ('x"y z" w', ["xy z", "w"]),
        ('""', [""]),
        (r"a\b  'c d'", [r"a\b", "'c", "d'"]),
        ("\ta \t b", ["a", "b"]),
        ("no\u00a0break", ["no\u00a0break"]),
    ],
)
def test_words_as_iptables_restore_splits_them(line: str, words: list[str]) -> None:
    assert split_words(line) == words


# --- what is refused ---------------------------------------------------------------------------------------------------

NOT_MODELLED = [
    ("-m hashlimit --hashlimit-upto 5/sec --hashlimit-name x -j ACCEPT", "-m hashlimit"),
    ("-m limit --limit 5/min -j RETURN", "-m limit"),
    ("-m set --match-set peers src -j ACCEPT", "-m set"),
    ("-p tcp -m tcp --tcp-option 5", "-m tcp --tcp-option"),
    ("-m conntrack --ctproto tcp", "-m conntrack --ctproto"),
    ("-m addrtype --dst-type LOCAL --limit-iface-in", "-m addrtype --limit-iface-in"),
    ("-m addrtype --dst-type LOCAL,BROADCAST", "-m addrtype --dst-type with several types LOCAL,BROADCAST"),
    ("-m statistic --mode nth --every 3 --packet 0", "-m statistic --every"),
    ("-m statistic --mode random ! --probability 0.5", "-m statistic ! --probability"),
    ("-m recent --rcheck --name s --rdest", "-m recent --rdest"),
    ("-m recent --rcheck --name s --mask 255.255.255.0", "-m recent --mask 255.255.255.0"),
    ("-f", "-f"),
    ("-s 10.180.3.4/255.0.255.0", "netmask with a gap 10.180.3.4/255.0.255.0"),
    ("-s 10.180.0.1,10.180.0.2", "several addresses in one rule 10.180.0.1,10.180.0.2"),
    ("-j NFLOG --nflog-group 1", "-j NFLOG"),
    ("-j CONNMARK --save-mark", "-j CONNMARK"),
    ("-j CT --zone 1", "-j CT --zone"),
    ("-j CT", "-j CT without --notrack"),
    ("-j SNAT --to-source 10.180.0.3-10.180.0.5", "NAT to a range of addresses 10.180.0.3-10.180.0.5"),
    ("-p tcp -j DNAT --to-destination 10.180.0.3:80-90", "-j DNAT to a range of ports 10.180.0.3:80-90"),
    ("-p tcp -j REDIRECT --to-ports 8080-8090", "-j REDIRECT --to-ports 8080-8090"),
    ("-j KUBE-X --frobnicate", "-j KUBE-X --frobnicate"),
]


@pytest.mark.parametrize(("words", "name"), NOT_MODELLED)
def test_what_is_not_modelled_is_refused_by_name_and_place(words: str, name: str) -> None:
    with pytest.raises(UnsupportedRule) as caught:
        parse_rule(f"-A KUBE-SERVICES {words}", V4, table="", number=12, file="dump.txt", line_number=40)
    assert str(caught.value) == f"dump.txt:40: not modelled: {name} (/KUBE-SERVICES rule 12)"


@pytest.mark.parametrize(("words", "name"), NOT_MODELLED)
def test_what_is_not_modelled_can_be_kept(words: str, name: str) -> None:
    """Decision 9: kept words round-trip, and the rule has no statement that could be taken for true."""
    line = f"-A C -i eth0 {words}"
    chain, rule = parse_rule(line, V4, unknown="keep")
    assert rule.body[0] == InInterface("eth0")
    assert any(isinstance(part, Unknown) for part in rule.body), name
    again = render_rule(chain, rule, Style.KUBE_PROXY)
    assert parse_rule(again, V4, unknown="keep") == (chain, rule)
    if "tcp-option" not in words:  # -m tcp opens its own match, the option another
        assert sorted(again.replace("-m addrtype", "").split()) == sorted(line.replace("-m addrtype", "").split())


def test_kept_words_stand_behind_all_known_matches() -> None:
    line = '-A C -m limit --limit 5/min ! --x "a b" -d 10.180.0.3 -m comment --comment c -j DROP'
    assert parse_rule(line, V4, unknown="keep")[1].body == (
        Destination(host_network("10.180.0.3")), Comment("c"), Unknown('-m limit --limit 5/min ! --x "a b"'), DROP,
    )  # fmt: skip


def test_interface_limit_makes_the_address_type_unknown_too() -> None:
    """The option changes what the type beside it means, so that not even "no match" is certain."""
    line = "-A C -m addrtype ! --dst-type LOCAL --limit-iface-in -j DROP"
    assert parse_rule(line, V4, unknown="keep")[1].body == (
        Unknown("-m addrtype ! --dst-type LOCAL --limit-iface-in"), DROP,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-s 10.180.0.300", "not an IPv4 address: '10.180.0.300'"),
        ("-s fd00::1", "not an IPv4 address: 'fd00::1'"),
        ("-s 10.180.0.0/33", "prefix length over 32: '10.180.0.0/33'"),
        ("-s 10.180.0.1 -s 10.180.0.2", "-s is given twice"),
        ("-s", "-s needs a value"),
        ("-p quux", "not a protocol: 'quux'"),
        ("! -p all", "! -p all would never match"),
        ("--dport 80", "--dport needs -m tcp or -m udp or -m sctp"),
        ("-p tcp -m udp --dport 80", "-m udp needs -p udp"),
        ("-m tcp", "-m tcp needs -p tcp"),
        ("! -p tcp -m tcp --dport 1", "-m tcp needs -p tcp"),
        ("-p tcp --dport 80000", "not a port number: '80000'"),
        ("-p tcp --dport 90:80", "port range is backwards: '90:80'"),
        ("-m multiport --dports 80", "-m multiport needs -p tcp or udp or udplite or sctp or dccp"),
        ("-p tcp -m multiport --dports 1:2,3:4,5:6,7:8,9:10,11:12,13:14,15:16", "more than 15 ports"),
        ("-p tcp --tcp-flags SYN,FOO SYN", "not a TCP flag: 'FOO'"),
        ("--ctstate NEW", "--ctstate needs -m conntrack"),
        ("-m conntrack", "-m conntrack needs an option"),
        ("-m conntrack --ctstate FRESH", "not a state of -m conntrack: 'FRESH'"),
        ("-m state --state DNAT", "not a state of -m state: 'DNAT'"),
        ("-m mark --mark 0x1ffffffff", "over 4294967295: '0x1ffffffff'"),
        ("-m mark --mark x", "not a number: 'x'"),
        ("-m addrtype --dst-type HERE", "not an address type: 'HERE'"),
        ("-m statistic --mode random --probability 1.5", "not a probability from 0 to 1: '1.5'"),
        ("-m statistic --mode random", "--probability is missing"),
        ("-m recent --name x", "-m recent needs one of --set, --rcheck, --update, --remove"),
        ("-m recent --name x --rcheck --reap", "-m recent --reap needs --seconds"),
        ("-m comment --comment \"open", "a quote is not closed"),
        ("-j ACCEPT -j DROP", "more than one target"),
        ("-j REJECT --reject-with icmp6-no-route", "not a way to reject IPv4: 'icmp6-no-route'"),
        ("-j MARK", "-j MARK needs exactly one option"),
        ("-j MARK --or-mark 1/1", "--or-mark takes no mask: '1/1'"),
        ("-j DNAT", "--to-destination is missing"),
        ("-j DNAT --to-destination :", "neither address nor port: ':'"),
        ("-j ACCEPT stray", "unexpected word 'stray'"),
        ("-t nat -j ACCEPT", "-t has no place in a rule"),
        ("-i a-very-long-interface", "an interface name has 1 to 15 characters"),
    ],
)  # fmt: skip
def test_malformed_rules(words: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_rule(f"-A C {words}", V4, file="f", line_number=3)
    assert not isinstance(caught.value, UnsupportedRule)
    assert str(caught.value).startswith(f"f:3: {message}")


@pytest.mark.parametrize(
    ("table", "target"),
    [
        ("nat", "REJECT"), ("filter", "DNAT --to-destination 10.180.0.3"), ("filter", "MASQUERADE"), ("nat", "NOTRACK"),
    ],
)  # fmt: skip
def test_targets_stand_in_their_table_only(table: str, target: str) -> None:
    """K-3.5 for REJECT; the kernel checks NAT and CT targets alike."""
    with pytest.raises(InputError, match="is valid in table"):
        parse_rule(f"-A C -j {target}", V4, table=table)


# --- whole documents ---------------------------------------------------------------------------------------------------


def document(name: str) -> str:
    """A fixture without comment lines."""
    lines = (FIXTURES / f"{name}.txt").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))


#: I-3.1: what stands in the built-in chains after the first full sync, and the canaries of I-14
_PORTALS = "-m conntrack --ctstate NEW -m comment --comment"
ENSURED = {
    "filter": (
        ":KUBE-PROXY-CANARY - [0:0]",
        "-A INPUT -j KUBE-FIREWALL",
        f'-A INPUT {_PORTALS} "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL',
        '-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS',
        f'-A INPUT {_PORTALS} "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES',
        f'-A FORWARD {_PORTALS} "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL',
        '-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD',
        f'-A FORWARD {_PORTALS} "kubernetes service portals" -j KUBE-SERVICES',
        f'-A FORWARD {_PORTALS} "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES',
        "-A OUTPUT -j KUBE-FIREWALL",
        f'-A OUTPUT {_PORTALS} "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL',
        f'-A OUTPUT {_PORTALS} "kubernetes service portals" -j KUBE-SERVICES',
    ),
    "nat": (
        ":KUBE-PROXY-CANARY - [0:0]",
        '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
    ),
}


def with_ensured(text: str) -> str:
    for table, lines in ENSURED.items():
        head, found, tail = text.partition(f"*{table}\n")
        if found:
            text = head + found + tail.replace("COMMIT\n", "\n".join([*lines, "COMMIT", ""]), 1)
    return text


@pytest.mark.parametrize("name", ["cluster_ip", "load_balancer"])
def test_kube_proxys_document_becomes_the_listing_of_the_kernel(name: str) -> None:
    """I-20.3 and I-20.4 give I-20.6 and I-20.7; I-21.3 gives the nat table of I-21.4."""
    ruleset = parse(with_ensured(document(f"{name}_restore")), V4)
    assert render_ruleset(ruleset, Style.SAVE) == document(f"{name}_save")


def test_other_programs_document_becomes_the_listing_of_the_kernel() -> None:
    """Rules as docker, flannel, Calico and administrators write them, in all of raw, mangle, nat, filter."""
    assert render_ruleset(parse(document("foreign_restore"), V4), Style.SAVE) == document("foreign_save")


@pytest.mark.parametrize("name", ["cluster_ip", "load_balancer", "foreign"])
def test_saved_documents_round_trip(name: str) -> None:
    text = document(f"{name}_save")
    ruleset = parse(text, V4)
    assert render_ruleset(ruleset, Style.SAVE) == text
    again = parse(render_ruleset(ruleset, Style.KUBE_PROXY), V4)
    assert render_ruleset(again, Style.SAVE) == text


def test_counters_comments_and_line_ends_do_not_matter() -> None:
    plain = document("foreign_save")
    other = "# Generated by iptables-save v1.8.9\r\n\r\n" + plain.replace("-A ", "[12:3456] -A ").replace("\n", "\r\n")
    assert parse(other, V4) == parse(plain, V4)


def test_a_mentioned_table_has_all_its_built_in_chains() -> None:
    ruleset = parse("*nat\n:POSTROUTING DROP [1:2]\nCOMMIT\n", V4)
    assert render_ruleset(ruleset, Style.SAVE) == (
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING DROP [0:0]\nCOMMIT\n"
    )
    assert ruleset.chain("nat", "POSTROUTING").policy is Verdict.DROP
    assert list(ruleset.tables) == ["nat"]


def test_chosen_tables() -> None:
    ruleset = parse(document("foreign_save"), V4)
    text = render_ruleset(ruleset, Style.SAVE, tables=["nat", "raw"])
    assert [line for line in text.splitlines() if line.startswith("*")] == ["*nat", "*raw"]
    with pytest.raises(KeyError):
        render_ruleset(ruleset, Style.SAVE, tables=["security"])


def test_commands_of_a_restore_document() -> None:
    text = """\
*filter
-N A
-N B
-P FORWARD DROP
-A A -j DROP
-I A -j B
-I A 2 -j RETURN
-A B -j ACCEPT
-F B
:C - [0:0]
-X C
COMMIT
"""
    ruleset = parse(text, V4)
    assert [rule.target for rule in ruleset.chain("filter", "A").rules] == [Jump("B"), RETURN, DROP]
    assert ruleset.chain("filter", "B").rules == ()
    assert "C" not in ruleset.tables["filter"].chains
    assert ruleset.chain("filter", "FORWARD").policy is Verdict.DROP


def test_all_problems_of_a_file_at_once() -> None:
    text = """\
-A INPUT -j ACCEPT
*filter
:INPUT REJECT [0:0]
:MINE ACCEPT [0:0]
:OTHER - [0:0]
:OTHER - [0:0]
-A INPUT -s nowhere -j DROP
-A INPUT -m hashlimit --hashlimit-name x -j DROP
-A INPUT -j GONE
-A MISSING -j DROP
-A INPUT -j DNAT --to-destination 10.180.0.3
-D INPUT 1
-X INPUT
:this-name-has-twenty-nine-byte - [0:0]
*nat
-A OUTPUT -j ACCEPT
COMMIT
*quux
-A X -s nowhere
COMMIT
*nat
COMMIT
*raw
"""
    with pytest.raises(InputError) as caught:
        parse(text, V4, file="rules.txt")
    assert [str(problem).removeprefix("rules.txt:") for problem in caught.value.problems] == [
        "1: outside a table (*TABLE … COMMIT): -A INPUT -j ACCEPT",
        "2: table filter has no COMMIT",
        "3: not a policy (ACCEPT, DROP): REJECT",
        "4: only built-in chains have a policy, not MINE",
        "6: chain OTHER is declared twice",
        "7: not an IPv4 address: 'nowhere'",
        "8: not modelled: -m hashlimit (filter/INPUT rule 1)",
        "10: chain MISSING is not declared in table filter",
        "11: -j DNAT is valid in table nat only",
        "12: command not understood: -D",
        "13: chain INPUT cannot be deleted: it is built in or has rules",
        "14: not a chain name (1 to 28 characters): this-name-has-twenty-nine-byte",
        "18: not an iptables table: quux",
        "19: chain X is not declared in table quux",
        "21: table nat appears twice",
        "23: table raw has no COMMIT",
    ]


def test_a_jump_to_a_chain_that_is_not_declared() -> None:
    with pytest.raises(InputError) as caught:
        parse("*nat\n:A - [0:0]\n-A A -j RETURN\n-A A -g GONE\n-A A -j B\nCOMMIT\n", V4)
    assert [str(problem) for problem in caught.value.problems] == [
        ":4: chain GONE is not declared (nat/A rule 2)",
        ":5: chain B is not declared (nat/A rule 3)",
    ]


def test_rules_that_are_not_modelled_are_refused_together() -> None:
    filler = "-A KUBE-SERVICES -j RETURN\n" * 11
    text = (
        f"*nat\n:KUBE-SERVICES - [0:0]\n{filler}-A KUBE-SERVICES -m hashlimit --hashlimit-name x -j DROP\n"
        "-A OUTPUT -j RETURN\n-A OUTPUT -j TPROXY --on-port 1\nCOMMIT\n"
    )
    with pytest.raises(UnsupportedRule) as caught:
        parse(text, V4, file="dump")
    assert [str(problem) for problem in caught.value.problems] == [
        "dump:14: not modelled: -m hashlimit (nat/KUBE-SERVICES rule 12)",
        "dump:16: not modelled: -j TPROXY (nat/OUTPUT rule 2)",
    ]
    kept = parse(text, V4, unknown="keep")
    assert kept.chain("nat", "KUBE-SERVICES").rules[11].body == (Unknown("-m hashlimit --hashlimit-name x"), DROP)
    assert kept.chain("nat", "OUTPUT").rules[1].body == (Unknown("-j TPROXY --on-port 1"),)


# --- why a rule exists -------------------------------------------------------------------------------------------------


def origins(name: str, table: str, chain: str) -> list[Origin]:
    return [rule.origin for rule in parse(document(name), V4).chain(table, chain).rules]


def test_origins_of_a_saved_dump() -> None:
    """I-20.6 and I-20.7, the protocol of balancing rules taken from the dispatch rule that leads to them."""
    web, svc = "shop/web:http", "KUBE-SVC-67NZLRHBNDSAWJRO"
    assert origins("cluster_ip_save", "nat", svc) == [
        Origin(Role.MASQUERADE_CLUSTER_IP, web, "TCP"),
        Origin(Role.BALANCE, web, "TCP", "10.180.0.12:8080"),
        Origin(Role.BALANCE, web, "TCP", "10.180.0.3:8080"),
        Origin(Role.BALANCE, web, "TCP", "10.180.1.7:8080"),
    ]
    assert origins("cluster_ip_save", "nat", "KUBE-SEP-JQD5QAB7X3L27L5I") == [
        Origin(Role.HAIRPIN, web, "TCP", "10.180.0.3:8080"),
        Origin(Role.ENDPOINT, web, "TCP", "10.180.0.3:8080"),
    ]
    assert origins("cluster_ip_save", "nat", "KUBE-EXT-67NZLRHBNDSAWJRO") == [
        Origin(Role.MASQUERADE_EXTERNAL, web, "TCP"),
        Origin(Role.EXTERNAL_POLICY, web, "TCP"),
    ]
    assert origins("cluster_ip_save", "nat", "KUBE-NODEPORTS") == [Origin(Role.NODE_PORT, web, "TCP")] * 2
    assert [origin.role for origin in origins("cluster_ip_save", "nat", "KUBE-SERVICES")] == [
        Role.CLUSTER_IP, Role.CLUSTER_IP, Role.CLUSTER_IP, Role.NODE_PORTS,
    ]  # fmt: skip
    assert [origin.role for origin in origins("cluster_ip_save", "filter", "KUBE-FORWARD")] == [
        Role.INVALID_DROP, Role.FORWARD_ACCEPT, Role.FORWARD_CONNTRACK,
    ]  # fmt: skip
    assert origins("cluster_ip_save", "filter", "KUBE-SERVICES") == [Origin(Role.NO_ENDPOINTS, "shop/empty", "TCP")]
    assert origins("cluster_ip_save", "filter", "KUBE-FIREWALL") == [Origin(Role.LOCALNET_FIREWALL)]
    assert set(origins("cluster_ip_save", "filter", "INPUT")) == {Origin(Role.JUMP)}


def test_origins_of_a_load_balancer() -> None:
    """I-21.4."""
    edge = "prod/edge:https"
    assert [origin.role for origin in origins("load_balancer_save", "nat", "KUBE-EXT-DP2MXYD5GNOSPYYK")] == [
        Role.SHORT_CIRCUIT_POD, Role.MASQUERADE_EXTERNAL, Role.SHORT_CIRCUIT_LOCAL, Role.EXTERNAL_POLICY,
    ]  # fmt: skip
    assert origins("load_balancer_save", "nat", "KUBE-FW-DP2MXYD5GNOSPYYK") == [
        *[Origin(Role.SOURCE_RANGE, edge, "TCP")] * 3,
        Origin(Role.SOURCE_RANGE_DROP, edge, "TCP"),
    ]
    assert origins("load_balancer_save", "nat", "KUBE-SVL-DP2MXYD5GNOSPYYK") == [
        Origin(Role.AFFINITY, edge, "TCP", "10.180.0.21:8443"),
        Origin(Role.BALANCE, edge, "TCP", "10.180.0.21:8443"),
    ]


def test_origins_without_comments() -> None:
    """I-12.3: in large-cluster mode the balancing and endpoint rules have none; the jumps still tell whose they are."""
    text = re.sub(r' -m comment --comment "(shop/web:http|\S+ -> \S+)"', "", document("cluster_ip_save"))
    assert " -> " not in text
    with_comments, without = parse(document("cluster_ip_save"), V4), parse(text, V4)
    for chain in ("KUBE-SVC-67NZLRHBNDSAWJRO", "KUBE-SEP-JQD5QAB7X3L27L5I"):
        before, after = with_comments.chain("nat", chain).rules, without.chain("nat", chain).rules
        assert [rule.origin for rule in after] == [rule.origin for rule in before]


def test_other_peoples_rules_are_foreign() -> None:
    ruleset = parse(document("foreign_save"), V4)
    assert {rule.origin for table in ruleset.tables.values() for chain in table.ordered() for rule in chain.rules} == {
        Origin(Role.FOREIGN)
    }


# --- any rule ----------------------------------------------------------------------------------------------------------

PORTS = st.integers(0, 0xFFFF)
RANGES = st.tuples(PORTS, PORTS).map(lambda pair: (min(pair), max(pair)))
WORDS = st.text("ABCabc019-_", min_size=1, max_size=12).filter(lambda word: word[0] not in "-")
MARKS = st.integers(0, 0xFFFFFFFF)
TEXTS = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=40)


def networks(family: Family) -> st.SearchStrategy[Network]:
    def build(address: int, prefix: int, bare: bool) -> Network:
        prefix = family.bits if bare else prefix
        mask = (1 << family.bits) - (1 << (family.bits - prefix))
        return Network(family, address & mask, prefix, bare)

    return st.builds(build, addresses(family), st.integers(0, family.bits), st.booleans())


def addresses(family: Family) -> st.SearchStrategy[int]:
    return st.integers(1 << 32 if family is V6 else 0, (1 << family.bits) - 1)


def matches(family: Family) -> list[st.SearchStrategy[Any]]:
    return [
        st.builds(Comment, TEXTS),
        st.builds(CtState, st.sampled_from(["NEW", "INVALID", "RELATED", "ESTABLISHED"]).map(lambda s: (s,)), st.booleans(),
                  st.sampled_from(["conntrack", "state"])),
        st.builds(CtState, st.permutations(["NEW", "DNAT", "SNAT"]).map(tuple), st.booleans()),
        st.builds(MarkMatch, MARKS, MARKS, st.booleans()),
        st.builds(AddrType, st.sampled_from(["src", "dst"]), st.sampled_from(["LOCAL", "UNICAST"]), st.booleans()),
        st.builds(Recent, WORDS, st.sampled_from(["set", "update", "rcheck", "remove"]), st.just(60), st.booleans(),
                  st.none() | st.integers(1, 20), st.booleans()),
        st.integers(0, 10**10).map(
            lambda n: Statistic(math.floor(Fraction(n, 10**10) * 2**31 + Fraction(1, 2)), f"{n // 10**10}.{n % 10**10:010d}")
        ),
        st.builds(NfAcct, WORDS),
    ]  # fmt: skip


def statements(family: Family) -> st.SearchStrategy[Any]:
    rejects = ["icmp-host-prohibited", "tcp-reset"] if family is V4 else ["icmp6-no-route", "tcp-reset"]
    return st.one_of(
        st.sampled_from([ACCEPT, DROP, RETURN, NoTrack("CT"), NoTrack("NOTRACK"), Log(), Log("--log-prefix a --log-level 7")]),
        st.builds(Jump, WORDS.map(lambda word: f"KUBE-{word}")),
        st.builds(Goto, WORDS.map(lambda word: f"KUBE-{word}")),
        st.builds(Reject, st.none() | st.sampled_from(rejects)),
        st.builds(Dnat, st.just(family), addresses(family), st.none() | PORTS, st.booleans(), st.booleans()),
        st.builds(Dnat, st.just(family), st.none(), PORTS),
        st.builds(lambda a, r, x, y: Snat(family, a, *r, x, y), addresses(family), st.just((None, None)) | RANGES,
                  st.booleans(), st.booleans()),
        st.builds(lambda r, x, y: Masquerade(x, y, *r), st.just((None, None)) | RANGES, st.booleans(), st.booleans()),
        st.builds(Redirect, st.none() | PORTS),
        st.builds(lambda value: SetMark(value, value, "or-mark"), MARKS),
        st.builds(lambda value: SetMark(value, 0, "xor-mark"), MARKS),
        st.builds(lambda mask: SetMark(0, mask, "and-mark"), MARKS),
        st.builds(lambda value, mask: SetMark(value, mask | value, "set-mark"), MARKS, MARKS),
        st.builds(SetMark, MARKS, MARKS),
    )  # fmt: skip


@st.composite
def rules(draw: st.DrawFn, family: Family) -> Rule:
    """Any rule the kernel would take: header options once, ports behind their module, at most one statement, last."""
    negate = st.booleans()
    parts: list[Any] = draw(st.lists(st.one_of(matches(family)), max_size=3))
    for header in (
        st.builds(Source, networks(family), negate),
        st.builds(Destination, networks(family), negate),
        st.builds(InInterface, WORDS, negate),
        st.builds(OutInterface, WORDS.map(lambda name: f"{name}+"), negate),
    ):
        parts += draw(st.lists(header, max_size=1))
    protocol = draw(st.sampled_from(["", "tcp", "udp", "sctp", "icmp"]))
    ports: list[Any] = []
    if protocol == "icmp":
        name, module = ("icmp", "icmp") if family is V4 else ("icmpv6", "icmp6")
        ports = [IcmpType(module, draw(st.integers(0, 255)), draw(st.none() | st.integers(0, 255)), draw(negate))]
        parts.append(Protocol(name))
    elif protocol:
        parts += [Protocol(protocol), L4Module(protocol)]
        ports += draw(st.lists(st.builds(lambda r, n: SourcePort(*r, n), RANGES, negate), max_size=1))
        ports += draw(st.lists(st.builds(lambda r, n: DestinationPort(*r, n), RANGES, negate), max_size=1))
        sides = st.sampled_from(["sports", "dports", "ports"])
        many = st.lists(RANGES, min_size=1, max_size=7).map(tuple)
        ports += draw(st.lists(st.builds(MultiPort, sides, many, negate), max_size=1))
        if protocol == "tcp":
            flags = st.frozensets(st.sampled_from(["SYN", "ACK", "FIN", "RST", "PSH", "URG"]))
            ports += draw(st.lists(st.builds(TcpFlags, flags, flags, negate), max_size=1))
    statement = draw(st.lists(statements(family), max_size=1))
    return Rule((*draw(st.permutations(parts)), *draw(st.permutations(ports)), *statement))


@pytest.mark.parametrize("family", Family)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_rule_survives_both_styles(family: Family, data: st.DataObject) -> None:
    rule = data.draw(rules(family))
    line = render_rule("C", rule, Style.KUBE_PROXY, family)
    assert parse_rule(line, family) == ("C", rule)
    saved = render_rule("C", rule, Style.SAVE, family)
    kept = stored(rule, family)
    assert parse_rule(saved, family) == ("C", kept)
    assert stored(kept, family) == kept
    assert parse_rule(render_rule("C", kept, Style.KUBE_PROXY, family), family) == ("C", kept)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('-AmjpsdC!:"\\ /0x1.,tcp'), max_size=40), st.booleans())
def test_nonsense_is_an_input_error(text: str, keep: bool) -> None:
    """Whatever stands there, the answer is a rule or an InputError."""
    try:
        chain, _ = parse_rule(f"-A C {text}", V4, unknown="keep" if keep else "refuse")
    except InputError:
        return
    assert chain == "C"
