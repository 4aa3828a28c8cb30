"""Comparisons ⇄ trees: ``match`` of libnftables-json(5)."""

from collections.abc import Sequence

from kpsim.dialects.nft import keys
from kpsim.dialects.nft.context import Context, NotModelled
from kpsim.dialects.nft.datatypes import ETHER_TYPE, NUMBER, Tree, Type
from kpsim.dialects.nft.selectors import Selector, row_of
from kpsim.ruleset import (
    Chance,
    Compare,
    DataType,
    Field,
    Hashed,
    Interval,
    LocalSocket,
    Lookup,
    NamePattern,
    Numgen,
    ReversePath,
    Set,
    SetReference,
    Source,
    among,
)

_PRESENT = ("==", "in", "")
_ORDERED = ("<", ">", "<=", ">=")


def read_match(op: str, left: Tree, right: Tree, context: Context) -> None:
    """Adds a comparison to the rule."""
    if not isinstance(left, dict) or len(left) != 1:
        raise ValueError(f"not a field: {left}")
    if op not in (*_PRESENT, *_ORDERED, "!=", "!"):
        raise ValueError(f"not a comparison: {op}")
    ((kind, about),) = left.items()
    if kind == "fib" and about.get("result") in ("oif", "oifname"):
        _reverse_path(op, about["flags"], right, context)
    elif kind == "socket":
        _socket(op, about, right, context)
    elif kind == "&" and isinstance(about[0], dict) and about[0].get("meta") == {"key": "random"}:
        _chance(op, about[1], right, context)
    elif isinstance(right, str) and right.startswith("@"):
        _named_set(op, left, right[1:], context)
    elif (row := row_of(left)) is not None:
        _field(op, row, None, right, context)
    elif kind == "&" and (row := row_of(about[0])) is not None and isinstance(about[1], int | str | list):
        _field(op, row, about[1], right, context)
    else:
        _looked_up(op, left, right, context)


def _negated(op: str) -> bool:
    if op in (*_PRESENT, "!="):
        return op == "!="
    raise ValueError(f"no comparison with {op} here")


# --- one field --------------------------------------------------------------------------------------------------------


def _field(op: str, row: Selector, mask: Tree, right: Tree, context: Context) -> None:
    if row.type is ETHER_TYPE and not context.both_families:
        _known_family(op, right, context)
        return
    context.imply_row(row)
    if not row.type.is_number:
        names = _names(op, row, mask, right)
        if row.type is ETHER_TYPE and context.family is not None:
            context.body.append(names)  # what a header says of the family counts for nft
        else:
            context.add(names)
        return
    if mask is not None:
        bits = _bits(mask, row.type)
    elif row.type.bits_of and (op in ("in", "", "!")) and not (isinstance(right, dict) and "set" in right):
        # flags without operator: any of them; with `!`: none of them
        value = _bits(right, row.type)
        context.add(Compare(row.field, ((0, 0),), negate=op != "!", mask=value))
        return
    else:
        bits = None
    context.add(_numbers(op, row, bits, right, context.held))


def _known_family(op: str, right: Tree, context: Context) -> None:
    """``meta protocol ip`` in a table of one family is true of all packets; nft leaves it out."""
    family = "ipv4" if context.space.value == "ip" else "ipv6"
    if op not in _PRESENT or family not in [ETHER_TYPE.read(each) for each in _several(right)]:
        raise ValueError("meta protocol of another family than the table's")


def _bits(tree: Tree, kind: Type) -> int:
    part = keys.read_part(tree, kind)
    if not isinstance(part, int):
        raise ValueError(f"not bits: {tree}")
    return part


def _numbers(op: str, row: Selector, mask: int | None, right: Tree, held: bool) -> Compare:
    kind, highest = row.type, (1 << row.type.bits) - 1
    if op == "!":
        raise ValueError("! is for flags")
    if mask == highest:
        mask = None
    if op in _ORDERED:
        bound = keys.read_part(right, kind)
        if not isinstance(bound, int):
            raise ValueError(f"not a bound: {right}")
        return Compare(row.field, _ordered(op, bound, highest), mask=mask)
    negate, parts = op == "!=", _several(right)
    if len(parts) == 1:
        right = parts[0]  # nft takes the braces off
    if (
        isinstance(right, dict)
        and "prefix" in right
        and kind.data not in (DataType.IPV4_ADDRESS, DataType.IPV6_ADDRESS)
    ):
        return _leading_bits(row, right["prefix"], negate, held)
    ranges = among(keys.as_interval(keys.read_part(each, kind)) for each in parts)
    if mask is None and len(ranges) == 1 and kind.data in (DataType.IPV4_ADDRESS, DataType.IPV6_ADDRESS):
        low, high = ranges[0]
        size = high - low + 1
        if size > 1 and size & (size - 1) == 0 and low % size == 0:
            return Compare(row.field, ((low, low),), negate, highest & ~(size - 1))
    return Compare(row.field, ranges, negate, mask)


def _leading_bits(row: Selector, prefix: Tree, negate: bool, held: bool) -> Compare:
    """``meta mark 0x00010000/16``, as nft lists a mask of leading bits.

    So it lists also what the kernel holds of ``meta mark & 0xffff0000 == 0x1``, which is never true.
    """
    value, length, bits = _bits(prefix["addr"], row.type), prefix["len"], row.type.bits
    if not isinstance(length, int) or not 0 <= length <= bits:
        raise ValueError(f"not a prefix length: {length}")
    mask = ((1 << length) - 1) << (bits - length)
    if not held:
        value &= mask  # nft puts no other bits into the kernel than the prefix has
    return Compare(row.field, ((value, value),), negate, mask if length < bits else None)


def _ordered(op: str, bound: int, highest: int) -> tuple[Interval, ...]:
    low, high = {"<": (0, bound - 1), "<=": (0, bound), ">": (bound + 1, highest), ">=": (bound, highest)}[op]
    if low > high:
        raise ValueError(f"no value is {op} {bound}")
    return ((low, high),)


# --- names ------------------------------------------------------------------------------------------------------------


def _names(op: str, row: Selector, mask: Tree, right: Tree) -> Compare | Lookup:
    kind = row.type
    if op in _ORDERED:
        raise NotModelled(f"{row.words} {op} a value")
    if mask is not None:
        return _masked_names(op, row, mask, right)
    if kind.bits_of:
        return _states(op, row, right)
    negate = _negated(op)
    parts = [keys.read_part(each, kind) for each in _several(right)]
    if len(parts) == 1 and isinstance(parts[0], NamePattern):
        return Compare(row.field, parts[0], negate)
    if all(isinstance(part, str) for part in parts):
        return Compare(row.field, frozenset(map(str, parts)), negate)
    return Lookup((row.field,), Set.of(*((part,) for part in parts)), negate)


def _several(right: Tree) -> Sequence[Tree]:
    """The values that are compared with, without what nft takes and drops beside them, as comments."""
    if not isinstance(right, dict) or "set" not in right:
        return [right]
    if not right["set"]:
        raise ValueError("a set without elements")
    if any(isinstance(each, list) for each in right["set"]):
        raise ValueError("a set's element has no value")
    stated = [each["elem"] if isinstance(each, dict) and "elem" in each else {"val": each} for each in right["set"]]
    if any(map(keys.is_limited, stated)):
        raise NotModelled("a limit for each element of a set")
    return [each["val"] for each in stated]


def _states(op: str, row: Selector, right: Tree) -> Compare:
    """Names of which a packet may have several. It has one conntrack state."""
    in_braces = isinstance(right, dict) and "set" in right
    listed = (
        right
        if isinstance(right, list)
        else right["|"]
        if isinstance(right, dict) and "|" in right
        else _several(right)
    )
    names = frozenset(str(row.type.read(each)) for each in listed)
    exact = in_braces or op in ("==", "!=")
    if exact and (row.field is not Field.CT_STATE or (not in_braces and len(names) > 1)):
        raise NotModelled(f"{row.words} compared as a whole")
    return Compare(row.field, names, op in ("!=", "!"))


def _masked_names(op: str, row: Selector, mask: Tree, right: Tree) -> Compare:
    """``ct status & dnat == dnat``, ``ct state & (established | related) != 0``"""
    if not row.type.bits_of:
        raise NotModelled(f"{row.words} under a mask")
    names = frozenset(str(row.type.read(each)) for each in (mask if isinstance(mask, list) else [mask]))
    if op not in ("==", "!=", ""):
        raise ValueError(f"no comparison with {op} under a mask")
    if right == 0:
        return Compare(row.field, names, negate=op != "!=")
    wanted = frozenset(str(row.type.read(each)) for each in (right if isinstance(right, list) else [right]))
    if wanted != names or len(names) > 1:
        raise NotModelled(f"{row.words} compared as a whole")
    return Compare(row.field, names, negate=op == "!=")


# --- sets -------------------------------------------------------------------------------------------------------------


def _named_set(op: str, left: Tree, name: str, context: Context) -> None:
    key = keys.read_key(left, context)
    negate = _negated(op)
    if context.set_of_types(name, key.types).is_map:
        raise ValueError(f"{name} is a map: only vmap and map look into it")
    context.add(Lookup(key.sources, SetReference(name), negate))


def _looked_up(op: str, left: Tree, right: Tree, context: Context) -> None:
    """A concatenation, or a number that is drawn or computed, compared with values."""
    key = keys.read_key(left, context)
    if op in _ORDERED and key.types == (NUMBER,):
        bound = keys.read_part(right, NUMBER)
        if not isinstance(bound, int):
            raise ValueError(f"not a bound: {right}")
        (interval,) = _ordered(op, bound, max(bound + 1, _highest(key.sources[0])))
        context.add(Lookup(key.sources, Set.of((interval,))))
        return
    negate, in_braces = _negated(op), isinstance(right, dict) and "set" in right
    if len(key.types) > 1 and not in_braces:
        raise ValueError("a concatenation is compared with sets only")
    tree = right if in_braces else {"set": [right]}
    context.add(Lookup(key.sources, keys.in_place(tree, key.types, None), negate))


def _highest(source: Source) -> int:
    """The highest number that a source gives. nft takes no range that goes beyond."""
    return source.offset + source.modulus - 1 if isinstance(source, Numgen | Hashed) else (1 << NUMBER.bits) - 1


# --- what is no field -------------------------------------------------------------------------------------------------


def _reverse_path(op: str, flags: Sequence[str], right: Tree, context: Context) -> None:
    """``fib saddr . iif oif missing``: no answer would leave by the interface that the packet came in by."""
    known = {"saddr", "mark", "iif"}
    if "saddr" not in flags or not set(flags) <= known:
        raise NotModelled(f"fib {' . '.join(flags)} oif")
    if isinstance(right, bool):
        present = right
    elif right in (0, "0"):
        present = False
    else:
        raise NotModelled(f"fib {' . '.join(flags)} oif of a name")
    invert = present == _negated(op)
    context.add(ReversePath(loose="iif" not in flags, valid_mark="mark" in flags, invert=invert))


def _socket(op: str, about: Tree, right: Tree, context: Context) -> None:
    if about.get("key") == "transparent" and op in _PRESENT and right == 1:
        context.add(LocalSocket("--transparent"))
        return
    raise NotModelled(f"socket {about.get('key')} {right}")


def _chance(op: str, mask: Tree, right: Tree, context: Context) -> None:
    """How iptables-nft is listed for ``-m statistic --mode random``: 31 random bits are below a threshold."""
    if mask != (1 << 31) - 1 or op != "<" or not isinstance(right, int):
        raise NotModelled("meta random")
    context.add(Chance(right))
