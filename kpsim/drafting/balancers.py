"""Tells from a cluster's objects which load balancer a Service has: by its class, its annotations, its host name, and its nodes' cloud."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from kpsim.drafting.part import TODO, Ledger, Part
from kpsim.objects import LABEL_EXCLUDE_BALANCERS, Node, Service

_AWS = "service.beta.kubernetes.io/aws-load-balancer-"
_CONTROLLER_CLASSES = ("service.k8s.aws/nlb", "eks.amazonaws.com/nlb")
_METALLB = ("metallb.io/", "metallb.universe.tf/")
_CLOUDS = {"gce": "gcp", "azure": "azure"}  #: the scheme of spec.providerID, and the load balancer that the cloud makes


class Balancer(NamedTuple):
    """What tells a load balancer: the preset of its kind, why, and whether it dials pods itself, past kube-proxy."""

    preset: str = ""  #: empty: not known
    why: str = ""
    dials_pods: bool = False


def balancer_of(service: Service, clouds: frozenset[str]) -> Balancer:
    """Return what the objects tell about a Service's load balancer. ``clouds`` are the schemes of the nodes' providerIDs.

    Sources: AWS Load Balancer Controller and cloud-provider-aws, annotations of Services; MetalLB, the pool that it
    writes into annotations; schemes of providerIDs of cloud-provider-gcp and cloud-provider-azure.
    """
    annotations = service.metadata.annotations
    kind, target = annotations.get(f"{_AWS}type", ""), annotations.get(f"{_AWS}nlb-target-type", "")
    of_class = str(service.json.get("spec", {}).get("loadBalancerClass") or "")
    if of_class in _CONTROLLER_CLASSES or kind in ("external", "nlb-ip"):
        by_default = "ip" if of_class.startswith("eks.") else "instance"
        pods = "ip" in (target or by_default, kind.removeprefix("nlb-"))
        return Balancer("aws-nlb-controller", of_class or f"{_AWS}type: {kind}", pods)
    if of_class:
        return Balancer()
    if kind == "nlb":
        return Balancer("aws-nlb", f"{_AWS}type: nlb")
    found = next((key for key in sorted(annotations) if key.startswith(_METALLB)), "")
    if found:
        return Balancer("metallb-l2", f"annotation {found}; metallb-bgp if it announces by BGP")
    if any(
        name.endswith(".elb.amazonaws.com") for name in host_names(service)
    ):  # of an NLB the region stands after elb
        return Balancer("aws-clb", "host name of elb.amazonaws.com, and no annotation of another type")
    preset = next((_CLOUDS[cloud] for cloud in sorted(clouds) if cloud in _CLOUDS), "")
    return Balancer(preset, f"providerID of the nodes, {next(iter(sorted(clouds)))}://") if preset else Balancer()


def clouds_of(nodes: Sequence[Node]) -> frozenset[str]:
    """Return the schemes of ``spec.providerID``, such as ``aws`` and ``gce``."""
    ids = (str(node.json.get("spec", {}).get("providerID") or "") for node in nodes)
    return frozenset(text.partition("://")[0] for text in ids if "://" in text)


def host_names(service: Service) -> tuple[str, ...]:
    """Return the names of a load balancer that has no addresses. kube-proxy does not read them (O-2)."""
    entries = (service.json.get("status", {}).get("loadBalancer") or {}).get("ingress") or ()
    return tuple(str(entry["hostname"]) for entry in entries if entry.get("hostname") and not entry.get("ip"))


def kind_of_all(services: Sequence[Service], nodes: Sequence[Node]) -> tuple[str, str, tuple[str, ...]]:
    """Return the preset that all load balancers have and what tells it; both empty: there is none. Then the presets that some have."""
    clouds = clouds_of(nodes)
    found = [balancer_of(service, clouds) for service in services]
    presets = {each.preset for each in found}
    if len(presets) != 1 or presets == {""}:
        return "", "", tuple(sorted(filter(None, presets)))
    return found[0].preset, min(each.why for each in found), tuple(presets)


def put_balancer(content: Part, services: Sequence[Service], nodes: Sequence[Node], ledger: Ledger) -> None:
    """Put how the Services' load balancers probe nodes: as the kind that all of them are, or as a guess."""
    if not services:
        return
    preset, why, some = kind_of_all(services, nodes)
    values: dict[str, Any] = {"preset": preset}
    if preset:
        beside = f"{TODO}: a guess from {why}; presets: kpsim schema --presets"
        ledger.guess(f"load balancers are as preset {preset} says ({why})")
    else:
        values = {"interval": "5s", "unhealthyThreshold": 2, "healthyThreshold": 2}
        several = f", as there are several kinds: {', '.join(some)}" if some else ""
        beside = f"{TODO}: your load balancer's preset (kpsim schema --presets) or values"
        ledger.guess(f"load balancers probe nodes every 5 s, and believe two probes{several}")
    content.put("loadBalancer", Part(values, flow=True), beside=beside)


def excluded(nodes: Sequence[Node]) -> list[Part]:
    """Return the events that take nodes from load balancers at the start: those whose label excludes them (CP-14.3)."""
    found = []
    for node in nodes:
        if LABEL_EXCLUDE_BALANCERS in node.metadata.labels:
            label = Part(
                {"node": node.metadata.name, "labels": Part({LABEL_EXCLUDE_BALANCERS: ""}, flow=True)}, flow=True
            )
            found.append(Part({"at": "0s", "labelNode": label}, flow=True))
    if found:
        found[0].head = "load balancers send nothing to these nodes, as their label says"
    return found
