"""Answers to probes against Linux: the same rules in a network namespace, the same packets through it.

Endpoints are drawn, so each probe is sent several times and what comes out must be among its outcomes.
"""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from linux_lab import Lab
from shop import cluster_text

from kpsim.addresses import Family, parse_ip
from kpsim.config import Host
from kpsim.explore import Cluster, load
from kpsim.packet import Packet
from kpsim.tracing.probes import Answer, Probe, Prober, Result, split_end
from kpsim.tracing.site import Sender

_TRIES = 8


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    file = tmp_path_factory.mktemp("shop") / "cluster.yaml"
    file.write_text(cluster_text())
    return replace(load(file), host=Host(nfacct=False))  # not every kernel has it


@pytest.fixture(scope="module", params=["node-1", "node-2", "node-3"])
def lab(request: pytest.FixtureRequest, kernel: None, cluster: Cluster) -> Iterator[tuple[str, Lab]]:
    made = Lab(f"kpsim{os.getpid()}{request.param[-1]}")
    try:
        made.build(cluster.site.machine(request.param), cluster.rules(request.param, family=Family.IPV4))
        yield request.param, made
    finally:
        made.close()


def agrees(answer: Answer, begun: Packet, came_out: list[Packet], own: tuple[int, ...]) -> bool:
    """Whether what left the node is what the answer says. Packets that end on the node itself leave nothing."""
    errors = [packet for packet in came_out if packet.protocol == "icmp" and packet.icmp_type == 3]
    # a RST is the node's own answer at a closed port
    others = [p for p in came_out if p.protocol == begun.protocol and "RST" not in p.tcp_flags]
    match answer.result:
        case Result.DELIVERED:
            possible = {(o.endpoint, o.seen.src) for o in answer.outcomes if o.seen.sport is None}
            kept = {(o.endpoint, o.seen.src) for o in answer.outcomes if o.seen.sport == begun.sport}
            here = any(parse_ip(split_end(o.endpoint)[0])[1] in own for o in answer.outcomes)  # type: ignore[index]
            ends = {(f"{p.destination}:{p.dport}", p.source): p.sport for p in others}
            own_ports = range(begun.sport, begun.sport + _TRIES)
            known = all(end in possible or (end in kept and sport in own_ports) for end, sport in ends.items())
            return known and (bool(ends) or here)
        case Result.REJECTED:
            return not others and (bool(errors) or not begun.in_interface)
        case Result.DROPPED:
            return not others and not errors
        case Result.PASSED:
            untouched = all((p.daddr, p.dport) == (begun.daddr, begun.dport) for p in others)
            return untouched and (not errors or begun.daddr in own)
        case Result.UNKNOWN:
            return False


@pytest.mark.kernel
@pytest.mark.parametrize("sender", list(Sender))
def test_linux_does_what_the_answers_say(lab: tuple[str, Lab], cluster: Cluster, sender: Sender) -> None:
    node, linux = lab
    prober, own = Prober(cluster.site, 0), cluster.site.machine(node).routing.addresses(Family.IPV4)
    asked, sport = 0, 20000
    for frontend in sorted(cluster.site.directory.services, key=str):
        address = frontend.address or (Family.IPV4, own[1])  # a node port: on the uplink's address
        if address[0] is not Family.IPV4:
            continue
        sport += _TRIES
        packet = Packet(Family.IPV4, frontend.protocol, 0, address[1], sport, frontend.port)
        answer = prober.answer(Probe(str(frontend), node, sender, packet))
        begun = cluster.site.begin(packet, node, sender)
        came_out: list[Packet] = []
        for number in range(_TRIES):
            attempt = begun.copy()
            attempt.sport = sport + number  # a flow of its own
            came_out += linux.send(attempt)
        assert agrees(answer, begun, came_out, own), (str(begun), answer, [str(p) for p in came_out])
        asked += 1
    assert asked == 15  # every IPv4 frontend of the shop


def test_the_shop_has_cases_of_every_kind(cluster: Cluster) -> None:
    """So that agreement means something."""
    results = {
        cluster.probe("node-1", f"{ip}:80", sender=str(sender)).result
        for sender in Sender
        for ip in ("172.30.0.10", "172.30.0.13", "172.30.0.14", "192.0.2.99")
    }
    assert results == {Result.DELIVERED, Result.DROPPED, Result.REJECTED, Result.PASSED}
