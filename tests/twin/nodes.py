"""Nodes, their Node objects, and the node lifecycle controller."""

from collections.abc import Callable
from typing import Any

from twin.clock import STORE, WORLD, Action, Clock, S
from twin.pods import Pod, PodStore, Seen, Status

#: the autoscaler's taint, which ends a node's eligibility (CP-14.2)
MARK = "ToBeDeletedByClusterAutoscaler"


class Nodes:
    """What is known of each node: whether it has power, its taints, and what bars the scheduler from it.

    ``changed`` are told of a Node object that was written (its own kube-proxy watches it: CP-14.2).
    """

    def __init__(self, clock: Clock, document: dict[str, Any]) -> None:
        self._clock = clock
        self.names: list[str] = [node["name"] for node in document["nodes"]["list"]]
        self.zones = {node["name"]: node.get("zone") for node in document["nodes"]["list"]}
        self.barred: dict[str, set[str]] = {name: set() for name in self.names}
        self.down_at: dict[str, int | None] = dict.fromkeys(self.names)
        self.taints: dict[str, set[str]] = {name: set() for name in self.names}
        self.changed: list[Callable[[str], None]] = []

    def eligible(self, node: str) -> bool:
        """Whether load balancers may use the node (CP-14.2)."""
        return MARK not in self.taints[node]

    def cut(self, node: str) -> bool:
        """Take the node's power, and tell whether it had any."""
        if self.down_at[node] is not None:
            return False
        self.down_at[node] = self._clock.now
        self.barred[node].add("off")
        return True

    def write(self, node: str, change: Action) -> None:
        """Someone changes the Node object."""

        def arrive() -> None:
            change()
            for tell in self.changed:
                tell(node)

        self._clock.after(self._clock.delays["apiWrite"], STORE, arrive)


class NodeLifecycle:
    """The node lifecycle controller. It flips the pods of a silent node to unready (CP-2.9) and later evicts them (CP-2.9.1).

    ``evict`` asks for the deletion of a node's pods.
    """

    def __init__(self, clock: Clock, nodes: Nodes, store: PodStore, evict: Callable[[str], None]) -> None:
        self._clock, self._nodes, self._store, self._evict = clock, nodes, store, evict

    def miss(self, node: str) -> None:
        """The node is silent from now on."""
        since = self._nodes.down_at[node]

        def still() -> bool:
            return self._nodes.down_at[node] == since

        def lost() -> None:
            if still():
                for pod in self._store.pods:
                    if pod.node == node and pod.serves_api:
                        self._flip(pod)
                self._clock.after(self._clock.delays["unreachableToleration"], WORLD, evict)

        def evict() -> None:
            if still():
                self._evict(node)

        self._clock.after(self._clock.delays["nodeMonitorGrace"], STORE, lost)

    def _flip(self, pod: Pod) -> None:
        pod.kubelet = status = Status(True, False, self._clock.now // S)

        def arrive() -> None:
            if pod.api is not None:
                self._store.store(pod, Seen(status, pod.api.terminating))

        self._clock.after(self._clock.delays["apiWrite"], STORE, arrive, pod.order)
