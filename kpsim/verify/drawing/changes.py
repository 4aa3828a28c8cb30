"""Draws the next state of a Service or of kube-proxy's configuration.

Counterpart: what people edit while flows live: traffic policies, affinity, source ranges, external IPs, ports, types.
"""

import copy

from kpsim.config import DEFAULT_MODE
from kpsim.inputs import Json, JsonObject
from kpsim.objects import LABEL_SERVICE_PROXY_NAME
from kpsim.verify.drawing.choices import Choices, chance, pick, several, weighted

#: affinity timeouts in seconds; the first two end within a sequence
_TIMEOUTS_S = (2, 1, 600, 10_800)
_EDITS = ("policies", "affinity", "ranges", "external IPs", "ports", "ingress", "type", "label")


def changed_service(choices: Choices, document: Json) -> JsonObject | None:
    """A Service as an edit of ``document`` might leave it; None: it is deleted."""
    fate = weighted(choices, (6, "edited"), (2, "as it was"), (2, "deleted"))
    if fate == "deleted":
        return None
    found: JsonObject = copy.deepcopy(dict(document))
    if fate == "edited":
        for edit in several(choices, _EDITS, 2) or ["policies"]:
            _edit(choices, found, edit)
    return found


def _edit(choices: Choices, service: JsonObject, edit: str) -> None:
    spec: JsonObject = service.setdefault("spec", {})
    outside = spec.get("type") in ("NodePort", "LoadBalancer") or bool(spec.get("externalIPs"))
    match edit:
        case "policies":
            spec["internalTrafficPolicy"] = pick(choices, ("Cluster", "Local"))
            if outside:
                spec["externalTrafficPolicy"] = pick(choices, ("Local", "Cluster"))
        case "affinity":
            spec["sessionAffinity"] = pick(choices, ("ClientIP", "None"))
            seconds = pick(choices, _TIMEOUTS_S)
            spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": seconds}}
            if spec["sessionAffinity"] == "None":
                del spec["sessionAffinityConfig"]
        case "ranges" if spec.get("loadBalancerSourceRanges"):
            ranges = list(spec["loadBalancerSourceRanges"])
            spec["loadBalancerSourceRanges"] = ranges[1:] if chance(choices, 50) else ranges[:1]
        case "external IPs":
            spec["externalIPs"] = list(spec.get("externalIPs") or ())[1:]
        case "ports" if len(spec.get("ports") or ()) > 1:
            spec["ports"] = spec["ports"][1:]
        case "ingress" if service.get("status"):
            service["status"] = {"loadBalancer": {}}
        case "type" if spec.get("type") in ("NodePort", "LoadBalancer"):
            _to_cluster_ip(service, spec)
        case "label":
            labels = dict(service["metadata"].get("labels") or {})
            labels[LABEL_SERVICE_PROXY_NAME] = "other"
            service["metadata"] = {**service["metadata"], "labels": labels}
        case _:
            pass


def _to_cluster_ip(service: JsonObject, spec: JsonObject) -> None:
    """A Service that is reached from inside only. The API server then drops what belongs to other types (O-3)."""
    spec["type"] = "ClusterIP"
    for name in ("loadBalancerSourceRanges", "healthCheckNodePort", "allocateLoadBalancerNodePorts"):
        spec.pop(name, None)
    if not spec.get("externalIPs"):
        spec.pop("externalTrafficPolicy", None)
    spec["ports"] = [{key: value for key, value in port.items() if key != "nodePort"} for port in spec["ports"]]
    service.pop("status", None)


def changed_configuration(choices: Choices, document: Json) -> JsonObject:
    """A KubeProxyConfiguration after an edit that asks for no other kernel settings."""
    found: JsonObject = copy.deepcopy(dict(document))
    section: JsonObject = found.setdefault(found.get("mode") or str(DEFAULT_MODE), {})
    match weighted(choices, (3, "masquerade"), (2, "bit"), (2, "detection"), (1, "gate")):
        case "masquerade":
            section["masqueradeAll"] = not section.get("masqueradeAll", False)
        case "bit":
            section["masqueradeBit"] = pick(choices, (15, 14, 0, 31))
        case "detection" if found.get("detectLocalMode") in (None, "ClusterCIDR"):
            found["clusterCIDR"] = ""
        case _:
            found["featureGates"] = {"AllowServiceExternalIPs": bool(chance(choices, 50))}
    return found
