"""Each remedy of the table of advice: a cluster that loses something without it, and nothing with it. ``kpsim risk`` tells the two apart.

The two sides of a proof are one situation and the same situation with one edit. Both are drafted, run and judged.
"""

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
from drafts import ROOT, Json, cluster, keeper, node, pod, service

from kpsim.risk import Finding, assess
from kpsim.risk.rules import RULES, WORDS, Cause, Remedy
from kpsim.scenario import parse_scenario
from kpsim.scenario.load_balancer_schema import LoadBalancerSpec
from kpsim.simulation import run
from kpsim.simulation.runlog import Fate, HappeningKind, RunLog
from kpsim.units import SECOND_NS

NODES = (node("n1", 1, zone="a"), node("n2", 2, zone="a"), node("n3", 3, zone="b"))
EVENT_S = 3
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

    def findings(self) -> list[Finding]:
        of = cluster(*self.objects, nodes=NODES)
        verdicts = assess(
            of.state, of.config, of.controllers, balancer=LoadBalancerSpec.model_validate(BALANCER)
        ).verdicts
        return [finding for each in verdicts for finding in each.findings]

    def play(self) -> int:
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
            content["loadBalancer"] = BALANCER
        return self.measured(run(parse_scenario(json.dumps(content), "draft.json"), seed=1))


ROLLOUT: Json = {"rollout": {}}
DRAIN: Json = {"drain": {"node": "n1"}}
OUTSIDE = {"from": "outside", "clients": 9}
SLOW = spec(starts=8)
MEMBER = {"app": "web", "statefulset.kubernetes.io/pod-name": "web-0"}
LABELLED = [
    each | {"metadata": {**each["metadata"], "labels": {**MEMBER, "statefulset.kubernetes.io/pod-name": f"web-{i}"}}}
    for i, each in enumerate(pods("n1", "n3", kind="StatefulSet", of=SLOW))
]
ONE_MEMBER = [front(selector=MEMBER), keeper("StatefulSet", "web", pods=SLOW, replicas=2), *LABELLED]
ALL_AT_ONCE: Json = {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 2}}}
EVERY = ("n1", "n2", "n3")

SITUATIONS: Mapping[str, Situation] = {
    "unready": Situation([front(), *unready("n1")], seconds=2),
    "single": Situation([front(), *kept("n1", of=SLOW)], DRAIN, EVENT_S + 16),
    "together": Situation([front(), *kept("n1", "n1", of=SLOW)], DRAIN, EVENT_S + 25),
    "member": Situation(ONE_MEMBER, DRAIN, EVENT_S + 18),
    "member-rollout": Situation(ONE_MEMBER, ROLLOUT, EVENT_S + 32),
    "recreate": Situation([front(), *kept("n1", "n3", strategy={"type": "Recreate"})], ROLLOUT),
    "all-at-once": Situation([front(), *kept("n1", "n3", of=SLOW, **ALL_AT_ONCE)], ROLLOUT, EVENT_S + 30),
    "daemons-at-once": Situation([front(), *kept(*EVERY, kind="DaemonSet", updateStrategy={"rollingUpdate": {"maxUnavailable": 3}})], ROLLOUT),
    "local-window": Situation([balanced(), *kept("n1", "n3")], DRAIN, EVENT_S + 14, traffic={**OUTSIDE, "via": "loadBalancer"}),
    "daemons-window": Situation([balanced(), *kept(*EVERY, kind="DaemonSet")], ROLLOUT, EVENT_S + 25, {**OUTSIDE, "via": "loadBalancer"}),
    "node-port": Situation([front(**NODE_PORT), *kept("n1", "n3")], seconds=2, traffic={**OUTSIDE, "via": "nodePort"}),
    "daemons-node-port": Situation([front(**NODE_PORT), *kept(*EVERY, kind="DaemonSet")], ROLLOUT, EVENT_S + 20, {**OUTSIDE, "via": "nodePort"}),
    "internal": Situation([front(internalTrafficPolicy="Local"), *kept("n1", "n3")], seconds=2),
    "daemons-internal": Situation([front(internalTrafficPolicy="Local"), *kept(*EVERY, kind="DaemonSet")], ROLLOUT, EVENT_S + 20),
    "zone": Situation([front(), *kept("n1", "n2")], {"nodeDown": {"nodes": ["n1", "n2"]}}, 66, {"nodes": ["n3"], "perSecond": 1}, lost_late),
    "blocked": Situation([front(), *kept("n1", "n3"), budget(minAvailable=2)], DRAIN, traffic={"perSecond": 1}, measured=unfinished),
    "two-budgets": Situation([front(), *kept("n1", "n3"), budget(minAvailable=1), budget("other", minAvailable=1)], DRAIN, traffic={"perSecond": 1}, measured=unfinished),
    "unready-budget": Situation([front(), *kept("n1", "n3")[:2], unready("n1", "n3")[2], budget(minAvailable=1)], DRAIN, traffic={"perSecond": 1}, measured=unfinished),
    "ends-at-once": Situation([front(), *kept("n1", "n3", of=spec(sleep=0))], DRAIN, EVENT_S + 5, {"perSecond": 50}),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- remedies

Edit = Callable[[Situation], Situation]


def change(kind: str, path: str, value: Any) -> Edit:
    """Set a field of every object of a kind. An empty value takes it away."""

    def edit(found: Situation) -> Situation:
        objects: list[Any] = deepcopy(found.objects)
        for each in objects:
            if each["kind"] == kind:
                at: Any = each
                *way, last = path.split(".")
                for step in way:
                    at = at.setdefault(step, {}) if not step.isdigit() else at[int(step)]
                at[last] = value
        return replace(found, objects=objects)

    return edit


def placed(*nodes: str, **template: Any) -> Edit:
    """As many replicas as nodes, on these nodes. ``template`` is what of the pods' specification puts them there."""

    def edit(found: Situation) -> Situation:
        one = next(each for each in found.objects if each["kind"] == "Deployment")
        own = one["spec"]["template"]["spec"]
        new = deepcopy(one)
        new["spec"]["replicas"] = len(nodes)
        new["spec"]["template"]["spec"] |= template
        rest = [each for each in found.objects if each["kind"] not in ("Deployment", "Pod")]
        return replace(found, objects=[*rest, new, *pods(*nodes, of=own)])

    return edit


def with_budget(found: Situation) -> Situation:
    return replace(found, objects=[*found.objects, budget(minAvailable=1)])


def without_the_other_budget(found: Situation) -> Situation:
    return replace(found, objects=[each for each in found.objects if each["metadata"]["name"] != "other"])


def by_daemon_set(found: Situation) -> Situation:
    rest = [each for each in found.objects if each["kind"] not in ("Deployment", "Pod")]
    return replace(found, objects=[*rest, *kept(*EVERY, kind="DaemonSet", updateStrategy=SURGING)])


def sleeping(seconds: int) -> Edit:
    """A hook of the template; the pods that end are those that had it."""

    def edit(found: Situation) -> Situation:
        for kind, path in (("Deployment", "spec.template.spec"), ("DaemonSet", "spec.template.spec"), ("Pod", "spec")):
            hook = {"preStop": {"sleep": {"seconds": seconds}}}
            found = change(kind, f"{path}.containers.0.lifecycle", hook)(found)
        return found

    return edit


def ready(found: Situation) -> Situation:
    return change("Pod", "status.conditions", [{"type": "Ready", "status": "True"}])(found)


def external(found: Situation) -> Situation:
    """The policy Cluster, which takes the port of the health check away (O-3.7)."""
    return change("Service", "spec.healthCheckNodePort", 0)(OTHER_POLICY(found))


def trying_again(found: Situation) -> Situation:
    again = {"connectTimeout": "1s", "retries": {"count": 20, "backoff": "1s", "factor": 1}}
    return replace(found, traffic={**found.traffic, **again})


ANTI_AFFINITY = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}
        ]
    }
}
OVER_ZONES = [{"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]
SURGING = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
surge = change("DaemonSet", "spec.updateStrategy", SURGING)
OTHER_POLICY = change("Service", "spec.externalTrafficPolicy", "Cluster")
internal = change("Service", "spec.internalTrafficPolicy", "Cluster")

PROOFS: Mapping[tuple[Cause, Remedy], tuple[str, Edit]] = {
    (Cause.NO_ENDPOINT, Remedy.READY): ("unready", ready),
    (Cause.ALONE, Remedy.OTHER_NODES): ("single", placed("n1", "n3", affinity=ANTI_AFFINITY)),
    (Cause.ALONE, Remedy.KEEPING_BUDGET): ("together", with_budget),
    (Cause.ALONE, Remedy.PRE_STOP): ("single", sleeping(12)),
    (Cause.ALONE, Remedy.RETRIES): ("member", trying_again),
    (Cause.ROLLOUT, Remedy.ROLLING): ("recreate", change("Deployment", "spec.strategy", {})),
    (Cause.ROLLOUT, Remedy.FEWER_UNAVAILABLE): ("all-at-once", change("Deployment", "spec.strategy.rollingUpdate.maxUnavailable", 1)),
    (Cause.ROLLOUT, Remedy.REPLICA): ("all-at-once", placed(*EVERY)),
    (Cause.ROLLOUT, Remedy.SURGE): ("daemons-at-once", surge),
    (Cause.ROLLOUT, Remedy.RETRIES): ("member-rollout", trying_again),
    (Cause.LOCAL_NODE_PORT, Remedy.EXTERNAL_CLUSTER): ("node-port", external),
    (Cause.LOCAL_NODE_PORT, Remedy.DAEMON_SET): ("node-port", by_daemon_set),
    (Cause.LOCAL_NODE_PORT, Remedy.SURGE): ("daemons-node-port", surge),
    (Cause.LOCAL_INTERNAL, Remedy.INTERNAL_CLUSTER): ("internal", internal),
    (Cause.LOCAL_INTERNAL, Remedy.DAEMON_SET): ("internal", by_daemon_set),
    (Cause.LOCAL_INTERNAL, Remedy.SURGE): ("daemons-internal", surge),
    (Cause.LOCAL_WINDOW, Remedy.PRE_STOP): ("local-window", sleeping(11)),
    (Cause.LOCAL_WINDOW, Remedy.EXTERNAL_CLUSTER): ("local-window", external),
    (Cause.LOCAL_WINDOW, Remedy.SURGE): ("daemons-window", surge),
    (Cause.ZONE, Remedy.ZONES): ("zone", placed("n1", "n3", topologySpreadConstraints=OVER_ZONES)),
    (Cause.BUDGET, Remedy.ALLOWING_BUDGET): ("blocked", change("PodDisruptionBudget", "spec.minAvailable", 1)),
    (Cause.BUDGET, Remedy.REPLICA): ("blocked", placed(*EVERY)),
    (Cause.BUDGET, Remedy.ONE_BUDGET): ("two-budgets", without_the_other_budget),
    (Cause.BUDGET, Remedy.READY): ("unready-budget", ready),
    (Cause.ENDS_AT_ONCE, Remedy.PRE_STOP): ("ends-at-once", sleeping(3)),
}  # fmt: skip


@cache
def without_remedy(name: str) -> int:
    return SITUATIONS[name].play()


@pytest.mark.parametrize(("cause", "remedy"), PROOFS)
def test_what_is_called_a_risk_loses_and_what_helps_does_not(cause: Cause, remedy: Remedy) -> None:
    name, edit = PROOFS[cause, remedy]
    situation = SITUATIONS[name]
    helped = edit(situation)
    events = {finding.event for finding in situation.findings() if finding.cause is cause and remedy in finding.helps}
    assert events, [(each.cause, each.event, each.helps) for each in situation.findings()]
    assert without_remedy(name) > 0
    assert helped.play() == 0
    if helped.objects != situation.objects:  # clients that try again are in no object
        assert events.isdisjoint(each.event for each in helped.findings() if each.cause is cause)


def test_every_remedy_of_every_row_is_proved() -> None:
    assert set(RULES) == set(Cause) and set(WORDS) == set(Remedy)
    assert set(PROOFS) == {(cause, remedy) for cause, rule in RULES.items() for remedy in rule.remedies}


def test_the_documents_have_the_table() -> None:
    rows = {
        line.split("|")[1].strip(" `"): line
        for line in (ROOT / "docs/risk.md").read_text().splitlines()
        if line.startswith("| `")
    }
    assert set(rows) == set(RULES)
    for cause, rule in RULES.items():
        _, _, helps, source = rows[cause].strip("| ").split(" | ")
        assert helps.split("; ") == [WORDS[each] for each in rule.remedies] and source == rule.source
