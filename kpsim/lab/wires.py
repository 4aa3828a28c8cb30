"""The sockets of the lab. They send packets into the node, by its interfaces or from its processes, and read packets
wherever they come out.

A veth delivers a frame within the sender's ``send()``. So a packet has come out, or never will, before the next one
goes in (K-11). A packet is recognised by its tag, which survives every translation and also stands in ICMP errors
about the packet. No loss may go unnoticed: the kernel's counts of frames at the wires must equal the numbers of
frames that were written and read here.
"""

import contextlib
import enum
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kpsim.addresses import Family
from kpsim.conntrack import FlowTuple, tuple_of
from kpsim.lab.calls import LabError
from kpsim.lab.frames import Decoded, decode, encode
from kpsim.lab.namespace import Namespace
from kpsim.packet import Packet
from kpsim.protocols import PROTOCOL_NUMBERS

_ETHERNET = {Family.IPV4: 0x0800, Family.IPV6: 0x86DD}
_BUFFER = 64 << 20  # bytes; a whole batch must fit in
_FEW = 16  # packets that fit into the smallest buffer
_SO_RCVBUFFORCE, _SO_MEMINFO, _DROPS = 33, 55, 8
_ETH_P_ALL, _SOL_PACKET, _PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 3, 263, 6, 23
_RECEIVED, _SENT = 2, 10  # columns of /proc/net/dev
_PATIENCE_MS = 1000
#: errors of a system call that concern the packet; any other error concerns the lab
_VERDICTS = frozenset({"EPERM", "EACCES", "EINVAL", "ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "EMSGSIZE"})
_IPV6_FLOWINFO, _IPV6_RECVHOPLIMIT, _IPV6_HOPLIMIT = 11, 51, 52
_RAW = {Family.IPV4: ("tcp", "udp", "sctp", "icmp"), Family.IPV6: ("tcp", "udp", "sctp", "icmpv6")}
_NEIGHBOURLY, _LINK_LOCAL = frozenset({*range(130, 138), 143}), 0xFE80 >> 6
_TAGS = {Family.IPV4: 1 << 16, Family.IPV6: 1 << 20}


class Where(enum.StrEnum):
    """Where a packet came out."""

    SOCKET = "a process of the node"
    LINK = "a link"
    POD = "a pod"


class Shot(NamedTuple):
    """A packet to send: into ``packet.in_interface``, or from a process of the node if that is empty.

    For TCP, ``sequence`` and ``acknowledged`` are its numbers. For SCTP they are the verification tags of the sender
    and of the other end; 0 stands for a tag that both ends share.
    """

    packet: Packet
    sequence: int = 0
    acknowledged: int = 0


class Framed(NamedTuple):
    """A shot with its Ethernet header and the far end of the wire that it is written to. Without a wire a process of
    the node sends it.
    """

    shot: Shot
    wire: str = ""
    header: bytes = b""


class Sighting(NamedTuple):
    """A packet that came out. ``name`` is the interface. Behind a bridge, ``address`` is the pod whose port the
    packet came out of.
    """

    where: Where
    name: str
    packet: Packet
    address: int | None = None
    sequence: int = 0
    acknowledged: int = 0


class Heard(NamedTuple):
    """What was seen of a shot. ``error`` is the error of the local sender's system call, such as EPERM, or empty."""

    sightings: tuple[Sighting, ...]
    error: str = ""


class Port(NamedTuple):
    """The end of a wire outside the node. A packet that comes out here has reached ``where``."""

    wire: str  #: name of the far end, where frames are written
    where: Where
    name: str  #: the node's interface
    address: int | None = None  #: the pod's


class Wires:
    """All sockets of one lab. ``close`` them."""

    def __init__(self, family: Family, node: Namespace, world: Namespace) -> None:
        self.family = family
        self._ports: dict[str, Port] = {}
        self._narrow = False  # whether buffers hold only a few packets, which must be read soon
        kind = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
        self._world = self._wide(world.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)))
        self._world.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        self._counts = _Counts(world)
        self._raw = [self._wide(node.socket(kind, socket.SOCK_RAW, PROTOCOL_NUMBERS[name])) for name in _RAW[family]]
        if family is Family.IPV6:
            for listening in self._raw:
                for option in (socket.IPV6_RECVPKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_FLOWINFO):
                    listening.setsockopt(socket.IPPROTO_IPV6, option, 1)
        self._process = node.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._process.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._drops = 0
        self._is_interrupted = False  # whether the latest batch ended with an error
        self._next_tag = 1

    def _wide(self, opened: socket.socket) -> socket.socket:
        opened.setblocking(False)
        try:
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:  # root of a user namespace gets what every user gets
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._narrow = True
        return opened

    def close(self) -> None:
        for opened in (self._world, *self._raw, self._process):
            opened.close()
        self._counts.close()

    def attach(self, port: Port) -> None:
        self._ports[port.wire] = port

    # --- batches ---------------------------------------------------------------------------------------------------------

    def transmit(self, frames: Sequence[Framed], *, wait_for_last: bool = False) -> "Reception":
        """Sends frames in order and collects the packets that come out.

        With ``wait_for_last`` it goes on until something is seen of the last frame, for at most a second or so.
        Without frames it collects what has come out since the last call, such as packets that a queue let go.
        LabError if a frame was lost on its way in or out, or came out where the lab has no port.
        """
        if len(frames) >= _TAGS[self.family]:
            raise LabError(f"{len(frames)} packets in one batch: tags tell {_TAGS[self.family] - 1} apart")
        reception = Reception([framed.shot for framed in frames], self._tags(len(frames)))
        if self._is_interrupted:
            self._forget_what_came()
        self._is_interrupted = True
        with _one_cpu():
            for number, (framed, tag) in enumerate(zip(frames, reception.tags, strict=True)):
                if self._narrow and number % _FEW == _FEW - 1:
                    self._collect(reception)
                packet, sequence, acknowledged = framed.shot
                data = encode(packet, tag=tag, seq=sequence, ack=acknowledged)
                if not framed.wire:
                    reception.errors[number] = self._send_locally(packet, data)
                    continue
                try:
                    self._world.sendto(framed.header + data, (framed.wire, _ETHERNET[self.family]))
                except OSError as error:
                    raise LabError(f"sending into {packet.in_interface}: {error.strerror}") from error
                self._counts.written += 1
            self._collect_all(reception, wait_for_last=wait_for_last)
        self._check_losses(sum(not framed.shot.packet.checksum_ok for framed in frames))
        self._is_interrupted = False
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
            name = errno.errorcode.get(error.errno or 0, "")
            if name not in _VERDICTS:
                raise LabError(f"sending from a process: {error.strerror}") from error
            return name
        return ""

    def _collect(self, reception: "Reception") -> None:
        for decoded, port in self._arrived():
            reception.add(
                Sighting(port.where, port.name, decoded.packet, port.address, decoded.seq, decoded.ack), decoded
            )

    def _arrived(self) -> Iterator[tuple[Decoded, Port]]:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, (wire, protocol, *_) = self._world.recvfrom(4096)
                self._counts.read += 1
                if protocol != _ETHERNET[self.family]:
                    continue
                if wire not in self._ports:
                    raise LabError(f"a packet came out by {wire}, where nobody looks")
                yield from self._decoded(data[14:], self._ports[wire])
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

    def _collect_all(self, reception: "Reception", *, wait_for_last: bool) -> None:
        """Reads until every frame that was written has entered the node, and every frame that left the node has been
        read.

        Some frames come a little later: a busy kernel puts work off, and messages to neighbours have timers of their
        own.
        """
        for waited_ms in range(_PATIENCE_MS):
            received, sent = self._counts.kernels()
            self._collect(reception)
            is_even = self._counts.written == sent and self._counts.read >= received
            if is_even and (reception.is_last_heard or (waited_ms and not wait_for_last)):
                return
            time.sleep(0.001)
        if not is_even:
            lost_in, lost_out = self._counts.written - sent, received - self._counts.read
            raise LabError(f"{lost_in} packets did not get into the node, {lost_out} that came out were not seen")

    def _forget_what_came(self) -> None:
        for _ in self._arrived():
            pass
        self._counts.read, self._counts.written = self._counts.kernels()
        self._lost()

    def _check_losses(self, bad_checksums: int) -> None:
        """LabError if a socket lost packets. A raw ICMPv6 socket may refuse ``bad_checksums`` of them."""
        lost_of_wires, lost_of_processes = self._lost()
        lost = lost_of_wires + max(0, lost_of_processes - bad_checksums)
        if lost:
            raise LabError(f"{lost} packets came out that nobody could look at: a socket's buffer was full")

    def _lost(self) -> tuple[int, int]:
        """Numbers of packets that the sockets lost since the last call: those of the wires, those of the node's
        processes.
        """
        _, lost = struct.unpack("=II", self._world.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        before, self._drops = self._drops, sum(
            struct.unpack("=9I", opened.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))[_DROPS] for opened in self._raw
        )  # fmt: skip
        return lost, self._drops - before


class _Counts:
    """Counts of the frames of all wires: the kernel's, at the far ends, and those written and read here."""

    def __init__(self, world: Namespace) -> None:
        self.written = self.read = 0
        with world.entered():
            self._file = Path("/proc/thread-self/net/dev").open("rb", buffering=0)  # noqa: SIM115 - closed by close

    def close(self) -> None:
        self._file.close()

    def kernels(self) -> tuple[int, int]:
        """The kernel's counts: frames that the far ends received, frames that they sent."""
        self._file.seek(0)
        received = sent = 0
        for line in self._file.read().splitlines()[2:]:
            columns = line.split()
            received += int(columns[_RECEIVED])
            sent += int(columns[_SENT])
        return received, sent


class Reception:
    """What was seen of a batch, shot by shot. ``strays`` are packets that belong to no shot."""

    def __init__(self, shots: Sequence[Shot], tags: range) -> None:
        self.tags = tags
        self.errors = [""] * len(shots)
        self.strays: list[Sighting] = []
        self._sightings: list[list[Sighting]] = [[] for _ in shots]
        self._numbers = {tag: number for number, tag in enumerate(tags)}
        # a reset has no tag of the packet that it answers: it is recognised by its addresses and ports, or, if they were
        # translated, by the sender that it goes to
        self._answered: dict[FlowTuple, int] = {}
        self._senders: dict[tuple[int, int], list[int]] = {}
        self._ports: dict[int, int] = {}
        for number, shot in enumerate(shots):
            if shot.packet.protocol != "tcp":
                continue
            self._answered[tuple_of(shot.packet).inverse()] = number
            self._senders.setdefault((shot.packet.saddr, shot.packet.sport), []).append(number)
            self._ports[shot.packet.sport] = number

    def add(self, sighting: Sighting, decoded: Decoded) -> None:
        packet = sighting.packet
        number = self._numbers.get(decoded.tag)
        if number is None and packet.protocol == "tcp" and "RST" in packet.tcp_flags:
            number = self._answered.get(tuple_of(packet))
            if number is None:
                number = self._sent_by(packet.daddr, packet.dport)
        if number is None:
            self.strays.append(sighting)
        else:
            self._sightings[number].append(sighting)

    def _sent_by(self, address: int, port: int) -> int | None:
        """The first packet of a sender of which nothing was seen: resets come out in the order of what they answer."""
        unheard = (number for number in self._senders.get((address, port), ()) if not self._sightings[number])
        return next(unheard, self._ports.get(port))

    @property
    def is_last_heard(self) -> bool:
        return not self._sightings or bool(self._sightings[-1])

    def results(self) -> list[Heard]:
        return [Heard(tuple(seen), error) for seen, error in zip(self._sightings, self.errors, strict=True)]


def _neighbourly(packet: Packet) -> bool:
    """Whether IPv6 itself sends this packet to the link: neighbour discovery, redirects, group reports."""
    if packet.family is Family.IPV4:
        return False
    discovery = packet.protocol == "icmpv6" and packet.icmp_type in _NEIGHBOURLY
    return discovery or packet.saddr == 0 or packet.saddr >> 118 == _LINK_LOCAL


def _with_header(listening: socket.socket) -> bytes:
    """Reads an IPv6 packet from a raw socket, and puts the IP header back that the socket left out."""
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
    """Keeps this process on one CPU, since packets overtake each other only between CPUs. Different processes take
    different CPUs.
    """
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[os.getpid() % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
