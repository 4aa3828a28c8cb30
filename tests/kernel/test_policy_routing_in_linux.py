"""Policy routing by mark, source and interface, in the model and in Linux (K-7.9)."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from packets import ip, net

from kpsim import rng
from kpsim.addresses import Family
from kpsim.dialects.iptables import parse
from kpsim.lab.node import LabNode
from kpsim.lab.wires import Shot
from kpsim.netfilter import Disposition, Netns, Walk, walk
from kpsim.nodes import Machine
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.routing import Interface, InterfaceKind, OwnAddress, PolicyRule, Route, RouteKind, Routing
from kpsim.sysctls import Sysctls

pytestmark = pytest.mark.kernel
V4, V6 = Family.IPV4, Family.IPV6

ADDRESSES = {
    V4: {
        "eth0": "192.168.0.1/24", "eth1": "10.46.0.1/16", "cni0": "10.180.0.1/24", "gw0": "192.168.0.254", "gw1": "10.46.0.254", "any": "0.0.0.0/0",
        "lo": "127.0.0.1/8",
    },
    V6: {
        "eth0": "2001:db8::1/64", "eth1": "2001:db8:46::1/64", "cni0": "fd00:180::1/64", "gw0": "2001:db8::ff",
        "gw1": "2001:db8:46::ff", "any": "::/0", "lo": "::1/128",
    },
}  # fmt: skip
SOURCES = {
    V4: ("203.0.113.9", "192.168.0.9", "10.46.0.9", "10.180.0.5", "10.180.0.6", "198.51.100.1"),
    V6: ("2001:db8:71::9", "2001:db8::9", "2001:db8:46::9", "fd00:180::5", "fd00:180::6", "2001:db8:72::1"),
}
OWN = {V4: ("192.168.0.1", "10.46.0.1", "10.180.0.1"), V6: ("2001:db8::1", "2001:db8:46::1", "fd00:180::1")}
#: marks by source port, where a packet comes in and where a process sends
MARKS = """*mangle
-A PREROUTING -p udp -m udp --sport 1001 -j MARK --set-xmark 0x80/0x80
-A PREROUTING -p udp -m udp --sport 1002 -j MARK --set-xmark 0x81/0xffffffff
-A OUTPUT -p udp -m udp --sport 1001 -j MARK --set-xmark 0x80/0x80
-A OUTPUT -p udp -m udp --sport 1002 -j MARK --set-xmark 0x81/0xffffffff
COMMIT
*filter
-A OUTPUT -p udp -m udp --sport 1003 -j MARK --set-xmark 0x80/0x80
-A OUTPUT -p udp -m udp --dport 99 -j REJECT
-A FORWARD -p udp -m udp --dport 99 -j REJECT
COMMIT
"""


class Draw:
    def __init__(self, seed: int) -> None:
        self._seed, self._count = seed, 0

    def of(self, *choices: Any) -> Any:
        self._count += 1
        return choices[rng.below(len(choices), self._seed, "policy", self._count)]


def drawn_machine(family: Family, seed: int) -> Machine:
    draw, known = Draw(seed), ADDRESSES[family]
    kinds = {"lo": InterfaceKind.LOOPBACK, "cni0": InterfaceKind.BRIDGE}
    interfaces = [
        Interface(name, (OwnAddress.parse(known[name]),), kinds.get(name, InterfaceKind.LINK))
        for name in ("lo", "eth0", "eth1", "cni0")
    ]
    any_, gateways = net(known["any"]), {"eth0": ip(known["gw0"]), "eth1": ip(known["gw1"])}
    networks = [net(known[name]) for name in ("eth0", "eth1", "cni0")] + [any_]
    routes = [Route(any_, "eth0", gateways["eth0"])]
    for table in (100, 101):
        for network in networks:
            kind = draw.of(
                None,
                None,
                RouteKind.UNICAST,
                RouteKind.UNICAST,
                RouteKind.THROW,
                RouteKind.UNREACHABLE,
                RouteKind.BLACKHOLE,
            )
            if kind is RouteKind.UNICAST:
                device = draw.of("eth0", "eth1")
                routes.append(Route(network, device, gateways[device], table=table))
            elif kind is not None:
                routes.append(Route(network, kind=kind, table=table))
    rules = [PolicyRule(family, 0, 255), PolicyRule(family, 32766, 254)]
    for priority in range(10, 10 + draw.of(1, 2, 4)):
        mark, mask = draw.of((0, 0), (0x80, 0x80), (0x80, 0xFF), (0x81, 0xFFFFFFFF), (0x80, 0xFFFFFFFF))
        refusing = draw.of(*[RouteKind.UNICAST] * 6, RouteKind.UNREACHABLE, RouteKind.PROHIBIT, RouteKind.BLACKHOLE)
        rules.append(
            PolicyRule(
                family, priority * 10, draw.of(100, 101, 254), refusing,
                draw.of(None, None, *networks[:3]), draw.of(None, None, None, *networks[:3]), draw.of("", "", "eth0", "eth1", "cni0", "lo"),
                mark, mask, draw.of(False, False, False, True), draw.of(-1, -1, -1, 0, 24) if refusing is RouteKind.UNICAST else -1,
            )
        )  # fmt: skip
    sysctls = Sysctls(
        rp_filter=draw.of(0, 0, 1, 2), src_valid_mark=draw.of(False, True), accept_local=draw.of(False, True)
    )
    return Machine(Routing(interfaces, routes, rules), sysctls, "eth0", "cni0", (net(known["cni0"]),))


def packets(family: Family, seed: int) -> Iterator[Packet]:
    draw, own = Draw(seed + 1000), OWN[family]
    for _ in range(150):
        local = draw.of(True, False, False)
        source = draw.of("", *own) if local else draw.of(*SOURCES[family], *own)
        destination = draw.of(*SOURCES[family], *SOURCES[family], *own)
        by = "" if local else draw.of("eth0", "eth1", "cni0")
        yield Packet(
            family,
            "udp",
            ip(source) if source else 0,
            ip(destination),
            draw.of(1000, 1001, 1002, 1003),
            draw.of(9, 9, 99),
            in_interface=by,
        )


def told(outcome: Walk) -> str:
    match outcome.disposition:
        case Disposition.FORWARDED:
            return f"{outcome.packet.source} by {outcome.packet.out_interface}"
        case Disposition.DELIVERED:
            return f"{outcome.packet.source} here"
        case _:
            return ""


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("family", Family)
def test_rules_decide_which_table_is_asked(kernel: None, family: Family, seed: int) -> None:
    machine = drawn_machine(family, seed)
    rules, differences = parse(MARKS, family), []
    with closing(LabNode(machine, family)) as linux:
        linux.load(rules)
        linux.add_pods(map(ip, SOURCES[family][3:5]))
        netns = Netns("n", machine.routing, machine.sysctls)
        netns.load_rules(rules)
        for number, packet in enumerate(packets(family, seed)):
            outcome = walk(netns, packet, now_ns=0, chooser=SeededChooser(1, number), local=not packet.in_interface)
            sent = packet
            if not packet.saddr and not packet.in_interface:
                sent = replace(packet, saddr=machine.routing.source_for(family, packet.daddr) or 0)
                if not sent.saddr:
                    continue
            if not packet.in_interface:  # a process that is bound to its source, which rules see then
                linux._wires._process.bind((packet.source, 0))
            [heard], _ = linux.transmit([Shot(sent)])
            seen = [s for s in heard.sightings if s.packet.related is None]
            in_linux = " and ".join(
                f"{s.packet.source} {'here' if s.where.name == 'SOCKET' else f'by {s.name}'}" for s in seen
            )
            if told(outcome) != in_linux:
                differences.append(
                    f"{packet} in by {packet.in_interface}: model {told(outcome)!r} {outcome.cause}, Linux {in_linux!r} {heard.error}"
                )
    assert "\n".join(differences) == "", [str(r) for r in machine.routing.rules]
