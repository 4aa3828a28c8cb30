"""Makes hostile input from valid input: bytes that are damaged, lines out of place, values that no field expects."""

import json
from collections.abc import Sequence
from typing import Any

import yaml

from kpsim.verify.drawing.choices import Choices, chance, pick

#: texts that have broken programs before: numbers at and past every edge, odd characters, syntax of YAML, JSON and shells
TOKENS = (
    "0", "-1", "00", "010", "0x10", "1e400", "1e-400", "-0", "NaN", "Infinity", "-Infinity", "1" * 30, "9" * 5000, "2147483648",
    "4294967296", "9223372036854775808", "18446744073709551616", "65536", "0.5", ".", "1_000", "1e5", "inf", "1s", "1e-400s", "1e400h", "-5s", "5",
    "", " ", "\0", "\x1b[31m", "\u202e", "\ud800", "\U0010ffff", "é", "null", "~", "true", "no", "[]", "{}", "[[[[", "}", "'", '"', "#", "---\n", "- ",
    ": ", "? ", "&a ", "*a", "!!python/object:x", "!!binary x", "<<: ", "%YAML 9\n", "|\n", ">\n", "@", "`", "\t", "\r", "\n", "\\", "/", "//", "../", "-", "--",
    "0.0.0.0", "255.255.255.255", "::", "::1", "fe80::1%eth0", "1.2.3", "1.2.3.4/33", "1.2.3.4/0", "::/0", "::ffff:1.2.3.4", "1.2.3.4:99999", "[::1]:0",
    "*filter", "*nat", "COMMIT", "[0:0]", ":INPUT ACCEPT [0:0]", "-A INPUT", "-A", "-j", "-j ACCEPT", "!", "-m", "-p tcp", "-m statistic", "--probability 2",
    "-I INPUT 0", "-X", ":", "-A '' -j DROP", '"" ', "-m comment --comment", "2001-01-01", "2001-01-01T00:00:00Z", "9999999999-01-01", "1970-01-01T00:00:00.9999999999Z",
    "IP()", "TCP(dport=-1)", "/", "**", "(", ")", "lambda: 0", "__import__('os')", "RandShort()", "IP(ttl=1e999)", "b'\\xff'", "%s", "{0}", "$(x)",
)  # fmt: skip

#: values for fields of JSON and YAML
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, 0.5, -0.5, 1e308, 1e-320, float("inf"), float("nan"), "", " ", "x",
    "0", "-1", "1e400", "1e-400", "1e-400s", "1e400s", "99999999999h", "-1s", "0s", "1ns", "0.0000000001ns", "a" * 300, "A", "a/b", "a.b", "-a", "é", "\0", "\x1b[0m", "\u202e",
    "\n", "null", "true", "1.2.3.4", "::", "1.2.3.4/99", "300.0.0.1", "2001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", [], [[]], [None], [0], [""], [{}], {}, {"": 0},
    {"a": None}, {"a": {"b": {}}}, [[[[[[]]]]]], ["a"] * 50, "tcp", "TCP", "IPv4", "Ready",
)  # fmt: skip


def token(choices: Choices) -> str:
    return pick(choices, TOKENS)


def damaged(choices: Choices, data: bytes) -> bytes:
    """The bytes after a few changes."""
    for _ in range(pick(choices, (1, 1, 1, 2, 4))):
        data = _once(choices, data)
    return data


def _once(choices: Choices, data: bytes) -> bytes:
    at = choices.below(len(data) + 1)
    end = min(len(data), at + 1 + choices.below(12))
    match choices.below(9):
        case 0:
            return data[:at] + bytes([choices.below(256)]) + data[at + 1 :]
        case 1 | 2:
            return data[:at] + token(choices).encode("utf-8", "surrogatepass") + data[at:]
        case 3:
            return data[:at] + token(choices).encode("utf-8", "surrogatepass") + data[end:]
        case 4:
            return data[:at] + data[end:]
        case 5:
            return data[:at]
        case _:
            return _other_lines(choices, data)


def _other_lines(choices: Choices, data: bytes) -> bytes:
    """The lines with one gone, doubled, moved, or with a word replaced."""
    lines = data.split(b"\n")
    number = choices.below(len(lines))
    match choices.below(5):
        case 0:
            del lines[number]
        case 1:
            lines.insert(choices.below(len(lines)), lines[number])
        case 2:
            lines.insert(choices.below(len(lines)), lines.pop(number))
        case 3:
            lines[number] = token(choices).encode("utf-8", "surrogatepass")
        case _:
            words = lines[number].split(b" ")
            words[choices.below(len(words))] = token(choices).encode("utf-8", "surrogatepass")
            lines[number] = b" ".join(words)
    return b"\n".join(lines)


def restructured(choices: Choices, value: Any) -> Any:
    """The value with a field or item somewhere in it changed, gone, doubled or renamed."""
    paths = list(_paths(value))
    for _ in range(pick(choices, (1, 1, 1, 2, 3))):
        value = _put(choices, value, pick(choices, paths))
    return value


def _paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [above]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, each in inner:
        found += _paths(each, (*above, step))
    return found


def _put(choices: Choices, value: Any, path: Sequence[Any]) -> Any:
    if not path:
        return pick(choices, VALUES)
    step, rest = path[0], path[1:]
    if isinstance(value, dict) and step in value:
        if rest:
            return {**value, step: _put(choices, value[step], rest)}
        match choices.below(6):
            case 0:
                return {key: each for key, each in value.items() if key != step}
            case 1:
                return {(str(pick(choices, VALUES)) if key == step else key): each for key, each in value.items()}
            case 2:
                return {**value, step: [value[step]] if chance(choices, 50) else {"a": value[step]}}
            case _:
                return {**value, step: pick(choices, VALUES)}
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        if rest:
            return [*value[:step], _put(choices, value[step], rest), *value[step + 1 :]]
        match choices.below(4):
            case 0:
                return [*value[:step], *value[step + 1 :]]
            case 1:
                return [*value, value[step]]
            case _:
                return [*value[:step], pick(choices, VALUES), *value[step + 1 :]]
    return value


def hostile_json_lines(choices: Choices, data: bytes) -> bytes:
    """Lines of JSON with one of them changed inside."""
    lines = data.decode().split("\n")
    number = choices.below(len(lines))
    try:
        value = json.loads(lines[number])
    except ValueError:
        return damaged(choices, data)
    lines[number] = json.dumps(restructured(choices, value), ensure_ascii=chance(choices, 50))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def hostile_documents(choices: Choices, data: bytes) -> bytes:
    """YAML documents with one of them changed inside, written as JSON, which is YAML."""
    documents = list(yaml.safe_load_all(data))
    number = choices.below(len(documents))
    documents[number] = restructured(choices, documents[number])
    written = [json.dumps(each, ensure_ascii=chance(choices, 50), default=str) for each in documents]
    return "\n---\n".join(written).encode("utf-8", "surrogatepass")
