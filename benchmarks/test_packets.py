"""The cost of a first packet: its outcome and deciding rule, without the trace tree."""

from itertools import count

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.clusters import cluster_ip, endpoint_slice, new_proxier, synced_proxier
from kpsim.addresses import Family, parse_ip
from kpsim.cluster import Event, EventType
from kpsim.config import Mode
from kpsim.netfilter import Disposition, Netns, Walk, expand, walk
from kpsim.nodes import make_machine
from kpsim.objects import endpoint_slice_from_json
from kpsim.packet import Packet
from kpsim.packetpath.chooser import SeededChooser

_flows = count()


def _first_packet(netns: Netns, services: int) -> Walk:
    flow = next(_flows)
    source, destination = parse_ip("10.0.0.7"), parse_ip(cluster_ip(flow * 7919 % services))
    assert source is not None
    assert destination is not None
    packet = Packet(
        Family.IPV4, "tcp", source[1], destination[1], 1024 + flow % 60_000, 80, in_interface="cni0"
    )  # fmt: skip
    return walk(netns, packet, now_ns=0, chooser=SeededChooser(1, flow), trace=False)


@pytest.mark.parametrize("mode", [Mode.IPTABLES, Mode.NFTABLES])
@pytest.mark.parametrize("endpoints", [20, 100])
def test_every_outcome(benchmark: BenchmarkFixture, endpoints: int, mode: Mode) -> None:
    """At most 0.5 ms for 20 endpoints: one of each kind is followed."""
    netns = Netns("node-1", make_machine(["192.168.0.2"], ["10.0.0.0/24"]).routing)
    proxier = new_proxier(1, mode)
    proxier.on_event(Event(EventType.MODIFIED, None, endpoint_slice_from_json(endpoint_slice(0, endpoints, 2))), 0)
    netns.load(proxier.sync(0).transaction.held)
    source, destination = parse_ip("10.0.0.7"), parse_ip(cluster_ip(0))
    assert source is not None
    assert destination is not None
    packet = Packet(Family.IPV4, "tcp", source[1], destination[1], 4000, 80, in_interface="cni0")
    assert len(benchmark(expand, netns, packet, now_ns=0)) == endpoints


@pytest.mark.parametrize("services", [1_000, 10_000])
def test_first_packets(benchmark: BenchmarkFixture, services: int) -> None:
    """At least 10,000 a second against 1,000 Services, and half of that against 10,000."""
    netns = Netns("node-1", make_machine(["192.168.0.2"], ["10.0.0.0/24"]).routing)
    netns.load_rules(synced_proxier(services).held.ruleset)
    for _ in range(services):
        _first_packet(netns, services)
    result = benchmark(_first_packet, netns, services)
    assert result.disposition is Disposition.FORWARDED
