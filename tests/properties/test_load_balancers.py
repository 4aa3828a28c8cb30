"""A load balancer that looks only at nodes that may have changed logs the same as one that looks at all nodes."""

from unittest.mock import patch

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kpsim.scenario import parse_scenario
from kpsim.simulation import run
from kpsim.simulation.overdue import OverdueNodes
from kpsim.simulation.runlog import RunLog, Sync

#: with a sync period of 1s health times out after 2 s, and syncs may take longer: health then turns by the clock alone
SCENARIO = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: test}
duration: 20s
nodes: {count: 3, ipFamilies: [IPv4, IPv6]}
proxy: {iptables: {minSyncPeriod: 500ms, syncPeriod: PERIOD}}
loadBalancer: {interval: 3s}
delays: {nodeMonitorGrace: 3s, sync: {base: {uniform: {low: 100ms, high: 3s}}}}
workloads:
  - {name: web, replicas: 2, ports: [{containerPort: 8080}], startup: {delay: 1s}}
objects:
  - apiVersion: v1
    kind: Service
    metadata: {name: web}
    spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32080, clusterIP: 172.30.0.10,
           selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
  - apiVersion: v1
    kind: Service
    metadata: {name: all}
    spec: {type: LoadBalancer, clusterIP: 172.30.0.11, selector: {app: web},
           ports: [{port: 80, targetPort: 8080, nodePort: 30081}]}
events:
"""
node = st.sampled_from(["[node-1]", "[node-2]", "[node-3]", "[node-1, node-2]"])
PATCH = "patchService: {service: web, patch: {spec: {externalTrafficPolicy: %s, healthCheckNodePort: %d}}}"
actions = st.one_of(
    st.just("rollout: {workload: web}"),
    st.builds("scale: {{workload: web, replicas: {}}}".format, st.integers(0, 4)),
    st.builds("nodeDown: {{nodes: {}}}".format, node),
    st.builds("nodeUp: {{nodes: {}}}".format, node),
    st.builds("restartProxy: {{nodes: {}, down: {}ms}}".format, node, st.sampled_from([0, 2500])),
    st.builds("failSyncs: {{nodes: {}, for: {}s}}".format, node, st.integers(1, 6)),
    st.sampled_from([PATCH % ("Cluster", 0), PATCH % ("Local", 32080)]),
)
events = st.lists(st.tuples(st.integers(1, 36), actions), min_size=1, max_size=8)


def simulate(events: list[tuple[int, str]], period: str) -> RunLog:
    lines = [f"  - {{at: {at * 500}ms, {action}}}\n" for at, action in sorted(events)]
    return run(parse_scenario(SCENARIO.replace("PERIOD", period) + "".join(lines), "test.yaml"), seed=1)


@settings(max_examples=30, deadline=None)
@given(events, st.sampled_from(["1s", "30s"]))
@example([(9, PATCH % ("Cluster", 0)), (25, PATCH % ("Local", 32080))], "30s")  # what is probed changes for all nodes
@example([(9, "restartProxy: {nodes: [node-1], down: 2500ms}")], "30s")
@example([(7, "failSyncs: {nodes: [node-1], for: 9s}"), (8, "rollout: {workload: web}")], "1s")
def test_a_balancer_misses_no_change(events: list[tuple[int, str]], period: str) -> None:
    found = simulate(events, period)
    with patch.object(OverdueNodes, "at", lambda self, now_ns: {"node-1", "node-2", "node-3"}):
        scanned = simulate(events, period)
    assert found.node_health == scanned.node_health


def sync(node: str, start_s: int, success: bool = True) -> Sync:
    return Sync(node, "IPv4", start_s, start_s + 1, True, success, None, 0, 0, 0)


def test_a_node_is_overdue_when_its_last_successful_sync_began_too_long_ago() -> None:
    log = RunLog("test", 1, 100, "iptables")
    overdue = OverdueNodes(log, ["a", "b"], ["IPv4"], 10)
    assert overdue.at(0) == {"a", "b"}  # no sync yet
    log.syncs.extend([sync("a", 1), sync("b", 2, success=False)])
    assert overdue.at(3) == {"b"}
    log.syncs.extend([sync("b", 5), sync("a", 6, success=False)])
    assert overdue.at(10) == set()
    assert overdue.at(11) == {"a"}
    log.syncs.extend([sync("a", 12)])
    assert overdue.at(15) == {"b"}
    assert overdue.at(40) == {"a", "b"}
