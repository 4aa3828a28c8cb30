"""The table of remedies that are tried: what each changes in the scenario, for which losses, and how dear it is.

A change is one edit of one object: ``settings`` are its ``--set`` form, which is also how it is tried.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, NamedTuple, Protocol

from kpsim.inputs import Json
from kpsim.objects import LABEL_EXCLUDE_BALANCERS
from kpsim.risk.rules import Remedy
from kpsim.scenario.load_balancer_schema import LoadBalancerSpec
from kpsim.units import SECOND_NS
from kpsim.upgrading.losses import Kind
from kpsim.upgrading.subjects import Behind, Subject

_HOST = "kubernetes.io/hostname"
_SLEEPS_S = (2, 5, 10, 15, 20, 30, 45, 60, 90)  #: of a preStop hook
_AFTER_S = 10  #: between the end of the hook and the end of the grace period
LEAVES_S = 30
_BOOTS_S = 10  #: until the pods of a machine that has come back answer, about
_WAY_S = 1.0  #: from a change of a pod until all rules have it, beside minSyncPeriod (CP-1.2)


class Change(Protocol):
    """One edit of one object."""

    @property
    def everywhere(self) -> bool:
        """Whether it changes the upgrade itself, so that it concerns all Services."""
        ...

    def concerns(self, service: str, /) -> bool:
        """Whether it changes what becomes of a Service's connections."""
        ...

    @property
    def settings(self) -> tuple[str, ...]: ...

    @property
    def words(self) -> str: ...


@dataclass(frozen=True)
class Sleep:
    """A preStop hook that sleeps, and a grace period beyond it."""

    behind: Behind
    seconds: int

    everywhere: ClassVar[bool] = False

    def concerns(self, _service: str) -> bool:
        return True

    @property
    def grace_s(self) -> int:
        return max(self.behind.spec.grace_s, self.seconds + _AFTER_S)

    @property
    def settings(self) -> tuple[str, ...]:
        ending = f"workloads[{self.behind.name}].termination"
        grace = (f"{ending}.grace={self.grace_s}s",) if self.grace_s != self.behind.spec.grace_s else ()
        return (f"{ending}.preStop={self.seconds}s", *grace)

    @property
    def words(self) -> str:
        return f"preStop of {self.seconds} s for {self.behind.title}"


@dataclass(frozen=True)
class Allow:
    """A PodDisruptionBudget that lets one pod go at a time."""

    behind: Behind

    everywhere: ClassVar[bool] = False

    def concerns(self, _service: str) -> bool:
        return True

    @property
    def budget(self) -> Json:
        """The budget, with the field that the one which is there has."""
        one = self.behind.budgets[0] if len(self.behind.budgets) == 1 else None
        if one is not None and one.min_available is not None:
            return {"minAvailable": self.behind.replicas - 1}
        return {"maxUnavailable": 1}

    @property
    def settings(self) -> tuple[str, ...]:
        return (f"workloads[{self.behind.name}].disruptionBudget={json.dumps(self.budget)}",)

    @property
    def words(self) -> str:
        ((field, value),) = self.budget.items()
        return f"a PodDisruptionBudget with {field} {value} over {self.behind.title}"


@dataclass(frozen=True)
class Apart:
    """More replicas on different nodes, and a budget that lets one go at a time."""

    behind: Behind
    replicas: int

    everywhere: ClassVar[bool] = False

    def concerns(self, _service: str) -> bool:
        return True

    @property
    def settings(self) -> tuple[str, ...]:
        own, at = self.behind, f"workloads[{self.behind.name}]"
        spread = [*(each for each in own.spread if each.get("topologyKey") != _HOST), {"topologyKey": _HOST}]
        once = {pod["node"]: pod for pod in reversed(own.pods)}
        kept = [pod for pod in own.pods if once[pod["node"]] is pod]
        pods = () if len(kept) == len(own.pods) else (f"{at}.pods={json.dumps(kept)}",)
        return (
            *pods,
            f"{at}.replicas={self.replicas}",
            f"{at}.placement.topologySpread={json.dumps(spread)}",
            f"{at}.disruptionBudget={json.dumps({'maxUnavailable': 1})}",
        )

    @property
    def words(self) -> str:
        return f"{self.replicas} replicas of {self.behind.title} on different nodes, with a PodDisruptionBudget"


@dataclass(frozen=True)
class Leave:
    """Each node leaves the load balancers before its drain, and the next waits until they have it back."""

    pause_s: int
    everywhere: ClassVar[bool] = True

    def concerns(self, _service: str) -> bool:
        return True

    @property
    def settings(self) -> tuple[str, ...]:
        upgrade = "events[0].rollingUpgrade"
        return (f"{upgrade}.leaveLoadBalancers={LEAVES_S}s", f"{upgrade}.pause={self.pause_s}s")

    @property
    def words(self) -> str:
        return (
            f"each node out of the load balancers ({LABEL_EXCLUDE_BALANCERS}) {LEAVES_S} s before its drain, and {self.pause_s} s between two"
            " nodes"
        )


@dataclass(frozen=True)
class Policy:
    """Another value of a Service's policy."""

    subject: Subject
    field: str
    value: str

    everywhere: ClassVar[bool] = False

    def concerns(self, service: str) -> bool:
        return service == self.subject.title

    @property
    def settings(self) -> tuple[str, ...]:
        spec = f"objects[{self.subject.place}].spec"
        health = self.field == "externalTrafficPolicy" and self.subject.spec.get("healthCheckNodePort")
        return (*([f"{spec}.healthCheckNodePort=0"] if health else ()), f"{spec}.{self.field}={self.value}")

    @property
    def words(self) -> str:
        return f"{self.field} {self.value} of {self.subject.title}"


@dataclass(frozen=True)
class Again:
    """Clients that try again."""

    subject: Subject

    everywhere: ClassVar[bool] = False

    def concerns(self, service: str) -> bool:
        return service == self.subject.title

    @property
    def settings(self) -> tuple[str, ...]:
        tries = json.dumps({"count": 8, "backoff": "500ms", "maxBackoff": "5s"})
        return tuple(
            setting
            for name in self.subject.tcp_sources
            for setting in (f"traffic[{name}].connectTimeout=2s", f"traffic[{name}].retries={tries}")
        )

    @property
    def words(self) -> str:
        return f"clients of {self.subject.title} that try again for half a minute"


class Surroundings(NamedTuple):
    """What remedies depend on beside a Service."""

    nodes: int
    stuck: frozenset[str]  #: workloads whose budgets hold drains up
    balancer: LoadBalancerSpec
    min_sync_s: float  #: of kube-proxy
    endpoints: Mapping[str, int]  #: of each Service at the start


Ladder = Sequence[tuple[Change, ...]]


class Row(NamedTuple):
    """A remedy: the losses that it may avoid, why, and its ladder for a Service, from the least value on; empty: it does not apply."""

    name: str
    meaning: str
    advice: tuple[
        Remedy, ...
    ]  #: of the table of advice; empty: it is a change of the upgrade, or of one Service's clients in the cluster
    kinds: frozenset[Kind]
    source: str
    ladder: Callable[[Subject, Surroundings], Ladder]
    beside: frozenset[Kind] = frozenset()  #: what it may avoid only beside another remedy
    of_clients: bool = False  #: it changes clients, so it comes behind pairs of others


def way_s(min_sync_s: float) -> float:
    """How long a change of a pod takes at most until all rules have it (CP-1.2)."""
    return min_sync_s + _WAY_S


def hooks_suffice(subject: Subject, changes: Iterable[Change], at_least_s: float) -> bool:
    """Whether all pods that drains evict serve until all rules have dropped them, or clients try again.

    If not, a run in which nothing is lost shows only that no client came in the short time between.
    """
    own = list(changes)
    if any(isinstance(each, Again) and each.concerns(subject.title) for each in own):
        return True
    sleeps = {each.behind.name: each.seconds for each in own if isinstance(each, Sleep)}
    return all(
        not each.evicted or max(each.sleeps_s, sleeps.get(each.name, 0)) >= at_least_s for each in subject.behinds
    )


def _allow(subject: Subject, around: Surroundings) -> Ladder:
    if around.endpoints.get(subject.title, 0) < 2 and not around.stuck:
        return []
    found = tuple(
        Allow(each) for each in subject.behinds
        if each.evicted and each.replicas > 1 and (not each.budgets or each.name in around.stuck)
    )  # fmt: skip
    return [found] if found else []


def _one_member(subject: Subject, around: Surroundings) -> bool:
    """Whether a Service leads to one pod of a StatefulSet, which gets its successor when it is gone."""
    return around.endpoints.get(subject.title, 0) == 1 and all(each.kind == "StatefulSet" for each in subject.behinds)


def _sleep(subject: Subject, around: Surroundings) -> Ladder:
    own = [each for each in subject.behinds if each.evicted]
    if not own or _one_member(subject, around):
        return []
    window_s = around.balancer.resolved(local=True).worst_window_ns / SECOND_NS
    most = 60 if window_s <= 55 or not subject.external_local else 90
    # a hook that is shorter than the way of a change to all rules does by luck only
    least_s, enough_s = min(each.sleeps_s for each in own), way_s(around.min_sync_s)
    if (
        subject.external_local and subject.kind == "LoadBalancer"
    ):  # what usually passes until a load balancer has seen it (PP-11.7)
        found = around.balancer.resolved(local=True)
        enough_s += found.unhealthy_threshold * found.interval_ns / SECOND_NS
    steps = [s for s in _SLEEPS_S if least_s < s <= most and s >= min(enough_s, most)]
    return [tuple(Sleep(each, s) for each in own if each.sleeps_s < s) for s in steps]


def _leave(subject: Subject, around: Surroundings) -> Ladder:
    if subject.kind != "LoadBalancer":
        return []
    found = around.balancer.resolved(local=subject.external_local)
    back_s = found.healthy_threshold * found.interval_ns / SECOND_NS + _BOOTS_S
    return [(Leave(10 * ceil(back_s / 10)),)]


def _same_node(subject: Subject, _around: Surroundings) -> Ladder:
    if all(each.evicted for each in subject.behinds) or subject.spec.get("trafficDistribution"):
        return []
    near = Policy(subject, "trafficDistribution", "PreferSameNode")
    return [(Policy(subject, "internalTrafficPolicy", "Cluster"), near) if subject.internal_local else (near,)]


def _apart(subject: Subject, around: Surroundings) -> Ladder:
    own = [each for each in subject.behinds if each.kind == "Deployment"]
    room = min((len(set(each.nodes)) or around.nodes for each in own), default=0)
    least = max(2, max((each.replicas for each in own), default=0))
    if room < 2 or least > room:
        return []
    return [tuple(Apart(each, count) for each in own) for count in range(least, min(room, least + 1) + 1)]


def _cluster_policy(subject: Subject, _around: Surroundings) -> Ladder:
    found = []
    if subject.external_local:
        found.append(Policy(subject, "externalTrafficPolicy", "Cluster"))
    if subject.internal_local:
        found.append(Policy(subject, "internalTrafficPolicy", "Cluster"))
    return [tuple(found)] if found else []


def _again(subject: Subject, _around: Surroundings) -> Ladder:
    return [(Again(subject),)] if subject.tcp_sources else []


_LOCAL = frozenset({Kind.NO_LOCAL, Kind.NO_LOCAL_DIALLED, Kind.NO_LOCAL_INTERNAL})
_BALANCED = frozenset({Kind.NO_LOCAL, Kind.MACHINE_OFF, Kind.NO_NODE})

#: advice that has to do with rollouts, zones or pods that are not ready, or asks for another kind of object: an upgrade cannot try it
NOT_TRIED = frozenset(
    {
        Remedy.READY,
        Remedy.ZONES,
        Remedy.ROLLING,
        Remedy.FEWER_UNAVAILABLE,
        Remedy.SURGE,
        Remedy.MIN_READY,
        Remedy.DAEMON_SET,
        Remedy.ONE_BUDGET,
    }
)

#: from the cheapest to the dearest
ROWS: tuple[Row, ...] = (
    Row(
        "PodDisruptionBudget", "one pod is evicted at a time, and the next when its successor is ready; or a budget that lets drains end",
        (Remedy.KEEPING_BUDGET, Remedy.ALLOWING_BUDGET),
        frozenset({Kind.NO_ENDPOINT, Kind.ENDPOINT_OFF, *_LOCAL}), "Eviction of policy/v1", _allow, beside=frozenset({Kind.ENDS_EARLY}),
    ),
    Row(
        "preStop", "pods serve until all rules have dropped them, a successor is ready, and load balancers have seen that the node cannot serve",
        (Remedy.PRE_STOP,),
        frozenset({Kind.NO_ENDPOINT, Kind.ENDS_EARLY, Kind.MACHINE_OFF, Kind.NO_NODE, *_LOCAL}), "CP-1.2, CP-2.8, T-2.2, T-2.3", _sleep,
    ),
    Row(
        "exclude from load balancers", "a node has left the load balancers before it cannot serve",
        (),
        _BALANCED, "CP-14.3", _leave,
    ),
    Row(
        "trafficDistribution PreferSameNode", "clients use the DaemonSet's pod of their own node, and go with it",
        (),
        frozenset({Kind.ENDPOINT_OFF, Kind.NO_LOCAL_INTERNAL}), "T-6.3, CP-2.9", _same_node,
    ),
    Row(
        "replicas on different nodes", "a drain leaves endpoints on other nodes",
        (Remedy.OTHER_NODES, Remedy.REPLICA),
        frozenset({Kind.NO_ENDPOINT, Kind.ENDPOINT_OFF, *_LOCAL}), "T-2, CP-2.9.1", _apart,
    ),
    Row(
        "policy Cluster", "nodes without local endpoint send on to others; clients' addresses are then hidden",
        (Remedy.EXTERNAL_CLUSTER, Remedy.INTERNAL_CLUSTER),
        frozenset({*_LOCAL, Kind.MACHINE_OFF}), "T-2, PP-11.7", _cluster_policy,
    ),
    Row(
        "clients that try again", "a try that fails is repeated until an endpoint is there",
        (Remedy.RETRIES,),
        frozenset(Kind), "T-2.3, CP-2.9.1", _again, of_clients=True,
    ),
)  # fmt: skip


def _may_avoid(row: Row, subject: Subject, kinds: frozenset[tuple[str, Kind]], *, paired: bool) -> bool:
    """Whether a remedy may avoid some of the losses. Whether a node is healthy has to do with its pods for a Local policy only (CP-14.2)."""
    avoided = (row.kinds | row.beside if paired else row.kinds) & {kind for _, kind in kinds}
    if row.name == "preStop" and not subject.external_local:
        avoided -= _BALANCED
    return bool(avoided)


def ladders(
    row: Row,
    subjects: Sequence[Subject],
    kinds: Mapping[str, frozenset[tuple[str, Kind]]],
    around: Surroundings,
    *,
    paired: bool = False,
) -> Iterator[tuple[Change, ...]]:
    """Yield the values of a remedy for Services that share workloads, from the least on. Equal changes are one."""
    own = [
        list(row.ladder(each, around)) for each in subjects if _may_avoid(row, each, kinds[each.title], paired=paired)
    ]
    own = [each for each in own if each]
    for step in range(max(map(len, own), default=0)):
        found = [change for each in own for change in each[min(step, len(each) - 1)]]
        yield tuple({change.settings: change for change in found}.values())
