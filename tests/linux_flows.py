"""A router in Linux between a client and a server. It reports what connection tracking made of every packet.

The router writes the packet's state into its type of service. Callers make the transport headers. This module makes
addresses, IP headers and checksums; the checksums of TCP and UDP also cover addresses.
"""

import json
import socket
import struct

from kpsim.addresses import Family, parse_ip
from kpsim.conntrack import FlowTuple
from kpsim.flowstate import Direction
from kpsim.lab.conntrack import LinuxConntrack
from kpsim.lab.namespace import Namespace

CLIENT = {Family.IPV4: "203.0.113.9", Family.IPV6: "2001:db8:71::9"}
SERVER = {Family.IPV4: "10.180.0.5", Family.IPV6: "fd00:180::5"}
ELSEWHERE = {Family.IPV4: "203.0.113.77", Family.IPV6: "2001:db8:71::77"}
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "icmpv6": 58, "ospf": 89, "sctp": 132, "udplite": 136}
_STATES = {4: "NEW", 8: "ESTABLISHED", 12: "RELATED", 16: "INVALID", 20: "UNTRACKED"}
_CHECKSUMS = {"tcp": 16, "udp": 6, "icmp": 2, "icmpv6": 2}
_CRC_POLYNOMIAL = 0x82F63B78  # CRC32c, bits reversed


class Router:
    """The router and its two ends. ``close`` it. A process that ends leaves nothing behind either."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.client, self.server = (_packed(ends[family]) for ends in (CLIENT, SERVER))
        self._router, self._world = Namespace(), Namespace()
        self._kind = 0x0800 if family is Family.IPV4 else 0x86DD
        self.set_sysctls({
            "net.ipv4.ip_forward": 1, "net.ipv4.conf.all.rp_filter": 0, "net.ipv4.conf.default.rp_filter": 0,
            "net.ipv6.conf.all.forwarding": 1,
        })  # fmt: skip
        self._wires = {
            Direction.ORIGINAL: self._connect("outside", CLIENT[family]),
            Direction.REPLY: self._connect("inside", SERVER[family]),
        }
        tables = "iptables" if family is Family.IPV4 else "ip6tables"
        for value, state in _STATES.items():
            rule = f"-A FORWARD -m conntrack --ctstate {state} -j TOS --set-tos {value}"
            self._router.run([tables, "-t", "mangle", *rule.split()])
        self.table = LinuxConntrack(self._router)

    def close(self) -> None:
        self.table.close()
        for wire, _ in self._wires.values():
            wire.close()
        self._router.close()
        self._world.close()

    def set_sysctls(self, values: dict[str, int]) -> None:
        self._router.set_sysctls(values)

    def flow(self, protocol: str, sport: int, dport: int) -> FlowTuple:
        """The original tuple of what the client sends. For ICMP the ports are the id, and type · 256 + code."""
        client, server = (int.from_bytes(end) for end in (self.client, self.server))
        return FlowTuple(self.family, protocol, client, sport, server, dport)

    def send(self, protocol: str, direction: Direction, transport: bytes, *, damaged: bool = False) -> str:
        """Send a packet from one end to the other, and return its ctstate, or ``""`` if it was not forwarded.

        The checksum field must hold 0.
        """
        ends = (self.client, self.server) if direction is Direction.ORIGINAL else (self.server, self.client)
        return self.send_raw(direction, self.ip(protocol, *ends, transport, damaged=damaged))

    def send_raw(self, direction: Direction, packet: bytes) -> str:
        """Send a packet that begins with its IP header."""
        for wire, _ in self._wires.values():
            for _ in _received(wire):
                pass
        wire, mac = self._wires[direction]
        wire.send(mac + b"\2\0\0\0\0\1" + self._kind.to_bytes(2) + packet)
        came_out = [f for f in _received(self._wires[direction.opposite][0]) if len(f) == 14 + len(packet)]
        if not came_out:
            return ""
        [frame] = came_out
        service = frame[15] if self.family is Family.IPV4 else int.from_bytes(frame[14:16]) >> 4 & 0xFF
        return _STATES[service]

    def ip(self, protocol: str, source: bytes, destination: bytes, transport: bytes, *, damaged: bool = False) -> bytes:
        """Return the packet from its IP header on, with checksums."""
        number, length = PROTOCOLS[protocol], len(transport)
        if protocol in _CHECKSUMS:
            pseudo = source + destination + struct.pack("!II", length, number) if protocol != "icmp" else b""
            checksum = (_checksum(pseudo + transport) or 0xFFFF) ^ damaged
            at = _CHECKSUMS[protocol]
            transport = transport[:at] + checksum.to_bytes(2) + transport[at + 2 :]
        elif protocol == "sctp":
            crc = (_crc32c(transport) ^ damaged).to_bytes(4, "little")
            transport = transport[:8] + crc + transport[12:]
        if self.family is Family.IPV6:
            return struct.pack("!IHBB", 6 << 28, length, number, 64) + source + destination + transport
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0, 64, number, 0) + source + destination
        return header[:10] + _checksum(header).to_bytes(2) + header[12:] + transport

    def _connect(self, name: str, end: str) -> tuple[socket.socket, bytes]:
        """Make a wire with one end in the world, and return that end and the router's MAC address."""
        router, world = self._router, self._world
        router.run(f"ip link add {name} type veth peer name {name} netns {world.path}".split())
        world.set_sysctls({f"net.ipv6.conf.{name}.disable_ipv6": 1})
        for namespace in (router, world):
            namespace.run(f"ip link set {name} up arp off".split())
        network = f"{end.rpartition('.')[0]}.0/24" if "." in end else f"{end.rpartition('::')[0]}::/64"
        router.run(f"ip route add {network} dev {name}".split())
        wire = world.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(self._kind))
        wire.bind((name, self._kind))
        wire.setblocking(False)
        [link] = json.loads(router.run(f"ip -json link show {name}".split()))
        return wire, bytes.fromhex(link["address"].replace(":", ""))


def _received(wire: socket.socket) -> list[bytes]:
    """Return the frames that came out since the last call. A veth has delivered when ``send`` returns (K-11)."""
    frames = []
    while True:
        try:
            frame, address = wire.recvfrom(4096)
        except BlockingIOError:
            return frames
        if address[2] != socket.PACKET_OUTGOING:
            frames.append(frame)


def _packed(address: str) -> bytes:
    parsed = parse_ip(address)
    assert parsed is not None
    family, value = parsed
    return value.to_bytes(family.bits // 8)


def _checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_CRC_POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
