"""Values of iptables options as text: addresses, ports, protocols, ICMP types, marks. Readers beside their writers.

Counterpart: the value parsers of libxtables 1.8.9. A reader raises ValueError for what is malformed and NotModelled for what is
good iptables but not modelled. Never knows which option a value belongs to.
"""

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from kpsim.addresses import Family, Network, format_ip, parse_ip
from kpsim.protocols import PROTOCOL_NUMBERS
from kpsim.ruleset import (
    AddressRange,
    AddrType,
    Comment,
    ConnMark,
    CtDirection,
    CtOriginalPort,
    CtState,
    DestinationPort,
    IcmpType,
    MarkMatch,
    MultiPort,
    Protocol,
    SourcePort,
    TcpFlags,
    TimeToLive,
)


class Style(enum.Enum):
    """Whose text: kube-proxy's own, as given to iptables-restore (I-4), or what iptables-save 1.8.9 prints (I-17)."""

    KUBE_PROXY = "kube-proxy"
    SAVE = "iptables-save"


@dataclass(frozen=True, slots=True)
class Form:
    """What a writer has to know besides the value it writes."""

    style: Style
    family: Family


class NotModelled(Exception):
    """The words are good iptables, but kpsim does not model what they do. The text names them."""


def quoted(text: str) -> str:
    r"""In double quotes with ``"``, ``'`` and ``\`` escaped, unless it is only letters, digits, ``_`` and ``-``."""
    if _PLAIN_WORD.fullmatch(text):
        return text
    return '"' + _TO_ESCAPE.sub(r"\\\g<0>", text) + '"'


_QUOTE_NEEDED = re.compile(r'[\t"\\]')
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_-]+")
_TO_ESCAPE = re.compile(r"[\"'\\]")


def write_comment(comment: Comment, form: Form) -> str:
    text = comment.text
    if form.style is Style.SAVE or _QUOTE_NEEDED.search(text) or not text:
        return quoted(text)
    return f'"{text}"' if " " in text else text  # kube-proxy quotes only what contains a blank (I-4.1)


@lru_cache(maxsize=1 << 16)
def read_network(text: str, family: Family) -> Network:
    """Address, CIDR or address/netmask; ValueError if malformed or of the other family."""
    host, slash, length = text.partition("/")
    base = read_address(host, family)
    bits = family.bits
    if not slash:
        return Network(family, base, bits, bare=True)
    if length.isascii() and length.isdigit():
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
    if "," in text:
        raise NotModelled(f"several addresses in one rule {text}")
    parsed = parse_ip(text)
    if parsed is not None and family is Family.IPV6 and parsed[0] is Family.IPV4 and ":" in text:
        return 0xFFFF << 32 | parsed[1]  # an IPv4-mapped address is an IPv6 address to ip6tables
    if parsed is None or parsed[0] is not family:
        raise ValueError(f"not an {family.label} address: {text!r}")
    return parsed[1]


def read_interface(text: str) -> str:
    if not 1 <= len(text) <= 15:
        raise ValueError(f"an interface name has 1 to 15 characters: {text!r}")
    return text


#: protocol numbers and other spellings → name as in Packet.protocol
_PROTOCOL_NAMES: Mapping[str, str] = {
    "ipv6-icmp": "icmpv6",
    **{str(number): name for name, number in PROTOCOL_NUMBERS.items()},
}


def read_protocol(text: str, negate: bool, _family: Family) -> Protocol | None:
    name = text.lower()
    if name in ("all", "0"):
        if negate:
            raise ValueError("! -p all would never match")
        return None
    name = _PROTOCOL_NAMES.get(name, name)
    if name not in PROTOCOL_NUMBERS and not (name.isascii() and name.isdigit() and int(name) < 256):
        raise ValueError(f"not a protocol: {text!r}")
    return Protocol(name, negate)


def read_number(text: str, limit: int) -> int:
    """As C's strtoul reads it: 0x is hexadecimal, a leading zero octal."""
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"not a number: {text!r}")
    base = 16 if text[:2] in ("0x", "0X") else 8 if text[0] == "0" else 10
    if (value := int(text, base)) > limit:
        raise ValueError(f"over {limit}: {text!r}")
    return value


_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")


def read_port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) > 0xFFFF:
        raise ValueError(f"not a port number: {text!r}")
    return int(text)


def read_range(text: str, separator: str = ":") -> tuple[int, int]:
    low_text, found, high_text = text.partition(separator)
    low = read_port(low_text) if low_text or not found else 0
    high = low if not found else read_port(high_text) if high_text else 0xFFFF
    if low > high:
        raise ValueError(f"port range is backwards: {text!r}")
    return low, high


def write_range(low: int | None, high: int | None, separator: str = ":") -> str:
    return str(low) if high is None or low == high else f"{low}{separator}{high}"


def read_ranges(text: str) -> tuple[tuple[int, int], ...]:
    ranges = tuple(read_range(part) for part in text.split(","))
    if sum(1 if low == high else 2 for low, high in ranges) > 15:  # a range takes two of the kernel's 15 places
        raise ValueError(f"more than 15 ports: {text!r}")
    return ranges


def write_port(match: SourcePort | DestinationPort | CtOriginalPort, _form: Form) -> str:
    return write_range(match.low, match.high)


def write_ranges(match: MultiPort, _form: Form) -> str:
    return ",".join(write_range(low, high) for low, high in match.ranges)


_TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG")  # in the order iptables-save lists them
SYN_MASK = frozenset(("FIN", "SYN", "RST", "ACK"))


def read_flags(text: str) -> frozenset[str]:
    names = text.upper().split(",")
    if names in (["ALL"], ["NONE"]):
        return frozenset(_TCP_FLAGS) if names == ["ALL"] else frozenset()
    for name in names:
        if name not in _TCP_FLAGS:
            raise ValueError(f"not a TCP flag: {name!r}")
    return frozenset(names)


def write_flags(flags: frozenset[str]) -> str:
    return ",".join(flag for flag in _TCP_FLAGS if flag in flags) or "NONE"


def read_tcp_flags(text: str, negate: bool, _family: Family) -> TcpFlags:
    mask, _, value = text.partition(" ")
    return TcpFlags(read_flags(mask), read_flags(value), negate)


ANY_ICMP_TYPE = 255  #: of -m icmp only
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


def read_icmp_type(module: str, text: str, negate: bool) -> IcmpType:
    if text == "any" and module == "icmp":
        return IcmpType(module, ANY_ICMP_TYPE, None, negate)
    type_text, slash, code = ICMP_NAMES[module].get(text, text).partition("/")
    return IcmpType(module, read_number(type_text, 255), read_number(code, 255) if slash else None, negate)


def write_icmp_type(match: IcmpType, _form: Form) -> str:
    if match.module == "icmp" and match.type == ANY_ICMP_TYPE and match.code is None:
        return "any"
    return str(match.type) if match.code is None else f"{match.type}/{match.code}"


#: conntrack states in the order iptables-save lists them, by the module that knows them
CT_STATES: Mapping[str, tuple[str, ...]] = {
    "conntrack": ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT"),
    "state": ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED"),
}


def read_ct_state(module: str, text: str, negate: bool) -> CtState:
    states = tuple(text.upper().split(","))
    for state in states:
        if state not in CT_STATES[module]:
            raise ValueError(f"not a state of -m {module}: {state!r}")
    return CtState(states, negate, module)


#: in the order iptables-save lists them
ADDRESS_TYPES = (
    "UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT", "THROW", "NAT",
    "XRESOLVE",
)  # fmt: skip


def read_address_type(side: str, text: str, negate: bool) -> AddrType:
    types = text.upper().split(",")
    for name in types:
        if name not in ADDRESS_TYPES:
            raise ValueError(f"not an address type: {name!r}")
    return AddrType(side, ",".join(types), negate)


def read_address_range(side: str, text: str, negate: bool, family: Family) -> AddressRange:
    low_text, dash, high_text = text.partition("-")
    low = read_address(low_text, family)
    high = read_address(high_text, family) if dash else low
    if low > high:
        raise ValueError(f"address range is backwards: {text!r}")
    return AddressRange(side, low, high, negate)


def write_address_range(match: AddressRange, form: Form) -> str:
    return f"{format_ip(form.family, match.low)}-{format_ip(form.family, match.high)}"


def read_direction(text: str, negate: bool, _family: Family) -> CtDirection:
    if negate or text.upper() not in ("ORIGINAL", "REPLY"):
        raise ValueError(f"not a direction (ORIGINAL, REPLY): {'! ' if negate else ''}{text}")
    return CtDirection(text.upper())


def read_time_to_live(option: str) -> Callable[[str, bool, Family], TimeToLive]:
    return lambda text, negate, _: TimeToLive(option, read_number(text, 255), negate)


def read_mark(text: str, negate: bool, _family: Family) -> MarkMatch:
    value, slash, mask = text.partition("/")
    return MarkMatch(
        read_number(value, 0xFFFFFFFF), read_number(mask, 0xFFFFFFFF) if slash else 0xFFFFFFFF, negate=negate
    )


def write_hex(value: int, form: Form) -> str:
    return f"0x{value:08x}" if form.style is Style.KUBE_PROXY else f"0x{value:x}"


def write_mark(match: MarkMatch | ConnMark, form: Form) -> str:
    return write_hex(match.value, form) + (f"/{write_hex(match.mask, form)}" if match.mask != 0xFFFFFFFF else "")
