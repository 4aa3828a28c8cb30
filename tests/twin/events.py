"""The events of a scenario file: each tells the parts of the model what happens to them."""

from functools import partial
from typing import Any

from twin.clock import SEE, STORE, WORLD, Clock, ns
from twin.controller import EndpointSliceController
from twin.deployments import Deployments
from twin.kubelets import Kubelets
from twin.nodes import NodeLifecycle, Nodes
from twin.pods import Pod, PodStore
from twin.proxies import Proxies

Body = dict[str, Any]


class WorkloadEvents:
    """What happens to workloads and their pods (CP-2, CP-2.8)."""

    def __init__(
        self, clock: Clock, nodes: Nodes, store: PodStore, kubelets: Kubelets, deployments: Deployments
    ) -> None:
        self._clock, self._nodes, self._store = clock, nodes, store
        self._kubelets, self._deployments = kubelets, deployments
        self.kinds = {
            "scale": self._scale, "rollout": self._rollout, "crash": self._crash, "deletePods": self._delete_pods,
            "readiness": self._readiness,
        }  # fmt: skip

    def _chosen(self, event: Body, shedding: bool | None = None) -> list[Pod]:
        """The first pods, up to the event's count, that serve on the event's nodes."""
        pods = [
            pod
            for pod in self._store.pods
            if pod.workload["name"] == event["workload"]
            and pod.answers
            and not pod.asked
            and pod.node in (event.get("nodes") or self._nodes.names)
            and shedding in (None, pod.shedding)
        ]
        return pods[: event.get("count", 1)]

    def _scale(self, event: Body) -> None:
        self._deployments.wanted[event["workload"]] = event["replicas"]
        self._deployments.act(event["workload"])

    def _rollout(self, event: Body) -> None:
        self._deployments.revision[event["workload"]] += 1
        self._deployments.shares[event["workload"]] = event.get("maxSurge", 0), event.get("maxUnavailable", 1)
        self._deployments.partition[event["workload"]] = event.get("partition", 0)
        self._deployments.act(event["workload"])

    def _crash(self, event: Body) -> None:
        for pod in self._chosen(event):
            self._kubelets.crash(pod, event.get("restarts", True))

    def _delete_pods(self, event: Body) -> None:
        for pod in self._chosen(event):
            self._kubelets.delete(pod, event.get("force", False))

    def _readiness(self, event: Body) -> None:
        passes = event.get("ready", False)
        for pod in self._chosen(event, shedding=passes):
            self._kubelets.shed(pod, not passes)
            if "for" in event:
                self._clock.after(ns(event["for"]), WORLD, partial(self._kubelets.shed, pod, passes))


class NodeEvents:
    """What happens to nodes and their Node objects (CP-2.9, CP-14.2)."""

    def __init__(
        self,
        clock: Clock,
        nodes: Nodes,
        lifecycle: NodeLifecycle,
        kubelets: Kubelets,
        deployments: Deployments,
        proxies: Proxies,
    ) -> None:
        self._clock = clock
        self._nodes, self._lifecycle, self._kubelets = nodes, lifecycle, kubelets
        self._deployments, self._proxies = deployments, proxies
        self.kinds = {
            "nodeDown": self._node_down, "nodeUp": self._node_up, "taintNode": self._taint, "untaintNode": self._untaint,
            "cordon": self._cordon, "uncordon": self._uncordon, "drain": self._drain, "reboot": self._reboot,
        }  # fmt: skip

    def _node_down(self, event: Body) -> None:
        for node in event["nodes"]:
            if self._nodes.cut(node):
                self._proxies.stop(node)
                self._kubelets.lose_power(node)
                self._lifecycle.miss(node)

    def _reboot(self, event: Body) -> None:
        node = event["node"]
        if self._nodes.down_at[node] is not None:
            return
        self._node_down({"nodes": [node]})
        since = self._nodes.down_at[node]

        def back() -> None:
            if self._nodes.down_at[node] == since:
                self._node_up({"nodes": [node]})

        self._clock.after(ns(event["takes"]), WORLD, back)

    def _node_up(self, event: Body) -> None:
        for node in event["nodes"]:
            if self._nodes.down_at[node] is None:
                continue
            self._nodes.down_at[node] = None
            self._kubelets.regain_power(node)
            self._deployments.open(node, "off")
            self._proxies.start(node)

    def _taint(self, event: Body) -> None:
        node, key = event["node"], event["key"]

        def change() -> None:
            self._nodes.taints[node].add(key)
            self._nodes.barred[node].add(key)

        self._nodes.write(node, change)

    def _untaint(self, event: Body) -> None:
        node, key = event["node"], event["key"]

        def change() -> None:
            self._nodes.taints[node].discard(key)
            self._deployments.open(node, key)

        self._nodes.write(node, change)

    def _cordon(self, event: Body) -> None:
        self._nodes.write(event["node"], lambda: self._nodes.barred[event["node"]].add("cordon"))

    def _uncordon(self, event: Body) -> None:
        self._nodes.write(event["node"], lambda: self._deployments.open(event["node"], "cordon"))

    def _drain(self, event: Body) -> None:
        def change() -> None:
            self._nodes.barred[event["node"]].add("cordon")
            self._deployments.drain(event["node"])

        self._nodes.write(event["node"], change)


class ProxyEvents:
    """What happens to kube-proxies and to the Services that they and the controller watch (CP-7, CP-12, CP-13)."""

    def __init__(self, clock: Clock, nodes: Nodes, controller: EndpointSliceController, proxies: Proxies) -> None:
        self._clock, self._nodes, self._controller, self._proxies = clock, nodes, controller, proxies
        self.kinds = {
            "patchService": self._patch_service, "restartProxy": self._restart, "failSyncs": self._fail_syncs,
        }  # fmt: skip

    def _patch_service(self, event: Body) -> None:
        def arrive() -> None:
            watch = self._clock.delays["controllerWatch"]
            self._clock.after(watch, SEE, lambda: self._controller.add(event["service"]))
            self._proxies.service_stored()

        self._clock.after(self._clock.delays["apiWrite"], STORE, arrive)

    def _restart(self, event: Body) -> None:
        for node in event.get("nodes") or self._nodes.names:
            self._proxies.restart(node, ns(event["down"]))

    def _fail_syncs(self, event: Body) -> None:
        for node in event.get("nodes") or self._nodes.names:
            if "for" in event:
                self._proxies.fail_for(node, ns(event["for"]))
            else:
                self._proxies.fail_next(node, event["count"])
