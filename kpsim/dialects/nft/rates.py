"""From text to trees: rates, quotas, counters and times, which statements and elements of sets have in common."""

from kpsim.dialects.nft.datatypes import Tree
from kpsim.dialects.nft.tokens import Cursor, Kind, milliseconds, number_of

_BYTE_UNITS = ("bytes", "kbytes", "mbytes")


def pass_counted(cursor: Cursor) -> None:
    """Passes over what a counter has counted, if it says so."""
    while cursor.accept("packets", "bytes"):
        cursor.number("a number")


def pass_last(cursor: Cursor) -> None:
    """Passes over when something was last used."""
    if cursor.accept("used"):  # a time, or never
        cursor.take()


def pass_connections(cursor: Cursor) -> None:
    """Passes over a number of connections: ``count over 10``."""
    cursor.expect("count")
    cursor.accept("over")
    cursor.number("a number")


def limit_rate(cursor: Cursor) -> Tree:
    """A rate: ``over 10/minute burst 5 packets``, ``10 mbytes/second``."""
    over = cursor.accept("over")
    about: dict[str, Tree] = {"rate": cursor.number("a rate")}
    if cursor.accept("/"):
        about["per"] = cursor.word("second, minute, hour, day or week")
    else:
        about["rate_unit"], slash, about["per"] = cursor.word("a unit").partition("/")
        if about["rate_unit"] not in _BYTE_UNITS or not slash:
            raise cursor.problem("expected a rate such as 10/minute or 5 kbytes/second")
    if cursor.accept("burst"):
        if cursor.here.text == "0" and "rate_unit" not in about:
            raise cursor.problem("expected a burst of one packet or more")
        about["burst"] = cursor.number("a number of packets")
        if "rate_unit" in about:
            about["burst_unit"] = cursor.expect(*_BYTE_UNITS).text
        else:
            cursor.expect("packets")
    if over:
        about["inv"] = True
    return about


def quota_of(cursor: Cursor) -> Tree:
    """A quota: ``over 100 mbytes used 5 bytes``."""
    over = cursor.accept("over")
    if not over:
        cursor.accept("until")
    about: dict[str, Tree] = {"val": cursor.number("a number of bytes"), "val_unit": cursor.expect(*_BYTE_UNITS).text}
    if cursor.accept("used"):
        about |= {"used": cursor.number("a number of bytes"), "used_unit": cursor.expect(*_BYTE_UNITS).text}
    return about | ({"inv": True} if over else {})


def seconds(cursor: Cursor) -> Tree:
    """A time in seconds; milliseconds make it a fraction."""
    token = cursor.here
    if token.kind is Kind.NUMBER:
        return number_of(cursor.take().text)
    if token.kind is not Kind.TIME:
        raise cursor.problem("expected a time such as 1h30m")
    cursor.take()
    whole, rest = divmod(milliseconds(token.text), 1000)
    return whole if not rest else whole + rest / 1000
