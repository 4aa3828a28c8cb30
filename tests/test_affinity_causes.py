"""Causes of affinity breaks where an endpoint is ready, and yet a node has no rules for it (T-2, T-3, PP-9.3)."""

import pytest
from simulations import MS, simulate

from kpsim.reports.figures import figures
from kpsim.simulation.runlog import RunLog
from kpsim.units import SECOND_NS

STICKY = (
    "nodes={list: [{name: node-1, zone: a}, {name: node-2, zone: b}]}",
    "workloads[0].replicas=4",
    "objects[0].spec.sessionAffinity=ClientIP",
    "duration=20s",
)
ONE_NODE = (
    "traffic: [{name: t, from: outside, service: web, via: nodePort, nodes: [node-1], perSecond: 40, clients: 40}]\n"
)
BOTH = ONE_NODE.replace("nodes: [node-1], ", "").replace("clients: 40", "clients: 39")


def causes(log: RunLog) -> set[str]:
    return {c.affinity_break for c in log.connections} - {""}


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_hints_take_clients_from_ready_endpoints(mode: str) -> None:
    """With PreferSameZone node-1 keeps only zone a's endpoints; those of zone b are as ready as before (T-3, T-6.3)."""
    event = "events: [{at: 5s, patchService: {service: web, patch: {spec: {trafficDistribution: PreferSameZone}}}}]\n"
    log = simulate(event + ONE_NODE, *STICKY, f"proxy.mode={mode}")
    assert causes(log) == {"zone hints"}
    broken = [c for c in log.connections if c.affinity_break]
    assert {c.endpoint_node for c in broken} == {"node-1"}
    former = {c.client for c in log.connections if c.at_ns < SECOND_NS and c.endpoint_node == "node-2"}
    assert {c.client for c in broken} == former and len(broken) == len(former)  # each once
    assert figures(log)["affinity.breaks.zone-hints"] == len(broken)


def test_a_local_policy_takes_clients_from_ready_endpoints() -> None:
    event = "events: [{at: 5s, patchService: {service: web, patch: {spec: {externalTrafficPolicy: Local}}}}]\n"
    log = simulate(event + ONE_NODE, *STICKY)
    # a Service patch asks for no other slices: written 5.007, delivered +19 ms, in force +23 ms
    broken = [c for c in log.connections if c.affinity_break]
    assert {c.affinity_break for c in broken} == {"traffic policy"} and broken[0].at_ns >= 5049 * MS


def test_another_node_is_the_cause_where_that_node_lacks_the_rules() -> None:
    """Clients enter by both nodes in turn. Each node has rules for its own zone's, or its own, endpoints only."""
    hints = simulate(BOTH, *STICKY, "objects[0].spec.trafficDistribution=PreferSameZone")
    local = simulate(BOTH, *STICKY, "objects[0].spec.externalTrafficPolicy=Local")
    assert causes(hints) == causes(local) == {"other node"}


def test_an_endpoint_that_is_gone_is_gone_with_hints_too() -> None:
    event = "events: [{at: 5s, deletePods: {workload: web, nodes: [node-1], force: true}}]\n"
    log = simulate(event + ONE_NODE, *STICKY, "objects[0].spec.trafficDistribution=PreferSameZone")
    gone = [c for c in log.connections if c.affinity_break == "endpoint gone"]
    assert gone and causes(log) <= {"endpoint gone", "zone hints"}
