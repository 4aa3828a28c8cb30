"""Reads the objects that keep pods: Deployments, StatefulSets, DaemonSets, ReplicaSets and Jobs.

Counterpart: apps/v1 and batch/v1. Only what decides how many pods there are and how they are replaced is read.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from kpsim.drafting.podspecs import PodSpec, holds, natural, pod_spec
from kpsim.errors import InputError, Problem
from kpsim.inputs import Json
from kpsim.manifests.admission import Item
from kpsim.manifests.places import Finding, problems_of
from kpsim.objects import JsonReader


@dataclass(frozen=True, slots=True)
class Strategy:
    """How pods are replaced: numbers or percentages, as a Deployment says them. ``words`` say what they stand for."""

    max_surge: int | str
    max_unavailable: int | str
    words: str
    recreates: bool = False  #: all old pods are gone before the first new one comes


@dataclass(frozen=True)
class Controller:
    """An object that keeps pods. ``labels`` are those of its template."""

    item: Item
    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    spec: PodSpec
    replicas: int | None  #: None: one on each node, or as many as a Job has
    strategy: Strategy | None
    min_ready_s: int = 0
    partition: int = 0  #: of a StatefulSet: pods of lower ordinals are not replaced
    parallel: bool = False  #: of a StatefulSet: it starts and ends its pods at once
    owner: tuple[str, str] | None = None  #: kind and name of the object that keeps it: of a ReplicaSet, its Deployment

    @property
    def title(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget. Its selector is labels, and expressions: key, operator, values."""

    namespace: str
    name: str
    labels: Mapping[str, str]
    expressions: tuple[tuple[str, str, tuple[str, ...]], ...]
    min_available: int | str | None
    max_unavailable: int | str | None
    policy: str

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Return whether the budget is over pods with these labels, in its namespace."""
        return all(labels.get(key) == value for key, value in self.labels.items()) and all(
            holds(labels, *each) for each in self.expressions
        )


def _budget(item: Item) -> Budget:
    reader = JsonReader(item.json, "")
    meta, spec = reader.child("metadata"), reader.child("spec")
    selector = spec.child("selector")
    return Budget(
        meta.text("namespace") or "default",
        meta.text("name"),
        selector.labels("matchLabels"),
        tuple(
            (each.text("key"), each.text("operator"), each.texts("values"))
            for each in selector.children("matchExpressions")
        ),
        _share_or_none(spec, "minAvailable"),
        _share_or_none(spec, "maxUnavailable"),
        spec.text("unhealthyPodEvictionPolicy"),
    )


class Controllers:
    """All objects that keep pods, by name."""

    def __init__(self, items: Iterable[Item]) -> None:
        """InputError for every object that cannot be read, with its place."""
        self._by_name: dict[tuple[str, str, str], Controller] = {}
        self.budgets: dict[str, list[Budget]] = {}  #: by namespace
        findings: list[Finding] = []
        for item in items:
            try:
                if item.kind == "PodDisruptionBudget":
                    budget = _budget(item)
                    self.budgets.setdefault(budget.namespace, []).append(budget)
                    continue
                read = _read(item)
            except InputError as error:
                findings += [item.finding((), str(problem)) for problem in error.problems]
                continue
            self._by_name[read.kind, read.namespace, read.name] = read
        if findings:
            raise InputError(problems_of(findings))

    def get(self, kind: str, namespace: str, name: str) -> Controller | None:
        return self._by_name.get((kind, namespace, name))

    def top(self, kind: str, namespace: str, name: str) -> tuple[str, str] | None:
        """Return kind and name of what keeps a ReplicaSet, if that is known."""
        found = self.get(kind, namespace, name)
        return found.owner if found is not None else None

    @cached_property
    def all(self) -> tuple[Controller, ...]:
        """Return those that no other keeps, sorted by namespace, name and kind."""
        found = [each for each in self._by_name.values() if each.owner is None]
        return tuple(sorted(found, key=lambda each: (each.namespace, each.name, each.kind)))

    @cached_property
    def _named(self) -> Mapping[tuple[str, str], list[Controller]]:
        found: dict[tuple[str, str], list[Controller]] = {}
        for each in self.all:
            found.setdefault((each.namespace, each.name), []).append(each)
        return found

    def named(self, namespace: str, name: str) -> Sequence[Controller]:
        """Return those with this name that no other keeps."""
        return self._named.get((namespace, name), ())


def _read(item: Item) -> Controller:
    reader = JsonReader(item.json, "")
    meta, spec = reader.child("metadata"), reader.child("spec")
    template = spec.child("template")
    inner = template.child("spec")
    kind = item.kind
    owners = [o for o in meta.children("ownerReferences") if o.optional_flag("controller") is not False]
    return Controller(
        item=item,
        kind=kind,
        namespace=meta.text("namespace") or "default",
        name=meta.text("name"),
        labels=template.child("metadata").labels("labels"),
        spec=pod_spec(inner.obj, inner.path),
        replicas=None if kind in ("DaemonSet", "Job") else natural(spec, "replicas", 1),
        strategy=_strategy(kind, spec),
        min_ready_s=natural(spec, "minReadySeconds", 0),
        partition=natural(spec.child("updateStrategy").child("rollingUpdate"), "partition", 0),
        parallel=spec.text("podManagementPolicy") == "Parallel",
        owner=(owners[0].text("kind"), owners[0].text("name")) if owners else None,
    )


def _strategy(kind: str, spec: JsonReader) -> Strategy | None:
    match kind:
        case "Deployment":
            strategy = spec.child("strategy")
            if strategy.text("type") == "Recreate":
                return Strategy(0, "100%", "strategy Recreate", recreates=True)
            rolling = strategy.child("rollingUpdate")
            return Strategy(
                _share(rolling, "maxSurge", "25%"), _share(rolling, "maxUnavailable", "25%"), "RollingUpdate"
            )
        case "StatefulSet" | "DaemonSet" if spec.child("updateStrategy").text("type") == "OnDelete":
            return Strategy(0, 1, "OnDelete, taken for an operator who deletes pod after pod")
        case "StatefulSet":
            rolling = spec.child("updateStrategy").child("rollingUpdate")
            return Strategy(0, _share(rolling, "maxUnavailable", 1), "a StatefulSet's RollingUpdate")
        case "DaemonSet":
            rolling = spec.child("updateStrategy").child("rollingUpdate")
            surge, unavailable = _share(rolling, "maxSurge", 0), _share(rolling, "maxUnavailable", 1)
            return Strategy(surge, unavailable, "a DaemonSet's RollingUpdate")
        case _:
            return None


_NUMBER, _PERCENT = re.compile(r"[0-9]{1,9}"), re.compile(r"[0-9]{1,9}%")


def _share(reader: JsonReader, name: str, default: int | str) -> int | str:
    value = _share_or_none(reader, name)
    return default if value is None else value


def _share_or_none(reader: JsonReader, name: str) -> int | str | None:
    value: int | str | None = reader.typed(name, (int, str), "a number or a percentage")
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    if (isinstance(value, str) and not _PERCENT.fullmatch(value)) or (isinstance(value, int) and value < 0):
        raise InputError(Problem(f"expected a number or a percentage, got {value!r}", path=f"{reader.path}.{name}"))
    return value


def owner_of(json: Json) -> tuple[str, str] | None:
    """Return kind and name of the object that keeps a Pod; None: no object does."""
    for owner in JsonReader(json, "").child("metadata").children("ownerReferences"):
        if owner.optional_flag("controller") is not False:
            return owner.text("kind"), owner.text("name")
    return None
