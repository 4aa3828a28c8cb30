"""Selectors: what nft calls the fields of a packet. A row for each, with its words, its tree, its type and what it implies."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.dialects.nft.datatypes import (
    CT_STATE,
    CT_STATUS,
    FIB_TYPE,
    INTERFACE,
    IPV4,
    IPV6,
    MARK,
    NFPROTO,
    NUMBER,
    PORT,
    PROTOCOL,
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


def _addresses(protocol: str, family: Family, kind: Type) -> Iterable[Selector]:
    for name, field in (("saddr", Field.SADDR), ("daddr", Field.DADDR)):
        yield Selector(f"{protocol} {name}", _payload(protocol, name), field, kind, family)


def _ports(protocol: str) -> Iterable[Selector]:
    implied = None if protocol == "th" else protocol
    for name, field in (("sport", Field.SPORT), ("dport", Field.DPORT)):
        yield Selector(f"{protocol} {name}", _payload(protocol, name), field, PORT, None, implied)


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
    Selector("meta nfproto", _meta("nfproto"), Field.NFPROTO, NFPROTO),
    Selector("meta mark", _meta("mark"), Field.MARK, MARK, sent="mark"),
    Selector("meta length", _meta("length"), Field.LENGTH, NUMBER),
    Selector("iifname", _meta("iifname"), Field.IIFNAME, INTERFACE),
    Selector("oifname", _meta("oifname"), Field.OIFNAME, INTERFACE),
    Selector("ct state", {"ct": {"key": "state"}}, Field.CT_STATE, CT_STATE),
    Selector("ct status", {"ct": {"key": "status"}}, Field.CT_STATUS, CT_STATUS),
    Selector("ct mark", {"ct": {"key": "mark"}}, Field.CT_MARK, MARK),
    Selector("fib saddr type", _fib("saddr"), Field.SADDR_TYPE, FIB_TYPE),
    Selector("fib daddr type", _fib("daddr"), Field.DADDR_TYPE, FIB_TYPE),
)


def _by_field() -> Mapping[Field, tuple[Selector, ...]]:
    found: dict[Field, list[Selector]] = {}
    for row in ROWS:
        found.setdefault(row.field, []).append(row)
    return {field: tuple(rows) for field, rows in found.items()}


_BY_FIELD = _by_field()
_BY_TREE = {str(row.tree): row for row in ROWS}


def row_for(field: Field, family: Family, protocol: str | None) -> Selector:
    """The selector that reads a field of packets of a family, whose protocol may be known.

    ValueError if nft has none.
    """
    fitting = [row for row in _BY_FIELD.get(field, ()) if row.family in (None, family)]
    named = [row for row in fitting if row.protocol == protocol]
    chosen = named or [row for row in fitting if row.protocol is None]
    if not chosen:
        raise ValueError(f"nft does not say {field.value}")
    return chosen[0]


def row_of(tree: Tree) -> Selector | None:
    """The selector with this tree, or None."""
    return _BY_TREE.get(str(tree))
