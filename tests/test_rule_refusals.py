"""What iptables and the kernel refuse (K-20.5): each case was compared with iptables 1.8.9, over nf_tables and legacy."""

import pytest

from kpsim.addresses import Family
from kpsim.dialects.iptables import Style, parse, render_ruleset
from kpsim.dialects.iptables.values import ADDRESS_TYPES
from kpsim.errors import InputError
from kpsim.ruleset import Compare

V4, V6 = Family.IPV4, Family.IPV6


def problems(text: str, family: Family = V4) -> list[str]:
    try:
        parse(text, family)
    except InputError as error:
        return [problem.message for problem in error.problems]
    return []


def refusal(table: str, rule: str, family: Family = V4) -> str:
    """Why a rule is refused in a table with two chains of its own; empty: it is taken."""
    return "; ".join(problems(f"*{table}\n:A - [0:0]\n:B - [0:0]\n{rule}\nCOMMIT\n", family))


@pytest.mark.parametrize(
    ("table", "rule", "words"),
    [
        ("filter", "-A OUTPUT -i eth0 -j ACCEPT", "-i cannot be used in OUTPUT"),
        ("nat", "-A POSTROUTING ! -i eth0 -j ACCEPT", "-i cannot be used in POSTROUTING"),
        ("filter", "-A INPUT -o eth0 -j ACCEPT", "-o cannot be used in INPUT"),
        ("raw", "-A PREROUTING -o + -j ACCEPT", "-o cannot be used in PREROUTING"),
        ("nat", "-A PREROUTING -j MASQUERADE", "its place is POSTROUTING"),
        ("nat", "-A INPUT -j MASQUERADE", "its place is POSTROUTING"),
        ("nat", "-A POSTROUTING -j DNAT --to-destination 10.0.0.1", "its place is PREROUTING and OUTPUT"),
        ("nat", "-A OUTPUT -j SNAT --to-source 10.0.0.1", "its place is INPUT and POSTROUTING"),
        ("nat", "-A INPUT -j REDIRECT", "its place is PREROUTING and OUTPUT"),
        ("nat", "-A PREROUTING -j DROP", "not for filtering"),
        ("nat", "-A PREROUTING -j REJECT", "-j REJECT is valid in table filter only"),
        ("nat", "-A POSTROUTING -j MASQUERADE --to-ports 80", "a translation of ports needs -p"),
        ("nat", "-A PREROUTING -j DNAT --to-destination 10.0.0.1:80", "a translation of ports needs -p"),
        ("nat", "-A PREROUTING -p gre -j REDIRECT --to-ports 80", "a translation of ports needs -p"),
        ("filter", "-A INPUT -m owner --uid-owner 0 -j DROP", "its place is OUTPUT and POSTROUTING"),
        ("filter", "-A OUTPUT -m physdev --physdev-out veth1 -j DROP", "its place is PREROUTING"),
        ("filter", "-A INPUT -m addrtype --src-type LOCAL --limit-iface-out -j DROP", "its place is FORWARD and OUTPUT and POSTROUTING"),
        ("mangle", "-A POSTROUTING -m addrtype --src-type LOCAL --limit-iface-in -j DROP", "its place is PREROUTING and INPUT and FORWARD"),
        ("filter", "-A INPUT -m addrtype --limit-iface-in -j DROP", "needs --src-type or --dst-type"),
        ("filter", "-A FORWARD -m addrtype --src-type LOCAL --limit-iface-in --limit-iface-out -j DROP", "exclude each other"),
        ("filter", "-A INPUT -m rpfilter -j DROP", "-m rpfilter is valid in table mangle and raw only"),
        ("mangle", "-A INPUT -m rpfilter -j DROP", "its place is PREROUTING"),
        ("filter", "-A OUTPUT -p tcp -m socket -j DROP", "its place is PREROUTING and INPUT"),
        ("mangle", "-A INPUT -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu", "its place is FORWARD and OUTPUT and POSTROUTING"),
        ("mangle", "-A FORWARD -p tcp -j TCPMSS --set-mss 1400", "needs -p tcp with --syn"),
        ("mangle", "-A INPUT -j CLASSIFY --set-class 1:2", "its place is FORWARD"),
        ("raw", "-A PREROUTING -j CT --helper ftp", "the helper of -j CT needs -p tcp"),
        ("raw", "-A PREROUTING -p udp -j CT --helper ftp", "the helper of -j CT needs -p tcp"),
        ("filter", "-A INPUT -j CT --notrack", "-j CT is valid in table raw only"),
        ("filter", "-A INPUT -j REJECT --reject-with tcp-reset", "needs -p tcp"),
        ("filter", "-A A -j INPUT", "a rule cannot jump to the built-in chain INPUT"),
        ("filter", "-A A -g B\n-A B -j A", "the jumps of table filter form a loop: A → B → A"),
        ("filter", "-A INPUT -j A\n-A A -j A", "form a loop: A → A"),
        ("nat", "-A A -j MASQUERADE\n-A OUTPUT -j B\n-A B -j A", "its place is POSTROUTING (nat/A rule 1)"),
        ("filter", "-A INPUT -j C\n:C - [0:0]", "chain C is not declared"),
        ("filter", ":DNAT - [0:0]", "a chain cannot have the name of a target: DNAT"),
        ("filter", ":" + "c" * 29 + " - [0:0]", "not a chain name"),
        ("filter", "[0:0]", "a rule is missing after its counters"),
        ("filter", "[a:b] -A INPUT", "not counters [packets:bytes]: [a:b]"),
        ("filter", " # text", "a comment begins at the first column"),
        ("filter", "-A INPUT -c 1 x", "-c needs two numbers"),
        ("filter", "-A INPUT -p tcp -m multiport --dports 1 --sports 2", "-m multiport takes one option"),
        ("filter", "-A INPUT -p tcp -m multiport --dports 80:80", "not a range of ports from lower to higher"),
        ("filter", "-A INPUT -p tcp --syn --tcp-flags SYN SYN", "--tcp-flags is given twice"),
        ("filter", "-A INPUT -m ttl ! --ttl-lt 5", "! makes no sense"),
        ("filter", "-A INPUT -m mark -m mark --mark 1", "-m mark needs an option"),
        ("filter", "-A INPUT ! -s 0.0.0.0/0", "no address is outside 0.0.0.0/0"),
        ("filter", "-A INPUT -s 10.0.0.0/08", "begins with 0"),
        ("filter", "-A INPUT -m comment ! --comment x", "! makes no sense before --comment"),
        ("filter", "-A INPUT -j LOG --log-prefix " + "x" * 30, "--log-prefix takes 1 to 29 bytes"),
        ("filter", "-A INPUT -j LOG --log-level DEBUG", "not a number: 'DEBUG'"),
        ("filter", "-A INPUT -j NFLOG --nflog-group 65536", "over 65535"),
        ("nat", "-P INPUT DROP", "iptables refuses -P … DROP"),
        ("nat", "-A A -p tcp -j SNAT --to-source 10.0.0.1:-1", "not a port or a range of ports: '-1'"),
        ("nat", "-A A -p tcp -j MASQUERADE --to-ports 80-", "not a port or a range of ports: '80-'"),
        ("raw", "-A A ! -c 1 2", "! -c makes no sense"),
        ("raw", "-A A -m limit --limit 5/", "not a rate: '5/'"),
        ("raw", "-A A -m limit --limit-burst 0", "--limit-burst 0 lets nothing pass"),
        ("raw", "-A A -m recent --rcheck --name ..", "not a name of a list"),
        ("raw", "-A A ! -s 10.0.0.1 -d 10.0.0.2,10.0.0.3", "! -s goes with single addresses"),
        ("raw", "COMMIT ", "command not understood: COMMIT"),
        ("filter", "-A INPUT -m multiport --sports 80 -p tcp", "-p stands before --sports"),
        ("filter", "-A INPUT -p tcp -m tcp --sport 1 -m tcp --sport 0", "--sport is given twice"),
        ("filter", "-A INPUT -p tcp --tcp-flags NONE SYN", "flags are to be set, and the rule looks at none"),
        ("raw", "-A A -p sctp -m sctp -h -j TRACE", "-m sctp has no option -h"),
        ("raw", "-A A -j CT --notrack --ctevents nonsense", "not a connection event: 'nonsense'"),
        ("filter", "-A INPUT -p udp ! --dport 0:65535", "no port is outside 0:65535"),
        ("filter", "-A INPUT -p udp --dport 0x50", "not a decimal port number"),
    ],
)  # fmt: skip
def test_what_linux_refuses_is_refused(table: str, rule: str, words: str) -> None:
    assert words in refusal(table, rule)


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ("nat", "-A A -j MASQUERADE"),  # nothing calls the chain
        ("nat", "-A A -j MASQUERADE\n-A POSTROUTING -j A"),
        ("nat", "-A A -p tcp -j SNAT --to-source 10.0.0.1:80-90\n-A INPUT -j A"),
        ("nat", "-A OUTPUT -p icmp -j REDIRECT --to-ports 99"),
        ("filter", "-A A -i eth0 -o eth1\n-A OUTPUT -j A"),
        ("mangle", "-A INPUT -p tcp --syn -j TCPMSS --set-mss 1400"),
        ("filter", "-A INPUT -p tcp -m multiport --dports 80 -m multiport --sports 90"),
        ("filter", "-A A -j B\n-A A -j B\n-A INPUT -g A"),
        ("filter", ":" + "c" * 28 + " - [0:0]"),
        ("raw", "[1:2] -A PREROUTING -c 3 4 -p tcp -j CT --helper ftp"),
    ],
)
def test_what_linux_takes_is_taken(table: str, rule: str) -> None:
    assert refusal(table, rule) == ""


def test_types_that_ipv6_does_not_know() -> None:
    assert "not an address type of IPv6: 'BROADCAST'" in refusal(
        "filter", "-A INPUT -m addrtype --dst-type BROADCAST", V6
    )
    assert refusal("filter", "-A INPUT -m addrtype --dst-type BROADCAST") == ""


@pytest.mark.parametrize(
    ("names", "local", "remote", "group"),
    [
        ("UNICAST", True, True, False), ("LOCAL", True, False, False), ("LOCAL,UNICAST", True, False, False),
        ("MULTICAST", False, False, True), ("MULTICAST,LOCAL", False, False, False), ("MULTICAST,UNICAST", False, False, False),
    ],
)  # fmt: skip
def test_types_of_ipv6_addresses(names: str, local: bool, remote: bool, group: bool) -> None:
    """K-20.4: measured with ip6tables over nf_tables; iptables takes a list for any of its names."""
    rule = parse(f"*filter\n-A INPUT -m addrtype --dst-type {names}\nCOMMIT\n", V6).chain("filter", "INPUT").rules[0]
    [part] = rule.body
    assert isinstance(part, Compare) and isinstance(part.among, frozenset)
    assert ("LOCAL" in part.among, "UNICAST" in part.among, "MULTICAST" in part.among) == (local, remote, group)
    assert f"--dst-type {','.join(sorted(names.split(','), key=ADDRESS_TYPES.index))}" in render_ruleset(
        parse(f"*filter\n-A INPUT -m addrtype --dst-type {names}\nCOMMIT\n", V6), Style.SAVE
    )


def test_a_code_of_any_icmp_type_is_not_compared() -> None:
    """Measured: `--icmp-type 255/3` counts pings, too, and iptables-save prints `any`. ICMPv6 has an ordinary type 255."""
    text = "*filter\n-A INPUT -p {} --{}-type 255/3\nCOMMIT\n"
    assert "--icmp-type any" in render_ruleset(parse(text.format("icmp", "icmp"), V4), Style.SAVE)
    assert "--icmpv6-type 255/3" in render_ruleset(parse(text.format("ipv6-icmp", "icmpv6"), V6), Style.SAVE)


def test_ports_are_read_as_strtoul_reads_them() -> None:
    """K-20.6: udp and conntrack read decimal numbers only."""
    text = "*filter\n" + "".join(
        f"-A INPUT {words}\n"
        for words in (
            "-p tcp --dport 010",
            "-p udp --dport 010",
            "-p sctp --dport 0x50",
            "-m conntrack --ctorigdstport 08",
        )
    )
    saved = render_ruleset(parse(f"{text}COMMIT\n", V4), Style.SAVE)
    assert [line.split()[-1] for line in saved.splitlines() if line.startswith("-A")] == ["8", "10", "80", "8"]
