"""Sorts pods into workloads: pods that are kept by one object and are alike are one workload."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kpsim.drafting.controllers import Budget, Controller, Controllers
from kpsim.drafting.pods import FoundPod, FoundPods, Labels, Selectors
from kpsim.drafting.podspecs import PodSpec
from kpsim.objects import LABEL_POD_INDEX, LABEL_POD_NAME, ContainerPort, Service


class _Alike(NamedTuple):
    """What pods of one workload have in common."""

    namespace: str
    owner: tuple[str, str]
    labels: Labels
    ports: tuple[ContainerPort, ...]
    host_network: bool


@dataclass(slots=True)
class Group:
    """A workload in the making. ``name`` is unique in the scenario, whatever its namespace."""

    alike: _Alike
    pods: list[FoundPod] = field(default_factory=list)
    controller: Controller | None = None
    name: str = ""
    siblings: int = 1  #: groups of the same owner
    assumed: bool = False  #: its pods are not known, so they are as many as the controller wants
    budgets: tuple[Budget, ...] = ()  #: PodDisruptionBudgets over its pods

    @property
    def namespace(self) -> str:
        return self.alike.namespace

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.alike.owner[1]}"

    @property
    def replicas(self) -> int:
        if self.assumed and self.controller is not None:
            return 1 if self.controller.replicas is None else self.controller.replicas
        return len(self.pods)

    @property
    def all_labels(self) -> Mapping[str, str]:
        """Return the labels of its pods, also those that no Service selects by."""
        if self.controller is not None:
            return {**dict(self.alike.labels), **self.controller.labels}
        return self.pods[0].all_labels if self.pods else dict(self.alike.labels)

    def label_sets(self) -> list[dict[str, str]]:
        """Return the labels of its pods that Services select by: once for all, but of a StatefulSet for each pod."""
        common = dict(self.alike.labels)
        if not self.is_stateful_set:
            return [common]
        names = [pod.name for pod in self.pods] or [f"{self.name}-{number}" for number in range(self.replicas)]
        own = [{LABEL_POD_NAME: name, LABEL_POD_INDEX: name.rpartition("-")[2]} for name in names]
        return [{**common, **each} for each in own]

    def selected_by(self, selectors: Selectors) -> list[Service]:
        """Return the Services that select some of its pods."""
        return [service for labels in self.label_sets() for service in selectors.selecting(self.namespace, labels)]

    @property
    def is_stateful_set(self) -> bool:
        """Return whether the scenario can keep the pods as a StatefulSet: with names that end in ordinals from 0 on."""
        return (
            self.alike.owner[0] == "StatefulSet"
            and self.siblings == 1
            and _in_order(self.name, [pod.name for pod in self.pods], self.replicas)
        )

    @property
    def static(self) -> bool:
        """Return whether its pods are static: the kubelets of their nodes keep them, and drains leave them."""
        return bool(self.pods) and all(pod.static for pod in self.pods)

    @property
    def bare(self) -> bool:
        """Return whether no object keeps its pods, so that nothing replaces them. Only pods that were given tell."""
        given = bool(self.pods) and all(pod.spec is not None for pod in self.pods)
        return given and not self.alike.owner[0] and not self.static

    @property
    def is_daemon_set(self) -> bool:
        """Return whether the scenario can keep the pods as a DaemonSet: at most one is on each node, of static pods, too."""
        nodes = {pod.node for pod in self.pods}
        return (
            (self.alike.owner[0] == "DaemonSet" or self.static)
            and (self.assumed or bool(self.pods))
            and len(nodes) == len(self.pods)
        )

    @property
    def spec(self) -> PodSpec | None:
        """Return the specification of its pods: the template's, else that of the first pod that was given."""
        if self.controller is not None:
            return self.controller.spec
        return next((pod.spec for pod in self.pods if pod.spec is not None), None)

    @property
    def kept_apart_over(self) -> list[str]:
        """Return the topology keys over which required podAntiAffinity keeps its pods apart from each other."""
        labels = self.all_labels
        terms = self.spec.repelling if self.spec is not None else ()
        return [term.key for term in terms if term.selects(self.namespace, self.namespace, labels)]


def group_pods(
    found: FoundPods,
    controllers: Controllers,
    selectors: Selectors,
    keep: frozenset[tuple[str, str]],
) -> list[Group]:
    """Return the workloads, sorted by namespace and name.

    A controller without pods is a workload, too, if a Service selects its template.
    """
    groups: dict[_Alike, Group] = {}
    owned = [(pod, _owner(pod, controllers)) for pod in found.pods]
    sets = _stateful_sets(owned)
    for pod, owner in owned:
        labels = _shared(pod.labels) if (pod.namespace, owner) in sets else pod.labels
        alike = _Alike(pod.namespace, owner, labels, pod.ports, pod.host_network)
        group = groups.setdefault(alike, Group(alike))
        group.pods.append(pod)
        group.controller = group.controller or controllers.get(owner[0], pod.namespace, owner[1])
    present = {(alike.owner[0], alike.namespace, alike.owner[1]) for alike in groups}
    for controller in controllers.all:
        key = (controller.kind, controller.namespace, controller.name)
        if key in present or controller.kind == "Job":
            continue
        if selectors.selecting(controller.namespace, controller.labels) or key[1:] in keep:
            alike = _Alike(
                controller.namespace,
                (controller.kind, controller.name),
                selectors.relevant(controller.namespace, controller.labels),
                controller.spec.ports,
                controller.spec.host_network,
            )
            groups[alike] = Group(alike, [], controller, assumed=controller.namespace not in found.known)
    ordered = sorted(groups.values(), key=lambda g: (g.namespace, g.alike.owner[1], [p.name for p in g.pods[:1]]))
    _name(ordered)
    for group in ordered:
        own = controllers.budgets.get(group.namespace, ())
        group.budgets = tuple(each for each in own if each.selects(group.all_labels))
    return ordered


_OWN_LABELS = (LABEL_POD_INDEX, LABEL_POD_NAME)


def _shared(labels: Labels) -> Labels:
    """Return the labels without those that the controller of a StatefulSet gives each pod of its own."""
    return tuple(each for each in labels if each[0] not in _OWN_LABELS)


def _stateful_sets(owned: Iterable[tuple[FoundPod, tuple[str, str]]]) -> set[tuple[str, tuple[str, str]]]:
    """Return the StatefulSets, by namespace and owner, whose pods the scenario can keep as one."""
    pods: dict[tuple[str, tuple[str, str]], list[FoundPod]] = {}
    spaces: dict[str, set[str]] = {}
    for pod, owner in owned:
        spaces.setdefault(owner[1], set()).add(pod.namespace)
        if owner[0] == "StatefulSet":
            pods.setdefault((pod.namespace, owner), []).append(pod)
    return {
        key for key, own in pods.items()
        if len(spaces[key[1][1]]) == 1  # a workload's name is unique in the scenario, and its pods are called by it
        and len({(_shared(pod.labels), pod.ports, pod.host_network) for pod in own}) == 1
        and _in_order(key[1][1], [pod.name for pod in own], len(own))
    }  # fmt: skip


def _in_order(name: str, pods: Sequence[str], replicas: int) -> bool:
    """Return whether pods are called by a StatefulSet's name and an ordinal each, from 0 on."""
    pattern = re.compile(rf"{re.escape(name)}-(0|[1-9]\d*)")
    found = [pattern.fullmatch(pod) for pod in pods]
    return all(each is not None and int(each[1]) < replicas for each in found)


def _owner(pod: FoundPod, controllers: Controllers) -> tuple[str, str]:
    """Return what keeps a pod. If the pod does not say it, it is the controller whose name begins the pod's and whose template has its labels."""
    if pod.owner[0]:
        return pod.owner
    named = pod.name
    while "-" in named:
        named = named.rpartition("-")[0]
        for each in controllers.named(pod.namespace, named):
            if set(_shared(pod.labels)) <= set(each.labels.items()):
                return each.kind, each.name
    return pod.owner


def _name(groups: Sequence[Group]) -> None:
    """Give every group a name of its own: its owner's, with the namespace if two namespaces have it, or a number."""
    owners = Counter((group.namespace, group.alike.owner) for group in groups)
    spaces = Counter(name for name, _ in {(g.alike.owner[1], g.namespace) for g in groups})
    taken: set[str] = set()
    for group in groups:
        own = group.alike.owner[1]
        group.siblings = owners[group.namespace, group.alike.owner]
        if group.siblings > 1 and len(group.pods) == 1:  # members of a StatefulSet that have Services of their own
            own = group.pods[0].name
        base = own if spaces[own] <= 1 else f"{group.namespace}-{own}"
        base = re.sub(r"[^a-z0-9.-]+", "-", base.lower()).strip("-.") or "workload"
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        group.name = name


def targeted(groups: Iterable[Group], selectors: Selectors) -> dict[str, list[str]]:
    """Return by Service (``namespace/name``) the names of the workloads that it selects."""
    found: dict[str, list[str]] = {}
    for group in groups:
        for name in {f"{s.metadata.namespace}/{s.metadata.name}": None for s in group.selected_by(selectors)}:
            found.setdefault(name, []).append(group.name)
    return found
