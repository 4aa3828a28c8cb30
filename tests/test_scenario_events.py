"""Events on the clock: readiness, taints, cordons, drains, eviction, slices without a controller, and events without effect."""

import pytest
from simulations import HEAD, MS, simulate

from kpsim.errors import InputError
from kpsim.reports.sentences import note_lines
from kpsim.scenario import parse_scenario
from kpsim.simulation.runlog import Connection, Fate, RunLog
from kpsim.units import SECOND_NS

NO_PROBE = "workloads[0].readiness.probeDelay=0s"
TRAFFIC = "traffic: [{name: t, from: nodes, service: web, perSecond: 40}]\n"


def told(log: RunLog, kind: str) -> list[tuple[int, str, str]]:
    return [(h.at_ns // MS, h.subject, h.detail) for h in log.happenings if h.kind == kind]


def endpoints(connections: list[Connection]) -> set[str]:
    return {c.endpoint for c in connections}


def between(log: RunLog, start_ms: int, end_ms: int) -> list[Connection]:
    return [c for c in log.connections if start_ms * MS <= c.at_ns < end_ms * MS]


# ------------------------------------------------------------------------------------------------------------- readiness


def test_a_pod_that_fails_its_probe_gets_no_new_connection_and_refuses_none() -> None:
    events = "events: [{at: 5s, readiness: {workload: web, nodes: [node-2], for: 10s}}]\n"
    log = simulate(events + TRAFFIC, "duration=30s")
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}
    # noticed after 100 ms, +11+7 status, +13 seen, +17 slice, +19 delivered, +23 synced
    assert endpoints(between(log, 5190, 15_100)) == {"10.180.1.2:8080"}
    assert len(endpoints(between(log, 15_190, 30_000))) == 2
    assert told(log, "pod not ready") == [(5100, "default/web-2", "node-2")]
    assert told(log, "pod ready") == [(15_100, "default/web-2", "node-2")]


def test_readiness_comes_back_by_another_event_too() -> None:
    events = """
events:
  - {at: 5s, readiness: {workload: web, count: 2}}
  - {at: 10s, readiness: {workload: web, ready: true}}
"""
    log = simulate(events, "duration=20s", NO_PROBE)
    assert [at for at, _, _ in told(log, "pod not ready")] == [5000, 5000]
    assert told(log, "pod ready") == [(10_000, "default/web-1", "node-1")]


def test_a_pod_that_fails_its_probe_by_an_event_starts_not_ready_after_a_crash() -> None:
    events = """
events:
  - {at: 5s, readiness: {workload: web, nodes: [node-2]}}
  - {at: 6s, crash: {workload: web, nodes: [node-2]}}
"""
    log = simulate(events, "duration=20s")
    assert told(log, "pod ready") == []


def test_udp_flows_of_an_endpoint_that_no_longer_serves_are_cleaned_up() -> None:  # CT-2.3.4
    head = HEAD.replace("containerPort: 8080", "containerPort: 8080, protocol: UDP").replace(
        "{port: 80,", "{port: 80, protocol: UDP,"
    )
    events = "events: [{at: 5s, readiness: {workload: web, nodes: [node-2]}}]\n"
    traffic = "traffic: [{name: t, from: nodes, service: web, perSecond: 40, sourcePorts: 4}]\n"
    log = simulate(events + traffic, "duration=20s", head=head)
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}
    assert len(endpoints(between(log, 0, 5190))) == 2
    assert endpoints(between(log, 5190, 20_000)) == {"10.180.1.2:8080"}
    assert told(log, "conntrack clean-up")


# ----------------------------------------------------------------------------------------------------------------- nodes

BALANCED = (
    HEAD.replace("type: NodePort", "type: LoadBalancer") + "loadBalancer: {interval: 2s, unhealthyThreshold: 2}\n"
)


def test_a_node_that_the_autoscaler_will_delete_fails_healthz_and_goes_on_working() -> None:  # CP-14.2, CP-14.3
    events = "events: [{at: 5s, taintNode: {node: node-2, key: ToBeDeletedByClusterAutoscaler}}]\n"
    traffic = "traffic: [{name: t, service: web, via: loadBalancer, perSecond: 40, clients: 50}]\n"
    log = simulate(events + traffic, "duration=30s", head=BALANCED)
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}
    # written 5.007, +19 delivered to the node's kube-proxy; out with the second failed probe, one every 2 s
    checks = [(row.at_ns // MS, row.check_passes, row.in_rotation) for row in log.node_health if row.node == "node-2"]
    assert checks[:2] == [(0, True, True), (5026, False, True)]
    (out,) = checks[2:]
    assert 7026 <= out[0] <= 9026 and out[1:] == (False, False)
    assert {c.node for c in between(log, 9026, 30_000)} == {"node-1"}


def test_it_passes_again_without_the_taint_and_other_taints_do_not_matter() -> None:
    events = """
events:
  - {at: 5s, taintNode: {node: node-2, key: ToBeDeletedByClusterAutoscaler}}
  - {at: 15s, untaintNode: {node: node-2, key: ToBeDeletedByClusterAutoscaler}}
  - {at: 5s, taintNode: {node: node-1, key: example.com/gpu}}
"""
    log = simulate(events, "duration=30s", head=BALANCED)
    turns = {name: [r.at_ns // MS for r in log.node_health if r.node == name] for name in ("node-1", "node-2")}
    assert turns["node-1"] == [0]
    assert turns["node-2"][1] == 5026 and 15_026 in turns["node-2"]


def test_no_pod_is_placed_on_a_cordoned_or_tainted_node_until_it_is_free_again() -> None:
    events = """
events:
  - {at: 4s, cordon: {node: node-1}}
  - {at: 4s, taintNode: {node: node-1, key: example.com/gpu}}
  - {at: 5s, scale: {workload: web, replicas: 4}}
  - {at: 10s, uncordon: {node: node-1}}
  - {at: 11s, scale: {workload: web, replicas: 5}}
  - {at: 15s, untaintNode: {node: node-1, key: example.com/gpu}}
  - {at: 16s, scale: {workload: web, replicas: 6}}
"""
    log = simulate(events, "duration=30s")
    assert [node for _, _, node in told(log, "pod created")] == ["node-2", "node-2", "node-2", "node-1"]


def test_a_drain_moves_the_pods_elsewhere_with_their_grace() -> None:
    events = "events: [{at: 5s, drain: {node: node-2}}]\n"
    log = simulate(events + TRAFFIC, "duration=30s", "workloads[0].termination.preStop=5s")
    assert told(log, "node drained") == [(5000, "node-2", "")]
    assert told(log, "pods evicted") == [(5007, "node-2", "1 pods, drain")]
    assert [(at, node) for at, _, node in told(log, "pod created")] == [(5014, "node-1")]  # the deletion is written +7
    assert {c.disposition for c in log.connections} == {Fate.DELIVERED}
    assert {c.endpoint_node for c in between(log, 12_000, 30_000)} == {"node-1"}


def test_pods_without_any_node_left_wait_for_one() -> None:
    events = "events: [{at: 5s, drain: {node: node-1}}, {at: 15s, uncordon: {node: node-1}}]\n"
    log = simulate(events, "duration=30s", "nodes={count: 1}", "workloads[0].replicas=1")
    assert told(log, "pod unschedulable")
    assert [(at, node) for at, _, node in told(log, "pod created")] == [(15_007, "node-1")]


def test_a_taint_with_no_execute_deletes_the_pods() -> None:
    events = "events: [{at: 5s, taintNode: {node: node-2, key: example.com/bad, effect: NoExecute}}]\n"
    log = simulate(events, "duration=30s")
    assert told(log, "pods evicted") == [(5007, "node-2", "1 pods, taint example.com/bad")]
    assert [node for _, _, node in told(log, "pod created")] == ["node-1"]


def test_pods_of_a_lost_node_are_replaced_after_their_toleration() -> None:  # CP-2.9, CP-2.9.1
    events = "events: [{at: 10s, nodeDown: {nodes: [node-2]}}]\n"
    log = simulate(events, "duration=400s")
    assert told(log, "node lost") == [(60_000, "node-2", "silent for 50s")]
    assert told(log, "pods evicted") == [(360_000, "node-2", "1 pods, unreachable")]
    assert told(log, "pod created") == [(360_007, "default/web-3", "node-1")]
    assert told(log, "pod gone") == []  # no kubelet confirms the deletion: the object goes on terminating


def test_a_node_that_comes_back_in_time_keeps_its_pods() -> None:
    events = "events: [{at: 10s, nodeDown: {nodes: [node-2]}}, {at: 359s, nodeUp: {nodes: [node-2]}}]\n"
    log = simulate(events, "duration=400s")
    assert told(log, "pods evicted") == told(log, "pod created") == []
    soon = simulate(events, "duration=400s", "delays.unreachableToleration=10s")
    assert told(soon, "pods evicted") == [(70_000, "node-2", "1 pods, unreachable")]
    assert told(soon, "pod gone") == [(359_000, "default/web-2", "node-2")]  # the kubelet learns of the deletion


# ---------------------------------------------------------------------------------------------- slices without controller

SLICES = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: test}
duration: 20s
nodes: {count: 2}
workloads:
  - {name: web, replicas: 2, ports: [{containerPort: 8080}]}
objects:
  - apiVersion: v1
    kind: Service
    metadata: {name: db}
    spec: {clusterIP: 172.30.0.10, ports: [{port: 80, targetPort: 8080}]}
  - apiVersion: v1
    kind: Service
    metadata: {name: web}
    spec: {clusterIP: 172.30.0.11, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
  - &slice
    apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata: {name: db-1, labels: {kubernetes.io/service-name: db}}
    addressType: IPv4
    ports: [{name: "", port: 8080}]
    endpoints: [{addresses: [10.180.1.2]}]
"""
OTHER = "patchEndpointSlice: {endpointSlice: db-1, patch: {endpoints: [{addresses: [10.180.2.2]}]}}"
DB = "traffic: [{name: t, from: nodes, service: db, perSecond: 20}]\n"


def test_a_slice_of_a_service_without_selector_is_changed_by_an_event() -> None:
    log = simulate(f"events: [{{at: 5s, {OTHER}}}]\n" + DB, head=SLICES)
    (row,) = [row for row in log.programming if row.node == "node-1"]
    assert (row.written_ns // MS, row.programmed_ns // MS) == (5007, 5049)  # +7 written, +19 delivered, +23 synced
    assert endpoints(between(log, 0, 5049)) == {"10.180.1.2:8080"}
    assert endpoints(between(log, 5049, 20_000)) == {"10.180.2.2:8080"}
    assert told(log, "slice patched") == [(5000, "default/db-1", "endpoints")]


def test_slices_come_and_go_by_events() -> None:
    made = """
events:
  - {at: 5s, deleteEndpointSlice: {endpointSlice: default/db-1}}
  - at: 10s
    createEndpointSlice:
      apiVersion: discovery.k8s.io/v1
      kind: EndpointSlice
      metadata: {name: db-2, labels: {kubernetes.io/service-name: db}}
      addressType: IPv4
      ports: [{name: "", port: 8080}]
      endpoints: [{addresses: [10.180.2.2]}]
"""
    log = simulate(made + DB, "icmpRateLimit=false", head=SLICES)
    assert {c.disposition for c in between(log, 5049, 10_049)} == {Fate.REJECTED}
    assert endpoints(between(log, 10_049, 20_000)) == {"10.180.2.2:8080"}
    assert told(log, "slice deleted") and told(log, "slice created")


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ("patchEndpointSlice: {endpointSlice: db-3, patch: {}}", "there is no EndpointSlice default/db-3 at that time"),
        ("deleteEndpointSlice: {endpointSlice: db-3}", ".events[0].deleteEndpointSlice.endpointSlice: there is no"),
        (
            "patchEndpointSlice: {endpointSlice: db-1, patch: {addressType: IPv6}}",
            "cannot be changed (from 'IPv4' to 'IPv6')",
        ),
        (
            "patchEndpointSlice: {endpointSlice: db-1, patch: {metadata: {labels: {kubernetes.io/service-name: web}}}}",
            "leaves the slice's Service",
        ),
        ("createEndpointSlice: *slice", "there is a EndpointSlice default/db-1 already"),
        (
            "createEndpointSlice: {<<: *slice, metadata: {name: x, labels: {kubernetes.io/service-name: web}}}",
            "Service default/web has a selector: the EndpointSlice controller makes its slices",
        ),
        ("taintNode: {node: node-9, key: x}", ".events[0].taintNode.node: there is no node 'node-9'"),
        ("taintNode: {node: node-1, key: 'a b'}", ".events[0].taintNode.key"),
        ("drain: {node: node-9}", ".events[0].drain.node: there is no node"),
        ("readiness: {workload: wep}", ".events[0].readiness.workload: there is no workload 'wep'"),
        ("readiness: {workload: web, nodes: [node-9]}", ".events[0].readiness.nodes[0]: there is no node"),
    ],
)
def test_what_an_api_server_would_refuse_is_an_error_of_the_file(event: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_scenario(SLICES + f"events: [{{at: 1s, {event}}}]\n", "test.yaml")
    assert words in str(caught.value)
    assert "test.yaml" in str(caught.value)


# ------------------------------------------------------------------------------------------------------ without effect


def test_a_restart_of_a_stopped_kube_proxy_is_told_and_the_later_return_counts() -> None:
    events = """
events:
  - {at: 10s, restartProxy: {nodes: [node-1], down: 10s}}
  - {at: 12s, restartProxy: {nodes: [node-1]}}
  - {at: 15s, restartProxy: {nodes: [node-1], down: 10s}}
"""
    log = simulate(events)
    words = "restartProxy: kube-proxy is stopped already, and comes back at "
    assert told(log, "event without effect") == [(12_000, "node-1", words + "20s")]
    assert told(log, "kube-proxy stopped") == [(10_000, "node-1", ""), (15_000, "node-1", words + "25s")]
    assert [at for at, _, _ in told(log, "kube-proxy started")] == [25_000]


@pytest.mark.parametrize(
    ("events", "detail"),
    [
        ("[{at: 5s, nodeUp: {nodes: [node-1]}}]", "nodeUp: the node is not down"),
        (
            "[{at: 4s, nodeDown: {nodes: [node-1]}}, {at: 5s, nodeDown: {nodes: [node-1]}}]",
            "nodeDown: the node is down already",
        ),
        (
            "[{at: 4s, nodeDown: {nodes: [node-1]}}, {at: 5s, restartProxy: {nodes: [node-1]}}]",
            "restartProxy: the node is down",
        ),
        ("[{at: 5s, crash: {workload: web, count: 3}}]", "crash: 2 of 3 pods found"),
        ("[{at: 5s, deletePods: {workload: web, count: 2, nodes: [node-1]}}]", "deletePods: 1 of 2 pods found"),
        ("[{at: 5s, readiness: {workload: web, ready: true}}]", "readiness: 0 of 1 pods found"),
        ("[{at: 5s, uncordon: {node: node-1}}]", "uncordon: the node is not cordoned"),
        ("[{at: 5s, untaintNode: {node: node-1, key: x}}]", "untaintNode: the node has no taint x"),
    ],
)
def test_an_event_without_effect_is_told(events: str, detail: str) -> None:
    log = simulate(f"events: {events}\n", "duration=10s")
    ((at_ms, _, words),) = told(log, "event without effect")
    assert words == detail and at_ms in (5000, 5007)


def test_an_event_without_effect_changes_nothing_else() -> None:
    plain = simulate("", "duration=10s")
    log = simulate("events: [{at: 5s, nodeUp: {nodes: [node-1]}}]\n", "duration=10s")
    assert (log.syncs, log.node_health) == (plain.syncs, plain.node_health)
    assert len(log.happenings) == len(plain.happenings) + 1
    assert log.happenings[-1].at_ns == 5 * SECOND_NS
    assert note_lines(plain) == []
    assert note_lines(log) == ["5 s, node-1: nodeUp: the node is not down."]
