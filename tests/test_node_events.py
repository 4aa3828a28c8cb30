"""Nodes that join a running cluster, leave it, and are labelled."""

import pytest
from simulations import HEAD, MS, simulate

from kpsim.errors import InputError
from kpsim.scenario import parse_scenario
from kpsim.simulation.runlog import Connection, RunLog

OUTSIDE = "traffic: [{name: t, service: web, via: nodePort, perSecond: 5}]\n"
BALANCED = HEAD.replace("type: NodePort", "type: LoadBalancer") + "loadBalancer: {interval: 2s, healthyThreshold: 2}\n"


def told(log: RunLog, kind: str) -> list[tuple[int, str, str]]:
    return [(h.at_ns // MS, h.subject, h.detail) for h in log.happenings if h.kind == kind]


def nodes(log: RunLog, start_ms: int, end_ms: int) -> set[str]:
    return {c.node for c in between(log, start_ms, end_ms)}


def between(log: RunLog, start_ms: int, end_ms: int) -> list[Connection]:
    return [c for c in log.connections if start_ms * MS <= c.at_ns < end_ms * MS]


def test_a_node_that_joins_was_not_there_before() -> None:
    events = "events: [{at: 5s, addNode: {node: node-2}}, {at: 10s, scale: {workload: web, replicas: 3}}]\n"
    log = simulate(events + OUTSIDE, "duration=20s")
    assert nodes(log, 0, 5000) == {"node-1"}  # clients do not know it
    assert nodes(log, 6000, 20_000) == {"node-1", "node-2"}
    assert {c.endpoint_node for c in between(log, 0, 5000)} == {"node-1"}  # both pods
    assert told(log, "pod created") == [(10_000, "default/web-3", "node-2")]
    # the Node is written after 7 ms, kube-proxy starts, has its lists 100 ms later, and syncs for 23 ms
    first = min(sync.end_ns for sync in log.syncs if sync.node == "node-2")
    assert first == (5000 + 7 + 100 + 23) * MS


def test_a_load_balancer_finds_it_by_its_probes() -> None:
    events = "events: [{at: 5s, addNode: {node: node-2}}]\n"
    traffic = "traffic: [{name: t, service: web, via: loadBalancer, perSecond: 10, clients: 50}]\n"
    log = simulate(events + traffic, "duration=20s", head=BALANCED)
    (joined,) = [row.at_ns for row in log.node_health if row.node == "node-2" and row.in_rotation][:1]
    assert 7107 * MS <= joined <= 9107 * MS  # the second probe that passes, one every 2 s
    assert nodes(log, 0, joined // MS) == {"node-1"} and nodes(log, 9200, 20_000) == {"node-1", "node-2"}


def test_pods_that_found_no_node_wait_for_it() -> None:
    events = "events: [{at: 5s, addNode: {node: node-1}}]\n"
    log = simulate(events, "duration=20s", "nodes={count: 1}", "workloads[0].replicas=1")
    assert [(at, node) for at, _, node in told(log, "pod created")] == [(5007, "node-1")]


def test_the_pods_of_a_deleted_node_are_collected_and_replaced() -> None:
    """Until then they serve: kube-proxy and its health check go on with the last Node (CP-14.2, T-5.3)."""
    log = simulate("events: [{at: 5s, deleteNode: {node: node-2}}]\n" + OUTSIDE, "duration=100s")
    ((collected, node, detail),) = told(log, "pods collected")
    assert (node, detail) == ("node-2", "1 pods, there is no Node")
    assert 5007 + 60_000 <= collected <= 5007 + 80_000
    assert told(log, "pod created") == [(collected + 7, "default/web-3", "node-1")]
    assert {c.endpoint_node for c in between(log, 5100, collected)} == {"node-1", "node-2"}
    assert {c.endpoint_node for c in between(log, collected + 2000, 100_000)} == {"node-1"}
    assert nodes(log, 90_000, 100_000) == {"node-1", "node-2"}  # its machine runs on


def test_a_node_that_comes_back_keeps_its_pods() -> None:
    events = "events: [{at: 5s, deleteNode: {node: node-2}}, {at: 20s, addNode: {node: node-2}}]\n"
    log = simulate(events, "duration=100s")
    assert not told(log, "pods collected") and not told(log, "pod created")
    down = "events: [{at: 5s, nodeDown: {nodes: [node-2]}}, {at: 6s, deleteNode: {node: node-2}}, {at: 9s, nodeUp: {nodes: [node-2]}}]\n"
    log = simulate(down, "duration=100s")
    assert told(log, "node added") == [(9000, "node-2", "")]  # its kubelet makes the Node that it misses
    assert [subject for _, subject, _ in told(log, "pod ready")] == ["default/web-2"]


def test_without_its_node_a_pod_is_in_no_new_slice() -> None:
    """CP-3.4.1: the sync leaves it out and fails. A pod's change makes the controller sync."""
    events = "events: [{at: 5s, deleteNode: {node: node-2}}, {at: 10s, scale: {workload: web, replicas: 3}}]\n"
    log = simulate(events + OUTSIDE, "duration=30s")
    assert {c.endpoint_node for c in between(log, 6000, 10_000)} == {"node-1", "node-2"}
    assert {c.endpoint_node for c in between(log, 12_000, 30_000)} == {"node-1"}


def test_a_zone_label_makes_its_kube_proxy_sync_in_full() -> None:
    """T-5.2. CP-3.1: the slices have the new zone only after the Service's next sync."""
    events = """
events:
  - {at: 5s, labelNode: {node: node-2, labels: {topology.kubernetes.io/zone: b}}}
  - {at: 20s, patchService: {service: web, patch: {metadata: {labels: {a: b}}}}}
"""
    wanted = "objects[0].spec.trafficDistribution=PreferSameZone"
    log = simulate(events + OUTSIDE, "duration=40s", wanted)
    assert [(s.node, s.full) for s in log.syncs if 5 <= s.start_ns / 1e9 < 20] == [("node-2", True)]
    seen = {
        when: {(c.node, c.endpoint_node) for c in between(log, *when)}
        for when in ((1000, 5000), (6000, 20_000), (21_500, 40_000))
    }
    everybody = {(one, other) for one in ("node-1", "node-2") for other in ("node-1", "node-2")}
    assert seen[1000, 5000] == everybody  # one zone
    assert seen[6000, 20_000] == everybody  # no endpoint is hinted for b, so node-2 uses all (T-3.2)
    assert seen[21_500, 40_000] == {("node-1", "node-1"), ("node-2", "node-2")}


def test_events_that_find_no_node() -> None:
    events = """
events:
  - {at: 1s, cordon: {node: node-2}}
  - {at: 2s, nodeUp: {nodes: [node-2]}}
  - {at: 3s, restartProxy: {nodes: [node-2]}}
  - {at: 4s, deleteNode: {node: node-1}}
  - {at: 5s, labelNode: {node: node-1, labels: {topology.kubernetes.io/zone: b}}}
  - {at: 6s, addNode: {node: node-2}}
  - {at: 7s, addNode: {node: node-2}}
"""
    log = simulate(events, "duration=20s")
    assert [at for at, _, _ in told(log, "event without effect")] == [1000, 2000, 3000, 5000, 7000]


def test_labels_that_decide_nothing_are_named() -> None:
    events = "events: [{at: 5s, labelNode: {node: node-2, labels: {team: a, topology.kubernetes.io/zone: null}}}]\n"
    assert any("labelNode: team decides nothing" in note for note in parse_scenario(HEAD + events, "x.yaml").notes)
    with pytest.raises(InputError, match="there is no node 'node-9'"):
        parse_scenario(HEAD + "events: [{at: 5s, addNode: {node: node-9}}]\n", "x.yaml")
