"""Time as integer nanoseconds: constants, Go durations and RFC 3339 instants; and Kubernetes quantities. No function here reads a clock."""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractions import Fraction

MICROSECOND_NS = 1_000
MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS

_UNITS_NS = {"ns": 1, "us": MICROSECOND_NS, "µs": MICROSECOND_NS, "μs": MICROSECOND_NS,
             "ms": MILLISECOND_NS, "s": SECOND_NS, "m": MINUTE_NS, "h": HOUR_NS}  # fmt: skip
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_QUANTITY = re.compile(r"\+?(\d+\.?\d*|\.\d+)(?:[eE]([+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)", re.ASCII)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:[.,](\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration_ns(text: str) -> int:
    """Return the nanoseconds of a Go duration (``1h30m``, ``1.5s``, ``-2ms``, ``0``). ValueError if it is none."""
    body, sign = (text[1:], -1) if text[:1] == "-" else (text.removeprefix("+"), 1)
    if body == "0":
        return 0
    total, position = 0, 0
    while part := _PART.match(body, position):
        whole, _, fraction = part[1].partition(".")
        unit_ns = _UNITS_NS[part[2]]
        total += int(whole or 0) * unit_ns
        if fraction:
            total += int(fraction) * unit_ns // 10 ** len(fraction)
        position = part.end()
    if not body or position != len(body):
        raise ValueError(f"not a duration (like 30s, 1m30s, 500ms): {text!r}")
    return sign * total


def parse_quantity(text: str) -> "Fraction":
    """Return the number of a Kubernetes quantity (``4``, ``3500m``, ``16Gi``, ``1e3``). ValueError if it is none."""
    from fractions import Fraction  # it takes a moment to import, and few ask

    found = _QUANTITY.fullmatch(text)
    if not found or len(text) > 40:
        raise ValueError(f"not a quantity: {text!r}")
    number, exponent, suffix = Fraction(found[1].rstrip(".")), found[2], found[3] or ""
    if suffix.endswith("i"):
        return number * (1 << 10 * ("KMGTPE".index(suffix[0]) + 1))
    power = int(exponent) if exponent else _DECIMAL[suffix]
    if abs(power) > 100:
        raise ValueError(f"not a quantity: {text!r}")
    return number * (Fraction(10**power) if power >= 0 else Fraction(1, 10**-power))


def format_duration(ns: int) -> str:
    """Return the shortest exact text in the one unit that reads best: ``1.5s``, ``20ms``, ``0s``."""
    if ns == 0:
        return "0s"
    for suffix, unit_ns in (("h", HOUR_NS), ("m", MINUTE_NS)):
        if ns % unit_ns == 0:
            return f"{ns // unit_ns}{suffix}"
    magnitude = abs(ns)
    for suffix, unit_ns in (("s", SECOND_NS), ("ms", MILLISECOND_NS), ("µs", MICROSECOND_NS)):
        if magnitude >= unit_ns:
            sign = "-" if ns < 0 else ""
            whole, rest = divmod(magnitude, unit_ns)
            fraction = f"{rest:0{len(str(unit_ns)) - 1}d}".rstrip("0")
            return f"{sign}{whole}{'.' + fraction if fraction else ''}{suffix}"
    return f"{ns}ns"


def parse_rfc3339_ns(text: str) -> int:
    """Return the nanoseconds since 1970 of an RFC 3339 time, exact to the nanosecond. ValueError if it is none."""
    found = _RFC3339.fullmatch(text)
    if not found:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    year, month, day, hour, minute, second = (int(found[i]) for i in range(1, 7))
    instant = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    since = instant - _EPOCH
    total = (since.days * 86_400 + since.seconds) * SECOND_NS + int((found[7] or "0")[:9].ljust(9, "0"))
    if found[8]:
        offset = (int(found[9]) * 60 + int(found[10])) * MINUTE_NS
        total -= offset if found[8] == "+" else -offset
    return total


def format_rfc3339(ns: int) -> str:
    """Return the RFC 3339 text, in UTC, of nanoseconds since 1970. Trailing zeros of the fraction are left out."""
    seconds, fraction = divmod(ns, SECOND_NS)
    text = datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{fraction:09d}".rstrip("0") if fraction else "") + "Z"
