"""Answers to probes against Linux: the same rules in a network namespace, the same packets through it.

The machine is built from the same interfaces and routes; behind each interface a second namespace listens and answers nothing.
Endpoints are drawn, so each probe is sent several times and what comes out must be among its outcomes.
"""

import ctypes
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from shop import cluster_text

from kpsim.addresses import Family, parse_ip
from kpsim.config import Host
from kpsim.explore import Cluster, load
from kpsim.packet import Packet
from kpsim.probes import Answer, Probe, Prober, Result, split_end
from kpsim.site import Sender
from kpsim.wire import from_scapy, to_scapy

_CLONE_NEWNET = 0x40000000
_IPV4 = 0x0800
_TRIES = 8
_SYSCTLS = (
    "net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.icmp_ratemask=0 "
    "net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0 net.ipv4.conf.all.route_localnet=1"
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
    """A node of the cluster in Linux, and the world around it."""

    def __init__(self, name: str) -> None:
        self.node, self.world = f"{name}n", f"{name}w"
        self._macs: dict[str, bytes] = {}
        self._wires: dict[str, socket.socket] = {}
        command(f"ip netns add {self.node}")
        command(f"ip netns add {self.world}")
        with inside(self.node):
            self._process = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)

    def build(self, cluster: Cluster, node: str) -> None:
        """Interfaces, routes and rules of the node."""
        routing = cluster.site.machine(node).routing
        self._in_node(f"sysctl -qw {_SYSCTLS}")
        self._in_node("ip link set lo up")
        for number, interface in enumerate(routing.interfaces.values()):
            if interface.name != "lo":
                self._connect(interface.name, f"w{number}", [str(a) for a in interface.of(Family.IPV4)])
        for route in routing.routes:
            if route.network.family is Family.IPV4:
                gateway, _, rest = str(route).partition(" via ")[2].partition(" dev ")
                via = f"via {gateway} onlink " if rest else ""
                self._in_node(f"ip route add {route.network} {via}dev {route.interface}")
        self._in_node("iptables-restore", stdin=cluster.rules(node, family=Family.IPV4))

    def close(self) -> None:
        for wire in (*self._wires.values(), self._process):
            wire.close()
        command(f"ip netns del {self.node}")
        command(f"ip netns del {self.world}")

    def _in_node(self, text: str, *, stdin: str | None = None) -> str:
        return command(f"ip netns exec {self.node} {text}", stdin=stdin)

    def _connect(self, name: str, peer: str, addresses: list[str]) -> None:
        command(f"ip link add {name} netns {self.node} type veth peer name {peer} netns {self.world}")
        command(f"ip netns exec {self.world} sysctl -qw net.ipv6.conf.{peer}.disable_ipv6=1")
        for address in addresses:
            self._in_node(f"ip addr add {address} dev {name}")
        self._in_node(f"ip link set {name} up arp off")
        command(f"ip netns exec {self.world} ip link set {peer} up arp off")
        [link] = json.loads(self._in_node(f"ip -json link show {name}"))
        self._macs[name] = bytes.fromhex(link["address"].replace(":", ""))
        with inside(self.world):
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_IPV4))
            wire.bind((peer, _IPV4))
        wire.setblocking(False)
        self._wires[name] = wire

    def send(self, packet: Packet) -> list[Packet]:
        """What comes out of the node. A veth delivers within the call, so there is nothing to wait for (K-11)."""
        data = bytes(to_scapy(packet))
        if packet.in_interface:
            frame = self._macs[packet.in_interface] + b"\2\0\0\0\0\1" + _IPV4.to_bytes(2) + data
            self._wires[packet.in_interface].send(frame)
        else:
            with suppress(PermissionError):  # dropped or rejected in OUTPUT (K-3.2)
                self._process.sendto(data, (packet.destination, 0))
        return list(self._received())

    def _received(self) -> Iterator[Packet]:
        for wire in self._wires.values():
            while True:
                try:
                    frame, address = wire.recvfrom(4096)
                except BlockingIOError:
                    break
                if address[2] != socket.PACKET_OUTGOING:
                    yield from_scapy(IP(frame[14:]))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    file = tmp_path_factory.mktemp("shop") / "cluster.yaml"
    file.write_text(cluster_text())
    return replace(load(file), host=Host(nfacct=False))  # not every kernel has it


@pytest.fixture(scope="module", params=["node-1", "node-2", "node-3"])
def lab(request: pytest.FixtureRequest, kernel: None, cluster: Cluster) -> Iterator[tuple[str, Lab]]:
    made = Lab(f"kpsim{os.getpid()}{request.param[-1]}")
    try:
        made.build(cluster, request.param)
        yield request.param, made
    finally:
        made.close()


def agrees(answer: Answer, begun: Packet, came_out: list[Packet], own: tuple[int, ...]) -> bool:
    """Whether what left the node is what the answer says. Packets that end on the node itself leave nothing."""
    errors = [packet for packet in came_out if packet.protocol == "icmp" and packet.icmp_type == 3]
    # a RST is the node's own answer at a closed port
    others = [p for p in came_out if p.protocol == begun.protocol and "RST" not in p.tcp_flags]
    match answer.result:
        case Result.DELIVERED:
            possible = {(o.endpoint, o.seen.src) for o in answer.outcomes if o.seen.sport is None}
            kept = {(o.endpoint, o.seen.src) for o in answer.outcomes if o.seen.sport == begun.sport}
            here = any(parse_ip(split_end(o.endpoint)[0])[1] in own for o in answer.outcomes)  # type: ignore[index]
            ends = {(f"{p.destination}:{p.dport}", p.source): p.sport for p in others}
            own_ports = range(begun.sport, begun.sport + _TRIES)
            known = all(end in possible or (end in kept and sport in own_ports) for end, sport in ends.items())
            return known and (bool(ends) or here)
        case Result.REJECTED:
            return not others and (bool(errors) or not begun.in_interface)
        case Result.DROPPED:
            return not others and not errors
        case Result.PASSED:
            untouched = all((p.daddr, p.dport) == (begun.daddr, begun.dport) for p in others)
            return untouched and (not errors or begun.daddr in own)
        case Result.UNKNOWN:
            return False


@pytest.mark.kernel
@pytest.mark.parametrize("sender", list(Sender))
def test_linux_does_what_the_answers_say(lab: tuple[str, Lab], cluster: Cluster, sender: Sender) -> None:
    node, linux = lab
    prober, own = Prober(cluster.site, 0), cluster.site.machine(node).routing.addresses(Family.IPV4)
    asked, sport = 0, 20000
    for frontend in sorted(cluster.site.directory.services, key=str):
        address = frontend.address or (Family.IPV4, own[1])  # a node port: on the uplink's address
        if address[0] is not Family.IPV4:
            continue
        sport += _TRIES
        packet = Packet(Family.IPV4, frontend.protocol, 0, address[1], sport, frontend.port)
        answer = prober.answer(Probe(str(frontend), node, sender, packet))
        begun = cluster.site.begin(packet, node, sender)
        came_out: list[Packet] = []
        for number in range(_TRIES):
            attempt = begun.copy()
            attempt.sport = sport + number  # a flow of its own
            came_out += linux.send(attempt)
        assert agrees(answer, begun, came_out, own), (str(begun), answer, [str(p) for p in came_out])
        asked += 1
    assert asked == 15  # every IPv4 frontend of the shop


def test_the_shop_has_cases_of_every_kind(cluster: Cluster) -> None:
    """So that agreement means something."""
    results = {
        cluster.probe("node-1", f"{ip}:80", sender=str(sender)).result
        for sender in Sender
        for ip in ("172.30.0.10", "172.30.0.13", "172.30.0.14", "192.0.2.99")
    }
    assert results == {Result.DELIVERED, Result.DROPPED, Result.REJECTED, Result.PASSED}
