"""Readers and writers of the values of iptables options: from text to an expression, and back.

Counterpart: the value parsers of libxtables 1.8.9. A reader returns the expression and the detail of its spelling,
which is None if the text was canonical. It raises ValueError for malformed text, and NotModelled for what kpsim does
not model.
"""

import enum
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from kpsim.addresses import Family, Network, format_ip, parse_ip
from kpsim.protocols import PROTOCOL_NUMBERS
from kpsim.ruleset import (
    TCP_FLAG_BITS,
    Compare,
    EitherPort,
    Expression,
    Field,
    Interval,
    Intervals,
    Lookup,
    NamePattern,
    Set,
    among,
    equal,
    named,
    within,
)


class Style(enum.Enum):
    """The program whose text is written: kube-proxy for iptables-restore (I-4), or iptables-save 1.8.9 (I-17)."""

    KUBE_PROXY = "kube-proxy"
    SAVE = "iptables-save"


@dataclass(frozen=True, slots=True)
class Form:
    """What a writer must know besides the value that it writes."""

    style: Style
    family: Family


class Read(NamedTuple):
    """What an option means. ``part`` None: it is always true, so only its spelling is kept."""

    part: Expression | None
    detail: Hashable = None


#: reads an option's value, given whether it is negated and the family of the rules
Reader = Callable[[str, bool, Family], Read]
#: writes an option's value, given the expression (the rule if there is none), the detail of its spelling, and the form
Writer = Callable[[Any, Any, "Form"], str]


class NotModelled(Exception):
    """The words are valid in iptables, but kpsim does not model what they do. The text names them."""


def quoted(text: str) -> str:
    r"""The text in double quotes with ``"``, ``'`` and ``\`` escaped. Text of letters, digits, ``_`` and ``-`` stays
    bare.
    """
    if _PLAIN_WORD.fullmatch(text):
        return text
    return '"' + _TO_ESCAPE.sub(r"\\\g<0>", text) + '"'


_QUOTE_NEEDED = re.compile(r'[\t"\\]')
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_-]+")
_TO_ESCAPE = re.compile(r"[\"'\\]")


def write_comment(rule: Any, detail: str | None, form: Form) -> str:
    """Writes the rule's comment. If the rule has a further comment, ``detail`` is its text."""
    text: str = rule.comment if detail is None else detail
    if form.style is Style.SAVE or _QUOTE_NEEDED.search(text) or not text:
        return quoted(text)
    return f'"{text}"' if " " in text else text  # kube-proxy quotes only what contains a blank (I-4.1)


# --- addresses --------------------------------------------------------------------------------------------------------

_OCTAL = re.compile(r"(?:^|\.)0[0-9]")
_DECIMAL = re.compile(r"0|[1-9][0-9]*")
BARE = "bare"  #: a single host without prefix length


@lru_cache(maxsize=1 << 16)
def read_network(text: str, family: Family) -> Network:
    """Reads an address, CIDR or address/netmask. ValueError if it is malformed or of the other family."""
    host, slash, length = text.partition("/")
    base = read_address(host, family)
    bits = family.bits
    if not slash:
        return Network(family, base, bits)
    if _DECIMAL.fullmatch(length):
        prefix = int(length)
        if prefix > bits:
            raise ValueError(f"prefix length over {bits}: {text!r}")
    else:
        mask = read_address(length, family)
        prefix = mask.bit_count()
        if mask != family.mask(prefix):
            raise NotModelled(f"netmask with a gap {text}")
    return Network.around(family, base, prefix)


def read_address(text: str, family: Family) -> int:
    parsed = parse_ip(text)
    if family is Family.IPV4 and _OCTAL.search(text):
        raise ValueError(f"a part of the address begins with 0, which iptables reads as octal: {text!r}")
    if parsed is not None and family is Family.IPV6 and parsed[0] is Family.IPV4 and ":" in text:
        return 0xFFFF << 32 | parsed[1]  # an IPv4-mapped address is an IPv6 address to ip6tables
    if parsed is None or parsed[0] is not family:
        raise ValueError(f"not an {family.label} address: {text!r}")
    return parsed[1]


def network_reader(field: Field) -> Reader:
    def read(text: str, negate: bool, family: Family) -> Read:
        network = read_network(text, family)
        if network.is_zero:
            if negate:
                raise ValueError(f"no address is outside {text}: such a rule never matches, and the kernel refuses it")
            return Read(None, str(network))
        return Read(within(field, network, negate=negate), None if "/" in text else BARE)

    return read


def original_destination_reader(text: str, negate: bool, family: Family) -> Read:
    """Reads ``--ctorigdst``. A network of all addresses stays an expression: it is false without a connection."""
    network = read_network(text, family)
    return Read(within(Field.CT_ORIGINAL_DADDR, network, negate=negate), None if "/" in text else BARE)


def write_network(part: Any, detail: str | None, form: Form) -> str:
    """Writes the network of a comparison. ``detail`` is BARE, or the network itself if there is no comparison."""
    if not isinstance(part, Compare):
        return str(detail)
    host = format_ip(form.family, part.value or 0)
    if part.mask is None:
        return host if detail == BARE and form.style is not Style.SAVE else f"{host}/{form.family.bits}"
    return f"{host}/{part.mask.bit_count()}"


def write_original_destination(part: Compare, detail: str | None, form: Form) -> str:
    """Writes the value of ``--ctorigdst``. Unlike for ``-d``, iptables-save shows a single address without /32."""
    if form.style is Style.SAVE:
        host = format_ip(form.family, part.value or 0)
        return host if part.mask is None else f"{host}/{part.mask.bit_count()}"
    return write_network(part, detail, form)


def address_range_reader(field: Field) -> Reader:
    def read(text: str, negate: bool, family: Family) -> Read:
        low_text, dash, high_text = text.partition("-")
        low = read_address(low_text, family)
        high = read_address(high_text, family) if dash else low
        if low > high:
            raise ValueError(f"address range is backwards: {text!r}")
        return Read(Compare(field, ((low, high),), negate))

    return read


def write_address_range(part: Compare, _detail: None, form: Form) -> str:
    ((low, high),) = intervals_of(part)
    return f"{format_ip(form.family, low)}-{format_ip(form.family, high)}"


def intervals_of(part: Compare | EitherPort) -> Intervals:
    assert isinstance(part.among, tuple)
    return part.among


# --- names ------------------------------------------------------------------------------------------------------------


def interface_reader(field: Field) -> Reader:
    """A reader for an interface name. A ``+`` at its end stands for all names with this beginning."""

    def read(text: str, negate: bool, _family: Family) -> Read:
        if not 1 <= len(text) <= 15:
            raise ValueError(f"an interface name has 1 to 15 characters: {text!r}")
        if text == "+":
            if negate:
                raise ValueError("no interface is outside +: such a rule never matches")
            return Read(None, text)
        if text.endswith("+"):
            return Read(Compare(field, NamePattern(text[:-1]), negate))
        return Read(named(field, text, negate=negate))

    return read


def write_interface(part: Any, detail: str | None, _form: Form) -> str:
    if not isinstance(part, Compare):
        return str(detail)
    return f"{part.among.prefix}+" if isinstance(part.among, NamePattern) else str(part.name)


#: extension headers of IPv6, which Packet.protocol has as numbers → what iptables-save prints
_HEADERS_OF_IPV6: Mapping[str, str] = {
    "43": "ipv6-route", "44": "ipv6-frag", "59": "ipv6-nonxt", "60": "ipv6-opts", "139": "hip", "140": "shim6",
}  # fmt: skip
#: protocol numbers and other spellings → name as in Packet.protocol
_PROTOCOL_NAMES: Mapping[str, str] = {
    "ipv6-icmp": "icmpv6",
    "mobility-header": "135",
    "ipv6-mh": "135",
    "mh": "135",
    **{name: number for number, name in _HEADERS_OF_IPV6.items()},
    **{str(number): name for name, number in PROTOCOL_NUMBERS.items()},
}


def read_protocol(text: str, negate: bool, _family: Family) -> Read | None:
    """Reads a protocol. None for all protocols: such an option is not kept."""
    name = text.lower()
    if _NUMBER.fullmatch(name):
        name = str(read_number(name, 255))
    if name in ("all", "0", "ip", "hopopt"):
        if negate:
            raise ValueError("! -p all would never match")
        return None
    name = _PROTOCOL_NAMES.get(name, name)
    if name not in PROTOCOL_NUMBERS and not name.isdigit():
        raise ValueError(f"not a protocol: {text!r}")
    return Read(named(Field.L4PROTO, name, negate=negate))


def write_protocol(part: Compare, _detail: None, _form: Form) -> str:
    return {"icmpv6": "ipv6-icmp", "135": "mobility-header", **_HEADERS_OF_IPV6}.get(str(part.name), str(part.name))


#: the conntrack states of each module, in the order in which iptables-save lists them
CT_STATES: Mapping[str, tuple[str, ...]] = {
    "conntrack": ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT"),
    "state": ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED"),
}
#: in the order in which iptables-save lists them
ADDRESS_TYPES = (
    "UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW", "NAT",
    "XRESOLVE",
)  # fmt: skip


def names_reader(field: Field, order: tuple[str, ...], what: str) -> Reader:
    """A reader for names separated by commas.

    ``order`` holds all names in the order of iptables-save. If the text has another order, that is the detail.
    """

    def read(text: str, negate: bool, _family: Family) -> Read:
        names = names_of(text, order, what)
        canonical = tuple(name for name in order if name in names)
        return Read(named(field, *names, negate=negate), None if names == canonical else names)

    return read


def names_of(text: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    """The names in a text, in capitals. ValueError if one is not known."""
    names = tuple(text.upper().split(","))
    for name in names:
        if name not in known:
            raise ValueError(f"not {what}: {name!r}")
    return names


def names_writer(order: tuple[str, ...]) -> Writer:
    def write(part: Compare, detail: tuple[str, ...] | None, form: Form) -> str:
        if detail is not None and form.style is not Style.SAVE:
            return ",".join(detail)
        assert isinstance(part.among, frozenset)
        return ",".join(name for name in order if name in part.among)

    return write


def read_direction(text: str, negate: bool, _family: Family) -> Read:
    if negate or text.upper() not in ("ORIGINAL", "REPLY"):
        raise ValueError(f"not a direction (ORIGINAL, REPLY): {'! ' if negate else ''}{text}")
    return Read(named(Field.CT_DIRECTION, text.upper()))


def write_name(part: Compare, _detail: None, _form: Form) -> str:
    return str(part.name)


# --- numbers ----------------------------------------------------------------------------------------------------------


def read_number(text: str, limit: int) -> int:
    """Reads a number as C's strtoul does: 0x is hexadecimal, a leading zero octal.

    ValueError if it is over ``limit``.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"not a number: {text!r}")
    base = 16 if text[:2] in ("0x", "0X") else 8 if text[0] == "0" else 10
    if (value := int(text, base)) > limit:
        raise ValueError(f"over {limit}: {text!r}")
    return value


_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
ALL_PORTS = (0, 0xFFFF)


def read_port(text: str) -> int:
    """Reads a port as iptables does: 010 is port 8. Names of services depend on the machine, so they are refused."""
    if not _NUMBER.fullmatch(text):
        if text[:1].isalpha():
            raise ValueError(f"not a port number (names of services depend on the machine): {text!r}")
        raise ValueError(f"not a port number: {text!r}")
    try:
        return read_number(text, 0xFFFF)
    except ValueError:
        raise ValueError(f"not a port number (0 to 65535): {text!r}") from None


def read_range(text: str, separator: str = ":") -> Interval:
    low_text, found, high_text = text.partition(separator)
    low = read_port(low_text) if low_text or not found else 0
    high = low if not found else read_port(high_text) if high_text else 0xFFFF
    if low > high:
        raise ValueError(f"port range is backwards: {text!r}")
    return low, high


def write_range(ports: Interval, separator: str = ":") -> str:
    low, high = ports
    return str(low) if low == high else f"{low}{separator}{high}"


def decimal(text: str) -> str:
    """A port or range for an option that reads decimal numbers only: -m udp and -m conntrack, where 010 is port 10.

    ValueError for a hexadecimal number, which such an option refuses.
    """
    if "x" in text.lower():
        raise ValueError(f"not a decimal port number: {text!r}")
    return _LEADING_ZEROS.sub("", text)


_LEADING_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")


def port_reader(field: Field) -> Reader:
    """A reader for a port or a range. All ports need no expression, because ``-p`` demands a protocol with ports."""

    def read(text: str, negate: bool, _family: Family) -> Read:
        ports = read_range(decimal(text) if field is Field.CT_ORIGINAL_DPORT else text)
        if ports == ALL_PORTS and field is not Field.CT_ORIGINAL_DPORT:
            if negate:
                raise ValueError(f"no port is outside {text}: such a rule never matches, and iptables-save loses it")
            return Read(None, write_range(ports))
        return Read(Compare(field, (ports,), negate))

    return read


def write_port(part: Any, detail: str | None, _form: Form) -> str:
    return write_range(intervals_of(part)[0]) if isinstance(part, Compare) else str(detail)


def _read_ranges(text: str) -> Intervals:
    """Reads ranges in the order in which they are written, which iptables-save keeps."""
    ranges = tuple(_read_closed_range(part) for part in text.split(","))
    if sum(1 if low == high else 2 for low, high in ranges) > 15:  # a range takes two of the kernel's 15 places
        raise ValueError(f"more than 15 ports: {text!r}")
    return ranges


def _read_closed_range(text: str) -> Interval:
    """A port or a range of -m multiport, which has two ends that differ."""
    low, colon, high = text.partition(":")
    ports = read_port(low), read_port(high if colon else low)
    if colon and ports[0] >= ports[1]:
        raise ValueError(f"not a range of ports from lower to higher: {text!r}")
    return ports


def ports_reader(field: Field | None) -> Reader:
    """A reader for several ports. With ``field`` None they may be the port of either end."""

    def read(text: str, negate: bool, _family: Family) -> Read:
        ranges = _read_ranges(text)
        ports = among(ranges)
        part = EitherPort(ports, negate) if field is None else Compare(field, ports, negate)
        return Read(part, None if ports == ranges else ranges)

    return read


def write_ports(part: Compare | EitherPort, detail: Intervals | None, _form: Form) -> str:
    return ",".join(map(write_range, detail or intervals_of(part)))


_FLAG_NAMES = tuple(TCP_FLAG_BITS)  # in the order in which iptables-save lists them
ALL_FLAGS = sum(TCP_FLAG_BITS.values())


def _read_flags(text: str) -> int:
    names = text.upper().split(",")
    if names in (["ALL"], ["NONE"]):
        return ALL_FLAGS if names == ["ALL"] else 0
    for name in names:
        if name not in TCP_FLAG_BITS:
            raise ValueError(f"not a TCP flag: {name!r}")
    return sum(TCP_FLAG_BITS[name] for name in set(names))


def flag_names(bits: int) -> tuple[str, ...]:
    return tuple(name for name in _FLAG_NAMES if TCP_FLAG_BITS[name] & bits)


def read_tcp_flags(text: str, negate: bool, _family: Family) -> Read:
    mask, _, value = text.partition(" ")
    bits, looked_at = _read_flags(value), _read_flags(mask)
    if bits and not looked_at:
        raise ValueError(
            f"flags are to be set, and the rule looks at none: {text!r} never matches, and iptables-save loses it"
        )
    return Read(equal(Field.TCP_FLAGS, bits, negate=negate, mask=looked_at))


def read_syn(_text: str, negate: bool, _family: Family) -> Read:
    return read_tcp_flags("FIN,SYN,RST,ACK SYN", negate, _family)


def write_tcp_flags(part: Compare, _detail: None, _form: Form) -> str:
    return " ".join(",".join(flag_names(bits)) or "NONE" for bits in (part.mask or 0, part.value or 0))


ANY_ICMP_TYPE = 255  #: for -m icmp only
_ANY_BYTE = ((0, 255),)
#: names of ICMP types, and of type/code
ICMP_NAMES: Mapping[str, Mapping[str, str]] = {
    "icmp": {
        "echo-reply": "0", "pong": "0", "destination-unreachable": "3", "network-unreachable": "3/0",
        "host-unreachable": "3/1", "protocol-unreachable": "3/2", "port-unreachable": "3/3", "fragmentation-needed": "3/4",
        "host-prohibited": "3/10", "communication-prohibited": "3/13", "source-quench": "4", "redirect": "5",
        "echo-request": "8", "ping": "8", "router-advertisement": "9", "router-solicitation": "10", "time-exceeded": "11",
        "ttl-exceeded": "11", "ttl-zero-during-transit": "11/0", "ttl-zero-during-reassembly": "11/1",
        "parameter-problem": "12", "timestamp-request": "13", "timestamp-reply": "14",
    },
    "icmp6": {
        "destination-unreachable": "1", "no-route": "1/0", "communication-prohibited": "1/1", "beyond-scope": "1/2",
        "address-unreachable": "1/3", "port-unreachable": "1/4", "packet-too-big": "2", "time-exceeded": "3",
        "ttl-exceeded": "3", "ttl-zero-during-transit": "3/0", "parameter-problem": "4", "echo-request": "128", "ping": "128",
        "echo-reply": "129", "pong": "129", "router-solicitation": "133", "router-advertisement": "134",
        "neighbour-solicitation": "135", "neighbor-solicitation": "135", "neighbour-advertisement": "136",
        "neighbor-advertisement": "136", "redirect": "137",
    },
}  # fmt: skip


def icmp_reader(module: str) -> Reader:
    def read(text: str, negate: bool, _family: Family) -> Read:
        any_type = ANY_ICMP_TYPE if module == "icmp" else None
        if text == "any" and any_type is not None:
            return Read(Compare(Field.ICMP_TYPE, _ANY_BYTE, negate))
        kind_text, slash, code_text = ICMP_NAMES[module].get(text, text).partition("/")
        kind = read_number(kind_text, 255)
        if not slash:
            return Read(Compare(Field.ICMP_TYPE, _ANY_BYTE if kind == any_type else ((kind, kind),), negate))
        code = read_number(code_text, 255)
        if kind == any_type:
            # the kernel does not look at the code then (measured)
            return Read(Compare(Field.ICMP_TYPE, _ANY_BYTE, negate))
        return Read(Lookup((Field.ICMP_TYPE, Field.ICMP_CODE), Set.of((kind, code)), negate))

    return read


def write_icmp_type(part: Compare | Lookup, _detail: None, _form: Form) -> str:
    if isinstance(part, Lookup):
        assert isinstance(part.set, Set)
        ((kind, code),) = part.set.elements
        return f"{kind}/{code}"
    return "any" if part.among == _ANY_BYTE else str(part.value)


def time_to_live_reader(relation: str) -> Reader:
    """A reader for a time to live; ``relation`` is ``eq``, ``lt`` or ``gt``."""

    def read(text: str, negate: bool, _family: Family) -> Read:
        value = read_number(text, 255)
        if negate and relation != "eq":
            raise ValueError(f"! makes no sense before {relation} of a time to live")
        low, high = {"eq": (value, value), "lt": (0, value - 1), "gt": (value + 1, 255)}[relation]
        return Read(Compare(Field.TTL, ((low, high),) if low <= high else (), negate))

    return read


def time_to_live_match_writer(relation: str) -> Writer:
    def write(part: Compare, _detail: None, _form: Form) -> str:
        intervals = intervals_of(part)
        match relation:
            case "lt":
                return str(intervals[0][1] + 1 if intervals else 0)
            case "gt":
                return str(intervals[0][0] - 1 if intervals else 255)
            case _:
                return str(intervals[0][0])

    return write


ALL_BITS = 0xFFFFFFFF


def mark_reader(field: Field) -> Reader:
    def read(text: str, negate: bool, _family: Family) -> Read:
        value, slash, mask_text = text.partition("/")
        mask = read_number(mask_text, ALL_BITS) if slash else ALL_BITS
        return Read(equal(field, read_number(value, ALL_BITS), negate=negate, mask=None if mask == ALL_BITS else mask))

    return read


def write_hex(value: int, form: Form) -> str:
    return f"0x{value:08x}" if form.style is Style.KUBE_PROXY else f"0x{value:x}"


def write_mark(part: Compare, _detail: None, form: Form) -> str:
    return write_hex(part.value or 0, form) + ("" if part.mask is None else f"/{write_hex(part.mask, form)}")
