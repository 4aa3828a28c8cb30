"""What statements of nft mean: the values that rules have. nft 1.0.6 takes those that are read here, but crashes on the shift."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from fuzz.nft_oracle import Place, read
from kpsim.dialects import Form
from kpsim.dialects.nft.datatypes import Style, Tree
from kpsim.dialects.nft.dialect import DIALECT
from kpsim.dialects.nft.json_form import json_text
from kpsim.dialects.nft.listing import rule_words
from kpsim.errors import InputError, UnsupportedRule
from kpsim.ruleset import (
    ACCEPT,
    Adjust,
    Assign,
    BridgePort,
    Chance,
    Compare,
    Dispatch,
    Dnat,
    Field,
    Hashed,
    Interval,
    Limit,
    LocalSocket,
    Log,
    Lookup,
    Masked,
    NamePattern,
    NoTrack,
    Numgen,
    Reject,
    RejectWith,
    ReversePath,
    Rule,
    Set,
    SetReference,
    SetTimeToLive,
    SetTrafficClass,
    SetVerb,
    Space,
    Statement,
    UpdateSet,
)
from tests.nft_forms import Place as RecordedPlace
from tests.nft_forms import json_document, rules_in

HERE = Place("inet", "filter", "prerouting")
ALL = 0xFFFFFFFF
TEN = 10 << 24


def body(words: str, place: Place = HERE) -> tuple[Statement, ...]:
    found = read(place, place.document([words]))
    assert not isinstance(found, InputError), found
    return found[0].body


def name(field: Field, *names: str, negate: bool = False) -> Compare:
    return Compare(field, frozenset(names), negate)


def number(field: Field, *among: int | Interval, negate: bool = False, mask: int | None = None) -> Compare:
    return Compare(field, tuple((each, each) if isinstance(each, int) else each for each in among), negate, mask)


COMPARED = [
    ("ct state new", name(Field.CT_STATE, "NEW")),
    ("ct state new | established", name(Field.CT_STATE, "NEW", "ESTABLISHED")),
    ("ct state new,established", name(Field.CT_STATE, "NEW", "ESTABLISHED")),
    ("ct state { new, established }", name(Field.CT_STATE, "NEW", "ESTABLISHED")),
    ("ct state != { new, established }", name(Field.CT_STATE, "NEW", "ESTABLISHED", negate=True)),
    ("ct state == new", name(Field.CT_STATE, "NEW")),
    ("ct state != new", name(Field.CT_STATE, "NEW", negate=True)),
    ("ct state ! new", name(Field.CT_STATE, "NEW", negate=True)),
    ("ct state & established == established", name(Field.CT_STATE, "ESTABLISHED")),
    ("ct state & established != established", name(Field.CT_STATE, "ESTABLISHED", negate=True)),
    ("ct state & (established | related) != 0", name(Field.CT_STATE, "ESTABLISHED", "RELATED")),
    ("ct state & (established | related) == 0", name(Field.CT_STATE, "ESTABLISHED", "RELATED", negate=True)),
    ("ct status dnat", name(Field.CT_STATUS, "DNAT")),
    ("ct status dnat,snat", name(Field.CT_STATUS, "DNAT", "SNAT")),
    ("ct status dnat | snat", name(Field.CT_STATUS, "DNAT", "SNAT")),
    ("ct status & dnat dnat", name(Field.CT_STATUS, "DNAT")),
    ("ct state & (established | new) == 0", name(Field.CT_STATE, "ESTABLISHED", "NEW", negate=True)),
    ("ct status ! dnat", name(Field.CT_STATUS, "DNAT", negate=True)),
    ("ct status & dnat == dnat", name(Field.CT_STATUS, "DNAT")),
    ("meta nfproto ipv4", name(Field.NFPROTO, "ipv4")),
    ("meta protocol { ip, ip6 }", name(Field.NFPROTO, "ipv4", "ipv6")),
    ("fib daddr type != { local, broadcast }", name(Field.DADDR_TYPE, "LOCAL", "BROADCAST", negate=True)),
    ('iifname "eth*"', Compare(Field.IIFNAME, NamePattern("eth"))),
    ('iifname != "eth*"', Compare(Field.IIFNAME, NamePattern("eth"), negate=True)),
    ("iif lo", name(Field.IIFNAME, "lo")),
    ("tcp flags syn", number(Field.TCP_FLAGS, 0, negate=True, mask=2)),
    ("tcp flags ! syn", number(Field.TCP_FLAGS, 0, mask=2)),
    ("tcp flags == syn", number(Field.TCP_FLAGS, 2)),
    ("tcp flags & (syn | ack) == syn", number(Field.TCP_FLAGS, 2, mask=18)),
    ("tcp flags & (syn | ack) != syn", number(Field.TCP_FLAGS, 2, mask=18, negate=True)),
    ("tcp flags { syn, ack }", number(Field.TCP_FLAGS, 2, 16)),
    ("meta mark & 0xffffffff == 1", number(Field.MARK, 1)),
    ("meta mark & 0x10 == 0x10", number(Field.MARK, 16, mask=16)),
    ("meta mark and 0x1 < 0x3", number(Field.MARK, (0, 2), mask=1)),
    ("meta mark 0x10000/16", number(Field.MARK, 0x10000, mask=0xFFFF0000)),
    ("meta mark != 0x10000/16", number(Field.MARK, 0x10000, mask=0xFFFF0000, negate=True)),
    ("meta mark 0x10000/32", number(Field.MARK, 0x10000)),
    ("meta mark 0x12345/16", number(Field.MARK, 0x10000, mask=0xFFFF0000)), ("meta mark 0x10000/0", number(Field.MARK, 0, mask=0)),
    ("meta mark { 0x12345/16, 5 }", number(Field.MARK, 5, (0x10000, 0x1FFFF))),
    ("meta mark { 0x10000/16 }", number(Field.MARK, 0x10000, mask=0xFFFF0000)),
    ("meta mark { 0x10000/16, 5 }", number(Field.MARK, 5, (0x10000, 0x1FFFF))),
    ("meta mark 0x10000-0x1ffff", number(Field.MARK, (0x10000, 0x1FFFF))),
    ("meta mark <= 0", number(Field.MARK, 0)),
    ("meta mark < 5", number(Field.MARK, (0, 4))),
    ("meta mark > 5", number(Field.MARK, (6, ALL))),
    ("meta mark >= 5", number(Field.MARK, (5, ALL))),
    ("ip ttl <= 5", number(Field.TTL, (0, 5))),
    ("ip ttl > 5", number(Field.TTL, (6, 255))),
    ("ip saddr 10.0.0.0-10.0.0.255", number(Field.SADDR, TEN, mask=0xFFFFFF00)),
    ("ip saddr 10.0.0.0-10.0.0.2", number(Field.SADDR, (TEN, TEN + 2))),
    ("ip saddr 10.0.0.1-10.0.0.2", number(Field.SADDR, (TEN + 1, TEN + 2))),
    ("ip saddr { 10.0.0.0-10.0.0.1 }", number(Field.SADDR, TEN, mask=ALL - 1)),
    ("ip saddr != 10.0.0.0/8", number(Field.SADDR, TEN, mask=0xFF000000, negate=True)),
    ("ip saddr & 255.255.0.0 == 10.0.0.0", number(Field.SADDR, TEN, mask=0xFFFF0000)),
    ("ip saddr < 10.0.0.1", number(Field.SADDR, (0, TEN))),
    ("ip saddr { 10.0.0.1, 10.0.0.4 comment \"four\" }", number(Field.SADDR, TEN + 1, TEN + 4)),
    ("tcp dport 16-31", number(Field.DPORT, (16, 31))), ("tcp dport 80-80", number(Field.DPORT, 80)),
    ("ip6 saddr ::ffff:10.0.0.1", number(Field.SADDR, 0xFFFF << 32 | TEN + 1)), ("ip6 saddr ::FFFF:10.0.0.1", number(Field.SADDR, 0xFFFF << 32 | TEN + 1)),
    ("ip dscp > 40", number(Field.DSCP, (41, 63))), ("ip ecn > 1", number(Field.ECN, (2, 3))), ("icmp type > 5", number(Field.ICMP_TYPE, (6, 255))),
    ("icmp code > 5", number(Field.ICMP_CODE, (6, 255))), ("icmpv6 type > 5", number(Field.ICMP_TYPE, (6, 255))),
    ("icmpv6 code > 5", number(Field.ICMP_CODE, (6, 255))), ("meta length > 5", number(Field.LENGTH, (6, ALL))), ("ip length > 5", number(Field.LENGTH, (6, 0xFFFF))),
    ("meta skuid > 5", number(Field.UID, (6, ALL))), ("meta skgid > 5", number(Field.GID, (6, ALL))), ("tcp dport > 5", number(Field.DPORT, (6, 0xFFFF))),
    ("ip saddr > 10.0.0.0", number(Field.SADDR, (TEN + 1, ALL))), ("ip6 saddr > ::5", number(Field.SADDR, (6, (1 << 128) - 1))),
    ("tcp flags > 5", number(Field.TCP_FLAGS, (6, 255))), ("tcp dport 65535", number(Field.DPORT, 65535)), ("ip dscp 63", number(Field.DSCP, 63)),
    ("ip ecn 3", number(Field.ECN, 3)), ("ip ttl 255", number(Field.TTL, 255)), ("meta mark 0xFFFFFFFF", number(Field.MARK, ALL)),
    ("meta mark 0XfF", number(Field.MARK, 255)), ("icmp type 255", number(Field.ICMP_TYPE, 255)), ("meta l4proto 255", name(Field.L4PROTO, "255")),
    ("meta l4proto 0", name(Field.L4PROTO, "0")), ('iifname "abcdefghijklmno"', name(Field.IIFNAME, "abcdefghijklmno")), ("iifname 5", name(Field.IIFNAME, "5")),
    ("meta length 4294967295", number(Field.LENGTH, ALL)), ("meta skuid 4294967295", number(Field.UID, ALL)), ("meta skgid 4294967295", number(Field.GID, ALL)),
    ("numgen inc mod 4294967295 > 4294967293", Lookup((Numgen(ALL, 0, False),), Set.of(((ALL - 1, ALL - 1),)))),
    ('tcp dport "80"', number(Field.DPORT, 80)),
    (f"tcp dport {{ {', '.join(f'{{ {port} }}' for port in range(1, 80, 2))} }}", number(Field.DPORT, *range(1, 80, 2))),
    ("tcp dport { 80, * }", number(Field.DPORT, (0, 0xFFFF))),
    ('iifname { "lo", * }', Lookup((Field.IIFNAME,), Set.of(("lo",), (NamePattern(""),)))),
    ("meta skuid 1-3", number(Field.UID, (1, 3))),
    ("fib saddr . iif oif missing", ReversePath(loose=False, valid_mark=False, invert=True)),
    ("fib saddr . iif oif exists", ReversePath(loose=False, valid_mark=False, invert=False)),
    ("fib saddr . iif oif 0", ReversePath(loose=False, valid_mark=False, invert=True)),
    ("fib saddr . iif oif != 0", ReversePath(loose=False, valid_mark=False, invert=False)),
    ("fib iif . saddr oif missing", ReversePath(loose=False, valid_mark=False, invert=True)),
    ("fib mark . saddr . iif oif missing", ReversePath(loose=False, valid_mark=True, invert=True)),
    ("fib saddr oif missing", ReversePath(loose=True, valid_mark=False, invert=True)),
    ("fib saddr . mark . iif oif missing", ReversePath(loose=False, valid_mark=True, invert=True)),
    ("fib saddr . mark oif missing", ReversePath(loose=True, valid_mark=True, invert=True)),
    ("socket transparent 1", LocalSocket("--transparent")),
    ("meta random & 0x7fffffff < 10", Chance(10)),
]  # fmt: skip


@pytest.mark.parametrize(("words", "value"), COMPARED, ids=[words for words, _ in COMPARED])
def test_comparisons(words: str, value: Statement) -> None:
    """The last one of the rule is that of the words; what they imply stands before it."""
    assert body(f"{words} accept")[-2] == value


IMPLIED = [
    ("tcp flags syn", [name(Field.L4PROTO, "tcp")]),
    ("ip saddr 10.0.0.1", [name(Field.NFPROTO, "ipv4")]),
    ("meta mark 1", []),
    ("ip saddr & 255.255.255.0 . tcp dport { 10.0.0.0 . 80 }", [name(Field.NFPROTO, "ipv4"), name(Field.L4PROTO, "tcp")]),
    ("jhash ip saddr mod 8 3", [name(Field.NFPROTO, "ipv4")]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "implied"), IMPLIED, ids=[words for words, _ in IMPLIED])
def test_a_field_implies_its_family_and_protocol(words: str, implied: list[Statement]) -> None:
    assert body(f"{words} accept")[:-2] == tuple(implied)


HASHED = Hashed((Field.SADDR, Field.DADDR), 8, 3, 5)
LOOKED_UP = [
    ("meta mark & 0xff vmap { 0x1 : accept }", (Masked(Field.MARK, 255),), (1,)),
    ("meta mark & 0xff00 >> 8 vmap { 0x1 : accept }", (Masked(Field.MARK, 0xFF00, 8),), (1,)),
    ("ip saddr & 255.255.255.0 vmap { 10.0.0.0 : drop }", (Masked(Field.SADDR, ALL - 255),), (TEN,)),
    ("ip saddr & 255.255.255.0 . tcp dport { 10.0.0.0 . 80 } drop", (Masked(Field.SADDR, ALL - 255), Field.DPORT), (TEN, 80)),
    ("jhash ip saddr . ip daddr mod 8 seed 0x5 offset 3 vmap { 3 : drop }", (HASHED,), (3,)),
    ("jhash ip saddr mod 8 0 drop", (Hashed((Field.SADDR,), 8),), (0,)),
    ("numgen inc mod 4 offset 2 vmap { 2 : drop }", (Numgen(4, 2, random=False),), (2,)),
    ("numgen random mod 8 < 3 drop", (Numgen(8, random=True),), ((0, 2),)),
    ("numgen random mod 8 >= 3 drop", (Numgen(8, random=True),), ((3, 7),)),
    ("numgen inc mod 8 offset 2 > 3 drop", (Numgen(8, 2, random=False),), ((4, 9),)),
    ("numgen random mod 8 > 7 drop", (Numgen(8, random=True),), ((8, 8),)),
    ("meta mark & 0xff00 rshift 8 vmap { 0x1 : accept }", (Masked(Field.MARK, 0xFF00, 8),), (1,)),
    ("meta mark & 0xff00 >> 8 > 7 drop", (Masked(Field.MARK, 0xFF00, 8),), ((8, ALL),)),
    ("numgen random mod 8 3-5 drop", (Numgen(8, random=True),), ((3, 5),)),
]  # fmt: skip


@pytest.mark.parametrize(("words", "key", "element"), LOOKED_UP, ids=[words for words, _, _ in LOOKED_UP])
def test_lookups(words: str, key: object, element: object) -> None:
    (looked_up,) = [each for each in body(words) if isinstance(each, Dispatch | Lookup)]
    assert looked_up.key == key
    found = looked_up.map if isinstance(looked_up, Dispatch) else looked_up.set
    assert list(found.elements) == [element]  # type: ignore[union-attr]


ASSIGNED: list[tuple[str, Field, Callable[[int, int], int]]] = [
    ("meta mark set 5", Field.MARK, lambda mark, ct: 5),
    ("meta mark set meta mark and 0xff or 0x100", Field.MARK, lambda mark, ct: mark & 0xFF | 0x100),
    ("meta mark set meta mark or 0x101", Field.MARK, lambda mark, ct: mark | 0x101),
    ("meta mark set meta mark xor 0x101", Field.MARK, lambda mark, ct: mark ^ 0x101),
    ("meta mark set meta mark xor 0x3 xor 0x101", Field.MARK, lambda mark, ct: mark ^ 3 ^ 0x101),
    ("meta mark set meta mark or 0x3 xor 0x101", Field.MARK, lambda mark, ct: (mark | 3) ^ 0x101),
    ("meta mark set meta mark xor 0x103 and 0xff", Field.MARK, lambda mark, ct: (mark ^ 0x103) & 0xFF),
    ("meta mark set ct mark xor 0x103 or 0x2", Field.MARK, lambda mark, ct: (ct ^ 0x103) | 2),
    ("meta mark set ct mark", Field.MARK, lambda mark, ct: ct),
    ("meta mark set ct mark & 0xff", Field.MARK, lambda mark, ct: ct & 0xFF),
    ("meta mark set ct mark & 0xff | 0x101", Field.MARK, lambda mark, ct: ct & 0xFF | 0x101),
    ("ct mark set meta mark", Field.CT_MARK, lambda mark, ct: mark),
    ("ct mark set ct mark xor 0x3", Field.CT_MARK, lambda mark, ct: ct ^ 3),
]


@pytest.mark.parametrize(("words", "to", "wanted"), ASSIGNED, ids=[words for words, _, _ in ASSIGNED])
def test_marks(words: str, to: Field, wanted: Callable[[int, int], int]) -> None:
    """The value that a mark is given, computed by its definition."""
    (given,) = body(words)
    assert isinstance(given, Assign)
    assert given.to is to
    for mark in (0, 0x1FF, 0xABCD0123, ALL):
        for ct in (0, 0x101, 0x1234FEDC, ALL):
            old = mark if to is Field.MARK else ct
            other = 0 if given.source is None else mark if given.source is Field.MARK else ct
            assert (old & given.keep) ^ (other & given.take) ^ given.flip == wanted(mark, ct)


TCP, IPV4, IPV6 = (name(Field.L4PROTO, "tcp"), name(Field.NFPROTO, "ipv4"), name(Field.NFPROTO, "ipv6"))
DONE: list[tuple[str, tuple[Statement, ...]]] = [
    ("ip ttl set 5", (IPV4, SetTimeToLive("set", 5))), ("ip6 hoplimit set 5", (IPV6, SetTimeToLive("set", 5))),
    ("ip6 flowlabel set 5", (IPV6, Adjust("ip6 flowlabel set", "5"))), ("ct label set 5", (Adjust("ct label set", "5"),)),
    ("tcp option maxseg size set 500", (TCP, Adjust("tcp option maxseg size set", "500"))),
    ("meta priority set 1:2", (Adjust("meta priority set", "1:2"),)), ("ct event set new", (Adjust("ct event set", "new"),)),
    ('ct helper set "x"', (Adjust("ct helper set", '"x"'),)), ('ct timeout set "x"', (Adjust("ct timeout set", '"x"'),)),
    ("last accept", (ACCEPT,)), ("last used 5s accept", (ACCEPT,)), ("last used never accept", (ACCEPT,)),
    ("counter packets 5 bytes 10 accept", (ACCEPT,)), ("log prefix \"a\" group 5", (Log('prefix "a" group 5', "log"),)), ("log", (Log("", "log"),)),
    ("ip saddr 10.0.0.1 meta protocol ip accept", (IPV4, number(Field.SADDR, TEN + 1), IPV4, ACCEPT)),
    ("ip saddr 10.0.0.1 meta protocol ip6 ip daddr 10.0.0.2 accept",  # both headers are compared; the first one says what follows
     (IPV4, number(Field.SADDR, TEN + 1), IPV6, number(Field.DADDR, TEN + 2), ACCEPT)),
    ("reject with tcp reset", (TCP, Reject(RejectWith.TCP_RESET))), ("reject", (Reject(),)),
    ("reject with icmp net-unreachable", (IPV4, Reject(RejectWith.NO_ROUTE))), ("reject with icmpv6 no-route", (IPV6, Reject(RejectWith.NO_ROUTE))),
    ("reject with icmp host-unreachable", (IPV4, Reject(RejectWith.HOST_UNREACHABLE))),
    ("reject with icmp prot-unreachable", (IPV4, Reject(RejectWith.PROTOCOL_UNREACHABLE))),
    ("reject with icmp port-unreachable", (IPV4, Reject(RejectWith.PORT_UNREACHABLE))),
    ("reject with icmp net-prohibited", (IPV4, Reject(RejectWith.NET_PROHIBITED))),
    ("reject with icmp host-prohibited", (IPV4, Reject(RejectWith.HOST_PROHIBITED))),
    ("reject with icmp admin-prohibited", (IPV4, Reject(RejectWith.ADMIN_PROHIBITED))),
    ("reject with icmpv6 admin-prohibited", (IPV6, Reject(RejectWith.ADMIN_PROHIBITED))),
    ("reject with icmpv6 addr-unreachable", (IPV6, Reject(RejectWith.HOST_UNREACHABLE))),
    ("reject with icmpv6 policy-fail", (IPV6, Reject(RejectWith.POLICY_FAIL))),
    ("reject with icmpv6 reject-route", (IPV6, Reject(RejectWith.REJECT_ROUTE))),
    ("reject with icmp 3", (IPV4, Reject(RejectWith.PORT_UNREACHABLE))), ("reject with icmp type 13", (IPV4, Reject(RejectWith.ADMIN_PROHIBITED))),
    ("reject with icmpv6 6", (IPV6, Reject(RejectWith.REJECT_ROUTE))), ("reject with icmpx 0", (Reject(RejectWith.NO_ROUTE),)),
    ("reject with icmpx 1", (Reject(RejectWith.PORT_UNREACHABLE),)), ("reject with icmpx 2", (Reject(RejectWith.HOST_UNREACHABLE),)),
    ("reject with icmpx 3", (Reject(RejectWith.ADMIN_PROHIBITED),)),
    ("reject with icmpx no-route", (Reject(RejectWith.NO_ROUTE),)), ("reject with icmpx host-unreachable", (Reject(RejectWith.HOST_UNREACHABLE),)),
    ("reject with icmpx admin-prohibited", (Reject(RejectWith.ADMIN_PROHIBITED),)),
    ("update @dyn { ip saddr timeout 1h30m }", (IPV4, UpdateSet(SetReference("dyn"), (Field.SADDR,), SetVerb.UPDATE, 5400 * 10**9))),
    ("add @dyn { ip saddr timeout 1w2d3h4m5s678ms }", (IPV4, UpdateSet(SetReference("dyn"), (Field.SADDR,), SetVerb.ADD, 788645678 * 10**6))),
    ("add @dyn { ip saddr timeout 7 }", (IPV4, UpdateSet(SetReference("dyn"), (Field.SADDR,), SetVerb.ADD, 7 * 10**9))),
    ("add @dyn { ip saddr timeout 1500ms }", (IPV4, UpdateSet(SetReference("dyn"), (Field.SADDR,), SetVerb.ADD, 15 * 10**8))),
    ("delete @dyn { ip saddr }", (IPV4, UpdateSet(SetReference("dyn"), (Field.SADDR,), SetVerb.DELETE))),
    ("set add ip saddr timeout 5s @dyn", (IPV4, UpdateSet(SetReference("dyn"), (Field.SADDR,), SetVerb.ADD, 5 * 10**9))),
    ("update @dyn { ip saddr timeout 5s expires 3s counter }", (IPV4, UpdateSet(SetReference("dyn"), (Field.SADDR,), SetVerb.UPDATE, 5 * 10**9))),
    ("meter m size 128 { ip saddr timeout 5s limit rate 5/second }",
     (IPV4, UpdateSet(SetReference("m"), (Field.SADDR,), SetVerb.UPDATE, 5 * 10**9, (Limit(5, "sec", 5),), 128))),
    ("meter m { ip saddr limit rate 5/second }", (IPV4, UpdateSet(SetReference("m"), (Field.SADDR,), SetVerb.ADD, None, (Limit(5, "sec", 5),), 65535))),
    ("limit rate 10/second", (Limit(10, "sec", 5),)), ("limit rate over 10/minute burst 7 packets", (Limit(10, "min", 7, over=True),)),
    ("limit rate 10/hour burst 1 packets", (Limit(10, "hour", 1),)), ("limit rate 10/day", (Limit(10, "day", 5),)),
    ("limit rate 10/week", (Limit(10, "week", 5),)),
]  # fmt: skip


@pytest.mark.parametrize(("words", "parts"), DONE, ids=[words for words, _ in DONE])
def test_statements(words: str, parts: tuple[Statement, ...]) -> None:
    """The whole rule, with what the statement implies."""
    assert body(words) == parts


#: names of fields that nft has at some hook, and the model nowhere; unqualified names of nft are of meta
KEYS = {
    "meta": "rtclassid ibriport obriport ibrname obrname iiftype oiftype iifgroup oifgroup iifkind oifkind sdif sdifname cpu cgroup nftrace "
    "priority time day hour secpath broute secmark",
    "": "rtclassid ibriport obriport ibrname obrname iiftype oiftype iifgroup oifgroup iifkind oifkind sdif sdifname cpu cgroup nftrace time day hour",
    "ct": "expiration helper label l3proto protocol id zone secmark eventmask event",
    "ct original": "l3proto protocol proto-src zone", "ct reply": "proto-src proto-dst saddr daddr",
    "ipsec in": "reqid spi", "ipsec out": "reqid spi", "exthdr": "hbh frag rt dst mh srh", "rt": "nexthop mtu classid",
    "arp": "htype ptype hlen plen operation", "ether": "saddr daddr type", "vlan": "id cfi dei pcp type",
    "ah": "nexthdr hdrlength reserved spi sequence", "esp": "spi sequence", "comp": "nexthdr flags cpi",
    "igmp": "type checksum mrt group", "icmpv6": "parameter-problem packet-too-big taddr daddr mtu",
}  # fmt: skip
NAMED = [
    (f"{kind} {key}".strip(), f"{kind or 'meta'} {key}".replace("secpath", "ipsec"))
    for kind, keys in KEYS.items()
    for key in keys.split()
]


@pytest.mark.parametrize(("words", "what"), NAMED, ids=[words for words, _ in NAMED])
def test_fields_that_the_model_does_not_have_are_named(words: str, what: str) -> None:
    with pytest.raises(UnsupportedRule) as refused:
        DIALECT.parse(HERE.document([f"{words} 5 accept"]))
    assert refused.value.what == what


NOT_MODELLED = [
    ("meta mark set meta mark lshift 3", "a mark that is set to something else than numbers and marks"),
    ("meta mark set meta mark and ct mark", "a mark that is set to something else than numbers and marks"),
    ('ct expectation set "x"', "ct expectation"), ("flow add @f", "flow"), ("fwd to eth0", "fwd"), ("dup to 10.0.0.1", "dup"), ("queue", "queue"),
    ('xt target "MASQUERADE"', "xt MASQUERADE, which iptables-nft wrote: give the output of iptables-save for this table"),
    ("ipsec in spnum 1 ip saddr 10.0.0.1", "ipsec in ip saddr"), ("ipsec out ip6 daddr fd00::1", "ipsec out ip6 daddr"),
    ("rt ip nexthop 10.0.0.1", "rt nexthop"), ('update @dyn { ip saddr comment "x" }', "comment for each element of a set"),
    ("ct status == dnat", "ct status compared as a whole"), ("ct status != dnat", "ct status compared as a whole"),
    ("ct status { dnat, snat }", "ct status compared as a whole"), ("ct state == new,related", "ct state compared as a whole"),
    ("ct status & dnat == snat", "ct status compared as a whole"),
    ("ct status & (dnat | snat) == dnat", "ct status compared as a whole"),
    ("ct status & (dnat | snat) == (dnat | snat)", "ct status compared as a whole"),
    ("ct state vmap { new | related : drop } counter", "several names as one value"),
    ("ct status < dnat", "ct status < a value"), ("ct state & (established | related) < 4", "ct state < a value"),
    ("iifname & 1 == 0", "iifname under a mask"), ("meta l4proto > 5", "meta l4proto > a value"),
    ("meta l4proto & 5 == 5", "meta l4proto under a mask"), ("meta l4proto 5-9", "a range of inet_proto"),
    ("fib daddr type 1-3", "a range of fib_addrtype"), ("meta l4proto & 1 vmap { tcp : drop } counter", "meta l4proto under a mask"),
    ('fib saddr . iif oifname "eth0"', "fib saddr . iif oif of a name"), ("fib daddr . iif oif missing", "fib daddr . iif oif"),
    ("socket transparent 0", "socket transparent 0"), ("socket transparent != 1", "socket transparent 1"),
    ("meta length lshift 1 2", "meta length"), ("meta length << 1 == 2", "meta length"), ("@ih,0,32 5", "@ih,0,32"),
    ("reject with icmp 5", "reject with icmp 5"), ("reject with icmp frag-needed", "reject with icmp frag-needed"),
    ("meta random < 10", "meta random"), ("meta random & 0x7ffffff < 10", "meta random"), ("meta random & 0x7fffffff > 10", "meta random"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "what"), NOT_MODELLED, ids=[words for words, _ in NOT_MODELLED])
def test_comparisons_that_nft_takes_and_the_model_does_not_have(words: str, what: str) -> None:
    """They are named, and kept on request."""
    text = HERE.document([f"{words} counter"])
    with pytest.raises(UnsupportedRule) as refused:
        DIALECT.parse(text)
    assert refused.value.what == what
    DIALECT.parse(text, unknown="keep")


WRONG = [
    ("tcp dport 22, 1024 accept", "several values without braces are for flags"), ("meta mark set 0x100000000", "not a mark: 4294967296"),
    ("meta mark set meta mark or 0x100000000", "not a mark: 4294967296"),
    ("iifname { } accept", "a set without elements"), ("tcp flags { syn, syn : ack } accept", "a set's element has no value"),
    ("ip daddr . tcp dport 10.0.0.1 . 80 accept", "a concatenation is compared with sets only"),
    ("ip daddr . tcp dport < 10.0.0.1 . 80 accept", "no comparison with < here"),
    ("meta mark > 0xffffffff accept", "no value is > 4294967295"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "why"), WRONG, ids=[words for words, _ in WRONG])
def test_comparisons_that_make_no_sense(words: str, why: str) -> None:
    found = read(HERE, HERE.document([words]))
    assert isinstance(found, InputError)
    assert not isinstance(found, UnsupportedRule)
    assert why in str(found)


@pytest.mark.parametrize("words", ["meta protocol ip accept", "meta protocol { ip, ip6 } accept"])
def test_the_family_of_the_table_is_no_comparison(words: str) -> None:
    """nft leaves it out of its listing."""
    assert len(body(words, Place("ip", "filter", "input"))) == 1


@pytest.mark.parametrize("words", ["meta protocol ip6 accept", "meta protocol != ip accept"])
def test_the_other_family_is_refused(words: str) -> None:
    place = Place("ip", "filter", "input")
    assert str(read(place, place.document([words]))).endswith(
        ": meta protocol of another family than the table's (t/c rule 1)"
    )


def test_a_range_of_addresses_of_ipv6_has_brackets_around_it_or_around_each() -> None:
    place = Place("ip6", "nat", "prerouting")
    first, second = (
        body(f"tcp dport 80 dnat to {to}:80", place) for to in ("[fd00::1-fd00::4]", "[fd00::1]-[fd00::4]")
    )
    assert first == second
    assert first[-1] == Dnat(0xFD << 120 | 1, 80, last_address=0xFD << 120 | 4)


@pytest.mark.parametrize("words", ["dnat 10.0.0.1", "dnat to 10.0.0.1"])
def test_a_translation_needs_no_to(words: str) -> None:
    assert body(words, Place("ip", "nat", "prerouting")) == (Dnat(TEN + 1),)


REST = NamePattern("")
ELEMENTS = [
    ('iifname vmap { "lo" : accept, * : drop }', [("lo",), (REST,)]),
    ("tcp dport vmap { 80 : accept, * : drop }", [(80,), (REST,)]),
    ("ip saddr vmap { 10.0.0.0/8 : accept, * : drop }", [((TEN, TEN + (1 << 24) - 1),), (REST,)]),
    ("ip saddr . tcp dport vmap { 10.0.0.1 . 80 : drop, * : accept }", [(TEN + 1, 80), (REST, REST)]),
    ('iifname { "eth*", "lo" } accept', [(NamePattern("eth"),), ("lo",)]),
    ('iifname . ip saddr { "eth*" . 10.0.0.1 } accept', [(NamePattern("eth"), TEN + 1)]),
    ("ip saddr . tcp dport { 10.0.0.0/8 . 80-90 } accept", [((TEN, TEN + (1 << 24) - 1), (80, 90))]),
    ("tcp dport vmap { 80 : accept, 80 : accept }", [(80,)]),
    ("ct state vmap { new : accept, established : drop }", [("NEW",), ("ESTABLISHED",)]),
    ("meta l4proto . th dport vmap { tcp . 80 : accept, udp . 53 : drop }", [("tcp", 80), ("udp", 53)]),
]


@pytest.mark.parametrize(("words", "keys"), ELEMENTS, ids=[words for words, _ in ELEMENTS])
def test_elements_in_braces(words: str, keys: list[object]) -> None:
    """``*`` is for the keys that no other element has."""
    (looked_up,) = [each for each in body(words) if isinstance(each, Dispatch | Lookup)]
    found = looked_up.map if isinstance(looked_up, Dispatch) else looked_up.set
    assert list(found.elements) == keys  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("tcp dport vmap { 80 : accept, 80 : drop }", "the same key twice in a map"),
        ("tcp dport vmap { 80-90 : accept, 85 : drop }", "conflicting intervals: 80 to 90 holds 85"),
        ("tcp dport vmap { 80-90 : accept, 90-95 : drop }", "conflicting intervals: 80 to 90 holds 90"),
        ("ip saddr vmap { * : accept, * : drop }", "the same key twice in a map"),
    ],
)
def test_elements_that_contradict(words: str, why: str) -> None:
    assert why in str(read(HERE, HERE.document([words])))


CATCH_ALL = """\
table ip t {
	map m {
		type inet_service : verdict
		elements = { 80 : accept, * : drop }
	}

	map n {
		type ipv4_addr : verdict
		flags interval
		elements = { 10.0.0.0/8 : accept, * : drop }
	}

	set s {
		type ipv4_addr
		elements = { 10.0.0.1, * }
	}

	map c {
		type ipv4_addr . inet_service : verdict
		elements = { 10.0.0.1 . 80 : drop,
\t\t\t     * : accept }
	}

	chain c {
		ip saddr { 10.0.0.1, * } accept
		tcp dport vmap { 80 : drop, * : accept }
		ip saddr . tcp dport vmap { 10.0.0.1 . 80 : drop, * : accept }
	}
}
"""


def test_elements_for_the_rest_are_listed_as_nft_lists_them() -> None:
    """Recorded with nft 1.0.6."""
    (held,) = DIALECT.parse(CATCH_ALL)
    assert DIALECT.render(held, Form.LISTED) == CATCH_ALL
    assert DIALECT.parse(DIALECT.render(held, Form.SENT)) == (held,)
    assert DIALECT.parse(json_text(held)) == (held,)


@pytest.mark.parametrize(
    "words",
    [
        "meta mark { 0x00000005, 0x00010000/16 } accept", "meta mark 0x00010000-0x0001ffff accept", "meta mark 0x00010000/16 accept",
        "ct mark != { 0x00000005, 0x00010000/16 } accept", "meta mark vmap { 0x00000005 : drop, 0x00010000/16 : accept }",
        "iifname vmap { \"lo\" : accept, * : drop }", "tcp dport { 16-31, 80 } accept",
        "meta nfproto ipv4 icmpv6 type echo-request accept", "icmpv6 code { no-route, admin-prohibited } accept", "icmp code { net-unreachable, host-unreachable } accept",
        "icmp type { destination-unreachable, source-quench } accept", "icmpv6 type { destination-unreachable, packet-too-big } accept",
        "ip dscp { cs0, lephb } accept", "ip ecn { not-ect, ect1 } accept", "tcp flags { fin, syn } accept",
    ],
)  # fmt: skip
def test_values_alone_are_written_as_nft_lists_them(words: str) -> None:
    """In sets of marks nft lists prefixes, outside of them it takes them for masks."""
    found = read(HERE, HERE.document([words]))
    assert not isinstance(found, InputError)
    assert rule_words(replace(found[0], spelling=None), Space.INET, Style.LISTED) == words


TREES: list[tuple[Tree, tuple[Statement, ...]]] = [
    ({"limit": {"rate": 10, "per": "second", "burst": 0}}, (Limit(10, "sec", 5),)),
    ({"set": {"op": "add", "elem": {"payload": {"protocol": "ip", "field": "saddr"}}, "set": "@dyn", "stmt": [{"last": None}, {"counter": None}]}},
     (IPV4, UpdateSet(SetReference("dyn"), (Field.SADDR,), SetVerb.ADD))),
    ({"set": {"op": "add", "elem": {"elem": {"val": {"payload": {"protocol": "ip", "field": "saddr"}}}}, "set": "@dyn"}},
     (IPV4, UpdateSet(SetReference("dyn"), (Field.SADDR,), SetVerb.ADD))),
    ({"match": {"op": "==", "left": {"numgen": {"mode": "inc", "mod": 2}}, "right": 1}}, (Lookup((Numgen(2, 0, random=False),), Set.of((1,))),)),
    ({"match": {"op": "==", "left": {"jhash": {"expr": {"meta": {"key": "mark"}}, "mod": 2}}, "right": 1}},
     (Lookup((Hashed((Field.MARK,), 2),), Set.of((1,))),)),
    ({"log": None}, (Log("", "log"),)), ({"log": {"prefix": "a b", "group": 5}}, (Log('prefix "a b" group 5', "log"),)),
    ({"log": {"flags": ["skuid", "ether"], "level": "info"}}, (Log("flags skuid flags ether level info", "log"),)),
    ({"last": {"used": 5}}, ()), ({"counter": {"packets": 5, "bytes": 10}}, ()), ({"notrack": None}, (NoTrack(),)),
]  # fmt: skip


@pytest.mark.parametrize(("tree", "parts"), TREES, ids=[str(tree) for tree, _ in TREES])
def test_trees(tree: Tree, parts: tuple[Statement, ...]) -> None:
    """A burst of 0 is the kernel's 5."""
    place = Place("inet", "filter", "prerouting")
    (rule,) = rules_in(json_document(RecordedPlace(*place), [[tree]]), "inet")
    assert rule.body == parts


def test_trees_are_listed_in_words() -> None:
    """As nft 1.0.6 lists them. Objects of connection tracking that are set stand in quotes."""
    listed = {'ct helper set "x"': {"ct helper": "x"}, 'ct timeout set "y"': {"ct timeout": "y"}, "ct mark set 0x00000005": {
        "mangle": {"key": {"ct": {"key": "mark"}}, "value": 5}}}  # fmt: skip
    rules = rules_in(json_document(RecordedPlace(*HERE), [[tree] for tree in listed.values()]), "inet")
    assert [rule_words(rule, Space.INET, Style.LISTED) for rule in rules] == [*listed]


UNSAID: list[tuple[Statement, str]] = [
    (BridgePort("in"), "nft does not say BridgePort"), (number(Field.SPORT_OR_TYPE, 5), "nft does not say source port or ICMP type"),
    (Assign(Field.MARK, 5, 0, Field.CT_MARK, 3), "nft does not say a combination of two marks"),
    (SetTrafficClass(0xF0, 0), "nft sets the whole DSCP or the whole ECN"), (SetTrafficClass(0x03, 1), "nft sets the whole DSCP or the whole ECN"),
    (Reject(RejectWith.POLICY_FAIL), "icmp has no answer policy fail"), (LocalSocket("--nowildcard"), "nft does not say LocalSocket"),
    (SetTimeToLive("inc", 5), "nft does not say SetTimeToLive"), (ReversePath(accept_local=True), "nft does not say ReversePath"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "why"), UNSAID, ids=[why for _, why in UNSAID])
def test_what_nft_has_no_words_for(part: Statement, why: str) -> None:
    """Rules of iptables have parts that nft lacks."""
    with pytest.raises(ValueError, match=rf"^{why}$"):
        rule_words(Rule((part,)), Space.IP, Style.SENT)


def test_a_translation_in_an_inet_table_needs_its_family() -> None:
    words = [rule_words(Rule((*before, Dnat(TEN))), Space.INET, Style.SENT) for before in ((IPV4,), (TCP, IPV4))]
    assert words == ["dnat ip to 10.0.0.0", "meta l4proto tcp dnat ip to 10.0.0.0"]
    with pytest.raises(ValueError, match=r"^a translation in an inet table needs the family of its address$"):
        rule_words(Rule((Dnat(TEN),)), Space.INET, Style.SENT)
