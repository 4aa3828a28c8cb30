"""The iptables dialect against what the real tools printed (I-17, I-20, I-21), and its refusals."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rules import any_world, rules
from rule_parts import address_type, ct_state, of_protocol, source_port, to_net

from kpsim.addresses import Family, host_network
from kpsim.dialects.iptables import Style, parse, parse_rule, render_rule, render_ruleset
from kpsim.dialects.iptables.options import ROWS
from kpsim.dialects.iptables.spelling import Spelling
from kpsim.errors import InputError, UnsupportedRule
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    RETURN,
    Compare,
    Counter,
    Dnat,
    EitherPort,
    Field,
    Jump,
    Limit,
    Masquerade,
    Reject,
    Role,
    Rule,
    SetTimeToLive,
    Unknown,
    Unmodelled,
    Verdict,
    make_ipset,
)

FIXTURES = Path(__file__).parent / "dialects"
V4, V6 = Family.IPV4, Family.IPV6


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


#: the ipsets that there were when the forms were recorded
IPSETS = {
    each.name: each
    for each in (
        make_ipset("peers", "hash:net", V4),
        make_ipset("services", "hash:ip,port", V4),
        make_ipset("KUBE-6-CLUSTER-IP", "hash:ip,port", V6),
        make_ipset("ports", "bitmap:port"),
    )
}


def of(row: Recorded, line: str) -> tuple[str, Rule]:
    return parse_rule(line, row.family, table=row.table, ipsets=IPSETS)


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


def test_saved_text_means_what_the_given_rule_means() -> None:
    """What is read from a dump equals what is read from kube-proxy's text: only the spelling differs."""

    def attempt(row: Recorded) -> tuple[object, object]:
        return of(row, row.saved)[1], of(row, row.given)[1]

    assert list(differences(RECORDED, attempt)) == []


def test_kube_proxy_text_round_trips() -> None:
    """I-4, I-5, I-7, I-8, I-9, I-11: lines that kube-proxy 1.36.2 wrote, one of each shape."""

    def attempt(row: Recorded) -> tuple[object, object]:
        chain, rule = of(row, row.given)
        return render_rule(chain, rule, Style.KUBE_PROXY, row.family), row.given

    assert list(differences(KUBE_PROXY_RULES, attempt)) == []


def test_every_kube_proxy_rule_says_why_it_exists() -> None:
    assert [row.given for row in KUBE_PROXY_RULES if of(row, row.given)[1].origin.role is Role.FOREIGN] == []


def test_recordings_use_every_option() -> None:
    """Every option that is written was compared with the real tools, but what is not modelled, and -m ipvs: no kernel at hand
    has it.
    """
    assert {piece.row.name for row in RECORDED for piece in pieces(row)} == {
        name for name, row in ROWS.items() if row.module != "ipvs"
    } - {"unknown", "unknown target", "harmless target"}


@pytest.mark.parametrize(
    ("given", "saved"),
    [
        ("--vaddr 203.0.113.50 --vproto tcp --vport 8080", "--vproto 6 --vaddr 203.0.113.50 --vport 8080"),
        ("! --ipvs", "! --ipvs"),
        ("--vaddr 10.0.0.0/8 ! --vport 80 --vdir reply --vmethod masq", "--vaddr 10.0.0.0/8 ! --vport 80 --vdir REPLY --vmethod MASQ"),
        ("! --vproto 17", "! --vproto 17"),
    ],
)  # fmt: skip
def test_what_a_rule_asks_of_ip_vs(given: str, saved: str) -> None:
    """iptables-extensions(8), ipvs; not compared with the tool. Options of one ``-m`` stay in one."""
    chain, rule = parse_rule(f"-A C -m ipvs {given} -j DROP", V4)
    assert render_rule(chain, rule, Style.SAVE, V4) == f"-A C -m ipvs {saved} -j DROP"
    assert parse_rule(f"-A C -m ipvs {saved} -j DROP", V4) == (chain, rule)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--vproto all", "not the protocol of a virtual server: 'all'"),
        ("--vdir up", "not a direction (ORIGINAL, REPLY): up"),
        ("--vmethod NAT", "not a way of forwarding (GATE, IPIP, MASQ): NAT"),
        ("--vport 1:2", "not a port"),
        ("--vportctl 21", "not modelled: -m ipvs --vportctl"),
    ],
)
def test_what_is_no_question_to_ip_vs(words: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_rule(f"-A C -m ipvs {words}", V4)
    assert why in str(caught.value)


def pieces(row: Recorded) -> tuple:
    spelling = of(row, row.given)[1].spelling
    assert isinstance(spelling, Spelling)
    return spelling.written


def test_one_addrtype_module_holds_both_sides_wherever_they_stand() -> None:
    """Both sides belong to the module that is open, and iptables-save prints the source first."""
    chain, rule = parse_rule("-A C -m addrtype ! --dst-type LOCAL -s 10.180.0.3 --src-type LOCAL -j DROP", V4)
    assert render_rule(chain, rule, Style.KUBE_PROXY, V4) == (
        "-A C -m addrtype ! --dst-type LOCAL -s 10.180.0.3 --src-type LOCAL -j DROP"
    )
    assert render_rule(chain, rule, Style.SAVE, V4) == (
        "-A C -s 10.180.0.3/32 -m addrtype --src-type LOCAL ! --dst-type LOCAL -j DROP"
    )


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
    assert [str(key) for key in ruleset.tables] == ["nat"]


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
    assert "C" not in ruleset.table("filter").chains
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
        "9: chain GONE is not declared (filter/INPUT rule 2)",
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
        f"*nat\n:KUBE-SERVICES - [0:0]\n{filler}-A KUBE-SERVICES -m hashlimit --hashlimit-name x -j ACCEPT\n"
        "-A OUTPUT -j RETURN\n-A OUTPUT -j TPROXY --on-port 1\nCOMMIT\n"
    )
    with pytest.raises(UnsupportedRule) as caught:
        parse(text, V4, file="dump")
    assert [str(problem) for problem in caught.value.problems] == [
        "dump:14: not modelled: -m hashlimit (nat/KUBE-SERVICES rule 12)",
        "dump:16: not modelled: -j TPROXY (nat/OUTPUT rule 2)",
    ]
    kept = parse(text, V4, unknown="keep")
    assert kept.chain("nat", "KUBE-SERVICES").rules[11].body == (Unknown("-m hashlimit --hashlimit-name x"), ACCEPT)
    assert kept.chain("nat", "OUTPUT").rules[1].body == (Unmodelled("-j TPROXY --on-port 1"),)


# --- any rule ----------------------------------------------------------------------------------------------------------

SHARING = {
    "addrtype": ("--src-type LOCAL", "! --dst-type UNICAST,LOCAL"),
    "iprange": ("! --src-range 10.180.0.1-10.180.0.9", "--dst-range 10.180.0.1-10.180.0.9"),
    "conntrack": ("--ctstate NEW", "! --ctorigdst 172.30.0.0/16", "--ctorigdstport 80:90", "--ctdir ORIGINAL"),
}


@pytest.mark.parametrize(
    ("module", "groups"),
    [
        (module, groups)
        for module, options in SHARING.items()
        for groups in itertools.product(
            [*itertools.permutations(options, 1), *itertools.permutations(options, 2)], repeat=2
        )
    ],
)
def test_options_of_a_module_stay_together(module: str, groups: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    """Measured: iptables-save prints each ``-m`` with its own options, in an order of its own; the meaning is the same."""
    line, saved = (
        "-A C " + " -m comment --comment x ".join(f"-m {module} {' '.join(options)}" for options in each) + " -j DROP"
        for each in (groups, tuple(tuple(sorted(options, key=SHARING[module].index)) for options in groups))
    )
    chain, rule = parse_rule(line, V4)
    assert render_rule(chain, rule, Style.KUBE_PROXY, V4) == line
    assert render_rule(chain, rule, Style.SAVE, V4) == saved
    again = parse_rule(saved, V4)[1]
    assert render_rule(chain, again, Style.SAVE, V4) == saved
    assert sorted(map(repr, again.body)) == sorted(map(repr, rule.body))


@pytest.mark.parametrize("family", Family)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_rule_survives_both_styles(family: Family, data: st.DataObject) -> None:
    table, chain = data.draw(
        st.sampled_from([("nat", "PREROUTING"), ("nat", "POSTROUTING"), ("filter", "A"), ("raw", "A"), ("mangle", "A")])
    )
    rule = data.draw(rules(any_world(family), table, chain))
    for style in Style:
        line = render_rule("C", rule, style, family)
        read = parse_rule(line, family)[1]
        assert read == rule
        assert render_rule("C", read, style, family) == line


#: what kube-proxy or another dialect says, and how iptables says it
CANONICAL = [
    (V4, (to_net(host_network("172.30.0.10")), of_protocol("tcp"), source_port(80, 81), DROP),
     "-d 172.30.0.10/32 -p tcp -m tcp --sport 80:81 -j DROP"),
    (V4, (of_protocol("tcp"), Compare(Field.DPORT, ((80, 80), (443, 443))), ACCEPT),
     "-p tcp -m multiport --dports 80,443 -j ACCEPT"),
    (V4, (of_protocol("udplite"), EitherPort(((53, 53),)), DROP), "-p udplite -m multiport --ports 53 -j DROP"),
    (V4, (Compare(Field.SADDR, ((1, 9),), negate=True), DROP), "-m iprange ! --src-range 0.0.0.1-0.0.0.9 -j DROP"),
    (V4, (ct_state("NEW", "DNAT"), address_type("src", "LOCAL"), RETURN),
     "-m conntrack --ctstate NEW,DNAT -m addrtype --src-type LOCAL -j RETURN"),
    (V6, (Compare(Field.TTL, ((0, 63),)), SetTimeToLive("set", 64)), "-m hl --hl-lt 64 -j HL --hl-set 64"),
    (V6, (of_protocol("icmpv6"), Compare(Field.ICMP_TYPE, ((128, 128),)), Reject()),
     "-p ipv6-icmp -m icmp6 --icmpv6-type 128 -j REJECT --reject-with icmp6-port-unreachable"),
    (V6, (Counter("seen"), Limit(1, "hour"), Dnat(1, 80)),
     "-m nfacct --nfacct-name  seen -m limit --limit 1/hour -j DNAT --to-destination [::1]:80"),
    (V4, (Masquerade(),), "-j MASQUERADE"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "body", "text"), CANONICAL)
def test_a_rule_from_elsewhere_has_a_canonical_spelling(family: Family, body: tuple, text: str) -> None:
    rule = Rule(body)
    assert render_rule("C", rule, Style.SAVE, family) == f"-A C {text}"
    assert parse_rule(f"-A C {text}", family)[1] == rule


def test_what_iptables_cannot_say_is_an_error() -> None:
    """A comparison of TCP flags needs a mask of those that iptables knows."""
    with pytest.raises(ValueError, match="cannot say"):
        render_rule("C", Rule((Compare(Field.TCP_FLAGS, ((2, 2),), mask=0x80), DROP)), Style.SAVE, V4)
