"""Marks, fields and numbers that foreign rulesets of nft use, in the model and in Linux."""

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from time import sleep

import pytest
from labs import shot
from nft_twin import SPACES, NftTwin, ends, out
from packets import ip

from kpsim.addresses import Family
from kpsim.dialects import dialect_reading
from kpsim.lab.namespace import Namespace
from kpsim.lab.wires import Shot
from kpsim.netfilter import Netns, walk
from kpsim.nodes import make_machine
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser

pytestmark = pytest.mark.kernel
V4, V6 = Family.IPV4, Family.IPV6

_MARKS = """
table ip t {
    map byport { type inet_service : mark; flags interval; elements = { 1000 : 0x1, 1001-1003 : 0x2, 1007 : 0x3 } }
    chain p {
        type filter hook prerouting priority -150; policy accept;
        meta mark set tcp dport map @byport
        tcp dport 1004 meta mark set ip saddr . tcp dport map { 203.0.113.9 . 1004 : 0x4 }
        tcp dport 1005 meta mark set ip saddr map { 198.51.100.1 : 0x4, * : 0x5 }
        tcp dport 1006 meta mark set 0x4 meta mark set ip saddr map { 198.51.100.1 : 0x6 } drop
        tcp dport 1007 ct mark set meta mark map { 0x3 : 0x9 }
        tcp dport 1008 meta mark set jhash tcp dport mod 1 seed 0x5 offset 8
    }
    chain f {
        type filter hook forward priority 0; policy accept;
        tcp dport 1000-1001 meta mark 0x1 drop
        tcp dport 1002-1003 meta mark 0x2 drop
        meta mark { 0x4, 0x5, 0x8 } drop
        ct mark 0x9 drop
    }
}
"""


def test_marks_out_of_maps(linux: NftTwin) -> None:
    """A key that the map lacks ends the rule, and leaves what was done before."""
    linux.load(_MARKS)
    ports = range(999, 1010)
    forwarded = {999, 1001, 1009}
    assert ends(linux.agree(*map(out, ports))) == ["forwarded" if port in forwarded else "dropped" for port in ports]


def test_marks_that_are_counted(linux: NftTwin) -> None:
    linux.load("""
table ip t {
    chain p { type filter hook prerouting priority -150; policy accept; tcp dport 1000-1005 meta mark set numgen inc mod 3 offset 5; }
    chain f { type filter hook forward priority 0; policy accept; meta mark 6 drop; }
}
""")
    assert ends(linux.agree(*map(out, range(1000, 1006)))) == ["forwarded", "dropped", "forwarded"] * 2


def test_the_mark_of_no_connection(linux: NftTwin) -> None:
    """K-9.12: a rule that reads it ends, one that only writes it goes on."""
    linux.load("""
table ip t {
    chain r { type filter hook prerouting priority -300; policy accept; tcp dport 1000-1005 notrack; }
    chain f {
        type filter hook forward priority 0; policy accept;
        tcp dport { 1000, 1006 } meta mark set ct mark drop
        tcp dport { 1001, 1007 } ct mark set ct mark or 0x1 drop
        tcp dport { 1002, 1008 } meta mark set ct mark map { 0x0 : 0x5 } drop
        tcp dport { 1003, 1009 } ct mark set 0x5 drop
        tcp dport { 1004, 1010 } ct mark set meta mark drop
    }
}
""")
    found = ends(linux.agree(*map(out, range(1000, 1011))))
    assert found == ["forwarded"] * 3 + ["dropped"] * 2 + ["forwarded"] + ["dropped"] * 5


_CLASSES = """
table {space} t {{
    chain p {{
        type filter hook prerouting priority -150; policy accept;
        tcp dport 1005 {ip} dscp set cs1
        tcp dport 1006 {ip} ecn set ce
    }}
    chain f {{
        type filter hook forward priority 0; policy accept;
        tcp dport 1000 {ip} dscp ef drop
        tcp dport 1001 {ip} dscp != {{ cs1, ef }} drop
        tcp dport 1002 {ip} dscp > 40 drop
        tcp dport 1003 {ip} dscp vmap {{ ef : drop, cs0 : accept }}
        tcp dport 1004 {ip} ecn ect1 drop
        tcp dport 1005 {ip} dscp cs1 {ip} ecn ect1 drop
        tcp dport 1006 {ip} dscp ef {ip} ecn ce drop
    }}
}}
"""


@pytest.mark.parametrize("family", Family)
def test_the_traffic_class(kernel: None, made: Callable[[Family], NftTwin], family: Family) -> None:
    linux = made(family)
    linux.load(_CLASSES.format(space=SPACES[family], ip="ip" if family is V4 else "ip6"))
    shots = [
        Shot(replace(each.packet, traffic_class=value))
        for sport, value in enumerate((0, 46 << 2 | 1, 8 << 2), 40000)
        for port in range(1000, 1008)
        for each in [shot(family, "client", "pod", port, sport=sport)]
    ]
    found = ends(linux.agree(*shots))
    plain, expedited, scavenger = found[:8], found[8:16], found[16:]
    assert [at for at, end in enumerate(plain) if end == "dropped"] == [1]
    assert [at for at, end in enumerate(expedited) if end == "dropped"] == [0, 2, 3, 4, 5, 6]
    assert [at for at, end in enumerate(scavenger) if end == "dropped"] == []


_SEND = """
import socket, sys
for sport, address in enumerate(sys.argv[2:], 6000):
    sender = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sender.bind(("", sport))
    if ":" in address:
        sender.sendto(b"x", (address, 5000, 0, socket.if_nametoindex(sys.argv[1])))
    else:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("10.9.0.2"))
        sender.sendto(b"x", (address, 5000))
"""
_FRAMES = """
table inet t {
    chain p {
        type filter hook prerouting priority 0; policy accept;
        udp dport 5000 meta pkttype host add @hosts { udp sport }
        udp dport 5000 meta pkttype broadcast add @broadcasts { udp sport }
        udp dport 5000 meta pkttype multicast add @multicasts { udp sport }
    }
    set hosts { type inet_service; size 99; flags dynamic; }
    set broadcasts { type inet_service; size 99; flags dynamic; }
    set multicasts { type inet_service; size 99; flags dynamic; }
}
"""


def test_how_a_frame_was_addressed(namespace: Namespace) -> None:
    """K-24.1: senders address a frame as its packet's destination says."""
    with closing(Namespace()) as sender:
        for command in (
            f"link add v0 type veth peer name v1 netns {sender.path}",
            "addr add 10.9.0.1/24 dev v0",
            "addr add fd09::1/64 dev v0 nodad",
            "link set v0 up",
        ):
            namespace.run(["ip", *command.split()])
        for command in ("addr add 10.9.0.2/24 dev v1", "addr add fd09::2/64 dev v1 nodad", "link set v1 up"):
            sender.run(["ip", *command.split()])
        for _ in range(100):  # the kernel makes routes of IPv6 a moment after the link is up
            if "fd09::/64" in sender.run(["ip", "-6", "route"]):
                break
            sleep(0.02)
        namespace.run(["nft", "-f", "-"], stdin=_FRAMES)
        to = ["10.9.0.1", "10.9.0.255", "224.0.0.1", "fd09::1", "ff02::1"]
        sender.run([sys.executable, "-c", _SEND, "v1", *to])
        listed = {
            name: namespace.run(["nft", "list", "set", "inet", "t", name])
            for name in ("hosts", "broadcasts", "multicasts")
        }
    in_linux = {
        address: name for at, address in enumerate(to, 6000) for name, text in listed.items() if str(at) in text
    }
    assert in_linux == {
        "10.9.0.1": "hosts", "10.9.0.255": "broadcasts", "224.0.0.1": "multicasts", "fd09::1": "hosts", "ff02::1": "multicasts",
    }  # fmt: skip
    for family, own in ((V4, "10.9.0.1/24"), (V6, "fd09::1/64")):
        machine = make_machine([own])
        netns = Netns("n", machine.routing, machine.sysctls)
        (rules,) = dialect_reading(_FRAMES).parse(_FRAMES, family)
        netns.load_rules(rules)
        for at, address in enumerate(to, 6000):
            if (":" in address) == (family is V6):
                source = "10.9.0.2" if family is V4 else "fd09::2"
                sent = Packet(family, "udp", ip(source), ip(address), at, 5000, in_interface="eth0")
                outcome = walk(netns, sent, now_ns=0, chooser=SeededChooser(1, 0))
                assert [each.at.name for each in outcome.effects.touched.sets] == [in_linux[address]]
