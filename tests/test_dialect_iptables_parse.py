"""Words of one iptables rule: what they mean, and what is refused by name."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_parts import (
    destination_port,
    from_net,
    icmp_type,
    in_interface,
    marked,
    of_protocol,
    set_mark,
    source_port,
    to_net,
)

from kpsim.addresses import Family, Network, host_network
from kpsim.dialects.iptables import Style, parse_rule, render_rule
from kpsim.dialects.iptables.rules import split_words
from kpsim.errors import InputError, UnsupportedRule
from kpsim.ruleset import (
    ACCEPT,
    DROP,
    RETURN,
    Adjust,
    Chance,
    Compare,
    Counter,
    Dnat,
    Field,
    Goto,
    Jump,
    Log,
    Recent,
    Snat,
    Unknown,
    Unmodelled,
    moves_nothing,
)

V4 = Family.IPV4


@pytest.mark.parametrize(
    ("line", "body"),
    [
        (
            "-A C -m tcp -p tcp -d 172.30.0.1 --dport 80 ! -s 10.180.0.0/16 -j KUBE-MARK-MASQ",
            (
                from_net(Network(V4, 10 << 24 | 180 << 16, 16), negate=True), to_net(host_network("172.30.0.1")),
                of_protocol("tcp"), destination_port(80, 80), Jump("KUBE-MARK-MASQ"),
            ),
        ),
        ("-A C -p tcp --sport 1024: -g T", (of_protocol("tcp"), source_port(1024, 65535), Goto("T"))),
        ("-A C -p ipv6-icmp -j DROP", (of_protocol("icmpv6"), DROP)),
        ("-A C -p icmp --icmp-type 3/4", (of_protocol("icmp"), icmp_type(3, 4))),
        ("-A C -m mark ! --mark 0x4000/0x4000 -j RETURN", (marked(0x4000, 0x4000, negate=True), RETURN)),
        ("-A C -j MARK --or-mark 0x4000", (set_mark(0x4000, 0x4000),)),
        ("-A C -j MARK --xor-mark 0x4000", (set_mark(0x4000, 0),)),
        ("-A C -j MARK --and-mark 0xffffbfff", (set_mark(0, 0x4000),)),
        ("-A C -j MARK --set-mark 0x3/0x1", (set_mark(3, 3),)),
        ("-A C -j MARK --set-xmark 0x3/0x1", (set_mark(3, 1),)),
        # K-5: round(p * 2^31)
        ("-A C -m statistic --mode random --probability 0.3333333333", (Chance(715827883),)),
        ("-A C -m statistic --mode random --probability 0.5", (Chance(1 << 30),)),
        ("-A C -m recent --name L --rcheck --seconds 9 --reap", (Recent("L", "rcheck", 9, reap=True),)),
        ("-A C -j DNAT --to-destination :8080", (Dnat(None, 8080),)),
        ("-A C -j SNAT --to-source 192.168.0.1:5-9", (Snat(192 << 24 | 168 << 16 | 1, (5, 9)),)),
        ("[7:420] -A C -j ACCEPT -c 7 420", (ACCEPT,)),
        ("-A C -s 10.180.0.0/255.255.0.0", (from_net(Network(V4, 10 << 24 | 180 << 16, 16)),)),
    ],
)  # fmt: skip
def test_meaning_of_words(line: str, body: tuple) -> None:
    chain, rule = parse_rule(line, V4)
    assert (chain, rule.body, rule.comment) == ("C", body, "")


def test_an_option_is_evaluated_with_its_module_wherever_it_is_written() -> None:
    """A port belongs to ``-m udp``: what stands behind that module, here a counter, sees the packets of the port only."""
    body = parse_rule("-A C -p udp -m udp -m nfacct --nfacct-name x --dport 53 -s 10.180.0.3", V4)[1].body
    assert body == (
        from_net(host_network("10.180.0.3")), of_protocol("udp"), destination_port(53, 53), Counter("x"),
    )  # fmt: skip


def test_a_comment_is_no_part_of_the_body() -> None:
    rule = parse_rule("-A C -j ACCEPT -m comment --comment late -m comment --comment later", V4)[1]
    assert (rule.body, rule.comment) == ((ACCEPT,), "late")
    assert (
        render_rule("C", rule, Style.KUBE_PROXY, V4)
        == "-A C -m comment --comment late -m comment --comment later -j ACCEPT"
    )


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
    ("-m connlimit --connlimit-above 3 -j DROP", "-m connlimit"),
    ("-m mac --mac-source 02:00:00:00:00:01 -j ACCEPT", "-m mac"),
    ("-m owner --gid-owner 0 --suppl-groups -j ACCEPT", "-m owner --suppl-groups"),
    ("-m socket --restore-skmark -j ACCEPT", "-m socket --restore-skmark"),
    ("-m time --timestart 10:00 -j ACCEPT", "-m time"),
    ("-m policy --dir in --pol ipsec -j ACCEPT", "-m policy"),
    ("-m string --string x --algo bm -j DROP", "-m string"),
    (
        "-m set --match-set peers src -j ACCEPT",
        "-m set --match-set peers src: what is in the set is not known (ipset save gives it)",
    ),
    ("-m set --match-set peers src --return-nomatch", "-m set --return-nomatch"),
    ("-m set --match-set peers src --packets-gt 3", "-m set --packets-gt"),
    ("-p tcp -m tcp --tcp-option 5", "-m tcp --tcp-option"),
    ("-m conntrack --ctproto tcp", "-m conntrack --ctproto"),
    ("-m statistic --mode nth --every 3 --packet 0", "-m statistic --every"),
    ("-m statistic --mode random ! --probability 0.5", "-m statistic ! --probability"),
    ("-m recent --rcheck --name s --rdest", "-m recent --rdest"),
    ("-m recent --rcheck --name s --mask 255.255.255.0", "-m recent --mask 255.255.255.0"),
    ("-f", "-f"),
    ("-s 10.180.3.4/255.0.255.0", "netmask with a gap 10.180.3.4/255.0.255.0"),
    ("-j NFQUEUE --queue-num 1", "-j NFQUEUE"),
    ("-j TPROXY --on-port 1", "-j TPROXY"),
    ("-j CT --zone 1", "-j CT --zone"),
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
    assert rule.body[0] == in_interface("eth0")
    assert any(isinstance(part, Unknown | Unmodelled) for part in rule.body), name
    again = render_rule(chain, rule, Style.KUBE_PROXY, V4)
    assert parse_rule(again, V4, unknown="keep") == (chain, rule)
    if "tcp-option" not in words and "suppl" not in words:  # -m tcp opens its own match, the option another
        assert sorted(again.split()) == sorted(line.split())


def test_kept_words_stand_behind_all_known_matches() -> None:
    line = '-A C -m hashlimit --limit 5/min ! --x "a b" -d 10.180.0.3 -m comment --comment c -j DROP'
    rule = parse_rule(line, V4, unknown="keep")[1]
    unknown = Unknown('-m hashlimit --limit 5/min ! --x "a b"')
    assert (rule.body, rule.comment) == ((to_net(host_network("10.180.0.3")), unknown, DROP), "c")


def test_an_interface_limit_changes_the_types_of_its_own_module_only() -> None:
    """K-20.4: the rule of Calico asks for the type at the output interface first, then for the type anywhere."""
    line = "-A C -o tunl0 -m addrtype ! --src-type LOCAL --limit-iface-out -m addrtype --src-type LOCAL -j DROP"
    chain, rule = parse_rule(line, V4)
    local = frozenset({"LOCAL"})
    assert rule.body[1:3] == (Compare(Field.SADDR_TYPE_OUT, local, True), Compare(Field.SADDR_TYPE, local))
    assert render_rule(chain, rule, Style.SAVE, V4) == line


def test_a_target_that_lets_the_packet_go_on_unchanged_is_kept_as_harmless() -> None:
    for words in ("-j SECMARK --selctx x", "-j SET --add-set s src", "-j TEE --gateway 10.0.0.1"):
        with pytest.raises(UnsupportedRule, match=words.split()[1]):
            parse_rule(f"-A C {words}", V4)
        rule = parse_rule(f"-A C {words}", V4, unknown="keep")[1]
        assert moves_nothing(rule.body) and render_rule("C", rule, Style.SAVE, V4) == f"-A C {words}"


@pytest.mark.parametrize("words", ["--helper ftp", "--timeout slow", "--ctevents new,destroy", ""])
def test_a_helper_a_timeout_and_events_decide_nothing(words: str) -> None:
    chain, rule = parse_rule(f"-A PREROUTING -p tcp -j CT {words}".rstrip(), V4, table="raw")
    assert rule.body[1:] == (Adjust("CT", words),)
    assert render_rule(chain, rule, Style.SAVE, V4) == f"-A PREROUTING -p tcp -j CT {words}".rstrip()


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
        ("-p tcp --dport 80000", "not a port number (0 to 65535): '80000'"),
        ("-p tcp --dport 90:80", "port range is backwards: '90:80'"),
        ("-m multiport --dports 80", "-p stands before --dports"),
        ("-p gre -m multiport --dports 80", "-m multiport needs -p tcp or udp or udplite or sctp or dccp"),
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
        ("-j KUBE-X --frobnicate", "-j KUBE-X has no option --frobnicate"),
        ("--frobnicate", "a rule has no option --frobnicate"),
        ("-m nonsense -j LOG", "iptables has no match -m nonsense"),
        ("-p tcp --dport http", "not a port number (names of services depend on the machine): 'http'"),
        ("-m owner --uid-owner root", "not a number of a user (names depend on the machine): 'root'"),
        ("-d ! 10.0.0.0/8", "iptables refuses a ! behind its option: write ! -d 10.0.0.0/8"),
        ("! -s 10.0.0.1,10.0.0.2", "! -s goes with single addresses or networks only"),
        ("-s 010.0.0.1", "a part of the address begins with 0, which iptables reads as octal"),
        ("-m recent --set --seconds 9", "-m recent --set takes neither --seconds nor --hitcount"),
        ("-m ttl --ttl-eq 1 --ttl-lt 2", "-m ttl takes one option, not --ttl-eq and --ttl-lt"),
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


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from('-AmjpsdC!:"\\ /0x1.,tcp'), max_size=40), st.booleans())
def test_nonsense_is_an_input_error(text: str, keep: bool) -> None:
    """Whatever stands there, the answer is a rule or an InputError."""
    try:
        chain, _ = parse_rule(f"-A C {text}", V4, unknown="keep" if keep else "refuse")
    except InputError:
        return
    assert chain == "C"


def test_a_rule_that_only_logs_may_ask_what_nobody_models() -> None:
    """As host firewalls do; whether it logs makes no difference to the packet, unless it remembers or counts."""
    line = '-A C -m cpu --cpu 0 -j LOG --log-prefix "[UFW BLOCK] "'
    _, rule = parse_rule(line, Family.IPV4)
    assert rule.body == (Unknown("-m cpu --cpu 0"), Log('--log-prefix "[UFW BLOCK] "'))
    _, rule = parse_rule("-A C -p tcp -m tcpmss --mss 1400: -j TCPMSS --clamp-mss-to-pmtu", Family.IPV4)
    assert rule.body[1:] == (Unknown("-m tcpmss --mss 1400:"), Adjust("TCPMSS", "--clamp-mss-to-pmtu"))
    for refused in (
        "-A C -m cpu --cpu 0 -j DROP",
        "-A C -m cpu --cpu 0",
        "-A C -m cpu --cpu 0 -m recent --name x --set -j LOG",
    ):
        with pytest.raises(UnsupportedRule, match="-m cpu"):
            parse_rule(refused, Family.IPV4)
