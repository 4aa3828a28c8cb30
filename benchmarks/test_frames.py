"""The cost of a packet on its way to the bytes of a socket and back."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from kpsim.addresses import Family, parse_ip
from kpsim.lab.frames import decode, encode
from kpsim.packet import Packet


def _packet(family: Family, protocol: str) -> Packet:
    texts = ("203.0.113.7", "172.30.0.10") if family is Family.IPV4 else ("2001:db8::7", "fd00:172:30::a")
    source, destination = (parse_ip(text) for text in texts)
    assert source is not None
    assert destination is not None
    if protocol != "error":
        return Packet(family, protocol, source[1], destination[1], 40000, 80)
    name, kind = ("icmp", 3) if family is Family.IPV4 else ("icmpv6", 1)
    about = _packet(family, "tcp")
    return Packet(family, name, destination[1], source[1], icmp_type=kind, related=about)


PACKETS = [_packet(family, protocol) for family in Family for protocol in ("tcp", "udp", "sctp", "error")]


@pytest.mark.parametrize("packet", PACKETS, ids=lambda packet: f"{packet.family.label}-{packet.protocol}")
def test_encode(benchmark: BenchmarkFixture, packet: Packet) -> None:
    """At most 15 µs, so that in a lab making a packet costs less than sending it."""
    assert benchmark(encode, packet, tag=4711)


@pytest.mark.parametrize("packet", PACKETS, ids=lambda packet: f"{packet.family.label}-{packet.protocol}")
def test_decode(benchmark: BenchmarkFixture, packet: Packet) -> None:
    """At most 15 µs."""
    assert benchmark(decode, encode(packet, tag=4711), packet.family)
