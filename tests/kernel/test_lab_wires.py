"""Packets that go into a node in Linux and come out: each is recognised, whatever the node does to it."""

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from labs import ENDS, number_of, shop_subject, shot

from kpsim.addresses import Family, Network, parse_network
from kpsim.lab.calls import LabError
from kpsim.lab.node import LabNode
from kpsim.lab.wires import Framed, Heard, Shot, Where
from kpsim.packet import Packet
from kpsim.packetpath.routing import Route, RouteKind, Routing
from kpsim.verify.prediction import told

pytestmark = pytest.mark.kernel

V4, V6 = Family.IPV4, Family.IPV6
_OF_ROUTES = {"EINVAL": RouteKind.BLACKHOLE, "EHOSTUNREACH": RouteKind.UNREACHABLE, "EACCES": RouteKind.PROHIBIT}
_PREFIXES = {V4: "198.51.{}.0/24", V6: "fd00:b{}::/64"}
_BEHIND = {V4: "198.51.{}.1", V6: "fd00:b{}::1"}


def _network(text: str) -> Network:
    found = parse_network(text)
    assert found is not None
    return found


@pytest.fixture(scope="module", params=list(Family), ids=lambda family: family.label)
def node(request: pytest.FixtureRequest, kernel: None) -> Iterator[LabNode]:
    """Without a default route, but with a way to the client, and with routes that refuse."""
    family = request.param
    machine = shop_subject(family).site.machine("node-1")
    refusing = [
        Route(_network(_PREFIXES[family].format(n)), kind=kind) for n, kind in enumerate(_OF_ROUTES.values(), 1)
    ]
    client = ENDS[family]["client"]
    routes = [Route(_network(f"{client}/{family.bits}"), "eth0"), *refusing]
    made = LabNode(replace(machine, routing=Routing(machine.routing.interfaces.values(), routes)), family)
    try:
        made.add_pods(number_of(ENDS[family][pod]) for pod in ("pod", "neighbour"))
        yield made
    finally:
        made.close()


def hear(node: LabNode, shots: list[Shot], *, wait: bool = True) -> list[Heard]:
    node.forget()
    heard, strays = node.transmit(shots, wait_for_last=wait)
    assert strays == []
    return heard


# --- tags --------------------------------------------------------------------------------------------------------------------


def test_tags_begin_anew_when_they_run_out(node: LabNode) -> None:
    most = (1 << 16 if node.family is V4 else 1 << 20) - 1
    node._wires._next_tag = most - 4
    for first in (20000, 21000):
        shots = [shot(node.family, "client", "pod", 9, sport=first + n, protocol="udp") for n in range(10)]
        heard = hear(node, shots)
        assert [[s.packet.sport for s in each.sightings] for each in heard] == [[first + n] for n in range(10)]
    assert node._wires._next_tag == 21


def test_a_batch_that_tags_cannot_tell_apart_is_refused(node: LabNode) -> None:
    most = 1 << 16 if node.family is V4 else 1 << 20
    one = Framed(shot(node.family, "client", "pod", 9))
    with pytest.raises(LabError, match=f"{most} packets in one batch: tags tell {most - 1} apart"):
        node._wires.transmit([one] * most)


def test_resets_belong_to_what_they_answer(node: LabNode) -> None:
    """A reset has no tag of its own. Clients that use the same port are told apart by their other end."""
    shots = [
        shot(node.family, source, "node", 4000 + n, sport=30000, by=by)
        for n in range(4) for source, by in (("client", "eth0"), ("pod", "cni0"), ("neighbour", "cni0"))
    ]  # fmt: skip
    for sent, heard in zip(shots, hear(node, shots), strict=True):
        arrived, reset = sorted((s.packet for s in heard.sightings), key=lambda packet: len(packet.tcp_flags))
        assert arrived.dport == sent.packet.dport
        assert reset.tcp_flags == {"RST", "ACK"}
        assert (reset.daddr, reset.sport) == (sent.packet.saddr, sent.packet.dport)


def test_what_nobody_sent_is_a_stray(node: LabNode) -> None:
    kind = socket.AF_INET if node.family is V4 else socket.AF_INET6
    with node.namespace.socket(kind, socket.SOCK_DGRAM, 0) as process:
        process.sendto(b"x", (ENDS[node.family]["client"], 1234))
    heard, strays = node.transmit([shot(node.family, "client", "pod", 9, sport=1234, protocol="udp")])
    assert [s.packet.dport for s in strays] == [1234]
    assert strays[0].where is Where.LINK
    assert [s.packet.dport for s in heard[0].sightings] == [9]


# --- packets -----------------------------------------------------------------------------------------------------------------


def every_protocol(family: Family) -> list[Packet]:
    """Packets of every protocol from the client to the pod."""
    ends = number_of(ENDS[family]["client"]), number_of(ENDS[family]["pod"])
    icmp = "icmp" if family is V4 else "icmpv6"
    echo, errors = (
        (8, ((3, 1), (3, 3), (11, 0), (12, 0))) if family is V4 else (128, ((1, 0), (1, 4), (2, 0), (3, 0), (4, 0)))
    )
    made = [Packet(family, protocol, *ends, 40000, 80) for protocol in ("tcp", "udp", "sctp")]
    made += [
        Packet(family, "tcp", *ends, 40000 + n, 80, frozenset(f.split()))
        for n, f in enumerate(("FIN ACK", "RST", "PSH ACK", "SYN ACK URG"), 1)
    ]
    made += [
        Packet(family, "sctp", *ends, 40000 + n, 80, sctp_chunk=c)
        for n, c in enumerate(("DATA", "ABORT", "COOKIE_ECHO", "SHUTDOWN"), 1)
    ]
    made += [Packet(family, protocol, *ends) for protocol in ("gre", "esp", "ospf", "253")]
    made.append(Packet(family, icmp, *ends, sport=7, icmp_type=echo))
    about = Packet(family, "udp", ends[1], ends[0], 50000, 53)
    made += [Packet(family, icmp, *ends, icmp_type=t, icmp_code=c, related=about.copy()) for t, c in errors]
    made.append(Packet(family, "udp", *ends, 40009, 80, checksum_ok=False))
    return made  # fmt: skip


def test_every_protocol_comes_out_as_it_went_in(node: LabNode) -> None:
    packets = [replace(packet, in_interface="eth0") for packet in every_protocol(node.family)]
    for packet, heard in zip(packets, hear(node, [Shot(each) for each in packets]), strict=True):
        [seen] = heard.sightings
        assert (seen.where, seen.name) == (Where.POD, "cni0")
        assert told(seen.packet) == told(replace(packet, ttl=63))
        assert seen.packet.checksum_ok is packet.checksum_ok


def test_numbers_of_tcp_stay(node: LabNode) -> None:
    sent = shot(node.family, "client", "pod")._replace(sequence=0xFFFF_FFF0, acknowledged=12345)
    [heard] = hear(node, [sent])
    assert [(s.sequence, s.acknowledged) for s in heard.sightings] == [(0xFFFF_FFF0, 12345)]


def test_a_pod_has_a_port_of_its_own(node: LabNode) -> None:
    shots = [shot(node.family, "client", pod, 9, protocol="udp") for pod in ("pod", "neighbour")]
    shots.append(shot(node.family, "pod", "neighbour", 9, by="cni0", protocol="udp"))
    addresses = [[s.address for s in heard.sightings] for heard in hear(node, shots)]
    pod, neighbour = (number_of(ENDS[node.family][name]) for name in ("pod", "neighbour"))
    assert addresses == [[pod], [neighbour], [neighbour]]


# --- what a local sender is told ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [*_OF_ROUTES, "ENETUNREACH", "EPERM", ""])
def test_a_process_is_told(node: LabNode, error: str) -> None:
    family = node.family
    number = [*_OF_ROUTES].index(error) + 1 if error in _OF_ROUTES else 9
    destination = "client" if error in ("EPERM", "") else _BEHIND[family].format(number)
    sent = shot(family, "node", destination, 9, by="", protocol="udp")
    rule = ["OUTPUT", "-p", "udp", "--dport", "9", "-j", "DROP"]
    command = [node.variant.command(family), "--wait"]
    if error == "EPERM":
        node.namespace.run([*command, "-I", *rule])
    try:
        [heard] = hear(node, [sent], wait=False)
    finally:
        if error == "EPERM":
            node.namespace.run([*command, "-D", *rule])
    assert heard.error == error
    assert [s.where for s in heard.sightings] == ([] if error else [Where.LINK])


def test_what_is_said_of_the_lab_is_no_verdict(node: LabNode, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        pass
    monkeypatch.setattr(node._wires, "_process", closed)
    with pytest.raises(LabError, match=r"^sending from a process: "):
        hear(node, [shot(node.family, "", "client", by="")])


def test_where_nobody_can_send_is_said(node: LabNode) -> None:
    for interface, complaint in (("eth7", "the node has no interface eth7"), ("lo", "nothing can be sent into lo")):
        with pytest.raises(LabError, match=complaint):
            hear(node, [shot(node.family, "client", "pod", by=interface)])
