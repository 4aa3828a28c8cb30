"""Pods, and what the API server has of them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from twin.clock import NEVER, SEE, Clock, ns


class Status(NamedTuple):
    """What matters of a pod's status: an address, Ready, and the whole second of its last change (None: no condition).

    Seconds are whole, since serialised times are (CP-2.10).
    """

    address: bool = False
    ready: bool = False
    second: int | None = None


class Seen(NamedTuple):
    """One version of a pod in the API."""

    status: Status
    terminating: bool


class Pod:
    """One pod: what its kubelet knows, and the version that the API server has (CP-2.7: the second follows the first)."""

    def __init__(self, name: str, workload: dict[str, Any], node: str, number: int, order: int, revision: int) -> None:
        self.name, self.workload, self.node, self.number = name, workload, node, number
        self.order = order  # of plans for one instant: workloads that stand earlier in the file come first
        self.revision = revision
        self.kubelet = Status()
        self.api: Seen | None = None
        self.asked = False  # its deletion was asked for
        self.up = True  # its sandbox has power
        self.answers = self.shedding = self.quitting = False
        self.turn = 0  # plans of an earlier turn are void
        self.created = self.busy_until = 0
        self.power_lost = NEVER
        self.gone = False
        self.ordinal: int | None = None  # of a StatefulSet's pod
        self.contained = False  # its containers are ready
        self.gates: int | None = None  # when its readiness gates open; None: not decided yet
        self.ripens: int | None = None  # when it will have been ready for minReadySeconds; None: it is not ready
        self.ripe = False

    @property
    def serves_api(self) -> bool:
        """Whether the API server has it as ready."""
        return self.api is not None and self.api.status.ready

    @property
    def available(self) -> bool:
        """Whether it has been ready for minReadySeconds, as the controllers have noticed."""
        return self.serves_api and self.ripe


class PodStore:
    """The API server's pods. It takes versions and tells who watches (CP-1.1, CP-5.1).

    ``stored`` are told at once, ``seen`` after the controllers' watch delay, with the version before and the new one.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.pods: list[Pod] = []
        self.versions: list[tuple[int, str, bool, bool | None, bool]] = []
        self.stored: list[Callable[[Pod], None]] = []
        self.seen: list[Callable[[Pod, Seen | None, Seen | None], None]] = []

    def store(self, pod: Pod, version: Seen | None) -> None:
        """Take a version of a pod. None removes it."""
        old, pod.api = pod.api, version
        if version is not None and version.status.ready != (old is not None and old.status.ready):
            wait = ns(pod.workload.get("minReady", 0))
            pod.ripe = version.status.ready and not wait
            pod.ripens = self._clock.now + wait if version.status.ready else None
            if pod.ripens is not None and wait:
                self._clock.at(pod.ripens, SEE, partial(self._ripen, pod, pod.ripens), pod.order)
        if version is not None:
            ready = version.status.ready if version.status.second is not None else None
            self.versions.append((self._clock.now, pod.name, version.status.address, ready, version.terminating))
        for see in self.seen:
            self._clock.after(self._clock.delays["controllerWatch"], SEE, lambda see=see: see(pod, old, version))  # type: ignore[misc]
        for tell in self.stored:
            tell(pod)

    def _ripen(self, pod: Pod, time: int) -> None:
        """The pod becomes available, unless it has not been ready all the while."""
        if pod.api is not None and pod.ripens == time:
            pod.ripe = True
            for tell in self.stored:
                tell(pod)

    def on(self, node: str) -> list[Pod]:
        """The node's pods that are not removed."""
        return [pod for pod in self.pods if pod.node == node and not pod.gone]
