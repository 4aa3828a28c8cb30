"""Small clusters as kubectl prints them, and drafts of them, for tests."""

import json
from pathlib import Path
from typing import Any

import kpsim
from kpsim.addresses import Family
from kpsim.drafting import Draft
from kpsim.explore import Cluster
from kpsim.scenario import Scenario, parse_scenario
from kpsim.simulation.engine import Run

ROOT = Path(__file__).resolve().parent.parent
EVERYTHING = ROOT / "docs/scenario-init.yaml"

Json = dict[str, Any]


def node(name: str, number: int, *, zone: str = "", **spec: Any) -> Json:
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    return {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": f"10.244.{number}.0/24", "podCIDRs": [f"10.244.{number}.0/24"], **spec},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.10.{number}"}]},
    }  # fmt: skip


def service(name: str, *, app: str = "web", namespace: str = "shop", **spec: Any) -> Json:
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": 8080}], **spec},
    }  # fmt: skip


def pod(
    name: str, at: str, ip: str, *, app: str = "web", namespace: str = "shop", ready: bool = True, owner: tuple[str, str] = ("", ""),
    labels: Json | None = None, meta: Json | None = None, status: Json | None = None, **spec: Any,
) -> Json:  # fmt: skip
    owners = [{"apiVersion": "apps/v1", "kind": owner[0], "name": owner[1], "uid": "u", "controller": True}]
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "labels": {"app": app, **(labels or {})},
            "ownerReferences": owners if owner[0] else [], **(meta or {}),
        },
        "spec": {"nodeName": at, "containers": [{"name": "c", "ports": [{"containerPort": 8080}]}], **spec},
        "status": {
            "phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": str(ready)}], **(status or {}),
        },
    }  # fmt: skip


def keeper(
    kind: str, name: str, *, app: str = "web", namespace: str = "shop", pods: Json | None = None, **spec: Any
) -> Json:
    """A Deployment or the like. ``pods`` is added to its template's specification."""
    container = {"name": "c", "ports": [{"containerPort": 8080}]}
    return {
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": app}},
            "template": {"metadata": {"labels": {"app": app}}, "spec": {"containers": [container], **(pods or {})}}, **spec,
        },
    }  # fmt: skip


NODES = (node("n1", 1), node("n2", 2))


def cluster(*objects: Json, nodes: tuple[Json, ...] = NODES) -> Cluster:
    return kpsim.load(text=json.dumps({"apiVersion": "v1", "kind": "List", "items": [*nodes, *objects]}))


def drafted(
    *objects: Json, nodes: tuple[Json, ...] = NODES, services: tuple[str, ...] = (), rollout: str = ""
) -> Draft:
    return cluster(*objects, nodes=nodes).scenario(*services, rollout=rollout)


def workloads(draft: Draft) -> dict[str, Json]:
    """The workloads by name, without the clients."""
    return {each["name"]: each for each in draft.content["workloads"] if each["name"] != "clients"}


def loaded(draft: Draft) -> Scenario:
    return parse_scenario(json.dumps(draft.content), "draft.json")


def rules_at_start(of: Cluster, draft: Draft) -> dict[tuple[str, Family], tuple[str, str]]:
    """By node and family: the rules of the cluster, and those of the draft's kube-proxies when a run begins."""
    scenario = loaded(draft)
    run = Run(scenario, scenario.seed)
    next(run.steps(None))
    found = {}
    for name in of.node_names:
        for family, programmed in run.machines.netns(name).programmed.items():
            proxier = of.proxier(name, family)
            found[name, family] = proxier.backend.save(proxier.held), proxier.backend.save(programmed)
    return found


WEB = service("web", clusterIP="10.96.0.10")
SET = ("ReplicaSet", "web-5d4f8c7b9")
HASH = {"pod-template-hash": "5d4f8c7b9"}
PODS = (
    pod("web-5d4f8c7b9-2vqhs", "n1", "10.244.1.5", owner=SET, labels=HASH),
    pod("web-5d4f8c7b9-8nkl6", "n2", "10.244.2.5", owner=SET, labels=HASH),
)
BESIDE = "kubernetes.io/service-name"


def slices(of: str, *endpoints: Json, managed: bool = True, ports: list[Json] | None = None, name: str = "") -> Json:
    labels = {BESIDE: of}
    if managed:
        labels["endpointslice.kubernetes.io/managed-by"] = "endpointslice-controller.k8s.io"
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name or f"{of}-abcde", "namespace": "shop", "labels": labels},
        "ports": ports or [{"name": "", "port": 8080}], "endpoints": list(endpoints),
    }  # fmt: skip


def endpoint(name: str, at: str, ip: str, **conditions: bool) -> Json:
    return {
        "addresses": [ip], "nodeName": at, "targetRef": {"kind": "Pod", "namespace": "shop", "name": name},
        "conditions": {"ready": True, **conditions},
    }  # fmt: skip
