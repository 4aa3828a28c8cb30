"""Disagreements between the model and Linux that verifications found, each with its smallest case.

None may come back.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from kpsim.addresses import Family, parse_ip
from kpsim.conntrack import tuple_of
from kpsim.dialects.iptables import parse
from kpsim.lab.wires import Shot, Where
from kpsim.netfilter import Disposition
from kpsim.nodes import make_machine
from kpsim.packet import Packet
from kpsim.units import SECOND_NS
from kpsim.verify.twin import Exchange, Twin

V4, V6 = Family.IPV4, Family.IPV6
pytestmark = pytest.mark.kernel


@contextmanager
def twin(
    family: Family, rules: str, pod_cidrs: tuple[str, ...] = (), *, pods: tuple[str, ...] = (), silent: bool = False
) -> Iterator[Twin]:
    node_ip = "192.168.0.2" if family is V4 else "2001:db8::2"
    outside = [found for text in pods if (found := parse_ip(text))]
    made = Twin(make_machine([node_ip], pod_cidrs, pods=outside), family, silent=silent)
    try:
        assert made.load(parse(rules, family)) is None
        known = (parse_ip(text) for text in ("10.180.0.11", "10.180.0.12", "10.190.0.11", "fd00:180::11"))
        made.linux.add_pods(found[1] for found in known if found and found[0] is family)
        yield made
    finally:
        made.close()


def packet(family: Family, source: str, sport: int, destination: str, dport: int, interface: str = "") -> Packet:
    ends = []
    for text in (source, destination):
        parsed = parse_ip(text)
        assert parsed is not None
        ends.append(parsed[1])
    return Packet(family, "udp", ends[0], ends[1], sport, dport, in_interface=interface)


def agreed(exchange: Exchange) -> Exchange:
    assert exchange.differences == ()
    return exchange


LOCALHOST_DNAT = """*nat
-A OUTPUT -d 2001:db8::99/128 -p udp -j DNAT --to-destination {endpoint}
-A POSTROUTING -j MASQUERADE
COMMIT
"""


def test_an_answer_un_nated_to_localhost_of_ipv6_leaves_again() -> None:
    """K-7.1: the reply is lost; how: only routes of the interface that it came in by count for ::1."""
    with twin(V6, LOCALHOST_DNAT.format(endpoint="2001:db8::5")) as both:
        first = agreed(both.send(Shot(packet(V6, "::1", 5000, "2001:db8::99", 80))))
        answer = first.answer()
        assert answer is not None
        lost = agreed(both.send(Shot(answer)))
        assert (lost.walk.disposition, lost.walk.packet.destination) == (Disposition.FORWARDED, "::1")


def test_an_answer_un_nated_to_localhost_of_ipv6_is_lost_on_a_bridge() -> None:
    """As above; no route of the bridge leads there, and a bridge tells nobody."""
    with twin(V6, LOCALHOST_DNAT.format(endpoint="fd00:180::11"), ("fd00:180::/64",)) as both:
        answer = agreed(both.send(Shot(packet(V6, "::1", 5000, "2001:db8::99", 80)))).answer()
        assert answer is not None
        lost = agreed(both.send(Shot(answer)))
        assert (lost.walk.disposition, lost.heard.sightings) == (Disposition.DROPPED, ())


CLUSTER_IP = """*nat
-A PREROUTING -d 172.30.0.1/32 -p udp -j DNAT --to-destination 10.180.0.11
COMMIT
"""


def test_a_bridge_switches_what_it_translated_with_its_time_to_live() -> None:
    """K-2.6, bridge-nf-call-iptables=1."""
    with twin(V4, CLUSTER_IP, ("10.180.0.0/24",)) as both:
        seen = agreed(both.send(Shot(packet(V4, "10.180.0.12", 5000, "172.30.0.1", 80, "cni0")))).arrival
        assert seen is not None
        assert (seen.where, seen.packet.destination, seen.packet.ttl) == (Where.POD, "10.180.0.11", 64)


def test_pods_outside_the_subnet_of_their_bridge_are_routed() -> None:
    """Their neighbours send to the node, which spends a hop; what the bridge translates, it switches even to them."""
    rules = CLUSTER_IP.replace("10.180.0.11", "10.190.0.11")
    with twin(V4, rules, ("10.180.0.0/24",), pods=("10.190.0.11",)) as both:
        directly = agreed(both.send(Shot(packet(V4, "10.180.0.12", 5000, "10.190.0.11", 80, "cni0")))).arrival
        translated = agreed(both.send(Shot(packet(V4, "10.180.0.12", 5001, "172.30.0.1", 80, "cni0")))).arrival
        assert directly is not None and translated is not None
        assert (directly.packet.ttl, translated.packet.ttl) == (63, 64)


STICKY = """*nat
:KUBE-SEP-A - [0:0]
:KUBE-SEP-B - [0:0]
-A PREROUTING -d 172.30.0.1/32 -p udp -m recent --rcheck --seconds 600 --name A --mask 255.255.255.255 --rsource -j KUBE-SEP-A
-A PREROUTING -d 172.30.0.1/32 -p udp -m recent --rcheck --seconds 600 --name B --mask 255.255.255.255 --rsource -j KUBE-SEP-B
-A PREROUTING -d 172.30.0.1/32 -p udp -m statistic --mode random --probability 0.5 -j KUBE-SEP-A
-A PREROUTING -d 172.30.0.1/32 -p udp -j KUBE-SEP-B
-A KUBE-SEP-A -p udp -m recent --set --name A --mask 255.255.255.255 --rsource -j DNAT --to-destination 10.180.0.11
-A KUBE-SEP-B -p udp -m recent --set --name B --mask 255.255.255.255 --rsource -j DNAT --to-destination 10.180.0.12
COMMIT
"""


def test_a_martian_that_was_dropped_behind_its_dnat_is_remembered() -> None:
    """K-4.2, K-7.2: nothing is seen of it, yet its source is bound to an endpoint; the lists tell to which."""
    with twin(V4, STICKY, ("10.180.0.0/24",)) as both:
        for attempt in range(8):
            both.forget()
            martian = agreed(both.send(Shot(packet(V4, "10.180.0.1", 5000, "172.30.0.1", 80, "eth0"))))
            assert martian.walk.disposition is Disposition.DROPPED
            agreed(
                both.send(Shot(packet(V4, "10.180.0.1", 5001 + attempt, "172.30.0.1", 80)))
            )  # sent by a process, so it passes no PREROUTING
            sticky = agreed(both.send(Shot(packet(V4, "10.180.0.1", 6001 + attempt, "172.30.0.1", 80, "cni0"))))
            assert sticky.walk.disposition is Disposition.DROPPED  # and to the same
            assert [touch.match.action for touch in sticky.walk.effects.touched.recent][-2:] == ["rcheck", "set"]


def test_a_reset_to_localhost_of_ipv6_goes_by_the_wrong_door() -> None:
    """Explained: Linux' own answer to ::1 from another address of the node leaves by that address's interface."""
    with twin(V6, "*filter\nCOMMIT\n") as both:
        begun = packet(V6, "::1", 5000, "2001:db8::2", 81)
        begun.protocol = "tcp"
        answered = agreed(both.send(Shot(begun)))
        assert answered.walk.disposition is Disposition.DELIVERED
        assert {s.where for s in answered.heard.sightings} == {Where.SOCKET, Where.LINK}


@pytest.mark.parametrize("destination", ["192.168.0.255", "255.255.255.255", "10.180.0.255", "0.1.2.3"])
def test_broadcasts_are_for_the_node_too(destination: str) -> None:
    """Of any of its links. Destinations in 0/8 are like any other."""
    with twin(V4, "*nat\nCOMMIT\n", ("10.180.0.0/24",)) as both:
        sent = packet(V4, "203.0.113.7", 5000, destination, 9, "eth0")
        exchange = agreed(both.send(Shot(sent)))
        assert exchange.walk.disposition is (Disposition.FORWARDED if destination[0] == "0" else Disposition.DELIVERED)


@pytest.mark.parametrize(
    ("interface", "endpoint", "remembered", "disposition"),
    [
        ("eth0", "fd00:180::1", False, Disposition.DROPPED),
        ("cni0", "2001:db8:5::1", True, Disposition.DROPPED),  # off the bridge again
        ("cni0", "fd00:180::1", True, Disposition.FORWARDED),  # switched to a pod
    ],
)
def test_ipv6_sorts_martians_out_before_netfilter(
    interface: str, endpoint: str, remembered: bool, disposition: Disposition
) -> None:
    """K-7: no rule sees them, so no list remembers them. A bridge calls netfilter before IPv6, and may switch them."""
    sticky = STICKY.replace("172.30.0.1/32", "fd00:172:30::1/128").replace("10.180.0.1", endpoint)
    sticky = sticky.replace("255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
    with twin(V6, sticky, ("fd00:180::/64",)) as both:
        for address in ("fd00:180::11", "fd00:180::12"):
            both.linux.add_pods([packet(V6, address, 1, address, 1).saddr])
        martian = agreed(both.send(Shot(packet(V6, "::1", 5000, "fd00:172:30::1", 80, interface))))
        assert martian.walk.disposition is disposition
        assert any("::1" in both.linux.tool.remembered(name) for name in ("A", "B")) is remembered
        assert bool(martian.walk.effects.touched.recent) is remembered


def test_a_node_without_any_address_of_ipv4_sends_from_nowhere() -> None:
    """K-2.2: a device without address uses another's as source. If the node has none at all, it stays 0.0.0.0."""
    made = Twin(make_machine([]), V4)
    try:
        assert (
            made.load(
                parse("*nat\n-A OUTPUT -d 172.30.0.1/32 -p udp -j DNAT --to-destination 10.180.0.11\nCOMMIT\n", V4)
            )
            is None
        )
        sent = agreed(made.send(Shot(packet(V4, "0.0.0.0", 5000, "172.30.0.1", 80))))
        assert (sent.walk.disposition, sent.walk.packet.source) == (Disposition.FORWARDED, "0.0.0.0")
        answer = sent.answer()
        assert answer is not None
        assert agreed(made.send(Shot(answer))).walk.disposition is Disposition.DROPPED  # no machine has that address
    finally:
        made.close()


def test_a_syn_waits_no_longer_than_a_repeated_segment() -> None:
    """CT-4.1: before the first ACK no window is known, which counts as a closed one."""
    machine = make_machine(["192.168.0.2"], ("10.180.0.0/24",))
    machine = replace(machine, sysctls=replace(machine.sysctls, tcp_timeout_max_retrans_ns=50 * SECOND_NS))
    both = Twin(machine, V4)
    try:
        assert (
            both.load(parse(LOCALHOST_DNAT.replace("2001:db8::99/128", "192.0.2.9").format(endpoint="10.180.0.11"), V4))
            is None
        )
        sent = replace(packet(V4, "203.0.113.9", 40000, "10.180.0.11", 80, "eth0"), protocol="tcp")
        both.linux.add_pods([sent.daddr])
        seen = agreed(both.send(Shot(sent)))
        assert seen.walk.effects.created is not None
        [real] = both.linux.conntrack.get_all([tuple_of(sent)])
        assert real is not None
        assert 47 <= real.seconds_left <= 50
    finally:
        both.close()


@pytest.mark.parametrize("kind", [128, 129, 139, 140])
def test_every_informational_message_of_ipv6_may_be_refused(kind: int) -> None:
    """K-3.3: REJECT tells the sender of a node information query as it tells the sender of a ping."""
    rules = "*filter\n-A FORWARD -d fd00:180::11/128 -p ipv6-icmp -j REJECT\nCOMMIT\n"
    with twin(V6, rules, ("fd00:180::/64",)) as both:
        sent = packet(V6, "2001:db8:71::7", 7, "fd00:180::11", 0, "eth0")
        sent = replace(sent, protocol="icmpv6", icmp_type=kind)
        exchange = agreed(both.send(Shot(sent), canary=True))
        assert exchange.walk.disposition is Disposition.REJECTED


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
def test_routing_tells_of_no_hop_left_whatever_the_checksum(family: Family) -> None:
    """K-3.3: only REJECT looks at the checksum before it answers."""
    rules = "*filter\n-A FORWARD -m conntrack --ctstate DNAT -j DROP\nCOMMIT\n"
    pods, pod, client = (
        (("10.180.0.0/24",), "10.180.0.11", "203.0.113.7") if family is V4
        else (("fd00:180::/64",), "fd00:180::11", "2001:db8:71::7")
    )  # fmt: skip
    with twin(family, rules, pods) as both:
        sent = replace(packet(family, client, 40000, pod, 80, "eth0"), ttl=1, checksum_ok=False)
        exchange = agreed(both.send(Shot(sent), canary=True))
        assert exchange.walk.answer is not None


REFUSED_LATER = """*nat
-A PREROUTING -p tcp -m tcp --dport 80 -j MARK --set-xmark 0x4000/0x4000
-A PREROUTING -p tcp -m tcp --dport 80 -j DNAT --to-destination {endpoint}
-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE
COMMIT
*filter
-A FORWARD -p tcp -m tcp --dport 8080 -m mark ! --mark 0x4000/0x4000 -j REJECT --reject-with tcp-reset
COMMIT
"""


@pytest.mark.parametrize(
    ("family", "client", "address", "endpoint", "pods"),
    [
        (V4, "203.0.113.7", "198.51.100.99", "10.180.0.11:8080", "10.180.0.0/24"),
        (V6, "2001:db8:9::7", "2001:db8:7::99", "[fd00:180::11]:8080", "fd00:180::/64"),
    ],
)
def test_the_reset_of_a_rule_is_seen_where_the_nodes_own_are_silenced(
    family: Family, client: str, address: str, endpoint: str, pods: str
) -> None:
    """K-3.2, K-20.1: a repeated SYN, refused by a rule that lets the first one pass, gets its reset from the address that it
    dialled. The lab took this reset for one that the node sends by itself.
    """
    with twin(family, REFUSED_LATER.format(endpoint=endpoint), (pods,), silent=True) as both:
        syn = replace(packet(family, client, 40000, address, 80, "eth0"), protocol="tcp", tcp_flags=frozenset({"SYN"}))
        assert agreed(both.send(Shot(syn, 1_000_000))).walk.disposition is Disposition.FORWARDED
        again = agreed(both.send(Shot(syn, 1_000_000)))
        assert (again.walk.disposition, again.walk.with_) == (Disposition.REJECTED, "tcp-reset")
        [seen] = again.heard.sightings
        assert (seen.where, seen.packet.source, "RST" in seen.packet.tcp_flags) == (Where.LINK, address, True)
