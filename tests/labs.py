"""Nodes for the lab: node-1 of the small shop, and a smaller one.

Also packets to send there, and checks of their fates.
"""

from dataclasses import replace
from functools import cache

from packets import OTHER_POD, POD, ip
from shop import cluster_text

from kpsim.addresses import Family, parse_ip, parse_network
from kpsim.explore import load
from kpsim.lab.wires import Shot
from kpsim.nodes import Machine, make_machine
from kpsim.packet import Packet
from kpsim.packetpath.routing import Route, Routing
from kpsim.ruleset import Ruleset
from kpsim.verify.subjects import Subject, cluster_subjects
from kpsim.verify.twin import Exchange

#: node-1's own address, one of its pods, a cluster IP with endpoints, one that rejects, an address outside
ENDS = {
    Family.IPV4: {"node": "192.168.0.1", "pod": "10.180.0.5", "neighbour": "10.180.0.6", "service": "172.30.0.10", "client": "203.0.113.9"},
    Family.IPV6: {"node": "2001:db8:1::1", "pod": "fd00:180::5", "neighbour": "fd00:180::6", "service": "fd00:172:30::10", "client": "2001:db8:cb00:71::9"},
}  # fmt: skip


@cache
def shop_subject(family: Family) -> Subject:
    """node-1 of the shop."""
    subjects = cluster_subjects(load(text=cluster_text()), ["node-1"])
    return next(subject for subject in subjects if subject.family is family)


def rules_of(subject: Subject) -> Ruleset:
    return subject.site.netns(subject.node, subject.family).rulesets[subject.family]


def number_of(text: str) -> int:
    parsed = parse_ip(text)
    assert parsed is not None
    return parsed[1]


def shot(
    family: Family, source: str, destination: str, dport: int = 80, *, sport: int = 40000, by: str = "eth0", protocol: str = "tcp"
) -> Shot:  # fmt: skip
    """A first packet between two ends, which are names in ``ENDS`` or addresses."""
    ends = ENDS[family]
    saddr, daddr = (number_of(ends.get(end, end)) if end else 0 for end in (source, destination))
    return Shot(Packet(family, protocol, saddr, daddr, sport, dport, in_interface=by))


#: two pods of the small machine
PODS = {Family.IPV4: (POD, OTHER_POD), Family.IPV6: ("fd00:180::5", "fd00:180::6")}


def small_machine(family: Family) -> Machine:
    """A node with pods 10.180.0.0/24 on cni0. 10.180.1.0/24 is behind 192.168.0.2 on eth0, like everything else."""
    if family is Family.IPV6:
        return make_machine(["fd00:192::1/64", "2001:db8:7::1/64"], ["fd00:180::/64"])
    made = make_machine(["192.168.0.1", "192.168.7.1"], ["10.180.0.0/24"])
    remote = Route(parse_network("10.180.1.0/24"), "eth0", ip("192.168.0.2"))
    return replace(made, routing=Routing(made.routing.interfaces.values(), [*made.routing.routes, remote]))


def agreed(exchange: Exchange) -> Exchange:
    """Return the exchange. AssertionError if the model and Linux disagree."""
    assert [str(difference) for difference in exchange.differences] == []
    return exchange


def passed(exchange: Exchange) -> Packet:
    """Return the packet behind the node. AssertionError if it did not come out of the node, or if the two disagree."""
    arrival = agreed(exchange).arrival
    assert arrival is not None, f"{exchange.shot.packet} was {exchange.walk.disposition}"
    return arrival.packet


def answered(exchange: Exchange) -> Packet:
    """Return the answer of the pod or machine that got the packet.

    AssertionError if none got it, or if the two disagree.
    """
    answer = agreed(exchange).answer()
    assert answer is not None, f"{exchange.shot.packet} was {exchange.walk.disposition}"
    return answer


def tables_of(text: str) -> dict[str, list[str]]:
    """The lines of an iptables-save text by table, without comments. Each tool lists tables in its own order."""
    tables: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            lines = tables.setdefault(line, [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return tables
