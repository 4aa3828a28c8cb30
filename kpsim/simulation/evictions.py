"""Evictions: what a disruption budget allows, and drains that wait for it.

Counterpart: the Eviction API with the disruption controller, and ``kubectl drain``. A refused eviction is tried again
every 5 s, and kubectl looks once a second whether the evicted pods are gone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from kpsim.objects import ObjectKey
from kpsim.scenario.workload_schema import DisruptionBudget, Kind
from kpsim.simulation.clock import Clock, Rank
from kpsim.simulation.podlife import PodLife
from kpsim.simulation.rollout import resolve_share
from kpsim.simulation.runlog import Happening, HappeningKind, RunLog
from kpsim.simulation.workloads import Workloads
from kpsim.units import SECOND_NS

#: of kubectl: until it tries a refused eviction again, and between its looks at evicted pods
RETRY_NS, LOOK_NS = 5 * SECOND_NS, SECOND_NS


def wanted_healthy(budget: DisruptionBudget, replicas: int) -> int:
    """Return how many ready pods the budget wants to be left. Percentages are rounded up."""
    if budget.min_available is not None:
        return resolve_share(budget.min_available, replicas, round_up=True)
    assert budget.max_unavailable is not None
    return max(0, replicas - resolve_share(budget.max_unavailable, replicas, round_up=True))


def may_evict(budget: DisruptionBudget, *, ready: bool, healthy: int, replicas: int) -> bool:
    """Return whether a pod may be evicted now. ``healthy`` counts the pods that are ready and not terminating."""
    wanted = wanted_healthy(budget, replicas)
    if not ready and (budget.unhealthy_pod_eviction_policy == "AlwaysAllow" or 0 < wanted <= healthy):
        return True
    return healthy > wanted


@dataclass(slots=True, eq=False)
class _Drain:
    """A drain under way."""

    node: str
    pods: dict[ObjectKey, PodLife]  #: those that were on the node when it began
    done: Callable[[], None]  #: called when the pods are gone, or kubectl has given up
    over: bool = False
    refused: set[ObjectKey] = field(default_factory=set)  #: pods of which a refusal was told


class Drains:
    """All drains of a run. The caller has cordoned the node, so that no pod comes to it."""

    def __init__(self, clock: Clock, workloads: Workloads, log: RunLog) -> None:
        self._clock = clock
        self._workloads = workloads
        self._log = log

    def start(self, node: str, timeout_ns: int | None, done: Callable[[], None]) -> None:
        """Evict the pods of a node now, or once their budgets allow it. ``done`` is called at the end of the drain.

        Pods of a DaemonSet stay.
        """
        pods = self._workloads.kubelets.on_node(node)
        evicted = (pod for pod in pods if pod.workload.kind is not Kind.DAEMON_SET)  # --ignore-daemonsets
        drain = _Drain(node, {pod.key: pod for pod in evicted}, done)
        self._evict(drain)
        self._look(drain)
        if timeout_ns is not None and not drain.over:
            self._later(drain, timeout_ns, self._give_up)

    def _evict(self, drain: _Drain) -> None:
        """Try to evict every pod that is left. Those that are refused are tried again later."""
        waiting = [pod for pod in drain.pods.values() if not pod.terminating]
        evicted = [pod for pod in waiting if self._evicted(drain, pod)]
        if evicted or not waiting:
            self._tell(HappeningKind.PODS_EVICTED, drain.node, f"{len(evicted)} pods, drain")
        if len(evicted) < len(waiting):
            self._later(drain, RETRY_NS, self._evict)

    def _evicted(self, drain: _Drain, pod: PodLife) -> bool:
        workload, kubelets = pod.workload, self._workloads.kubelets
        budget = workload.disruption_budget
        if budget is not None:
            healthy, replicas = kubelets.fleet(workload.name).ready, self._workloads.replicas(workload.name)
            if not may_evict(budget, ready=pod.told.ready, healthy=healthy, replicas=replicas):
                if pod.key not in drain.refused:
                    drain.refused.add(pod.key)
                    why = f"{drain.node}: its budget keeps {wanted_healthy(budget, replicas)} pods ready, {healthy} are"
                    self._tell(HappeningKind.EVICTION_REFUSED, f"{workload.namespace}/{pod.name}", why)
                return False
        kubelets.delete(pod)
        return True

    def _look(self, drain: _Drain) -> None:
        """See whether the pods' objects are gone."""
        if self._left(drain):
            self._later(drain, LOOK_NS, self._look)
        else:
            self._finish(drain, HappeningKind.DRAIN_DONE)

    def _give_up(self, drain: _Drain) -> None:
        left = self._left(drain)
        self._finish(drain, HappeningKind.DRAIN_GAVE_UP, f"{left} pod{' is' if left == 1 else 's are'} left")

    def _left(self, drain: _Drain) -> int:
        known = self._workloads.kubelets.pods
        return sum(known.get(key) is pod for key, pod in drain.pods.items())

    def _finish(self, drain: _Drain, kind: HappeningKind, detail: str = "") -> None:
        drain.over = True
        self._tell(kind, drain.node, detail)
        drain.done()

    def _later(self, drain: _Drain, after_ns: int, action: Callable[[_Drain], None]) -> None:
        def act() -> None:
            if not drain.over:
                action(drain)

        self._clock.at(self._clock.now_ns + after_ns, Rank.WORLD, f"node {drain.node}", act)

    def _tell(self, kind: HappeningKind, subject: str, detail: str) -> None:
        self._log.happenings.append(Happening(self._clock.now_ns, kind, subject, detail))
