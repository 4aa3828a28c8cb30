"""ipsets: sets that belong to a network namespace, so that rules of every table of iptables may look them up.

Counterpart: the set types of ip_set, and xt_set. A rule names a set and directions; which parts of a packet these mean
follows from the set's type (:func:`set_match`). An element that is a network holds an interval of addresses.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.maps import Map
from kpsim.ruleset.expressions import Lookup, Masked, Source
from kpsim.ruleset.fields import Field
from kpsim.ruleset.sets import (
    NO_SET_FLAGS,
    PLAIN,
    DataType,
    Element,
    Interval,
    Ipset,
    Key,
    Set,
    SetFlags,
    SetReference,
    SetType,
)

DEFAULT_HASH_SIZE, DEFAULT_MOST_ELEMENTS = 1024, 65536
SOURCE, DESTINATION = "src", "dst"  #: the directions


class IpsetKind(NamedTuple):
    """What elements of one type of ipset consist of: ``ip``, ``net``, ``port``, ``mark``, ``iface``."""

    parts: tuple[str, ...]
    bitmap: bool = False

    @property
    def has_networks(self) -> bool:
        return "net" in self.parts

    @property
    def has_family(self) -> bool:
        return not self.bitmap


#: the types that are modelled. Those with MAC addresses are not, as packets of the model have none, nor lists of sets,
#: whose members read different parts of a packet
IPSET_KINDS: Mapping[str, IpsetKind] = {
    **{
        name: IpsetKind(tuple(name.removeprefix("hash:").split(",")))
        for name in (
            "hash:ip", "hash:net", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net", "hash:net,port", "hash:net,net",
            "hash:net,port,net", "hash:ip,mark", "hash:net,iface",
        )
    },
    "bitmap:ip": IpsetKind(("ip",), bitmap=True),
    "bitmap:port": IpsetKind(("port",), bitmap=True),
}  # fmt: skip

_FIELDS: Mapping[tuple[str, str], Field] = {
    ("ip", SOURCE): Field.SADDR, ("ip", DESTINATION): Field.DADDR,
    ("net", SOURCE): Field.SADDR, ("net", DESTINATION): Field.DADDR,
    ("port", SOURCE): Field.SPORT_OR_TYPE, ("port", DESTINATION): Field.DPORT_OR_TYPE,
    ("iface", SOURCE): Field.IIFNAME, ("iface", DESTINATION): Field.OIFNAME,
}  # fmt: skip
_BITMAP_PORTS = {SOURCE: Field.SPORT_OF_BITMAP, DESTINATION: Field.DPORT_OF_BITMAP}
_DATA: Mapping[str, DataType] = {
    "port": DataType.PORT, "mark": DataType.MARK, "iface": DataType.INTERFACE,
}  # fmt: skip


def type_of_ipset(kind: str, family: Family | None) -> SetType:
    """What the keys of elements consist of; ``family`` None: of a bitmap of addresses, IPv4."""
    address = DataType.IPV6_ADDRESS if family is Family.IPV6 else DataType.IPV4_ADDRESS
    of = IPSET_KINDS[kind]
    key: list[DataType] = []
    for part in of.parts:
        if part == "port" and not of.bitmap:
            key.append(DataType.PROTOCOL)
        key.append(_DATA.get(part, address))
    return SetType(tuple(key), words=kind)


def make_ipset(
    name: str,
    kind: str,
    family: Family | None = None,
    elements: Iterable[Key] | Map[Key, Element] = (),
    *,
    bounds: Interval | None = None,
) -> Set:
    """An ipset as ``ipset create NAME TYPE`` makes it, with these elements.

    ``family`` is that of a hash of addresses; sets of other types have none. ``bounds`` are the first and the last
    value of a bitmap. KeyError for a type that is not modelled.
    """
    of = IPSET_KINDS[kind]
    hashed = kind.startswith("hash:")
    return Set(
        elements if isinstance(elements, Map) else Map(dict.fromkeys(elements, PLAIN)),
        name,
        type_of_ipset(kind, family),
        SetFlags.INTERVAL if of.has_networks else NO_SET_FLAGS,
        size=DEFAULT_MOST_ELEMENTS if hashed else None,
        ipset=Ipset(
            kind,
            family if of.has_family else None,
            DEFAULT_HASH_SIZE if hashed else None,
            bounds=bounds or ((0, 65535) if kind == "bitmap:port" else None),
        ),
    )


def set_match(of: Set, directions: Sequence[str], *, negate: bool = False) -> Lookup:
    """The look-up that ``-m set [!] --match-set NAME DIRECTIONS`` is.

    A packet without one of the parts is in no set, so a negated match of it is true. If there are fewer directions than
    the set has dimensions, no packet is in the set; more are ignored (measured).
    """
    assert of.ipset is not None
    return Lookup(_key(of.ipset, directions), SetReference(of.name, of_namespace=True), negate, absent=negate)


def _key(ipset: Ipset, directions: Sequence[str]) -> tuple[Source, ...]:
    """The parts of a packet that the directions mean; none if there are too few directions."""
    of = IPSET_KINDS[ipset.kind]
    if len(directions) < len(of.parts):
        return ()
    key: list[Source] = []
    for part, direction in zip(of.parts, directions, strict=False):
        if part == "mark":
            key.append(_masked(Field.MARK, ipset.mark_mask))
        elif part == "port" and of.bitmap:
            key.append(_BITMAP_PORTS[direction])
        elif part == "port":
            key += [Field.L4PROTO, _FIELDS[part, direction]]
        elif part in ("ip", "net"):
            key.append(_masked(_FIELDS[part, direction], ipset.mask))
        else:
            key.append(_FIELDS[part, direction])
    return tuple(key)


def _masked(field: Field, mask: int | None) -> Source:
    return field if mask is None else Masked(field, mask)
