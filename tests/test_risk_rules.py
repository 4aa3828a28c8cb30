"""Each remedy of the table of advice: a cluster that loses something without it, and nothing with it. ``kpsim risk`` tells the two apart.

The two sides of a proof are one situation and the same situation with one edit. Both are drafted, run and judged.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from drafts import ROOT, Json, keeper
from situations import (
    DRAIN,
    EVENT_S,
    NODE_PORT,
    ROLLOUT,
    Situation,
    balanced,
    budget,
    front,
    kept,
    lost_late,
    pods,
    spec,
    unfinished,
    unready,
)  # fmt: skip

from kpsim.risk.rules import RULES, WORDS, Cause, Remedy

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

SLOW_TO_RETURN: Json = {"interval": "2s", "unhealthyThreshold": 1, "healthyThreshold": 3}

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
    "return": Situation([balanced(), *kept("n1", of=spec(sleep=9))], ROLLOUT, EVENT_S + 20, {**OUTSIDE, "via": "loadBalancer"}, balancer=SLOW_TO_RETURN),
    "node-port": Situation([front(**NODE_PORT), *kept("n1", "n3")], seconds=2, traffic={**OUTSIDE, "via": "nodePort"}),
    "daemons-node-port": Situation([front(**NODE_PORT), *kept(*EVERY, kind="DaemonSet")], ROLLOUT, EVENT_S + 20, {**OUTSIDE, "via": "nodePort"}),
    "internal": Situation([front(internalTrafficPolicy="Local"), *kept("n1", "n3")], seconds=2),
    "daemons-internal": Situation([front(internalTrafficPolicy="Local"), *kept(*EVERY, kind="DaemonSet")], ROLLOUT, EVENT_S + 20),
    "zone": Situation([front(), *kept("n1", "n2")], {"nodeDown": {"nodes": ["n1", "n2"]}}, 66, {"nodes": ["n3"], "perSecond": 1}, lost_late),
    "blocked": Situation([front(), *kept("n1", "n3"), budget(minAvailable=2)], DRAIN, traffic={"perSecond": 1}, measured=unfinished),
    "two-budgets": Situation([front(), *kept("n1", "n3"), budget(minAvailable=1), budget("other", minAvailable=1)], DRAIN, traffic={"perSecond": 1}, measured=unfinished),
    "unready-budget": Situation([front(), *kept("n1", "n3")[:2], unready("n1", "n3")[2], budget(minAvailable=1)], DRAIN, traffic={"perSecond": 1}, measured=unfinished),
    "ends-at-once": Situation([front(), *kept("n1", "n3", of=spec(sleep=0))], DRAIN, EVENT_S + 5, {"perSecond": 30}),
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
    (Cause.LOCAL_RETURN, Remedy.MIN_READY): ("return", change("Deployment", "spec.minReadySeconds", 8)),
    (Cause.LOCAL_RETURN, Remedy.EXTERNAL_CLUSTER): ("return", external),
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
