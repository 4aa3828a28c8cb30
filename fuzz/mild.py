"""Changes one or two fields of a valid document to a value at an edge of what its field takes; the structure stays.

What is changed so is mostly accepted, so it reaches the code behind the loading: rules, traces, runs and replays. What
an edge is depends on what stands there: a duration, an address, a range, a port, a name, a list.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import yaml

from kpsim.verify.drawing.choices import Choices, chance, pick, weighted

#: values of each form that a field of this form may well take, and values that it should not
_LEGAL: dict[str, Sequence[Any]] = {
    "integer": (0, 1, 2, 3, 10, 80, 443, 8080, 30080, 65535, 2**31 - 1, 0.5, "80", "http"),
    "number": (0, 1, 0.5, 1e-9, 1e-320, 3.0000000001, 1e3),
    "truth": (True, False),
    "duration": ("0s", "1ns", "1ms", "999999999ns", "0.3s", "1s", "1.5s", "2s", "10s", "1m", "1h", "24h"),
    "address": ("10.180.0.5", "10.180.0.1", "10.180.1.5", "192.168.0.1", "172.30.0.10", "198.51.100.10", "203.0.113.5", "2001:db8:1::1", "fd00:180::5", "::ffff:10.180.0.5"),
    "block": ("0.0.0.0/0", "10.180.0.0/16", "10.180.0.0/24", "10.180.0.5/32", "198.51.100.0/24", "128.0.0.0/1", "::/0", "fd00:180::/64", "2001:db8::/32", "10.0.0.0/31"),
    "instant": ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000001Z", "1970-01-01T00:00:00Z", "2026-01-01T00:00:01+01:00"),
    "protocol": ("TCP", "UDP", "SCTP"),
    "name": ("a", "0", "a-b", "a" * 63, "web", "shop", "n1", "n2", "p", "", "x.y", "http", "kube-dns", "None"),
    "text": ("", "a b", "é", "a\u202eb", "x" * 1000, "\x1b[31mred", "a\nb", "true", "1"),
}  # fmt: skip
_WRONG: dict[str, Sequence[Any]] = {
    "integer": (-1, 65536, 2**31, 2**32, 2**63, 2**64, 10**30, "", None, 1e300, float("nan")),
    "number": (-1, -1e-320, 1e308, float("inf"), float("nan"), "1e400", "", None),
    "truth": (None, "true", 1, ""),
    "duration": ("-1s", "1e-320s", "1e400s", "0.0000000001s", "99999999999h", "", 1, None, "infs", "1s1s"),
    "address": ("0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1", "169.254.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "ff02::1", "1.2.3", "010.1.1.1", "", " ", "x", None),
    "block": ("10.180.0.5/0", "10.180.0.5/24", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0", "::/129", "1.2.3.4/255.255.0.0", "", "/", None, "fe80::%1/64"),
    "instant": ("", "2026-13-01T00:00:00Z", "2026-01-01", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2026-01-01T00:00:00.0000000001Z", "2026-01-01T24:00:00Z", None),
    "protocol": ("tcp", "", "ICMP", "TCP ", None),
    "name": ("A", "a/b", "a b", " ", "é", "\u202e", "\x1b[31m", "a\nb", "-", "a" * 64, "a" * 254, "a" * 5000, "..", "*", "$x", None, 1),
    "text": (None, "a" * 100_000, "\0", "\ud800", 5),
}  # fmt: skip
_FORMS: tuple[tuple[str, str], ...] = (
    ("instant", r"\d{4}-\d\d-\d\dT\S+"),
    ("duration", r"(\d+(\.\d+)?(ns|us|ms|s|m|h))+"),
    ("block", r"[0-9a-fA-F.:]*[.:][0-9a-fA-F.:]*/\d+"),
    ("address", r"\d+\.\d+\.\d+\.\d+|[0-9a-fA-F]*:[0-9a-fA-F:.]*"),
    ("protocol", r"TCP|UDP|SCTP|ICMP"),
    ("name", r"[A-Za-z0-9./_-]*"),
)
#: whether a changed field gets a value that it may well take, in percent
_LEGAL_PERCENT = 85
#: fields whose value says what the document is: another value makes another document, not an edge of this one
_HEADS = frozenset({"apiVersion", "kind", "type", "op"})

Path = tuple[Any, ...]


def form_of(value: Any) -> str:
    """The form of a value that is no list and no mapping."""
    match value:
        case bool():
            return "truth"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return next((name for name, pattern in _FORMS if re.fullmatch(pattern, value)), "text")
        case _:
            return "text"


def nudged(choices: Choices, value: Any) -> Any:
    """The value with one or two fields at an edge. The value itself is not changed."""
    for _ in range(pick(choices, (1, 1, 2))):
        paths = [path for path in _paths(value) if path and path[-1] not in _HEADS] or [()]
        path = pick(choices, paths)
        same = [found for other in paths if form_of(found := _at(value, other)) == form_of(_at(value, path))]
        value = _replaced(value, path, partial(_edge, choices, same))
    return value


def _edge(choices: Choices, same: Sequence[Any], old: Any) -> Any:
    """``same``: what stands elsewhere in the document, in the same form."""
    if isinstance(old, list):
        return _other_list(choices, old)
    if isinstance(old, dict):
        return _other_mapping(choices, old)
    form = form_of(old)
    legal = chance(choices, _LEGAL_PERCENT)
    if legal and chance(choices, 35):
        others = [each for each in same if not isinstance(each, (list, dict))]
        if others:
            return pick(choices, others)  # names that clash, a reference to itself, one address twice
    if isinstance(old, int) and not isinstance(old, bool) and chance(choices, 25):
        return old + pick(choices, (1, -1))
    return pick(choices, (_LEGAL if legal else _WRONG)[form])


def _other_list(choices: Choices, old: list[Any]) -> list[Any]:
    ways: tuple[tuple[int, Callable[[], list[Any]]], ...] = (
        (2, lambda: []),
        (3, lambda: [*old, *old[-1:]]),
        (3, lambda: old[::-1]),
        (3, lambda: old[1:]),
        (3, lambda: old[:-1]),
        (2, lambda: old * 20),
        (1, lambda: [*old, None]),
        (1, lambda: [old]),
    )
    return weighted(choices, *ways)()


def _other_mapping(choices: Choices, old: dict[Any, Any]) -> Any:
    """A field goes, or all do. One that nobody knows comes rarely, since it is refused everywhere."""
    if not old:
        return pick(choices, ({}, {"a": "b"}, {"a": None}))
    key = pick(choices, list(old))
    without = {each: old[each] for each in old if each != key}
    ways: tuple[tuple[int, Any], ...] = (
        (5, without), (1, {}), (2, {**old, key: None}), (1, {**without, f"{key}x": old[key]}), (1, {key: old[key]}), (5, {**without, key: old[key]}),
    )  # fmt: skip
    return weighted(choices, *ways)


def _paths(value: Any, above: Path = ()) -> list[Path]:
    found = [above]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, each in inner:
        found += _paths(each, (*above, step))
    return found


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _replaced(value: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(value)
    step, rest = path[0], path[1:]
    if isinstance(value, dict):
        return {**value, step: _replaced(value[step], rest, change)}
    return [*value[:step], _replaced(value[step], rest, change), *value[step + 1 :]]


# --- documents and lines ----------------------------------------------------------------------------------------------


@cache
def _documents(data: bytes) -> list[Any]:
    return list(yaml.safe_load_all(data))


def written(documents: Sequence[Any]) -> bytes:
    """YAML documents, each in the form of JSON, which is YAML."""
    texts = [json.dumps(each, ensure_ascii=False, default=str) for each in documents]
    return "\n---\n".join(texts).encode("utf-8", "surrogatepass")


def mild_documents(choices: Choices, data: bytes) -> bytes:
    """YAML documents, one of them with an edge; rarely one is there twice, or gone, or they are in another order."""
    documents = list(_documents(data))
    number = choices.below(len(documents))
    match choices.below(12):
        case 0:
            documents.append(documents[number])
        case 1:
            del documents[number]
        case 2:
            documents.reverse()
        case 3:
            documents.append(nudged(choices, documents[number]))  # the same object, not quite
        case _:
            documents[number] = nudged(choices, documents[number])
    return written(documents)


def mild_scenario(choices: Choices, data: bytes) -> bytes:
    """The one document of a scenario with some edges."""
    return written([nudged(choices, _documents(data)[0])])


def mild_json_lines(choices: Choices, data: bytes) -> bytes:
    """Lines of JSON, one of them with an edge; rarely one is there twice, or gone, or two are exchanged."""
    lines = [line for line in data.decode().split("\n") if line.strip()]
    number = choices.below(len(lines))
    match choices.below(10):
        case 0:
            lines.insert(number, lines[number])
        case 1:
            del lines[number]
        case 2:
            other = choices.below(len(lines))
            lines[number], lines[other] = lines[other], lines[number]
        case _:
            for _ in range(pick(choices, (1, 1, 2, 4))):
                number = choices.below(len(lines))
                lines[number] = json.dumps(nudged(choices, json.loads(lines[number])), ensure_ascii=False)
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")


# --- words: rules, expressions, options -------------------------------------------------------------------------------

_NUMBER = re.compile(r"(?<![\w.:])-?\d+(\.\d+)?(?![\w.:]|/\d)|0x[0-9a-f]+")
_ADDRESS = re.compile(r"(?<![\w.:])\d+\.\d+\.\d+\.\d+(?!/)|[0-9a-f]*::[0-9a-f:]*")
_BLOCK = re.compile(r"\d+\.\d+\.\d+\.\d+/[\d.]+")
_NUMBERS = ("0", "1", "2", "64", "80", "255", "256", "65535", "65536", "0x10", "0xffffffff", "4294967295", "4294967296", "010", "-1", "0.5", "1e-320", "80:443", "443:80", "80,80", "")  # fmt: skip


def mild_words(choices: Choices, text: str) -> str:
    """The text with a number, an address or a block in it at an edge."""
    found = [
        (match, form)
        for pattern, form in ((_NUMBER, "numeral"), (_ADDRESS, "address"), (_BLOCK, "block"))
        for match in pattern.finditer(text)
    ]
    if not found:
        return text
    match, form = pick(choices, found)
    legal = chance(choices, _LEGAL_PERCENT)
    words: Sequence[Any] = _NUMBERS if form == "numeral" else (_LEGAL if legal else _WRONG)[form]
    if legal and chance(choices, 40):
        words = [other.group() for other, its in found if its == form]
    return f"{text[: match.start()]}{pick(choices, words) or ''}{text[match.end() :]}"


def mild_rules(choices: Choices, data: bytes) -> bytes:
    """A saved ruleset, some rules of which are negated, moved, doubled, gone, sent elsewhere or have an edge."""
    lines = data.decode().split("\n")
    chains = [line[1:].split()[0] for line in lines if line.startswith(":")]
    for _ in range(pick(choices, (1, 1, 2, 3, 6))):
        rules = [number for number, line in enumerate(lines) if line.startswith("-A")]
        at = pick(choices, rules)
        other = pick(choices, rules)
        match choices.below(9):
            case 0:
                lines.insert(at, lines[at])
            case 1 if len(rules) > 1:
                del lines[at]
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                target = pick(choices, (*chains, "ACCEPT", "DROP", "RETURN", "MASQUERADE", "REJECT", "NOTRACK", "LOG"))
                lines[at] = re.sub(r"-j \S+.*", f"-j {target}", lines[at])
            case 4:
                lines[at] = re.sub(r" (-s|-d|-p|-i|-o|--dport|--mark|--ctstate) ", r" ! \1 ", lines[at], count=1)
            case _:
                lines[at] = mild_words(choices, lines[at])
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def mild_capture(choices: Choices, data: bytes) -> bytes:
    """A capture with one byte of a header or a packet at an edge."""
    at = choices.below(len(data))
    changed = pick(choices, (0, 1, 0x7F, 0x80, 0xFF, data[at] ^ 1, data[at] ^ 0x80))
    return data[:at] + bytes([changed]) + data[at + 1 :]
