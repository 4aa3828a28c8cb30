"""From text to trees: the statements of a rule, in nft's grammar. What a tree means is said in ``reading``.

Several spellings give the same tree: ``mark and 0x1 == 0`` of kube-proxy and of nft 1.0.1, ``meta mark & 0x00000001 == 0``
of later versions.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from kpsim.dialects.nft.datatypes import Tree
from kpsim.dialects.nft.expression_syntax import at_value, data, expression, value
from kpsim.dialects.nft.rates import limit_rate, pass_connections, pass_counted, pass_last, quota_of, seconds
from kpsim.dialects.nft.tokens import Cursor, Kind


class Statement(NamedTuple):
    """One statement of a rule: its tree and its text. ``line`` counts from 1; JSON has none."""

    tree: Tree
    source: str
    line: int | None


def statements(cursor: Cursor) -> list[Statement]:
    """The statements up to the end of a rule, the comment among them. SyntaxProblem for what is no statement."""
    found: list[Statement] = []
    while not at_end(cursor):
        first, line = cursor.at, cursor.here.line
        tree = _statement(cursor)
        found.append(Statement(tree, cursor.source(first), line))
        if "comment" in tree and not at_end(cursor):
            raise cursor.problem("expected the end of the rule behind its comment")
    return found


def at_end(cursor: Cursor) -> bool:
    """Whether the rule is over."""
    return cursor.here.kind in (Kind.NEWLINE, Kind.END) or cursor.is_sign(";", "}")


def _statement(cursor: Cursor) -> Tree:
    token = cursor.here
    if token.kind is Kind.WORD:
        read = _READERS.get(token.text)
        if read is not None and (tree := read(cursor)) is not None:
            return tree
    left = expression(cursor)
    if cursor.accept("vmap"):
        return {"vmap": {"key": left, "data": data(cursor)}}
    if cursor.accept("set"):
        return {"mangle": {"key": left, "value": _assigned(cursor)}}
    return _match(cursor, left)


def _assigned(cursor: Cursor) -> Tree:
    if cursor.is_word("fib"):
        raise cursor.problem("expected a value that can be set")
    key = value(cursor)
    if cursor.accept("map"):
        return {"map": {"key": key, "data": data(cursor)}}
    return key


_OPERATORS = {
    "eq": "==", "ne": "!=", "lt": "<", "gt": ">", "le": "<=", "ge": ">=",
    "==": "==", "!=": "!=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!": "!",
}  # fmt: skip


def _match(cursor: Cursor, left: Tree) -> Tree:
    token = cursor.here
    op = _OPERATORS.get(token.text) if token.kind in (Kind.SIGN, Kind.WORD) else None
    if op is not None:
        cursor.take()
    elif not at_value(cursor):
        raise cursor.problem("expected a value")
    right = value(cursor)
    if cursor.is_sign("/"):
        # `syn / syn,ack`: the value, then the bits that are compared
        cursor.take()
        left = {"&": [left, value(cursor)]}
        op = op or "=="
    return {"match": {"op": op or "", "left": left, "right": right}}


# --- statements that begin with a word of their own -------------------------------------------------------------------


def _verdict(cursor: Cursor) -> Tree:
    return {cursor.take().text: None}


def _to_chain(cursor: Cursor) -> Tree | None:
    verb = cursor.take().text
    if cursor.is_sign("{"):
        return {verb: {"block": _block(cursor)}}
    return {verb: {"target": cursor.word("a chain")}}


def _block(cursor: Cursor) -> list[list[Statement]]:
    """The rules of a chain without name."""
    cursor.expect("{")
    rules: list[list[Statement]] = []
    while not cursor.is_sign("}"):
        if cursor.here.kind is Kind.NEWLINE or cursor.is_sign(";"):
            cursor.take()
            continue
        if cursor.here.kind is Kind.END:
            raise cursor.problem("expected }")
        with cursor.deeper():
            rules.append(statements(cursor))
    cursor.take()
    return rules


def _named_object(cursor: Cursor, kind: str) -> Tree | None:
    if cursor.accept("name"):
        return {kind: cursor.word(f"the name of a {kind}")}
    return None


def _counter(cursor: Cursor) -> Tree:
    cursor.take()
    if (named := _named_object(cursor, "counter")) is not None:
        return named
    pass_counted(cursor)
    return {"counter": None}


def _last(cursor: Cursor) -> Tree:
    cursor.take()
    pass_last(cursor)
    return {"last": None}


def _limit(cursor: Cursor) -> Tree:
    cursor.take()
    if (named := _named_object(cursor, "limit")) is not None:
        return named
    cursor.expect("rate")
    return {"limit": limit_rate(cursor)}


def _quota(cursor: Cursor) -> Tree:
    cursor.take()
    if (named := _named_object(cursor, "quota")) is not None:
        return named
    return {"quota": quota_of(cursor)}


_LEVELS = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug", "audit")


def _log(cursor: Cursor) -> Tree:
    cursor.take()
    about: dict[str, Tree] = {}
    flags: list[str] = []
    while cursor.is_word("prefix", "level", "group", "snaplen", "queue-threshold", "flags"):
        option = cursor.take().text
        if option == "prefix":
            about[option] = cursor.word("a prefix")
        elif option == "level":
            about[option] = cursor.expect(*_LEVELS).text
        elif option == "flags":
            flags.append(_log_flags(cursor))
        else:
            about[option] = cursor.number("a number")
    if flags:
        about["flags"] = flags[0] if len(flags) == 1 else flags
    return {"log": about or None}


def _log_flags(cursor: Cursor) -> str:
    word = cursor.expect("tcp", "ip", "skuid", "ether", "all").text
    if word == "ip":
        cursor.expect("options")
        return "ip options"
    if word == "tcp":
        words = [cursor.expect("sequence", "options").text]
        while cursor.accept(","):
            words.append(cursor.expect("sequence", "options").text)
        return "tcp " + ",".join(words)
    return word


def _reject(cursor: Cursor) -> Tree:
    cursor.take()
    if not cursor.accept("with"):
        return {"reject": None}
    kind = cursor.expect("icmp", "icmpv6", "icmpx", "tcp").text
    if kind == "tcp":
        cursor.expect("reset")
        return {"reject": {"type": "tcp reset"}}
    cursor.accept("type")
    return {
        "reject": {
            "type": kind,
            "expr": cursor.word("a code of ICMP") if cursor.here.kind is not Kind.NUMBER else cursor.number(""),
        }
    }


# --- NAT --------------------------------------------------------------------------------------------------------------

_NAT_FLAGS = ("random", "fully-random", "persistent")


def _nat(cursor: Cursor) -> Tree:
    verb = cursor.take().text
    about: dict[str, Tree] = {}
    if cursor.is_word("ip", "ip6") and (cursor.ahead().text in ("to", "addr", "interval", "prefix")):
        about["family"] = cursor.take().text
        if cursor.accept("addr"):
            cursor.expect(".")
            cursor.expect("port")
            about["type_flags"] = "concat"
    if cursor.is_word("interval", "prefix"):
        about["type_flags"] = cursor.take().text
    if verb in ("snat", "dnat") or cursor.is_word("to"):
        if about:
            cursor.expect("to")
        else:
            cursor.accept("to")
        _target(cursor, about, port_alone=verb in ("redirect", "masquerade"))
    flags: list[str] = []
    if cursor.is_word(*_NAT_FLAGS):
        flags.append(cursor.take().text)
        while cursor.accept(","):
            flags.append(cursor.expect(*_NAT_FLAGS).text)
    if flags:
        about["flags"] = flags[0] if len(flags) == 1 else flags
    return {verb: about or None}


def _target(cursor: Cursor, about: dict[str, Tree], *, port_alone: bool) -> None:
    """Where a translation leads: an address, ``:`` and a port, a map."""
    if cursor.accept("["):
        about["addr"] = cursor.take().text
        if cursor.accept("-"):
            about["addr"] = {"range": [about["addr"], cursor.take().text]}
        cursor.expect("]")
        if cursor.accept("-"):
            cursor.expect("[")
            about["addr"] = {"range": [about["addr"], cursor.take().text]}
            cursor.expect("]")
    elif not cursor.is_sign(":"):
        found = _assigned(cursor)
        about["port" if port_alone else "addr"] = found
    if cursor.accept(":"):
        about["port"] = _assigned(cursor)


# --- sets -------------------------------------------------------------------------------------------------------------


def _update(cursor: Cursor) -> Tree | None:
    """``add @set { ip saddr timeout 1m limit rate 5/second : value }``"""
    if cursor.ahead().text != "@":
        return None
    verb = cursor.take().text
    cursor.take()
    name = cursor.word("the name of a set")
    cursor.expect("{")
    about = _set_element(cursor, verb, name)
    cursor.expect("}")
    return about


def _set_element(cursor: Cursor, verb: str, name: str) -> Tree:
    key, timeout, stated = expression(cursor), None, []
    while not cursor.is_sign("}", ":"):
        if cursor.accept("timeout"):
            timeout = seconds(cursor)
        elif cursor.accept("expires"):
            seconds(cursor)
        else:
            stated.append(_statement(cursor))
    element: Tree = key if timeout is None else {"elem": {"val": key, "timeout": timeout}}
    about: dict[str, Tree] = {"op": verb, "elem": element, "set": f"@{name}"}
    if stated:
        about["stmt"] = stated
    if cursor.accept(":"):
        value(cursor)
        return {"map": about}  # known by its name alone
    return {"set": about}


def _old_set(cursor: Cursor) -> Tree | None:
    """``set add ip saddr @set``, as nft until 0.8 wrote it."""
    if not (cursor.is_word("set") and cursor.ahead().text in ("add", "update")):
        return None
    cursor.take()
    verb = cursor.take().text
    key = expression(cursor)
    timeout = seconds(cursor) if cursor.accept("timeout") else None
    cursor.expect("@")
    element: Tree = key if timeout is None else {"elem": {"val": key, "timeout": timeout}}
    return {"set": {"op": verb, "elem": element, "set": f"@{cursor.word('the name of a set')}"}}


def _meter(cursor: Cursor) -> Tree:
    cursor.take()
    about: dict[str, Tree] = {"name": cursor.word("the name of a meter")}
    if cursor.accept("size"):
        about["size"] = cursor.number("a size")
    cursor.expect("{")
    about["key"] = expression(cursor)
    if cursor.accept("timeout"):
        about["timeout"] = seconds(cursor)
    about["stmt"] = _statement(cursor)
    cursor.expect("}")
    return {"meter": about}


# --- what is known by name only ---------------------------------------------------------------------------------------


def _ct(cursor: Cursor) -> Tree | None:
    """``ct count``, and the objects of connection tracking. All else of ``ct`` is an expression."""
    if cursor.ahead().text == "count":
        cursor.take()
        pass_connections(cursor)
        return {"ct count": None}
    if cursor.ahead().text in ("helper", "timeout", "expectation") and cursor.ahead(2).text == "set":
        cursor.take()
        kind = cursor.take().text
        cursor.take()
        return {f"ct {kind}": cursor.word("a name")}
    return None


def _words(cursor: Cursor) -> Tree:
    """A statement that is known by its name alone: its words go on to the next verdict."""
    name = cursor.take().text
    while not at_end(cursor) and not cursor.is_word("accept", "drop", "return", "continue", "comment", "counter"):
        cursor.take()
    return {"words": {"name": name}}


def _flow(cursor: Cursor) -> Tree:
    cursor.take()
    cursor.expect("add", "offload")
    cursor.expect("@")
    return {"flow": cursor.word("the name of a flowtable")}


def _xt(cursor: Cursor) -> Tree:
    cursor.take()
    return {"xt": {"type": cursor.expect("match", "target", "watcher").text, "name": cursor.word("a name")}}


def _comment(cursor: Cursor) -> Tree:
    cursor.take()
    if cursor.is_word(*_READERS):
        raise cursor.problem("expected a comment, in quotes if nft knows the word")
    return {"comment": cursor.word("a comment")}


def _notrack(cursor: Cursor) -> Tree:
    cursor.take()
    return {"notrack": None}


_READERS: Mapping[str, Callable[[Cursor], Tree | None]] = {
    "accept": _verdict, "drop": _verdict, "return": _verdict, "continue": _verdict, "jump": _to_chain, "goto": _to_chain,
    "counter": _counter, "last": _last, "limit": _limit, "quota": _quota, "log": _log, "reject": _reject,
    "snat": _nat, "dnat": _nat, "masquerade": _nat, "redirect": _nat,
    "add": _update, "update": _update, "delete": _update, "set": _old_set, "meter": _meter,
    "ct": _ct, "notrack": _notrack, "flow": _flow, "xt": _xt, "comment": _comment,
    "queue": _words, "tproxy": _words, "dup": _words, "fwd": _words, "synproxy": _words,
}  # fmt: skip
