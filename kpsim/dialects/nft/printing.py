"""From trees to text: what kube-proxy sends, and what ``nft list`` prints."""

from collections.abc import Callable, Mapping, Sequence

from kpsim.dialects.nft.datatypes import NUMBER, Style, Tree, Type
from kpsim.dialects.nft.selectors import row_of


def statement_text(tree: Tree, style: Style, written: str | None = None) -> str:
    """One statement. ``written`` is the list that it compares with, where it is not written canonically."""
    ((name, about),) = tree.items()
    return _STATEMENTS[name](name, about, style, written)


# --- expressions ------------------------------------------------------------------------------------------------------

_OPERATORS = {"&": ("and", "&"), "|": ("or", "|"), "^": ("xor", "^"), "<<": ("lshift", "<<"), ">>": ("rshift", ">>")}


def expression_text(tree: Tree, style: Style) -> tuple[str, list[Type]]:
    """A selector, a concatenation of some, or an operation on one; and the types of its values."""
    if (row := row_of(tree)) is not None:
        return (row.text if style is Style.SENT else row.words), [row.type]
    ((name, about),) = tree.items()
    if name == "concat":
        # kube-proxy writes the mark within a concatenation as nft lists it
        each = [expression_text(part, style) for part in about]
        return " . ".join(text for text, _ in each), [kind for _, kinds in each for kind in kinds]
    if name == "numgen":
        offset = f" offset {about['offset']}" if about.get("offset") else ""
        return f"numgen {about['mode']} mod {about['mod']}{offset}", [NUMBER]
    if name in _OPERATORS:
        left, kinds = expression_text(about[0], style)
        right = about[1] if isinstance(about[1], dict) else None
        operand = kinds[0].show(about[1], style) if right is None else expression_text(right, style)[0]
        return f"{left} {_OPERATORS[name][style is Style.LISTED]} {operand}", kinds
    raise ValueError(f"no text for {name}")


def value_text(tree: Tree, kinds: Sequence[Type], style: Style, data: Sequence[Type] | None = None) -> str:
    """What is compared with, or an element. ``data`` are the types of a map's values."""
    match tree:
        case [key, value] if data is not None:
            return f"{value_text(key, kinds, style)} : {_data_text(value, data, style)}"
        case list():
            return ",".join(str(each) for each in tree)
        case {"set": elements}:
            return in_braces([value_text(each, kinds, style, data) for each in elements], style)
        case {"concat": parts}:
            return " . ".join(value_text(part, [kind], style) for part, kind in zip(parts, kinds, strict=True))
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"range": [low, high]}:
            return f"{kinds[0].show(low, style)}-{kinds[0].show(high, style)}"
        case {"elem": {"val": value, **about}}:
            comment = f' comment "{about["comment"]}"' if "comment" in about else ""
            timeout = f" timeout {about['timeout']}s" if "timeout" in about else ""
            return value_text(value, kinds, style) + timeout + comment
        case str() if tree.startswith("@"):
            return tree
        case dict():
            return expression_text(tree, style)[0]
        case _:
            return kinds[0].show(tree, style)


def _data_text(tree: Tree, data: Sequence[Type], style: Style) -> str:
    if isinstance(tree, dict) and next(iter(tree)) in _VERDICTS:
        return statement_text(tree, style)
    return value_text(tree, data, style)


def in_braces(elements: Sequence[str], style: Style) -> str:
    """A list in braces."""
    return f"{{ {(' , ' if style is Style.SENT else ', ').join(elements)} }}"


# --- statements -------------------------------------------------------------------------------------------------------


def _match(_: str, about: Tree, style: Style, written: str | None) -> str:
    left, kinds = expression_text(about["left"], style)
    right = value_text(about["right"], kinds, style) if written is None or style is Style.LISTED else written
    operator = "" if about["op"] in ("==", "in") else f"{about['op']} "
    return f"{left} {operator}{right}"


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
    if about is None or (about.get("expr") == "port-unreachable" and about["type"] in ("icmp", "icmpv6")):
        return "reject"
    return f"reject with {about['type']}" + (f" {about['expr']}" if "expr" in about else "")


def _nat(name: str, about: Tree, style: Style, _: str | None) -> str:
    about = about or {}
    address, port, flags = about.get("addr"), about.get("port"), about.get("flags", [])
    text = name
    if isinstance(address, dict) and "map" in address:
        mapping = address["map"]
        key, kinds = expression_text(mapping["key"], style)
        family = about["family"]
        data = _mapped_types(mapping["data"], family)
        both = " addr . port" if style is Style.SENT else ""
        text += f" {family}{both} to {key} map {value_text(mapping['data'], kinds, style, data)}"
    elif address is not None:
        shown = value_text(address, [NUMBER], style)
        text += f" to {shown if port is None else _with_port(shown, value_text(port, [NUMBER], style))}"
    elif port is not None:
        text += f" to :{value_text(port, [NUMBER], style)}"
    words = [flags] if isinstance(flags, str) else flags
    return " ".join([text, ",".join(words)] if words else [text])


def _with_port(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _mapped_types(data: Tree, family: str) -> Sequence[Type]:
    return [NUMBER, NUMBER]


def _set(_: str, about: Tree, style: Style, __: str | None) -> str:
    element = about["elem"]
    timeout = ""
    if isinstance(element, dict) and "elem" in element:
        timeout = f" timeout {element['elem']['timeout']}s"
        element = element["elem"]["val"]
    return f"{about['op']} {about['set']} {{ {expression_text(element, style)[0]}{timeout} }}"


_VERDICTS = ("accept", "drop", "return", "continue", "jump", "goto")
_STATEMENTS: Mapping[str, Callable[[str, Tree, Style, str | None], str]] = {
    "match": _match, "vmap": _vmap, "mangle": _mangle, "reject": _reject, "set": _set,
    "accept": _bare, "drop": _bare, "return": _bare, "continue": _bare, "jump": _to_chain, "goto": _to_chain,
    "dnat": _nat, "snat": _nat, "masquerade": _nat, "redirect": _nat,
}  # fmt: skip
