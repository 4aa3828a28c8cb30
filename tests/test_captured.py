"""Captures traced: each packet begins at its real sender, in both directions, and windows follow its numbers."""

from dataclasses import replace

import pytest
from packets import CLIENT, flags, ip, packet
from shop import cluster_text

from kpsim.addresses import Family
from kpsim.conntrack import StatusBit
from kpsim.explore import load
from kpsim.fabric import Place, Whose
from kpsim.packet import Numbers, Packet
from kpsim.tracing.captured import Beginning, CaptureTracer
from kpsim.tracing.site import Sender
from kpsim.tracing.traces import Trace

NODE_1, OUTSIDE, INNER_POD = "192.168.0.1", Place(Whose.OUTSIDE), "10.180.1.8"


def tracer() -> CaptureTracer:
    return CaptureTracer(load(text=cluster_text()).site, Beginning("node-1", Sender.EXTERNAL))


def captured(
    source: str, destination: str, sport: int, dport: int, says: str, seq: int, ack: int, size: int = 0
) -> Packet:
    made = packet(source, destination, dport, sport=sport, tcp_flags=flags(says), numbers=Numbers(seq, ack, size, 1000))
    made.sourced = True
    return made


def traced(with_: CaptureTracer, *packets: Packet) -> list[Trace]:
    traces = [with_.trace(number, each, number * 1000) for number, each in enumerate(packets, 1)]
    assert all(traces)
    return [each for each in traces if each is not None]


def dialogue(client: str, server: str, dport: int) -> list[Packet]:
    """As captured at the client: a handshake, a request, an answer, both ends' FINs."""
    says = [
        ("SYN", 0, 100, 0, 0), ("SYN ACK", 1, 500, 101, 0), ("ACK", 0, 101, 501, 0), ("PSH ACK", 0, 101, 501, 300),
        ("PSH ACK", 1, 501, 401, 900), ("FIN ACK", 1, 1401, 401, 0), ("FIN ACK", 0, 401, 1402, 0), ("ACK", 1, 1402, 402, 0),
    ]  # fmt: skip
    ends = (client, server, 40000, dport), (server, client, dport, 40000)
    return [captured(*ends[who], words, *numbers) for words, who, *numbers in says]


def test_answers_come_from_the_endpoint_and_reach_the_client_translated_back() -> None:
    """A client outside dials a node port; the endpoint may be on any node. Each answer passes the nodes of the request."""
    traces = traced(tracer(), *dialogue(CLIENT, NODE_1, 30080))
    request = traced(tracer(), dialogue(CLIENT, NODE_1, 30080)[0])[0].journey
    for each, way in zip(traces, dialogue(CLIENT, NODE_1, 30080), strict=True):
        journey = each.journey
        if way.saddr == ip(CLIENT):
            assert (each.sender, journey.end) == (Sender.EXTERNAL, request.end)
        else:
            assert (each.sender, journey.origin, journey.end) == (Sender.POD, request.end, OUTSIDE)
            assert [hop.node for hop in journey.hops] == [hop.node for hop in reversed(request.hops)]
            assert (journey.packet.source, journey.packet.sport) == (NODE_1, 30080)
            assert (journey.packet.destination, journey.packet.dport) == (CLIENT, 40000)
    assert [str(each.journey.hops[0].walk.ct_state) for each in traces] == ["NEW"] + ["ESTABLISHED"] * 7
    last = traces[-1].journey.hops[0].walk.entry
    assert last is not None and last.state == "TIME_WAIT" and StatusBit.ASSURED in last.status


def test_packets_begin_at_the_pod_or_node_that_has_their_source() -> None:
    """Whatever the capture's place is said to be. An address of a node's pod network is a pod's, known or not."""
    by_pod, by_node, by_stranger = traced(
        tracer(),
        captured("10.180.1.77", "172.30.0.10", 40000, 80, "SYN", 1, 0),
        captured("192.168.0.3", "172.30.0.10", 40001, 80, "SYN", 1, 0),
        captured("10.181.1.77", "172.30.0.10", 40000, 80, "SYN", 1, 0),
    )
    assert (by_pod.journey.origin.whose, by_pod.journey.hops[0].node) == (Whose.POD, "node-2")
    assert (by_stranger.journey.origin.whose, by_stranger.journey.hops[0].node) == (Whose.OUTSIDE, "node-1")
    assert (by_node.sender, by_node.journey.hops[0].node) == (Sender.NODE, "node-3")
    [known] = traced(tracer(), captured("10.180.1.5", "172.30.0.10", 40000, 80, "SYN", 1, 0))
    assert (known.sender, known.journey.hops[0].node) == (Sender.POD, "node-2")


@pytest.mark.parametrize(("seq", "state"), [(401, "ESTABLISHED"), (1102, "ESTABLISHED"), (3_000_000, "INVALID")])
def test_a_segment_out_of_its_window_is_invalid(seq: int, state: str) -> None:
    """K-6.4: the receiver announced 1000 bytes behind 401, and a little more passes without effect."""
    begun = dialogue(CLIENT, NODE_1, 30080)[:5]
    stray = captured(CLIENT, NODE_1, 40000, 30080, "PSH ACK", seq, 1401, 10)
    assert traced(tracer(), *begun, stray)[-1].journey.hops[0].walk.ct_state == state


def test_an_error_about_a_packet_comes_from_where_it_was_made() -> None:
    """The endpoint has no listener: its kernel's error shows the packet that it got; the client sees what it sent."""
    request = packet("10.180.0.5", "172.30.0.13", 80, protocol="udp", sourced=True)
    about = replace(request)
    error = packet(
        "172.30.0.13", "10.180.0.5", 0, protocol="icmp", sport=0, icmp_type=3, icmp_code=3, related=about, sourced=True
    )
    with_ = tracer()
    asked = captured("10.180.1.5", "172.30.0.13", 40000, 80, "SYN", 7, 0)
    told = Packet(
        Family.IPV4,
        "icmp",
        ip("172.30.0.13"),
        ip("10.180.1.5"),
        icmp_type=3,
        icmp_code=3,
        related=asked.copy(),
        sourced=True,
    )
    first, second = traced(with_, asked, told)
    assert first.journey.end == Place(Whose.POD, "node-2", ip(INNER_POD))
    sent = second.journey.sent
    assert (sent.source, sent.destination) == (INNER_POD, "10.180.1.5")
    assert sent.related is not None and (sent.related.destination, sent.related.dport) == (INNER_POD, 8080)
    assert with_.trace(3, error, 3000) is not None  # about a packet that the capture does not hold


def test_a_given_source_is_kept_even_if_it_is_no_address() -> None:
    """K-7.3: a machine without address sends from 0.0.0.0, and only to everybody."""
    discover = packet("0.0.0.0", "255.255.255.255", 67, protocol="udp", sport=68, sourced=True)
    [seen] = traced(tracer(), discover)
    assert (seen.journey.sent.source, str(seen.journey.disposition)) == ("0.0.0.0", "delivered")


def test_a_capture_traced_twice_gives_the_same() -> None:
    texts = [[each.text() for each in traced(tracer(), *dialogue(CLIENT, NODE_1, 30080))] for _ in range(2)]
    assert texts[0] == texts[1]
