"""The next step of a Deployment: how many pods to create and which to delete, as a function of the pods that exist.

Counterpart: the deployment and replica set controllers' RollingUpdate arithmetic.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PodStatus:
    """A pod that is not terminating, as the controller sees it."""

    name: str
    node: str
    revision: int
    ready: bool
    number: int  #: order of creation
    waits: bool = False  #: it has not been ready for minReadySeconds yet

    @property
    def available(self) -> bool:
        return self.ready and not self.waits


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """The number of pods to create of the newest revision, and the names of those to delete."""

    create: int = 0
    delete: tuple[str, ...] = ()


def resolve_share(share: int | str, replicas: int, *, round_up: bool) -> int:
    """Turn a number, or a percentage of ``replicas``, into pods. maxSurge rounds up, maxUnavailable down."""
    if isinstance(share, int):
        return share
    hundredths = int(share.removesuffix("%")) * replicas
    return -(-hundredths // 100) if round_up else hundredths // 100


@dataclass(frozen=True, slots=True)
class Strategy:
    """RollingUpdate in numbers of pods.

    If both were zero the rollout would never move, so one pod may then be unavailable.
    """

    surge: int
    unavailable: int

    @classmethod
    def of(cls, max_surge: int | str, max_unavailable: int | str, replicas: int) -> "Strategy":
        surge = resolve_share(max_surge, replicas, round_up=True)
        unavailable = resolve_share(max_unavailable, replicas, round_up=False)
        return cls(surge, unavailable if surge or unavailable else 1)


class Fleet:
    """A workload's pods that are not terminating, counted by what the next step depends on."""

    def __init__(self, pods: Iterable[PodStatus] = ()) -> None:
        self._pods: dict[str, PodStatus] = {}
        self._counts: Counter[tuple[int, bool]] = Counter()  #: by revision and availability; no count is 0
        self._ready = self._available = 0
        self.on_node: Counter[str] = Counter()  #: pods of each node
        for pod in pods:
            self.put(pod)

    def __len__(self) -> int:
        return len(self._pods)

    def __iter__(self) -> Iterator[PodStatus]:
        return iter(self._pods.values())

    def put(self, pod: PodStatus) -> None:
        """Add a pod, or replace its status."""
        self.remove(pod.name)
        self._pods[pod.name] = pod
        self._count(pod, 1)

    def remove(self, name: str) -> None:
        """Remove a pod that terminates or is gone. Does nothing if it is not in the fleet."""
        pod = self._pods.pop(name, None)
        if pod is not None:
            self._count(pod, -1)

    def _count(self, pod: PodStatus, number: int) -> None:
        kind = (pod.revision, pod.available)
        self._counts[kind] += number
        if not self._counts[kind]:
            del self._counts[kind]
        self._ready += number * pod.ready
        self._available += number * pod.available
        self.on_node[pod.node] += number

    @property
    def ready(self) -> int:
        """Number of ready pods."""
        return self._ready

    @property
    def available(self) -> int:
        """Number of pods that have been ready for minReadySeconds."""
        return self._available

    def of_revision(self, revision: int, *, available: bool) -> int:
        """Return the number of pods of one revision that are available, or not."""
        return self._counts.get((revision, available), 0)


def next_step(pods: Fleet, replicas: int, revision: int, strategy: Strategy) -> RolloutStep:
    """Return the step that the controllers take now. It is empty if they wait for a pod to change.

    New pods come as far as ``replicas`` + surge allows. Old ones go if they are not available anyway, or as long as at
    least ``replicas`` − unavailable pods stay available.
    """
    missing_new = pods.of_revision(revision, available=False)
    new = missing_new + pods.of_revision(revision, available=True)
    old = len(pods) - new
    if new > replicas:
        return RolloutStep(delete=_names(_victims(pods, revision, old=False)[: new - replicas]))
    room = replicas + (strategy.surge if old else 0) - len(pods)
    create = max(0, min(replicas - new, room))
    if not old:
        return RolloutStep(create)
    least = replicas - strategy.unavailable
    # old pods beyond those that keep the minimum, where new pods that are not available yet count as missing
    may_go = max(0, len(pods) - least - missing_new)
    if not may_go:
        return RolloutStep(create)
    victims = _victims(pods, revision, old=True)
    broken = [pod for pod in victims if not pod.available][:may_go]
    spare = max(0, min(may_go - len(broken), pods.available - least))
    healthy = [pod for pod in victims if pod.available][:spare]
    return RolloutStep(create, _names([*broken, *healthy]))


def _victims(pods: Fleet, revision: int, *, old: bool) -> list[PodStatus]:
    """Return the pods of the revision, or of all others, in the order in which a ReplicaSet deletes them.

    That order is: pods that are not ready, then pods on nodes with more pods of the workload, then the newest.
    """
    candidates = [pod for pod in pods if (pod.revision != revision) is old]
    return sorted(candidates, key=lambda pod: (pod.ready, -pods.on_node[pod.node], -pod.number))


def _names(pods: Iterable[PodStatus]) -> tuple[str, ...]:
    return tuple(pod.name for pod in pods)
