"""Drafts a scenario from a cluster: nodes, workloads, Services, kube-proxy's configuration, and traffic to be filled in.

A draft loads and runs as it is. What a cluster's objects do not tell is a guess with a comment, or a TODO.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kpsim.backends.table import traits_of
from kpsim.cluster import ClusterState
from kpsim.config import ProxyConfig
from kpsim.drafting.balancers import balancer_of, clouds_of, excluded, put_balancer
from kpsim.drafting.controllers import Controllers
from kpsim.drafting.groups import Group, group_pods, targeted
from kpsim.drafting.listeners import listeners
from kpsim.drafting.nodes import MOST_NODES, cluster_families, nodes_part
from kpsim.drafting.part import TODO, Ledger, Part
from kpsim.drafting.pods import FoundPods, Selectors, find_pods
from kpsim.drafting.proxy import proxy_part
from kpsim.drafting.rollouts import duration_s, near, rolled_out, rollout_part
from kpsim.drafting.services import cidr_parts, hand_written, service_part, slice_part
from kpsim.drafting.traffic import clients_part, traffic_parts, ways_to
from kpsim.drafting.workloads import workload_part
from kpsim.errors import InputError, Problem
from kpsim.inputs import Json
from kpsim.manifests.admission import Item
from kpsim.manifests.assumed import assume_nodes
from kpsim.manifests.remarks import counted
from kpsim.objects import Service, node_from_json

_EXAMPLES = 5  #: rollouts that stand in comments
_ASSUMED = 3  #: nodes of a cluster of which nothing names a node


@dataclass(frozen=True)
class Given:
    """What a scenario is drafted from. ``document`` is the KubeProxyConfiguration as it was given, ``config`` what it came to."""

    state: ClusterState
    config: ProxyConfig
    document: Json = field(default_factory=dict)
    controllers: Sequence[Item] = ()  #: Deployments and other objects that keep pods
    name: str = "cluster"


@dataclass(frozen=True)
class Draft:
    """A drafted scenario: its content, whose parts carry comments, and in words what was taken, guessed and left out."""

    content: Part
    took: tuple[str, ...]
    guessed: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def text(self) -> str:
        """The scenario as YAML, with comments."""
        from kpsim.drafting.writing import yaml_text

        return yaml_text(self.content)

    @property
    def todos(self) -> int:
        """How many places of the text are marked TODO, its head aside."""
        return _marks(self.content) - 1

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about the draft, a line each."""
        return (
            *(f"took {words}" for words in self.took),
            *(f"guessed: {words}" for words in self.guessed),
            *(f"left out: {words}" for words in self.left_out),
        )

    def __str__(self) -> str:
        return self.text


def _marks(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_marks, value))
    if not isinstance(value, Part):
        return 0
    own = sum(TODO in words for words in (value.head, *value.above.values(), *value.beside.values()))
    return own + sum(map(_marks, value.values()))


def draft(given: Given, *, services: Sequence[str] = (), rollout: str = "") -> Draft:
    """Draft a scenario of a cluster, or of some of its Services (``namespace/name``) and the workloads behind them.

    ``rollout`` names a workload, as ``namespace/name`` of its controller or of a Service that selects it: it is rolled out, and traffic goes
    only to the Services that lead to it. InputError for names that the cluster does not have, for objects that cannot be read, and for
    more nodes than a scenario holds.
    """
    if next(given.state.services, None) is None:
        raise InputError(
            "there is no Service among the objects (kubectl get services,endpointslices,pods,nodes -A -o yaml gives them)"
        )
    ledger = Ledger()
    parts = find_parts(given, ledger, services=services, rollout=rollout)
    rolled = rolled_out(rollout, parts.groups, parts.services, parts.selectors, ledger)
    content = Part()
    content.put("apiVersion", "kpsim.dev/v1alpha1", above=_HEAD)
    content.put("kind", "Scenario")
    content.put("metadata", Part({"name": given.name}, flow=True))
    content.put("description", _description(parts, rollout))
    content.put("duration", f"{duration_s(rolled)}s")
    content.put("nodes", nodes_part(parts.state, ledger))
    _put_rest(content, parts, given, rolled, ledger)
    ledger.took.append(_took(parts))
    return Draft(content, tuple(ledger.took), ledger.guessed, ledger.left_out)


_HEAD = f"Drafted by kpsim scenario init. It runs as it is; what a cluster's objects do not tell is a guess, or marked {TODO}."


@dataclass(frozen=True)
class Parts:
    """What of a cluster a scenario has. ``state`` has the Nodes of the scenario."""

    state: ClusterState
    services: Sequence[Service]
    selectors: Selectors
    found: FoundPods
    groups: Sequence[Group]


def find_parts(given: Given, ledger: Ledger, *, services: Sequence[str] = (), rollout: str = "") -> Parts:
    """Find Services, pods and workloads. InputError as :func:`draft`."""
    controllers = Controllers(given.controllers)
    state = _with_nodes(given, ledger)
    chosen = _chosen(list(state.services), services)
    namespace, _, name = rollout.rpartition("/")
    keep = frozenset({(namespace or "default", name)} if rollout else ())
    selectors = Selectors(chosen)
    found = find_pods(state, selectors, chosen, controllers, ledger, keep)
    groups = group_pods(found, controllers, selectors, keep)
    return Parts(_within_limit(state, found, ledger), chosen, selectors, found, groups)


def _with_nodes(given: Given, ledger: Ledger) -> ClusterState:
    """Return the state with Nodes. If none was given, they are those that pods and slices name, or one."""
    state = given.state
    if next(state.nodes, None) is not None:
        return state
    nodes = assume_nodes("", state, given.config.cluster_cidr).nodes
    if not any(pod.node_name for pod in state.pods) and not any(
        e.node_name for s in state.endpoint_slices for e in s.endpoints
    ):
        named = ({"kind": "Node", "metadata": {"name": f"node-{number + 1}"}} for number in range(_ASSUMED))
        nodes = tuple(map(node_from_json, named))  # the scenario's plan has addresses for them
    for node in nodes:
        _, state = state.put(node)
    names = [node.metadata.name for node in nodes]
    ledger.guess("addresses and pod networks of Nodes, as none was given (kubectl get nodes -o yaml)", *names)
    return state


def _within_limit(state: ClusterState, found: FoundPods, ledger: Ledger) -> ClusterState:
    """Leave out nodes without pods of the draft, if a scenario does not hold them all."""
    names = [node.metadata.name for node in state.nodes]
    if len(names) <= MOST_NODES:
        return state
    used = {pod.node for pod in found.pods}
    if len(used) > MOST_NODES:
        raise InputError(
            f"the pods of the draft run on {len(used):,} nodes, and a scenario holds {MOST_NODES}: draft some Services only "
            "(--service NAMESPACE/NAME)"
        )
    spare = [name for name in names if name not in used][: MOST_NODES - len(used)]
    kept = used.union(spare)
    for node in list(state.nodes):
        if node.metadata.name not in kept:
            _, state = state.remove(node.key)
    ledger.leave_out(
        f"{counted(len(names) - MOST_NODES, 'Node')} without pods of the draft, as a scenario holds {MOST_NODES}"
    )
    return state


def _put_rest(content: Part, parts: Parts, given: Given, rolled: Sequence[Group], ledger: Ledger) -> None:
    state, groups, services = parts.state, parts.groups, parts.services
    targets = targeted(groups, parts.selectors)
    rolling = {group.name for group in rolled}
    leading = {name for name, names in targets.items() if rolling.intersection(names)}
    slices = list(hand_written(state, services, parts.found.shown, ledger))
    answering = listeners(slices, parts.found.pods, state, {group.name for group in groups})
    unanswered = {name for name, answered in answering.answered.items() if not answered and name not in targets}
    clouds = clouds_of(list(state.nodes))
    past = {_title(s) for s in services if s.type == "LoadBalancer" and balancer_of(s, clouds).dials_pods}
    ways = [
        way for s in services for way in ways_to(s)
        if (not rolled or _title(s) in leading) and _title(s) not in unanswered
        and not (way.via == "loadBalancer" and _title(s) in past)
    ]  # fmt: skip
    if rolled and not leading:
        ledger.leave_out("traffic, as no Service leads to what is rolled out", *(group.title for group in rolled))
    if passing := sorted(past & {_title(way.service) for way in ways}):
        ledger.leave_out("traffic by load balancers that dial pods, past kube-proxy (target type ip)", *passing)
    for each in services:
        if each.has_several_load_balancers and any(way.service is each for way in ways):
            ledger.leave_out("traffic by load balancer, as the Service has several", _title(each))
    workloads = [*(workload_part(group, state, parts.selectors, ledger) for group in groups), *answering.parts]
    clients = "clients" if all(part["name"] != "clients" for part in workloads) else "kpsim-clients"
    if any(way.inside for way in ways):
        workloads.append(clients_part(state, clients))
    content.put("workloads", workloads)
    families = cluster_families(state)
    content.put(
        "objects",
        [
            *(part for cidr in state.service_cidrs for part in cidr_parts(cidr)),
            *(service_part(service, families) for service in services),
            *map(slice_part, slices),
        ],
    )
    content.put("proxy", proxy_part(given.document, given.config, ledger))
    if traits_of(given.config.mode).reads_service_cidrs and next(state.service_cidrs, None) is None:
        ledger.guess(
            "the ServiceCIDR is the range around the cluster IPs, as none was given (kubectl get servicecidrs -o yaml)"
        )
    content.put("delays", Part({"preset": "typical"}, flow=True), beside=_DELAYS)
    ledger.guess("kubelets, controllers and the scheduler take as long as they do as a rule (delays)")
    balanced = [s for s in services if any(way.service is s and way.via == "loadBalancer" for way in ways)]
    put_balancer(content, balanced, list(state.nodes), ledger)
    _put_events(content, groups, rolled, excluded(list(state.nodes)) if balanced else [])
    filled = _filled(groups, targets) | {f"{s.metadata.namespace}/{s.service_name}" for s in slices if s.endpoints}
    content.put("traffic", traffic_parts(ways, clients, filled, state, ledger))


_DELAYS = "kubelets see containers within 1 s (CP-1.2 D2), the scheduler takes 10 to 27 ms (kubernetes#56053), controllers 25 ms, a deletion 10 ms"


def _put_events(content: Part, groups: Sequence[Group], rolled: Sequence[Group], first: Sequence[Part]) -> None:
    """Put the rollouts that were asked for, else examples in comments, after ``first``, the events that make the start."""
    if rolled:
        content.put("events", [*first, *(rollout_part(group) for group in rolled)])
        return
    examples = [rollout_part(group) for group in groups if group.replicas][:_EXAMPLES]
    lines = [f"{TODO}: what happens{', for example' if examples else ''}"]
    for example in examples:
        inner = ", ".join(f"{key}: {value}" for key, value in example["rollout"].items())
        lines.append(f"  - {{at: {example['at']}, rollout: {{{inner}}}}}")
    content.put("events", list(first), above="\n".join(lines))


def _filled(groups: Sequence[Group], targets: Mapping[str, Collection[str]]) -> set[str]:
    """Return the Services with an endpoint that is ready."""
    ready = {g.name for g in groups if (g.assumed and g.replicas) or any(pod.ready for pod in g.pods)}
    return {service for service, names in targets.items() if ready.intersection(names)}


def _description(parts: Parts, rollout: str) -> str:
    nodes = counted(len(list(parts.state.nodes)), "node")
    return f"{f'A rollout of {rollout} in' if rollout else 'Drafted from'} a cluster of {nodes}"


def _took(parts: Parts) -> str:
    nodes = list(parts.state.nodes)
    zones = {node.zone for node in nodes if node.zone}
    kinds = Counter(group.alike.owner[0] or "not known" for group in parts.groups)
    of = ", ".join(f"{kind} {kinds[kind]}" for kind in sorted(kinds))
    where = counted(len(zones), "zone")
    unready = sum(not pod.ready for group in parts.groups for pod in group.pods)
    return (
        f"{counted(len(nodes), 'node')}{f' in {where}' if zones else ''}, {counted(len(parts.services), 'Service')}, "
        f"{counted(len(parts.groups), 'workload')}{f' ({of})' if of else ''} with "
        f"{counted(sum(group.replicas for group in parts.groups), 'pod')}{f', {unready:,} of them not ready' if unready else ''}"
    )


def _title(service: Service) -> str:
    return f"{service.metadata.namespace}/{service.metadata.name}"


def _chosen(services: Sequence[Service], wanted: Sequence[str]) -> list[Service]:
    """Return the Services that were asked for, or all. InputError for every name that none has."""
    if not wanted:
        return list(services)
    by_name = {_title(service): service for service in services}
    names = {name if "/" in name else f"default/{name}" for name in wanted}
    unknown = sorted(names.difference(by_name))
    if unknown:
        raise InputError([Problem(f"--service {n}: there is no such Service{near(n, by_name)}") for n in unknown])
    return [service for service in services if _title(service) in names]
