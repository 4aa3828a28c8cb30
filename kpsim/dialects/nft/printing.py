"""From trees to text: what kube-proxy sends, and what ``nft list`` prints."""

from collections.abc import Callable, Mapping, Sequence

from kpsim.dialects.nft.datatypes import IPV4, MARK, NUMBER, PORT, Style, Tree, Type
from kpsim.dialects.nft.selectors import FLAGS, row_of

ADDRESS = IPV4  #: both families' addresses are shown as they stand in the tree


def statement_text(tree: Tree, style: Style, written: str | None = None) -> str:
    """One statement. ``written`` is the list that it compares with, where it is not written canonically."""
    ((name, about),) = tree.items()
    if name not in _STATEMENTS:
        raise ValueError(f"no text for {name}")
    return _STATEMENTS[name](name, about, style, written)


#: keys of ``meta`` that nft lists without it, and that are no field of the model
_UNQUALIFIED = ("iifgroup", "oifgroup")

# --- expressions ------------------------------------------------------------------------------------------------------

_OPERATORS = {"&": ("and", "&"), "|": ("or", "|"), "^": ("xor", "^"), "<<": ("lshift", "<<"), ">>": ("rshift", ">>")}


def expression_text(tree: Tree, style: Style) -> tuple[str, list[Type]]:
    """A selector, a concatenation of some, or an operation on one; and the types of its values."""
    if (row := row_of(tree)) is not None:
        return (row.text if style is Style.SENT else row.words), [row.type]
    ((name, about),) = tree.items()
    if name == "concat":
        each = [expression_text(part, style) for part in about]
        return " . ".join(text for text, _ in each), [kind for _, kinds in each for kind in kinds]
    if name in _OPERATORS:
        left, kinds = expression_text(about[0], style)
        if isinstance(about[1], dict):
            operand = expression_text(about[1], style)[0]
        elif isinstance(about[1], list):
            operand = f"({' | '.join(map(str, about[1]))})"
        else:
            operand = kinds[0].show(about[1], style) if name not in ("<<", ">>") else str(about[1])
        return f"{left} {_OPERATORS[name][style is Style.LISTED]} {operand}", kinds
    return _special(name, about, style), [NUMBER]


def _special(name: str, about: Tree, style: Style) -> str:
    """What is no field of the model."""
    match name:
        case "numgen":
            offset = f" offset {about['offset']}" if about.get("offset") else ""
            return f"numgen {about['mode']} mod {about['mod']}{offset}"
        case "jhash" | "symhash":
            of = f"{expression_text(about['expr'], style)[0]} " if "expr" in about else ""
            seed = f" seed {about['seed']:#x}" if about.get("seed") else ""
            offset = f" offset {about['offset']}" if about.get("offset") else ""
            return f"{name} {of}mod {about['mod']}{seed}{offset}"
        case "fib":
            return f"fib {' . '.join(about['flags'])} {about['result']}"
        case "payload" if "base" in about:
            return f"@{about['base']},{about['offset']},{about['len']}"
        case "payload":
            return f"{about['protocol']} {about['field']}"
        case "meta":
            return about["key"] if about["key"] in _UNQUALIFIED else f"meta {about['key']}"
        case "rt":
            return f"rt {about['family']} {about['key']}" if "family" in about else f"rt {about['key']}"
        case "other":
            return f"{about['name']} {about['words']}"
        case "exthdr" if "field" in about:
            return f"{about['name']} {about['field']}"
        case _:
            words = [name, *(str(about[each]) for each in ("dir", "name", "field", "key") if each in about)]
            return " ".join(words)


def value_text(tree: Tree, kinds: Sequence[Type], style: Style, data: Sequence[Type] | None = None) -> str:
    """What is compared with, or an element. ``data`` are the types of a map's values."""
    if not isinstance(tree, dict):
        return _plain_text(tree, kinds, style, data)
    match tree:
        case {"set": elements}:
            return in_braces([value_text(each, kinds, style, data) for each in elements], style)
        case {"map": {"key": key, "data": mapped}}:
            words, keys = expression_text(key, style)
            return f"{words} map {value_text(mapped, keys, style, kinds)}"
        case {"concat": parts}:
            return " . ".join(value_text(part, [kind], style) for part, kind in zip(parts, kinds, strict=True))
        case {"prefix": {"addr": address, "len": length}}:
            return f"{kinds[0].show(address, style)}/{length}"
        case {"range": [low, high]}:
            return f"{kinds[0].show(low, style)}-{kinds[0].show(high, style)}"
        case {"|": [*words]} if all(isinstance(word, str) for word in words):
            return " | ".join(words)
        case {"elem": about}:
            return " ".join([value_text(about["val"], kinds, style), *_known_of(about)])
        case _:
            return expression_text(tree, style)[0]


def _plain_text(tree: Tree, kinds: Sequence[Type], style: Style, data: Sequence[Type] | None) -> str:
    """A value that is no object of JSON."""
    match tree:
        case [key, value] if data is not None:
            return f"{value_text(key, kinds, style)} : {_data_text(value, data, style)}"
        case list():
            return ",".join(str(each) for each in tree)
        case bool():
            return "exists" if tree else "missing"
        case str() if tree.startswith("@") or tree == "*":
            return tree
        case _:
            return kinds[0].show(tree, style)


def _known_of(about: Mapping[str, Tree]) -> list[str]:
    """What an element says beside its key."""
    words = []
    if "timeout" in about:
        words.append(f"timeout {time_text(about['timeout'])}")
    if "expires" in about:
        words.append(f"expires {time_text(about['expires'])}")
    if "comment" in about:
        words.append(f'comment "{about["comment"]}"')
    return words


def time_text(seconds: float) -> str:
    """A time as nft lists it: ``1d2h3m4s``."""
    text, rest = "", int(seconds)
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        if count := rest // length:
            text += f"{count}{unit}"
        rest %= length
    milliseconds = round(seconds * 1000) % 1000
    return text + (f"{milliseconds}ms" if milliseconds else "") or "0s"


def _data_text(tree: Tree, data: Sequence[Type], style: Style) -> str:
    if isinstance(tree, dict) and next(iter(tree)) in _VERDICTS:
        return statement_text(tree, style)
    return value_text(tree, data, style)


def in_braces(elements: Sequence[str], style: Style) -> str:
    """A list in braces."""
    return f"{{ {(' , ' if style is Style.SENT else ', ').join(elements)} }}"


# --- statements -------------------------------------------------------------------------------------------------------


def _match(_: str, about: Tree, style: Style, written: str | None) -> str:
    op, tree = about["op"], about["left"]
    if style is Style.LISTED and "&" in tree and row_of(tree["&"][0]) is FLAGS and isinstance(tree["&"][1], list):
        # nft 1.0 lists the value, then the bits that are compared, if they are several; it does not read one bit so
        negation = "!= " if op == "!=" else ""
        return f"{FLAGS.words} {negation}{_flags_text(about['right'])} / {_flags_text(tree['&'][1])}"
    left, kinds = expression_text(tree, style)
    compared = about["right"]
    if style is Style.SENT and kinds == [MARK] and isinstance(compared, dict) and "prefix" in compared:
        prefix = compared["prefix"]  # kube-proxy writes the mask
        mask = ((1 << prefix["len"]) - 1) << (MARK.bits - prefix["len"])
        tree, compared = {"&": [tree, mask]}, prefix["addr"]
        left, kinds = expression_text(tree, style)
    right = value_text(compared, kinds, style) if written is None or style is Style.LISTED else written
    return f"{left} {_operator(op, tree, compared, kinds)}{right}"


def _flags_text(tree: Tree) -> str:
    return ",".join(map(str, tree)) if isinstance(tree, list) else str(tree)


def _operator(op: str, left: Tree, right: Tree, kinds: Sequence[Type]) -> str:
    """The operator with a blank behind it; nothing where it goes without saying."""
    if op in ("in", ""):
        return ""
    computed = next(iter(left)) in _OPERATORS
    in_set = (isinstance(right, dict) and "set" in right) or (isinstance(right, str) and right.startswith("@"))
    if op == "==" and not computed and (in_set or not (kinds and kinds[0].bits_of)):
        return ""
    return f"{op} "


def _bare(name: str, *_: object) -> str:
    return name


def _to_chain(name: str, about: Tree, *_: object) -> str:
    return f"{name} {about['target']}"


def _vmap(_: str, about: Tree, style: Style, __: str | None) -> str:
    key, kinds = expression_text(about["key"], style)
    return f"{key} vmap {value_text(about['data'], kinds, style, ())}"


def _mangle(_: str, about: Tree, style: Style, __: str | None) -> str:
    key, kinds = expression_text(about["key"], style)
    return f"{key} set {value_text(about['value'], kinds, style)}"


def _reject(_: str, about: Tree, style: Style, __: str | None) -> str:
    if about is None or about.get("expr") == "port-unreachable":
        return "reject"
    return f"reject with {about['type']}" + (f" {about['expr']}" if "expr" in about else "")


def _limit(_: str, about: Tree, style: Style, __: str | None) -> str:
    if isinstance(about, str):
        return f'limit name "{about}"'
    over = "over " if about.get("inv") else ""
    unit = f" {about['rate_unit']}" if about.get("rate_unit", "packets") != "packets" else ""
    burst = about.get("burst", 5)
    kind = about.get("burst_unit", "packets")
    said = "" if burst == (0 if unit else 5) else f" burst {burst} {kind}"
    return f"limit rate {over}{about['rate']}{unit}/{about['per']}{said}"


def _named_or_counted(name: str, about: Tree, *_: object) -> str:
    """A counter: its name, or nothing of what it has counted."""
    return f'{name} name "{about}"' if isinstance(about, str) else name


def _log(_: str, about: Tree, style: Style, __: str | None) -> str:
    words = ["log"]
    for option, value in (about or {}).items():
        for each in value if isinstance(value, list) else [value]:
            words.append(f'{option} "{each}"' if option == "prefix" else f"{option} {each}")
    return " ".join(words)


def _quoted(name: str, about: Tree, *_: object) -> str:
    return f'{name} set "{about}"'


def _as_words(_: str, about: Tree, *__: object) -> str:
    return str(about["words"])


def _nat(name: str, about: Tree, style: Style, _: str | None) -> str:
    about = about or {}
    address, port, flags = about.get("addr"), about.get("port"), about.get("flags", [])
    text = f"{name} {about['family']}" if "family" in about else name
    if about.get("type_flags") == "prefix":
        text += " prefix"
    if address is not None:
        if style is Style.SENT and "map" in address and _has_both(address["map"]["data"]):
            text += " addr . port"
        shown = value_text(address, [ADDRESS, PORT], style)
        text += f" to {shown if port is None else _with_port(shown, value_text(port, [PORT], style))}"
    elif port is not None:
        text += f" to :{value_text(port, [PORT], style)}"
    words = [word for word in ([flags] if isinstance(flags, str) else flags) if word != "netmap"]
    return " ".join([text, ",".join(words)] if words else [text])


def _has_both(data: Tree) -> bool:
    """Whether a map written in place has addresses and ports."""
    return isinstance(data, dict) and isinstance(data["set"][0][1], dict) and "concat" in data["set"][0][1]


def _with_port(address: str, port: str) -> str:
    """An address, a range or a map, and a port. Addresses of IPv6 stand in brackets."""
    if " map " in address or ":" not in address:
        return f"{address}:{port}"
    return f"{'-'.join(f'[{each}]' for each in address.split('-'))}:{port}"


def _set(_: str, about: Tree, style: Style, __: str | None) -> str:
    element = about["elem"]
    timeout = ""
    if isinstance(element, dict) and "elem" in element:
        seconds = element["elem"]["timeout"]
        timeout = f" timeout {time_text(seconds) if style is Style.LISTED else f'{seconds}s'}"
        element = element["elem"]["val"]
    stated = "".join(f" {statement_text(each, style)}" for each in about.get("stmt", ()))
    return f"{about['op']} {about['set']} {{ {expression_text(element, style)[0]}{timeout}{stated} }}"


def _meter(_: str, about: Tree, style: Style, __: str | None) -> str:
    key, timeout = about["key"], ""
    if isinstance(key, dict) and "elem" in key:
        timeout = f" timeout {time_text(key['elem']['timeout'])}"
        key = key["elem"]["val"]
    stated = statement_text(about["stmt"], style)
    return f"meter {about['name']} size {about['size']} {{ {expression_text(key, style)[0]}{timeout} {stated} }}"


def _quota(_: str, about: Tree, *__: object) -> str:
    if isinstance(about, str):
        return f'quota name "{about}"'
    over = "over " if about.get("inv") else ""
    used = f" used {about['used']} {about['used_unit']}" if about.get("used") else ""
    return f"quota {over}{about['val']} {about['val_unit']}{used}"


_VERDICTS = ("accept", "drop", "return", "continue", "jump", "goto")
_STATEMENTS: Mapping[str, Callable[[str, Tree, Style, str | None], str]] = {
    "match": _match, "vmap": _vmap, "mangle": _mangle, "reject": _reject, "set": _set, "limit": _limit,
    "meter": _meter, "quota": _quota, "counter": _named_or_counted, "log": _log, "notrack": _bare, "words": _as_words, "ct helper": _quoted, "ct timeout": _quoted,
    "accept": _bare, "drop": _bare, "return": _bare, "continue": _bare, "jump": _to_chain, "goto": _to_chain,
    "dnat": _nat, "snat": _nat, "masquerade": _nat, "redirect": _nat,
}  # fmt: skip
