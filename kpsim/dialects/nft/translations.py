"""NAT statements ⇄ trees."""

from collections.abc import Sequence
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.dialects.nft import keys
from kpsim.dialects.nft.context import Context, NotModelled
from kpsim.dialects.nft.datatypes import BY_DATA, PORT, Tree, Type, address_type
from kpsim.ruleset import Dnat, Interval, Mapped, Masquerade, NatFlags, Part, Redirect, SetReference, Snat

_FLAGS = {"random": NatFlags.RANDOM, "fully-random": NatFlags.FULLY_RANDOM, "persistent": NatFlags.PERSISTENT}
_FAMILIES = {"ip": Family.IPV4, "ip6": Family.IPV6}


class _Target(NamedTuple):
    """Where a translation leads."""

    addresses: Interval | None
    ports: Interval | None
    mapped: Mapped | None
    flags: NatFlags


def read_dnat(about: Tree, source: str, context: Context) -> None:
    to = _target(about, context)
    (address, last_address), (port, last_port) = ends(to.addresses), ends(to.ports)
    context.add(Dnat(address, port, to.flags, to.mapped, last_address, last_port))


def read_snat(about: Tree, source: str, context: Context) -> None:
    to = _target(about, context)
    address, last = ends(to.addresses)
    context.add(Snat(address, to.ports, to.flags, to.mapped, last))


def read_masquerade(about: Tree, source: str, context: Context) -> None:
    to = _target(about or {}, context)
    if to.mapped is not None:
        raise NotModelled("masquerade to a map")
    context.add(Masquerade(to.ports, to.flags))


def read_redirect(about: Tree, source: str, context: Context) -> None:
    to = _target(about or {}, context)
    port, last = ends(to.ports)
    context.add(Redirect(port, to.flags, to.mapped, last))


def ends(interval: Interval | None) -> tuple[int | None, int | None]:
    """The first number of a range, and the last one if it is another."""
    if interval is None:
        return None, None
    return interval[0], None if interval[0] == interval[1] else interval[1]


def _target(about: Tree, context: Context) -> _Target:
    if not isinstance(about, dict):
        raise ValueError(f"not a translation: {about}")
    address, port = about.get("addr"), about.get("port")
    if address is None and "family" in about:
        raise ValueError(f"NAT of {about['family']} needs an address")
    flags = _flags(about.get("flags", []))
    family = _family(about, address, context)
    if about.get("type_flags") == "prefix":
        flags |= NatFlags.NETMAP
    if port is not None:
        _with_ports(context)
    if isinstance(address, dict) and "map" in address:
        if isinstance(port, dict) and "map" in port:
            raise NotModelled("NAT to an address of a map with a port of another map")
        ports = None if port is None else _ports(port)
        return _Target(None, ports, _mapped(address["map"], family, context), flags)
    addresses = None if address is None else _addresses(address, family)
    if isinstance(port, dict) and "map" in port:
        return _Target(addresses, None, _mapped(port["map"], None, context), flags)
    return _Target(addresses, None if port is None else _ports(port), None, flags)


def _addresses(tree: Tree, family: Family) -> Interval:
    """An address, a range or a prefix."""
    if isinstance(tree, dict) and not tree.keys() & {"range", "prefix"}:
        raise NotModelled("NAT to a computed address")
    return keys.as_interval(keys.read_part(tree, address_type(family)))


def _with_ports(context: Context) -> None:
    """ValueError if the rule does not say that packets have ports. nft asks for it."""
    if not context.has_ports:
        raise ValueError("transport protocol mapping is only valid after transport protocol match")


def _family(about: Tree, address: Tree, context: Context) -> Family:
    named = _FAMILIES.get(about.get("family", ""))
    if context.both_families and address is not None:
        if named is None and context.family is None:
            raise ValueError("ip or ip6 must be specified with address for inet tables")
        named = named or context.family
        context.imply(named, None)
    family = named or context.family or Family.IPV4
    if context.family is not None and family is not context.family:
        raise ValueError(f"NAT of {family.label} in a rule for {context.family.label} packets")
    return family


def _ports(tree: Tree) -> Interval:
    return keys.as_interval(keys.read_part(tree, PORT))


def _flags(words: Tree) -> NatFlags:
    flags = NatFlags(0)
    for word in [words] if isinstance(words, str) else words:
        if word == "netmap":
            flags |= NatFlags.NETMAP
            continue
        if word not in _FLAGS:
            raise NotModelled(f"NAT with {word}")
        flags |= _FLAGS[word]
    return flags


def _mapped(tree: Tree, family: Family | None, context: Context) -> Mapped:
    """A map to addresses, to ports, or to both. ``family`` None: to ports."""
    key = keys.read_key(tree["key"], context)
    data = tree["data"]
    if isinstance(data, str):
        name = data.removeprefix("@")
        kind = context.set_of_types(name, key.types).type
        if kind is None or kind.data is None:
            raise ValueError(f"{name} is a set, not a map")
        found = [BY_DATA.get(each) for each in kind.data]
        address, port = found[0] is not PORT, PORT in found
        return Mapped(key.sources, SetReference(name), address, port)
    elements = data.get("set") if isinstance(data, dict) else None
    if not elements or not isinstance(elements[0], list):
        raise ValueError("a map without elements")
    types: list[Type] = [PORT] if family is None else [address_type(family)]
    first = elements[0][1]
    if family is not None and isinstance(first, dict) and "concat" in first:
        types.append(PORT)
    made = keys.in_place(data, key.types, lambda each: _values(each, types))
    return Mapped(key.sources, made, family is not None, PORT in types)


def _values(tree: Tree, types: Sequence[Type]) -> tuple[Part, ...]:
    return keys.read_parts(tree, types)
