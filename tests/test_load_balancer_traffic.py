"""Traffic that a load balancer outside takes from inside the cluster, and sources that have nothing to dial (PP-11.10)."""

import pytest
from simulations import MS, simulate

from kpsim.errors import InputError
from kpsim.pins import PinKind
from kpsim.reports.pinned import pinned_flows
from kpsim.reports.sentences import unsent_lines
from kpsim.reports.summary import summary_json, summary_text
from kpsim.simulation.runlog import Fate, Reason
from kpsim.units import SECOND_NS

LB = "198.51.100.20"
PROXY = (
    "objects[0].spec.type=LoadBalancer",
    f"objects[0].status={{loadBalancer: {{ingress: [{{ip: {LB}, ipMode: Proxy}}]}}}}",
    "duration=10s",
)
VIP = (PROXY[0], PROXY[1].replace(", ipMode: Proxy", ""), PROXY[2])
PODS = "traffic: [{name: t, from: pods, workload: web, service: web, via: loadBalancer, perSecond: 20}]\n"


def test_a_pod_reaches_a_proxying_load_balancer_and_comes_back_by_a_node_port() -> None:
    log = simulate(PODS, *PROXY)
    assert len(log.connections) == 200
    assert {(c.disposition, c.source_ip, c.new_flow) for c in log.connections} == {(Fate.DELIVERED, LB, True)}
    # Cluster policy: masqueraded by the node that the load balancer dials, whatever node the client is on (PP-4)
    masks = {"node-1": ("10.180.1.1", "192.168.0.1"), "node-2": ("10.180.2.1", "192.168.0.2")}
    for c in log.connections:
        bridge, uplink = masks[c.node]
        assert c.seen_source_ip == (bridge if c.endpoint_node == c.node else uplink)
    assert {c.node for c in log.connections} == {"node-1", "node-2"} == {c.endpoint_node for c in log.connections}


def test_with_mode_vip_the_node_short_circuits_the_same_packet() -> None:
    log = simulate(PODS, *VIP)
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}
    assert {(c.source_ip, c.node) for c in log.connections} == {("10.180.1.2", "node-1"), ("10.180.2.2", "node-2")}


def test_a_process_of_a_node_reaches_it_too_and_the_local_policy_keeps_the_load_balancers_address() -> None:
    nodes = "traffic: [{name: t, from: nodes, service: web, via: loadBalancer, perSecond: 20}]\n"
    log = simulate(nodes, *PROXY, "objects[0].spec.externalTrafficPolicy=Local")
    assert {(c.disposition, c.seen_source_ip) for c in log.connections} == {(Fate.DELIVERED, LB)}
    assert all(c.node == c.endpoint_node for c in log.connections)  # PP-5


def test_the_load_balancer_sends_to_nodes_in_rotation_only() -> None:
    events = "loadBalancer: {interval: 1s}\nevents: [{at: 2s, nodeDown: {nodes: [node-2]}}]\n"
    nodes = "traffic: [{name: t, from: nodes, nodes: [node-1], service: web, via: loadBalancer, perSecond: 20}]\n"
    settings = (*PROXY, "objects[0].spec.externalTrafficPolicy=Local")
    log = simulate(events + nodes, *settings)
    lost = [c for c in log.connections if c.disposition is not Fate.DELIVERED]
    assert {(c.node, c.cause) for c in lost} == {("node-2", Reason.NODE_DOWN)}
    assert all(2 * SECOND_NS <= c.at_ns < 4 * SECOND_NS for c in lost)  # the second failed probe, one second apart
    gone = simulate("events: [{at: 2s, deleteService: {service: web}}]\n" + nodes, *PROXY)
    late = [c for c in gone.connections if c.at_ns > 2100 * MS]
    assert {(c.disposition, c.cause) for c in late} == {(Fate.DROPPED, Reason.NO_HEALTHY_NODE)}


def test_a_long_connection_through_the_load_balancer_breaks_on_either_leg() -> None:
    text = """
events: [{at: 5s, deletePods: {workload: web, count: 2}}]
traffic:
  - {name: t, from: nodes, nodes: [node-1], service: web, via: loadBalancer, perSecond: 5, stop: 2s, long: {lasts: 60s}}
"""
    log = simulate(text, *PROXY)
    assert {(c.disposition, c.cause, c.established) for c in log.connections} == {
        (Fate.FAILED, Reason.ENDPOINT_GONE, True)
    }
    assert {c.pin.kind for c in log.connections if c.pin} <= {PinKind.FORMER_ENDPOINT, PinKind.REFUSED}
    assert all(group.leads_to.startswith("10.180.") for group in pinned_flows(log))
    off = simulate(text.replace("deletePods: {workload: web, count: 2}", "nodeDown: {nodes: [node-1]}"), *PROXY)
    assert {(c.disposition, c.cause) for c in off.connections} == {(Fate.FAILED, Reason.NODE_DOWN)}


def test_a_load_balancer_of_a_host_name_cannot_be_dialled_from_inside() -> None:
    named = "objects[0].status={loadBalancer: {ingress: [{hostname: lb.example.net}]}}"
    with pytest.raises(InputError, match="lacks a load balancer IP, which traffic from inside needs"):
        simulate(PODS, PROXY[0], named)


# ------------------------------------------------------------------------------------------------ what sends nothing


@pytest.mark.parametrize(
    ("traffic", "settings", "why"),
    [
        (
            PODS,
            (*PROXY, "objects[0].spec.allocateLoadBalancerNodePorts=false", "objects[0].spec.ports=[{port: 80}]"),
            "Service default/web has no node port that its load balancer could dial",
        ),
        (
            "traffic: [{name: t, service: web, via: loadBalancer, perSecond: 20}]\n",
            (PROXY[0], "objects[0].spec.allocateLoadBalancerNodePorts=false", "objects[0].spec.ports=[{port: 80}]"),
            "Service default/web has no node port that its load balancer could dial",
        ),
        (
            "traffic: [{name: t, service: web, via: nodePort, perSecond: 20}]\n",
            (PROXY[0], "objects[0].spec.allocateLoadBalancerNodePorts=false", "objects[0].spec.ports=[{port: 80}]"),
            "Service default/web has no node port",
        ),
        (PODS, (*VIP, "workloads[0].replicas=0"), "no pod of workload web runs"),
    ],
)
def test_a_source_that_sends_nothing_says_why(traffic: str, settings: tuple[str, ...], why: str) -> None:
    log = simulate(traffic, *settings, "duration=10s")
    assert log.connections == []
    line = f"traffic t: 200 connections not attempted from 0 s to 9.95 s: {why}."
    assert unsent_lines(log) == [line]
    assert f"note: {line}" in " ".join(summary_text(log).split())
    assert summary_json(log)["notes"] == [line]


def test_turns_without_a_pod_are_counted_beside_those_with_one() -> None:
    log = simulate("events: [{at: 4s, scale: {workload: web, replicas: 0}}]\n" + PODS, *VIP)
    (skipped,) = log.unsent
    assert (skipped.traffic, skipped.first_ns) == ("t", 4050 * MS)  # the pods are gone at 4.007
    assert skipped.connections + len(log.connections) == 200


def test_a_source_whose_first_connection_is_due_too_late_says_so() -> None:
    rare = "traffic: [{name: t, service: web, via: nodePort, perSecond: 0.001, arrivals: poisson}]\n"
    assert unsent_lines(simulate(rare, "duration=1s")) == ["traffic t: no connection was due before the end."]
