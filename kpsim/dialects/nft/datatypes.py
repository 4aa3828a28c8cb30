"""Data types of nftables: how one value of each stands in a tree, and how it is printed.

A tree is what libnftables-json(5) describes: addresses, names and states are strings, all else is a number. A model
has addresses as integers, and names in the spelling of :mod:`kpsim.ruleset.fields`.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kpsim.addresses import Family, format_ip, parse_ip
from kpsim.protocols import PROTOCOL_NAMES, PROTOCOL_NUMBERS
from kpsim.ruleset import Atom, DataType

Tree = Any  #: JSON: str, int, list, dict or None, in the shape of libnftables-json(5)


class Style(enum.Enum):
    """How text is spelled."""

    SENT = enum.auto()  #: as kube-proxy writes it (NFT-10.1)
    LISTED = enum.auto()  #: as ``nft list`` prints it (NFT-10.4)


@dataclass(frozen=True, slots=True)
class Type:
    """One data type. ``read`` raises ValueError for what is no value of it."""

    name: str  #: nft's
    data: DataType
    write: Callable[[Atom], Tree]  #: of the model to that of a tree
    read: Callable[[Tree], Atom]
    order: Callable[[Atom], Any] = lambda atom: atom  #: in which nft lists values
    bits: int = 0  #: of a number
    show: Callable[[Tree, Style], str] = lambda leaf, style: str(leaf)
    a_line: int = 5  #: so many elements of a set nft lists on one line
    named: bool = False  #: numbers have names, so nft cannot write their ranges
    bits_of: bool = (
        False  #: a value is a bit, and a packet has several: a comparison without operator asks for any of them
    )

    @property
    def is_number(self) -> bool:
        """Whether values are numbers in the model, so that they can form ranges."""
        return self.data not in (DataType.PROTOCOL, DataType.INTERFACE, DataType.NAME, DataType.VERDICT)


def _read_address(family: Family) -> Callable[[Tree], int]:
    def read(leaf: Tree) -> int:
        if isinstance(leaf, str) and family is Family.IPV6 and leaf.lower().startswith("::ffff:") and "." in leaf:
            leaf, mapped = leaf[len("::ffff:") :], 0xFFFF << 32  # an address of IPv6 for nft
            return mapped | _read_address(Family.IPV4)(leaf)
        found = parse_ip(leaf) if isinstance(leaf, str) else None
        if found is None or found[0] is not family:
            raise ValueError(f"not an {family.label} address: {leaf}")
        return found[1]

    return read


def _write_address(family: Family) -> Callable[[Atom], Tree]:
    def write(atom: Atom) -> Tree:
        assert isinstance(atom, int)
        return format_ip(family, atom)

    return write


def _plain(atom: Atom) -> Tree:
    return atom


def _number(
    bits: int, symbols: Mapping[str, int] | None = None, what: str = "a number", advice: str = ""
) -> Callable[[Tree], int]:
    def read(leaf: Tree) -> int:
        value = leaf
        if isinstance(leaf, str):
            if symbols is not None and leaf in symbols:
                return symbols[leaf]
            if not leaf.isascii() or not leaf.isdigit():
                raise ValueError(f"not {what}: {leaf}{advice}")
            value = int(leaf)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << bits:
            raise ValueError(f"not a number of {bits} bits: {leaf}")
        return value

    return read


#: nft's names of protocols where they differ from the model's
_NFT_PROTOCOLS = {"icmpv6": "ipv6-icmp"}
_MODEL_PROTOCOLS = {nft: name for name, nft in _NFT_PROTOCOLS.items()}


def _write_protocol(atom: Atom) -> Tree:
    name = str(atom)
    return _NFT_PROTOCOLS.get(name, int(name) if name.isdigit() else name)


def _protocol_number(atom: Atom) -> int:
    return PROTOCOL_NUMBERS.get(str(atom)) or int(atom)


def _read_protocol(leaf: Tree) -> str:
    if isinstance(leaf, int) and 0 <= leaf < 256:
        return PROTOCOL_NAMES.get(leaf, str(leaf))
    name = _MODEL_PROTOCOLS.get(leaf, leaf) if isinstance(leaf, str) else None
    if name not in PROTOCOL_NUMBERS:
        raise ValueError(f"not a protocol: {leaf}")
    return str(name)


def _names(**numbers: int) -> tuple[Callable[[Atom], Tree], Callable[[Tree], Atom], Callable[[Atom], Any]]:
    """Writer and reader of names, which the model has in capitals, and their order."""
    words = {name.replace("_", "-"): name.upper() for name in numbers}
    back = {name: word for word, name in words.items()}
    order = {name.upper(): number for name, number in numbers.items()}

    def read(leaf: Tree) -> Atom:
        if not isinstance(leaf, str) or leaf not in words:
            raise ValueError(f"not one of {', '.join(words)}: {leaf}")
        return words[leaf]

    return (lambda atom: back[str(atom)]), read, lambda atom: order[str(atom)]


def _renamed(**names: str) -> tuple[Callable[[Atom], Tree], Callable[[Tree], Atom]]:
    """Writer and reader of names that the model has in a spelling of its own."""
    back = {name: word for word, name in names.items()}

    def read(leaf: Tree) -> Atom:
        if not isinstance(leaf, str) or leaf not in names:
            raise ValueError(f"not one of {', '.join(names)}: {leaf}")
        return names[leaf]

    return (lambda atom: back[str(atom)]), read


def _symbols(bits: int, words: str) -> tuple[Callable[[Atom], Tree], Callable[[Tree], Atom]]:
    """Writer and reader of numbers that have names: ``name=number``. Of two names of a number the first is written."""
    pairs = [(word.split("=")[0], int(word.split("=")[1])) for word in words.split()]
    names: dict[int, str] = {}
    for name, number in pairs:
        names.setdefault(number, name)

    def write(atom: Atom) -> Tree:
        assert isinstance(atom, int)
        return names.get(atom, atom)

    return write, _number(bits, dict(pairs))


def _show_mark(leaf: Tree, style: Style) -> str:
    return str(leaf) if leaf == 0 and style is Style.SENT else f"0x{leaf:08x}"


def _show_interface(leaf: Tree, style: Style) -> str:
    return str(leaf) if style is Style.SENT else f'"{leaf}"'


def _show_dscp(leaf: Tree, style: Style) -> str:
    return f"0x{leaf:02x}" if isinstance(leaf, int) else str(leaf)


def _frame_order(atom: Atom) -> int:
    return ("host", "broadcast", "multicast", "other").index(str(atom))


def _interface(leaf: Tree) -> str:
    name = str(leaf) if isinstance(leaf, str | int) and not isinstance(leaf, bool) else ""
    if not 0 < len(name) < 16:
        raise ValueError(f"not an interface: {leaf}")
    return name


_PORTS = (
    ". The port of a service's name depends on the machine; `nft list ruleset` prints numbers unless it is given -S"
)
_USERS = ". The number of a name depends on the machine; `nft list ruleset` prints numbers unless it is given -u"

IPV4 = Type(
    "ipv4_addr", DataType.IPV4_ADDRESS, _write_address(Family.IPV4), _read_address(Family.IPV4), bits=32, a_line=2
)
IPV6 = Type(
    "ipv6_addr", DataType.IPV6_ADDRESS, _write_address(Family.IPV6), _read_address(Family.IPV6), bits=128, a_line=1
)
PROTOCOL = Type("inet_proto", DataType.PROTOCOL, _write_protocol, _read_protocol, order=_protocol_number)
PORT = Type("inet_service", DataType.PORT, _plain, _number(16, None, "a port", _PORTS), bits=16)
MARK = Type("mark", DataType.MARK, _plain, _number(32), bits=32, show=_show_mark)
INTERFACE_INDEX = Type("iface_index", DataType.INTERFACE, _plain, _interface, show=_show_interface, a_line=1)
INTERFACE = Type("ifname", DataType.INTERFACE, _plain, _interface, show=_show_interface, a_line=1)
NUMBER = Type("integer", DataType.NUMBER, _plain, _number(32), bits=32)
LENGTH = Type("integer", DataType.NUMBER, _plain, _number(32), bits=32)
BYTE = Type("integer", DataType.NUMBER, _plain, _number(8), bits=8)
UID = Type("uid", DataType.NUMBER, _plain, _number(32, None, "a user", _USERS), bits=32)
GID = Type("gid", DataType.NUMBER, _plain, _number(32, None, "a group", _USERS), bits=32)
CT_STATE = Type(
    "ct_state",
    DataType.NAME,
    *_names(invalid=1, established=2, related=4, new=8, untracked=64),
    a_line=2,
    bits_of=True,
)
CT_STATUS = Type(
    "ct_status", DataType.NAME,
    *_names(expected=1, seen_reply=2, assured=4, confirmed=8, snat=16, dnat=32, dying=512), a_line=2, bits_of=True,
)  # fmt: skip
CT_DIRECTION = Type("ct_dir", DataType.NAME, *_names(original=0, reply=1))
FIB_TYPE = Type(
    "fib_addrtype", DataType.NAME,
    *_names(unspec=0, unicast=1, local=2, broadcast=3, anycast=4, multicast=5, blackhole=6, unreachable=7, prohibit=8), a_line=1,
)  # fmt: skip
NFPROTO = Type("nf_proto", DataType.NAME, *_renamed(ipv4="ipv4", ipv6="ipv6"))
ETHER_TYPE = Type("ether_type", DataType.NAME, *_renamed(ip="ipv4", ip6="ipv6"), a_line=1)
#: the names of flags in the order of their bits
TCP_FLAG_WORDS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128}
TCP_FLAG = Type(
    "tcp_flag",
    DataType.NUMBER,
    *_symbols(8, " ".join(f"{k}={v}" for k, v in TCP_FLAG_WORDS.items())),
    bits=8,
    named=True,
    bits_of=True,
)
DSCP = Type(
    "dscp", DataType.NUMBER,
    *_symbols(
        6,
        "cs0=0 cs1=8 cs2=16 cs3=24 cs4=32 cs5=40 cs6=48 cs7=56 lephb=1 df=0 be=0 af11=10 af12=12 af13=14 af21=18 af22=20 af23=22 "
        "af31=26 af32=28 af33=30 af41=34 af42=36 af43=38 va=44 ef=46",
    ), bits=6, a_line=1, named=True, show=_show_dscp,
)  # fmt: skip
ECN = Type("ecn", DataType.NUMBER, *_symbols(2, "not-ect=0 ect1=1 ect0=2 ce=3"), bits=2, a_line=1, named=True)
FRAME = Type(
    "pkt_type",
    DataType.NAME,
    *_renamed(unicast="host", host="host", broadcast="broadcast", multicast="multicast", other="other"),
    order=_frame_order,
    a_line=2,
)
ICMP_TYPE = Type(
    "icmp_type", DataType.NUMBER,
    *_symbols(
        8,
        "echo-reply=0 destination-unreachable=3 source-quench=4 redirect=5 echo-request=8 router-advertisement=9 "
        "router-solicitation=10 time-exceeded=11 parameter-problem=12 timestamp-request=13 timestamp-reply=14 info-request=15 "
        "info-reply=16 address-mask-request=17 address-mask-reply=18",
    ), bits=8, a_line=1, named=True,
)  # fmt: skip
ICMP_CODE = Type(
    "icmp_code", DataType.NUMBER,
    *_symbols(
        8,
        "net-unreachable=0 host-unreachable=1 prot-unreachable=2 port-unreachable=3 net-prohibited=9 host-prohibited=10 "
        "admin-prohibited=13 frag-needed=4",
    ), bits=8, a_line=1, named=True,
)  # fmt: skip
ICMPV6_TYPE = Type(
    "icmpv6_type", DataType.NUMBER,
    *_symbols(
        8,
        "destination-unreachable=1 packet-too-big=2 time-exceeded=3 parameter-problem=4 echo-request=128 echo-reply=129 "
        "mld-listener-query=130 mld-listener-report=131 mld-listener-done=132 mld-listener-reduction=132 nd-router-solicit=133 "
        "nd-router-advert=134 nd-neighbor-solicit=135 nd-neighbor-advert=136 nd-redirect=137 router-renumbering=138 "
        "ind-neighbor-solicit=141 ind-neighbor-advert=142 mld2-listener-report=143",
    ), bits=8, a_line=1, named=True,
)  # fmt: skip
ICMPV6_CODE = Type(
    "icmpv6_code", DataType.NUMBER,
    *_symbols(8, "no-route=0 admin-prohibited=1 addr-unreachable=3 port-unreachable=4 policy-fail=5 reject-route=6"), bits=8, a_line=1, named=True,
)  # fmt: skip

_ALL = (
    IPV4, IPV6, PROTOCOL, PORT, MARK, INTERFACE, INTERFACE_INDEX, NUMBER, UID, GID, CT_STATE, CT_STATUS, CT_DIRECTION, FIB_TYPE, NFPROTO, ETHER_TYPE,
    DSCP, ECN, FRAME, TCP_FLAG, ICMP_TYPE, ICMP_CODE, ICMPV6_TYPE, ICMPV6_CODE,
)  # fmt: skip
TYPES: Mapping[str, Type] = {each.name: each for each in _ALL}
#: the type that a set of the model names where it does not say nft's own words
BY_DATA: Mapping[DataType, Type] = {
    DataType.IPV4_ADDRESS: IPV4,
    DataType.IPV6_ADDRESS: IPV6,
    DataType.PROTOCOL: PROTOCOL,
    DataType.PORT: PORT,
    DataType.INTERFACE: INTERFACE,
    DataType.MARK: MARK,
}


def address_type(family: Family) -> Type:
    """The type of a family's addresses."""
    return IPV4 if family is Family.IPV4 else IPV6
