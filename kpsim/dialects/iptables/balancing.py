"""``-m ipvs``: readers and writers of what a rule asks of a packet that ip_vs has rewritten.

Counterpart: libxt_ipvs of iptables 1.8.9. No kernel at hand has the match, so nothing here was recorded.
"""

from kpsim.addresses import Family
from kpsim.dialects.iptables.values import (
    BARE,
    Form,
    Read,
    Style,
    read_network,
    read_port,
    read_protocol,
    write_network,
)
from kpsim.protocols import PROTOCOL_NUMBERS
from kpsim.ruleset import Compare, Field, equal, named, within

_METHODS = ("GATE", "IPIP", "MASQ")


def read_balanced(_text: str, negate: bool, _family: Family) -> Read:
    return Read(named(Field.IPVS, "yes", negate=negate))


def read_virtual_protocol(text: str, negate: bool, family: Family) -> Read:
    """Reads ``--vproto``. ``0`` would be every protocol, which no virtual server has."""
    found = read_protocol(text, negate, family)
    if found is None:
        raise ValueError(f"not the protocol of a virtual server: {text!r}")
    assert isinstance(found.part, Compare)
    return Read(named(Field.IPVS_PROTOCOL, str(found.part.name), negate=negate))


def write_virtual_protocol(part: Compare, _detail: None, form: Form) -> str:
    """Writes ``--vproto``, of which iptables-save shows the number."""
    name = str(part.name)
    return str(PROTOCOL_NUMBERS.get(name, name)) if form.style is Style.SAVE else name


def read_virtual_address(text: str, negate: bool, family: Family) -> Read:
    """Reads ``--vaddr``. A network of all addresses stays an expression: it is false of other packets."""
    network = read_network(text, family)
    return Read(within(Field.IPVS_VADDR, network, negate=negate), None if "/" in text else BARE)


def write_virtual_address(part: Compare, detail: str | None, form: Form) -> str:
    """Writes ``--vaddr``, of which iptables-save shows a single address without /32."""
    return write_network(part, BARE if part.mask is None else detail, Form(Style.KUBE_PROXY, form.family))


def read_virtual_port(text: str, negate: bool, _family: Family) -> Read:
    return Read(equal(Field.IPVS_VPORT, read_port(text), negate=negate))


def read_virtual_direction(text: str, negate: bool, _family: Family) -> Read:
    if text.upper() not in ("ORIGINAL", "REPLY"):
        raise ValueError(f"not a direction (ORIGINAL, REPLY): {text}")
    return Read(named(Field.IPVS_DIRECTION, text.upper(), negate=negate))


def read_method(text: str, negate: bool, _family: Family) -> Read:
    if text.upper() not in _METHODS:
        raise ValueError(f"not a way of forwarding ({', '.join(_METHODS)}): {text}")
    return Read(named(Field.IPVS_METHOD, text.upper(), negate=negate))
