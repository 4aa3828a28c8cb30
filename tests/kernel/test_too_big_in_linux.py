"""Packets that are too big for their route, in the model and in Linux (K-7.10)."""

from contextlib import closing
from itertools import product

import pytest
from packets import ip, net

from kpsim.addresses import Family
from kpsim.dialects.iptables import parse
from kpsim.lab.node import LabNode
from kpsim.lab.wires import Shot
from kpsim.netfilter import Disposition, Netns, walk
from kpsim.nodes import Machine
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.routing import Interface, InterfaceKind, OwnAddress, Route, Routing
from kpsim.sysctls import Sysctls
from kpsim.verify.prediction import told

pytestmark = pytest.mark.kernel
V4, V6 = Family.IPV4, Family.IPV6
ENDS = {
    V4: {"eth0": "192.168.0.1/24", "eth1": "10.46.0.1/24", "lo": "127.0.0.1/8", "client": "192.168.0.9", "server": "10.46.0.9",
         "narrow": "10.47.0.9", "vip": "172.30.0.10", "any": "0.0.0.0/0"},
    V6: {"eth0": "2001:db8::1/64", "eth1": "2001:db8:46::1/64", "lo": "::1/128", "client": "2001:db8::9", "server": "2001:db8:46::9",
         "narrow": "2001:db8:47::9", "vip": "fd00:172:30::10", "any": "::/0"},
}  # fmt: skip
TO = ("server", "narrow", "vip", "client")
LENGTHS = (999, 1000, 1001, 1280, 1281, 1300, 1301, 1400, 1401, 1500)
RULES = """*nat
-A PREROUTING -d {vip} -p udp -j DNAT --to-destination {server}
-A OUTPUT -d {vip} -p udp -j DNAT --to-destination {server}
COMMIT
"""


def machine(family: Family, *, route_mtu: int) -> Machine:
    """eth0 takes 1500 bytes, eth1 takes 1400; the way to ``narrow`` takes ``route_mtu``. The service is beyond eth0."""
    ends = ENDS[family]
    interfaces = [
        Interface("lo", (OwnAddress.parse(ends["lo"]),), InterfaceKind.LOOPBACK),
        Interface("eth0", (OwnAddress.parse(ends["eth0"]),), mtu=1500), Interface("eth1", (OwnAddress.parse(ends["eth1"]),), mtu=1400),
    ]  # fmt: skip
    narrow = Route(net(ends["narrow"]), "eth1", ip(ends["server"]), mtu=route_mtu)
    return Machine(Routing(interfaces, [Route(net(ends["any"]), "eth0"), narrow]), Sysctls(), "eth0", "")


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("route_mtu", [1300, 1000])
def test_what_a_route_does_not_take(kernel: None, family: Family, local: bool, route_mtu: int) -> None:
    """A process's raw socket, as the lab has it, refuses what is longer than its interface takes; others divide it."""
    ends, made, differences = ENDS[family], machine(family, route_mtu=route_mtu), []
    source = ends["eth0"].partition("/")[0] if local else ends["client"]
    rules = parse(RULES.format(**ends), family)
    netns = Netns("n", made.routing, made.sysctls)
    netns.load_rules(rules)
    with closing(LabNode(made, family)) as linux:
        linux.load(rules)
        asked = product(TO, LENGTHS, [True] if family is V6 or local else [True, False])
        for sport, (to, length, dont_fragment) in enumerate(asked, 5000):
            packet = Packet(
                family, "udp", ip(source), ip(ends[to]), sport, 9, length=length, dont_fragment=dont_fragment,
                in_interface="" if local else "eth0",
            )  # fmt: skip
            outcome = walk(netns, packet, now_ns=0, chooser=SeededChooser(1, sport), local=local)
            [heard], strays = linux.transmit([Shot(packet)])
            errors = sorted(
                told(s.packet) + f" mtu {s.packet.mtu}" for s in [*heard.sightings, *strays] if s.packet.related
            )
            expected = [told(outcome.answer) + f" mtu {outcome.answer.mtu}"] if outcome.answer is not None else []
            came_out = any(s.packet.related is None for s in heard.sightings)
            forwarded = outcome.disposition is Disposition.FORWARDED
            here = (expected, forwarded, outcome.local_error if local else "")
            if here != (errors, came_out, heard.error):
                differences.append(
                    f"{to} {length} {dont_fragment}: model {here}, Linux {(errors, came_out, heard.error)}"
                )
    assert "\n".join(differences) == ""
