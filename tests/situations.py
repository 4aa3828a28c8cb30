"""Small clusters for tests of advice, with what happens in them: each is judged by ``kpsim risk``, drafted, and run."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from drafts import Json, cluster, keeper, node, pod, service

from kpsim.risk import Finding, assess
from kpsim.scenario import parse_scenario
from kpsim.scenario.load_balancer_schema import LoadBalancerSpec
from kpsim.simulation import run
from kpsim.simulation.runlog import Fate, HappeningKind, RunLog
from kpsim.units import SECOND_NS

NODES = (node("n1", 1, zone="a"), node("n2", 2, zone="a"), node("n3", 3, zone="b"))
EVENT_S = 3
ROLLOUT: Json = {"rollout": {}}
DRAIN: Json = {"drain": {"node": "n1"}}
#: in place of a draft's guesses
BALANCER = {"interval": "3s", "unhealthyThreshold": 2, "healthyThreshold": 1}


# -------------------------------------------------------------------------------------------------------------- objects


def spec(*, sleep: int = 3, starts: int = 0) -> Json:
    """Pods with a preStop hook, and a readiness probe that begins when they answer."""
    hook = {"lifecycle": {"preStop": {"sleep": {"seconds": sleep}}}} if sleep else {}
    probe = {"readinessProbe": {"periodSeconds": 1, "initialDelaySeconds": starts}}
    return {"containers": [{"name": "c", "ports": [{"containerPort": 8080}], **probe, **hook}]}


def pods(*nodes: str, kind: str = "Deployment", of: Json | None = None) -> list[Json]:
    owner = ("ReplicaSet", "web-5d4f8c7b9") if kind == "Deployment" else (kind, "web")
    hash = {"pod-template-hash": "5d4f8c7b9"} if kind == "Deployment" else {}
    names = [f"web-5d4f8c7b9-2vqh{'bcdf'[i]}" if kind == "Deployment" else f"web-{i}" for i in range(len(nodes))]
    return [
        pod(name, at, f"10.244.{at[1]}.{i + 5}", owner=owner, labels=hash, **(of or spec()))
        for i, (name, at) in enumerate(zip(names, nodes, strict=True))
    ]


def kept(*nodes: str, kind: str = "Deployment", of: Json | None = None, **more: Any) -> list[Json]:
    """A workload and its pods."""
    more |= {} if kind == "DaemonSet" else {"replicas": len(nodes)}
    return [keeper(kind, "web", pods=of or spec(), **more), *pods(*nodes, kind=kind, of=of)]


def unready(*nodes: str) -> list[Json]:
    """A workload whose pods are not ready."""
    workload, *own = kept(*nodes)
    return [
        workload,
        *[{**each, "status": {**each["status"], "conditions": [{"type": "Ready", "status": "False"}]}} for each in own],
    ]


def front(**more: Any) -> Json:
    return service("web", clusterIP="10.96.0.10", **more)


def budget(name: str = "web", **spec: Any) -> Json:
    return {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
    }  # fmt: skip


PORTS = [{"port": 80, "targetPort": 8080, "nodePort": 30080}]
NODE_PORT = {"type": "NodePort", "ports": PORTS, "externalTrafficPolicy": "Local"}
BALANCED = {"type": "LoadBalancer", "ports": PORTS, "externalTrafficPolicy": "Local", "healthCheckNodePort": 32001}


def balanced() -> Json:
    found = front(**BALANCED)
    found["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.10"}]}}
    return found


# ----------------------------------------------------------------------------------------------------------- situations


def lost(log: RunLog) -> int:
    return sum(each.disposition is not Fate.DELIVERED for each in log.connections)


def lost_late(log: RunLog) -> int:
    """What was sent to lost pods until they were noticed after 50 s (CP-2.9) is lost whatever there is."""
    return sum(each.disposition is not Fate.DELIVERED for each in log.connections if each.at_ns > 58 * SECOND_NS)


def unfinished(log: RunLog) -> int:
    """Drains that do not end."""
    return int(all(each.kind is not HappeningKind.DRAIN_DONE for each in log.happenings))


@dataclass(frozen=True)
class Situation:
    """A cluster, what happens in it at 3 s, who sends, and what of the run's log tells the two sides apart."""

    objects: list[Json]
    event: Json = field(default_factory=dict)  #: an empty rollout: as the workload's controller does it
    seconds: int = EVENT_S + 9
    traffic: Json = field(default_factory=dict)
    measured: Callable[[RunLog], int] = lost
    balancer: Json = field(default_factory=lambda: BALANCER)

    def findings(self) -> list[Finding]:
        of = cluster(*self.objects, nodes=NODES)
        verdicts = assess(
            of.state,
            of.config,
            of.controllers,
            balancer=LoadBalancerSpec.model_validate_json(json.dumps(self.balancer)),
        ).verdicts
        return [finding for each in verdicts for finding in each.findings]

    def play(self) -> int:
        return self.measured(self.log())

    def log(self, seed: int = 1) -> RunLog:
        rolled = "shop/web" if self.event == ROLLOUT else ""
        content = dict(cluster(*self.objects, nodes=NODES).scenario(rollout=rolled).content)
        content["workloads"] = [each for each in content["workloads"] if each["name"] != "clients"]
        events = content["events"] if rolled else [self.event]
        content |= {
            "duration": f"{self.seconds}s",
            "events": [{**each, "at": f"{EVENT_S}s"} for each in events if each],
        }
        source = {"name": "t", "service": "shop/web", "perSecond": 10, "from": "nodes", "via": "clusterIP"}
        content["traffic"] = [source | self.traffic]
        if "loadBalancer" in content:
            content["loadBalancer"] = self.balancer
        return run(parse_scenario(json.dumps(content), "draft.json"), seed=seed)
