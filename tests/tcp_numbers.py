"""Draws lives of TCP connections in numbers of the wire: options, zero windows, gaps, and segments out of window."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from kpsim import rng
from kpsim.addresses import Family
from kpsim.flowstate import Direction
from kpsim.packet import Numbers, Packet

ORIGINAL, REPLY = Direction.ORIGINAL, Direction.REPLY
_FLAG_BITS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16}
#: how far from the expected number a segment begins, or an acknowledgement lies
_AWAY = (
    0, 0, 0, 0, 0, 0, 1, -1, 2, 499, 500, 501, 999, 1000, 1001, 1002, 3999, 4000, 4001, 7999, 8000, 8001, 8002, -1000, -1001, -4000, -8001,
    -65_999, -66_000, -66_001, -66_002, 65_535, 65_536, 100_000, -100_000, 1 << 20, 1 << 30, 1 << 31, -(1 << 30),
)  # fmt: skip
_WINDOWS = (0, 1, 500, 1000, 1000, 1000, 4000, 65_535)
_HONEST = ("SYN", "SYN ACK", "ACK")
_WORDS = ("ACK", "PSH ACK", "PSH ACK", "ACK", "FIN ACK", "RST", "RST ACK", "SYN", "SYN ACK", "FIN")


class Drawn(NamedTuple):
    """A segment of one of the ends."""

    direction: Direction
    packet: Packet

    @property
    def header(self) -> bytes:
        """The segment without ports: numbers, options and data."""
        numbers = self.packet.numbers
        assert numbers is not None
        options = b""
        if numbers.scale is not None:
            options += bytes((3, 3, numbers.scale, 1))
        if numbers.sack_permitted:
            options += bytes((4, 2, 1, 1))
        if numbers.sacked:
            edges = b"".join(struct.pack("!II", (edge - 1) % 2**32, edge) for edge in numbers.sacked)
            options += bytes((1, 1, 5, 2 + len(edges))) + edges
        bits = sum(_FLAG_BITS[flag] for flag in self.packet.tcp_flags)
        length = (20 + len(options)) // 4 << 4
        head = struct.pack("!IIBBHHH", numbers.seq, numbers.ack, length, bits, numbers.window, 0, 0)
        return head + options + b"x" * numbers.size

    def __str__(self) -> str:
        flags = "+".join(sorted(self.packet.tcp_flags))
        return f"{self.direction} {flags} {self.packet.numbers}"


def lives(seed: int) -> Iterator[list[Drawn]]:
    """Endless lives. Most begin with a handshake; ends mostly go on where they are, and are often wrong."""
    number = 0
    while True:
        number += 1
        yield list(_life(_Draw(seed, number)))


class _Draw:
    def __init__(self, seed: int, number: int) -> None:
        self._key, self._count = (seed, number), 0

    def below(self, limit: int) -> int:
        self._count += 1
        return rng.below(limit, *self._key, self._count)


def _life(draw: _Draw) -> Iterator[Drawn]:
    base = (1_000_000, (1 << 32) - 2_000)[draw.below(2)]
    sent = {ORIGINAL: base, REPLY: 5_000_000}
    scales = {direction: (None, None, 0, 2, 7, 15)[draw.below(6)] for direction in Direction}
    sack = {direction: draw.below(2) == 0 for direction in Direction}
    pick_up = draw.below(8) == 0
    for position in range(3 + draw.below(16)):
        opening = not pick_up and position < 3
        if opening and draw.below(12):
            words, direction = _HONEST[position], (ORIGINAL, REPLY, ORIGINAL)[position]
            away = back = 0
        else:
            words, direction = _WORDS[draw.below(len(_WORDS))], (ORIGINAL, REPLY)[draw.below(2)]
            away = _AWAY[draw.below(len(_AWAY))] if draw.below(2) else 0
            back = _AWAY[draw.below(len(_AWAY))] if draw.below(3) == 0 else 0
            if position == 0:
                direction = ORIGINAL
        flags = frozenset(words.split())
        begin = (sent[direction] + away) % 2**32
        ack = (sent[direction.opposite] + back) % 2**32 if "ACK" in flags else 0
        if "RST" in flags and draw.below(5) == 0:
            begin = 0
        if "RST" in flags and draw.below(5) == 0:
            ack = 0
        size = (1, 100, 500, 1400)[draw.below(4)] if "PSH" in flags else 0
        opens = "SYN" in flags
        edges: tuple[int, ...] = ()
        if not opens and "ACK" in flags and draw.below(5) == 0:
            edges = tuple((ack + (1, 100, 5000, -5)[draw.below(4)]) % 2**32 for _ in range(1 + draw.below(2)))
        numbers = Numbers(
            begin, ack, size, _WINDOWS[draw.below(len(_WINDOWS))] if draw.below(4) == 0 else 1000,
            scales[direction] if opens else None, sack[direction] and opens, edges,
        )  # fmt: skip
        yield Drawn(direction, Packet(Family.IPV4, "tcp", 1, 2, 3, 4, tcp_flags=flags, numbers=numbers))
        if not away:
            sent[direction] = (begin + size + len(flags & {"SYN", "FIN"})) % 2**32
