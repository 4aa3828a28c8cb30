"""What an upgrade is about: each Service with its sources of traffic, and the workloads behind it with what keeps their pods."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Protocol

from kpsim.drafting.controllers import Budget
from kpsim.drafting.groups import Group
from kpsim.drafting.part import Part
from kpsim.drafting.podspecs import PodSpec
from kpsim.inputs import Json
from kpsim.units import SECOND_NS

DAEMON_SET = "DaemonSet"


@dataclass(frozen=True)
class Behind:
    """A workload of the scenario that Services lead to, and the object that keeps its pods."""

    name: str  #: in the scenario
    namespace: str
    kind: str  #: of the object; empty: not known
    owner: str  #: the object's name
    replicas: int
    pods: Sequence[Json]  #: those of the start, as the scenario has them
    nodes: tuple[str, ...]  #: that may get its pods; empty: all
    budgets: tuple[Budget, ...]
    spec: PodSpec
    selector: Mapping[str, str] = field(compare=False)  #: labels by which the object finds its pods
    template: Json = field(compare=False, repr=False)  #: the specification of its pods; empty: not given
    spread: Sequence[Json] = ()  #: its topology spread constraints in the scenario

    @property
    def evicted(self) -> bool:
        """Whether a drain evicts its pods."""
        return self.kind != DAEMON_SET

    @property
    def sleeps_s(self) -> float:
        """How long its preStop hook sleeps, as far as that is known."""
        hook = self.spec.pre_stop
        return 0.0 if hook is None else (hook.sleeps_ns or 0) / SECOND_NS

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.owner}"


def behind(group: Group, part: Json, template: Json) -> Behind:
    """Return a workload of the draft. ``part`` is how the scenario has it."""
    kind, owner = group.alike.owner
    placement = part.get("placement") or {}
    pods = list(part.get("pods") or ())
    return Behind(
        group.name, group.namespace, kind, owner, int(part.get("replicas", len(pods))), pods, tuple(placement.get("nodes") or ()),
        group.budgets, group.spec or PodSpec(), _selector(group), template, list(placement.get("topologySpread") or ()),
    )  # fmt: skip


def _selector(group: Group) -> dict[str, str]:
    given = group.controller.item.json.get("spec", {}).get("selector", {}) if group.controller is not None else {}
    labels = given.get("matchLabels") or group.all_labels
    return {key: value for key, value in labels.items() if key not in _OF_REVISIONS}


#: labels that tell the revisions of a workload apart
_OF_REVISIONS = ("pod-template-hash", "controller-revision-hash")


@dataclass(frozen=True)
class Subject:
    """A Service that is simulated."""

    title: str  #: ``namespace/name``
    place: int  #: among the objects of the scenario
    spec: Json = field(repr=False)
    behinds: tuple[Behind, ...]
    sources: tuple[str, ...]  #: of traffic, by name
    tcp_sources: tuple[str, ...]

    @property
    def kind(self) -> str:
        return str(self.spec.get("type") or "ClusterIP")

    @property
    def external_local(self) -> bool:
        return self.kind in ("NodePort", "LoadBalancer") and self.spec.get("externalTrafficPolicy") == "Local"

    @property
    def internal_local(self) -> bool:
        return self.spec.get("internalTrafficPolicy") == "Local"

    @property
    def about(self) -> str:
        """Such as ``LoadBalancer, externalTrafficPolicy Local``."""
        words = [self.kind]
        if self.external_local:
            words.append("externalTrafficPolicy Local")
        if self.internal_local:
            words.append("internalTrafficPolicy Local")
        if self.spec.get("sessionAffinity") == "ClientIP":
            words.append("session affinity")
        return ", ".join(words)


class Ends(Protocol):
    """How long an upgrade takes, and after how long its drains are given up; None: as the scenario says."""

    @property
    def duration_s(self) -> int: ...

    @property
    def timeout_s(self) -> int | None: ...


@dataclass(frozen=True)
class Upgrade:
    """The scenario of an upgrade, and what it is about.

    ``nodes`` are upgraded, ``spared`` are control planes without pods. ``unsimulated`` has a reason for each Service that is not simulated.
    """

    content: Json = field(repr=False)
    part: Part = field(repr=False)  #: the same, with the draft's comments
    nodes: tuple[str, ...]
    spared: tuple[str, ...]
    control_planes: tuple[str, ...]  #: those among ``nodes``
    subjects: Mapping[str, Subject]
    unsimulated: Mapping[str, str]
    mode: str  #: of kube-proxy
    notes: tuple[str, ...] = ()

    def text(self, course: "Ends") -> str:
        """Return the scenario as YAML, which ends with the upgrade."""
        from kpsim.drafting.writing import yaml_text

        final = deepcopy(self.part)
        final["duration"] = f"{course.duration_s}s"
        if course.timeout_s is not None:
            final["events"][0]["rollingUpgrade"]["drainTimeout"] = f"{course.timeout_s}s"
        return yaml_text(final)

    def with_traffic(self, sources: Sequence[str] | None = None) -> Json:
        """Return the scenario with some of its sources only, None: all."""
        if sources is None:
            return self.content
        kept = set(sources)
        traffic: list[Any] = [each for each in self.content["traffic"] if each["name"] in kept]
        return {**self.content, "traffic": traffic}
