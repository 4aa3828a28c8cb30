"""Draws packets, and packets that follow from what became of earlier ones, in the worlds of :mod:`random_rules`."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hypothesis import strategies as st
from random_rules import ICMP, V4, Drawn, World

from kpsim.netfilter import Disposition, Walk
from kpsim.packet import Packet, Window

_SEGMENTS = ("SYN", "SYN ACK", "ACK", "ACK PSH", "FIN ACK", "RST", "RST ACK", "SYN FIN")


@cache
def packets(world: World) -> Drawn:
    """Any packet. Most begin a connection."""
    family, icmp = world.family, ICMP[world.family]

    def build(
        protocol: str, saddr: int, daddr: int, sport: int, dport: int, icmp_type: int, odd: dict[str, Any]
    ) -> Packet:
        made = Packet(family, protocol, saddr, daddr, sport, dport)
        if protocol == icmp:
            made.dport, made.icmp_type = 0, icmp_type
        elif protocol == "gre":
            made.sport = made.dport = 0
        return replace(made, **odd)

    return st.builds(
        build,
        st.sampled_from(["tcp", "tcp", "udp", "udp", "sctp", "udplite", icmp, "gre"]),
        world.addresses, world.addresses, world.ports, world.ports,
        st.sampled_from([8, 0] if family is V4 else [128, 129, 135]),
        st.fixed_dictionaries({}, optional=_ODDITIES),
    )  # fmt: skip


#: fields that few packets have
_ODDITIES: dict[str, Drawn] = {
    "tcp_flags": st.sampled_from(_SEGMENTS).map(lambda text: frozenset(text.split())),
    "sctp_chunk": st.sampled_from(["DATA", "ABORT", "INIT"]),
    "window": st.sampled_from(Window),
    "mark": st.just(1),
    "in_interface": st.sampled_from(["eth0", "cni0"]),
    "ttl": st.sampled_from([64, 1]),
    "checksum_ok": st.sampled_from([True, True, True, False]),
}


@dataclass(frozen=True)
class Sending:
    """A packet to send: a new one, or one that follows from an earlier packet's outcome."""

    packet: Packet
    follows: str  #: ``""`` new, ``again``, ``answer``, ``error``
    which: int
    segment: frozenset[str]
    local: bool
    after_ns: int

    def made(self, earlier: list[tuple[Packet, Walk]]) -> Packet:
        """The packet, given the earlier ones and their walks."""
        if not self.follows or not earlier:
            return self.packet
        sent, outcome = earlier[self.which % len(earlier)]
        seen = outcome.packet
        if self.follows == "again":
            again = sent.copy()
            again.tcp_flags = self.segment
            return again
        if self.follows == "error":
            return Packet(
                seen.family, ICMP[seen.family], self.packet.saddr, seen.saddr, icmp_type=3 if seen.family is V4 else 1,
                icmp_code=1, related=seen.copy(),
            )  # fmt: skip
        return answer_of(outcome, self.segment)


def answer_of(outcome: Walk, segment: frozenset[str]) -> Packet:
    """The receiver's answer to a packet."""
    seen = outcome.packet
    answer = Packet(
        seen.family, seen.protocol, seen.daddr, seen.saddr, seen.dport, seen.sport, segment,
        in_interface=seen.out_interface if outcome.disposition is Disposition.FORWARDED else "",
        sctp_chunk="INIT_ACK",
    )  # fmt: skip
    if seen.protocol in ICMP.values():
        answer.sport, answer.icmp_type = seen.sport, {8: 0, 128: 129}.get(seen.icmp_type, seen.icmp_type)
    return answer


@cache
def sendings(world: World) -> Drawn:
    return st.builds(
        Sending,
        packets(world),
        st.sampled_from(["", "", "again", "answer", "answer", "error"]),
        st.integers(0, 3),
        st.sampled_from(_SEGMENTS).map(lambda text: frozenset(text.split())),
        st.sampled_from([False, False, True]),
        st.sampled_from([0, 1, 1_000_000_000, 3_000_000_000, 31_000_000_000]),
    )
