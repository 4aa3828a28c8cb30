"""The next step of a StatefulSet: which pods to create and which to delete, as a function of the pods that exist.

Counterpart: the StatefulSet controller. Ordered, it takes one step at a time and waits until that is done.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Replica:
    """A pod of the set, as the controller sees it. ``gone``: it terminates, or its containers have failed."""

    name: str
    revision: int
    available: bool
    gone: bool = False


@dataclass(frozen=True, slots=True)
class SetStep:
    """The ordinals of the pods to create, and the names of those to delete."""

    create: tuple[int, ...] = ()
    delete: tuple[str, ...] = ()


def next_set_step(
    pods: Mapping[int, Replica],
    replicas: int,
    revision: int,
    *,
    ordered: bool,
    unavailable: int = 1,
    partition: int = 0,
) -> SetStep:
    """Return the step that the controller takes now. It is empty if it waits for a pod to change.

    ``pods`` are by ordinal. Pods come from the lowest ordinal on, and go from the highest on. An update replaces those
    from ``partition`` on, from the highest on, as long as at most ``unavailable`` of them are not available.
    """
    missing = [ordinal for ordinal in range(replicas) if ordinal not in pods]
    surplus = [pods[ordinal] for ordinal in sorted(pods, reverse=True) if ordinal >= replicas]
    if ordered:
        for ordinal in range(replicas):
            pod = pods.get(ordinal)
            if pod is None:
                return SetStep(create=(ordinal,))
            if pod.gone or not pod.available:
                return SetStep()  # a pod that never becomes ready stops everything, an update to better ones too
        if surplus:
            return SetStep(delete=() if surplus[0].gone else (surplus[0].name,))
    outdated = _outdated(pods, range(partition, replicas), revision, unavailable)
    going = () if ordered else (pod.name for pod in surplus if not pod.gone)
    return SetStep(tuple(missing), (*going, *outdated))


def _outdated(pods: Mapping[int, Replica], updated: range, revision: int, unavailable: int) -> Iterator[str]:
    """Yield the pods that an update deletes now."""
    left = unavailable
    for ordinal in reversed(updated):
        pod = pods.get(ordinal)
        if left == 0:
            return
        if pod is None or pod.gone:
            left -= 1
        elif pod.revision != revision:
            left -= 1
            yield pod.name
        elif not pod.available:
            left -= 1
