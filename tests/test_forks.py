"""A fork of a node is the same node, and what is committed to one of the two does not change the other."""

import pytest
from packets import CLUSTER_IP, POD, node, packet, run, service_rules, to

from kpsim.netfilter import walk
from kpsim.packetpath.chooser import SeededChooser
from kpsim.packetpath.memory import IcmpLimiter
from kpsim.units import SECOND_NS


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_fork_knows_what_the_node_remembers(protocol: str) -> None:
    """K-1.3, CT-8.1: connections and affinity lists decide where a packet goes."""
    netns = node(service_rules((POD, "10.180.0.6"), protocol=protocol, affinity_seconds=100))
    client = packet("10.180.0.9", CLUSTER_IP, protocol=protocol)
    first = to(run(netns, client))
    fork = netns.fork()
    for flow in range(8):  # the same connection, then others of a client that is remembered
        asked = packet("10.180.0.9", CLUSTER_IP, protocol=protocol, sport=40000 + flow)
        assert to(walk(fork, asked, now_ns=0, chooser=SeededChooser(1, flow))) == first


def test_neither_of_the_two_changes_the_other() -> None:
    netns = node(service_rules((POD,), affinity_seconds=100))
    netns.memory.icmp_limiter = IcmpLimiter()
    run(netns, packet("10.180.0.9", CLUSTER_IP))
    fork = netns.fork()
    run(fork, packet("10.180.0.8", CLUSTER_IP))
    assert (len(netns.conntrack), len(fork.conntrack)) == (1, 2)
    remembered = [sorted(each.memory.recent["KUBE-SEP-0"]) for each in (netns, fork)]
    assert [len(sources) for sources in remembered] == [1, 2]
    run(netns, packet("10.180.0.7", CLUSTER_IP))
    run(netns, packet("10.180.0.6", CLUSTER_IP))
    assert (len(netns.conntrack), len(fork.conntrack)) == (3, 2)
    fork.collect(1000 * SECOND_NS)
    assert (len(netns.conntrack), len(fork.conntrack)) == (3, 0)
    netns.collect(1000 * SECOND_NS)
    assert len(netns.conntrack) == 0
    fork.load_rules(service_rules(()))
    assert to(walk(netns, packet("10.180.0.5", CLUSTER_IP), now_ns=0, chooser=SeededChooser(1, 0)))[0] == POD


def test_a_fork_spends_its_own_budget_of_icmp_errors() -> None:
    """K-3.4: a client is told six times at once."""
    netns = node(service_rules(()))
    netns.memory.icmp_limiter = IcmpLimiter()
    fork = netns.fork()
    told = [
        run(each, packet(POD, CLUSTER_IP, sport=port)).answer is not None
        for each in (fork, netns)
        for port in range(1, 8)
    ]
    assert told == [*[True] * 6, False] * 2
