"""From a rule of the model to trees: one tree for each statement of nft.

What a selector implies is left out: ``tcp dport`` says the protocol, and in an inet table ``ip saddr`` says the family.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.dialects.nft.datatypes import MARK, NUMBER, PORT, TCP_FLAG, Tree, Type, address_type
from kpsim.dialects.nft.reading import REJECTS
from kpsim.dialects.nft.selectors import Selector, row_for
from kpsim.dialects.nft.syntax import statements
from kpsim.dialects.nft.tokens import Cursor, tokens_of
from kpsim.ruleset import (
    ALL_BITS,
    Adjust,
    Assign,
    AssignFrom,
    Chance,
    Compare,
    Counter,
    DataType,
    Dispatch,
    Dnat,
    Element,
    Expression,
    Field,
    Goto,
    Hashed,
    Interval,
    Jump,
    Key,
    Limit,
    LocalSocket,
    Log,
    Lookup,
    Mapped,
    Masked,
    Masquerade,
    NamePattern,
    NatFlags,
    NoTrack,
    Numgen,
    Part,
    Quota,
    Redirect,
    Reject,
    RejectWith,
    ReversePath,
    Rule,
    Set,
    SetReference,
    SetTimeToLive,
    SetTrafficClass,
    Snat,
    Source,
    Space,
    Statement,
    Terminal,
    Unknown,
    Unmodelled,
    UpdateSet,
    is_for_the_rest,
)
from kpsim.units import SECOND_NS

_FAMILIES = {Space.IP: Family.IPV4, Space.IP6: Family.IPV6}
_BY_NAME = {"ipv4": Family.IPV4, "ipv6": Family.IPV6}


class Piece(NamedTuple):
    """A tree, and the place in the body of the first part that it says."""

    tree: Tree
    at: int


def pieces(rule: Rule, space: Space) -> list[Piece]:
    """The statements of a rule in a table. ValueError for a part that nft cannot say."""
    writer = RuleWriter(space)
    found: list[Piece] = []
    implied: int | None = None
    for at, part in enumerate(rule.body):
        hidden = writer.learn(part) and writer.hides(rule.body, at)
        if hidden:
            implied = at if implied is None else implied
            continue
        found.append(Piece(writer.tree(part), at if implied is None else implied))
        implied = None
    return found


class RuleWriter:
    """Writes the parts of one rule in order, and keeps what is known of its packets."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._family = _FAMILIES.get(space)
        self._protocol: str | None = None

    # --- what is implied ----------------------------------------------------------------------------------------------

    def learn(self, part: Expression | Statement) -> bool:
        """Takes in what a comparison says of the family or the protocol. Returns whether it says either."""
        if not isinstance(part, Compare) or part.negate or part.mask is not None or (name := part.name) is None:
            return False
        if part.field is Field.NFPROTO:
            self._family = _BY_NAME[name]
        elif part.field is Field.L4PROTO:
            self._protocol = name
        else:
            return False
        return True

    def hides(self, body: Sequence[Expression | Statement], at: int) -> bool:
        """Whether a later part says what part ``at`` says, with nothing between but parts that it says too."""
        ahead = RuleWriter(self._space)
        ahead._family, ahead._protocol = self._family, self._protocol
        field = body[at].field  # type: ignore[union-attr]
        for part in body[at + 1 :]:
            if ahead.learn(part):
                if isinstance(part, Compare) and part.field is field:
                    return False
                continue
            family, protocol = ahead._implied(part)
            return family if field is Field.NFPROTO else protocol
        return False

    def _implied(self, part: Expression | Statement) -> tuple[bool, bool]:
        """Whether writing a part says the family, and whether it says the protocol."""
        match part:
            case Compare(field):
                return self._says((field,))
            case Lookup(key) | Dispatch(key) | UpdateSet(_, key) | AssignFrom(_, key):
                return self._says(key)
            case Dnat(address, mapped=mapped) | Snat(address, mapped=mapped):
                family, protocol = self._says(mapped.key if mapped is not None else ())
                return family or address is not None or (mapped is not None and mapped.address), protocol
            case Redirect(mapped=mapped):
                return self._says(mapped.key if mapped is not None else ())
            case SetTimeToLive() | SetTrafficClass():
                return True, False
            case Adjust(target):
                return target.startswith("ip"), target.startswith("tcp option")
            case Reject(with_):
                return with_ not in REJECTS["icmpx"][0].values() and with_ is not RejectWith.TCP_RESET, False
            case _:
                return False, False

    def _says(self, key: Sequence[Source]) -> tuple[bool, bool]:
        rows = []
        for source in key:
            for field in source.key if isinstance(source, Hashed) else [source]:
                if not isinstance(field, Numgen):
                    rows.append(self._row(field.field if isinstance(field, Masked) else field))
        family = any(row.family is not None and row.family is self._family for row in rows)
        return family, any(row.protocol is not None for row in rows)

    def _row(self, field: Field) -> Selector:
        return row_for(field, self._family, self._protocol)

    # --- parts --------------------------------------------------------------------------------------------------------

    def tree(self, part: Expression | Statement) -> Tree:  # noqa: C901 - one case per kind of part
        """The tree of a part."""
        match part:
            case Compare():
                return self._compare(part)
            case Lookup(key, elements, negate):
                return self._lookup(key, elements, "!=" if negate else "==")
            case Terminal() | Jump() | Goto():
                return verdict(part)
            case Dispatch(key, elements):
                return {"vmap": {"key": self.key(key), "data": self._set(elements, key)}}
            case Assign():
                return self._assign(part)
            case AssignFrom(to, key, marks):
                return {"mangle": {"key": self._row(to).tree, "value": self._found(key, marks)}}
            case Reject(with_):
                return self._reject(with_)
            case Dnat(address, port, flags, mapped, last_address, last_port):
                ports = _interval(port, last_port)
                return {
                    "dnat": self._translation(_interval(address, last_address), ports, mapped, flags) | _flags(flags)
                }
            case Snat(address, ports, flags, mapped, last_address):
                return {
                    "snat": self._translation(_interval(address, last_address), ports, mapped, flags) | _flags(flags)
                }
            case Masquerade(ports, flags):
                return {"masquerade": ({} if ports is None else {"port": _range(ports)}) | _flags(flags) or None}
            case Redirect(port, flags, mapped, last_port):
                return {
                    "redirect": self._translation(None, _interval(port, last_port), mapped, flags) | _flags(flags)
                    or None
                }
            case UpdateSet(name, key, verb, timeout_ns, each, meter):
                element: Tree = self.key(key)
                if timeout_ns is not None:
                    element = {"elem": {"val": element, "timeout": timeout_ns // SECOND_NS}}
                if meter is not None:
                    stated = self.tree(each[0]) if each else {"counter": None}  # one of them
                    return {"meter": {"key": element, "stmt": stated, "size": meter, "name": name.name}}
                about = {"op": verb.value, "elem": element, "set": f"@{name.name}"}
                return {"set": about | ({"stmt": [self.tree(limit) for limit in each]} if each else {})}
            case SetTimeToLive("set", value):
                return {"mangle": {"key": self._row(Field.TTL).tree, "value": value}}
            case SetTrafficClass(keep, flip):
                return self._set_class(keep, flip)
            case Limit():
                return {"limit": part.name or limit_tree(part)}
            case Quota():
                return {"quota": part.name or quota_tree(part)}
            case Counter(name):
                return {"counter": name}
            case Log(arguments):
                return _said(f"log {arguments}")
            case Adjust(target, arguments):
                return _said(f"{target} {arguments}")
            case NoTrack():
                return {"notrack": None}
            case ReversePath(loose, valid_mark, False, invert):
                flags_ = ["saddr", *(["mark"] if valid_mark else []), *([] if loose else ["iif"])]
                return {"match": {"op": "==", "left": {"fib": {"result": "oif", "flags": flags_}}, "right": not invert}}
            case LocalSocket("--transparent"):
                return {"match": {"op": "==", "left": {"socket": {"key": "transparent"}}, "right": 1}}
            case Chance(threshold):
                random = {"&": [{"meta": {"key": "random"}}, (1 << 31) - 1]}
                return {"match": {"op": "<", "left": random, "right": threshold}}
            case Unknown(words) | Unmodelled(words):
                return {"words": {"words": words}}
            case _:
                raise ValueError(f"nft does not say {type(part).__name__}")

    # --- expressions --------------------------------------------------------------------------------------------------

    def key(self, key: Sequence[Source]) -> Tree:
        """The tree of a key: of its source, or of their concatenation."""
        sources = [self._source(source) for source in key]
        return sources[0] if len(sources) == 1 else {"concat": sources}

    def _source(self, source: Source) -> Tree:
        match source:
            case Field():
                return self._row(source).tree
            case Masked(field, mask, shift):
                row = self._row(field)
                masked = {"&": [row.tree, row.type.write(mask)]}
                return {">>": [masked, shift]} if shift else masked
            case Numgen(modulus, offset, random):
                return {"numgen": {"mode": "random" if random else "inc", "mod": modulus, "offset": offset}}
            case Hashed(fields, modulus, offset, seed):
                about: dict[str, Tree] = {"mod": modulus}
                if seed is not None:
                    about["seed"] = seed
                if offset:
                    about["offset"] = offset
                return {"jhash": about | {"expr": self.key(fields)}}

    def type_of(self, source: Source) -> Type:
        """The type of a source's values."""
        match source:
            case Field():
                return self._row(source).type
            case Masked(field, _, 0):
                return self._row(field).type
            case _:
                return NUMBER

    def _compare(self, compare: Compare) -> Tree:
        row = self._row(compare.field)
        kind, among = row.type, compare.among
        op = "!=" if compare.negate else "=="
        if isinstance(among, NamePattern):
            return _match(op, row.tree, among.prefix + "*")
        if isinstance(among, frozenset):
            return _named(compare, row)
        if kind is TCP_FLAG and compare.mask is not None and among == ((0, 0),):
            return _match("in" if compare.negate else "!", row.tree, _flag_words(compare.mask))
        if compare.mask is None:
            right = _listed(among, kind)
            return _match(op, row.tree, right[0] if len(right) == 1 else {"set": right})
        if compare.value is not None and (prefix := _prefix_of(compare.value, compare.mask, kind)) is not None:
            return _match(op, row.tree, prefix)
        if kind is TCP_FLAG and compare.value is not None:
            return _match(op, {"&": [row.tree, _flag_words(compare.mask)]}, _flag_words(compare.value))
        right = _listed(among, kind)
        return _match(op, {"&": [row.tree, kind.write(compare.mask)]}, right[0] if len(right) == 1 else {"set": right})

    def _lookup(self, key: Sequence[Source], elements: Set | SetReference, op: str) -> Tree:
        right = self._set(elements, key)
        if isinstance(right, dict) and len(right["set"]) == 1 and len(key) == 1 and not isinstance(key[0], Field):
            right = right["set"][0]
        return _match(op, self.key(key), right)

    def _set(self, elements: Set | SetReference, key: Sequence[Source], data: Sequence[Type] = ()) -> Tree:
        if isinstance(elements, SetReference):
            return f"@{elements.name}"
        kinds = [self.type_of(source) for source in key]
        return {"set": [element_tree(each, element, kinds, data) for each, element in elements.elements.items()]}

    # --- statements ---------------------------------------------------------------------------------------------------

    def _assign(self, assign: Assign) -> Tree:
        """``to := (to & keep) ^ flip`` as nft lists it: the bits that are kept, flipped, and set, in this order."""
        left = self._row(assign.to).tree
        keep, flip, source = assign.keep, assign.flip, left
        if assign.source is not None:
            if keep:
                raise ValueError("nft does not say a combination of two marks")
            keep, source = assign.take, self._row(assign.source).tree
        if not keep:
            return {"mangle": {"key": left, "value": flip}}
        always, toggled = flip & ~keep, flip & keep
        value, kept = source, keep | always
        if kept != ALL_BITS:
            value = {"&": [value, kept]}
        if toggled:
            value = {"^": [value, toggled]}
        if always:
            value = {"|": [value, always]}
        return {"mangle": {"key": left, "value": value}}

    def _set_class(self, keep: int, flip: int) -> Tree:
        for field, kept, shift in ((Field.DSCP, 0x03, 2), (Field.ECN, 0xFC, 0)):
            if keep == kept and not flip & kept:
                row = self._row(field)
                return {"mangle": {"key": row.tree, "value": row.type.write(flip >> shift)}}
        raise ValueError("nft sets the whole DSCP or the whole ECN")

    def _found(self, key: Sequence[Source], marks: Set | SetReference | None) -> Tree:
        if marks is None:
            return self.key(key)
        return {"map": {"key": self.key(key), "data": self._set(marks, key, [MARK])}}

    def _reject(self, with_: RejectWith) -> Tree:
        if with_ is RejectWith.TCP_RESET:
            return {"reject": {"type": "tcp reset"}}
        kind = "icmpx" if self._space is Space.INET else "icmp" if self._family is Family.IPV4 else "icmpv6"
        if with_ not in REJECTS[kind][0].values():
            kind = "icmp" if self._family is Family.IPV4 else "icmpv6"
        for word, answer in REJECTS[kind][0].items():
            if answer is with_:
                return {"reject": {"type": kind, "expr": word}}
        raise ValueError(f"{kind} has no answer {with_.value}")

    def _translation(
        self, addresses: Interval | None, ports: Interval | None, mapped: Mapped | None, flags: NatFlags
    ) -> dict[str, Tree]:
        about: dict[str, Tree] = {}
        found: Tree = None
        if mapped is not None:
            data = self.data_types(mapped)
            found = {"map": {"key": self.key(mapped.key), "data": self._set(mapped.map, mapped.key, data)}}
        to_map = mapped is not None and mapped.address
        if to_map or addresses is not None:
            family = self._known_family()
            if self._space is Space.INET or (mapped is not None and to_map and (mapped.port or _has_ranges(mapped))):
                about["family"] = "ip" if family is Family.IPV4 else "ip6"
            about["addr"] = found if to_map else part_tree(addresses, address_type(family))  # type: ignore[arg-type]
        if mapped is not None and not to_map:
            about["port"] = found
        elif ports is not None:
            about["port"] = _range(ports)
        if NatFlags.NETMAP in flags:
            about["type_flags"] = "prefix"
        return about

    def data_types(self, mapped: Mapped) -> list[Type]:
        """The types of what a map gives to a translation."""
        return ([address_type(self._known_family())] if mapped.address else []) + ([PORT] if mapped.port else [])

    def _known_family(self) -> Family:
        if self._family is None:
            raise ValueError("a translation in an inet table needs the family of its address")
        return self._family


# --- comparisons ------------------------------------------------------------------------------------------------------


def _match(op: str, left: Tree, right: Tree) -> Tree:
    return {"match": {"op": op, "left": left, "right": right}}


def _listed(among: Sequence[Interval], kind: Type) -> list[Tree]:
    """Intervals of numbers; those that have names are written one by one."""
    if not kind.named:
        return [part_tree(each, kind, in_set=len(among) > 1) for each in among]
    values = [value for low, high in among for value in range(low, high + 1)]
    if kind is not TCP_FLAG:
        return [kind.write(value) for value in values]
    words = [_flag_words(value) for value in values]
    return [{"|": each} if isinstance(each, list) and len(words) > 1 else each for each in words]


def _named(compare: Compare, row: Selector) -> Tree:
    assert isinstance(compare.among, frozenset)
    names = [row.type.write(name) for name in sorted(compare.among, key=row.type.order)]
    if not row.type.bits_of:
        return _match("!=" if compare.negate else "==", row.tree, names[0] if len(names) == 1 else {"set": names})
    op = "in"
    if compare.negate:
        op = "!=" if row.field is Field.CT_STATE and len(names) == 1 else "!"
    return _match(op, row.tree, names[0] if len(names) == 1 else names)


def _flag_words(value: int) -> Tree:
    """The flags of a value; several as a list, none as the number 0."""
    words = [word for bit in range(8) if value >> bit & 1 for word in [TCP_FLAG.write(1 << bit)]]
    return words[0] if len(words) == 1 else words or 0


def _is_address(kind: Type) -> bool:
    return kind.data in (DataType.IPV4_ADDRESS, DataType.IPV6_ADDRESS)


def _prefix_of(base: int, mask: int, kind: Type) -> Tree | None:
    """A prefix, in which nft also lists leading bits of a mark; None if nft has no such form."""
    host = mask ^ ((1 << kind.bits) - 1)
    if not (_is_address(kind) or kind is MARK) or host & (host + 1):
        return None
    return {"prefix": {"addr": kind.write(base), "len": kind.bits - host.bit_length()}}


def part_tree(part: Part, kind: Type, *, in_set: bool = False) -> Tree:
    """One part of a key: a value, a prefix, a range, or names that begin alike.

    nft has prefixes of marks too: among the elements of a set of marks they are ranges, elsewhere masks.
    """
    if isinstance(part, NamePattern):
        return part.prefix + "*"
    if not isinstance(part, tuple):
        return kind.write(part)
    low, high = part
    if low == high:
        return kind.write(low)
    size = high - low + 1
    if (_is_address(kind) or (kind is MARK and in_set)) and size & (size - 1) == 0 and low % size == 0:
        return _prefix_of(low, ((1 << kind.bits) - 1) & ~(size - 1), kind)
    return {"range": [kind.write(low), kind.write(high)]}


# --- sets -------------------------------------------------------------------------------------------------------------


def element_tree(key: Key, element: Element | None, kinds: Sequence[Type], data: Sequence[Type]) -> Tree:
    """One element of a set or map. ``data`` are the types of a map's values; None: the key alone."""
    parts = zip(key, kinds, strict=True)
    tree = (
        "*" if is_for_the_rest(key) else _joined([part_tree(part, kind, in_set=len(key) == 1) for part, kind in parts])
    )
    if element is None:
        return tree
    if element.comment or element.timeout_ns is not None:
        about: dict[str, Tree] = {"val": tree}
        if element.timeout_ns is not None:
            about["timeout"] = element.timeout_ns // SECOND_NS
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


_UNITS = {"sec": "second", "min": "minute"}


def limit_tree(limit: Limit) -> Tree:
    """The tree of a rate."""
    per = {"per": _UNITS.get(limit.unit, limit.unit)} | ({"inv": True} if limit.over else {})
    if not limit.bytes:
        return {"rate": limit.count, "burst": limit.burst} | per
    (rate, rate_unit), (burst, burst_unit) = _sized(limit.count), _sized(limit.burst)
    return {"rate": rate, "burst": burst, **per, "rate_unit": rate_unit, "burst_unit": burst_unit}


def quota_tree(quota: Quota) -> Tree:
    """The tree of a quota."""
    (size, unit), (used, used_unit) = _sized(quota.size), _sized(quota.used)
    about: dict[str, Tree] = {"val": size, "val_unit": unit} | ({"inv": True} if quota.over else {})
    return about | ({"used": used, "used_unit": used_unit} if quota.used else {})


def _sized(count: int) -> tuple[int, str]:
    """A number of bytes in the largest unit that divides it."""
    units = ["mbytes", "kbytes"]
    unit = "bytes"
    while count and not count % 1024 and units:
        count, unit = count // 1024, units.pop()
    return count, unit


def _said(text: str) -> Tree:
    """The tree of a statement that the model keeps as words."""
    (found,) = statements(Cursor(tokens_of(text), text))
    return found.tree


def _interval(first: int | None, last: int | None) -> Interval | None:
    return None if first is None else (first, first if last is None else last)


def _has_ranges(mapped: Mapped) -> bool:
    """Whether a map written in place gives ranges."""
    elements = mapped.map.elements.values() if isinstance(mapped.map, Set) else ()
    return any(isinstance(each, tuple) for element in elements for each in element.value or ())  # type: ignore[union-attr]


def _range(ports: Interval | None) -> Tree:
    if ports is None:
        return None
    return ports[0] if ports[0] == ports[1] else {"range": list(ports)}


_FLAG_WORDS = {NatFlags.RANDOM: "random", NatFlags.FULLY_RANDOM: "fully-random", NatFlags.PERSISTENT: "persistent"}


def _flags(flags: NatFlags) -> dict[str, Tree]:
    words = [word for flag, word in _FLAG_WORDS.items() if flag in flags]
    return {} if not words else {"flags": words[0] if len(words) == 1 else words}
