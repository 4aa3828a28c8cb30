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
    bits: int
    write: Callable[[Atom], Tree]  #: of the model to that of a tree
    read: Callable[[Tree], Atom]
    show: Callable[[Tree, Style], str] = lambda leaf, style: str(leaf)

    @property
    def is_number(self) -> bool:
        """Whether values are numbers in the model, so that they can form ranges."""
        return self.data not in (DataType.PROTOCOL, DataType.INTERFACE, DataType.NAME, DataType.VERDICT)


def _read_address(family: Family) -> Callable[[Tree], int]:
    def read(leaf: Tree) -> int:
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


def _number(bits: int, symbols: Mapping[str, int] | None = None) -> Callable[[Tree], int]:
    def read(leaf: Tree) -> int:
        value = leaf
        if isinstance(leaf, str):
            if symbols is not None and leaf in symbols:
                return symbols[leaf]
            try:
                value = int(leaf, 0)
            except ValueError:
                raise ValueError(f"not a number: {leaf}") from None
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


def _read_protocol(leaf: Tree) -> str:
    if isinstance(leaf, int) or (isinstance(leaf, str) and leaf.isdigit()):
        return PROTOCOL_NAMES.get(int(leaf), str(int(leaf)))
    name = _MODEL_PROTOCOLS.get(leaf, leaf)
    if name not in PROTOCOL_NUMBERS:
        raise ValueError(f"not a protocol: {leaf}")
    return str(name)


def _names(words: str) -> tuple[Callable[[Atom], Tree], Callable[[Tree], Atom]]:
    """Writer and reader of names that the model has in capitals with underscores."""
    known = {word: word.upper().replace("-", "_") for word in words.split()}
    back = {name: word for word, name in known.items()}

    def read(leaf: Tree) -> Atom:
        if leaf not in known:
            raise ValueError(f"not one of {', '.join(sorted(known))}: {leaf}")
        return known[leaf]

    return (lambda atom: back[str(atom)]), read


def _one_of(*words: str) -> Callable[[Tree], Atom]:
    def read(leaf: Tree) -> Atom:
        if leaf not in words:
            raise ValueError(f"not one of {', '.join(words)}: {leaf}")
        return str(leaf)

    return read


def _show_mark(leaf: Tree, style: Style) -> str:
    return str(leaf) if leaf == 0 and style is Style.SENT else f"0x{leaf:08x}"


def _show_interface(leaf: Tree, style: Style) -> str:
    return str(leaf) if style is Style.SENT else f'"{leaf}"'


def _interface(leaf: Tree) -> str:
    if not isinstance(leaf, str) or not 0 < len(leaf) < 17:
        raise ValueError(f"not an interface: {leaf}")
    return leaf


IPV4 = Type("ipv4_addr", DataType.IPV4_ADDRESS, 32, _write_address(Family.IPV4), _read_address(Family.IPV4))
IPV6 = Type("ipv6_addr", DataType.IPV6_ADDRESS, 128, _write_address(Family.IPV6), _read_address(Family.IPV6))
PROTOCOL = Type("inet_proto", DataType.PROTOCOL, 8, _write_protocol, _read_protocol)
PORT = Type("inet_service", DataType.PORT, 16, _plain, _number(16))
MARK = Type("mark", DataType.MARK, 32, _plain, _number(32), _show_mark)
INTERFACE = Type("ifname", DataType.INTERFACE, 128, _plain, _interface, _show_interface)
NUMBER = Type("integer", DataType.NUMBER, 32, _plain, _number(32))
CT_STATE = Type("ct_state", DataType.NAME, 32, *_names("invalid established related new untracked"))
CT_STATUS = Type("ct_status", DataType.NAME, 32, *_names("expected seen-reply assured confirmed snat dnat dying"))
FIB_TYPE = Type(
    "fib_addrtype",
    DataType.NAME,
    32,
    *_names("unspec unicast local broadcast anycast multicast blackhole unreachable prohibit"),
)
NFPROTO = Type("nf_proto", DataType.NAME, 8, _plain, _one_of("ipv4", "ipv6"))

TYPES: Mapping[str, Type] = {
    each.name: each
    for each in (IPV4, IPV6, PROTOCOL, PORT, MARK, INTERFACE, NUMBER, CT_STATE, CT_STATUS, FIB_TYPE, NFPROTO)
}
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
