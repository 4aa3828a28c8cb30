"""Parts of rules, by the names that iptables users know."""

from collections.abc import Iterable

from kpsim.addresses import Network
from kpsim.ruleset import (
    ALL_BITS,
    NO_FLAGS,
    TCP_FLAG_BITS,
    Assign,
    Chance,
    Compare,
    EitherPort,
    Field,
    Lookup,
    Masquerade,
    NamePattern,
    NatFlags,
    RejectWith,
    Set,
    among,
    equal,
    named,
    within,
)

#: answers of REJECT, by iptables' names
PORT_UNREACHABLE, TCP_RESET = RejectWith.PORT_UNREACHABLE, RejectWith.TCP_RESET


def from_net(network: Network, negate: bool = False) -> Compare:
    return within(Field.SADDR, network, negate=negate)


def to_net(network: Network, negate: bool = False) -> Compare:
    return within(Field.DADDR, network, negate=negate)


def _interface(field: Field, name: str, negate: bool) -> Compare:
    if name.endswith("+"):
        return Compare(field, NamePattern(name[:-1]), negate)
    return named(field, name, negate=negate)


def in_interface(name: str, negate: bool = False) -> Compare:
    return _interface(Field.IIFNAME, name, negate)


def out_interface(name: str, negate: bool = False) -> Compare:
    return _interface(Field.OIFNAME, name, negate)


def of_protocol(name: str, negate: bool = False) -> Compare:
    return named(Field.L4PROTO, name, negate=negate)


def source_port(low: int, high: int, negate: bool = False) -> Compare:
    return Compare(Field.SPORT, ((low, high),), negate)


def destination_port(low: int, high: int, negate: bool = False) -> Compare:
    return Compare(Field.DPORT, ((low, high),), negate)


def tcp_flags(mask: Iterable[str], value: Iterable[str], negate: bool = False) -> Compare:
    bits = [sum(TCP_FLAG_BITS[flag] for flag in flags) for flags in (value, mask)]
    return equal(Field.TCP_FLAGS, bits[0], mask=bits[1], negate=negate)


def multiport(side: str, ranges: tuple[tuple[int, int], ...], negate: bool = False) -> Compare | EitherPort:
    if side == "ports":
        return EitherPort(among(ranges), negate)
    return Compare(Field.SPORT if side == "sports" else Field.DPORT, among(ranges), negate)


def icmp_type(kind: int, code: int | None = None, negate: bool = False) -> Compare | Lookup:
    if code is None:
        return equal(Field.ICMP_TYPE, kind, negate=negate)
    return Lookup((Field.ICMP_TYPE, Field.ICMP_CODE), Set.of((kind, code)), negate)


def ct_state(*states: str, negate: bool = False) -> Compare:
    return named(Field.CT_STATE, *states, negate=negate)


def ct_original_destination(network: Network, negate: bool = False) -> Compare:
    return within(Field.CT_ORIGINAL_DADDR, network, negate=negate)


def ct_original_port(low: int, high: int, negate: bool = False) -> Compare:
    return Compare(Field.CT_ORIGINAL_DPORT, ((low, high),), negate)


def ct_direction(direction: str) -> Compare:
    return named(Field.CT_DIRECTION, direction)


def _mark(field: Field, value: int, mask: int, negate: bool) -> Compare:
    return equal(field, value, negate=negate, mask=None if mask == ALL_BITS else mask)


def connection_mark(value: int, mask: int = ALL_BITS, negate: bool = False) -> Compare:
    return _mark(Field.CT_MARK, value, mask, negate)


def marked(value: int, mask: int = ALL_BITS, negate: bool = False) -> Compare:
    return _mark(Field.MARK, value, mask, negate)


def address_type(side: str, *types: str, negate: bool = False) -> Compare:
    return named(Field.SADDR_TYPE if side == "src" else Field.DADDR_TYPE, *types, negate=negate)


def address_range(side: str, low: int, high: int, negate: bool = False) -> Compare:
    return Compare(Field.SADDR if side == "src" else Field.DADDR, ((low, high),), negate)


def time_to_live(relation: str, value: int, negate: bool = False) -> Compare:
    low, high = {"eq": (value, value), "lt": (0, value - 1), "gt": (value + 1, 255)}[relation]
    return Compare(Field.TTL, ((low, high),) if low <= high else (), negate)


def chance(threshold: int) -> Chance:
    return Chance(threshold)


def set_mark(value: int, mask: int) -> Assign:
    """mark := (mark AND NOT ``mask``) XOR ``value``."""
    return Assign(Field.MARK, ALL_BITS ^ mask, value)


def set_connection_mark(action: str, value: int, mask: int) -> Assign:
    """CONNMARK: ``set`` as for a packet's mark; ``save`` and ``restore`` with the masks of packet and connection."""
    match action:
        case "set":
            return Assign(Field.CT_MARK, ALL_BITS ^ mask, value)
        case "save":
            return Assign(Field.CT_MARK, ALL_BITS ^ mask, 0, Field.MARK, value)
        case _:
            return Assign(Field.MARK, ALL_BITS ^ value, 0, Field.CT_MARK, mask)


def masquerade(*, random: bool = False, random_fully: bool = False, ports: tuple[int, int] | None = None) -> Masquerade:
    return Masquerade(ports, nat_flags(random=random, random_fully=random_fully))


def nat_flags(*, random: bool = False, random_fully: bool = False, persistent: bool = False) -> NatFlags:
    flags = NO_FLAGS
    for given, flag in (
        (random, NatFlags.RANDOM), (random_fully, NatFlags.FULLY_RANDOM), (persistent, NatFlags.PERSISTENT),
    ):  # fmt: skip
        flags |= flag if given else NO_FLAGS
    return flags
