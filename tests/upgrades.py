"""Small clusters that are upgraded quickly, for tests."""

from collections.abc import Sequence
from typing import Any

from drafts import Json, cluster, keeper, node, pod, service

import kpsim
from kpsim.upgrading import UpgradeResult
from kpsim.upgrading.verdicts import Verdict

NODES = (node("n1", 1), node("n2", 2), node("n3", 3))
CLUSTER_IP = {"clusterIP": "10.96.0.10"}
PORTS = [{"port": 80, "targetPort": 8080, "nodePort": 30080}]
BALANCED = {**CLUSTER_IP, "type": "LoadBalancer", "ports": PORTS}
LOCAL = {**BALANCED, "externalTrafficPolicy": "Local", "healthCheckNodePort": 32001}
OWNERS = {
    "Deployment": ("ReplicaSet", "web-5d4f8c7b9"),
    "StatefulSet": ("StatefulSet", "web"),
    "DaemonSet": ("DaemonSet", "web"),
}


def template(sleep: int, **spec: Any) -> Json:
    hook = {"lifecycle": {"preStop": {"sleep": {"seconds": sleep}}}} if sleep else {}
    return {"containers": [{"name": "c", "ports": [{"containerPort": 8080}], **hook}], **spec}


def web(*nodes: str, kind: str = "Deployment", sleep: int = 0, **front: Any) -> list[Json]:
    """A Service shop/web, what keeps its pods, and a pod on each of the nodes."""
    found = service("web", **(front or CLUSTER_IP))
    if found["spec"].get("type") == "LoadBalancer":
        found["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.10"}]}}
    spec = template(sleep)
    replicas = {} if kind == "DaemonSet" else {"replicas": len(nodes)}
    hash = {"pod-template-hash": "5d4f8c7b9"} if kind == "Deployment" else {}
    names = [f"web-5d4f8c7b9-2vqh{letter}" if kind == "Deployment" else f"web-{i}" for i, letter in enumerate("bcdf")]
    pods = [
        pod(name, at, f"10.244.{at[1]}.{i + 5}", owner=OWNERS[kind], labels=hash, **spec)
        for i, (name, at) in enumerate(zip(names, nodes, strict=False))
    ]
    return [found, keeper(kind, "web", pods=spec, **replicas), *pods]


def upgraded(
    objects: Sequence[Json], *settings: str, nodes: Sequence[str] = ("n1", "n2"), takes: int = 1, seeds: int = 1, remedies: bool = True,
    **options: Any,
) -> UpgradeResult:  # fmt: skip
    """An upgrade of some nodes, whose machines are off for a second."""
    event = f"events[0].rollingUpgrade.nodes=[{', '.join(nodes)}]", f"events[0].rollingUpgrade.takes={takes}s"
    return kpsim.upgrade(
        cluster(*objects, nodes=NODES), seeds=seeds, settings=[*event, *settings], remedies=remedies, jobs=1, **options
    )


def verdict(found: UpgradeResult, service: str = "shop/web") -> Verdict:
    (own,) = (each for each in found.verdicts if each.service == service)
    return own
