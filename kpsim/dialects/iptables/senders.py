"""Readers and writers of values that tell who made a packet, by which bridge port it passes, and how long it is.

Counterpart: libxt_owner, libxt_physdev, libxt_length and the limits of libxt_addrtype.
"""

from kpsim.addresses import Family
from kpsim.dialects.iptables.values import (
    ALL_BITS,
    Form,
    Read,
    Reader,
    Writer,
    interface_reader,
    intervals_of,
    read_number,
    write_range,
)
from kpsim.ruleset import BridgePort, Compare, Field, NamePattern


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
