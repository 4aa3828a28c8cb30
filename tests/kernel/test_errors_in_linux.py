"""What is told to senders of translated connections, and by whom, in the model and in Linux (K-2.4, K-3.1, K-3.2)."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from labs import agreed, answered, passed
from packets import CLIENT, NODE, OTHER_POD, POD, REMOTE_POD, flags, packet

from kpsim.addresses import Family
from kpsim.conntrack import tuple_of
from kpsim.lab.wires import Shot
from kpsim.netfilter import Disposition
from kpsim.packet import Packet
from kpsim.verify.twin import Exchange, Twin

pytestmark = pytest.mark.kernel
Maker = Callable[..., Twin]
V4 = Family.IPV4
VIP, OTHER_VIP = "172.30.0.10", "172.30.0.11"
TIME_EXCEEDED, PORT_UNREACHABLE = (11, 0), (3, 3)


def ping(source: str, destination: str, number: int, *, by: str = "", kind: int = 8) -> Packet:
    return packet(source, destination, 0, protocol="icmp", sport=number, came_by=by, icmp_type=kind)


def error_about(about: Packet, source: str, kind: tuple[int, int], by: str) -> Packet:
    made = packet(source, about.source, 0, protocol="icmp", sport=0, came_by=by, icmp_type=kind[0], icmp_code=kind[1])
    made.related = about
    return made


def told(exchange: Exchange) -> Packet:
    """The error that came out of the node."""
    [seen] = [s.packet for s in agreed(exchange).heard.sightings if s.packet.related is not None]
    return seen


MASQUERADED = """*nat
-A POSTROUTING -s 10.180.0.0/24 -o eth0 -j MASQUERADE
COMMIT
"""


def test_an_error_about_a_ping_carries_the_id_that_its_sender_chose(twin_of: Maker) -> None:
    """K-3.1: two pods ping with one id, so the second's was changed on the way out."""
    twin = twin_of(MASQUERADED)
    passed(twin.send(Shot(ping(POD, CLIENT, 77, by="cni0"))))
    changed = passed(twin.send(Shot(ping(OTHER_POD, CLIENT, 77, by="cni0"))))
    assert (changed.source, changed.sport == 77) == (NODE, False)
    error = told(twin.send(Shot(error_about(changed, "198.51.100.1", TIME_EXCEEDED, "eth0"))))
    assert error.related is not None
    assert (error.destination, error.related.source, error.related.sport) == (OTHER_POD, OTHER_POD, 77)


def test_a_ping_of_the_node_whose_id_is_taken_gets_the_first_free_one(twin_of: Maker) -> None:
    """K-2.4: a pod's ping was masqueraded with the id that a process of the node uses next."""
    twin = twin_of(MASQUERADED)
    passed(twin.send(Shot(ping(POD, CLIENT, 77, by="cni0"))))
    own = ping(NODE, CLIENT, 77)
    first = passed(twin.send(Shot(own)))
    assert first.sport == 0
    entry = twin.linux.conntrack.get(tuple_of(own))
    assert entry is not None and entry.dst_nat and not entry.src_nat


def test_a_ping_that_arrives_gets_the_first_free_id_too(twin_of: Maker) -> None:
    """K-2.4: one pings a service address that leads to the pod, and then the pod."""
    twin = twin_of(f"*nat\n-A PREROUTING -d {VIP}/32 -j DNAT --to-destination {POD}\nCOMMIT\n")
    passed(twin.send(Shot(ping(CLIENT, VIP, 77, by="eth0"))))
    second = passed(twin.send(Shot(ping(CLIENT, POD, 77, by="eth0"))))
    assert second.sport == 0
    third = passed(twin.send(Shot(ping(CLIENT, POD, 0, by="eth0"))))
    assert third.sport == 1
    answer = answered(twin.send(Shot(ping(CLIENT, POD, 78, by="eth0"))))
    assert passed(twin.send(Shot(answer))).sport == 78


def test_two_service_addresses_of_one_pod_are_pinged_with_one_id(twin_of: Maker) -> None:
    """K-2.4: DNAT of a ping looks for a free id as well."""
    rules = "".join(f"-A PREROUTING -d {vip}/32 -j DNAT --to-destination {POD}\n" for vip in (VIP, OTHER_VIP))
    twin = twin_of(f"*nat\n{rules}COMMIT\n")
    passed(twin.send(Shot(ping(CLIENT, VIP, 77, by="eth0"))))
    second = twin.send(Shot(ping(CLIENT, OTHER_VIP, 77, by="eth0")))
    assert passed(second).sport == 0
    answer = answered(twin.send(Shot(ping(CLIENT, OTHER_VIP, 77, by="eth0"))))
    back = passed(twin.send(Shot(answer)))
    assert (back.source, back.sport) == (OTHER_VIP, 77)


TRANSLATED = f"""*nat
-A PREROUTING -d {VIP}/32 -p udp -m udp --dport 80 -j DNAT --to-destination {{endpoint}}:8080
COMMIT
*filter
-A FORWARD -s {{endpoint}}/32 -m mark --mark 0x0/0x1 -m ttl --ttl-lt 40 -j REJECT
COMMIT
"""


@pytest.mark.parametrize("ttl", [1, 30])
def test_an_error_about_an_answer_comes_from_the_node(twin_of: Maker, ttl: int) -> None:
    """K-3.1: not from the service address, for the connection is translated, not masqueraded."""
    twin = twin_of(TRANSLATED.format(endpoint=POD))
    request = packet(CLIENT, VIP, 80, protocol="udp", came_by="eth0")
    answer = replace(answered(twin.send(Shot(request))), ttl=ttl)
    error = told(twin.send(Shot(answer)))
    assert error.related is not None
    assert (error.source, error.destination, error.related.source) == ("10.180.0.1", POD, POD)


def test_an_error_about_a_request_comes_from_the_service_address(twin_of: Maker) -> None:
    twin = twin_of(TRANSLATED.format(endpoint=POD))
    request = replace(packet(CLIENT, VIP, 80, protocol="udp", came_by="eth0"), ttl=1)
    error = told(twin.send(Shot(request)))
    assert error.related is not None
    assert (error.source, error.related.destination, error.related.dport) == (VIP, VIP, 80)


def test_an_error_about_a_masqueraded_answer_comes_from_the_masquerade_address(twin_of: Maker) -> None:
    """The sender sees the address that it answered."""
    twin = twin_of(MASQUERADED)
    request = packet(POD, CLIENT, 80, protocol="udp", came_by="cni0")
    answer = replace(answered(twin.send(Shot(request))), ttl=1)
    assert told(twin.send(Shot(answer))).source == NODE


MARKING = """*mangle
-A {hook} -p {protocol} -m conntrack --ctstate RELATED -j CONNMARK --set-xmark 0x7/0xffffffff
COMMIT
*filter
-A FORWARD -p udp -m udp --dport 80 -m ttl --ttl-lt 40 -j REJECT
-A FORWARD -p tcp -m tcp --dport 80 -m ttl --ttl-lt 40 -j REJECT --reject-with tcp-reset
COMMIT
"""


@pytest.mark.parametrize("hook", ["OUTPUT", "POSTROUTING"])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_an_answer_to_a_refused_packet_marks_its_connection(twin_of: Maker, hook: str, protocol: str) -> None:
    """K-3.2: the answer passes OUTPUT and POSTROUTING with the connection, and CONNMARK there writes it."""
    twin = twin_of(MARKING.format(hook=hook, protocol="icmp" if protocol == "udp" else "tcp"))
    request = packet(CLIENT, REMOTE_POD, 80, protocol=protocol, came_by="eth0", tcp_flags=flags("SYN"))
    answer = answered(twin.send(Shot(request, 100)))
    passed(twin.send(Shot(answer, 500, 101)))
    later = replace(request, ttl=30, tcp_flags=flags("ACK"))
    refused = agreed(twin.send(Shot(later, 101, 501)))
    assert refused.walk.disposition is Disposition.REJECTED
    entry = twin.linux.conntrack.get(tuple_of(request))
    assert entry is not None and entry.mark == 7


RESETTING = f"""*nat
-A PREROUTING -d {VIP}/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination {{endpoint}}:8080
COMMIT
*filter
-A OUTPUT -p tcp -m tcp --tcp-flags RST RST -j DROP
-A {{hook}} -p tcp -m tcp --dport 8080 -j REJECT --reject-with tcp-reset
COMMIT
"""


@pytest.mark.parametrize(("endpoint", "hook"), [(POD, "FORWARD"), (REMOTE_POD, "FORWARD"), ("10.180.0.1", "INPUT")])
def test_a_reset_to_a_bridge_port_leaves_by_it_from_the_endpoint(twin_of: Maker, endpoint: str, hook: str) -> None:
    """K-3.1: no hook sees it, so the rule against resets in OUTPUT does not either."""
    twin = twin_of(RESETTING.format(endpoint=endpoint, hook=hook))
    refused = agreed(twin.send(Shot(packet(OTHER_POD, VIP, 80, came_by="cni0", tcp_flags=flags("SYN")), 100)))
    [reset] = [s.packet for s in refused.heard.sightings]
    assert (reset.source, reset.sport, reset.destination) == (endpoint, 8080, OTHER_POD)


def test_a_reset_to_a_routed_interface_passes_output(twin_of: Maker) -> None:
    twin = twin_of(RESETTING.format(endpoint=POD, hook="FORWARD"))
    refused = agreed(twin.send(Shot(packet(CLIENT, VIP, 80, came_by="eth0", tcp_flags=flags("SYN")), 100)))
    assert refused.heard.sightings == ()


_LIFE = (("SYN", 0), ("SYN ACK", 1), ("ACK", 0), ("FIN ACK", 0), ("ACK", 1), ("FIN ACK", 1), ("ACK", 0))
_NUMBERS = ((100, 0), (500, 101), (101, 501), (101, 501), (501, 102), (501, 102), (102, 502))


@pytest.mark.parametrize("by_the_server", [False, True])
@pytest.mark.parametrize("segments", [1, 2, 3, 4, 6, 7])
def test_a_connection_that_the_node_resets_is_closed(twin_of: Maker, segments: int, by_the_server: bool) -> None:
    """K-3.1: in any state, whoever sent the packet; a SYN then finds it as behind an RST of the server (K-1.8)."""
    twin = twin_of(MARKING.format(hook="OUTPUT", protocol="udp").replace("--dport 80 ", ""))
    request = packet(CLIENT, REMOTE_POD, 80, came_by="eth0", tcp_flags=flags("SYN"))
    answer = replace(request, saddr=request.daddr, daddr=request.saddr, sport=80, dport=request.sport)
    for (words, who), numbers in list(zip(_LIFE, _NUMBERS, strict=True))[:segments]:
        passed(twin.send(Shot(replace((request, answer)[who], tcp_flags=flags(words)), *numbers)))
    first = segments == 1 and not by_the_server
    sent = replace(answer if by_the_server else request, ttl=30, tcp_flags=flags("SYN" if first else "ACK"))
    numbers = (100, 0) if first else (501, 101) if by_the_server else (101, 501)
    agreed(twin.send(Shot(sent, *numbers)))
    entry = twin.linux.conntrack.get(tuple_of(request))
    assert entry is not None and (entry.state, entry.mark) == ("CLOSE", 0)
    agreed(twin.send(Shot(replace(request, tcp_flags=flags("SYN")), 9000, 0)))


@pytest.mark.parametrize("destination", ["192.168.0.255", "255.255.255.255", "224.0.0.1"])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_nobody_is_told_about_a_packet_to_many(twin_of: Maker, destination: str, protocol: str) -> None:
    """K-3.3: neither by REJECT nor by a reset."""
    with_ = "tcp-reset" if protocol == "tcp" else "icmp-port-unreachable"
    twin = twin_of(f"*filter\n-A INPUT -p {protocol} -j REJECT --reject-with {with_}\nCOMMIT\n")
    lost = agreed(twin.send(Shot(packet(CLIENT, destination, 9, protocol=protocol, came_by="eth0"), 5)))
    assert (lost.walk.disposition, lost.heard.sightings) == (Disposition.DROPPED, ())
