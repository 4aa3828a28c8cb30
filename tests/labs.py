"""The small shop in the lab: a node of it twice, and packets to send there."""

from functools import cache

from shop import cluster_text

from kpsim.addresses import Family, parse_ip
from kpsim.explore import load
from kpsim.lab.wires import Shot
from kpsim.packet import Packet
from kpsim.ruleset import Ruleset
from kpsim.verify.subjects import Subject, cluster_subjects

#: node-1's own address, one of its pods, a cluster IP with endpoints, one that rejects, one outside
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
    """A first packet; names as in ``ENDS``, or addresses."""
    ends = ENDS[family]
    saddr, daddr = (number_of(ends.get(end, end)) if end else 0 for end in (source, destination))
    return Shot(Packet(family, protocol, saddr, daddr, sport, dport, in_interface=by))
