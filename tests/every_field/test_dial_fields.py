"""Every field of the dials of workloads and nodes changes a run, or is refused: two scenarios that differ in it, for each.

The scenarios are small and send nothing, as these fields decide what pods, Nodes and load balancers do.
"""

from typing import Any

import pytest
from scenario_fields import fields, is_dial, observe

from kpsim.scenario.schema import ScenarioSpec

Json = dict[str, Any]


def small(*, workload: Json | None = None, events: tuple[Json, ...] = (), **parts: Any) -> Json:
    """A scenario of two nodes and one workload. ``workload`` and ``parts`` are added to it."""
    given: Json = {"name": "w", "replicas": 2, "startup": {"delay": "500ms"}, "termination": {"preStop": "500ms"}}
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "w"},
        "spec": {"type": "LoadBalancer", "clusterIP": "172.30.0.10", "selector": {"app": "w"}, "ports": [{"port": 80}]},
    }  # fmt: skip
    return {
        "apiVersion": "kpsim.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "small"}, "duration": "40s",
        "nodes": {"count": 2, "zones": ["a"]}, "workloads": [{**given, **(workload or {})}], "objects": [service],
        "loadBalancer": {"interval": "1s"}, "events": list(events), **parts,
    }  # fmt: skip


def at(second: int, **event: Any) -> Json:
    return {"at": f"{second}s", **event}


ROLLOUT = at(2, rollout={"workload": "w", "maxSurge": 1, "maxUnavailable": 0})
SCALE = at(2, scale={"workload": "w", "replicas": 4})
DRAIN = at(2, drain={"node": "node-2"})
SICK = at(2, readiness={"workload": "w", "nodes": ["node-2"]})
DEAD = at(2, liveness={"workload": "w", "nodes": ["node-2"]})
ALIVE = {"probes": {"liveness": {"period": "2s", "failureThreshold": 2}}}
PROBED = {"probes": {"readiness": {"period": "2s", "failureThreshold": 2}}}
SET = {"kind": "StatefulSet"}
ADD = at(3, addNode={"node": "node-2"})
TAINT = at(3, taintNode={"node": "node-2", "key": "ToBeDeletedByClusterAutoscaler"})


def probe(kind: str, events: tuple[Json, ...], base: Json, **field: Any) -> tuple[Json, Json]:
    return tuple(small(workload={"probes": {kind: {**base, **more}}}, events=events) for more in ({}, field))  # type: ignore[return-value]


def upgrade(**field: Any) -> tuple[Json, Json]:
    base = {"takes": "2s", "drainTimeout": "5s"}
    budget = {"disruptionBudget": {"maxUnavailable": 0}}
    return tuple(small(workload=budget, events=(at(2, rollingUpgrade=f),)) for f in (base, {**base, **field}))  # type: ignore[return-value]


def event(base: Json, field: str, value: Any, workload: Json | None = None) -> tuple[Json, Json]:
    """Two scenarios with one event, whose field differs."""
    ((kind, body),) = ((k, v) for k, v in base.items() if k != "at")
    return small(workload=workload, events=(base,)), small(
        workload=workload, events=({**base, kind: {**body, field: value}},)
    )


def workload(events: tuple[Json, ...], one: Json, other: Json) -> tuple[Json, Json]:
    return small(workload=one, events=events), small(workload=other, events=events)


POLICY = "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"
BESIDE = {"nodes": ["node-1"], "rules": POLICY}
LOAD = at(1, loadRules=BESIDE)
SENT: Json = {"duration": "3s", "traffic": [{"name": "t", "from": "nodes", "service": "w", "perSecond": 20}]}


def beside(**field: Any) -> tuple[Json, Json]:
    return small(beside=[BESIDE], **SENT), small(beside=[{**BESIDE, **field}], **SENT)


def later(**field: Any) -> tuple[Json, Json]:
    return small(events=(LOAD,), **SENT), small(events=(at(1, loadRules={**BESIDE, **field}),), **SENT)


QUICK = {"period": "2s", "failureThreshold": 2}
SLOW_START = {"period": "1s", "failureThreshold": 1}
ZONES: Json = {"nodes": {"list": [{"name": f"node-{n}", "zone": zone} for n, zone in enumerate("aab", 1)]}}
SPREAD: Json = {"topologyKey": "topology.kubernetes.io/zone"}


def spread(**field: Any) -> Json:
    placement = {"policy": "packed", "topologySpread": [{**SPREAD, **field}]}
    return small(workload={"replicas": 5, "placement": placement}, **ZONES)


RESTART = at(3, restartProxy={})
CLOSE = at(3, closeWatches={})
#: a watch delivers so late that a change is on its way when the watch ends
LATE: Json = {"delays": {"watchDelivery": "2s"}}


def proxies(kube_proxy: Json, *events: Json) -> tuple[Json, Json]:
    return small(events=events, **LATE), small(events=events, kubeProxy=kube_proxy, **LATE)


def behind(kind: str, base: Json, **field: Any) -> tuple[Json, Json]:
    """An event of the API server in the middle of a change's way, and the same with another field."""
    return tuple(small(events=(SCALE, at(3, **{kind: body}), RESTART), **LATE) for body in (base, {**base, **field}))  # type: ignore[return-value]


BY_HAND = at(
    2,
    createEndpoints={
        "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db"},
        "subsets": [{"addresses": [{"ip": "198.51.100.1"}], "ports": [{"port": 5432}]}],
    },
)  # fmt: skip
BY_HAND_PATCH = at(3, patchEndpoints={"endpoints": "db", "patch": {"subsets": []}})


def older(**field: Any) -> tuple[Json, Json]:
    """Two scenarios whose Endpoints are written, of a workload of ten pods that grows."""
    more = at(2, scale={"workload": "w", "replicas": 12})
    one, other = ({"written": True, **each} for each in ({}, field))
    return tuple(small(workload={"replicas": 10}, events=(more,), endpoints=each) for each in (one, other))  # type: ignore[return-value]


MEASURED = {"costs": "measured-linux-6.18"}
OTHERS: Json = {"count": 30, "endpoints": 2}


def priced(one: Json, other: Json) -> tuple[Json, Json]:
    """Two scenarios whose syncs take something else; their events make kube-proxies sync."""
    return tuple(small(events=(SCALE,), delays={"sync": cost}) for cost in (one, other))  # type: ignore[return-value]


def priced_on_node(one: Json, other: Json) -> tuple[Json, Json]:
    on = [[{"nodes": ["node-1"], "sync": cost}] for cost in (one, other)]
    return tuple(small(events=(SCALE,), delays={"onNodes": each}) for each in on)  # type: ignore[return-value]


def others(**field: Any) -> tuple[Json, Json]:
    delays = {"sync": {"base": "10ms", "perRule": "1ms"}}
    parts = (small(events=(SCALE,), delays=delays, otherServices=each) for each in (OTHERS, {**OTHERS, **field}))
    return tuple(parts)  # type: ignore[return-value]


#: by field: two scenarios that differ in it
PAIRS: dict[str, tuple[Json, Json]] = {
    "beside": (small(**SENT), small(beside=[BESIDE], **SENT)),
    "beside.nodes": beside(nodes=["node-2"]),
    "beside.rules": beside(rules=POLICY.replace("DROP", "ACCEPT")),
    "beside.file": beside(file="gone.rules"),
    "events.loadRules": (small(**SENT), small(events=(LOAD,), **SENT)),
    "events.loadRules.nodes": later(nodes=["node-2"]),
    "events.loadRules.rules": later(rules=POLICY.replace("DROP", "ACCEPT")),
    "events.loadRules.file": later(file="gone.rules"),
    "events.apiServerBusy": (small(events=(RESTART,)), small(events=(at(2, apiServerBusy={"for": "5s"}), RESTART))),
    "events.apiServerBusy.for": behind("apiServerBusy", {"for": "1s"}, **{"for": "5s"}),
    "events.apiServerDown": (small(events=(SCALE,)), small(events=(SCALE, at(3, apiServerDown={"for": "5s"})))),
    "events.apiServerDown.for": behind("apiServerDown", {"for": "1s"}, **{"for": "5s"}),
    "events.apiServerSlow": (
        small(events=(SCALE,)),
        small(events=(at(1, apiServerSlow={"by": "1s", "for": "9s"}), SCALE)),
    ),
    "events.apiServerSlow.by": behind("apiServerSlow", {"by": "1s", "for": "9s"}, by="2s"),
    "events.apiServerSlow.for": behind("apiServerSlow", {"by": "1s", "for": "1ms"}, **{"for": "9s"}),
    "events.closeWatches": (small(events=(SCALE,), **LATE), small(events=(SCALE, CLOSE), **LATE)),
    "events.closeWatches.nodes": behind("closeWatches", {}, nodes=["node-1"]),
    "events.closeWatches.kinds": behind("closeWatches", {}, kinds=["Service"]),
    "events.closeWatches.expired": behind("closeWatches", {}, expired=True),
    "events.cutOff": (small(events=(SCALE,)), small(events=(at(1, cutOff={"nodes": ["node-1"], "for": "9s"}), SCALE))),
    "events.cutOff.nodes": behind("cutOff", {"nodes": ["node-1"], "for": "9s"}, nodes=["node-2"]),
    "events.cutOff.for": behind("cutOff", {"nodes": ["node-1"], "for": "9s"}, **{"for": "2s"}),
    "kubeProxy": proxies({"runner": "tokenBucket"}, ROLLOUT),
    "kubeProxy.runner": proxies({"runner": "tokenBucket"}, ROLLOUT),
    "kubeProxy.syncedPoll": proxies({"syncedPoll": "70ms"}, RESTART),
    "kubeProxy.watchDuration": proxies({"watchDuration": "3s"}, SCALE),
    "delays.sync.costs": priced({}, MEASURED),
    "delays.sync.iptables": priced(MEASURED, {**MEASURED, "iptables": "legacy"}),
    "delays.onNodes.sync.costs": priced_on_node({}, MEASURED),
    "delays.onNodes.sync.iptables": priced_on_node(MEASURED, {**MEASURED, "iptables": "legacy"}),
    "otherServices": (small(events=(SCALE,)), small(events=(SCALE,), otherServices=OTHERS)),
    "otherServices.count": others(count=31),
    "otherServices.endpoints": others(endpoints=3),
    "delays.deletionToKubelet": (small(events=(DRAIN,)), small(events=(DRAIN,), delays={"deletionToKubelet": "1s"})),
    "delays.pleg": (small(events=(DRAIN,)), small(events=(DRAIN,), delays={"pleg": "1s"})),
    "delays.preset": (small(events=(DRAIN,)), small(events=(DRAIN,), delays={"preset": "typical"})),
    "delays.scheduler": (small(events=(SCALE,)), small(events=(SCALE,), delays={"scheduler": "1s"})),
    "delays.workloadController": (small(events=(SCALE,)), small(events=(SCALE,), delays={"workloadController": "1s"})),
    "controller.maxEndpointsPerSlice": (
        small(events=(SCALE,)),
        small(events=(SCALE,), controller={"maxEndpointsPerSlice": 1}),
    ),
    "endpoints": (small(events=(SCALE,)), small(events=(SCALE,), endpoints={"written": True})),
    "endpoints.written": (small(events=(SCALE,)), small(events=(SCALE,), endpoints={"written": True})),
    "endpoints.batchPeriod": older(batchPeriod="3s"),
    "endpoints.requestLimit": older(requestLimit=1024),
    # it takes more than a thousand pods to decide (tests/test_endpoints_on_the_clock.py); without `written` there is a note
    "endpoints.truncated": (small(), small(endpoints={"truncated": False})),
    "watchers": (small(events=(SCALE,)), small(events=(SCALE,), watchers={"kubeProxies": 7})),
    "watchers.kubeProxies": (small(events=(SCALE,)), small(events=(SCALE,), watchers={"kubeProxies": 7})),
    "watchers.endpointSlices": (small(events=(SCALE,)), small(events=(SCALE,), watchers={"endpointSlices": 7})),
    "watchers.endpoints": (small(events=(BY_HAND,)), small(events=(BY_HAND,), watchers={"endpoints": 7})),
    "events.createEndpoints": (small(), small(events=(BY_HAND,))),
    "events.patchEndpoints": (small(events=(BY_HAND,)), small(events=(BY_HAND, BY_HAND_PATCH))),
    "events.patchEndpoints.endpoints": (
        small(events=(BY_HAND, BY_HAND_PATCH)),
        small(events=(BY_HAND, at(3, patchEndpoints={"endpoints": "other", "patch": {"subsets": []}}))),
    ),
    "events.patchEndpoints.patch": (
        small(events=(BY_HAND, BY_HAND_PATCH)),
        small(
            events=(BY_HAND, at(3, patchEndpoints={"endpoints": "db", "patch": {"metadata": {"labels": {"a": "b"}}}}))
        ),
    ),
    "events.deleteEndpoints": (
        small(events=(BY_HAND,)),
        small(events=(BY_HAND, at(3, deleteEndpoints={"endpoints": "db"}))),
    ),
    "events.deleteEndpoints.endpoints": (
        small(events=(BY_HAND, at(3, deleteEndpoints={"endpoints": "db"}))),
        small(events=(BY_HAND, at(3, deleteEndpoints={"endpoints": "other"}))),
    ),
    "events.deleteNamespace": (small(), small(events=(at(2, deleteNamespace={"namespace": "default"}),))),
    "events.deleteNamespace.namespace": event(at(2, deleteNamespace={"namespace": "default"}), "namespace", "other"),
    "events.deleteEndpointSlice.service": (small(), small(events=(at(2, deleteEndpointSlice={"service": "w"}),))),
    "events.drain.timeout": event(DRAIN, "timeout", "3s", {"disruptionBudget": {"maxUnavailable": 0}}),
    "events.liveness": (small(workload=ALIVE), small(workload=ALIVE, events=(DEAD,))),
    "events.liveness.workload": event(DEAD, "workload", "x", ALIVE),
    "events.liveness.count": event(at(2, liveness={"workload": "w"}), "count", 2, ALIVE),
    "events.liveness.nodes": event(DEAD, "nodes", ["node-1"], ALIVE),
    "events.liveness.late": event(DEAD, "late", True, ALIVE),
    "events.nodeDown.shutdownGrace": event(at(2, nodeDown={"nodes": ["node-2"]}), "shutdownGrace", "5s"),
    "events.readiness.late": event(SICK, "late", True, PROBED),
    "events.reboot": (small(), small(events=(at(2, reboot={"node": "node-2", "takes": "3s"}),))),
    "events.reboot.node": event(at(2, reboot={"node": "node-2", "takes": "3s"}), "node", "node-1"),
    "events.reboot.takes": event(at(2, reboot={"node": "node-2", "takes": "3s"}), "takes", "4s"),
    "events.rollingUpgrade": (small(), small(events=(at(2, rollingUpgrade={"takes": "2s"}),))),
    "events.rollingUpgrade.nodes": upgrade(nodes=["node-2"]),
    "events.rollingUpgrade.maxUnavailable": upgrade(maxUnavailable="100%"),
    "events.rollingUpgrade.takes": upgrade(takes="3s"),
    "events.rollingUpgrade.drainTimeout": upgrade(drainTimeout="2s"),
    "events.rollingUpgrade.pause": upgrade(pause="3s"),
    "events.rollingUpgrade.leaveLoadBalancers": upgrade(leaveLoadBalancers="1s"),
    "events.rollingUpgrade.replace": upgrade(replace=True),
    "events.rollout.recreate": event(at(2, rollout={"workload": "w"}), "recreate", True),
    "events.rollout.partition": event(at(2, rollout={"workload": "w"}), "partition", 1, SET),
    "loadBalancer.nodeUpdate": (
        small(events=(ADD,)),
        small(events=(ADD,), loadBalancer={"interval": "1s", "nodeUpdate": "9s"}),
    ),
    "loadBalancer.nodeResync": (
        small(events=(TAINT,)),
        small(events=(TAINT,), loadBalancer={"interval": "1s", "nodeResync": "4s"}),
    ),
    "workloads.disruptionBudget": workload((DRAIN,), {}, {"disruptionBudget": {"minAvailable": 2}}),
    "workloads.disruptionBudget.minAvailable": workload(
        (DRAIN,), {"disruptionBudget": {"minAvailable": 2}}, {"disruptionBudget": {"minAvailable": "50%"}}
    ),
    "workloads.disruptionBudget.maxUnavailable": workload(
        (DRAIN,), {"disruptionBudget": {"maxUnavailable": 0}}, {"disruptionBudget": {"maxUnavailable": 1}}
    ),
    "workloads.disruptionBudget.unhealthyPodEvictionPolicy": workload(
        (SICK, at(4, drain={"node": "node-2"})),
        {"disruptionBudget": {"minAvailable": 2}},
        {"disruptionBudget": {"minAvailable": 2, "unhealthyPodEvictionPolicy": "AlwaysAllow"}},
    ),
    "workloads.kind": workload((SCALE,), {}, SET),
    "workloads.podManagementPolicy": workload((SCALE,), SET, {**SET, "podManagementPolicy": "Parallel"}),
    "workloads.minReady": workload((ROLLOUT,), {}, {"minReady": "3s"}),
    "workloads.readiness.gates": workload((SCALE,), {}, {"readiness": {"gates": ["3s"]}}),
    "workloads.placement.antiAffinity": workload(
        (SCALE,), {}, {"placement": {"antiAffinity": ["kubernetes.io/hostname"]}}
    ),
    "workloads.ports.hostPort": workload(
        (SCALE,), {"ports": [{"containerPort": 80}]}, {"ports": [{"containerPort": 80, "hostPort": 80}]}
    ),
    "workloads.placement.topologySpread": (
        small(**ZONES),
        small(workload={"placement": {"topologySpread": [SPREAD]}}, **ZONES),
    ),
    "workloads.placement.topologySpread.topologyKey": (spread(), spread(topologyKey="kubernetes.io/hostname")),
    "workloads.placement.topologySpread.maxSkew": (spread(), spread(maxSkew=3)),
    "workloads.placement.topologySpread.whenUnsatisfiable": (
        small(
            workload={
                "replicas": 4,
                "placement": {"zones": ["a", "b"], "nodes": ["node-1", "node-2", "node-3"], "topologySpread": [SPREAD]},
            },
            events=(at(2, cordon={"node": "node-3"}), at(3, scale={"workload": "w", "replicas": 8})),
            **ZONES,
        ),
        small(
            workload={
                "replicas": 4,
                "placement": {
                    "zones": ["a", "b"],
                    "nodes": ["node-1", "node-2", "node-3"],
                    "topologySpread": [{**SPREAD, "whenUnsatisfiable": "ScheduleAnyway"}],
                },
            },
            events=(at(2, cordon={"node": "node-3"}), at(3, scale={"workload": "w", "replicas": 8})),
            **ZONES,
        ),
    ),
    "workloads.probes": workload((SCALE,), {}, PROBED),
    "workloads.probes.startup": workload((SCALE,), {}, {"probes": {"startup": {}}}),
    "workloads.probes.readiness": workload((SCALE,), {}, PROBED),
    "workloads.probes.liveness": workload(
        (SCALE,), {"startup": {"delay": "9s"}}, {"startup": {"delay": "9s"}, **ALIVE}
    ),
    "workloads.probes.startup.initialDelay": probe("startup", (SCALE,), {}, initialDelay="15s"),
    "workloads.probes.startup.period": probe("startup", (SCALE,), {}, period="3s"),
    "workloads.probes.startup.timeout": probe("startup", (SCALE,), {}, timeout="5s"),
    "workloads.probes.startup.successThreshold": probe("startup", (SCALE,), {}, successThreshold=2),
    "workloads.probes.startup.failureThreshold": probe("startup", (SCALE,), {"period": "1s"}, failureThreshold=1),
    "workloads.probes.readiness.initialDelay": probe("readiness", (SCALE,), QUICK, initialDelay="5s"),
    "workloads.probes.readiness.period": probe("readiness", (SCALE,), QUICK, period="3s"),
    "workloads.probes.readiness.timeout": probe(
        "readiness", (at(2, readiness={"workload": "w", "late": True}),), QUICK, timeout="2s"
    ),
    "workloads.probes.readiness.successThreshold": probe("readiness", (SCALE,), QUICK, successThreshold=2),
    "workloads.probes.readiness.failureThreshold": probe("readiness", (SICK,), QUICK, failureThreshold=3),
    "workloads.probes.liveness.initialDelay": probe(
        "liveness", (DEAD, at(12, liveness={"workload": "w", "nodes": ["node-2"]})), QUICK, initialDelay="15s"
    ),
    "workloads.probes.liveness.period": probe("liveness", (DEAD,), QUICK, period="3s"),
    "workloads.probes.liveness.timeout": probe(
        "liveness", (at(2, liveness={"workload": "w", "late": True}),), QUICK, timeout="2s"
    ),
    "workloads.probes.liveness.successThreshold": probe("liveness", (DEAD,), QUICK, successThreshold=2),
    "workloads.probes.liveness.failureThreshold": probe("liveness", (DEAD,), QUICK, failureThreshold=3),
}

#: of these no other value is accepted: the API has none, or another field refers to it
REFUSED = (
    "beside.file", "events.loadRules.file", "events.deleteEndpoints.endpoints", "events.patchEndpoints.endpoints", "events.deleteNamespace.namespace",
    "events.liveness.workload", "workloads.probes.startup.successThreshold", "workloads.probes.liveness.successThreshold",
)  # fmt: skip


def test_every_dial_has_its_scenarios() -> None:
    assert set(PAIRS) == {".".join(path) for path in fields(ScenarioSpec) if is_dial(path)}


@pytest.mark.parametrize("name", PAIRS)
def test_a_dial_matters(name: str) -> None:
    one, other = map(observe, PAIRS[name])
    assert not one.startswith("refused"), one
    assert one != other
    assert other.startswith("refused") is (name in REFUSED), other
