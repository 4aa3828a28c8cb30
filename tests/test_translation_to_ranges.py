"""Translations to one of several addresses (K-24.3) and ports (K-24.4). Linux had what is expected here."""

import pytest
from packets import ip

from kpsim.addresses import Family, format_ip
from kpsim.conntrack import FlowTuple
from kpsim.packetpath.ranges import chosen

_SNAT, _DNAT = ("10.8.1.10", "10.8.1.200"), ("10.8.0.10", "10.8.0.30")
_SNAT6, _DNAT6 = ("fd08:0:0:1::10", "fd08:0:0:3::200"), ("fd08::10", "fd08::5:30")


@pytest.mark.parametrize(
    ("destination", "ends", "persistent", "address"),
    [
        ("10.8.0.2", _SNAT, False, "10.8.1.156"),
        ("10.8.0.2", _SNAT, True, "10.8.1.68"),
        ("10.8.0.2", _DNAT, False, "10.8.0.26"),
        ("10.8.0.3", _DNAT, False, "10.8.0.29"),
        ("10.8.0.77", _DNAT, False, "10.8.0.17"),
        ("10.8.0.77", _DNAT, True, "10.8.0.16"),
        ("fd08::2", _SNAT6, False, "fd08::1:18f:b79c:18f:b79c"),
        ("fd08::2", _SNAT6, True, "fd08::1:131f:626:131f:626"),
        ("fd08::3", _SNAT6, True, "fd08::1:131f:626:131f:626"),
        ("fd08::2", _DNAT6, False, "fd08::7de"),
        ("fd08::3", _DNAT6, False, "fd08::1:629c"),
    ],
)
def test_the_address_that_linux_chose(destination: str, ends: tuple[str, str], persistent: bool, address: str) -> None:
    """Measured on 6.18, for the sources 10.9.0.2 and fd09::2."""
    family = Family.IPV6 if ":" in destination else Family.IPV4
    source = ip("fd09::2" if family is Family.IPV6 else "10.9.0.2")
    forward = FlowTuple(family, "udp", source, 26000, ip(destination), 6000)
    found = chosen(ip(ends[0]), ip(ends[1]), forward, persistent=persistent)
    assert format_ip(family, found) == address
