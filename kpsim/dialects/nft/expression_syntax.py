"""From text to trees: selectors, values, lists and maps, in nft's grammar."""

from kpsim.dialects.nft.datatypes import Tree
from kpsim.dialects.nft.rates import limit_rate, pass_connections, pass_counted, pass_last, quota_of, seconds
from kpsim.dialects.nft.tokens import Cursor, Kind, milliseconds, number_of

#: headers, and the words that name their fields
_HEADERS = {
    "ether": "saddr daddr type",
    "vlan": "id cfi dei pcp type",
    "arp": "htype ptype hlen plen operation saddr daddr",
    "ip": "version hdrlength dscp ecn length id frag-off ttl protocol checksum saddr daddr",
    "ip6": "version dscp ecn flowlabel length nexthdr hoplimit saddr daddr",
    "icmp": "type code checksum id sequence gateway mtu",
    "igmp": "type checksum mrt group",
    "icmpv6": "type code checksum parameter-problem packet-too-big mtu id sequence max-delay taddr daddr",
    "tcp": "sport dport sequence ackseq doff reserved flags window checksum urgptr",
    "udp": "sport dport length checksum",
    "udplite": "sport dport checksum",
    "sctp": "sport dport vtag checksum",
    "dccp": "sport dport type",
    "th": "sport dport",
    "ah": "nexthdr hdrlength reserved spi sequence",
    "esp": "spi sequence",
    "comp": "nexthdr flags cpi",
}
_FIELDS = {protocol: frozenset(words.split()) for protocol, words in _HEADERS.items()}
#: keys of ``meta`` that stand without it
UNQUALIFIED = frozenset(
    [
        "mark",
        "iif",
        "iifname",
        "iiftype",
        "iifgroup",
        "oif",
        "oifname",
        "oiftype",
        "oifgroup",
        "skuid",
        "skgid",
        "nftrace",
        "rtclassid",
        "ibriport",
        "obriport",
        "ibrname",
        "obrname",
        "pkttype",
        "cpu",
        "cgroup",
        "ipsec",
        "time",
        "day",
        "hour",
        "iifkind",
        "oifkind",
        "sdif",
        "sdifname",
    ]
)
_META = UNQUALIFIED | frozenset(
    ["length", "protocol", "priority", "random", "l4proto", "nfproto", "secpath", "broute", "secmark"]
)
_WORD_OPERATORS = {"and": "&", "or": "|", "xor": "^", "lshift": "<<", "rshift": ">>"}
_MOST_OPERATIONS = 30
_OPERATORS = ("&", "|", "^", "<<", ">>")


def expression(cursor: Cursor) -> Tree:
    """A selector, a concatenation of several, or an operation on one. SyntaxProblem for anything else."""
    first = _operation(cursor)
    if not cursor.is_sign("."):
        return first
    parts = [first]
    while cursor.accept("."):
        parts.append(_operation(cursor))
    return {"concat": parts}


def _operation(cursor: Cursor) -> Tree:
    left = _selector(cursor)
    for _ in range(_MOST_OPERATIONS):
        if (op := _operator(cursor)) is None:
            return left
        cursor.take()
        left = {op: [left, _operand(cursor)]}
    raise cursor.problem("too many operations")


def _operator(cursor: Cursor) -> str | None:
    token = cursor.here
    if token.kind is Kind.WORD:
        return _WORD_OPERATORS.get(token.text)
    return token.text if token.kind is Kind.SIGN and token.text in _OPERATORS else None


def _operand(cursor: Cursor) -> Tree:
    """What stands behind an operator: a value, several flags, or a selector."""
    if cursor.accept("("):
        inner = _alternatives(cursor)
        cursor.expect(")")
        return inner
    if _begins_selector(cursor):
        return _selector(cursor)
    return leaf(cursor)


def _alternatives(cursor: Cursor) -> Tree:
    """``fin | syn``, which is what the list ``fin,syn`` means too. nft takes no commas here."""
    words = [leaf(cursor)]
    while cursor.accept("|", "or"):
        words.append(leaf(cursor))
    return words[0] if len(words) == 1 else words


def _begins_selector(cursor: Cursor) -> bool:
    """Whether the next words name a field, and not a value such as ``tcp`` or ``ip``."""
    if cursor.is_sign("@"):
        return cursor.ahead().text in ("th", "nh", "ll", "ih") and cursor.ahead(2).text == ","
    token, following = cursor.here, cursor.ahead()
    if token.kind is not Kind.WORD:
        return False
    name = token.text
    if name in _FIELDS:
        return following.text in _FIELDS[name] or (
            (name in ("tcp", "ip") and following.text == "option") or (name == "sctp" and following.text == "chunk")
        )
    return name in UNQUALIFIED or name in (
        "meta", "ct", "fib", "rt", "socket", "numgen", "jhash", "symhash", "osf", "ipsec", "exthdr", "hbh", "dst", "frag", "mh",
        "srh", "tunnel",
    )  # fmt: skip


def _selector(cursor: Cursor) -> Tree:  # noqa: C901 - one case per kind of selector
    if cursor.accept("("):
        with cursor.deeper():
            inner = _operation(cursor)
        cursor.expect(")")
        return inner
    if not _begins_selector(cursor):
        raise cursor.problem("expected a statement")
    if cursor.accept("@"):
        return _raw(cursor)
    name = cursor.take().text
    if name in UNQUALIFIED and not (name == "ipsec" and cursor.is_word("in", "out")):
        return {"meta": {"key": name}}
    match name:
        case "meta":
            return {"meta": {"key": _meta_key(cursor)}}
        case "ct":
            return _ct(cursor)
        case "fib":
            return _fib(cursor)
        case "numgen":
            return _numgen(cursor)
        case "jhash" | "symhash":
            return _hash(cursor, name)
        case "socket":
            return {"socket": {"key": cursor.word("transparent, mark, wildcard or cgroupv2")}}
        case "rt":
            return _rt(cursor)
        case "exthdr":
            return {"exthdr": {"name": cursor.word("a header")}}
        case "tcp" | "ip" | "sctp" if cursor.is_word("option", "chunk"):
            return {f"{name} {cursor.take().text}": _option(cursor)}
        case "ipsec":
            return _ipsec(cursor)
        case _ if name in _FIELDS:
            return {"payload": {"protocol": name, "field": cursor.take().text}}
        case _:
            return {"other": {"name": name, "words": _words(cursor)}}


def _option(cursor: Cursor) -> Tree:
    about = {"name": cursor.word("an option")}
    if cursor.here.kind is Kind.WORD and not cursor.is_word("exists", "missing", "set"):
        about["field"] = cursor.take().text
    return about


def _ipsec(cursor: Cursor) -> Tree:
    about: dict[str, Tree] = {"dir": cursor.expect("in", "out").text}
    if cursor.accept("spnum"):
        cursor.number("a number")
    about["key"] = cursor.word("reqid, spi, ip or ip6")
    if about["key"] in ("ip", "ip6"):
        about["key"] += " " + cursor.expect("saddr", "daddr").text
    return {"ipsec": about}


def _words(cursor: Cursor) -> str:
    """The words of a selector that is known by name only: one, but for ``osf ttl loose name``."""
    words = [cursor.word("a field")]
    if words == ["ttl"]:
        words += [cursor.expect("loose", "skip").text, cursor.expect("name", "version").text]
    return " ".join(words)


def _meta_key(cursor: Cursor) -> str:
    if not cursor.is_word(*_META):
        raise cursor.problem("expected a key of meta")
    key = cursor.take().text
    return {"secpath": "ipsec"}.get(key, key)


_CT_KEYS = frozenset(
    [
        "state",
        "direction",
        "status",
        "mark",
        "expiration",
        "helper",
        "label",
        "l3proto",
        "protocol",
        "bytes",
        "packets",
        "avgpkt",
        "zone",
        "id",
        "proto-src",
        "proto-dst",
        "saddr",
        "daddr",
        "event",
        "eventmask",
        "secmark",
    ]
)


def _ct(cursor: Cursor) -> Tree:
    about: dict[str, str] = {}
    if cursor.is_word("original", "reply"):
        about["dir"] = cursor.take().text
    if cursor.is_word("ip", "ip6"):
        about["key"] = f"{cursor.take().text} {cursor.expect('saddr', 'daddr').text}"
    elif cursor.is_word(*_CT_KEYS):
        about["key"] = cursor.take().text
    else:
        raise cursor.problem("expected a key of ct")
    return {"ct": about}


def _fib(cursor: Cursor) -> Tree:
    flags = [cursor.expect("saddr", "daddr", "mark", "iif", "oif").text]
    while cursor.accept("."):
        flags.append(cursor.expect("saddr", "daddr", "mark", "iif", "oif").text)
    return {"fib": {"result": cursor.expect("type", "oif", "oifname").text, "flags": flags}}


def _numgen(cursor: Cursor) -> Tree:
    mode = cursor.expect("random", "inc").text
    cursor.expect("mod")
    modulus = cursor.number("a modulus")
    offset = cursor.number("an offset") if cursor.accept("offset") else 0
    return {"numgen": {"mode": mode, "mod": modulus, "offset": offset}}


def _hash(cursor: Cursor, name: str) -> Tree:
    about: dict[str, Tree] = {}
    if name == "jhash":
        about["expr"] = expression(cursor)
    cursor.expect("mod")
    about["mod"] = cursor.number("a modulus")
    if cursor.accept("seed"):
        about["seed"] = cursor.number("a seed")
    if cursor.accept("offset"):
        about["offset"] = cursor.number("an offset")
    return {name: about}


def _rt(cursor: Cursor) -> Tree:
    if cursor.is_word("ip", "ip6"):
        cursor.take()
        return {"rt": {"key": cursor.word("nexthop")}}
    return {"rt": {"key": cursor.word("mtu, nexthop or classid")}}


def _raw(cursor: Cursor) -> Tree:
    base = cursor.take().text
    cursor.expect(",")
    offset = cursor.number("an offset")
    cursor.expect(",")
    return {"payload": {"base": base, "offset": offset, "len": cursor.number("a length")}}


# --- values -----------------------------------------------------------------------------------------------------------

#: words that begin a statement or have a place of their own, which no value is written as without quotes
_STATEMENTS = (
    "accept",
    "drop",
    "return",
    "continue",
    "jump",
    "goto",
    "queue",
    "reject",
    "comment",
    "counter",
    "masquerade",
    "log",
    "th",
    "to",
)
_LEAVES = (Kind.STRING, Kind.MAC, Kind.IP6, Kind.IP4, Kind.TIME, Kind.NUMBER, Kind.WORD)


def at_value(cursor: Cursor) -> bool:
    """Whether a value begins here."""
    return cursor.here.kind in _LEAVES or cursor.is_sign("{", "@", "(")


def leaf(cursor: Cursor) -> Tree:
    """One value: a number, an address, a word."""
    token = cursor.here
    if token.kind not in _LEAVES or (token.kind is Kind.WORD and token.text in _STATEMENTS):
        raise cursor.problem("expected a value")
    if token.kind is Kind.STRING and token.text == "*":
        raise cursor.problem("nft takes no name of which only the beginning * is left")
    cursor.take()
    match token.kind:
        case Kind.NUMBER:
            number = number_of(token.text)
            if cursor.is_sign(":") and cursor.ahead().kind is Kind.NUMBER and cursor.ahead(-1).end == cursor.here.start:
                cursor.take()
                return f"{number}:{cursor.take().text}"  # a class of traffic
            return number
        case Kind.TIME:
            return milliseconds(token.text) // 1000
        case Kind.WORD if token.text in ("exists", "missing"):
            return token.text == "exists"
        case _:
            return token.text


def value(cursor: Cursor) -> Tree:
    """What a field is compared with, or set to: values, a list in braces, a named set, or another field."""
    if cursor.is_sign("{"):
        return set_of(cursor)
    if cursor.is_sign("@") and not _begins_selector(cursor):
        cursor.take()
        return "@" + cursor.word("the name of a set")
    first = _item(cursor)
    if cursor.is_sign(","):
        words = [first]
        while cursor.is_sign(",") and cursor.ahead().kind in _LEAVES:
            cursor.take()
            words.append(_item(cursor))
        return words
    return first


def _item(cursor: Cursor) -> Tree:
    """One item, or several that are concatenated."""
    first = _part(cursor)
    if not cursor.is_sign("."):
        return first
    parts = [first]
    while cursor.accept("."):
        parts.append(_part(cursor))
    return {"concat": parts}


def _part(cursor: Cursor) -> Tree:
    """A value with its prefix or range, or flags that are joined."""
    if cursor.is_sign("(") or _begins_selector(cursor):
        if cursor.is_sign("(") and not _selects(cursor):
            cursor.take()
            inner = _alternatives(cursor)
            cursor.expect(")")
            return inner
        return _operation(cursor)
    first = leaf(cursor)
    if cursor.is_sign("/") and cursor.ahead().kind is Kind.NUMBER:
        cursor.take()
        return {"prefix": {"addr": first, "len": cursor.number("a length")}}
    if cursor.accept("-"):
        last = leaf(cursor)
        return {"range": [first, last]}
    if cursor.is_sign("|"):
        words = [first]
        while cursor.accept("|"):
            words.append(leaf(cursor))
        return {"|": words}
    return first


def _selects(cursor: Cursor) -> bool:
    """Whether a field stands behind the parenthesis."""
    at = cursor.at
    cursor.take()
    found = _begins_selector(cursor)
    cursor.at = at
    return found


def set_of(cursor: Cursor) -> Tree:
    """A list in braces; a map's elements are pairs. Lists within it are opened."""
    cursor.expect("{")
    elements: list[Tree] = []
    cursor.skip_lines()
    while not cursor.is_sign("}"):
        if cursor.is_sign("{"):
            with cursor.deeper():
                elements += set_of(cursor)["set"]
        else:
            elements.append(element(cursor))
        cursor.skip_lines()
        if not cursor.accept(","):
            break
        cursor.skip_lines()
    cursor.expect("}")
    return {"set": elements}


def element(cursor: Cursor) -> Tree:
    """One element: a key, what is known about it, and a map's value."""
    key = "*" if cursor.accept("*") else _item(cursor)
    about: dict[str, Tree] = {}
    while cursor.here.kind is Kind.WORD:
        _about(cursor, about)
    tree: Tree = {"elem": {"val": key, **about}} if about else key
    if not cursor.accept(":"):
        return tree
    return [tree, _mapped(cursor)]


def _about(cursor: Cursor, about: dict[str, Tree]) -> None:
    word = cursor.expect("timeout", "expires", "comment", "counter", "limit", "quota", "last", "ct").text
    match word:
        case "timeout" | "expires":
            about[word] = seconds(cursor)
        case "comment":
            about["comment"] = cursor.word("a comment")
        case "counter":
            pass_counted(cursor)
        case "limit":
            cursor.expect("rate")
            about["limit"] = limit_rate(cursor)
        case "quota":
            about["quota"] = quota_of(cursor)
        case "last":
            pass_last(cursor)
        case _:
            pass_connections(cursor)
            about["ct count"] = None


def _mapped(cursor: Cursor) -> Tree:
    """The value of a map's element: a verdict, or one value for each field."""
    if cursor.is_word("accept", "drop", "return", "continue"):
        return {cursor.take().text: None}
    if cursor.is_word("jump", "goto"):
        verb = cursor.take().text
        if cursor.is_sign("{"):
            raise cursor.problem("a chain without name as the value of a map is not modelled: expected a chain's name")
        return {verb: {"target": cursor.word("a chain")}}
    return _item(cursor)


def data(cursor: Cursor) -> Tree:
    """A map: its name, or its elements in braces."""
    if cursor.accept("@"):
        return "@" + cursor.word("the name of a map")
    return set_of(cursor)
