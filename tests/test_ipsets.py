"""Which packets ``-m set`` finds in an ipset: the parts of a packet that follow from a set's type and the directions.

All of it was measured with ipset 7.17 and iptables 1.8.9.
"""

from dataclasses import replace

import pytest
from packets import CLIENT, POD, ip, net, node, packet, rule, ruleset, run, table

from kpsim.addresses import Family
from kpsim.maps import Map
from kpsim.netfilter import Netns
from kpsim.packet import Packet
from kpsim.programmed import Programmed
from kpsim.ruleset import Counter, Element, Field, Key, Masked, NamePattern, Set, SetFlags, make_ipset, set_match
from kpsim.units import SECOND_NS

IPV4 = Family.IPV4
TCP = packet(CLIENT, POD, sport=40000, dport=80)
UDP, SCTP, DCCP = (replace(TCP, protocol=name) for name in ("udp", "sctp", "dccp"))
PING = packet(CLIENT, POD, protocol="icmp", icmp_type=8, icmp_code=1)
GRE = packet(CLIENT, POD, protocol="gre")


def network(text: str) -> tuple[int, int]:
    return net(text).base, net(text).last


def hashed(kind: str, *keys: Key, nomatch: tuple[Key, ...] = (), **more: object) -> Set:
    elements = Map({**dict.fromkeys(keys, Element()), **dict.fromkeys(nomatch, Element(nomatch=True))})
    made = make_ipset("S", kind, IPV4, elements)
    assert made.ipset is not None
    return replace(made, ipset=replace(made.ipset, **more)) if more else made  # type: ignore[arg-type]


def namespace(of: Set, directions: str, *, negate: bool = False) -> Netns:
    asked = rule(set_match(of, directions.split(","), negate=negate), Counter("found"))
    netns = node()
    netns.load(Programmed.of(ruleset(table("filter", FORWARD=(asked,))), Map({of.name: of})))
    return netns


def is_found(netns: Netns, sent: Packet, now_ns: int = 0) -> bool:
    outcome = run(netns, replace(sent, in_interface="eth0"), now_ns, commit=False)
    return bool(outcome.effects.touched.counters)


def found(of: Set, directions: str, sent: Packet, *, negate: bool = False) -> bool:
    return is_found(namespace(of, directions, negate=negate), sent)


@pytest.mark.parametrize(
    ("of", "directions", "sent", "expected"),
    [
        (hashed("hash:ip", (ip(POD),)), "dst", TCP, True),
        (hashed("hash:ip", (ip(POD),)), "src", TCP, False),
        (hashed("hash:ip", (ip(CLIENT),)), "src", GRE, True),
        (hashed("hash:ip,port", (ip(POD), "tcp", 80)), "dst,dst", TCP, True),
        (hashed("hash:ip,port", (ip(POD), "tcp", 80)), "dst,dst", UDP, False),
        (hashed("hash:ip,port", (ip(CLIENT), "tcp", 80)), "src,dst", TCP, True),
        (hashed("hash:ip,port", (ip(CLIENT), "tcp", 40000)), "src,src", TCP, True),
        (hashed("hash:ip,port", (ip(POD), "sctp", 80)), "dst,dst", SCTP, True),
        # of ICMP the type and the code, in both directions; of a protocol whose ports are not read, 0
        (hashed("hash:ip,port", (ip(POD), "icmp", 8 << 8 | 1)), "dst,dst", PING, True),
        (hashed("hash:ip,port", (ip(POD), "icmp", 8 << 8 | 1)), "dst,src", PING, True),
        (hashed("hash:ip,port", (ip(POD), "icmp", 8 << 8)), "dst,dst", PING, False),
        (hashed("hash:ip,port", (ip(POD), "gre", 0)), "dst,dst", GRE, True),
        (hashed("hash:ip,port", (ip(POD), "dccp", 80)), "dst,dst", DCCP, False),
        (hashed("hash:ip,port", (ip(POD), "dccp", 0)), "dst,dst", DCCP, True),
        (hashed("hash:ip,port,ip", (ip(POD), "tcp", 80, ip(CLIENT))), "dst,dst,src", TCP, True),
        (hashed("hash:ip,port,ip", (ip(POD), "tcp", 80, ip(CLIENT))), "dst,dst,dst", TCP, False),
        (hashed("hash:ip,port,net", (ip(POD), "tcp", 80, network("203.0.113.0/24"))), "dst,dst,src", TCP, True),
        (hashed("hash:ip,port,net", (ip(POD), "tcp", 80, network("203.0.114.0/24"))), "dst,dst,src", TCP, False),
        (hashed("hash:net,port", (network("10.180.0.0/16"), "tcp", 80)), "dst,dst", TCP, True),
        (hashed("hash:net,net", (network("10.180.0.0/16"), network("203.0.113.0/24"))), "dst,src", TCP, True),
        (hashed("hash:net,net", (network("10.180.0.0/16"), network("203.0.113.0/24"))), "src,dst", TCP, False),
        (hashed("hash:net,port,net", (network("10.180.0.0/16"), "tcp", 80, ip(CLIENT))), "dst,dst,src", TCP, True),
        (hashed("hash:net,iface", (network("203.0.113.0/24"), "eth0")), "src,src", TCP, True),
        (hashed("hash:net,iface", (network("203.0.113.0/24"), "eth0")), "src,dst", TCP, False),
        (hashed("hash:ip,mark", (ip(POD), 0x10)), "dst,src", replace(TCP, mark=0x10), True),
        (hashed("hash:ip,mark", (ip(POD), 0x10)), "dst,dst", TCP, False),
        (hashed("hash:ip,mark", (ip(POD), 0x10), mark_mask=0xF0), "dst,dst", replace(TCP, mark=0x11), True),
        # a netmask is of the addresses in the set: the others are compared under it
        (hashed("hash:ip", (ip("10.180.0.0"),), mask=0xFFFFFF00), "dst", TCP, True),
        (make_ipset("S", "bitmap:ip", None, [(ip(POD),)], bounds=network("10.180.0.0/24")), "dst", TCP, True),
        # bitmaps of ports are asked for TCP and UDP alone
        (make_ipset("S", "bitmap:port", None, [(80,)]), "dst", TCP, True),
        (make_ipset("S", "bitmap:port", None, [(80,)]), "src", TCP, False),
        (make_ipset("S", "bitmap:port", None, [(80,)]), "dst", UDP, True),
        (make_ipset("S", "bitmap:port", None, [(80,)]), "dst", SCTP, False),
        (make_ipset("S", "bitmap:port", None, [(0,)]), "dst", PING, False),
        # more directions than dimensions are ignored; with fewer no packet is in the set
        (hashed("hash:ip", (ip(POD),)), "dst,src,src", TCP, True),
        (hashed("hash:ip,port", (ip(POD), "tcp", 80)), "dst", TCP, False),
    ],
)  # fmt: skip
def test_type_and_directions_say_which_parts_of_a_packet_are_looked_up(of, directions, sent, expected):
    """K-21.1. A negated match is the opposite, also where the packet lacks a part."""
    assert found(of, directions, sent) is expected
    assert found(of, directions, sent, negate=True) is not expected


def test_the_narrowest_network_decides_and_an_exception_is_not_in_the_set():
    """K-21.1: the tests of ip_set_hash_gen.h; of two networks in a key the first is tried from narrow to wide."""
    wide, narrow, host = network("203.0.0.0/16"), network("203.0.113.0/24"), ip(CLIENT)
    assert found(hashed("hash:net", (wide,)), "src", TCP)
    assert not found(hashed("hash:net", (wide,), nomatch=((narrow,),)), "src", TCP)
    assert found(hashed("hash:net", (wide,), nomatch=((narrow,),)), "src", TCP, negate=True)
    assert found(hashed("hash:net", (wide,), (host,), nomatch=((narrow,),)), "src", TCP)
    assert found(hashed("hash:net", (narrow,), nomatch=((wide,),)), "src", TCP)
    every = network("10.0.0.0/8")
    assert not found(hashed("hash:net,net", (wide, ip(POD)), nomatch=((narrow, every),)), "src,dst", TCP)
    assert found(hashed("hash:net,net", (narrow, every), nomatch=((wide, ip(POD)),)), "src,dst", TCP)


def test_of_networks_with_interfaces_the_narrowest_alone_counts():
    """K-21.1: Linux does not look at wider networks once one has the address, whatever its interface."""
    wide, narrow = network("203.0.0.0/16"), network("203.0.113.0/24")
    assert found(hashed("hash:net,iface", (wide, "eth0")), "src,src", TCP)
    assert not found(hashed("hash:net,iface", (wide, "eth0"), (narrow, "eth1")), "src,src", TCP)
    assert found(hashed("hash:net,iface", (wide, "eth1"), (narrow, "eth1"), (narrow, "eth0")), "src,src", TCP)
    assert found(hashed("hash:net,iface", (wide, "eth1"), (narrow, NamePattern("eth"))), "src,src", TCP)


def test_an_element_lives_as_long_as_the_listing_said():
    """ipset(8), timeout. Where a narrower network has expired, a wider one decides."""
    narrow, wide = network("203.0.113.0/24"), network("203.0.0.0/16")
    elements = {(narrow,): Element(nomatch=True, timeout_ns=5 * SECOND_NS), (wide,): Element(timeout_ns=9 * SECOND_NS)}
    made = make_ipset("S", "hash:net", IPV4, Map(elements))
    netns = namespace(replace(made, flags=made.flags | SetFlags.TIMEOUT, timeout_ns=60 * SECOND_NS), "src")
    netns.recall(IPV4, 100 * SECOND_NS)
    assert [is_found(netns, TCP, (100 + after) * SECOND_NS) for after in (0, 4, 5, 8, 9)] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_the_key_of_a_look_up_follows_from_the_set():
    asked = set_match(hashed("hash:ip,port,ip"), ["dst", "dst", "src"])
    assert asked.key == (Field.DADDR, Field.L4PROTO, Field.DPORT_OR_TYPE, Field.SADDR)
    assert set_match(hashed("hash:ip", mask=0xFFFF0000), ["src"]).key == (Masked(Field.SADDR, 0xFFFF0000),)
