"""From trees to the parts of a rule: what the statements of nft mean.

A selector says more than its field: ``tcp dport`` is of TCP packets only, and in an inet table ``ip saddr`` is of IPv4
packets only. nft puts comparisons for that before it, once in a rule, and so does the reader.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from kpsim.addresses import Family
from kpsim.dialects.nft import comparisons, keys, translations
from kpsim.dialects.nft.context import Context, NotModelled
from kpsim.dialects.nft.datatypes import ICMP_CODE, ICMPV6_CODE, MARK, Style, Tree
from kpsim.dialects.nft.layout import DYNAMIC_SIZE
from kpsim.dialects.nft.printing import expression_text, value_text
from kpsim.dialects.nft.selectors import row_of
from kpsim.ruleset import (
    ALL_BITS,
    Adjust,
    Assign,
    AssignFrom,
    DataType,
    Dispatch,
    Field,
    Goto,
    Jump,
    Limit,
    Log,
    NoTrack,
    Part,
    Quota,
    Reject,
    RejectWith,
    SetReference,
    SetTimeToLive,
    SetTrafficClass,
    SetVerb,
    Terminal,
    UpdateSet,
    Verdict,
)
from kpsim.units import SECOND_NS


def read_statement(tree: Tree, source: str, context: Context) -> None:
    """Adds the parts of a statement to the rule. NotModelled names what is not modelled; ValueError says what is wrong."""
    if not isinstance(tree, dict) or len(tree) != 1:
        raise ValueError(f"not a statement: {source}")
    ((name, about),) = tree.items()
    read = _READERS.get(name)
    if read is None:
        raise NotModelled(name)
    read(about, source, context)


# --- verdicts and maps ------------------------------------------------------------------------------------------------

_VERDICTS = {"accept": Verdict.ACCEPT, "drop": Verdict.DROP, "return": Verdict.RETURN, "continue": Verdict.CONTINUE}


def verdict(tree: Tree) -> Terminal | Jump | Goto:
    """The verdict that a tree says. ValueError if it says none."""
    if isinstance(tree, dict) and len(tree) == 1:
        ((name, about),) = tree.items()
        if name in _VERDICTS:
            return Terminal(_VERDICTS[name])
        if name in ("jump", "goto") and isinstance(about, dict) and isinstance(about.get("target"), str):
            return (Jump if name == "jump" else Goto)(about["target"])
    raise ValueError(f"not a verdict: {tree}")


def _verdict(name: str) -> Callable[[Tree, str, Context], None]:
    return lambda about, source, context: context.add(verdict({name: about}))


def _vmap(about: Tree, source: str, context: Context) -> None:
    key = keys.read_key(about["key"], context)
    context.add(Dispatch(key.sources, keys.read_map(about["data"], key.types, verdict, context)))


# --- marks and other changes ------------------------------------------------------------------------------------------


def _mangle(about: Tree, source: str, context: Context) -> None:
    key, value = about["key"], about["value"]
    row = row_of(key)
    if row is not None and row.field in (Field.MARK, Field.CT_MARK):
        context.add(_assigned_from(row.field, value, context) or _assignment(row.field, value))
        return
    if row is not None and row.field is Field.TTL and isinstance(value, int):
        context.imply(row.family, row.protocol)
        context.add(SetTimeToLive("set", int(row.type.read(value))))
        return
    if row is not None and row.field in _CLASSES and isinstance(value, int | str):
        context.imply(row.family, row.protocol)
        context.add(_CLASSES[row.field](int(row.type.read(value))))
        return
    if not isinstance(key, dict) or len(key) != 1:
        raise ValueError(f"not a field: {key}")
    name, kinds = expression_text(key, Style.LISTED)
    if _changes_nothing(key):
        if key == {"meta": {"key": "nftrace"}} and value not in (0, 1):
            raise ValueError(f"nftrace is 0 or 1, not {value}")
        context.imply(*_implied_by(key))
        context.add(Adjust(f"{name} set", value_text(value, kinds, Style.LISTED)))
        return
    raise NotModelled(f"{name} set")


_CLASSES: Mapping[Field, Callable[[int], SetTrafficClass]] = {
    Field.DSCP: lambda dscp: SetTrafficClass(0x03, dscp << 2), Field.ECN: lambda ecn: SetTrafficClass(0xFC, ecn),
}  # fmt: skip


def _changes_nothing(key: Tree) -> bool:
    """Whether no rule and no route of the model reads what is set."""
    ((kind, about),) = key.items()
    match kind:
        case "meta":
            return about["key"] in ("nftrace", "priority", "secmark")
        case "ct":
            return about["key"] in ("label", "event", "eventmask", "secmark")
        case "payload":
            return bool(about == {"protocol": "ip6", "field": "flowlabel"})
        case "tcp option":
            return True
        case _:
            return False


def _implied_by(key: Tree) -> tuple[Family | None, str | None]:
    """The family and the protocol of packets that have a header."""
    kind = next(iter(key))
    if kind == "tcp option":
        return None, "tcp"
    return (Family.IPV6 if kind == "payload" else None), None


def _assigned_from(to: Field, value: Tree, context: Context) -> AssignFrom | None:
    """``to`` := a value of a map, or a number; None if the value is neither."""
    match value:
        case {"map": {"key": key, "data": data}}:
            read = keys.read_key(key, context)
            found = keys.read_map(data, read.types, _one_mark, context)
            kind = context.set_named(found.name).type if isinstance(found, SetReference) else None
            if kind is not None and kind.data != (DataType.MARK,):
                raise ValueError(f"{found.name} is not a map to marks")
            return AssignFrom(to, read.sources, found)
        case {"numgen": _} | {"jhash": _}:
            return AssignFrom(to, keys.read_key(value, context).sources)
        case _:
            return None


def _one_mark(tree: Tree) -> tuple[Part, ...]:
    (mark,) = keys.read_parts(tree, [MARK])
    if not isinstance(mark, int):
        raise ValueError("a mark of a map is one number")
    return (mark,)


def _assignment(to: Field, value: Tree) -> Assign:
    """``to := (source & take) ^ flip``, where the source may be ``to`` itself."""
    source, take, flip = _mark_value(value)
    if source is None:
        return Assign(to, 0, flip)
    if source is to:
        return Assign(to, take, flip)
    return Assign(to, 0, flip, source, take)


def _mark_bits(number: int) -> int:
    if not 0 <= number <= ALL_BITS:
        raise ValueError(f"not a mark: {number}")
    return number


def _mark_value(tree: Tree) -> tuple[Field | None, int, int]:
    """The mark that a value is made of, the bits that it keeps of that, and those that it flips then."""
    if isinstance(tree, int) and not isinstance(tree, bool):
        return None, 0, _mark_bits(tree)
    row = row_of(tree)
    if row is not None and row.field in (Field.MARK, Field.CT_MARK):
        return row.field, ALL_BITS, 0
    if isinstance(tree, dict) and len(tree) == 1:
        ((op, about),) = tree.items()
        if op in ("&", "|", "^") and isinstance(about, list) and len(about) == 2 and isinstance(about[1], int):
            source, take, flip = _mark_value(about[0])
            bits = _mark_bits(about[1])
            if op == "&":
                return source, take & bits, flip & bits
            if op == "^":
                return source, take, flip ^ bits
            return source, take & ~bits & ALL_BITS, flip & ~bits | bits
    raise NotModelled("a mark that is set to something else than numbers and marks")


# --- refusals ---------------------------------------------------------------------------------------------------------

_ICMP_CODES = {
    "net-unreachable": RejectWith.NO_ROUTE, "host-unreachable": RejectWith.HOST_UNREACHABLE,
    "prot-unreachable": RejectWith.PROTOCOL_UNREACHABLE, "port-unreachable": RejectWith.PORT_UNREACHABLE,
    "net-prohibited": RejectWith.NET_PROHIBITED, "host-prohibited": RejectWith.HOST_PROHIBITED,
    "admin-prohibited": RejectWith.ADMIN_PROHIBITED,
}  # fmt: skip
_ICMPV6_CODES = {
    "no-route": RejectWith.NO_ROUTE, "admin-prohibited": RejectWith.ADMIN_PROHIBITED,
    "addr-unreachable": RejectWith.HOST_UNREACHABLE, "port-unreachable": RejectWith.PORT_UNREACHABLE,
    "policy-fail": RejectWith.POLICY_FAIL, "reject-route": RejectWith.REJECT_ROUTE,
}  # fmt: skip
_ICMPX_CODES = {
    "no-route": RejectWith.NO_ROUTE, "port-unreachable": RejectWith.PORT_UNREACHABLE,
    "host-unreachable": RejectWith.HOST_UNREACHABLE, "admin-prohibited": RejectWith.ADMIN_PROHIBITED,
}  # fmt: skip
REJECTS: Mapping[str, tuple[Mapping[str, RejectWith], Family | None]] = {
    "icmp": (_ICMP_CODES, Family.IPV4), "icmpv6": (_ICMPV6_CODES, Family.IPV6), "icmpx": (_ICMPX_CODES, None),
}  # fmt: skip


#: names of the numbers that nft takes, too
_CODE_NAMES: Mapping[str, Callable[[int], Tree]] = {
    "icmp": ICMP_CODE.write, "icmpv6": ICMPV6_CODE.write,
    "icmpx": lambda code: dict(enumerate(("no-route", "port-unreachable", "host-unreachable", "admin-prohibited"))).get(code, code),
}  # fmt: skip


def _reject(about: Tree, source: str, context: Context) -> None:
    if about is None:
        context.add(Reject())
        return
    kind, code = about.get("type"), about.get("expr")
    if kind == "tcp reset":
        context.imply(None, "tcp")
        context.add(Reject(RejectWith.TCP_RESET))
        return
    codes, family = REJECTS.get(kind, ({}, None))
    if type(code) is int and kind in _CODE_NAMES:
        code = _CODE_NAMES[kind](code)
    if (type(code) is int and kind in ("icmp", "icmpv6")) or (kind, code) == ("icmp", "frag-needed"):
        raise NotModelled(f"reject with {kind} {code}")
    if code not in codes:
        raise ValueError(f"nft has no answer {kind} {code}")
    if family is None and not context.both_families:
        raise ValueError("icmpx answers are for inet tables")
    context.imply(family, None)
    context.add(Reject(codes[code]))


# --- limits, counters, logs -------------------------------------------------------------------------------------------

_UNITS = {"second": "sec", "minute": "min", "hour": "hour", "day": "day", "week": "week"}


_BYTES = {"bytes": 1, "kbytes": 1 << 10, "mbytes": 1 << 20}


def read_limit(about: Tree, name: str = "") -> Limit:
    """A rate of packets, or of bytes."""
    unit, scale = _UNITS.get(about.get("per")), _BYTES.get(about.get("rate_unit", "packets"), 0)
    rate, burst = about.get("rate"), about.get("burst", 0 if scale else 5)
    if unit is None or not isinstance(rate, int) or not 0 < rate < 1 << 32 or not isinstance(burst, int):
        raise ValueError(f"not a rate: {rate}/{about.get('per')}")
    over = bool(about.get("inv"))
    burst *= _BYTES[about.get("burst_unit", "bytes")] if scale else 1
    if not 0 <= burst <= ALL_BITS:
        raise ValueError(f"not a burst: {burst}")  # nft cuts off its upper bits
    if not scale:
        return Limit(rate, unit, burst or 5, over=over, name=name)
    return Limit(rate * scale, unit, burst, over=over, name=name, bytes=True)


def read_quota(about: Tree, name: str = "") -> Quota:
    """A quota. As an object, JSON has its bytes without a unit."""
    size, used = (
        about.get(name, about.get("bytes") if name == "val" else 0) * _BYTES[about.get(f"{name}_unit", "bytes")]
        for name in ("val", "used")
    )
    if not 0 <= size < 1 << 63:
        raise ValueError(f"not a quota: {size} bytes")
    if used > size:
        raise ValueError(f"a quota of {size} bytes of which {used} are used")
    return Quota(size, bool(about.get("inv")), used, name)


def _limit(about: Tree, source: str, context: Context) -> None:
    context.add(context.limit(about) if isinstance(about, str) else read_limit(about))


def _quota(about: Tree, source: str, context: Context) -> None:
    context.add(context.quota(about) if isinstance(about, str) else read_quota(about))


def _counter(about: Tree, source: str, context: Context) -> None:
    """A counter without name counts for people only."""
    if isinstance(about, str):
        context.add(context.counter(about))


def _nothing(about: Tree, source: str, context: Context) -> None:
    """What no packet depends on."""


def _log(about: Tree, source: str, context: Context) -> None:
    if about is not None and not isinstance(about, dict):
        raise ValueError(f"not a log: {about}")
    context.add(Log(source.removeprefix("log").strip(), "log"))


def _adjusted(name: str) -> Callable[[Tree, str, Context], None]:
    return lambda about, source, context: context.add(Adjust(name, f'"{about}"'))


def _notrack(about: Tree, source: str, context: Context) -> None:
    context.add(NoTrack())


# --- sets -------------------------------------------------------------------------------------------------------------


def _update(about: Tree, source: str, context: Context) -> None:
    each = _of_elements(about.get("stmt") or ())
    element, timeout_ns = _with_time(about["elem"])
    name = str(about["set"]).removeprefix("@")
    key = keys.read_key(element, context)
    if context.set_of_types(name, key.types).is_map:
        raise ValueError(f"{name} is a map: it takes a value too")
    try:
        verb = SetVerb(about["op"])
    except ValueError:
        raise ValueError(f"not add, update or delete: {about['op']}") from None
    context.add(UpdateSet(SetReference(name), key.sources, verb, timeout_ns, each))


def _with_time(element: Tree) -> tuple[Tree, int | None]:
    """A key, and for how long its element lasts."""
    if not isinstance(element, dict) or "elem" not in element:
        return element, None
    timeout = element["elem"].get("timeout")
    return element["elem"]["val"], None if timeout is None else int(timeout * SECOND_NS)


_MOST_OF_ELEMENTS = 2  #: the kernel has room for no more


def _of_elements(stated: Sequence[Tree]) -> tuple[Limit | Quota, ...]:
    """The limits that each element of a set has for itself. What it counts is for people only."""
    if len(stated) > _MOST_OF_ELEMENTS:
        raise ValueError(f"an element of a set has {_MOST_OF_ELEMENTS} limits and counters at most")
    found: list[Limit | Quota] = []
    for each in stated:
        ((name, about),) = each.items()
        if name == "limit" and isinstance(about, dict):
            found.append(read_limit(about))
        elif name == "quota" and isinstance(about, dict):
            found.append(read_quota(about))
        elif name not in ("counter", "last"):
            raise NotModelled(f"{name} for each element of a set")
    return tuple(found)


def _meter(about: Tree, source: str, context: Context) -> None:
    """A set with a name of its own, and a limit for each element: how nft until 1.0 lists both as one."""
    each = _of_elements([about["stmt"]])
    element, timeout_ns = _with_time(about["key"])
    if about.get("timeout") is not None:
        timeout_ns = int(about["timeout"] * SECOND_NS)
    key = keys.read_key(element, context)
    size = about.get("size", DYNAMIC_SIZE)
    context.meter(about["name"], key.types, size)
    verb = SetVerb.ADD if timeout_ns is None else SetVerb.UPDATE
    context.add(UpdateSet(SetReference(about["name"]), key.sources, verb, timeout_ns, each, size))


def _words(about: Tree, source: str, context: Context) -> NoReturn:
    raise NotModelled(about["name"])


def _xt(about: Tree, source: str, context: Context) -> NoReturn:
    name = about.get("name", "") if isinstance(about, dict) else ""
    raise NotModelled(
        f"xt {name}".rstrip() + ", which iptables-nft wrote: give the output of iptables-save for this table"
    )


def _match(about: Tree, source: str, context: Context) -> None:
    comparisons.read_match(about["op"], about["left"], about["right"], context)


_READERS: Mapping[str, Callable[[Tree, str, Context], None]] = {
    "match": _match, "vmap": _vmap, "mangle": _mangle, "reject": _reject, "log": _log, "notrack": _notrack,
    "counter": _counter, "limit": _limit, "quota": _quota, "meter": _meter, "last": _nothing, "set": _update, "xt": _xt, "words": _words,
    "ct helper": _adjusted("ct helper set"), "ct timeout": _adjusted("ct timeout set"),
    "dnat": translations.read_dnat, "snat": translations.read_snat, "masquerade": translations.read_masquerade,
    "redirect": translations.read_redirect,
    **{name: _verdict(name) for name in ("accept", "drop", "return", "continue", "jump", "goto")},
}  # fmt: skip
