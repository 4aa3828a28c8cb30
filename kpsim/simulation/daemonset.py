"""The next step of a DaemonSet: on which nodes to create a pod and which pods to delete, as a function of the pods that exist.

Counterpart: the DaemonSet controller. A node keeps one pod; an update goes from node to node.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Daemon:
    """A pod of the set, as the controller sees it. ``gone``: it terminates; until its object is gone it holds its node."""

    name: str
    node: str
    revision: int
    number: int  #: order of creation
    available: bool
    gone: bool = False


@dataclass(frozen=True, slots=True)
class DaemonStep:
    """The nodes that get a pod, and the names of the pods to delete."""

    create: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()


def next_daemon_step(
    pods: Iterable[Daemon],
    nodes: Sequence[str],
    revision: int,
    *,
    surge: int = 0,
    unavailable: int = 1,
    closed: Collection[str] = (),
) -> DaemonStep:
    """Return the step that the controller takes now. It is empty if it waits for a pod to change.

    ``nodes`` are to have a pod each, and are updated in this order; ``closed`` are those where none can be made now.
    Old pods that are not available are replaced at once.
    Without ``surge`` an update deletes old pods as long as at most ``unavailable`` nodes are without an available pod, and a
    node gets its new pod when the old one is gone. With ``surge`` at most so many nodes have a new pod beside an available old
    one, which is deleted once the new one is available.
    """
    held: dict[str, list[Daemon]] = {node: [] for node in nodes}
    for pod in sorted(pods, key=lambda pod: pod.number):
        held.setdefault(pod.node, []).append(pod)
    live = {node: [pod for pod in here if not pod.gone] for node, here in held.items()}
    create = [node for node in nodes if not held[node] and node not in closed]
    if not surge:
        # of several pods on a node the oldest stays
        delete = [pod.name for here in live.values() for pod in here[1:]]
        kept = [here[0] for here in live.values() if here]
        delete += _outdated(kept, len(live) - len(kept), revision, unavailable)
        return DaemonStep(tuple(create), tuple(delete))
    delete = []
    beside = 0  #: nodes with a new pod that is not available yet
    urgent: list[str] = []  #: their old pod is not available anyway
    candidates: list[str] = []
    for node, here in live.items():
        new = [pod for pod in here if pod.revision == revision]
        old = [pod for pod in here if pod.revision != revision]
        delete += [pod.name for pod in (*new[1:], *old[1:])]
        may_come = node in nodes and node not in closed
        if new:
            if new[0].available:
                delete += [pod.name for pod in old[:1]]
            else:
                beside += bool(old)
        elif old and may_come:
            (candidates if old[0].available else urgent).append(node)
        elif old and node not in nodes and not old[0].available:
            delete.append(old[0].name)
    return DaemonStep((*create, *urgent, *candidates[: max(0, surge - beside)]), tuple(delete))


def _outdated(kept: Sequence[Daemon], missing: int, revision: int, unavailable: int) -> list[str]:
    """Return the old pods that an update deletes now. ``missing`` nodes have no pod, or one that terminates."""
    broken = [pod for pod in kept if not pod.available]
    room = max(0, unavailable - missing - len(broken))
    healthy = [pod.name for pod in kept if pod.available and pod.revision != revision]
    return [pod.name for pod in broken if pod.revision != revision] + healthy[:room]
