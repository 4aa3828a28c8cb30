"""What holds in every run: accidents are drawn at random, and the run log must never show certain things."""

import itertools
import re

import pytest

from kpsim import rng
from kpsim.reports.figures import figures
from kpsim.scenario import parse_scenario
from kpsim.simulation import run
from kpsim.simulation.runlog import Fate, Reason, RunLog
from kpsim.units import MILLISECOND_NS, SECOND_NS

HEAD = """\
apiVersion: kpsim.dev/v1alpha1
kind: Scenario
metadata: {name: accidents}
duration: 40s
nodes: {count: 3, zones: [a, b], ipFamilies: [IPv4, IPv6], podIPAllocation: lowestFree}
workloads:
  - {name: web, replicas: 4, ports: [{containerPort: 8080}], termination: {preStop: {uniform: {low: 0s, high: 3s}}}}
  - {name: dns, replicas: 2, ports: [{containerPort: 53, protocol: UDP}]}
  - {name: other, replicas: 1}
objects:
  - apiVersion: v1
    kind: Service
    metadata: {name: web}
    spec: {type: LoadBalancer, clusterIP: 172.30.0.10, ipFamilyPolicy: PreferDualStack, externalTrafficPolicy: Local,
           sessionAffinity: ClientIP, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
    status: {loadBalancer: {ingress: [{ip: 198.51.100.10}]}}
  - apiVersion: v1
    kind: Service
    metadata: {name: dns}
    spec: {clusterIP: 172.30.0.53, trafficDistribution: PreferSameZone, selector: {app: dns},
           ports: [{port: 53, protocol: UDP}]}
delays:
  apiWrite: {exponential: {mean: 5ms}}
  watchDelivery: {uniform: {low: 1ms, high: 300ms}}
  sync: {base: {uniform: {low: 10ms, high: 200ms}}, perRule: 10us}
  nodeMonitorGrace: 5s
loadBalancer: {interval: 1s}
traffic:
  - {name: outside, service: web, via: loadBalancer, perSecond: 10, clients: 7, arrivals: poisson, connectTimeout: 4s}
  - {name: inside, from: pods, workload: web, service: web, perSecond: 5, ipFamily: IPv6}
  - {name: lookups, from: nodes, service: dns, perSecond: 10, sourcePorts: 2}
  - {name: long, from: nodes, service: web, perSecond: 1, long: {lasts: {exponential: {mean: 5s}}, packetEvery: 500ms}}
events:
"""

ACCIDENTS = (
    "rollout: {workload: web}",
    "rollout: {workload: dns, maxSurge: 0, maxUnavailable: 1}",
    "scale: {workload: web, replicas: %d}",
    "scale: {workload: dns, replicas: %d}",
    "crash: {workload: web, count: %d}",
    "deletePods: {workload: dns, count: 1, force: true}",
    "deletePods: {workload: web, count: %d}",
    "nodeDown: {nodes: [node-%d]}",
    "nodeUp: {nodes: [node-%d]}",
    "restartProxy: {nodes: [node-%d], down: 2s}",
    "restartProxy: {}",
    "failSyncs: {nodes: [node-%d], count: 2}",
    "failSyncs: {for: 3s}",
    "patchService: {service: web, patch: {spec: {externalTrafficPolicy: Cluster}}}",
    "patchService: {service: dns, patch: {spec: {trafficDistribution: null}}}",
    "patchService: {service: dns, patch: {spec: {selector: {app: other}}}}",
    "patchService: {service: dns, patch: {spec: {selector: {app: dns}}}}",
    "scale: {workload: other, replicas: %d}",
)


def accident(seed: int, number: int) -> str:
    at_ms = rng.below(38_000, seed, "at", number)
    text = ACCIDENTS[rng.below(len(ACCIDENTS), seed, "what", number)]
    return f"  - {{at: {at_ms}ms, {text % (1 + rng.below(3, seed, 'who', number)) if '%d' in text else text}}}\n"


def run_with_accidents(seed: int) -> RunLog:
    events = "".join(accident(seed, number) for number in range(12))
    return run(parse_scenario(HEAD + events, "accidents.yaml"), seed=seed)


@pytest.mark.parametrize("seed", range(8))
def test_invariants_of_a_run(seed: int) -> None:
    log = run_with_accidents(seed)
    assert log.connections and log.syncs and log.programming and log.node_health
    # lists are in time order
    for times in (
        [c.at_ns for c in log.connections],
        [sync.end_ns for sync in log.syncs],
        [row.programmed_ns for row in log.programming],
        [record.at_ns for record in log.node_health],
        [happening.at_ns for happening in log.happenings],
    ):
        assert times == sorted(times) and times[-1] < log.duration_ns
    # the stages of a change follow each other, and kube-proxy's sample overstates by less than a second at most
    for row in log.programming:
        assert row.trigger_ns <= row.written_ns <= row.delivered_ns <= row.sync_start_ns <= row.programmed_ns
    restarts = {h.subject: h.at_ns for h in log.happenings if h.kind in ("kube-proxy started", "node up")}
    for node in ("node-1", "node-2", "node-3"):
        for family in ("IPv4", "IPv6"):
            mine = [sync for sync in log.syncs if (sync.node, sync.family) == (node, family)]
            for earlier, later in itertools.pairwise(mine):
                assert later.start_ns >= earlier.end_ns
                if node not in restarts:  # the runner's pause (CP-9.3); a new process begins anew
                    assert later.start_ns - earlier.end_ns >= SECOND_NS or earlier.end_ns == 0
                if not earlier.success:
                    assert later.full  # CP-10.1 step 7
    # a record is there because something changed
    for node in ("node-1", "node-2", "node-3"):
        states = [
            (r.in_rotation, r.check_passes, r.local_endpoints, r.local_usable)
            for r in log.node_health
            if r.node == node
        ]
        assert all(earlier != later for earlier, later in itertools.pairwise(states))
    # dispositions and causes agree, and what was delivered has an endpoint
    for c in log.connections:
        assert (c.disposition is Fate.DELIVERED) == (c.cause is Reason.NONE)
        assert c.endpoint or c.disposition is not Fate.DELIVERED
        assert c.node or c.cause is Reason.NO_HEALTHY_NODE
        ended_ns = c.at_ns if c.broken_ns is None else c.broken_ns
        assert (c.disposition is Fate.MISDELIVERED) == (c.cause is Reason.MISDELIVERED)
        assert bool(c.answered_by) == (c.established or c.disposition is Fate.MISDELIVERED)
        assert c.syn_retries == 0 or c.traffic == "outside"
        if c.pin is not None:
            assert c.disposition is not Fate.DELIVERED and (not c.new_flow or c.broken_ns is not None)
            assert c.pin.entry_ns <= ended_ns + 4 * SECOND_NS
            assert c.pin.since_ns is None or c.pin.since_ns <= ended_ns + 4 * SECOND_NS
        assert c.broken_ns is None or (c.disposition is Fate.FAILED and c.at_ns < c.broken_ns < log.duration_ns)
    totals_add_up(log)


def totals_add_up(log: RunLog) -> None:
    """Every connection ends in exactly one way, in whatever way connections are counted."""
    found = figures(log)
    assert found["sent"] == len(log.connections)
    scopes = {name.removesuffix("sent") for name in found if name == "sent" or name.endswith(".sent")}
    assert {"", "traffic.long.", "services.default/web.", "nodes.node-1.", "policies.Local."} <= scopes
    for scope in scopes:
        assert found[f"{scope}sent"] == sum(found[f"{scope}{ended.value}"] for ended in Fate)
        assert found[f"{scope}established"] == found[f"{scope}delivered"] + found[f"{scope}broken"]
        assert found[f"{scope}broken"] <= found[f"{scope}failed"]
    for scope in ("services.", "traffic.", "policies.", "frontends."):
        parts = [name for name in scopes if name.startswith(scope)]
        assert sum(found[f"{name}sent"] for name in parts) == found["sent"]
    reached = [found[name] for name in found if re.fullmatch(r'endpoints\."([\d.]+|\[.+\]):\d+"\.established', name)]
    assert sum(reached) == found["established"] > 0


def test_after_the_last_accident_everything_settles() -> None:
    # nothing happens in the last 50 s but what was set off before: then every connection is delivered again
    events = "".join(f"  - {{at: {at}s, {text}}}\n" for at, text in (
        (2, "rollout: {workload: web}"), (3, "restartProxy: {down: 1s}"), (4, "crash: {workload: web, count: 2}"),
        (5, "nodeDown: {nodes: [node-2]}"), (6, "failSyncs: {for: 2s}"), (9, "nodeUp: {nodes: [node-2]}"),
    ))  # fmt: skip
    log = run(parse_scenario(HEAD + events, "accidents.yaml", settings=["duration=70s"]))
    late = [c for c in log.connections if c.at_ns > 60 * SECOND_NS]
    assert late and {c.cause for c in late} == {Reason.NONE}
    assert {r.node for r in log.node_health if not r.in_rotation}  # something did happen
    assert max(row.programmed_ns for row in log.programming) > 5000 * MILLISECOND_NS
