"""Every field of load balancers and of what clients do changes a run: two scenarios that differ in it, for each."""

from typing import Any

import pytest
from scenario_fields import fields, is_of_clients, observe

from kpsim.scenario.schema import ScenarioSpec

Json = dict[str, Any]

LONG = {"long": {"lasts": "60s"}}
DOWN = {"at": "3s", "nodeDown": {"nodes": ["node-2"]}}
STOPPED = {"at": "3s", "restartProxy": {"nodes": ["node-2"], "down": "60s"}}
ALL_STOPPED = {"at": "3s", "restartProxy": {"down": "60s"}}
EXCLUDED = {
    "at": "3s",
    "labelNode": {"node": "node-2", "labels": {"node.kubernetes.io/exclude-from-external-load-balancers": "true"}},
}
GONE = {"at": "3s", "scale": {"workload": "w", "replicas": 0}}
POOL = {"connections": 2, "idleTimeout": "1500ms"}
TRIES = {"count": 2, "backoff": "500ms"}


def small(*events: Json, balancer: Json | None = None, dual: bool = False, **traffic: Any) -> Json:
    """Two nodes with a pod each behind a load balancer, and one source."""
    families = ["IPv4", "IPv6"] if dual else ["IPv4"]
    ingress = [{"ip": "198.51.100.10"}, {"ip": "2001:db8:1::1"}][: len(families)]
    spec = {
        "type": "LoadBalancer", "clusterIP": "172.30.0.10", "selector": {"app": "w"}, "ports": [{"port": 80}],
        "ipFamilies": families, "ipFamilyPolicy": "RequireDualStack" if dual else "SingleStack",
    }  # fmt: skip
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "w"}, "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    }  # fmt: skip
    source = {"name": "t", "service": "w", "via": "loadBalancer", "perSecond": 4, "clients": 4, "stop": "9s", **traffic}
    return {
        "apiVersion": "kpsim.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "small"}, "duration": "12s",
        "nodes": {"count": 2, "ipFamilies": families}, "workloads": [{"name": "w", "replicas": 2}], "objects": [service],
        "loadBalancer": {"interval": "1s", **(balancer or {})}, "events": list(events), "traffic": [source],
    }  # fmt: skip


def balancer(event: Json, field: str, value: Any, **traffic: Any) -> tuple[Json, Json]:
    return small(event, **traffic), small(event, balancer={field: value}, **traffic)


def client(
    kind: str, base: Json, *events: Json, dual: bool = False, field: Json | None = None, **traffic: Any
) -> tuple[Json, Json]:
    """Two scenarios: without the field and with it, or with ``field`` beside the others."""
    if field is None:
        return small(*events, dual=dual, **traffic), small(*events, dual=dual, **{kind: base}, **traffic)
    changed = {**base, **field}
    return small(*events, dual=dual, **{kind: base}, **traffic), small(*events, dual=dual, **{kind: changed}, **traffic)


#: by field: two scenarios that differ in it
PAIRS: dict[str, tuple[Json, Json]] = {
    "loadBalancer.preset": balancer(DOWN, "preset", "gcp"),
    "loadBalancer.timeout": balancer(DOWN, "timeout", "600ms"),
    "loadBalancer.check": balancer(STOPPED, "check", "trafficPort"),
    "loadBalancer.distribution": balancer(DOWN, "distribution", "roundRobin"),
    "loadBalancer.tracking": balancer(STOPPED, "tracking", False, **LONG),
    "loadBalancer.failOpen": balancer(ALL_STOPPED, "failOpen", True),
    "loadBalancer.unhealthyConnections": balancer(STOPPED, "unhealthyConnections", "cut", **LONG),
    "loadBalancer.deregistrationDelay": balancer(EXCLUDED, "deregistrationDelay", "1s", **LONG),
    "loadBalancer.preserveClientIP": balancer(DOWN, "preserveClientIP", False),
    "traffic.retries": client("retries", TRIES, GONE, connectTimeout="3s"),
    "traffic.retries.count": client("retries", TRIES, GONE, field={"count": 3}, connectTimeout="3s"),
    "traffic.retries.backoff": client("retries", TRIES, DOWN, field={"backoff": "1s"}, connectTimeout="500ms"),
    "traffic.retries.factor": client("retries", TRIES, DOWN, field={"factor": 1.5}, connectTimeout="500ms"),
    "traffic.retries.maxBackoff": client("retries", TRIES, DOWN, field={"maxBackoff": "50ms"}, connectTimeout="500ms"),
    "traffic.retries.jitter": client("retries", TRIES, DOWN, field={"jitter": 0.5}, connectTimeout="500ms"),
    "traffic.keepAlive": client("keepAlive", {}),
    "traffic.keepAlive.connections": client("keepAlive", POOL, field={"connections": 1}),
    "traffic.keepAlive.idleTimeout": client("keepAlive", POOL, field={"idleTimeout": "30s"}),
    "traffic.keepAlive.maxAge": client("keepAlive", {}, field={"maxAge": "2s"}),
    "traffic.happyEyeballs": client("happyEyeballs", {}, dual=True),
    "traffic.happyEyeballs.delay": client("happyEyeballs", {}, DOWN, dual=True, field={"delay": "400ms"}),
}


def test_every_field_has_its_scenarios() -> None:
    assert set(PAIRS) == {".".join(path) for path in fields(ScenarioSpec) if is_of_clients(path)}


@pytest.mark.parametrize("name", PAIRS)
def test_a_field_matters(name: str) -> None:
    one, other = map(observe, PAIRS[name])
    assert not one.startswith("refused"), one
    assert not other.startswith("refused"), other
    assert one != other
