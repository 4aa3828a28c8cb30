"""A node in Linux: a network namespace with a machine's interfaces, routes and rules, and the world around it in another.

Behind each interface of the node a socket of the second namespace listens and answers nothing. What is sent into the node has
come out of it, or never will, when the call returns: a veth delivers within it (K-11).
"""

import ctypes
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6

from kpsim.addresses import Family
from kpsim.packet import Packet
from kpsim.tracing.site import Machine
from kpsim.wire import from_scapy, to_scapy

_CLONE_NEWNET = 0x40000000
_ETHERNET_TYPE = {Family.IPV4: 0x0800, Family.IPV6: 0x86DD}
#: no rate limits (K-3.4), no redirects; older kernels have icmp_msgs_* for the host alone
_SYSCTLS = (
    "net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.icmp_ratemask=0 "
    "net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0 "
    "net.ipv6.conf.all.forwarding=1 net.ipv6.icmp.ratelimit=0 "
    "net.ipv4.icmp_msgs_per_sec=1000000 net.ipv4.icmp_msgs_burst=1000000"
)


def command(text: str, *, stdin: str | None = None) -> str:
    done = subprocess.run(text.split(), capture_output=True, text=True, input=stdin, timeout=30)
    assert done.returncode == 0, f"{text}: {done.stderr}"
    return done.stdout


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets made here belong to the namespace and stay in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/self/ns/net").open() as home, Path(f"/run/netns/{namespace}").open() as there:
        assert libc.setns(there.fileno(), _CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), _CLONE_NEWNET) == 0


class Lab:
    """One family of a node, and the world around it. ``close`` it."""

    def __init__(self, name: str, family: Family = Family.IPV4) -> None:
        self.node, self.world = f"{name}n", f"{name}w"
        self.family = family
        self.refused = False  #: the last packet that a process sent was: EPERM (K-3.2)
        self._macs: dict[str, bytes] = {}
        self._wires: dict[str, socket.socket] = {}
        command(f"ip netns add {self.node}")
        command(f"ip netns add {self.world}")
        with inside(self.node):
            kind = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
            self._process = socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def build(self, machine: Machine, rules: str) -> None:
        """Interfaces and routes of the machine, and rules as iptables-save prints them."""
        routing, sysctls = machine.routing, machine.sysctls
        self.in_node(f"sysctl -qew {_SYSCTLS} net.ipv4.conf.all.route_localnet={int(sysctls.route_localnet)}")
        self.in_node("ip link set lo up")
        for number, interface in enumerate(routing.interfaces.values()):
            if interface.name != "lo":
                self._connect(interface.name, f"w{number}", [str(a) for a in interface.of(self.family)])
        for route in routing.routes:
            if route.network.family is self.family:
                gateway, _, rest = str(route).partition(" via ")[2].partition(" dev ")
                via = f"via {gateway} onlink " if rest else ""
                self.in_node(f"ip route add {route.network} {via}dev {route.interface}")
        self.load(rules)

    def load(self, rules: str) -> None:
        """Replaces the tables that the text has. What other tables there are stays."""
        self.in_node("iptables-restore" if self.family is Family.IPV4 else "ip6tables-restore", stdin=rules)

    def close(self) -> None:
        for wire in (*self._wires.values(), self._process):
            wire.close()
        command(f"ip netns del {self.node}")
        command(f"ip netns del {self.world}")

    def in_node(self, text: str, *, stdin: str | None = None) -> str:
        return command(f"ip netns exec {self.node} {text}", stdin=stdin)

    def _connect(self, name: str, peer: str, addresses: list[str]) -> None:
        command(f"ip link add {name} netns {self.node} type veth peer name {peer} netns {self.world}")
        command(f"ip netns exec {self.world} sysctl -qw net.ipv6.conf.{peer}.disable_ipv6=1")
        for address in addresses if self.family is Family.IPV4 else reversed(addresses):  # IPv6 lists the newest first
            self.in_node(f"ip addr add {address} dev {name}" + (" nodad" if self.family is Family.IPV6 else ""))
        self.in_node(f"ip link set {name} up arp off")
        command(f"ip netns exec {self.world} ip link set {peer} up arp off")
        [link] = json.loads(self.in_node(f"ip -json link show {name}"))
        self._macs[name] = bytes.fromhex(link["address"].replace(":", ""))
        kind = _ETHERNET_TYPE[self.family]
        with inside(self.world):
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
            wire.bind((peer, kind))
        wire.setblocking(False)
        self._wires[name] = wire

    def send(self, packet: Packet, sequence: tuple[int, int] = (0, 0)) -> list[Packet]:
        """What comes out of the node, with the interface. A process without source address: only IPv4 chooses one for it.

        ``sequence``: what a TCP segment begins with and what it acknowledges.
        """
        data = self._bytes(packet, sequence)
        self.refused = False
        if packet.in_interface:
            self._wires[packet.in_interface].send(self._frame(packet.in_interface, data))
        else:
            try:
                self._process.sendto(data, (packet.destination, 0))
            except PermissionError:  # dropped or rejected in OUTPUT
                self.refused = True
        return list(self.received())

    def flood(self, packets: list[Packet]) -> Iterator[None]:
        """Sends arriving packets as fast as it can; yields after each. What came out waits in ``received``."""
        frames = [(each.in_interface, self._frame(each.in_interface, self._bytes(each, (0, 0)))) for each in packets]
        for name, frame in frames:
            self._wires[name].send(frame)
            yield

    def _bytes(self, packet: Packet, sequence: tuple[int, int]) -> bytes:
        layer = to_scapy(packet)
        if packet.protocol == "tcp":
            layer["TCP"].seq, layer["TCP"].ack = sequence
        return bytes(layer)

    def _frame(self, interface: str, data: bytes) -> bytes:
        return self._macs[interface] + b"\2\0\0\0\0\1" + _ETHERNET_TYPE[self.family].to_bytes(2) + data

    def received(self) -> Iterator[Packet]:
        """What has come out of the node since the last time."""
        for name, wire in self._wires.items():
            while True:
                try:
                    frame, address = wire.recvfrom(4096)
                except BlockingIOError:
                    break
                if address[2] != socket.PACKET_OUTGOING and not self._neighbourly(frame):
                    packet = from_scapy((IP if self.family is Family.IPV4 else IPv6)(frame[14:]))
                    packet.out_interface = name
                    yield packet

    def _neighbourly(self, frame: bytes) -> bool:
        """What IPv6 tells the link on its own account."""
        return self.family is Family.IPV6 and (frame[22:24] == b"\xfe\x80" or not any(frame[22:38]))
