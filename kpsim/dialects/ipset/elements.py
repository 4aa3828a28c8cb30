"""Elements of ipsets as text: ``10.0.0.1,tcp:80,10.0.0.0/24`` ⇄ a key.

Counterpart: the element parsers of ipset 7.17. One text may be several elements: a range of ports, a network in a set of
addresses. A malformed text is a ValueError.
"""

from collections.abc import Iterator, Mapping
from itertools import islice, product

from kpsim.addresses import Family, format_ip, parse_ip
from kpsim.protocols import PROTOCOL_NUMBERS
from kpsim.ruleset import IPSET_KINDS, Interval, Ipset, Key, NamePattern, Part

#: protocols whose ports ipset takes; of ICMP it takes type and code, of others 0 alone
_WITH_PORTS = ("tcp", "udp", "sctp", "udplite")
_PROTOCOL_NAMES: Mapping[str, str] = {
    "ipv6-icmp": "icmpv6",
    **{str(number): name for name, number in PROTOCOL_NUMBERS.items()},
}
#: names of ICMP messages, for type × 256 + code; of several names the first is the one written
_MESSAGES: Mapping[str, Mapping[str, int]] = {
    "icmp": {
        "echo-reply": 0x000, "network-unreachable": 0x300, "host-unreachable": 0x301, "protocol-unreachable": 0x302,
        "port-unreachable": 0x303, "fragmentation-needed": 0x304, "source-route-failed": 0x305, "network-unknown": 0x306,
        "host-unknown": 0x307, "network-prohibited": 0x309, "host-prohibited": 0x30A, "TOS-network-unreachable": 0x30B,
        "TOS-host-unreachable": 0x30C, "communication-prohibited": 0x30D, "host-precedence-violation": 0x30E,
        "precedence-cutoff": 0x30F, "source-quench": 0x400, "network-redirect": 0x500, "host-redirect": 0x501,
        "TOS-network-redirect": 0x502, "TOS-host-redirect": 0x503, "echo-request": 0x800, "router-advertisement": 0x900,
        "router-solicitation": 0xA00, "ttl-zero-during-transit": 0xB00, "ttl-zero-during-reassembly": 0xB01,
        "ip-header-bad": 0xC00, "required-option-missing": 0xC01, "timestamp-request": 0xD00, "timestamp-reply": 0xE00,
        "address-mask-request": 0x1100, "address-mask-reply": 0x1200, "pong": 0x000, "ping": 0x800,
    },
    "icmpv6": {
        "no-route": 0x100, "communication-prohibited": 0x101, "address-unreachable": 0x103, "port-unreachable": 0x104,
        "packet-too-big": 0x200, "ttl-zero-during-transit": 0x300, "ttl-zero-during-reassembly": 0x301,
        "bad-header": 0x400, "unknown-header-type": 0x401, "unknown-option": 0x402, "echo-request": 0x8000,
        "echo-reply": 0x8100, "router-solicitation": 0x8500, "router-advertisement": 0x8600,
        "neighbour-solicitation": 0x8700, "neighbour-advertisement": 0x8800, "redirect": 0x8900,
        "ping": 0x8000, "pong": 0x8100, "neighbor-solicitation": 0x8700, "neighbor-advertisement": 0x8800,
    },
}  # fmt: skip
_MESSAGE_NAMES = {
    protocol: {number: name for name, number in reversed(tuple(names.items()))} for protocol, names in _MESSAGES.items()
}
_LONGEST_INTERFACE = 15
_ZERO_PREFIX = ("hash:net,iface", "hash:net,net", "hash:net,port,net")  #: may hold a network of all addresses
MOST_ELEMENTS = 1 << 20  #: that one text may be


def read_element(text: str, ipset: Ipset, *, wildcard: bool = False) -> Iterator[Key]:
    """The keys that a text adds to a set of this type. ``wildcard``: the interface is a beginning of names."""
    parts = IPSET_KINDS[ipset.kind].parts
    words = text.split(",")
    if len(words) != len(parts):
        raise ValueError(f"an element of {ipset.kind} has {len(parts)} parts, not {len(words)}: {text}")
    choices: list[Iterator[tuple[Part, ...]]] = []
    for part, word in zip(parts, words, strict=True):
        match part:
            case "ip":
                choices.append((each,) for each in _addresses(word, ipset))
            case "net":
                choices.append((each,) for each in _networks(word, ipset))
            case "port" if IPSET_KINDS[ipset.kind].bitmap:
                choices.append((each,) for each in _bounded(_ports(word), ipset))
            case "port":
                choices.append(_ports_of_protocol(word, ipset.family))
            case "mark":
                mark = _number(word, 0xFFFFFFFF)
                choices.append(iter([(mark if ipset.mark_mask is None else mark & ipset.mark_mask,)]))
            case _:
                choices.append(iter([(_interface(word, wildcard=wildcard),)]))
    several = [list(islice(each, MOST_ELEMENTS + 1)) for each in choices]
    count = 1
    for each in several:
        count *= len(each)
    if count > MOST_ELEMENTS:
        raise ValueError(f"more than {MOST_ELEMENTS:,} elements: {text}")
    return (tuple(part for some in each for part in some) for each in product(*several))


def write_element(key: Key, ipset: Ipset) -> str:
    """An element as ``ipset save`` prints it."""
    family, words, left = ipset.family or Family.IPV4, [], list(key)
    bitmap = IPSET_KINDS[ipset.kind].bitmap
    for part in IPSET_KINDS[ipset.kind].parts:
        value = left.pop(0)
        match part, value:
            case "port", str(protocol):
                words.append(_write_port(protocol, left.pop(0)))
            case "port", _ if bitmap:
                words.append(str(value))
            case "mark", int(mark):
                words.append(f"0x{mark:08x}")
            case _, int(address):
                words.append(format_ip(family, address))
            case _, (int(low), int(high)):
                words.append(f"{format_ip(family, low)}/{family.bits - (high - low).bit_length()}")
            case _, NamePattern(prefix):
                words.append(prefix)
            case _:
                words.append(str(value))
    return ",".join(words)


def read_bounds(text: str, kind: str) -> Interval:
    """What ``range`` says of a bitmap: the first and the last value it may hold."""
    if kind == "bitmap:port":
        low, high = _port_range(text)
    else:
        low, high = _address_range(text, Family.IPV4)
    if high - low > 0xFFFF:
        raise ValueError(f"a bitmap holds at most 65536 values: {text}")
    return low, high


def write_bounds(bounds: Interval, kind: str) -> str:
    if kind == "bitmap:port":
        return f"{bounds[0]}-{bounds[1]}"
    return f"{format_ip(Family.IPV4, bounds[0])}-{format_ip(Family.IPV4, bounds[1])}"


# --- parts ------------------------------------------------------------------------------------------------------------


def _number(text: str, most: int) -> int:
    try:
        value = int(text, 16 if text.lower().startswith("0x") else 10)
    except ValueError:
        value = -1
    if not text.isascii() or text[:1] in "+-_ " or not 0 <= value <= most:
        raise ValueError(f"not a number from 0 to {most}: {text!r}")
    return value


def _address(text: str, family: Family) -> int:
    parsed = parse_ip(text)
    if parsed is None or parsed[0] is not family:
        raise ValueError(f"not an address of {family.label}: {text!r}")
    return parsed[1]


def _address_range(text: str, family: Family) -> Interval:
    """The addresses of ``A``, ``A/PREFIX`` or, of IPv4, ``A-B``."""
    host, slash, prefix = text.partition("/")
    if slash:
        mask = family.mask(_number(prefix, family.bits))
        low = _address(host, family) & mask
        return low, low | ~mask & family.mask(family.bits)
    first, dash, last = text.partition("-")
    low = _address(first, family)
    if not dash:
        return low, low
    high = _address(last, family)
    if family is Family.IPV6:
        raise ValueError(f"ipset takes no range of IPv6 addresses: {text}")
    return min(low, high), max(low, high)


def _addresses(text: str, ipset: Ipset) -> Iterator[int]:
    """The addresses of a part that is an address, each once, under the set's netmask."""
    family = ipset.family or Family.IPV4
    low, high = _address_range(text, family)
    if ipset.mask is None:
        step = 1
    else:
        step = ipset.mask & -ipset.mask
        low &= ipset.mask
    return iter(_bounded(range(low, high + 1, step), ipset))


def _bounded(values: range, ipset: Ipset) -> range:
    bounds = ipset.bounds
    if bounds is not None and not (bounds[0] <= values[0] and values[-1] <= bounds[1]):
        raise ValueError("the element is out of the range of the set")
    return values


def _networks(text: str, ipset: Ipset) -> Iterator[int | Interval]:
    """The networks of a part that is a network: one, or for a range as many as it takes."""
    family = ipset.family or Family.IPV4
    low, high = _address_range(text, family)
    if ipset.mask is not None:
        low, high = low & ipset.mask, (high & ipset.mask) | ~ipset.mask & family.mask(family.bits)
    while low <= high:
        size = low & -low if low else 1 << family.bits
        while size > high - low + 1:
            size >>= 1
        if size == 1 << family.bits and ipset.kind not in _ZERO_PREFIX:
            raise ValueError(f"a set of type {ipset.kind} takes no network of all addresses: {text}")
        yield low if size == 1 else (low, low + size - 1)
        low += size


def _port_range(text: str) -> Interval:
    first, dash, last = text.partition("-")
    low = _number(first, 0xFFFF)
    high = _number(last, 0xFFFF) if dash else low
    return min(low, high), max(low, high)


def _ports(text: str) -> range:
    low, high = _port_range(text)
    return range(low, high + 1)


def _ports_of_protocol(text: str, family: Family | None) -> Iterator[tuple[Part, ...]]:
    """Protocol and port of ``PROTOCOL:PORT[-PORT]``; without a protocol it is TCP."""
    name, colon, port = text.partition(":")
    if not colon:
        name, port = "tcp", text
    protocol = _PROTOCOL_NAMES.get(name.lower(), name.lower())
    if protocol not in PROTOCOL_NUMBERS and not (protocol.isdigit() and 0 < int(protocol) <= 255):
        raise ValueError(f"not a protocol: {name!r}")
    if protocol in _MESSAGES:
        if (protocol == "icmpv6") is not (family is Family.IPV6):
            raise ValueError(f"a set of {family.label if family else 'no family'} takes no {name}")
        return iter([(protocol, _message(port, protocol))])
    if protocol in _WITH_PORTS:
        return ((protocol, each) for each in _ports(port))
    if port != "0":
        raise ValueError(f"of protocol {name} ipset takes port 0 alone: {text}")
    return iter([(protocol, 0)])


def _message(text: str, protocol: str) -> int:
    named = _MESSAGES[protocol].get(text)
    if named is not None:
        return named
    kind, slash, code = text.partition("/")
    if not slash:
        raise ValueError(f"not a type and code of ICMP, such as 8/0: {text!r}")
    return _number(kind, 255) << 8 | _number(code, 255)


def _write_port(protocol: str, port: Part) -> str:
    assert isinstance(port, int)
    if protocol in _MESSAGES:
        words = _MESSAGE_NAMES[protocol].get(port, f"{port >> 8}/{port & 255}")
        return f"{'ipv6-icmp' if protocol == 'icmpv6' else protocol}:{words}"
    return f"{protocol}:{port}"


def _interface(text: str, *, wildcard: bool) -> Part:
    if text.startswith("physdev:"):
        return text
    if not text or len(text) > _LONGEST_INTERFACE:
        raise ValueError(f"not a name of an interface, of 1 to {_LONGEST_INTERFACE} characters: {text!r}")
    return NamePattern(text) if wildcard else text
