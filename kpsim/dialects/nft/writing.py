"""From a rule of the model to trees: one tree for each statement of nft."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.dialects.nft.datatypes import NUMBER, PORT, Tree, Type, address_type
from kpsim.dialects.nft.selectors import row_for
from kpsim.ruleset import (
    ALL_BITS,
    Assign,
    Atom,
    Compare,
    DataType,
    Dispatch,
    Dnat,
    Element,
    Expression,
    Field,
    Goto,
    Interval,
    Jump,
    Key,
    Lookup,
    Mapped,
    Masked,
    Masquerade,
    NamePattern,
    NatFlags,
    Numgen,
    Part,
    Redirect,
    Reject,
    RejectWith,
    Rule,
    Set,
    SetReference,
    Snat,
    Source,
    Statement,
    Terminal,
    UpdateSet,
)


class Piece(NamedTuple):
    """A tree, and the place in the body of the part that it says."""

    tree: Tree
    at: int


def pieces(rule: Rule, family: Family) -> list[Piece]:
    """The statements of a rule in a table of one family. ValueError for a part that nft cannot say."""
    return [Piece(tree, at) for at, part in enumerate(rule.body) for tree in _trees(part, family)]


def _trees(part: Expression | Statement, family: Family) -> Iterator[Tree]:  # noqa: C901 - one case per kind of part
    match part:
        case Compare():
            yield _compare(part, family)
        case Lookup(key, elements, negate):
            yield {
                "match": {
                    "op": "!=" if negate else "==",
                    "left": key_tree(key, family),
                    "right": _set(elements, key, family),
                }
            }
        case Terminal() | Jump() | Goto():
            yield verdict(part)
        case Dispatch(key, elements):
            yield {"vmap": {"key": key_tree(key, family), "data": _set(elements, key, family)}}
        case Assign():
            yield _assign(part, family)
        case Reject(with_):
            yield _reject(with_, family)
        case Dnat(address, port, flags, mapped):
            yield {"dnat": _translation(address, port, mapped, family) | _flags(flags)}
        case Snat(address, ports, flags, mapped):
            yield {"snat": _translation(address, _range(ports), mapped, family) | _flags(flags)}
        case Masquerade(ports, flags):
            yield {"masquerade": ({} if ports is None else {"port": _range(ports)}) | _flags(flags) or None}
        case Redirect(port, flags, mapped):
            yield {"redirect": _translation(None, port, mapped, family) | _flags(flags) or None}
        case UpdateSet(name, key, verb, timeout_ns):
            element: Tree = key_tree(key, family)
            if timeout_ns is not None:
                element = {"elem": {"val": element, "timeout": timeout_ns // 1_000_000_000}}
            yield {"set": {"op": verb.value, "elem": element, "set": f"@{name.name}"}}
        case _:
            raise ValueError(f"nft does not say {type(part).__name__}")


# --- expressions ------------------------------------------------------------------------------------------------------


def source_tree(source: Source, family: Family) -> Tree:
    """What a source of a key is called."""
    match source:
        case Field():
            return row_for(source, family, None).tree
        case Masked(field, mask, shift):
            masked = {"&": [row_for(field, family, None).tree, mask]}
            return {">>": [masked, shift]} if shift else masked
        case Numgen(modulus, offset, random):
            return {"numgen": {"mode": "random" if random else "inc", "mod": modulus, "offset": offset}}
        case _:
            raise ValueError(f"nft does not say {type(source).__name__}")


def source_type(source: Source, family: Family) -> Type:
    """The type of a source's values."""
    match source:
        case Field():
            return row_for(source, family, None).type
        case Masked(field):
            return row_for(field, family, None).type
        case _:
            return NUMBER


def key_tree(key: Sequence[Source], family: Family) -> Tree:
    """The tree of a key: of its source, or of their concatenation."""
    sources = [source_tree(source, family) for source in key]
    return sources[0] if len(sources) == 1 else {"concat": sources}


def _compare(compare: Compare, family: Family) -> Tree:
    row = row_for(compare.field, family, None)
    left, right = row.tree, _right(compare, row.type)
    if compare.mask is not None and not isinstance(right, dict):
        left = {"&": [left, compare.mask]}
    op = "!=" if compare.negate else "in" if compare.field in (Field.CT_STATE, Field.CT_STATUS) else "=="
    return {"match": {"op": op, "left": left, "right": right}}


def _right(compare: Compare, kind: Type) -> Tree:
    among = compare.among
    if isinstance(among, NamePattern):
        return among.prefix + "*"
    if isinstance(among, frozenset):
        names = [kind.write(name) for name in sorted(among)]
        if len(names) == 1:
            return names[0]
        return names if compare.field in (Field.CT_STATE, Field.CT_STATUS) else {"set": names}
    if compare.mask is not None and compare.value is not None and kind.bits in (32, 128):
        prefix = _prefix_of(compare.value, compare.mask, kind)
        if prefix is not None:
            return prefix
    parts = [part_tree(each, kind) for each in among]
    return parts[0] if len(parts) == 1 else {"set": parts}


def _prefix_of(base: int, mask: int, kind: Type) -> Tree | None:
    if kind.data not in (DataType.IPV4_ADDRESS, DataType.IPV6_ADDRESS):
        return None
    host = mask ^ ((1 << kind.bits) - 1)
    if host & (host + 1):
        return None
    return {"prefix": {"addr": kind.write(base), "len": kind.bits - host.bit_length()}}


def part_tree(part: Part, kind: Type) -> Tree:
    """One part of a key: a value, a prefix, a range, or names that begin alike."""
    if isinstance(part, NamePattern):
        return part.prefix + "*"
    if not isinstance(part, tuple):
        return kind.write(part)
    low, high = part
    if low == high:
        return kind.write(low)
    return (
        _prefix_of(low, ((1 << kind.bits) - 1) & ~(low ^ high), kind)
        if _is_prefix(part) and _is_address(kind)
        else ({"range": [kind.write(low), kind.write(high)]})
    )


def _is_address(kind: Type) -> bool:
    return kind.data in (DataType.IPV4_ADDRESS, DataType.IPV6_ADDRESS)


def _is_prefix(part: Interval) -> bool:
    low, high = part
    size = high - low + 1
    return size & (size - 1) == 0 and low % size == 0


# --- sets -------------------------------------------------------------------------------------------------------------


def _set(elements: Set | SetReference, key: Sequence[Source], family: Family) -> Tree:
    if isinstance(elements, SetReference):
        return f"@{elements.name}"
    kinds = [source_type(source, family) for source in key]
    return {"set": [element_tree(each, element, kinds, ()) for each, element in elements.elements.items()]}


def element_tree(
    key: Key, element: Element, kinds: Sequence[Type], data: Sequence[Type], *, bare: bool = False
) -> Tree:
    """One element of a set or map. ``data`` are the types of a map's values; ``bare``: the key alone."""
    tree = _joined([part_tree(part, kind) for part, kind in zip(key, kinds, strict=True)])
    if bare:
        return tree
    if element.comment or element.timeout_ns is not None:
        about: dict[str, Tree] = {"val": tree}
        if element.timeout_ns is not None:
            about["timeout"] = element.timeout_ns // 1_000_000_000
        if element.comment:
            about["comment"] = element.comment
        tree = {"elem": about}
    match element.value:
        case None:
            return tree
        case tuple() as values:
            return [tree, _joined([part_tree(part, kind) for part, kind in zip(values, data, strict=True)])]
        case decided:
            return [tree, verdict(decided)]


def _joined(parts: list[Tree]) -> Tree:
    return parts[0] if len(parts) == 1 else {"concat": parts}


# --- statements -------------------------------------------------------------------------------------------------------


def verdict(decided: Terminal | Jump | Goto) -> Tree:
    """The tree of a verdict."""
    match decided:
        case Jump(chain):
            return {"jump": {"target": chain}}
        case Goto(chain):
            return {"goto": {"target": chain}}
        case Terminal(word):
            return {word.value.lower(): None}


def _assign(assign: Assign, family: Family) -> Tree:
    """How nft writes ``to := (to & keep) ^ flip``: set, or, and, xor."""
    to, keep, flip = assign.to, assign.keep, assign.flip
    left = row_for(to, family, None).tree
    if assign.source is not None:
        source = row_for(assign.source, family, None).tree
        if keep or flip or assign.take != ALL_BITS:
            raise ValueError("nft does not say this combination of two marks")
        return {"mangle": {"key": left, "value": source}}
    value: Tree
    if keep == 0:
        value = flip
    elif keep == ALL_BITS:
        value = {"^": [left, flip]}
    elif flip == 0:
        value = {"&": [left, keep]}
    elif flip == keep ^ ALL_BITS:
        value = {"|": [left, flip]}
    elif flip & keep == 0:
        value = {"|": [{"&": [left, keep]}, flip]}
    else:
        value = {"^": [{"&": [left, keep]}, flip]}
    return {"mangle": {"key": left, "value": value}}


_REJECTS = {
    RejectWith.NO_ROUTE: "no-route", RejectWith.HOST_UNREACHABLE: "host-unreachable",
    RejectWith.PORT_UNREACHABLE: "port-unreachable", RejectWith.ADMIN_PROHIBITED: "admin-prohibited",
}  # fmt: skip


def _reject(with_: RejectWith, family: Family) -> Tree:
    if with_ is RejectWith.TCP_RESET:
        return {"reject": {"type": "tcp reset"}}
    return {"reject": {"type": "icmp" if family is Family.IPV4 else "icmpv6", "expr": _REJECTS[with_]}}


def _translation(address: int | None, port: Atom | Tree, mapped: Mapped | None, family: Family) -> dict[str, Tree]:
    about: dict[str, Tree] = {}
    if mapped is not None:
        kinds = ([address_type(family)] if mapped.address else []) + ([PORT] if mapped.port else [])
        about["family"] = "ip" if family is Family.IPV4 else "ip6"
        about["addr" if mapped.address else "port"] = {
            "map": {"key": key_tree(mapped.key, family), "data": _map(mapped, kinds, family)}
        }
        return about
    if address is not None:
        about["addr"] = address_type(family).write(address)
    if port is not None:
        about["port"] = port
    return about


def _map(mapped: Mapped, data: Sequence[Type], family: Family) -> Tree:
    if isinstance(mapped.map, SetReference):
        return f"@{mapped.map.name}"
    kinds = [source_type(source, family) for source in mapped.key]
    return {"set": [element_tree(key, element, kinds, data) for key, element in mapped.map.elements.items()]}


def _range(ports: Interval | None) -> Tree:
    if ports is None:
        return None
    return ports[0] if ports[0] == ports[1] else {"range": list(ports)}


_FLAG_WORDS = {NatFlags.RANDOM: "random", NatFlags.FULLY_RANDOM: "fully-random", NatFlags.PERSISTENT: "persistent"}


def _flags(flags: NatFlags) -> dict[str, Tree]:
    words = [word for flag, word in _FLAG_WORDS.items() if flag in flags]
    return {} if not words else {"flags": words[0] if len(words) == 1 else words}
