"""Which sources IPv4 takes from the wire, in the model and in Linux (K-7.2, K-7.3).

The lab's canaries need a route of type local, which makes Linux look closer. So these tests use a bare node.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import product

import pytest
from packets import ip, net

from kpsim.addresses import Family
from kpsim.lab.node import LabNode
from kpsim.lab.wires import Shot
from kpsim.netfilter import Disposition, Netns, walk
from kpsim.nodes import Machine, make_machine
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.routing import Route, RouteKind
from kpsim.sysctls import Sysctls

pytestmark = pytest.mark.kernel

NODE, LINK_BROADCAST, SERVER = "192.168.0.1", "192.168.0.255", "10.180.0.5"
SOURCES = (
    "0.0.0.0", "0.1.2.3", "0.255.255.255", "127.0.0.1", "127.0.0.5", "127.255.255.254", NODE, "10.180.0.1", LINK_BROADCAST,
    "10.180.0.255", "203.0.113.9", "224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.254", "255.255.255.255",
)  # fmt: skip
DESTINATIONS = (SERVER, NODE, "203.0.113.77", "255.255.255.255", LINK_BROADCAST, "0.0.0.0", "0.1.2.3", "127.0.0.1")


@contextmanager
def bare_node(machine: Machine) -> Iterator[LabNode]:
    with closing(LabNode(machine, Family.IPV4)) as made:
        yield made


def machine_with(sysctls: Sysctls, *, local_route: bool) -> Machine:
    made = make_machine([NODE], ["10.180.0.0/24"], sysctls=sysctls)
    if not local_route:
        return made
    routing = made.routing.with_routes(Route(net("198.51.100.1/32"), "lo", kind=RouteKind.LOCAL))
    return replace(made, routing=routing)


def taken_in_the_model(machine: Machine, packet: Packet) -> str:
    outcome = walk(Netns("n", machine.routing, machine.sysctls), packet, now_ns=0, chooser=SeededChooser(1, 0))
    return {Disposition.DELIVERED: "delivered", Disposition.FORWARDED: "forwarded"}.get(outcome.disposition, "")


@pytest.mark.parametrize("local_route", [False, True])
@pytest.mark.parametrize(("route_localnet", "accept_local"), list(product([False, True], repeat=2)))
@pytest.mark.parametrize("rp_filter", [0, 1, 2])
def test_sources_that_the_wire_may_bring(
    kernel: None, route_localnet: bool, accept_local: bool, rp_filter: int, local_route: bool
) -> None:
    sysctls = Sysctls(route_localnet=route_localnet, accept_local=accept_local, rp_filter=rp_filter)
    machine = machine_with(sysctls, local_route=local_route)
    packets = [
        Packet(Family.IPV4, "udp", ip(source), ip(destination), 5000, 9, in_interface="eth0")
        for source in SOURCES
        for destination in DESTINATIONS
    ]
    with bare_node(machine) as linux:
        linux.add_pods([ip(SERVER)])
        heard, _ = linux.transmit([Shot(packet) for packet in packets])
    differences = []
    for packet, seen in zip(packets, heard, strict=True):
        there = {s.where.name for s in seen.sightings if s.packet.protocol == "udp"}
        in_linux = "delivered" if "SOCKET" in there else "forwarded" if there else ""
        if (in_model := taken_in_the_model(machine, packet)) != in_linux:
            differences.append(f"{packet}: model {in_model!r}, Linux {in_linux!r}")
    assert differences == []


def test_only_one_address_of_its_network_is_the_broadcast_of_all(kernel: None) -> None:
    """K-7.3: addrtype calls 0.0.0.0 a broadcast, and nothing else in 0/8."""
    machine = machine_with(Sysctls(), local_route=False)
    with bare_node(machine) as linux:
        for kind in ("BROADCAST", "UNICAST"):
            linux.namespace.run(f"iptables -t raw -A PREROUTING -m addrtype --src-type {kind}".split())
        for source in ("0.1.2.3", "0.0.0.0", "0.255.255.255"):
            linux.transmit([Shot(Packet(Family.IPV4, "udp", ip(source), ip(NODE), 1, 2, in_interface="eth0"))])
        listed = linux.namespace.run(["iptables", "-t", "raw", "-L", "PREROUTING", "-v", "-n", "-x"]).splitlines()[2:]
    counted = {line.split()[-1]: int(line.split()[0]) for line in listed}
    assert counted == {"BROADCAST": 1, "UNICAST": 2}
    kinds = [
        machine.routing.address_type(Family.IPV4, ip(source)) for source in ("0.1.2.3", "0.0.0.0", "0.255.255.255")
    ]
    assert kinds == ["UNICAST", "BROADCAST", "UNICAST"]
