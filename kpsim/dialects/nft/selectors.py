"""Selectors: what nft calls the fields of a packet. A row for each, with its words, its tree, its type and what it implies."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.dialects.nft.datatypes import (
    BYTE,
    CT_DIRECTION,
    CT_STATE,
    CT_STATUS,
    DSCP,
    ECN,
    ETHER_TYPE,
    FIB_TYPE,
    FRAME,
    GID,
    ICMP_CODE,
    ICMP_TYPE,
    ICMPV6_CODE,
    ICMPV6_TYPE,
    INTERFACE,
    INTERFACE_INDEX,
    IPV4,
    IPV6,
    LENGTH,
    MARK,
    NFPROTO,
    PORT,
    PROTOCOL,
    TCP_FLAG,
    UID,
    Tree,
    Type,
)
from kpsim.ruleset import Field


class Selector(NamedTuple):
    """One selector. ``family`` and ``protocol`` are what a packet must have, so nft adds a comparison for it."""

    words: str  #: as nft lists it
    tree: Tree
    field: Field
    type: Type
    family: Family | None = None
    protocol: str | None = None
    sent: str = ""  #: as kube-proxy writes it, where that differs

    @property
    def text(self) -> str:
        """As kube-proxy writes it."""
        return self.sent or self.words


def _payload(protocol: str, name: str) -> Tree:
    return {"payload": {"protocol": protocol, "field": name}}


def _meta(key: str) -> Tree:
    return {"meta": {"key": key}}


def _fib(*flags: str) -> Tree:
    return {"fib": {"result": "type", "flags": list(flags)}}


def _ct(key: str) -> Tree:
    return {"ct": {"key": key}}


def _original(key: str) -> Tree:
    return {"ct": {"dir": "original", "key": key}}


def _addresses(protocol: str, family: Family, kind: Type) -> Iterable[Selector]:
    for name, field in (("saddr", Field.SADDR), ("daddr", Field.DADDR)):
        yield Selector(f"{protocol} {name}", _payload(protocol, name), field, kind, family)


def _ports(protocol: str) -> Iterable[Selector]:
    implied = None if protocol == "th" else protocol
    for name, field in (("sport", Field.SPORT), ("dport", Field.DPORT)):
        yield Selector(f"{protocol} {name}", _payload(protocol, name), field, PORT, None, implied)


def _of_header(name: str, field: Field, kind: Type) -> Iterable[Selector]:
    for protocol, family in (("ip", Family.IPV4), ("ip6", Family.IPV6)):
        yield Selector(f"{protocol} {name}", _payload(protocol, name), field, kind, family)


FLAGS = Selector("tcp flags", _payload("tcp", "flags"), Field.TCP_FLAGS, TCP_FLAG, None, "tcp")

ROWS: tuple[Selector, ...] = (
    *_addresses("ip", Family.IPV4, IPV4),
    *_addresses("ip6", Family.IPV6, IPV6),
    *_ports("th"),
    *_ports("tcp"),
    *_ports("udp"),
    *_ports("sctp"),
    *_ports("udplite"),
    *_ports("dccp"),
    Selector("meta l4proto", _meta("l4proto"), Field.L4PROTO, PROTOCOL),
    Selector("ip protocol", _payload("ip", "protocol"), Field.L4PROTO, PROTOCOL, Family.IPV4),
    Selector("ip6 nexthdr", _payload("ip6", "nexthdr"), Field.L4PROTO, PROTOCOL, Family.IPV6),
    Selector("meta nfproto", _meta("nfproto"), Field.NFPROTO, NFPROTO),
    Selector("meta protocol", _meta("protocol"), Field.NFPROTO, ETHER_TYPE),
    Selector("icmp type", _payload("icmp", "type"), Field.ICMP_TYPE, ICMP_TYPE, Family.IPV4, "icmp"),
    Selector("icmp code", _payload("icmp", "code"), Field.ICMP_CODE, ICMP_CODE, Family.IPV4, "icmp"),
    Selector("icmpv6 type", _payload("icmpv6", "type"), Field.ICMP_TYPE, ICMPV6_TYPE, Family.IPV6, "icmpv6"),
    Selector("icmpv6 code", _payload("icmpv6", "code"), Field.ICMP_CODE, ICMPV6_CODE, Family.IPV6, "icmpv6"),
    FLAGS,
    Selector("ip ttl", _payload("ip", "ttl"), Field.TTL, BYTE, Family.IPV4),
    Selector("ip6 hoplimit", _payload("ip6", "hoplimit"), Field.TTL, BYTE, Family.IPV6),
    *_of_header("dscp", Field.DSCP, DSCP),
    *_of_header("ecn", Field.ECN, ECN),
    Selector("meta pkttype", _meta("pkttype"), Field.FRAME, FRAME),
    Selector("meta mark", _meta("mark"), Field.MARK, MARK, sent="mark"),
    Selector("meta length", _meta("length"), Field.LENGTH, LENGTH),
    Selector("ip length", _payload("ip", "length"), Field.LENGTH, PORT, Family.IPV4),
    Selector("iifname", _meta("iifname"), Field.IIFNAME, INTERFACE),
    Selector("oifname", _meta("oifname"), Field.OIFNAME, INTERFACE),
    Selector("iif", _meta("iif"), Field.IIFNAME, INTERFACE_INDEX),
    Selector("oif", _meta("oif"), Field.OIFNAME, INTERFACE_INDEX),
    Selector("meta skuid", _meta("skuid"), Field.UID, UID),
    Selector("meta skgid", _meta("skgid"), Field.GID, GID),
    Selector("ct state", _ct("state"), Field.CT_STATE, CT_STATE),
    Selector("ct status", _ct("status"), Field.CT_STATUS, CT_STATUS),
    Selector("ct direction", _ct("direction"), Field.CT_DIRECTION, CT_DIRECTION),
    Selector("ct mark", _ct("mark"), Field.CT_MARK, MARK),
    Selector("ct original ip daddr", _original("ip daddr"), Field.CT_ORIGINAL_DADDR, IPV4, Family.IPV4),
    Selector("ct original ip6 daddr", _original("ip6 daddr"), Field.CT_ORIGINAL_DADDR, IPV6, Family.IPV6),
    Selector("ct original proto-dst", _original("proto-dst"), Field.CT_ORIGINAL_DPORT, PORT),
    Selector("fib saddr type", _fib("saddr"), Field.SADDR_TYPE, FIB_TYPE),
    Selector("fib daddr type", _fib("daddr"), Field.DADDR_TYPE, FIB_TYPE),
    Selector("fib saddr . iif type", _fib("saddr", "iif"), Field.SADDR_TYPE_IN, FIB_TYPE),
    Selector("fib saddr . oif type", _fib("saddr", "oif"), Field.SADDR_TYPE_OUT, FIB_TYPE),
    Selector("fib daddr . iif type", _fib("daddr", "iif"), Field.DADDR_TYPE_IN, FIB_TYPE),
    Selector("fib daddr . oif type", _fib("daddr", "oif"), Field.DADDR_TYPE_OUT, FIB_TYPE),
)


def _key(tree: Tree) -> tuple[object, ...]:
    """A selector's tree as the key of a dictionary."""
    ((kind, about),) = tree.items()
    if not isinstance(about, dict):
        return kind, str(about)
    return kind, *sorted((name, tuple(each) if isinstance(each, list) else str(each)) for name, each in about.items())


def _by_field() -> Mapping[Field, tuple[Selector, ...]]:
    found: dict[Field, list[Selector]] = {}
    for row in ROWS:
        found.setdefault(row.field, []).append(row)
    return {field: tuple(rows) for field, rows in found.items()}


_BY_FIELD = _by_field()
#: the first bits of ports of any protocol, as people wrote them before nft had `th`
_RAW = {"th sport": 0, "th dport": 16}
_BY_TREE = {_key(row.tree): row for row in ROWS} | {
    _key({"payload": {"base": "th", "offset": _RAW[row.words], "len": 16}}): row for row in ROWS if row.words in _RAW
}


def row_for(field: Field, family: Family | None, protocol: str | None) -> Selector:
    """The selector that reads a field of packets whose family and protocol may be known.

    ValueError if nft has none.
    """
    rows = _BY_FIELD.get(field, ())
    fitting = [row for row in rows if row.family is None or family in (None, row.family)]
    named = [row for row in rows if row.protocol is not None and row.protocol == protocol]
    chosen = named or [row for row in fitting if row.protocol is None] or fitting
    if not chosen:
        raise ValueError(f"nft does not say {field.value}")
    return chosen[0]


def row_of(tree: Tree) -> Selector | None:
    """The selector with this tree, or None."""
    return _BY_TREE.get(_key(tree)) if isinstance(tree, dict) and len(tree) == 1 else None
