"""Draws scenarios for both models: small clusters, a handful of events, every delay a constant of its own.

Delays are whole nanoseconds drawn at random, so that two things fall on one instant only if one causes both.
"""

from typing import Any

from kpsim import rng

MS = 1_000_000


class Dice:
    """Draws that depend on the seed and on their order within one scenario."""

    def __init__(self, seed: int, name: str = "twin") -> None:
        self._seed = seed
        self._name = name
        self._number = 0

    def below(self, limit: int) -> int:
        self._number += 1
        return rng.below(limit, self._seed, self._name, self._number)

    def percent(self, chance: int) -> bool:
        return self.below(100) < chance

    def pick(self, items: Any) -> Any:
        return items[self.below(len(items))]

    def time(self, low_ms: int, high_ms: int) -> str:
        return f"{low_ms * MS + self.below((high_ms - low_ms) * MS + 1)}ns"

    def maybe(self, chance: int, low_ms: int, high_ms: int) -> str:
        return self.time(low_ms, high_ms) if self.percent(chance) else "0ns"


def draw(seed: int) -> dict[str, Any]:
    """Return the document of a scenario. Both models read it."""
    dice = Dice(seed)
    nodes = [f"node-{n}" for n in range(1, 2 + dice.below(3))]
    workloads = [_workload(dice, name) for name in ("web", "api")[: 1 + dice.below(2)]]
    seconds = 60 + dice.below(120)
    document = {
        "apiVersion": "kpsim.dev/v1alpha1",
        "kind": "Scenario",
        "metadata": {"name": f"twin-{seed}"},
        "seed": seed,
        "duration": f"{seconds * 1000 * MS}ns",
        "nodes": {"list": [{"name": n, **({"zone": dice.pick("ab")} if dice.percent(50) else {})} for n in nodes]},
        "workloads": workloads,
        "objects": [_service(dice, n, dice.pick(workloads)["name"]) for n in range(1 + dice.below(dice.pick((3, 3, 12))))],
        "proxy": {"iptables": {"minSyncPeriod": dice.time(100, 3000), "syncPeriod": dice.time(3001, 20_000)}},
        "controller": {"workers": dice.pick((1, 2, 5)), "qps": dice.pick((1, 3, 20)), "burst": dice.pick((1, 4, 30))},
        "loadBalancer": {
            "interval": dice.time(500, 5000),
            "unhealthyThreshold": 1 + dice.below(3),
            "healthyThreshold": 1 + dice.below(3),
        },
        "delays": {
            "readinessToStatus": dice.time(1, dice.pick((20, 3000))),
            "apiWrite": dice.time(1, dice.pick((20, 1500))),
            "controllerWatch": dice.time(1, dice.pick((20, 1500))),
            "controllerBatch": dice.maybe(30, 1, 1000),
            "sliceWrite": dice.time(1, dice.pick((20, 800))),
            "watchDelivery": dice.time(1, dice.pick((20, 2000))),
            "initialList": dice.time(1, 2000),
            "sync": {"base": dice.time(1, dice.pick((100, 5000))), "perRule": "0ns"},
            "onNodes": [{"nodes": [nodes[0]], "sync": {"base": dice.time(1, 40_000), "perRule": "0ns"}}]
            if dice.percent(30)
            else [],
            "nodeMonitorGrace": dice.time(2000, 30_000),
            "unreachableToleration": dice.time(1000, 30_000),
        },
        "events": sorted(
            (_event(dice, nodes, workloads, seconds) for _ in range(2 + dice.below(8))),
            key=lambda event: int(event["at"].removesuffix("ns")),
        ),
    }  # fmt: skip
    _turn_dials(Dice(seed, "twin dials"), document)
    return document


def _turn_dials(dice: Dice, document: dict[str, Any]) -> None:
    """Add what controllers and kubelets take their time for, StatefulSets, budgets, gates and minReadySeconds."""
    document["delays"] |= {
        "pleg": dice.maybe(50, 1, 1000),
        "deletionToKubelet": dice.maybe(50, 1, 1000),
        "workloadController": dice.maybe(50, 1, 2000),
    }
    sets = set()
    for workload in document["workloads"]:
        if dice.percent(30):
            workload["minReady"] = dice.time(1, 10_000)
        if dice.percent(25):
            workload["readiness"]["gates"] = [dice.time(0, 5000) for _ in range(1 + dice.below(2))]
        if dice.percent(40):
            workload["disruptionBudget"] = {"maxUnavailable": dice.below(3)}
        if dice.percent(30):
            workload["kind"] = "StatefulSet"
            sets.add(workload["name"])
            if dice.percent(40):
                workload["podManagementPolicy"] = "Parallel"
    for event in document["events"]:
        if "rollout" in event and event["rollout"]["workload"] in sets:
            event["rollout"] = {"workload": event["rollout"]["workload"], "partition": dice.pick((0, 0, 1))}
            if dice.percent(50):
                event["rollout"]["maxUnavailable"] = dice.pick((1, 2, "50%"))
    if dice.percent(30):
        node = dice.pick(document["nodes"]["list"])["name"]
        seconds = int(document["duration"].removesuffix("ns")) // (1000 * MS)
        reboot = {"at": dice.time(1000, seconds * 700), "reboot": {"node": node, "takes": dice.time(1000, 40_000)}}
        document["events"].append(reboot)
        document["events"].sort(key=lambda event: int(event["at"].removesuffix("ns")))


def _workload(dice: Dice, name: str) -> dict[str, Any]:
    startup = {"delay": dice.time(0, 6000)}
    if dice.percent(30):
        startup["address"] = dice.time(0, 6000)
    termination: dict[str, Any] = {
        "preStop": dice.maybe(60, 1, 8000),
        "afterSigterm": dice.maybe(50, 1, 8000),
        "grace": dice.time(1000, 30_000),
    }
    if dice.percent(30):
        termination["unreadyAfterSigterm"] = dice.maybe(70, 1, 3000)
    if dice.percent(20):
        termination["servesDuringPreStop"] = False
    return {
        "name": name,
        "replicas": 1 + dice.below(4),
        "ports": [{"containerPort": 8080}],
        "startup": startup,
        "readiness": {"probeDelay": dice.maybe(60, 1, 5000)},
        "termination": termination,
    }


def _service(dice: Dice, number: int, workload: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "clusterIP": f"172.30.0.{10 + number}",
        "selector": {"app": workload},
        "ports": [{"port": 80, "targetPort": 8080}],
    }
    if dice.percent(40):
        spec["type"] = "LoadBalancer"
        if dice.percent(60):
            spec |= {"externalTrafficPolicy": "Local", "healthCheckNodePort": 32_000 + number}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"s{number:02}"}, "spec": spec}


def _event(dice: Dice, nodes: list[str], workloads: list[dict[str, Any]], seconds: int) -> dict[str, Any]:
    workload, node = dice.pick(workloads)["name"], dice.pick(nodes)
    some = [node] if dice.percent(60) else []
    kinds: dict[str, Any] = {
        "scale": {"workload": workload, "replicas": dice.below(6)},
        "rollout": {
            "workload": workload,
            "maxSurge": dice.pick((1, 2, "50%")),
            "maxUnavailable": dice.pick((0, 1, "50%")),
        },
        "crash": {"workload": workload, "count": 1 + dice.below(2), "nodes": some, "restarts": dice.percent(80)},
        "deletePods": {"workload": workload, "count": 1 + dice.below(2), "nodes": some, "force": dice.percent(30)},
        "readiness": {"workload": workload, "count": 1 + dice.below(2), "nodes": some, "ready": dice.percent(30)},
        "nodeDown": {"nodes": [node]},
        "nodeUp": {"nodes": [node]},
        "taintNode": {"node": node, "key": dice.pick(("ToBeDeletedByClusterAutoscaler", "example.com/gpu"))},
        "untaintNode": {"node": node, "key": "ToBeDeletedByClusterAutoscaler"},
        "cordon": {"node": node},
        "uncordon": {"node": node},
        "drain": {"node": node},
        "restartProxy": {"nodes": some, "down": dice.maybe(70, 1, 10_000)},
        "failSyncs": {
            "nodes": some,
            **({"for": dice.time(1, 15_000)} if dice.percent(50) else {"count": 1 + dice.below(3)}),
        },
        "patchService": {
            "service": "s00",
            "patch": {"spec": {"externalIPs": [f"198.51.{dice.below(250)}.{1 + dice.below(250)}"]}},
        },
    }
    if dice.percent(50):
        kinds["readiness"]["for"] = dice.time(1, 15_000)
    often = (
        "scale",
        "scale",
        "rollout",
        "rollout",
        "crash",
        "deletePods",
        "readiness",
        "nodeDown",
        "nodeUp",
        "restartProxy",
        "failSyncs",
    )
    kind = dice.pick((*often, *kinds))
    return {"at": dice.time(1000, seconds * 700), kind: kinds[kind]}
