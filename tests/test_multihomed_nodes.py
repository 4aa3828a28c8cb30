"""Nodes with several interfaces and addresses in scenarios.

Facts: the first InternalIP of a family is the node IP (CFG-7.1); masquerading takes an address of the device that leads to
the endpoint (CT-6.2); node ports are served on the local addresses within nodePortAddresses (I-9.3); a strict rp_filter
drops what comes in by another interface than the one that leads back (K-7.3).
"""

from collections import Counter

import pytest
from simulations import of, simulate
from two_homes import FAR, HEAD, NODE_PORT, STRICT

from kpsim.errors import InputError
from kpsim.reports.local_policy import local_drops
from kpsim.scenario import parse_scenario
from kpsim.simulation.runlog import Fate, Reason, RunLog
from kpsim.verify.subjects import scenario_subjects


def ran(text: str, *settings: str) -> RunLog:
    return simulate(text, *settings, delays="", head=HEAD)


def fates(log: RunLog) -> Counter[tuple[str, Fate, Reason]]:
    return Counter((c.traffic, c.disposition, c.cause) for c in log.connections)


def refusals(*settings: str, text: str = "") -> list[str]:
    with pytest.raises(InputError) as refused:
        parse_scenario(HEAD + text, "test.yaml", settings=settings)
    return [problem.message for problem in refused.value.problems]


def test_the_masqueraded_source_is_of_the_device_that_leads_to_the_endpoint() -> None:
    """Clients come in by vlan17; the endpoint is on n2, to which eth0 leads."""
    delivered = of(ran(NODE_PORT), Fate.DELIVERED)
    assert len(delivered) == 20 and {c.seen_source_ip for c in delivered} == {"192.168.0.1"}
    assert {c.source_ip for c in delivered} == {"203.0.113.1"}


@pytest.mark.parametrize("sender", ["from: pods, workload: client", "from: nodes, nodes: [n2]"])
def test_clients_inside_dial_the_address_of_the_interface(sender: str) -> None:
    text = f"traffic: [{{name: t, {sender}, service: web, via: nodePort, perSecond: 5, interface: vlan17}}]\n"
    assert len(of(ran(text), Fate.DELIVERED)) == 20
    refused = of(ran(text, "proxy.nodePortAddresses=[192.168.0.0/24]"), Fate.REJECTED)
    assert {c.cause for c in refused} == {Reason.NOT_CAPTURED} and len(refused) == 20


@pytest.mark.parametrize(
    ("networks", "by_vlan", "by_node_ip"),
    [("[10.46.0.0/16]", 20, 0), ("[192.168.0.0/24]", 0, 20), ("[primary]", 0, 20), ("[10.0.0.0/8, 192.168.0.1/32]", 20, 20)],
)  # fmt: skip
def test_node_ports_are_served_where_node_port_addresses_say(networks: str, by_vlan: int, by_node_ip: int) -> None:
    setting = f"proxy.nodePortAddresses={networks}"
    assert len(of(ran(NODE_PORT, setting), Fate.DELIVERED)) == by_vlan
    assert len(of(ran(NODE_PORT.replace(", interface: vlan17", ""), setting), Fate.DELIVERED)) == by_node_ip


def test_without_a_filter_answers_leave_by_the_default_route() -> None:
    assert fates(ran(FAR)) == {("near", Fate.DELIVERED, Reason.NONE): 20, ("far", Fate.DELIVERED, Reason.NONE): 20}


def test_a_strict_filter_drops_clients_behind_the_other_router() -> None:
    lost = fates(ran(FAR, STRICT))
    assert lost == {("near", Fate.DELIVERED, Reason.NONE): 20, ("far", Fate.DROPPED, Reason.REVERSE_PATH): 20}


def test_a_route_mends_it() -> None:
    routes = [f"nodes.list[{n}].interfaces[1].routes=[10.42.0.0/16]" for n in (0, 1)]
    assert {fate for _, fate, _ in fates(ran(FAR, STRICT, *routes))} == {Fate.DELIVERED}


def test_a_filtered_packet_is_no_loss_of_the_local_policy() -> None:
    local = "objects[0].spec.externalTrafficPolicy=Local"
    log = ran(FAR, STRICT, local, "objects[0].spec.healthCheckNodePort=32000")
    assert len(of(log, Fate.DROPPED)) == 20 and not local_drops(log)


def test_long_connections_keep_coming_in_by_their_interface() -> None:
    """Otherwise their segments would come in by eth0, where a strict filter takes clients of vlan17 for strangers."""
    text = NODE_PORT.replace("perSecond: 5", "perSecond: 5, clientNetwork: 10.46.7.0/24, stop: 1s, long: {lasts: 2s}")
    log = ran(text, STRICT)
    assert {(c.disposition, c.broken_ns) for c in log.connections} == {(Fate.DELIVERED, None)} and len(
        log.connections
    ) == 5


# --- addresses --------------------------------------------------------------------------------------------------------


def senders(log: RunLog) -> set[str]:
    return {c.source_ip for c in log.connections}


OWN = "traffic: [{name: t, from: nodes, nodes: [n1], service: web, perSecond: 5}]\n"


def test_the_first_address_is_the_node_ip() -> None:
    """The uplink has it, so processes of the node send from it."""
    assert senders(ran(OWN)) == {"192.168.0.1"}
    assert senders(ran(OWN, "nodes.list[0].ips=[10.46.0.1]")) == {"10.46.0.1"}


def test_the_default_route_may_lead_elsewhere_than_the_node_ip() -> None:
    """A process of n2 binds no address: its kernel takes one for the way to the cluster IP, before the translation (K-2.1).

    The way to the endpoint is another, so the masqueraded source is that of the inner network.
    """
    outer = [f"nodes.list[{n}].interfaces[1].routes=[0.0.0.0/0]" for n in (0, 1)]
    host = ("workloads[0].hostNetwork=true", "workloads[0].placement.nodes=[n1]")
    (seen,) = {
        (c.source_ip, c.seen_source_ip) for c in of(ran(OWN.replace("[n1]", "[n2]"), *outer, *host), Fate.DELIVERED)
    }
    assert seen == ("10.46.0.2", "192.168.0.2")
    (seen,) = {(c.source_ip, c.seen_source_ip) for c in of(ran(OWN.replace("[n1]", "[n2]"), *host), Fate.DELIVERED)}
    assert seen == ("192.168.0.2", "192.168.0.2")


def test_several_addresses_without_interfaces_are_those_of_eth0() -> None:
    several = ("nodes.list[0]={name: n1, ips: [192.168.0.1, 10.46.0.1]}", "nodes.list[1]={name: n2}")
    text = NODE_PORT.replace("nodes: [n1], ", "").replace("interface: vlan17", "address: 10.46.0.1")
    log = ran(text, *several)
    assert {(c.node, c.disposition, c.seen_source_ip) for c in log.connections} == {
        ("n1", Fate.DELIVERED, "192.168.0.1")
    }
    refused = ran(text, *several, "proxy.nodePortAddresses=[192.168.0.0/24]")
    assert {(c.node, c.cause) for c in refused.connections} == {("n1", Reason.NOT_CAPTURED)}
    assert senders(ran(OWN, *several)) == {"192.168.0.1"}


def test_clients_of_two_sources_have_different_addresses() -> None:
    both = FAR.replace("10.42.0.0/24", "10.46.7.0/24")
    log = ran(both)
    near, far = ({c.source_ip for c in log.connections if c.traffic == name} for name in ("near", "far"))
    assert near == {f"10.46.7.{n}" for n in (1, 2, 3)} and far == {f"10.46.7.{n}" for n in (4, 5, 6)}


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("nodes.list[0].ips=[192.168.0.9]", "no interface has the address 192.168.0.9"),
        ("nodes.list[0].ips=[192.168.0.1, 192.168.0.1]", "expected each address once"),
        ("nodes.list[0].ips=['fd00::1']", "only of IPv4"),
        ("nodes.list[1].interfaces[1].addresses=[10.46.0.1/16]", "an earlier node has the address 10.46.0.1"),
        ("nodes.list[0].interfaces[1].addresses=[192.168.0.1/24]", "expected each address once"),
        ("nodes.list[0].interfaces[1].addresses=[10.46.0.1]", "prefix length"),
        ("nodes.list[0].interfaces[1].addresses=[10.046.0.1/16]", "prefix length"),
        ("nodes.list[0].interfaces[1].name=eth0", "a second interface called 'eth0'"),
        ("nodes.list[0].interfaces[1].name=lo", "every node has lo already"),
        ("nodes.list[0].interfaces[1].routes=[10.42.0.1/16]", "a network in its usual form"),
        ("nodes.ipFamilies=[IPv4, IPv6]", "no interface has an address of IPv6"),
        ("proxy={detectLocalMode: BridgeInterface, detectLocal: {bridgeInterface: vlan17}}", "interface of the node's pods"),
    ],
)  # fmt: skip
def test_addresses_that_do_not_fit_are_refused(setting: str, says: str) -> None:
    assert any(says in message for message in refusals(setting)), refusals(setting)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("interface: vlan17", "interface: vlan18"), "n1 has no interface 'vlan18'; it has eth0, vlan17"),
        (("interface: vlan17", "clientNetwork: 10.180.1.0/24"), "it holds pods of n1"),
        (("interface: vlan17", "clientNetwork: 192.168.0.0/24"), "a client would have the address of n1, 192.168.0.1"),
        (("interface: vlan17", "clientNetwork: 10.9.0.0/28, clients: 15"), "too few addresses"),
        (("interface: vlan17", "clientNetwork: 'fd09::/64'"), "the clients dial IPv4 addresses"),
        (("nodes: [n1]", "address: 10.46.0.9"), "no node has the address 10.46.0.9"),
        (("interface: vlan17", "address: 10.46.0.1"), "address says whose node port is used"),
        (("via: nodePort, nodes: [n1]", "via: loadBalancer, address: 10.46.0.1"), "address goes with via: nodePort"),
        (("via: nodePort, nodes: [n1]", "from: nodes"), "interface goes with from: outside, or with via: nodePort"),
    ],
)
def test_traffic_that_does_not_fit_is_refused(change: tuple[str, str], says: str) -> None:
    messages = refusals(text=NODE_PORT.replace(*change))
    assert any(says in message for message in messages), messages


def test_a_verification_asks_by_every_interface() -> None:
    names = [subject.name for subject in scenario_subjects(parse_scenario(HEAD + NODE_PORT, "test.yaml"), nodes=["n1"])]
    assert names == ["two-homes · n1 · IPv4 · 0 s", "two-homes · n1 by vlan17 · IPv4 · 0 s"]


def test_a_node_port_of_a_node_that_has_not_joined_is_not_dialled() -> None:
    text = NODE_PORT.replace("nodes: [n1], ", "").replace("interface: vlan17", "address: 10.46.0.2")
    log = ran(
        "events: [{at: 2s, addNode: {node: n2}}]\n" + text,
        "workloads[0].placement.nodes=[n1]",
        "workloads[1].replicas=0",
    )
    assert [(each.connections, each.why) for each in log.unsent] == [(10, "none of its nodes has joined the cluster")]
    assert {c.node for c in log.connections} == {"n2"}
