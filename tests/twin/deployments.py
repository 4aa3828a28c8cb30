"""Deployments and StatefulSets: how many pods there are, of which revision, and where; and drains of nodes."""

from collections import Counter
from fractions import Fraction
from math import ceil, floor
from typing import Any

from twin.clock import SEE, WORLD, Clock, S
from twin.kubelets import Kubelets
from twin.nodes import Nodes
from twin.pods import Pod, PodStore


class Deployments:
    """The Deployment and ReplicaSet controllers and the scheduler, as far as they cause pod changes (CP-1.1, CP-2.8).

    ``wanted`` and ``revision`` are by workload; ``shares`` holds maxSurge and maxUnavailable of the last rollout.
    """

    def __init__(
        self, clock: Clock, document: dict[str, Any], nodes: Nodes, store: PodStore, kubelets: Kubelets
    ) -> None:
        self._clock, self._nodes, self._store, self._kubelets = clock, nodes, store, kubelets
        self.workloads = {workload["name"]: workload for workload in document["workloads"]}
        self.wanted = {name: int(workload["replicas"]) for name, workload in self.workloads.items()}
        self.revision: Counter[str] = Counter()
        self.shares: dict[str, tuple[Any, Any]] = {}
        self._made: Counter[str] = Counter()
        self.partition: Counter[str] = Counter()
        store.stored.append(lambda pod: self.act(pod.workload["name"]))

    def act(self, workload: str) -> None:
        """Have the workload's controllers act, after their delay."""
        delay = self._clock.delays["workloadController"]
        order = 1 + list(self.workloads).index(workload)
        self._clock.after(delay, SEE, lambda: self.level(workload), order) if delay else self.level(workload)

    def _fleet(self, workload: str) -> list[Pod]:
        return [p for p in self._store.pods if p.workload["name"] == workload and not p.asked and not p.gone]

    def place(self, workload: str, ordinal: int | None = None) -> Pod | None:
        """Make a pod on the node with the fewest of the workload, if a node is open."""
        taken = Counter(pod.node for pod in self._fleet(workload))
        names = self._nodes.names
        fit = [node for node in names if not self._nodes.barred[node]]
        if not fit:
            return None
        node = min(fit, key=lambda name: (taken[name], names.index(name)))
        self._made[workload] += 1
        number, order = self._made[workload], 1 + list(self.workloads).index(workload)
        last = number if ordinal is None else ordinal
        revision = self.revision[workload]
        if ordinal is not None and ordinal < self.partition[workload]:
            revision -= 1  # it stays what it was before the last rollout
        pod = Pod(f"{workload}-{last}", self.workloads[workload], node, number, order, revision)
        pod.ordinal = ordinal
        self._store.pods.append(pod)
        return pod

    def level(self, workload: str) -> None:
        """Take the next step of a Deployment: one ReplicaSet of the newest revision, and the pods of all older ones."""
        if self.workloads[workload].get("kind") == "StatefulSet":
            self._level_set(workload)
            return
        pods, wanted = self._fleet(workload), self.wanted[workload]
        crowd = Counter(pod.node for pod in pods)
        # a ReplicaSet's order of deletion
        ranked = sorted(pods, key=lambda p: (p.serves_api, -crowd[p.node], -p.number))
        new = [pod for pod in ranked if pod.revision == self.revision[workload]]
        old = [pod for pod in ranked if pod.revision != self.revision[workload]]
        doomed = new[: max(len(new) - wanted, 0)]
        missing = 0
        if not doomed:
            surge, unavailable = self._fenceposts(workload) if old else (0, 0)
            missing = max(min(wanted - len(new), wanted + surge - len(pods)), 0)
            if old:
                least = wanted - unavailable
                budget = max(len(pods) - least - sum(not pod.available for pod in new), 0)
                broken = [pod for pod in old if not pod.available][:budget]
                spare = min(budget - len(broken), sum(pod.available for pod in pods) - least)
                doomed = broken + [pod for pod in old if pod.available][: max(spare, 0)]
        for pod in doomed:
            self._kubelets.delete(pod)
        for _ in range(missing):
            made = self.place(workload)
            if made is not None:
                self._kubelets.create(made)

    def _level_set(self, workload: str) -> None:
        """Take the next step of a StatefulSet, one pod at a time unless it says Parallel; updates begin with the last."""
        wanted = self.wanted[workload]
        pods = {p.ordinal: p for p in self._store.pods if p.workload["name"] == workload and not p.gone}
        ordered = self.workloads[workload].get("podManagementPolicy") != "Parallel"
        healthy = {n for n, pod in pods.items() if pod.available and not pod.asked}
        create = [n for n in range(wanted) if n not in pods]
        doomed = [pods[n] for n in sorted((n for n in pods if n is not None and n >= wanted), reverse=True)]
        if ordered:
            first = next((n for n in range(wanted) if n not in healthy), None)
            if first is not None:
                create, doomed = ([first] if first not in pods else []), []
            else:
                doomed = doomed[:1]
        if not ordered or (not doomed and not create and set(range(wanted)) <= healthy):
            share = self.shares.get(workload, (0, 1))[1]
            room = max(1, share if isinstance(share, int) else floor(Fraction(int(share[:-1]), 100) * wanted))
            for n in reversed(range(self.partition[workload], wanted)):
                old = n in pods and not pods[n].asked and pods[n].revision != self.revision[workload]
                if room and old:
                    doomed.append(pods[n])
                room -= bool(room) and (old or n not in healthy)
        for pod in doomed:
            if not pod.asked:
                self._kubelets.delete(pod)
        for n in create:
            made = self.place(workload, n)
            if made is not None:
                self._kubelets.create(made)

    def _fenceposts(self, workload: str) -> tuple[int, int]:
        """maxSurge, rounded up, and maxUnavailable, rounded down; one of them is at least 1."""
        wanted = self.wanted[workload]
        surge, unavailable = (
            share if isinstance(share, int) else Fraction(int(share[:-1]), 100) * wanted
            for share in self.shares[workload]
        )
        found = ceil(surge), floor(unavailable)
        return found if any(found) else (0, 1)

    def open(self, node: str, why: str) -> None:
        """One reason that barred the node is over: pods that found no place may have one now."""
        self._nodes.barred[node].discard(why)
        for workload in self.workloads:
            self.level(workload)

    def drain(self, node: str, pods: list[Pod] | None = None) -> None:
        """Evict the node's pods, as their disruption budgets allow it; try the others again after five seconds."""
        left = []
        for pod in self._store.on(node) if pods is None else pods:
            budget = pod.workload.get("disruptionBudget")
            ready = sum(other.serves_api for other in self._fleet(pod.workload["name"]))
            least = 0 if budget is None else max(self.wanted[pod.workload["name"]] - budget["maxUnavailable"], 0)
            spare = ready > least or (not pod.serves_api and 0 < least <= ready)
            if pod.asked or pod.gone:
                continue
            if budget is None or spare:
                self._kubelets.delete(pod)
            else:
                left.append(pod)
        if left:
            self._clock.after(5 * S, WORLD, lambda: self.drain(node, left), 0)

    def clear(self, node: str) -> None:
        """Ask for the deletion of all pods of the node."""
        for pod in [pod for pod in self._store.on(node) if not pod.asked]:
            self._kubelets.delete(pod)
