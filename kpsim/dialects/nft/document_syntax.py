"""From text to items: what a file of nft says, object by object. A listing is made of blocks, a transaction of commands."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kpsim.dialects.nft.datatypes import Tree
from kpsim.dialects.nft.expression_syntax import expression, set_of
from kpsim.dialects.nft.rates import limit_rate, pass_counted, quota_of, seconds
from kpsim.dialects.nft.syntax import Statement, at_end, statements
from kpsim.dialects.nft.tokens import Cursor, Kind, SyntaxProblem, Token, tokens_of

FAMILIES = ("ip", "ip6", "inet", "arp", "bridge", "netdev")
_VERBS = ("add", "create", "insert", "replace", "flush", "delete", "destroy")
#: objects that the model does not have, by the words that begin them
_UNREAD = ("flowtable", "secmark", "synproxy", "ct", "tunnel")


@dataclass(slots=True)
class Item:
    """One object, or a change of one.

    ``about`` has what is said of it, under the names of libnftables-json(5): ``family``, ``table``, ``name``, ``prio``.
    """

    verb: str  #: ``add``, ``insert``, ``flush``, ``delete`` …
    kind: str  #: ``table``, ``chain``, ``rule``, ``set``, ``map``, ``element``, ``counter``, ``limit``, ``ruleset``, or another
    about: dict[str, Any]
    line: int | None
    statements: list[Statement] = field(default_factory=list)  #: of a rule


def items_of(text: str) -> list[Item]:
    """All that a text says, in order. SyntaxProblem names the first word that is not understood."""
    text = _expanded(text)
    cursor = Cursor(tokens_of(text), text)
    found: list[Item] = []
    while cursor.here.kind is not Kind.END:
        if cursor.here.kind is Kind.NEWLINE or cursor.is_sign(";"):
            cursor.take()
        else:
            _command(cursor, found)
    return found


_LONGEST_VALUE = 100_000
_LONGEST_TEXT = 10_000_000

# --- variables --------------------------------------------------------------------------------------------------------


def _expanded(text: str) -> str:
    """The text with its variables put in. Lines keep their numbers."""
    if "$" not in text and not re.search(r"\b(?:define|redefine|undefine|include)\b", text):
        return text
    tokens = tokens_of(text)
    values: dict[str, str] = {}
    pieces: list[str] = []
    at, written, length = 0, 0, 0
    while at < len(tokens):
        token = tokens[at]
        begins = at == 0 or tokens[at - 1].kind is Kind.NEWLINE or tokens[at - 1].text in (";", "{")
        if begins and token.kind is Kind.WORD and token.text == "include":
            raise SyntaxProblem(
                "include: another file; `nft -c -f FILE` checks it, `nft list ruleset` prints all of it once it is loaded",
                token,
            )
        if begins and token.kind is Kind.WORD and token.text in ("undefine", "redefine"):
            raise SyntaxProblem(
                f"{token.text} is not read; `nft list ruleset` prints the rules without variables", token
            )
        if begins and token.kind is Kind.WORD and token.text == "define":
            name, last = _defined(tokens, at)
            end = tokens[last].start
            words = "".join(_substituted(tokens[i : i + 1], values, text, gap=i > at + 3) for i in range(at + 3, last))
            if len(words) > _LONGEST_VALUE:
                raise SyntaxProblem(f"${name} is longer than {_LONGEST_VALUE:,} characters", token)
            values[name] = words
            pieces += [text[written : token.start], "\n" * text.count("\n", token.start, end)]
            written, at = end, last
            continue
        if token.kind is Kind.SIGN and token.text == "$":
            pieces += [text[written : token.start], _value_of(tokens[at + 1], values)]
            length += len(pieces[-1])
            if length > _LONGEST_TEXT:
                raise SyntaxProblem("with its variables the file is too long", token)
            written, at = tokens[at + 1].end, at + 2
            continue
        at += 1
    return "".join([*pieces, text[written:]])


def _defined(tokens: list[Token], at: int) -> tuple[str, int]:
    """The name of a variable, and the token behind its value."""
    if tokens[at + 1].kind is not Kind.WORD or tokens[at + 2].text != "=":
        raise SyntaxProblem("expected define NAME = VALUE", tokens[at])
    depth, last = 0, at + 3
    while tokens[last].kind is not Kind.END:
        token = tokens[last]
        if token.kind is Kind.SIGN and token.text in "{}":
            depth += 1 if token.text == "{" else -1
        if depth <= 0 and (token.kind is Kind.NEWLINE or (token.kind is Kind.SIGN and token.text == ";")):
            break
        last += 1
    return tokens[at + 1].text, last


def _substituted(tokens: list[Token], values: dict[str, str], text: str, *, gap: bool) -> str:
    (token,) = tokens
    if token.kind is Kind.NEWLINE:
        return " "
    before = text[token.start - 1]
    blank = " " if gap and before in " \t\n" else ""
    if before == "$":
        return "\b" + _value_of(token, values)
    return blank + text[token.start : token.end]


def _value_of(token: Token, values: dict[str, str]) -> str:
    if token.text not in values:
        raise SyntaxProblem(f"${token.text} is not defined in this file", token)
    return values[token.text].replace("$\b", "")


# --- commands ---------------------------------------------------------------------------------------------------------


def _command(cursor: Cursor, found: list[Item]) -> None:
    line = cursor.here.line
    if cursor.is_word("table"):
        cursor.take()
        _table(cursor, "add", line, found)
        return
    if not cursor.is_word(*_VERBS):
        raise cursor.problem("expected table, add or another command of nft")
    verb = cursor.take().text
    if cursor.accept("ruleset"):
        family = cursor.take().text if cursor.is_word(*FAMILIES) else ""
        found.append(Item(verb, "ruleset", {"family": family}, line))
        return
    kind = cursor.word("table, chain, rule, set, map or element")
    if kind == "table":
        _table(cursor, verb, line, found)
        return
    about = {"family": cursor.take().text if cursor.is_word(*FAMILIES) else "ip"}
    if kind == "ct":
        kind += " " + cursor.word("helper, timeout or expectation")
    about["table"] = cursor.word("a table")
    about["name"] = cursor.word(f"a {kind}")
    item = Item(verb, kind, about, line)
    _behind(cursor, item)
    found.append(item)
    if not at_end(cursor):
        raise cursor.problem("expected the end of the command")


def _behind(cursor: Cursor, item: Item) -> None:
    """What a command says of its object."""
    about = item.about
    match item.kind:
        case "rule":
            about["chain"] = about.pop("name")
            while cursor.is_word("handle", "position", "index"):
                name = cursor.take().text
                about[name] = cursor.number("a number")
            if item.verb in ("add", "create", "insert", "replace"):
                item.statements = statements(cursor)
        case "element":
            about["elem"] = set_of(cursor)["set"]
        case _ if not cursor.is_sign("{"):
            _object_alone(cursor, item)
        case "chain" | "set" | "map":
            rules: list[Item] = []
            _BODIES[item.kind](cursor, item, rules)
            if rules:
                raise cursor.problem("rules go into a chain by commands of their own")
        case _:
            _object_body(cursor, item)


def _table(cursor: Cursor, verb: str, line: int, found: list[Item]) -> None:
    family = cursor.take().text if cursor.is_word(*FAMILIES) else "ip"
    if verb in ("delete", "destroy", "flush") and cursor.accept("handle"):
        raise cursor.problem("a table by its handle is not read")
    item = Item(verb, "table", {"family": family, "name": cursor.word("the name of a table")}, line)
    found.append(item)
    if not cursor.is_sign("{"):
        return
    cursor.take()
    while not cursor.accept("}"):
        if cursor.here.kind is Kind.NEWLINE or cursor.is_sign(";"):
            cursor.take()
        elif cursor.accept("flags"):
            item.about["flags"] = _words(cursor)
        elif cursor.accept("comment"):
            item.about["comment"] = cursor.word("a comment")
        else:
            _object(cursor, item, found)


def _object(cursor: Cursor, table: Item, found: list[Item]) -> None:
    """An object in the block of its table."""
    line = cursor.here.line
    kind = cursor.word("chain, set, map or another object")
    if kind not in (*_BODIES, "counter", "limit", "quota", *_UNREAD):
        raise SyntaxProblem(f"expected chain, set, map or another object, not {kind!r}", cursor.ahead(-1))
    if kind == "ct":
        kind += " " + cursor.word("helper, timeout or expectation")
    about = {
        "family": table.about["family"],
        "table": table.about["name"],
        "name": cursor.word(f"the name of a {kind}"),
    }
    item = Item("add", kind, about, line)
    found.append(item)
    if kind in _BODIES:
        _BODIES[kind](cursor, item, found)
    else:
        _object_body(cursor, item)


def _words(cursor: Cursor) -> list[str]:
    words = [cursor.word("a flag")]
    while cursor.accept(","):
        words.append(cursor.word("a flag"))
    return words


# --- bodies -----------------------------------------------------------------------------------------------------------


def _chain(cursor: Cursor, item: Item, found: list[Item]) -> None:
    cursor.expect("{")
    about = item.about
    while not cursor.accept("}"):
        if cursor.here.kind is Kind.NEWLINE or cursor.is_sign(";"):
            cursor.take()
        elif cursor.here.kind is Kind.END:
            raise cursor.problem("expected }")
        elif cursor.is_word("type") and "hook" not in about:
            _base(cursor, about)
        elif cursor.is_word("policy") and cursor.ahead().text in ("accept", "drop"):
            cursor.take()
            about["policy"] = cursor.take().text
        elif cursor.is_word("flags") and cursor.ahead().text == "offload":
            cursor.take()
            cursor.take()
        elif cursor.is_word("comment"):
            cursor.take()
            about["comment"] = cursor.word("a comment")
        else:
            line = cursor.here.line
            of = {"family": about["family"], "table": about["table"], "chain": about["name"]}
            found.append(Item("add", "rule", of, line, statements(cursor)))
            if cursor.is_sign("}"):
                raise cursor.problem("expected the end of the line or a semicolon")


def _base(cursor: Cursor, about: dict[str, Any]) -> None:
    cursor.expect("type")
    about["type"] = cursor.word("filter, nat or route")
    cursor.expect("hook")
    about["hook"] = cursor.word("a hook")
    if cursor.is_word("device", "devices"):
        several = cursor.take().text == "devices"
        if several:
            cursor.accept("=")
            about["dev"] = set_of(cursor)["set"]
        else:
            about["dev"] = cursor.word("an interface")
    cursor.expect("priority")
    about["prio"] = priority(cursor)


def priority(cursor: Cursor) -> str | int:
    """A priority: a number, or ``dstnat - 10``, which is returned as ``dstnat -10``."""
    sign = -1 if cursor.accept("-") else 1
    if cursor.here.kind is Kind.NUMBER:
        return sign * cursor.number("a priority")
    name = cursor.word("a priority")
    if cursor.is_sign("+", "-"):
        sign = -1 if cursor.take().text == "-" else 1
        return f"{name} {sign * cursor.number('a number')}"
    return name


def _set(cursor: Cursor, item: Item, found: list[Item]) -> None:
    cursor.expect("{")
    about = item.about
    while not cursor.accept("}"):
        if cursor.here.kind is Kind.NEWLINE or cursor.is_sign(";"):
            cursor.take()
            continue
        word = cursor.word("a property of a set")
        if word in _SET_PROPERTIES:
            _SET_PROPERTIES[word](cursor, about)
        elif word in ("counter", "last", "limit", "quota", "ct"):
            while not at_end(cursor):
                cursor.take()
            about.setdefault("stmt", []).append(word)
        else:
            raise SyntaxProblem(f"expected a property of a set, not {word!r}", cursor.ahead(-1))


def _reader(name: str, read: Callable[[Cursor], Any]) -> Callable[[Cursor, dict[str, Any]], None]:
    def into(cursor: Cursor, about: dict[str, Any]) -> None:
        about[name] = read(cursor)

    return into


def _elements(cursor: Cursor) -> Tree:
    cursor.expect("=")
    return set_of(cursor)["set"]


def _types(cursor: Cursor, about: dict[str, Any]) -> None:
    """Types that nft takes by their names: a number alone has no width. JSON has it, too, for what ``typeof`` says."""
    read_types(cursor, about)
    if "integer" in (*about["type"], *about.get("map", ())):
        raise SyntaxProblem("integer is no type of a set by itself: expected typeof and an expression", cursor.here)


def read_types(cursor: Cursor, about: dict[str, Any]) -> None:
    """Reads what stands behind ``type``."""
    about["type"] = _type_names(cursor)
    if cursor.accept(":"):
        about["map"] = _type_names(cursor)


def _type_names(cursor: Cursor) -> list[str]:
    names = [cursor.word("a type")]
    while cursor.accept("."):
        names.append(cursor.word("a type"))
    return names


def read_typeof(cursor: Cursor, about: dict[str, Any]) -> None:
    """Reads what stands behind ``typeof``."""
    first = cursor.at
    about["typeof"] = expression(cursor)
    if cursor.accept(":"):
        if cursor.is_word("verdict", "counter", "limit", "quota"):
            about["map"] = [cursor.take().text]
        else:
            about["map typeof"] = expression(cursor)
    about["words"] = "typeof " + cursor.source(first)


def _object_body(cursor: Cursor, item: Item) -> None:
    """What is in the braces of a counter or a limit; of others it is passed over."""
    cursor.expect("{")
    cursor.skip_lines()
    match item.kind:
        case "limit":
            cursor.expect("rate")
            item.about |= limit_rate(cursor)
        case "quota":
            item.about |= quota_of(cursor)
        case _:
            _pass_over(cursor)
            return
    while not cursor.accept("}"):
        if cursor.accept("comment"):
            item.about["comment"] = cursor.word("a comment")
        elif cursor.here.kind is Kind.NEWLINE or cursor.is_sign(";"):
            cursor.take()
        else:
            raise cursor.problem("expected }")


def _object_alone(cursor: Cursor, item: Item) -> None:
    """What a command says of a limit, a quota or a counter without braces."""
    match item.kind:
        case "limit" if cursor.accept("rate"):
            item.about |= limit_rate(cursor)
        case "quota" if not at_end(cursor):
            item.about |= quota_of(cursor)
        case "counter":
            pass_counted(cursor)
        case _:
            pass


def _pass_over(cursor: Cursor) -> None:
    depth = 1
    while depth:
        if cursor.here.kind is Kind.END:
            raise cursor.problem("expected }")
        token = cursor.take()
        if token.kind is Kind.SIGN and token.text in "{}":
            depth += 1 if token.text == "{" else -1


_SET_PROPERTIES: Mapping[str, Callable[[Cursor, dict[str, Any]], None]] = {
    "type": _types,
    "typeof": read_typeof,
    "flags": _reader("flags", _words),
    "timeout": _reader("timeout", seconds),
    "gc-interval": _reader("gc-interval", seconds),
    "size": _reader("size", lambda cursor: cursor.number("a size")),
    "policy": _reader("policy", lambda cursor: cursor.expect("performance", "memory").text),
    "auto-merge": _reader("auto-merge", lambda cursor: True),
    "comment": _reader("comment", lambda cursor: cursor.word("a comment")),
    "elements": _reader("elem", _elements),
}
_BODIES = {"chain": _chain, "set": _set, "map": _set}
