"""The sockets of the lab: into the node by its interfaces and from its processes, and out of it wherever a packet can come out.

A veth delivers within the sender's ``send()``: a packet has come out, or never will, before the next one goes in (K-11). What comes out is
told apart by its tag, which survives every translation and stands in the ICMP errors about it too.
"""

import contextlib
import enum
import errno
import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.conntrack import FlowTuple, tuple_of
from kpsim.lab.frames import Decoded, decode, encode
from kpsim.lab.namespace import LabError, Namespace
from kpsim.packet import Packet

_ETHERNET = {Family.IPV4: 0x0800, Family.IPV6: 0x86DD}
_BUFFER = 64 << 20  # bytes: a batch must fit
_SO_RCVBUFFORCE, _SOL_PACKET, _PACKET_STATISTICS = 33, 263, 6
_IPV6_FLOWINFO, _IPV6_RECVHOPLIMIT, _IPV6_HOPLIMIT = 11, 51, 52
_RAW = {Family.IPV4: (6, 17, 132, 1), Family.IPV6: (6, 17, 132, 58)}
_NEIGHBOURLY, _LINK_LOCAL = frozenset({*range(130, 138), 143}), 0xFE80 >> 6
_TAGS = {Family.IPV4: 1 << 16, Family.IPV6: 1 << 20}


class Where(enum.StrEnum):
    """Where a packet came out."""

    SOCKET = "a process of the node"
    LINK = "a link"
    POD = "a pod"


class Shot(NamedTuple):
    """A packet to send: by ``packet.in_interface``, or, if that is empty, from a process of the node.

    ``sequence`` and ``acknowledged`` are TCP's numbers.
    """

    packet: Packet
    sequence: int = 0
    acknowledged: int = 0


class Framed(NamedTuple):
    """A shot with the far end of the wire that it goes in by, and its Ethernet header; without a wire a process sends it."""

    shot: Shot
    wire: str = ""
    header: bytes = b""


class Sighting(NamedTuple):
    """A packet that came out. ``name`` is the interface; at a pod behind a bridge the pod's port tells its ``address`` too."""

    where: Where
    name: str
    packet: Packet
    address: int | None = None
    sequence: int = 0
    acknowledged: int = 0


class Heard(NamedTuple):
    """What came of a shot. ``error``: what the local sender's system call said, such as EPERM."""

    sightings: tuple[Sighting, ...]
    error: str = ""


class Port(NamedTuple):
    """An end of a wire outside the node: frames go in to ``mac``; what arrives there has reached ``where``."""

    wire: str  #: name of the far end, where frames are written
    where: Where
    name: str  #: the node's interface
    address: int | None = None  #: the pod's


class Wires:
    """All sockets of one lab. ``close`` them."""

    def __init__(self, family: Family, node: Namespace, world: Namespace) -> None:
        self.family = family
        self._ports: dict[str, Port] = {}
        kind = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
        protocol = socket.htons(_ETHERNET[family])
        self._sockets = [self._wide(world.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol))]
        self._world = self._sockets[0]
        self._raw = [self._wide(node.socket(kind, socket.SOCK_RAW, protocol)) for protocol in _RAW[family]]
        if family is Family.IPV6:
            for listening in self._raw:
                for option in (socket.IPV6_RECVPKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_FLOWINFO):
                    listening.setsockopt(socket.IPPROTO_IPV6, option, 1)
        self._process = node.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._process.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._next_tag = 1

    @staticmethod
    def _wide(opened: socket.socket) -> socket.socket:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        return opened

    def close(self) -> None:
        for opened in (self._world, *self._raw, self._process):
            opened.close()

    def attach(self, port: Port) -> None:
        self._ports[port.wire] = port

    # --- batches ---------------------------------------------------------------------------------------------------------

    def transmit(self, frames: Sequence[Framed], *, wait_for_last: bool = False) -> "Reception":
        """Sends in order and collects what comes out. ``wait_for_last``: until something is heard of the last, for a second."""
        if len(frames) >= _TAGS[self.family]:
            raise LabError(f"{len(frames)} packets in one batch: tags tell {_TAGS[self.family] - 1} apart")
        reception = Reception([framed.shot for framed in frames], self._tags(len(frames)))
        with _one_cpu():
            for number, (framed, tag) in enumerate(zip(frames, reception.tags, strict=True)):
                packet, sequence, acknowledged = framed.shot
                data = encode(packet, tag=tag, seq=sequence, ack=acknowledged)
                if not framed.wire:
                    reception.errors[number] = self._send_locally(packet, data)
                    continue
                try:
                    self._world.sendto(framed.header + data, (framed.wire, _ETHERNET[self.family]))
                except OSError as error:
                    raise LabError(f"sending into {packet.in_interface}: {error.strerror}") from error
            self._collect(reception)
            while wait_for_last and not reception.heard(len(frames) - 1):
                if not select.select([self._world, *self._raw], [], [], 1)[0]:
                    break
                self._collect(reception)
        self._check_losses()
        return reception

    def _tags(self, count: int) -> range:
        if self._next_tag + count > _TAGS[self.family]:
            self._next_tag = 1
        first = self._next_tag
        self._next_tag += count
        return range(first, first + count)

    def _send_locally(self, packet: Packet, data: bytes) -> str:
        try:
            self._process.sendto(data, (packet.destination, 0))
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
        return ""

    def _collect(self, reception: "Reception") -> None:
        for decoded, port in self._arrived():
            reception.add(
                Sighting(port.where, port.name, decoded.packet, port.address, decoded.seq, decoded.ack), decoded
            )

    def _arrived(self) -> Iterator[tuple[Decoded, Port]]:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, address = self._world.recvfrom(4096)
                port = self._ports.get(address[0])
                if port is not None and address[2] != socket.PACKET_OUTGOING:
                    yield from self._decoded(data[14:], port)
        here = Port("", Where.SOCKET, "")
        for listening in self._raw:
            with contextlib.suppress(BlockingIOError):
                while True:
                    if self.family is Family.IPV4:
                        yield from self._decoded(listening.recv(4096), here)
                    else:
                        yield from self._decoded(_with_header(listening), here)

    def _decoded(self, data: bytes, port: Port) -> Iterator[tuple[Decoded, Port]]:
        decoded = decode(data, self.family)
        if decoded is None or _neighbourly(decoded.packet):
            return
        if port.where is not Where.SOCKET:
            decoded.packet.out_interface = port.name
        yield decoded, port

    def _check_losses(self) -> None:
        _, lost = struct.unpack("=II", self._world.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        if lost:
            raise LabError(f"{lost} packets came out that nobody could look at: the socket's buffer was full")


class Reception:
    """What is heard of a batch, shot by shot; ``strays`` belong to none."""

    def __init__(self, shots: Sequence[Shot], tags: range) -> None:
        self.tags = tags
        self.errors = [""] * len(shots)
        self.strays: list[Sighting] = []
        self._sightings: list[list[Sighting]] = [[] for _ in shots]
        self._numbers = {tag: number for number, tag in enumerate(tags)}
        # a reset says nothing of the packet that it answers but the ends
        self._answered: dict[FlowTuple, int] = {}
        self._ports: dict[tuple[str, int], int] = {}
        for number, shot in enumerate(shots):
            self._answered[tuple_of(shot.packet).inverse()] = number
            self._ports[shot.packet.protocol, shot.packet.sport] = number

    def add(self, sighting: Sighting, decoded: Decoded) -> None:
        packet = sighting.packet
        number = self._numbers.get(decoded.tag)
        if number is None and packet.related is None:
            number = self._answered.get(tuple_of(packet))
            if number is None:
                number = self._ports.get((packet.protocol, packet.dport))
        if number is None:
            self.strays.append(sighting)
        else:
            self._sightings[number].append(sighting)

    def heard(self, number: int) -> bool:
        return bool(self._sightings[number])

    def results(self) -> list[Heard]:
        return [Heard(tuple(seen), error) for seen, error in zip(self._sightings, self.errors, strict=True)]


def _neighbourly(packet: Packet) -> bool:
    """Whether IPv6 tells it the link on its own account: discovery, redirects, group reports."""
    if packet.family is Family.IPV4:
        return False
    discovery = packet.protocol == "icmpv6" and packet.icmp_type in _NEIGHBOURLY
    return discovery or packet.saddr == 0 or packet.saddr >> 118 == _LINK_LOCAL


def _with_header(listening: socket.socket) -> bytes:
    """An IPv6 packet as a raw socket of its protocol gets it, with the header that the socket left out."""
    data, ancillary, _, source = listening.recvmsg(4096, 256)
    destination, hops, flow = bytes(16), 64, 0
    for _, kind, value in ancillary:
        if kind == socket.IPV6_PKTINFO:
            destination = value[:16]
        elif kind == _IPV6_HOPLIMIT:
            [hops] = struct.unpack("=i", value[:4])
        elif kind == _IPV6_FLOWINFO:
            [flow] = struct.unpack("!I", value[:4])
    sender = socket.inet_pton(socket.AF_INET6, source[0].partition("%")[0])
    return struct.pack("!IHBB", 6 << 28 | flow, len(data), listening.proto, hops) + sender + destination + data


@contextlib.contextmanager
def _one_cpu() -> Iterator[None]:
    """Packets overtake each other only between CPUs."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
