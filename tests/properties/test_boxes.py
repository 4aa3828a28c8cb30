"""A packet is in exactly one box if the two sides answer its probe differently, and in none if they answer alike."""

from collections.abc import Iterator

import pytest
from test_diff import CLUSTER

import kpsim
from kpsim.addresses import Family
from kpsim.comparison.behaviour.boxes import Box
from kpsim.comparison.behaviour.following import first_packet
from kpsim.comparison.behaviour.report import Report, Subject, report
from kpsim.comparison.behaviour.spaces import Values, holds
from kpsim.comparison.behaviour.starts import Start
from kpsim.explore import Cluster
from kpsim.tracing.probes import answer
from kpsim.tracing.site import Sender
from kpsim.verify.drawing.choices import Choices, SeededChoices, chance

PROBES = 250


def _other_mode(cluster: Cluster) -> Cluster:
    return kpsim.load(text=CLUSTER, mode="nftables")


def _local(cluster: Cluster) -> Cluster:
    return cluster.with_edits("service/shop/web.spec.externalTrafficPolicy=Local")


def _no_endpoints(cluster: Cluster) -> Cluster:
    return cluster.with_edits("endpointslice/shop/web-1.endpoints=[]")


@pytest.mark.parametrize(
    ("mode", "change"),
    [
        ("iptables", _other_mode), ("iptables", _local), ("iptables", _no_endpoints), ("ipvs", _other_mode),
        ("ipvs", _local),
    ],
)  # fmt: skip
def test_boxes_hold_exactly_the_packets_that_fare_differently(mode, change) -> None:  # type: ignore[no-untyped-def]
    before = kpsim.load(text=CLUSTER, mode=mode)
    found = report(Subject.of(before), Subject.of(change(before)))
    draws = SeededChoices(7, "packets")
    inside = 0
    for sender, protocol, source, destination, port in drawn(found, draws):
        told = [_told(side, sender, protocol, source, destination, port) for side in (found.a, found.b)]
        source = source or chosen(found, sender, destination)
        here = [
            record.box
            for record in found.records
            if (record.box.sender, record.box.protocol) == (sender, protocol)
            and holds(record.box.source, source)
            and holds(record.box.destination, destination)
            and holds(record.box.port, port)
        ]
        assert len(here) == (told[0] != told[1]), (sender, protocol, source, destination, port, told)
        inside += len(here)
    assert inside > PROBES // 10


def chosen(found: Report, sender: Sender, destination: int) -> int:
    """The source that routing chooses on both sides for a process that binds none; 0: they differ."""
    routings = [side.side.site.netns("node-1", Family.IPV4).routing for side in (found.a, found.b)]
    sources = {routing.source_for(Family.IPV4, destination) or 0 for routing in routings}
    return sources.pop() if sender is Sender.NODE and len(sources) == 1 else 0


def drawn(found: Report, draws: Choices) -> Iterator[tuple[Sender, str, int, int, int]]:
    """Packets of boxes, packets beside boxes, and packets anywhere."""
    boxes: list[Box] = [record.box for record in found.records]

    def some(values: Values) -> int:
        low, high = values[draws.below(len(values))]
        return low + draws.below(high - low + 1) if chance(draws, 50) else (low, high)[draws.below(2)]

    for _ in range(PROBES):
        box = boxes[draws.below(len(boxes))]
        other = boxes[draws.below(len(boxes))] if chance(draws, 30) else box
        source, destination, port = some(box.source), some(other.destination), some(other.port)
        if chance(draws, 20):
            source = (source + 1) % (1 << 32)
        if chance(draws, 20):
            destination = draws.below(1 << 32) if chance(draws, 50) else some(box.source)
        if chance(draws, 20) and port:
            port = port % 65535 + 1
        if (port == 0) == (box.protocol == "icmp"):
            yield box.sender, box.protocol, source, destination, port


def _told(subject: Subject, sender: Sender, protocol: str, source: int, destination: int, port: int) -> object:
    """An answer without the rule that decided, and without what is merely assumed."""
    machine = subject.side.site.machine("node-1")
    interface = {Sender.NODE: "", Sender.POD: machine.pod_interface}.get(sender, machine.uplink)
    start = Start("node-1", protocol, interface)
    packet = first_packet(Family.IPV4, start, source, destination, port)
    told = answer(subject.side.site, packet, "node-1", local=start.local, now_ns=subject.side.now_ns).to_json()
    told["outcomes"] = sorted(told["outcomes"], key=str)
    return {name: value for name, value in told.items() if name not in ("by", "masqueradeBy", "assumed")}
