"""What a Deployment does next: how many pods to create and which to delete, as a function of what there is.

Counterpart: the deployment and replica set controllers' RollingUpdate arithmetic. It never knows nodes, time, or Services.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PodStatus:
    """A pod that is not terminating, as the controller sees it."""

    name: str
    node: str
    revision: int
    ready: bool
    number: int  #: order of creation


@dataclass(frozen=True, slots=True)
class Step:
    """Pods to create of the newest revision, and names to delete."""

    create: int = 0
    delete: tuple[str, ...] = ()


def resolve_share(share: int | str, replicas: int, *, round_up: bool) -> int:
    """A number of pods, or a percentage of ``replicas``: maxSurge rounds up, maxUnavailable down."""
    if isinstance(share, int):
        return share
    hundredths = int(share.removesuffix("%")) * replicas
    return -(-hundredths // 100) if round_up else hundredths // 100


@dataclass(frozen=True, slots=True)
class Strategy:
    """RollingUpdate in numbers of pods; both zero would never move, so one pod may then be unavailable."""

    surge: int
    unavailable: int

    @classmethod
    def of(cls, max_surge: int | str, max_unavailable: int | str, replicas: int) -> "Strategy":
        surge = resolve_share(max_surge, replicas, round_up=True)
        unavailable = resolve_share(max_unavailable, replicas, round_up=False)
        return cls(surge, unavailable if surge or unavailable else 1)


def next_step(pods: Sequence[PodStatus], replicas: int, revision: int, strategy: Strategy) -> Step:
    """The step that the controllers take now; empty when nothing is to be done until a pod changes.

    New pods come as far as ``replicas`` + surge allows. Old ones go if they are not ready anyway, or as long as at least
    ``replicas`` − unavailable pods stay ready.
    """
    new = [pod for pod in pods if pod.revision == revision]
    old = [pod for pod in pods if pod.revision != revision]
    if len(new) > replicas:
        return Step(delete=_names(_victims(new, pods), len(new) - replicas))
    room = replicas + (strategy.surge if old else 0) - len(pods)
    create = max(0, min(replicas - len(new), room))
    if not old:
        return Step(create)
    least_ready = replicas - strategy.unavailable
    ready = sum(pod.ready for pod in pods)
    # old pods beyond what keeps the minimum, counting new pods that are not ready yet as missing
    unready_new = sum(not pod.ready for pod in new)
    may_go = max(0, len(pods) - least_ready - unready_new)
    victims = _victims(old, pods)
    broken = [pod for pod in victims if not pod.ready][:may_go]
    spare = max(0, min(may_go - len(broken), ready - least_ready))
    healthy = [pod for pod in victims if pod.ready][:spare]
    return Step(create, _names([*broken, *healthy], len(broken) + len(healthy)))


def _victims(candidates: Sequence[PodStatus], everybody: Sequence[PodStatus]) -> list[PodStatus]:
    """In the order in which a ReplicaSet gives pods up: not ready, then on fuller nodes, then the newest."""
    on_node = Counter(pod.node for pod in everybody)
    return sorted(candidates, key=lambda pod: (pod.ready, -on_node[pod.node], -pod.number))


def _names(pods: Sequence[PodStatus], most: int) -> tuple[str, ...]:
    return tuple(pod.name for pod in pods[:most])
