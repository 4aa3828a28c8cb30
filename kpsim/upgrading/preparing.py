"""Drafts the scenario of an upgrade: the cluster, one rolling upgrade over its nodes, and a source of traffic for each frontend."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kpsim.drafting import Given, draft
from kpsim.drafting.controllers import owner_of
from kpsim.drafting.draft import Draft, find_parts
from kpsim.drafting.groups import Group, targeted
from kpsim.drafting.listeners import BY_HAND
from kpsim.drafting.part import Ledger, Part
from kpsim.drafting.podspecs import PodSpec
from kpsim.endpointslices import CONTROL_PLANE_LABELS
from kpsim.errors import InputError, Problem
from kpsim.inputs import Json
from kpsim.objects import CLUSTER_IP_NONE, LABEL_SERVICE_PROXY_NAME, Node, Service
from kpsim.scenario import Scenario, parse_scenario
from kpsim.scenario.document import override, read_document
from kpsim.upgrading.rates import lessen, nodes_in_turn
from kpsim.upgrading.subjects import DAEMON_SET, Subject, Upgrade, behind

FILE = "the drafted scenario"
BEGINS_S = 10  #: when the first node is begun with
DRAIN_TIMEOUT = "10m"  #: a drain that takes longer is taken not to end
_LONG = "2h"  #: until the real duration is known


def prepare(
    given: Given, *, services: Sequence[str] = (), max_unavailable: int | str = 1, seeds: int = 5, settings: Sequence[str] = (),
    balancer: Mapping[str, Any] | None = None,
) -> Upgrade:  # fmt: skip
    """Draft the scenario of an upgrade of all nodes that take pods.

    ``settings`` (``path=value``) change it. ``balancer`` is its ``loadBalancer``. InputError for names that the cluster does not have, for a
    cluster without Services, and for settings that the scenario does not take.
    """
    drafted = draft(given, services=services)
    parts = find_parts(given, Ledger(), services=services)
    content = drafted.content
    _keep_static(content)
    upgraded, spared = _nodes(list(parts.state.nodes), content, given)
    event = Part(
        {"nodes": upgraded, "maxUnavailable": max_unavailable, "takes": "60s", "drainTimeout": DRAIN_TIMEOUT}, flow=True
    )
    content["description"] = f"An upgrade of {len(upgraded)} nodes of {given.name}"
    content["duration"] = _LONG
    content.above.pop("events", None)
    labels = [each for each in content["events"] if "labelNode" in each]  # nodes that load balancers leave out
    content["events"] = [Part({"at": f"{BEGINS_S}s", "rollingUpgrade": event}), *labels]
    if balancer is not None:
        content.put("loadBalancer", Part(dict(balancer), flow=True))
    notes = list(_hold_evictions(content, parts.groups))
    notes += lessen(content, given.config.mode, nodes_in_turn(len(upgraded), max_unavailable), seeds)
    untrue = [" connections a second for each of "]  # the rates are others now
    if balancer is not None:
        untrue += ["load balancers probe nodes every ", "load balancers are as preset "]
    said = [each for each in drafted.notes if not any(words in each for words in untrue)]
    final, part = _settled(drafted, settings)
    upgraded = final["events"][0]["rollingUpgrade"].get("nodes") or [each["name"] for each in final["nodes"]["list"]]
    behinds = {
        group.name: behind(group, part, _template(group, given))
        for group in parts.groups
        for part in final["workloads"]
        if part["name"] == group.name
    }
    targets = targeted(parts.groups, parts.selectors)
    sources = _sources(final)
    found: dict[str, Subject] = {}
    missing: dict[str, str] = {}
    for service in parts.services:
        title = f"{service.metadata.namespace}/{service.metadata.name}"
        own = sources.get(title, [])
        if why := _not_simulated(service, bool(own)):
            missing[title] = why
            continue
        place, spec = _object(final, title)
        names = [each["name"] for each in own]
        tcp = [each["name"] for each in own if _protocol(spec, each.get("port")) == "TCP"]
        led = tuple(behinds[name] for name in targets.get(title, ()) if name in behinds)
        found[title] = Subject(title, place, spec, led, tuple(names), tuple(tcp))
    control = [name for name in upgraded if _is_control_plane(parts.state.node(name))]
    return Upgrade(
        final,
        part,
        tuple(upgraded),
        tuple(spared),
        tuple(control),
        found,
        missing,
        given.config.mode.value,
        (*said, *notes),
    )


def load(content: Json, settings: Sequence[str] = ()) -> Scenario:
    """Return the scenario of a content, with further settings."""
    return parse_scenario(json.dumps(content), FILE, settings=settings)


def _keep_static(content: Part) -> None:
    """Let drains leave the processes of nodes at which hand-written EndpointSlices lead: they are no pods that could be evicted."""
    for part in content["workloads"]:
        if part.get("hostNetwork") and part.head.startswith(BY_HAND):
            part["kind"] = DAEMON_SET
            part["placement"] = Part({"nodes": [pod["node"] for pod in part["pods"]]}, flow=True)
            part.pop("replicas", None)


def _nodes(nodes: Sequence[Node], content: Part, given: Given) -> tuple[list[str], list[str]]:
    """Return the nodes to be upgraded, control planes first, and the control planes that take no pods.

    What a DaemonSet runs there, or the kubelet by itself (static pods), does not count.
    """
    used = {
        pod.node_name for pod in given.state.pods
        if (owner := owner_of(pod.json)) is None or owner[0] not in (DAEMON_SET, "Node")
    }  # fmt: skip
    pods = (pod for part in content["workloads"] if part.get("kind") != DAEMON_SET for pod in part.get("pods", ()))
    used |= {pod["node"] for pod in pods}
    used |= {
        name
        for part in content["workloads"]
        if part.get("kind") != DAEMON_SET
        for name in (part.get("placement") or {}).get("nodes", ())
    }
    first, others, spared = [], [], []
    for node in nodes:
        name = node.metadata.name
        if not _is_control_plane(node):
            others.append(name)
        elif name in used or PodSpec().may_run_on(node):
            first.append(name)
        else:
            spared.append(name)
    if not first and not others:
        return spared, []
    return [*first, *others], spared


def _is_control_plane(node: Node | None) -> bool:
    return node is not None and any(key in node.metadata.labels for key in CONTROL_PLANE_LABELS)


def _hold_evictions(content: Part, groups: Sequence[Group]) -> Iterator[str]:
    """Let no pod be evicted that several budgets select: the API refuses that, and a draft leaves such budgets out."""
    held = {g.name: g for g in groups if len(g.budgets) > 1 and g.alike.owner[0] != DAEMON_SET}
    for part in content["workloads"]:
        if part["name"] in held:
            part.put("disruptionBudget", Part({"maxUnavailable": 0}, flow=True))
            titles = " and ".join(f"{b.namespace}/{b.name}" for b in held[part["name"]].budgets)
            yield f"{held[part['name']].title}: {titles} select the same pods, so the API refuses every eviction"


def _settled(drafted: Draft, settings: Sequence[str]) -> tuple[Json, Part]:
    """Return the scenario with the caller's settings, as plain JSON and with comments. InputError for what does not fit."""
    plain = json.loads(json.dumps(drafted.content))
    if not settings:
        load(plain)
        return plain, drafted.content
    document = override(read_document(json.dumps(plain), FILE), settings)
    changed = document.content
    problems = []
    if not isinstance(changed, dict) or changed.get("duration") != plain["duration"]:
        problems.append("the run ends when the last node is back: duration cannot be set")
    elif not _is_upgrade(changed.get("events")):
        problems.append("events[0] is the rolling upgrade, and the only one: its fields can be set")
    if problems:
        raise InputError([Problem(words, file="--set") for words in problems])
    load(plain, settings)  # errors name the settings
    return changed, Part(dict(changed))


def _is_upgrade(events: Any) -> bool:
    kinds = (
        [("rollingUpgrade" in each) for each in events if isinstance(each, dict)] if isinstance(events, list) else []
    )
    return sum(kinds) == 1 and kinds[0]


def _sources(content: Json) -> dict[str, list[Json]]:
    found: dict[str, list[Json]] = {}
    for each in content["traffic"]:
        name = str(each["service"]).partition(":")[0]
        found.setdefault(name if "/" in name else f"default/{name}", []).append(each)
    return found


def _object(content: Json, title: str) -> tuple[int, Json]:
    """Return the position and the specification of a Service among the objects."""
    for number, each in enumerate(content["objects"]):
        meta = each["metadata"]
        if each["kind"] == "Service" and f"{meta.get('namespace', 'default')}/{meta['name']}" == title:
            return number, each["spec"]
    raise KeyError(title)


def _protocol(spec: Json, port: Any) -> str:
    for each in spec.get("ports") or ():
        if port in (None, each.get("name"), each.get("port")):
            return str(each.get("protocol") or "TCP")
    return "TCP"


def _not_simulated(service: Service, dialled: bool) -> str:
    """Why a Service is not simulated; empty: it is."""
    if service.type == "ExternalName":
        return "an ExternalName is a DNS record: kube-proxy does nothing for it (O-4.2)"
    if service.cluster_ip in ("", CLUSTER_IP_NONE):
        return "headless: clients choose pods by DNS, and kube-proxy has no part (O-1.1)"
    if LABEL_SERVICE_PROXY_NAME in service.metadata.labels:
        return "another proxy serves it (label service.kubernetes.io/service-proxy-name, O-1.1)"
    if not dialled:
        return "no endpoint of it is ready, or none is in the cluster: nothing answers in a simulation"
    return ""


def _template(group: Group, given: Given) -> Json:
    """The specification of a workload's pods: of its template, else of one of its pods; empty: none was given."""
    if group.controller is not None:
        found = group.controller.item.json.get("spec", {}).get("template", {}).get("spec", {})
        return dict(found)
    names = {pod.name for pod in group.pods}
    for pod in given.state.pods:
        if pod.metadata.namespace == group.namespace and pod.metadata.name in names:
            return dict(pod.json.get("spec") or {})
    return {}
