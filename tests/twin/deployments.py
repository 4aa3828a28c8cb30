"""Deployments: how many pods there are, of which revision, and where."""

from collections import Counter
from fractions import Fraction
from math import ceil, floor
from typing import Any

from twin.kubelets import Kubelets
from twin.nodes import Nodes
from twin.pods import Pod, PodStore


class Deployments:
    """The Deployment and ReplicaSet controllers and the scheduler, as far as they cause pod changes (CP-1.1, CP-2.8).

    ``wanted`` and ``revision`` are by workload; ``shares`` holds maxSurge and maxUnavailable of the last rollout.
    """

    def __init__(self, document: dict[str, Any], nodes: Nodes, store: PodStore, kubelets: Kubelets) -> None:
        self._nodes, self._store, self._kubelets = nodes, store, kubelets
        self.workloads = {workload["name"]: workload for workload in document["workloads"]}
        self.wanted = {name: int(workload["replicas"]) for name, workload in self.workloads.items()}
        self.revision: Counter[str] = Counter()
        self.shares: dict[str, tuple[Any, Any]] = {}
        self._made: Counter[str] = Counter()
        store.stored.append(lambda pod: self.level(pod.workload["name"]))

    def _fleet(self, workload: str) -> list[Pod]:
        return [p for p in self._store.pods if p.workload["name"] == workload and not p.asked and not p.gone]

    def place(self, workload: str) -> Pod | None:
        """Make a pod on the node with the fewest of the workload, if a node is open."""
        taken = Counter(pod.node for pod in self._fleet(workload))
        names = self._nodes.names
        fit = [node for node in names if not self._nodes.barred[node]]
        if not fit:
            return None
        node = min(fit, key=lambda name: (taken[name], names.index(name)))
        self._made[workload] += 1
        number, order = self._made[workload], 1 + list(self.workloads).index(workload)
        pod = Pod(f"{workload}-{number}", self.workloads[workload], node, number, order, self.revision[workload])
        self._store.pods.append(pod)
        return pod

    def level(self, workload: str) -> None:
        """Take the next step of a Deployment: one ReplicaSet of the newest revision, and the pods of all older ones."""
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
                budget = max(len(pods) - least - sum(not pod.serves_api for pod in new), 0)
                broken = [pod for pod in old if not pod.serves_api][:budget]
                spare = min(budget - len(broken), sum(pod.serves_api for pod in pods) - least)
                doomed = broken + [pod for pod in old if pod.serves_api][: max(spare, 0)]
        for pod in doomed:
            self._kubelets.delete(pod)
        for _ in range(missing):
            made = self.place(workload)
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

    def clear(self, node: str) -> None:
        """Ask for the deletion of all pods of the node."""
        for pod in [pod for pod in self._store.on(node) if not pod.asked]:
            self._kubelets.delete(pod)
