"""Every field of the events that break something changes a run: two small scenarios that differ in it, for each."""

from typing import Any

import pytest
from scenario_fields import fields, is_fault, observe

from kpsim.scenario.schema import ScenarioSpec

Json = dict[str, Any]

SCALE: Json = {"at": "3s", "scale": {"workload": "w", "replicas": 3}}
PATCH: Json = {"at": "3s", "patchService": {"service": "w", "patch": {"spec": {"sessionAffinity": "ClientIP"}}}}
LATER: Json = {"at": "9s", "scale": {"workload": "w", "replicas": 1}}
INWARD: Json = {
    "at": "3s",
    "patchService": {"service": "w", "patch": {"spec": {"type": "ClusterIP", "ports": [{"port": 80}]}}},
}


def small(*events: Json, mode: str = "iptables", **parts: Any) -> Json:
    """Two nodes, one workload, clients that send to each of the nodes."""
    ports = [{"port": 80, "nodePort": 30080}]
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "w"},
        "spec": {"type": "LoadBalancer", "clusterIP": "172.30.0.10", "selector": {"app": "w"}, "ports": ports},
    }  # fmt: skip
    traffic = {"name": "t", "service": "w", "via": "nodePort", "perSecond": 4, "clients": 4}
    return {
        "apiVersion": "kpsim.dev/v1alpha1", "kind": "Scenario", "metadata": {"name": "small"}, "duration": "50s", "nodes": {"count": 2},
        "workloads": [{"name": "w", "replicas": 2}], "objects": [service], "events": list(events), "traffic": [traffic],
        "loadBalancer": {"interval": "1s"},
        "proxy": {"mode": mode, "conntrack": {"maxPerCore": 1, "min": 60}}, **parts,
    }  # fmt: skip


def at(second: int, **event: Any) -> Json:
    return {"at": f"{second}s", **event}


def event(kind: str, base: Json, field: str, value: Any, *others: Json, mode: str = "iptables") -> tuple[Json, Json]:
    """Two scenarios with one event, whose field differs, and with the same others."""
    return tuple(small(at(2, **{kind: each}), *others, mode=mode) for each in (base, {**base, field: value}))  # type: ignore[return-value]


def whole(kind: str, base: Json, *others: Json, mode: str = "iptables") -> tuple[Json, Json]:
    return small(*others, mode=mode), small(at(2, **{kind: base}), *others, mode=mode)


FLUSH = {"tool": "iptables", "nodes": ["node-1"]}
LOCK = {"for": "9s", "nodes": ["node-1"]}
CRASH = {"nodes": ["node-1"], "count": 2}
LIMIT = {"nodes": ["node-1"], "max": 5}
FILL = {"nodes": ["node-1"], "for": "9s"}
SLOW = {"probes": "2s", "for": "30s"}
LOSS = {"nodes": ["node-1"], "share": 0.5, "for": "9s"}
SKEW = {"nodes": ["node-1"], "ahead": "3s"}
DOWN = at(5, nodeDown={"nodes": ["node-1"]})
ONE = ["node-2"]

#: by field: two scenarios that differ in it
PAIRS: dict[str, tuple[Json, Json]] = {
    "events.failSyncs.part": event("failSyncs", {"for": "20s"}, "part", "staleChains", INWARD),
    "events.flushRules": whole("flushRules", FLUSH),
    "events.flushRules.nodes": event("flushRules", FLUSH, "nodes", ONE),
    "events.flushRules.tool": event("flushRules", FLUSH, "tool", "nft", mode="nftables"),
    "events.flushRules.tables": event("flushRules", FLUSH, "tables", ["mangle"]),
    "events.flushRules.keepChains": event("flushRules", FLUSH, "keepChains", True),
    "events.holdLock": whole("holdLock", LOCK, PATCH),
    "events.holdLock.nodes": event("holdLock", LOCK, "nodes", ONE, PATCH),
    "events.holdLock.for": event("holdLock", LOCK, "for", "3s", PATCH),
    "events.crashProxy": whole("crashProxy", CRASH),
    "events.crashProxy.nodes": event("crashProxy", CRASH, "nodes", ONE),
    "events.crashProxy.count": event("crashProxy", CRASH, "count", 3),
    "events.crashProxy.runs": event("crashProxy", CRASH, "runs", "3s"),
    "events.writeProxyConfig": whole("writeProxyConfig", {"nodes": ["node-1"]}),
    "events.writeProxyConfig.nodes": event("writeProxyConfig", {"nodes": ["node-1"]}, "nodes", ONE),
    "events.setConntrackMax": whole("setConntrackMax", LIMIT),
    "events.setConntrackMax.nodes": event("setConntrackMax", LIMIT, "nodes", ONE),
    "events.setConntrackMax.max": event("setConntrackMax", LIMIT, "max", 9),
    "events.setConntrackMax.for": event("setConntrackMax", LIMIT, "for", "2s"),
    "events.fillConntrack": whole("fillConntrack", FILL),
    "events.fillConntrack.nodes": event("fillConntrack", FILL, "nodes", ONE),
    "events.fillConntrack.entries": event("fillConntrack", FILL, "entries", 50),
    "events.fillConntrack.unreplied": event("fillConntrack", FILL, "unreplied", True),
    "events.fillConntrack.for": event("fillConntrack", FILL, "for", "2s"),
    "events.slowLoadBalancer": whole("slowLoadBalancer", SLOW, DOWN),
    "events.slowLoadBalancer.services": event("slowLoadBalancer", SLOW, "services", ["x"], DOWN),
    "events.slowLoadBalancer.probes": event("slowLoadBalancer", SLOW, "probes", "9s", DOWN),
    "events.slowLoadBalancer.programming": event("slowLoadBalancer", SLOW, "programming", "9s", DOWN),
    "events.slowLoadBalancer.for": event("slowLoadBalancer", SLOW, "for", "3s", DOWN),
    "events.losePackets": whole("losePackets", LOSS),
    "events.losePackets.nodes": event("losePackets", LOSS, "nodes", ONE),
    "events.losePackets.peers": event("losePackets", LOSS, "peers", "nodes"),
    "events.losePackets.share": event("losePackets", LOSS, "share", 0.9),
    "events.losePackets.for": event("losePackets", LOSS, "for", "3s"),
    "events.clockSkew": whole("clockSkew", SKEW, SCALE),
    "events.clockSkew.nodes": event("clockSkew", SKEW, "nodes", ONE, SCALE),
    "events.clockSkew.ahead": event("clockSkew", SKEW, "ahead", "9s", SCALE),
    "events.clockSkew.behind": tuple(small(at(2, clockSkew={"behind": ns}), SCALE) for ns in ("1s", "2s")),  # type: ignore[dict-item]
    "events.clockSkew.for": event("clockSkew", SKEW, "for", "500ms", SCALE),
}

#: of these no other value is accepted: another field refers to it
REFUSED = ("events.slowLoadBalancer.services",)


def test_every_fault_has_its_scenarios() -> None:
    assert set(PAIRS) == {".".join(path) for path in fields(ScenarioSpec) if is_fault(path)}


@pytest.mark.parametrize("name", PAIRS)
def test_a_field_of_a_fault_matters(name: str) -> None:
    one, other = map(observe, PAIRS[name])
    assert not one.startswith("refused"), one
    assert one != other
    assert other.startswith("refused") is (name in REFUSED), other
