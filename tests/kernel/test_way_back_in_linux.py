"""``-m rpfilter`` on a packet whose source is the node's own address, in the model and in Linux."""

import struct
from ipaddress import ip_address

import pytest
from linux_flows import Router
from packets import node_netns, packet_between, rule, ruleset, run, table

from kpsim.addresses import Family
from kpsim.flowstate import Direction
from kpsim.packetpath.routing import Interface, OwnAddress, Routing
from kpsim.ruleset import Counter, ReversePath

OPTIONS = ("", "--accept-local", "--loose", "--loose --accept-local", "--invert", "--accept-local --invert")


@pytest.mark.kernel
@pytest.mark.parametrize("family", Family)
def test_an_own_address_is_wrong_unless_accepted_and_then_at_home_by_its_interface(
    family: Family, kernel: None
) -> None:
    own, tool = ("203.0.113.1", "iptables") if family is Family.IPV4 else ("2001:db8:71::1", "ip6tables")
    router = Router(family)
    try:
        linux = router._router
        linux.run(
            f"ip addr add {own}/{24 if family is Family.IPV4 else 64} dev outside".split() + ["nodad"] * (family == 6)
        )
        for words in OPTIONS:
            linux.run([tool, "-t", "raw", "-A", "PREROUTING", "-m", "rpfilter", *words.split()])
        for direction, name in ((Direction.ORIGINAL, "outside"), (Direction.REPLY, "inside")):
            linux.run([tool, "-t", "raw", "-Z"])
            ends = (ip_address(own).packed, router.server if direction is Direction.ORIGINAL else router.client)
            router.send_raw(direction, router.ip("udp", *ends, struct.pack("!HHHH", 1, 2, 8, 0)))
            listed = linux.run([tool, "-t", "raw", "-L", "PREROUTING", "-v", "-n", "-x"]).splitlines()[2:]
            matched = [int(line.split()[0]) for line in listed]
            assert matched == in_the_model(family, own, name)
    finally:
        router.close()


def in_the_model(family: Family, own: str, came_by: str) -> list[int]:
    """How often each rule matches."""
    flags = [
        {name: f"--{name.replace('_', '-')}" in words.split() for name in ("loose", "accept_local", "invert")}
        for words in OPTIONS
    ]
    rules = [rule(ReversePath(**each), Counter(str(number))) for number, each in enumerate(flags)]
    netns = node_netns("router", [], [])
    outside = Interface("outside", (OwnAddress.parse(f"{own}/{24 if family is Family.IPV4 else 64}"),))
    netns.routing = Routing([*netns.routing.interfaces.values(), outside, Interface("inside")])
    netns.load_rules(ruleset(table("raw", PREROUTING=tuple(rules)), family=family))
    outcome = run(netns, packet_between("udp", own, own, sport=1, dport=2, in_interface=came_by))
    counted = [name for name, _ in outcome.effects.touched.counters]
    return [counted.count(str(number)) for number in range(len(OPTIONS))]
