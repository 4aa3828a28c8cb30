"""A load balancer looks only at nodes that may have changed, and its records still say at any time what is true."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kpsim.scenario import Scenario, parse_scenario
from kpsim.simulation.engine import Run

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


def scenario_of(events: list[tuple[int, str]], period: str) -> Scenario:
    lines = [f"  - {{at: {at * 500}ms, {action}}}\n" for at, action in sorted(events)]
    return parse_scenario(SCENARIO.replace("PERIOD", period) + "".join(lines), "test.yaml")


@settings(max_examples=30, deadline=None)
@given(events, st.sampled_from(["1s", "30s"]))
@example([(9, PATCH % ("Cluster", 0)), (25, PATCH % ("Local", 32080))], "30s")  # what is probed changes for all nodes
@example([(9, "restartProxy: {nodes: [node-1], down: 2500ms}")], "30s")
@example([(7, "failSyncs: {nodes: [node-1], for: 9s}"), (8, "rollout: {workload: web}")], "1s")
def test_a_balancer_misses_no_change(events: list[tuple[int, str]], period: str) -> None:
    """After every action of the run the last record of each node says what is true then."""
    made = Run(scenario_of(events, period), 1)
    seen, reached_ns = 0, 0
    recorded: dict[tuple[str, str], tuple[bool, int, int]] = {}
    truth: dict[tuple[str, str], tuple[bool, int, int]] = {}
    for now_ns in made.steps(None):
        if now_ns > reached_ns:  # the instant before is complete
            assert recorded == truth, reached_ns
            reached_ns = now_ns
        for row in made.log.node_health[seen:]:
            recorded[row.service, row.node] = (row.check_passes, row.local_endpoints, row.local_usable)
        seen = len(made.log.node_health)
        for key, balancer in made.balancers.items():
            for name, proxy in made.proxies.items():
                local = proxy.local_endpoints(key)
                truth[str(key), name] = (balancer._passes(proxy), local.ready, local.usable)
    assert len(truth) == 6 and recorded == truth
