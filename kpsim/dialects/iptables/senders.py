"""Readers and writers of values that tell who made a packet, by which bridge port it passes, and how long it is.

Counterpart: libxt_owner, libxt_physdev, libxt_length and the limits of libxt_addrtype.
"""

from kpsim.addresses import Family
from kpsim.dialects.iptables.values import (
    ADDRESS_TYPES,
    ALL_BITS,
    Form,
    Read,
    Reader,
    Style,
    Writer,
    interface_reader,
    intervals_of,
    names_of,
    read_number,
    write_range,
)
from kpsim.ruleset import BridgePort, Compare, Field, NamePattern, named


def number_range_reader(field: Field, separator: str, limit: int, *, open_ended: bool, absent: bool) -> Reader:
    """A reader for a number or a range of numbers.

    ``open_ended``: one end may be left out. ``absent``: for a packet that lacks the field the option is true if it is
    negated.
    """

    def read(text: str, negate: bool, _family: Family) -> Read:
        low_text, found, high_text = text.partition(separator)
        if found and not open_ended and not (low_text and high_text):
            raise ValueError(f"not a range: {text!r}")
        low = read_number(low_text, limit) if low_text or not found else 0
        high = low if not found else read_number(high_text, limit) if high_text else limit
        if low > high:
            raise ValueError(f"range is backwards: {text!r}")
        return Read(Compare(field, ((low, high),), negate, absent=absent and negate))

    return read


def owner_reader(field: Field) -> Reader:
    """A reader for a user or group by number, or a range of them. Names depend on the machine, so they are refused."""
    numbers = number_range_reader(field, "-", ALL_BITS - 1, open_ended=False, absent=True)

    def read(text: str, negate: bool, family: Family) -> Read:
        if not text[:1].isdigit():
            raise ValueError(f"not a number of a {field.value} (names depend on the machine): {text!r}")
        return numbers(text, negate, family)

    return read


def number_range_writer(separator: str) -> Writer:
    def write(part: Compare, _detail: None, _form: Form) -> str:
        return write_range(intervals_of(part)[0], separator)

    return write


def read_socket(_text: str, negate: bool, _family: Family) -> Read:
    return Read(Compare(Field.SOCKET, frozenset(("process", "kernel")), negate, absent=negate))


def bridge_port_reader(side: str) -> Reader:
    """A reader for the name of a bridge port, which is written like that of an interface."""
    name = interface_reader(Field.IIFNAME)

    def read(text: str, negate: bool, family: Family) -> Read:
        part, _ = name(text, negate, family)
        if part is None:
            return Read(BridgePort(side, NamePattern(""), negate))
        assert isinstance(part, Compare)
        return Read(BridgePort(side, part.among if isinstance(part.among, NamePattern) else part.name, negate))

    return read


def bridge_side_reader(side: str) -> Reader:
    return lambda _text, negate, _family: Read(BridgePort(side, None, negate))


def write_bridge_port(part: BridgePort, _detail: None, _form: Form) -> str:
    return f"{part.name.prefix}+" if isinstance(part.name, NamePattern) else str(part.name)


def write_nothing(_part: object, _detail: object, _form: Form) -> str:
    """For an option that has no value."""
    return ""


def read_interface_limit(_text: str, negate: bool, _family: Family) -> Read:
    """Reads ``--limit-iface-in`` and ``-out``, which change the address types of the same ``-m``."""
    if negate:
        raise ValueError("! makes no sense before --limit-iface-in and --limit-iface-out")
    return Read(None)


# --- types of addresses -----------------------------------------------------------------------------------------------

_NOT_IN_IPV6 = frozenset(("BROADCAST", "BLACKHOLE", "PROHIBIT", "THROW", "NAT", "XRESOLVE"))
_LOOKED_UP = frozenset(("LOCAL", "ANYCAST", "UNREACHABLE"))  #: IPv6 asks its routes for these alone


def address_type_reader(field: Field) -> Reader:
    """A reader for types of addresses. The detail is the names, if they do not follow from the meaning (K-20.4)."""

    def read(text: str, negate: bool, family: Family) -> Read:
        names = names_of(text, ADDRESS_TYPES, "an address type")
        if family is Family.IPV4:
            canonical = tuple(name for name in ADDRESS_TYPES if name in names)
            return Read(named(field, *names, negate=negate), None if names == canonical else names)
        if wrong := [name for name in names if name in _NOT_IN_IPV6]:
            raise ValueError(f"not an address type of IPv6: {wrong[0]!r}")
        return Read(Compare(field, _meant_in_ipv6(frozenset(names)), negate), names)

    return read


def _meant_in_ipv6(names: frozenset[str]) -> frozenset[str]:
    """The types that ip6tables matches: a local address is UNICAST, too, and of several names all must hold (measured)."""
    meant = frozenset(ADDRESS_TYPES) - {"BROADCAST"}
    if "UNICAST" in names:
        meant &= {"UNICAST", "LOCAL", "ANYCAST", "UNREACHABLE"}
    for name in ("MULTICAST", "UNSPEC"):
        if name in names:
            meant &= {name}
    return meant & names & _LOOKED_UP if names & _LOOKED_UP else meant


def write_address_types(part: Compare, detail: tuple[str, ...] | None, form: Form) -> str:
    assert isinstance(part.among, frozenset)
    if detail is not None and form.style is not Style.SAVE:
        return ",".join(detail)
    names = part.among if detail is None else frozenset(detail)
    if detail is None and form.family is Family.IPV6 and {"UNICAST", "LOCAL"} <= names:
        names = frozenset(("UNICAST",))
    return ",".join(name for name in ADDRESS_TYPES if name in names)
