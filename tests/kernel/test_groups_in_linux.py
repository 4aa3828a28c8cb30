"""Packets for groups that come in, in the model and in Linux (K-7.8).

The lab's links have no neighbour discovery, so only the bridge joins the groups of its addresses. The lab does not look
at packets from link-local addresses and from ``::``, which IPv6 itself sends.
"""

from contextlib import closing

import pytest
from packets import ip

from kpsim.addresses import Family
from kpsim.lab.node import LabNode
from kpsim.lab.wires import Shot
from kpsim.netfilter import Disposition, Netns, walk
from kpsim.nodes import make_machine
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.sysctls import Sysctls

pytestmark = pytest.mark.kernel

GROUPS = {
    Family.IPV4: ("224.0.0.1", "224.0.0.2", "224.0.0.22", "224.0.0.251", "239.1.2.3", "232.0.0.1"),
    Family.IPV6: (
        "ff02::1", "ff02::2", "ff01::1", "ff02::16", "ff02::fb", "ff0e::1", "ff02::1:ff00:1", "ff02::1:ff00:2",
        "ff02::1:ff12:3456", "ff00::1", "ff05::1",
    ),
}  # fmt: skip
SOURCES = {
    Family.IPV4: ("203.0.113.9", "0.0.0.0", "127.0.0.5", "192.168.0.1", "192.168.0.255"),
    Family.IPV6: ("2001:db8:71::9", "2001:db8::1", "fd00:180::9"),
}


@pytest.mark.parametrize("by", ["eth0", "cni0"])
@pytest.mark.parametrize("rp_filter", [0, 1])
@pytest.mark.parametrize("family", Family)
def test_which_groups_the_node_hears(kernel: None, family: Family, rp_filter: int, by: str) -> None:
    node, pods = ("192.168.0.1", "10.180.0.0/24") if family is Family.IPV4 else ("2001:db8::1", "fd00:180::/64")
    machine = make_machine([node], [pods], sysctls=Sysctls(rp_filter=rp_filter))
    packets = [
        Packet(family, "udp", ip(source), ip(group), 5000, 9, in_interface=by)
        for source in SOURCES[family]
        for group in GROUPS[family]
        if by == "cni0" or not group.startswith("ff02::1:ff")
    ]
    with closing(LabNode(machine, family)) as linux:
        heard, _ = linux.transmit([Shot(packet) for packet in packets])
    netns, differences = Netns("n", machine.routing, machine.sysctls), []
    for packet, seen in zip(packets, heard, strict=True):
        there = {s.where.name for s in seen.sightings if s.packet.protocol == "udp"}
        in_linux = "delivered" if "SOCKET" in there else "forwarded" if there else ""
        outcome = walk(netns, packet, now_ns=0, chooser=SeededChooser(1, 0))
        told = {Disposition.DELIVERED: "delivered", Disposition.FORWARDED: "forwarded"}.get(outcome.disposition, "")
        if told != in_linux:
            differences.append(f"{packet}: model {told!r}, Linux {in_linux!r}")
    assert "\n".join(differences) == ""
