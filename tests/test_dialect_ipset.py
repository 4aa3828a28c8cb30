"""The language of ipset against what ipset 7.17 printed, and what is refused."""

import re
from pathlib import Path

import pytest
from packets import ip, net

from kpsim.addresses import Family
from kpsim.dialects.ipset import elements, parse, reads, render
from kpsim.errors import InputError
from kpsim.ruleset import Key, NamePattern, SetFlags
from kpsim.units import SECOND_NS

FIXTURES = Path(__file__).parent / "dialects"
SAVED = (FIXTURES / "ipset_save.txt").read_text()
LISTED = (FIXTURES / "ipset_list.txt").read_text()
#: what is no part of a set: how the kernel hashes, and what packets counted
_STATE = re.compile(r" initval \S+| packets \d+ bytes \d+| skbmark \S+")


def keys(text: str, name: str = "s") -> list[Key]:
    return sorted(parse(text)[name].elements, key=repr)


def network(text: str) -> tuple[int, int]:
    return net(text).base, net(text).last


def test_what_ipset_saved_is_written_again_as_it_was():
    """ipset(8), save. The kernel prints elements in the order of their hashes; here they are sorted."""
    lines = [_STATE.sub("", line) for line in SAVED.splitlines() if not line.startswith("#")]
    assert sorted(render(parse(SAVED)).splitlines()) == sorted(lines)
    assert parse(render(parse(SAVED))) == parse(SAVED)


def test_a_listing_says_the_same_as_what_is_saved():
    assert parse(LISTED) == parse(SAVED)
    assert reads(SAVED) and reads(LISTED)


def test_a_set_has_what_create_said():
    sets = parse(SAVED)
    expiring, masked, ports = sets["expiring"], sets["masked"], sets["KUBE-NODE-PORT-TCP"]
    assert SetFlags.TIMEOUT in expiring.flags and expiring.timeout_ns == 100 * SECOND_NS
    assert expiring.elements[network("10.2.0.0/16"),].timeout_ns is None
    assert expiring.elements[network("10.1.0.0/16"),].nomatch
    assert masked.ipset is not None and masked.ipset.mask == 0xFFFFFF00
    assert ports.ipset is not None and (ports.ipset.bounds, ports.ipset.family) == ((10, 100), None)
    assert sets["six"].ipset is not None and sets["six"].ipset.family is Family.IPV6
    assert (sets["commented"].size, sets["small"].size) == (65536, 10)
    [element] = sets["commented"].elements.values()
    assert element.comment == "hi there"


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("hash:ip", "10.0.0.1", [(ip("10.0.0.1"),)]),
        ("hash:ip", "10.0.0.0/30", [(ip("10.0.0.0") + each,) for each in range(4)]),
        ("hash:ip", "10.0.0.3-10.0.0.5", [(ip("10.0.0.3") + each,) for each in range(3)]),
        ("hash:ip netmask 24", "10.0.1.7-10.0.2.9", [(ip("10.0.1.0"),), (ip("10.0.2.0"),)]),
        ("hash:net", "10.0.0.7/24", [(network("10.0.0.0/24"),)]),
        ("hash:net", "10.0.0.7", [(ip("10.0.0.7"),)]),
        ("hash:net", "10.0.0.1-10.0.0.5", [(ip("10.0.0.1"),), (network("10.0.0.2/31"),), (network("10.0.0.4/31"),)]),
        ("hash:ip,port", "10.0.0.1,80", [(ip("10.0.0.1"), "tcp", 80)]),
        ("hash:ip,port", "10.0.0.1,UDP:80-81", [(ip("10.0.0.1"), "udp", 80), (ip("10.0.0.1"), "udp", 81)]),
        ("hash:ip,port", "10.0.0.1,icmp:ping", [(ip("10.0.0.1"), "icmp", 0x800)]),
        ("hash:ip,port", "10.0.0.1,icmp:3/9", [(ip("10.0.0.1"), "icmp", 0x309)]),
        ("hash:ip,port", "10.0.0.1,47:0", [(ip("10.0.0.1"), "gre", 0)]),
        ("hash:ip,port family inet6", "fd00::1,icmpv6:128/0", [(ip("fd00::1"), "icmpv6", 0x8000)]),
        ("hash:net,iface", "0.0.0.0/0,eth0", [(network("0.0.0.0/0"), "eth0")]),
        ("hash:net,iface", "10.0.0.0/8,cali wildcard", [(network("10.0.0.0/8"), NamePattern("cali"))]),
        ("bitmap:port range 0-65535", "80-81", [(80,), (81,)]),
        ("bitmap:ip range 10.0.0.0/24", "10.0.0.4/31", [(ip("10.0.0.4"),), (ip("10.0.0.5"),)]),
        ("hash:ip,mark markmask 0xf0", "10.0.0.1,0x35", [(ip("10.0.0.1"), 0x30)]),
        ("hash:ip", "10.0.0.5-10.0.0.3", [(ip("10.0.0.3") + each,) for each in range(3)]),
        ("hash:ip netmask 32", "10.0.0.1", [(ip("10.0.0.1"),)]),
        ("hash:net,net netmask 24", "10.0.0.7,10.1.0.7", [(network("10.0.0.0/24"), network("10.1.0.0/24"))]),
        ("hash:net family ipv6", "::/1", [(network("::/1"),)]),
        ("hash:ip,port", "10.0.0.1,6:81-80", [(ip("10.0.0.1"), "tcp", 80), (ip("10.0.0.1"), "tcp", 81)]),
        ("hash:ip,port", "10.0.0.1,udplite:65535", [(ip("10.0.0.1"), "udplite", 65535)]),
        ("hash:ip,port", "10.0.0.1,255:0", [(ip("10.0.0.1"), "255", 0)]),
        ("hash:ip,port", "10.0.0.1,ICMP:255/255", [(ip("10.0.0.1"), "icmp", 0xFFFF)]),
        ("hash:net,iface", "10.0.0.0/8,fifteenletters1", [(network("10.0.0.0/8"), "fifteenletters1")]),
        ("hash:ip,port netmask 24", "10.0.1.7,80", [(ip("10.0.1.0"), "tcp", 80)]),
        ("hash:ip netmask 1", "200.0.0.1", [(ip("128.0.0.0"),)]),
        ("hash:ip skbinfo", "10.0.0.1 skbmark 1 skbprio 1:1 skbqueue 3", [(ip("10.0.0.1"),)]),
        ("hash:net,iface", "10.0.0.0/8,physdev:eth0", [(network("10.0.0.0/8"), "physdev:eth0")]),
        ("hash:ip,mark", "10.0.0.1,4294967295", [(ip("10.0.0.1"), 0xFFFFFFFF)]),
        ("bitmap:port range 90-80", "80", [(80,)]),
        ("bitmap:port range 80-90", "90", [(90,)]),
        ("hash:net,port,net", "10.0.0.0/8,80,10.0.0.1", [(network("10.0.0.0/8"), "tcp", 80, ip("10.0.0.1"))]),
    ],
)  # fmt: skip
def test_one_text_is_as_many_elements_as_ipset_makes_of_it(kind, text, expected):
    """ipset(8): ranges and networks are expanded, a missing protocol is TCP. Measured."""
    assert keys(f"create s {kind}\nadd s {text}\n") == sorted(expected, key=repr)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("create s hash:ip\nadd t 10.0.0.1", "2: there is no set t"),
        ("create s hash:ip\ncreate s hash:net", "2: set s appears twice"),
        ("create s hash:foo", "1: not a type of sets: hash:foo"),
        ("create s hash:net netmask 24", "1: hash:net has no option netmask"),
        ("create s hash:ip foo 3", "1: hash:ip has no option foo"),
        ("create s bitmap:port", "1: bitmap:port needs range"),
        (f"create {'x' * 32} hash:ip", f"1: a name of a set has at most 31 characters: {'x' * 32}"),
        ("create s hash:ip\nadd s 1.2.3.4/44", "2: not a number from 0 to 32: '44'"),
        ("create s hash:ip\nadd s fd00::1", "2: not an address of IPv4: 'fd00::1'"),
        ("create s hash:net\nadd s 0.0.0.0/0", "2: a set of type hash:net takes no network of all addresses: 0.0.0.0/0"),
        ("create s bitmap:port range 10-100\nadd s 5", "2: the element is out of the range of the set"),
        ("create s hash:ip\nadd s 10.0.0.1 timeout 5", "2: timeout: set s was created without it"),
        ("create s hash:ip\nadd s 10.0.0.1 nomatch", "2: an element of hash:ip has no option nomatch"),
        ("create s hash:ip\nadd s 10.0.0.1\nadd s 10.0.0.1", "3: it is in set s already: 10.0.0.1"),
        ("create s hash:ip,port\nadd s 10.0.0.1", "2: an element of hash:ip,port has 2 parts, not 1: 10.0.0.1"),
        ("create s hash:ip,port\nadd s 10.0.0.1,foo:80", "2: not a protocol: 'foo'"),
        ("create s hash:ip,port\nadd s 10.0.0.1,gre:1", "2: of protocol gre ipset takes port 0 alone: gre:1"),
        ("create s hash:ip,port\nadd s 10.0.0.1,icmpv6:1/1", "2: a set of IPv4 takes no icmpv6"),
        ("create s hash:ip,port\nadd s 10.0.0.1,icmp:8", "2: not a type and code of ICMP, such as 8/0: '8'"),
        ("create s hash:net,iface\nadd s 10.0.0.0/24,averyveryverylong", "2: not a name of an interface, of 1 to 15 characters: 'averyveryverylong'"),
        ("create s hash:ip maxelem 2\nadd s 10.0.0.0/30", "2: set s is full: it takes 2 elements"),
        ("create s hash:ip family inet6\nadd s fd00::1-fd00::9", "2: ipset takes no range of IPv6 addresses: fd00::1-fd00::9"),
        ("create s hash:ip maxelem", "1: maxelem needs a value"),
        ("create s hash:ip maxelem -1", "1: maxelem: not a number from 0 to 4294967295: '-1'"),
        ("create s hash:ip timeout 2147484", "1: timeout: not a number from 0 to 2147483: '2147484'"),
        ("create s hash:ip netmask 0", "1: not a netmask of IPv4: 0"),
        ("create s hash:ip netmask 33", "1: not a netmask of IPv4: 33"),
        ("create s hash:ip family inet7", "1: not a family (inet, inet6): inet7"),
        ("create s hash:ip markmask 1", "1: hash:ip has no option markmask"),
        ("create s hash:ip range 1-2", "1: hash:ip has no option range"),
        ("create s bitmap:port family inet range 1-2", "1: bitmap:port has no option family"),
        ("create s bitmap:ip range 10.0.0.0-10.1.0.0", "1: a bitmap holds at most 65536 values: 10.0.0.0-10.1.0.0"),
        ("create s bitmap:port range 1-65536", "1: not a number from 0 to 65535: '65536'"),
        ("create s bitmap:port range 10-100\nadd s 100-101", "2: the element is out of the range of the set"),
        ("create s hash:ip\nadd s 10.0.0.1 comment x", "2: comment: set s was created without it"),
        ("create s hash:ip counters\nadd s 10.0.0.1 packets x", "2: packets: not a number from 0 to 18446744073709551615: 'x'"),
        ("create s hash:net\nadd s 10.0.0.1 wildcard", "2: an element of hash:net has no option wildcard"),
        ("create s hash:ip\nadd s 10.0.0.1/+8", "2: not a number from 0 to 32: '+8'"),
        ("create s hash:ip\nadd s 10.0.0.1/٨", "2: not a number from 0 to 32: '٨'"),
        ("create s hash:ip,port\nadd s 10.0.0.1,0:0", "2: not a protocol: '0'"),
        ("create s hash:ip,port\nadd s 10.0.0.1,256:0", "2: not a protocol: '256'"),
        ("create s hash:ip,port\nadd s 10.0.0.1,icmp:256/0", "2: not a number from 0 to 255: '256'"),
        ("create s hash:ip,port family inet6\nadd s ::1,icmp:8/0", "2: a set of IPv6 takes no icmp"),
        ("create s hash:net,iface\nadd s 10.0.0.0/24,", "2: not a name of an interface, of 1 to 15 characters: ''"),
        ("create s hash:ip,mark\nadd s 10.0.0.1,0x100000000", "2: not a number from 0 to 4294967295: '0x100000000'"),
        *(
            (f"create s hash:ip\nadd s 10.0.0.1 {option} 1", f"2: {option}: set s was created without it")
            for option in ("packets", "bytes", "skbmark", "skbprio", "skbqueue")
        ),
        ("create s bitmap:port bucketsize 4 range 1-2", "1: bitmap:port has no option bucketsize"),
        ("create s bitmap:port hashsize 64 range 1-2", "1: bitmap:port has no option hashsize"),
        ("create s hash:ip,port\nadd s 10.0.0.1,65536", "2: not a number from 0 to 65535: '65536'"),
        ("Name: s\nType: hash:ip\nHeader: family inet\nMembers:\nx", "5: not an address of IPv4: 'x'"),
        ("create s hash:ip\nflush t", "2: there is no set t"),
        ("create s hash:ip\ndestroy t", "2: there is no set t"),
        ("create s hash:ip\nswap s s", "2: not a line of ipset save: swap s s"),
        ("<ipsets>\n</ipsets>", "this is ipset's XML: give the output of ipset save"),
    ],
)  # fmt: skip
def test_what_ipset_refuses_is_refused_with_its_line(lines, why):
    with pytest.raises(InputError) as caught:
        parse(f"{lines}\n", file="f")
    assert str(caught.value) == ("f: " + why if why.startswith("this") else "f:" + why)


def test_one_text_is_so_many_elements_at_most(monkeypatch):
    """docs/rules.md says how many. The count of a pair is that of both parts together."""
    assert elements.MOST_ELEMENTS == 1_048_576
    monkeypatch.setattr(elements, "MOST_ELEMENTS", 8)
    assert len(keys("create s hash:ip,port\nadd s 10.0.0.0/31,1-4\n")) == 8
    for text in ("10.0.0.0/31,1-5", "10.0.0.0/28,1", "10.0.0.0/8,1"):
        with pytest.raises(InputError, match=f"^f:2: more than 8 elements: {text}"):
            parse(f"create s hash:ip,port\nadd s {text}\n", file="f")


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(InputError) as caught:
        parse("create s hash:ip\nadd s x\nadd t 10.0.0.1\n")
    assert [problem.line for problem in caught.value.problems] == [2, 3]


def test_a_type_that_is_not_modelled_keeps_its_name_alone():
    sets = parse(
        "\ufeffcreate m hash:mac\nadd m 02:00:00:00:00:01\ncreate l list:set size 8\nadd l m\ncreate s hash:ip\n"
    )
    assert [(name, of.type is None) for name, of in sorted(sets.items())] == [("l", True), ("m", True), ("s", False)]
    assert {parse(f"create s {kind}\n")["s"].type for kind in ("hash:ip,mac", "bitmap:ip,mac")} == {None}


def test_old_names_and_exist_and_comments_are_read():
    """ipset 4 wrote -N and -A; kube-proxy's commands say -exist."""
    text = "# a comment\n-N s iphash\n-A s 10.0.0.1\ncreate s hash:ip -exist\nadd -exist s 10.0.0.1\nCOMMIT\n"
    assert keys(text) == [(ip("10.0.0.1"),)]
    assert reads(text) and not reads("-A INPUT -j DROP\n") and not reads("*nat\nCOMMIT\n")


@pytest.mark.parametrize(
    "text",
    [
        "create s hash:ip family inet hashsize 1024 maxelem 65536 timeout 5 counters comment skbinfo forceadd bucketsize 4\n",
        'create "a b" hash:net family inet6 hashsize 64 maxelem 9\nadd "a b" fd00::/64 nomatch\n',
        "create s hash:ip,mark family inet markmask 0x000000ff hashsize 1024 maxelem 65536\nadd s 10.0.0.1,0x00000011\n",
        "create s hash:net family inet hashsize 1024 maxelem 65536 timeout 0\nadd s 10.0.0.1 timeout 7\nadd s 10.0.0.2 timeout 0\n",
        "create s hash:net,iface family inet hashsize 1024 maxelem 65536\nadd s 10.0.0.0/8,cali wildcard\nadd s 10.0.0.0/8,eth0\n",
        "create s bitmap:ip range 10.0.0.0-10.0.0.255 timeout 9\nadd s 10.0.0.1 timeout 9\n",
        "create s hash:ip,port family inet6 hashsize 1024 maxelem 65536\nadd s fd00::1,ipv6-icmp:200/7\nadd s fd00::1,udp:0\n",
        "create s hash:net,port,net family inet hashsize 1024 maxelem 65536\nadd s 0.0.0.0/0,sctp:1,10.0.0.1\n",
    ],
)  # fmt: skip
def test_a_text_in_the_form_of_ipset_is_written_again(text):
    """ipset(8): the options of create and add, in the order of ipset save."""
    assert render(parse(text)) == text


def test_commands_that_change_sets():
    """A timeout of the set is that of its elements; a set that makes room is never full; flush and destroy."""
    text = """create s hash:ip timeout 8
add s 10.0.0.1
create f hash:ip maxelem 1 forceadd
add f 10.0.0.1
add f 10.0.0.2
create e hash:ip maxelem 2
add e 10.0.0.1-10.0.0.2
-F e
add e 10.0.0.3-10.0.0.4
create d hash:ip
destroy d
create d hash:ip
-X d
create never hash:ip timeout 0
add never 10.0.0.1
create -! s hash:net
add s 10.0.0.1 -!
"""
    sets = parse(text)
    assert sorted(sets) == ["e", "f", "never", "s"]
    assert [each.timeout_ns for each in sets["never"].elements.values()] == [None]
    assert [each.timeout_ns for each in sets["s"].elements.values()] == [8 * SECOND_NS]
    assert (len(sets["f"].elements), keys(text, "e")) == (2, [(ip("10.0.0.3"),), (ip("10.0.0.4"),)])
    assert sets["s"].ipset is not None and sets["s"].ipset.kind == "hash:ip"


def test_what_looks_like_ipset():
    assert reads("<ipsets>\n") and reads("-N s iphash\n") and reads("Name: s\r\nType: hash:ip\n")
    assert not reads("create\n") and not reads("create s hash:ip\n*filter\n") and not reads("Name: s\nType: x\n")
    listed = "Name: s\nType: bitmap:port\nRevision: 3\nHeader: range 0-65535\nReferences: 1\nMembers:\n\n80\n"
    assert keys(listed) == keys(listed.replace("\n", "\r\n")) == [(80,)]


@pytest.mark.parametrize(
    ("protocol", "family", "asked"),
    [
        ("icmp", "inet", [(kind, code) for kind in range(21) for code in range(16)]),
        ("ipv6-icmp", "inet6", [(kind, code) for kind in (1, 2, 3, 4, *range(128, 143)) for code in range(8)]),
    ],
)
def test_types_and_codes_of_icmp_have_their_names(protocol, family, asked):
    """Measured. Names are read, too; some have two (ipset(8))."""
    lines = [line.split() for line in (FIXTURES / "ipset_icmp.txt").read_text().splitlines()]
    names = {numbers: name for of, numbers, name, *_ in lines if of == protocol}
    head = f"create s hash:ip,port family {family}\n"
    start = f"add s {'10.0.0.1' if family == 'inet' else 'fd00::1'},{protocol}"
    numbers = [f"{kind}/{code}" for kind, code in asked]
    written = [f"{start}:{names.get(each, each)}" for each in numbers]
    by_number = parse(head + "".join(f"{start}:{each}\n" for each in numbers))
    assert render(by_number).splitlines()[1:] == sorted(written)
    assert parse(head + "\n".join(written)) == by_number
    others = {"ping": "echo-request", "pong": "echo-reply"}
    if protocol == "ipv6-icmp":
        others |= {f"neighbor-{word}": f"neighbour-{word}" for word in ("solicitation", "advertisement")}
    for other, name in others.items():
        assert keys(f"{head}{start}:{other}") == keys(f"{head}{start}:{name}")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("iphash", "hash:ip"), ("nethash", "hash:net"), ("ipporthash", "hash:ip,port"), ("ipportiphash", "hash:ip,port,ip"),
        ("ipportnethash", "hash:ip,port,net"), ("portmap range 1-2", "bitmap:port range 1-2"), ("setlist", "list:set"),
        ("ipmap range 10.0.0.0/24", "bitmap:ip range 10.0.0.0-10.0.0.255"), ("hash:ip netmask 32", "hash:ip"),
        ("hash:ip family ipv4", "hash:ip"), ("hash:ip family -4", "hash:ip family inet"),
        ("hash:ip family ipv6", "hash:ip family inet6"), ("hash:ip maxelem 65536 hashsize 1024", "hash:ip"),
        ("iphash probes 8 resize 50 gc 9 initval 7", "hash:ip"),
    ],
)  # fmt: skip
def test_what_create_may_say_otherwise(written, meant):
    """ipset(8), and measured: a netmask of all bits is none."""
    assert parse(f"create s {written}\n") == parse(f"create s {meant}\n")
